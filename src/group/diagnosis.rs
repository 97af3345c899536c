//! The name of what is wrong with a group: a pure function of a [`GroupView`], and the gravest finding wins.

use std::fmt;

use serde::Serialize;

use super::unmanaged::{came_back_with_less, of_unknown_history, returned_masters};
use super::view::{Answer, GroupView, NodeView};
use crate::wire::Link;

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
    /// The master's process has ended and nobody took its place.
    MasterDead {
        /// The master.
        master: String,
    },
    /// The master's process lives and does not answer.
    MasterHung {
        /// The master.
        master: String,
    },
    /// The master, which replctl did not start, does not answer: nobody here can know whether it serves others.
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

    /// What the user may do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Healthy => None,
            Self::Down => Some("replctl up".to_owned()),
            Self::TwoMasters { .. } => Some(
                "choose the one whose writes are kept, end the others (replctl cli NODE SHUTDOWN NOSAVE), then replctl promote"
                    .to_owned(),
            ),
            Self::MasterMoved { to, .. } => Some(format!("replctl promote lets the others follow {to}")),
            Self::UnfencedMaster { master, unknown, .. } => {
                let force = if unknown.is_empty() { "" } else { " --force" };
                Some(format!("replctl promote{force} lets them follow {master}; what only they have is counted and dropped"))
            }
            Self::MasterUnreachable { linked, .. } if !linked.is_empty() => {
                Some("replicas say that it serves them: find out what is between it and here".to_owned())
            }
            Self::MasterUnreachable { master, .. } => {
                Some(format!("make sure that {master} has ended or is cut off, then replctl promote --force"))
            }
            Self::MasterDead { .. } | Self::NoMaster { .. } | Self::MasterCameBackWithLess { .. } => {
                Some("replctl promote".to_owned())
            }
            Self::UnmanagedUnreachable { .. } => {
                Some("start them where they run; replctl up then lets them follow".to_owned())
            }
            Self::MasterHung { master } => Some(format!("replctl promote ends {master} and promotes a replica")),
            Self::MasterRefusesUs { master, .. } => Some(log_of(master)),
            Self::MasterLoading { .. } => Some("wait until it has loaded".to_owned()),
            Self::OrphanedReplicas { master, .. } => Some(format!("replctl promote lets them follow {master}")),
            Self::ReplicasUnreachable { .. } => Some("replctl up starts what is missing".to_owned()),
            Self::ReplicasNeverSynced { nodes } | Self::LinksDown { nodes } => {
                nodes.first().map(|node| log_of(node))
            }
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
            Self::MasterDead { master } => write!(out, "the master {master} is dead"),
            Self::MasterHung { master } => write!(out, "the master {master} lives and does not answer"),
            Self::MasterRefusesUs { master, error } => write!(out, "the master {master} answers, but not us: {error}"),
            Self::MasterLoading { master } => write!(out, "the master {master} is loading its data"),
            Self::NoMaster { meant } => write!(out, "{meant} is meant to be the master and follows another node"),
            Self::OrphanedReplicas { master, nodes } => {
                write!(out, "under {master}, these follow another node than they are meant to: {}", listed(nodes))
            }
            Self::ReplicasUnreachable { nodes } => write!(out, "cannot be reached: {}", listed(nodes)),
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
    match masters.as_slice() {
        [] => diagnose_missing_master(view, meant),
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

fn diagnose_missing_master(view: &GroupView, meant: &NodeView) -> Diagnosis {
    let master = meant.name.clone();
    match &meant.answer {
        Answer::Report(_) => Diagnosis::NoMaster { meant: master },
        Answer::Loading => Diagnosis::MasterLoading { master },
        Answer::Error(error) if meant.is_alive() => Diagnosis::MasterRefusesUs { master, error: error.clone() },
        _ if !meant.is_managed() => {
            let (why, linked) = (meant.silence(), linked_to(view, meant));
            Diagnosis::MasterUnreachable { master, why, linked }
        }
        _ if meant.is_alive() => Diagnosis::MasterHung { master },
        _ => Diagnosis::MasterDead { master },
    }
}

/// The nodes that say that their link to this one is up.
pub(super) fn linked_to(view: &GroupView, upstream: &NodeView) -> Vec<String> {
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

    let orphaned = select(&|node| node.report().is_some() && !follows_as_meant(node));
    if !orphaned.is_empty() {
        return Diagnosis::OrphanedReplicas { master: master.name.clone(), nodes: orphaned };
    }
    let unreachable = select(&|node| node.report().is_none());
    if !unreachable.is_empty() && unreachable.iter().all(|name| view.node(name).is_some_and(|node| !node.is_managed()))
    {
        return Diagnosis::UnmanagedUnreachable { nodes: unreachable };
    }
    if !unreachable.is_empty() {
        return Diagnosis::ReplicasUnreachable { nodes: unreachable };
    }
    let never_synced = select(&|node| upstream(node).is_some_and(|upstream| !upstream.holds_data));
    if !never_synced.is_empty() {
        return Diagnosis::ReplicasNeverSynced { nodes: never_synced };
    }
    let down = select(&|node| upstream(node).is_some_and(|upstream| upstream.link != Link::Up));
    if !down.is_empty() {
        return Diagnosis::LinksDown { nodes: down };
    }
    Diagnosis::Healthy
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
