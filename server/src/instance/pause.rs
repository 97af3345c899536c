//! Pauses: requests wait, whole or those that may write, while somebody needs the data to stand still.

use super::Instance;

/// What is postponed, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause {
    /// When it ends by itself, in milliseconds since the epoch.
    pub until_ms: i64,
    /// Only what may write.
    pub writes_only: bool,
}

/// Who asked for a pause. Each has one of its own, and ends only that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PausedBy {
    /// `CLIENT PAUSE`.
    Client,
    /// A shutdown that waits for replicas.
    Shutdown,
    /// `FAILOVER`.
    Failover,
}

impl Instance {
    /// Postpones requests. A pause of the same origin that is there already is neither shortened nor loosened.
    pub fn pause(&mut self, by: PausedBy, pause: Pause) {
        let now_ms = self.now_ms;
        let slot = &mut self.pauses[by as usize];
        let old = slot.filter(|old| old.until_ms > now_ms);
        *slot = Some(Pause {
            until_ms: old.map_or(pause.until_ms, |old| old.until_ms.max(pause.until_ms)),
            writes_only: old.is_none_or(|old| old.writes_only) && pause.writes_only,
        });
    }

    /// Ends the pause of this origin, and lets everyone go on.
    pub fn unpause(&mut self, by: PausedBy) {
        if self.pauses[by as usize].take().is_some() {
            self.wake_postponed();
        }
    }

    /// Whether requests are postponed: all of them, or those that may write.
    pub fn is_paused(&self, may_write: bool) -> bool {
        self.pauses.iter().flatten().any(|pause| pause.until_ms > self.now_ms && (may_write || !pause.writes_only))
    }

    /// Whether anything may be postponed.
    pub(crate) fn has_pause(&self) -> bool {
        self.pauses.iter().any(Option::is_some)
    }

    /// When the next pause ends by itself.
    pub(super) fn pause_end_ms(&self) -> Option<i64> {
        self.pauses.iter().flatten().map(|pause| pause.until_ms).min()
    }

    pub(super) fn end_due_pauses(&mut self) {
        let now_ms = self.now_ms;
        let mut ended = false;
        for slot in &mut self.pauses {
            ended |= slot.take_if(|pause| pause.until_ms <= now_ms).is_some();
        }
        if ended {
            self.wake_postponed();
        }
    }

    /// Those who may still not go on find out when they try.
    fn wake_postponed(&self) {
        for client in self.clients.values().filter(|client| client.postponed.replace(false)) {
            client.wake();
        }
    }
}
