//! Single nodes: killed, paused, started, restarted.

use std::io::{BufRead, BufReader};

use serde_json::json;

use crate::live::{Live, Writers, engines, topology};

#[test]
fn a_paused_node_hangs_and_goes_on_when_it_is_resumed() {
    for engine in engines() {
        let live = Live::trio(engine);
        let paused = live.json(&["pause", "n2"], 0);
        assert_eq!((&paused["node"], &paused["signal"]), (&json!("n2"), &json!("pause")));
        assert_eq!(live.node("n2")["condition"], "stopped");
        live.ask("n1", &["SET", "k", "v"]);
        live.run(&["resume", "n2"]).exits(0);
        assert_eq!(live.node("n2")["condition"], "running");
        live.arrives("n2", "k", "v");
        live.run(&["pause", "n9"]).exits(2);
    }
}

#[test]
fn a_killed_node_is_started_in_its_place_again() {
    for engine in engines() {
        let live = Live::trio(engine);
        live.ask("n1", &["SET", "k", "v"]);
        live.run(&["kill", "n2", "n3", "--dry-run"]).exits(0);
        let run = live.run(&["kill", "n2", "n3"]).exits(0);
        assert_eq!(run.stdout.lines().count(), 2, "{}", run.stdout);
        let run = live.run(&["kill", "n2"]).exits(1);
        assert!(run.stderr.contains("n2 does not run") && run.stderr.contains("replctl start n2"), "{}", run.stderr);
        assert_eq!(
            live.json(&["status"], 4)["diagnosis"],
            json!({ "name": "replicas-unreachable", "nodes": ["n2", "n3"] })
        );

        live.run(&["start", "n2"]).exits(4);
        assert_eq!(live.role("n2"), ("slave".to_owned(), Some(live.port("n1"))), "{engine}");
        live.arrives("n2", "k", "v");
        assert_eq!(live.node("n3")["condition"], "dead", "only what was asked for is started");
        live.run(&["start", "n3", "n2"]).exits(0);
        live.run(&["start", "n9"]).exits(2);
    }
}

#[test]
fn an_old_master_never_takes_a_write_again() {
    for engine in engines() {
        let live = Live::trio(engine);
        live.ask("n1", &["SET", "k", "v"]);
        live.arrives("n2", "k", "v");
        live.run(&["kill", "n1"]).exits(0);
        let run = live.run(&["start", "n1"]).exits(3);
        assert!(run.stderr.contains("replctl promote"), "{}", run.stderr);
        assert!(live.processes().len() == 2, "nothing was started");
        let report = live.json(&["promote"], 0);
        assert!(report["plan"]["loss"]["master_offset"].is_u64(), "the kill was noted: {report}");
        live.ask("n2", &["SET", "k", "w"]);
        live.run(&["start", "n1"]).exits(0);
        assert_eq!(live.role("n1"), ("slave".to_owned(), Some(live.port("n2"))), "{engine}");
        assert!(live.run(&["cli", "n1", "set", "k", "x"]).exits(1).stdout.contains("READONLY"));
        live.arrives("n1", "k", "w");
    }
}

#[test]
fn a_replica_is_started_though_its_master_is_dead() {
    for engine in engines() {
        let live = Live::trio(engine);
        live.run(&["kill", "n3"]).exits(0);
        live.run(&["kill-master"]).exits(0);
        live.run(&["start", "n3"]).exits(4);
        assert_eq!(live.node("n3")["condition"], "running", "{engine}");
        let report = live.json(&["promote"], 0);
        assert_eq!(report["plan"]["candidate"], "n2", "{engine}");
        assert!(report["plan"]["loss"]["master_offset"].is_u64(), "the note of the kill outlives a start: {report}");
        assert_eq!(live.role("n3").1, Some(live.port("n2")));
    }
}

#[test]
fn a_rolling_restart_loses_no_write() {
    for engine in engines() {
        let live = Live::trio(engine);
        let ports = ["n1", "n2", "n3"].map(|node| live.port(node));
        let pids = ["n1", "n2", "n3"].map(|node| live.pid(node));
        live.run(&["restart", "n1"]).exits(3);
        live.run(&["restart", "--all", "--dry-run"]).exits(0);
        assert_eq!(["n1", "n2", "n3"].map(|node| live.pid(node)), pids);
        let writers = Writers::start(2, &ports);
        live.run(&["restart", "--all"]).exits(0);
        let acknowledged = writers.finish();
        for (node, pid) in ["n1", "n2", "n3"].iter().zip(pids) {
            assert_ne!(live.pid(node), pid, "{engine}: {node} was not restarted");
        }
        assert_eq!(live.status()["diagnosis"]["name"], "healthy");
        let master = ["n1", "n2", "n3"].into_iter().find(|node| live.role(node).0 == "master").expect("one is");
        assert_ne!(master, "n1");
        let mut count = vec!["EXISTS"];
        count.extend(acknowledged.iter().map(String::as_str));
        assert_eq!(live.ask(master, &count), acknowledged.len(), "{engine}");
    }
}

#[test]
fn a_replica_is_moved_below_another_node_and_stays_there() {
    for engine in engines() {
        let live = Live::up(&topology("tree", engine, &[("n1", ""), ("n2<n1", ""), ("n3<n1", "")]));
        live.ask("n1", &["SET", "k", "v"]);
        live.arrives("n3", "k", "v");
        live.run(&["repoint", "n3", "--to", "n2", "--dry-run"]).exits(0);
        assert_eq!(live.role("n3").1, Some(live.port("n1")));
        let report = live.json(&["repoint", "n3", "--to", "n2"], 0);
        assert_eq!(report["resync"], "partial", "{engine}: {report}");
        assert_eq!(live.role("n3").1, Some(live.port("n2")));
        assert_eq!(live.status()["diagnosis"]["name"], "healthy", "it is meant to be so now");
        let run = live.run(&["repoint", "n2", "--to", "n3"]).exits(3);
        assert!(run.stderr.contains("n2 would follow itself: n2 -> n3 -> n2"), "{}", run.stderr);
        live.run(&["repoint", "n1", "--to", "n3"]).exits(3);
        live.run(&["repoint", "n2", "--to", "n9"]).exits(2);
        live.run(&["down"]).exits(0);
        live.run(&["up", "group.toml"]).exits(0);
        assert_eq!(live.role("n3").1, Some(live.port("n2")), "{engine}: the new place is kept");
    }
}

#[test]
fn the_history_tells_who_did_what_and_how_it_ended() {
    let live = Live::trio("repld");
    live.run(&["pause", "n3"]).exits(0);
    live.run(&["resume", "n3"]).exits(0);
    live.run(&["switchover", "n2"]).exits(0);
    live.run(&["kill-master"]).exits(0);
    live.run(&["promote"]).exits(0);
    let told = live.run(&["--json", "history"]).exits(0).stdout;
    let told: Vec<serde_json::Value> =
        told.lines().map(|line| serde_json::from_str(line).expect("JSON Lines")).collect();
    let commands: Vec<&str> = told.iter().filter_map(|one| one["command"].as_str()).collect();
    assert_eq!(commands, ["up", "pause", "resume", "switchover", "kill", "promote"]);
    assert_eq!(told[3]["what"], "n1 -> n2");
    assert!(told.iter().all(|one| one["outcome"] == "done" && one["user"].is_string()), "{told:?}");
    let text = live.run(&["history", "-n", "1"]).exits(0).stdout;
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.contains("promote"), "{text}");
}

#[test]
fn a_watched_status_tells_each_change_until_nobody_reads() {
    let live = Live::trio("repld");
    let mut command = live.here.command(&["--json", "status", "--watch", "--every", "10ms"]);
    let mut watch = command.stdout(std::process::Stdio::piped()).spawn().expect("replctl runs");
    let mut lines = BufReader::new(watch.stdout.take().expect("it is piped")).lines();
    let mut next = || -> serde_json::Value {
        let line = lines.next().expect("it goes on").expect("it is text");
        serde_json::from_str(&line).expect("JSON Lines")
    };
    assert_eq!(next()["diagnosis"]["name"], "healthy");
    live.run(&["kill-master"]).exits(0);
    // The links' end may be seen before the master's.
    while next()["diagnosis"]["name"] != "master-dead" {}
    live.run(&["promote"]).exits(0);
    while next()["diagnosis"]["name"] != "replicas-unreachable" {}
    drop(lines);
    live.run(&["start", "n1"]).exits(0);
    live.eventually("it ends when nobody reads", || watch.try_wait().expect("it is ours").is_some());
}
