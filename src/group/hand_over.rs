//! How a master and its replica exchange their roles so that at no moment both take writes: the steps, and what undoes them, as
//! a value.
//!
//! ```text
//! ask the master where it is -> ask the replica until it is there
//!      |                             | not in time: restored
//! pause writes -> ask the master where it is -> ask the replica until it is there -> FAILOVER TO … -> ask until it is a master
//!      |                    |                          | not in time                     |                | not in time
//!      +--------------------+--------------------------+-> unpause: restored <-----------+                +-> unsettled
//! ```
//!
//! The first line costs nobody a write. A replica far behind comes near while writes go on; and a Redis that has just given a
//! replica its image may send it nothing more for a second, though it calls it online: it waits for a word that the replica
//! has said too early.
//!
//! `FAILOVER` alone would do all of it, but Redis asks for no word of the replica while writes are paused, and the last one
//! may be a second old; so the replica is asked directly, and the exchange is then ordered without waiting for its word.
//!
//! A master that has demoted itself would be a master again by `FAILOVER ABORT`, while its request to take over may still lie in
//! the replica's socket, or was granted unheard: then there are two, or writes are lost
//! (<https://redis.io/docs/latest/commands/failover/>). So that is never ordered here: an exchange that has come so far and does
//! not come to its end is a lost master, and replaced as one. An old master whose request was granted and who never heard of it
//! asks again, is refused, and is a master again: so it is asked, too, before it is let loose.

use std::time::Duration;

use crate::topology::Address;
use crate::wire::{AttachedReplica, Replication};

/// How long the exchange of roles may take after the replica has caught up, and how long the undoing of one.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// An exchange of roles under way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HandOver {
    patience: Duration,
    new: Address,
    stage: Stage,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Stage {
    /// Writes go on: where is the master, and has it begun to send the replica its stream?
    Locating {
        is_again: bool,
    },
    /// Writes go on until the replica is where the master was.
    Nearing {
        end: u64,
        is_again: bool,
    },
    Pausing,
    Measuring {
        paused: Duration,
    },
    CatchingUp {
        paused: Duration,
        end: u64,
        known: Address,
        is_again: bool,
    },
    Ordering {
        known: Address,
    },
    /// The replica is asked whether it is the master, then the master whether it still tries.
    Exchanging {
        until: Duration,
        asks_new: bool,
        is_again: bool,
    },
    /// The replica is the master: the old one is asked until it follows.
    Settling {
        until: Duration,
        is_again: bool,
    },
    /// It did not work: how far has it come?
    Doubting {
        reason: String,
    },
    /// The master still tries: has the replica taken over?
    Judging {
        reason: String,
    },
    /// The master is the master: is the replica none? By its second answer it has read what the master had sent before.
    Looking {
        reason: String,
        is_again: bool,
    },
    Following,
    Unpausing {
        end: HandOverEnd,
    },
    Over {
        end: HandOverEnd,
    },
}

/// How an exchange of roles ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HandOverEnd {
    /// The replica is the master, and the old one is none.
    TakenOver,
    /// All is as it was before; why.
    Restored(String),
    /// Nobody may take writes, or one does not say whether it does; why it did not go on. The old master still holds back
    /// writes, should it be one: what is seen next decides.
    Unsettled(String),
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandOverOrder {
    /// Let the master hold back writes until it is told otherwise, or there is nobody any more to tell it.
    Pause,
    /// Ask the master for its state; again, a moment later.
    AskOld {
        /// It was just asked.
        is_again: bool,
    },
    /// Ask the replica for its state; again, a moment later.
    AskNew {
        /// It was just asked.
        is_again: bool,
    },
    /// `FAILOVER TO` the replica.
    Exchange {
        /// The address by which the master knows it.
        to: Address,
    },
    /// Let the old master follow the replica, which is the master.
    FollowNew,
    /// Let the master take writes again.
    Unpause,
    /// Nothing.
    Over(HandOverEnd),
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
    /// `patience` is how long the replica may take to come near, and how long the master may then hold back writes for it to
    /// catch up; the others reach it at `new`.
    pub fn new(patience: Duration, new: Address) -> Self {
        Self { patience, new, stage: Stage::Locating { is_again: false } }
    }

    /// What is to be done now; then [`HandOver::next`].
    pub fn order(&self) -> HandOverOrder {
        match &self.stage {
            Stage::Locating { is_again } => HandOverOrder::AskOld { is_again: *is_again },
            Stage::Measuring { .. } => HandOverOrder::AskOld { is_again: false },
            Stage::Nearing { is_again, .. } | Stage::CatchingUp { is_again, .. } => {
                HandOverOrder::AskNew { is_again: *is_again }
            }
            Stage::Pausing => HandOverOrder::Pause,
            Stage::Ordering { known } => HandOverOrder::Exchange { to: known.clone() },
            Stage::Exchanging { asks_new: true, is_again, .. } => HandOverOrder::AskNew { is_again: *is_again },
            Stage::Exchanging { .. } => HandOverOrder::AskOld { is_again: false },
            Stage::Settling { is_again, .. } => HandOverOrder::AskOld { is_again: *is_again },
            Stage::Doubting { .. } => HandOverOrder::AskOld { is_again: false },
            Stage::Judging { .. } => HandOverOrder::AskNew { is_again: false },
            Stage::Looking { is_again, .. } => HandOverOrder::AskNew { is_again: *is_again },
            Stage::Following => HandOverOrder::FollowNew,
            Stage::Unpausing { .. } => HandOverOrder::Unpause,
            Stage::Over { end } => HandOverOrder::Over(end.clone()),
        }
    }

    /// Goes on with what came of the order; `now` is the time since the first one.
    #[must_use]
    pub fn next(self, word: Word, now: Duration) -> Self {
        let Self { patience, new: address, stage } = self;
        let stage = match (stage, word) {
            (Stage::Locating { .. }, Word::State(old)) if find(&old, &address).is_some_and(|one| !one.is_online) => {
                if now <= patience {
                    Stage::Locating { is_again: true }
                } else {
                    unpause(HandOverEnd::Restored(late(patience)))
                }
            }
            (Stage::Locating { .. }, Word::State(old)) => Stage::Nearing { end: old.offset, is_again: false },
            (Stage::Nearing { end, .. }, Word::State(new)) if new.offset >= end => Stage::Pausing,
            (Stage::Nearing { end, .. }, Word::State(_)) if now <= patience => Stage::Nearing { end, is_again: true },
            (Stage::Nearing { .. }, Word::State(_)) => unpause(HandOverEnd::Restored(late(patience))),
            (Stage::Pausing, Word::Done) => Stage::Measuring { paused: now },
            (Stage::Measuring { paused }, Word::State(old)) => {
                let known = find(&old, &address).map_or(address.clone(), AttachedReplica::address);
                Stage::CatchingUp { paused, end: old.offset, known, is_again: false }
            }
            (Stage::CatchingUp { end, known, .. }, Word::State(new))
                if new.offset >= end || planted!(CatchUpSkipped) =>
            {
                Stage::Ordering { known }
            }
            (Stage::CatchingUp { paused, end, known, .. }, Word::State(_)) if now <= paused + patience => {
                Stage::CatchingUp { paused, end, known, is_again: true }
            }
            (Stage::CatchingUp { .. }, Word::State(_)) => unpause(HandOverEnd::Restored(late(patience))),
            (
                Stage::Locating { .. }
                | Stage::Nearing { .. }
                | Stage::Pausing
                | Stage::Measuring { .. }
                | Stage::CatchingUp { .. },
                word,
            ) => unpause(HandOverEnd::Restored(failure(word))),
            (Stage::Ordering { .. }, Word::Done) => {
                Stage::Exchanging { until: now + GRACE, asks_new: true, is_again: false }
            }
            (Stage::Exchanging { until, asks_new: true, .. }, Word::State(new)) if new.is_master() => {
                Stage::Settling { until, is_again: false }
            }
            (Stage::Exchanging { until, asks_new: true, .. }, Word::State(_)) => {
                Stage::Exchanging { until, asks_new: false, is_again: true }
            }
            (Stage::Exchanging { until, .. }, Word::State(old)) if now <= until && is_trying(&old) => {
                Stage::Exchanging { until, asks_new: true, is_again: true }
            }
            (Stage::Exchanging { .. }, Word::State(_)) => doubt("did not take over".to_owned()),
            (Stage::Ordering { .. } | Stage::Exchanging { .. }, word) => doubt(failure(word)),
            (Stage::Settling { .. }, Word::State(old)) if old.is_master() && !old.is_handing_over => Stage::Following,
            (Stage::Settling { .. }, Word::State(old)) if !old.is_handing_over => unpause(HandOverEnd::TakenOver),
            (Stage::Settling { until, .. }, Word::State(_)) if now <= until => {
                Stage::Settling { until, is_again: true }
            }
            (Stage::Settling { .. }, _) => unsettled("took over, and the old master does not follow it".to_owned()),
            (Stage::Doubting { reason }, Word::State(old)) => match (old.is_handing_over, old.is_master()) {
                (false, true) => Stage::Looking { reason, is_again: false },
                (false, false) => unsettled(reason),
                (true, _) => Stage::Judging { reason },
            },
            (Stage::Judging { .. }, Word::State(new)) if new.is_master() => {
                Stage::Settling { until: now + GRACE, is_again: false }
            }
            (Stage::Looking { .. }, Word::State(new)) if new.is_master() => Stage::Following,
            (Stage::Looking { reason, is_again: false }, Word::State(_)) => Stage::Looking { reason, is_again: true },
            (Stage::Looking { reason, .. }, Word::State(_)) => unpause(HandOverEnd::Restored(reason)),
            (Stage::Doubting { reason } | Stage::Judging { reason } | Stage::Looking { reason, .. }, _) => {
                unsettled(reason)
            }
            (Stage::Following, Word::Failed(error)) => {
                unsettled(format!("took over, and the old master did not: {error}"))
            }
            (Stage::Following, _) => unpause(HandOverEnd::TakenOver),
            (Stage::Unpausing { end } | Stage::Over { end }, _) => Stage::Over { end },
        };
        Self { patience, new: address, stage }
    }
}

/// The replica by the name that the master has for it; several hosts may have replicas on the same port.
fn find<'a>(old: &'a Replication, replica: &Address) -> Option<&'a AttachedReplica> {
    let by_address = old.replicas.iter().find(|one| one.address().is_same(replica));
    by_address.or_else(|| old.replicas.iter().find(|one| one.port == replica.port))
}

fn late(patience: Duration) -> String {
    format!("did not catch up within {} ms", patience.as_millis())
}

fn doubt(reason: String) -> Stage {
    Stage::Doubting { reason }
}

fn unpause(end: HandOverEnd) -> Stage {
    if planted!(UnpauseForgotten) { Stage::Over { end } } else { Stage::Unpausing { end } }
}

/// Its writes stay paused: where it came to be a master again, the other one may be one, too.
fn unsettled(reason: String) -> Stage {
    Stage::Over { end: HandOverEnd::Unsettled(reason) }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::plan::tests::{master, replica};

    fn state(is_master: bool, is_handing_over: bool, offset: u64) -> Word {
        let node = if is_master { master(1, offset) } else { replica(1, 2, offset) };
        let replication = node.report().expect("it answers").replication.clone();
        Word::State(Box::new(Replication { is_handing_over, ..replication }))
    }

    #[test]
    fn every_way_through_an_exchange_ends_as_it_must_and_lets_writes_go_on_only_where_one_takes_them() {
        let failed = || Word::Failed("no".to_owned());
        let old = |is_handing_over| state(true, is_handing_over, 5);
        let (demoted, new, taken) =
            (|tries| state(false, tries, 5), |offset| state(false, false, offset), || old(false));
        let until_pause = || vec![state(true, false, 4), new(3), new(4)];
        let paused = |words: Vec<Word>| [until_pause(), words].concat();
        let until_order = || paused(vec![Word::Done, old(false), new(3), new(5)]);
        let from_order = |words: Vec<Word>| [until_order(), words].concat();
        let cases = [
            ("all goes well", from_order(vec![Word::Done, taken(), demoted(false)]), "taken over", true),
            ("the master is gone", vec![failed()], "restored", true),
            ("no pause", paused(vec![failed()]), "restored", true),
            ("the replica is gone", paused(vec![Word::Done, old(false), failed()]), "restored", true),
            ("refused", from_order(vec![failed(), old(false), new(5), new(5)]), "restored", true),
            (
                "refused, and taken over",
                from_order(vec![failed(), old(false), taken(), Word::Done]),
                "taken over",
                true,
            ),
            ("both are silent", from_order(vec![Word::Done, failed(), failed()]), "unsettled", false),
            (
                "demoted, and the replica is silent",
                from_order(vec![failed(), demoted(true), failed()]),
                "unsettled",
                false,
            ),
            ("granted unheard", from_order(vec![Word::Done, taken(), old(false), Word::Done]), "taken over", true),
            ("the old one is lost", from_order(vec![Word::Done, taken(), failed()]), "unsettled", false),
        ];
        for (case, words, expected, lets_go) in cases {
            let mut exchange = HandOver::new(Duration::from_secs(1), crate::topology::Address::loopback(7002));
            for word in words {
                exchange = exchange.next(word, Duration::ZERO);
            }
            assert_eq!(exchange.order() == HandOverOrder::Unpause, lets_go, "{case}: {exchange:?}");
            let end = match exchange.next(Word::Done, Duration::ZERO).order() {
                HandOverOrder::Over(HandOverEnd::TakenOver) => "taken over",
                HandOverOrder::Over(HandOverEnd::Restored(_)) => "restored",
                HandOverOrder::Over(HandOverEnd::Unsettled(_)) => "unsettled",
                order => panic!("{case}: {order:?}"),
            };
            assert_eq!(end, expected, "{case}");
        }
    }

    #[test]
    fn a_replica_that_does_not_catch_up_in_time_leaves_all_as_it_was() {
        let replica = |offset| state(false, false, offset);
        let until_pause = [(state(true, false, 5), 0), (replica(5), 1)];
        let paused = [(Word::Done, 1), (state(true, false, 7), 1), (replica(6), 2), (replica(6), 3)];
        let after = |words: Vec<(Word, u64)>| {
            let begun = HandOver::new(Duration::from_secs(1), crate::topology::Address::loopback(7002));
            words.into_iter().fold(begun, |one, (word, seconds)| one.next(word, Duration::from_secs(seconds))).order()
        };
        assert_eq!(after([&until_pause[..], &paused].concat()), HandOverOrder::Unpause);
        assert_eq!(after([&until_pause[..], &paused[..3]].concat()), HandOverOrder::AskNew { is_again: true });
    }

    #[test]
    fn a_replica_that_the_master_does_not_feed_yet_is_waited_for() {
        let old = |is_online| {
            let Word::State(mut old) = state(true, false, 5) else { panic!("it is a state") };
            let Address { host, port } = Address::loopback(7002);
            old.replicas = vec![AttachedReplica { host, port, is_online, acknowledged_offset: 0 }];
            Word::State(old)
        };
        let begun = HandOver::new(Duration::from_secs(1), Address::loopback(7002)).next(old(false), Duration::ZERO);
        assert_eq!(begun.order(), HandOverOrder::AskOld { is_again: true });
        assert_eq!(begun.clone().next(old(true), Duration::ZERO).order(), HandOverOrder::AskNew { is_again: false });
        assert_eq!(begun.next(old(false), Duration::from_secs(2)).order(), HandOverOrder::Unpause);
    }

    #[test]
    fn writes_are_not_held_back_for_a_replica_that_does_not_come_near() {
        let mut exchange = HandOver::new(Duration::from_secs(1), crate::topology::Address::loopback(7002));
        for (word, seconds) in [(state(true, false, 5), 0), (state(false, false, 3), 1), (state(false, false, 3), 2)] {
            assert_ne!(exchange.order(), HandOverOrder::Pause);
            exchange = exchange.next(word, Duration::from_secs(seconds));
        }
        // One that an earlier exchange has left.
        assert_eq!(exchange.order(), HandOverOrder::Unpause);
        let HandOverOrder::Over(HandOverEnd::Restored(_)) = exchange.next(Word::Done, Duration::ZERO).order() else {
            panic!("it is over");
        };
    }
}
