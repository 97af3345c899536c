//! Servers that replctl did not start: who they are, what is refused for them, how one is kept from taking writes.
//!
//! Their processes are nobody's business here: they may be on another machine. One is known by its run id (random at
//! every start) at its address. Another run id means that it was restarted, or that a stranger answers:
//!
//! ```text
//! run id      history, data                         it is
//! recorded    whatever                              the node
//! another     none, or of the group, or it follows  the node, restarted
//! another     data of another history               a stranger: left alone; where an old master could not be
//!                                                   fenced it may be that: demoted by force only
//! ```
//!
//! What cannot be killed is fenced by the wire: its writes are held back, it is told to follow, and only then does
//! another node become the master. One that does not answer cannot be fenced; that is noted, and made good when it returns.
//!
//! Source: <https://redis.io/docs/latest/commands/client-pause/>, `REPLICAOF`, `INFO`.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::pause::WritePause;
use super::tail::{self, Tail, TailReport};
use super::view::{Answer, GroupView, NodeView};
use super::{Group, GroupError, Refusal};
use crate::process::{GroupDir, RunState, Unfenced};
use crate::wire::{Link, NodeClient, NodeReport, Replication, ReplicationId, WireError};

/// How long a replica may take to read what its master has, once that takes no more writes.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);
/// Between two looks.
const POLL_EVERY: Duration = Duration::from_millis(1);

/// What replctl does to processes of its own only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Untouchable {
    /// SIGKILL
    Kill,
    /// SIGSTOP
    Pause,
    /// SIGCONT
    Resume,
    /// A new process.
    Start,
    /// SIGTERM and a new process.
    Restart,
}

impl Diverged {
    /// What it is, in words.
    pub fn words(&self) -> String {
        let Self { node, bytes, keys, .. } = self;
        match bytes {
            Some(0) => format!("{node} had nothing of its own"),
            Some(bytes) => {
                format!("{node} had {bytes} bytes of its own beyond what its new master has: dropped")
            }
            None if *keys == 0 => format!("{node} came back empty"),
            None => format!("{node} had {} of a history of its own: dropped", counted(*keys)),
        }
    }
}

fn counted(keys: u64) -> String {
    if keys == 1 { "1 key".to_owned() } else { format!("{keys} keys") }
}

impl Untouchable {
    fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Start => "start",
            Self::Restart => "restart",
        }
    }

    fn instead(self, node: &NodeAt<'_>) -> String {
        let NodeAt { name, place } = node;
        match self {
            Self::Kill => format!("end it where it runs ({place}), or ask it to: replctl cli {name} SHUTDOWN NOSAVE"),
            Self::Pause => {
                format!("stop it where it runs ({place}); replctl cli {name} CLIENT PAUSE 10000 holds it back")
            }
            Self::Resume => format!("let it go on where it runs ({place})"),
            Self::Start => format!("start it where it runs ({place}); replctl up then lets it follow"),
            Self::Restart => format!("restart it where it runs ({place}), a master after replctl switchover"),
        }
    }
}

struct NodeAt<'a> {
    name: &'a str,
    place: String,
}

/// Refuses to do to nodes what is done to processes, if any of them is not managed.
///
/// # Errors
/// [`GroupError::Unmanaged`] names the first that is not; or there is no such node.
pub fn refuse_unmanaged(group: &Group, nodes: &[String], what: Untouchable) -> Result<(), GroupError> {
    for name in nodes.iter().filter(|name| group.run.sentinel(name).is_none()) {
        let node = group.run.node(name).ok_or_else(|| Refusal::NoSuchNode(name.clone()))?;
        if let Some(server) = node.unmanaged() {
            let hint = what.instead(&NodeAt { name, place: server.address.to_string() });
            return Err(GroupError::Unmanaged { node: name.clone(), what: what.name(), hint });
        }
    }
    Ok(())
}

/// The histories that are the group's: the recorded one, those of nodes whose identity is certain, and those of old masters
/// that could not be fenced.
fn histories(view: &GroupView) -> Vec<ReplicationId> {
    let mut histories: Vec<ReplicationId> = view.recorded_replid.iter().cloned().collect();
    for node in &view.nodes {
        if let Some(report) = node.report().filter(|_| !node.was_restarted()) {
            histories.push(report.replication.replid.clone());
            histories.extend(report.replication.former.iter().map(|former| former.replid.clone()));
        }
        histories.extend(node.unfenced().and_then(|unfenced| ReplicationId::parse(&unfenced.replid)));
    }
    histories
}

/// Takes the reports of strangers out of a view; returns the nodes at whose addresses they answer.
pub(super) fn mark_strangers(view: &mut GroupView) -> Vec<String> {
    let histories = histories(view);
    let is_ours = |node: &NodeView, report: &NodeReport| {
        is_known(report, &histories) || node.unfenced().is_some() || view.followed_by(node).is_some()
    };
    let is_stranger =
        |node: &NodeView| node.was_restarted() && node.report().is_some_and(|report| !is_ours(node, report));
    let strangers: Vec<usize> = (0..view.nodes.len()).filter(|index| is_stranger(&view.nodes[*index])).collect();
    let mut names = Vec::new();
    for index in strangers {
        let node = &mut view.nodes[index];
        if let Answer::Report(report) = &node.answer {
            node.answer = Answer::Stranger { report: report.clone() };
            names.push(node.name.clone());
        }
    }
    names
}

/// How much of a history a node has; `None`: it is of another one.
fn share_of(own: &Replication, history: &ReplicationId) -> Option<u64> {
    if own.replid == *history {
        return Some(own.offset);
    }
    own.former.as_ref().filter(|former| former.replid == *history).map(|former| former.shared_up_to)
}

/// Whether a master was restarted by somebody and came back with less than its replicas hold, who would lose it by
/// following.
pub(super) fn came_back_with_less(view: &GroupView, master: &NodeView) -> bool {
    let (Some(report), Some(recorded)) = (master.report().filter(|_| master.was_restarted()), &view.recorded_replid)
    else {
        return false;
    };
    let of_history = view.nodes.iter().filter_map(|node| node.report().map(|report| &report.replication));
    let of_history = of_history.filter(|own| own.upstream().is_some_and(|upstream| upstream.holds_data));
    let most = of_history.filter(|own| own.replid == *recorded).map(|own| own.offset).max();
    most.is_some_and(|most| share_of(&report.replication, recorded).is_none_or(|share| share < most))
}

/// The nodes that take writes beside the group's master, because they came back by themselves: old masters that nobody
/// could fence, and replicas that were restarted as masters. What a person promoted is none.
pub(super) fn returned_masters(view: &GroupView) -> Vec<String> {
    let returned = view.nodes.iter().filter(|node| {
        node.is_answering_master()
            && node.meant_upstream.is_some()
            && (node.unfenced().is_some() || node.was_restarted())
    });
    returned.map(|node| node.name.clone()).collect()
}

/// Those of these nodes that have data of a history that nobody knows: restarted without what they had, or strangers.
pub(super) fn of_unknown_history(view: &GroupView, nodes: &[String]) -> Vec<String> {
    let histories = histories(view);
    let is_unknown = |name: &&String| {
        let node = view.node(name).filter(|node| node.was_restarted());
        node.and_then(NodeView::report).is_some_and(|report| !is_known(report, &histories))
    };
    nodes.iter().filter(is_unknown).cloned().collect()
}

/// Whether a server is of one of these histories, or has no data of any.
fn is_known(report: &NodeReport, histories: &[ReplicationId]) -> bool {
    let own = &report.replication;
    report.keys == 0
        || histories.contains(&own.replid)
        || own.former.as_ref().is_some_and(|former| histories.contains(&former.replid))
}

/// Notes the run ids of servers that are the group's for certain: the master with all that its replicas have, and replicas
/// that follow as they are meant to. Returns whether anything is new.
pub(super) fn recognise(run: &mut RunState, view: &GroupView) -> bool {
    let mut is_new = false;
    for node in &mut run.nodes {
        let Some((seen, report)) = view.node(&node.name).and_then(|seen| Some((seen, seen.report()?))) else {
            continue;
        };
        let Some(server) = node.unmanaged_mut() else { continue };
        let is_certain = match report.replication.upstream() {
            None => seen.meant_upstream.is_none() && !came_back_with_less(view, seen),
            Some(upstream) => {
                let followed = view.followed_by(seen).map(|followed| &followed.name);
                upstream.link == Link::Up && followed.is_some() && followed == seen.meant_upstream.as_ref()
            }
        };
        let fenced = is_certain && server.unfenced.is_some();
        if is_certain && (fenced || server.run_id.as_ref() != Some(&report.run_id)) {
            server.run_id = Some(report.run_id.clone());
            server.unfenced = None;
            is_new = true;
        }
    }
    is_new
}

/// What `up` finds wrong with unmanaged nodes before it starts anything; returns those replicas that do not answer and
/// are not waited for.
///
/// # Errors
/// The master does not answer, or is none: it is never told to be another's replica, nor the reverse. Or a replica would lose
/// data of its own by following (force allows that).
pub(super) fn check(view: &GroupView, force: bool) -> Result<Vec<String>, GroupError> {
    let mut absent = Vec::new();
    for node in view.nodes.iter().filter(|node| !node.is_managed()) {
        match &node.answer {
            Answer::Report(report) if node.meant_upstream.is_some() => check_replica(view, node, report, force)?,
            Answer::Report(report) => check_master(node, report)?,
            Answer::Loading => {}
            _ if node.meant_upstream.is_none() => {
                return Err(GroupError::Absent { node: node.name.clone(), why: node.silence() });
            }
            _ => absent.push(node.name.clone()),
        }
    }
    Ok(absent)
}

fn check_master(node: &NodeView, report: &NodeReport) -> Result<(), GroupError> {
    let Some(upstream) = report.replication.upstream() else { return Ok(()) };
    let (name, other) = (&node.name, upstream.address());
    Err(GroupError::Unsafe {
        reason: format!("{name} is meant to be the master, and it is a replica of {other}"),
        hint: format!("name the master that there is; or make {name} one: redis-cli REPLICAOF NO ONE there"),
    })
}

fn check_replica(view: &GroupView, node: &NodeView, report: &NodeReport, force: bool) -> Result<(), GroupError> {
    let name = &node.name;
    let hint = || format!("--force lets {name} follow all the same, and its own data go");
    match report.replication.upstream() {
        Some(upstream) if view.followed_by(node).is_none() && upstream.holds_data && !force => {
            let other = upstream.address();
            let reason = format!("{name} follows {other}, which is no node of this group, and has its data");
            Err(GroupError::Unsafe { reason, hint: hint() })
        }
        None if !is_expendable(view, node, report) && !force => {
            let reason = format!(
                "{name} is meant to be a replica, and it is a master with data of its own ({})",
                counted(report.keys)
            );
            Err(GroupError::Unsafe { reason, hint: hint() })
        }
        _ => Ok(()),
    }
}

/// Whether a master may become a replica without asking: it is empty and feeds nobody, or it has nothing that the group's
/// master has not, or it came back as one by itself with data of the group.
fn is_expendable(view: &GroupView, node: &NodeView, report: &NodeReport) -> bool {
    let master = view.meant_master().report().map(|master| &master.replication);
    let is_behind = master.and_then(|master| diverged_bytes(&report.replication, master, None)) == Some(0);
    let is_empty = report.keys == 0 && report.replication.replicas.is_empty();
    let has_returned = returned_masters(view).contains(&node.name);
    is_empty || is_behind || has_returned && of_unknown_history(view, std::slice::from_ref(&node.name)).is_empty()
}

/// What an old master had when it was demoted, and its new master has not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diverged {
    /// The old master.
    pub node: String,
    /// In bytes of its replication stream. `None`: its history says nothing of what it shares with its new master.
    pub bytes: Option<u64>,
    /// Its keys, all of them.
    pub keys: u64,
    /// The offset that it had.
    pub end: u64,
}

/// How many bytes `old` has applied beyond what it shares with `new`; `None`: they share no history that is known.
pub(super) fn diverged_bytes(old: &Replication, new: &Replication, unfenced: Option<&Unfenced>) -> Option<u64> {
    let present = Some((new.replid.clone(), new.offset));
    let former = new.former.as_ref().map(|former| (former.replid.clone(), former.shared_up_to));
    let noted = unfenced.and_then(|noted| Some((ReplicationId::parse(&noted.replid)?, noted.shared_up_to)));
    let mut shared = [present, former, noted].into_iter().flatten();
    shared.find_map(|(history, has)| Some(old.offset.saturating_sub(has.min(share_of(old, &history)?))))
}

/// Makes a replica of a server that takes writes: holds its writes back, waits until `new` has all that it can still get,
/// counts what is left over, lets it follow `new`. At its end, and if it fails, no write is held back.
///
/// `new` need not be a master yet: then nobody takes writes until it is one.
///
/// # Errors
/// The server does not answer, or refuses: then it is as it was.
pub(super) async fn demote(
    dir: &GroupDir,
    node: &str,
    unfenced: Option<&Unfenced>,
    old: &NodeClient,
    new: &NodeClient,
) -> Result<(Diverged, Vec<TailReport>), WireError> {
    let pause = WritePause::begin(old).await?;
    let demoted = demote_paused(dir, node, unfenced, old, new).await;
    pause.end().await;
    demoted
}

async fn demote_paused(
    dir: &GroupDir,
    node: &str,
    unfenced: Option<&Unfenced>,
    old: &NodeClient,
    new: &NodeClient,
) -> Result<(Diverged, Vec<TailReport>), WireError> {
    let own = old.report().await?;
    let theirs = drained(&own.replication, new).await?;
    let bytes = diverged_bytes(&own.replication, &theirs, unfenced);
    // Here, and no later, what `bytes` counts can still be read from it: nobody writes, and nothing is dropped yet.
    let tails = keep_tail(dir, node, &own.replication, bytes, old).await?;
    old.follow(new.announced()).await?;
    Ok((Diverged { node: node.to_owned(), bytes, keys: own.keys, end: own.replication.offset }, tails))
}

/// Writes down the last `bytes` of a stream; where nobody knows how many are the server's own, all that it still has.
async fn keep_tail(
    dir: &GroupDir,
    node: &str,
    own: &Replication,
    bytes: Option<u64>,
    client: &NodeClient,
) -> Result<Vec<TailReport>, WireError> {
    let to = own.offset;
    let start = own.backlog.as_ref().map_or(to, |backlog| backlog.start);
    let from = bytes.map_or(start, |bytes| to.saturating_sub(bytes));
    if from == to {
        return Ok(Vec::new());
    }
    let tail = Tail::fetch(client.endpoint(), &own.replid, own.backlog.clone(), (from, to)).await;
    let kept = tail::keep(dir, node, &own.replid.to_string(), from..to, tail);
    kept.map_err(|error| WireError::Nonsense(format!("what only it has cannot be kept: {error}")))
}

/// Where `new` is when it has read all that it can get of a master that takes no more writes.
async fn drained(own: &Replication, new: &NodeClient) -> Result<Replication, WireError> {
    let give_up = Instant::now() + DRAIN_LIMIT;
    loop {
        let theirs = new.replication().await?;
        let is_linked = theirs.upstream().is_some_and(|upstream| upstream.link == Link::Up);
        if !is_linked || theirs.replid != own.replid || theirs.offset >= own.offset || Instant::now() > give_up {
            return Ok(theirs);
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

/// Lets a server that has a configuration file write its present role there, so that it comes back in it; one that has none
/// cannot, and says so, which is no error.
pub(super) async fn keep_role(client: &NodeClient) {
    let _ = client.command(&["CONFIG", "REWRITE"]).await;
}

#[cfg(test)]
mod tests;
