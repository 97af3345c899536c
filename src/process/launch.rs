//! Starting a server: its configuration file, its log, its own session.
//!
//! The file is ours and is written anew before every start and after every change of role, so that a restart, by whomever,
//! comes back in the right role. Secrets stand in the file (0600) and never in argv.
//!
//! ```text
//! bind 127.0.0.1              what replctl relies on; a topology cannot set these
//! port 6380
//! replica-priority 100        from the topology's own keys
//! repl-diskless-sync-delay 0  what makes replication quick, unless
//! maxmemory 100mb             the topology's directives say otherwise: the later line wins
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
use super::state::{GroupDir, RunNode};

/// Directives that make a link come up in milliseconds, and whose price nobody pays on one machine.
/// Without the first, a full sync waits five seconds for other replicas to join it.
const TUNING: [(&str, &str); 1] = [("repl-diskless-sync-delay", "0")];

/// The text of a node's configuration file, in which it follows `upstream`, or nobody.
///
/// The topology's directives stand as they are: their values are rows of words already. None of them is one of ours.
pub fn render_config(node: &RunNode, upstream: Option<&RunNode>) -> String {
    let mut text = format!("# Node {} of a replctl group. Written by replctl before every start.\n", node.name);
    let mut line = |directive: &str, value: &str| {
        text.push_str(&format!("{directive} {value}\n"));
    };
    line("bind", "127.0.0.1");
    line("port", &node.port.to_string());
    line("dir", ".");
    line("daemonize", "no");
    line("logfile", "\"\"");
    line("replica-priority", &node.priority.to_string());
    for (directive, value) in TUNING {
        line(directive, value);
    }
    // After a failover any node may be anybody's upstream: what a node asks of others it can also be asked for itself.
    if let Some(password) = upstream.unwrap_or(node).config.get("requirepass") {
        line("masterauth", password);
    }
    for (directive, value) in &node.config {
        line(directive, value);
    }
    if let Some(upstream) = upstream {
        line("replicaof", &format!("127.0.0.1 {}", upstream.port));
    }
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
    let text = text_since(path, 0);
    let all: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    all[all.len().saturating_sub(lines)..].iter().map(|line| (*line).to_owned()).collect()
}

/// What a log got after it was `mark` bytes long, or the end of that, if it is much; empty if it cannot be read.
pub fn text_since(path: &Path, mark: u64) -> String {
    const BYTES_MAX: u64 = 64 << 10;
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(mark.max(length.saturating_sub(BYTES_MAX))))?;
        let mut bytes = Vec::new();
        file.take(BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// The length of a log in bytes, as a mark from which later lines are read.
pub fn log_length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Engine, EngineFamily};

    fn node(family: EngineFamily, port: u16, config: &[(&str, &str)]) -> RunNode {
        RunNode {
            name: format!("n{port}"),
            wished_port: Some(port),
            port,
            engine: Engine { family, path: None },
            priority: 50,
            config: config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            wished_upstream: None,
            upstream: None,
            process: None,
        }
    }

    fn has_line(text: &str, line: &str) -> bool {
        text.lines().any(|one| one == line)
    }

    #[test]
    fn a_replica_starts_as_a_replica_and_a_master_as_a_master() {
        let (master, replica) =
            (node(EngineFamily::Repld, 6379, &[]), node(EngineFamily::Repld, 6380, &[("save", "900 1")]));
        let text = render_config(&replica, Some(&master));
        for line in ["port 6380", "replicaof 127.0.0.1 6379", "replica-priority 50", "save 900 1"] {
            assert!(has_line(&text, line), "{line}\n{text}");
        }
        assert!(!render_config(&master, None).contains("replicaof"));
    }

    #[test]
    fn the_topology_may_undo_the_tuning() {
        let text = render_config(&node(EngineFamily::Redis, 6379, &[("repl-diskless-sync-delay", "5")]), None);
        let delays: Vec<_> = text.lines().filter(|line| line.starts_with("repl-diskless-sync-delay")).collect();
        assert_eq!(delays, ["repl-diskless-sync-delay 0", "repl-diskless-sync-delay 5"]);
    }

    #[test]
    fn a_replica_knows_the_password_that_its_upstream_asks_for() {
        let master = node(EngineFamily::Redis, 6379, &[("requirepass", "\"a b\"")]);
        let replica = node(EngineFamily::Redis, 6380, &[]);
        assert!(has_line(&render_config(&replica, Some(&master)), "masterauth \"a b\""));
        assert!(has_line(&render_config(&master, None), "masterauth \"a b\""));
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
