//! Sorted sets: <https://redis.io/docs/latest/commands/?group=sorted-set>.

mod combination;
mod decimal;
mod pop;

use std::ops::Range;

pub(super) use combination::{zdiff, zdiffstore, zinter, zintercard, zinterstore, zunion, zunionstore};
pub(super) use pop::{bzmpop, bzpopmax, bzpopmin, zmpop, zpopmax, zpopmin};

use self::decimal::in_decimal;
use super::key::{ScanOptions, parse_cursor, reply_scan};
use super::{Args, Effect, ErrorReply, ReadContext, Result, WriteContext, parse_integer};
use crate::config::Config;
use crate::keyspace::{Absent, Key};
use crate::notify::Classes;
use crate::number::{DoubleText, parse_bound, parse_f64};
use crate::resp::{Protocol, Reply};
use crate::value::SmallForm;
use crate::value::sorted_set::{Entry, SortedSet};

/// Up to which size a sorted set keeps its small form.
pub(super) fn small_form(config: &Config) -> SmallForm {
    let string_bytes_max = usize::try_from(config.zset_max_listpack_value).unwrap_or(usize::MAX);
    SmallForm { len_max: config.zset_max_listpack_entries, string_bytes_max }
}

fn parse_score(text: &[u8]) -> Result<f64> {
    parse_f64(text).ok_or(ErrorReply::NOT_A_FLOAT)
}

#[derive(Clone, Copy, Default)]
pub(super) struct AddOptions {
    pub(super) only_new: bool,
    pub(super) only_present: bool,
    only_greater: bool,
    only_less: bool,
    /// Answer with how many have changed, not only with how many are new.
    pub(super) changed: bool,
    increment: bool,
}

/// What became of one member.
enum Addition {
    New(f64),
    Changed(f64),
    Same(f64),
    /// An option stood against it.
    Skipped,
}

impl AddOptions {
    /// Reads options, and returns where the scores and members begin.
    fn parse(mut self, args: Args) -> Result<(Self, usize)> {
        let mut first = 2;
        while let Some(option) = args.maybe(first) {
            match option.to_ascii_lowercase().as_slice() {
                b"nx" => self.only_new = true,
                b"xx" => self.only_present = true,
                b"gt" => self.only_greater = true,
                b"lt" => self.only_less = true,
                b"ch" => self.changed = true,
                b"incr" => self.increment = true,
                _ => break,
            }
            first += 1;
        }
        let pairs = args.len() - first;
        if pairs == 0 || pairs % 2 == 1 {
            return Err(ErrorReply::SYNTAX);
        }
        if self.only_new && self.only_present {
            return Err(ErrorReply::new("ERR XX and NX options at the same time are not compatible"));
        }
        if [self.only_greater, self.only_less, self.only_new].iter().filter(|is_given| **is_given).count() > 1 {
            return Err(ErrorReply::new("ERR GT, LT, and/or NX options at the same time are not compatible"));
        }
        if self.increment && pairs > 2 {
            return Err(ErrorReply::new("ERR INCR option supports a single increment-element pair"));
        }
        Ok((self, first))
    }

    fn add(self, set: &mut SortedSet, member: &[u8], score: f64, small: SmallForm) -> Result<Addition> {
        let Some(old) = set.score(member) else {
            if self.only_present {
                return Ok(Addition::Skipped);
            }
            set.insert(member, score, small);
            return Ok(Addition::New(score));
        };
        let score = if self.increment { old + score } else { score };
        if self.only_new {
            return Ok(Addition::Skipped);
        }
        if score.is_nan() {
            return Err(ErrorReply::new("ERR resulting score is not a number (NaN)"));
        }
        if self.only_less && score >= old || self.only_greater && score <= old {
            return Ok(Addition::Skipped);
        }
        if score == old {
            return Ok(Addition::Same(score));
        }
        set.insert(member, score, small);
        Ok(Addition::Changed(score))
    }
}

/// Sets scores, and answers as is said.
pub(super) fn add(context: &mut WriteContext, key: Key, options: AddOptions, entries: &[Entry]) -> Result<Effect> {
    let small = small_form(context.config);
    let absent = if options.only_present { Absent::Skip } else { Absent::Create };
    let (mut new, mut changed, mut score_now) = (0, 0, None);
    let added = context.edit(key, absent, |set: &mut SortedSet| {
        for entry in entries {
            score_now = match options.add(set, entry.member, entry.score, small)? {
                Addition::New(score) => {
                    new += 1;
                    Some(score)
                }
                Addition::Changed(score) => {
                    changed += 1;
                    Some(score)
                }
                Addition::Same(score) => Some(score),
                Addition::Skipped => None,
            };
        }
        Ok::<(), ErrorReply>(())
    })?;
    added.transpose()?;
    match score_now {
        Some(score) if options.increment => context.reply.double(score),
        None if options.increment => context.reply.null(),
        _ => context.reply.integer(if options.changed { new + changed } else { new }),
    }
    if new + changed == 0 {
        return Ok(Effect::None);
    }
    context.notify(Classes::SORTED_SET, if options.increment { "zincr" } else { "zadd" }, key.bytes);
    Ok(Effect::Verbatim)
}

fn parse_and_add(context: &mut WriteContext, args: Args, options: AddOptions) -> Result<Effect> {
    let (options, first) = options.parse(args)?;
    let entry = |index| Ok(Entry { score: parse_score(args.get(index))?, member: args.get(index + 1) });
    let effect = if args.len() == first + 2 {
        add(context, args.first_key(), options, &[entry(first)?])?
    } else {
        let entries: Vec<Entry> = (first..args.len()).step_by(2).map(entry).collect::<Result<_>>()?;
        add(context, args.first_key(), options, &entries)?
    };
    Ok(in_decimal(context, args, effect, |index| index >= first && (index - first).is_multiple_of(2)))
}

pub(super) fn zadd(context: &mut WriteContext, args: Args) -> Result<Effect> {
    parse_and_add(context, args, AddOptions::default())
}

pub(super) fn zincrby(context: &mut WriteContext, args: Args) -> Result<Effect> {
    parse_and_add(context, args, AddOptions { increment: true, ..AddOptions::default() })
}

pub(super) fn zrem(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let removed = context.edit(args.first_key(), Absent::Skip, |set: &mut SortedSet| {
        args.from(2).filter(|member| set.remove(member)).count()
    })?;
    Ok(answer_removed(context, args, "zrem", removed.unwrap_or(0)))
}

fn answer_removed(context: &mut WriteContext, args: Args, event: &'static str, removed: usize) -> Effect {
    context.reply.integer(removed as i64);
    if removed == 0 {
        return Effect::None;
    }
    context.notify_taken(Classes::SORTED_SET, event, args.get(1));
    Effect::Verbatim
}

pub(super) fn zcard(context: &mut ReadContext, args: Args) -> Result<()> {
    let set = context.value::<SortedSet>(args.first_key())?;
    context.reply.integer(set.map_or(0, SortedSet::len) as i64);
    Ok(())
}

fn double_or_null(reply: &mut Reply, score: Option<f64>) {
    match score {
        Some(score) => reply.double(score),
        None => reply.null(),
    }
}

pub(super) fn zscore(context: &mut ReadContext, args: Args) -> Result<()> {
    let set = context.value::<SortedSet>(args.first_key())?;
    double_or_null(&mut context.reply, set.and_then(|set| set.score(args.get(2))));
    Ok(())
}

pub(super) fn zmscore(context: &mut ReadContext, args: Args) -> Result<()> {
    let set = context.value::<SortedSet>(args.first_key())?;
    context.reply.array(args.len() - 2);
    for member in args.from(2) {
        double_or_null(&mut context.reply, set.and_then(|set| set.score(member)));
    }
    Ok(())
}

fn answer_rank(context: &mut ReadContext, args: Args, direction: Direction) -> Result<()> {
    let set = context.value::<SortedSet>(args.first_key())?;
    let rank = set.and_then(|set| {
        let rank = set.rank(args.get(2))?;
        Some(if direction == Direction::Descending { set.len() - 1 - rank } else { rank })
    });
    match rank {
        Some(rank) => context.reply.integer(rank as i64),
        None => context.reply.null(),
    }
    Ok(())
}

pub(super) fn zrank(context: &mut ReadContext, args: Args) -> Result<()> {
    answer_rank(context, args, Direction::Ascending)
}

pub(super) fn zrevrank(context: &mut ReadContext, args: Args) -> Result<()> {
    answer_rank(context, args, Direction::Descending)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Ascending,
    Descending,
}

/// What an interval is given in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Rank,
    Score,
    Member,
}

/// The part of a sorted set from a least to a greatest.
enum Interval<'a> {
    /// Both inclusive and counted from the end if negative.
    Rank(i64, i64),
    Score(ScoreBound, ScoreBound),
    /// Of a set whose scores are all equal; otherwise it is any part: of a small set, the one that Redis finds.
    Member(MemberBound<'a>, MemberBound<'a>),
}

/// `5`, or `(5` if it is not included itself.
struct ScoreBound {
    score: f64,
    is_exclusive: bool,
}

/// `-`, `+`, `[member`, or `(member` if it is not included itself.
enum MemberBound<'a> {
    Least,
    Greatest,
    Member { member: &'a [u8], is_exclusive: bool },
}

impl ScoreBound {
    fn parse(text: &[u8]) -> Result<Self> {
        let open = text.strip_prefix(b"(");
        let score = parse_bound(open.unwrap_or(text)).ok_or(ErrorReply::new("ERR min or max is not a float"))?;
        Ok(ScoreBound { score, is_exclusive: open.is_some() })
    }

    /// How many entries of `set` are before it, or up to it.
    fn rank(&self, set: &SortedSet, is_upper: bool) -> usize {
        let with_equal = self.is_exclusive != is_upper;
        set.rank_where(|entry| entry.score < self.score || with_equal && entry.score == self.score)
    }
}

impl<'a> MemberBound<'a> {
    fn parse(text: &'a [u8]) -> Result<Self> {
        match text {
            [b'-'] | [b'-', 0, ..] => Ok(MemberBound::Least),
            [b'+'] | [b'+', 0, ..] => Ok(MemberBound::Greatest),
            [b'[', member @ ..] => Ok(MemberBound::Member { member, is_exclusive: false }),
            [b'(', member @ ..] => Ok(MemberBound::Member { member, is_exclusive: true }),
            _ => Err(ErrorReply::new("ERR min or max not valid string range item")),
        }
    }

    fn rank(&self, set: &SortedSet, is_upper: bool) -> usize {
        match *self {
            MemberBound::Least => 0,
            MemberBound::Greatest => set.len(),
            MemberBound::Member { .. } => set.rank_where(|entry| self.is_above(entry.member, is_upper)),
        }
    }

    /// Whether a member is before it, or up to it.
    fn is_above(&self, other: &[u8], is_upper: bool) -> bool {
        match *self {
            MemberBound::Least => false,
            MemberBound::Greatest => true,
            MemberBound::Member { member, is_exclusive } => {
                let with_equal = is_exclusive != is_upper;
                other < member || with_equal && other == member
            }
        }
    }
}

fn has_one_score(set: &SortedSet) -> bool {
    let score = |rank| set.range(rank..rank + 1).next().map(|entry| entry.score);
    set.is_empty() || score(0) == score(set.len() - 1)
}

/// What Redis finds from `least` to `greatest` in a small set whose scores differ, so that its members are in no order: the
/// first neighbours within them in the direction of reading, if the ends of the set do not speak against it.
fn part_without_order(
    set: &SortedSet,
    least: &MemberBound,
    greatest: &MemberBound,
    direction: Direction,
) -> Range<usize> {
    let is_within = |entry: Entry| [!least.is_above(entry.member, false), greatest.is_above(entry.member, true)];
    let mut members: Vec<[bool; 2]> = set.iter().map(is_within).collect();
    if !members.first().is_some_and(|[_, is_low]| *is_low) || !members.last().is_some_and(|[is_high, _]| *is_high) {
        return 0..0;
    }
    if direction == Direction::Descending {
        members.reverse();
        members.iter_mut().for_each(|bounds| bounds.reverse());
    }
    let start = members.iter().position(|[begins, _]| *begins).unwrap_or(members.len());
    let len = members[start..].iter().take_while(|[_, goes_on]| *goes_on).count();
    match direction {
        Direction::Ascending => start..start + len,
        Direction::Descending => members.len() - start - len..members.len() - start,
    }
}

impl<'a> Interval<'a> {
    fn parse(by: By, least: &'a [u8], greatest: &'a [u8]) -> Result<Self> {
        Ok(match by {
            By::Rank => Interval::Rank(parse_integer(least)?, parse_integer(greatest)?),
            By::Score => Interval::Score(ScoreBound::parse(least)?, ScoreBound::parse(greatest)?),
            By::Member => Interval::Member(MemberBound::parse(least)?, MemberBound::parse(greatest)?),
        })
    }

    /// The ranks of what it covers of `set`, which is read in this direction.
    fn ranks(&self, set: &SortedSet, direction: Direction) -> Range<usize> {
        let (start, end) = match self {
            Interval::Rank(first, last) => {
                let len = set.len() as i64;
                let absolute = |index: i64| if index < 0 { len + index } else { index };
                let (start, end) = (absolute(*first).max(0), absolute(*last).min(len - 1) + 1);
                (start as usize, end.max(0) as usize)
            }
            Interval::Score(least, greatest) => (least.rank(set, false), greatest.rank(set, true)),
            Interval::Member(least, greatest) if set.is_small() && !has_one_score(set) => {
                return part_without_order(set, least, greatest, direction);
            }
            Interval::Member(least, greatest) => (least.rank(set, false), greatest.rank(set, true)),
        };
        start.min(end)..end
    }
}

fn count(context: &mut ReadContext, args: Args, by: By) -> Result<()> {
    let interval = Interval::parse(by, args.get(2), args.get(3))?;
    let set = context.value::<SortedSet>(args.first_key())?;
    context.reply.integer(set.map_or(0, |set| interval.ranks(set, Direction::Ascending).len()) as i64);
    Ok(())
}

pub(super) fn zcount(context: &mut ReadContext, args: Args) -> Result<()> {
    count(context, args, By::Score)
}

pub(super) fn zlexcount(context: &mut ReadContext, args: Args) -> Result<()> {
    count(context, args, By::Member)
}

fn remove_interval(context: &mut WriteContext, args: Args, by: By) -> Result<Effect> {
    let interval = Interval::parse(by, args.get(2), args.get(3))?;
    let removed = context.edit(args.first_key(), Absent::Skip, |set: &mut SortedSet| {
        let ranks = interval.ranks(set, Direction::Ascending);
        set.remove_range(ranks.clone());
        ranks.len()
    })?;
    let event = match by {
        By::Rank => "zremrangebyrank",
        By::Score => "zremrangebyscore",
        By::Member => "zremrangebylex",
    };
    let effect = answer_removed(context, args, event, removed.unwrap_or(0));
    Ok(in_decimal(context, args, effect, |index| by == By::Score && index >= 2))
}

pub(super) fn zremrangebyrank(context: &mut WriteContext, args: Args) -> Result<Effect> {
    remove_interval(context, args, By::Rank)
}

pub(super) fn zremrangebyscore(context: &mut WriteContext, args: Args) -> Result<Effect> {
    remove_interval(context, args, By::Score)
}

pub(super) fn zremrangebylex(context: &mut WriteContext, args: Args) -> Result<Effect> {
    remove_interval(context, args, By::Member)
}

/// What a `ZRANGE` asks for.
struct Selection<'a> {
    interval: Interval<'a>,
    direction: Direction,
    with_scores: bool,
    /// How many are left out at the beginning; less than none is all.
    offset: i64,
    /// How many are wanted then; less than none is all.
    limit: i64,
}

/// What a command of the `ZRANGE` family says by its name, and need not say by options.
#[derive(Clone, Copy, Default)]
struct Named {
    by: Option<By>,
    direction: Option<Direction>,
    is_store: bool,
}

impl<'a> Selection<'a> {
    /// The interval begins at the argument `first`.
    fn parse(args: Args<'a>, first: usize, named: Named) -> Result<Self> {
        let Named { mut by, mut direction, is_store } = named;
        let (mut with_scores, mut offset, mut limit) = (false, 0, -1);
        let mut index = first + 2;
        while let Some(option) = args.maybe(index) {
            match option.to_ascii_lowercase().as_slice() {
                b"withscores" if !is_store => with_scores = true,
                b"limit" if index + 2 < args.len() => {
                    offset = parse_integer(args.get(index + 1))?;
                    limit = parse_integer(args.get(index + 2))?;
                    index += 2;
                }
                b"rev" if direction.is_none() => direction = Some(Direction::Descending),
                b"bylex" if by.is_none() => by = Some(By::Member),
                b"byscore" if by.is_none() => by = Some(By::Score),
                _ => return Err(ErrorReply::SYNTAX),
            }
            index += 1;
        }
        let (by, direction) = (by.unwrap_or(By::Rank), direction.unwrap_or(Direction::Ascending));
        if limit != -1 && by == By::Rank {
            return Err(ErrorReply::new(
                "ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX",
            ));
        }
        if with_scores && by == By::Member {
            return Err(ErrorReply::new("ERR syntax error, WITHSCORES not supported in combination with BYLEX"));
        }
        let (mut least, mut greatest) = (args.get(first), args.get(first + 1));
        if by == By::Rank {
            offset = 0;
        } else if direction == Direction::Descending {
            std::mem::swap(&mut least, &mut greatest);
        }
        let interval = Interval::parse(by, least, greatest)?;
        Ok(Selection { interval, direction, with_scores, offset, limit })
    }

    fn ranks(&self, set: &SortedSet) -> Range<usize> {
        let all = self.interval.ranks(set, self.direction);
        let len = all.len();
        // Ranks are counted from the end that is read first.
        let (start, end) = match (&self.interval, self.direction) {
            (Interval::Rank(..), Direction::Descending) => (set.len() - all.end, set.len() - all.start),
            _ => (all.start, all.end),
        };
        let skipped = usize::try_from(self.offset).map_or(len, |offset| offset.min(len));
        let taken = usize::try_from(self.limit).map_or(len - skipped, |limit| limit.min(len - skipped));
        match self.direction {
            Direction::Ascending => start + skipped..start + skipped + taken,
            Direction::Descending => end - skipped - taken..end - skipped,
        }
    }

    fn reply(&self, reply: &mut Reply, set: Option<&SortedSet>) {
        let Some(set) = set else { return reply.array(0) };
        let entries = set.range(self.ranks(set));
        array_of_entries(reply, entries.len(), self.with_scores);
        let reply_one = |entry: Entry| reply_entry(reply, entry, self.with_scores);
        match self.direction {
            Direction::Ascending => entries.for_each(reply_one),
            Direction::Descending => entries.rev().for_each(reply_one),
        }
    }
}

/// So many entries follow: with their scores pairs in RESP3, flat in RESP2.
fn array_of_entries(reply: &mut Reply, len: usize, with_scores: bool) {
    let is_flat = with_scores && reply.protocol() == Protocol::Resp2;
    reply.array(if is_flat { 2 * len } else { len });
}

fn reply_entry(reply: &mut Reply, entry: Entry, with_score: bool) {
    if with_score && reply.protocol() == Protocol::Resp3 {
        reply.array(2);
    }
    reply.bulk(entry.member);
    if with_score {
        reply.double(entry.score);
    }
}

fn range(context: &mut ReadContext, args: Args, named: Named) -> Result<()> {
    let selection = Selection::parse(args, 2, named)?;
    let set = context.value::<SortedSet>(args.first_key())?;
    selection.reply(&mut context.reply, set);
    Ok(())
}

pub(super) fn zrange(context: &mut ReadContext, args: Args) -> Result<()> {
    range(context, args, Named::default())
}

pub(super) fn zrevrange(context: &mut ReadContext, args: Args) -> Result<()> {
    range(context, args, Named { by: Some(By::Rank), direction: Some(Direction::Descending), is_store: false })
}

pub(super) fn zrangebyscore(context: &mut ReadContext, args: Args) -> Result<()> {
    range(context, args, Named { by: Some(By::Score), direction: Some(Direction::Ascending), is_store: false })
}

pub(super) fn zrevrangebyscore(context: &mut ReadContext, args: Args) -> Result<()> {
    range(context, args, Named { by: Some(By::Score), direction: Some(Direction::Descending), is_store: false })
}

pub(super) fn zrangebylex(context: &mut ReadContext, args: Args) -> Result<()> {
    range(context, args, Named { by: Some(By::Member), direction: Some(Direction::Ascending), is_store: false })
}

pub(super) fn zrevrangebylex(context: &mut ReadContext, args: Args) -> Result<()> {
    range(context, args, Named { by: Some(By::Member), direction: Some(Direction::Descending), is_store: false })
}

pub(super) fn zrangestore(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let selection = Selection::parse(args, 3, Named { is_store: true, ..Named::default() })?;
    let small = small_form(context.config);
    let mut selected = SortedSet::new();
    let source = context.keyspace.key(args.get(2));
    context.looked_up(source);
    if let Some(set) = context.value::<SortedSet>(source)? {
        for entry in set.range(selection.ranks(set)) {
            selected.insert(entry.member, entry.score, small);
        }
    }
    let effect = store(context, args.first_key(), selected, "zrangestore");
    let is_by_score = matches!(selection.interval, Interval::Score(..));
    Ok(in_decimal(context, args, effect, |index| is_by_score && matches!(index, 3 | 4)))
}

/// Puts a result in the place of whatever is there, and answers with its length.
pub(super) fn store(context: &mut WriteContext, key: Key, result: SortedSet, event: &'static str) -> Effect {
    let is_there = context.get(key).is_some();
    let len = result.len();
    context.store(key, result);
    context.reply.integer(len as i64);
    if len > 0 {
        context.notify(Classes::SORTED_SET, event, key.bytes);
    } else if is_there {
        context.notify(Classes::GENERIC, "del", key.bytes);
    }
    if len > 0 || is_there { Effect::Verbatim } else { Effect::None }
}

pub(super) fn zrandmember(context: &mut ReadContext, args: Args) -> Result<()> {
    let key = args.first_key();
    if args.len() == 2 {
        let member = context.value::<SortedSet>(key)?.map(|set| {
            let rank = context.random.below(set.len());
            set.range(rank..rank + 1).next().expect("a stored set is not empty").member
        });
        context.reply.bulk_or_null(member);
        return Ok(());
    }
    let count = parse_integer(args.get(2))?;
    if count == i64::MIN {
        return Err(ErrorReply::owned(format!(
            "ERR value is out of range, value must between {} and {}",
            -i64::MAX,
            i64::MAX
        )));
    }
    let with_scores = args.len() > 3;
    if args.len() > 4 || with_scores && !args.is(3, "withscores") {
        return Err(ErrorReply::SYNTAX);
    }
    if with_scores && count.unsigned_abs() > i64::MAX as u64 / 2 {
        return Err(ErrorReply::new("ERR value is out of range"));
    }
    let Some(set) = context.value::<SortedSet>(key)? else {
        context.reply.array(0);
        return Ok(());
    };
    let (reply, wanted) = (&mut context.reply, count.unsigned_abs() as usize);
    if count < 0 {
        array_of_entries(reply, wanted, with_scores);
        set.choose(wanted, context.random, |entry| reply_entry(reply, entry, with_scores));
    } else if wanted >= set.len() {
        array_of_entries(reply, set.len(), with_scores);
        set.iter().rev().for_each(|entry| reply_entry(reply, entry, with_scores));
    } else {
        array_of_entries(reply, wanted, with_scores);
        let chosen = set.choose_distinct(wanted, context.random);
        chosen.into_iter().for_each(|entry| reply_entry(reply, entry, with_scores));
    }
    Ok(())
}

pub(super) fn zscan(context: &mut ReadContext, args: Args) -> Result<()> {
    let cursor = parse_cursor(args.get(2))?;
    let Some(set) = context.value::<SortedSet>(args.first_key())? else {
        reply_scan(&mut context.reply, 0, &[b""; 0]);
        return Ok(());
    };
    let options = ScanOptions::parse(args, 3)?;
    let mut found = Vec::new();
    let next = set.scan(cursor, options.count, |entry| {
        if options.is_for(entry.member) {
            found.push(entry.member.to_vec());
            found.push(scanned_score(set, entry.score).as_bytes().to_vec());
        }
    });
    reply_scan(&mut context.reply, next, &found);
    Ok(())
}

/// Here alone the form shows: Redis's small one keeps integers as such.
fn scanned_score(set: &SortedSet, score: f64) -> DoubleText {
    let is_integer = score.trunc() == score && score.abs() <= (i64::MAX / 2) as f64;
    if is_integer && set.is_small() { DoubleText::from(score as i64) } else { DoubleText::new(score) }
}
