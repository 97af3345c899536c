//! The wished shape of a replication group: a tree of nodes, read from a TOML file.
//!
//! [`Topology::parse`] is the only way to make a [`Topology`], so two masters, a cycle, a dangling or
//! duplicate name, a duplicate port or an unknown key cannot exist past it.

mod address;
mod by;
mod diagnostic;
mod directive;
mod drill;
mod link;
mod preset;
mod raw;
mod resolve;
mod sentinel;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use address::{Address, Login};
pub use by::By;
pub use diagnostic::{Diagnostic, Position, TopologyError};
pub use directive::is_secret;
pub use drill::{Act, Drill, DrillStep, Expectations, Load, Target, WishedResync, Workload};
pub use link::{LINK_VERBS, LINKED_NODES_MAX, LinkDirection, LinkFault, LinkOptions};
pub use preset::{PRESETS, Preset};
pub use raw::bytes_of;
pub use sentinel::Sentinels;

/// The file that `up` looks for in the current directory, and `init` writes.
pub const FILE_NAME: &str = "replctl.toml";

/// Most nodes of a group.
pub const NODES_MAX: usize = 1000;

/// Largest topology file, in bytes.
const FILE_BYTES_MAX: usize = 1 << 20;

/// A replication group as its file describes it: exactly one node without an upstream, all others below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    name: String,
    /// In file order (`count` expanded).
    nodes: Vec<Node>,
    max_loss_bytes: Option<u64>,
    by: By,
    guard: GuardWish,
    sentinels: Option<Sentinels>,
    after_promote: Vec<String>,
    /// Nodes reach those that they follow by proxies.
    has_link_faults: bool,
    drills: Vec<Drill>,
}

/// One server of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Unique in the group: letters, digits, `-`, `_`, `.`; at most 64 bytes.
    pub name: String,
    /// The node it replicates from; `None` for the group's one master.
    pub replica_of: Option<String>,
    /// Who starts it, and what is wished of it.
    pub server: NodeServer,
}

/// Who starts a node's server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeServer {
    /// replctl does.
    Managed(ManagedNode),
    /// Somebody else does (`managed = false`): replctl talks to it and never touches its process.
    Unmanaged(UnmanagedNode),
}

/// A server that is there without replctl.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnmanagedNode {
    /// Where it is reached, by replctl and by the other nodes.
    pub endpoint: Address,
    /// The user to log in as; `None`: the default one.
    pub user: Option<String>,
    /// The file whose first line is the password; `None`: it asks for none.
    pub password_file: Option<PathBuf>,
}

/// A server that replctl starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagedNode {
    /// `None`: a free one, chosen at `up` and kept from then on.
    pub port: Option<u16>,
    /// The program that serves it.
    pub engine: Engine,
    /// `replica-priority`: lower is promoted first, 0 never.
    pub priority: u32,
    /// The node is left out if its engine is not installed. Never the master; what replicates from it is optional too.
    pub optional: bool,
    /// Server directives by their redis.conf names in lower case, the node's own over those of `[defaults]`. Each value is
    /// a row of words as a configuration file writes them, without control characters; `""` stands for an empty one.
    pub config: BTreeMap<String, String>,
}

impl Node {
    /// What is wished of a server that replctl starts; `None` for one that it does not.
    pub fn managed(&self) -> Option<&ManagedNode> {
        match &self.server {
            NodeServer::Managed(managed) => Some(managed),
            NodeServer::Unmanaged(_) => None,
        }
    }

    fn is_optional(&self) -> bool {
        self.managed().is_some_and(|managed| managed.optional)
    }
}

/// `[guard]`: what is wished of a group's guard, should it have one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuardWish {
    /// For how long a master may leave a question without an answer; `None`: for the guard's own default.
    pub deadline: Option<Duration>,
    /// It starts again what has died.
    pub restarts: bool,
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

impl EngineFamily {
    /// All of them.
    pub const ALL: [EngineFamily; 3] = [EngineFamily::Repld, EngineFamily::Redis, EngineFamily::Valkey];

    /// The name in `{ family = … }` and in what is printed.
    pub fn name(self) -> &'static str {
        match self {
            EngineFamily::Repld => "repld",
            EngineFamily::Redis => "redis",
            EngineFamily::Valkey => "valkey",
        }
    }

    /// The usual name of its executable, which `engine = "…"` gives.
    pub fn program(self) -> &'static str {
        match self {
            EngineFamily::Repld => "repld",
            EngineFamily::Redis => "redis-server",
            EngineFamily::Valkey => "valkey-server",
        }
    }
}

impl Engine {
    /// The server inside this program.
    pub const REPLD: Engine = Engine { family: EngineFamily::Repld, path: None };
}

/// The path if there is one, else the program's usual name.
impl fmt::Display for Engine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => path.display().fmt(out),
            None => self.family.program().fmt(out),
        }
    }
}

impl Topology {
    /// Reads a topology from the text of a file. `path` names it in errors; its stem is the group's default name, and
    /// relative paths in it start from its directory.
    ///
    /// # Errors
    /// All that is wrong with it, each with its place.
    pub fn parse(text: &str, path: &Path) -> Result<Self, TopologyError> {
        // An editor's mark that the text is UTF-8 is no part of it.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let at_fault = |diagnostics| TopologyError::new(path, text, diagnostics);
        let directory = path.parent().unwrap_or(Path::new(""));
        let raw = raw::read(text, directory).map_err(at_fault)?;
        let nodes = resolve::resolve(&raw).map_err(at_fault)?;
        if let Some(span) = raw.link_faults.clone()
            && let Some(reason) = link::refusal(&nodes)
        {
            return Err(at_fault(vec![Diagnostic::at(span, reason)]));
        }
        let has_link_faults = raw.link_faults.is_some();
        let by = by::resolve(raw.failover.by, raw.sentinel.is_some()).map_err(at_fault)?;
        let sentinels = raw.sentinel.map(|raw| sentinel::resolve(raw, &nodes)).transpose().map_err(at_fault)?;
        let drills = drill::resolve(raw.drills, &nodes).map_err(at_fault)?;
        let name = match raw.name {
            Some(name) => name,
            None => name_from(path).map_err(at_fault)?,
        };
        Ok(Self {
            name,
            nodes,
            max_loss_bytes: raw.failover.max_loss_bytes,
            by,
            guard: raw.guard,
            sentinels,
            after_promote: raw.after_promote,
            has_link_faults,
            drills,
        })
    }

    /// Reads a topology from a file of at most 1 MiB.
    ///
    /// # Errors
    /// The file cannot be read, or [`Topology::parse`] finds errors in it.
    pub fn load(path: &Path) -> Result<Self, TopologyError> {
        let bytes = read_bounded(path).map_err(|error| unreadable(path, &error))?;
        Self::from_bytes(bytes, path)
    }

    fn from_bytes(bytes: Vec<u8>, path: &Path) -> Result<Self, TopologyError> {
        if bytes.len() > FILE_BYTES_MAX {
            return Err(TopologyError::of_file(path, format!("the file is larger than {FILE_BYTES_MAX} bytes")));
        }
        let text = String::from_utf8(bytes).map_err(|error| not_utf8(path, &error))?;
        Self::parse(&text, path)
    }

    /// The topology that `up` starts: the file that was named, else `replctl.toml` in the current directory, else
    /// [`Topology::trio`].
    ///
    /// # Errors
    /// As [`Topology::load`].
    pub fn find(named: Option<&Path>) -> Result<Self, TopologyError> {
        let here = Path::new(FILE_NAME);
        match named {
            Some(path) => Self::load(path),
            // A link that leads nowhere is a mistake to tell, not an absent file.
            None if here.symlink_metadata().is_ok() => Self::load(here),
            None => Ok(Self::trio()),
        }
    }

    /// The built-in topology: a repld master and two repld replicas on automatic ports.
    pub fn trio() -> Self {
        let trio = Preset::named("trio").expect("the trio is shipped");
        Self::parse(trio.text, Path::new("trio.toml")).expect("a test parses every shipped topology")
    }

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

    /// The nodes that replicate directly from the node of this name, in file order.
    pub fn replicas_of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Node> {
        self.nodes.iter().filter(move |node| node.replica_of.as_deref() == Some(name))
    }

    /// `[failover] max-loss`, in bytes of replication stream: a promotion that may lose more is refused.
    pub fn max_loss_bytes(&self) -> Option<u64> {
        self.max_loss_bytes
    }

    /// `[failover] by`: who decides that another node becomes the master.
    pub fn by(&self) -> By {
        self.by
    }

    /// `[guard]`: what is wished of the group's guard.
    pub fn guard(&self) -> &GuardWish {
        &self.guard
    }

    /// `[sentinel]`: the Sentinels that watch it, if there are any.
    pub fn sentinels(&self) -> Option<&Sentinels> {
        self.sentinels.as_ref()
    }

    /// `[hooks] after-promote`: a program with its arguments that is run when another node has become the master; empty for
    /// none.
    pub fn after_promote(&self) -> &[String] {
        &self.after_promote
    }

    /// `[faults] links`: whether what is between the nodes can be broken.
    pub fn has_link_faults(&self) -> bool {
        self.has_link_faults
    }

    /// The same group with links that can be broken.
    ///
    /// # Errors
    /// Its links cannot be; why.
    pub fn with_link_faults(self) -> Result<Self, String> {
        match link::refusal(&self.nodes) {
            Some(reason) => Err(reason),
            None => Ok(Self { has_link_faults: true, ..self }),
        }
    }

    /// `[[drill]]`, in file order.
    pub fn drills(&self) -> &[Drill] {
        &self.drills
    }

    /// The same group to be started beside one that is up, to be broken: on free ports, and nobody is told of its masters
    /// (`[hooks]`). With `engine` that one serves every node.
    pub fn for_drill(mut self, engine: Option<&Engine>) -> Self {
        self.after_promote.clear();
        for node in &mut self.nodes {
            if let NodeServer::Managed(managed) = &mut node.server {
                managed.port = None;
                managed.engine = engine.unwrap_or(&managed.engine).clone();
            }
        }
        self
    }

    /// The same group with something to write to its disks: an append-only file on every node, unless its file says otherwise.
    pub fn with_append_only_files(mut self) -> Self {
        for node in &mut self.nodes {
            if let NodeServer::Managed(managed) = &mut node.server {
                managed.config.entry("appendonly".to_owned()).or_insert_with(|| "yes".to_owned());
            }
        }
        self
    }

    /// Takes out the optional nodes whose engine is missing, with everything that replicates from them, and returns
    /// their names in file order.
    pub fn leave_out(&mut self, is_missing: impl Fn(&Engine) -> bool) -> Vec<String> {
        let mut left_out = HashSet::new();
        // A file may name a replica before its upstream, so go on until nothing more falls out.
        loop {
            let before = left_out.len();
            for node in self.nodes.iter().filter(|node| node.is_optional()) {
                let has_no_engine = node.managed().is_some_and(|managed| is_missing(&managed.engine));
                if has_no_engine || node.replica_of.as_ref().is_some_and(|name| left_out.contains(name)) {
                    left_out.insert(node.name.clone());
                }
            }
            if left_out.len() == before {
                break;
            }
        }
        self.nodes.extract_if(.., |node| left_out.contains(&node.name)).map(|node| node.name).collect()
    }
}

/// At most one byte more than a topology file may have: also a device or a pipe ends.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn unreadable(path: &Path, error: &io::Error) -> TopologyError {
    let reason = match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::IsADirectory => "this is a directory, not a topology file".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => format!("cannot be read: {error}"),
    };
    TopologyError::of_file(path, reason)
}

fn not_utf8(path: &Path, error: &std::string::FromUtf8Error) -> TopologyError {
    let valid_bytes = error.utf8_error().valid_up_to();
    let text = String::from_utf8_lossy(error.as_bytes());
    let wrong = valid_bytes..valid_bytes + char::REPLACEMENT_CHARACTER.len_utf8();
    let diagnostic = Diagnostic::at(wrong, "this is not UTF-8 text").hint("a topology file is UTF-8 text");
    TopologyError::new(path, &text, vec![diagnostic])
}

fn name_from(path: &Path) -> Result<String, Vec<Diagnostic>> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    match raw::wrong_name(&stem) {
        None => Ok(stem.into_owned()),
        Some(wrong) => {
            let message = format!("the file's stem {} cannot be the group's name: {wrong}", diagnostic::quoted(&stem));
            Err(vec![Diagnostic::of_file(message).hint("add `name = \"…\"` at the top")])
        }
    }
}

#[cfg(test)]
mod tests;
