//! The guard's senses and hands: what [`Guard`] is told, and how its orders are carried out.
//!
//! Everything runs on one thread. An order that takes time is waited for; what was sensed meanwhile is of the group as it
//! was, so all is sensed anew afterwards.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::decision::{Guard, GuardDone, GuardEvent, GuardOrder, GuardSettings};
use super::note::{GuardNote, GuardVerdict};
use crate::event::{Event, Recorder};
use crate::group::bring_up::{LaunchPlan, interruption, up};
use crate::group::ephemeral::reap;
use crate::group::journal::{Journal, RECENT_BYTES, read_end};
use crate::group::kill::disarm;
use crate::group::plan::{Policy, Refusal};
use crate::group::promotion::promote;
use crate::group::stop::end_strays;
use crate::group::unfinished::unfinished;
use crate::group::view::observe;
use crate::group::{Group, GroupError, endpoint};
use crate::process::{
    Condition, Durability, GroupDir, GroupLock, LiveProcess, ProcessIdentity, RunNode, RunProcess, RunState, StateError,
};
use crate::wire::{Endpoint, NodeClient, WireError};

/// How long links are waited for after a failover. Who needs longer follows all the same.
const LINK_LIMIT: Duration = Duration::from_secs(2);
/// How long a node that is started again may take to answer.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long an answer to a heartbeat is waited for, as a multiple of the deadline: a late one is still one.
const PATIENCE: u32 = 10;
/// Between two attempts to get the group's lock.
const LOCK_EVERY: Duration = Duration::from_millis(1);
/// The command that the journal names.
const COMMAND: &str = "guard";

/// Why a guard has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardEnd {
    /// It was told to.
    Interrupted,
    /// The group is gone, or somebody else decides.
    Dismissed,
}

/// Watches over a group until told to end.
///
/// # Errors
/// Another guard does, or the group's state cannot be read or written.
pub async fn watch_over(dir: &GroupDir, display: mpsc::UnboundedSender<Event>) -> Result<GuardEnd, GroupError> {
    let (sender, stop) = watch::channel(false);
    let mut interruptions = JoinSet::new();
    interruptions.spawn(async move {
        interruption().await;
        sender.send_replace(true);
    });
    let Some(group) = enrol(dir, &stop, &display).await? else { return Ok(GuardEnd::Interrupted) };
    let (sender, events) = mpsc::unbounded_channel();
    let mut watch = Watch {
        dir: dir.clone(),
        stamp: dir.run_stamp(),
        group,
        display,
        began: Instant::now(),
        stop,
        sender,
        events,
        generation: 0,
        senses: JoinSet::new(),
    };
    let end = watch.run().await?;
    watch.note(GuardNote { verdict: GuardVerdict::Ends, reason: end.words().to_owned(), evidence: Vec::new() })?;
    leave(dir)?;
    Ok(end)
}

impl GuardEnd {
    fn words(self) -> &'static str {
        match self {
            Self::Interrupted => "it was told to",
            Self::Dismissed => "the group has ended, or somebody else decides",
        }
    }
}

/// Writes this process down as the group's guard, when nobody else changes the group, and ends what was broken off. `None`: it
/// was told to end before.
async fn enrol(
    dir: &GroupDir,
    stop: &watch::Receiver<bool>,
    display: &mpsc::UnboundedSender<Event>,
) -> Result<Option<Group>, GroupError> {
    let own = ProcessIdentity::of(std::process::id())?;
    let _lock = loop {
        // Whoever has started it has written it down, and holds the lock until it watches.
        let is_expected = dir.run_state()?.is_some_and(|run| run.guard.process == own);
        match dir.lock(COMMAND) {
            _ if *stop.borrow() => return Ok(None),
            Err(StateError::Busy { .. }) if is_expected => return Ok(Some(Group::open(dir.clone())?)),
            Err(StateError::Busy { .. }) => tokio::time::sleep(LOCK_EVERY).await,
            lock => break lock?,
        }
    };
    let mut group = Group::open(dir.clone())?;
    check_decider(&group)?;
    if let Some(other) = group.run.guard.process.as_ref().filter(|other| Some(*other) != own.as_ref())
        && other.condition()? != Condition::Dead
    {
        return Err(GroupError::Unsafe {
            reason: format!("a guard watches over {} already (pid {})", dir.name(), other.pid),
            hint: "replctl guard --stop ends it".to_owned(),
        });
    }
    if group.run.guard.process != own {
        group.run.guard.process = own;
        dir.save_run_state(&group.run, Durability::PageCache)?;
    }
    let policy = Policy { finishes: unfinished(&group, None)?, ..policy(&group.run) };
    if policy.finishes.is_some() {
        let mut recorder = Recorder::new(Journal::open(&dir.journal_file())?, display.clone());
        // If that is not the moment for it, what is wrong is seen soon.
        let _ = promote(COMMAND, &mut group, &policy, Instant::now(), LINK_LIMIT, &mut recorder).await;
    }
    Ok(Some(Group::open(dir.clone())?))
}

/// Whether a guard may decide in this group.
///
/// # Errors
/// Its Sentinels do.
pub fn check_decider(group: &Group) -> Result<(), GroupError> {
    match group.run.sentinels {
        None => Ok(()),
        Some(_) => Err(GroupError::Unsafe {
            reason: format!("the sentinels of {} decide who is its master", group.run.group),
            hint: "there is one decider, never two: `[failover] by = \"guard\"`, and no `[sentinel]`".to_owned(),
        }),
    }
}

/// Takes note that this guard has ended, unless somebody who holds the group does.
fn leave(dir: &GroupDir) -> Result<(), GroupError> {
    let own = ProcessIdentity::of(std::process::id())?;
    let Ok(_lock) = dir.lock(COMMAND) else { return Ok(()) };
    if let Ok(mut group) = Group::open(dir.clone())
        && group.run.guard.process == own
    {
        group.run.guard.process = None;
        dir.save_run_state(&group.run, Durability::PageCache)?;
    }
    Ok(())
}

/// The group's lock, when it is free; `None`: this guard is to end.
async fn locked(dir: &GroupDir, stop: &watch::Receiver<bool>) -> Result<Option<GroupLock>, GroupError> {
    while !*stop.borrow() {
        match dir.lock(COMMAND) {
            Ok(lock) => return Ok(Some(lock)),
            Err(StateError::Busy { .. }) => tokio::time::sleep(LOCK_EVERY).await,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

fn policy(run: &RunState) -> Policy {
    Policy { max_loss_bytes: run.max_loss_bytes, ..Policy::default() }
}

fn settings(run: &RunState) -> GuardSettings {
    let master = run.master();
    let is_meant_to_run = master.unmanaged().is_some() || master.process().is_some();
    GuardSettings {
        master: is_meant_to_run.then(|| master.name.clone()),
        deadline: run.guard.deadline(),
        restarts: run.guard.restart,
        max_loss_bytes: run.max_loss_bytes,
        is_in_maintenance: run.guard.is_in_maintenance,
        acknowledgements: run.guard.acknowledgements,
    }
}

struct Watch {
    dir: GroupDir,
    /// As it was read last, and which `run.json` that was.
    group: Group,
    stamp: Option<(u64, i64, i64)>,
    display: mpsc::UnboundedSender<Event>,
    began: Instant,
    stop: watch::Receiver<bool>,
    sender: mpsc::UnboundedSender<(u64, GuardEvent)>,
    events: mpsc::UnboundedReceiver<(u64, GuardEvent)>,
    /// What was sensed of the group as it was before the last change does not count.
    generation: u64,
    senses: JoinSet<()>,
}

impl Watch {
    async fn run(&mut self) -> Result<GuardEnd, GroupError> {
        let settings = settings(&self.group.run);
        self.note(GuardNote {
            verdict: GuardVerdict::Watches,
            reason: words(&self.group.run, &settings),
            evidence: Vec::new(),
        })?;
        let mut ticks = tokio::time::interval(settings.tick());
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut guard = Guard::new(settings, self.now(), self.recent_failovers()?);
        let mut told = VecDeque::new();
        self.sense();
        while !*self.stop.borrow() {
            let event = match told.pop_front() {
                Some(event) => event,
                None => tokio::select! {
                    biased;
                    _ = self.stop.changed() => return Ok(GuardEnd::Interrupted),
                    Some((generation, event)) = self.events.recv() => match event {
                        event if generation == self.generation => event,
                        _ => continue,
                    },
                    _ = ticks.tick() => match self.has_changed() {
                        false => GuardEvent::Tick,
                        true => match self.reread()? {
                            Some(event) => event,
                            None => return Ok(GuardEnd::Dismissed),
                        },
                    },
                },
            };
            let orders;
            (guard, orders) = guard.step(self.now(), event);
            for order in orders {
                let done = match order {
                    GuardOrder::Look => {
                        self.look();
                        continue;
                    }
                    GuardOrder::Note(note) => {
                        self.note_or_say(note);
                        continue;
                    }
                    GuardOrder::Promote(note) => self.promote(note).await,
                    GuardOrder::Start(nodes, note) => self.start(&nodes, note).await,
                };
                // What cannot be done now, on a full disk for one, is tried again; who watches must not end of it.
                let done = done.unwrap_or_else(|error| GuardDone::Failed(error.to_string()));
                told.push_back(GuardEvent::Done(done));
                match self.reread()? {
                    Some(event) => told.push_back(event),
                    None => return Ok(GuardEnd::Dismissed),
                }
            }
        }
        Ok(GuardEnd::Interrupted)
    }

    /// A time that never goes back, and does not begin so early that there was nothing before it.
    fn now(&self) -> Duration {
        Guard::WINDOW + self.began.elapsed()
    }

    fn has_changed(&self) -> bool {
        self.dir.run_stamp() != self.stamp
    }

    /// Reads what the group is by now; `None`: it is gone, or this is not its guard any more.
    fn reread(&mut self) -> Result<Option<GuardEvent>, GroupError> {
        self.stamp = self.dir.run_stamp();
        match Group::open(self.dir.clone()) {
            Ok(group) => self.group = group,
            Err(GroupError::State(StateError::NoSuchGroup(_))) => return Ok(None),
            Err(error) => return Err(error),
        }
        let is_guard = self.group.run.guard.process == ProcessIdentity::of(std::process::id())?;
        if !is_guard || self.group.run.sentinels.is_some() {
            return Ok(None);
        }
        self.sense();
        Ok(Some(GuardEvent::Group(settings(&self.group.run))))
    }

    /// Begins to watch the processes, and to ask the master.
    fn sense(&mut self) {
        self.senses.abort_all();
        while self.senses.try_join_next().is_some() {}
        self.generation += 1;
        let settings = settings(&self.group.run);
        for node in &self.group.run.nodes {
            if let Some(RunProcess { identity, .. }) = node.process() {
                self.senses.spawn(death(node.name.clone(), identity.clone(), self.teller()));
            }
        }
        if let Some(master) = settings.master.as_ref().and_then(|name| self.group.run.node(name)) {
            let beats = heartbeats(endpoint(master), settings.tick(), settings.deadline * PATIENCE, self.teller());
            self.senses.spawn(beats);
        }
    }

    fn teller(&self) -> Teller {
        Teller { generation: self.generation, sender: self.sender.clone() }
    }

    fn look(&mut self) {
        let (group, teller) = (self.group.clone(), self.teller());
        self.senses.spawn(async move {
            teller.tell(match observe(&group).await {
                Ok((view, _)) => GuardEvent::Seen(Box::new(view)),
                Err(error) => GuardEvent::Done(GuardDone::Failed(error.to_string())),
            });
        });
    }

    /// Does what `promote` does, when nobody else changes the group, and unless somebody has just done it.
    async fn promote(&mut self, note: GuardNote) -> Result<GuardDone, GroupError> {
        let began = Instant::now();
        let Some((mut group, _lock)) = self.hold().await? else { return Ok(GuardDone::Moot) };
        let mut recorder = self.recorder()?;
        let replaces = note.verdict == GuardVerdict::Replaces;
        recorder.record(Event::Guard { note })?;
        let master = group.run.master().clone();
        if is_dead(&master)? {
            // Whoever starts it by hand from now on has a replica.
            disarm(&group, &master.name)?;
        }
        // A lost master is replaced, whatever was not seen to its end before.
        let finishes = if replaces { None } else { unfinished(&group, None)? };
        let policy = Policy { finishes, ..policy(&group.run) };
        Ok(match promote(COMMAND, &mut group, &policy, began, LINK_LIMIT, &mut recorder).await {
            Ok(_) => GuardDone::Done,
            Err(GroupError::Refused(Refusal::MasterAlive { .. })) => GuardDone::Moot,
            Err(GroupError::Refused(refusal)) => GuardDone::Refused(Box::new(refusal)),
            Err(error) => GuardDone::Failed(error.to_string()),
        })
    }

    /// Starts nodes in the roles that they have now. A master that dies meanwhile is more urgent: then they are left to
    /// themselves.
    async fn start(&mut self, nodes: &[String], note: GuardNote) -> Result<GuardDone, GroupError> {
        let Some((group, _lock)) = self.hold().await? else { return Ok(GuardDone::Moot) };
        let mut recorder = self.recorder()?;
        recorder.record(Event::Guard { note })?;
        let master = group.run.master().name.clone();
        let is_with_master = nodes.contains(&master);
        let dir = self.dir.clone();
        let start = async {
            end_strays(&dir, Duration::ZERO).await?;
            let plan = LaunchPlan::start(group, nodes, false).await?.without_waiting_for_links();
            up(dir.clone(), plan, START_LIMIT, &mut recorder).await
        };
        let started = tokio::select! {
            biased;
            () = self.hears_of_the_end_of(&master), if !is_with_master => {
                return Ok(GuardDone::Failed(format!("{master} has died meanwhile")));
            }
            started = start => started,
        };
        Ok(match started {
            Ok(_) => GuardDone::Done,
            Err(GroupError::Refused(refusal)) => GuardDone::Refused(Box::new(refusal)),
            Err(error) => GuardDone::Failed(error.to_string()),
        })
    }

    async fn hears_of_the_end_of(&mut self, master: &str) {
        while let Some((generation, event)) = self.events.recv().await {
            if generation == self.generation && matches!(event, GuardEvent::Ended { node } if node == master) {
                return;
            }
        }
    }

    /// The group as it is under its lock; `None`: it is not any more what was decided about.
    async fn hold(&mut self) -> Result<Option<(Group, GroupLock)>, GroupError> {
        let Some(lock) = locked(&self.dir, &self.stop).await? else { return Ok(None) };
        let group = match Group::open(self.dir.clone()) {
            Ok(group) => group,
            Err(GroupError::State(StateError::NoSuchGroup(_))) => return Ok(None),
            Err(error) => return Err(error),
        };
        let (was, is) = (&self.group.run, &group.run);
        let is_same = settings(was) == settings(is) && was.master() == is.master() && was.guard == is.guard;
        Ok(is_same.then_some((group, lock)))
    }

    fn recorder(&self) -> Result<Recorder, GroupError> {
        Ok(Recorder::new(Journal::open(&self.dir.journal_file())?, self.display.clone()))
    }

    fn note(&self, note: GuardNote) -> Result<(), GroupError> {
        self.recorder()?.record(Event::Guard { note })
    }

    /// The same for what has no consequences if nobody can read it later.
    fn note_or_say(&self, note: GuardNote) {
        let reason = note.reason.clone();
        if let Err(error) = self.note(note) {
            let text = format!("{reason}; the journal does not tell, for it cannot be written: {error}");
            // Whoever has started this guard may have gone.
            let _ = self.display.send(Event::Warning { text });
        }
    }

    /// When guards of this group have replaced masters, as far as that still counts. The journal has the time of day: one that
    /// is yet to come was just now.
    fn recent_failovers(&self) -> Result<Vec<Duration>, GroupError> {
        let mut failovers = Vec::new();
        let mut is_by_guard = false;
        for entry in read_end(&self.dir.journal_file(), RECENT_BYTES)? {
            match &entry.event {
                Event::Began { command } => is_by_guard = command == COMMAND,
                Event::Promoted { .. } if is_by_guard => failovers.push(entry.seconds_ago()),
                Event::Guard { note } if note.verdict == GuardVerdict::Acknowledged => failovers.clear(),
                _ => {}
            }
        }
        let is_recent = |seconds: &u64| *seconds < Guard::WINDOW.as_secs();
        Ok(failovers.into_iter().filter(is_recent).map(|ago| Guard::WINDOW - Duration::from_secs(ago)).collect())
    }
}

fn is_dead(node: &RunNode) -> Result<bool, GroupError> {
    Ok(match node.process() {
        Some(process) => process.identity.condition()? == Condition::Dead,
        None => false,
    })
}

fn words(run: &RunState, settings: &GuardSettings) -> String {
    let master = settings.master.as_deref().unwrap_or("no master");
    let restarts = if settings.restarts { ", starts again what has died" } else { "" };
    let maintenance = if settings.is_in_maintenance { ", does nothing: maintenance" } else { "" };
    let deadline = settings.deadline.as_millis();
    format!("{} with {master} as its master, deadline {deadline} ms{restarts}{maintenance}", run.group)
}

/// Where what is sensed goes.
struct Teller {
    generation: u64,
    sender: mpsc::UnboundedSender<(u64, GuardEvent)>,
}

impl Teller {
    fn tell(&self, event: GuardEvent) {
        // A guard that ends listens no more.
        let _ = self.sender.send((self.generation, event));
    }
}

/// Waits for the end of a node's process.
async fn death(node: String, identity: ProcessIdentity, teller: Teller) {
    match LiveProcess::open(&identity) {
        Ok(Some(process)) => {
            if process.death().await.is_err() {
                return;
            }
        }
        Ok(None) => {}
        // Without pidfds there are still heartbeats.
        Err(_) => return,
    }
    teller.tell(GuardEvent::Ended { node });
    // One that this guard has started is its child.
    reap(&identity);
}

/// Asks the master again and again, one question at a time.
async fn heartbeats(endpoint: Endpoint, every: Duration, limit: Duration, teller: Teller) {
    loop {
        teller.tell(GuardEvent::Asked);
        let why = match NodeClient::connect(&endpoint, limit).await {
            Ok(client) => ask(&client, every, &teller).await,
            Err(error) => error,
        };
        match why {
            // It answers, if not what was asked: it loads its data, or does not know us.
            WireError::Server { .. } => teller.tell(GuardEvent::Answered { is_master: true }),
            why => teller.tell(GuardEvent::Broken { why: why.to_string() }),
        }
        tokio::time::sleep(every).await;
    }
}

/// Returns when the connection is of no use any more.
async fn ask(client: &NodeClient, every: Duration, teller: &Teller) -> WireError {
    loop {
        teller.tell(GuardEvent::Asked);
        match client.replication().await {
            Ok(replication) => teller.tell(GuardEvent::Answered { is_master: replication.is_master() }),
            Err(error) => return error,
        }
        tokio::time::sleep(every).await;
    }
}
