//! Groups of consumers: `XGROUP`, `XACK` and `XPENDING`.

use super::super::{Args, Effect, ErrorReply, ReadContext, Result, WriteContext, parse_integer};
use super::{no_group, no_such_group, parse_end, parse_id, parse_limit, parse_start, reply_id};
use crate::keyspace::{Absent, Key};
use crate::notify::Classes;
use crate::resp::append_request;
use crate::value::Stream;
use crate::value::stream::{Group, Id};

/// Tells replicas how far a group has read.
pub(super) fn append_setid(out: &mut Vec<u8>, key: &[u8], name: &[u8], group: &Group) {
    let (id, read) = (group.last_id.to_string(), group.entries_read.unwrap_or(-1).to_string());
    append_request(out, &[b"XGROUP", b"SETID", key, name, id.as_bytes(), b"ENTRIESREAD", read.as_bytes()]);
}

#[derive(Default)]
struct GroupOptions {
    make: bool,
    entries_read: Option<i64>,
}

impl GroupOptions {
    fn parse(args: Args, may_make: bool) -> Result<GroupOptions> {
        let (mut options, mut index) = (GroupOptions::default(), 5);
        while index < args.len() {
            match args.maybe(index + 1) {
                _ if may_make && args.is(index, "mkstream") => options.make = true,
                Some(read) if args.is(index, "entriesread") => {
                    let read = parse_integer(read)?;
                    if read < -1 {
                        return Err(ErrorReply::new("ERR value for ENTRIESREAD must be positive or -1"));
                    }
                    options.entries_read = (read >= 0).then_some(read);
                    index += 1;
                }
                _ => return Err(ErrorReply::subcommand_arguments(args)),
            }
            index += 1;
        }
        Ok(options)
    }
}

/// The stream that must be there.
fn require_stream<'a>(context: &'a WriteContext, key: Key) -> Result<&'a Stream> {
    context.value::<Stream>(key)?.ok_or(ErrorReply::new(
        "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use the MKSTREAM \
         option to create an empty stream automatically.",
    ))
}

fn require_group(context: &WriteContext, args: Args) -> Result<()> {
    let stream = require_stream(context, context.keyspace.key(args.get(2)))?;
    stream.group(args.get(3)).map(|_| ()).ok_or_else(|| no_such_group(args.get(2), args.get(3)))
}

/// An id, or `$` for the last one.
fn parse_last(text: &[u8], stream: Option<&Stream>) -> Result<Id> {
    if text == b"$" { Ok(stream.map_or(Id::MIN, Stream::last_id)) } else { parse_id(text, 0) }
}

/// The same, and `-` and `+` for the least and the greatest.
fn parse_any(text: &[u8], stream: Option<&Stream>) -> Result<Id> {
    match text {
        b"-" => Ok(Id::MIN),
        b"+" => Ok(Id::MAX),
        text => parse_last(text, stream),
    }
}

pub(in super::super) fn xgroup_create(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let options = GroupOptions::parse(args, true)?;
    let key = context.keyspace.key(args.get(2));
    let stream = if options.make { context.value::<Stream>(key)? } else { Some(require_stream(context, key)?) };
    let group = Group::new(parse_last(args.get(4), stream)?, options.entries_read);
    let added = context.edit(key, Absent::Create, |stream: &mut Stream| stream.add_group(args.get(3), group))?;
    if added != Some(true) {
        return Err(ErrorReply::new("BUSYGROUP Consumer Group name already exists"));
    }
    context.notify(Classes::STREAM, "xgroup-create", key.bytes);
    context.reply.ok();
    Ok(Effect::Verbatim)
}

pub(in super::super) fn xgroup_setid(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let options = GroupOptions::parse(args, false)?;
    require_group(context, args)?;
    let key = context.keyspace.key(args.get(2));
    let last_id = parse_any(args.get(4), context.value(key)?)?;
    context.edit(key, Absent::Skip, |stream: &mut Stream| {
        let group = stream.group_mut(args.get(3)).expect("it was just found");
        (group.last_id, group.entries_read) = (last_id, options.entries_read);
    })?;
    context.notify(Classes::STREAM, "xgroup-setid", key.bytes);
    context.reply.ok();
    Ok(Effect::Verbatim)
}

pub(in super::super) fn xgroup_destroy(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let key = context.keyspace.key(args.get(2));
    require_stream(context, key)?;
    let removed = context.edit(key, Absent::Skip, |stream: &mut Stream| stream.remove_group(args.get(3)))?;
    let removed = removed.unwrap_or(false);
    context.reply.integer(removed.into());
    if !removed {
        return Ok(Effect::None);
    }
    context.notify(Classes::STREAM, "xgroup-destroy", key.bytes);
    Ok(Effect::Verbatim)
}

pub(in super::super) fn xgroup_createconsumer(context: &mut WriteContext, args: Args) -> Result<Effect> {
    require_group(context, args)?;
    let (key, now_ms) = (context.keyspace.key(args.get(2)), context.now_ms);
    let created = context.edit(key, Absent::Skip, |stream: &mut Stream| {
        let group = stream.group_mut(args.get(3)).expect("it was just found");
        group.consumer(args.get(4)).is_none() && group.see(args.get(4), now_ms).1
    })?;
    let created = created.unwrap_or(false);
    context.reply.integer(created.into());
    if !created {
        return Ok(Effect::None);
    }
    context.notify(Classes::STREAM, "xgroup-createconsumer", key.bytes);
    Ok(Effect::Verbatim)
}

pub(in super::super) fn xgroup_delconsumer(context: &mut WriteContext, args: Args) -> Result<Effect> {
    require_group(context, args)?;
    let key = context.keyspace.key(args.get(2));
    let removed = context.edit(key, Absent::Skip, |stream: &mut Stream| {
        stream.group_mut(args.get(3)).expect("it was just found").remove_consumer(args.get(4))
    })?;
    let removed = removed.flatten();
    context.reply.integer(removed.unwrap_or(0) as i64);
    if removed.is_none() {
        return Ok(Effect::None);
    }
    context.notify(Classes::STREAM, "xgroup-delconsumer", key.bytes);
    Ok(Effect::Verbatim)
}

pub(in super::super) fn xack(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let key = args.first_key();
    context.looked_up(key);
    if context.value::<Stream>(key)?.and_then(|stream| stream.group(args.get(2))).is_none() {
        context.reply.integer(0);
        return Ok(Effect::None);
    }
    let ids: Vec<Id> = args.from(3).map(|id| parse_id(id, 0)).collect::<Result<_>>()?;
    let removed = context.edit(key, Absent::Skip, |stream: &mut Stream| {
        let group = stream.group_mut(args.get(2)).expect("it was just found");
        ids.iter().filter(|id| group.acknowledge(**id)).count()
    })?;
    let removed = removed.unwrap_or(0);
    context.reply.integer(removed as i64);
    Ok(if removed > 0 { Effect::Verbatim } else { Effect::None })
}

fn reply_summary(context: &mut ReadContext, group: &Group) {
    let reply = &mut context.reply;
    reply.array(4);
    reply.integer(group.pending_len() as i64);
    let Some((first, last)) = group.pending_bounds() else {
        reply.null();
        reply.null();
        reply.null_array();
        return;
    };
    reply_id(reply, first);
    reply_id(reply, last);
    let busy: Vec<_> = group.consumers().filter(|(_, consumer)| consumer.pending_len() > 0).collect();
    reply.array(busy.len());
    for (name, consumer) in busy {
        reply.array(2);
        reply.bulk(name);
        reply.bulk(consumer.pending_len().to_string().as_bytes());
    }
}

pub(in super::super) fn xpending(context: &mut ReadContext, args: Args) -> Result<()> {
    let is_summary = args.len() == 3;
    if !is_summary && !(6..=9).contains(&args.len()) {
        return Err(ErrorReply::SYNTAX);
    }
    let (mut min_idle_ms, mut first) = (0, 3);
    if !is_summary && args.is(3, "idle") {
        min_idle_ms = parse_integer(args.get(4))?;
        if args.len() < 8 {
            return Err(ErrorReply::SYNTAX);
        }
        first = 5;
    }
    let range = if is_summary {
        None
    } else {
        let count = parse_limit(args.get(first + 2))?;
        Some((parse_start(args.get(first))?, parse_end(args.get(first + 1))?, count))
    };
    let group = context.value::<Stream>(args.first_key())?.and_then(|stream| stream.group(args.get(2)));
    let group = group.ok_or_else(|| no_group(args.get(1), args.get(2), ""))?;
    let Some((start, end, count)) = range else {
        reply_summary(context, group);
        return Ok(());
    };
    let (now_ms, consumer) = (context.now_ms, args.maybe(first + 3));
    let is_wanted = |ms: i64| min_idle_ms == 0 || now_ms - ms >= min_idle_ms;
    let own = consumer.map(|name| group.consumer(name));
    let found: Vec<_> = match own {
        Some(None) => Vec::new(),
        Some(Some(own)) => {
            let ids = own.pending_from(start).take_while(|id| *id <= end);
            let own = ids.filter_map(|id| Some((id, group.delivery(id)?)));
            own.filter(|(_, delivery)| is_wanted(delivery.ms)).take(count).collect()
        }
        None => group.pending(start, end).filter(|(_, delivery)| is_wanted(delivery.ms)).take(count).collect(),
    };
    let reply = &mut context.reply;
    reply.array(found.len());
    for (id, delivery) in found {
        reply.array(4);
        reply_id(reply, id);
        reply.bulk(&delivery.consumer);
        reply.integer((now_ms - delivery.ms).max(0));
        reply.integer(delivery.count as i64);
    }
    Ok(())
}
