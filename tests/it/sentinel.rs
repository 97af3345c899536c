//! Groups with real Sentinels: `up` starts them, they decide, and replctl follows.

use serde_json::{Value, json};

use crate::live::{Live, TRIO, Writers, engines, kill, on_path, topology};

/// As many Sentinels as `[sentinel]` starts by itself, in a hurry.
const SENTINELS: [&str; 3] = ["sentinel-1", "sentinel-2", "sentinel-3"];

/// n1, n2 and n3 of an engine with three Sentinels of Redis; `None`, unless this machine has them.
fn trio(engine: &str, rest: &str) -> Option<String> {
    let text = topology("watched", engine, &TRIO);
    let text = format!("{text}[sentinel]\nengine = \"redis-server\"\ndown-after = \"500ms\"\nfast = true\n{rest}");
    can_watch().then_some(text)
}

fn can_watch() -> bool {
    let found = on_path("redis-server");
    if !found {
        assert!(std::env::var_os("REPLCTL_REQUIRE_PEERS").is_none(), "redis-server is required and not installed");
        eprintln!("skipped: redis-server is not installed");
    }
    found
}

/// What each Sentinel says in `status --json`.
fn sentinels(live: &Live) -> Vec<Value> {
    live.status()["sentinels"].as_array().expect("there are sentinels").clone()
}

fn pids(live: &Live) -> Vec<Value> {
    let nodes = live.status()["nodes"].as_array().expect("nodes are a list").clone();
    nodes.into_iter().chain(sentinels(live)).map(|one| one["process"]["pid"].clone()).collect()
}

/// Whether every Sentinel takes this node for the master, and finds everybody else.
fn all_watch(live: &Live, master: &str) -> bool {
    let sees_all = |one: &Value| {
        one["state"] == "watching"
            && one["master"] == master
            && one["replicas"].as_array().is_some_and(|replicas| replicas.len() == 2)
            && one["others"] == 2
    };
    sentinels(live).iter().all(sees_all)
}

#[test]
fn up_starts_sentinels_that_see_everybody() {
    for engine in engines() {
        let Some(topology) = trio(engine, "") else { return };
        let live = Live::up(&topology);
        assert!(all_watch(&live, "n1"), "{engine}: {:?}", sentinels(&live));
        assert_eq!(live.status()["is_healthy"], true);
        let shown = live.run(&["status"]).exits(0).stdout;
        assert!(SENTINELS.iter().all(|name| shown.contains(name)), "{shown}");

        let before = pids(&live);
        live.run(&["up", "group.toml"]).exits(0);
        assert_eq!(pids(&live), before, "what runs is left as it is");

        live.run(&["down"]).exits(0);
        live.eventually_gone();
        live.run(&["up", "group.toml"]).exits(0);
        assert!(all_watch(&live, "n1"), "{engine}: {:?}", sentinels(&live));
    }
}

#[test]
fn a_sentinel_is_killed_and_started_like_a_node() {
    let Some(topology) = trio("repld", "") else { return };
    let live = Live::up(&topology);
    live.run(&["kill", "sentinel-2"]).exits(0);
    let run = live.run(&["status"]).exits(4);
    assert!(run.stdout.contains("sentinel-2 is no help: dead"), "{}", run.stdout);
    assert!(run.stderr.contains("replctl start sentinel-2"), "{}", run.stderr);
    live.run(&["start", "sentinel-2"]).exits(0);
    live.eventually("the others see it, too", || all_watch(&live, "n1"));
    live.run(&["restart", "sentinel-3"]).exits(0);
    live.eventually("the others see it, too", || all_watch(&live, "n1"));

    assert_eq!(live.ask("sentinel-1", &["SENTINEL", "CKQUORUM", "watched"]).as_str().map(|ok| &ok[..2]), Some("OK"));
    assert!(live.run(&["logs", "sentinel-1"]).exits(0).stdout.contains("sentinel-1 | "));
    live.run(&["kill", "sentinel-4"]).exits(2);
}

#[test]
fn a_lost_master_is_replaced_by_the_sentinels_and_comes_back_as_a_replica() {
    for engine in engines() {
        let Some(topology) = trio(engine, "") else { return };
        let live = Live::up(&topology);
        live.ask("n1", &["SET", "k", "v"]);
        let report = live.json(&["kill-master"], 0);
        let master = report["failover"]["master"].as_str().unwrap_or_else(|| panic!("{report}")).to_owned();
        assert!(report["failover"]["first_write_us"].as_u64() <= report["failover"]["linked_us"].as_u64(), "{report}");
        assert_eq!(live.ask(&master, &["GET", "k"]), "v");

        let history = live.run(&["history"]).exits(0).stdout;
        assert!(history.contains("sentinel") && history.contains(&format!("n1 -> {master}")), "{history}");
        assert_eq!(live.node("n1")["meant_upstream"], master.as_str());
        for refused in [&["promote"][..], &["promote", "--dry-run"], &["repoint", "n3", "--to", "n2"]] {
            let run = live.run(refused).exits(3);
            assert!(run.stderr.contains("hint: "), "{}", run.stderr);
        }

        live.run(&["start", "n1"]).exits(0);
        assert_eq!(live.role("n1"), ("slave".to_owned(), Some(live.port(&master))), "{engine}");
        live.eventually("the sentinels see n1 again", || all_watch(&live, &master));
        assert_eq!(live.status()["is_healthy"], true, "{engine}");
    }
}

#[test]
fn what_the_sentinels_decided_is_known_also_when_nothing_of_the_group_lives() {
    let Some(topology) = trio("repld", "") else { return };
    let live = Live::up(&topology);
    live.ask("n1", &["SET", "k", "v"]);
    kill(live.pid("n1"), "KILL");
    // Nobody asks replctl meanwhile.
    let asks = |name: &str| live.ask(name, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "watched"])[1].clone();
    let old = live.port("n1").to_string();
    live.eventually("the sentinels have decided", || SENTINELS.iter().all(|name| asks(name) != old.as_str()));
    for pid in live.processes() {
        kill(pid, "KILL");
    }
    live.eventually_gone();
    live.run(&["up", "group.toml"]).exits(0);
    let (role, _) = live.role("n1");
    assert_eq!(role, "slave", "n1 was replaced");
    assert!(live.run(&["history"]).exits(0).stdout.contains("n1 -> "));
    let master = sentinels(&live)[0]["master"].as_str().expect("a name").to_owned();
    assert!(all_watch(&live, &master));
    assert_eq!(live.ask(&master, &["GET", "k"]), "v");
}

#[test]
fn a_switchover_under_sentinels_loses_nothing_and_is_not_undone() {
    for engine in engines() {
        let Some(topology) = trio(engine, "") else { return };
        let live = Live::up(&topology);
        let writers = Writers::start(4, &["n1", "n2", "n3"].map(|node| live.port(node)));
        live.eventually("keys arrive", || live.node("n2")["answer"]["report"]["keys"].as_u64() > Some(100));
        for master in ["n2", "n3", "n1"] {
            let report = live.json(&["switchover", master], 0);
            assert_eq!((&report["plan"]["candidate"], &report["missing"]), (&json!(master), &json!([])), "{engine}");
            live.eventually("the sentinels watch the new master", || all_watch(&live, master));
            let keys = live.node(master)["answer"]["report"]["keys"].as_u64();
            live.eventually("writers go on", || live.node(master)["answer"]["report"]["keys"].as_u64() > keys);
        }
        let acknowledged = writers.finish();
        let mut count = vec!["EXISTS"];
        count.extend(acknowledged.iter().map(String::as_str));
        assert_eq!(live.ask("n1", &count), acknowledged.len(), "{engine}");
        // They go on from there by themselves.
        let report = live.json(&["kill-master"], 0);
        assert!(["n2", "n3"].contains(&report["failover"]["master"].as_str().unwrap_or_default()), "{report}");
    }
}

#[test]
fn nothing_is_done_while_a_sentinel_cannot_be_kept_from_acting() {
    let Some(topology) = trio("repld", "") else { return };
    let live = Live::up(&topology);
    live.run(&["pause", "sentinel-2"]).exits(0);
    let run = live.run(&["switchover", "n2"]).exits(3);
    assert!(run.stderr.contains("sentinel-2 could act meanwhile"), "{}", run.stderr);
    assert_eq!(live.role("n1").0, "master");
    // A dead one is written a file that knows the new master.
    live.run(&["kill", "sentinel-2"]).exits(0);
    live.run(&["switchover", "n2"]).exits(0);
    live.run(&["start", "sentinel-2"]).exits(0);
    live.eventually("the sentinels watch n2", || all_watch(&live, "n2"));
    assert_eq!(live.role("n2").0, "master");
}

#[test]
fn a_person_replaces_a_master_where_too_few_sentinels_live() {
    let Some(topology) = trio("repld", "") else { return };
    let live = Live::up(&topology);
    live.ask("n1", &["SET", "k", "v"]);
    live.run(&["kill", "sentinel-1", "sentinel-2", "n1"]).exits(0);
    live.run(&["promote"]).exits(3);
    let report = live.json(&["promote", "--force"], 0);
    let master = report["plan"]["candidate"].as_str().expect("a name").to_owned();
    live.run(&["start", "n1", "sentinel-1", "sentinel-2"]).exits(0);
    live.eventually("the sentinels watch the new master", || all_watch(&live, &master));
    assert_eq!((live.role("n1").0.as_str(), live.role(&master).0.as_str()), ("slave", "master"));
}

#[test]
fn a_master_that_hung_while_it_was_replaced_is_not_let_go_on() {
    let Some(topology) = trio("redis-server", "") else { return };
    let live = Live::up(&topology);
    live.run(&["pause", "n1"]).exits(0);
    live.eventually("the sentinels have replaced n1", || !live.node("n1")["meant_upstream"].is_null());
    let run = live.run(&["resume", "n1"]).exits(3);
    assert!(run.stderr.contains("replctl kill n1, then replctl start n1"), "{}", run.stderr);
    live.run(&["kill", "n1"]).exits(0);
    live.run(&["start", "n1"]);
    assert_eq!(live.role("n1").0, "slave");
}

#[test]
fn sentinels_log_in_where_a_password_is_asked_for() {
    for engine in engines() {
        let Some(topology) = trio(engine, "") else { return };
        let password = "[defaults.config]\nrequirepass = \"'a b'\"\n";
        let live = Live::up(&topology.replacen("[[node]]", &format!("{password}[[node]]"), 1));
        assert!(all_watch(&live, "n1"), "{engine}: {:?}", sentinels(&live));
        live.json(&["switchover", "n2"], 0);
        live.eventually("the sentinels watch n2", || all_watch(&live, "n2"));
        let report = live.json(&["kill-master"], 0);
        assert!(report["failover"]["linked_us"].is_u64(), "{engine}: {report}");
        live.run(&["start", "n2"]).exits(0);
    }
}

#[test]
fn sentinels_without_a_hurry_are_of_any_kind() {
    for engine in ["redis-server", "valkey-server"].into_iter().filter(|engine| engines().contains(engine)) {
        let text = topology("watched", engine, &TRIO);
        let live = Live::up(&format!("{text}[sentinel]\ncount = 2\nquorum = 1\n"));
        let all = sentinels(&live);
        assert_eq!(
            all.iter().map(|one| (&one["master"], &one["others"])).collect::<Vec<_>>(),
            [(&json!("n1"), &json!(1)); 2]
        );
    }
}

#[test]
fn the_way_to_a_node_can_be_broken_for_all_but_its_clients() {
    for engine in engines().iter().take(2) {
        let Some(topology) = trio(engine, "[faults]\nlinks = true\n") else { return };
        let live = Live::up(&topology);
        assert!(all_watch(&live, "n1"), "{engine}: {:?}", sentinels(&live));
        live.run(&["link", "cut", "n2", "--to", "n1"]).exits(3);
        live.run(&["link", "cut", "n1"]).exits(0);
        assert_eq!(live.ask("n1", &["SET", "k", "cut off"]), "OK", "clients go to its own port");
        live.eventually("the sentinels have replaced n1", || !live.node("n1")["meant_upstream"].is_null());
        let master = ["n2", "n3"].into_iter().find(|node| live.role(node).0 == "master").expect("one of them is");
        live.ask(master, &["SET", "k", "v"]);
        live.run(&["link", "heal", "n1"]).exits(0);
        // They also cut off n1's clients, so that one who asks just then is not answered.
        live.eventually("the sentinels have made n1 a replica", || live.ask("n1", &["ROLE"])[0] == "slave");
        live.arrives("n1", "k", "v");

        live.eventually("all is well", || all_watch(&live, master) && live.status()["is_healthy"] == true);
        live.json(&["switchover", "n1"], 0);
        live.eventually("the sentinels watch n1", || all_watch(&live, "n1"));
        live.run(&["down"]).exits(0);
        live.run(&["up", "group.toml"]).exits(0);
        assert_eq!(live.ask("n1", &["GET", "k"]), "v", "{engine}");
        assert!(live.json(&["kill-master"], 0)["failover"]["linked_us"].is_u64(), "{engine}");
    }
}

#[test]
fn a_guard_is_no_second_decider() {
    let Some(topology) = trio("repld", "") else { return };
    let live = Live::prepared(&topology);
    let run = live.run(&["up", "--guard", "group.toml"]).exits(3);
    assert!(run.stderr.contains("the sentinels of watched decide"), "{}", run.stderr);
    assert!(live.processes().is_empty(), "nothing was started");
    live.run(&["up", "group.toml"]).exits(0);
    for words in [&["guard"][..], &["guard", "--maintenance", "on"], &["guard", "--acknowledge"]] {
        let run = live.run(words).exits(3);
        assert!(run.stderr.contains("the sentinels of watched decide"), "{}", run.stderr);
    }
}

#[test]
fn check_shows_the_sentinels() {
    let live = Live::prepared("[[node]]\nname = \"n1\"\nengine = \"valkey-server\"\n[sentinel]\ncount = 5\n");
    let shown = live.run(&["check", "group.toml"]).exits(0).stdout;
    assert!(shown.ends_with("  5 sentinels  valkey-server, quorum 3\n"), "{shown}");
    let object = live.json(&["check", "group.toml"], 0);
    assert_eq!((&object["by"], &object["sentinels"]["quorum"]), (&json!("sentinel"), &json!(3)));
}

#[test]
fn a_missing_sentinel_is_named_with_what_to_do() {
    let live = Live::prepared("[[node]]\nname = \"n1\"\n[sentinel]\n");
    let output = live.here.command(&["up", "group.toml"]).env("PATH", "/nowhere").output().expect("replctl runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("sentinel-1: neither redis-sentinel nor redis-server is on PATH"), "{error}");
    assert!(error.contains("hint: install redis-server or valkey-server, or give its path"), "{error}");
    assert!(live.processes().is_empty(), "nothing was started");
}
