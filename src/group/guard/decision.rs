//! What a guard does next, as a value: no clock, no wire, no process.
//!
//! ```text
//! process of the master ended ------------------------------------------------+
//! no answer for the deadline, connection broken --> Look --Seen--> diagnose --+--> Promote --Done--> Look
//! every half second ------------------------------> Look --Seen--> diagnose --+--> Start   --Done--> Look
//! ```
//!
//! A process that has ended is a fact. Silence is none: it counts from the first question that was left without an answer,
//! in the guard's own time, which stands still while the guard itself does not run; when it has lasted for the deadline,
//! all nodes are looked at, and the plan of `promote` decides, which refuses where a replica still hears the master and
//! where the master cannot be fenced.

use std::collections::BTreeMap;
use std::mem::{Discriminant, discriminant};
use std::time::Duration;

use super::note::{Evidence, GuardNote, GuardVerdict};
use crate::group::diagnosis::{Diagnosis, diagnose, listed};
use crate::group::plan::{FailoverPlan, Policy, Refusal};
use crate::group::view::{GroupView, NodeView};
use crate::process::Condition;
use crate::wire::Link;

/// How many masters are replaced within [`Guard::WINDOW`] before somebody has to look into it.
const FAILOVERS_MAX: usize = 3;
/// Between two looks at all nodes while nothing happens: at least, and where a look takes long. It is to be a small part of the
/// guard's time.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const LOOK_EVERY_MAX: Duration = Duration::from_secs(2);
const LOOK_SHARE: u32 = 10;
/// How long after something failed it is tried again, at first and at most.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(10);
/// How long after a node was started it is started again, at first and at most.
const RESTART_FIRST: Duration = Duration::from_secs(1);
const RESTART_LAST: Duration = Duration::from_secs(60);
/// How a word about the guard itself begins.
const STALL: &str = "it did not run itself";
/// More is not kept of what was seen.
const EVIDENCE_MAX: usize = 16;

/// What a guard is told.
#[derive(Debug, Clone)]
pub enum GuardEvent {
    /// Nothing has happened but that time has passed.
    Tick,
    /// The master is asked how it is.
    Asked,
    /// It has answered, and says whether it is a master.
    Answered {
        /// Whether it does.
        is_master: bool,
    },
    /// The connection to it broke, or cannot be opened.
    Broken {
        /// What the system said.
        why: String,
    },
    /// The process of a node has ended.
    Ended {
        /// The node.
        node: String,
    },
    /// All nodes were asked, as [`GuardOrder::Look`] wanted.
    Seen(Box<GroupView>),
    /// The group was changed, by this guard or by anybody.
    Group(GuardSettings),
    /// The last order that takes time has come to its end.
    Done(GuardDone),
}

/// What is wished of a guard, and of what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardSettings {
    /// The node that is the master; `None`: it is not meant to run.
    pub master: Option<String>,
    /// For how long a master may leave a question without an answer.
    pub deadline: Duration,
    /// What has died is started again.
    pub restarts: bool,
    /// `[failover] max-loss`
    pub max_loss_bytes: Option<u64>,
    /// It only watches.
    pub is_in_maintenance: bool,
    /// How often its failovers were acknowledged.
    pub acknowledgements: u64,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuardOrder {
    /// Ask all nodes at once; answered by [`GuardEvent::Seen`].
    Look,
    /// Do what `promote` does, unless all is well by now; answered by [`GuardEvent::Done`].
    Promote(GuardNote),
    /// Start nodes that have died; answered by [`GuardEvent::Done`].
    Start(Vec<String>, GuardNote),
    /// Write this down.
    Note(GuardNote),
}

/// What came of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuardDone {
    /// It is done.
    Done,
    /// There was nothing to do any more.
    Moot,
    /// There is no plan.
    Refused(Box<Refusal>),
    /// It failed, or broke off.
    Failed(String),
}

/// A guard at its work.
#[derive(Debug, Clone)]
pub struct Guard {
    settings: GuardSettings,
    attention: Attention,
    work: Work,
    /// Since when, in own time, a question has no answer.
    asked: Option<Duration>,
    /// The silence or the break was looked into.
    is_alarmed: bool,
    /// The end of its process was acted on: whatever is still to be done follows from looks.
    is_known_dead: bool,
    look_at: Duration,
    /// What is not as it is meant to be, and since when, in own time.
    odd: Option<(Discriminant<Diagnosis>, Duration)>,
    seen: Vec<Sighting>,
    /// When masters were replaced that nobody has acknowledged.
    failovers: Vec<Duration>,
    retry: Retry,
    restarts: BTreeMap<String, Retry>,
    told: Option<Told>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Idle,
    Looking {
        since: Duration,
    },
    /// Whether another master comes of it.
    Acting {
        replaces: bool,
    },
}

/// What was said last, and is not said again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Refused(Discriminant<Refusal>),
    Held,
    Maintenance,
}

#[derive(Debug, Clone)]
struct Sighting {
    at: Duration,
    by: String,
    saw: String,
}

/// The guard's own time: it stands still while the guard itself does not run, be it stopped or without a processor.
#[derive(Debug, Clone, Default)]
struct Attention {
    last: Duration,
    own: Duration,
}

impl Attention {
    /// Goes on to `now`; returns what of that is not counted.
    fn advance(&mut self, now: Duration, gap_max: Duration) -> Duration {
        let gap = now.saturating_sub(self.last);
        self.last = self.last.max(now);
        self.own += gap.min(gap_max);
        gap.saturating_sub(gap_max)
    }
}

/// When something may be tried again.
#[derive(Debug, Clone, Default)]
struct Retry {
    at: Duration,
    tries: u32,
}

impl Retry {
    fn wait(&mut self, now: Duration, first: Duration, last: Duration) {
        // What went well for so long is no row of failures.
        if now.saturating_sub(self.at) > last {
            self.tries = 0;
        }
        self.at = now + first.saturating_mul(1 << self.tries.min(16)).min(last);
        self.tries += 1;
    }
}

/// What a diagnosis asks of a guard.
enum Concern {
    /// Nothing that it could do.
    None,
    /// To start nodes.
    Restart(Vec<String>),
    /// To act at once.
    Certain,
    /// To act when the master has been silent for the deadline.
    Silence,
    /// To act when it has been so for the deadline.
    Oddity,
}

impl GuardSettings {
    /// The time between two events at most, while the guard runs.
    pub fn tick(&self) -> Duration {
        (self.deadline / 20).clamp(Duration::from_millis(5), Duration::from_millis(50))
    }
}

impl Guard {
    /// In which time [`FAILOVERS_MAX`] failovers are too many.
    pub const WINDOW: Duration = Duration::from_secs(600);

    /// A guard that begins at `now`, having replaced masters at the times that are given.
    pub fn new(settings: GuardSettings, now: Duration, failovers: Vec<Duration>) -> Self {
        Self {
            settings,
            attention: Attention { last: now, own: Duration::ZERO },
            work: Work::Idle,
            asked: None,
            is_alarmed: false,
            is_known_dead: false,
            look_at: now,
            odd: None,
            seen: Vec::new(),
            failovers,
            retry: Retry::default(),
            restarts: BTreeMap::new(),
            told: None,
        }
    }

    /// Takes note of something that happens at `now`, a time that never goes back; tells what is to be done, in this order.
    #[must_use]
    pub fn step(mut self, now: Duration, event: GuardEvent) -> (Self, Vec<GuardOrder>) {
        let lost = self.attention.advance(now, self.settings.tick() * 2);
        if lost > self.settings.deadline / 4 && self.asked.is_some() {
            self.seen.retain(|sighting| !sighting.saw.starts_with(STALL));
            let saw = format!("{STALL} for {} ms, which are not counted", lost.as_millis());
            self.saw(now, "guard", saw);
        }
        let mut orders = match event {
            GuardEvent::Tick => Vec::new(),
            GuardEvent::Asked => self.asked(),
            GuardEvent::Answered { is_master } => self.answered(now, is_master),
            GuardEvent::Broken { why } => self.broken(now, why),
            GuardEvent::Ended { node } => self.ended(now, &node),
            GuardEvent::Seen(view) => self.judge(now, &view),
            GuardEvent::Group(settings) => self.change(now, settings),
            GuardEvent::Done(done) => self.done(now, done),
        };
        if self.silence() >= self.settings.deadline && !self.is_alarmed {
            self.is_alarmed = true;
            self.look_at = now;
        }
        if self.work == Work::Idle && now >= self.look_at {
            self.work = Work::Looking { since: now };
            orders.push(GuardOrder::Look);
        }
        (self, orders)
    }

    /// For how long the master has left a question without an answer.
    fn silence(&self) -> Duration {
        self.asked.map_or(Duration::ZERO, |asked| self.attention.own.saturating_sub(asked))
    }

    fn asked(&mut self) -> Vec<GuardOrder> {
        self.asked.get_or_insert(self.attention.own);
        Vec::new()
    }

    fn answered(&mut self, now: Duration, is_master: bool) -> Vec<GuardOrder> {
        if is_master {
            self.asked = None;
            (self.is_alarmed, self.is_known_dead) = (false, false);
            self.seen.clear();
        } else if !self.is_alarmed {
            self.is_alarmed = true;
            self.look_at = now;
            self.saw_of_master(now, "says that it follows another node");
        }
        Vec::new()
    }

    fn broken(&mut self, now: Duration, why: String) -> Vec<GuardOrder> {
        // It is tried anew all the time: the first break is news.
        if !self.seen.iter().any(|sighting| sighting.saw == why) {
            self.look_at = now;
            self.saw(now, "guard", why);
        }
        Vec::new()
    }

    fn ended(&mut self, now: Duration, node: &str) -> Vec<GuardOrder> {
        self.look_at = now;
        let is_master = self.settings.master.as_deref() == Some(node);
        if !is_master || self.is_known_dead || matches!(self.work, Work::Acting { .. }) {
            return Vec::new();
        }
        self.is_known_dead = true;
        self.saw_of_master(now, "its process has ended");
        self.replace(now, format!("{node} is dead"))
    }

    fn change(&mut self, now: Duration, settings: GuardSettings) -> Vec<GuardOrder> {
        if settings.acknowledgements != self.settings.acknowledgements {
            self.failovers.clear();
            self.told = None;
        }
        if settings.is_in_maintenance != self.settings.is_in_maintenance {
            self.told = None;
        }
        if settings.master != self.settings.master {
            self.forget();
        }
        // Whoever tells this has begun to sense anew: a look that was under way comes to nothing.
        if matches!(self.work, Work::Looking { .. }) {
            self.work = Work::Idle;
        }
        self.settings = settings;
        self.look_at = now;
        Vec::new()
    }

    fn done(&mut self, now: Duration, done: GuardDone) -> Vec<GuardOrder> {
        let replaces = matches!(self.work, Work::Acting { replaces: true });
        self.work = Work::Idle;
        self.look_at = now;
        match done {
            GuardDone::Done => {
                if replaces {
                    self.failovers.push(now);
                }
                self.retry = Retry::default();
                self.forget();
                Vec::new()
            }
            GuardDone::Moot => {
                self.look_at = now + RETRY_FIRST;
                Vec::new()
            }
            GuardDone::Refused(refusal) => self.refuse(now, &refusal),
            GuardDone::Failed(reason) => {
                self.retry.wait(now, RETRY_FIRST, RETRY_LAST);
                vec![GuardOrder::Note(self.note(now, GuardVerdict::Fails, reason))]
            }
        }
    }

    /// What was seen of one master says nothing of the next.
    fn forget(&mut self) {
        (self.asked, self.odd, self.told) = (None, None, None);
        (self.is_alarmed, self.is_known_dead) = (false, false);
        self.seen.clear();
    }

    fn judge(&mut self, now: Duration, view: &GroupView) -> Vec<GuardOrder> {
        let Work::Looking { since } = self.work else { return Vec::new() };
        self.work = Work::Idle;
        let pause = (now.saturating_sub(since) * LOOK_SHARE).clamp(LOOK_EVERY, LOOK_EVERY_MAX);
        // A silent master makes each look long, and is what the next one is for.
        self.look_at = now + if self.is_alarmed { LOOK_EVERY } else { pause };
        let diagnosis = diagnose(view);
        let kind = discriminant(&diagnosis);
        let since = match self.odd {
            Some((odd, since)) if odd == kind => since,
            _ => self.attention.own,
        };
        self.odd = Some((kind, since));
        let lasted = self.attention.own.saturating_sub(since);
        let concern = match self.settings.master {
            Some(_) => concern(view, &diagnosis),
            None => Concern::None,
        };
        let acts = match concern {
            Concern::None => {
                if diagnosis.is_healthy() {
                    self.told = None;
                }
                false
            }
            Concern::Restart(nodes) => return self.restart(now, nodes, &diagnosis),
            Concern::Certain => true,
            Concern::Silence => self.silence() >= self.settings.deadline,
            Concern::Oddity => lasted >= self.settings.deadline,
        };
        if !acts {
            return Vec::new();
        }
        self.saw_all(now, view);
        let policy = Policy { max_loss_bytes: self.settings.max_loss_bytes, ..Policy::default() };
        match FailoverPlan::new(view, &policy) {
            Err(refusal) => self.refuse(now, &refusal),
            // Where another has replaced the master already, that is no failover of this guard's.
            Ok(plan) => {
                let is_ours = !matches!(diagnosis, Diagnosis::MasterMoved { .. });
                match is_ours && plan.candidate != view.meant_master().name {
                    true => self.replace(now, diagnosis.to_string()),
                    false => self.act(now, false, diagnosis.to_string()),
                }
            }
        }
    }

    /// Replaces the master, if that was not done too often.
    fn replace(&mut self, now: Duration, reason: String) -> Vec<GuardOrder> {
        self.failovers.retain(|at| now.saturating_sub(*at) < Self::WINDOW);
        match self.failovers.first().filter(|_| self.failovers.len() >= FAILOVERS_MAX) {
            Some(first) if !self.settings.is_in_maintenance => {
                let wait = Self::WINDOW.saturating_sub(now.saturating_sub(*first));
                let reason = format!(
                    "{reason}, and {FAILOVERS_MAX} masters were replaced in {} s: it waits for {} s, or for replctl guard --acknowledge",
                    Self::WINDOW.as_secs(),
                    wait.as_secs()
                );
                self.tell(now, Told::Held, GuardVerdict::HoldsBack, reason)
            }
            _ => self.act(now, true, reason),
        }
    }

    fn act(&mut self, now: Duration, replaces: bool, reason: String) -> Vec<GuardOrder> {
        if self.settings.is_in_maintenance {
            let reason = format!("{reason}; maintenance: nothing is done");
            return self.tell(now, Told::Maintenance, GuardVerdict::Refuses, reason);
        }
        if now < self.retry.at {
            return Vec::new();
        }
        self.work = Work::Acting { replaces };
        let verdict = if replaces { GuardVerdict::Replaces } else { GuardVerdict::Repairs };
        vec![GuardOrder::Promote(self.note(now, verdict, reason))]
    }

    fn restart(&mut self, now: Duration, nodes: Vec<String>, diagnosis: &Diagnosis) -> Vec<GuardOrder> {
        let is_due = |name: &String| self.restarts.get(name).is_none_or(|retry| now >= retry.at);
        let nodes: Vec<String> = nodes.into_iter().filter(is_due).collect();
        if nodes.is_empty() || !self.settings.restarts || self.settings.is_in_maintenance {
            return Vec::new();
        }
        for node in &nodes {
            self.restarts.entry(node.clone()).or_default().wait(now, RESTART_FIRST, RESTART_LAST);
        }
        self.work = Work::Acting { replaces: false };
        let note = self.note(now, GuardVerdict::Starts, format!("{}: {diagnosis}", listed(&nodes)));
        vec![GuardOrder::Start(nodes, note)]
    }

    fn refuse(&mut self, now: Duration, refusal: &Refusal) -> Vec<GuardOrder> {
        let told = Told::Refused(discriminant(refusal));
        self.tell(now, told, GuardVerdict::Refuses, refusal.to_string())
    }

    /// Says a thing once.
    fn tell(&mut self, now: Duration, told: Told, verdict: GuardVerdict, reason: String) -> Vec<GuardOrder> {
        if self.told == Some(told) {
            return Vec::new();
        }
        self.told = Some(told);
        vec![GuardOrder::Note(self.note(now, verdict, reason))]
    }

    fn note(&self, now: Duration, verdict: GuardVerdict, reason: String) -> GuardNote {
        let evidence = self.seen.iter().map(|sighting| Evidence {
            ms_ago: u64::try_from(now.saturating_sub(sighting.at).as_millis()).unwrap_or(u64::MAX),
            by: sighting.by.clone(),
            saw: sighting.saw.clone(),
        });
        GuardNote { verdict, reason, evidence: evidence.collect() }
    }

    fn saw_of_master(&mut self, now: Duration, what: &str) {
        let master = self.settings.master.clone().unwrap_or_default();
        self.saw(now, "guard", format!("{master}: {what}"));
    }

    /// What each node shows and says of the master.
    fn saw_all(&mut self, now: Duration, view: &GroupView) {
        let master = view.meant_master();
        if let Some(asked) = self.asked {
            let own = self.attention.own.saturating_sub(asked);
            self.saw(now, "guard", format!("{}: no answer for {} ms", master.name, own.as_millis()));
        }
        if let Some(condition) = master.condition().filter(|_| master.report().is_none()) {
            self.saw(now, "guard", format!("{}: {}", master.name, condition_words(condition)));
        }
        for node in view.nodes.iter().filter(|node| node.name != master.name) {
            self.saw(now, &node.name, said_of_upstream(node));
        }
    }

    /// A thing that is seen again is as old as at first.
    fn saw(&mut self, now: Duration, by: &str, saw: String) {
        if self.seen.len() < EVIDENCE_MAX && !self.seen.iter().any(|one| one.by == by && one.saw == saw) {
            self.seen.push(Sighting { at: now, by: by.to_owned(), saw });
        }
    }
}

fn condition_words(condition: Condition) -> &'static str {
    match condition {
        Condition::Running => "its process lives and does not answer",
        Condition::Stopped => "its process is stopped",
        Condition::Dead => "its process has ended",
    }
}

fn said_of_upstream(node: &NodeView) -> String {
    let Some(report) = node.report() else { return format!("says nothing: {}", node.silence()) };
    let own = &report.replication;
    let Some(upstream) = own.upstream() else { return "says that it is a master".to_owned() };
    let link = match (&upstream.link, upstream.silent_seconds) {
        (Link::Up, Some(seconds)) => format!("is up, last word {seconds} s before"),
        (Link::Up, None) => "is up".to_owned(),
        (Link::Syncing { .. }, _) => "is in a full sync".to_owned(),
        (Link::Down { seconds: Some(seconds) }, _) => format!("is down for {seconds} s"),
        (Link::Down { seconds: None }, _) => "was never up".to_owned(),
    };
    format!("its link to {} {link}; it is at offset {}", upstream.address(), own.offset)
}

fn concern(view: &GroupView, diagnosis: &Diagnosis) -> Concern {
    let has_died = |node: &&NodeView| node.is_dead() && node.process().is_some();
    let dead = || view.nodes.iter().filter(has_died).map(|node| node.name.clone()).collect::<Vec<_>>();
    match diagnosis {
        // A master that comes back with less than its replicas have on their disks would make them lose it.
        Diagnosis::Down if view.nodes.len() > 1 => Concern::Certain,
        Diagnosis::Down | Diagnosis::ReplicasUnreachable { .. } => match dead() {
            nodes if nodes.is_empty() => Concern::None,
            nodes => Concern::Restart(nodes),
        },
        Diagnosis::MasterDead { .. }
        | Diagnosis::EmptyMaster { .. }
        | Diagnosis::MasterCameBackWithLess { .. }
        | Diagnosis::UnfencedMaster { .. }
        | Diagnosis::TwoMasters { .. } => Concern::Certain,
        Diagnosis::NoCandidate { .. } if view.meant_master().is_dead() => Concern::Certain,
        Diagnosis::NoCandidate { .. } | Diagnosis::MasterHung { .. } | Diagnosis::MasterUnreachable { .. } => {
            Concern::Silence
        }
        Diagnosis::NoMaster { .. }
        | Diagnosis::Cycle { .. }
        | Diagnosis::MasterMoved { .. }
        | Diagnosis::OrphanedReplicas { .. } => Concern::Oddity,
        Diagnosis::MasterRefusesUs { .. }
        | Diagnosis::MasterLoading { .. }
        | Diagnosis::ReplicasLoading { .. }
        | Diagnosis::UnmanagedUnreachable { .. }
        | Diagnosis::ReplicasNeverSynced { .. }
        | Diagnosis::ReplicasStale { .. }
        | Diagnosis::LinksDown { .. }
        | Diagnosis::Healthy => Concern::None,
    }
}

#[cfg(test)]
mod tests;
