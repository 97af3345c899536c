//! The process that carries a group's replication links: one [`Proxy`] for each ordered pair of nodes, and a socket through
//! which it is told what to do to them. It is `replctl` itself, started by `up` where a topology says `[faults] links = true`.
//!
//! ```text
//! GROUP/nodes/.links/control     a Unix socket; one line of JSON each way per connection
//!   -> {"order":"aim","edges":[{"from":"n2","to":"n1","target":6379,"port":0}]}
//!   <- {"edges":[{"from":"n2","to":"n1","target":6379,"port":40123,"fault":"heal","connections":1,"up-bytes":37,"down-bytes":9}]}
//!   -> {"order":"fault","from":"n2","to":"n1","fault":"cut","after-bytes":null,"direction":"both"}
//!   <- {"edges":[…]}  or  {"error":"there is no link n2 to n9"}
//! ```
//!
//! It ends by a signal, and by itself when `run.json` is gone or names another helper.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::Instant;

use super::proxy::{Condition, Direction, Proxy};
use crate::process::{GroupDir, LINKS};
use crate::topology::{LinkDirection, LinkFault};

/// The socket's name in the helper's directory, in which the helper works: a path may be longer than a socket's address.
const CONTROL: &str = "control";
/// An order or an answer about the most links that there can be is shorter.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Between two looks whether the group is still there.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long nobody may know the helper before it ends.
const UNKNOWN_LIMIT: Duration = Duration::from_secs(10);

/// The way of one node's stream to another, whether it is taken or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeAim {
    /// The node that connects: a replica.
    pub from: String,
    /// The node that it follows there.
    pub to: String,
    /// The port of that node.
    pub target: u16,
    /// The port that stands for it; 0: none yet.
    pub port: u16,
}

/// How an edge is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct EdgeState {
    /// Which.
    #[serde(flatten)]
    pub aim: EdgeAim,
    /// What was done to it last.
    #[serde(flatten)]
    pub fault: LinkFault,
    /// Connections that are open.
    pub connections: u64,
    /// Bytes of requests and acknowledgements delivered since the helper's start.
    pub up_bytes: u64,
    /// Bytes of the stream delivered since the helper's start.
    pub down_bytes: u64,
}

/// What the helper is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case")]
pub enum LinkOrder {
    /// These are the edges: missing ones are made, and each leads to its target.
    Aim {
        /// All of them.
        edges: Vec<EdgeAim>,
    },
    /// Something happens to an edge.
    Fault {
        /// The replica.
        from: String,
        /// The node above.
        to: String,
        /// What.
        #[serde(flatten)]
        fault: LinkFault,
    },
    /// Nothing: it tells how all are.
    Status,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    Edges(Vec<EdgeState>),
    Error(String),
}

/// Gives the helper of a group an order; returns how the edges are that it is about.
///
/// # Errors
/// Nobody answers, or the order cannot be obeyed.
pub async fn order(dir: &GroupDir, order: &LinkOrder) -> io::Result<Vec<EdgeState>> {
    let asked = async {
        let home = File::open(dir.node_dir(LINKS))?;
        let socket = PathBuf::from(format!("/proc/self/fd/{}/{CONTROL}", home.as_raw_fd()));
        let mut stream = UnixStream::connect(socket).await?;
        write_line(&mut stream, order).await?;
        read_line(&mut stream).await
    };
    match tokio::time::timeout(ANSWER_LIMIT, asked).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? {
        Answer::Edges(edges) => Ok(edges),
        Answer::Error(reason) => Err(io::Error::other(reason)),
    }
}

async fn write_line(stream: &mut UnixStream, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value).map_err(io::Error::other)?;
    line.push(b'\n');
    stream.write_all(&line).await
}

async fn read_line<T: for<'de> Deserialize<'de>>(stream: &mut UnixStream) -> io::Result<T> {
    let mut line = String::new();
    BufReader::new(stream.take(LINE_BYTES_MAX)).read_line(&mut line).await?;
    serde_json::from_str(&line).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Is the helper of the group in `dir`, in whose directory for it this process works, until the group is gone.
///
/// # Errors
/// There is no socket to be had.
pub async fn serve(dir: &GroupDir) -> io::Result<()> {
    match std::fs::remove_file(CONTROL) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(Path::new(CONTROL))?;
    let mut edges = Edges::default();
    let gone = until_unknown(dir);
    tokio::pin!(gone);
    loop {
        tokio::select! {
            () = &mut gone => return Ok(()),
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                // One after the other: who asks does not linger, and has no more time than this.
                let _ = tokio::time::timeout(ANSWER_LIMIT, edges.answer(stream)).await;
            }
        }
    }
}

/// Waits until the group's state no longer names this process, for longer than an `up` takes to write it down.
async fn until_unknown(dir: &GroupDir) {
    let mut last_known = Instant::now();
    while last_known.elapsed() < UNKNOWN_LIMIT {
        tokio::time::sleep(LOOK_EVERY).await;
        if !dir.node_dir(LINKS).is_dir() {
            return;
        }
        let is_known = match dir.run_state() {
            Ok(run) => run.and_then(|run| run.links?.process).is_some_and(|known| known.pid == std::process::id()),
            // Damaged: what becomes of the group is decided by the next `up`.
            Err(_) => true,
        };
        if is_known {
            last_known = Instant::now();
        }
    }
}

/// All edges of a group.
#[derive(Debug, Default)]
struct Edges(Vec<Edge>);

#[derive(Debug)]
struct Edge {
    aim: EdgeAim,
    fault: LinkFault,
    proxy: Proxy,
}

impl Edges {
    async fn answer(&mut self, mut stream: UnixStream) -> io::Result<()> {
        let obeyed = match read_line(&mut stream).await {
            Ok(order) => self.obey(order).await,
            Err(error) => Err(error),
        };
        let answer = obeyed.map_or_else(|error| Answer::Error(error.to_string()), Answer::Edges);
        write_line(&mut stream, &answer).await
    }

    async fn obey(&mut self, order: LinkOrder) -> io::Result<Vec<EdgeState>> {
        match order {
            LinkOrder::Aim { edges } => {
                for aim in edges {
                    self.aim(aim).await?;
                }
            }
            LinkOrder::Fault { from, to, fault } => {
                let edge = self.find(&from, &to);
                let edge = edge.ok_or_else(|| io::Error::other(format!("there is no link of {from} to {to}")))?;
                edge.apply(fault);
                return Ok(vec![edge.state()]);
            }
            LinkOrder::Status => {}
        }
        Ok(self.0.iter().map(Edge::state).collect())
    }

    fn find(&mut self, from: &str, to: &str) -> Option<&mut Edge> {
        self.0.iter_mut().find(|edge| edge.aim.from == from && edge.aim.to == to)
    }

    async fn aim(&mut self, aim: EdgeAim) -> io::Result<()> {
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, aim.target));
        if let Some(edge) = self.find(&aim.from, &aim.to) {
            edge.proxy.retarget(target);
            edge.aim.target = aim.target;
            return Ok(());
        }
        let proxy = Proxy::start(target, aim.port).await?;
        let aim = EdgeAim { port: proxy.port(), ..aim };
        self.0.push(Edge { aim, fault: LinkFault::Heal, proxy });
        Ok(())
    }
}

impl Edge {
    fn state(&self) -> EdgeState {
        EdgeState {
            aim: self.aim.clone(),
            fault: self.fault.clone(),
            connections: self.proxy.connections(),
            up_bytes: self.proxy.delivered_bytes(Direction::Forth),
            down_bytes: self.proxy.delivered_bytes(Direction::Back),
        }
    }

    /// Lets the edge be so, whatever it was before.
    fn apply(&mut self, fault: LinkFault) {
        self.proxy.heal();
        let condition = match &fault {
            LinkFault::Heal => None,
            LinkFault::Cut { after_bytes: None, .. } => {
                self.proxy.cut();
                None
            }
            LinkFault::Refuse => {
                self.proxy.refuse();
                None
            }
            LinkFault::Cut { after_bytes, direction } => {
                Some((*direction, Condition { reset_after_bytes: *after_bytes, ..Condition::default() }))
            }
            LinkFault::HalfOpen { direction } => {
                Some((*direction, Condition { is_stalled: true, ..Condition::default() }))
            }
            LinkFault::Slow { latency, jitter, bandwidth, close_delay, direction } => {
                let (latency, jitter, bytes_per_sec, close_delay) = (*latency, *jitter, *bandwidth, *close_delay);
                let slow = Condition { latency, jitter, bytes_per_sec, close_delay, ..Condition::default() };
                Some((*direction, slow))
            }
        };
        if let Some((direction, condition)) = condition {
            for way in ways(direction) {
                self.proxy.set(*way, condition);
            }
        }
        self.fault = fault;
    }
}

fn ways(direction: LinkDirection) -> &'static [Direction] {
    match direction {
        LinkDirection::Up => &[Direction::Forth],
        LinkDirection::Down => &[Direction::Back],
        LinkDirection::Both => &[Direction::Forth, Direction::Back],
    }
}
