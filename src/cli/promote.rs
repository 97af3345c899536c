//! `replctl promote`: a lost master is replaced, the others follow.

use std::time::{Duration, Instant};

use replctl::group::{self, FailoverPlan, FailoverReport, Group, GroupError, Policy, Refusal, Salvaged};
use serde_json::json;

use super::ExitCode;
use super::context::Context;
use crate::ui::table;

/// `replctl promote [NODE]`
#[derive(Debug, clap::Args)]
pub struct PromoteArgs {
    /// The node to promote [default: the best one]
    node: Option<String>,

    /// Show the plan, and do nothing
    #[arg(long)]
    dry_run: bool,

    /// Go on where it costs data: end a master that answers, promote a node that is behind, exceed max-loss
    #[arg(long)]
    force: bool,

    /// How long the replicas may take to follow the new master
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

impl PromoteArgs {
    /// Plans, executes, reports. A group that was promoted already is left as it is.
    pub fn run(&self, context: &Context<'_>) -> anyhow::Result<ExitCode> {
        let began = Instant::now();
        let (mut group, _lock) = context.locked_group("promote")?;
        let policy = Policy { wanted: self.node.clone(), force: self.force, max_loss_bytes: group.run.max_loss_bytes };
        let done = if self.dry_run {
            self.plan(context, &group, &policy)
        } else {
            self.execute(context, &mut group, &policy, began)
        };
        match done {
            Err(error) => match self.master_already(&error, &group)? {
                Some(master) => Ok(show_nothing_to_do(&master, context)),
                None => Err(error),
            },
            done => done,
        }
    }

    fn plan(&self, context: &Context<'_>, group: &Group, policy: &Policy) -> anyhow::Result<ExitCode> {
        let (view, _) = context.block_on(async { Ok(group::observe(group).await?) })?;
        let plan = FailoverPlan::new(&view, policy).map_err(GroupError::from)?;
        match context.printer.is_json() {
            true => context.printer.object(&json!({ "plan": plan })),
            false => show_plan(&plan, context),
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
        let report = context.record(
            &dir,
            |event| context.narrate(event),
            async |recorder| Ok(group::promote(group, policy, began, self.timeout, recorder).await?),
        )?;
        if context.printer.is_json() {
            context.printer.object(&report);
        } else {
            show_report(group, &report, context);
        }
        Ok(if report.is_complete() { ExitCode::Done } else { ExitCode::Incomplete })
    }

    /// The master, if the refusal only says that the last promotion holds, and it is the one that is asked for.
    fn master_already(&self, error: &anyhow::Error, group: &Group) -> anyhow::Result<Option<String>> {
        let Some(GroupError::Refused(Refusal::MasterAlive { master })) = error.downcast_ref() else { return Ok(None) };
        let is_wanted = self.node.as_ref().is_none_or(|node| node == master);
        let holds = group::promoted_last(group)?.is_some_and(|promoted| promoted == *master);
        Ok((is_wanted && (holds || self.node.is_some())).then(|| master.clone()))
    }
}

pub(super) fn show_nothing_to_do(master: &str, context: &Context<'_>) -> ExitCode {
    match context.printer.is_json() {
        true => context.printer.object(&json!({ "nothing_to_do": true, "master": master })),
        false => context.printer.data(format_args!("nothing to do: {master} is the master already")),
    }
    ExitCode::Done
}

pub(super) fn show_plan(plan: &FailoverPlan, context: &Context<'_>) {
    let ranked = plan.ranked.iter().map(|one| {
        let verdict = if one.node == plan.candidate { "is promoted" } else { "could be promoted" };
        vec![one.node.clone(), one.offset.to_string(), one.priority.to_string(), verdict.to_owned()]
    });
    let rejected = plan
        .rejected
        .iter()
        .map(|one| vec![one.node.clone(), "-".to_owned(), "-".to_owned(), format!("no: {}", one.reason)]);
    context.printer.data(table::plain(&["node", ">offset", ">priority", "verdict"], ranked.chain(rejected)));
    let steps: Vec<String> =
        plan.steps.iter().enumerate().map(|(index, step)| format!("{}. {step}", index + 1)).collect();
    context.printer.data(format_args!("\n{}\n", steps.join("\n")));
    if let Some(reason) = &plan.not_salvaged {
        context.printer.data(format_args!("not salvaged: what {} had not sent: {reason}", plan.old_master));
    }
    context.printer.data(format_args!("lost: {}", plan.loss));
}

pub(super) fn show_report(group: &Group, report: &FailoverReport, context: &Context<'_>) {
    let printer = context.printer;
    for rejected in &report.plan.rejected {
        printer.note(format_args!("{} could not be promoted: {}", rejected.node, rejected.reason));
    }
    printer.data(table::failover(report));
    printer.data(format_args!("\n{}", table::nodes(group, &report.after)));
    let resyncs = table::resyncs(report);
    let (candidate, old) = (&report.plan.candidate, &report.plan.old_master);
    let change = match report.plan.makes_another_master() {
        true => format!("{candidate} is the master in place of {old}"),
        false => format!("{candidate} is the master, and {old} is none"),
    };
    printer.data(format_args!(
        "\n{change}{}",
        if resyncs.is_empty() { String::new() } else { format!("; followed by {resyncs}") }
    ));
    if let Some(salvaged) = report.salvaged.as_ref().filter(|salvaged| salvaged.bytes > 0) {
        let Salvaged { node, bytes, .. } = salvaged;
        printer.data(format_args!("salvaged: {bytes} bytes of the replication stream from {node}'s backlog"));
    }
    for diverged in &report.diverged {
        printer.data(format_args!("demoted: {}", diverged.words()));
    }
    printer.data(format_args!("lost: {}", report.loss));
    if !report.missing.is_empty() {
        printer.warning(format_args!("{} did not follow in time", group::listed(&report.missing)));
    }
    if report.first_write_us.is_none() {
        printer.warning(format_args!("{} has not accepted a write yet", report.plan.candidate));
    }
}
