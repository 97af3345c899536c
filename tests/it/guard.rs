//! `guard`: a resident observer that replaces a lost master at once, and only a lost one. `tests/long/guard-200` and
//! `tests/long/guard-quiet` are these by the hundred.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::live::{Live, TRIO, Writers, engines, kill, topology};

/// A guard in the foreground, ended with the test.
pub struct Guard(pub Child);

impl Guard {
    /// Returns when it watches.
    pub fn over(live: &Live) -> Self {
        Self::start(live.here.command(&["guard"]))
    }

    /// The same, of a command that is one.
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("replctl runs");
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        while !line.contains("guard watches") {
            line.clear();
            assert!(lines.read_line(&mut line).expect("it says something") > 0, "it has ended");
        }
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

/// What a port answers to a write; empty if nobody is there.
fn knock(port: u16) -> String {
    let knocked = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.write_all(b"SET late x\r\nQUIT\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        assert!(!answer.starts_with("+OK\r\n+OK"), "it takes a write: {answer}");
        Ok(answer)
    };
    knocked().unwrap_or_default()
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
        // Who comes back is a replica, also by the hand of somebody who does not know replctl.
        let mut by_hand = live.start_by_hand("trio", "n1", engine);
        let port = ports[0];
        live.eventually("it refuses a write", || knock(port).starts_with("-READONLY"));
        by_hand.kill().and_then(|()| by_hand.wait()).expect("it is ours");
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
        let began = Instant::now();
        kill(pid, "STOP");
        live.eventually("it is stopped", || live.node("n1")["condition"] == "stopped");
        kill(pid, "CONT");
        if began.elapsed() > Duration::from_millis(800) {
            eprintln!("{engine}: skipped: on so busy a machine no stop is a short one");
            continue;
        }
        live.ask("n1", &["SET", "k", "v"]);
        assert_eq!(verdicts(&live), ["watches"], "{engine}: {:?}", notes(&live, "trio"));
        kill(pid, "STOP");
        live.eventually("another takes writes", || live.status()["diagnosis"]["name"] == "replicas-unreachable");
        assert!(!live.processes().contains(&pid), "{engine}: it could wake up");
        assert_eq!(verdicts(&live), ["watches", "replaces"], "{engine}");
    }
}

#[test]
fn a_master_that_runs_and_answers_nothing_is_replaced_after_about_the_deadline() {
    for engine in engines() {
        let nodes = topology("trio", engine, &TRIO);
        let live = Live::up(&(nodes + "[defaults.config]\nenable-debug-command = \"yes\"\n"));
        let _guard = Guard::over(&live);
        live.ask("n1", &["SET", "k", "v"]);
        live.arrives("n2", "k", "v");
        live.arrives("n3", "k", "v");
        let (pid, port) = (live.pid("n1"), live.port("n1"));
        let mut busy = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        let began = Instant::now();
        busy.write_all(b"DEBUG SLEEP 60\r\n").expect("it reads");
        live.eventually("it is fenced", || !live.processes().contains(&pid));
        // The replicas heard from it within the last seconds: they count these whole, and Redis writes every ten.
        assert!(began.elapsed() < Duration::from_secs(8), "{engine}: {:?}", began.elapsed());
        live.eventually("another takes writes", || live.status()["diagnosis"]["name"] == "replicas-unreachable");
        let told = verdicts(&live);
        let replaced = told.iter().filter(|verdict| *verdict == "replaces").count();
        assert_eq!((replaced, told.last().map(String::as_str)), (1, Some("replaces")), "{engine}: {told:?}");
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

/// A group with a guard of its own, as `up` starts it.
fn guarded(engine: &str, wish: &str) -> Live {
    let live = Live::prepared(&(topology("trio", engine, &TRIO) + "[failover]\nby = \"guard\"\n[guard]\n" + wish));
    live.run(&["up", "group.toml"]).exits(0);
    live
}

fn is_healthy(live: &Live) -> bool {
    live.status()["is_healthy"] == true
}

#[test]
fn up_starts_it_where_it_is_to_decide_and_down_ends_it() {
    let live = guarded("repld", "deadline = \"750ms\"\n");
    let status = live.status();
    assert_eq!(status["guard"]["is_alive"], true, "{status}");
    let pid = status["guard"]["pid"].clone();
    let up = live.run(&["up", "group.toml"]).exits(0);
    assert!(up.stdout.contains(&format!("guard: watches (pid {pid})")), "the same one: {}", up.stdout);
    let log = live.run(&["logs", "guard"]).exits(0).stdout;
    assert!(
        log.contains("guard | ") && log.contains("guard watches: trio with n1 as its master, deadline 750 ms"),
        "{log}"
    );
    live.run(&["guard", "--stop"]).exits(0);
    let status = live.run(&["status"]).exits(0).stdout;
    assert!(status.contains("guard: none runs; replctl up --guard starts it"), "{status}");
    live.run(&["up", "group.toml"]).exits(0);
    live.run(&["down"]).exits(0);
    assert_eq!(live.processes(), [0_u32; 0]);
    assert_eq!(verdicts(&live), ["watches", "ends", "watches", "ends"]);

    let plain = Live::trio("repld");
    assert_eq!(plain.status()["guard"], Value::Null);
    plain.run(&["up", "group.toml", "--guard"]).exits(0);
    assert_eq!(plain.status()["guard"]["is_alive"], true);
}

#[test]
fn what_has_died_comes_back_in_its_new_role_if_that_is_wished() {
    for engine in engines() {
        let live = guarded(engine, "restart = true\n");
        live.ask("n1", &["SET", "k", "v"]);
        live.arrives("n2", "k", "v");
        let first = live.pid("n1");
        kill(first, "KILL");
        live.eventually("n1 is back below the new master", || is_healthy(&live) && live.pid("n1") != first);
        assert_eq!(live.role("n1").0, "slave", "{engine}");
        let replica = live.pid("n1");
        kill(replica, "KILL");
        live.eventually("it is back again", || is_healthy(&live) && live.pid("n1") != replica);
        assert_eq!(notes(&live, "trio").iter().filter(|(verdict, _)| verdict == "replaces").count(), 1, "{engine}");
        assert_eq!(live.ask("n1", &["GET", "k"]), "v", "{engine}");
    }
}

#[test]
fn a_group_that_died_as_a_whole_is_left_to_a_person_since_its_master_may_come_back_with_less() {
    let live = guarded("repld", "restart = true\n");
    live.run(&["guard", "--maintenance", "on"]).exits(0);
    for pid in ["n1", "n2", "n3"].map(|node| live.pid(node)) {
        kill(pid, "KILL");
    }
    live.eventually("all are dead", || live.status()["diagnosis"]["name"] == "down");
    live.run(&["guard", "--maintenance", "off"]).exits(0);
    let refused = ("refuses".to_owned(), "nothing of the group runs".to_owned());
    live.eventually("it says so", || notes(&live, "trio").last() == Some(&refused));
    assert_eq!(live.status()["diagnosis"]["name"], "down");
}

#[test]
fn a_master_without_replicas_comes_back_if_that_is_wished() {
    let alone = topology("alone", "repld", &[("n1", "")]) + "[failover]\nby = \"guard\"\n[guard]\nrestart = true\n";
    let live = Live::up(&alone);
    let pid = live.pid("n1");
    kill(pid, "KILL");
    live.eventually("it is back", || is_healthy(&live) && live.pid("n1") != pid);
}

#[test]
fn a_master_that_flaps_is_given_up_until_somebody_has_looked() {
    let live = guarded("repld", "restart = true\n");
    for _ in 0..3 {
        let master = ["n1", "n2", "n3"].into_iter().find(|node| live.role(node).0 == "master").expect("one is");
        kill(live.pid(master), "KILL");
        live.eventually("all are there again", || is_healthy(&live));
    }
    let master = ["n1", "n2", "n3"].into_iter().find(|node| live.role(node).0 == "master").expect("one is");
    kill(live.pid(master), "KILL");
    live.eventually("it holds back", || verdicts(&live).last().is_some_and(|last| last == "holds-back"));
    let status = live.run(&["status"]).exits(4).stdout;
    assert!(status.contains("guard holds back: "), "{status}");
    let history = live.run(&["history"]).exits(0).stdout;
    assert!(history.contains("guard    holds back"), "{history}");
    // Nobody forgets by starting anew.
    live.run(&["guard", "--stop"]).exits(0);
    let _guard = Guard::over(&live);
    live.eventually("it holds back as well", || verdicts(&live).last().is_some_and(|last| last == "holds-back"));
    live.run(&["guard", "--acknowledge"]).exits(0);
    live.eventually("it goes on", || is_healthy(&live));
}

#[test]
fn what_cannot_be_written_down_is_tried_again() {
    let live = Live::trio("repld");
    let _guard = Guard::over(&live);
    let (there, aside) = (live.state("trio").join("nodes/n1"), live.state("trio").join("nodes/n1.aside"));
    std::fs::rename(&there, &aside).expect("it is ours");
    std::fs::write(&there, "in the way").expect("it is ours");
    kill(live.pid("n1"), "KILL");
    live.eventually("it has failed", || verdicts(&live).contains(&"fails".to_owned()));
    std::fs::remove_file(&there).expect("it is ours");
    std::fs::rename(&aside, &there).expect("it is ours");
    live.eventually("another takes writes", || live.status()["diagnosis"]["name"] == "replicas-unreachable");
}

#[test]
fn a_stray_is_led_back() {
    for engine in engines() {
        let live = guarded(engine, "deadline = \"200ms\"\n");
        let n2 = live.port("n2").to_string();
        live.ask("n3", &["REPLICAOF", "127.0.0.1", &n2]);
        live.eventually("it follows n1 again", || live.role("n3").1 == Some(live.port("n1")));
        assert!(verdicts(&live).contains(&"repairs".to_owned()), "{engine}");
    }
}

#[test]
fn a_master_that_cannot_be_fenced_is_refused_once_and_left_to_a_person() {
    let outside = Live::trio("repld");
    let master = format!("127.0.0.1:{}", outside.port("n1"));
    let live = Live::prepared("");
    live.run(&["adopt", "outer", "--master", &master]).exits(0);
    let _guard = Guard::over(&live);
    kill(outside.pid("n1"), "KILL");
    live.eventually("it refuses", || !notes(&live, "outer").iter().all(|(verdict, _)| verdict == "watches"));
    let told = notes(&live, "outer");
    assert!(told[1].0 == "refuses" && told[1].1.contains("cannot be fenced"), "{told:?}");
    assert_eq!([outside.role("n2").0, outside.role("n3").0], ["slave", "slave"]);
    // A person decides, and the guard goes on under the new master.
    live.run(&["promote", "--force"]).exits(0);
    assert_eq!(notes(&live, "outer").len(), 2, "{:?}", notes(&live, "outer"));
}
