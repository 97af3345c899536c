//! Groups for tests: up by one call, gone when dropped.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::drill::{self, DrillPreset, DrillReport};
use crate::event::Recorder;
use crate::fault::{LinkOrder, order};
use crate::group::{
    self, Ephemeral, FailoverReport, GroupError, Journal, KillPlan, LaunchPlan, LinkPlan, NodeSignal, Policy, reap,
};
use crate::process::{GroupDir, GroupLock, ProcessIdentity, Program, RunNode};
use crate::topology::{Drill, Engine, EngineFamily, LinkDirection, LinkFault, NodeServer, Topology, TopologyError};

/// How long a group may take to be up, and a node to be linked.
const LIMIT: Duration = Duration::from_secs(30);
/// How long a master may hold back its writes for a replica.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(5);

/// A group of servers that runs, and ends with this: when it is dropped, at the end of a test or while a panic unwinds, every
/// process is killed and every file removed. Only the end of the whole process by a signal or by `exit` leaves them behind.
///
/// Its methods that change it return when the change is there to be seen: a promoted node takes writes, a started one is linked.
pub struct Group {
    topology: Topology,
    inner: group::Group,
    recorder: Recorder,
    /// Processes that this one has started, and must take note of the end of.
    children: Vec<ProcessIdentity>,
    _lock: GroupLock,
    // Last: with it the processes and files go.
    place: Ephemeral,
}

/// A group that is described and not started yet.
#[derive(Debug, Clone)]
pub struct GroupBuilder {
    topology: Topology,
    limit: Duration,
    can_break_links: bool,
}

/// The way from a replica to a node that it follows, or may follow. Each fault replaces the one before, and ends when the [`Broken`]
/// that it returns is dropped.
#[derive(Debug)]
pub struct Link<'a> {
    group: &'a mut Group,
    from: String,
    to: String,
}

/// A link that is not as it should be. Dropping this heals it, whatever was done to it since.
#[must_use = "dropping it heals the link"]
#[derive(Debug)]
pub struct Broken {
    dir: GroupDir,
    from: String,
    to: String,
}

/// A node of a group, as clients meet it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name in the topology.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// The same as a URL that Redis clients take, with the password if there is one: `redis://127.0.0.1:16379`.
    pub url: String,
}

/// What a change of masters did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promotion {
    /// Who was the master.
    pub from: String,
    /// Who is.
    pub to: String,
    /// What is lost of the old master's writes, in words.
    pub lost: String,
    /// The same in bytes of the replication stream, at least.
    pub lost_bytes: u64,
    /// Replicas that do not follow the new master yet. They are told to.
    pub missing: Vec<String>,
}

/// Why something could not be done to a group. It is told in one sentence; for the way out of it see [`Error::hint`].
#[derive(thiserror::Error)]
#[error("{}", .0)]
pub struct Error(Cause);

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error("{}", .0.render(false))]
    Topology(#[from] TopologyError),
    #[error(transparent)]
    Group(#[from] GroupError),
    #[error("there is no drill {0}")]
    NoSuchDrill(String),
    #[error("{0}")]
    NoLinks(String),
    #[error("{0} is not managed: a group of the library's own has only nodes that it has started")]
    NotManaged(String),
}

impl<C: Into<Cause>> From<C> for Error {
    fn from(cause: C) -> Self {
        Self(cause.into())
    }
}

/// As a test that returns it shows it.
impl fmt::Debug for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{self}")?;
        self.hint().map_or(Ok(()), |hint| write!(out, "\nhint: {hint}"))
    }
}

impl Error {
    /// What to do about it, if that is known.
    pub fn hint(&self) -> Option<String> {
        match &self.0 {
            Cause::Group(GroupError::Engine { source, .. }) => source.hint().map(str::to_owned),
            Cause::Group(GroupError::Refused(refusal)) => Some(refusal.hint()),
            Cause::Group(GroupError::Unsafe { hint, .. } | GroupError::Unmanaged { hint, .. }) => Some(hint.clone()),
            Cause::Group(GroupError::NoLivingMaster(diagnosis)) => diagnosis.hint(),
            Cause::NoSuchDrill(_) => Some("replctl drill --list shows all".to_owned()),
            _ => None,
        }
    }
}

impl GroupBuilder {
    fn new(topology: Topology) -> Self {
        Self { topology, limit: LIMIT, can_break_links: false }
    }

    /// Lets this engine serve every node: `repld`, `redis-server` or `valkey-server`, as the topology file names them.
    ///
    /// # Panics
    /// There is no such engine.
    #[must_use]
    pub fn engine(mut self, name: &str) -> Self {
        let family = EngineFamily::ALL.into_iter().find(|family| family.program() == name);
        let family = family.unwrap_or_else(|| panic!("there is no engine {name}"));
        self.topology = self.topology.for_drill(Some(&Engine { family, path: None }));
        self
    }

    /// Lets replicas reach their upstreams through proxies, so that [`Group::link`] can break what is between them. As
    /// `[faults] links = true` in the file.
    #[must_use]
    pub fn with_links(mut self) -> Self {
        self.can_break_links = true;
        self
    }

    /// How long the group may take to be up [default: 30 s].
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Starts it on free ports, in a directory of its own; returns when every replica is linked. Optional nodes whose engine is
    /// not installed are left out. The topology's ports and hooks are for its real group and not used.
    ///
    /// # Errors
    /// An engine is missing, a server ends while it starts, or not all is linked in time. Then nothing is left of it.
    pub async fn up(self) -> Result<Group, Error> {
        let is_foreign = |node: &&crate::topology::Node| matches!(node.server, NodeServer::Unmanaged(_));
        if let Some(node) = self.topology.nodes().iter().find(is_foreign) {
            return Err(Cause::NotManaged(node.name.clone()).into());
        }
        let mut topology = self.topology.for_drill(None);
        topology.leave_out(|engine| Program::find(engine).is_err());
        if self.can_break_links {
            topology = topology.with_link_faults().map_err(Cause::NoLinks)?;
        }
        let place = Ephemeral::new(topology.name())?;
        let lock = place.dir().lock("test").map_err(GroupError::from)?;
        let journal = Journal::open(&place.dir().journal_file()).map_err(GroupError::from)?;
        // Nobody watches: the receiver is gone at once.
        let mut recorder = Recorder::new(journal, mpsc::unbounded_channel().0);
        let plan = LaunchPlan::new(place.dir(), &topology, false).await?;
        let inner = group::up(place.dir().clone(), plan, self.limit, &mut recorder).await?;
        let mut group = Group { topology, inner, recorder, children: Vec::new(), _lock: lock, place };
        group.note_children();
        Ok(group)
    }
}

impl Group {
    /// The group of a topology file, as `replctl up FILE` takes it.
    ///
    /// # Errors
    /// All that is wrong with the file, each with its line.
    pub fn from_file(path: impl AsRef<Path>) -> Result<GroupBuilder, Error> {
        Ok(GroupBuilder::new(Topology::load(path.as_ref())?))
    }

    /// The group of a topology that is written as such a file would be.
    ///
    /// # Errors
    /// All that is wrong with it, each with its line.
    pub fn from_toml(text: &str) -> Result<GroupBuilder, Error> {
        Ok(GroupBuilder::new(Topology::parse(text, Path::new("group.toml"))?))
    }

    /// A master with two replicas: n1, n2 and n3.
    pub fn trio() -> GroupBuilder {
        GroupBuilder::new(Topology::trio())
    }

    /// Who is the master: in a group whose master is dead, the dead one.
    pub fn master(&self) -> Node {
        node(self.inner.run.master())
    }

    /// All nodes, in the topology's order.
    pub fn nodes(&self) -> Vec<Node> {
        self.inner.run.nodes.iter().map(node).collect()
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Option<Node> {
        self.inner.run.node(name).map(node)
    }

    /// Kills the master as if its machine had failed (SIGKILL); returns it when it is gone, and where the group has Sentinels
    /// when they have replaced it or failed to.
    ///
    /// # Errors
    /// No master lives.
    pub async fn kill_master(&mut self) -> Result<Node, Error> {
        let plan = KillPlan::new(&self.inner).await?;
        let report = group::kill_master(&self.inner, plan, &mut self.recorder).await?;
        // Where there are Sentinels, it is their turn.
        group::await_failover(&mut self.inner, &report.plan.master, Instant::now()).await?;
        Ok(self.node(&report.plan.master).expect("a plan names nodes of the group"))
    }

    /// Makes the best replica the master in place of one that is lost, and lets the others follow it.
    ///
    /// # Errors
    /// It is refused, as while the master lives, or a step of it failed.
    pub async fn promote(&mut self) -> Result<Promotion, Error> {
        let policy = self.policy();
        let began = Instant::now();
        let report = group::promote("promote", &mut self.inner, &policy, began, LIMIT, &mut self.recorder).await?;
        Ok(promotion(report))
    }

    /// Lets a master that works hand over to the best replica, without losing a write.
    ///
    /// # Errors
    /// It is refused, or a step of it failed; then the old master goes on.
    pub async fn switchover(&mut self) -> Result<Promotion, Error> {
        let policy = self.policy();
        let (began, limits) = (Instant::now(), (HAND_OVER_PATIENCE, LIMIT));
        let report = group::switchover(&mut self.inner, &policy, began, limits, &mut self.recorder).await?;
        Ok(promotion(report))
    }

    /// Kills a node's process (SIGKILL).
    ///
    /// # Errors
    /// There is no such node, or it does not run.
    pub async fn kill(&mut self, node: &str) -> Result<(), Error> {
        self.signal(node, NodeSignal::Kill).await
    }

    /// Lets a node hang (SIGSTOP): it keeps its connections and answers nothing.
    ///
    /// # Errors
    /// There is no such node, or it does not run.
    pub async fn pause(&mut self, node: &str) -> Result<(), Error> {
        self.signal(node, NodeSignal::Pause).await
    }

    /// Lets a node that hangs go on.
    ///
    /// # Errors
    /// There is no such node, or it does not run.
    pub async fn resume(&mut self, node: &str) -> Result<(), Error> {
        self.signal(node, NodeSignal::Resume).await
    }

    /// Starts a node that does not run, on its own data and in the role that it has now.
    ///
    /// # Errors
    /// There is no such node, it could overwrite newer data by its own, or it is not linked in time.
    pub async fn start(&mut self, node: &str) -> Result<(), Error> {
        let plan = LaunchPlan::start(self.inner.clone(), &[node.to_owned()], false).await?;
        self.inner = group::up(self.inner.dir.clone(), plan, LIMIT, &mut self.recorder).await?;
        self.note_children();
        Ok(())
    }

    /// The link of the node `from` to the node `to`, which it follows or may follow. The group must have been started
    /// [`with_links`](GroupBuilder::with_links).
    ///
    /// ```no_run
    /// # async fn test() -> Result<(), replctl::Error> {
    /// let mut group = replctl::Group::trio().with_links().up().await?;
    /// let cut = group.link("n2", "n1").cut().await?;
    /// // n2 gets nothing any more …
    /// cut.heal().await?; // … until now, or until `cut` is dropped.
    /// # Ok(())
    /// # }
    /// ```
    pub fn link(&mut self, from: &str, to: &str) -> Link<'_> {
        Link { group: self, from: from.to_owned(), to: to.to_owned() }
    }

    /// Rehearses a drill with this group, which must be whole: one of its topology's, or a built-in one (`kill-master`). What is
    /// left of it are the drill's keys (`drill:*`) until the next one, and whatever the steps did. `seed` decides what the writers
    /// choose to write.
    ///
    /// # Errors
    /// There is no such drill, or the group cannot be observed. That a promise is broken is no error but a
    /// [`Verdict`](crate::Verdict).
    pub async fn drill(&mut self, name: &str, seed: u64) -> Result<DrillReport, Error> {
        let drill = self.drill_named(name).ok_or_else(|| Cause::NoSuchDrill(name.to_owned()))?;
        let rehearsal = drill::run_on(self.inner.clone(), &drill, seed, &mut self.recorder).await;
        // Also when it broke off, other processes may serve the nodes than before.
        self.inner = group::Group::open(self.inner.dir.clone())?;
        self.note_children();
        Ok(rehearsal?.report)
    }

    /// Ends it as dropping does, without blocking the runtime's thread meanwhile. (Processes are looked for in all of `/proc`, and
    /// their ends waited for: some ten milliseconds.)
    pub async fn down(self) {
        // A runtime that shuts down does it by dropping.
        let _ = tokio::task::spawn_blocking(|| drop(self)).await;
    }

    fn drill_named(&self, name: &str) -> Option<Drill> {
        let own = self.topology.drills().iter().find(|drill| drill.name == name).cloned();
        own.or_else(|| Some(DrillPreset::named(name)?.drill(&self.topology)))
    }

    async fn signal(&mut self, node: &str, signal: NodeSignal) -> Result<(), Error> {
        let process = group::living_process(&self.inner, node)?;
        group::signal_node(node, &process, signal, &mut self.recorder).await?;
        Ok(())
    }

    fn policy(&self) -> Policy {
        Policy { max_loss_bytes: self.inner.run.max_loss_bytes, ..Policy::default() }
    }

    fn note_children(&mut self) {
        for identity in self.inner.run.processes() {
            if !self.children.contains(identity) {
                self.children.push(identity.clone());
            }
        }
    }
}

impl Link<'_> {
    /// Open connections are reset, and those that come.
    ///
    /// # Errors
    /// As for all of these: there are no such nodes, or the group was not started with links that can be broken.
    pub async fn cut(self) -> Result<Broken, Error> {
        self.set(LinkFault::Cut { after_bytes: None, direction: LinkDirection::Both }).await
    }

    /// The same, but only when `bytes` more have been delivered to the replica.
    ///
    /// # Errors
    /// As [`cut`](Link::cut).
    pub async fn cut_after(self, bytes: u64) -> Result<Broken, Error> {
        self.set(LinkFault::Cut { after_bytes: Some(bytes), direction: LinkDirection::Down }).await
    }

    /// Open connections are reset, and nobody listens.
    ///
    /// # Errors
    /// As [`cut`](Link::cut).
    pub async fn refuse(self) -> Result<Broken, Error> {
        self.set(LinkFault::Refuse).await
    }

    /// Nothing is delivered and nothing is closed, as after a cable was pulled.
    ///
    /// # Errors
    /// As [`cut`](Link::cut).
    pub async fn half_open(self) -> Result<Broken, Error> {
        self.set(LinkFault::HalfOpen { direction: LinkDirection::Both }).await
    }

    /// Every byte is late by so much, both ways.
    ///
    /// # Errors
    /// As [`cut`](Link::cut).
    pub async fn slow(self, latency: Duration) -> Result<Broken, Error> {
        self.slow_down(latency, None, LinkDirection::Both).await
    }

    /// The replica gets no more than so many bytes a second.
    ///
    /// # Errors
    /// As [`cut`](Link::cut).
    pub async fn throttle(self, bytes_per_sec: u64) -> Result<Broken, Error> {
        self.slow_down(Duration::ZERO, Some(bytes_per_sec), LinkDirection::Down).await
    }

    async fn slow_down(
        self,
        latency: Duration,
        bandwidth: Option<u64>,
        direction: LinkDirection,
    ) -> Result<Broken, Error> {
        let (jitter, close_delay) = (Duration::ZERO, Duration::ZERO);
        self.set(LinkFault::Slow { latency, jitter, bandwidth, close_delay, direction }).await
    }

    async fn set(self, fault: LinkFault) -> Result<Broken, Error> {
        let Link { group, from, to } = self;
        let plan = LinkPlan::new(&group.inner, &from, Some(&to), fault)?;
        group::break_link(&group.inner.dir, plan, &mut group.recorder).await?;
        Ok(Broken { dir: group.inner.dir.clone(), from, to })
    }
}

impl Broken {
    /// Lets everything through again.
    ///
    /// # Errors
    /// The process that carries the links does not answer.
    pub async fn heal(self) -> Result<(), Error> {
        order(&self.dir, &self.healed()).await.map(drop).map_err(|reason| GroupError::Links { reason }.into())
    }

    fn healed(&self) -> LinkOrder {
        LinkOrder::Fault { from: self.from.clone(), to: self.to.clone(), fault: LinkFault::Heal }
    }
}

impl Drop for Broken {
    /// On a thread of its own: the one that drops it may be one of an event loop.
    fn drop(&mut self) {
        let heal = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(order(&self.dir, &self.healed()))
        };
        // Where the group is gone before, there is nothing to heal and nobody to tell.
        let _ = std::thread::scope(|scope| scope.spawn(heal).join());
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (nodes, place) = (self.nodes(), self.place.state_dir());
        out.debug_struct("Group").field("nodes", &nodes).field("state_dir", &place).finish_non_exhaustive()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.place.end();
        self.children.iter().for_each(reap);
    }
}

fn node(node: &RunNode) -> Node {
    let port = node.managed().map_or(0, |server| server.port);
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    Node { name: node.name.clone(), address, url: group::url(node) }
}

fn promotion(report: FailoverReport) -> Promotion {
    Promotion {
        from: report.plan.old_master,
        to: report.plan.candidate,
        lost: report.loss.to_string(),
        lost_bytes: report.loss.bytes_min(),
        missing: report.missing,
    }
}
