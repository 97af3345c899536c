//! A place for a group that nobody will come back to: with it go the group's processes and files.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};

use super::GroupError;
use crate::process::{Condition, GroupDir, ProcessIdentity, StateDir, launched};

/// How long killed processes may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// A state directory of its own for one group, in the directory for temporary files. When it is dropped, every process that was
/// started in it is killed and everything in it is removed, also while a panic unwinds. Only the end of this very process by a
/// signal leaves them behind.
#[derive(Debug)]
pub struct Ephemeral {
    home: tempfile::TempDir,
    dir: GroupDir,
}

impl Ephemeral {
    /// A place for the group `name`.
    ///
    /// # Errors
    /// There is no place for temporary files, or this cannot be a group's name.
    pub fn new(name: &str) -> Result<Self, GroupError> {
        let home = tempfile::Builder::new().prefix("replctl-").tempdir()?;
        let dir = StateDir::new(home.path()).group(name)?;
        Ok(Self { home, dir })
    }

    /// The group's directory.
    pub fn dir(&self) -> &GroupDir {
        &self.dir
    }

    /// The state directory, as `--state-dir` takes it.
    pub fn state_dir(&self) -> &Path {
        self.home.path()
    }
}

impl Ephemeral {
    /// Ends the processes, and leaves the files.
    pub fn end(&self) {
        // Nobody could be told of an error, and what is left is found by its directory.
        let _ = end_at_once(&self.dir);
    }
}

impl Drop for Ephemeral {
    fn drop(&mut self) {
        self.end();
    }
}

/// Kills every process that was started as a node of a group, and waits for their ends. Needs no event loop.
fn end_at_once(dir: &GroupDir) -> io::Result<()> {
    let give_up = Instant::now() + KILL_LIMIT;
    loop {
        let living = launched(dir)?;
        if living.is_empty() || Instant::now() > give_up {
            return Ok(());
        }
        for (_, identity) in &living {
            kill(identity)?;
        }
    }
}

fn kill(identity: &ProcessIdentity) -> io::Result<()> {
    let Some(pid) = identity.raw() else { return Ok(()) };
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(Errno::SRCH) => return Ok(()),
        pidfd => pidfd?,
    };
    if identity.condition()? == Condition::Dead {
        return Ok(());
    }
    let _ = pidfd_send_signal(&pidfd, Signal::KILL);
    let limit = Timespec { tv_sec: KILL_LIMIT.as_secs().cast_signed(), tv_nsec: 0 };
    poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit))?;
    reap(identity);
    Ok(())
}

/// Takes note of the end of a child of this process, if it has ended: until then it is a zombie. Whoever else has its pid now is
/// left alone.
pub fn reap(identity: &ProcessIdentity) {
    let pidfd = identity.raw().and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    if let Some(pidfd) = pidfd
        && ProcessIdentity::of_child(identity.pid).is_ok_and(|now| now == *identity)
    {
        // ECHILD: another process has started it.
        let _ = waitid(WaitId::PidFd(std::os::fd::AsFd::as_fd(&pidfd)), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }
}
