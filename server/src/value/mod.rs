//! What keys hold: strings, lists, hashes, sets, sorted sets and streams.
//!
//! A string is bytes. The five aggregates have a module each, and all of them promise the same:
//!
//! - A clone is cheap whatever the size: big forms are trees or tables of `Arc` nodes that clones share, small ones are a
//!   flat copy. A write copies the nodes it touches if they are shared. So a snapshot takes a clone between two commands,
//!   and another thread reads it while commands go on.
//! - `heap_bytes` and `clone_bytes` are known, not counted.
//! - An empty one is never stored: a key whose last element goes, goes with it. Only a stream without entries is still one.

mod counted;
mod dice;
mod digest;
mod flat;
mod hash;
mod hyperloglog;
mod list;
mod map;
mod record;
mod set;
pub mod sorted_set;
pub mod stream;

pub use dice::Dice;
pub use digest::digest;
pub use hash::{Field, Hash, Live};
pub use hyperloglog::{Corrupt, HyperLogLog, Registers, Run};
pub use list::{End, List};
pub use map::Map;
pub use set::{Member, Set};
pub use sorted_set::SortedSet;
pub use stream::Stream;

/// Up to which size a value keeps the form that takes least memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SmallForm {
    /// So many elements.
    pub len_max: usize,
    /// So many bytes in each string.
    pub string_bytes_max: usize,
}

/// The same for every type that has such a form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SmallForms {
    /// Of hashes.
    pub hash: SmallForm,
    /// Of sorted sets.
    pub sorted_set: SmallForm,
    /// Of sets of nothing but integers: so many members.
    pub integers_max: usize,
}

impl Default for SmallForms {
    fn default() -> Self {
        SmallForms {
            hash: SmallForm { len_max: 512, string_bytes_max: 64 },
            sorted_set: SmallForm { len_max: 128, string_bytes_max: 64 },
            integers_max: 512,
        }
    }
}

impl SmallForm {
    fn takes(self, string: &[u8]) -> bool {
        string.len() <= self.string_bytes_max
    }
}

use crate::number::parse_i64;

/// An owned value; every data type is a variant.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A string.
    Str(Vec<u8>),
    /// A list.
    List(List),
    /// A hash.
    Hash(Hash),
    /// A set.
    Set(Set),
    /// A sorted set.
    SortedSet(SortedSet),
    /// A stream.
    Stream(Stream),
}

/// What the allocator gives in one piece without loss; every key of another type than a string has such a box.
const _: () = assert!(size_of::<Value>() <= 32);

/// A borrowed value, wherever it is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ValueRef<'a> {
    /// A string.
    Str(&'a [u8]),
    /// A list.
    List(&'a List),
    /// A hash.
    Hash(&'a Hash),
    /// A set.
    Set(&'a Set),
    /// A sorted set.
    SortedSet(&'a SortedSet),
    /// A stream.
    Stream(&'a Stream),
}

impl Value {
    /// The same value, borrowed.
    pub fn borrow(&self) -> ValueRef<'_> {
        match self {
            Value::Str(bytes) => ValueRef::Str(bytes),
            Value::List(list) => ValueRef::List(list),
            Value::Hash(hash) => ValueRef::Hash(hash),
            Value::Set(set) => ValueRef::Set(set),
            Value::SortedSet(set) => ValueRef::SortedSet(set),
            Value::Stream(stream) => ValueRef::Stream(stream),
        }
    }

    /// When the first field of a hash expires, if one does, in milliseconds since the epoch.
    #[inline]
    pub fn next_field_deadline_ms(&self) -> Option<i64> {
        if let Value::Hash(hash) = self { hash.next_deadline_ms() } else { None }
    }

    /// Where the elements, or the way to them, begin on the heap: what a cache may be asked for.
    pub fn elements_start(&self) -> *const u8 {
        match self {
            Value::Str(bytes) => bytes.as_ptr(),
            Value::List(list) => list.start(),
            Value::Hash(hash) => hash.start(),
            Value::Set(set) => set.start(),
            Value::SortedSet(set) => set.start(),
            Value::Stream(stream) => stream.start(),
        }
    }

    /// First step of a prefetch of an element that a big hash, set or sorted set has or will have: asks for where the way to
    /// it goes on, and returns what the second one needs; `None` if there is no such way.
    pub fn prefetch_segment(&self, element: &[u8]) -> Option<u64> {
        match self {
            Value::Hash(hash) => hash.table().map(|table| table.prefetch_segment(element)),
            Value::Set(set) => set.table().map(|table| table.prefetch_segment(element)),
            Value::SortedSet(set) => set.table().map(|table| table.prefetch_segment(element)),
            Value::Str(_) | Value::List(_) | Value::Stream(_) => None,
        }
    }

    /// Second step: asks for the place of the element.
    pub fn prefetch_place(&self, way: u64) {
        match self {
            Value::Hash(hash) => hash.table().into_iter().for_each(|table| table.prefetch_place(way)),
            Value::Set(set) => set.table().into_iter().for_each(|table| table.prefetch_place(way)),
            Value::SortedSet(set) => set.table().into_iter().for_each(|table| table.prefetch_place(way)),
            Value::Str(_) | Value::List(_) | Value::Stream(_) => {}
        }
    }

    /// What it takes when boxed, in bytes.
    pub fn heap_bytes(&self) -> usize {
        let own = match self {
            Value::Str(bytes) => bytes.capacity(),
            Value::List(list) => list.heap_bytes(),
            Value::Hash(hash) => hash.heap_bytes(),
            Value::Set(set) => set.heap_bytes(),
            Value::SortedSet(set) => set.heap_bytes(),
            Value::Stream(stream) => stream.heap_bytes(),
        };
        size_of::<Value>() + own
    }
}

impl ValueRef<'_> {
    /// The value on its own.
    pub fn to_value(self) -> Value {
        match self {
            ValueRef::Str(bytes) => Value::Str(bytes.to_vec()),
            ValueRef::List(list) => Value::List(list.clone()),
            ValueRef::Hash(hash) => Value::Hash(hash.clone()),
            ValueRef::Set(set) => Value::Set(set.clone()),
            ValueRef::SortedSet(set) => Value::SortedSet(set.clone()),
            ValueRef::Stream(stream) => Value::Stream(stream.clone()),
        }
    }

    /// The type's name, as TYPE replies it.
    pub fn type_name(self) -> &'static str {
        match self {
            ValueRef::Str(_) => "string",
            ValueRef::List(_) => "list",
            ValueRef::Hash(_) => "hash",
            ValueRef::Set(_) => "set",
            ValueRef::SortedSet(_) => "zset",
            ValueRef::Stream(_) => "stream",
        }
    }

    /// The encoding that Redis would have chosen, as OBJECT ENCODING names it.
    pub fn encoding(self) -> &'static str {
        /// Up to this size Redis keeps a string in its object.
        const EMBEDDED_BYTES_MAX: usize = 44;
        match self {
            ValueRef::Str(bytes) if parse_i64(bytes).is_some() => "int",
            ValueRef::Str(bytes) if bytes.len() <= EMBEDDED_BYTES_MAX => "embstr",
            ValueRef::Str(_) => "raw",
            ValueRef::List(list) => list.encoding(),
            ValueRef::Hash(hash) => hash.encoding(),
            ValueRef::Set(set) => set.encoding(),
            ValueRef::SortedSet(set) => set.encoding(),
            ValueRef::Stream(stream) => stream.encoding(),
        }
    }

    /// What [`ValueRef::to_value`] takes when boxed, in bytes: of what is shared, nothing.
    pub fn clone_bytes(self) -> usize {
        let own = match self {
            ValueRef::Str(bytes) => bytes.len(),
            ValueRef::List(list) => list.clone_bytes(),
            ValueRef::Hash(hash) => hash.clone_bytes(),
            ValueRef::Set(set) => set.clone_bytes(),
            ValueRef::SortedSet(set) => set.clone_bytes(),
            ValueRef::Stream(stream) => stream.clone_bytes(),
        };
        size_of::<Value>() + own
    }
}

mod sealed {
    pub trait Sealed {}
}

/// One of the types whose values have elements.
pub trait Aggregate: sealed::Sealed + Sized {
    /// One without elements.
    fn new() -> Self;
    /// Whether it has no element.
    fn is_empty(&self) -> bool;
    /// The value that it is.
    fn into_value(self) -> Value;
    /// What a value is, if it is of this type.
    fn of(value: ValueRef<'_>) -> Option<&Self>;
    /// What a value is, if it is of this type, to be changed.
    fn of_mut(value: &mut Value) -> Option<&mut Self>;
}

macro_rules! aggregate {
    ($type:ident) => {
        impl sealed::Sealed for $type {}

        impl Aggregate for $type {
            fn new() -> Self {
                $type::new()
            }

            fn is_empty(&self) -> bool {
                $type::is_empty(self)
            }

            fn into_value(self) -> Value {
                Value::$type(self)
            }

            fn of(value: ValueRef<'_>) -> Option<&Self> {
                match value {
                    ValueRef::$type(value) => Some(value),
                    _ => None,
                }
            }

            fn of_mut(value: &mut Value) -> Option<&mut Self> {
                match value {
                    Value::$type(value) => Some(value),
                    _ => None,
                }
            }
        }
    };
}

aggregate!(List);
aggregate!(Hash);
aggregate!(Set);
aggregate!(SortedSet);
aggregate!(Stream);

/// Makes room by less than a doubling: what grows a few dozen times is then there for long.
fn reserve<T>(list: &mut Vec<T>, added: usize) {
    if list.capacity() - list.len() < added {
        list.reserve_exact(added.max(list.len() / 4).max(4));
    }
}
