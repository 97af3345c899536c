//! A block of up to [`CAPACITY`] slots: the part of a table that a run of hashes shares.
//!
//! ```text
//! header 64 bytes | group 0 | group 1 | … | group 7          1,088 bytes, one allocation
//! group 128 bytes = 14 tags, overflow count, – | 14 slots of 8 bytes
//! slot            = hash bits 40..56 | entry address (48 bits, its low 3 bits: the home group)
//! ```
//!
//! A key's home group is told by its lowest 3 hash bits; if the group is full the entry goes to the next one, and the
//! groups it passed count it in `overflow`. So a lookup compares 14 tags at once, stops at the first group that nothing
//! passed, and a removal leaves no tombstone behind (the scheme is that of Facebook's F14, 2019). The hash bits in the
//! slot let a split send every entry to its side without touching it, and spare false reads of entries.

use super::Key;
use super::entry::{Entry, EntryRef};
use super::slab::Slab;
use crate::prefetch::prefetch;
use std::ptr::NonNull;

const GROUPS: usize = 8;
const GROUP_SLOTS: usize = 14;
/// Entries that a segment holds before it splits.
pub(super) const CAPACITY: usize = GROUPS * GROUP_SLOTS;
const SLOT_MASK: u32 = (1 << GROUP_SLOTS) - 1;
/// The tag of an empty slot; no key has it.
const EMPTY: u8 = 0;

/// The hash bits that a slot keeps, counted from the top: a directory up to 2^24 segments splits without rehashing.
const KEPT_BITS: std::ops::Range<u32> = 8..24;
const ADDRESS_MASK: u64 = 0x0000_ffff_ffff_fff8;

/// An entry's address and what is known of its hash.
#[derive(Clone, Copy)]
struct Slot(u64);

impl Slot {
    fn new(entry: Entry, hash: u64) -> Slot {
        Slot(entry.address().as_ptr().expose_provenance() as u64 | Slot::fingerprint(hash))
    }

    /// The bits of a slot that its key's hash determines.
    fn fingerprint(hash: u64) -> u64 {
        (hash >> 40 << 48) | home(hash) as u64
    }

    fn matches(self, hash: u64) -> bool {
        self.0 & !ADDRESS_MASK == Slot::fingerprint(hash)
    }

    fn home(self) -> usize {
        self.0 as usize % GROUPS
    }

    fn entry(self) -> Entry {
        let address = std::ptr::with_exposed_provenance_mut::<u8>((self.0 & ADDRESS_MASK) as usize);
        Entry::at(NonNull::new(address).expect("an occupied slot holds the address of an entry"))
    }

    fn with_entry(self, entry: Entry) -> Slot {
        Slot(entry.address().as_ptr().expose_provenance() as u64 | self.0 & !ADDRESS_MASK)
    }

    /// The bit of the hash at `depth` from the top, if the slot keeps it.
    fn hash_bit(self, depth: u32) -> Option<bool> {
        KEPT_BITS.contains(&depth).then(|| self.0 >> (71 - depth) & 1 != 0)
    }
}

fn home(hash: u64) -> usize {
    hash as usize % GROUPS
}

fn tag(hash: u64) -> u8 {
    ((hash >> 3) as u8).max(EMPTY + 1)
}

#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Group {
    /// One per slot, then the overflow count (entries at home here or before that had to go further), then nothing.
    tags: [u8; 16],
    slots: [Slot; GROUP_SLOTS],
}

const OVERFLOW: usize = 14;
const EMPTY_GROUP: Group = Group { tags: [EMPTY; 16], slots: [Slot(0); GROUP_SLOTS] };

impl Group {
    /// A bit per slot that has this tag.
    #[cfg(target_arch = "x86_64")]
    fn matches(&self, tag: u8) -> u32 {
        use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi8};
        // SAFETY: SSE2 belongs to x86-64, and the tags are 16 bytes.
        let mask = unsafe {
            let tags = _mm_loadu_si128(self.tags.as_ptr().cast());
            _mm_movemask_epi8(_mm_cmpeq_epi8(tags, _mm_set1_epi8(tag as i8)))
        };
        mask as u32 & SLOT_MASK
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn matches(&self, tag: u8) -> u32 {
        self.matches_portably(tag)
    }

    #[cfg(any(test, not(target_arch = "x86_64")))]
    fn matches_portably(&self, tag: u8) -> u32 {
        (0..GROUP_SLOTS).fold(0, |mask, index| mask | u32::from(self.tags[index] == tag) << index)
    }

    fn occupied(&self) -> u32 {
        !self.matches(EMPTY) & SLOT_MASK
    }
}

/// The bits set in `mask`, as numbers.
fn bits(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = (mask != 0).then(|| mask.trailing_zeros() as usize);
        mask &= mask.wrapping_sub(1);
        bit
    })
}

/// Where in its segment an entry is.
#[derive(Clone, Copy)]
pub(super) struct Place {
    group: usize,
    index: usize,
}

/// See the module's documentation.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(super) struct Segment {
    /// The last snapshot walk that has its entries, or that found them new.
    pub(super) version: u64,
    /// No entry has a deadline before this; `i64::MAX` if none has one.
    pub(super) earliest_ms: i64,
    /// How many top bits of the hash all entries share.
    pub(super) depth: u32,
    live: u32,
    /// The walk that has passed some of the slots ahead of its turn, and which those are, a bit for each slot of a group.
    passing: u64,
    passed: [u16; GROUPS],
    groups: [Group; GROUPS],
}

impl Segment {
    /// Writes an empty segment into a cell of `slab`.
    pub(super) fn create(slab: &mut Slab, version: u64, depth: u32, earliest_ms: i64) -> NonNull<Segment> {
        let cell = slab.alloc(size_of::<Segment>()).cast::<Segment>();
        let (passing, passed) = (version, [0; GROUPS]);
        let segment = Segment { version, earliest_ms, depth, live: 0, passing, passed, groups: [EMPTY_GROUP; GROUPS] };
        // SAFETY: the cell is large enough, and aligned to 64 as the slab promises for this size.
        unsafe { cell.write(segment) };
        cell
    }

    pub(super) fn is_full(&self) -> bool {
        self.live as usize == CAPACITY
    }

    /// The first place on the hash's probe path that may hold it and that `accept` takes.
    fn probe(&self, hash: u64, mut accept: impl FnMut(Entry) -> bool) -> Option<Place> {
        let tag = tag(hash);
        for step in 0..GROUPS {
            let number = (home(hash) + step) % GROUPS;
            let group = &self.groups[number];
            for index in bits(group.matches(tag)) {
                if group.slots[index].matches(hash) && accept(group.slots[index].entry()) {
                    return Some(Place { group: number, index });
                }
            }
            if group.tags[OVERFLOW] == 0 {
                break;
            }
        }
        None
    }

    /// Where `key` is.
    pub(super) fn find(&self, key: Key<'_>) -> Option<Place> {
        // SAFETY: entries in slots live.
        self.probe(key.hash, |entry| unsafe { entry.as_ref() }.key() == key.bytes)
    }

    /// Asks for the two cache lines of the hash's home group.
    pub(super) fn prefetch_group(&self, hash: u64) {
        let group = &raw const self.groups[home(hash)];
        prefetch(group.cast());
        prefetch(group.cast::<u8>().wrapping_add(64));
    }

    /// Asks for the entry that the hash most likely belongs to.
    pub(super) fn prefetch_entry(&self, hash: u64) {
        self.probe(hash, |entry| {
            prefetch_entry(entry);
            true
        });
    }

    /// Asks for the value of that entry; false if it does not lie elsewhere.
    pub(super) fn prefetch_value(&self, hash: u64) -> bool {
        let mut is_elsewhere = false;
        self.probe(hash, |entry| {
            // SAFETY: entries in slots live.
            if let Some(value) = unsafe { entry.boxed() } {
                prefetch(value.cast());
                is_elsewhere = true;
            }
            true
        });
        is_elsewhere
    }

    /// That value, unless it lies in the entry.
    pub(super) fn likely_value(&self, hash: u64) -> Option<&crate::value::Value> {
        let mut likely = None;
        self.probe(hash, |entry| {
            // SAFETY: entries in slots live, and so do their boxes, for as long as nothing is written.
            likely = unsafe { entry.boxed().map(|value| &*value) };
            true
        });
        likely
    }

    /// Asks for all entries.
    pub(super) fn prefetch_entries(&self) {
        self.entries().for_each(prefetch_entry);
    }

    pub(super) fn entry(&self, place: Place) -> Entry {
        self.groups[place.group].slots[place.index].entry()
    }

    /// The entry, borrowed as long as the segment.
    pub(super) fn entry_ref(&self, place: Place) -> EntryRef<'_> {
        // SAFETY: entries in slots live, and change only through their table, which is borrowed meanwhile.
        unsafe { self.entry(place).as_ref() }
    }

    fn places(&self) -> impl Iterator<Item = Place> {
        (0..GROUPS).flat_map(|group| bits(self.groups[group].occupied()).map(move |index| Place { group, index }))
    }

    fn entries(&self) -> impl Iterator<Item = Entry> {
        self.places().map(|place| self.entry(place))
    }

    /// All entries.
    pub(super) fn entry_refs(&self) -> impl Iterator<Item = EntryRef<'_>> {
        self.places().map(|place| self.entry_ref(place))
    }

    /// The entry in slot `number` modulo the number of slots, if it is occupied.
    pub(super) fn nth_slot(&self, number: u64) -> Option<EntryRef<'_>> {
        let number = (number % CAPACITY as u64) as usize;
        let place = Place { group: number / GROUP_SLOTS, index: number % GROUP_SLOTS };
        (self.groups[place.group].tags[place.index] != EMPTY).then(|| self.entry_ref(place))
    }

    /// Adds an entry whose key is not there; the segment must not be full.
    pub(super) fn add(&mut self, entry: Entry, hash: u64) {
        self.put(Slot::new(entry, hash), tag(hash));
    }

    fn put(&mut self, slot: Slot, tag: u8) {
        debug_assert!(!self.is_full());
        let mut number = slot.home();
        while self.groups[number].occupied() == SLOT_MASK {
            self.groups[number].tags[OVERFLOW] += 1;
            number = (number + 1) % GROUPS;
        }
        let group = &mut self.groups[number];
        let index = group.matches(EMPTY).trailing_zeros() as usize;
        group.tags[index] = tag;
        group.slots[index] = slot;
        // A walk that is passing slots ahead of its turn has nothing to do with what came after its beginning.
        self.passed[number] |= 1 << index;
        self.live += 1;
    }

    /// From here on slots may be passed by walk number `walk` ahead of its turn.
    pub(super) fn begin_passing(&mut self, walk: u64) {
        if self.passing != walk {
            (self.passing, self.passed) = (walk, [0; GROUPS]);
        }
    }

    /// A slot is passed; false if it was already.
    pub(super) fn pass(&mut self, place: Place) -> bool {
        let (bit, passed) = (1 << place.index, &mut self.passed[place.group]);
        let is_new = *passed & bit == 0;
        *passed |= bit;
        is_new
    }

    /// The entries that walk number `walk` has not passed ahead of its turn.
    pub(super) fn left_for(&self, walk: u64) -> impl Iterator<Item = EntryRef<'_>> {
        let is_left = move |place: &Place| self.passing != walk || self.passed[place.group] & (1 << place.index) == 0;
        self.places().filter(is_left).map(|place| self.entry_ref(place))
    }

    /// Puts another entry of the same key into its place.
    pub(super) fn replace(&mut self, place: Place, entry: Entry) {
        let slot = &mut self.groups[place.group].slots[place.index];
        *slot = slot.with_entry(entry);
    }

    /// Empties a place; the entry is then the caller's.
    pub(super) fn remove(&mut self, place: Place) -> Entry {
        let slot = self.groups[place.group].slots[place.index];
        let mut passed = slot.home();
        while passed != place.group {
            self.groups[passed].tags[OVERFLOW] -= 1;
            passed = (passed + 1) % GROUPS;
        }
        self.groups[place.group].tags[place.index] = EMPTY;
        self.live -= 1;
        slot.entry()
    }

    /// Removes the entries that `due` chooses and hands each to `removed`; renews `earliest_ms`.
    pub(super) fn remove_due(&mut self, due: impl Fn(EntryRef<'_>) -> bool, mut removed: impl FnMut(Entry)) {
        self.prefetch_entries();
        let mut earliest_ms = i64::MAX;
        for group in 0..GROUPS {
            for index in bits(self.groups[group].occupied()) {
                let place = Place { group, index };
                let entry = self.entry_ref(place);
                if due(entry) {
                    removed(self.remove(place));
                } else {
                    earliest_ms = earliest_ms.min(entry.deadline_ms().unwrap_or(i64::MAX));
                }
            }
        }
        self.earliest_ms = earliest_ms;
    }

    /// Moves the entries whose next hash bit is set into a new segment and returns it; both are then one bit deeper.
    pub(super) fn split(&mut self, slab: &mut Slab, hash: impl Fn(&[u8]) -> u64) -> NonNull<Segment> {
        let whole = *self;
        self.live = 0;
        self.groups = [EMPTY_GROUP; GROUPS];
        self.depth += 1;
        let mut twin = Segment::create(slab, self.version, self.depth, self.earliest_ms);
        // SAFETY: just made, and nobody else knows it.
        let upper = unsafe { twin.as_mut() };
        for place in whole.places() {
            let group = &whole.groups[place.group];
            let (slot, tag) = (group.slots[place.index], group.tags[place.index]);
            let is_upper = slot
                .hash_bit(whole.depth)
                .unwrap_or_else(|| hash(whole.entry_ref(place).key()) >> (63 - whole.depth) & 1 != 0);
            if is_upper { upper.put(slot, tag) } else { self.put(slot, tag) }
        }
        twin
    }
}

/// Asks for the two cache lines that a small entry usually lies in.
fn prefetch_entry(entry: Entry) {
    const TYPICAL_SIZE: usize = 56;
    let start = entry.address().as_ptr();
    prefetch(start);
    prefetch(start.wrapping_add(TYPICAL_SIZE - 1));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_seventeen_cache_lines() {
        assert_eq!((size_of::<Segment>(), size_of::<Group>(), CAPACITY), (17 * 64, 128, 112));
    }

    #[test]
    fn the_portable_probe_equals_the_vector_one() {
        let mut group = EMPTY_GROUP;
        for round in 0..1000u32 {
            for (index, tag) in group.tags.iter_mut().enumerate() {
                *tag = (round.wrapping_mul(2_654_435_761) >> (index % 24)) as u8 % 5;
            }
            for tag in 0..5 {
                assert_eq!(group.matches(tag), group.matches_portably(tag));
            }
        }
    }

    #[test]
    fn the_kept_hash_bits_are_those_of_the_hash() {
        let entry = Entry::at(NonNull::new(std::ptr::without_provenance_mut(0x7fff_ffff_fff8)).unwrap());
        for hash in (0..64).map(|n| 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(n)) {
            let slot = Slot::new(entry, hash);
            assert_eq!(slot.entry(), entry);
            assert!(slot.matches(hash));
            for depth in KEPT_BITS {
                assert_eq!(slot.hash_bit(depth), Some(hash >> (63 - depth) & 1 != 0));
            }
        }
    }

    #[test]
    fn a_segment_filled_and_emptied_for_ever_is_as_good_as_new() {
        let mut slab = Slab::new();
        // SAFETY: the cell lives as long as the slab.
        let segment = unsafe { Segment::create(&mut slab, 0, 0, i64::MAX).as_mut() };
        let entry = Entry::at(NonNull::new(std::ptr::without_provenance_mut(8)).unwrap());
        for round in 0..300u64 {
            // Fingerprints that differ, most of them at home in two groups, so that many overflow.
            let hash = |n: u64| ((n + round) << 40) | ((n % 5 * 37) << 3) | (n % 7 % 2);
            (0..CAPACITY as u64).for_each(|n| segment.add(entry, hash(n)));
            assert!(segment.is_full());
            for n in 0..CAPACITY as u64 {
                let place = segment.probe(hash(n), |_| true).expect("every entry is found");
                segment.remove(place);
            }
            assert!(segment.groups.iter().all(|group| group.tags[..=OVERFLOW] == [EMPTY; OVERFLOW + 1]));
        }
    }
}
