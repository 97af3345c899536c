//! `up` and `start` of Sentinels: a file, a process, and a wait until each sees everybody.
//!
//! Left to themselves, Sentinels find the replicas by asking the master (every ten seconds) and one another by its channel
//! `__sentinel__:hello` (every two). `up` knows them all, so it writes them into their files as they would do themselves, and what
//! is left to wait for is that all are connected.
//!
//! A file is written anew only where no Sentinel of the group lives: then nobody could contradict it. One that comes back among
//! others goes on with its own, which holds what it has promised them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinSet;

use super::{Aim, Watch, Written, aim, watch_of, write_config};
use crate::event::Event;
use crate::group::{GroupError, listed};
use crate::process::{
    Condition, Durability, GroupDir, LiveProcess, Program, RunNode, RunProcess, RunSentinel, RunState, Started,
    spawn_sentinel,
};
use crate::wire::{NodeClient, WireError};

/// Between two looks at a Sentinel that starts.
const LOOK_EVERY: Duration = Duration::from_millis(2);
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// The periods of a Sentinel in a hurry, as `SENTINEL DEBUG` of Redis 7.0 sets them, in milliseconds.
const FAST: [&str; 14] = [
    "info-period",
    "200",
    "ask-period",
    "200",
    "publish-period",
    "200",
    "tilt-period",
    "1000",
    "min-link-reconnect-period",
    "1000",
    "slave-reconf-timeout",
    "2000",
    "election-timeout",
    "2000",
];
/// Until it is connected with everybody, it tries again as often as this.
const CONNECTING: [&str; 2] = ["ping-period", "50"];

/// How often a Sentinel in a hurry asks whether a server lives, in milliseconds. It asks a new master for the first time one such
/// period after it has made it one, and must have an answer before it finds it down: with both times the same, it would replace
/// it at once. What it knows of a replica counts for five of them, and it asks for that once a second while the master is down.
fn ping_period_ms(down_after_ms: u64) -> u64 {
    (down_after_ms / 2).clamp(250, 500)
}

/// Sentinels that are started, or found running.
pub(in crate::group) struct SentinelLaunch<'a> {
    pub dir: &'a GroupDir,
    pub run: &'a Mutex<RunState>,
    /// What this run of `up` started, to be ended if it fails.
    pub started: &'a Mutex<BTreeMap<String, Started>>,
    pub display: &'a UnboundedSender<Event>,
    pub program: &'a Program,
}

impl SentinelLaunch<'_> {
    /// Starts those of these names that do not run, and waits until each sees everybody that lives.
    ///
    /// # Errors
    /// One ends while it starts, or does not see everybody until `give_up`.
    pub async fn bring_up(
        &self,
        names: &BTreeSet<String>,
        give_up: Instant,
        limit: Duration,
    ) -> Result<(), GroupError> {
        self.start_missing(names)?;
        let run = self.run().clone();
        let mut watching = JoinSet::new();
        for sentinel in run.sentinels().iter().filter(|sentinel| names.contains(&sentinel.name)) {
            let (sentinel, run, display) = (sentinel.clone(), run.clone(), self.display.clone());
            watching.spawn(async move {
                let pending = await_watch(&sentinel, &run, give_up).await;
                if matches!(pending, Ok(None)) {
                    let _ = display.send(Event::Ready { node: sentinel.name.clone() });
                }
                (sentinel.name, pending)
            });
        }
        let version = self.program.version().await;
        let version = version.map_err(|source| GroupError::Engine { node: "sentinel-1".to_owned(), source })?;
        self.remember_version(&version);
        let mut all_pending = Vec::new();
        while let Some(watched) = watching.join_next().await {
            let (name, pending) = watched.expect("a sentinel's task does not panic");
            match pending {
                Ok(pending) => all_pending.extend(pending),
                Err(WatchError::Died) => return Err(self.died(&name)),
                Err(WatchError::Io(error)) => return Err(error.into()),
                Err(WatchError::Wire(source)) => return Err(GroupError::Wire { node: name, source }),
            }
        }
        if all_pending.is_empty() {
            return Ok(());
        }
        all_pending.sort();
        Err(GroupError::TimedOut { pending: all_pending, limit_ms: limit.as_millis() })
    }

    fn run(&self) -> std::sync::MutexGuard<'_, RunState> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn started(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Started>> {
        self.started.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start_missing(&self, names: &BTreeSet<String>) -> Result<(), GroupError> {
        let run = self.run().clone();
        let mut has_living = false;
        for sentinel in run.sentinels() {
            has_living |= sentinel.condition()? != Condition::Dead;
        }
        for sentinel in run.sentinels().iter().filter(|sentinel| names.contains(&sentinel.name)) {
            if let Some(process) = &sentinel.process {
                self.show(Event::Adopted { node: sentinel.name.clone(), pid: process.identity.pid });
                continue;
            }
            let own = Written::read(self.dir, sentinel).filter(|own| own.port == sentinel.port);
            if !has_living || own.is_none() {
                write_config(self.dir, &run, sentinel, Aim::Master)?;
            }
            self.start(sentinel)?;
        }
        Ok(())
    }

    /// Spawns one and remembers it, before anything else can go wrong.
    fn start(&self, sentinel: &RunSentinel) -> Result<(), GroupError> {
        let started = spawn_sentinel(self.program, self.dir, &sentinel.name)?;
        let identity = started.identity.clone();
        self.started().insert(sentinel.name.clone(), started);
        self.show(Event::Spawned { node: sentinel.name.clone(), pid: identity.pid, port: sentinel.port });
        let process = RunProcess { identity, program: self.program.path.clone(), version: String::new() };
        let mut run = self.run();
        run.sentinel_mut(&sentinel.name).expect("it is one of the run's").process = Some(process);
        Ok(self.dir.save_run_state(&run, Durability::PageCache)?)
    }

    fn remember_version(&self, version: &str) {
        let started = self.started();
        let mut run = self.run();
        let all = run.sentinels.iter_mut().flat_map(|sentinels| &mut sentinels.each);
        for process in all.filter(|one| started.contains_key(&one.name)).filter_map(|one| one.process.as_mut()) {
            version.clone_into(&mut process.version);
        }
    }

    fn died(&self, name: &str) -> GroupError {
        GroupError::died(self.dir, name, self.started().get_mut(name))
    }

    fn show(&self, event: Event) {
        let _ = self.display.send(event);
    }
}

/// Why a Sentinel is not waited for any longer.
enum WatchError {
    Died,
    Io(std::io::Error),
    Wire(WireError),
}

/// Waits until a Sentinel sees everybody that lives; after that, the words say what is missing.
async fn await_watch(sentinel: &RunSentinel, run: &RunState, give_up: Instant) -> Result<Option<String>, WatchError> {
    let process = sentinel.process.as_ref().ok_or(WatchError::Died)?;
    let process = LiveProcess::open(&process.identity).map_err(WatchError::Io)?.ok_or(WatchError::Died)?;
    tokio::select! {
        biased;
        death = process.death() => Err(death.map_or_else(WatchError::Io, |()| WatchError::Died)),
        watched = watch(sentinel, run, give_up) => watched.map_err(WatchError::Wire),
    }
}

async fn watch(sentinel: &RunSentinel, run: &RunState, give_up: Instant) -> Result<Option<String>, WireError> {
    let client = loop {
        match NodeClient::connect(&sentinel.endpoint(), ANSWER_LIMIT).await {
            Ok(client) => break client,
            Err(WireError::Refused(_) | WireError::Closed) if Instant::now() < give_up => {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Err(WireError::Refused(_) | WireError::Closed) => {
                return Ok(Some(format!("{} (does not answer)", sentinel.name)));
            }
            Err(error) => return Err(error),
        }
    };
    hurry(&client, run, &CONNECTING).await?;
    aim(&client, run).await?;
    let living =
        |condition: std::io::Result<Condition>| condition.is_ok_and(|condition| condition == Condition::Running);
    let is_living = |node: &&RunNode| node.process().is_some_and(|process| living(process.identity.condition()));
    let replicas = run.nodes.iter().filter(|node| node.upstream.is_some()).filter(is_living);
    let replicas: Vec<String> = replicas.map(|node| node.name.clone()).collect();
    let others =
        run.sentinels().iter().filter(|other| other.name != sentinel.name && living(other.condition())).count();
    loop {
        let watch = watch_of(&client, run).await?;
        let missing = missing(&watch, is_living(&run.master()).then_some(&run.master().name), &replicas, others);
        if missing.is_none() {
            let ping_period = ping_period_ms(run.sentinels.as_ref().map_or(0, |sentinels| sentinels.down_after_ms));
            hurry(&client, run, &[&["ping-period", &ping_period.to_string()], &FAST[..]].concat()).await?;
        }
        if missing.is_none() || Instant::now() > give_up {
            return Ok(missing.map(|missing| format!("{} ({missing})", sentinel.name)));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Sets a Sentinel's periods, if the group's are to be short. One that does not know how goes on at its own speed.
async fn hurry(client: &NodeClient, run: &RunState, periods: &[&str]) -> Result<(), WireError> {
    if !run.sentinels.as_ref().is_some_and(|sentinels| sentinels.is_fast) {
        return Ok(());
    }
    match client.command(&[&["SENTINEL", "DEBUG"], periods].concat()).await {
        Ok(_) | Err(WireError::Server { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whom a Sentinel does not see of those that it should, in words. A lost master is its own affair.
fn missing(watch: &Watch, master: Option<&String>, replicas: &[String], others: usize) -> Option<String> {
    let (seen, is_master_up, linked, known) = match watch {
        Watch::Watching { master, is_master_up, replicas, others, .. } => (master, *is_master_up, replicas, *others),
        Watch::Idle => return Some("watches nothing".to_owned()),
        Watch::Silent { why } => return Some(why.clone()),
    };
    if let Some(master) = master
        && (seen != master || !is_master_up)
    {
        return Some(format!("does not see {master} as the master"));
    }
    let unseen: Vec<String> = replicas.iter().filter(|replica| !linked.contains(replica)).cloned().collect();
    if !unseen.is_empty() && master.is_some() {
        return Some(format!("does not see {}", listed(&unseen)));
    }
    (known < others).then(|| format!("is connected with {known} of {others} other sentinels"))
}
