//! `replctl guard`: a resident observer that replaces a lost master at once.

use std::time::SystemTime;

use clap::ValueEnum;
use replctl::event::Event;
use replctl::group::{self, GuardNote, GuardVerdict};
use replctl::process::Durability;
use serde_json::json;

use super::ExitCode;
use super::context::Context;

/// `replctl guard`
#[derive(Debug, clap::Args)]
pub struct GuardArgs {
    /// Let the group's guard only watch, or act again
    #[arg(long, value_name = "on|off")]
    maintenance: Option<Switch>,

    /// Its failovers are looked into: they do not hold back the next one any more
    #[arg(long, conflicts_with = "maintenance")]
    acknowledge: bool,

    /// End the group's guard
    #[arg(long, conflicts_with_all = ["maintenance", "acknowledge"])]
    stop: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

impl GuardArgs {
    /// Watches until interrupted, or tells the guard that does something.
    pub fn run(&self, context: &Context<'_>) -> anyhow::Result<ExitCode> {
        if self.stop {
            return stop(context);
        }
        if self.acknowledge || self.maintenance.is_some() {
            return self.tell(context);
        }
        let dir = context.group_dir()?;
        context.record(
            &dir,
            |event| show(event, context),
            async |recorder| Ok(group::watch_over(&dir, recorder.display()).await?),
        )?;
        Ok(ExitCode::Done)
    }

    /// The guard reads it from the run state, whenever there is one.
    fn tell(&self, context: &Context<'_>) -> anyhow::Result<ExitCode> {
        let (mut group, _lock) = context.locked_group("guard")?;
        group::check_decider(&group)?;
        let guard = &mut group.run.guard;
        let (verdict, reason) = match self.maintenance {
            Some(switch) => {
                guard.is_in_maintenance = switch == Switch::On;
                match switch {
                    Switch::On => (GuardVerdict::Pauses, "maintenance: it watches and does nothing"),
                    Switch::Off => (GuardVerdict::Resumes, "maintenance is over"),
                }
            }
            None => {
                guard.acknowledgements += 1;
                (GuardVerdict::Acknowledged, "its failovers do not hold back the next one any more")
            }
        };
        let note = GuardNote { verdict, reason: reason.to_owned(), evidence: Vec::new() };
        let dir = group.dir.clone();
        context.record(
            &dir,
            |event| show(event, context),
            async |recorder| {
                recorder.record(Event::Guard { note })?;
                Ok(dir.save_run_state(&group.run, Durability::Disk)?)
            },
        )?;
        Ok(ExitCode::Done)
    }
}

fn stop(context: &Context<'_>) -> anyhow::Result<ExitCode> {
    let (mut group, _lock) = context.locked_group("guard")?;
    let ended = context.block_on(async { Ok(group::stop_guard(&mut group).await?) })?;
    match (context.printer.is_json(), ended) {
        (true, ended) => context.printer.object(&json!({ "group": group.run.group, "ended": ended })),
        (false, Some(pid)) => {
            context.printer.data(format_args!("the guard of {} (pid {pid}) has ended", group.run.group))
        }
        (false, None) => context.printer.data(format_args!("nothing to do: {} has no guard", group.run.group)),
    }
    Ok(ExitCode::Done)
}

/// One line for each thing, with its evidence below; the same as objects under `--json`.
fn show(event: &Event, context: &Context<'_>) {
    if context.printer.is_json() {
        if matches!(event, Event::Guard { .. } | Event::Promoted { .. } | Event::Warning { .. }) {
            context.printer.object(event);
        }
        return;
    }
    let now = humantime::format_rfc3339_millis(SystemTime::now());
    match event {
        Event::Guard { note } => {
            context.printer.data(format_args!("{now} {note}"));
            note.evidence.iter().for_each(|one| context.printer.data(format_args!("    {one}")));
        }
        Event::Promoted { node, old_master, .. } => {
            context.printer.data(format_args!("{now} {node} is the master in place of {old_master}"));
        }
        event => context.narrate(event),
    }
}
