//! The name of what is wrong with a group: a pure function of a [`GroupView`], and the gravest finding wins.

use std::fmt;

use serde::Serialize;

use super::plan::{Rejected, nobody_left, reasons};
use super::unmanaged::{came_back_with_less, of_unknown_history, returned_masters};
use super::view::{Answer, GroupView, NodeView};
use crate::process::Condition;
use crate::wire::{Link, Replication, ReplicationId, Upstream};

/// A link that is down for longer is no hiccup: it is tried anew every second.
const CUT_OFF_SECONDS_MIN: u64 = 30;
/// Who is linked and lacks more than this does not keep up: as much as the backlog that replctl gives to every node.
const BEHIND_BYTES_MAX: u64 = 16 << 20;

/// What is wrong with a group, gravest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum Diagnosis {
    /// No process of the group lives.
    Down,
    /// More than one node takes writes.
    TwoMasters {
        /// All that do.
        masters: Vec<String>,
    },
    /// Nodes that came back by themselves take writes beside the group's master: nobody could fence them when they were
    /// replaced, or they were restarted as masters.
    UnfencedMaster {
        /// The node that is meant to be the master.
        master: String,
        /// Those that came back.
        nodes: Vec<String>,
        /// Those of them that have data of a history that nobody knows: perhaps they are strangers.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        unknown: Vec<String>,
    },
    /// The node that is meant to be the master does not take writes, and another one does.
    MasterMoved {
        /// The node that is meant to.
        from: String,
        /// The one that does.
        to: String,
    },
    /// The master's port answers again, as another run of a server with another and smaller history: whoever follows it
    /// loses what the group had.
    EmptyMaster {
        /// The master.
        master: String,
        /// The process that answers.
        process_id: u32,
        /// The keys that it has.
        keys: u64,
        /// The nodes that still hold the group's history.
        holders: Vec<String>,
        /// The nodes that have taken over its own already.
        wiped: Vec<String>,
    },
    /// Nodes follow each other in a circle.
    Cycle {
        /// The circle, each following the next and the last the first.
        nodes: Vec<String>,
        /// The master, if there is one beside it.
        master: Option<String>,
    },
    /// The master's process has ended and nobody took its place.
    MasterDead {
        /// The master.
        master: String,
    },
    /// The master's process lives and does not answer, and no replica hears from it.
    MasterHung {
        /// The master.
        master: String,
    },
    /// The master is lost, and no node may take its place.
    NoCandidate {
        /// The master.
        master: String,
        /// All others, with the reason.
        rejected: Vec<Rejected>,
    },
    /// The master does not answer, and may well serve others: replicas hear from it, or replctl did not start it.
    MasterUnreachable {
        /// The master.
        master: String,
        /// What came back instead of an answer.
        why: String,
        /// The replicas that say that their link to it is up.
        linked: Vec<String>,
    },
    /// The master was restarted by somebody, with less than its replicas hold: by following it they would lose that.
    MasterCameBackWithLess {
        /// The master.
        master: String,
    },
    /// The master answers with an error: it is not dead, and may well serve others.
    MasterRefusesUs {
        /// The master.
        master: String,
        /// What it says.
        error: String,
    },
    /// The master loads its data set.
    MasterLoading {
        /// The master.
        master: String,
    },
    /// The node that is meant to be the master follows another one, and nobody takes writes.
    NoMaster {
        /// The node that is meant to.
        meant: String,
    },
    /// The master takes writes, and replicas follow somebody else than they are meant to.
    OrphanedReplicas {
        /// The master.
        master: String,
        /// The replicas.
        nodes: Vec<String>,
    },
    /// Replicas do not run or do not answer.
    ReplicasUnreachable {
        /// The replicas.
        nodes: Vec<String>,
    },
    /// Replicas load their data set.
    ReplicasLoading {
        /// The replicas.
        nodes: Vec<String>,
    },
    /// Nodes that replctl did not start do not answer.
    UnmanagedUnreachable {
        /// The nodes.
        nodes: Vec<String>,
    },
    /// Replicas hold no usable data yet: their first synchronization has not finished.
    ReplicasNeverSynced {
        /// The replicas.
        nodes: Vec<String>,
    },
    /// Replicas are so far behind that they would cost data if one had to be promoted: their link is down for long, or they
    /// lack more than the master's backlog has.
    ReplicasStale {
        /// The replicas.
        nodes: Vec<String>,
    },
    /// Replicas have no link to the node that they follow.
    LinksDown {
        /// The replicas.
        nodes: Vec<String>,
    },
    /// One master takes writes and every replica follows as it is meant to.
    Healthy,
}

impl Diagnosis {
    /// Whether all is as it is meant to be.
    pub fn is_healthy(&self) -> bool {
        *self == Self::Healthy
    }

    /// Whether it is about replicas, and there are any.
    fn names_replicas(&self) -> bool {
        match self {
            Self::ReplicasUnreachable { nodes }
            | Self::UnmanagedUnreachable { nodes }
            | Self::ReplicasLoading { nodes }
            | Self::ReplicasNeverSynced { nodes }
            | Self::ReplicasStale { nodes }
            | Self::LinksDown { nodes } => !nodes.is_empty(),
            _ => false,
        }
    }

    /// What the user may do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Healthy => None,
            Self::Down => Some("replctl up".to_owned()),
            Self::TwoMasters { .. } => Some(
                "replctl promote NODE --force keeps the writes of NODE; what only the others have is saved as a list of commands"
                    .to_owned(),
            ),
            Self::MasterMoved { to, .. } => Some(format!("replctl promote lets the others follow {to}")),
            Self::EmptyMaster { holders, process_id, .. } if holders.is_empty() => Some(format!(
                "nobody has the group's data any more: end process {process_id}, and restore the master's own files"
            )),
            Self::EmptyMaster { process_id, .. } => {
                Some(format!("replctl promote saves what is left; end process {process_id}, so that no client writes to it"))
            }
            Self::Cycle { master: Some(master), .. } => Some(format!("replctl promote lets them follow {master}")),
            Self::NoCandidate { master, .. } => Some(format!(
                "replctl logs tells why; replctl up or replctl start NODE brings others back, replctl start {master} --force the master itself"
            )),
            Self::UnfencedMaster { master, unknown, .. } => {
                let force = if unknown.is_empty() { "" } else { " --force" };
                Some(format!("replctl promote{force} lets them follow {master}; what only they have is counted and kept as a list of commands"))
            }
            Self::MasterUnreachable { linked, .. } if !linked.is_empty() => Some(
                "do not promote: replicas say that it serves them; find out what is between it and here".to_owned(),
            ),
            Self::MasterUnreachable { master, .. } => {
                Some(format!("make sure that {master} has ended or is cut off, then replctl promote --force"))
            }
            Self::Cycle { master: None, .. }
            | Self::MasterDead { .. }
            | Self::NoMaster { .. }
            | Self::MasterCameBackWithLess { .. } => Some("replctl promote".to_owned()),
            Self::UnmanagedUnreachable { .. } => {
                Some("start them where they run; replctl up then lets them follow".to_owned())
            }
            Self::MasterHung { master } => Some(format!("replctl promote ends {master} and promotes a replica")),
            Self::MasterRefusesUs { master, .. } => Some(log_of(master)),
            Self::MasterLoading { .. } => Some("wait until it has loaded".to_owned()),
            Self::OrphanedReplicas { master, .. } => Some(format!("replctl promote lets them follow {master}")),
            Self::ReplicasUnreachable { .. } => Some("replctl up starts what is missing".to_owned()),
            Self::ReplicasLoading { .. } => Some("wait until they have loaded".to_owned()),
            Self::ReplicasNeverSynced { nodes } | Self::LinksDown { nodes } => {
                nodes.first().map(|node| log_of(node))
            }
            Self::ReplicasStale { nodes } => nodes
                .first()
                .map(|node| format!("replctl logs {node}; until it has caught up, a promotion of it would lose writes")),
        }
    }
}

fn log_of(node: &str) -> String {
    format!("replctl logs {node}; of a server that replctl did not start, its log where it runs")
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down => write!(out, "nothing of the group runs"),
            Self::TwoMasters { masters } => write!(out, "{} take writes at the same time", listed(masters)),
            Self::UnfencedMaster { master, nodes, unknown } => {
                write!(out, "came back and take writes beside the master {master}: {}", listed(nodes))?;
                match unknown.is_empty() {
                    true => Ok(()),
                    false => write!(out, " (restarted without what they had, or strangers: {})", listed(unknown)),
                }
            }
            Self::MasterUnreachable { master, why, linked } => {
                write!(out, "the master {master} cannot be reached from here ({why})")?;
                match linked.is_empty() {
                    true => Ok(()),
                    false => write!(out, ", and serves {}", listed(linked)),
                }
            }
            Self::MasterCameBackWithLess { master } => {
                write!(out, "the master {master} was restarted, with less than its replicas hold")
            }
            Self::UnmanagedUnreachable { nodes } => {
                write!(out, "cannot be reached: {}, which replctl did not start", listed(nodes))
            }
            Self::MasterMoved { from, to } => write!(out, "{to} takes writes in place of {from}"),
            Self::EmptyMaster { master, process_id, keys, holders, wiped } => {
                write!(out, "{master} came back without the group's history (process {process_id}, {keys} keys)")?;
                if !wiped.is_empty() {
                    write!(out, "; already follow it: {}", listed(wiped))?;
                }
                match holders.as_slice() {
                    [] => write!(out, "; nobody holds the group's data any more"),
                    holders => write!(out, "; the group's data is on {}", listed(holders)),
                }
            }
            Self::Cycle { nodes, .. } => {
                write!(out, "nodes follow each other in a circle: {} -> {}", nodes.join(" -> "), nodes[0])
            }
            Self::NoCandidate { master, rejected } => {
                write!(out, "the master {master} is lost, and nobody can take its place: {}", reasons(rejected))
            }
            Self::MasterDead { master } => write!(out, "the master {master} is dead"),
            Self::MasterHung { master } => write!(out, "the master {master} lives and does not answer"),
            Self::MasterRefusesUs { master, error } => write!(out, "the master {master} answers, but not us: {error}"),
            Self::MasterLoading { master } => write!(out, "the master {master} is loading its data"),
            Self::NoMaster { meant } => write!(out, "{meant} is meant to be the master and follows another node"),
            Self::OrphanedReplicas { master, nodes } => {
                write!(out, "under {master}, these follow another node than they are meant to: {}", listed(nodes))
            }
            Self::ReplicasUnreachable { nodes } => write!(out, "cannot be reached: {}", listed(nodes)),
            Self::ReplicasLoading { nodes } => write!(out, "loading their data: {}", listed(nodes)),
            Self::ReplicasStale { nodes } => {
                write!(out, "far behind, or without a link for long: {}", listed(nodes))
            }
            Self::ReplicasNeverSynced { nodes } => write!(out, "a first sync never finished: {}", listed(nodes)),
            Self::LinksDown { nodes } => write!(out, "without a link to the upstream: {}", listed(nodes)),
            Self::Healthy => write!(out, "healthy"),
        }
    }
}

/// Names what is wrong. Nodes that are not meant to run count as unreachable.
pub fn diagnose(view: &GroupView) -> Diagnosis {
    if view.nodes.iter().all(NodeView::is_dead) {
        return Diagnosis::Down;
    }
    let returned = returned_masters(view);
    let masters: Vec<String> = view
        .nodes
        .iter()
        .filter(|node| node.is_answering_master() && !returned.contains(&node.name))
        .map(|node| node.name.clone())
        .collect();
    let meant = view.meant_master();
    if let (Some(returned), [] | [_]) = (returned_smaller(view, meant), masters.as_slice())
        && masters.first().is_none_or(|only| *only == meant.name)
    {
        return returned;
    }
    match masters.as_slice() {
        [] => diagnose_missing_master(view, meant),
        // Also while it loads, a server says how it is.
        [only] if *only == meant.name && meant.report().is_some_and(|report| report.is_loading) => {
            Diagnosis::MasterLoading { master: only.clone() }
        }
        [only] if *only == meant.name && came_back_with_less(view, meant) => {
            Diagnosis::MasterCameBackWithLess { master: only.clone() }
        }
        [only] if *only == meant.name && !returned.is_empty() => {
            let unknown = of_unknown_history(view, &returned);
            Diagnosis::UnfencedMaster { master: only.clone(), nodes: returned, unknown }
        }
        [only] if *only == meant.name => diagnose_replicas(view, meant),
        [only] => Diagnosis::MasterMoved { from: meant.name.clone(), to: only.clone() },
        _ => Diagnosis::TwoMasters { masters },
    }
}

/// Whether a master came back without the group's history.
pub(super) fn has_returned_smaller(view: &GroupView, master: &NodeView) -> bool {
    returned_smaller(view, master).is_some()
}

/// A master that was restarted without its data looks like any other: it is known by a history that has nothing to do with
/// the group's and is shorter than what others hold of that.
fn returned_smaller(view: &GroupView, meant: &NodeView) -> Option<Diagnosis> {
    // What is known of others is told otherwise.
    let recorded = view.recorded_replid.as_ref().filter(|_| meant.is_managed())?;
    let (report, is_ours) = match &meant.answer {
        Answer::Report(report) => (report, true),
        Answer::Stranger { report } => (report, false),
        _ => return None,
    };
    let own = &report.replication;
    let continues = own.replid == *recorded || own.former.as_ref().is_some_and(|former| former.replid == *recorded);
    // What is still loading does not know its history yet.
    if !own.is_master() || continues || report.is_loading {
        return None;
    }
    let select = |replid: &ReplicationId| {
        let replicas = view.nodes.iter().filter(|node| node.name != meant.name);
        let holds = |replication: &Replication| {
            replication.replid == *replid && replication.upstream().is_some_and(|upstream| upstream.holds_data)
        };
        replicas.filter(|node| node.report().is_some_and(|report| holds(&report.replication))).collect::<Vec<_>>()
    };
    let (holders, wiped) = (select(recorded), select(&own.replid));
    let held = holders.iter().filter_map(|node| Some(node.report()?.replication.offset)).max();
    // One of ours with another history may be the group's after all, if nobody has more.
    if is_ours && held.is_none_or(|held| held <= own.offset) || holders.is_empty() && wiped.is_empty() {
        return None;
    }
    let names = |nodes: Vec<&NodeView>| nodes.iter().map(|node| node.name.clone()).collect();
    Some(Diagnosis::EmptyMaster {
        master: meant.name.clone(),
        process_id: report.process_id,
        keys: report.keys,
        holders: names(holders),
        wiped: names(wiped),
    })
}

fn diagnose_missing_master(view: &GroupView, meant: &NodeView) -> Diagnosis {
    let master = meant.name.clone();
    match &meant.answer {
        Answer::Report(_) => match circle(view) {
            Some(nodes) => Diagnosis::Cycle { nodes, master: None },
            None => Diagnosis::NoMaster { meant: master },
        },
        Answer::Loading => Diagnosis::MasterLoading { master },
        Answer::Error(error) if meant.is_alive() => Diagnosis::MasterRefusesUs { master, error: error.clone() },
        _ => diagnose_silent_master(view, meant),
    }
}

fn diagnose_silent_master(view: &GroupView, meant: &NodeView) -> Diagnosis {
    let master = meant.name.clone();
    // A process that a signal has stopped serves nobody, whatever its sockets look like.
    let linked = match meant.condition() {
        None => linked_to(view, meant),
        Some(Condition::Running) => heard_lately(view, meant),
        Some(_) => Vec::new(),
    };
    if !meant.is_managed() || !linked.is_empty() {
        return Diagnosis::MasterUnreachable { master, why: meant.silence(), linked };
    }
    match nobody_left(view, meant) {
        Some(rejected) => Diagnosis::NoCandidate { master, rejected },
        None if meant.is_alive() => Diagnosis::MasterHung { master },
        None => Diagnosis::MasterDead { master },
    }
}

/// The replicas that a silent master still speaks to, as far as anybody can tell who is as patient as the view.
fn heard_lately(view: &GroupView, master: &NodeView) -> Vec<String> {
    let hears = |name: &String| {
        let replication = view.node(name).and_then(NodeView::report).map(|report| &report.replication);
        let silent_seconds = replication.and_then(Replication::upstream).and_then(|upstream| upstream.silent_seconds);
        silent_seconds.is_none_or(|seconds| seconds <= view.heard_seconds_max)
    };
    linked_to(view, master).into_iter().filter(hears).collect()
}

/// A circle of nodes that follow each other, if there is one, from one of ours on. Strangers at a node's address are links of it, too:
/// whoever follows that address follows them.
fn circle(view: &GroupView) -> Option<Vec<String>> {
    let above = |node: &&NodeView| match &node.answer {
        Answer::Report(report) | Answer::Stranger { report } => {
            view.node_at(&report.replication.upstream()?.address(), node)
        }
        _ => None,
    };
    view.nodes.iter().filter(|node| node.report().is_some()).find_map(|first| {
        let chain: Vec<&NodeView> = std::iter::successors(Some(first), above).take(view.nodes.len() + 1).collect();
        let again = chain.iter().skip(1).position(|node| node.name == first.name)?;
        Some(chain[..=again].iter().map(|node| node.name.clone()).collect())
    })
}

/// The nodes that say that their link to this one is up.
fn linked_to(view: &GroupView, upstream: &NodeView) -> Vec<String> {
    let is_linked = |node: &&NodeView| {
        let link = node.report().and_then(|report| report.replication.upstream()).map(|upstream| &upstream.link);
        link == Some(&Link::Up) && view.followed_by(node).is_some_and(|followed| followed.name == upstream.name)
    };
    view.nodes.iter().filter(is_linked).map(|node| node.name.clone()).collect()
}

fn diagnose_replicas(view: &GroupView, master: &NodeView) -> Diagnosis {
    let select = |is_affected: &dyn Fn(&NodeView) -> bool| -> Vec<String> {
        let replicas = view.nodes.iter().filter(|node| node.name != master.name);
        replicas.filter(|node| is_affected(node)).map(|node| node.name.clone()).collect()
    };
    let upstream = |node: &NodeView| node.report().and_then(|report| report.replication.upstream()).cloned();
    let follows_as_meant =
        |node: &NodeView| view.followed_by(node).map(|followed| &followed.name) == node.meant_upstream.as_ref();

    if let Some(nodes) = circle(view) {
        return Diagnosis::Cycle { nodes, master: Some(master.name.clone()) };
    }
    let orphaned = select(&|node| node.report().is_some() && !follows_as_meant(node));
    if !orphaned.is_empty() {
        return Diagnosis::OrphanedReplicas { master: master.name.clone(), nodes: orphaned };
    }
    let is_loading =
        |node: &NodeView| node.answer == Answer::Loading || node.report().is_some_and(|report| report.is_loading);
    let follows = |is_so: &dyn Fn(&Upstream) -> bool| select(&|node| upstream(node).is_some_and(|own| is_so(&own)));
    let signs = [
        unreachable(view, select(&|node| node.report().is_none() && !is_loading(node))),
        Diagnosis::ReplicasLoading { nodes: select(&is_loading) },
        Diagnosis::ReplicasNeverSynced { nodes: follows(&|own| !own.holds_data) },
        Diagnosis::ReplicasStale { nodes: select(&|node| is_stale(node, master)) },
        Diagnosis::LinksDown { nodes: follows(&|own| own.link != Link::Up) },
    ];
    signs.into_iter().find(Diagnosis::names_replicas).unwrap_or(Diagnosis::Healthy)
}

/// Replicas that do not answer: those that replctl did not start it cannot bring back.
fn unreachable(view: &GroupView, nodes: Vec<String>) -> Diagnosis {
    match nodes.iter().all(|name| view.node(name).is_some_and(|node| !node.is_managed())) {
        true => Diagnosis::UnmanagedUnreachable { nodes },
        false => Diagnosis::ReplicasUnreachable { nodes },
    }
}

/// Whether a replica lacks so much that it would be a loss to promote it.
fn is_stale(node: &NodeView, master: &NodeView) -> bool {
    let (Some(own), Some(above)) = (node.report(), master.report()) else { return false };
    let (own, above) = (&own.replication, &above.replication);
    let was_cut_off = own.upstream().is_some_and(
        |upstream| matches!(upstream.link, Link::Down { seconds: Some(seconds) } if seconds >= CUT_OFF_SECONDS_MIN),
    );
    let is_beyond_backlog = above.replid == own.replid
        && own.upstream().is_some_and(|upstream| upstream.link != Link::Up)
        && above.backlog.as_ref().is_some_and(|backlog| own.offset < backlog.start);
    let is_far_behind = above.replid == own.replid && above.offset.saturating_sub(own.offset) > BEHIND_BYTES_MAX;
    was_cut_off || is_beyond_backlog || is_far_behind
}

/// `a`, `a and b`, `a, b and c`; of a crowd the first ones and how many more.
pub fn listed(names: &[String]) -> String {
    const NAMED_MAX: usize = 10;
    match names {
        [] => String::new(),
        [only] => only.clone(),
        _ if names.len() > NAMED_MAX => {
            format!("{} and {} more", names[..NAMED_MAX].join(", "), names.len() - NAMED_MAX)
        }
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_listed_as_a_person_would() {
        let names = |count: usize| (1..=count).map(|number| format!("n{number}")).collect::<Vec<_>>();
        assert_eq!(listed(&names(0)), "");
        assert_eq!(listed(&names(1)), "n1");
        assert_eq!(listed(&names(2)), "n1 and n2");
        assert_eq!(listed(&names(3)), "n1, n2 and n3");
        assert_eq!(listed(&names(99)), "n1, n2, n3, n4, n5, n6, n7, n8, n9, n10 and 89 more");
    }
}
