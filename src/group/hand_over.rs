//! How a master and its replica exchange their roles so that at no moment both take writes: the steps, and what undoes them, as
//! a value.
//!
//! ```text
//! pause writes -> ask the master where it is -> ask the replica until it is there -> FAILOVER TO … -> ask until it is a master
//!      |                    |                          | not in time                     |             | not in time
//!      +--------------------+--------------------------+-> unpause                       +-------------+-> FAILOVER ABORT
//! ```
//!
//! `FAILOVER` alone would do all of it, but Redis asks for no word of the replica while writes are paused, and the last one
//! may be a second old; so the replica is asked directly, and the exchange is then ordered without waiting for its word.
//! A master that has demoted itself is a master again by `FAILOVER ABORT`, while its request to take over may still lie in the
//! replica's socket (<https://redis.io/docs/latest/commands/failover/> warns of several masters). Therefore writes stay paused
//! until the replica was seen to be none after that, or to be the master: then the old one follows it. A replica that does not
//! answer then is ended.

use std::time::Duration;

use crate::wire::Replication;

/// How long the exchange of roles may take after the replica has caught up, and how long the undoing of one.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// An exchange of roles under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandOver {
    patience: Duration,
    new_port: u16,
    stage: Stage,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    Pausing,
    Measuring,
    CatchingUp {
        end: Box<Replication>,
        is_again: bool,
    },
    Ordering {
        host: String,
    },
    /// The replica is asked whether it is the master, then the master whether it still tries.
    Exchanging {
        until: Duration,
        asks_new: bool,
        is_again: bool,
    },
    Aborting {
        reason: String,
    },
    /// After the abort: the replica answers, and by its second answer it has read what the master sent before.
    Looking {
        reason: String,
        is_again: bool,
    },
    EndingNew {
        reason: String,
    },
    Following,
    EndingOld,
    Unpausing {
        result: Result<(), String>,
    },
    Over {
        result: Result<(), String>,
    },
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandOverOrder {
    /// Let the master hold back writes for so long.
    Pause(Duration),
    /// Ask the master for its state.
    AskOld,
    /// Ask the replica for its state; again, a moment later.
    AskNew {
        /// It was just asked.
        is_again: bool,
    },
    /// `FAILOVER TO` the replica.
    Exchange {
        /// The address by which the master knows it.
        host: String,
    },
    /// `FAILOVER ABORT`
    Abort,
    /// End the replica's process.
    EndNew,
    /// Let the old master follow the replica, which is the master.
    FollowNew,
    /// End the old master's process.
    EndOld,
    /// Let the master take writes again.
    Unpause,
    /// Nothing: the replica is the master, or why it is not.
    Over(Result<(), String>),
}

/// What came of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// It was obeyed.
    Done,
    /// The node's state.
    State(Box<Replication>),
    /// It was refused, or there was no answer.
    Failed(String),
}

impl HandOver {
    /// `patience` is how long the master may hold back writes for the replica, on `new_port`, to catch up.
    pub fn new(patience: Duration, new_port: u16) -> Self {
        Self { patience, new_port, stage: Stage::Pausing }
    }

    /// What is to be done now; then [`HandOver::next`].
    pub fn order(&self) -> HandOverOrder {
        match &self.stage {
            Stage::Pausing => HandOverOrder::Pause(self.patience + 2 * GRACE),
            Stage::Measuring => HandOverOrder::AskOld,
            Stage::CatchingUp { is_again, .. } => HandOverOrder::AskNew { is_again: *is_again },
            Stage::Ordering { host } => HandOverOrder::Exchange { host: host.clone() },
            Stage::Exchanging { asks_new: true, is_again, .. } => HandOverOrder::AskNew { is_again: *is_again },
            Stage::Exchanging { .. } => HandOverOrder::AskOld,
            Stage::Aborting { .. } => HandOverOrder::Abort,
            Stage::Looking { is_again, .. } => HandOverOrder::AskNew { is_again: *is_again },
            Stage::EndingNew { .. } => HandOverOrder::EndNew,
            Stage::Following => HandOverOrder::FollowNew,
            Stage::EndingOld => HandOverOrder::EndOld,
            Stage::Unpausing { .. } => HandOverOrder::Unpause,
            Stage::Over { result } => HandOverOrder::Over(result.clone()),
        }
    }

    /// Goes on with what came of the order; `now` is the time since the first one.
    #[must_use]
    pub fn next(self, word: Word, now: Duration) -> Self {
        let Self { patience, new_port, stage } = self;
        let stage = match (stage, word) {
            (Stage::Pausing, Word::Done) => Stage::Measuring,
            (Stage::Measuring, Word::State(end)) => Stage::CatchingUp { end, is_again: false },
            (Stage::CatchingUp { end, .. }, Word::State(own)) if own.offset >= end.offset => {
                let replica = end.replicas.into_iter().find(|one| one.port == new_port);
                Stage::Ordering { host: replica.map_or_else(|| "127.0.0.1".to_owned(), |one| one.host) }
            }
            (Stage::CatchingUp { end, .. }, Word::State(_)) if now <= patience => {
                Stage::CatchingUp { end, is_again: true }
            }
            (Stage::CatchingUp { .. }, Word::State(_)) => {
                unpause(Err(format!("did not catch up within {} ms", patience.as_millis())))
            }
            (Stage::Pausing | Stage::Measuring | Stage::CatchingUp { .. }, word) => unpause(Err(failure(word))),
            (Stage::Ordering { .. }, Word::Done) => {
                Stage::Exchanging { until: now + GRACE, asks_new: true, is_again: false }
            }
            (Stage::Exchanging { asks_new: true, .. }, Word::State(new)) if new.is_master() => unpause(Ok(())),
            (Stage::Exchanging { until, asks_new: true, .. }, Word::State(_)) => {
                Stage::Exchanging { until, asks_new: false, is_again: true }
            }
            (Stage::Exchanging { until, .. }, Word::State(old)) if now <= until && is_trying(&old) => {
                Stage::Exchanging { until, asks_new: true, is_again: true }
            }
            (Stage::Exchanging { .. }, Word::State(_)) => Stage::Aborting { reason: "did not take over".to_owned() },
            (Stage::Ordering { .. } | Stage::Exchanging { .. }, word) => Stage::Aborting { reason: failure(word) },
            // Refused where there is nothing to abort any more.
            (Stage::Aborting { reason }, _) => Stage::Looking { reason, is_again: false },
            (Stage::Looking { .. }, Word::State(new)) if new.is_master() => Stage::Following,
            (Stage::Looking { reason, is_again: false }, Word::State(_)) => Stage::Looking { reason, is_again: true },
            (Stage::Looking { reason, .. }, Word::State(_)) => unpause(Err(reason)),
            (Stage::Looking { reason, .. }, _) => Stage::EndingNew { reason },
            (Stage::EndingNew { reason }, _) => unpause(Err(format!("{reason}, and was ended"))),
            (Stage::Following, Word::Failed(_)) => Stage::EndingOld,
            (Stage::Following | Stage::EndingOld, _) => unpause(Ok(())),
            (Stage::Unpausing { result } | Stage::Over { result }, _) => Stage::Over { result },
        };
        Self { patience, new_port, stage }
    }
}

fn unpause(result: Result<(), String>) -> Stage {
    Stage::Unpausing { result }
}

/// Whether a master that was told to hand over is still at it.
fn is_trying(old: &Replication) -> bool {
    !old.is_master() || old.is_handing_over
}

fn failure(word: Word) -> String {
    match word {
        Word::Failed(error) => format!("could not take over: {error}"),
        Word::Done | Word::State(_) => "could not take over".to_owned(),
    }
}
