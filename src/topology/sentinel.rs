//! The Sentinels of a group, as `[sentinel]` wishes them: real processes that watch its master and replace it by themselves.
//!
//! Sentinel is told of one master and asks that one for its replicas, so what follows a replica is out of its sight: a group
//! with Sentinels has no chains.

use std::ops::Range;
use std::time::Duration;

use super::diagnostic::{Diagnostic, quoted};
use super::{Engine, EngineFamily, ManagedNode, Node};

/// What the name of each of them begins with: `sentinel-1`, `sentinel-2` and so on.
pub(super) const NAME_PREFIX: &str = "sentinel-";
/// Most Sentinels of a group: each of them talks to every other one.
pub(super) const COUNT_MAX: i64 = 32;

const DEFAULT_COUNT: u16 = 3;
/// At the usual speed a Sentinel asks once a second whether a server lives.
const DEFAULT_DOWN_AFTER: Duration = Duration::from_secs(2);
/// In a hurry it asks twice in this time: more often, it would find no replica's state recent enough.
const FAST_DOWN_AFTER: Duration = Duration::from_millis(500);
const DEFAULT_FAILOVER_TIMEOUT: Duration = Duration::from_secs(10);

/// The Sentinels that watch a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sentinels {
    /// How many.
    pub count: u16,
    /// So many must find the master down before it counts as down. The failover itself always takes more than half of all.
    pub quorum: u16,
    /// How long a master may be silent before one of them finds it down.
    pub down_after: Duration,
    /// How long a failover may take; after twice as long another one is tried.
    pub failover_timeout: Duration,
    /// They are told to look and to talk more often than usual, where they know how.
    pub is_fast: bool,
    /// The family is redis or valkey; without a path found on `PATH`.
    pub engine: Engine,
}

impl Sentinels {
    /// Their names, in order.
    pub fn names(&self) -> impl Iterator<Item = String> {
        (1..=self.count).map(|number| format!("{NAME_PREFIX}{number}"))
    }
}

/// `[sentinel]`
#[derive(Debug)]
pub(super) struct RawSentinel {
    pub span: Range<usize>,
    pub count: Option<u16>,
    pub quorum: Option<toml::Spanned<u16>>,
    pub down_after: Option<toml::Spanned<Duration>>,
    pub failover_timeout: Option<Duration>,
    pub is_fast: bool,
    pub engine: Option<toml::Spanned<Engine>>,
}

/// The Sentinels that a file wishes for these nodes.
///
/// # Errors
/// All that keeps them from watching every node.
pub(super) fn resolve(raw: RawSentinel, nodes: &[Node]) -> Result<Sentinels, Vec<Diagnostic>> {
    let count = raw.count.unwrap_or(DEFAULT_COUNT);
    let quorum = raw.quorum.as_ref().map_or(count / 2 + 1, |quorum| *quorum.get_ref());
    let mut errors = refusals(&raw.span, nodes);
    if let Some(written) = raw.quorum.filter(|_| quorum > count) {
        let message = format!("a quorum of {quorum} cannot be reached by {count} sentinels");
        errors.push(Diagnostic::at(written.span(), message));
    }
    if let Some(engine) = raw.engine.as_ref().filter(|engine| engine.get_ref().family == EngineFamily::Repld) {
        let error = Diagnostic::at(engine.span(), "repld is no sentinel");
        errors.push(error.hint("`redis-server` and `valkey-server` are"));
    }
    if let Some(written) = raw.down_after.as_ref().filter(|time| raw.is_fast && *time.get_ref() < FAST_DOWN_AFTER) {
        let error = Diagnostic::at(written.span(), "fast sentinels ask too seldom to know after so short a time");
        errors.push(error.hint("`500ms` at least"));
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let default_down_after = if raw.is_fast { FAST_DOWN_AFTER } else { DEFAULT_DOWN_AFTER };
    Ok(Sentinels {
        count,
        quorum,
        down_after: raw.down_after.map_or(default_down_after, toml::Spanned::into_inner),
        failover_timeout: raw.failover_timeout.unwrap_or(DEFAULT_FAILOVER_TIMEOUT),
        is_fast: raw.is_fast,
        engine: raw.engine.map_or_else(|| engine_beside(nodes), toml::Spanned::into_inner),
    })
}

/// What the master is served by, if that can be a Sentinel; else the first of the other nodes' engines that can; else
/// `redis-server`.
fn engine_beside(nodes: &[Node]) -> Engine {
    let masters_first = nodes.iter().filter(|node| node.replica_of.is_none()).chain(nodes);
    let engines = masters_first.filter_map(|node| Some(&node.managed()?.engine));
    let mut able = engines.filter(|engine| engine.family != EngineFamily::Repld);
    able.next().cloned().unwrap_or(Engine { family: EngineFamily::Redis, path: None })
}

fn refusals(span: &Range<usize>, nodes: &[Node]) -> Vec<Diagnostic> {
    let refused = |message: String| Diagnostic::at(span.clone(), message);
    let mut errors = Vec::new();
    if let Some(node) = nodes.iter().find(|node| node.managed().is_none()) {
        let name = quoted(&node.name);
        let error = refused(format!("the sentinels watch nodes that replctl starts, and {name} is none"));
        errors.push(error.hint("take `managed = false` away, or `[sentinel]` and start sentinels of your own"));
    }
    if let Some(node) = nodes.iter().find(|node| node.name.starts_with(NAME_PREFIX)) {
        let error = refused(format!("the name {} is one of a sentinel", quoted(&node.name)));
        errors.push(error.hint("give the node another one"));
    }
    let master = nodes.iter().find(|node| node.replica_of.is_none()).map(|node| &node.name);
    let follows_another = |node: &&Node| node.replica_of.is_some() && node.replica_of.as_ref() != master;
    if let Some(node) = nodes.iter().find(follows_another) {
        let error = refused(format!("the sentinels would not see {}, which follows a replica", quoted(&node.name)));
        errors.push(error.hint("let every replica follow the master itself"));
    }
    let password = |node: &ManagedNode| node.config.get("requirepass").cloned();
    let mut passwords = nodes.iter().filter_map(Node::managed).map(password);
    let first = passwords.next();
    if passwords.any(|other| Some(other) != first) {
        let error = refused("the sentinels have one password for all nodes, and these have several".to_owned());
        errors.push(error.hint("write `requirepass` into `[defaults.config]`"));
    }
    errors
}
