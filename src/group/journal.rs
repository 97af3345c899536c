//! What was done to a group, in order: one JSON object per line.
//!
//! ```json
//! {"time_unix_ms":1795374379785,"run":"4711-1795374379700","user":"ann","event":"step-began","step":"promote","node":"n2"}
//! ```
//!
//! A line is appended by one write, so it is whole or, after a crash, the torn last one, which a reader skips. The page
//! cache outlives this process however it ends; [`Journal::sync`] is for what must outlive the machine. What a broken-off
//! promotion left is not read from here but seen in the group itself, so the journal can never contradict the truth.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::event::Event;

/// How much of the end of a journal is read to find out what happened last.
pub const RECENT_BYTES: u64 = 1 << 20;

/// A group's journal, open for appending.
#[derive(Debug)]
pub struct Journal {
    file: File,
    run: String,
    user: String,
}

/// One line of a journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JournalEntry {
    /// When, in milliseconds since 1970.
    pub time_unix_ms: u64,
    /// The run of replctl that did it: its pid and start time.
    pub run: String,
    /// Who ran it.
    #[serde(default)]
    pub user: String,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

impl JournalEntry {
    /// How long ago that was, in seconds.
    pub fn seconds_ago(&self) -> u64 {
        unix_ms().saturating_sub(self.time_unix_ms) / 1000
    }
}

impl Journal {
    /// Opens a journal, making the file (0600) if there is none.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
        if ends_in_a_torn_line(&mut file)? {
            file.write_all(b"\n")?;
        }
        // A name that can be wrong is worth more here than a number that cannot.
        let user = std::env::var("USER").unwrap_or_else(|_| format!("uid {}", rustix::process::getuid().as_raw()));
        Ok(Self { file, run: format!("{}-{}", std::process::id(), unix_ms()), user })
    }

    /// Appends an event.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn append(&mut self, event: &Event) -> io::Result<()> {
        let (run, user) = (self.run.clone(), self.user.clone());
        let entry = JournalEntry { time_unix_ms: unix_ms(), run, user, event: event.clone() };
        let mut line = serde_json::to_vec(&entry).map_err(io::Error::other)?;
        line.push(b'\n');
        self.file.write_all(&line)
    }

    /// Another handle on the same file, with which a thread can wait for the disk.
    ///
    /// # Errors
    /// The process has too many open files.
    pub fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }
}

/// What a journal says.
#[derive(Debug, Default)]
pub struct Reading {
    /// Oldest first.
    pub entries: Vec<JournalEntry>,
    /// Where lines begin that are no entries: in bytes from the start of the file.
    pub damaged: Vec<u64>,
}

/// The entries in the last `bytes_max` bytes of a journal, oldest first; none if there is no journal. Lines that are no
/// entries are skipped.
///
/// # Errors
/// The file exists and cannot be read.
pub fn read_end(path: &Path, bytes_max: u64) -> io::Result<Vec<JournalEntry>> {
    Ok(read(path, bytes_max)?.entries)
}

/// Those of the entries in the last [`RECENT_BYTES`] of a journal whose event has this name, oldest first. The others are not
/// even read: a guard asks twice a second.
///
/// # Errors
/// The file exists and cannot be read.
pub fn read_recent_of(path: &Path, event: &str) -> io::Result<Vec<JournalEntry>> {
    let (_, bytes) = end_of(path, RECENT_BYTES)?;
    let name = format!("\"event\":\"{event}\"");
    let text = String::from_utf8_lossy(&bytes);
    let named = text.lines().filter(|line| line.contains(&name));
    let entries = named.filter_map(|line| serde_json::from_str::<JournalEntry>(line).ok());
    Ok(entries.collect())
}

/// Where the last `bytes_max` bytes of a journal begin, and they themselves.
fn end_of(path: &Path, bytes_max: u64) -> io::Result<(u64, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((0, bytes)),
        Err(error) => return Err(error),
    };
    let begins = file.metadata()?.len().saturating_sub(bytes_max);
    file.seek(SeekFrom::Start(begins))?;
    file.take(bytes_max).read_to_end(&mut bytes)?;
    Ok((begins, bytes))
}

/// What the last `bytes_max` bytes of a journal say.
///
/// # Errors
/// The file exists and cannot be read.
pub fn read(path: &Path, bytes_max: u64) -> io::Result<Reading> {
    let (mut begins, bytes) = end_of(path, bytes_max)?;
    let mut reading = Reading::default();
    for (index, line) in bytes.split_inclusive(|&byte| byte == b'\n').enumerate() {
        let is_whole = line.ends_with(b"\n") && (index > 0 || begins == 0);
        match serde_json::from_slice(line) {
            Ok(entry) => reading.entries.push(entry),
            // The first one may be cut by the window, the last one may just be written.
            Err(_) if is_whole && line != b"\n" => reading.damaged.push(begins),
            Err(_) => {}
        }
        begins += line.len() as u64;
    }
    Ok(reading)
}

fn ends_in_a_torn_line(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

fn unix_ms() -> u64 {
    // A clock before 1970 is wrong anyway.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn began(command: &str) -> Event {
        Event::Began { command: command.to_owned() }
    }

    #[test]
    fn what_was_written_is_read_back_in_order() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("journal.jsonl");
        assert_eq!(read_end(&path, RECENT_BYTES).expect("no journal is an empty one"), []);
        let mut journal = Journal::open(&path).expect("the directory is ours");
        journal.append(&began("up")).expect("the file is ours");
        journal.append(&began("promote")).expect("the file is ours");
        let ended = Event::Ended { node: r#"n1","event":"began"#.to_owned() };
        journal.append(&ended).expect("the file is ours");
        let events = |read: io::Result<Vec<JournalEntry>>| -> Vec<Event> {
            read.expect("it is readable").into_iter().map(|entry| entry.event).collect()
        };
        assert_eq!(events(read_end(&path, RECENT_BYTES)), [began("up"), began("promote"), ended]);
        assert_eq!(events(read_recent_of(&path, "began")), [began("up"), began("promote")]);
    }

    #[test]
    fn a_line_torn_by_a_crash_costs_only_itself() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("journal.jsonl");
        Journal::open(&path).and_then(|mut journal| journal.append(&began("up"))).expect("the directory is ours");
        let whole = std::fs::read(&path).expect("it is readable");
        std::fs::write(&path, [&whole[..], &whole[..whole.len() / 2]].concat()).expect("the file is ours");
        Journal::open(&path).and_then(|mut journal| journal.append(&began("down"))).expect("the directory is ours");
        let events: Vec<_> =
            read_end(&path, RECENT_BYTES).expect("it is readable").into_iter().map(|entry| entry.event).collect();
        assert_eq!(events, [began("up"), began("down")]);
        let reading = read(&path, RECENT_BYTES).expect("it is readable");
        assert_eq!(reading.damaged, [whole.len() as u64]);
        let reading = read(&path, whole.len() as u64).expect("it is readable");
        assert_eq!(reading.damaged, [0_u64; 0], "the first line is cut by the window");
    }
}
