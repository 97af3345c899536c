//! A group as it was launched, which is what `run.json` holds: nodes with their roles, ports and processes, and whoever else
//! belongs to it. How the file is kept is [`state`](super::state)'s affair.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::identity::{Condition, ProcessIdentity};
use crate::topology::{Address, By, Engine, EngineFamily, GuardWish, Login};

/// The version of `run.json` that this program writes and reads.
pub(super) const SCHEMA: u32 = 1;

/// What was launched, in topology order: a group's present roles, ports, directives and processes. It is all that a later
/// run needs: the topology file may have changed or gone by then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunState {
    pub(super) schema: u32,
    /// The group's name.
    pub group: String,
    /// `[failover] max-loss`
    pub max_loss_bytes: Option<u64>,
    /// `[failover] by`
    #[serde(default)]
    pub by: By,
    /// `[hooks] after-promote`
    #[serde(default)]
    pub after_promote: Vec<String>,
    /// The replication id of the master's history when the group was last known whole.
    pub replid: Option<String>,
    /// The change of masters that was under way when this was written.
    #[serde(default)]
    pub promoting: Option<Promoting>,
    /// `[faults] links = true`: the process that carries the replication links.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub links: Option<RunLinks>,
    /// `[guard]`, and the process that watches over the group.
    #[serde(default, skip_serializing_if = "RunGuard::is_default")]
    pub guard: RunGuard,
    /// `[sentinel]`: the Sentinels that watch the group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sentinels: Option<RunSentinels>,
    /// Every node of the topology.
    pub nodes: Vec<RunNode>,
}

/// The Sentinels that watch a group, as they were launched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSentinels {
    /// So many must find the master down.
    pub quorum: u16,
    /// How long a master may be silent before one of them finds it down, in milliseconds.
    pub down_after_ms: u64,
    /// How long a failover may take, in milliseconds.
    pub failover_timeout_ms: u64,
    /// They look and talk more often than usual, where they know how.
    pub is_fast: bool,
    /// What runs them.
    #[serde(with = "EngineFields")]
    pub engine: Engine,
    /// All of them.
    pub each: Vec<RunSentinel>,
}

impl RunSentinels {
    /// Their options for a group of so many nodes, as `SENTINEL SET` and a configuration file name them.
    pub fn options(&self, nodes: usize) -> [(&'static str, String); 3] {
        [
            ("down-after-milliseconds", self.down_after_ms.to_string()),
            ("failover-timeout", self.failover_timeout_ms.to_string()),
            // What the replicas lack of the new master's stream is little, so none of them need wait for another.
            ("parallel-syncs", nodes.to_string()),
        ]
    }
}

/// One Sentinel of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSentinel {
    /// `sentinel-1` and so on: no node has such a name.
    pub name: String,
    /// Its port on 127.0.0.1; 0: none yet.
    pub port: u16,
    /// What the others know it by: 40 hexadecimal digits.
    pub id: String,
    /// Its process; `None` while it is not meant to run.
    pub process: Option<RunProcess>,
}

/// The process that carries the replication links of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunLinks {
    /// `None`: it does not run.
    pub process: Option<ProcessIdentity>,
}

/// `replctl guard`, as a group has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunGuard {
    /// `[guard] deadline`, in milliseconds; `None`: the default.
    pub deadline_ms: Option<u64>,
    /// `[guard] restart`: it starts again what has died.
    pub restart: bool,
    /// `replctl guard --maintenance on`: it watches and does nothing.
    pub is_in_maintenance: bool,
    /// How often somebody has looked into its failovers (`replctl guard --acknowledge`).
    pub acknowledgements: u64,
    /// The guard; `None`: none was started, or it was ended.
    pub process: Option<ProcessIdentity>,
}

impl RunGuard {
    /// `[guard] deadline`, unless the topology says otherwise.
    const DEADLINE: Duration = Duration::from_secs(1);

    /// Takes over what a topology says.
    pub fn wish(&mut self, wish: &GuardWish) {
        self.deadline_ms = wish.deadline.map(|deadline| u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX));
        self.restart = wish.restarts;
    }

    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// For how long a master may leave a question of this guard without an answer.
    pub fn deadline(&self) -> Duration {
        self.deadline_ms.map_or(Self::DEADLINE, Duration::from_millis)
    }

    /// Whether its process lives.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn is_alive(&self) -> io::Result<bool> {
        self.process.as_ref().map_or(Ok(false), |process| Ok(process.condition()? != Condition::Dead))
    }
}

/// Where a node reaches another one, if not at that one's own port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkPort {
    /// The other node.
    pub to: String,
    /// Its own port.
    pub target: u16,
    /// The port that stands for it; 0: none yet.
    pub port: u16,
}

/// A change of masters that is under way, written down before the order that nothing takes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promoting {
    /// The node that becomes the master, or is it.
    pub node: String,
    /// Whom the others follow then.
    pub upstreams: BTreeMap<String, String>,
    /// The replication id that it had before: as long as it has that, it was not made the master. `None`: it was one already.
    #[serde(default)]
    pub replid: Option<String>,
}

/// One node of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunNode {
    /// Its name in the topology.
    pub name: String,
    /// The node that its topology lets it follow.
    pub wished_upstream: Option<String>,
    /// The node it follows now; `None` for the master. Changes with every promotion.
    pub upstream: Option<String>,
    /// Who starts it, and what is known of it.
    #[serde(flatten)]
    pub server: Server,
}

/// Who starts a node's server. In `run.json` the two differ by their fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Server {
    /// replctl does.
    Managed(ManagedServer),
    /// Somebody else does: replctl talks to it and never touches its process.
    Unmanaged(UnmanagedServer),
}

/// A server as it was launched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagedServer {
    /// The port that its topology gives it; `None`: a free one.
    pub wished_port: Option<u16>,
    /// Its port on 127.0.0.1, kept for the life of the group.
    pub port: u16,
    /// What serves it.
    #[serde(with = "EngineFields")]
    pub engine: Engine,
    /// The engine that its topology gives it, where `restart --engine` has replaced that by another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wished_engine: Option<WishedEngine>,
    /// `replica-priority`
    pub priority: u32,
    /// The topology's directives for it. Passwords are among them: only the owner may read this file.
    pub config: BTreeMap<String, String>,
    /// Where it reaches the other nodes, in a group whose links can be broken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub link_ports: Vec<LinkPort>,
    /// The port that stands for its own to the other nodes and to the Sentinels, in a group that has both these and links that can be
    /// broken: a Sentinel lets everybody follow a master where it reaches that itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrance: Option<u16>,
    /// Its process; `None` while it is not meant to run.
    pub process: Option<RunProcess>,
}

/// A server that is there without replctl.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnmanagedServer {
    /// Where it is reached from here.
    pub address: Address,
    /// Where the other nodes reach it.
    pub announced: Address,
    /// Who to log in as. Only the owner may read this file.
    pub login: Login,
    /// The run id that it had when it was last known to be the group's: a server with another one at its address was
    /// restarted, or is a stranger. `None`: it has not answered yet.
    pub run_id: Option<String>,
    /// It was the master when another one took over, and nobody could keep it from taking writes.
    #[serde(default)]
    pub unfenced: Option<Unfenced>,
}

/// What an old master that nobody could fence had when another node took its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfenced {
    /// Its history.
    pub replid: String,
    /// How much of that the new master has; whatever it has beyond is its own.
    pub shared_up_to: u64,
}

impl RunSentinel {
    /// One that does not run yet.
    pub fn new(name: String) -> Self {
        let part = |_| format!("{:016x}", RandomState::new().hash_one(&name));
        let id = (0..3).map(part).collect::<String>()[..40].to_owned();
        Self { name, port: 0, id, process: None }
    }
}

impl RunNode {
    /// The server, if replctl starts it.
    pub fn managed(&self) -> Option<&ManagedServer> {
        match &self.server {
            Server::Managed(managed) => Some(managed),
            Server::Unmanaged(_) => None,
        }
    }

    /// The server, if replctl starts it, to be changed.
    pub fn managed_mut(&mut self) -> Option<&mut ManagedServer> {
        match &mut self.server {
            Server::Managed(managed) => Some(managed),
            Server::Unmanaged(_) => None,
        }
    }

    /// The server, if somebody else starts it.
    pub fn unmanaged(&self) -> Option<&UnmanagedServer> {
        match &self.server {
            Server::Managed(_) => None,
            Server::Unmanaged(unmanaged) => Some(unmanaged),
        }
    }

    /// The server, if somebody else starts it, to be changed.
    pub fn unmanaged_mut(&mut self) -> Option<&mut UnmanagedServer> {
        match &mut self.server {
            Server::Managed(_) => None,
            Server::Unmanaged(unmanaged) => Some(unmanaged),
        }
    }

    /// The process that was launched for it, if replctl did and it is meant to run.
    pub fn process(&self) -> Option<&RunProcess> {
        self.managed().and_then(|managed| managed.process.as_ref())
    }

    /// Where the other nodes reach it.
    pub fn announced(&self) -> Address {
        match &self.server {
            Server::Managed(managed) => Address::loopback(managed.entrance.unwrap_or(managed.port)),
            Server::Unmanaged(unmanaged) => unmanaged.announced.clone(),
        }
    }

    /// Where clients reach it.
    pub fn clients_address(&self) -> Address {
        match &self.server {
            Server::Managed(managed) => Address::loopback(managed.port),
            Server::Unmanaged(unmanaged) => unmanaged.announced.clone(),
        }
    }
}

/// [`Engine`] as `run.json` has it.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Engine")]
struct EngineFields {
    #[serde(with = "EngineFamilyName")]
    family: EngineFamily,
    path: Option<PathBuf>,
}

/// An engine that a topology names and that does not serve its node any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WishedEngine(#[serde(with = "EngineFields")] pub Engine);

impl ManagedServer {
    /// Gives it another engine, from its next start on, and remembers which one its topology names.
    pub fn change_engine(&mut self, engine: Engine) {
        let was = std::mem::replace(&mut self.engine, engine);
        let wished = self.wished_engine.take().map_or(was, |wished| wished.0);
        self.wished_engine = (wished != self.engine).then_some(WishedEngine(wished));
    }

    /// Whether a topology that names this engine means what it has, or had before its engine was changed.
    pub fn is_meant_by(&self, engine: &Engine) -> bool {
        self.engine == *engine || self.wished_engine.as_ref().is_some_and(|wished| wished.0 == *engine)
    }
}

/// [`EngineFamily`] as `run.json` has it.
#[derive(Serialize, Deserialize)]
#[serde(remote = "EngineFamily", rename_all = "lowercase")]
enum EngineFamilyName {
    Repld,
    Redis,
    Valkey,
}

/// The process that serves a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunProcess {
    /// Which process of this machine.
    #[serde(flatten)]
    pub identity: ProcessIdentity,
    /// The executable.
    pub program: PathBuf,
    /// Its version, as `--version` told it.
    pub version: String,
}

impl RunState {
    /// The state of a group of which nothing runs yet.
    pub fn new(group: &str, max_loss_bytes: Option<u64>, nodes: Vec<RunNode>) -> Self {
        Self {
            schema: SCHEMA,
            group: group.to_owned(),
            max_loss_bytes,
            by: By::default(),
            after_promote: Vec::new(),
            replid: None,
            promoting: None,
            links: None,
            guard: RunGuard::default(),
            sentinels: None,
            nodes,
        }
    }

    /// Whether replctl has started none of it.
    pub fn is_adopted(&self) -> bool {
        self.nodes.iter().all(|node| node.managed().is_none())
    }

    /// A node by its name.
    pub fn node(&self, name: &str) -> Option<&RunNode> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// A node by its name, to be changed.
    pub fn node_mut(&mut self, name: &str) -> Option<&mut RunNode> {
        self.nodes.iter_mut().find(|node| node.name == name)
    }

    /// The node that is meant to be the master.
    pub fn master(&self) -> &RunNode {
        self.nodes.iter().find(|node| node.upstream.is_none()).expect("a topology has a master, a promotion leaves one")
    }

    /// Whether this node was about to become the master when this was written.
    pub fn is_promoting(&self, node: &str) -> bool {
        self.promoting.as_ref().is_some_and(|promoting| promoting.node == node)
    }

    /// The processes of the group that are written down, dead or alive.
    pub fn processes(&self) -> impl Iterator<Item = &ProcessIdentity> {
        let of_links = self.links.iter().filter_map(|links| links.process.as_ref());
        let of_sentinels = self.sentinels().iter().filter_map(|sentinel| Some(&sentinel.process.as_ref()?.identity));
        self.nodes
            .iter()
            .filter_map(|node| Some(&node.process()?.identity))
            .chain(of_links)
            .chain(of_sentinels)
            .chain(&self.guard.process)
    }

    /// The process that is written down for a node or a Sentinel that replctl starts, to be changed.
    pub fn process_mut(&mut self, name: &str) -> Option<&mut Option<RunProcess>> {
        if self.sentinel(name).is_some() {
            return self.sentinel_mut(name).map(|sentinel| &mut sentinel.process);
        }
        self.node_mut(name).and_then(RunNode::managed_mut).map(|server| &mut server.process)
    }

    /// The Sentinels that watch the group.
    pub fn sentinels(&self) -> &[RunSentinel] {
        self.sentinels.as_ref().map_or(&[], |sentinels| &sentinels.each)
    }

    /// One of them by its name.
    pub fn sentinel(&self, name: &str) -> Option<&RunSentinel> {
        self.sentinels().iter().find(|sentinel| sentinel.name == name)
    }

    /// One of them by its name, to be changed.
    pub fn sentinel_mut(&mut self, name: &str) -> Option<&mut RunSentinel> {
        self.sentinels.as_mut()?.each.iter_mut().find(|sentinel| sentinel.name == name)
    }

    /// The node that a node follows; `None` for the master.
    pub fn upstream_of(&self, node: &RunNode) -> Option<&RunNode> {
        node.upstream.as_deref().and_then(|upstream| self.node(upstream))
    }

    /// Whether exactly one node is the master and every other one reaches it by its upstreams.
    pub(super) fn is_a_tree(&self) -> bool {
        let reaches_root = |node: &RunNode| {
            let mut above = std::iter::successors(Some(node), |node| self.upstream_of(node)).take(self.nodes.len());
            above.any(|node| node.upstream.is_none())
        };
        self.nodes.iter().filter(|node| node.upstream.is_none()).count() == 1 && self.nodes.iter().all(reaches_root)
    }

    /// Makes `master` the master and lets the nodes of `upstreams` follow the ones named there.
    pub fn set_roles(&mut self, master: &str, upstreams: &BTreeMap<String, String>) {
        for node in &mut self.nodes {
            if node.name == master {
                node.upstream = None;
            } else if let Some(upstream) = upstreams.get(&node.name) {
                node.upstream = Some(upstream.clone());
            }
        }
        self.promoting = None;
    }
}
