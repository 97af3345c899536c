//! Different integers in ascending order, each as wide as the widest of them must be.
//!
//! ```text
//! width u8: 1 to 8 | integers, little endian …          nothing at all if there are none
//! ```

use std::cmp::Ordering;

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub(super) struct Integers(Box<[u8]>);

/// How many bytes an integer needs, its sign included.
fn width(value: i64) -> usize {
    let magnitude = if value < 0 { !value } else { value };
    (u64::BITS - magnitude.leading_zeros()) as usize / 8 + 1
}

impl Integers {
    pub(super) fn new() -> Integers {
        Integers::default()
    }

    fn width(&self) -> usize {
        self.0.first().map_or(1, |width| usize::from(*width))
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
        let width = self.width();
        let bytes = self.0.get(self.offset(index)..)?.get(..width)?;
        // At the upper end, from where it is moved down with its sign.
        let mut wide = [0; size_of::<i64>()];
        wide[size_of::<i64>() - width..].copy_from_slice(bytes);
        Some(i64::from_le_bytes(wide) >> (i64::BITS - 8 * width as u32))
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

    #[test]
    fn each_integer_takes_only_the_bytes_that_the_widest_needs() {
        for bytes in 1..=8_usize {
            let most = i64::MAX >> (64 - 8 * bytes as u32);
            let ends = [!most, most];
            let mut integers = Integers::new();
            assert!(ends.iter().all(|value| integers.insert(*value)));
            assert!(integers.iter().eq(ends));
            assert_eq!(integers.heap_bytes(), 1 + 2 * bytes);
            if let Some(more) = most.checked_add(1) {
                assert!(integers.insert(more) && integers.iter().eq([!most, most, more]));
                assert_eq!(integers.heap_bytes(), 1 + 3 * (bytes + 1));
            }
        }
    }

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
