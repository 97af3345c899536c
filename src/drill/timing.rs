//! How a history went in time: for how long nobody was answered, and how long answers took. Pure.

use std::time::Duration;

use serde::Serialize;

use super::history::{History, Operation, Outcome};

/// A part of a drill, from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// When it began.
    pub from: Duration,
    /// When it ended.
    pub to: Duration,
}

/// The longest time without an answer, from a given moment on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Outage {
    /// Between two acknowledgements of any writers, in microseconds.
    pub overall_us: u64,
    /// Between two acknowledgements of the writer that waited longest, in microseconds.
    pub worst_writer_us: u64,
    /// Since when nobody was answered, in microseconds since the beginning.
    pub from_us: u64,
    /// Whether there was an acknowledgement after it.
    pub has_ended: bool,
}

/// How long acknowledged requests took, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Latency {
    /// How many there were.
    pub count: usize,
    /// Half of them took no longer.
    pub p50_us: u64,
    /// 99 % took no longer.
    pub p99_us: u64,
    /// 99.9 % took no longer.
    pub p999_us: u64,
    /// The longest.
    pub max_us: u64,
}

/// Latencies before anything happened, while it did, and afterwards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Latencies {
    /// Answered before the first step.
    pub before: Latency,
    /// Between.
    pub during: Latency,
    /// Asked after the last step.
    pub after: Latency,
}

impl Outage {
    /// The longest one that goes on at `since` or begins later, up to the load's end.
    pub fn of(history: &History, writers: u32, since: Duration, end: Duration) -> Self {
        let (overall, has_ended) = longest_gap(answers(history, |_| true), since, end);
        let of_writer = |writer| longest_gap(answers(history, |of| of.writer == writer), since, end).0;
        let worst = (0..writers).map(of_writer).max_by_key(Span::length).unwrap_or(overall);
        Self {
            overall_us: micros(overall.length()),
            worst_writer_us: micros(worst.length()),
            from_us: micros(overall.from),
            has_ended,
        }
    }
}

impl Span {
    /// How long it is.
    pub fn length(&self) -> Duration {
        self.to.saturating_sub(self.from)
    }

    /// Whether what happened in this span met a writer: a request was on its way at some moment of it, or a connection from before
    /// was of no more use at the next request. (A writer that pauses learns only then that the master is gone.)
    pub fn has_met_load(&self, history: &History) -> bool {
        self.has_request(history) || self.has_broken_connection(history)
    }

    fn has_broken_connection(&self, history: &History) -> bool {
        let is_after = |operation: &&Operation| operation.invoked > self.to;
        let broken = history.operations.iter().filter(is_after).filter(|after| !after.outcome.is_acknowledged());
        let is_from_before = |session| {
            let mut of_session = history.operations.iter().filter(|operation| operation.session == session);
            let next = of_session.clone().filter(is_after).count();
            next == 1 && of_session.any(|operation| operation.invoked < self.from)
        };
        broken.map(|operation| operation.session).any(is_from_before)
    }

    fn has_request(&self, history: &History) -> bool {
        history.operations.iter().any(|operation| {
            let is_open_at_its_begin = match operation.outcome {
                Outcome::Acknowledged { at, .. } | Outcome::Refused { at } => at >= self.from,
                // When it was given up is not known; what was sent before it and broke, broke for another reason.
                Outcome::Ambiguous => operation.invoked + GIVEN_UP_AFTER >= self.from,
            };
            is_open_at_its_begin && operation.invoked <= self.to
        })
    }
}

/// A request that nobody answers is given up by then.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(1);

/// The times of acknowledgements, in order.
fn answers(history: &History, is_meant: impl Fn(&Operation) -> bool) -> Vec<Duration> {
    let acknowledged = |operation: &Operation| match operation.outcome {
        Outcome::Acknowledged { at, .. } => Some(at),
        _ => None,
    };
    let mut times: Vec<Duration> =
        history.operations.iter().filter(|operation| is_meant(operation)).filter_map(acknowledged).collect();
    times.sort_unstable();
    times
}

/// The longest time between two of `times` that is not over at `since`, and whether one of them ends it.
fn longest_gap(times: Vec<Duration>, since: Duration, end: Duration) -> (Span, bool) {
    let first = times.partition_point(|time| *time <= since).saturating_sub(1);
    let marks: Vec<Duration> = times[first.min(times.len())..].iter().copied().chain([end.max(since)]).collect();
    let gaps = marks.windows(2).enumerate().map(|(index, pair)| (Span { from: pair[0], to: pair[1] }, index));
    match gaps.max_by_key(|(gap, _)| gap.length()) {
        Some((gap, index)) => (gap, index + 2 < marks.len()),
        None => (Span { from: since, to: end }, false),
    }
}

impl Latencies {
    /// What was acknowledged before, during and after the time of the steps.
    pub fn of(history: &History, steps: Span) -> Self {
        let (mut before, mut during, mut after) = (Vec::new(), Vec::new(), Vec::new());
        for operation in &history.operations {
            let Outcome::Acknowledged { at, .. } = operation.outcome else { continue };
            let phase = match operation.invoked {
                _ if at < steps.from => &mut before,
                invoked if invoked >= steps.to => &mut after,
                _ => &mut during,
            };
            phase.push(micros(at.saturating_sub(operation.invoked)));
        }
        Self { before: Latency::of(before), during: Latency::of(during), after: Latency::of(after) }
    }
}

impl Latency {
    fn of(mut times: Vec<u64>) -> Self {
        times.sort_unstable();
        let at = |per_mille: usize| match times.len() {
            0 => 0,
            count => times[(count * per_mille).div_ceil(1000).clamp(1, count) - 1],
        };
        Self { count: times.len(), p50_us: at(500), p99_us: at(990), p999_us: at(999), max_us: at(1000) }
    }
}

/// Microseconds, as far as they can be counted.
pub fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::history::Request;
    use super::*;

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// Two writers, each with a request every 10 ms that takes one; none is answered from 100 to 300 ms.
    fn history() -> History {
        let operations = (0..50_u64).flat_map(|step| (0..2).map(move |writer| (step, writer))).map(|(step, writer)| {
            let invoked = ms(step * 10 + u64::from(writer));
            let is_answered = !(100..300).contains(&(step * 10));
            let at = invoked + ms(1);
            let outcome = if is_answered { Outcome::Acknowledged { at, answer: 0 } } else { Outcome::Refused { at } };
            Operation { writer, session: writer, request: Request::Set { number: step }, invoked, outcome }
        });
        History { operations: operations.collect(), sessions: vec!["n1".to_owned(); 2] }
    }

    #[test]
    fn an_outage_is_from_the_last_acknowledgement_to_the_next() {
        let outage = Outage::of(&history(), 2, ms(105), ms(500));
        // The second writer's answer at 92 ms was the last, the first one's at 301 ms the next.
        assert_eq!((outage.overall_us, outage.worst_writer_us), (209_000, 210_000));
        assert!(outage.from_us == 92_000 && outage.has_ended);
    }

    #[test]
    fn what_was_over_before_counts_for_nothing_and_what_does_not_end_is_no_short_outage() {
        assert_eq!(Outage::of(&history(), 2, ms(310), ms(500)).overall_us, 9_000);
        let outage = Outage::of(&history(), 2, ms(310), ms(2_000));
        assert!(outage.overall_us > 1_500_000 && !outage.has_ended, "{outage:?}");
        let silent = Outage::of(&History::default(), 2, ms(100), ms(400));
        assert!(silent.overall_us == 300_000 && !silent.has_ended, "{silent:?}");
    }

    #[test]
    fn a_fault_between_two_requests_of_an_idle_load_meets_none() {
        let history = history();
        assert!(Span { from: ms(320), to: ms(321) }.has_met_load(&history));
        assert!(!Span { from: ms(325), to: ms(328) }.has_met_load(&history));
        assert!(!Span { from: ms(600), to: ms(700) }.has_met_load(&history));
    }

    /// One request before it and one after it, both on one connection.
    #[test]
    fn a_fault_that_breaks_the_connection_of_a_writer_that_pauses_has_met_it() {
        let fault = Span { from: ms(125), to: ms(128) };
        let request = |invoked, session, outcome| Operation {
            writer: 0,
            session,
            request: Request::Set { number: session.into() },
            invoked,
            outcome,
        };
        let acknowledged = |at| Outcome::Acknowledged { at, answer: 0 };
        let met = |second: Operation, third: Operation| {
            let operations = vec![request(ms(120), 0, acknowledged(ms(121))), second, third];
            fault.has_met_load(&History { operations, sessions: vec!["n1".to_owned(), "n2".to_owned()] })
        };
        let later = request(ms(140), 1, acknowledged(ms(141)));
        assert!(met(request(ms(130), 0, Outcome::Ambiguous), later));
        assert!(met(request(ms(130), 0, Outcome::Refused { at: ms(131) }), later));
        assert!(!met(request(ms(130), 0, acknowledged(ms(131))), later));
        // It broke when the fault had done no harm to it.
        assert!(!met(request(ms(130), 0, acknowledged(ms(131))), request(ms(140), 0, Outcome::Ambiguous)));
        assert!(!met(request(ms(130), 1, acknowledged(ms(131))), request(ms(140), 1, Outcome::Ambiguous)));
    }

    #[test]
    fn percentiles_are_of_the_requests_of_their_phase() {
        let mut history = history();
        history.operations.retain(|operation| operation.outcome.is_acknowledged());
        let slow = history.operations.iter_mut().find(|operation| operation.invoked == ms(90)).expect("it is there");
        slow.outcome = Outcome::Acknowledged { at: ms(290), answer: 0 };
        let latencies = Latencies::of(&history, Span { from: ms(100), to: ms(300) });
        assert_eq!((latencies.before.count, latencies.during.count, latencies.after.count), (19, 1, 40));
        assert_eq!(
            (latencies.before.max_us, latencies.during.p50_us, latencies.after.p999_us),
            (1_000, 200_000, 1_000)
        );
        let spread = Latency::of((1..=1000).collect());
        assert_eq!((spread.p50_us, spread.p99_us, spread.p999_us, spread.max_us), (500, 990, 999, 1000));
    }
}
