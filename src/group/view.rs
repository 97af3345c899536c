//! What a group looks like at one moment: every node asked at once, each with a deadline.
//!
//! A view is never stored and admits that it ages; [`diagnose`](super::diagnose) and
//! [`FailoverPlan`](super::FailoverPlan) are functions of it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinSet;

use super::salvage::KeptStream;
use super::sentinel::{SentinelView, observe_sentinels};
use super::{Group, GroupError, endpoint, unmanaged};
use crate::process::{Condition, ProcessIdentity, Promoting, RunGuard, RunNode, Server, Unfenced};
use crate::topology::Address;
use crate::wire::{Endpoint, NodeClient, NodeReport, ReplicationId, WireError};

/// How long a node may take to answer before it counts as silent. A command that blocks a server for longer than this
/// makes it look hung; a process that is stopped by a signal is not waited for.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// A master writes to its replicas every ten seconds, if nothing else then a PING: what was heard longer ago was said by one
/// that has fallen silent since.
pub const HEARD_SECONDS_MAX: u64 = 11;

/// Open connections by node name.
pub type Clients = BTreeMap<String, NodeClient>;

/// A group at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct GroupView {
    /// Its name.
    pub group: String,
    /// The history that its master was known to write last.
    pub recorded_replid: Option<ReplicationId>,
    /// What `kill-master` noted of the master that it ended.
    pub kill_note: Option<KillNote>,
    /// A change of masters broke off before anybody saw what came of it: a node may be about to become a master by itself.
    #[serde(skip)]
    pub is_disputed: bool,
    /// Whole seconds. A replica that heard from the master longer ago is no witness that the master lives:
    /// [`HEARD_SECONDS_MAX`], or the deadline of the group's guard.
    #[serde(skip)]
    pub heard_seconds_max: u64,
    /// All nodes, in topology order.
    pub nodes: Vec<NodeView>,
    /// The Sentinels that watch it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sentinels: Vec<SentinelView>,
}

/// What was known of a master when it was killed on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct KillNote {
    /// Bytes of its history; `None`: it did not answer.
    pub offset: Option<u64>,
    /// How long ago that was.
    pub seconds_ago: u64,
}

/// One node at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// Where it is reached from here.
    #[serde(flatten)]
    pub address: Address,
    /// Where the other nodes reach it.
    #[serde(skip)]
    pub announced: Address,
    /// The node that it is meant to follow; `None` for the one that is meant to be the master.
    pub meant_upstream: Option<String>,
    /// Who starts it, and what is known of it without asking it.
    #[serde(flatten)]
    pub server: ServerView,
    /// What came back over the wire.
    pub answer: Answer,
    /// What its engine leaves of the replication stream; only looked at for the node that is, or may
    /// be, the master.
    #[serde(skip)]
    pub kept_stream: KeptStream,
}

/// What is known of a node's server without asking it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "server", rename_all = "lowercase")]
pub enum ServerView {
    /// replctl starts it.
    Managed {
        /// The process that was launched for it, dead or alive; `None` if it was not launched.
        process: Option<ProcessIdentity>,
        /// The state of that process.
        condition: Condition,
    },
    /// Somebody else does. Whether it lives is known only while it answers.
    Unmanaged {
        /// The run id that it had when it was last known to be the group's; `None`: not seen yet.
        recorded_run_id: Option<String>,
        /// It was the master when another node took over, and nobody could keep it from taking writes.
        unfenced: Option<Unfenced>,
    },
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
    /// Another server than the node's answers at its address.
    Stranger {
        /// What it says of itself.
        #[serde(flatten)]
        report: Box<NodeReport>,
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

    /// The process that was launched for it, dead or alive.
    pub fn process(&self) -> Option<&ProcessIdentity> {
        match &self.server {
            ServerView::Managed { process, .. } => process.as_ref(),
            ServerView::Unmanaged { .. } => None,
        }
    }

    /// The state of that process; `None` where nobody can know it.
    pub fn condition(&self) -> Option<Condition> {
        match self.server {
            ServerView::Managed { condition, .. } => Some(condition),
            ServerView::Unmanaged { .. } => None,
        }
    }

    /// What it had when another node took its place as master, if nobody could fence it then.
    pub fn unfenced(&self) -> Option<&Unfenced> {
        match &self.server {
            ServerView::Managed { .. } => None,
            ServerView::Unmanaged { unfenced, .. } => unfenced.as_ref(),
        }
    }

    /// Whether a server that replctl did not start answers, and is another process than the one that was recorded.
    pub fn was_restarted(&self) -> bool {
        match (&self.server, self.report()) {
            (ServerView::Unmanaged { recorded_run_id: Some(recorded), .. }, Some(report)) => *recorded != report.run_id,
            _ => false,
        }
    }

    /// Whether a connection from here to there can exist: a loopback address is known as such on its own machine only.
    pub fn reaches(&self, other: &NodeView) -> bool {
        self.address.is_loopback() || !other.announced.is_loopback()
    }

    /// What came back instead of a report, in words; empty if one did.
    pub fn silence(&self) -> String {
        match &self.answer {
            Answer::Report(_) => String::new(),
            Answer::Loading => "it is loading its data".to_owned(),
            Answer::NotListening => format!("nobody listens at {}", self.address),
            Answer::Silent => format!("no answer from {}", self.address),
            Answer::Stranger { report } => {
                format!("another server answers at {} (run id {:.8})", self.address, report.run_id)
            }
            Answer::Error(error) => error.clone(),
        }
    }

    /// Whether replctl starts it.
    pub fn is_managed(&self) -> bool {
        matches!(self.server, ServerView::Managed { .. })
    }

    /// Whether it lives for certain: its process does, answering or not, or it answers.
    pub fn is_alive(&self) -> bool {
        match &self.server {
            ServerView::Managed { condition, .. } => *condition != Condition::Dead,
            ServerView::Unmanaged { .. } => {
                matches!(self.answer, Answer::Report(_) | Answer::Loading | Answer::Error(_))
            }
        }
    }

    /// Whether it is dead for certain: silence, and a port on which nobody listens, prove nothing of a server that somebody
    /// else starts.
    pub fn is_dead(&self) -> bool {
        self.condition() == Some(Condition::Dead)
    }
}

impl GroupView {
    /// A node by its name.
    pub fn node(&self, name: &str) -> Option<&NodeView> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// The node that `teller` means by an address.
    pub fn node_at(&self, address: &Address, teller: &NodeView) -> Option<&NodeView> {
        let address = address.seen_from(&teller.address);
        self.nodes.iter().find(|node| node.address.is_same(&address) || node.announced.is_same(&address))
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
    /// take writes, or have taken some. One whose backlog file shows that it still was of the history that it had before was not;
    /// nor does one count that kept nothing, where the file of the master before it has the history that it was to continue.
    pub fn assume(&mut self, promoting: &Promoting) {
        let Some(node) = self.node(&promoting.node) else { return };
        let is_promoted = match &node.kept_stream {
            KeptStream::Dead { replid, .. } => promoting.replid.as_ref() != Some(replid),
            _ => true,
        };
        // The recorded master, if it lives and is silent, may be the master as well: it is ended first, and then all are looked at
        // again.
        let root = self.meant_master();
        let may_both_be =
            root.name != promoting.node && root.is_managed() && root.is_alive() && root.report().is_none();
        // Whatever it took in memory is gone with it; what it was to continue is still there.
        let has_left_nothing = node.is_dead()
            && node.kept_stream == KeptStream::Nothing
            && matches!(&root.kept_stream, KeptStream::Dead { replid, .. } if promoting.replid.as_ref() == Some(replid));
        // One that was ended before another took its place does not come back as a master, and one that handed over is none.
        let is_replaced = node.is_dead()
            && root.is_managed()
            && root.report().is_some_and(|report| {
                let own = &report.replication;
                own.is_master() && promoting.replid.as_deref() == Some(own.replid.to_string().as_str())
            });
        let is_master = is_promoted && !may_both_be && !has_left_nothing && !is_replaced;
        if node.report().is_some() || !is_master || planted!(RecordTrusted) {
            return;
        }
        for node in &mut self.nodes {
            node.meant_upstream = promoting.upstreams.get(&node.name).cloned();
        }
    }

    /// The node that the report of `node` says it follows, if it is one of the group.
    pub fn followed_by(&self, node: &NodeView) -> Option<&NodeView> {
        self.node_at(&node.report()?.replication.upstream()?.address(), node)
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
        let server = server_view(node)?;
        let endpoint = endpoint(node);
        let (address, announced) = (endpoint.address.clone(), endpoint.announced.clone());
        let (kept_stream, expected) = match &server {
            ServerView::Managed { process, condition } => {
                let may_be = node.upstream.is_none() || group.run.is_promoting(&node.name);
                let kept = if may_be { KeptStream::of(&group.dir, node, *condition) } else { KeptStream::Nothing };
                let pid = process.as_ref().map(|process| process.pid);
                (kept, (*condition != Condition::Stopped).then_some(Expected::Process(pid)))
            }
            ServerView::Unmanaged { .. } => (KeptStream::Nothing, Some(Expected::Anybody)),
        };
        if let Some(expected) = expected {
            asking.spawn(async move { (index, ask(&endpoint, expected).await) });
        }
        nodes.push(NodeView {
            name: node.name.clone(),
            address,
            announced,
            meant_upstream: node.upstream.clone(),
            server,
            answer: Answer::Silent,
            kept_stream,
        });
    }
    let sentinels = observe_sentinels(&group.run).await?;
    let mut clients = Clients::new();
    while let Some(asked) = asking.join_next().await {
        let (index, (answer, client)) = asked.expect("asking a node does not panic");
        clients.extend(client.map(|client| (nodes[index].name.clone(), client)));
        nodes[index].answer = answer;
    }
    let mut view = GroupView {
        group: group.run.group.clone(),
        recorded_replid: group.run.replid.as_deref().and_then(ReplicationId::parse),
        kill_note: group.kill_note()?,
        is_disputed: group.run.promoting.is_some(),
        heard_seconds_max: heard_seconds_max(&group.run.guard),
        nodes,
        sentinels,
    };
    if let Some(promoting) = &group.run.promoting {
        view.assume(promoting);
    }
    for stranger in unmanaged::mark_strangers(&mut view) {
        clients.remove(&stranger);
    }
    Ok((view, clients))
}

/// A guard asks all the time, and a busy master as well as an idle one answers within its deadline. Its replicas, which are
/// as near, have that long to hear more.
fn heard_seconds_max(guard: &RunGuard) -> u64 {
    match guard.process {
        // They count whole seconds.
        Some(_) => (guard.deadline().as_secs_f64().ceil() as u64).min(HEARD_SECONDS_MAX),
        None => HEARD_SECONDS_MAX,
    }
}

fn server_view(node: &RunNode) -> Result<ServerView, GroupError> {
    Ok(match &node.server {
        Server::Managed(managed) => {
            let process = managed.process.as_ref().map(|process| process.identity.clone());
            let condition = process.as_ref().map_or(Ok(Condition::Dead), ProcessIdentity::condition)?;
            ServerView::Managed { process, condition }
        }
        Server::Unmanaged(unmanaged) => {
            ServerView::Unmanaged { recorded_run_id: unmanaged.run_id.clone(), unfenced: unmanaged.unfenced.clone() }
        }
    })
}

/// Who should answer at an address.
enum Expected {
    /// The process that replctl launched.
    Process(Option<u32>),
    /// Whether it is the right one is seen from what it says.
    Anybody,
}

/// Asks one node.
async fn ask(endpoint: &Endpoint, expected: Expected) -> (Answer, Option<NodeClient>) {
    let asked = async {
        let client = NodeClient::connect(endpoint, ANSWER_LIMIT).await?;
        let report = client.report().await?;
        Ok::<_, WireError>((client, report))
    };
    match asked.await {
        Ok((_, report)) if matches!(expected, Expected::Process(pid) if pid != Some(report.process_id)) => {
            (Answer::Stranger { report: Box::new(report) }, None)
        }
        Ok((client, report)) => (Answer::Report(Box::new(report)), Some(client)),
        Err(error) if error.is_loading() => (Answer::Loading, None),
        Err(WireError::Refused(_)) => (Answer::NotListening, None),
        Err(WireError::Silent(_) | WireError::Unreachable { .. }) => (Answer::Silent, None),
        Err(error) => (Answer::Error(error.to_string()), None),
    }
}
