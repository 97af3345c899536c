//! Unions, intersections and differences of sorted sets and sets.

use std::ops::Range;

use super::decimal::in_decimal;
use super::{array_of_entries, reply_entry, small_form, store};
use crate::command::{Args, Effect, ErrorReply, ReadContext, Result, WriteContext, parse_count, parse_integer};
use crate::keyspace::EntryRef;
use crate::number::parse_f64;
use crate::value::sorted_set::{Entry, SortedSet};
use crate::value::{Map, Set, SmallForm, ValueRef};

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

pub(in crate::command) fn zunion(context: &mut ReadContext, args: Args) -> Result<()> {
    answer_combination(context, args, Operation::Union)
}

pub(in crate::command) fn zinter(context: &mut ReadContext, args: Args) -> Result<()> {
    answer_combination(context, args, Operation::Intersection)
}

pub(in crate::command) fn zdiff(context: &mut ReadContext, args: Args) -> Result<()> {
    answer_combination(context, args, Operation::Difference)
}

pub(in crate::command) fn zintercard(context: &mut ReadContext, args: Args) -> Result<()> {
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
    let event = match operation {
        Operation::Union => "zunionstore",
        Operation::Intersection => "zinterstore",
        Operation::Difference => "zdiffstore",
    };
    let keys = counted_keys(args, 2)?;
    for index in keys.clone() {
        let key = context.keyspace.key(args.get(index));
        context.looked_up(key);
        Operand::of(context.get(key))?;
    }
    let find = |name: &[u8]| context.get(context.keyspace.key(name));
    let combination = Combination::parse(args, 2, operation, Use::Store, find)?;
    let result = combination.result(small_form(context.config));
    let effect = store(context, args.first_key(), result, event);
    Ok(in_decimal(context, args, effect, |index| index >= keys.end))
}

pub(in crate::command) fn zunionstore(context: &mut WriteContext, args: Args) -> Result<Effect> {
    store_combination(context, args, Operation::Union)
}

pub(in crate::command) fn zinterstore(context: &mut WriteContext, args: Args) -> Result<Effect> {
    store_combination(context, args, Operation::Intersection)
}

pub(in crate::command) fn zdiffstore(context: &mut WriteContext, args: Args) -> Result<Effect> {
    store_combination(context, args, Operation::Difference)
}
