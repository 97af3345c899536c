//! A client's connection: a state machine that is fed with bytes.
//!
//! A turn runs what the turn before has read, writes the replies, and reads once. So all connections that are ready are
//! read before any of them is answered: a client that waits for several is woken once, and the kernel does one kind of
//! work at a time (answering each connection at once costs half as much server CPU again at a pipeline of 64). It also
//! gives the cache time: requests are taken in batches, and the keys of a batch are hashed and their places in the key
//! space asked for when it is read, the entries before the first of it is run. Of a batch of one, the entry is asked for
//! when the next connection is read.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;

use super::stream::Stream;
use super::{READ_BYTES, Server, feed};
use crate::client::Session;
use crate::command::{Args, Command, Flow, Planned};
use crate::instance::Instance;
use crate::keyspace::Keyspace;
use crate::log::log;
use crate::prefetch::prefetch;
use crate::resp::{Limits, ProtocolError, Reply, RequestParser};
use crate::value::Value;

/// Requests planned together.
const BATCH_REQUESTS: usize = 32;

/// No more of a long argument is read in a turn.
const LONG_READ_BYTES: usize = 1 << 20;

/// An output buffer that has grown beyond this is given back when it is empty.
const OUTPUT_BYTES_KEPT: usize = 256 * 1024;

/// So is an input buffer.
const INPUT_BYTES_KEPT: usize = 64 * 1024;

/// How a connection's life as a client ends.
enum End {
    Closed,
    /// It goes on as a feed.
    Feed,
}

pub(super) struct Connection {
    pub(super) stream: Stream,
    pub(super) session: Session,
    requests: Requests,
    out: Vec<u8>,
    sent: usize,
    closing: bool,
    /// Others were killed: their connections close before this one's replies go out.
    yields: bool,
}

/// What has arrived and not been run.
#[derive(Default)]
struct Requests {
    parser: RequestParser,
    input: Vec<u8>,
    /// The next requests of the input, looked up and hashed.
    batch: Vec<Planned>,
    /// The first of the batch that was not run.
    next: usize,
    /// Everything before this was parsed.
    parsed: usize,
    broken: Option<ProtocolError>,
    last: Option<&'static Command>,
}

/// Serves one client until it goes.
pub(super) async fn serve(server: Rc<Server>, stream: Stream, session: Session) {
    let mut connection = Connection {
        stream,
        session,
        requests: Requests::default(),
        out: Vec::new(),
        sent: 0,
        closing: false,
        yields: false,
    };
    let end = poll_fn(|context| connection.poll_turn(context, &server)).await;
    if let End::Feed = end {
        feed::serve(&server, &mut connection).await;
    }
    server.instance.borrow_mut().disconnect(&mut connection.session);
    server.settle();
}

impl Connection {
    fn poll_turn(&mut self, context: &mut Context, server: &Rc<Server>) -> Poll<End> {
        self.session.client.set_waker(context.waker());
        if self.session.client.is_killed() {
            return Poll::Ready(End::Closed);
        }
        // What it waited for comes before what it asked for since.
        self.session.client.collect(&mut self.out);
        self.closing |= self.session.client.is_dismissed();
        if !self.closing && self.is_due() {
            if self.run(server) == Flow::Feed {
                return Poll::Ready(End::Feed);
            }
            if server.has_unwritten() {
                // One write serves everyone whose turn comes first.
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        if std::mem::take(&mut self.yields) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.session.client.is_killed() {
            // Too much would wait for it: it gets nothing of that.
            return Poll::Ready(End::Closed);
        }
        self.session.client.collect(&mut self.out);
        if !server.write_aof() {
            // The server ends, and nobody is told what is not on the disk.
            return Poll::Pending;
        }
        let flushed = self.poll_flush(context);
        server.limit_clients(&self.session.client);
        match flushed {
            Poll::Ready(Err(_)) => return Poll::Ready(End::Closed),
            Poll::Ready(Ok(())) if self.closing => return Poll::Ready(End::Closed),
            Poll::Pending if self.closing => return Poll::Pending,
            _ => {}
        }
        match ready!(self.poll_read(context, server)) {
            Ok(0) | Err(_) => Poll::Ready(End::Closed),
            Ok(_) => {
                // What was read is run after everyone else's requests were read, too.
                context.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    /// Reads, and plans what has arrived; 0 bytes are the end. Once, unless the rest of a long argument is there, too.
    pub(super) fn poll_read(&mut self, context: &mut Context, server: &Rc<Server>) -> Poll<io::Result<usize>> {
        let mut total = 0;
        loop {
            let length = match self.poll_read_once(context, server) {
                Poll::Pending if total > 0 => return Poll::Ready(Ok(total)),
                result => ready!(result)?,
            };
            total += length;
            let lacks_some = self.requests.input.len() < self.requests.parser.wanted_bytes();
            if length == 0 || self.session.client.is_killed() {
                return Poll::Ready(Ok(0));
            }
            if length < READ_BYTES || !lacks_some || total >= LONG_READ_BYTES {
                return Poll::Ready(Ok(total));
            }
        }
    }

    fn poll_read_once(&mut self, context: &mut Context, server: &Rc<Server>) -> Poll<io::Result<usize>> {
        let mut shared = server.read_buffer.borrow_mut();
        let mut buffer = ReadBuf::new(&mut shared);
        ready!(self.stream.poll_read(context, &mut buffer))?;
        let read = buffer.filled();
        self.requests.take_in(read);
        self.requests.measure(&self.session);
        server.limit_clients(&self.session.client);
        let instance = server.instance.borrow();
        let arrived = self.requests.input.len();
        if arrived as u64 > instance.config.client_query_buffer_limit {
            log!(Warning, "Closing client that reached max query buffer length: {}", self.session.client.address);
            return Poll::Ready(Ok(0));
        }
        if self.requests.is_exhausted() && arrived >= self.requests.parser.wanted_bytes() {
            self.requests.plan(&instance, &self.session);
            if let [planned] = self.requests.batch[..] {
                // By now the slot of the one before is there, and its entry can be asked for.
                if let Some((db, hash)) = server.awaited.replace(Some((self.session.db(), planned.hash))) {
                    instance.keyspace.prefetch_entry(db, hash);
                }
            }
        }
        Poll::Ready(Ok(read.len()))
    }

    /// Whether there is something to run, and nothing to wait for.
    pub(super) fn is_due(&self) -> bool {
        let waits = !self.requests.is_exhausted() || self.requests.broken.is_some();
        waits && !self.session.client.is_held()
    }

    /// Runs what has arrived of whole requests.
    pub(super) fn run(&mut self, server: &Rc<Server>) -> Flow {
        let flow = {
            let mut instance = server.instance.borrow_mut();
            instance.begin_turn();
            self.requests.measure(&self.session);
            self.session.client.last_active_ms.set(instance.now_ms);
            let flow = self.requests.run(&mut instance, &mut self.session, &mut self.out);
            self.yields = std::mem::take(&mut instance.has_killed);
            instance.end_turn();
            instance.stats.total_net_input_bytes += self.requests.forget_run() as u64;
            self.requests.measure(&self.session);
            let pending_bytes = (self.out.len() - self.sent) as u64;
            instance.stats.total_net_output_bytes += pending_bytes;
            let client = &self.session.client;
            if pending_bytes > 0 && instance.output_limit(client.kind.get()).is_set() {
                client.output_bytes.set(pending_bytes as usize);
                instance.enforce_output_limit(client, client.pending_bytes());
            }
            flow
        };
        self.closing |= flow == Flow::Close;
        server.settle();
        flow
    }

    /// Writes what is to be written.
    pub(super) fn poll_flush(&mut self, context: &mut Context) -> Poll<io::Result<()>> {
        while self.sent < self.out.len() {
            let written = match self.stream.poll_write(context, &self.out[self.sent..]) {
                Poll::Ready(result) => result?,
                Poll::Pending => {
                    self.session.client.output_bytes.set(self.out.len() - self.sent);
                    return Poll::Pending;
                }
            };
            self.sent += written;
        }
        self.out.clear();
        self.sent = 0;
        if self.out.capacity() > OUTPUT_BYTES_KEPT {
            self.out = Vec::new();
        }
        self.session.client.output_bytes.set(0);
        Poll::Ready(Ok(()))
    }

    /// Bytes that the connection has not taken yet.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.out.len() - self.sent
    }

    /// Adds messages that were left for this connection, and bytes of its own.
    pub(super) fn collect(&mut self, bytes: &[u8]) {
        self.session.client.collect(&mut self.out);
        self.out.extend_from_slice(bytes);
    }
}

impl Requests {
    /// Adds what was read. Of an argument that is longer than what is there, no more is made room for than it needs.
    fn take_in(&mut self, read: &[u8]) {
        let needed = self.input.len() + read.len();
        if needed > self.input.capacity() {
            let doubled = 2 * self.input.capacity();
            let whole = self.parsed + self.parser.wanted_bytes();
            let room = if whole >= needed { doubled.min(whole) } else { doubled };
            self.input.reserve_exact(room.max(needed) - self.input.len());
        }
        self.input.extend_from_slice(read);
    }

    /// Lets everyone know what waits here.
    fn measure(&self, session: &Session) {
        let waiting = self.input.len().saturating_sub(self.parser.begun_bytes());
        session.client.query_bytes.set((waiting, self.input.capacity() - self.input.len()));
        session.client.input_bytes.set(self.input.capacity());
    }

    /// Whether everything planned was run.
    fn is_exhausted(&self) -> bool {
        self.next == self.batch.len()
    }

    fn run(&mut self, instance: &mut Instance, session: &mut Session, out: &mut Vec<u8>) -> Flow {
        loop {
            if self.is_exhausted() {
                self.plan(instance, session);
                if self.batch.is_empty() {
                    break;
                }
            }
            session.admission = instance.admission(session);
            self.prefetch(instance, session);
            while let Some(planned) = self.batch.get(self.next) {
                let request = &planned.request;
                let bytes = &self.input[request.start..request.start + request.len];
                let args = Args::new(bytes, self.parser.spans(request), planned.hash);
                let flow = instance.execute(session, planned, args, bytes, out);
                if flow == Flow::Postpone {
                    // Whoever ends the pause wakes it, and the request is run then.
                    session.client.postponed.set(true);
                    return flow;
                }
                self.next += 1;
                if flow != Flow::Continue {
                    if self.is_exhausted() {
                        // So that there is something to be found when the client is let go on.
                        self.plan(instance, session);
                    }
                    return flow;
                }
            }
        }
        let Some(error) = self.broken.take() else { return Flow::Continue };
        log!(Verbose, "{error} from client {}", session.client.describe(instance.now_ms));
        Reply::new(out, session.protocol).error(&format!("ERR {error}"));
        Flow::Close
    }

    /// Parses the next batch and lets the cache fetch where its keys should be.
    fn plan(&mut self, instance: &Instance, session: &Session) {
        self.batch.clear();
        self.next = 0;
        self.parser.forget_requests();
        if self.broken.is_some() {
            return;
        }
        let limits = Limits {
            bulk_bytes_max: i64::try_from(instance.config.proto_max_bulk_len).unwrap_or(i64::MAX),
            authenticated: session.authenticated,
        };
        // Until it is authenticated, each request may change what the next one may be.
        let most = if session.authenticated { BATCH_REQUESTS } else { 1 };
        let db = session.db();
        while self.batch.len() < most {
            match self.parser.next(&mut self.input, self.parsed, limits) {
                Ok(Some(request)) => {
                    self.parsed += request.len;
                    let bytes = &self.input[request.start..self.parsed];
                    let spans = self.parser.spans(&request);
                    self.batch.push(Planned::new(request, bytes, spans, &instance.keyspace, db, &mut self.last));
                }
                Ok(None) => break,
                Err(error) => {
                    self.broken = Some(error);
                    break;
                }
            }
        }
    }

    /// Lets the cache fetch the entries themselves, now that it knows where they are.
    fn prefetch(&self, instance: &Instance, session: &Session) {
        let left = &self.batch[self.next..];
        if left.len() > 1 {
            let (keyspace, db) = (&instance.keyspace, session.db());
            let mut last = 0;
            // Who uses one key all the time asks for it once.
            let mut is_other =
                |planned: &&Planned| planned.hash != 0 && std::mem::replace(&mut last, planned.hash) != planned.hash;
            left.iter().filter(&mut is_other).for_each(|planned| keyspace.prefetch_entry(db, planned.hash));
            // What a client sends at once mostly concerns values of one type, and strings come with their entries.
            let first = left.iter().find(|planned| planned.hash != 0);
            if first.is_some_and(|first| keyspace.prefetch_value(db, first.hash)) {
                left.iter().filter(&mut is_other).for_each(|planned| _ = keyspace.prefetch_value(db, planned.hash));
                self.prefetch_elements(left, keyspace, db);
            }
        }
    }

    /// The same for what lies behind those entries.
    fn prefetch_elements(&self, left: &[Planned], keyspace: &Keyspace, db: usize) {
        let mut values = [None; BATCH_REQUESTS];
        let (mut last, mut last_value) = (0, None);
        for (value, planned) in values.iter_mut().zip(left) {
            if planned.hash != 0 && planned.hash != last {
                last_value = keyspace.likely_value(db, planned.hash);
                last = planned.hash;
                last_value.into_iter().for_each(|value| prefetch(value.elements_start()));
            }
            *value = last_value.filter(|_| planned.hash != 0);
        }
        let mut ways = [None; BATCH_REQUESTS];
        for ((way, planned), value) in ways.iter_mut().zip(left).zip(values) {
            let Some(value) = value else { continue };
            let args =
                Args::new(&self.input[planned.request.start..], self.parser.spans(&planned.request), planned.hash);
            // Scores come before their members.
            let index = if matches!(value, Value::SortedSet(_)) { args.len() - 1 } else { 2 };
            let Some(element) = args.maybe(index) else { continue };
            *way = value.prefetch_segment(element).map(|hash| (value, hash));
            if way.is_none() {
                break;
            }
        }
        ways.iter().flatten().for_each(|(value, hash)| value.prefetch_place(*hash));
    }

    /// Drops the input up to the first request that was not run, and says how much that was.
    fn forget_run(&mut self) -> usize {
        let start = self.batch.get(self.next).map_or(self.parsed, |planned| planned.request.start);
        for planned in &mut self.batch[self.next..] {
            planned.request.start -= start;
        }
        self.parsed -= start;
        if start == self.input.len() {
            self.input.clear();
        } else {
            self.input.drain(..start);
        }
        if self.input.is_empty() && self.input.capacity() > INPUT_BYTES_KEPT {
            self.input = Vec::new();
        }
        start
    }
}
