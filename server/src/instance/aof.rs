//! The append-only file's place in the instance: what goes into it, and when it is made anew.

use std::rc::Rc;

use super::{Action, Instance};
use crate::aof::{Restored, State};
use crate::client::ClientKind;
use crate::log::log;
use crate::replication::{History, ReplicationId};
use crate::snapshot::Point;

impl Instance {
    /// Appends bytes of the history `id` behind its offset `from`.
    pub(super) fn append_to_aof(&mut self, id: ReplicationId, from: u64, bytes: &[u8]) {
        let stamp_s = self.aof_stamp_s();
        self.aof.append(id, from, bytes, stamp_s);
    }

    /// The time to be noted, in seconds since the epoch, if it is.
    pub fn aof_stamp_s(&self) -> Option<i64> {
        self.config.aof_timestamp_enabled.then_some(self.now_ms / 1000)
    }

    /// What clients write on a writable replica is no part of its upstream's stream.
    pub(super) fn append_own_write(&mut self, db: usize, requests: &[u8]) {
        self.aof.append_aside(db, requests, self.replication.stream_db);
    }

    /// There is a new increment from now on, behind parts whose end is `known`. It begins in database 0.
    pub fn open_increment(&mut self, known: Option<(ReplicationId, u64)>) {
        self.aof.open(known);
        if self.replication.is_master() {
            self.replication.reselects = true;
        } else {
            self.select_in_aof(0);
            if known.is_none() && self.replication.resumable {
                // The data of a dump file have a place in a history, too, though the stream is not kept yet.
                self.append_to_aof(self.replication.history.replid, self.replication.offset, &[]);
            }
        }
    }

    /// Whoever reads the append-only file has `file_db` selected at its end: lets that be what the stream has selected.
    pub fn select_in_aof(&mut self, file_db: usize) {
        if self.aof.is_open() && self.replication.stream_db != file_db {
            self.aof.select(self.replication.stream_db);
        }
    }

    /// Keeps an append-only file from now on: as soon as its base is there, in place of an older one.
    pub fn begin_aof(&mut self) {
        self.aof.close();
        self.aof.state = State::Scheduled;
        self.schedule_rewrite();
    }

    /// Has it rewritten as soon as no other walk is on its way.
    pub fn schedule_rewrite(&mut self) {
        self.aof.rewrite_scheduled = true;
        self.act(Action::RewriteAof);
    }

    /// Other data than those of the stream have come: what is appended from now on would not fit what the file has.
    pub(super) fn restart_aof(&mut self) {
        if self.aof.state != State::Off {
            self.begin_aof();
        }
    }

    /// What the stream needs so that there is something to append.
    ///
    /// # Errors
    /// There is no room for a backlog.
    pub fn need_stream(&mut self) -> Result<(), String> {
        if self.replication.backlog.is_some() || !self.replication.is_master() {
            return Ok(());
        }
        self.create_backlog()
    }

    /// A rewrite has ended.
    pub fn end_rewrite(&mut self, result: Result<(), String>) {
        let Some(rewrite) = self.aof.rewrite.take() else { return };
        self.aof.last_rewrite_s = Some((self.now_ms - rewrite.since_ms) / 1000);
        match result {
            Ok(()) => {
                self.aof.failed_rewrites = 0;
                log!(Notice, "Background AOF rewrite terminated with success");
            }
            Err(error) => {
                self.aof.failed_rewrites += 1;
                self.aof.last_failure_ms = self.now_ms;
                log!(Warning, "Background AOF rewrite terminated with error: {error}");
                if self.aof.state == State::Scheduled {
                    self.aof.rewrite_scheduled = true;
                }
            }
        }
    }

    /// Asks for a rewrite that is due, be it that an earlier one has failed or that the file has grown.
    pub(super) fn rewrite_if_due(&mut self) {
        let aof = &self.aof;
        if aof.rewrite.is_some() || self.loading.is_some() || self.persistence.snapshot_since_ms.is_some() {
            return;
        }
        let growth = (aof.state == State::On)
            .then(|| aof.growth(self.config.auto_aof_rewrite_percentage, self.config.auto_aof_rewrite_min_size))
            .flatten();
        let has_waited = self.now_ms - aof.last_failure_ms >= aof.retry_delay_ms();
        if !has_waited || growth.is_none() && !aof.rewrite_scheduled {
            return;
        }
        if let Some(growth) = growth {
            log!(Notice, "Starting automatic rewriting of AOF on {growth}% growth");
        }
        self.schedule_rewrite();
    }

    /// A master refuses writes while the disk says no. A replica cannot: when too much waits, it gives its file up and begins
    /// anew as soon as the disk lets it; what was written before stays what it was.
    pub(super) fn shed_unwritten(&mut self) {
        const WAITING_BYTES_MAX: usize = 64 << 20;
        let waits = self.aof.error.is_some() && self.aof.unwritten().len() > WAITING_BYTES_MAX;
        if waits && !self.replication.is_master() {
            log!(Warning, "Too much waits to be written to the AOF file: it is begun anew when the disk lets it");
            self.begin_aof();
        }
    }

    /// Everything up to `offset` of the stream is on the disk: those who wait for that go on, and the upstream is told.
    pub fn aof_was_synced(&mut self, offset: u64) {
        self.aof.was_synced(offset);
        self.release_acknowledged();
        for client in self.clients.values().filter(|client| client.kind.get() == ClientKind::Master) {
            client.wake();
        }
    }

    /// Whether everything up to `offset` of the stream is on this server's disk.
    pub(crate) fn is_synced(&self, offset: u64) -> bool {
        self.aof.synced.is_some_and(|synced| synced >= offset)
    }

    /// Goes on where an append-only file ends, whose data were loaded. `known` is what its readers know of that place.
    ///
    /// # Errors
    /// There is no room for a backlog.
    pub fn continue_log(&mut self, restored: &Restored) -> Result<(), String> {
        let Some(Point { id, offset, db }) = restored.point else { return self.need_stream() };
        let replication = &mut self.replication;
        (replication.offset, replication.stream_db) = (offset, db);
        if replication.is_master() {
            replication.history.previous = Some((id, offset));
        } else {
            replication.history = History { replid: id, previous: None };
            replication.restore();
        }
        let room = usize::try_from(self.config.repl_backlog_size).unwrap_or(usize::MAX);
        let recent = &restored.recent[restored.recent.len().saturating_sub(room)..];
        self.create_backlog_with((offset - recent.len() as u64, recent))?;
        log!(Notice, "Continuing the history {id} at offset {offset}, where the append only file ends");
        Ok(())
    }

    /// The stream of history `id` behind its offset `from`, which the data have and the file has not.
    pub fn append_missing(&mut self, id: ReplicationId, from: u64, bytes: &[u8]) {
        if self.aof.is_open() && !bytes.is_empty() {
            self.append_to_aof(id, from, bytes);
        }
    }

    /// How many replicas have everything up to `offset` on their disks.
    pub(crate) fn feeds_synced(&self, offset: u64) -> usize {
        let feeds = self.replication.feeds.iter();
        feeds.filter(|feed: &&Rc<_>| feed.is_online() && feed.synced.get() >= Some(offset)).count()
    }
}
