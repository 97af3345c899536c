//! Sets: different strings.

use super::map::Map;

/// Different strings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Set {
    members: Map<()>,
    is_big: bool,
}

/// From here on Redis keeps a set of integers in a table.
const SMALL_LEN_MAX: usize = 512;

impl Set {
    /// An empty set.
    pub fn new() -> Set {
        Set::default()
    }

    /// How many members it has.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether it has no member.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// What it takes on the heap, in bytes.
    pub fn heap_bytes(&self) -> usize {
        self.members.heap_bytes()
    }

    /// What a clone takes on the heap that the original does not share, in bytes.
    pub fn clone_bytes(&self) -> usize {
        self.members.clone_bytes()
    }

    /// The encoding that Redis would have chosen, as OBJECT ENCODING names it.
    pub fn encoding(&self) -> &'static str {
        if self.is_big { "hashtable" } else { "intset" }
    }

    /// The members, in no order that matters.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.members.iter().map(|(member, ())| member)
    }

    /// Whether it has this member.
    pub fn contains(&self, member: &[u8]) -> bool {
        self.members.get(member).is_some()
    }

    /// Adds a member; true if it is new.
    pub fn insert(&mut self, member: &[u8]) -> bool {
        let is_new = self.members.insert(member, ()).is_none();
        self.is_big |= self.len() > SMALL_LEN_MAX || crate::number::parse_i64(member).is_none();
        is_new
    }

    /// Removes a member; false if it was not there.
    pub fn remove(&mut self, member: &[u8]) -> bool {
        self.members.remove(member).is_some()
    }
}
