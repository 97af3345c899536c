//! Sorted sets: different members with a score each, in the order of scores.
//!
//! ```text
//! small   run                                       all entries in order in one buffer
//! big     order  ── tree of runs                    the same, cut into pieces of at most 64
//!         scores ── map from member to score
//! ```
//!
//! A small one is searched from end to end. In a big one the map finds the score of a member, and with that the tree
//! finds its rank. Both share nodes with their clones.

mod run;
#[cfg(test)]
mod tests;
mod tree;

use super::map::{Map, select};
use super::{Dice, SmallForm};
use run::Run;
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use tree::Tree;

/// Members with a score each, in the order of scores and, among equal ones, of bytes.
#[derive(Clone)]
pub struct SortedSet(Form);

#[derive(Clone)]
enum Form {
    Small(Run),
    Big(Box<Big>),
}

#[derive(Clone)]
struct Big {
    order: Tree,
    scores: Map<f64>,
    /// Bytes of all members.
    member_bytes: usize,
}

/// A member and its score, which is a number; infinite ones are, `NaN` is not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry<'a> {
    /// What it is ordered by in the first place.
    pub score: f64,
    /// What it is ordered by among those with the same score.
    pub member: &'a [u8],
}

impl PartialOrd for Entry<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        let by_score = self.score.partial_cmp(&other.score)?;
        Some(by_score.then_with(|| self.member.cmp(other.member)))
    }
}

/// Beside an entry itself, an estimate of what a tree's nodes take for it, in bytes.
const TREE_BYTES_PER_ENTRY: usize = 12;

impl SortedSet {
    /// An empty sorted set.
    pub fn new() -> SortedSet {
        SortedSet(Form::Small(Run::default()))
    }

    /// How many members it has.
    pub fn len(&self) -> usize {
        match &self.0 {
            Form::Small(run) => run.len(),
            Form::Big(big) => big.order.len(),
        }
    }

    /// Whether it has no member.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the entries, or the way to them, begin.
    pub fn start(&self) -> *const u8 {
        match &self.0 {
            Form::Small(run) => run.start(),
            Form::Big(big) => (&raw const **big).cast(),
        }
    }

    /// The table of its scores, if it is a big one.
    pub(super) fn table(&self) -> Option<&Map<f64>> {
        if let Form::Big(big) = &self.0 { Some(&big.scores) } else { None }
    }

    /// What it takes on the heap, in bytes; of a big one an estimate.
    pub fn heap_bytes(&self) -> usize {
        match &self.0 {
            Form::Small(run) => run.heap_bytes(),
            Form::Big(big) => {
                let order = big.member_bytes + big.order.len() * TREE_BYTES_PER_ENTRY;
                size_of::<Big>() + order + big.scores.heap_bytes()
            }
        }
    }

    /// What a clone takes on the heap that the original does not share, in bytes.
    pub fn clone_bytes(&self) -> usize {
        match &self.0 {
            Form::Small(run) => run.size(),
            Form::Big(big) => size_of::<Big>() + big.scores.clone_bytes(),
        }
    }

    /// The encoding that Redis would have chosen, as OBJECT ENCODING names it.
    pub fn encoding(&self) -> &'static str {
        if self.is_small() { "listpack" } else { "skiplist" }
    }

    /// Whether it has the form that takes least memory.
    pub fn is_small(&self) -> bool {
        matches!(self.0, Form::Small(_))
    }

    /// The score of a member.
    pub fn score(&self, member: &[u8]) -> Option<f64> {
        match &self.0 {
            Form::Small(run) => run.find(member).map(|(_, score)| score),
            Form::Big(big) => big.scores.get(member),
        }
    }

    /// How many entries are before that of a member.
    pub fn rank(&self, member: &[u8]) -> Option<usize> {
        match &self.0 {
            Form::Small(run) => run.find(member).map(|(place, _)| place.index),
            Form::Big(big) => {
                let entry = Entry { score: big.scores.get(member)?, member };
                Some(big.order.rank(&|other| other < entry))
            }
        }
    }

    /// How many entries are before the first that `precedes` does not hold for. It must hold for all before that and for
    /// none after it, or the rank is any.
    pub fn rank_where(&self, precedes: impl Fn(Entry) -> bool) -> usize {
        match &self.0 {
            Form::Small(run) => run.place(&precedes).index,
            Form::Big(big) => big.order.rank(&precedes),
        }
    }

    /// Members and scores, ascending.
    pub fn iter(&self) -> Entries<'_> {
        self.range(0..self.len())
    }

    /// The entries of these ranks, which are less than [`SortedSet::len`].
    pub fn range(&self, ranks: Range<usize>) -> Entries<'_> {
        Entries { set: self, front: run::Entries::default(), ranks, back: VecDeque::new() }
    }

    /// One step of a scan, as [`Map::scan`] makes it; a small sorted set is visited in a single one.
    pub fn scan(&self, cursor: u64, count: usize, mut visit: impl FnMut(Entry)) -> u64 {
        match &self.0 {
            Form::Small(run) => {
                run.iter().for_each(visit);
                0
            }
            Form::Big(big) => big.scores.scan(cursor, count, |member, score| visit(Entry { score, member })),
        }
    }

    /// Visits `count` entries, each chosen from all of them.
    pub fn choose(&self, count: usize, random: &mut Dice, visit: impl FnMut(Entry<'_>)) {
        if !self.is_empty() {
            let ranks = (0..count).map(|_| random.below(self.len()));
            ranks.filter_map(|rank| self.range(rank..rank + 1).next()).for_each(visit);
        }
    }

    /// Chooses `count` different entries, or all if there are not more.
    pub fn choose_distinct(&self, count: usize, random: &mut Dice) -> Vec<Entry<'_>> {
        match &self.0 {
            Form::Small(run) => select(run.iter(), run.len(), count, random).collect(),
            Form::Big(big) => {
                let chosen = big.scores.choose_distinct(count, random).into_iter();
                chosen.map(|(member, score)| Entry { score, member }).collect()
            }
        }
    }

    /// Sets a member's score, which is a number; true if the member is new.
    pub fn insert(&mut self, member: &[u8], score: f64, small: SmallForm) -> bool {
        if let Form::Small(run) = &mut self.0 {
            // Redis keeps integers as such in its small form, so that -0 is 0.
            let entry = Entry { score: score + 0.0, member };
            let old = run.find(member);
            if old.is_some() || run.len() < small.len_max && small.takes(member) {
                if let Some((place, _)) = old {
                    run.remove_at(place);
                }
                run.insert(run.place(&|other| other < entry), entry);
                return old.is_none();
            }
        }
        self.make_big().insert(Entry { score, member })
    }

    /// Removes a member; false if it was not there.
    pub fn remove(&mut self, member: &[u8]) -> bool {
        match &mut self.0 {
            Form::Small(run) => run.find(member).map(|(place, _)| run.remove_at(place)).is_some(),
            Form::Big(big) => big.remove(member),
        }
    }

    /// Removes the entries of these ranks, which are less than [`SortedSet::len`].
    pub fn remove_range(&mut self, ranks: Range<usize>) {
        let members = match &self.0 {
            Form::Small(_) => Vec::new(),
            Form::Big(_) => self.range(ranks.clone()).map(|entry| entry.member.into()).collect::<Vec<Box<[u8]>>>(),
        };
        match &mut self.0 {
            Form::Small(run) => run.remove(ranks),
            Form::Big(big) => {
                for member in members {
                    big.scores.remove(&member);
                    big.member_bytes -= member.len();
                }
                big.order.remove_ranks(ranks);
            }
        }
    }

    fn make_big(&mut self) -> &mut Big {
        if let Form::Small(run) = &mut self.0 {
            self.0 = Form::Big(Box::new(Big::from(std::mem::take(run))));
        }
        match &mut self.0 {
            Form::Big(big) => big,
            Form::Small(_) => unreachable!("it was just made big"),
        }
    }
}

impl Default for SortedSet {
    fn default() -> Self {
        SortedSet::new()
    }
}

impl PartialEq for SortedSet {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl fmt::Debug for SortedSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|entry| (entry.member.escape_ascii().to_string(), entry.score))).finish()
    }
}

impl From<Run> for Big {
    fn from(run: Run) -> Big {
        let mut scores = Map::new();
        let mut member_bytes = 0;
        for entry in run.iter() {
            scores.insert(entry.member, entry.score);
            member_bytes += entry.member.len();
        }
        Big { order: Tree::from(run), scores, member_bytes }
    }
}

impl Big {
    fn insert(&mut self, entry: Entry) -> bool {
        let old = self.scores.insert_over(entry.member, entry.score, |score| score);
        match old {
            Some(score) => self.order.remove(Entry { score, ..entry }),
            None => self.member_bytes += entry.member.len(),
        }
        self.order.insert(entry);
        old.is_none()
    }

    fn remove(&mut self, member: &[u8]) -> bool {
        let Some(score) = self.scores.get(member) else { return false };
        self.scores.remove(member);
        self.order.remove(Entry { score, member });
        self.member_bytes -= member.len();
        true
    }
}

/// Entries in order, from either end.
pub struct Entries<'a> {
    set: &'a SortedSet,
    front: run::Entries<'a>,
    /// What comes between the other two.
    ranks: Range<usize>,
    back: VecDeque<Entry<'a>>,
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        if self.front.len() == 0 && !self.ranks.is_empty() {
            self.front = match &self.set.0 {
                Form::Small(run) => run.slice(self.ranks.clone()),
                Form::Big(big) => big.order.run(self.ranks.clone()),
            };
            self.ranks.start += self.front.len();
        }
        self.front.next().or_else(|| self.back.pop_front())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let len = self.front.len() + self.ranks.len() + self.back.len();
        (len, Some(len))
    }
}

impl ExactSizeIterator for Entries<'_> {}

impl<'a> DoubleEndedIterator for Entries<'a> {
    fn next_back(&mut self) -> Option<Entry<'a>> {
        if self.back.is_empty() && self.ranks.is_empty() {
            self.back.extend(std::mem::take(&mut self.front));
        } else if self.back.is_empty() {
            self.back.extend(match &self.set.0 {
                Form::Small(run) => run.slice(self.ranks.clone()),
                Form::Big(big) => big.order.run_back(self.ranks.clone()),
            });
            self.ranks.end -= self.back.len();
        }
        self.back.pop_back()
    }
}
