//! `FAILOVER`: a master hands its place to one of its replicas, without losing a write.
//!
//! ```text
//! master                                        target
//!   writes are postponed
//!   | -- REPLCONF GETACK * -------------------->  |
//!   | <------------------ REPLCONF ACK offset --  |   it has everything
//!   becomes a replica of the target
//!   | -- PSYNC replid offset+1 FAILOVER ------->  |   becomes a master
//!   | <----------------------- +CONTINUE id ----  |
//!   the postponed writes are told READONLY
//! ```
//!
//! At no moment are there two masters that take writes: they are postponed until the target has answered.
//!
//! Source: <https://redis.io/docs/latest/commands/failover/>.

use std::rc::Rc;

use super::{Instance, Pause, PausedBy};
use crate::config::Upstream;
use crate::log::log;
use crate::replication::Feed;

/// A failover under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failover {
    /// Writes are postponed until a replica has acknowledged all of them.
    WaitingForSync {
        /// Who shall be the master; none: whoever is there first.
        target: Option<Upstream>,
        /// What happens when the time is over; none: it waits until it is aborted.
        limit: Option<TimeLimit>,
        /// The replicas were asked how far they are.
        asked: bool,
    },
    /// This server follows the target and asks it to be the master.
    InProgress {
        /// Who that is.
        target: Upstream,
    },
}

/// How long a failover waits for its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeLimit {
    /// In milliseconds since the epoch.
    pub deadline_ms: i64,
    /// Fail over all the same then, and lose what the target does not have; or else give up.
    pub force: bool,
}

impl Failover {
    /// As INFO names the state.
    pub fn state(failover: Option<&Failover>) -> &'static str {
        match failover {
            None => "no-failover",
            Some(Failover::WaitingForSync { .. }) => "waiting-for-sync",
            Some(Failover::InProgress { .. }) => "failover-in-progress",
        }
    }
}

impl Instance {
    /// Begins to hand over to `target`, or to the first replica that has everything.
    pub fn begin_failover(&mut self, target: Option<Upstream>, limit: Option<TimeLimit>) {
        match &target {
            Some(target) => log!(Notice, "FAILOVER requested to {target}."),
            None => log!(Notice, "FAILOVER requested to any replica."),
        }
        self.failover = Some(Failover::WaitingForSync { target, limit, asked: false });
        self.pause(PausedBy::Failover, Pause { until_ms: i64::MAX, writes_only: true });
    }

    /// When the failover has to be looked at.
    pub(super) fn failover_due_ms(&self) -> Option<i64> {
        match &self.failover {
            Some(Failover::WaitingForSync { asked: false, .. }) => Some(self.now_ms),
            Some(Failover::WaitingForSync { limit, .. }) => limit.map(|limit| limit.deadline_ms),
            Some(Failover::InProgress { .. }) | None => None,
        }
    }

    /// Looks whether the target has everything, or the time is over.
    pub(super) fn advance_failover(&mut self) {
        let Some(Failover::WaitingForSync { target, limit, asked }) = &mut self.failover else { return };
        let (target, limit) = (target.clone(), *limit);
        if !std::mem::replace(asked, true) {
            // Not before the command's own turn is over: it may be a part of a transaction.
            self.ask_for_acknowledgement();
        }
        if let Some(limit) = limit.filter(|limit| limit.deadline_ms <= self.now_ms) {
            match target.filter(|_| limit.force) {
                Some(target) => {
                    log!(Notice, "FAILOVER to {target} time out exceeded, failing over.");
                    self.hand_over_to(target);
                }
                None => self.abort_failover("Replica never caught up before timeout"),
            }
            return;
        }
        let ready = |feed: &&Rc<Feed>| {
            feed.is_online()
                && feed.acknowledged.get() == self.replication.offset
                && target.as_ref().is_none_or(|target| feed.is_at(target))
        };
        if let Some(feed) = self.replication.feeds.iter().find(ready) {
            let target = Upstream { host: feed.ip.clone(), port: feed.port };
            log!(Notice, "Failover target {target} is synced, failing over.");
            self.hand_over_to(target);
        }
    }

    fn hand_over_to(&mut self, target: Upstream) {
        self.failover = Some(Failover::InProgress { target: target.clone() });
        self.follow(target);
    }

    /// Whether the upstream is to be asked to take over.
    pub fn is_handing_over(&self) -> bool {
        matches!(self.failover, Some(Failover::InProgress { .. }))
    }

    /// The target is the master now.
    pub fn complete_failover(&mut self) {
        if self.is_handing_over() {
            self.failover = None;
            self.unpause(PausedBy::Failover);
        }
    }

    /// Everything is as before, but for the name of the history if a replica may have taken over.
    pub fn abort_failover(&mut self, reason: &str) {
        let target = match self.failover.take() {
            None => return,
            Some(Failover::WaitingForSync { target, .. }) => target,
            Some(Failover::InProgress { target }) => {
                self.unfollow();
                Some(target)
            }
        };
        match target {
            Some(target) => log!(Notice, "FAILOVER to {target} aborted: {reason}"),
            None => log!(Notice, "FAILOVER to any replica aborted: {reason}"),
        }
        self.unpause(PausedBy::Failover);
    }
}
