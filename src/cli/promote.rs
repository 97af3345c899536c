//! `replctl promote`: a lost master is replaced, the others follow.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use replctl::group::{
    self, FailoverPlan, FailoverReport, Group, GroupError, LossEstimate, Policy, Refusal, Salvaged, TailFate,
};
use replctl::topology::bytes_of;
use serde_json::json;

use super::context::Context;
use super::{ExitCode, Failure};
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

    /// Refuse what may lose more than this, as 0B, 64KB or 1MiB [default: the topology's `[failover] max-loss`]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_loss: Option<u64>,

    /// Write what the old master had beyond the new one, salvaged or lost, to this file, as commands for redis-cli --pipe
    #[arg(long, value_name = "FILE")]
    keep_tail: Option<PathBuf>,

    /// How long the replicas may take to follow the new master
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

impl PromoteArgs {
    /// Plans, executes, reports. A group that was promoted already is left as it is.
    pub fn run(&self, context: &Context<'_>) -> anyhow::Result<ExitCode> {
        let began = Instant::now();
        let (mut group, _lock) = context.locked_group("promote")?;
        if let Some(file) = self.keep_tail.as_ref().filter(|file| file.exists()) {
            let message = format!("{} exists already", file.display());
            return Err(Failure::new(ExitCode::Usage, message).hint("--keep-tail overwrites nothing").into());
        }
        let policy = Policy {
            wanted: self.node.clone(),
            force: self.force,
            max_loss_bytes: self.max_loss.or(group.run.max_loss_bytes),
            keeps_salvaged: self.keep_tail.is_some(),
            finishes: group::unfinished(&group, self.node.as_deref())?,
        };
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
        group::refuse_second_decider(group, policy)?;
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
            async |recorder| Ok(group::promote("promote", group, policy, began, self.timeout, recorder).await?),
        )?;
        if context.printer.is_json() {
            context.printer.object(&report);
        } else {
            show_report(group, &report, context);
        }
        if let Some(file) = &self.keep_tail {
            copy_tail(&report, file, context)?;
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

fn parse_size(text: &str) -> Result<u64, &'static str> {
    bytes_of(text).ok_or("a whole number and a unit: B, KB, MB, GB (1000s) or KiB, MiB, GiB (1024s)")
}

/// Copies the old master's tail, which lies in the group's own directory, to where it is wanted.
fn copy_tail(report: &FailoverReport, to: &Path, context: &Context<'_>) -> anyhow::Result<()> {
    let kept = report.tails.iter().filter(|tail| tail.node == report.plan.old_master);
    let mut files = kept.filter_map(|tail| match &tail.fate {
        TailFate::Kept { file, .. } => Some(file),
        TailFate::Gone { .. } => None,
    });
    match files.next() {
        Some(file) => {
            std::fs::copy(file, to).with_context(|| format!("{} cannot be written", to.display()))?;
        }
        None => context.printer.note(format_args!(
            "{} was not written: no commands of {} beyond the new master are to be had",
            to.display(),
            report.plan.old_master
        )),
    }
    Ok(())
}

/// What is lost, how old the candidate's data was, and that nobody set a bound, where that matters.
fn show_loss(plan: &FailoverPlan, loss: &LossEstimate, context: &Context<'_>) {
    context.printer.data(format_args!("lost: {loss}"));
    if loss.is_open() || loss.gone().is_some() {
        context.printer.data(format_args!("{}'s data was {} when {} ended", plan.candidate, loss.age, plan.old_master));
        if plan.max_loss_bytes.is_none() {
            context.printer.note("no max-loss is set: nothing is refused for what it loses");
        }
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
    show_loss(plan, &plan.loss, context);
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
        let Salvaged { node, bytes, from, end, replid, .. } = salvaged;
        printer.data(format_args!(
            "salvaged: {bytes} bytes of the replication stream from {node}'s backlog (offsets {from} to {end} of {replid:.8})"
        ));
    }
    show_loss(&report.plan, &report.loss, context);
    for tail in &report.tails {
        printer.data(tail);
    }
    for diverged in &report.diverged {
        printer.data(format_args!("demoted: {}", diverged.words()));
    }
    if !report.missing.is_empty() {
        printer.warning(format_args!("{} did not follow in time", group::listed(&report.missing)));
    }
    if report.first_write_us.is_none() {
        printer.warning(format_args!("{} has not accepted a write yet", report.plan.candidate));
    }
}
