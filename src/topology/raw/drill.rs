//! The `[[drill]]` tables of a topology file.

use std::time::Duration;

use toml::Spanned;

use super::{Key, Reader, Value, described};
use crate::topology::diagnostic::{Diagnostic, quoted};
use crate::topology::drill::{Expectations, Load, WishedResync, Workload};

const DRILL_KEYS: [&str; 4] = ["name", "load", "steps", "expect"];
const LOAD_KEYS: [&str; 5] = ["writers", "workload", "rate", "value-size", "wait"];
const STEP_KEYS: [&str; 2] = ["after", "do"];
const EXPECT_KEYS: [&str; 5] = ["lost", "outage", "resync", "master-count", "converged"];

/// More connections than this say nothing new about a group of this machine.
const WRITERS_MAX: i64 = 1000;
/// Requests a second of one writer.
const RATE_MAX: i64 = 1_000_000;
/// Bytes of a value.
const VALUE_BYTES_MAX: i64 = 1 << 20;
/// Bytes of a drill's name.
const NAME_BYTES_MAX: usize = 128;
/// The longest time that a drill waits or allows.
const TIME_MAX: Duration = Duration::from_secs(3600);

/// One `[[drill]]`; what its steps mean depends on the nodes.
#[derive(Debug)]
pub(in crate::topology) struct RawDrill {
    pub name: Spanned<String>,
    pub load: Load,
    /// When, after the one before, and what.
    pub steps: Vec<(Duration, Spanned<String>)>,
    pub expect: Expectations,
}

impl Reader<'_> {
    pub(super) fn drills(&mut self, value: &Value) -> Vec<RawDrill> {
        let Some(drills) = value.get_ref().as_array() else {
            let message = format!("`drill` must be an array of tables, found {}", described(value.get_ref()));
            self.error(Diagnostic::at(value.span(), message).hint("write `[[drill]]` above each drill"));
            return Vec::new();
        };
        drills.iter().filter_map(|drill| self.drill(drill)).collect()
    }

    fn drill(&mut self, value: &Value) -> Option<RawDrill> {
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_type("a drill", "a table", value);
            return None;
        };
        let (mut name, mut load, mut steps, mut expect) = (None, Load::default(), Vec::new(), Expectations::default());
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "name" => name = self.drill_name(key, value),
                "load" => load = self.load(key, value),
                "steps" => steps = self.steps(value),
                "expect" => expect = self.expectations(key, value),
                _ => self.unknown_key(key, "`[[drill]]`", &DRILL_KEYS),
            }
        }
        if !table.contains_key("name") {
            self.error(Diagnostic::at(value.span(), "this drill has no name").hint("add `name = \"kill the master\"`"));
        }
        Some(RawDrill { name: name?, load, steps, expect })
    }

    /// A word or a short sentence: it is told, and given on the command line.
    fn drill_name(&mut self, key: &Key, value: &Value) -> Option<Spanned<String>> {
        let name = self.string(key, value)?;
        let text = name.get_ref();
        let is_bad =
            text.trim() != text || text.is_empty() || text.len() > NAME_BYTES_MAX || text.contains(char::is_control);
        if is_bad {
            let message = format!("{} cannot be a drill's name", quoted(text));
            self.error(Diagnostic::at(value.span(), message).hint("a word or a sentence of at most 128 bytes"));
            return None;
        }
        Some(name)
    }

    fn load(&mut self, key: &Key, value: &Value) -> Load {
        let mut load = Load::default();
        for (key, value) in self.table(key, value).into_iter().flatten() {
            match key.get_ref().as_ref() {
                "writers" => self.set(&mut load.writers, key, value, 1..=WRITERS_MAX),
                "workload" => load.workload = self.workload(key, value).unwrap_or(load.workload),
                "rate" if value.get_ref().as_str() == Some("max") => load.rate = None,
                "rate" if value.get_ref().as_str().is_some() => {
                    self.wrong_type("`rate`", "\"max\" or a number of requests a second", value);
                }
                "rate" => load.rate = self.integer(key, value, 1..=RATE_MAX).map(Spanned::into_inner),
                "value-size" => self.set(&mut load.value_bytes, key, value, 1..=VALUE_BYTES_MAX),
                "wait" => self.set(&mut load.wait, key, value, 0..=super::NODES_MAX as i64),
                _ => self.unknown_key(key, "`load`", &LOAD_KEYS),
            }
        }
        load
    }

    fn workload(&mut self, key: &Key, value: &Value) -> Option<Workload> {
        let name = self.string(key, value)?;
        let found = Workload::ALL.into_iter().find(|(known, _)| known == name.get_ref());
        if found.is_none() {
            let message = format!("unknown workload {}", quoted(name.get_ref()));
            self.unknown_value(value, &message, &Workload::ALL.map(|(known, _)| known));
        }
        found.map(|(_, workload)| workload)
    }

    fn steps(&mut self, value: &Value) -> Vec<(Duration, Spanned<String>)> {
        let Some(steps) = value.get_ref().as_array() else {
            self.wrong_type("`steps`", "an array of tables", value);
            return Vec::new();
        };
        steps.iter().filter_map(|step| self.step(step)).collect()
    }

    fn step(&mut self, value: &Value) -> Option<(Duration, Spanned<String>)> {
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_type("a step", "a table such as `{ after = \"1s\", do = \"kill-master\" }`", value);
            return None;
        };
        let (mut after, mut act) = (Duration::ZERO, None);
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "after" => after = self.time(key, value).unwrap_or_default(),
                "do" => act = self.string(key, value),
                _ => self.unknown_key(key, "a step", &STEP_KEYS),
            }
        }
        if !table.contains_key("do") {
            self.error(Diagnostic::at(value.span(), "this step does nothing").hint("add `do = \"kill-master\"`"));
        }
        Some((after, act?))
    }

    fn expectations(&mut self, key: &Key, value: &Value) -> Expectations {
        let mut expect = Expectations::default();
        for (key, value) in self.table(key, value).into_iter().flatten() {
            match key.get_ref().as_ref() {
                "lost" => expect.lost = self.integer(key, value, 0..=i64::MAX).map(Spanned::into_inner),
                "outage" => expect.outage = self.time(key, value),
                "resync" => expect.resync = self.wished_resync(key, value),
                "master-count" => self.set(&mut expect.master_count, key, value, 0..=super::NODES_MAX as i64),
                "converged" => {
                    expect.converged = self.boolean(key, value).is_none_or(Spanned::into_inner);
                }
                _ => self.unknown_key(key, "`expect`", &EXPECT_KEYS),
            }
        }
        expect
    }

    fn wished_resync(&mut self, key: &Key, value: &Value) -> Option<WishedResync> {
        let name = self.string(key, value)?;
        match name.get_ref().as_str() {
            "partial" => Some(WishedResync::Partial),
            "full" => Some(WishedResync::Full),
            other => {
                let message = format!("unknown kind of resync {}", quoted(other));
                self.unknown_value(value, &message, &["partial", "full"]);
                None
            }
        }
    }

    /// A time such as `500ms`, of an hour at most.
    pub(super) fn time(&mut self, key: &Key, value: &Value) -> Option<Duration> {
        let text = self.string(key, value)?;
        let time = humantime::parse_duration(text.get_ref()).ok().filter(|time| *time <= TIME_MAX);
        if time.is_none() {
            let message = format!("{} is not a time of an hour at most", quoted(text.get_ref()));
            self.error(Diagnostic::at(value.span(), message).hint("a number and a unit: `500ms`, `1s`, `2m`"));
        }
        time
    }

    fn set<T: TryFrom<i64>>(&mut self, field: &mut T, key: &Key, value: &Value, range: std::ops::RangeInclusive<i64>) {
        if let Some(number) = self.integer(key, value, range) {
            *field = number.into_inner();
        }
    }
}
