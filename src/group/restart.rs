//! `restart`: nodes end politely and come back in the roles that they have, replicas before those they follow.

use std::time::Duration;

use super::stop::end_processes;
use super::{Group, GroupError, living};
use crate::event::{Event, Recorder};
use crate::process::{Durability, RunNode};

/// The replicas of a group, those that nobody follows first: each can be restarted while the others go on.
pub fn restart_order(group: &Group) -> Vec<String> {
    let depth = |node: &RunNode| std::iter::successors(Some(node), |node| group.run.upstream_of(node)).count();
    let mut replicas: Vec<&RunNode> = group.run.nodes.iter().filter(|node| node.upstream.is_some()).collect();
    replicas.sort_by_key(|node| std::cmp::Reverse(depth(node)));
    replicas.into_iter().map(|node| node.name.clone()).collect()
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
        if let Some(server) = group.run.node_mut(&name).and_then(RunNode::managed_mut) {
            server.process = None;
        }
        recorder.show(Event::Ended { node: name });
    }
    Ok(group.dir.save_run_state(&group.run, Durability::PageCache)?)
}
