//! Tables: aligned columns, two spaces apart, without lines, so that they can be read and cut alike.

use std::fmt::Display;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use replctl::group::{Answer, FailoverReport, Group, GroupView, NodeView, Resync, SentinelView, Watch, listed};
use replctl::process::{Condition, Server};
use replctl::wire::{Link, Replication};

/// A table under these headings; those that begin with `>` stand above numbers, flush right.
fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings.iter().map(|heading| heading.trim_start_matches('>')));
    for (column, heading) in table.column_iter_mut().zip(headings) {
        column.set_padding((0, 2));
        if heading.starts_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn text(table: &Table) -> String {
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// Rows of words under headings.
pub fn plain(headings: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = table(headings);
    table.add_rows(rows);
    text(&table)
}

/// Every node of a group, as it was seen.
pub fn nodes(group: &Group, view: &GroupView) -> String {
    let headings = ["node", "role", "address", ">pid", "engine", "link", ">offset", ">behind", ">keys"];
    let master = view.nodes.iter().find(|node| node.is_answering_master()).and_then(replication);
    plain(&headings, view.nodes.iter().map(|node| row(group, view, node, master)))
}

/// Every Sentinel of a group, with what it sees.
pub fn sentinels(sentinels: &[SentinelView]) -> String {
    let headings = ["sentinel", "address", ">pid", "master", ">replicas", ">others"];
    let row = |one: &SentinelView| {
        let pid = one.process.as_ref().filter(|_| one.condition != Condition::Dead).map(|process| process.pid);
        let (master, replicas, others) = match &one.watch {
            Watch::Watching { master, is_master_up, replicas, others, .. } => {
                let master = if *is_master_up { master.clone() } else { format!("{master} (down)") };
                (master, Some(replicas.len()), Some(others))
            }
            Watch::Idle => ("watches nothing".to_owned(), None, None),
            Watch::Silent { why } => (why.clone(), None, None),
        };
        vec![one.name.clone(), one.address.to_string(), or_dash(pid), master, or_dash(replicas), or_dash(others)]
    };
    plain(&headings, sentinels.iter().map(row))
}

fn row(group: &Group, view: &GroupView, node: &NodeView, master: Option<&Replication>) -> Vec<String> {
    let report = node.report();
    let of_report = |field: &dyn Fn(&Replication) -> String| replication(node).map_or_else(|| "-".to_owned(), field);
    let behind = |own: &Replication| match master {
        Some(master) if master.replid == own.replid => master.offset.saturating_sub(own.offset).to_string(),
        _ => "?".to_owned(),
    };
    vec![
        node.name.clone(),
        role(view, node),
        node.address.to_string(),
        or_dash(node.process().filter(|_| node.is_alive()).map(|process| process.pid)),
        engine(group, node),
        link(node),
        of_report(&|own| own.offset.to_string()),
        of_report(&behind),
        or_dash(report.map(|report| report.keys)),
    ]
}

fn replication(node: &NodeView) -> Option<&Replication> {
    node.report().map(|report| &report.replication)
}

/// What it is, or what it is meant to be and is not.
fn role(view: &GroupView, node: &NodeView) -> String {
    match (replication(node), &node.meant_upstream) {
        (Some(replication), _) if replication.is_master() => "master".to_owned(),
        (Some(replication), _) => {
            let upstream = replication.upstream().map(|upstream| upstream.address().to_string()).unwrap_or_default();
            let name = view.followed_by(node).map_or(upstream, |upstream| upstream.name.clone());
            format!("replica of {name}")
        }
        (None, None) => "(master)".to_owned(),
        (None, Some(upstream)) => format!("(replica of {upstream})"),
    }
}

fn engine(group: &Group, node: &NodeView) -> String {
    let Some(launched) = group.run.node(&node.name) else { return "-".to_owned() };
    match (&launched.server, node.report()) {
        (Server::Managed(server), _) => match &server.process {
            Some(process) => format!("{} {}", server.engine.family.name(), process.version),
            None => server.engine.family.name().to_owned(),
        },
        (Server::Unmanaged(_), Some(report)) => format!("{} {}", report.family.name(), report.version),
        (Server::Unmanaged(_), None) => "-".to_owned(),
    }
}

fn link(node: &NodeView) -> String {
    match (&node.answer, node.condition()) {
        (Answer::Report(report), _) => match report.replication.upstream() {
            None => "-".to_owned(),
            Some(upstream) => link_words(&upstream.link, upstream.holds_data),
        },
        (Answer::Loading, _) => "loading".to_owned(),
        (Answer::Stranger { report }, None) => format!("stranger (run id {:.8})", report.run_id),
        (Answer::Stranger { report }, _) => format!("stranger (pid {})", report.process_id),
        (Answer::Error(error), _) => error.clone(),
        (_, Some(Condition::Dead)) => "dead".to_owned(),
        (_, Some(Condition::Stopped)) => "stopped".to_owned(),
        (Answer::Silent, _) => "silent".to_owned(),
        (Answer::NotListening, _) => "not listening".to_owned(),
    }
}

fn link_words(link: &Link, holds_data: bool) -> String {
    match link {
        Link::Up => "up".to_owned(),
        Link::Syncing { received_bytes, total_bytes: Some(total) } => format!("syncing {received_bytes}/{total} B"),
        Link::Syncing { received_bytes, total_bytes: None } => format!("syncing {received_bytes} B"),
        Link::Down { .. } if !holds_data => "down, no data yet".to_owned(),
        Link::Down { seconds: Some(seconds) } => format!("down for {seconds} s"),
        Link::Down { seconds: None } => "down".to_owned(),
    }
}

/// What a promotion did and how long each step took.
pub fn failover(report: &FailoverReport) -> String {
    let mut rows: Vec<Vec<String>> =
        report.steps.iter().map(|step| vec![step.step.to_string(), milliseconds(step.took_us)]).collect();
    if report.plan.makes_another_master() {
        let first = or_none(report.first_write_us.map(milliseconds));
        rows.push(vec!["from start to first accepted write".to_owned(), first]);
    }
    if let Some(pause) = report.write_pause_us {
        rows.push(vec!["nobody took writes for".to_owned(), milliseconds(pause)]);
    }
    rows.push(vec!["from start to last link".to_owned(), milliseconds(report.took_us)]);
    plain(&["step", ">took"], rows)
}

/// How replicas came to the new master's history, a crowd by its number.
pub fn resyncs(report: &FailoverReport) -> String {
    const NAMED_MAX: usize = 5;
    let of_kind = |kind: Resync, words: &str| {
        let nodes = report.resyncs.iter().filter(|(_, resync)| **resync == kind);
        let nodes: Vec<String> = nodes.map(|(node, _)| node.clone()).collect();
        let who = if nodes.len() > NAMED_MAX { format!("{} replicas", nodes.len()) } else { listed(&nodes) };
        (!nodes.is_empty()).then(|| format!("{who} {words}"))
    };
    let kinds = [
        of_kind(Resync::Partial, "by partial resync"),
        of_kind(Resync::Full, "by full resync"),
        of_kind(Resync::Unknown, "in an unknown way"),
    ];
    kinds.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Microseconds as milliseconds with two decimals.
pub fn milliseconds(microseconds: u64) -> String {
    format!("{}.{:02} ms", microseconds / 1_000, microseconds % 1_000 / 10)
}

fn or_dash<T: Display>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn or_none(value: Option<String>) -> String {
    value.unwrap_or_else(|| "none".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_no_line_ends_in_spaces() {
        let rows = [
            vec!["n1".to_owned(), "5".to_owned(), "a".to_owned()],
            vec!["long-name".to_owned(), "12345".to_owned(), String::new()],
        ];
        let text = plain(&["node", ">bytes", "note"], rows);
        assert_eq!(text, "node       bytes  note\nn1             5  a\nlong-name  12345");
    }

    #[test]
    fn times_are_told_in_milliseconds() {
        assert_eq!(milliseconds(0), "0.00 ms");
        assert_eq!(milliseconds(2_345), "2.34 ms");
        assert_eq!(milliseconds(1_000_000), "1000.00 ms");
    }
}
