//! Who is not fit is not promoted, on any engine, asked for by name or not: the reason is named, and nobody takes over.
//!
//! Every situation has n2 as the replica in question and n3, which is never promoted, as a witness.

use std::fs;
use std::process::Stdio;

use crate::live::{Live, engines, kill, topology};

/// So many take their time where one of them takes a millisecond.
const SLOW_KEYS: usize = 3000;

/// A situation under which `node` must not be promoted.
struct Situation {
    /// Nodes, as for [`topology`].
    nodes: &'static [(&'static str, &'static str)],
    /// What follows them in the file.
    rest: &'static str,
    node: &'static str,
    /// Brings it about; the master is dead afterwards.
    prepare: fn(&Live, &str),
    /// What the refusal says.
    reason: &'static str,
    /// Whether a person may insist.
    yields_to_force: bool,
}

const WITNESSED: [(&str, &str); 3] = [("n1", ""), ("n2<n1", ""), ("n3<n1", "priority = 0")];

impl Situation {
    const fn of(prepare: fn(&Live, &str), reason: &'static str) -> Self {
        Self { nodes: &WITNESSED, rest: "", node: "n2", prepare, reason, yields_to_force: false }
    }

    /// On every engine at once: some of them take their time.
    fn is_refused_everywhere(&self) {
        std::thread::scope(|scope| {
            for engine in engines() {
                scope.spawn(|| self.is_refused(engine));
            }
        });
    }

    fn is_refused(&self, engine: &str) {
        let live = Live::up(&(topology("matrix", engine, self.nodes) + self.rest));
        live.ask("n1", &["SET", "k", "v"]);
        for (node, _) in &self.nodes[1..] {
            live.arrives(node.split('<').next().expect("a name"), "k", "v");
        }
        (self.prepare)(&live, engine);
        live.eventually("n1 is seen dead", || live.node("n1")["condition"] == "dead");
        let wished = ["promote", self.node];
        let insisting = ["promote", self.node, "--force"];
        let orders = [&["promote"][..], &wished, &["promote", "--dry-run"], &insisting];
        for order in &orders[..if self.yields_to_force { 3 } else { 4 }] {
            let run = live.run(order).exits(3);
            assert!(run.stderr.contains(self.reason), "{engine}: {order:?} is refused: {}", run.stderr);
            assert!(run.stderr.contains(self.node), "{engine}: {order:?} names nobody: {}", run.stderr);
        }
        let status = live.status();
        let nodes = status["nodes"].as_array().expect("a list");
        let masters = nodes.iter().filter(|node| node["answer"]["report"]["role"] == "master").count();
        assert_eq!(masters, 0, "{engine}: somebody took over: {status}");
    }
}

fn crash(live: &Live, node: &str) {
    kill(live.pid(node), "KILL");
}

/// Lets a replica's data become another history's, and follow n1 again, which must send all of its own.
fn diverge(live: &Live, node: &str, changes: &[&[&str]]) {
    go_own_way(live, node, changes);
    follow_n1(live, node);
}

fn go_own_way(live: &Live, node: &str, changes: &[&[&str]]) {
    live.ask(node, &["REPLICAOF", "NO", "ONE"]);
    for change in changes {
        live.ask(node, change);
    }
}

fn follow_n1(live: &Live, node: &str) {
    let port = live.port("n1").to_string();
    live.ask(node, &["REPLICAOF", "127.0.0.1", &port]);
}

/// Lets a replica lose its link to n1 for good.
fn cut(live: &Live, node: &str) {
    live.ask(node, &["CONFIG", "SET", "masterauth", "unknown"]);
    live.ask("n1", &["CLIENT", "KILL", "TYPE", "replica"]);
    live.eventually("the link is cut", || live.node(node)["answer"]["report"]["link"]["state"] == "down");
}

/// What a dead repld left to be salvaged would make up for what its replicas lack.
fn without_salvage(live: &Live, engine: &str) {
    if engine == "repld" {
        fs::remove_file(live.state("matrix").join("nodes/n1/backlog.bin")).expect("it was there");
    }
}

fn link_is(live: &Live, node: &str, state: &str) -> bool {
    live.node(node)["answer"]["report"]["link"]["state"] == state
}

#[test]
fn a_replica_whose_first_sync_is_unfinished() {
    let prepare = |live: &Live, _: &str| {
        live.fill("n1", SLOW_KEYS);
        live.run(&["kill", "n2"]).exits(0);
        live.wipe("matrix", "n2");
        live.ask("n1", &["CONFIG", "SET", "rdb-key-save-delay", "50000"]);
        let mut start = live.here.command(&["start", "n2"]).stdout(Stdio::null()).spawn().expect("replctl runs");
        live.eventually("the sync has begun", || link_is(live, "n2", "syncing"));
        // It would wait for the link, and end what has none.
        start.kill().and_then(|()| start.wait()).expect("it is ours");
        crash(live, "n1");
    };
    Situation::of(prepare, "its first sync never finished").is_refused_everywhere();
}

#[test]
fn a_replica_that_is_loading() {
    let prepare = |live: &Live, _: &str| {
        live.fill("n1", SLOW_KEYS);
        // The server looks at its clients between so many bytes only.
        live.ask("n2", &["CONFIG", "SET", "loading-process-events-interval-bytes", "1024"]);
        live.ask("n2", &["CONFIG", "SET", "key-load-delay", "4000"]);
        diverge(live, "n2", &[&["SET", "own", "1"]]);
        live.eventually("it loads", || {
            let node = live.node("n2");
            node["answer"] == "loading" || node["answer"]["report"]["is_loading"] == true
        });
        crash(live, "n1");
    };
    Situation::of(prepare, "it is still loading its data").is_refused_everywhere();
}

#[test]
fn a_replica_whose_link_was_never_up() {
    let prepare = |live: &Live, _: &str| {
        live.run(&["kill", "n2"]).exits(0);
        live.wipe("matrix", "n2");
        crash(live, "n1");
        live.run(&["start", "n2"]).exits(4);
    };
    Situation::of(prepare, "its first sync never finished").is_refused_everywhere();
}

#[test]
fn a_replica_of_another_history() {
    let prepare = |live: &Live, _: &str| {
        crash(live, "n1");
        diverge(live, "n2", &[&["SET", "own", "1"]]);
    };
    let refused = Situation::of(prepare, "its data is of another history");
    Situation { yields_to_force: true, ..refused }.is_refused_everywhere();
}

#[test]
fn a_replica_that_was_emptied() {
    let prepare = |live: &Live, _: &str| {
        crash(live, "n1");
        diverge(live, "n2", &[&["FLUSHALL"]]);
        assert_eq!(live.ask("n2", &["DBSIZE"]), 0);
    };
    let refused = Situation::of(prepare, "its data is of another history");
    Situation { yields_to_force: true, ..refused }.is_refused_everywhere();
}

#[test]
fn a_replica_whose_link_is_stale() {
    let prepare = |live: &Live, engine: &str| {
        cut(live, "n2");
        live.ask("n1", &["SET", "later", "1"]);
        let down = || live.node("n2")["answer"]["report"]["link"]["seconds"].as_u64();
        live.eventually("it is down for long", || down().is_some_and(|seconds| seconds >= 6));
        live.run(&["kill-master"]).exits(0);
        without_salvage(live, engine);
    };
    let refused = Situation::of(prepare, "is stale: its data is ");
    Situation { yields_to_force: true, ..refused }.is_refused_everywhere();
}

#[test]
fn a_replica_that_has_less_than_may_be_lost() {
    let prepare = |live: &Live, engine: &str| {
        cut(live, "n2");
        live.ask("n1", &["SET", "later", "1"]);
        live.arrives("n3", "later", "1");
        crash(live, "n1");
        without_salvage(live, engine);
    };
    let refused = Situation::of(prepare, "would lose more than max-loss (0 bytes) allows: at least ");
    let rest = "[failover]\nmax-loss = \"0B\"\n";
    Situation { yields_to_force: true, rest, ..refused }.is_refused_everywhere();
}

#[test]
fn a_replica_that_is_never_to_be_promoted() {
    let nodes = &[("n1", ""), ("n2<n1", "priority = 0"), ("n3<n1", "priority = 0")];
    let refused = Situation::of(|live, _| crash(live, "n1"), "its priority is 0: never promote");
    Situation { nodes, ..refused }.is_refused_everywhere();
}

#[test]
fn a_replica_that_is_paused() {
    let prepare = |live: &Live, _: &str| {
        kill(live.pid("n2"), "STOP");
        crash(live, "n1");
    };
    Situation::of(prepare, "it cannot be reached: it does not answer").is_refused_everywhere();
}

#[test]
fn a_replica_that_is_gone() {
    let prepare = |live: &Live, _: &str| {
        crash(live, "n2");
        crash(live, "n1");
    };
    Situation::of(prepare, "it cannot be reached: its process has ended").is_refused_everywhere();
}

#[test]
fn a_process_that_is_not_the_replicas() {
    let prepare = |live: &Live, engine: &str| {
        crash(live, "n2");
        live.eventually("n2 is seen dead", || live.node("n2")["condition"] == "dead");
        drop(live.start_by_hand("matrix", "n2", engine));
        crash(live, "n1");
    };
    Situation::of(prepare, "it cannot be reached: another process (pid ").is_refused_everywhere();
}

#[test]
fn a_replica_below_one_that_cannot_be_promoted() {
    let prepare = |live: &Live, _: &str| {
        crash(live, "n1");
        go_own_way(live, "n2", &[&["SET", "own", "1"]]);
        // Until it has that, n3 is of n1's history, and fit.
        live.arrives("n3", "own", "1");
        follow_n1(live, "n2");
    };
    let nodes = &[("n1", ""), ("n2<n1", "priority = 0"), ("n3<n2", "")];
    let refused = Situation::of(prepare, "its data is of another history");
    Situation { nodes, node: "n3", yields_to_force: true, ..refused }.is_refused_everywhere();
}
