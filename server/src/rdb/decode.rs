//! Bytes to values.

use crc_fast::{CrcAlgorithm, Digest};

use super::{MAGIC, STRING_BYTES_MAX, VERSION_READ_MAX, kind, lzf, opcode, string};

/// What an image says next. Byte slices are lent until the decoder is called again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item<'a> {
    /// A field about the image: key, value.
    Aux(&'a [u8], &'a [u8]),
    /// The entries that follow belong to this database.
    SelectDb(u32),
    /// A hint: the numbers of keys, and of keys with a deadline, in the selected database.
    ResizeDb(u64, u64),
    /// One key of the selected database (0 before the first [`Item::SelectDb`]).
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

/// Why an image cannot be read. Offsets are those of the offending byte, counted from the first one of the image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RdbError {
    /// It does not begin with the magic and four digits.
    #[error("Wrong signature trying to load DB from file")]
    Signature,
    /// Its format is newer than any we know, or not a version at all.
    #[error("Can't handle RDB format version {0}")]
    Version(u32),
    /// It ends before its end.
    #[error("Short read or OOM loading DB. Unrecoverable error, aborting now. (at offset {offset})")]
    Truncated {
        /// Where the bytes ended.
        offset: u64,
    },
    /// Its bytes are not those that were written.
    #[error("Wrong RDB checksum expected: ({stored:x}) but got ({computed:x}). Aborting now.")]
    Checksum {
        /// The checksum at its end.
        stored: u64,
        /// That of the bytes before it.
        computed: u64,
    },
    /// It holds a type of value that this server does not have.
    #[error("cannot load key '{}' at offset {offset}: values of type {type_name} are not supported", key.escape_ascii())]
    UnsupportedType {
        /// The type and its encoding, as Redis names them.
        type_name: &'static str,
        /// The first bytes of the key.
        key: Vec<u8>,
        /// Where its type byte is.
        offset: u64,
    },
    /// It holds data of a module.
    #[error("cannot load module data at offset {offset}: modules are not supported")]
    ModuleData {
        /// Where its opcode is.
        offset: u64,
    },
    /// A byte is neither an opcode nor a type of value.
    #[error("unknown opcode or value type {byte} at offset {offset}")]
    UnknownType {
        /// The byte.
        byte: u8,
        /// Where it is.
        offset: u64,
    },
    /// A byte does not begin a length or a string.
    #[error("unknown length encoding {byte:#04x} at offset {offset}")]
    LengthEncoding {
        /// The byte.
        byte: u8,
        /// Where it is.
        offset: u64,
    },
    /// A string is declared longer than [`STRING_BYTES_MAX`], or longer than its compressed bytes can be.
    #[error("impossible string length {bytes} at offset {offset}")]
    StringLength {
        /// The declared length.
        bytes: u64,
        /// Where it is declared.
        offset: u64,
    },
    /// A compressed string is no LZF stream of the declared length.
    #[error("invalid LZF compressed string at offset {offset}")]
    Lzf {
        /// Where the stream begins.
        offset: u64,
    },
    /// The number of a database does not fit 32 bits.
    #[error("impossible database number {db} at offset {offset}")]
    Database {
        /// The number.
        db: u64,
        /// Where it is.
        offset: u64,
    },
}

/// Reads one image from pieces of any size, as they arrive.
///
/// Memory is taken for what has arrived, never for what is announced; a long string is looked at when it begins and when
/// it is complete, however many pieces it comes in.
///
/// ```
/// use repld::rdb::{Decoder, Item, Value};
///
/// let mut decoder = Decoder::new();
/// decoder.feed(b"REDIS0009\x00\x03foo\x03b");
/// assert_eq!(decoder.next_item(), Ok(None));
/// decoder.feed(b"ar\xff\0\0\0\0\0\0\0\0");
/// let entry = Item::Entry { key: b"foo", value: Value::Str(b"bar"), deadline_ms: None };
/// assert_eq!(decoder.next_item(), Ok(Some(entry)));
/// assert_eq!(decoder.next_item(), Ok(Some(Item::Eof)));
/// assert_eq!(decoder.finish(), Ok(()));
/// ```
pub struct Decoder {
    /// Fed and not yet dropped.
    fed: Vec<u8>,
    /// `fed` is read up to here.
    read: usize,
    /// `fed` is in `crc` up to here; never past `read`.
    summed: usize,
    /// Place of `fed[0]` in the image.
    offset: u64,
    /// As long as fewer unread bytes are here, reading on is pointless.
    unread_min: usize,
    crc: Digest,
    progress: Progress,
    /// An EXPIRETIME that waits for its entry.
    deadline_ms: Option<i64>,
    /// Room for a key and a value that do not lie in `fed` as they are.
    key: Vec<u8>,
    value: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Progress {
    Preamble,
    Body { version: u32 },
    Done,
}

/// Buffers that have grown beyond this for one long string are given back, bytes.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// From this version on, a checksum follows EOF.
const CHECKSUM_VERSION_MIN: u32 = 5;

/// Enough of a key to find it by.
const KEY_IN_ERROR_BYTES_MAX: usize = 128;

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder at the first byte of an image.
    pub fn new() -> Self {
        Self {
            fed: Vec::new(),
            read: 0,
            summed: 0,
            offset: 0,
            unread_min: 0,
            crc: Digest::new(CrcAlgorithm::Crc64Redis),
            progress: Progress::Preamble,
            deadline_ms: None,
            key: Vec::new(),
            value: Vec::new(),
        }
    }

    /// Takes the next piece of the image.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.drop_read();
        self.fed.extend_from_slice(bytes);
    }

    /// The next item, or `None` if it has not arrived completely, or if [`Item::Eof`] was the last.
    ///
    /// # Errors
    /// The image is damaged or holds what this server has no place for; every further call says the same.
    pub fn next_item(&mut self) -> Result<Option<Item<'_>>, RdbError> {
        let (found, read) = loop {
            let unread = &self.fed[self.read..];
            if unread.len() < self.unread_min {
                return Ok(None);
            }
            let mut cursor = Cursor { bytes: unread, at: 0, offset: self.offset + self.read as u64 };
            let step = match self.progress {
                Progress::Preamble => cursor.preamble(),
                Progress::Body { version } => cursor.step(version),
                Progress::Done => return Ok(None),
            };
            let read = self.read + cursor.at;
            match step {
                Ok(Step::Found(found)) => break (found, read),
                Ok(Step::Version(version)) => self.progress = Progress::Body { version },
                Ok(Step::Deadline(deadline_ms)) => self.deadline_ms = Some(deadline_ms),
                Ok(Step::Skipped) => {}
                Err(Stop::Needs(bytes)) => {
                    self.unread_min = bytes;
                    return Ok(None);
                }
                Err(Stop::Error(error)) => return Err(error),
            }
            (self.read, self.unread_min) = (read, 0);
        };
        let item = match found {
            Found::SelectDb(db) => Item::SelectDb(db),
            Found::ResizeDb(keys, deadlines) => Item::ResizeDb(keys, deadlines),
            Found::Aux(key, value) => Item::Aux(key.plain(&mut self.key)?, value.plain(&mut self.value)?),
            Found::Str(key, value) => Item::Entry {
                key: key.plain(&mut self.key)?,
                value: Value::Str(value.plain(&mut self.value)?),
                deadline_ms: self.deadline_ms.take(),
            },
            Found::Unsupported { type_name, key, offset } => {
                return Err(unsupported(type_name, key.plain(&mut self.key)?, offset));
            }
            Found::Eof { stored } => {
                // The checksum is over everything up to and including the EOF opcode, which is the next byte to be read.
                let mut crc = self.crc;
                crc.update(&self.fed[self.summed..=self.read]);
                verify(stored, crc.finalize())?;
                self.progress = Progress::Done;
                Item::Eof
            }
        };
        (self.read, self.unread_min) = (read, 0);
        Ok(Some(item))
    }

    /// To be asked when no more bytes will come.
    ///
    /// # Errors
    /// [`RdbError::Truncated`] unless [`Item::Eof`] has been returned.
    pub fn finish(&self) -> Result<(), RdbError> {
        match self.progress {
            Progress::Done => Ok(()),
            _ => Err(RdbError::Truncated { offset: self.offset + self.fed.len() as u64 }),
        }
    }

    /// What has been fed and not been read: after [`Item::Eof`], the bytes that follow the image.
    pub fn unread(&self) -> &[u8] {
        &self.fed[self.read..]
    }

    /// Makes room by dropping what is read, after summing it in one go.
    fn drop_read(&mut self) {
        if self.summed < self.read {
            self.crc.update(&self.fed[self.summed..self.read]);
        }
        self.offset += self.read as u64;
        self.fed.drain(..self.read);
        (self.read, self.summed) = (0, 0);
        if self.fed.capacity() > KEPT_BYTES_MAX && self.fed.len() < KEPT_BYTES_MAX / 4 {
            self.fed.shrink_to(KEPT_BYTES_MAX / 4);
        }
    }
}

/// What one step of reading led to.
enum Step<'a> {
    /// Something of no interest to us.
    Skipped,
    Version(u32),
    Deadline(i64),
    Found(Found<'a>),
}

/// What becomes an [`Item`], or an error about a whole entry.
enum Found<'a> {
    SelectDb(u32),
    ResizeDb(u64, u64),
    Aux(Text<'a>, Text<'a>),
    Str(Text<'a>, Text<'a>),
    Unsupported {
        type_name: &'static str,
        key: Text<'a>,
        offset: u64,
    },
    /// The checksum that follows, zero if there is none.
    Eof {
        stored: u64,
    },
}

fn verify(stored: u64, computed: u64) -> Result<(), RdbError> {
    if stored == 0 || stored == computed { Ok(()) } else { Err(RdbError::Checksum { stored, computed }) }
}

fn unsupported(type_name: &'static str, key: &[u8], offset: u64) -> RdbError {
    let key = key[..key.len().min(KEY_IN_ERROR_BYTES_MAX)].to_vec();
    RdbError::UnsupportedType { type_name, key, offset }
}

/// A string as it lies in the image.
enum Text<'a> {
    Plain(&'a [u8]),
    Integer(i32),
    /// `offset` is that of `stream`.
    Lzf {
        stream: &'a [u8],
        length: usize,
        offset: u64,
    },
}

impl<'a> Text<'a> {
    /// The string itself, written into `room` unless it lies there in plain.
    #[inline]
    fn plain(self, room: &'a mut Vec<u8>) -> Result<&'a [u8], RdbError> {
        match self {
            Text::Plain(bytes) => Ok(bytes),
            Text::Integer(integer) => {
                room.clear();
                room.extend_from_slice(itoa::Buffer::new().format(integer).as_bytes());
                Ok(room)
            }
            Text::Lzf { stream, length, offset } => {
                if room.capacity() > KEPT_BYTES_MAX {
                    *room = Vec::new();
                }
                room.clear();
                lzf::decompress(stream, length, room).ok_or(RdbError::Lzf { offset })?;
                Ok(room)
            }
        }
    }
}

/// Why a step of reading ended early.
enum Stop {
    /// This many bytes, counted from where the step began, would bring it further.
    Needs(usize),
    Error(RdbError),
}

impl From<RdbError> for Stop {
    fn from(error: RdbError) -> Self {
        Stop::Error(error)
    }
}

/// One step of reading.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Place of `bytes[0]` in the image.
    offset: u64,
}

impl<'a> Cursor<'a> {
    fn place(&self) -> u64 {
        self.offset + self.at as u64
    }

    #[inline]
    fn take(&mut self, count: usize) -> Result<&'a [u8], Stop> {
        let end = self.at + count;
        let taken = self.bytes.get(self.at..end).ok_or(Stop::Needs(end))?;
        self.at = end;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        Ok(self.take(N)?.try_into().expect("N bytes were taken"))
    }

    #[inline]
    fn byte(&mut self) -> Result<u8, Stop> {
        Ok(self.array::<1>()?[0])
    }

    fn preamble(&mut self) -> Result<Step<'a>, Stop> {
        if self.take(MAGIC.len())? != MAGIC {
            return Err(RdbError::Signature.into());
        }
        let digits = self.array::<4>()?;
        if !digits.iter().all(u8::is_ascii_digit) {
            return Err(RdbError::Signature.into());
        }
        match digits.iter().fold(0, |version, digit| version * 10 + u32::from(digit - b'0')) {
            version @ 1..=VERSION_READ_MAX => Ok(Step::Version(version)),
            version => Err(RdbError::Version(version).into()),
        }
    }

    #[inline]
    fn step(&mut self, version: u32) -> Result<Step<'a>, Stop> {
        let offset = self.place();
        let found = match self.byte()? {
            kind::STRING => Found::Str(self.text()?, self.text()?),
            opcode::EXPIRETIME_MS => return Ok(Step::Deadline(i64::from_le_bytes(self.array()?))),
            opcode::EXPIRETIME => return Ok(Step::Deadline(i64::from(i32::from_le_bytes(self.array()?)) * 1000)),
            opcode::SELECTDB => Found::SelectDb(self.database()?),
            opcode::RESIZEDB => Found::ResizeDb(self.length()?, self.length()?),
            opcode::AUX => Found::Aux(self.text()?, self.text()?),
            opcode::IDLE => return self.length().map(|_seconds| Step::Skipped),
            opcode::FREQ => return self.byte().map(|_frequency| Step::Skipped),
            opcode::FUNCTION2 => return self.text().map(|_library| Step::Skipped),
            opcode::SLOT_INFO => return self.slot_info(),
            opcode::MODULE_AUX => return Err(RdbError::ModuleData { offset }.into()),
            opcode::EOF if version < CHECKSUM_VERSION_MIN => Found::Eof { stored: 0 },
            opcode::EOF => Found::Eof { stored: u64::from_le_bytes(self.array()?) },
            byte => match type_name(byte) {
                Some(type_name) => Found::Unsupported { type_name, key: self.text()?, offset },
                None => return Err(RdbError::UnknownType { byte, offset }.into()),
            },
        };
        Ok(Step::Found(found))
    }

    fn slot_info(&mut self) -> Result<Step<'a>, Stop> {
        let _slot_keys_deadlines = (self.length()?, self.length()?, self.length()?);
        Ok(Step::Skipped)
    }

    fn database(&mut self) -> Result<u32, Stop> {
        let offset = self.place();
        let db = self.length()?;
        u32::try_from(db).map_err(|_| RdbError::Database { db, offset }.into())
    }

    #[inline]
    fn length(&mut self) -> Result<u64, Stop> {
        let offset = self.place();
        match self.byte()? {
            short @ 0..0x40 => Ok(short.into()),
            high @ 0x40..0x80 => Ok(u64::from(high & 0x3F) << 8 | u64::from(self.byte()?)),
            0x80 => Ok(u32::from_be_bytes(self.array()?).into()),
            0x81 => Ok(u64::from_be_bytes(self.array()?)),
            byte => Err(RdbError::LengthEncoding { byte, offset }.into()),
        }
    }

    /// A length that is allowed for a string.
    #[inline]
    fn string_length(&mut self) -> Result<usize, Stop> {
        let offset = self.place();
        match self.length()? {
            bytes @ 0..=STRING_BYTES_MAX => Ok(bytes as usize),
            bytes => Err(RdbError::StringLength { bytes, offset }.into()),
        }
    }

    #[inline]
    fn text(&mut self) -> Result<Text<'a>, Stop> {
        match self.bytes.get(self.at) {
            Some(&first) if first >= string::INT8 => self.encoded_text(),
            _ => {
                let length = self.string_length()?;
                self.take(length).map(Text::Plain)
            }
        }
    }

    fn encoded_text(&mut self) -> Result<Text<'a>, Stop> {
        let offset = self.place();
        match self.byte()? {
            string::INT8 => Ok(Text::Integer(i8::from_le_bytes(self.array()?).into())),
            string::INT16 => Ok(Text::Integer(i16::from_le_bytes(self.array()?).into())),
            string::INT32 => Ok(Text::Integer(i32::from_le_bytes(self.array()?))),
            string::LZF => self.compressed_text(),
            byte => Err(RdbError::LengthEncoding { byte, offset }.into()),
        }
    }

    fn compressed_text(&mut self) -> Result<Text<'a>, Stop> {
        let stream_length = self.string_length()?;
        let offset = self.place();
        let length = self.string_length()?;
        if length as u64 > stream_length as u64 * lzf::EXPANSION_MAX {
            return Err(RdbError::StringLength { bytes: length as u64, offset }.into());
        }
        let offset = self.place();
        let stream = self.take(stream_length)?;
        Ok(Text::Lzf { stream, length, offset })
    }
}

/// The name of a type of value that exists elsewhere.
fn type_name(byte: u8) -> Option<&'static str> {
    Some(match byte {
        1 => "list",
        2 => "set",
        3 | 5 => "sorted set",
        4 => "hash",
        6 | 7 => "module",
        9 => "hash (zipmap)",
        10 => "list (ziplist)",
        11 => "set (intset)",
        12 => "sorted set (ziplist)",
        13 => "hash (ziplist)",
        14 => "list (quicklist of ziplists)",
        15 | 19 | 21 => "stream",
        16 => "hash (listpack)",
        17 => "sorted set (listpack)",
        18 => "list (quicklist)",
        20 => "set (listpack)",
        22..=25 => "hash with field deadlines",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_follows_what_arrives_and_not_what_is_announced() {
        let mut decoder = Decoder::new();
        decoder.feed(b"REDIS0009\x00\x01k\x80\x1F\xFF\xFF\xFF");
        assert_eq!(decoder.next_item(), Ok(None));
        decoder.feed(&[0; 100]);
        assert_eq!(decoder.next_item(), Ok(None));
        assert!(decoder.fed.capacity() < 1000);
    }

    #[test]
    fn a_long_string_is_not_looked_at_again_before_it_is_complete() {
        let mut decoder = Decoder::new();
        decoder.feed(b"REDIS0009\x00\x01k\x80\x00\x10\x00\x00");
        assert_eq!(decoder.next_item(), Ok(None));
        assert_eq!(decoder.unread_min, 3 + 5 + (1 << 20));
    }

    #[test]
    fn the_memory_of_a_long_string_is_given_back() {
        let mut decoder = Decoder::new();
        decoder.feed(b"REDIS0009\x00\x01k\x80\x00\x40\x00\x00");
        decoder.feed(&vec![b'v'; 4 << 20]);
        assert!(matches!(decoder.next_item(), Ok(Some(Item::Entry { .. }))));
        decoder.feed(b"\x00");
        assert!(decoder.fed.capacity() <= KEPT_BYTES_MAX);
    }
}
