//! `up`: from a topology to running, linked servers; and from a group that runs in part to one that runs in whole.
//!
//! One task per node, all at once; a task waits for nothing but what it needs:
//!
//! ```text
//! n1 (master)   spawn -> answers
//! n2 (repld)    spawn -> answers -------> n1 answers -> link up, caught up
//! n3 (redis)    n1 answers -> spawn -> answers -------> link up, caught up
//! n4 (of n3)    n3 linked  -> spawn …
//! ```
//!
//! A Redis or Valkey replica that finds nobody at its upstream's port looks again a whole second later, and a replica that
//! is not linked itself turns its own replicas away for as long. So these start only when their upstream is linked. A repld
//! tries again after ten milliseconds and starts with everybody else.
//!
//! What fails ends everything that this run has started; what it has found running stays.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::signal::unix::SignalKind;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::diagnosis::{Diagnosis, diagnose};
use super::links::{ReplicasOf, await_link, watch_replicas};
use super::salvage::{self, KeptStream};
use super::sentinel::SentinelLaunch;
use super::stop::end_processes;
use super::tail::{self, TailReport};
use super::unmanaged::{self, Untouchable, refuse_unmanaged};
use super::view::observe;
use super::{Group, GroupError, GroupView, NodeView, QUOTED_LINES, endpoint, link_faults, save_config};
use crate::event::{Event, Recorder};
use crate::host;
use crate::process::{
    Condition, Durability, GroupDir, LINKS, Listeners, LiveProcess, ManagedServer, Program, RunGuard, RunLinks,
    RunNode, RunProcess, RunSentinel, RunSentinels, RunState, Server, Started, StateError, UnmanagedServer, free_ports,
    log_tail, spawn,
};
use crate::topology::{Address, Engine, EngineFamily, Login, NodeServer, Sentinels, Topology, UnmanagedNode};
use crate::wire::{Endpoint, FormerHistory, NodeClient, WireError};

/// A master that an interrupted `up` has started a moment ago gets so long to answer before it counts as hung.
const FIRST_ANSWER: Duration = Duration::from_secs(1);

/// Between two attempts to connect to a server that starts.
const CONNECT_EVERY: Duration = Duration::from_millis(2);
/// How long one answer may take. The time of a whole `up` is bounded elsewhere; this one is above any that makes sense.
const RESPONSE_LIMIT: Duration = Duration::from_secs(60);
/// A password is shorter.
const PASSWORD_FILE_BYTES_MAX: u64 = 64 << 10;
/// What `up` is about to do.
#[derive(Debug, Serialize)]
pub struct LaunchPlan {
    /// The group.
    pub group: String,
    /// Per node, in topology order.
    pub actions: Vec<Action>,
    /// Nodes that replctl does not start and that do not answer: nobody waits for them.
    pub absent: Vec<String>,
    /// Per Sentinel.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sentinels: Vec<Action>,
    #[serde(skip)]
    command: &'static str,
    #[serde(skip)]
    run: RunState,
    /// The nodes whose links are waited for, and those above them.
    #[serde(skip)]
    linked: BTreeSet<String>,
    /// Every engine that is needed, with its program.
    #[serde(skip)]
    programs: Vec<(Engine, Program)>,
    /// The Sentinels' program, if the group has any.
    #[serde(skip)]
    sentinel_program: Option<Program>,
}

/// What `up` does with one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Action {
    /// The node.
    pub node: String,
    /// Where it is, or will be: on port 0 until it has one.
    #[serde(flatten)]
    pub address: Address,
    /// The node it will follow; `None` for the master.
    pub upstream: Option<String>,
    /// It runs already and is left as it is.
    pub is_adopted: bool,
}

impl LaunchPlan {
    /// Decides what to start. Roles are those of the last run, if the group was started from the same topology before: after
    /// a failover the file's master is not the group's.
    ///
    /// # Errors
    /// An engine is missing, something else runs under this name, a node's port is taken, or starting could overwrite newer
    /// data by older.
    pub async fn new(dir: &GroupDir, topology: &Topology, force: bool) -> Result<Self, GroupError> {
        let wished = wished_state(dir.name(), topology)?;
        let run = match Group::open(dir.clone()) {
            Ok(last) => resume(last, wished, force).await?,
            Err(GroupError::State(StateError::NoSuchGroup(_))) => wished,
            Err(error) => return Err(error),
        };
        Self::of_all(dir, run, force).await
    }

    /// Decides how to make an adopted group whole: nothing is started, but who came back as a master, or follows another node
    /// than it is meant to, is told to follow.
    ///
    /// # Errors
    /// As [`LaunchPlan::new`].
    pub async fn of_adopted(group: Group, force: bool) -> Result<Self, GroupError> {
        let (view, _) = observe(&group).await?;
        refuse_if_unsafe(&view)?;
        Self::of_all(&group.dir, group.run, force).await
    }

    /// The nodes that a rolling upgrade gave another engine than their topology names, with both.
    pub fn upgraded(&self) -> impl Iterator<Item = (&str, &Engine, &Engine)> {
        self.run.nodes.iter().filter_map(|node| {
            let server = node.managed()?;
            Some((node.name.as_str(), &server.engine, &server.wished_engine.as_ref()?.0))
        })
    }

    /// The same, without waiting for anybody's link: it may be broken on purpose.
    #[must_use]
    pub fn without_waiting_for_links(self) -> Self {
        Self { linked: BTreeSet::new(), ..self }
    }

    async fn of_all(dir: &GroupDir, run: RunState, force: bool) -> Result<Self, GroupError> {
        let absent = absent_of(dir, &run, force).await?;
        let all = run.nodes.iter().map(|node| node.name.clone()).filter(|name| !absent.contains(name)).collect();
        let is_there = |node: &&RunNode| node.process().is_some() || node.unmanaged().is_some();
        let there = run.nodes.iter().filter(is_there).map(|node| node.name.clone());
        let alive = there.filter(|name| !absent.contains(name)).collect();
        let sentinels: Vec<String> = run.sentinels().iter().map(|sentinel| sentinel.name.clone()).collect();
        Ok(Self { absent, ..Self::of_nodes("up", run, &all, &alive)?.with_sentinels(&sentinels)? })
    }

    /// Starts those of these Sentinels that do not live, each on its port, or on a free one.
    fn with_sentinels(mut self, names: &[String]) -> Result<Self, GroupError> {
        let Some(sentinels) = self.run.sentinels.as_mut().filter(|_| !names.is_empty()) else { return Ok(self) };
        let missing = |source| GroupError::Engine { node: names[0].clone(), source };
        self.sentinel_program = Some(Program::find_sentinel(&sentinels.engine).map_err(missing)?);
        let listeners = Listeners::read();
        for sentinel in sentinels.each.iter_mut().filter(|sentinel| names.contains(&sentinel.name)) {
            let is_alive = sentinel.condition()? != Condition::Dead;
            sentinel.process = sentinel.process.take().filter(|_| is_alive);
            if !is_alive && listeners.on(sentinel.port).is_some() {
                sentinel.port = 0;
            }
        }
        // The others' ports stand in each one's file, so all get one.
        let without = sentinels.each.iter_mut().filter(|sentinel| sentinel.port == 0);
        for sentinel in without {
            sentinel.port = free_ports(1)?[0];
        }
        let named = sentinels.each.iter().filter(|sentinel| names.contains(&sentinel.name));
        let actions = named.map(|sentinel| Action {
            node: sentinel.name.clone(),
            address: Address::loopback(sentinel.port),
            upstream: None,
            is_adopted: sentinel.process.is_some(),
        });
        self.sentinels = actions.collect();
        Ok(self)
    }

    /// Decides how to start single nodes of a group, in the roles that they have in it now: who was the master and is not
    /// any more comes back as a replica, before it can take a write.
    ///
    /// # Errors
    /// There is no such node; or one is still the master, and its replicas live: with less than they have it would make
    /// them lose the difference.
    pub async fn start(group: Group, nodes: &[String], force: bool) -> Result<Self, GroupError> {
        refuse_unmanaged(&group, nodes, Untouchable::Start)?;
        let (sentinels, nodes): (Vec<String>, Vec<String>) =
            nodes.iter().cloned().partition(|name| group.run.sentinel(name).is_some());
        let nodes = &nodes[..];
        let (view, _) = observe(&group).await?;
        let is_alive = |name: &str| view.node(name).is_some_and(|seen| seen.is_alive());
        let mut run = group.run;
        take_roles(&mut run, &view);
        // What is known of others that have ended is kept: a promotion asks for it.
        for node in run.nodes.iter_mut().filter(|node| nodes.contains(&node.name)) {
            let is_alive = is_alive(&node.name);
            if let Some(server) = node.managed_mut() {
                server.process = server.process.take().filter(|_| is_alive);
            }
        }
        let alive: BTreeSet<String> =
            run.nodes.iter().filter(|node| is_alive(&node.name)).map(|node| node.name.clone()).collect();
        refuse_older_master(&view, nodes, force)?;
        Self::of_nodes("start", run, &nodes.iter().cloned().collect(), &alive)?.with_sentinels(&sentinels)
    }

    /// Starts those of `nodes` that are not alive.
    fn of_nodes(
        command: &'static str,
        mut run: RunState,
        nodes: &BTreeSet<String>,
        alive: &BTreeSet<String>,
    ) -> Result<Self, GroupError> {
        let starts = |node: &RunNode| nodes.contains(&node.name) && !alive.contains(&node.name);
        let programs = find_programs(run.nodes.iter().filter(|node| starts(node)))?;
        assign_ports(&mut run, |node| starts(node))?;
        let takes_part = |node: &RunNode| alive.contains(&node.name) || nodes.contains(&node.name);
        let above = |node: &RunNode| -> Option<Vec<String>> {
            let chain = std::iter::successors(Some(node), |node| run.upstream_of(node));
            chain.map(|node| takes_part(node).then(|| node.name.clone())).collect()
        };
        // Who is cut off from the master is started all the same, and its link not waited for.
        let linked = run.nodes.iter().filter(|node| nodes.contains(&node.name)).filter_map(above).flatten().collect();
        let actions = run.nodes.iter().filter(|node| nodes.contains(&node.name)).map(|node| Action {
            node: node.name.clone(),
            address: endpoint(node).address,
            upstream: node.upstream.clone(),
            is_adopted: node.process().is_some() || node.unmanaged().is_some(),
        });
        Ok(Self {
            group: run.group.clone(),
            actions: actions.collect(),
            absent: Vec::new(),
            sentinels: Vec::new(),
            command,
            linked,
            programs,
            sentinel_program: None,
            run,
        })
    }
}

fn wished_state(group: &str, topology: &Topology) -> Result<RunState, GroupError> {
    let mut nodes = Vec::with_capacity(topology.nodes().len());
    for node in topology.nodes() {
        let server = match &node.server {
            NodeServer::Managed(managed) => Server::Managed(ManagedServer {
                wished_port: managed.port,
                port: managed.port.unwrap_or(0),
                engine: managed.engine.clone(),
                wished_engine: None,
                priority: managed.priority,
                config: managed.config.clone(),
                link_ports: Vec::new(),
                entrance: None,
                process: None,
            }),
            NodeServer::Unmanaged(unmanaged) => Server::Unmanaged(wished_server(&node.name, unmanaged)?),
        };
        nodes.push(RunNode {
            name: node.name.clone(),
            wished_upstream: node.replica_of.clone(),
            upstream: node.replica_of.clone(),
            server,
        });
    }
    let mut state = RunState::new(group, topology.max_loss_bytes(), nodes);
    state.by = topology.by();
    state.guard.wish(topology.guard());
    state.after_promote = topology.after_promote().to_vec();
    state.links = topology.has_link_faults().then(RunLinks::default);
    state.sentinels = topology.sentinels().map(wished_sentinels);
    Ok(state)
}

fn wished_sentinels(sentinels: &Sentinels) -> RunSentinels {
    let milliseconds = |time: Duration| u64::try_from(time.as_millis()).expect("a topology's times are a day at most");
    RunSentinels {
        quorum: sentinels.quorum,
        down_after_ms: milliseconds(sentinels.down_after),
        failover_timeout_ms: milliseconds(sentinels.failover_timeout),
        is_fast: sentinels.is_fast,
        engine: sentinels.engine.clone(),
        each: sentinels.names().map(RunSentinel::new).collect(),
    }
}

fn wished_server(name: &str, node: &UnmanagedNode) -> Result<UnmanagedServer, GroupError> {
    let password = node.password_file.as_deref().map(|path| {
        let unreadable = |error| GroupError::Password { node: name.to_owned(), path: path.to_owned(), source: error };
        read_password(path).map_err(unreadable)
    });
    let login = Login { user: node.user.clone(), password: password.transpose()? };
    let (address, announced) = (node.endpoint.clone(), node.endpoint.clone());
    Ok(UnmanagedServer { address, announced, login, run_id: None, unfenced: None })
}

/// The unmanaged replicas that do not answer; the others are such as `up` can go on with.
async fn absent_of(dir: &GroupDir, run: &RunState, force: bool) -> Result<Vec<String>, GroupError> {
    if run.nodes.iter().all(|node| node.unmanaged().is_none()) {
        return Ok(Vec::new());
    }
    let group = Group { dir: dir.clone(), run: run.clone() };
    let (view, _) = observe(&group).await?;
    unmanaged::check(&view, force)
}

/// What a group that was started before goes on with: the processes that live, and the roles it had.
async fn resume(last: Group, wished: RunState, force: bool) -> Result<RunState, GroupError> {
    let (mut view, _) = observe(&last).await?;
    let give_up = Instant::now() + FIRST_ANSWER;
    let may_still_answer = |view: &GroupView| {
        let is_lost = matches!(diagnose(view), Diagnosis::MasterHung { .. } | Diagnosis::NoCandidate { .. });
        is_lost && view.meant_master().condition() == Some(Condition::Running)
    };
    while may_still_answer(&view) && Instant::now() < give_up {
        tokio::time::sleep(CONNECT_EVERY).await;
        (view, _) = observe(&last).await?;
    }
    let is_running = view.nodes.iter().any(|node| node.is_managed() && node.is_alive());
    if !is_same_wish(&last.run, &wished) {
        if is_running {
            return Err(GroupError::Unsafe {
                reason: format!("a group {} runs that was started from another topology", wished.group),
                hint: "replctl down ends it; or give this topology another name".to_owned(),
            });
        }
        return restart_changed(&last.run, wished, force);
    }
    refuse_if_unsafe(&view)?;
    let mut run = last.run;
    take_roles(&mut run, &view);
    run.max_loss_bytes = wished.max_loss_bytes;
    run.by = wished.by;
    (run.guard.deadline_ms, run.guard.restart) = (wished.guard.deadline_ms, wished.guard.restart);
    run.after_promote = wished.after_promote;
    for node in &mut run.nodes {
        let is_alive = view.node(&node.name).is_some_and(|seen| seen.is_alive());
        let wished = wished.nodes.iter().find(|wished| wished.name == node.name).map(|wished| &wished.server);
        match (&mut node.server, wished) {
            (Server::Managed(server), wished) => {
                server.process = server.process.take().filter(|_| is_alive);
                let wished = wished.and_then(|wished| match wished {
                    Server::Managed(wished) => Some(&wished.engine),
                    Server::Unmanaged(_) => None,
                });
                // The file has followed a rolling upgrade: it and the group agree again.
                if wished == Some(&server.engine) {
                    server.wished_engine = None;
                }
            }
            // A password may change without the topology's doing.
            (Server::Unmanaged(server), Some(Server::Unmanaged(wished))) => server.login = wished.login.clone(),
            (Server::Unmanaged(_), _) => {}
        }
    }
    Ok(run)
}

/// Roles as they are meant by now: a promotion that broke off counts as done where nothing speaks against it.
fn take_roles(run: &mut RunState, view: &GroupView) {
    let upstreams: BTreeMap<String, String> =
        view.nodes.iter().filter_map(|node| Some((node.name.clone(), node.meant_upstream.clone()?))).collect();
    if view.meant_master().name != run.master().name {
        run.set_roles(&view.meant_master().name, &upstreams);
    }
}

/// Whether two states come from the same topology; ports that were chosen by the system count as equal.
fn is_same_wish(last: &RunState, wished: &RunState) -> bool {
    let same_server = |last: &Server, wished: &Server| match (last, wished) {
        (Server::Managed(last), Server::Managed(wished)) => {
            last.is_meant_by(&wished.engine)
                && last.priority == wished.priority
                && last.config == wished.config
                && last.wished_port == wished.wished_port
        }
        (Server::Unmanaged(last), Server::Unmanaged(wished)) => last.address == wished.address,
        _ => false,
    };
    let same_node = |(last, wished): (&RunNode, &RunNode)| {
        last.name == wished.name
            && last.wished_upstream == wished.wished_upstream
            && same_server(&last.server, &wished.server)
    };
    last.links.is_some() == wished.links.is_some()
        && is_same_watch(last.sentinels.as_ref(), wished.sentinels.as_ref())
        && last.nodes.len() == wished.nodes.len()
        && last.nodes.iter().zip(&wished.nodes).all(same_node)
}

/// Whether two wishes for Sentinels are the same, whatever has become of them.
fn is_same_watch(last: Option<&RunSentinels>, wished: Option<&RunSentinels>) -> bool {
    match (last, wished) {
        (Some(last), Some(wished)) => {
            last.each.len() == wished.each.len()
                && RunSentinels { each: wished.each.clone(), ..last.clone() } == *wished
        }
        (None, None) => true,
        _ => false,
    }
}

/// A changed topology for a group that is down: the file rules, except that it may not quietly make another node the master
/// than the one whose data is newest.
fn restart_changed(last: &RunState, mut wished: RunState, force: bool) -> Result<RunState, GroupError> {
    let (was, becomes) = (&last.master().name, &wished.master().name);
    if was != becomes && !force {
        return Err(GroupError::Unsafe {
            reason: format!(
                "{was} was the master last, and the topology makes {becomes} the master: its older data would replace {was}'s"
            ),
            hint: "replctl down --wipe drops all data of the group; --force starts it as the file says".to_owned(),
        });
    }
    wished.guard =
        RunGuard { deadline_ms: wished.guard.deadline_ms, restart: wished.guard.restart, ..last.guard.clone() };
    for node in &mut wished.nodes {
        let last = last.node(&node.name);
        match (&mut node.server, last.map(|last| &last.server)) {
            (Server::Managed(server), Some(Server::Managed(last))) => {
                if server.port == 0 {
                    server.port = last.port;
                }
                // What a rolling upgrade replaced might not read the data of what replaced it.
                if last.engine != server.engine && last.is_meant_by(&server.engine) {
                    server.change_engine(last.engine.clone());
                }
            }
            (Server::Unmanaged(server), Some(Server::Unmanaged(last))) if server.address == last.address => {
                (server.run_id, server.unfenced) = (last.run_id.clone(), last.unfenced.clone());
            }
            _ => {}
        }
    }
    Ok(wished)
}

/// A master that is started again could have less than its living replicas. And whom a node is to follow is open while a node
/// that was being made the master does not say whether it is.
///
/// # Errors
/// [`GroupError::Unsafe`]: that is so, unless forced.
pub fn refuse_older_master(view: &GroupView, nodes: &[String], force: bool) -> Result<(), GroupError> {
    let master = view.meant_master();
    if !force {
        refuse_unsettled(view)?;
    }
    let others_live = view.nodes.iter().any(NodeView::is_alive);
    if force || master.is_alive() || !others_live || !nodes.contains(&master.name) {
        return Ok(());
    }
    let master = &master.name;
    Err(GroupError::Unsafe {
        reason: format!(
            "{master} is the master and its replicas live: if it came back with less than they have, they would lose it"
        ),
        hint: format!("replctl promote, then start {master} as a replica; --force starts it as the master"),
    })
}

fn refuse_unsettled(view: &GroupView) -> Result<(), GroupError> {
    let master = view.meant_master();
    if !view.is_disputed || !master.is_alive() || master.report().is_some() {
        return Ok(());
    }
    let master = &master.name;
    Err(GroupError::Unsafe {
        reason: format!(
            "a change of masters broke off, and {master}, which lives, does not say whether it is the master"
        ),
        hint: "replctl promote".to_owned(),
    })
}

/// `up` starts what is missing; it does not decide who is master. A dead master with living replicas is a failover's
/// business: started again, it could come back with less than its replicas have, and wipe them.
///
/// # Errors
/// [`GroupError::Unsafe`]: that is what the view shows.
pub fn refuse_if_unsafe(view: &GroupView) -> Result<(), GroupError> {
    refuse_unsettled(view)?;
    let diagnosis = diagnose(view);
    match diagnosis {
        Diagnosis::Down
        | Diagnosis::Healthy
        | Diagnosis::MasterLoading { .. }
        | Diagnosis::UnfencedMaster { .. }
        | Diagnosis::ReplicasUnreachable { .. }
        | Diagnosis::ReplicasLoading { .. }
        | Diagnosis::UnmanagedUnreachable { .. }
        | Diagnosis::ReplicasNeverSynced { .. }
        | Diagnosis::ReplicasStale { .. }
        | Diagnosis::LinksDown { .. } => Ok(()),
        _ => Err(GroupError::Unsafe {
            reason: diagnosis.to_string(),
            hint: diagnosis.hint().unwrap_or_else(|| "replctl status".to_owned()),
        }),
    }
}

/// Gives every node its port: the topology's, or the one it had, or a free one. A topology's port that somebody else
/// holds is an error; one that was chosen by the system is chosen anew.
fn assign_ports(run: &mut RunState, starts: impl Fn(&RunNode) -> bool) -> Result<(), GroupError> {
    let listeners = Listeners::read();
    let mut without = 0;
    for node in run.nodes.iter_mut().filter(|node| starts(node)) {
        let name = node.name.clone();
        let Some(server) = node.managed_mut() else { continue };
        if let Some(stranger) = listeners.on(server.port).filter(|_| server.port != 0) {
            if server.wished_port.is_some() {
                return Err(GroupError::PortTaken { node: name, stranger });
            }
            server.port = 0;
        }
        without += usize::from(server.port == 0);
    }
    let mut free = free_ports(without)?.into_iter();
    for server in run.nodes.iter_mut().filter(|node| starts(node)).filter_map(RunNode::managed_mut) {
        if server.port == 0 {
            server.port = free.next().expect("as many as are missing");
        }
    }
    Ok(())
}

/// Starts what the plan says and waits until every replica in it is linked and has caught up. Returns the group.
///
/// # Errors
/// A server dies, or not all is there within `limit`, or the user interrupts: then everything that this run started has been
/// ended again.
pub async fn up(
    dir: GroupDir,
    plan: LaunchPlan,
    limit: Duration,
    recorder: &mut Recorder,
) -> Result<Group, GroupError> {
    let command = plan.command.to_owned();
    recorder.record(Event::Began { command: command.clone() })?;
    let names: BTreeSet<String> = plan.actions.iter().map(|action| action.node.clone()).collect();
    let launch = Arc::new(Launch {
        dir,
        run: Mutex::new(plan.run),
        linked: plan.linked,
        started: Mutex::default(),
        programs: plan.programs,
        sentinels: plan.sentinels.into_iter().map(|action| action.node).collect(),
        sentinel_program: plan.sentinel_program,
        tails: Mutex::default(),
        display: recorder.display(),
    });
    // Should this be killed, the next command knows of the group, and finds what was started.
    launch.dir.save_run_state(&launch.run(), Durability::PageCache)?;
    let result = tokio::select! {
        result = launch.run_all(names, limit) => result,
        () = interruption() => Err(GroupError::Interrupted),
    };
    let result = match result {
        Ok(()) => launch.remember_whole().await,
        Err(error) => {
            launch.undo().await?;
            Err(error)
        }
    };
    for tail in std::mem::take(&mut *launch.tails.lock().unwrap_or_else(PoisonError::into_inner)) {
        recorder.record(Event::Tail { tail })?;
    }
    let error = result.as_ref().err().map(ToString::to_string);
    recorder.record(Event::Finished { command, error })?;
    result.map(|()| Group { dir: launch.dir.clone(), run: launch.run().clone() })
}

/// Every engine's program once.
fn find_programs<'a>(starts: impl Iterator<Item = &'a RunNode>) -> Result<Vec<(Engine, Program)>, GroupError> {
    let mut programs: Vec<(Engine, Program)> = Vec::new();
    for (node, server) in starts.filter_map(|node| Some((node, node.managed()?))) {
        if programs.iter().all(|(engine, _)| *engine != server.engine) {
            let program = Program::find(&server.engine)
                .map_err(|source| GroupError::Engine { node: node.name.clone(), source })?;
            programs.push((server.engine.clone(), program));
        }
    }
    Ok(programs)
}

/// Returns when the user interrupts: by Ctrl-C, SIGTERM, or the end of the terminal. In another program than `replctl` signals are
/// that program's, and it never does.
pub async fn interruption() {
    if !host::is_replctl() {
        return std::future::pending().await;
    }
    let signalled = async |kind| match tokio::signal::unix::signal(kind) {
        Ok(mut signal) => signal.recv().await,
        Err(_) => std::future::pending().await,
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = signalled(SignalKind::terminate()) => {}
        _ = signalled(SignalKind::hangup()) => {}
    }
}

/// How far a node is. What others wait for.
#[derive(Debug, Clone)]
enum Stage {
    Starting,
    Answering,
    /// It holds what its upstream holds; a master, as soon as it answers. What it says of its replicas, if it has any.
    Linked(Option<ReplicasOf>),
}

type Stages = BTreeMap<String, watch::Sender<Stage>>;

/// One run of `up`.
struct Launch {
    dir: GroupDir,
    run: Mutex<RunState>,
    /// The nodes whose links are waited for, and those above them.
    linked: BTreeSet<String>,
    /// What this run started, to be ended if it fails.
    started: Mutex<BTreeMap<String, Started>>,
    programs: Vec<(Engine, Program)>,
    sentinels: BTreeSet<String>,
    sentinel_program: Option<Program>,
    /// What nodes had that the group has not.
    tails: Mutex<Vec<TailReport>>,
    display: mpsc::UnboundedSender<Event>,
}

impl Launch {
    fn run(&self) -> MutexGuard<'_, RunState> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn started(&self) -> MutexGuard<'_, BTreeMap<String, Started>> {
        self.started.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn node(&self, name: &str) -> RunNode {
        self.run().node(name).expect("tasks are named after nodes").clone()
    }

    async fn run_all(self: &Arc<Self>, mut names: BTreeSet<String>, limit: Duration) -> Result<(), GroupError> {
        self.carry_links().await?;
        names.extend(self.linked.iter().cloned());
        let stages: Stages = names.iter().map(|name| (name.clone(), watch::Sender::new(Stage::Starting))).collect();
        let stages = Arc::new(stages);
        let versions = self.spawn_version_checks();
        let mut tasks = JoinSet::new();
        for name in names {
            let (launch, stages) = (Arc::clone(self), Arc::clone(&stages));
            tasks.spawn(async move { launch.bring_up(&name, &stages).await });
        }
        let all = async {
            while let Some(task) = tasks.join_next().await {
                task.expect("a node's task does not panic")?;
            }
            self.remember_versions(versions).await
        };
        let give_up = Instant::now() + limit;
        tokio::time::timeout(limit, all).await.unwrap_or_else(|_| {
            let pending = stages.iter().filter_map(|(name, stage)| match &*stage.borrow() {
                Stage::Starting => Some(format!("{name} (does not answer)")),
                Stage::Answering => Some(format!("{name} (has no link, or has not caught up)")),
                Stage::Linked(_) => None,
            });
            Err(GroupError::TimedOut { pending: pending.collect(), limit_ms: limit.as_millis() })
        })?;
        self.watch_over(give_up, limit).await
    }

    /// Lets the Sentinels watch what is there by now: started earlier, they would wait a second before they look again.
    async fn watch_over(&self, give_up: Instant, limit: Duration) -> Result<(), GroupError> {
        let Some(program) = &self.sentinel_program else { return Ok(()) };
        let (dir, run, started) = (&self.dir, &self.run, &self.started);
        let launch = SentinelLaunch { dir, run, started, display: &self.display, program };
        launch.bring_up(&self.sentinels, give_up, limit).await
    }

    /// Lets the links be carried, if the group's are, before anybody needs them.
    async fn carry_links(&self) -> Result<(), GroupError> {
        let mut run = self.run().clone();
        if run.links.is_none() {
            return Ok(());
        }
        if let Some(started) = link_faults::start(&self.dir, &mut run)? {
            self.started().insert(LINKS.to_owned(), started);
            self.dir.save_run_state(&run, Durability::PageCache)?;
        }
        link_faults::aim(&self.dir, &mut run).await?;
        self.dir.save_run_state(&run, Durability::PageCache)?;
        *self.run() = run;
        Ok(())
    }

    /// One node, from nothing (or from what runs) to linked.
    async fn bring_up(&self, name: &str, stages: &Stages) -> Result<(), GroupError> {
        let node = self.node(name);
        let upstream = node.upstream.clone().filter(|_| self.linked.contains(name));
        if let Some(upstream) = upstream.as_ref().filter(|_| starts_after_its_upstream(&node)) {
            await_linked(stages, upstream).await;
        }
        self.keep_tail(&node, stages).await?;
        let (process, client) = match &node.server {
            Server::Managed(server) => {
                let (process, client) = self.answering(&node, server).await?;
                (Some(process), client)
            }
            Server::Unmanaged(_) => (None, self.unmanaged(&node).await?),
        };
        stages[name].send_replace(Stage::Answering);
        self.show(Event::Ready { node: name.to_owned() });
        if let Some(upstream) = &upstream {
            let link = self.link(name, &client, upstream, stages);
            tokio::select! {
                linked = link => linked.map_err(|source| GroupError::Wire { node: name.to_owned(), source })?,
                death = death_of(process.as_ref()) => {
                    death?;
                    return Err(self.died(name));
                }
            }
        }
        let has_replicas = self.run().nodes.iter().any(|node| node.upstream.as_deref() == Some(name));
        stages[name].send_replace(Stage::Linked(has_replicas.then(|| watch_replicas(client))));
        Ok(())
    }

    /// Writes down what a node's backlog has beyond the group's history, before it starts as a replica and throws that away: it
    /// was a master once, and took writes that nobody else got. Only a repld leaves its stream in a file.
    async fn keep_tail(&self, node: &RunNode, stages: &Stages) -> Result<(), GroupError> {
        if node.process().is_some() || node.upstream.is_none() {
            return Ok(());
        }
        let KeptStream::Dead { replid, start, end, .. } = KeptStream::of(&self.dir, node, Condition::Dead) else {
            return Ok(());
        };
        if self.run().replid.as_deref() == Some(&*replid) {
            return Ok(());
        }
        let left_at = self.left_at(&replid, stages).await?;
        // Where it left the group's history is unknown: whatever it has may be its alone.
        let from = left_at.unwrap_or(start);
        if from < end {
            let tail = salvage::dead_tail(&self.dir, &node.name, from);
            let kept = tail::keep(&self.dir, &node.name, &replid, from..end, tail)?;
            self.tails.lock().unwrap_or_else(PoisonError::into_inner).extend(kept);
        }
        Ok(())
    }

    /// The offset up to which a history is the group's: what its master says, or else the promotion that ended it.
    async fn left_at(&self, replid: &str, stages: &Stages) -> Result<Option<u64>, GroupError> {
        let master = self.run().master().clone();
        let is = |former: &FormerHistory| former.replid.to_string() == replid;
        if let Some(stage) = stages.get(&master.name) {
            let mut stage = stage.subscribe();
            let answers = stage.wait_for(|stage| !matches!(stage, Stage::Starting)).await.is_ok();
            if answers && let Ok(own) = async { ping(&master).await?.replication().await }.await {
                if own.replid.to_string() == replid {
                    return Ok(Some(own.offset));
                }
                if let Some(former) = own.former.filter(is) {
                    return Ok(Some(former.shared_up_to));
                }
            }
        }
        let group = Group { dir: self.dir.clone(), run: self.run().clone() };
        Ok(group.former_histories()?.into_iter().rev().find(is).map(|former| former.shared_up_to))
    }

    /// Starts or adopts a node's process and waits until it answers.
    async fn answering(&self, node: &RunNode, server: &ManagedServer) -> Result<(LiveProcess, NodeClient), GroupError> {
        let name = node.name.as_str();
        if let Some(process) = server.process.as_ref() {
            self.show(Event::Adopted { node: name.to_owned(), pid: process.identity.pid });
            let live = LiveProcess::open(&process.identity)?.ok_or_else(|| self.died(name))?;
            return match self.await_answer(name, &live).await? {
                Some(client) => Ok((live, client)),
                None => Err(self.died(name)),
            };
        }
        loop {
            if let Some(live) = self.start(name)?
                && let Some(client) = self.await_answer(name, &live).await?
            {
                return Ok((live, client));
            }
            if !self.moves_to_another_port(name, server)? {
                return Err(self.died(name));
            }
            self.carry_links().await?;
        }
    }

    /// The connection to a server that is there without this; it may be loading its data.
    async fn unmanaged(&self, node: &RunNode) -> Result<NodeClient, GroupError> {
        loop {
            match ping(node).await {
                Ok(client) => return Ok(client),
                Err(error) if error.is_loading() => tokio::time::sleep(CONNECT_EVERY).await,
                Err(source) => return Err(GroupError::Wire { node: node.name.clone(), source }),
            }
        }
    }

    /// Somebody may have taken a port between its choice and the server's bind, be it for the near end of a connection, which
    /// nobody sees listening. Then the node gets another one, once, and only if the port was ours to choose.
    fn moves_to_another_port(&self, name: &str, was: &ManagedServer) -> Result<bool, GroupError> {
        let is_taken = || {
            let says_so = |line: &String| line.contains("Address already in use");
            Listeners::read().on(was.port).is_some()
                || log_tail(&self.dir.log_file(name), QUOTED_LINES).iter().any(says_so)
        };
        let mut run = self.run();
        let Some(now) = run.node_mut(name).and_then(RunNode::managed_mut) else { return Ok(false) };
        let is_first_time = now.port == was.port;
        if was.wished_port.is_some() || !is_first_time || !is_taken() {
            return Ok(false);
        }
        now.port = free_ports(1)?[0];
        Ok(true)
    }

    /// Spawns a node's process and remembers it, before anything else can go wrong. `None`: it has ended already.
    fn start(&self, name: &str) -> Result<Option<LiveProcess>, GroupError> {
        let node = self.node(name);
        let server = node.managed().expect("only managed nodes are started");
        self.write_config(name)?;
        let (_, program) = self.programs.iter().find(|(engine, _)| *engine == server.engine).expect("all were found");
        let started = spawn(program, &self.dir, name)?;
        let identity = started.identity.clone();
        self.started().insert(name.to_owned(), started);
        {
            let mut run = self.run();
            let process =
                RunProcess { identity: identity.clone(), program: program.path.clone(), version: String::new() };
            let server = run.node_mut(name).and_then(RunNode::managed_mut);
            server.expect("tasks are named after nodes, and only managed ones are started").process = Some(process);
            self.dir.save_run_state(&run, Durability::PageCache)?;
        }
        self.show(Event::Spawned { node: name.to_owned(), pid: identity.pid, port: server.port });
        Ok(LiveProcess::open(&identity)?)
    }

    fn write_config(&self, name: &str) -> Result<(), GroupError> {
        let run = self.run();
        let node = run.node(name).expect("tasks are named after nodes");
        Ok(save_config(&self.dir, &run, node)?)
    }

    /// Waits until the server answers a PING; `None` if its process ends instead. Somebody else may answer on its port: it was
    /// faster, and the process is about to find that out and to end.
    async fn await_answer(&self, name: &str, process: &LiveProcess) -> Result<Option<NodeClient>, GroupError> {
        let node = self.node(name);
        let pid = process.identity().pid;
        let answer = async {
            loop {
                match ping_from(&node, pid).await {
                    Ok(Some(client)) => return Ok(client),
                    Ok(None) => tokio::time::sleep(CONNECT_EVERY).await,
                    Err(error) if may_still_come(&error) => tokio::time::sleep(CONNECT_EVERY).await,
                    Err(source) => return Err(GroupError::Wire { node: name.to_owned(), source }),
                }
            }
        };
        tokio::select! {
            biased;
            death = process.death() => death.map(|()| None).map_err(GroupError::from),
            client = answer => client.map(Some),
        }
    }

    /// Waits for a replica's link, after telling it where its upstream is if it thinks otherwise.
    async fn link(&self, name: &str, client: &NodeClient, upstream: &str, stages: &Stages) -> Result<(), WireError> {
        let replicas_of = await_linked(stages, upstream).await;
        let above = endpoint(&self.node(upstream));
        let own = client.replication().await?;
        let follows = own.upstream().map(|upstream| upstream.address().seen_from(client.address()));
        let is_right = |follows: &Address| follows.is_same(&above.announced) || follows.is_same(&above.address);
        if !follows.as_ref().is_some_and(is_right) {
            match follows {
                None if self.node(name).unmanaged().is_some() => self.take_back(name, client, &above).await?,
                _ => client.follow(&above.announced).await?,
            }
            // Its file names the port that its upstream had when it was written.
            let _ = self.write_config(name);
        }
        await_link(name, client, replicas_of, &self.display).await.map(drop)
    }

    /// Makes a replica of a server that takes writes, as it is meant to be one.
    async fn take_back(&self, name: &str, client: &NodeClient, above: &Endpoint) -> Result<(), WireError> {
        let above = NodeClient::connect(above, RESPONSE_LIMIT).await?;
        let node = self.node(name);
        let unfenced = node.unmanaged().and_then(|server| server.unfenced.as_ref());
        let (diverged, tails) = unmanaged::demote(&self.dir, name, unfenced, client, &above).await?;
        self.tails.lock().unwrap_or_else(PoisonError::into_inner).extend(tails);
        self.show(Event::Warning { text: format!("{name} took writes and is a replica now; {}", diverged.words()) });
        unmanaged::keep_role(client).await;
        Ok(())
    }

    fn died(&self, name: &str) -> GroupError {
        GroupError::died(&self.dir, name, self.started().get_mut(name))
    }

    fn show(&self, event: Event) {
        let _ = self.display.send(event);
    }

    /// Asks every engine for its version, beside everything else.
    fn spawn_version_checks(&self) -> JoinSet<Result<(Engine, String), GroupError>> {
        let mut versions = JoinSet::new();
        for (engine, program) in self.programs.clone() {
            let is_its = |node: &&RunNode| node.managed().is_some_and(|server| server.engine == engine);
            let node = self.run().nodes.iter().find(is_its).map(|node| node.name.clone());
            versions.spawn(async move {
                let version = program.version().await;
                let node = node.unwrap_or_default();
                version.map(|version| (engine, version)).map_err(|source| GroupError::Engine { node, source })
            });
        }
        versions
    }

    async fn remember_versions(
        &self,
        mut versions: JoinSet<Result<(Engine, String), GroupError>>,
    ) -> Result<(), GroupError> {
        while let Some(version) = versions.join_next().await {
            let (engine, version) = version.expect("asking for a version does not panic")?;
            let started = self.started();
            for node in self.run().nodes.iter_mut().filter(|node| started.contains_key(&node.name)) {
                let server = node.managed_mut().filter(|server| server.engine == engine);
                if let Some(process) = server.and_then(|server| server.process.as_mut()) {
                    process.version.clone_from(&version);
                }
            }
        }
        Ok(())
    }

    /// Notes the history that the whole group now shares, and makes the run state durable.
    async fn remember_whole(&self) -> Result<(), GroupError> {
        let master = self.run().master().clone();
        if !self.linked.contains(&master.name) {
            return Ok(self.dir.save_run_state(&self.run(), Durability::Disk)?);
        }
        let replication = async { ping(&master).await?.replication().await }.await;
        let replication = replication.map_err(|source| GroupError::Wire { node: master.name, source })?;
        let group = Group { dir: self.dir.clone(), run: self.run().clone() };
        let has_unmanaged = group.run.nodes.iter().any(|node| node.unmanaged().is_some());
        let seen = if has_unmanaged { Some(observe(&group).await?.0) } else { None };
        let mut run = self.run();
        run.replid = Some(replication.replid.to_string());
        if let Some(view) = seen {
            unmanaged::recognise(&mut run, &view);
        }
        Ok(self.dir.save_run_state(&run, Durability::Disk)?)
    }

    /// Ends what this run has started, and forgets it.
    async fn undo(&self) -> Result<(), GroupError> {
        let started: Vec<_> =
            self.started().iter().map(|(name, started)| (name.clone(), started.identity.clone())).collect();
        let names: Vec<String> = started.iter().map(|(name, _)| name.clone()).collect();
        end_processes(started, None).await?;
        let mut run = self.run();
        if let Some(links) = run.links.as_mut().filter(|_| names.iter().any(|name| name == LINKS)) {
            links.process = None;
        }
        for name in &names {
            if let Some(process) = run.process_mut(name) {
                *process = None;
            }
        }
        Ok(self.dir.save_run_state(&run, Durability::PageCache)?)
    }
}

fn starts_after_its_upstream(node: &RunNode) -> bool {
    node.managed().is_some_and(|server| server.process.is_none() && server.engine.family != EngineFamily::Repld)
}

/// Waits until an upstream is linked itself; returns what it says of its replicas.
async fn await_linked(stages: &Stages, upstream: &str) -> ReplicasOf {
    let mut stage = stages[upstream].subscribe();
    let linked = stage.wait_for(|stage| matches!(stage, Stage::Linked(_))).await;
    match linked.as_deref() {
        Ok(Stage::Linked(Some(replicas_of))) => replicas_of.clone(),
        _ => unreachable!("stages outlive tasks, and who is waited for has replicas"),
    }
}

/// Waits for a process's end; for ever, where there is none to watch.
async fn death_of(process: Option<&LiveProcess>) -> io::Result<()> {
    match process {
        Some(process) => process.death().await,
        None => std::future::pending().await,
    }
}

/// A password file's first line.
///
/// # Errors
/// The file cannot be read, is no text, or empty.
pub fn read_password(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(PASSWORD_FILE_BYTES_MAX).read_to_string(&mut text)?;
    match text.lines().next().filter(|line| !line.is_empty()) {
        Some(line) => Ok(line.to_owned()),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "its first line is empty")),
    }
}

async fn ping(node: &RunNode) -> Result<NodeClient, WireError> {
    let client = NodeClient::connect(&endpoint(node), RESPONSE_LIMIT).await?;
    client.command(&["PING"]).await?;
    Ok(client)
}

/// The same, of one process; `None`: another one answers.
async fn ping_from(node: &RunNode, pid: u32) -> Result<Option<NodeClient>, WireError> {
    let client = ping(node).await?;
    Ok((client.report().await?.process_id == pid).then_some(client))
}

/// Whether a server that starts may say this before it is ready.
fn may_still_come(error: &WireError) -> bool {
    error.is_loading() || matches!(error, WireError::Refused(_) | WireError::Closed)
}
