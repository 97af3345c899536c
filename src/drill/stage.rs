//! The steps of a drill, done to its group by the same functions as replctl's verbs.

use std::io;
use std::time::{Duration, Instant};

use super::timing::{Span, micros};
use super::verdict::{Claim, StepTime};
use crate::event::{Event, Recorder};
use crate::fault::{self, CpuHog};
use crate::group::{
    self, FailoverReport, Group, GroupError, GuardVerdict, KillPlan, LaunchPlan, LinkPlan, NodeSignal, Policy,
    RepointPlan, break_link, end_nodes, kill_master, living_process, restart_order, signal_node,
};
use crate::process::GroupLock;
use crate::topology::{Act, LinkFault, Target};

/// How long a node may take to end, or to be linked.
const LINK_LIMIT: Duration = Duration::from_secs(30);
/// How long a master may hold back its writes for a replica.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(5);

/// How long a guard may take to replace a master, or to say that it does not.
const GUARD_LIMIT: Duration = Duration::from_secs(20);
/// Between two looks at what it does.
const POLL_EVERY: Duration = Duration::from_millis(1);

/// A group in a drill, and what was done to it.
pub struct Stage<'a> {
    pub group: Group,
    /// Held while a step is done, and only then, where the group has a guard.
    shared: Option<&'a GroupLock>,
    /// Who was the master at the beginning.
    old_master: String,
    began: Instant,
    pub steps: Vec<StepTime>,
    /// When something disturbed writes or links: until it was done, or something was done about it.
    disturbances: Vec<Span>,
    /// Whether the last of them is not over.
    is_disturbed: bool,
    hog: Option<CpuHog>,
    pub claims: Vec<Claim>,
}

impl<'a> Stage<'a> {
    /// A group that works; times are counted from `began`.
    ///
    /// # Errors
    /// The lock cannot be released.
    pub fn new(group: Group, shared: Option<&'a GroupLock>, began: Instant) -> Result<Self, GroupError> {
        let old_master = group.run.master().name.clone();
        let (steps, disturbances, claims) = (Vec::new(), Vec::new(), Vec::new());
        let (is_disturbed, hog) = (false, None);
        let stage = Self { group, shared, old_master, began, steps, disturbances, is_disturbed, hog, claims };
        stage.release()?;
        Ok(stage)
    }

    /// Lets the guard act.
    fn release(&self) -> Result<(), GroupError> {
        Ok(self.shared.map_or(Ok(()), GroupLock::release)?)
    }

    /// Waits until the guard does nothing; from then on it does not.
    ///
    /// # Errors
    /// The lock, or the group's state.
    pub async fn hold(&mut self) -> Result<(), GroupError> {
        let Some(lock) = self.shared else { return Ok(()) };
        while !lock.retake()? {
            tokio::time::sleep(POLL_EVERY).await;
        }
        self.group = Group::open(self.group.dir.clone())?;
        Ok(())
    }

    /// From the first step's beginning to the last one's end. `None`: there was none.
    pub fn span(&self) -> Option<Span> {
        let (first, last) = (self.steps.first()?, self.steps.last()?);
        let to = Duration::from_micros(last.began_us + last.took_us);
        Some(Span { from: Duration::from_micros(first.began_us), to })
    }

    /// When something disturbed writes or links, if the load ended at `load_end`.
    pub fn disturbances(&self, load_end: Duration) -> Vec<Span> {
        let mut all = self.disturbances.clone();
        if let Some(last) = all.last_mut().filter(|_| self.is_disturbed) {
            last.to = last.to.max(load_end);
        }
        all
    }

    /// Does a step and notes it. `false`: it failed.
    pub async fn perform(&mut self, act: &Act, recorder: &mut Recorder) -> bool {
        let from = self.began.elapsed();
        let result = self.act(act, recorder).await;
        let span = Span { from, to: self.began.elapsed() };
        if let Some(last) = self.disturbances.last_mut().filter(|_| self.is_disturbed) {
            last.to = span.to;
        }
        if act.is_disturbance() && result.is_ok() {
            self.disturbances.push(span);
        }
        self.is_disturbed = act.goes_on() && result.is_ok();
        let (done, error) = match result {
            Ok(done) => (done, None),
            Err(error) => (String::new(), Some(error.to_string())),
        };
        let is_done = error.is_none();
        let (began_us, took_us) = (micros(span.from), micros(span.length()));
        let what = error.as_ref().map_or_else(|| done.clone(), |error| format!("failed: {error}"));
        recorder.show(Event::Rehearsed { at_us: began_us, step: act.to_string(), what });
        self.steps.push(StepTime { step: act.to_string(), began_us, took_us, done, error });
        is_done
    }

    /// Does it; returns what was done, in words.
    async fn act(&mut self, act: &Act, recorder: &mut Recorder) -> Result<String, GroupError> {
        self.hold().await?;
        let done = self.act_alone(act, recorder).await;
        self.release()?;
        done
    }

    async fn act_alone(&mut self, act: &Act, recorder: &mut Recorder) -> Result<String, GroupError> {
        match act {
            Act::KillMaster => self.kill_master(recorder).await,
            Act::Kill(nodes) => self.kill(&self.names(nodes), recorder).await,
            Act::Pause(node) => self.signal(&self.name(node), NodeSignal::Pause, recorder).await,
            Act::Resume(node) => self.signal(&self.name(node), NodeSignal::Resume, recorder).await,
            Act::Start { node, waits } => self.start(&self.names(node), *waits, recorder).await,
            Act::Wipe(nodes) => self.wipe(&self.names(nodes)),
            Act::FillDisk(node) => self.fill_disk(&self.name(node)).await,
            Act::FreeDisk(node) => self.free_disk(&self.name(node)),
            Act::HogCpu => self.hog_cpu(),
            Act::FreeCpu => Ok(self.free_cpu()),
            Act::Restart(node) => self.restart_replica(&self.name(node), recorder).await,
            Act::RestartAll => self.restart_all(recorder).await,
            Act::Promote(node) => self.promote(node.as_ref(), recorder).await,
            Act::Switchover(node) => self.switchover(node.as_ref(), recorder).await,
            Act::Link { node, to, fault } => self.link(&self.names(node), to.as_ref(), fault, recorder).await,
            Act::Repoint { node, to } => self.repoint(&self.name(node), &self.name(to), recorder).await,
        }
    }

    /// The node that is meant; who is meant by `replica` where there is none is its one node.
    fn name(&self, target: &Target) -> String {
        self.names(target).into_iter().next().unwrap_or_else(|| self.old_master.clone())
    }

    fn names(&self, target: &Target) -> Vec<String> {
        let replicas = self.group.run.nodes.iter().filter(|node| node.upstream.is_some());
        let mut replicas = replicas.map(|node| node.name.clone());
        match target {
            Target::Master => vec![self.group.run.master().name.clone()],
            Target::OldMaster => vec![self.old_master.clone()],
            Target::Replica => replicas.next().into_iter().collect(),
            Target::Replicas => replicas.collect(),
            Target::Node(name) => vec![name.clone()],
        }
    }

    async fn kill_master(&mut self, recorder: &mut Recorder) -> Result<String, GroupError> {
        let plan = KillPlan::new(&self.group).await?;
        let report = kill_master(&self.group, plan, recorder).await?;
        let old = &report.plan.master;
        let killed = format!("{old} (pid {}) was killed", report.plan.process.pid);
        if self.shared.is_some() {
            return Ok(format!("{killed}; {}", self.await_guard(old).await?));
        }
        if self.group.run.sentinels.is_none() {
            return Ok(killed);
        }
        let failover = group::await_failover(&mut self.group, old, Instant::now()).await?;
        let failover = failover.ok_or_else(|| GroupError::NotReplaced { master: old.clone() })?;
        let first_write_ms = failover.first_write_us as f64 / 1000.0;
        Ok(format!("{killed}; the sentinels made {} the master after {first_write_ms:.1} ms", failover.master))
    }

    /// Waits until the guard has replaced a lost master, or holds back.
    async fn await_guard(&mut self, master: &str) -> Result<String, GroupError> {
        self.release()?;
        let began = Instant::now();
        while began.elapsed() < GUARD_LIMIT {
            let group = Group::open(self.group.dir.clone())?;
            let heir = &group.run.master().name;
            if heir != master {
                let took_ms = began.elapsed().as_secs_f64() * 1000.0;
                self.hold().await?;
                return Ok(format!("the guard made {heir} the master after {took_ms:.1} ms"));
            }
            let last = group::guard_state(&group)?.and_then(|guard| guard.last);
            if last.is_some_and(|last| last.note.verdict == GuardVerdict::HoldsBack) {
                return Ok("the guard holds back".to_owned());
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
        let pending = vec![format!("{master} (the guard has not replaced it)")];
        Err(GroupError::TimedOut { pending, limit_ms: GUARD_LIMIT.as_millis() })
    }

    /// The master's end is a loss that a promotion must be able to tell.
    async fn kill(&mut self, nodes: &[String], recorder: &mut Recorder) -> Result<String, GroupError> {
        let mut done = Vec::new();
        for node in nodes {
            done.push(self.kill_one(node, recorder).await?);
        }
        Ok(done.join(", "))
    }

    async fn kill_one(&mut self, node: &str, recorder: &mut Recorder) -> Result<String, GroupError> {
        match KillPlan::new(&self.group).await {
            Ok(plan) if plan.master == node => self.kill_master(recorder).await,
            Ok(_) | Err(GroupError::NoLivingMaster(_)) => self.signal(node, NodeSignal::Kill, recorder).await,
            Err(error) => Err(error),
        }
    }

    async fn signal(&self, node: &str, signal: NodeSignal, recorder: &mut Recorder) -> Result<String, GroupError> {
        let process = living_process(&self.group, node)?;
        signal_node(node, &process, signal, recorder).await?;
        Ok(format!("{node} (pid {}) {}", process.pid, signal.done()))
    }

    async fn start(&mut self, nodes: &[String], waits: bool, recorder: &mut Recorder) -> Result<String, GroupError> {
        let group = Group::open(self.group.dir.clone())?;
        let plan = LaunchPlan::start(group, nodes, false).await?;
        let plan = if waits { plan } else { plan.without_waiting_for_links() };
        self.group = group::up(self.group.dir.clone(), plan, LINK_LIMIT, recorder).await?;
        let upstream = nodes.first().and_then(|node| self.group.run.node(node)?.upstream.clone());
        Ok(match (nodes, upstream) {
            ([_], Some(upstream)) => format!("{} is back as a replica of {upstream}", group::listed(nodes)),
            (_, Some(upstream)) => format!("{} are back as replicas of {upstream}", group::listed(nodes)),
            (_, None) => format!("{} is back as the master", group::listed(nodes)),
        })
    }

    /// All of its files but the two that replctl itself has made for it.
    fn wipe(&self, nodes: &[String]) -> Result<String, GroupError> {
        nodes.iter().try_for_each(|node| self.wipe_one(node))?;
        let verb = if nodes.len() == 1 { "has" } else { "have" };
        Ok(format!("{} {verb} no data any more", group::listed(nodes)))
    }

    fn wipe_one(&self, node: &str) -> Result<(), GroupError> {
        if living_process(&self.group, node).is_ok() {
            let reason = format!("{node} runs: its files cannot be taken away");
            return Err(GroupError::Unsafe { reason, hint: format!("kill {node} before") });
        }
        let dir = self.group.dir.node_dir(node);
        let keeps = [self.group.dir.config_file(node), self.group.dir.log_file(node)];
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            match (keeps.contains(&path), path.is_dir()) {
                (true, _) => {}
                (false, true) => std::fs::remove_dir_all(&path)?,
                (false, false) => std::fs::remove_file(&path)?,
            }
        }
        Ok(())
    }

    async fn fill_disk(&self, node: &str) -> Result<String, GroupError> {
        let dir = self.group.dir.node_dir(node);
        // Much is written, and not to a disk.
        let filled = tokio::task::spawn_blocking(move || fault::fill_disk(&dir)).await.map_err(io::Error::other)?;
        filled.map_err(|source| unsafe_disk(node, &source))?;
        Ok(format!("nothing more fits onto the disk of {node}"))
    }

    fn free_disk(&self, node: &str) -> Result<String, GroupError> {
        fault::free_disk(&self.group.dir.node_dir(node)).map_err(|source| unsafe_disk(node, &source))?;
        Ok(format!("the disk of {node} has room again"))
    }

    fn hog_cpu(&mut self) -> Result<String, GroupError> {
        let hog = CpuHog::start()?;
        let busy = if hog.threads() == 1 { "1 thread is busy" } else { &format!("{} threads are busy", hog.threads()) };
        let done = format!("{busy} doing nothing");
        self.hog = Some(hog);
        Ok(done)
    }

    /// Also at the end of the load: what is looked at then is no part of the drill.
    pub fn free_cpu(&mut self) -> String {
        match self.hog.take() {
            Some(_) => "the processors are free again".to_owned(),
            None => "nobody kept the processors busy".to_owned(),
        }
    }

    async fn restart(&mut self, node: &str, recorder: &mut Recorder) -> Result<String, GroupError> {
        end_nodes(&mut self.group, &[node.to_owned()], LINK_LIMIT, recorder).await?;
        self.start(&[node.to_owned()], true, recorder).await
    }

    async fn restart_replica(&mut self, node: &str, recorder: &mut Recorder) -> Result<String, GroupError> {
        if self.group.run.master().name == node {
            let reason = format!("{node} is the master: while it is away nobody would take writes");
            return Err(GroupError::Unsafe { reason, hint: format!("switchover, then restart {node}") });
        }
        self.restart(node, recorder).await
    }

    async fn restart_all(&mut self, recorder: &mut Recorder) -> Result<String, GroupError> {
        let master = self.group.run.master().name.clone();
        let replicas = restart_order(&self.group);
        for node in &replicas {
            self.restart(node, recorder).await?;
        }
        if !replicas.is_empty() {
            self.switchover(None, recorder).await?;
        }
        self.restart(&master, recorder).await?;
        Ok(format!("{} nodes were restarted, {} is the master", replicas.len() + 1, self.group.run.master().name))
    }

    async fn promote(&mut self, node: Option<&Target>, recorder: &mut Recorder) -> Result<String, GroupError> {
        let policy = self.policy(node);
        let report = group::promote("promote", &mut self.group, &policy, Instant::now(), LINK_LIMIT, recorder).await?;
        self.claims.push(Claim {
            node: report.plan.candidate.clone(),
            words: report.loss.to_string(),
            bytes: report.loss.bytes_min(),
            is_exact: report.loss.master_end.is_some(),
        });
        complete(&report)?;
        let salvaged = report.salvaged.as_ref().map_or(0, |salvaged| salvaged.bytes);
        let salvaged = if salvaged > 0 { format!(", {salvaged} bytes were salvaged") } else { String::new() };
        Ok(format!("{} took over{salvaged}; lost, as promote says: {}", report.plan.candidate, report.loss))
    }

    async fn switchover(&mut self, node: Option<&Target>, recorder: &mut Recorder) -> Result<String, GroupError> {
        let (policy, limits) = (self.policy(node), (HAND_OVER_PATIENCE, LINK_LIMIT));
        let report = group::switchover(&mut self.group, &policy, Instant::now(), limits, recorder).await?;
        complete(&report)?;
        let pause =
            report.write_pause_us.map(|pause| format!(", nobody took writes for {:.1} ms", pause as f64 / 1000.0));
        let (from, to) = (&report.plan.old_master, &report.plan.candidate);
        Ok(format!("{from} handed over to {to}{}", pause.unwrap_or_default()))
    }

    fn policy(&self, node: Option<&Target>) -> Policy {
        let max_loss_bytes = self.group.run.max_loss_bytes;
        Policy { wanted: node.map(|node| self.name(node)), max_loss_bytes, ..Policy::default() }
    }

    /// Breaks or heals one link, or those of all replicas.
    async fn link(
        &self,
        nodes: &[String],
        to: Option<&Target>,
        fault: &LinkFault,
        recorder: &mut Recorder,
    ) -> Result<String, GroupError> {
        let to = to.map(|to| self.name(to));
        let mut links = Vec::new();
        for node in nodes {
            let plan = LinkPlan::new(&self.group, node, to.as_deref(), fault.clone())?;
            let edge = break_link(&self.group.dir, plan, recorder).await?;
            let is_open = if edge.connections > 0 { "" } else { " (no connection)" };
            links.push(format!("{} -> {}{is_open}", edge.aim.from, edge.aim.to));
        }
        Ok(format!("{}: {}", fault.verb(), links.join(", ")))
    }

    async fn repoint(&mut self, node: &str, to: &str, recorder: &mut Recorder) -> Result<String, GroupError> {
        let (view, clients) = group::observe(&self.group).await?;
        let plan = RepointPlan::new(&view, node, to, false)?;
        group::repoint(&mut self.group, &clients, plan, LINK_LIMIT, recorder).await?;
        Ok(format!("{node} follows {to}"))
    }
}

fn unsafe_disk(node: &str, source: &io::Error) -> GroupError {
    let hint = "replctl drill gives every node a small disk where one of the steps is fill-disk".to_owned();
    GroupError::Unsafe { reason: format!("{node}: {source}"), hint }
}

/// A promotion that is done but not whole has failed here: a drill's group has nothing that could excuse it.
fn complete(report: &FailoverReport) -> Result<(), GroupError> {
    match report.missing.first() {
        None => Ok(()),
        Some(_) => Err(GroupError::TimedOut { pending: report.missing.clone(), limit_ms: LINK_LIMIT.as_millis() }),
    }
}
