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

pub use backlog::{Appended, Backlog, BacklogError, History, Remains, ReplicationId};
pub use handshake::{Ancestry, Answer, Greeting, Handshake, Step};
pub use payload::Payload;

use crate::client::Client;
use crate::config::Upstream;
use crate::rdb::Reader;

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
    /// It wants an image without functions.
    pub without_functions: bool,
    /// Which images it reads, if it said so.
    pub reader: Option<Reader>,
    /// Whom it was told to be above it.
    pub told_chain: Option<Vec<ReplicationId>>,
}

/// How far a replica has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedState {
    /// A full resync was promised; the snapshot has not begun.
    WaitsForSnapshot,
    /// The snapshot is being saved, and is sent when its file is whole.
    WaitsForFile,
    /// The snapshot is on its way.
    ReceivesSnapshot {
        /// Its end is marked, and not announced.
        is_marked: bool,
    },
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
    /// Which images it reads.
    pub reader: Reader,
    /// It asked with `SYNC`: its payload comes without a line before it.
    pub old_sync: bool,
    /// How far it has come.
    pub state: Cell<FeedState>,
    /// Everything before this offset was sent to it, or is in its snapshot.
    pub cursor: Cell<u64>,
    /// Bytes before the cursor that have not arrived at its machine: the death of this process would take them away.
    pub unreceived: Cell<u64>,
    /// It said that it has applied so much.
    pub acknowledged: Cell<u64>,
    /// It said that so much is on its disk.
    pub synced: Cell<Option<u64>>,
    /// When it last said anything, in milliseconds since the epoch.
    pub heard_ms: Cell<i64>,
    /// Since when it takes nothing of the snapshot that is being sent, in milliseconds since the epoch.
    pub stalled_since_ms: Cell<Option<i64>>,
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
    /// The offset from which it may have to be sent the stream again, should this server die now. Of one that lags, what has
    /// arrived at its machine and not been read may be lost as well: up to `in_doubt` bytes.
    fn held_from(&self, in_doubt: u64) -> u64 {
        let cursor = self.cursor.get();
        cursor.saturating_sub(self.unreceived.get() + in_doubt).max(self.acknowledged.get().min(cursor))
    }

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
    /// The data are those that this server has started with, a point of a history, and no upstream has said yet that they are
    /// not its own.
    pub restored: bool,
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
            restored: false,
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
    /// Nobody, and nothing is added to the history: a dead server's backlog is handed out to those that lack some of it.
    Ghost,
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
    /// The next write is preceded by its database whatever the stream has selected: somebody who continues here may not
    /// know that.
    pub reselects: bool,
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
            reselects: false,
            unfed_since_ms: 0,
        }
    }

    /// Whether nobody is followed, and writes make the history grow.
    pub fn is_master(&self) -> bool {
        matches!(self.role, Role::Master)
    }

    /// Whether this only hands out a dead server's backlog.
    pub fn is_ghost(&self) -> bool {
        matches!(self.role, Role::Ghost)
    }

    /// Whom this server follows, if anybody.
    pub fn following(&self) -> Option<&Following> {
        match &self.role {
            Role::Master | Role::Ghost => None,
            Role::Replica(following) => Some(following),
        }
    }

    /// The same, to be changed.
    pub fn following_mut(&mut self) -> Option<&mut Following> {
        match &mut self.role {
            Role::Master | Role::Ghost => None,
            Role::Replica(following) => Some(following),
        }
    }

    /// What a replica has started with is a point of its history: it may be asked to be continued, and promoted.
    pub fn restore(&mut self) {
        self.resumable = true;
        if let Some(following) = self.following_mut() {
            following.restored = true;
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
        if let Err(reason) = self.history.includes(id, offset) {
            return SyncAnswer::Full(reason);
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

    /// How many replicas have been sent what they need to go on by themselves: a part of an image is nothing.
    pub fn synced_feeds(&self) -> usize {
        let is_synced =
            |feed: &&Rc<Feed>| matches!(feed.state.get(), FeedState::Online | FeedState::AwaitsAcknowledgement);
        self.feeds.iter().filter(is_synced).count()
    }

    /// How many replicas have acknowledged everything up to `offset`.
    pub fn feeds_at(&self, offset: u64) -> usize {
        let there = |feed: &&Rc<Feed>| feed.is_online() && feed.acknowledged.get() >= offset;
        self.feeds.iter().filter(there).count()
    }

    /// The least offset that a feed still needs, or might need if this server died now: of those that lag, `in_doubt`
    /// bytes more than have not arrived.
    pub fn slowest_held(&self, in_doubt: u64) -> Option<u64> {
        let doubts = |feed: &Feed| if feed.cursor.get() < self.offset { in_doubt } else { 0 };
        let held = self.feeds.iter().filter(|feed| feed.state.get() != FeedState::WaitsForSnapshot && !feed.rdb_only);
        held.filter(|feed| !feed.client.is_killed()).map(|feed| feed.held_from(doubts(feed))).min()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ClientKind;
    use crate::command::Users;

    fn feed(cursor: u64, unreceived: u64, acknowledged: u64) -> Rc<Feed> {
        Rc::new(Feed {
            client: Client::new(
                cursor,
                ("127.0.0.1:1".into(), "127.0.0.1:2".into()),
                0,
                ClientKind::Replica,
                Users::new(None).default_user().clone(),
            ),
            ip: "127.0.0.1".into(),
            port: 1,
            eof: true,
            reader: Reader::OWN,
            old_sync: false,
            state: FeedState::Online.into(),
            cursor: cursor.into(),
            unreceived: unreceived.into(),
            acknowledged: acknowledged.into(),
            synced: None.into(),
            heard_ms: 0.into(),
            stalled_since_ms: None.into(),
            rdb_only: false,
            progress: RefCell::default(),
        })
    }

    #[test]
    fn what_a_feed_may_have_to_be_sent_again_is_held() {
        let mut replication = Replication::new(ReplicationId::parse(&[b'a'; 40]).expect("40 digits"));
        replication.offset = 1000;
        for (feed, held) in [
            (feed(1000, 0, 0), 1000),   // everything has arrived
            (feed(1000, 30, 0), 970),   // some is on its way
            (feed(900, 30, 0), 770),    // it lags: what has arrived may not have been read
            (feed(900, 30, 850), 850),  // but it said that it has applied so much
            (feed(900, 30, 5000), 900), // or says nonsense
            (feed(50, 30, 0), 0),
        ] {
            replication.feeds = vec![feed];
            assert_eq!(replication.slowest_held(100), Some(held));
        }
        replication.feeds.push(feed(700, 0, 700));
        replication.feeds[0].client.kill();
        assert_eq!(replication.slowest_held(100), Some(700), "one that was cut off needs nothing");
        replication.feeds[1].state.set(FeedState::WaitsForSnapshot);
        assert_eq!(replication.slowest_held(100), None);
    }
}
