//! A rolling upgrade: a group goes over to another engine, or another version of it, node by node, and serves all the time.
//!
//! ```text
//! n1 old   n2 old   n3 old        n3: end, files aside, new engine, link up, files gone
//! n1 old   n2 old   n3 new        n2: the same
//! n1 old   n2 new   n3 new        n1 hands over to n2
//! n1 old   n2 new   n3 new        n1: as n3 was
//! ```
//!
//! A node keeps its files only if the new program is the same engine and no older one. Else it starts with nothing and gets all
//! from its upstream, and its old files wait until it has: if it does not come up, it gets them and its old engine back.
//!
//! [`Upgrade::new`] refuses, before anything is touched, what is known not to work: replicas must read the RDB format of
//! who they follow ([`Build`]).

use std::collections::BTreeMap;

use serde::Serialize;

use super::bring_up::refuse_if_unsafe;
use super::diagnosis::{Diagnosis, diagnose, listed};
use super::view::observe;
use super::{Group, GroupError};
use crate::process::{Build, Condition, Durability, ManagedServer, Program, Reading, RunNode, RunState};
use crate::topology::Engine;

/// What is about to happen to the engines of a group.
#[derive(Debug, Clone, Serialize)]
pub struct Upgrade {
    /// What serves the nodes afterwards.
    #[serde(serialize_with = "as_text")]
    pub engine: Engine,
    /// Its version.
    pub version: String,
    /// The nodes that go over to it, in this order.
    pub nodes: Vec<String>,
    /// The nodes that have it already.
    pub done: Vec<String>,
    /// What may fail, in words.
    pub doubts: Vec<String>,
}

/// What a node was served by before its engine was changed.
#[derive(Debug)]
pub struct Former {
    engine: Engine,
}

impl Upgrade {
    /// Decides which of `nodes`, in their order, go over to `engine`.
    ///
    /// # Errors
    /// The engine is missing; or the master does not work; or a node could not be synchronized in full then.
    pub async fn new(group: &Group, nodes: &[String], engine: &Engine) -> Result<Self, GroupError> {
        let (view, _) = observe(group).await?;
        refuse_if_unsafe(&view)?;
        if diagnose(&view) == Diagnosis::Down {
            let (reason, hint) = ("nothing of the group runs".to_owned(), "replctl up, then again".to_owned());
            return Err(GroupError::Unsafe { reason, hint });
        }
        let target = target(nodes, engine).await?;
        let has_it = |name: &String| group.run.node(name).is_some_and(|node| has(node, engine, &target));
        let (done, nodes): (Vec<_>, Vec<_>) = nodes.iter().cloned().partition(has_it);
        let doubts = doubts(&group.run, &nodes, &target)?;
        Ok(Self { engine: engine.clone(), version: target.version, nodes, done, doubts })
    }

    fn build(&self) -> Build {
        Build { family: self.engine.family, version: self.version.clone() }
    }

    /// Makes a node that has ended ready to start on the new engine. That is written down when it has been started.
    ///
    /// # Errors
    /// The state directory cannot be written.
    pub fn equip(&self, group: &mut Group, node: &str, before: &Build) -> Result<Option<Former>, GroupError> {
        let Some(server) = group.run.node_mut(node).and_then(RunNode::managed_mut) else { return Ok(None) };
        let former = Former { engine: server.engine.clone() };
        if !self.build().reads_files_of(before) {
            group.dir.set_aside(node, &files_that_stay(server))?;
        }
        server.change_engine(self.engine.clone());
        Ok(Some(former))
    }
}

impl Former {
    /// Gives a node that has ended its old engine and its old files back.
    ///
    /// # Errors
    /// The state directory cannot be written.
    pub fn bring_back(self, group: &mut Group, node: &str) -> Result<(), GroupError> {
        let Some(server) = group.run.node_mut(node).and_then(RunNode::managed_mut) else { return Ok(()) };
        server.change_engine(self.engine);
        let server = server.clone();
        group.dir.bring_back(node, &files_that_stay(&server))?;
        Ok(group.dir.save_run_state(&group.run, Durability::Disk)?)
    }
}

/// What serves a node, as far as it is known.
pub fn build_of(run: &RunState, node: &str) -> Option<Build> {
    run.node(node).and_then(build)
}

fn build(node: &RunNode) -> Option<Build> {
    let server = node.managed()?;
    let version = server.process.as_ref().map(|process| process.version.clone()).unwrap_or_default();
    Some(Build { family: server.engine.family, version })
}

async fn target(nodes: &[String], engine: &Engine) -> Result<Build, GroupError> {
    let of_first = |source| GroupError::Engine { node: nodes.first().cloned().unwrap_or_default(), source };
    let program = Program::find(engine).map_err(of_first)?;
    let version = program.version().await.map_err(of_first)?;
    Ok(Build { family: engine.family, version })
}

fn has(node: &RunNode, engine: &Engine, target: &Build) -> bool {
    let is_alive = node
        .process()
        .is_some_and(|process| process.identity.condition().is_ok_and(|condition| condition != Condition::Dead));
    is_alive && node.managed().is_some_and(|server| server.engine == *engine) && build(node).as_ref() == Some(target)
}

/// Goes through the upgrade in thought: at each step the restarted node must be able to follow its upstream, and its own
/// replicas to follow it.
fn doubts(run: &RunState, nodes: &[String], target: &Build) -> Result<Vec<String>, GroupError> {
    let mut builds: BTreeMap<&str, Build> =
        run.nodes.iter().filter_map(|node| Some((node.name.as_str(), build(node)?))).collect();
    let mut doubts = Vec::new();
    for node in nodes.iter().filter_map(|name| run.node(name)) {
        if run.nodes.len() == 1 {
            refuse_unless_it_reads_its_files(node, target)?;
        }
        builds.insert(&node.name, target.clone());
        let above = node.upstream.as_deref().map(|upstream| (node.name.as_str(), upstream));
        let below = run.nodes.iter().filter(|other| other.upstream.as_deref() == Some(&node.name));
        // The master has handed over by then: it is one of its replicas' replicas, and they have all gone before.
        let below = below.filter(|_| node.upstream.is_some()).map(|other| (other.name.as_str(), node.name.as_str()));
        for (replica, master) in above.into_iter().chain(below) {
            doubts.extend(doubt(&builds, replica, master)?);
        }
    }
    Ok(doubts)
}

fn doubt(builds: &BTreeMap<&str, Build>, replica: &str, master: &str) -> Result<Option<String>, GroupError> {
    let (Some(below), Some(above)) = (builds.get(replica), builds.get(master)) else { return Ok(None) };
    match below.reads_from(above) {
        Reading::Known => Ok(None),
        Reading::Unknown => Ok(Some(format!(
            "whether {replica} on {below} can be synchronized by {master} on {above} is not known: it may fail"
        ))),
        Reading::Impossible(rdb) => Err(GroupError::Unsafe {
            reason: format!(
                "{replica} on {below} could not be synchronized by {master} on {above}: that sends RDB version {rdb} or later, which {below} does not read"
            ),
            hint: "nothing was touched; take an engine that reads it, or go by one that both understand: repld reads and writes for all"
                .to_owned(),
        }),
    }
}

fn refuse_unless_it_reads_its_files(node: &RunNode, target: &Build) -> Result<(), GroupError> {
    match build(node) {
        Some(before) if target.reads_files_of(&before) => Ok(()),
        before => Err(GroupError::Unsafe {
            reason: format!(
                "{} has no replica, so its data would have to come from files that {target} is not known to read{}",
                node.name,
                before.map(|before| format!(" (it runs on {before})")).unwrap_or_default()
            ),
            hint: "give the group a replica first".to_owned(),
        }),
    }
}

/// Files in a node's directory that are no data: the topology's directives name them.
fn files_that_stay(server: &ManagedServer) -> Vec<&str> {
    server.config.get("aclfile").map(|name| name.trim_matches('"')).into_iter().collect()
}

/// Where an upgrade stands, in words.
pub fn standing(group: &Group, upgrade: &Upgrade) -> String {
    let (with, without): (Vec<&RunNode>, Vec<&RunNode>) =
        group.run.nodes.iter().partition(|node| has(node, &upgrade.engine, &upgrade.build()));
    let names = |nodes: Vec<&RunNode>| listed(&nodes.iter().map(|node| node.name.clone()).collect::<Vec<_>>());
    match with.is_empty() {
        true => format!("no node has {} yet", upgrade.build()),
        false => format!("{} on {}, {} not", names(with), upgrade.build(), names(without)),
    }
}

fn as_text<S: serde::Serializer>(engine: &Engine, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(engine)
}
