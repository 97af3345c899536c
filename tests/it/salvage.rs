//! `promote` on what a killed repld had not sent: its replicas were stopped while it took writes, so they lack more than
//! sockets hold. `tests/long/salvage-100` repeats it under full load.

use std::process::Stdio;
use std::time::Duration;

use redis::Commands;

use crate::live::{Live, engines, kill, topology};

const WRITES: usize = 800;
const VALUE_BYTES: usize = 32 * 1024;
const PASSWORD: &str = "s3cret word";

/// A repld with two replicas of `engine`, all with a password.
fn mixed(engine: &str) -> Live {
    with_password(engine, ["n1", "n2<n1", "n3<n1"])
}

/// A group of `engine` whose first node is a repld, all with a password.
fn with_password(engine: &str, nodes: [&str; 3]) -> Live {
    let secret = format!("config = {{ requirepass = '\"{PASSWORD}\"' }}");
    let master = format!("engine = \"repld\"\n{secret}");
    Live::up(&topology("mixed", engine, &[(nodes[0], &master), (nodes[1], &secret), (nodes[2], &secret)]))
}

/// Kills the master after writes that its replicas could not receive.
fn kill_with_unsent_writes(live: &Live) {
    let (master, replicas) = (live.pid("n1"), ["n2", "n3"].map(|node| live.pid(node)));
    let port = live.port("n1");
    let client = redis::Client::open(("127.0.0.1", port)).expect("an address");
    let mut connection = client.get_connection().expect("a live server");
    redis::cmd("AUTH").arg(PASSWORD).exec(&mut connection).expect("its password");
    for pid in replicas {
        kill(pid, "STOP");
    }
    for number in 0..WRITES {
        let () = connection.set(format!("key:{number}"), "x".repeat(VALUE_BYTES)).expect("an acknowledged write");
    }
    kill(master, "KILL");
    for pid in replicas {
        kill(pid, "CONT");
    }
    live.eventually("n1 is seen dead", || live.node("n1")["condition"] == "dead");
}

#[test]
fn what_the_killed_master_had_not_sent_is_on_the_new_one() {
    for engine in engines() {
        let live = mixed(engine);
        kill_with_unsent_writes(&live);
        let report = live.json(&["promote"], 0);
        assert!(report["salvaged"]["bytes"].as_u64().is_some_and(|bytes| bytes > 1_000_000), "{engine}: {report}");
        assert_eq!(
            (&report["loss"]["master_end"], &report["salvaged"]["node"]),
            (&report["salvaged"]["end"], &"n1".into())
        );
        // Which of them read more before its link broke is chance.
        let (heir, other) = if report["plan"]["candidate"] == "n2" { ("n2", "n3") } else { ("n3", "n2") };
        assert_eq!(report["resyncs"], serde_json::json!({ other: "partial" }), "{engine}: {report}");
        assert_eq!(report["missing"], serde_json::json!([]));
        for node in ["n2", "n3"] {
            assert_eq!(live.ask(node, &["DBSIZE"]), WRITES, "{engine}: {node}");
        }
        assert_eq!(live.ask(heir, &["SET", "k", "v"]), "OK");
        live.arrives(other, "k", "v");
        assert_eq!(live.processes().len(), 2, "{engine}: the ghost outlived the promotion");
    }
}

/// Cuts the links of the master's replicas, and kills it after 20 writes that they never saw.
fn kill_after_a_cut(live: &Live, replicas: &[&str]) {
    for node in replicas {
        live.ask(node, &["CONFIG", "SET", "masterauth", "unknown"]);
    }
    live.ask("n1", &["CLIENT", "KILL", "TYPE", "replica"]);
    live.eventually("nobody is attached", || live.ask("n1", &["ROLE"])[2] == serde_json::json!([]));
    let value = "x".repeat(VALUE_BYTES);
    for number in 0..20 {
        assert_eq!(live.ask("n1", &["SET", &format!("key:{number}"), &value]), "OK");
    }
    kill(live.pid("n1"), "KILL");
    live.eventually("n1 is seen dead", || live.node("n1")["condition"] == "dead");
    for node in replicas {
        live.ask(node, &["CONFIG", "SET", "masterauth", PASSWORD]);
    }
}

#[test]
fn who_follows_the_new_master_already_gets_the_rest_from_it() {
    let live = with_password("repld", ["n1", "n2<n1", "n3<n2"]);
    kill_after_a_cut(&live, &["n2"]);
    let report = live.json(&["promote", "n2"], 0);
    assert_eq!((&report["missing"], &report["resyncs"]["n3"]), (&serde_json::json!([]), &"partial".into()), "{report}");
    assert_eq!((live.ask("n3", &["DBSIZE"]), live.role("n3").1), (20.into(), Some(live.port("n2"))));
}

#[test]
fn a_link_that_was_cut_before_the_kill_costs_nothing() {
    let live = mixed("repld");
    kill_after_a_cut(&live, &["n2", "n3"]);
    let report = live.json(&["promote"], 0);
    assert_eq!(
        (&report["gone"], &report["salvaged"]["end"]),
        (&serde_json::Value::Null, &report["loss"]["master_end"])
    );
    for node in ["n2", "n3"] {
        assert_eq!(live.ask(node, &["DBSIZE"]), 20, "{node}: {report}");
    }
}

#[test]
fn a_ghost_ends_with_the_promotion_that_is_killed_and_the_next_one_salvages_the_rest() {
    for round in 0..4 {
        let live = mixed("repld");
        kill_with_unsent_writes(&live);
        let mut promote = live.here.command(&["promote", "-q"]).stdout(Stdio::null()).spawn().expect("replctl runs");
        std::thread::sleep(Duration::from_millis(5 * round));
        promote.kill().and_then(|()| promote.wait()).expect("it is ours");
        live.eventually("only the replicas live", || live.processes().len() == 2);
        live.run(&["promote"]).exits(0);
        let mut roles = ["n2", "n3"].map(|node| live.role(node).0);
        roles.sort();
        assert_eq!(roles, ["master", "slave"]);
        for node in ["n2", "n3"] {
            live.eventually("all keys are there", || live.ask(node, &["DBSIZE"]) == WRITES);
        }
    }
}

#[test]
fn a_backlog_that_cannot_be_used_is_told_and_costs_what_it_held() {
    let live = mixed("repld");
    kill_with_unsent_writes(&live);
    let backlog = live.state("mixed").join("nodes/n1/backlog.bin");
    std::fs::OpenOptions::new().write(true).open(&backlog).and_then(|file| file.set_len(8192)).expect("it is there");
    let plan = live.run(&["promote", "--dry-run"]).exits(0).stdout;
    assert!(plan.contains("not salvaged: what n1 had not sent: can't salvage "), "{plan}");
    assert!(plan.contains("lost: unknown: nobody saw how far the old master was"), "{plan}");
    let report = live.json(&["promote"], 0);
    let promoted = report["plan"]["candidate"].as_str().expect("a node");
    assert_eq!((live.role(promoted).0.as_str(), &report["salvaged"]), ("master", &serde_json::Value::Null));
}

/// The keys of one connection that were acknowledged before its server was gone.
fn write_until_killed(port: u16, writer: usize) -> Vec<String> {
    let mut acknowledged = Vec::new();
    let client = redis::Client::open(("127.0.0.1", port)).expect("an address");
    let Ok(mut connection) = client.get_connection() else { return acknowledged };
    for number in 0.. {
        let batch: Vec<String> = (0..16).map(|index| format!("{writer}:{number}:{index}")).collect();
        let mut pipeline = redis::pipe();
        for key in &batch {
            pipeline.set(key, "x".repeat(1024)).ignore();
        }
        if pipeline.exec(&mut connection).is_err() {
            break;
        }
        acknowledged.extend(batch);
    }
    acknowledged
}

#[test]
fn no_acknowledged_write_is_lost_under_full_load() {
    const WRITERS: usize = 8;
    for round in 0..3 {
        let replica = *engines().get(1).unwrap_or(&"repld");
        let live = Live::up(&topology(
            "loaded",
            "repld",
            &[("n1", ""), ("n2<n1", ""), ("n3<n1", &format!("engine = \"{replica}\""))],
        ));
        let (port, master) = (live.port("n1"), live.pid("n1"));
        let writers: Vec<_> =
            (0..WRITERS).map(|writer| std::thread::spawn(move || write_until_killed(port, writer))).collect();
        live.eventually("the load runs", || live.ask("n1", &["DBSIZE"]).as_u64().is_some_and(|keys| keys > 5_000));
        kill(master, "KILL");
        let acknowledged: Vec<String> =
            writers.into_iter().flat_map(|writer| writer.join().expect("a writer")).collect();
        live.eventually("n1 is seen dead", || live.node("n1")["condition"] == "dead");
        let report = live.json(&["promote"], 0);
        assert_eq!(report["salvaged"]["node"], "n1", "round {round}: {report}");
        let promoted = report["plan"]["candidate"].as_str().expect("a node");
        let client = redis::Client::open(("127.0.0.1", live.port(promoted))).expect("an address");
        let mut connection = client.get_connection().expect("a live server");
        let held: usize = connection.exists(&acknowledged).expect("an answer");
        assert_eq!(held, acknowledged.len(), "round {round}: {report}");
    }
}
