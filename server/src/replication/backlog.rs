//! The replication backlog.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

/// A replication id: the name of one line of history, 40 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReplicationId([u8; 40]);

impl ReplicationId {
    /// The id that `digits` spell, if they are 40 lower-case hexadecimal digits.
    pub fn parse(digits: &[u8]) -> Option<Self> {
        let id: [u8; 40] = digits.try_into().ok()?;
        id.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')).then_some(Self(id))
    }

    /// Its digits.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hexadecimal digits are ASCII")
    }
}

impl fmt::Display for ReplicationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ReplicationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The lines of history that the bytes of a backlog belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// The present id (`master_replid`).
    pub replid: ReplicationId,
    /// The id before that (`master_replid2`), and the offset up to which it and `replid` name the same bytes, in bytes applied.
    pub previous: Option<(ReplicationId, u64)>,
}

/// What became of the slowest cursor by an [`Backlog::append`].
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// Everything from the slowest cursor on is still there.
    Kept,
    /// The limit (or the disk) did not allow to keep what the slowest cursor has not sent; its feed must be cut.
    Overrun {
        /// How many of its bytes are gone.
        lost_bytes: u64,
    },
}

/// The backlog of a living server.
pub struct Backlog {}

/// What a dead server's backlog file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Salvaged {
    /// The lines of history.
    pub history: History,
    /// The server's run id.
    pub run_id: ReplicationId,
    /// Offset of the first byte in `bytes`.
    pub start: u64,
    /// Everything retained, from `start` to `end()`.
    pub bytes: Vec<u8>,
    /// The database selected at the end of `bytes`.
    pub selected_db: Option<u32>,
}

/// Why a backlog file cannot be made, grown or read.
#[derive(Debug, thiserror::Error)]
pub enum BacklogError {
    /// The operating system said no.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// How a backlog is made.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Size it has at rest, bytes (`repl-backlog-size`).
    pub capacity: u64,
    /// Size it may grow to for the slowest cursor, bytes (the replica class of `client-output-buffer-limit`).
    pub capacity_max: u64,
}

impl Backlog {
    /// Makes the file at `path` (mode 0600, replacing one that is there) with an empty ring at offset `at`.
    pub fn create(
        path: &Path,
        run_id: ReplicationId,
        history: History,
        options: Options,
        at: u64,
    ) -> Result<Self, BacklogError> {
        let _ = (path, run_id, history, options, at);
        todo!()
    }
    /// What the file of a dead server holds.
    pub fn open(path: &Path) -> Result<Salvaged, BacklogError> {
        let _ = path;
        todo!()
    }
    /// Adds `bytes` to the end.
    #[inline]
    pub fn append(&mut self, bytes: &[u8]) -> Appended {
        let _ = bytes;
        todo!()
    }
    /// The offset after the newest byte.
    pub fn end(&self) -> u64 {
        todo!()
    }
    /// The first offset from which one can continue.
    pub fn start(&self) -> u64 {
        todo!()
    }
    /// Everything from offset `from` to the end, in one or two pieces; `None` if `from` is outside `start()..=end()`.
    pub fn slices(&self, from: u64) -> Option<(&[u8], &[u8])> {
        let _ = from;
        todo!()
    }
    /// The lines of history.
    pub fn history(&self) -> &History {
        todo!()
    }
    /// Changes the lines of history; the bytes stay (a promotion, or a partial resync under a new id).
    pub fn set_history(&mut self, history: History) {
        let _ = history;
        todo!()
    }
    /// Empties the ring and starts anew at offset `at` of another history (after a full resync).
    pub fn reset(&mut self, history: History, at: u64) {
        let _ = (history, at);
        todo!()
    }
    /// The database that the stream has selected at its end.
    pub fn selected_db(&self) -> Option<u32> {
        todo!()
    }
    /// Says that the bytes appended next leave `db` selected. To be called before appending a SELECT.
    pub fn select_with_next(&mut self, db: Option<u32>) {
        let _ = db;
        todo!()
    }
    /// Keeps everything from offset `slowest` (the slowest attached cursor) on, growing as far as allowed; `None` = no cursor.
    pub fn set_slowest(&mut self, slowest: Option<u64>) {
        let _ = slowest;
        todo!()
    }
    /// Present size of the ring, bytes.
    pub fn capacity(&self) -> u64 {
        todo!()
    }
    /// Changes the configured size and the limit, keeping the newest bytes, and what the slowest cursor needs.
    pub fn resize(&mut self, options: Options) -> Result<(), BacklogError> {
        let _ = options;
        todo!()
    }
    /// Gives back what growth took, if the slowest cursor does not need it any more.
    pub fn shrink_to_configured(&mut self) -> Result<(), BacklogError> {
        todo!()
    }
}
