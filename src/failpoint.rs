//! Places at which a test lets this program be killed. With the feature `failpoints`, which only tests switch on:
//!
//! ```text
//! REPLCTL_FAILPOINT_TRACE=FILE   every point that is passed is appended to FILE, one name a line
//! REPLCTL_FAILPOINT=NAME         the process kills itself, by SIGKILL, when it passes the point NAME
//! ```
//!
//! A point that is passed again gets a number: `saving run.json`, `saving run.json #2`. So a test first traces one run of
//! a command, and then kills it at each of the points that it has seen. Without the feature there is none of this.

/// Passes the point of this name.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn pass(_: impl FnOnce() -> String) {}

/// Passes the point of this name.
#[cfg(feature = "failpoints")]
pub fn pass(name: impl FnOnce() -> String) {
    use std::io::Write;

    let (trace, deadly) = (std::env::var_os("REPLCTL_FAILPOINT_TRACE"), std::env::var_os("REPLCTL_FAILPOINT"));
    if trace.is_none() && deadly.is_none() {
        return;
    }
    let name = numbered(name());
    if let Some(path) = trace {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
        // One write for each line: points are passed in several threads.
        let written = file.and_then(|mut file| file.write_all(format!("{name}\n").as_bytes()));
        written.expect("the test that wants a trace names a file that can be written");
    }
    if deadly.is_some_and(|deadly| *deadly == *name) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        unreachable!("SIGKILL is not survived");
    }
}

#[cfg(feature = "failpoints")]
fn numbered(name: String) -> String {
    use std::collections::BTreeMap;
    use std::sync::{Mutex, PoisonError};

    static PASSED: Mutex<BTreeMap<String, u32>> = Mutex::new(BTreeMap::new());
    let mut passed = PASSED.lock().unwrap_or_else(PoisonError::into_inner);
    let count = passed.entry(name.clone()).or_insert(0);
    *count += 1;
    if *count == 1 { name } else { format!("{name} #{count}") }
}
