//! A change of masters that was not seen to its end, since replctl was killed or gave up in the middle of it.
//!
//! ```text
//! promoted n2 in place of n1 … finished      done
//! promoted n2 in place of n1 …               links, configuration files and the user's hook may be missing
//! ```
//!
//! The group itself shows only the links. A file that still makes a master of the old one would let whoever starts it by hand
//! have two, so the same command again goes through all of it, even where nothing seems to be wrong.

use super::journal::{JournalEntry, RECENT_BYTES, read_end};
use super::{Group, GroupError};
use crate::event::Event;

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

#[cfg(test)]
mod tests {
    use super::*;

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
