//! `kill-master` and `promote`: a master is lost, another one takes over, everybody follows.

use std::fs::File;
use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use crate::Run;
use crate::live::{Live, TRIO, engines, kill, topology};

#[test]
fn the_whole_story_on_every_engine() {
    for engine in engines() {
        let live = Live::trio(engine);
        live.ask("n1", &["SET", "k", "v"]);
        live.arrives("n2", "k", "v");
        live.arrives("n3", "k", "v");
        let old = live.pid("n1");

        let killed = live.json(&["kill-master"], 0);
        assert_eq!((&killed["master"], &killed["process"]["pid"]), (&"n1".into(), &old.into()));
        assert!(killed["offsets"]["n2"].as_u64().is_some_and(|offset| offset > 0), "{killed}");
        assert_eq!(live.json(&["status"], 4)["diagnosis"]["name"], "master-dead");

        let report = live.json(&["promote"], 0);
        assert_eq!(report["plan"]["candidate"], "n2", "{engine}");
        assert_eq!(report["resyncs"], serde_json::json!({ "n3": "partial" }), "{engine}");
        assert_eq!(report["missing"], serde_json::json!([]));
        assert!(report["first_write_us"].as_u64().is_some(), "{report}");
        assert_eq!(live.role("n2"), ("master".to_owned(), None));
        assert_eq!(live.role("n3"), ("slave".to_owned(), Some(live.port("n2"))));
        assert_eq!(live.ask("n2", &["SET", "k", "w"]), "OK");
        live.arrives("n3", "k", "w");

        // The old master comes back as a replica of the new one.
        live.run(&["up", "group.toml"]).exits(0);
        assert_eq!(live.role("n1"), ("slave".to_owned(), Some(live.port("n2"))));
        live.arrives("n1", "k", "w");
        live.run(&["down"]).exits(0);
        assert_eq!(live.processes(), [0_u32; 0]);

        // And after a night, too: roles are those of the group, not of the file.
        live.run(&["up", "group.toml"]).exits(0);
        assert_eq!(live.role("n2").0, "master");
        assert_eq!(live.ask("n1", &["GET", "k"]), "w");
    }
}

#[test]
fn promote_is_refused_while_the_master_lives_and_repeatable_when_it_is_done() {
    for engine in engines() {
        let live = Live::trio(engine);
        let run = live.run(&["promote"]).exits(3);
        assert!(run.stderr.contains("the master n1 is alive"), "{}", run.stderr);
        live.run(&["promote", "n1"]).exits(0);
        live.run(&["promote", "n9"]).exits(2);
        live.run(&["kill-master"]).exits(0);
        live.run(&["kill-master"]).exits(1);
        let plan = live.json(&["promote", "--dry-run"], 0);
        assert_eq!(plan["plan"]["candidate"], "n2");
        assert_eq!(live.role("n2").0, "slave", "a dry run does nothing");
        live.run(&["promote"]).exits(0);
        let pid = live.pid("n2");
        let run = live.run(&["promote"]).exits(0);
        assert!(run.stdout.contains("nothing to do: n2 is the master already"), "{}", run.stdout);
        live.run(&["promote", "n3"]).exits(3);
        assert_eq!((live.pid("n2"), live.role("n2").0.as_str()), (pid, "master"));
    }
}

#[test]
fn a_living_master_is_ended_by_force() {
    for engine in engines() {
        let live = Live::trio(engine);
        let old = live.pid("n1");
        let report = live.json(&["promote", "n3", "--force"], 0);
        let first = if *engine == "repld" { ["fence", "await-drain"] } else { ["keep-tail", "fence"] };
        assert_eq!([&report["steps"][0]["step"], &report["steps"][1]["step"]], first);
        assert_eq!((&report["gone"], &report["tails"]), (&serde_json::Value::Null, &serde_json::json!([])));
        assert!(!live.processes().contains(&old));
        assert_eq!(live.role("n3").0, "master");
        assert_eq!(live.role("n2").1, Some(live.port("n3")));
    }
}

#[test]
fn a_hung_master_is_ended_before_another_takes_over() {
    for engine in engines() {
        let live = Live::trio(engine);
        let old = live.pid("n1");
        kill(old, "STOP");
        live.eventually("n1 is seen stopped", || live.node("n1")["condition"] == "stopped");
        assert_eq!(live.json(&["status"], 4)["diagnosis"]["name"], "master-hung");
        let report = live.json(&["promote"], 0);
        assert_eq!(report["steps"][0]["step"], "fence");
        assert!(!live.processes().contains(&old), "{engine}: the hung master could still wake up");
        assert_eq!(live.role("n2").0, "master");
        assert_eq!(report["missing"], serde_json::json!([]), "{engine}");
    }
}

#[test]
fn chains_are_kept_and_the_dead_masters_replicas_move() {
    for engine in engines() {
        let nodes = [("n1", ""), ("n2<n1", "priority = 1"), ("n3<n1", ""), ("n4<n2", ""), ("n5<n3", "")];
        let live = Live::up(&topology("tree", engine, &nodes));
        live.ask("n1", &["SET", "k", "v"]);
        for node in ["n2", "n3", "n4", "n5"] {
            live.arrives(node, "k", "v");
        }
        live.run(&["kill-master"]).exits(0);
        let report = live.json(&["promote", "n2"], 0);
        assert_eq!(report["missing"], serde_json::json!([]), "{engine}: {report}");
        let port = |node| Some(live.port(node));
        let upstreams = ["n3", "n4", "n5"].map(|node| live.role(node).1);
        assert_eq!(upstreams, [port("n2"), port("n2"), port("n3")]);
        live.ask("n2", &["SET", "k", "w"]);
        live.arrives("n5", "k", "w");
    }
}

#[test]
fn an_empty_replica_is_not_promoted_whatever_its_priority() {
    for engine in engines() {
        let nodes = [("n1", ""), ("n2<n1", "priority = 100"), ("n3<n1", "priority = 1")];
        let live = Live::up(&topology("first-sync", engine, &nodes));
        live.ask("n1", &["SET", "k", "v"]);
        live.arrives("n2", "k", "v");
        // n3 forgets all it had and is to follow n1 anew, and never gets there.
        live.ask("n1", &["CONFIG", "SET", "requirepass", "unknown-to-n3"]);
        live.ask("n3", &["REPLICAOF", "NO", "ONE"]);
        live.ask("n3", &["FLUSHALL"]);
        let port = live.port("n1").to_string();
        live.ask("n3", &["REPLICAOF", "127.0.0.1", &port]);
        kill(live.pid("n1"), "KILL");
        live.eventually("n1 is seen dead", || live.status()["diagnosis"]["name"] == "master-dead");

        let plan = live.json(&["promote", "--dry-run"], 0);
        assert_eq!((&plan["plan"]["candidate"], &plan["plan"]["rejected"][0]["node"]), (&"n2".into(), &"n3".into()));
        live.run(&["promote", "n3", "--force"]).exits(3);
        live.run(&["promote"]).exits(0);
        assert_eq!(live.ask("n2", &["GET", "k"]), "v", "{engine}");
        live.arrives("n3", "k", "v");
    }
}

#[test]
fn without_an_eligible_node_nothing_is_promoted() {
    for engine in engines() {
        let never = "priority = 0";
        let live = Live::up(&topology("never", engine, &[("n1", ""), ("n2<n1", never), ("n3<n1", never)]));
        live.run(&["kill-master"]).exits(0);
        let run = live.run(&["promote"]).exits(3);
        assert!(run.stderr.contains("n2 (its priority is 0: never promote)"), "{}", run.stderr);
        assert_eq!([live.role("n2").0, live.role("n3").0], ["slave", "slave"]);
    }
}

#[test]
fn up_leaves_a_dead_master_to_promote() {
    for engine in engines() {
        let live = Live::trio(engine);
        live.run(&["kill-master"]).exits(0);
        let run = live.run(&["up", "group.toml"]).exits(3);
        assert!(run.stderr.contains("the master n1 is dead") && run.stderr.contains("promote"), "{}", run.stderr);
    }
}

#[test]
fn a_takeover_by_hand_is_completed() {
    for engine in engines() {
        let live = Live::trio(engine);
        live.run(&["kill-master"]).exits(0);
        live.ask("n2", &["REPLICAOF", "NO", "ONE"]);
        assert_eq!(live.json(&["status"], 4)["diagnosis"]["name"], "master-moved");
        live.run(&["promote", "n3"]).exits(3);
        live.run(&["promote"]).exits(0);
        assert_eq!(live.role("n3").1, Some(live.port("n2")), "{engine}");
        assert_eq!(live.status()["diagnosis"]["name"], "replicas-unreachable");
    }
}

#[test]
fn two_masters_are_told_and_left_alone() {
    for engine in engines() {
        let live = Live::trio(engine);
        live.ask("n2", &["REPLICAOF", "NO", "ONE"]);
        assert_eq!(live.json(&["status"], 4)["diagnosis"]["masters"], serde_json::json!(["n1", "n2"]));
        live.run(&["promote", "--force"]).exits(3);
        live.run(&["kill-master"]).exits(1);
        assert_eq!([live.role("n1").0, live.role("n2").0], ["master", "master"]);
    }
}

#[test]
fn more_loss_than_allowed_is_refused() {
    let text = topology("strict", "repld", &TRIO) + "[failover]\nmax-loss = \"0B\"\n";
    let live = Live::up(&text);
    kill(live.pid("n1"), "KILL");
    live.eventually("n1 is seen dead", || live.node("n1")["condition"] == "dead");
    let backlog = live.state("strict").join("nodes/n1/backlog.bin");
    std::fs::remove_file(&backlog).expect("it was there");
    let run = live.run(&["promote"]).exits(3);
    assert!(run.stderr.contains("nobody saw how far the old master was"), "{}", run.stderr);
    live.run(&["promote", "--force"]).exits(0);
    live.run(&["up", "group.toml"]).exits(0);
    kill(live.pid("n2"), "KILL");
    live.eventually("n2 is seen dead", || live.node("n2")["condition"] == "dead");
    live.run(&["promote"]).exits(0);
}

#[test]
fn another_replctl_on_the_same_group_is_named() {
    let live = Live::trio("repld");
    let mut lock = File::options().write(true).open(live.state("trio").join("lock")).expect("up left it");
    lock.try_lock().expect("nobody holds it");
    lock.set_len(0).and_then(|()| lock.write_all(b"replctl drill (pid 4711)\n")).expect("it is ours");
    for command in [&["promote"][..], &["kill-master"], &["down"], &["up", "group.toml"]] {
        let run = live.run(command).exits(5);
        assert!(run.stderr.contains("replctl drill (pid 4711)"), "{}", run.stderr);
    }
    live.run(&["status"]).exits(0);
}

#[test]
fn a_promotion_killed_at_any_point_is_completed_by_the_next() {
    for engine in engines() {
        // From before the plan to after the last step: a whole run takes about this long.
        for round in 0..12 {
            let live = Live::trio(engine);
            live.ask("n1", &["SET", "k", "v"]);
            live.arrives("n2", "k", "v");
            live.arrives("n3", "k", "v");
            live.run(&["kill-master"]).exits(0);
            let mut promote =
                live.here.command(&["promote", "-q"]).stdout(Stdio::null()).spawn().expect("replctl runs");
            std::thread::sleep(Duration::from_micros(1_500 * round));
            promote.kill().and_then(|()| promote.wait()).expect("it is ours");

            live.run(&["promote"]).exits(0);
            let roles = ["n2", "n3"].map(|node| live.role(node).0);
            assert_eq!(roles, ["master", "slave"], "{engine}, round {round}");
            assert_eq!(live.role("n3").1, Some(live.port("n2")));
            assert_eq!(live.ask("n2", &["SET", "k", "w"]), "OK");
            live.arrives("n3", "k", "w");
            assert_eq!(live.status()["diagnosis"]["name"], "replicas-unreachable");
        }
    }
}

#[test]
fn every_step_is_in_the_journal_before_and_after() {
    let live = Live::trio("repld");
    live.run(&["kill-master"]).exits(0);
    live.run(&["promote"]).exits(0);
    let text = std::fs::read_to_string(live.state("trio").join("journal.jsonl")).expect("it is there");
    let entries: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("one object per line")).collect();
    let names: Vec<&str> = entries.iter().filter_map(|entry| entry["event"].as_str()).collect();
    let from_kill = names.iter().position(|name| *name == "master-killed").expect("the kill is there");
    let salvage = ["step-began", "salvaged", "step-done"];
    let promote = ["step-began", "step-done", "step-began", "promoted", "step-done"];
    let expected = [&["master-killed", "began", "planned"][..], &salvage, &promote].concat();
    assert_eq!(&names[from_kill..from_kill + expected.len()], expected);
    assert_eq!(names.last(), Some(&"finished"));
    assert!(entries.iter().all(|entry| entry["time_unix_ms"].is_u64() && entry["run"].is_string()));
}

#[test]
fn logs_are_shown_with_their_nodes_names() {
    let live = Live::trio("repld");
    let all = live.run(&["logs"]).exits(0).stdout;
    for node in ["n1", "n2", "n3"] {
        assert!(all.lines().any(|line| line.starts_with(&format!("{node} | "))), "{all}");
    }
    let one = live.run(&["logs", "n2"]).exits(0).stdout;
    assert!(one.lines().all(|line| line.starts_with("n2 | ")) && !one.is_empty(), "{one}");
    live.run(&["logs", "n9"]).exits(2);
}

#[test]
fn a_node_is_talked_to_by_argument_and_line_by_line() {
    for engine in engines() {
        let live = Live::trio(engine);
        let text = |arguments: &[&str]| live.run(arguments).exits(0).stdout;
        assert_eq!(text(&["cli", "n1", "set", "k", "a b"]), "OK\n");
        assert_eq!(text(&["cli", "n1", "get", "k"]), "\"a b\"\n");
        assert_eq!(text(&["cli", "n1", "strlen", "k"]), "(integer) 3\n");
        assert_eq!(text(&["cli", "n1", "get", "missing"]), "(nil)\n");
        assert_eq!(text(&["cli", "n1", "mget", "k", "missing"]), "1) \"a b\"\n2) (nil)\n");
        let refused = live.run(&["cli", "n2", "set", "k", "v"]).exits(1);
        assert!(refused.stdout.starts_with("(error) READONLY "), "{}", refused.stdout);
        live.run(&["cli", "n9", "ping"]).exits(2);

        let script = live.here.directory().join("script");
        std::fs::write(&script, "ping\n\nset q \"a \\\"b\\\"\"\nget q\nquit\nping\n").expect("written");
        let mut command = live.here.command(&["cli", "n1"]);
        let output = command.stdin(File::open(script).expect("it is there")).output().expect("replctl runs");
        assert_eq!(Run::from(output).exits(0).stdout, "PONG\nOK\n\"a \\\"b\\\"\"\n", "{engine}");
    }
}
