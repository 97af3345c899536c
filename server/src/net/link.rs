//! The link to the upstream: connect, shake hands, take its image if it must be, and apply its stream.
//!
//! A link that breaks is made again at once, and one that cannot be made after 10 ms, then 20, up to a second: never on
//! a clock's tick.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::yield_now;
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::receive::full_resync;
use super::{READ_BYTES, Server, now_ms, prepare_socket};
use crate::client::{ClientKind, Session};
use crate::command::{Args, Planned};
use crate::config::Upstream;
use crate::instance::Instance;
use crate::log::{log, reason};
use crate::replication::{Answer, Greeting, Handshake, History, Link, ReplicationId, Step};
use crate::resp::{Limits, RequestParser, append_request};
use crate::snapshot;

/// How often a replica says how far it has come.
const ACKNOWLEDGE: Duration = Duration::from_secs(1);

/// The longest line of the handshake, in bytes.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// Why a link has ended or could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("{0}")]
    Said(String),
    /// The upstream does not want to be followed, or not now.
    #[error("{0}")]
    Rejected(String),
    #[error("{}", reason(.0))]
    Io(#[from] io::Error),
    #[error("{0}")]
    Load(#[from] snapshot::LoadError),
}

/// Follows the upstream until the task is ended.
pub(super) async fn follow(server: Rc<Server>) {
    let mut failures = 0;
    loop {
        let mut was_up = false;
        let result = attempt(&server, &mut was_up).await;
        let random = {
            let mut instance = server.instance.borrow_mut();
            instance.set_now(now_ms());
            if let Err(error) = result {
                log!(Warning, "{error}");
            }
            instance.loading = None;
            set_link(&mut instance, Link::Down);
            instance.random()
        };
        failures = if was_up { 0 } else { failures + 1 };
        if failures > 0 {
            sleep(backoff(failures - 1, random)).await;
        } else {
            log!(Warning, "Connection with master lost.");
            log!(Notice, "Caching the disconnected master state.");
            yield_now().await;
        }
    }
}

/// How long to wait after so many failures more than one: from 10 ms to 1 s, doubling, up to a quarter less by chance so
/// that those who failed together do not come back together.
fn backoff(failures: u32, random: u64) -> Duration {
    let base_ms = (10u64 << failures.min(7)).min(1000);
    Duration::from_millis(base_ms - random % (base_ms / 4 + 1))
}

pub(super) fn set_link(instance: &mut Instance, link: Link) {
    let now_ms = instance.now_ms;
    if let Some(following) = instance.replication.following_mut() {
        if following.link == Link::Up && link != Link::Up {
            following.down_since_ms = now_ms;
        }
        following.link = link;
        following.heard_ms = now_ms;
    }
}

async fn attempt(server: &Rc<Server>, was_up: &mut bool) -> Result<(), LinkError> {
    let (upstream, greeting, patience) = {
        let mut instance = server.instance.borrow_mut();
        instance.set_now(now_ms());
        set_link(&mut instance, Link::Handshake);
        let Some(following) = instance.replication.following() else { return Ok(()) };
        (following.upstream.clone(), greeting(&instance), instance.config.repl_timeout)
    };
    let mut wire = Wire::connect(server, &upstream, patience).await?;
    let answer = shake_hands(&mut wire, &greeting).await;
    if greeting.failover {
        end_failover(server, &answer);
    }
    match answer? {
        Answer::Partial { id } => accept_partial(server, id)?,
        Answer::Full { id, offset } => full_resync(server, &mut wire, id, offset).await?,
    }
    *was_up = true;
    stream(server, wire).await
}

/// Whether the upstream has taken over is known by its answer to `PSYNC`; while there is none, it is asked again.
fn end_failover(server: &Rc<Server>, answer: &Result<Answer, LinkError>) {
    match answer {
        Ok(_) => server.instance.borrow_mut().complete_failover(),
        Err(LinkError::Rejected(reason)) => {
            log!(Warning, "{reason}");
            server.instance.borrow_mut().abort_failover("Failover target rejected psync request");
            server.settle();
        }
        Err(_) => {}
    }
}

fn greeting(instance: &Instance) -> Greeting {
    let config = &instance.config;
    let auth = config.masterauth.as_ref().map(|secret| (config.masteruser.clone(), secret.expose().to_vec()));
    let replication = &instance.replication;
    Greeting {
        auth,
        listening_port: if config.replica_announce_port > 0 { config.replica_announce_port } else { config.port },
        announced_ip: config.replica_announce_ip.clone(),
        resume: replication.resumable.then_some((replication.history.replid, replication.offset)),
        failover: instance.is_handing_over(),
    }
}

/// A connection with what was read from it and not used.
pub(super) struct Wire {
    stream: TcpStream,
    pub(super) unread: Vec<u8>,
    patience: Duration,
}

impl Wire {
    async fn connect(server: &Server, upstream: &Upstream, patience: Duration) -> Result<Wire, LinkError> {
        log!(Notice, "Connecting to MASTER {upstream}");
        log!(Notice, "MASTER <-> REPLICA sync started");
        let connecting = TcpStream::connect((upstream.host.as_str(), upstream.port));
        let stream = match timeout(patience, connecting).await {
            Err(_) => return Err(LinkError::Said("Timeout connecting to the MASTER...".into())),
            Ok(Err(error)) => {
                return Err(LinkError::Said(format!("Error condition on socket for SYNC: {}", reason(&error))));
            }
            Ok(Ok(stream)) => stream,
        };
        prepare_socket(&stream, &server.instance.borrow().config);
        log!(Notice, "Non blocking connect for SYNC fired the event.");
        Ok(Wire { stream, unread: Vec::new(), patience })
    }

    async fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = poll_fn(|context| Pin::new(&mut self.stream).poll_write(context, bytes)).await?;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    /// Waits for more bytes.
    pub(super) async fn read(&mut self) -> Result<(), LinkError> {
        let read = poll_fn(|context| {
            let before = self.unread.len();
            self.unread.resize(before + READ_BYTES, 0);
            let mut buffer = ReadBuf::new(&mut self.unread[before..]);
            let result = Pin::new(&mut self.stream).poll_read(context, &mut buffer);
            let count = buffer.filled().len();
            self.unread.truncate(before + count);
            result.map_ok(|()| count)
        });
        match timeout(self.patience, read).await {
            Err(_) => Err(LinkError::Said("Timeout receiving bulk data from MASTER... If the problem persists try to set the 'repl-timeout' parameter in redis.conf to a larger value.".into())),
            Ok(Ok(0)) => Err(LinkError::Said("The master has closed the connection".into())),
            Ok(result) => {
                result?;
                Ok(())
            }
        }
    }

    /// The next line, without its end.
    pub(super) async fn line(&mut self) -> Result<Vec<u8>, LinkError> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.unread) {
                let mut line: Vec<u8> = self.unread.drain(..=end).collect();
                line.pop();
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                return Ok(line);
            }
            if self.unread.len() > LINE_BYTES_MAX {
                return Err(LinkError::Said("The master sent an endless line".into()));
            }
            self.read().await?;
        }
    }
}

async fn shake_hands(wire: &mut Wire, greeting: &Greeting) -> Result<Answer, LinkError> {
    let (mut state, bytes) = Handshake::begin();
    wire.send(&bytes).await?;
    loop {
        let line = wire.line().await?;
        if state == Handshake::AwaitPong && line.starts_with(b"+PONG") {
            log!(Notice, "Master replied to PING, replication can continue...");
        }
        match state.on_line(greeting, &line) {
            Step::Wait(next) => state = next,
            Step::Send(next, bytes) => {
                if next == Handshake::AwaitSync {
                    match &greeting.resume {
                        Some((id, offset)) => {
                            log!(Notice, "Trying a partial resynchronization (request {id}:{}).", offset + 1);
                        }
                        None => log!(Notice, "Partial resynchronization not possible (no cached master)"),
                    }
                }
                wire.send(&bytes).await?;
                state = next;
            }
            Step::Done(answer) => return Ok(answer),
            Step::Retry(reason) | Step::Refused(reason) if state == Handshake::AwaitSync => {
                return Err(LinkError::Rejected(reason));
            }
            Step::Retry(reason) | Step::Refused(reason) => return Err(LinkError::Said(reason)),
        }
    }
}

fn accept_partial(server: &Rc<Server>, id: Option<ReplicationId>) -> Result<(), LinkError> {
    let mut instance = server.instance.borrow_mut();
    instance.set_now(now_ms());
    log!(Notice, "Successful partial resynchronization with master.");
    let History { replid: own, .. } = instance.replication.history;
    if let Some(id) = id.filter(|id| *id != own) {
        log!(Warning, "Master replication ID changed to {id}");
        let previous = Some((own, instance.replication.offset));
        instance.replication.set_history(History { replid: id, previous });
        // Those below learn the new name by coming back.
        instance.cut_feeds();
    }
    if instance.replication.backlog.is_none() {
        instance.create_backlog().map_err(LinkError::Said)?;
    }
    log!(Notice, "MASTER <-> REPLICA sync: Master accepted a Partial Resynchronization.");
    bring_up(&mut instance);
    Ok(())
}

pub(super) fn bring_up(instance: &mut Instance) {
    set_link(instance, Link::Up);
    instance.replication.resumable = true;
    if let Some(following) = instance.replication.following_mut() {
        following.synced = true;
    }
}

/// The stream of the upstream, being applied.
struct Applier {
    session: Session,
    parser: RequestParser,
    replies: Vec<u8>,
    /// Bytes at the start of what is unread that were applied and not yet forwarded: a transaction is forwarded whole.
    applied: usize,
    acknowledge: bool,
}

impl Applier {
    /// Applies what has come whole, forwards it to those below, and drops it.
    fn apply(&mut self, instance: &mut Instance, unread: &mut Vec<u8>) -> Result<(), LinkError> {
        let limits = Limits { bulk_bytes_max: i64::from(u32::MAX), authenticated: true };
        let mut last = None;
        self.parser.forget_requests();
        let mut forwardable = 0;
        loop {
            let request = self.parser.next(unread, self.applied, limits);
            let request = request.map_err(|error| LinkError::Said(format!("Protocol error from master: {error}")))?;
            let Some(request) = request else { break };
            let bytes = &unread[request.start..request.start + request.len];
            let spans = self.parser.spans(&request);
            let db = self.session.db();
            let planned = Planned::new(request, bytes, spans, &instance.keyspace, db, &mut last);
            let args = Args::new(bytes, spans, planned.hash);
            self.acknowledge |= args.is_getack();
            self.replies.clear();
            instance.execute(&mut self.session, &planned, args, bytes, &mut self.replies);
            self.applied += request.len;
            if self.session.transaction.is_none() {
                forwardable = self.applied;
            }
            if self.session.db() != db {
                // What comes after is in another database than what came before.
                self.forward(instance, unread, &mut forwardable);
            }
        }
        self.forward(instance, unread, &mut forwardable);
        Ok(())
    }

    fn forward(&mut self, instance: &mut Instance, unread: &mut Vec<u8>, forwardable: &mut usize) {
        let db = self.session.db();
        instance.replication.stream_db = db;
        if let Some(backlog) = &mut instance.replication.backlog
            && backlog.selected_db() != u32::try_from(db).ok()
        {
            backlog.select_with_next(u32::try_from(db).ok());
        }
        instance.append_to_stream(&unread[..*forwardable]);
        unread.drain(..*forwardable);
        self.applied -= *forwardable;
        *forwardable = 0;
    }
}

/// Applies the stream until the link breaks.
async fn stream(server: &Rc<Server>, mut wire: Wire) -> Result<(), LinkError> {
    let mut applier = {
        let mut instance = server.instance.borrow_mut();
        let address =
            |address: io::Result<std::net::SocketAddr>| address.map_or_else(|_| "?:0".into(), |a| a.to_string());
        let (peer, local) = (address(wire.stream.peer_addr()), address(wire.stream.local_addr()));
        let client = instance.connect(peer, local, ClientKind::Master);
        client.db.set(instance.replication.stream_db);
        Applier {
            session: Session::new(client, true),
            parser: RequestParser::default(),
            replies: Vec::new(),
            applied: 0,
            // The image has arrived, or the stream goes on: either way the upstream wants to know.
            acknowledge: true,
        }
    };
    let mut out = Vec::new();
    let mut timer = Box::pin(sleep(ACKNOWLEDGE));
    let result = poll_fn(|context| poll_stream(context, server, &mut wire, &mut applier, &mut out, &mut timer)).await;
    server.instance.borrow_mut().disconnect(&mut applier.session);
    result
}

fn poll_stream(
    context: &mut Context,
    server: &Rc<Server>,
    wire: &mut Wire,
    applier: &mut Applier,
    out: &mut Vec<u8>,
    timer: &mut Pin<Box<Sleep>>,
) -> Poll<Result<(), LinkError>> {
    applier.session.client.set_waker(context.waker());
    loop {
        if applier.session.client.is_killed() {
            return Poll::Ready(Ok(()));
        }
        if !wire.unread.is_empty() {
            let mut instance = server.instance.borrow_mut();
            instance.set_now(now_ms());
            let now_ms = instance.now_ms;
            if let Some(following) = instance.replication.following_mut() {
                following.heard_ms = now_ms;
            }
            if instance.is_paused(true) {
                // Whoever ends the pause wakes this task.
                applier.session.client.postponed.set(true);
            } else {
                applier.apply(&mut instance, &mut wire.unread)?;
            }
            if let Some(following) = instance.replication.following_mut() {
                following.unapplied_bytes = wire.unread.len() as u64;
            }
        }
        server.settle();
        poll_acknowledge(context, server, wire, applier, out, timer)?;
        let before = wire.unread.len();
        let mut shared = server.read_buffer.borrow_mut();
        let mut buffer = ReadBuf::new(&mut shared);
        ready!(Pin::new(&mut wire.stream).poll_read(context, &mut buffer))?;
        wire.unread.extend_from_slice(buffer.filled());
        match wire.unread.len() - before {
            0 => return Poll::Ready(Err(LinkError::Said("The master has closed the connection".into()))),
            READ_BYTES => {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            _ => {}
        }
    }
}

/// Says how far this replica has come, if that is due, and gives up on an upstream that was silent for too long.
fn poll_acknowledge(
    context: &mut Context,
    server: &Server,
    wire: &mut Wire,
    applier: &mut Applier,
    out: &mut Vec<u8>,
    timer: &mut Pin<Box<Sleep>>,
) -> Result<(), LinkError> {
    while timer.as_mut().poll(context).is_ready() {
        timer.as_mut().reset(Instant::now() + ACKNOWLEDGE);
        applier.acknowledge = true;
        let instance = server.instance.borrow();
        let heard_ms = instance.replication.following().map_or(0, |following| following.heard_ms);
        if now_ms() - heard_ms > wire.patience.as_millis() as i64 {
            return Err(LinkError::Said("MASTER timeout: no data nor PING received...".into()));
        }
    }
    if std::mem::take(&mut applier.acknowledge) {
        let offset = server.instance.borrow().replication.offset;
        append_request(out, &[b"REPLCONF", b"ACK", offset.to_string().as_bytes()]);
    }
    while !out.is_empty() {
        match Pin::new(&mut wire.stream).poll_write(context, out) {
            Poll::Ready(count) => drop(out.drain(..count?)),
            Poll::Pending => break,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_grows_from_10_ms_to_a_second_and_is_never_the_same_for_all() {
        assert_eq!(backoff(0, 0), Duration::from_millis(10));
        assert_eq!(backoff(1, 0), Duration::from_millis(20));
        assert_eq!(backoff(50, 0), Duration::from_millis(1000));
        for random in 0..1000 {
            let wait = backoff(50, random);
            assert!((Duration::from_millis(750)..=Duration::from_millis(1000)).contains(&wait), "{wait:?}");
        }
    }
}
