//! `replctl kill`, `pause` and `resume`: what a node's process may suffer.

use replctl::group::{self, Group, GroupError, KillPlan, NodeSignal};
use serde_json::json;

use super::ExitCode;
use super::context::Context;
use crate::ui::table;

/// `replctl kill NODE`, `replctl pause NODE`, `replctl resume NODE`
#[derive(Debug, clap::Args)]
pub struct SignalArgs {
    /// The nodes, and sentinels
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,

    /// Show which processes are meant, and leave them alone
    #[arg(long)]
    dry_run: bool,
}

impl SignalArgs {
    /// Signals the nodes' processes, all of which must run.
    pub fn run(&self, signal: NodeSignal, context: &Context<'_>) -> anyhow::Result<ExitCode> {
        let (group, _lock) = context.settled_group(signal.name())?;
        group::refuse_unmanaged(&group, &self.nodes, signal.untouchable())?;
        let mut processes = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            if signal == NodeSignal::Resume {
                group::refuse_zombie(&group, node)?;
            }
            processes.push((node.clone(), group::living_process(&group, node)?));
        }
        if self.dry_run {
            match context.printer.is_json() {
                true => context.printer.object(&json!({ "plan": { "signal": signal, "nodes": processes } })),
                false => processes.iter().for_each(|(node, process)| {
                    context.printer.data(format_args!("would {} {node} (pid {})", signal.name(), process.pid));
                }),
            }
            return Ok(ExitCode::Done);
        }
        context.record(
            &group.dir,
            |event| context.narrate(event),
            async |recorder| {
                for (node, process) in &processes {
                    let took = match kill_plan(&group, node, signal).await? {
                        // Its end is a loss that a later promotion must be able to tell.
                        Some(plan) => group::kill_master(&group, plan, recorder).await?.took_us,
                        None => {
                            let took = group::signal_node(node, process, signal, recorder).await?;
                            u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
                        }
                    };
                    let pid = process.pid;
                    match context.printer.is_json() {
                        true => context
                            .printer
                            .object(&json!({ "node": node, "pid": pid, "signal": signal, "took_us": took })),
                        false => {
                            let (done, took) = (signal.done(), table::milliseconds(took));
                            context.printer.data(format_args!("{node} (pid {pid}) {done} after {took}"));
                        }
                    }
                }
                Ok(ExitCode::Done)
            },
        )
    }
}

async fn kill_plan(group: &Group, node: &str, signal: NodeSignal) -> anyhow::Result<Option<KillPlan>> {
    if signal != NodeSignal::Kill {
        return Ok(None);
    }
    match KillPlan::new(group).await {
        Ok(plan) => Ok(Some(plan).filter(|plan| plan.master == node)),
        // Two masters, or none: then this is just a process.
        Err(GroupError::NoLivingMaster(_) | GroupError::Unmanaged { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
