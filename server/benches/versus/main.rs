//! repld beside redis-server, in one run: throughput, processor time per request, latency, replication, memory and
//! full syncs.
//!
//! ```text
//! cargo bench -p repld --bench versus -- --only tput,memory --rounds 5
//! ```
//!
//! Absolute figures do not travel between machines; ratios within one run do. So every measurement is repeated in
//! rounds that take the servers in turn (A B, A B, …), each ratio is one of neighbours in time, and the median of
//! the rounds counts. `docs/performance.md` says what each figure means. It is a benchmark and no test: whatever the
//! figures, the exit code is 0 once they were measured.

mod aggregates;
mod client;
mod paced;
mod report;
mod server;
mod sync;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};

use client::{Command, Script, Until};
use report::{Load, Report, Rounds};
use server::{Contestant, Part, Server, cores, pin, wait_until};

/// Measures repld beside other servers that speak the Redis protocol.
#[derive(Parser)]
#[command(name = "versus")]
struct Options {
    /// A server to compare with; the first one is the baseline of all ratios [default: redis-server on PATH]
    #[arg(long, value_name = "EXECUTABLE")]
    peer: Vec<PathBuf>,
    /// The server to hold against the bars
    #[arg(long, value_name = "EXECUTABLE", default_value = env!("CARGO_BIN_EXE_repld"))]
    server: PathBuf,
    /// What to measure [default: all but instructions]
    #[arg(long, value_delimiter = ',', value_name = "GROUP")]
    only: Vec<Group>,
    /// How often each measurement is repeated [default: 5]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// Keys in each server [default: 1000000]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1000..=100_000_000))]
    keys: Option<u64>,
    /// A first impression in seconds: 2 short rounds and 100000 keys, unless said otherwise
    #[arg(long)]
    quick: bool,
    /// cargo bench says so
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Group {
    /// SET and GET at pipeline 1, 16 and 64: throughput, processor time per request, latency
    Tput,
    /// The same SETs with a replica attached, until it has caught up
    Replica,
    /// Resident bytes per key, without and with a time to live
    Memory,
    /// From REPLICAOF to a replica with equal offset and equally many keys; what a paced client sees meanwhile
    Sync,
    /// Ten commands on lists, hashes, sets, sorted sets and streams at pipeline 16, on many small ones and on a large one
    Aggregates,
    /// Bytes per key of small strings and small aggregates
    Small,
    /// Instructions per request, counted by valgrind
    Cpu,
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Ends a measurement by an error after SIGINT or SIGTERM, so that every server is dropped on the way out.
fn stop_if_interrupted() -> Result<()> {
    ensure!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
    Ok(())
}

extern "C" fn note_interrupt(_signal: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

fn main() -> ExitCode {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler only stores to an atomic, which is safe at any point of the program.
        unsafe { libc::signal(signal, note_interrupt as *const () as libc::sighandler_t) };
    }
    match Versus::new(Options::parse()).and_then(Versus::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("versus: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The comparison: who takes part, how long, how often, on which cores.
struct Versus {
    contestants: Vec<Contestant>,
    groups: Vec<Group>,
    rounds: u32,
    keys: u64,
    duration: Duration,
    is_quick: bool,
    cores: Vec<usize>,
    report: Report,
}

impl Versus {
    fn new(options: Options) -> Result<Self> {
        let mut peers = options.peer;
        if peers.is_empty() {
            match find_on_path("redis-server") {
                Some(path) => peers.push(path),
                None => println!("redis-server is not on PATH and no --peer is given: measuring the server alone"),
            }
        }
        let subject = peers.len().min(1);
        peers.insert(subject, options.server);
        let mut contestants = peers.iter().map(|path| Contestant::new(path)).collect::<Result<Vec<_>>>()?;
        tell_namesakes_apart(&mut contestants);
        let names = contestants.iter().map(|contestant| contestant.name.clone()).collect();
        Ok(Versus {
            contestants,
            groups: if options.only.is_empty() {
                vec![Group::Tput, Group::Replica, Group::Memory, Group::Aggregates, Group::Small, Group::Sync]
            } else {
                options.only
            },
            rounds: options.rounds.unwrap_or(if options.quick { 2 } else { 5 }),
            keys: options.keys.unwrap_or(if options.quick { 100_000 } else { 1_000_000 }),
            duration: Duration::from_millis(if options.quick { 250 } else { 1000 }),
            is_quick: options.quick,
            cores: cores()?,
            report: Report::new(names, subject),
        })
    }

    fn run(mut self) -> Result<()> {
        for contestant in &self.contestants {
            println!("{:<20} {} ({})", contestant.name, contestant.version, contestant.path.display());
        }
        println!("{} rounds of {:?}, {} keys, {} cores", self.rounds, self.duration, self.keys, self.cores.len());
        println!("load average before: {}", fs::read_to_string("/proc/loadavg")?.trim_end());
        // What else runs here should disturb as little as possible; only a privileged user may ask for that.
        let _ = rustix::process::nice(-10);
        pin(&self.cores, Part::Client)?;
        for group in self.groups.clone() {
            match group {
                Group::Tput => self.throughput()?,
                Group::Replica => self.throughput_with_replica()?,
                Group::Memory => self.memory()?,
                Group::Sync => self.full_syncs()?,
                Group::Aggregates => self.aggregates()?,
                Group::Small => self.small_values()?,
                Group::Cpu => self.instructions()?,
            }
        }
        self.report.summary();
        Ok(())
    }

    /// Measures every contestant in every round, in turn.
    fn interleave<T>(&self, mut measure: impl FnMut(&Contestant) -> Result<T>) -> Result<Rounds<T>> {
        let mut rounds = Rounds::new(self.contestants.len());
        for _ in 0..self.rounds {
            for (index, contestant) in self.contestants.iter().enumerate() {
                rounds.push(index, measure(contestant).with_context(|| contestant.name.clone())?);
            }
        }
        Ok(rounds)
    }

    fn start(&self, contestant: &Contestant, part: Part) -> Result<Server> {
        Server::start(contestant, &self.cores, part)
    }

    /// Starts a master and gives it the keys.
    fn start_filled(&self, contestant: &Contestant) -> Result<Server> {
        let server = self.start(contestant, Part::Master)?;
        fill(&server, self.keys, None)?;
        Ok(server)
    }

    /// Every round has new processes: where its memory happens to lie makes a process some 5% faster or slower for all
    /// its life, which must not pass for a property of its executable.
    fn throughput(&mut self) -> Result<()> {
        let scripts = [Command::Set, Command::Get].map(|command| (command, Script::new(command, self.keys)));
        let cases: Vec<_> = scripts.iter().flat_map(|script| [1, 16, 64].map(|pipeline| (script, pipeline))).collect();
        let mut results: Vec<_> = cases.iter().map(|_| Rounds::new(self.contestants.len())).collect();
        for _ in 0..self.rounds {
            let start =
                |contestant: &Contestant| self.start_filled(contestant).with_context(|| contestant.name.clone());
            let servers = self.contestants.iter().map(start).collect::<Result<Vec<_>>>()?;
            for (((_, script), pipeline), rounds) in cases.iter().zip(&mut results) {
                for (index, server) in servers.iter().enumerate() {
                    let load = load(server, script, *pipeline, self.duration, || Ok(()));
                    rounds.push(index, load.with_context(|| self.contestants[index].name.clone())?);
                }
            }
        }
        for (((command, _), pipeline), rounds) in cases.iter().zip(&results) {
            self.report.load(&format!("{command} P={pipeline}"), rounds);
        }
        Ok(())
    }

    fn throughput_with_replica(&mut self) -> Result<()> {
        let script = Script::new(Command::Set, self.keys);
        let rounds = self.interleave(|contestant| {
            let master = self.start_filled(contestant)?;
            let replica = self.start(contestant, Part::Replica)?;
            attach(&replica, &master)?;
            load(&master, &script, 16, self.duration, || wait_for_offset(&replica, &master))
        })?;
        self.report.load("SET P=16, replica caught up", &rounds);
        Ok(())
    }

    fn memory(&mut self) -> Result<()> {
        for (title, ttl_secs) in [("bytes per key", None), ("bytes per key with a TTL", Some(100_000))] {
            let rounds = self.interleave(|contestant| {
                let server = self.start(contestant, Part::Master)?;
                let before = server.resident_bytes()?;
                fill(&server, self.keys, ttl_secs)?;
                Ok((server.resident_bytes()? as f64 - before as f64) / self.keys as f64)
            })?;
            self.report.figure(title, &rounds);
        }
        Ok(())
    }

    /// The difference between a long and a short run, so that starting and filling do not count.
    fn instructions(&mut self) -> Result<()> {
        const PIPELINE: usize = 16;
        const KEYS: u64 = 10_000;
        let (short, long) = (10_000, 40_000);
        for command in [Command::Set, Command::Get] {
            let script = Script::new(command, KEYS);
            let mut counts = Rounds::new(self.contestants.len());
            for (index, contestant) in self.contestants.iter().enumerate() {
                let count = |requests| {
                    count_instructions(contestant, &self.cores, |server| {
                        fill(server, KEYS, None)?;
                        client::run(server.port, &script, PIPELINE, Until::Requests(requests))?;
                        Ok(())
                    })
                };
                counts.push(index, (count(long)? as f64 - count(short)? as f64) / (long - short) as f64);
            }
            self.report.figure(&format!("instructions per {command}, P=16"), &counts);
        }
        Ok(())
    }
}

fn find_on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file())
}

fn tell_namesakes_apart(contestants: &mut [Contestant]) {
    let mut seen = HashMap::new();
    for contestant in contestants {
        let count = seen.entry(contestant.name.clone()).or_insert(0);
        *count += 1;
        if *count > 1 {
            contestant.name.push_str(&format!(" ({count})"));
        }
    }
}

/// Gives a new server its keys, and makes sure that it holds them.
fn fill(server: &Server, keys: u64, ttl_secs: Option<u32>) -> Result<()> {
    client::fill(server.port, keys, ttl_secs)?;
    let held = server.control()?.ask(&["DBSIZE"])?;
    ensure!(held == keys.to_string(), "it holds {held} keys of {keys}");
    Ok(())
}

/// Loads `server` for `duration`, then waits until it has `settled`, which counts as time of the load.
fn load(
    server: &Server,
    script: &Script,
    pipeline: usize,
    duration: Duration,
    settled: impl FnOnce() -> Result<()>,
) -> Result<Load> {
    load_until(server, script, pipeline, Until::Elapsed(duration), settled)
}

/// As [`load`], until anything.
fn load_until(
    server: &Server,
    script: &Script,
    pipeline: usize,
    until: Until,
    settled: impl FnOnce() -> Result<()>,
) -> Result<Load> {
    let cpu_before = server.cpu_time()?;
    let run = client::run(server.port, script, pipeline, until)?;
    let answered = Instant::now();
    settled()?;
    let per_sec = run.requests as f64 / (run.elapsed + answered.elapsed()).as_secs_f64();
    let cpu_us = (server.cpu_time()? - cpu_before).as_secs_f64() * 1e6 / run.requests as f64;
    Ok(Load { run, cpu_us, per_sec })
}

/// Makes `replica` follow `master`, and returns the time until its link is up and it holds the same.
fn attach(replica: &Server, master: &Server) -> Result<Duration> {
    let mut control = replica.control()?;
    let keys = master.control()?.ask(&["DBSIZE"])?;
    let started = Instant::now();
    control.ask(&["REPLICAOF", "127.0.0.1", &master.port.to_string()])?;
    wait_until(Duration::from_millis(1), || Ok((control.replication("master_link_status")? == "up").then_some(())))?;
    wait_for_offset(replica, master)?;
    let took = started.elapsed();
    let held = control.ask(&["DBSIZE"])?;
    ensure!(held == keys, "after its full sync the replica holds {held} keys, its master {keys}");
    Ok(took)
}

/// Waits until `replica` has applied what `master` has written by now.
fn wait_for_offset(replica: &Server, master: &Server) -> Result<()> {
    let wanted: u64 = master.control()?.replication("master_repl_offset")?.parse()?;
    let mut control = replica.control()?;
    wait_until(Duration::from_millis(1), || {
        let applied: u64 = control.replication("slave_repl_offset")?.parse()?;
        Ok((applied >= wanted).then_some(()))
    })
}

/// Runs `contestant` under valgrind, does `work` with it, and returns how many instructions it executed in all.
fn count_instructions(contestant: &Contestant, cores: &[usize], work: impl Fn(&Server) -> Result<()>) -> Result<u64> {
    let valgrind = find_on_path("valgrind").context("valgrind is not on PATH, it counts the instructions")?;
    let directory = tempfile::tempdir()?;
    let counts = directory.path().join("callgrind.out");
    let runner = [valgrind.into(), "--tool=callgrind".into(), out_file_option(&counts)];
    let mut server = Server::start_under(&runner, contestant, cores, Part::Master)?;
    work(&server)?;
    server.terminate()?;
    let text = fs::read_to_string(&counts)?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ")).context("no totals from callgrind")?;
    Ok(total.trim().parse()?)
}

fn out_file_option(path: &Path) -> std::ffi::OsString {
    let mut option = std::ffi::OsString::from("--callgrind-out-file=");
    option.push(path);
    option
}
