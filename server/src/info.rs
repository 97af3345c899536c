//! `INFO`: <https://redis.io/docs/latest/commands/info/>. Fields have the names that `redis-cli`, Sentinel and client
//! libraries read; what this server has no notion of is left out.

use std::fmt::Write;

use crate::aof::State;
use crate::client::ClientKind;
use crate::instance::{Failover, Instance, Loading, REDIS_VERSION};
use crate::keyspace::lazily_freed;
use crate::replication::{Backlog, FeedState, Link, Role};

type Render = fn(&Instance, &mut String);

/// All sections, in the order in which they are shown.
const SECTIONS: [(&str, Render); 12] = [
    ("Server", server),
    ("Clients", clients),
    ("Memory", memory),
    ("Persistence", persistence),
    ("Stats", stats),
    ("Replication", replication),
    ("CPU", cpu),
    ("Commandstats", commands),
    ("Errorstats", errors),
    ("Latencystats", latencies),
    ("Cluster", cluster),
    ("Keyspace", keyspace),
];

/// The sections asked for (none: all), given in lower case.
pub fn render(instance: &Instance, wanted: &[String]) -> String {
    let everything =
        wanted.is_empty() || wanted.iter().any(|name| matches!(name.as_str(), "all" | "everything" | "default"));
    let really_everything = wanted.iter().any(|name| matches!(name.as_str(), "all" | "everything"));
    let mut text = String::new();
    for (name, render) in SECTIONS {
        let in_detail = matches!(name, "Commandstats" | "Latencystats");
        let everything = if in_detail { really_everything } else { everything };
        if everything || wanted.iter().any(|wanted| wanted.eq_ignore_ascii_case(name)) {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            let _ = write!(text, "# {name}\r\n");
            render(instance, &mut text);
        }
    }
    text
}

macro_rules! field {
    ($text:expr, $name:literal, $value:expr) => {
        // Writing to a String cannot fail.
        let _ = write!($text, concat!($name, ":{}\r\n"), $value);
    };
}

fn server(instance: &Instance, text: &mut String) {
    let uptime_s = (instance.now_ms - instance.started_ms).max(0) / 1000;
    field!(text, "redis_version", REDIS_VERSION);
    field!(text, "repld_version", env!("CARGO_PKG_VERSION"));
    field!(text, "redis_mode", "standalone");
    field!(text, "os", std::env::consts::OS);
    field!(text, "arch_bits", usize::BITS);
    field!(text, "multiplexing_api", "epoll");
    field!(text, "process_id", std::process::id());
    field!(text, "run_id", instance.run_id);
    field!(text, "tcp_port", instance.config.port);
    field!(text, "server_time_usec", instance.now_ms * 1000);
    field!(text, "uptime_in_seconds", uptime_s);
    field!(text, "uptime_in_days", uptime_s / 86_400);
    if let Some(shutdown) = &instance.shutdown {
        field!(text, "shutdown_in_milliseconds", (shutdown.deadline_ms - instance.now_ms).max(0));
    }
    field!(text, "hz", instance.config.hz);
    field!(text, "configured_hz", instance.config.hz);
    field!(text, "executable", std::env::current_exe().unwrap_or_default().display());
    field!(text, "config_file", instance.config.file().map(|file| file.display().to_string()).unwrap_or_default());
}

fn clients(instance: &Instance, text: &mut String) {
    let count = |kind| instance.clients.values().filter(|client| client.kind.get() == kind).count();
    field!(text, "connected_clients", count(ClientKind::Normal) + count(ClientKind::Subscriber));
    field!(text, "cluster_connections", 0);
    field!(text, "maxclients", instance.config.maxclients);
    field!(text, "blocked_clients", instance.blocked_clients());
    field!(text, "tracking_clients", instance.tracking.totals().clients);
    field!(text, "pubsub_clients", count(ClientKind::Subscriber));
}

fn memory(instance: &Instance, text: &mut String) {
    let data = instance.keyspace.memory_bytes();
    let backlog = instance.replication.backlog.as_ref().map_or(0, Backlog::capacity);
    let used = instance.used_memory();
    field!(text, "used_memory", used);
    field!(text, "used_memory_human", human(used));
    field!(text, "used_memory_rss", resident_bytes());
    let peak = instance.peak_memory();
    field!(text, "used_memory_peak", peak);
    field!(text, "used_memory_peak_human", human(peak));
    field!(text, "used_memory_peak_perc", format_args!("{:.2}%", used as f64 * 100.0 / peak.max(1) as f64));
    field!(text, "used_memory_overhead", used - data as u64);
    field!(text, "used_memory_startup", instance.startup_bytes);
    field!(text, "used_memory_dataset", data);
    field!(text, "mem_fragmentation_ratio", format_args!("{:.2}", resident_bytes() as f64 / used.max(1) as f64));
    field!(text, "mem_not_counted_for_evict", backlog);
    field!(text, "mem_clients_normal", instance.client_bytes);
    // What the backlog has grown by for a replica that is slow.
    field!(text, "mem_clients_slaves", backlog.saturating_sub(instance.config.repl_backlog_size));
    field!(text, "mem_aof_buffer", 0);
    field!(text, "mem_replication_backlog", backlog.min(instance.config.repl_backlog_size));
    field!(text, "mem_total_replication_buffers", backlog);
    field!(text, "mem_allocator", "mimalloc");
    let (pending, freed) = lazily_freed();
    field!(text, "lazyfree_pending_objects", pending);
    field!(text, "lazyfreed_objects", freed.saturating_sub(instance.stats.lazyfreed_before));
    field!(text, "maxmemory", instance.config.maxmemory);
    field!(text, "maxmemory_human", human(instance.config.maxmemory));
    field!(text, "maxmemory_policy", String::from_utf8_lossy(&maxmemory_policy(instance)));
}

fn maxmemory_policy(instance: &Instance) -> Vec<u8> {
    instance.config.get(&[b"maxmemory-policy"]).pop().map(|(_, value)| value).unwrap_or_default()
}

/// What the process occupies, as the kernel counts it; 0 if it does not say.
pub fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

/// What the process has of memory that is no file's, as the kernel counts it; 0 if it does not say.
pub fn own_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or_default();
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap_or(0);
    kib * 1024
}

fn human(bytes: u64) -> String {
    let units = [(1u64 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")];
    match units.iter().find(|(size, _)| bytes >= *size) {
        Some((size, unit)) => format!("{:.2}{unit}", bytes as f64 / *size as f64),
        None => format!("{bytes}B"),
    }
}

fn persistence(instance: &Instance, text: &mut String) {
    let (state, aof) = (&instance.persistence, &instance.aof);
    let serves_old_data = instance.loading.is_some_and(|loading| loading.serves_old_data);
    field!(text, "loading", u8::from(instance.loading.is_some() && !serves_old_data));
    field!(text, "async_loading", u8::from(serves_old_data));
    field!(text, "current_cow_size", instance.keyspace.walk_preimage_bytes());
    let (keys, met) = state.snapshot_keys;
    field!(text, "current_fork_perc", format!("{:.2}", met as f64 * 100.0 / keys.max(1) as f64));
    field!(text, "current_save_keys_processed", met);
    field!(text, "current_save_keys_total", keys);
    field!(text, "rdb_changes_since_last_save", state.dirty);
    let is_snapshot = state.snapshot_since_ms.is_some() && !aof.rewrite.is_some_and(|rewrite| rewrite.is_alone);
    field!(text, "rdb_bgsave_in_progress", u8::from(is_snapshot));
    field!(text, "rdb_last_save_time", state.last_save_s);
    field!(text, "rdb_last_bgsave_status", if state.failed { "err" } else { "ok" });
    field!(text, "rdb_last_bgsave_time_sec", state.last_duration_s.unwrap_or(-1));
    let since_s = |since_ms: Option<i64>| since_ms.map_or(-1, |since_ms| (instance.now_ms - since_ms) / 1000);
    let current_s = since_s(state.snapshot_since_ms.filter(|_| is_snapshot));
    field!(text, "rdb_current_bgsave_time_sec", current_s);
    field!(text, "rdb_saves", state.saves);
    // Nothing is copied because of a fork: these are the copies that writes have made before a snapshot's turn.
    field!(text, "rdb_last_cow_size", state.last_preimage_bytes);
    field!(text, "rdb_last_load_keys_expired", state.last_load_keys_expired);
    field!(text, "rdb_last_load_keys_loaded", state.last_load_keys_loaded);
    field!(text, "aof_enabled", u8::from(aof.state != State::Off));
    field!(text, "aof_rewrite_in_progress", u8::from(aof.rewrite.is_some()));
    field!(text, "aof_rewrite_scheduled", u8::from(aof.rewrite_scheduled));
    field!(text, "aof_last_rewrite_time_sec", aof.last_rewrite_s.unwrap_or(-1));
    field!(text, "aof_current_rewrite_time_sec", since_s(aof.rewrite.map(|rewrite| rewrite.since_ms)));
    field!(text, "aof_last_bgrewrite_status", if aof.failed_rewrites > 0 { "err" } else { "ok" });
    field!(text, "aof_last_write_status", if aof.error.is_some() { "err" } else { "ok" });
    field!(text, "aof_last_cow_size", state.last_preimage_bytes);
    if aof.state != State::Off {
        field!(text, "aof_current_size", aof.current_bytes);
        field!(text, "aof_base_size", aof.base_bytes);
        field!(text, "aof_pending_rewrite", 0);
        field!(text, "aof_buffer_length", aof.unwritten().len());
        field!(text, "aof_pending_bio_fsync", u8::from(aof.is_syncing));
        field!(text, "aof_delayed_fsync", aof.delayed_fsyncs);
    }
    if let Some(loading) = &instance.loading {
        progress(loading, instance.now_ms, text);
    }
}

fn progress(loading: &Loading, now_ms: i64, text: &mut String) {
    let (total, loaded) = (loading.total_bytes, loading.loaded_bytes);
    let elapsed_ms = (now_ms - loading.started_ms).max(0) as u64;
    field!(text, "loading_start_time", loading.started_ms / 1000);
    field!(text, "loading_total_bytes", total);
    field!(text, "loading_loaded_bytes", loaded);
    let (percent, eta_s) = match loaded.min(total) {
        0 => (0.0, 1),
        done => (done as f64 * 100.0 / total as f64, elapsed_ms * (total - done) / done / 1000),
    };
    field!(text, "loading_loaded_perc", format_args!("{percent:.2}"));
    field!(text, "loading_eta_seconds", eta_s);
}

fn stats(instance: &Instance, text: &mut String) {
    let stats = &instance.stats;
    let (listening, tracking) = (instance.pubsub.counts(), instance.tracking.totals());
    field!(text, "total_connections_received", stats.total_connections_received);
    field!(text, "total_commands_processed", stats.total_commands_processed);
    field!(text, "total_net_input_bytes", stats.total_net_input_bytes);
    field!(text, "total_net_output_bytes", stats.total_net_output_bytes);
    field!(text, "rejected_connections", stats.rejected_connections);
    field!(text, "sync_full", stats.sync_full);
    field!(text, "sync_partial_ok", stats.sync_partial_ok);
    field!(text, "sync_partial_err", stats.sync_partial_err);
    field!(text, "expired_keys", stats.expired_keys);
    field!(text, "expired_subkeys", stats.expired_subkeys);
    field!(text, "evicted_keys", stats.evicted_keys);
    field!(text, "evicted_clients", stats.evicted_clients);
    field!(text, "keyspace_hits", stats.keyspace_hits.get());
    field!(text, "keyspace_misses", stats.keyspace_misses.get());
    field!(text, "pubsub_channels", listening.channels);
    field!(text, "pubsub_patterns", listening.patterns);
    field!(text, "pubsubshard_channels", listening.shards);
    field!(text, "migrate_cached_sockets", instance.migrations.count());
    field!(text, "tracking_total_keys", tracking.keys);
    field!(text, "tracking_total_items", tracking.items);
    field!(text, "tracking_total_prefixes", tracking.prefixes);
    field!(text, "total_error_replies", stats.total_error_replies);
    field!(text, "client_output_buffer_limit_disconnections", stats.client_output_buffer_limit_disconnections);
}

fn replication(instance: &Instance, text: &mut String) {
    let replication = &instance.replication;
    match &replication.role {
        Role::Master => {
            field!(text, "role", "master");
        }
        Role::Ghost => {
            field!(text, "role", "master");
            // No field of Redis says it: this hands out a dead server's backlog, and is no master that takes writes.
            field!(text, "repld_ghost", 1);
        }
        Role::Replica(_) => upstream(instance, text),
    }
    field!(text, "connected_slaves", replication.feeds.len());
    if instance.config.min_replicas_to_write > 0 {
        let lag_ms = instance.config.min_replicas_max_lag.as_millis() as i64;
        field!(text, "min_slaves_good_slaves", replication.good_feeds(instance.now_ms, lag_ms));
    }
    for (index, feed) in replication.feeds.iter().enumerate() {
        let (state, lag_s) = match feed.state.get() {
            FeedState::WaitsForSnapshot | FeedState::WaitsForFile => ("wait_bgsave", 0),
            // As if the snapshot were sent when it is whole: so far nobody knows whether it will be.
            FeedState::ReceivesSnapshot { is_marked: true } => ("wait_bgsave", 0),
            FeedState::ReceivesSnapshot { is_marked: false } => ("send_bulk", 0),
            // As in Redis: everything was sent, though the stream waits for a word.
            FeedState::AwaitsAcknowledgement | FeedState::Online => {
                ("online", (instance.now_ms - feed.heard_ms.get()).max(0) / 1000)
            }
        };
        let (ip, port, offset) = (&feed.ip, feed.port, feed.acknowledged.get());
        let pending = instance.pending_bytes(feed);
        let _ = write!(
            text,
            "slave{index}:ip={ip},port={port},state={state},offset={offset},lag={lag_s},pending={pending}\r\n"
        );
    }
    let second = replication.history.previous;
    field!(text, "master_failover_state", Failover::state(instance.failover.as_ref()));
    field!(text, "master_replid", replication.history.replid);
    field!(text, "master_replid2", second.map_or_else(|| "0".repeat(40), |(id, _)| id.to_string()));
    field!(text, "master_repl_offset", replication.offset);
    // The wire counts the next byte.
    field!(text, "second_repl_offset", second.map_or(-1, |(_, offset)| offset as i64 + 1));
    let (active, size, first, len) = match &replication.backlog {
        None => (0, instance.config.repl_backlog_size, 0, 0),
        Some(backlog) => (1, backlog.capacity(), backlog.start() + 1, backlog.end() - backlog.start()),
    };
    field!(text, "repl_backlog_active", active);
    field!(text, "repl_backlog_size", size);
    field!(text, "repl_backlog_first_byte_offset", first);
    field!(text, "repl_backlog_histlen", len);
}

fn upstream(instance: &Instance, text: &mut String) {
    let Some(following) = instance.replication.following() else { return };
    let up = following.link == Link::Up;
    field!(text, "role", "slave");
    field!(text, "master_host", following.upstream.host);
    field!(text, "master_port", following.upstream.port);
    field!(text, "master_link_status", if up { "up" } else { "down" });
    let heard_s = if up { (instance.now_ms - following.heard_ms).max(0) / 1000 } else { -1 };
    field!(text, "master_last_io_seconds_ago", heard_s);
    let transfer = matches!(following.link, Link::Transfer { .. });
    field!(text, "master_sync_in_progress", u8::from(transfer));
    // As in Redis, 1 stands for "nothing from which the stream could go on".
    let resumable = following.synced || instance.replication.resumable;
    let applied = if resumable { instance.replication.offset } else { 1 };
    field!(text, "slave_read_repl_offset", applied + following.unapplied_bytes);
    field!(text, "slave_repl_offset", applied);
    // No field of Redis says it: a replica whose first sync never finished has nothing that could be promoted.
    field!(text, "repld_first_sync_finished", u8::from(following.synced));
    if let Some(refusal) = &following.refusal {
        field!(text, "repld_link_refused", refusal.reason);
    }
    if let Link::Transfer { total_bytes, read_bytes } = following.link {
        field!(text, "master_sync_total_bytes", total_bytes.unwrap_or(0));
        field!(text, "master_sync_read_bytes", read_bytes);
        field!(text, "master_sync_left_bytes", total_bytes.map_or(-1, |total| total.saturating_sub(read_bytes) as i64));
        field!(text, "master_sync_last_io_seconds_ago", (instance.now_ms - following.heard_ms).max(0) / 1000);
    }
    if !up {
        // Seconds of the clock and not of a stopwatch, as Redis counts them: a Sentinel that reads anything but 0 here asks once a
        // second from then on, so that it is the sooner to see whom it has promoted.
        let down_s = (instance.now_ms / 1000 - following.down_since_ms / 1000).max(0);
        field!(text, "master_link_down_since_seconds", if following.synced { down_s } else { -1 });
    }
    // Who has not finished a first sync, and did not start with data either, has none to be promoted with; 0 is what every
    // Sentinel understands.
    let is_promotable = following.synced || following.restored;
    field!(text, "slave_priority", if is_promotable { instance.config.replica_priority } else { 0 });
    field!(text, "slave_read_only", u8::from(instance.config.replica_read_only));
    field!(text, "replica_announced", u8::from(instance.config.replica_announced));
}

fn cpu(_instance: &Instance, text: &mut String) {
    let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The command's name is in parentheses and may hold anything; the fields behind it are numbers.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let seconds =
        |index: usize| fields.get(index).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or(0.0) / ticks_per_second;
    field!(text, "used_cpu_sys", format_args!("{:.6}", seconds(12)));
    field!(text, "used_cpu_user", format_args!("{:.6}", seconds(11)));
}

fn commands(instance: &Instance, text: &mut String) {
    for (name, count) in instance.stats.commands.iter() {
        let (calls, us, rejected, failed) = (count.calls, count.us, count.rejected, count.failed);
        let each_us = us as f64 / calls.max(1) as f64;
        let _ = write!(
            text,
            "cmdstat_{name}:calls={calls},usec={us},usec_per_call={each_us:.2},rejected_calls={rejected},failed_calls={failed}\r\n"
        );
    }
}

fn errors(instance: &Instance, text: &mut String) {
    for (code, count) in instance.stats.errors.iter() {
        let _ = write!(text, "errorstat_{code}:count={count}\r\n");
    }
}

fn latencies(instance: &Instance, text: &mut String) {
    let timed = instance.stats.commands.iter().filter(|(_, count)| count.histogram.calls() > 0);
    for (name, count) in timed.filter(|_| instance.config.latency_tracking) {
        let wanted = instance.config.latency_tracking_info_percentiles.iter();
        let percentile = |percent: &f64| {
            let us = count.histogram.percentile_ns(*percent) as f64 / 1000.0;
            format!("p{percent}={us:.3}")
        };
        let percentiles: Vec<String> = wanted.map(percentile).collect();
        let _ = write!(text, "latency_percentiles_usec_{name}:{}\r\n", percentiles.join(","));
    }
}

fn cluster(_instance: &Instance, text: &mut String) {
    field!(text, "cluster_enabled", 0);
}

fn keyspace(instance: &Instance, text: &mut String) {
    for db in 0..instance.keyspace.databases() {
        let keys = instance.keyspace.len(db);
        if keys > 0 {
            let expires = instance.keyspace.with_deadline(db);
            let ttl = instance.keyspace.avg_ttl_ms(db, instance.now_ms);
            let _ = write!(text, "db{db}:keys={keys},expires={expires},avg_ttl={ttl}\r\n");
        }
    }
}
