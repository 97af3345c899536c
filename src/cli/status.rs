//! `replctl status`: how a group is, what is wrong with it, and what to do about it.

use std::time::Duration;

use replctl::group::{
    self, Diagnosis, Group, GroupView, GuardState, GuardVerdict, NodeView, SentinelView, TailReport, diagnose,
};
use serde::Serialize;

use super::ExitCode;
use super::context::Context;
use crate::ui::table;

/// `replctl status`
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Look again and again, until Ctrl-C: on a terminal in place, elsewhere whenever something has changed
    #[arg(short, long)]
    watch: bool,

    /// How long to wait between two looks
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration, requires = "watch")]
    every: Duration,
}

impl StatusArgs {
    /// Asks every node and shows what they say.
    pub fn run(&self, context: &Context<'_>) -> anyhow::Result<ExitCode> {
        let group = context.group()?;
        if self.watch {
            return self.watch(context, group);
        }
        let (view, _) = context.block_on(async { Ok(group::observe(&group).await?) })?;
        Status::new(group, view).show(context)
    }

    /// Ends when nobody reads any more; Ctrl-C ends the process.
    fn watch(&self, context: &Context<'_>, mut group: Group) -> anyhow::Result<ExitCode> {
        let mut last = None;
        let mut code = ExitCode::Done;
        while context.printer.is_stdout_open() {
            let dir = group.dir.clone();
            let (view, _) = context.block_on(async { Ok(group::observe(&group).await?) })?;
            let status = Status::new(group, view);
            let picture = status.picture();
            if context.printer.clears_screen() || last.as_ref() != Some(&picture) {
                context.printer.clear_screen();
                code = status.show(context)?;
                last = Some(picture);
            }
            std::thread::sleep(self.every);
            // Roles and processes change under other hands.
            group = Group::open(dir)?;
        }
        Ok(code)
    }
}

/// A group as it was seen, with the name of what is wrong.
pub struct Status {
    group: Group,
    view: GroupView,
    diagnosis: Diagnosis,
    tails: Vec<TailReport>,
}

/// The object of `status --json` and `up --json`.
#[derive(Serialize)]
struct StatusObject<'a> {
    group: &'a str,
    is_healthy: bool,
    diagnosis: &'a Diagnosis,
    message: String,
    hint: Option<String>,
    nodes: &'a [NodeView],
    #[serde(skip_serializing_if = "Option::is_none")]
    guard: Option<&'a GuardState>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    sentinels: &'a [SentinelView],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    tails: &'a [TailReport],
}

impl Status {
    /// Names what is wrong with what was seen.
    pub fn new(group: Group, view: GroupView) -> Self {
        Self { diagnosis: diagnose(&view), group, view, tails: Vec::new() }
    }

    /// Adds what nodes had that the group has not, and that would have been thrown away by their start.
    pub fn with_tails(self, tails: Vec<TailReport>) -> Self {
        Self { tails, ..self }
    }

    /// What is told of it, but for what always moves: offsets.
    fn picture(&self) -> (Diagnosis, Vec<(bool, Option<group::Answer>)>) {
        let nodes = self.view.nodes.iter().map(|node| {
            let is_replica = node.report().is_some_and(|report| !report.replication.is_master());
            (is_replica, node.report().is_none().then(|| node.answer.clone()))
        });
        (self.diagnosis.clone(), nodes.collect())
    }

    /// What is wrong with a Sentinel, and what to do about it.
    fn complaint(&self) -> Option<(String, String)> {
        let master = &self.view.meant_master().name;
        self.view.sentinels.iter().find_map(|sentinel| sentinel.complaint(master))
    }

    /// What is wrong, and what to do about it.
    fn words(&self) -> (String, Option<String>) {
        match (self.diagnosis.hint(), self.complaint()) {
            (None, Some((complaint, hint))) => (complaint, Some(hint)),
            // While there are Sentinels that can, nobody else replaces a master.
            (Some(hint), None) if hint == "replctl promote" && !self.view.sentinels.is_empty() => {
                let hint = "the sentinels replace it: replctl status --watch shows whom they choose";
                (self.diagnosis.to_string(), Some(hint.to_owned()))
            }
            (hint, _) => (self.diagnosis.to_string(), hint),
        }
    }

    /// The group.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// The group, to be changed.
    pub fn group_mut(&mut self) -> &mut Group {
        &mut self.group
    }

    /// The group.
    pub fn into_group(self) -> Group {
        self.group
    }

    /// What is not wrong, or not now, and yet worth knowing of nodes that replctl did not start.
    fn note_peculiarities(&self, context: &Context<'_>) {
        for node in &self.view.nodes {
            if node.was_restarted() {
                let name = &node.name;
                context
                    .printer
                    .note(format_args!("note: {name} was restarted: it has another run id than the one known"));
            }
            if node.unfenced().is_some() && !node.is_answering_master() {
                let name = &node.name;
                context
                    .printer
                    .note(format_args!("note: {name} was the master and is not fenced: it may come back as one"));
            }
        }
    }

    /// Prints it. Ends in [`ExitCode::Incomplete`] unless all is as it is meant to be, and nothing was thrown away.
    pub fn show(&self, context: &Context<'_>) -> anyhow::Result<ExitCode> {
        let guard = group::guard_state(&self.group)?;
        let (message, hint) = self.words();
        let is_healthy = self.diagnosis.is_healthy() && self.complaint().is_none();
        if context.printer.is_json() {
            context.printer.object(&StatusObject {
                group: &self.view.group,
                is_healthy,
                diagnosis: &self.diagnosis,
                message,
                hint,
                nodes: &self.view.nodes,
                guard: guard.as_ref(),
                sentinels: &self.view.sentinels,
                tails: &self.tails,
            });
        } else {
            context.printer.data(table::nodes(&self.group, &self.view));
            if !self.view.sentinels.is_empty() {
                context.printer.data(format_args!("\n{}", table::sentinels(&self.view.sentinels)));
            }
            context.printer.data(format_args!("\n{}: {message}", self.view.group));
            for tail in &self.tails {
                context.printer.data(tail);
            }
            if let Some(guard) = &guard {
                context.printer.data(guard_words(guard));
            }
            self.note_peculiarities(context);
            if let Some(hint) = hint {
                context.printer.note(format_args!("hint: {hint}"));
            }
        }
        let is_done = is_healthy && !self.tails.iter().any(TailReport::is_gone);
        Ok(if is_done { ExitCode::Done } else { ExitCode::Incomplete })
    }
}

fn guard_words(guard: &GuardState) -> String {
    let pid = guard.pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
    let last = guard.last.as_ref().map(|last| &last.note);
    let is_stuck = |verdict| matches!(verdict, GuardVerdict::Refuses | GuardVerdict::HoldsBack | GuardVerdict::Fails);
    match (guard.is_alive, last.filter(|last| is_stuck(last.verdict))) {
        (false, _) if guard.is_in_maintenance => format!("guard: none runs{pid}, and it would do nothing: maintenance"),
        (false, _) if guard.pid.is_none() => "guard: none runs; replctl up --guard starts it".to_owned(),
        (false, _) => format!("guard: has ended{pid}; replctl up --guard starts it"),
        (true, _) if guard.is_in_maintenance => format!("guard: watches and does nothing: maintenance{pid}"),
        (true, Some(last)) => format!("{last}{pid}"),
        (true, None) => format!("guard: watches{pid}"),
    }
}
