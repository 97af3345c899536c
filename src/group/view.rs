//! What a group looks like at one moment: every node asked at once, each with a deadline.
//!
//! A view is never stored and admits that it ages; [`diagnose`](super::diagnose) and
//! [`FailoverPlan`](super::FailoverPlan) are functions of it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinSet;

use super::salvage::KeptStream;
use super::{Group, GroupError, endpoint};
use crate::process::{Condition, ProcessIdentity, Promoting};
use crate::wire::{Endpoint, NodeClient, NodeReport, ReplicationId, WireError};

/// How long a node may take to answer before it counts as silent. A command that blocks a server for longer than this
/// makes it look hung; a process that is stopped by a signal is not waited for.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// Open connections by node name.
pub type Clients = BTreeMap<String, NodeClient>;

/// A group at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct GroupView {
    /// Its name.
    pub group: String,
    /// The history that its master was known to write last.
    pub recorded_replid: Option<ReplicationId>,
    /// The offset at which the master was seen last before `kill-master` ended it.
    pub offset_before_kill: Option<u64>,
    /// A change of masters broke off before anybody saw what came of it: a node may be about to become a master by itself.
    #[serde(skip)]
    pub is_disputed: bool,
    /// All nodes, in topology order.
    pub nodes: Vec<NodeView>,
}

/// One node at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// Its port on 127.0.0.1.
    pub port: u16,
    /// The node that it is meant to follow; `None` for the one that is meant to be the master.
    pub meant_upstream: Option<String>,
    /// The process that replctl launched for it, dead or alive; `None` if it was not launched.
    pub process: Option<ProcessIdentity>,
    /// The state of that process.
    pub condition: Condition,
    /// What came back over the wire.
    pub answer: Answer,
    /// What its engine leaves of the replication stream; only looked at for the node that is, or may
    /// be, the master.
    #[serde(skip)]
    pub kept_stream: KeptStream,
}

/// What a node answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Its report on itself.
    Report(Box<NodeReport>),
    /// It loads its data set and answers nothing else.
    Loading,
    /// Nobody listens on its port.
    NotListening,
    /// It did not answer in time.
    Silent,
    /// Another process than the node's answers on its port.
    Stranger {
        /// Its pid, as it says.
        process_id: u32,
        /// Its run id.
        run_id: String,
    },
    /// It answered with an error.
    Error(String),
}

impl NodeView {
    /// Its report, if it answered with one.
    pub fn report(&self) -> Option<&NodeReport> {
        match &self.answer {
            Answer::Report(report) => Some(report),
            _ => None,
        }
    }

    /// Whether it answers as a master.
    pub fn is_answering_master(&self) -> bool {
        self.report().is_some_and(|report| report.replication.is_master())
    }

    /// Whether its process lives, answering or not.
    pub fn is_alive(&self) -> bool {
        self.condition != Condition::Dead
    }
}

impl GroupView {
    /// A node by its name.
    pub fn node(&self, name: &str) -> Option<&NodeView> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// A node by its port.
    pub fn node_at(&self, port: u16) -> Option<&NodeView> {
        self.nodes.iter().find(|node| node.port == port)
    }

    /// The node that is meant to be the master.
    pub fn meant_master(&self) -> &NodeView {
        self.nodes.iter().find(|node| node.meant_upstream.is_none()).expect("a group has one root")
    }

    /// A node that is exchanging its role with another one that answers: who takes writes is about to change by itself.
    pub fn exchanging(&self) -> Option<&NodeView> {
        let goes_on = |node: &&NodeView| match node.report().map(|report| &report.replication) {
            Some(own) if own.is_handing_over => {
                own.is_master() || self.followed_by(node).is_some_and(|to| to.report().is_some())
            }
            _ => false,
        };
        self.nodes.iter().find(goes_on)
    }

    /// Counts a node as the master that was about to be made one when replctl ended, and that does not say what it is: it may
    /// take writes, or have taken some. One whose backlog file shows that it still was of the recorded history was not.
    pub fn assume(&mut self, promoting: &Promoting) {
        let Some(node) = self.node(&promoting.node) else { return };
        let is_promoted = match &node.kept_stream {
            KeptStream::Dead { replid, .. } => self.recorded_replid.as_ref().is_none_or(|id| id.to_string() != *replid),
            _ => true,
        };
        if node.report().is_some() || !is_promoted || planted!(RecordTrusted) {
            return;
        }
        for node in &mut self.nodes {
            node.meant_upstream = promoting.upstreams.get(&node.name).cloned();
        }
    }

    /// The node that the report of `node` says it follows, if it is one of the group.
    pub fn followed_by(&self, node: &NodeView) -> Option<&NodeView> {
        self.node_at(node.report()?.replication.upstream()?.port)
    }
}

/// Asks every node at once. The connections stay open for what comes next.
///
/// # Errors
/// `/proc` or the journal cannot be read. A node that does not answer is no error.
pub async fn observe(group: &Group) -> Result<(GroupView, Clients), GroupError> {
    let mut asking = JoinSet::new();
    let mut nodes = Vec::with_capacity(group.run.nodes.len());
    for (index, node) in group.run.nodes.iter().enumerate() {
        let process = node.process.as_ref().map(|process| process.identity.clone());
        let condition = process.as_ref().map_or(Ok(Condition::Dead), ProcessIdentity::condition)?;
        if condition != Condition::Stopped {
            let (endpoint, pid) = (endpoint(node), process.as_ref().map(|process| process.pid));
            asking.spawn(async move { (index, ask(&endpoint, pid).await) });
        }
        let may_be_master = node.upstream.is_none() || group.run.is_promoting(&node.name);
        let kept_stream = if may_be_master { KeptStream::of(&group.dir, node, condition) } else { KeptStream::Nothing };
        nodes.push(NodeView {
            name: node.name.clone(),
            port: node.port,
            meant_upstream: node.upstream.clone(),
            process,
            condition,
            answer: Answer::Silent,
            kept_stream,
        });
    }
    let mut clients = Clients::new();
    while let Some(asked) = asking.join_next().await {
        let (index, (answer, client)) = asked.expect("asking a node does not panic");
        clients.extend(client.map(|client| (nodes[index].name.clone(), client)));
        nodes[index].answer = answer;
    }
    let mut view = GroupView {
        group: group.run.group.clone(),
        recorded_replid: group.run.replid.as_deref().and_then(ReplicationId::parse),
        offset_before_kill: group.offset_before_kill()?,
        is_disputed: group.run.promoting.is_some(),
        nodes,
    };
    if let Some(promoting) = &group.run.promoting {
        view.assume(promoting);
    }
    Ok((view, clients))
}

/// Asks one node; `expected_pid` is that of the process that replctl launched for it.
async fn ask(endpoint: &Endpoint, expected_pid: Option<u32>) -> (Answer, Option<NodeClient>) {
    let asked = async {
        let client = NodeClient::connect(endpoint, ANSWER_LIMIT).await?;
        let report = client.report().await?;
        Ok::<_, WireError>((client, report))
    };
    match asked.await {
        Ok((_, report)) if expected_pid != Some(report.process_id) => {
            (Answer::Stranger { process_id: report.process_id, run_id: report.run_id }, None)
        }
        Ok((client, report)) => (Answer::Report(Box::new(report)), Some(client)),
        Err(error) if error.is_loading() => (Answer::Loading, None),
        Err(WireError::Refused(_)) => (Answer::NotListening, None),
        Err(WireError::Silent(_)) => (Answer::Silent, None),
        Err(error) => (Answer::Error(error.to_string()), None),
    }
}
