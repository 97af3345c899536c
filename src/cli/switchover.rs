//! `replctl switchover`: a master that works hands over to a replica, and nothing is lost.

use std::time::{Duration, Instant};

use replctl::group::{self, Failover, Group, GroupError, Policy, Refusal};
use serde_json::json;

use super::ExitCode;
use super::context::Context;
use super::promote::{show_nothing_to_do, show_plan, show_report};

/// `replctl switchover [NODE]`
#[derive(Debug, clap::Args)]
pub struct SwitchoverArgs {
    /// The node that becomes the master [default: the best one]
    node: Option<String>,

    /// Show the plan, and do nothing
    #[arg(long)]
    dry_run: bool,

    /// Leave replicas behind that cannot follow
    #[arg(long)]
    force: bool,

    /// How long the replica may take to come near, and then the master hold back writes until it has everything
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// How long the replicas may take to follow the new master.
const LINK_LIMIT: Duration = Duration::from_secs(30);

impl SwitchoverArgs {
    /// Plans, executes, reports. Where the wished node is the master already, nothing is done.
    pub fn run(&self, context: &Context<'_>) -> anyhow::Result<ExitCode> {
        let began = Instant::now();
        let (mut group, _lock) = context.locked_group("switchover")?;
        let finishes = group::unfinished(&group, self.node.as_deref())?;
        let policy = Policy { wanted: self.node.clone(), force: self.force, finishes, ..Policy::default() };
        let done = if self.dry_run {
            self.plan(context, &group, &policy)
        } else {
            self.execute(context, &mut group, &policy, began)
        };
        match done {
            Err(error) => match error.downcast_ref() {
                Some(GroupError::Refused(Refusal::MasterAlive { master })) => Ok(show_nothing_to_do(master, context)),
                _ => Err(error),
            },
            done => done,
        }
    }

    fn plan(&self, context: &Context<'_>, group: &Group, policy: &Policy) -> anyhow::Result<ExitCode> {
        let (view, _) = context.block_on(async { Ok(group::observe(group).await?) })?;
        let failover = Failover::switchover(&view, policy).map_err(GroupError::from)?;
        let plan = failover.plan();
        match context.printer.is_json() {
            true => context.printer.object(&json!({ "plan": plan })),
            false => show_plan(plan, context),
        }
        Ok(ExitCode::Done)
    }

    fn execute(
        &self,
        context: &Context<'_>,
        group: &mut Group,
        policy: &Policy,
        began: Instant,
    ) -> anyhow::Result<ExitCode> {
        let dir = group.dir.clone();
        let limits = (self.timeout, LINK_LIMIT);
        let report = context.record(
            &dir,
            |event| context.narrate(event),
            async |recorder| Ok(group::switchover(group, policy, began, limits, recorder).await?),
        )?;
        if context.printer.is_json() {
            context.printer.object(&report);
        } else {
            show_report(group, &report, context);
        }
        Ok(if report.is_complete() { ExitCode::Done } else { ExitCode::Incomplete })
    }
}
