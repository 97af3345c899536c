//! `kill`, `pause` and `resume`: what can happen to a node's process, made to happen.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::plan::Refusal;
use super::stop::end_processes;
use super::unmanaged::Untouchable;
use super::{Group, GroupError};
use crate::event::{Event, Recorder};
use crate::process::{Condition, LiveProcess, ProcessIdentity};

/// How long a process may take to stop: a system call that cannot be interrupted comes first.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// Between two looks at a process that is about to stop.
const POLL_EVERY: Duration = Duration::from_millis(1);

/// What is done to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeSignal {
    /// It ends as if its machine had failed (SIGKILL).
    Kill,
    /// It hangs: it lives, holds its connections and does nothing (SIGSTOP).
    Pause,
    /// It goes on (SIGCONT).
    Resume,
}

impl NodeSignal {
    /// The command's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Resume => "resume",
        }
    }

    /// As what is refused for a node that is not managed.
    pub fn untouchable(self) -> Untouchable {
        match self {
            Self::Kill => Untouchable::Kill,
            Self::Pause => Untouchable::Pause,
            Self::Resume => Untouchable::Resume,
        }
    }

    /// What has become of the process, in words.
    pub fn done(self) -> &'static str {
        match self {
            Self::Kill => "was killed",
            Self::Pause => "is paused",
            Self::Resume => "goes on",
        }
    }
}

/// The process that serves a node now, or is a Sentinel.
///
/// # Errors
/// There is no such node, or it does not run.
pub fn living_process(group: &Group, node: &str) -> Result<ProcessIdentity, GroupError> {
    let process = match group.run.sentinel(node) {
        Some(sentinel) => sentinel.process.as_ref(),
        None => group.run.node(node).ok_or_else(|| Refusal::NoSuchNode(node.to_owned()))?.process(),
    };
    match process {
        Some(process) if process.identity.condition()? != Condition::Dead => Ok(process.identity.clone()),
        _ => Err(GroupError::NotRunning { node: node.to_owned() }),
    }
}

/// Sends a signal to a node's process and waits until it has had its effect; returns how long that took.
///
/// # Errors
/// The process belongs to another user, or does not obey.
pub async fn signal_node(
    node: &str,
    process: &ProcessIdentity,
    signal: NodeSignal,
    recorder: &mut Recorder,
) -> Result<Duration, GroupError> {
    recorder.record(Event::Signalled { node: node.to_owned(), signal })?;
    let began = Instant::now();
    match signal {
        NodeSignal::Kill => end_processes(vec![(node.to_owned(), process.clone())], None).await?,
        NodeSignal::Pause => reach(process, Signal::STOP, Condition::Stopped).await?,
        NodeSignal::Resume => reach(process, Signal::CONT, Condition::Running).await?,
    }
    Ok(began.elapsed())
}

/// A process that ends meanwhile is no longer anybody's concern here: `status` tells.
async fn reach(process: &ProcessIdentity, signal: Signal, wished: Condition) -> Result<(), GroupError> {
    let Some(live) = LiveProcess::open(process)? else { return Ok(()) };
    live.signal(signal)?;
    let deadline = Instant::now() + STOP_LIMIT;
    loop {
        let condition = process.condition()?;
        if condition == wished || condition == Condition::Dead || Instant::now() > deadline {
            return Ok(());
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}
