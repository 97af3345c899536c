//! A server process under measurement: started on loopback in a private directory, and gone with its value.
//!
//! It is killed by its process id when dropped, so also when a panic or an interrupt unwinds the benchmark. Who
//! answers on the port must say that it is that process (`INFO`'s `process_id`): a stranger left there by somebody
//! else would be measured otherwise.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tempfile::TempDir;

use crate::{client, stop_if_interrupted};

/// How long a server may take for anything it is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// An executable that takes part in the comparison.
pub struct Contestant {
    /// The name in the tables: the executable's, made unique.
    pub name: String,
    /// The executable.
    pub path: PathBuf,
    /// What it says to `--version`, its first line.
    pub version: String,
}

impl Contestant {
    /// Asks the executable for its version.
    ///
    /// # Errors
    /// It cannot be executed.
    pub fn new(path: &Path) -> Result<Self> {
        let output = Command::new(path).arg("--version").output().with_context(|| format!("{}", path.display()))?;
        let version = String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or("").to_owned();
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Ok(Contestant { name, path: path.to_owned(), version })
    }
}

/// The part a process plays, which decides the core it gets.
#[derive(Clone, Copy)]
pub enum Part {
    /// The server that the client loads: the first core, alone.
    Master,
    /// The replica beside it: the third core, or the client's where there are two.
    Replica,
    /// The load client: the second core.
    Client,
}

/// Pins the calling thread, and what it starts from now on, to the core of `part`. With one core, nothing is pinned.
pub fn pin(cores: &[usize], part: Part) -> Result<()> {
    let &[master, client, ref more @ ..] = cores else { return Ok(()) };
    let mut set = CpuSet::new();
    set.set(match part {
        Part::Master => master,
        Part::Client => client,
        Part::Replica => more.first().copied().unwrap_or(client),
    });
    sched_setaffinity(None, &set).context("pinning to a core")
}

/// The cores this process may use.
pub fn cores() -> Result<Vec<usize>> {
    let allowed = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).collect())
}

/// A running server.
pub struct Server {
    /// The loopback port it listens on.
    pub port: u16,
    process: Child,
    directory: TempDir,
}

impl Server {
    /// Starts `contestant` on the core of `part`, without persistence, and waits until it answers.
    ///
    /// # Errors
    /// It does not start; the error quotes the end of its log.
    pub fn start(contestant: &Contestant, cores: &[usize], part: Part) -> Result<Self> {
        Server::start_with(contestant, &[], cores, part)
    }

    /// As [`Server::start`], with more directives (`--name value`).
    pub fn start_with(contestant: &Contestant, directives: &[&str], cores: &[usize], part: Part) -> Result<Self> {
        Server::launch(&[], contestant, directives, cores, part)
    }

    /// As [`Server::start`], run by another program (`valgrind --tool=…`).
    pub fn start_under(runner: &[OsString], contestant: &Contestant, cores: &[usize], part: Part) -> Result<Self> {
        Server::launch(runner, contestant, &[], cores, part)
    }

    fn launch(
        runner: &[OsString],
        contestant: &Contestant,
        directives: &[&str],
        cores: &[usize],
        part: Part,
    ) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("versus-").tempdir()?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let log = File::create(directory.path().join("log"))?;
        let mut words = runner.iter().cloned().chain([contestant.path.clone().into_os_string()]);
        let mut command = Command::new(words.next().expect("the contestant is always there"));
        command.args(words).args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir"]).arg(directory.path());
        command.args(["--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"]);
        command.args(directives);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);

        // The child inherits its core from this thread, so none of its own threads can start on another.
        pin(cores, part)?;
        let spawned = command.spawn();
        pin(cores, Part::Client)?;
        let process = spawned.with_context(|| format!("starting {}", contestant.path.display()))?;
        let mut server = Server { port, process, directory };
        server.wait_until_it_answers().map_err(|error| error.context(server.log_tail(&contestant.name)))?;
        Ok(server)
    }

    fn wait_until_it_answers(&mut self) -> Result<()> {
        let pid = self.process.id().to_string();
        wait_until(Duration::from_millis(1), || {
            if let Some(status) = self.process.try_wait()? {
                bail!("it ended with {status}");
            }
            let Ok(info) = Control::connect(self.port).and_then(|mut control| control.info("server")) else {
                return Ok(None);
            };
            let answering = info.get("process_id").ok_or_else(|| anyhow!("its INFO has no process_id"))?;
            ensure!(*answering == pid, "process {answering} answers on its port {}, not {pid}", self.port);
            Ok(Some(()))
        })
    }

    fn log_tail(&self, name: &str) -> String {
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        format!("{name} on port {} said:\n{}\n", self.port, lines[lines.len().saturating_sub(12)..].join("\n"))
    }

    /// A connection for questions.
    pub fn control(&self) -> Result<Control> {
        Control::connect(self.port)
    }

    /// Processor time of all its threads so far, ended ones too.
    pub fn cpu_time(&self) -> Result<Duration> {
        let mut clock = 0;
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: both calls only write to the local they are given, which outlives them; the process is our unreaped
        // child, so its id names no other.
        let failed = unsafe {
            libc::clock_getcpuclockid(self.process.id() as libc::pid_t, &mut clock) != 0
                || libc::clock_gettime(clock, &mut time) != 0
        };
        ensure!(!failed, "reading the processor time of process {}", self.process.id());
        Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }

    /// Resident memory in bytes, once it has stopped changing (allocators give pages back a little later).
    pub fn resident_bytes(&self) -> Result<u64> {
        let mut last = self.resident_bytes_now()?;
        wait_until(Duration::from_millis(200), || {
            let before = std::mem::replace(&mut last, self.resident_bytes_now()?);
            Ok((before.abs_diff(last) < 64 << 10).then_some(last))
        })
    }

    /// Resident memory in bytes, at this moment.
    pub fn resident_bytes_now(&self) -> Result<u64> {
        self.status_bytes("VmRSS:")
    }

    /// The most resident memory there was at once since [`Server::forget_peak`], in bytes.
    pub fn peak_bytes(&self) -> Result<u64> {
        self.status_bytes("VmHWM:")
    }

    /// Lets the peak begin anew at the present size.
    pub fn forget_peak(&self) -> Result<()> {
        fs::write(format!("/proc/{}/clear_refs", self.process.id()), "5").context("resetting the peak of the memory")
    }

    /// What the last snapshot has copied outside of this process: into a child made by a fork, if that is how it is
    /// made.
    pub fn copied_bytes(&self) -> Result<u64> {
        let mut control = self.control()?;
        if control.info("server")?.contains_key("repld_version") {
            return Ok(0);
        }
        // The figure is there when the child has ended, a little after its replica has everything.
        wait_until(Duration::from_millis(10), || {
            let info = control.info("persistence")?;
            let ended = info.get("rdb_bgsave_in_progress").is_none_or(|running| running == "0");
            Ok(ended.then(|| info.get("rdb_last_cow_size").and_then(|size| size.parse().ok()).unwrap_or(0)))
        })
    }

    fn status_bytes(&self, field: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)).context("memory of the server")?;
        Ok(line.trim_end_matches("kB").trim().parse::<u64>()? * 1024)
    }

    /// Asks the process to end and waits for it.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn terminate(&mut self) -> Result<()> {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.process), rustix::process::Signal::TERM)?;
        wait_until(Duration::from_millis(1), || Ok(self.process.try_wait()?))?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only if it has ended already, which is what they are for.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Asks every `pause` until `condition` gives a value; the last question comes after [`PATIENCE`].
pub fn wait_until<T>(pause: Duration, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let started = Instant::now();
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        stop_if_interrupted()?;
        ensure!(started.elapsed() < PATIENCE, "waited in vain for {PATIENCE:?}");
        std::thread::sleep(pause);
    }
}

/// A connection that asks one question at a time.
pub struct Control {
    stream: BufReader<TcpStream>,
}

impl Control {
    fn connect(port: u16) -> Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Control { stream: BufReader::new(stream) })
    }

    /// Sends a command and returns the text of its reply.
    ///
    /// # Errors
    /// The reply is an error or no text, or the connection broke.
    pub fn ask(&mut self, arguments: &[&str]) -> Result<String> {
        let mut request = Vec::new();
        client::push(&mut request, &arguments.iter().map(|argument| argument.as_bytes()).collect::<Vec<_>>());
        self.stream.get_mut().write_all(&request)?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let line = line.trim_end();
        match line.split_at_checked(1) {
            Some(("+" | ":", text)) => Ok(text.to_owned()),
            Some(("$", length)) => {
                let mut text = vec![0; length.parse::<usize>()? + 2];
                self.stream.read_exact(&mut text)?;
                text.truncate(text.len() - 2);
                Ok(String::from_utf8(text)?)
            }
            _ => bail!("{} answered {line:?}", arguments.join(" ")),
        }
    }

    /// The fields of one section of `INFO`.
    pub fn info(&mut self, section: &str) -> Result<HashMap<String, String>> {
        let text = self.ask(&["INFO", section])?;
        Ok(text.lines().filter_map(|line| line.split_once(':')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
    }

    /// A field of `INFO replication`, or the empty string.
    pub fn replication(&mut self, field: &str) -> Result<String> {
        Ok(self.info("replication")?.remove(field).unwrap_or_default())
    }
}
