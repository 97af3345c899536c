//! `replctl up`: a topology becomes running, linked servers.

use std::path::PathBuf;
use std::time::Duration;

use replctl::group::{self, Action, Group, LaunchPlan};
use replctl::process::{GroupDir, Program};
use replctl::topology::{By, Topology};
use serde_json::json;

use super::context::Context;
use super::{ExitCode, Failure};
use crate::ui::table;

/// `replctl up [TOPOLOGY]`
#[derive(Debug, clap::Args)]
pub struct UpArgs {
    /// The topology file [default: replctl.toml here, else the built-in trio]
    topology: Option<PathBuf>,

    /// How long the group may take to be linked; then what was started is ended again
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    timeout: Duration,

    /// Start the group's guard, too [default: if the topology says `[failover] by = "guard"`]
    #[arg(long)]
    guard: bool,

    /// Show what would be started, and start nothing
    #[arg(long)]
    dry_run: bool,

    /// Start a changed topology even if its master is not the one that was master last
    #[arg(long)]
    force: bool,
}

impl UpArgs {
    /// Starts what is missing, adopts what runs, waits for the links, and shows the group.
    pub fn run(&self, context: &Context<'_>) -> anyhow::Result<ExitCode> {
        if self.topology.is_none()
            && let Some(group) = context.adopted_group()?
        {
            return self.make_whole(context, &group.dir);
        }
        let mut topology = Topology::find(self.topology.as_deref())?;
        for name in topology.leave_out(|engine| Program::find(engine).is_err()) {
            context.printer.note(format_args!("{name} is left out: its engine is not installed"));
        }
        if self.guard && topology.sentinels().is_some() {
            let message =
                format!("the sentinels of {} decide who is its master, and a guard would, too", topology.name());
            return Err(Failure::new(ExitCode::Refused, message).hint("leave out --guard, or [sentinel]").into());
        }
        let dir = context.dir_for(topology.name())?;
        if self.dry_run {
            let plan = context.block_on(async { Ok(LaunchPlan::new(&dir, &topology, self.force).await?) })?;
            show_plan(&plan, context);
            return Ok(ExitCode::Done);
        }
        let lock = dir.lock("up")?;
        context.recover(&dir, &lock)?;
        group::note_failover(&dir, &lock)?;
        context.end_strays(&dir, self.timeout)?;
        let plan = context.block_on(async { Ok(LaunchPlan::new(&dir, &topology, self.force).await?) })?;
        self.launch(context, &dir, plan)
    }

    /// An adopted group has no topology file, and nothing to be started.
    fn make_whole(&self, context: &Context<'_>, dir: &GroupDir) -> anyhow::Result<ExitCode> {
        let _lock = dir.lock("up")?;
        let plan =
            context.block_on(async { Ok(LaunchPlan::of_adopted(Group::open(dir.clone())?, self.force).await?) })?;
        if self.dry_run {
            show_plan(&plan, context);
            return Ok(ExitCode::Done);
        }
        self.launch(context, dir, plan)
    }

    fn launch(&self, context: &Context<'_>, dir: &GroupDir, plan: LaunchPlan) -> anyhow::Result<ExitCode> {
        for (node, engine, wished) in plan.upgraded() {
            context
                .printer
                .note(format_args!("{node} stays on {engine}: restart --engine put it in place of {wished}"));
        }
        for node in &plan.absent {
            context.printer.warning(format_args!("{node} does not answer, and replctl does not start it"));
        }
        let mut status = super::start::launch(context, dir, plan, self.timeout)?;
        if self.guard || status.group().run.by == By::Guard {
            context.block_on(async { Ok(group::start_guard(status.group_mut()).await?) })?;
        }
        status.show(context)
    }
}

pub(super) fn show_plan(plan: &LaunchPlan, context: &Context<'_>) {
    if context.printer.is_json() {
        return context.printer.object(&json!({ "plan": plan }));
    }
    let words = |action: &Action| {
        let role = action.upstream.as_ref().map_or_else(|| "master".to_owned(), |up| format!("replica of {up}"));
        let what = if action.is_adopted { "runs already" } else { "would start" };
        vec![action.node.clone(), what.to_owned(), role, action.address.to_string()]
    };
    let sentinels = plan.sentinels.iter().map(|action| {
        let mut row = words(action);
        "sentinel".clone_into(&mut row[2]);
        row
    });
    let rows = plan.actions.iter().map(words).chain(sentinels);
    context.printer.data(table::plain(&["node", "action", "role", "address"], rows));
}
