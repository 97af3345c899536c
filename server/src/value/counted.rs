//! Encoded elements and how many they are, in one buffer: what small aggregates and the leaves of big ones lie in.
//!
//! ```text
//! count u32, little endian | elements …          nothing at all if there are none
//! ```
//!
//! The count lies with the elements, so that a value that is one buffer takes no more room in its box than a vector does.

use std::ops::Range;

const COUNT_BYTES: usize = size_of::<u32>();

/// Room is taken in steps of so many bytes, or of an eighth of the next power of two, as the allocator gives it: what lies
/// between would be lost anyway.
const STEP_BYTES: usize = 16;

/// See the module's documentation. Offsets are those of the elements, the first of which is at 0.
#[derive(Clone, Default)]
pub(super) struct Counted(Vec<u8>);

impl Counted {
    pub(super) const fn new() -> Counted {
        Counted(Vec::new())
    }

    /// How many elements there are.
    #[inline]
    pub(super) fn count(&self) -> usize {
        self.0.first_chunk().map_or(0, |count| u32::from_le_bytes(*count) as usize)
    }

    /// The elements.
    #[inline]
    pub(super) fn elements(&self) -> &[u8] {
        self.0.get(COUNT_BYTES..).unwrap_or_default()
    }

    /// What it allocated, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        self.0.capacity()
    }

    /// Where the buffer is.
    pub(super) fn start(&self) -> *const u8 {
        self.0.as_ptr()
    }

    /// Makes room for an element of so many bytes at an offset, which are then to be written.
    pub(super) fn insert(&mut self, offset: usize, size: usize) -> &mut [u8] {
        self.widen(offset, size);
        self.set_count(self.count() + 1);
        &mut self.0[COUNT_BYTES + offset..][..size]
    }

    /// Removes elements that take these bytes.
    pub(super) fn remove(&mut self, bytes: Range<usize>, count: usize) {
        self.0.drain(COUNT_BYTES + bytes.start..COUNT_BYTES + bytes.end);
        self.set_count(self.count() - count);
    }

    /// Lets an element that takes these bytes take `size` ones, which are then to be written.
    pub(super) fn resize(&mut self, bytes: Range<usize>, size: usize) -> &mut [u8] {
        let start = bytes.start;
        match size.checked_sub(bytes.len()) {
            Some(more) => self.widen(bytes.end, more),
            None => drop(self.0.drain(COUNT_BYTES + start + size..COUNT_BYTES + bytes.end)),
        }
        &mut self.0[COUNT_BYTES + start..][..size]
    }

    /// Keeps `count` elements, which end at an offset, and returns the others.
    pub(super) fn split_off(&mut self, offset: usize, count: usize) -> Counted {
        let mut rest = Counted::new();
        rest.append_elements(&self.elements()[offset..], self.count() - count);
        self.0.truncate(COUNT_BYTES + offset);
        self.set_count(count);
        self.0.shrink_to_fit();
        rest
    }

    /// Appends the elements of another one.
    pub(super) fn append(&mut self, other: &Counted) {
        self.append_elements(other.elements(), other.count());
    }

    /// Gives memory back that was needed once.
    pub(super) fn shrink(&mut self) {
        self.0.shrink_to(self.0.len() + self.0.len() / 2);
    }

    fn append_elements(&mut self, elements: &[u8], count: usize) {
        let end = self.elements().len();
        self.widen(end, elements.len());
        self.0[COUNT_BYTES + end..].copy_from_slice(elements);
        self.set_count(self.count() + count);
    }

    /// Opens a gap.
    fn widen(&mut self, offset: usize, size: usize) {
        let old = self.0.len().max(COUNT_BYTES);
        let new = old + size;
        if new > self.0.capacity() {
            let step = STEP_BYTES.max(new.next_power_of_two() / 8);
            self.0.reserve_exact(new.next_multiple_of(step) - self.0.len());
        }
        self.0.resize(new, 0);
        self.0.copy_within(COUNT_BYTES + offset..old, COUNT_BYTES + offset + size);
    }

    fn set_count(&mut self, count: usize) {
        let count = u32::try_from(count).expect("what has more elements has another form");
        self.0[..COUNT_BYTES].copy_from_slice(&count.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_move_to_make_room_and_are_counted() {
        let mut counted = Counted::new();
        assert_eq!((counted.count(), counted.elements(), counted.heap_bytes()), (0, b"".as_slice(), 0));
        counted.insert(0, 3).copy_from_slice(b"abc");
        counted.insert(0, 2).copy_from_slice(b"xy");
        counted.insert(2, 1).copy_from_slice(b"-");
        assert_eq!((counted.count(), counted.elements()), (3, b"xy-abc".as_slice()));
        counted.resize(2..3, 4).copy_from_slice(b"++++");
        counted.resize(0..2, 1).copy_from_slice(b"z");
        assert_eq!((counted.count(), counted.elements()), (3, b"z++++abc".as_slice()));
        let rest = counted.split_off(1, 1);
        assert_eq!((counted.count(), counted.elements()), (1, b"z".as_slice()));
        assert_eq!((rest.count(), rest.elements()), (2, b"++++abc".as_slice()));
        counted.append(&rest);
        counted.remove(1..5, 1);
        assert_eq!((counted.count(), counted.elements()), (2, b"zabc".as_slice()));
    }
}
