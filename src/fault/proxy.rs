//! One edge of a group's network: a TCP proxy that carries a replica's link to its upstream, and does to it what networks do.
//!
//! ```text
//! replica ---> 127.0.0.1:p (proxy) ---> 127.0.0.1:q (upstream)
//!      forth: requests, acknowledgements     back: the stream
//! ```
//!
//! Both directions have a [`Condition`] of their own, which changes while connections are open. A stalled direction delivers
//! nothing and closes nothing, as after a cable was pulled: the bytes wait, here and in the kernel's buffers, and go on when
//! it is over. What a proxy cannot do: refuse a connection's first handshake silently, lose or reorder packets beneath TCP.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Bytes that are read at a time.
const PIECE_BYTES: usize = 16 * 1024;
/// Pieces of one direction that are on their way; then its sender has to wait.
const PIECES_IN_FLIGHT: usize = 1024;

/// Between two attempts at a socket that is not to be had.
const RETRY_EVERY: Duration = Duration::from_millis(10);

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the one who connected: a replica's requests and acknowledgements.
    Forth,
    /// To the one who connected: the replication stream.
    Back,
}

/// How one direction is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Condition {
    /// Nothing is delivered, and nothing is closed.
    pub is_stalled: bool,
    /// How long a byte is on its way.
    pub latency: Duration,
    /// Up to so much more or less, at random. Bytes keep their order.
    pub jitter: Duration,
    /// Bytes a second that are let through at most.
    pub bytes_per_sec: Option<u64>,
    /// Both sides are reset when so many more bytes have been delivered, on all connections together.
    pub reset_after_bytes: Option<u64>,
    /// How long the end of one side is kept from the other.
    pub close_delay: Duration,
}

/// How the edge is, both ways.
#[derive(Debug, Clone, Copy, Default)]
struct Edge {
    target: Option<SocketAddr>,
    is_cut: bool,
    /// Nobody listens.
    is_refusing: bool,
    /// Counts the resets: connections of an earlier number end.
    resets: u64,
    forth: Condition,
    back: Condition,
}

/// What an edge carries.
#[derive(Debug, Default)]
struct Counts {
    /// Bytes, by direction.
    delivered: [AtomicU64; 2],
    /// How many they were when the direction was last changed.
    marks: [AtomicU64; 2],
    connections: AtomicU64,
}

/// A connection, as long as it is counted.
struct Counted<'a>(&'a Counts);

impl<'a> Counted<'a> {
    fn new(counts: &'a Counts) -> Self {
        counts.connections.fetch_add(1, Ordering::Relaxed);
        Self(counts)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A proxy for one edge. Dropping it closes its port and resets its connections.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    edge: watch::Sender<Edge>,
    counts: Arc<Counts>,
    _accepting: JoinSet<()>,
}

impl Proxy {
    /// Listens on a loopback port, the wished one (0: any) if it is free, and carries connections to `target`.
    ///
    /// # Errors
    /// There is no port to be had.
    pub async fn start(target: SocketAddr, wished_port: u16) -> io::Result<Proxy> {
        let listener = match TcpListener::bind((Ipv4Addr::LOCALHOST, wished_port)).await {
            Err(_) if wished_port != 0 => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?,
            bound => bound?,
        };
        let port = listener.local_addr()?.port();
        let (edge, seen) = watch::channel(Edge { target: Some(target), ..Edge::default() });
        let counts = Arc::new(Counts::default());
        let mut accepting = JoinSet::new();
        accepting.spawn(listen(listener, port, edge.clone(), seen, Arc::clone(&counts)));
        Ok(Proxy { port, edge, counts, _accepting: accepting })
    }

    /// The port that stands for the target.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Bytes delivered in a direction, from the proxy's start on.
    pub fn delivered_bytes(&self, direction: Direction) -> u64 {
        self.counts.delivered[direction as usize].load(Ordering::Relaxed)
    }

    /// Connections that are carried now.
    pub fn connections(&self) -> u64 {
        self.counts.connections.load(Ordering::Relaxed)
    }

    /// Resets what is open and every new connection, until [`Proxy::heal`].
    pub fn cut(&self) {
        self.edge.send_modify(|edge| {
            edge.is_cut = true;
            edge.resets += 1;
        });
    }

    /// Resets what is open, and listens no more until [`Proxy::heal`].
    pub fn refuse(&self) {
        self.edge.send_modify(|edge| {
            edge.is_refusing = true;
            edge.resets += 1;
        });
    }

    /// Resets what is open; new connections are carried.
    pub fn reset(&self) {
        self.edge.send_modify(|edge| edge.resets += 1);
    }

    /// Changes one direction.
    pub fn set(&self, direction: Direction, condition: Condition) {
        self.counts.marks[direction as usize].store(self.delivered_bytes(direction), Ordering::Relaxed);
        self.edge.send_modify(|edge| *edge.condition_mut(direction) = condition);
    }

    /// Lets everything through again.
    pub fn heal(&self) {
        self.edge.send_modify(|edge| *edge = Edge { target: edge.target, resets: edge.resets, ..Edge::default() });
    }

    /// Carries new connections to another target.
    pub fn retarget(&self, target: SocketAddr) {
        self.edge.send_modify(|edge| edge.target = Some(target));
    }
}

impl Edge {
    fn condition(&self, direction: Direction) -> &Condition {
        match direction {
            Direction::Forth => &self.forth,
            Direction::Back => &self.back,
        }
    }

    fn condition_mut(&mut self, direction: Direction) -> &mut Condition {
        match direction {
            Direction::Forth => &mut self.forth,
            Direction::Back => &mut self.back,
        }
    }
}

/// Takes connections, but for the times in which the edge refuses them.
async fn listen(
    mut listener: TcpListener,
    port: u16,
    edge: watch::Sender<Edge>,
    mut seen: watch::Receiver<Edge>,
    counts: Arc<Counts>,
) {
    // They end with this task, which ends with the proxy.
    let mut connections = JoinSet::new();
    loop {
        let refusing = tokio::select! {
            biased;
            refusing = seen.wait_for(|edge| edge.is_refusing) => refusing.map(drop),
            () = accept(&listener, &edge, &counts, &mut connections) => Ok(()),
        };
        drop(listener);
        let healed = seen.wait_for(|edge| !edge.is_refusing).await.map(drop);
        if refusing.and(healed).is_err() {
            return;
        }
        listener = loop {
            match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(RETRY_EVERY).await,
            }
        };
    }
}

async fn accept(
    listener: &TcpListener,
    edge: &watch::Sender<Edge>,
    counts: &Arc<Counts>,
    connections: &mut JoinSet<()>,
) {
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(RETRY_EVERY).await;
            continue;
        };
        let (edge, counts) = (edge.clone(), Arc::clone(counts));
        connections.spawn(async move {
            // Whatever ended it: both sockets are reset or closed by now.
            let _ = carry(client, &edge, edge.subscribe(), &counts).await;
        });
    }
}

async fn carry(
    mut client: TcpStream,
    edge: &watch::Sender<Edge>,
    mut seen: watch::Receiver<Edge>,
    counts: &Counts,
) -> io::Result<()> {
    let (resets, target) = {
        let edge = seen.borrow_and_update();
        (edge.resets, edge.target.filter(|_| !edge.is_cut))
    };
    let upstream = match target {
        Some(target) => TcpStream::connect(target).await,
        None => Err(io::ErrorKind::ConnectionReset.into()),
    };
    let Ok(mut upstream) = upstream else { return reset(&client) };
    let _counted = Counted::new(counts);
    client.set_nodelay(true)?;
    upstream.set_nodelay(true)?;
    let (client_in, client_out) = client.split();
    let (upstream_in, upstream_out) = upstream.split();
    let (forth_seen, back_seen) = (seen.clone(), seen.clone());
    let way = |direction| Way { direction, edge, counts };
    let ended = tokio::select! {
        done = async {
            tokio::try_join!(
                pump(client_in, upstream_out, way(Direction::Forth), forth_seen),
                pump(upstream_in, client_out, way(Direction::Back), back_seen),
            )
        } => done.map(drop),
        _ = seen.wait_for(|edge| edge.resets != resets) => Err(io::ErrorKind::ConnectionReset.into()),
    };
    if ended.is_err() {
        reset(&client)?;
        reset(&upstream)?;
    }
    Ok(())
}

/// Lets the peer see a reset when the socket is closed, as it would if a process or a route were gone.
fn reset(socket: &TcpStream) -> io::Result<()> {
    rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO)).map_err(io::Error::from)
}

/// One direction of one connection.
struct Way<'a> {
    direction: Direction,
    edge: &'a watch::Sender<Edge>,
    counts: &'a Counts,
}

/// How a direction is, once it is not stalled.
async fn open(seen: &mut watch::Receiver<Edge>, direction: Direction) -> io::Result<Condition> {
    let edge = seen.wait_for(|edge| !edge.condition(direction).is_stalled).await.map_err(io::Error::other)?;
    Ok(*edge.condition(direction))
}

impl Way<'_> {
    /// Bytes that may still be delivered before the reset.
    fn left(&self, condition: &Condition) -> u64 {
        let Some(limit) = condition.reset_after_bytes else { return u64::MAX };
        let mark = self.counts.marks[self.direction as usize].load(Ordering::Relaxed);
        limit.saturating_sub(self.delivered().load(Ordering::Relaxed) - mark)
    }

    fn delivered(&self) -> &AtomicU64 {
        &self.counts.delivered[self.direction as usize]
    }
}

/// Bytes, and when they are due at the other end. None are the end itself.
type Piece = (Instant, Vec<u8>);

/// Carries one direction until its end has been handed on, or something breaks.
async fn pump(source: ReadHalf<'_>, sink: WriteHalf<'_>, way: Way<'_>, seen: watch::Receiver<Edge>) -> io::Result<()> {
    let (sender, receiver) = mpsc::channel(PIECES_IN_FLIGHT);
    tokio::try_join!(take_in(source, sender, way.direction, seen.clone()), give_out(sink, receiver, way, seen))?;
    Ok(())
}

async fn take_in(
    mut source: ReadHalf<'_>,
    sender: mpsc::Sender<Piece>,
    direction: Direction,
    seen: watch::Receiver<Edge>,
) -> io::Result<()> {
    let mut last_due = Instant::now();
    let mut dice = RandomState::new().build_hasher().finish() | 1;
    loop {
        let mut piece = vec![0; PIECE_BYTES];
        let count = source.read(&mut piece).await?;
        piece.truncate(count);
        let condition = *seen.borrow().condition(direction);
        let delay = if count == 0 { condition.latency + condition.close_delay } else { shaken(condition, &mut dice) };
        last_due = last_due.max(Instant::now() + delay);
        if sender.send((last_due, piece)).await.is_err() || count == 0 {
            return Ok(());
        }
    }
}

/// The latency, with its jitter (xorshift: nobody attacks a fault).
fn shaken(condition: Condition, dice: &mut u64) -> Duration {
    if condition.jitter.is_zero() {
        return condition.latency;
    }
    *dice ^= *dice << 13;
    *dice ^= *dice >> 7;
    *dice ^= *dice << 17;
    let range = condition.jitter * 2;
    (condition.latency + range.mul_f64((*dice >> 11) as f64 / (1_u64 << 53) as f64)).saturating_sub(condition.jitter)
}

async fn give_out(
    mut sink: WriteHalf<'_>,
    mut pieces: mpsc::Receiver<Piece>,
    way: Way<'_>,
    mut seen: watch::Receiver<Edge>,
) -> io::Result<()> {
    while let Some((due, piece)) = pieces.recv().await {
        // The timer's steps are a millisecond: what is due already must not wait for one.
        if due > Instant::now() {
            tokio::time::sleep_until(due).await;
        }
        let mut rest = piece.as_slice();
        while !rest.is_empty() {
            let condition = open(&mut seen, way.direction).await?;
            let left = way.left(&condition);
            let count = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let count = sink.write(&rest[..count]).await?;
            way.delivered().fetch_add(count as u64, Ordering::Relaxed);
            rest = &rest[count..];
            if count as u64 == left {
                way.edge.send_modify(|edge| edge.resets += 1);
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            if let Some(rate) = condition.bytes_per_sec {
                tokio::time::sleep(Duration::from_secs_f64(count as f64 / rate.max(1) as f64)).await;
            }
        }
        if piece.is_empty() {
            return sink.shutdown().await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends back what it gets.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        tokio::spawn(async move {
            while let Ok((mut peer, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = peer.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                    let _ = to.shutdown().await;
                });
            }
        });
        address
    }

    async fn connect(proxy: &Proxy) -> TcpStream {
        TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await.expect("the proxy accepts")
    }

    async fn exchange(peer: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
        peer.write_all(bytes).await?;
        let mut back = vec![0; bytes.len()];
        peer.read_exact(&mut back).await?;
        assert!(back == bytes, "what was sent comes back");
        Ok(())
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), test).await.expect("it ends in time") });
    }

    #[test]
    fn everything_is_carried_to_the_end_of_both_sides() {
        run(async {
            let proxy = Proxy::start(echo().await, 0).await.expect("a port");
            let mut peer = connect(&proxy).await;
            exchange(&mut peer, &vec![7; 100_000]).await.expect("it goes through");
            peer.write_all(b"the end").await.expect("it is open");
            peer.shutdown().await.expect("it is open");
            let mut rest = Vec::new();
            peer.read_to_end(&mut rest).await.expect("an end and no reset");
            assert_eq!(rest, b"the end");
            assert_eq!(proxy.delivered_bytes(Direction::Back), 100_007);
        });
    }

    #[test]
    fn a_cut_resets_what_is_open_and_what_comes_until_it_is_healed() {
        run(async {
            let proxy = Proxy::start(echo().await, 0).await.expect("a port");
            let mut peer = connect(&proxy).await;
            exchange(&mut peer, b"before").await.expect("it goes through");
            proxy.cut();
            assert_eq!(peer.read_u8().await.expect_err("it was cut").kind(), io::ErrorKind::ConnectionReset);
            let mut late = connect(&proxy).await;
            assert!(late.read_u8().await.is_err(), "nothing comes through a cut");
            proxy.heal();
            exchange(&mut connect(&proxy).await, b"after").await.expect("it goes through");
        });
    }

    #[test]
    fn a_link_without_a_fault_waits_for_no_timer() {
        run(async {
            let proxy = Proxy::start(echo().await, 0).await.expect("a port");
            let mut peer = connect(&proxy).await;
            let mut quickest = Duration::MAX;
            for _ in 0..200 {
                let began = Instant::now();
                exchange(&mut peer, b"ping").await.expect("it goes through");
                quickest = quickest.min(began.elapsed());
            }
            assert!(quickest < Duration::from_millis(1), "{quickest:?}");
        });
    }

    #[test]
    fn nobody_listens_while_an_edge_refuses() {
        run(async {
            let proxy = Proxy::start(echo().await, 0).await.expect("a port");
            let mut peer = connect(&proxy).await;
            exchange(&mut peer, b"before").await.expect("it goes through");
            assert_eq!(proxy.connections(), 1);
            proxy.refuse();
            assert!(peer.read_u8().await.is_err(), "it was reset");
            while TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await.is_ok() {}
            proxy.heal();
            let mut late = loop {
                match TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await {
                    Ok(peer) => break peer,
                    Err(_) => tokio::task::yield_now().await,
                }
            };
            exchange(&mut late, b"after").await.expect("it goes through");
        });
    }

    #[test]
    fn what_is_stalled_comes_late_and_whole() {
        run(async {
            let proxy = Proxy::start(echo().await, 0).await.expect("a port");
            let mut peer = connect(&proxy).await;
            proxy.set(Direction::Back, Condition { is_stalled: true, ..Condition::default() });
            peer.write_all(b"into the dark").await.expect("the other way is open");
            let mut back = [0; 13];
            let nothing = tokio::time::timeout(Duration::from_millis(50), peer.read_exact(&mut back)).await;
            assert!(nothing.is_err() && proxy.delivered_bytes(Direction::Back) == 0);
            assert_eq!(proxy.delivered_bytes(Direction::Forth), 13);
            proxy.heal();
            peer.read_exact(&mut back).await.expect("it comes");
            assert_eq!(&back, b"into the dark");
        });
    }

    #[test]
    fn a_link_breaks_after_exactly_so_many_bytes() {
        run(async {
            let proxy = Proxy::start(echo().await, 0).await.expect("a port");
            for limit in [1, 1_000, PIECE_BYTES as u64, 100_000] {
                proxy.heal();
                proxy.set(Direction::Back, Condition { reset_after_bytes: Some(limit), ..Condition::default() });
                let before = proxy.delivered_bytes(Direction::Back);
                let mut peer = connect(&proxy).await;
                let _ = peer.write_all(&vec![1; 200_000]).await;
                let mut received = 0;
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = peer.read(&mut buffer).await {
                    received += count as u64;
                }
                assert_eq!((received, proxy.delivered_bytes(Direction::Back) - before), (limit, limit));
            }
        });
    }

    #[test]
    fn an_end_comes_late_where_closing_is_slow_and_bytes_do_not() {
        run(async {
            let proxy = Proxy::start(echo().await, 0).await.expect("a port");
            let close_delay = Duration::from_millis(50);
            proxy.set(Direction::Back, Condition { close_delay, ..Condition::default() });
            let mut peer = connect(&proxy).await;
            exchange(&mut peer, b"quick").await.expect("it goes through");
            let began = Instant::now();
            peer.shutdown().await.expect("it is open");
            assert_eq!(peer.read(&mut [0]).await.expect("an end and no reset"), 0);
            assert!(began.elapsed() >= close_delay, "{:?}", began.elapsed());
        });
    }

    #[test]
    fn bytes_are_late_by_the_latency_and_no_faster_than_the_rate() {
        run(async {
            let proxy = Proxy::start(echo().await, 0).await.expect("a port");
            let mut peer = connect(&proxy).await;
            let latency = Duration::from_millis(30);
            proxy.set(Direction::Forth, Condition { latency, jitter: latency / 3, ..Condition::default() });
            let began = Instant::now();
            exchange(&mut peer, b"slow").await.expect("it goes through");
            assert!(began.elapsed() >= latency - latency / 3, "{:?}", began.elapsed());
            proxy.set(Direction::Forth, Condition { bytes_per_sec: Some(1_000_000), ..Condition::default() });
            let began = Instant::now();
            exchange(&mut peer, &vec![3; 100_000]).await.expect("it goes through");
            assert!(began.elapsed() >= Duration::from_millis(80), "{:?}", began.elapsed());
        });
    }
}
