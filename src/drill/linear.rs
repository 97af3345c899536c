//! Whether a register behaved as if there were one copy of it: linearizability, by the search of Wing and Gong in the form of
//! Lowe ([Testing for linearizability](https://www.cs.ox.ac.uk/people/gavin.lowe/LinearizabiltyTesting/paper.pdf), 2017).
//!
//! Operations are tried in every order that their times allow; a configuration (which of them are done, what the register
//! holds) that has been seen leads nowhere new. The search is exponential at worst, so its steps are limited.

use std::collections::HashSet;
use std::time::Duration;

/// One operation on a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// What it did.
    pub action: Action,
    /// When it was sent.
    pub invoked: Duration,
    /// When it was answered; `None`: never, so that it may have taken effect at any later time, or not at all.
    pub returned: Option<Duration>,
}

/// What an operation on a register did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It wrote this.
    Write(u64),
    /// It was answered this.
    Read(u64),
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linearizable {
    /// An order exists.
    Yes,
    /// None does.
    No,
    /// The search was given up.
    Unknown,
}

/// Configurations that are looked at before the search is given up.
const STEPS_MAX: usize = 2_000_000;

/// Whether `calls` to a register that holds `initial` can be put into an order that explains every answer.
pub fn linearizable(calls: &[Call], initial: u64) -> Linearizable {
    // What a read without an answer would have said explains nothing.
    let mut calls: Vec<_> =
        calls.iter().filter(|call| call.returned.is_some() || matches!(call.action, Action::Write(_))).collect();
    calls.sort_by_key(|call| call.invoked);
    let mut search = Search { calls, done: Vec::new(), value: initial, seen: HashSet::new() };
    search.done = vec![0; search.calls.len().div_ceil(64)];
    search.run()
}

struct Search<'a> {
    calls: Vec<&'a Call>,
    /// A bit for each call that has been put into the order.
    done: Vec<u64>,
    value: u64,
    seen: HashSet<(Vec<u64>, u64)>,
}

impl Search<'_> {
    fn run(&mut self) -> Linearizable {
        // A call, and the value before it.
        let mut path: Vec<(usize, u64)> = Vec::new();
        let mut next = 0;
        loop {
            if self.calls.iter().enumerate().all(|(index, call)| self.is_done(index) || call.returned.is_none()) {
                return Linearizable::Yes;
            }
            if self.seen.len() > STEPS_MAX {
                return Linearizable::Unknown;
            }
            match self.candidate(next) {
                Some(index) => {
                    let before = self.value;
                    self.apply(index);
                    if self.seen.insert((self.done.clone(), self.value)) {
                        path.push((index, before));
                        next = 0;
                    } else {
                        self.undo(index, before);
                        next = index + 1;
                    }
                }
                None => match path.pop() {
                    Some((index, before)) => {
                        self.undo(index, before);
                        next = index + 1;
                    }
                    None => return Linearizable::No,
                },
            }
        }
    }

    /// The first call from `from` on that may come next: nobody who is not done was answered before it was sent, and the
    /// register holds what it read.
    fn candidate(&self, from: usize) -> Option<usize> {
        let open = |index: &usize| !self.is_done(*index);
        let first_return = (0..self.calls.len()).filter(open).filter_map(|index| self.calls[index].returned).min();
        (from..self.calls.len())
            .take_while(|index| first_return.is_none_or(|returned| self.calls[*index].invoked <= returned))
            .filter(open)
            .find(|index| match self.calls[*index].action {
                Action::Write(_) => true,
                Action::Read(value) => value == self.value,
            })
    }

    fn is_done(&self, index: usize) -> bool {
        self.done[index / 64] & (1 << (index % 64)) != 0
    }

    fn apply(&mut self, index: usize) {
        self.done[index / 64] |= 1 << (index % 64);
        if let Action::Write(value) = self.calls[index].action {
            self.value = value;
        }
    }

    fn undo(&mut self, index: usize, before: u64) {
        self.done[index / 64] &= !(1 << (index % 64));
        self.value = before;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(action: Action, invoked: u64, returned: u64) -> Call {
        let returned = (returned > 0).then(|| Duration::from_millis(returned));
        Call { action, invoked: Duration::from_millis(invoked), returned }
    }

    #[test]
    fn what_happened_one_after_the_other_must_be_read_so() {
        let fresh = [call(Action::Write(1), 0, 10), call(Action::Write(2), 20, 30), call(Action::Read(2), 40, 50)];
        assert_eq!(linearizable(&fresh, 0), Linearizable::Yes);
        let stale = [call(Action::Write(1), 0, 10), call(Action::Write(2), 20, 30), call(Action::Read(1), 40, 50)];
        assert_eq!(linearizable(&stale, 0), Linearizable::No);
        let lost = [call(Action::Write(1), 0, 10), call(Action::Read(0), 20, 30)];
        assert_eq!(linearizable(&lost, 0), Linearizable::No);
    }

    #[test]
    fn what_happened_at_once_may_have_any_order_but_one_for_all() {
        let overlapping =
            [call(Action::Write(1), 0, 50), call(Action::Write(2), 10, 40), call(Action::Read(1), 60, 70)];
        assert_eq!(linearizable(&overlapping, 0), Linearizable::Yes);
        let back_and_forth = [
            call(Action::Write(1), 0, 50),
            call(Action::Write(2), 10, 40),
            call(Action::Read(1), 60, 70),
            call(Action::Read(2), 80, 90),
        ];
        assert_eq!(linearizable(&back_and_forth, 0), Linearizable::No);
    }

    #[test]
    fn what_was_never_answered_may_happen_late_or_never_but_not_twice() {
        let late = [
            call(Action::Write(1), 0, 0),
            call(Action::Write(2), 10, 20),
            call(Action::Read(2), 30, 40),
            call(Action::Read(1), 50, 60),
        ];
        assert_eq!(linearizable(&late, 0), Linearizable::Yes);
        assert_eq!(linearizable(&late[..3], 0), Linearizable::Yes);
        let twice = [&late[..], &[call(Action::Write(3), 70, 80), call(Action::Read(1), 90, 95)]].concat();
        assert_eq!(linearizable(&twice, 0), Linearizable::No);
    }

    #[test]
    fn long_histories_of_a_correct_register_are_decided() {
        let mut calls = Vec::new();
        for step in 0..250_u64 {
            // Four at once, of which the last one in time wins.
            for lane in 0..3 {
                calls.push(call(Action::Write(step * 4 + lane + 1), step * 10, step * 10 + 3 + lane));
            }
            calls.push(call(Action::Read(step * 4 + 1), step * 10 + 6, step * 10 + 9));
        }
        assert_eq!(linearizable(&calls, 0), Linearizable::Yes);
        calls.last_mut().expect("there are calls").action = Action::Read(77);
        assert_eq!(linearizable(&calls, 0), Linearizable::No);
    }
}
