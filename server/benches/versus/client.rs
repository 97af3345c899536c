//! The load: one thread, one epoll, fifty connections, requests that were prepared before the clock started.
//!
//! Every connection has one batch of `pipeline` requests in flight; when its last reply is in, the next batch goes out
//! in one write (a closed loop, as redis-benchmark's). All requests of a [`Script`] have the same length, so a batch is
//! a slice of it and costs the client one system call and nothing else:
//!
//! ```text
//! *3\r\n$3\r\nSET\r\n$16\r\nkey:000000482913\r\n$32\r\n<32 bytes>\r\n*3\r\n$3\r\nSET\r\n…
//! |<--------------------- one request --------------------------->|
//! |<------------------------- a batch: pipeline x request ------------------------> …
//! ```
//!
//! Replies are counted, not parsed, except that an error reply ends the measurement with its text: a server that
//! refuses quickly must not look fast.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use rustix::event::{Timespec, epoll};
use rustix::time::{ClockId, clock_gettime};

use crate::stop_if_interrupted;

/// Connections of every load.
pub const CONNECTIONS: usize = 50;
/// Length of every value, in bytes.
const VALUE_BYTES: usize = 32;
/// Requests in a script: so many that the keys they name do not fit the processor's nearer caches.
pub const SCRIPT_REQUESTS: u64 = 1 << 19;
/// Elements are drawn from so many, so that hardly any is drawn twice.
const ELEMENTS: u64 = 1_000_000_000_000;
/// A connection that gets no reply for so long has a server that stopped answering.
const STALL: Duration = Duration::from_secs(20);

/// What a load asks for. Elements and values are drawn with the keys; a command that takes elements away finds those that
/// a load with the same keys has put there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[rustfmt::skip]
pub enum Command { Set, Get, Lpush, Rpop, Rpush, Lpop, Hset, Hget, Sadd, Sismember, Spop, Zadd, Zscore, Zrange, Xadd, Xrevrange }

impl std::fmt::Display for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&format!("{self:?}").to_uppercase())
    }
}

impl Command {
    /// Appends a request. Whatever the arguments, requests of one command have the same length.
    fn push(self, to: &mut Vec<u8>, key: &[u8], number: u64, value: &[u8]) {
        let (name, element) = (self.to_string(), element(number));
        let name = name.as_bytes();
        match self {
            Command::Set | Command::Lpush | Command::Rpush => push(to, &[name, key, value]),
            Command::Get | Command::Rpop | Command::Lpop | Command::Spop => push(to, &[name, key]),
            Command::Hset => push(to, &[name, key, &element, value]),
            Command::Hget | Command::Sadd | Command::Sismember | Command::Zscore => push(to, &[name, key, &element]),
            Command::Zadd => push(to, &[name, key, (100_000 + number % 900_000).to_string().as_bytes(), &element]),
            Command::Zrange => push(to, &[name, key, b"0", b"9"]),
            Command::Xadd => push(to, &[name, key, b"*", b"field", value]),
            Command::Xrevrange => push(to, &[name, key, b"+", b"-", b"COUNT", b"5"]),
        }
    }
}

/// Prepared requests of equal length, on keys drawn uniformly (and repeatably) from the key space.
pub struct Script {
    bytes: Vec<u8>,
    request_bytes: usize,
}

impl Script {
    /// Prepares requests on the keys `key:000000000000` up to `keys`.
    pub fn new(command: Command, keys: u64) -> Self {
        let mut random = Random(0x9E37_79B9_7F4A_7C15);
        let mut bytes = Vec::new();
        for _ in 0..SCRIPT_REQUESTS {
            let (key, number, value) = (key(random.below(keys)), random.below(ELEMENTS), random.value());
            command.push(&mut bytes, &key, number, &value);
        }
        let request_bytes = bytes.len() / SCRIPT_REQUESTS as usize;
        Script { bytes, request_bytes }
    }

    /// The batch number `turn`, going round and round.
    pub fn batch(&self, turn: usize, pipeline: usize) -> &[u8] {
        let batch_bytes = pipeline * self.request_bytes;
        let start = turn % (self.bytes.len() / batch_bytes) * batch_bytes;
        &self.bytes[start..start + batch_bytes]
    }
}

/// When a load stops sending; what is in flight then is still waited for.
#[derive(Clone, Copy)]
pub enum Until {
    /// After this time.
    Elapsed(Duration),
    /// After this many requests.
    Requests(u64),
}

/// What a load saw.
pub struct Run {
    /// Requests answered.
    pub requests: u64,
    /// From the first batch sent to the last reply received.
    pub elapsed: Duration,
    /// The part of `elapsed` that this client spent on its core, 0 to 1. Near 1, the client set the pace.
    pub client_busy: f64,
    /// Time from the write of a batch to its last reply, in nanoseconds.
    pub latency: Histogram<u64>,
}

struct Connection {
    socket: TcpStream,
    awaited: usize,
    sent_at: Instant,
    /// The start of a reply whose rest has not come yet.
    partial: Vec<u8>,
}

/// Loads the server on `port` with `script`, `pipeline` requests at a time on each connection.
///
/// # Errors
/// The server cannot be reached, closes a connection, answers with an error, or stops answering.
pub fn run(port: u16, script: &Script, pipeline: usize, until: Until) -> Result<Run> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut connections = connect(port)?;
    for (index, connection) in connections.iter().enumerate() {
        epoll::add(&epoll, &connection.socket, epoll::EventData::new_u64(index as u64), epoll::EventFlags::IN)?;
    }

    let mut events = Vec::with_capacity(CONNECTIONS);
    let mut buffer = vec![0; 1 << 16];
    let mut latency = Histogram::new_with_bounds(1, 60_000_000_000, 3)?;
    let (busy_before, started) = (thread_cpu_time(), Instant::now());
    let mut turns = 0;
    for connection in &mut connections {
        connection.send(script.batch(turns, pipeline), pipeline, started)?;
        turns += 1;
    }
    let (mut in_flight, mut ended) = (CONNECTIONS, started);
    while in_flight > 0 {
        events.clear();
        match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&TICK)) {
            Ok(0) => ensure!(ended.elapsed() < STALL, "no reply for {STALL:?}"),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("epoll_wait"),
        }
        stop_if_interrupted()?;
        for event in &events {
            let connection = &mut connections[event.data.u64() as usize];
            if !connection.receive(&mut buffer)? {
                continue;
            }
            let now = Instant::now();
            ended = now;
            latency.saturating_record((now - connection.sent_at).as_nanos() as u64);
            if until.goes_on(now - started, turns * pipeline) {
                connection.send(script.batch(turns, pipeline), pipeline, now)?;
                turns += 1;
            } else {
                in_flight -= 1;
            }
        }
    }
    let elapsed = ended - started;
    Ok(Run {
        requests: (turns * pipeline) as u64,
        elapsed,
        client_busy: (thread_cpu_time() - busy_before).as_secs_f64() / elapsed.as_secs_f64(),
        latency,
    })
}

/// The longest sleep in epoll, so that an interrupt and a stalled server are noticed.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

impl Until {
    fn goes_on(self, elapsed: Duration, requests: usize) -> bool {
        match self {
            Until::Elapsed(limit) => elapsed < limit,
            Until::Requests(limit) => (requests as u64) < limit,
        }
    }
}

fn connect(port: u16) -> Result<Vec<Connection>> {
    (0..CONNECTIONS)
        .map(|_| {
            let socket = connect_one(port)?;
            Ok(Connection { socket, awaited: 0, sent_at: Instant::now(), partial: Vec::new() })
        })
        .collect()
}

/// A connection to the server on `port`.
pub fn connect_one(port: u16) -> Result<TcpStream> {
    let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).context("connecting the load")?;
    socket.set_nodelay(true)?;
    socket.set_write_timeout(Some(STALL))?;
    Ok(socket)
}

impl Connection {
    /// Sends a batch. The socket blocks, but never for long: all earlier replies are in, so the server is reading.
    fn send(&mut self, batch: &[u8], replies: usize, now: Instant) -> Result<()> {
        self.awaited = replies;
        self.sent_at = now;
        self.socket.write_all(batch).context("sending a batch")
    }

    /// Reads once (epoll has said that there is something) and returns whether the batch is now fully answered.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<bool> {
        let kept = self.partial.len();
        buffer[..kept].copy_from_slice(&self.partial);
        let read = self.socket.read(&mut buffer[kept..]).context("reading replies")?;
        ensure!(read > 0, "the server closed a connection of the load");
        let received = &buffer[..kept + read];
        let (replies, used) = count_replies(received)?;
        ensure!(replies <= self.awaited, "more replies than requests");
        self.awaited -= replies;
        self.partial.clear();
        self.partial.extend_from_slice(&received[used..]);
        Ok(self.awaited == 0)
    }
}

/// Counts the whole replies at the start of `bytes`, and the bytes they take. Maps and whatever else only RESP3 has are not known.
pub fn count_replies(bytes: &[u8]) -> Result<(usize, usize)> {
    let (mut replies, mut used) = (0, 0);
    while let Some(length) = reply_length(&bytes[used..])? {
        replies += 1;
        used += length;
    }
    Ok((replies, used))
}

/// The length of the reply that `bytes` start with, or `None` if its end has not come yet.
fn reply_length(bytes: &[u8]) -> Result<Option<usize>> {
    if bytes.starts_with(b"+OK\r\n") {
        return Ok(Some(5));
    }
    let Some(line) = bytes.iter().position(|&byte| byte == b'\n').map(|end| &bytes[..=end]) else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(line[1..].trim_ascii_end());
    match line[0] {
        b'$' if text == "-1" => Ok(Some(line.len())),
        b'$' => {
            let whole = line.len() + text.parse::<usize>().context("length of a bulk reply")? + 2;
            Ok((bytes.len() >= whole).then_some(whole))
        }
        b':' => Ok(Some(line.len())),
        b'*' => {
            let mut whole = line.len();
            for _ in 0..text.parse::<usize>().context("length of an array reply")? {
                match reply_length(&bytes[whole..])? {
                    Some(length) => whole += length,
                    None => return Ok(None),
                }
            }
            Ok(Some(whole))
        }
        _ => bail!("the server answered the load with {:?}", String::from_utf8_lossy(line)),
    }
}

/// Sets every key below `keys` once, in order, with a time to live of `ttl_secs` if one is given.
///
/// # Errors
/// As [`run`].
pub fn fill(port: u16, keys: u64, ttl_secs: Option<u32>) -> Result<()> {
    fill_with(port, keys, |chunk, number, random| {
        push_set(chunk, number, &random.value(), ttl_secs);
        1
    })
}

/// Sends what `make` appends for every number below `keys`, in order; it returns how many requests that are.
///
/// # Errors
/// As [`run`].
pub fn fill_with(port: u16, keys: u64, make: impl Fn(&mut Vec<u8>, u64, &mut Random) -> usize) -> Result<()> {
    const CHUNK: u64 = 1000;
    let mut random = Random(0xD1B5_4A32_D192_ED03);
    let mut connection = connect(port)?.swap_remove(0);
    let (mut chunk, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    for first in (0..keys).step_by(CHUNK as usize) {
        stop_if_interrupted()?;
        chunk.clear();
        let replies = (first..keys.min(first + CHUNK)).map(|number| make(&mut chunk, number, &mut random)).sum();
        connection.send(&chunk, replies, Instant::now())?;
        while !connection.receive(&mut buffer)? {}
    }
    Ok(())
}

/// `key:` and twelve digits: 16 bytes.
pub fn key(number: u64) -> [u8; 16] {
    numbered(*b"key:000000000000", number)
}

/// `elem` and twelve digits: 16 bytes.
fn element(number: u64) -> [u8; 16] {
    numbered(*b"elem000000000000", number)
}

fn numbered(mut name: [u8; 16], number: u64) -> [u8; 16] {
    let mut rest = number;
    for digit in name[4..].iter_mut().rev() {
        *digit += (rest % 10) as u8;
        rest /= 10;
    }
    name
}

fn push_set(to: &mut Vec<u8>, number: u64, value: &[u8; VALUE_BYTES], ttl_secs: Option<u32>) {
    match ttl_secs {
        None => push(to, &[b"SET", &key(number), value]),
        Some(secs) => push(to, &[b"SET", &key(number), value, b"EX", secs.to_string().as_bytes()]),
    }
}

/// Appends one request in RESP, as an array of bulk strings.
pub fn push(to: &mut Vec<u8>, arguments: &[&[u8]]) {
    to.extend_from_slice(format!("*{}\r\n", arguments.len()).as_bytes());
    for argument in arguments {
        to.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        to.extend_from_slice(argument);
        to.extend_from_slice(b"\r\n");
    }
}

fn thread_cpu_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().expect("a clock that starts at zero")
}

/// xorshift64*: fast, and the same sequence in every run.
pub struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }

    /// Printable bytes.
    pub fn value(&mut self) -> [u8; VALUE_BYTES] {
        let mut value = [0; VALUE_BYTES];
        for chunk in value.chunks_exact_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes());
        }
        value.map(|byte| b'0' + byte % 64)
    }
}
