//! The one instance: the data, their history, who is connected, and what the shell has to do next.
//!
//! Owned by one thread. Time comes in as [`Instance::set_now`], requests as [`Instance::execute`], and what cannot be
//! done without I/O goes out as an [`Action`] that the network shell carries out. The only file touched from here is the
//! backlog, which is memory that happens to have a name.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::rc::Rc;

use crate::client::{Client, ClientKind, Session};
use crate::config::{Config, ShutdownOptions, Upstream};
use crate::keyspace::Keyspace;
use crate::log::{self, log};
use crate::pubsub::PubSub;
use crate::replication::{
    Appended, Backlog, Feed, FeedState, Following, History, Link, Replication, ReplicationId, Role, SyncAnswer, backlog,
};
use crate::resp::append_request;

/// The version of Redis whose behaviour clients may expect.
pub const REDIS_VERSION: &str = "7.0.15";

/// Where the backlog lies in the data directory.
pub const BACKLOG_FILE: &str = "backlog.bin";

/// Expiry looks at so many segments of a database at a time.
const EXPIRE_SEGMENTS: usize = 512;

/// What only the shell can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Whom this server follows has changed: begin, change or end the link.
    Relink,
    /// Save in the background.
    Save,
    /// A replica waits for a snapshot.
    Sync,
    /// End the server.
    Shutdown(ShutdownOptions),
}

/// What is postponed by `CLIENT PAUSE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause {
    /// When it ends by itself, in milliseconds since the epoch.
    pub until_ms: i64,
    /// Only what may write.
    pub writes_only: bool,
}

/// A key and its database.
type Place = (usize, Box<[u8]>);

/// Someone waits for replicas to acknowledge.
struct Waiter {
    client: Rc<Client>,
    offset: u64,
    replicas: usize,
    /// In milliseconds since the epoch; none: for ever.
    deadline_ms: Option<i64>,
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
    /// A save runs since then, in milliseconds since the epoch.
    pub saving_since_ms: Option<i64>,
    /// When the last save was finished, in seconds since the epoch.
    pub last_save_s: i64,
    /// When the last one was begun, in milliseconds since the epoch.
    pub last_try_ms: i64,
    /// Whether the last one failed.
    pub failed: bool,
    /// How long it took, in seconds.
    pub last_duration_s: Option<i64>,
    /// Bytes of pre-images it needed.
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
    pub keyspace_hits: u64,
    pub keyspace_misses: u64,
    pub total_error_replies: u64,
    pub client_output_buffer_limit_disconnections: u64,
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
    /// Their history.
    pub replication: Replication,
    /// Who listens to what.
    pub pubsub: PubSub,
    /// Who is connected.
    pub clients: BTreeMap<u64, Rc<Client>>,
    /// What became of snapshots.
    pub persistence: Persistence,
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
    /// Requests are postponed.
    pub pause: Option<Pause>,
    /// The server will end as soon as its replicas have caught up.
    pub shutting_down: bool,
    actions: Vec<Action>,
    waiters: Vec<Waiter>,
    pub(crate) watchers: HashMap<Place, Vec<Rc<Client>>>,
    pub(crate) effect: Vec<u8>,
    pub(crate) transaction_stream: Option<TransactionStream>,
    next_client_id: u64,
    random: u64,
    last_ping_ms: i64,
    last_second: i64,
}

impl Instance {
    /// An empty master.
    pub fn new(config: Config, now_ms: i64) -> Self {
        let seed = [random_u64(), random_u64()];
        let keyspace = Keyspace::new(config.databases as usize, seed);
        Instance {
            keyspace,
            replication: Replication::new(random_id()),
            pubsub: PubSub::default(),
            clients: BTreeMap::new(),
            persistence: Persistence { last_save_s: now_ms / 1000, ..Persistence::default() },
            stats: Stats::default(),
            run_id: random_id(),
            started_ms: now_ms,
            now_ms,
            loading: None,
            pause: None,
            shutting_down: false,
            actions: Vec::new(),
            waiters: Vec::new(),
            watchers: HashMap::new(),
            effect: Vec::new(),
            transaction_stream: None,
            next_client_id: 1,
            random: random_u64() | 1,
            last_ping_ms: now_ms,
            last_second: 0,
            config,
        }
    }

    /// Lets time go on; it never goes back.
    pub fn set_now(&mut self, now_ms: i64) {
        self.now_ms = self.now_ms.max(now_ms);
    }

    /// Asks the shell for something.
    pub fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    /// What the shell has been asked for since the last call.
    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// The next of a sequence of numbers that nobody can mistake for a secret.
    pub fn random(&mut self) -> u64 {
        // Marsaglia's xorshift64.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    // --- Clients ---

    /// A connection was made.
    pub fn connect(&mut self, address: String, local_address: String, kind: ClientKind) -> Rc<Client> {
        let client = Client::new(self.next_client_id, address, local_address, self.now_ms, kind);
        self.next_client_id += 1;
        if kind != ClientKind::Master {
            self.stats.total_connections_received += 1;
        }
        self.clients.insert(client.id, Rc::clone(&client));
        client
    }

    /// A connection has ended.
    pub fn disconnect(&mut self, session: &mut Session) {
        self.unwatch(session);
        let client = &session.client;
        client.clear_waker();
        self.clients.remove(&client.id);
        self.waiters.retain(|waiter| waiter.client.id != client.id);
        if client.subscriptions.get() != (0, 0) {
            self.pubsub.forget(client.id);
        }
        if let Some(feed) = session.feed.take() {
            self.detach(&feed);
        }
    }

    fn detach(&mut self, feed: &Rc<Feed>) {
        log!(Warning, "Connection with replica {}:{} lost.", feed.ip, feed.port);
        self.replication.feeds.retain(|other| other.client.id != feed.client.id);
        self.replication.unfed_since_ms = self.now_ms;
        self.hold_for_slowest();
    }

    /// Whether requests are postponed: all of them, or those that may write.
    pub fn is_paused(&self, may_write: bool) -> bool {
        self.pause.is_some_and(|pause| pause.until_ms > self.now_ms && (may_write || !pause.writes_only))
    }

    /// Ends a pause and lets everyone go on.
    pub fn unpause(&mut self) {
        self.pause = None;
        for client in self.clients.values().filter(|client| client.postponed.replace(false)) {
            client.wake();
        }
    }

    // --- WATCH ---

    /// Lets `session` be told when the key changes.
    pub(crate) fn watch(&mut self, session: &mut Session, db: usize, name: &[u8]) {
        if session.watched.iter().any(|(watched_db, watched)| *watched_db == db && &watched[..] == name) {
            return;
        }
        session.watched.push((db, name.into()));
        self.watchers.entry((db, name.into())).or_default().push(Rc::clone(&session.client));
    }

    /// Ends all of that.
    pub(crate) fn unwatch(&mut self, session: &mut Session) {
        for place in session.watched.drain(..) {
            if let Some(clients) = self.watchers.get_mut(&place) {
                clients.retain(|client| client.id != session.client.id);
                if clients.is_empty() {
                    self.watchers.remove(&place);
                }
            }
        }
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

    /// All keys of a database (or of all) may have changed.
    pub(crate) fn touch_database(&self, db: Option<usize>) {
        for ((watched_db, _), clients) in &self.watchers {
            if db.is_none_or(|db| db == *watched_db) {
                clients.iter().for_each(|client| client.watch_broken.set(true));
            }
        }
    }

    // --- The stream ---

    /// Sends one request to the replicas, made in database `db`.
    pub(crate) fn propagate_request(&mut self, db: usize, arguments: &[&[u8]]) {
        let mut request = Vec::new();
        append_request(&mut request, arguments);
        self.propagate(db, &request, 1);
    }

    /// Sends encoded requests to the replicas, made in database `db`; those of a transaction together at its end. Only a
    /// master does: the stream that a replica hands on is its upstream's, byte for byte.
    pub(crate) fn propagate(&mut self, db: usize, requests: &[u8], count: usize) {
        if self.replication.backlog.is_none() || !self.replication.is_master() {
            return;
        }
        let Some(mut stream) = self.transaction_stream.take() else {
            self.select_in_stream(db);
            return self.append_to_stream(requests);
        };
        if stream.count == 0 {
            // The first SELECT goes before MULTI.
            self.select_in_stream(db);
        } else if stream.db != db {
            append_request(&mut stream.requests, &[b"SELECT", db.to_string().as_bytes()]);
        }
        stream.db = db;
        stream.requests.extend_from_slice(requests);
        stream.count += count;
        self.transaction_stream = Some(stream);
    }

    /// Collects what is propagated until [`Instance::end_transaction_stream`].
    pub(crate) fn begin_transaction_stream(&mut self) {
        self.transaction_stream = Some(TransactionStream::default());
    }

    /// Sends what was collected, as one transaction if it is more than one request.
    pub(crate) fn end_transaction_stream(&mut self) {
        let Some(stream) = self.transaction_stream.take() else { return };
        if stream.count == 0 {
            return;
        }
        let mut whole = Vec::new();
        if stream.count > 1 {
            append_request(&mut whole, &[b"MULTI"]);
            whole.extend_from_slice(&stream.requests);
            append_request(&mut whole, &[b"EXEC"]);
        } else {
            whole = stream.requests;
        }
        if let Some(backlog) = &mut self.replication.backlog {
            backlog.select_with_next(u32::try_from(stream.db).ok());
        }
        self.append_to_stream(&whole);
    }

    fn select_in_stream(&mut self, db: usize) {
        let db32 = u32::try_from(db).ok();
        let Some(backlog) = &mut self.replication.backlog else { return };
        if backlog.selected_db() != db32 {
            let mut request = Vec::new();
            append_request(&mut request, &[b"SELECT", db.to_string().as_bytes()]);
            backlog.select_with_next(db32);
            self.append_to_stream(&request);
        }
    }

    /// Appends bytes of the stream, as a master makes or a replica receives them.
    pub fn append_to_stream(&mut self, bytes: &[u8]) {
        let Some(backlog) = &mut self.replication.backlog else { return };
        let appended = backlog.append(bytes);
        self.replication.offset += bytes.len() as u64;
        if let Appended::Overrun { .. } = appended {
            self.cut_overrun_feeds();
        }
    }

    fn cut_overrun_feeds(&mut self) {
        let start = self.replication.backlog.as_ref().map_or(0, Backlog::start);
        for feed in &self.replication.feeds {
            if feed.state.get() != FeedState::WaitsForSnapshot && feed.cursor.get() < start {
                self.stats.client_output_buffer_limit_disconnections += 1;
                log!(
                    Warning,
                    "Replica {}:{} scheduled to be closed ASAP for overcoming of output buffer limits.",
                    feed.ip,
                    feed.port
                );
                feed.client.kill();
            }
        }
    }

    /// Lets the backlog know what it must keep.
    pub fn hold_for_slowest(&mut self) {
        let slowest = self.replication.slowest_cursor();
        if let Some(backlog) = &mut self.replication.backlog {
            backlog.set_slowest(slowest);
        }
    }

    fn backlog_sizes(&self) -> backlog::Sizes {
        let configured = self.config.repl_backlog_size;
        let limit = self.config.client_output_buffer_limit.replica.hard_bytes;
        backlog::Sizes {
            capacity: configured,
            capacity_max: if limit == 0 { u64::MAX } else { configured.saturating_add(limit) },
        }
    }

    /// Where the backlog lies.
    pub fn backlog_path(&self) -> PathBuf {
        self.config.dir.join(BACKLOG_FILE)
    }

    /// Starts to keep the stream, from the present offset on.
    ///
    /// # Errors
    /// The file cannot be made; the words say why.
    pub fn create_backlog(&mut self) -> Result<(), String> {
        let (history, offset) = (self.replication.history, self.replication.offset);
        let run_id: [u8; 40] = self.run_id.as_str().as_bytes().try_into().expect("a run id has 40 digits");
        // A replica forwards a stream that has its database selected already.
        let selected = (!self.replication.is_master()).then_some(self.replication.stream_db as u32);
        let backlog = Backlog::create(&self.backlog_path(), run_id, history, self.backlog_sizes(), offset, selected);
        self.replication.backlog = Some(backlog.map_err(|error| error.to_string())?);
        self.replication.unfed_since_ms = self.now_ms;
        Ok(())
    }

    /// After a change of the sizes it depends on.
    pub fn resize_backlog(&mut self) {
        let sizes = self.backlog_sizes();
        if let Some(backlog) = &mut self.replication.backlog
            && let Err(error) = backlog.resize(sizes)
        {
            log!(Warning, "Can't change the replication backlog's size: {error}");
        }
    }

    /// Takes data that were loaded in place of those that were here.
    pub fn install(&mut self, keyspace: Keyspace, keys_loaded: u64, keys_expired: u64) {
        self.keyspace = keyspace;
        self.loading = None;
        self.persistence.last_load_keys_loaded = keys_loaded;
        self.persistence.last_load_keys_expired = keys_expired;
        self.touch_database(None);
    }

    // --- Roles ---

    /// Follows `upstream` from now on, keeping the data until it has sent its own.
    pub fn follow(&mut self, upstream: Upstream) {
        let was_master = self.replication.is_master();
        let synced = self.replication.following().is_some_and(|following| following.synced);
        self.replication.role = Role::Replica(Following {
            upstream: upstream.clone(),
            link: Link::Down,
            down_since_ms: self.now_ms,
            heard_ms: self.now_ms,
            synced: synced && self.replication.resumable,
        });
        self.announce_role();
        if was_master {
            log!(
                Notice,
                "Before turning into a replica, using my own master parameters to synthesize a cached master: I may be \
                 able to synchronize with the new master with just a partial transfer."
            );
            self.replication.resumable = true;
            self.unblock_waiters(
                "-UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)\r\n",
            );
        }
        self.cut_feeds();
        self.config.replicaof = Some(upstream);
        self.act(Action::Relink);
    }

    /// Follows `upstream` from the start; whatever is loaded may turn out to be a part of its history.
    pub fn follow_from_start(&mut self, upstream: Upstream) {
        self.replication.role = Role::Replica(Following {
            upstream,
            link: Link::Down,
            down_since_ms: self.now_ms,
            heard_ms: self.now_ms,
            synced: false,
        });
    }

    /// The link's task was ended, wherever it was: nothing of it stays.
    pub fn forget_link(&mut self) {
        self.loading = None;
        self.clients.retain(|_, client| client.kind.get() != ClientKind::Master);
    }

    /// Follows nobody from now on: the data get a history of their own, which begins where the old one ends here.
    pub fn unfollow(&mut self) {
        if self.replication.is_master() {
            return;
        }
        let old = self.replication.history.replid;
        self.replication.shift_history(random_id());
        self.replication.role = Role::Master;
        self.announce_role();
        log!(
            Warning,
            "Setting secondary replication ID to {old}, valid up to offset: {}. New replication ID is {}",
            self.replication.offset + 1,
            self.replication.history.replid
        );
        self.config.replicaof = None;
        self.persistence.dirty += 1;
        self.cut_feeds();
        if let Some(backlog) = &mut self.replication.backlog {
            // Who continues may be in any database: the next write says in which it is made.
            backlog.select_with_next(None);
        }
        self.replication.unfed_since_ms = self.now_ms;
        self.last_ping_ms = self.now_ms;
        self.act(Action::Relink);
    }

    /// Ends the connections of all replicas: they come back and learn what has changed.
    pub fn cut_feeds(&mut self) {
        for feed in &self.replication.feeds {
            feed.client.kill();
        }
    }

    /// A replica asks to be fed. What it has is `request`: a history's name and an offset in it.
    ///
    /// # Errors
    /// There is no room for a backlog.
    pub fn attach(&mut self, session: &mut Session, request: Option<(&[u8], u64)>) -> Result<SyncAnswer, String> {
        let answer = self.replication.answer(request);
        let (ip, port) = feed_address(session);
        match &answer {
            SyncAnswer::Continue(from) => {
                self.stats.sync_partial_ok += 1;
                log!(
                    Notice,
                    "Partial resynchronization request from {ip}:{port} accepted. Sending {} bytes of backlog starting from offset {}.",
                    self.replication.offset - from,
                    from + 1
                );
            }
            SyncAnswer::Full(reason) => {
                if request.is_some() {
                    self.stats.sync_partial_err += 1;
                    log!(Notice, "Partial resynchronization not accepted: {reason}");
                } else {
                    log!(Notice, "{reason}: {ip}:{port}");
                }
                self.stats.sync_full += 1;
                if self.replication.backlog.is_none() {
                    self.begin_history()?;
                }
            }
        }
        let (state, cursor) = match answer {
            SyncAnswer::Continue(from) => (FeedState::Online, from),
            SyncAnswer::Full(_) => (FeedState::WaitsForSnapshot, self.replication.offset),
        };
        let feed = Rc::new(Feed {
            client: Rc::clone(&session.client),
            ip,
            port,
            eof: session.identity.eof,
            old_sync: session.old_sync,
            state: state.into(),
            cursor: cursor.into(),
            acknowledged: cursor.into(),
            heard_ms: self.now_ms.into(),
        });
        session.client.kind.set(ClientKind::Replica);
        session.feed = Some(Rc::clone(&feed));
        self.replication.feeds.push(feed);
        self.hold_for_slowest();
        if state == FeedState::WaitsForSnapshot {
            self.act(Action::Sync);
        }
        Ok(answer)
    }

    /// The first replica has come: from here on the stream is kept, under a new name, since nobody counted before.
    fn begin_history(&mut self) -> Result<(), String> {
        if self.replication.is_master() {
            self.replication.history = History { replid: random_id(), previous: None };
        }
        self.create_backlog()?;
        let History { replid, previous } = self.replication.history;
        let previous = previous.map_or_else(|| "0".repeat(40), |(id, _)| id.to_string());
        log!(Notice, "Replication backlog created, my new replication IDs are '{replid}' and '{previous}'");
        Ok(())
    }

    /// A replica says that it has applied everything up to `offset`.
    pub fn acknowledge(&mut self, feed: &Feed, offset: u64) {
        if feed.state.get() == FeedState::AwaitsAcknowledgement {
            self.bring_online(feed);
        }
        feed.acknowledged.set(feed.acknowledged.get().max(offset));
        feed.heard_ms.set(self.now_ms);
        self.release_waiters();
    }

    /// The snapshot has arrived: the stream may flow.
    pub fn bring_online(&self, feed: &Feed) {
        feed.state.set(FeedState::Online);
        feed.heard_ms.set(self.now_ms);
        log!(Notice, "Synchronization with replica {}:{} succeeded", feed.ip, feed.port);
    }

    // --- WAIT ---

    /// Lets `client` wait until so many replicas have acknowledged the present offset.
    pub(crate) fn wait_for_replicas(&mut self, client: &Rc<Client>, replicas: usize, deadline_ms: Option<i64>) {
        client.blocked.set(true);
        let offset = self.replication.offset;
        self.waiters.push(Waiter { client: Rc::clone(client), offset, replicas, deadline_ms });
        self.ask_for_acknowledgement();
    }

    /// Lets the replicas say how far they are, now.
    pub fn ask_for_acknowledgement(&mut self) {
        self.propagate_request_anywhere(&[b"REPLCONF", b"GETACK", b"*"]);
    }

    /// A request that has no database.
    fn propagate_request_anywhere(&mut self, arguments: &[&[u8]]) {
        let mut request = Vec::new();
        append_request(&mut request, arguments);
        self.append_to_stream(&request);
        self.replication.wake_feeds();
    }

    fn release_waiters(&mut self) {
        if self.waiters.is_empty() {
            return;
        }
        let (replication, now_ms) = (&self.replication, self.now_ms);
        self.waiters.retain(|waiter| {
            let there = replication.feeds_at(waiter.offset);
            let done = there >= waiter.replicas || waiter.deadline_ms.is_some_and(|deadline| deadline <= now_ms);
            if done {
                waiter.client.send(|mailbox| mailbox.extend_from_slice(format!(":{there}\r\n").as_bytes()));
                waiter.client.unblock();
            }
            !done
        });
    }

    /// Ends the waiting of one client, as if its time were over or with an error; false if it does not wait.
    pub(crate) fn unblock_waiter(&mut self, id: u64, with_error: bool) -> bool {
        let Some(index) = self.waiters.iter().position(|waiter| waiter.client.id == id) else { return false };
        if with_error {
            let waiter = self.waiters.swap_remove(index);
            waiter
                .client
                .send(|mailbox| mailbox.extend_from_slice(b"-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n"));
            waiter.client.unblock();
        } else {
            self.waiters[index].deadline_ms = Some(self.now_ms);
            self.release_waiters();
        }
        true
    }

    /// Ends every waiting with an error.
    fn unblock_waiters(&mut self, error: &str) {
        for waiter in self.waiters.drain(..) {
            waiter.client.send(|mailbox| mailbox.extend_from_slice(error.as_bytes()));
            waiter.client.unblock();
        }
    }

    /// How many clients wait.
    pub fn blocked_clients(&self) -> usize {
        self.waiters.len()
    }

    // --- Time ---

    /// When [`Instance::tick`] is due before its usual time, in milliseconds since the epoch.
    pub fn next_deadline_ms(&self) -> Option<i64> {
        let waiters = self.waiters.iter().filter_map(|waiter| waiter.deadline_ms);
        waiters.chain(self.pause.map(|pause| pause.until_ms)).min()
    }

    /// What has to be done from time to time.
    pub fn tick(&mut self) {
        self.release_waiters();
        if self.pause.is_some_and(|pause| pause.until_ms <= self.now_ms) && !self.shutting_down {
            self.unpause();
        }
        self.expire_due_keys();
        self.save_if_due();
        if self.last_second != self.now_ms / 1000 {
            self.last_second = self.now_ms / 1000;
            self.every_second();
        }
        self.replication.wake_feeds();
    }

    fn every_second(&mut self) {
        self.ping_feeds();
        self.cut_silent_feeds();
        self.close_idle_clients();
        self.forget_unused_backlog();
        if let Some(backlog) = &mut self.replication.backlog
            && let Err(error) = backlog.shrink_to_configured()
        {
            log!(Warning, "Can't shrink the replication backlog: {error}");
        }
    }

    /// Only a master decides that a key has expired, and says so in its stream.
    fn expire_due_keys(&mut self) {
        if !self.replication.is_master() || self.loading.is_some() || self.is_paused(true) {
            return;
        }
        for db in 0..self.keyspace.databases() {
            if self.keyspace.with_deadline(db) == 0 {
                continue;
            }
            let mut requests = Vec::new();
            let mut names: Vec<Box<[u8]>> = Vec::new();
            let watched = !self.watchers.is_empty();
            let count = self.keyspace.expire(db, self.now_ms, EXPIRE_SEGMENTS, |name| {
                append_request(&mut requests, &[b"DEL", name]);
                if watched {
                    names.push(name.into());
                }
            });
            if count > 0 {
                self.stats.expired_keys += count as u64;
                names.iter().for_each(|name| self.touch(db, name));
                self.propagate(db, &requests, count);
            }
        }
    }

    fn save_if_due(&mut self) {
        let persistence = &self.persistence;
        if persistence.saving_since_ms.is_some() || self.loading.is_some() {
            return;
        }
        let since = self.now_ms / 1000 - persistence.last_save_s;
        let retry = !persistence.failed || self.now_ms - persistence.last_try_ms > 5000;
        let due = |point: &&crate::config::SavePoint| {
            persistence.dirty >= u64::from(point.changes) && since > i64::from(point.seconds) && retry
        };
        if let Some(point) = self.config.save.iter().find(due) {
            log!(Notice, "{} changes in {} seconds. Saving...", point.changes, point.seconds);
            self.act(Action::Save);
        }
    }

    fn ping_feeds(&mut self) {
        for feed in &self.replication.feeds {
            if feed.state.get() == FeedState::WaitsForSnapshot {
                // An empty line: we live.
                feed.client.send(|mailbox| mailbox.push(b'\n'));
            }
        }
        let period_ms = self.config.repl_ping_replica_period.as_millis() as i64;
        let due = self.now_ms - self.last_ping_ms >= period_ms;
        if due && self.replication.is_master() && !self.replication.feeds.is_empty() && !self.is_paused(true) {
            self.last_ping_ms = self.now_ms;
            self.propagate_request_anywhere(&[b"PING"]);
        }
    }

    fn cut_silent_feeds(&mut self) {
        let timeout_ms = self.config.repl_timeout.as_millis() as i64;
        for feed in &self.replication.feeds {
            if feed.state.get() == FeedState::Online && self.now_ms - feed.heard_ms.get() > timeout_ms {
                log!(Warning, "Disconnecting timedout replica (streaming sync): {}:{}", feed.ip, feed.port);
                feed.client.kill();
            }
        }
    }

    fn close_idle_clients(&mut self) {
        let timeout_ms = self.config.timeout.as_millis() as i64;
        let limits = self.config.client_output_buffer_limit;
        for client in self.clients.values() {
            let limit = match client.kind.get() {
                ClientKind::Normal => limits.normal.hard_bytes,
                ClientKind::Subscriber => limits.pubsub.hard_bytes,
                ClientKind::Replica | ClientKind::Master => 0,
            };
            if limit > 0 && client.pending_bytes() as u64 > limit {
                self.stats.client_output_buffer_limit_disconnections += 1;
                log!(
                    Warning,
                    "Client id={} scheduled to be closed ASAP for overcoming of output buffer limits.",
                    client.id
                );
                client.kill();
            }
            let idle = timeout_ms > 0 && self.now_ms - client.last_active_ms.get() > timeout_ms;
            if idle && client.kind.get() == ClientKind::Normal && !client.blocked.get() {
                log!(Verbose, "Closing idle client");
                client.kill();
            }
        }
    }

    /// Who is gone for so long will need everything anyway; what follows is a history that nobody has part of.
    fn forget_unused_backlog(&mut self) {
        let ttl_ms = self.config.repl_backlog_ttl.as_millis() as i64;
        let replication = &mut self.replication;
        let unused = ttl_ms > 0 && replication.feeds.is_empty() && self.now_ms - replication.unfed_since_ms > ttl_ms;
        if replication.backlog.is_some() && replication.is_master() && unused {
            replication.backlog = None;
            replication.history = History { replid: random_id(), previous: None };
            log!(Notice, "Replication backlog freed after {} seconds without connected replicas.", ttl_ms / 1000);
        }
    }

    /// Sets the role letter of the log.
    pub fn announce_role(&self) {
        log::set_role(if self.replication.is_master() { log::Role::Master } else { log::Role::Replica });
    }
}

/// The address that others can reach a replica at.
fn feed_address(session: &Session) -> (String, u16) {
    let (ip, port) = session.client.address.rsplit_once(':').unwrap_or((&session.client.address, "0"));
    let ip = session.identity.announced_ip.clone().unwrap_or_else(|| ip.trim_matches(['[', ']']).to_owned());
    let port = match session.identity.listening_port {
        0 => port.parse().unwrap_or(0),
        listening => listening,
    };
    (ip, port)
}

fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        // Without O_NONBLOCK the call only ever comes back early for a signal.
        if let Ok(count) = rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            filled += count;
        }
    }
    bytes
}

fn random_u64() -> u64 {
    u64::from_ne_bytes(random_bytes())
}

/// A name that nobody else will choose.
pub fn random_id() -> ReplicationId {
    let digits: String = random_bytes::<20>().iter().map(|byte| format!("{byte:02x}")).collect();
    ReplicationId::parse(digits.as_bytes()).expect("40 hexadecimal digits")
}
