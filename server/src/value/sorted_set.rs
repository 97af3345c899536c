//! Sorted sets: different strings with a score each, in the order of scores.

use super::map::Map;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Different strings with a score each, in the order of scores and, among equals, of bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SortedSet {
    scores: Map<f64>,
    order: Arc<BTreeSet<(u64, Box<[u8]>)>>,
    is_big: bool,
}

/// From here on Redis keeps a sorted set in a skip list.
const SMALL_LEN_MAX: usize = 128;
const SMALL_STRING_BYTES_MAX: usize = 64;

/// Bits that are ordered as the scores are; 0 and -0 are the same score.
fn rank_bits(score: f64) -> u64 {
    let bits = (score + 0.0).to_bits();
    if bits >> 63 == 0 { bits | 1 << 63 } else { !bits }
}

fn score_of(rank_bits: u64) -> f64 {
    f64::from_bits(if rank_bits >> 63 == 0 { !rank_bits } else { rank_bits & !(1 << 63) })
}

impl SortedSet {
    /// An empty sorted set.
    pub fn new() -> SortedSet {
        SortedSet::default()
    }

    /// How many members it has.
    pub fn len(&self) -> usize {
        self.scores.len()
    }

    /// Whether it has no member.
    pub fn is_empty(&self) -> bool {
        self.scores.is_empty()
    }

    /// What it takes on the heap, in bytes.
    pub fn heap_bytes(&self) -> usize {
        2 * self.scores.heap_bytes()
    }

    /// What a clone takes on the heap that the original does not share, in bytes.
    pub fn clone_bytes(&self) -> usize {
        self.scores.clone_bytes()
    }

    /// The encoding that Redis would have chosen, as OBJECT ENCODING names it.
    pub fn encoding(&self) -> &'static str {
        if self.is_big { "skiplist" } else { "listpack" }
    }

    /// Members and scores, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&[u8], f64)> {
        self.order.iter().map(|(bits, member)| (&**member, score_of(*bits)))
    }

    /// The score of a member.
    pub fn score(&self, member: &[u8]) -> Option<f64> {
        self.scores.get(member).copied()
    }

    /// Sets a member's score, which is a number; true if the member is new.
    pub fn insert(&mut self, member: &[u8], score: f64) -> bool {
        let old = self.scores.insert(member, score);
        let order = Arc::make_mut(&mut self.order);
        if let Some(old) = old {
            order.remove(&(rank_bits(old), member.into()));
        }
        order.insert((rank_bits(score), member.into()));
        self.is_big |= self.len() > SMALL_LEN_MAX || member.len() > SMALL_STRING_BYTES_MAX;
        old.is_none()
    }

    /// Removes a member; false if it was not there.
    pub fn remove(&mut self, member: &[u8]) -> bool {
        let Some(old) = self.scores.remove(member) else { return false };
        Arc::make_mut(&mut self.order).remove(&(rank_bits(old), member.into()));
        true
    }
}
