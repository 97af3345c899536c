//! The wished shape of a replication group: a tree of nodes, read from a TOML file.
//!
//! [`Topology::parse`] is the only way to make a [`Topology`], so two masters, a cycle, a dangling or
//! duplicate name, a duplicate port or an unknown key cannot exist past it.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// A replication group as its file describes it: exactly one node without an upstream, all others below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    name: String,
    /// In file order (`count` expanded).
    nodes: Vec<Node>,
    max_loss_bytes: Option<u64>,
}

/// One server of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Unique in the group: letters, digits, `-`, `_`, `.`; at most 64 bytes.
    pub name: String,
    /// `None`: a free one, chosen by the system at `up` and kept from then on.
    pub port: Option<u16>,
    /// The program that serves it.
    pub engine: Engine,
    /// The node it replicates from; `None` for the group's one master.
    pub replica_of: Option<String>,
    /// `replica-priority`: lower is promoted first, 0 never.
    pub priority: u32,
    /// Server directives by their redis.conf names, passed through as they are. Later wins over `[defaults]`.
    pub config: BTreeMap<String, String>,
}

/// Which program serves a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    /// Decides how the program is called and what is tuned for it.
    pub family: EngineFamily,
    /// `None`: found on `PATH` by the family's usual name (repld: this very executable, `replctl serve`).
    pub path: Option<PathBuf>,
}

/// The server families that replctl knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineFamily {
    /// The server inside this program.
    Repld,
    /// `redis-server`.
    Redis,
    /// `valkey-server`.
    Valkey,
}

impl Topology {
    /// The group's name: `name` in the file, else the file's stem.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All nodes, in file order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The one node without an upstream.
    pub fn master(&self) -> &Node {
        self.nodes.iter().find(|node| node.replica_of.is_none()).expect("a parsed topology has one master")
    }

    /// `[failover] max-loss`, in bytes of replication stream: a promotion that may lose more is refused.
    pub fn max_loss_bytes(&self) -> Option<u64> {
        self.max_loss_bytes
    }
}
