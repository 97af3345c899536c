//! One value on its own, as DUMP gives it and RESTORE takes it.
//!
//! ```text
//! type byte | value, as in an image | version u16 | CRC64 of everything before it u64          both little endian
//! ```

use crc_fast::{CrcAlgorithm, Digest};

use super::body::{Body, Rooms};
use super::cursor::{Cursor, Stop};
use super::encode::Encoder;
use super::{RdbError, VERSION_READ_MAX, VERSION_VALKEY, opcode};
use crate::value::{SmallForms, Value, ValueRef};

/// The oldest versions that have values, libraries of functions, and deadlines of hash fields.
const VERSION_PLAIN: u16 = 9;
const VERSION_FUNCTIONS: u16 = 10;
const VERSION_FIELD_DEADLINES: u16 = 12;

const VERSION_BYTES: usize = 2;
const CHECKSUM_BYTES: usize = 8;

/// Whether a payload's checksum is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// It must be right.
    Verified,
    /// It may be anything.
    Ignored,
}

/// Why a payload is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DumpError {
    /// It is of a version that we do not read, or its bytes are not those that were written.
    #[error("DUMP payload version or checksum are wrong")]
    Envelope,
    /// What it holds is malformed, empty, or of a type that we lack.
    #[error("Bad data format")]
    Content(Option<RdbError>),
}

impl From<RdbError> for DumpError {
    fn from(error: RdbError) -> Self {
        DumpError::Content(Some(error))
    }
}

fn checksum(bytes: &[u8]) -> u64 {
    let mut crc = Digest::new(CrcAlgorithm::Crc64Redis);
    crc.update(bytes);
    crc.finalize()
}

/// The payload that stands for a value; its strings are compressed where that helps if `compress` says so.
pub fn dump(value: ValueRef<'_>, compress: bool) -> Vec<u8> {
    let has_deadlines = matches!(value, ValueRef::Hash(hash) if hash.has_deadlines());
    let version = if has_deadlines { VERSION_FIELD_DEADLINES } else { VERSION_PLAIN };
    sealed(Encoder::value_alone(value, compress), version)
}

fn sealed(mut payload: Vec<u8>, version: u16) -> Vec<u8> {
    payload.extend_from_slice(&version.to_le_bytes());
    let checksum = checksum(&payload);
    payload.extend_from_slice(&checksum.to_le_bytes());
    payload
}

/// The payload that stands for libraries of functions with these sources.
pub fn dump_functions<'a>(codes: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    sealed(codes.flat_map(Encoder::function_alone).collect(), VERSION_FUNCTIONS)
}

/// The sources of the libraries that such a payload stands for.
///
/// # Errors
/// The payload is not what it should be.
pub fn restore_functions(payload: &[u8]) -> Result<Vec<Vec<u8>>, DumpError> {
    let (content, _) = opened(payload, Checksum::Verified)?;
    let mut cursor = Cursor { bytes: content, at: 0, offset: 0 };
    let mut codes = Vec::new();
    while cursor.at < content.len() {
        codes.push(function(&mut cursor).map_err(|stop| content_error(stop, content))?);
    }
    Ok(codes)
}

fn function(cursor: &mut Cursor) -> Result<Vec<u8>, Stop> {
    let offset = cursor.place();
    match cursor.byte()? {
        opcode::FUNCTION2 => Ok(cursor.text()?.plain(&mut Vec::new())?.to_vec()),
        byte => Err(RdbError::UnknownType { byte, offset }.into()),
    }
}

/// How many bytes a value has in an image, its type not counted, if nothing in it is compressed.
pub fn serialized_len(value: ValueRef<'_>) -> usize {
    Encoder::value_alone(value, false).len() - 1
}

/// The value that a payload stands for. It is never empty; a small one takes its form of these.
///
/// # Errors
/// The payload is not what it should be; every part of it has been looked at.
pub fn restore(payload: &[u8], forms: SmallForms, checksum: Checksum) -> Result<Value, DumpError> {
    let (content, version) = opened(payload, checksum)?;
    let mut cursor = Cursor { bytes: content, at: 0, offset: 0 };
    match value(&mut cursor, version, forms).map_err(|stop| content_error(stop, content))? {
        Some(value) if cursor.at == content.len() => Ok(value),
        _ => Err(DumpError::Content(None)),
    }
}

fn content_error(stop: Stop, content: &[u8]) -> DumpError {
    match stop {
        Stop::Needs(_) => DumpError::Content(Some(RdbError::Truncated { offset: content.len() as u64 })),
        Stop::Error(error) => error.into(),
    }
}

/// What is in a payload, whose version and checksum are right, and the version.
fn opened(payload: &[u8], verified: Checksum) -> Result<(&[u8], u32), DumpError> {
    let Some((summed, sum)) = payload.split_last_chunk::<CHECKSUM_BYTES>() else { return Err(DumpError::Envelope) };
    let Some((content, version)) = summed.split_last_chunk::<VERSION_BYTES>() else { return Err(DumpError::Envelope) };
    let version = u32::from(u16::from_le_bytes(*version));
    let is_known = version <= VERSION_READ_MAX || version == VERSION_VALKEY;
    let is_intact = verified == Checksum::Ignored || u64::from_le_bytes(*sum) == checksum(summed);
    if !is_known || !is_intact {
        return Err(DumpError::Envelope);
    }
    Ok((content, version))
}

fn value(cursor: &mut Cursor, version: u32, forms: SmallForms) -> Result<Option<Value>, Stop> {
    let offset = cursor.place();
    let kind = cursor.byte()?;
    if !Body::exists(kind) {
        return Err(RdbError::UnknownType { byte: kind, offset }.into());
    }
    let mut rooms = Rooms::default();
    match Body::read(kind, version, cursor, forms)? {
        Body::Str(text) => Ok(Some(Value::Str(text.plain(&mut rooms.value)?.to_vec()))),
        Body::Aggregate(mut parts) => {
            parts.advance(cursor, &mut rooms)?;
            Ok(parts.finish())
        }
        Body::Unsupported(type_name) => Err(RdbError::UnsupportedType { type_name, key: Vec::new(), offset }.into()),
    }
}
