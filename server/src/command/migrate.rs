//! `MIGRATE`: moves keys to another server, as a client of its `RESTORE`.
//! <https://redis.io/docs/latest/commands/migrate/>
//!
//! As in Redis, nobody else is served meanwhile: what is on its way cannot be changed, and is in one place or the other
//! (or in both, if the other server has not answered). The connection is kept for a while, since keys that are moved one
//! by one are many.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use super::{Args, ErrorReply, Flow, Result, ServerContext, parse_integer};
use crate::rdb;
use crate::resp::append_request;

/// A connection that was not used for so long is closed, in milliseconds.
const IDLE_MS: i64 = 10_000;
/// So many are kept.
const KEPT_MAX: usize = 64;
/// No answer to what is sent here is longer, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// What Redis takes where no time is given.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);

/// What is said to the client where the connection fails.
const BROKEN: &str = "IOERR error or timeout";

/// What follows the timeout.
#[derive(Default)]
struct Options<'a> {
    copy: bool,
    replace: bool,
    /// A password, perhaps behind a user's name.
    credentials: Option<(Option<&'a [u8]>, &'a [u8])>,
    /// Behind the word `KEYS`.
    first_key: Option<usize>,
}

impl<'a> Options<'a> {
    fn parse(args: Args<'a>) -> Result<Self> {
        let mut options = Options::default();
        let mut index = 6;
        while index < args.len() {
            match (args.maybe(index + 1), args.maybe(index + 2)) {
                _ if args.is(index, "copy") => options.copy = true,
                _ if args.is(index, "replace") => options.replace = true,
                (Some(password), _) if args.is(index, "auth") => {
                    options.credentials = Some((None, password));
                    index += 1;
                }
                (Some(user), Some(password)) if args.is(index, "auth2") => {
                    options.credentials = Some((Some(user), password));
                    index += 2;
                }
                _ if args.is(index, "keys") => {
                    options.first_key = Some(index + 1);
                    break;
                }
                _ => return Err(ErrorReply::SYNTAX),
            }
            index += 1;
        }
        Ok(options)
    }
}

/// Where the keys are among the arguments.
pub(super) fn keys(args: Args) -> Vec<usize> {
    match Options::parse(args).unwrap_or_default().first_key {
        Some(first) if args.maybe(3) == Some(b"") => (first..args.len()).collect(),
        _ => vec![3],
    }
}

/// The connections that are kept, by host and port as they were written.
#[derive(Default)]
pub struct Connections(HashMap<(Vec<u8>, u16), Connection>);

impl Connections {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Closes those that nobody has used for a while.
    pub fn close_idle(&mut self, now_ms: i64) {
        self.0.retain(|_, connection| now_ms - connection.used_ms <= IDLE_MS);
    }
}

struct Connection {
    stream: BufReader<TcpStream>,
    /// The database that it has selected.
    db: i64,
    /// When it was used last, in milliseconds since the epoch.
    used_ms: i64,
}

impl Connection {
    fn open(host: &[u8], port: u16, timeout: Duration) -> io::Result<Connection> {
        let host = std::str::from_utf8(host).map_err(|_| io::ErrorKind::InvalidInput)?;
        let address = (host, port).to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound)?;
        let stream = TcpStream::connect_timeout(&address, timeout)?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream: BufReader::new(stream), db: 0, used_ms: 0 })
    }

    fn send(&mut self, requests: &[u8], timeout: Duration) -> io::Result<()> {
        self.stream.get_ref().set_write_timeout(Some(timeout))?;
        self.stream.get_ref().set_read_timeout(Some(timeout))?;
        self.stream.get_mut().write_all(requests)
    }

    /// One line of answer.
    fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        self.stream.by_ref().take(ANSWER_BYTES_MAX).read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.truncate(line.strip_suffix(b"\r").unwrap_or(&line).len());
        Ok(line)
    }
}

/// What is sent, and for which keys.
struct Cargo<'a> {
    requests: Vec<u8>,
    /// Answers before those about keys: for `AUTH` and `SELECT`.
    preliminary: usize,
    keys: &'a [&'a [u8]],
}

/// How far a transfer came.
#[derive(Default)]
struct Outcome<'a> {
    /// The other server has these.
    arrived: Vec<&'a [u8]>,
    /// The first thing that it has refused.
    refusal: Option<Vec<u8>>,
    failure: Option<io::Error>,
}

pub(super) fn migrate(context: &mut ServerContext, args: Args) -> Result<Flow> {
    context.instance.gate_write()?;
    let options = Options::parse(args)?;
    if options.first_key.is_some() && !args.get(3).is_empty() {
        return Err(ErrorReply::new(
            "ERR When using MIGRATE KEYS option, the key argument must be set to the empty string",
        ));
    }
    let db = parse_integer(args.get(4))?;
    let timeout = match u64::try_from(parse_integer(args.get(5))?) {
        Ok(ms @ 1..) => Duration::from_millis(ms),
        _ => DEFAULT_TIMEOUT,
    };
    let port = parse_integer(args.get(2))?;
    let port = u16::try_from(port).map_err(|_| ErrorReply::new("ERR Invalid port number"))?;
    let place = (args.get(1).to_vec(), port);
    let (keys, restores) = pack(context, keys(args).into_iter().map(|index| args.get(index)), options.replace);
    if keys.is_empty() {
        context.reply().simple("NOKEY");
        return Ok(Flow::Continue);
    }
    // A connection that was kept may have been closed by the other side; a new one that fails is a failure.
    let mut kept = context.instance.migrations.0.remove(&place);
    let (outcome, connection) = loop {
        let is_new = kept.is_none();
        let opened = kept.take().map_or_else(|| Connection::open(&place.0, port, timeout), Ok);
        let mut connection =
            opened.map_err(|error| ErrorReply::owned(format!("{BROKEN} connecting to the client: {error}")))?;
        let cargo = Cargo::load(&options, (connection.db != db).then_some(db), &keys, &restores);
        let outcome = connection.deliver(cargo, timeout);
        let timed_out = matches!(&outcome.failure, Some(error) if error.kind() == io::ErrorKind::WouldBlock);
        if is_new || outcome.failure.is_none() || timed_out || !outcome.arrived.is_empty() {
            break (outcome, connection);
        }
    };
    if !options.copy && !outcome.arrived.is_empty() {
        context.instance.delete_moved(context.session, &outcome.arrived);
    }
    if let Some(error) = outcome.failure {
        return Err(ErrorReply::owned(format!("{BROKEN} talking to target instance: {error}")));
    }
    if let Some(refusal) = outcome.refusal {
        // The connection is not kept: it may not have got through to its database.
        return Err(ErrorReply::from_bytes([b"ERR Target instance replied with error: ", refusal.as_slice()].concat()));
    }
    let used_ms = context.instance.now_ms;
    let connections = &mut context.instance.migrations;
    if connections.count() < KEPT_MAX {
        connections.0.insert(place, Connection { db, used_ms, ..connection });
    }
    context.ok()
}

/// Those of the keys that there are, and a `RESTORE` for each.
fn pack<'a>(context: &ServerContext, names: impl Iterator<Item = &'a [u8]>, replace: bool) -> (Vec<&'a [u8]>, Vec<u8>) {
    let instance = &context.instance;
    let (keyspace, now_ms) = (&instance.keyspace, instance.now_ms);
    let (mut keys, mut restores) = (Vec::new(), Vec::new());
    for name in names {
        let Some(entry) = keyspace.get(context.session.db(), keyspace.key(name), now_ms) else { continue };
        let ttl_ms = entry.deadline_ms().map_or(0, |deadline_ms| deadline_ms - now_ms);
        let payload = rdb::dump(entry.value(), instance.config.rdbcompression);
        let ttl = ttl_ms.to_string();
        let request = [&b"RESTORE"[..], name, ttl.as_bytes(), &payload, b"REPLACE"];
        append_request(&mut restores, if replace { &request } else { &request[..4] });
        keys.push(name);
    }
    (keys, restores)
}

impl<'a> Cargo<'a> {
    fn load(options: &Options, select: Option<i64>, keys: &'a [&'a [u8]], restores: &[u8]) -> Self {
        let mut cargo = Cargo { requests: Vec::new(), preliminary: 0, keys };
        match options.credentials {
            Some((None, password)) => cargo.prepare(&[b"AUTH", password]),
            Some((Some(user), password)) => cargo.prepare(&[b"AUTH", user, password]),
            None => {}
        }
        if let Some(db) = select {
            cargo.prepare(&[b"SELECT", db.to_string().as_bytes()]);
        }
        cargo.requests.extend_from_slice(restores);
        cargo
    }

    fn prepare(&mut self, request: &[&[u8]]) {
        append_request(&mut self.requests, request);
        self.preliminary += 1;
    }
}

impl Connection {
    fn deliver<'a>(&mut self, cargo: Cargo<'a>, timeout: Duration) -> Outcome<'a> {
        let mut outcome = Outcome::default();
        outcome.failure = self.exchange(&cargo, timeout, &mut outcome).err();
        outcome
    }

    fn exchange<'a>(&mut self, cargo: &Cargo<'a>, timeout: Duration, outcome: &mut Outcome<'a>) -> io::Result<()> {
        self.send(&cargo.requests, timeout)?;
        let mut prepared = true;
        for _ in 0..cargo.preliminary {
            let answer = self.receive()?;
            prepared &= outcome.accept(&answer);
        }
        for key in cargo.keys {
            let answer = self.receive()?;
            // In another database than the one that was asked for, it has not arrived.
            if outcome.accept(&answer) && prepared {
                outcome.arrived.push(key);
            }
        }
        Ok(())
    }
}

impl Outcome<'_> {
    /// Whether an answer is none that refuses; the first that does is kept.
    fn accept(&mut self, answer: &[u8]) -> bool {
        let refusal = answer.strip_prefix(b"-");
        if let (Some(text), None) = (refusal, &self.refusal) {
            self.refusal = Some(text.to_vec());
        }
        refusal.is_none()
    }
}
