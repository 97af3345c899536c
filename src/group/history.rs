//! What was done to a group, run by run: a pure function of its journal.

use serde::Serialize;

use super::journal::JournalEntry;
use super::plan::LossEstimate;
use crate::event::Event;

/// One thing that was done to a group.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Episode {
    /// When it began, in milliseconds since 1970.
    pub time_unix_ms: u64,
    /// Who did it.
    pub user: String,
    /// `up`, `promote` and so on.
    pub command: String,
    /// What changed, in words; empty where the command says it all.
    pub what: String,
    /// What a change of masters cost, as far as it was known.
    pub loss: Option<LossEstimate>,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// How an episode ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// As it was meant to.
    Done {
        /// How long it took, in milliseconds.
        took_ms: u64,
    },
    /// With an error.
    Failed {
        /// How long it took, in milliseconds.
        took_ms: u64,
        /// Why.
        error: String,
    },
    /// Nobody wrote down how: replctl was killed, or is still at it.
    Unknown,
}

/// The episodes of a journal, oldest first.
pub fn episodes(entries: &[JournalEntry]) -> Vec<Episode> {
    let mut episodes: Vec<Episode> = Vec::new();
    let mut open: Option<(usize, &str)> = None;
    for entry in entries {
        let current = open.filter(|(_, run)| *run == entry.run).map(|(index, _)| index);
        match (&entry.event, current) {
            (Event::Began { command }, _) => {
                open = Some((episodes.len(), entry.run.as_str()));
                episodes.push(episode(entry, command, String::new(), Outcome::Unknown));
            }
            (Event::MasterKilled { node, .. }, _) => {
                episodes.push(episode(entry, "kill", node.clone(), Outcome::Done { took_ms: 0 }));
            }
            (Event::Signalled { node, signal }, _) => {
                episodes.push(episode(entry, signal.name(), node.clone(), Outcome::Done { took_ms: 0 }));
            }
            (Event::FailedOver { by, node, old_master, .. }, _) => {
                let what = format!("{old_master} -> {node}");
                let done = episode(entry, "failover", what, Outcome::Done { took_ms: 0 });
                episodes.push(Episode { user: by.name().to_owned(), ..done });
            }
            (Event::LinkChanged { node, to, fault }, _) => {
                let (command, what) = (format!("link {}", fault.verb()), format!("{node} -> {to}{fault}"));
                episodes.push(episode(entry, &command, what, Outcome::Done { took_ms: 0 }));
            }
            // Its failovers are told with the promotions that they are.
            (Event::Guard { note }, _) if note.verdict.is_inaction() => {
                let words = note.verdict.name().to_owned();
                episodes.push(episode(entry, "guard", words, Outcome::Done { took_ms: 0 }));
            }
            (event, Some(index)) => add(&mut episodes[index], event, entry.time_unix_ms),
            (_, None) => {}
        }
    }
    episodes
}

fn episode(entry: &JournalEntry, command: &str, what: String, outcome: Outcome) -> Episode {
    let (time_unix_ms, user) = (entry.time_unix_ms, entry.user.clone());
    Episode { time_unix_ms, user, command: command.to_owned(), what, loss: None, outcome }
}

fn add(episode: &mut Episode, event: &Event, time_unix_ms: u64) {
    match event {
        Event::Planned { plan } => episode.loss = Some(plan.loss.clone()),
        Event::Promoted { node, old_master, .. } => episode.what = format!("{old_master} -> {node}"),
        Event::Demoted { diverged, to } => episode.what = format!("{} below {to}", diverged.node),
        Event::Repointed { node, from, to } => episode.what = format!("{node}: {from} -> {to}"),
        Event::Finished { error, .. } => {
            let took_ms = time_unix_ms.saturating_sub(episode.time_unix_ms);
            episode.outcome = match error {
                None => Outcome::Done { took_ms },
                Some(error) => Outcome::Failed { took_ms, error: error.clone() },
            };
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(time_unix_ms: u64, run: &str, event: Event) -> JournalEntry {
        JournalEntry { time_unix_ms, run: run.to_owned(), user: "ann".to_owned(), event }
    }

    fn began(command: &str) -> Event {
        Event::Began { command: command.to_owned() }
    }

    fn finished(command: &str, error: Option<&str>) -> Event {
        Event::Finished { command: command.to_owned(), error: error.map(str::to_owned) }
    }

    #[test]
    fn runs_become_episodes_with_their_ends() {
        let promoted = Event::Promoted { node: "n2".to_owned(), old_master: "n1".to_owned(), former: None };
        let entries = [
            entry(10, "a", began("up")),
            entry(40, "a", finished("up", None)),
            entry(50, "b", began("promote")),
            entry(60, "b", promoted),
            entry(70, "b", finished("promote", Some("no link"))),
            entry(80, "c", began("down")),
        ];
        let told: Vec<_> = episodes(&entries).into_iter().map(|one| (one.command, one.what, one.outcome)).collect();
        let failed = Outcome::Failed { took_ms: 20, error: "no link".to_owned() };
        let expected = [
            ("up", "", Outcome::Done { took_ms: 30 }),
            ("promote", "n1 -> n2", failed),
            ("down", "", Outcome::Unknown),
        ];
        assert_eq!(told, expected.map(|(command, what, outcome)| (command.to_owned(), what.to_owned(), outcome)));
    }

    #[test]
    fn a_run_that_was_killed_has_no_end_and_takes_nobody_elses() {
        let entries = [
            entry(10, "a", began("promote")),
            entry(20, "b", began("promote")),
            entry(30, "b", finished("promote", None)),
        ];
        let outcomes: Vec<_> = episodes(&entries).into_iter().map(|one| one.outcome).collect();
        assert_eq!(outcomes, [Outcome::Unknown, Outcome::Done { took_ms: 10 }]);
    }
}
