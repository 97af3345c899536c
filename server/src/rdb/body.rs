//! What follows a key: a value, encoded as the type byte before the key says.

use super::cursor::{Cursor, Stop, Text, parse_score};
use super::packed::{Element, Malformed, Pack};
use super::{RdbError, VERSION_VALKEY, kind, stream};
use crate::value::{Hash, List, Set, SmallForms, SortedSet, Stream, Value};

/// The beginning of a value.
pub enum Body<'a> {
    Str(Text<'a>),
    Aggregate(Parts),
    /// Nothing of it has been read.
    Unsupported(&'static str),
}

/// An aggregate whose parts are read one by one.
pub struct Parts {
    /// How each of the parts that are still to come is encoded.
    part: Part,
    left: u64,
    value: Value,
    forms: SmallForms,
}

#[derive(Clone, Copy)]
enum Part {
    /// An element; the field or member before a value or score.
    Element,
    /// A member and its score in decimal.
    DecimalScore,
    /// Many elements, packed.
    Pack(Pack),
    /// A length that says whether one element follows or many, packed.
    Node,
    /// A deadline, so many milliseconds after this one, a field and its value.
    DeadlineAndField(u64),
    /// A field, its value and its deadline.
    FieldAndDeadline,
    /// A block of a stream of this kind; the last is what follows them.
    Stream(u8),
}

/// Whether a node of a list is an element or packs many.
const NODE_PLAIN: u64 = 1;
const NODE_PACKED: u64 = 2;

/// Room for two strings that do not lie in the image as they are.
#[derive(Default)]
pub struct Rooms {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
}

impl<'a> Body<'a> {
    /// Whether a type byte is known to be one.
    pub fn exists(kind: u8) -> bool {
        matches!(kind, 0..=7 | 9..=25)
    }

    /// Begins to read a value of a kind that exists.
    #[inline]
    pub fn read(kind: u8, version: u32, cursor: &mut Cursor<'a>, forms: SmallForms) -> Result<Self, Stop> {
        if kind == kind::STRING { Ok(Body::Str(cursor.text()?)) } else { Body::begin(kind, version, cursor, forms) }
    }

    fn begin(kind: u8, version: u32, cursor: &mut Cursor<'a>, forms: SmallForms) -> Result<Self, Stop> {
        let list = || Value::List(List::new());
        let hash = || Value::Hash(Hash::new());
        let set = || Value::Set(Set::new());
        let sorted_set = || Value::SortedSet(SortedSet::new());
        let (part, left, value) = match kind {
            kind::LIST => (Part::Element, cursor.length()?, list()),
            kind::SET => (Part::Element, cursor.length()?, set()),
            kind::SORTED_SET => (Part::DecimalScore, cursor.length()?, sorted_set()),
            kind::HASH => (Part::Element, cursor.length()?, hash()),
            kind::SORTED_SET_2 => (Part::Element, cursor.length()?, sorted_set()),
            kind::HASH_ZIPMAP => (Part::Pack(Pack::Zipmap), 1, hash()),
            kind::LIST_ZIPLIST => (Part::Pack(Pack::Ziplist), 1, list()),
            kind::SET_INTSET => (Part::Pack(Pack::Intset), 1, set()),
            kind::SORTED_SET_ZIPLIST => (Part::Pack(Pack::Ziplist), 1, sorted_set()),
            kind::HASH_ZIPLIST => (Part::Pack(Pack::Ziplist), 1, hash()),
            kind::LIST_QUICKLIST => (Part::Pack(Pack::Ziplist), cursor.length()?, list()),
            kind::HASH_LISTPACK => (Part::Pack(Pack::Listpack), 1, hash()),
            kind::SORTED_SET_LISTPACK => (Part::Pack(Pack::Listpack), 1, sorted_set()),
            kind::LIST_QUICKLIST_2 => (Part::Node, cursor.length()?, list()),
            kind::SET_LISTPACK => (Part::Pack(Pack::Listpack), 1, set()),
            6 | 7 => return Ok(Body::Unsupported("module")),
            kind::STREAM | kind::STREAM_2 | kind::STREAM_3 => {
                (Part::Stream(kind), cursor.length()?.saturating_add(1), Value::Stream(Stream::new()))
            }
            kind::HASH_VALKEY if version == VERSION_VALKEY => (Part::FieldAndDeadline, cursor.length()?, hash()),
            _ if version == VERSION_VALKEY => return Ok(Body::Unsupported("that only Redis has")),
            kind::HASH_METADATA_PRE_GA => (Part::DeadlineAndField(1), cursor.length()?, hash()),
            kind::HASH_METADATA => {
                let earliest_ms = u64::from_le_bytes(cursor.array()?);
                (Part::DeadlineAndField(earliest_ms), cursor.length()?, hash())
            }
            kind::HASH_LISTPACK_EX_PRE_GA => (Part::Pack(Pack::ListpackWithDeadlines), 1, hash()),
            kind::HASH_LISTPACK_EX => {
                let _earliest_ms = cursor.array::<8>()?;
                (Part::Pack(Pack::ListpackWithDeadlines), 1, hash())
            }
            _ => unreachable!("there is no such kind"),
        };
        Ok(Body::Aggregate(Parts { part, left, value, forms }))
    }
}

impl Parts {
    /// Adds all the parts that have arrived completely, so that the cursor is behind the last of them. What `Needs` says
    /// is counted from there.
    pub fn advance(&mut self, cursor: &mut Cursor, rooms: &mut Rooms) -> Result<(), Stop> {
        while self.left > 0 {
            let start = cursor.at;
            if let Err(stop) = self.part(cursor, rooms) {
                cursor.at = start;
                return Err(match stop {
                    Stop::Needs(bytes) => Stop::Needs(bytes - start),
                    error => error,
                });
            }
            self.left -= 1;
        }
        Ok(())
    }

    /// The value, when all parts are there; `None` if there were none, since nobody keeps an empty one.
    pub fn finish(self) -> Option<Value> {
        let is_empty = match &self.value {
            Value::Str(_) => false,
            Value::List(list) => list.is_empty(),
            Value::Hash(hash) => hash.is_empty(),
            Value::Set(set) => set.is_empty(),
            Value::SortedSet(set) => set.is_empty(),
            Value::Stream(stream) => stream.is_empty(),
        };
        (!is_empty).then_some(self.value)
    }

    fn part(&mut self, cursor: &mut Cursor, rooms: &mut Rooms) -> Result<(), Stop> {
        let offset = cursor.place();
        match self.part {
            Part::Element => self.element(cursor, rooms),
            Part::DecimalScore => {
                let (member, score) = (cursor.text()?, cursor.decimal_score()?);
                self.add_scored(member.plain(&mut rooms.key)?, score, offset)
            }
            Part::Pack(pack) => self.pack(pack, cursor, rooms),
            Part::Stream(kind) => {
                let Value::Stream(stream) = &mut self.value else { unreachable!("only streams have blocks") };
                match self.left {
                    1 => stream::read_rest(stream, kind, cursor),
                    _ => stream::read_block(stream, cursor, &mut rooms.value),
                }
            }
            Part::DeadlineAndField(base_ms) => {
                let behind_ms = cursor.length()?;
                let deadline_ms = base_ms.wrapping_add(behind_ms).wrapping_sub(1) as i64;
                self.field(cursor, rooms, |_| Ok((behind_ms > 0).then_some(deadline_ms)))
            }
            Part::FieldAndDeadline => self.field(cursor, rooms, |cursor| {
                let deadline_ms = i64::from_le_bytes(cursor.array()?);
                Ok((deadline_ms != -1).then_some(deadline_ms))
            }),
            Part::Node => match cursor.length()? {
                NODE_PLAIN => self.element(cursor, rooms),
                NODE_PACKED => self.pack(Pack::Listpack, cursor, rooms),
                kind => Err(RdbError::ListNode { kind, offset }.into()),
            },
        }
    }

    fn element(&mut self, cursor: &mut Cursor, rooms: &mut Rooms) -> Result<(), Stop> {
        let offset = cursor.place();
        let (first, forms) = (cursor.text()?, self.forms);
        let is_new = match &mut self.value {
            Value::Str(_) | Value::Stream(_) => unreachable!("it has no elements"),
            Value::List(list) => {
                list.push_back(first.plain(&mut rooms.key)?);
                true
            }
            Value::Set(set) => set.insert(first.plain(&mut rooms.key)?, forms.integers_max),
            Value::Hash(hash) => {
                let value = cursor.text()?;
                hash.insert(first.plain(&mut rooms.key)?, value.plain(&mut rooms.value)?, forms.hash)
            }
            Value::SortedSet(set) => {
                let score = cursor.score()?;
                set.insert(first.plain(&mut rooms.key)?, score, forms.sorted_set)
            }
        };
        if is_new { Ok(()) } else { Err(self.duplicate(offset)) }
    }

    /// A field with its value, and a deadline that is known or comes behind it.
    fn field(
        &mut self,
        cursor: &mut Cursor,
        rooms: &mut Rooms,
        deadline_ms: impl FnOnce(&mut Cursor) -> Result<Option<i64>, Stop>,
    ) -> Result<(), Stop> {
        let offset = cursor.place();
        let (field, value) = (cursor.text()?, cursor.text()?);
        let deadline_ms = deadline_ms(cursor)?;
        let Value::Hash(hash) = &mut self.value else { unreachable!("only hashes have fields") };
        let field = field.plain(&mut rooms.key)?;
        let is_new = hash.insert(field, value.plain(&mut rooms.value)?, self.forms.hash);
        hash.set_deadline(field, deadline_ms);
        if is_new { Ok(()) } else { Err(self.duplicate(offset)) }
    }

    fn add_scored(&mut self, member: &[u8], score: f64, offset: u64) -> Result<(), Stop> {
        let Value::SortedSet(set) = &mut self.value else { unreachable!("only sorted sets have scores") };
        if set.insert(member, score, self.forms.sorted_set) { Ok(()) } else { Err(self.duplicate(offset)) }
    }

    fn duplicate(&self, offset: u64) -> Stop {
        RdbError::Duplicate { type_name: self.value.borrow().type_name(), offset }.into()
    }

    fn pack(&mut self, pack: Pack, cursor: &mut Cursor, rooms: &mut Rooms) -> Result<(), Stop> {
        let offset = cursor.place();
        let bytes = cursor.text()?.plain(&mut rooms.value)?;
        unpack(pack, bytes, &mut self.value, self.forms)
            .map_err(|Malformed { problem, at }| RdbError::Packed { form: pack.name(), problem, at, offset }.into())
    }
}

/// Adds the elements of a pack to a value.
fn unpack<'a>(pack: Pack, bytes: &'a [u8], value: &mut Value, forms: SmallForms) -> Result<(), Malformed> {
    let (mut room, mut value_room) = (itoa::Buffer::new(), itoa::Buffer::new());
    // The field or member that waits for its value or score.
    let mut first: Option<Element<'a>> = None;
    // The field that has its value and waits for its deadline.
    let mut dated: Option<Element<'a>> = None;
    pack.visit(bytes, |element| {
        if let (Some(field), Value::Hash(hash)) = (dated.take(), &mut *value) {
            let Element::Integer(deadline_ms) = element else { return Err("a deadline is not a number") };
            hash.set_deadline(field.text(&mut room), (deadline_ms != 0).then_some(deadline_ms));
            return Ok(());
        }
        let is_new = match (&mut *value, first.take()) {
            (Value::Str(_) | Value::Stream(_), _) => unreachable!("it has no elements"),
            (Value::List(list), _) => {
                list.push_back(element.text(&mut room));
                true
            }
            (Value::Set(set), _) => set.insert(element.text(&mut room), forms.integers_max),
            (Value::Hash(_) | Value::SortedSet(_), None) => {
                first = Some(element);
                true
            }
            (Value::Hash(hash), Some(field)) => {
                dated = (pack == Pack::ListpackWithDeadlines).then_some(field);
                hash.insert(field.text(&mut room), element.text(&mut value_room), forms.hash)
            }
            (Value::SortedSet(set), Some(member)) => {
                let score = score(element).ok_or("a score is not a number")?;
                set.insert(member.text(&mut room), score, forms.sorted_set)
            }
        };
        if is_new { Ok(()) } else { Err("an element is there twice") }
    })?;
    match first.or(dated) {
        None => Ok(()),
        Some(_) => Err(Malformed { problem: "the last element lacks its counterpart", at: bytes.len() }),
    }
}

fn score(element: Element) -> Option<f64> {
    match element {
        Element::Bytes(digits) => parse_score(digits),
        Element::Integer(integer) => Some(integer as f64),
    }
}
