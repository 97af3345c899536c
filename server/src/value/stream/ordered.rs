//! An ordered map whose clones share nodes: a B+ tree of `Arc` nodes.
//!
//! Every leaf has the same depth. The key beside a child is no later than what the child holds, and later than all before
//! it; what the leftmost child says of that is never asked for. A write copies the nodes on its way that are shared.

use std::sync::Arc;

/// Few in tests, for the sake of depth.
const NODE_MAX: usize = if cfg!(test) { 4 } else { 64 };
/// A node filled to less than one part in so many looks for a neighbour to be united with.
const SMALL: usize = 4;

/// Values by their keys, in the order of keys.
#[derive(Clone)]
pub(super) struct OrderedMap<K, V> {
    root: Arc<Node<K, V>>,
    len: usize,
}

#[derive(Clone)]
enum Node<K, V> {
    Leaf(Vec<(K, V)>),
    Inner(Vec<(K, Arc<Node<K, V>>)>),
}

impl<K: Copy + Ord, V: Clone> OrderedMap<K, V> {
    pub(super) fn new() -> Self {
        OrderedMap { root: Arc::new(Node::Leaf(Vec::new())), len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// An estimate, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        size_of::<Node<K, V>>() + self.len * (size_of::<(K, V)>() * 3 / 2)
    }

    pub(super) fn get(&self, key: K) -> Option<&V> {
        self.until(|other| *other <= key).last().filter(|(found, _)| *found == key).map(|(_, value)| value)
    }

    /// A value to be changed.
    pub(super) fn get_mut(&mut self, key: K) -> Option<&mut V> {
        self.get(key)?;
        let mut node = Arc::make_mut(&mut self.root);
        loop {
            match node {
                Node::Inner(children) => {
                    let index = child_index(children, key);
                    node = Arc::make_mut(&mut children[index].1);
                }
                Node::Leaf(items) => {
                    let index = items.binary_search_by_key(&key, |(key, _)| *key).ok()?;
                    return Some(&mut items[index].1);
                }
            }
        }
    }

    pub(super) fn first(&self) -> Option<(K, &V)> {
        self.from(|_| false).first().map(|(key, value)| (*key, value))
    }

    pub(super) fn last(&self) -> Option<(K, &V)> {
        self.until(|_| true).last().map(|(key, value)| (*key, value))
    }

    /// The last value, to be changed.
    pub(super) fn last_mut(&mut self) -> Option<&mut V> {
        let mut node = Arc::make_mut(&mut self.root);
        loop {
            match node {
                Node::Inner(children) => node = Arc::make_mut(&mut children.last_mut()?.1),
                Node::Leaf(items) => return items.last_mut().map(|(_, value)| value),
            }
        }
    }

    /// The last that is not later than `key`.
    pub(super) fn last_until(&self, key: K) -> Option<(K, &V)> {
        self.until(|other| *other <= key).last().map(|(key, value)| (*key, value))
    }

    /// Puts a value at a key, and returns the one that was there.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let (old, right) = Arc::make_mut(&mut self.root).insert(key, value);
        if let Some(right) = right {
            let left = self.root.clone();
            self.root = Arc::new(Node::Inner(vec![(key, left), right]));
        }
        self.len += usize::from(old.is_none());
        old
    }

    pub(super) fn remove(&mut self, key: K) -> Option<V> {
        self.get(key)?;
        let removed = Arc::make_mut(&mut self.root).remove(key);
        self.len -= 1;
        while let Node::Inner(children) = &*self.root
            && let [(_, only)] = children.as_slice()
        {
            self.root = only.clone();
        }
        removed
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (K, &V)> + Clone {
        self.go_on(self.from(|_| false))
    }

    /// Those whose keys are in this range, both ends included.
    pub(super) fn range(&self, start: K, end: K) -> impl Iterator<Item = (K, &V)> + Clone {
        self.go_on(self.from(move |key| *key < start)).take_while(move |(key, _)| *key <= end)
    }

    fn go_on<'a>(&'a self, mut items: &'a [(K, V)]) -> impl Iterator<Item = (K, &'a V)> + Clone {
        let next = move || {
            let ((key, value), rest) = items.split_first()?;
            items = if rest.is_empty() { self.from(|other| other <= key) } else { rest };
            Some((*key, value))
        };
        std::iter::repeat_with(next).map_while(|item| item)
    }

    /// The same from the last to the first.
    pub(super) fn range_back(&self, start: K, end: K) -> impl Iterator<Item = (K, &V)> {
        let mut items = self.until(|key| *key <= end);
        let back = std::iter::from_fn(move || {
            let ((key, value), rest) = items.split_last()?;
            items = if rest.is_empty() { self.until(|other| other < key) } else { rest };
            Some((*key, value))
        });
        back.take_while(move |(key, _)| *key >= start)
    }

    /// What follows those that `precedes` holds for, as far as it lies in one leaf; nothing only if nothing follows.
    fn from(&self, precedes: impl Fn(&K) -> bool) -> &[(K, V)] {
        self.root.from(&precedes)
    }

    /// Those that `precedes` holds for, as far back as they lie in one leaf with the last.
    fn until(&self, precedes: impl Fn(&K) -> bool) -> &[(K, V)] {
        let mut node = &*self.root;
        loop {
            match node {
                Node::Inner(children) => {
                    let index = children[1..].partition_point(|(first, _)| precedes(first));
                    // Its first key may have gone, so that all of it comes later.
                    let child = &*children[index].1;
                    node = match child.first_key() {
                        Some(first) if index > 0 && !precedes(&first) => &children[index - 1].1,
                        _ => child,
                    };
                }
                Node::Leaf(items) => return &items[..items.partition_point(|(key, _)| precedes(key))],
            }
        }
    }
}

fn child_index<K: Copy + Ord, T>(children: &[(K, T)], key: K) -> usize {
    children[1..].partition_point(|(first, _)| *first <= key)
}

impl<K: Copy + Ord, V: Clone> Node<K, V> {
    fn parts(&self) -> usize {
        match self {
            Node::Leaf(items) => items.len(),
            Node::Inner(children) => children.len(),
        }
    }

    fn first_key(&self) -> Option<K> {
        let mut node = self;
        loop {
            match node {
                Node::Leaf(items) => return items.first().map(|(key, _)| *key),
                Node::Inner(children) => node = &children[0].1,
            }
        }
    }

    fn from(&self, precedes: &impl Fn(&K) -> bool) -> &[(K, V)] {
        match self {
            Node::Leaf(items) => &items[items.partition_point(|(key, _)| precedes(key))..],
            Node::Inner(children) => {
                let index = children[1..].partition_point(|(first, _)| precedes(first));
                match (children[index].1.from(precedes), children.get(index + 1)) {
                    ([], Some((_, next))) => next.from(precedes),
                    (items, _) => items,
                }
            }
        }
    }

    /// Returns the value that was there, and what comes after this node if there is now too much for one.
    fn insert(&mut self, key: K, value: V) -> (Option<V>, Option<(K, Arc<Self>)>) {
        match self {
            Node::Leaf(items) => match items.binary_search_by_key(&key, |(key, _)| *key) {
                Ok(index) => (Some(std::mem::replace(&mut items[index].1, value)), None),
                Err(index) => {
                    items.insert(index, (key, value));
                    let right = split(items, index).map(|right| (right[0].0, Arc::new(Node::Leaf(right))));
                    (None, right)
                }
            },
            Node::Inner(children) => {
                let index = child_index(children, key);
                let (old, right) = Arc::make_mut(&mut children[index].1).insert(key, value);
                let Some(right) = right else { return (old, None) };
                children.insert(index + 1, right);
                let right = split(children, index + 1).map(|right| (right[0].0, Arc::new(Node::Inner(right))));
                (old, right)
            }
        }
    }

    /// Removes what is there.
    fn remove(&mut self, key: K) -> Option<V> {
        match self {
            Node::Leaf(items) => {
                let index = items.binary_search_by_key(&key, |(key, _)| *key).ok()?;
                Some(items.remove(index).1)
            }
            Node::Inner(children) => {
                let index = child_index(children, key);
                let child = &mut children[index].1;
                let removed = Arc::make_mut(child).remove(key);
                if child.parts() == 0 {
                    children.remove(index);
                } else if child.parts() * SMALL < NODE_MAX {
                    unite(children, index);
                }
                removed
            }
        }
    }
}

/// Keeps a first part of what is too much, returns the rest. Who adds at the end will go on there, and leaves full nodes.
fn split<T>(parts: &mut Vec<T>, added: usize) -> Option<Vec<T>> {
    let last = parts.len() - 1;
    (parts.len() > NODE_MAX).then(|| parts.split_off(if added == last { last } else { parts.len() / 2 }))
}

/// Unites a small child with a neighbour, if one node can hold both.
fn unite<K: Copy + Ord, V: Clone>(children: &mut Vec<(K, Arc<Node<K, V>>)>, index: usize) {
    for left in [index, index.wrapping_sub(1)] {
        let Some([(_, a), (_, b)]) = left.checked_add(1).and_then(|right| children.get(left..=right)) else { continue };
        if a.parts() + b.parts() > NODE_MAX {
            continue;
        }
        let (first, right) = children.remove(left + 1);
        match (Arc::make_mut(&mut children[left].1), Arc::unwrap_or_clone(right)) {
            (Node::Leaf(items), Node::Leaf(more)) => items.extend(more),
            (Node::Inner(items), Node::Inner(mut more)) => {
                more[0].0 = first;
                items.extend(more);
            }
            _ => unreachable!("all leaves have the same depth"),
        }
        return;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn it_holds_what_a_plain_map_holds_and_clones_stay_as_they_were(
            steps in prop::collection::vec((any::<bool>(), 0u64..200), 1..400), at in 0usize..400, bounds in (0u64..200, 0u64..200)
        ) {
            let (mut map, mut model) = (OrderedMap::new(), BTreeMap::new());
            let mut kept = None;
            for (step, (is_insert, key)) in steps.iter().copied().enumerate() {
                if step == at {
                    kept = Some((map.clone(), model.clone()));
                }
                if is_insert {
                    prop_assert_eq!(map.insert(key, step), model.insert(key, step));
                } else {
                    prop_assert_eq!(map.remove(key), model.remove(&key));
                }
            }
            for (map, model) in [Some((map, model)), kept].into_iter().flatten() {
                let (start, end) = (bounds.0.min(bounds.1), bounds.0.max(bounds.1));
                prop_assert_eq!(map.len(), model.len());
                prop_assert!(map.iter().eq(model.iter().map(|(key, value)| (*key, value))));
                prop_assert!(map.range(start, end).eq(model.range(start..=end).map(|(key, value)| (*key, value))));
                prop_assert!(map.range_back(start, end).eq(model.range(start..=end).rev().map(|(key, value)| (*key, value))));
                prop_assert_eq!(map.clone().last_mut().copied(), model.values().next_back().copied());
                for key in 0..200 {
                    prop_assert_eq!(map.get(key), model.get(&key));
                }
            }
        }
    }
}
