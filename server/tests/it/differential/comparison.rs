//! When two replies to the same command are equal: byte for byte, except where Redis documents no order, where chance
//! decides, and where the time is told.

use crate::client::shown;

/// Their order is that of a hash table; and how many strings make one element.
const UNORDERED: [(&str, usize); 10] = [
    ("KEYS", 1),
    ("HGETALL", 2),
    ("HKEYS", 1),
    ("HVALS", 1),
    ("SMEMBERS", 1),
    ("SINTER", 1),
    ("SUNION", 1),
    ("SDIFF", 1),
    // Of all members.
    ("SPOP", 1),
    ("CONFIG", 2),
];

/// Chance decides: equal in form. What they answer is held against the data by `SAMPLE`.
const BY_CHANCE: [&str; 4] = ["SRANDMEMBER", "HRANDFIELD", "ZRANDMEMBER", "RANDOMKEY"];

/// The reply is a time, and may differ by so much, in its own unit.
const TIMES: [(&str, i64); 4] = [("TTL", 20), ("PTTL", 20_000), ("EXPIRETIME", 20), ("PEXPIRETIME", 20_000)];
const MILLISECONDS: i64 = 20_000;

/// A reply taken apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tree {
    /// With its first byte; a bulk string's length is not part of it.
    Leaf(u8, Vec<u8>),
    Node(u8, Vec<Tree>),
}

impl Tree {
    pub fn parse(reply: &[u8]) -> Tree {
        let mut rest = reply;
        let tree = parse(&mut rest);
        assert!(rest.is_empty(), "more than one reply: {}", shown(reply));
        tree
    }

    pub fn nodes(&self) -> &[Tree] {
        match self {
            Tree::Leaf(..) => &[],
            Tree::Node(_, nodes) => nodes,
        }
    }

    pub fn text(&self) -> &[u8] {
        match self {
            Tree::Leaf(_, text) => text,
            Tree::Node(..) => b"",
        }
    }

    /// All bulk strings, in order, however deep.
    pub fn strings(&self) -> Vec<Vec<u8>> {
        match self {
            Tree::Leaf(b'$', text) => vec![text.clone()],
            Tree::Leaf(..) => Vec::new(),
            Tree::Node(_, nodes) => nodes.iter().flat_map(Tree::strings).collect(),
        }
    }

    fn integer(&self) -> Option<i64> {
        match self {
            Tree::Leaf(b':', digits) => std::str::from_utf8(digits).ok()?.parse().ok(),
            _ => None,
        }
    }
}

fn parse(rest: &mut &[u8]) -> Tree {
    let end = rest.windows(2).position(|pair| pair == b"\r\n").expect("a whole reply");
    let (kind, line) = (rest[0], &rest[1..end]);
    *rest = &rest[end + 2..];
    let count = || -> i64 { std::str::from_utf8(line).ok().and_then(|text| text.parse().ok()).expect("a length") };
    match kind {
        b'$' | b'=' if line != b"-1" => {
            let (text, after) = rest.split_at(count() as usize);
            *rest = &after[2..];
            Tree::Leaf(kind, text.to_vec())
        }
        b'*' | b'~' | b'>' if line != b"-1" => Tree::Node(kind, (0..count()).map(|_| parse(rest)).collect()),
        b'%' => Tree::Node(kind, (0..2 * count()).map(|_| parse(rest)).collect()),
        // A null of either kind is none of the strings.
        b'$' | b'*' => Tree::Leaf(b'_', vec![kind]),
        _ => Tree::Leaf(kind, line.to_vec()),
    }
}

/// Whether both are right answers to the command of this line.
pub fn same(line: &str, ours: &Tree, theirs: &Tree) -> bool {
    if ours == theirs {
        return true;
    }
    let words: Vec<String> = line.split(' ').map(str::to_ascii_uppercase).collect();
    let name = words[0].as_str();
    if matches!(ours, Tree::Leaf(b'-', _)) || matches!(theirs, Tree::Leaf(b'-', _)) {
        return false;
    }
    let has = |word: &str| words.iter().any(|other| other == word);
    let unordered = UNORDERED.iter().find(|(other, _)| *other == name);
    match name {
        _ if let Some((_, group)) = unordered => sorted(ours, *group) == sorted(theirs, *group),
        _ if BY_CHANCE.contains(&name) => alike(ours, theirs),
        // What weighs the same has no order, and a set has none at all.
        "SORT" | "SORT_RO" if has("BY") && has("LIMIT") => alike(ours, theirs),
        "SORT" | "SORT_RO" if has("BY") => sorted(ours, 1) == sorted(theirs, 1),
        _ if let Some((_, tolerance)) = TIMES.iter().find(|(other, _)| *other == name) => {
            close(ours, theirs, *tolerance) && ours.integer() > Some(0)
        }
        // Redis converts some values when they are looked at, or leaves room in others.
        "OBJECT" if has("ENCODING") => {
            let [strings, sorted_sets]: [&[&[u8]]; 2] = [&[b"int", b"embstr", b"raw"], &[b"listpack", b"skiplist"]];
            [strings, sorted_sets].iter().any(|names| [ours, theirs].iter().all(|other| names.contains(&other.text())))
        }
        "SCAN" | "HSCAN" | "SSCAN" | "ZSCAN" => match (ours.nodes(), theirs.nodes()) {
            ([our_cursor, ours], [their_cursor, theirs]) => {
                our_cursor == their_cursor && sorted(ours, 1) == sorted(theirs, 1)
            }
            _ => false,
        },
        "OBJECT" if has("IDLETIME") => close(ours, theirs, 20),
        "XPENDING" | "XINFO" => same_but_for_times(ours, theirs),
        _ => false,
    }
}

fn close(ours: &Tree, theirs: &Tree, tolerance: i64) -> bool {
    matches!((ours.integer(), theirs.integer()), (Some(ours), Some(theirs)) if ours.abs_diff(theirs) <= tolerance as u64)
}

/// The nodes of a reply in groups of `size`, in order, behind its first byte.
fn sorted(reply: &Tree, size: usize) -> Option<(u8, Vec<&[Tree]>)> {
    let Tree::Node(kind, nodes) = reply else { return None };
    let mut groups: Vec<&[Tree]> = nodes.chunks(size).collect();
    groups.sort();
    Some((*kind, groups))
}

/// The same but for what the leaves say.
fn alike(ours: &Tree, theirs: &Tree) -> bool {
    match (ours, theirs) {
        (Tree::Leaf(ours, _), Tree::Leaf(theirs, _)) => ours == theirs,
        (Tree::Node(kind, ours), Tree::Node(other, theirs)) => {
            kind == other
                && ours.len() == theirs.len()
                && ours.iter().zip(theirs).all(|(ours, theirs)| alike(ours, theirs))
        }
        _ => false,
    }
}

/// The same but for times: the third of four in `[id, consumer, time, count]`, the second of `[id, time, count]`, and
/// what follows a name of one. Redis keeps a stream's first node if `XTRIM` finds nothing in it but deleted entries behind
/// those that it takes away; repld does not.
fn same_but_for_times(ours: &Tree, theirs: &Tree) -> bool {
    let (Tree::Node(kind, ours), Tree::Node(other, theirs)) = (ours, theirs) else { return ours == theirs };
    let is_time = |index: usize| match (ours.len(), index) {
        (4, 2) | (3, 1) => true,
        (_, 1..) => matches!(ours[index - 1].text(), b"idle" | b"seen-time"),
        _ => false,
    };
    let is_of_nodes =
        |index: usize| index > 0 && matches!(ours[index - 1].text(), b"radix-tree-keys" | b"radix-tree-nodes");
    kind == other
        && ours.len() == theirs.len()
        && (0..ours.len()).all(|index| {
            let (ours, theirs) = (&ours[index], &theirs[index]);
            same_but_for_times(ours, theirs)
                || is_time(index) && close(ours, theirs, MILLISECONDS)
                || is_of_nodes(index) && close(ours, theirs, 1)
        })
}
