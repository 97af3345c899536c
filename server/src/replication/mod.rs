//! Replication, decided without doing anything: roles, histories and offsets; who may continue from where.
//!
//! ```text
//! replica                                            master
//!    | -- PING ------------------------------------>  |
//!    | <------------------------------------ +PONG -- |
//!    | -- REPLCONF listening-port, capa ----------->  |
//!    | -- PSYNC id n+1 ---------------------------->  |   n: bytes applied so far
//!    | <------------ +CONTINUE [id] ----------------- |   a partial resync: the stream goes on at byte n
//!    | <--- +FULLRESYNC id m, RDB payload ----------- |   or a full one: an image of everything up to byte m
//!    | <======= the stream of writes ================ |
//!    | == REPLCONF ACK n =========================>   |   each second and when asked
//! ```
//!
//! Source: <https://redis.io/docs/latest/operate/oss_and_stack/management/replication/>.
//!
//! An offset always means *bytes applied*: a server at offset n has n bytes of its history behind it. The wire's "next
//! byte", n+1, exists only in PSYNC requests and in INFO's `second_repl_offset`. A feed is a cursor over the backlog;
//! there is no queue per replica.

pub mod backlog;
mod handshake;
mod payload;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

pub use backlog::{Appended, Backlog, BacklogError, History, ReplicationId};
pub use handshake::{Ancestry, Answer, Greeting, Handshake, Step};
pub use payload::Payload;

use crate::client::Client;
use crate::config::Upstream;

/// What a replica tells of itself by `REPLCONF` before it asks for a sync.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FeedIdentity {
    /// The port it listens on, if it said so.
    pub listening_port: u16,
    /// The address it wants to be known by, if another than that it connected from.
    pub announced_ip: Option<String>,
    /// It can read an RDB payload whose length is not known at its start.
    pub eof: bool,
    /// It understands `+CONTINUE` with a new replication id.
    pub psync2: bool,
    /// It wants an image and no stream.
    pub rdb_only: bool,
    /// It wants an image without keys.
    pub without_keys: bool,
}

/// How far a replica has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedState {
    /// A full resync was promised; the snapshot has not begun.
    WaitsForSnapshot,
    /// The snapshot is on its way.
    ReceivesSnapshot,
    /// The snapshot was sent. Where its end is marked and not announced, a stream that follows at once would hide the
    /// mark, so it waits for a word.
    AwaitsAcknowledgement,
    /// The stream.
    Online,
}

/// One replica being fed: a cursor over the backlog.
#[derive(Debug)]
pub struct Feed {
    /// Its connection.
    pub client: Rc<Client>,
    /// Its address, as others can reach it.
    pub ip: String,
    /// The port it listens on.
    pub port: u16,
    /// See [`FeedIdentity::eof`].
    pub eof: bool,
    /// See [`FeedIdentity::rdb_only`].
    pub rdb_only: bool,
    /// It asked with `SYNC`: its payload comes without a line before it.
    pub old_sync: bool,
    /// How far it has come.
    pub state: Cell<FeedState>,
    /// Everything before this offset was sent to it, or is in its snapshot.
    pub cursor: Cell<u64>,
    /// It said that it has applied so much.
    pub acknowledged: Cell<u64>,
    /// When it last said anything, in milliseconds since the epoch.
    pub heard_ms: Cell<i64>,
    /// Whether its cursor moves.
    pub progress: RefCell<Progress>,
}

/// When a cursor moved last, as far as anybody looked.
#[derive(Debug, Default)]
pub struct Progress {
    cursor: u64,
    since_ms: i64,
    told: bool,
}

impl Progress {
    /// Takes a look at the cursor: how long it has been where it is though something waits, in milliseconds.
    pub fn stalled_ms(&mut self, cursor: u64, pending_bytes: u64, now_ms: i64) -> Option<i64> {
        if self.since_ms == 0 || pending_bytes == 0 || cursor != self.cursor {
            *self = Progress { cursor, since_ms: now_ms, told: false };
            return None;
        }
        Some(now_ms - self.since_ms)
    }

    /// Whether somebody is to be told of it: once while it stands.
    pub fn tell(&mut self) -> bool {
        !std::mem::replace(&mut self.told, true)
    }
}

impl Feed {
    /// Whether the stream flows to it.
    pub fn is_online(&self) -> bool {
        self.state.get() == FeedState::Online
    }

    /// Whether others reach it at this address.
    pub fn is_at(&self, address: &Upstream) -> bool {
        self.ip == address.host && self.port == address.port
    }
}

/// How the link to the upstream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// To be made, or to be made again.
    Down,
    /// The connection is being made, or the handshake is under way.
    Handshake,
    /// A full resync is being received; `total_bytes` is `None` while (or if ever) unknown.
    Transfer {
        /// The payload's length.
        total_bytes: Option<u64>,
        /// How much of it has come.
        read_bytes: u64,
    },
    /// The stream flows.
    Up,
}

/// What a replica knows of the server it follows.
#[derive(Debug)]
pub struct Following {
    /// Where that is.
    pub upstream: Upstream,
    /// How the link stands.
    pub link: Link,
    /// Since when it is not up, in milliseconds since the epoch.
    pub down_since_ms: i64,
    /// When the upstream was last heard, in milliseconds since the epoch.
    pub heard_ms: i64,
    /// Bytes of the stream that were read and wait for the rest of their request or transaction.
    pub unapplied_bytes: u64,
    /// The data are this upstream's: a first sync was finished, or this server's own history is asked to be continued.
    pub synced: bool,
    /// Why the upstream is not followed for now.
    pub refusal: Option<Refusal>,
    /// What the upstream has said of itself, if it is a repld.
    pub ancestry: Ancestry,
    /// The upstream has named the history that it is expected to have.
    pub identified: bool,
}

/// An upstream that would do harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What it would do, and what lifts the refusal.
    pub reason: String,
    /// When it is asked again, in milliseconds since the epoch.
    pub until_ms: i64,
}

impl Following {
    /// Nothing is known yet of `upstream` at this time, in milliseconds since the epoch.
    pub fn new(upstream: Upstream, now_ms: i64) -> Following {
        Following {
            upstream,
            link: Link::Down,
            down_since_ms: now_ms,
            heard_ms: now_ms,
            unapplied_bytes: 0,
            synced: false,
            refusal: None,
            ancestry: Ancestry::default(),
            identified: false,
        }
    }
}

/// Whom this server follows.
#[derive(Debug)]
pub enum Role {
    /// Nobody.
    Master,
    /// An upstream.
    Replica(Following),
}

/// What a server answers to a replica that asks to continue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyncAnswer {
    /// The stream goes on at this offset.
    Continue(u64),
    /// Everything has to be sent; why.
    Full(String),
}

/// A server's part in replication.
pub struct Replication {
    /// The name of what is in the data.
    pub history: History,
    /// Bytes of that history applied; equal to the backlog's end where there is one.
    pub offset: u64,
    /// The stream's end, for those that continue. There is none until the first replica comes.
    pub backlog: Option<Backlog>,
    /// Whom this server follows.
    pub role: Role,
    /// Whom it feeds.
    pub feeds: Vec<Rc<Feed>>,
    /// The data may be asked to be continued from `offset`: they came from a stream or an image of this history.
    pub resumable: bool,
    /// The database that the upstream's stream has selected at `offset`; it outlives the link, as the stream does.
    pub stream_db: usize,
    /// Since when nobody is fed, in milliseconds since the epoch.
    pub unfed_since_ms: i64,
}

impl Replication {
    /// A master with a history that starts here.
    pub fn new(replid: ReplicationId) -> Self {
        Replication {
            history: History { replid, previous: None },
            offset: 0,
            backlog: None,
            role: Role::Master,
            feeds: Vec::new(),
            resumable: false,
            stream_db: 0,
            unfed_since_ms: 0,
        }
    }

    /// Whether nobody is followed.
    pub fn is_master(&self) -> bool {
        matches!(self.role, Role::Master)
    }

    /// Whom this server follows, if anybody.
    pub fn following(&self) -> Option<&Following> {
        match &self.role {
            Role::Master => None,
            Role::Replica(following) => Some(following),
        }
    }

    /// The same, to be changed.
    pub fn following_mut(&mut self) -> Option<&mut Following> {
        match &mut self.role {
            Role::Master => None,
            Role::Replica(following) => Some(following),
        }
    }

    /// Whether the link to the upstream is up.
    pub fn is_linked(&self) -> bool {
        self.following().is_some_and(|following| following.link == Link::Up)
    }

    /// Whether an upstream's image is being received.
    pub fn is_transferring(&self) -> bool {
        self.following().is_some_and(|following| matches!(following.link, Link::Transfer { .. }))
    }

    /// Answers a replica that has `offset` bytes of the history `id` (none: it asks for everything).
    pub fn answer(&self, request: Option<(&[u8], u64)>) -> SyncAnswer {
        let Some((id, offset)) = request else { return SyncAnswer::Full("Full resync requested by replica".into()) };
        let replid = &self.history.replid;
        if id != replid.as_str().as_bytes() {
            match &self.history.previous {
                Some((previous, valid_to)) if id == previous.as_str().as_bytes() => {
                    if offset > *valid_to {
                        return SyncAnswer::Full(format!(
                            "Requested offset for second ID was {}, but I can reply up to {}",
                            offset + 1,
                            valid_to + 1
                        ));
                    }
                }
                previous => {
                    let previous = previous.as_ref().map_or_else(|| "0".repeat(40), |(id, _)| id.to_string());
                    return SyncAnswer::Full(format!(
                        "Replication ID mismatch (Replica asked for '{}', my replication IDs are '{replid}' and '{previous}')",
                        String::from_utf8_lossy(id)
                    ));
                }
            }
        }
        match &self.backlog {
            Some(backlog) if (backlog.start()..=backlog.end()).contains(&offset) => SyncAnswer::Continue(offset),
            Some(_) | None => SyncAnswer::Full(format!(
                "Unable to partial resync with replica for lack of backlog (Replica request was: {}).",
                offset + 1
            )),
        }
    }

    /// Starts a new line of history that shares everything so far with the present one.
    pub fn shift_history(&mut self, replid: ReplicationId) {
        let previous = Some((self.history.replid, self.offset));
        self.set_history(History { replid, previous });
    }

    /// Takes another name for the same data.
    pub fn set_history(&mut self, history: History) {
        self.history = history;
        if let Some(backlog) = &mut self.backlog {
            backlog.set_history(history);
        }
    }

    /// How many replicas are online and were heard within `lag_ms_max`.
    pub fn good_feeds(&self, now_ms: i64, lag_ms_max: i64) -> usize {
        let good =
            |feed: &&Rc<Feed>| feed.is_online() && (lag_ms_max == 0 || now_ms - feed.heard_ms.get() <= lag_ms_max);
        self.feeds.iter().filter(good).count()
    }

    /// How many replicas have acknowledged everything up to `offset`.
    pub fn feeds_at(&self, offset: u64) -> usize {
        let there = |feed: &&Rc<Feed>| feed.is_online() && feed.acknowledged.get() >= offset;
        self.feeds.iter().filter(there).count()
    }

    /// The least offset that a feed still needs.
    pub fn slowest_cursor(&self) -> Option<u64> {
        self.feeds
            .iter()
            .filter(|feed| feed.state.get() != FeedState::WaitsForSnapshot && !feed.rdb_only)
            .map(|feed| feed.cursor.get())
            .min()
    }

    /// Wakes those that have something to send.
    pub fn wake_feeds(&self) {
        for feed in &self.feeds {
            if feed.is_online() && feed.cursor.get() < self.offset {
                feed.client.wake();
            }
        }
    }
}
