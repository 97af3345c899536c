//! A change of masters that was not seen to its end, since replctl was killed or gave up in the middle of it.
//!
//! ```text
//! promoted n2 in place of n1 … finished      done
//! promoted n2 in place of n1 …               links, configuration files and the user's hook may be missing
//! about to let n1 hand over to n2 …          anything: n1 and n2 know
//! ```
//!
//! The group itself shows only the links. A file that still makes a master of the old one would let whoever starts it by hand
//! have two, so the same command again goes through all of it, even where nothing seems to be wrong.

use super::journal::{JournalEntry, RECENT_BYTES, read_end};
use super::promotion::observe_calm;
use super::view::{GroupView, NodeView};
use super::{Group, GroupError};
use crate::event::Event;
use crate::process::Durability;

/// The node whose place the present master took, if that was not seen to its end, no command has come to its own since, and
/// who is `wanted` now is no other than that master.
///
/// # Errors
/// The journal cannot be read.
pub fn unfinished(group: &Group, wanted: Option<&str>) -> Result<Option<String>, GroupError> {
    let master = &group.run.master().name;
    if wanted.is_some_and(|wanted| wanted != master) {
        return Ok(None);
    }
    let entries = read_end(&group.dir.journal_file(), RECENT_BYTES)?;
    Ok(unfinished_in(&entries, master))
}

fn unfinished_in(entries: &[JournalEntry], master: &str) -> Option<String> {
    let is_finished = |entry: &JournalEntry| matches!(entry.event, Event::Finished { error: None, .. });
    entries.iter().rev().take_while(|entry| !is_finished(entry)).find_map(|entry| match &entry.event {
        Event::Promoted { node, old_master, .. } if node == master => Some(old_master.clone()),
        _ => None,
    })
}

/// Forgets a change of masters that broke off before anything came of it: while it is remembered, a node that is only ended
/// to be restarted may have been made the master, for all that anybody knows.
///
/// # Errors
/// The group cannot be observed, or the run state not be written.
pub async fn forget_if_nothing_came(group: &mut Group) -> Result<(), GroupError> {
    // The nodes are not asked at the same moment, and an order may have been under way at the first look.
    const LOOKS: usize = 2;
    let Some(candidate) = group.run.promoting.as_ref().map(|promoting| promoting.node.clone()) else { return Ok(()) };
    for _ in 0..LOOKS {
        let (view, _) = observe_calm(group).await?;
        if !is_as_before(&view, &candidate) {
            return Ok(());
        }
    }
    group.run.promoting = None;
    Ok(group.dir.save_run_state(&group.run, Durability::Disk)?)
}

/// Whether both say what they were: the master that it takes writes, the node that was to be it that it follows.
fn is_as_before(view: &GroupView, candidate: &str) -> bool {
    let is_master = |node: &NodeView| node.report().map(|report| report.replication.is_master());
    let master = view.meant_master();
    master.name != candidate
        && is_master(master) == Some(true)
        && view.node(candidate).and_then(is_master) == Some(false)
        && view.exchanging().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::Answer;
    use crate::group::plan::tests::{dead, master, node, replica, view, with};
    use crate::process::Condition;

    #[test]
    fn nothing_came_of_a_change_only_if_both_say_what_they_were() {
        let handing_over = |node| with(node, |report| report.replication.is_handing_over = true);
        let silent = node(2, Some(1), Answer::Silent, Condition::Running);
        assert!(is_as_before(&view(vec![master(1, 5), replica(2, 1, 5)]), "n2"));
        for nodes in [
            [dead(1, None), replica(2, 1, 5)],
            [master(1, 5), dead(2, Some(1))],
            [master(1, 5), silent],
            [master(1, 5), with(master(2, 5), |_| {})],
            [handing_over(master(1, 5)), replica(2, 1, 5)],
        ] {
            assert!(!is_as_before(&view(nodes.to_vec()), "n2"), "{nodes:?}");
        }
    }

    fn told(events: Vec<Event>) -> Option<String> {
        let entry = |event| JournalEntry { time_unix_ms: 0, run: "1-1".to_owned(), user: String::new(), event };
        unfinished_in(&events.into_iter().map(entry).collect::<Vec<_>>(), "n2")
    }

    #[test]
    fn a_change_of_masters_is_unfinished_until_a_command_is_done() {
        let promoted = || Event::Promoted { node: "n2".to_owned(), old_master: "n1".to_owned(), former: None };
        let finished =
            |error: Option<&str>| Event::Finished { command: "promote".to_owned(), error: error.map(str::to_owned) };
        assert_eq!(told(vec![]), None);
        assert_eq!(told(vec![promoted()]).as_deref(), Some("n1"));
        assert_eq!(told(vec![promoted(), finished(Some("no link"))]).as_deref(), Some("n1"));
        assert_eq!(told(vec![promoted(), finished(None)]), None);
        let other = Event::Promoted { node: "n3".to_owned(), old_master: "n2".to_owned(), former: None };
        assert_eq!(told(vec![other]), None, "that is not the master any more");
    }
}
