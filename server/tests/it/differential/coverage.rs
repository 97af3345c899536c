//! The random commands reach every command of the table, and every option that Redis names.

use std::collections::{BTreeMap, BTreeSet};

use super::comparison::Tree;
use super::generator::{Kind as Script, step};
use super::words_of;
use crate::client::strings;
use crate::random::Random;
use crate::server::Kind;

const STEPS: usize = 60_000;

/// Commands that are never generated, and why. A container stands for its subcommands as well.
const LEFT_OUT: [(&str, &[&str]); 6] = [
    (
        "what they answer is the server's own",
        &[
            "acl",
            "client",
            "command|count",
            "command|docs",
            "command|getkeysandflags",
            "command|info",
            "command|list",
            "config",
            "debug",
            "dump",
            "function",
            "hello",
            "info",
            "latency",
            "memory",
            "object|refcount",
            "replid",
            "role",
            "slowlog",
            "time",
            "pfselftest",
        ],
    ),
    ("they change what the connection is", &["auth", "quit", "reset", "monitor"]),
    (
        "messages come out of turn",
        &["subscribe", "psubscribe", "ssubscribe", "unsubscribe", "punsubscribe", "sunsubscribe"],
    ),
    (
        "they save, end or link the server",
        &[
            "bgrewriteaof",
            "bgsave",
            "failover",
            "migrate",
            "psync",
            "replconf",
            "replicaof",
            "save",
            "shutdown",
            "slaveof",
            "sync",
        ],
    ),
    ("there is no Lua", &["eval", "eval_ro", "evalsha", "evalsha_ro", "fcall", "fcall_ro", "script"]),
    (
        "redis-server 7.0 has no such command",
        &[
            "hexpire",
            "hexpireat",
            "hexpiretime",
            "hgetdel",
            "hgetex",
            "hpersist",
            "hpexpire",
            "hpexpireat",
            "hpexpiretime",
            "hpttl",
            "hsetex",
            "httl",
            "waitaof",
        ],
    ),
];

fn is_left_out(name: &str) -> bool {
    let container = name.split('|').next().unwrap_or(name);
    // The texts are the server's own.
    name.ends_with("|help") || LEFT_OUT.iter().any(|(_, names)| names.contains(&name) || names.contains(&container))
}

/// What many random steps consist of: each command, or subcommand as `container|name`, and the words it comes with.
fn generated() -> BTreeMap<String, BTreeSet<String>> {
    let mut random = Random::new(1);
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for index in 0..STEPS {
        let kind = [Script::Repeatable, Script::Lively][index % 2];
        for line in step(&mut random, kind) {
            let words = words_of(line.trim_start_matches("2> "));
            let words: Vec<String> = words.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
            let name = match words[0].as_str() {
                "SAMPLE" => &words[1],
                "SPOP-AND-ADD" => "SPOP",
                name => name.trim_end_matches("-ALL"),
            };
            let name = name.to_ascii_lowercase();
            let subcommand = words.get(1).map(|word| format!("{name}|{}", word.to_ascii_lowercase()));
            for name in [Some(name), subcommand].into_iter().flatten() {
                found.entry(name).or_default().extend(words.iter().map(|word| word.to_ascii_uppercase()));
            }
        }
    }
    found
}

#[test]
fn every_command_of_the_table_is_generated_or_left_out_for_a_reason() {
    let Some(server) = Kind::Repld.server() else { return };
    let reply = server.start().connect().call(&["COMMAND", "LIST"]);
    let table: Vec<String> = strings(&reply).iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    let generated = generated();
    let forgotten: Vec<&String> =
        table.iter().filter(|name| !generated.contains_key(*name) && !is_left_out(name)).collect();
    assert!(forgotten.is_empty(), "never generated: {forgotten:?}");
    let unfounded: Vec<&&str> = LEFT_OUT
        .iter()
        .flat_map(|(_, names)| *names)
        .filter(|name| generated.contains_key(**name) || !table.iter().any(|other| other == *name))
        .collect();
    assert!(unfounded.is_empty(), "generated, or no command: {unfounded:?}");
}

#[test]
fn every_option_of_a_generated_command_is_generated() {
    let Some(server) = Kind::Redis.server() else { return };
    let docs = Tree::parse(&server.start().connect().call(&["COMMAND", "DOCS"]));
    let mut options = Vec::new();
    collect_options(&docs, &mut options);
    let generated = generated();
    let forgotten: Vec<&(String, String)> = options
        .iter()
        .filter(|(name, token)| generated.get(name).is_some_and(|words| !words.contains(&token.to_ascii_uppercase())))
        .collect();
    assert!(forgotten.is_empty(), "never generated: {forgotten:?}");
}

/// The options of commands, of which a reply has each name followed by what is told of it.
fn collect_options(commands: &Tree, options: &mut Vec<(String, String)>) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    for command in commands.nodes().chunks_exact(2) {
        let [Tree::Leaf(_, name), told] = command else { continue };
        for field in told.nodes().chunks_exact(2) {
            match field {
                [Tree::Leaf(_, field), subcommands] if field == b"subcommands" => collect_options(subcommands, options),
                [Tree::Leaf(_, field), arguments] if field == b"arguments" => {
                    let mut tokens = Vec::new();
                    collect_tokens(arguments, &mut tokens);
                    options.extend(tokens.iter().map(|token| (text(name), text(token))));
                }
                _ => {}
            }
        }
    }
}

fn collect_tokens(arguments: &Tree, tokens: &mut Vec<Vec<u8>>) {
    for pair in arguments.nodes().chunks(2) {
        match pair {
            [Tree::Leaf(_, field), Tree::Leaf(_, token)] if field == b"token" && !token.is_empty() => {
                tokens.push(token.clone());
            }
            _ => pair.iter().for_each(|node| collect_tokens(node, tokens)),
        }
    }
}
