//! What can be seen of a drill's nodes while it goes on, for pictures: nothing is judged by it.

use std::io;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::verdict::NodeState;
use crate::wire::{Endpoint, NodeClient};

/// Between two looks at a node.
pub const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A node that has not answered by then is asked anew.
const LOOK_LIMIT: Duration = Duration::from_millis(250);

/// What was seen.
#[derive(Debug, Clone, Default)]
pub struct Course {
    /// From the drill's beginning to the end of its load.
    pub length: Duration,
    /// Who followed whom before the first step, in topology order.
    pub before: Vec<Place>,
    /// And at the end.
    pub after: Vec<Place>,
    /// The offsets of each node, in topology order.
    pub offsets: Vec<Offsets>,
    /// What each node logged since the load's beginning, or the end of that.
    pub logs: Vec<(String, Vec<String>)>,
}

/// A node's place in its group.
#[derive(Debug, Clone)]
pub struct Place {
    /// The node.
    pub node: String,
    /// The node that it follows.
    pub upstream: Option<String>,
    /// What it is.
    pub state: NodeState,
}

/// How far a node's history went.
#[derive(Debug, Clone)]
pub struct Offsets {
    /// The node.
    pub node: String,
    /// When it was asked, since the drill's beginning, and its offset in bytes. There is nothing for when it did not answer.
    pub samples: Vec<(Duration, u64)>,
}

/// Looks at all nodes again and again, in a thread of its own.
#[derive(Debug)]
pub struct Watcher {
    thread: JoinHandle<Vec<Offsets>>,
    end: watch::Sender<bool>,
}

impl Watcher {
    /// Starts it; times are counted from `began`.
    ///
    /// # Errors
    /// There can be no more threads or open files.
    pub fn start(nodes: Vec<(String, Endpoint)>, began: Instant) -> io::Result<Self> {
        let (end, ends) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let work = move || {
            runtime.block_on(async {
                let order: Vec<String> = nodes.iter().map(|(name, _)| name.clone()).collect();
                let looks = nodes.into_iter().map(|(name, endpoint)| look(name, endpoint, began, ends.clone()));
                let mut all = looks.collect::<JoinSet<_>>().join_all().await;
                all.sort_by_key(|one| order.iter().position(|name| *name == one.node));
                all
            })
        };
        let thread = std::thread::Builder::new().name("watcher".to_owned()).spawn(work)?;
        Ok(Self { thread, end })
    }

    /// Ends it; returns what it has seen.
    pub async fn finish(self) -> Vec<Offsets> {
        let _ = self.end.send(true);
        let joined = tokio::task::spawn_blocking(|| self.thread.join()).await;
        joined.expect("a join is not cancelled").expect("the watcher does not panic")
    }
}

async fn look(node: String, endpoint: Endpoint, began: Instant, mut ends: watch::Receiver<bool>) -> Offsets {
    let mut offsets = Offsets { node, samples: Vec::new() };
    let mut client = None;
    // An error: the drill is no more.
    while tokio::time::timeout(LOOK_EVERY, ends.changed()).await.is_err() {
        client = tokio::time::timeout(LOOK_LIMIT, offset(client, &endpoint)).await.ok().flatten();
        offsets.samples.extend(client.as_ref().map(|(_, offset)| (began.elapsed(), *offset)));
    }
    offsets
}

async fn offset(client: Option<(NodeClient, u64)>, endpoint: &Endpoint) -> Option<(NodeClient, u64)> {
    let client = match client {
        Some((client, _)) => client,
        None => NodeClient::connect(endpoint, LOOK_LIMIT).await.ok()?,
    };
    let offset = client.replication().await.ok()?.offset;
    Some((client, offset))
}
