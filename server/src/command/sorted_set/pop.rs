//! Taking from the ends of sorted sets, and waiting until there is something to take.

use std::ops::Range;

use crate::command::{Args, Attempt, Effect, ErrorReply, Result, WriteContext, parse_count, parse_timeout};
use crate::keyspace::Absent;
use crate::notify::Classes;
use crate::resp::{Protocol, Reply, append_request};
use crate::value::sorted_set::{Entry, SortedSet};

/// Which end of a sorted set is taken from.
#[derive(Clone, Copy)]
enum End {
    Min,
    Max,
}

impl End {
    /// The command that takes from it.
    fn command(self) -> &'static [u8] {
        match self {
            End::Min => b"ZPOPMIN",
            End::Max => b"ZPOPMAX",
        }
    }

    fn event(self) -> &'static str {
        match self {
            End::Min => "zpopmin",
            End::Max => "zpopmax",
        }
    }

    /// Takes up to so many entries away, the outermost first.
    fn pop(self, set: &mut SortedSet, count: usize) -> Vec<(Vec<u8>, f64)> {
        let count = count.min(set.len());
        let owned = |entry: Entry| (entry.member.to_vec(), entry.score);
        let ranks = match self {
            End::Min => 0..count,
            End::Max => set.len() - count..set.len(),
        };
        let entries = set.range(ranks.clone());
        let popped = match self {
            End::Min => entries.map(owned).collect(),
            End::Max => entries.rev().map(owned).collect(),
        };
        set.remove_range(ranks);
        popped
    }
}

fn reply_popped(reply: &mut Reply, popped: &[(Vec<u8>, f64)], are_pairs: bool) {
    reply.array(if are_pairs { popped.len() } else { 2 * popped.len() });
    for (member, score) in popped {
        if are_pairs {
            reply.array(2);
        }
        reply.bulk(member);
        reply.double(*score);
    }
}

fn pop(context: &mut WriteContext, args: Args, end: End) -> Result<Effect> {
    let count = match args.len() {
        2 => None,
        3 => Some(parse_count(args.get(2), 0, "ERR value is out of range, must be positive")?),
        _ => return Err(ErrorReply::SYNTAX),
    };
    let pop = |set: &mut SortedSet| end.pop(set, count.unwrap_or(1));
    let popped = context.edit(args.first_key(), Absent::Skip, pop)?.unwrap_or_default();
    let are_pairs = count.is_some() && context.reply.protocol() == Protocol::Resp3;
    reply_popped(&mut context.reply, &popped, are_pairs);
    if popped.is_empty() {
        return Ok(Effect::None);
    }
    context.notify_taken(Classes::SORTED_SET, end.event(), args.get(1));
    Ok(Effect::Verbatim)
}

pub(in crate::command) fn zpopmin(context: &mut WriteContext, args: Args) -> Result<Effect> {
    pop(context, args, End::Min)
}

pub(in crate::command) fn zpopmax(context: &mut WriteContext, args: Args) -> Result<Effect> {
    pop(context, args, End::Max)
}

/// What a `ZMPOP` takes.
struct MultiPop {
    /// Which arguments are keys.
    keys: Range<usize>,
    end: End,
    count: usize,
}

impl MultiPop {
    /// The number of keys is the argument `first`.
    fn parse(args: Args, first: usize) -> Result<Self> {
        let keys = parse_count(args.get(first), 1, "ERR numkeys should be greater than 0")?;
        let after = (first + 1).saturating_add(keys);
        let end = match args.maybe(after).map(<[u8]>::to_ascii_lowercase).as_deref() {
            Some(b"min") => End::Min,
            Some(b"max") => End::Max,
            _ => return Err(ErrorReply::SYNTAX),
        };
        let count = match (args.len() - after, args.maybe(after + 2)) {
            (1, _) => 1,
            (given @ 3.., Some(count)) if args.is(after + 1, "count") => {
                let count = parse_count(count, 1, "ERR count should be greater than 0")?;
                // Arguments are read in order: the count is refused before what follows it.
                if given > 3 {
                    return Err(ErrorReply::SYNTAX);
                }
                count
            }
            _ => return Err(ErrorReply::SYNTAX),
        };
        Ok(MultiPop { keys: first + 1..after, end, count })
    }

    /// Takes entries from the first of the keys that has any and replies with its name and these.
    fn run(&self, context: &mut WriteContext, args: Args, ready: Option<&[u8]>) -> Result<bool> {
        let Some(name) = first_sorted_set(context, args, self.keys.clone(), ready)? else {
            context.reply.null_array();
            return Ok(false);
        };
        let key = context.keyspace.key(name);
        let pop = |set: &mut SortedSet| self.end.pop(set, self.count);
        let popped = context.edit(key, Absent::Skip, pop)?.unwrap_or_default();
        context.reply.array(2);
        context.reply.bulk(name);
        reply_popped(&mut context.reply, &popped, true);
        context.notify_taken(Classes::SORTED_SET, self.end.event(), name);
        let mut digits = itoa::Buffer::new();
        append_request(context.effect, &[self.end.command(), name, digits.format(popped.len()).as_bytes()]);
        Ok(true)
    }
}

pub(in crate::command) fn zmpop(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let is_done = MultiPop::parse(args, 1)?.run(context, args, None)?;
    Ok(if is_done { Effect::Rewritten } else { Effect::None })
}

/// The first of the keys that holds a sorted set. Of one that waits only the key that is `ready` is looked at, and it is
/// no error if that holds something else.
fn first_sorted_set<'a>(
    context: &WriteContext,
    args: Args<'a>,
    keys: Range<usize>,
    ready: Option<&[u8]>,
) -> Result<Option<&'a [u8]>> {
    let wanted = |name: &&[u8]| ready.is_none_or(|ready| ready == *name);
    for name in keys.map(|index| args.get(index)).filter(wanted) {
        match context.value::<SortedSet>(context.keyspace.key(name)) {
            Ok(Some(_)) => return Ok(Some(name)),
            Err(error) if ready.is_none() => return Err(error),
            _ => {}
        }
    }
    Ok(None)
}

fn blocking_pop(context: &mut WriteContext, args: Args, ready: Option<&[u8]>, end: End) -> Result<Attempt> {
    let keys = 1..args.len() - 1;
    let deadline_ms = parse_timeout(args.get(keys.end), context.now_ms)?;
    let Some(name) = first_sorted_set(context, args, keys.clone(), ready)? else {
        context.reply.null_array();
        return Ok(Attempt::Wait { keys, deadline_ms });
    };
    let key = context.keyspace.key(name);
    let popped = context.edit(key, Absent::Skip, |set: &mut SortedSet| end.pop(set, 1))?.unwrap_or_default();
    context.reply.array(3);
    context.reply.bulk(name);
    for (member, score) in &popped {
        context.reply.bulk(member);
        context.reply.double(*score);
    }
    context.notify_taken(Classes::SORTED_SET, end.event(), name);
    append_request(context.effect, &[end.command(), name]);
    Ok(Attempt::Done(Effect::Rewritten))
}

pub(in crate::command) fn bzpopmin(context: &mut WriteContext, args: Args, ready: Option<&[u8]>) -> Result<Attempt> {
    blocking_pop(context, args, ready, End::Min)
}

pub(in crate::command) fn bzpopmax(context: &mut WriteContext, args: Args, ready: Option<&[u8]>) -> Result<Attempt> {
    blocking_pop(context, args, ready, End::Max)
}

pub(in crate::command) fn bzmpop(context: &mut WriteContext, args: Args, ready: Option<&[u8]>) -> Result<Attempt> {
    let pop = MultiPop::parse(args, 2)?;
    let deadline_ms = parse_timeout(args.get(1), context.now_ms)?;
    let is_done = pop.run(context, args, ready)?;
    Ok(if is_done { Attempt::Done(Effect::Rewritten) } else { Attempt::Wait { keys: pop.keys, deadline_ms } })
}
