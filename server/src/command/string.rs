//! Strings: <https://redis.io/docs/latest/commands/?group=string>.

use super::{Args, Effect, ErrorReply, ReadContext, Result, WriteContext, parse_integer};
use crate::keyspace::{Deadline, Key};
use crate::long_double::LongDouble;
use crate::notify::Classes;
use crate::resp::append_request;

/// What an expiry argument counts.
#[derive(Clone, Copy)]
pub(super) enum Unit {
    Seconds,
    Milliseconds,
}

/// A deadline as it was asked for: its argument is looked at when it is needed, since other errors come first.
struct Expiry<'a> {
    argument: &'a [u8],
    unit: Unit,
    /// What the argument counts from, in milliseconds since the epoch.
    base_ms: i64,
}

impl<'a> Expiry<'a> {
    /// `EX`, `PX`, `EXAT` or `PXAT` and its argument.
    fn option(option: &[u8], argument: &'a [u8], now_ms: i64) -> Result<Self> {
        let (unit, base_ms) = match option {
            b"ex" => (Unit::Seconds, now_ms),
            b"px" => (Unit::Milliseconds, now_ms),
            b"exat" => (Unit::Seconds, 0),
            b"pxat" => (Unit::Milliseconds, 0),
            _ => return Err(ErrorReply::SYNTAX),
        };
        Ok(Expiry { argument, unit, base_ms })
    }

    /// In milliseconds since the epoch; the command's name is told in the error.
    fn deadline_ms(&self, command: &str) -> Result<i64> {
        let value = parse_integer(self.argument)?;
        let factor = match self.unit {
            Unit::Seconds => 1000,
            Unit::Milliseconds => 1,
        };
        let deadline = value.checked_mul(factor).and_then(|ms| ms.checked_add(self.base_ms));
        deadline.filter(|_| value > 0).ok_or_else(|| ErrorReply::expire_time(command))
    }
}

fn lookup<'a>(context: &'a WriteContext, key: Key) -> Result<Option<&'a [u8]>> {
    context.get(key).map(super::as_string).transpose()
}

fn read<'a>(context: &ReadContext<'a>, key: Key) -> Result<Option<&'a [u8]>> {
    context.get(key).map(super::as_string).transpose()
}

pub(super) fn get(context: &mut ReadContext, args: Args) -> Result<()> {
    let value = read(context, args.first_key())?;
    context.reply.bulk_or_null(value);
    Ok(())
}

pub(super) fn strlen(context: &mut ReadContext, args: Args) -> Result<()> {
    let len = read(context, args.first_key())?.map_or(0, <[u8]>::len);
    context.reply.integer(len as i64);
    Ok(())
}

pub(super) fn mget(context: &mut ReadContext, args: Args) -> Result<()> {
    context.reply.array(args.len() - 1);
    for name in args.from(1) {
        // What is no string is as good as absent here.
        let value = read(context, context.keyspace.key(name)).unwrap_or(None);
        context.reply.bulk_or_null(value);
    }
    Ok(())
}

/// The bytes from `start` to `end`, both inclusive and counted from the end if negative.
pub(super) fn getrange(context: &mut ReadContext, args: Args) -> Result<()> {
    let (start, end) = (parse_integer(args.get(2))?, parse_integer(args.get(3))?);
    let value = read(context, args.first_key())?.unwrap_or_default();
    let len = value.len() as i64;
    let absolute = |index: i64| if index < 0 { (len + index).max(0) } else { index };
    if start < 0 && end < 0 && start > end {
        context.reply.bulk(b"");
        return Ok(());
    }
    let (start, end) = (absolute(start), absolute(end).min(len - 1));
    context.reply.bulk(if start > end { b"" } else { &value[start as usize..=end as usize] });
    Ok(())
}

#[derive(Default)]
struct SetOptions<'a> {
    expiry: Option<Expiry<'a>>,
    keep_ttl: bool,
    only_new: bool,
    only_present: bool,
    get: bool,
}

impl<'a> SetOptions<'a> {
    fn parse(args: Args<'a>, now_ms: i64) -> Result<Self> {
        let mut options = SetOptions::default();
        let mut index = 3;
        while index < args.len() {
            let option = args.get(index).to_ascii_lowercase();
            let free = options.expiry.is_none() && !options.keep_ttl;
            match (option.as_slice(), args.maybe(index + 1)) {
                (b"nx", _) if !options.only_present => options.only_new = true,
                (b"xx", _) if !options.only_new => options.only_present = true,
                (b"get", _) => options.get = true,
                (b"keepttl", _) if options.expiry.is_none() => options.keep_ttl = true,
                (b"ex" | b"px" | b"exat" | b"pxat", Some(value)) if free => {
                    options.expiry = Some(Expiry::option(&option, value, now_ms)?);
                    index += 1;
                }
                _ => return Err(ErrorReply::SYNTAX),
            }
            index += 1;
        }
        Ok(options)
    }
}

pub(super) fn set(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let (key, value) = (args.first_key(), args.get(2));
    if args.len() == 3 {
        context.keyspace.set_str(context.db, key, value, Deadline::Clear);
        context.notify(Classes::STRING, "set", key.bytes);
        context.reply.ok();
        return Ok(Effect::Verbatim);
    }
    let options = SetOptions::parse(args, context.now_ms)?;
    let deadline = options.expiry.as_ref().map(|expiry| expiry.deadline_ms("set")).transpose()?;
    let present = if options.get {
        context.looked_up(key);
        let old = lookup(context, key)?.map(<[u8]>::to_vec);
        context.reply.bulk_or_null(old.as_deref());
        old.is_some()
    } else {
        context.get(key).is_some()
    };
    if (options.only_new && present) || (options.only_present && !present) {
        if !options.get {
            context.reply.null();
        }
        return Ok(Effect::None);
    }
    let new_deadline = match deadline {
        Some(at) => Deadline::At(at),
        None if options.keep_ttl => Deadline::Keep,
        None => Deadline::Clear,
    };
    context.keyspace.set_str(context.db, key, value, new_deadline);
    context.notify(Classes::STRING, "set", key.bytes);
    if deadline.is_some() {
        context.notify(Classes::GENERIC, "expire", key.bytes);
    }
    if !options.get {
        context.reply.ok();
    }
    Ok(match deadline {
        Some(at) => propagate_set(context, key.bytes, value, at),
        None => Effect::Verbatim,
    })
}

/// A relative deadline would be another one when a replica reads it: it travels as an absolute one.
fn propagate_set(context: &mut WriteContext, key: &[u8], value: &[u8], deadline: i64) -> Effect {
    let mut digits = itoa::Buffer::new();
    append_request(context.effect, &[b"SET", key, value, b"PXAT", digits.format(deadline).as_bytes()]);
    Effect::Rewritten
}

fn set_expiring(context: &mut WriteContext, args: Args, unit: Unit, name: &str) -> Result<Effect> {
    let (key, value) = (args.first_key(), args.get(3));
    let expiry = Expiry { argument: args.get(2), unit, base_ms: context.now_ms };
    let deadline = expiry.deadline_ms(name)?;
    context.keyspace.set_str(context.db, key, value, Deadline::At(deadline));
    context.notify(Classes::STRING, "set", key.bytes);
    context.notify(Classes::GENERIC, "expire", key.bytes);
    context.reply.ok();
    Ok(propagate_set(context, key.bytes, value, deadline))
}

pub(super) fn setex(context: &mut WriteContext, args: Args) -> Result<Effect> {
    set_expiring(context, args, Unit::Seconds, "setex")
}

pub(super) fn psetex(context: &mut WriteContext, args: Args) -> Result<Effect> {
    set_expiring(context, args, Unit::Milliseconds, "psetex")
}

pub(super) fn setnx(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let key = args.first_key();
    let present = context.get(key).is_some();
    if !present {
        context.keyspace.set_str(context.db, key, args.get(2), Deadline::Clear);
        context.notify(Classes::STRING, "set", key.bytes);
    }
    context.reply.integer(i64::from(!present));
    Ok(if present { Effect::None } else { Effect::Verbatim })
}

pub(super) fn getset(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let key = args.first_key();
    context.looked_up(key);
    let old = lookup(context, key)?.map(<[u8]>::to_vec);
    context.reply.bulk_or_null(old.as_deref());
    context.keyspace.set_str(context.db, key, args.get(2), Deadline::Clear);
    context.notify(Classes::STRING, "set", key.bytes);
    append_request(context.effect, &[b"SET", key.bytes, args.get(2)]);
    Ok(Effect::Rewritten)
}

pub(super) fn getdel(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let key = args.first_key();
    context.looked_up(key);
    let old = lookup(context, key)?.map(<[u8]>::to_vec);
    context.reply.bulk_or_null(old.as_deref());
    if old.is_none() {
        return Ok(Effect::None);
    }
    context.keyspace.remove(context.db, key);
    context.notify(Classes::GENERIC, "del", key.bytes);
    append_request(context.effect, &[b"DEL", key.bytes]);
    Ok(Effect::Rewritten)
}

pub(super) fn getex(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let key = args.first_key();
    let expiry = match args.len() {
        2 => None,
        3 if args.is(2, "persist") => None,
        4 => Some(Expiry::option(&args.get(2).to_ascii_lowercase(), args.get(3), context.now_ms)?),
        _ => return Err(ErrorReply::SYNTAX),
    };
    context.looked_up(key);
    let Some(value) = lookup(context, key)?.map(<[u8]>::to_vec) else {
        context.reply.null();
        return Ok(Effect::None);
    };
    let deadline = expiry.map(|expiry| expiry.deadline_ms("getex")).transpose()?;
    context.reply.bulk(&value);
    Ok(if args.len() == 2 { Effect::None } else { super::key::change_deadline(context, key, deadline) })
}

pub(super) fn mset(context: &mut WriteContext, args: Args) -> Result<Effect> {
    check_pairs(args, "mset")?;
    set_pairs(context, args);
    context.reply.ok();
    Ok(Effect::Verbatim)
}

pub(super) fn msetnx(context: &mut WriteContext, args: Args) -> Result<Effect> {
    check_pairs(args, "msetnx")?;
    for name in args.from(1).step_by(2) {
        if context.get(context.keyspace.key(name)).is_some() {
            context.reply.integer(0);
            return Ok(Effect::None);
        }
    }
    set_pairs(context, args);
    context.reply.integer(1);
    Ok(Effect::Verbatim)
}

fn check_pairs(args: Args, name: &str) -> Result<()> {
    if args.len() % 2 == 1 { Ok(()) } else { Err(ErrorReply::arity(name)) }
}

fn set_pairs(context: &mut WriteContext, args: Args) {
    for index in (1..args.len()).step_by(2) {
        let key = context.keyspace.key(args.get(index));
        context.keyspace.set_str(context.db, key, args.get(index + 1), Deadline::Clear);
        context.notify(Classes::STRING, "set", key.bytes);
    }
}

pub(super) fn append(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let (key, suffix) = (args.first_key(), args.get(2));
    let len = match lookup(context, key)?.map(<[u8]>::len) {
        None => {
            context.keyspace.set_str(context.db, key, suffix, Deadline::Clear);
            suffix.len()
        }
        Some(old) => {
            context.check_string_len(old as u64 + suffix.len() as u64)?;
            let append = |value: &mut Vec<u8>| {
                value.extend_from_slice(suffix);
                value.len()
            };
            context.keyspace.str_mut(context.db, key, append).expect("the key was just seen")
        }
    };
    context.notify(Classes::STRING, "append", key.bytes);
    context.reply.integer(len as i64);
    Ok(Effect::Verbatim)
}

pub(super) fn setrange(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let (key, patch) = (args.first_key(), args.get(3));
    let offset = parse_integer(args.get(2))?;
    let Ok(offset) = u64::try_from(offset) else { return Err(ErrorReply::new("ERR offset is out of range")) };
    let present = lookup(context, key)?.map(<[u8]>::len);
    if patch.is_empty() {
        context.reply.integer(present.unwrap_or(0) as i64);
        return Ok(Effect::None);
    }
    context.check_string_len(offset.saturating_add(patch.len() as u64))?;
    if present.is_none() {
        context.keyspace.set_str(context.db, key, b"", Deadline::Clear);
    }
    let (start, end) = (offset as usize, offset as usize + patch.len());
    let write = |value: &mut Vec<u8>| {
        if value.len() < end {
            value.resize(end, 0);
        }
        value[start..end].copy_from_slice(patch);
        value.len()
    };
    let len = context.keyspace.str_mut(context.db, key, write).expect("the key was just seen or made");
    context.notify(Classes::STRING, "setrange", key.bytes);
    context.reply.integer(len as i64);
    Ok(Effect::Verbatim)
}

fn add(context: &mut WriteContext, key: Key, delta: i64) -> Result<Effect> {
    let old = match lookup(context, key)? {
        None => 0,
        Some(text) => parse_integer(text)?,
    };
    let new = old.checked_add(delta).ok_or(ErrorReply::new("ERR increment or decrement would overflow"))?;
    let mut digits = itoa::Buffer::new();
    context.keyspace.set_str(context.db, key, digits.format(new).as_bytes(), Deadline::Keep);
    context.notify(Classes::STRING, "incrby", key.bytes);
    context.reply.integer(new);
    Ok(Effect::Verbatim)
}

pub(super) fn incr(context: &mut WriteContext, args: Args) -> Result<Effect> {
    add(context, args.first_key(), 1)
}

pub(super) fn decr(context: &mut WriteContext, args: Args) -> Result<Effect> {
    add(context, args.first_key(), -1)
}

pub(super) fn incrby(context: &mut WriteContext, args: Args) -> Result<Effect> {
    add(context, args.first_key(), parse_integer(args.get(2))?)
}

pub(super) fn decrby(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let overflow = ErrorReply::new("ERR decrement would overflow");
    let delta = parse_integer(args.get(2))?.checked_neg().ok_or(overflow)?;
    add(context, args.first_key(), delta)
}

/// Travels as the value it led to: arithmetic on floating point need not be the same everywhere.
pub(super) fn incrbyfloat(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let key = args.first_key();
    let old = match lookup(context, key)? {
        None => LongDouble::parse(b"0").ok_or(ErrorReply::NOT_A_FLOAT)?,
        Some(text) => LongDouble::parse(text).ok_or(ErrorReply::NOT_A_FLOAT)?,
    };
    let delta = LongDouble::parse(args.get(2)).ok_or(ErrorReply::NOT_A_FLOAT)?;
    let sum = old.checked_add(delta).ok_or(ErrorReply::new("ERR increment would produce NaN or Infinity"))?;
    let text = sum.to_string();
    context.keyspace.set_str(context.db, key, text.as_bytes(), Deadline::Keep);
    context.notify(Classes::STRING, "incrbyfloat", key.bytes);
    context.reply.bulk(text.as_bytes());
    append_request(context.effect, &[b"SET", key.bytes, text.as_bytes(), b"KEEPTTL"]);
    Ok(Effect::Rewritten)
}
