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

mod loss;
mod step;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::loss::{DataAge, LossEstimate, LostRange, NoSalvage};
use self::loss::{estimate_loss, is_stale, loss_of_returned, loss_of_the_other, salvage};
pub use self::step::Step;
use self::step::{steps, switchover_steps, upstreams_after};
use super::diagnosis::{Diagnosis, diagnose, has_returned_smaller, listed};
use super::unmanaged::came_back_with_less;
use super::view::{Answer, GroupView, NodeView};
use crate::wire::{Link, NodeReport, Replication, ReplicationId};

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
        let salvage = salvage(view, old, candidate, &lineage);
        Self {
            group: view.group.clone(),
            old_master: old.name.clone(),
            candidate: candidate.name.clone(),
            lineage,
            steps: steps(view, old, (candidate, &ranked), &upstreams, salvage.as_ref().ok().copied(), &loss),
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
