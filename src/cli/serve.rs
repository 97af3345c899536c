//! `replctl serve`: the server itself, from this very executable, so that one binary is the whole product.

use std::ffi::OsString;

use super::ExitCode;

/// `replctl serve [CONF] [--directive value …]`
#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// repld's own command line: [CONF] [--directive value …]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    arguments: Vec<OsString>,
}

impl ServeArgs {
    /// Runs the server when `serve` was not the first word (`replctl -q serve …`).
    pub fn run(self) -> anyhow::Result<ExitCode> {
        if run(self.arguments) == std::process::ExitCode::SUCCESS { Ok(ExitCode::Done) } else { Ok(ExitCode::Failed) }
    }
}

/// The server's arguments if `serve` is the first word: a group of a hundred nodes starts this program a hundred
/// times, and none of them should pay for the tool's command-line parser.
pub fn fast_path(command_line: impl IntoIterator<Item = OsString>) -> Option<Vec<OsString>> {
    let mut words = command_line.into_iter().skip(1);
    (words.next()? == "serve").then(|| words.collect())
}

/// Runs repld until it has shut down.
pub fn run(arguments: Vec<OsString>) -> std::process::ExitCode {
    repld::run(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &[&str]) -> Vec<OsString> {
        line.iter().map(OsString::from).collect()
    }

    #[test]
    fn everything_after_serve_goes_to_the_server_verbatim() {
        let line = words(&["replctl", "serve", "repld.conf", "--port", "0", "--json", "--help"]);
        assert_eq!(fast_path(line), Some(words(&["repld.conf", "--port", "0", "--json", "--help"])));
    }

    #[test]
    fn other_subcommands_do_not_take_the_fast_path() {
        assert_eq!(fast_path(words(&["replctl", "check", "serve"])), None);
        assert_eq!(fast_path(words(&["replctl"])), None);
    }
}
