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

use std::collections::VecDeque;
use std::fmt;
use std::iter::FusedIterator;
use std::ops::Range;
use std::sync::Arc;

/// A node that holds more than one element holds no more bytes of them than this.
const NODE_BYTES_MAX: usize = 8 * 1024;

/// Neighbours that together need no more become one when something was removed from them.
const MERGED_BYTES_MAX: usize = NODE_BYTES_MAX / 2;

/// What an `Arc` keeps besides its value.
const ARC_BYTES: usize = 2 * size_of::<usize>();

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

/// The nodes of a large list, none of them empty.
#[derive(Clone, Default)]
struct Directory {
    slots: VecDeque<Slot>,
    /// Elements of all nodes.
    len: usize,
    /// Bytes of all nodes.
    bytes: usize,
}

#[derive(Clone)]
struct Slot {
    node: Arc<Node>,
    /// Elements of the node.
    len: u32,
}

impl Directory {
    /// The node that has the element with this index, and its index there; of the list's length, the last node's end.
    fn locate(&self, index: usize) -> (usize, usize) {
        assert!(index <= self.len, "the list has no such element");
        if index <= self.len / 2 {
            let mut before = 0;
            for (number, slot) in self.slots.iter().enumerate() {
                if index < before + slot.len as usize {
                    return (number, index - before);
                }
                before += slot.len as usize;
            }
        } else {
            let mut start = self.len;
            for (number, slot) in self.slots.iter().enumerate().rev() {
                start -= slot.len as usize;
                if index >= start {
                    return (number, index - start);
                }
            }
        }
        unreachable!("the nodes have {} elements together", self.len)
    }

    /// Adds a node as number `number`.
    fn add(&mut self, number: usize, node: Arc<Node>) {
        self.len += node.len as usize;
        self.bytes += node.heap_bytes();
        self.slots.insert(number, Slot { len: node.len, node });
    }

    /// Changes a node, which goes if nothing is left in it.
    fn edit<R>(&mut self, number: usize, edit: impl FnOnce(&mut Node) -> R) -> R {
        let slot = &mut self.slots[number];
        self.bytes -= slot.node.heap_bytes();
        self.len -= slot.len as usize;
        let node = Arc::make_mut(&mut slot.node);
        let result = edit(node);
        slot.len = node.len;
        if node.len == 0 {
            self.slots.remove(number);
        } else {
            self.len += node.len as usize;
            self.bytes += node.heap_bytes();
        }
        result
    }

    fn push_front(&mut self, element: &[u8]) {
        match self.slots.front() {
            Some(slot) if slot.node.fits(element) => self.edit(0, |node| node.push_front(element)),
            _ => self.add(0, Node::of(element)),
        }
    }

    fn push_back(&mut self, element: &[u8]) {
        match self.slots.back() {
            Some(slot) if slot.node.fits(element) => self.edit(self.slots.len() - 1, |node| node.push_back(element)),
            _ => self.add(self.slots.len(), Node::of(element)),
        }
    }

    fn insert(&mut self, index: usize, element: &[u8]) {
        match index {
            0 => return self.push_front(element),
            _ if index == self.len => return self.push_back(element),
            _ => {}
        }
        let (mut number, index) = self.locate(index);
        if self.slots[number].node.fits(element) {
            return self.edit(number, |node| node.insert(index, element));
        }
        if index > 0 {
            let tail = self.edit(number, |node| node.split_off(index));
            number += 1;
            self.add(number, Arc::new(tail));
        }
        // Between two nodes now, or before the first.
        if number > 0 && self.slots[number - 1].node.fits(element) {
            self.edit(number - 1, |node| node.push_back(element));
        } else if self.slots[number].node.fits(element) {
            self.edit(number, |node| node.push_front(element));
        } else {
            self.add(number, Node::of(element));
        }
    }

    fn set(&mut self, index: usize, element: &[u8]) {
        let (number, index_there) = self.locate(index);
        if self.slots[number].node.fits(element) {
            self.edit(number, |node| node.replace(index_there, element));
        } else {
            self.remove(index, 1);
            self.insert(index, element);
        }
    }

    fn remove(&mut self, index: usize, mut count: usize) {
        if count == 0 {
            return;
        }
        let (mut number, index) = self.locate(index);
        if index > 0 {
            count -= self.remove_in(number, index, count);
            number += 1;
        }
        let mut whole = 0;
        while let Some(slot) = self.slots.get(number + whole)
            && slot.len as usize <= count
        {
            count -= slot.len as usize;
            self.len -= slot.len as usize;
            self.bytes -= slot.node.heap_bytes();
            whole += 1;
        }
        self.slots.drain(number..number + whole);
        if count > 0 {
            self.remove_in(number, 0, count);
        }
        self.merge(number);
        if let Some(before) = number.checked_sub(1) {
            self.merge(before);
        }
    }

    /// Removes up to `count` elements of one node, from `index` on; returns how many.
    fn remove_in(&mut self, number: usize, index: usize, count: usize) -> usize {
        let count = count.min(self.slots[number].len as usize - index);
        self.edit(number, |node| node.remove(index, count));
        count
    }

    /// Makes one node of two small neighbours, the first of which is this one.
    fn merge(&mut self, number: usize) {
        if let (Some(first), Some(second)) = (self.slots.get(number), self.slots.get(number + 1))
            && first.node.used_bytes() + second.node.used_bytes() <= MERGED_BYTES_MAX
        {
            let second = self.slots.remove(number + 1).expect("it was just seen");
            self.len -= second.len as usize;
            self.bytes -= second.node.heap_bytes();
            self.edit(number, |node| node.append(&second.node));
        }
    }

    fn remove_equal(&mut self, element: &[u8], most: usize, from: End) -> usize {
        let mut left = most;
        let slots = std::mem::take(&mut self.slots);
        (self.len, self.bytes) = (0, 0);
        let mut purge = |mut slot: Slot| {
            let found = if left == 0 { Vec::new() } else { slot.node.find(element, left, from) };
            if !found.is_empty() {
                left -= found.len();
                slot.node = Arc::new(slot.node.without(&found));
            }
            slot.node
        };
        for slot in in_order(slots, from) {
            let node = purge(slot);
            if node.len > 0 {
                let number = if from == End::Front { self.slots.len() } else { 0 };
                self.add(number, node);
                self.merge(number.saturating_sub(1));
            }
        }
        most - left
    }
}

fn in_order(slots: VecDeque<Slot>, from: End) -> impl Iterator<Item = Slot> {
    let mut slots = slots.into_iter();
    std::iter::from_fn(move || match from {
        End::Front => slots.next(),
        End::Back => slots.next_back(),
    })
}

/// Elements in one buffer.
#[derive(Default)]
struct Node {
    bytes: Vec<u8>,
    /// Where the first element starts.
    start: u32,
    /// How many there are.
    len: u32,
}

/// Where an element lies in its node.
struct Element {
    start: usize,
    content: Range<usize>,
    end: usize,
}

/// A clone has no gap.
impl Clone for Node {
    fn clone(&self) -> Self {
        Node { bytes: self.used().to_vec(), start: 0, len: self.len }
    }
}

impl Node {
    fn of(element: &[u8]) -> Arc<Node> {
        let mut node = Node::default();
        node.push_back(element);
        Arc::new(node)
    }

    fn used(&self) -> &[u8] {
        &self.bytes[self.start as usize..]
    }

    fn used_bytes(&self) -> usize {
        self.bytes.len() - self.start as usize
    }

    fn heap_bytes(&self) -> usize {
        ARC_BYTES + size_of::<Node>() + self.bytes.capacity()
    }

    fn fits(&self, element: &[u8]) -> bool {
        self.len == 0 || self.used_bytes() + encoded_bytes(element) <= NODE_BYTES_MAX
    }

    /// The element that starts here.
    fn element(&self, start: usize) -> Element {
        let (len, len_bytes) = read_length(self.bytes[start..].iter());
        let content = start + len_bytes..start + len_bytes + len;
        Element { start, end: content.end + len_bytes, content }
    }

    /// The element that ends here.
    fn element_before(&self, end: usize) -> Element {
        let (len, len_bytes) = read_length(self.bytes[..end].iter().rev());
        let content = end - len_bytes - len..end - len_bytes;
        Element { start: content.start - len_bytes, end, content }
    }

    /// Where the element with this index starts; of the node's length, where the last one ends.
    fn offset(&self, index: usize) -> usize {
        let len = self.len as usize;
        assert!(index <= len, "the list has no such element");
        if index <= len / 2 {
            (0..index).fold(self.start as usize, |at, _| self.element(at).end)
        } else {
            (index..len).fold(self.bytes.len(), |at, _| self.element_before(at).start)
        }
    }

    fn push_back(&mut self, element: &[u8]) {
        self.make_room(encoded_bytes(element));
        write_element(&mut self.bytes, element);
        self.len += 1;
    }

    /// Makes room for so many bytes at the end: in place of the gap if that is worth it, else by growing a little.
    fn make_room(&mut self, wanted: usize) {
        if self.bytes.capacity() - self.bytes.len() >= wanted {
            return;
        }
        let start = self.start as usize;
        if start >= wanted && start >= self.used_bytes() / 4 {
            self.bytes.drain(..start);
            self.start = 0;
        } else {
            self.bytes.reserve_exact(wanted.max(self.bytes.len() / 8));
        }
    }

    fn push_front(&mut self, element: &[u8]) {
        if self.len == 0 {
            return self.push_back(element);
        }
        let wanted = encoded_bytes(element);
        if (self.start as usize) < wanted {
            let (old, gap) = (self.used_bytes(), wanted + self.used_bytes() / 8);
            let mut bytes = Vec::with_capacity(gap + old);
            bytes.resize(gap, 0);
            bytes.extend_from_slice(self.used());
            self.bytes = bytes;
            self.start = gap as u32;
        }
        let at = self.start as usize - wanted;
        let (length, length_bytes) = length(element.len());
        let content = at + length_bytes;
        self.bytes[at..content].copy_from_slice(&length[..length_bytes]);
        self.bytes[content..content + element.len()].copy_from_slice(element);
        let behind = &mut self.bytes[content + element.len()..at + wanted];
        behind.iter_mut().rev().zip(&length).for_each(|(byte, part)| *byte = *part);
        self.start = at as u32;
        self.len += 1;
    }

    fn insert(&mut self, index: usize, element: &[u8]) {
        let at = self.offset(index);
        self.splice(at..at, element);
        self.len += 1;
    }

    fn replace(&mut self, index: usize, element: &[u8]) {
        let old = self.element(self.offset(index));
        self.splice(old.start..old.end, element);
    }

    fn splice(&mut self, bytes: Range<usize>, element: &[u8]) {
        let mut encoded = Vec::with_capacity(encoded_bytes(element));
        write_element(&mut encoded, element);
        self.bytes.reserve_exact(encoded.len().saturating_sub(bytes.len()));
        self.bytes.splice(bytes, encoded);
    }

    fn remove(&mut self, index: usize, count: usize) {
        let bytes = self.offset(index)..self.offset(index + count);
        self.len -= count as u32;
        if self.len == 0 {
            *self = Node::default();
        } else if bytes.start == self.start as usize {
            self.start = bytes.end as u32;
        } else {
            self.bytes.drain(bytes);
        }
        self.shrink();
    }

    /// Gives memory back that was needed once.
    fn shrink(&mut self) {
        const KEPT_BYTES: usize = 64;
        if self.bytes.capacity() > KEPT_BYTES && self.used_bytes() < self.bytes.capacity() / 4 {
            *self = self.clone();
        }
    }

    fn split_off(&mut self, index: usize) -> Node {
        let at = self.offset(index);
        let tail = Node { bytes: self.bytes[at..].to_vec(), start: 0, len: self.len - index as u32 };
        self.bytes.truncate(at);
        self.len = index as u32;
        self.bytes.shrink_to_fit();
        tail
    }

    fn append(&mut self, other: &Node) {
        self.make_room(other.used_bytes());
        self.bytes.extend_from_slice(other.used());
        self.len += other.len;
    }

    /// Where elements lie that are equal to this one, at most so many, from one end on; in their order.
    fn find(&self, element: &[u8], most: usize, from: End) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        let mut at = self.start as usize;
        while at < self.bytes.len() {
            let present = self.element(at);
            at = present.end;
            if &self.bytes[present.content.clone()] == element {
                found.push(present.start..present.end);
            }
        }
        match from {
            End::Front => found.truncate(most),
            End::Back => drop(found.drain(..found.len().saturating_sub(most))),
        }
        found
    }

    /// The node without what [`Node::find`] has found in it.
    fn without(&self, found: &[Range<usize>]) -> Node {
        let mut kept = Vec::with_capacity(self.used_bytes());
        let mut at = self.start as usize;
        for range in found {
            kept.extend_from_slice(&self.bytes[at..range.start]);
            at = range.end;
        }
        kept.extend_from_slice(&self.bytes[at..]);
        kept.shrink_to_fit();
        Node { bytes: kept, start: 0, len: self.len - found.len() as u32 }
    }
}

/// A length of up to 64 bits in base 128.
const LENGTH_BYTES_MAX: usize = 10;

fn length(mut len: usize) -> ([u8; LENGTH_BYTES_MAX], usize) {
    let (mut bytes, mut count) = ([0; LENGTH_BYTES_MAX], 0);
    while len > 0x7f {
        bytes[count] = len as u8 | 0x80;
        len >>= 7;
        count += 1;
    }
    bytes[count] = len as u8;
    (bytes, count + 1)
}

/// A length, and how many bytes it takes.
fn read_length<'a>(bytes: impl Iterator<Item = &'a u8>) -> (usize, usize) {
    let (mut len, mut count) = (0, 0);
    for byte in bytes {
        len |= usize::from(byte & 0x7f) << (7 * count);
        count += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    (len, count)
}

fn encoded_bytes(element: &[u8]) -> usize {
    let bits = (usize::BITS - element.len().leading_zeros()).max(1) as usize;
    element.len() + 2 * bits.div_ceil(7)
}

fn write_element(bytes: &mut Vec<u8>, element: &[u8]) {
    let (length, count) = length(element.len());
    bytes.extend_from_slice(&length[..count]);
    bytes.extend_from_slice(element);
    bytes.extend(length[..count].iter().rev());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Push(End, Vec<u8>),
        Pop(End),
        Set(usize, Vec<u8>),
        Insert(usize, Vec<u8>),
        Remove(usize, usize),
        Trim(usize, usize),
        RemoveEqual(Vec<u8>, usize, End),
        /// From here on the list is shared with a clone that must not change.
        Clone,
    }

    /// Now and then as long as a node, so that there are many.
    fn element() -> impl Strategy<Value = Vec<u8>> {
        let sized = |len: Range<usize>| (len, 0..3u8).prop_map(|(len, byte)| vec![byte; len]);
        prop_oneof![8 => sized(0..4), 4 => sized(0..300), 2 => sized(1500..4000), 1 => sized(8000..20_000)]
    }

    fn step() -> impl Strategy<Value = Step> {
        let end = || prop_oneof![Just(End::Front), Just(End::Back)];
        prop_oneof![
            12 => (end(), element()).prop_map(|(end, element)| Step::Push(end, element)),
            4 => end().prop_map(Step::Pop),
            3 => (any::<usize>(), element()).prop_map(|(index, element)| Step::Set(index, element)),
            6 => (any::<usize>(), element()).prop_map(|(index, element)| Step::Insert(index, element)),
            2 => (any::<usize>(), 0..8usize).prop_map(|(index, count)| Step::Remove(index, count)),
            1 => (0..4usize, 0..4usize).prop_map(|(front, back)| Step::Trim(front, back)),
            1 => (element(), 1..5usize, end()).prop_map(|(element, most, end)| Step::RemoveEqual(element, most, end)),
            1 => Just(Step::Clone),
        ]
    }

    type Model = VecDeque<Vec<u8>>;

    fn remove_equal(model: &mut Model, element: &[u8], most: usize, from: End) -> usize {
        let mut found: Vec<usize> = (0..model.len()).filter(|index| model[*index] == element).collect();
        match from {
            End::Front => found.truncate(most),
            End::Back => drop(found.drain(..found.len().saturating_sub(most))),
        }
        found.iter().rev().for_each(|index| drop(model.remove(*index)));
        found.len()
    }

    fn apply(list: &mut List, model: &mut Model, step: Step) {
        let len = model.len();
        match step {
            Step::Push(End::Front, element) => {
                list.push_front(&element);
                model.push_front(element);
            }
            Step::Push(End::Back, element) => {
                list.push_back(&element);
                model.push_back(element);
            }
            Step::Pop(End::Front) => assert_eq!(list.pop_front(), model.pop_front()),
            Step::Pop(End::Back) => assert_eq!(list.pop_back(), model.pop_back()),
            Step::Set(index, element) if len > 0 => {
                list.set(index % len, &element);
                model[index % len] = element;
            }
            Step::Insert(index, element) => {
                list.insert(index % (len + 1), &element);
                model.insert(index % (len + 1), element);
            }
            Step::Remove(index, count) => {
                let index = index % (len + 1);
                let count = count.min(len - index);
                list.remove(index, count);
                model.drain(index..index + count);
            }
            Step::Trim(front, back) => {
                let start = front.min(len);
                let end = (len - back.min(len)).max(start);
                list.trim(start..end);
                model.drain(end..);
                model.drain(..start);
            }
            Step::RemoveEqual(element, most, from) => {
                let removed = list.remove_equal(&element, most, from);
                assert_eq!(removed, remove_equal(model, &element, most, from));
            }
            Step::Set(..) | Step::Clone => {}
        }
    }

    fn assert_same(list: &List, model: &Model) {
        assert_eq!(list.len(), model.len());
        assert!(list.iter().eq(model.iter()), "forwards");
        assert!(list.iter().rev().eq(model.iter().rev()), "backwards");
        let Form::Many(directory) = &list.0 else { return };
        assert!(directory.slots.len() > 1, "a directory of one");
        let sum = |of: &dyn Fn(&Slot) -> usize| directory.slots.iter().map(of).sum::<usize>();
        assert_eq!(directory.len, sum(&|slot| slot.len as usize));
        assert_eq!(directory.bytes, sum(&|slot| slot.node.heap_bytes()));
        for slot in &directory.slots {
            assert_eq!(slot.len, slot.node.len);
            assert!(slot.len == 1 || slot.len > 1 && slot.node.used_bytes() <= NODE_BYTES_MAX);
        }
    }

    proptest! {
        #[test]
        fn a_list_is_the_sequence_that_was_made_of_it(steps in proptest::collection::vec(step(), 1..200)) {
            let (mut list, mut model) = (List::new(), Model::new());
            let mut frozen = Vec::new();
            for step in steps {
                if let Step::Clone = step {
                    frozen.push((list.clone(), model.clone()));
                }
                apply(&mut list, &mut model, step);
                assert_same(&list, &model);
            }
            for (list, model) in &frozen {
                assert_same(list, model);
            }
        }

        #[test]
        fn any_range_is_read_in_either_direction(elements in proptest::collection::vec(element(), 1..60), a: usize, b: usize) {
            let mut list = List::new();
            elements.iter().for_each(|element| list.push_back(element));
            let (a, b) = (a % (elements.len() + 1), b % (elements.len() + 1));
            let range = a.min(b)..a.max(b);
            assert!(list.range(range.clone()).eq(&elements[range.clone()]));
            assert!(list.range(range.clone()).rev().eq(elements[range].iter().rev()));
            for (index, element) in elements.iter().enumerate() {
                assert_eq!(list.get(index), Some(&element[..]));
            }
            assert_eq!(list.get(elements.len()), None);
        }
    }

    #[test]
    fn a_queue_does_not_grow_with_what_went_through_it() {
        let mut list = List::new();
        for number in 0..100_000u32 {
            list.push_back(&number.to_be_bytes());
            if number >= 100 {
                assert_eq!(list.pop_front().as_deref(), Some(&(number - 100).to_be_bytes()[..]));
            }
        }
        assert!(list.heap_bytes() < 2_000, "{} bytes for 100 elements", list.heap_bytes());
    }

    #[test]
    fn a_write_to_a_shared_list_copies_one_node() {
        let mut list = List::new();
        (0..100_000u32).for_each(|number| list.push_back(&number.to_be_bytes()));
        let shared = list.clone();
        list.set(50_000, b"other");
        let (Form::Many(ours), Form::Many(theirs)) = (&list.0, &shared.0) else { panic!("both are large") };
        let copied = ours.slots.iter().zip(&theirs.slots).filter(|(our, their)| !Arc::ptr_eq(&our.node, &their.node));
        assert_eq!(copied.count(), 1);
        assert_eq!(shared.get(50_000), Some(&50_000u32.to_be_bytes()[..]));
    }

    #[test]
    fn insertions_at_one_place_leave_no_small_nodes_behind() {
        let mut list = List::new();
        (0..10_000u32).for_each(|number| list.push_back(&number.to_be_bytes()));
        for number in 0..10_000u32 {
            list.insert(5_000, &number.to_be_bytes());
        }
        let Form::Many(directory) = &list.0 else { panic!("it is large") };
        assert!(directory.slots.len() < 20_000 * 6 / NODE_BYTES_MAX * 3, "{} nodes", directory.slots.len());
    }
}
