//! `repoint`: one replica follows another node of its group, where that can only be right.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::diagnosis::listed;
use super::links::{await_link, watch_replicas};
use super::plan::Refusal;
use super::promotion::{Resync, resync_by_log};
use super::unmanaged::{self, Diverged};
use super::view::{Answer, Clients, GroupView, NodeView, observe};
use super::{Group, GroupError, save_config};
use crate::event::{Event, Recorder};
use crate::process::launch::log_length;
use crate::process::{Durability, RunNode};
use crate::wire::{NodeClient, WireError};

/// How long a new upstream may take to have what the replica has.
const LEVEL_LIMIT: Duration = Duration::from_secs(1);
/// Between two looks at both.
const POLL_EVERY: Duration = Duration::from_millis(1);

/// A replica's new place, decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RepointPlan {
    /// The group.
    pub group: String,
    /// The replica.
    pub node: String,
    /// Whom it is meant to follow now.
    pub from: String,
    /// Whom it will follow.
    pub to: String,
}

/// What `repoint` did.
#[derive(Debug, Serialize)]
pub struct RepointReport {
    /// What was decided.
    #[serde(flatten)]
    pub plan: RepointPlan,
    /// How the replica came to its new upstream's history.
    pub resync: Resync,
    /// What it had of its own, if it took writes until then.
    pub diverged: Option<Diverged>,
    /// Until its link was up and it had caught up, in microseconds.
    pub took_us: u64,
}

impl RepointPlan {
    /// Decides.
    ///
    /// # Errors
    /// There is no such node; or a change of masters broke off, so that any node may be the master; or the node is the master, or it would follow itself by a detour; or the new upstream cannot
    /// feed it, or only by replacing its data by those of another history (force allows that).
    pub fn new(view: &GroupView, node: &str, to: &str, force: bool) -> Result<Self, GroupError> {
        let find = |name: &str| view.node(name).ok_or_else(|| Refusal::NoSuchNode(name.to_owned()));
        let (replica, upstream) = (find(node)?, find(to)?);
        if view.is_disputed {
            let reason = "a change of masters broke off, and nobody knows who is the master".to_owned();
            return Err(GroupError::Unsafe { reason, hint: "replctl promote".to_owned() });
        }
        let Some(from) = replica.meant_upstream.clone() else {
            let reason = format!("{node} is the master");
            return Err(GroupError::Unsafe { reason, hint: format!("replctl switchover {to}") });
        };
        if !view.sentinels.is_empty() {
            let reason = "sentinels let every replica follow the master itself".to_owned();
            let hint = "it takes a topology without [sentinel]".to_owned();
            return Err(GroupError::Unsafe { reason, hint });
        }
        refuse_cycle(view, replica, upstream)?;
        refuse_out_of_reach(replica, upstream)?;
        refuse_useless(replica, upstream, force)?;
        Ok(Self { group: view.group.clone(), node: node.to_owned(), from, to: to.to_owned() })
    }
}

fn refuse_cycle(view: &GroupView, replica: &NodeView, upstream: &NodeView) -> Result<(), GroupError> {
    let above = |node: &&NodeView| node.meant_upstream.as_deref().and_then(|name| view.node(name));
    let chain: Vec<&NodeView> = std::iter::successors(Some(upstream), above).take(view.nodes.len()).collect();
    match chain.iter().position(|node| node.name == replica.name) {
        None => Ok(()),
        Some(end) => {
            let mut names: Vec<String> = chain[..=end].iter().map(|node| node.name.clone()).collect();
            names.insert(0, replica.name.clone());
            let reason = format!("{} would follow itself: {}", replica.name, names.join(" -> "));
            let hint = format!("choose a node that is not below {}", replica.name);
            Err(GroupError::Unsafe { reason, hint })
        }
    }
}

fn refuse_out_of_reach(replica: &NodeView, upstream: &NodeView) -> Result<(), GroupError> {
    if replica.reaches(upstream) {
        return Ok(());
    }
    let (node, to) = (&replica.name, &upstream.name);
    let reason = format!("{to} listens on this machine's loopback only, and {node} is on another machine");
    Err(GroupError::Unsafe { reason, hint: "choose a node that it can reach".to_owned() })
}

fn refuse_useless(replica: &NodeView, upstream: &NodeView, force: bool) -> Result<(), GroupError> {
    let to = &upstream.name;
    let refuse = |reason: String, hint: &str| Err(GroupError::Unsafe { reason, hint: hint.to_owned() });
    let report = match &upstream.answer {
        Answer::Report(report) if !report.is_loading => report,
        Answer::Report(_) | Answer::Loading => {
            return refuse(format!("{to} is loading its data"), "wait until it has loaded");
        }
        _ => return refuse(format!("{to} cannot be reached"), "replctl status"),
    };
    if report.replication.upstream().is_some_and(|above| !above.holds_data) {
        return refuse(format!("{to} holds no data: its first sync never finished"), "wait until it has a link");
    }
    let Some(own) = replica.report() else {
        return refuse(format!("{} cannot be reached", replica.name), "replctl status");
    };
    let (own, theirs) = (&own.replication, &report.replication);
    let is_shared = own.replid == theirs.replid
        || theirs
            .former
            .as_ref()
            .is_some_and(|former| former.replid == own.replid && own.offset <= former.shared_up_to);
    let has_data = own.upstream().is_none_or(|above| above.holds_data);
    if !is_shared && has_data && !force {
        let reason = format!(
            "{to} is of another history ({}, not {}): what {} holds would be replaced",
            theirs.replid.short(),
            own.replid.short(),
            replica.name
        );
        return refuse(reason, "--force replaces it");
    }
    Ok(())
}

/// Carries the plan out: the replica is told, the group's roles are kept, and the link is waited for.
///
/// # Errors
/// The replica refuses, or its link is not up within `limit`.
pub async fn repoint(
    group: &mut Group,
    clients: &Clients,
    plan: RepointPlan,
    limit: Duration,
    recorder: &mut Recorder,
) -> Result<RepointReport, GroupError> {
    recorder.record(Event::Began { command: "repoint".to_owned() })?;
    let began = Instant::now();
    let result = follow(group, clients, &plan, limit, recorder).await;
    let error = result.as_ref().err().map(ToString::to_string);
    recorder.record(Event::Finished { command: "repoint".to_owned(), error })?;
    let took_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    let (resync, diverged) = result?;
    Ok(RepointReport { resync, diverged, plan, took_us })
}

async fn follow(
    group: &mut Group,
    clients: &Clients,
    plan: &RepointPlan,
    limit: Duration,
    recorder: &mut Recorder,
) -> Result<(Resync, Option<Diverged>), GroupError> {
    let wire = |source| GroupError::Wire { node: plan.node.clone(), source };
    let client = |name: &str| clients.get(name).ok_or(WireError::Closed).map_err(wire);
    let (replica, upstream) = (client(&plan.node)?, client(&plan.to)?);
    let log = group.dir.log_file(&plan.node);
    let mark = log_length(&log);
    let unfenced = group.run.node(&plan.node).and_then(RunNode::unmanaged).and_then(|server| server.unfenced.as_ref());
    let diverged = match replica.replication().await.map_err(wire)?.is_master() {
        true => {
            let demoted = unmanaged::demote(&group.dir, &plan.node, unfenced, replica, upstream).await;
            let (diverged, tails) = demoted.map_err(wire)?;
            for tail in tails {
                recorder.record(Event::Tail { tail })?;
            }
            Some(diverged)
        }
        false => {
            await_no_less(replica, upstream).await.map_err(wire)?;
            replica.follow(upstream.announced()).await.map_err(wire)?;
            None
        }
    };
    if let Some(diverged) = diverged.clone() {
        recorder.record(Event::Demoted { diverged, to: plan.to.clone() })?;
    }
    let node = group.run.node_mut(&plan.node).expect("a plan names nodes of its group");
    node.upstream = Some(plan.to.clone());
    group.dir.save_run_state(&group.run, Durability::Disk)?;
    let node = group.run.node(&plan.node).expect("a plan names nodes of its group");
    save_config(&group.dir, &group.run, node)?;
    recorder.record(Event::Repointed { node: plan.node.clone(), from: plan.from.clone(), to: plan.to.clone() })?;
    let display = recorder.display();
    let link = await_link(&plan.node, replica, watch_replicas(upstream.clone()), &display);
    match tokio::time::timeout(limit, link).await {
        Ok(linked) => linked.map_err(wire)?,
        Err(_) => {
            let pending = vec![listed(std::slice::from_ref(&plan.node)) + " (has no link, or has not caught up)"];
            return Err(GroupError::TimedOut { pending, limit_ms: limit.as_millis() });
        }
    };
    if group.run.node(&plan.node).is_some_and(|node| node.unmanaged().is_some()) {
        unmanaged::keep_role(replica).await;
        let (view, _) = observe(group).await?;
        if unmanaged::recognise(&mut group.run, &view) {
            group.dir.save_run_state(&group.run, Durability::Disk)?;
        }
    }
    Ok((resync_by_log(&log, mark), diverged))
}

/// Waits for a moment at which the new upstream has all that the replica has: one that has more could not go on where it is.
/// Under many writes there may be none to be seen, and then it is left to chance.
async fn await_no_less(replica: &NodeClient, upstream: &NodeClient) -> Result<(), WireError> {
    let deadline = Instant::now() + LEVEL_LIMIT;
    loop {
        let own = replica.replication().await?;
        let theirs = upstream.replication().await?;
        if theirs.offset >= own.offset || theirs.replid != own.replid || Instant::now() > deadline {
            return Ok(());
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::tests::{dead, id, linked, master, view, with};
    use super::*;

    fn refusal(nodes: Vec<NodeView>, node: &str, to: &str) -> String {
        match RepointPlan::new(&view(nodes), node, to, false) {
            Err(error) => error.to_string(),
            Ok(plan) => panic!("{plan:?}"),
        }
    }

    #[test]
    fn a_replica_may_follow_any_node_of_its_history_that_is_not_below_it() {
        let nodes = vec![master(1, 90), linked(2, 1, 90), linked(3, 2, 90), linked(4, 1, 90)];
        let plan = RepointPlan::new(&view(nodes.clone()), "n3", "n4", false).expect("n4 is as good as n2");
        assert_eq!((plan.from.as_str(), plan.to.as_str()), ("n2", "n4"));
        assert_eq!(refusal(nodes.clone(), "n2", "n3"), "n2 would follow itself: n2 -> n3 -> n2");
        assert_eq!(refusal(nodes.clone(), "n2", "n2"), "n2 would follow itself: n2 -> n2");
        assert_eq!(refusal(nodes.clone(), "n1", "n2"), "n1 is the master");
        assert_eq!(refusal(nodes, "n2", "n9"), "the group has no node n9");
    }

    #[test]
    fn nobody_is_moved_while_it_is_open_who_is_the_master() {
        // n3 was being made the master, and is one.
        let mut nodes = vec![linked(1, 3, 90), linked(2, 1, 90), master(3, 95)];
        (nodes[0].meant_upstream, nodes[2].meant_upstream) = (None, Some("n1".to_owned()));
        let disputed = GroupView { is_disputed: true, ..view(nodes) };
        let error = RepointPlan::new(&disputed, "n3", "n2", false).expect_err("its writes would be lost");
        assert_eq!(error.to_string(), "a change of masters broke off, and nobody knows who is the master");
    }

    #[test]
    fn an_upstream_that_cannot_feed_is_refused_and_another_history_needs_force() {
        let with_fourth = |fourth: NodeView| vec![master(1, 90), linked(2, 1, 90), linked(3, 1, 90), fourth];
        assert_eq!(refusal(with_fourth(dead(4, Some(1))), "n2", "n4"), "n4 cannot be reached");
        let loading = with(linked(4, 1, 90), |report| report.is_loading = true);
        assert_eq!(refusal(with_fourth(loading), "n2", "n4"), "n4 is loading its data");
        let foreign = with(linked(4, 1, 90), |report| report.replication.replid = id('b'));
        assert!(refusal(with_fourth(foreign.clone()), "n2", "n4").contains("another history"));
        RepointPlan::new(&view(with_fourth(foreign)), "n2", "n4", true).expect("force replaces the data");
    }
}
