//! One database: extendible hashing (Fagin et al., 1979) over segments.
//!
//! ```text
//! directory: 2^depth pointers, indexed by the hash's top bits     segment of depth 1   segments of depth 2
//! ┌────┬────┬────┬────┐
//! │ 00 │ 01 │ 10 │ 11 │    00, 01 ─────────────────────────────> 0…
//! └────┴────┴────┴────┘    10 ─────────────────────────────────────────────────────> 10…
//!                          11 ─────────────────────────────────────────────────────> 11…
//! ```
//!
//! Only a full segment splits, so an insert costs at most a split of 112 slots, or a copy of the directory (8 bytes per
//! segment) when the segment was as deep as that. A segment covers a run of hashes, and segments never join: a position
//! in hash order, such as a SCAN cursor or a snapshot's, stays at the start of a segment whatever is written.

use super::access::AccessClock;
use super::entry::{Content, Entry, EntryRef, INLINE_MAX};
use super::fields::FieldDeadlines;
use super::garbage::drop_aside;
use super::segment::{CAPACITY, Place, Segment};
use super::slab::Slab;
use super::{Absent, Deadline, Key, WrongType, keyed_hash};
use crate::value::{Aggregate, Value};
use std::ptr::NonNull;

/// A segment deeper than this would need 113 keys that agree in 48 bits of a keyed hash.
const DEPTH_MAX: u32 = 48;
/// A value or a table that takes more is not dropped between two commands, in bytes. So much takes some 50 µs.
const DROPPED_AT_ONCE_MAX: usize = 64 << 10;
/// How far [`Table::new`] believes a hint: 2^14 segments, 18 MB, for 1.8 million keys.
const RESERVED_DEPTH_MAX: u32 = 14;

/// See the module's documentation.
pub(super) struct Table {
    /// The database it was when the running walk began; `None` if it did not exist then.
    pub(super) walked_as: Option<usize>,
    seed: [u64; 2],
    directory: Vec<NonNull<Segment>>,
    depth: u32,
    slab: Slab,
    len: usize,
    with_deadline: usize,
    /// The sum of all deadlines, from which INFO's mean time to live follows.
    deadline_sum_ms: i128,
    boxed: usize,
    boxed_bytes: usize,
    /// Hashes with fields that have deadlines.
    pub(super) fields: FieldDeadlines,
    /// Where active expiry goes on, in hash order.
    expiry_position: u64,
}

// SAFETY: every pointer in a table leads to segments, entries and boxes that it alone owns.
unsafe impl Send for Table {}

impl Table {
    /// An empty table for about `keys` keys (a hint, at most what they would need anyway), whose segments count as
    /// written since walk `version`.
    pub(super) fn new(seed: [u64; 2], version: u64, keys: usize) -> Table {
        let depth = (keys / CAPACITY).checked_ilog2().unwrap_or(0).min(RESERVED_DEPTH_MAX);
        let mut slab = Slab::new();
        let directory = (0..1 << depth).map(|_| Segment::create(&mut slab, version, depth, i64::MAX)).collect();
        Table {
            walked_as: None,
            seed,
            directory,
            depth,
            slab,
            len: 0,
            with_deadline: 0,
            deadline_sum_ms: 0,
            boxed: 0,
            boxed_bytes: 0,
            fields: FieldDeadlines::default(),
            expiry_position: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn with_deadline(&self) -> usize {
        self.with_deadline
    }

    pub(super) fn avg_ttl_ms(&self, now_ms: i64) -> i64 {
        let mean_ms = self.deadline_sum_ms / self.with_deadline.max(1) as i128;
        i64::try_from(mean_ms - i128::from(now_ms)).unwrap_or(0).max(0)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let directory = self.directory.capacity() * size_of::<NonNull<Segment>>();
        self.slab.used_bytes() + self.boxed_bytes + directory + self.fields.memory_bytes()
    }

    /// What the directory and its segments take, in bytes; of a directory that points to some more than once, more.
    pub(super) fn overhead_bytes(&self) -> usize {
        self.directory.len() * (size_of::<Segment>() + size_of::<NonNull<Segment>>())
    }

    fn index(&self, hash: u64) -> usize {
        (hash >> 1 >> (63 - self.depth)) as usize
    }

    /// The segment that covers `hash`.
    pub(super) fn segment(&self, hash: u64) -> &Segment {
        // SAFETY: the directory's segments live as long as the table, which is borrowed.
        unsafe { self.directory[self.index(hash)].as_ref() }
    }

    pub(super) fn segment_mut(&mut self, hash: u64) -> &mut Segment {
        let index = self.index(hash);
        // SAFETY: as above, and the table is borrowed mutably.
        unsafe { self.directory[index].as_mut() }
    }

    /// Where the next segment after the one that covers `hash` begins; `None` after the last.
    pub(super) fn next_start(&self, hash: u64) -> Option<u64> {
        let depth = self.segment(hash).depth;
        let last = hash | u64::MAX.checked_shr(depth).unwrap_or(0);
        last.checked_add(1)
    }

    #[inline]
    pub(super) fn find(&self, key: Key<'_>) -> Option<EntryRef<'_>> {
        let segment = self.segment(key.hash);
        segment.find(key).map(|place| segment.entry_ref(place))
    }

    /// Where the key is, its entry and its deadline.
    #[inline]
    fn locate(&self, key: Key<'_>) -> Option<(Place, Entry, Option<i64>)> {
        let segment = self.segment(key.hash);
        let place = segment.find(key)?;
        Some((place, segment.entry(place), segment.entry_ref(place).deadline_ms()))
    }

    #[inline]
    pub(super) fn set_str(&mut self, key: Key<'_>, value: &[u8], deadline: Deadline, clock: &AccessClock) -> bool {
        let Some((place, entry, old_ms)) = self.locate(key) else {
            self.add(key, deadline.after(None), Content::str(value), clock.fresh());
            return false;
        };
        let new_ms = deadline.after(old_ms);
        // SAFETY: the entry lives, and `&mut self` says that nobody borrows it.
        let used = clock.used(unsafe { entry.as_ref() }.access(), key.hash);
        // SAFETY: as above.
        if unsafe { entry.overwrite(value, new_ms) } {
            // SAFETY: as above.
            unsafe { entry.set_access(used) };
            self.note_deadline(key.hash, old_ms, new_ms);
        } else {
            self.replace(key, place, new_ms, Content::str(value), used);
        }
        true
    }

    pub(super) fn insert(&mut self, key: Key<'_>, value: Value, deadline_ms: Option<i64>, clock: &AccessClock) -> bool {
        self.note_fields(key, value.next_field_deadline_ms());
        let content = match &value {
            Value::Str(bytes) if bytes.len() <= INLINE_MAX => Content::Inline(bytes),
            _ => Content::Boxed(Box::new(value)),
        };
        match self.locate(key) {
            Some((place, entry, _)) => {
                // SAFETY: the entry lives, and `&mut self` says that nobody changes it.
                let used = clock.used(unsafe { entry.as_ref() }.access(), key.hash);
                self.replace(key, place, deadline_ms, content, used);
            }
            None => {
                self.add(key, deadline_ms, content, clock.fresh());
                return false;
            }
        }
        true
    }

    pub(super) fn take(&mut self, key: Key<'_>) -> Option<(Value, Option<i64>)> {
        let (place, entry, deadline_ms) = self.locate(key)?;
        self.note_fields(key, None);
        self.segment_mut(key.hash).remove(place);
        // SAFETY: the entry has left its segment; it is freed below.
        let value = match unsafe { self.unpack(entry) } {
            Content::Inline(bytes) => Value::Str(bytes.to_vec()),
            Content::Boxed(value) => *value,
        };
        // SAFETY: as above.
        unsafe { entry.free(&mut self.slab) };
        self.discount(key.hash, deadline_ms);
        Some((value, deadline_ms))
    }

    pub(super) fn remove(&mut self, key: Key<'_>) -> bool {
        let Some((place, entry, deadline_ms)) = self.locate(key) else { return false };
        self.note_fields(key, None);
        self.segment_mut(key.hash).remove(place);
        // SAFETY: the entry has left its segment.
        unsafe { self.destroy(entry) };
        self.discount(key.hash, deadline_ms);
        true
    }

    pub(super) fn str_mut<R>(
        &mut self,
        key: Key<'_>,
        clock: &AccessClock,
        edit: impl FnOnce(&mut Vec<u8>) -> R,
    ) -> Option<R> {
        let (place, entry, deadline_ms) = self.locate(key)?;
        let found = self.segment(key.hash).entry_ref(place);
        found.touch(clock, key.hash);
        let access = found.access();
        // SAFETY: the entry lives, and `&mut self` says that nobody borrows it.
        if let Some(value) = unsafe { entry.boxed_mut() } {
            let before = value.heap_bytes();
            let Value::Str(bytes) = value else { return None };
            let result = edit(bytes);
            let shrunk = (bytes.len() <= INLINE_MAX).then(|| std::mem::take(bytes));
            self.boxed_bytes = self.boxed_bytes - before + value.heap_bytes();
            if let Some(bytes) = shrunk {
                self.replace(key, place, deadline_ms, Content::Inline(&bytes), access);
            }
            return Some(result);
        }
        let old = self.segment(key.hash).entry_ref(place).inline();
        let mut bytes = Vec::with_capacity(old.len() * 2 + 64);
        bytes.extend_from_slice(old);
        let result = edit(&mut bytes);
        self.insert(key, Value::Str(bytes), deadline_ms, clock);
        let (_, entry, _) = self.locate(key)?;
        // SAFETY: the entry lives, and `&mut self` says that nobody borrows it.
        unsafe { entry.mark_edited() };
        Some(result)
    }

    pub(super) fn edit<A: Aggregate, R>(
        &mut self,
        key: Key<'_>,
        now_ms: i64,
        absent: Absent,
        clock: &AccessClock,
        edit: impl FnOnce(&mut A) -> R,
    ) -> Result<Option<R>, WrongType> {
        let found = self.locate(key);
        let live = found.filter(|(.., deadline_ms)| deadline_ms.is_none_or(|deadline_ms| deadline_ms >= now_ms));
        let Some((_, entry, _)) = live else {
            return Ok((absent == Absent::Create).then(|| self.create(key, clock, edit)));
        };
        // SAFETY: the entry lives, and `&mut self` says that nobody borrows it.
        unsafe { entry.as_ref() }.touch(clock, key.hash);
        // SAFETY: the entry lives, and `&mut self` says that nobody borrows it.
        let value = unsafe { entry.boxed_mut() }.ok_or(WrongType)?;
        let before = value.heap_bytes();
        let aggregate = A::of_mut(value).ok_or(WrongType)?;
        let result = edit(aggregate);
        let is_empty = aggregate.is_empty();
        self.boxed_bytes = self.boxed_bytes - before + value.heap_bytes();
        let field_deadline_ms = value.next_field_deadline_ms();
        self.note_fields(key, field_deadline_ms);
        if is_empty {
            self.remove(key);
        }
        Ok(Some(result))
    }

    /// Notes when the first field of a hash expires, if one does.
    #[inline]
    fn note_fields(&mut self, key: Key<'_>, deadline_ms: Option<i64>) {
        if deadline_ms.is_some() || !self.fields.is_empty() {
            self.fields.note(key.bytes, deadline_ms);
        }
    }

    /// Stores what an edit makes of an empty value, if that is not still empty.
    fn create<A: Aggregate, R>(&mut self, key: Key<'_>, clock: &AccessClock, edit: impl FnOnce(&mut A) -> R) -> R {
        let mut aggregate = A::new();
        let result = edit(&mut aggregate);
        if !aggregate.is_empty() {
            self.insert(key, aggregate.into_value(), None, clock);
        }
        result
    }

    pub(super) fn set_deadline(&mut self, key: Key<'_>, deadline_ms: Option<i64>) -> bool {
        let Some((place, entry, old_ms)) = self.locate(key) else { return false };
        // SAFETY: the entry lives, and `&mut self` says that nobody borrows it.
        if deadline_ms.is_some_and(|deadline_ms| unsafe { entry.move_deadline(deadline_ms) }) {
            self.note_deadline(key.hash, old_ms, deadline_ms);
        } else if deadline_ms != old_ms {
            // SAFETY: the content goes into the new entry, which takes the old one's slot.
            unsafe {
                let access = entry.as_ref().access();
                let content = self.unpack(entry);
                let moved = self.pack(key, deadline_ms, content, access);
                self.segment_mut(key.hash).replace(place, moved);
                entry.free(&mut self.slab);
            }
            self.note_deadline(key.hash, old_ms, deadline_ms);
        }
        true
    }

    /// Creates the entry for a key that is not there.
    fn add(&mut self, key: Key<'_>, deadline_ms: Option<i64>, content: Content<'_>, access: u32) {
        while self.segment(key.hash).is_full() {
            self.split(key.hash);
        }
        let entry = self.pack(key, deadline_ms, content, access);
        self.segment_mut(key.hash).add(entry, key.hash);
        self.len += 1;
        self.note_deadline(key.hash, None, deadline_ms);
    }

    /// Puts a new entry in the place of the key's present one, whose content is dropped.
    fn replace(&mut self, key: Key<'_>, place: Place, deadline_ms: Option<i64>, content: Content<'_>, access: u32) {
        let old = self.segment(key.hash).entry(place);
        let old_ms = self.segment(key.hash).entry_ref(place).deadline_ms();
        let new = self.pack(key, deadline_ms, content, access);
        self.segment_mut(key.hash).replace(place, new);
        // SAFETY: the old entry has lost its slot.
        unsafe { self.destroy(old) };
        self.note_deadline(key.hash, old_ms, deadline_ms);
    }

    fn pack(&mut self, key: Key<'_>, deadline_ms: Option<i64>, content: Content<'_>, access: u32) -> Entry {
        let content = content.beside(key.bytes);
        if let Content::Boxed(value) = &content {
            self.boxed += 1;
            self.boxed_bytes += value.heap_bytes();
        }
        Entry::create(&mut self.slab, key.bytes, deadline_ms, content, access)
    }

    /// Moves the content out of an entry that is to be freed.
    ///
    /// # Safety
    /// The entry lives, and is freed, unread, after the last use of the content.
    unsafe fn unpack<'a>(&mut self, entry: Entry) -> Content<'a> {
        // SAFETY: by the contract.
        let content = unsafe { entry.content() };
        if let Content::Boxed(value) = &content {
            self.boxed -= 1;
            self.boxed_bytes -= value.heap_bytes();
        }
        content
    }

    /// Drops an entry's content and frees its cell.
    ///
    /// # Safety
    /// The entry lives, and no slot holds it any more.
    unsafe fn destroy(&mut self, entry: Entry) {
        // SAFETY: by the contract.
        unsafe {
            match self.unpack(entry) {
                Content::Boxed(value) if takes_long_to_drop(&value) => drop_aside(value),
                content => drop(content),
            }
            entry.free(&mut self.slab);
        }
    }

    /// Counts a key that has gone.
    fn discount(&mut self, hash: u64, deadline_ms: Option<i64>) {
        self.len -= 1;
        self.note_deadline(hash, deadline_ms, None);
    }

    /// Keeps the counts, and the segment's bound, when a key's deadline changes.
    #[inline]
    fn note_deadline(&mut self, hash: u64, old_ms: Option<i64>, new_ms: Option<i64>) {
        if let Some(old_ms) = old_ms {
            self.with_deadline -= 1;
            self.deadline_sum_ms -= i128::from(old_ms);
        }
        if let Some(new_ms) = new_ms {
            self.with_deadline += 1;
            self.deadline_sum_ms += i128::from(new_ms);
            let segment = self.segment_mut(hash);
            segment.earliest_ms = segment.earliest_ms.min(new_ms);
        }
    }

    /// Splits the segment that covers `hash` in two, doubling the directory if it points to it only once.
    fn split(&mut self, hash: u64) {
        if self.segment(hash).depth == self.depth {
            assert!(self.depth < DEPTH_MAX, "the hashes of this table are not random");
            self.directory = self.directory.iter().flat_map(|segment| [*segment; 2]).collect();
            self.depth += 1;
        }
        let (index, seed) = (self.index(hash), self.seed);
        // SAFETY: a segment of ours, which nobody else uses now.
        let lower = unsafe { self.directory[index].as_mut() };
        let upper = lower.split(&mut self.slab, |key| keyed_hash(seed, key));
        let pointers = 1 << (self.depth - lower.depth);
        let first_upper = (index & !(2 * pointers - 1)) + pointers;
        self.directory[first_upper..first_upper + pointers].fill(upper);
    }

    /// Looks at up to `segments` segments from where it stopped last; calls `before` on those that have entries due,
    /// then reports and removes these. Returns how many.
    pub(super) fn expire(
        &mut self,
        now_ms: i64,
        segments: usize,
        mut before: impl FnMut(&mut Table, u64),
        mut report: impl FnMut(&[u8]),
    ) -> usize {
        let mut count = 0;
        for _ in 0..segments.min(self.directory.len()) {
            let hash = self.expiry_position;
            if self.segment(hash).earliest_ms < now_ms {
                before(self, hash);
                count += self.expire_segment(hash, now_ms, &mut report);
            }
            self.expiry_position = self.next_start(hash).unwrap_or(0);
        }
        count
    }

    fn expire_segment(&mut self, hash: u64, now_ms: i64, mut report: impl FnMut(&[u8])) -> usize {
        let mut due = Vec::new();
        self.segment_mut(hash).remove_due(|entry| entry.is_expired(now_ms), |entry| due.push(entry));
        for entry in &due {
            // SAFETY: the entry has left its segment; it is not read after `destroy`.
            unsafe {
                let borrowed = entry.as_ref();
                let deadline_ms = borrowed.deadline_ms();
                report(borrowed.key());
                self.destroy(*entry);
                self.discount(hash, deadline_ms);
            }
        }
        due.len()
    }

    pub(super) fn scan(&self, start: u64, count: usize, mut visit: impl FnMut(EntryRef<'_>) -> bool) -> Option<u64> {
        let (mut position, mut visited) = (start, 0);
        for _ in 0..count.max(1) {
            let segment = self.segment(position);
            segment.prefetch_entries();
            visited += segment.entry_refs().filter(|entry| visit(*entry)).count();
            position = self.next_start(position)?;
            if visited >= count {
                break;
            }
        }
        Some(position)
    }

    pub(super) fn for_each(&self, mut visit: impl FnMut(EntryRef<'_>)) {
        let mut position = Some(0);
        while let Some(hash) = position {
            let segment = self.segment(hash);
            segment.prefetch_entries();
            segment.entry_refs().for_each(&mut visit);
            position = self.next_start(hash);
        }
    }

    /// An entry that `accept` takes. Slots are tried at random, so that every entry of a table with random hashes is
    /// about as likely; if that finds none (few keys, or few of them acceptable), the next one in hash order is taken.
    pub(super) fn random(&self, random: u64, accept: impl Fn(EntryRef<'_>) -> bool) -> Option<EntryRef<'_>> {
        const TRIES: u64 = 64;
        let draw = |n: u64| keyed_hash(self.seed, &random.wrapping_add(n).to_le_bytes());
        let lucky = (0..TRIES).map(draw).find_map(|hash| {
            let entry = self.segment(hash).nth_slot(hash & 0xffff_ffff);
            entry.filter(|entry| accept(*entry))
        });
        lucky.or_else(|| {
            let from = draw(TRIES);
            self.next_accepted(from, u64::MAX, random, &accept).or_else(|| self.next_accepted(0, from, random, &accept))
        })
    }

    /// Shows about `count` entries, of those that have a deadline if `with_deadline` says so; which ones is a matter of the
    /// random number. They are those of a run of hashes, so of random keys.
    pub(super) fn sample(&self, random: u64, count: usize, with_deadline: bool, mut visit: impl FnMut(EntryRef<'_>)) {
        let all = if with_deadline { self.with_deadline } else { self.len };
        let mut left = count.min(all);
        let from = keyed_hash(self.seed, &random.to_le_bytes());
        let starts = std::iter::successors(Some(from), |hash| self.next_start(*hash));
        let again = std::iter::successors(Some(0), |hash| self.next_start(*hash)).take_while(|hash| *hash <= from);
        for hash in starts.chain(again) {
            if left == 0 {
                return;
            }
            let segment = self.segment(hash);
            if with_deadline && segment.earliest_ms == i64::MAX {
                continue;
            }
            let first = (random % CAPACITY as u64) as usize;
            for number in 0..CAPACITY {
                let entry = segment.nth_slot((first + number) as u64);
                let entry = entry.filter(|entry| !with_deadline || entry.deadline_ms().is_some());
                if let Some(entry) = entry {
                    visit(entry);
                    left -= 1;
                    if left == 0 {
                        return;
                    }
                }
            }
        }
    }

    /// One of the acceptable entries of the first segment between two hashes that has any.
    fn next_accepted(
        &self,
        from: u64,
        to: u64,
        random: u64,
        accept: impl Fn(EntryRef<'_>) -> bool,
    ) -> Option<EntryRef<'_>> {
        let starts = std::iter::successors(Some(from), |hash| self.next_start(*hash));
        starts.take_while(|hash| *hash <= to).find_map(|hash| {
            let accepted: Vec<_> = self.segment(hash).entry_refs().filter(|entry| accept(*entry)).collect();
            let chosen = random.checked_rem(accepted.len() as u64)?;
            Some(accepted[chosen as usize])
        })
    }
}

fn takes_long_to_drop(value: &Value) -> bool {
    // A string is one allocation, whatever its size.
    !matches!(value, Value::Str(_)) && value.heap_bytes() > DROPPED_AT_ONCE_MAX
}

impl Table {
    /// Drops the table; nobody waits for it.
    pub(super) fn discard(self) {
        if self.memory_bytes() > DROPPED_AT_ONCE_MAX {
            drop_aside(self);
        }
    }
}

impl Drop for Table {
    /// Small entries and segments go with the slab's regions; only what lies outside them is freed one by one.
    fn drop(&mut self) {
        if self.boxed == 0 && self.slab.oversized() == 0 {
            return;
        }
        let mut position = Some(0);
        while let Some(hash) = position {
            position = self.next_start(hash);
            let mut entries = Vec::new();
            self.segment_mut(hash).remove_due(|_| true, |entry| entries.push(entry));
            for entry in entries {
                // SAFETY: the entry has left its segment.
                unsafe { self.destroy(entry) };
            }
        }
    }
}
