//! Starting a server: its configuration file, its log, its own session.
//!
//! The file is ours and is written anew before every start and after every change of role, so that a restart, by whomever,
//! comes back in the right role. Secrets stand in the file (0600) and never in argv.
//!
//! ```text
//! replica-priority 100        from the topology, and what makes replication quick
//! maxmemory 100mb             the topology's own directives, as they are
//! port 6380                   last, since the later line wins: what replctl relies on
//! replicaof 127.0.0.1 6379
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::engine::Program;
use super::identity::ProcessIdentity;
use super::state::GroupDir;
use crate::topology::{EngineFamily, Node};

/// Directives that make a link come up in milliseconds, and whose price nobody pays on one machine.
/// Without the first, a full sync waits five seconds for other replicas to join it.
const REDIS_TUNING: [(&str, &str); 1] = [("repl-diskless-sync-delay", "0")];

/// What a node's configuration file says beyond its topology entry.
#[derive(Debug, Clone, Copy)]
pub struct Placement<'a> {
    /// The node's port.
    pub port: u16,
    /// The port of the node it follows; `None` for the master.
    pub upstream_port: Option<u16>,
    /// The password that its upstream asks for.
    pub upstream_password: Option<&'a str>,
}

/// The text of a node's configuration file.
pub fn render_config(node: &Node, placement: Placement<'_>) -> String {
    let mut text = format!("# Node {} of a replctl group. Written by replctl before every start.\n", node.name);
    let mut line = |directive: &str, value: &str| {
        text.push_str(directive);
        text.push(' ');
        text.push_str(value);
        text.push('\n');
    };
    line("bind", "127.0.0.1");
    line("replica-priority", &node.priority.to_string());
    if node.engine.family != EngineFamily::Repld {
        for (directive, value) in REDIS_TUNING {
            line(directive, value);
        }
    }
    if let Some(password) = placement.upstream_password {
        line("masterauth", &quoted(password));
    }
    for (directive, value) in &node.config {
        line(directive, &argument_text(directive, value));
    }
    line("daemonize", "no");
    line("logfile", "\"\"");
    line("dir", ".");
    line("port", &placement.port.to_string());
    if let Some(port) = placement.upstream_port {
        line("replicaof", &format!("127.0.0.1 {port}"));
    }
    text
}

/// A directive's value as it stands in the file. Most may be several arguments (`save = "900 1"`) and stay as they are;
/// a secret is one argument, whatever it contains.
fn argument_text(directive: &str, value: &str) -> String {
    let is_secret = ["requirepass", "masterauth", "masteruser"].contains(&directive.to_ascii_lowercase().as_str());
    if is_secret || value.is_empty() || value.bytes().any(|byte| byte.is_ascii_control()) {
        quoted(value)
    } else {
        value.to_owned()
    }
}

/// One argument in double quotes, with the escapes that redis.conf knows.
fn quoted(value: &str) -> String {
    let mut text = String::from("\"");
    for byte in value.bytes() {
        match byte {
            b'"' | b'\\' => text.extend(['\\', byte as char]),
            b' '..=b'~' => text.push(byte as char),
            _ => text.push_str(&format!("\\x{byte:02x}")),
        }
    }
    text.push('"');
    text
}

/// A server that this process started. It is not ended when this is dropped: servers outlive the tool.
#[derive(Debug)]
pub struct Started {
    child: Child,
    /// The process, as it is to be remembered.
    pub identity: ProcessIdentity,
}

impl Started {
    /// How it ended, in words, once it has.
    pub fn exit_words(&mut self) -> String {
        match self.child.try_wait() {
            Ok(Some(status)) => status.to_string(),
            _ => "unknown status".to_owned(),
        }
    }
}

/// Starts a node's server on the configuration file that lies in its directory.
///
/// # Errors
/// The program cannot be executed, or the log cannot be opened.
pub fn spawn(program: &Program, group: &GroupDir, node: &str) -> io::Result<Started> {
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(group.log_file(node))?;
    let mut command = Command::new(&program.path);
    command
        .args(program.leading_args)
        .arg(group.config_file(node))
        .current_dir(group.node_dir(node))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; setsid(2) is one, and it is the only one.
    unsafe {
        command.pre_exec(|| rustix::process::setsid().map(drop).map_err(io::Error::from));
    }
    let child = command.spawn()?;
    // Unreaped, the child keeps its pid even if it has died already, so this reads no stranger's entry.
    let identity = ProcessIdentity::of_child(child.id())?;
    Ok(Started { child, identity })
}

/// The last `lines` lines of a log, for quoting; empty if there is none.
pub fn log_tail(path: &Path, lines: usize) -> Vec<String> {
    const BYTES_MAX: u64 = 16 << 10;
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(BYTES_MAX)))?;
        let mut bytes = Vec::new();
        file.take(BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    all[all.len().saturating_sub(lines)..].iter().map(|line| (*line).to_owned()).collect()
}

/// The length of a log in bytes, as a mark from which later lines are read.
pub fn log_length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Engine;

    fn node(family: EngineFamily, config: &[(&str, &str)]) -> Node {
        Node {
            name: "n2".to_owned(),
            port: None,
            engine: Engine { family, path: None },
            replica_of: Some("n1".to_owned()),
            priority: 50,
            config: config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        }
    }

    fn lines(node: &Node, placement: Placement<'_>) -> Vec<String> {
        render_config(node, placement).lines().map(str::to_owned).collect()
    }

    const REPLICA: Placement<'_> = Placement { port: 6380, upstream_port: Some(6379), upstream_password: None };

    #[test]
    fn what_replctl_relies_on_stands_after_the_users_directives() {
        let lines = lines(&node(EngineFamily::Repld, &[("port", "1"), ("dir", "/tmp"), ("save", "900 1")]), REPLICA);
        let last = |directive: &str| lines.iter().rev().find(|line| line.starts_with(directive)).cloned();
        assert_eq!(last("port").as_deref(), Some("port 6380"));
        assert_eq!(last("dir").as_deref(), Some("dir ."));
        assert_eq!(last("replicaof").as_deref(), Some("replicaof 127.0.0.1 6379"));
        assert_eq!(last("save").as_deref(), Some("save 900 1"));
    }

    #[test]
    fn the_topology_may_untune_redis() {
        let lines = lines(&node(EngineFamily::Redis, &[("repl-diskless-sync-delay", "5")]), REPLICA);
        let delays: Vec<_> = lines.iter().filter(|line| line.starts_with("repl-diskless-sync-delay")).collect();
        assert_eq!(delays, ["repl-diskless-sync-delay 0", "repl-diskless-sync-delay 5"]);
    }

    #[test]
    fn a_master_has_no_upstream_line() {
        let placement = Placement { port: 6379, upstream_port: None, upstream_password: None };
        assert!(!render_config(&node(EngineFamily::Redis, &[]), placement).contains("replicaof"));
    }

    #[test]
    fn a_secret_is_one_argument_whatever_it_contains() {
        let lines = lines(&node(EngineFamily::Redis, &[("requirepass", "a \"b\"\\\n"), ("save", "")]), REPLICA);
        assert!(lines.contains(&r#"requirepass "a \"b\"\\\x0a""#.to_owned()), "{lines:?}");
        assert!(lines.contains(&r#"save """#.to_owned()), "{lines:?}");
    }

    #[test]
    fn the_tail_of_a_log_is_its_last_lines() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("log");
        assert_eq!(log_tail(&path, 2), Vec::<String>::new());
        fs::write(&path, "one\n\ntwo\nthree").expect("the directory is ours");
        assert_eq!(log_tail(&path, 2), ["two", "three"]);
    }
}
