//! The hash table inside a value: big hashes, big sets, the members of sorted sets.
//!
//! Linear hashing (Litwin, 1980) over segments of about [`LOAD`] elements. A segment covers a run of hashes, those
//! with the same top bits:
//!
//! ```text
//! segments: Vec<Arc<Segment>>       6 of them: 2^2 runs, the first two of which have been split
//!    0 000…    4 001…    2 01…    1 100…    5 101…    3 11…      (index: the top bits in reverse)
//! segment = tags: the lowest byte of each key's hash | slots: its upper half, and the place | records … | large records, each
//!           on its own
//! ```
//!
//! One insert in [`LOAD`] adds one segment and moves half of another one into it, and removals go the same way back:
//! there is no stall however large the table is, and no empty space to search. A clone shares the segments, so it costs
//! a pointer for each; a write then copies the one segment that it touches.
//!
//! The hash is SipHash-1-3 under a key of the process's own, for the reasons that the key space has. It never changes, so
//! a position in hash order keeps its meaning whatever is written, even if the table is made anew from the same elements.

use super::record::{self, Payload};
use super::{Dice, reserve};
use crate::prefetch::prefetch;
use siphasher::sip::SipHasher13;
use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::marker::PhantomData;
use std::sync::{Arc, LazyLock};

/// Elements per segment, on average, at most; at least half of it. One segment has up to twice as many, but for chance.
const LOAD: usize = 32;
/// No segment has more elements than this, but for less than one in 10^12.
const SEGMENT_LEN_MAX: usize = 4 * LOAD;
/// A longer record is allocated on its own, so that its neighbours can be moved.
const INLINE_BYTES_MAX: usize = 256;
/// A cursor is the upper part of a hash: clients may keep it in a signed integer or a double.
const CURSOR_SHIFT: u32 = 16;
/// More would need more bits than a slot has; it is some 10^11 elements.
const LEVEL_MAX: u32 = 31;
/// The two counts of an `Arc`.
const ARC_HEADER_BYTES: usize = 2 * size_of::<usize>();

fn hash(key: &[u8]) -> u64 {
    static SEED: LazyLock<(u64, u64)> = LazyLock::new(|| {
        let random = RandomState::new();
        (random.hash_one(0), random.hash_one(1))
    });
    SipHasher13::new_with_keys(SEED.0, SEED.1).hash(key)
}

/// A table of keys with a payload each. See the module's documentation.
pub struct Map<P: Payload + ?Sized> {
    /// Never empty.
    segments: Vec<Arc<Segment>>,
    len: usize,
    /// What the segments take.
    segment_bytes: usize,
    payload: PhantomData<P>,
}

impl<P: Payload + ?Sized> Map<P> {
    /// An empty table.
    pub fn new() -> Self {
        let first = Segment::default();
        let segment_bytes = first.heap_bytes();
        Map { segments: vec![Arc::new(first)], len: 0, segment_bytes, payload: PhantomData }
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What it allocated, in bytes, as if it shared nothing.
    pub fn heap_bytes(&self) -> usize {
        self.segments.capacity() * size_of::<Arc<Segment>>() + self.segment_bytes
    }

    /// What a clone allocates that it does not share, in bytes.
    pub fn clone_bytes(&self) -> usize {
        self.segments.len() * size_of::<Arc<Segment>>()
    }

    /// First step of a prefetch: asks the cache for the segment in which `key` is or will be. Returns what the second one
    /// needs.
    pub fn prefetch_segment(&self, key: &[u8]) -> u64 {
        let hash = hash(key);
        let segment: *const Segment = &*self.segments[self.locate(hash).0];
        prefetch(segment.cast());
        prefetch(segment.cast::<u8>().wrapping_add(size_of::<Segment>() - 1));
        hash
    }

    /// Second step, when the segment has arrived: asks for what it points to.
    pub fn prefetch_place(&self, hash: u64) {
        self.segments[self.locate(hash).0].prefetch();
    }

    /// What belongs to `key`.
    pub fn get(&self, key: &[u8]) -> Option<P::Ref<'_>> {
        let hash = hash(key);
        let segment = &self.segments[self.locate(hash).0];
        prefetch(segment.slots.as_ptr().cast());
        segment.find::<P>(hash, key).map(|index| segment.element::<P>(index).1)
    }

    /// Whether there is such an element.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.get(key).is_some()
    }

    /// Adds an element, or replaces the one that has the same key; returns whether it is new.
    pub fn insert(&mut self, key: &[u8], payload: P::Ref<'_>) -> bool {
        self.insert_over(key, payload, |_| ()).is_none()
    }

    /// The same; returns what `see` makes of the payload that is replaced, `None` if the element is new.
    pub fn insert_over<R>(&mut self, key: &[u8], payload: P::Ref<'_>, see: impl FnOnce(P::Ref<'_>) -> R) -> Option<R> {
        let hash = hash(key);
        let number = self.locate(hash).0;
        self.segments[number].prefetch();
        let old = self.edit(number, |segment| match segment.find::<P>(hash, key) {
            Some(index) => {
                let old = see(segment.element::<P>(index).1);
                segment.replace::<P>(index, key, payload);
                Some(old)
            }
            None => {
                segment.push::<P>(hash, key, payload);
                None
            }
        });
        if old.is_none() {
            self.len += 1;
            if self.len > self.segments.len() * LOAD && self.segments.len().ilog2() <= LEVEL_MAX {
                self.split();
            }
        }
        old
    }

    /// Removes an element; returns whether it was there.
    pub fn remove(&mut self, key: &[u8]) -> bool {
        let hash = hash(key);
        let (number, _) = self.locate(hash);
        let Some(index) = self.segments[number].find::<P>(hash, key) else { return false };
        self.edit(number, |segment| segment.remove::<P>(index));
        self.len -= 1;
        if self.segments.len() > 1 && self.len < (self.segments.len() - 1) * LOAD / 2 {
            self.join();
        }
        true
    }

    /// All elements, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], P::Ref<'_>)> + use<'_, P> {
        self.segments.iter().flat_map(|segment| segment.elements::<P>())
    }

    /// One step of a scan: visits elements until about `count` have been seen and returns the next cursor.
    ///
    /// Cursor 0 starts, and a returned 0 ends. An element that is there from the first step to the last is visited at
    /// least once, whatever is written meanwhile. Whole segments are visited: a step may yield some 60 elements more.
    pub fn scan<'a>(&'a self, cursor: u64, count: usize, mut visit: impl FnMut(&'a [u8], P::Ref<'a>)) -> u64 {
        let mut position = cursor << CURSOR_SHIFT;
        let mut seen = 0;
        while seen < count.max(1) {
            let (number, depth) = self.locate(position);
            let segment = &self.segments[number];
            segment.elements::<P>().for_each(|(key, payload)| visit(key, payload));
            seen += segment.len().max(1);
            let last = position | u64::MAX.checked_shr(depth).unwrap_or(0);
            let Some(next) = last.checked_add(1) else { return 0 };
            position = next;
        }
        position >> CURSOR_SHIFT
    }

    /// An element, each with the same probability; `None` if there is none. It takes a few random numbers however large
    /// the table is.
    pub fn random(&self, random: &mut Dice) -> Option<(&[u8], P::Ref<'_>)> {
        (!self.is_empty()).then(|| {
            let (number, index) = self.random_place(random);
            self.segments[number].element::<P>(index)
        })
    }

    /// `count` different elements, each with the same probability, or all if there are not more.
    pub fn choose_distinct(&self, count: usize, random: &mut Dice) -> Vec<(&[u8], P::Ref<'_>)> {
        // Who wants a good part of them walks over all.
        if count.saturating_mul(16) > self.len {
            return select(self.iter(), self.len, count, random).collect();
        }
        let mut chosen = HashSet::new();
        while chosen.len() < count {
            chosen.insert(self.random_place(random));
        }
        chosen.into_iter().map(|(number, index)| self.segments[number].element::<P>(index)).collect()
    }

    /// A segment's number and an element's index in it; there must be one.
    fn random_place(&self, random: &mut Dice) -> (usize, usize) {
        loop {
            let number = random.below(self.segments.len());
            let segment = &self.segments[number];
            // Segments differ in length: who chose one first and then among its elements would favour the short ones.
            let places = if self.segments.len() == 1 { segment.len() } else { SEGMENT_LEN_MAX.max(segment.len()) };
            let index = random.below(places);
            if index < segment.len() {
                return (number, index);
            }
        }
    }

    /// The number of the segment that covers a hash, and how many top bits the hashes in it share.
    fn locate(&self, hash: u64) -> (usize, u32) {
        let count = self.segments.len();
        let level = count.ilog2();
        let number = |bits: u32| (hash.reverse_bits() & !(u64::MAX << bits)) as usize;
        let is_split = number(level) < count - (1 << level);
        let depth = level + u32::from(is_split);
        (number(depth), depth)
    }

    /// Changes a segment, which is copied before if a clone of the table has it too.
    fn edit<R>(&mut self, number: usize, change: impl FnOnce(&mut Segment) -> R) -> R {
        self.segment_bytes -= self.segments[number].heap_bytes();
        let segment = Arc::make_mut(&mut self.segments[number]);
        let result = change(segment);
        self.segment_bytes += segment.heap_bytes();
        result
    }

    /// Adds a segment, which gets half of the one whose turn it is.
    fn split(&mut self) {
        let count = self.segments.len();
        let level = count.ilog2();
        let number = count - (1 << level);
        let whole = &self.segments[number];
        let (mut lower, mut upper) = (Segment::for_half_of(whole), Segment::for_half_of(whole));
        for index in 0..whole.len() {
            let is_upper = whole.slots[index].top >> (31 - level) & 1 != 0;
            let target = if is_upper { &mut upper } else { &mut lower };
            target.push_from::<P>(whole, index);
        }
        self.segment_bytes -= whole.heap_bytes();
        self.segment_bytes += lower.heap_bytes() + upper.heap_bytes();
        self.segments[number] = Arc::new(lower);
        self.segments.push(Arc::new(upper));
    }

    /// Undoes the last [`Map::split`]; there are at least two segments.
    fn join(&mut self) {
        let upper = self.segments.pop().expect("there are two at least");
        self.segment_bytes -= upper.heap_bytes();
        let count = self.segments.len();
        self.edit(count - (1 << count.ilog2()), |lower| {
            (0..upper.len()).for_each(|index| lower.push_from::<P>(&upper, index));
        });
        if self.segments.capacity() > 4 * count {
            self.segments.shrink_to(2 * count);
        }
    }
}

impl<P: Payload + ?Sized> Default for Map<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Payload + ?Sized> Clone for Map<P> {
    fn clone(&self) -> Self {
        Map { segments: self.segments.clone(), ..*self }
    }
}

impl<P: Payload + ?Sized> PartialEq for Map<P> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().all(|(key, payload)| other.get(key) == Some(payload))
    }
}

impl<P: Payload + ?Sized> fmt::Debug for Map<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// `count` of `len` elements, in their order; every choice has the same probability (Knuth's algorithm S).
pub(super) fn select<T>(
    elements: impl Iterator<Item = T>,
    len: usize,
    count: usize,
    random: &mut Dice,
) -> impl Iterator<Item = T> {
    let (mut left, mut wanted) = (len, count);
    elements.filter(move |_| {
        let is_chosen = random.below(left) < wanted;
        left -= 1;
        wanted -= usize::from(is_chosen);
        is_chosen
    })
}

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Among the others, from here on.
    Inline(u16),
    /// On its own, under this number.
    Large(u16),
}

/// What is known of an element beside its tag.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// The upper half of the key's hash, so that nobody who splits a segment has to hash again.
    top: u32,
    place: Place,
}

/// Elements whose hashes have the same top bits.
#[derive(Clone, Debug, Default)]
struct Segment {
    /// The lowest byte of each hash.
    tags: Vec<u8>,
    slots: Vec<Slot>,
    /// The inline records, in any order, without gaps.
    records: Vec<u8>,
    large: Vec<Arc<[u8]>>,
}

impl Segment {
    /// An empty one with room for half of the elements of another one, and some more.
    fn for_half_of(whole: &Segment) -> Segment {
        let half = |len: usize| len / 2 + len / 8;
        Segment {
            tags: Vec::with_capacity(half(whole.len())),
            slots: Vec::with_capacity(half(whole.len())),
            records: Vec::with_capacity(half(whole.records.len())),
            large: Vec::new(),
        }
    }

    fn len(&self) -> usize {
        self.tags.len()
    }

    fn heap_bytes(&self) -> usize {
        let lists = self.tags.capacity()
            + self.slots.capacity() * size_of::<Slot>()
            + self.records.capacity()
            + self.large.capacity() * size_of::<Arc<[u8]>>();
        let large: usize = self.large.iter().map(|record| record.len() + ARC_HEADER_BYTES).sum();
        ARC_HEADER_BYTES + size_of::<Segment>() + lists + large
    }

    /// The record, and what follows it.
    fn record(&self, index: usize) -> &[u8] {
        match self.slots[index].place {
            Place::Inline(start) => &self.records[usize::from(start)..],
            Place::Large(number) => &self.large[usize::from(number)],
        }
    }

    fn element<P: Payload + ?Sized>(&self, index: usize) -> (&[u8], P::Ref<'_>) {
        record::take::<P>(&mut self.record(index))
    }

    fn elements<P: Payload + ?Sized>(&self) -> impl Iterator<Item = (&[u8], P::Ref<'_>)> {
        (0..self.len()).map(|index| self.element::<P>(index))
    }

    /// Asks the cache for what an insertion will need, all at once: its ways there are none of each other's.
    fn prefetch(&self) {
        prefetch(self.tags.as_ptr());
        prefetch(self.slots.as_ptr().wrapping_add(self.len()).cast());
        prefetch(self.records.as_ptr().wrapping_add(self.records.len()));
    }

    fn find<P: Payload + ?Sized>(&self, hash: u64, key: &[u8]) -> Option<usize> {
        memchr::memchr_iter(hash as u8, &self.tags).find(|index| self.element::<P>(*index).0 == key)
    }

    /// Adds an element whose key is not there.
    fn push<P: Payload + ?Sized>(&mut self, hash: u64, key: &[u8], payload: P::Ref<'_>) {
        let place = self.write::<P>(key, payload);
        self.add(hash as u8, Slot { top: (hash >> 32) as u32, place });
    }

    /// Adds the element that another segment has under `index`.
    fn push_from<P: Payload + ?Sized>(&mut self, other: &Segment, index: usize) {
        let place = match other.slots[index].place {
            Place::Large(number) => self.add_large(other.large[usize::from(number)].clone()),
            Place::Inline(_) => {
                let record = other.record(index);
                let mut rest = record;
                record::take::<P>(&mut rest);
                self.write_record(&record[..record.len() - rest.len()])
            }
        };
        self.add(other.tags[index], Slot { place, ..other.slots[index] });
    }

    fn add(&mut self, tag: u8, slot: Slot) {
        reserve(&mut self.tags, 1);
        self.tags.push(tag);
        reserve(&mut self.slots, 1);
        self.slots.push(slot);
    }

    fn add_large(&mut self, record: Arc<[u8]>) -> Place {
        self.large.push(record);
        Place::Large(u16::try_from(self.large.len() - 1).expect("the hash spreads elements evenly over segments"))
    }

    /// Writes a record to where there is room for it.
    fn write<P: Payload + ?Sized>(&mut self, key: &[u8], payload: P::Ref<'_>) -> Place {
        let len = record::len_bytes::<P>(key, payload);
        match u16::try_from(self.records.len()) {
            Ok(start) if len <= INLINE_BYTES_MAX => {
                reserve(&mut self.records, len);
                record::put::<P>(key, payload, &mut self.records);
                Place::Inline(start)
            }
            _ => {
                let mut record = Vec::with_capacity(len);
                record::put::<P>(key, payload, &mut record);
                self.add_large(record.into())
            }
        }
    }

    /// Writes a record that another segment had among its own.
    fn write_record(&mut self, record: &[u8]) -> Place {
        let Ok(start) = u16::try_from(self.records.len()) else { return self.add_large(record.into()) };
        reserve(&mut self.records, record.len());
        self.records.extend_from_slice(record);
        Place::Inline(start)
    }

    /// Gives the element under `index` another payload.
    fn replace<P: Payload + ?Sized>(&mut self, index: usize, key: &[u8], payload: P::Ref<'_>) {
        self.erase::<P>(index);
        self.slots[index].place = self.write::<P>(key, payload);
    }

    fn remove<P: Payload + ?Sized>(&mut self, index: usize) {
        self.erase::<P>(index);
        self.tags.swap_remove(index);
        self.slots.swap_remove(index);
    }

    /// Removes the record of the element under `index`, whose place then means nothing.
    fn erase<P: Payload + ?Sized>(&mut self, index: usize) {
        match self.slots[index].place {
            Place::Inline(start) => {
                let (key, payload) = self.element::<P>(index);
                let len = record::len_bytes::<P>(key, payload);
                self.records.drain(usize::from(start)..usize::from(start) + len);
                for slot in &mut self.slots {
                    if let Place::Inline(at) = &mut slot.place
                        && *at > start
                    {
                        *at -= len as u16;
                    }
                }
            }
            Place::Large(number) => {
                self.large.swap_remove(usize::from(number));
                let moved = Place::Large(self.large.len() as u16);
                if let Some(slot) = self.slots.iter_mut().find(|slot| slot.place == moved) {
                    slot.place = Place::Large(number);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn is_send_and_sync<T: Send + Sync>(_: &T) {}

    fn key(number: u64) -> Vec<u8> {
        format!("key:{number}").into_bytes()
    }

    fn check(map: &Map<[u8]>, model: &HashMap<Vec<u8>, Vec<u8>>) {
        assert_eq!(map.len(), model.len());
        let elements: HashMap<Vec<u8>, Vec<u8>> = map.iter().map(|(key, value)| (key.into(), value.into())).collect();
        assert_eq!(&elements, model);
        assert!(model.iter().all(|(key, value)| map.get(key) == Some(value.as_slice())));
        let segments: usize = map.segments.iter().map(|segment| segment.heap_bytes()).sum();
        assert_eq!(segments, map.segment_bytes);
        assert!(map.segments.len() == 1 || map.len() >= (map.segments.len() - 1) * LOAD / 2);
    }

    proptest! {
        #[test]
        fn it_is_a_map(steps in prop::collection::vec((0..4u8, 0..400u64, 0..600usize), 1..2_000)) {
            let (mut map, mut model) = (Map::<[u8]>::new(), HashMap::new());
            let mut clones = Vec::new();
            for (count, (what, number, len)) in steps.into_iter().enumerate() {
                let key = key(number);
                if what == 0 {
                    prop_assert_eq!(map.remove(&key), model.remove(&key).is_some());
                } else {
                    let value = vec![number as u8; if what == 1 { len } else { len % 16 }];
                    prop_assert_eq!(map.insert(&key, &value), model.insert(key, value).is_none());
                }
                if count % 400 == 0 {
                    clones.push((map.clone(), model.clone()));
                }
            }
            clones.push((map, model));
            clones.iter().for_each(|(map, model)| check(map, model));
        }
    }

    #[test]
    fn it_grows_and_shrinks_by_a_segment_at_a_time() {
        let mut map = Map::<()>::new();
        is_send_and_sync(&map);
        for number in 0..100_000 {
            assert!(map.insert(&key(number), ()));
        }
        assert!(map.segments.len() == 100_000usize.div_ceil(LOAD));
        assert!(map.segments.iter().all(|segment| segment.len() <= SEGMENT_LEN_MAX));
        assert!(map.heap_bytes() < 100_000 * 30, "{} bytes", map.heap_bytes());
        for number in 0..100_000 {
            assert!(map.contains(&key(number)) && map.remove(&key(number)));
        }
        assert_eq!((map.segments.len(), map.iter().count()), (1, 0));
        assert!(map.heap_bytes() < 4_000, "{} bytes", map.heap_bytes());
    }

    #[test]
    fn a_scan_meets_whatever_stays_while_the_table_grows_and_shrinks() {
        let mut random = Dice::new(1);
        for round in 0..20 {
            let mut map = Map::<f64>::new();
            (0..500).for_each(|number| _ = map.insert(&key(number), 1.0));
            let (mut cursor, mut seen) = (0, HashSet::new());
            loop {
                cursor = map.scan(cursor, 10, |key, _| _ = seen.insert(key.to_vec()));
                if cursor == 0 {
                    break;
                }
                for _ in 0..50 {
                    let other = key(1_000 + random.roll() % 2_000);
                    if (round + seen.len() / 100) % 2 == 0 {
                        map.insert(&other, 2.0)
                    } else {
                        map.remove(&other)
                    };
                }
            }
            assert!((0..500).all(|number| seen.contains(&key(number))));
        }
    }

    #[test]
    fn a_scan_goes_on_in_a_table_made_anew() {
        let mut map = Map::<()>::new();
        (0..1_000).for_each(|number| _ = map.insert(&key(number), ()));
        let mut seen = HashSet::new();
        let cursor = map.scan(0, 300, |key, ()| _ = seen.insert(key.to_vec()));
        let mut other = Map::<()>::new();
        (0..5_000).for_each(|number| _ = other.insert(&key(number), ()));
        assert_eq!(other.scan(cursor, usize::MAX, |key, ()| _ = seen.insert(key.to_vec())), 0);
        assert!(map.iter().all(|(key, ())| seen.contains(key)));
    }

    #[test]
    fn every_element_is_as_likely() {
        let mut random = Dice::new(2);
        // A table some of whose segments are split, and a single segment.
        for len in [7, 100, 1_500] {
            let mut map = Map::<()>::new();
            (0..len).for_each(|number| _ = map.insert(&key(number), ()));
            let mut counts: HashMap<Vec<u8>, f64> = HashMap::new();
            for _ in 0..100 * len {
                *counts.entry(map.random(&mut random).expect("it has elements").0.to_vec()).or_default() += 1.0;
            }
            assert_eq!(counts.len(), len as usize);
            let chi_squared: f64 = counts.values().map(|count| (count - 100.0).powi(2) / 100.0).sum();
            // Mean and six standard deviations of the distribution.
            let freedom = len as f64 - 1.0;
            assert!(chi_squared < freedom + 6.0 * (2.0 * freedom).sqrt(), "{chi_squared} for {len}");
        }
        assert_eq!(Map::<()>::new().random(&mut random), None);
    }

    #[test]
    fn a_write_to_a_clone_copies_one_segment() {
        let mut map = Map::<[u8]>::new();
        (0..10_000).for_each(|number| _ = map.insert(&key(number), b"v"));
        let frozen = map.clone();
        map.insert(&key(1), b"w");
        let shared = frozen.segments.iter().zip(&map.segments).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert_eq!(shared, map.segments.len() - 1);
        assert_eq!((frozen.get(&key(1)), map.get(&key(1))), (Some(b"v".as_slice()), Some(b"w".as_slice())));
    }
}
