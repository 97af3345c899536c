//! `replctl history`: what was done to a group, by whom, and how it ended.

use std::time::{Duration, UNIX_EPOCH};

use replctl::group::{Episode, Group, GroupError, Outcome, Reading, episodes, read};

use super::ExitCode;
use super::context::Context;
use crate::ui::table;

/// A journal is read as far back as this: some ten thousand promotions.
const JOURNAL_BYTES_MAX: u64 = 64 << 20;

/// `replctl history`
#[derive(Debug, clap::Args)]
pub struct HistoryArgs {
    /// Show only the last so many
    #[arg(short = 'n', long, value_name = "COUNT")]
    last: Option<usize>,
}

impl HistoryArgs {
    /// Shows one line for each thing that was done, oldest first.
    pub fn run(&self, context: &Context<'_>) -> anyhow::Result<ExitCode> {
        let dir = context.group_dir()?;
        match Group::open(dir.clone()) {
            Ok(group) if group.run.sentinels.is_some() => drop(context.group()?),
            // What was done can be told all the same.
            Ok(_) | Err(GroupError::Damaged { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let Reading { entries, damaged } = read(&dir.journal_file(), JOURNAL_BYTES_MAX)?;
        for at in damaged {
            let path = dir.journal_file();
            context.printer.warning(format_args!("{}: the line at byte {at} is damaged, and skipped", path.display()));
        }
        let all = episodes(&entries);
        let shown = &all[all.len().saturating_sub(self.last.unwrap_or(usize::MAX))..];
        if context.printer.is_json() {
            shown.iter().for_each(|episode| context.printer.object(episode));
        } else {
            let headings = ["when (UTC)", "who", "command", "what", ">took", "lost", "result"];
            context.printer.data(table::plain(&headings, shown.iter().map(row)));
        }
        Ok(ExitCode::Done)
    }
}

fn row(episode: &Episode) -> Vec<String> {
    let when = UNIX_EPOCH + Duration::from_millis(episode.time_unix_ms);
    let (took, result) = match &episode.outcome {
        Outcome::Done { took_ms: 0 } => ("-".to_owned(), "done".to_owned()),
        Outcome::Done { took_ms } => (format!("{took_ms} ms"), "done".to_owned()),
        Outcome::Failed { took_ms, error } => (format!("{took_ms} ms"), error.clone()),
        Outcome::Unknown => ("-".to_owned(), "broke off, or goes on".to_owned()),
    };
    vec![
        humantime::format_rfc3339_seconds(when).to_string().trim_end_matches('Z').replace('T', " "),
        episode.user.clone(),
        episode.command.clone(),
        if episode.what.is_empty() { "-".to_owned() } else { episode.what.clone() },
        took,
        episode.loss.as_ref().map_or_else(|| "-".to_owned(), |loss| format!("{} bytes", loss.bytes_min())),
        result,
    ]
}
