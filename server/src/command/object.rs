//! Values as they are stored: OBJECT, MEMORY USAGE, COPY, and DUMP and RESTORE, which move them between servers.

use super::key::{database, parse_database};
use super::{Args, Effect, ErrorReply, ReadContext, Result, WriteContext, parse_integer};
use crate::config::{MemoryPolicy, Order};
use crate::keyspace::Use;
use crate::log::log;
use crate::notify::Classes;
use crate::number::parse_i64;
use crate::rdb;
use crate::resp::append_request;
use crate::value::ValueRef;

/// The entry that `OBJECT … key` and `MEMORY USAGE key` are about; null is replied if there is none.
macro_rules! entry_or_null {
    ($context:ident, $args:ident) => {
        match $context.keyspace.get($context.db, $context.keyspace.key($args.get(2)), $context.expiry_ms) {
            Some(entry) => entry,
            None => {
                $context.reply.null();
                return Ok(());
            }
        }
    };
}

pub(super) fn encoding(context: &mut ReadContext, args: Args) -> Result<()> {
    let entry = entry_or_null!(context, args);
    context.reply.bulk(entry.encoding().as_bytes());
    Ok(())
}

/// Nothing is shared between keys, but small integers look as if they were, as they are in Redis.
pub(super) fn refcount(context: &mut ReadContext, args: Args) -> Result<()> {
    let entry = entry_or_null!(context, args);
    let tracks = matches!(
        context.config.maxmemory_policy,
        MemoryPolicy::AllKeys(Order::Lru | Order::Lfu) | MemoryPolicy::Volatile(Order::Lru | Order::Lfu)
    );
    let number = match entry.value() {
        ValueRef::Str(text) => parse_i64(text),
        _ => None,
    };
    let is_shared = number.is_some_and(|number| (0..10_000).contains(&number));
    let is_shared = is_shared && !(tracks && context.config.maxmemory > 0);
    context.reply.integer(if is_shared { i64::from(i32::MAX) } else { 1 });
    Ok(())
}

pub(super) fn idletime(context: &mut ReadContext, args: Args) -> Result<()> {
    let entry = entry_or_null!(context, args);
    match entry.last_use(context.keyspace.clock()) {
        Use::IdleSeconds(seconds) => context.reply.integer(seconds as i64),
        Use::Frequency(_) => {
            return Err(ErrorReply::new(
                "ERR An LFU maxmemory policy is selected, idle time not tracked. Please note that when switching between \
                 policies at runtime LRU and LFU data will take some time to adjust.",
            ));
        }
    }
    Ok(())
}

pub(super) fn freq(context: &mut ReadContext, args: Args) -> Result<()> {
    let entry = entry_or_null!(context, args);
    match entry.last_use(context.keyspace.clock()) {
        Use::Frequency(frequency) => context.reply.integer(frequency.into()),
        Use::IdleSeconds(_) => {
            return Err(ErrorReply::new(
                "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when \
                 switching between policies at runtime LRU and LFU data will take some time to adjust.",
            ));
        }
    }
    Ok(())
}

/// `MEMORY USAGE key [SAMPLES count]`. What is told is known, so there is nothing to take samples of.
pub(super) fn memory_usage(context: &mut ReadContext, args: Args) -> Result<()> {
    for index in (3..args.len()).step_by(2) {
        match args.maybe(index + 1) {
            Some(samples) if args.is(index, "samples") && parse_integer(samples)? >= 0 => {}
            _ => return Err(ErrorReply::SYNTAX),
        }
    }
    let entry = entry_or_null!(context, args);
    context.reply.integer(entry.memory_bytes() as i64);
    Ok(())
}

/// The database that `COPY … DB n` names.
struct CopyOptions {
    db: usize,
    replace: bool,
}

impl CopyOptions {
    fn parse(context: &WriteContext, args: Args) -> Result<Self> {
        let mut options = CopyOptions { db: context.db, replace: false };
        let mut index = 3;
        while index < args.len() {
            match args.maybe(index + 1) {
                _ if args.is(index, "replace") => options.replace = true,
                Some(db) if args.is(index, "db") => {
                    options.db = database(context.keyspace, parse_database(db)?)?;
                    index += 1;
                }
                _ => return Err(ErrorReply::SYNTAX),
            }
            index += 1;
        }
        Ok(options)
    }
}

/// The database that a `COPY` writes to, if it says so: which key it changes must be known before it runs.
pub(super) fn copy_target(args: Args) -> Option<usize> {
    let option = (3..args.len()).rev().find(|index| args.is(*index, "db"))?;
    usize::try_from(parse_integer(args.maybe(option + 1)?).ok()?).ok()
}

pub(super) fn copy(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let options = CopyOptions::parse(context, args)?;
    let (from, to) = (args.first_key(), context.keyspace.key(args.get(2)));
    if options.db == context.db && from.bytes == to.bytes {
        return Err(ErrorReply::SAME_OBJECT);
    }
    context.looked_up(from);
    let copy = context
        .get(from)
        .filter(|_| context.get_in(options.db, to).is_none() || options.replace)
        .map(|entry| (entry.value().to_value(), entry.deadline_ms()));
    context.reply.integer(i64::from(copy.is_some()));
    let Some((value, deadline_ms)) = copy else { return Ok(Effect::None) };
    // What was there before is deleted: the key is another one.
    context.keyspace.remove(options.db, to);
    context.keyspace.insert(options.db, to, value, deadline_ms);
    context.notify_in(options.db, Classes::GENERIC, "copy_to", to.bytes);
    Ok(Effect::Verbatim)
}

pub(super) fn dump(context: &mut ReadContext, args: Args) -> Result<()> {
    let compresses = context.config.rdbcompression;
    let payload = context.get(args.first_key()).map(|entry| rdb::dump(entry.value(), compresses));
    context.reply.bulk_or_null(payload.as_deref());
    Ok(())
}

/// `RESTORE key ttl payload [REPLACE] [ABSTTL] [IDLETIME seconds] [FREQ frequency]`.
#[derive(Default)]
struct RestoreOptions {
    replace: bool,
    is_absolute: bool,
    last_use: Option<Use>,
}

impl RestoreOptions {
    fn parse(args: Args) -> Result<Self> {
        let mut options = RestoreOptions::default();
        let mut index = 4;
        while index < args.len() {
            match args.maybe(index + 1) {
                _ if args.is(index, "replace") => options.replace = true,
                _ if args.is(index, "absttl") => options.is_absolute = true,
                Some(seconds) if args.is(index, "idletime") && !matches!(options.last_use, Some(Use::Frequency(_))) => {
                    let negative = ErrorReply::new("ERR Invalid IDLETIME value, must be >= 0");
                    let seconds = u64::try_from(parse_integer(seconds)?).map_err(|_| negative)?;
                    options.last_use = Some(Use::IdleSeconds(seconds));
                    index += 1;
                }
                Some(value) if args.is(index, "freq") && !matches!(options.last_use, Some(Use::IdleSeconds(_))) => {
                    let invalid = ErrorReply::new("ERR Invalid FREQ value, must be >= 0 and <= 255");
                    let frequency = u8::try_from(parse_integer(value)?).map_err(|_| invalid)?;
                    options.last_use = Some(Use::Frequency(frequency));
                    index += 1;
                }
                _ => return Err(ErrorReply::SYNTAX),
            }
            index += 1;
        }
        Ok(options)
    }
}

pub(super) fn restore(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let options = RestoreOptions::parse(args)?;
    let (key, payload) = (args.first_key(), args.get(3));
    let exists = context.get(key).is_some();
    if exists && !options.replace {
        return Err(ErrorReply::new("BUSYKEY Target key name already exists."));
    }
    let ttl_ms = parse_integer(args.get(2))?;
    if ttl_ms < 0 {
        return Err(ErrorReply::new("ERR Invalid TTL value, must be >= 0"));
    }
    let checksum = if context.ignores_checksums { rdb::Checksum::Ignored } else { rdb::Checksum::Verified };
    let value = rdb::restore(payload, context.config.small_forms(), checksum).map_err(|error| {
        if let rdb::DumpError::Content(Some(reason)) = &error {
            log!(Warning, "RESTORE: integrity check failed: {reason}");
        }
        ErrorReply::owned(format!("ERR {error}"))
    })?;
    let base_ms = if options.is_absolute { 0 } else { context.now_ms };
    // Redis adds without a check too: a deadline beyond the end of time is one before its beginning.
    let deadline_ms = (ttl_ms > 0).then(|| ttl_ms.wrapping_add(base_ms));
    context.reply.ok();
    if deadline_ms.is_some_and(|deadline_ms| deadline_ms <= context.expiry_ms) {
        if !exists {
            return Ok(Effect::None);
        }
        context.keyspace.remove(context.db, key);
        context.notify(Classes::GENERIC, "del", key.bytes);
        append_request(context.effect, &[b"DEL", key.bytes]);
        return Ok(Effect::Rewritten);
    }
    context.keyspace.remove(context.db, key);
    context.keyspace.insert(context.db, key, value, deadline_ms);
    if let Some(last_use) = options.last_use {
        context.keyspace.set_last_use(context.db, key, last_use);
    }
    context.notify(Classes::GENERIC, "restore", key.bytes);
    let Some(deadline_ms) = deadline_ms.filter(|_| !options.is_absolute) else { return Ok(Effect::Verbatim) };
    let mut digits = itoa::Buffer::new();
    let deadline = digits.format(deadline_ms).as_bytes();
    let mut request: Vec<&[u8]> = args.from(0).collect();
    request[2] = deadline;
    request.push(b"ABSTTL");
    append_request(context.effect, &request);
    Ok(Effect::Rewritten)
}
