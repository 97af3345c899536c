//! The stream that the replicas are fed from: what goes into it, how much of it is kept, and who is attached to it.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;

use super::{Action, BACKLOG_FILE, Instance, TransactionStream};
use crate::client::{ClientKind, Session};
use crate::log::log;
use crate::rdb::Reader;
use crate::replication::{Appended, Backlog, Feed, FeedState, History, SyncAnswer, backlog};
use crate::resp::{append_request, count_requests};

impl Instance {
    /// Sends one request to the replicas, made in database `db`.
    pub(crate) fn propagate_request(&mut self, db: usize, arguments: &[&[u8]]) {
        let mut request = Vec::new();
        append_request(&mut request, arguments);
        self.propagate(db, &request, 1);
    }

    /// Sends encoded requests to the replicas, made in database `db`; those of a transaction together at its end. Only a
    /// master does: the stream that a replica hands on is its upstream's, byte for byte.
    pub(crate) fn propagate(&mut self, db: usize, requests: &[u8], count: usize) {
        if !self.replication.is_master() {
            if self.aof.is_open() {
                self.append_own_write(db, requests);
            }
            return;
        }
        if self.replication.backlog.is_none() {
            return;
        }
        let Some(mut stream) = self.transaction_stream.take() else {
            self.select_in_stream(db);
            return self.append_to_stream(requests);
        };
        if stream.count == 0 {
            // The first SELECT goes before MULTI.
            self.select_in_stream(db);
        } else if stream.db != db {
            append_request(&mut stream.requests, &[b"SELECT", db.to_string().as_bytes()]);
        }
        stream.db = db;
        stream.requests.extend_from_slice(requests);
        stream.count += count;
        self.transaction_stream = Some(stream);
    }

    /// Sends encoded requests, which no replica may see a part of: several are a transaction, unless they are in one.
    pub(crate) fn propagate_together(&mut self, db: usize, requests: &[u8]) {
        let count = count_requests(requests);
        if count == 1 || self.transaction_stream.is_some() {
            return self.propagate(db, requests, count);
        }
        self.begin_transaction_stream();
        self.propagate(db, requests, count);
        self.end_transaction_stream();
    }

    /// Collects what is propagated until [`Instance::end_transaction_stream`].
    pub(crate) fn begin_transaction_stream(&mut self) {
        self.transaction_stream = Some(TransactionStream::default());
    }

    /// Sends what was collected, as one transaction if it is more than one request.
    pub(crate) fn end_transaction_stream(&mut self) {
        let Some(stream) = self.transaction_stream.take() else { return };
        if stream.count == 0 {
            return;
        }
        let mut whole = Vec::new();
        if stream.count > 1 {
            append_request(&mut whole, &[b"MULTI"]);
            whole.extend_from_slice(&stream.requests);
            append_request(&mut whole, &[b"EXEC"]);
        } else {
            whole = stream.requests;
        }
        if let Some(backlog) = &mut self.replication.backlog {
            backlog.select_with_next(u32::try_from(stream.db).ok());
        }
        self.append_to_stream(&whole);
    }

    fn select_in_stream(&mut self, db: usize) {
        let db32 = u32::try_from(db).ok();
        let Some(backlog) = &mut self.replication.backlog else { return };
        if std::mem::take(&mut self.replication.reselects) || backlog.selected_db() != db32 {
            let mut request = Vec::new();
            append_request(&mut request, &[b"SELECT", db.to_string().as_bytes()]);
            backlog.select_with_next(db32);
            self.append_to_stream(&request);
        }
    }

    /// Appends bytes of the stream, as a master makes or a replica receives them.
    pub fn append_to_stream(&mut self, bytes: &[u8]) {
        let Some(backlog) = &mut self.replication.backlog else { return };
        let appended = backlog.append(bytes);
        if self.aof.is_open() {
            self.append_to_aof(self.replication.history.replid, self.replication.offset, bytes);
        }
        self.replication.offset += bytes.len() as u64;
        if planted!(HandedOnCountedTwice) && !self.replication.is_master() && !self.replication.feeds.is_empty() {
            self.replication.offset += bytes.len() as u64;
        }
        if let Appended::Overrun { .. } = appended {
            self.cut_overrun_feeds();
        }
    }

    fn cut_overrun_feeds(&mut self) {
        let start = self.replication.backlog.as_ref().map_or(0, Backlog::start);
        for feed in &self.replication.feeds {
            let is_cut = feed.cursor.get() < start && !feed.client.is_killed() && !feed.rdb_only;
            if feed.state.get() != FeedState::WaitsForSnapshot && is_cut {
                self.stats.client_output_buffer_limit_disconnections += 1;
                log!(
                    Warning,
                    "Replica {}:{} scheduled to be closed ASAP for overcoming of output buffer limits.",
                    feed.ip,
                    feed.port
                );
                feed.client.kill();
            }
        }
        self.hold_for_slowest();
    }

    /// Lets the backlog know what it must keep.
    pub fn hold_for_slowest(&mut self) {
        let slowest = self.replication.slowest_held(self.config.repl_backlog_size / 2);
        if let Some(backlog) = &mut self.replication.backlog {
            backlog.set_slowest(slowest);
        }
    }

    fn backlog_sizes(&self) -> backlog::Sizes {
        let configured = self.config.repl_backlog_size;
        let limit = self.config.client_output_buffer_limit.replica.hard_bytes;
        backlog::Sizes {
            capacity: configured,
            capacity_max: if limit == 0 { u64::MAX } else { configured.saturating_add(limit) },
        }
    }

    /// Gives back what the backlog grew by for a replica that was slow.
    pub(super) fn shrink_backlog(&mut self) {
        if let Some(backlog) = &mut self.replication.backlog
            && let Err(error) = backlog.shrink_to_configured()
        {
            log!(Warning, "Can't shrink the replication backlog: {error}");
        }
    }

    /// Where the backlog lies.
    pub fn backlog_path(&self) -> PathBuf {
        self.config.dir.join(BACKLOG_FILE)
    }

    /// Starts to keep the stream, from the present offset on.
    ///
    /// # Errors
    /// The file cannot be made; the words say why.
    pub fn create_backlog(&mut self) -> Result<(), String> {
        self.create_backlog_with((self.replication.offset, &[]))
    }

    /// The same with a part of the stream in it that ends at the present offset, and the offset before that.
    ///
    /// # Errors
    /// As [`Instance::create_backlog`].
    pub fn create_backlog_with(&mut self, stream: (u64, &[u8])) -> Result<(), String> {
        let history = self.replication.history;
        let run_id: [u8; 40] = self.run_id.as_str().as_bytes().try_into().expect("a run id has 40 digits");
        // A replica forwards a stream that has its database selected already.
        let selected = (!self.replication.is_master()).then_some(self.replication.stream_db as u32);
        let backlog = Backlog::create(&self.backlog_path(), run_id, history, self.backlog_sizes(), stream, selected);
        let backlog = backlog.map_err(|error| {
            let text = format!("can't make the replication backlog {}: {error}", self.backlog_path().display());
            log!(Warning, "{text}");
            text
        })?;
        self.replication.backlog = Some(backlog);
        self.replication.unfed_since_ms = self.now_ms;
        Ok(())
    }

    /// Ends the backlog with its file, which would otherwise pass for all that there was of its history.
    pub(super) fn remove_backlog(&mut self) {
        if let Some(backlog) = self.replication.backlog.take() {
            backlog.remove();
        }
    }

    /// After a change of the sizes it depends on.
    pub fn resize_backlog(&mut self) {
        let sizes = self.backlog_sizes();
        if let Some(backlog) = &mut self.replication.backlog
            && let Err(error) = backlog.resize(sizes)
        {
            log!(Warning, "Can't change the replication backlog's size: {error}");
        }
    }

    /// Lets the replicas say how far they are, now.
    pub fn ask_for_acknowledgement(&mut self) {
        self.propagate_request_anywhere(&[b"REPLCONF", b"GETACK", b"*"]);
    }

    /// A request that has no database.
    pub(super) fn propagate_request_anywhere(&mut self, arguments: &[&[u8]]) {
        let mut request = Vec::new();
        append_request(&mut request, arguments);
        self.append_to_stream(&request);
        self.replication.wake_feeds();
    }

    /// A replica asks to be fed. What it has is `request`: a history's name and an offset in it.
    ///
    /// # Errors
    /// There is no room for a backlog.
    pub fn attach(&mut self, session: &mut Session, request: Option<(&[u8], u64)>) -> Result<SyncAnswer, String> {
        let answer = self.replication.answer(request);
        let (ip, port) = feed_address(session);
        match &answer {
            SyncAnswer::Continue(from) => {
                self.stats.sync_partial_ok += 1;
                log!(
                    Notice,
                    "Partial resynchronization request from {ip}:{port} accepted. Sending {} bytes of backlog starting from offset {}.",
                    self.replication.offset - from,
                    from + 1
                );
            }
            SyncAnswer::Full(reason) => {
                if request.is_some() {
                    self.stats.sync_partial_err += 1;
                    log!(Notice, "Partial resynchronization not accepted: {reason}");
                } else {
                    log!(Notice, "{reason}: {ip}:{port}");
                }
                self.stats.sync_full += 1;
                if !session.identity.rdb_only {
                    self.count_full_sync(&ip, port);
                }
                if self.replication.backlog.is_none() {
                    self.begin_history()?;
                }
            }
        }
        let (state, cursor) = match answer {
            SyncAnswer::Continue(from) => (FeedState::Online, from),
            SyncAnswer::Full(_) => (FeedState::WaitsForSnapshot, self.replication.offset),
        };
        // A repld, whatever its version, reads what this one writes.
        let own = session.identity.told_chain.as_ref().map(|_| Reader::OWN);
        let reader = own.or(session.identity.reader).unwrap_or(Reader::Redis(self.config.rdb_version));
        let feed = Rc::new(Feed {
            client: Rc::clone(&session.client),
            ip,
            port,
            eof: session.identity.eof,
            reader,
            rdb_only: session.identity.rdb_only,
            old_sync: session.old_sync,
            state: state.into(),
            cursor: cursor.into(),
            unreceived: 0.into(),
            acknowledged: cursor.into(),
            synced: None.into(),
            heard_ms: self.now_ms.into(),
            progress: RefCell::default(),
            stalled_since_ms: None.into(),
        });
        session.client.kind.set(ClientKind::Replica);
        session.feed = Some(Rc::clone(&feed));
        self.replication.feeds.push(feed);
        self.hold_for_slowest();
        if state == FeedState::WaitsForSnapshot {
            self.act(Action::Sync);
        }
        Ok(answer)
    }

    /// The first replica has come: from here on the stream is kept, under a new name, since nobody counted before.
    fn begin_history(&mut self) -> Result<(), String> {
        if self.replication.is_master() {
            self.replication.history = History { replid: self.random.id(), previous: None };
        }
        self.create_backlog()?;
        let History { replid, previous } = self.replication.history;
        let previous = previous.map_or_else(|| "0".repeat(40), |(id, _)| id.to_string());
        log!(Notice, "Replication backlog created, my new replication IDs are '{replid}' and '{previous}'");
        Ok(())
    }

    /// A replica says that it has applied everything up to `offset`, and perhaps that it has everything up to `synced` on its
    /// disk.
    pub fn acknowledge(&mut self, feed: &Feed, offset: u64, synced: Option<u64>) {
        if feed.state.get() == FeedState::AwaitsAcknowledgement {
            self.bring_online(feed);
        }
        feed.acknowledged.set(feed.acknowledged.get().max(offset));
        feed.synced.set(feed.synced.get().max(synced));
        feed.heard_ms.set(self.now_ms);
        self.forget_trouble(feed);
        self.release_acknowledged();
        self.advance_failover();
    }
}

/// The address that others can reach a replica at.
fn feed_address(session: &Session) -> (String, u16) {
    let (ip, port) = session.client.address.rsplit_once(':').unwrap_or((&session.client.address, "0"));
    let ip = session.identity.announced_ip.clone().unwrap_or_else(|| ip.trim_matches(['[', ']']).to_owned());
    let port = match session.identity.listening_port {
        0 => port.parse().unwrap_or(0),
        listening => listening,
    };
    (ip, port)
}
