//! replctl is killed at every point of what it does, and the same command once more ends what it began.
//!
//! The points are not listed here: a command is run once to see which it passes. See `src/failpoint.rs`.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Run;
use crate::guard::Guard;
use crate::live::{Live, TRIO, engines, kill, topology};

/// What is held back for longer was left held back by somebody who is dead.
const PAUSE_LIMIT: Duration = Duration::from_millis(2500);
/// How often a point is tried that a run may or may not pass: servers are not equally quick each time.
const TRIES: usize = 4;

/// Other engines than ours take a second to find each other again: here every sixth point, in `tests/long` all.
const SAMPLE: usize = 6;

/// A command of which every point is tried.
#[derive(Clone, Copy)]
struct Command {
    words: &'static [&'static str],
    /// Brings the group to where the command begins.
    prepare: fn(&Live),
    leaves: Leaves,
}

/// What a command leaves when it is done.
#[derive(Clone, Copy)]
enum Leaves {
    /// The whole group.
    Whole,
    /// All but the node whose death it is about.
    AllButOne,
    Nothing,
}

const UP: Command = Command { words: &["up", "-q", "group.toml"], prepare: from_nothing, leaves: Leaves::Whole };
const UP_AGAIN: Command = Command { words: &["up", "-q", "group.toml"], prepare: from_down, leaves: Leaves::Whole };
const PROMOTE: Command = Command { words: &["promote"], prepare: from_a_dead_master, leaves: Leaves::AllButOne };
const SWITCHOVER: Command = Command { words: &["switchover", "n2"], prepare: from_n1, leaves: Leaves::Whole };
const PROMOTE_BY_FORCE: Command =
    Command { words: &["promote", "--force"], prepare: from_n1, leaves: Leaves::AllButOne };
const PROMOTE_FOR_A_HUNG_MASTER: Command =
    Command { words: &["promote"], prepare: from_a_hung_master, leaves: Leaves::AllButOne };
const SWITCHOVER_TO_ANYBODY: Command = Command { words: &["switchover"], prepare: from_n1, leaves: Leaves::Whole };
const SWITCHOVER_OF_A_CHAIN: Command =
    Command { words: &["switchover", "n3"], prepare: from_a_chain, leaves: Leaves::Whole };
const START: Command = Command { words: &["start", "n3"], prepare: from_a_dead_replica, leaves: Leaves::Whole };
const RESTART: Command = Command { words: &["restart", "n3"], prepare: from_n1, leaves: Leaves::Whole };
const RESTART_ALL: Command = Command { words: &["restart", "--all"], prepare: from_n1, leaves: Leaves::Whole };
/// A rolling upgrade: see [`newer`].
const UPGRADE: Command =
    Command { words: &["restart", "--all", "--engine", "./newer"], prepare: from_a_fresh_group, leaves: Leaves::Whole };
/// To another engine altogether, which reads no files of the one before.
const GO_OVER_TO_REPLD: Command =
    Command { words: &["restart", "--all", "--engine", "repld"], prepare: from_a_fresh_group, leaves: Leaves::Whole };
const GO_OVER_TO_VALKEY: Command = Command {
    words: &["restart", "--all", "--engine", "valkey-server"],
    prepare: from_a_fresh_group,
    leaves: Leaves::Whole,
};
const REPOINT: Command =
    Command { words: &["repoint", "n3", "--to", "n2"], prepare: from_a_star, leaves: Leaves::Whole };
const DOWN: Command = Command { words: &["down"], prepare: from_up, leaves: Leaves::Nothing };
const WIPE: Command = Command { words: &["down", "--wipe"], prepare: from_up, leaves: Leaves::Nothing };

/// A command that is killed again and again, on one group.
struct Victim {
    live: Live,
    engine: &'static str,
    command: Command,
}

/// The user's hook writes down here what it was told.
const TOLD: &str = "told";
const HOOK: &str = "[hooks]\nafter-promote = ['sh', '-c', 'echo $REPLCTL_OLD_MASTER to $REPLCTL_NEW_MASTER >> told']\n";

/// A later version of `engine`, as far as anybody can see: it calls itself so, or is at another place.
fn newer(engine: &str) -> String {
    match engine {
        "repld" => format!(
            "#!/bin/sh\n[ \"$1\" = --version ] && echo repld 99.0.0 && exit\nexec {} serve \"$@\"\n",
            env!("CARGO_BIN_EXE_replctl")
        ),
        _ => format!("#!/bin/sh\nexec {engine} \"$@\"\n"),
    }
}

impl Victim {
    fn new(engine: &'static str, command: Command) -> Self {
        Self::with(engine, "", command)
    }

    /// A group with Sentinels, if this machine has them.
    fn watched(engine: &'static str, command: Command) -> Option<Self> {
        let sentinels = "[sentinel]\nengine = 'redis-server'\nfast = true\n";
        engines().contains(&"redis-server").then(|| Self::with(engine, sentinels, command))
    }

    fn with(engine: &'static str, rest: &str, command: Command) -> Self {
        let live = Live::prepared(&(topology("trio", engine, &TRIO) + HOOK + rest));
        live.here.write("newer", newer(engine)).write(TOLD, "");
        let program = live.here.directory().join("newer");
        std::fs::set_permissions(program, PermissionsExt::from_mode(0o700)).expect("it is ours");
        Self { live, engine, command }
    }

    /// Kills the command at every point that it passes.
    #[track_caller]
    fn dies_everywhere(&self) {
        self.dies_at_each(1);
    }

    /// Kills the command at one of so many points that it passes.
    #[track_caller]
    fn dies_at_each(&self, stride: usize) {
        let points = self.trace();
        assert!(points.len() > 10, "{}: {points:?}", self.what());
        let points: Vec<String> = points.into_iter().step_by(stride).collect();
        let mut never_again = Vec::new();
        for point in &points {
            if !(0..TRIES).any(|_| self.dies_at(point)) {
                never_again.push(point);
            }
        }
        println!("{}: killed at {} of {} points", self.what(), points.len() - never_again.len(), points.len());
        assert!(never_again.len() * 20 <= points.len(), "{}: not passed again: {never_again:?}", self.what());
    }

    fn what(&self) -> String {
        format!("{}, {}", self.engine, self.command.words.join(" "))
    }

    /// The points of a run that nobody disturbs.
    fn trace(&self) -> Vec<String> {
        (self.command.prepare)(&self.live);
        let file = self.live.here.root.path().join("trace");
        let _ = std::fs::remove_file(&file);
        let mut command = self.live.here.command(self.command.words);
        let output = command.env("REPLCTL_FAILPOINT_TRACE", &file).output().expect("replctl runs");
        Run::from(output).exits(0);
        let text = std::fs::read_to_string(file).expect("points were passed");
        text.lines().map(str::to_owned).collect()
    }

    /// Whether the point was passed, and so the command was killed there; then whatever must hold does.
    fn dies_at(&self, point: &str) -> bool {
        (self.command.prepare)(&self.live);
        let old_master = self.meant_master();
        self.live.here.write(TOLD, "");
        let mut command = self.live.here.command(self.command.words);
        let output = command.env("REPLCTL_FAILPOINT", point).output().expect("replctl runs");
        if output.status.signal() != Some(9) {
            Run::from(output).exits(0);
            return false;
        }
        let context = format!("{}, killed at {point:?}", self.what());
        self.status_is_true(&context);
        let again = self.live.run(self.command.words);
        assert_eq!(again.code, Some(0), "{context}: once more:\n{}{}", again.stdout, again.stderr);
        if !matches!(self.command.leaves, Leaves::Nothing) {
            self.files_have_the_roles(&context);
            self.hook_was_told(old_master, &context);
        }
        match self.command.leaves {
            Leaves::Whole => self.is_whole(&context),
            Leaves::AllButOne => {
                let code = self.live.run(&["status"]).code;
                assert_eq!(code, Some(4), "{context}: the dead one is named");
                self.dead_one_comes_back_by_hand_as_a_replica(&context);
                self.live.run(&["up", "group.toml"]).exits(0);
                self.is_whole(&context);
            }
            Leaves::Nothing => assert_eq!(self.live.processes(), [0_u32; 0], "{context}: processes are left over"),
        }
        self.leaves_no_files(&context);
        true
    }

    /// `status` names a state, and calls it healthy only if it is.
    fn status_is_true(&self, context: &str) {
        let status = self.live.run(&["status", "--json"]);
        assert!(!status.stderr.contains("panicked"), "{context}: {}", status.stderr);
        match status.code {
            Some(0) => {
                // The processes may have got there since.
                let seen = status.json();
                assert_eq!(seen["diagnosis"]["name"], "healthy", "{context}: {seen}");
                let masters = masters(&self.live, &seen);
                // Who was told to end takes its time, and then nobody is.
                let has_ended_since = || masters.is_empty() && self.live.run(&["status"]).code == Some(4);
                assert!(masters.len() == 1 || has_ended_since(), "{context}: {masters:?} are masters: {seen}");
            }
            Some(4) => {
                let seen = status.json();
                assert!(seen["is_healthy"] == false && seen["message"] != "healthy", "{context}: {seen}");
            }
            // Nothing was written down yet: there is no group.
            Some(1 | 2) => assert!(!self.live.state("trio").join("run.json").exists(), "{context}: {}", status.stdout),
            code => panic!("{context}: status ended with {code:?}: {}{}", status.stdout, status.stderr),
        }
    }

    /// One master takes writes at once, everyone has them, and every process is a node's.
    fn is_whole(&self, context: &str) {
        let status = self.live.run(&["status", "--json"]);
        assert_eq!(status.code, Some(0), "{context}: afterwards:\n{}", status.stdout);
        let status = status.json();
        let masters = masters(&self.live, &status);
        assert_eq!(masters.len(), 1, "{context}: masters {masters:?}: {status}");
        let (began, value) = (Instant::now(), format!("{context} {:?}", Instant::now()));
        assert_eq!(self.live.ask(&masters[0], &["SET", "k", &value]), "OK", "{context}");
        assert!(began.elapsed() < PAUSE_LIMIT, "{context}: a write took {:?}", began.elapsed());
        for node in ["n1", "n2", "n3"] {
            self.live.arrives(node, "k", &value);
        }
        let sentinels = status["sentinels"].as_array().into_iter().flatten();
        let processes = nodes(&status).iter().chain(sentinels).map(|one| &one["process"]["pid"]);
        let mut known: Vec<u64> = processes.filter_map(Value::as_u64).collect();
        let mut alive: Vec<u64> = self.live.processes().into_iter().map(u64::from).collect();
        known.sort_unstable();
        alive.sort_unstable();
        assert_eq!(alive, known, "{context}: processes that nobody knows, or that have gone");
        self.has_its_engine(context);
    }

    /// After an upgrade everybody is served by what was wished, and still has what there was before.
    fn has_its_engine(&self, context: &str) {
        let Some(family) = self.wished_engine().map(|engine| engine.trim_end_matches("-server")) else { return };
        let text = std::fs::read(self.live.state("trio").join("run.json")).expect("it is there");
        let run: Value = serde_json::from_slice(&text).expect("JSON");
        for node in nodes(&run) {
            let engine = &node["engine"];
            let is_newer = engine["path"].as_str().is_some_and(|path| path.ends_with("/newer"));
            assert!(is_newer || engine["path"].is_null() && engine["family"] == family, "{context}: {node}");
            self.live.arrives(node["name"].as_str().expect("a name"), "kept", "1");
        }
    }

    fn wished_engine(&self) -> Option<&'static str> {
        let at = self.command.words.iter().position(|word| *word == "--engine")?;
        Some(self.command.words[at + 1])
    }

    fn meant_master(&self) -> Option<String> {
        let status = self.live.run(&["status", "--json"]);
        let status: Value = serde_json::from_str(&status.stdout).ok()?;
        let nodes = status["nodes"].as_array()?;
        nodes.iter().find(|node| node["meant_upstream"].is_null())?["name"].as_str().map(str::to_owned)
    }

    /// The hook knows of every change from the master before to the one that there is now, however often it was told.
    fn hook_was_told(&self, old_master: Option<String>, context: &str) {
        let (Some(mut master), now) = (old_master, self.meant_master()) else { return };
        let told = std::fs::read_to_string(self.live.here.directory().join(TOLD)).expect("it is there");
        for (from, to) in told.lines().map(|line| line.split_once(" to ").expect("the hook writes so")) {
            assert!(
                from == master || to == master,
                "{context}: a change is missing in what the hook was told:\n{told}"
            );
            master = to.to_owned();
        }
        assert_eq!(Some(master), now, "{context}: the hook does not know the last change:\n{told}");
    }

    /// Somebody starts the dead node who does not know replctl.
    fn dead_one_comes_back_by_hand_as_a_replica(&self, context: &str) {
        let status = self.live.status();
        let dead = nodes(&status).iter().find(|node| node["condition"] == "dead");
        let Some(dead) = dead.and_then(|node| node["name"].as_str()) else { panic!("{context}: nobody is: {status}") };
        let port = self.live.port(dead);
        let mut process = self.live.start_by_hand("trio", dead, self.engine);
        let client = redis::Client::open(("127.0.0.1", port)).expect("an address");
        let role = || redis::cmd("ROLE").query::<Vec<redis::Value>>(&mut client.get_connection().ok()?).ok();
        self.live.eventually("it says what it is", || role().is_some());
        let is_replica = role().is_some_and(|role| role[0] == redis::Value::BulkString(b"slave".to_vec()));
        process.kill().and_then(|()| process.wait()).expect("it is ours");
        assert!(is_replica, "{context}: {dead}, started by hand, is a second master");
    }

    /// Whoever starts a node by hand, be it the dead one, starts it in its role.
    fn files_have_the_roles(&self, context: &str) {
        let status = self.live.run(&["status", "--json"]).json();
        for node in nodes(&status) {
            let name = node["name"].as_str().expect("a name");
            let file = self.live.state("trio").join("nodes").join(name).join("node.conf");
            let text = std::fs::read_to_string(file).expect("it was started once");
            let above = node["meant_upstream"].as_str();
            let above = above.and_then(|above| nodes(&status).iter().find(|node| node["name"] == above));
            let told = text.lines().find(|line| line.starts_with("replicaof ")).map(str::to_owned);
            let right = above.map(|above| format!("replicaof 127.0.0.1 {}", above["port"]));
            assert_eq!(told, right, "{context}: {name}'s file has another role: {status}");
        }
    }

    /// What was being written when the command died does not stay.
    fn leaves_no_files(&self, context: &str) {
        let group = self.live.state("trio");
        let nodes = ["n1", "n2", "n3"].map(|node| group.join("nodes").join(node));
        let files = |dir: PathBuf| std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        let names = std::iter::once(group).chain(nodes).flat_map(files);
        let left: Vec<PathBuf> = names.filter(|path| path.to_string_lossy().contains("unfinished")).collect();
        assert!(left.is_empty(), "{context}: {left:?}");
        let aside = std::fs::read_dir(self.live.state("trio").join("aside"));
        let aside: Vec<_> = aside.into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        assert!(aside.is_empty(), "{context}: old files are kept that nobody needs any more: {aside:?}");
    }
}

fn nodes(status: &Value) -> &[Value] {
    status["nodes"].as_array().expect("nodes are a list")
}

/// The nodes that call themselves masters, each asked by itself.
fn masters(live: &Live, status: &Value) -> Vec<String> {
    let names = nodes(status).iter().map(|node| node["name"].as_str().expect("a name").to_owned());
    names.filter(|name| live.ask(name, &["ROLE"])[0] == "master").collect()
}

fn from_nothing(live: &Live) {
    live.run(&["-g", "trio", "down", "--wipe"]);
}

fn from_down(live: &Live) {
    live.run(&["up", "group.toml"]).exits(0);
    live.run(&["down"]).exits(0);
}

fn from_up(live: &Live) {
    live.run(&["up", "group.toml"]).exits(0);
}

/// n1 is the master, so that a switchover to n2 has something to do.
fn from_n1(live: &Live) {
    from_up(live);
    live.run(&["switchover", "n1"]).exits(0);
}

/// The engine of the file serves all nodes, and there is something to be kept.
fn from_a_fresh_group(live: &Live) {
    from_nothing(live);
    from_up(live);
    assert_eq!(live.ask("n1", &["SET", "kept", "1"]), "OK");
}

fn from_a_dead_master(live: &Live) {
    from_up(live);
    live.run(&["kill-master"]).exits(0);
}

fn from_a_dead_replica(live: &Live) {
    from_n1(live);
    live.run(&["kill", "n3"]).exits(0);
}

fn from_a_hung_master(live: &Live) {
    from_n1(live);
    live.run(&["pause", "n1"]).exits(0);
}

/// n3 follows n2, and n2 the master.
fn from_a_chain(live: &Live) {
    from_n1(live);
    live.run(&["repoint", "n3", "--to", "n2"]);
}

/// n3 follows n1, so that it can be told to follow n2.
fn from_a_star(live: &Live) {
    from_n1(live);
    live.run(&["repoint", "n3", "--to", "n1"]);
}

#[test]
fn an_up_killed_anywhere_is_ended_by_the_next() {
    Victim::new("repld", UP).dies_everywhere();
}

#[test]
fn a_promotion_killed_anywhere_is_ended_by_the_next() {
    Victim::new("repld", PROMOTE).dies_everywhere();
}

#[test]
fn a_switchover_killed_anywhere_is_ended_by_the_next() {
    Victim::new("repld", SWITCHOVER).dies_everywhere();
}

#[test]
fn a_promotion_that_must_fence_killed_on_its_way_is_ended_by_the_next() {
    Victim::new("repld", PROMOTE_FOR_A_HUNG_MASTER).dies_at_each(SAMPLE);
}

#[test]
fn a_forced_promotion_killed_on_its_way_is_ended_by_the_next_and_not_begun_anew() {
    Victim::new("repld", PROMOTE_BY_FORCE).dies_at_each(SAMPLE);
}

#[test]
fn a_switchover_of_a_chain_killed_on_its_way_is_ended_by_the_next() {
    Victim::new("repld", SWITCHOVER_OF_A_CHAIN).dies_at_each(SAMPLE);
}

#[test]
fn an_up_after_a_down_killed_on_its_way_is_ended_by_the_next() {
    Victim::new("repld", UP_AGAIN).dies_at_each(SAMPLE);
}

#[test]
fn a_change_of_masters_that_was_killed_is_told_to_the_hook_and_not_made_twice() {
    for command in [SWITCHOVER_TO_ANYBODY, PROMOTE] {
        let victim = Victim::new("repld", command);
        let told = victim.live.here.directory().join(TOLD);
        for point in victim.trace().into_iter().step_by(2) {
            (command.prepare)(&victim.live);
            let status = victim.live.status();
            let old = nodes(&status).iter().find(|node| node["meant_upstream"].is_null()).expect("a master is meant");
            let begins = format!("{} to ", old["name"].as_str().expect("a name"));
            std::fs::write(&told, "").expect("it is ours");
            let output = victim.live.here.command(command.words).env("REPLCTL_FAILPOINT", &point).output();
            let was_killed = output.expect("replctl runs").status.signal() == Some(9);
            // After its last word there is nothing to be gone on with: once more is another one.
            let is_done = || {
                let last = victim.live.run(&["--json", "history", "-n", "1"]).exits(0).stdout;
                let was_told = std::fs::read(&told).is_ok_and(|text| !text.is_empty());
                was_told && last.contains("\"outcome\":\"done\"")
            };
            if was_killed && !is_done() {
                victim.live.run(command.words).exits(0);
            }
            let text = std::fs::read_to_string(&told).expect("it is there");
            let changes: std::collections::BTreeSet<&str> = text.lines().collect();
            assert_eq!(changes.len(), 1, "{} killed at {point:?}: {text}", command.words[0]);
            assert!(changes.iter().all(|change| change.starts_with(&begins)), "{point:?}: {text}");
        }
    }
}

#[test]
fn a_promotion_of_another_engine_killed_on_its_way_is_ended_by_the_next() {
    engines().iter().skip(1).for_each(|engine| Victim::new(engine, PROMOTE).dies_at_each(SAMPLE));
}

#[test]
fn a_switchover_of_another_engine_killed_on_its_way_is_ended_by_the_next() {
    engines().iter().skip(1).for_each(|engine| Victim::new(engine, SWITCHOVER).dies_at_each(SAMPLE));
}

#[test]
fn a_switchover_killed_before_its_order_is_no_change_to_what_comes_next() {
    let next: [&[&[&str]]; 3] =
        [&[&["restart", "--all"]], &[&["kill", "n2"], &["start", "n2"]], &[&["repoint", "n3", "--to", "n2"]]];
    let tried = |engine: &&str, commands: &[&[&str]]| {
        let live = Live::trio(engine);
        let mut switchover = live.here.command(&["switchover", "n2"]);
        let output = switchover.env("REPLCTL_FAILPOINT", "sending FAILOVER TO").output().expect("replctl runs");
        assert_eq!(output.status.signal(), Some(9), "{engine}: it is killed before that");
        for command in commands {
            live.run(command).exits(0);
        }
        assert_eq!(live.json(&["status"], 0)["diagnosis"]["name"], "healthy", "{engine}: {commands:?}");
    };
    std::thread::scope(|scope| {
        for (engine, commands) in engines().iter().flat_map(|engine| next.map(|commands| (engine, commands))) {
            scope.spawn(move || tried(engine, commands));
        }
    });
}

#[test]
fn an_up_of_a_group_with_sentinels_killed_on_its_way_is_ended_by_the_next() {
    Victim::watched("repld", UP).into_iter().for_each(|victim| victim.dies_at_each(SAMPLE));
}

#[test]
fn a_switchover_under_sentinels_killed_on_its_way_is_ended_by_the_next() {
    Victim::watched("repld", SWITCHOVER).into_iter().for_each(|victim| victim.dies_at_each(SAMPLE));
}

#[test]
fn a_start_killed_anywhere_is_ended_by_the_next() {
    Victim::new("repld", START).dies_everywhere();
}

#[test]
fn a_restart_killed_anywhere_is_ended_by_the_next() {
    Victim::new("repld", RESTART).dies_everywhere();
}

#[test]
fn a_repoint_killed_anywhere_is_ended_by_the_next() {
    Victim::new("repld", REPOINT).dies_everywhere();
}

#[test]
fn a_down_killed_anywhere_is_ended_by_the_next() {
    Victim::new("repld", DOWN).dies_everywhere();
    Victim::new("repld", WIPE).dies_everywhere();
}

#[test]
fn a_rolling_upgrade_killed_on_its_way_is_ended_by_the_next() {
    Victim::new("repld", UPGRADE).dies_at_each(SAMPLE);
}

/// `REPLCTL_CRASH_POINTS_OF` takes those whose name begins so, as `redis-server, restart --all`.
#[test]
#[ignore = "takes an hour: tests/long/crash-points"]
fn every_command_killed_anywhere_is_ended_by_the_next_on_every_server() {
    let wished = std::env::var("REPLCTL_CRASH_POINTS_OF").unwrap_or_default();
    for engine in engines() {
        let go_over = if *engine == "repld" { GO_OVER_TO_VALKEY } else { GO_OVER_TO_REPLD };
        for command in [
            UP,
            UP_AGAIN,
            PROMOTE,
            PROMOTE_BY_FORCE,
            PROMOTE_FOR_A_HUNG_MASTER,
            SWITCHOVER,
            SWITCHOVER_TO_ANYBODY,
            SWITCHOVER_OF_A_CHAIN,
            START,
            RESTART,
            RESTART_ALL,
            UPGRADE,
            go_over,
            REPOINT,
            DOWN,
            WIPE,
        ] {
            let victim = Victim::new(engine, command);
            let has_its_engine =
                victim.wished_engine().is_none_or(|wished| wished == "./newer" || engines().contains(&wished));
            if has_its_engine && victim.what().starts_with(&wished) {
                victim.dies_everywhere();
            }
        }
    }
}

#[test]
fn a_guard_that_dies_in_the_middle_of_a_failover_is_finished_by_the_next_one() {
    const POINTS: [&str; 8] = [
        "recorded guard #2",
        "recorded began guard",
        "recorded step-began promote",
        "sending REPLICAOF NO",
        "sent REPLICAOF NO",
        "recorded promoted",
        "sending REPLICAOF 127.0.0.1",
        "recorded step-done confirm-links",
    ];
    for point in POINTS {
        let live = Live::prepared(&(topology("trio", "repld", &TRIO) + HOOK));
        live.here.write(TOLD, "");
        live.run(&["up", "group.toml"]).exits(0);
        let mut command = live.here.command(&["guard"]);
        command.env("REPLCTL_FAILPOINT", point);
        let mut guard = Guard::start(command);
        kill(live.pid("n1"), "KILL");
        let status = guard.0.wait().expect("it is ours");
        assert_eq!(status.signal(), Some(9), "{point}: it has ended otherwise");
        let _next = Guard::over(&live);
        live.eventually(point, || live.status()["diagnosis"]["name"] == "replicas-unreachable");
        let journal = || std::fs::read_to_string(live.state("trio").join("journal.jsonl")).expect("there is one");
        let is_finished =
            || journal().lines().rev().any(|line| line.contains("\"finished\",\"command\":\"guard\",\"error\":null"));
        live.eventually(point, is_finished);
        let told = std::fs::read_to_string(live.here.directory().join(TOLD)).expect("it is ours");
        assert!(told.starts_with("n1 to n"), "{point}: the hook was told {told:?}");
        let file = std::fs::read_to_string(live.state("trio").join("nodes/n1/node.conf")).expect("it is there");
        assert!(file.contains("\nreplicaof "), "{point}: n1 would come back as a master");
    }
}
