//! What has to be done from time to time.

use std::rc::Rc;

use super::{Action, Instance};
use crate::client::ClientKind;
use crate::log::log;
use crate::notify::Classes;
use crate::replication::{Feed, FeedState, History};
use crate::resp::append_request;

/// Expiry looks at so many segments of a database at a time.
const EXPIRE_SEGMENTS: usize = 512;

/// And at so many hashes with fields that are due, of each some.
const EXPIRE_HASHES: usize = 128;

impl Instance {
    /// When [`Instance::tick`] is due before its usual time, in milliseconds since the epoch.
    pub fn next_deadline_ms(&self) -> Option<i64> {
        let waiters = self.waiters.next_deadline_ms().into_iter();
        waiters.chain(self.pause_end_ms()).chain(self.failover_due_ms()).min()
    }

    /// What has to be done from time to time.
    pub fn tick(&mut self) {
        if self.is_idle {
            return;
        }
        self.release_acknowledged();
        self.release_due();
        self.end_due_pauses();
        self.advance_failover();
        self.enforce_output_limits();
        let begun_us = self.end_run();
        self.expire_due_keys();
        self.expire_due_fields();
        let took_us = self.end_run() - begun_us;
        self.note_delay("expire-cycle", took_us / 1000);
        self.expire_own_keys();
        self.cut_stalled_feeds();
        self.save_if_due();
        if self.is_save_outdated() {
            // It may be given up.
            self.act(Action::Sync);
        }
        self.rewrite_if_due();
        self.shed_unwritten();
        self.measure_clients();
        self.evict_clients();
        self.make_room();
        self.tell_trackers();
        if self.last_second != self.now_ms / 1000 {
            self.last_second = self.now_ms / 1000;
            self.every_second();
        }
        self.replication.wake_feeds();
    }

    fn every_second(&mut self) {
        self.ping_feeds();
        self.cut_silent_feeds();
        self.report_stalls();
        self.close_idle_clients();
        self.migrations.close_idle(self.now_ms);
        self.forget_unused_backlog();
        self.shrink_backlog();
    }

    /// What clients have written on a writable replica is its own business, and expires without a word to anybody.
    fn expire_own_keys(&mut self) {
        if self.own_deadlines.is_empty() || !self.active_expiry || self.loading.is_some() {
            return;
        }
        let mut places = std::mem::take(&mut self.own_deadlines);
        places.retain(|(db, name)| {
            let key = self.keyspace.key(name);
            let Some(entry) = self.keyspace.peek(*db, key).filter(|entry| entry.deadline_ms().is_some()) else {
                return false;
            };
            if entry.is_expired(self.now_ms) {
                self.keyspace.remove(*db, key);
                self.stats.expired_keys += 1;
                self.forget_key(*db, name);
                self.notify(Classes::EXPIRED, "expired", *db, name);
                return false;
            }
            true
        });
        self.own_deadlines = places;
    }

    /// Only a master decides that a key has expired, and says so in its stream.
    fn expire_due_keys(&mut self) {
        if !self.active_expiry || !self.replication.is_master() || self.loading.is_some() || self.is_paused(true) {
            return;
        }
        for db in 0..self.keyspace.databases() {
            if self.keyspace.with_deadline(db) == 0 {
                continue;
            }
            let mut requests = Vec::new();
            let mut names: Vec<Box<[u8]>> = Vec::new();
            let listens = self.config.notify_keyspace_events.has(Classes::EXPIRED);
            let watched = !self.watchers.is_empty() || self.tracking.is_on() || listens;
            let count = self.keyspace.expire(db, self.now_ms, EXPIRE_SEGMENTS, |name| {
                append_request(&mut requests, &[b"DEL", name]);
                if watched {
                    names.push(name.into());
                }
            });
            if count > 0 {
                self.stats.expired_keys += count as u64;
                for name in names {
                    self.forget_key(db, &name);
                    self.notify(Classes::EXPIRED, "expired", db, &name);
                }
                self.propagate(db, &requests, count);
            }
        }
    }

    /// The same for fields of hashes.
    fn expire_due_fields(&mut self) {
        if !self.active_expiry || !self.replication.is_master() || self.loading.is_some() || self.is_paused(true) {
            return;
        }
        for db in 0..self.keyspace.databases() {
            for _ in 0..EXPIRE_HASHES {
                let Some(name) = self.keyspace.key_with_due_field(db, self.now_ms) else { break };
                self.expire_fields(db, &name);
            }
        }
    }

    /// Whether everything that a running save contains was removed meanwhile.
    pub fn is_save_outdated(&self) -> bool {
        self.persistence.is_saving && self.persistence.flushes_at_start != self.keyspace.flushes()
    }

    fn save_if_due(&mut self) {
        let persistence = &self.persistence;
        if persistence.snapshot_since_ms.is_some() || self.loading.is_some() {
            return;
        }
        let since = self.now_ms / 1000 - persistence.last_save_s;
        let retry = !persistence.failed || self.now_ms - persistence.last_try_ms > 5000;
        let due = |point: &&crate::config::SavePoint| {
            persistence.dirty >= u64::from(point.changes) && since > i64::from(point.seconds) && retry
        };
        if let Some(point) = self.config.save.iter().find(due) {
            log!(Notice, "{} changes in {} seconds. Saving...", point.changes, point.seconds);
            self.act(Action::Save);
        }
    }

    fn ping_feeds(&mut self) {
        for feed in &self.replication.feeds {
            if matches!(feed.state.get(), FeedState::WaitsForSnapshot | FeedState::WaitsForFile) {
                // An empty line: we live.
                feed.client.send(|mailbox| mailbox.push(b'\n'));
            }
        }
        let period_ms = self.config.repl_ping_replica_period.as_millis() as i64;
        let due = self.now_ms - self.last_ping_ms >= period_ms;
        if due && self.replication.is_master() && !self.replication.feeds.is_empty() && !self.is_paused(true) {
            self.last_ping_ms = self.now_ms;
            self.propagate_request_anywhere(&[b"PING"]);
        }
    }

    fn cut_silent_feeds(&mut self) {
        let timeout_ms = self.config.repl_timeout.as_millis() as i64;
        for feed in &self.replication.feeds {
            let speaks = matches!(feed.state.get(), FeedState::Online | FeedState::AwaitsAcknowledgement);
            if speaks && self.now_ms - feed.heard_ms.get() > timeout_ms {
                log!(Warning, "Disconnecting timedout replica (streaming sync): {}:{}", feed.ip, feed.port);
                feed.client.kill();
            }
        }
    }

    /// Who does not take its snapshot holds up everyone that shares it.
    fn cut_stalled_feeds(&mut self) {
        let receives = |feed: &&Rc<Feed>| matches!(feed.state.get(), FeedState::ReceivesSnapshot { .. });
        let receiving: Vec<_> = self.replication.feeds.iter().filter(receives).collect();
        let stalled = receiving.iter().filter_map(|feed| Some((feed.stalled_since_ms.get()?, feed)));
        let Some((since_ms, slowest)) = stalled.min_by_key(|(since_ms, _)| *since_ms) else { return };
        // The others would give up after the full time: they too have got nothing meanwhile.
        let timeout_ms = self.config.repl_timeout.as_millis() as i64 / if receiving.len() > 1 { 2 } else { 1 };
        let limit_bytes = self.config.client_output_buffer_limit.replica.hard_bytes;
        if self.now_ms - since_ms > timeout_ms {
            log!(Warning, "Disconnecting timedout replica (full sync): {}:{}", slowest.ip, slowest.port);
            slowest.client.kill();
        } else if limit_bytes > 0 && self.keyspace.walk_held_bytes() as u64 > limit_bytes {
            // What writes have copied waits for it, and is a part of its output.
            self.stats.client_output_buffer_limit_disconnections += 1;
            log!(
                Warning,
                "Replica {}:{} scheduled to be closed ASAP for overcoming of output buffer limits.",
                slowest.ip,
                slowest.port
            );
            slowest.client.kill();
        }
    }

    fn close_idle_clients(&mut self) {
        let timeout_ms = self.config.timeout.as_millis() as i64;
        for client in self.clients.values() {
            let idle = timeout_ms > 0 && self.now_ms - client.last_active_ms.get() > timeout_ms;
            if idle && client.kind.get() == ClientKind::Normal && !client.blocked.get() {
                log!(Verbose, "Closing idle client");
                client.kill();
            }
        }
    }

    /// Who is gone for so long will need everything anyway; what follows is a history that nobody has part of.
    fn forget_unused_backlog(&mut self) {
        let ttl_ms = self.config.repl_backlog_ttl.as_millis() as i64;
        let replication = &self.replication;
        let unused = ttl_ms > 0
            && !self.aof.is_open()
            && replication.feeds.is_empty()
            && self.now_ms - replication.unfed_since_ms > ttl_ms;
        if replication.backlog.is_some() && replication.is_master() && unused {
            self.remove_backlog();
            self.replication.history = History { replid: self.random.id(), previous: None };
            log!(Notice, "Replication backlog freed after {} seconds without connected replicas.", ttl_ms / 1000);
        }
    }
}
