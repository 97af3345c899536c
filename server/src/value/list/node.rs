//! A node of a list: elements side by side in one buffer.

use std::ops::Range;
use std::sync::Arc;

use super::End;

/// A node that holds more than one element holds no more bytes of them than this.
pub const NODE_BYTES_MAX: usize = 8 * 1024;

/// What an `Arc` keeps besides its value.
pub const ARC_BYTES: usize = 2 * size_of::<usize>();

/// Elements in one buffer.
#[derive(Default)]
pub struct Node {
    pub bytes: Vec<u8>,
    /// Where the first element starts.
    pub start: u32,
    /// How many there are.
    pub len: u32,
}

/// Where an element lies in its node.
pub struct Element {
    pub start: usize,
    pub content: Range<usize>,
    pub end: usize,
}

/// A clone has no gap.
impl Clone for Node {
    fn clone(&self) -> Self {
        Node { bytes: self.used().to_vec(), start: 0, len: self.len }
    }
}

impl Node {
    pub fn of(element: &[u8]) -> Arc<Node> {
        let mut node = Node::default();
        node.push_back(element);
        Arc::new(node)
    }

    fn used(&self) -> &[u8] {
        &self.bytes[self.start as usize..]
    }

    pub fn used_bytes(&self) -> usize {
        self.bytes.len() - self.start as usize
    }

    pub fn heap_bytes(&self) -> usize {
        ARC_BYTES + size_of::<Node>() + self.bytes.capacity()
    }

    pub fn fits(&self, element: &[u8]) -> bool {
        self.len == 0 || self.used_bytes() + encoded_bytes(element) <= NODE_BYTES_MAX
    }

    /// The element that starts here.
    pub fn element(&self, start: usize) -> Element {
        let (len, len_bytes) = read_length(self.bytes[start..].iter());
        let content = start + len_bytes..start + len_bytes + len;
        Element { start, end: content.end + len_bytes, content }
    }

    /// The element that ends here.
    pub fn element_before(&self, end: usize) -> Element {
        let (len, len_bytes) = read_length(self.bytes[..end].iter().rev());
        let content = end - len_bytes - len..end - len_bytes;
        Element { start: content.start - len_bytes, end, content }
    }

    /// Where the element with this index starts; of the node's length, where the last one ends.
    pub fn offset(&self, index: usize) -> usize {
        let len = self.len as usize;
        assert!(index <= len, "the list has no such element");
        if index <= len / 2 {
            (0..index).fold(self.start as usize, |at, _| self.element(at).end)
        } else {
            (index..len).fold(self.bytes.len(), |at, _| self.element_before(at).start)
        }
    }

    pub fn push_back(&mut self, element: &[u8]) {
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

    pub fn push_front(&mut self, element: &[u8]) {
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

    pub fn insert(&mut self, index: usize, element: &[u8]) {
        let at = self.offset(index);
        self.splice(at..at, element);
        self.len += 1;
    }

    pub fn replace(&mut self, index: usize, element: &[u8]) {
        let old = self.element(self.offset(index));
        self.splice(old.start..old.end, element);
    }

    fn splice(&mut self, bytes: Range<usize>, element: &[u8]) {
        let mut encoded = Vec::with_capacity(encoded_bytes(element));
        write_element(&mut encoded, element);
        self.bytes.reserve_exact(encoded.len().saturating_sub(bytes.len()));
        self.bytes.splice(bytes, encoded);
    }

    pub fn remove(&mut self, index: usize, count: usize) {
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

    pub fn split_off(&mut self, index: usize) -> Node {
        let at = self.offset(index);
        let tail = Node { bytes: self.bytes[at..].to_vec(), start: 0, len: self.len - index as u32 };
        self.bytes.truncate(at);
        self.len = index as u32;
        self.bytes.shrink_to_fit();
        tail
    }

    pub fn append(&mut self, other: &Node) {
        self.make_room(other.used_bytes());
        self.bytes.extend_from_slice(other.used());
        self.len += other.len;
    }

    /// Where elements lie that are equal to this one, at most so many, from one end on; in their order.
    pub fn find(&self, element: &[u8], most: usize, from: End) -> Vec<Range<usize>> {
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
    pub fn without(&self, found: &[Range<usize>]) -> Node {
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
