//! The guard of a group as a process that `up` starts and `down` ends.

use std::time::Duration;

use crate::group::stop::end_processes;
use crate::group::{Group, GroupError};
use crate::process::{Condition, Durability, GUARD};

/// How long it may take to end: it may be in the middle of something, which it ends first.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Ends the group's guard, if one lives; tells its pid.
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
