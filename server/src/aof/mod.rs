//! The append-only file: every write, so that a restart finds what the last run had.
//!
//! ```text
//! appendonlydir/appendonly.aof.manifest          names the parts: see [`manifest`]
//!               appendonly.aof.4.base.rdb        all data at offset 1000 of history a…
//!               appendonly.aof.7.incr.aof        the stream from there on, byte for byte:
//!
//!     *2 SELECT 0  *3 SET k 1  *1 MULTI …  *1 EXEC             offsets 1000 to 1200 of history a…
//!     #repl:b… 1200                                            here it has another name
//!     *2 SELECT 0  *3 SET k 2
//! ```
//!
//! Wherever this server appends to its stream, the same bytes go into the newest increment. So the place in the file *is*
//! the replication offset, and whoever loads the parts knows exactly which offset the data are at: the base says where it
//! was taken, and from there on bytes are counted. Where counting would go wrong (another history, requests that are no part
//! of the stream) a line `#repl:ID OFFSET` says where the stream goes on. To Redis 7 such lines are comments, as `#TS:` is.
//!
//! What is here decides and remembers; files are written by the shell in `net`, and read by [`Restore`].
//!
//! Source: <https://redis.io/docs/latest/operate/oss_and_stack/management/persistence/>.

mod base;
mod damage;
pub mod manifest;
mod note;
mod restore;

use std::time::Duration;

pub use base::RequestBase;
pub use damage::holds_a_request;
pub use manifest::{Kind, Manifest, Part};
pub use note::Note;
pub use restore::{AofError, Restore, Restored, is_there, manifest_path, read_manifest};

use crate::replication::ReplicationId;
use crate::resp::append_request;

/// How the append-only file stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    /// Not wanted.
    #[default]
    Off,
    /// Wanted; its first base is to be made.
    Scheduled,
    /// Its first base is being made. What is written meanwhile goes into an increment that counts as soon as the base does.
    Starting,
    /// Kept.
    On,
}

/// A rewrite that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rewrite {
    /// Since when, in milliseconds since the epoch.
    pub since_ms: i64,
    /// No snapshot for anything else is made from the same walk.
    pub is_alone: bool,
}

/// A server's append-only file, as far as it is no matter of disks.
#[derive(Debug, Default)]
pub struct Aof {
    /// How it stands.
    pub state: State,
    /// A rewrite is wanted.
    pub rewrite_scheduled: bool,
    /// A rewrite runs.
    pub rewrite: Option<Rewrite>,
    /// How long the last one took, in seconds.
    pub last_rewrite_s: Option<i64>,
    /// Rewrites that failed since one succeeded.
    pub failed_rewrites: u32,
    /// When the last one failed, in milliseconds since the epoch.
    pub last_failure_ms: i64,
    /// Why what was written is not on the disk, if the disk says no.
    pub error: Option<String>,
    /// Bytes of all parts.
    pub current_bytes: u64,
    /// The same after the last rewrite, or at the start.
    pub base_bytes: u64,
    /// Everything up to this offset of the stream is on the disk.
    pub synced: Option<u64>,
    /// Everything up to this one was written.
    pub written: u64,
    /// The disk is at work on what was written.
    pub is_syncing: bool,
    /// How often that took so long that the next time was due.
    pub delayed_fsyncs: u64,
    /// Makes each write slow, for tests.
    pub flush_delay: Duration,
    /// For the present increment.
    buffer: Vec<u8>,
    is_open: bool,
    /// What whoever reads everything that was appended knows of its end: a history and the offset in it.
    known: Option<(ReplicationId, u64)>,
    stamped_s: i64,
}

impl Aof {
    /// Whether there is an increment for what is appended.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// There is one from now on: the end of all parts is `known` to who reads them.
    pub fn open(&mut self, known: Option<(ReplicationId, u64)>) {
        self.is_open = true;
        self.known = known;
        self.stamped_s = 0;
        self.buffer.clear();
    }

    /// There is none from now on.
    pub fn close(&mut self) {
        self.is_open = false;
        self.buffer = Vec::new();
        self.synced = None;
        self.error = None;
    }

    /// Appends bytes of the history `id` behind its offset `from`. With `stamp_s`, the time in seconds since the epoch
    /// stands before them.
    pub fn append(&mut self, id: ReplicationId, from: u64, bytes: &[u8], stamp_s: Option<i64>) {
        self.stamp(stamp_s);
        if self.known != Some((id, from)) {
            Note::Stream { id, offset: from }.append_to(&mut self.buffer);
        }
        self.buffer.extend_from_slice(bytes);
        self.known = Some((id, from + bytes.len() as u64));
    }

    /// Appends requests that are no part of the stream, made in database `db`; afterwards the stream's `stream_db` is
    /// selected again.
    pub fn append_aside(&mut self, db: usize, requests: &[u8], stream_db: usize) {
        self.select(db);
        self.buffer.extend_from_slice(requests);
        self.select(stream_db);
    }

    /// Selects a database without a word in the stream.
    pub fn select(&mut self, db: usize) {
        append_request(&mut self.buffer, &[b"SELECT", db.to_string().as_bytes()]);
        self.known = None;
    }

    fn stamp(&mut self, stamp_s: Option<i64>) {
        if let Some(now_s) = stamp_s.filter(|now_s| *now_s > self.stamped_s) {
            self.stamped_s = now_s;
            Note::Time(now_s).append_to(&mut self.buffer);
        }
    }

    /// What is to be written.
    #[inline]
    pub fn unwritten(&self) -> &[u8] {
        &self.buffer
    }

    /// So much of it was written, from its beginning on; everything, if the stream was at `offset` by then.
    pub fn wrote(&mut self, bytes: usize, offset: u64) {
        /// A buffer that has grown beyond this is given back.
        const BYTES_KEPT: usize = 1 << 20;
        self.current_bytes += bytes as u64;
        if bytes < self.buffer.len() {
            self.buffer.drain(..bytes);
            return;
        }
        self.written = offset;
        self.buffer.clear();
        self.buffer.shrink_to(BYTES_KEPT);
    }

    /// Everything up to `offset` is on the disk. It counts as soon as the base does.
    pub fn was_synced(&mut self, offset: u64) {
        if self.state == State::On {
            self.synced = self.synced.max(Some(offset));
        }
    }

    /// By how many percent it has grown since the last rewrite, if that asks for another one.
    pub fn growth(&self, percent_max: u32, bytes_min: u64) -> Option<u64> {
        let growth = (u128::from(self.current_bytes) * 100 / u128::from(self.base_bytes.max(1))).saturating_sub(100);
        let asks = percent_max > 0 && self.current_bytes > bytes_min && growth >= u128::from(percent_max);
        asks.then(|| u64::try_from(growth).unwrap_or(u64::MAX))
    }

    /// How long a rewrite that nobody has asked for waits after so many have failed, in milliseconds: the third fails for a
    /// reason that will not go away at once.
    pub fn retry_delay_ms(&self) -> i64 {
        match self.failed_rewrites {
            0 => 0,
            1..3 => 1_000,
            failed => (60_000_i64 << (failed - 3).min(6)).min(3_600_000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digit: u8) -> ReplicationId {
        ReplicationId::parse(&[digit; 40]).expect("40 digits")
    }

    fn text(aof: &Aof) -> String {
        String::from_utf8(aof.unwritten().to_vec()).expect("text")
    }

    #[test]
    fn the_offset_is_noted_only_where_a_reader_would_get_it_wrong() {
        let mut aof = Aof::default();
        aof.open(Some((id(b'a'), 100)));
        aof.append(id(b'a'), 100, b"12", None);
        aof.append(id(b'a'), 102, b"3", None);
        assert_eq!(text(&aof), "123");
        aof.append(id(b'b'), 103, b"4", None);
        let noted = format!("123#repl:{} 103\r\n4", id(b'b'));
        assert_eq!(text(&aof), noted);
        aof.append_aside(2, b"x", 0);
        aof.append(id(b'b'), 104, b"5", None);
        let select = |db| format!("*2\r\n$6\r\nSELECT\r\n$1\r\n{db}\r\n");
        assert_eq!(text(&aof), format!("{noted}{}x{}#repl:{} 104\r\n5", select(2), select(0), id(b'b')));
    }

    #[test]
    fn the_time_is_noted_once_a_second_if_at_all() {
        let mut aof = Aof::default();
        aof.open(Some((id(b'a'), 0)));
        aof.append(id(b'a'), 0, b"1", Some(7));
        aof.append(id(b'a'), 1, b"2", Some(7));
        aof.append(id(b'a'), 2, b"3", Some(8));
        assert_eq!(text(&aof), "#TS:7\r\n12#TS:8\r\n3");
    }

    #[test]
    fn a_rewrite_is_due_when_it_has_grown_enough() {
        let aof = |current_bytes, base_bytes| Aof { current_bytes, base_bytes, ..Aof::default() };
        assert_eq!(aof(200, 100).growth(100, 64), Some(100));
        assert_eq!(aof(199, 100).growth(100, 64), None);
        assert_eq!(aof(200, 100).growth(100, 200), None);
        assert_eq!(aof(200, 100).growth(0, 64), None);
        assert_eq!(aof(u64::MAX, 0).growth(100, 64), Some(u64::MAX));
    }
}
