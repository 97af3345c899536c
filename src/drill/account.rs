//! The account of a drill's writes: what was asked for, against what is there afterwards. Pure, so that it can be tried on
//! histories with planted faults.
//!
//! Every write is in one column exactly: `issued = survived + lost + refused + ambiguous survived + ambiguous gone`. What
//! cannot be explained by a loss is an anomaly: something twice, something refused that is there (resurrected), something
//! nobody wrote, an order that nobody wrote it in, and a hole: asynchronous replication loses the end of what a master
//! took, so where a later write of the same session is there, an earlier one must be.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde::Serialize;

use super::history::{History, Operation, Outcome, Request};

/// What became of all writes.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Account {
    /// Writes that were sent.
    pub issued: u64,
    /// Acknowledged, and there.
    pub survived: u64,
    /// Acknowledged, and gone.
    pub lost: u64,
    /// Refused; what is there of them all the same counts as resurrected as well.
    pub refused: u64,
    /// Not answered, and there.
    pub ambiguous_survived: u64,
    /// Not answered, and not there.
    pub ambiguous_gone: u64,
    /// Found more often than written.
    pub duplicated: u64,
    /// Refused, and there.
    pub resurrected: u64,
    /// There, and never written.
    pub unknown: u64,
    /// In another order than one session wrote them.
    pub out_of_order: u64,
    /// Gone, though later ones of their session are there.
    pub holes: u64,
    /// The first that was lost.
    pub first_lost: Option<Evidence>,
    /// The first anomaly, in words.
    pub first_anomaly: Option<String>,
}

/// A write that was acknowledged and is gone.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evidence {
    /// Its key, or its list and value.
    pub what: String,
    /// Who wrote it.
    pub writer: u32,
    /// The node that acknowledged it.
    pub node: String,
    /// When it was sent, in microseconds since the beginning.
    pub invoked_us: u64,
    /// When it was acknowledged, in microseconds since the beginning.
    pub acknowledged_us: u64,
}

impl Account {
    /// Whether something is wrong beyond a loss.
    pub fn has_anomaly(&self) -> bool {
        self.duplicated + self.resurrected + self.unknown + self.out_of_order + self.holes > 0
    }

    fn anomaly(&mut self, text: impl FnOnce() -> String) {
        self.first_anomaly.get_or_insert_with(text);
    }

    /// Enters one write, of which `count` copies were found.
    fn enter(&mut self, history: &History, operation: &Operation, count: u64) {
        self.issued += 1;
        match (operation.outcome, count > 0) {
            (Outcome::Acknowledged { .. }, true) => self.survived += 1,
            (Outcome::Acknowledged { at, .. }, false) => {
                self.lost += 1;
                let evidence = Evidence::of(history, operation, at);
                if self.first_lost.as_ref().is_none_or(|first| evidence.invoked_us < first.invoked_us) {
                    self.first_lost = Some(evidence);
                }
            }
            (Outcome::Ambiguous, true) => self.ambiguous_survived += 1,
            (Outcome::Ambiguous, false) => self.ambiguous_gone += 1,
            (Outcome::Refused { .. }, _) => self.refused += 1,
        }
        if matches!(operation.outcome, Outcome::Refused { .. }) && count > 0 {
            self.resurrected += 1;
            self.anomaly(|| format!("{} was refused, and is there", operation.request.what()));
        }
        if count > 1 {
            self.duplicated += count - 1;
            self.anomaly(|| format!("{} is there {count} times", operation.request.what()));
        }
    }
}

impl Evidence {
    fn of(history: &History, operation: &Operation, acknowledged: Duration) -> Evidence {
        Evidence {
            what: operation.request.what(),
            writer: operation.writer,
            node: history.sessions.get(operation.session as usize).cloned().unwrap_or_default(),
            invoked_us: operation.invoked.as_micros() as u64,
            acknowledged_us: acknowledged.as_micros() as u64,
        }
    }
}

impl Request {
    /// The key, as the writers name it.
    pub fn key(&self) -> String {
        match self {
            Request::Set { number } => format!("drill:set:{number}"),
            Request::Push { list, .. } => format!("drill:list:{list}"),
            Request::Increment { counter } => format!("drill:counter:{counter}"),
            Request::Write { register, .. } | Request::Read { register } => format!("drill:register:{register}"),
            Request::Mixed { number } => format!("request {number}"),
        }
    }

    fn what(&self) -> String {
        match self {
            Request::Push { number, .. } => format!("{number} in {}", self.key()),
            _ => self.key(),
        }
    }
}

/// The account of `SET`s of unique keys, of which those in `found` are there afterwards.
pub fn of_keys(history: &History, found: &HashSet<u64>) -> Account {
    let mut account = Account::default();
    let mut issued = HashSet::new();
    for operation in &history.operations {
        let Request::Set { number } = operation.request else { continue };
        issued.insert(number);
        account.enter(history, operation, found.contains(&number).into());
    }
    count_unknown(&mut account, found.iter().filter(|number| !issued.contains(number)), |number| {
        Request::Set { number }.what()
    });
    count_holes(&mut account, history, |request| matches!(request, Request::Set { number } if found.contains(number)));
    account
}

/// The account of numbers pushed onto lists, whose contents afterwards are `found`, by the lists' numbers.
pub fn of_lists(history: &History, found: &[Vec<u64>]) -> Account {
    let mut account = Account::default();
    let mut counts: HashMap<u64, u64> = HashMap::new();
    found.iter().flatten().for_each(|number| *counts.entry(*number).or_default() += 1);
    let mut order = HashMap::new();
    for (index, operation) in history.operations.iter().enumerate() {
        let Request::Push { number, .. } = operation.request else { continue };
        order.insert(number, (operation.session, index));
        account.enter(history, operation, counts.get(&number).copied().unwrap_or(0));
    }
    let unknown = counts.keys().filter(|number| !order.contains_key(number));
    count_unknown(&mut account, unknown, |number| format!("the number {number}"));
    for (list, numbers) in found.iter().enumerate() {
        count_disorder(&mut account, list, numbers, &order);
    }
    count_holes(
        &mut account,
        history,
        |request| matches!(request, Request::Push { number, .. } if counts.contains_key(number)),
    );
    account
}

/// The account of increments, by the counters' values afterwards. Increments have no names: which of them are gone cannot be
/// known, only how many at least. The same value acknowledged twice is a loss of one that a later increment has hidden.
pub fn of_counters(history: &History, found: &[u64]) -> Account {
    let mut account = Account::default();
    for (counter, value) in found.iter().copied().enumerate() {
        let mine = |request: &Request| matches!(request, Request::Increment { counter: of } if *of as usize == counter);
        let (mut acknowledged, mut ambiguous, mut refused, mut repeated) = (0_u64, 0, 0, 0_u64);
        let mut answers = HashSet::new();
        for operation in history.operations.iter().filter(|operation| mine(&operation.request)) {
            match operation.outcome {
                Outcome::Acknowledged { answer, .. } => {
                    acknowledged += 1;
                    repeated += u64::from(!answers.insert(answer));
                }
                Outcome::Ambiguous => ambiguous += 1,
                Outcome::Refused { .. } => refused += 1,
            }
        }
        let lost = acknowledged.saturating_sub(value).max(repeated).min(acknowledged);
        let survived = acknowledged - lost;
        let beyond = value.saturating_sub(survived);
        account.issued += acknowledged + ambiguous + refused;
        account.survived += survived;
        account.lost += lost;
        account.refused += refused;
        account.ambiguous_survived += beyond.min(ambiguous);
        account.ambiguous_gone += ambiguous - beyond.min(ambiguous);
        if beyond > ambiguous {
            account.duplicated += beyond - ambiguous;
            account.anomaly(|| format!("counter {counter} is {value}, after {} increments", acknowledged + ambiguous));
        }
    }
    account
}

fn count_unknown<'a>(account: &mut Account, numbers: impl Iterator<Item = &'a u64>, what: impl Fn(u64) -> String) {
    for number in numbers {
        account.unknown += 1;
        account.anomaly(|| format!("{} is there, and nobody wrote it", what(*number)));
    }
}

/// Within a session, numbers must come in the order in which they were sent.
fn count_disorder(account: &mut Account, list: usize, numbers: &[u64], order: &HashMap<u64, (u32, usize)>) {
    let mut last: HashMap<u32, (usize, u64)> = HashMap::new();
    for number in numbers {
        let Some(&(session, index)) = order.get(number) else { continue };
        match last.get(&session) {
            Some((before, other)) if *before > index => {
                account.out_of_order += 1;
                account.anomaly(|| format!("list {list} has {other} before {number}, which was pushed first"));
            }
            // Twice the same is a duplicate and has been counted.
            _ => {
                last.insert(session, (index, *number));
            }
        }
    }
}

/// Acknowledged and gone, though a later one of the same session is there.
fn count_holes(account: &mut Account, history: &History, is_found: impl Fn(&Request) -> bool) {
    let mut with_later: HashSet<u32> = HashSet::new();
    for operation in history.operations.iter().rev() {
        if is_found(&operation.request) {
            with_later.insert(operation.session);
        } else if operation.outcome.is_acknowledged() && with_later.contains(&operation.session) {
            account.holes += 1;
            account
                .anomaly(|| format!("{} is gone, and a later write of its session is not", operation.request.what()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two sessions of 100 writes each, interleaved; every tenth is ambiguous, every tenth refused.
    fn history(request: impl Fn(u64) -> Request) -> History {
        let operations = (0..200_u64).map(|number| {
            let at = Duration::from_millis(number * 2 + 1);
            Operation {
                writer: (number % 2) as u32,
                session: (number % 2) as u32,
                request: request(number),
                invoked: Duration::from_millis(number * 2),
                outcome: match number / 2 % 10 {
                    3 => Outcome::Ambiguous,
                    7 => Outcome::Refused { at },
                    _ => Outcome::Acknowledged { at, answer: 0 },
                },
            }
        });
        History { operations: operations.collect(), sessions: vec!["n1".into(), "n2".into()] }
    }

    fn keys() -> (History, HashSet<u64>) {
        let history = history(|number| Request::Set { number });
        let found = (0..200).filter(|number| acknowledged(&history, *number)).collect();
        (history, found)
    }

    fn lists() -> (History, Vec<Vec<u64>>) {
        let history = history(|number| Request::Push { list: (number % 3) as u32, number });
        let of = |list| (0..200).filter(|number| number % 3 == list && acknowledged(&history, *number)).collect();
        let found = (0..3).map(of).collect();
        (history, found)
    }

    fn acknowledged(history: &History, number: u64) -> bool {
        history.operations[number as usize].outcome.is_acknowledged()
    }

    fn adds_up(account: &Account) {
        let columns =
            account.survived + account.lost + account.refused + account.ambiguous_survived + account.ambiguous_gone;
        assert_eq!(account.issued, columns, "{account:?}");
    }

    #[test]
    fn a_clean_history_has_nothing_lost_and_no_anomaly() {
        let (history, found) = keys();
        let account = of_keys(&history, &found);
        adds_up(&account);
        assert_eq!((account.survived, account.refused, account.ambiguous_gone), (160, 20, 20));
        assert!(account.lost == 0 && !account.has_anomaly(), "{account:?}");
        let (history, found) = lists();
        let account = of_lists(&history, &found);
        adds_up(&account);
        assert!(account.survived == 160 && account.lost == 0 && !account.has_anomaly(), "{account:?}");
    }

    #[test]
    fn an_ambiguous_write_may_be_there_or_not() {
        let (history, mut found) = keys();
        found.insert(6);
        let account = of_keys(&history, &found);
        adds_up(&account);
        assert_eq!((account.ambiguous_survived, account.ambiguous_gone), (1, 19));
        assert!(!account.has_anomaly(), "{account:?}");
    }

    #[test]
    fn a_lost_end_is_a_loss_and_no_hole_and_the_first_is_named() {
        let (history, mut found) = keys();
        found.retain(|number| *number < 180);
        let account = of_keys(&history, &found);
        adds_up(&account);
        assert_eq!((account.lost, account.holes), (16, 0));
        let first = account.first_lost.expect("something was lost");
        assert_eq!((first.what.as_str(), first.writer, first.node.as_str()), ("drill:set:180", 0, "n1"));
        assert_eq!((first.invoked_us, first.acknowledged_us), (360_000, 361_000));
    }

    #[test]
    fn a_planted_anomaly_is_caught_whatever_its_kind() {
        type Plant = fn(&mut Vec<Vec<u64>>);
        type Column = fn(&Account) -> u64;
        let planted: [(&str, Plant, Column); 5] = [
            ("hole", |lists| lists[0].retain(|number| *number != 30), |account| account.holes),
            ("duplicate", |lists| lists[1].push(100), |account| account.duplicated),
            ("resurrected", |lists| lists[2].insert(3, 14), |account| account.resurrected),
            ("unknown", |lists| lists[0].push(1_000), |account| account.unknown),
            ("disorder", |lists| lists[1].swap(10, 20), |account| account.out_of_order),
        ];
        for (name, plant, column) in planted {
            let (history, mut found) = lists();
            plant(&mut found);
            let account = of_lists(&history, &found);
            adds_up(&account);
            assert!(column(&account) > 0 && account.first_anomaly.is_some(), "{name}: {account:?}");
        }
        type PlantKeys = fn(&mut HashSet<u64>);
        let plants: [(&str, PlantKeys, Column); 3] = [
            ("hole", |found| assert!(found.remove(&4)), |account| account.holes),
            ("resurrected", |found| assert!(found.insert(14)), |account| account.resurrected),
            ("unknown", |found| assert!(found.insert(777)), |account| account.unknown),
        ];
        for (name, plant, column) in plants {
            let (history, mut found) = keys();
            plant(&mut found);
            let account = of_keys(&history, &found);
            adds_up(&account);
            assert!(column(&account) > 0 && account.first_anomaly.is_some(), "{name}: {account:?}");
        }
    }

    /// 100 increments of one counter, answered 1 to 100.
    fn counted() -> History {
        let mut history = history(|_| Request::Increment { counter: 0 });
        history.operations.truncate(100);
        for (index, operation) in history.operations.iter_mut().enumerate() {
            operation.outcome = Outcome::Acknowledged { at: operation.invoked, answer: index as u64 + 1 };
        }
        history
    }

    #[test]
    fn increments_that_are_gone_are_counted_also_where_later_ones_hide_them() {
        let mut history = counted();
        assert!(matches!(of_counters(&history, &[100]), Account { survived: 100, lost: 0, .. }));
        assert!(matches!(of_counters(&history, &[90]), Account { survived: 90, lost: 10, .. }));
        // A failover took the counter back from 100 to 90, and ten more were counted.
        for step in 0..10 {
            let mut again = history.operations[step];
            again.outcome = Outcome::Acknowledged { at: again.invoked, answer: 91 + step as u64 };
            history.operations.push(again);
        }
        let account = of_counters(&history, &[100]);
        adds_up(&account);
        assert_eq!((account.issued, account.survived, account.lost), (110, 100, 10));
    }

    #[test]
    fn an_increment_that_counts_twice_is_caught_unless_an_ambiguous_one_explains_it() {
        let mut history = counted();
        let account = of_counters(&history, &[101]);
        assert!(account.duplicated == 1 && account.has_anomaly(), "{account:?}");
        let mut ambiguous = history.operations[0];
        ambiguous.outcome = Outcome::Ambiguous;
        history.operations.push(ambiguous);
        let account = of_counters(&history, &[101]);
        adds_up(&account);
        assert!(account.ambiguous_survived == 1 && !account.has_anomaly(), "{account:?}");
    }
}
