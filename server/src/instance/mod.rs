//! The one instance: the data, their history, who is connected, and what the shell has to do next.
//!
//! Owned by one thread. Time comes in as [`Instance::set_now`], requests as [`Instance::execute`], and what cannot be
//! done without I/O goes out as an [`Action`] that the network shell carries out. The only file touched from here is the
//! backlog, which is memory that happens to have a name.

mod aof;
mod blocking;
mod eviction;
mod failover;
mod feed;
mod guard;
mod limits;
mod link;
mod notify;
mod pause;
mod random;
mod replay;
mod requests;
mod role;
mod stream;
mod time;
mod timing;

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

pub(crate) use blocking::Awaited;
use blocking::Waiters;
pub use failover::{Failover, TimeLimit};
pub use feed::Next;
pub use link::{Backoff, Demand, Follower, Promise, TIMEOUT_TRANSFER};
pub use pause::{Pause, PausedBy};
pub use random::Random;
pub use replay::{Replay, ReplayError};
pub use requests::{Found, Requests, RequestsError};
pub use timing::{Histogram, Timing};

use crate::aof::Aof;
use crate::client::{Client, ClientKind, Session, remembered_bytes};
use crate::command::{Command, Connections, Met, Users};
use crate::config::{Config, Secret, ShutdownOptions};
use crate::delays::Delays;
use crate::functions::Functions;
use crate::keyspace::Keyspace;
use crate::log::log;
use crate::notify::Event;
use crate::oom_score::OomScore;
use crate::pubsub::PubSub;
use crate::replication::{Feed, History, Replication, ReplicationId};
use crate::slowlog::SlowLog;
use crate::snapshot::{KeyDelay, Point};
use crate::tracking::Tracking;
use crate::value::Dice;

/// The version of Redis whose behaviour clients may expect.
pub const REDIS_VERSION: &str = "7.0.15";

/// Where the backlog lies in the data directory.
pub const BACKLOG_FILE: &str = "backlog.bin";

/// Listens where a configuration says, or goes on where it was and says why.
pub type Listen = Box<dyn Fn(&Config) -> Result<(), String>>;

/// What only the shell can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Whom this server follows has changed: begin, change or end the link.
    Relink,
    /// Save in the background.
    Save,
    /// A replica waits for a snapshot, or does so no longer.
    Sync,
    /// Rewrite the append-only file in the background.
    RewriteAof,
    /// Write what is appended, and close the append-only file.
    StopAof,
    /// Load what is in the append-only file in place of the data, and answer the client of this id.
    ReloadAof(u64),
    /// Delete what a rewrite has made superfluous.
    TidyAof,
    /// Somebody waits for what was appended to be on the disk.
    SyncAof,
    /// End the server.
    Shutdown(ShutdownOptions),
}

/// A key and its database.
pub(crate) type Place = (usize, Box<[u8]>);

/// A shutdown that waits for replicas.
pub struct Shutdown {
    /// When it waits no longer, in milliseconds since the epoch.
    pub deadline_ms: i64,
    /// Who asked for it, and learns whether it fails.
    clients: Vec<Rc<Client>>,
}

/// A data set that is being loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loading {
    /// Since when, in milliseconds since the epoch.
    pub started_ms: i64,
    /// Bytes to read; 0 if unknown.
    pub total_bytes: u64,
    /// Bytes read.
    pub loaded_bytes: u64,
    /// The old data are served meanwhile.
    pub serves_old_data: bool,
}

/// What became of the last snapshots.
#[derive(Debug, Default)]
pub struct Persistence {
    /// Changes since the last save.
    pub dirty: u64,
    /// Changes of these that the running save does not contain.
    pub dirty_at_start: u64,
    /// A snapshot is made since then, in milliseconds since the epoch, for the dump file or for replicas.
    pub snapshot_since_ms: Option<i64>,
    /// Keys that it will have, and those that the walk has met so far.
    pub snapshot_keys: (u64, u64),
    /// It goes into the dump file.
    pub is_saving: bool,
    /// How often all keys had been removed at once when it was begun.
    pub flushes_at_start: u64,
    /// When the last save was finished, in seconds since the epoch.
    pub last_save_s: i64,
    /// When the last one was begun, in milliseconds since the epoch.
    pub last_try_ms: i64,
    /// Whether the last one failed.
    pub failed: bool,
    /// How long it took, in seconds.
    pub last_duration_s: Option<i64>,
    /// Bytes of pre-images that the last snapshot needed: copies of what was written before its turn had come.
    pub last_preimage_bytes: u64,
    /// Saves finished since the start.
    pub saves: u64,
    /// Keys of the last load.
    pub last_load_keys_loaded: u64,
    /// Keys that had expired by then.
    pub last_load_keys_expired: u64,
}

/// Counters since the start or `CONFIG RESETSTAT`.
#[derive(Debug, Default, Clone)]
#[expect(missing_docs, reason = "each is the INFO field of that name")]
pub struct Stats {
    pub total_connections_received: u64,
    pub total_commands_processed: u64,
    pub total_net_input_bytes: u64,
    pub total_net_output_bytes: u64,
    pub rejected_connections: u64,
    pub sync_full: u64,
    pub sync_partial_ok: u64,
    pub sync_partial_err: u64,
    pub expired_keys: u64,
    pub expired_subkeys: u64,
    pub evicted_keys: u64,
    pub lazyfreed_before: u64,
    pub keyspace_hits: Cell<u64>,
    pub keyspace_misses: Cell<u64>,
    pub total_error_replies: u64,
    pub client_output_buffer_limit_disconnections: u64,
    pub evicted_clients: u64,
    pub commands: CommandCounts,
    pub errors: ErrorCounts,
}

/// What became of the requests for one command.
#[derive(Debug, Clone, Default)]
pub struct CommandCount {
    /// How often it was run.
    pub calls: u64,
    /// How often it was refused.
    pub rejected: u64,
    /// How often it ended with an error.
    pub failed: u64,
    /// How long all calls took, in microseconds.
    pub us: u64,
    /// How long each took.
    pub histogram: Histogram,
}

/// The same for each command that was asked for.
#[derive(Debug, Clone, Default)]
pub struct CommandCounts {
    /// In the order in which they were first asked for: what is asked for all the time is found at once.
    all: Vec<(&'static str, CommandCount)>,
}

impl CommandCounts {
    /// That of `command`.
    #[inline]
    pub fn of(&mut self, command: &'static Command) -> &mut CommandCount {
        let index = self.all.iter().position(|(name, _)| std::ptr::eq(*name, command.name));
        let index = index.unwrap_or_else(|| {
            self.all.push((command.name, CommandCount::default()));
            self.all.len() - 1
        });
        &mut self.all[index].1
    }

    /// That of the command of this name, if it was asked for.
    pub fn get(&self, name: &str) -> Option<&CommandCount> {
        self.iter().find(|(own, _)| *own == name).map(|(_, count)| count)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &CommandCount)> {
        self.all.iter().map(|(name, count)| (*name, count))
    }
}

/// How often errors of each code were answered.
#[derive(Debug, Clone, Default)]
pub struct ErrorCounts(BTreeMap<Box<str>, u64>);

impl ErrorCounts {
    /// More codes than this are no codes.
    const CODES_MAX: usize = 128;

    /// Counts an error by its first word.
    pub fn count(&mut self, text: &[u8]) {
        let code = text.split(|byte| *byte == b' ').next().unwrap_or_default();
        let code = String::from_utf8_lossy(code);
        if let Some(count) = self.0.get_mut(&*code) {
            *count += 1;
        } else if self.0.len() < Self::CODES_MAX {
            self.0.insert(code.into(), 1);
        }
    }

    /// All of them, by code.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(code, count)| (&**code, *count))
    }
}

/// The requests of a transaction on their way into the stream.
#[derive(Default)]
pub(crate) struct TransactionStream {
    pub(crate) requests: Vec<u8>,
    pub(crate) count: usize,
    pub(crate) db: usize,
}

/// Everything that is this server.
pub struct Instance {
    /// What it was told to be.
    pub config: Config,
    /// The data.
    pub keyspace: Keyspace,
    /// What scripts could call, if scripts could be run here.
    pub functions: Functions,
    /// The history of both.
    pub replication: Replication,
    /// Who listens to what.
    pub pubsub: PubSub,
    /// Who is told when keys change.
    pub tracking: Tracking,
    /// Who looks on.
    pub monitors: Vec<Rc<Client>>,
    /// What took long.
    pub slowlog: SlowLog,
    /// What somebody may have had to wait for.
    pub delays: Delays,
    /// Who is connected.
    pub clients: BTreeMap<u64, Rc<Client>>,
    /// What became of snapshots.
    pub persistence: Persistence,
    /// Every write.
    pub aof: Aof,
    /// What happened so far.
    pub stats: Stats,
    /// Names this run of the server.
    pub run_id: ReplicationId,
    /// When it started, in milliseconds since the epoch.
    pub started_ms: i64,
    /// The present, in milliseconds since the epoch; the same for all requests of a turn.
    pub now_ms: i64,
    /// A data set is being loaded.
    pub loading: Option<Loading>,
    /// The directive of that name, as the thread that loads sees it.
    pub key_load_delay: KeyDelay,
    /// The server will end as soon as its replicas have caught up.
    pub shutdown: Option<Shutdown>,
    /// Keys are deleted when their time has come, and not only when somebody looks at them.
    pub active_expiry: bool,
    /// What has to be done from time to time is not done, for tests.
    pub is_idle: bool,
    /// This master hands its place to a replica.
    pub failover: Option<Failover>,
    /// The checksum of what is restored is not looked at, for tests: what is behind it is.
    pub ignores_checksums: bool,
    /// A client has killed others in this turn.
    pub has_killed: bool,
    /// Who may come in, and do what.
    pub users: Users,
    pauses: [Option<Pause>; 3],
    /// Replicas that are synced in full again and again, by address and port.
    troubled: HashMap<(String, u16), limits::Troubled>,
    eviction_pool: eviction::Pool,
    /// What clients' buffers took when they were looked at last.
    pub(crate) client_bytes: u64,
    /// The most that was ever used, in bytes.
    peak_bytes: u64,
    /// What the process occupied before there were any data.
    pub startup_bytes: u64,
    actions: Vec<Action>,
    pub(crate) waiters: Waiters,
    pub(crate) watchers: HashMap<Place, Vec<Rc<Client>>>,
    /// Keys with a deadline that clients have written on a writable replica: no upstream will say that they have expired.
    pub(crate) own_deadlines: HashSet<Place>,
    pub(crate) effect: Vec<u8>,
    /// What has happened to keys and is not published yet.
    pub(crate) events: Vec<Event>,
    pub(crate) met: Met,
    /// To servers that keys were moved to.
    pub(crate) migrations: Connections,
    pub(crate) transaction_stream: Option<TransactionStream>,
    listen: Listen,
    oom_score: OomScore,
    next_client_id: u64,
    random: Random,
    /// What commands leave to chance.
    pub(crate) dice: Dice,
    timing: Timing,
    last_ping_ms: i64,
    last_second: i64,
}

impl Instance {
    /// An empty master. Whatever it leaves to chance comes from `random`.
    pub fn new(config: Config, now_ms: i64, mut random: Random) -> Self {
        let seed = [random.next_u64(), random.next_u64()];
        let mut keyspace = Keyspace::new(config.databases as usize, seed);
        keyspace.set_tracking(config.tracking());
        keyspace.set_access_time(now_ms);
        Instance {
            keyspace,
            functions: Functions::default(),
            replication: Replication::new(random.id()),
            pubsub: PubSub::default(),
            tracking: Tracking::default(),
            monitors: Vec::new(),
            slowlog: SlowLog::default(),
            delays: Delays::default(),
            clients: BTreeMap::new(),
            persistence: Persistence { last_save_s: now_ms / 1000, ..Persistence::default() },
            aof: Aof::default(),
            stats: Stats::default(),
            run_id: random.id(),
            started_ms: now_ms,
            now_ms,
            loading: None,
            key_load_delay: KeyDelay::fixed(config.key_load_delay),
            is_idle: false,
            active_expiry: true,
            shutdown: None,
            failover: None,
            ignores_checksums: false,
            has_killed: false,
            users: Users::new(config.requirepass.as_ref().map(Secret::expose)),
            pauses: [None; 3],
            troubled: HashMap::new(),
            eviction_pool: eviction::Pool::default(),
            client_bytes: 0,
            peak_bytes: 0,
            startup_bytes: 0,
            actions: Vec::new(),
            waiters: Waiters::default(),
            watchers: HashMap::new(),
            own_deadlines: HashSet::new(),
            effect: Vec::new(),
            events: Vec::new(),
            listen: Box::new(|_| Ok(())),
            oom_score: OomScore::default(),
            met: Met::default(),
            migrations: Connections::default(),
            transaction_stream: None,
            next_client_id: 1,
            dice: Dice::new(random.next_u64()),
            random,
            timing: Timing::default(),
            last_ping_ms: now_ms,
            last_second: 0,
            config,
        }
    }

    /// Lets time go on; it never goes back.
    pub fn set_now(&mut self, now_ms: i64) {
        self.now_ms = self.now_ms.max(now_ms);
        self.keyspace.set_access_time(self.now_ms);
    }

    /// Asks the shell for something.
    pub fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    /// What the shell has been asked for since the last call.
    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// A number by chance.
    pub fn random(&mut self) -> u64 {
        self.random.next_u64()
    }

    /// A name that nobody else will choose.
    pub fn random_id(&mut self) -> ReplicationId {
        self.random.id()
    }

    /// Takes data that were loaded in place of those that were here, and returns these: to free them takes long, and is
    /// better done elsewhere.
    pub fn install(&mut self, keyspace: Keyspace, keys_loaded: u64, keys_expired: u64) -> Keyspace {
        self.loading = None;
        self.persistence.last_load_keys_loaded = keys_loaded;
        self.persistence.last_load_keys_expired = keys_expired;
        self.touch_database(None);
        self.tracking.forget_all(&self.clients);
        let old = std::mem::replace(&mut self.keyspace, keyspace);
        self.track_uses();
        old
    }

    /// What was loaded is a point of a known history, and those who know it may continue.
    ///
    /// # Errors
    /// There is no room for a backlog.
    pub fn continue_from(&mut self, point: Point) -> Result<(), String> {
        let replication = &mut self.replication;
        replication.offset = point.offset;
        replication.stream_db = point.db;
        if !replication.is_master() {
            replication.history = History { replid: point.id, previous: None };
            replication.restore();
            return Ok(());
        }
        replication.history.previous = Some((point.id, point.offset));
        self.create_backlog()
    }

    // --- Clients ---

    /// Says how to listen elsewhere.
    pub fn set_listen(&mut self, listen: Listen) {
        self.listen = listen;
    }

    /// Listens where the configuration says by now.
    ///
    /// # Errors
    /// It cannot; it listens where it did.
    pub(crate) fn listen(&self) -> Result<(), String> {
        (self.listen)(&self.config)
    }

    /// A connection was made.
    pub fn connect(&mut self, address: String, local_address: String, kind: ClientKind) -> Rc<Client> {
        let client = {
            let user = Rc::clone(self.users.default_user());
            Client::new(self.next_client_id, (address, local_address), self.now_ms, kind, user)
        };
        self.next_client_id += 1;
        if kind != ClientKind::Master {
            self.stats.total_connections_received += 1;
        }
        self.clients.insert(client.id, Rc::clone(&client));
        client
    }

    /// An error is answered.
    pub(crate) fn count_error(&mut self, text: &[u8]) {
        self.stats.total_error_replies += 1;
        self.stats.errors.count(text);
    }

    /// A connection has ended.
    pub fn disconnect(&mut self, session: &mut Session) {
        self.unwatch(session);
        self.forget_monitor(session);
        let client = &session.client;
        self.client_bytes -= client.measured_bytes.take();
        client.clear_waker();
        self.clients.remove(&client.id);
        self.forget_waiter(client);
        if let Some(shutdown) = &mut self.shutdown {
            shutdown.clients.retain(|waiting| waiting.id != client.id);
        }
        self.tracking.stop(client);
        if client.subscriptions.get().any() {
            self.pubsub.forget(client.id);
        }
        if let Some(feed) = session.feed.take() {
            self.detach(&feed);
        }
    }

    fn detach(&mut self, feed: &Rc<Feed>) {
        log!(Warning, "Connection with replica {}:{} lost.", feed.ip, feed.port);
        self.replication.feeds.retain(|other| other.client.id != feed.client.id);
        // A snapshot may have been for this one alone.
        self.act(Action::Sync);
        self.replication.unfed_since_ms = self.now_ms;
        self.hold_for_slowest();
        self.shrink_backlog();
    }

    /// Begins to wait for replicas before the server ends.
    pub fn begin_shutdown(&mut self) {
        let deadline_ms = self.now_ms.saturating_add(self.config.shutdown_timeout.as_millis() as i64);
        self.shutdown = Some(Shutdown { deadline_ms, clients: Vec::new() });
    }

    /// Lets `client` wait for the server's end.
    pub(crate) fn wait_for_shutdown(&mut self, client: &Rc<Client>) {
        if let Some(shutdown) = &mut self.shutdown {
            client.blocked.set(true);
            shutdown.clients.push(Rc::clone(client));
        }
    }

    /// The server goes on, and says so to those who wanted it to end.
    pub fn fail_shutdown(&mut self) {
        let Some(shutdown) = self.shutdown.take() else { return };
        for client in shutdown.clients {
            client.send(|mailbox| mailbox.extend_from_slice(b"-ERR Errors trying to SHUTDOWN. Check logs.\r\n"));
            client.unblock();
        }
        self.unpause(PausedBy::Shutdown);
    }

    // --- WATCH ---

    /// Lets `session` be told when the key changes.
    pub(crate) fn watch(&mut self, session: &mut Session, db: usize, name: &[u8]) {
        if session.watched.iter().any(|(watched_db, watched, _)| *watched_db == db && &watched[..] == name) {
            return;
        }
        let entry = self.keyspace.peek(db, self.keyspace.key(name));
        let deadline_ms = entry.and_then(|entry| entry.deadline_ms()).filter(|deadline| *deadline > self.now_ms);
        session.watched.push((db, name.into(), deadline_ms));
        session.client.watched_bytes.update(|bytes| bytes + remembered_bytes(name));
        self.watchers.entry((db, name.into())).or_default().push(Rc::clone(&session.client));
    }

    /// Ends all of that.
    pub(crate) fn unwatch(&mut self, session: &mut Session) {
        for (db, name, _) in session.watched.drain(..) {
            let place = (db, name);
            if let Some(clients) = self.watchers.get_mut(&place) {
                clients.retain(|client| client.id != session.client.id);
                if clients.is_empty() {
                    self.watchers.remove(&place);
                }
            }
        }
        session.client.watched_bytes.set(0);
        session.client.watch_broken.set(false);
    }

    /// A key has changed.
    pub(crate) fn touch(&self, db: usize, name: &[u8]) {
        if self.watchers.is_empty() {
            return;
        }
        if let Some(clients) = self.watchers.get(&(db, name.into())) {
            clients.iter().for_each(|client| client.watch_broken.set(true));
        }
    }

    /// A key has gone without anybody's doing: it has expired.
    pub(crate) fn forget_key(&mut self, db: usize, name: &[u8]) {
        self.touch(db, name);
        if self.tracking.is_on() {
            self.tracking.invalidate(name, None);
        }
    }

    /// All keys of a database (or of all) may have changed.
    pub(crate) fn touch_database(&self, db: Option<usize>) {
        for ((watched_db, _), clients) in &self.watchers {
            if db.is_none_or(|db| db == *watched_db) {
                clients.iter().for_each(|client| client.watch_broken.set(true));
            }
        }
    }
}
