//! A drill's history as EDN, one operation a line, as [Jepsen](https://github.com/jepsen-io/jepsen) writes its own: for its
//! checkers `set` and `counter`, for Elle's list-append, and for Knossos' registers.
//!
//! ```text
//! {:index 0, :type :invoke, :process 3, :f :add, :value 17, :time 1250000}
//! {:index 1, :type :ok, :process 3, :f :add, :value 17, :time 1410000}
//! ```
//!
//! A process is one connection: after an `:info` it is used no more, as Jepsen wants it. Times are nanoseconds. Of several
//! keys each operation's value is `[key value]`, as of `jepsen.independent`.

use std::time::Duration;

use replctl::drill::Rehearsal;
use replctl::drill::contents::Contents;
use replctl::drill::history::{Operation, Outcome, Request};
use replctl::topology::Workload;

/// A request that nobody answered was given up about so long after it was sent.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(1);

/// One line of the history, without its number.
struct Line {
    at: Duration,
    kind: &'static str,
    process: usize,
    function: &'static str,
    value: String,
}

/// The whole history: what the writers did, and one read of all at the end.
pub fn history(rehearsal: &Rehearsal) -> String {
    let mut lines: Vec<Line> = rehearsal.history.operations.iter().flat_map(of_operation).collect();
    // The order within a process stays.
    lines.sort_by_key(|line| line.at);
    let end = lines.last().map_or(Duration::ZERO, |line| line.at);
    let process = rehearsal.history.sessions.len();
    if let Some(held) = &rehearsal.held {
        for (function, asked, read) in last_reads(rehearsal.report.findings.load.workload, held) {
            for (kind, value) in [("invoke", asked), ("ok", read)] {
                lines.push(Line { at: end, kind, process, function, value });
            }
        }
    }
    let line = |(index, line): (usize, &Line)| {
        let Line { at, kind, process, function, value } = line;
        let time = at.as_nanos();
        format!("{{:index {index}, :type :{kind}, :process {process}, :f :{function}, :value {value}, :time {time}}}\n")
    };
    lines.iter().enumerate().map(line).collect()
}

fn of_operation(operation: &Operation) -> [Line; 2] {
    let (function, asked) = asked(operation.request);
    let (kind, at, answer) = match operation.outcome {
        Outcome::Acknowledged { at, answer } => ("ok", at, Some(answer)),
        Outcome::Refused { at } => ("fail", at, None),
        Outcome::Ambiguous => ("info", operation.invoked + GIVEN_UP_AFTER, None),
    };
    let value = match (operation.request, answer) {
        (Request::Read { register }, Some(0)) => format!("[{register} nil]"),
        (Request::Read { register }, Some(number)) => format!("[{register} {number}]"),
        _ => asked.clone(),
    };
    let process = operation.session as usize;
    [
        Line { at: operation.invoked, kind: "invoke", process, function, value: asked },
        Line { at, kind, process, function, value },
    ]
}

fn asked(request: Request) -> (&'static str, String) {
    match request {
        Request::Set { number } => ("add", number.to_string()),
        Request::Push { list, number } => ("txn", format!("[[:append {list} {number}]]")),
        Request::Increment { counter } => ("add", format!("[{counter} 1]")),
        Request::Write { register, number } => ("write", format!("[{register} {number}]")),
        Request::Read { register } => ("read", format!("[{register} nil]")),
        Request::Mixed { number } => ("mixed", number.to_string()),
    }
}

/// What was there at the end: function, what was asked, what was read.
fn last_reads(workload: Workload, held: &Contents) -> Vec<(&'static str, String, String)> {
    let words = |numbers: &mut dyn Iterator<Item = u64>| {
        let words: Vec<String> = numbers.map(|number| number.to_string()).collect();
        words.join(" ")
    };
    match workload {
        Workload::Set => {
            let mut numbers: Vec<u64> = held.numbers.iter().copied().collect();
            numbers.sort_unstable();
            vec![("read", "nil".to_owned(), format!("#{{{}}}", words(&mut numbers.into_iter())))]
        }
        Workload::Append => {
            let lists = held.lists.iter().enumerate();
            let read = |(list, numbers): (usize, &Vec<u64>)| {
                let numbers = words(&mut numbers.iter().copied());
                ("txn", format!("[[:r {list} nil]]"), format!("[[:r {list} [{numbers}]]]"))
            };
            lists.map(read).collect()
        }
        Workload::Counter => {
            let counters = held.counters.iter().enumerate();
            counters
                .map(|(counter, value)| ("read", format!("[{counter} nil]"), format!("[{counter} {value}]")))
                .collect()
        }
        Workload::Register => {
            let registers = held.registers.iter();
            registers.map(|(key, value)| ("read", format!("[{key} nil]"), format!("[{key} {value}]"))).collect()
        }
        Workload::Mixed => Vec::new(),
    }
}
