//! Connections as the rest of the server sees them: a [`Client`] is what anyone may know of and do to a connection,
//! a [`Session`] is what only its own requests touch and lives in its connection's task.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;

use crate::command::{Command, User};
use crate::config::{Origin, OutputLimit};
use crate::replication::{Feed, FeedIdentity};
use crate::resp::{Protocol, Span};
use crate::tracking::Wish;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientKind {
    /// An application, or a person.
    Normal,
    /// Subscribed to something.
    Subscriber,
    /// Fed with the replication stream.
    Replica,
    /// The upstream that this replica follows.
    Master,
}

impl ClientKind {
    /// As `CLIENT LIST TYPE` and `CLIENT KILL TYPE` name it.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_slice() {
            b"normal" => ClientKind::Normal,
            b"pubsub" => ClientKind::Subscriber,
            b"replica" | b"slave" => ClientKind::Replica,
            b"master" => ClientKind::Master,
            _ => return None,
        })
    }

    fn flag(self) -> char {
        match self {
            ClientKind::Normal => 'N',
            ClientKind::Subscriber => 'P',
            ClientKind::Replica => 'S',
            ClientKind::Master => 'M',
        }
    }
}

/// How many of each somebody listens to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "their names say it")]
pub struct Subscriptions {
    pub channels: usize,
    pub patterns: usize,
    pub shards: usize,
    /// What remembering them takes.
    pub bytes: usize,
}

/// What `MULTI` has gathered so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueSize {
    /// How many requests.
    pub requests: usize,
    /// What they take.
    pub bytes: usize,
}

/// What it takes to remember a name for a client, besides the name: the place in a table and in a list, in bytes.
const NAME_OVERHEAD_BYTES: usize = 64;

/// What it takes to remember a name for a client, in bytes.
pub fn remembered_bytes(name: &[u8]) -> usize {
    name.len() + NAME_OVERHEAD_BYTES
}

impl Subscriptions {
    /// Whether there are any.
    pub fn any(self) -> bool {
        self.channels + self.patterns + self.shards > 0
    }
}

/// One connection: its public face. Shared between its task and everything that lists, kills, wakes or messages it.
#[derive(Debug)]
pub struct Client {
    /// Unique since the server started, counted up.
    pub id: u64,
    /// Where it came from, `ip:port`.
    pub address: String,
    /// Where it came to, `ip:port`.
    pub local_address: String,
    /// Milliseconds since the epoch.
    pub created_ms: i64,
    /// What it is for.
    pub kind: Cell<ClientKind>,
    /// Who it is.
    pub user: RefCell<Rc<User>>,
    /// `CLIENT SETNAME`.
    pub name: RefCell<Vec<u8>>,
    /// The selected database.
    pub db: Cell<usize>,
    /// The last command it sent.
    pub last_command: Cell<&'static str>,
    /// When it sent that, in milliseconds since the epoch.
    pub last_active_ms: Cell<i64>,
    /// What it listens to.
    pub subscriptions: Cell<Subscriptions>,
    /// What it wants to hear of changes of keys.
    pub tracking: RefCell<Option<Wish>>,
    /// `CLIENT NO-EVICT`.
    pub no_evict: Cell<bool>,
    /// `CLIENT NO-TOUCH`.
    pub no_touch: Cell<bool>,
    /// The name and the version of the library that it uses, as `CLIENT SETINFO` has told.
    pub library: (RefCell<Vec<u8>>, RefCell<Vec<u8>>),
    /// Requests queued by MULTI, if it is in one.
    pub queued: Cell<Option<QueueSize>>,
    /// What remembering the keys takes that it watches, in bytes.
    pub watched_bytes: Cell<usize>,
    /// It is shown all commands.
    pub monitors: Cell<bool>,
    /// Bytes of its input that were not run yet, and how many more there is room for, when it was last its turn.
    pub query_bytes: Cell<(usize, usize)>,
    /// It waits for a key or for replicas: its requests are not run.
    pub blocked: Cell<bool>,
    /// Its next request waits for the end of a pause.
    pub postponed: Cell<bool>,
    /// A key that it watches was changed.
    pub watch_broken: Cell<bool>,
    /// Bytes that wait to be sent, without its mailbox and the stream.
    pub output_bytes: Cell<usize>,
    /// What its input buffer takes.
    pub input_bytes: Cell<usize>,
    /// Bytes of the replication stream that wait to be sent, when they were last measured.
    pub stream_bytes: Cell<u64>,
    /// What [`Client::memory_bytes`] was when the server's sum was made.
    pub measured_bytes: Cell<u64>,
    /// The protocol it speaks.
    pub protocol: Cell<Protocol>,
    /// Since when it has been over the soft limit of its class, in milliseconds since the epoch.
    slow_since_ms: Cell<Option<i64>>,
    killed: Cell<bool>,
    dismissed: Cell<bool>,
    mailbox: RefCell<Vec<u8>>,
    waker: RefCell<Option<Waker>>,
}

impl Client {
    /// A connection that has just been made.
    pub fn new(
        id: u64,
        (address, local_address): (String, String),
        now_ms: i64,
        kind: ClientKind,
        user: Rc<User>,
    ) -> Rc<Self> {
        Rc::new(Client {
            id,
            address,
            local_address,
            created_ms: now_ms,
            kind: Cell::new(kind),
            user: RefCell::new(user),
            name: RefCell::default(),
            db: Cell::new(0),
            last_command: Cell::new("NULL"),
            last_active_ms: Cell::new(now_ms),
            subscriptions: Cell::default(),
            tracking: RefCell::default(),
            no_evict: Cell::new(false),
            no_touch: Cell::new(false),
            library: Default::default(),
            queued: Cell::new(None),
            watched_bytes: Cell::new(0),
            monitors: Cell::new(false),
            query_bytes: Cell::new((0, 0)),
            blocked: Cell::new(false),
            postponed: Cell::new(false),
            watch_broken: Cell::new(false),
            output_bytes: Cell::new(0),
            input_bytes: Cell::new(0),
            stream_bytes: Cell::new(0),
            measured_bytes: Cell::new(0),
            protocol: Cell::new(Protocol::Resp2),
            slow_since_ms: Cell::new(None),
            killed: Cell::new(false),
            dismissed: Cell::new(false),
            mailbox: RefCell::default(),
            waker: RefCell::default(),
        })
    }

    /// Adds bytes out of turn (a pub/sub message, the reply that a blocked client waited for) and wakes its task.
    pub fn send(&self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.mailbox.borrow_mut());
        self.wake();
    }

    /// Moves what was sent to it behind `out`.
    pub fn collect(&self, out: &mut Vec<u8>) {
        let mut mailbox = self.mailbox.borrow_mut();
        if !mailbox.is_empty() {
            out.append(&mut mailbox);
        }
    }

    /// Where it stands.
    pub fn origin(&self) -> Origin {
        let local = self.address.starts_with("127.") || self.address.starts_with("[::1]");
        if local { Origin::Local } else { Origin::Remote }
    }

    /// Lets its task end; its connection closes without a further word.
    pub fn kill(&self) {
        self.killed.set(true);
        self.wake();
    }

    /// Whether [`Client::kill`] was called.
    pub fn is_killed(&self) -> bool {
        self.killed.get()
    }

    /// Lets its task end when everything it was sent has gone out.
    pub fn dismiss(&self) {
        self.dismissed.set(true);
        self.wake();
    }

    /// Whether [`Client::dismiss`] was called.
    pub fn is_dismissed(&self) -> bool {
        self.dismissed.get()
    }

    /// Lets it read requests again.
    pub fn unblock(&self) {
        self.blocked.set(false);
        self.wake();
    }

    /// Whether its requests are not run for now.
    pub fn is_held(&self) -> bool {
        self.blocked.get() || self.postponed.get()
    }

    /// Has its task polled.
    pub fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// Remembers whom [`Client::wake`] wakes.
    pub fn set_waker(&self, waker: &Waker) {
        let mut slot = self.waker.borrow_mut();
        if !slot.as_ref().is_some_and(|present| present.will_wake(waker)) {
            *slot = Some(waker.clone());
        }
    }

    /// Forgets its task, which has ended.
    pub fn clear_waker(&self) {
        *self.waker.borrow_mut() = None;
    }

    /// What it takes: its buffers, and what the server remembers for it; in bytes.
    pub fn memory_bytes(&self) -> u64 {
        // What waits for a replica lies in the backlog.
        let output = if self.kind.get() == ClientKind::Replica { 0 } else { self.pending_bytes() };
        let tracking = self.tracking.borrow();
        let prefixes = tracking.iter().flat_map(|wish| &wish.prefixes);
        let remembered = size_of::<Client>()
            + self.queued.get().unwrap_or_default().bytes
            + self.watched_bytes.get()
            + self.subscriptions.get().bytes
            + prefixes.map(|prefix| remembered_bytes(prefix)).sum::<usize>();
        self.input_bytes.get() as u64 + output + remembered as u64
    }

    /// What waits to be sent to it.
    pub fn pending_bytes(&self) -> u64 {
        (self.output_bytes.get() + self.mailbox.borrow().len()) as u64 + self.stream_bytes.get()
    }

    /// Whether it is known to be over the soft limit of its class.
    pub fn is_slow(&self) -> bool {
        self.slow_since_ms.get().is_some()
    }

    /// Whether more waits for it than it may, or has for too long. To be asked now and then while anything waits, and
    /// once more when nothing does.
    pub fn is_over(&self, limit: &OutputLimit, pending_bytes: u64, now_ms: i64) -> bool {
        if limit.hard_bytes > 0 && pending_bytes >= limit.hard_bytes {
            return true;
        }
        if limit.soft_bytes == 0 || pending_bytes < limit.soft_bytes {
            self.slow_since_ms.set(None);
            return false;
        }
        let since_ms = self.slow_since_ms.get().unwrap_or(now_ms);
        self.slow_since_ms.set(Some(since_ms));
        now_ms - since_ms > limit.soft.as_millis() as i64
    }

    /// Its line of `CLIENT LIST`, without the line's end.
    pub fn describe(&self, now_ms: i64) -> String {
        let Subscriptions { channels, patterns, shards, .. } = self.subscriptions.get();
        let tracking = self.tracking.borrow();
        let mut flags = String::new();
        if self.monitors.get() {
            flags.push('O');
        }
        if self.kind.get() != ClientKind::Normal {
            flags.push(self.kind.get().flag());
        }
        if self.queued.get().is_some() {
            flags.push('x');
        }
        if self.blocked.get() {
            flags.push('b');
        }
        if self.watch_broken.get() {
            flags.push('d');
        }
        if let Some(wish) = tracking.as_ref() {
            flags.push('t');
            flags.extend(wish.broken.then_some('R'));
            flags.extend(wish.broadcast.then_some('B'));
        }
        flags.extend(self.no_evict.get().then_some('e'));
        flags.extend(self.no_touch.get().then_some('T'));
        if flags.is_empty() {
            flags.push('N');
        }
        format!(
            "id={} addr={} laddr={} fd=-1 name={} age={} idle={} flags={} db={} sub={} psub={} ssub={} multi={} qbuf={} \
             qbuf-free={} argv-mem=0 multi-mem={} rbs=0 rbp=0 obl=0 oll=0 omem={} tot-mem={} events=r cmd={} \
             user={} redir={} resp={} lib-name={} lib-ver={}",
            self.id,
            self.address,
            self.local_address,
            String::from_utf8_lossy(&self.name.borrow()),
            (now_ms - self.created_ms).max(0) / 1000,
            (now_ms - self.last_active_ms.get()).max(0) / 1000,
            flags,
            self.db.get(),
            channels,
            patterns,
            shards,
            self.queued.get().map_or(-1, |queued| queued.requests as i64),
            self.query_bytes.get().0,
            self.query_bytes.get().1,
            self.queued.get().unwrap_or_default().bytes,
            self.pending_bytes(),
            self.memory_bytes().max(self.pending_bytes()),
            self.last_command.get(),
            String::from_utf8_lossy(&self.user.borrow().name),
            tracking.as_ref().map_or(-1, |wish| wish.redirect.unwrap_or(0) as i64),
            if self.protocol.get() == Protocol::Resp3 { 3 } else { 2 },
            String::from_utf8_lossy(&self.library.0.borrow()),
            String::from_utf8_lossy(&self.library.1.borrow()),
        )
    }
}

/// A request that waits in a transaction for its `EXEC`.
pub struct Queued {
    /// What it asks for.
    pub command: &'static Command,
    /// Its bytes and arguments.
    pub request: Vec<u8>,
    /// Its arguments, in `request`.
    pub spans: Vec<Span>,
    /// See [`crate::resp::Request::inline`].
    pub inline: bool,
}

/// What `MULTI` began.
#[derive(Default)]
pub struct Transaction {
    /// The requests so far.
    pub queue: Vec<Queued>,
    /// One of them was refused, so that `EXEC` will be.
    pub aborted: bool,
}

/// `CLIENT REPLY`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReplyMode {
    /// Every request is answered.
    #[default]
    On,
    /// None is.
    Off,
    /// The next one is not.
    SkipNext,
    /// This one is not, the next one is.
    Skip,
}

/// Which commands on keys all gates are known to be open for: found out once for a batch of requests, and forgotten as
/// soon as a command has run that may shut one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Admission {
    /// Those that look at keys.
    pub reads: bool,
    /// Those that change keys.
    pub writes: bool,
    /// Nobody looks on: see [`crate::instance::Instance::admission`].
    pub unseen: bool,
}

/// What only a connection's own requests touch.
pub struct Session {
    /// Its public face.
    pub client: Rc<Client>,
    /// The version of the protocol that replies are written in.
    pub protocol: Protocol,
    /// It may run commands; without a password, everyone may.
    pub authenticated: bool,
    /// A transaction was begun.
    pub transaction: Option<Transaction>,
    /// Keys under `WATCH`, and when each was to expire, in milliseconds since the epoch, when it came under it.
    pub watched: Vec<(usize, Box<[u8]>, Option<i64>)>,
    /// The keys that it reads are remembered.
    pub tracks: bool,
    /// `CLIENT REPLY`.
    pub reply_mode: ReplyMode,
    /// What `REPLCONF` told of the replica at the other end.
    pub identity: FeedIdentity,
    /// It asked with `SYNC`: its payload comes without a line before it.
    pub old_sync: bool,
    /// What it may do without being asked again, until something may have changed.
    pub admission: Admission,
    /// The feed that `PSYNC` turned this connection into.
    pub feed: Option<Rc<Feed>>,
}

impl Session {
    /// A session at its start.
    pub fn new(client: Rc<Client>, authenticated: bool) -> Self {
        Session {
            client,
            protocol: Protocol::default(),
            authenticated,
            transaction: None,
            watched: Vec::new(),
            tracks: false,
            reply_mode: ReplyMode::default(),
            identity: FeedIdentity::default(),
            old_sync: false,
            admission: Admission::default(),
            feed: None,
        }
    }

    /// Whether its commands count as uses of keys: not after `CLIENT NO-TOUCH on`.
    pub fn touches(&self) -> bool {
        !self.client.no_touch.get()
    }

    /// The selected database.
    pub fn db(&self) -> usize {
        self.client.db.get()
    }

    /// This is the stream of the upstream: it is obeyed without asking.
    pub fn is_upstream(&self) -> bool {
        self.client.kind.get() == ClientKind::Master
    }
}
