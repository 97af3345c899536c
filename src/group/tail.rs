//! The end of a replication stream that no replica has: cut out as a list of commands, before anything throws it away.
//!
//! ```text
//! n1, cut off from the others, takes writes alone      A: … 900 ─────────── 1000
//! n2 took over at 900                                  A: … 900 ── B: …
//!
//! tails/n1-3f35fee4-900-1000.resp                      SELECT 0, SET …, INCR …     redis-cli -p PORT --pipe < FILE
//! ```
//!
//! A stream is a row of RESP arrays of bulk strings, and a backlog begins anywhere in one. An offset that a replica has
//! applied is the end of a command, so the commands before it are found by looking for a place from which whole ones lead
//! exactly there; they tell which database is selected. From a living server of any engine the stream is had as a replica has
//! it, with `PSYNC`; that of a dead repld lies in its backlog file.
//!
//! Source: <https://redis.io/docs/latest/develop/reference/protocol-spec/>, and the section on how replication works in
//! <https://redis.io/docs/latest/operate/oss_and_stack/management/replication/>.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::process::{GroupDir, StateError};
use crate::wire::{Endpoint, ReplicationId};

/// How far before a tail its database is looked for, in bytes.
const SEARCH_BYTES_MAX: u64 = 64 << 20;
/// How long a server may say nothing while it hands out its stream.
const SILENCE_LIMIT: Duration = Duration::from_secs(5);
/// More words than any command has, and longer lines than any header of one.
const WORDS_MAX: usize = 1 << 20;
/// What a server may say before the stream begins, in bytes.
const ANSWER_BYTES_MAX: u64 = 1 << 10;

/// The commands between two offsets of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    /// The offsets.
    pub offsets: Range<u64>,
    /// The database that is selected at its beginning; `None` if nothing tells.
    pub database: Option<u32>,
    /// How many commands it has that are somebody's: no `SELECT`, no `MULTI` and `EXEC`, none that servers send by themselves.
    pub commands: u64,
    /// The commands as RESP, `SELECT` first where the database is known.
    pub text: Vec<u8>,
}

/// Why there is no tail to be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TailError {
    /// There is none at all.
    #[error("it has no backlog")]
    NoBacklog,
    /// What came is not a stream of commands.
    #[error("its stream cannot be read as commands")]
    Malformed,
    /// The server does not hand it out.
    #[error("{0}")]
    Refused(String),
}

/// What became of a tail that no node of the group has any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TailReport {
    /// The node that had it.
    pub node: String,
    /// The history.
    pub replid: String,
    /// Bytes of the history before it.
    pub from: u64,
    /// Bytes of the history up to its end.
    pub to: u64,
    /// Where it is now.
    #[serde(flatten)]
    pub fate: TailFate,
}

/// Where a tail is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fate", rename_all = "kebab-case")]
pub enum TailFate {
    /// In a file.
    Kept {
        /// The file.
        file: PathBuf,
        /// The database selected at its beginning; `None`: unknown.
        database: Option<u32>,
        /// How many commands it has.
        commands: u64,
    },
    /// Nowhere.
    Gone {
        /// Why.
        why: String,
    },
}

impl TailReport {
    /// Whether it was to be kept and could not be.
    pub fn is_gone(&self) -> bool {
        matches!(self.fate, TailFate::Gone { .. })
    }
}

impl fmt::Display for TailReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, replid, from, to, fate } = self;
        write!(out, "offsets {from} to {to} of {replid:.8} on {node} ")?;
        match fate {
            TailFate::Kept { file, commands, database } => {
                write!(out, "({commands} commands) are kept in {}", file.display())?;
                if database.is_none() { write!(out, "; their database is unknown") } else { Ok(()) }
            }
            TailFate::Gone { why } => write!(out, "are gone: {why}"),
        }
    }
}

/// Writes a tail into the group's state directory, and tells where it is and what is missing of what was wished. One without
/// commands is no loss.
///
/// # Errors
/// The directory cannot be written: what comes next would throw the tail away.
pub(super) fn keep(
    dir: &GroupDir,
    node: &str,
    replid: &str,
    wished: Range<u64>,
    tail: Result<Tail, TailError>,
) -> Result<Vec<TailReport>, StateError> {
    let report = |from, to, fate| TailReport { node: node.to_owned(), replid: replid.to_owned(), from, to, fate };
    let Tail { offsets: Range { start: from, end: to }, database, commands, text } = match tail {
        Ok(tail) => tail,
        Err(error) => {
            return Ok(vec![report(wished.start, wished.end, TailFate::Gone { why: error.to_string() })]);
        }
    };
    let mut reports = Vec::new();
    if from > wished.start {
        let why = format!("its backlog does not reach back further than offset {from}");
        reports.push(report(wished.start, from, TailFate::Gone { why }));
    }
    if commands > 0 {
        let file = dir.save_tail(&format!("{node}-{replid:.8}-{from}-{to}.resp"), &text)?;
        reports.push(report(from, to, TailFate::Kept { file, database, commands }));
    }
    Ok(reports)
}

impl Tail {
    /// Cuts the commands from `from` on out of a stream whose first byte is byte `start` of its history. If that is later
    /// than `from`, it is all from the first whole command on. `database_at_end` is what is selected at the end of the
    /// stream, if that is known.
    ///
    /// # Errors
    /// It is no stream, or ends before `from`.
    pub fn cut(stream: &[u8], start: u64, from: u64, database_at_end: Option<u32>) -> Result<Self, TailError> {
        let before = match from.checked_sub(start) {
            Some(before) => before,
            None => first_boundary(stream).ok_or(TailError::Malformed)? as u64,
        };
        let before =
            usize::try_from(before).ok().filter(|before| *before <= stream.len()).ok_or(TailError::Malformed)?;
        let (head, rest) = stream.split_at(before);
        let (mut body, mut end, mut commands, mut selected) = (Vec::new(), 0, 0, None);
        let mut begins_with_select = None;
        while let Some(command) = Command::parse(&rest[end..]) {
            begins_with_select.get_or_insert(command.is("select"));
            selected = command.selected().or(selected);
            if !command.is_between_servers() {
                body.extend_from_slice(&rest[end..end + command.length]);
            }
            commands += u64::from(!command.is_between_servers() && !command.is_frame());
            end += command.length;
        }
        if end == 0 && !rest.is_empty() {
            return Err(TailError::Malformed);
        }
        // Where nothing selects a database in between, that of the end is that of the beginning.
        let database = selected_in(head).or(database_at_end.filter(|_| selected.is_none()));
        let mut text = Vec::new();
        if let Some(database) = database.filter(|_| begins_with_select == Some(false)) {
            let database = database.to_string();
            text = format!("*2\r\n$6\r\nSELECT\r\n${}\r\n{database}\r\n", database.len()).into_bytes();
        }
        text.append(&mut body);
        let first = start + before as u64;
        let database = database.or(selected.filter(|_| begins_with_select == Some(true)));
        Ok(Self { offsets: first..first + end as u64, database, commands, text })
    }

    /// Asks a living server for its stream from `from` up to `to`, as a replica of its would. `backlog` is what it says that
    /// it still has; what is older is not asked for, since the answer would be its whole data set.
    ///
    /// # Errors
    /// It has it no longer, or does not hand it out.
    pub async fn fetch(
        endpoint: &Endpoint,
        replid: &ReplicationId,
        backlog: Option<Range<u64>>,
        (from, to): (u64, u64),
    ) -> Result<Self, TailError> {
        let backlog = backlog.ok_or(TailError::NoBacklog)?;
        let start = backlog.start.max(from.saturating_sub(SEARCH_BYTES_MAX));
        let stream = tokio::time::timeout(SILENCE_LIMIT, open_stream(endpoint, replid, start)).await;
        let mut stream = stream.unwrap_or_else(|_| Err(TailError::Refused("it does not answer".to_owned())))?;
        let length = usize::try_from(to.saturating_sub(start)).map_err(|_| TailError::Malformed)?;
        // Grows with what comes, whatever was said to come.
        let mut bytes = Vec::new();
        let mut piece = vec![0; 64 << 10];
        while bytes.len() < length {
            let wanted = piece.len().min(length - bytes.len());
            let read = tokio::time::timeout(SILENCE_LIMIT, stream.read(&mut piece[..wanted])).await;
            match read {
                Ok(Ok(count)) if count > 0 => bytes.extend_from_slice(&piece[..count]),
                _ => return Err(TailError::Refused("its stream broke off".to_owned())),
            }
        }
        Self::cut(&bytes, start, from, None)
    }
}

/// Connects and asks for the stream from `start` on; what is read next is its first byte.
async fn open_stream(
    endpoint: &Endpoint,
    replid: &ReplicationId,
    start: u64,
) -> Result<BufReader<TcpStream>, TailError> {
    let broken = |error: std::io::Error| TailError::Refused(error.to_string());
    let stream = TcpStream::connect((endpoint.address.host.as_str(), endpoint.address.port)).await.map_err(broken)?;
    let mut stream = BufReader::new(stream);
    // The wire asks for the next byte.
    let next_byte = (start + 1).to_string();
    let replid = replid.to_string();
    let mut orders: Vec<(Vec<&str>, &str)> = vec![(vec!["PSYNC", &replid, &next_byte], "+CONTINUE")];
    if let Some(password) = &endpoint.login.password {
        let user = endpoint.login.user.as_deref();
        let words = std::iter::once("AUTH").chain(user).chain([password.as_str()]);
        orders.insert(0, (words.collect(), "+OK"));
    }
    for (words, expected) in orders {
        stream.write_all(&encode(&words)).await.map_err(broken)?;
        let mut answer = String::new();
        // A server may send empty lines while it makes up its mind.
        while answer.trim().is_empty() {
            answer.clear();
            let count = (&mut stream).take(ANSWER_BYTES_MAX).read_line(&mut answer).await.map_err(broken)?;
            if count == 0 {
                return Err(TailError::Refused("it closed the connection".to_owned()));
            }
        }
        if !answer.starts_with(expected) {
            return Err(TailError::Refused(answer.trim().to_owned()));
        }
    }
    Ok(stream)
}

fn encode(words: &[&str]) -> Vec<u8> {
    let words = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len()));
    format!("*{}\r\n{}", words.len(), words.collect::<String>()).into_bytes()
}

/// One whole command at the head of some bytes.
struct Command<'a> {
    /// With all its words, in bytes.
    length: usize,
    name: &'a [u8],
    first_argument: Option<&'a [u8]>,
}

impl<'a> Command<'a> {
    /// `None` if there is no whole command.
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (count, mut at) = header(bytes, b'*')?;
        if !(1..=WORDS_MAX).contains(&count) {
            return None;
        }
        let (mut name, mut first_argument): (&[u8], _) = (&[], None);
        for index in 0..count {
            let (length, skipped) = header(&bytes[at..], b'$')?;
            let word = bytes.get(at + skipped..)?.get(..length)?;
            at += skipped + length;
            if bytes.get(at..at + 2)? != b"\r\n" {
                return None;
            }
            at += 2;
            match index {
                0 => name = word,
                1 => first_argument = Some(word),
                _ => {}
            }
        }
        Some(Self { length: at, name, first_argument })
    }

    fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }

    /// What servers tell each other: no client has written it.
    fn is_between_servers(&self) -> bool {
        self.is("ping") || self.is("replconf")
    }

    /// What only says where and how the others run.
    fn is_frame(&self) -> bool {
        ["select", "multi", "exec"].iter().any(|name| self.is(name))
    }

    fn selected(&self) -> Option<u32> {
        let database = std::str::from_utf8(self.first_argument.filter(|_| self.is("select"))?).ok()?;
        database.parse().ok()
    }
}

/// `*3\r\n` or `$5\r\n`: the number, and how many bytes it takes.
fn header(bytes: &[u8], kind: u8) -> Option<(usize, usize)> {
    const DIGITS_MAX: usize = 20;
    let rest = bytes.strip_prefix(&[kind])?;
    let digits = rest.iter().take(DIGITS_MAX).take_while(|byte| byte.is_ascii_digit()).count();
    let number = std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()?;
    (rest.get(digits..digits + 2)? == b"\r\n").then_some((number, 1 + digits + 2))
}

/// The first place from which whole commands lead exactly to the end.
fn first_boundary(bytes: &[u8]) -> Option<usize> {
    // Data that look like commands could make this walk them again and again.
    let mut budget = bytes.len().saturating_mul(4);
    let mut from = 0;
    if bytes.is_empty() {
        return Some(0);
    }
    loop {
        let start = from + bytes[from..].iter().position(|&byte| byte == b'*')?;
        let mut end = start;
        while let Some(command) = Command::parse(&bytes[end..]) {
            end += command.length;
        }
        if end == bytes.len() {
            return Some(start);
        }
        budget = budget.checked_sub(end - start + 1)?;
        from = start + 1;
    }
}

/// The database that a stream selected last, which begins anywhere and ends with a whole command.
fn selected_in(bytes: &[u8]) -> Option<u32> {
    let mut at = first_boundary(bytes)?;
    let mut selected = None;
    while let Some(command) = Command::parse(&bytes[at..]) {
        selected = command.selected().or(selected);
        at += command.length;
    }
    selected
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(commands: &[&[&str]]) -> Vec<u8> {
        commands.iter().flat_map(|words| encode(words)).collect()
    }

    #[test]
    fn a_tail_begins_in_the_database_that_was_selected_long_before_it() {
        let before = stream(&[&["SELECT", "3"], &["SET", "a", "1"]]);
        let after =
            stream(&[&["SET", "b", "2"], &["PING"], &["REPLCONF", "GETACK", "*"], &["SELECT", "0"], &["INCR", "c"]]);
        let whole = [&before[..], &after].concat();
        let from = 1000 + before.len() as u64;
        // The backlog may begin anywhere in a command.
        for lost in 0..4 {
            let tail = Tail::cut(&whole[lost..], 1000 + lost as u64, from, None).expect("a stream");
            let expected = stream(&[&["SET", "b", "2"], &["SELECT", "0"], &["INCR", "c"]]);
            let (database, text) = match lost {
                0 => (Some(3), [stream(&[&["SELECT", "3"]]), expected].concat()),
                _ => (None, expected),
            };
            assert_eq!((tail.database, tail.commands), (database, 2), "{lost} bytes are lost");
            assert_eq!(String::from_utf8_lossy(&tail.text), String::from_utf8_lossy(&text));
            assert_eq!(tail.offsets, from..from + after.len() as u64);
        }
    }

    #[test]
    fn values_that_look_like_commands_mislead_nobody() {
        let select = String::from_utf8(stream(&[&["SELECT", "9"]])).expect("it is text");
        let before = stream(&[&["SELECT", "2"], &["SET", "a", &select], &["SET", "b", &format!("{select}*")]]);
        let after = stream(&[&["SET", "c", "1"]]);
        let whole = [&before[..], &after].concat();
        let tail = Tail::cut(&whole, 0, before.len() as u64, None).expect("a stream");
        assert_eq!((tail.database, tail.commands), (Some(2), 1));
    }

    #[test]
    fn the_database_of_the_end_is_that_of_the_beginning_unless_one_is_selected_in_between() {
        let plain = stream(&[&["SET", "a", "1"]]);
        assert_eq!(Tail::cut(&plain, 0, 0, Some(7)).expect("a stream").database, Some(7));
        let selecting = stream(&[&["SET", "a", "1"], &["SELECT", "7"], &["SET", "a", "1"]]);
        assert_eq!(Tail::cut(&selecting, 0, 0, Some(7)).expect("a stream").database, None);
        let leading = stream(&[&["SELECT", "7"], &["SET", "a", "1"]]);
        let tail = Tail::cut(&leading, 0, 0, None).expect("a stream");
        assert_eq!((tail.database, tail.text), (Some(7), leading));
    }

    #[test]
    fn of_what_was_overwritten_all_that_is_whole_is_left() {
        let whole = stream(&[&["SET", "a", "1"], &["SET", "b", "2"]]);
        let tail = Tail::cut(&whole[5..], 105, 100, None).expect("a stream");
        assert_eq!((tail.commands, tail.offsets), (1, 127..100 + whole.len() as u64));
        assert_eq!(Tail::cut(&[], 5, 5, None).expect("an empty stream").commands, 0);
    }

    #[test]
    fn what_is_no_stream_is_refused_and_a_torn_end_left_out() {
        let whole = stream(&[&["SET", "a", "1"], &["SET", "b", "2"]]);
        assert_eq!(Tail::cut(&whole, 0, 1, None), Err(TailError::Malformed));
        assert_eq!(Tail::cut(&whole, 0, 1 << 40, None), Err(TailError::Malformed));
        let torn = Tail::cut(&whole[..whole.len() - 3], 0, 0, None).expect("the first is whole");
        assert_eq!((torn.commands, torn.offsets), (1, 0..27));
        for huge in
            ["*99999999999999999999\r\n", "*1\r\n$18446744073709551615\r\nx\r\n", "*-1\r\n", "*0\r\n", "*1\r\n$3"]
        {
            assert_eq!(Tail::cut(huge.as_bytes(), 0, 0, None), Err(TailError::Malformed), "{huge:?}");
        }
    }

    #[test]
    fn data_full_of_commands_are_not_walked_for_ever() {
        let pings = encode(&["PING"]).repeat(20_000);
        let began = std::time::Instant::now();
        assert_eq!(first_boundary(&[&pings[..], b"*1\r\n"].concat()), None);
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}
