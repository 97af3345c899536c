//! A replication group as a whole: observe it, name what is wrong, plan, execute, report.
//!
//! ```text
//! Topology (wished) --up--> RunState (launched) --observe--> GroupView --diagnose--> Diagnosis
//!                                                               |
//!                                                     FailoverPlan::new --promote--> FailoverReport
//! ```
//!
//! [`diagnose`], [`FailoverPlan::new`], [`FailoverPlan::switchover`], [`Failover`] and [`HandOver`] are pure; [`up`], [`promote`], [`switchover`],
//! [`kill_master`] and [`down`] are where things
//! happen. Nothing here prints: what happens goes out as [`Event`]s.

mod adopt;
mod bring_up;
mod diagnosis;
mod ephemeral;
mod failover;
mod guard;
mod hand_over;
mod history;
mod hook;
mod journal;
mod kill;
mod link_faults;
mod links;
mod pause;
mod plan;
mod promotion;
mod recover;
mod repoint;
mod restart;
mod salvage;
mod sentinel;
mod signal;
mod stop;
mod tail;
mod unfinished;
mod unmanaged;
mod upgrade;
mod view;

use std::io;
use std::path::PathBuf;

use crate::event::Event;
use crate::process::{
    EngineError, GroupDir, RunNode, RunState, Server, Started, StateError, Stranger, log_tail, render_config,
};
use crate::topology::{Address, Login};
use crate::wire::{Endpoint, FormerHistory, WireError, split_words};

pub use adopt::{Adoption, Found, adopt, discover};
pub use bring_up::{Action, LaunchPlan, interruption, read_password, refuse_if_unsafe, refuse_older_master, up};
pub use diagnosis::{Diagnosis, diagnose, listed};
pub use ephemeral::{Ephemeral, reap};
pub use failover::{Failover, Next, StepOutcome};
pub use guard::{
    Evidence, Guard, GuardDone, GuardEnd, GuardEvent, GuardNote, GuardOrder, GuardSettings, GuardState, GuardVerdict,
    LastNote, check_decider, guard_state, start_guard, stop_guard, watch_over,
};
pub use hand_over::{HandOver, HandOverEnd, HandOverOrder, Word};
pub use history::{Episode, Outcome, episodes};
pub use journal::{Journal, JournalEntry, RECENT_BYTES, Reading, read, read_end, read_recent_of};
pub use kill::{KillPlan, KillReport, kill_master};
pub use link_faults::{EVERYBODY, LinkPlan, break_link, link_states};
pub use plan::{
    DataAge, FailoverPlan, Ineligible, LossEstimate, LostRange, NoSalvage, Policy, Ranked, Refusal, Rejected, Step,
};
pub use promotion::{FailoverReport, Resync, StepReport, promote, promoted_last, resync_by_log, switchover};
pub use recover::{Recovery, recover};
pub use repoint::{RepointPlan, RepointReport, repoint};
pub use restart::{end_nodes, restart_order, settle};
pub use salvage::{KeptStream, Salvaged};
pub use sentinel::{
    SentinelFailover, SentinelView, Watch, await_failover, note_failover, observe_sentinels, refuse_second_decider,
    refuse_zombie,
};
pub use signal::{NodeSignal, living_process, signal_node};
pub use stop::{DownReport, down, end_launched, end_strays, living, unmanaged};
pub use tail::{Tail, TailError, TailFate, TailReport};
pub use unfinished::{forget_if_nothing_came, unfinished};
pub use unmanaged::{Diverged, Untouchable, refuse_unmanaged};
pub use upgrade::{Former, Upgrade, build_of, standing};
pub use view::{Answer, Clients, GroupView, HEARD_SECONDS_MAX, KillNote, NodeView, ServerView, observe};

/// A group that was started once: its directory and what was launched.
#[derive(Debug, Clone)]
pub struct Group {
    /// Where its files are.
    pub dir: GroupDir,
    /// What was launched.
    pub run: RunState,
}

/// Why something could not be done to a group.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// Its state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// What was launched is not known for certain.
    #[error("{source}{}", living_words(.living))]
    Damaged {
        /// The group.
        group: String,
        /// The file, and what is wrong with it.
        source: StateError,
        /// The group's processes that live: nodes and pids.
        living: Vec<(String, u32)>,
        /// Whether what it was before can be read.
        is_recoverable: bool,
    },
    /// `/proc`, a pidfd, the journal.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// An engine is missing.
    #[error("node {node}: {source}")]
    Engine {
        /// The first node that needs it.
        node: String,
        /// What is wrong with it.
        source: EngineError,
    },
    /// A promotion is not called for, or could do harm.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Starting a node or the group could do harm.
    #[error("{reason}")]
    Unsafe {
        /// What could happen.
        reason: String,
        /// What to do instead.
        hint: String,
    },
    /// Somebody else listens where a node should.
    #[error("node {node}: {stranger}")]
    PortTaken {
        /// The node.
        node: String,
        /// Who it is.
        stranger: Stranger,
    },
    /// A server ended while it was started.
    #[error("node {node} ended while it started ({status}){}", quoted_log(.log, .log_tail))]
    NodeDied {
        /// The node.
        node: String,
        /// Its exit status in words.
        status: String,
        /// Its log.
        log: PathBuf,
        /// The end of it.
        log_tail: Vec<String>,
    },
    /// Nodes were not where they should be in time.
    #[error("{} did not get there in {limit_ms} ms: {}", if .pending.len() == 1 { "one node" } else { "nodes" }, .pending.join(", "))]
    TimedOut {
        /// The nodes, each with how far it came.
        pending: Vec<String>,
        /// The time they had.
        limit_ms: u128,
    },
    /// Ctrl-C, SIGTERM, or the terminal is gone.
    #[error("interrupted")]
    Interrupted,
    /// A node did not do what it was told.
    #[error("node {node}: {source}")]
    Wire {
        /// The node.
        node: String,
        /// What it said.
        source: WireError,
    },
    /// A step of a promotion failed.
    #[error("could not {step}: {reason}")]
    StepFailed {
        /// The step.
        step: Step,
        /// What went wrong.
        reason: String,
    },
    /// A process did not end.
    #[error("{} did not end", listed(.0))]
    StillAlive(Vec<String>),
    /// A node is not there to be signalled.
    #[error("{node} does not run")]
    NotRunning {
        /// The node.
        node: String,
    },
    /// replctl did not start a node, so it neither signals nor starts it.
    #[error("{node} is not managed: replctl did not start it and does not {what} it")]
    Unmanaged {
        /// The node.
        node: String,
        /// `kill`, `start` and so on.
        what: &'static str,
        /// What to do instead.
        hint: String,
    },
    /// A password cannot be read.
    #[error("the password of {node} cannot be read from {}: {source}", .path.display())]
    Password {
        /// The node.
        node: String,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A server that replctl does not start is not there.
    #[error("{node} does not answer: {why}")]
    Absent {
        /// The node.
        node: String,
        /// What came back instead.
        why: String,
    },
    /// The process that carries the group's links does not do what it is told.
    #[error("the process that carries the links ({}) does not answer: {reason}", crate::process::LINKS)]
    Links {
        /// What happened instead.
        reason: io::Error,
    },
    /// A master is gone, and those who decide have not put another one in its place.
    #[error("the sentinels have not replaced {master} in time")]
    NotReplaced {
        /// The master.
        master: String,
    },
    /// There is no living master to kill.
    #[error("no master lives: {0}")]
    NoLivingMaster(Diagnosis),
}

fn living_words(living: &[(String, u32)]) -> String {
    let words: Vec<String> = living.iter().map(|(node, pid)| format!("{node} (pid {pid})")).collect();
    if words.is_empty() {
        "; none of the group's processes lives".to_owned()
    } else {
        format!("; these live: {}", words.join(", "))
    }
}

/// How many lines of a log an error quotes.
const QUOTED_LINES: usize = 10;

impl GroupError {
    /// A process of this node has ended; `started` is what it was started as, if it was just now.
    fn died(dir: &GroupDir, node: &str, started: Option<&mut Started>) -> GroupError {
        let log = dir.log_file(node);
        let status = started.map_or_else(|| "unknown status".to_owned(), Started::exit_words);
        GroupError::NodeDied { node: node.to_owned(), status, log_tail: log_tail(&log, QUOTED_LINES), log }
    }
}

fn quoted_log(path: &std::path::Path, tail: &[String]) -> String {
    if tail.is_empty() {
        return format!("; its log {} is empty", path.display());
    }
    let lines: String = tail.iter().map(|line| format!("\n  | {line}")).collect();
    format!("; the end of its log {}:{lines}", path.display())
}

impl Group {
    /// What `kill-master` noted when it ended the process that the master still has.
    fn kill_note(&self) -> Result<Option<KillNote>, GroupError> {
        let master = self.run.master();
        let Some(present) = master.process() else { return Ok(None) };
        let entries = read_recent_of(&self.dir.journal_file(), "master-killed")?;
        Ok(entries.iter().rev().find_map(|entry| match &entry.event {
            Event::MasterKilled { node, process, offsets } if *process == present.identity => {
                Some(KillNote { offset: offsets.get(node).copied(), seconds_ago: entry.seconds_ago() })
            }
            _ => None,
        }))
    }

    /// Histories that the group has left behind by promotions, with the offset up to which each is the group's.
    fn former_histories(&self) -> Result<Vec<FormerHistory>, GroupError> {
        let entries = read_end(&self.dir.journal_file(), RECENT_BYTES)?;
        let formers = entries.into_iter().filter_map(|entry| match entry.event {
            Event::Promoted { former, .. } => former,
            _ => None,
        });
        Ok(formers.collect())
    }
}

/// Where a node is reached, and as whom: of a managed one, with the first word of its `requirepass`.
pub fn endpoint(node: &RunNode) -> Endpoint {
    match &node.server {
        Server::Managed(server) => {
            let words = server.config.get("requirepass").and_then(|value| split_words(value)).unwrap_or_default();
            let password = words.into_iter().next().filter(|word| !word.is_empty());
            let password = password.map(|word| String::from_utf8_lossy(&word).into_owned());
            let address = Address::loopback(server.port);
            let link_ports = server.link_ports.iter().map(|way| (way.target, way.port)).collect();
            let login = Login { user: None, password };
            Endpoint { address, announced: node.announced(), login, link_ports }
        }
        Server::Unmanaged(server) => Endpoint {
            address: server.address.clone(),
            announced: server.announced.clone(),
            login: server.login.clone(),
            link_ports: Vec::new(),
        },
    }
}

/// Where clients reach a node, as a URL that they understand: `redis://:PASSWORD@HOST:PORT`.
pub fn url(node: &RunNode) -> String {
    let Endpoint { login, .. } = endpoint(node);
    let user = login.user.as_deref().map(percent_encoded).unwrap_or_default();
    let login = login.password.map(|password| format!("{user}:{}@", percent_encoded(&password)));
    format!("redis://{}{}", login.unwrap_or_default(), node.clients_address())
}

/// A user's name or password, as RFC 3986 has it in a URL.
fn percent_encoded(text: &str) -> String {
    let encoded = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(encoded).collect()
}

/// Writes a managed node's configuration file, so that it comes back in the role that it has now. An unmanaged one has a
/// file of its own.
fn save_config(dir: &GroupDir, run: &RunState, node: &RunNode) -> Result<(), StateError> {
    match node.managed() {
        Some(server) => dir.save_config(&node.name, &render_config(run, node, server)),
        None => Ok(()),
    }
}
