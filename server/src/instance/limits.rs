//! Limits of what waits to be sent: who takes too little of it is cut off, and who is slow, or is synced in full again and
//! again, is told of.
//!
//! What waits for a replica is what lies between its cursor and the backlog's end; it costs no memory of its own, but the
//! backlog grows for the slowest.

use std::rc::Rc;

use super::Instance;
use crate::client::{Client, ClientKind};
use crate::config::OutputLimit;
use crate::log::log;
use crate::replication::{Backlog, Feed, FeedState};

/// A replica that takes nothing of what waits for it is told of in the log after so long.
const STALL_MS: i64 = 5_000;

/// Of so many replicas the full resyncs are counted.
const TROUBLED_MAX: usize = 1024;

/// A replica that was synced in full and has not caught up since.
#[derive(Debug)]
pub(super) struct Troubled {
    /// How many times in a row.
    resyncs: u32,
    /// The offset at which the last time began.
    from: u64,
}

impl Instance {
    /// A replica is synced in full. The second time in a row without having caught up in between, the log says what would
    /// help.
    pub(super) fn count_full_sync(&mut self, ip: &str, port: u16) {
        let offset = self.replication.offset;
        let place = (ip.to_owned(), port);
        if self.troubled.len() >= TROUBLED_MAX && !self.troubled.contains_key(&place) {
            return;
        }
        let troubled = self.troubled.entry(place).or_insert(Troubled { resyncs: 0, from: offset });
        troubled.resyncs += 1;
        let (resyncs, written) = (troubled.resyncs, offset.saturating_sub(troubled.from));
        troubled.from = offset;
        if resyncs < 2 {
            return;
        }
        let limit = self.config.client_output_buffer_limit.replica;
        log!(
            Warning,
            "Replica {ip}:{port} is synced in full {resyncs} times in a row without having caught up. Since it began \
             the last time, {written} bytes were written; so much has to wait for a replica that is being synced, or comes \
             back. Raise 'client-output-buffer-limit replica' (now {} bytes, or {} bytes for {} seconds) and \
             'repl-backlog-size' (now {} bytes) above that, 'repl-timeout' (now {} seconds) if it was silent, or write less.",
            limit.hard_bytes,
            limit.soft_bytes,
            limit.soft.as_secs(),
            self.config.repl_backlog_size,
            self.config.repl_timeout.as_secs()
        );
    }

    /// A replica has said how far it is: one that lacks no more than the backlog keeps at rest has caught up.
    pub(super) fn forget_trouble(&mut self, feed: &Feed) {
        let lacks = self.replication.offset.saturating_sub(feed.acknowledged.get());
        if !self.troubled.is_empty() && feed.is_online() && lacks <= self.config.repl_backlog_size {
            self.troubled.remove(&(feed.ip.clone(), feed.port));
        }
    }

    /// How much may wait for a client of this kind; zeros mean any amount.
    pub(crate) fn output_limit(&self, kind: ClientKind) -> OutputLimit {
        let limits = &self.config.client_output_buffer_limit;
        match kind {
            ClientKind::Normal => limits.normal,
            ClientKind::Subscriber => limits.pubsub,
            ClientKind::Replica => self.replica_limit(),
            ClientKind::Master => OutputLimit::default(),
        }
    }

    /// A replica may lack as much as the backlog keeps at rest: cut off, it would only come back for it.
    fn replica_limit(&self) -> OutputLimit {
        let mut limit = self.config.client_output_buffer_limit.replica;
        if limit.hard_bytes > 0 {
            let kept = self.replication.backlog.as_ref().map_or(0, Backlog::kept_for_slowest);
            limit.hard_bytes = limit.hard_bytes.max(self.config.repl_backlog_size).max(kept);
        }
        limit
    }

    /// Cuts a client off for which more waits than it may, or for too long; whether it did.
    pub fn enforce_output_limit(&mut self, client: &Client, pending_bytes: u64) -> bool {
        let limit = self.output_limit(client.kind.get());
        if client.is_killed() || !client.is_over(&limit, pending_bytes, self.now_ms) {
            return false;
        }
        self.stats.client_output_buffer_limit_disconnections += 1;
        let description = client.describe(self.now_ms);
        log!(Warning, "Client {description} scheduled to be closed ASAP for overcoming of output buffer limits.");
        client.kill();
        true
    }

    pub(super) fn enforce_output_limits(&mut self) {
        self.measure_feeds();
        let clients: Vec<Rc<Client>> =
            self.clients.values().filter(|client| client.pending_bytes() > 0 || client.is_slow()).cloned().collect();
        for client in clients {
            self.enforce_output_limit(&client, client.pending_bytes());
        }
    }

    /// Lets each replica's connection say how much of the stream it lacks.
    pub fn measure_feeds(&self) {
        for feed in &self.replication.feeds {
            feed.client.stream_bytes.set(self.pending_bytes(feed));
        }
    }

    /// How much of the stream waits for a replica.
    pub fn pending_bytes(&self, feed: &Feed) -> u64 {
        match feed.state.get() {
            FeedState::WaitsForSnapshot => 0,
            _ if feed.rdb_only => 0,
            _ => self.replication.offset.saturating_sub(feed.cursor.get()),
        }
    }

    /// Tells of replicas that take nothing though there is something for them, once for each time.
    pub(super) fn report_stalls(&self) {
        for feed in self.replication.feeds.iter().filter(|feed| feed.is_online()) {
            let (pending, now_ms) = (self.pending_bytes(feed), self.now_ms);
            let stalled_ms = feed.progress.borrow_mut().stalled_ms(feed.cursor.get(), pending, now_ms);
            let Some(stalled_ms) = stalled_ms.filter(|stalled_ms| *stalled_ms >= STALL_MS) else { continue };
            let limit = self.replica_limit();
            let told = feed.progress.borrow_mut().tell();
            if told {
                log!(
                    Warning,
                    "Replica {}:{} has taken nothing of the stream for {} seconds: {pending} bytes wait for it. It will \
                     be cut off at {} bytes, or after {} seconds with more than {} (client-output-buffer-limit replica), \
                     or when it was silent for {} seconds (repl-timeout).",
                    feed.ip,
                    feed.port,
                    stalled_ms / 1000,
                    limit.hard_bytes,
                    limit.soft.as_secs(),
                    limit.soft_bytes,
                    self.config.repl_timeout.as_secs()
                );
            }
        }
    }
}
