//! `promote`: executes a [`FailoverPlan`], step by step, each written to the journal before and after.
//!
//! The order of things after a crash of this program, wherever it comes: the plan is decided anew from what is seen, and every
//! step is one that can be done twice. Before `promote` nothing has changed; after it the candidate is seen as a master and
//! the plan only completes what is missing. The run state names the new master as soon as it is one.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::task::JoinSet;

use super::diagnosis::{Diagnosis, diagnose};
use super::journal::{RECENT_BYTES, read_end};
use super::links::{await_link, watch_replicas};
use super::plan::{FailoverPlan, LossEstimate, LostRange, Policy, Step};
use super::salvage::{self, Ghost, Salvaged};
use super::stop::end_processes;
use super::tail::{self, Tail, TailError, TailReport};
use super::unmanaged::{self, Diverged};
use super::view::{Clients, GroupView, observe};
use super::{Group, GroupError, endpoint, save_config};
use crate::event::{Event, Recorder};
use crate::process::launch::{log_length, text_since};
use crate::process::{Durability, GroupDir, RunNode, Unfenced};
use crate::topology::{Address, EngineFamily};
use crate::wire::{AttachedReplica, NodeClient, NodeReport, Replication, WireError};

/// How long replicas may take to read what a dead master has sent: it lies in their own socket buffers.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);
/// How long a promoted node may take to accept its first write.
const FIRST_WRITE_LIMIT: Duration = Duration::from_secs(5);
/// How long the exchange of roles may take after the replica has caught up.
const HAND_OVER_GRACE: Duration = Duration::from_secs(5);
/// For how long a master that is about to become a replica takes no writes, should this program end in between.
const KEEP_PAUSE_MS: &str = "10000";
/// Between two looks at a node that is about to be where it should.
const POLL_EVERY: Duration = Duration::from_millis(1);
/// How often a plan that no longer fits what is seen is made anew.
const PLANS_MAX: usize = 3;
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

/// Why a plan was not carried to its end.
enum Stop {
    /// What is seen no longer fits the plan; nothing has been promoted yet.
    Stale,
    Failed(GroupError),
}

impl<E: Into<GroupError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Replaces a lost master: observes, decides, executes, observes again. `began` is when the command started; `limit` bounds
/// the wait for links.
///
/// # Errors
/// [`GroupError::Refused`]: there is no plan. [`GroupError::StepFailed`]: the plan broke off; the same command again resumes.
pub async fn promote(
    group: &mut Group,
    policy: &Policy,
    began: Instant,
    limit: Duration,
    recorder: &mut Recorder,
) -> Result<FailoverReport, GroupError> {
    let (mut view, mut clients) = observe(group).await?;
    FailoverPlan::new(&view, policy)?;
    recorder.record(Event::Began { command: "promote".to_owned() })?;
    let mut tails = Vec::new();
    for _ in 0..PLANS_MAX {
        let plan = FailoverPlan::new(&view, policy)?;
        recorder.record(Event::Planned { plan: Box::new(plan.clone()) })?;
        let mut promotion = Promotion::new(&plan, policy, group, clients, began, limit, recorder);
        promotion.tails = tails;
        match promotion.execute(&view).await {
            Ok(()) => return promotion.report("promote", plan.clone(), view).await,
            Err(Stop::Failed(error)) => {
                recorder.record(Event::Finished { command: "promote".to_owned(), error: Some(error.to_string()) })?;
                return Err(error);
            }
            Err(Stop::Stale) => {
                tails = promotion.tails;
                (view, clients) = observe(group).await?;
            }
        }
    }
    let reason = format!("the replicas kept changing over {PLANS_MAX} plans");
    let step = Step::AwaitDrain { nodes: view.nodes.iter().map(|node| node.name.clone()).collect() };
    Err(GroupError::StepFailed { step, reason })
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
    let (view, clients) = observe(group).await?;
    let plan = FailoverPlan::switchover(&view, policy)?;
    recorder.record(Event::Began { command: "switchover".to_owned() })?;
    recorder.record(Event::Planned { plan: Box::new(plan.clone()) })?;
    let mut switchover = Promotion::new(&plan, policy, group, clients, began, limit, recorder);
    switchover.patience = patience;
    let error = match switchover.execute(&view).await {
        Ok(()) => return switchover.report("switchover", plan.clone(), view).await,
        Err(Stop::Failed(error)) => error,
        Err(Stop::Stale) => unreachable!("only a drain makes a plan stale, and a switchover has none"),
    };
    recorder.record(Event::Finished { command: "switchover".to_owned(), error: Some(error.to_string()) })?;
    Err(error)
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

/// The state that a promotion gathers while it is executed.
struct Promotion<'a> {
    plan: FailoverPlan,
    policy: &'a Policy,
    group: &'a mut Group,
    clients: Clients,
    began: Instant,
    limit: Duration,
    recorder: &'a mut Recorder,
    steps: Vec<StepReport>,
    salvaged: Option<Salvaged>,
    /// The replicas that were told to take the rest of the old master's stream from this ghost.
    haunted: Option<(Ghost, Vec<String>)>,
    loss: LossEstimate,
    tails: Vec<TailReport>,
    diverged: Vec<Diverged>,
    first_write: Option<Duration>,
    /// How long a master may hold back its writes, and since when it does.
    patience: Duration,
    handed_over: Option<Duration>,
    missing: Vec<String>,
    log_marks: BTreeMap<String, u64>,
    /// The replicas that were still reading what the old master had sent.
    draining: Vec<String>,
    until_disk: JoinSet<Result<(), GroupError>>,
}

impl<'a> Promotion<'a> {
    fn new(
        plan: &FailoverPlan,
        policy: &'a Policy,
        group: &'a mut Group,
        clients: Clients,
        began: Instant,
        limit: Duration,
        recorder: &'a mut Recorder,
    ) -> Self {
        Self {
            plan: plan.clone(),
            policy,
            group,
            clients,
            began,
            limit,
            recorder,
            steps: Vec::new(),
            salvaged: None,
            haunted: None,
            loss: plan.loss.clone(),
            tails: Vec::new(),
            diverged: Vec::new(),
            first_write: None,
            patience: Duration::ZERO,
            handed_over: None,
            missing: Vec::new(),
            log_marks: BTreeMap::new(),
            draining: Vec::new(),
            until_disk: JoinSet::new(),
        }
    }

    async fn execute(&mut self, view: &GroupView) -> Result<(), Stop> {
        for step in self.plan.steps.clone() {
            self.recorder.record(Event::StepBegan { step: step.clone() })?;
            let began = Instant::now();
            match &step {
                Step::Fence { node } => self.fence(view, node).await?,
                Step::Demote { node, to } => self.demote(view, &step, node, to).await?,
                Step::LeaveUnfenced { node } => self.leave_unfenced(node)?,
                Step::AwaitDrain { nodes } => self.await_drain(view, nodes).await?,
                Step::Salvage { node, to } => self.salvage(view, &step, node, to).await?,
                Step::KeepTail { node } => self.keep_tail(&step, node).await?,
                Step::Attach { node, to } => self.attach(&step, node, to).await?,
                Step::HandOver { from, to } => self.hand_over(view, &step, from, to).await?,
                Step::Promote { node } => self.promote(&step, node).await?,
                Step::Confirm { node } => self.confirm(&step, node).await?,
                Step::Repoint { nodes, to } => self.repoint(view, nodes, to).await?,
                Step::ConfirmLinks { nodes } => self.confirm_links(nodes).await,
            }
            let took_us = micros(began.elapsed());
            self.recorder.record(Event::StepDone { step: step.clone(), took_us })?;
            self.steps.push(StepReport { step, took_us });
        }
        Ok(())
    }

    async fn fence(&mut self, view: &GroupView, node: &str) -> Result<(), Stop> {
        let process = view.node(node).and_then(|node| node.process().cloned());
        let Some(process) = process else { return Ok(()) };
        end_processes(vec![(node.to_owned(), process)], None).await?;
        self.recorder.show(Event::Ended { node: node.to_owned() });
        Ok(())
    }

    /// The fence for a master that replctl did not start. Where it fails, nothing has been promoted by this plan.
    async fn demote(&mut self, view: &GroupView, step: &Step, node: &str, to: &str) -> Result<(), Stop> {
        let (old, new) = (self.client(node)?.clone(), self.client(to)?.clone());
        let unfenced = view.node(node).and_then(|node| node.unfenced());
        let demoted = unmanaged::demote(&self.group.dir, node, unfenced, &old, &new).await;
        let (diverged, tails) = demoted.map_err(|error| failed(step, &error))?;
        for tail in tails {
            self.recorder.record(Event::Tail { tail: tail.clone() })?;
            self.tails.push(tail);
        }
        if node == self.plan.old_master {
            let shared = diverged.bytes.map(|bytes| diverged.end - bytes);
            self.loss.master_end = diverged.bytes.map(|_| diverged.end);
            self.loss.candidate_offset = shared.unwrap_or(self.loss.candidate_offset);
        }
        self.recorder.record(Event::Demoted { diverged: diverged.clone(), to: to.to_owned() })?;
        self.diverged.push(diverged);
        Ok(())
    }

    /// Noted before anybody takes its place, so that whatever happens next it is known when it returns.
    fn leave_unfenced(&mut self, node: &str) -> Result<(), Stop> {
        let replid = self.plan.lineage.to_string();
        let shared_up_to = self.loss.candidate_offset;
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
    /// the link break. Only then is it known who has most: if it is not the candidate, the plan is stale.
    async fn await_drain(&mut self, view: &GroupView, nodes: &[String]) -> Result<(), Stop> {
        self.draining = nodes.to_vec();
        let was_best = self.plan.ranked.first().is_some_and(|best| best.node == self.plan.candidate);
        let mut drains = JoinSet::new();
        for ranked in &self.plan.ranked {
            let (client, mut offset) = (self.client(&ranked.node)?.clone(), ranked.offset);
            let (is_candidate, is_draining) = (ranked.node == self.plan.candidate, nodes.contains(&ranked.node));
            let upstream = upstream_of(view, &ranked.node);
            drains.spawn(async move {
                if is_draining && let Some(upstream) = upstream {
                    let end = tokio::time::timeout(DRAIN_LIMIT, await_end_of_link(&client, &upstream)).await;
                    // One that dies or hangs meanwhile is no rival; if it is the candidate, promoting it fails.
                    offset = end.ok().and_then(Result::ok).unwrap_or(offset);
                }
                (is_candidate, offset)
            });
        }
        let offsets = drains.join_all().await;
        let of_candidate = offsets.iter().find(|(is_candidate, _)| *is_candidate).map_or(0, |(_, offset)| *offset);
        let is_overtaken = offsets.iter().any(|(_, offset)| *offset > of_candidate);
        // What is lost now is counted from where they got by reading on.
        self.loss.candidate_offset = self.loss.candidate_offset.max(of_candidate);
        self.loss.survivor_offset = self.loss.survivor_offset.max(of_candidate);
        if was_best && is_overtaken { Err(Stop::Stale) } else { Ok(()) }
    }

    /// The old master is gone, and nobody sends any more: what its backlog has beyond the candidate is the whole loss. Where
    /// that cannot be handed over, the promotion goes on without it, unless that loses more than is allowed.
    async fn salvage(&mut self, view: &GroupView, step: &Step, node: &str, to: &str) -> Result<(), Stop> {
        let client = self.client(to)?.clone();
        let offset = client.replication().await.map_err(|error| failed(step, &error))?.offset;
        self.loss.candidate_offset = offset;
        self.loss.salvaged_bytes = 0;
        let handed_over = match salvage::open(self.group, node).await {
            Ok(remains) => {
                let end = remains.end;
                let lineage = &self.plan.lineage;
                let replid = remains.history.replid.to_string();
                self.loss.master_end = (remains.history.replid.as_str() == lineage.to_string()).then_some(end);
                let handed_over = salvage::hand_over(self.group, node, remains, &client, (lineage, offset)).await;
                let (node, to) = (node.to_owned(), to.to_owned());
                handed_over.map(|(bytes, ghost)| (Salvaged { node, to, replid, from: end - bytes, bytes, end }, ghost))
            }
            Err(error) => Err(error),
        };
        match handed_over {
            Ok((salvaged, ghost)) => {
                if let Some(ghost) = ghost {
                    self.haunt(view, ghost).await;
                }
                self.loss.salvaged_bytes = salvaged.bytes;
                self.salvaged = Some(salvaged.clone());
                self.recorder.record(Event::Salvaged { salvaged })?;
                if self.policy.keeps_salvaged {
                    self.keep_dead_tail(node)?
                }
                Ok(())
            }
            Err(error) => {
                let text = format!("nothing of what {node} had not sent could be salvaged: {error}");
                self.recorder.record(Event::Warning { text })?;
                self.refuse_loss(step)?;
                if self.loss.gone().is_some() {
                    self.keep_dead_tail(node)?
                }
                Ok(())
            }
        }
    }

    /// Writes down what a node alone has, before it follows another one and throws it away.
    async fn keep_tail(&mut self, step: &Step, node: &str) -> Result<(), Stop> {
        let Some(client) = self.clients.get(node).cloned() else { return Ok(self.keep_dead_tail(node)?) };
        // It takes no more writes from here until it is a replica.
        let paused = client.command(&["CLIENT", "PAUSE", KEEP_PAUSE_MS, "WRITE"]).await;
        paused.map_err(|error| failed(step, &error))?;
        let own = client.replication().await.map_err(|error| failed(step, &error))?;
        let taken = self.caught_up(client.announced(), own.offset).await.map_err(|error| failed(step, &error))?;
        if own.replid == self.loss.replid {
            self.loss.master_offset = Some(own.offset);
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
        let candidate = self.clients.get(&self.plan.candidate).ok_or(WireError::Closed)?;
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
        let (from, to) = (self.loss.candidate_offset, self.loss.master_end.unwrap_or(self.loss.candidate_offset));
        if from < to {
            let tail = salvage::dead_tail(&self.group.dir, node, from);
            self.record_tail(node, &self.loss.replid.to_string(), from..to, tail)?;
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
    /// lack now.
    async fn haunt(&mut self, view: &GroupView, ghost: Ghost) {
        let mut haunted = Vec::new();
        for node in &view.nodes {
            let is_child = self.plan.upstreams.get(&node.name) == Some(&self.plan.candidate);
            let lacks = |report: &NodeReport| {
                let replication = &report.replication;
                let holds_data = replication.upstream().is_some_and(|upstream| upstream.holds_data);
                holds_data && replication.replid == self.plan.lineage && ghost.can_feed(replication.offset)
            };
            if is_child
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

    fn refuse_loss(&self, step: &Step) -> Result<(), Stop> {
        let Some(max_bytes) = self.policy.max_loss_bytes.filter(|_| !self.policy.force) else { return Ok(()) };
        if self.loss.bytes_min() <= max_bytes {
            return Ok(());
        }
        let reason = format!("{} would be lost, and max-loss allows {max_bytes} bytes; --force accepts it", self.loss);
        Err(Stop::Failed(GroupError::StepFailed { step: step.clone(), reason }))
    }

    async fn attach(&mut self, step: &Step, node: &str, to: &str) -> Result<(), Stop> {
        let (replica, master) = (self.client(node)?.clone(), self.client(to)?.clone());
        replica.follow(master.announced()).await.map_err(|error| failed(step, &error))?;
        let display = self.recorder.display();
        let link = await_link(node, &replica, watch_replicas(master), &display);
        let linked = tokio::time::timeout(self.limit, link).await;
        linked.unwrap_or(Err(WireError::Silent(self.limit))).map_err(|error| failed(step, &error))?;
        Ok(())
    }

    /// Nobody writes until the replica has everything; then master and replica exchange their roles by themselves. `FAILOVER`
    /// alone would do all of it, but Redis asks for no word of the replica while writes are paused, and the last one may be a
    /// second old; so the replica is asked here, and the exchange is then ordered without waiting for its word. A repld asks,
    /// and is not hurried: what it asks is a part of its stream, and a replica that lacks it could not go on where it is.
    /// The pause ends by itself should this program end before.
    async fn hand_over(&mut self, view: &GroupView, step: &Step, from: &str, to: &str) -> Result<(), Stop> {
        let (old, new) = (self.client(from)?.clone(), self.client(to)?.clone());
        self.handed_over = Some(self.began.elapsed());
        let family = view.node(from).and_then(|node| node.report()).map(|report| report.family);
        let asks = family == Some(EngineFamily::Repld);
        let exchanged = self.exchange_roles(&old, &new, asks).await;
        if exchanged.is_err() {
            // Without effect where it has not come so far, or is done.
            let _ = old.command(&["FAILOVER", "ABORT"]).await;
        }
        // A replica refuses writes at once; a pause would only hold them back.
        let _ = old.command(&["CLIENT", "UNPAUSE"]).await;
        let Err(reason) = exchanged else { return Ok(()) };
        let state = match old.replication().await {
            Ok(own) if own.is_master() => format!("{from} is the master as before"),
            _ => format!("{from} is no master now"),
        };
        Err(Stop::Failed(GroupError::StepFailed { step: step.clone(), reason: format!("{to} {reason}; {state}") }))
    }

    async fn exchange_roles(&self, old: &NodeClient, new: &NodeClient, asks: bool) -> Result<(), String> {
        let words = |error: WireError| format!("could not take over: {error}");
        let deadline = Instant::now() + self.patience;
        let pause_ms = (self.patience + HAND_OVER_GRACE).as_millis().to_string();
        old.command(&["CLIENT", "PAUSE", &pause_ms, "WRITE"]).await.map_err(words)?;
        let end = old.replication().await.map_err(words)?;
        while new.replication().await.map_err(words)?.offset < end.offset {
            if Instant::now() > deadline {
                return Err(format!("did not catch up within {} ms", self.patience.as_millis()));
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
        // By the name that the master has for it; several hosts may have replicas on the same port.
        let is_it = |one: &&AttachedReplica| one.address().is_same(new.announced());
        let by_port = || end.replicas.iter().find(|one| one.port == new.announced().port);
        let replica = end.replicas.iter().find(is_it).or_else(by_port);
        let (host, port) = replica.map_or(new.announced().clone(), AttachedReplica::address).into_words();
        let wait_ms = if asks { (HAND_OVER_GRACE / 2).as_millis() } else { 1 }.to_string();
        old.command(&["FAILOVER", "TO", &host, &port, "FORCE", "TIMEOUT", &wait_ms]).await.map_err(words)?;
        let deadline = Instant::now() + HAND_OVER_GRACE;
        while !new.replication().await.map_err(words)?.is_master() {
            let own = old.replication().await.map_err(words)?;
            if Instant::now() > deadline || own.is_master() && !own.is_handing_over {
                return Err("did not take over".to_owned());
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
        Ok(())
    }

    /// One write, three answers: the order, what the node then is, and whether it takes a write.
    async fn promote(&mut self, step: &Step, node: &str) -> Result<(), Stop> {
        let commands: [&[&str]; 2] = [&["REPLICAOF", "NO", "ONE"], &PROBE];
        let answers = self.client(node)?.pipeline(&commands).await.map_err(|error| failed(step, &error))?;
        let mut answers = answers.into_iter();
        match answers.next() {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(failed(step, &error)),
            None => return Err(failed(step, &WireError::Closed)),
        }
        if matches!(answers.next(), Some(Ok(_))) {
            self.first_write = Some(self.began.elapsed());
        }
        Ok(())
    }

    /// Sees the node say that it is a master, and remembers it as one.
    async fn confirm(&mut self, step: &Step, node: &str) -> Result<(), Stop> {
        let client = self.client(node)?.clone();
        let replication = client.replication().await.map_err(|error| failed(step, &error))?;
        if !replication.is_master() {
            let reason = format!("{node} still follows another node");
            return Err(Stop::Failed(GroupError::StepFailed { step: step.clone(), reason }));
        }
        self.group.run.set_roles(node, &self.plan.upstreams);
        self.group.run.replid = Some(replication.replid.to_string());
        self.note_what_is_shared(&replication);
        self.group.dir.save_run_state(&self.group.run, Durability::PageCache)?;
        let (node, old_master) = (node.to_owned(), self.plan.old_master.clone());
        self.recorder.record(Event::Promoted { node, old_master, former: replication.former })?;
        self.sync_beside()?;
        if self.first_write.is_none() {
            self.await_first_write(&client).await.map_err(|error| failed(step, &error))?;
        }
        Ok(())
    }

    /// How much of an unfenced old master's history the new one has is known for certain only now.
    fn note_what_is_shared(&mut self, new: &Replication) {
        let server = self.group.run.node_mut(&self.plan.old_master).and_then(RunNode::unmanaged_mut);
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
                    self.first_write = Some(self.began.elapsed());
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
    fn sync_beside(&mut self) -> Result<(), Stop> {
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
    async fn repoint(&mut self, view: &GroupView, nodes: &[String], to: &str) -> Result<(), Stop> {
        let upstream = self.client(to)?.announced().clone();
        let mut orders = JoinSet::new();
        for name in nodes {
            self.log_marks.insert(name.clone(), log_length(&self.group.dir.log_file(name)));
            let (name, client, upstream) = (name.clone(), self.client(name)?.clone(), upstream.clone());
            let drained = upstream_of(view, &name).filter(|_| self.draining.contains(&name));
            let end = self.haunted.as_ref().filter(|(_, nodes)| nodes.contains(&name)).map(|(ghost, _)| ghost.end());
            orders.spawn(async move {
                if let Some(end) = end {
                    // One that does not get there comes to the new master with what it has.
                    let _ = salvage::await_offset(&client, end).await;
                }
                if let (Some(drained), None) = (drained, end) {
                    // Whatever comes of it: the order that follows is what counts.
                    let _ = tokio::time::timeout(DRAIN_LIMIT, await_end_of_link(&client, &drained)).await;
                }
                (name, client.follow(&upstream).await)
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
        let deadline = Instant::now() + self.limit;
        let mut parents = vec![self.plan.candidate.clone()];
        while !parents.is_empty() && !waiting.is_empty() {
            let is_child = |name: &String| self.plan.upstreams.get(name).is_some_and(|up| parents.contains(up));
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
            let upstream = &self.plan.upstreams[name];
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

    async fn report(
        mut self,
        command: &str,
        plan: FailoverPlan,
        before: GroupView,
    ) -> Result<FailoverReport, GroupError> {
        let took_us = micros(self.began.elapsed());
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
            true => super::hook::after_promote(self.group, command, &plan.old_master, &plan.candidate).await.err(),
            false => None,
        };
        if let Some(error) = &hook_error {
            self.recorder.record(Event::Warning { text: error.clone() })?;
        }
        let (after, _) = observe(self.group).await?;
        if unmanaged::recognise(&mut self.group.run, &after) {
            self.group.dir.save_run_state(&self.group.run, Durability::Disk)?;
        }
        let resyncs = self.resyncs(&before, &after);
        self.recorder.record(Event::Finished { command: command.to_owned(), error: None })?;
        Ok(FailoverReport {
            diagnosis_after: diagnose(&after),
            plan,
            before,
            after,
            first_write_us: self.first_write.map(micros),
            write_pause_us: self
                .first_write
                .zip(self.handed_over)
                .map(|(first, ordered)| micros(first.saturating_sub(ordered))),
            took_us,
            steps: self.steps,
            salvaged: self.salvaged,
            gone: self.loss.gone(),
            loss: self.loss,
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
        let linked = self.plan.upstreams.iter().filter(|(name, _)| {
            let is_demoted = self.diverged.iter().any(|one| one.node == **name);
            let follows = **name != self.plan.old_master || self.handed_over.is_some() || is_demoted;
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

/// Waits until a replica's link to `upstream` is gone; returns what it has applied by then.
async fn await_end_of_link(replica: &NodeClient, upstream: &Address) -> Result<u64, WireError> {
    loop {
        let replication = replica.replication().await?;
        if !replication.is_linked_to(upstream) {
            return Ok(replication.offset);
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

fn wire(node: &str, source: WireError) -> GroupError {
    GroupError::Wire { node: node.to_owned(), source }
}

fn failed(step: &Step, error: &WireError) -> Stop {
    Stop::Failed(GroupError::StepFailed { step: step.clone(), reason: error.to_string() })
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
