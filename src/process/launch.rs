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

use rustix::process::{Pid, Signal};

use super::engine::Program;
use super::identity::ProcessIdentity;
use super::run::{ManagedServer, RunNode, RunSentinel, RunState, Server};
use super::state::{GUARD, GroupDir, LINKS};
use crate::failpoint;
use crate::topology::{Address, EngineFamily};

/// The processes that were started as nodes of a group, recorded or not, by the node's name, with what they have forked.
/// Each writes stdout and stderr to a file of that node's directory, and leads a session or works there. That stays so when a
/// server rewrites its title (and with it its environment), changes its directory, or its log is rotated; a person who looks
/// around there does one of it, but not all.
///
/// # Errors
/// `/proc` cannot be read.
pub fn launched(dir: &GroupDir) -> io::Result<Vec<(String, ProcessIdentity)>> {
    let Ok(nodes) = fs::canonicalize(dir.node_dir("")) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for pid in fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        // Processes of other users, and those that end just now, do not say.
        let writes_to = |stream: u8| {
            let file = fs::read_link(format!("/proc/{pid}/fd/{stream}")).ok()?;
            Some(file.parent()?.strip_prefix(&nodes).ok()?.to_str()?.to_owned())
        };
        let Some(name) = writes_to(1).filter(|name| is_name(name) && writes_to(2).as_ref() == Some(name)) else {
            continue;
        };
        let works_there = || fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == nodes.join(&name));
        if let Some(identity) = ProcessIdentity::of(pid)?
            && (identity.leads_session()? || works_there())
        {
            found.push((name, identity));
        }
    }
    Ok(found)
}

/// Those of [`launched`] that are servers of nodes, and no child of one.
///
/// # Errors
/// `/proc` cannot be read.
pub fn servers(dir: &GroupDir) -> io::Result<Vec<(String, ProcessIdentity)>> {
    let of_nodes = launched(dir)?.into_iter().filter(|(name, _)| ![LINKS, GUARD].contains(&name.as_str()));
    let leaders = of_nodes.map(|found| Ok(found.1.leads_session()?.then_some(found)));
    leaders.filter_map(Result::transpose).collect()
}

fn is_name(path: &str) -> bool {
    !path.is_empty() && !path.contains('/')
}

/// What the replication backlogs of a group may take together, in megabytes of disk (repld) or memory.
const BACKLOGS_MB_MAX: usize = 256;

/// The text of a node's configuration file: its own directives, and its place in the group.
///
/// The topology's directives stand as they are: their values are rows of words already. None of them is one of ours.
pub fn render_config(run: &RunState, node: &RunNode, server: &ManagedServer) -> String {
    let upstream = run.upstream_of(node);
    let mut text = format!("# Node {} of a replctl group. Written by replctl before every start.\n", node.name);
    let mut line = |directive: &str, value: &str| {
        text.push_str(&format!("{directive} {value}\n"));
    };
    line("bind", "127.0.0.1");
    line("port", &server.port.to_string());
    line("dir", ".");
    line("daemonize", "no");
    line("logfile", "\"\"");
    line("replica-priority", &server.priority.to_string());
    if let Some(entrance) = server.entrance {
        line("replica-announce-ip", "127.0.0.1");
        line("replica-announce-port", &entrance.to_string());
    }
    for (directive, value) in tuning(run.nodes.len(), server.engine.family) {
        line(directive, &value);
    }
    if server.engine.family == EngineFamily::Repld {
        // A master that came back empty must not empty the others.
        line("replica-full-sync-guard", "yes");
    }
    // After a failover any node may be anybody's upstream: what a node asks of others it can also be asked for itself.
    for (directive, value) in login_directives(upstream.unwrap_or(node)) {
        line(directive, &value);
    }
    for (directive, value) in &server.config {
        line(directive, value);
    }
    if let Some(upstream) = upstream {
        let Address { host, port } = upstream.announced();
        let own_way = server.link_ports.iter().find(|way| way.to == upstream.name);
        let port = own_way.map_or(port, |way| way.port);
        line("replicaof", &format!("{host} {port}"));
    }
    text
}

/// The text of a Sentinel's configuration file, which it rewrites itself as it goes on: where it listens, and what it would have
/// found out of the group. `watches_since` is the failover that made the present master one; `None`: it watches nothing.
pub fn render_sentinel_config(
    run: &RunState,
    sentinel: &RunSentinel,
    watches_since: Option<u64>,
    current_epoch: u64,
) -> String {
    let mut lines: Vec<String> = [
        format!("# {} of a replctl group. Written by replctl, then by itself.", sentinel.name),
        "bind 127.0.0.1".to_owned(),
        format!("port {}", sentinel.port),
        "dir .".to_owned(),
        "daemonize no".to_owned(),
        "logfile \"\"".to_owned(),
        format!("sentinel myid {}", sentinel.id),
    ]
    .into();
    if let (Some(config_epoch), Some(settings)) = (watches_since, &run.sentinels) {
        let (group, master) = (&run.group, run.master());
        let words = |address: Address| format!("{} {}", address.host, address.port);
        lines.push(format!("sentinel monitor {group} {} {}", words(master.announced()), settings.quorum));
        let options = settings.options(run.nodes.len());
        lines.extend(options.iter().map(|(option, value)| format!("sentinel {option} {group} {value}")));
        let password = master.managed().and_then(|server| server.config.get("requirepass"));
        lines.extend(password.map(|password| format!("sentinel auth-pass {group} {password}")));
        lines.push(format!("sentinel config-epoch {group} {config_epoch}"));
        let replicas = run.nodes.iter().filter(|node| node.upstream.is_some());
        lines.extend(replicas.map(|node| format!("sentinel known-replica {group} {}", words(node.announced()))));
        let others = settings.each.iter().filter(|other| other.name != sentinel.name);
        lines.extend(
            others.map(|other| format!("sentinel known-sentinel {group} 127.0.0.1 {} {}", other.port, other.id)),
        );
    }
    lines.push(format!("sentinel current-epoch {current_epoch}"));
    lines.join("\n") + "\n"
}

/// How a replica logs in to this node.
fn login_directives(upstream: &RunNode) -> Vec<(&'static str, String)> {
    match &upstream.server {
        Server::Managed(server) => {
            server.config.get("requirepass").map(|password| ("masterauth", password.clone())).into_iter().collect()
        }
        Server::Unmanaged(server) => {
            let user = server.login.user.as_ref().map(|user| ("masteruser", quoted(user)));
            let password = server.login.password.as_ref().map(|password| ("masterauth", quoted(password)));
            user.into_iter().chain(password).collect()
        }
    }
}

/// One word of a configuration file, whatever is in it.
fn quoted(word: &str) -> String {
    let escaped = word.bytes().flat_map(|byte| match byte {
        b'"' | b'\\' => vec![b'\\', byte],
        b' '..=b'~' => vec![byte],
        _ => format!("\\x{byte:02x}").into_bytes(),
    });
    format!("\"{}\"", String::from_utf8(escaped.collect()).expect("all of it is ASCII"))
}

/// What suits a group of processes on one machine, unless its topology says otherwise.
fn tuning(nodes: usize, family: EngineFamily) -> [(&'static str, String); 2] {
    // A killed master takes with it what it had not sent to one replica yet, and that is easily more than the default
    // megabyte behind what another one got. The new master's backlog must bridge it, or the replica starts anew. What is
    // salvaged from a repld reaches as far back as its backlog: a link may be down for a moment before a master dies.
    let backlog_mb_max = if family == EngineFamily::Repld { 64 } else { 16 };
    let backlog_mb = (BACKLOGS_MB_MAX / nodes.max(1)).clamp(1, backlog_mb_max);
    [
        // A full sync need not wait five seconds for other replicas to join it.
        ("repl-diskless-sync-delay", "0".to_owned()),
        ("repl-backlog-size", format!("{backlog_mb}mb")),
    ]
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
    let mut command = Command::new(&program.path);
    command.args(program.leading_args).arg(group.config_file(node));
    start(command, group, node)
}

/// Starts a Sentinel on the configuration file that lies in its directory.
///
/// # Errors
/// As [`spawn`].
pub fn spawn_sentinel(program: &Program, group: &GroupDir, name: &str) -> io::Result<Started> {
    let mut command = Command::new(&program.path);
    command.arg(group.config_file(name)).arg("--sentinel");
    start(command, group, name)
}

/// Starts the process that carries a group's links: the `replctl` that would also serve as a repld, under a name that no user types.
///
/// # Errors
/// It cannot be executed, or the log cannot be opened.
pub fn spawn_links(replctl: &Program, group: &GroupDir) -> io::Result<Started> {
    let mut command = Command::new(&replctl.path);
    command.arg("--state-dir").arg(group.state_dir()).arg("--group").arg(group.name()).arg("carry-links");
    start(command, group, LINKS)
}

/// Starts the process that watches over a group: `replctl guard`, with a log.
///
/// # Errors
/// It cannot be executed, or the log cannot be opened.
pub fn spawn_guard(group: &GroupDir) -> io::Result<Started> {
    let mut command = this_program_on(group)?;
    command.args(["--color", "never", "guard"]);
    start(command, group, GUARD)
}

fn this_program_on(group: &GroupDir) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--state-dir").arg(group.state_dir()).arg("--group").arg(group.name());
    Ok(command)
}

fn start(mut command: Command, group: &GroupDir, node: &str) -> io::Result<Started> {
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(group.log_file(node))?;
    command.current_dir(group.node_dir(node)).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let tied_to = group.is_tied().then(rustix::process::getpid);
    // SAFETY: between fork and exec only async-signal-safe calls are allowed: setsid(2), prctl(2) and getppid(2) are such.
    unsafe {
        command.pre_exec(move || {
            rustix::process::setsid()?;
            tied_to.map_or(Ok(()), tie)
        });
    }
    failpoint::pass(|| "spawning".to_owned());
    let child = command.spawn()?;
    failpoint::pass(|| "spawned".to_owned());
    // Unreaped, the child keeps its pid even if it has died already, so this reads no stranger's entry.
    let identity = ProcessIdentity::of_child(child.id())?;
    Ok(Started { child, identity })
}

/// Lets the system kill this process when the thread that has forked it, of the process `parent`, ends.
fn tie(parent: Pid) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have ended before that.
    if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::Interrupted.into()) }
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
    use crate::process::UnmanagedServer;
    use crate::topology::{Engine, Login};

    fn node(port: u16, upstream: Option<u16>, config: &[(&str, &str)]) -> RunNode {
        let server = Server::Managed(ManagedServer {
            wished_port: Some(port),
            port,
            engine: Engine { family: EngineFamily::Redis, path: None },
            wished_engine: None,
            priority: 50,
            config: config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            link_ports: Vec::new(),
            entrance: None,
            process: None,
        });
        let upstream = upstream.map(|port| format!("n{port}"));
        RunNode { name: format!("n{port}"), wished_upstream: None, upstream, server }
    }

    /// The lines of the file of the last of these nodes.
    fn lines(nodes: Vec<RunNode>) -> Vec<String> {
        let run = RunState::new("test", None, nodes);
        let last = run.nodes.last().expect("a group has nodes");
        render_config(&run, last, last.managed().expect("it is managed")).lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_replica_starts_as_a_replica_and_a_master_as_a_master() {
        let replica = lines(vec![node(6379, None, &[]), node(6380, Some(6379), &[("save", "900 1")])]);
        for line in ["port 6380", "replicaof 127.0.0.1 6379", "replica-priority 50", "save 900 1"] {
            assert!(replica.contains(&line.to_owned()), "{line}: {replica:?}");
        }
        assert!(lines(vec![node(6379, None, &[])]).iter().all(|line| !line.starts_with("replicaof")));
    }

    #[test]
    fn the_topology_may_undo_the_tuning() {
        let lines = lines(vec![node(6379, None, &[("repl-diskless-sync-delay", "5")])]);
        let delays: Vec<_> = lines.iter().filter(|line| line.starts_with("repl-diskless-sync-delay")).collect();
        assert_eq!(delays, ["repl-diskless-sync-delay 0", "repl-diskless-sync-delay 5"]);
    }

    #[test]
    fn a_crowd_shares_what_backlogs_may_take() {
        let backlog = |nodes, family| {
            let [_, (directive, size)] = tuning(nodes, family);
            assert_eq!(directive, "repl-backlog-size");
            size
        };
        assert_eq!([3, 16, 100, 1000].map(|nodes| backlog(nodes, EngineFamily::Redis)), ["16mb", "16mb", "2mb", "1mb"]);
        assert_eq!([3, 16, 100, 1000].map(|nodes| backlog(nodes, EngineFamily::Repld)), ["64mb", "16mb", "2mb", "1mb"]);
    }

    #[test]
    fn a_replica_knows_the_password_that_its_upstream_asks_for() {
        let master = node(6379, None, &[("requirepass", "\"a b\"")]);
        assert!(lines(vec![master.clone()]).contains(&"masterauth \"a b\"".to_owned()));
        let replica = lines(vec![master, node(6380, Some(6379), &[])]);
        assert!(replica.contains(&"masterauth \"a b\"".to_owned()), "{replica:?}");
    }

    #[test]
    fn a_replica_of_an_unmanaged_node_finds_it_and_logs_in_there() {
        let address = Address { host: "db1".to_owned(), port: 6379 };
        let login = Login { user: Some("repl".to_owned()), password: Some("a\"b\n".to_owned()) };
        let announced = Address { host: "10.0.0.7".to_owned(), port: 6379 };
        let server = UnmanagedServer { address, announced, login, run_id: None, unfenced: None };
        let master = RunNode { server: Server::Unmanaged(server), ..node(6379, None, &[]) };
        let replica = lines(vec![master, node(6380, Some(6379), &[])]);
        for line in ["replicaof 10.0.0.7 6379", "masteruser \"repl\"", "masterauth \"a\\\"b\\x0a\""] {
            assert!(replica.contains(&line.to_owned()), "{line}: {replica:?}");
        }
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
