//! Hashes: fields with values.

use super::map::Map;

/// Fields with values.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hash {
    fields: Map<Box<[u8]>>,
    value_bytes: usize,
    is_big: bool,
}

/// From here on Redis keeps a hash in a table.
const SMALL_LEN_MAX: usize = 512;
const SMALL_STRING_BYTES_MAX: usize = 64;

impl Hash {
    /// An empty hash.
    pub fn new() -> Hash {
        Hash::default()
    }

    /// How many fields it has.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether it has no field.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// What it takes on the heap, in bytes.
    pub fn heap_bytes(&self) -> usize {
        self.fields.heap_bytes() + self.value_bytes
    }

    /// What a clone takes on the heap that the original does not share, in bytes.
    pub fn clone_bytes(&self) -> usize {
        self.fields.clone_bytes()
    }

    /// The encoding that Redis would have chosen, as OBJECT ENCODING names it.
    pub fn encoding(&self) -> &'static str {
        if self.is_big { "hashtable" } else { "listpack" }
    }

    /// Fields and values, in no order that matters.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|(field, value)| (field, &**value))
    }

    /// The value of a field.
    pub fn get(&self, field: &[u8]) -> Option<&[u8]> {
        self.fields.get(field).map(|value| &**value)
    }

    /// Sets a field; true if it is new.
    pub fn insert(&mut self, field: &[u8], value: &[u8]) -> bool {
        let old = self.fields.insert(field, value.into());
        self.value_bytes += value.len();
        self.value_bytes -= old.as_ref().map_or(0, |old| old.len());
        self.is_big |= self.len() > SMALL_LEN_MAX || field.len().max(value.len()) > SMALL_STRING_BYTES_MAX;
        old.is_none()
    }

    /// Removes a field; false if it was not there.
    pub fn remove(&mut self, field: &[u8]) -> bool {
        let old = self.fields.remove(field);
        self.value_bytes -= old.as_ref().map_or(0, |old| old.len());
        old.is_some()
    }
}
