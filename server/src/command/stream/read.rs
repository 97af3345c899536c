//! `XREAD` and `XREADGROUP`.

use std::ops::Range;

use super::super::{Args, Attempt, Effect, ErrorReply, Result, WriteContext, parse_integer, quotable};
use super::group::append_setid;
use super::{claim, no_group, parse_id, parse_limit, reply_entries, reply_entry, reply_id};
use crate::keyspace::Absent;
use crate::notify::Classes;
use crate::resp::{Protocol, Reply, append_request};
use crate::value::Stream;
use crate::value::stream::{Delivery, Id};

/// Whoever waited without a `COUNT` is given no more than so many.
const WAITED_COUNT: usize = 1000;

struct Reading<'a> {
    /// The group and the consumer.
    reader: Option<(&'a [u8], &'a [u8])>,
    deadline_ms: Option<Option<i64>>,
    /// 0 for all.
    count: usize,
    no_ack: bool,
    keys: Range<usize>,
}

impl<'a> Reading<'a> {
    fn parse(context: &WriteContext, args: Args<'a>, for_group: bool) -> Result<Self> {
        let mut reading = Reading { reader: None, deadline_ms: None, count: 0, no_ack: false, keys: 0..0 };
        let mut index = 1;
        while let Some(option) = args.maybe(index) {
            let more = args.len() - index - 1;
            match option.to_ascii_lowercase().as_slice() {
                b"block" if more > 0 => {
                    index += 1;
                    let ms = parse_integer(args.get(index)).map_err(|_| ErrorReply::BAD_TIMEOUT)?;
                    if ms < 0 {
                        return Err(ErrorReply::NEGATIVE_TIMEOUT);
                    }
                    reading.deadline_ms = Some((ms > 0).then(|| context.now_ms.saturating_add(ms)));
                }
                b"count" if more > 0 => {
                    index += 1;
                    reading.count = parse_limit(args.get(index))?;
                }
                b"streams" if more > 0 => {
                    if more % 2 == 1 {
                        return Err(ErrorReply::new(
                            "ERR Unbalanced XREAD list of streams: for each stream key an ID or '$' must be specified.",
                        ));
                    }
                    reading.keys = index + 1..index + 1 + more / 2;
                    break;
                }
                b"group" if more >= 2 => {
                    if !for_group {
                        return Err(ErrorReply::new(
                            "ERR The GROUP option is only supported by XREADGROUP. You called XREAD instead.",
                        ));
                    }
                    reading.reader = Some((args.get(index + 1), args.get(index + 2)));
                    index += 2;
                }
                b"noack" => {
                    if !for_group {
                        return Err(ErrorReply::new(
                            "ERR The NOACK option is only supported by XREADGROUP. You called XREAD instead.",
                        ));
                    }
                    reading.no_ack = true;
                }
                _ => return Err(ErrorReply::SYNTAX),
            }
            index += 1;
        }
        if reading.keys.is_empty() {
            return Err(ErrorReply::SYNTAX);
        }
        if for_group && reading.reader.is_none() {
            return Err(ErrorReply::new("ERR Missing GROUP option for XREADGROUP"));
        }
        Ok(reading)
    }

    /// The streams that are looked at, each with the argument that says from where on: of one that waits only the key
    /// that is ready.
    fn wanted(&self, args: Args<'a>, ready: Option<&[u8]>) -> impl Iterator<Item = (&'a [u8], usize)> {
        let ids = self.keys.len();
        let all = self.keys.clone().map(move |index| (args.get(index), index + ids));
        all.filter(move |(name, _)| ready.is_none_or(|ready| ready == *name)).collect::<Vec<_>>().into_iter()
    }

    fn limit(&self, ready: Option<&[u8]>) -> usize {
        match self.count {
            0 if ready.is_some() => WAITED_COUNT,
            0 => usize::MAX,
            count => count,
        }
    }
}

/// So many streams with their entries follow.
fn reply_streams(context: &mut WriteContext, streams: &[Vec<u8>]) {
    match context.reply.protocol() {
        Protocol::Resp2 => context.reply.array(streams.len()),
        Protocol::Resp3 => context.reply.map(streams.len()),
    }
    streams.iter().for_each(|stream| context.reply.raw(stream));
}

/// The reply about one stream: its name, and what `write` writes.
fn reply_stream(protocol: Protocol, name: &[u8], write: impl FnOnce(&mut Reply)) -> Vec<u8> {
    let mut out = Vec::new();
    let mut reply = Reply::new(&mut out, protocol);
    if protocol == Protocol::Resp2 {
        reply.array(2);
    }
    reply.bulk(name);
    write(&mut reply);
    out
}

pub(in super::super) fn xread(context: &mut WriteContext, args: Args, ready: Option<&[u8]>) -> Result<Attempt> {
    let reading = Reading::parse(context, args, false)?;
    let limit = reading.limit(ready);
    let (mut streams, mut resolved) = (Vec::new(), Vec::new());
    for (name, index) in reading.wanted(args, ready) {
        let key = context.keyspace.key(name);
        context.looked_up(key);
        let stream = match context.value::<Stream>(key) {
            Err(_) if ready.is_some() => None,
            stream => stream?,
        };
        let after = match args.get(index) {
            b"$" => stream.map_or(Id::MIN, Stream::last_id),
            b">" => {
                return Err(ErrorReply::new(
                    "ERR The > ID can be specified only when calling XREADGROUP using the GROUP <group> <consumer> option.",
                ));
            }
            id => parse_id(id, 0)?,
        };
        resolved.push((index, after.to_string()));
        let Some((stream, start)) = stream.zip(after.next()) else { continue };
        let mut entries = stream.range(start, Id::MAX).take(limit).peekable();
        if entries.peek().is_some() {
            streams.push(reply_stream(context.reply.protocol(), name, |reply| reply_entries(reply, entries)));
        }
    }
    if !streams.is_empty() {
        reply_streams(context, &streams);
        return Ok(Attempt::Done(Effect::None));
    }
    context.reply.null_array();
    let Some(deadline_ms) = reading.deadline_ms else { return Ok(Attempt::Done(Effect::None)) };
    // What came last is a matter of now, not of when there is more.
    let mut request: Vec<Vec<u8>> = args.from(0).map(<[u8]>::to_vec).collect();
    resolved.into_iter().for_each(|(index, id)| request[index] = id.into_bytes());
    Ok(Attempt::WaitWith { request, keys: reading.keys, deadline_ms })
}

/// Where a consumer reads.
enum From {
    /// What nobody of its group has read.
    New,
    /// What it has read itself, after this.
    Own(Id),
}

pub(in super::super) fn xreadgroup(context: &mut WriteContext, args: Args, ready: Option<&[u8]>) -> Result<Attempt> {
    let reading = Reading::parse(context, args, true)?;
    let (group_name, _) = reading.reader.expect("it was asked for");
    let mut wanted = Vec::new();
    for (name, index) in reading.wanted(args, ready) {
        let key = context.keyspace.key(name);
        context.looked_up(key);
        let stream = match context.value::<Stream>(key) {
            Ok(Some(stream)) => Some(stream),
            _ if ready.is_some() => return Err(ErrorReply::new("UNBLOCKED the stream key no longer exists")),
            stream => stream?,
        };
        let group = stream.and_then(|stream| stream.group(group_name));
        match group {
            Some(_) => {}
            None if ready.is_some() => {
                let text = "NOGROUP the consumer group this client was blocked on no longer exists";
                return Err(ErrorReply::new(text));
            }
            None => return Err(no_group(quotable(name), group_name, " in XREADGROUP with GROUP option")),
        }
        let from = match args.get(index) {
            b"$" => {
                return Err(ErrorReply::new(
                    "ERR The $ ID is meaningless in the context of XREADGROUP: you want to read the history of this \
                     consumer by specifying a proper ID, or use the > ID to get new messages. The $ ID would just \
                     return an empty result set.",
                ));
            }
            b">" => From::New,
            id => match parse_id(id, 0)? {
                Id::MAX => From::New,
                id => From::Own(id),
            },
        };
        wanted.push((name, from));
    }
    let (mut streams, mut is_changed) = (Vec::new(), false);
    for (name, from) in wanted {
        let key = context.keyspace.key(name);
        let new = context.value::<Stream>(key)?.is_some_and(|stream| {
            let last = stream.group(group_name).map_or(Id::MAX, |group| group.last_id);
            stream.last_entry_id() > last
        });
        if matches!(from, From::New) && !new {
            continue;
        }
        let (protocol, now_ms) = (context.reply.protocol(), context.now_ms);
        let limit = reading.limit(ready);
        let read = |stream: &mut Stream| read_as(stream, &reading, name, &from, limit, protocol, now_ms);
        let Some((reply, effect, is_new)) = context.edit(key, Absent::Skip, read)? else { continue };
        if is_new {
            context.notify(Classes::STREAM, "xgroup-createconsumer", name);
        }
        streams.push(reply);
        is_changed |= !effect.is_empty();
        context.effect.extend(effect);
    }
    if !streams.is_empty() {
        reply_streams(context, &streams);
        return Ok(Attempt::Done(if is_changed { Effect::Rewritten } else { Effect::None }));
    }
    context.reply.null_array();
    Ok(match reading.deadline_ms {
        Some(deadline_ms) => Attempt::Wait { keys: reading.keys, deadline_ms },
        None => Attempt::Done(Effect::None),
    })
}

/// Lets a consumer read a stream; returns the reply, what replicas are told, and whether the consumer is new.
fn read_as(
    stream: &mut Stream,
    reading: &Reading,
    name: &[u8],
    from: &From,
    limit: usize,
    protocol: Protocol,
    now_ms: i64,
) -> (Vec<u8>, Vec<u8>, bool) {
    let (group_name, consumer) = reading.reader.expect("it was asked for");
    let mut effect = Vec::new();
    let snapshot = stream.clone();
    let group = stream.group_mut(group_name).expect("it was just found");
    let (consumer, is_new) = group.see(consumer, now_ms);
    if is_new {
        append_request(&mut effect, &[b"XGROUP", b"CREATECONSUMER", name, group_name, &consumer]);
    }
    let after = match from {
        From::Own(after) => *after,
        From::New => {
            let start = group.last_id.next().unwrap_or(Id::MAX);
            let entries: Vec<_> = snapshot.range(start, Id::MAX).take(limit).collect();
            for entry in &entries {
                group.entries_read = snapshot.entries_read_after(group, entry.id);
                group.last_id = entry.id;
                if !reading.no_ack {
                    let delivery = Delivery { consumer: consumer.clone(), ms: now_ms, count: 1 };
                    claim::append_claim(&mut effect, name, group_name, group.last_id, entry.id, &delivery);
                    group.deliver(entry.id, delivery);
                }
            }
            append_setid(&mut effect, name, group_name, group);
            return (reply_stream(protocol, name, |reply| reply_entries(reply, entries.into_iter())), effect, is_new);
        }
    };
    let own = after.next().and_then(|start| Some((start, group.consumer(&consumer)?)));
    let ids: Vec<Id> = own.map(|(start, own)| own.pending_from(start).take(limit).collect()).unwrap_or_default();
    let reply = reply_stream(protocol, name, |reply| {
        reply.array(ids.len());
        for id in ids {
            match snapshot.get(id) {
                Some(entry) => {
                    reply_entry(reply, &entry);
                    if let Some(delivery) = group.delivery(id).cloned() {
                        let again = Delivery { ms: now_ms, count: delivery.count + 1, ..delivery };
                        claim::append_claim(&mut effect, name, group_name, group.last_id, id, &again);
                        group.deliver(id, again);
                    }
                }
                None => {
                    reply.array(2);
                    reply_id(reply, id);
                    reply.null_array();
                }
            }
        }
    });
    (reply, effect, is_new)
}
