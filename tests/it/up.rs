//! `up`, `down`, `ls`: groups begin, go on, and leave nothing.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Duration;

use crate::live::{Live, TRIO, engines, kill, on_path, topology};
use crate::{Fixture, shipped};

#[test]
fn a_group_comes_up_linked_and_goes_down_without_a_trace() {
    for engine in engines() {
        let live = Live::up(&topology("trio", engine, &TRIO));
        let status = live.json(&["status"], 0);
        assert_eq!((&status["is_healthy"], &status["diagnosis"]["name"]), (&true.into(), &"healthy".into()));
        let ports = ["n1", "n2", "n3"].map(|node| live.port(node));
        assert_eq!(live.role("n1"), ("master".to_owned(), None));
        assert_eq!(live.role("n3"), ("slave".to_owned(), Some(ports[0])));
        assert_eq!(live.ask("n1", &["SET", "greeting", "hello"]), "OK");
        live.arrives("n2", "greeting", "hello");
        assert_eq!(live.processes().len(), 3);

        live.run(&["down"]).exits(0);
        assert_eq!(live.processes(), [0_u32; 0]);
        for port in ports {
            assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err(), "somebody listens on {port}");
        }
        assert_eq!(live.json(&["ls"], 0)["groups"][0]["is_up"], false);
        live.run(&["down", "--wipe"]).exits(0);
        assert_eq!(live.json(&["ls"], 0)["groups"], serde_json::json!([]));
        assert!(!live.state("trio").exists());
    }
}

#[test]
fn data_ports_and_roles_survive_a_down_and_up() {
    for engine in engines() {
        let live = Live::trio(engine);
        let port = live.port("n1");
        live.ask("n1", &["SET", "k", "v"]);
        live.run(&["down"]).exits(0);
        live.run(&["up", "group.toml"]).exits(0);
        assert_eq!(live.port("n1"), port);
        assert_eq!(live.ask("n1", &["GET", "k"]), "v", "{engine}");
        live.arrives("n3", "k", "v");
    }
}

#[test]
fn up_again_adopts_what_runs_and_starts_what_is_missing() {
    for engine in engines() {
        let live = Live::trio(engine);
        let before = ["n1", "n2", "n3"].map(|node| live.pid(node));
        live.run(&["up", "group.toml"]).exits(0);
        assert_eq!(["n1", "n2", "n3"].map(|node| live.pid(node)), before);

        kill(before[1], "KILL");
        live.eventually("n2 is seen dead", || live.node("n2")["condition"] == "dead");
        assert_eq!(live.json(&["status"], 4)["diagnosis"]["name"], "replicas-unreachable");
        let plan = live.json(&["up", "group.toml", "--dry-run"], 0);
        let adopted: Vec<_> =
            plan["plan"]["actions"].as_array().expect("a list").iter().map(|a| &a["is_adopted"]).collect();
        assert_eq!(adopted, [true, false, true]);
        assert_eq!(live.node("n2")["condition"], "dead", "a dry run starts nothing");
        live.run(&["up", "group.toml"]).exits(0);
        assert_eq!([live.pid("n1"), live.pid("n3")], [before[0], before[2]]);
        assert_ne!(live.pid("n2"), before[1]);
    }
}

#[test]
fn chains_come_up_parents_first() {
    for engine in engines() {
        let live = Live::up(&topology("chain", engine, &[("n4<n3", ""), ("n3<n2", ""), ("n2<n1", ""), ("n1", "")]));
        live.ask("n1", &["SET", "k", "v"]);
        live.arrives("n4", "k", "v");
        assert_eq!(live.role("n4").1, Some(live.port("n3")));
    }
}

#[test]
fn every_shipped_topology_starts() {
    for path in shipped() {
        let text = std::fs::read_to_string(&path).expect("it is readable");
        let needs_redis = text.contains("redis-server");
        if needs_redis && !on_path("redis-server") {
            eprintln!("skipped: {} needs redis-server", path.display());
            continue;
        }
        let fixed = text.lines().filter_map(|line| line.strip_prefix("port = ")?.trim().parse::<u16>().ok());
        if fixed.into_iter().any(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err()) {
            eprintln!("skipped: a port of {} is taken on this machine", path.display());
            continue;
        }
        let live = Live::up(&text.replacen("[[node]]", "[[node]] # as shipped", 1));
        assert!(live.status()["is_healthy"] == true, "{}", path.display());
        live.run(&["down", "--wipe"]).exits(0);
        assert_eq!(live.processes(), [0_u32; 0]);
    }
}

#[test]
fn a_node_that_dies_at_start_is_quoted_and_nothing_is_left_behind() {
    for engine in engines() {
        let broken = ("n3<n1", "config = { maxmemory = \"much\" }");
        let live = Live::prepared(&topology("broken", engine, &[TRIO[0], TRIO[1], broken]));
        let run = live.run(&["up", "group.toml"]).exits(1);
        assert!(run.stderr.contains("n3 ended while it started"), "{engine}: {}", run.stderr);
        assert!(run.stderr.contains("maxmemory"), "the log is quoted: {}", run.stderr);
        assert_eq!(live.processes(), [0_u32; 0], "{engine}");
        assert_eq!(live.status()["diagnosis"]["name"], "down");
    }
}

#[test]
fn a_group_that_is_not_linked_in_time_is_ended_again() {
    for engine in engines() {
        let locked = ("n1", "config = { requirepass = \"right\" }");
        let stranger = ("n2<n1", "config = { masterauth = \"wrong\" }");
        let live = Live::prepared(&topology("locked", engine, &[locked, stranger]));
        let run = live.run(&["up", "group.toml", "--timeout", "700ms"]).exits(1);
        assert!(run.stderr.contains("n2 (has no link"), "{engine}: {}", run.stderr);
        assert_eq!(live.processes(), [0_u32; 0], "{engine}");
    }
}

#[test]
fn an_interrupted_up_leaves_nothing_behind() {
    for engine in engines() {
        let locked = ("n1", "config = { requirepass = \"right\" }");
        let stranger = ("n2<n1", "config = { masterauth = \"wrong\" }");
        let live = Live::prepared(&topology("locked", engine, &[locked, stranger]));
        let mut command = live.here.command(&["up", "group.toml"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("replctl runs");
        live.eventually("both nodes run", || {
            let listed = live.json(&["ls"], 0);
            listed["groups"][0]["nodes_alive"] == 2
        });
        kill(child.id(), "INT");
        let output = child.wait_with_output().expect("replctl ends");
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("interrupted"));
        assert_eq!(live.processes(), [0_u32; 0], "{engine}");
    }
}

#[test]
fn a_stranger_on_a_nodes_port_is_named_and_left_alone() {
    let stranger = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = stranger.local_addr().expect("it is bound").port();
    let fixed = format!("port = {port}");
    let live = Live::prepared(&topology("fixed", "repld", &[("n1", &fixed)]));
    let run = live.run(&["up", "group.toml"]).exits(1);
    let expected = format!("(pid {})", std::process::id());
    assert!(run.stderr.contains(&format!("node n1: port {port} is held by")), "{}", run.stderr);
    assert!(run.stderr.contains(&expected), "{}", run.stderr);
}

/// Puts a server on the port of n1 just before n1's own binds it, the first time.
const OVERTAKEN: &str = r#"#!/bin/sh
[ "$1" = --version ] && echo repld 99.0.0 && exit
case $PWD in */n1) if mkdir HERE/taken; then
    (cd HERE && { echo bind 127.0.0.1; grep '^port ' "$OLDPWD/node.conf"; } > taken/conf && exec REPLCTL serve taken/conf) &
    sleep 0.5
fi ;; esac
exec REPLCTL serve "$@"
"#;

#[test]
fn who_answers_on_a_port_that_was_free_a_moment_ago_is_not_taken_for_the_node() {
    let live = Live::prepared("");
    let here = live.here.directory();
    let script =
        OVERTAKEN.replace("HERE", here.to_str().expect("text")).replace("REPLCTL", env!("CARGO_BIN_EXE_replctl"));
    live.here.write("engine", script);
    std::fs::set_permissions(here.join("engine"), PermissionsExt::from_mode(0o700)).expect("it is ours");
    let engine = format!("engine = {{ family = \"repld\", path = \"{}\" }}", here.join("engine").display());
    let nodes = TRIO.map(|(node, _)| (node, engine.as_str()));
    live.here.write("group.toml", topology("trio", "repld", &nodes));
    live.run(&["up", "group.toml"]).exits(0);
    let taken = std::fs::read_to_string(here.join("taken/conf")).expect("somebody was there before");
    assert!(!taken.contains(&format!("port {}\n", live.port("n1"))), "n1 got another port");
    assert_eq!(live.json(&["status"], 0)["diagnosis"]["name"], "healthy");
}

#[test]
fn an_automatic_port_that_a_stranger_took_is_chosen_anew() {
    let live = Live::up(&topology("auto", "repld", &[("n1", "")]));
    let port = live.port("n1");
    live.run(&["down"]).exits(0);
    let _stranger = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("it is free again");
    live.run(&["up", "group.toml"]).exits(0);
    assert_ne!(live.port("n1"), port);
}

#[test]
fn secrets_are_in_no_argument_and_in_no_file_that_others_may_read() {
    for engine in engines() {
        let secret = "config = { requirepass = '\"s3cret word\"' }";
        let nodes = [("n1", secret), ("n2<n1", secret)];
        let live = Live::up(&topology("secret", engine, &nodes));
        assert_eq!(live.ask("n2", &["PING"]), "PONG");
        for pid in live.processes() {
            let argv = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("it runs");
            assert!(!argv.contains("s3cret"), "{argv}");
        }
        let group = live.state("secret");
        for (path, mode) in [
            ("", 0o700),
            ("run.json", 0o600),
            ("nodes/n1", 0o700),
            ("nodes/n1/node.conf", 0o600),
            ("nodes/n1/log", 0o600),
        ] {
            let metadata = std::fs::metadata(group.join(path)).expect("it is there");
            assert_eq!(metadata.mode() & 0o777, mode, "{path}");
        }
        let status = live.run(&["status", "--json"]).exits(0);
        assert!(!status.stdout.contains("s3cret"), "status tells the password");
    }
}

#[test]
fn a_running_group_is_not_replaced_by_another_topology() {
    let live = Live::up(&topology("trio", "repld", &TRIO));
    live.here.write("other.toml", topology("trio", "repld", &TRIO[..2]));
    let run = live.run(&["up", "other.toml"]).exits(3);
    assert!(run.stderr.contains("another topology"), "{}", run.stderr);
    assert_eq!(live.processes().len(), 3);
    live.run(&["-g", "second", "up", "other.toml"]).exits(0);
    assert_eq!(live.processes().len(), 5);
    let run = live.run(&["status"]).exits(2);
    assert!(run.stderr.contains("second and trio are up"), "{}", run.stderr);
    live.run(&["-g", "second", "status"]).exits(0);
}

#[test]
fn a_missing_engine_is_named_with_what_to_do() {
    let live = Live::prepared(&topology("lost", "valkey-server", &[("n1", "")]));
    let mut command = live.here.command(&["up", "group.toml"]);
    let run = crate::Run::from(command.env("PATH", "/nowhere").output().expect("replctl runs")).exits(1);
    assert!(run.stderr.contains("node n1: valkey-server is not on PATH"), "{}", run.stderr);
    assert!(run.stderr.contains("hint"), "{}", run.stderr);
}

#[test]
fn a_state_directory_may_be_relative() {
    let live = Live::prepared(&topology("trio", "repld", &TRIO));
    live.run(&["--state-dir", "state", "up", "group.toml"]).exits(0);
    live.run(&["--state-dir", "./state", "down", "--wipe"]).exits(0);
    assert_eq!(live.processes(), [0_u32; 0]);
}

/// What was printed, with ports, pids and times as words and every run of spaces as two.
fn normalized(live: &Live, text: &str) -> String {
    let mut text = text.to_owned();
    for node in ["n1", "n2", "n3"] {
        text = text.replace(&live.port(node).to_string(), &format!("PORT-{node}"));
        if let Some(pid) = live.node(node)["process"]["pid"].as_u64() {
            text = text.replace(&format!(" {pid} "), &format!(" PID-{node} "));
        }
    }
    let squeezed =
        |line: &str| line.split("  ").map(str::trim).filter(|word| !word.is_empty()).collect::<Vec<_>>().join("  ");
    text.lines().map(squeezed).collect::<Vec<_>>().join("\n")
}

#[test]
fn what_is_shown_of_a_group_that_loses_its_master() {
    let live = Live::trio("repld");
    live.ask("n1", &["CONFIG", "SET", "repl-ping-replica-period", "3600"]);
    let version = env!("CARGO_PKG_VERSION");
    let status = live.run(&["status"]).exits(0).stdout;
    let expected = format!(
        "node  role  address  pid  engine  link  offset  behind  keys\n\
         n1  master  127.0.0.1:PORT-n1  PID-n1  repld {version}  -  0  0  0\n\
         n2  replica of n1  127.0.0.1:PORT-n2  PID-n2  repld {version}  up  0  0  0\n\
         n3  replica of n1  127.0.0.1:PORT-n3  PID-n3  repld {version}  up  0  0  0\n\
         \n\
         trio: healthy"
    );
    assert_eq!(normalized(&live, &status), expected);

    live.run(&["kill-master"]).exits(0);
    let plan = live.run(&["promote", "--dry-run"]).exits(0).stdout;
    let expected = "node  offset  priority  verdict\n\
                    n2  0  100  is promoted\n\
                    n3  0  100  could be promoted\n\
                    \n\
                    1. salvage what n1 had not sent to n2\n\
                    2. promote n2\n\
                    3. confirm that n2 takes writes\n\
                    4. let n3 follow n2\n\
                    5. confirm the links of n3\n\
                    \n\
                    lost: nothing";
    assert_eq!(normalized(&live, &plan), expected);
}

#[test]
fn a_group_that_does_not_exist_is_an_error() {
    let here = Fixture::new();
    here.run(&["-g", "nope", "status"]).exits(2);
    here.run(&["-g", "../nope", "status"]).exits(2);
    here.run(&["status"]).exits(1);
    here.run(&["down"]).exits(1);
}

#[test]
fn an_up_killed_at_any_point_leaves_nothing_that_the_next_one_does_not_find() {
    for engine in engines() {
        // From before the first process to after the last link: a whole run takes about this long.
        for round in 0..12 {
            let live = Live::prepared(&topology("trio", engine, &TRIO));
            let mut up = live.here.command(&["up", "-q", "group.toml"]).stdout(Stdio::null()).spawn().expect("it runs");
            std::thread::sleep(Duration::from_millis(3 * round));
            up.kill().and_then(|()| up.wait()).expect("it is ours");

            live.run(&["up", "group.toml"]).exits(0);
            let known = ["n1", "n2", "n3"].map(|node| live.pid(node));
            let mut processes = live.processes();
            processes.sort_unstable_by_key(|pid| known.iter().position(|known| known == pid));
            assert_eq!(processes, known, "{engine}, round {round}");
            live.run(&["down"]).exits(0);
            assert_eq!(live.processes(), [0_u32; 0], "{engine}, round {round}");
        }
    }
}
