//! A client that asks at a fixed rate, whatever the server does meanwhile: what people behind it would have to wait.
//!
//! Requests have times at which they are due. One that could not be sent in time, since the server (or this client) was
//! busy, has waited since it was due: a pause of 50 ms delays 250 requests at 5,000 a second, and all 250 are counted.
//! Beside them, batches of SETs on a connection of their own write at a rate of their own.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use hdrhistogram::Histogram;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::client::{self, Command, Script};
use crate::stop_if_interrupted;

/// Single GETs a second, whose times are measured.
pub const READS_PER_SEC: u32 = 5_000;
/// SETs a second, in batches.
pub const WRITES_PER_SEC: u32 = 30_000;
const WRITES_PER_BATCH: u32 = 30;

/// What the client does.
#[derive(Clone, Copy)]
pub enum Rate {
    /// [`READS_PER_SEC`] GETs a second.
    Reads,
    /// Beside them, [`WRITES_PER_SEC`] SETs.
    ReadsAndWrites,
}

/// A load that runs on a thread of its own.
pub struct Paced {
    shared: Arc<Shared>,
    thread: JoinHandle<Result<Histogram<u64>>>,
}

#[derive(Default)]
struct Shared {
    measures: AtomicBool,
    ends: AtomicBool,
}

impl Paced {
    /// Begins to load the server on `port`, which has `keys` keys; nothing is measured yet.
    pub fn start(port: u16, keys: u64, rate: Rate) -> Result<Paced> {
        let reads = Flow::connect(port, Command::Get, keys, 1, READS_PER_SEC)?;
        let mut writes = Flow::connect(port, Command::Set, keys, WRITES_PER_BATCH, WRITES_PER_SEC)?;
        if matches!(rate, Rate::Reads) {
            writes.never();
        }
        let shared = Arc::new(Shared::default());
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || run(reads, writes, &shared)
        });
        Ok(Paced { shared, thread })
    }

    /// Measures what is due from now on.
    pub fn measure(&self) {
        self.shared.measures.store(true, Ordering::Relaxed);
    }

    /// Ends the load. The times that requests took which were due while it measured, in nanoseconds.
    ///
    /// # Errors
    /// The server has closed a connection, or answered with an error.
    pub fn finish(self) -> Result<Histogram<u64>> {
        self.shared.ends.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the paced client has panicked"))?
    }
}

/// One connection and what is due on it.
struct Flow {
    socket: TcpStream,
    script: Script,
    batch: u32,
    period: Duration,
    next_due: Instant,
    turn: usize,
    out: Vec<u8>,
    /// When the requests were due that are not answered yet.
    due: VecDeque<Instant>,
    partial: Vec<u8>,
}

impl Flow {
    fn connect(port: u16, command: Command, keys: u64, batch: u32, per_sec: u32) -> Result<Flow> {
        let socket = client::connect_one(port)?;
        socket.set_nonblocking(true)?;
        Ok(Flow {
            socket,
            script: Script::new(command, keys),
            batch,
            period: Duration::from_secs(1) * batch / per_sec,
            next_due: Instant::now(),
            turn: 0,
            out: Vec::new(),
            due: VecDeque::new(),
            partial: Vec::new(),
        })
    }

    /// Lets nothing be due for longer than any measurement takes.
    fn never(&mut self) {
        self.next_due += Duration::from_secs(24 * 60 * 60);
    }

    /// Sends what is due at `now`, as far as the connection takes it.
    fn send(&mut self, now: Instant) -> Result<()> {
        while self.next_due <= now {
            self.out.extend_from_slice(self.script.batch(self.turn, self.batch as usize));
            self.due.extend((0..self.batch).map(|_| self.next_due));
            self.turn += 1;
            self.next_due += self.period;
        }
        while !self.out.is_empty() {
            match self.socket.write(&self.out) {
                Ok(count) => drop(self.out.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("sending what is due"),
            }
        }
        Ok(())
    }

    /// Reads what has come and reports for each reply how long it took since its request was due.
    fn receive(&mut self, buffer: &mut [u8], mut report: impl FnMut(Instant)) -> Result<()> {
        loop {
            match self.socket.read(buffer) {
                Ok(0) => return Err(anyhow!("the server closed a connection of the paced client")),
                Ok(count) => self.partial.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("reading replies"),
            }
            let (replies, used) = client::count_replies(&self.partial)?;
            ensure!(replies <= self.due.len(), "more replies than requests");
            self.due.drain(..replies).for_each(&mut report);
            self.partial.drain(..used);
        }
    }
}

/// Lets the calling thread wait for no core while the servers are busy: what is measured is how long they take. Linux may
/// leave a thread that has just been picked alone up to the next tick, 4 ms, whatever the nice value of the one that wakes
/// up; so the client is a real-time thread, which it can only be by a privileged user.
fn go_first() {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let asked =
        std::process::Command::new("chrt").args(["--fifo", "--pid", "10", &thread]).stderr(Stdio::null()).status();
    if !asked.is_ok_and(|status| status.success()) {
        let _ = rustix::process::nice(-10);
    }
}

fn run(mut reads: Flow, mut writes: Flow, shared: &Shared) -> Result<Histogram<u64>> {
    go_first();
    let mut latency = Histogram::new_with_bounds(1, 60_000_000_000, 3)?;
    let mut buffer = vec![0; 1 << 16];
    while !shared.ends.load(Ordering::Relaxed) {
        stop_if_interrupted()?;
        let now = Instant::now();
        reads.send(now)?;
        writes.send(now)?;
        let wait = reads.next_due.min(writes.next_due).saturating_duration_since(Instant::now());
        let interest = |flow: &Flow| {
            if flow.out.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT }
        };
        let mut sockets =
            [PollFd::new(&reads.socket, interest(&reads)), PollFd::new(&writes.socket, interest(&writes))];
        let timeout = Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() };
        match poll(&mut sockets, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("poll"),
        }
        let measures = shared.measures.load(Ordering::Relaxed);
        reads.receive(&mut buffer, |due| {
            if measures {
                latency.saturating_record(due.elapsed().as_nanos() as u64);
            }
        })?;
        writes.receive(&mut buffer, |_| {})?;
    }
    Ok(latency)
}
