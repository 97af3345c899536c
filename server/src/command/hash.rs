//! Hashes: <https://redis.io/docs/latest/commands/?group=hash>.

use super::key::{ScanOptions, parse_cursor, reply_scan};
use super::{Args, Effect, ErrorReply, ReadContext, Result, WriteContext, parse_integer};
use crate::keyspace::Absent;
use crate::long_double::LongDouble;
use crate::notify::Classes;
use crate::number::parse_i64;
use crate::resp::{Protocol, append_request};
use crate::value::{Field, Hash, Live, SmallForm};

pub(super) fn small(context: &WriteContext) -> SmallForm {
    SmallForm {
        len_max: context.config.hash_max_listpack_entries,
        string_bytes_max: context.config.hash_max_listpack_value as usize,
    }
}

/// The hash as clients see it: without the fields whose time is over.
fn read<'a>(context: &ReadContext<'a>, args: Args) -> Result<Option<Live<'a>>> {
    Ok(context.value::<Hash>(args.first_key())?.map(|hash| hash.live(context.expiry_ms)))
}

/// The value of the field `args[2]`.
fn value_of<'a>(context: &'a WriteContext, args: Args) -> Result<Option<&'a [u8]>> {
    let hash = context.value::<Hash>(args.first_key())?;
    Ok(hash.and_then(|hash| hash.live(context.expiry_ms).get(args.get(2))))
}

/// Sets the fields and values from `args[2]` on; returns how many fields are new.
fn set_fields(context: &mut WriteContext, args: Args, name: &str) -> Result<usize> {
    if args.len() % 2 == 1 {
        return Err(ErrorReply::arity(name));
    }
    let small = small(context);
    let added = context.edit(args.first_key(), Absent::Create, |hash: &mut Hash| {
        let pairs = (2..args.len()).step_by(2);
        pairs.filter(|index| hash.insert(args.get(*index), args.get(index + 1), small)).count()
    })?;
    context.notify(Classes::HASH, "hset", args.get(1));
    Ok(added.unwrap_or_default())
}

pub(super) fn hset(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let added = set_fields(context, args, "hset")?;
    context.reply.integer(added as i64);
    Ok(Effect::Verbatim)
}

pub(super) fn hmset(context: &mut WriteContext, args: Args) -> Result<Effect> {
    set_fields(context, args, "hmset")?;
    context.reply.ok();
    Ok(Effect::Verbatim)
}

pub(super) fn hsetnx(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let present = value_of(context, args)?.is_some();
    if !present {
        set_field(context, args, args.get(3), "hset")?;
    }
    context.reply.integer(i64::from(!present));
    Ok(if present { Effect::None } else { Effect::Verbatim })
}

/// Sets the field `args[2]`, which keeps its deadline if it has one. Whether it has.
fn set_field(context: &mut WriteContext, args: Args, value: &[u8], event: &'static str) -> Result<bool> {
    let (small, field) = (small(context), args.get(2));
    let has_deadline = context.edit(args.first_key(), Absent::Create, |hash: &mut Hash| {
        hash.update(field, value, small);
        hash.deadline_ms(field).is_some()
    })?;
    context.notify(Classes::HASH, event, args.get(1));
    Ok(has_deadline.unwrap_or_default())
}

pub(super) fn hget(context: &mut ReadContext, args: Args) -> Result<()> {
    let value = read(context, args)?.and_then(|hash| hash.get(args.get(2)));
    context.reply.bulk_or_null(value);
    Ok(())
}

pub(super) fn hmget(context: &mut ReadContext, args: Args) -> Result<()> {
    let hash = read(context, args)?;
    context.reply.array(args.len() - 2);
    args.from(2).for_each(|field| context.reply.bulk_or_null(hash.and_then(|hash| hash.get(field))));
    Ok(())
}

pub(super) fn hgetall(context: &mut ReadContext, args: Args) -> Result<()> {
    let hash = read(context, args)?;
    context.reply.map(hash.map_or(0, Live::len));
    hash.into_iter().flat_map(Live::iter).for_each(|(field, value)| {
        context.reply.bulk(field);
        context.reply.bulk(value);
    });
    Ok(())
}

pub(super) fn hkeys(context: &mut ReadContext, args: Args) -> Result<()> {
    each(context, args, |(field, _)| field)
}

pub(super) fn hvals(context: &mut ReadContext, args: Args) -> Result<()> {
    each(context, args, |(_, value)| value)
}

fn each<'a>(context: &mut ReadContext<'a>, args: Args, part: impl Fn(Field<'a>) -> &'a [u8]) -> Result<()> {
    let hash = read(context, args)?;
    context.reply.array(hash.map_or(0, Live::len));
    hash.into_iter().flat_map(Live::iter).for_each(|field| context.reply.bulk(part(field)));
    Ok(())
}

pub(super) fn hdel(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let removed = context.edit(args.first_key(), Absent::Skip, |hash: &mut Hash| {
        args.from(2).filter(|field| hash.remove(field)).count()
    })?;
    let removed = removed.unwrap_or_default();
    context.reply.integer(removed as i64);
    if removed == 0 {
        return Ok(Effect::None);
    }
    context.notify_taken(Classes::HASH, "hdel", args.get(1));
    Ok(Effect::Verbatim)
}

pub(super) fn hexists(context: &mut ReadContext, args: Args) -> Result<()> {
    let present = read(context, args)?.is_some_and(|hash| hash.get(args.get(2)).is_some());
    context.reply.integer(i64::from(present));
    Ok(())
}

pub(super) fn hlen(context: &mut ReadContext, args: Args) -> Result<()> {
    // As everywhere else, what is over and was not removed yet is counted.
    let len = context.value(args.first_key())?.map_or(0, Hash::len);
    context.reply.integer(len as i64);
    Ok(())
}

pub(super) fn hstrlen(context: &mut ReadContext, args: Args) -> Result<()> {
    let value = read(context, args)?.and_then(|hash| hash.get(args.get(2)));
    context.reply.integer(value.map_or(0, <[u8]>::len) as i64);
    Ok(())
}

pub(super) fn hincrby(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let delta = parse_integer(args.get(3))?;
    let old = match value_of(context, args)? {
        Some(text) => parse_i64(text).ok_or(ErrorReply::new("ERR hash value is not an integer"))?,
        None => 0,
    };
    let new = old.checked_add(delta).ok_or(ErrorReply::new("ERR increment or decrement would overflow"))?;
    let mut digits = itoa::Buffer::new();
    set_field(context, args, digits.format(new).as_bytes(), "hincrby")?;
    context.reply.integer(new);
    Ok(Effect::Verbatim)
}

/// Travels as the value it led to: arithmetic on floating point need not be the same everywhere.
pub(super) fn hincrbyfloat(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let delta = LongDouble::parse(args.get(3)).ok_or(ErrorReply::NOT_A_FLOAT)?;
    if !delta.is_finite() {
        return Err(ErrorReply::new("ERR value is NaN or Infinity"));
    }
    let old = match value_of(context, args)? {
        Some(text) => LongDouble::parse(text).ok_or(ErrorReply::new("ERR hash value is not a float"))?,
        None => LongDouble::from(0),
    };
    let sum = old.checked_add(delta).ok_or(ErrorReply::new("ERR increment would produce NaN or Infinity"))?;
    let text = sum.to_string();
    let has_deadline = set_field(context, args, text.as_bytes(), "hincrbyfloat")?;
    context.reply.bulk(text.as_bytes());
    let (key, field) = (args.get(1), args.get(2));
    if has_deadline {
        append_request(context.effect, &[b"HSETEX", key, b"KEEPTTL", b"FIELDS", b"1", field, text.as_bytes()]);
    } else {
        append_request(context.effect, &[b"HSET", key, field, text.as_bytes()]);
    }
    Ok(Effect::Rewritten)
}

pub(super) fn hrandfield(context: &mut ReadContext, args: Args) -> Result<()> {
    if args.len() > 2 {
        return several_fields(context, args);
    }
    let field = read(context, args)?.and_then(|hash| hash.choose_distinct(1, context.random).pop());
    context.reply.bulk_or_null(field.map(|(field, _)| field));
    Ok(())
}

/// A count that is negative allows for fields that come twice.
fn several_fields(context: &mut ReadContext, args: Args) -> Result<()> {
    let count = super::set::sample_count(args.get(2))?;
    let with_values = match args.len() {
        3 => false,
        4 if args.is(3, "withvalues") => true,
        _ => return Err(ErrorReply::SYNTAX),
    };
    if with_values && count.unsigned_abs() > i64::MAX as u64 / 2 {
        return Err(ErrorReply::OUT_OF_RANGE);
    }
    let Some(hash) = read(context, args)? else {
        context.reply.array(0);
        return Ok(());
    };
    let ReadContext { reply, random, .. } = context;
    let nested = reply.protocol() == Protocol::Resp3;
    let announce = |len: usize| if with_values && !nested { 2 * len } else { len };
    let write = |reply: &mut crate::resp::Reply, (field, value): Field| {
        if with_values && nested {
            reply.array(2);
        }
        reply.bulk(field);
        if with_values {
            reply.bulk(value);
        }
    };
    if count < 0 {
        let count = super::set::repeated_count(count)?;
        reply.array(announce(count));
        hash.choose(count, random, |field| write(reply, field));
    } else {
        let fields = hash.choose_distinct(count as usize, random);
        reply.array(announce(fields.len()));
        fields.into_iter().for_each(|field| write(reply, field));
    }
    Ok(())
}

pub(super) fn hscan(context: &mut ReadContext, args: Args) -> Result<()> {
    let cursor = parse_cursor(args.get(2))?;
    let mut found = Vec::new();
    let next = match read(context, args)? {
        None => 0,
        Some(hash) => {
            let options = ScanOptions::parse(args, 3)?;
            hash.scan(cursor, options.count, |field, value| {
                if options.is_for(field) {
                    found.extend([field, value]);
                }
            })
        }
    };
    reply_scan(&mut context.reply, next, &found);
    Ok(())
}
