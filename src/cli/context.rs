//! What subcommands that work on a group share: which group it is, its lock, its journal, the runtime.

use std::future::Future;
use std::time::Duration;

use anyhow::Context as _;
use replctl::event::{Event, Recorder};
use replctl::group::{
    Group, GroupError, Journal, Recovery, end_strays, forget_if_nothing_came, living, note_failover, recover,
};
use replctl::process::{GroupDir, GroupLock, RunState, StateDir, servers};
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

    /// The group that `-g` names; without it the only one that is up, or else the only one that there is. What its Sentinels have
    /// done since is written down, unless another replctl is about to do that.
    pub fn group(&self) -> anyhow::Result<Group> {
        let dir = self.group_dir()?;
        let group = Group::open(dir.clone())?;
        if group.run.sentinels.is_some()
            && let Ok(lock) = dir.lock("status")
        {
            note_failover(&dir, &lock)?;
        }
        Ok(group)
    }

    /// The directory of that group, whether its state can be read or not.
    pub fn group_dir(&self) -> anyhow::Result<GroupDir> {
        if let Some(name) = &self.global.group {
            return Ok(self.state()?.group(name)?);
        }
        let dirs = self.state()?.groups()?;
        let is_up = dirs.iter().map(is_up).collect::<Result<Vec<_>, _>>()?;
        let wants_up = is_up.contains(&true);
        let mut choice: Vec<GroupDir> =
            dirs.into_iter().zip(is_up).filter(|(_, is_up)| *is_up == wants_up).map(|(dir, _)| dir).collect();
        match (choice.pop(), choice.is_empty()) {
            (Some(only), true) => Ok(only),
            (None, _) => Err(Failure::new(ExitCode::Failed, "no group is up").hint("replctl up").into()),
            (Some(last), false) => {
                choice.push(last);
                let names: Vec<String> = choice.iter().map(|dir| dir.name().to_owned()).collect();
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
        let dir = self.group_dir()?;
        // A group that is not there gets no directory for its lock.
        Group::open(dir.clone())?;
        let lock = dir.lock(command)?;
        note_failover(&dir, &lock)?;
        Ok((Group::open(dir)?, lock))
    }

    /// The same for a command that changes no masters: one that broke off before anything came of it is forgotten first.
    pub fn settled_group(&self, command: &str) -> anyhow::Result<(Group, GroupLock)> {
        let (mut group, lock) = self.locked_group(command)?;
        self.block_on(async { Ok(forget_if_nothing_came(&mut group).await?) })?;
        Ok((group, lock))
    }

    /// Ends the processes of a group that nobody has written down, before others are started beside them.
    pub fn end_strays(&self, dir: &GroupDir, patience: Duration) -> anyhow::Result<()> {
        for node in self.block_on(async { Ok(end_strays(dir, patience).await?) })? {
            self.printer.note(format_args!("{node} was left over by a replctl that was interrupted, and was ended"));
        }
        Ok(())
    }

    /// Puts what is known in the place of a state that is damaged, and says so.
    ///
    /// # Errors
    /// It is damaged, and nothing is known.
    pub fn recover(&self, dir: &GroupDir, lock: &GroupLock) -> anyhow::Result<()> {
        if let Some(Recovery { reason, adopted }) = recover(dir, lock)? {
            let group = dir.name();
            self.printer.warning(format_args!("run.json of {group} is damaged ({reason}): the one before is used"));
            if !adopted.is_empty() {
                self.printer.warning(format_args!("found alive: {}", replctl::group::listed(&adopted)));
            }
        }
        match Group::open(dir.clone()) {
            Err(damaged @ GroupError::Damaged { .. }) => Err(damaged.into()),
            _ => Ok(()),
        }
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

/// Whether something of a group runs, as far as its state or the processes themselves tell.
fn is_up(dir: &GroupDir) -> anyhow::Result<bool> {
    Ok(match Group::open(dir.clone()) {
        Ok(group) => group.run.is_adopted() || !living(&group)?.is_empty(),
        Err(_) => !servers(dir)?.is_empty(),
    })
}
