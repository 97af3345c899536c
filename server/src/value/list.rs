//! Lists: sequences of strings that are cheap to change at both ends and nowhere expensive.
//!
//! ```text
//! List ── One ──► Node                                        up to 8 KiB
//!      └─ Many ─► Directory ── Slot, Slot, Slot … ──► Node    each up to 8 KiB, or one element that is larger
//! Node      gap … | element | element | …                     one flat buffer; what was popped leaves a gap
//! element   length | bytes | length, last byte first          so that it can be read from either end
//! ```
//!
//! A length is a little-endian base-128 number: one byte up to 127. A slot knows how many elements its node has, so that
//! an index is found by adding up a few thousand numbers that lie side by side even in a list of ten million.
//!
//! Clones share the directory and the nodes: a write to a list that is shared copies the directory, which is one pointer
//! and one number per node, and the node it touches.

mod directory;
mod node;
#[cfg(test)]
mod tests;

use std::fmt;
use std::iter::FusedIterator;
use std::ops::Range;
use std::sync::Arc;

use directory::{Directory, Slot};
use node::{ARC_BYTES, Node};

/// A sequence of strings.
#[derive(Clone)]
pub struct List(Form);

#[derive(Clone)]
enum Form {
    One(Arc<Node>),
    Many(Arc<Directory>),
}

/// Whole.
impl List {
    /// An empty list.
    pub fn new() -> List {
        List(Form::One(Arc::default()))
    }

    /// How many elements it has.
    pub fn len(&self) -> usize {
        match &self.0 {
            Form::One(node) => node.len as usize,
            Form::Many(directory) => directory.len,
        }
    }

    /// Whether it has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the way to the elements begins.
    pub fn start(&self) -> *const u8 {
        match &self.0 {
            Form::One(node) => Arc::as_ptr(node).cast(),
            Form::Many(directory) => Arc::as_ptr(directory).cast(),
        }
    }

    /// What it takes on the heap, in bytes.
    pub fn heap_bytes(&self) -> usize {
        match &self.0 {
            Form::One(node) => node.heap_bytes(),
            Form::Many(directory) => {
                ARC_BYTES + size_of::<Directory>() + directory.slots.capacity() * size_of::<Slot>() + directory.bytes
            }
        }
    }

    /// What a clone takes on the heap that the original does not share, in bytes.
    pub fn clone_bytes(&self) -> usize {
        0
    }

    /// The encoding that Redis would have chosen, as OBJECT ENCODING names it.
    pub fn encoding(&self) -> &'static str {
        "quicklist"
    }
}

/// Elements. Those that take an index panic if there is no such element.
impl List {
    /// The elements, first to last.
    pub fn iter(&self) -> Iter<'_> {
        self.range(0..self.len())
    }

    /// The elements with these indices.
    pub fn range(&self, indices: Range<usize>) -> Iter<'_> {
        assert!(indices.start <= indices.end && indices.end <= self.len(), "the list has no such range");
        let nodes = self.nodes();
        let (front, back) = (nodes.locate(indices.start), nodes.locate(indices.end));
        Iter { nodes, front, back, left: indices.len() }
    }

    /// The element with this index, if there is one.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        if index >= self.len() {
            return None;
        }
        let (nodes, at) = (self.nodes(), self.nodes().locate(index));
        Some(&nodes.node(at.node).bytes[nodes.node(at.node).element(at.byte).content])
    }

    /// Puts another element in the place of one.
    pub fn set(&mut self, index: usize, element: &[u8]) {
        match &mut self.0 {
            Form::One(node) if node.fits(element) => Arc::make_mut(node).replace(index, element),
            _ => {
                self.directory().set(index, element);
                self.settle();
            }
        }
    }

    /// Adds a first element.
    pub fn push_front(&mut self, element: &[u8]) {
        match &mut self.0 {
            Form::One(node) if node.fits(element) => Arc::make_mut(node).push_front(element),
            _ => self.directory().push_front(element),
        }
    }

    /// Adds a last element.
    pub fn push_back(&mut self, element: &[u8]) {
        match &mut self.0 {
            Form::One(node) if node.fits(element) => Arc::make_mut(node).push_back(element),
            _ => self.directory().push_back(element),
        }
    }

    /// Takes the first element away.
    pub fn pop_front(&mut self) -> Option<Vec<u8>> {
        let element = self.get(0)?.to_vec();
        self.remove(0, 1);
        Some(element)
    }

    /// Takes the last element away.
    pub fn pop_back(&mut self) -> Option<Vec<u8>> {
        let last = self.len().checked_sub(1)?;
        let element = self.get(last)?.to_vec();
        self.remove(last, 1);
        Some(element)
    }

    /// Adds an element before the one with this index, or behind the last one.
    pub fn insert(&mut self, index: usize, element: &[u8]) {
        match &mut self.0 {
            Form::One(node) if node.fits(element) => Arc::make_mut(node).insert(index, element),
            _ => self.directory().insert(index, element),
        }
    }

    /// Removes `count` elements from this index on.
    pub fn remove(&mut self, index: usize, count: usize) {
        match &mut self.0 {
            Form::One(node) => Arc::make_mut(node).remove(index, count),
            Form::Many(directory) => {
                Arc::make_mut(directory).remove(index, count);
                self.settle();
            }
        }
    }

    /// Keeps only the elements with these indices.
    pub fn trim(&mut self, indices: Range<usize>) {
        self.remove(indices.end, self.len() - indices.end);
        self.remove(0, indices.start);
    }

    /// Removes up to `most` elements that are equal to this one, from the first or from the last on; returns how many.
    pub fn remove_equal(&mut self, element: &[u8], most: usize, from: End) -> usize {
        let removed = match &mut self.0 {
            Form::One(node) => {
                let found = node.find(element, most, from);
                if !found.is_empty() {
                    *node = Arc::new(node.without(&found));
                }
                found.len()
            }
            Form::Many(directory) => Arc::make_mut(directory).remove_equal(element, most, from),
        };
        self.settle();
        removed
    }

    /// How many nodes it has.
    pub fn nodes_len(&self) -> usize {
        match &self.0 {
            Form::One(_) => 1,
            Form::Many(directory) => directory.slots.len(),
        }
    }

    fn nodes(&self) -> Nodes<'_> {
        match &self.0 {
            Form::One(node) => Nodes::One(node),
            Form::Many(directory) => Nodes::Many(directory),
        }
    }

    /// The directory of a list that is about to need one.
    fn directory(&mut self) -> &mut Directory {
        if let Form::One(node) = &mut self.0 {
            let mut directory = Directory::default();
            if node.len > 0 {
                directory.add(0, std::mem::take(node));
            }
            self.0 = Form::Many(Arc::new(directory));
        }
        match &mut self.0 {
            Form::One(_) => unreachable!("it was given a directory just now"),
            Form::Many(directory) => Arc::make_mut(directory),
        }
    }

    /// Does without a directory if there is nothing to be looked up in it.
    fn settle(&mut self) {
        if let Form::Many(directory) = &self.0
            && directory.slots.len() <= 1
        {
            self.0 = Form::One(directory.slots.front().map(|slot| Arc::clone(&slot.node)).unwrap_or_default());
        }
    }
}

impl Default for List {
    fn default() -> Self {
        List::new()
    }
}

impl PartialEq for List {
    fn eq(&self, other: &List) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl fmt::Debug for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|element| element.escape_ascii().to_string())).finish()
    }
}

/// One of the two ends of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Where the first element is.
    Front,
    /// Where the last one is.
    Back,
}

/// The nodes of a list in a large one's way.
#[derive(Clone, Copy)]
enum Nodes<'a> {
    One(&'a Node),
    Many(&'a Directory),
}

/// The place between two elements.
#[derive(Clone, Copy, Debug)]
struct Cursor {
    node: usize,
    byte: usize,
}

impl<'a> Nodes<'a> {
    fn node(self, index: usize) -> &'a Node {
        match self {
            Nodes::One(node) => node,
            Nodes::Many(directory) => &directory.slots[index].node,
        }
    }

    /// The place before the element with this index; of the list's length, behind the last.
    fn locate(self, index: usize) -> Cursor {
        match self {
            Nodes::One(node) => Cursor { node: 0, byte: node.offset(index) },
            Nodes::Many(directory) => {
                let (node, index) = directory.locate(index);
                Cursor { node, byte: directory.slots[node].node.offset(index) }
            }
        }
    }
}

/// Elements of a list.
pub struct Iter<'a> {
    nodes: Nodes<'a>,
    front: Cursor,
    back: Cursor,
    left: usize,
}

impl<'a> Iterator for Iter<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        let mut node = self.nodes.node(self.front.node);
        if self.front.byte == node.bytes.len() {
            self.front.node += 1;
            node = self.nodes.node(self.front.node);
            self.front.byte = node.start as usize;
        }
        let element = node.element(self.front.byte);
        self.front.byte = element.end;
        Some(&node.bytes[element.content])
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl DoubleEndedIterator for Iter<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let mut node = self.nodes.node(self.back.node);
        if self.back.byte == node.start as usize {
            self.back.node -= 1;
            node = self.nodes.node(self.back.node);
            self.back.byte = node.bytes.len();
        }
        let element = node.element_before(self.back.byte);
        self.back.byte = element.start;
        Some(&node.bytes[element.content])
    }
}

impl ExactSizeIterator for Iter<'_> {}

impl FusedIterator for Iter<'_> {}
