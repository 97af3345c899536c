//! Values to bytes.

use std::io;

use crc_fast::{CrcAlgorithm, Digest};

use super::{Contents, Format, Reader, kind, lzf::Compressor, opcode, stream, string};
use crate::keyspace::{AccessClock, Use};
use crate::value::stream::{Group, Id};
use crate::value::{Hash, Stream, ValueRef};

/// What an image says about itself before its first entry, in AUX fields.
#[derive(Debug, Clone, Default)]
pub struct Header<'a> {
    /// `redis-ver`: the version this server answers to.
    pub server_version: &'a str,
    /// `ctime`: when the image was begun, Unix seconds.
    pub created_unix_s: u64,
    /// `used-mem`: memory in use when it was begun, bytes.
    pub used_memory_bytes: u64,
    /// `repl-stream-db`, `repl-id`, `repl-offset`: the point of the replication stream that the image stands for.
    pub replication: Option<ReplicationPoint<'a>>,
    /// `aof-base`: whether the image is the base file of an append-only log.
    pub aof_base: bool,
    /// Fields of our own, which other readers skip.
    pub extra: &'a [(&'a str, &'a [u8])],
}

/// A point of a replication stream: what a server needs to go on from it by partial resync.
#[derive(Debug, Clone, Copy)]
pub struct ReplicationPoint<'a> {
    /// The database that the stream has selected at this point.
    pub stream_db: u32,
    /// The replication id, 40 hexadecimal digits.
    pub replid: &'a str,
    /// Bytes of the stream that the image contains the effect of.
    pub offset: u64,
}

/// How an image is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Compress strings of more than 20 bytes where that makes them smaller (`rdbcompression`).
    pub compress: bool,
    /// End with a checksum instead of zeros (`rdbchecksum`).
    pub checksum: bool,
    /// What the image may contain. What it has no place for is left out.
    pub format: Format,
}

/// Encoded bytes are handed on when there are this many.
pub const SLICE_BYTES: usize = 32 << 10;

/// Writes one image and hands it on slice by slice as it grows, in the middle of a big value too.
///
/// ```
/// use repld::rdb::{Encoder, Format, Header, Options};
/// use repld::value::ValueRef;
///
/// let mut image = Vec::new();
/// let options = Options { compress: true, checksum: true, format: Format::PLAIN };
/// let mut encoder = Encoder::new(&Header::default(), options);
/// encoder.resize_db(0, 1, 0);
/// encoder.entry(0, b"foo", ValueRef::Str(b"bar"), None, |slice| Ok(image.extend(slice)))?;
/// image.extend(encoder.finish());
/// assert!(image.starts_with(b"REDIS0009"));
/// # std::io::Result::Ok(())
/// ```
pub struct Encoder {
    /// Written and not yet handed on.
    pending: Vec<u8>,
    /// Over everything handed on so far; `None` when no checksum is asked for.
    crc: Option<Digest>,
    /// Present when strings are to be compressed.
    compressor: Option<Compressor>,
    selected: Option<u32>,
    format: Format,
    /// Makes something of the notes about the use of keys, if these are written.
    uses: Option<AccessClock>,
    /// What was said of the next key's.
    last_use: Option<Use>,
}

/// Strings up to this length are not worth compressing.
const PLAIN_BYTES_MAX: usize = 20;

/// No 32-bit integer has more digits, its sign included.
const INTEGER_DIGITS_MAX: usize = 11;

impl Encoder {
    /// Begins an image: magic, version, and the fields of `header`.
    pub fn new(header: &Header<'_>, options: Options) -> Self {
        let mut encoder = Self {
            pending: Vec::new(),
            crc: options.checksum.then(|| Digest::new(CrcAlgorithm::Crc64Redis)),
            compressor: options.compress.then(Compressor::new),
            selected: None,
            format: options.format,
            uses: None,
            last_use: None,
        };
        encoder.pending.extend_from_slice(options.format.preamble().as_bytes());
        encoder.header(header);
        encoder
    }

    /// An encoder of parts that have no image around them.
    fn alone(compress: bool) -> Self {
        let compressor = compress.then(Compressor::new);
        Self {
            pending: Vec::new(),
            crc: None,
            compressor,
            selected: None,
            format: Reader::OWN.format(Contents::ALL),
            uses: None,
            last_use: None,
        }
    }

    /// A library of functions with its opcode before it, and nothing around it.
    pub(super) fn function_alone(code: &[u8]) -> Vec<u8> {
        let mut encoder = Self::alone(true);
        encoder.function(code);
        encoder.pending
    }

    /// A value with its type before it, and nothing around it.
    pub(super) fn value_alone(value: ValueRef<'_>, compress: bool) -> Vec<u8> {
        let mut encoder = Self::alone(compress);
        encoder.pending.push(encoder.kind_of(value));
        let mut bytes = Vec::new();
        let gathered = encoder.value(value, &mut |slice| {
            bytes.extend(slice);
            Ok(())
        });
        gathered.expect("memory takes everything");
        bytes.extend(encoder.pending);
        bytes
    }

    fn header(&mut self, header: &Header<'_>) {
        self.aux("redis-ver", header.server_version.as_bytes());
        self.aux("redis-bits", if cfg!(target_pointer_width = "64") { b"64" } else { b"32" });
        self.aux_number("ctime", header.created_unix_s);
        self.aux_number("used-mem", header.used_memory_bytes);
        if let Some(point) = &header.replication {
            self.aux_number("repl-stream-db", point.stream_db.into());
            self.aux("repl-id", point.replid.as_bytes());
            self.aux_number("repl-offset", point.offset);
        }
        self.aux("aof-base", if header.aof_base { b"1" } else { b"0" });
        for (key, value) in header.extra {
            self.aux(key, value);
        }
    }

    fn aux_number(&mut self, key: &str, value: u64) {
        self.aux(key, itoa::Buffer::new().format(value).as_bytes());
    }

    fn aux(&mut self, key: &str, value: &[u8]) {
        self.pending.push(opcode::AUX);
        self.string(key.as_bytes());
        self.string(value);
    }

    /// Adds the source of a library of functions, if the format has a place for it.
    pub fn function(&mut self, code: &[u8]) {
        if self.format.has_functions() {
            self.pending.push(opcode::FUNCTION2);
            self.string(code);
        }
    }

    /// Tells readers how many keys `db` will have, and how many of them a deadline, so that they can size their tables.
    /// To be called before the first entry of `db`, if at all.
    pub fn resize_db(&mut self, db: u32, keys: u64, deadlines: u64) {
        self.select(db);
        self.pending.push(opcode::RESIZEDB);
        push_length(&mut self.pending, keys);
        push_length(&mut self.pending, deadlines);
    }

    /// Writes down what is known of the use of keys.
    pub fn keep_uses(&mut self, clock: Option<AccessClock>) {
        self.uses = clock;
    }

    /// What is noted of the use of the key that comes next.
    pub fn last_use(&mut self, access: u32) {
        self.last_use = self.uses.as_ref().map(|clock| clock.use_of(access));
    }

    /// Writes one key of database `db`. Entries of several databases may come in any order; each change costs two bytes.
    /// `deadline_ms` is in Unix milliseconds. Whenever [`SLICE_BYTES`] have gathered they go to `emit`.
    ///
    /// # Errors
    /// Those of `emit`; the image is then of no use.
    pub fn entry(
        &mut self,
        db: u32,
        key: &[u8],
        value: ValueRef<'_>,
        deadline_ms: Option<i64>,
        mut emit: impl FnMut(Vec<u8>) -> io::Result<()>,
    ) -> io::Result<()> {
        self.select(db);
        if let Some(deadline_ms) = deadline_ms {
            self.pending.push(opcode::EXPIRETIME_MS);
            self.pending.extend_from_slice(&deadline_ms.to_le_bytes());
        }
        match self.last_use.take() {
            Some(Use::IdleSeconds(seconds)) => {
                self.pending.push(opcode::IDLE);
                push_length(&mut self.pending, seconds);
            }
            Some(Use::Frequency(frequency)) => self.pending.extend([opcode::FREQ, frequency]),
            None => {}
        }
        self.pending.push(self.kind_of(value));
        self.string(key);
        self.value(value, &mut emit)
    }

    /// Writes a value without its type.
    fn value(&mut self, value: ValueRef<'_>, emit: &mut impl FnMut(Vec<u8>) -> io::Result<()>) -> io::Result<()> {
        match value {
            ValueRef::Str(value) => {
                self.string(value);
                self.emit_full(emit)
            }
            ValueRef::List(list) => self.elements(list.len(), list.iter(), emit, Self::string),
            ValueRef::Set(set) => self.elements(set.len(), set.iter(), emit, |encoder, member| encoder.string(&member)),
            ValueRef::Hash(hash) if hash.has_deadlines() && self.format.has_field_deadlines() => {
                self.expiring_hash(hash, emit)
            }
            ValueRef::Hash(hash) => self.elements(hash.len(), hash.iter(), emit, |encoder, (field, value)| {
                encoder.string(field);
                encoder.string(value);
            }),
            ValueRef::SortedSet(set) => self.elements(set.len(), set.iter(), emit, |encoder, entry| {
                encoder.string(entry.member);
                encoder.pending.extend_from_slice(&entry.score.to_le_bytes());
            }),
            ValueRef::Stream(stream) => self.stream(stream, emit),
        }
    }

    fn expiring_hash(&mut self, hash: &Hash, emit: &mut impl FnMut(Vec<u8>) -> io::Result<()>) -> io::Result<()> {
        if self.format == Format::Valkey {
            return self.elements(hash.len(), hash.iter(), emit, |encoder, (field, value)| {
                encoder.string(field);
                encoder.string(value);
                encoder.pending.extend_from_slice(&hash.deadline_ms(field).unwrap_or(-1).to_le_bytes());
            });
        }
        // What is before the epoch is over, and so is its first millisecond.
        let earliest_ms = hash.next_deadline_ms().unwrap_or(0).max(0);
        self.pending.extend_from_slice(&earliest_ms.to_le_bytes());
        self.elements(hash.len(), hash.iter(), emit, |encoder, (field, value)| {
            let behind_ms = hash.deadline_ms(field).map_or(0, |deadline_ms| (deadline_ms - earliest_ms).max(0) + 1);
            push_length(&mut encoder.pending, behind_ms as u64);
            encoder.string(field);
            encoder.string(value);
        })
    }

    /// The type byte of the encoding that is written: the plain ones, which everyone reads and which have no limits, but for
    /// what they have no place for.
    fn kind_of(&self, value: ValueRef<'_>) -> u8 {
        match (value, self.format) {
            (ValueRef::Str(_), _) => kind::STRING,
            (ValueRef::List(_), _) => kind::LIST,
            (ValueRef::Set(_), _) => kind::SET,
            (ValueRef::Hash(hash), Format::Valkey) if hash.has_deadlines() => kind::HASH_VALKEY,
            (ValueRef::Hash(hash), format) if hash.has_deadlines() && format.has_field_deadlines() => {
                kind::HASH_METADATA
            }
            (ValueRef::Hash(_), _) => kind::HASH,
            (ValueRef::SortedSet(_), _) => kind::SORTED_SET_2,
            (ValueRef::Stream(value), _) => stream::kind_of(value),
        }
    }

    fn stream(&mut self, stream: &Stream, emit: &mut impl FnMut(Vec<u8>) -> io::Result<()>) -> io::Result<()> {
        self.elements(stream.blocks_len(), stream.blocks(), emit, |encoder, (first, block)| {
            push_length(&mut encoder.pending, 16);
            encoder.raw_id(first);
            encoder.string(&stream::pack(first, block));
        })?;
        let is_long = stream::kind_of(stream) != kind::STREAM;
        push_length(&mut self.pending, stream.len() as u64);
        self.id(stream.last_id());
        if is_long {
            self.id(stream.first_id());
            self.id(stream.max_deleted_id());
            push_length(&mut self.pending, stream.entries_added() as u64);
        }
        self.elements(stream.groups().len(), stream.groups(), emit, |encoder, (name, group)| {
            encoder.string(name);
            encoder.id(group.last_id);
            if is_long {
                push_length(&mut encoder.pending, group.entries_read.unwrap_or(-1) as u64);
            }
            encoder.group(group);
        })
    }

    fn group(&mut self, group: &Group) {
        push_length(&mut self.pending, group.pending_len() as u64);
        for (id, delivery) in group.pending(Id::MIN, Id::MAX) {
            self.raw_id(id);
            self.pending.extend_from_slice(&delivery.ms.to_le_bytes());
            push_length(&mut self.pending, delivery.count);
        }
        push_length(&mut self.pending, group.consumers().len() as u64);
        for (name, consumer) in group.consumers() {
            self.string(name);
            self.pending.extend_from_slice(&consumer.seen_ms.to_le_bytes());
            push_length(&mut self.pending, consumer.pending_len() as u64);
            consumer.pending().for_each(|id| self.raw_id(id));
        }
    }

    fn id(&mut self, id: Id) {
        push_length(&mut self.pending, id.ms);
        push_length(&mut self.pending, id.seq);
    }

    fn raw_id(&mut self, id: Id) {
        self.pending.extend_from_slice(&id.ms.to_be_bytes());
        self.pending.extend_from_slice(&id.seq.to_be_bytes());
    }

    fn elements<T>(
        &mut self,
        count: usize,
        elements: impl Iterator<Item = T>,
        emit: &mut impl FnMut(Vec<u8>) -> io::Result<()>,
        mut write: impl FnMut(&mut Self, T),
    ) -> io::Result<()> {
        push_length(&mut self.pending, count as u64);
        for element in elements {
            write(self, element);
            self.emit_full(emit)?;
        }
        Ok(())
    }

    fn emit_full(&mut self, emit: &mut impl FnMut(Vec<u8>) -> io::Result<()>) -> io::Result<()> {
        if self.pending.len() >= SLICE_BYTES { emit(self.take()) } else { Ok(()) }
    }

    fn take(&mut self) -> Vec<u8> {
        if let Some(crc) = &mut self.crc {
            crc.update(&self.pending);
        }
        let next = Vec::with_capacity(self.pending.len());
        std::mem::replace(&mut self.pending, next)
    }

    /// Ends the image and returns its last slice.
    pub fn finish(mut self) -> Vec<u8> {
        self.pending.push(opcode::EOF);
        let mut last = self.take();
        let checksum = self.crc.map_or(0, |crc| crc.finalize());
        last.extend_from_slice(&checksum.to_le_bytes());
        last
    }

    fn select(&mut self, db: u32) {
        if self.selected != Some(db) {
            self.selected = Some(db);
            self.pending.push(opcode::SELECTDB);
            push_length(&mut self.pending, db.into());
        }
    }

    fn string(&mut self, bytes: &[u8]) {
        if let Some(integer) = canonical_i32(bytes) {
            return self.integer(integer);
        }
        if bytes.len() > PLAIN_BYTES_MAX && self.compressed(bytes) {
            return;
        }
        push_length(&mut self.pending, bytes.len() as u64);
        self.pending.extend_from_slice(bytes);
    }

    fn integer(&mut self, integer: i32) {
        if let Ok(integer) = i8::try_from(integer) {
            self.pending.push(string::INT8);
            self.pending.extend_from_slice(&integer.to_le_bytes());
        } else if let Ok(integer) = i16::try_from(integer) {
            self.pending.push(string::INT16);
            self.pending.extend_from_slice(&integer.to_le_bytes());
        } else {
            self.pending.push(string::INT32);
            self.pending.extend_from_slice(&integer.to_le_bytes());
        }
    }

    /// Writes `bytes` compressed and says so, or writes nothing if compression is off or does not help.
    fn compressed(&mut self, bytes: &[u8]) -> bool {
        let Some(compressor) = &mut self.compressor else { return false };
        // The first byte and the additional length eat up most of a gain of four bytes; less is none.
        let Some(stream) = compressor.compress(bytes, bytes.len() - 4) else { return false };
        self.pending.push(string::LZF);
        push_length(&mut self.pending, stream.len() as u64);
        push_length(&mut self.pending, bytes.len() as u64);
        self.pending.extend_from_slice(stream);
        true
    }
}

fn push_length(out: &mut Vec<u8>, length: u64) {
    match length {
        0..0x40 => out.push(length as u8),
        0x40..0x4000 => out.extend_from_slice(&(0x4000 | length as u16).to_be_bytes()),
        0x4000..=0xFFFF_FFFF => {
            out.push(0x80);
            out.extend_from_slice(&(length as u32).to_be_bytes());
        }
        _ => {
            out.push(0x81);
            out.extend_from_slice(&length.to_be_bytes());
        }
    }
}

/// The integer that `bytes` are the decimal digits of, if writing it out gives back the same bytes.
fn canonical_i32(bytes: &[u8]) -> Option<i32> {
    let digits = bytes.strip_prefix(b"-").unwrap_or(bytes);
    let canonical = match digits {
        [] => false,
        [b'0'] => digits.len() == bytes.len(),
        [first, rest @ ..] => {
            bytes.len() <= INTEGER_DIGITS_MAX && matches!(first, b'1'..=b'9') && rest.iter().all(u8::is_ascii_digit)
        }
    };
    if !canonical {
        return None;
    }
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Options = Options { compress: false, checksum: false, format: Format::PLAIN };

    fn body(write: impl FnOnce(&mut Encoder)) -> Vec<u8> {
        let mut encoder = Encoder::new(&Header::default(), PLAIN);
        encoder.take();
        write(&mut encoder);
        encoder.take()
    }

    fn entry(encoder: &mut Encoder, db: u32, key: &[u8], value: &[u8], deadline_ms: Option<i64>) {
        let written = encoder.entry(db, key, ValueRef::Str(value), deadline_ms, |_| unreachable!("it is small"));
        written.expect("nothing was handed on");
    }

    fn text(bytes: &[u8]) -> Vec<u8> {
        body(|encoder| encoder.string(bytes))
    }

    #[test]
    fn an_image_is_laid_out_as_the_module_says() {
        let bytes = body(|encoder| {
            encoder.resize_db(0, 2, 1);
            entry(encoder, 0, b"foo", b"bar", None);
            entry(encoder, 0, b"n", b"12", Some(1_733_000_000_000));
        });
        let expected = b"\xFE\x00\xFB\x02\x01\x00\x03foo\x03bar\xFC\x00\x72\xD9\x7E\x93\x01\x00\x00\x00\x01n\xC0\x0C";
        assert_eq!(bytes, expected);
    }

    #[test]
    fn a_change_of_database_is_said_each_time_and_only_then() {
        let bytes = body(|encoder| {
            for db in [1, 1, 300, 1] {
                entry(encoder, db, b"k", b"", None);
            }
        });
        assert_eq!(bytes, b"\xFE\x01\x00\x01k\x00\x00\x01k\x00\xFE\x41\x2C\x00\x01k\x00\xFE\x01\x00\x01k\x00");
    }

    #[test]
    fn only_digits_that_come_back_the_same_become_integers() {
        assert_eq!(text(b"0"), [0xC0, 0]);
        assert_eq!(text(b"-128"), [0xC0, 0x80]);
        assert_eq!(text(b"128"), [0xC1, 0x80, 0]);
        assert_eq!(text(b"-32768"), [0xC1, 0, 0x80]);
        assert_eq!(text(b"32768"), [0xC2, 0, 0x80, 0, 0]);
        assert_eq!(text(b"-2147483648"), [0xC2, 0, 0, 0, 0x80]);
        for digits in ["2147483648", "-2147483649", "00", "-0", "-", "", "+1", "1 ", "01", "1.0", "99999999999"] {
            assert_eq!(text(digits.as_bytes())[1..], *digits.as_bytes());
        }
    }

    #[test]
    fn lengths_take_the_shortest_form() {
        let lengths = [0x3F, 0x40, 0x3FFF, 0x4000, 0xFFFF_FFFF, 0x1_0000_0000];
        let forms: Vec<Vec<u8>> =
            lengths.map(|length| body(|encoder| push_length(&mut encoder.pending, length))).into();
        let expected: [&[u8]; 6] = [
            b"\x3F",
            b"\x40\x40",
            b"\x7F\xFF",
            b"\x80\x00\x00\x40\x00",
            b"\x80\xFF\xFF\xFF\xFF",
            b"\x81\x00\x00\x00\x01\x00\x00\x00\x00",
        ];
        assert_eq!(forms, expected);
    }

    #[test]
    fn without_a_checksum_the_image_ends_in_zeros() {
        assert!(Encoder::new(&Header::default(), PLAIN).finish().ends_with(b"\xFF\0\0\0\0\0\0\0\0"));
    }
}
