//! `kill-master`: the master ends as if its machine had failed, and what was known just before is kept.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Serialize;

use super::diagnosis::diagnose;
use super::stop::end_processes;
use super::unmanaged::{Untouchable, refuse_unmanaged};
use super::view::{GroupView, observe};
use super::{Group, GroupError, save_config};
use crate::event::{Event, Recorder};
use crate::process::ProcessIdentity;

/// What `kill-master` is about to do.
#[derive(Debug, Clone, Serialize)]
pub struct KillPlan {
    /// The group.
    pub group: String,
    /// The node that is the master.
    pub master: String,
    /// Its process.
    pub process: ProcessIdentity,
    /// Where every node that answers is, in bytes of the replication stream.
    pub offsets: BTreeMap<String, u64>,
}

/// What `kill-master` did.
#[derive(Debug, Clone, Serialize)]
pub struct KillReport {
    /// What was known just before.
    #[serde(flatten)]
    pub plan: KillPlan,
    /// From the signal to the process's end, in microseconds.
    pub took_us: u64,
}

impl KillPlan {
    /// Finds the master: the node that takes writes, or, if none does, the one that is meant to.
    ///
    /// # Errors
    /// No master's process lives.
    pub async fn new(group: &Group) -> Result<Self, GroupError> {
        let (view, _) = observe(group).await?;
        let mut masters = view.nodes.iter().filter(|node| node.is_answering_master());
        let master = masters.next().unwrap_or_else(|| view.meant_master());
        refuse_unmanaged(group, std::slice::from_ref(&master.name), Untouchable::Kill)?;
        let process = master.process().cloned().filter(|_| master.is_alive() && masters.next().is_none());
        let Some(process) = process else { return Err(GroupError::NoLivingMaster(diagnose(&view))) };
        Ok(Self { group: view.group.clone(), master: master.name.clone(), process, offsets: offsets(&view) })
    }
}

fn offsets(view: &GroupView) -> BTreeMap<String, u64> {
    let reported = view.nodes.iter().filter_map(|node| Some((node.name.clone(), node.report()?.replication.offset)));
    reported.collect()
}

/// Kills the process that the plan names, by SIGKILL, and waits for its end. Its replicas go on asking its port, so its
/// configuration file no longer makes a master: started by hand and without its data, it would hand them its emptiness.
///
/// # Errors
/// It cannot be killed.
pub async fn kill_master(group: &Group, plan: KillPlan, recorder: &mut Recorder) -> Result<KillReport, GroupError> {
    disarm(group, &plan.master)?;
    recorder.record(Event::MasterKilled {
        node: plan.master.clone(),
        process: plan.process.clone(),
        offsets: plan.offsets.clone(),
    })?;
    let began = Instant::now();
    end_processes(vec![(plan.master.clone(), plan.process.clone())], None).await?;
    let took_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    recorder.show(Event::Ended { node: plan.master.clone() });
    Ok(KillReport { plan, took_us })
}

/// Lets the file of a master say that it follows one of its replicas. Of two that follow each other none has data to give.
pub(super) fn disarm(group: &Group, master: &str) -> Result<(), GroupError> {
    let mut run = group.run.clone();
    let replica = run.nodes.iter().find(|node| node.upstream.as_deref() == Some(master)).map(|node| node.name.clone());
    let (Some(replica), Some(node)) = (replica, run.node_mut(master)) else { return Ok(()) };
    node.upstream = Some(replica);
    let node = node.clone();
    Ok(save_config(&group.dir, &run, &node)?)
}
