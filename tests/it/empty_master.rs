//! A master that comes back without its data does not hand its emptiness to its replicas; where an engine cannot be kept
//! from it, it is told, and what is left is saved.

use serde_json::json;

use crate::live::{Live, engines, kill};

const KEYS: usize = 500;

/// n1 with the replicas n2 and n3, all with the same keys.
fn filled(engine: &str) -> Live {
    let live = Live::trio(engine);
    live.fill("n1", KEYS);
    for node in ["n2", "n3"] {
        live.eventually("the keys are there", || live.ask(node, &["DBSIZE"]) == KEYS);
    }
    live
}

#[test]
fn an_emptied_master_is_not_started_as_one_and_comes_back_as_a_replica() {
    for engine in engines() {
        let live = filled(engine);
        live.run(&["kill-master"]).exits(0);
        live.wipe("trio", "n1");
        live.run(&["start", "n1"]).exits(3);
        live.run(&["up", "group.toml"]).exits(3);
        live.run(&["promote"]).exits(0);
        live.run(&["start", "n1"]).exits(0);
        for node in ["n1", "n2", "n3"] {
            assert_eq!(live.ask(node, &["DBSIZE"]), KEYS, "{engine}: {node}");
        }
    }
}

#[test]
fn a_master_that_replctl_killed_wipes_nobody_when_it_is_started_by_hand() {
    for engine in engines() {
        let live = filled(engine);
        live.run(&["kill-master"]).exits(0);
        live.wipe("trio", "n1");
        let mut by_hand = live.start_by_hand("trio", "n1", engine);
        assert_eq!(live.role("n1").0, "slave", "{engine}");
        live.eventually("it was asked for its data", || {
            let stats = live.ask("n1", &["INFO", "commandstats"]);
            stats.as_str().is_some_and(|stats| stats.contains("cmdstat_psync"))
        });
        assert_eq!(live.json(&["status"], 4)["diagnosis"]["name"], "master-dead");
        live.run(&["promote"]).exits(0);
        for node in ["n2", "n3"] {
            assert_eq!(live.ask(node, &["DBSIZE"]), KEYS, "{engine}: {node}");
        }
        by_hand.kill().and_then(|()| by_hand.wait()).expect("it is ours");
    }
}

#[test]
fn a_crashed_master_started_by_hand_without_its_data_is_told_and_what_is_left_is_saved() {
    std::thread::scope(|scope| {
        for engine in engines() {
            scope.spawn(|| is_told_and_survived(engine));
        }
    });
}

fn is_told_and_survived(engine: &str) {
    let live = filled(engine);
    // n3 does not get through: an engine that copies whatever its master has would be empty in no time.
    if engine != "repld" {
        live.ask("n3", &["CONFIG", "SET", "masterauth", "unknown"]);
    }
    kill(live.pid("n1"), "KILL");
    live.eventually("n1 is seen dead", || live.node("n1")["condition"] == "dead");
    live.wipe("trio", "n1");
    let mut by_hand = live.start_by_hand("trio", "n1", engine);
    assert_eq!(live.role("n1").0, "master");
    if engine == "repld" {
        live.eventually("n2 refuses it", || {
            let info = live.ask("n2", &["INFO", "replication"]);
            info.as_str().is_some_and(|info| info.contains("repld_link_refused"))
        });
        assert_eq!(live.ask("n2", &["DBSIZE"]), KEYS, "a repld does not copy it");
    } else {
        live.eventually("n2 has copied it", || live.ask("n2", &["DBSIZE"]) == 0);
    }
    let status = live.json(&["status"], 4);
    let diagnosis = &status["diagnosis"];
    assert_eq!((&diagnosis["name"], &diagnosis["keys"]), (&json!("empty-master"), &json!(0)), "{engine}: {status}");
    assert_eq!(diagnosis["process_id"], by_hand.id());
    assert!(status["hint"].as_str().is_some_and(|hint| hint.contains("end process")), "{status}");
    live.run(&["up", "group.toml"]).exits(3);
    let (holders, wiped) =
        if engine == "repld" { (json!(["n2", "n3"]), json!([])) } else { (json!(["n3"]), json!(["n2"])) };
    assert_eq!((&diagnosis["holders"], &diagnosis["wiped"]), (&holders, &wiped), "{engine}");
    live.run(&["promote"]).exits(0);
    for node in ["n2", "n3"] {
        assert_eq!(live.ask(node, &["DBSIZE"]), KEYS, "{engine}: {node}");
    }
    by_hand.kill().and_then(|()| by_hand.wait()).expect("it is ours");
}
