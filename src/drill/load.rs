//! The writers of a drill: clients that follow the master as an application would, and write down what they were told.
//!
//! A writer keeps one connection and one request on its way. Where an answer says that this is no master, or none comes, it
//! goes through the nodes until one says that it is. It never repeats a request: whether that would be right is what
//! nobody can know.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use redis::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::history::{History, Operation, Outcome, Request};
use crate::topology::{Load, Workload};
use crate::wire::{Endpoint, NodeClient, Role, WireError};

/// A writer that has not been answered for so long takes the request for ambiguous.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// A node that has not said by then whether it is the master is passed over: it may hang.
const LOOK_LIMIT: Duration = Duration::from_millis(250);
/// How long a writer waits when no node is a master.
const SEARCH_PAUSE: Duration = Duration::from_millis(2);
/// The last deadline of a mixed load is over so long after its last request.
pub(super) const DEADLINE_MAX: Duration = Duration::from_millis(2_500);
/// Lists and counters, few enough that all writers meet on each.
pub(super) const SHARED_KEYS: u64 = 8;
/// Registers: each gets so few operations that its history can be searched.
const REGISTERS: u64 = 64;

/// Writers at work, in a thread of their own: what they measure is not delayed by what is done to the group meanwhile. They
/// end when this is dropped.
#[derive(Debug)]
pub struct Writers {
    thread: JoinHandle<Vec<Operation>>,
    end: watch::Sender<bool>,
    sessions: Arc<Mutex<Vec<String>>>,
    acknowledged: Arc<AtomicU64>,
}

impl Writers {
    /// Starts them on whichever of `nodes` is the master. Times are counted from `began`; `seed` decides what they choose.
    ///
    /// # Errors
    /// There can be no more threads or open files.
    pub fn start(load: Load, nodes: Vec<(String, Endpoint)>, began: Instant, seed: u64) -> io::Result<Writers> {
        let (end, ends) = watch::channel(false);
        let sessions = Arc::new(Mutex::new(Vec::new()));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let writer = |number: u32| Writer {
            number,
            load,
            nodes: nodes.clone(),
            next_node: 0,
            began,
            dice: seed ^ (u64::from(number) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15),
            sessions: Arc::clone(&sessions),
            acknowledged: Arc::clone(&acknowledged),
            operations: Vec::new(),
        };
        let writers: Vec<Writer> = (0..load.writers).map(writer).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let work = move || {
            runtime.block_on(async {
                let tasks: JoinSet<_> = writers.into_iter().map(|writer| writer.run(ends.clone())).collect();
                tasks.join_all().await.into_iter().flatten().collect()
            })
        };
        let thread = std::thread::Builder::new().name("writers".to_owned()).spawn(work)?;
        Ok(Writers { thread, end, sessions, acknowledged })
    }

    /// How many writes were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Lets them finish the requests that are on their way; returns everything that was done.
    pub async fn finish(self) -> History {
        let _ = self.end.send(true);
        let joined = tokio::task::spawn_blocking(|| self.thread.join()).await;
        let operations = joined.expect("a join is not cancelled").expect("writers do not panic");
        let sessions = std::mem::take(&mut *self.sessions.lock().unwrap_or_else(PoisonError::into_inner));
        History { operations, sessions }
    }
}

struct Writer {
    number: u32,
    load: Load,
    nodes: Vec<(String, Endpoint)>,
    next_node: usize,
    began: Instant,
    dice: u64,
    sessions: Arc<Mutex<Vec<String>>>,
    acknowledged: Arc<AtomicU64>,
    operations: Vec<Operation>,
}

impl Writer {
    async fn run(mut self, ends: watch::Receiver<bool>) -> Vec<Operation> {
        while let Some((client, session)) = self.find_master(&ends).await {
            loop {
                if is_over(&ends) {
                    return self.operations;
                }
                let next = tokio::time::Instant::now() + self.pause();
                if !self.request(&client, session).await {
                    break;
                }
                if self.load.rate.is_some() {
                    tokio::time::sleep_until(next).await;
                }
            }
            // Who has failed is asked last: it may hang, and the others know better.
            self.next_node = (self.next_node + 1) % self.nodes.len();
        }
        self.operations
    }

    /// From one request to the next, at least.
    fn pause(&self) -> Duration {
        self.load.rate.map_or(Duration::ZERO, |rate| Duration::from_secs(1) / rate.max(1))
    }

    /// A connection to a node that calls itself a master. `None` at the end.
    async fn find_master(&mut self, ends: &watch::Receiver<bool>) -> Option<(NodeClient, u32)> {
        while !is_over(ends) {
            for _ in 0..self.nodes.len() {
                let (name, endpoint) = &self.nodes[self.next_node];
                if let Some(client) = master_at(endpoint).await {
                    let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
                    sessions.push(name.clone());
                    return Some((client, sessions.len() as u32 - 1));
                }
                self.next_node = (self.next_node + 1) % self.nodes.len();
            }
            tokio::time::sleep(SEARCH_PAUSE).await;
        }
        None
    }

    /// Sends one request and notes what came of it. `false`: this connection is of no more use.
    async fn request(&mut self, client: &NodeClient, session: u32) -> bool {
        let request = self.choose();
        let command = self.command(request);
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let invoked = self.began.elapsed();
        let answer = match self.load.wait {
            0 => client.command(&words).await,
            wait => wait_for(client, &words, wait).await,
        };
        let at = self.began.elapsed();
        let (outcome, goes_on) = match answer {
            Ok(value) => (Outcome::Acknowledged { at, answer: number_in(&value) }, true),
            Err(WireError::Server { .. }) => (Outcome::Refused { at }, false),
            Err(_) => (Outcome::Ambiguous, false),
        };
        self.acknowledged.fetch_add(outcome.is_acknowledged().into(), Ordering::Relaxed);
        self.operations.push(Operation { writer: self.number, session, request, invoked, outcome });
        goes_on
    }

    fn choose(&mut self) -> Request {
        let number = self.operations.len() as u64 * u64::from(self.load.writers) + u64::from(self.number) + 1;
        match self.load.workload {
            Workload::Set => Request::Set { number },
            Workload::Append => Request::Push { list: self.roll(SHARED_KEYS) as u32, number },
            Workload::Counter => Request::Increment { counter: self.roll(SHARED_KEYS) as u32 },
            Workload::Mixed => Request::Mixed { number },
            Workload::Register => {
                let register = self.roll(REGISTERS) as u32;
                if self.roll(2) == 0 { Request::Read { register } } else { Request::Write { register, number } }
            }
        }
    }

    fn command(&mut self, request: Request) -> Vec<String> {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let key = request.key();
        match request {
            Request::Set { number } | Request::Write { number, .. } => {
                words(&["SET", &key, &padded(number, self.load.value_bytes)])
            }
            Request::Push { number, .. } => words(&["RPUSH", &key, &number.to_string()]),
            Request::Increment { .. } => words(&["INCR", &key]),
            Request::Read { .. } => words(&["GET", &key]),
            Request::Mixed { number } => self.any_command(number),
        }
    }

    /// A command on one of few keys of each type; some of them with a deadline that comes within [`DEADLINE_MAX`].
    fn any_command(&mut self, number: u64) -> Vec<String> {
        let (member, value) = (self.roll(100).to_string(), number.to_string());
        let deadline_ms = (500 + self.roll(2_000)).to_string();
        let of = |kind: &str, key: u64| format!("drill:{kind}:{key}");
        let key = self.roll(50);
        let words: &[&str] = match self.roll(12) {
            0 => &["SET", &of("string", key), &value],
            1 => &["SET", &of("string", key), &value, "PX", &deadline_ms],
            2 => &["APPEND", &of("string", key), &value],
            3 => &["RPUSH", &of("list", key), &value],
            4 => &["LPOP", &of("list", key)],
            5 => &["HSET", &of("hash", key), &member, &value],
            6 => &["SADD", &of("members", key), &member],
            7 => &["SPOP", &of("members", key)],
            8 => &["ZINCRBY", &of("zset", key), "1.5", &member],
            9 => &["XADD", &of("stream", key), "MAXLEN", "100", "*", "number", &value],
            10 => &["PEXPIRE", &of("hash", key), &deadline_ms],
            _ => &["DEL", &of("list", key), &of("zset", key)],
        };
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    /// A number below `bound` (splitmix64: it must be repeatable, not secret).
    fn roll(&mut self, bound: u64) -> u64 {
        self.dice = self.dice.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.dice;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// A number with zeros before it. (The width of a format ends at 65,535.)
fn padded(number: u64, width: usize) -> String {
    let digits = number.to_string();
    "0".repeat(width.saturating_sub(digits.len())) + &digits
}

fn is_over(ends: &watch::Receiver<bool>) -> bool {
    *ends.borrow() || ends.has_changed().is_err()
}

async fn master_at(endpoint: &Endpoint) -> Option<NodeClient> {
    let asked = async {
        let client = NodeClient::connect(endpoint, ANSWER_LIMIT).await.ok()?;
        let role = client.replication().await.ok()?.role;
        matches!(role, Role::Master).then_some(client)
    };
    tokio::time::timeout(LOOK_LIMIT, asked).await.ok().flatten()
}

/// The write's answer, if as many replicas have it in time; else nobody knows whether it will stay.
async fn wait_for(client: &NodeClient, words: &[&str], replicas: u32) -> Result<Value, WireError> {
    let limit_ms = (ANSWER_LIMIT / 2).as_millis().to_string();
    let mut answers = client.pipeline(&[words, &["WAIT", &replicas.to_string(), &limit_ms]]).await?.into_iter();
    let (Some(answer), Some(waited)) = (answers.next(), answers.next()) else { return Err(WireError::Closed) };
    let answer = answer?;
    match waited {
        Ok(Value::Int(count)) if count >= i64::from(replicas) => Ok(answer),
        // Also where it is an error: the write itself was done.
        _ => Err(WireError::Silent(ANSWER_LIMIT / 2)),
    }
}

/// The number that an answer is or contains.
fn number_in(answer: &Value) -> u64 {
    match answer {
        Value::Int(number) => u64::try_from(*number).unwrap_or(0),
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_as_long_as_wished_also_where_that_is_very_long() {
        assert_eq!((padded(7, 3), padded(1234, 3), padded(5, 100_000).len()), ("007".into(), "1234".into(), 100_000));
    }
}
