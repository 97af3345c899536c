//! The RDB format: a point-in-time image of every key, as it lies in a dump file and as it travels in a full resync.
//!
//! This module turns values into bytes ([`Encoder`]) and bytes into values ([`Decoder`]). It reads no file and no socket;
//! whoever calls it does.
//!
//! ```text
//! 52 45 44 49 53 30 30 30 39             "REDIS" and the format version, four digits: "0009"
//! FA 09 "redis-ver" 05 "7.0.0"           AUX: a key and a value, any number of them; readers skip those they don't know
//! FE 00                                  SELECTDB: the entries that follow belong to database 0
//! FB 02 01                               RESIZEDB: it has 2 keys, 1 with a deadline (a hint for sizing tables)
//! 00 03 "foo" 03 "bar"                   a type byte (0 = string), the key, the value
//! FC 00 72 D9 7E 93 01 00 00             EXPIRETIME_MS: the deadline of the next entry, Unix ms, little endian
//! 00 01 "n" C0 0C                        the string "12", stored as the one-byte integer 12
//! FF                                     EOF
//! 19 FB 08 A6 C4 5B 6E 29                CRC64 of everything before it, little endian; zeros = not computed
//! ```
//!
//! A length is 6 bits (`00xxxxxx`), 14 bits (`01xxxxxx` and a byte, big endian), 32 bits (`80` and four bytes, big endian) or
//! 64 bits (`81` and eight). A string is such a length and its bytes, or one of four encodings that begin with `11`:
//! `C0`, `C1`, `C2` and a little-endian integer of 8, 16, 32 bits that stands for its decimal digits, and `C3`, a compressed
//! length, a plain length and an LZF stream.
//!
//! A list, set, hash or sorted set is a count and its elements; Redis packs small ones, and the nodes of lists, into one
//! string each (`packed`). Read are all of these encodings that any version has had. Written are the plain ones:
//! every server loads them, they need no second look at a value before the first of its bytes can go out, and they have no
//! limits. A big value is handed on while it is being encoded, and taken apart as it arrives.
//!
//! Written is version 9, that of Redis 5.0 to 6.2, unless there is something that it has no place for (`format`): later
//! versions changed nothing about the rest, and every server refuses a version above its own. Read are versions 1 to 12, and
//! Valkey's 80.
//!
//! Refused, each with a named [`RdbError`] and its offset: values of modules, strings beyond [`STRING_BYTES_MAX`], malformed packs, elements that are there twice, unknown opcodes, a wrong checksum, a
//! stream that ends early. Passed over: data of modules that belong to no key, and keys whose value is empty.
//!
//! Source: the RDB file format as described at <https://rdb.fnordig.de/file_format.html>, checked against files of
//! redis-server 7.0.

mod body;
mod cursor;
mod decode;
mod dump;
mod encode;
mod error;
mod format;
mod lzf;
mod packed;
mod stream;

pub use decode::{Decoder, Item, Value};
pub use dump::{Checksum, DumpError, dump, dump_functions, restore, restore_functions, serialized_len};
pub use encode::{Encoder, Header, Options, ReplicationPoint, SLICE_BYTES};
pub use error::RdbError;
pub use format::{Contents, Format, Reader};

/// The longest string that is read, in bytes: the `proto-max-bulk-len` that servers ship with.
pub const STRING_BYTES_MAX: u64 = 512 << 20;

/// The newest format version that [`Decoder`] reads.
pub const VERSION_READ_MAX: u32 = 12;

/// The bytes every image begins with, before the four digits of its version.
const MAGIC: &[u8; 5] = b"REDIS";

/// As the images of Valkey 9 and later begin, with three digits.
const VALKEY_MAGIC: &[u8; 6] = b"VALKEY";

/// The version of Valkey's images; it was chosen so that no other server has it.
const VERSION_VALKEY: u32 = 80;

/// A type byte that announces something other than an entry.
mod opcode {
    /// Slot sizes of a cluster node, three lengths; a hint.
    pub const SLOT_INFO: u8 = 244;
    /// A function library's source, one string.
    pub const FUNCTION2: u8 = 245;
    /// The same from a release candidate of Redis 7.0: name, engine, whether a description follows, that, and the source.
    pub const FUNCTION_PRE_GA: u8 = 246;
    /// Data of a module outside the key space.
    pub const MODULE_AUX: u8 = 247;
    /// Idle time of the next entry in seconds, a length.
    pub const IDLE: u8 = 248;
    /// Access frequency of the next entry, one byte.
    pub const FREQ: u8 = 249;
    /// A key and a value about the image itself.
    pub const AUX: u8 = 250;
    /// Numbers of keys and of deadlines in the selected database, two lengths.
    pub const RESIZEDB: u8 = 251;
    /// Deadline of the next entry, Unix milliseconds, 64 bits little endian.
    pub const EXPIRETIME_MS: u8 = 252;
    /// Deadline of the next entry, Unix seconds, 32 bits little endian.
    pub const EXPIRETIME: u8 = 253;
    /// The database of the entries that follow, a length.
    pub const SELECTDB: u8 = 254;
    /// The end; the checksum follows from version 5 on.
    pub const EOF: u8 = 255;
}

/// A type byte that announces an entry: the type of its value and how it is encoded.
mod kind {
    /// A string.
    pub const STRING: u8 = 0;
    /// A count and as many elements, each a string.
    pub const LIST: u8 = 1;
    /// A count and as many members.
    pub const SET: u8 = 2;
    /// A count and as many members, each followed by its score in decimal.
    pub const SORTED_SET: u8 = 3;
    /// A count and as many fields, each followed by its value.
    pub const HASH: u8 = 4;
    /// A count and as many members, each followed by its score, a double of 64 bits little endian.
    pub const SORTED_SET_2: u8 = 5;
    // What follows is packed: one string that holds all elements.
    pub const HASH_ZIPMAP: u8 = 9;
    pub const LIST_ZIPLIST: u8 = 10;
    pub const SET_INTSET: u8 = 11;
    pub const SORTED_SET_ZIPLIST: u8 = 12;
    pub const HASH_ZIPLIST: u8 = 13;
    /// A count and as many ziplists.
    pub const LIST_QUICKLIST: u8 = 14;
    /// Blocks of entries and what belongs to them (`stream`); later kinds say more.
    pub const STREAM: u8 = 15;
    pub const STREAM_2: u8 = 19;
    pub const STREAM_3: u8 = 21;
    pub const HASH_LISTPACK: u8 = 16;
    pub const SORTED_SET_LISTPACK: u8 = 17;
    /// A count and as many nodes, each a length that says what it is, and a string: an element, or a listpack of many.
    pub const LIST_QUICKLIST_2: u8 = 18;
    pub const SET_LISTPACK: u8 = 20;
    // Hashes whose fields may have deadlines. Redis: a length that is the deadline, or 0, before each field and its value.
    pub const HASH_METADATA_PRE_GA: u8 = 22;
    /// Packed: fields, values and deadlines, 0 for none.
    pub const HASH_LISTPACK_EX_PRE_GA: u8 = 23;
    /// The earliest deadline comes first, 64 bits little endian, and the others say how far behind it they are, and 1 more.
    pub const HASH_METADATA: u8 = 24;
    /// The earliest deadline comes first.
    pub const HASH_LISTPACK_EX: u8 = 25;
    /// Valkey: a deadline of 64 bits little endian behind each field and its value, -1 for none.
    pub const HASH_VALKEY: u8 = 22;
}

/// The lengths that say what follows in the data of a module.
mod module {
    pub const END: u64 = 0;
    pub const SIGNED: u64 = 1;
    pub const UNSIGNED: u64 = 2;
    pub const FLOAT: u64 = 3;
    pub const DOUBLE: u64 = 4;
    pub const STRING: u64 = 5;
}

/// First bytes of the encoded strings.
mod string {
    /// An 8-bit integer.
    pub const INT8: u8 = 0xC0;
    /// A 16-bit integer, little endian.
    pub const INT16: u8 = 0xC1;
    /// A 32-bit integer, little endian.
    pub const INT32: u8 = 0xC2;
    /// Compressed length, plain length, LZF stream.
    pub const LZF: u8 = 0xC3;
}

#[cfg(test)]
mod tests;
