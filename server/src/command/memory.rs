//! `MEMORY`: <https://redis.io/docs/latest/commands/memory-stats/> and its kin. What the allocator does is its own affair;
//! what is told is what this server knows of its own.

use super::{Args, Flow, Result, ServerContext};
use crate::info;
use crate::replication::Backlog;

/// With less than so many bytes there is nothing to be said about.
const EMPTY_BYTES: u64 = 5 << 20;
/// The resident memory may be so many times what is used.
const FRAGMENTATION_MAX: f64 = 1.4;
/// The most that was ever used may be so many times what is used now.
const PEAK_MAX: f64 = 1.5;

pub(super) fn doctor(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    let instance = &*context.instance;
    let (used, resident) = (instance.used_memory(), info::resident_bytes());
    let text = if used < EMPTY_BYTES {
        "This instance is empty or uses very little memory: there is nothing to be found out about it.".to_owned()
    } else {
        let mut findings = Vec::new();
        if instance.peak_memory() as f64 / used as f64 > PEAK_MAX {
            findings.push(" * Peak memory: much more was used in the past than now.\n");
        }
        if resident as f64 / used as f64 > FRAGMENTATION_MAX {
            findings.push(" * Resident memory: the process occupies much more than its data take.\n");
        }
        match findings.is_empty() {
            true => "No memory problem was found in this instance.".to_owned(),
            false => format!("Something about this instance's memory is worth a look:\n\n{}", findings.concat()),
        }
    };
    context.reply().verbatim(text.as_bytes());
    Ok(Flow::Continue)
}

/// The allocator keeps no statistics that anybody could read.
pub(super) fn malloc_stats(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    context.reply().bulk(b"Stats not supported for the current allocator");
    Ok(Flow::Continue)
}

/// What is free goes back to the kernel by itself.
pub(super) fn purge(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    context.ok()
}

/// What one field of `MEMORY STATS` says.
enum Figure {
    Count(u64),
    Share(f64),
    /// Of one database: what its keys take beside their values, and beside those of others.
    Database(u64),
}

pub(super) fn stats(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    use Figure::{Count, Database, Share};
    let instance = &*context.instance;
    let keyspace = &instance.keyspace;
    let (used, peak, resident) = (instance.used_memory(), instance.peak_memory(), info::resident_bytes());
    let backlog = instance.replication.backlog.as_ref().map_or(0, Backlog::capacity);
    let (data, startup) = (keyspace.memory_bytes() as u64, instance.startup_bytes);
    let databases = || (0..keyspace.databases()).filter(|db| !keyspace.is_empty(*db));
    let keys: u64 = databases().map(|db| keyspace.len(db) as u64).sum();
    let overhead = used.saturating_sub(data);
    let share = |part: u64, whole: u64| Share(part as f64 * 100.0 / whole.max(1) as f64);
    let ratio = |part: u64, whole: u64| Share(part as f64 / whole.max(1) as f64);
    let mut figures = vec![
        ("peak.allocated".to_owned(), Count(peak)),
        ("total.allocated".into(), Count(used)),
        ("startup.allocated".into(), Count(startup)),
        ("replication.backlog".into(), Count(backlog)),
        ("clients.slaves".into(), Count(0)),
        ("clients.normal".into(), Count(instance.client_bytes)),
        ("cluster.links".into(), Count(0)),
        ("aof.buffer".into(), Count(0)),
        ("lua.caches".into(), Count(0)),
        ("functions.caches".into(), Count(0)),
    ];
    figures.extend(databases().map(|db| (format!("db.{db}"), Database(keyspace.table_bytes(db) as u64))));
    figures.extend([
        ("overhead.total".into(), Count(overhead)),
        ("keys.count".into(), Count(keys)),
        ("keys.bytes-per-key".into(), Count(used.saturating_sub(startup).checked_div(keys).unwrap_or(0))),
        ("dataset.bytes".into(), Count(data)),
        ("dataset.percentage".into(), share(data, used.saturating_sub(startup))),
        ("peak.percentage".into(), share(used, peak)),
        ("allocator.allocated".into(), Count(used)),
        ("allocator.active".into(), Count(resident)),
        ("allocator.resident".into(), Count(resident)),
        ("allocator-fragmentation.ratio".into(), Share(1.0)),
        ("allocator-fragmentation.bytes".into(), Count(0)),
        ("allocator-rss.ratio".into(), Share(1.0)),
        ("allocator-rss.bytes".into(), Count(0)),
        ("rss-overhead.ratio".into(), Share(1.0)),
        ("rss-overhead.bytes".into(), Count(0)),
        ("fragmentation".into(), ratio(resident, used)),
        ("fragmentation.bytes".into(), Count(resident.saturating_sub(used))),
    ]);
    let mut reply = context.reply();
    reply.map(figures.len());
    for (name, figure) in figures {
        reply.bulk(name.as_bytes());
        match figure {
            Count(count) => reply.integer(count as i64),
            Share(share) => reply.double(share),
            Database(table) => {
                let parts = [("main", table), ("expires", 0), ("slot-to-keys", 0)];
                reply.map(parts.len());
                for (part, bytes) in parts {
                    reply.bulk(format!("overhead.hashtable.{part}").as_bytes());
                    reply.integer(bytes as i64);
                }
            }
        }
    }
    Ok(Flow::Continue)
}
