//! Commands: one table, one line each; a handler per command; the gates before and the commit behind it.
//!
//! A handler's kind is its flag: a [`Handler::Read`] sees `&Keyspace` and cannot change it, a [`Handler::Write`] must
//! return the [`Effect`] that replicas are told. What concerns the connection or the server as a whole is a
//! [`Handler::Server`].

mod about;
mod acl;
mod bit;
mod category;
mod client;
mod connection;
mod debug;
mod execute;
mod field_deadline;
mod function;
mod geo;
mod hash;
mod hyperloglog;
mod introspection;
mod key;
mod keyspec;
mod lcs;
mod list;
mod memory;
mod migrate;
mod monitor;
mod object;
mod pubsub;
mod replication;
mod server;
mod set;
mod slowlog;
mod sort;
mod sorted_set;
mod stream;
mod string;
mod table;
mod tracking;
mod transaction;

use std::borrow::Cow;
use std::cell::RefCell;
use std::ops::Range;

pub use acl::{LogEntry, User, Users};
pub use execute::{Flow, Planned};
pub use migrate::Connections;
pub use table::Command;

/// Whether there is a command of this name.
pub fn is_known(name: &[u8]) -> bool {
    table::find(name).is_some()
}

use crate::client::Session;
use crate::config::Config;
use crate::instance::{Instance, Stats};
use crate::keyspace::{Absent, EntryRef, Key, Keyspace, WrongType};
use crate::long_double::LongDouble;
use crate::notify::{Classes, Event};
use crate::resp::{Reply, Span};
use crate::value::{Aggregate, Dice, ValueRef};

/// The error reply of a command, its code first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorReply(Cow<'static, [u8]>);

/// What a handler returns.
pub type Result<T> = std::result::Result<T, ErrorReply>;

/// So much of what a client has sent is enough to show it its mistake, in bytes.
const QUOTED_BYTES_MAX: usize = 128;

impl ErrorReply {
    const SYNTAX: ErrorReply = ErrorReply::new("ERR syntax error");
    const NOT_AN_INTEGER: ErrorReply = ErrorReply::new("ERR value is not an integer or out of range");
    const NOT_A_FLOAT: ErrorReply = ErrorReply::new("ERR value is not a valid float");
    const OUT_OF_RANGE: ErrorReply = ErrorReply::new("ERR value is out of range");
    const NOT_POSITIVE: ErrorReply = ErrorReply::new("ERR value is out of range, must be positive");
    const DB_OUT_OF_RANGE: ErrorReply = ErrorReply::new("ERR DB index is out of range");
    const BAD_TIMEOUT: ErrorReply = ErrorReply::new("ERR timeout is not an integer or out of range");
    const NEGATIVE_TIMEOUT: ErrorReply = ErrorReply::new("ERR timeout is negative");
    const SAVE_IN_PROGRESS: ErrorReply = ErrorReply::new("ERR Background save already in progress");

    const NO_SUCH_KEY: ErrorReply = ErrorReply::new("ERR no such key");
    const WRONG_TYPE: ErrorReply = ErrorReply::new("WRONGTYPE Operation against a key holding the wrong kind of value");

    const SAME_OBJECT: ErrorReply = ErrorReply::new("ERR source and destination objects are the same");

    const fn new(text: &'static str) -> Self {
        ErrorReply(Cow::Borrowed(text.as_bytes()))
    }

    fn owned(text: String) -> Self {
        Self::from_bytes(text.into_bytes())
    }

    const fn from_bytes(text: Vec<u8>) -> Self {
        ErrorReply(Cow::Owned(text))
    }

    /// Says what a client has sent, between two texts.
    fn quoting(before: &str, sent: &[u8], after: &str) -> Self {
        Self::from_bytes([before.as_bytes(), quotable(sent), after.as_bytes()].concat())
    }

    fn arity(command: &str) -> Self {
        Self::owned(format!("ERR wrong number of arguments for '{command}' command"))
    }

    /// A subcommand that has optional arguments, with others.
    fn subcommand_arguments(args: Args) -> Self {
        let after = format!("'. Try {} HELP.", String::from_utf8_lossy(args.get(0)).to_ascii_uppercase());
        Self::quoting("ERR unknown subcommand or wrong number of arguments for '", args.get(1), &after)
    }

    fn expire_time(command: &str) -> Self {
        Self::owned(format!("ERR invalid expire time in '{command}' command"))
    }

    fn client_type(name: &[u8]) -> Self {
        Self::quoting("ERR Unknown client type '", name, "'")
    }

    /// As it goes over the wire, without the leading `-`. It may quote what a client has sent, whatever that is.
    pub fn text(&self) -> &[u8] {
        &self.0
    }
}

impl From<WrongType> for ErrorReply {
    fn from(_: WrongType) -> Self {
        ErrorReply::WRONG_TYPE
    }
}

/// What an error may quote of an argument: it ends where C's strings do, since who reads it may be written in C.
fn quotable(sent: &[u8]) -> &[u8] {
    let end = memchr::memchr(0, sent).unwrap_or(sent.len());
    &sent[..end.min(QUOTED_BYTES_MAX)]
}

fn parse_integer(text: &[u8]) -> Result<i64> {
    crate::number::parse_i64(text).ok_or(ErrorReply::NOT_AN_INTEGER)
}

/// When a command has waited long enough whose timeout is given in seconds, in milliseconds since the epoch; 0 seconds are
/// for ever.
fn parse_timeout(seconds: &[u8], now_ms: i64) -> Result<Option<i64>> {
    let invalid = ErrorReply::new("ERR timeout is not a float or out of range");
    let ms = (LongDouble::parse(seconds).ok_or(invalid)?.to_f64() * 1000.0).ceil();
    // As in Redis, where what does not fit 64 bits becomes negative.
    if ms < 0.0 || ms >= i64::MAX as f64 {
        return Err(ErrorReply::NEGATIVE_TIMEOUT);
    }
    Ok((ms > 0.0).then(|| now_ms.saturating_add(ms as i64)))
}

/// An argument that counts something; `error` is told of whatever is no count.
fn parse_count(text: &[u8], least: i64, error: &'static str) -> Result<usize> {
    let count = parse_integer(text).ok().filter(|count| *count >= least).and_then(|count| usize::try_from(count).ok());
    count.ok_or(ErrorReply::new(error))
}

/// The arguments of one request, the command's name first, borrowed from the buffer it was read into.
#[derive(Debug, Clone, Copy)]
pub struct Args<'a> {
    request: &'a [u8],
    spans: &'a [Span],
    first_key_hash: u64,
}

impl<'a> Args<'a> {
    /// `spans` lie in `request`; `first_key_hash` belongs to the argument behind the name, if that is a key.
    pub fn new(request: &'a [u8], spans: &'a [Span], first_key_hash: u64) -> Self {
        Args { request, spans, first_key_hash }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.spans.len()
    }

    #[inline]
    fn get(&self, index: usize) -> &'a [u8] {
        let span = self.spans[index];
        &self.request[span.start as usize..][..span.len as usize]
    }

    /// The request that begins with argument `first`.
    fn inner(self, first: usize) -> Args<'a> {
        Args { request: self.request, spans: &self.spans[first..], first_key_hash: 0 }
    }

    pub(crate) fn maybe(&self, index: usize) -> Option<&'a [u8]> {
        (index < self.len()).then(|| self.get(index))
    }

    fn from(self, first: usize) -> impl Iterator<Item = &'a [u8]> {
        (first..self.len()).map(move |index| self.get(index))
    }

    /// The argument behind the name as a key, hashed when the request was planned.
    #[inline]
    fn first_key(&self) -> Key<'a> {
        Key { bytes: self.get(1), hash: self.first_key_hash }
    }

    /// What is asked for, as it was written.
    pub fn name(&self) -> &'a [u8] {
        self.get(0)
    }

    /// Whether this asks a replica to say how far it has come.
    pub fn is_getack(&self) -> bool {
        self.len() == 3 && self.is(0, "replconf") && self.is(1, "getack")
    }

    fn is(&self, index: usize, word: &str) -> bool {
        self.maybe(index).is_some_and(|argument| argument.eq_ignore_ascii_case(word.as_bytes()))
    }
}

/// Keys that a reading handler came upon and that something follows from; mostly none.
#[derive(Default)]
pub struct Met {
    /// They were looked for in vain, and somebody wants to hear of it.
    missed: RefCell<Vec<Box<[u8]>>>,
    /// Their time had come.
    expired: RefCell<Vec<Box<[u8]>>>,
}

impl Met {
    /// Whether there is any.
    #[inline]
    fn any(&self) -> bool {
        !self.missed.borrow().is_empty() || !self.expired.borrow().is_empty()
    }
}

/// What a reading handler sees.
pub struct ReadContext<'a> {
    keyspace: &'a Keyspace,
    db: usize,
    /// Milliseconds since the epoch, for what is relative to now.
    now_ms: i64,
    /// Keys whose deadline is not later are absent. A replica applying its upstream's stream sees none as expired.
    expiry_ms: i64,
    config: &'a Config,
    random: &'a mut Dice,
    stats: &'a Stats,
    met: &'a Met,
    reply: Reply<'a>,
}

impl<'a> ReadContext<'a> {
    /// The live entry, which is used with that.
    #[inline]
    fn get(&self, key: Key) -> Option<EntryRef<'a>> {
        let entry = self.glance(key);
        if let Some(entry) = entry {
            entry.touch(self.keyspace.clock(), key.hash);
        }
        entry
    }

    /// The live entry, looked at without being used.
    #[inline]
    fn glance(&self, key: Key) -> Option<EntryRef<'a>> {
        let entry = self.keyspace.get(self.db, key, self.expiry_ms);
        if entry.is_some() {
            self.stats.keyspace_hits.update(|hits| hits + 1);
        } else {
            self.note_miss(key);
        }
        entry
    }

    #[inline(never)]
    fn note_miss(&self, key: Key) {
        self.stats.keyspace_misses.update(|misses| misses + 1);
        if self.config.notify_keyspace_events.has(Classes::MISS) {
            self.met.missed.borrow_mut().push(key.bytes.into());
        }
    }

    /// The list, hash, set or sorted set that the key holds, if there is one.
    ///
    /// # Errors
    /// It holds another type.
    fn value<A: Aggregate>(&self, key: Key) -> Result<Option<&'a A>> {
        self.get(key).map(aggregate).transpose()
    }
}

/// The value of an entry, which must be of this type.
fn aggregate<'a, A: Aggregate>(entry: EntryRef<'a>) -> Result<&'a A> {
    A::of(entry.value()).ok_or(ErrorReply::WRONG_TYPE)
}

/// The value of an entry, which must be a string.
fn as_string(entry: EntryRef<'_>) -> Result<&[u8]> {
    match entry.value() {
        ValueRef::Str(bytes) => Ok(bytes),
        _ => Err(ErrorReply::WRONG_TYPE),
    }
}

/// What a writing handler sees.
pub struct WriteContext<'a> {
    keyspace: &'a mut Keyspace,
    db: usize,
    now_ms: i64,
    expiry_ms: i64,
    random: &'a mut Dice,
    stats: &'a Stats,
    config: &'a Config,
    /// See [`Instance::ignores_checksums`].
    ignores_checksums: bool,
    /// What is changed here is changed for all that have these data: this is the master, or its word.
    owns_data: bool,
    /// Somebody reads what follows from [`Effect::Rewritten`]; otherwise it need not be encoded.
    is_heard: bool,
    reply: Reply<'a>,
    /// Where [`Effect::Rewritten`] is encoded.
    effect: &'a mut Vec<u8>,
    /// What is published when the command is over.
    events: &'a mut Vec<Event>,
}

impl WriteContext<'_> {
    /// The live entry, which is used with that.
    fn get(&self, key: Key) -> Option<EntryRef<'_>> {
        self.get_in(self.db, key)
    }

    /// The same in any database.
    fn get_in(&self, db: usize, key: Key) -> Option<EntryRef<'_>> {
        let entry = self.keyspace.get(db, key, self.expiry_ms)?;
        entry.touch(self.keyspace.clock(), key.hash);
        Some(entry)
    }

    /// The list, hash, set or sorted set that the key holds, if there is one.
    ///
    /// # Errors
    /// It holds another type.
    fn value<A: Aggregate>(&self, key: Key) -> Result<Option<&A>> {
        self.get(key).map(aggregate).transpose()
    }

    /// Edits the list, hash, set or sorted set that the key holds, and keeps its deadline; the key goes if nothing is
    /// left in it. `None` if it is absent, and `absent` says to skip it.
    ///
    /// # Errors
    /// It holds another type.
    fn edit<A: Aggregate, R>(&mut self, key: Key, absent: Absent, edit: impl FnOnce(&mut A) -> R) -> Result<Option<R>> {
        Ok(self.keyspace.edit(self.db, key, self.expiry_ms, absent, edit)?)
    }

    /// Lets the key hold this and nothing else, without a deadline; an empty value is no key.
    fn store<A: Aggregate>(&mut self, key: Key, value: A) {
        if value.is_empty() {
            self.keyspace.remove(self.db, key);
        } else {
            self.keyspace.insert(self.db, key, value.into_value(), None);
        }
    }

    /// A key was read, or looked for in vain, by a command that does not only write.
    fn looked_up(&mut self, key: Key) {
        match self.keyspace.get(self.db, key, self.expiry_ms) {
            Some(entry) => {
                entry.touch(self.keyspace.clock(), key.hash);
                self.stats.keyspace_hits.update(|hits| hits + 1);
            }
            None => {
                self.stats.keyspace_misses.update(|misses| misses + 1);
                self.notify(Classes::MISS, "keymiss", key.bytes);
            }
        }
    }

    /// Something has happened to a key of this database.
    #[inline]
    fn notify(&mut self, class: Classes, event: &'static str, key: &[u8]) {
        self.notify_in(self.db, class, event, key);
    }

    /// Something has happened to a key of any database.
    #[inline]
    fn notify_in(&mut self, db: usize, class: Classes, event: &'static str, key: &[u8]) {
        if self.config.notify_keyspace_events != Classes::NONE {
            self.push_event(db, class, event, key);
        }
    }

    #[cold]
    fn push_event(&mut self, db: usize, class: Classes, name: &'static str, key: &[u8]) {
        let created = self.keyspace.take_created().into_iter();
        self.events.extend(created.map(|(db, key)| Event { name: "new", db, key }));
        if self.config.notify_keyspace_events.has(class) {
            self.events.push(Event { name, db, key: key.into() });
        }
    }

    /// Something was taken from the value of a key, which has gone if nothing was left.
    fn notify_taken(&mut self, class: Classes, event: &'static str, key: &[u8]) {
        if self.config.notify_keyspace_events != Classes::NONE {
            self.push_event(self.db, class, event, key);
            if self.keyspace.peek(self.db, self.keyspace.key(key)).is_none() {
                self.push_event(self.db, Classes::GENERIC, "del", key);
            }
        }
    }

    fn check_string_len(&self, len: u64) -> Result<()> {
        if len > self.config.proto_max_bulk_len {
            return Err(ErrorReply::new("ERR string exceeds maximum allowed size (proto-max-bulk-len)"));
        }
        Ok(())
    }
}

/// What the replicas are told of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing changed.
    None,
    /// The request as it came.
    Verbatim,
    /// Other requests, which the handler has encoded and which are done together.
    Rewritten,
}

/// What became of a command that may wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// It found what it wanted.
    Done(Effect),
    /// It did not. The reply that it has written is for a client that may not wait.
    Wait {
        /// Which of its arguments are the keys that it waits for.
        keys: Range<usize>,
        /// In milliseconds since the epoch; none: for ever.
        deadline_ms: Option<i64>,
    },
    /// The same, and when it is tried again it is with another request, of the same command and with the same keys.
    WaitWith {
        /// Its arguments, the name first.
        request: Vec<Vec<u8>>,
        /// As with [`Attempt::Wait`].
        keys: Range<usize>,
        /// As with [`Attempt::Wait`].
        deadline_ms: Option<i64>,
    },
}

impl Attempt {
    /// Who waits has changed nothing.
    fn effect(&self) -> Effect {
        if let Attempt::Done(effect) = self { *effect } else { Effect::None }
    }
}

/// How a command is run, and with that what it may touch.
#[derive(Clone, Copy)]
pub enum Handler {
    /// Looks at keys.
    Read(fn(&mut ReadContext, Args) -> Result<()>),
    /// Changes keys.
    Write(fn(&mut WriteContext, Args) -> Result<Effect>),
    /// Changes keys, or waits until one of them holds something. When one does, it is tried again with this key alone,
    /// and waits on if there is nothing for it after all.
    Blocking(fn(&mut WriteContext, Args, Option<&[u8]>) -> Result<Attempt>),
    /// Concerns the connection or the server.
    Server(fn(&mut ServerContext, Args) -> Result<Flow>),
}

/// What a handler that concerns the connection or the server sees.
pub struct ServerContext<'a> {
    instance: &'a mut Instance,
    session: &'a mut Session,
    out: &'a mut Vec<u8>,
}

impl ServerContext<'_> {
    fn reply(&mut self) -> Reply<'_> {
        Reply::new(self.out, self.session.protocol)
    }

    fn ok(&mut self) -> Result<Flow> {
        self.reply().ok();
        Ok(Flow::Continue)
    }
}
