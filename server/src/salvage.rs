//! What remains of a dead server: its backlog, found and checked, for whoever wants to know how much there is or to hand
//! it out ([`crate::replication::Role::Ghost`]).
//!
//! ```text
//! $ repld --salvage /var/lib/repld --port 6380          the directory of a server that was killed
//! $ redis-cli -p 6381 REPLICAOF 127.0.0.1 6380          its replica takes what it had not received
//! ```

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use crate::instance::BACKLOG_FILE;
use crate::replication::{BacklogError, Remains};

/// The option of the command line that makes a ghost.
const OPTION: &str = "--salvage";

/// Why nothing can be had from a dead server's directory.
#[derive(Debug, thiserror::Error)]
#[error("can't salvage {}: {source}", path.display())]
pub struct SalvageError {
    /// The backlog file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub source: BacklogError,
}

impl SalvageError {
    /// What the user may do about it.
    pub fn hint(&self) -> &'static str {
        match &self.source {
            BacklogError::Io(error) if error.kind() == io::ErrorKind::NotFound => {
                "give the data directory of a repld that had a replica: there is no backlog before the first one"
            }
            BacklogError::Io(_) => "the file must be readable for this user",
            BacklogError::InUse => "a server that is alive feeds its replicas itself; end it first",
            BacklogError::Magic | BacklogError::Version(_) => {
                "only the release of repld that wrote a backlog can read it"
            }
            BacklogError::Rebooted => "the disk may lack any part of it; start the server again, on its dump file",
            BacklogError::Length { .. }
            | BacklogError::Checksum(_)
            | BacklogError::Unfinished
            | BacklogError::Offsets { .. } => {
                "nothing in it can be trusted; promote the replica with the highest offset instead"
            }
        }
    }
}

/// Opens what remains of the server whose data directory, or whose backlog file, is `place`. Reads the file's header and
/// nothing else: to see how far the server was takes microseconds.
///
/// # Errors
/// There is nothing, or it cannot be trusted, or the server lives.
pub fn open(place: &Path) -> Result<Remains, SalvageError> {
    let path = if place.is_dir() { place.join(BACKLOG_FILE) } else { place.to_owned() };
    Remains::open(&path).map_err(|source| SalvageError { path, source })
}

/// Takes `--salvage PLACE` out of a command line and returns the place, if it is there.
///
/// # Errors
/// The option has no value.
pub(crate) fn take_option(arguments: &mut Vec<OsString>) -> Result<Option<PathBuf>, String> {
    let Some(at) = arguments.iter().position(|argument| argument == OPTION) else { return Ok(None) };
    if at + 1 == arguments.len() {
        return Err(format!("{OPTION} needs the data directory of a server that has ended"));
    }
    let place = arguments.drain(at..at + 2).next_back();
    Ok(place.map(PathBuf::from))
}
