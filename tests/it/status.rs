//! `status`: every diagnosis on real servers, each with its exit code and what to do next, and the object that docs/state.md
//! describes.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::sync::Mutex;

use serde_json::Value;

use crate::live::{Live, engines, kill, topology};

/// What is wrong, nodes for [`topology`], how it comes about.
type Case = (&'static str, [(&'static str, &'static str); 3], fn(&Live, &str));

const TRIO: [(&str, &str); 3] = crate::live::TRIO;
const NEVER: [(&str, &str); 3] = [("n1", ""), ("n2<n1", "priority = 0"), ("n3<n1", "priority = 0")];
/// Loads its keys one by one, and looks at its clients in between.
const SLOW: &str = "config = { key-load-delay = \"2000\", loading-process-events-interval-bytes = \"1024\" }";

fn cases() -> Vec<Case> {
    vec![
        ("healthy", TRIO, |_, _| {}),
        ("down", TRIO, |live, _| {
            for node in ["n1", "n2", "n3"] {
                crash(live, node);
            }
        }),
        ("two-masters", TRIO, |live, _| drop(live.ask("n2", &["REPLICAOF", "NO", "ONE"]))),
        ("master-moved", TRIO, |live, _| {
            crash(live, "n1");
            live.ask("n2", &["REPLICAOF", "NO", "ONE"]);
        }),
        ("master-dead", TRIO, |live, _| crash(live, "n1")),
        ("no-candidate", NEVER, |live, _| crash(live, "n1")),
        ("no-candidate", NEVER, |live, _| {
            crash(live, "n1");
            crash(live, "n2");
            live.ask("n3", &["REPLICAOF", "NO", "ONE"]);
            live.ask("n3", &["SET", "own", "1"]);
            follow(live, "n3", "n1");
        }),
        ("master-hung", TRIO, |live, _| kill(live.pid("n1"), "STOP")),
        // It serves its replicas, and nobody else.
        ("master-unreachable", TRIO, |live, _| drop(live.ask("n1", &["CLIENT", "PAUSE", "60000", "ALL"]))),
        ("master-refuses-us", TRIO, |live, _| drop(live.ask("n1", &["CONFIG", "SET", "requirepass", "unknown"]))),
        ("master-loading", [("n1", SLOW), ("n2<n1", ""), ("n3<n1", "")], |live, _| {
            live.fill("n1", 3000);
            live.ask("n1", &["SAVE"]);
            live.run(&["kill-master"]).exits(0);
            let mut start = live.here.command(&["start", "n1", "--force"]);
            let mut start = start.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("replctl runs");
            live.eventually("it has been started", || live.node("n1")["condition"] == "running");
            start.kill().and_then(|()| start.wait()).expect("it is ours");
        }),
        ("no-master", TRIO, |live, _| drop(live.ask("n1", &["REPLICAOF", "127.0.0.1", "1"]))),
        ("cycle", TRIO, |live, _| follow(live, "n1", "n2")),
        ("cycle", TRIO, |live, _| {
            follow(live, "n2", "n3");
            follow(live, "n3", "n2");
        }),
        ("orphaned-replicas", TRIO, |live, _| follow(live, "n3", "n2")),
        ("replicas-unreachable", TRIO, |live, _| crash(live, "n3")),
        ("replicas-unreachable", TRIO, |live, engine| {
            crash(live, "n3");
            live.eventually("n3 is seen dead", || live.node("n3")["condition"] == "dead");
            drop(live.start_by_hand("diagnosed", "n3", engine));
        }),
        ("replicas-loading", [("n1", ""), ("n2<n1", SLOW), ("n3<n1", "")], |live, _| {
            live.fill("n1", 3000);
            live.ask("n2", &["REPLICAOF", "NO", "ONE"]);
            live.ask("n2", &["SET", "own", "1"]);
            follow(live, "n2", "n1");
        }),
        ("replicas-never-synced", TRIO, |live, _| {
            live.fill("n1", 3000);
            live.run(&["kill", "n2"]).exits(0);
            live.wipe("diagnosed", "n2");
            live.ask("n1", &["CONFIG", "SET", "rdb-key-save-delay", "10000"]);
            let mut start = live.here.command(&["start", "n2"]).stdout(Stdio::null()).spawn().expect("replctl runs");
            live.eventually("the sync has begun", || link(live, "n2") == "syncing");
            start.kill().and_then(|()| start.wait()).expect("it is ours");
        }),
        (
            "replicas-stale",
            [("n1", "config = { repl-backlog-size = \"1mb\" }"), ("n2<n1", ""), ("n3<n1", "")],
            |live, _| {
                cut(live, "n2");
                let value = "x".repeat(100 << 10);
                for _ in 0..24 {
                    live.ask("n1", &["SET", "filler", &value]);
                }
            },
        ),
        ("links-down", TRIO, |live, _| cut(live, "n2")),
        ("empty-master", TRIO, |live, engine| {
            live.ask("n1", &["SET", "k", "v"]);
            live.arrives("n2", "k", "v");
            crash(live, "n1");
            live.eventually("n1 is seen dead", || live.node("n1")["condition"] == "dead");
            live.wipe("diagnosed", "n1");
            drop(live.start_by_hand("diagnosed", "n1", engine));
        }),
    ]
}

fn crash(live: &Live, node: &str) {
    kill(live.pid(node), "KILL");
}

fn follow(live: &Live, node: &str, upstream: &str) {
    let port = live.port(upstream).to_string();
    live.ask(node, &["REPLICAOF", "127.0.0.1", &port]);
}

fn cut(live: &Live, node: &str) {
    live.ask(node, &["CONFIG", "SET", "masterauth", "unknown"]);
    live.ask("n1", &["CLIENT", "KILL", "TYPE", "replica"]);
    live.eventually("the link is cut", || link(live, node) == "down");
}

fn link(live: &Live, node: &str) -> Value {
    live.node(node)["answer"]["report"]["link"]["state"].clone()
}

/// What `status --json` says once it says `name`.
fn status_of(case: &Case, engine: &str) -> Value {
    let (name, nodes, prepare) = case;
    let live = Live::up(&topology("diagnosed", engine, nodes));
    prepare(&live, engine);
    live.eventually(&format!("{engine}: {name}"), || live.status()["diagnosis"]["name"] == *name);
    let status = live.json(&["status"], if *name == "healthy" { 0 } else { 4 });
    assert_eq!(status["hint"].is_null(), *name == "healthy", "{engine}: {status}");
    status
}

/// Whether a field is one that servers which replctl did not start have only; these have tests of their own.
fn is_unmanaged(path: &str) -> bool {
    ["recorded_run_id", "unfenced", "unknown"].iter().any(|name| path.contains(name))
}

/// The fields in docs/state.md, each with its type.
fn documented() -> BTreeMap<String, String> {
    let text = include_str!("../../docs/state.md");
    let (_, section) = text.split_once("## `status --json`").expect("the section");
    let (section, _) = section.split_once("\n## ").expect("it is not the last");
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let fields = rows.flat_map(|row| {
        let mut cells = row.split('|').skip(1).map(str::trim);
        let (names, kind) = cells.next().zip(cells.next()).expect("three columns");
        names.split(", ").map(|name| (name.trim_matches('`').to_owned(), kind.to_owned())).collect::<Vec<_>>()
    });
    fields.collect()
}

/// Every field of a value with what it holds.
fn fields(path: &str, value: &Value, found: &mut Vec<(String, &'static str)>) {
    let (kind, children): (_, Vec<(String, &Value)>) = match value {
        Value::Null => ("null", Vec::new()),
        Value::Bool(_) => ("boolean", Vec::new()),
        Value::Number(_) => ("number", Vec::new()),
        Value::String(_) => ("string", Vec::new()),
        Value::Array(items) if !items.is_empty() && items.iter().all(Value::is_string) => {
            ("list of strings", Vec::new())
        }
        Value::Array(items) => ("list", items.iter().map(|item| (format!("{path}[]"), item)).collect()),
        Value::Object(map) => {
            let name = |key: &String| if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            ("object", map.iter().map(|(key, value)| (name(key), value)).collect())
        }
    };
    found.push((path.to_owned(), kind));
    children.into_iter().for_each(|(path, child)| fields(&path, child, found));
}

/// Makes every diagnosis of real servers, and holds each object against the documents.
fn every_diagnosis_is_told_as_documented(engine: &str) {
    let (documented, explained) = (documented(), include_str!("../../docs/failover.md"));
    let cases = cases();
    let (next, seen) = (Mutex::new(cases.iter()), Mutex::new(BTreeSet::new()));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let Some(case) = next.lock().expect("nobody panicked").next() else { break };
                    assert!(explained.contains(&format!("`{}`", case.0)), "{} is not in docs/failover.md", case.0);
                    seen.lock().expect("nobody panicked").extend(judged(&status_of(case, engine), &documented));
                }
            });
        }
    });
    let seen = seen.into_inner().expect("nobody panicked");
    let missing: Vec<_> = documented.keys().filter(|path| !seen.contains(*path) && !is_unmanaged(path)).collect();
    assert!(missing.is_empty(), "documented, and never there: {missing:?}");
}

/// The documented fields that an object has; it must have no others, and each must be of its type.
fn judged(status: &Value, documented: &BTreeMap<String, String>) -> Vec<String> {
    let mut found = Vec::new();
    fields("", status, &mut found);
    let known = found.into_iter().filter_map(|(path, kind)| {
        let path = path.replace("answer.stranger.", "answer.report.");
        let Some(types) = documented.get(&path) else {
            let is_above = documented.keys().any(|known| known.starts_with(&path));
            assert!(is_above && ["object", "list"].contains(&kind), "{path} is not documented: {status}");
            return None;
        };
        let fits = types.split(" or ").any(|one| one == kind || kind == "list" && one.starts_with("list"));
        assert!(fits, "{path} is a {kind}, not a {types}: {status}");
        Some(path)
    });
    known.collect()
}

#[test]
fn every_diagnosis_of_repld_is_told_as_documented() {
    every_diagnosis_is_told_as_documented("repld");
}

#[test]
fn every_diagnosis_of_redis_is_told_as_documented() {
    if engines().contains(&"redis-server") {
        every_diagnosis_is_told_as_documented("redis-server");
    }
}

#[test]
fn every_diagnosis_of_valkey_is_told_as_documented() {
    if engines().contains(&"valkey-server") {
        every_diagnosis_is_told_as_documented("valkey-server");
    }
}
