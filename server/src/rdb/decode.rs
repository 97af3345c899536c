//! Bytes to values.

/// What an image says next. Byte slices are lent until the decoder is called again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item<'a> {
    /// A field about the image: key, value.
    Aux(&'a [u8], &'a [u8]),
    /// The entries that follow belong to this database.
    SelectDb(u32),
    /// A hint: the numbers of keys, and of keys with a deadline, in the selected database.
    ResizeDb(u64, u64),
    /// One key.
    Entry {
        /// Its name.
        key: &'a [u8],
        /// What it holds.
        value: Value<'a>,
        /// When it expires, Unix milliseconds.
        deadline_ms: Option<i64>,
    },
    /// The image is complete and its checksum, if it has one, is right.
    Eof,
}

/// A value as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// A string.
    Str(&'a [u8]),
}

/// Why an image cannot be read. Offsets count from its first byte.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RdbError {
    /// It does not begin with the magic and a version.
    #[error("Wrong signature trying to load DB from file")]
    Signature,
}

/// Reads one image from pieces of any size.
#[derive(Default)]
pub struct Decoder {}

impl Decoder {
    /// A decoder at the first byte of an image.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next piece of the image.
    pub fn feed(&mut self, bytes: &[u8]) {
        let _ = bytes;
        todo!()
    }

    /// The next item, or `None` if it has not arrived completely (or [`Item::Eof`] has been returned).
    pub fn next_item(&mut self) -> Result<Option<Item<'_>>, RdbError> {
        todo!()
    }

    /// To be asked when no more bytes will come: an error unless [`Item::Eof`] has been returned.
    pub fn finish(&self) -> Result<(), RdbError> {
        todo!()
    }

    /// What has been fed and not been read: after [`Item::Eof`], the bytes that follow the image.
    pub fn unread(&self) -> &[u8] {
        todo!()
    }
}
