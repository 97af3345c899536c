//! `replctl start`: single nodes come up, in the roles that they have in the group now.

use std::time::Duration;

use replctl::event::Event;
use replctl::group::{self, LaunchPlan};
use replctl::process::GroupDir;

use super::ExitCode;
use super::context::Context;
use super::status::Status;
use crate::ui::progress::Progress;

/// `replctl start NODE`
#[derive(Debug, clap::Args)]
pub struct StartArgs {
    /// The nodes, and sentinels
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,

    /// How long a node may take to be linked; then what was started is ended again
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    timeout: Duration,

    /// Show what would be started, and start nothing
    #[arg(long)]
    dry_run: bool,

    /// Start the master as the master even if its replicas live and may have more than it
    #[arg(long)]
    force: bool,
}

impl StartArgs {
    /// Starts the nodes that do not run, waits for their links, and shows the group.
    pub fn run(&self, context: &Context<'_>) -> anyhow::Result<ExitCode> {
        let (group, _lock) = context.settled_group("start")?;
        let dir = group.dir.clone();
        if !self.dry_run {
            context.end_strays(&dir, self.timeout)?;
        }
        let plan = context.block_on(async { Ok(LaunchPlan::start(group, &self.nodes, self.force).await?) })?;
        if self.dry_run {
            super::up::show_plan(&plan, context);
            return Ok(ExitCode::Done);
        }
        launch(context, &dir, plan, self.timeout)?.show(context)
    }
}

/// Carries a plan out, shows its progress, and looks at the group afterwards.
pub(super) fn launch(
    context: &Context<'_>,
    dir: &GroupDir,
    plan: LaunchPlan,
    limit: Duration,
) -> anyhow::Result<Status> {
    let mut progress = Progress::new(context.printer, plan.actions.iter().chain(&plan.sentinels));
    let mut tails = Vec::new();
    let result = context.record(
        dir,
        |event| match event {
            Event::Tail { tail } => tails.push(tail.clone()),
            event => progress.on(event),
        },
        async |recorder| {
            let group = group::up(dir.clone(), plan, limit, recorder).await?;
            let (view, _) = group::observe(&group).await?;
            Ok(Status::new(group, view))
        },
    );
    progress.finish();
    result.map(|status| status.with_tails(tails))
}
