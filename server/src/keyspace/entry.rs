//! One key with its value and deadline, in one cell of memory.
//!
//! ```text
//! | key length u16 | value length u16 | flags u8 | last use 24 bits | [deadline i64] | [*Value] | key … | value … |
//! ```
//!
//! The deadline is there only if the flags say so; a string of up to [`INLINE_MAX`] bytes lies behind the key, anything
//! else is a boxed [`Value`] whose pointer takes the value's place. So a read of a small key costs one cache miss here.
//! The value of a key longer than 65,535 bytes is always boxed, and its length's place has the rest of the key's. What the
//! bits of the last use say is a matter of `access`.

use super::access::{ACCESS_BITS, AccessClock, Use};
use super::slab::{Slab, cell_size};
use crate::value::{Value, ValueRef};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

/// The longest string kept inside its entry, in bytes.
pub(super) const INLINE_MAX: usize = 4096;

const HAS_DEADLINE: u8 = 1;
const IS_BOXED: u8 = 2;
const HAS_LONG_KEY: u8 = 4;
/// The string was edited where it is: `OBJECT ENCODING` tells that until it is set anew.
const IS_EDITED: u8 = 8;

/// The longest key whose length needs no second place, in bytes.
const KEY_MAX: usize = u16::MAX as usize;

#[repr(C, align(8))]
struct Header {
    /// The lower half of it.
    key_len: u16,
    /// The upper half of a long key's length, or that of an inline value.
    inline_len: u16,
    /// The flags in the lowest byte, the last use above.
    flags_and_access: u32,
}

impl Header {
    fn new(shape: Shape, access: u32) -> Header {
        let upper = if shape.flags & HAS_LONG_KEY != 0 { shape.key_len >> 16 } else { shape.inline_len };
        Header {
            key_len: shape.key_len as u16,
            inline_len: upper as u16,
            flags_and_access: access << FLAG_BITS | u32::from(shape.flags),
        }
    }
}

const FLAG_BITS: u32 = u32::BITS - ACCESS_BITS;

const HEADER: usize = size_of::<Header>();
const WORD: usize = 8;

/// What an entry is made from.
pub(super) enum Content<'a> {
    Inline(&'a [u8]),
    Boxed(Box<Value>),
}

impl<'a> Content<'a> {
    /// A string, inline if it is short enough.
    pub(super) fn str(value: &'a [u8]) -> Content<'a> {
        if value.len() <= INLINE_MAX {
            Content::Inline(value)
        } else {
            Content::Boxed(Value::Str(value.to_vec()).into())
        }
    }

    /// The same, boxed if the key is so long that nothing may lie beside it.
    pub(super) fn beside(self, key: &[u8]) -> Content<'a> {
        match self {
            Content::Inline(value) if key.len() > KEY_MAX => Content::Boxed(Value::Str(value.to_vec()).into()),
            content => content,
        }
    }
}

/// The address of an entry: what a slot holds. Its table owns the entry and alone may change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry(NonNull<Header>);

/// One stored entry, borrowed from the keyspace.
#[derive(Clone, Copy)]
pub struct EntryRef<'a> {
    header: NonNull<Header>,
    keyspace: PhantomData<&'a Header>,
}

/// The lengths and flags from which an entry's layout follows.
#[derive(Clone, Copy)]
struct Shape {
    key_len: usize,
    inline_len: usize,
    flags: u8,
}

impl Shape {
    fn new(key: &[u8], deadline_ms: Option<i64>, content: &Content<'_>) -> Shape {
        let long = if key.len() > KEY_MAX { HAS_LONG_KEY } else { 0 };
        let flags = if deadline_ms.is_some() { HAS_DEADLINE } else { 0 } | long;
        match content {
            Content::Inline(value) => Shape { key_len: key.len(), inline_len: value.len(), flags },
            Content::Boxed(_) => Shape { key_len: key.len(), inline_len: 0, flags: flags | IS_BOXED },
        }
    }

    fn boxed_at(self) -> usize {
        HEADER + if self.flags & HAS_DEADLINE != 0 { WORD } else { 0 }
    }

    fn key_at(self) -> usize {
        self.boxed_at() + if self.flags & IS_BOXED != 0 { WORD } else { 0 }
    }

    fn value_at(self) -> usize {
        self.key_at() + self.key_len
    }

    fn size(self) -> usize {
        self.value_at() + self.inline_len
    }
}

impl Entry {
    /// The entry at an address that [`Entry::address`] gave.
    pub(super) fn at(address: NonNull<u8>) -> Entry {
        Entry(address.cast())
    }

    pub(super) fn address(self) -> NonNull<u8> {
        self.0.cast()
    }

    /// Writes a new entry into a cell of `slab`. The content is one that may lie [beside](Content::beside) the key.
    pub(super) fn create(
        slab: &mut Slab,
        key: &[u8],
        deadline_ms: Option<i64>,
        content: Content<'_>,
        access: u32,
    ) -> Entry {
        let shape = Shape::new(key, deadline_ms, &content);
        u32::try_from(key.len()).expect("requests and RDB files are limited to keys of 512 MiB");
        let start = slab.alloc(shape.size()).as_ptr();
        // SAFETY: the cell has `shape.size()` bytes, is aligned to 8 and ours; each field is written where `Shape` puts it.
        unsafe {
            start.cast::<Header>().write(Header::new(shape, access));
            if let Some(deadline_ms) = deadline_ms {
                start.add(HEADER).cast::<i64>().write(deadline_ms);
            }
            ptr::copy_nonoverlapping(key.as_ptr(), start.add(shape.key_at()), key.len());
            match content {
                Content::Inline(value) => {
                    ptr::copy_nonoverlapping(value.as_ptr(), start.add(shape.value_at()), value.len());
                }
                Content::Boxed(value) => start.add(shape.boxed_at()).cast::<*mut Value>().write(Box::into_raw(value)),
            }
            Entry(NonNull::new_unchecked(start.cast()))
        }
    }

    /// # Safety
    /// The entry lives, and is not changed, as long as `'a`.
    pub(super) unsafe fn as_ref<'a>(self) -> EntryRef<'a> {
        EntryRef { header: self.0, keyspace: PhantomData }
    }

    /// Writes another string and deadline over the present ones if the entry keeps its layout and its cell.
    ///
    /// # Safety
    /// The entry lives and nobody borrows it.
    pub(super) unsafe fn overwrite(self, value: &[u8], deadline_ms: Option<i64>) -> bool {
        // SAFETY: by the contract.
        let old = unsafe { self.as_ref() }.shape();
        let flags = if deadline_ms.is_some() { HAS_DEADLINE } else { 0 };
        if old.flags != flags || value.len() > INLINE_MAX {
            return false;
        }
        let new = Shape { inline_len: value.len(), ..old };
        if cell_size(new.size()) != cell_size(old.size()) {
            return false;
        }
        let start = self.address().as_ptr();
        // SAFETY: the new shape fits the same cell, and the value's place does not depend on its length.
        unsafe {
            (*self.0.as_ptr()).inline_len = value.len() as u16;
            ptr::copy_nonoverlapping(value.as_ptr(), start.add(new.value_at()), value.len());
            if let Some(deadline_ms) = deadline_ms {
                start.add(HEADER).cast::<i64>().write(deadline_ms);
            }
        }
        true
    }

    /// Changes the deadline of an entry that has one; false if it has none.
    ///
    /// # Safety
    /// The entry lives and nobody borrows it.
    pub(super) unsafe fn move_deadline(self, deadline_ms: i64) -> bool {
        // SAFETY: by the contract; the flag says that the field is there.
        unsafe {
            let has = self.as_ref().deadline_ms().is_some();
            if has {
                self.address().as_ptr().add(HEADER).cast::<i64>().write(deadline_ms);
            }
            has
        }
    }

    /// Notes a use.
    ///
    /// # Safety
    /// The entry lives, and no other thread knows it.
    pub(super) unsafe fn set_access(self, access: u32) {
        // SAFETY: by the contract; references to a header end with the function that makes them.
        unsafe {
            let field = &raw mut (*self.0.as_ptr()).flags_and_access;
            field.write(access << FLAG_BITS | field.read() & u32::from(u8::MAX));
        }
    }

    /// Its string was edited.
    ///
    /// # Safety
    /// The entry lives and nobody borrows it.
    pub(super) unsafe fn mark_edited(self) {
        // SAFETY: by the contract.
        unsafe { (*self.0.as_ptr()).flags_and_access |= u32::from(IS_EDITED) };
    }

    /// The boxed value, to be changed.
    ///
    /// # Safety
    /// The entry lives, and nobody else uses it during `'a`.
    pub(super) unsafe fn boxed_mut<'a>(self) -> Option<&'a mut Value> {
        // SAFETY: by the contract.
        unsafe { self.boxed_ptr().map(|value| &mut *value) }
    }

    /// Where the boxed value is, if there is one.
    ///
    /// # Safety
    /// The entry lives.
    pub(super) unsafe fn boxed(self) -> Option<*const Value> {
        // SAFETY: by the contract.
        unsafe { self.boxed_ptr().map(<*mut Value>::cast_const) }
    }

    /// Moves the content out. Only [`Entry::free`] may follow.
    ///
    /// # Safety
    /// The entry lives; a string it holds inline stays where it is, so it must not be freed during `'a`.
    pub(super) unsafe fn content<'a>(self) -> Content<'a> {
        // SAFETY: by the contract; the box came from `create` and leaves once.
        unsafe {
            match self.boxed_ptr() {
                Some(value) => Content::Boxed(Box::from_raw(value)),
                None => Content::Inline(self.as_ref::<'a>().inline()),
            }
        }
    }

    /// Gives the cell back; a boxed value must have been moved out.
    ///
    /// # Safety
    /// The entry was created from this slab and is not used afterwards.
    pub(super) unsafe fn free(self, slab: &mut Slab) {
        // SAFETY: by the contract; `overwrite` keeps the cell size of the shape.
        unsafe {
            let size = self.as_ref().shape().size();
            slab.free(self.address(), size);
        }
    }

    /// # Safety
    /// The entry lives.
    unsafe fn boxed_ptr(self) -> Option<*mut Value> {
        // SAFETY: by the contract; the flag says that the field is there.
        unsafe {
            let shape = self.as_ref().shape();
            let field = self.address().as_ptr().add(shape.boxed_at()).cast::<*mut Value>();
            (shape.flags & IS_BOXED != 0).then(|| field.read())
        }
    }
}

impl<'a> EntryRef<'a> {
    fn shape(self) -> Shape {
        // SAFETY: the entry lives for 'a.
        let header = unsafe { self.header.as_ref() };
        let (lower, upper, flags) =
            (usize::from(header.key_len), usize::from(header.inline_len), header.flags_and_access as u8);
        if flags & HAS_LONG_KEY != 0 {
            return Shape { key_len: upper << 16 | lower, inline_len: 0, flags };
        }
        Shape { key_len: lower, inline_len: upper, flags }
    }

    /// `len` bytes from `offset`.
    ///
    /// # Safety
    /// They lie within the entry.
    unsafe fn slice(self, offset: usize, len: usize) -> &'a [u8] {
        // SAFETY: by the contract, and the entry lives unchanged for 'a.
        unsafe { std::slice::from_raw_parts(self.header.as_ptr().cast::<u8>().add(offset), len) }
    }

    /// The key.
    pub fn key(self) -> &'a [u8] {
        let shape = self.shape();
        // SAFETY: that is where `Shape` puts the key.
        unsafe { self.slice(shape.key_at(), shape.key_len) }
    }

    /// The value.
    pub fn value(self) -> ValueRef<'a> {
        // SAFETY: a boxed entry has a box for as long as it lives.
        unsafe {
            match Entry(self.header).boxed_ptr() {
                Some(value) => (&*value).borrow(),
                None => ValueRef::Str(self.inline()),
            }
        }
    }

    /// The string that lies in the entry; none does if the value is boxed.
    pub(super) fn inline(self) -> &'a [u8] {
        let shape = self.shape();
        // SAFETY: that is where `Shape` puts it, and its length is 0 if it is not there.
        unsafe { self.slice(shape.value_at(), shape.inline_len) }
    }

    /// When it expires, in milliseconds since the Unix epoch.
    pub fn deadline_ms(self) -> Option<i64> {
        let has = self.shape().flags & HAS_DEADLINE != 0;
        // SAFETY: the flag says that the field follows the header; it is aligned to 8.
        has.then(|| unsafe { self.header.add(1).cast::<i64>().read() })
    }

    /// The bits that say when or how often it was used.
    pub(super) fn access(self) -> u32 {
        // SAFETY: the entry lives for 'a.
        unsafe { self.header.as_ref() }.flags_and_access >> FLAG_BITS
    }

    /// It is used, as the key of this hash.
    #[inline]
    pub fn touch(self, clock: &AccessClock, hash: u64) {
        let old = self.access();
        let new = clock.used(old, hash);
        // Mostly it was used within the same second before: then its memory stays as it is.
        if new != old {
            self.set_last_use(new);
        }
    }

    pub(super) fn set_last_use(self, bits: u32) {
        // SAFETY: the entry lives, and belongs to this thread.
        unsafe { Entry(self.header).set_access(bits) };
    }

    /// The bits that say so, for those who look for a mistake.
    pub fn last_use_bits(self) -> u32 {
        self.access()
    }

    /// How long ago it was used, in seconds, if that is what is noted.
    pub fn idle_seconds(self, clock: &AccessClock) -> u64 {
        clock.idle_seconds(self.access())
    }

    /// How often it was used, if that is what is noted.
    pub fn frequency(self, clock: &AccessClock) -> u8 {
        clock.frequency(self.access())
    }

    /// When or how often it was used.
    pub fn last_use(self, clock: &AccessClock) -> Use {
        clock.use_of(self.access())
    }

    /// Whether its deadline lies before `now_ms`; as in Redis, a key still lives in the millisecond of its deadline.
    pub fn is_expired(self, now_ms: i64) -> bool {
        self.deadline_ms().is_some_and(|deadline_ms| deadline_ms < now_ms)
    }

    /// What the key, its value and its deadline take, in bytes.
    pub fn memory_bytes(self) -> usize {
        // SAFETY: the entry lives for 'a, and so does its box.
        let boxed = unsafe { Entry(self.header).boxed_ptr().map(|value| (*value).heap_bytes()) };
        cell_size(self.shape().size()) + boxed.unwrap_or(0)
    }

    /// The encoding that Redis would have chosen, as OBJECT ENCODING names it.
    pub fn encoding(self) -> &'static str {
        if self.shape().flags & IS_EDITED != 0 { "raw" } else { self.value().encoding() }
    }

    /// The type's name, as TYPE replies it.
    pub fn type_name(self) -> &'static str {
        self.value().type_name()
    }
}

impl std::fmt::Debug for EntryRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EntryRef")
            .field("key", &self.key().escape_ascii().to_string())
            .field("value", &self.value())
            .field("deadline_ms", &self.deadline_ms())
            .finish()
    }
}
