//! What is done in which order: fence, salvage, drain, promote, re-point, parents first.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{LossEstimate, Ranked, has_stopped_feeding, is_linked, is_replica, names};
use crate::group::diagnosis::listed;
use crate::group::salvage::KeptStream;
use crate::group::unmanaged::{of_unknown_history, returned_masters};
use crate::group::view::{Answer, GroupView, NodeView};

/// One step of a promotion.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum Step {
    /// End the old master's process, and nothing but it, so that it can take no further write.
    Fence {
        /// The old master.
        node: String,
    },
    /// Keep an old master that replctl did not start from taking writes: hold them back, wait until its successor has all
    /// that it can get, let it follow that.
    Demote {
        /// The old master.
        node: String,
        /// Its successor.
        to: String,
    },
    /// Go on though an old master that replctl did not start can neither be ended nor demoted, and note that.
    LeaveUnfenced {
        /// The old master.
        node: String,
    },
    /// Wait until the replicas that could be promoted have read to the end of what the old master sent, or of what those have
    /// that feed them.
    AwaitDrain {
        /// The replicas whose link still looked up.
        nodes: Vec<String>,
    },
    /// Hand the candidate what the old master had not sent it and left in its backlog file.
    Salvage {
        /// The old master.
        node: String,
        /// The candidate.
        to: String,
    },
    /// Write down what only this node has of the stream, as commands, before anything throws it away. If it is alive, it takes
    /// no write from then on.
    KeepTail {
        /// The node.
        node: String,
    },
    /// Let the candidate follow the master itself: it can only hand over to one that it feeds.
    Attach {
        /// The candidate.
        node: String,
        /// The master.
        to: String,
    },
    /// Let the master hold back its writes until the candidate has everything, become its replica, and the candidate the
    /// master: the two exchange roles by themselves (`FAILOVER`), and at no moment do both take writes.
    HandOver {
        /// The master.
        from: String,
        /// The candidate.
        to: String,
    },
    /// Make the candidate a master.
    Promote {
        /// The candidate.
        node: String,
    },
    /// See it say so, and see it take a write.
    Confirm {
        /// The candidate.
        node: String,
    },
    /// Let nodes follow the new master.
    Repoint {
        /// The nodes.
        nodes: Vec<String>,
        /// The new master.
        to: String,
    },
    /// See every link up and every replica caught up.
    ConfirmLinks {
        /// The replicas.
        nodes: Vec<String>,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fence { node } => write!(out, "fence {node}"),
            Self::Demote { node, to } => write!(out, "hold back {node}'s writes and let it follow {to}"),
            Self::LeaveUnfenced { node } => write!(out, "leave {node} unfenced, and note that"),
            Self::AwaitDrain { nodes } => write!(out, "let {} read to the end of the stream", listed(nodes)),
            Self::Salvage { node, to } => write!(out, "salvage what {node} had not sent to {to}"),
            Self::KeepTail { node } => write!(out, "keep what only {node} has as a list of commands"),
            Self::Attach { node, to } => write!(out, "let {node} follow {to} directly"),
            Self::HandOver { from, to } => write!(out, "hand over from {from} to {to}"),
            Self::Promote { node } => write!(out, "promote {node}"),
            Self::Confirm { node } => write!(out, "confirm that {node} takes writes"),
            Self::Repoint { nodes, to } => write!(out, "let {} follow {to}", listed(nodes)),
            Self::ConfirmLinks { nodes } => write!(out, "confirm the links of {}", listed(nodes)),
        }
    }
}

/// Whom every node but the candidate follows afterwards. Chains are kept where they hold: only who followed the old
/// master, or a node that is gone, comes under the new master directly. The candidate is the root of the new tree and the
/// old tree had no cycle, so the new one has none.
pub(super) fn upstreams_after(view: &GroupView, old: &NodeView, candidate: &NodeView) -> BTreeMap<String, String> {
    let keeps = |upstream: &&String| {
        **upstream != old.name && view.node(upstream).is_some_and(|upstream| upstream.report().is_some())
    };
    let others = view.nodes.iter().filter(|node| node.name != candidate.name || planted!(CandidateRepointed));
    others
        .map(|node| (node.name.clone(), node.meant_upstream.as_ref().filter(keeps).unwrap_or(&candidate.name).clone()))
        .collect()
}

pub(super) fn steps(
    view: &GroupView,
    old: &NodeView,
    (candidate, ranked): (&NodeView, &[Ranked]),
    upstreams: &BTreeMap<String, String>,
    salvage_from: Option<&NodeView>,
    loss: &LossEstimate,
) -> Vec<Step> {
    let mut steps = Vec::new();
    // Where a person has chosen between masters, the others become replicas.
    let came_back = returned_masters(view);
    let is_given_up = |node: &NodeView| {
        let takes_writes = candidate.is_answering_master() && node.is_answering_master();
        takes_writes && node.name != candidate.name && !came_back.contains(&node.name)
    };
    let fence = fence(old, candidate).filter(|_| !is_given_up(old));
    let is_fenced = matches!(fence, Some(Step::Fence { .. }));
    let is_salvaged = salvage_from.is_some_and(|from| from.name == old.name);
    let has_a_tail = matches!(old.kept_stream, KeptStream::Dead { .. }) && !is_salvaged && loss.gone().is_some();
    // Also a master that is ended though it answers, and leaves nothing to be salvaged.
    let can_tell = is_fenced && old.is_answering_master() && !is_salvaged;
    if has_a_tail || can_tell {
        steps.push(Step::KeepTail { node: old.name.clone() });
    }
    let given_up = names(view, is_given_up).into_iter();
    steps.extend(given_up.map(|node| Step::Demote { node, to: candidate.name.clone() }));
    steps.extend(fence.filter(|_| !planted!(FenceSkipped)));
    // A dead master's stream ends; one that somebody demoted goes on feeding its replicas.
    let ends = old.name != candidate.name
        && !is_given_up(old)
        && if old.is_managed() { !is_replica(old) } else { old.answer == Answer::NotListening };
    // What a replica has that cannot be promoted may be on its way to one that can.
    let is_ranked = |node: &NodeView| ranked.iter().any(|one| one.node == node.name);
    let relays = |from: &NodeView, node: &NodeView| is_replica(from) && is_ranked(node) && !is_ranked(from);
    // As long as the old master lives, a link that is down may come up.
    let drains = |node: &NodeView, from: &NodeView| match from.name == old.name {
        true => is_fenced || is_linked(node),
        // Who lost its link gets it back from one that feeds others as long as that has one itself. Where a change of masters broke
        // off, another one may have been the master before, and have been started again.
        false if relays(from, node) => is_linked(node) || is_linked(from),
        false => is_linked(node) && has_stopped_feeding(from, node),
    };
    let draining = if ends {
        names(view, |node| view.followed_by(node).is_some_and(|from| drains(node, from)))
    } else {
        Vec::new()
    };
    if !draining.is_empty() && !planted!(DrainSkipped) {
        steps.push(Step::AwaitDrain { nodes: draining });
    }
    if let Some(from) = salvage_from.filter(|_| !planted!(SalvageSkipped)) {
        steps.push(Step::Salvage { node: from.name.clone(), to: candidate.name.clone() });
    }
    steps.push(Step::Promote { node: candidate.name.clone() });
    steps.push(Step::Confirm { node: candidate.name.clone() });
    let mut returned = returned_masters(view);
    // Who allowed to take them back allowed that for these, too.
    let is_taken_back = candidate.meant_upstream.is_none() && candidate.is_answering_master();
    let strangers = if is_taken_back { Vec::new() } else { of_unknown_history(view, &returned) };
    returned.retain(|name| *name != old.name && *name != candidate.name && !strangers.contains(name));
    let returned = returned.into_iter();
    steps.extend(returned.map(|node| Step::Demote { to: upstreams[&node].clone(), node }));
    let is_follower = |node: &NodeView| {
        let is_gone = is_fenced && node.name == old.name || strangers.contains(&node.name);
        let reaches = || upstreams.get(&node.name).and_then(|to| view.node(to)).is_some_and(|to| node.reaches(to));
        node.report().is_some() && node.name != candidate.name && !is_gone && reaches()
    };
    let is_demoted = |node: &NodeView| {
        steps.iter().any(|step| matches!(step, Step::Demote { node: demoted, .. } if *demoted == node.name))
    };
    let moved = repoints(view, candidate, upstreams, |node| is_follower(node) && !is_demoted(node));
    steps.extend(moved);
    let followers = names(view, is_follower);
    if !followers.is_empty() {
        steps.push(Step::ConfirmLinks { nodes: followers });
    }
    steps
}

/// What keeps the old master from taking writes: its process is ended, or it is told to follow; `None`: nothing is to be
/// done, or nothing more can be.
fn fence(old: &NodeView, candidate: &NodeView) -> Option<Step> {
    if old.name == candidate.name || is_replica(old) {
        return None;
    }
    let node = old.name.clone();
    match (old.is_managed(), old.report()) {
        (true, _) => old.is_alive().then_some(Step::Fence { node }),
        (false, Some(_)) if old.reaches(candidate) => Some(Step::Demote { node, to: candidate.name.clone() }),
        (false, _) => Some(Step::LeaveUnfenced { node }),
    }
}

pub(super) fn switchover_steps(
    view: &GroupView,
    old: &NodeView,
    candidate: &NodeView,
    upstreams: &BTreeMap<String, String>,
) -> Vec<Step> {
    let mut steps = Vec::new();
    let (from, to) = (old.name.clone(), candidate.name.clone());
    if view.followed_by(candidate).is_none_or(|followed| followed.name != old.name) {
        steps.push(Step::Attach { node: to.clone(), to: from.clone() });
    }
    steps.push(Step::HandOver { from, to: to.clone() });
    steps.push(Step::Confirm { node: to });
    let follows = |node: &NodeView| node.report().is_some() && node.name != candidate.name;
    // The old master follows by itself once it has handed over.
    steps.extend(repoints(view, candidate, upstreams, |node| follows(node) && node.name != old.name));
    steps.push(Step::ConfirmLinks { nodes: names(view, follows) });
    steps
}

/// Who does not follow the right node yet, by that node, the candidate first.
fn repoints(
    view: &GroupView,
    candidate: &NodeView,
    upstreams: &BTreeMap<String, String>,
    is_follower: impl Fn(&NodeView) -> bool,
) -> Vec<Step> {
    let targets = std::iter::once(candidate).chain(view.nodes.iter().filter(|node| node.name != candidate.name));
    let moves_to = |node: &NodeView, to: &NodeView| {
        upstreams.get(&node.name) == Some(&to.name)
            && view.followed_by(node).is_none_or(|followed| followed.name != to.name)
    };
    let moved = targets.map(|to| (names(view, |node| is_follower(node) && moves_to(node, to)), to));
    moved
        .filter(|(nodes, _)| !nodes.is_empty() && !planted!(RepointForgotten))
        .map(|(nodes, to)| Step::Repoint { nodes, to: to.name.clone() })
        .collect()
}
