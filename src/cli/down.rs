//! `replctl down`: nothing of a group runs any more.

use std::time::Duration;

use replctl::group::{self, Group, GroupError};
use replctl::process::{GroupDir, GroupLock};
use serde_json::json;

use super::ExitCode;
use super::context::Context;

/// `replctl down`
#[derive(Debug, clap::Args)]
pub struct DownArgs {
    /// Remove the group's directory, too: data, logs, configuration, journal
    #[arg(long)]
    wipe: bool,

    /// How long a server may take to save and end before it is killed
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    timeout: Duration,

    /// Show what would be ended, and end nothing
    #[arg(long)]
    dry_run: bool,
}

impl DownArgs {
    /// Ends every process of the group and waits until all are gone.
    pub fn run(&self, context: &Context<'_>) -> anyhow::Result<ExitCode> {
        let printer = context.printer;
        let dir = context.group_dir()?;
        match Group::open(dir.clone()) {
            Ok(_) => {}
            Err(GroupError::Damaged { .. }) if !self.dry_run => {}
            Err(error) => return Err(error.into()),
        }
        let lock = dir.lock("down")?;
        if let Err(damaged) = context.recover(&dir, &lock) {
            return self.end_unknown(context, &dir, &lock, damaged);
        }
        group::note_failover(&dir, &lock)?;
        let mut group = Group::open(dir)?;
        if self.dry_run {
            let living = group::living(&group)?;
            if printer.is_json() {
                printer
                    .object(&json!({ "plan": { "group": group.run.group, "nodes": living, "is_wiped": self.wipe } }));
            } else {
                for (node, process) in living {
                    printer.data(format_args!("would end {node} (pid {})", process.pid));
                }
                for node in group::unmanaged(&group) {
                    printer.data(format_args!("would leave {node} alone"));
                }
            }
            return Ok(ExitCode::Done);
        }
        // Once nobody lives, nobody can be asked any more.
        context.block_on(async { Ok(group::forget_if_nothing_came(&mut group).await?) })?;
        let dir = group.dir.clone();
        let report = context.record(
            &dir,
            |event| context.narrate(event),
            async |recorder| Ok(group::down(group, &lock, self.wipe, self.timeout, recorder).await?),
        )?;
        if printer.is_json() {
            printer.object(&report);
        } else {
            let nodes = match (report.ended.len(), report.sentinels_ended.len()) {
                (1, 0) => "1 node has".to_owned(),
                (nodes, 0) => format!("{nodes} nodes have"),
                (nodes, sentinels) => format!("{nodes} nodes and {sentinels} sentinels have"),
            };
            let data = if report.is_wiped { ", its data is removed" } else { ", its data is kept" };
            let alone = group::listed(&report.left_alone);
            if report.is_forgotten {
                printer.data(format_args!("{} is forgotten; left alone as they are: {alone}", report.group));
                return Ok(ExitCode::Done);
            }
            printer.data(format_args!("{} is down: {nodes} ended{data}", report.group));
            if !report.left_alone.is_empty() {
                printer.data(format_args!("left alone as they are: {alone}"));
            }
        }
        Ok(ExitCode::Done)
    }

    /// Ends what lives of a group of which nothing else is known.
    fn end_unknown(
        &self,
        context: &Context<'_>,
        dir: &GroupDir,
        lock: &GroupLock,
        damaged: anyhow::Error,
    ) -> anyhow::Result<ExitCode> {
        let ended = context.block_on(async { Ok(group::end_launched(dir, self.timeout).await?) })?;
        for node in ended {
            context.printer.note(format_args!("{node} has ended"));
        }
        if !self.wipe {
            // What is wrong has been said with those that lived; now none does.
            return Err(Group::open(dir.clone()).err().map_or(damaged, Into::into));
        }
        dir.wipe(lock)?;
        context.printer.data(format_args!("{} is removed", dir.name()));
        Ok(ExitCode::Done)
    }
}
