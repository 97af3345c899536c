//! Lists: sequences of strings that are cheap to change at both ends.

use std::collections::VecDeque;
use std::sync::Arc;

/// A sequence of strings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct List {
    elements: Arc<VecDeque<Box<[u8]>>>,
    bytes: usize,
}

/// What an element takes besides its bytes.
const ELEMENT_BYTES: usize = size_of::<Box<[u8]>>();

impl List {
    /// An empty list.
    pub fn new() -> List {
        List::default()
    }

    /// How many elements it has.
    pub fn len(&self) -> usize {
        self.elements.len()
    }

    /// Whether it has no element.
    pub fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }

    /// What it takes on the heap, in bytes.
    pub fn heap_bytes(&self) -> usize {
        self.bytes
    }

    /// What a clone takes on the heap that the original does not share, in bytes.
    pub fn clone_bytes(&self) -> usize {
        0
    }

    /// The encoding that Redis would have chosen, as OBJECT ENCODING names it.
    pub fn encoding(&self) -> &'static str {
        "quicklist"
    }

    /// The elements, first to last.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.elements.iter().map(|element| &**element)
    }

    /// Adds a first element.
    pub fn push_front(&mut self, element: &[u8]) {
        self.bytes += ELEMENT_BYTES + element.len();
        Arc::make_mut(&mut self.elements).push_front(element.into());
    }

    /// Adds a last element.
    pub fn push_back(&mut self, element: &[u8]) {
        self.bytes += ELEMENT_BYTES + element.len();
        Arc::make_mut(&mut self.elements).push_back(element.into());
    }

    /// Takes the first element away.
    pub fn pop_front(&mut self) -> Option<Vec<u8>> {
        let element = Arc::make_mut(&mut self.elements).pop_front()?;
        self.bytes -= ELEMENT_BYTES + element.len();
        Some(element.into())
    }

    /// Takes the last element away.
    pub fn pop_back(&mut self) -> Option<Vec<u8>> {
        let element = Arc::make_mut(&mut self.elements).pop_back()?;
        self.bytes -= ELEMENT_BYTES + element.len();
        Some(element.into())
    }
}
