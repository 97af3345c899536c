//! Virtual connections: what is sent arrives late, in pieces of any size, up to a cut, or never.

use std::collections::VecDeque;

/// What a connection holds on its way before the sender has to wait, in bytes.
const WINDOW_BYTES: usize = 2048;

/// What came out of a pipe.
pub enum Arrival {
    Bytes(Vec<u8>),
    /// There is nothing for now.
    Nothing,
    /// There will never be anything again.
    End,
}

/// One direction of a connection.
#[derive(Default)]
pub struct Pipe {
    bytes: VecDeque<u8>,
    ended: bool,
    /// Nothing arrives before this time.
    held_until_ms: i64,
}

impl Pipe {
    /// How much it takes.
    pub fn room(&self) -> usize {
        WINDOW_BYTES.saturating_sub(self.bytes.len())
    }

    pub fn send(&mut self, bytes: &[u8]) {
        if !self.ended {
            self.bytes.extend(bytes);
        }
    }

    pub fn receive(&mut self, most: usize, now_ms: i64) -> Arrival {
        if now_ms < self.held_until_ms {
            return Arrival::Nothing;
        }
        if self.bytes.is_empty() {
            return if self.ended { Arrival::End } else { Arrival::Nothing };
        }
        let count = most.min(self.bytes.len());
        Arrival::Bytes(self.bytes.drain(..count).collect())
    }

    /// The sender is gone: so many bytes of those on their way still arrive, then the end.
    pub fn end(&mut self, bytes_kept: usize) {
        self.bytes.truncate(bytes_kept);
        self.ended = true;
    }

    /// Nothing arrives before this time, not even the end.
    pub fn hold(&mut self, until_ms: i64) {
        self.held_until_ms = self.held_until_ms.max(until_ms);
    }

    /// Whether nothing would arrive now.
    pub fn is_idle(&self, now_ms: i64) -> bool {
        now_ms < self.held_until_ms || self.bytes.is_empty()
    }

    /// How many bytes are on their way.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// A connection from a replica to its upstream.
pub struct Wire {
    /// The node that made it.
    pub replica: usize,
    /// The node that accepted it.
    pub upstream: usize,
    pub up: Pipe,
    pub down: Pipe,
    /// The replica has applied so much while it had this connection.
    pub reached: u64,
    /// Who of the two still has it.
    pub has_replica: bool,
    pub has_upstream: bool,
}

impl Wire {
    pub fn new(replica: usize, upstream: usize) -> Wire {
        let (up, down) = (Pipe::default(), Pipe::default());
        Wire { replica, upstream, up, down, reached: 0, has_replica: true, has_upstream: true }
    }
}
