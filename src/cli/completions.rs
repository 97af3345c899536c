//! `replctl completions`: the script that makes a shell ask replctl for completions.

use clap::CommandFactory;
use clap_complete::env::{CompleteEnv, Shells};

use super::{Cli, ExitCode, Failure};
use crate::ui::Printer;

/// The variable under which a shell, taught by the script, runs replctl to ask for completions.
const ASKED_BY_SHELL: &str = "COMPLETE";

/// `replctl completions SHELL`
#[derive(Debug, clap::Args)]
#[command(after_help = "To use it: source <(replctl completions bash)")]
pub struct CompletionsArgs {
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(Shells::builtins().names()))]
    shell: String,
}

impl CompletionsArgs {
    /// Prints the script.
    pub fn run(&self, printer: &Printer) -> anyhow::Result<ExitCode> {
        let shells = Shells::builtins();
        let shell = shells
            .completer(&self.shell)
            .ok_or_else(|| Failure::new(ExitCode::Usage, format_args!("no completions for {}", self.shell)))?;
        let mut script = Vec::new();
        shell.write_registration(ASKED_BY_SHELL, "replctl", "replctl", "replctl", &mut script)?;
        printer.data(String::from_utf8_lossy(&script).trim_end());
        Ok(ExitCode::Done)
    }
}

/// Answers a shell that asks for completions, and ends the process; returns at once when no shell does.
pub fn answer_the_shell() {
    CompleteEnv::with_factory(Cli::command).var(ASKED_BY_SHELL).complete();
}
