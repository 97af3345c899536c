//! `replctl run`: a command has a group of its own, for as long as it runs.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::Context as _;
use replctl::group::{self, Ephemeral, Group, LaunchPlan};
use replctl::process::Program;
use replctl::topology::Topology;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;
use tokio::signal::unix::{SignalKind, signal};

use super::context::Context;
use super::{ExitCode, Failure};

/// How long a command may go on after a SIGTERM or the end of its terminal.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a shell says of a command that is not there, and of one that cannot be run.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// `replctl run [TOPOLOGY] -- CMD..`
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// The topology file [default: replctl.toml here, else the built-in trio]
    topology: Option<PathBuf>,

    /// How long the group may take to be linked
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    timeout: Duration,

    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

impl RunArgs {
    /// Starts the group, runs the command, ends the group; this program ends as the command did.
    pub fn run(&self, context: &Context<'_>) -> anyhow::Result<ExitCode> {
        let code = self.run_with_group(context)?;
        // Codes of the command are none of ours. Everything that has to be ended has ended.
        if code != 0 { std::process::exit(code.into()) } else { Ok(ExitCode::Done) }
    }

    fn run_with_group(&self, context: &Context<'_>) -> anyhow::Result<u8> {
        let topology = Topology::find(self.topology.as_deref())?;
        if let Some(node) = topology.nodes().iter().find(|node| node.managed().is_none()) {
            let message = format!("{} is not managed: run starts a group of its own", node.name);
            return Err(Failure::new(ExitCode::Refused, message).hint("adopt or up, and then the command").into());
        }
        let mut topology = topology.for_drill(None);
        for name in topology.leave_out(|engine| Program::find(engine).is_err()) {
            context.printer.note(format_args!("{name} is left out: its engine is not installed"));
        }
        let place = Ephemeral::new(topology.name())?;
        let dir = place.dir().clone().tied_to_this_thread();
        let lock = dir.lock("run")?;
        context.record(
            &dir,
            |event| context.narrate(event),
            async |recorder| {
                // From before the group's start on, so that none is missed between that and the command's.
                let mut signals = Signals::new().context("signals cannot be received")?;
                let plan = LaunchPlan::new(&dir, &topology, false).await?;
                let group = group::up(dir.clone(), plan, self.timeout, recorder).await?;
                // The command may change the group by replctl.
                drop(lock);
                let mut environment = variables(&group)?;
                environment.insert("REPLCTL_GROUP".to_owned(), topology.name().to_owned());
                environment.insert("REPLCTL_STATE_DIR".to_owned(), place.state_dir().display().to_string());
                self.execute(environment, &mut signals, context).await
            },
        )
    }

    async fn execute(
        &self,
        environment: BTreeMap<String, String>,
        signals: &mut Signals,
        context: &Context<'_>,
    ) -> anyhow::Result<u8> {
        let (program, arguments) = self.command.split_first().expect("clap requires a command");
        let mut child = match tokio::process::Command::new(program).args(arguments).envs(environment).spawn() {
            Ok(child) => child,
            Err(error) => {
                context.printer.error(&format!("{program} cannot be run: {error}"), None);
                let is_absent = error.kind() == std::io::ErrorKind::NotFound;
                return Ok(if is_absent { NOT_FOUND } else { NOT_EXECUTABLE });
            }
        };
        Ok(code_of(signals.pass_on_until_end(&mut child).await?))
    }
}

/// As shells have it: a command that a signal has ended is 128 and the signal.
fn code_of(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(ExitCode::Failed as u8)
}

/// What the command finds its group by.
fn variables(group: &Group) -> anyhow::Result<BTreeMap<String, String>> {
    let mut variables = BTreeMap::from([("REPLCTL_MASTER_URL".to_owned(), group::url(group.run.master()))]);
    for node in &group.run.nodes {
        let is_plain = |char: char| char.is_ascii_alphanumeric();
        let name: String =
            node.name.chars().map(|char| if is_plain(char) { char.to_ascii_uppercase() } else { '_' }).collect();
        let name = format!("REPLCTL_NODE_{name}_URL");
        if variables.insert(name.clone(), group::url(node)).is_some() {
            let failure = Failure::new(ExitCode::Usage, format_args!("two nodes would be the variable {name}"));
            return Err(failure.hint("name them differently").into());
        }
    }
    Ok(variables)
}

/// The signals that a person or a CI system ends commands with.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Passes signals on to a command until it has ended. What Ctrl-C means is the command's to say: a shell or an interpreter
    /// goes on. After the others it is killed if it does.
    async fn pass_on_until_end(&mut self, child: &mut Child) -> std::io::Result<ExitStatus> {
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let pass_on = |signal: Signal| {
            if let Some(pid) = pid {
                // It cannot have been reaped; at worst it has ended.
                let _ = kill_process(pid, signal);
            }
        };
        let must_end = loop {
            tokio::select! {
                status = child.wait() => return status,
                // The terminal sends Ctrl-C to all that it runs in the foreground, the command too.
                _ = self.interrupt.recv() => if !std::io::stdin().is_terminal() { pass_on(Signal::INT) },
                _ = self.terminate.recv() => break Signal::TERM,
                _ = self.hang_up.recv() => break Signal::HUP,
            }
        };
        pass_on(must_end);
        match tokio::time::timeout(PATIENCE, child.wait()).await {
            Ok(status) => status,
            Err(_) => {
                child.start_kill()?;
                child.wait().await
            }
        }
    }
}
