//! State files that a disk or a hand has damaged: what is wrong is said, and one command leads out of it.

use std::path::PathBuf;

use crate::Run;
use crate::live::{Live, TRIO, engines, kill, topology};

/// What becomes of a file's bytes; `None`: it is gone.
type Damage = fn(Vec<u8>) -> Option<Vec<u8>>;

const DAMAGES: [Damage; 5] = [
    |_| Some(Vec::new()),
    |whole| Some(whole[..whole.len() / 2].to_vec()),
    |whole| Some(vec![0; whole.len()]),
    |mut whole| {
        let digit = whole.iter().rposition(u8::is_ascii_digit).expect("it has ports");
        whole[digit] = if whole[digit] == b'1' { b'2' } else { b'1' };
        Some(whole)
    },
    |_| None,
];

fn run_file(live: &Live) -> PathBuf {
    live.state("trio").join("run.json")
}

fn damage(path: &PathBuf, how: Damage) {
    match how(std::fs::read(path).expect("it is there")) {
        Some(bytes) => std::fs::write(path, bytes).expect("it is ours"),
        None => std::fs::remove_file(path).expect("it is ours"),
    }
}

/// What is wrong is said, who lives is named, and the way out.
#[track_caller]
fn is_told(live: &Live, run: &Run, living: &[u32]) {
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("run.json") && run.stderr.contains("replctl -g trio down"), "{}", run.stderr);
    for pid in living {
        assert!(run.stderr.contains(&format!("(pid {pid})")), "{pid}: {}", run.stderr);
    }
    assert_eq!(live.processes().len(), living.len(), "nobody was harmed");
}

#[test]
fn up_goes_on_with_what_lives_when_the_run_state_is_damaged() {
    for (index, how) in DAMAGES.into_iter().enumerate() {
        let live = Live::trio(engines()[index % engines().len()]);
        live.ask("n1", &["SET", "k", "v"]);
        let pids = ["n1", "n2", "n3"].map(|node| live.pid(node));
        damage(&run_file(&live), how);
        is_told(&live, &live.run(&["status"]), &pids);
        is_told(&live, &live.run(&["promote"]), &pids);
        assert_eq!(live.run(&["ls"]).exits(0).stdout.matches("damaged").count(), 1);
        live.run(&["history"]).exits(0);
        let run = live.run(&["up", "group.toml"]).exits(0);
        assert!(run.stderr.contains("damaged"), "{}", run.stderr);
        assert_eq!(["n1", "n2", "n3"].map(|node| live.pid(node)), pids, "the same processes");
        assert_eq!(live.status()["diagnosis"]["name"], "healthy");
        assert_eq!(live.ask("n1", &["GET", "k"]), "v");
    }
}

#[test]
fn down_ends_what_lives_when_the_run_state_is_damaged() {
    for how in DAMAGES {
        let live = Live::trio("repld");
        damage(&run_file(&live), how);
        live.run(&["down"]).exits(0);
        assert_eq!(live.processes(), [0_u32; 0]);
        live.run(&["up", "group.toml"]).exits(0);
        assert_eq!(live.status()["diagnosis"]["name"], "healthy");
    }
}

#[test]
fn down_ends_what_lives_when_nothing_can_be_read() {
    for engine in engines() {
        let live = Live::trio(engine);
        let pids = ["n1", "n2", "n3"].map(|node| live.pid(node));
        if *engine != "repld" {
            // Its working directory is no longer where it was started, and its title is its own.
            live.ask("n2", &["CONFIG", "SET", "dir", "/"]);
        }
        for name in ["run.json", "run.json.old"] {
            std::fs::write(live.state("trio").join(name), "{").expect("it is ours");
        }
        // A person looks around there.
        let log = std::fs::File::options().append(true).open(live.state("trio").join("nodes/n1/log")).expect("a log");
        let mut person = std::process::Command::new("sleep")
            .arg("1000")
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .spawn()
            .expect("every Unix has sleep");
        let said = live.run(&["status"]).exits(1).stderr;
        assert!(pids.iter().all(|pid| said.contains(&format!("(pid {pid})"))), "{engine}: {said}");
        live.run(&["up", "group.toml"]).exits(1);
        let said = live.run(&["down"]).exits(1).stderr;
        assert!(said.contains("none of the group's processes lives"), "{engine}: {said}");
        // Where nobody reaps orphans, a zombie stays: it is nowhere.
        let is_gone = |pid: &u32| std::fs::read_link(format!("/proc/{pid}/cwd")).is_err();
        live.eventually("all have ended", || pids.iter().all(is_gone));
        assert!(person.try_wait().expect("it is ours").is_none(), "{engine}: a stranger was ended");
        kill(person.id(), "KILL");
        person.wait().expect("it is ours");
        live.run(&["down", "--wipe"]).exits(0);
        live.run(&["up", "group.toml"]).exits(0);
    }
}

#[test]
fn a_damaged_line_of_the_journal_is_named_and_skipped() {
    let live = Live::prepared(&topology("trio", "repld", &TRIO));
    live.run(&["up", "group.toml"]).exits(0);
    let journal = live.state("trio").join("journal.jsonl");
    let mut text = std::fs::read(&journal).expect("it is there");
    let at = text.len();
    text.extend_from_slice(b"{\"time_unix_ms\":12\xff\0garbage\n");
    std::fs::write(&journal, text).expect("it is ours");
    live.run(&["down"]).exits(0);
    let history = live.run(&["history"]).exits(0);
    assert!(history.stdout.contains("up") && history.stdout.contains("down"), "{}", history.stdout);
    assert!(history.stderr.contains(&format!("byte {at}")), "{}", history.stderr);
}
