//! The command line: one file per subcommand, one table of exit codes, one place where errors become hints.
//!
//! A subcommand is an `Args` struct with a `run` that returns the [`ExitCode`] it ended with, or an error. Errors of
//! the library know nothing of exit codes; [`Failure::from`] is where each of their types gets one.

pub mod adopt;
pub mod check;
#[expect(clippy::module_inception, reason = "one file per subcommand, and this one is called cli")]
pub mod cli;
pub mod completions;
mod context;
pub mod down;
pub mod drill;
pub mod guard;
pub mod history;
pub mod init;
pub mod kill_master;
pub mod link;
pub mod logs;
pub mod ls;
pub mod promote;
pub mod repoint;
pub mod restart;
pub mod run;
pub mod serve;
pub mod signal;
pub mod start;
pub mod status;
pub mod switchover;
pub mod up;

use std::fmt::Display;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use replctl::group::{GroupError, NodeSignal, Refusal, Step};
use replctl::process::StateError;
use replctl::topology::TopologyError;
use serde_json::json;

use self::context::Context;
use crate::ui::{Color, Printer};

/// Stands up, breaks and repairs Redis-protocol replication groups made of real processes.
#[derive(Debug, Parser)]
#[command(name = "replctl", version, max_term_width = 100, after_help = ExitCode::table())]
pub struct Cli {
    /// The options that every subcommand takes.
    #[command(flatten)]
    pub global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

/// The options that every subcommand takes.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// The group to work on [default: the only one that is up]
    #[arg(short, long, global = true, value_name = "NAME", env = "REPLCTL_GROUP", hide_env_values = true)]
    pub group: Option<String>,

    /// Where groups are kept [default: replctl in the XDG state directory]
    #[arg(long, global = true, value_name = "DIR", env = "REPLCTL_STATE_DIR", hide_env_values = true)]
    pub state_dir: Option<PathBuf>,

    /// Print one JSON object (or JSON Lines, for streams) on stdout and no prose, errors included
    #[arg(long, global = true)]
    pub json: bool,

    /// When to use colour
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, value_name = "WHEN")]
    pub color: Color,

    /// Say less: only results, warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Say more
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

impl GlobalArgs {
    /// The directory that holds one directory per group. It need not exist yet.
    ///
    /// # Errors
    /// Neither `--state-dir` nor a home directory is known.
    pub fn state_dir(&self) -> Result<PathBuf, Failure> {
        use etcetera::base_strategy::{BaseStrategy, Xdg};
        if let Some(given) = &self.state_dir {
            return Ok(given.clone());
        }
        Xdg::new().ok().and_then(|xdg| xdg.state_dir()).map(|dir| dir.join("replctl")).ok_or_else(|| {
            Failure::new(ExitCode::Usage, "no home directory is known, so there is no place for the groups' state")
                .hint("name one with --state-dir or REPLCTL_STATE_DIR")
        })
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a group from a topology file, or what is missing of it
    Up(up::UpArgs),
    /// Take over a group that runs already, from its master down
    Adopt(adopt::AdoptArgs),
    /// Show how a group is and what is wrong with it
    Status(status::StatusArgs),
    /// Kill the master's process, as a failing machine would
    KillMaster(kill_master::KillMasterArgs),
    /// Kill nodes' processes, as failing machines would
    Kill(signal::SignalArgs),
    /// Let nodes' processes hang
    Pause(signal::SignalArgs),
    /// Let nodes that hang go on
    Resume(signal::SignalArgs),
    /// Start nodes that do not run, in the roles that they have now
    Start(start::StartArgs),
    /// End nodes and start them again, one at a time
    Restart(restart::RestartArgs),
    /// Replace a lost master by its best replica and let the others follow
    Promote(promote::PromoteArgs),
    /// Let a master hand over to a replica without losing a write
    Switchover(switchover::SwitchoverArgs),
    /// Let a replica follow another node
    Repoint(repoint::RepointArgs),
    /// Break what is between a replica and the node above it, or heal it
    Link(link::LinkArgs),
    /// Carry the links of a group: `up` starts this where a topology says `[faults] links = true`
    #[command(hide = true)]
    CarryLinks,
    /// End every process of a group
    Down(down::DownArgs),
    /// Run a command with a group of its own, which ends with it
    Run(run::RunArgs),
    /// Rehearse a failure with a group of its own, and judge it
    Drill(drill::DrillArgs),
    /// Watch over a group, and replace a lost master at once
    Guard(guard::GuardArgs),
    /// Show what was done to a group
    History(history::HistoryArgs),
    /// List the groups
    Ls(ls::LsArgs),
    /// Show what the nodes log
    Logs(logs::LogsArgs),
    /// Talk to a node
    Cli(cli::CliArgs),
    /// Check a topology file and show the group that it describes
    Check(check::CheckArgs),
    /// Write a replctl.toml to start from
    Init(init::InitArgs),
    /// Print the completion script for a shell
    Completions(completions::CompletionsArgs),
    /// Run the server, repld, in this process: everything after `serve` is its own command line
    #[command(disable_help_flag = true)]
    Serve(serve::ServeArgs),
}

impl Cli {
    /// Parses the process's arguments.
    ///
    /// # Errors
    /// What clap has to say: a usage error, or the help or version text that was asked for.
    pub fn from_command_line() -> Result<Self, clap::Error> {
        Self::try_parse()
    }

    /// Runs the subcommand that was asked for.
    pub fn run(self, printer: &Printer) -> anyhow::Result<ExitCode> {
        let context = Context::new(&self.global, printer);
        match self.command {
            Command::Up(args) => args.run(&context),
            Command::Adopt(args) => args.run(&context),
            Command::Status(args) => args.run(&context),
            Command::KillMaster(args) => args.run(&context),
            Command::Kill(args) => args.run(NodeSignal::Kill, &context),
            Command::Pause(args) => args.run(NodeSignal::Pause, &context),
            Command::Resume(args) => args.run(NodeSignal::Resume, &context),
            Command::Start(args) => args.run(&context),
            Command::Restart(args) => args.run(&context),
            Command::Promote(args) => args.run(&context),
            Command::Switchover(args) => args.run(&context),
            Command::Repoint(args) => args.run(&context),
            Command::Link(args) => args.run(&context),
            Command::CarryLinks => link::carry(&context),
            Command::Down(args) => args.run(&context),
            Command::Run(args) => args.run(&context),
            Command::Drill(args) => args.run(&context),
            Command::Guard(args) => args.run(&context),
            Command::History(args) => args.run(&context),
            Command::Ls(args) => args.run(&context),
            Command::Logs(args) => args.run(&context),
            Command::Cli(args) => args.run(&context),
            Command::Check(args) => args.run(printer),
            Command::Init(args) => args.run(printer),
            Command::Completions(args) => args.run(printer),
            Command::Serve(args) => args.run(),
        }
    }
}

/// How a run of replctl ends: the whole table, which `--help` and the README show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// What was asked for is so.
    Done = 0,
    /// It could not be done.
    Failed = 1,
    /// The command line or a topology file is wrong; nothing was touched.
    Usage = 2,
    /// Doing it could lose or overwrite something; nothing was touched.
    Refused = 3,
    /// The main thing is done, something that is named is missing.
    Incomplete = 4,
    /// Another replctl is changing the same group.
    Busy = 5,
    /// A drill's verdict: a promise was broken.
    VerdictFailed = 6,
    /// A drill's verdict: too little was seen to judge.
    Inconclusive = 7,
}

impl ExitCode {
    /// Every code with the words that stand for it in `--help` and the README.
    pub const TABLE: [(ExitCode, &str); 8] = [
        (ExitCode::Done, "done"),
        (ExitCode::Failed, "failed"),
        (ExitCode::Usage, "wrong usage, or an error in the topology file"),
        (ExitCode::Refused, "refused as unsafe; the reason is named, --force overrides where it may"),
        (ExitCode::Incomplete, "done but incomplete; what is missing is named"),
        (ExitCode::Busy, "busy: another replctl holds the group"),
        (ExitCode::VerdictFailed, "the verdict is: failed"),
        (ExitCode::Inconclusive, "the verdict is: inconclusive"),
    ];

    fn table() -> String {
        let mut text = String::from("Exit codes:\n");
        for (code, words) in Self::TABLE {
            text += &format!("  {}  {words}\n", code as u8);
        }
        text
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

/// An error as the user meets it: what went wrong, what to do about it, and the exit code it ends in.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    exit_code: ExitCode,
    /// A lower-case sentence without a full stop.
    message: String,
    /// What the user may do about it.
    hint: Option<String>,
    /// The errors of a topology file, which are shown with its lines.
    topology: Option<Box<TopologyError>>,
}

impl Failure {
    /// A failure that a subcommand finds by itself.
    pub fn new(exit_code: ExitCode, message: impl Display) -> Self {
        Self { exit_code, message: message.to_string(), hint: None, topology: None }
    }

    /// Adds what the user may do about it.
    pub fn hint(mut self, hint: impl Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    fn of_topology(error: TopologyError) -> Self {
        let count = error.diagnostics().len() + error.omitted();
        let errors = if count == 1 { "an error".to_owned() } else { format!("{count} errors") };
        let message = format!("{errors} in {}", error.path().display());
        Self { topology: Some(Box::new(error)), ..Self::new(ExitCode::Usage, message) }
    }

    fn of_group(error: &GroupError) -> Self {
        let (exit_code, hint) = match error {
            GroupError::State(StateError::Busy { .. }) => {
                (ExitCode::Busy, Some("try again when it is done".to_owned()))
            }
            GroupError::State(StateError::NoSuchGroup(_) | StateError::BadName(_)) => {
                (ExitCode::Usage, Some("replctl ls lists the groups".to_owned()))
            }
            GroupError::Damaged { group, is_recoverable: true, .. } => (
                ExitCode::Failed,
                Some(format!(
                    "replctl -g {group} up goes on with the state before (run.json.old) and what lives, replctl -g {group} down ends all"
                )),
            ),
            GroupError::Damaged { group, is_recoverable: false, .. } => (
                ExitCode::Failed,
                Some(format!("replctl -g {group} down ends what lives and keeps the data, --wipe removes all")),
            ),
            GroupError::Engine { source, .. } => (ExitCode::Failed, source.hint().map(str::to_owned)),
            GroupError::Refused(refusal @ Refusal::NoSuchNode(_)) => (ExitCode::Usage, Some(refusal.hint())),
            GroupError::Refused(refusal) => (ExitCode::Refused, Some(refusal.hint())),
            GroupError::Unsafe { hint, .. } => (ExitCode::Refused, Some(hint.clone())),
            GroupError::PortTaken { .. } => {
                (ExitCode::Failed, Some("end it, or give the node another port, or none".to_owned()))
            }
            GroupError::StepFailed { step: Step::HandOver { .. }, .. } => {
                (ExitCode::Failed, Some("replctl status; replctl promote, if nobody is the master".to_owned()))
            }
            GroupError::StepFailed { .. } => {
                (ExitCode::Failed, Some("replctl promote again goes on from what is there".to_owned()))
            }
            GroupError::NotRunning { node } => (ExitCode::Failed, Some(format!("replctl start {node}"))),
            GroupError::Unmanaged { hint, .. } => (ExitCode::Refused, Some(hint.clone())),
            GroupError::Absent { node, .. } => {
                (ExitCode::Failed, Some(format!("replctl does not start {node}: start it where it runs")))
            }
            GroupError::Links { .. } => {
                (ExitCode::Failed, Some("replctl up starts it again, if it has ended".to_owned()))
            }
            GroupError::NotReplaced { .. } => {
                (ExitCode::Failed, Some("replctl promote --force, if too few of them live".to_owned()))
            }
            GroupError::NoLivingMaster(diagnosis) => (ExitCode::Failed, diagnosis.hint()),
            GroupError::State(_)
            | GroupError::Io(_)
            | GroupError::NodeDied { .. }
            | GroupError::Password { .. }
            | GroupError::TimedOut { .. }
            | GroupError::Interrupted
            | GroupError::Wire { .. }
            | GroupError::StillAlive(_) => (ExitCode::Failed, None),
        };
        Self { hint, ..Self::new(exit_code, error) }
    }

    /// `{"message": …, "hint": …, "exit_code": …}`, and `"diagnostics"` for a topology file.
    fn as_json(&self) -> serde_json::Value {
        let mut object = json!({ "message": self.message, "hint": self.hint, "exit_code": self.exit_code as u8 });
        if let Some(error) = &self.topology {
            let diagnostics = error.diagnostics().iter().map(|one| {
                let (line, column) = one.position.map(|position| (position.line, position.column)).unzip();
                json!({ "file": error.path().display().to_string(), "line": line, "column": column,
                        "message": one.message, "hint": one.hint })
            });
            object["diagnostics"] = diagnostics.collect();
        }
        object
    }
}

/// The one place where the errors of the library get their exit code and hint.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let error = match error.downcast::<Failure>() {
            Ok(failure) => return failure,
            Err(error) => error,
        };
        let error = match error.downcast::<TopologyError>() {
            Ok(error) => return Failure::of_topology(error),
            Err(error) => error,
        };
        let error = match error.downcast::<StateError>() {
            Ok(error) => return Failure::of_group(&error.into()),
            Err(error) => error,
        };
        match error.downcast::<GroupError>() {
            Ok(error) => Failure::of_group(&error),
            Err(error) => Failure::new(ExitCode::Failed, format_args!("{error:#}")),
        }
    }
}

/// Shows an error that ended a subcommand; under `--json` as the one object on stdout.
pub fn report_failure(error: anyhow::Error, printer: &Printer) -> ExitCode {
    let failure = Failure::from(error);
    if printer.is_json() {
        printer.object(&json!({ "error": failure.as_json() }));
    } else if let Some(error) = &failure.topology {
        printer.report(error.render(true));
    } else {
        printer.error(&failure.message, failure.hint.as_deref());
    }
    failure.exit_code
}

/// Shows what clap has to say: help and version on stdout, an error on stderr, or on stdout as JSON if `--json` is
/// among the arguments that could not be parsed.
pub fn report_usage(usage: &clap::Error) -> ExitCode {
    if !usage.use_stderr() {
        // Help or version: a reader that left early is no error.
        let _ = usage.print();
        return ExitCode::Done;
    }
    if std::env::args_os().any(|argument| argument == "--json") {
        let text = usage.to_string();
        let message = text.split("\n\n").next().unwrap_or_default().trim().trim_start_matches("error: ");
        let failure = Failure::new(ExitCode::Usage, message).hint("replctl --help");
        return report_failure(failure.into(), &Printer::json());
    }
    let _ = usage.print();
    ExitCode::Usage
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn exit_codes_are_numbered_as_the_table_lists_them() {
        for (number, (code, _)) in ExitCode::TABLE.iter().enumerate() {
            assert_eq!(*code as usize, number);
        }
    }
}
