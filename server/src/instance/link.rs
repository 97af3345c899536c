//! A replica's link to its upstream, decided without I/O: bytes and time come in, bytes go out, and the shell is told
//! what to do next.
//!
//! ```text
//!            +CONTINUE ------------------------------------------.
//!           /                                                     v
//! handshake -- +FULLRESYNC --> announcement -- $… --> image --> stream
//!                                                       |
//!                                     the shell receives and loads it
//! ```
//!
//! Whoever moves the bytes owns the buffer of what has come; [`Follower::take`] takes from its start what is whole.

use std::rc::Rc;
use std::time::Duration;

use super::{Action, Instance};
use crate::client::{Client, ClientKind, Session};
use crate::command::{Args, Command, Planned};
use crate::keyspace::Keyspace;
use crate::log::log;
use crate::replication::{Ancestry, Answer, Greeting, Handshake, History, Link, Payload, ReplicationId, Step};
use crate::resp::{Limits, RequestParser, append_request};
use crate::snapshot::Loaded;

/// How often a replica says how far it has come, in milliseconds.
const ACKNOWLEDGE_MS: i64 = 1000;

/// The longest line of the handshake, in bytes.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// A link that was up for less is waited for like one that could not be made, in milliseconds.
const LASTING_MS: i64 = 100;

/// An image that the upstream has promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promise {
    /// The history that it is a moment of.
    pub id: ReplicationId,
    /// Bytes of that history in it.
    pub offset: u64,
    /// How its end is known.
    pub payload: Payload,
}

/// What a link needs to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// More bytes from the upstream, or time.
    Bytes,
    /// That this image, whose bytes come next, is [installed](Instance::install_image); then
    /// [`Follower::stream`].
    Image(Promise),
}

/// The protocol of one connection to the upstream, from its first byte to its last.
pub struct Follower {
    stage: Stage,
    greeting: Greeting,
    /// The upstream's address, and the own one towards it.
    addresses: (String, String),
    /// When the upstream was last heard, in milliseconds since the epoch.
    heard_ms: i64,
    /// When it is next told how far this replica is, in milliseconds since the epoch.
    acknowledge_at_ms: i64,
    /// Since when the stream flows, in milliseconds since the epoch.
    up_since_ms: Option<i64>,
    /// The upstream and those above it, if it is a repld and has named them.
    chain: Vec<ReplicationId>,
    out: Vec<u8>,
}

enum Stage {
    Handshake(Handshake),
    /// An image of this history at this offset was promised, and not announced.
    Announcement(ReplicationId, u64),
    Image(Promise),
    Stream(Box<Applier>),
}

impl Follower {
    /// A link over a connection that was just made to `peer` from `local`.
    pub fn new(instance: &mut Instance, peer: String, local: String) -> Follower {
        let (state, out) = Handshake::begin();
        instance.set_link(Link::Handshake);
        Follower {
            stage: Stage::Handshake(state),
            greeting: greeting(instance),
            addresses: (peer, local),
            heard_ms: instance.now_ms,
            acknowledge_at_ms: i64::MAX,
            up_since_ms: None,
            chain: Vec::new(),
            out,
        }
    }

    /// Bytes have come from the upstream.
    pub fn heard(&mut self, instance: &mut Instance) {
        self.heard_ms = instance.now_ms;
        if let Some(following) = instance.replication.following_mut() {
            following.heard_ms = self.heard_ms;
        }
    }

    /// Takes from the start of `unread` what is whole, and acts upon it.
    ///
    /// # Errors
    /// The link is of no use any more; why.
    pub fn take(&mut self, instance: &mut Instance, unread: &mut Vec<u8>) -> Result<Demand, String> {
        loop {
            match &mut self.stage {
                Stage::Stream(applier) => {
                    if instance.is_paused(true) {
                        // Whoever ends the pause wakes the link.
                        applier.session.client.postponed.set(true);
                    } else {
                        applier.apply(instance, unread)?;
                    }
                    if let Some(following) = instance.replication.following_mut() {
                        following.unapplied_bytes = unread.len() as u64;
                    }
                    return Ok(Demand::Bytes);
                }
                Stage::Image(promise) => return Ok(Demand::Image(*promise)),
                Stage::Handshake(_) | Stage::Announcement(..) => {
                    let Some(line) = take_line(unread)? else { return Ok(Demand::Bytes) };
                    self.on_line(instance, &line)?;
                }
            }
        }
    }

    fn on_line(&mut self, instance: &mut Instance, line: &[u8]) -> Result<(), String> {
        match self.stage {
            Stage::Handshake(state) => self.on_answer(instance, state, line),
            // An empty line says only that the upstream is alive and busy.
            Stage::Announcement(..) if line.is_empty() => Ok(()),
            Stage::Announcement(id, offset) => {
                self.stage = Stage::Image(Promise { id, offset, payload: Payload::announced(line)? });
                Ok(())
            }
            Stage::Image(_) | Stage::Stream(_) => unreachable!("what comes here is not cut into lines"),
        }
    }

    fn on_answer(&mut self, instance: &mut Instance, state: Handshake, line: &[u8]) -> Result<(), String> {
        if state == Handshake::AwaitPong && line.starts_with(b"+PONG") {
            log!(Notice, "Master replied to PING, replication can continue...");
        }
        let step = state.on_line(&self.greeting, line);
        if self.greeting.failover && state == Handshake::AwaitSync {
            end_failover(instance, &step);
        }
        if let Handshake::AwaitReplconf(_) = state
            && let Some(ancestry) = Ancestry::parse(line)
        {
            self.chain = ancestry.chain;
            instance.learn_lineage(ancestry.lineage);
        }
        if state == Handshake::AwaitIdentity
            && let (Step::Send(..), Some(following)) = (&step, instance.replication.following_mut())
        {
            following.identified = true;
        }
        match step {
            Step::Wait(next) => self.stage = Stage::Handshake(next),
            Step::Send(next, bytes) => {
                if next == Handshake::AwaitSync {
                    match &self.greeting.resume {
                        Some((id, offset)) => {
                            log!(Notice, "Trying a partial resynchronization (request {id}:{}).", offset + 1);
                        }
                        None => log!(Notice, "Partial resynchronization not possible (no cached master)"),
                    }
                }
                self.out.extend_from_slice(&bytes);
                self.stage = Stage::Handshake(next);
            }
            Step::Done(Answer::Partial { id }) => {
                instance.accept_partial(id)?;
                self.stream(instance);
            }
            Step::Done(Answer::Full { id, offset }) => {
                log!(Notice, "Full resync from master: {id}:{offset}");
                if instance.replication.resumable {
                    log!(Notice, "Discarding previously cached master state.");
                }
                if let Some(following) = instance.replication.following_mut() {
                    following.restored = false;
                }
                instance.set_link(Link::Transfer { total_bytes: None, read_bytes: 0 });
                self.stage = Stage::Announcement(id, offset);
            }
            Step::Retry(reason) | Step::Refused(reason) => return Err(reason),
            Step::Harmful(reason) => return Err(instance.refuse_upstream(reason, 0)),
        }
        Ok(())
    }

    /// Goes on with the stream: what was asked for is in the data.
    pub fn stream(&mut self, instance: &mut Instance) {
        instance.adopt_chain(std::mem::take(&mut self.chain));
        let (peer, local) = self.addresses.clone();
        let client = instance.connect(peer, local, ClientKind::Master);
        client.db.set(if planted!(SelectForgotten) { 0 } else { instance.replication.stream_db });
        self.stage = Stage::Stream(Box::new(Applier {
            session: Session::new(client, true),
            parser: RequestParser::default(),
            batch: Vec::new(),
            last: None,
            replies: Vec::new(),
            applied: 0,
            told_synced: None,
            // The image has arrived, or the stream goes on: either way the upstream wants to know.
            acknowledge: true,
        }));
        self.heard_ms = instance.now_ms;
        self.acknowledge_at_ms = instance.now_ms + ACKNOWLEDGE_MS;
        self.up_since_ms = Some(instance.now_ms);
    }

    /// Does what is due at this time.
    ///
    /// # Errors
    /// The upstream was silent for too long.
    pub fn on_time(&mut self, instance: &Instance) -> Result<(), String> {
        let now_ms = instance.now_ms;
        if now_ms >= self.heard_ms.saturating_add(patience_ms(instance)) {
            return Err(match self.stage {
                Stage::Stream(_) => "MASTER timeout: no data nor PING received...",
                Stage::Image(_) | Stage::Announcement(..) => TIMEOUT_TRANSFER,
                Stage::Handshake(_) => "Timeout connecting to the MASTER...",
            }
            .into());
        }
        if let Stage::Stream(applier) = &mut self.stage
            && now_ms >= self.acknowledge_at_ms
        {
            applier.acknowledge = true;
            self.acknowledge_at_ms = now_ms + ACKNOWLEDGE_MS;
        }
        Ok(())
    }

    /// When [`Follower::on_time`] has something to do, in milliseconds since the epoch.
    pub fn deadline_ms(&self, instance: &Instance) -> i64 {
        self.heard_ms.saturating_add(patience_ms(instance)).min(self.acknowledge_at_ms)
    }

    /// What is to be sent; who has sent some of it takes that off its start.
    pub fn out(&mut self, instance: &Instance) -> &mut Vec<u8> {
        let synced = instance.aof.synced;
        if let Stage::Stream(applier) = &mut self.stage
            && (std::mem::take(&mut applier.acknowledge) || applier.told_synced != synced)
        {
            applier.told_synced = synced;
            let mut offset = instance.replication.offset;
            if planted!(AcknowledgedBeforeCommit) {
                offset += instance.replication.following().map_or(0, |following| following.unapplied_bytes);
            }
            let offset = offset.to_string();
            match synced.map(|synced| synced.to_string()) {
                None => append_request(&mut self.out, &[b"REPLCONF", b"ACK", offset.as_bytes()]),
                // Masters that do not know it look no further than the offset that comes first.
                Some(synced) => {
                    let request: [&[u8]; 5] = [b"REPLCONF", b"ACK", offset.as_bytes(), b"FACK", synced.as_bytes()];
                    append_request(&mut self.out, &request);
                }
            }
        }
        &mut self.out
    }

    /// The link as those see it who list or kill clients: there is one as soon as the stream flows.
    pub fn client(&self) -> Option<&Rc<Client>> {
        match &self.stage {
            Stage::Stream(applier) => Some(&applier.session.client),
            _ => None,
        }
    }

    /// The connection is over. Whether the link was up for long enough to be made again at once.
    pub fn end(mut self, instance: &mut Instance) -> bool {
        if let Stage::Stream(applier) = &mut self.stage {
            instance.disconnect(&mut applier.session);
        }
        self.up_since_ms.is_some_and(|since| instance.now_ms - since >= LASTING_MS)
    }
}

/// What is said when an image stops coming.
pub const TIMEOUT_TRANSFER: &str = "Timeout receiving bulk data from MASTER... If the problem persists try to set the \
                                    'repl-timeout' parameter in redis.conf to a larger value.";

fn patience_ms(instance: &Instance) -> i64 {
    i64::try_from(instance.config.repl_timeout.as_millis()).unwrap_or(i64::MAX)
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
        expected: config.replica_expect_master_id,
        // Who is to take over follows this server still.
        run_id: (!instance.is_handing_over()).then_some(instance.run_id),
    }
}

/// Whether the upstream has taken over is known by its answer to `PSYNC`; while there is none, it is asked again.
fn end_failover(instance: &mut Instance, answer: &Step) {
    match answer {
        Step::Done(_) => instance.complete_failover(),
        Step::Retry(_) | Step::Refused(_) | Step::Harmful(_) => {
            instance.abort_failover("Failover target rejected psync request")
        }
        Step::Wait(_) | Step::Send(..) => {}
    }
}

/// The next line, without its end, if it has come whole.
fn take_line(unread: &mut Vec<u8>) -> Result<Option<Vec<u8>>, String> {
    let Some(end) = memchr::memchr(b'\n', unread) else {
        return if unread.len() > LINE_BYTES_MAX { Err("The master sent an endless line".into()) } else { Ok(None) };
    };
    let mut line: Vec<u8> = unread.drain(..=end).collect();
    line.pop();
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(Some(line))
}

/// Requests of the upstream planned together.
const BATCH_REQUESTS: usize = 32;

/// The stream of the upstream, being applied.
struct Applier {
    session: Session,
    parser: RequestParser,
    /// The next requests, looked up and hashed.
    batch: Vec<Planned>,
    last: Option<&'static Command>,
    replies: Vec<u8>,
    /// Bytes at the start of what is unread that were applied and not yet forwarded: a transaction is forwarded whole.
    applied: usize,
    acknowledge: bool,
    /// What the upstream was last told to be on the disk.
    told_synced: Option<u64>,
}

impl Applier {
    /// Applies what has come whole, forwards it to those below, and drops it.
    fn apply(&mut self, instance: &mut Instance, unread: &mut Vec<u8>) -> Result<(), String> {
        let mut forwardable = 0;
        loop {
            let planned = self.plan(instance, unread);
            let is_last = self.batch.len() < BATCH_REQUESTS;
            self.run(instance, unread, &mut forwardable);
            if is_last || planned.is_err() {
                self.forward(instance, unread, &mut forwardable);
                return planned;
            }
        }
    }

    /// Parses the next batch, and lets the cache fetch where its keys are, and then the entries.
    fn plan(&mut self, instance: &Instance, unread: &mut [u8]) -> Result<(), String> {
        let limits = Limits { bulk_bytes_max: i64::from(u32::MAX), authenticated: true };
        self.batch.clear();
        self.parser.forget_requests();
        let db = self.session.db();
        let mut parsed = self.applied;
        while self.batch.len() < BATCH_REQUESTS {
            let request = self.parser.next(unread, parsed, limits);
            let Some(request) = request.map_err(|error| format!("Protocol error from master: {error}"))? else { break };
            parsed += request.len;
            let bytes = &unread[request.start..parsed];
            let spans = self.parser.spans(&request);
            self.batch.push(Planned::new(request, bytes, spans, &instance.keyspace, db, &mut self.last));
        }
        for planned in self.batch.iter().filter(|planned| planned.hash != 0) {
            instance.keyspace.prefetch_entry(db, planned.hash);
        }
        Ok(())
    }

    /// Runs the batch.
    fn run(&mut self, instance: &mut Instance, unread: &mut Vec<u8>, forwardable: &mut usize) {
        self.session.admission = instance.admission(&self.session);
        // Bytes that have gone from the start of what is unread since the batch was planned.
        let mut dropped = 0;
        for index in 0..self.batch.len() {
            let planned = self.batch[index];
            let request = &planned.request;
            let (start, db) = (request.start - dropped, self.session.db());
            let bytes = &unread[start..start + request.len];
            let args = Args::new(bytes, self.parser.spans(request), planned.hash);
            if args.is_getack() {
                self.acknowledge = true;
                if instance.aof.is_open() {
                    instance.act(Action::SyncAof);
                }
            }
            self.replies.clear();
            instance.execute(&mut self.session, &planned, args, bytes, &mut self.replies);
            if planted!(PingNotCounted) && planned.command.is_some_and(|command| command.name == "ping") {
                unread.drain(start..start + request.len);
                dropped += request.len;
                continue;
            }
            self.applied += request.len;
            if self.session.transaction.is_none() {
                *forwardable = self.applied;
            }
            if self.session.db() != db {
                // What comes after is in another database than what came before.
                dropped += *forwardable;
                self.forward(instance, unread, forwardable);
            }
        }
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

/// How long to wait before a link is made again.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// A link has ended, or could not be made. One that lasted is made again at once. Otherwise 10 ms are waited, then 20,
    /// up to 1 s, and of that up to a quarter less by chance, so that those who failed together do not come back
    /// together.
    pub fn after(&mut self, lasted: bool, random: u64) -> Duration {
        if lasted {
            self.failures = 0;
            return Duration::ZERO;
        }
        let base_ms = (10u64 << self.failures.min(7)).min(1000);
        self.failures = self.failures.saturating_add(1);
        Duration::from_millis(base_ms - random % (base_ms / 4 + 1))
    }
}

impl Instance {
    /// The link to the upstream stands otherwise now.
    pub fn set_link(&mut self, link: Link) {
        let now_ms = self.now_ms;
        if let Some(following) = self.replication.following_mut() {
            if following.link == Link::Up && link != Link::Up {
                following.down_since_ms = now_ms;
            }
            following.link = link;
            following.heard_ms = now_ms;
        }
    }

    /// The stream goes on where this replica is, perhaps under a new name.
    fn accept_partial(&mut self, id: Option<ReplicationId>) -> Result<(), String> {
        log!(Notice, "Successful partial resynchronization with master.");
        let own = self.replication.history.replid;
        if let Some(id) = id.filter(|id| *id != own) {
            log!(Warning, "Master replication ID changed to {id}");
            let previous = Some((own, self.replication.offset));
            self.replication.set_history(History { replid: id, previous });
            // Those below learn the new name by coming back.
            self.cut_feeds();
        }
        if self.replication.backlog.is_none() {
            self.create_backlog()?;
        }
        log!(Notice, "MASTER <-> REPLICA sync: Master accepted a Partial Resynchronization.");
        self.bring_up();
        Ok(())
    }

    /// Puts the upstream's data, those of history `id` at `offset`, in the place of these, and returns these as
    /// [`Instance::install`] does.
    ///
    /// # Errors
    /// The stream that follows can't be kept; why.
    pub fn install_image(&mut self, loaded: Loaded, id: ReplicationId, offset: u64) -> Result<Keyspace, String> {
        self.cut_feeds();
        self.functions = loaded.functions;
        let old = self.install(loaded.keyspace, loaded.keys_loaded, loaded.keys_expired);
        self.replication.history = History { replid: id, previous: None };
        self.replication.offset = offset;
        self.replication.stream_db = loaded.stream_db;
        self.create_backlog()?;
        self.bring_up();
        self.restart_aof();
        self.persistence.dirty += 1;
        log!(Notice, "MASTER <-> REPLICA sync: Finished with success");
        Ok(old)
    }

    fn bring_up(&mut self) {
        self.set_link(Link::Up);
        self.replication.resumable = true;
        if let Some(following) = self.replication.following_mut() {
            following.synced = true;
            following.refusal = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Upstream};
    use crate::instance::Random;

    const ID: &str = "0123456789abcdef0123456789abcdef01234567";

    /// A replica whose link has just come up by a partial resync.
    fn linked() -> (tempfile::TempDir, Instance, Follower) {
        let directory = tempfile::tempdir().expect("a directory");
        let mut config = Config::default();
        config.dir = directory.path().to_owned();
        let mut instance = Instance::new(config, 1_000_000, Random::new([1, 2]));
        instance.follow(Upstream { host: "127.0.0.1".into(), port: 1 });
        let mut follower = Follower::new(&mut instance, "127.0.0.1:1".into(), "127.0.0.1:2".into());
        let mut answers = format!("+PONG\r\n+OK\r\n+OK\r\n+OK\r\n+OK\r\n+CONTINUE {ID}\r\n").into_bytes();
        assert_eq!(follower.take(&mut instance, &mut answers), Ok(Demand::Bytes));
        assert!(instance.replication.is_linked());
        (directory, instance, follower)
    }

    #[test]
    fn half_a_request_does_not_keep_a_silent_link_alive() {
        let (_directory, mut instance, mut follower) = linked();
        let mut unread = b"*1\r\n$4\r\nPI".to_vec();
        follower.heard(&mut instance);
        for _ in 0..60 {
            instance.set_now(instance.now_ms + 999);
            assert_eq!(follower.take(&mut instance, &mut unread), Ok(Demand::Bytes));
            assert_eq!(follower.on_time(&instance), Ok(()));
        }
        instance.set_now(instance.now_ms + 100);
        assert!(follower.on_time(&instance).is_err_and(|why| why.contains("timeout")));
    }

    #[test]
    fn a_replica_says_how_far_it_is_at_once_each_second_and_when_asked() {
        let (_directory, mut instance, mut follower) = linked();
        let said = |follower: &mut Follower, instance: &Instance| {
            String::from_utf8(std::mem::take(follower.out(instance))).expect("ASCII")
        };
        let ack = |offset: &str| format!("*3\r\n$8\r\nREPLCONF\r\n$3\r\nACK\r\n${}\r\n{offset}\r\n", offset.len());
        assert!(said(&mut follower, &instance).ends_with(&ack("0")));
        assert_eq!(said(&mut follower, &instance), "");
        let mut unread = b"*1\r\n$4\r\nPING\r\n*3\r\n$8\r\nREPLCONF\r\n$6\r\nGETACK\r\n$1\r\n*\r\n*1\r\n".to_vec();
        assert_eq!(follower.take(&mut instance, &mut unread), Ok(Demand::Bytes));
        assert_eq!(said(&mut follower, &instance), ack("51"));
        instance.set_now(follower.deadline_ms(&instance));
        assert_eq!(follower.on_time(&instance), Ok(()));
        assert_eq!(said(&mut follower, &instance), ack("51"));
    }

    #[test]
    fn a_link_that_lasted_is_made_again_at_once_and_others_later_and_later() {
        let mut backoff = Backoff::default();
        let waits: Vec<u128> = (0..9).map(|_| backoff.after(false, 0).as_millis()).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        for random in 0..1000 {
            let wait = backoff.after(false, random).as_millis();
            assert!((750..=1000).contains(&wait), "{wait}");
        }
        assert_eq!(backoff.after(true, 0).as_millis(), 0);
        assert_eq!(backoff.after(false, 0).as_millis(), 10);
    }
}
