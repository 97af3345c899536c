//! Groups of real processes for the tests: started in a fixture, ended when dropped, whatever happens.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{Fixture, Run};

/// Longest wait for anything that must happen.
const LIMIT: Duration = Duration::from_secs(30);

/// The engines that every test of a group runs on: repld always, the others where they are installed. Where
/// `REPLCTL_REQUIRE_PEERS` is set, all must be.
pub fn engines() -> &'static [&'static str] {
    static ENGINES: OnceLock<Vec<&'static str>> = OnceLock::new();
    ENGINES.get_or_init(|| {
        let is_there = |engine: &&str| {
            let found = *engine == "repld" || on_path(engine);
            if !found {
                assert!(std::env::var_os("REPLCTL_REQUIRE_PEERS").is_none(), "{engine} is required and not installed");
                eprintln!("skipped: {engine} is not installed");
            }
            found
        };
        ["repld", "redis-server", "valkey-server"].into_iter().filter(is_there).collect()
    })
}

pub fn on_path(program: &str) -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|dir| dir.join(program).is_file())
}

/// A topology of `engine`: `nodes` are lines of `name` or `name<upstream`, each with what follows it as TOML.
pub fn topology(name: &str, engine: &str, nodes: &[(&str, &str)]) -> String {
    let mut text = format!("name = \"{name}\"\n[defaults]\nengine = \"{engine}\"\n");
    for (node, rest) in nodes {
        let (node, upstream) = node.split_once('<').unwrap_or((node, ""));
        text += &format!("[[node]]\nname = \"{node}\"\n{rest}\n");
        if !upstream.is_empty() {
            text += &format!("replica-of = \"{upstream}\"\n");
        }
    }
    text
}

/// n1 with the replicas n2 and n3.
pub const TRIO: [(&str, &str); 3] = [("n1", ""), ("n2<n1", ""), ("n3<n1", "")];

/// A group that was started in a fixture of its own.
pub struct Live {
    pub here: Fixture,
}

impl Live {
    /// A fixture with `group.toml`, of which nothing runs yet.
    pub fn prepared(topology: &str) -> Self {
        let here = Fixture::new();
        here.write("group.toml", topology);
        Self { here }
    }

    /// A group that is up.
    pub fn up(topology: &str) -> Self {
        let live = Self::prepared(topology);
        live.run(&["up", "group.toml"]).exits(0);
        live
    }

    /// n1 with the replicas n2 and n3, up.
    pub fn trio(engine: &str) -> Self {
        Self::up(&self::topology("trio", engine, &TRIO))
    }

    pub fn run(&self, arguments: &[&str]) -> Run {
        self.here.run(arguments)
    }

    pub fn json(&self, arguments: &[&str], code: i32) -> Value {
        let mut with_json = vec!["--json"];
        with_json.extend(arguments);
        self.run(&with_json).exits(code).json()
    }

    /// `status --json`, whatever its exit code.
    pub fn status(&self) -> Value {
        self.run(&["status", "--json"]).json()
    }

    /// The entry of a node in `status --json`.
    pub fn node(&self, name: &str) -> Value {
        let status = self.status();
        let nodes = status["nodes"].as_array().expect("nodes are a list");
        nodes.iter().find(|node| node["name"] == name).unwrap_or_else(|| panic!("no {name} in {status}")).clone()
    }

    pub fn pid(&self, name: &str) -> u32 {
        let node = self.node(name);
        let pid = node["process"]["pid"].as_u64().unwrap_or_else(|| panic!("{name} has no process: {node}"));
        u32::try_from(pid).expect("a pid")
    }

    pub fn port(&self, name: &str) -> u16 {
        u16::try_from(self.node(name)["port"].as_u64().expect("a port")).expect("a port")
    }

    /// The reply of a node to a command, as `cli --json` tells it.
    pub fn ask(&self, node: &str, command: &[&str]) -> Value {
        let mut arguments = vec!["--json", "cli", node];
        arguments.extend(command);
        self.run(&arguments).json()["reply"].clone()
    }

    /// `ROLE`'s first word, and the upstream's port of a replica.
    pub fn role(&self, node: &str) -> (String, Option<u16>) {
        let role = self.ask(node, &["ROLE"]);
        let port = role[2].as_u64().and_then(|port| u16::try_from(port).ok()).filter(|_| role[0] == "slave");
        (role[0].as_str().unwrap_or_else(|| panic!("{node}: {role}")).to_owned(), port)
    }

    /// Waits until something holds.
    #[track_caller]
    pub fn eventually(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !holds() {
            assert!(Instant::now() < deadline, "not in {} s: {what}\n{}", LIMIT.as_secs(), self.status());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until a replica holds a key's value.
    #[track_caller]
    pub fn arrives(&self, node: &str, key: &str, value: &str) {
        self.eventually(&format!("{key} = {value} on {node}"), || self.ask(node, &["GET", key]) == value);
    }

    /// Writes as many keys to a node, in a few commands.
    pub fn fill(&self, node: &str, keys: usize) {
        const BATCH: usize = 1000;
        for from in (0..keys).step_by(BATCH) {
            let pairs = (from..keys.min(from + BATCH)).flat_map(|key| [format!("key:{key}"), "x".to_owned()]);
            let words: Vec<String> = std::iter::once("MSET".to_owned()).chain(pairs).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            assert_eq!(self.ask(node, &words), "OK");
        }
    }

    /// Takes away what a node has on disk, but for its configuration.
    pub fn wipe(&self, group: &str, node: &str) {
        let entries = std::fs::read_dir(self.state(group).join("nodes").join(node)).expect("it is there");
        for path in entries.flatten().map(|entry| entry.path()).filter(|path| !path.ends_with("node.conf")) {
            if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.expect("it is ours");
        }
    }

    /// Starts a node's server on its configuration file, as somebody would who does not know replctl. It ends with the fixture.
    pub fn start_by_hand(&self, group: &str, node: &str, engine: &str) -> std::process::Child {
        let program = if engine == "repld" { env!("CARGO_BIN_EXE_replctl") } else { engine };
        let mut command = std::process::Command::new(program);
        command.args((engine == "repld").then_some("serve")).arg("node.conf");
        command.current_dir(self.state(group).join("nodes").join(node)).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().expect("it starts");
        self.eventually("it has the port", || self.node(node)["answer"]["stranger"].is_object());
        child
    }

    /// The state directory of the group `name`.
    pub fn state(&self, name: &str) -> PathBuf {
        self.here.root.path().join("state").join(name)
    }

    /// Waits until no process works in this fixture.
    #[track_caller]
    pub fn eventually_gone(&self) {
        let deadline = Instant::now() + LIMIT;
        while !self.processes().is_empty() {
            assert!(Instant::now() < deadline, "something is left behind");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The living processes that work in this fixture.
    pub fn processes(&self) -> Vec<u32> {
        let root = self.here.root.path().canonicalize().expect("the fixture is there");
        let pids = std::fs::read_dir("/proc").expect("/proc").flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&root)))
            .collect()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        for pid in self.processes() {
            kill(pid, "KILL");
        }
    }
}

/// Sends a signal to a process of this test.
pub fn kill(pid: u32, signal: &str) {
    let pid = pid.to_string();
    let _ = std::process::Command::new("kill").args(["-s", signal, &pid]).status();
}

/// Clients that write keys of their own without a pause, and go on to another node when one refuses.
pub struct Writers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Writers {
    /// `count` of them, on whichever of `ports` takes writes.
    pub fn start(count: usize, ports: &[u16]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let write = |writer: usize| {
            let (stop, ports) = (Arc::clone(&stop), ports.to_vec());
            std::thread::spawn(move || {
                let mut acknowledged = Vec::new();
                for attempt in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    // Whatever ends it, a refusal or a broken connection, the next node is asked.
                    let _ = write_to(ports[attempt % ports.len()], writer, &stop, &mut acknowledged);
                }
                acknowledged
            })
        };
        Self { threads: (0..count).map(write).collect(), stop }
    }

    /// Ends them; returns the keys whose writes were acknowledged.
    pub fn finish(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().flat_map(|thread| thread.join().expect("a writer does not panic")).collect()
    }
}

fn write_to(port: u16, writer: usize, stop: &AtomicBool, acknowledged: &mut Vec<String>) -> std::io::Result<()> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    // A request that is held back for longer is given up: whether it was done is not known then.
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut answers = BufReader::new(stream.try_clone()?);
    let mut requests = stream;
    while !stop.load(Ordering::Relaxed) {
        let key = format!("w{writer}:{}", acknowledged.len());
        write!(requests, "SET {key} x\r\n")?;
        let mut answer = String::new();
        answers.read_line(&mut answer)?;
        if answer != "+OK\r\n" {
            return Ok(());
        }
        acknowledged.push(key);
    }
    Ok(())
}
