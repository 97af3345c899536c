//! What an old master alone has is written down as commands before anything throws it away.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::live::{Live, engines, kill, topology};

const PASSWORD: &str = "s3cret word";

/// n1 with the replica n2, both with a password.
fn pair(engine: &str) -> Live {
    let secret = format!("config = {{ requirepass = '\"{PASSWORD}\"' }}");
    Live::up(&topology("pair", engine, &[("n1", &secret), ("n2<n1", &secret)]))
}

/// Sends a file of commands to a node, as `redis-cli --pipe` does; returns its replies.
fn replay(live: &Live, node: &str, file: &Path) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", live.port(node))).expect("it listens");
    write!(stream, "*2\r\n$4\r\nAUTH\r\n${}\r\n{PASSWORD}\r\n", PASSWORD.len()).expect("sent");
    stream.write_all(&std::fs::read(file).expect("the tail")).expect("sent");
    stream.shutdown(Shutdown::Write).expect("sent");
    let mut replies = String::new();
    stream.read_to_string(&mut replies).expect("answers");
    replies
}

/// A pipeline of commands in one session, so that a `SELECT` holds.
fn session(live: &Live, node: &str, commands: &[&[&str]]) {
    let client = redis::Client::open(("127.0.0.1", live.port(node))).expect("an address");
    let mut connection = client.get_connection().expect("it listens");
    redis::cmd("AUTH").arg(PASSWORD).exec(&mut connection).expect("its password");
    for words in commands {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]).exec(&mut connection).expect("done");
    }
}

fn file_of(tail: &Value) -> PathBuf {
    PathBuf::from(tail["file"].as_str().unwrap_or_else(|| panic!("not kept: {tail}")))
}

/// Two masters, of which n1 has written what n2 has not, in database 3 and others.
fn split(engine: &str) -> Live {
    let live = pair(engine);
    session(&live, "n1", &[&["SET", "shared", "0"], &["SELECT", "3"], &["SET", "count", "1"]]);
    live.eventually("n2 has it", || {
        let offset = |node: &Value| node["answer"]["report"]["offset"].as_u64();
        offset(&live.node("n1")) == offset(&live.node("n2")) && live.ask("n2", &["GET", "shared"]) == "0"
    });
    live.ask("n2", &["REPLICAOF", "NO", "ONE"]);
    session(
        &live,
        "n1",
        &[
            &["SELECT", "3"],
            &["INCRBY", "count", "41"],
            &["SELECT", "0"],
            &["SET", "alone", "line\r\nbreak"],
            &["RPUSH", "list", "a", "b"],
        ],
    );
    live.ask("n2", &["SET", "elsewhere", "1"]);
    live
}

#[test]
fn a_living_old_masters_writes_are_kept_before_it_becomes_a_replica() {
    for engine in engines() {
        let live = split(engine);
        assert_eq!(live.json(&["status"], 4)["diagnosis"]["name"], "two-masters");
        live.run(&["promote", "--force"]).exits(3);
        live.run(&["promote", "n2"]).exits(3);
        let plan = live.run(&["promote", "n2", "--force", "--dry-run"]).exits(0).stdout;
        assert!(plan.contains("1. hold back n1's writes and let it follow n2"), "{engine}: {plan}");

        let report = live.json(&["promote", "n2", "--force"], 0);
        let tail = &report["tails"][0];
        assert_eq!(
            (&tail["node"], &tail["fate"], &tail["commands"]),
            (&json!("n1"), &json!("kept"), &json!(3)),
            "{report}"
        );
        assert_eq!(tail["database"], 3, "{engine}: {tail}");
        assert_eq!((&report["gone"]["from"], &report["gone"]["replid"]), (&tail["from"], &tail["replid"]), "{report}");
        assert_eq!(live.role("n1"), ("slave".to_owned(), Some(live.port("n2"))), "{engine}");
        live.arrives("n1", "elsewhere", "1");
        assert_eq!(live.ask("n1", &["EXISTS", "alone"]), 0, "{engine}: it was not thrown away");

        let file = file_of(tail);
        assert_eq!(file.parent(), Some(live.state("pair").join("tails").as_path()));
        let replies = replay(&live, "n2", &file);
        assert!(!replies.contains('-'), "{engine}: {replies}");
        assert_eq!(live.ask("n2", &["GET", "alone"]), "line\r\nbreak", "{engine}");
        live.eventually("the list is there", || live.ask("n2", &["LLEN", "list"]) == 2);
        session(&live, "n2", &[&["SELECT", "3"], &["RENAME", "count", "counted"], &["MOVE", "counted", "0"]]);
        assert_eq!(live.ask("n2", &["GET", "counted"]), "42", "{engine}");
        assert_eq!(live.status()["diagnosis"]["name"], "healthy");
        let journal = std::fs::read_to_string(live.state("pair").join("journal.jsonl")).expect("it is there");
        assert!(journal.contains(r#""event":"tail""#), "{journal}");
    }
}

#[test]
fn a_tail_that_the_backlog_lost_is_said_to_be_gone() {
    for engine in engines() {
        let live = split(engine);
        live.ask("n1", &["CONFIG", "SET", "repl-backlog-size", "16mb"]);
        // More than the backlog holds, in pieces that each fit.
        let value = "x".repeat(512 << 10);
        let fill: Vec<[&str; 3]> = (0..48).map(|_| ["SET", "filler", &value]).collect();
        session(&live, "n1", &fill.iter().map(<[&str; 3]>::as_slice).collect::<Vec<_>>());
        let report = live.json(&["promote", "n2", "--force"], 4);
        let fates: Vec<&str> =
            report["tails"].as_array().expect("a list").iter().filter_map(|tail| tail["fate"].as_str()).collect();
        assert_eq!(fates, ["gone", "kept"], "{engine}: {}", report["tails"]);
        assert_eq!(report["tails"][0]["to"], report["tails"][1]["from"]);
        assert_eq!(live.role("n1").0, "slave", "{engine}: it was asked for by force");
    }
}

/// A dead repld that took writes while its replica was stopped, and whose replica was promoted without them.
fn left_behind(live: &Live) {
    live.ask("n1", &["SET", "shared", "0"]);
    live.arrives("n2", "shared", "0");
    let (master, replica) = (live.pid("n1"), live.pid("n2"));
    kill(replica, "STOP");
    // More than sockets hold.
    let value = "x".repeat(1 << 20);
    let fill: Vec<[&str; 3]> = (0..12).map(|_| ["SET", "filler", &value]).collect();
    session(live, "n1", &fill.iter().map(<[&str; 3]>::as_slice).collect::<Vec<_>>());
    session(live, "n1", &[&["SET", "last", "1"]]);
    kill(master, "KILL");
    kill(replica, "CONT");
    live.eventually("n1 is seen dead", || live.node("n1")["condition"] == "dead");
}

#[test]
fn a_living_master_that_is_ended_by_force_hands_out_what_its_heir_lacks_first() {
    // What a repld had not sent is salvaged when it has ended.
    for engine in engines().iter().filter(|engine| **engine != "repld") {
        let live = pair(engine);
        live.ask("n1", &["SET", "k", "v"]);
        live.arrives("n2", "k", "v");
        live.ask("n2", &["CONFIG", "SET", "masterauth", "unknown"]);
        live.ask("n1", &["CLIENT", "KILL", "TYPE", "replica"]);
        live.eventually("the link is cut", || live.node("n2")["answer"]["report"]["link"]["state"] == "down");
        live.ask("n1", &["SET", "alone", "1"]);
        let report = live.json(&["promote", "--force"], 0);
        let tail = &report["tails"][0];
        assert_eq!((&tail["fate"], &tail["commands"]), (&json!("kept"), &json!(1)), "{engine}: {report}");
        replay(&live, "n2", &file_of(tail));
        live.eventually("it is there", || live.ask("n2", &["GET", "alone"]) == "1");
    }
}

#[test]
fn what_is_salvaged_can_be_kept_as_commands_too() {
    let live = pair("repld");
    left_behind(&live);
    let file = live.here.directory().join("tail.resp");
    let name = file.to_str().expect("a name");
    let report = live.json(&["promote", "--keep-tail", name], 0);
    let (salvaged, tail) = (&report["salvaged"], &report["tails"][0]);
    assert_eq!((&tail["from"], &tail["to"]), (&salvaged["from"], &salvaged["end"]), "{report}");
    assert_eq!((&report["gone"], &salvaged["replid"]), (&Value::Null, &tail["replid"]));
    assert_eq!(live.ask("n2", &["GET", "last"]), "1");
    live.ask("n2", &["DEL", "last"]);
    replay(&live, "n2", &file);
    live.eventually("it is there again", || live.ask("n2", &["GET", "last"]) == "1");
    live.run(&["promote", "--keep-tail", name]).exits(2);
}

#[test]
fn a_candidate_that_went_on_gets_the_dead_masters_tail_as_a_file() {
    let live = pair("repld");
    left_behind(&live);
    live.ask("n2", &["REPLICAOF", "NO", "ONE"]);
    live.ask("n2", &["SET", "went", "on"]);
    let report = live.json(&["promote", "--keep-tail", "tail.resp"], 0);
    assert_eq!(report["plan"]["not_salvaged"]["reason"], "taken-over", "{report}");
    assert_eq!(report["gone"]["is_exact"], true, "{report}");
    assert_eq!(
        (&report["gone"]["from"], &report["gone"]["to"]),
        (&report["tails"][0]["from"], &report["tails"][0]["to"])
    );
    replay(&live, "n2", &live.here.directory().join("tail.resp"));
    live.eventually("the last write is there", || live.ask("n2", &["GET", "last"]) == "1");
    assert_eq!(live.ask("n2", &["GET", "went"]), "on");
}

#[test]
fn an_old_master_that_starts_as_a_replica_gives_its_own_writes_up_into_a_file_first() {
    for started_by in [&["start", "n1"][..], &["up", "group.toml"]] {
        let live = pair("repld");
        left_behind(&live);
        // Somebody promotes without replctl, and the group goes on.
        live.ask("n2", &["REPLICAOF", "NO", "ONE"]);
        live.run(&["promote"]).exits(0);
        std::fs::remove_dir_all(live.state("pair").join("tails")).expect("promote kept it already");
        live.ask("n2", &["SET", "went", "on"]);
        let status = live.json(started_by, 0);
        let tail = &status["tails"][0];
        assert_eq!((&tail["node"], &tail["fate"]), (&json!("n1"), &json!("kept")), "{status}");
        live.arrives("n1", "went", "on");
        assert_eq!(live.ask("n1", &["EXISTS", "last"]), 0);
        replay(&live, "n2", &file_of(tail));
        live.arrives("n1", "last", "1");
        // It is part of the group again, and has nothing of its own.
        live.run(&["kill", "n1"]).exits(0);
        assert_eq!(live.json(&["start", "n1"], 0)["tails"], Value::Null);
    }
}

#[test]
fn the_loss_of_a_killed_master_is_told_in_bytes_and_seconds_and_bounded_by_max_loss() {
    for engine in engines() {
        let live = pair(engine);
        live.ask("n1", &["SET", "k", "v"]);
        live.arrives("n2", "k", "v");
        let stopped = live.pid("n2");
        kill(stopped, "STOP");
        let value = "x".repeat(1 << 20);
        let fill: Vec<[&str; 3]> = (0..12).map(|_| ["SET", "filler", &value]).collect();
        session(&live, "n1", &fill.iter().map(<[&str; 3]>::as_slice).collect::<Vec<_>>());
        live.run(&["kill-master"]).exits(0);
        kill(stopped, "CONT");
        if *engine == "repld" {
            std::fs::remove_file(live.state("pair").join("nodes/n1/backlog.bin")).expect("it was there");
        }
        live.eventually("n2 has read all", || live.node("n2")["answer"]["report"]["link"]["state"] == "down");
        let refused = live.run(&["promote", "--max-loss", "0B"]).exits(3).stderr;
        assert!(
            refused.contains("more than max-loss (0 bytes)") && refused.contains(" (offsets "),
            "{engine}: {refused}"
        );
        live.run(&["promote", "--max-loss", "much"]).exits(2);
        let run = live.run(&["promote", "--dry-run"]).exits(0);
        assert!(run.stdout.contains(" s old when n1 ended"), "{engine}: {}", run.stdout);
        assert!(run.stderr.contains("no max-loss is set"), "{engine}: {}", run.stderr);
        let report = live.json(&["promote", "--max-loss", "64MiB"], 0);
        let (gone, loss) = (&report["gone"], &report["loss"]);
        assert_eq!(
            (&gone["from"], &gone["is_exact"]),
            (&loss["candidate_offset"], &json!(false)),
            "{engine}: {report}"
        );
        let bytes = gone["to"].as_u64().zip(gone["from"].as_u64()).map(|(to, from)| to - from);
        assert!(bytes.is_some_and(|bytes| bytes > 1 << 20), "{engine}: {report}");
        // Servers tell whole seconds.
        assert!(loss["age"]["at_most_seconds"].as_u64().is_some_and(|seconds| seconds <= 1), "{engine}: {loss}");
        assert_eq!(report["plan"]["max_loss_bytes"], 64 << 20);
    }
}
