//! The only place that prints: data on stdout, everything else on stderr.
//!
//! Under `--json` stdout carries one object (or JSON Lines) and stderr nothing: an error is an object too,
//! `{"error":{"message":…,"hint":…,"exit_code":…}}`, so that a pipe into a JSON reader always parses.
//! Colour is decided once, here; nothing that is said needs it to be understood.

pub mod progress;
pub mod table;

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

use anstream::ColorChoice;
use serde::Serialize;

use crate::cli::{ExitCode, GlobalArgs};

/// `--color`
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Prints as the global options say. A reader that closed its end of stdout silences it and is no error.
#[derive(Debug)]
pub struct Printer {
    json: bool,
    quiet: bool,
    verbose: bool,
    /// The first error of a write to stdout; nothing is written after it.
    stdout_error: OnceLock<io::Error>,
}

impl Printer {
    /// A printer that follows the global options.
    pub fn new(global: &GlobalArgs) -> Self {
        match global.color {
            Color::Auto => ColorChoice::Auto,
            Color::Always => ColorChoice::Always,
            Color::Never => ColorChoice::Never,
        }
        .write_global();
        Self { json: global.json, quiet: global.quiet, verbose: global.verbose, stdout_error: OnceLock::new() }
    }

    /// A printer for `--json` when the other options are not known.
    pub fn json() -> Self {
        Self { json: true, quiet: false, verbose: false, stdout_error: OnceLock::new() }
    }

    /// Whether `--json` was given: a subcommand prints its object instead of its text.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Whether `-v` was given.
    pub fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// Whether moving bars can be shown: stderr is a terminal and speech is wanted.
    pub fn shows_progress(&self) -> bool {
        !self.quiet && !self.json && io::stderr().is_terminal()
    }

    /// Whether somebody may still read stdout: streams end when nobody does.
    pub fn is_stdout_open(&self) -> bool {
        self.stdout_error.get().is_none()
    }

    /// Prints a result, which may be several lines, and a newline to stdout.
    pub fn data(&self, text: impl Display) {
        if !self.is_stdout_open() {
            return;
        }
        let mut stdout = anstream::stdout().lock();
        if let Err(error) = writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
            let _ = self.stdout_error.set(error);
        }
    }

    /// Whether what is shown again and again is shown in place: stdout is a terminal.
    pub fn clears_screen(&self) -> bool {
        !self.json && io::stdout().is_terminal()
    }

    /// Takes everything off the terminal, so that what follows stands at its top.
    pub fn clear_screen(&self) {
        if self.clears_screen() {
            // A terminal that went away shows nothing anyway.
            let _ = write!(io::stdout(), "\x1b[H\x1b[2J");
        }
    }

    /// Prints a result as one line of JSON to stdout.
    pub fn object(&self, value: &impl Serialize) {
        match serde_json::to_string(value) {
            Ok(line) => self.data(line),
            Err(error) => self.warning(format_args!("a result cannot be written as JSON: {error}")),
        }
    }

    /// Says on stderr what happens, unless `-q` or `--json`.
    pub fn note(&self, text: impl Display) {
        if !self.quiet && !self.json {
            stderr_line(text);
        }
    }

    /// Says on stderr what may surprise, unless `--json` (where it belongs into the object).
    pub fn warning(&self, text: impl Display) {
        if !self.json {
            stderr_line(format_args!("\x1b[1;33mwarning\x1b[0m: {text}"));
        }
    }

    /// Says on stderr why the run failed, and what may help. Under `--json` the caller prints an object instead.
    pub fn error(&self, message: &str, hint: Option<&str>) {
        stderr_line(format_args!("\x1b[1;31merror\x1b[0m: {message}"));
        if let Some(hint) = hint {
            stderr_line(format_args!("\x1b[1;36mhint\x1b[0m: {hint}"));
        }
    }

    /// Shows on stderr an error that was laid out already, with ANSI colours, which are taken out where they do not
    /// belong.
    pub fn report(&self, text: impl Display) {
        stderr_line(text);
    }

    /// The exit code of a run that wants to end with `code`: results that could not be written, because the disk is
    /// full for example, are a failure; a reader that left early is not.
    pub fn finish(&self, code: ExitCode) -> ExitCode {
        match self.stdout_error.get() {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                stderr_line(format_args!("\x1b[1;31merror\x1b[0m: cannot write to stdout: {error}"));
                if code == ExitCode::Done { ExitCode::Failed } else { code }
            }
            _ => code,
        }
    }
}

/// A stderr that cannot be written to leaves nobody to tell.
fn stderr_line(text: impl Display) {
    let _ = writeln!(anstream::stderr().lock(), "{text}");
}
