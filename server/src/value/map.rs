//! The hash table of hashes, sets and sorted sets: from strings to values.

use std::collections::HashMap;
use std::sync::Arc;

/// A table from strings to values.
#[derive(Clone, Debug, PartialEq)]
pub struct Map<V: Clone> {
    entries: Arc<HashMap<Box<[u8]>, V>>,
    bytes: usize,
}

impl<V: Clone> Default for Map<V> {
    fn default() -> Self {
        Map { entries: Arc::default(), bytes: 0 }
    }
}

impl<V: Clone> Map<V> {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it has no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What it takes on the heap, in bytes, without what the values take there.
    pub fn heap_bytes(&self) -> usize {
        self.bytes
    }

    /// What a clone takes on the heap that the original does not share, in bytes.
    pub fn clone_bytes(&self) -> usize {
        0
    }

    /// The entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &V)> {
        self.entries.iter().map(|(key, value)| (&**key, value))
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Option<&V> {
        self.entries.get(key)
    }

    /// Sets the value of a key; returns the one it had.
    pub fn insert(&mut self, key: &[u8], value: V) -> Option<V> {
        let old = Arc::make_mut(&mut self.entries).insert(key.into(), value);
        if old.is_none() {
            self.bytes += key.len() + size_of::<(Box<[u8]>, V)>();
        }
        old
    }

    /// Removes a key; returns the value it had.
    pub fn remove(&mut self, key: &[u8]) -> Option<V> {
        let old = Arc::make_mut(&mut self.entries).remove(key)?;
        self.bytes -= key.len() + size_of::<(Box<[u8]>, V)>();
        Some(old)
    }
}
