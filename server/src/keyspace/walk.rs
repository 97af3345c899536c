//! A snapshot of the whole data set, taken in slices between commands, without a fork.
//!
//! When a walk begins it gets the next version number; a segment whose version is the walk's has been visited. The walk
//! visits segments in hash order and copies their entries into a [`Chunk`]. A write to an entry of a segment not yet visited
//! first copies that entry (its pre-image) into a pending chunk and marks its slot passed, as is the slot of an entry that is
//! new; so the chunks together are exactly the state at the beginning. Their order is not that of the keys, which no consumer
//! needs. A segment that is about to split, or to lose what has expired, is visited whole. A flushed table moves into the
//! walk, which drops it when it has passed.
//!
//! ```text
//! frame: key length u32 | value length u32 | database u32 | kind u8 | last use 24 bits | deadline i64 | key … | value …
//! ```
//!
//! Only strings are copied like that. Of a list, hash, set or sorted set the chunk has a clone, which costs little whatever
//! the size: the two share what they hold, and a write to the original copies the node it touches. The frame then has the
//! number of the clone in place of the value.
//!
//! Memory: the chunks that were not taken yet (one being filled, and pre-images), and detached tables. What the chunks' bytes
//! lie in is used again: fresh memory would have to be cleared by the kernel first, which is much of what a copy costs.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

#[cfg(doc)]
use super::AccessClock;
use super::entry::EntryRef;
use super::segment::Segment;
use super::table::Table;
use super::{DatabaseSize, Key};
use crate::value::{Value, ValueRef};

const FRAME_HEADER: usize = 24;
/// Bits of a frame's kind: the value is one of the chunk's clones instead of what follows, and it has a deadline.
const CLONED: u8 = 1;
const HAS_DEADLINE: u8 = 2;
/// What a segment costs of a slice's budget besides its bytes, so that a slice over empty segments ends too.
const SEGMENT_COST: usize = 64;
/// A chunk that has so many bytes is full. A single value may make it larger.
const CHUNK_BYTES: usize = 32 * 1024;
/// What a chunk's buffer has room for at first: it is full before it must grow, unless values are long.
const BUFFER_BYTES: usize = CHUNK_BYTES + 16 * 1024;
/// Empty buffers that are kept.
const SPARE_BUFFERS: usize = 16;

/// Buffers of chunks that were encoded, for the next ones.
type Spares = Arc<Mutex<Vec<Vec<u8>>>>;

/// A part of a snapshot, which another thread may encode.
#[derive(Debug, Default)]
pub struct Chunk {
    frames: Vec<u8>,
    len: usize,
    spares: Spares,
    clones: Vec<Value>,
    /// What the clones take that they do not share.
    clone_bytes: usize,
}

/// One entry of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Frame<'a> {
    /// The database it was in when the walk began.
    pub db: usize,
    /// Its key.
    pub key: &'a [u8],
    /// Its value.
    pub value: ValueRef<'a>,
    /// When it expires, in milliseconds since the Unix epoch.
    pub deadline_ms: Option<i64>,
    /// When or how often it was used, as the bits that an [`AccessClock`] makes something of.
    pub access: u32,
}

impl Chunk {
    /// The entries.
    pub fn iter(&self) -> impl Iterator<Item = Frame<'_>> {
        let mut rest = self.frames.as_slice();
        std::iter::from_fn(move || (!rest.is_empty()).then(|| pop_frame(&mut rest, &self.clones)))
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no entry.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Its size in memory, in bytes.
    pub fn len_bytes(&self) -> usize {
        self.frames.len() + self.clone_bytes
    }

    fn new(spares: &Spares) -> Chunk {
        let spare = spares.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let frames = spare.unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES));
        Chunk { frames, len: 0, spares: Arc::clone(spares), clones: Vec::new(), clone_bytes: 0 }
    }

    fn push(&mut self, db: usize, entry: EntryRef<'_>) {
        let key = entry.key();
        let (kind, value_len, value) = match entry.value() {
            ValueRef::Str(value) => (0, value.len(), value),
            aggregate => {
                self.clone_bytes += aggregate.clone_bytes();
                self.clones.push(aggregate.to_value());
                (CLONED, self.clones.len() - 1, &b""[..])
            }
        };
        let value_len = u32::try_from(value_len).expect("values are limited to 512 MiB, and chunks to fewer clones");
        let deadline_ms = entry.deadline_ms();
        let mut header = [0; FRAME_HEADER];
        header[0..4].copy_from_slice(&(key.len() as u32).to_le_bytes());
        header[4..8].copy_from_slice(&value_len.to_le_bytes());
        header[8..12].copy_from_slice(&(db as u32).to_le_bytes());
        header[12] = kind | if deadline_ms.is_some() { HAS_DEADLINE } else { 0 };
        header[13..16].copy_from_slice(&entry.access().to_le_bytes()[..3]);
        header[16..24].copy_from_slice(&deadline_ms.unwrap_or(0).to_le_bytes());
        self.len += 1;
        self.frames.reserve(FRAME_HEADER + key.len() + value.len());
        self.frames.extend_from_slice(&header);
        self.frames.extend_from_slice(key);
        self.frames.extend_from_slice(value);
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let mut frames = std::mem::take(&mut self.frames);
        let mut spares = self.spares.lock().unwrap_or_else(PoisonError::into_inner);
        if frames.capacity() == BUFFER_BYTES && spares.len() < SPARE_BUFFERS {
            frames.clear();
            spares.push(frames);
        }
    }
}

/// Takes one frame off the front of what [`Chunk::push`] wrote.
fn pop_frame<'a>(rest: &mut &'a [u8], clones: &'a [Value]) -> Frame<'a> {
    let mut take = |len: usize| -> &'a [u8] {
        let (front, back) = rest.split_at(len);
        *rest = back;
        front
    };
    let header = take(FRAME_HEADER);
    let number = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("4 bytes")) as usize;
    let deadline_ms = i64::from_le_bytes(header[16..24].try_into().expect("8 bytes"));
    let key = take(number(0));
    Frame {
        db: number(8),
        key,
        value: if header[12] & CLONED == 0 { ValueRef::Str(take(number(4))) } else { clones[number(4)].borrow() },
        deadline_ms: (header[12] & HAS_DEADLINE != 0).then_some(deadline_ms),
        access: u32::from_le_bytes([header[13], header[14], header[15], 0]),
    }
}

/// A running walk.
pub(super) struct Walk {
    version: u64,
    /// The database, by its number at the beginning, and the hash where the next slice goes on.
    db: usize,
    position: u64,
    /// Tables flushed since the beginning that the walk has not passed yet.
    detached: Vec<Table>,
    /// What was copied and not taken yet; all but the last one are full.
    pending: VecDeque<Chunk>,
    pending_bytes: usize,
    spares: Spares,
    preimage_bytes: u64,
}

impl Walk {
    /// Begins walk number `version` over the tables, of which it returns the sizes.
    pub(super) fn begin(version: u64, tables: &mut [Option<Table>]) -> (Walk, Vec<DatabaseSize>) {
        let mut sizes = Vec::new();
        for (db, table) in tables.iter_mut().enumerate() {
            let Some(table) = table else { continue };
            table.walked_as = Some(db);
            if table.len() > 0 {
                sizes.push(DatabaseSize { db, keys: table.len(), with_deadline: table.with_deadline() });
            }
        }
        let walk = Walk {
            version,
            db: 0,
            position: 0,
            detached: Vec::new(),
            pending: VecDeque::new(),
            pending_bytes: 0,
            spares: Spares::default(),
            preimage_bytes: 0,
        };
        (walk, sizes)
    }

    pub(super) fn preimage_bytes(&self) -> u64 {
        self.preimage_bytes
    }

    /// What the walk holds: pending chunks and detached tables.
    pub(super) fn memory_bytes(&self) -> usize {
        self.pending.iter().map(|chunk| chunk.frames.capacity() + chunk.clone_bytes).sum::<usize>()
            + self.detached.iter().map(Table::memory_bytes).sum::<usize>()
    }

    /// Whether the segment of a table that took part is still to be visited.
    pub(super) fn awaits(&self, table: &Table, hash: u64) -> bool {
        table.walked_as.is_some() && table.segment(hash).version != self.version
    }

    /// Saves the entry of `key`, which is about to be written, if it is still to be visited.
    pub(super) fn before_write(&mut self, table: &mut Table, key: Key<'_>) {
        if !self.awaits(table, key.hash) {
            return;
        }
        let (Some(db), version) = (table.walked_as, self.version) else { return };
        let segment = table.segment_mut(key.hash);
        let Some(place) = segment.find(key) else {
            return match segment.is_full() {
                true => self.before_change(table, key.hash),
                false => segment.begin_passing(version),
            };
        };
        segment.begin_passing(version);
        if segment.pass(place) {
            let before = self.pending_bytes;
            self.push(db, segment.entry_ref(place));
            self.preimage_bytes += (self.pending_bytes - before) as u64;
        }
    }

    /// Saves the segment that covers `hash`, which is about to change as a whole, if it is still to be visited.
    pub(super) fn before_change(&mut self, table: &mut Table, hash: u64) {
        if !self.awaits(table, hash) {
            return;
        }
        let before = self.pending_bytes;
        self.visit(table, hash);
        self.preimage_bytes += (self.pending_bytes - before) as u64;
    }

    /// Takes a flushed table; one that the walk has nothing to do with is dropped.
    pub(super) fn detach(&mut self, table: Table) {
        if table.walked_as.is_some_and(|db| db >= self.db) {
            self.detached.push(table);
        } else {
            table.discard();
        }
    }

    /// The next chunk: what is pending, or else segments are visited until there are about `budget_bytes`. `None` if there
    /// was nothing left.
    pub(super) fn slice(&mut self, tables: &mut [Option<Table>], budget_bytes: usize) -> Option<Chunk> {
        let mut cost = 0;
        let mut is_done = false;
        while self.pending_bytes + cost < budget_bytes.max(1) {
            if self.db >= tables.len() {
                is_done = true;
                break;
            }
            self.step(tables);
            cost += SEGMENT_COST;
        }
        match self.pending.pop_front() {
            Some(chunk) => {
                self.pending_bytes -= chunk.len_bytes();
                Some(chunk)
            }
            None if is_done => None,
            None => Some(Chunk::default()),
        }
    }

    fn push(&mut self, db: usize, entry: EntryRef<'_>) {
        let has_room = self.pending.back().is_some_and(|chunk| chunk.len_bytes() < CHUNK_BYTES);
        if !has_room {
            self.pending.push_back(Chunk::new(&self.spares));
        }
        let chunk = self.pending.back_mut().expect("one was just added unless there was one");
        let before = chunk.len_bytes();
        chunk.push(db, entry);
        self.pending_bytes += chunk.len_bytes() - before;
    }

    /// Visits the next segment if it still waits, and moves on.
    fn step(&mut self, tables: &mut [Option<Table>]) {
        let mut detached = std::mem::take(&mut self.detached);
        let mut candidates = tables.iter_mut().flatten().chain(&mut detached);
        let next = candidates.find(|table| table.walked_as == Some(self.db)).and_then(|table| {
            if self.awaits(table, self.position) {
                self.visit(table, self.position);
            }
            table.next_start(self.position)
        });
        match next {
            Some(position) => self.position = position,
            None => {
                detached.extract_if(.., |table| table.walked_as == Some(self.db)).for_each(Table::discard);
                (self.db, self.position) = (self.db + 1, 0);
            }
        }
        self.detached = detached;
    }

    fn visit(&mut self, table: &mut Table, hash: u64) {
        let Some(db) = table.walked_as else { return };
        let segment: &mut Segment = table.segment_mut(hash);
        segment.version = self.version;
        segment.prefetch_entries();
        for entry in segment.left_for(self.version) {
            self.push(db, entry);
        }
    }
}
