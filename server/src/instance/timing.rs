//! How long commands take, at the price of one look at the clock for each turn.
//!
//! A turn begins and ends with the time. What lies between is divided among its commands: the clock is read where one
//! command gives way to another, so that a run of the same command (the rule in a pipeline) costs nothing more, and is
//! divided evenly. Commands that may take long are timed one by one, and so are all of them while somebody wants to know
//! of delays that are shorter than a run.

use std::rc::Rc;

use super::Instance;
use crate::client::Client;
use crate::command::Command;

/// Below this, in microseconds, even quick commands are timed one by one to find slow ones.
const RUN_US: i64 = 1_000;

/// Each octave is divided into so many buckets.
const PARTS: u64 = 8;

/// How long so many calls of a command took: buckets that are at most an eighth wider than the times they stand for.
#[derive(Debug, Clone, Default)]
pub struct Histogram {
    buckets: Vec<u64>,
}

impl Histogram {
    /// Notes calls that took so many nanoseconds each.
    pub fn record(&mut self, each_ns: u64, calls: u64) {
        let index = Self::index(each_ns);
        if self.buckets.len() <= index {
            self.buckets.resize(index + 1, 0);
        }
        self.buckets[index] += calls;
    }

    fn index(ns: u64) -> usize {
        let octave = (ns | (2 * PARTS - 1)).ilog2() - PARTS.ilog2();
        (u64::from(octave) * PARTS + (ns >> octave)) as usize
    }

    /// The longest time that the bucket stands for, in nanoseconds.
    fn end_ns(index: usize) -> u64 {
        let index = index as u64;
        let octave = (index / PARTS).saturating_sub(1);
        ((index - octave * PARTS + 1) << octave) - 1
    }

    /// How many calls were noted.
    pub fn calls(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// So many per cent of the calls took no longer, in nanoseconds.
    pub fn percentile_ns(&self, percent: f64) -> u64 {
        let wanted = ((self.calls() as f64 * percent / 100.0).ceil() as u64).max(1);
        let mut seen = 0;
        let found = self.buckets.iter().position(|calls| {
            seen += calls;
            seen >= wanted
        });
        found.map_or(0, Self::end_ns)
    }

    /// For powers of two in microseconds, how many calls took no longer: from the first that some did to the one that all
    /// did.
    pub fn powers_of_two(&self) -> Vec<(u64, u64)> {
        let all = self.calls();
        let mut steps = Vec::new();
        for power in 0..=30 {
            let limit_ns = 1024_u64 << power;
            let calls = self.buckets.iter().enumerate().filter(|(index, _)| Self::end_ns(*index) <= limit_ns);
            let calls: u64 = calls.map(|(_, calls)| calls).sum();
            if calls > 0 {
                steps.push((1 << power, calls));
            }
            if calls == all {
                break;
            }
        }
        steps
    }
}

/// Where a turn's time goes.
pub struct Timing {
    /// Microseconds since the epoch. Standing still until the shell sets it.
    clock: fn() -> i64,
    /// The clock, when it was last read.
    at_us: i64,
    /// Commands that were run since.
    run: Option<(&'static Command, u64)>,
    /// Every command is timed by itself.
    one_by_one: bool,
}

impl Default for Timing {
    fn default() -> Self {
        Timing { clock: || 0, at_us: 0, run: None, one_by_one: false }
    }
}

impl Instance {
    /// Lets commands be timed by a clock, in microseconds since the epoch.
    pub fn set_clock(&mut self, clock: fn() -> i64) {
        self.timing.clock = clock;
        self.choose_timing();
    }

    /// How closely commands are timed follows from what is to be found.
    pub fn choose_timing(&mut self) {
        let config = &self.config;
        let slow = (0..RUN_US).contains(&config.slowlog_log_slower_than);
        self.timing.one_by_one = slow || config.latency_monitor_threshold > 0;
    }

    /// Requests are going to be run.
    pub fn begin_turn(&mut self) {
        self.timing.at_us = (self.timing.clock)();
        self.set_now(self.timing.at_us / 1000);
    }

    /// They were.
    pub fn end_turn(&mut self) {
        if self.timing.run.is_some() {
            self.end_run();
        }
    }

    /// Whether every command is timed by itself.
    pub(crate) fn times_each(&self) -> bool {
        self.timing.one_by_one
    }

    /// Whether the command is one of a run, which this notes; else it is timed by itself.
    #[inline]
    pub(crate) fn joins_run(&mut self, command: &'static Command) -> bool {
        if self.timing.one_by_one || !command.is_quick() {
            return false;
        }
        match &mut self.timing.run {
            Some((run, calls)) if std::ptr::eq(*run, command) => *calls += 1,
            _ => self.begin_run(command),
        }
        true
    }

    #[inline(never)]
    fn begin_run(&mut self, command: &'static Command) {
        if self.timing.run.is_some() {
            self.end_run();
        }
        self.timing.run = Some((command, 1));
    }

    /// Notes the calls and the time of what was run last, and returns the present time, in microseconds.
    pub(crate) fn end_run(&mut self) -> i64 {
        let since_us = std::mem::replace(&mut self.timing.at_us, (self.timing.clock)());
        if let Some((command, calls)) = self.timing.run.take() {
            let took_us = (self.timing.at_us - since_us).max(0) as u64;
            self.stats.commands.of(command).calls += calls;
            self.note_time(command, took_us, calls);
        }
        self.timing.at_us
    }

    fn note_time(&mut self, command: &'static Command, took_us: u64, calls: u64) {
        let tracked = self.config.latency_tracking;
        let count = self.stats.commands.of(command);
        count.us += took_us;
        if tracked {
            count.histogram.record(took_us * 1000 / calls, calls);
        }
    }

    /// A command that began at a time has ended, and may have been slow.
    pub(crate) fn end_command(
        &mut self,
        client: &Rc<Client>,
        command: &'static Command,
        begun_us: i64,
        arguments: impl FnOnce() -> Vec<Vec<u8>>,
    ) {
        let took_us = (self.end_run() - begun_us).max(0);
        self.note_time(command, took_us as u64, 1);
        let event = if command.is_fast() { "fast-command" } else { "command" };
        self.note_delay(event, took_us / 1000);
        let limit_us = self.config.slowlog_log_slower_than;
        if limit_us >= 0 && took_us >= limit_us && command.is_logged_if_slow() {
            let most = self.config.slowlog_max_len;
            self.slowlog.add(self.now_ms / 1000, took_us, &arguments(), client, most);
        }
    }

    /// Something has taken so long, in milliseconds.
    pub(crate) fn note_delay(&mut self, event: &'static str, took_ms: i64) {
        let threshold_ms = self.config.latency_monitor_threshold;
        if threshold_ms > 0 && took_ms as u64 >= threshold_ms {
            self.delays.add(event, self.now_ms / 1000, took_ms as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_lies_in_a_bucket_that_is_not_much_wider() {
        for ns in (0..2_000).chain([1 << 20, (1 << 20) + 1, (1 << 40) - 1, 1 << 40, u64::MAX >> 1]) {
            let end = Histogram::end_ns(Histogram::index(ns));
            assert!(end >= ns && end - ns <= ns / 8, "{ns} is told as {end}");
        }
    }

    #[test]
    fn percentiles_are_those_of_the_calls() {
        let mut histogram = Histogram::default();
        histogram.record(1_000, 98);
        histogram.record(50_000_000, 2);
        assert!((1_000..1_100).contains(&histogram.percentile_ns(50.0)));
        assert!((50_000_000..56_000_000).contains(&histogram.percentile_ns(99.0)));
        assert_eq!(histogram.powers_of_two().first(), Some(&(1, 98)));
        assert_eq!(histogram.powers_of_two().last(), Some(&(65_536, 100)));
    }
}
