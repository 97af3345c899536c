//! Commands that took long: <https://redis.io/docs/latest/commands/slowlog/>.

use std::collections::VecDeque;

use crate::client::Client;

/// Of a command, so many arguments are kept.
const ARGUMENTS_MAX: usize = 32;
/// Of an argument, so many bytes are kept.
const ARGUMENT_BYTES_MAX: usize = 128;

/// A command that took long.
#[derive(Debug)]
pub struct Entry {
    /// Counted up since the server started.
    pub id: u64,
    /// When it ended, in seconds since the epoch.
    pub at_s: i64,
    /// How long it took, in microseconds.
    pub took_us: i64,
    /// What was asked for, shortened.
    pub arguments: Vec<Vec<u8>>,
    /// Who asked.
    pub address: String,
    /// That connection's name.
    pub name: Vec<u8>,
}

/// The last of them.
#[derive(Debug, Default)]
pub struct SlowLog {
    /// The newest first.
    entries: VecDeque<Entry>,
    next_id: u64,
}

impl SlowLog {
    /// Adds a command, and forgets the oldest beyond `entries_max`.
    pub fn add(&mut self, at_s: i64, took_us: i64, arguments: &[Vec<u8>], client: &Client, entries_max: usize) {
        let entry = Entry {
            id: self.next_id,
            at_s,
            took_us,
            arguments: shortened(arguments),
            address: client.address.clone(),
            name: client.name.borrow().clone(),
        };
        self.next_id += 1;
        self.entries.push_front(entry);
        self.entries.truncate(entries_max);
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The newest first.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }
}

fn shortened(arguments: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let kept = if arguments.len() > ARGUMENTS_MAX { ARGUMENTS_MAX - 1 } else { arguments.len() };
    let mut shortened: Vec<Vec<u8>> = arguments[..kept].iter().map(|argument| shortened_argument(argument)).collect();
    if kept < arguments.len() {
        shortened.push(format!("... ({} more arguments)", arguments.len() - kept).into_bytes());
    }
    shortened
}

fn shortened_argument(argument: &[u8]) -> Vec<u8> {
    match argument.split_at_checked(ARGUMENT_BYTES_MAX) {
        Some((start, rest)) if !rest.is_empty() => {
            [start, format!("... ({} more bytes)", rest.len()).as_bytes()].concat()
        }
        _ => argument.to_vec(),
    }
}
