//! Bytes to values.

use crc_fast::{CrcAlgorithm, Digest};

use super::body::{Body, Parts, Rooms};
use super::cursor::{Cursor, KEPT_BYTES_MAX, Stop, Text};
use super::{MAGIC, RdbError, VALKEY_MAGIC, VERSION_READ_MAX, VERSION_VALKEY, module, opcode};
use crate::keyspace::Use;
use crate::value::{self, SmallForms};

/// What an image says next. Byte slices are lent until the decoder is called again.
#[derive(Debug, Clone, PartialEq)]
pub enum Item<'a> {
    /// A field about the image: key, value.
    Aux(&'a [u8], &'a [u8]),
    /// The entries that follow belong to this database.
    SelectDb(u32),
    /// A hint: the numbers of keys, and of keys with a deadline, in the selected database.
    ResizeDb(u64, u64),
    /// The source of a library of functions.
    Library(&'a [u8]),
    /// One key of the selected database (0 before the first [`Item::SelectDb`]).
    Entry {
        /// Its name.
        key: &'a [u8],
        /// What it holds.
        value: Value<'a>,
        /// When it expires, Unix milliseconds.
        deadline_ms: Option<i64>,
        /// When or how often it was used.
        last_use: Option<Use>,
    },
    /// The image is complete and its checksum, if it has one, is right.
    Eof,
}

/// A value as it was read.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// A string.
    Str(&'a [u8]),
    /// Any other, which is never empty.
    Aggregate(value::Value),
}

/// Reads one image from pieces of any size, as they arrive.
///
/// Memory is taken for what has arrived, never for what is announced; a long string is looked at when it begins and when
/// it is complete, however many pieces it comes in, and of a big value every element is read once.
///
/// ```
/// use repld::rdb::{Decoder, Item, Value};
/// use repld::value::SmallForms;
///
/// let mut decoder = Decoder::new(SmallForms::default());
/// decoder.feed(b"REDIS0009\x00\x03foo\x03b");
/// assert_eq!(decoder.next_item(), Ok(None));
/// decoder.feed(b"ar\xff\0\0\0\0\0\0\0\0");
/// let entry = Item::Entry { key: b"foo", value: Value::Str(b"bar"), deadline_ms: None, last_use: None };
/// assert_eq!(decoder.next_item(), Ok(Some(entry)));
/// assert_eq!(decoder.next_item(), Ok(Some(Item::Eof)));
/// assert_eq!(decoder.finish(), Ok(()));
/// ```
pub struct Decoder {
    forms: SmallForms,
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
    /// What was said of the use of the key that it waits for.
    last_use: Option<Use>,
    /// A value that has begun, and its key.
    begun: Option<(Vec<u8>, Parts)>,
    /// What was wrong with a part of it, which cannot be read twice.
    failed: Option<RdbError>,
    rooms: Rooms,
}

#[derive(Clone, Copy)]
enum Progress {
    Preamble,
    Body { version: u32 },
    Done,
}

/// Bytes of a magic and a version, whoever's they are.
const PREAMBLE_BYTES: usize = 9;

/// From this version on, a checksum follows EOF.
const CHECKSUM_VERSION_MIN: u32 = 5;

/// Enough of a key to find it by.
const KEY_IN_ERROR_BYTES_MAX: usize = 128;

impl Decoder {
    /// A decoder at the first byte of an image, whose small values take these forms.
    pub fn new(forms: SmallForms) -> Self {
        Self {
            forms,
            fed: Vec::new(),
            read: 0,
            summed: 0,
            offset: 0,
            unread_min: 0,
            crc: Digest::new(CrcAlgorithm::Crc64Redis),
            progress: Progress::Preamble,
            deadline_ms: None,
            last_use: None,
            begun: None,
            failed: None,
            rooms: Rooms::default(),
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
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let (found, read) = loop {
            let unread = &self.fed[self.read..];
            if unread.len() < self.unread_min {
                return Ok(None);
            }
            let mut cursor = Cursor { bytes: unread, at: 0, offset: self.offset + self.read as u64 };
            let step = match (&mut self.begun, self.progress) {
                (Some((_, parts)), _) => parts.advance(&mut cursor, &mut self.rooms).map(|()| Step::Complete),
                (None, Progress::Preamble) => cursor.preamble(),
                (None, Progress::Body { version }) => cursor.step(version, self.forms),
                (None, Progress::Done) => return Ok(None),
            };
            let read = self.read + cursor.at;
            match step {
                Ok(Step::Found(found)) => break (found, read),
                Ok(Step::Begun(key, parts)) => {
                    self.begun = Some((key.plain(&mut self.rooms.key)?.to_vec(), parts));
                }
                Ok(Step::Complete) => {
                    let (key, parts) = self.begun.take().expect("its last part was read");
                    self.rooms.key = key;
                    match parts.finish() {
                        Some(value) => break (Found::Aggregate(value), read),
                        // Nothing holds nothing, neither here nor anywhere else.
                        None => (self.deadline_ms, self.last_use) = (None, None),
                    }
                }
                Ok(Step::Version(version)) => self.progress = Progress::Body { version },
                Ok(Step::Deadline(deadline_ms)) => self.deadline_ms = Some(deadline_ms),
                Ok(Step::LastUse(last_use)) => self.last_use = Some(last_use),
                Ok(Step::Skipped) => {}
                Err(Stop::Needs(bytes)) => {
                    // Of a value that has begun, parts may have been read before.
                    let parts_read = if self.begun.is_some() { cursor.at } else { 0 };
                    (self.read, self.unread_min) = (self.read + parts_read, bytes);
                    return Ok(None);
                }
                Err(Stop::Error(error)) => {
                    self.failed = Some(error.clone());
                    return Err(error);
                }
            }
            (self.read, self.unread_min) = (read, 0);
        };
        let item = match found {
            Found::SelectDb(db) => Item::SelectDb(db),
            Found::ResizeDb(keys, deadlines) => Item::ResizeDb(keys, deadlines),
            Found::Aux(key, value) => Item::Aux(key.plain(&mut self.rooms.key)?, value.plain(&mut self.rooms.value)?),
            Found::Library(code) => Item::Library(code.plain(&mut self.rooms.value)?),
            Found::OldLibrary { name, engine, code } => {
                let name = name.plain(&mut self.rooms.key)?.to_vec();
                let engine = engine.plain(&mut self.rooms.key)?.to_vec();
                let code = code.plain(&mut self.rooms.key)?;
                // By now the first line of the source says the rest.
                self.rooms.value = [b"#!", &engine[..], b" name=", &name, b"\n", code].concat();
                Item::Library(&self.rooms.value)
            }
            Found::Str(key, value) => Item::Entry {
                key: key.plain(&mut self.rooms.key)?,
                value: Value::Str(value.plain(&mut self.rooms.value)?),
                deadline_ms: self.deadline_ms.take(),
                last_use: self.last_use.take(),
            },
            Found::Aggregate(value) => Item::Entry {
                key: &self.rooms.key,
                value: Value::Aggregate(value),
                deadline_ms: self.deadline_ms.take(),
                last_use: self.last_use.take(),
            },
            Found::Unsupported { type_name, key, offset } => {
                return Err(unsupported(type_name, key.plain(&mut self.rooms.key)?, offset));
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
    /// What is said of the use of the key that follows.
    LastUse(Use),
    /// A value whose parts are to be read next.
    Begun(Text<'a>, Parts),
    /// All parts of the value that has begun are read.
    Complete,
    Found(Found<'a>),
}

/// What becomes an [`Item`], or an error about a whole entry.
enum Found<'a> {
    SelectDb(u32),
    ResizeDb(u64, u64),
    Aux(Text<'a>, Text<'a>),
    Library(Text<'a>),
    OldLibrary {
        name: Text<'a>,
        engine: Text<'a>,
        code: Text<'a>,
    },
    Str(Text<'a>, Text<'a>),
    Aggregate(value::Value),
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

/// One step of reading an image.
impl<'a> Cursor<'a> {
    fn preamble(&mut self) -> Result<Step<'a>, Stop> {
        let preamble = self.array::<PREAMBLE_BYTES>()?;
        let redis = preamble.strip_prefix(MAGIC);
        let digits = redis.or(preamble.strip_prefix(VALKEY_MAGIC)).ok_or(RdbError::Signature)?;
        if !digits.iter().all(u8::is_ascii_digit) {
            return Err(RdbError::Signature.into());
        }
        let version = digits.iter().fold(0, |version, digit| version * 10 + u32::from(digit - b'0'));
        let is_known =
            if redis.is_some() { (1..=VERSION_READ_MAX).contains(&version) } else { version == VERSION_VALKEY };
        if is_known { Ok(Step::Version(version)) } else { Err(RdbError::Version(version).into()) }
    }

    #[inline]
    fn step(&mut self, version: u32, forms: SmallForms) -> Result<Step<'a>, Stop> {
        let offset = self.place();
        let found = match self.byte()? {
            opcode::EXPIRETIME_MS => return Ok(Step::Deadline(i64::from_le_bytes(self.array()?))),
            opcode::EXPIRETIME => return Ok(Step::Deadline(i64::from(i32::from_le_bytes(self.array()?)) * 1000)),
            opcode::SELECTDB => Found::SelectDb(self.database()?),
            opcode::RESIZEDB => Found::ResizeDb(self.length()?, self.length()?),
            opcode::AUX => Found::Aux(self.text()?, self.text()?),
            opcode::IDLE => return self.length().map(|seconds| Step::LastUse(Use::IdleSeconds(seconds))),
            opcode::FREQ => return self.byte().map(|frequency| Step::LastUse(Use::Frequency(frequency))),
            opcode::FUNCTION2 => Found::Library(self.text()?),
            opcode::FUNCTION_PRE_GA => self.old_library()?,
            opcode::SLOT_INFO => return self.slot_info(),
            opcode::MODULE_AUX => return self.module_aux(),
            opcode::EOF if version < CHECKSUM_VERSION_MIN => Found::Eof { stored: 0 },
            opcode::EOF => Found::Eof { stored: u64::from_le_bytes(self.array()?) },
            kind => return self.entry(kind, offset, version, forms),
        };
        Ok(Step::Found(found))
    }

    #[inline]
    fn entry(&mut self, kind: u8, offset: u64, version: u32, forms: SmallForms) -> Result<Step<'a>, Stop> {
        if !Body::exists(kind) {
            return Err(RdbError::UnknownType { byte: kind, offset }.into());
        }
        let key = self.text()?;
        Ok(match Body::read(kind, version, self, forms)? {
            Body::Str(value) => Step::Found(Found::Str(key, value)),
            Body::Aggregate(parts) => Step::Begun(key, parts),
            Body::Unsupported(type_name) => Step::Found(Found::Unsupported { type_name, key, offset }),
        })
    }

    /// Passes over what a module has stored beside the keys: nobody here knows what to do with it.
    fn module_aux(&mut self) -> Result<Step<'a>, Stop> {
        let _module = self.length()?;
        loop {
            let offset = self.place();
            match self.length()? {
                module::END => return Ok(Step::Skipped),
                module::SIGNED | module::UNSIGNED => _ = self.length()?,
                module::FLOAT => _ = self.take(4)?,
                module::DOUBLE => _ = self.take(8)?,
                module::STRING => _ = self.text()?,
                kind => return Err(RdbError::ModuleData { kind, offset }.into()),
            }
        }
    }

    fn old_library(&mut self) -> Result<Found<'a>, Stop> {
        let (name, engine) = (self.text()?, self.text()?);
        if self.length()? != 0 {
            let _description = self.text()?;
        }
        Ok(Found::OldLibrary { name, engine, code: self.text()? })
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_follows_what_arrives_and_not_what_is_announced() {
        let mut decoder = Decoder::new(SmallForms::default());
        decoder.feed(b"REDIS0009\x00\x01k\x80\x1F\xFF\xFF\xFF");
        assert_eq!(decoder.next_item(), Ok(None));
        decoder.feed(&[0; 100]);
        assert_eq!(decoder.next_item(), Ok(None));
        assert!(decoder.fed.capacity() < 1000);
    }

    #[test]
    fn a_long_string_is_not_looked_at_again_before_it_is_complete() {
        let mut decoder = Decoder::new(SmallForms::default());
        decoder.feed(b"REDIS0009\x00\x01k\x80\x00\x10\x00\x00");
        assert_eq!(decoder.next_item(), Ok(None));
        assert_eq!(decoder.unread_min, 3 + 5 + (1 << 20));
    }

    #[test]
    fn the_memory_of_a_long_string_is_given_back() {
        let mut decoder = Decoder::new(SmallForms::default());
        decoder.feed(b"REDIS0009\x00\x01k\x80\x00\x40\x00\x00");
        decoder.feed(&vec![b'v'; 4 << 20]);
        assert!(matches!(decoder.next_item(), Ok(Some(Item::Entry { .. }))));
        decoder.feed(b"\x00");
        assert!(decoder.fed.capacity() <= KEPT_BYTES_MAX);
    }
}
