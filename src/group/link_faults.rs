//! The links of a group that has a process to carry them ([`crate::fault`]): that process is started, told where the nodes
//! are, told what to do to a link, and ended.

use std::io;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::stop::end_processes;
use super::{Group, GroupError, Refusal};
use crate::event::{Event, Recorder};
use crate::fault::{EdgeAim, EdgeState, LinkOrder, order};
use crate::process::{Condition, GroupDir, LINKS, LinkPort, Program, RunNode, RunState, Started, spawn_links};
use crate::topology::{Engine, EngineFamily, LinkFault};

/// How long the process may take to answer when it was started.
const START_LIMIT: Duration = Duration::from_secs(10);
/// Who takes a node's entrance: no node can be called so.
pub const EVERYBODY: &str = "*";
/// Between two attempts.
const RETRY_EVERY: Duration = Duration::from_millis(2);

/// Starts the process that carries the links, if it does not run.
///
/// # Errors
/// There is no replctl to do it, or it cannot be executed.
pub(super) fn start(dir: &GroupDir, run: &mut RunState) -> Result<Option<Started>, GroupError> {
    let Some(links) = &mut run.links else { return Ok(None) };
    if let Some(process) = &links.process
        && process.condition()? != Condition::Dead
    {
        return Ok(None);
    }
    dir.create_node_dir(LINKS)?;
    let replctl = Program::find(&Engine { family: EngineFamily::Repld, path: None });
    let replctl = replctl.map_err(|source| GroupError::Engine { node: LINKS.to_owned(), source })?;
    let started = spawn_links(&replctl, dir)?;
    links.process = Some(started.identity.clone());
    Ok(Some(started))
}

/// Tells it where every node is; learns by which ports they reach each other.
///
/// # Errors
/// It does not answer in time.
pub(super) async fn aim(dir: &GroupDir, run: &mut RunState) -> Result<(), GroupError> {
    let aim = LinkOrder::Aim { edges: edges(run) };
    let give_up = Instant::now() + START_LIMIT;
    let edges = loop {
        match order(dir, &aim).await {
            Ok(edges) => break edges,
            Err(reason) if Instant::now() > give_up => return Err(GroupError::Links { reason }),
            Err(_) => tokio::time::sleep(RETRY_EVERY).await,
        }
    };
    if run.sentinels.is_some() {
        for EdgeState { aim, .. } in edges {
            if let Some(server) = run.node_mut(&aim.to).and_then(RunNode::managed_mut) {
                server.entrance = Some(aim.port);
            }
        }
        return Ok(());
    }
    for node in &mut run.nodes {
        let own = edges.iter().filter(|edge| edge.aim.from == node.name).map(|edge| &edge.aim);
        let ports = own.map(|aim| LinkPort { to: aim.to.clone(), target: aim.target, port: aim.port }).collect();
        if let Some(server) = node.managed_mut() {
            server.link_ports = ports;
        }
    }
    Ok(())
}

/// The way of everybody to a node.
fn entrance(node: &RunNode) -> Option<EdgeAim> {
    let server = node.managed()?;
    let (from, to) = (EVERYBODY.to_owned(), node.name.clone());
    Some(EdgeAim { from, to, target: server.port, port: server.entrance.unwrap_or(0) })
}

/// Every way from a node to another one, with the port that it had; in a group with Sentinels every node's entrance.
fn edges(run: &RunState) -> Vec<EdgeAim> {
    if run.sentinels.is_some() {
        return run.nodes.iter().filter_map(entrance).collect();
    }
    let mut edges = Vec::new();
    for from in &run.nodes {
        for to in run.nodes.iter().filter(|to| to.name != from.name) {
            let (Some(own), Some(other)) = (from.managed(), to.managed()) else { continue };
            let port = own.link_ports.iter().find(|way| way.to == to.name).map_or(0, |way| way.port);
            edges.push(EdgeAim { from: from.name.clone(), to: to.name.clone(), target: other.port, port });
        }
    }
    edges
}

/// Ends the process that carries the links, if there is one.
///
/// # Errors
/// It does not end.
pub(super) async fn end(run: &mut RunState) -> Result<(), GroupError> {
    let process = run.links.as_mut().and_then(|links| links.process.take());
    end_processes(process.map(|process| (LINKS.to_owned(), process)).into_iter().collect(), None).await
}

/// Something that is to be done to a link, and can be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinkPlan {
    /// The replica.
    pub from: String,
    /// The node at the link's other end.
    pub to: String,
    /// What.
    #[serde(flatten)]
    pub fault: LinkFault,
}

impl LinkPlan {
    /// For the link of a node to another one: to the one that it follows, unless another is named. Where there are Sentinels
    /// everybody reaches a node by one way, which is meant then.
    ///
    /// # Errors
    /// There is no such node or link, or the group's links are not carried.
    pub fn new(group: &Group, node: &str, to: Option<&str>, fault: LinkFault) -> Result<Self, GroupError> {
        refuse_uncarried(group)?;
        let find = |name: &str| group.run.node(name).ok_or_else(|| Refusal::NoSuchNode(name.to_owned()));
        let from = find(node)?;
        if group.run.sentinels.is_some() {
            return match to {
                None => Ok(Self { from: EVERYBODY.to_owned(), to: node.to_owned(), fault }),
                Some(_) => Err(GroupError::Unsafe {
                    reason: "with sentinels all go to a node by one way: a single link cannot be broken".to_owned(),
                    hint: format!("leave --to out: {node} cannot be reached then"),
                }),
            };
        }
        let to = match to {
            Some(to) => find(to)?.name.clone(),
            None => from.upstream.clone().ok_or_else(|| GroupError::Unsafe {
                reason: format!("{node} is the master and follows nobody"),
                hint: format!("replctl link {} REPLICA; or name the node with --to", fault.verb()),
            })?,
        };
        if to == node {
            let reason = format!("{node} has no link to itself");
            return Err(GroupError::Unsafe { reason, hint: "name another node with --to".to_owned() });
        }
        Ok(Self { from: node.to_owned(), to, fault })
    }
}

/// Does something to a link, and says so in the journal; returns how the link is then.
///
/// # Errors
/// Who carries the links does not answer, or the journal cannot be written.
pub async fn break_link(dir: &GroupDir, plan: LinkPlan, recorder: &mut Recorder) -> Result<EdgeState, GroupError> {
    let LinkPlan { from, to, fault } = plan;
    recorder.record(Event::LinkChanged { node: from.clone(), to: to.clone(), fault: fault.clone() })?;
    let edges = order(dir, &LinkOrder::Fault { from, to, fault }).await;
    let edges = edges.map_err(|reason| GroupError::Links { reason })?;
    edges.into_iter().next().ok_or_else(|| GroupError::Links { reason: io::ErrorKind::InvalidData.into() })
}

/// How every way from one node to another is, taken or not.
///
/// # Errors
/// The group's links are not carried, or who carries them does not answer.
pub async fn link_states(group: &Group) -> Result<Vec<EdgeState>, GroupError> {
    refuse_uncarried(group)?;
    order(&group.dir, &LinkOrder::Status).await.map_err(|reason| GroupError::Links { reason })
}

fn refuse_uncarried(group: &Group) -> Result<(), GroupError> {
    if group.run.links.is_some() {
        return Ok(());
    }
    Err(GroupError::Unsafe {
        reason: format!("the links of {} go from node to node and cannot be broken", group.run.group),
        hint: "write `[faults]` with `links = true` into its topology, then replctl down and up".to_owned(),
    })
}
