//! `run`: a command has a group of its own for as long as it runs, whatever ends either.

use std::process::Stdio;
use std::time::Instant;

use crate::live::{Live, TRIO, kill, topology};

fn prepared() -> Live {
    Live::prepared(&topology("own", "repld", &TRIO))
}

/// Runs a shell's command with a group, in the fixture's own place for temporary files.
fn run(live: &Live, arguments: &[&str]) -> crate::Run {
    let mut command = live.here.command(arguments);
    let run = crate::Run::from(command.env("TMPDIR", live.here.root.path()).output().expect("replctl runs"));
    assert!(live.processes().is_empty(), "something is left behind");
    let is_left = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with("replctl-");
    assert_eq!(std::fs::read_dir(live.here.root.path()).expect("it is there").flatten().filter(is_left).count(), 0);
    run
}

#[test]
fn a_command_finds_its_group_in_the_environment_and_can_break_it() {
    let live = prepared();
    let script = r#"
        test "$REPLCTL_MASTER_URL" = "$REPLCTL_NODE_N1_URL" && test "$REPLCTL_NODE_N2_URL" != "$REPLCTL_NODE_N3_URL" &&
        "$0" -q kill-master >/dev/null && "$0" -q promote >/dev/null &&
        echo "$REPLCTL_NODE_N1_URL" && "$0" cli n2 set a b || "$0" cli n3 set a b"#;
    let replctl = env!("CARGO_BIN_EXE_replctl");
    let run = run(&live, &["run", "group.toml", "--", "sh", "-c", script, replctl]).exits(0);
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert!(lines[0].starts_with("redis://127.0.0.1:") && lines.last() == Some(&"OK"), "{run:?}");
}

#[test]
fn the_url_has_the_password_as_a_url_has_it() {
    let text = "name = \"own\"\n[[node]]\nname = \"n-1\"\nconfig = { requirepass = \"a/b@c\" }\n";
    let live = Live::prepared(text);
    let run = run(&live, &["run", "group.toml", "--", "sh", "-c", "echo $REPLCTL_NODE_N_1_URL"]).exits(0);
    assert!(run.stdout.starts_with("redis://:a%2Fb%40c@127.0.0.1:"), "{run:?}");
}

#[test]
fn the_commands_own_end_is_passed_on() {
    let live = prepared();
    run(&live, &["run", "group.toml", "--", "sh", "-c", "exit 42"]).exits(42);
    run(&live, &["run", "group.toml", "--", "sh", "-c", "kill -KILL $$"]).exits(137);
    assert!(run(&live, &["run", "group.toml", "--", "no-such-command"]).exits(127).stderr.contains("no-such-command"));
    run(&live, &["run", "group.toml", "--", "/"]).exits(126);
    run(&live, &["run", "group.toml"]).exits(2);
    live.here.write("far.toml", "[[node]]\nname = 'n1'\nmanaged = false\nendpoint = '127.0.0.1:1'\n");
    run(&live, &["run", "far.toml", "--", "true"]).exits(3);
}

#[test]
fn a_signal_reaches_the_command_and_the_group_ends_with_it() {
    for (signal, code) in [("INT", 7), ("TERM", 7), ("HUP", 7)] {
        let live = prepared();
        let script = format!("trap 'exit 7' {signal}; touch started; while :; do sleep 0.01; done");
        let mut command = live.here.command(&["run", "group.toml", "--", "sh", "-c", &script]);
        command.env("TMPDIR", live.here.root.path()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("replctl runs");
        let began = Instant::now();
        while !live.here.directory().join("started").exists() {
            assert!(began.elapsed().as_secs() < 30, "the command is not started");
        }
        kill(child.id(), signal);
        assert_eq!(child.wait().expect("it is ours").code(), Some(code), "{signal}");
        live.eventually_gone();
    }
}

#[test]
fn a_signal_while_the_group_starts_leaves_nothing() {
    let live = prepared();
    let mut command = live.here.command(&["run", "group.toml", "--", "sleep", "100"]);
    command.env("TMPDIR", live.here.root.path()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("replctl runs");
    let began = Instant::now();
    while live.processes().iter().filter(|pid| **pid != child.id()).count() < 1 {
        assert!(began.elapsed().as_secs() < 30, "nothing is started");
    }
    kill(child.id(), "TERM");
    assert!(child.wait().expect("it is ours").code() != Some(0));
    live.eventually_gone();
}
