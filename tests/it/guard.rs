//! `guard`: a resident observer that replaces a lost master at once, and only a lost one. `tests/long/guard-200` and
//! `tests/long/guard-quiet` are these by the hundred.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::live::{Live, TRIO, Writers, engines, kill, topology};

/// A guard in the foreground, ended with the test.
struct Guard(Child);

impl Guard {
    /// Returns when it watches.
    fn over(live: &Live) -> Self {
        let mut child = live.here.command(&["guard"]).stdout(Stdio::piped()).spawn().expect("replctl runs");
        let mut first = String::new();
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped"));
        lines.read_line(&mut first).expect("it says something");
        assert!(first.contains("guard watches"), "{first}");
        // Whatever else it says is read away.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Self(child)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What guards have written into the journal: verdicts and reasons.
fn notes(live: &Live, group: &str) -> Vec<(String, String)> {
    let journal = std::fs::read_to_string(live.state(group).join("journal.jsonl")).expect("there is a journal");
    let entries = journal.lines().map(|line| serde_json::from_str::<Value>(line).expect("each line is an entry"));
    let notes = entries.filter(|entry| entry["event"] == "guard");
    let word = |entry: &Value, name: &str| entry[name].as_str().expect("a word").to_owned();
    notes.map(|entry| (word(&entry, "verdict"), word(&entry, "reason"))).collect()
}

fn verdicts(live: &Live) -> Vec<String> {
    notes(live, "trio").into_iter().map(|(verdict, _)| verdict).collect()
}

#[test]
fn a_killed_master_is_replaced_and_nothing_is_lost() {
    for engine in engines() {
        let live = Live::trio(engine);
        let ports = ["n1", "n2", "n3"].map(|node| live.port(node));
        let _guard = Guard::over(&live);
        let writers = Writers::start(2, &ports);
        live.eventually("they write", || live.ask("n1", &["DBSIZE"]).as_u64() > Some(100));
        kill(live.pid("n1"), "KILL");
        live.eventually("another takes writes", || live.status()["diagnosis"]["name"] == "replicas-unreachable");
        let acknowledged = writers.finish();
        let master = ["n2", "n3"].into_iter().find(|node| live.role(node).0 == "master").expect("one is");
        if *engine == "repld" {
            let mut count = vec!["EXISTS"];
            count.extend(acknowledged.iter().map(String::as_str));
            assert_eq!(live.ask(master, &count), acknowledged.len(), "{engine}");
        }
        assert_eq!(verdicts(&live), ["watches", "replaces"], "{engine}");
        let history = live.run(&["history"]).exits(0).stdout;
        assert!(history.contains(&format!("guard    n1 -> {master}")), "{history}");
        // Who comes back is a replica.
        live.run(&["start", "n1"]).exits(0);
        assert_eq!(live.role("n1").0, "slave", "{engine}");
    }
}

#[test]
fn a_hung_master_is_replaced_after_the_deadline_and_a_short_stop_is_none() {
    for engine in engines() {
        let live = Live::trio(engine);
        let _guard = Guard::over(&live);
        let pid = live.pid("n1");
        kill(pid, "STOP");
        live.eventually("it is stopped", || live.node("n1")["condition"] == "stopped");
        kill(pid, "CONT");
        live.ask("n1", &["SET", "k", "v"]);
        assert_eq!(verdicts(&live), ["watches"], "{engine}");
        kill(pid, "STOP");
        live.eventually("another takes writes", || live.status()["diagnosis"]["name"] == "replicas-unreachable");
        assert!(!live.processes().contains(&pid), "{engine}: it could wake up");
        assert_eq!(verdicts(&live), ["watches", "replaces"], "{engine}");
    }
}

#[test]
fn what_other_commands_do_is_meant() {
    let live = Live::trio("repld");
    let mut guard = Guard::over(&live);
    live.run(&["switchover", "n2"]).exits(0);
    live.run(&["switchover", "n1"]).exits(0);
    live.run(&["restart", "n3"]).exits(0);
    assert_eq!(verdicts(&live), ["watches"]);
    live.run(&["down"]).exits(0);
    assert!(guard.0.wait().expect("it is ours").success(), "down has ended it");
    assert_eq!(verdicts(&live), ["watches", "ends"]);
    assert_eq!(live.processes(), [0_u32; 0]);
}

#[test]
fn there_is_one_guard_and_it_can_be_ended() {
    let live = Live::up(&topology("trio", "repld", &TRIO));
    let mut guard = Guard::over(&live);
    let second = live.run(&["guard"]).exits(3);
    assert!(second.stderr.contains("a guard watches over trio already"), "{}", second.stderr);
    live.run(&["guard", "--stop"]).exits(0);
    assert!(guard.0.wait().expect("it is ours").success());
    let run = live.run(&["guard", "--stop"]).exits(0);
    assert!(run.stdout.contains("nothing to do"), "{}", run.stdout);
    kill(live.pid("n1"), "KILL");
    // A new one sees what has happened without it.
    let _guard = Guard::over(&live);
    live.eventually("another takes writes", || live.status()["diagnosis"]["name"] == "replicas-unreachable");
}

#[test]
fn in_maintenance_it_does_nothing_and_afterwards_what_was_due() {
    let live = Live::trio("repld");
    let _guard = Guard::over(&live);
    live.run(&["guard", "--maintenance", "on"]).exits(0);
    kill(live.pid("n1"), "KILL");
    live.eventually("it has seen that", || verdicts(&live).last().is_some_and(|last| last == "refuses"));
    assert_eq!(live.status()["diagnosis"]["name"], "master-dead");
    live.run(&["guard", "--maintenance", "off"]).exits(0);
    live.eventually("another takes writes", || live.status()["diagnosis"]["name"] == "replicas-unreachable");
}
