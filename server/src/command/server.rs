//! The server as a whole: <https://redis.io/docs/latest/commands/?group=server>.

use super::replication::check_upstream;
use super::{Args, ErrorReply, Flow, Result, ServerContext};
use crate::config::{Secret, ShutdownOptions};
use crate::instance::{Action, Instance, Stats};
use crate::keyspace::lazily_freed;
use crate::log::{self, log};
use crate::{info, snapshot};

pub(super) fn time(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    // The turn's time is in milliseconds; who asks for the time wants more.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let mut reply = context.reply();
    reply.array(2);
    reply.bulk(now.as_secs().to_string().as_bytes());
    reply.bulk(now.subsec_micros().to_string().as_bytes());
    Ok(Flow::Continue)
}

pub(super) fn info(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let sections: Vec<String> = args.from(1).map(|name| String::from_utf8_lossy(name).to_ascii_lowercase()).collect();
    let text = info::render(context.instance, &sections);
    context.reply().verbatim(text.as_bytes());
    Ok(Flow::Continue)
}

pub(super) fn save(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    if context.instance.persistence.snapshot_since_ms.is_some() {
        return Err(ErrorReply::SAVE_IN_PROGRESS);
    }
    match snapshot::save(context.instance) {
        Ok(()) => context.ok(),
        Err(error) => {
            log!(Warning, "Error trying to save the DB: {error}");
            Err(ErrorReply::owned(format!("ERR {error}")))
        }
    }
}

pub(super) fn bgsave(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let schedule = match args.len() {
        1 => false,
        2 if args.is(1, "schedule") => true,
        _ => return Err(ErrorReply::SYNTAX),
    };
    if context.instance.persistence.is_saving && !schedule {
        return Err(ErrorReply::SAVE_IN_PROGRESS);
    }
    let text = if context.instance.persistence.snapshot_since_ms.is_some() {
        "Background saving scheduled"
    } else {
        "Background saving started"
    };
    context.instance.act(Action::Save);
    context.reply().simple(text);
    Ok(Flow::Continue)
}

pub(super) fn bgrewriteaof(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    if context.instance.aof.rewrite.is_some() {
        return Err(ErrorReply::new("ERR Background append only file rewriting already in progress"));
    }
    let is_in_transaction = context.instance.transaction_stream.is_some();
    let is_busy = context.instance.persistence.snapshot_since_ms.is_some() || is_in_transaction;
    context.instance.schedule_rewrite();
    context.reply().simple(match is_busy {
        true => "Background append only file rewriting scheduled",
        false => "Background append only file rewriting started",
    });
    Ok(Flow::Continue)
}

pub(super) fn lastsave(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    let at = context.instance.persistence.last_save_s;
    context.reply().integer(at);
    Ok(Flow::Continue)
}

pub(super) fn shutdown(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let mut options = ShutdownOptions::default();
    let mut abort = false;
    for option in args.from(1) {
        match option.to_ascii_lowercase().as_slice() {
            b"save" if options.save != Some(false) => options.save = Some(true),
            b"nosave" if options.save != Some(true) => options.save = Some(false),
            b"now" => options.now = true,
            b"force" => options.force = true,
            b"abort" if args.len() == 2 => abort = true,
            _ => return Err(ErrorReply::SYNTAX),
        }
    }
    if abort {
        if context.instance.shutdown.is_none() {
            return Err(ErrorReply::new("ERR No shutdown in progress."));
        }
        log!(Warning, "Shutdown manually aborted");
        context.instance.fail_shutdown();
        return context.ok();
    }
    if context.instance.shutdown.is_none() {
        log!(Warning, "User requested shutdown...");
        context.instance.begin_shutdown();
        context.instance.act(Action::Shutdown(options));
    }
    // The connection ends with the server, or learns why the server does not.
    context.instance.wait_for_shutdown(&context.session.client);
    Ok(Flow::Block)
}

pub(super) fn config_get(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let patterns: Vec<&[u8]> = args.from(2).collect();
    let found = context.instance.config.get(&patterns);
    let mut reply = context.reply();
    reply.map(found.len());
    for (name, value) in &found {
        reply.bulk(name.as_bytes());
        reply.bulk(value);
    }
    Ok(Flow::Continue)
}

pub(super) fn config_set(context: &mut ServerContext, args: Args) -> Result<Flow> {
    if !args.len().is_multiple_of(2) {
        return Err(ErrorReply::SYNTAX);
    }
    let assignments: Vec<(&[u8], &[u8])> =
        (2..args.len()).step_by(2).map(|index| (args.get(index), args.get(index + 1))).collect();
    // What is being loaded comes from there.
    if context.instance.loading.is_some() && assignments.iter().any(|(name, _)| name.eq_ignore_ascii_case(b"dir")) {
        return Err(ErrorReply::new("LOADING 'dir' can't be changed while the dataset is being loaded"));
    }
    // Only a client that stands before the machine may loosen what guards it.
    let before = context.instance.config.clone();
    let changed = context.instance.config.set(&assignments, context.session.client.origin());
    let changed = changed.map_err(|error| ErrorReply::owned(format!("ERR {error}")))?;
    if let Err(error) = try_out(context.instance, &changed) {
        context.instance.config = before;
        // It was let do so before.
        let _ = context.instance.set_oom_score();
        return Err(error);
    }
    apply(context.instance, &changed);
    context.ok()
}

pub(super) fn config_rewrite(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    if let Err(error) = context.instance.config.rewrite() {
        log!(Warning, "CONFIG REWRITE failed: {error}");
        return Err(ErrorReply::owned(format!("ERR {error}")));
    }
    log!(Notice, "CONFIG REWRITE executed with success.");
    context.ok()
}

pub(super) fn config_resetstat(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    context.instance.stats = Stats { lazyfreed_before: lazily_freed().1, ..Stats::default() };
    context.ok()
}

/// Does what may fail before anything else is done.
fn try_out(instance: &mut Instance, changed: &[&'static str]) -> Result<()> {
    if changed.contains(&"replicaof") {
        check_upstream(instance, instance.config.replicaof.as_ref())?;
    }
    let related = |name: &str, reason: &str| {
        ErrorReply::owned(format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {reason}"))
    };
    if changed.iter().any(|name| name.starts_with("oom-score-adj")) {
        instance.set_oom_score().map_err(|reason| related("oom-score-adj", &reason))?;
    }
    let (name, reason) = match (changed.contains(&"port"), changed.contains(&"bind")) {
        (true, _) => ("port", "Unable to listen on this port. Check server logs."),
        (false, true) => ("bind", "Failed to bind to specified addresses."),
        (false, false) => return Ok(()),
    };
    instance.listen().map_err(|_| related(name, reason))
}

/// Lets changed directives take effect that are not read anew each time they matter.
fn apply(instance: &mut Instance, changed: &[&'static str]) {
    for name in changed {
        match *name {
            "slowlog-log-slower-than" | "latency-monitor-threshold" => instance.choose_timing(),
            "requirepass" => {
                let default = instance.users.default_user();
                let mut rules = default.rules();
                rules.set_password(instance.config.requirepass.as_ref().map(Secret::expose));
                default.set_rules(rules);
                instance.remember_users();
            }
            "loglevel" => log::set_level(instance.config.loglevel),
            "key-load-delay" => instance.key_load_delay.set(instance.config.key_load_delay),
            "repl-backlog-size" | "client-output-buffer-limit" => instance.resize_backlog(),
            "replicaof" => match instance.config.replicaof.clone() {
                Some(upstream) => instance.follow(upstream),
                None => instance.unfollow(),
            },
            "appendonly" if instance.config.appendonly => instance.begin_aof(),
            "appendonly" => instance.act(Action::StopAof),
            "aof-disable-auto-gc" => instance.act(Action::TidyAof),
            "maxmemory-policy" | "lfu-log-factor" | "lfu-decay-time" => instance.track_uses(),
            // In a transaction what has to go does so after its end.
            "maxmemory" if instance.transaction_stream.is_none() => _ = instance.make_room(),
            "maxmemory-clients" => {
                instance.measure_clients();
                instance.evict_clients();
            }
            "replica-full-sync-guard" | "replica-expect-master-id" => instance.lift_refusal(),
            _ => {}
        }
    }
}
