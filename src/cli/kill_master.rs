//! `replctl kill-master`: the master dies as if its machine had failed.

use replctl::group::{self, KillPlan};
use serde_json::json;

use super::ExitCode;
use super::context::Context;
use crate::ui::table;

/// `replctl kill-master`
#[derive(Debug, clap::Args)]
pub struct KillMasterArgs {
    /// Show which process would be killed, and kill nothing
    #[arg(long)]
    dry_run: bool,
}

impl KillMasterArgs {
    /// Kills the master with SIGKILL and shows how far every node was just before.
    pub fn run(&self, context: &Context<'_>) -> anyhow::Result<ExitCode> {
        let (group, _lock) = context.settled_group("kill-master")?;
        let plan = context.block_on(async { Ok(KillPlan::new(&group).await?) })?;
        if self.dry_run {
            match context.printer.is_json() {
                true => context.printer.object(&json!({ "plan": plan })),
                false => context.printer.data(format_args!("would kill {} (pid {})", plan.master, plan.process.pid)),
            }
            return Ok(ExitCode::Done);
        }
        let report = context.record(
            &group.dir,
            |event| context.narrate(event),
            async |recorder| Ok(group::kill_master(&group, plan, recorder).await?),
        )?;
        if context.printer.is_json() {
            context.printer.object(&report);
            return Ok(ExitCode::Done);
        }
        let rows = report.plan.offsets.iter().map(|(node, offset)| vec![node.clone(), offset.to_string()]);
        context.printer.data(table::plain(&["node", ">last seen at offset"], rows));
        let took = table::milliseconds(report.took_us);
        let (master, pid) = (&report.plan.master, report.plan.process.pid);
        context.printer.data(format_args!("\n{master} (pid {pid}) was killed and is gone after {took}"));
        match group::guard_state(&group)?.is_some_and(|guard| guard.is_alive && !guard.is_in_maintenance) {
            true => context.printer.note("hint: the group's guard replaces it: replctl status"),
            false => context.printer.note("hint: replctl promote"),
        }
        Ok(ExitCode::Done)
    }
}
