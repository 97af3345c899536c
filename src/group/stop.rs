//! `down`: every process of a group ends, and with `--wipe` its data goes, too.
//!
//! The master is told first and the replicas when it is gone: a Redis master that is asked to end lets its replicas catch up
//! before it does, so that afterwards all hold the same.

use std::time::Duration;

use rustix::process::Signal;
use serde::Serialize;
use tokio::task::JoinSet;

use super::guard::stop_guard;
use super::{Group, GroupError, link_faults, reap};
use crate::event::{Event, Recorder};
use crate::failpoint;
use crate::process::{
    Condition, Durability, GroupDir, GroupLock, LiveProcess, ProcessIdentity, RunNode, RunState, launched,
};

/// How long a killed process may take to be gone: the kernel frees its memory first.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// What `down` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DownReport {
    /// The group.
    pub group: String,
    /// The nodes whose process was ended, in topology order.
    pub ended: Vec<String>,
    /// The Sentinels whose process was ended.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sentinels_ended: Vec<String>,
    /// The nodes that replctl did not start: they go on as they are.
    pub left_alone: Vec<String>,
    /// Nothing of the group was replctl's: there is no such group any more.
    pub is_forgotten: bool,
    /// Its directory with all data was removed.
    pub is_wiped: bool,
}

/// The nodes of a group whose process lives, in topology order, and its Sentinels.
///
/// # Errors
/// `/proc` cannot be read.
pub fn living(group: &Group) -> Result<Vec<(String, ProcessIdentity)>, GroupError> {
    let mut living = Vec::new();
    for node in &group.run.nodes {
        if let Some(process) = node.process()
            && process.identity.condition()? != Condition::Dead
        {
            living.push((node.name.clone(), process.identity.clone()));
        }
    }
    for sentinel in group.run.sentinels() {
        if let Some(process) = &sentinel.process
            && sentinel.condition()? != Condition::Dead
        {
            living.push((sentinel.name.clone(), process.identity.clone()));
        }
    }
    Ok(living)
}

/// The nodes of a group that replctl did not start, in topology order.
pub fn unmanaged(group: &Group) -> Vec<String> {
    group.run.nodes.iter().filter(|node| node.unmanaged().is_some()).map(|node| node.name.clone()).collect()
}

/// Ends the processes of a group that its run state does not know, if there are any: an `up` that was killed between
/// starting a server and writing that down leaves such, and a promotion's ghost of a dead master may take a moment to end
/// after it was killed. Returns their nodes' names.
///
/// # Errors
/// `/proc` or the run state cannot be read, or a process cannot be ended.
pub async fn end_strays(dir: &GroupDir, patience: Duration) -> Result<Vec<String>, GroupError> {
    let run = dir.run_state()?;
    let recorded = |is: &dyn Fn(&ProcessIdentity) -> bool| run.iter().flat_map(RunState::processes).any(is);
    let mut strays = Vec::new();
    for (name, identity) in launched(dir)? {
        let parent = identity.parent()?;
        // A server forks to save its data: the child is a part of it while it lives.
        let is_part =
            recorded(&|known| Some(known.pid) == parent && known.condition().is_ok_and(|is| is != Condition::Dead));
        if !is_part && !recorded(&|known| *known == identity) {
            strays.push((name, identity));
        }
    }
    let names = strays.iter().map(|(name, _)| name.clone()).collect();
    end_processes(strays, Some(patience)).await?;
    Ok(names)
}

/// Ends every process that was started as a node of a group, whatever is written down. Returns their nodes' names.
///
/// # Errors
/// `/proc` cannot be read, or a process cannot be ended.
pub async fn end_launched(dir: &GroupDir, patience: Duration) -> Result<Vec<String>, GroupError> {
    let all = launched(dir)?;
    let names = all.iter().map(|(name, _)| name.clone()).collect();
    end_processes(all, Some(patience)).await?;
    Ok(names)
}

/// Ends every process of the group: politely, and by force what has not ended within `patience`. With `wipe` there is
/// nothing to save, so force comes first, and the group's directory is removed.
///
/// # Errors
/// A process cannot be ended; then nothing is removed.
pub async fn down(
    mut group: Group,
    lock: &GroupLock,
    wipe: bool,
    patience: Duration,
    recorder: &mut Recorder,
) -> Result<DownReport, GroupError> {
    recorder.record(Event::Began { command: "down".to_owned() })?;
    // First of all: what ends now is meant to.
    stop_guard(&mut group).await?;
    end_strays(&group.dir, patience).await?;
    let living = living(&group)?;
    let master = group.run.master().name.clone();
    let (sentinels, nodes): (Vec<_>, Vec<_>) = living.into_iter().partition(|(name, _)| group.run.node(name).is_none());
    let names = |living: &[(String, _)]| living.iter().map(|(name, _)| name.clone()).collect::<Vec<String>>();
    let (sentinels_ended, ended) = (names(&sentinels), names(&nodes));
    let (masters, replicas): (Vec<_>, Vec<_>) = nodes.into_iter().partition(|(name, _)| *name == master);
    let patience = (!wipe).then_some(patience);
    // Who would replace the master goes before it.
    for wave in [sentinels, masters, replicas] {
        end_processes(wave, patience).await?;
    }
    link_faults::end(&mut group.run).await?;
    // A server that was killed leaves the child that it was saving in.
    end_strays(&group.dir, Duration::ZERO).await?;
    for name in sentinels_ended.iter().chain(&ended) {
        recorder.show(Event::Ended { node: name.clone() });
    }
    for server in group.run.nodes.iter_mut().filter_map(RunNode::managed_mut) {
        server.process = None;
    }
    for sentinel in group.run.sentinels.iter_mut().flat_map(|sentinels| &mut sentinels.each) {
        sentinel.process = None;
    }
    group.dir.save_run_state(&group.run, Durability::Disk)?;
    recorder.record(Event::Finished { command: "down".to_owned(), error: None })?;
    let (left_alone, is_forgotten) = (unmanaged(&group), group.run.is_adopted());
    failpoint::pass(|| "removing".to_owned());
    match (wipe, is_forgotten) {
        (true, _) => group.dir.wipe(lock)?,
        (false, true) => group.dir.forget(lock)?,
        (false, false) => {}
    }
    Ok(DownReport { group: group.run.group, ended, sentinels_ended, left_alone, is_forgotten, is_wiped: wipe })
}

/// Ends processes at once: with SIGTERM and `patience`, then with SIGKILL; without patience with SIGKILL.
///
/// # Errors
/// A process of another user, or one that even SIGKILL does not end in time: it is named.
pub async fn end_processes(
    processes: Vec<(String, ProcessIdentity)>,
    patience: Option<Duration>,
) -> Result<(), GroupError> {
    let mut ending = JoinSet::new();
    for (name, identity) in processes {
        ending.spawn(async move { end_process(&identity, patience).await.map(|has_ended| (name, has_ended)) });
    }
    let mut still_alive = Vec::new();
    while let Some(ended) = ending.join_next().await {
        let (name, has_ended) = ended.expect("ending a process does not panic")?;
        still_alive.extend((!has_ended).then_some(name));
    }
    if still_alive.is_empty() { Ok(()) } else { Err(GroupError::StillAlive(still_alive)) }
}

async fn end_process(identity: &ProcessIdentity, patience: Option<Duration>) -> Result<bool, GroupError> {
    let Some(process) = LiveProcess::open(identity)? else { return Ok(true) };
    failpoint::pass(|| "signalling".to_owned());
    if let Some(patience) = patience {
        process.signal(Signal::TERM)?;
        failpoint::pass(|| "terminated".to_owned());
        // A stopped process takes no signal but these two.
        process.signal(Signal::CONT)?;
        if process.dies_within(patience).await? {
            reap(identity);
            return Ok(true);
        }
    }
    process.signal(Signal::KILL)?;
    failpoint::pass(|| "killed".to_owned());
    let has_died = process.dies_within(KILL_LIMIT).await?;
    reap(identity);
    Ok(has_died)
}
