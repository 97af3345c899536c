//! One server of the simulation: a real instance, and a shell for it that moves bytes between virtual connections.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

use repld::client::{ClientKind, Session};
use repld::command::{Args, Flow, Planned};
use repld::config::{Config, DisklessLoad, Upstream};
use repld::instance::{Action, Backoff, Demand, Follower, Instance, Next, Promise};
use repld::rdb::Encoder;
use repld::replication::{FeedState, Link};
use repld::resp::{Limits, RequestParser};
use repld::snapshot::{self, Image, KeyDelay, Loader};

use crate::network::{Arrival, Wire};
use crate::random::Random;

pub const DATABASES: usize = 3;

const LIMITS: Limits = Limits { bulk_bytes_max: 1 << 20, authenticated: true };

pub type Wires = BTreeMap<usize, Wire>;

/// What was observed and must not be: the name of the check, and what it saw.
pub type Checked<T> = Result<T, String>;

/// What is counted over all seeds, to see that everything did happen.
#[derive(Default, Debug, Clone)]
pub struct Figures {
    pub commands: u64,
    pub full_resyncs: u64,
    pub partial_resyncs: u64,
    pub images_loaded: u64,
    pub images_broken: u64,
    pub links_broken: u64,
    pub kills: u64,
    pub restarts: u64,
    pub promotions: u64,
    pub redirections: u64,
    pub waits: u64,
}

impl Figures {
    pub fn add(&mut self, other: &Figures) {
        self.commands += other.commands;
        self.full_resyncs += other.full_resyncs;
        self.partial_resyncs += other.partial_resyncs;
        self.images_loaded += other.images_loaded;
        self.images_broken += other.images_broken;
        self.links_broken += other.links_broken;
        self.kills += other.kills;
        self.restarts += other.restarts;
        self.promotions += other.promotions;
        self.redirections += other.redirections;
        self.waits += other.waits;
    }
}

/// The server's half of a connection: a client, and a feed when it has asked for that.
pub struct Connection {
    pub wire: usize,
    pub session: Session,
    parser: RequestParser,
    input: Vec<u8>,
    out: Vec<u8>,
    /// Pieces of the image that it was promised, and whether they are all.
    payload: VecDeque<Vec<u8>>,
    payload_complete: bool,
    closing: bool,
}

impl Connection {
    pub fn new(wire: usize, session: Session) -> Connection {
        Connection {
            wire,
            session,
            parser: RequestParser::default(),
            input: Vec::new(),
            out: Vec::new(),
            payload: VecDeque::new(),
            payload_complete: false,
            closing: false,
        }
    }
}

/// The replica's half.
pub enum Uplink {
    /// Nobody is followed.
    None,
    /// The next attempt is made at this time.
    Waiting(i64),
    Linked(Box<Linked>),
}

pub struct Linked {
    pub wire: usize,
    pub follower: Follower,
    unread: Vec<u8>,
    receiving: Option<Receiving>,
}

/// An image on its way in.
struct Receiving {
    promise: Promise,
    received: u64,
    /// What has come, unless it is loaded as it comes.
    file: Vec<u8>,
    /// How much of the file was loaded.
    loaded: usize,
    /// It is being loaded.
    loader: Option<Loader>,
    complete: bool,
}

/// An image on its way out.
struct Walk {
    encoder: Option<Encoder>,
    /// Those it is for.
    wires: Vec<usize>,
    /// What ends it, where it is streamed; otherwise it is a dump file, and sent when it is complete.
    mark: Option<String>,
    dump: Vec<u8>,
}

pub struct Node {
    pub index: usize,
    /// None: it was killed.
    pub instance: Option<Instance>,
    pub directory: PathBuf,
    /// What lies in its data directory.
    pub dump: Option<Vec<u8>>,
    /// Whom its configuration says to follow, by index.
    pub upstream: Option<usize>,
    pub uplink: Uplink,
    backoff: Backoff,
    pub connections: Vec<Connection>,
    walk: Option<Walk>,
    /// A client at its side, and what it is about to ask.
    client: Option<(Session, RequestParser)>,
    pub script: VecDeque<Vec<Vec<u8>>>,
    pub next_tick_ms: i64,
    config: Config,
    starts: u64,
}

/// What a request led to.
pub struct Executed {
    pub flow: Flow,
    pub reply: Vec<u8>,
}

impl Node {
    pub fn new(index: usize, directory: PathBuf, random: &mut Random) -> Node {
        let mut config = Config::default();
        config.dir.clone_from(&directory);
        config.databases = DATABASES as u32;
        config.port = port_of(index);
        config.save = Vec::new();
        config.repl_backlog_size = random.pick(&[256, 1024, 4096, 16384, 65536]);
        config.client_output_buffer_limit.replica.hard_bytes = random.pick(&[512, 4096, 1 << 20]);
        config.repl_ping_replica_period = Duration::from_secs(1);
        config.repl_timeout = Duration::from_secs(5);
        config.repl_backlog_ttl = Duration::from_secs(random.pick(&[8, 3600]));
        config.repl_diskless_sync = random.chance(70);
        config.repl_diskless_load = random.pick(&[DisklessLoad::Disabled, DisklessLoad::SwapDb]);
        Node {
            index,
            instance: None,
            directory,
            dump: None,
            upstream: None,
            uplink: Uplink::None,
            backoff: Backoff::default(),
            connections: Vec::new(),
            walk: None,
            client: None,
            script: VecDeque::new(),
            next_tick_ms: 0,
            config,
            starts: 0,
        }
    }

    // --- Its life ---

    /// Starts it from its dump and its configuration, as `net::serve` does.
    pub fn start(&mut self, seed: u64, now_ms: i64) -> Checked<()> {
        self.starts += 1;
        let random = repld::instance::Random::new([seed, (self.starts << 8) + self.index as u64]);
        let mut instance = Instance::new(self.config.clone(), now_ms, random);
        if let Some(upstream) = self.upstream {
            instance.follow_from_start(address_of(upstream));
        }
        if let Some(dump) = &self.dump {
            let mut loader = Loader::new(&instance);
            let loaded = loader.feed(dump).and_then(|_| loader.finish());
            let loaded = loaded.map_err(|error| format!("a dump can't be loaded: {error}"))?;
            instance.install(loaded.keyspace, loaded.keys_loaded, loaded.keys_expired);
            if let Some(point) = loaded.point {
                instance.continue_from(point)?;
            }
        }
        instance.act(Action::Relink);
        let client = instance.connect("127.0.0.1:9".into(), "127.0.0.1:1".into(), ClientKind::Normal);
        self.client = Some((Session::new(client, true), RequestParser::default()));
        self.script.clear();
        self.instance = Some(instance);
        Ok(())
    }

    /// SIGKILL: what it has sent may still arrive.
    pub fn kill(&mut self, wires: &mut Wires, random: &mut Random) {
        for connection in self.connections.drain(..) {
            close_upstream_end(wires, connection.wire, random);
        }
        if let Uplink::Linked(linked) = std::mem::replace(&mut self.uplink, Uplink::None) {
            close_replica_end(wires, linked.wire, random);
        }
        self.walk = None;
        self.client = None;
        self.instance = None;
    }

    /// Carries out what the instance has asked for.
    pub fn settle(&mut self, wires: &mut Wires, random: &mut Random, now_ms: i64) -> bool {
        let Some(instance) = &mut self.instance else { return false };
        let mut relinked = false;
        for action in instance.take_actions() {
            if action == Action::Relink {
                relinked = true;
                if let Uplink::Linked(linked) = std::mem::replace(&mut self.uplink, Uplink::None) {
                    close_replica_end(wires, linked.wire, random);
                }
                instance.forget_link();
                self.backoff = Backoff::default();
                self.uplink = if instance.replication.is_master() { Uplink::None } else { Uplink::Waiting(now_ms) };
            }
        }
        relinked
    }

    // --- Its client ---

    /// Runs one request of the client at its side; none if that waits for an answer.
    pub fn ask(&mut self, request: &[Vec<u8>]) -> Option<Executed> {
        let instance = self.instance.as_mut()?;
        let (session, parser) = self.client.as_mut()?;
        let mut reply = Vec::new();
        session.client.collect(&mut reply);
        if session.client.is_held() {
            return None;
        }
        let mut input = encode(request);
        parser.forget_requests();
        let flow = run_one(instance, session, parser, &mut input, &mut reply).ok()??;
        Some(Executed { flow, reply })
    }

    // --- The connections to it ---

    /// One turn of a connection: receives up to `most` bytes, runs what is whole, and sends up to `most` bytes.
    /// False if it is over.
    pub fn turn_connection(
        &mut self,
        index: usize,
        wires: &mut Wires,
        most: usize,
        now_ms: i64,
        figures: &mut Figures,
    ) -> Checked<bool> {
        let (Some(instance), connection) = (&mut self.instance, &mut self.connections[index]) else {
            return Ok(false);
        };
        let wire = wires.get_mut(&connection.wire).expect("a connection has its wire");
        if connection.session.client.is_killed() {
            return Ok(false);
        }
        match wire.up.receive(most, now_ms) {
            Arrival::Bytes(bytes) => connection.input.extend_from_slice(&bytes),
            Arrival::Nothing => {}
            Arrival::End => return Ok(false),
        }
        connection.run(instance, figures)?;
        connection.session.client.collect(&mut connection.out);
        let count = connection.out.len().min(most).min(wire.down.room());
        wire.down.send(&connection.out[..count]);
        connection.out.drain(..count);
        if !connection.out.is_empty() {
            return Ok(true);
        }
        if connection.closing {
            return Ok(false);
        }
        let Some(feed) = connection.session.feed.clone() else { return Ok(true) };
        match instance.next_for(&feed) {
            Next::Image => match connection.payload.pop_front() {
                Some(piece) => connection.out.extend(piece),
                None if connection.payload_complete && instance.image_sent(&feed) => {}
                None => {}
            },
            Next::AfterItsWord => {}
            Next::Stream(first, second) => {
                let bytes = if first.is_empty() { second } else { first };
                let count = bytes.len().min(most).min(wire.down.room());
                wire.down.send(&bytes[..count]);
                instance.stream_sent(&feed, count, wire.down.len() as u64);
            }
            Next::Nothing => return Ok(false),
        }
        Ok(true)
    }

    /// Ends a connection from this side.
    pub fn close_connection(&mut self, index: usize, wires: &mut Wires, random: &mut Random) {
        let mut connection = self.connections.remove(index);
        if let Some(instance) = &mut self.instance {
            instance.disconnect(&mut connection.session);
        }
        close_upstream_end(wires, connection.wire, random);
    }

    // --- Its images for others ---

    pub fn has_walk(&self) -> bool {
        self.walk.is_some()
    }

    /// Begins an image if somebody waits for one, or if a dump is wanted.
    pub fn begin_walk(&mut self, dump_wanted: bool) {
        let Some(instance) = &mut self.instance else { return };
        if self.walk.is_some() || instance.loading.is_some() {
            return;
        }
        let waits = |connection: &&mut Connection| {
            !connection.session.client.is_killed()
                && connection.session.feed.as_ref().is_some_and(|feed| feed.state.get() == FeedState::WaitsForSnapshot)
        };
        let waiting: Vec<_> = self.connections.iter_mut().filter(waits).collect();
        if waiting.is_empty() && !dump_wanted {
            return;
        }
        let Ok(image) = Image::begin(instance) else { return };
        let streams = !waiting.is_empty() && instance.config.repl_diskless_sync;
        let feeds: Vec<_> = waiting.iter().filter_map(|connection| connection.session.feed.clone()).collect();
        if let Some(point) = image.point {
            let state = if streams { FeedState::ReceivesSnapshot { is_marked: true } } else { FeedState::WaitsForFile };
            instance.promise_image(&feeds, point, state);
        }
        let mark = streams.then(|| instance.random_id().to_string());
        let mut wires = Vec::new();
        for connection in waiting {
            wires.push(connection.wire);
            if let Some(mark) = &mark {
                connection.payload.push_back(format!("$EOF:{mark}\r\n").into_bytes());
            }
        }
        let encoder = Some(image.encoder());
        self.walk = Some(Walk { encoder, wires, mark, dump: Vec::new() });
    }

    /// Lets the image go on.
    pub fn turn_walk(&mut self, budget_bytes: usize) {
        let (Some(instance), Some(walk)) = (&mut self.instance, &mut self.walk) else { return };
        let for_it = |connection: &&mut Connection| walk.wires.contains(&connection.wire);
        let mut receivers: Vec<_> = self.connections.iter_mut().filter(for_it).collect();
        let forsaken = walk.mark.is_some() && receivers.is_empty();
        if forsaken || !instance.keyspace.walk_in_progress() {
            // Half an image is no image: they must begin again.
            receivers.iter().for_each(|connection| connection.session.client.kill());
            instance.keyspace.abort_walk();
            self.walk = None;
            return;
        }
        let chunk = instance.keyspace.walk_slice(budget_bytes);
        let mut bytes = Vec::new();
        match (&chunk, &mut walk.encoder) {
            (Some(chunk), Some(encoder)) => {
                let gathered = snapshot::encode(encoder, chunk, &KeyDelay::default(), |piece| {
                    bytes.extend(piece);
                    Ok(())
                });
                gathered.expect("memory takes everything");
            }
            _ => bytes.extend(walk.encoder.take().map(Encoder::finish).unwrap_or_default()),
        }
        match &walk.mark {
            Some(mark) => {
                for connection in &mut receivers {
                    connection.payload.push_back(bytes.clone());
                    if chunk.is_none() {
                        connection.payload.push_back(mark.clone().into_bytes());
                        connection.payload_complete = true;
                    }
                }
            }
            None => walk.dump.extend_from_slice(&bytes),
        }
        if chunk.is_some() {
            return;
        }
        if walk.mark.is_none() {
            for connection in &mut receivers {
                if let Some(feed) = &connection.session.feed {
                    feed.state.set(FeedState::ReceivesSnapshot { is_marked: false });
                }
                connection.payload.push_back(format!("${}\r\n", walk.dump.len()).into_bytes());
                connection.payload.push_back(walk.dump.clone());
                connection.payload_complete = true;
            }
            self.dump = Some(std::mem::take(&mut walk.dump));
        }
        self.walk = None;
    }

    // --- Its link ---

    /// Tries to make the link: `accept` gives the wire, if the upstream is there.
    pub fn connect(&mut self, wire: Option<usize>, now_ms: i64) {
        let Some(instance) = &mut self.instance else { return };
        instance.set_link(Link::Handshake);
        match wire {
            Some(wire) => {
                let follower = Follower::new(instance, "127.0.0.1:2".into(), "127.0.0.1:3".into());
                let linked = Linked { wire, follower, unread: Vec::new(), receiving: None };
                self.uplink = Uplink::Linked(Box::new(linked));
            }
            None => {
                instance.set_link(Link::Down);
                let wait = self.backoff.after(false, instance.random());
                self.uplink = Uplink::Waiting(now_ms + wait.as_millis() as i64);
            }
        }
    }

    /// One turn of the link: receives up to `most` bytes and acts upon them.
    pub fn turn_link(
        &mut self,
        wires: &mut Wires,
        most: usize,
        now_ms: i64,
        random: &mut Random,
        figures: &mut Figures,
    ) -> Checked<()> {
        let (Some(instance), Uplink::Linked(linked)) = (&mut self.instance, &mut self.uplink) else { return Ok(()) };
        let wire = wires.get_mut(&linked.wire).expect("a link has its wire");
        let alive = match wire.down.receive(most, now_ms) {
            Arrival::Bytes(bytes) => {
                linked.unread.extend_from_slice(&bytes);
                linked.follower.heard(instance);
                true
            }
            Arrival::Nothing => true,
            // While the image is loaded nobody looks at the connection.
            Arrival::End => linked.receiving.as_ref().is_some_and(|receiving| receiving.complete),
        };
        if alive && linked.turn(instance, &mut wire.up, most, figures)? {
            wire.reached = wire.reached.max(instance.replication.offset);
            return Ok(());
        }
        let Uplink::Linked(linked) = std::mem::replace(&mut self.uplink, Uplink::None) else { return Ok(()) };
        figures.links_broken += 1;
        figures.images_broken += u64::from(linked.receiving.is_some());
        close_replica_end(wires, linked.wire, random);
        let lasted = linked.follower.end(instance);
        instance.loading = None;
        instance.set_link(Link::Down);
        let wait = self.backoff.after(lasted, instance.random());
        self.uplink = Uplink::Waiting(now_ms + wait.as_millis() as i64);
        Ok(())
    }
}

impl Connection {
    /// Runs the requests that have come whole.
    fn run(&mut self, instance: &mut Instance, figures: &mut Figures) -> Checked<()> {
        while !self.session.client.is_held() && !self.closing {
            self.parser.forget_requests();
            let was_feed = self.session.feed.is_some();
            let expected = if was_feed { None } else { Expected::of(&self.input, instance) };
            let flow = match run_one(instance, &mut self.session, &mut self.parser, &mut self.input, &mut self.out) {
                Ok(Some(flow)) => flow,
                Ok(None) => return Ok(()),
                Err(error) => return Err(format!("a replica breaks the protocol: {error}")),
            };
            if let (Some(expected), Some(feed)) = (expected, &self.session.feed) {
                let full = feed.state.get() == FeedState::WaitsForSnapshot;
                expected.check(full)?;
                if full { figures.full_resyncs += 1 } else { figures.partial_resyncs += 1 }
            }
            self.closing |= flow == Flow::Close;
        }
        Ok(())
    }
}

/// What the answer to a `PSYNC` must be.
struct Expected {
    partial: bool,
    why: String,
}

impl Expected {
    fn of(input: &[u8], instance: &Instance) -> Option<Expected> {
        let text = std::str::from_utf8(input).ok()?;
        let mut words = text.split("\r\n");
        if !text.ends_with("\r\n") || words.nth(2) != Some("PSYNC") {
            return None;
        }
        let (id, next) = (words.nth(1)?, words.nth(1)?.parse::<u64>().ok());
        let replication = &instance.replication;
        let retained = replication.backlog.as_ref().map(|backlog| backlog.start() + 1..=backlog.end() + 1);
        let retained = retained.zip(next).is_some_and(|(retained, next)| retained.contains(&next));
        let history = replication.history;
        let known = id == history.replid.as_str()
            || history.previous.is_some_and(|(previous, end)| id == previous.as_str() && next <= Some(end + 1));
        let why = format!("asked for {id} {next:?}, having {history:?} and the bytes: {retained}");
        Some(Expected { partial: retained && known, why })
    }

    fn check(&self, full: bool) -> Checked<()> {
        match (self.partial, full) {
            (true, true) => Err(format!("a full resync though the stream could go on: {}", self.why)),
            (false, false) => Err(format!("a partial resync of what is not the same history: {}", self.why)),
            _ => Ok(()),
        }
    }
}

impl Linked {
    /// Acts upon what has come; false if the link is of no use any more.
    fn turn(
        &mut self,
        instance: &mut Instance,
        up: &mut crate::network::Pipe,
        most: usize,
        figures: &mut Figures,
    ) -> Checked<bool> {
        if self.follower.client().is_some_and(|client| client.is_killed()) {
            return Ok(false);
        }
        if let Some(receiving) = &mut self.receiving {
            match receiving.turn(instance, &mut self.unread, most)? {
                false => return Ok(self.follower.on_time(instance).is_ok() || receiving.complete),
                true => {
                    self.receiving = None;
                    figures.images_loaded += 1;
                    self.follower.stream(instance);
                }
            }
        }
        match self.follower.take(instance, &mut self.unread) {
            Ok(Demand::Bytes) => {}
            Ok(Demand::Image(promise)) => self.receiving = Some(Receiving::new(instance, promise)),
            // Not now: where much is redirected, an upstream may for a while believe that it is below this node.
            Err(reason) if ["NOMASTERLINK", "LOADING", "-CYCLE"].iter().any(|word| reason.contains(word)) => {
                return Ok(false);
            }
            Err(reason) => return Err(format!("a link breaks: {reason}")),
        }
        if self.follower.deadline_ms(instance) <= instance.now_ms && self.follower.on_time(instance).is_err() {
            return Ok(false);
        }
        let out = self.follower.out(instance);
        let count = out.len().min(most).min(up.room());
        up.send(&out[..count]);
        out.drain(..count);
        Ok(true)
    }
}

impl Receiving {
    fn new(instance: &mut Instance, promise: Promise) -> Receiving {
        let mut receiving =
            Receiving { promise, received: 0, file: Vec::new(), loaded: 0, loader: None, complete: false };
        if instance.config.repl_diskless_load == DisklessLoad::SwapDb {
            receiving.begin_loading(instance, true);
        }
        receiving
    }

    fn begin_loading(&mut self, instance: &mut Instance, serves_old_data: bool) {
        let (started_ms, total_bytes) = (instance.now_ms, 0);
        instance.loading = Some(repld::instance::Loading { started_ms, total_bytes, loaded_bytes: 0, serves_old_data });
        self.loader = Some(Loader::new(instance));
    }

    /// Takes what has come, or loads a piece of it; true when the image is installed.
    fn turn(&mut self, instance: &mut Instance, unread: &mut Vec<u8>, most: usize) -> Checked<bool> {
        if !self.complete {
            let (ready, complete) = self.promise.payload.split(unread, self.received);
            self.file.extend(unread.drain(..ready));
            self.received += ready as u64;
            self.complete = complete;
            instance.set_link(Link::Transfer { total_bytes: None, read_bytes: self.received });
            if complete && !self.promise.payload.end(self.received, unread)? {
                return Err("an image is complete and its end is not there".into());
            }
        }
        if self.complete && self.loader.is_none() {
            instance.discard_data();
            self.begin_loading(instance, false);
            return Ok(false);
        }
        let Some(loader) = &mut self.loader else { return Ok(false) };
        let count = most.min(self.file.len() - self.loaded);
        let whole = loader.feed(&self.file[self.loaded..self.loaded + count]);
        self.loaded += count;
        if !whole.map_err(|error| format!("an image can't be loaded: {error}"))? {
            return match self.complete && self.loaded == self.file.len() {
                true => Err("an image ends early".into()),
                false => Ok(false),
            };
        }
        if !self.complete {
            return Ok(false);
        }
        let loader = self.loader.take().expect("it was there just now");
        let loaded = loader.finish().map_err(|error| format!("an image is not complete: {error}"))?;
        instance.install_image(loaded, self.promise.id, self.promise.offset)?;
        Ok(true)
    }
}

/// Runs the first request of `input` and drops it; none if it has not come whole.
fn run_one(
    instance: &mut Instance,
    session: &mut Session,
    parser: &mut RequestParser,
    input: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Result<Option<Flow>, String> {
    let request = parser.next(input, 0, LIMITS).map_err(|error| error.to_string())?;
    let Some(request) = request else { return Ok(None) };
    let bytes = &input[..request.len];
    let spans = parser.spans(&request);
    let planned = Planned::new(request, bytes, spans, &instance.keyspace, session.db(), &mut None);
    session.admission = instance.admission(session);
    let flow = instance.execute(session, &planned, Args::new(bytes, spans, planned.hash), bytes, out);
    if flow != Flow::Postpone {
        input.drain(..request.len);
    }
    Ok(Some(flow))
}

pub fn encode(request: &[Vec<u8>]) -> Vec<u8> {
    let words: Vec<&[u8]> = request.iter().map(Vec::as_slice).collect();
    let mut bytes = Vec::new();
    repld::resp::append_request(&mut bytes, &words);
    bytes
}

pub fn port_of(index: usize) -> u16 {
    index as u16 + 1
}

pub fn address_of(index: usize) -> Upstream {
    Upstream { host: "127.0.0.1".into(), port: port_of(index) }
}

/// How much of what is on its way still arrives when the sender goes.
fn arriving(length: usize, random: &mut Random) -> usize {
    if random.chance(50) { length } else { random.below(length + 1) }
}

fn close_replica_end(wires: &mut Wires, id: usize, random: &mut Random) {
    let wire = wires.get_mut(&id).expect("a link has its wire");
    wire.up.end(arriving(wire.up.len(), random));
    wire.has_replica = false;
    forget_unused(wires, id);
}

fn close_upstream_end(wires: &mut Wires, id: usize, random: &mut Random) {
    let wire = wires.get_mut(&id).expect("a connection has its wire");
    wire.down.end(arriving(wire.down.len(), random));
    wire.has_upstream = false;
    forget_unused(wires, id);
}

fn forget_unused(wires: &mut Wires, id: usize) {
    if wires.get(&id).is_some_and(|wire| !wire.has_replica && !wire.has_upstream) {
        wires.remove(&id);
    }
}

pub fn backlog_file(directory: &Path) -> PathBuf {
    directory.join(repld::instance::BACKLOG_FILE)
}
