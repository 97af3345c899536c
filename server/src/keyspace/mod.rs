//! The data set: numbered databases of keys with values and deadlines, owned by one thread, without locks.
//!
//! ```text
//! Keyspace ── tables[0..n]: Option<Table>                                        (an empty database allocates nothing)
//!             Table ── directory, by the hash's top bits ── Segment, 112 slots ── entry: header|deadline|key|value
//!             Walk  ── a snapshot in progress: where it is, pre-images that writes forced, flushed tables
//! ```
//!
//! `table` grows by splitting one small segment at a time, `segment` finds a key with one comparison of 14 tags,
//! `entry` keeps a small key, its value and its deadline in one cell, `slab` provides the cells, and `walk` takes
//! snapshots without a fork. A key of 16 bytes with a value of 32 takes about 72 bytes all told.
//!
//! # Hashing
//! Keys come from clients, and a client that can make keys collide makes the server slow, so the hash is keyed:
//! SipHash-1-3 (Aumasson and Bernstein, 2012) with a seed that its creator draws at random and clients never see. It costs
//! about 9 ns for a short key, a tenth of the cache misses that follow; faster hashes disclaim resistance to an attacker
//! who watches response times. All databases share the seed, so SWAPDB and MOVE need no new hash. Servers do not: a replica
//! that took its master's would be synced in its own table's order, but where keys are loaded in batches that saves little,
//! and the seed would go over the wire.
//!
//! # Pipelines and loads
//! Random reads cost cache misses, not instructions. Whoever has several keys at hand hashes them all, calls
//! [`Keyspace::prefetch_slot`] for each, then [`Keyspace::prefetch_entry`] for each, and only then executes; for inserts
//! of new keys the first phase is enough. 16 to 32 keys at a time hide most of the misses. Values other than strings lie
//! elsewhere: [`Keyspace::prefetch_value`] and what [`Keyspace::likely_value`] points to follow the way to them.
//!
//! # Time
//! The keyspace has no clock: callers pass the time, in milliseconds since the Unix epoch. An expired entry is absent to
//! [`Keyspace::get`], [`Keyspace::scan`] and [`Keyspace::random`] and present to everything else, until somebody removes
//! it: only a master may, because its replicas wait for the DEL.
//!
//! Database numbers beyond the configured ones are refused by the commands; here they panic like any index.

mod access;
mod entry;
mod fields;
mod garbage;
mod segment;
mod slab;
mod table;
#[cfg(test)]
mod tests;
mod walk;

pub use access::{AccessClock, Tracking, Use};
pub use entry::EntryRef;
pub use garbage::lazily_freed;
pub use walk::{Chunk, Frame};

use siphasher::sip::SipHasher13;
use std::cell::Cell;
use std::collections::HashSet;
use table::Table;
use walk::Walk;

use crate::value::{Aggregate, Hash, Value, ValueRef};

/// A key with its hash, computed once by [`Keyspace::key`] and carried from the prefetch to the last use.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    /// The key itself.
    pub bytes: &'a [u8],
    /// Its keyed hash, as [`Keyspace::hash`] gives it.
    pub hash: u64,
}

/// What an edit finds where there is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// An empty value, which is stored if the edit puts something into it.
    Create,
    /// Nothing: there is no edit.
    Skip,
}

/// A key holds a value of another type than was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key holds another type of value")]
pub struct WrongType;

/// What a write does to the key's deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// Leave it as it is (a new key has none).
    Keep,
    /// The key lives for ever.
    Clear,
    /// The key expires after this time, in milliseconds since the Unix epoch.
    At(i64),
}

impl Deadline {
    /// The deadline that follows the present one.
    fn after(self, present_ms: Option<i64>) -> Option<i64> {
        match self {
            Deadline::Keep => present_ms,
            Deadline::Clear => None,
            Deadline::At(deadline_ms) => Some(deadline_ms),
        }
    }
}

/// How many keys a database holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatabaseSize {
    /// The database's number.
    pub db: usize,
    /// Its keys, expired ones that nobody removed yet included.
    pub keys: usize,
    /// Those of them that have a deadline.
    pub with_deadline: usize,
}

/// A walk was asked for while another one is running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a snapshot walk is already running")]
pub struct WalkInProgress;

/// The data set. See the module's documentation.
pub struct Keyspace {
    seed: [u64; 2],
    tables: Vec<Option<Table>>,
    /// The number of the last walk; segments made since then carry it.
    version: u64,
    walk: Option<Walk>,
    /// How often it was emptied.
    flushes: u64,
    saw_expired: Cell<bool>,
    /// Databases and hashes of the keys that are being written, while somebody wants to know.
    written: Option<HashSet<(usize, u64)>>,
    /// The keys that were not there before, while somebody wants to know.
    created: Option<Vec<(usize, Box<[u8]>)>>,
    clock: AccessClock,
}

fn keyed_hash(seed: [u64; 2], bytes: &[u8]) -> u64 {
    SipHasher13::new_with_keys(seed[0], seed[1]).hash(bytes)
}

/// Everything by key.
impl Keyspace {
    /// An empty data set of `databases` databases whose hashes are keyed with `seed`, which should be random.
    pub fn new(databases: usize, seed: [u64; 2]) -> Keyspace {
        let tables = (0..databases).map(|_| None).collect();
        let clock = AccessClock::new(seed[0]);
        let saw_expired = Cell::new(false);
        Keyspace { seed, tables, version: 0, walk: None, flushes: 0, saw_expired, written: None, created: None, clock }
    }

    /// The key of the hash function.
    pub fn seed(&self) -> [u64; 2] {
        self.seed
    }

    /// How many databases there are.
    pub fn databases(&self) -> usize {
        self.tables.len()
    }

    /// The keyed hash of a key.
    pub fn hash(&self, bytes: &[u8]) -> u64 {
        keyed_hash(self.seed, bytes)
    }

    /// A key with its hash.
    pub fn key<'a>(&self, bytes: &'a [u8]) -> Key<'a> {
        Key { bytes, hash: self.hash(bytes) }
    }

    /// First phase of a prefetch: asks for the slots where a key with this hash is looked up.
    pub fn prefetch_slot(&self, db: usize, hash: u64) {
        if let Some(table) = &self.tables[db] {
            table.segment(hash).prefetch_group(hash);
        }
    }

    /// Second phase, when the slots have arrived: asks for the entry itself.
    pub fn prefetch_entry(&self, db: usize, hash: u64) {
        if let Some(table) = &self.tables[db] {
            table.segment(hash).prefetch_entry(hash);
        }
    }

    /// Third phase, for values other than strings: asks for what an entry points to; false if it points to nothing.
    pub fn prefetch_value(&self, db: usize, hash: u64) -> bool {
        self.tables[db].as_ref().is_some_and(|table| table.segment(hash).prefetch_value(hash))
    }

    /// What an entry with this hash points to, if it does: most likely, but not surely, that of the key which was hashed. Good
    /// for asking the cache for more of it.
    pub fn likely_value(&self, db: usize, hash: u64) -> Option<&Value> {
        self.tables[db].as_ref()?.segment(hash).likely_value(hash)
    }

    /// The live entry. An expired one counts as absent and raises the flag of [`Keyspace::take_saw_expired`].
    #[inline]
    pub fn get(&self, db: usize, key: Key<'_>, now_ms: i64) -> Option<EntryRef<'_>> {
        let entry = self.peek(db, key)?;
        if entry.is_expired(now_ms) {
            self.saw_expired.set(true);
            return None;
        }
        Some(entry)
    }

    /// Whether a `get` met an expired entry since [`Keyspace::take_saw_expired`].
    #[inline]
    pub fn saw_expired(&self) -> bool {
        self.saw_expired.get()
    }

    /// Whether a `get` met an expired entry since the last call, which clears the flag.
    pub fn take_saw_expired(&self) -> bool {
        self.saw_expired.take()
    }

    /// Remembers from here on which keys are written; FLUSHDB, SWAPDB and expiry do not count.
    pub fn record_writes(&mut self) {
        self.written = Some(HashSet::new());
    }

    /// The databases and hashes of the keys that were written since [`Keyspace::record_writes`], or may have been.
    pub fn take_written(&mut self) -> HashSet<(usize, u64)> {
        self.written.take().unwrap_or_default()
    }

    /// Remembers from here on which keys are new.
    pub fn record_created(&mut self) {
        self.created = Some(Vec::new());
    }

    /// The databases and names of the keys that are new since [`Keyspace::record_created`] or the last call.
    pub fn take_created(&mut self) -> Vec<(usize, Box<[u8]>)> {
        self.created.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Remembers nothing of that any more.
    pub fn forget_created(&mut self) {
        self.created = None;
    }

    fn note_created(&mut self, db: usize, key: Key<'_>) {
        if let Some(created) = &mut self.created {
            created.push((db, key.bytes.into()));
        }
    }

    /// The entry, expired or not.
    #[inline]
    pub fn peek(&self, db: usize, key: Key<'_>) -> Option<EntryRef<'_>> {
        self.tables[db].as_ref()?.find(key)
    }

    /// Stores a string, in place where it fits; returns whether the key existed (expired or not).
    #[inline]
    pub fn set_str(&mut self, db: usize, key: Key<'_>, value: &[u8], deadline: Deadline) -> bool {
        let (table, clock) = self.table_for_write(db, key);
        let existed = table.set_str(key, value, deadline, clock);
        if !existed {
            self.note_created(db, key);
        }
        existed
    }

    /// Stores an owned value; returns whether the key existed (expired or not).
    pub fn insert(&mut self, db: usize, key: Key<'_>, value: Value, deadline_ms: Option<i64>) -> bool {
        let (table, clock) = self.table_for_write(db, key);
        let existed = table.insert(key, value, deadline_ms, clock);
        if !existed {
            self.note_created(db, key);
        }
        existed
    }

    /// Removes the key; returns whether it existed (expired or not).
    pub fn remove(&mut self, db: usize, key: Key<'_>) -> bool {
        self.existing_for_write(db, key).is_some_and(|(table, _)| table.remove(key))
    }

    /// Removes the key and returns its value and its deadline.
    pub fn take(&mut self, db: usize, key: Key<'_>) -> Option<(Value, Option<i64>)> {
        self.existing_for_write(db, key)?.0.take(key)
    }

    /// Edits a list, hash, set or sorted set where it is, keeping its deadline. A key whose value is empty afterwards is
    /// removed; one that expired before `now_ms` counts as absent. `None` if it is absent and `absent` says to skip it.
    ///
    /// # Errors
    /// It holds another type.
    pub fn edit<A: Aggregate, R>(
        &mut self,
        db: usize,
        key: Key<'_>,
        now_ms: i64,
        absent: Absent,
        edit: impl FnOnce(&mut A) -> R,
    ) -> Result<Option<R>, WrongType> {
        let was_absent = absent == Absent::Create && self.created.is_some() && self.peek(db, key).is_none();
        let (table, clock) = match absent {
            Absent::Create => self.table_for_write(db, key),
            Absent::Skip => match self.existing_for_write(db, key) {
                Some(found) => found,
                None => return Ok(None),
            },
        };
        let result = table.edit(key, now_ms, absent, clock, edit);
        if was_absent && self.peek(db, key).is_some() {
            self.note_created(db, key);
        }
        result
    }

    /// Edits a string (APPEND, SETRANGE), keeping its deadline; `None` if the key is absent or no string. A string too long to lie in
    /// its entry is edited where it is, so appending to it costs amortised constant time per byte.
    pub fn str_mut<R>(&mut self, db: usize, key: Key<'_>, edit: impl FnOnce(&mut Vec<u8>) -> R) -> Option<R> {
        let (table, clock) = self.existing_for_write(db, key)?;
        table.str_mut(key, clock, edit)
    }

    /// Gives the key a deadline, or takes it away; returns whether the key exists (expired or not).
    pub fn set_deadline(&mut self, db: usize, key: Key<'_>, deadline_ms: Option<i64>) -> bool {
        self.existing_for_write(db, key).is_some_and(|(table, _)| table.set_deadline(key, deadline_ms))
    }

    /// The database's table, made if need be, after the walk has saved what a write to `key` would change.
    #[inline]
    fn table_for_write(&mut self, db: usize, key: Key<'_>) -> (&mut Table, &AccessClock) {
        if let Some(written) = &mut self.written {
            written.insert((db, key.hash));
        }
        let table = self.tables[db].get_or_insert_with(|| Table::new(self.seed, self.version, 0));
        if let Some(walk) = &mut self.walk {
            walk.before_write(table, key);
        }
        (table, &self.clock)
    }

    /// As [`Keyspace::table_for_write`], for writes that need an existing key.
    fn existing_for_write(&mut self, db: usize, key: Key<'_>) -> Option<(&mut Table, &AccessClock)> {
        self.tables[db].is_some().then(|| self.table_for_write(db, key))
    }
}

/// When and how often keys are used.
impl Keyspace {
    /// What makes and reads the notes about it.
    pub fn clock(&self) -> &AccessClock {
        &self.clock
    }

    /// Lets the present be this, in milliseconds since the Unix epoch.
    pub fn set_access_time(&self, now_ms: i64) {
        self.clock.set_now(now_ms);
    }

    /// From here on this is noted.
    pub fn set_tracking(&mut self, tracking: Tracking) {
        self.clock.set_tracking(tracking);
    }

    /// From here on it is another command that uses keys.
    #[inline]
    pub fn begin_command(&self) {
        self.clock.begin_command();
    }

    /// Whether uses do not count for the moment.
    pub fn hold_access(&self, is_held: bool) {
        self.clock.hold(is_held);
    }

    /// Notes what is known of a key's use, as far as that is what is noted here. It is no write.
    pub fn set_last_use(&self, db: usize, key: Key<'_>, known: Use) {
        if let (Some(entry), Some(bits)) = (self.peek(db, key), self.clock.bits_of(known)) {
            entry.set_last_use(bits);
        }
    }

    /// Shows about `count` entries of `db` chosen by the random number, of those with a deadline if asked for.
    pub fn sample(&self, db: usize, random: u64, count: usize, with_deadline: bool, visit: impl FnMut(EntryRef<'_>)) {
        if let Some(table) = &self.tables[db] {
            table.sample(random, count, with_deadline, visit);
        }
    }
}

/// Whole databases.
impl Keyspace {
    /// Keys in `db`, expired ones that nobody removed yet included.
    pub fn len(&self, db: usize) -> usize {
        self.tables[db].as_ref().map_or(0, Table::len)
    }

    /// Whether `db` has no key.
    pub fn is_empty(&self, db: usize) -> bool {
        self.len(db) == 0
    }

    /// Keys in `db` that have a deadline.
    pub fn with_deadline(&self, db: usize) -> usize {
        self.tables[db].as_ref().map_or(0, Table::with_deadline)
    }

    /// Whether `db` may have hashes with fields that have deadlines.
    #[inline]
    pub fn may_have_field_deadlines(&self, db: usize) -> bool {
        self.tables[db].as_ref().is_some_and(|table| !table.fields.is_empty())
    }

    /// Whether any database has such a hash.
    pub fn has_field_deadlines(&self) -> bool {
        let has_deadlines = |db: usize, name: &[u8]| {
            let entry = self.peek(db, self.key(name));
            entry.is_some_and(|entry| matches!(entry.value(), ValueRef::Hash(hash) if hash.has_deadlines()))
        };
        let tables = self.tables.iter().enumerate().filter_map(|(db, table)| Some((db, table.as_ref()?)));
        tables.into_iter().any(|(db, table)| table.fields.keys().any(|name| has_deadlines(db, name)))
    }

    /// A key of `db` that has, or had, a field with a deadline before `now_ms`; the one whose deadline is earliest.
    pub fn key_with_due_field(&self, db: usize, now_ms: i64) -> Option<Box<[u8]>> {
        let (deadline_ms, name) = self.tables[db].as_ref()?.fields.first()?;
        (deadline_ms < now_ms).then(|| name.into())
    }

    /// Removes up to `most` fields of a key whose deadlines are before `now_ms`, and the key with its last field. Returns
    /// their names.
    pub fn expire_fields(&mut self, db: usize, key: Key<'_>, now_ms: i64, most: usize) -> Vec<Vec<u8>> {
        let Some(table) = &mut self.tables[db] else { return Vec::new() };
        let next_ms = table.find(key).and_then(|entry| match entry.value() {
            ValueRef::Hash(hash) => hash.next_deadline_ms(),
            _ => None,
        });
        if next_ms.is_none_or(|next_ms| next_ms >= now_ms) {
            // What was noted may be of a value that is gone.
            table.fields.note(key.bytes, next_ms);
            return Vec::new();
        }
        let taken = self.edit(db, key, i64::MIN, Absent::Skip, |hash: &mut Hash| hash.take_expired(now_ms, most));
        taken.ok().flatten().unwrap_or_default()
    }

    /// Mean time to live, in milliseconds, of the keys in `db` that have a deadline; 0 if none has.
    pub fn avg_ttl_ms(&self, db: usize, now_ms: i64) -> i64 {
        self.tables[db].as_ref().map_or(0, |table| table.avg_ttl_ms(now_ms))
    }

    /// Bytes that the data takes: entries, segments, directories, big values, and what a walk holds.
    pub fn memory_bytes(&self) -> usize {
        let tables: usize = self.tables.iter().flatten().map(Table::memory_bytes).sum();
        tables + self.walk.as_ref().map_or(0, Walk::memory_bytes)
    }

    /// Of these in `db`, what is no entry and no big value.
    pub fn table_bytes(&self, db: usize) -> usize {
        self.tables[db].as_ref().map_or(0, Table::overhead_bytes)
    }

    /// One step of SCAN: visits live entries until about `count` of them have been seen and returns the next cursor.
    ///
    /// Cursor 0 starts, and a returned 0 ends. A cursor is the start of a run of hashes (its upper 48 bits), and entries
    /// never change their hash: a key that is there from the first step to the last is visited at least once whatever is
    /// written meanwhile, and more than once only after FLUSHDB or SWAPDB. Whole segments are visited, so a step may
    /// yield up to 111 entries more than asked for; it looks at no more than `count` segments.
    /// A database that grows faster than it is scanned keeps the scan going.
    pub fn scan(&self, db: usize, cursor: u64, count: usize, now_ms: i64, mut visit: impl FnMut(EntryRef<'_>)) -> u64 {
        const CURSOR_SHIFT: u32 = 16;
        let Some(table) = &self.tables[db] else { return 0 };
        let next = table.scan(cursor << CURSOR_SHIFT, count, |entry| {
            let is_live = !entry.is_expired(now_ms);
            if is_live {
                visit(entry);
            }
            is_live
        });
        next.map_or(0, |start| start >> CURSOR_SHIFT)
    }

    /// Visits all entries of `db`, expired ones included.
    pub fn for_each(&self, db: usize, visit: impl FnMut(EntryRef<'_>)) {
        if let Some(table) = &self.tables[db] {
            table.for_each(visit);
        }
    }

    /// A live entry of `db`, chosen by the random number given; `None` if there is none.
    pub fn random(&self, db: usize, random: u64, now_ms: i64) -> Option<EntryRef<'_>> {
        self.tables[db].as_ref()?.random(random, |entry| !entry.is_expired(now_ms))
    }

    /// Empties `db`; returns how many keys it held.
    pub fn flush(&mut self, db: usize) -> usize {
        let Some(table) = self.tables[db].take() else { return 0 };
        let keys = table.len();
        match &mut self.walk {
            Some(walk) => walk.detach(table),
            None => table.discard(),
        }
        keys
    }

    /// Empties every database; returns how many keys they held.
    pub fn flush_all(&mut self) -> usize {
        self.flushes += 1;
        (0..self.tables.len()).map(|db| self.flush(db)).sum()
    }

    /// How often [`Keyspace::flush_all`] was called.
    pub fn flushes(&self) -> u64 {
        self.flushes
    }

    /// Swaps two databases (SWAPDB).
    pub fn swap(&mut self, a: usize, b: usize) {
        self.tables.swap(a, b);
    }

    /// One step of active expiry in `db`, going on where the last one stopped: looks at up to `segments` segments, passes
    /// over those without a deadline before `now_ms`, and removes the expired keys of the others, each reported before it
    /// goes so that the caller can write its DEL. Returns how many. A step takes some 10 µs per segment that has keys due.
    pub fn expire(&mut self, db: usize, now_ms: i64, segments: usize, report: impl FnMut(&[u8])) -> usize {
        let Some(table) = self.tables[db].as_mut().filter(|table| table.with_deadline() > 0) else { return 0 };
        let mut walk = self.walk.as_mut();
        let before = |table: &mut Table, hash| {
            if let Some(walk) = &mut walk {
                walk.before_change(table, hash);
            }
        };
        table.expire(now_ms, segments, before, report)
    }

    /// Prepares a `db` that has held nothing since it was flushed for a load of about `keys` keys (RDB's RESIZEDB). A hint:
    /// what it allocates is bounded, and never more than the load itself would.
    pub fn reserve(&mut self, db: usize, keys: usize) {
        self.tables[db].get_or_insert_with(|| Table::new(self.seed, self.version, keys));
    }
}

impl Drop for Keyspace {
    fn drop(&mut self) {
        self.tables.drain(..).flatten().for_each(Table::discard);
    }
}

/// Snapshots.
impl Keyspace {
    /// Freezes the present state for a snapshot; returns the sizes of the databases that are not empty.
    pub fn begin_walk(&mut self) -> Result<Vec<DatabaseSize>, WalkInProgress> {
        if self.walk.is_some() {
            return Err(WalkInProgress);
        }
        self.version += 1;
        let (walk, sizes) = Walk::begin(self.version, &mut self.tables);
        self.walk = Some(walk);
        Ok(sizes)
    }

    /// The next part of the frozen state, of about `budget_bytes` (more if pre-images wait; empty if it
    /// met only empty segments). `None` when everything has been given, and then the walk is over.
    pub fn walk_slice(&mut self, budget_bytes: usize) -> Option<Chunk> {
        let chunk = self.walk.as_mut()?.slice(&mut self.tables, budget_bytes);
        if chunk.is_none() {
            self.walk = None;
        }
        chunk
    }

    /// Gives the walk up, if one is running.
    pub fn abort_walk(&mut self) {
        self.walk = None;
    }

    /// Whether a walk is running.
    pub fn walk_in_progress(&self) -> bool {
        self.walk.is_some()
    }

    /// Bytes that the running walk holds and has not given away; 0 without a walk.
    pub fn walk_held_bytes(&self) -> usize {
        self.walk.as_ref().map_or(0, Walk::memory_bytes)
    }

    /// Bytes that writes have made the running walk copy ahead of its turn; 0 without a walk.
    pub fn walk_preimage_bytes(&self) -> u64 {
        self.walk.as_ref().map_or(0, Walk::preimage_bytes)
    }
}
