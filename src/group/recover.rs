//! A group whose `run.json` is damaged: what was written before it, and the processes that live, say what it was.

use super::{Group, GroupError, sentinel};
use crate::process::{Condition, GroupDir, GroupLock, ProcessIdentity, RunProcess, StateError, servers};

/// What was put in the place of a damaged `run.json`.
#[derive(Debug)]
pub struct Recovery {
    /// What was wrong with it.
    pub reason: String,
    /// The nodes whose living processes were found, and not written down.
    pub adopted: Vec<String>,
}

impl Group {
    /// A group as its last run left it.
    ///
    /// # Errors
    /// It was never started, or its state cannot be read. Of one that is damaged, what still lives is named.
    pub fn open(dir: GroupDir) -> Result<Self, GroupError> {
        match dir.run_state() {
            Ok(Some(mut run)) => {
                sentinel::follow(&dir, &mut run);
                Ok(Self { dir, run })
            }
            Ok(None) => Err(StateError::NoSuchGroup(dir.name().to_owned()).into()),
            Err(source @ StateError::Malformed { .. }) => {
                let living = servers(&dir)?.into_iter().map(|(name, identity)| (name, identity.pid)).collect();
                let is_recoverable = dir.former_run_state().is_some();
                Err(GroupError::Damaged { group: dir.name().to_owned(), source, living, is_recoverable })
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Puts the former `run.json` in the place of a damaged one, with the processes that live; `None` if there was nothing to do,
/// or nothing can be done.
///
/// # Errors
/// `/proc` cannot be read, or the directory not written.
pub fn recover(dir: &GroupDir, lock: &GroupLock) -> Result<Option<Recovery>, GroupError> {
    let Err(StateError::Malformed { reason, .. }) = dir.run_state() else { return Ok(None) };
    let Some(mut run) = dir.former_run_state() else { return Ok(None) };
    let mut adopted = Vec::new();
    for (name, identity) in servers(dir)? {
        let Some(process) = run.process_mut(&name) else { continue };
        let is_dead = |process: &RunProcess| Ok::<_, GroupError>(process.identity.condition()? == Condition::Dead);
        if process.as_ref().map_or(Ok(true), is_dead)? {
            *process = Some(found(identity)?);
            adopted.push(name);
        }
    }
    dir.replace_damaged(&run, lock)?;
    Ok(Some(Recovery { reason, adopted }))
}

/// A process of which nobody has written down what it runs.
fn found(identity: ProcessIdentity) -> Result<RunProcess, GroupError> {
    let program = std::fs::read_link(format!("/proc/{}/exe", identity.pid))?;
    Ok(RunProcess { identity, program, version: String::new() })
}
