//! Drills as one page that needs nothing else: no script, no request, light and dark as the reader's system is.

mod chart;
mod group;

use replctl::drill::verdict::StepTime;
use replctl::drill::{Account, Findings, NodeState, Rehearsal, Verdict};
use replctl::topology::Topology;

use super::junit::escaped;
use super::text;
use crate::ui::table::milliseconds;

/// Lines of a node's log that are shown, the last ones.
const LOG_LINES_MAX: usize = 200;

/// The page with these parts.
pub fn page(parts: &[String]) -> String {
    let style = include_str!("html/style.css");
    let parts = parts.concat();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<link rel=\"icon\" href=\"data:,\">\n\
         <title>replctl drill</title>\n<style>\n{style}</style>\n</head>\n<body>\n{parts}</body>\n</html>\n"
    )
}

/// The part of one drill.
pub fn part(rehearsal: &Rehearsal, topology: &Topology) -> String {
    let report = &rehearsal.report;
    let findings = &report.findings;
    let (word, reasons) = match &report.verdict {
        Verdict::Passed => ("passed", vec![text::summary(findings)]),
        Verdict::Inconclusive { reason } => ("inconclusive", vec![reason.clone()]),
        Verdict::Failed { reasons } => ("failed", reasons.clone()),
    };
    let reasons: String =
        reasons.iter().map(|reason| format!("<p class=\"reason\">{}</p>\n", escaped(reason))).collect();
    [
        format!(
            "<article>\n<header><h1>{}</h1> <strong class=\"{word}\">{word}</strong>\n<p>{}, seed {}; {} in all</p>\n{reasons}</header>\n",
            escaped(&report.drill),
            escaped(&text::group(topology)),
            report.seed,
            milliseconds(report.took_us),
        ),
        tiles(findings),
        chart::all(rehearsal),
        steps(findings),
        format!("<div class=\"pair\">{}{}</div>\n", group::before(rehearsal), group::after(rehearsal)),
        account(findings),
        latency(findings),
        nodes(findings),
        logs(rehearsal),
        "</article>\n".to_owned(),
    ]
    .concat()
}

fn tiles(findings: &Findings) -> String {
    let tile = |value: String, what: &str| format!("<li><b>{}</b> {what}</li>\n", escaped(&value));
    let at_least = if findings.outage.has_ended { "" } else { "≥ " };
    let mut tiles = String::new();
    if let Some(account) = &findings.account {
        tiles += &tile((account.survived + account.lost).to_string(), "acknowledged writes");
        tiles += &tile(account.lost.to_string(), "of them lost");
    }
    tiles += &tile(format!("{at_least}{}", milliseconds(findings.outage.overall_us)), "without an acknowledged write");
    tiles += &tile(milliseconds(findings.latency.during.p99_us), "p99 during the steps");
    format!("<ul class=\"tiles\">\n{tiles}</ul>\n")
}

/// A table that scrolls by itself where it is too wide. A heading with `>` before it is of numbers.
fn table(headings: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let class = |heading: &str| if heading.starts_with('>') { " class=\"number\"" } else { "" };
    let head: String = headings
        .iter()
        .map(|heading| format!("<th{}>{}</th>", class(heading), escaped(heading.trim_start_matches('>'))))
        .collect();
    let row = |cells: Vec<String>| {
        let cells = cells.iter().zip(headings);
        let cells: String =
            cells.map(|(cell, heading)| format!("<td{}>{}</td>", class(heading), escaped(cell))).collect();
        format!("<tr>{cells}</tr>\n")
    };
    let rows: String = rows.map(row).collect();
    format!("<div class=\"scroll\"><table><thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table></div>\n")
}

fn steps(findings: &Findings) -> String {
    let step = |step: &StepTime| {
        let what = step.error.as_ref().map_or_else(|| step.done.clone(), |error| format!("failed: {error}"));
        let (at, took) = (milliseconds(step.began_us), milliseconds(step.took_us));
        let (name, what) = (escaped(&step.step), escaped(&what));
        format!("<li><b>{name}</b> <small>at {at}, took {took}</small><br>{what}</li>\n")
    };
    let steps: String = findings.steps.iter().map(step).collect();
    format!("<section><h2>Steps</h2>\n<ol class=\"steps\">\n{steps}</ol></section>\n")
}

fn account(findings: &Findings) -> String {
    let mut body = String::new();
    if let Some(account) = &findings.account {
        body += &share_bar(account);
        let rows = shares(account).into_iter().map(|(_, name, count)| vec![name.to_owned(), count.to_string()]);
        let issued = vec!["issued".to_owned(), account.issued.to_string()];
        body += &table(&["writes", ">count"], rows.chain([issued]));
        if let Some(first) = &account.first_lost {
            let acknowledged = milliseconds(first.acknowledged_us);
            let words = format!("The first lost: {}, acknowledged at {acknowledged} by {}.", first.what, first.node);
            body += &format!("<p>{}</p>\n", escaped(&words));
        }
        if let Some(anomaly) = &account.first_anomaly {
            body += &format!("<p>{}</p>\n", escaped(anomaly));
        }
    }
    if let Some(registers) = &findings.registers {
        let (wrong, unknown) = (registers.violations.len(), registers.unknown.len());
        let fine = registers.count - wrong - unknown;
        body += &format!("<p>Registers: {fine} linearizable, {wrong} not, {unknown} not known.</p>\n");
    }
    for claim in &findings.claims {
        let words = format!("promote said of {} that it lost: {}.", claim.node, claim.words);
        body += &format!("<p>{}</p>\n", escaped(&words));
    }
    if body.is_empty() {
        body = "<p>This load's writes cannot be told apart: the nodes' data were compared.</p>\n".to_owned();
    }
    format!("<section><h2>What became of the writes</h2>\n{body}</section>\n")
}

fn shares(account: &Account) -> [(&'static str, &'static str, u64); 5] {
    [
        ("s1", "acknowledged, and there", account.survived),
        ("bad", "acknowledged, and lost", account.lost),
        ("s2", "refused", account.refused),
        ("s3", "not answered, and there", account.ambiguous_survived),
        ("s4", "not answered, and gone", account.ambiguous_gone),
    ]
}

/// All writes as one bar; what is there at all can be seen.
fn share_bar(account: &Account) -> String {
    let part = |(class, name, count): (&str, &str, u64)| {
        let title = format!("{count} {name}");
        format!("<span class=\"{class}\" style=\"flex-grow:{count}\" title=\"{title}\"></span>")
    };
    let parts: String = shares(account).into_iter().filter(|(_, _, count)| *count > 0).map(part).collect();
    let name = |(class, name, _): (&str, &str, u64)| format!("<li class=\"{class}\">{name}</li>");
    let legend: String = shares(account).into_iter().filter(|(_, _, count)| *count > 0).map(name).collect();
    format!("<div class=\"bar\">{parts}</div>\n<ul class=\"legend\">{legend}</ul>\n")
}

fn latency(findings: &Findings) -> String {
    let latency = &findings.latency;
    let phases = [("before", &latency.before), ("during", &latency.during), ("after", &latency.after)];
    let rows = phases.into_iter().map(|(phase, latency)| {
        let times = [latency.p50_us, latency.p99_us, latency.p999_us, latency.max_us].map(milliseconds);
        [phase.to_owned(), latency.count.to_string()].into_iter().chain(times).collect()
    });
    let table = table(&["the steps", ">answers", ">p50", ">p99", ">p99.9", ">max"], rows);
    format!("<section><h2>How long answers took</h2>\n{table}</section>\n")
}

fn nodes(findings: &Findings) -> String {
    let rows = findings.nodes.iter().map(|node| {
        let number = |number: Option<String>| number.unwrap_or_else(|| "-".to_owned());
        vec![
            node.node.clone(),
            state(node.state).to_owned(),
            node.engine.clone(),
            text::resync(node.resync).to_owned(),
            number(node.offset.map(|offset| offset.to_string())),
            number(node.keys.map(|keys| keys.to_string())),
        ]
    });
    let table = table(&["node", "at the end", "engine", "resync", ">offset", ">keys"], rows);
    format!("<section><h2>Nodes</h2>\n{table}</section>\n")
}

fn state(state: NodeState) -> &'static str {
    match state {
        NodeState::Master => "master",
        NodeState::Replica => "replica",
        NodeState::Silent => "silent",
        NodeState::Paused => "paused",
        NodeState::Dead => "dead",
    }
}

fn logs(rehearsal: &Rehearsal) -> String {
    let node = |(name, lines): &(String, Vec<String>)| {
        let shown = lines[lines.len().saturating_sub(LOG_LINES_MAX)..].join("\n");
        let count = lines.len();
        format!("<details><summary>{name}: {count} lines</summary><pre>{}</pre></details>\n", escaped(&shown))
    };
    let nodes: String = rehearsal.course.logs.iter().map(node).collect();
    format!("<section><h2>What the nodes logged meanwhile</h2>\n{nodes}</section>\n")
}
