//! The guard of a group as a process that `up` starts and `down` ends.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::note::{GuardNote, GuardVerdict};
use crate::event::Event;
use crate::group::journal::{JournalEntry, read_recent_of};
use crate::group::stop::end_processes;
use crate::group::{Group, GroupError};
use crate::process::{Condition, Durability, GUARD, spawn_guard};
use crate::topology::By;

/// How long it may take to watch.
const START_LIMIT: Duration = Duration::from_secs(10);
/// How long it may take to end: it may be in the middle of something, which it ends first.
const END_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks at one that starts.
const POLL_EVERY: Duration = Duration::from_millis(2);
/// A group's guard as it is.
#[derive(Debug, Clone, Serialize)]
pub struct GuardState {
    /// Its process, dead or alive; `None`: none was started, or it was ended.
    pub pid: Option<u32>,
    /// Whether that lives.
    pub is_alive: bool,
    /// It watches and does nothing.
    pub is_in_maintenance: bool,
    /// Its last decision.
    pub last: Option<LastNote>,
}

/// A decision, and when it was.
#[derive(Debug, Clone, Serialize)]
pub struct LastNote {
    /// In milliseconds since 1970.
    pub time_unix_ms: u64,
    /// What it was.
    #[serde(flatten)]
    pub note: GuardNote,
}

/// The guard of a group that has one, or had, or is to have.
///
/// # Errors
/// `/proc` or the journal cannot be read.
pub fn guard_state(group: &Group) -> Result<Option<GuardState>, GroupError> {
    let guard = &group.run.guard;
    if guard.process.is_none() && !guard.is_in_maintenance && group.run.by != By::Guard {
        return Ok(None);
    }
    let last = read_recent_of(&group.dir.journal_file(), "guard")?.into_iter().rev().find_map(note_of);
    Ok(Some(GuardState {
        pid: guard.process.as_ref().map(|process| process.pid),
        is_alive: guard.is_alive()?,
        is_in_maintenance: guard.is_in_maintenance,
        last,
    }))
}

fn note_of(entry: JournalEntry) -> Option<LastNote> {
    match entry.event {
        Event::Guard { note } => Some(LastNote { time_unix_ms: entry.time_unix_ms, note }),
        _ => None,
    }
}

/// Starts a group's guard, unless one lives, and returns when it watches; tells its pid. For who holds the lock.
///
/// # Errors
/// It ends, or does not watch in time.
pub async fn start_guard(group: &mut Group) -> Result<u32, GroupError> {
    if let Some(process) = group.run.guard.process.as_ref().filter(|_| group.run.guard.is_alive().unwrap_or(false)) {
        return Ok(process.pid);
    }
    group.dir.create_node_dir(GUARD)?;
    let mut started = spawn_guard(&group.dir)?;
    let identity = started.identity.clone();
    group.run.guard.process = Some(identity.clone());
    group.dir.save_run_state(&group.run, Durability::PageCache)?;
    let give_up = Instant::now() + START_LIMIT;
    while !watches(group, identity.pid)? {
        if identity.condition()? == Condition::Dead || Instant::now() > give_up {
            stop_guard(group).await?;
            return Err(GroupError::died(&group.dir, GUARD, Some(&mut started)));
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
    Ok(identity.pid)
}

/// Whether the journal says that this process has begun to watch.
fn watches(group: &Group, pid: u32) -> Result<bool, GroupError> {
    let is_its = |entry: &JournalEntry| entry.run.split_once('-').is_some_and(|(own, _)| own == pid.to_string());
    let entries = read_recent_of(&group.dir.journal_file(), "guard")?;
    Ok(entries
        .into_iter()
        .rev()
        .take_while(is_its)
        .any(|entry| note_of(entry).is_some_and(|last| last.note.verdict == GuardVerdict::Watches)))
}

/// Ends a group's guard, if one lives; tells its pid. For who holds the lock.
///
/// # Errors
/// It does not end.
pub async fn stop_guard(group: &mut Group) -> Result<Option<u32>, GroupError> {
    let Some(process) = group.run.guard.process.take() else { return Ok(None) };
    let is_alive = process.condition()? != Condition::Dead;
    end_processes(vec![(GUARD.to_owned(), process.clone())], Some(END_LIMIT)).await?;
    group.dir.save_run_state(&group.run, Durability::Disk)?;
    Ok(is_alive.then_some(process.pid))
}
