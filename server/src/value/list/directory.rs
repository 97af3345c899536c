//! The directory of a large list: its nodes in order, and how many elements each has.

use std::collections::VecDeque;
use std::sync::Arc;

use super::End;
use super::node::{NODE_BYTES_MAX, Node};

/// Neighbours that together need no more become one when something was removed from them.
const MERGED_BYTES_MAX: usize = NODE_BYTES_MAX / 2;

/// The nodes of a large list, none of them empty.
#[derive(Clone, Default)]
pub struct Directory {
    pub slots: VecDeque<Slot>,
    /// Elements of all nodes.
    pub len: usize,
    /// Bytes of all nodes.
    pub bytes: usize,
}

/// A node of a large list.
#[derive(Clone)]
pub struct Slot {
    pub node: Arc<Node>,
    /// Elements of the node.
    pub len: u32,
}

impl Directory {
    /// The node that has the element with this index, and its index there; of the list's length, the last node's end.
    pub fn locate(&self, index: usize) -> (usize, usize) {
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
    pub fn add(&mut self, number: usize, node: Arc<Node>) {
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

    pub fn push_front(&mut self, element: &[u8]) {
        match self.slots.front() {
            Some(slot) if slot.node.fits(element) => self.edit(0, |node| node.push_front(element)),
            _ => self.add(0, Node::of(element)),
        }
    }

    pub fn push_back(&mut self, element: &[u8]) {
        match self.slots.back() {
            Some(slot) if slot.node.fits(element) => self.edit(self.slots.len() - 1, |node| node.push_back(element)),
            _ => self.add(self.slots.len(), Node::of(element)),
        }
    }

    pub fn insert(&mut self, index: usize, element: &[u8]) {
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

    pub fn set(&mut self, index: usize, element: &[u8]) {
        let (number, index_there) = self.locate(index);
        if self.slots[number].node.fits(element) {
            self.edit(number, |node| node.replace(index_there, element));
        } else {
            self.remove(index, 1);
            self.insert(index, element);
        }
    }

    pub fn remove(&mut self, index: usize, mut count: usize) {
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

    pub fn remove_equal(&mut self, element: &[u8], most: usize, from: End) -> usize {
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
