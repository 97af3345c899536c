//! The snapshot walk (API skeleton).

use super::ValueRef;

/// A part of a snapshot: flat frames that another thread may encode.
#[derive(Debug, Default)]
pub struct Chunk {
    bytes: Vec<u8>,
}

/// One entry of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The database it was in when the walk began.
    pub db: usize,
    /// Its key.
    pub key: &'a [u8],
    /// Its value.
    pub value: ValueRef<'a>,
    /// When it expires, in milliseconds since the Unix epoch.
    pub deadline_ms: Option<i64>,
}

impl Chunk {
    /// The frames.
    pub fn iter(&self) -> impl Iterator<Item = Frame<'_>> {
        std::iter::empty()
    }
    /// Its size in bytes.
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }
}
