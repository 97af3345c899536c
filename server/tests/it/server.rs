//! Real server processes that end with their test.

use std::ffi::OsString;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use repld::config::words;
use rustix::process::{Pid, Signal, kill_process};

use crate::client::Client;

/// Nothing that a test waits for takes longer.
const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(1);
/// Another process may take a port between its choice and its use.
const ATTEMPTS: usize = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Repld,
    Redis,
    Valkey,
    Sentinel,
}

impl Kind {
    /// A server of this kind, to be configured; `None`, with a message, if it is not installed.
    pub fn server(self) -> Option<Launcher> {
        let program = match self {
            Kind::Repld => PathBuf::from(env!("CARGO_BIN_EXE_repld")),
            Kind::Redis => find("redis-server")?,
            Kind::Valkey => find("valkey-server")?,
            Kind::Sentinel => find("redis-sentinel")?,
        };
        let launcher = Launcher { program, options: Vec::new(), directives: Vec::new() };
        // Quiet and quick, unless a test wants it otherwise.
        let data = [("save", ""), ("repl-diskless-sync-delay", "0")];
        let data = data.into_iter().filter(|_| self != Kind::Sentinel);
        let directives = [("bind", "127.0.0.1"), ("loglevel", "verbose")].into_iter().chain(data);
        Some(directives.fold(launcher, |launcher, (name, value)| launcher.directive(name, value)))
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path).map(|directory| directory.join(program)).find(|file| file.is_file());
    if found.is_none() {
        assert!(
            std::env::var_os("REPLCTL_REQUIRE_PEERS").is_none(),
            "{program} is not installed, and may not be skipped"
        );
        println!("skipped: {program} is not installed");
    }
    found
}

/// A server that is not started yet.
#[derive(Clone)]
pub struct Launcher {
    program: PathBuf,
    /// Before the configuration file.
    options: Vec<OsString>,
    /// One `name value…` each; the value is already quoted where it has to be.
    directives: Vec<(String, String)>,
}

impl Launcher {
    /// Sets a directive, instead of what was said about it before. A value with blanks is several words, except for
    /// those of the text directives, which this fixture has no need of.
    pub fn directive(mut self, name: &str, value: &str) -> Launcher {
        let value = value.split(' ').map(|word| words::quote(word.as_bytes())).collect::<Vec<_>>().join(" ");
        self.directives.retain(|(other, _)| other != name);
        self.directives.push((name.to_string(), value));
        self
    }

    pub fn replica_of(self, master: &Server) -> Launcher {
        self.directive("replicaof", &format!("127.0.0.1 {}", master.port))
    }

    /// Hands out what is left of a dead repld; `place` is its directory, or its backlog file.
    pub fn salvaging(mut self, place: &Path) -> Launcher {
        self.options = vec!["--salvage".into(), place.into()];
        self
    }

    /// Starts it and waits until it answers.
    pub fn start(self) -> Server {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut server = Server { program: self.program, options: self.options, directory, port: 0, child: None };
        for _ in 0..ATTEMPTS {
            server.port = free_port();
            let dir = words::quote(server.directory().as_os_str().as_encoded_bytes());
            let others: String = self.directives.iter().map(|(name, value)| format!("{name} {value}\n")).collect();
            let text = format!("port {}\ndir {dir}\n{others}", server.port);
            fs::write(server.configuration(), text).expect("a written configuration");
            if server.spawn() {
                return server;
            }
        }
        panic!("the server does not start:\n{}", end_of(&server.log()));
    }
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("a bound address").port()
}

/// A running server, or one that was [`kill`](Server::kill)ed and can be [started again](Server::restart).
pub struct Server {
    program: PathBuf,
    options: Vec<OsString>,
    directory: tempfile::TempDir,
    port: u16,
    child: Option<Child>,
}

impl Server {
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The data directory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.port).unwrap_or_else(|error| panic!("{error}; the server's log:\n{}", end_of(&self.log())))
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory().join("log")).unwrap_or_default()
    }

    /// Its resident memory in KiB.
    pub fn resident_kib(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid().as_raw_nonzero())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// How many files and sockets it has open.
    pub fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid().as_raw_nonzero())).expect("it runs").count()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("our own child");
    }

    /// Ends it by SIGKILL; its port and its data stay for [`restart`](Server::restart).
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Waits until it has ended by itself.
    pub fn wait_for_exit(&mut self) {
        wait_until("the server ends", || self.has_exited());
        self.child = None;
    }

    /// Starts it again, with the same port, data and configuration file.
    pub fn restart(&mut self) {
        assert!(self.try_restart(), "the server does not start again:\n{}", end_of(&self.log()));
    }

    /// The same for one that may refuse to start: whether it did.
    pub fn try_restart(&mut self) -> bool {
        self.kill();
        self.spawn()
    }

    fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().expect("it runs"))
    }

    fn configuration(&self) -> PathBuf {
        self.directory().join("server.conf")
    }

    /// Whether it starts and answers; if not, it is gone.
    fn spawn(&mut self) -> bool {
        let log = File::options().append(true).create(true).open(self.directory().join("log")).expect("a log file");
        let mut command = Command::new(&self.program);
        command.args(&self.options).arg(self.configuration()).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a second handle")).stderr(log);
        self.child = Some(command.spawn().expect("an executable program"));
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline && !self.has_exited() {
            // What answers must still be this child, and not a stranger on its port.
            if self.answers() && !self.has_exited() {
                return true;
            }
            std::thread::sleep(POLL);
        }
        self.kill();
        false
    }

    fn has_exited(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().expect("our own child").is_some())
    }

    fn answers(&self) -> bool {
        let Ok(mut client) = Client::connect(self.port) else { return false };
        let reply = client.send(b"PING\r\n").and_then(|()| client.reply());
        reply.is_ok_and(|reply| reply.starts_with(b"+PONG") || reply.starts_with(b"-NOAUTH"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            println!("the end of the log of the server on port {}:\n{}", self.port, end_of(&self.log()));
        }
    }
}

fn end_of(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// Waits for a condition, and fails the test if it does not come true.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(POLL);
    }
}
