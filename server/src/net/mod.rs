//! The shell: sockets, tasks, timers, files. The one place that knows tokio.
//!
//! Everything runs on one thread: a task per connection, one for the link to the upstream, one for snapshots, one for
//! time. A task borrows the [`Instance`] for the length of a turn and never across an `await`. Only encoding and writing
//! snapshots happens on threads of its own, which see flat copies.

mod aof;
mod connection;
mod feed;
mod image;
mod link;
mod listen;
mod loading;
mod persist;
mod receive;
mod recover;
mod stream;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpStream, UnixListener};
use tokio::runtime::{Builder, LocalOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use tokio::task::{JoinHandle, spawn_local};

use self::listen::Listeners;
use self::stream::Stream;
use crate::client::{Client, ClientKind, Session};
use crate::config::{ClientMemory, Config, ShutdownOptions};
use crate::instance::{Action, Instance, Pause, PausedBy, Random};
use crate::log::log;
use crate::replication::Remains;
use crate::snapshot;

/// Bytes read from a connection at once.
const READ_BYTES: usize = 64 * 1024;

/// Turns between two looks at the sockets, while there are turns to take: all that is known to be readable should be read
/// and answered first.
const TURNS_PER_POLL: u32 = 1024;

/// A piece of a snapshot on its way to a replica.
type Payload = Arc<[u8]>;

/// What all tasks share.
pub(crate) struct Server {
    instance: RefCell<Instance>,
    /// Where every connection reads; what is left over is kept by the connection.
    read_buffer: RefCell<Vec<u8>>,
    /// Database and hash of the key of a lone request that was read and not run yet: see [`connection`].
    awaited: Cell<Option<(usize, u64)>>,
    /// Something is due earlier than the timer thinks.
    timer: Notify,
    /// When it will look without being told, in milliseconds since the epoch.
    timer_until_ms: Cell<i64>,
    /// A snapshot is wanted.
    snapshot: Notify,
    save_wanted: Cell<bool>,
    rewrite_wanted: Cell<bool>,
    /// A save that runs, and those who wait for its file.
    saving: RefCell<Option<persist::Saving>>,
    /// The append-only file.
    aof: RefCell<aof::Files>,
    /// Somebody waits for the disk.
    aof_sync: Notify,
    /// Why the server ends, if that is no success.
    failure: RefCell<Option<String>>,
    /// Where the snapshot for each waiting replica goes, by the id of its connection.
    payloads: RefCell<HashMap<u64, mpsc::Sender<Payload>>>,
    link: RefCell<Option<JoinHandle<()>>>,
    stop: Notify,
}

/// Asked for twice in each turn, and therefore not by way of `SystemTime`, which takes several times the instructions.
fn now_us() -> i64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one timespec; it cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut now) };
    now.tv_sec * 1_000_000 + now.tv_nsec / 1000
}

fn now_ms() -> i64 {
    now_us() / 1000
}

/// Serves until it is told to stop: the data of its directory, or as a ghost what remains of a dead server.
///
/// # Errors
/// It cannot listen where it should, or its data cannot be loaded.
pub(crate) fn serve(config: Config, remains: Option<Remains>) -> Result<(), String> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .event_interval(TURNS_PER_POLL)
        .build_local(LocalOptions::default())
        .map_err(|error| format!("the event loop can't be made: {error}"))?;
    let result = runtime.block_on(run(config, remains));
    // Connections end here; whoever waits for an answer is told by the closed socket.
    runtime.shutdown_background();
    result
}

async fn run(config: Config, remains: Option<Remains>) -> Result<(), String> {
    let listeners = Rc::new(Listeners::default());
    listeners.listen(&config).inspect_err(|_| {
        log!(Warning, "Failed listening on port {} (TCP), aborting.", config.port);
    })?;
    let socket = config.unixsocket.as_ref().map(|path| config.dir.join(path));
    let unix_listener = socket.as_deref().map(|path| listen_unix(path, config.unixsocketperm)).transpose()?;
    let pidfile = config.pidfile.as_ref().map(|path| config.dir.join(path));
    let mut instance = Instance::new(config, now_ms(), Random::from_system());
    instance.set_clock(now_us);
    instance.set_listen({
        let listeners = Rc::clone(&listeners);
        Box::new(move |config| listeners.listen(config))
    });
    instance.make_users()?;
    instance.startup_bytes = crate::info::own_bytes();
    let is_ghost = remains.is_some();
    match (remains, instance.config.replicaof.clone()) {
        (Some(remains), _) => instance.haunt(remains).map_err(|error| format!("can't map the backlog: {error}"))?,
        (None, Some(upstream)) => instance.follow_from_start(upstream),
        (None, None) => {}
    }
    instance.announce_role();
    let server = Rc::new(Server {
        instance: RefCell::new(instance),
        read_buffer: RefCell::new(vec![0; READ_BYTES]),
        awaited: Cell::new(None),
        timer: Notify::new(),
        timer_until_ms: Cell::new(0),
        snapshot: Notify::new(),
        save_wanted: Cell::new(false),
        rewrite_wanted: Cell::new(false),
        saving: RefCell::default(),
        aof: RefCell::default(),
        aof_sync: Notify::new(),
        failure: RefCell::default(),
        payloads: RefCell::default(),
        link: RefCell::default(),
        stop: Notify::new(),
    });
    if let Some(pidfile) = &pidfile
        && let Err(error) = std::fs::write(pidfile, format!("{}\n", std::process::id()))
    {
        log!(Warning, "Failed to write PID file {}: {error}", pidfile.display());
    }
    // Redis's own tests connect as soon as they read this.
    let (port, pid) = (server.instance.borrow().config.port, std::process::id());
    log!(Warning, "Running mode=standalone, port={port}, PID: {pid}");
    log!(Notice, "Server initialized");
    spawn_local(accept(Rc::clone(&server), listeners));
    if let Some(listener) = unix_listener {
        spawn_local(accept_unix(Rc::clone(&server), listener));
    }
    spawn_local(keep_time(Rc::clone(&server)));
    spawn_local(persist::run(Rc::clone(&server)));
    spawn_local(aof::keep_synced(Rc::clone(&server)));
    spawn_local(obey_signals(Rc::clone(&server)));
    if !is_ghost {
        persist::load(&server).await.map_err(|error| {
            log!(Warning, "Fatal error loading the DB: {error}. Exiting.");
            error
        })?;
    }
    log!(Notice, "Ready to accept connections");
    // Not before: what was loaded may be a part of the upstream's history.
    server.instance.borrow_mut().act(Action::Relink);
    server.settle();
    server.stop.notified().await;
    for path in [pidfile, socket].into_iter().flatten() {
        // Nobody needs them any more; who finds one left over is told by the next start.
        let _ = std::fs::remove_file(path);
    }
    log!(Warning, "Redis is now ready to exit, bye bye...");
    server.failure.take().map_or(Ok(()), Err)
}

/// Listens at a path, in place of what an earlier server may have left there.
fn listen_unix(path: &Path, permissions: u32) -> Result<UnixListener, String> {
    let fail = |error: io::Error| format!("can't listen on {}: {error}", path.display());
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(fail)?;
    if permissions != 0 {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(permissions)).map_err(fail)?;
    }
    Ok(listener)
}

async fn accept(server: Rc<Server>, listeners: Rc<Listeners>) {
    loop {
        match listeners.accept().await {
            Ok((stream, peer)) => server.welcome_tcp(stream, peer),
            Err(error) => accept_later(&error).await,
        }
    }
}

async fn accept_unix(server: Rc<Server>, listener: UnixListener) {
    let path = server.instance.borrow().config.unixsocket.clone().unwrap_or_default();
    let address = format!("{}:0", path.display());
    loop {
        match listener.accept().await {
            Ok((stream, _)) => server.welcome(Stream::Unix(stream), address.clone(), address.clone()),
            Err(error) => accept_later(&error).await,
        }
    }
}

/// Out of descriptors, most likely: others will close theirs.
async fn accept_later(error: &io::Error) {
    log!(Warning, "Accepting client connection: {error}");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

impl Server {
    fn welcome_tcp(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr) {
        {
            let mut instance = self.instance.borrow_mut();
            let config = &instance.config;
            let open = !config.protected_mode
                || !instance.users.default_user().needs_no_password()
                || peer.ip().to_canonical().is_loopback();
            if !open {
                instance.stats.rejected_connections += 1;
                // As far as it gets: the connection is closed anyway.
                let _ = stream.try_write(PROTECTED.as_bytes());
                return;
            }
            prepare_socket(&stream, config);
        }
        let local = stream.local_addr().map_or_else(|_| "?:0".into(), |address| address.to_string());
        self.welcome(Stream::Tcp(stream), peer.to_string(), local);
    }

    fn welcome(self: &Rc<Self>, stream: Stream, address: String, local_address: String) {
        let mut instance = self.instance.borrow_mut();
        if instance.clients.len() >= instance.config.maxclients as usize {
            instance.stats.rejected_connections += 1;
            stream.refuse("-ERR max number of clients reached\r\n");
            return;
        }
        let client = instance.connect(address, local_address, ClientKind::Normal);
        let session = Session::new(client, instance.users.default_user().is_open());
        drop(instance);
        spawn_local(connection::serve(Rc::clone(self), stream, session));
    }

    /// Looks at what a client takes, where that is limited.
    fn limit_clients(&self, client: &Client) {
        let mut instance = self.instance.borrow_mut();
        if instance.config.maxmemory_clients != ClientMemory::Bytes(0) {
            instance.limit_clients(client);
        }
    }

    /// Carries out what a turn has asked for, and lets the replicas be fed.
    fn settle(self: &Rc<Self>) {
        let actions = {
            let mut instance = self.instance.borrow_mut();
            instance.replication.wake_feeds();
            if instance.next_deadline_ms().is_some_and(|deadline| deadline < self.timer_until_ms.get()) {
                self.timer.notify_one();
            }
            instance.take_actions()
        };
        for action in actions {
            match action {
                Action::Relink => self.relink(),
                Action::Save => {
                    self.save_wanted.set(true);
                    self.snapshot.notify_one();
                }
                Action::RewriteAof => {
                    self.rewrite_wanted.set(true);
                    self.snapshot.notify_one();
                }
                Action::StopAof => self.stop_aof(),
                Action::TidyAof => self.tidy_aof(),
                Action::SyncAof => self.aof_sync.notify_one(),
                Action::ReloadAof(client) => self.reload_aof(client),
                Action::Sync => {
                    persist::join(self);
                    self.snapshot.notify_one();
                }
                Action::Shutdown(options) => {
                    spawn_local(Rc::clone(self).shut_down(options));
                }
            }
        }
    }

    fn reload_aof(&self, client: u64) {
        let result = aof::reload(self);
        let client = self.instance.borrow().clients.get(&client).cloned();
        let Some(client) = client else { return };
        client.send(|mailbox| match &result {
            Ok(()) => mailbox.extend_from_slice(b"+OK\r\n"),
            Err(error) => mailbox.extend_from_slice(format!("-ERR {error}\r\n").as_bytes()),
        });
        client.unblock();
    }

    fn relink(self: &Rc<Self>) {
        // The task may be the one that runs just now: it ends at its next await.
        if let Some(link) = self.link.borrow_mut().take() {
            link.abort();
            self.instance.borrow_mut().forget_link();
        }
        if self.instance.borrow().replication.following().is_some() {
            *self.link.borrow_mut() = Some(spawn_local(link::follow(Rc::clone(self))));
        }
    }

    /// Waits for replicas that lag, saves if that is wanted, and stops.
    async fn shut_down(self: Rc<Self>, options: ShutdownOptions) {
        if !options.now && !self.wait_for_lagging().await {
            return;
        }
        let mut instance = self.instance.borrow_mut();
        let has_data = instance.loading.is_none() && !instance.replication.is_ghost();
        let save = options.save.unwrap_or(!instance.config.save.is_empty()) && has_data;
        if save {
            log!(Notice, "Saving the final RDB snapshot before exiting.");
            // A background save would only write the same once more.
            instance.keyspace.abort_walk();
            if let Err(error) = snapshot::save(&mut instance) {
                log!(Warning, "Error trying to save the DB: {error}");
                if !options.force {
                    log!(Warning, "Errors trying to shut down the server. Check the logs for more information.");
                    instance.fail_shutdown();
                    return;
                }
            }
        }
        drop(instance);
        if let Err(error) = self.close_aof() {
            log!(Warning, "Error trying to save the append only file: {error}");
            if !options.force {
                log!(Warning, "Errors trying to shut down the server. Check the logs for more information.");
                self.instance.borrow_mut().fail_shutdown();
                return;
            }
        }
        self.stop.notify_one();
    }

    /// Gives the replicas time to take what they lack; false if the shutdown was called off meanwhile.
    async fn wait_for_lagging(&self) -> bool {
        let (target, replicas, deadline_ms) = {
            let mut instance = self.instance.borrow_mut();
            let replicas = instance.replication.synced_feeds();
            let Some(deadline_ms) = instance.shutdown.as_ref().map(|shutdown| shutdown.deadline_ms) else {
                return false;
            };
            if !instance.replication.is_master() || replicas == 0 {
                return true;
            }
            instance.pause(PausedBy::Shutdown, Pause { until_ms: i64::MAX, writes_only: true });
            let target = instance.replication.offset;
            if instance.replication.feeds_at(target) < replicas {
                instance.ask_for_acknowledgement();
            }
            (target, replicas, deadline_ms)
        };
        loop {
            {
                let instance = self.instance.borrow();
                let there = instance.replication.feeds_at(target);
                let connected = instance.replication.synced_feeds().min(replicas);
                if instance.shutdown.is_none() {
                    return false;
                }
                if there >= connected {
                    log!(Notice, "{there} of {connected} replicas are in sync when shutting down.");
                    return true;
                }
                if now_ms() > deadline_ms {
                    for feed in instance.replication.feeds.iter().filter(|feed| feed.acknowledged.get() < target) {
                        let behind = target - feed.acknowledged.get();
                        log!(Warning, "Lagging replica {}:{} is {behind} bytes behind.", feed.ip, feed.port);
                    }
                    log!(Warning, "{there} of {connected} replicas are in sync when shutting down.");
                    return true;
                }
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

const PROTECTED: &str = "-DENIED Redis is running in protected mode because protected mode is enabled and no password \
    is set for the default user. In this mode connections are only accepted from the loopback interface. If you want to \
    connect from external computers, set a password (requirepass), or turn protected mode off (protected-mode no).\r\n";

/// Small writes go out at once, and a peer that has vanished is noticed.
fn prepare_socket(stream: &TcpStream, config: &Config) {
    use rustix::net::sockopt;
    // Each of these can only fail for a socket that is closed already.
    let _ = stream.set_nodelay(true);
    if !config.tcp_keepalive.is_zero() {
        let _ = sockopt::set_socket_keepalive(stream, true);
        let _ = sockopt::set_tcp_keepidle(stream, config.tcp_keepalive);
        let third = (config.tcp_keepalive / 3).max(Duration::from_secs(1));
        let _ = sockopt::set_tcp_keepintvl(stream, third);
        let _ = sockopt::set_tcp_keepcnt(stream, 3);
    }
}

async fn keep_time(server: Rc<Server>) {
    const TICK_MS: i64 = 100;
    loop {
        let now = now_ms();
        let deadline = server.instance.borrow().next_deadline_ms().unwrap_or(i64::MAX);
        let until = deadline.clamp(now, now + TICK_MS);
        server.timer_until_ms.set(until);
        let wait = Duration::from_millis((until - now) as u64);
        // Either way it is time to look.
        let _ = tokio::time::timeout(wait, server.timer.notified()).await;
        {
            let mut instance = server.instance.borrow_mut();
            instance.set_now(now_ms());
            instance.tick();
        }
        server.write_aof();
        server.retry_aof();
        server.settle();
    }
}

async fn obey_signals(server: Rc<Server>) {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return log!(Warning, "Signals can't be handled: only SHUTDOWN will end this server cleanly.");
    };
    loop {
        let name = std::future::poll_fn(|context| {
            if terminate.poll_recv(context).is_ready() {
                return std::task::Poll::Ready("SIGTERM");
            }
            interrupt.poll_recv(context).map(|_| "SIGINT")
        })
        .await;
        log!(Warning, "Received {name} scheduling shutdown...");
        let options = {
            let config = &server.instance.borrow().config;
            if name == "SIGTERM" { config.shutdown_on_sigterm } else { config.shutdown_on_sigint }
        };
        if server.instance.borrow().shutdown.is_none() {
            server.instance.borrow_mut().begin_shutdown();
            spawn_local(Rc::clone(&server).shut_down(options));
        }
    }
}
