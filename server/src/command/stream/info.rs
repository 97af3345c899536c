//! `XINFO`.

use super::super::{Args, ErrorReply, ReadContext, Result, parse_integer};
use super::{no_such_group, reply_entries, reply_entry, reply_id};
use crate::resp::Reply;
use crate::value::Stream;
use crate::value::stream::{Entry, Group, Id};

fn require_stream<'a>(context: &ReadContext<'a>, args: Args) -> Result<&'a Stream> {
    context.value::<Stream>(context.keyspace.key(args.get(2)))?.ok_or(ErrorReply::NO_SUCH_KEY)
}

fn named_integer(reply: &mut Reply, name: &str, value: i64) {
    reply.bulk(name.as_bytes());
    reply.integer(value);
}

fn named_id(reply: &mut Reply, name: &str, id: Id) {
    reply.bulk(name.as_bytes());
    reply_id(reply, id);
}

fn named_integer_or_null(reply: &mut Reply, name: &str, value: Option<i64>) {
    reply.bulk(name.as_bytes());
    match value {
        Some(value) => reply.integer(value),
        None => reply.null(),
    }
}

fn named_entry(reply: &mut Reply, name: &str, entry: Option<Entry>) {
    reply.bulk(name.as_bytes());
    match entry {
        Some(entry) => reply_entry(reply, &entry),
        None => reply.null(),
    }
}

/// `FULL [COUNT count]`: how many of everything are shown.
fn parse_full(args: Args) -> Result<Option<usize>> {
    const COUNT: usize = 10;
    match args.len() {
        3 => Ok(None),
        4 if args.is(3, "full") => Ok(Some(COUNT)),
        6 if args.is(3, "full") && args.is(4, "count") => Ok(Some(match parse_integer(args.get(5))? {
            0 => usize::MAX,
            count => usize::try_from(count).unwrap_or(COUNT),
        })),
        _ => Err(ErrorReply::subcommand_arguments(args)),
    }
}

pub(in super::super) fn xinfo_stream(context: &mut ReadContext, args: Args) -> Result<()> {
    let stream = require_stream(context, args)?;
    let full = parse_full(args)?;
    let reply = &mut context.reply;
    reply.map(if full.is_some() { 9 } else { 10 });
    named_integer(reply, "length", stream.len() as i64);
    named_integer(reply, "radix-tree-keys", stream.blocks_len() as i64);
    named_integer(reply, "radix-tree-nodes", stream.blocks_len() as i64 + 1);
    named_id(reply, "last-generated-id", stream.last_id());
    named_id(reply, "max-deleted-entry-id", stream.max_deleted_id());
    named_integer(reply, "entries-added", stream.entries_added());
    named_id(reply, "recorded-first-entry-id", stream.first_id());
    let Some(count) = full else {
        named_integer(reply, "groups", stream.groups().len() as i64);
        named_entry(reply, "first-entry", stream.range(Id::MIN, Id::MAX).next());
        named_entry(reply, "last-entry", stream.range_back(Id::MIN, Id::MAX).next());
        return Ok(());
    };
    reply.bulk(b"entries");
    reply_entries(reply, stream.range(Id::MIN, Id::MAX).take(count));
    reply.bulk(b"groups");
    reply.array(stream.groups().len());
    for (name, group) in stream.groups() {
        reply.map(7);
        reply.bulk(b"name");
        reply.bulk(name);
        reply_group_fully(reply, stream, group, count);
    }
    Ok(())
}

fn reply_group_fully(reply: &mut Reply, stream: &Stream, group: &Group, count: usize) {
    named_id(reply, "last-delivered-id", group.last_id);
    named_integer_or_null(reply, "entries-read", group.entries_read);
    named_integer_or_null(reply, "lag", stream.lag(group));
    named_integer(reply, "pel-count", group.pending_len() as i64);
    reply.bulk(b"pending");
    let pending: Vec<_> = group.pending(Id::MIN, Id::MAX).take(count).collect();
    reply.array(pending.len());
    for (id, delivery) in pending {
        reply.array(4);
        reply_id(reply, id);
        reply.bulk(&delivery.consumer);
        reply.integer(delivery.ms);
        reply.integer(delivery.count as i64);
    }
    reply.bulk(b"consumers");
    reply.array(group.consumers().len());
    for (name, consumer) in group.consumers() {
        reply.map(4);
        reply.bulk(b"name");
        reply.bulk(name);
        named_integer(reply, "seen-time", consumer.seen_ms);
        named_integer(reply, "pel-count", consumer.pending_len() as i64);
        reply.bulk(b"pending");
        let pending: Vec<_> = consumer.pending().filter_map(|id| Some((id, group.delivery(id)?))).take(count).collect();
        reply.array(pending.len());
        for (id, delivery) in pending {
            reply.array(3);
            reply_id(reply, id);
            reply.integer(delivery.ms);
            reply.integer(delivery.count as i64);
        }
    }
}

pub(in super::super) fn xinfo_groups(context: &mut ReadContext, args: Args) -> Result<()> {
    let stream = require_stream(context, args)?;
    let reply = &mut context.reply;
    reply.array(stream.groups().len());
    for (name, group) in stream.groups() {
        reply.map(6);
        reply.bulk(b"name");
        reply.bulk(name);
        named_integer(reply, "consumers", group.consumers().len() as i64);
        named_integer(reply, "pending", group.pending_len() as i64);
        named_id(reply, "last-delivered-id", group.last_id);
        named_integer_or_null(reply, "entries-read", group.entries_read);
        named_integer_or_null(reply, "lag", stream.lag(group));
    }
    Ok(())
}

pub(in super::super) fn xinfo_consumers(context: &mut ReadContext, args: Args) -> Result<()> {
    let stream = require_stream(context, args)?;
    let group = stream.group(args.get(3)).ok_or_else(|| no_such_group(args.get(2), args.get(3)))?;
    let (reply, now_ms) = (&mut context.reply, context.now_ms);
    reply.array(group.consumers().len());
    for (name, consumer) in group.consumers() {
        reply.map(3);
        reply.bulk(b"name");
        reply.bulk(name);
        named_integer(reply, "pending", consumer.pending_len() as i64);
        named_integer(reply, "idle", (now_ms - consumer.seen_ms).max(0));
    }
    Ok(())
}
