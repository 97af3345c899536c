//! Streams: blocks of entries packed into listpacks, and what is remembered beside them.
//!
//! ```text
//! count | count × ( id of 16 bytes, big endian | listpack )            the blocks
//! length | last id | first id ¹ | greatest removed id ¹ | entries added ¹
//! groups × ( name | last id | entries read ¹ | pending | consumers × ( name | seen u64 | active u64 ² | pending ids ) )
//! ```
//!
//! ¹ from type 19 on, ² from type 21 on. Ids outside of the blocks are two lengths, those of pending entries 16 bytes.
//! Type 15, which Redis 5 and later read, is written if readers find out by themselves what it leaves out; otherwise
//! type 19, which Redis 7.0 and later and Valkey read.

use std::collections::BTreeMap;

use super::cursor::{Cursor, Stop};
use super::packed::{Element, Pack};
use super::{RdbError, kind};
use crate::value::Stream;
use crate::value::stream::{Block, BlockSize, Delivery, Group, Id};

/// An entry that is there no more, and one that has the fields of its block.
const DELETED: i64 = 1;
const SAME_FIELDS: i64 = 2;

/// Whether readers find out by themselves what type 15 leaves out.
fn is_plain(stream: &Stream) -> bool {
    stream.entries_added() == stream.len() as i64
        && stream.max_deleted_id() == Id::MIN
        && stream.groups().all(|(_, group)| group.entries_read == stream.entries_until(group.last_id))
}

pub fn kind_of(stream: &Stream) -> u8 {
    if is_plain(stream) { kind::STREAM } else { kind::STREAM_2 }
}

fn malformed(problem: &'static str, offset: u64) -> Stop {
    RdbError::Packed { form: "stream", problem, at: 0, offset }.into()
}

/// Reads the next block and adds its entries.
pub fn read_block(stream: &mut Stream, cursor: &mut Cursor, room: &mut Vec<u8>) -> Result<(), Stop> {
    let offset = cursor.place();
    let mut id_room = Vec::new();
    let id: [u8; 16] = cursor
        .text()?
        .plain(&mut id_room)?
        .try_into()
        .map_err(|_| malformed("the id of a block does not have 16 bytes", offset))?;
    let bytes = cursor.text()?.plain(room)?;
    let mut elements = Vec::new();
    let unpacked = Pack::Listpack.visit(bytes, |element| {
        elements.push(element);
        Ok(())
    });
    unpacked.map_err(|error| RdbError::Packed { form: "listpack", problem: error.problem, at: error.at, offset })?;
    add_entries(stream, raw_id(id), &elements).map_err(|problem| malformed(problem, offset))?;
    stream.end_block();
    Ok(())
}

fn add_entries(stream: &mut Stream, master: Id, elements: &[Element]) -> Result<(), &'static str> {
    const SHORT: &str = "a block ends early";
    let mut rest = elements.iter().copied();
    let mut texts = Vec::new();
    let mut room = itoa::Buffer::new();
    let mut text = |element: Element| element.text(&mut room).to_vec();
    let (count, deleted, fields) = (number(&mut rest)?, number(&mut rest)?, number(&mut rest)?);
    let fields = usize::try_from(fields).map_err(|_| "a negative number of fields")?;
    let shared: Vec<Vec<u8>> = rest.by_ref().take(fields).map(&mut text).collect();
    if shared.len() < fields || number(&mut rest)? != 0 {
        return Err("the fields of a block do not end with zero");
    }
    let (mut live, mut gone) = (0, 0);
    while rest.len() > 0 {
        let flags = number(&mut rest)?;
        let (ms, seq) = (number(&mut rest)?, number(&mut rest)?);
        let id = Id { ms: master.ms.wrapping_add_signed(ms), seq: master.seq.wrapping_add_signed(seq) };
        texts.clear();
        let parts = if flags & SAME_FIELDS != 0 {
            for field in &shared {
                texts.extend([field.clone(), text(rest.next().ok_or(SHORT)?)]);
            }
            3 + shared.len()
        } else {
            let count = usize::try_from(number(&mut rest)?).map_err(|_| "a negative number of fields")?;
            if count > rest.len() / 2 {
                return Err(SHORT);
            }
            texts.extend(rest.by_ref().take(2 * count).map(&mut text));
            4 + 2 * count
        };
        if number(&mut rest)? != parts as i64 {
            return Err("an entry is not as long as it says");
        }
        if flags & DELETED != 0 {
            gone += 1;
        } else if stream.append(id, texts.iter().map(Vec::as_slice), BlockSize::default()) {
            live += 1;
        } else {
            return Err("ids do not ascend");
        }
    }
    if (live, gone) == (count, deleted) { Ok(()) } else { Err("a block has not as many entries as it says") }
}

fn number<'a>(elements: &mut impl Iterator<Item = Element<'a>>) -> Result<i64, &'static str> {
    match elements.next() {
        Some(Element::Integer(number)) => Ok(number),
        Some(Element::Bytes(digits)) => crate::number::parse_i64(digits).ok_or("a number is none"),
        None => Err("a block ends early"),
    }
}

fn raw_id(bytes: [u8; 16]) -> Id {
    let number = u128::from_be_bytes(bytes);
    Id { ms: (number >> 64) as u64, seq: number as u64 }
}

fn read_id(cursor: &mut Cursor) -> Result<Id, Stop> {
    Ok(Id { ms: cursor.length()?, seq: cursor.length()? })
}

/// Reads what follows the blocks; nothing is changed before all of it is there.
pub fn read_rest(stream: &mut Stream, kind: u8, cursor: &mut Cursor) -> Result<(), Stop> {
    let offset = cursor.place();
    let (len, last) = (cursor.length()?, read_id(cursor)?);
    if len != stream.len() as u64 || last < stream.last_id() {
        return Err(malformed("its length or last id is not that of its entries", offset));
    }
    let history = if kind == kind::STREAM {
        (Id::MIN, len)
    } else {
        let _first = read_id(cursor)?;
        (read_id(cursor)?, cursor.length()?)
    };
    let mut whole = stream.clone();
    whole.set_history(last, history.0, history.1 as i64);
    for _ in 0..cursor.length()? {
        let offset = cursor.place();
        let mut room = Vec::new();
        let name = cursor.text()?.plain(&mut room)?.to_vec();
        let last = read_id(cursor)?;
        let read = match kind {
            kind::STREAM => whole.entries_until(last),
            _ => i64::try_from(cursor.length()?).ok(),
        };
        let mut group = Group::new(last, read);
        read_consumers(&mut group, kind, cursor)?;
        if !whole.add_group(&name, group) {
            return Err(malformed("a group is there twice", offset));
        }
    }
    *stream = whole;
    Ok(())
}

fn read_consumers(group: &mut Group, kind: u8, cursor: &mut Cursor) -> Result<(), Stop> {
    let offset = cursor.place();
    let mut pending = BTreeMap::new();
    for _ in 0..cursor.length()? {
        let id = raw_id(cursor.array()?);
        let delivery = (i64::from_le_bytes(cursor.array()?), cursor.length()?);
        if pending.insert(id, delivery).is_some() {
            return Err(malformed("a pending entry is there twice", offset));
        }
    }
    for _ in 0..cursor.length()? {
        let mut room = Vec::new();
        let name = cursor.text()?.plain(&mut room)?.to_vec();
        let (consumer, is_new) = group.see(&name, i64::from_le_bytes(cursor.array()?));
        if !is_new {
            return Err(malformed("a consumer is there twice", offset));
        }
        if kind == kind::STREAM_3 {
            let _active: [u8; 8] = cursor.array()?;
        }
        for _ in 0..cursor.length()? {
            let id = raw_id(cursor.array()?);
            let unowned = malformed("a consumer's entry is not pending, or with another", offset);
            let (ms, count) = pending.remove(&id).ok_or(unowned)?;
            group.deliver(id, Delivery { consumer: consumer.clone(), ms, count });
        }
    }
    if pending.is_empty() { Ok(()) } else { Err(malformed("a pending entry is with nobody", offset)) }
}

/// A block as a listpack that begins with an id and names no fields of its own.
pub fn pack(master: Id, block: &Block) -> Vec<u8> {
    const HEADER_BYTES: usize = 6;
    let mut out = vec![0; HEADER_BYTES];
    let mut count = 4;
    [block.iter().len() as i64, 0, 0, 0].into_iter().for_each(|number| push_number(&mut out, number));
    for entry in block.iter() {
        let fields = entry.fields.clone().count();
        let ms = entry.id.ms.wrapping_sub(master.ms) as i64;
        let seq = entry.id.seq.wrapping_sub(master.seq) as i64;
        [0, ms, seq, (fields / 2) as i64].into_iter().for_each(|number| push_number(&mut out, number));
        entry.fields.for_each(|field| push_text(&mut out, field));
        push_number(&mut out, 4 + fields as i64);
        count += 5 + fields;
    }
    out.push(0xFF);
    let (bytes, count) = (out.len() as u32, u16::try_from(count).unwrap_or(u16::MAX));
    out[..4].copy_from_slice(&bytes.to_le_bytes());
    out[4..HEADER_BYTES].copy_from_slice(&count.to_le_bytes());
    out
}

fn push_number(out: &mut Vec<u8>, number: i64) {
    let start = out.len();
    match number {
        0..0x80 => out.push(number as u8),
        _ => {
            out.push(0xF4);
            out.extend_from_slice(&number.to_le_bytes());
        }
    }
    push_length_backwards(out, start);
}

fn push_text(out: &mut Vec<u8>, text: &[u8]) {
    let start = out.len();
    match text.len() {
        len @ 0..0x40 => out.push(0x80 | len as u8),
        len @ 0x40..0x1000 => out.extend_from_slice(&(0xE000 | len as u16).to_be_bytes()),
        len => {
            out.push(0xF0);
            out.extend_from_slice(&(len as u32).to_le_bytes());
        }
    }
    out.extend_from_slice(text);
    push_length_backwards(out, start);
}

/// Ends an element that begins at `start` with its length, 7 bits a byte, to be read from the end.
fn push_length_backwards(out: &mut Vec<u8>, start: usize) {
    let len = out.len() - start;
    let digits = (usize::BITS - len.leading_zeros()).div_ceil(7);
    for digit in (0..digits).rev() {
        let more = if digit + 1 == digits { 0 } else { 0x80 };
        out.push((len >> (7 * digit)) as u8 & 0x7F | more);
    }
}
