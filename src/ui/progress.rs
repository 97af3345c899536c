//! How far `up` is: a bar per node on a terminal, one line per node elsewhere.

use std::collections::HashMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use replctl::event::Event;
use replctl::group::Action;
use replctl::topology::Address;

use super::Printer;

/// More bars than this would not fit on a screen: then there is one that counts nodes.
const BARS_MAX: usize = 24;

/// Shows the progress of nodes that are started.
pub struct Progress<'a> {
    printer: &'a Printer,
    display: Display,
    /// Per node, what to say when it is there.
    nodes: HashMap<String, NodeLine>,
}

enum Display {
    /// Not a terminal.
    Lines,
    /// A bar per node.
    Bars { all: MultiProgress, bars: HashMap<String, ProgressBar> },
    /// One bar for a crowd.
    Count(ProgressBar),
}

struct NodeLine {
    upstream: Option<String>,
    address: Address,
    pid: Option<u32>,
}

impl<'a> Progress<'a> {
    /// For the nodes that `up` is about to start or adopt.
    pub fn new<'p>(printer: &'a Printer, actions: impl Iterator<Item = &'p Action> + Clone) -> Self {
        let nodes = actions.clone().map(|action| {
            let line = NodeLine { upstream: action.upstream.clone(), address: action.address.clone(), pid: None };
            (action.node.clone(), line)
        });
        Self { printer, display: Display::new(printer, actions), nodes: nodes.collect() }
    }

    /// Shows what happened.
    pub fn on(&mut self, event: &Event) {
        match event {
            Event::Adopted { node, pid } => self.at(node, "runs already", Some((*pid, None))),
            Event::Spawned { node, pid, port } => self.at(node, "spawned", Some((*pid, Some(*port)))),
            Event::Ready { node } => match self.nodes.get(node).is_some_and(|line| line.upstream.is_none()) {
                true => self.arrived(node, "ready".to_owned()),
                false => self.at(node, "ready", None),
            },
            Event::Syncing { node, received_bytes, total_bytes } => self.syncing(node, *received_bytes, *total_bytes),
            Event::Linked { node, offset } => {
                let upstream = self.nodes.get(node).and_then(|line| line.upstream.as_deref()).unwrap_or("its upstream");
                self.arrived(node, format!("linked to {upstream} at offset {offset}"));
            }
            Event::Warning { text } => self.printer.warning(text),
            _ => {}
        }
    }

    fn at(&mut self, node: &str, words: &str, process: Option<(u32, Option<u16>)>) {
        if let (Some(line), Some((pid, port))) = (self.nodes.get_mut(node), process) {
            line.pid = Some(pid);
            line.address.port = port.unwrap_or(line.address.port);
        }
        match &self.display {
            Display::Bars { bars, .. } => self.with_bar(bars, node, |bar| bar.set_message(words.to_owned())),
            Display::Lines if self.printer.is_verbose() => self.printer.note(format_args!("{node}  {words}")),
            Display::Lines | Display::Count(_) => {}
        }
    }

    fn syncing(&self, node: &str, received_bytes: u64, total_bytes: Option<u64>) {
        let total = total_bytes.map_or_else(String::new, |total| format!(" of {total}"));
        match &self.display {
            Display::Bars { bars, .. } => {
                self.with_bar(bars, node, |bar| bar.set_message(format!("syncing, {received_bytes}{total} bytes")));
            }
            Display::Lines if self.printer.is_verbose() => {
                self.printer.note(format_args!("{node}  syncing, {received_bytes}{total} bytes"));
            }
            Display::Lines | Display::Count(_) => {}
        }
    }

    fn arrived(&self, node: &str, words: String) {
        match &self.display {
            Display::Bars { bars, .. } => self.with_bar(bars, node, |bar| bar.finish_with_message(words)),
            Display::Count(bar) => bar.inc(1),
            Display::Lines => {
                let Some(line) = self.nodes.get(node) else { return };
                let pid = line.pid.map_or_else(String::new, |pid| format!(", pid {pid}"));
                self.printer.note(format_args!("{node}  {words} ({}{pid})", line.address));
            }
        }
    }

    fn with_bar(&self, bars: &HashMap<String, ProgressBar>, node: &str, change: impl FnOnce(&ProgressBar)) {
        if let Some(bar) = bars.get(node) {
            change(bar);
        }
    }

    /// Takes the bars away: the table that follows says it all.
    pub fn finish(self) {
        match self.display {
            Display::Lines => {}
            Display::Bars { all, bars } => {
                bars.values().for_each(ProgressBar::finish);
                // A terminal that went away needs no clearing.
                let _ = all.clear();
            }
            Display::Count(bar) => bar.finish_and_clear(),
        }
    }
}

impl Display {
    fn new<'p>(printer: &Printer, actions: impl Iterator<Item = &'p Action> + Clone) -> Self {
        if !printer.shows_progress() {
            return Self::Lines;
        }
        let count = actions.clone().count();
        if count > BARS_MAX {
            let bar = ProgressBar::new(count as u64);
            bar.set_style(style("{bar:40} {pos}/{len} nodes linked  {elapsed}"));
            return Self::Count(bar);
        }
        let all = MultiProgress::new();
        let width = actions.clone().map(|action| action.node.len()).max().unwrap_or(0);
        let bars = actions.map(|action| {
            let bar = all.add(ProgressBar::new_spinner());
            bar.set_style(style("{spinner} {prefix}  {msg}"));
            bar.set_prefix(format!("{:width$}", action.node));
            bar.set_message("waits");
            bar.enable_steady_tick(Duration::from_millis(100));
            (action.node.clone(), bar)
        });
        let bars = bars.collect();
        Self::Bars { all, bars }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates here are right")
}
