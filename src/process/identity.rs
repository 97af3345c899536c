//! Who a process is, beyond its number: pid, start time and boot, held through a pidfd.
//!
//! A pid alone names whoever has it *now*. [`LiveProcess::open`] therefore takes a pidfd first, which pins one process,
//! and compares `/proc/PID/stat` afterwards: if the start time read after the pidfd was opened is the recorded one, the
//! pidfd holds the recorded process, since no later owner of the pid can have started in the past.
//!
//! ```text
//! /proc/4711/stat:  4711 (redis-server) S 1 4711 ... 8214605 ...
//!                    1         2        3              22: start, clock ticks since boot
//! ```
//!
//! Source: proc_pid_stat(5), pidfd_open(2). A zombie that its parent has not reaped is dead here.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// One process of one boot of this machine; never equal to another process that gets the same pid later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// The process number.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub start_ticks: u64,
    /// The kernel's id of the boot it started in.
    pub boot_id: String,
}

impl ProcessIdentity {
    /// The identity of the process that has `pid` now; `None` if there is none, or only a zombie.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn of(pid: u32) -> io::Result<Option<Self>> {
        match Stat::read(pid)? {
            Some(stat) if !stat.is_dead() => Ok(Some(Self { pid, start_ticks: stat.start_ticks, boot_id: boot_id()? })),
            _ => Ok(None),
        }
    }

    /// Its pid as the system's calls take it.
    pub fn raw(&self) -> Option<Pid> {
        i32::try_from(self.pid).ok().and_then(Pid::from_raw)
    }

    /// The identity of a child that has not been reaped, dead or alive: until then nobody else can have its pid.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn of_child(pid: u32) -> io::Result<Self> {
        let stat = Stat::read(pid)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(Self { pid, start_ticks: stat.start_ticks, boot_id: boot_id()? })
    }

    /// Whether it leads its session, as every server does that replctl has started. (`getsid(2)` says 0, and rustix panics,
    /// for a session that was begun outside of this pid namespace, as with whatever `docker exec` starts.)
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn leads_session(&self) -> io::Result<bool> {
        let stat = Stat::read(self.pid)?.filter(|stat| stat.start_ticks == self.start_ticks);
        Ok(stat.is_some_and(|stat| stat.session == self.pid))
    }

    /// The pid of the process that has forked it, or of who has adopted it; `None` if it has ended.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn parent(&self) -> io::Result<Option<u32>> {
        let stat = Stat::read(self.pid)?.filter(|stat| stat.start_ticks == self.start_ticks);
        Ok(stat.map(|stat| stat.parent))
    }

    /// What the process does at this moment.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn condition(&self) -> io::Result<Condition> {
        Ok(match Stat::read(self.pid)? {
            Some(stat) if stat.is_dead() || stat.start_ticks != self.start_ticks => Condition::Dead,
            Some(_) if boot_id()? != self.boot_id => Condition::Dead,
            Some(stat) if matches!(stat.state, b'T' | b't') => Condition::Stopped,
            Some(_) => Condition::Running,
            None => Condition::Dead,
        })
    }
}

/// What a process does at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// It runs or waits for something.
    Running,
    /// A signal (SIGSTOP) or a debugger holds it: it lives and will not answer.
    Stopped,
    /// It has ended.
    Dead,
}

/// A process that was alive when it was opened. Signals through it can reach no other process.
#[derive(Debug)]
pub struct LiveProcess {
    pidfd: AsyncFd<OwnedFd>,
    identity: ProcessIdentity,
}

impl LiveProcess {
    /// Opens the process that `identity` names; `None` if it has ended, whoever has its pid now.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The kernel has no pidfds (Linux before 5.3), or `/proc` cannot be read.
    pub fn open(identity: &ProcessIdentity) -> io::Result<Option<Self>> {
        let Some(pid) = identity.raw() else { return Ok(None) };
        let pidfd = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        if identity.condition()? == Condition::Dead {
            return Ok(None);
        }
        // SAFETY: an OwnedFd is valid, is one descriptor for its whole life, and the AsyncFd owns it.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }.map_err(io::Error::from)?;
        Ok(Some(Self { pidfd, identity: identity.clone() }))
    }

    /// Which process this is.
    pub fn identity(&self) -> &ProcessIdentity {
        &self.identity
    }

    /// Sends a signal; to a process that has ended meanwhile, nothing happens.
    ///
    /// # Errors
    /// The process belongs to another user.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits until the process has ended: the kernel makes its pidfd readable then, reaped or not.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub async fn death(&self) -> io::Result<()> {
        self.pidfd.readable().await.map(|mut ready| ready.retain_ready())
    }

    /// Waits for its death for at most `limit`; says whether it has ended.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub async fn dies_within(&self, limit: Duration) -> io::Result<bool> {
        match tokio::time::timeout(limit, self.death()).await {
            Ok(death) => death.map(|()| true),
            Err(_) => Ok(false),
        }
    }
}

/// The four fields of `/proc/PID/stat` that matter here.
struct Stat {
    state: u8,
    parent: u32,
    /// 0 if the session was begun outside of this pid namespace.
    session: u32,
    start_ticks: u64,
}

impl Stat {
    fn read(pid: u32) -> io::Result<Option<Self>> {
        match fs::read(format!("/proc/{pid}/stat")) {
            Ok(text) => Self::parse(&text)
                .map(Some)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("cannot read /proc/{pid}/stat"))),
            // ESRCH: the process ended between open and read.
            Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(3) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The command name stands in parentheses and may itself contain spaces and parentheses: fields count from the
    /// last closing one.
    fn parse(text: &[u8]) -> Option<Self> {
        let after_name = &text[text.iter().rposition(|&byte| byte == b')')? + 1..];
        let mut fields = after_name.split(|&byte| byte == b' ').filter(|field| !field.is_empty());
        let state = *fields.next()?.first()?;
        let mut number = |skipped| std::str::from_utf8(fields.nth(skipped)?).ok()?.trim().parse::<u64>().ok();
        let parent = u32::try_from(number(0)?).ok()?;
        let session = u32::try_from(number(1)?).ok()?;
        Some(Self { state, parent, session, start_ticks: number(15)? })
    }

    fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    /// A child that ends with the test, whatever happens.
    struct Sleeper(Child);

    impl Sleeper {
        fn start() -> Self {
            Self(Command::new("sleep").arg("1000").spawn().expect("every Unix has sleep"))
        }

        fn identity(&self) -> ProcessIdentity {
            ProcessIdentity::of(self.0.id()).expect("/proc is readable").expect("the child lives")
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_command_name_with_parentheses_does_not_shift_the_fields() {
        let text = b"12 (a) S (b) ) T 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 19";
        let stat = Stat::parse(text).expect("a whole line");
        assert_eq!((stat.state, stat.parent, stat.session, stat.start_ticks), (b'T', 1, 3, 777));
    }

    #[test]
    fn a_cut_stat_line_is_refused_and_does_not_panic() {
        for text in [
            &b""[..],
            b"12",
            b"12 (a)",
            b"12 (a) S",
            b"12 (a) S 1 2 3",
            b"12 (a) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 x",
        ] {
            assert!(Stat::parse(text).is_none());
        }
    }

    #[tokio::test]
    async fn a_recycled_pid_is_never_signalled() {
        let sleeper = Sleeper::start();
        let recorded_earlier =
            ProcessIdentity { start_ticks: sleeper.identity().start_ticks - 1, ..sleeper.identity() };
        let of_another_boot = ProcessIdentity { boot_id: "an earlier boot".to_owned(), ..sleeper.identity() };
        for stranger in [recorded_earlier, of_another_boot] {
            assert!(LiveProcess::open(&stranger).expect("pidfds work").is_none());
            assert_eq!(stranger.condition().expect("/proc is readable"), Condition::Dead);
        }
    }

    #[tokio::test]
    async fn a_killed_child_that_nobody_reaped_is_dead() {
        let sleeper = Sleeper::start();
        let identity = sleeper.identity();
        let process = LiveProcess::open(&identity).expect("pidfds work").expect("the child lives");
        process.signal(Signal::KILL).expect("the child is ours");
        assert!(process.dies_within(Duration::from_secs(10)).await.expect("the runtime lives"));
        assert_eq!(identity.condition().expect("/proc is readable"), Condition::Dead);
        assert!(LiveProcess::open(&identity).expect("pidfds work").is_none());
        assert_eq!(ProcessIdentity::of(identity.pid).expect("/proc is readable"), None);
    }

    #[tokio::test]
    async fn a_stopped_process_is_told_from_a_running_one() {
        let sleeper = Sleeper::start();
        let identity = sleeper.identity();
        let process = LiveProcess::open(&identity).expect("pidfds work").expect("the child lives");
        process.signal(Signal::STOP).expect("the child is ours");
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while identity.condition().expect("/proc is readable") != Condition::Stopped {
            assert!(std::time::Instant::now() < deadline, "SIGSTOP had no effect");
            tokio::task::yield_now().await;
        }
        assert!(!process.dies_within(Duration::from_millis(1)).await.expect("the runtime lives"));
    }
}
