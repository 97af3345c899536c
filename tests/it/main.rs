//! End-to-end tests of `replctl`: the real program, one module per behaviour.

mod adopt;
mod busy;
mod by_hand;
mod check;
mod cli;
#[cfg(feature = "failpoints")]
mod crash;
mod damage;
mod drill;
mod eligibility;
mod empty_master;
mod forks;
mod guard;
mod link;
mod live;
mod nodes;
mod promote;
mod rolling;
mod run;
mod salvage;
mod sentinel;
mod sentinel_disaster;
mod servers;
mod status;
mod switchover;
mod tail;
mod up;
mod zombie;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A place to run replctl in: its own working directory and its own state directory, gone when dropped.
struct Fixture {
    root: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let fixture = Self { root: tempfile::tempdir().expect("a temporary directory") };
        std::fs::create_dir(fixture.directory()).expect("a working directory");
        fixture
    }

    /// The working directory.
    fn directory(&self) -> PathBuf {
        self.root.path().join("here")
    }

    /// Writes a file into the working directory.
    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> &Self {
        std::fs::write(self.directory().join(name), text).expect("written");
        self
    }

    /// replctl, undisturbed by the environment of the one who runs the tests.
    fn command<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_replctl"));
        command.args(arguments).current_dir(self.directory()).stdin(Stdio::null());
        command.env("REPLCTL_STATE_DIR", self.root.path().join("state"));
        for variable in ["REPLCTL_GROUP", "COMPLETE", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
            command.env_remove(variable);
        }
        command
    }

    /// Runs replctl to its end.
    fn run<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Run {
        Run::from(self.command(arguments).output().expect("replctl runs"))
    }
}

/// What a run of replctl left.
#[derive(Debug)]
struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("stdout is text"),
            stderr: String::from_utf8(output.stderr).expect("stderr is text"),
        }
    }
}

impl Run {
    /// Asserts how it ended.
    #[track_caller]
    fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Its stdout, which is one JSON object and a newline.
    #[track_caller]
    fn json(&self) -> serde_json::Value {
        assert_eq!(self.stdout.matches('\n').count(), 1, "one line: {}", self.stdout);
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }
}

/// The topologies that ship.
fn shipped() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("topologies");
    let entries = std::fs::read_dir(directory).expect("topologies/ is there");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths
}
