//! The forms that Redis packs small collections into: one string that holds all elements.
//!
//! ```text
//! ziplist   bytes u32 | last entry's offset u32 | count u16 | entries | FF
//!   entry   length of the entry before (1 byte, or FE and u32) | encoding | data
//! listpack  bytes u32 | count u16 | entries | FF
//!   entry   encoding | data | length of both, 7 bits a byte, to be read backwards
//! intset    bytes per integer u32 | count u32 | integers, ascending
//! zipmap    count u8 | fields and values, in turns | FF
//!   field   length (1 byte, or FE and u32) | data       value  length | free bytes u8 | data | free bytes
//! ```
//!
//! All numbers are little endian but the lengths of strings in a ziplist's entries. A count that does not fit its field is
//! all ones there and means nothing.
//!
//! A pack comes from outside, and Redis trusts it as it is: everything about it is checked here, the redundant parts too, so
//! that what is read has only one reading.
//!
//! Source: <https://rdb.fnordig.de/file_format.html> and <https://github.com/antirez/listpack/blob/master/listpack.md>.

/// How elements are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pack {
    Ziplist,
    Listpack,
    /// Fields, values and deadlines, in turns.
    ListpackWithDeadlines,
    Intset,
    Zipmap,
}

impl Pack {
    pub fn name(self) -> &'static str {
        match self {
            Pack::Ziplist => "ziplist",
            Pack::Listpack | Pack::ListpackWithDeadlines => "listpack",
            Pack::Intset => "intset",
            Pack::Zipmap => "zipmap",
        }
    }

    /// Visits the elements in their order; those of a zipmap are fields and values in turns.
    pub fn visit<'a>(self, bytes: &'a [u8], visit: impl FnMut(Element<'a>) -> Result<(), &'static str>) -> Unpacked {
        let reader = Reader { bytes, at: 0 };
        match self {
            Pack::Ziplist => ziplist(reader, visit),
            Pack::Listpack | Pack::ListpackWithDeadlines => listpack(reader, visit),
            Pack::Intset => intset(reader, visit),
            Pack::Zipmap => zipmap(reader, visit),
        }
    }
}

/// What is wrong with a pack, and at which of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed {
    pub problem: &'static str,
    pub at: usize,
}

type Unpacked = Result<(), Malformed>;

/// One element of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element<'a> {
    Bytes(&'a [u8]),
    /// A string that is the decimal form of this.
    Integer(i64),
}

impl<'a> Element<'a> {
    /// The string itself, written into `room` if it is a number.
    pub fn text<'r>(self, room: &'r mut itoa::Buffer) -> &'r [u8]
    where
        'a: 'r,
    {
        match self {
            Element::Bytes(bytes) => bytes,
            Element::Integer(integer) => room.format(integer).as_bytes(),
        }
    }
}

/// The end of a ziplist, a listpack or a zipmap.
const END: u8 = 0xFF;
/// A length of four bytes follows, in a ziplist or a zipmap.
const LONG: u8 = 0xFE;
/// The count of a pack that has more elements than its field can say.
const UNKNOWN_COUNT: u16 = u16::MAX;

const ENDS_EARLY: &str = "it ends early";
const WRONG_LENGTH: &str = "its length is another one than it says";
const WRONG_COUNT: &str = "it has another number of elements than it says";
const UNKNOWN_ENCODING: &str = "an element's encoding is unknown";

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn fail<T>(&self, problem: &'static str) -> Result<T, Malformed> {
        Err(Malformed { problem, at: self.at })
    }

    fn check(&self, is_so: bool, problem: &'static str) -> Unpacked {
        if is_so { Ok(()) } else { self.fail(problem) }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let Some(taken) = self.bytes[self.at..].get(..count) else { return self.fail(ENDS_EARLY) };
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        Ok(self.take(N)?.try_into().expect("N bytes were taken"))
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    /// A signed integer of `N` bytes.
    fn integer<'b, const N: usize>(&mut self) -> Result<Element<'b>, Malformed> {
        let mut wide = [0; 8];
        wide[8 - N..].copy_from_slice(&self.array::<N>()?);
        Ok(Element::Integer(i64::from_le_bytes(wide) >> (64 - 8 * N)))
    }

    fn string(&mut self, length: usize) -> Result<Element<'a>, Malformed> {
        self.take(length).map(Element::Bytes)
    }

    /// Whether the next byte is the end's, which must then be the last.
    fn at_end(&self) -> Result<bool, Malformed> {
        match self.bytes.get(self.at) {
            None => self.fail(ENDS_EARLY),
            Some(&END) if self.at + 1 == self.bytes.len() => Ok(true),
            Some(&END) => self.fail("it goes on behind its end"),
            Some(_) => Ok(false),
        }
    }

    fn length_field(&mut self) -> Unpacked {
        let length = u32::from_le_bytes(self.array()?);
        self.check(length as usize == self.bytes.len(), WRONG_LENGTH)
    }

    fn check_count(&self, said: u16, count: usize) -> Unpacked {
        self.check(said == UNKNOWN_COUNT || usize::from(said) == count, WRONG_COUNT)
    }

    fn visited(&self, result: Result<(), &'static str>) -> Unpacked {
        result.or_else(|problem| self.fail(problem))
    }
}

fn ziplist<'a>(mut reader: Reader<'a>, mut visit: impl FnMut(Element<'a>) -> Result<(), &'static str>) -> Unpacked {
    reader.length_field()?;
    let last_said = u32::from_le_bytes(reader.array()?) as usize;
    let count_said = u16::from_le_bytes(reader.array()?);
    let (mut count, mut before, mut last) = (0, 0, reader.at);
    while !reader.at_end()? {
        last = reader.at;
        let before_said = match reader.byte()? {
            LONG => u32::from_le_bytes(reader.array()?) as usize,
            length => length.into(),
        };
        reader.check(before_said == before, "an element is not as long as the next one says")?;
        let element = ziplist_element(&mut reader)?;
        let visited = visit(element);
        reader.visited(visited)?;
        before = reader.at - last;
        count += 1;
    }
    reader.check(last_said == last, "its last element is not where it says")?;
    reader.check_count(count_said, count)
}

fn ziplist_element<'a>(reader: &mut Reader<'a>) -> Result<Element<'a>, Malformed> {
    match reader.byte()? {
        length @ 0..0x40 => reader.string(length.into()),
        high @ 0x40..0x80 => {
            let length = usize::from(high & 0x3F) << 8 | usize::from(reader.byte()?);
            reader.string(length)
        }
        0x80 => {
            let length = u32::from_be_bytes(reader.array()?) as usize;
            reader.string(length)
        }
        0xC0 => reader.integer::<2>(),
        0xD0 => reader.integer::<4>(),
        0xE0 => reader.integer::<8>(),
        0xF0 => reader.integer::<3>(),
        0xFE => reader.integer::<1>(),
        small @ 0xF1..=0xFD => Ok(Element::Integer(i64::from(small & 0x0F) - 1)),
        _ => reader.fail(UNKNOWN_ENCODING),
    }
}

fn listpack<'a>(mut reader: Reader<'a>, mut visit: impl FnMut(Element<'a>) -> Result<(), &'static str>) -> Unpacked {
    reader.length_field()?;
    let count_said = u16::from_le_bytes(reader.array()?);
    let mut count = 0;
    while !reader.at_end()? {
        let start = reader.at;
        let element = listpack_element(&mut reader)?;
        let (length, size) = back_length(reader.at - start);
        let is_same = reader.take(size)? == &length[..size];
        reader.check(is_same, "an element is not as long as it says behind it")?;
        let visited = visit(element);
        reader.visited(visited)?;
        count += 1;
    }
    reader.check_count(count_said, count)
}

fn listpack_element<'a>(reader: &mut Reader<'a>) -> Result<Element<'a>, Malformed> {
    match reader.byte()? {
        small @ 0..0x80 => Ok(Element::Integer(small.into())),
        length @ 0x80..0xC0 => reader.string((length & 0x3F).into()),
        high @ 0xC0..0xE0 => {
            let bits = i16::from(high & 0x1F) << 8 | i16::from(reader.byte()?);
            Ok(Element::Integer((bits << 3 >> 3).into()))
        }
        high @ 0xE0..0xF0 => {
            let length = usize::from(high & 0x0F) << 8 | usize::from(reader.byte()?);
            reader.string(length)
        }
        0xF0 => {
            let length = u32::from_le_bytes(reader.array()?) as usize;
            reader.string(length)
        }
        0xF1 => reader.integer::<2>(),
        0xF2 => reader.integer::<3>(),
        0xF3 => reader.integer::<4>(),
        0xF4 => reader.integer::<8>(),
        _ => reader.fail(UNKNOWN_ENCODING),
    }
}

/// A length as it stands behind a listpack's element, and how many bytes that takes.
fn back_length(length: usize) -> ([u8; 5], usize) {
    // The limits are as they are in the servers: one less than what would fit.
    let size = match length {
        0..=127 => 1,
        128..16_383 => 2,
        16_383..2_097_151 => 3,
        2_097_151..268_435_455 => 4,
        _ => 5,
    };
    let mut bytes = [0; 5];
    for (index, byte) in bytes[..size].iter_mut().enumerate() {
        let continues = if index == 0 { 0 } else { 0x80 };
        *byte = (length >> (7 * (size - 1 - index)) & 0x7F) as u8 | continues;
    }
    (bytes, size)
}

fn intset<'a>(mut reader: Reader<'a>, mut visit: impl FnMut(Element<'a>) -> Result<(), &'static str>) -> Unpacked {
    let size = u32::from_le_bytes(reader.array()?);
    let count = u32::from_le_bytes(reader.array()?);
    let read = match size {
        2 => Reader::integer::<2>,
        4 => Reader::integer::<4>,
        8 => Reader::integer::<8>,
        _ => return reader.fail("the size of its integers is none of 2, 4 and 8"),
    };
    let length = u64::from(size) * u64::from(count);
    reader.check(length == (reader.bytes.len() - reader.at) as u64, WRONG_LENGTH)?;
    let mut before = None;
    while reader.at < reader.bytes.len() {
        let element = read(&mut reader)?;
        let Element::Integer(integer) = element else { unreachable!("an integer was read") };
        reader.check(before.is_none_or(|before| before < integer), "its integers do not ascend")?;
        before = Some(integer);
        let visited = visit(element);
        reader.visited(visited)?;
    }
    Ok(())
}

fn zipmap<'a>(mut reader: Reader<'a>, mut visit: impl FnMut(Element<'a>) -> Result<(), &'static str>) -> Unpacked {
    let count_said = reader.byte()?;
    let mut count = 0;
    while !reader.at_end()? {
        let length = zipmap_length(&mut reader)?;
        let visited = visit(reader.string(length)?);
        reader.visited(visited)?;
        let length = zipmap_length(&mut reader)?;
        let free = reader.byte()?;
        let visited = visit(reader.string(length)?);
        reader.visited(visited)?;
        reader.take(free.into())?;
        count += 1;
    }
    reader.check(count_said >= LONG || usize::from(count_said) == count, WRONG_COUNT)
}

fn zipmap_length(reader: &mut Reader) -> Result<usize, Malformed> {
    match reader.byte()? {
        LONG => Ok(u32::from_le_bytes(reader.array()?) as usize),
        END => reader.fail("a length is missing"),
        length => Ok(length.into()),
    }
}
