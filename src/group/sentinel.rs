//! The Sentinels of a group: what they say, whom they have made the master, and how they are kept from acting.
//!
//! Sentinel writes every decision into its own configuration file before it acts on it
//! (<https://redis.io/docs/latest/operate/oss_and_stack/management/sentinel/>), so those files tell who is the master also when
//! nobody lives to be asked:
//!
//! ```text
//! sentinel monitor trio 127.0.0.1 16380 2      the master's address, and the quorum
//! sentinel config-epoch trio 3                 the failover that made it one: the highest of all Sentinels counts
//! sentinel current-epoch 3
//! ```
//!
//! There is one decider. Where replctl changes masters in such a group, it first takes the group off every Sentinel
//! (`SENTINEL REMOVE`) and gives it back with the new master afterwards (`SENTINEL MONITOR`). One that lives and cannot be told
//! could act meanwhile, so then nothing is done.

mod launch;

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use redis::Value;
use serde::Serialize;
use tokio::task::JoinSet;

pub(super) use self::launch::SentinelLaunch;
use super::journal::{Journal, RECENT_BYTES, read_end};
use super::plan::Policy;
use super::{Group, GroupError, endpoint, listed};
use crate::event::Event;
use crate::process::{
    Condition, Durability, GroupDir, GroupLock, ProcessIdentity, RunNode, RunSentinel, RunState, render_sentinel_config,
};
use crate::topology::{Address, By, Login};
use crate::wire::{Endpoint, Link, NodeClient, WireError};

/// How long a Sentinel may take to answer: it does nothing that takes long.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// Between two looks at what the Sentinels have written.
const POLL_EVERY: Duration = Duration::from_millis(2);
/// What a failover takes besides the times that are set: the Sentinels wait for up to a second before they vote, and look a few
/// times a second.
const FAILOVER_MARGIN: Duration = Duration::from_secs(5);
/// A write that changes nothing, accepted by masters only.
const PROBE: [&str; 2] = ["DEL", "replctl:write-probe:00c0ffee-no-such-key"];

/// One Sentinel at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SentinelView {
    /// Its name.
    pub name: String,
    /// Where it listens.
    #[serde(flatten)]
    pub address: Address,
    /// Its process, dead or alive; `None` if it was not launched.
    pub process: Option<ProcessIdentity>,
    /// The state of that process.
    pub condition: Condition,
    /// What it answered.
    #[serde(flatten)]
    pub watch: Watch,
}

/// What a Sentinel says of the group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Watch {
    /// It watches it.
    Watching {
        /// The master, by its node's name, or its address if it is none of the group's.
        master: String,
        /// Whether it finds that master alive.
        is_master_up: bool,
        /// Whether it is about to replace it.
        is_failing_over: bool,
        /// The replicas that it finds alive and linked, by name.
        replicas: Vec<String>,
        /// How many other Sentinels it is connected with.
        others: usize,
    },
    /// It watches nothing: replctl took the group off it, and was ended before it gave it back.
    Idle,
    /// It did not answer as it should; what came back, in words.
    Silent {
        /// Why.
        why: String,
    },
}

impl SentinelView {
    /// Why it does not do its work, and what to do about it; `None`: it does.
    pub fn complaint(&self, known_master: &str) -> Option<(String, String)> {
        let name = &self.name;
        match &self.watch {
            Watch::Watching { master, .. } if master == known_master => None,
            Watch::Watching { master, .. } => {
                Some((format!("{name} takes {master} for the master"), format!("replctl logs {name}")))
            }
            Watch::Idle => Some((format!("{name} watches nothing"), "replctl up".to_owned())),
            Watch::Silent { why } => {
                let hint = match self.condition {
                    Condition::Dead => format!("replctl start {name}"),
                    Condition::Stopped => format!("replctl resume {name}"),
                    Condition::Running => format!("replctl logs {name}"),
                };
                Some((format!("{name} is no help: {why}"), hint))
            }
        }
    }
}

impl RunSentinel {
    /// Where it is reached from here.
    pub fn endpoint(&self) -> Endpoint {
        let address = Address::loopback(self.port);
        let login = Login { user: None, password: None };
        Endpoint { announced: address.clone(), address, login, link_ports: Vec::new() }
    }

    /// The state of its process.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn condition(&self) -> std::io::Result<Condition> {
        self.process.as_ref().map_or(Ok(Condition::Dead), |process| process.identity.condition())
    }
}

/// Asks every Sentinel at once.
///
/// # Errors
/// `/proc` cannot be read. One that does not answer is no error.
pub async fn observe_sentinels(run: &RunState) -> Result<Vec<SentinelView>, GroupError> {
    let mut asking = JoinSet::new();
    let mut views = Vec::with_capacity(run.sentinels().len());
    for (index, sentinel) in run.sentinels().iter().enumerate() {
        let condition = sentinel.condition()?;
        let why = match condition {
            Condition::Dead => "dead",
            Condition::Stopped => "stopped",
            Condition::Running => {
                let (endpoint, run) = (sentinel.endpoint(), run.clone());
                asking.spawn(async move { (index, ask(&endpoint, &run).await) });
                "silent"
            }
        };
        views.push(SentinelView {
            name: sentinel.name.clone(),
            address: Address::loopback(sentinel.port),
            process: sentinel.process.as_ref().map(|process| process.identity.clone()),
            condition,
            watch: Watch::Silent { why: why.to_owned() },
        });
    }
    while let Some(asked) = asking.join_next().await {
        let (index, watch) = asked.expect("asking a sentinel does not panic");
        views[index].watch = watch.unwrap_or_else(|error| Watch::Silent { why: error.to_string() });
    }
    Ok(views)
}

async fn ask(endpoint: &Endpoint, run: &RunState) -> Result<Watch, WireError> {
    let client = NodeClient::connect(endpoint, ANSWER_LIMIT).await?;
    watch_of(&client, run).await
}

/// What a Sentinel says of the group.
///
/// # Errors
/// As [`NodeClient::command`].
pub(super) async fn watch_of(client: &NodeClient, run: &RunState) -> Result<Watch, WireError> {
    let commands = [
        &["SENTINEL", "MASTER", &run.group][..],
        &["SENTINEL", "REPLICAS", &run.group],
        &["SENTINEL", "SENTINELS", &run.group],
    ];
    let mut replies = client.pipeline(&commands).await?.into_iter();
    let master = match replies.next().expect("one for each command") {
        Ok(master) => fields(master)?,
        Err(error) if is_no_such_master(&error) => return Ok(Watch::Idle),
        Err(error) => return Err(error),
    };
    let mut instances = || instances(replies.next().expect("one for each command")?);
    let (replicas, others) = (instances()?, instances()?);
    let name = |fields: &Fields| {
        let port = fields.get("port").and_then(|port| port.parse().ok()).unwrap_or(0);
        node_at(run, port).map_or_else(|| Address::loopback(port).to_string(), |node| node.name.clone())
    };
    let is_linked = |fields: &&Fields| fields.is("flags", "slave") && fields.is("master-link-status", "ok");
    Ok(Watch::Watching {
        master: name(&master),
        // Its run id is known as soon as it has answered.
        is_master_up: master.is("flags", "master") && !master.is("runid", ""),
        is_failing_over: master.get("flags").is_some_and(|flags| flags.contains("failover_in_progress")),
        replicas: replicas.iter().filter(is_linked).map(name).collect(),
        others: others.iter().filter(|other| other.is("flags", "sentinel")).count(),
    })
}

fn is_no_such_master(error: &WireError) -> bool {
    matches!(error, WireError::Server { text, .. } if text.starts_with("No such master"))
}

/// What a Sentinel says of one server: names and values in turn.
struct Fields(Vec<String>);

impl Fields {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.chunks(2).find(|pair| pair[0] == name).and_then(|pair| pair.get(1)).map(String::as_str)
    }

    fn is(&self, name: &str, value: &str) -> bool {
        self.get(name) == Some(value)
    }
}

fn fields(reply: Value) -> Result<Fields, WireError> {
    redis::from_redis_value(reply).map(Fields).map_err(|error| WireError::Nonsense(format!("SENTINEL: {error}")))
}

fn instances(reply: Value) -> Result<Vec<Fields>, WireError> {
    match reply {
        Value::Array(instances) => instances.into_iter().map(fields).collect(),
        other => Err(WireError::Nonsense(format!("SENTINEL: {other:?}"))),
    }
}

fn node_at(run: &RunState, port: u16) -> Option<&RunNode> {
    run.nodes.iter().find(|node| node.announced().port == port)
}

/// What a Sentinel has written down.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    /// The port that it listens on.
    pub port: u16,
    /// The master's port; `None`: it watches nothing.
    pub master: Option<u16>,
    /// The failover that made it one.
    pub config_epoch: u64,
    /// The last failover that it knows of.
    pub current_epoch: u64,
}

impl Written {
    pub fn parse(text: &str, group: &str) -> Self {
        let mut written = Self::default();
        let number = |word: &str| word.parse().unwrap_or(0);
        for line in text.lines() {
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                ["port", port] => written.port = port.parse().unwrap_or(0),
                ["sentinel", "monitor", name, _, port, _] if name == group => written.master = port.parse().ok(),
                ["sentinel", "config-epoch", name, epoch] if name == group => written.config_epoch = number(epoch),
                ["sentinel", "current-epoch", epoch] => written.current_epoch = number(epoch),
                _ => {}
            }
        }
        written
    }

    pub fn read(dir: &GroupDir, sentinel: &RunSentinel) -> Option<Self> {
        let text = fs::read_to_string(dir.config_file(&sentinel.name)).ok()?;
        Some(Self::parse(&text, dir.name()))
    }
}

/// The node that the Sentinels have made the master, as the newest of their files says; `None`: they have not said.
fn chosen(dir: &GroupDir, run: &RunState) -> Option<String> {
    let written = run.sentinels().iter().filter_map(|sentinel| Written::read(dir, sentinel));
    let named = written.filter_map(|written| Some((written.config_epoch, node_at(run, written.master?)?)));
    // Of two that say different things with the same right, the one that says nothing new counts.
    let newest = named.max_by_key(|(epoch, node)| (*epoch, node.upstream.is_none()));
    newest.map(|(_, node)| node.name.clone())
}

/// Takes over what the Sentinels have decided since; returns the master that was replaced.
pub(super) fn follow(dir: &GroupDir, run: &mut RunState) -> Option<String> {
    // While replctl changes masters itself, they have no say.
    if run.promoting.is_some() {
        return None;
    }
    let chosen = chosen(dir, run)?;
    let old = run.master().name.clone();
    if chosen == old {
        return None;
    }
    let others = run.nodes.iter().filter(|node| node.name != chosen);
    let upstreams = others.map(|node| (node.name.clone(), chosen.clone())).collect();
    run.set_roles(&chosen, &upstreams);
    // The new master has begun a history of its own, and nobody has asked for its name yet.
    run.replid = None;
    Some(old)
}

/// Writes down what the Sentinels have decided, in the journal and in what is remembered; whether there was anything. Only for
/// who holds the lock.
///
/// # Errors
/// The directory cannot be written.
pub fn note_failover(dir: &GroupDir, _lock: &GroupLock) -> Result<bool, GroupError> {
    note(dir)
}

fn note(dir: &GroupDir) -> Result<bool, GroupError> {
    let Ok(Some(mut run)) = dir.run_state() else { return Ok(false) };
    let Some(old_master) = follow(dir, &mut run) else { return Ok(false) };
    let node = run.master().name.clone();
    let process = run.node(&old_master).and_then(RunNode::process).map(|process| process.identity.clone());
    let event = Event::FailedOver { by: By::Sentinel, node, old_master, process };
    Journal::open(&dir.journal_file())?.append(&event)?;
    dir.save_run_state(&run, Durability::Disk)?;
    Ok(true)
}

/// Refuses to let a node go on that hung while the Sentinels replaced it: it would go on as a master until they see it, and what
/// it takes meanwhile is lost.
///
/// # Errors
/// [`GroupError::Unsafe`]: that is so.
pub fn refuse_zombie(group: &Group, node: &str) -> Result<(), GroupError> {
    let own = group.run.node(node).and_then(RunNode::process).map(|process| &process.identity);
    let was_replaced = |event: &Event| match event {
        Event::FailedOver { process, .. } => process.as_ref() == own,
        _ => false,
    };
    let entries = read_end(&group.dir.journal_file(), RECENT_BYTES)?;
    if own.is_none() || !entries.iter().any(|entry| was_replaced(&entry.event)) {
        return Ok(());
    }
    let master = &group.run.master().name;
    Err(GroupError::Unsafe {
        reason: format!("{master} took the place of {node}, which would go on as a second master"),
        hint: format!("replctl kill {node}, then replctl start {node}: it comes back as a replica"),
    })
}

/// What came of a master's end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SentinelFailover {
    /// The new master.
    pub master: String,
    /// From the old one's end to the first write that the new one accepted, in microseconds.
    pub first_write_us: u64,
    /// To the link of the last replica that lives.
    pub linked_us: Option<u64>,
}

/// Waits until the Sentinels have replaced a master that ended at `since`, the new one takes writes, the others follow it, and
/// every Sentinel has heard of it; `None`: they did not replace it in time. Only for who holds the group's lock.
///
/// # Errors
/// `/proc` or the group's state cannot be read.
pub async fn await_failover(
    group: &mut Group,
    old: &str,
    since: Instant,
) -> Result<Option<SentinelFailover>, GroupError> {
    let Some(settings) = &group.run.sentinels else { return Ok(None) };
    let limit = Duration::from_millis(settings.down_after_ms + settings.failover_timeout_ms) + FAILOVER_MARGIN;
    let Some(mut failover) = await_choice(group, old, since, limit).await? else { return Ok(None) };
    note(&group.dir)?;
    *group = Group::open(group.dir.clone())?;
    while since.elapsed() < limit && failover.linked_us.is_none() {
        let (view, _) = super::observe(group).await?;
        let follows = |node: &&super::NodeView| {
            let master = view.followed_by(node).map(|upstream| upstream.name.as_str());
            let is_up =
                node.report().and_then(|report| report.replication.upstream()).is_some_and(|up| up.link == Link::Up);
            node.name == failover.master || (master == Some(&failover.master) && is_up)
        };
        match view.nodes.iter().filter(|node| node.is_alive()).all(|node| follows(&node)) {
            true => failover.linked_us = Some(micros(since)),
            false => tokio::time::sleep(POLL_EVERY).await,
        }
    }
    let is_behind =
        |one: &SentinelView| one.condition == Condition::Running && one.complaint(&failover.master).is_some();
    while since.elapsed() < limit && observe_sentinels(&group.run).await?.iter().any(is_behind) {
        tokio::time::sleep(POLL_EVERY).await;
    }
    Ok(Some(failover))
}

/// Waits until the Sentinels have written down whom they chose. That one may have taken writes for a while by then.
async fn await_choice(
    group: &Group,
    old: &str,
    since: Instant,
    limit: Duration,
) -> Result<Option<SentinelFailover>, GroupError> {
    let others: Vec<&RunNode> = group.run.nodes.iter().filter(|node| node.name != old).collect();
    let mut first_writes = BTreeMap::new();
    while since.elapsed() < limit {
        for node in others.iter().filter(|node| node.process().is_some()) {
            // Sentinel ends the connections of the clients of whom it promotes.
            let probe = async { NodeClient::connect(&endpoint(node), ANSWER_LIMIT).await?.command(&PROBE).await };
            if !first_writes.contains_key(&node.name) && probe.await.is_ok() {
                first_writes.insert(node.name.clone(), micros(since));
            }
        }
        let chosen = chosen(&group.dir, &group.run);
        if let Some((master, first_write_us)) = chosen.and_then(|master| first_writes.remove_entry(&master)) {
            return Ok(Some(SentinelFailover { master, first_write_us, linked_us: None }));
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
    Ok(None)
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Refuses a promotion that the Sentinels would make themselves, unless forced. One of replctl's own that broke off is ended.
///
/// # Errors
/// [`GroupError::Unsafe`]: that is so.
pub fn refuse_second_decider(group: &Group, policy: &Policy) -> Result<(), GroupError> {
    let is_begun = policy.finishes.is_some() || group.run.promoting.is_some();
    if group.run.by != By::Sentinel || policy.force || is_begun {
        return Ok(());
    }
    Err(GroupError::Unsafe {
        reason: format!("the sentinels of {} replace a lost master by themselves", group.run.group),
        hint: "replctl status shows whom they chose; --force keeps them from acting meanwhile".to_owned(),
    })
}

/// Takes the group off every Sentinel, so that none of them acts; those that are dead will not know it when they come back.
///
/// # Errors
/// [`GroupError::Unsafe`]: one acts just now; or one lives and cannot be told. Then those that were told have it back.
pub(super) async fn hold(group: &Group) -> Result<(), GroupError> {
    if group.run.sentinels.is_none() {
        return Ok(());
    }
    refuse_busy(&observe_sentinels(&group.run).await?, &group.run.master().name)?;
    let mut deaf = Vec::new();
    for sentinel in group.run.sentinels() {
        match sentinel.condition()? {
            Condition::Dead => write_config(&group.dir, &group.run, sentinel, Aim::Nothing)?,
            Condition::Stopped => deaf.push(sentinel.name.clone()),
            Condition::Running => {
                if forget(sentinel, &group.run.group).await.is_err() {
                    deaf.push(sentinel.name.clone());
                }
            }
        }
    }
    if deaf.is_empty() {
        return Ok(());
    }
    // One that has been told nothing new goes on as before.
    release(group).await?;
    Err(GroupError::Unsafe {
        reason: format!("{} could act meanwhile: alive, and not to be told to keep still", listed(&deaf)),
        hint: format!("replctl kill {0}, and replctl start {0} afterwards", deaf.join(" ")),
    })
}

/// Whoever replaces the master now, or has just done so, is not to be stopped halfway.
fn refuse_busy(sentinels: &[SentinelView], known_master: &str) -> Result<(), GroupError> {
    let acts = |one: &&SentinelView| match &one.watch {
        Watch::Watching { master, is_failing_over, .. } => *is_failing_over || master != known_master,
        Watch::Idle | Watch::Silent { .. } => false,
    };
    let Some(busy) = sentinels.iter().find(acts) else { return Ok(()) };
    Err(GroupError::Unsafe {
        reason: format!("{} is replacing {known_master} just now", busy.name),
        hint: "replctl status shows when it is done; then the same command again".to_owned(),
    })
}

async fn forget(sentinel: &RunSentinel, group: &str) -> Result<(), WireError> {
    let client = NodeClient::connect(&sentinel.endpoint(), ANSWER_LIMIT).await?;
    match client.command(&["SENTINEL", "REMOVE", group]).await {
        Err(error) if !is_no_such_master(&error) => Err(error),
        _ => Ok(()),
    }
}

/// Gives the group with its present master back to every Sentinel that has it not. Returns the names of those that live and
/// could not be told: they watch nothing.
///
/// # Errors
/// `/proc` cannot be read, or a dead one's file not be written.
pub(super) async fn release(group: &Group) -> Result<Vec<String>, GroupError> {
    let mut deaf = Vec::new();
    for sentinel in group.run.sentinels() {
        match sentinel.condition()? {
            Condition::Dead => write_config(&group.dir, &group.run, sentinel, Aim::Master)?,
            Condition::Stopped => deaf.push(sentinel.name.clone()),
            Condition::Running => {
                let told =
                    async { aim(&NodeClient::connect(&sentinel.endpoint(), ANSWER_LIMIT).await?, &group.run).await };
                if told.await.is_err() {
                    deaf.push(sentinel.name.clone());
                }
            }
        }
    }
    Ok(deaf)
}

/// Lets a Sentinel watch the group, if it does not, or watches a master that is none of the group's nodes.
///
/// # Errors
/// As [`NodeClient::command`].
pub(super) async fn aim(client: &NodeClient, run: &RunState) -> Result<(), WireError> {
    let Some(settings) = &run.sentinels else { return Ok(()) };
    let name = run.group.as_str();
    match watch_of(client, run).await? {
        Watch::Watching { master, .. } if run.node(&master).is_some() => return Ok(()),
        Watch::Watching { .. } => drop(client.command(&["SENTINEL", "REMOVE", name]).await?),
        Watch::Idle | Watch::Silent { .. } => {}
    }
    let master = endpoint(run.master());
    let (host, port) = master.announced.clone().into_words();
    client.command(&["SENTINEL", "MONITOR", name, &host, &port, &settings.quorum.to_string()]).await?;
    let mut set: Vec<String> = ["SENTINEL", "SET", name].map(str::to_owned).to_vec();
    for (option, value) in settings.options(run.nodes.len()) {
        set.extend([option.to_owned(), value]);
    }
    if let Some(password) = master.login.password {
        set.extend(["auth-pass".to_owned(), password]);
    }
    client.command(&set).await.map(drop)
}

/// What a Sentinel's file lets it do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aim {
    /// Watch the group.
    Master,
    /// Wait until it is told.
    Nothing,
}

/// Writes a Sentinel's configuration file anew. What its kind knows of former failovers stays known.
///
/// # Errors
/// The directory cannot be written.
pub(super) fn write_config(dir: &GroupDir, run: &RunState, sentinel: &RunSentinel, aim: Aim) -> Result<(), GroupError> {
    let written: Vec<Written> = run.sentinels().iter().filter_map(|one| Written::read(dir, one)).collect();
    let newest = |epoch: fn(&Written) -> u64| written.iter().map(epoch).max().unwrap_or(0);
    let current = newest(|written| written.current_epoch);
    // A config epoch is worth something only as long as somebody watches.
    let watched: fn(&Written) -> u64 = |written| if written.master.is_some() { written.config_epoch } else { 0 };
    let watches_since = (aim == Aim::Master).then(|| newest(watched));
    let text = render_sentinel_config(run, sentinel, watches_since, current);
    Ok(dir.save_config(&sentinel.name, &text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentinels_file_tells_its_master_and_since_which_failover() {
        let text = "port 26379\nsentinel myid 00ff\nsentinel monitor trio 127.0.0.1 16380 2\n\
                    sentinel down-after-milliseconds trio 500\nsentinel config-epoch trio 3\n\
                    sentinel leader-epoch trio 4\nsentinel current-epoch 5\nsentinel monitor other 127.0.0.1 1 2\n";
        let expected = Written { port: 26379, master: Some(16380), config_epoch: 3, current_epoch: 5 };
        assert_eq!(Written::parse(text, "trio"), expected);
        assert_eq!(Written::parse("port 26379\n", "trio"), Written { port: 26379, ..Written::default() });
    }
}
