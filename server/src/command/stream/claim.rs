//! `XCLAIM` and `XAUTOCLAIM`: what is with one consumer goes to another.

use super::super::{Args, Effect, ErrorReply, Result, WriteContext};
use super::group::append_setid;
use super::{id_of, no_group, parse_id, parse_start, reply_entry, reply_id};
use crate::keyspace::Absent;
use crate::notify::Classes;
use crate::number::parse_i64;
use crate::resp::{Reply, append_request};
use crate::value::Stream;
use crate::value::stream::{Delivery, Id};

/// Tells replicas with whom an entry is now.
pub(super) fn append_claim(out: &mut Vec<u8>, key: &[u8], group: &[u8], last: Id, id: Id, delivery: &Delivery) {
    let (id, last) = (id.to_string(), last.to_string());
    let (ms, count) = (delivery.ms.to_string(), delivery.count.to_string());
    append_request(
        out,
        &[
            b"XCLAIM",
            key,
            group,
            &delivery.consumer,
            b"0",
            id.as_bytes(),
            b"TIME",
            ms.as_bytes(),
            b"RETRYCOUNT",
            count.as_bytes(),
            b"FORCE",
            b"JUSTID",
            b"LASTID",
            last.as_bytes(),
        ],
    );
}

fn parse_or(text: &[u8], error: &'static str) -> Result<i64> {
    parse_i64(text).ok_or(ErrorReply::new(error))
}

/// What a claim does with each entry.
struct Claim<'a> {
    key: &'a [u8],
    group: &'a [u8],
    consumer: &'a [u8],
    min_idle_ms: i64,
    /// When the entry is said to have been delivered.
    delivered_ms: i64,
    retries: Option<u64>,
    force: bool,
    just_id: bool,
    now_ms: i64,
}

/// What a claim leads to beside its reply.
#[derive(Default)]
struct Out {
    /// What replicas are told.
    effect: Vec<u8>,
    is_consumer_new: bool,
}

/// What became of an entry.
enum Claimed {
    Yes,
    /// It is not pending, or not for long enough.
    No,
    /// It was pending and is no more, since the stream has it no more.
    Gone,
}

impl Claim<'_> {
    fn run(&self, stream: &mut Stream, id: Id, reply: &mut Reply, out: &mut Out) -> Claimed {
        let effect = &mut out.effect;
        let exists = stream.get(id).is_some();
        let group = stream.group_mut(self.group).expect("it was just found");
        let old = group.delivery(id).cloned();
        if !exists {
            let Some(old) = old else { return Claimed::No };
            append_claim(effect, self.key, self.group, group.last_id, id, &old);
            append_request(effect, &[b"XACK", self.key, self.group, id.to_string().as_bytes()]);
            group.acknowledge(id);
            return Claimed::Gone;
        }
        let count = match &old {
            None if !self.force => return Claimed::No,
            Some(old) if self.min_idle_ms > 0 && self.now_ms - old.ms < self.min_idle_ms => return Claimed::No,
            old => old.as_ref().map_or(1, |old| old.count),
        };
        let (consumer, is_new) = group.see(self.consumer, self.now_ms);
        out.is_consumer_new |= is_new;
        let count = self.retries.unwrap_or(if self.just_id { count } else { count.saturating_add(1) });
        let delivery = Delivery { consumer, ms: self.delivered_ms, count };
        append_claim(effect, self.key, self.group, group.last_id, id, &delivery);
        group.deliver(id, delivery);
        match stream.get(id) {
            Some(entry) if !self.just_id => reply_entry(reply, &entry),
            _ => reply_id(reply, id),
        }
        Claimed::Yes
    }
}

fn require_group(context: &mut WriteContext, args: Args) -> Result<Id> {
    context.looked_up(args.first_key());
    let group = context.value::<Stream>(args.first_key())?.and_then(|stream| stream.group(args.get(2)));
    group.map(|group| group.last_id).ok_or_else(|| no_group(args.get(1), args.get(2), ""))
}

pub(in super::super) fn xclaim(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let group_last = require_group(context, args)?;
    let now_ms = context.now_ms;
    let min_idle_ms = parse_or(args.get(4), "ERR Invalid min-idle-time argument for XCLAIM")?.max(0);
    let ids: Vec<Id> = args.from(5).map_while(|id| id_of(id, 0)).collect();
    let (mut delivered, mut retries, mut force, mut just_id, mut last) = (-1, -1, false, false, Id::MIN);
    let mut index = 5 + ids.len();
    while let Some(option) = args.maybe(index) {
        let value = args.maybe(index + 1);
        match (option.to_ascii_lowercase().as_slice(), value) {
            (b"force", _) => force = true,
            (b"justid", _) => just_id = true,
            (b"idle", Some(idle)) => {
                delivered = now_ms.wrapping_sub(parse_or(idle, "ERR Invalid IDLE option argument for XCLAIM")?);
                index += 1;
            }
            (b"time", Some(time)) => {
                delivered = parse_or(time, "ERR Invalid TIME option argument for XCLAIM")?;
                index += 1;
            }
            (b"retrycount", Some(count)) => {
                retries = parse_or(count, "ERR Invalid RETRYCOUNT option argument for XCLAIM")?;
                index += 1;
            }
            (b"lastid", Some(id)) => {
                last = parse_id(id, 0)?;
                index += 1;
            }
            _ => return Err(ErrorReply::quoting("ERR Unrecognized XCLAIM option '", option, "'")),
        }
        index += 1;
    }
    let claim = Claim {
        key: args.get(1),
        group: args.get(2),
        consumer: args.get(3),
        min_idle_ms,
        delivered_ms: if (0..=now_ms).contains(&delivered) { delivered } else { now_ms },
        retries: u64::try_from(retries).ok(),
        force,
        just_id,
        now_ms,
    };
    let (mut out, mut effects, mut claimed) = (Vec::new(), Out::default(), 0);
    let mut reply = Reply::new(&mut out, context.reply.protocol());
    context.edit(args.first_key(), Absent::Skip, |stream: &mut Stream| {
        let group = stream.group_mut(claim.group).expect("it was just found");
        if last > group_last {
            group.last_id = last;
            append_setid(&mut effects.effect, claim.key, claim.group, group);
        }
        for id in ids {
            claimed += usize::from(matches!(claim.run(stream, id, &mut reply, &mut effects), Claimed::Yes));
        }
    })?;
    context.reply.array(claimed);
    context.reply.raw(&out);
    Ok(rewritten(context, args, &effects))
}

fn rewritten(context: &mut WriteContext, args: Args, out: &Out) -> Effect {
    if out.is_consumer_new {
        context.notify(Classes::STREAM, "xgroup-createconsumer", args.get(1));
    }
    context.effect.extend_from_slice(&out.effect);
    if out.effect.is_empty() { Effect::None } else { Effect::Rewritten }
}

pub(in super::super) fn xautoclaim(context: &mut WriteContext, args: Args) -> Result<Effect> {
    /// So many entries are looked at for each that is wanted.
    const ATTEMPTS: usize = 10;
    let min_idle_ms = parse_or(args.get(4), "ERR Invalid min-idle-time argument for XAUTOCLAIM")?.max(0);
    let start = parse_start(args.get(5))?;
    let (mut count, mut just_id, mut index) = (100, false, 6);
    while index < args.len() {
        match args.maybe(index + 1) {
            Some(value) if args.is(index, "count") => {
                const COUNT_MAX: i64 = i64::MAX / 16;
                let wanted = parse_i64(value).filter(|wanted| (1..=COUNT_MAX).contains(wanted));
                count = wanted.ok_or(ErrorReply::new("ERR COUNT must be > 0"))? as usize;
                index += 1;
            }
            _ if args.is(index, "justid") => just_id = true,
            _ => return Err(ErrorReply::SYNTAX),
        }
        index += 1;
    }
    require_group(context, args)?;
    let now_ms = context.now_ms;
    let claim = Claim {
        key: args.get(1),
        group: args.get(2),
        consumer: args.get(3),
        min_idle_ms,
        delivered_ms: now_ms,
        retries: None,
        force: false,
        just_id,
        now_ms,
    };
    let (mut out, mut effects, mut claimed, mut gone) = (Vec::new(), Out::default(), 0, Vec::new());
    let mut reply = Reply::new(&mut out, context.reply.protocol());
    let next = context.edit(args.first_key(), Absent::Skip, |stream: &mut Stream| {
        let before = stream.clone();
        let mut pending = before.group(claim.group)?.pending(start, Id::MAX).map(|(id, _)| id);
        let mut attempts = count.saturating_mul(ATTEMPTS);
        while attempts > 0 && claimed + gone.len() < count {
            let id = pending.next()?;
            attempts -= 1;
            match claim.run(stream, id, &mut reply, &mut effects) {
                Claimed::Yes => claimed += 1,
                Claimed::Gone => gone.push(id),
                Claimed::No => {}
            }
        }
        pending.next()
    })?;
    context.reply.array(3);
    reply_id(&mut context.reply, next.flatten().unwrap_or(Id::MIN));
    context.reply.array(claimed);
    context.reply.raw(&out);
    context.reply.array(gone.len());
    gone.into_iter().for_each(|id| reply_id(&mut context.reply, id));
    Ok(rewritten(context, args, &effects))
}
