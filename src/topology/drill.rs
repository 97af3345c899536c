//! `[[drill]]`: a failure to rehearse, as its file describes it. Here is what is wished; [`crate::drill`] does it.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::Node;
use super::diagnostic::{Diagnostic, nearest, quoted};
use super::link::{LinkFault, LinkOptions};
use super::raw::RawDrill;

/// A rehearsal: load, what happens under it, and what must hold afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drill {
    /// Unique in its file.
    pub name: String,
    /// What is written meanwhile.
    pub load: Load,
    /// What happens, one after the other.
    pub steps: Vec<DrillStep>,
    /// What must hold afterwards.
    pub expect: Expectations,
}

/// What writers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// `SET` of unique keys.
    Set,
    /// `RPUSH` of unique numbers onto few lists.
    Append,
    /// `SET` and `GET` of few keys, checked for linearizability.
    Register,
    /// Commands on all types, with deadlines; the nodes' data are compared afterwards.
    Mixed,
    /// `INCR` of few counters.
    Counter,
}

impl Workload {
    /// Every workload, as a file names it.
    pub const ALL: [(&'static str, Workload); 5] = [
        ("set", Workload::Set),
        ("append", Workload::Append),
        ("register", Workload::Register),
        ("mixed", Workload::Mixed),
        ("counter", Workload::Counter),
    ];
}

/// How much is written, and what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Load {
    /// Writers, each with a connection.
    pub writers: u32,
    /// What they do.
    pub workload: Workload,
    /// Requests a second of each writer at most; `None`: as many as it gets answered.
    pub rate: Option<u32>,
    /// Bytes of a value at least.
    pub value_bytes: usize,
    /// Replicas that must have a write before it counts as acknowledged (`WAIT`).
    pub wait: u32,
}

impl Default for Load {
    fn default() -> Self {
        Self { writers: 8, workload: Workload::Set, rate: None, value_bytes: 64, wait: 0 }
    }
}

/// Something that happens during a drill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrillStep {
    /// How long after the end of the step before, or after the first writes.
    pub after: Duration,
    /// What.
    pub act: Act,
}

/// What happens in a step: replctl's own verbs, and what befalls files, disks and processors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// The master's process is killed.
    KillMaster,
    /// A node's process is killed.
    Kill(Target),
    /// A node hangs.
    Pause(Target),
    /// A node that hangs goes on.
    Resume(Target),
    /// A node that does not run is started.
    Start {
        /// Which.
        node: Target,
        /// Whether its link is waited for.
        waits: bool,
    },
    /// The files of a node that does not run are gone, as after the loss of its disk.
    Wipe(Target),
    /// Nothing more fits onto a node's disk.
    FillDisk(Target),
    /// There is room again.
    FreeDisk(Target),
    /// All processors are kept busy by others.
    HogCpu,
    /// They are let go.
    FreeCpu,
    /// A replica ends and is started again.
    Restart(Target),
    /// Every node ends and is started again, one after the other.
    RestartAll,
    /// A lost master is replaced, by this node or the best one.
    Promote(Option<Target>),
    /// The master hands over, to this node or the best one.
    Switchover(Option<Target>),
    /// A replica follows another node.
    Repoint {
        /// The replica.
        node: Target,
        /// Its new upstream.
        to: Target,
    },
    /// Something happens to a link.
    Link {
        /// The replica.
        node: Target,
        /// The link's other end; `None`: the node that it follows.
        to: Option<Target>,
        /// What.
        fault: LinkFault,
    },
}

/// The node that a step is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Who is the master when the step begins.
    Master,
    /// Who was the master when the drill began.
    OldMaster,
    /// The first node that follows another one when the step begins.
    Replica,
    /// Every node that does.
    Replicas,
    /// This one.
    Node(String),
}

/// What must hold after a drill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Expectations {
    /// Acknowledged writes that may be gone. `None`: that is told and not judged.
    pub lost: Option<u64>,
    /// The longest time for which no write may be acknowledged. `None`: not judged.
    pub outage: Option<Duration>,
    /// How replicas come to a master's history. `None`: not judged.
    pub resync: Option<WishedResync>,
    /// How many nodes are masters at the end.
    pub master_count: usize,
    /// Whether every node that runs must hold the same at the end.
    pub converged: bool,
}

impl Default for Expectations {
    fn default() -> Self {
        Self { lost: None, outage: None, resync: None, master_count: 1, converged: true }
    }
}

/// How every replica that found a new upstream must have come to its history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WishedResync {
    /// It went on where it was.
    Partial,
    /// It got everything anew.
    Full,
}

const VERBS: [&str; 15] = [
    "kill-master",
    "kill",
    "pause",
    "resume",
    "start",
    "wipe",
    "fill-disk",
    "free-disk",
    "hog-cpu",
    "free-cpu",
    "restart",
    "promote",
    "switchover",
    "repoint",
    "link",
];

impl Act {
    /// Reads a step such as `kill n2` for a group of these nodes.
    ///
    /// # Errors
    /// What is wrong with it, and what may help.
    fn parse(text: &str, nodes: &[&str]) -> Result<Self, (String, String)> {
        let any = |word: &str| Target::parse(word, nodes);
        let target = |word: &str| match Target::parse(word, nodes)? {
            Target::Replicas => {
                let hint = "`replicas` is for kill, wipe, start and link".to_owned();
                Err((format!("{} is no step of a drill", quoted(text)), hint))
            }
            one => Ok(one),
        };
        let words: Vec<&str> = text.split_whitespace().collect();
        Ok(match words[..] {
            ["kill-master"] => Self::KillMaster,
            ["kill", node] => Self::Kill(any(node)?),
            ["pause", node] => Self::Pause(target(node)?),
            ["resume", node] => Self::Resume(target(node)?),
            ["start", node] => Self::Start { node: any(node)?, waits: true },
            ["start", node, "--no-wait"] => Self::Start { node: any(node)?, waits: false },
            ["wipe", node] => Self::Wipe(any(node)?),
            ["fill-disk", node] => Self::FillDisk(target(node)?),
            ["free-disk", node] => Self::FreeDisk(target(node)?),
            ["hog-cpu"] => Self::HogCpu,
            ["free-cpu"] => Self::FreeCpu,
            ["restart", "--all"] => Self::RestartAll,
            ["restart", node] => Self::Restart(target(node)?),
            ["promote"] => Self::Promote(None),
            ["promote", node] => Self::Promote(Some(target(node)?)),
            ["switchover"] => Self::Switchover(None),
            ["switchover", node] => Self::Switchover(Some(target(node)?)),
            ["repoint", node, "--to", to] => Self::Repoint { node: target(node)?, to: target(to)? },
            ["link", verb, node, ref options @ ..] => Self::parse_link(text, verb, node, options, nodes)?,
            _ => return Err(no_act(text, words.first().copied().unwrap_or_default())),
        })
    }

    fn parse_link(
        text: &str,
        verb: &str,
        node: &str,
        options: &[&str],
        nodes: &[&str],
    ) -> Result<Self, (String, String)> {
        let refused = |hint: String| (format!("{} is no step of a drill", quoted(text)), hint);
        let (mut said, mut to) = (LinkOptions::default(), None);
        for option in options.chunks(2) {
            let [name, value] = option else { return Err(refused(format!("`{}` lacks its value", option[0]))) };
            let place = match *name {
                "--to" => &mut to,
                "--direction" => &mut said.direction,
                "--latency" => &mut said.latency,
                "--jitter" => &mut said.jitter,
                "--bandwidth" => &mut said.bandwidth,
                "--close-delay" => &mut said.close_delay,
                "--after-bytes" => &mut said.after_bytes,
                _ => return Err(refused(format!("`{name}` is no option of `link`"))),
            };
            *place = Some((*value).to_owned());
        }
        let node = Target::parse(node, nodes)?;
        let to = to.map(|to| Target::parse(&to, nodes)).transpose()?;
        if to == Some(Target::Replicas) {
            return Err(refused("`--to` names one node".to_owned()));
        }
        let fault = LinkFault::new(verb, &said).map_err(refused)?;
        Ok(Self::Link { node, to, fault })
    }

    /// Whether the group's links must be such as can be broken.
    pub fn needs_link_faults(&self) -> bool {
        matches!(self, Self::Link { .. })
    }

    /// Whether each node must have a disk of its own, which can be full.
    pub fn needs_disks(&self) -> bool {
        matches!(self, Self::FillDisk(_) | Self::FreeDisk(_))
    }

    /// Whether it disturbs writes or links, so that a drill has something to judge.
    pub fn is_disturbance(&self) -> bool {
        !matches!(
            self,
            Self::Resume(_)
                | Self::Start { .. }
                | Self::Wipe(_)
                | Self::FreeDisk(_)
                | Self::FreeCpu
                | Self::Promote(_)
                | Self::Link { fault: LinkFault::Heal, .. }
        )
    }

    /// Whether what it does goes on when it is done, until something is done about it.
    pub fn goes_on(&self) -> bool {
        let lasts =
            matches!(self, Self::KillMaster | Self::Kill(_) | Self::Pause(_) | Self::FillDisk(_) | Self::HogCpu);
        lasts || (self.needs_link_faults() && self.is_disturbance())
    }
}

fn no_act(text: &str, verb: &str) -> (String, String) {
    let hint = match verb {
        "repoint" => "`repoint NODE --to NODE`".to_owned(),
        "link" => "`link cut NODE`, where NODE may be `replicas`, or refuse, half-open, slow or heal".to_owned(),
        "kill" | "pause" | "resume" | "start" | "wipe" | "fill-disk" | "free-disk" | "restart" => {
            format!("`{verb} NODE`, where NODE may be `master`, `old-master` or `replica`")
        }
        _ => match nearest(verb, VERBS) {
            Some(near) if near != verb => format!("did you mean `{near}`?"),
            Some(near @ ("hog-cpu" | "free-cpu")) => format!("`{near}`, and nothing else"),
            Some(near) => format!("`{near}`, and nothing else or one node"),
            None => format!("there are {}", VERBS.join(", ")),
        },
    };
    (format!("{} is no step of a drill", quoted(text)), hint)
}

impl Target {
    /// A node's own name comes before the words that stand for one.
    fn parse(word: &str, nodes: &[&str]) -> Result<Self, (String, String)> {
        match word {
            name if nodes.contains(&name) => Ok(Self::Node(name.to_owned())),
            "master" => Ok(Self::Master),
            "old-master" => Ok(Self::OldMaster),
            "replica" => Ok(Self::Replica),
            "replicas" => Ok(Self::Replicas),
            _ => {
                let names = nodes.iter().copied().chain(["master", "old-master", "replica", "replicas"]);
                let hint = nearest(word, names).map_or_else(
                    || "a node's name, `master`, `old-master`, `replica` or `replicas`".to_owned(),
                    |near| format!("did you mean `{near}`?"),
                );
                Err((format!("the group has no node {}", quoted(word)), hint))
            }
        }
    }
}

/// As the file writes it.
impl fmt::Display for Act {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let optional = |out: &mut fmt::Formatter<'_>, verb: &str, target: &Option<Target>| match target {
            Some(target) => write!(out, "{verb} {target}"),
            None => out.write_str(verb),
        };
        match self {
            Self::KillMaster => out.write_str("kill-master"),
            Self::Kill(target) => write!(out, "kill {target}"),
            Self::Pause(target) => write!(out, "pause {target}"),
            Self::Resume(target) => write!(out, "resume {target}"),
            Self::Start { node, waits: true } => write!(out, "start {node}"),
            Self::Start { node, waits: false } => write!(out, "start {node} --no-wait"),
            Self::Wipe(target) => write!(out, "wipe {target}"),
            Self::FillDisk(target) => write!(out, "fill-disk {target}"),
            Self::FreeDisk(target) => write!(out, "free-disk {target}"),
            Self::HogCpu => out.write_str("hog-cpu"),
            Self::FreeCpu => out.write_str("free-cpu"),
            Self::Restart(target) => write!(out, "restart {target}"),
            Self::RestartAll => out.write_str("restart --all"),
            Self::Promote(target) => optional(out, "promote", target),
            Self::Switchover(target) => optional(out, "switchover", target),
            Self::Repoint { node, to } => write!(out, "repoint {node} --to {to}"),
            Self::Link { node, to, fault } => {
                write!(out, "link {} {node}", fault.verb())?;
                if let Some(to) = to {
                    write!(out, " --to {to}")?;
                }
                write!(out, "{fault}")
            }
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Master => "master",
            Self::OldMaster => "old-master",
            Self::Replica => "replica",
            Self::Replicas => "replicas",
            Self::Node(name) => name,
        })
    }
}

/// Makes a file's drills for its nodes.
///
/// # Errors
/// Steps that there are not, nodes that the group has not, names that are there twice.
pub(super) fn resolve(raw: Vec<RawDrill>, nodes: &[Node]) -> Result<Vec<Drill>, Vec<Diagnostic>> {
    let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
    let mut drills: Vec<Drill> = Vec::with_capacity(raw.len());
    let mut errors = Vec::new();
    for drill in raw {
        if drills.iter().any(|other| other.name == *drill.name.get_ref()) {
            let message = format!("a drill {} is there already", quoted(drill.name.get_ref()));
            errors.push(Diagnostic::at(drill.name.span(), message));
        }
        let mut steps = Vec::with_capacity(drill.steps.len());
        for (after, act) in drill.steps {
            match Act::parse(act.get_ref(), &names) {
                Ok(act) => steps.push(DrillStep { after, act }),
                Err((message, hint)) => errors.push(Diagnostic::at(act.span(), message).hint(hint)),
            }
        }
        drills.push(Drill { name: drill.name.into_inner(), load: drill.load, steps, expect: drill.expect });
    }
    if errors.is_empty() { Ok(drills) } else { Err(errors) }
}
