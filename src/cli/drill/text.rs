//! A drill's report for people.

use replctl::drill::overhead::{LinkOverhead, Way};
use replctl::drill::timing::Latency;
use replctl::drill::{DrillReport, Findings, Verdict};
use replctl::group::Resync;
use replctl::topology::Topology;

use crate::ui::{Printer, table};

/// A group in a few words: `trio (3 x repld)`.
pub fn group(topology: &Topology) -> String {
    let mut engines: Vec<(String, usize)> = Vec::new();
    for engine in topology.nodes().iter().filter_map(|node| Some(node.managed()?.engine.to_string())) {
        match engines.iter_mut().find(|(known, _)| *known == engine) {
            Some((_, count)) => *count += 1,
            None => engines.push((engine, 1)),
        }
    }
    let engines: Vec<String> = engines.into_iter().map(|(engine, count)| format!("{count} x {engine}")).collect();
    format!("{} ({})", topology.name(), engines.join(", "))
}

/// Shows all of it, the verdict last.
pub fn show(report: &DrillReport, topology: &Topology, printer: &Printer) {
    let findings = &report.findings;
    printer.data(format_args!("{} on {}, seed {}\n", report.drill, group(topology), report.seed));
    let steps = findings.steps.iter().map(|step| {
        let what = step.error.as_ref().map_or_else(|| step.done.clone(), |error| format!("failed: {error}"));
        vec![table::milliseconds(step.began_us), table::milliseconds(step.took_us), step.step.clone(), what]
    });
    printer.data(format_args!("{}\n", table::plain(&[">at", ">took", "step", "what happened"], steps)));
    show_writes(findings, printer);
    show_times(findings, printer);
    if let Some(overhead) = &findings.link_overhead {
        show_overhead(overhead, printer);
    }
    let nodes = findings.nodes.iter().map(|node| {
        let number = |number: Option<String>| number.unwrap_or_else(|| "-".to_owned());
        vec![
            node.node.clone(),
            format!("{:?}", node.state).to_lowercase(),
            node.engine.clone(),
            resync(node.resync).to_owned(),
            number(node.offset.map(|offset| offset.to_string())),
            number(node.keys.map(|keys| keys.to_string())),
        ]
    });
    printer.data(format_args!(
        "{}\n",
        table::plain(&["node", "at the end", "engine", "resync", ">offset", ">keys"], nodes)
    ));
    printer.data(verdict(report));
}

fn show_writes(findings: &Findings, printer: &Printer) {
    if let Some(account) = &findings.account {
        let ambiguous = format!("{} + {}", account.ambiguous_survived, account.ambiguous_gone);
        let numbers = [account.issued, account.survived, account.lost, account.refused].map(|count| count.to_string());
        let [issued, survived, lost, refused] = numbers;
        let row = vec![issued, survived, lost, refused, ambiguous];
        let headings = [">issued", ">survived", ">lost", ">refused", ">not answered: there + gone"];
        printer.data(format_args!("{}\n", table::plain(&headings, [row])));
    }
    if let Some(registers) = &findings.registers {
        let fine = registers.count - registers.violations.len() - registers.unknown.len();
        printer.data(format_args!("{fine} of {} registers are linearizable\n", registers.count));
    }
    for claim in &findings.claims {
        let truth = findings.account.as_ref().map(|account| format!("; in truth {} acknowledged writes", account.lost));
        printer.data(format_args!("lost, as promote said: {}{}", claim.words, truth.unwrap_or_default()));
    }
}

/// What a link's proxy adds to each request that goes by it.
fn show_overhead(overhead: &LinkOverhead, printer: &Printer) {
    let LinkOverhead { from, to, direct, by_proxy } = overhead;
    let megabytes = |way: &Way| way.bytes_per_sec / 1_000_000;
    printer.data(format_args!(
        "the link {from} -> {to} by its proxy: a round trip takes {}, directly {}; {} MB/s, directly {}\n",
        table::milliseconds(by_proxy.round_trip_us),
        table::milliseconds(direct.round_trip_us),
        megabytes(by_proxy),
        megabytes(direct),
    ));
}

fn show_times(findings: &Findings, printer: &Printer) {
    let outage = &findings.outage;
    let at_least = if outage.has_ended { "" } else { "at least " };
    printer.data(format_args!(
        "no write acknowledged for {at_least}{} at most, for {} by the writer that waited longest\n",
        table::milliseconds(outage.overall_us),
        table::milliseconds(outage.worst_writer_us)
    ));
    let row = |phase: &str, latency: &Latency| {
        let times = [latency.p50_us, latency.p99_us, latency.p999_us, latency.max_us].map(table::milliseconds);
        [phase.to_owned(), latency.count.to_string()].into_iter().chain(times).collect()
    };
    let latency = &findings.latency;
    let rows = [("before", &latency.before), ("during", &latency.during), ("after", &latency.after)];
    let headings = ["the steps", ">answers", ">p50", ">p99", ">p99.9", ">max"];
    printer.data(format_args!("{}\n", table::plain(&headings, rows.map(|(phase, latency)| row(phase, latency)))));
}

/// How a node came to a new history, in a word.
pub fn resync(resync: Option<Resync>) -> &'static str {
    match resync {
        Some(Resync::Partial) => "partial",
        Some(Resync::Full) => "full",
        Some(Resync::Unknown) | None => "-",
    }
}

/// The verdict in one line.
pub fn verdict(report: &DrillReport) -> String {
    let name = &report.drill;
    match &report.verdict {
        Verdict::Passed => format!("passed: {name}: {}", summary(&report.findings)),
        Verdict::Inconclusive { reason } => format!("inconclusive: {name}: {reason}"),
        Verdict::Failed { reasons } => format!("failed: {name}: {}", reasons.join("; ")),
    }
}

/// What a drill that has passed has shown.
pub fn summary(findings: &Findings) -> String {
    let outage = table::milliseconds(findings.outage.overall_us);
    match &findings.account {
        Some(account) => format!(
            "{} of {} acknowledged writes are there, and none was acknowledged for at most {outage}",
            account.survived,
            account.survived + account.lost,
        ),
        None => format!("the nodes hold the same, no write was acknowledged for at most {outage}"),
    }
}
