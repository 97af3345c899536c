//! Lists: <https://redis.io/docs/latest/commands/?group=list>.

use std::ops::Range;

use super::{
    Args, Attempt, Effect, ErrorReply, ReadContext, Result, WriteContext, parse_count, parse_integer, parse_timeout,
};
use crate::keyspace::Absent;
use crate::notify::Classes;
use crate::resp::append_request;
use crate::value::{End, List};

impl End {
    fn parse(word: &[u8]) -> Result<End> {
        match word.to_ascii_lowercase().as_slice() {
            b"left" => Ok(End::Front),
            b"right" => Ok(End::Back),
            _ => Err(ErrorReply::SYNTAX),
        }
    }

    /// The event of an element that was put to this end.
    fn push_event(self) -> &'static str {
        match self {
            End::Front => "lpush",
            End::Back => "rpush",
        }
    }

    /// That of one that was taken from it.
    fn pop_event(self) -> &'static str {
        match self {
            End::Front => "lpop",
            End::Back => "rpop",
        }
    }

    /// The command that takes elements away from this end.
    fn pop_command(self) -> &'static [u8] {
        match self {
            End::Front => b"LPOP",
            End::Back => b"RPOP",
        }
    }
}

impl List {
    fn push(&mut self, end: End, element: &[u8]) {
        match end {
            End::Front => self.push_front(element),
            End::Back => self.push_back(element),
        }
    }

    /// Takes the element at this end away after it was shown.
    fn pop_with(&mut self, end: End, show: impl FnOnce(&[u8])) {
        let index = match end {
            End::Front => 0,
            End::Back => self.len().saturating_sub(1),
        };
        if let Some(element) = self.get(index) {
            show(element);
            self.remove(index, 1);
        }
    }

    fn pop(&mut self, end: End) -> Option<Vec<u8>> {
        match end {
            End::Front => self.pop_front(),
            End::Back => self.pop_back(),
        }
    }
}

/// The index that an argument means; negative ones count from the end.
fn absolute(index: i64, len: usize) -> Option<usize> {
    let index = if index < 0 { index.checked_add(len as i64)? } else { index };
    usize::try_from(index).ok().filter(|index| *index < len)
}

/// The indices from `start` to `end`, both inclusive and counted from the end if negative.
fn absolute_range(start: i64, end: i64, len: usize) -> Range<usize> {
    let len = len as i64;
    let from_start = |index: i64| if index < 0 { index + len } else { index };
    let (start, end) = (from_start(start).max(0), from_start(end).min(len - 1));
    if start > end { 0..0 } else { start as usize..end as usize + 1 }
}

fn push(context: &mut WriteContext, args: Args, end: End, absent: Absent) -> Result<Effect> {
    let len = context.edit(args.first_key(), absent, |list: &mut List| {
        args.from(2).for_each(|element| list.push(end, element));
        list.len()
    })?;
    context.reply.integer(len.unwrap_or(0) as i64);
    if len.is_none() {
        return Ok(Effect::None);
    }
    context.notify(Classes::LIST, end.push_event(), args.get(1));
    Ok(Effect::Verbatim)
}

pub(super) fn lpush(context: &mut WriteContext, args: Args) -> Result<Effect> {
    push(context, args, End::Front, Absent::Create)
}

pub(super) fn rpush(context: &mut WriteContext, args: Args) -> Result<Effect> {
    push(context, args, End::Back, Absent::Create)
}

pub(super) fn lpushx(context: &mut WriteContext, args: Args) -> Result<Effect> {
    push(context, args, End::Front, Absent::Skip)
}

pub(super) fn rpushx(context: &mut WriteContext, args: Args) -> Result<Effect> {
    push(context, args, End::Back, Absent::Skip)
}

/// Takes up to `count` elements away and replies with them; how many, or `None` if there is no list.
fn pop_many(context: &mut WriteContext, name: &[u8], end: End, count: usize) -> Result<Option<usize>> {
    let (key, reply) = (context.keyspace.key(name), &mut context.reply);
    let popped = context.keyspace.edit(context.db, key, context.expiry_ms, Absent::Skip, |list: &mut List| {
        let (len, count) = (list.len(), count.min(list.len()));
        reply.array(count);
        match end {
            End::Front => {
                list.range(0..count).for_each(|element| reply.bulk(element));
                list.remove(0, count);
            }
            End::Back => {
                list.range(len - count..len).rev().for_each(|element| reply.bulk(element));
                list.remove(len - count, count);
            }
        }
        count
    })?;
    if popped.is_some_and(|count| count > 0) {
        context.notify_taken(Classes::LIST, end.pop_event(), name);
    }
    Ok(popped)
}

fn pop(context: &mut WriteContext, args: Args, end: End, name: &str) -> Result<Effect> {
    let popped = match args.len() {
        2 => {
            let (key, reply) = (args.first_key(), &mut context.reply);
            let popped =
                context.keyspace.edit(context.db, key, context.expiry_ms, Absent::Skip, |list: &mut List| {
                    list.pop_with(end, |element| reply.bulk(element))
                })?;
            match popped {
                Some(()) => context.notify_taken(Classes::LIST, end.pop_event(), args.get(1)),
                None => context.reply.null(),
            }
            usize::from(popped.is_some())
        }
        3 => {
            let count = parse_count(args.get(2), 0, "ERR value is out of range, must be positive")?;
            let popped = pop_many(context, args.get(1), end, count)?;
            if popped.is_none() {
                context.reply.null_array();
            }
            popped.unwrap_or(0)
        }
        _ => return Err(ErrorReply::arity(name)),
    };
    Ok(if popped > 0 { Effect::Verbatim } else { Effect::None })
}

pub(super) fn lpop(context: &mut WriteContext, args: Args) -> Result<Effect> {
    pop(context, args, End::Front, "lpop")
}

pub(super) fn rpop(context: &mut WriteContext, args: Args) -> Result<Effect> {
    pop(context, args, End::Back, "rpop")
}

pub(super) fn llen(context: &mut ReadContext, args: Args) -> Result<()> {
    let len = context.value(args.first_key())?.map_or(0, List::len);
    context.reply.integer(len as i64);
    Ok(())
}

pub(super) fn lindex(context: &mut ReadContext, args: Args) -> Result<()> {
    let element = match context.value::<List>(args.first_key())? {
        None => None,
        Some(list) => absolute(parse_integer(args.get(2))?, list.len()).and_then(|index| list.get(index)),
    };
    context.reply.bulk_or_null(element);
    Ok(())
}

pub(super) fn lset(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let key = args.first_key();
    let len = context.value(key)?.map(List::len).ok_or(ErrorReply::NO_SUCH_KEY)?;
    let out_of_range = ErrorReply::new("ERR index out of range");
    let index = absolute(parse_integer(args.get(2))?, len).ok_or(out_of_range)?;
    context.edit(key, Absent::Skip, |list: &mut List| list.set(index, args.get(3)))?;
    context.notify(Classes::LIST, "lset", key.bytes);
    context.reply.ok();
    Ok(Effect::Verbatim)
}

pub(super) fn lrange(context: &mut ReadContext, args: Args) -> Result<()> {
    let (start, end) = (parse_integer(args.get(2))?, parse_integer(args.get(3))?);
    let Some(list) = context.value::<List>(args.first_key())? else {
        context.reply.array(0);
        return Ok(());
    };
    let elements = list.range(absolute_range(start, end, list.len()));
    context.reply.array(elements.len());
    elements.for_each(|element| context.reply.bulk(element));
    Ok(())
}

pub(super) fn ltrim(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let (start, end) = (parse_integer(args.get(2))?, parse_integer(args.get(3))?);
    let removed = context.edit(args.first_key(), Absent::Skip, |list: &mut List| {
        let len = list.len();
        list.trim(absolute_range(start, end, len));
        len - list.len()
    })?;
    if removed.is_some() {
        context.notify_taken(Classes::LIST, "ltrim", args.get(1));
    }
    context.reply.ok();
    Ok(if removed.unwrap_or(0) > 0 { Effect::Verbatim } else { Effect::None })
}

/// Removes so many of the elements that are equal to one: from the last on if the number is negative, all if it is 0.
pub(super) fn lrem(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let count = parse_integer(args.get(2))?;
    let from = if count < 0 { End::Back } else { End::Front };
    let most = if count == 0 { usize::MAX } else { count.unsigned_abs() as usize };
    let remove = |list: &mut List| list.remove_equal(args.get(3), most, from);
    let removed = context.edit(args.first_key(), Absent::Skip, remove)?.unwrap_or(0);
    context.reply.integer(removed as i64);
    if removed == 0 {
        return Ok(Effect::None);
    }
    context.notify_taken(Classes::LIST, "lrem", args.get(1));
    Ok(Effect::Verbatim)
}

pub(super) fn linsert(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let behind = match args.get(2).to_ascii_lowercase().as_slice() {
        b"before" => 0,
        b"after" => 1,
        _ => return Err(ErrorReply::SYNTAX),
    };
    let len = context.edit(args.first_key(), Absent::Skip, |list: &mut List| {
        let pivot = list.iter().position(|element| element == args.get(3))?;
        list.insert(pivot + behind, args.get(4));
        Some(list.len())
    })?;
    context.reply.integer(len.map_or(0, |len| len.map_or(-1, |len| len as i64)));
    if len.flatten().is_none() {
        return Ok(Effect::None);
    }
    context.notify(Classes::LIST, "linsert", args.get(1));
    Ok(Effect::Verbatim)
}

/// Which of the elements that are equal to one `LPOS` tells.
struct Search {
    /// The matches before this one do not count.
    rank: usize,
    from: End,
    /// How many are told, as an array; 0 for all.
    count: Option<usize>,
    /// So many elements are looked at; 0 for all.
    len_max: usize,
}

impl Search {
    fn parse(args: Args) -> Result<Search> {
        let mut search = Search { rank: 1, from: End::Front, count: None, len_max: 0 };
        for index in (3..args.len()).step_by(2) {
            let Some(value) = args.maybe(index + 1) else { return Err(ErrorReply::SYNTAX) };
            match args.get(index).to_ascii_lowercase().as_slice() {
                b"rank" => match parse_integer(value)? {
                    0 => {
                        return Err(ErrorReply::new(
                            "ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... or \
                             use negative to start from the end of the list",
                        ));
                    }
                    rank => {
                        search.rank = rank.unsigned_abs() as usize;
                        search.from = if rank < 0 { End::Back } else { End::Front };
                    }
                },
                b"count" => search.count = Some(parse_count(value, 0, "ERR COUNT can't be negative")?),
                b"maxlen" => search.len_max = parse_count(value, 0, "ERR MAXLEN can't be negative")?,
                _ => return Err(ErrorReply::SYNTAX),
            }
        }
        Ok(search)
    }

    /// The indices of what is found in a list.
    fn run(&self, list: &List, element: &[u8]) -> Vec<usize> {
        let len = list.len();
        let looked_at = if self.len_max == 0 { len } else { self.len_max.min(len) };
        let wanted = match self.count {
            None => 1,
            Some(0) => usize::MAX,
            Some(count) => count,
        };
        let matches = |(_, present): &(usize, &[u8])| *present == element;
        match self.from {
            End::Front => {
                let found = list.range(0..looked_at).enumerate().filter(matches);
                found.skip(self.rank - 1).take(wanted).map(|(index, _)| index).collect()
            }
            End::Back => {
                let found = list.range(len - looked_at..len).rev().enumerate().filter(matches);
                found.skip(self.rank - 1).take(wanted).map(|(index, _)| len - 1 - index).collect()
            }
        }
    }
}

pub(super) fn lpos(context: &mut ReadContext, args: Args) -> Result<()> {
    let search = Search::parse(args)?;
    let list = context.value(args.first_key())?;
    let found = list.map(|list| search.run(list, args.get(2))).unwrap_or_default();
    match (search.count, found.first()) {
        (None, None) => context.reply.null(),
        (None, Some(index)) => context.reply.integer(*index as i64),
        (Some(_), _) => {
            context.reply.array(found.len());
            found.iter().for_each(|index| context.reply.integer(*index as i64));
        }
    }
    Ok(())
}

/// Moves an element from `args[1]` to `args[2]` and replies with it; false, without a reply, if there is none.
fn move_element(context: &mut WriteContext, args: Args, from: End, to: End) -> Result<bool> {
    let (source, target) = (args.first_key(), context.keyspace.key(args.get(2)));
    if context.value::<List>(source)?.is_none() {
        return Ok(false);
    }
    context.value::<List>(target)?;
    let is_rotation = source.bytes == target.bytes;
    let element = context.edit(source, Absent::Skip, |list: &mut List| {
        let element = list.pop(from)?;
        if is_rotation {
            list.push(to, &element);
        }
        Some(element)
    })?;
    let element = element.flatten().expect("there was a list, and none is empty");
    if !is_rotation {
        context.edit(target, Absent::Create, |list: &mut List| list.push(to, &element))?;
    }
    context.notify(Classes::LIST, to.push_event(), target.bytes);
    context.notify_taken(Classes::LIST, from.pop_event(), source.bytes);
    context.reply.bulk(&element);
    Ok(true)
}

fn move_or_null(context: &mut WriteContext, args: Args, from: End, to: End) -> Result<Effect> {
    if move_element(context, args, from, to)? {
        return Ok(Effect::Verbatim);
    }
    context.reply.null();
    Ok(Effect::None)
}

pub(super) fn lmove(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let (from, to) = (End::parse(args.get(3))?, End::parse(args.get(4))?);
    move_or_null(context, args, from, to)
}

pub(super) fn rpoplpush(context: &mut WriteContext, args: Args) -> Result<Effect> {
    move_or_null(context, args, End::Back, End::Front)
}

/// `numkeys key [key …] LEFT|RIGHT [COUNT count]`.
struct MultiPop {
    /// Which arguments are keys.
    keys: Range<usize>,
    end: End,
    count: usize,
}

impl MultiPop {
    /// What the arguments from `first` on say.
    fn parse(args: Args, first: usize) -> Result<MultiPop> {
        let keys = parse_count(args.get(first), 1, "ERR numkeys should be greater than 0")?;
        let keys = first + 1..(first + 1).saturating_add(keys);
        let end = End::parse(args.maybe(keys.end).ok_or(ErrorReply::SYNTAX)?)?;
        let count = match (args.len() - keys.end, args.maybe(keys.end + 2)) {
            (1, _) => 1,
            (given @ 3.., Some(count)) if args.is(keys.end + 1, "count") => {
                let count = parse_count(count, 1, "ERR count should be greater than 0")?;
                // Arguments are read in order: the count is refused before what follows it.
                if given > 3 {
                    return Err(ErrorReply::SYNTAX);
                }
                count
            }
            _ => return Err(ErrorReply::SYNTAX),
        };
        Ok(MultiPop { keys, end, count })
    }

    /// Takes elements from the first of the keys that has any and replies with its name and these.
    fn run(&self, context: &mut WriteContext, args: Args, ready: Option<&[u8]>) -> Result<bool> {
        let Some(name) = first_list(context, args, self.keys.clone(), ready)? else { return Ok(false) };
        context.reply.array(2);
        context.reply.bulk(name);
        let popped = pop_many(context, name, self.end, self.count)?.unwrap_or(0);
        let mut digits = itoa::Buffer::new();
        append_request(context.effect, &[self.end.pop_command(), name, digits.format(popped).as_bytes()]);
        Ok(true)
    }
}

pub(super) fn lmpop(context: &mut WriteContext, args: Args) -> Result<Effect> {
    if MultiPop::parse(args, 1)?.run(context, args, None)? {
        return Ok(Effect::Rewritten);
    }
    context.reply.null_array();
    Ok(Effect::None)
}

/// The first of the keys that holds a list. Of one that waits only the key that is `ready` is looked at, and it is no
/// error if that holds something else.
fn first_list<'a>(
    context: &WriteContext,
    args: Args<'a>,
    keys: Range<usize>,
    ready: Option<&[u8]>,
) -> Result<Option<&'a [u8]>> {
    let wanted = |name: &&[u8]| ready.is_none_or(|ready| ready == *name);
    for name in keys.map(|index| args.get(index)).filter(wanted) {
        match context.value::<List>(context.keyspace.key(name)) {
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
    let Some(name) = first_list(context, args, keys.clone(), ready)? else {
        context.reply.null_array();
        return Ok(Attempt::Wait { keys, deadline_ms });
    };
    let key = context.keyspace.key(name);
    let element = context.edit(key, Absent::Skip, |list: &mut List| list.pop(end))?.flatten();
    context.reply.array(2);
    context.reply.bulk(name);
    context.reply.bulk_or_null(element.as_deref());
    context.notify_taken(Classes::LIST, end.pop_event(), name);
    append_request(context.effect, &[end.pop_command(), name]);
    Ok(Attempt::Done(Effect::Rewritten))
}

pub(super) fn blpop(context: &mut WriteContext, args: Args, ready: Option<&[u8]>) -> Result<Attempt> {
    blocking_pop(context, args, ready, End::Front)
}

pub(super) fn brpop(context: &mut WriteContext, args: Args, ready: Option<&[u8]>) -> Result<Attempt> {
    blocking_pop(context, args, ready, End::Back)
}

pub(super) fn blmpop(context: &mut WriteContext, args: Args, ready: Option<&[u8]>) -> Result<Attempt> {
    let pop = MultiPop::parse(args, 2)?;
    let deadline_ms = parse_timeout(args.get(1), context.now_ms)?;
    if pop.run(context, args, ready)? {
        return Ok(Attempt::Done(Effect::Rewritten));
    }
    context.reply.null_array();
    Ok(Attempt::Wait { keys: pop.keys, deadline_ms })
}

/// Moves an element; false if its client waits for one.
fn blocking_move(context: &mut WriteContext, args: Args, ready: Option<&[u8]>, from: End, to: End) -> Result<bool> {
    let is_there = first_list(context, args, 1..2, ready)?.is_some();
    if !is_there {
        context.reply.null();
        return Ok(false);
    }
    move_element(context, args, from, to)
}

pub(super) fn blmove(context: &mut WriteContext, args: Args, ready: Option<&[u8]>) -> Result<Attempt> {
    let (from, to) = (End::parse(args.get(3))?, End::parse(args.get(4))?);
    let deadline_ms = parse_timeout(args.get(5), context.now_ms)?;
    if !blocking_move(context, args, ready, from, to)? {
        return Ok(Attempt::Wait { keys: 1..2, deadline_ms });
    }
    append_request(context.effect, &[b"LMOVE", args.get(1), args.get(2), args.get(3), args.get(4)]);
    Ok(Attempt::Done(Effect::Rewritten))
}

pub(super) fn brpoplpush(context: &mut WriteContext, args: Args, ready: Option<&[u8]>) -> Result<Attempt> {
    let deadline_ms = parse_timeout(args.get(3), context.now_ms)?;
    if !blocking_move(context, args, ready, End::Back, End::Front)? {
        return Ok(Attempt::Wait { keys: 1..2, deadline_ms });
    }
    append_request(context.effect, &[b"RPOPLPUSH", args.get(1), args.get(2)]);
    Ok(Attempt::Done(Effect::Rewritten))
}
