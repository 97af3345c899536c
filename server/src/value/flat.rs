//! A few elements in one buffer, in the order they came in: what a small hash or set takes least memory as.

use super::counted::Counted;
use super::record::{self, Payload};
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

/// Records one after the other; every operation walks over them.
pub(super) struct Flat<P: Payload + ?Sized> {
    records: Counted,
    payload: PhantomData<P>,
}

impl<P: Payload + ?Sized> Flat<P> {
    /// Nothing yet; allocates nothing.
    pub fn new() -> Self {
        Flat { records: Counted::new(), payload: PhantomData }
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        self.records.count()
    }

    /// What it allocated, in bytes.
    pub fn heap_bytes(&self) -> usize {
        self.records.heap_bytes()
    }

    /// Where the buffer is.
    pub fn start(&self) -> *const u8 {
        self.records.start()
    }

    /// All elements, in the order they came in.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], P::Ref<'_>)> + use<'_, P> {
        self.records().map(|(_, key, payload)| (key, payload))
    }

    /// The same, each with where it is.
    fn records(&self) -> impl Iterator<Item = (Range<usize>, &[u8], P::Ref<'_>)> + use<'_, P> {
        let records = self.records.elements();
        let mut rest = records;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let start = records.len() - rest.len();
            let (key, payload) = record::take::<P>(&mut rest);
            Some((start..records.len() - rest.len(), key, payload))
        })
    }

    fn find(&self, key: &[u8]) -> Option<(Range<usize>, P::Ref<'_>)> {
        self.records().find(|(_, found, _)| *found == key).map(|(place, _, payload)| (place, payload))
    }

    /// What belongs to `key`.
    pub fn get(&self, key: &[u8]) -> Option<P::Ref<'_>> {
        self.find(key).map(|(_, payload)| payload)
    }

    /// Puts an element at the end, or in the place of the one that has the same key; returns whether it is new.
    pub fn insert(&mut self, key: &[u8], payload: P::Ref<'_>) -> bool {
        let size = record::len_bytes::<P>(key, payload);
        let old = self.find(key).map(|(place, _)| place);
        let is_new = old.is_none();
        let place = match old {
            Some(place) => self.records.resize(place, size),
            None => self.records.insert(self.records.elements().len(), size),
        };
        record::write::<P>(key, payload, place);
        is_new
    }

    /// Removes an element; returns whether it was there.
    pub fn remove(&mut self, key: &[u8]) -> bool {
        let Some((place, _)) = self.find(key) else { return false };
        self.records.remove(place, 1);
        true
    }
}

impl<P: Payload + ?Sized> Clone for Flat<P> {
    fn clone(&self) -> Self {
        Flat { records: self.records.clone(), ..*self }
    }
}

impl<P: Payload + ?Sized> fmt::Debug for Flat<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_keep_their_order_and_their_place_when_they_change() {
        let mut flat = Flat::<[u8]>::new();
        for key in [b"one", b"two", b"six"] {
            assert!(flat.insert(key, b"v"));
        }
        assert!(!flat.insert(b"two", b"a longer value"));
        assert!(!flat.insert(b"one", b""));
        let elements: Vec<_> = flat.iter().collect();
        let expected: [(&[u8], &[u8]); 3] = [(b"one", b""), (b"two", b"a longer value"), (b"six", b"v")];
        assert_eq!(elements, expected);
        assert!(flat.remove(b"two") && !flat.remove(b"two"));
        assert_eq!((flat.get(b"two"), flat.get(b"six"), flat.len()), (None, Some(b"v".as_slice()), 2));
    }
}
