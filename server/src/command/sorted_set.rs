//! Sorted sets: <https://redis.io/docs/latest/commands/?group=sorted-set>.

use std::ops::Range;

use super::key::{ScanOptions, parse_cursor, reply_scan};
use super::{
    Args, Attempt, Effect, ErrorReply, ReadContext, Result, WriteContext, parse_count, parse_integer, parse_timeout,
};
use crate::config::Config;
use crate::keyspace::{Absent, EntryRef, Key};
use crate::number::{DoubleText, parse_bound, parse_f64};
use crate::resp::{Protocol, Reply, append_request};
use crate::value::sorted_set::{Entry, SortedSet};
use crate::value::{Map, Set, SmallForm, ValueRef};

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
    Ok(if new + changed > 0 { Effect::Verbatim } else { Effect::None })
}

fn parse_and_add(context: &mut WriteContext, args: Args, options: AddOptions) -> Result<Effect> {
    let (options, first) = options.parse(args)?;
    let entry = |index| Ok(Entry { score: parse_score(args.get(index))?, member: args.get(index + 1) });
    let entries: Vec<Entry> = (first..args.len()).step_by(2).map(entry).collect::<Result<_>>()?;
    add(context, args.first_key(), options, &entries)
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
    Ok(answer_removed(context, removed.unwrap_or(0)))
}

fn answer_removed(context: &mut WriteContext, removed: usize) -> Effect {
    context.reply.integer(removed as i64);
    if removed > 0 { Effect::Verbatim } else { Effect::None }
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
    /// Of a set whose scores are all equal; otherwise it is any part.
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
            MemberBound::Member { member, is_exclusive } => {
                let with_equal = is_exclusive != is_upper;
                set.rank_where(|entry| entry.member < member || with_equal && entry.member == member)
            }
        }
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

    /// The ranks of what it covers of `set`.
    fn ranks(&self, set: &SortedSet) -> Range<usize> {
        let (start, end) = match self {
            Interval::Rank(first, last) => {
                let len = set.len() as i64;
                let absolute = |index: i64| if index < 0 { len + index } else { index };
                let (start, end) = (absolute(*first).max(0), absolute(*last).min(len - 1) + 1);
                (start as usize, end.max(0) as usize)
            }
            Interval::Score(least, greatest) => (least.rank(set, false), greatest.rank(set, true)),
            Interval::Member(least, greatest) => (least.rank(set, false), greatest.rank(set, true)),
        };
        start.min(end)..end
    }
}

fn count(context: &mut ReadContext, args: Args, by: By) -> Result<()> {
    let interval = Interval::parse(by, args.get(2), args.get(3))?;
    let set = context.value::<SortedSet>(args.first_key())?;
    context.reply.integer(set.map_or(0, |set| interval.ranks(set).len()) as i64);
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
        let ranks = interval.ranks(set);
        set.remove_range(ranks.clone());
        ranks.len()
    })?;
    Ok(answer_removed(context, removed.unwrap_or(0)))
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
        let all = self.interval.ranks(set);
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
    if let Some(set) = context.value::<SortedSet>(source)? {
        for entry in set.range(selection.ranks(set)) {
            selected.insert(entry.member, entry.score, small);
        }
    }
    Ok(store(context, args.first_key(), selected))
}

/// Puts a result in the place of whatever is there, and answers with its length.
pub(super) fn store(context: &mut WriteContext, key: Key, result: SortedSet) -> Effect {
    let is_there = context.get(key).is_some();
    let len = result.len();
    context.store(key, result);
    context.reply.integer(len as i64);
    if len > 0 || is_there { Effect::Verbatim } else { Effect::None }
}

/// What is combined with others; members of a set have a score of 1.
#[derive(Clone, Copy)]
enum Operand<'a> {
    Absent,
    Set(&'a Set),
    SortedSet(&'a SortedSet),
}

impl<'a> Operand<'a> {
    fn of(entry: Option<EntryRef<'a>>) -> Result<Self> {
        match entry.map(EntryRef::value) {
            None => Ok(Operand::Absent),
            Some(ValueRef::Set(set)) => Ok(Operand::Set(set)),
            Some(ValueRef::SortedSet(set)) => Ok(Operand::SortedSet(set)),
            Some(_) => Err(ErrorReply::WRONG_TYPE),
        }
    }

    fn len(self) -> usize {
        match self {
            Operand::Absent => 0,
            Operand::Set(set) => set.len(),
            Operand::SortedSet(set) => set.len(),
        }
    }

    fn score(self, member: &[u8]) -> Option<f64> {
        match self {
            Operand::Absent => None,
            Operand::Set(set) => set.contains(member).then_some(1.0),
            Operand::SortedSet(set) => set.score(member),
        }
    }

    /// Visits all members until one visit says that it is enough.
    fn visit(self, mut visit: impl FnMut(Entry) -> bool) {
        match self {
            Operand::Absent => {}
            Operand::Set(set) => _ = set.iter().all(|member| visit(Entry { score: 1.0, member: &member })),
            Operand::SortedSet(set) => _ = set.iter().all(visit),
        }
    }
}

/// How several scores of a member become one.
#[derive(Clone, Copy)]
enum Aggregation {
    Sum,
    Min,
    Max,
}

impl Aggregation {
    fn apply(self, score: f64, other: f64) -> f64 {
        match self {
            Aggregation::Sum => or_zero(score + other),
            Aggregation::Min if other < score => other,
            Aggregation::Max if other > score => other,
            Aggregation::Min | Aggregation::Max => score,
        }
    }
}

/// An infinity less itself, or times nothing, is taken for zero.
fn or_zero(score: f64) -> f64 {
    if score.is_nan() { 0.0 } else { score }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Union,
    Intersection,
    Difference,
}

/// What becomes of the result.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Answer,
    Store,
    Count,
}

/// What a `ZUNION`, `ZINTER` or `ZDIFF` is to do.
struct Combination<'a> {
    operation: Operation,
    /// Each with its weight.
    operands: Vec<(Operand<'a>, f64)>,
    aggregation: Aggregation,
    with_scores: bool,
    /// To count up to this is enough.
    limit: usize,
}

impl<'a> Combination<'a> {
    /// The number of keys is the argument `first`; `find` looks one up.
    fn parse(
        args: Args,
        first: usize,
        operation: Operation,
        purpose: Use,
        find: impl Fn(&[u8]) -> Option<EntryRef<'a>>,
    ) -> Result<Self> {
        let keys = counted_keys(args, first)?;
        let operands =
            keys.clone().map(|index| Ok((Operand::of(find(args.get(index)))?, 1.0))).collect::<Result<_>>()?;
        let (aggregation, with_scores, limit) = (Aggregation::Sum, false, usize::MAX);
        let mut combination = Combination { operation, operands, aggregation, with_scores, limit };
        let mut index = keys.end;
        while index < args.len() {
            index += combination.parse_option(args, index, purpose)?;
        }
        if operation != Operation::Difference {
            combination.operands.sort_by_key(|(operand, _)| operand.len());
        }
        Ok(combination)
    }

    /// Returns how many arguments it has read.
    fn parse_option(&mut self, args: Args, index: usize, purpose: Use) -> Result<usize> {
        let is_weighed = self.operation != Operation::Difference && purpose != Use::Count;
        let count = self.operands.len();
        match args.get(index).to_ascii_lowercase().as_slice() {
            b"weights" if is_weighed && args.len() - index > count => {
                let invalid = ErrorReply::new("ERR weight value is not a float");
                for ((_, weight), text) in self.operands.iter_mut().zip(args.from(index + 1)) {
                    *weight = parse_f64(text).ok_or(invalid.clone())?;
                }
                Ok(count + 1)
            }
            b"aggregate" if is_weighed && index + 1 < args.len() => {
                self.aggregation = match args.get(index + 1).to_ascii_lowercase().as_slice() {
                    b"sum" => Aggregation::Sum,
                    b"min" => Aggregation::Min,
                    b"max" => Aggregation::Max,
                    _ => return Err(ErrorReply::SYNTAX),
                };
                Ok(2)
            }
            b"withscores" if purpose == Use::Answer => {
                self.with_scores = true;
                Ok(1)
            }
            b"limit" if purpose == Use::Count && index + 1 < args.len() => {
                let limit = parse_count(args.get(index + 1), 0, "ERR LIMIT can't be negative")?;
                self.limit = if limit == 0 { usize::MAX } else { limit };
                Ok(2)
            }
            _ => Err(ErrorReply::SYNTAX),
        }
    }

    fn result(&self, small: SmallForm) -> SortedSet {
        let mut result = SortedSet::new();
        let mut insert = |entry: Entry| {
            result.insert(entry.member, entry.score, small);
        };
        match self.operation {
            Operation::Union => self.union().iter().for_each(|(member, score)| insert(Entry { score, member })),
            Operation::Intersection => self.visit_intersection(|entry| {
                insert(entry);
                true
            }),
            Operation::Difference => self.visit_difference(insert),
        }
        result
    }

    fn union(&self) -> Map<f64> {
        let mut scores = Map::<f64>::new();
        for (operand, weight) in &self.operands {
            operand.visit(|Entry { score, member }| {
                let score = or_zero(weight * score);
                let sum = scores.get(member).map_or(score, |other| self.aggregation.apply(other, score));
                scores.insert(member, sum);
                true
            });
        }
        scores
    }

    fn visit_intersection(&self, mut visit: impl FnMut(Entry) -> bool) {
        let Some(((smallest, weight), others)) = self.operands.split_first() else { return };
        smallest.visit(|Entry { score, member }| {
            let combine = |score, (operand, weight): &(Operand, f64)| {
                Some(self.aggregation.apply(score, operand.score(member)? * weight))
            };
            let score = others.iter().try_fold(or_zero(score * weight), combine);
            score.is_none_or(|score| visit(Entry { score, member }))
        });
    }

    fn visit_difference(&self, mut visit: impl FnMut(Entry)) {
        let Some(((first, _), others)) = self.operands.split_first() else { return };
        first.visit(|entry| {
            if others.iter().all(|(operand, _)| operand.score(entry.member).is_none()) {
                visit(entry);
            }
            true
        });
    }
}

/// The arguments that are keys, of which `args[first]` is the number.
fn counted_keys(args: Args, first: usize) -> Result<Range<usize>> {
    let count = parse_integer(args.get(first))?;
    let Some(count) = usize::try_from(count).ok().filter(|count| *count > 0) else {
        let name = String::from_utf8_lossy(args.get(0)).to_ascii_lowercase();
        return Err(ErrorReply::owned(format!("ERR at least 1 input key is needed for '{name}' command")));
    };
    if count > args.len() - first - 1 {
        return Err(ErrorReply::SYNTAX);
    }
    Ok(first + 1..first + 1 + count)
}

fn answer_combination(context: &mut ReadContext, args: Args, operation: Operation) -> Result<()> {
    let find = |name: &[u8]| context.get(context.keyspace.key(name));
    let combination = Combination::parse(args, 1, operation, Use::Answer, find)?;
    // Only what is stored may be small: there -0 is 0.
    let result = combination.result(SmallForm { len_max: 0, string_bytes_max: 0 });
    array_of_entries(&mut context.reply, result.len(), combination.with_scores);
    result.iter().for_each(|entry| reply_entry(&mut context.reply, entry, combination.with_scores));
    Ok(())
}

pub(super) fn zunion(context: &mut ReadContext, args: Args) -> Result<()> {
    answer_combination(context, args, Operation::Union)
}

pub(super) fn zinter(context: &mut ReadContext, args: Args) -> Result<()> {
    answer_combination(context, args, Operation::Intersection)
}

pub(super) fn zdiff(context: &mut ReadContext, args: Args) -> Result<()> {
    answer_combination(context, args, Operation::Difference)
}

pub(super) fn zintercard(context: &mut ReadContext, args: Args) -> Result<()> {
    let find = |name: &[u8]| context.get(context.keyspace.key(name));
    let combination = Combination::parse(args, 1, Operation::Intersection, Use::Count, find)?;
    let mut count = 0;
    combination.visit_intersection(|_| {
        count += 1;
        count < combination.limit
    });
    context.reply.integer(count as i64);
    Ok(())
}

fn store_combination(context: &mut WriteContext, args: Args, operation: Operation) -> Result<Effect> {
    let find = |name: &[u8]| context.get(context.keyspace.key(name));
    let combination = Combination::parse(args, 2, operation, Use::Store, find)?;
    let result = combination.result(small_form(context.config));
    Ok(store(context, args.first_key(), result))
}

pub(super) fn zunionstore(context: &mut WriteContext, args: Args) -> Result<Effect> {
    store_combination(context, args, Operation::Union)
}

pub(super) fn zinterstore(context: &mut WriteContext, args: Args) -> Result<Effect> {
    store_combination(context, args, Operation::Intersection)
}

pub(super) fn zdiffstore(context: &mut WriteContext, args: Args) -> Result<Effect> {
    store_combination(context, args, Operation::Difference)
}

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
    Ok(if popped.is_empty() { Effect::None } else { Effect::Verbatim })
}

pub(super) fn zpopmin(context: &mut WriteContext, args: Args) -> Result<Effect> {
    pop(context, args, End::Min)
}

pub(super) fn zpopmax(context: &mut WriteContext, args: Args) -> Result<Effect> {
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
            (3, Some(count)) if args.is(after + 1, "count") => {
                parse_count(count, 1, "ERR count should be greater than 0")?
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
        let mut digits = itoa::Buffer::new();
        append_request(context.effect, &[self.end.command(), name, digits.format(popped.len()).as_bytes()]);
        Ok(true)
    }
}

pub(super) fn zmpop(context: &mut WriteContext, args: Args) -> Result<Effect> {
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
    append_request(context.effect, &[end.command(), name]);
    Ok(Attempt::Done(Effect::Rewritten))
}

pub(super) fn bzpopmin(context: &mut WriteContext, args: Args, ready: Option<&[u8]>) -> Result<Attempt> {
    blocking_pop(context, args, ready, End::Min)
}

pub(super) fn bzpopmax(context: &mut WriteContext, args: Args, ready: Option<&[u8]>) -> Result<Attempt> {
    blocking_pop(context, args, ready, End::Max)
}

pub(super) fn bzmpop(context: &mut WriteContext, args: Args, ready: Option<&[u8]>) -> Result<Attempt> {
    let pop = MultiPop::parse(args, 2)?;
    let deadline_ms = parse_timeout(args.get(1), context.now_ms)?;
    let is_done = pop.run(context, args, ready)?;
    Ok(if is_done { Attempt::Done(Effect::Rewritten) } else { Attempt::Wait { keys: pop.keys, deadline_ms } })
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
