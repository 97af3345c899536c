//! `replctl kill-master`: the master dies as if its machine had failed.

use std::time::Instant;

use replctl::group::{self, KillPlan, KillReport, SentinelFailover};
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
        let (mut group, _lock) = context.settled_group("kill-master")?;
        let plan = context.block_on(async { Ok(KillPlan::new(&group).await?) })?;
        if self.dry_run {
            match context.printer.is_json() {
                true => context.printer.object(&json!({ "plan": plan })),
                false => context.printer.data(format_args!("would kill {} (pid {})", plan.master, plan.process.pid)),
            }
            return Ok(ExitCode::Done);
        }
        let report = context.record(
            &group.dir.clone(),
            |event| context.narrate(event),
            async |recorder| Ok(group::kill_master(&group, plan, recorder).await?),
        )?;
        let killed = Instant::now();
        if group.run.sentinels.is_none() {
            match context.printer.is_json() {
                true => context.printer.object(&report),
                false => {
                    show(context, &report);
                    let guards =
                        group::guard_state(&group)?.is_some_and(|guard| guard.is_alive && !guard.is_in_maintenance);
                    let hint = if guards { "the group's guard replaces it: replctl status" } else { "replctl promote" };
                    context.printer.note(format_args!("hint: {hint}"));
                }
            }
            return Ok(ExitCode::Done);
        }
        if !context.printer.is_json() {
            show(context, &report);
        }
        let failover =
            context.block_on(async { Ok(group::await_failover(&mut group, &report.plan.master, killed).await?) })?;
        show_failover(context, &report, failover.as_ref());
        let is_whole = failover.is_some_and(|failover| failover.linked_us.is_some());
        Ok(if is_whole { ExitCode::Done } else { ExitCode::Incomplete })
    }
}

fn show(context: &Context<'_>, report: &KillReport) {
    let rows = report.plan.offsets.iter().map(|(node, offset)| vec![node.clone(), offset.to_string()]);
    context.printer.data(table::plain(&["node", ">last seen at offset"], rows));
    let took = table::milliseconds(report.took_us);
    let (master, pid) = (&report.plan.master, report.plan.process.pid);
    context.printer.data(format_args!("\n{master} (pid {pid}) was killed and is gone after {took}"));
}

/// What the Sentinels have made of it.
fn show_failover(context: &Context<'_>, report: &KillReport, failover: Option<&SentinelFailover>) {
    if context.printer.is_json() {
        let mut object = json!(report);
        object["failover"] = json!(failover);
        return context.printer.object(&object);
    }
    let Some(SentinelFailover { master, first_write_us, linked_us }) = failover else {
        context.printer.warning(format_args!("the sentinels have not replaced {}", report.plan.master));
        return context.printer.note("hint: replctl status; replctl promote --force, if too few of them live");
    };
    let first_write = table::milliseconds(*first_write_us);
    context
        .printer
        .data(format_args!("{master} is the master by choice of the sentinels: it takes writes after {first_write}"));
    match linked_us {
        Some(linked) => {
            context.printer.data(format_args!("all others follow it after {}", table::milliseconds(*linked)))
        }
        None => context.printer.warning("not all others have followed it in time"),
    }
}
