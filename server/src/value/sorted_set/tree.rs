//! A B+ tree that counts: entries in order of (score, member), with the rank of each in logarithmic time.
//!
//! ```text
//! Inner ── Child { first, count, Arc ── Inner ── Child { first, count, Arc ── Leaf ── run }}}
//! ```
//!
//! Every leaf has the same depth. `first` is no later than what its child holds, and later than all before it; what the
//! leftmost child says of that is never asked for. Clones share nodes, and a write copies those on its way that are
//! shared. A node that has become small is united with its neighbour if one node can hold both; otherwise it stays small.

use super::Entry;
use super::run::{Entries, Run};
use std::ops::Range;
use std::sync::Arc;

/// Few in tests, for the sake of depth.
pub(super) const RUN_ENTRIES_MAX: usize = if cfg!(test) { 8 } else { 32 };
/// A run of long members has fewer of them, so that a write moves no more than this, or one member.
const RUN_BYTES_MAX: usize = 4096;
const CHILDREN_MAX: usize = if cfg!(test) { 8 } else { 64 };
/// A node filled to less than one part in so many looks for a neighbour to be united with.
const SMALL: usize = 4;

/// Entries in ascending order of (score, member), no member twice.
#[derive(Clone)]
pub(super) struct Tree {
    root: Arc<Node>,
    len: usize,
}

#[derive(Clone)]
enum Node {
    Leaf(Run),
    Inner(Vec<Child>),
}

#[derive(Clone)]
struct Child {
    first: First,
    count: usize,
    node: Arc<Node>,
}

/// An entry that parts what comes before it from the others.
#[derive(Clone)]
struct First {
    score: f64,
    member: Arc<[u8]>,
}

impl From<Run> for Tree {
    fn from(run: Run) -> Tree {
        let mut tree = Tree { root: Arc::new(Node::Leaf(Run::default())), len: 0 };
        run.iter().for_each(|entry| tree.insert(entry));
        tree
    }
}

impl Tree {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// How many entries there are before the first that `precedes` does not hold for; it holds for all before that.
    pub(super) fn rank(&self, precedes: &impl Fn(Entry) -> bool) -> usize {
        let mut node = &*self.root;
        let mut rank = 0;
        loop {
            match node {
                Node::Leaf(run) => return rank + run.place(precedes).index,
                Node::Inner(children) => {
                    let index = child_index(children, precedes);
                    rank += children[..index].iter().map(|child| child.count).sum::<usize>();
                    node = &children[index].node;
                }
            }
        }
    }

    /// Those of the entries of these ranks that the first of them shares its run with: at least one.
    pub(super) fn run(&self, ranks: Range<usize>) -> Entries<'_> {
        let (run, first) = self.find_run(ranks.start);
        run.slice(ranks.start - first..run.len().min(ranks.end - first))
    }

    /// The same with the last of them, from the end.
    pub(super) fn run_back(&self, ranks: Range<usize>) -> Entries<'_> {
        let (run, first) = self.find_run(ranks.end - 1);
        run.slice(ranks.start.saturating_sub(first)..ranks.end - first)
    }

    /// The run that has the entry of this rank, and the rank of its first entry.
    fn find_run(&self, rank: usize) -> (&Run, usize) {
        let mut node = &*self.root;
        let mut first = 0;
        loop {
            match node {
                Node::Leaf(run) => return (run, first),
                Node::Inner(children) => {
                    let mut children = children.iter();
                    let child = children.find(|child| {
                        let is_before = first + child.count <= rank;
                        first += if is_before { child.count } else { 0 };
                        !is_before
                    });
                    node = &child.expect("the rank is less than the number of entries").node;
                }
            }
        }
    }

    /// Adds an entry that is not there.
    pub(super) fn insert(&mut self, entry: Entry) {
        if let Some(right) = Arc::make_mut(&mut self.root).insert(entry) {
            let left = Child::new(self.root.clone());
            self.root = Arc::new(Node::Inner(vec![left, Child::new(Arc::new(right))]));
        }
        self.len += 1;
    }

    /// Removes an entry that is there.
    pub(super) fn remove(&mut self, entry: Entry) {
        let rank = self.rank(&|other| other < entry);
        self.remove_ranks(rank..rank + 1);
    }

    pub(super) fn remove_ranks(&mut self, ranks: Range<usize>) {
        if ranks.is_empty() {
            return;
        }
        self.len -= ranks.len();
        if self.len == 0 {
            self.root = Arc::new(Node::Leaf(Run::default()));
            return;
        }
        Arc::make_mut(&mut self.root).remove(ranks);
        while let Node::Inner(children) = &*self.root
            && let [only] = children.as_slice()
        {
            self.root = only.node.clone();
        }
    }

    #[cfg(test)]
    pub(super) fn runs(&self) -> usize {
        self.root.runs()
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        assert_eq!(self.root.count(), self.len);
        self.root.check();
    }
}

/// The child that has the first entry that `precedes` does not hold for, or the last one before it.
fn child_index(children: &[Child], precedes: &impl Fn(Entry) -> bool) -> usize {
    children[1..].partition_point(|child| precedes(child.first.as_entry()))
}

impl Node {
    fn count(&self) -> usize {
        match self {
            Node::Leaf(run) => run.len(),
            Node::Inner(children) => children.iter().map(|child| child.count).sum(),
        }
    }

    fn first(&self) -> First {
        match self {
            Node::Leaf(run) => First::from(run.first().expect("only an empty tree has an empty run")),
            Node::Inner(children) => children[0].first.clone(),
        }
    }

    /// How full it is, and how full it may be; for a leaf whatever is nearer to its bound.
    fn fill(&self) -> (usize, usize) {
        match self {
            Node::Leaf(run) if run.size() * RUN_ENTRIES_MAX > run.len() * RUN_BYTES_MAX => (run.size(), RUN_BYTES_MAX),
            Node::Leaf(run) => (run.len(), RUN_ENTRIES_MAX),
            Node::Inner(children) => (children.len(), CHILDREN_MAX),
        }
    }

    fn is_small(&self) -> bool {
        let (fill, most) = self.fill();
        fill * SMALL < most
    }

    fn is_too_large(&self) -> bool {
        let (fill, most) = self.fill();
        fill > most && self.parts() > 1
    }

    /// How many entries or children it has itself.
    fn parts(&self) -> usize {
        match self {
            Node::Leaf(run) => run.len(),
            Node::Inner(children) => children.len(),
        }
    }

    /// Whether one node could hold this one and `other`.
    fn fits_with(&self, other: &Node) -> bool {
        match (self, other) {
            (Node::Leaf(a), Node::Leaf(b)) => {
                a.len() + b.len() <= RUN_ENTRIES_MAX && a.size() + b.size() <= RUN_BYTES_MAX
            }
            _ => self.parts() + other.parts() <= CHILDREN_MAX,
        }
    }

    /// Adds an entry; returns what comes after this node, if there is now too much for one.
    fn insert(&mut self, entry: Entry) -> Option<Node> {
        let index = match self {
            Node::Leaf(run) => {
                let place = run.place(&|other| other < entry);
                run.insert(place, entry);
                place.index
            }
            Node::Inner(children) => {
                let index = child_index(children, &|other| other < entry);
                let child = &mut children[index];
                child.count += 1;
                let right = Child::new(Arc::new(Arc::make_mut(&mut child.node).insert(entry)?));
                child.count -= right.count;
                children.insert(index + 1, right);
                index + 1
            }
        };
        self.is_too_large().then(|| self.split(index))
    }

    /// Keeps a first part, returns the others. Who adds at one end will go on there, and leaves full nodes behind.
    fn split(&mut self, added: usize) -> Node {
        let last = self.parts() - 1;
        match self {
            Node::Leaf(run) if added == last => Node::Leaf(run.split_off(last)),
            Node::Leaf(run) if added == 0 => Node::Leaf(run.split_off(1)),
            Node::Leaf(run) => Node::Leaf(run.split_off(run.middle())),
            Node::Inner(children) if added == last => Node::Inner(children.split_off(last)),
            Node::Inner(children) if added <= 1 => Node::Inner(children.split_off(1)),
            Node::Inner(children) => Node::Inner(children.split_off(last / 2)),
        }
    }

    /// Removes the entries of these ranks; others are left.
    fn remove(&mut self, ranks: Range<usize>) {
        let children = match self {
            Node::Leaf(run) => return run.remove(ranks),
            Node::Inner(children) => children,
        };
        let mut start = 0;
        for child in children.iter_mut() {
            let end = start + child.count;
            let removed = ranks.start.clamp(start, end) - start..ranks.end.clamp(start, end) - start;
            if !removed.is_empty() && removed.len() < child.count {
                Arc::make_mut(&mut child.node).remove(removed.clone());
            }
            child.count -= removed.len();
            start = end;
        }
        children.retain(|child| child.count > 0);
        let mut before = 0;
        let seam = children.iter().take_while(|child| {
            before += child.count;
            before <= ranks.start
        });
        let seam = seam.count();
        unite_around(children, seam);
    }

    /// Appends what comes after it and begins with `first`, and fits.
    fn append(&mut self, first: First, after: Node) {
        match (self, after) {
            (Node::Leaf(run), Node::Leaf(after)) => run.append(&after),
            (Node::Inner(children), Node::Inner(after)) => {
                let seam = children.len();
                children.extend(after);
                children[seam].first = first;
                unite_around(children, seam);
            }
            _ => unreachable!("all leaves have the same depth"),
        }
    }

    #[cfg(test)]
    fn runs(&self) -> usize {
        match self {
            Node::Leaf(_) => 1,
            Node::Inner(children) => children.iter().map(|child| child.node.runs()).sum(),
        }
    }

    #[cfg(test)]
    fn check(&self) -> usize {
        assert!(self.parts() <= RUN_ENTRIES_MAX.max(CHILDREN_MAX));
        match self {
            Node::Leaf(_) => 0,
            Node::Inner(children) => {
                let depths: Vec<usize> = children.iter().map(|child| child.node.check()).collect();
                assert!(depths.iter().all(|depth| *depth == depths[0]), "{depths:?}");
                for (index, child) in children.iter().enumerate() {
                    assert!(child.count > 0 && child.count == child.node.count());
                    assert!(index == 0 || child.first.as_entry() <= child.node.first().as_entry());
                }
                depths[0] + 1
            }
        }
    }
}

/// Unites small children with their neighbours around a place where entries went away.
fn unite_around(children: &mut Vec<Child>, index: usize) {
    let is_small = |child: &Child| child.node.is_small();
    for index in (index.saturating_sub(2)..=index).rev() {
        let Some([left, right]) = children.get(index..index + 2) else { continue };
        if (is_small(left) || is_small(right)) && left.node.fits_with(&right.node) {
            let right = children.remove(index + 1);
            let left = &mut children[index];
            left.count += right.count;
            Arc::make_mut(&mut left.node).append(right.first, Arc::unwrap_or_clone(right.node));
        }
    }
}

impl Child {
    fn new(node: Arc<Node>) -> Child {
        Child { first: node.first(), count: node.count(), node }
    }
}

impl From<Entry<'_>> for First {
    fn from(entry: Entry) -> First {
        First { score: entry.score, member: entry.member.into() }
    }
}

impl First {
    fn as_entry(&self) -> Entry<'_> {
        Entry { score: self.score, member: &self.member }
    }
}
