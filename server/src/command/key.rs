//! Keys and databases: <https://redis.io/docs/latest/commands/?group=generic>.

use super::string::Unit;
use super::{Args, Effect, ErrorReply, ReadContext, Result, WriteContext, parse_integer};
use crate::glob;
use crate::keyspace::{EntryRef, Key, Keyspace};
use crate::notify::Classes;
use crate::resp::{Reply, append_request};

pub(super) fn del(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let mut removed = 0;
    for name in args.from(1) {
        let key = context.keyspace.key(name);
        if context.keyspace.remove(context.db, key) {
            context.notify(Classes::GENERIC, "del", name);
            removed += 1;
        }
    }
    context.reply.integer(removed);
    Ok(if removed > 0 { Effect::Verbatim } else { Effect::None })
}

/// How many of the named keys exist; one that is named twice counts twice.
pub(super) fn exists(context: &mut ReadContext, args: Args) -> Result<()> {
    let present = |name: &&[u8]| context.glance(context.keyspace.key(name)).is_some();
    let count = args.from(1).filter(present).count();
    context.reply.integer(count as i64);
    Ok(())
}

/// As `EXISTS`, and the keys count as used.
pub(super) fn touch(context: &mut ReadContext, args: Args) -> Result<()> {
    let present = |name: &&[u8]| context.get(context.keyspace.key(name)).is_some();
    let count = args.from(1).filter(present).count();
    context.reply.integer(count as i64);
    Ok(())
}

pub(super) fn kind(context: &mut ReadContext, args: Args) -> Result<()> {
    let name = context.glance(args.first_key()).map_or("none", |entry| entry.type_name());
    context.reply.simple(name);
    Ok(())
}

pub(super) fn keys(context: &mut ReadContext, args: Args) -> Result<()> {
    let pattern = args.get(1);
    let mut found = Vec::new();
    context.keyspace.for_each(context.db, |entry| {
        if !is_due(&entry, context.expiry_ms) && glob::matches(pattern, entry.key(), glob::Case::Sensitive) {
            found.push(entry.key().to_vec());
        }
    });
    context.reply.array(found.len());
    found.iter().for_each(|key| context.reply.bulk(key));
    Ok(())
}

fn is_due(entry: &EntryRef, expiry_ms: i64) -> bool {
    entry.deadline_ms().is_some_and(|deadline| deadline <= expiry_ms)
}

/// Where a scan goes on. As with C's `strtoul`, nothing is 0, and what is negative wraps around.
pub(super) fn parse_cursor(text: &[u8]) -> Result<u64> {
    let (is_negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        _ => (false, text),
    };
    let magnitude =
        if text.is_empty() { Some(0) } else { std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()) };
    let cursor = magnitude.map(|cursor: u64| if is_negative { cursor.wrapping_neg() } else { cursor });
    cursor.ok_or(ErrorReply::new("ERR invalid cursor"))
}

/// What a scan looks for.
pub(super) struct ScanOptions<'a> {
    /// How many elements one step is to visit.
    pub(super) count: usize,
    pattern: Option<&'a [u8]>,
    kind: Option<&'a [u8]>,
}

impl<'a> ScanOptions<'a> {
    /// From the argument `first` on. Only keys have a `TYPE`.
    pub(super) fn parse(args: Args<'a>, first: usize) -> Result<Self> {
        let mut options = ScanOptions { count: 10, pattern: None, kind: None };
        let is_of_keys = first == 2;
        for index in (first..args.len()).step_by(2) {
            let Some(value) = args.maybe(index + 1) else { return Err(ErrorReply::SYNTAX) };
            match args.get(index).to_ascii_lowercase().as_slice() {
                b"match" => options.pattern = Some(value),
                b"type" if is_of_keys => options.kind = Some(value),
                b"count" => options.count = usize::try_from(parse_integer(value)?).map_err(|_| ErrorReply::SYNTAX)?,
                _ => return Err(ErrorReply::SYNTAX),
            }
            if options.count == 0 {
                return Err(ErrorReply::SYNTAX);
            }
        }
        Ok(options)
    }

    /// Whether an element of this name is to be shown.
    pub(super) fn is_for(&self, name: &[u8]) -> bool {
        self.pattern.is_none_or(|pattern| glob::matches(pattern, name, glob::Case::Sensitive))
    }
}

pub(super) fn scan(context: &mut ReadContext, args: Args) -> Result<()> {
    let cursor = parse_cursor(args.get(1))?;
    let options = ScanOptions::parse(args, 2)?;
    let mut found = Vec::new();
    let (mut expired, expiry_ms) = (context.met.expired.borrow_mut(), context.expiry_ms);
    let next = context.keyspace.scan(context.db, cursor, options.count, i64::MIN, |entry| {
        if entry.is_expired(expiry_ms) {
            expired.push(entry.key().into());
            return;
        }
        let is_kind = |kind: &[u8]| entry.type_name().as_bytes().eq_ignore_ascii_case(kind);
        if options.is_for(entry.key()) && options.kind.is_none_or(is_kind) {
            found.push(entry.key().to_vec());
        }
    });
    drop(expired);
    reply_scan(&mut context.reply, next, &found);
    Ok(())
}

/// Answers a step of a scan.
pub(super) fn reply_scan(reply: &mut Reply, next: u64, found: &[impl AsRef<[u8]>]) {
    reply.array(2);
    reply.bulk(next.to_string().as_bytes());
    reply.array(found.len());
    found.iter().for_each(|element| reply.bulk(element.as_ref()));
}

pub(super) fn randomkey(context: &mut ReadContext, _args: Args) -> Result<()> {
    /// So often what is met has expired before nothing but the others is looked at.
    const TRIES: usize = 100;
    for _ in 0..TRIES {
        let entry = context.keyspace.random(context.db, context.random.roll(), i64::MIN);
        match entry.filter(|entry| entry.is_expired(context.expiry_ms)) {
            Some(entry) => context.met.expired.borrow_mut().push(entry.key().into()),
            None => break,
        }
    }
    let entry = context.keyspace.random(context.db, context.random.roll(), context.expiry_ms);
    context.reply.bulk_or_null(entry.as_ref().map(|entry| entry.key()));
    Ok(())
}

pub(super) fn dbsize(context: &mut ReadContext, _args: Args) -> Result<()> {
    context.reply.integer(context.keyspace.len(context.db) as i64);
    Ok(())
}

/// Puts what `from` holds, which is there, at `to` in that database, with how often it was used.
fn relocate(context: &mut WriteContext, from: Key, db: usize, to: Key) {
    let last_use = context.get(from).map(|entry| entry.last_use(context.keyspace.clock()));
    let (value, deadline) = context.keyspace.take(context.db, from).expect("it is there");
    // What was there before is deleted: the key is another one.
    context.keyspace.remove(db, to);
    context.keyspace.insert(db, to, value, deadline);
    if let Some(last_use) = last_use {
        context.keyspace.set_last_use(db, to, last_use);
    }
}

/// Takes the value of `args[1]` away and puts it at `args[2]`; false if the target had to stay.
fn move_name(context: &mut WriteContext, args: Args, replace: bool) -> Result<bool> {
    let (from, to) = (args.first_key(), context.keyspace.key(args.get(2)));
    if context.get(from).is_none() {
        return Err(ErrorReply::NO_SUCH_KEY);
    }
    if from.bytes == to.bytes {
        return Ok(replace);
    }
    if !replace && context.get(to).is_some() {
        return Ok(false);
    }
    relocate(context, from, context.db, to);
    context.notify(Classes::GENERIC, "rename_from", from.bytes);
    context.notify(Classes::GENERIC, "rename_to", to.bytes);
    Ok(true)
}

pub(super) fn rename(context: &mut WriteContext, args: Args) -> Result<Effect> {
    move_name(context, args, true)?;
    context.reply.ok();
    Ok(if args.get(1) == args.get(2) { Effect::None } else { Effect::Verbatim })
}

pub(super) fn renamenx(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let moved = move_name(context, args, false)?;
    context.reply.integer(i64::from(moved));
    Ok(if moved { Effect::Verbatim } else { Effect::None })
}

/// The database that an integer names.
pub(super) fn database(keyspace: &Keyspace, index: i64) -> Result<usize> {
    let index = usize::try_from(index).ok().filter(|&index| index < keyspace.databases());
    index.ok_or(ErrorReply::DB_OUT_OF_RANGE)
}

/// The index of a database, whether there is such a one or not.
pub(super) fn parse_database(text: &[u8]) -> Result<i64> {
    let index = parse_integer(text)?;
    match i32::try_from(index) {
        Ok(_) => Ok(index),
        Err(_) => Err(ErrorReply::new("ERR value is out of range, value must between -2147483648 and 2147483647")),
    }
}

/// Moves a key to another database, unless it is there already.
pub(super) fn move_key(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let (key, source) = (args.first_key(), context.db);
    let target = database(context.keyspace, parse_database(args.get(2))?)?;
    if target == source {
        return Err(ErrorReply::SAME_OBJECT);
    }
    let possible = context.get(key).is_some() && context.get_in(target, key).is_none();
    if possible {
        relocate(context, key, target, key);
        context.notify(Classes::GENERIC, "move_from", key.bytes);
        context.notify_in(target, Classes::GENERIC, "move_to", key.bytes);
    }
    context.reply.integer(i64::from(possible));
    Ok(if possible { Effect::Verbatim } else { Effect::None })
}

pub(super) fn swapdb(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let first = parse_database(args.get(1)).map_err(|_| ErrorReply::new("ERR invalid first DB index"))?;
    let second = parse_database(args.get(2)).map_err(|_| ErrorReply::new("ERR invalid second DB index"))?;
    let (first, second) = (database(context.keyspace, first)?, database(context.keyspace, second)?);
    context.keyspace.swap(first, second);
    context.reply.ok();
    Ok(Effect::Verbatim)
}

fn flush_mode(args: Args) -> Result<()> {
    match args.maybe(1) {
        None => Ok(()),
        Some(_) if args.len() == 2 && (args.is(1, "sync") || args.is(1, "async")) => Ok(()),
        Some(_) => Err(ErrorReply::SYNTAX),
    }
}

pub(super) fn flushdb(context: &mut WriteContext, args: Args) -> Result<Effect> {
    flush_mode(args)?;
    context.keyspace.flush(context.db);
    context.reply.ok();
    Ok(Effect::Verbatim)
}

pub(super) fn flushall(context: &mut WriteContext, args: Args) -> Result<Effect> {
    flush_mode(args)?;
    context.keyspace.flush_all();
    context.reply.ok();
    Ok(Effect::Verbatim)
}

/// Sets or clears a key's deadline and tells the stream so, as an absolute time; a deadline that has passed is a `DEL`.
pub(super) fn change_deadline(context: &mut WriteContext, key: Key, deadline: Option<i64>) -> Effect {
    match deadline {
        Some(at) if at <= context.expiry_ms => {
            context.keyspace.remove(context.db, key);
            context.notify(Classes::GENERIC, "del", key.bytes);
            append_request(context.effect, &[b"DEL", key.bytes]);
        }
        Some(at) => {
            context.keyspace.set_deadline(context.db, key, Some(at));
            context.notify(Classes::GENERIC, "expire", key.bytes);
            let mut digits = itoa::Buffer::new();
            append_request(context.effect, &[b"PEXPIREAT", key.bytes, digits.format(at).as_bytes()]);
        }
        None => {
            let entry = context.keyspace.get(context.db, key, context.expiry_ms);
            if entry.and_then(|entry| entry.deadline_ms()).is_none() {
                return Effect::None;
            }
            context.keyspace.set_deadline(context.db, key, None);
            context.notify(Classes::GENERIC, "persist", key.bytes);
            append_request(context.effect, &[b"PERSIST", key.bytes]);
        }
    }
    Effect::Rewritten
}

/// When `EXPIRE key time [NX | XX | GT | LT]` applies, by the deadline that the key has; none counts as infinite.
#[derive(Default)]
struct Condition {
    only_without: bool,
    only_with: bool,
    only_later: bool,
    only_earlier: bool,
}

impl Condition {
    fn parse(args: Args) -> Result<Self> {
        let mut condition = Condition::default();
        for option in args.from(3) {
            match option.to_ascii_lowercase().as_slice() {
                b"nx" => condition.only_without = true,
                b"xx" => condition.only_with = true,
                b"gt" => condition.only_later = true,
                b"lt" => condition.only_earlier = true,
                _ => return Err(ErrorReply::quoting("ERR Unsupported option ", option, "")),
            }
        }
        let Condition { only_without, only_with, only_later, only_earlier } = condition;
        if only_without && (only_with || only_later || only_earlier) {
            return Err(ErrorReply::new("ERR NX and XX, GT or LT options at the same time are not compatible"));
        }
        if only_later && only_earlier {
            return Err(ErrorReply::new("ERR GT and LT options at the same time are not compatible"));
        }
        Ok(condition)
    }

    fn allows(&self, old: Option<i64>, new: i64) -> bool {
        !(self.only_without && old.is_some()
            || self.only_with && old.is_none()
            || self.only_later && old.is_none_or(|old| new <= old)
            || self.only_earlier && old.is_some_and(|old| new >= old))
    }
}

fn expire_generic(context: &mut WriteContext, args: Args, unit: Unit, base_ms: i64, name: &str) -> Result<Effect> {
    let condition = Condition::parse(args)?;
    let value = parse_integer(args.get(2))?;
    let invalid = || ErrorReply::expire_time(name);
    let scaled = match unit {
        Unit::Seconds => value.checked_mul(1000).ok_or_else(invalid)?,
        Unit::Milliseconds => value,
    };
    let deadline = scaled.checked_add(base_ms).ok_or_else(invalid)?;
    let key = args.first_key();
    let allowed = match context.get(key) {
        None => false,
        Some(entry) => condition.allows(entry.deadline_ms(), deadline),
    };
    context.reply.integer(i64::from(allowed));
    Ok(if allowed { change_deadline(context, key, Some(deadline)) } else { Effect::None })
}

pub(super) fn expire(context: &mut WriteContext, args: Args) -> Result<Effect> {
    expire_generic(context, args, Unit::Seconds, context.now_ms, "expire")
}

pub(super) fn pexpire(context: &mut WriteContext, args: Args) -> Result<Effect> {
    expire_generic(context, args, Unit::Milliseconds, context.now_ms, "pexpire")
}

pub(super) fn expireat(context: &mut WriteContext, args: Args) -> Result<Effect> {
    expire_generic(context, args, Unit::Seconds, 0, "expireat")
}

pub(super) fn pexpireat(context: &mut WriteContext, args: Args) -> Result<Effect> {
    expire_generic(context, args, Unit::Milliseconds, 0, "pexpireat")
}

pub(super) fn persist(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let key = args.first_key();
    if context.get(key).is_none() {
        context.reply.integer(0);
        return Ok(Effect::None);
    }
    let effect = change_deadline(context, key, None);
    context.reply.integer(i64::from(effect != Effect::None));
    Ok(effect)
}

/// -2 for no key, -1 for no deadline, else what `of` makes of the deadline.
fn deadline_reply(context: &mut ReadContext, args: Args, of: impl Fn(i64) -> i64) -> Result<()> {
    let reply = match context.glance(args.first_key()) {
        None => -2,
        Some(entry) => entry.deadline_ms().map_or(-1, of),
    };
    context.reply.integer(reply);
    Ok(())
}

pub(super) fn ttl(context: &mut ReadContext, args: Args) -> Result<()> {
    let now = context.now_ms;
    deadline_reply(context, args, |deadline| ((deadline - now).max(0) + 500) / 1000)
}

pub(super) fn pttl(context: &mut ReadContext, args: Args) -> Result<()> {
    let now = context.now_ms;
    deadline_reply(context, args, |deadline| (deadline - now).max(0))
}

pub(super) fn expiretime(context: &mut ReadContext, args: Args) -> Result<()> {
    deadline_reply(context, args, |deadline| (deadline + 500) / 1000)
}

pub(super) fn pexpiretime(context: &mut ReadContext, args: Args) -> Result<()> {
    deadline_reply(context, args, |deadline| deadline)
}
