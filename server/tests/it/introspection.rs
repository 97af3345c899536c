//! What the server says of itself.

use std::collections::BTreeSet;
use std::path::Path;

use crate::client::{Client, strings};
use crate::server::{Kind, Server};

fn repld() -> Server {
    Kind::Repld.server().expect("it is built").start()
}

fn words(reply: &[u8]) -> Vec<String> {
    strings(reply).iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// The names in backticks of the first column of the table of what is left out.
fn left_out() -> Vec<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/commands.md");
    let text = std::fs::read_to_string(file).expect("the page is there");
    let table =
        text.split("## What is left out").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("a section");
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.map(|row| row.split(" | ").next().expect("a row has a cell").replace("\\|", "|"));
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()).collect()
}

fn matches(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |prefix| name.starts_with(prefix))
}

#[test]
fn every_command_of_redis_is_there_or_is_said_to_be_left_out() {
    let ours: BTreeSet<String> = words(&repld().connect().call(&["COMMAND", "LIST"])).into_iter().collect();
    let left_out = left_out();
    for pattern in &left_out {
        let there = ours.iter().find(|name| matches(pattern, name));
        assert_eq!(there, None, "docs/commands.md says that {pattern} is left out");
    }
    for kind in [Kind::Redis, Kind::Valkey] {
        let Some(peer) = kind.server() else { continue };
        for name in words(&peer.start().connect().call(&["COMMAND", "LIST"])) {
            let is_told = left_out.iter().any(|pattern| matches(pattern, &name));
            assert!(ours.contains(&name) || is_told, "{name} is neither there nor in docs/commands.md");
        }
    }
}

/// What `COMMAND INFO` says of one command, without what this server does not tell.
fn facts(client: &mut Client, name: &str) -> Vec<String> {
    const UNTOLD: [&str; 3] = ["+allow_busy", "+no_async_loading", "+no_mandatory_keys"];
    let reply = client.call(&["COMMAND", "INFO", name]);
    let text = String::from_utf8(reply).expect("ASCII");
    let mut facts: Vec<String> = text.split("\r\n").map(str::to_owned).collect();
    facts.retain(|fact| fact.starts_with('+') || fact.starts_with(':'));
    facts.retain(|fact| !UNTOLD.contains(&fact.as_str()));
    facts.sort();
    facts
}

#[test]
fn arity_flags_categories_and_keys_of_commands_are_those_of_redis() {
    let Some(redis) = Kind::Redis.server() else { return };
    let (redis, repld) = (redis.start(), repld());
    let (mut redis, mut repld) = (redis.connect(), repld.connect());
    let known: BTreeSet<String> = words(&redis.call(&["COMMAND", "LIST"])).into_iter().collect();
    for name in words(&repld.call(&["COMMAND", "LIST"])).into_iter().filter(|name| known.contains(name)) {
        // Of a family, the same is asked of each part.
        let is_family = known.iter().any(|other| other.starts_with(&format!("{name}|")));
        if !is_family {
            assert_eq!(facts(&mut repld, &name), facts(&mut redis, &name), "{name}");
        }
    }
}

#[test]
fn keys_of_a_command_are_found_with_what_is_done_to_them() {
    let server = repld();
    let mut client = server.connect();
    for (line, wanted) in [
        ("SET k v", "k OW update"),
        ("SET k v GET", "k RW access update"),
        ("SORT k BY x STORE d", "k RO access d OW update"),
        ("LMOVE a b LEFT LEFT", "a RW access delete b RW insert"),
        ("ZUNIONSTORE d 2 a b", "d OW update a RO access b RO access"),
        ("XREAD COUNT 1 STREAMS a b 0 0", "a RO access b RO access"),
        ("GEORADIUS k 0 0 1 m STORE d", "k RO access d OW update"),
    ] {
        let reply = client.run(&format!("COMMAND GETKEYSANDFLAGS {line}"));
        let words: Vec<&str> = reply.split("\r\n").filter(|word| !word.starts_with(['*', '$'])).collect();
        let words: Vec<&str> = words.iter().map(|word| word.trim_start_matches('+')).collect();
        assert_eq!(words.join(" ").trim_end(), wanted, "{line}");
    }
    assert!(client.run("COMMAND GETKEYS PING x").starts_with("-ERR The command has no key arguments"));
}

#[test]
fn slow_commands_are_kept_without_their_secrets() {
    let server = repld();
    let mut client = server.connect();
    client.ok("CLIENT SETNAME somebody");
    client.ok("CONFIG SET slowlog-log-slower-than 0 slowlog-max-len 3");
    client.ok("SLOWLOG RESET");
    client.ok("CONFIG SET masterauth secret");
    client.run("GET k");
    client.ok("CONFIG SET slowlog-log-slower-than -1");
    let reply = client.call(&["SLOWLOG", "GET"]);
    let words = words(&reply);
    let log: Vec<&str> = words.iter().map(String::as_str).filter(|word| !word.contains("127.0.0.1")).collect();
    let wanted = ["GET", "k", "somebody", "CONFIG", "SET", "masterauth", "(redacted)", "somebody"];
    assert_eq!(log[..8], wanted, "{log:?}");
    assert_eq!(client.run("SLOWLOG LEN"), ":3\r\n");
}

#[test]
fn calls_times_and_errors_are_counted_by_command() {
    let server = repld();
    let mut client = server.connect();
    client.ok("CONFIG RESETSTAT");
    client
        .send(&b"SET k v\r\nSET k w\r\nGET k\r\nLPUSH k x\r\nLRANGE l 0 -1\r\nMSET a 1 b 2\r\nSET k\r\n"[..])
        .expect("it listens");
    for _ in 0..7 {
        client.reply().expect("an answer");
    }
    let info = client.bulk("INFO commandstats errorstats latencystats");
    let field = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name));
        line.unwrap_or_else(|| panic!("{name} is not in {info}")).to_owned()
    };
    assert!(field("cmdstat_set:").starts_with("cmdstat_set:calls=2,usec="));
    assert!(field("cmdstat_set:").ends_with("rejected_calls=1,failed_calls=0"));
    assert!(field("cmdstat_lpush:").ends_with("rejected_calls=0,failed_calls=1"));
    assert_eq!(field("errorstat_WRONGTYPE:"), "errorstat_WRONGTYPE:count=1");
    // Quick ones are timed by the run, others each by itself.
    for name in ["set", "get", "lrange", "mset"] {
        assert!(field(&format!("latency_percentiles_usec_{name}:")).contains("p50="));
    }
    assert!(!info.contains("# Server"), "only what was asked for");
}

#[test]
fn who_looks_on_sees_commands_in_order_and_no_passwords() {
    let server = repld();
    let (mut monitor, mut client) = (server.connect(), server.connect());
    monitor.ok("MONITOR");
    client.ok("MULTI");
    client.run("SET k v");
    client.run("EXEC");
    client.run("AUTH secret");
    for wanted in ["\"MULTI\"", "\"SET\" \"k\" \"v\"", "\"EXEC\"", "\"AUTH\" \"(redacted)\""] {
        let line = String::from_utf8(monitor.line().expect("a line")).expect("ASCII");
        assert!(line.trim_end().ends_with(wanted), "{line} is not {wanted}");
    }
    assert!(client.bulk("CLIENT LIST").contains("flags=O "));
    monitor.send(b"RESET\r\n").expect("it listens");
    assert_eq!(monitor.line().expect("a line"), b"+RESET\r\n");
    assert!(!client.bulk("CLIENT LIST").contains("flags=O "));
}

#[test]
fn shard_channels_are_apart_from_channels() {
    let server = repld();
    let (mut listener, mut client) = (server.connect(), server.connect());
    listener.run("SSUBSCRIBE c");
    assert_eq!(client.run("PUBLISH c x"), ":0\r\n");
    assert_eq!(client.run("SPUBLISH c hello"), ":1\r\n");
    assert_eq!(words(&listener.reply().expect("a message")), ["smessage", "c", "hello"]);
    assert_eq!(client.run("PUBSUB SHARDNUMSUB c"), "*2\r\n$1\r\nc\r\n:1\r\n");
    assert_eq!(client.run("PUBSUB CHANNELS"), "*0\r\n");
    assert!(
        listener.run("GET k").starts_with("-ERR Can't execute 'get'"),
        "a RESP2 connection that listens does nothing else"
    );
}
