//! Delays that somebody may have noticed, by what caused them:
//! <https://redis.io/docs/latest/operate/oss_and_stack/management/optimization/latency-monitor/>.

use std::collections::{BTreeMap, VecDeque};

/// So many of each kind are kept.
const KEPT: usize = 160;

/// Delays of one kind.
#[derive(Debug, Default)]
pub struct Event {
    /// When (in seconds since the epoch) and how long (in milliseconds), the newest last; the longest of each second.
    samples: VecDeque<(i64, u64)>,
    /// The longest since the last reset, in milliseconds.
    pub longest_ms: u64,
}

impl Event {
    /// When and how long, the oldest first.
    pub fn samples(&self) -> impl ExactSizeIterator<Item = (i64, u64)> {
        self.samples.iter().copied()
    }

    /// The last one.
    pub fn last(&self) -> (i64, u64) {
        self.samples.back().copied().unwrap_or_default()
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Delays {
    /// By what caused them.
    pub events: BTreeMap<&'static str, Event>,
}

impl Delays {
    /// Adds one.
    pub fn add(&mut self, event: &'static str, at_s: i64, took_ms: u64) {
        let event = self.events.entry(event).or_default();
        event.longest_ms = event.longest_ms.max(took_ms);
        match event.samples.back_mut() {
            Some((last_s, longest_ms)) if *last_s == at_s => *longest_ms = (*longest_ms).max(took_ms),
            _ => event.samples.push_back((at_s, took_ms)),
        }
        if event.samples.len() > KEPT {
            event.samples.pop_front();
        }
    }

    /// Of this kind, by a name that a client has sent.
    pub fn named(&self, name: &[u8]) -> Option<(&'static str, &Event)> {
        let mut events = self.events.iter();
        events.find(|(own, _)| own.as_bytes() == name).map(|(name, event)| (*name, event))
    }
}
