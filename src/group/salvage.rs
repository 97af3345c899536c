//! What a dead repld's backlog file still has, and how a replica gets it: from a ghost of the dead master, a process that
//! serves that file and lives no longer than the promotion.
//!
//! ```text
//! n1's backlog.bin   offsets 0 to 900        n1 is dead
//! n2                 offset 700              REPLICAOF ghost … 900, then REPLICAOF NO ONE
//! ```
//!
//! This is the one place where replctl reads a file of an engine by itself, with the server's own library: how far the
//! dead master was is known in microseconds, and most of the time there is nothing to do.

use std::io;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::process::Stdio;
use std::time::{Duration, Instant};

use repld::replication::{BacklogError, Remains};
use repld::salvage::SalvageError;
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::Group;
use super::tail::{Tail, TailError};
use crate::process::{Condition, EngineError, GroupDir, Program, RunNode, free_ports, log_tail};
use crate::topology::{Engine, EngineFamily};
use crate::wire::{FormerHistory, NodeClient, Past, ReplicationId, WireError};

/// How long the kernel may take to give back what a dead process had: who looks at it in `/proc` delays that.
const RELEASE_LIMIT: Duration = Duration::from_millis(500);
/// How long a ghost may take to listen.
const START_LIMIT: Duration = Duration::from_secs(5);
/// How long a replica may take no further step while it takes what the ghost has.
const STALL_LIMIT: Duration = Duration::from_secs(5);
/// Between two looks.
const POLL_EVERY: Duration = Duration::from_millis(1);

/// What an engine leaves of the replication stream when its process has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeptStream {
    /// Nothing: the stream was in the process's memory.
    Nothing,
    /// A file, which a living process writes: how far it goes is known when that has ended.
    StillWritten,
    /// The file of a dead process.
    Dead {
        /// The history.
        replid: String,
        /// The one before, and the last offset that both share.
        former: Option<(String, u64)>,
        /// Offsets from here …
        start: u64,
        /// … to here.
        end: u64,
    },
    /// A file that cannot be trusted, or none.
    Unusable {
        /// Why.
        why: String,
    },
}

impl KeptStream {
    /// Whether a node that is at `offset` of this history could be handed what is left.
    pub fn continues(&self, lineage: &ReplicationId, offset: u64) -> bool {
        let Self::Dead { replid, former, .. } = self else { return false };
        let lineage = lineage.to_string();
        *replid == lineage || former.as_ref().is_some_and(|(replid, shared)| *replid == lineage && offset <= *shared)
    }

    /// What a dead process left had of which histories.
    pub fn past(&self) -> Option<Past> {
        let Self::Dead { replid, former, end, .. } = self else { return None };
        let former = match former {
            Some((replid, shared_up_to)) => {
                Some(FormerHistory { replid: ReplicationId::parse(replid)?, shared_up_to: *shared_up_to })
            }
            None => None,
        };
        Some(Past { replid: ReplicationId::parse(replid)?, former, end: *end })
    }

    /// What there is of a node's stream; `condition` is that of its process.
    pub fn of(dir: &GroupDir, node: &RunNode, condition: Condition) -> Self {
        if node.managed().is_none_or(|server| server.engine.family != EngineFamily::Repld) {
            return Self::Nothing;
        }
        if condition != Condition::Dead {
            return Self::StillWritten;
        }
        match repld::salvage::open(&dir.node_dir(&node.name)) {
            Ok(Remains { history, start, end, .. }) => {
                let former = history.previous.map(|(replid, shared)| (replid.to_string(), shared));
                Self::Dead { replid: history.replid.to_string(), former, start, end }
            }
            Err(error) if is_in_use(&error) => Self::StillWritten,
            Err(error) => Self::Unusable { why: error.to_string() },
        }
    }
}

/// What a replica was handed of a dead master's backlog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Salvaged {
    /// The dead master.
    pub node: String,
    /// The replica.
    pub to: String,
    /// The dead master's history.
    #[serde(default)]
    pub replid: String,
    /// The offset that the replica had before.
    #[serde(default)]
    pub from: u64,
    /// What it had not received, in bytes of the replication stream; 0: nothing was to be salvaged.
    pub bytes: u64,
    /// The offset that it has now, which is the dead master's last.
    pub end: u64,
}

/// Why nothing could be salvaged.
#[derive(Debug, thiserror::Error)]
pub(super) enum SalvageFailure {
    #[error(transparent)]
    Refused(#[from] SalvageError),
    #[error("{0}")]
    NoContinuation(String),
    #[error("the ghost's program: {0}")]
    Engine(#[from] EngineError),
    #[error("the ghost could not be started: {0}")]
    Io(#[from] io::Error),
    #[error("the ghost ended at once:{}", .0.iter().map(|line| format!("\n  | {line}")).collect::<String>())]
    Ended(Vec<String>),
    #[error("the replica: {0}")]
    Wire(#[from] WireError),
    #[error("the replica stayed at offset {0}")]
    Stalled(u64),
}

/// What a dead node's backlog file has of the stream from `from` on, or all that it has, if that begins later.
pub(super) fn dead_tail(dir: &GroupDir, node: &str, from: u64) -> Result<Tail, TailError> {
    let words = |error: &dyn std::fmt::Display| TailError::Refused(error.to_string());
    let remains = repld::salvage::open(&dir.node_dir(node)).map_err(|error| words(&error))?;
    let stream = remains.bytes().map_err(|error| words(&error))?;
    Tail::cut(&stream, remains.start, from, remains.selected_db())
}

/// Opens what remains of a node whose process has ended.
pub(super) async fn open(group: &Group, node: &str) -> Result<Remains, SalvageFailure> {
    let give_up = Instant::now() + RELEASE_LIMIT;
    loop {
        match repld::salvage::open(&group.dir.node_dir(node)) {
            Err(error) if is_in_use(&error) && Instant::now() < give_up => tokio::time::sleep(POLL_EVERY).await,
            opened => return Ok(opened?),
        }
    }
}

fn is_in_use(error: &SalvageError) -> bool {
    matches!(error.source, BacklogError::InUse)
}

/// Hands the rest of a dead node's stream to a replica that is at `offset` of the history `lineage`; how many bytes that
/// were, and the ghost, if they were any, for others that lack some.
pub(super) async fn hand_over(
    group: &Group,
    node: &str,
    remains: Remains,
    replica: &NodeClient,
    (lineage, offset): (&ReplicationId, u64),
) -> Result<(u64, Option<Ghost>), SalvageFailure> {
    let bytes = remains.beyond(lineage.to_string().as_bytes(), offset).map_err(SalvageFailure::NoContinuation)?;
    let end = remains.end;
    if bytes == 0 {
        return Ok((0, None));
    }
    let node = group.run.node(node).expect("a plan names nodes of its group");
    let ghost = Ghost::start(group, node, remains.start..end).await?;
    ghost.feed(replica).await?;
    await_offset(replica, end).await?;
    Ok((bytes, Some(ghost)))
}

/// Waits until a replica has applied everything up to `end`.
pub(super) async fn await_offset(replica: &NodeClient, end: u64) -> Result<(), SalvageFailure> {
    let (mut best, mut moved) = (0, Instant::now());
    loop {
        let offset = match replica.replication().await {
            Ok(replication) => replication.offset,
            // It may be busy with what it gets.
            Err(WireError::Silent(_)) => best,
            Err(error) => return Err(error.into()),
        };
        if offset >= end {
            return Ok(());
        }
        if offset > best {
            (best, moved) = (offset, Instant::now());
        }
        if moved.elapsed() > STALL_LIMIT {
            return Err(SalvageFailure::Stalled(offset));
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

/// A process that serves a dead node's backlog. It ends when this is dropped, and with this process however that ends.
pub(super) struct Ghost {
    _process: Child,
    port: u16,
    offsets: Range<u64>,
}

impl Ghost {
    async fn start(group: &Group, node: &RunNode, offsets: Range<u64>) -> Result<Self, SalvageFailure> {
        let program = Program::find(&Engine { family: EngineFamily::Repld, path: None })?;
        let port = free_ports(1)?[0];
        let log_file = group.dir.log_file(&node.name);
        let log = std::fs::OpenOptions::new().append(true).create(true).open(&log_file)?;
        let mut command = Command::new(&program.path);
        command.args(program.leading_args).arg("--salvage").arg(group.dir.node_dir(&node.name)).arg("-");
        // Where the node was: who ends the group's processes finds it, too.
        command.current_dir(group.dir.node_dir(&node.name));
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        let parent = getpid();
        // SAFETY: between fork and exec only async-signal-safe calls are allowed; prctl(2) and getppid(2) are.
        unsafe {
            command.pre_exec(move || {
                set_parent_process_death_signal(Some(Signal::KILL))?;
                // A parent that ended before the call sends no signal any more.
                if getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
            });
        }
        let mut process = command.spawn()?;
        if let Some(mut stdin) = process.stdin.take() {
            stdin.write_all(configuration(node, port).as_bytes()).await?;
        }
        let ended = |_| SalvageFailure::Ended(log_tail(&log_file, 3));
        await_listener(&mut process, port).await.map_err(ended)?;
        Ok(Self { _process: process, port, offsets })
    }

    /// Whether it has something for one that is at `offset`.
    pub(super) fn can_feed(&self, offset: u64) -> bool {
        self.offsets.contains(&offset)
    }

    /// The offset that it leads to.
    pub(super) fn end(&self) -> u64 {
        self.offsets.end
    }

    /// Lets a replica take what it lacks.
    pub(super) async fn feed(&self, replica: &NodeClient) -> Result<(), WireError> {
        replica.command(&["REPLICAOF", "127.0.0.1", &self.port.to_string()]).await.map(drop)
    }
}

/// Not in argv, since a password is among it. Whoever followed the dead node has its password.
fn configuration(node: &RunNode, port: u16) -> String {
    let password = node
        .managed()
        .and_then(|server| server.config.get("requirepass"))
        .map(|password| format!("requirepass {password}\n"));
    format!("bind 127.0.0.1\nport {port}\nsave \"\"\n{}", password.unwrap_or_default())
}

async fn await_listener(process: &mut Child, port: u16) -> io::Result<()> {
    let give_up = Instant::now() + START_LIMIT;
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err() {
        if process.try_wait()?.is_some() || Instant::now() > give_up {
            return Err(io::ErrorKind::TimedOut.into());
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
    Ok(())
}
