//! `DEBUG`: for tests and for those who look for a mistake. Redis documents none of it; what is here are the parts that
//! its own tests steer a server by.

mod inspect;

use std::fs::File;

use super::{Args, ErrorReply, Flow, Result, ServerContext, parse_integer};
use crate::config::parse_memory;
use crate::instance::{Action, Instance};
use crate::keyspace::Deadline;
use crate::log::log;
use crate::replication::History;
use crate::resp::{Protocol, Reply};
use crate::snapshot::{self, LoadError, Loaded, Loader};
use crate::value::digest;

pub(super) fn debug(context: &mut ServerContext, args: Args) -> Result<Flow> {
    if !context.instance.config.enable_debug_command.to(context.session.client.origin()) {
        return Err(ErrorReply::new(
            "ERR DEBUG command not allowed. If the enable-debug-command option is set to \"local\", you can run it from \
             a local connection, otherwise you need to set this option in the configuration file, and then restart the \
             server.",
        ));
    }
    match (args.get(1).to_ascii_lowercase().as_slice(), args.len()) {
        (b"sleep", 3) => sleep(context, args),
        (b"set-active-expire", 3) => {
            context.instance.active_expiry = parse_integer(args.get(2))? != 0;
            context.ok()
        }
        (b"pause-cron", 3) => {
            context.instance.is_idle = parse_integer(args.get(2))? != 0;
            context.ok()
        }
        (b"config-rewrite-force-all", 2) => {
            context.instance.config.rewrite_all().map_err(|error| ErrorReply::owned(format!("ERR {error}")))?;
            context.ok()
        }
        (b"set-skip-checksum-validation", 3) => {
            context.instance.ignores_checksums = parse_integer(args.get(2))? != 0;
            context.ok()
        }
        (b"change-repl-id", 2) => {
            log!(Notice, "Changing replication IDs after receiving change-repl-id");
            let history = History { replid: context.instance.random_id(), previous: None };
            context.instance.replication.set_history(history);
            context.ok()
        }
        (b"log", 3) => {
            log!(Warning, "DEBUG LOG: {}", String::from_utf8_lossy(args.get(2)));
            context.ok()
        }
        // Elements that are larger than a node have one of their own, and from where on is no matter of choice.
        (b"quicklist-packed-threshold", 3) => packed_threshold(context, args),
        // What is checked or stopped by these is not there to be checked or stopped.
        (b"set-disable-deny-scripts" | b"replybuffer", 3..) => context.ok(),
        (b"error", 3) => Err(ErrorReply::from_bytes(args.get(2).to_vec())),
        (b"populate", 3..=5) => populate(context, args),
        (b"digest", 2) => {
            let digest = digest_of_all(context.instance);
            context.reply().simple(&format!("{digest:040x}"));
            Ok(Flow::Continue)
        }
        (b"digest-value", _) => digest_values(context, args),
        (b"aof-flush-sleep", 3) => {
            let delay_us = u64::try_from(parse_integer(args.get(2))?).map_err(|_| ErrorReply::NOT_POSITIVE)?;
            context.instance.aof.flush_delay = std::time::Duration::from_micros(delay_us);
            context.ok()
        }
        (b"loadaof", 2) => {
            // The shell has to write what is not in the file yet.
            context.session.client.blocked.set(true);
            context.instance.act(Action::ReloadAof(context.session.client.id));
            Ok(Flow::Block)
        }
        (b"object", 3..=4) => inspect::object(context, args),
        (b"listpack", 3) => inspect::listpack(context, args),
        (b"quicklist", 3..=4) => inspect::quicklist(context, args),
        (b"sdslen", 3) => inspect::sdslen(context, args),
        (b"htstats", 3..=4) => inspect::htstats(context, args),
        (b"htstats-key", 3..=4) => inspect::htstats_key(context, args),
        (b"reload", _) => {
            reload(context.instance, args)?;
            context.ok()
        }
        (b"replicate", 3..) => replicate(context, args),
        (b"protocol", 3) => protocol(context, args),
        (b"help", 2) => help(context),
        _ => Err(ErrorReply::subcommand_arguments(args)),
    }
}

fn help(context: &mut ServerContext) -> Result<Flow> {
    const LINES: [&str; 2] =
        ["DEBUG <subcommand> [<arg> [value] [opt] ...]. The subcommands are those that tests need,", "and may change."];
    let mut reply = context.reply();
    reply.array(LINES.len());
    LINES.iter().for_each(|line| reply.simple(line));
    Ok(Flow::Continue)
}

/// `QUICKLIST-PACKED-THRESHOLD size`: looked at, and without an effect.
fn packed_threshold(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let invalid = || ErrorReply::new("ERR argument must be a memory value bigger than 1 and smaller than 4gb");
    let size = parse_memory(args.get(2)).ok_or_else(invalid)?;
    if size > u64::from(u32::MAX) { Err(invalid()) } else { context.ok() }
}

/// The whole server sleeps: that is what it is for.
fn sleep(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let text = std::str::from_utf8(args.get(2)).ok();
    let seconds = text.and_then(|text| text.parse::<f64>().ok()).filter(|seconds| (0.0..1e9).contains(seconds));
    let seconds = seconds.ok_or(ErrorReply::NOT_A_FLOAT)?;
    std::thread::sleep(std::time::Duration::from_secs_f64(seconds));
    // Whatever comes next, be it in the same turn, comes so much later.
    let later_ms = context.instance.now_ms.saturating_add((seconds * 1000.0) as i64);
    context.instance.set_now(later_ms);
    context.ok()
}

/// `POPULATE count [prefix] [size]`: keys `prefix:0` and so on with values `value:0` and so on, cut or filled up to a size.
fn populate(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let count = u64::try_from(parse_integer(args.get(2))?).map_err(|_| ErrorReply::NOT_AN_INTEGER)?;
    let prefix = args.maybe(3).unwrap_or(b"key");
    let size = args.maybe(4).map(parse_integer).transpose()?;
    let size = size.map(|size| usize::try_from(size).map_err(|_| ErrorReply::NOT_AN_INTEGER)).transpose()?;
    if size.is_some_and(|size| size as u64 > context.instance.config.proto_max_bulk_len) {
        return Err(ErrorReply::new("ERR string exceeds maximum allowed size (proto-max-bulk-len)"));
    }
    let (db, keyspace) = (context.session.db(), &mut context.instance.keyspace);
    for number in 0..count {
        let name = [prefix, b":", number.to_string().as_bytes()].concat();
        let mut value = format!("value:{number}").into_bytes();
        if let Some(size) = size.filter(|size| *size > 0) {
            value.resize(size, 0);
        }
        let key = keyspace.key(&name);
        if keyspace.peek(db, key).is_none() {
            keyspace.set_str(db, key, &value, Deadline::Clear);
        }
    }
    context.ok()
}

/// The same for equal data: what is in which database under which key, and whether it is to expire. 0 for no data.
fn digest_of_all(instance: &Instance) -> u128 {
    let mut sum = 0_u128;
    for db in 0..instance.keyspace.databases() {
        instance.keyspace.for_each(db, |entry| {
            let (value, expires) = (entry.value().digest().to_le_bytes(), [u8::from(entry.deadline_ms().is_some())]);
            sum = sum.wrapping_add(digest(&[&db.to_le_bytes(), entry.key(), &value, &expires]));
        });
    }
    sum
}

/// A digest for each key, 0 for one that is absent.
fn digest_values(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let (keyspace, db, now_ms) = (&context.instance.keyspace, context.session.db(), context.instance.now_ms);
    let of = |name| keyspace.get(db, keyspace.key(name), now_ms).map_or(0, |entry| entry.value().digest());
    let digests: Vec<u128> = args.from(2).map(of).collect();
    let mut reply = context.reply();
    reply.array(digests.len());
    digests.iter().for_each(|digest| reply.simple(&format!("{digest:040x}")));
    Ok(Flow::Continue)
}

/// Saves, forgets everything and loads it again. `NOSAVE` loads what was saved before, `NOFLUSH` or `MERGE` would load it
/// over what is there; here it takes its place either way.
fn reload(instance: &mut Instance, args: Args) -> Result<()> {
    let mut saves = true;
    for option in args.from(2) {
        match option.to_ascii_lowercase().as_slice() {
            b"nosave" => saves = false,
            b"noflush" | b"merge" => {}
            _ => return Err(ErrorReply::new("ERR DEBUG RELOAD only supports the MERGE, NOFLUSH and NOSAVE options.")),
        }
    }
    if instance.keyspace.walk_in_progress() {
        return Err(ErrorReply::SAVE_IN_PROGRESS);
    }
    if saves {
        snapshot::save(instance).map_err(|error| ErrorReply::owned(format!("ERR {error}")))?;
    }
    let load = |instance: &Instance| -> std::result::Result<_, LoadError> {
        let mut file = File::open(snapshot::dump_path(instance))?;
        let (mut loader, mut buffer) = (Loader::new(instance), Vec::new());
        while snapshot::read_slice(&mut file, &mut buffer)? && !loader.feed(&buffer)? {}
        loader.finish().inspect(Loaded::tell)
    };
    let loaded = load(instance).map_err(|error| {
        ErrorReply::owned(format!("ERR Error trying to load the RDB dump, check server logs: {error}"))
    })?;
    instance.functions = loaded.functions;
    instance.install(loaded.keyspace, loaded.keys_loaded, loaded.keys_expired);
    log!(Warning, "DB reloaded by DEBUG RELOAD");
    Ok(())
}

/// `REPLICATE arg…`: puts a request into the stream as it is, whatever it says.
fn replicate(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let db = context.session.db();
    context.instance.propagate_request(db, &args.from(2).collect::<Vec<_>>());
    context.ok()
}

/// One reply of each kind that the protocol has.
fn protocol(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let kind = args.get(2).to_ascii_lowercase();
    let resp3 = context.session.protocol == Protocol::Resp3;
    let mut reply = context.reply();
    match kind.as_slice() {
        b"string" => reply.bulk(b"Hello World"),
        b"integer" => reply.integer(12345),
        b"double" if resp3 => reply.raw(b",3.141\r\n"),
        b"double" => reply.bulk(b"3.141"),
        b"null" => reply.null(),
        b"array" => {
            reply.array(3);
            (0..3).for_each(|number| reply.integer(number));
        }
        b"set" => {
            reply.set(3);
            (0..3).for_each(|number| reply.integer(number));
        }
        b"map" => {
            reply.map(3);
            for number in 0..3 {
                reply.integer(number);
                truth(&mut reply, resp3, number == 1);
            }
        }
        b"attrib" => {
            if resp3 {
                reply.raw(b"|1\r\n$14\r\nkey-popularity\r\n*2\r\n$7\r\nkey:123\r\n:90\r\n");
            }
            reply.bulk(b"Some real reply following the attribute");
        }
        // A message out of turn is no reply.
        b"push" if resp3 => reply.raw(b">2\r\n$16\r\nserver-cpu-usage\r\n:42\r\n"),
        b"push" => return Err(ErrorReply::new("ERR RESP2 is not supported by this command")),
        b"verbatim" => reply.verbatim(b"This is a verbatim\nstring"),
        b"bignum" if resp3 => reply.raw(b"(1234567999999999999999999999999999999\r\n"),
        b"bignum" => reply.bulk(b"1234567999999999999999999999999999999"),
        b"true" => truth(&mut reply, resp3, true),
        b"false" => truth(&mut reply, resp3, false),
        _ => {
            return Err(ErrorReply::new(
                "ERR Wrong protocol type name. Please use one of the following: string|integer|double|null|array|set|map|\
                 attrib|push|verbatim|true|false",
            ));
        }
    }
    Ok(Flow::Continue)
}

fn truth(reply: &mut Reply, resp3: bool, value: bool) {
    if resp3 { reply.raw(if value { b"#t\r\n" } else { b"#f\r\n" }) } else { reply.integer(i64::from(value)) }
}
