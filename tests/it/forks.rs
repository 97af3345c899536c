//! Redis and Valkey save in a fork of themselves. It is a part of its server: `up` does not take it for a server that an
//! interrupted run has left over, and `down` does not leave it behind.

use std::time::{Duration, Instant};

use crate::live::{Live, engines, topology};

/// n1 with the replica n2, while n1 saves and goes on doing so.
fn saving(engine: &str) -> Live {
    let slow = "config = { rdb-key-save-delay = 1000000 }";
    let live = Live::up(&topology("pair", engine, &[("n1", slow), ("n2<n1", "")]));
    live.fill("n1", 100);
    live.ask("n1", &["BGSAVE"]);
    live.eventually("it saves", || live.processes().len() == 3);
    live
}

fn forking() -> impl Iterator<Item = &'static &'static str> {
    engines().iter().filter(|engine| **engine != "repld")
}

#[test]
fn the_fork_of_a_killed_server_is_ended_with_the_group() {
    for engine in forking() {
        let live = saving(engine);
        let began = Instant::now();
        live.run(&["down", "--wipe"]).exits(0);
        assert_eq!(live.processes(), [0u32; 0], "{engine}");
        assert!(began.elapsed() < Duration::from_secs(9), "{engine}: nothing is waited for that nobody needs");
    }
}

#[test]
fn the_fork_of_a_living_server_is_left_alone() {
    for engine in forking() {
        let live = saving(engine);
        let before = live.processes();
        let run = live.run(&["up", "group.toml"]).exits(0);
        assert!(!run.stderr.contains("left over"), "{}", run.stderr);
        assert_eq!(live.processes(), before, "{engine}");
    }
}
