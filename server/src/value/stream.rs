//! Streams: entries by ascending ids, and groups of consumers that share their reading.
//!
//! ```text
//! blocks   ── ordered map: first id -> Arc ── block     up to 100 entries in one flat buffer
//! groups   ── name -> Arc ── group { pending: id -> delivery, consumers: name -> { pending ids } }
//! ```
//!
//! Blocks, the nodes of the ordered maps and groups are shared with clones, and copied by a write that touches them.
//! Blocks are filled as Redis fills its nodes, so that `MAXLEN ~` trims the same entries wherever 100 of them fit 4 KiB.

mod ordered;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::record;
use ordered::OrderedMap;

/// The id of an entry, and its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// Milliseconds since the epoch, unless somebody wants otherwise.
    pub ms: u64,
    /// Counts those of the same millisecond.
    pub seq: u64,
}

impl Id {
    /// `0-0`, which no entry has.
    pub const MIN: Id = Id { ms: 0, seq: 0 };
    /// The last one.
    pub const MAX: Id = Id { ms: u64::MAX, seq: u64::MAX };

    /// The one after it.
    pub fn next(self) -> Option<Id> {
        match self.seq.checked_add(1) {
            Some(seq) => Some(Id { seq, ..self }),
            None => self.ms.checked_add(1).map(|ms| Id { ms, seq: 0 }),
        }
    }

    /// The one before it.
    pub fn previous(self) -> Option<Id> {
        match self.seq.checked_sub(1) {
            Some(seq) => Some(Id { seq, ..self }),
            None => self.ms.checked_sub(1).map(|ms| Id { ms, seq: u64::MAX }),
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

/// When a block takes no more entries: approximate trimming removes whole blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSize {
    /// It has had so many, the removed ones included.
    pub entries_max: usize,
    /// It has so many bytes.
    pub bytes_max: usize,
}

impl BlockSize {
    /// No block is larger, whatever was asked for.
    pub const MAX: BlockSize = BlockSize { entries_max: 1 << 16, bytes_max: 1 << 20 };
}

impl Default for BlockSize {
    fn default() -> Self {
        BlockSize { entries_max: 100, bytes_max: 4096 }
    }
}

/// Entries that lie together.
#[derive(Clone, Default)]
pub struct Block {
    marks: Vec<Mark>,
    bytes: Vec<u8>,
    /// How many were ever put into it.
    appended: usize,
}

/// What is found of an entry before its fields are read.
#[derive(Clone, Copy)]
struct Mark {
    id: Id,
    /// Where its fields end.
    end: usize,
}

/// An entry: fields and values in turns.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry<'a> {
    /// Its id.
    pub id: Id,
    /// What it holds.
    pub fields: Fields<'a>,
}

/// Fields and values in turns.
#[derive(Clone, Debug, PartialEq)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        (!self.0.is_empty()).then(|| record::take::<()>(&mut self.0).0)
    }
}

impl Block {
    /// Where the fields of an entry begin.
    fn start(&self, index: usize) -> usize {
        index.checked_sub(1).map_or(0, |before| self.marks[before].end)
    }

    fn entry(&self, index: usize) -> Entry<'_> {
        let Mark { id, end } = self.marks[index];
        Entry { id, fields: Fields(&self.bytes[self.start(index)..end]) }
    }

    /// All its entries.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Entry<'_>> + ExactSizeIterator + Clone {
        (0..self.marks.len()).map(|index| self.entry(index))
    }

    /// How many entries come before `id`.
    fn before(&self, id: Id) -> usize {
        self.marks.partition_point(|mark| mark.id < id)
    }

    fn range(&self, start: Id, end: Id) -> impl DoubleEndedIterator<Item = Entry<'_>> + Clone {
        let (first, last) = (self.before(start), self.marks.partition_point(|mark| mark.id <= end));
        (first..last.max(first)).map(|index| self.entry(index))
    }

    fn push<'f>(&mut self, id: Id, fields: impl Iterator<Item = &'f [u8]>) {
        fields.for_each(|field| record::put::<()>(field, (), &mut self.bytes));
        self.marks.push(Mark { id, end: self.bytes.len() });
        self.appended += 1;
    }

    fn remove(&mut self, index: usize) {
        let (start, end) = (self.start(index), self.marks[index].end);
        self.bytes.drain(start..end);
        self.marks.remove(index);
        self.marks[index..].iter_mut().for_each(|mark| mark.end -= end - start);
    }

    fn remove_first(&mut self, count: usize) {
        let start = self.start(count);
        self.bytes.drain(..start);
        self.marks.drain(..count);
        self.marks.iter_mut().for_each(|mark| mark.end -= start);
    }

    fn is_full(&self, size: BlockSize) -> bool {
        self.appended >= size.entries_max || self.bytes.len() >= size.bytes_max
    }
}

/// An entry that was delivered and not acknowledged.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// Whose it is.
    pub consumer: Arc<[u8]>,
    /// When it was delivered last, in milliseconds since the epoch.
    pub ms: i64,
    /// How often.
    pub count: u64,
}

/// One who reads for a group.
#[derive(Clone)]
pub struct Consumer {
    /// When it was heard of last, in milliseconds since the epoch.
    pub seen_ms: i64,
    pending: OrderedMap<Id, ()>,
}

impl Consumer {
    /// The ids of what was delivered to it and not acknowledged.
    pub fn pending(&self) -> impl Iterator<Item = Id> + Clone {
        self.pending.iter().map(|(id, ())| id)
    }

    /// The same from `start` on.
    pub fn pending_from(&self, start: Id) -> impl Iterator<Item = Id> + Clone {
        self.pending.range(start, Id::MAX).map(|(id, ())| id)
    }

    /// How many these are.
    pub fn pending_len(&self) -> usize {
        self.pending.len()
    }
}

/// Consumers that share their reading.
#[derive(Clone)]
pub struct Group {
    /// Up to where it has read.
    pub last_id: Id,
    /// How many entries that are, the removed ones included, if that is known.
    pub entries_read: Option<i64>,
    pending: OrderedMap<Id, Delivery>,
    consumers: BTreeMap<Arc<[u8]>, Consumer>,
}

impl Group {
    /// One that goes on after `last_id`.
    pub fn new(last_id: Id, entries_read: Option<i64>) -> Group {
        Group { last_id, entries_read, pending: OrderedMap::new(), consumers: BTreeMap::new() }
    }

    /// What became of an entry.
    pub fn delivery(&self, id: Id) -> Option<&Delivery> {
        self.pending.get(id)
    }

    /// What was delivered and not acknowledged, with ids from `start` to `end`.
    pub fn pending(&self, start: Id, end: Id) -> impl Iterator<Item = (Id, &Delivery)> + Clone {
        self.pending.range(start, end)
    }

    /// How many were.
    pub fn pending_len(&self) -> usize {
        self.pending.len()
    }

    /// The first and the last of them.
    pub fn pending_bounds(&self) -> Option<(Id, Id)> {
        Some((self.pending.first()?.0, self.pending.last()?.0))
    }

    /// All who read for it, by name.
    pub fn consumers(&self) -> impl ExactSizeIterator<Item = (&Arc<[u8]>, &Consumer)> {
        self.consumers.iter()
    }

    /// One of them.
    pub fn consumer(&self, name: &[u8]) -> Option<&Consumer> {
        self.consumers.get(name)
    }

    /// A consumer was heard of; it is made if it is new, which is returned, too.
    pub fn see(&mut self, name: &[u8], now_ms: i64) -> (Arc<[u8]>, bool) {
        if let Some((known, _)) = self.consumers.get_key_value(name) {
            let known = known.clone();
            self.consumers.get_mut(name).expect("it was just found").seen_ms = now_ms;
            return (known, false);
        }
        let name: Arc<[u8]> = name.into();
        self.consumers.insert(name.clone(), Consumer { seen_ms: now_ms, pending: OrderedMap::new() });
        (name, true)
    }

    /// An entry is now with a consumer that was seen before, and with no other.
    pub fn deliver(&mut self, id: Id, delivery: Delivery) {
        let consumer = delivery.consumer.clone();
        let old = self.pending.insert(id, delivery);
        if let Some(old) = old.filter(|old| old.consumer != consumer)
            && let Some(consumer) = self.consumers.get_mut(&old.consumer)
        {
            consumer.pending.remove(id);
        }
        self.consumers.get_mut(&consumer).expect("it was seen").pending.insert(id, ());
    }

    /// An entry is no longer with anybody; false if it was not.
    pub fn acknowledge(&mut self, id: Id) -> bool {
        let Some(delivery) = self.pending.remove(id) else { return false };
        self.consumers.get_mut(&delivery.consumer).expect("it has an entry").pending.remove(id);
        true
    }

    /// Forgets a consumer and what was with it; returns how many entries that were.
    pub fn remove_consumer(&mut self, name: &[u8]) -> Option<usize> {
        let consumer = self.consumers.remove(name)?;
        for id in consumer.pending() {
            self.pending.remove(id);
        }
        Some(consumer.pending.len())
    }

    fn heap_bytes(&self) -> usize {
        let consumers = self.consumers.iter().map(|(name, consumer)| {
            name.len() + size_of::<Arc<[u8]>>() + size_of::<Consumer>() + consumer.pending.heap_bytes()
        });
        size_of::<Group>() + self.pending.heap_bytes() + consumers.sum::<usize>()
    }
}

impl PartialEq for Group {
    fn eq(&self, other: &Self) -> bool {
        let consumers = |group: &Group| {
            let all = group.consumers.iter().map(|(name, consumer)| (name.clone(), consumer.seen_ms));
            all.collect::<Vec<_>>()
        };
        (self.last_id, self.entries_read) == (other.last_id, other.entries_read)
            && self.pending.iter().eq(other.pending.iter())
            && consumers(self) == consumers(other)
    }
}

/// What a stream is cut down to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// So many entries are left.
    Len(usize),
    /// Those before this go.
    Id(Id),
}

/// Entries by ascending ids, and groups of consumers.
#[derive(Clone)]
pub struct Stream(Box<State>);

#[derive(Clone)]
struct State {
    blocks: OrderedMap<Id, Arc<Block>>,
    len: usize,
    /// Of all entries.
    bytes: usize,
    last_id: Id,
    max_deleted_id: Id,
    entries_added: i64,
    groups: BTreeMap<Box<[u8]>, Arc<Group>>,
    /// Nothing has been done with it yet: unlike other values, an empty stream is one.
    is_new: bool,
}

impl Stream {
    /// An empty stream, which nobody has written to.
    pub fn new() -> Stream {
        Stream(Box::new(State {
            blocks: OrderedMap::new(),
            len: 0,
            bytes: 0,
            last_id: Id::MIN,
            max_deleted_id: Id::MIN,
            entries_added: 0,
            groups: BTreeMap::new(),
            is_new: true,
        }))
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Whether it is as [`Stream::new`] makes it; one that has lost its entries is not.
    pub fn is_empty(&self) -> bool {
        self.0.is_new
    }

    /// Where the way to the entries begins.
    pub fn start(&self) -> *const u8 {
        (&raw const *self.0).cast()
    }

    /// What it takes on the heap, in bytes; an estimate.
    pub fn heap_bytes(&self) -> usize {
        let blocks = self.0.blocks.len() * size_of::<Block>() + self.0.blocks.heap_bytes();
        let groups = self.0.groups.iter().map(|(name, group)| name.len() + group.heap_bytes());
        size_of::<State>() + self.0.bytes + self.0.len * size_of::<Mark>() + blocks + groups.sum::<usize>()
    }

    /// What a clone takes on the heap that the original does not share, in bytes.
    pub fn clone_bytes(&self) -> usize {
        let groups = self.0.groups.keys().map(|name| name.len() + size_of::<(Box<[u8]>, Arc<Group>)>());
        size_of::<State>() + groups.sum::<usize>()
    }

    /// The encoding that Redis would have chosen, as OBJECT ENCODING names it.
    pub fn encoding(&self) -> &'static str {
        "stream"
    }

    /// The greatest id that was ever given.
    pub fn last_id(&self) -> Id {
        self.0.last_id
    }

    /// The greatest id that was removed by name, or `0-0`.
    pub fn max_deleted_id(&self) -> Id {
        self.0.max_deleted_id
    }

    /// How many entries were ever added.
    pub fn entries_added(&self) -> i64 {
        self.0.entries_added
    }

    /// Sets what it remembers of entries that are gone.
    pub fn set_history(&mut self, last_id: Id, max_deleted_id: Id, entries_added: i64) {
        (self.0.last_id, self.0.max_deleted_id, self.0.entries_added) = (last_id, max_deleted_id, entries_added);
        self.0.is_new = false;
    }

    /// The first entry's id, or `0-0`.
    pub fn first_id(&self) -> Id {
        self.range(Id::MIN, Id::MAX).next().map_or(Id::MIN, |entry| entry.id)
    }

    /// The last entry's id, or `0-0`.
    pub fn last_entry_id(&self) -> Id {
        self.range_back(Id::MIN, Id::MAX).next().map_or(Id::MIN, |entry| entry.id)
    }

    /// The entries, as they lie together; the id before a block is none later than its first.
    pub fn blocks(&self) -> impl Iterator<Item = (Id, &Block)> + Clone {
        self.0.blocks.iter().map(|(id, block)| (id, &**block))
    }

    /// How many blocks that are.
    pub fn blocks_len(&self) -> usize {
        self.0.blocks.len()
    }

    /// The entries from `start` to `end`, both included.
    pub fn range(&self, start: Id, end: Id) -> impl Iterator<Item = Entry<'_>> + Clone {
        let first = self.0.blocks.last_until(start).map_or(start, |(id, _)| id);
        self.0.blocks.range(first, end).flat_map(move |(_, block)| block.range(start, end))
    }

    /// The same from the last to the first.
    pub fn range_back(&self, start: Id, end: Id) -> impl Iterator<Item = Entry<'_>> {
        let first = self.0.blocks.last_until(start).map_or(start, |(id, _)| id);
        self.0.blocks.range_back(first, end).flat_map(move |(_, block)| block.range(start, end).rev())
    }

    /// The entry that has this id.
    pub fn get(&self, id: Id) -> Option<Entry<'_>> {
        self.range(id, id).next()
    }

    /// Adds an entry behind all others; false, and nothing is done, if its id is not greater than [`Stream::last_id`].
    pub fn append<'f>(&mut self, id: Id, fields: impl Iterator<Item = &'f [u8]>, size: BlockSize) -> bool {
        let state = &mut *self.0;
        if id <= state.last_id {
            return false;
        }
        if state.blocks.last_mut().is_none_or(|block| block.is_full(size)) {
            state.blocks.insert(id, Arc::default());
        }
        let block = Arc::make_mut(state.blocks.last_mut().expect("it is there or was just made"));
        let before = block.bytes.len();
        block.push(id, fields);
        state.bytes += block.bytes.len() - before;
        state.len += 1;
        state.entries_added = state.entries_added.saturating_add(1);
        (state.last_id, state.is_new) = (id, false);
        true
    }

    /// Begins a new block with the next entry: what was read as one is kept as one.
    pub fn end_block(&mut self) {
        if let Some(block) = self.0.blocks.last_mut() {
            Arc::make_mut(block).appended = usize::MAX;
        }
    }

    /// Removes an entry by name; false if it was not there.
    pub fn remove(&mut self, id: Id) -> bool {
        let state = &mut *self.0;
        let Some((first, block)) = state.blocks.last_until(id) else { return false };
        let Ok(index) = block.marks.binary_search_by_key(&id, |mark| mark.id) else { return false };
        let len = block.marks.len();
        state.bytes -= block.entry(index).fields.0.len();
        if len == 1 {
            state.blocks.remove(first);
        } else if let Some(block) = state.blocks.get_mut(first) {
            Arc::make_mut(block).remove(index);
        }
        state.len -= 1;
        state.max_deleted_id = state.max_deleted_id.max(id);
        true
    }

    /// Removes entries from the front; returns how many. With `whole_blocks` no block is cut, and at most `limit` entries
    /// go, if that is not 0.
    pub fn trim(&mut self, bound: Bound, whole_blocks: bool, limit: usize) -> usize {
        let state = &mut *self.0;
        let before = state.len;
        while let Some((first, block)) = state.blocks.first() {
            let entries = block.marks.len();
            let excess = match bound {
                Bound::Len(len) => state.len.saturating_sub(len).min(entries),
                Bound::Id(id) => block.before(id),
            };
            if excess == 0 || limit > 0 && before - state.len + entries > limit {
                break;
            }
            if excess == entries {
                state.bytes -= block.bytes.len();
                state.blocks.remove(first);
                state.len -= entries;
                continue;
            }
            if !whole_blocks && let Some(block) = state.blocks.get_mut(first) {
                state.bytes -= block.start(excess);
                Arc::make_mut(block).remove_first(excess);
                state.len -= excess;
            }
            break;
        }
        before - state.len
    }

    /// All groups, by name.
    pub fn groups(&self) -> impl ExactSizeIterator<Item = (&[u8], &Group)> {
        self.0.groups.iter().map(|(name, group)| (&**name, &**group))
    }

    /// One of them.
    pub fn group(&self, name: &[u8]) -> Option<&Group> {
        self.0.groups.get(name).map(|group| &**group)
    }

    /// One of them, to be changed.
    pub fn group_mut(&mut self, name: &[u8]) -> Option<&mut Group> {
        self.0.groups.get_mut(name).map(Arc::make_mut)
    }

    /// Adds a group; false if there is one of this name.
    pub fn add_group(&mut self, name: &[u8], group: Group) -> bool {
        if self.0.groups.contains_key(name) {
            return false;
        }
        self.0.is_new = false;
        self.0.groups.insert(name.into(), Arc::new(group));
        true
    }

    /// Removes a group; false if it was not there.
    pub fn remove_group(&mut self, name: &[u8]) -> bool {
        self.0.groups.remove(name).is_some()
    }

    /// Whether an entry that was removed by name may be missing from `start` on.
    fn has_gaps_from(&self, start: Id) -> bool {
        let deleted = self.0.max_deleted_id;
        self.0.len > 0 && deleted != Id::MIN && self.first_id() <= deleted && start <= deleted
    }

    /// How many entries were ever added up to `id`, if that can be told.
    pub fn entries_until(&self, id: Id) -> Option<i64> {
        let (added, len) = (self.0.entries_added, self.0.len as i64);
        if added == 0 {
            return Some(0);
        }
        if len == 0 && id <= self.0.last_id || id == self.0.last_id {
            return Some(added);
        }
        let first = self.first_id();
        if id > self.0.last_id || self.0.max_deleted_id != Id::MIN && self.0.max_deleted_id >= first {
            return None;
        }
        match id.cmp(&first) {
            std::cmp::Ordering::Less => Some(added - len),
            std::cmp::Ordering::Equal => Some(added - len + 1),
            std::cmp::Ordering::Greater => None,
        }
    }

    /// How many entries a group has read when it has read one more, that with `id`.
    pub fn entries_read_after(&self, group: &Group, id: Id) -> Option<i64> {
        match group.entries_read {
            Some(read) if !self.has_gaps_from(id) => Some(read.saturating_add(1)),
            _ if self.0.entries_added != 0 => self.entries_until(id),
            read => read,
        }
    }

    /// How many entries a group has yet to read, if that can be told.
    pub fn lag(&self, group: &Group) -> Option<i64> {
        if self.0.entries_added == 0 {
            return Some(0);
        }
        let read = group.entries_read.filter(|_| !self.has_gaps_from(group.last_id));
        read.or_else(|| self.entries_until(group.last_id)).map(|read| self.0.entries_added.wrapping_sub(read))
    }
}

impl Default for Stream {
    fn default() -> Self {
        Stream::new()
    }
}

impl PartialEq for Stream {
    fn eq(&self, other: &Self) -> bool {
        let history = |stream: &Stream| (stream.last_id(), stream.max_deleted_id(), stream.entries_added());
        history(self) == history(other)
            && self.range(Id::MIN, Id::MAX).eq(other.range(Id::MIN, Id::MAX))
            && self.groups().eq(other.groups())
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.range(Id::MIN, Id::MAX).map(|entry| {
            let fields = entry.fields.map(|field| field.escape_ascii().to_string());
            (entry.id.to_string(), fields.collect::<Vec<_>>())
        });
        f.debug_map().entries(entries).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_holds_what_a_plain_map_holds(steps in prop::collection::vec((0u8..10, 0u64..2000), 1..600)) {
            let (mut stream, mut model) = (Stream::new(), BTreeMap::new());
            for (kind, number) in steps {
                match kind {
                    0..7 => {
                        let id = stream.last_id().next().expect("there are more");
                        let value = number.to_string().repeat(kind.into());
                        prop_assert!(stream.append(id, [b"field".as_slice(), value.as_bytes()].into_iter(), BlockSize::default()));
                        model.insert(id, value);
                    }
                    7 => {
                        let id = Id { ms: 0, seq: number % 300 };
                        prop_assert_eq!(stream.remove(id), model.remove(&id).is_some());
                    }
                    8 => {
                        let id = Id { ms: 0, seq: number % 50 };
                        stream.trim(Bound::Id(id), false, 0);
                        model = model.split_off(&id);
                    }
                    _ => {
                        let len = model.len().saturating_sub(number as usize % 3);
                        stream.trim(Bound::Len(len), false, 0);
                        while model.len() > len {
                            model.pop_first();
                        }
                    }
                }
            }
            prop_assert_eq!(stream.len(), model.len());
            let bytes: usize = stream.blocks().map(|(_, block)| block.bytes.len()).sum();
            prop_assert_eq!(stream.0.bytes, bytes);
            let (start, end) = (Id { ms: 0, seq: 40 }, Id { ms: 0, seq: 250 });
            let value = |entry: Entry| (entry.id, String::from_utf8_lossy(entry.fields.last().unwrap_or_default()).into_owned());
            prop_assert!(stream.range(start, end).map(value).eq(model.range(start..=end).map(|(id, value)| (*id, value.clone()))));
            prop_assert!(stream.range_back(Id::MIN, Id::MAX).map(value).eq(model.iter().rev().map(|(id, value)| (*id, value.clone()))));
        }
    }
}
