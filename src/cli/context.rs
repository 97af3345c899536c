//! What subcommands that work on a group share: which group it is, its lock, its journal, the runtime.

use std::future::Future;

use anyhow::Context as _;
use replctl::event::{Event, Recorder};
use replctl::group::{Group, Journal, living};
use replctl::process::{GroupDir, GroupLock, RunState, StateDir};
use tokio::sync::mpsc;

use super::{ExitCode, Failure, GlobalArgs};
use crate::ui::Printer;

/// A subcommand's surroundings.
pub struct Context<'a> {
    global: &'a GlobalArgs,
    /// What it prints with.
    pub printer: &'a Printer,
}

impl<'a> Context<'a> {
    /// The surroundings that the global options give.
    pub fn new(global: &'a GlobalArgs, printer: &'a Printer) -> Self {
        Self { global, printer }
    }

    /// The directory of all groups.
    pub fn state(&self) -> anyhow::Result<StateDir> {
        Ok(StateDir::new(self.global.state_dir()?))
    }

    /// The directory of the group of this name, or of the one that `-g` names instead.
    pub fn dir_for(&self, name: &str) -> anyhow::Result<GroupDir> {
        Ok(self.state()?.group(self.global.group.as_deref().unwrap_or(name))?)
    }

    /// The group that `-g` names; without it the only one that is up, or else the only one that there is.
    pub fn group(&self) -> anyhow::Result<Group> {
        if let Some(name) = &self.global.group {
            return Ok(Group::open(self.state()?.group(name)?)?);
        }
        let groups: Vec<Group> = self.state()?.groups()?.into_iter().map(Group::open).collect::<Result<_, _>>()?;
        let mut is_up = Vec::with_capacity(groups.len());
        for group in &groups {
            is_up.push(group.run.is_adopted() || !living(group)?.is_empty());
        }
        let wants_up = is_up.contains(&true);
        let mut choice: Vec<Group> =
            groups.into_iter().zip(is_up).filter(|(_, is_up)| *is_up == wants_up).map(|(group, _)| group).collect();
        match (choice.pop(), choice.is_empty()) {
            (Some(only), true) => Ok(only),
            (None, _) => Err(Failure::new(ExitCode::Failed, "no group is up").hint("replctl up").into()),
            (Some(last), false) => {
                let mut names: Vec<String> = choice.into_iter().map(|group| group.run.group).collect();
                names.push(last.run.group);
                let state = if wants_up { "are up" } else { "exist" };
                let message = format!("{} {state}: which one is meant?", replctl::group::listed(&names));
                Err(Failure::new(ExitCode::Usage, message).hint("name it with -g or REPLCTL_GROUP").into())
            }
        }
    }

    /// The group that `-g` names, if replctl has started none of it.
    pub fn adopted_group(&self) -> anyhow::Result<Option<Group>> {
        let Some(name) = &self.global.group else { return Ok(None) };
        let dir = self.state()?.group(name)?;
        let run = dir.run_state()?.filter(RunState::is_adopted);
        Ok(run.map(|run| Group { dir, run }))
    }

    /// The group, and the right to change it. What was launched is read under the lock.
    pub fn locked_group(&self, command: &str) -> anyhow::Result<(Group, GroupLock)> {
        let Group { dir, .. } = self.group()?;
        let lock = dir.lock(command)?;
        Ok((Group::open(dir)?, lock))
    }

    /// Runs asynchronous work on this thread.
    pub fn block_on<T>(&self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.context("no event loop")?.block_on(work)
    }

    /// Runs work that changes a group: what happens goes to the group's journal and to `show`.
    pub fn record<T>(
        &self,
        dir: &GroupDir,
        mut show: impl FnMut(&Event),
        work: impl AsyncFnOnce(&mut Recorder) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        self.block_on(async {
            let (sender, mut events) = mpsc::unbounded_channel();
            let mut recorder = Recorder::new(Journal::open(&dir.journal_file())?, sender);
            let work = work(&mut recorder);
            tokio::pin!(work);
            let result = loop {
                tokio::select! {
                    biased;
                    Some(event) = events.recv() => show(&event),
                    result = &mut work => break result,
                }
            };
            while let Ok(event) = events.try_recv() {
                show(&event);
            }
            result
        })
    }

    /// What most commands say while they work: warnings, and with `-v` the steps.
    pub fn narrate(&self, event: &Event) {
        match event {
            Event::Warning { text } => self.printer.warning(text),
            Event::StepDone { step, took_us } if self.printer.is_verbose() => {
                self.printer.note(format_args!("{step}: {}", crate::ui::table::milliseconds(*took_us)));
            }
            Event::Ended { node } if self.printer.is_verbose() => self.printer.note(format_args!("{node} has ended")),
            _ => {}
        }
    }
}
