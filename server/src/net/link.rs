//! The link to the upstream: a connection whose bytes a [`Follower`] is fed with. What is said over it is decided there.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::task::yield_now;
use tokio::time::{Sleep, sleep, timeout};

use super::receive::full_resync;
use super::{READ_BYTES, Server, now_ms, prepare_socket};
use crate::config::Upstream;
use crate::instance::{Backoff, Demand, Follower, Promise, TIMEOUT_TRANSFER};
use crate::log::{log, reason};
use crate::replication::Link;
use crate::snapshot;

/// Why a link has ended or could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("{0}")]
    Said(String),
    #[error("{}", reason(.0))]
    Io(#[from] io::Error),
    #[error("{0}")]
    Load(#[from] snapshot::LoadError),
}

impl From<String> for LinkError {
    fn from(words: String) -> Self {
        LinkError::Said(words)
    }
}

/// Follows the upstream until the task is ended.
pub(super) async fn follow(server: Rc<Server>) {
    let mut backoff = Backoff::default();
    loop {
        let lasted = attempt(&server).await.unwrap_or_else(|error| {
            log!(Warning, "{error}");
            false
        });
        let wait = {
            let mut instance = server.instance.borrow_mut();
            instance.set_now(now_ms());
            instance.loading = None;
            instance.set_link(Link::Down);
            backoff.after(lasted, instance.random()).max(Duration::from_millis(instance.refused_for_ms()))
        };
        // The upstream's last word may have ended the following altogether, and with it this task.
        server.settle();
        if wait.is_zero() {
            log!(Warning, "Connection with master lost.");
            log!(Notice, "Caching the disconnected master state.");
            yield_now().await;
        } else {
            sleep(wait).await;
        }
    }
}

/// Makes a link and keeps it until it breaks. Whether it lasted.
async fn attempt(server: &Rc<Server>) -> Result<bool, LinkError> {
    let (upstream, patience) = {
        let mut instance = server.instance.borrow_mut();
        instance.set_now(now_ms());
        let Some(following) = instance.replication.following() else { return Ok(false) };
        (following.upstream.clone(), instance.config.repl_timeout)
    };
    let mut wire = Wire::connect(server, &upstream, patience).await?;
    let mut follower = {
        let address =
            |address: io::Result<std::net::SocketAddr>| address.map_or_else(|_| "?:0".into(), |a| a.to_string());
        let (peer, local) = (address(wire.stream.peer_addr()), address(wire.stream.local_addr()));
        let mut instance = server.instance.borrow_mut();
        instance.set_now(now_ms());
        Follower::new(&mut instance, peer, local)
    };
    let result = follow_wire(server, &mut wire, &mut follower).await;
    if let Err(error) = result {
        log!(Warning, "{error}");
    }
    let mut instance = server.instance.borrow_mut();
    instance.set_now(now_ms());
    Ok(follower.end(&mut instance))
}

/// Goes on until the link breaks or is killed.
async fn follow_wire(server: &Rc<Server>, wire: &mut Wire, follower: &mut Follower) -> Result<(), LinkError> {
    let mut timer = Timer::default();
    loop {
        let promise = poll_fn(|context| poll_link(context, server, wire, follower, &mut timer)).await?;
        let Some(promise) = promise else { return Ok(()) };
        full_resync(server, wire, promise).await?;
        follower.stream(&mut server.instance.borrow_mut());
    }
}

/// Moves bytes until an image is promised, or (`None`) the link is killed.
fn poll_link(
    context: &mut Context,
    server: &Rc<Server>,
    wire: &mut Wire,
    follower: &mut Follower,
    timer: &mut Timer,
) -> Poll<Result<Option<Promise>, LinkError>> {
    loop {
        let demand = {
            let mut instance = server.instance.borrow_mut();
            instance.set_now(now_ms());
            follower.take(&mut instance, &mut wire.unread)?
        };
        if let Demand::Image(promise) = demand {
            return Poll::Ready(Ok(Some(promise)));
        }
        if let Some(client) = follower.client() {
            client.set_waker(context.waker());
            if client.is_killed() {
                return Poll::Ready(Ok(None));
            }
        }
        server.settle();
        if !server.write_aof() {
            return Poll::Pending;
        }
        while timer.poll_until(context, follower.deadline_ms(&server.instance.borrow())).is_ready() {
            let mut instance = server.instance.borrow_mut();
            instance.set_now(now_ms());
            follower.on_time(&instance)?;
        }
        wire.poll_send(context, follower.out(&server.instance.borrow()));
        let mut shared = server.read_buffer.borrow_mut();
        let mut buffer = ReadBuf::new(&mut shared);
        ready!(Pin::new(&mut wire.stream).poll_read(context, &mut buffer))?;
        wire.unread.extend_from_slice(buffer.filled());
        follower.heard(&mut server.instance.borrow_mut());
        match buffer.filled().len() {
            0 => return Poll::Ready(Err(LinkError::Said("The master has closed the connection".into()))),
            READ_BYTES => {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            _ => {}
        }
    }
}

/// An alarm clock that is only set when its time comes nearer, and not each time it moves away.
#[derive(Default)]
struct Timer {
    sleep: Option<(i64, Pin<Box<Sleep>>)>,
}

impl Timer {
    /// Ready when it is this time, in milliseconds since the epoch.
    fn poll_until(&mut self, context: &mut Context, deadline_ms: i64) -> Poll<()> {
        // No clock goes on for longer without being looked at.
        const LONGEST_MS: i64 = 60 * 60 * 1000;
        loop {
            match &mut self.sleep {
                Some((set_ms, sleep)) if *set_ms <= deadline_ms => {
                    ready!(sleep.as_mut().poll(context));
                    self.sleep = None;
                    if now_ms() >= deadline_ms {
                        return Poll::Ready(());
                    }
                }
                _ => {
                    let wait_ms = deadline_ms.saturating_sub(now_ms()).clamp(0, LONGEST_MS);
                    self.sleep = Some((deadline_ms, Box::pin(sleep(Duration::from_millis(wait_ms as u64)))));
                }
            }
        }
    }
}

/// Connects from this address, or from any.
async fn connect_from(source: Option<&str>, upstream: &Upstream) -> io::Result<TcpStream> {
    let place = (upstream.host.as_str(), upstream.port);
    let Some(source) = source else { return TcpStream::connect(place).await };
    let failed = |error| io::Error::other(format!("bind-source-addr '{source}': {error}"));
    let source = lookup_host((source, 0)).await.map_err(failed)?.next().ok_or(io::ErrorKind::NotFound)?;
    let mut addresses = lookup_host(place).await?;
    let address = addresses.find(|address| address.is_ipv4() == source.is_ipv4()).ok_or(io::ErrorKind::NotFound)?;
    let socket = if source.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(source).map_err(failed)?;
    socket.connect(address).await
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
        let source = server.instance.borrow().config.bind_source_addr.clone();
        let connecting = connect_from(source.as_deref(), upstream);
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

    /// Sends as much of `out` as the connection takes, and leaves the rest. One that takes no more may still hold what
    /// the upstream had sent before its end: it is read on, and that tells the end.
    fn poll_send(&mut self, context: &mut Context, out: &mut Vec<u8>) {
        while !out.is_empty() {
            match Pin::new(&mut self.stream).poll_write(context, out) {
                Poll::Ready(Ok(count)) => drop(out.drain(..count)),
                Poll::Ready(Err(_)) => out.clear(),
                Poll::Pending => break,
            }
        }
    }

    /// Says that this server lives, to an upstream that would otherwise wonder; one that takes nothing just now knows.
    pub(super) fn sign_of_life(&mut self) {
        let _ = self.stream.try_write(b"\n");
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
            Err(_) => Err(LinkError::Said(TIMEOUT_TRANSFER.into())),
            Ok(Ok(0)) => Err(LinkError::Said("The master has closed the connection".into())),
            Ok(result) => {
                result?;
                Ok(())
            }
        }
    }
}
