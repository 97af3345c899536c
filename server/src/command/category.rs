//! The categories that `ACL` and `COMMAND` divide commands into; most follow from a command's flags and its group.

use super::about::{Group, about};
use super::{Command, Handler, table};

/// A set of categories: a bit each, in the order of [`NAMES`].
pub type Categories = u32;

/// As they are named, without the `@`.
pub const NAMES: [&str; 21] = [
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
];

/// The category of this name, in any case.
pub fn named(name: &[u8]) -> Option<Categories> {
    let index = NAMES.iter().position(|own| own.as_bytes().eq_ignore_ascii_case(name))?;
    Some(1 << index)
}

/// Those that a command belongs to.
pub fn of(command: &Command) -> Categories {
    let flags = [
        ("write", command.counts_as_write()),
        ("read", command.is_readonly() && about(command.name).group != Group::Scripting),
        ("admin", command.is(table::ADMIN)),
        ("dangerous", command.is(table::ADMIN)),
        ("pubsub", command.is(table::PUBSUB)),
        ("blocking", matches!(command.handler, Handler::Blocking(_))),
        (if command.is(table::FAST) { "fast" } else { "slow" }, true),
    ];
    let by_flag = flags.iter().filter(|(_, is)| *is).map(|(name, _)| *name);
    set(by_flag.chain(by_name(command).iter().copied()))
}

fn set<'a>(names: impl Iterator<Item = &'a str>) -> Categories {
    names.filter_map(|name| named(name.as_bytes())).fold(0, |all, one| all | one)
}

fn by_name(command: &Command) -> &'static [&'static str] {
    match command.name {
        "dbsize" => &["keyspace"],
        "flushall" | "flushdb" | "keys" | "migrate" | "restore" | "swapdb" => &["keyspace", "dangerous"],
        "info" => &["dangerous"],
        "lastsave" | "role" => &["admin", "dangerous"],
        "sort" | "sort_ro" => &["set", "sortedset", "list", "dangerous"],
        "command" | "wait" => &["connection"],
        name if name.starts_with("command|") => &["connection"],
        // What is divided is nothing by itself.
        _ if !command.subcommands.is_empty() => &[],
        name => by_group(about(name.strip_suffix("|help").unwrap_or(name)).group),
    }
}

fn by_group(group: Group) -> &'static [&'static str] {
    match group {
        Group::Bitmap => &["bitmap"],
        Group::Connection => &["connection"],
        Group::Generic => &["keyspace"],
        Group::Geo => &["geo"],
        Group::Hash => &["hash"],
        Group::HyperLogLog => &["hyperloglog"],
        Group::List => &["list"],
        Group::Scripting => &["scripting"],
        Group::Set => &["set"],
        Group::SortedSet => &["sortedset"],
        Group::Stream => &["stream"],
        Group::String => &["string"],
        Group::Transactions => &["transaction"],
        Group::PubSub | Group::Server => &[],
    }
}
