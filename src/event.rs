//! What happens to a group, as it happens: the only channel from work to display, journal and reports.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::failpoint;
use crate::group::{Diverged, FailoverPlan, GroupError, GuardNote, Journal, NodeSignal, Salvaged, Step, TailReport};
use crate::process::ProcessIdentity;
use crate::topology::{By, LinkFault};
use crate::wire::FormerHistory;

/// Something that happened. As JSON it is an object with the kebab-case name under `"event"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A command began to change the group.
    Began {
        /// `up`, `promote` and so on.
        command: String,
    },
    /// A node that runs already was found.
    Adopted {
        /// The node.
        node: String,
        /// Its process.
        pid: u32,
    },
    /// A node's process was started.
    Spawned {
        /// The node.
        node: String,
        /// Its process.
        pid: u32,
        /// The port it was told to listen on.
        port: u16,
    },
    /// A node answers.
    Ready {
        /// The node.
        node: String,
    },
    /// A replica receives its upstream's data set.
    Syncing {
        /// The replica.
        node: String,
        /// Bytes so far.
        received_bytes: u64,
        /// The whole, if known beforehand.
        total_bytes: Option<u64>,
    },
    /// A replica's link is up and it has caught up.
    Linked {
        /// The replica.
        node: String,
        /// Bytes of the history applied.
        offset: u64,
    },
    /// A node's process has ended because it was told to.
    Ended {
        /// The node.
        node: String,
    },
    /// A promotion was decided.
    Planned {
        /// What will be done.
        plan: Box<FailoverPlan>,
    },
    /// A step of a promotion began.
    StepBegan {
        /// The step.
        #[serde(flatten)]
        step: Step,
    },
    /// A step of a promotion is done.
    StepDone {
        /// The step.
        #[serde(flatten)]
        step: Step,
        /// How long it took, in microseconds.
        took_us: u64,
    },
    /// A dead master's backlog was looked at, and the candidate was handed what it lacked.
    Salvaged {
        /// What it was.
        #[serde(flatten)]
        salvaged: Salvaged,
    },
    /// The end of a stream that no node of the group has any more was kept, or could not be.
    Tail {
        /// What it was.
        #[serde(flatten)]
        tail: TailReport,
    },
    /// An old master that replctl did not start was made a replica.
    Demoted {
        /// What it had that its new master has not.
        #[serde(flatten)]
        diverged: Diverged,
        /// Its new master.
        to: String,
    },
    /// A node took over as master.
    Promoted {
        /// The node.
        node: String,
        /// The one it replaced.
        old_master: String,
        /// The history that its own goes on from, and up to where both are the same.
        #[serde(default)]
        former: Option<FormerHistory>,
    },
    /// It was found that somebody else had made a node the master.
    FailedOver {
        /// Who did.
        by: By,
        /// The node.
        node: String,
        /// The one it replaced.
        old_master: String,
        /// That one's process, dead or alive: should it live, it believes that it is the master.
        process: Option<ProcessIdentity>,
    },
    /// A replica follows another node from now on.
    Repointed {
        /// The replica.
        node: String,
        /// The node that it followed.
        from: String,
        /// The one that it follows.
        to: String,
    },
    /// The master was killed on purpose.
    MasterKilled {
        /// The master.
        node: String,
        /// Its process.
        process: ProcessIdentity,
        /// Where every node that answered was just before, in bytes of the replication stream.
        offsets: BTreeMap<String, u64>,
    },
    /// A node's process was killed, stopped or let go on, on purpose.
    Signalled {
        /// The node.
        node: String,
        /// What was done to it.
        signal: NodeSignal,
    },
    /// The guard has decided something.
    Guard {
        /// What, and on what evidence.
        #[serde(flatten)]
        note: GuardNote,
    },
    /// A link was broken, slowed or healed, on purpose.
    LinkChanged {
        /// The replica.
        node: String,
        /// The node at the link's other end.
        to: String,
        /// What was done to it.
        #[serde(flatten)]
        fault: LinkFault,
    },
    /// A step of a drill was done, or failed.
    Rehearsed {
        /// When it began, in microseconds since the drill's beginning.
        at_us: u64,
        /// The step, as the file writes it.
        step: String,
        /// What it did, or why it failed.
        what: String,
    },
    /// A command ended.
    Finished {
        /// The command.
        command: String,
        /// Why it failed; `None`: it is done.
        error: Option<String>,
    },
    /// Something that may surprise and stops nothing.
    Warning {
        /// A lower-case sentence.
        text: String,
    },
}

impl Event {
    /// What it is, as the name of a [`failpoint`]: whatever differs from run to run left out.
    fn point(&self) -> String {
        let fields = serde_json::to_value(self).expect("an event has only string keys");
        let word = |name: &str| fields[name].as_str().map(|word| format!("{word} ")).unwrap_or_default();
        format!("{}{}{}", word("event"), word("command"), word("step")).trim_end().to_owned()
    }
}

/// Takes events: shows all, keeps some.
#[derive(Debug)]
pub struct Recorder {
    journal: Journal,
    display: mpsc::UnboundedSender<Event>,
}

impl Recorder {
    /// Events go to the journal of a group and to whoever reads the other end of `display`.
    pub fn new(journal: Journal, display: mpsc::UnboundedSender<Event>) -> Self {
        Self { journal, display }
    }

    /// Writes an event to the journal, then shows it. Done before what it announces, so that a crash in between leaves
    /// a trace.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn record(&mut self, event: Event) -> Result<(), GroupError> {
        failpoint::pass(|| format!("recording {}", event.point()));
        self.journal.append(&event)?;
        failpoint::pass(|| format!("recorded {}", event.point()));
        self.show(event);
        Ok(())
    }

    /// Shows an event that is not worth keeping. Nobody need be watching.
    pub fn show(&self, event: Event) {
        let _ = self.display.send(event);
    }

    /// The channel to the display, for work that runs beside this.
    pub fn display(&self) -> mpsc::UnboundedSender<Event> {
        self.display.clone()
    }

    /// The journal.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }
}
