//! `switchover`: a master that works hands over, nobody loses a write, and two never take writes at once.

use serde_json::json;

use crate::live::{Live, TRIO, Writers, engines, kill, topology};

#[test]
fn nothing_that_was_acknowledged_is_lost_in_a_switchover() {
    for engine in engines() {
        let live = Live::trio(engine);
        let ports = ["n1", "n2", "n3"].map(|node| live.port(node));
        let writers = Writers::start(4, &ports);
        live.eventually("keys arrive", || live.node("n2")["answer"]["report"]["keys"].as_u64() > Some(100));
        let report = live.json(&["switchover", "n2"], 0);
        assert_eq!((&report["plan"]["candidate"], &report["missing"]), (&json!("n2"), &json!([])), "{engine}");
        assert!(report["write_pause_us"].as_u64().is_some_and(|pause| pause > 0), "{report}");
        assert!(
            report["resyncs"].as_object().is_some_and(|all| all.values().all(|kind| kind == "partial")),
            "{report}"
        );
        let keys = live.node("n2")["answer"]["report"]["keys"].as_u64();
        live.eventually("writers go on", || live.node("n2")["answer"]["report"]["keys"].as_u64() > keys);

        let acknowledged = writers.finish();
        assert_eq!([live.role("n1"), live.role("n3")], [(); 2].map(|()| ("slave".to_owned(), Some(ports[1]))));
        let mut count = vec!["EXISTS"];
        count.extend(acknowledged.iter().map(String::as_str));
        assert_eq!(live.ask("n2", &count), acknowledged.len(), "{engine}");
        assert_eq!(live.status()["diagnosis"]["name"], "healthy");
    }
}

#[test]
fn a_switchover_needs_a_whole_group_and_does_nothing_twice() {
    for engine in engines() {
        let live = Live::trio(engine);
        live.run(&["switchover", "n9"]).exits(2);
        live.run(&["switchover", "n1"]).exits(0);
        assert_eq!(live.json(&["switchover", "--dry-run", "n3"], 0)["plan"]["candidate"], "n3");
        assert_eq!(live.role("n1").0, "master", "a dry run does nothing");
        kill(live.pid("n3"), "KILL");
        live.eventually("n3 is seen dead", || live.node("n3")["condition"] == "dead");
        let run = live.run(&["switchover"]).exits(3);
        assert!(run.stderr.contains("cannot be reached: n3"), "{}", run.stderr);
        live.run(&["switchover", "--force"]).exits(0);
        assert_eq!(live.role("n2").0, "master", "{engine}");
        assert_eq!(live.role("n1").1, Some(live.port("n2")));
        // The one that was left behind comes back below the new master.
        live.run(&["up", "group.toml"]).exits(0);
        assert_eq!(live.role("n3").1, Some(live.port("n2")));
    }
}

#[test]
fn the_end_of_a_chain_can_take_over() {
    for engine in engines() {
        let live = Live::up(&topology("chain", engine, &[("n1", ""), ("n2<n1", ""), ("n3<n2", "")]));
        live.ask("n1", &["SET", "k", "v"]);
        live.arrives("n3", "k", "v");
        let report = live.json(&["switchover", "n3"], 0);
        assert_eq!(report["missing"], json!([]), "{engine}: {report}");
        assert_eq!([live.role("n1").1, live.role("n2").1], [Some(live.port("n3")); 2]);
        live.ask("n3", &["SET", "k", "w"]);
        live.arrives("n1", "k", "w");
        live.arrives("n2", "k", "w");
    }
}

#[test]
fn a_replica_that_cannot_catch_up_leaves_the_master_as_it_was() {
    for engine in engines() {
        let live = Live::up(&topology("stopped", engine, &TRIO));
        live.ask("n1", &["SET", "k", "v"]);
        live.arrives("n2", "k", "v");
        // It is stopped between the look and the order: a plan made by hand does the same.
        let stopped = live.pid("n2");
        kill(stopped, "STOP");
        live.ask("n1", &["SET", "k", "w"]);
        let port = live.port("n2").to_string();
        live.ask("n1", &["FAILOVER", "TO", "127.0.0.1", &port, "TIMEOUT", "200"]);
        live.eventually("the master gives up", || live.ask("n1", &["SET", "k", "x"]) == "OK");
        kill(stopped, "CONT");
        live.arrives("n2", "k", "x");
        assert_eq!(live.role("n1").0, "master");
        live.run(&["switchover", "n2"]).exits(0);
        assert_eq!(live.ask("n2", &["GET", "k"]), "x", "{engine}");
    }
}

#[test]
fn the_users_program_is_told_of_the_new_master_and_its_failure_undoes_nothing() {
    let hook =
        "[hooks]\nafter-promote = ['sh', '-c', 'env | grep ^REPLCTL_ | sort > told; test $REPLCTL_NEW_MASTER = n2']\n";
    let live = Live::up(&(topology("hooked", "repld", &TRIO) + hook));
    live.run(&["switchover", "n2"]).exits(0);
    let told = std::fs::read_to_string(live.here.directory().join("told")).expect("the hook wrote it");
    for line in [
        "REPLCTL_COMMAND=switchover".to_owned(),
        "REPLCTL_GROUP=hooked".to_owned(),
        "REPLCTL_OLD_MASTER=n1".to_owned(),
        format!("REPLCTL_NEW_ADDRESS=127.0.0.1:{}", live.port("n2")),
    ] {
        assert!(told.lines().any(|told| told == line), "{line}: {told}");
    }
    let report = live.json(&["switchover", "n3"], 4);
    assert!(report["hook_error"].as_str().is_some_and(|error| error.contains("the hook sh failed")), "{report}");
    assert_eq!(live.role("n3").0, "master");
    live.here.write("bad.toml", "[[node]]\nname = 'a'\n[hooks]\nafter-promote = 'notify'\n");
    assert!(live.run(&["check", "bad.toml"]).exits(2).stderr.contains("as an array of strings"));
}
