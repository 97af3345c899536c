//! `restart`: nodes end politely and come back in the roles that they have, replicas before those they follow.

use std::time::{Duration, Instant};

use super::bring_up::refuse_if_unsafe;
use super::promotion::{is_half_done, observe_calm, promote};
use super::stop::end_processes;
use super::{Group, GroupError, Policy, living, unfinished};
use crate::event::{Event, Recorder};
use crate::process::{Durability, RunNode};

/// The replicas of a group, those that nobody follows first: each can be restarted while the others go on.
pub fn restart_order(group: &Group) -> Vec<String> {
    let depth = |node: &RunNode| std::iter::successors(Some(node), |node| group.run.upstream_of(node)).count();
    let mut replicas: Vec<&RunNode> = group.run.nodes.iter().filter(|node| node.upstream.is_some()).collect();
    replicas.sort_by_key(|node| std::cmp::Reverse(depth(node)));
    replicas.into_iter().map(|node| node.name.clone()).collect()
}

/// Looks whether nodes can be restarted in the roles that are written down: the node that is meant to be the master is the
/// master. A change of masters that broke off is ended first.
///
/// # Errors
/// Roles are not what they are meant to be: ending a node could end the one that takes writes.
pub async fn settle(group: &mut Group, limit: Duration, recorder: &mut Recorder) -> Result<(), GroupError> {
    let (view, _) = observe_calm(group).await?;
    let policy = Policy { finishes: unfinished(group, None)?, ..Policy::default() };
    if policy.finishes.is_some() || is_half_done(group, &view, None)? {
        promote("promote", group, &policy, Instant::now(), limit, recorder).await?;
        return Ok(());
    }
    match group.run.nodes.len() {
        1 => Ok(()),
        _ => refuse_if_unsafe(&view),
    }
}

/// Ends nodes' processes: politely, so that they save what they are to save, and by force what has not ended within
/// `patience`.
///
/// # Errors
/// A process cannot be ended.
pub async fn end_nodes(
    group: &mut Group,
    nodes: &[String],
    patience: Duration,
    recorder: &mut Recorder,
) -> Result<(), GroupError> {
    let living: Vec<_> = living(group)?.into_iter().filter(|(name, _)| nodes.contains(name)).collect();
    let names: Vec<String> = living.iter().map(|(name, _)| name.clone()).collect();
    end_processes(living, Some(patience)).await?;
    for name in names {
        if let Some(process) = group.run.process_mut(&name) {
            *process = None;
        }
        recorder.show(Event::Ended { node: name });
    }
    Ok(group.dir.save_run_state(&group.run, Durability::PageCache)?)
}
