//! One drill, from nothing to its report: a group of its own, writers, steps, and what is there afterwards.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::account::{self, Account};
use super::contents::{self, Contents};
use super::course::{Course, Place, Watcher};
use super::history::{History, Outcome, Request};
use super::linear::{self, Call, Linearizable, linearizable};
use super::load::{DEADLINE_MAX, Writers};
use super::overhead::LinkOverhead;
use super::stage::Stage;
use super::timing::{Latencies, Outage, Span, micros};
use super::verdict::{DrillReport, Findings, NodeEnd, NodeState, Registers, Verdict};
use crate::event::Recorder;
use crate::group::{
    self, Answer, Clients, Group, GroupError, GroupView, LaunchPlan, NodeView, Resync, endpoint, resync_by_log,
};
use crate::process::launch::{log_length, text_since};
use crate::process::{Condition, GroupDir, GroupLock, LiveProcess, launched};
use crate::topology::{By, Drill, Topology, Workload};
use crate::wire::{Endpoint, Link, NodeClient, WireError};

/// How long the group may take to be up.
const UP_LIMIT: Duration = Duration::from_secs(30);
/// How long the first writes may take to be acknowledged.
const FIRST_WRITES_LIMIT: Duration = Duration::from_secs(5);
/// For how long writes go on after the last step, once they flow again.
const AFTERWARDS: Duration = Duration::from_millis(500);
/// How long they may take to flow again.
const FLOW_LIMIT: Duration = Duration::from_secs(5);
/// How long the nodes may take to be level when nobody writes any more.
const LEVEL_LIMIT: Duration = Duration::from_secs(10);
/// How long one answer may take when data are read back.
const READ_LIMIT: Duration = Duration::from_secs(10);
/// How long a server may take to end by itself.
const END_PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks.
const POLL_EVERY: Duration = Duration::from_millis(5);

/// A drill that was done.
#[derive(Debug)]
pub struct Rehearsal {
    /// What was found, and what follows.
    pub report: DrillReport,
    /// What the writers did and were told.
    pub history: History,
    /// What the node whose data count held at the end, if it could be read.
    pub held: Option<Contents>,
    /// What the nodes did meanwhile.
    pub course: Course,
}

/// Rehearses a drill with a group of its own in `dir`, whose topology must be one for drills ([`Topology::for_drill`]), and ends that group whatever happens, unless it is to be kept. With
/// `keep` it runs on when the drill is done, and only then. Its files stay until the lock's owner removes them.
///
/// # Errors
/// The group cannot be started or observed, or a process cannot be ended, or the user interrupts. That a step fails is a
/// finding.
pub async fn run(
    topology: &Topology,
    drill: &Drill,
    seed: u64,
    (dir, lock, keep): (&GroupDir, &GroupLock, bool),
    recorder: &mut Recorder,
) -> Result<Rehearsal, GroupError> {
    let _guard = EndOnPanic(dir);
    let rehearsed = tokio::select! {
        rehearsed = rehearse(topology, drill, seed, (dir, lock), recorder) => rehearsed,
        () = group::interruption() => Err(GroupError::Interrupted),
    };
    // Should the guard be in the middle of something, that is ended with it.
    lock.retake()?;
    if !(keep && rehearsed.is_ok()) {
        match Group::open(dir.clone()) {
            Ok(group) => drop(group::down(group, lock, false, END_PATIENCE, recorder).await?),
            // It was interrupted before anything was noted, but not before anything was started.
            Err(_) => drop(group::end_strays(dir, Duration::ZERO).await?),
        }
    }
    rehearsed
}

/// Ends a drill's processes where nobody else will any more.
struct EndOnPanic<'a>(&'a GroupDir);

impl Drop for EndOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (_, identity) in launched(self.0).unwrap_or_default() {
                if let Ok(Some(process)) = LiveProcess::open(&identity) {
                    let _ = process.signal(Signal::KILL);
                }
            }
        }
    }
}

/// Rehearses a drill with a group that is up and whole, and leaves it as the drill does. Keys of a drill before are removed; the
/// group's own stay. What processes serve it afterwards is in its directory.
///
/// # Errors
/// The group cannot be observed. That a step fails is a finding.
pub async fn run_on(group: Group, drill: &Drill, seed: u64, recorder: &mut Recorder) -> Result<Rehearsal, GroupError> {
    let master = group.run.master();
    let removed = async {
        let client = NodeClient::connect(&endpoint(master), READ_LIMIT).await?;
        contents::remove(&client).await
    };
    removed.await.map_err(|source| GroupError::Wire { node: master.name.clone(), source })?;
    rehearse_on(group, drill, seed, None, recorder).await
}

/// Starts a group in `dir`, rehearses the drill with it, and leaves it running.
async fn rehearse(
    topology: &Topology,
    drill: &Drill,
    seed: u64,
    (dir, lock): (&GroupDir, &GroupLock),
    recorder: &mut Recorder,
) -> Result<Rehearsal, GroupError> {
    let started = Instant::now();
    let plan = LaunchPlan::new(dir, topology, false).await?;
    let mut group = group::up(dir.clone(), plan, UP_LIMIT, recorder).await?;
    let is_guarded = group.run.by == By::Guard;
    if is_guarded {
        group::start_guard(&mut group).await?;
    }
    let mut rehearsal = rehearse_on(group, drill, seed, is_guarded.then_some(lock), recorder).await?;
    rehearsal.report.took_us = micros(started.elapsed());
    Ok(rehearsal)
}

/// With `shared` the group's guard holds its lock as well, whenever no step does.
async fn rehearse_on(
    group: Group,
    drill: &Drill,
    seed: u64,
    shared: Option<&GroupLock>,
    recorder: &mut Recorder,
) -> Result<Rehearsal, GroupError> {
    let started = Instant::now();
    let link_overhead = LinkOverhead::measure(&group).await?;
    let log_marks = log_marks(&group);
    let began = Instant::now();
    let nodes: Vec<(String, Endpoint)> =
        group.run.nodes.iter().map(|node| (node.name.clone(), endpoint(node))).collect();
    let watcher = Watcher::start(nodes.clone(), began)?;
    let writers = Writers::start(drill.load, nodes, began, seed)?;
    await_acknowledged(&writers, u64::from(drill.load.writers), FIRST_WRITES_LIMIT).await;

    let before = group.run.nodes.iter().map(|node| Place {
        node: node.name.clone(),
        upstream: node.upstream.clone(),
        state: if node.upstream.is_none() { NodeState::Master } else { NodeState::Replica },
    });
    let mut course = Course { before: before.collect(), ..Course::default() };
    let mut stage = Stage::new(group, shared, began)?;
    for step in &drill.steps {
        tokio::time::sleep(step.after).await;
        if !stage.perform(&step.act, recorder).await {
            break;
        }
    }
    await_acknowledged(&writers, writers.acknowledged() + u64::from(drill.load.writers), FLOW_LIMIT).await;
    tokio::time::sleep(AFTERWARDS).await;
    let load_end = began.elapsed();
    let history = writers.finish().await;
    stage.free_cpu();
    course.length = load_end;
    course.offsets = watcher.finish().await;
    if drill.load.workload == Workload::Mixed {
        tokio::time::sleep(DEADLINE_MAX).await;
    }
    stage.hold().await?;
    let group = stage.group.clone();
    let (mut findings, held) = find(drill, stage, &history, load_end, &log_marks, &mut course).await?;
    findings.link_overhead = link_overhead;
    course.logs = logs(&group, &log_marks);
    let verdict = Verdict::of(&findings);
    let report = DrillReport { drill: drill.name.clone(), seed, verdict, findings, took_us: micros(started.elapsed()) };
    Ok(Rehearsal { report, history, held, course })
}

async fn await_acknowledged(writers: &Writers, count: u64, limit: Duration) {
    let deadline = Instant::now() + limit;
    while writers.acknowledged() < count && Instant::now() < deadline {
        tokio::time::sleep(POLL_EVERY).await;
    }
}

fn log_marks(group: &Group) -> BTreeMap<String, u64> {
    let mark = |node: &String| log_length(&group.dir.log_file(node));
    group.run.nodes.iter().map(|node| (node.name.clone(), mark(&node.name))).collect()
}

/// What every node has logged since then.
fn logs(group: &Group, log_marks: &BTreeMap<String, u64>) -> Vec<(String, Vec<String>)> {
    let since = |name: &String| text_since(&group.dir.log_file(name), log_marks.get(name).copied().unwrap_or(0));
    let lines = |name: &String| since(name).lines().map(str::to_owned).collect();
    group.run.nodes.iter().map(|node| (node.name.clone(), lines(&node.name))).collect()
}

async fn find(
    drill: &Drill,
    stage: Stage<'_>,
    history: &History,
    load_end: Duration,
    log_marks: &BTreeMap<String, u64>,
    course: &mut Course,
) -> Result<(Findings, Option<Contents>), GroupError> {
    let (view, clients, not_level) = await_level(&stage.group).await?;
    let contents = read_back(&stage.group, &clients).await;
    let masters: Vec<String> =
        view.nodes.iter().filter(|node| node.is_answering_master()).map(|node| node.name.clone()).collect();
    let reference = reference(&view, &contents);
    let held = reference.and_then(|name| contents.get(name)?.as_ref().ok());
    let empty = Contents::default();
    let never = Span { from: Duration::MAX, to: Duration::MAX };
    let steps = stage.span().unwrap_or(never);
    let disturbances = stage.disturbances(load_end);
    let first_disturbance = disturbances.first().map_or(Duration::ZERO, |span| span.from);
    let was_under_load = disturbances.iter().map(|span| span.has_met_load(history)).reduce(|a, b| a || b);
    let nodes: Vec<NodeEnd> =
        view.nodes.iter().map(|node| node_end(&stage.group, node, &contents, log_marks)).collect();
    course.after = nodes.iter().zip(&view.nodes).map(|(end, node)| place(&view, end, node)).collect();
    let findings = Findings {
        load: drill.load,
        expect: drill.expect.clone(),
        account: account_of(drill.load.workload, history, held.unwrap_or(&empty)),
        registers: (drill.load.workload == Workload::Register)
            .then(|| registers_of(history, held.unwrap_or(&empty), load_end)),
        outage: Outage::of(history, drill.load.writers, first_disturbance, load_end),
        latency: Latencies::of(history, steps),
        divergence: reference.zip(held).and_then(|(name, held)| {
            let read = contents.iter().filter_map(|(node, read)| Some((node, read.as_ref().ok()?)));
            read.filter(|(node, _)| *node != name).find_map(|(node, own)| own.divergence(node, held, name))
        }),
        not_level: not_level.or_else(|| unread(&contents)),
        nodes,
        masters,
        was_under_load,
        link_overhead: None,
        steps: stage.steps,
        claims: stage.claims,
    };
    let held = held.cloned();
    Ok((findings, held))
}

/// Where a node is at the end: it may follow another one than it is meant to.
fn place(view: &GroupView, end: &NodeEnd, node: &NodeView) -> Place {
    let upstream = match node.report() {
        Some(_) => view.followed_by(node).map(|upstream| upstream.name.clone()),
        None => node.meant_upstream.clone(),
    };
    Place { node: end.node.clone(), upstream, state: end.state }
}

/// Waits until every replica that runs has all that the master has, if there is one. The words say who has not.
async fn await_level(group: &Group) -> Result<(GroupView, Clients, Option<String>), GroupError> {
    let deadline = Instant::now() + LEVEL_LIMIT;
    loop {
        let (view, clients) = group::observe(group).await?;
        let not_level = view.nodes.iter().find_map(|node| why_not_level(&view, node));
        if not_level.is_none() || Instant::now() > deadline {
            return Ok((view, clients, not_level));
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

fn why_not_level(view: &GroupView, node: &NodeView) -> Option<String> {
    let master = view.nodes.iter().find(|node| node.is_answering_master())?.report()?;
    let is_away = matches!(node.condition(), Some(Condition::Dead | Condition::Stopped));
    let Some(report) = node.report() else {
        return (!is_away).then(|| format!("{} does not answer: {}", node.name, node.silence()));
    };
    let own = &report.replication;
    let upstream = own.upstream()?;
    if upstream.link != Link::Up {
        return Some(format!("{} has no link to {}", node.name, upstream.address()));
    }
    if own.replid != master.replication.replid {
        return Some(format!("{} is of another history than the master", node.name));
    }
    let (has, should) = (own.offset, master.replication.offset);
    (has != should).then(|| format!("{} is at offset {has}, its master at {should}", node.name))
}

type AllContents = BTreeMap<String, Result<Contents, WireError>>;

async fn read_back(group: &Group, clients: &Clients) -> AllContents {
    let mut all = AllContents::new();
    for node in group.run.nodes.iter().filter(|node| clients.contains_key(&node.name)) {
        let read = async { Contents::read(&NodeClient::connect(&endpoint(node), READ_LIMIT).await?).await };
        all.insert(node.name.clone(), read.await);
    }
    all
}

fn unread(contents: &AllContents) -> Option<String> {
    contents.iter().find_map(|(node, read)| Some(format!("{node} cannot be read: {}", read.as_ref().err()?)))
}

/// The node whose data count: the master that the group means, else any, else who has most.
fn reference<'a>(view: &'a GroupView, contents: &AllContents) -> Option<&'a str> {
    let can_be_read = |node: &&NodeView| matches!(contents.get(&node.name), Some(Ok(_)));
    let meant = Some(view.meant_master()).filter(|node| node.is_answering_master()).filter(can_be_read);
    let any = || view.nodes.iter().filter(can_be_read).find(|node| node.is_answering_master());
    let offset = |node: &&NodeView| node.report().map_or(0, |report| report.replication.offset);
    let newest = || view.nodes.iter().filter(can_be_read).max_by_key(offset);
    meant.or_else(any).or_else(newest).map(|node| node.name.as_str())
}

fn account_of(workload: Workload, history: &History, held: &Contents) -> Option<Account> {
    match workload {
        Workload::Set => Some(account::of_keys(history, &held.numbers)),
        Workload::Append => Some(account::of_lists(history, &held.lists)),
        Workload::Counter => Some(account::of_counters(history, &held.counters)),
        Workload::Register | Workload::Mixed => None,
    }
}

/// The registers, each with a last read of what it holds at the end.
fn registers_of(history: &History, held: &Contents, load_end: Duration) -> Registers {
    let mut calls: BTreeMap<u32, Vec<Call>> = BTreeMap::new();
    for operation in &history.operations {
        let (register, action, returned) = match (operation.request, operation.outcome) {
            (Request::Write { register, number }, Outcome::Acknowledged { at, .. }) => {
                (register, linear::Action::Write(number), Some(at))
            }
            (Request::Write { register, number }, Outcome::Ambiguous) => {
                (register, linear::Action::Write(number), None)
            }
            (Request::Read { register }, Outcome::Acknowledged { at, answer }) => {
                (register, linear::Action::Read(answer), Some(at))
            }
            _ => continue,
        };
        calls.entry(register).or_default().push(Call { action, invoked: operation.invoked, returned });
    }
    let mut registers = Registers { count: calls.len(), ..Registers::default() };
    let last = calls.values().flatten().filter_map(|call| call.returned).max().unwrap_or(load_end);
    for (register, mut calls) in calls {
        let value = held.registers.get(&register).copied().unwrap_or(0);
        let (invoked, returned) = (last + Duration::from_secs(1), Some(last + Duration::from_secs(2)));
        calls.push(Call { action: linear::Action::Read(value), invoked, returned });
        match linearizable(&calls, 0) {
            Linearizable::Yes => {}
            Linearizable::No => registers.violations.push(register),
            Linearizable::Unknown => registers.unknown.push(register),
        }
    }
    registers
}

fn node_end(group: &Group, node: &NodeView, contents: &AllContents, log_marks: &BTreeMap<String, u64>) -> NodeEnd {
    let state = match (&node.answer, node.condition()) {
        (Answer::Report(report), _) if report.replication.is_master() => NodeState::Master,
        (Answer::Report(_), _) => NodeState::Replica,
        (_, Some(Condition::Stopped)) => NodeState::Paused,
        (_, Some(Condition::Dead)) => NodeState::Dead,
        _ => NodeState::Silent,
    };
    let launched = group.run.node(&node.name).and_then(|node| node.managed());
    let engine = launched.map_or_else(String::new, |server| {
        let version = server.process.as_ref().map(|process| format!(" {}", process.version));
        format!("{}{}", server.engine.family.name(), version.unwrap_or_default())
    });
    let mark = log_marks.get(&node.name).copied().unwrap_or(0);
    let resync = Some(resync_by_log(&group.dir.log_file(&node.name), mark))
        .filter(|resync| state == NodeState::Replica && *resync != Resync::Unknown);
    let keys = contents.get(&node.name).and_then(|read| read.as_ref().ok()).map(Contents::len);
    let offset = node.report().map(|report| report.replication.offset);
    NodeEnd { node: node.name.clone(), state, engine, resync, offset, keys }
}
