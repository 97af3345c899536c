//! What may be wrong with an image.

#[cfg(doc)]
use super::STRING_BYTES_MAX;

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
    #[error("RDB CRC error: the checksum should be {stored:x} and is {computed:x}")]
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
    /// It holds data of a module that are not laid out as such data are.
    #[error("unknown kind {kind} of module data at offset {offset}")]
    ModuleData {
        /// What the kind is said to be.
        kind: u64,
        /// Where it is said.
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
    /// A packed list, hash, set or sorted set is not packed as it should be.
    #[error("malformed {form} at offset {offset}: {problem} (at its byte {at})")]
    Packed {
        /// How it is packed.
        form: &'static str,
        /// What is wrong.
        problem: &'static str,
        /// At which of its bytes that was noticed; they may be compressed in the image.
        at: usize,
        /// Where in the image it begins.
        offset: u64,
    },
    /// A node of a list is neither an element nor packed.
    #[error("unknown kind {kind} of list node at offset {offset}")]
    ListNode {
        /// What the kind is said to be.
        kind: u64,
        /// Where it is said.
        offset: u64,
    },
    /// A field or member is there twice.
    #[error("duplicate element of a {type_name} at offset {offset}")]
    Duplicate {
        /// The type of the value.
        type_name: &'static str,
        /// Where the second one is.
        offset: u64,
    },
    /// A score is not a number.
    #[error("a score at offset {offset} is not a number")]
    Score {
        /// Where it is.
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
