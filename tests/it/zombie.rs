//! What was a node once: a stopped master that wakes up, a process that has a dead node's pid. The one serves nobody, the
//! other is left alone. `tests/long/zombie-100` and `tests/long/pid-reuse` are these by the hundred.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use replctl::process::{Durability, RunNode, StateDir};

use crate::live::{Live, Writers, engines, kill};

#[test]
fn a_stopped_master_that_wakes_up_after_a_promotion_answers_nobody() {
    for engine in engines() {
        let live = Live::trio(engine);
        let (port, pid) = (live.port("n1"), live.pid("n1"));
        let mut stale = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        stale.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket takes it");
        let writers = Writers::start(2, &[port]);
        live.eventually("they write", || live.ask("n1", &["DBSIZE"]).as_u64() > Some(100));
        kill(pid, "STOP");
        stale.write_all(b"SET stale x\r\n").expect("the kernel takes it");
        live.run(&["promote"]).exits(0);
        kill(pid, "CONT");
        let mut answer = Vec::new();
        let _ = stale.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{engine}: {answer:?}");
        live.run(&["start", "n1"]).exits(0);
        assert_eq!(live.role("n1").0, "slave", "{engine}");
        let mut knock = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        knock.write_all(b"SET late x\r\nQUIT\r\n").expect("the kernel takes it");
        let mut answer = String::new();
        knock.read_to_string(&mut answer).expect("it answers");
        assert!(answer.starts_with("-READONLY"), "{engine}: {answer}");
        assert_eq!(live.ask("n1", &["EXISTS", "stale", "late"]), 0, "{engine}");
        drop(writers.finish());
    }
}

#[test]
fn a_process_that_has_a_dead_nodes_pid_is_left_alone() {
    let live = Live::trio("repld");
    let pids = ["n1", "n2", "n3"].map(|node| live.pid(node));
    // A later start time than the recorded one is what another process with the same pid has.
    let state = StateDir::new(live.here.root.path().join("state"));
    let group = state.group("trio").expect("a good name");
    let mut run = group.run_state().expect("it is readable").expect("it is there");
    for server in run.nodes.iter_mut().filter_map(RunNode::managed_mut) {
        server.process.as_mut().expect("it runs").identity.start_ticks -= 1;
    }
    group.save_run_state(&run, Durability::PageCache).expect("it is ours");
    for (command, code) in [("kill", 1), ("pause", 1), ("resume", 1)] {
        live.run(&[command, "n1", "n2", "n3"]).exits(code);
    }
    live.run(&["kill-master"]).exits(1);
    live.run(&["promote"]).exits(3);
    for pid in pids {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
        assert!(!stat.contains(") T ") && !stat.contains(") Z "), "{stat}");
    }
}
