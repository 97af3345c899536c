//! Sets: <https://redis.io/docs/latest/commands/?group=set>.

use super::key::{ScanOptions, parse_cursor, reply_scan};
use super::{Args, Effect, ErrorReply, ReadContext, Result, WriteContext, parse_integer};
use crate::keyspace::{Absent, Key};
use crate::notify::Classes;
use crate::resp::append_request;
use crate::value::{Dice, Member, Set, SmallForms};

/// No reply has more members than this: it would not fit into memory, and nobody could read it.
const REPEATED_MAX: u64 = 1 << 27;
/// So many members travel in one `SREM`.
const REMOVED_TOGETHER_MAX: usize = 1024;

fn integers_max(context: &WriteContext) -> usize {
    context.config.set_max_intset_entries
}

pub(super) fn sadd(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let integers_max = integers_max(context);
    let added = context.edit(args.first_key(), Absent::Create, |set: &mut Set| {
        args.from(2).filter(|member| set.insert(member, integers_max)).count()
    })?;
    let added = added.unwrap_or_default();
    context.reply.integer(added as i64);
    if added == 0 {
        return Ok(Effect::None);
    }
    context.notify(Classes::SET, "sadd", args.get(1));
    Ok(Effect::Verbatim)
}

pub(super) fn srem(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let removed = context.edit(args.first_key(), Absent::Skip, |set: &mut Set| {
        args.from(2).filter(|member| set.remove(member)).count()
    })?;
    let removed = removed.unwrap_or_default();
    context.reply.integer(removed as i64);
    if removed == 0 {
        return Ok(Effect::None);
    }
    context.notify_taken(Classes::SET, "srem", args.get(1));
    Ok(Effect::Verbatim)
}

pub(super) fn smove(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let (from, to, member) = (args.first_key(), context.keyspace.key(args.get(2)), args.get(3));
    let present = match (context.get(from), context.get(to)) {
        (None, _) => false,
        (Some(source), target) => {
            let set: &Set = super::aggregate(source)?;
            target.map(super::aggregate::<Set>).transpose()?;
            set.contains(member)
        }
    };
    context.reply.integer(i64::from(present));
    if !present || from.bytes == to.bytes {
        return Ok(Effect::None);
    }
    let integers_max = integers_max(context);
    context.edit(from, Absent::Skip, |set: &mut Set| set.remove(member))?;
    context.notify_taken(Classes::SET, "srem", from.bytes);
    // Who watches a set that has it already is not told of anything.
    let is_there = context.value::<Set>(to)?.is_some_and(|set| set.contains(member));
    if !is_there {
        context.edit(to, Absent::Create, |set: &mut Set| set.insert(member, integers_max))?;
        context.notify(Classes::SET, "sadd", to.bytes);
    }
    Ok(Effect::Verbatim)
}

pub(super) fn sismember(context: &mut ReadContext, args: Args) -> Result<()> {
    let set = context.value::<Set>(args.first_key())?;
    context.reply.integer(i64::from(set.is_some_and(|set| set.contains(args.get(2)))));
    Ok(())
}

pub(super) fn smismember(context: &mut ReadContext, args: Args) -> Result<()> {
    let set = context.value::<Set>(args.first_key())?;
    context.reply.array(args.len() - 2);
    args.from(2).for_each(|member| context.reply.integer(i64::from(set.is_some_and(|set| set.contains(member)))));
    Ok(())
}

pub(super) fn scard(context: &mut ReadContext, args: Args) -> Result<()> {
    let len = context.value::<Set>(args.first_key())?.map_or(0, Set::len);
    context.reply.integer(len as i64);
    Ok(())
}

pub(super) fn smembers(context: &mut ReadContext, args: Args) -> Result<()> {
    let set = context.value::<Set>(args.first_key())?;
    context.reply.set(set.map_or(0, Set::len));
    set.into_iter().flat_map(Set::iter).for_each(|member| context.reply.bulk(&member));
    Ok(())
}

pub(super) fn spop(context: &mut WriteContext, args: Args) -> Result<Effect> {
    if args.len() > 2 {
        return pop_several(context, args);
    }
    let key = args.first_key();
    let mut random = Dice::new(context.random.roll());
    let Some(set) = context.value::<Set>(key)? else {
        context.reply.null();
        return Ok(Effect::None);
    };
    let member = set.choose_distinct(1, &mut random).pop().expect("no set in the key space is empty").to_vec();
    context.edit(key, Absent::Skip, |set: &mut Set| set.remove(&member))?;
    context.notify_taken(Classes::SET, "spop", key.bytes);
    context.reply.bulk(&member);
    append_request(context.effect, &[b"SREM", key.bytes, &member]);
    Ok(Effect::Rewritten)
}

fn pop_several(context: &mut WriteContext, args: Args) -> Result<Effect> {
    if args.len() > 3 {
        return Err(ErrorReply::SYNTAX);
    }
    let key = args.first_key();
    let count = parse_integer(args.get(2)).ok().and_then(|count| usize::try_from(count).ok());
    let count = count.ok_or(ErrorReply::NOT_POSITIVE)?;
    let mut random = Dice::new(context.random.roll());
    let (popped, is_all) = match context.value::<Set>(key)? {
        Some(set) => {
            let popped = set.choose_distinct(count, &mut random);
            (popped.iter().map(|member| member.to_vec()).collect::<Vec<_>>(), count >= set.len())
        }
        None => (Vec::new(), false),
    };
    context.reply.set(popped.len());
    popped.iter().for_each(|member| context.reply.bulk(member));
    if popped.is_empty() {
        return Ok(Effect::None);
    }
    if is_all {
        context.notify(Classes::SET, "spop", key.bytes);
        return Ok(remove(context, key));
    }
    context.edit(key, Absent::Skip, |set: &mut Set| popped.iter().for_each(|member| _ = set.remove(member)))?;
    context.notify(Classes::SET, "spop", key.bytes);
    for part in popped.chunks(REMOVED_TOGETHER_MAX) {
        let members = part.iter().map(Vec::as_slice);
        let request: Vec<&[u8]> = [b"SREM", key.bytes].into_iter().chain(members).collect();
        append_request(context.effect, &request);
    }
    Ok(Effect::Rewritten)
}

/// Removes a key, if it is there.
fn remove(context: &mut WriteContext, key: Key) -> Effect {
    if !context.keyspace.remove(context.db, key) {
        return Effect::None;
    }
    context.notify(Classes::GENERIC, "del", key.bytes);
    append_request(context.effect, &[b"DEL", key.bytes]);
    Effect::Rewritten
}

/// The number of elements that a sample is to have; a negative one allows for elements that come twice.
pub(super) fn sample_count(argument: &[u8]) -> Result<i64> {
    let out_of_range =
        ErrorReply::new("ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807");
    parse_integer(argument).and_then(|count| if count == i64::MIN { Err(out_of_range) } else { Ok(count) })
}

/// How many elements a negative count asks for.
pub(super) fn repeated_count(count: i64) -> Result<usize> {
    let count = count.unsigned_abs();
    if count > REPEATED_MAX { Err(ErrorReply::OUT_OF_RANGE) } else { Ok(count as usize) }
}

pub(super) fn srandmember(context: &mut ReadContext, args: Args) -> Result<()> {
    if args.len() > 3 {
        return Err(ErrorReply::SYNTAX);
    }
    let count = args.maybe(2).map(sample_count).transpose()?;
    let set = context.value::<Set>(args.first_key())?;
    let ReadContext { reply, random, .. } = context;
    match (set, count) {
        (None, None) => reply.null(),
        (None, Some(_)) => reply.array(0),
        (Some(set), None) => set.choose(1, random, |member| reply.bulk(member)),
        (Some(set), Some(count)) if count < 0 => {
            let count = repeated_count(count)?;
            reply.array(count);
            set.choose(count, random, |member| reply.bulk(member));
        }
        (Some(set), Some(count)) => {
            let members = set.choose_distinct(count as usize, random);
            reply.array(members.len());
            members.iter().for_each(|member| reply.bulk(member));
        }
    }
    Ok(())
}

/// The members that all have.
fn intersection<'a>(sets: Vec<Option<&'a Set>>) -> impl Iterator<Item = Member<'a>> {
    let mut sets: Vec<&Set> = sets.into_iter().collect::<Option<_>>().unwrap_or_default();
    sets.sort_by_key(|set| set.len());
    let smallest = sets.first().copied();
    let in_all = move |member: &Member| sets.iter().skip(1).all(|set| set.contains(member));
    smallest.into_iter().flat_map(Set::iter).filter(in_all)
}

/// The members that the first has and no other.
fn difference<'a>(mut sets: Vec<Option<&'a Set>>) -> impl Iterator<Item = Member<'a>> {
    let first = sets.remove(0);
    let mut others: Vec<&Set> = sets.into_iter().flatten().collect();
    // What is in one of the others is most likely in the largest.
    others.sort_by_key(|set| std::cmp::Reverse(set.len()));
    let in_none = move |member: &Member| !others.iter().any(|set| set.contains(member));
    first.into_iter().flat_map(Set::iter).filter(in_none)
}

fn union(sets: &[Option<&Set>], integers_max: usize) -> Set {
    collect(sets.iter().flatten().flat_map(|set| set.iter()), integers_max)
}

fn collect<'a>(members: impl Iterator<Item = Member<'a>>, integers_max: usize) -> Set {
    let mut set = Set::new();
    members.for_each(|member| _ = set.insert(&member, integers_max));
    set
}

impl<'a> ReadContext<'a> {
    fn sets(&self, args: Args, first: usize) -> Result<Vec<Option<&'a Set>>> {
        args.from(first).map(|name| self.value(self.keyspace.key(name))).collect()
    }

    fn reply_members(&mut self, members: &[Member]) {
        self.reply.set(members.len());
        members.iter().for_each(|member| self.reply.bulk(member));
    }
}

pub(super) fn sinter(context: &mut ReadContext, args: Args) -> Result<()> {
    let members: Vec<Member> = intersection(context.sets(args, 1)?).collect();
    context.reply_members(&members);
    Ok(())
}

pub(super) fn sdiff(context: &mut ReadContext, args: Args) -> Result<()> {
    let members: Vec<Member> = difference(context.sets(args, 1)?).collect();
    context.reply_members(&members);
    Ok(())
}

pub(super) fn sunion(context: &mut ReadContext, args: Args) -> Result<()> {
    let all = union(&context.sets(args, 1)?, SmallForms::default().integers_max);
    context.reply_members(&all.iter().collect::<Vec<_>>());
    Ok(())
}

pub(super) fn sintercard(context: &mut ReadContext, args: Args) -> Result<()> {
    let bad_count = ErrorReply::new("ERR numkeys should be greater than 0");
    let count =
        parse_integer(args.get(1)).ok().and_then(|count| usize::try_from(count).ok()).filter(|count| *count > 0);
    let count = count.ok_or(bad_count)?;
    if count > args.len() - 2 {
        return Err(ErrorReply::new("ERR Number of keys can't be greater than number of args"));
    }
    let mut limit = 0;
    for index in (2 + count..args.len()).step_by(2) {
        let Some(value) = args.maybe(index + 1).filter(|_| args.is(index, "limit")) else {
            return Err(ErrorReply::SYNTAX);
        };
        let parsed = parse_integer(value).ok().and_then(|limit| usize::try_from(limit).ok());
        limit = parsed.ok_or(ErrorReply::new("ERR LIMIT can't be negative"))?;
    }
    let names = args.from(2).take(count);
    let sets = names.map(|name| context.value(context.keyspace.key(name))).collect::<Result<_>>()?;
    let limit = if limit == 0 { usize::MAX } else { limit };
    context.reply.integer(intersection(sets).take(limit).count() as i64);
    Ok(())
}

impl WriteContext<'_> {
    fn sets(&mut self, args: Args, first: usize) -> Result<Vec<Option<&Set>>> {
        for name in args.from(first) {
            let key = self.keyspace.key(name);
            self.looked_up(key);
            self.value::<Set>(key)?;
        }
        args.from(first).map(|name| self.value(self.keyspace.key(name))).collect()
    }

    /// Stores the result of an operation under the command's first key.
    fn store_result(&mut self, args: Args, result: Set, event: &'static str) -> Effect {
        self.reply.integer(result.len() as i64);
        if result.is_empty() {
            return remove(self, args.first_key());
        }
        self.store(args.first_key(), result);
        self.notify(Classes::SET, event, args.get(1));
        Effect::Verbatim
    }
}

pub(super) fn sinterstore(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let integers_max = integers_max(context);
    let result = collect(intersection(context.sets(args, 2)?), integers_max);
    Ok(context.store_result(args, result, "sinterstore"))
}

pub(super) fn sunionstore(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let integers_max = integers_max(context);
    let result = union(&context.sets(args, 2)?, integers_max);
    Ok(context.store_result(args, result, "sunionstore"))
}

pub(super) fn sdiffstore(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let integers_max = integers_max(context);
    let result = collect(difference(context.sets(args, 2)?), integers_max);
    Ok(context.store_result(args, result, "sdiffstore"))
}

pub(super) fn sscan(context: &mut ReadContext, args: Args) -> Result<()> {
    let cursor = parse_cursor(args.get(2))?;
    let mut found = Vec::new();
    let next = match context.value::<Set>(args.first_key())? {
        None => 0,
        Some(set) => {
            let options = ScanOptions::parse(args, 3)?;
            set.scan(cursor, options.count, |member| {
                if options.is_for(&member) {
                    found.push(member);
                }
            })
        }
    };
    reply_scan(&mut context.reply, next, &found);
    Ok(())
}
