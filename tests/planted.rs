//! The positive control of drills: a drill that passes fails when a bug is planted in `replctl` or in repld.
#![cfg(feature = "planted-bugs")]

use std::process::Command;

use serde_json::Value;

/// Three nodes, of which the first replica is preferred where both have the same. Masters ping them every second.
const GROUP: &str = "
    [defaults]
    config = { repl-ping-replica-period = '1' }
    [[node]]
    name = 'n1'
    [[node]]
    name = 'n2'
    replica-of = 'n1'
    priority = 1
    [[node]]
    name = 'n3'
    replica-of = 'n1'
";

/// A drill that passes, and the bug that it finds, by the variable that plants it.
struct Control {
    engine: &'static str,
    drill: &'static str,
    bug: (&'static str, &'static str),
}

const REPLCTL: &str = "REPLCTL_PLANTED_BUG";
const REPLD: &str = "REPLD_PLANTED_BUG";

/// Those that show at once.
const QUICK: [Control; 4] = [
    Control {
        engine: "repld",
        drill: "
            steps = [{ do = 'link cut replicas' }, { after = '300ms', do = 'kill-master' }, { do = 'promote' }]
            expect = { lost = 0 }",
        bug: (REPLCTL, "SalvageSkipped"),
    },
    // What the master has sent is still on its way when it dies. (What a repld had not sent is salvaged, and would hide it.)
    Control {
        engine: "redis-server",
        drill: "
            load = { writers = 4, rate = 100 }
            steps = [{ do = 'link slow replicas --latency 300ms' }, { after = '800ms', do = 'kill-master' }, { do = 'promote' }]
            expect = { lost = 0 }",
        bug: (REPLCTL, "DrainSkipped"),
    },
    Control {
        engine: "repld",
        drill: "
            steps = [{ after = '200ms', do = 'switchover' }]
            expect = { lost = 0, resync = 'partial' }",
        bug: (REPLD, "SecondOffsetOffByOne"),
    },
    Control {
        engine: "repld",
        drill: "
            steps = [{ after = '2s', do = 'kill n3' }, { do = 'start n3' }]
            expect = { lost = 0 }",
        bug: (REPLD, "PingNotCounted"),
    },
];

/// Those that show when somebody has waited in vain for half a minute.
const SLOW: [Control; 4] = [
    Control {
        engine: "repld",
        drill: "
            steps = [{ after = '200ms', do = 'kill-master' }, { do = 'promote' }]
            expect = { lost = 0 }",
        bug: (REPLCTL, "RepointForgotten"),
    },
    Control {
        engine: "repld",
        drill: "
            steps = [{ after = '200ms', do = 'pause master' }, { after = '200ms', do = 'promote' }, { do = 'start old-master' }]
            expect = { lost = 0 }",
        bug: (REPLCTL, "FenceSkipped"),
    },
    // Acknowledged is what one replica has: that is never the preferred one, which gets nothing.
    Control {
        engine: "redis-server",
        drill: "
            load = { wait = 1 }
            steps = [{ do = 'link half-open n2' }, { after = '300ms', do = 'kill-master' }, { do = 'promote' }]
            expect = { lost = 0 }",
        bug: (REPLCTL, "PriorityFirst"),
    },
    Control {
        engine: "redis-server",
        drill: "
            steps = [{ after = '200ms', do = 'switchover' }, { after = '200ms', do = 'switchover old-master' }]
            expect = { lost = 0 }",
        bug: (REPLCTL, "UnpauseForgotten"),
    },
];

/// Does the control's drill with this bug, or none; the exit code and the report.
fn rehearse(control: &Control, bug: Option<(&str, &str)>) -> (Option<i32>, Value) {
    let home = tempfile::tempdir().expect("a place for the group");
    let topology = home.path().join("group.toml");
    let text = format!("{GROUP}[[drill]]\nname = 'control'\n{}\n", control.drill);
    std::fs::write(&topology, text).expect("the directory is ours");
    let mut command = Command::new(env!("CARGO_BIN_EXE_replctl"));
    command.args(["--json", "drill", "--engine", control.engine]).arg(topology);
    let output = command.env("TMPDIR", home.path()).envs(bug).output().expect("replctl runs");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    (output.status.code(), report["drills"][0].clone())
}

fn finds(controls: &[Control]) {
    for control in controls {
        let (code, report) = rehearse(control, None);
        assert_eq!(code, Some(0), "without a bug: {}{report}", control.drill);
        let (_, bug) = control.bug;
        let (code, report) = rehearse(control, Some(control.bug));
        assert_eq!(code, Some(6), "{bug} is not found by {}{report}", control.drill);
        println!("{bug} is found: {}", report["reasons"][0]);
    }
}

#[test]
fn drills_find_planted_bugs() {
    finds(&QUICK);
}

#[test]
#[ignore = "takes minutes: tests/long/planted-bugs"]
fn drills_find_planted_bugs_that_let_them_wait() {
    finds(&SLOW);
}
