//! The data set (API skeleton; bodies follow).
#![allow(unused_variables, clippy::todo)]

mod walk;

pub use walk::{Chunk, Frame};

use std::marker::PhantomData;

/// A key with its hash, computed once by [`Keyspace::key`] and carried from the prefetch to the last use.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    /// The key itself.
    pub bytes: &'a [u8],
    /// Its keyed hash, as [`Keyspace::hash`] gives it.
    pub hash: u64,
}

/// An owned value; every data type is a variant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A string.
    Str(Vec<u8>),
}

/// A borrowed value, wherever it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueRef<'a> {
    /// A string.
    Str(&'a [u8]),
}

/// What a write does to the key's deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// Leave it as it is (a new key has none).
    Keep,
    /// The key lives for ever.
    Clear,
    /// The key expires at this time, in milliseconds since the Unix epoch.
    At(i64),
}

/// One stored entry, borrowed.
#[derive(Clone, Copy)]
pub struct EntryRef<'a>(PhantomData<&'a [u8]>);

impl<'a> EntryRef<'a> {
    /// The key.
    pub fn key(self) -> &'a [u8] {
        todo!()
    }
    /// The value.
    pub fn value(self) -> ValueRef<'a> {
        todo!()
    }
    /// When it expires, in milliseconds since the Unix epoch.
    pub fn deadline_ms(self) -> Option<i64> {
        todo!()
    }
    /// Whether its deadline has passed at `now_ms` (Redis: strictly later than the deadline).
    pub fn is_expired(self, now_ms: i64) -> bool {
        todo!()
    }
    /// The type as TYPE names it.
    pub fn type_name(self) -> &'static str {
        todo!()
    }
}

/// How many keys a database holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatabaseSize {
    /// The database's number.
    pub db: usize,
    /// Its keys, expired ones that nobody deleted yet included.
    pub keys: usize,
    /// Those of them that have a deadline.
    pub with_deadline: usize,
}

/// A walk was asked for while another one is running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a snapshot walk is already running")]
pub struct WalkInProgress;

/// The data set.
pub struct Keyspace {}

impl Keyspace {
    /// An empty data set of `databases` databases whose hashes are keyed with `seed`.
    pub fn new(databases: usize, seed: [u64; 2]) -> Keyspace {
        todo!()
    }
    /// The key of the hash function.
    pub fn seed(&self) -> [u64; 2] {
        todo!()
    }
    /// How many databases there are.
    pub fn databases(&self) -> usize {
        todo!()
    }
    /// Hashes `bytes`.
    pub fn hash(&self, bytes: &[u8]) -> u64 {
        todo!()
    }
    /// `bytes` with their hash.
    pub fn key<'a>(&self, bytes: &'a [u8]) -> Key<'a> {
        todo!()
    }
    /// First phase of a pipeline's prefetch: the place where the key's slot is. Enough before an insert.
    pub fn prefetch_slot(&self, db: usize, hash: u64) {}
    /// Second phase: the entry itself. Call it some hashes after the first phase.
    pub fn prefetch_entry(&self, db: usize, hash: u64) {}
    /// The live entry; an expired one counts as absent and raises [`Keyspace::take_saw_expired`].
    pub fn get(&self, db: usize, key: Key<'_>, now_ms: i64) -> Option<EntryRef<'_>> {
        todo!()
    }
    /// Whether a `get` met an expired entry since the last call; clears the flag.
    pub fn take_saw_expired(&self) -> bool {
        todo!()
    }
    /// The entry, expired or not.
    pub fn peek(&self, db: usize, key: Key<'_>) -> Option<EntryRef<'_>> {
        todo!()
    }
    /// Stores a string, in place where it fits; returns whether the key existed (expired or not).
    pub fn set_str(&mut self, db: usize, key: Key<'_>, value: &[u8], deadline: Deadline) -> bool {
        todo!()
    }
    /// Stores an owned value; returns whether the key existed.
    pub fn insert(&mut self, db: usize, key: Key<'_>, value: Value, deadline_ms: Option<i64>) -> bool {
        todo!()
    }
    /// Removes the key; returns whether it existed.
    pub fn remove(&mut self, db: usize, key: Key<'_>) -> bool {
        todo!()
    }
    /// Removes the key and returns what it held, and its deadline.
    pub fn take(&mut self, db: usize, key: Key<'_>) -> Option<(Value, Option<i64>)> {
        todo!()
    }
    /// Edits a string in place (APPEND, SETRANGE); `None` if the key is absent.
    pub fn str_mut<R>(&mut self, db: usize, key: Key<'_>, edit: impl FnOnce(&mut Vec<u8>) -> R) -> Option<R> {
        todo!()
    }
    /// Gives or takes the deadline; returns whether the key exists.
    pub fn set_deadline(&mut self, db: usize, key: Key<'_>, deadline_ms: Option<i64>) -> bool {
        todo!()
    }
    /// Keys in `db`, expired ones that nobody deleted yet included.
    pub fn len(&self, db: usize) -> usize {
        todo!()
    }
    /// Whether `db` has no key.
    pub fn is_empty(&self, db: usize) -> bool {
        todo!()
    }
    /// Keys in `db` that have a deadline.
    pub fn with_deadline(&self, db: usize) -> usize {
        todo!()
    }
    /// Mean time to live, in milliseconds, of the keys of `db` that have a deadline (0 if none).
    pub fn avg_ttl_ms(&self, db: usize, now_ms: i64) -> i64 {
        todo!()
    }
    /// Bytes held by entries, segments, directories and big values.
    pub fn memory_bytes(&self) -> usize {
        todo!()
    }
    /// One step of SCAN: reports live entries and returns the next cursor (0 starts and ends).
    pub fn scan(&self, db: usize, cursor: u64, count: usize, now_ms: i64, visit: impl FnMut(EntryRef<'_>)) -> u64 {
        todo!()
    }
    /// All entries of `db`, expired ones included, in hash order.
    pub fn for_each(&self, db: usize, visit: impl FnMut(EntryRef<'_>)) {
        todo!()
    }
    /// A live entry chosen by the random number given.
    pub fn random(&self, db: usize, random: u64, now_ms: i64) -> Option<EntryRef<'_>> {
        todo!()
    }
    /// Empties `db`; returns how many keys it held.
    pub fn flush(&mut self, db: usize) -> usize {
        todo!()
    }
    /// Empties every database; returns how many keys they held.
    pub fn flush_all(&mut self) -> usize {
        todo!()
    }
    /// SWAPDB.
    pub fn swap(&mut self, a: usize, b: usize) {
        todo!()
    }
    /// One step of active expiry: looks at up to `segments` segments, reports each due key and removes it; returns how
    /// many.
    pub fn expire(&mut self, db: usize, now_ms: i64, segments: usize, report: impl FnMut(&[u8])) -> usize {
        todo!()
    }
    /// Prepares an empty `db` for a load of about `keys` keys (RESIZEDB); a hint, bounded.
    pub fn reserve(&mut self, db: usize, keys: usize) {}
    /// Freezes the present state for a snapshot; returns the sizes of the databases that are not empty.
    pub fn begin_walk(&mut self) -> Result<Vec<DatabaseSize>, WalkInProgress> {
        todo!()
    }
    /// The next part of the frozen state, of about `budget_bytes`; `None` when all has been given and the walk is over.
    pub fn walk_slice(&mut self, budget_bytes: usize) -> Option<Chunk> {
        todo!()
    }
    /// Gives the walk up, if one is running.
    pub fn abort_walk(&mut self) {}
    /// Whether a walk is running.
    pub fn walk_in_progress(&self) -> bool {
        todo!()
    }
    /// Bytes of pre-images that writes have forced since the running walk began (0 without a walk).
    pub fn walk_preimage_bytes(&self) -> u64 {
        todo!()
    }
}
