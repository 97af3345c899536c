//! `replctl init`: a topology file to start from.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::Context;
use clap::builder::{PossibleValue, PossibleValuesParser};
use replctl::topology::{FILE_NAME, PRESETS, Preset};
use serde_json::json;

use super::{ExitCode, Failure};
use crate::ui::Printer;

/// `replctl init [PRESET]`
#[derive(Debug, clap::Args)]
pub struct InitArgs {
    /// The shipped topology to write
    #[arg(default_value = PRESETS[0].name, value_parser = PossibleValuesParser::new(presets()))]
    preset: String,

    /// Replace a replctl.toml that is there
    #[arg(long)]
    force: bool,

    /// Print what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
}

fn presets() -> impl Iterator<Item = PossibleValue> {
    PRESETS.iter().map(|preset| PossibleValue::new(preset.name).help(preset.summary()))
}

impl InitArgs {
    /// Writes the file into the current directory.
    pub fn run(&self, printer: &Printer) -> anyhow::Result<ExitCode> {
        let preset = Preset::named(&self.preset)
            .ok_or_else(|| Failure::new(ExitCode::Usage, format_args!("there is no preset {}", self.preset)))?;
        if !self.dry_run {
            write(Path::new(FILE_NAME), preset.text, self.force)?;
        }
        if printer.is_json() {
            let (name, text) = (preset.name, preset.text);
            printer.object(&json!({ "file": FILE_NAME, "preset": name, "written": !self.dry_run, "text": text }));
        } else if self.dry_run {
            printer.data(preset.text.trim_end());
        } else {
            printer.note(format_args!("wrote {FILE_NAME}: {}", preset.summary()));
        }
        Ok(ExitCode::Done)
    }
}

fn write(path: &Path, text: &str, replace: bool) -> anyhow::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(!replace).create(replace).truncate(replace);
    let mut file = match options.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let refusal = Failure::new(ExitCode::Refused, format_args!("{} exists already", path.display()));
            return Err(refusal.hint("--force replaces it").into());
        }
        Err(error) => return Err(error).with_context(|| format!("cannot write {}", path.display())),
    };
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}
