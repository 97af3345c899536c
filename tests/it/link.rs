//! `link`: what is between a replica and the node above it is broken on purpose, in groups with `[faults] links = true`.

use serde_json::Value;

use crate::live::{Live, TRIO, engines, kill, topology};

fn linked_trio(engine: &str) -> Live {
    Live::up(&(topology("linked", engine, &TRIO) + "[faults]\nlinks = true\n"))
}

/// How the link of a node to another one is, as `link status --json` tells it.
fn link(live: &Live, from: &str, to: &str) -> Value {
    let status = live.json(&["link", "status"], 0);
    let links = status["links"].as_array().expect("links are a list");
    let link = links.iter().find(|link| link["from"] == from && link["to"] == to);
    link.unwrap_or_else(|| panic!("no {from} -> {to} in {status}")).clone()
}

fn is_up(live: &Live, node: &str) -> bool {
    live.node(node)["answer"]["report"]["link"]["state"] == "up"
}

#[test]
fn a_cut_link_is_down_until_it_is_healed_and_the_other_one_stays() {
    for engine in engines() {
        let live = linked_trio(engine);
        assert_eq!(link(&live, "n2", "n1")["connections"], 1, "{engine}: its stream goes by its proxy");
        for verb in ["cut", "refuse"] {
            live.run(&["link", verb, "n2"]).exits(0);
            live.eventually("the link is down", || !is_up(&live, "n2"));
            assert!(is_up(&live, "n3"), "{engine}: only one was cut");
            live.run(&["link", "heal", "n2"]).exits(0);
            live.eventually("the link is up", || is_up(&live, "n2"));
        }
        live.run(&["link", "half-open", "n2", "--direction", "down"]).exits(0);
        live.ask("n1", &["SET", "k", "v"]);
        live.arrives("n3", "k", "v");
        assert_eq!(live.ask("n2", &["GET", "k"]), Value::Null, "{engine}: nothing comes, and nothing is closed");
        assert!(is_up(&live, "n2"), "{engine}: it does not know");
        live.run(&["link", "heal", "n2"]).exits(0);
        live.arrives("n2", "k", "v");
    }
}

#[test]
fn every_change_of_upstreams_goes_by_the_proxy_of_its_own_edge() {
    for engine in engines() {
        let live = linked_trio(engine);
        live.run(&["switchover", "n2"]).exits(0);
        for from in ["n1", "n3"] {
            assert_eq!(link(&live, from, "n2")["connections"], 1, "{engine}: {from} after a switchover");
        }
        live.run(&["repoint", "n3", "--to", "n1"]).exits(0);
        assert_eq!(link(&live, "n3", "n1")["connections"], 1, "{engine}: after a repoint");
        live.run(&["repoint", "n3", "--to", "n2"]).exits(0);
        live.run(&["kill-master"]).exits(0);
        live.run(&["promote", "n1"]).exits(0);
        live.run(&["start", "n2"]).exits(0);
        for from in ["n2", "n3"] {
            assert_eq!(link(&live, from, "n1")["connections"], 1, "{engine}: {from} after a promotion");
        }
        assert_eq!(live.status()["diagnosis"]["name"], "healthy", "{engine}: upstreams are told by their nodes' names");
    }
}

#[test]
fn the_process_that_carries_the_links_is_started_again_on_its_ports_and_ends_with_the_group() {
    let live = linked_trio("repld");
    let port = link(&live, "n2", "n1")["port"].clone();
    let run: Value =
        serde_json::from_slice(&std::fs::read(live.state("linked").join("run.json")).expect("it is there"))
            .expect("it is JSON");
    let pid = run["links"]["process"]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("it is recorded");
    kill(pid, "KILL");
    live.eventually("the links are down", || !is_up(&live, "n2"));
    live.run(&["link", "status"]).exits(1);
    live.run(&["up", "group.toml"]).exits(0);
    assert!(is_up(&live, "n2"));
    assert_eq!(link(&live, "n2", "n1")["port"], port, "who did not follow elsewhere meanwhile finds it again");
    live.run(&["down"]).exits(0);
    assert!(live.processes().is_empty(), "nothing is left");
}

#[test]
fn a_group_without_proxies_and_words_that_make_no_sense_are_refused() {
    let live = Live::trio("repld");
    live.run(&["link", "cut", "n2"]).exits(3);
    for wrong in [
        &["link", "cut", "n2", "--latency", "5ms"][..],
        &["link", "cut", "n2", "--direction", "up"],
        &["link", "slow", "n2"],
        &["link", "slow", "n2", "--bandwidth", "fast"],
        &["link", "cut"],
    ] {
        live.run(wrong).exits(2);
    }
    let linked = linked_trio("repld");
    linked.run(&["link", "cut", "n9"]).exits(2);
    linked.run(&["link", "cut", "n1"]).exits(3);
    linked.run(&["link", "cut", "n1", "--to", "n2"]).exits(0);
}

#[test]
fn what_a_link_has_carried_is_told_whatever_was_done_to_it() {
    for engine in engines() {
        let live = linked_trio(engine);
        let carried = || (link(&live, "n2", "n1")["up-bytes"].as_u64(), link(&live, "n2", "n1")["down-bytes"].as_u64());
        let before = carried();
        assert!(before.0 > Some(0) && before.1 > Some(0), "{engine}: {before:?}");
        live.run(&["link", "slow", "n2", "--latency", "1ms"]).exits(0);
        assert!(carried() >= before, "{engine}: it is counted on");
        live.run(&["link", "heal", "n2"]).exits(0);
        assert!(carried() >= before, "{engine}: it is counted on");
    }
}

#[test]
fn a_link_is_changed_under_the_groups_lock_and_journalled_and_a_dry_run_does_neither() {
    let live = linked_trio("repld");
    let would = live.run(&["link", "cut", "n2", "--dry-run"]).exits(0);
    assert_eq!(would.stdout, "would cut n2 -> n1\n");
    assert_eq!(link(&live, "n2", "n1")["fault"], "heal");
    live.run(&["link", "slow", "n2", "--latency", "1ms"]).exits(0);
    let told = live.run(&["history"]).exits(0).stdout;
    assert!(told.contains("link slow") && told.contains("n2 -> n1 --latency 1ms") && !told.contains("cut"), "{told}");
    let lock = std::fs::File::open(live.state("linked").join("lock")).expect("it is there");
    lock.try_lock().expect("nobody has it");
    live.run(&["link", "cut", "n2"]).exits(5);
    live.run(&["link", "status"]).exits(0);
}
