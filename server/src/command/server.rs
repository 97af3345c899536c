//! The server as a whole: <https://redis.io/docs/latest/commands/?group=server>.

use super::{Args, ErrorReply, Flow, Result, ServerContext, table};
use crate::config::{Origin, ShutdownOptions};
use crate::instance::{Action, Instance, Stats};
use crate::log::{self, log};
use crate::resp::Reply;
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
    if context.instance.persistence.saving_since_ms.is_some() {
        return Err(ErrorReply::new("ERR Background save already in progress"));
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
    if context.instance.persistence.saving_since_ms.is_some() && !schedule {
        return Err(ErrorReply::new("ERR Background save already in progress"));
    }
    let text = if context.instance.keyspace.walk_in_progress() {
        "Background saving scheduled"
    } else {
        "Background saving started"
    };
    context.instance.act(Action::Save);
    context.reply().simple(text);
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
        if !context.instance.shutting_down {
            return Err(ErrorReply::new("ERR No shutdown in progress."));
        }
        context.instance.shutting_down = false;
        context.instance.unpause();
        return context.ok();
    }
    log!(Warning, "User requested shutdown...");
    context.instance.act(Action::Shutdown(options));
    // The connection ends with the server; should the server not end, this tells the client to ask why.
    Ok(Flow::Close)
}

pub(super) fn config(context: &mut ServerContext, args: Args) -> Result<Flow> {
    match (args.get(1).to_ascii_lowercase().as_slice(), args.len()) {
        (b"get", 3..) => {
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
        (b"set", 4..) if args.len().is_multiple_of(2) => config_set(context, args),
        (b"rewrite", 2) => {
            let result = context.instance.config.rewrite();
            match &result {
                Ok(()) => log!(Notice, "CONFIG REWRITE executed with success."),
                Err(error) => log!(Warning, "CONFIG REWRITE failed: {error}"),
            }
            result.map_err(|error| ErrorReply::owned(format!("ERR {error}")))?;
            context.ok()
        }
        (b"resetstat", 2) => {
            context.instance.stats = Stats::default();
            context.ok()
        }
        (b"get" | b"set" | b"rewrite" | b"resetstat", _) => {
            let name = String::from_utf8_lossy(args.get(1)).to_ascii_lowercase();
            Err(ErrorReply::arity(&format!("config|{name}")))
        }
        _ => Err(ErrorReply::unknown_subcommand(args, "CONFIG")),
    }
}

fn config_set(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let assignments: Vec<(&[u8], &[u8])> =
        (2..args.len()).step_by(2).map(|index| (args.get(index), args.get(index + 1))).collect();
    // Only a client that stands before the machine may loosen what guards it.
    let address = &context.session.client.address;
    let local = address.starts_with("127.") || address.starts_with("[::1]");
    let origin = if local { Origin::Local } else { Origin::Remote };
    let changed = context.instance.config.set(&assignments, origin);
    let changed = changed.map_err(|error| ErrorReply::owned(format!("ERR {error}")))?;
    apply(context.instance, &changed);
    context.ok()
}

/// Lets changed directives take effect that are not read anew each time they matter.
fn apply(instance: &mut Instance, changed: &[&'static str]) {
    for name in changed {
        match *name {
            "loglevel" => log::set_level(instance.config.loglevel),
            "repl-backlog-size" | "client-output-buffer-limit" => instance.resize_backlog(),
            _ => {}
        }
    }
}

pub(super) fn debug(context: &mut ServerContext, args: Args) -> Result<Flow> {
    if !context.instance.debug_allowed(context.session) {
        return Err(ErrorReply::new(
            "ERR DEBUG command not allowed. If the enable-debug-command option is set to \"local\", you can run it from \
             a local connection, otherwise you need to set this option in the configuration file, and then restart the \
             server.",
        ));
    }
    match (args.get(1).to_ascii_lowercase().as_slice(), args.len()) {
        (b"sleep", 3) => {
            let text = std::str::from_utf8(args.get(2)).ok();
            let seconds = text.and_then(|text| text.parse::<f64>().ok()).filter(|seconds| (0.0..1e9).contains(seconds));
            let seconds = seconds.ok_or(ErrorReply::new("ERR value is not a valid float"))?;
            // The whole server sleeps: that is what it is for.
            std::thread::sleep(std::time::Duration::from_secs_f64(seconds));
            context.ok()
        }
        _ => Err(ErrorReply::unknown_subcommand(args, "DEBUG")),
    }
}

/// There are no scripts; Sentinel wants to hear that none runs.
pub(super) fn script(_context: &mut ServerContext, args: Args) -> Result<Flow> {
    if args.is(1, "kill") && args.len() == 2 {
        return Err(ErrorReply::new("NOTBUSY No scripts in execution right now."));
    }
    Err(ErrorReply::unknown_subcommand(args, "SCRIPT"))
}

pub(super) fn command(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let mut reply = context.reply();
    match (args.maybe(1).map(<[u8]>::to_ascii_lowercase).as_deref(), args.len()) {
        (None, _) => {
            reply.array(table::COMMANDS.len());
            table::COMMANDS.iter().for_each(|command| describe(&mut reply, command));
        }
        (Some(b"count"), 2) => reply.integer(table::COMMANDS.len() as i64),
        (Some(b"list"), 2) => {
            reply.array(table::COMMANDS.len());
            table::COMMANDS.iter().for_each(|command| reply.bulk(command.name.as_bytes()));
        }
        (Some(b"info"), 2) => {
            reply.array(table::COMMANDS.len());
            table::COMMANDS.iter().for_each(|command| describe(&mut reply, command));
        }
        (Some(b"info"), _) => {
            reply.array(args.len() - 2);
            for name in args.from(2) {
                match table::find(name) {
                    Some(command) => describe(&mut reply, command),
                    None => reply.null_array(),
                }
            }
        }
        (Some(b"getkeys"), 3..) => {
            let command = table::find(args.get(2)).ok_or(ErrorReply::new("ERR Invalid command specified"))?;
            let inner = Args { request: args.request, spans: &args.spans[2..], first_key_hash: 0 };
            if !command.takes(inner.len()) {
                return Err(ErrorReply::new("ERR Invalid number of arguments specified for command"));
            }
            let keys: Vec<&[u8]> = command.keys.of(inner).collect();
            if keys.is_empty() {
                return Err(ErrorReply::new("ERR The command has no key arguments"));
            }
            reply.array(keys.len());
            keys.iter().for_each(|key| reply.bulk(key));
        }
        // Interactive clients ask for help texts; that there are none is an answer.
        (Some(b"docs"), _) => reply.map(0),
        _ => return Err(ErrorReply::unknown_subcommand(args, "COMMAND")),
    }
    Ok(Flow::Continue)
}

fn describe(reply: &mut Reply, command: &table::Command) {
    reply.array(10);
    reply.bulk(command.name.as_bytes());
    reply.integer(i64::from(command.arity));
    let flags: Vec<&str> = command.flag_names().collect();
    reply.set(flags.len());
    flags.iter().for_each(|flag| reply.simple(flag));
    reply.integer(command.keys.first as i64);
    reply.integer(command.keys.last as i64);
    reply.integer(command.keys.step as i64);
    // Categories, tips, key specifications and subcommands: none are told.
    reply.set(0);
    (0..3).for_each(|_| reply.array(0));
}
