//! Elements as bytes: a key and what belongs to it, one after the other.
//!
//! ```text
//! record: key length (LEB128) | key … | payload         nothing for a set, 8 bytes for a score, length | bytes … for a hash
//! ```

use std::fmt;

/// What an element has besides its key.
pub trait Payload: 'static {
    /// A borrowed one.
    type Ref<'a>: Copy + PartialEq + fmt::Debug;

    /// How many bytes [`Payload::put`] appends.
    fn len_bytes(payload: Self::Ref<'_>) -> usize;

    /// Appends it to a record.
    fn put(payload: Self::Ref<'_>, out: &mut Vec<u8>);

    /// Writes the same over `place`, which has just the room for it.
    fn write(payload: Self::Ref<'_>, place: &mut [u8]);

    /// Takes what [`Payload::put`] has written off the front.
    fn take<'a>(bytes: &mut &'a [u8]) -> Self::Ref<'a>;
}

/// A member of a set has nothing.
impl Payload for () {
    type Ref<'a> = ();

    fn len_bytes((): ()) -> usize {
        0
    }

    fn put((): (), _: &mut Vec<u8>) {}

    fn write((): (), _: &mut [u8]) {}

    fn take<'a>(_: &mut &'a [u8]) -> Self::Ref<'a> {}
}

/// A member of a sorted set has a score.
impl Payload for f64 {
    type Ref<'a> = f64;

    fn len_bytes(_: f64) -> usize {
        size_of::<f64>()
    }

    fn put(score: f64, out: &mut Vec<u8>) {
        out.extend_from_slice(&score.to_le_bytes());
    }

    fn write(score: f64, place: &mut [u8]) {
        place.copy_from_slice(&score.to_le_bytes());
    }

    fn take(bytes: &mut &[u8]) -> f64 {
        let (score, rest) = bytes.split_first_chunk().expect("a record is whole");
        *bytes = rest;
        f64::from_le_bytes(*score)
    }
}

/// A field of a hash has a value.
impl Payload for [u8] {
    type Ref<'a> = &'a [u8];

    fn len_bytes(value: &[u8]) -> usize {
        string_len_bytes(value)
    }

    fn put(value: &[u8], out: &mut Vec<u8>) {
        put_string(value, out);
    }

    fn write(value: &[u8], place: &mut [u8]) {
        write_string(value, place);
    }

    fn take<'a>(bytes: &mut &'a [u8]) -> &'a [u8] {
        take_string(bytes)
    }
}

/// How many bytes [`put`] appends.
pub(super) fn len_bytes<P: Payload + ?Sized>(key: &[u8], payload: P::Ref<'_>) -> usize {
    string_len_bytes(key) + P::len_bytes(payload)
}

/// Appends a record.
pub(super) fn put<P: Payload + ?Sized>(key: &[u8], payload: P::Ref<'_>, out: &mut Vec<u8>) {
    put_string(key, out);
    P::put(payload, out);
}

/// Writes a record over `place`, which has just the room for it.
pub(super) fn write<P: Payload + ?Sized>(key: &[u8], payload: P::Ref<'_>, place: &mut [u8]) {
    let rest = write_string(key, place);
    P::write(payload, rest);
}

/// Takes a record off the front.
pub(super) fn take<'a, P: Payload + ?Sized>(bytes: &mut &'a [u8]) -> (&'a [u8], P::Ref<'a>) {
    let key = take_string(bytes);
    (key, P::take(bytes))
}

fn string_len_bytes(string: &[u8]) -> usize {
    let bits = (usize::BITS - string.len().leading_zeros()).max(1);
    bits.div_ceil(7) as usize + string.len()
}

fn put_string(string: &[u8], out: &mut Vec<u8>) {
    let mut len = string.len();
    while len >= 0x80 {
        out.push(len as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
    out.extend_from_slice(string);
}

/// Writes a string to the start of `place` and returns the rest.
fn write_string<'a>(string: &[u8], place: &'a mut [u8]) -> &'a mut [u8] {
    let (mut len, mut at) = (string.len(), 0);
    while len >= 0x80 {
        place[at] = len as u8 | 0x80;
        len >>= 7;
        at += 1;
    }
    place[at] = len as u8;
    let (content, rest) = place[at + 1..].split_at_mut(string.len());
    content.copy_from_slice(string);
    rest
}

fn take_string<'a>(bytes: &mut &'a [u8]) -> &'a [u8] {
    let (mut len, mut shift) = (0, 0);
    loop {
        let (byte, rest) = bytes.split_first().expect("a record is whole");
        *bytes = rest;
        len |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let (string, rest) = bytes.split_at(len);
    *bytes = rest;
    string
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_taken_whatever_its_length() {
        for len in [0, 1, 127, 128, 300, 16_383, 16_384, 3_000_000] {
            let (key, value) = (vec![1; len], vec![2; len / 2]);
            let mut bytes = Vec::new();
            put::<[u8]>(&key, &value, &mut bytes);
            assert_eq!(bytes.len(), len_bytes::<[u8]>(&key, &value));
            let mut written = vec![0; bytes.len()];
            write::<[u8]>(&key, &value, &mut written);
            assert_eq!(written, bytes);
            put::<f64>(&key, 1.5, &mut bytes);
            put::<()>(&key, (), &mut bytes);
            let mut rest = bytes.as_slice();
            assert_eq!(take::<[u8]>(&mut rest), (key.as_slice(), value.as_slice()));
            assert_eq!(take::<f64>(&mut rest), (key.as_slice(), 1.5));
            assert_eq!(take::<()>(&mut rest), (key.as_slice(), ()));
            assert!(rest.is_empty());
        }
    }
}
