//! Where a command's keys are, and what it does to them: <https://redis.io/docs/latest/develop/reference/key-specs/>.
//!
//! The gates find keys by the quicker [`Keys`](super::table::Keys); this is for those who ask, and for access control.

use super::{Args, Command, about::about, migrate};
use crate::number::parse_i64;
use crate::resp::Reply;

/// What a command does to a key.
pub type Access = u16;

/// Only looks at it.
pub const RO: Access = 1;
/// Looks at it and changes it.
pub const RW: Access = 1 << 1;
/// Overwrites it.
pub const OW: Access = 1 << 2;
/// Removes it.
pub const RM: Access = 1 << 3;
/// What is in it shows in the reply or in other keys.
pub const ACCESS: Access = 1 << 4;
/// Changes what is in it.
pub const UPDATE: Access = 1 << 5;
/// Adds to it.
pub const INSERT: Access = 1 << 6;
/// Removes from it.
pub const DELETE: Access = 1 << 7;
/// It looks like a key and is none.
pub const NOT_KEY: Access = 1 << 8;
/// There may be more than are found.
pub const INCOMPLETE: Access = 1 << 9;
/// It depends on the arguments.
pub const VARIABLE_FLAGS: Access = 1 << 10;

const NAMES: [(Access, &str); 11] = [
    (RO, "RO"),
    (RW, "RW"),
    (OW, "OW"),
    (RM, "RM"),
    (ACCESS, "access"),
    (UPDATE, "update"),
    (INSERT, "insert"),
    (DELETE, "delete"),
    (NOT_KEY, "not_key"),
    (INCOMPLETE, "incomplete"),
    (VARIABLE_FLAGS, "variable_flags"),
];

/// Where a search for keys begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begin {
    /// At this argument.
    At(usize),
    /// Behind this word, which is looked for from an argument on, backwards if that is negative.
    After(&'static str, isize),
    Unknown,
}

/// Which arguments from there on are keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Find {
    /// So many more (counted from the command's end if negative), one in `step`; of the rest only the first part in
    /// `limit`.
    Range {
        last: isize,
        step: usize,
        limit: usize,
    },
    /// As many as the first of them says.
    Counted,
    Unknown,
}

/// One place where a command's keys are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeySpec {
    access: Access,
    begin: Begin,
    find: Find,
}

/// One key at a place.
pub const fn key(at: usize, access: Access) -> KeySpec {
    range(at, 0, 1, access)
}

/// Keys from a place on.
pub const fn range(at: usize, last: isize, step: usize, access: Access) -> KeySpec {
    KeySpec { access, begin: Begin::At(at), find: Find::Range { last, step, limit: 0 } }
}

/// As many keys as the argument at a place says.
pub const fn counted(at: usize, access: Access) -> KeySpec {
    KeySpec { access, begin: Begin::At(at), find: Find::Counted }
}

/// Keys behind a word.
pub const fn after(word: &'static str, from: isize, last: isize, limit: usize, access: Access) -> KeySpec {
    KeySpec { access, begin: Begin::After(word, from), find: Find::Range { last, step: 1, limit } }
}

/// Keys that cannot be found like this.
pub const fn unknown(access: Access) -> KeySpec {
    KeySpec { access, begin: Begin::Unknown, find: Find::Unknown }
}

impl KeySpec {
    /// Whether what it finds are keys, and not channels, which only take the same way through a cluster.
    pub fn finds_keys(&self) -> bool {
        self.access & NOT_KEY == 0
    }

    /// Whether `first`, `last` and `step` say it as well.
    pub(super) fn is_range(&self) -> bool {
        matches!((self.begin, self.find), (Begin::At(_), Find::Range { .. }))
    }

    /// Whether the keys are where they must be, and as many as is said.
    pub(super) fn is_met_by(&self, args: Args) -> bool {
        match (self.begin, self.find, self.first(args)) {
            (_, Find::Counted, Some(first)) => {
                let room = args.len().saturating_sub(first + 1);
                args.maybe(first).and_then(parse_i64).is_some_and(|count| (1..=room as i64).contains(&count))
            }
            (Begin::At(_), Find::Range { .. }, Some(first)) => first < args.len(),
            _ => true,
        }
    }

    /// The keys among `args`, by their places.
    fn find(&self, args: Args) -> Vec<usize> {
        let len = args.len();
        let Some(first) = self.first(args) else { return Vec::new() };
        match self.find {
            Find::Unknown => Vec::new(),
            Find::Counted => {
                let count = args.maybe(first).and_then(parse_i64).and_then(|count| usize::try_from(count).ok());
                let end = (first + 1).saturating_add(count.unwrap_or(0));
                // More than there are: the command will say so, and touch none.
                if end > len { Vec::new() } else { (first + 1..end).collect() }
            }
            Find::Range { last, step, limit } => {
                let end = match (last, limit) {
                    (0.., _) => first + last as usize + 1,
                    (_, 0 | 1) => len.saturating_add_signed(last + 1),
                    (_, limit) => first + len.saturating_sub(first) / limit,
                };
                (first..end.min(len)).step_by(step).collect()
            }
        }
    }

    fn first(&self, args: Args) -> Option<usize> {
        match self.begin {
            Begin::At(at) => Some(at),
            Begin::Unknown => None,
            Begin::After(word, from) => {
                let is_there = |index: &usize| args.is(*index, word);
                let found = match usize::try_from(from) {
                    Ok(from) => (from..args.len()).find(is_there),
                    Err(_) => (1..args.len().saturating_add_signed(from + 1)).rev().find(is_there),
                };
                found.map(|index| index + 1)
            }
        }
    }

    /// As `COMMAND INFO` shows it.
    pub(super) fn describe(&self, reply: &mut Reply) {
        reply.map(3);
        reply.bulk(b"flags");
        describe_access(reply, self.access);
        reply.bulk(b"begin_search");
        match self.begin {
            Begin::At(at) => spec(reply, "index", &[("index", Fact::Number(at as i64))]),
            Begin::After(word, from) => {
                spec(reply, "keyword", &[("keyword", Fact::Word(word)), ("startfrom", Fact::Number(from as i64))]);
            }
            Begin::Unknown => spec(reply, "unknown", &[]),
        }
        reply.bulk(b"find_keys");
        match self.find {
            Find::Range { last, step, limit } => {
                let facts = [("lastkey", last as i64), ("keystep", step as i64), ("limit", limit as i64)];
                spec(reply, "range", &facts.map(|(name, number)| (name, Fact::Number(number))));
            }
            Find::Counted => {
                let facts = [("keynumidx", 0), ("firstkey", 1), ("keystep", 1)];
                spec(reply, "keynum", &facts.map(|(name, number)| (name, Fact::Number(number))));
            }
            Find::Unknown => spec(reply, "unknown", &[]),
        }
    }
}

enum Fact {
    Number(i64),
    Word(&'static str),
}

fn spec(reply: &mut Reply, kind: &str, facts: &[(&str, Fact)]) {
    reply.map(2);
    reply.bulk(b"type");
    reply.bulk(kind.as_bytes());
    reply.bulk(b"spec");
    reply.map(facts.len());
    for (name, fact) in facts {
        reply.bulk(name.as_bytes());
        match fact {
            Fact::Number(number) => reply.integer(*number),
            Fact::Word(word) => reply.bulk(word.as_bytes()),
        }
    }
}

/// The names of what is done to a key.
pub(super) fn describe_access(reply: &mut Reply, access: Access) {
    let names: Vec<&str> = NAMES.iter().filter(|(flag, _)| access & flag != 0).map(|(_, name)| *name).collect();
    reply.set(names.len());
    names.iter().for_each(|name| reply.simple(name));
}

/// The keys of a request, by their places, and what is done to each.
pub fn keys(command: &Command, args: Args) -> Vec<(usize, Access)> {
    if command.name == "migrate" {
        // A password may look like the word that its keys follow.
        return migrate::keys(args).into_iter().map(|place| (place, RW | ACCESS | DELETE)).collect();
    }
    let specs = about(command.name).specs;
    let mut found: Vec<(usize, Access)> = Vec::new();
    for spec in specs.iter().filter(|spec| spec.finds_keys()) {
        let access = if spec.access & VARIABLE_FLAGS != 0 { of_arguments(command, args) } else { spec.access };
        found.extend(spec.find(args).into_iter().map(|place| (place, access)));
    }
    // Where the word may stand anywhere, the command's own reading of it holds.
    found.retain(|(place, _)| !command.keys.stored || *place == 1);
    found.extend(command.keys.stored(args).filter(|_| command.is_write()).map(|place| (place, OW | UPDATE)));
    found
}

/// What those commands do whose options decide.
fn of_arguments(command: &Command, args: Args) -> Access {
    match command.name {
        "set" if (3..args.len()).any(|index| args.is(index, "get")) => RW | ACCESS | UPDATE,
        "set" => OW | UPDATE,
        "bitfield" if (2..args.len()).any(|index| args.is(index, "set") || args.is(index, "incrby")) => {
            RW | ACCESS | UPDATE
        }
        "bitfield" => RO | ACCESS,
        _ => RW | ACCESS | UPDATE,
    }
}
