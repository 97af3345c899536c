//! Who becomes the master, and how: a pure function of what was seen and what is allowed.
//!
//! The plan is the contract. `promote --dry-run` prints it, `promote` executes it; whatever no longer fits it while it is
//! executed stops it.
//!
//! ```text
//! view --diagnose--> who was lost --lineage--> whose data counts --rank--> candidate --> steps
//!
//! fence n1 · wait until n2, n3 have read what n1 sent · promote n2 · confirm it takes writes ·
//! let n3 follow n2 · confirm the links
//! ```
//!
//! Offsets are compared only within one lineage: a node whose history has another name is never promoted, however much it
//! holds. Neither is one whose first synchronization never finished: it may be empty.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::diagnosis::{Diagnosis, diagnose, has_returned_smaller, listed};
use super::salvage::KeptStream;
use super::unmanaged::{came_back_with_less, diverged_bytes, of_unknown_history, returned_masters};
use super::view::{Answer, GroupView, NodeView};
use crate::wire::{Link, NodeReport, Replication, ReplicationId};

/// A replica that was cut off for longer when its master ended, and lacks something, is stale. Its link is tried anew every
/// second, so this is no hiccup.
const STALE_SECONDS: u64 = 5;

/// What a promotion may do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Policy {
    /// Promote this node and no other.
    pub wanted: Option<String>,
    /// Go on where a refusal would only protect from loss: end a master that answers, exceed the allowed loss.
    pub force: bool,
    /// `--max-loss`, or `[failover] max-loss`: refuse what may lose more bytes of the replication stream than this.
    pub max_loss_bytes: Option<u64>,
    /// Keep also what is salvaged as a list of commands.
    pub keeps_salvaged: bool,
    /// The last change of masters, from this node to the present master, was not seen to its end: do that, and no more.
    pub finishes: Option<String>,
}

/// A promotion, decided.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FailoverPlan {
    /// The group.
    pub group: String,
    /// The node that was the master.
    pub old_master: String,
    /// The node that becomes it.
    pub candidate: String,
    /// The history that the candidate continues.
    pub lineage: ReplicationId,
    /// All nodes that could have been promoted, best first; the first is the candidate unless another was wished for.
    pub ranked: Vec<Ranked>,
    /// All others, with the reason.
    pub rejected: Vec<Rejected>,
    /// What is lost, as far as it is known beforehand.
    pub loss: LossEstimate,
    /// What may be lost, in bytes of the replication stream; `None`: whatever it is.
    #[serde(default)]
    pub max_loss_bytes: Option<u64>,
    /// Why nothing of the old master's backlog is handed to the candidate, if nothing is.
    #[serde(default)]
    pub not_salvaged: Option<NoSalvage>,
    /// What is done, in this order.
    pub steps: Vec<Step>,
    /// The upstream of every node but the candidate when all is done.
    pub upstreams: BTreeMap<String, String>,
}

/// A node that could be promoted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ranked {
    /// Its name.
    pub node: String,
    /// Bytes of the lineage it has applied.
    pub offset: u64,
    /// Its `replica-priority`.
    pub priority: u32,
}

/// A node that cannot be promoted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rejected {
    /// Its name.
    pub node: String,
    /// Why not.
    pub reason: Ineligible,
}

/// Why a node cannot be promoted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum Ineligible {
    /// It does not run or does not answer.
    #[error("it cannot be reached: {why}")]
    Unreachable {
        /// What came back instead.
        why: String,
    },
    /// It loads its data set.
    #[error("it is still loading its data")]
    Loading,
    /// It follows, and has no complete copy of anything.
    #[error("its first sync never finished: what it holds is not data")]
    NeverSynced,
    /// It takes writes of its own.
    #[error("it is a master itself, that came back beside the group's")]
    Master,
    /// Nodes on other machines could not follow it.
    #[error("it listens on this machine's loopback only, and could not be reached by {}", listed(.nodes))]
    OutOfReach {
        /// Those nodes.
        nodes: Vec<String>,
    },
    /// It is part of another history.
    #[error("its data is of another history ({}, not {})", .replid.short(), .lineage.short())]
    OtherHistory {
        /// Its own.
        replid: ReplicationId,
        /// The lost master's.
        lineage: ReplicationId,
    },
    /// The topology says never.
    #[error("its priority is 0: never promote")]
    PriorityZero,
}

impl Ineligible {
    fn is_history(&self) -> bool {
        matches!(self, Self::OtherHistory { .. })
    }
}

/// Why what the old master had not sent stays where it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum NoSalvage {
    /// It is gone.
    #[error("its engine keeps the backlog in memory")]
    InMemory,
    /// It is wherever it is.
    #[error("replctl did not start it, and looks for no files of it")]
    Unmanaged,
    /// The candidate is on another machine.
    #[error("its successor is on another machine")]
    OutOfReach,
    /// A node that takes writes has a history of its own, to which nothing can be added.
    #[error("another node took over already")]
    TakenOver,
    /// It is not gone.
    #[error("it is alive, and a replica")]
    Alive,
    /// The file is of another time.
    #[error("its backlog is of another history ({replid:.8})")]
    OtherHistory {
        /// The history.
        replid: String,
    },
    /// The file cannot be used.
    #[error("{why}")]
    Unusable {
        /// Why.
        why: String,
    },
}

/// What a promotion loses, in bytes of the replication stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LossEstimate {
    /// The history that all these offsets are of.
    pub replid: ReplicationId,
    /// The last offset at which the old master was seen; it may have written more after that. `None`: never seen.
    pub master_offset: Option<u64>,
    /// The highest offset that any reachable node of the history has.
    pub survivor_offset: u64,
    /// The candidate's, before anything is salvaged.
    pub candidate_offset: u64,
    /// Where the old master ended, read from its backlog. `None`: it has none, or is alive.
    pub master_end: Option<u64>,
    /// What the candidate gets from that backlog.
    pub salvaged_bytes: u64,
    /// How old the candidate's data was when the old master ended, before anything is salvaged.
    pub age: DataAge,
}

/// How old a replica's data was at the end of its master: the time from the last word that it had from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct DataAge {
    /// So old for certain, in seconds.
    pub at_least_seconds: u64,
    /// Not older than this, in seconds. `None`: nothing tells.
    pub at_most_seconds: Option<u64>,
}

/// A part of a history that no node of the group has any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LostRange {
    /// The history.
    pub replid: ReplicationId,
    /// The first byte that is lost, counted from 0; so many bytes are left.
    pub from: u64,
    /// The old master's end, as far as it is known.
    pub to: u64,
    /// Whether the old master ended there: otherwise it may have gone on.
    pub is_exact: bool,
}

impl LossEstimate {
    /// What is known to be lost, in bytes.
    pub fn bytes_min(&self) -> u64 {
        self.gone().map_or(0, |gone| gone.to - gone.from)
    }

    /// What is known to be lost.
    pub fn gone(&self) -> Option<LostRange> {
        let seen = self.master_offset.unwrap_or(0).max(self.survivor_offset);
        let to = self.master_end.map_or(seen, |end| end.max(seen));
        let from = self.candidate_offset + self.salvaged_bytes;
        let is_exact = self.master_end.is_some();
        (from < to).then(|| LostRange { replid: self.replid.clone(), from, to, is_exact })
    }

    /// Whether nobody knows how far the old master was.
    pub fn is_open(&self) -> bool {
        self.master_offset.or(self.master_end).is_none()
    }
}

impl fmt::Display for LossEstimate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.master_offset, self.bytes_min()) {
            (_, 0) if self.master_end.is_some() => write!(out, "nothing"),
            (_, bytes) if self.master_end.is_some() => write!(out, "{bytes} bytes of the replication stream"),
            (Some(_), 0) => write!(out, "none of what the old master was last seen to hold"),
            (Some(_), bytes) => write!(out, "at least {bytes} bytes of the replication stream"),
            (None, 0) => write!(out, "unknown: nobody saw how far the old master was"),
            (None, bytes) => write!(out, "at least {bytes} bytes; nobody saw how far the old master was"),
        }?;
        match self.gone() {
            Some(LostRange { replid, from, to, .. }) => write!(out, " (offsets {from} to {to} of {})", replid.short()),
            None => Ok(()),
        }
    }
}

impl DataAge {
    /// Of a replica that heard from its master last so many seconds ago.
    fn exactly(seconds: u64) -> Self {
        Self { at_least_seconds: seconds, at_most_seconds: Some(seconds) }
    }
}

impl fmt::Display for DataAge {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.at_least_seconds, self.at_most_seconds) {
            (0, None) => write!(out, "of unknown age"),
            (least, None) => write!(out, "at least {least} s old"),
            (least, Some(most)) if least == most => write!(out, "{least} s old"),
            (0, Some(most)) => write!(out, "at most {most} s old"),
            (least, Some(most)) => write!(out, "{least} to {most} s old"),
        }
    }
}

/// One step of a promotion.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum Step {
    /// End the old master's process, and nothing but it, so that it can take no further write.
    Fence {
        /// The old master.
        node: String,
    },
    /// Keep an old master that replctl did not start from taking writes: hold them back, wait until its successor has all
    /// that it can get, let it follow that.
    Demote {
        /// The old master.
        node: String,
        /// Its successor.
        to: String,
    },
    /// Go on though an old master that replctl did not start can neither be ended nor demoted, and note that.
    LeaveUnfenced {
        /// The old master.
        node: String,
    },
    /// Wait until the replicas that could be promoted have read to the end of what the old master sent, or of what those have
    /// that feed them.
    AwaitDrain {
        /// The replicas whose link still looked up.
        nodes: Vec<String>,
    },
    /// Hand the candidate what the old master had not sent it and left in its backlog file.
    Salvage {
        /// The old master.
        node: String,
        /// The candidate.
        to: String,
    },
    /// Write down what only this node has of the stream, as commands, before anything throws it away. If it is alive, it takes
    /// no write from then on.
    KeepTail {
        /// The node.
        node: String,
    },
    /// Let the candidate follow the master itself: it can only hand over to one that it feeds.
    Attach {
        /// The candidate.
        node: String,
        /// The master.
        to: String,
    },
    /// Let the master hold back its writes until the candidate has everything, become its replica, and the candidate the
    /// master: the two exchange roles by themselves (`FAILOVER`), and at no moment do both take writes.
    HandOver {
        /// The master.
        from: String,
        /// The candidate.
        to: String,
    },
    /// Make the candidate a master.
    Promote {
        /// The candidate.
        node: String,
    },
    /// See it say so, and see it take a write.
    Confirm {
        /// The candidate.
        node: String,
    },
    /// Let nodes follow the new master.
    Repoint {
        /// The nodes.
        nodes: Vec<String>,
        /// The new master.
        to: String,
    },
    /// See every link up and every replica caught up.
    ConfirmLinks {
        /// The replicas.
        nodes: Vec<String>,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fence { node } => write!(out, "fence {node}"),
            Self::Demote { node, to } => write!(out, "hold back {node}'s writes and let it follow {to}"),
            Self::LeaveUnfenced { node } => write!(out, "leave {node} unfenced, and note that"),
            Self::AwaitDrain { nodes } => write!(out, "let {} read to the end of the stream", listed(nodes)),
            Self::Salvage { node, to } => write!(out, "salvage what {node} had not sent to {to}"),
            Self::KeepTail { node } => write!(out, "keep what only {node} has as a list of commands"),
            Self::Attach { node, to } => write!(out, "let {node} follow {to} directly"),
            Self::HandOver { from, to } => write!(out, "hand over from {from} to {to}"),
            Self::Promote { node } => write!(out, "promote {node}"),
            Self::Confirm { node } => write!(out, "confirm that {node} takes writes"),
            Self::Repoint { nodes, to } => write!(out, "let {} follow {to}", listed(nodes)),
            Self::ConfirmLinks { nodes } => write!(out, "confirm the links of {}", listed(nodes)),
        }
    }
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The master does its work.
    #[error("the master {master} is alive and takes writes")]
    MasterAlive {
        /// The master.
        master: String,
    },
    /// The master does not answer, and replctl did not start it.
    #[error("the master {master} cannot be fenced: {why}, and replctl did not start it{}", serves(.linked))]
    CannotFence {
        /// The master.
        master: String,
        /// What came back instead of an answer.
        why: String,
        /// The replicas that say that their link to it is up.
        linked: Vec<String>,
    },
    /// What came back may be a stranger, with data that are nobody's here.
    #[error("perhaps strangers, since they have data of a history that is not the group's: {}", listed(.nodes))]
    UnknownHistory {
        /// The nodes at whose addresses they answer.
        nodes: Vec<String>,
    },
    /// The master is about to come back with its data.
    #[error("the master {master} is loading its data and will be back")]
    MasterLoading {
        /// The master.
        master: String,
    },
    /// The master does not answer us, and serves others.
    #[error("the master {master} does not answer, but {} {} still linked to it: it may well serve others", listed(.seen_by), is_or_are(.seen_by))]
    MasterUnreachable {
        /// The master.
        master: String,
        /// The replicas that have heard from it.
        seen_by: Vec<String>,
    },
    /// Only a person can say whose writes count.
    #[error("{} take writes at the same time", listed(.masters))]
    TwoMasters {
        /// All that do.
        masters: Vec<String>,
    },
    /// Who takes writes is about to change.
    #[error("{node} is exchanging its role with another node")]
    Exchanging {
        /// The node.
        node: String,
    },
    /// There is nothing to promote.
    #[error("nothing of the group runs")]
    Down,
    /// No node may be promoted.
    #[error("no node can be promoted: {}", reasons(.rejected))]
    NoCandidate {
        /// All nodes with their reasons.
        rejected: Vec<Rejected>,
    },
    /// There is no such node.
    #[error("the group has no node {0}")]
    NoSuchNode(String),
    /// The node that was wished for may not be promoted.
    #[error("{node} cannot be promoted: {reason}")]
    WantedIneligible {
        /// The node.
        node: String,
        /// Why not.
        reason: Ineligible,
    },
    /// The node that was wished for has less than another.
    #[error("{node} is {bytes} bytes behind {best}")]
    WantedBehind {
        /// The node.
        node: String,
        /// The one that has most.
        best: String,
        /// How far behind.
        bytes: u64,
    },
    /// The best node had lost its link long before the master ended, and lacks what came after that.
    #[error("{node} is stale: its data is {}, and it lacks {loss}", .loss.age)]
    Stale {
        /// The node.
        node: String,
        /// What would be lost.
        loss: Box<LossEstimate>,
    },
    /// Another node is the master already.
    #[error("{master} took over as master already")]
    AlreadyMoved {
        /// That node.
        master: String,
    },
    /// A master cannot hand over while something is wrong with the group.
    #[error("a switchover needs a whole group, and this one is not: {diagnosis}")]
    NotWhole {
        /// What is wrong.
        diagnosis: Diagnosis,
    },
    /// The promotion would lose, or may lose, more than is allowed.
    #[error("to promote {node} would lose more than max-loss ({max_bytes} bytes) allows: {loss}")]
    TooMuchLoss {
        /// The best node that there is.
        node: String,
        /// What is allowed.
        max_bytes: u64,
        /// What is known.
        loss: Box<LossEstimate>,
    },
}

impl Refusal {
    /// What the user may do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::MasterAlive { .. } => {
                "a planned change is a switchover; --force ends or demotes the master and promotes a replica".to_owned()
            }
            Self::CannotFence { master, .. } => format!(
                "it may go on taking writes from others, or come back as a second master, and those writes would be lost: \
                 end it or cut it off where it runs, then replctl promote --force; status names it when it returns, and \
                 promote then lets {master} follow"
            ),
            Self::UnknownHistory { .. } => {
                "--force lets them follow, and drops what they have: look into them first".to_owned()
            }
            Self::MasterLoading { .. } => "wait until it has loaded; --force ends it and promotes a replica".to_owned(),
            Self::MasterUnreachable { master, .. } => {
                format!("replctl logs {master}; --force ends it and promotes a replica")
            }
            Self::TwoMasters { masters } => {
                Diagnosis::TwoMasters { masters: masters.clone() }.hint().expect("two masters have a hint")
            }
            Self::Exchanging { node } => format!("wait until that is over; replctl cli {node} FAILOVER ABORT ends it"),
            Self::Down => "replctl up".to_owned(),
            Self::NoCandidate { rejected } if rejected.iter().any(|one| one.reason.is_history()) => {
                "--force promotes the best of the history that most replicas have".to_owned()
            }
            Self::NoCandidate { .. } => "replctl up starts nodes that are missing; replctl logs tells more".to_owned(),
            Self::NoSuchNode(_) => "replctl status lists the nodes".to_owned(),
            Self::WantedIneligible { .. } => "replctl promote --dry-run shows who can be promoted".to_owned(),
            Self::WantedBehind { best, .. } => format!("promote {best}, or give up these bytes with --force"),
            Self::Stale { .. } => "replctl up starts nodes that may have more; --force gives that up".to_owned(),
            Self::AlreadyMoved { master } => format!("replctl promote {master} lets the others follow it"),
            Self::NotWhole { diagnosis } => diagnosis.hint().unwrap_or_else(|| "replctl status".to_owned()),
            Self::TooMuchLoss { .. } => "--force accepts the loss".to_owned(),
        }
    }
}

/// The verb for so many names.
fn is_or_are(names: &[String]) -> &'static str {
    if names.len() == 1 { "is" } else { "are" }
}

fn serves(linked: &[String]) -> String {
    if linked.is_empty() { String::new() } else { format!("; {} say that it serves them", listed(linked)) }
}

pub(super) fn reasons(rejected: &[Rejected]) -> String {
    let words: Vec<String> = rejected.iter().map(|one| format!("{} ({})", one.node, one.reason)).collect();
    words.join(", ")
}

/// What the diagnosis means for a promotion.
enum Situation<'a> {
    /// The master is lost, or is to be ended: one of its replicas takes its place.
    Lost(&'a NodeView),
    /// A node took its place already, without the others following: a promotion that broke off, or somebody else's.
    Taken { old: &'a NodeView, new: &'a NodeView },
    /// The master works, and an old one came back beside it.
    Returned { old: &'a NodeView, master: &'a NodeView },
}

impl FailoverPlan {
    /// Decides.
    ///
    /// # Errors
    /// There is no need for a promotion, or no node to promote, or the loss would exceed what is allowed.
    pub fn new(view: &GroupView, policy: &Policy) -> Result<Self, Refusal> {
        if let Some(unknown) = policy.wanted.as_ref().filter(|wanted| view.node(wanted).is_none()) {
            return Err(Refusal::NoSuchNode(unknown.clone()));
        }
        match situation(view, policy)? {
            Situation::Lost(old) => Self::replace(view, old, policy),
            Situation::Taken { old, new } => Self::complete(view, old, new, policy),
            Situation::Returned { old, master } => Self::take_back(view, old, master, policy),
        }
    }

    /// Decides on a planned change: the master hands over to a replica, and nothing is lost.
    ///
    /// # Errors
    /// The group is not whole, or there is no node to hand over to. With force, replicas that could not follow anyway are
    /// left behind.
    pub fn switchover(view: &GroupView, policy: &Policy) -> Result<Self, Refusal> {
        if let Some(unknown) = policy.wanted.as_ref().filter(|wanted| view.node(wanted).is_none()) {
            return Err(Refusal::NoSuchNode(unknown.clone()));
        }
        if let Some(node) = view.exchanging() {
            return Err(Refusal::Exchanging { node: node.name.clone() });
        }
        let old = view.meant_master();
        let diagnosis = diagnose(view);
        let only_replicas_suffer = matches!(
            diagnosis,
            Diagnosis::OrphanedReplicas { .. }
                | Diagnosis::ReplicasUnreachable { .. }
                | Diagnosis::ReplicasLoading { .. }
                | Diagnosis::ReplicasNeverSynced { .. }
                | Diagnosis::ReplicasStale { .. }
                | Diagnosis::LinksDown { .. }
        );
        let is_whole = diagnosis.is_healthy() || is_attached(view, old, &diagnosis, policy.wanted.as_ref());
        if !(is_whole || policy.force && only_replicas_suffer) {
            return Err(Refusal::NotWhole { diagnosis });
        }
        if policy.wanted.as_ref() == Some(&old.name) {
            return Err(Refusal::MasterAlive { master: old.name.clone() });
        }
        let master = &old.report().expect("the master of a group that works has answered").replication;
        let others = view.nodes.iter().filter(|node| node.name != old.name);
        let (mut ranked, rejected) = rank(view, others.filter(|node| is_linked(node)), Some(&master.replid));
        // All will have the same, so what was wished for counts first.
        ranked.sort_by_key(|one| one.priority);
        let Some(best) = ranked.first() else { return Err(Refusal::NoCandidate { rejected }) };
        let candidate = match &policy.wanted {
            Some(wanted) => choose_wanted(wanted, old, &ranked, &rejected, true)?,
            None => best,
        };
        let candidate = view.node(&candidate.node).expect("a ranked node is in the view");
        let upstreams = upstreams_after(view, old, candidate);
        Ok(Self {
            group: view.group.clone(),
            old_master: old.name.clone(),
            candidate: candidate.name.clone(),
            lineage: master.replid.clone(),
            loss: LossEstimate {
                replid: master.replid.clone(),
                master_offset: Some(master.offset),
                survivor_offset: master.offset,
                // It gets what it lacks before it takes over.
                candidate_offset: master.offset,
                master_end: None,
                salvaged_bytes: 0,
                age: DataAge::exactly(0),
            },
            max_loss_bytes: policy.max_loss_bytes,
            not_salvaged: None,
            steps: switchover_steps(view, old, candidate, &upstreams),
            ranked,
            rejected,
            upstreams,
        })
    }

    fn replace(view: &GroupView, old: &NodeView, policy: &Policy) -> Result<Self, Refusal> {
        let lineage = lineage(view, old, policy.force);
        // A master that somebody made a replica is as good as any other; one that is dead or to be ended is not.
        let others = view.nodes.iter().filter(|node| node.name != old.name || is_replica(node));
        let (ranked, rejected) = rank(view, others, lineage.as_ref());
        let (Some(best), Some(lineage)) = (ranked.first(), lineage) else {
            return Err(Refusal::NoCandidate { rejected });
        };
        let candidate = match &policy.wanted {
            Some(wanted) => choose_wanted(wanted, old, &ranked, &rejected, policy.force)?,
            None => best,
        };
        let candidate = view.node(&candidate.node).expect("a ranked node is in the view");
        let loss = estimate_loss(view, old, &lineage, candidate);
        if !policy.force && policy.max_loss_bytes.is_none() && is_stale(&loss) {
            return Err(Refusal::Stale { node: candidate.name.clone(), loss: Box::new(loss) });
        }
        if let Some(max_bytes) = policy.max_loss_bytes.filter(|_| !policy.force)
            && (loss.bytes_min() > max_bytes || loss.is_open())
        {
            return Err(Refusal::TooMuchLoss { node: candidate.name.clone(), max_bytes, loss: Box::new(loss) });
        }
        Ok(Self::with_steps(view, old, candidate, policy, (lineage, ranked.clone(), rejected, loss)))
    }

    fn complete(view: &GroupView, old: &NodeView, new: &NodeView, policy: &Policy) -> Result<Self, Refusal> {
        if policy.wanted.as_ref().is_some_and(|wanted| *wanted != new.name) {
            return Err(Refusal::AlreadyMoved { master: new.name.clone() });
        }
        let report = &new.report().expect("a master that was found has answered").replication;
        let ranked = vec![Ranked { node: new.name.clone(), offset: report.offset, priority: report.priority }];
        let loss = loss_of_the_other(old, new, report);
        let plan = Self::with_steps(view, old, new, policy, (report.replid.clone(), ranked, Vec::new(), loss));
        Ok(match &policy.finishes {
            Some(was_master) if old.name == new.name => Self { old_master: was_master.clone(), ..plan },
            _ => plan,
        })
    }

    /// Whether another node is the master afterwards than was meant to be before.
    pub fn makes_another_master(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Confirm { .. }))
    }

    /// Whether this node is told to follow the candidate.
    pub fn repoints_to_candidate(&self, node: &str) -> bool {
        let is_told = |nodes: &[String]| nodes.iter().any(|name| name == node);
        self.steps
            .iter()
            .any(|step| matches!(step, Step::Repoint { nodes, to } if *to == self.candidate && is_told(nodes)))
    }

    /// The masters that came back become replicas of the one that there is.
    fn take_back(view: &GroupView, old: &NodeView, master: &NodeView, policy: &Policy) -> Result<Self, Refusal> {
        if policy.wanted.as_ref().is_some_and(|wanted| *wanted != master.name) {
            return Err(Refusal::AlreadyMoved { master: master.name.clone() });
        }
        let mut plan = Self::complete(view, old, master, policy)?;
        plan.loss = loss_of_returned(old, master);
        plan.steps
            .retain(|step| !matches!(step, Step::Promote { .. } | Step::Confirm { .. } | Step::LeaveUnfenced { .. }));
        Ok(plan)
    }

    fn with_steps(
        view: &GroupView,
        old: &NodeView,
        candidate: &NodeView,
        policy: &Policy,
        (lineage, ranked, rejected, loss): (ReplicationId, Vec<Ranked>, Vec<Rejected>, LossEstimate),
    ) -> Self {
        let upstreams = upstreams_after(view, old, candidate);
        let salvage = salvage(old, candidate, &lineage);
        Self {
            group: view.group.clone(),
            old_master: old.name.clone(),
            candidate: candidate.name.clone(),
            lineage,
            steps: steps(view, old, (candidate, &ranked), &upstreams, salvage.is_ok(), &loss),
            ranked,
            rejected,
            loss,
            max_loss_bytes: policy.max_loss_bytes,
            not_salvaged: salvage.err(),
            upstreams,
        }
    }
}

/// Whether all that is wrong is what an earlier switchover left that broke off: its candidate follows the master itself
/// already.
fn is_attached(view: &GroupView, old: &NodeView, diagnosis: &Diagnosis, wanted: Option<&String>) -> bool {
    let Diagnosis::OrphanedReplicas { nodes, .. } = diagnosis else { return false };
    let follows_master = |node: &&NodeView| view.followed_by(node).is_some_and(|followed| followed.name == old.name);
    let orphan = nodes.first().filter(|_| nodes.len() == 1).and_then(|name| view.node(name)).filter(follows_master);
    orphan.is_some_and(|orphan| wanted.is_none_or(|wanted| *wanted == orphan.name))
        && view.nodes.iter().all(|node| node.report().is_some() && is_linked(node))
}

fn situation<'a>(view: &'a GroupView, policy: &Policy) -> Result<Situation<'a>, Refusal> {
    let node = |name: &str| view.node(name).expect("a diagnosis names nodes of its view");
    let old = view.meant_master();
    if let Some(node) = view.exchanging() {
        return Err(Refusal::Exchanging { node: node.name.clone() });
    }
    match diagnose(view) {
        Diagnosis::Down => Err(Refusal::Down),
        Diagnosis::TwoMasters { masters } => match policy.wanted.as_ref().filter(|_| policy.force) {
            // A person has chosen.
            Some(wanted) if masters.contains(wanted) => {
                let other = masters.iter().find(|master| *master != wanted).expect("there are two");
                let old = if *wanted == old.name || !masters.contains(&old.name) { node(other) } else { old };
                Ok(Situation::Taken { old, new: node(wanted) })
            }
            _ => Err(Refusal::TwoMasters { masters }),
        },
        Diagnosis::UnfencedMaster { unknown, .. } if !unknown.is_empty() && !policy.force => {
            Err(Refusal::UnknownHistory { nodes: unknown })
        }
        Diagnosis::UnfencedMaster { nodes, .. } => Ok(Situation::Returned { old: node(&nodes[0]), master: old }),
        Diagnosis::MasterMoved { to, .. } => Ok(Situation::Taken { old, new: node(&to) }),
        Diagnosis::Healthy
        | Diagnosis::OrphanedReplicas { .. }
        | Diagnosis::ReplicasUnreachable { .. }
        | Diagnosis::UnmanagedUnreachable { .. }
        | Diagnosis::ReplicasLoading { .. }
        | Diagnosis::ReplicasNeverSynced { .. }
        | Diagnosis::ReplicasStale { .. }
        | Diagnosis::LinksDown { .. }
            if policy.finishes.is_some() =>
        {
            Ok(Situation::Taken { old, new: old })
        }
        Diagnosis::OrphanedReplicas { master, .. } | Diagnosis::Cycle { master: Some(master), .. } if !policy.force => {
            Ok(Situation::Taken { old, new: node(&master) })
        }
        Diagnosis::MasterDead { .. }
        | Diagnosis::MasterHung { .. }
        | Diagnosis::NoCandidate { .. }
        | Diagnosis::EmptyMaster { .. }
        | Diagnosis::MasterCameBackWithLess { .. }
        | Diagnosis::Cycle { master: None, .. }
        | Diagnosis::NoMaster { .. } => Ok(Situation::Lost(old)),
        _ if policy.force => Ok(Situation::Lost(old)),
        Diagnosis::MasterUnreachable { master, linked, .. } if old.is_managed() => {
            Err(Refusal::MasterUnreachable { master, seen_by: linked })
        }
        Diagnosis::MasterUnreachable { master, why, linked } => Err(Refusal::CannotFence { master, why, linked }),
        Diagnosis::MasterLoading { master } => Err(Refusal::MasterLoading { master }),
        _ => Err(Refusal::MasterAlive { master: old.name.clone() }),
    }
}

/// The history whose continuation is wanted: the one the old master itself reports, unless it came back without it; else the one recorded when the group
/// was last whole. Only where there is no record, or by force where nobody has that history any more, it is the one that
/// most replicas with data have.
fn lineage(view: &GroupView, old: &NodeView, force: bool) -> Option<ReplicationId> {
    let is_smaller = |_: &&NodeReport| has_returned_smaller(view, old) || came_back_with_less(view, old);
    if let Some(report) = old.report().filter(|report| !is_smaller(report)) {
        return Some(report.replication.replid.clone());
    }
    let with_data: Vec<&Replication> = view.nodes.iter().filter_map(replication_with_data).collect();
    let histories: Vec<&ReplicationId> = with_data.iter().map(|replication| &replication.replid).collect();
    if (!old.is_managed() || view.is_disputed)
        && let Some(continued) = continuation(view.recorded_replid.as_ref(), &with_data)
    {
        return Some(continued);
    }
    if let Some(recorded) = view.recorded_replid.as_ref().filter(|recorded| !force || histories.contains(recorded)) {
        return Some(recorded.clone());
    }
    let votes = |candidate: &ReplicationId| histories.iter().filter(|history| **history == candidate).count();
    // The last of equals wins in max_by_key; reversed, it is the first in topology order.
    histories.iter().rev().max_by_key(|history| votes(history)).map(|history| (*history).clone())
}

/// The history that all continue who have left the recorded one, if those who have not left it lack no more of it: an unmanaged
/// master gives its history a new name whenever somebody restarts it, and a change of masters that broke off may have made one;
/// nobody was there to record that.
fn continuation(recorded: Option<&ReplicationId>, with_data: &[&Replication]) -> Option<ReplicationId> {
    let former = |own: &&&Replication| own.former.as_ref().filter(|former| Some(&former.replid) == recorded).cloned();
    let mut continued = with_data.iter().filter_map(|own| Some((&own.replid, former(&own)?.shared_up_to)));
    let (first, shared_up_to) = continued.next()?;
    let has_more = |own: &&Replication| Some(&own.replid) == recorded && own.offset > shared_up_to;
    (continued.all(|(other, _)| other == first) && !with_data.iter().any(has_more)).then(|| first.clone())
}

fn replication_with_data(node: &NodeView) -> Option<&Replication> {
    let replication = &node.report()?.replication;
    replication.upstream().is_some_and(|upstream| upstream.holds_data).then_some(replication)
}

/// Sorts nodes into those that may be promoted, best first, and the others with their reasons.
fn rank<'a>(
    view: &GroupView,
    nodes: impl Iterator<Item = &'a NodeView>,
    lineage: Option<&ReplicationId>,
) -> (Vec<Ranked>, Vec<Rejected>) {
    let (mut ranked, mut rejected) = (Vec::new(), Vec::new());
    for node in nodes {
        match eligible(node, lineage).and_then(|replication| within_reach(view, node).map(|()| replication)) {
            Ok(replication) => ranked.push(Ranked {
                node: node.name.clone(),
                offset: replication.offset,
                priority: replication.priority,
            }),
            Err(reason) => rejected.push(Rejected { node: node.name.clone(), reason }),
        }
    }
    // The sort is stable: equals stay in topology order.
    ranked.sort_by_key(|one| (std::cmp::Reverse(one.offset), one.priority));
    if planted!(PriorityFirst) {
        ranked.sort_by_key(|one| one.priority);
    }
    (ranked, rejected)
}

/// Whether no node is left that could take the place of `old`; if so, all others with their reasons.
pub(super) fn nobody_left(view: &GroupView, old: &NodeView) -> Option<Vec<Rejected>> {
    let others = view.nodes.iter().filter(|node| node.name != old.name);
    let (ranked, rejected) = rank(view, others, lineage(view, old, false).as_ref());
    ranked.is_empty().then_some(rejected)
}

fn eligible<'a>(node: &'a NodeView, lineage: Option<&ReplicationId>) -> Result<&'a Replication, Ineligible> {
    let unreachable = |why: &str| Err(Ineligible::Unreachable { why: why.to_owned() });
    let report = match &node.answer {
        Answer::Report(report) => report,
        Answer::Loading => return Err(Ineligible::Loading),
        Answer::NotListening if !node.is_dead() => return unreachable("it does not listen"),
        Answer::NotListening => return unreachable("its process has ended"),
        Answer::Silent => return unreachable("it does not answer"),
        Answer::Stranger { .. } if !node.is_managed() => return unreachable(&node.silence()),
        Answer::Stranger { report } => {
            return unreachable(&format!("another process (pid {}) holds its port", report.process_id));
        }
        Answer::Error(error) => return unreachable(error),
    };
    let replication = &report.replication;
    if report.is_loading {
        return Err(Ineligible::Loading);
    }
    if replication.is_master() {
        return Err(Ineligible::Master);
    }
    if !(replication.upstream().is_some_and(|upstream| upstream.holds_data) || planted!(NeverSyncedPromoted)) {
        return Err(Ineligible::NeverSynced);
    }
    if let Some(lineage) = lineage.filter(|lineage| **lineage != replication.replid && !planted!(HistoryIgnored)) {
        return Err(Ineligible::OtherHistory { replid: replication.replid.clone(), lineage: lineage.clone() });
    }
    if replication.priority == 0 {
        return Err(Ineligible::PriorityZero);
    }
    Ok(replication)
}

/// Whether every node that answers could follow this one.
fn within_reach(view: &GroupView, node: &NodeView) -> Result<(), Ineligible> {
    let nodes = names(view, |other| other.name != node.name && other.report().is_some() && !other.reaches(node));
    if nodes.is_empty() { Ok(()) } else { Err(Ineligible::OutOfReach { nodes }) }
}

fn choose_wanted<'a>(
    wanted: &str,
    old: &NodeView,
    ranked: &'a [Ranked],
    rejected: &[Rejected],
    force: bool,
) -> Result<&'a Ranked, Refusal> {
    if let Some(rejected) = rejected.iter().find(|one| one.node == wanted) {
        return Err(Refusal::WantedIneligible { node: wanted.to_owned(), reason: rejected.reason.clone() });
    }
    let Some(chosen) = ranked.iter().find(|one| one.node == wanted) else {
        // Neither ranked nor rejected: it is the old master itself.
        let why = "it is the master that is to be replaced".to_owned();
        return Err(Refusal::WantedIneligible { node: old.name.clone(), reason: Ineligible::Unreachable { why } });
    };
    let best = &ranked[0];
    if chosen.offset < best.offset && !force {
        let bytes = best.offset - chosen.offset;
        return Err(Refusal::WantedBehind { node: wanted.to_owned(), best: best.node.clone(), bytes });
    }
    Ok(chosen)
}

fn estimate_loss(view: &GroupView, old: &NodeView, lineage: &ReplicationId, candidate: &NodeView) -> LossEstimate {
    let candidate_offset = candidate.report().map_or(0, |report| report.replication.offset);
    let of_lineage = view.nodes.iter().filter(|node| node.name != old.name).filter_map(replication_with_data);
    let survivor_offset = of_lineage
        .filter(|replication| replication.replid == *lineage)
        .map(|replication| replication.offset)
        .max()
        .unwrap_or(candidate_offset);
    let reported = old.report().filter(|_| !came_back_with_less(view, old)).map(|report| &report.replication);
    let master_offset = reported
        .filter(|own| own.replid == *lineage)
        .map(|own| own.offset)
        .or(view.kill_note.and_then(|note| note.offset));
    let (master_end, salvaged_bytes) = match &old.kept_stream {
        kept @ KeptStream::Dead { start, end, .. } if kept.continues(lineage, candidate_offset) => {
            (Some(*end), if candidate_offset >= *start { end.saturating_sub(candidate_offset) } else { 0 })
        }
        _ => (None, 0),
    };
    LossEstimate {
        replid: lineage.clone(),
        master_offset,
        survivor_offset,
        candidate_offset,
        master_end,
        salvaged_bytes,
        age: age(view, old, candidate),
    }
}

/// Where another node has taken over already: what the old master has beyond the point where the two histories part.
fn loss_of_the_other(old: &NodeView, new: &NodeView, taken: &Replication) -> LossEstimate {
    let open = LossEstimate {
        replid: taken.replid.clone(),
        master_offset: None,
        survivor_offset: taken.offset,
        candidate_offset: taken.offset,
        master_end: None,
        salvaged_bytes: 0,
        age: DataAge::default(),
    };
    // The file of a dead one tells where it ended; one that answers may go on.
    let (past, end) = match &old.answer {
        _ if old.name == new.name => return open,
        Answer::Report(report) => (Some(report.replication.past()), None),
        _ => (old.kept_stream.past(), old.kept_stream.past().map(|past| past.end)),
    };
    let Some((past, shared)) = past.and_then(|past| past.shared_with(&taken.past()).map(|shared| (past, shared)))
    else {
        return open;
    };
    LossEstimate {
        replid: past.replid,
        master_offset: end.is_none().then_some(past.end),
        survivor_offset: shared,
        candidate_offset: shared,
        master_end: end,
        ..open
    }
}

/// How old a candidate's data was at the old master's end. When that was is known if it was killed by us, or still answers;
/// otherwise the last word that any replica had from it is the earliest moment, and now is the latest.
fn age(view: &GroupView, old: &NodeView, candidate: &NodeView) -> DataAge {
    let heard_seconds_ago = |node: &NodeView| {
        let upstream = node.report()?.replication.upstream()?;
        match upstream.link {
            _ if view.followed_by(node).is_none_or(|followed| followed.name != old.name) => None,
            Link::Up => upstream.silent_seconds,
            Link::Down { seconds } => seconds,
            Link::Syncing { .. } => None,
        }
    };
    let Some(heard) = heard_seconds_ago(candidate) else { return DataAge::default() };
    if let Some(note) = view.kill_note {
        return DataAge::exactly(heard.saturating_sub(note.seconds_ago));
    }
    if old.is_answering_master() {
        return DataAge::exactly(heard);
    }
    let last_word = view.nodes.iter().filter_map(heard_seconds_ago).min().unwrap_or(heard);
    DataAge { at_least_seconds: heard - last_word, at_most_seconds: Some(heard) }
}

/// Whether a candidate that lacks something was cut off long before the old master's end: rather a node to be looked after
/// than one to be promoted without a word.
fn is_stale(loss: &LossEstimate) -> bool {
    loss.age.at_least_seconds >= STALE_SECONDS && loss.gone().is_some()
}

/// What a master that came back has beyond what the group's master has of it.
fn loss_of_returned(old: &NodeView, master: &NodeView) -> LossEstimate {
    let replication = |node: &NodeView| node.report().map(|report| report.replication.clone());
    let (old_offset, bytes) = match (replication(old), replication(master)) {
        (Some(own), Some(theirs)) => (own.offset, diverged_bytes(&own, &theirs, old.unfenced())),
        _ => (0, None),
    };
    let shared = old_offset - bytes.unwrap_or(0);
    let of = replication(old).or(replication(master)).expect("both have answered");
    LossEstimate {
        replid: of.replid,
        master_offset: bytes.map(|_| old_offset),
        survivor_offset: shared,
        candidate_offset: shared,
        master_end: None,
        salvaged_bytes: 0,
        age: DataAge::default(),
    }
}

/// Whether the candidate can be handed what the old master had not sent; the file of one that is still to be ended is
/// looked at when it has ended.
fn salvage(old: &NodeView, candidate: &NodeView, lineage: &ReplicationId) -> Result<(), NoSalvage> {
    if !is_replica(candidate) {
        return Err(NoSalvage::TakenOver);
    }
    if is_replica(old) {
        return Err(NoSalvage::Alive);
    }
    if !old.is_managed() {
        return Err(NoSalvage::Unmanaged);
    }
    if !candidate.address.is_loopback() {
        return Err(NoSalvage::OutOfReach);
    }
    match &old.kept_stream {
        KeptStream::Nothing => Err(NoSalvage::InMemory),
        KeptStream::Unusable { why } => Err(NoSalvage::Unusable { why: why.clone() }),
        kept @ KeptStream::Dead { replid, .. } if !kept.continues(lineage, offset_of(candidate)) => {
            Err(NoSalvage::OtherHistory { replid: replid.clone() })
        }
        KeptStream::Dead { .. } | KeptStream::StillWritten => Ok(()),
    }
}

/// Whom every node but the candidate follows afterwards. Chains are kept where they hold: only who followed the old
/// master, or a node that is gone, comes under the new master directly. The candidate is the root of the new tree and the
/// old tree had no cycle, so the new one has none.
fn upstreams_after(view: &GroupView, old: &NodeView, candidate: &NodeView) -> BTreeMap<String, String> {
    let keeps = |upstream: &&String| {
        **upstream != old.name && view.node(upstream).is_some_and(|upstream| upstream.report().is_some())
    };
    let others = view.nodes.iter().filter(|node| node.name != candidate.name || planted!(CandidateRepointed));
    others
        .map(|node| (node.name.clone(), node.meant_upstream.as_ref().filter(keeps).unwrap_or(&candidate.name).clone()))
        .collect()
}

fn steps(
    view: &GroupView,
    old: &NodeView,
    (candidate, ranked): (&NodeView, &[Ranked]),
    upstreams: &BTreeMap<String, String>,
    salvages: bool,
    loss: &LossEstimate,
) -> Vec<Step> {
    let mut steps = Vec::new();
    // Where a person has chosen between masters, the others become replicas.
    let came_back = returned_masters(view);
    let is_given_up = |node: &NodeView| {
        let takes_writes = candidate.is_answering_master() && node.is_answering_master();
        takes_writes && node.name != candidate.name && !came_back.contains(&node.name)
    };
    let fence = fence(old, candidate).filter(|_| !is_given_up(old));
    let is_fenced = matches!(fence, Some(Step::Fence { .. }));
    let has_a_tail = matches!(old.kept_stream, KeptStream::Dead { .. }) && !salvages && loss.gone().is_some();
    // Also a master that is ended though it answers, and leaves nothing to be salvaged.
    let can_tell = is_fenced && old.is_answering_master() && !salvages;
    if has_a_tail || can_tell {
        steps.push(Step::KeepTail { node: old.name.clone() });
    }
    let given_up = names(view, is_given_up).into_iter();
    steps.extend(given_up.map(|node| Step::Demote { node, to: candidate.name.clone() }));
    steps.extend(fence.filter(|_| !planted!(FenceSkipped)));
    // A dead master's stream ends; one that somebody demoted goes on feeding its replicas.
    let ends = old.name != candidate.name
        && !is_given_up(old)
        && if old.is_managed() { !is_replica(old) } else { old.answer == Answer::NotListening };
    // What a replica has that cannot be promoted may be on its way to one that can.
    let is_ranked = |node: &NodeView| ranked.iter().any(|one| one.node == node.name);
    let relays = |from: &NodeView, node: &NodeView| is_replica(from) && is_ranked(node) && !is_ranked(from);
    // As long as the old master lives, a link that is down may come up.
    let drains = |node: &NodeView, from: &NodeView| match from.name == old.name {
        true => is_fenced || is_linked(node),
        // Who lost its link gets it back from one that feeds others as long as that has one itself. Where a change of masters broke
        // off, another one may have been the master before, and have been started again.
        false if relays(from, node) => is_linked(node) || is_linked(from),
        false => is_linked(node) && has_stopped_feeding(from, node),
    };
    let draining = if ends {
        names(view, |node| view.followed_by(node).is_some_and(|from| drains(node, from)))
    } else {
        Vec::new()
    };
    if !draining.is_empty() && !planted!(DrainSkipped) {
        steps.push(Step::AwaitDrain { nodes: draining });
    }
    if salvages && !planted!(SalvageSkipped) {
        steps.push(Step::Salvage { node: old.name.clone(), to: candidate.name.clone() });
    }
    steps.push(Step::Promote { node: candidate.name.clone() });
    steps.push(Step::Confirm { node: candidate.name.clone() });
    let mut returned = returned_masters(view);
    // Who allowed to take them back allowed that for these, too.
    let is_taken_back = candidate.meant_upstream.is_none() && candidate.is_answering_master();
    let strangers = if is_taken_back { Vec::new() } else { of_unknown_history(view, &returned) };
    returned.retain(|name| *name != old.name && *name != candidate.name && !strangers.contains(name));
    let returned = returned.into_iter();
    steps.extend(returned.map(|node| Step::Demote { to: upstreams[&node].clone(), node }));
    let is_follower = |node: &NodeView| {
        let is_gone = is_fenced && node.name == old.name || strangers.contains(&node.name);
        let reaches = || upstreams.get(&node.name).and_then(|to| view.node(to)).is_some_and(|to| node.reaches(to));
        node.report().is_some() && node.name != candidate.name && !is_gone && reaches()
    };
    let is_demoted = |node: &NodeView| {
        steps.iter().any(|step| matches!(step, Step::Demote { node: demoted, .. } if *demoted == node.name))
    };
    let moved = repoints(view, candidate, upstreams, |node| is_follower(node) && !is_demoted(node));
    steps.extend(moved);
    let followers = names(view, is_follower);
    if !followers.is_empty() {
        steps.push(Step::ConfirmLinks { nodes: followers });
    }
    steps
}

/// What keeps the old master from taking writes: its process is ended, or it is told to follow; `None`: nothing is to be
/// done, or nothing more can be.
fn fence(old: &NodeView, candidate: &NodeView) -> Option<Step> {
    if old.name == candidate.name || is_replica(old) {
        return None;
    }
    let node = old.name.clone();
    match (old.is_managed(), old.report()) {
        (true, _) => old.is_alive().then_some(Step::Fence { node }),
        (false, Some(_)) if old.reaches(candidate) => Some(Step::Demote { node, to: candidate.name.clone() }),
        (false, _) => Some(Step::LeaveUnfenced { node }),
    }
}

fn switchover_steps(
    view: &GroupView,
    old: &NodeView,
    candidate: &NodeView,
    upstreams: &BTreeMap<String, String>,
) -> Vec<Step> {
    let mut steps = Vec::new();
    let (from, to) = (old.name.clone(), candidate.name.clone());
    if view.followed_by(candidate).is_none_or(|followed| followed.name != old.name) {
        steps.push(Step::Attach { node: to.clone(), to: from.clone() });
    }
    steps.push(Step::HandOver { from, to: to.clone() });
    steps.push(Step::Confirm { node: to });
    let follows = |node: &NodeView| node.report().is_some() && node.name != candidate.name;
    // The old master follows by itself once it has handed over.
    steps.extend(repoints(view, candidate, upstreams, |node| follows(node) && node.name != old.name));
    steps.push(Step::ConfirmLinks { nodes: names(view, follows) });
    steps
}

/// Who does not follow the right node yet, by that node, the candidate first.
fn repoints(
    view: &GroupView,
    candidate: &NodeView,
    upstreams: &BTreeMap<String, String>,
    is_follower: impl Fn(&NodeView) -> bool,
) -> Vec<Step> {
    let targets = std::iter::once(candidate).chain(view.nodes.iter().filter(|node| node.name != candidate.name));
    let moves_to = |node: &NodeView, to: &NodeView| {
        upstreams.get(&node.name) == Some(&to.name)
            && view.followed_by(node).is_none_or(|followed| followed.name != to.name)
    };
    let moved = targets.map(|to| (names(view, |node| is_follower(node) && moves_to(node, to)), to));
    moved
        .filter(|(nodes, _)| !nodes.is_empty() && !planted!(RepointForgotten))
        .map(|(nodes, to)| Step::Repoint { nodes, to: to.name.clone() })
        .collect()
}

fn is_linked(node: &NodeView) -> bool {
    node.report().and_then(|report| report.replication.upstream()).is_none_or(|upstream| upstream.link == Link::Up)
}

/// Whether a replica that says that it is linked only reads what its upstream had sent before it ended.
pub(super) fn has_stopped_feeding(upstream: &NodeView, replica: &NodeView) -> bool {
    match &upstream.answer {
        Answer::NotListening => upstream.is_dead(),
        Answer::Loading => true,
        Answer::Report(report) => report.replication.replicas.iter().all(|one| one.port != replica.announced.port),
        _ => false,
    }
}

fn offset_of(node: &NodeView) -> u64 {
    node.report().map_or(0, |report| report.replication.offset)
}

fn is_replica(node: &NodeView) -> bool {
    node.report().is_some_and(|report| !report.replication.is_master())
}

fn names(view: &GroupView, is_meant: impl Fn(&NodeView) -> bool) -> Vec<String> {
    view.nodes.iter().filter(|node| is_meant(node)).map(|node| node.name.clone()).collect()
}

#[cfg(test)]
pub(super) mod tests;
