//! Servers that a test starts by itself, as somebody would who does not use replctl; ended when dropped.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::Value;

/// Longest wait for anything that must happen.
const LIMIT: Duration = Duration::from_secs(30);
/// Another process may take a port between its choice and its use.
const ATTEMPTS: usize = 5;

/// One server of an engine, with a directory and a configuration file of its own.
pub struct Server {
    pub host: &'static str,
    pub port: u16,
    engine: &'static str,
    directory: PathBuf,
    password: Option<&'static str>,
    process: Child,
}

impl Server {
    /// Starts a server in a directory below `root`; `directives` are lines of its configuration file.
    pub fn start(root: &Path, engine: &'static str, directives: &[&str]) -> Self {
        for _ in 0..ATTEMPTS {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
            let port = listener.local_addr().expect("an address").port();
            drop(listener);
            if let Some(server) = Self::start_at(root, engine, ("127.0.0.1", port), directives) {
                return server;
            }
        }
        panic!("no {engine} starts");
    }

    /// Starts a server on an address; `None`: somebody else has it.
    pub fn start_at(
        root: &Path,
        engine: &'static str,
        (host, port): (&'static str, u16),
        directives: &[&str],
    ) -> Option<Self> {
        let directory = root.join(format!("by-hand-{host}-{port}"));
        std::fs::create_dir(&directory).expect("a data directory");
        let mut text = format!(
            "bind {host}\nport {port}\nrepl-diskless-sync-delay 0\nrepl-backlog-size 16mb\nsave \"\"\n\
             replica-announce-ip {host}\n"
        );
        directives.iter().for_each(|line| text += &format!("{line}\n"));
        std::fs::write(directory.join("server.conf"), text).expect("written");
        let password = directives.iter().find_map(|line| line.strip_prefix("requirepass "));
        let password = password.map(|password| &*password.to_owned().leak());
        let process = spawn(engine, &directory);
        let mut server = Self { host, port, engine, directory, password, process };
        server.answers().then_some(server)
    }

    /// A server and its replicas, linked; `engines` has one for each.
    pub fn star(root: &Path, engines: &[&'static str], directives: &[&str]) -> Vec<Self> {
        let servers: Vec<Self> = engines.iter().map(|engine| Self::start(root, engine, directives)).collect();
        for replica in &servers[1..] {
            replica.follow(&servers[0]);
        }
        servers
    }

    /// Lets it follow another one, and waits until it does.
    pub fn follow(&self, upstream: &Server) {
        self.ask(&["REPLICAOF", upstream.host, &upstream.port.to_string()]);
        eventually("a link", || self.info("master_link_status").as_deref() == Some("up"));
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill().and_then(|()| self.process.wait().map(drop)).expect("it is ours");
    }

    /// Starts it again after a kill, as its supervisor would: with the same configuration file.
    pub fn start_again(&mut self) {
        self.process = spawn(self.engine, &self.directory);
        assert!(self.answers(), "{} does not come back on port {}", self.engine, self.port);
    }

    /// Ends it and starts it again without its data.
    pub fn come_back_empty(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        for entry in std::fs::read_dir(&self.directory).expect("its directory").flatten() {
            if entry.file_name() != "server.conf" {
                let _ = std::fs::remove_file(entry.path());
            }
        }
        self.start_again();
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn is_running(&mut self) -> bool {
        self.process.try_wait().expect("it is ours").is_none()
    }

    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The reply to a command; an error reply is one of its kind.
    pub fn try_ask(&self, command: &[&str]) -> redis::RedisResult<Value> {
        let password = self.password.map_or_else(String::new, |password| format!(":{password}@"));
        let client = redis::Client::open(format!("redis://{password}{}:{}/", self.host, self.port))?;
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(5))?;
        connection.set_read_timeout(Some(Duration::from_secs(5)))?;
        redis::cmd(command[0]).arg(&command[1..]).query(&mut connection)
    }

    #[track_caller]
    pub fn ask(&self, command: &[&str]) -> Value {
        self.try_ask(command).unwrap_or_else(|error| panic!("{command:?} on port {}: {error}", self.port))
    }

    #[track_caller]
    pub fn text(&self, command: &[&str]) -> Option<String> {
        redis::from_redis_value(self.ask(command)).expect("text")
    }

    /// A field of INFO.
    pub fn info(&self, field: &str) -> Option<String> {
        let info: String = redis::from_redis_value(self.try_ask(&["INFO"]).ok()?).ok()?;
        info.lines().find_map(|line| Some(line.strip_prefix(field)?.strip_prefix(':')?.trim_end().to_owned()))
    }

    /// Its role, and the port of the server that it follows.
    pub fn role(&self) -> (String, Option<u16>) {
        let port = self.info("master_port").and_then(|port| port.parse().ok());
        (self.info("role").unwrap_or_default(), port)
    }

    fn answers(&mut self) -> bool {
        let deadline = Instant::now() + LIMIT;
        while self.is_running() && Instant::now() < deadline {
            if self.info("loading").as_deref() == Some("0") && self.info("process_id") == Some(self.pid().to_string()) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        false
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended, which is what was wanted.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(engine: &str, directory: &Path) -> Child {
    let mut command = match engine {
        "repld" => {
            let mut command = Command::new(env!("CARGO_BIN_EXE_replctl"));
            command.arg("serve");
            command
        }
        program => Command::new(program),
    };
    let log = File::options().create(true).append(true).open(directory.join("log")).expect("a log");
    let err = log.try_clone().expect("a log");
    command.arg("server.conf").current_dir(directory).stdin(Stdio::null()).stdout(log).stderr(err);
    command.spawn().expect("it runs")
}

/// Waits until something holds.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "not in {} s: {what}", LIMIT.as_secs());
        std::thread::sleep(Duration::from_millis(5));
    }
}
