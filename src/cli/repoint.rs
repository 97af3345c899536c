//! `replctl repoint`: a replica follows another node.

use std::time::Duration;

use replctl::group::{self, RepointPlan, Resync};
use serde_json::json;

use super::ExitCode;
use super::context::Context;
use crate::ui::table;

/// `replctl repoint NODE --to NODE`
#[derive(Debug, clap::Args)]
pub struct RepointArgs {
    /// The replica
    node: String,

    /// The node that it will follow: the master or another replica
    #[arg(long, value_name = "NODE")]
    to: String,

    /// Replace the replica's data where the other node is of another history
    #[arg(long)]
    force: bool,

    /// How long the replica may take to be linked
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    timeout: Duration,

    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

impl RepointArgs {
    /// Tells the replica, waits for its link, and says how it came there.
    pub fn run(&self, context: &Context<'_>) -> anyhow::Result<ExitCode> {
        let (mut group, _lock) = context.settled_group("repoint")?;
        let printer = context.printer;
        let dir = group.dir.clone();
        let report = context.record(
            &dir,
            |event| context.narrate(event),
            async |recorder| {
                let (view, clients) = group::observe(&group).await?;
                let plan = RepointPlan::new(&view, &self.node, &self.to, self.force)?;
                if self.dry_run {
                    match printer.is_json() {
                        true => printer.object(&json!({ "plan": plan })),
                        false => printer.data(format_args!(
                            "would let {} follow {} and no longer {}",
                            plan.node, plan.to, plan.from
                        )),
                    }
                    return Ok(None);
                }
                Ok(Some(group::repoint(&mut group, &clients, plan, self.timeout, recorder).await?))
            },
        )?;
        let Some(report) = report else { return Ok(ExitCode::Done) };
        if printer.is_json() {
            printer.object(&report);
        } else {
            let how = match report.resync {
                Resync::Partial => "by partial resync, ",
                Resync::Full => "by full resync, ",
                Resync::Unknown => "",
            };
            let (node, to, took) = (&report.plan.node, &report.plan.to, table::milliseconds(report.took_us));
            printer.data(format_args!("{node} follows {to} ({how}{took})"));
            if let Some(diverged) = &report.diverged {
                printer.data(format_args!("demoted: {}", diverged.words()));
            }
        }
        Ok(ExitCode::Done)
    }
}
