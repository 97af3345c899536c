//! Many replctl at once on one group: one works, the others end at once and name it.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::Run;
use crate::live::{Live, TRIO, kill, topology};

/// So many at once.
const CROWD: usize = 20;

/// Starts a command and holds it (SIGSTOP) while it has the group. Where it was too quick, `prepare` and it are run again.
fn held(live: &Live, command: &[&str], prepare: fn(&Live)) -> Child {
    let lock = live.state("trio").join("lock");
    for _ in 0..50 {
        prepare(live);
        let mut first = started(live, command);
        let own = format!("(pid {})", first.id());
        let deadline = Instant::now() + Duration::from_secs(10);
        while first.try_wait().expect("it is ours").is_none() {
            assert!(Instant::now() < deadline, "{command:?} neither ends nor takes the group");
            if std::fs::read_to_string(&lock).is_ok_and(|holder| holder.contains(&own)) {
                kill(first.id(), "STOP");
                if is_locked(&lock) {
                    return first;
                }
            }
        }
    }
    panic!("{command:?} is never seen at work");
}

fn is_locked(lock: &std::path::Path) -> bool {
    std::fs::File::open(lock).is_ok_and(|file| file.try_lock().is_err())
}

fn one_of_twenty_works(command: &'static [&'static str], prepare: fn(&Live)) {
    let live = Live::prepared(&topology("trio", "repld", &TRIO));
    let first = held(&live, command, prepare);
    let own = format!("replctl {} (pid {})", command[0], first.id());
    let others: Vec<Child> = (1..CROWD).map(|_| started(&live, command)).collect();
    for other in others {
        let run = Run::from(other.wait_with_output().expect("it ends")).exits(5);
        assert!(run.stderr.contains(&own), "the holder is {own}: {}", run.stderr);
    }
    kill(first.id(), "CONT");
    Run::from(first.wait_with_output().expect("it ends")).exits(0);
}

/// Nobody is held: whoever comes first works, and then perhaps another one.
fn twenty_at_once_do_no_harm(live: &Live, command: &'static [&'static str]) {
    let all: Vec<Child> = (0..CROWD).map(|_| started(live, command)).collect();
    let pids: Vec<String> = all.iter().map(|one| format!("(pid {})", one.id())).collect();
    let runs: Vec<Run> = all.into_iter().map(|one| Run::from(one.wait_with_output().expect("it ends"))).collect();
    assert!(runs.iter().any(|run| run.code == Some(0)), "{command:?}: none worked: {runs:?}");
    for run in runs.iter().filter(|run| run.code != Some(0)) {
        let names_holder = pids.iter().any(|pid| run.stderr.contains(pid)) || run.stderr.contains("just started");
        assert!(run.code == Some(5) && names_holder, "{command:?}: {run:?}");
    }
}

fn started(live: &Live, command: &[&str]) -> Child {
    live.here.command(command).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs")
}

#[test]
fn of_twenty_up_one_works_and_the_others_name_it() {
    one_of_twenty_works(&["up", "group.toml"], |live| {
        live.run(&["-g", "trio", "down", "--wipe"]);
    });
}

#[test]
fn of_twenty_promotions_one_works_and_the_others_name_it() {
    one_of_twenty_works(&["promote"], |live| {
        live.run(&["up", "group.toml"]).exits(0);
        live.run(&["kill-master"]).exits(0);
    });
}

#[test]
fn of_twenty_switchovers_one_works_and_the_others_name_it() {
    one_of_twenty_works(&["switchover"], |live| {
        live.run(&["up", "group.toml"]).exits(0);
    });
}

#[test]
fn of_twenty_down_one_works_and_the_others_name_it() {
    one_of_twenty_works(&["down"], |live| {
        live.run(&["up", "group.toml"]).exits(0);
    });
}

#[test]
fn twenty_at_once_leave_a_whole_group_or_none() {
    let live = Live::prepared(&topology("trio", "repld", &TRIO));
    twenty_at_once_do_no_harm(&live, &["up", "group.toml"]);
    assert_eq!(live.processes().len(), 3);
    twenty_at_once_do_no_harm(&live, &["switchover", "n2"]);
    live.run(&["kill-master"]).exits(0);
    twenty_at_once_do_no_harm(&live, &["promote"]);
    live.run(&["up", "group.toml"]).exits(0);
    assert_eq!(live.status()["diagnosis"]["name"], "healthy");
    assert_eq!(live.processes().len(), 3);
    twenty_at_once_do_no_harm(&live, &["down"]);
    assert_eq!(live.processes(), [0_u32; 0]);
}
