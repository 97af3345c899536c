//! Different integers in ascending order, each as wide as the widest of them must be.
//!
//! ```text
//! width u8: 2, 4 or 8 | integers, little endian …          nothing at all if there are none
//! ```

use std::cmp::Ordering;

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub(super) struct Integers(Box<[u8]>);

/// How many bytes an integer needs.
fn width(value: i64) -> usize {
    match value {
        _ if i16::try_from(value).is_ok() => size_of::<i16>(),
        _ if i32::try_from(value).is_ok() => size_of::<i32>(),
        _ => size_of::<i64>(),
    }
}

impl Integers {
    pub(super) fn new() -> Integers {
        Integers::default()
    }

    fn width(&self) -> usize {
        self.0.first().map_or(size_of::<i16>(), |width| usize::from(*width))
    }

    /// Where an integer lies.
    fn offset(&self, index: usize) -> usize {
        1 + index * self.width()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len().saturating_sub(1) / self.width()
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.0.len()
    }

    /// Where the buffer is.
    pub(super) fn start(&self) -> *const u8 {
        self.0.as_ptr()
    }

    pub(super) fn get(&self, index: usize) -> Option<i64> {
        let bytes = self.0.get(self.offset(index)..)?;
        match self.width() {
            2 => bytes.first_chunk().map(|bytes| i64::from(i16::from_le_bytes(*bytes))),
            4 => bytes.first_chunk().map(|bytes| i64::from(i32::from_le_bytes(*bytes))),
            _ => bytes.first_chunk().map(|bytes| i64::from_le_bytes(*bytes)),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = i64> {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    /// The index of an integer, or the one that it would have.
    fn search(&self, value: i64) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.get(middle).expect("it is less than the number of integers").cmp(&value) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Ok(middle),
                Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    pub(super) fn contains(&self, value: i64) -> bool {
        self.search(value).is_ok()
    }

    pub(super) fn insert(&mut self, value: i64) -> bool {
        let Err(index) = self.search(value) else { return false };
        if width(value) > self.width() {
            self.widen(width(value));
        }
        let width = self.width();
        let (start, old) = (self.offset(index), self.0.len().max(1));
        let mut bytes = std::mem::take(&mut self.0).into_vec();
        bytes.reserve_exact(old + width - bytes.len());
        bytes.resize(old + width, 0);
        bytes[0] = width as u8;
        bytes.copy_within(start..old, start + width);
        bytes[start..][..width].copy_from_slice(&value.to_le_bytes()[..width]);
        self.0 = bytes.into_boxed_slice();
        true
    }

    fn widen(&mut self, width: usize) {
        let integers: Vec<i64> = self.iter().collect();
        let bytes = integers.iter().flat_map(|value| value.to_le_bytes().into_iter().take(width));
        self.0 = std::iter::once(width as u8).chain(bytes).collect();
    }

    pub(super) fn remove(&mut self, value: i64) -> bool {
        let Ok(index) = self.search(value) else { return false };
        let (start, end) = (self.offset(index), self.offset(index + 1));
        let mut bytes = std::mem::take(&mut self.0).into_vec();
        bytes.drain(start..end);
        self.0 = bytes.into_boxed_slice();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_is_a_set_in_order_whatever_the_width(
            steps in prop::collection::vec((any::<bool>(), 0..3u32, -40..40i64), 1..200)
        ) {
            let (mut integers, mut model) = (Integers::new(), BTreeSet::new());
            for (is_insert, size, number) in steps {
                let value = number * 1000_i64.pow(2 * size);
                if is_insert {
                    prop_assert_eq!(integers.insert(value), model.insert(value));
                } else {
                    prop_assert_eq!(integers.remove(value), model.remove(&value));
                }
                prop_assert_eq!(integers.contains(value), is_insert);
            }
            prop_assert_eq!(integers.len(), model.len());
            prop_assert!(integers.iter().eq(model.iter().copied()));
        }
    }
}
