//! `promote` and `switchover`: carry out what a [`Failover`] decides, step by step, each written to the journal before and
//! after.
//!
//! The order of things after a crash of this program, wherever it comes: the plan is decided anew from what is seen, and every
//! step is one that can be done twice. Before `promote` nothing has changed; after it the candidate is seen as a master and
//! the plan only completes what is missing. The run state names the new master as soon as it is one.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::task::JoinSet;

use super::diagnosis::{Diagnosis, diagnose, listed};
use super::failover::{Failover, Next, StepOutcome};
use super::hand_over::{self, HandOver, HandOverEnd, HandOverOrder, Word};
use super::journal::{RECENT_BYTES, read_end};
use super::links::{await_link, watch_replicas};
use super::pause::WritePause;
use super::plan::{FailoverPlan, LossEstimate, LostRange, Policy, Step, has_stopped_feeding};
use super::salvage::{self, Ghost, Salvaged};
use super::sentinel;
use super::stop::end_processes;
use super::tail::{self, Tail, TailError, TailReport};
use super::unmanaged::{self, Diverged};
use super::view::{Clients, GroupView, NodeView, observe};
use super::{Group, GroupError, endpoint, save_config};
use crate::event::{Event, Recorder};
use crate::process::launch::{log_length, text_since};
use crate::process::{Durability, GroupDir, Promoting, RunNode, Unfenced};
use crate::topology::{Address, EngineFamily};
use crate::wire::{NodeClient, NodeReport, Replication, ReplicationId, WireError};

/// How long replicas may take to read what a dead master has sent: it lies in their own socket buffers.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);
/// How long a promoted node may take to accept its first write.
const FIRST_WRITE_LIMIT: Duration = Duration::from_secs(5);
/// Between two looks at a node that is about to be where it should.
const POLL_EVERY: Duration = Duration::from_millis(1);
/// A write that changes nothing: this key does not exist, and deleting it is refused by a replica and accepted by a master.
const PROBE: [&str; 2] = ["DEL", "replctl:write-probe:00c0ffee-no-such-key"];

/// What a promotion did.
#[derive(Debug, Serialize)]
pub struct FailoverReport {
    /// The plan that was executed.
    pub plan: FailoverPlan,
    /// The group when it was decided.
    pub before: GroupView,
    /// The group when all was done.
    pub after: GroupView,
    /// What is wrong with it then. A dead old master is no surprise.
    pub diagnosis_after: Diagnosis,
    /// From the command's start to the first write that the new master accepted, in microseconds. `None`: it accepted none
    /// (it may be waiting for `min-replicas-to-write`).
    pub first_write_us: Option<u64>,
    /// For how long nobody took writes: from the order to hand over to the first write that the new master accepted, in
    /// microseconds. `None` unless the old master handed over.
    pub write_pause_us: Option<u64>,
    /// From the command's start to the last confirmed link, in microseconds.
    pub took_us: u64,
    /// The steps, in order.
    pub steps: Vec<StepReport>,
    /// What the new master got from the old one's backlog. `None`: there was none to be had.
    pub salvaged: Option<Salvaged>,
    /// What is lost, as far as it is known afterwards.
    pub loss: LossEstimate,
    /// What of that is known: a part of a history that no node of the group has any more.
    pub gone: Option<LostRange>,
    /// The ends of streams that were written down as commands, and those that could not be.
    pub tails: Vec<TailReport>,
    /// What masters had that were demoted, and the new master has not.
    pub diverged: Vec<Diverged>,
    /// How every replica came to follow the new master.
    pub resyncs: BTreeMap<String, Resync>,
    /// Replicas that should follow and did not in time.
    pub missing: Vec<String>,
    /// What went wrong with the user's hook, if there is one.
    pub hook_error: Option<String>,
}

impl FailoverReport {
    /// Whether there is a master that takes writes, everybody follows it, what was to be kept is kept, and the user's hook has
    /// run.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
            && self.first_write_us.is_some()
            && self.hook_error.is_none()
            && !self.tails.iter().any(TailReport::is_gone)
    }
}

/// One step that was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StepReport {
    /// The step.
    #[serde(flatten)]
    pub step: Step,
    /// How long it took, in microseconds.
    pub took_us: u64,
}

/// How a replica came to the new master's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resync {
    /// It went on where it was.
    Partial,
    /// It threw away what it had and got everything anew.
    Full,
    /// Nothing tells.
    Unknown,
}

/// Replaces a lost master: observes, decides, executes, observes again. `command` is what the journal calls it; `began` is when
/// it started; `limit` bounds the wait for links.
///
/// # Errors
/// [`GroupError::Refused`]: there is no plan. [`GroupError::StepFailed`]: the plan broke off; the same command again resumes.
pub async fn promote(
    command: &'static str,
    group: &mut Group,
    policy: &Policy,
    began: Instant,
    limit: Duration,
    recorder: &mut Recorder,
) -> Result<FailoverReport, GroupError> {
    sentinel::refuse_second_decider(group, policy)?;
    let (view, clients) = observe_calm(group).await?;
    let failover = Failover::promote(&view, policy)?;
    let limits = Limits { began, patience: Duration::ZERO, links: limit };
    if group.run.sentinels.is_none() {
        return Promotion::new(command, failover, group, (view, clients), limits, recorder).run().await;
    }
    sentinel::hold(group).await?;
    let report = async {
        // What was seen before may be what a Sentinel has made of it by now.
        let (view, clients) = observe_calm(group).await?;
        let failover = Failover::promote(&view, policy)?;
        Promotion::new(command, failover, group, (view, clients), limits, recorder).run().await
    };
    let report = report.await;
    give_back(group, recorder).await?;
    report
}

/// Lets the Sentinels watch the group again. Not while it is open who is the master: the same command again ends that first.
async fn give_back(group: &Group, recorder: &Recorder) -> Result<(), GroupError> {
    if group.run.promoting.is_some() {
        return Ok(());
    }
    let deaf = sentinel::release(group).await?;
    if !deaf.is_empty() {
        let text = format!("{} could not be told of the master, and nobody watches there: replctl up", listed(&deaf));
        recorder.show(Event::Warning { text });
    }
    Ok(())
}

/// Whether a change of masters broke off when it had made the wished node the master already: then a promotion ends it.
///
/// # Errors
/// The journal cannot be read.
pub(super) fn is_half_done(group: &Group, view: &GroupView, wanted: Option<&str>) -> Result<bool, GroupError> {
    Ok(match diagnose(view) {
        Diagnosis::MasterMoved { to, .. } => {
            let is_ours = group.run.promoting.as_ref().is_some_and(|promoting| promoting.node == to);
            is_ours && wanted.is_none_or(|wanted| wanted == to)
        }
        Diagnosis::OrphanedReplicas { master, .. } => match wanted {
            Some(wanted) => wanted == master,
            None => has_broken_off(group)?,
        },
        _ => false,
    })
}

/// Whether the last command that wrote down its beginning has not written down its end.
fn has_broken_off(group: &Group) -> Result<bool, GroupError> {
    let entries = read_end(&group.dir.journal_file(), RECENT_BYTES)?;
    let last = entries.iter().rev().find(|entry| matches!(entry.event, Event::Began { .. } | Event::Finished { .. }));
    Ok(last.is_some_and(|entry| matches!(entry.event, Event::Began { .. })))
}

/// Exchanges the roles of a master that works and a replica: observes, decides, executes, observes again. `patience` is how
/// long the master may hold back its writes for the replica to catch up.
///
/// # Errors
/// As [`promote`]; where the hand-over itself fails, the master is the master as before.
pub async fn switchover(
    group: &mut Group,
    policy: &Policy,
    began: Instant,
    (patience, limit): (Duration, Duration),
    recorder: &mut Recorder,
) -> Result<FailoverReport, GroupError> {
    let (view, clients) = observe_calm(group).await?;
    let failover = match exchange(group, &view, policy) {
        Err(refusal) => {
            // A hand-over may have been ended, and not what comes after it.
            give_back(group, recorder).await?;
            return Err(refusal);
        }
        Ok(failover) => failover,
    };
    let limits = Limits { began, patience, links: limit };
    if group.run.sentinels.is_none() {
        return Promotion::new("switchover", failover, group, (view, clients), limits, recorder).run().await;
    }
    sentinel::hold(group).await?;
    let report = async {
        let (view, clients) = observe_calm(group).await?;
        let failover = exchange(group, &view, policy)?;
        Promotion::new("switchover", failover, group, (view, clients), limits, recorder).run().await
    };
    let report = report.await;
    give_back(group, recorder).await?;
    report
}

/// The exchange of roles that is asked for, or the end of one that broke off.
fn exchange(group: &Group, view: &GroupView, policy: &Policy) -> Result<Failover, GroupError> {
    match Failover::switchover(view, policy) {
        Err(_) if is_half_done(group, view, policy.wanted.as_deref())? => Ok(Failover::promote(view, policy)?),
        failover => Ok(failover?),
    }
}

/// Looks at the group, and again as long as two of its nodes exchange their roles: a hand-over that broke off may still come
/// to its end by itself.
pub(super) async fn observe_calm(group: &Group) -> Result<(GroupView, Clients), GroupError> {
    let give_up = Instant::now() + hand_over::GRACE;
    loop {
        let (view, clients) = observe(group).await?;
        if view.exchanging().is_none() || Instant::now() > give_up {
            return Ok((view, clients));
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

/// The node that the last promotion made the master, if nothing replaced it since.
///
/// # Errors
/// The journal cannot be read.
pub fn promoted_last(group: &Group) -> Result<Option<String>, GroupError> {
    let promoted =
        read_end(&group.dir.journal_file(), RECENT_BYTES)?.into_iter().rev().find_map(|entry| match entry.event {
            Event::Promoted { node, .. } => Some(node),
            _ => None,
        });
    Ok(promoted.filter(|node| *node == group.run.master().name))
}

/// How long things may take.
struct Limits {
    /// When the command was started.
    began: Instant,
    /// How long a master may hold back its writes for a replica to catch up.
    patience: Duration,
    /// How long replicas may take to follow.
    links: Duration,
}

/// Drives a [`Failover`] against the real servers, and gathers what there is to report.
struct Promotion<'a> {
    command: &'static str,
    failover: Failover,
    group: &'a mut Group,
    view: GroupView,
    clients: Clients,
    limits: Limits,
    recorder: &'a mut Recorder,
    steps: Vec<StepReport>,
    salvaged: Option<Salvaged>,
    /// The replicas that were told to take the rest of the old master's stream from this ghost.
    haunted: Option<(Ghost, Vec<String>)>,
    tails: Vec<TailReport>,
    /// Of a master that hands over, or of which something is kept before it is fenced.
    pause: Option<WritePause>,
    diverged: Vec<Diverged>,
    first_write: Option<Duration>,
    /// Since when a master holds back its writes.
    handed_over: Option<Duration>,
    missing: Vec<String>,
    log_marks: BTreeMap<String, u64>,
    /// The replicas that were still reading what the old master had sent.
    draining: Vec<String>,
    until_disk: JoinSet<Result<(), GroupError>>,
}

impl<'a> Promotion<'a> {
    fn new(
        command: &'static str,
        failover: Failover,
        group: &'a mut Group,
        (view, clients): (GroupView, Clients),
        limits: Limits,
        recorder: &'a mut Recorder,
    ) -> Self {
        Self {
            command,
            failover,
            group,
            view,
            clients,
            limits,
            recorder,
            steps: Vec::new(),
            salvaged: None,
            haunted: None,
            tails: Vec::new(),
            pause: None,
            diverged: Vec::new(),
            first_write: None,
            handed_over: None,
            missing: Vec::new(),
            log_marks: BTreeMap::new(),
            draining: Vec::new(),
            until_disk: JoinSet::new(),
        }
    }

    async fn run(mut self) -> Result<FailoverReport, GroupError> {
        self.recorder.record(Event::Began { command: self.command.to_owned() })?;
        if let Err(error) = self.execute().await {
            let (command, error_words) = (self.command.to_owned(), Some(error.to_string()));
            self.recorder.record(Event::Finished { command, error: error_words })?;
            return Err(error);
        }
        self.report().await
    }

    async fn execute(&mut self) -> Result<(), GroupError> {
        self.recorder.record(Event::Planned { plan: Box::new(self.plan().clone()) })?;
        let mut next = self.failover.first();
        loop {
            next = match next {
                Next::Step(step) => self.step(step).await?,
                Next::Observe => {
                    (self.view, self.clients) = observe_calm(self.group).await?;
                    let next = self.failover.replan(&self.view)?;
                    self.recorder.record(Event::Planned { plan: Box::new(self.plan().clone()) })?;
                    next
                }
                Next::Finish => return Ok(()),
                Next::Fail { step, reason } => return Err(GroupError::StepFailed { step, reason }),
            }
        }
    }

    async fn step(&mut self, step: Step) -> Result<Next, GroupError> {
        self.recorder.record(Event::StepBegan { step: step.clone() })?;
        let began = Instant::now();
        let mut outcome = StepOutcome::Done;
        match &step {
            Step::Fence { node } => self.end(node).await?,
            Step::Demote { node, to } => self.demote(&step, node, to).await?,
            Step::LeaveUnfenced { node } => self.leave_unfenced(node)?,
            Step::KeepTail { node } => self.keep_tail(&step, node).await?,
            Step::AwaitDrain { nodes } => outcome = self.await_drain(nodes).await?,
            Step::Salvage { node, to } => outcome = self.salvage(&step, node, to).await?,
            Step::Attach { node, to } => self.attach(&step, node, to).await?,
            Step::HandOver { from, to } => outcome = self.hand_over(&step, from, to).await?,
            Step::Promote { node } => outcome = self.promote(&step, node).await?,
            Step::Confirm { node } => self.confirm(&step, node).await?,
            Step::Repoint { nodes, to } => self.repoint(nodes, to).await?,
            Step::ConfirmLinks { nodes } => self.confirm_links(nodes).await,
        }
        let took_us = micros(began.elapsed());
        self.recorder.record(Event::StepDone { step: step.clone(), took_us })?;
        self.steps.push(StepReport { step, took_us });
        Ok(self.failover.next(outcome))
    }

    fn plan(&self) -> &FailoverPlan {
        self.failover.plan()
    }

    /// Ends a node's process, and nothing but it.
    async fn end(&mut self, node: &str) -> Result<(), GroupError> {
        let process = self.view.node(node).and_then(|node| node.process().cloned());
        let Some(process) = process else { return Ok(()) };
        end_processes(vec![(node.to_owned(), process)], None).await?;
        self.pause = None;
        self.recorder.show(Event::Ended { node: node.to_owned() });
        Ok(())
    }

    /// The fence for a master that replctl did not start. Where it fails, nothing has been promoted by this plan.
    async fn demote(&mut self, step: &Step, node: &str, to: &str) -> Result<(), GroupError> {
        let (old, new) = (self.client(node)?.clone(), self.client(to)?.clone());
        let unfenced = self.view.node(node).and_then(|node| node.unfenced());
        let demoted = unmanaged::demote(&self.group.dir, node, unfenced, &old, &new).await;
        let (diverged, tails) = demoted.map_err(|error| failed(step, &error))?;
        for tail in tails {
            self.recorder.record(Event::Tail { tail: tail.clone() })?;
            self.tails.push(tail);
        }
        if node == self.plan().old_master {
            let shared = diverged.bytes.map(|bytes| diverged.end - bytes);
            let loss = self.failover.loss_mut();
            loss.master_end = diverged.bytes.map(|_| diverged.end);
            loss.candidate_offset = shared.unwrap_or(loss.candidate_offset);
        }
        self.recorder.record(Event::Demoted { diverged: diverged.clone(), to: to.to_owned() })?;
        self.diverged.push(diverged);
        Ok(())
    }

    /// Noted before anybody takes its place, so that whatever happens next it is known when it returns.
    fn leave_unfenced(&mut self, node: &str) -> Result<(), GroupError> {
        let replid = self.plan().lineage.to_string();
        let shared_up_to = self.failover.loss().candidate_offset;
        let server = self.group.run.node_mut(node).and_then(RunNode::unmanaged_mut);
        if let Some(server) = server.filter(|server| server.unfenced.is_none()) {
            server.unfenced = Some(Unfenced { replid, shared_up_to });
        }
        self.group.dir.save_run_state(&self.group.run, Durability::Disk)?;
        let text = format!(
            "{node} is not fenced: it may still take writes, and they would be lost; status names it when it returns"
        );
        self.recorder.record(Event::Warning { text })?;
        Ok(())
    }

    /// The old master is gone, but what it has sent lies in its replicas' socket buffers, and they read on until they see
    /// the link break. Only then is it known who has most.
    async fn await_drain(&mut self, nodes: &[String]) -> Result<StepOutcome, GroupError> {
        self.draining = nodes.to_vec();
        let mut drains = JoinSet::new();
        for ranked in self.plan().ranked.iter().filter(|ranked| nodes.contains(&ranked.node)) {
            let (node, flow) = (ranked.node.clone(), self.flow_to(&ranked.node)?);
            drains.spawn(async move {
                let end = tokio::time::timeout(DRAIN_LIMIT, flow.await_end()).await;
                // One that dies or hangs meanwhile is no rival; if it is the candidate, promoting it fails.
                Some((node, end.ok()?.ok()?))
            });
        }
        Ok(StepOutcome::Drained(drains.join_all().await.into_iter().flatten().collect()))
    }

    /// The way that the stream took to a node, as far up as there are replicas that answer.
    fn flow_to(&self, node: &str) -> Result<Flow, GroupError> {
        let mut links = Vec::new();
        let mut next = self.view.node(node);
        while let Some(node) = next.filter(|node| links.len() < self.view.nodes.len() && node.report().is_some()) {
            let Some(upstream) = upstream_of(&self.view, &node.name) else { break };
            links.push((self.client(&node.name)?.clone(), upstream));
            next = self.view.followed_by(node).filter(|above| !has_stopped_feeding(above, node));
        }
        Ok(Flow { links })
    }

    /// The old master is gone, and nobody sends any more: what its backlog has beyond the candidate is the whole loss.
    async fn salvage(&mut self, step: &Step, node: &str, to: &str) -> Result<StepOutcome, GroupError> {
        let client = self.client(to)?.clone();
        let candidate_offset = client.replication().await.map_err(|error| failed(step, &error))?.offset;
        let lineage = self.plan().lineage.clone();
        let (mut master_end, mut bytes) = (None, None);
        let handed_over = match salvage::open(self.group, node).await {
            Ok(remains) => {
                let end = remains.end;
                let continues = remains.history.includes(lineage.to_string().as_bytes(), candidate_offset).is_ok();
                master_end = continues.then_some(end);
                let replid = remains.history.replid.to_string();
                let handed_over =
                    salvage::hand_over(self.group, node, remains, &client, (&lineage, candidate_offset)).await;
                let (node, to) = (node.to_owned(), to.to_owned());
                handed_over.map(|(bytes, ghost)| (Salvaged { node, to, replid, from: end - bytes, bytes, end }, ghost))
            }
            Err(error) => Err(error),
        };
        match handed_over {
            Ok((salvaged, ghost)) => {
                if let Some(ghost) = ghost {
                    self.haunt(ghost).await;
                }
                bytes = Some(salvaged.bytes);
                self.salvaged = Some(salvaged.clone());
                self.recorder.record(Event::Salvaged { salvaged })?;
                if self.failover.policy().keeps_salvaged {
                    self.keep_dead_tail(node)?
                }
            }
            Err(error) => {
                let text = format!("nothing of what {node} had not sent could be salvaged: {error}");
                self.recorder.record(Event::Warning { text })?;
                let loss = self.failover.loss_mut();
                (loss.candidate_offset, loss.salvaged_bytes) = (candidate_offset, 0);
                loss.master_end = master_end.or(loss.master_end);
                if self.failover.loss().gone().is_some() {
                    self.keep_dead_tail(node)?
                }
            }
        }
        Ok(StepOutcome::Salvaged { candidate_offset, master_end, bytes })
    }

    /// Writes down what a node alone has, before it follows another one and throws it away.
    async fn keep_tail(&mut self, step: &Step, node: &str) -> Result<(), GroupError> {
        let Some(client) = self.clients.get(node).cloned() else { return self.keep_dead_tail(node) };
        // It takes no more writes from here until it is fenced.
        self.pause = Some(WritePause::begin(&client).await.map_err(|error| failed(step, &error))?);
        let own = client.replication().await.map_err(|error| failed(step, &error))?;
        let taken = self.caught_up(client.announced(), own.offset).await.map_err(|error| failed(step, &error))?;
        if own.replid == self.failover.loss().replid {
            self.failover.loss_mut().master_offset = Some(own.offset);
        }
        let (from, to) = match own.shared_with(&taken) {
            Some(shared) => (shared, own.offset),
            // Where their histories part is unknown, so whatever is left may be its alone.
            None => (own.backlog.as_ref().map_or(own.offset, |backlog| backlog.start), own.offset),
        };
        if from < to {
            let endpoint = endpoint(self.group.run.node(node).expect("a plan names nodes of its group"));
            let tail = Tail::fetch(&endpoint, &own.replid, own.backlog, (from, to)).await;
            self.record_tail(node, &own.replid.to_string(), from..to, tail)?;
        }
        Ok(())
    }

    /// How far the candidate is, when it has everything up to `end` or if it is not fed from there anyway.
    async fn caught_up(&self, master: &Address, end: u64) -> Result<Replication, WireError> {
        let candidate = self.clients.get(&self.plan().candidate).ok_or(WireError::Closed)?;
        let deadline = Instant::now() + DRAIN_LIMIT;
        loop {
            let replication = candidate.replication().await?;
            if !replication.is_linked_to(master) || replication.offset >= end || Instant::now() > deadline {
                return Ok(replication);
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    /// Writes down what a dead node's backlog has beyond what the candidate got.
    fn keep_dead_tail(&mut self, node: &str) -> Result<(), GroupError> {
        let (from, to) = (
            self.failover.loss().candidate_offset,
            self.failover.loss().master_end.unwrap_or(self.failover.loss().candidate_offset),
        );
        if from < to {
            let tail = salvage::dead_tail(&self.group.dir, node, from);
            self.record_tail(node, &self.failover.loss().replid.to_string(), from..to, tail)?;
        }
        Ok(())
    }

    fn record_tail(
        &mut self,
        node: &str,
        replid: &str,
        wished: std::ops::Range<u64>,
        tail: Result<Tail, TailError>,
    ) -> Result<(), GroupError> {
        for tail in tail::keep(&self.group.dir, node, replid, wished, tail)? {
            self.recorder.record(Event::Tail { tail: tail.clone() })?;
            self.tails.push(tail);
        }
        Ok(())
    }

    /// Lets the others take it as well, beside what comes next: the candidate's own backlog may be too small for what they
    /// lack now. Only those that will be told to follow the candidate: one that does so already would be left with the ghost,
    /// and gets it from the candidate anyway.
    async fn haunt(&mut self, ghost: Ghost) {
        let mut haunted = Vec::new();
        let plan = self.failover.plan();
        for node in &self.view.nodes {
            let lacks = |report: &NodeReport| {
                let replication = &report.replication;
                let holds_data = replication.upstream().is_some_and(|upstream| upstream.holds_data);
                holds_data && replication.replid == plan.lineage && ghost.can_feed(replication.offset)
            };
            if plan.repoints_to_candidate(&node.name)
                && node.address.is_loopback()
                && node.report().is_some_and(lacks)
                && let Some(client) = self.clients.get(&node.name)
                && ghost.feed(client).await.is_ok()
            {
                haunted.push(node.name.clone());
            }
        }
        self.haunted = Some((ghost, haunted));
    }

    async fn attach(&mut self, step: &Step, node: &str, to: &str) -> Result<(), GroupError> {
        let (replica, master) = (self.client(node)?.clone(), self.client(to)?.clone());
        replica.follow(master.announced()).await.map_err(|error| failed(step, &error))?;
        let display = self.recorder.display();
        let link = await_link(node, &replica, watch_replicas(master), &display);
        let linked = tokio::time::timeout(self.limits.links, link).await;
        linked.unwrap_or(Err(WireError::Silent(self.limits.links))).map_err(|error| failed(step, &error))?;
        Ok(())
    }

    /// Nobody writes until the replica has everything; then master and replica exchange their roles by themselves. The pause
    /// ends by itself soon, should this program end before.
    async fn hand_over(&mut self, step: &Step, from: &str, to: &str) -> Result<StepOutcome, GroupError> {
        let (old, new) = (self.client(from)?.clone(), self.client(to)?.clone());
        self.intend(Some(self.plan().lineage.clone()))?;
        let began = Instant::now();
        let mut exchange = HandOver::new(self.limits.patience, new.announced().clone());
        let end = loop {
            match exchange.order() {
                HandOverOrder::Over(end) => break end,
                order => {
                    if order == HandOverOrder::Pause {
                        self.handed_over = Some(self.limits.began.elapsed());
                    }
                    let word = obey(&order, &old, &new, self.engine_of(from), &mut self.pause).await;
                    exchange = exchange.next(word, began.elapsed());
                }
            }
        };
        match end {
            HandOverEnd::TakenOver => {
                // An earlier hand-over that broke off may have left its pause.
                let _ = new.command(&["CLIENT", "UNPAUSE"]).await;
                if old.has_link_ports() {
                    // By itself it has gone past the proxy.
                    old.follow(new.announced()).await.map_err(|error| failed(step, &error))?;
                }
                Ok(StepOutcome::Done)
            }
            HandOverEnd::Restored(reason) => {
                self.renounce()?;
                let reason = format!("{to} {reason}; {from} is the master as before");
                Err(GroupError::StepFailed { step: step.clone(), reason })
            }
            HandOverEnd::Unsettled(reason) => {
                let text = format!("{to} {reason}; who is the master is decided anew");
                self.recorder.record(Event::Warning { text })?;
                Ok(StepOutcome::Unsettled)
            }
        }
    }

    fn engine_of(&self, node: &str) -> Option<EngineFamily> {
        self.view.node(node).and_then(NodeView::report).map(|report| report.family)
    }

    /// One write, three answers: the order, what the node then is, and whether it takes a write. One that was left in the
    /// middle of a hand-over obeys only when that is called off.
    async fn promote(&mut self, step: &Step, node: &str) -> Result<StepOutcome, GroupError> {
        let client = self.client(node)?.clone();
        let now = client.replication().await.map_err(|error| failed(step, &error))?;
        self.intend((!now.is_master()).then(|| now.replid.clone()))?;
        if !self.failover.fits(&now) {
            self.renounce()?;
            return Ok(StepOutcome::Misfit);
        }
        if now.is_handing_over {
            // Refused where it has come to its end meanwhile.
            let _ = client.command(&["FAILOVER", "ABORT"]).await;
        }
        // A hand-over that broke off has left its pause, and one on a master is nobody's wish.
        self.pause = None;
        let commands: [&[&str]; 3] = [&["REPLICAOF", "NO", "ONE"], &["CLIENT", "UNPAUSE"], &PROBE];
        let answers = client.pipeline(&commands).await.map_err(|error| failed(step, &error))?;
        let mut answers = answers.into_iter();
        match answers.next() {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(failed(step, &error)),
            None => return Err(failed(step, &WireError::Closed)),
        }
        if matches!(answers.nth(1), Some(Ok(_))) {
            self.first_write = Some(self.limits.began.elapsed());
        }
        Ok(StepOutcome::Done)
    }

    /// Writes down who is about to be the master, and of which history it is until then (`None`: it is one already): should this
    /// program end before it sees what came of that, and that node not say what it is by then, it may take writes.
    fn intend(&mut self, replid: Option<ReplicationId>) -> Result<(), GroupError> {
        let plan = self.failover.plan();
        let (node, upstreams) = (plan.candidate.clone(), plan.upstreams.clone());
        let replid = replid.map(|replid| replid.to_string());
        self.group.run.promoting = Some(Promoting { node, upstreams, replid });
        Ok(self.group.dir.save_run_state(&self.group.run, Durability::PageCache)?)
    }

    /// Nothing came of it, for certain.
    fn renounce(&mut self) -> Result<(), GroupError> {
        self.group.run.promoting = None;
        Ok(self.group.dir.save_run_state(&self.group.run, Durability::PageCache)?)
    }

    /// Sees the node say that it is a master, and remembers it as one.
    async fn confirm(&mut self, step: &Step, node: &str) -> Result<(), GroupError> {
        let client = self.client(node)?.clone();
        let replication = client.replication().await.map_err(|error| failed(step, &error))?;
        if !replication.is_master() {
            let reason = format!("{node} still follows another node");
            return Err(GroupError::StepFailed { step: step.clone(), reason });
        }
        self.group.run.set_roles(node, &self.failover.plan().upstreams);
        self.group.run.replid = Some(replication.replid.to_string());
        self.note_what_is_shared(&replication);
        let (node, old_master) = (node.to_owned(), self.plan().old_master.clone());
        self.recorder.record(Event::Promoted { node, old_master, former: replication.former })?;
        self.group.dir.save_run_state(&self.group.run, Durability::PageCache)?;
        self.sync_beside()?;
        if self.first_write.is_none() {
            self.await_first_write(&client).await.map_err(|error| failed(step, &error))?;
        }
        Ok(())
    }

    /// How much of an unfenced old master's history the new one has is known for certain only now.
    fn note_what_is_shared(&mut self, new: &Replication) {
        let server = self.group.run.node_mut(&self.failover.plan().old_master).and_then(RunNode::unmanaged_mut);
        if let (Some(unfenced), Some(former)) = (server.and_then(|server| server.unfenced.as_mut()), &new.former)
            && unfenced.replid == former.replid.to_string()
        {
            unfenced.shared_up_to = former.shared_up_to;
        }
    }

    /// Asks until a write is accepted. A master that waits for enough replicas accepts none before they are re-pointed, so
    /// that answer ends the wait for now.
    async fn await_first_write(&mut self, client: &NodeClient) -> Result<(), WireError> {
        let deadline = Instant::now() + FIRST_WRITE_LIMIT;
        while Instant::now() < deadline {
            match client.command(&PROBE).await {
                Ok(_) => {
                    self.first_write = Some(self.limits.began.elapsed());
                    return Ok(());
                }
                Err(WireError::Server { code, .. }) if code == "NOREPLICAS" => return Ok(()),
                Err(WireError::Server { .. }) => tokio::time::sleep(POLL_EVERY).await,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Lets the disk have the new roles while the replicas are re-pointed.
    fn sync_beside(&mut self) -> Result<(), GroupError> {
        let (dir, run): (GroupDir, _) = (self.group.dir.clone(), self.group.run.clone());
        let journal = self.recorder.journal().file()?;
        self.until_disk.spawn_blocking(move || {
            journal.sync_data()?;
            Ok(dir.save_run_state(&run, Durability::Disk)?)
        });
        Ok(())
    }

    /// Tells nodes whom to follow. One that still reads what the old master sent (it could not be promoted, so nobody waited
    /// for it) is told when it is through: the less it lacks, the surer the new master's backlog has it.
    async fn repoint(&mut self, nodes: &[String], to: &str) -> Result<(), GroupError> {
        let upstream = self.client(to)?.announced().clone();
        let mut orders = JoinSet::new();
        for name in nodes {
            self.log_marks.insert(name.clone(), log_length(&self.group.dir.log_file(name)));
            let (name, client, upstream) = (name.clone(), self.client(name)?.clone(), upstream.clone());
            let drained = if self.draining.contains(&name) { Some(self.flow_to(&name)?) } else { None };
            let report = self.view.node(&name).and_then(NodeView::report);
            let is_handing_over = report.is_some_and(|report| report.replication.is_handing_over);
            let end = self.haunted.as_ref().filter(|(_, nodes)| nodes.contains(&name)).map(|(ghost, _)| ghost.end());
            orders.spawn(async move {
                if let Some(end) = end {
                    // One that does not get there comes to the new master with what it has.
                    let _ = salvage::await_offset(&client, end).await;
                }
                if let (Some(drained), None) = (drained, end) {
                    // Whatever comes of it: the order that follows is what counts.
                    let _ = tokio::time::timeout(DRAIN_LIMIT, drained.await_end()).await;
                }
                if !is_handing_over {
                    return (name, client.follow(&upstream).await);
                }
                // Called off alone, it would be a master for a moment.
                let follow = client.words_to_follow(&upstream);
                let follow = follow.each_ref().map(String::as_str);
                let commands: [&[&str]; 4] = [&["MULTI"], &["FAILOVER", "ABORT"], &follow, &["EXEC"]];
                (name, client.pipeline(&commands).await.map(drop))
            });
        }
        while let Some(order) = orders.join_next().await {
            let (node, answer) = order.expect("an order does not panic");
            if let Err(error) = answer {
                self.recorder.show(Event::Warning { text: format!("{node} cannot be told to follow {to}: {error}") });
            }
        }
        Ok(())
    }

    /// Waits for every link, parents before children; who is not there in time is noted as missing.
    async fn confirm_links(&mut self, nodes: &[String]) {
        let mut waiting: Vec<String> = nodes.to_vec();
        let deadline = Instant::now() + self.limits.links;
        let mut parents = vec![self.plan().candidate.clone()];
        while !parents.is_empty() && !waiting.is_empty() {
            let is_child = |name: &String| self.plan().upstreams.get(name).is_some_and(|up| parents.contains(up));
            let (children, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(is_child);
            waiting = rest;
            parents = self.confirm_level(&children, deadline).await;
            self.missing.extend(children.into_iter().filter(|child| !parents.contains(child)));
        }
        self.missing.extend(waiting);
    }

    /// Waits for the links of nodes whose upstreams are linked themselves; returns those that came.
    async fn confirm_level(&self, children: &[String], deadline: Instant) -> Vec<String> {
        let mut watched = BTreeMap::new();
        let mut links = JoinSet::new();
        for name in children {
            let upstream = &self.plan().upstreams[name];
            let (Some(client), Some(above)) = (self.clients.get(name), self.clients.get(upstream)) else { continue };
            let replicas_of = watched.entry(upstream).or_insert_with(|| watch_replicas(above.clone())).clone();
            let (name, client, display) = (name.clone(), client.clone(), self.recorder.display());
            links.spawn(async move {
                let linked = await_link(&name, &client, replicas_of, &display).await;
                linked.is_ok().then_some(name)
            });
        }
        let mut linked = Vec::new();
        let all = async {
            while let Some(link) = links.join_next().await {
                linked.extend(link.expect("waiting for a link does not panic"));
            }
        };
        let _ = tokio::time::timeout(deadline.saturating_duration_since(Instant::now()), all).await;
        linked
    }

    async fn report(mut self) -> Result<FailoverReport, GroupError> {
        let plan = self.plan().clone();
        let took_us = micros(self.limits.began.elapsed());
        if self.first_write.is_none()
            && let Some(client) = self.clients.get(&plan.candidate).cloned()
        {
            // A failure here is told by the report: no write was accepted.
            let _ = self.await_first_write(&client).await;
        }
        for node in &self.group.run.nodes {
            save_config(&self.group.dir, &self.group.run, node)?;
        }
        self.keep_roles().await;
        while let Some(synced) = self.until_disk.join_next().await {
            synced.expect("writing to disk does not panic")?;
        }
        let hook_error = match plan.makes_another_master() {
            true => super::hook::after_promote(self.group, self.command, &plan.old_master, &plan.candidate).await.err(),
            false => None,
        };
        if let Some(error) = &hook_error {
            self.recorder.record(Event::Warning { text: error.clone() })?;
        }
        let (after, _) = observe(self.group).await?;
        if unmanaged::recognise(&mut self.group.run, &after) {
            self.group.dir.save_run_state(&self.group.run, Durability::Disk)?;
        }
        let resyncs = self.resyncs(&self.view, &after);
        self.recorder.record(Event::Finished { command: self.command.to_owned(), error: None })?;
        Ok(FailoverReport {
            diagnosis_after: diagnose(&after),
            plan,
            loss: self.failover.loss().clone(),
            before: self.view,
            after,
            first_write_us: self.first_write.map(micros),
            write_pause_us: self
                .first_write
                .zip(self.handed_over)
                .map(|(first, ordered)| micros(first.saturating_sub(ordered))),
            took_us,
            steps: self.steps,
            salvaged: self.salvaged,
            gone: self.failover.loss().gone(),
            tails: self.tails,
            diverged: self.diverged,
            resyncs,
            missing: self.missing,
            hook_error,
        })
    }

    /// An upstream counts the synchronizations it serves, but not to whom; where it served full ones, the replica's own log
    /// tells which kind it got.
    fn resyncs(&self, before: &GroupView, after: &GroupView) -> BTreeMap<String, Resync> {
        let linked = self.plan().upstreams.iter().filter(|(name, _)| {
            let is_demoted = self.diverged.iter().any(|one| one.node == **name);
            let follows = **name != self.plan().old_master || self.handed_over.is_some() || is_demoted;
            self.clients.contains_key(*name) && !self.missing.contains(name) && follows
        });
        let served_full = |upstream: &str| {
            let count = |view: &GroupView| view.node(upstream)?.report().map(|report| report.sync_full);
            count(before).zip(count(after)).map(|(before, after)| after > before)
        };
        linked
            .map(|(name, upstream)| {
                let resync = match served_full(upstream) {
                    Some(false) => Resync::Partial,
                    _ => self
                        .log_marks
                        .get(name)
                        .map_or(Resync::Unknown, |mark| resync_by_log(&self.group.dir.log_file(name), *mark)),
                };
                (name.clone(), resync)
            })
            .collect()
    }

    /// Lets servers that replctl did not start come back in their new roles, should somebody restart them.
    async fn keep_roles(&self) {
        for node in self.group.run.nodes.iter().filter(|node| node.unmanaged().is_some()) {
            if let Some(client) = self.clients.get(&node.name) {
                unmanaged::keep_role(client).await;
            }
        }
    }

    fn client(&self, node: &str) -> Result<&NodeClient, GroupError> {
        self.clients.get(node).ok_or_else(|| wire(node, WireError::Closed))
    }
}

/// How a replica came to its upstream, by what its log says after `mark`.
pub fn resync_by_log(log: &Path, mark: u64) -> Resync {
    let text = text_since(log, mark).to_lowercase();
    if text.contains("full resync from") {
        Resync::Full
    } else if text.contains("partial resynchronization") {
        Resync::Partial
    } else {
        Resync::Unknown
    }
}

/// The upstream's address, as the node itself told it.
fn upstream_of(view: &GroupView, node: &str) -> Option<Address> {
    Some(view.node(node)?.report()?.replication.upstream()?.address())
}

/// A replica that reads, those that feed it, and whom each of them follows: the nearest first.
struct Flow {
    links: Vec<(NodeClient, Address)>,
}

impl Flow {
    /// Waits until nothing more comes, neither from a master whose stream has ended nor from a replica in between; returns what
    /// the replica has applied by then.
    async fn await_end(&self) -> Result<u64, WireError> {
        loop {
            let (mut states, mut has_ended) = (Vec::new(), true);
            for (replica, upstream) in &self.links {
                let state = replica.replication().await?;
                has_ended = !state.is_linked_to(upstream);
                states.push((state.offset, has_ended));
                // Who lost its link gets it back only from an upstream that has one itself: that is asked, too.
                if let [.., (_, true), (_, true)] = states[..] {
                    break;
                }
            }
            let own = states.first().ok_or(WireError::Closed)?.0;
            // Two that have none in a row: nothing comes past the lower one.
            let broken = states.windows(2).position(|pair| pair[0].1 && pair[1].1);
            let reaching = &states[..broken.map_or(states.len(), |below| below + 1)];
            if has_ended && reaching.iter().all(|(offset, _)| *offset <= own) {
                return Ok(own);
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }
}

fn wire(node: &str, source: WireError) -> GroupError {
    GroupError::Wire { node: node.to_owned(), source }
}

fn failed(step: &Step, error: &WireError) -> GroupError {
    GroupError::StepFailed { step: step.clone(), reason: error.to_string() }
}

/// Gives the order to the node that it is for. A repld that is to hand over asks its replica for a word, and is not hurried:
/// what it asks is a part of its stream, and a replica that lacks it could not go on where it is.
async fn obey(
    order: &HandOverOrder,
    old: &NodeClient,
    new: &NodeClient,
    engine: Option<EngineFamily>,
    pause: &mut Option<WritePause>,
) -> Word {
    let answer = match order {
        HandOverOrder::AskOld { is_again } => return state(old, *is_again).await,
        HandOverOrder::AskNew { is_again } => return state(new, *is_again).await,
        HandOverOrder::Pause => WritePause::begin(old).await.map(|begun| *pause = Some(begun)),
        HandOverOrder::Exchange { .. } if !pause.as_ref().is_some_and(WritePause::is_held) => {
            return Word::Failed("its master may have taken writes again".to_owned());
        }
        HandOverOrder::Exchange { to } => {
            let (host, port) = to.clone().into_words();
            let wait_ms =
                if engine == Some(EngineFamily::Repld) { (hand_over::GRACE / 2).as_millis() } else { 1 }.to_string();
            old.command(&["FAILOVER", "TO", &host, &port, "FORCE", "TIMEOUT", &wait_ms]).await.map(drop)
        }
        HandOverOrder::FollowNew => old.follow(new.announced()).await,
        HandOverOrder::Unpause => {
            if let Some(pause) = pause.take() {
                pause.end().await;
            }
            Ok(())
        }
        HandOverOrder::Over(_) => Ok(()),
    };
    answer.map_or_else(|error| Word::Failed(error.to_string()), |()| Word::Done)
}

async fn state(node: &NodeClient, is_again: bool) -> Word {
    if is_again {
        tokio::time::sleep(POLL_EVERY).await;
    }
    let state = node.replication().await;
    state.map_or_else(|error| Word::Failed(error.to_string()), |state| Word::State(Box::new(state)))
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
