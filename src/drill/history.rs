//! What the writers of a drill did and were told: the record that the verdict is made from.
//!
//! ```text
//! invoked --- the server may apply it anywhere here --- returned: acknowledged | refused
//!    \--------------------------------------------------------------- ambiguous: nobody will ever say
//! ```
//!
//! An operation is *acknowledged* when its answer came, *refused* when an error did (it has no effect, or the server lied),
//! and *ambiguous* when the connection broke or the answer was late: it may have been applied, then or later. The terms
//! are those of [Jepsen](https://github.com/jepsen-io/jepsen) (`ok`, `fail`, `info`).

use std::time::Duration;

/// One request of a writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// Who sent it.
    pub writer: u32,
    /// The connection it was sent on, in [`History::sessions`]: requests of one session reach one server in their order.
    pub session: u32,
    /// What was asked.
    pub request: Request,
    /// When it was sent, since the drill's beginning.
    pub invoked: Duration,
    /// What came of it.
    pub outcome: Outcome,
}

/// What an operation asks for. Numbers are unique in the drill: what is found afterwards has one origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// `SET` of a key of its own.
    Set {
        /// Names the key.
        number: u64,
    },
    /// `RPUSH` of a unique number.
    Push {
        /// The list.
        list: u32,
        /// What is pushed.
        number: u64,
    },
    /// `INCR`.
    Increment {
        /// The counter.
        counter: u32,
    },
    /// `SET` of a key that others write too.
    Write {
        /// The key.
        register: u32,
        /// The value.
        number: u64,
    },
    /// `GET` of such a key.
    Read {
        /// The key.
        register: u32,
    },
    /// A command on any type. Its effect is not told apart; only the nodes' data are compared.
    Mixed {
        /// Names the request.
        number: u64,
    },
}

/// What came of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered.
    Acknowledged {
        /// When, since the drill's beginning.
        at: Duration,
        /// The number in the answer: a counter's value, a register's (0: it had none), a list's length.
        answer: u64,
    },
    /// It was answered by an error.
    Refused {
        /// When, since the drill's beginning.
        at: Duration,
    },
    /// It was not answered.
    Ambiguous,
}

/// Everything that was done, in the order of its sending as far as one session goes.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// The operations.
    pub operations: Vec<Operation>,
    /// The node that each session's connection was to.
    pub sessions: Vec<String>,
}

impl Outcome {
    /// Whether it was answered without an error.
    pub fn is_acknowledged(&self) -> bool {
        matches!(self, Outcome::Acknowledged { .. })
    }
}
