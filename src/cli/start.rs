//! `replctl start` and `replctl restart`: single nodes come up, in the roles that they have in the group now.

use std::time::{Duration, Instant};

use replctl::event::{Event, Recorder};
use replctl::group::{self, Group, LaunchPlan, Policy, Untouchable};
use replctl::process::GroupDir;
use serde_json::json;

use super::context::Context;
use super::status::Status;
use super::{ExitCode, Failure};
use crate::ui::progress::Progress;

/// How long a master may hold back its writes for a replica to catch up before it is restarted.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(5);

/// `replctl start NODE`
#[derive(Debug, clap::Args)]
pub struct StartArgs {
    /// The nodes
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
        let (group, _lock) = context.locked_group("start")?;
        let dir = group.dir.clone();
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
    let mut progress = Progress::new(context.printer, &plan.actions);
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

/// `replctl restart NODE` and `replctl restart --all`
#[derive(Debug, clap::Args)]
pub struct RestartArgs {
    /// The nodes, replicas all
    #[arg(required_unless_present = "all", value_name = "NODE")]
    nodes: Vec<String>,

    /// Every node, one at a time: the replicas, then the master after it has handed over to one of them
    #[arg(long, conflicts_with = "nodes")]
    all: bool,

    /// How long a server may take to save and end, and how long it may then take to be linked again
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    timeout: Duration,

    /// Show in which order, and do nothing
    #[arg(long)]
    dry_run: bool,
}

impl RestartArgs {
    /// Restarts one node after the other; at the end the group is shown.
    pub fn run(&self, context: &Context<'_>) -> anyhow::Result<ExitCode> {
        let (mut group, _lock) = context.locked_group("restart")?;
        let master = group.run.master().name.clone();
        let replicas = if self.all { group::restart_order(&group) } else { self.nodes.clone() };
        let all: Vec<String> = group.run.nodes.iter().map(|node| node.name.clone()).collect();
        group::refuse_unmanaged(&group, if self.all { &all } else { &replicas }, Untouchable::Restart)?;
        let is_alone = group.run.nodes.len() == 1;
        if replicas.contains(&master) && !is_alone {
            let message = format!("{master} is the master: while it is away nobody would take writes");
            let hint = format!("replctl switchover, then restart {master}; --all does both");
            return Err(Failure::new(ExitCode::Refused, message).hint(hint).into());
        }
        if self.dry_run {
            return Ok(self.show_order(context, &replicas, &master));
        }
        let dir = group.dir.clone();
        for node in &replicas {
            group = self.restart(context, &dir, group, node)?;
        }
        if self.all {
            if !is_alone {
                group = self.hand_over(context, &dir, group)?;
            }
            group = self.restart(context, &dir, group, &master)?;
        }
        let (view, _) = context.block_on(async { Ok(group::observe(&group).await?) })?;
        Status::new(group, view).show(context)
    }

    fn show_order(&self, context: &Context<'_>, replicas: &[String], master: &str) -> ExitCode {
        match context.printer.is_json() {
            true => context
                .printer
                .object(&json!({ "plan": { "replicas": replicas, "master": self.all.then_some(master) } })),
            false => {
                replicas.iter().for_each(|node| context.printer.data(format_args!("would restart {node}")));
                if self.all {
                    context.printer.data(format_args!("would let {master} hand over, and restart it"));
                }
            }
        }
        ExitCode::Done
    }

    fn restart(&self, context: &Context<'_>, dir: &GroupDir, mut group: Group, node: &str) -> anyhow::Result<Group> {
        let nodes = [node.to_owned()];
        context.record(
            dir,
            |event| context.narrate(event),
            async |recorder: &mut Recorder| Ok(group::end_nodes(&mut group, &nodes, self.timeout, recorder).await?),
        )?;
        let plan = context.block_on(async { Ok(LaunchPlan::start(group, &nodes, false).await?) })?;
        Ok(launch(context, dir, plan, self.timeout)?.into_group())
    }

    fn hand_over(&self, context: &Context<'_>, dir: &GroupDir, mut group: Group) -> anyhow::Result<Group> {
        let limits = (HAND_OVER_PATIENCE, self.timeout);
        let report = context.record(
            dir,
            |event| context.narrate(event),
            async |recorder| {
                Ok(group::switchover(&mut group, &Policy::default(), Instant::now(), limits, recorder).await?)
            },
        )?;
        let (from, to) = (&report.plan.old_master, &report.plan.candidate);
        context.printer.note(format_args!("{from} has handed over to {to}"));
        Ok(group)
    }
}
