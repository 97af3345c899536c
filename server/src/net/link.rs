//! The link to the upstream: connect, shake hands, take its image if it must be, and apply its stream.
//!
//! A link that breaks is made again at once, and one that cannot be made after 10 ms, then 20, up to a second: never on
//! a clock's tick.

use std::fs::File;
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

use super::{READ_BYTES, Server, now_ms, persist, prepare_socket};
use crate::client::{ClientKind, Session};
use crate::command::{Args, Planned};
use crate::config::{DisklessLoad, Upstream};
use crate::instance::Instance;
use crate::log::{log, reason};
use crate::replication::{Answer, Greeting, Handshake, History, Link, ReplicationId, Step};
use crate::resp::{Limits, RequestParser, append_request};
use crate::snapshot::{self, DumpFile, Loaded};

/// How often a replica says how far it has come.
const ACKNOWLEDGE: Duration = Duration::from_secs(1);

/// The longest line of the handshake, in bytes.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// The mark at the end of a payload whose length is not announced, in bytes.
const MARK_BYTES: usize = 40;

/// Why a link has ended or could not be made.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("{0}")]
    Said(String),
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

fn set_link(instance: &mut Instance, link: Link) {
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
    match shake_hands(&mut wire, &greeting).await? {
        Answer::Partial { id } => accept_partial(server, id)?,
        Answer::Full { id, offset } => full_resync(server, &mut wire, id, offset).await?,
    }
    *was_up = true;
    stream(server, wire).await
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
    }
}

/// A connection with what was read from it and not used.
struct Wire {
    stream: TcpStream,
    unread: Vec<u8>,
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
    async fn read(&mut self) -> Result<(), LinkError> {
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
    async fn line(&mut self) -> Result<Vec<u8>, LinkError> {
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

fn bring_up(instance: &mut Instance) {
    set_link(instance, Link::Up);
    instance.replication.resumable = true;
    if let Some(following) = instance.replication.following_mut() {
        following.synced = true;
    }
}

async fn full_resync(server: &Rc<Server>, wire: &mut Wire, id: ReplicationId, offset: u64) -> Result<(), LinkError> {
    log!(Notice, "Full resync from master: {id}:{offset}");
    {
        let mut instance = server.instance.borrow_mut();
        instance.set_now(now_ms());
        if instance.replication.resumable {
            log!(Notice, "Discarding previously cached master state.");
        }
        set_link(&mut instance, Link::Transfer { total_bytes: None, read_bytes: 0 });
    }
    let payload = Payload::announced(wire).await?;
    let mode = server.instance.borrow().config.repl_diskless_load;
    let has_data = {
        let keyspace = &server.instance.borrow().keyspace;
        (0..keyspace.databases()).any(|db| keyspace.len(db) > 0)
    };
    let loaded = match mode {
        DisklessLoad::SwapDb => load_from_wire(server, wire, payload, has_data).await?,
        DisklessLoad::OnEmptyDb if !has_data => load_from_wire(server, wire, payload, false).await?,
        DisklessLoad::OnEmptyDb | DisklessLoad::Disabled => load_through_file(server, wire, payload).await?,
    };
    let mut instance = server.instance.borrow_mut();
    instance.set_now(now_ms());
    instance.cut_feeds();
    instance.install(loaded.keyspace, loaded.keys_loaded, loaded.keys_expired);
    let replication = &mut instance.replication;
    replication.history = History { replid: id, previous: None };
    replication.offset = offset;
    replication.stream_db = loaded.stream_db;
    instance.create_backlog().map_err(LinkError::Said)?;
    bring_up(&mut instance);
    instance.persistence.dirty += 1;
    log!(Notice, "MASTER <-> REPLICA sync: Finished with success");
    Ok(())
}

/// How the image's end is known.
enum Payload {
    Length(u64),
    Mark([u8; MARK_BYTES]),
}

impl Payload {
    async fn announced(wire: &mut Wire) -> Result<Payload, LinkError> {
        loop {
            let line = wire.line().await?;
            let text = String::from_utf8_lossy(&line).into_owned();
            if text.is_empty() {
                continue;
            }
            if let Some(mark) = line.strip_prefix(b"$EOF:")
                && let Ok(mark) = mark.try_into()
            {
                return Ok(Payload::Mark(mark));
            }
            if let Some(length) = text.strip_prefix('$').and_then(|digits| digits.parse().ok()) {
                return Ok(Payload::Length(length));
            }
            return Err(LinkError::Said(match text.strip_prefix('-') {
                Some(error) => format!("MASTER aborted replication with an error: {error}"),
                None => format!(
                    "Bad protocol from MASTER, the first byte is not '$' (we received '{text}'), are you sure the host and port are right?"
                ),
            }));
        }
    }

    fn announce(&self, place: &str) {
        match self {
            Payload::Length(bytes) => {
                log!(Notice, "MASTER <-> REPLICA sync: receiving {bytes} bytes from master to {place}")
            }
            Payload::Mark(_) => {
                log!(Notice, "MASTER <-> REPLICA sync: receiving streamed RDB from master with EOF to {place}");
            }
        }
    }

    fn total_bytes(&self) -> Option<u64> {
        match self {
            Payload::Length(bytes) => Some(*bytes),
            Payload::Mark(_) => None,
        }
    }
}

/// Says how much has come.
fn progress(server: &Server, total_bytes: Option<u64>, read_bytes: u64) {
    let mut instance = server.instance.borrow_mut();
    instance.set_now(now_ms());
    set_link(&mut instance, Link::Transfer { total_bytes, read_bytes });
    if let Some(loading) = &mut instance.loading {
        loading.loaded_bytes = read_bytes;
    }
}

/// Loads the image as it comes, into a key space of its own; the old data are there until it is complete.
async fn load_from_wire(
    server: &Rc<Server>,
    wire: &mut Wire,
    payload: Payload,
    serves_old_data: bool,
) -> Result<Loaded, LinkError> {
    payload.announce("parser");
    let total = payload.total_bytes();
    log!(Notice, "MASTER <-> REPLICA sync: Loading DB in memory");
    let mut loader = persist::begin_loading(server, total.unwrap_or(0), serves_old_data);
    let mut read_bytes = 0;
    loop {
        while wire.unread.is_empty() {
            wire.read().await?;
        }
        let bytes = std::mem::take(&mut wire.unread);
        read_bytes += bytes.len() as u64;
        if loader.feed(&bytes)? {
            break;
        }
        progress(server, total, read_bytes);
        yield_now().await;
    }
    wire.unread = loader.unread().to_vec();
    match payload {
        Payload::Length(length) if read_bytes - wire.unread.len() as u64 == length => {}
        Payload::Length(length) => {
            return Err(LinkError::Said(format!("The image ends elsewhere than after the {length} bytes announced")));
        }
        Payload::Mark(mark) => {
            while wire.unread.len() < MARK_BYTES {
                wire.read().await?;
            }
            if wire.unread[..MARK_BYTES] != mark {
                return Err(LinkError::Said("The image is not followed by the mark announced".into()));
            }
            wire.unread.drain(..MARK_BYTES);
        }
    }
    Ok(loader.finish()?)
}

/// Receives the image into a file, which becomes the dump file, and only then replaces the data.
async fn load_through_file(server: &Rc<Server>, wire: &mut Wire, payload: Payload) -> Result<Loaded, LinkError> {
    payload.announce("disk");
    let mut file = DumpFile::create(&snapshot::dump_path(&server.instance.borrow()))?;
    receive(server, wire, &payload, &mut file).await?;
    log!(Notice, "MASTER <-> REPLICA sync: Flushing old data");
    server.instance.borrow_mut().discard_data();
    let mut source = File::open(file.path())?;
    let total_bytes = source.metadata()?.len();
    log!(Notice, "MASTER <-> REPLICA sync: Loading DB in memory");
    let mut loader = persist::begin_loading(server, total_bytes, false);
    persist::load_file(server, &mut loader, &mut source).await?;
    let loaded = loader.finish()?;
    file.commit()?;
    Ok(loaded)
}

async fn receive(server: &Server, wire: &mut Wire, payload: &Payload, file: &mut DumpFile) -> Result<(), LinkError> {
    let mut received = 0;
    loop {
        let held = wire.unread.len();
        let (ready, complete) = match payload {
            Payload::Length(length) => {
                let left = length - received;
                (left.min(held as u64) as usize, left <= held as u64)
            }
            // Whatever may be the mark stays until more has come; nothing follows it before we say a word.
            Payload::Mark(mark) if wire.unread.ends_with(mark) => (held - MARK_BYTES, true),
            Payload::Mark(_) => (held.saturating_sub(MARK_BYTES), false),
        };
        file.write(&wire.unread[..ready])?;
        wire.unread.drain(..ready);
        received += ready as u64;
        if complete {
            if let Payload::Mark(_) = payload {
                wire.unread.clear();
            }
            return Ok(());
        }
        progress(server, payload.total_bytes(), received);
        wire.read().await?;
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
            applier.apply(&mut instance, &mut wire.unread)?;
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
