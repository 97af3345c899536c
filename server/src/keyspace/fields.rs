//! Which hashes have fields with deadlines, in the order in which the next of these comes.

use std::collections::{BTreeSet, HashMap};

/// Keys by the earliest deadline of their fields. Of keys that are gone some may be left, until that time has come.
#[derive(Default)]
pub(super) struct FieldDeadlines {
    by_key: HashMap<Box<[u8]>, i64>,
    by_deadline: BTreeSet<(i64, Box<[u8]>)>,
}

impl FieldDeadlines {
    /// Whether there is no such key.
    pub(super) fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// About what they take, in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        /// A key of some length, twice, and what surrounds it.
        const BYTES_EACH: usize = 160;
        self.by_key.len() * BYTES_EACH
    }

    /// Notes when the first field of this key expires, or that none does.
    pub(super) fn note(&mut self, key: &[u8], deadline_ms: Option<i64>) {
        if self.by_key.get(key).copied() == deadline_ms {
            return;
        }
        if let Some((key, old_ms)) = self.by_key.remove_entry(key) {
            self.by_deadline.remove(&(old_ms, key));
        }
        if let Some(deadline_ms) = deadline_ms {
            self.by_key.insert(key.into(), deadline_ms);
            self.by_deadline.insert((deadline_ms, key.into()));
        }
    }

    /// The key whose deadline comes first, and that.
    pub(super) fn first(&self) -> Option<(i64, &[u8])> {
        self.by_deadline.first().map(|(deadline_ms, key)| (*deadline_ms, &**key))
    }

    /// All keys.
    pub(super) fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.by_key.keys().map(|key| &**key)
    }
}
