//! A client's connection: a state machine that is fed with bytes.
//!
//! A turn writes what the turn before has answered, reads once, and runs every request that has arrived whole. So all
//! connections that are ready are read before any of them is answered: a client that waits for several is woken once,
//! and the kernel does one kind of work at a time (half as much server CPU again at a pipeline of 64 if each connection
//! is answered at once). Requests are taken in batches: the keys of a batch are hashed and their places in the key space
//! fetched into the cache before the first of them is run.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;

use super::stream::Stream;
use super::{Server, feed, now_ms};
use crate::client::Session;
use crate::command::{Args, Command, Flow, Planned};
use crate::instance::Instance;
use crate::log::log;
use crate::resp::{Limits, ProtocolError, Reply, RequestParser};

/// Requests planned together.
const BATCH_REQUESTS: usize = 32;

/// An output buffer that has grown beyond this is given back when it is empty.
const OUTPUT_BYTES_KEPT: usize = 256 * 1024;

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
}

/// What has arrived and not been run.
#[derive(Default)]
struct Requests {
    parser: RequestParser,
    /// Input that is left from earlier turns; the batch lies in it.
    rest: Vec<u8>,
    batch: Vec<Planned>,
    /// The first of the batch that was not run.
    next: usize,
    /// Everything before this was parsed.
    parsed: usize,
    broken: Option<ProtocolError>,
    /// Something was left to run when the client was held.
    stalled: bool,
    last: Option<&'static Command>,
}

/// Serves one client until it goes.
pub(super) async fn serve(server: Rc<Server>, stream: Stream, session: Session) {
    let mut connection =
        Connection { stream, session, requests: Requests::default(), out: Vec::new(), sent: 0, closing: false };
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
        if self.requests.stalled && !self.session.client.is_held() && self.run_rest(server) == Flow::Feed {
            return Poll::Ready(End::Feed);
        }
        self.session.client.collect(&mut self.out);
        match self.poll_flush(context) {
            Poll::Ready(Err(_)) => return Poll::Ready(End::Closed),
            Poll::Ready(Ok(())) if self.closing => return Poll::Ready(End::Closed),
            Poll::Pending if self.closing => return Poll::Pending,
            _ => {}
        }
        match ready!(self.poll_read(context, server)) {
            Ok((0, _)) | Err(_) => Poll::Ready(End::Closed),
            Ok((_, Flow::Feed)) => Poll::Ready(End::Feed),
            Ok(_) => {
                // The replies go out after everyone else's requests were read.
                context.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    /// Reads once and runs what has arrived.
    pub(super) fn poll_read(&mut self, context: &mut Context, server: &Rc<Server>) -> Poll<io::Result<(usize, Flow)>> {
        let mut shared = server.read_buffer.borrow_mut();
        let mut buffer = ReadBuf::new(&mut shared);
        ready!(self.stream.poll_read(context, &mut buffer))?;
        let count = buffer.filled().len();
        if count == 0 {
            return Poll::Ready(Ok((0, Flow::Close)));
        }
        if self.requests.rest.is_empty() && !self.session.client.is_held() {
            let input = &mut shared[..count];
            let flow = self.run(server, input);
            let start = self.requests.rebase();
            self.requests.rest.extend_from_slice(&input[start..]);
            return Poll::Ready(Ok((count, flow)));
        }
        self.requests.rest.extend_from_slice(&shared[..count]);
        drop(shared);
        let arrived = self.requests.rest.len();
        if arrived as u64 > server.instance.borrow().config.client_query_buffer_limit {
            log!(Warning, "Closing client that reached max query buffer length: {}", self.session.client.address);
            return Poll::Ready(Ok((0, Flow::Close)));
        }
        let worthwhile = !self.session.client.is_held() && arrived >= self.requests.parser.wanted_bytes();
        let flow = if worthwhile { self.run_rest(server) } else { Flow::Continue };
        Poll::Ready(Ok((count, flow)))
    }

    fn run_rest(&mut self, server: &Rc<Server>) -> Flow {
        let mut rest = std::mem::take(&mut self.requests.rest);
        let flow = self.run(server, &mut rest);
        rest.drain(..self.requests.rebase());
        self.requests.rest = rest;
        flow
    }

    /// Runs what `input` has of whole requests.
    fn run(&mut self, server: &Rc<Server>, input: &mut [u8]) -> Flow {
        let flow = {
            let mut instance = server.instance.borrow_mut();
            instance.set_now(now_ms());
            instance.stats.total_net_input_bytes += input.len() as u64;
            self.session.client.last_active_ms.set(instance.now_ms);
            let flow = self.requests.run(&mut instance, &mut self.session, input, &mut self.out);
            instance.stats.total_net_output_bytes += (self.out.len() - self.sent) as u64;
            flow
        };
        self.closing |= flow == Flow::Close;
        self.requests.stalled = matches!(flow, Flow::Block | Flow::Postpone);
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

    /// What a feed's requests would be answered; it has no place in the stream.
    pub(super) fn discard_replies(&mut self) {
        self.out.truncate(self.sent);
    }

    /// Adds messages that were left for this connection, and bytes of its own.
    pub(super) fn collect(&mut self, bytes: &[u8]) {
        self.session.client.collect(&mut self.out);
        self.out.extend_from_slice(bytes);
    }
}

impl Requests {
    fn run(&mut self, instance: &mut Instance, session: &mut Session, input: &mut [u8], out: &mut Vec<u8>) -> Flow {
        loop {
            if self.next == self.batch.len() {
                self.plan(instance, session, input);
                if self.batch.is_empty() {
                    break;
                }
            }
            while let Some(planned) = self.batch.get(self.next) {
                let request = &planned.request;
                let bytes = &input[request.start..request.start + request.len];
                let args = Args::new(bytes, self.parser.spans(request), planned.hash);
                let flow = instance.execute(session, planned, args, bytes, out);
                if flow == Flow::Postpone {
                    // Whoever ends the pause wakes it, and the request is run then.
                    session.client.postponed.set(true);
                    return flow;
                }
                self.next += 1;
                if flow != Flow::Continue {
                    return flow;
                }
            }
        }
        let Some(error) = self.broken.take() else { return Flow::Continue };
        log!(Verbose, "{error} from client {}", session.client.describe(instance.now_ms));
        Reply::new(out, session.protocol).error(&format!("ERR {error}"));
        Flow::Close
    }

    /// Parses the next batch and lets the cache fetch what it will need.
    fn plan(&mut self, instance: &Instance, session: &mut Session, input: &mut [u8]) {
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
        session.admission = instance.admission(session);
        let db = session.db();
        while self.batch.len() < most {
            match self.parser.next(input, self.parsed, limits) {
                Ok(Some(request)) => {
                    self.parsed += request.len;
                    let bytes = &input[request.start..self.parsed];
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
        if self.batch.len() > 1 {
            for planned in self.batch.iter().filter(|planned| planned.hash != 0) {
                instance.keyspace.prefetch_entry(db, planned.hash);
            }
        }
    }

    /// Lets everything be counted from the first request that was not run, and says where that was.
    fn rebase(&mut self) -> usize {
        let start = self.batch.get(self.next).map_or(self.parsed, |planned| planned.request.start);
        for planned in &mut self.batch[self.next..] {
            planned.request.start -= start;
        }
        self.parsed -= start;
        start
    }
}
