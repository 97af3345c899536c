//! A run: members with their scores, in order, in one flat buffer. A small sorted set is one run, a large one a tree
//! of them.
//!
//! ```text
//! | score | member's length | member … | score | …
//!
//! score   zigzag(integer) + 2 as a varint     an integer of less than 2^53
//!         1, then f32, little endian          exact in single precision
//!         0, then f64, little endian          anything else, -0 included
//! length  a varint: seven bits per byte, the lowest first, the eighth set if more follow (LEB128)
//! ```
//!
//! A member with a score of up to 30 takes two bytes more than the member.

use super::Entry;
use crate::value::counted::Counted;
use std::ops::Range;

/// Entries in ascending order of (score, member), no member twice.
#[derive(Clone, Default)]
pub(super) struct Run(Counted);

/// Where an entry is, or would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// How many entries are before it.
    pub(super) index: usize,
    /// Where it begins in the buffer.
    offset: usize,
}

impl Run {
    pub(super) fn len(&self) -> usize {
        self.0.count()
    }

    /// Bytes that the entries take.
    pub(super) fn size(&self) -> usize {
        self.bytes().len()
    }

    /// Bytes that the buffer takes.
    pub(super) fn heap_bytes(&self) -> usize {
        self.0.heap_bytes()
    }

    /// Where the buffer is.
    pub(super) fn start(&self) -> *const u8 {
        self.0.start()
    }

    fn bytes(&self) -> &[u8] {
        self.0.elements()
    }

    pub(super) fn iter(&self) -> Entries<'_> {
        Entries { rest: self.bytes(), left: self.len() }
    }

    /// The entries of these indices.
    pub(super) fn slice(&self, indices: Range<usize>) -> Entries<'_> {
        let offset = self.offset(indices.start);
        Entries { rest: &self.bytes()[offset..], left: indices.len() }
    }

    pub(super) fn first(&self) -> Option<Entry<'_>> {
        self.iter().next()
    }

    /// The place of the first entry that `precedes` does not hold for; it holds for all before that.
    pub(super) fn place(&self, precedes: &impl Fn(Entry) -> bool) -> Place {
        let mut place = Place { index: 0, offset: 0 };
        let mut entries = self.iter();
        while entries.next().is_some_and(precedes) {
            place = Place { index: place.index + 1, offset: self.size() - entries.rest.len() };
        }
        place
    }

    /// Where a member is, and its score.
    pub(super) fn find(&self, member: &[u8]) -> Option<(Place, f64)> {
        let mut entries = self.iter();
        let mut offset = 0;
        for index in 0..self.len() {
            let entry = entries.next()?;
            if entry.member == member {
                return Some((Place { index, offset }, entry.score));
            }
            offset = self.size() - entries.rest.len();
        }
        None
    }

    /// Puts an entry where [`Run::place`] said.
    pub(super) fn insert(&mut self, place: Place, entry: Entry) {
        let head = Head::of(entry);
        let head = head.as_bytes();
        let (start, rest) = self.0.insert(place.offset, head.len() + entry.member.len()).split_at_mut(head.len());
        start.copy_from_slice(head);
        rest.copy_from_slice(entry.member);
    }

    /// Removes the entries of these indices.
    pub(super) fn remove(&mut self, indices: Range<usize>) {
        let (start, end) = (self.offset(indices.start), self.offset(indices.end));
        self.0.remove(start..end, indices.len());
        self.0.shrink();
    }

    /// Removes the entry at a place that [`Run::find`] gave.
    pub(super) fn remove_at(&mut self, place: Place) {
        let mut rest = Entries { rest: &self.bytes()[place.offset..], left: 1 };
        rest.next();
        let end = self.size() - rest.rest.len();
        self.0.remove(place.offset..end, 1);
    }

    /// Keeps the entries before `index` and returns the others.
    pub(super) fn split_off(&mut self, index: usize) -> Run {
        let offset = self.offset(index);
        Run(self.0.split_off(offset, index))
    }

    /// The index that splits it into two parts of about equal size, neither of them empty.
    pub(super) fn middle(&self) -> usize {
        let mut entries = self.iter();
        let mut index = 0;
        while entries.next().is_some() && entries.rest.len() > self.size() / 2 {
            index += 1;
        }
        (index + 1).min(self.len() - 1)
    }

    /// Appends entries that all come after these.
    pub(super) fn append(&mut self, after: &Run) {
        self.0.append(&after.0);
    }

    /// Where the entry of this index begins; the end for that after the last.
    fn offset(&self, index: usize) -> usize {
        if index == self.len() {
            return self.size();
        }
        let mut entries = self.iter();
        entries.by_ref().take(index).for_each(drop);
        self.size() - entries.rest.len()
    }
}

/// Entries of a run, in order.
#[derive(Clone, Default)]
pub(super) struct Entries<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        self.left = self.left.checked_sub(1)?;
        let score = match take_varint(&mut self.rest) {
            0 => f64::from_le_bytes(take(&mut self.rest)),
            1 => f64::from(f32::from_le_bytes(take(&mut self.rest))),
            code => unzigzag(code - 2) as f64,
        };
        let len = take_varint(&mut self.rest) as usize;
        let (member, rest) = self.rest.split_at(len);
        self.rest = rest;
        Some(Entry { score, member })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Entries<'_> {}

/// What comes before a member: its score and its length.
struct Head {
    bytes: [u8; Head::MAX],
    len: usize,
}

impl Head {
    /// A score's mark with eight bytes, or ten of varint; a length.
    const MAX: usize = 20;
    /// Above, not every integer has a double of its own.
    const INTEGER_MAX: f64 = 9_007_199_254_740_992.0;

    fn of(entry: Entry) -> Head {
        let Entry { score, member } = entry;
        let mut head = Head { bytes: [0; Head::MAX], len: 0 };
        let is_integer = score.abs() < Head::INTEGER_MAX && score.trunc() == score;
        if is_integer && !(score == 0.0 && score.is_sign_negative()) {
            head.varint(zigzag(score as i64) + 2);
        } else if f64::from(score as f32).to_bits() == score.to_bits() {
            head.varint(1);
            head.extend(&(score as f32).to_le_bytes());
        } else {
            head.varint(0);
            head.extend(&score.to_le_bytes());
        }
        head.varint(member.len() as u64);
        head
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn extend(&mut self, bytes: &[u8]) {
        self.bytes[self.len..][..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.extend(&[value as u8 | 0x80]);
            value >>= 7;
        }
        self.extend(&[value as u8]);
    }
}

/// Small magnitudes become small numbers: 0, -1, 1, -2 … are 0, 1, 2, 3 …
fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}

fn unzigzag(code: u64) -> i64 {
    (code >> 1) as i64 ^ -((code & 1) as i64)
}

#[inline(always)]
fn take_varint(from: &mut &[u8]) -> u64 {
    let (&byte, rest) = from.split_first().expect("a run is whole");
    if byte < 0x80 {
        *from = rest;
        return u64::from(byte);
    }
    let word = from.first_chunk().map_or(u64::MAX, |chunk| u64::from_le_bytes(*chunk));
    let ends = !word & 0x8080_8080_8080_8080;
    if ends == 0 {
        return take_varint_bytewise(from);
    }
    *from = &from[ends.trailing_zeros() as usize / 8 + 1..];
    // Up to the first byte that ends it, without the eighth bits; then neighbours of 7, 14 and 28 bits close up.
    let word = word & (ends ^ (ends - 1)) & 0x7f7f_7f7f_7f7f_7f7f;
    let word = word & 0x007f_007f_007f_007f | (word & 0x7f00_7f00_7f00_7f00) >> 1;
    let word = word & 0x0000_3fff_0000_3fff | (word & 0x3fff_0000_3fff_0000) >> 2;
    word & 0x0fff_ffff | (word & 0x0fff_ffff_0000_0000) >> 4
}

/// The same for one of more than eight bytes, or with fewer behind its start.
#[cold]
fn take_varint_bytewise(from: &mut &[u8]) -> u64 {
    let mut value = 0;
    let mut shift = 0;
    loop {
        let (&byte, rest) = from.split_first().expect("a run is whole");
        *from = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return value;
        }
        shift += 7;
    }
}

fn take<const N: usize>(from: &mut &[u8]) -> [u8; N] {
    let (bytes, rest) = from.split_first_chunk().expect("a run is whole");
    *from = rest;
    *bytes
}
