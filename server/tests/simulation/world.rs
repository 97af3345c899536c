//! All nodes, the network between them, time, and what happens: everything from one seed.

use std::fmt::Arguments;
use std::fs;
use std::hash::Hasher;
use std::path::Path;

use repld::replication::Link;
use siphasher::sip::SipHasher13;

use crate::check::{Kept, Ledgers, check_acknowledgements, check_equal};
use crate::network::Wire;
use crate::node::{Checked, Connection, DATABASES, Figures, Node, Uplink, Wires, address_of, backlog_file};
use crate::random::Random;
use repld::client::{ClientKind, Session};

/// A node does what is to be done from time to time so often, in milliseconds.
const TICK_MS: i64 = 100;

/// What is printed of the events before a failure.
const LAST_EVENTS: usize = 60;

/// Turns after which everything must have become quiet.
const QUIET_TURNS_MAX: usize = 6000;

/// What happened, as a hash, and as text where somebody reads it.
pub struct Trace {
    hash: SipHasher13,
    buffer: String,
    lines: Option<Vec<String>>,
}

impl Trace {
    fn add(&mut self, now_ms: i64, event: Arguments) {
        use std::fmt::Write;
        self.buffer.clear();
        write!(self.buffer, "{now_ms} {event}").expect("a string takes everything");
        self.hash.write(self.buffer.as_bytes());
        if let Some(lines) = &mut self.lines {
            lines.push(self.buffer.clone());
        }
    }
}

#[derive(Clone, Copy)]
enum Event {
    Network,
    Client,
    Walk,
    Save,
    Leap,
    Start,
    Hold,
    Cut,
    Lose,
    Redirect,
    Promote,
    Failover,
    Kill,
}

/// How often each event happens, as shares of their sum. They differ from seed to seed, and what goes wrong may not at
/// all: where everything goes wrong all the time, nothing ever gets far.
struct Rates([(Event, usize); 13]);

impl Rates {
    fn new(random: &mut Random) -> Rates {
        let mut up_to = |most: usize| if random.chance(40) { 0 } else { 1 + random.below(most) };
        Rates([
            (Event::Network, 1000 + up_to(1000)),
            (Event::Client, 50 + up_to(200)),
            (Event::Walk, 50 + up_to(50)),
            (Event::Save, up_to(5)),
            (Event::Leap, up_to(8)),
            (Event::Start, 8),
            (Event::Hold, up_to(10)),
            (Event::Cut, up_to(30)),
            (Event::Lose, up_to(2)),
            (Event::Redirect, up_to(8)),
            (Event::Promote, up_to(4)),
            (Event::Failover, up_to(6)),
            (Event::Kill, up_to(4)),
        ])
    }

    fn choose(&self, random: &mut Random) -> Event {
        let mut left = random.below(self.0.iter().map(|(_, rate)| rate).sum());
        for (event, rate) in self.0 {
            if left < rate {
                return event;
            }
            left -= rate;
        }
        unreachable!("less than the sum was drawn")
    }
}

pub struct World {
    seed: u64,
    random: Random,
    rates: Rates,
    now_ms: i64,
    /// Less than so much time passes from one event to the next, in milliseconds.
    step_ms: usize,
    nodes: Vec<Node>,
    wires: Wires,
    wires_made: usize,
    ledgers: Ledgers,
    trace: Trace,
    figures: Figures,
    values: u64,
    /// Everything has its turn all the time: that is not worth telling.
    quiet: bool,
}

/// What became of one seed.
pub struct Outcome {
    pub seed: u64,
    pub trace: u64,
    pub figures: Figures,
    pub result: Checked<()>,
    /// The last events, if they were kept.
    pub events: Vec<String>,
}

/// Runs one seed in a directory of its own.
pub fn run(seed: u64, directory: &Path, keep_events: bool) -> Outcome {
    let mut world = World::new(seed, directory, keep_events);
    let result = world.live();
    let mut events = world.trace.lines.take().unwrap_or_default();
    events.drain(..events.len().saturating_sub(LAST_EVENTS));
    Outcome { seed, trace: world.trace.hash.finish(), figures: world.figures, result, events }
}

impl World {
    fn new(seed: u64, directory: &Path, keep_events: bool) -> World {
        let mut random = Random::new(seed);
        let count = 3 + random.below(4);
        let node = |index: usize| {
            let directory = directory.join(index.to_string());
            fs::create_dir_all(&directory).expect("a directory for the backlog");
            Node::new(index, directory, &mut random)
        };
        let nodes = (0..count).map(node).collect();
        let rates = Rates::new(&mut random);
        let step_ms = random.pick(&[2, 5, 20]);
        World {
            seed,
            nodes,
            random,
            rates,
            step_ms,
            now_ms: 1_700_000_000_000,
            wires: Wires::new(),
            wires_made: 0,
            ledgers: Ledgers::default(),
            trace: Trace { hash: SipHasher13::new(), buffer: String::new(), lines: keep_events.then(Vec::new) },
            figures: Figures::default(),
            values: 0,
            quiet: false,
        }
    }

    fn live(&mut self) -> Checked<()> {
        for index in 0..self.nodes.len() {
            self.nodes[index].upstream = match index {
                0 => None,
                _ if self.random.chance(80) => Some(self.random.below(index)),
                _ => None,
            };
        }
        (0..self.nodes.len()).try_for_each(|index| self.start(index))?;
        // Sometimes all links are up before anything goes wrong.
        for _ in 0..self.random.pick(&[0, 10, 40]) {
            self.quiet_turn()?;
        }
        for _ in 0..400 + self.random.below(2000) {
            self.event()?;
        }
        let root = self.settle_on_one()?;
        self.quiet = true;
        self.become_quiet(root)?;
        // What the stream has selected is known everywhere, and what expires does so everywhere.
        for _ in 0..8 {
            self.client_turn(root)?;
        }
        self.now_ms += 3000;
        self.become_quiet(root)?;
        (0..self.nodes.len()).try_for_each(|index| check_equal(&self.nodes[root], &self.nodes[index]))
    }

    // --- What happens ---

    fn event(&mut self) -> Checked<()> {
        self.now_ms += self.random.below(self.step_ms) as i64;
        let node = self.random.below(self.nodes.len());
        match self.rates.choose(&mut self.random) {
            Event::Network => self.network_turn()?,
            Event::Client => self.client_turn(node)?,
            Event::Walk => self.walk_turn(node)?,
            Event::Save => {
                self.trace.add(self.now_ms, format_args!("node {node} saves"));
                self.nodes[node].begin_walk(true);
            }
            Event::Leap => self.now_ms += self.random.below(1500) as i64,
            Event::Start => self.start(node)?,
            Event::Hold => self.hold(),
            Event::Cut => self.cut(),
            Event::Lose => self.lose(),
            Event::Redirect => self.redirect(node)?,
            Event::Promote => self.promote(node)?,
            Event::Failover => self.fail_over_to(node)?,
            Event::Kill => self.kill(node)?,
        }
        self.pass_time()
    }

    /// Ticks, timeouts and attempts to connect that are due.
    fn pass_time(&mut self) -> Checked<()> {
        for index in 0..self.nodes.len() {
            let now_ms = self.now_ms;
            let node = &mut self.nodes[index];
            let Some(instance) = &mut node.instance else { continue };
            instance.set_now(now_ms);
            if node.next_tick_ms <= now_ms {
                node.next_tick_ms = now_ms + TICK_MS;
                instance.tick();
                self.after(index)?;
            }
            match &self.nodes[index].uplink {
                Uplink::Waiting(until_ms) if *until_ms <= now_ms => self.connect(index)?,
                Uplink::Linked(linked)
                    if self.nodes[index]
                        .instance
                        .as_ref()
                        .is_some_and(|instance| linked.follower.deadline_ms(instance) <= now_ms) =>
                {
                    self.link_turn(index, 0)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn connect(&mut self, index: usize) -> Checked<()> {
        let upstream = self.nodes[index].instance.as_ref().and_then(|instance| {
            instance.replication.following().map(|following| usize::from(following.upstream.port) - 1)
        });
        let upstream = upstream.filter(|upstream| self.nodes[*upstream].instance.is_some());
        let wire = upstream.map(|upstream| {
            let id = self.wires_made;
            self.wires_made += 1;
            let mut wire = Wire::new(index, upstream);
            wire.reached = self.nodes[index].instance.as_ref().map_or(0, |instance| instance.replication.offset);
            self.wires.insert(id, wire);
            let node = &mut self.nodes[upstream];
            let instance = node.instance.as_mut().expect("it was there just now");
            instance.set_now(self.now_ms);
            let client = instance.connect("127.0.0.1:5".into(), "127.0.0.1:6".into(), ClientKind::Normal);
            node.connections.push(Connection::new(id, Session::new(client, true)));
            id
        });
        self.trace.add(self.now_ms, format_args!("node {index} connects to {upstream:?}"));
        self.nodes[index].connect(wire, self.now_ms);
        self.after(index)
    }

    /// Something goes on at one end of one connection.
    fn network_turn(&mut self) -> Checked<()> {
        if self.wires.is_empty() {
            return Ok(());
        }
        let nth = self.random.below(self.wires.len());
        let (&id, wire) = self.wires.iter().nth(nth).expect("there are so many");
        let (replica, upstream, has_replica, has_upstream) =
            (wire.replica, wire.upstream, wire.has_replica, wire.has_upstream);
        let most = self.random.mostly_small(1, 1500);
        if self.random.chance(50) {
            if has_replica { self.link_turn(replica, most) } else { Ok(()) }
        } else if has_upstream {
            self.connection_turn(upstream, id, most)
        } else {
            Ok(())
        }
    }

    fn link_turn(&mut self, index: usize, most: usize) -> Checked<()> {
        if !self.quiet {
            self.trace.add(self.now_ms, format_args!("link of node {index} takes {most}"));
        }
        let node = &mut self.nodes[index];
        if let Some(instance) = &mut node.instance {
            instance.set_now(self.now_ms);
        }
        node.turn_link(&mut self.wires, most, self.now_ms, &mut self.random, &mut self.figures)?;
        self.after(index)
    }

    fn connection_turn(&mut self, index: usize, wire: usize, most: usize) -> Checked<()> {
        let node = &mut self.nodes[index];
        let Some(instance) = &mut node.instance else { return Ok(()) };
        instance.set_now(self.now_ms);
        let Some(place) = node.connections.iter().position(|connection| connection.wire == wire) else {
            return Ok(());
        };
        let goes_on = node.turn_connection(place, &mut self.wires, most, self.now_ms, &mut self.figures)?;
        if !self.quiet || !goes_on {
            self.trace.add(self.now_ms, format_args!("wire {wire} at node {index} moves {most}, goes on: {goes_on}"));
        }
        if !goes_on {
            node.close_connection(place, &mut self.wires, &mut self.random);
        }
        self.after(index)
    }

    fn walk_turn(&mut self, index: usize) -> Checked<()> {
        let budget_bytes = self.random.mostly_small(1, 600);
        let node = &mut self.nodes[index];
        if let Some(instance) = &mut node.instance {
            instance.set_now(self.now_ms);
        }
        if node.has_walk() {
            node.turn_walk(budget_bytes);
        } else {
            node.begin_walk(false);
        }
        if node.has_walk() && !self.quiet {
            self.trace.add(self.now_ms, format_args!("node {index} is walked by {budget_bytes}"));
        }
        self.after(index)
    }

    /// Carries out what the instance has asked for, and looks whether all is well.
    fn after(&mut self, index: usize) -> Checked<()> {
        if self.nodes[index].settle(&mut self.wires, &mut self.random, self.now_ms) {
            self.trace.add(self.now_ms, format_args!("node {index} relinks"));
        }
        self.ledgers.check(&self.nodes[index])?;
        check_acknowledgements(&self.nodes[index], &self.wires)
    }

    // --- What clients do ---

    fn client_turn(&mut self, index: usize) -> Checked<()> {
        if self.nodes[index].script.is_empty() {
            let script = self.script();
            self.nodes[index].script.extend(script);
        }
        self.ask_next(index)
    }

    fn ask_next(&mut self, index: usize) -> Checked<()> {
        let node = &mut self.nodes[index];
        if let Some(instance) = &mut node.instance {
            instance.set_now(self.now_ms);
        }
        let Some(request) = node.script.front().cloned() else { return Ok(()) };
        if let Some(executed) = node.ask(&request) {
            node.script.pop_front();
            self.figures.commands += 1;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace("\r\n", " ");
            let request: Vec<String> = request.iter().map(|word| text(word)).collect();
            let reply = text(&executed.reply);
            self.trace.add(self.now_ms, format_args!("node {index} is asked {request:?}: {reply} {:?}", executed.flow));
        }
        self.after(index)
    }

    /// One request, or a transaction of some.
    fn script(&mut self) -> Vec<Vec<Vec<u8>>> {
        if !self.random.chance(12) {
            return vec![self.request(true)];
        }
        let mut script = vec![words(&["MULTI"])];
        script.extend((0..1 + self.random.below(4)).map(|_| self.request(false)));
        script.push(words(&[if self.random.chance(90) { "EXEC" } else { "DISCARD" }]));
        script
    }

    fn request(&mut self, may_wait: bool) -> Vec<Vec<u8>> {
        let random = &mut self.random;
        let key = format!("k{}", random.below(12));
        let other = format!("k{}", random.below(12));
        let counter = format!("c{}", random.below(3));
        let db = random.below(DATABASES).to_string();
        let soon = (1 + random.below(1200)).to_string();
        self.values += 1;
        let value = format!("{}:{}", self.values, "x".repeat(random.mostly_small(0, 200)));
        let (list, set, hash, sorted) = ("l", "s", "h", "z");
        match random.below(130) {
            0..30 => words(&["SET", &key, &value]),
            30..38 => words(&["SET", &key, &value, "PX", &soon]),
            38..50 => words(&["INCR", &counter]),
            50..56 => words(&["APPEND", &key, "+"]),
            56..62 => words(&["DEL", &key, &other]),
            62..68 => words(&["PEXPIRE", &key, &soon]),
            68..70 => words(&["PERSIST", &key]),
            70..76 => words(&["GET", &key]),
            76..86 => words(&["SELECT", &db]),
            86..88 => words(&["MOVE", &key, &db]),
            88..90 => words(&["RENAME", &key, &other]),
            90 => words(&["FLUSHDB"]),
            91 => words(&["SWAPDB", &db, "0"]),
            92 => words(&["FLUSHALL"]),
            93 => words(&["GETEX", &key, "PX", &soon]),
            94 => words(&["SETRANGE", &key, "3", "abc"]),
            95 => words(&["INCRBYFLOAT", &counter, "1.5"]),
            96..98 if may_wait => {
                self.figures.waits += 1;
                words(&["WAIT", "1", &soon])
            }
            96..100 => words(&["MSET", &key, &value, &other, "m"]),
            100..104 => words(&["RPUSH", list, &value]),
            104..107 => words(&["LPOP", list]),
            107 => words(&["LMOVE", list, "l2", "LEFT", "RIGHT"]),
            108 if may_wait => words(&["BLPOP", "l2", "0.2"]),
            109..113 => words(&["SADD", set, &key, &other]),
            113..115 => words(&["SPOP", set]),
            115..119 => words(&["HSET", hash, &key, &value]),
            119..121 => words(&["HDEL", hash, &key]),
            121 => words(&["HINCRBY", hash, "count", "1"]),
            122..126 => words(&["ZADD", sorted, &soon, &key]),
            126 => words(&["ZPOPMIN", sorted]),
            127 => words(&["PEXPIRE", random.pick(&[list, set, hash, sorted]), &soon]),
            128 => words(&["DEL", random.pick(&[list, set, hash, sorted])]),
            _ => words(&["COPY", &key, &other, "REPLACE"]),
        }
    }

    // --- What goes wrong ---

    /// One direction of a connection is slow.
    fn hold(&mut self) {
        let until_ms = self.now_ms + self.random.mostly_small(1, 600) as i64;
        self.with_a_wire(
            "is held",
            |wire, random| {
                if random.chance(50) { wire.up.hold(until_ms) } else { wire.down.hold(until_ms) }
            },
        );
    }

    /// A connection ends for both sides, each of which may still hear some of what was sent.
    fn cut(&mut self) {
        self.with_a_wire("is cut", |wire, random| {
            wire.up.end(random.below(wire.up.len() + 1));
            wire.down.end(random.below(wire.down.len() + 1));
        });
    }

    /// Nothing gets through any more, and one or both sides are not told.
    fn lose(&mut self) {
        self.with_a_wire("is lost", |wire, random| {
            let told = random.below(3);
            if told == 0 {
                wire.up.end(0)
            } else {
                wire.up.hold(i64::MAX)
            }
            if told == 1 { wire.down.end(0) } else { wire.down.hold(i64::MAX) }
        });
    }

    fn with_a_wire(&mut self, what: &str, act: impl FnOnce(&mut Wire, &mut Random)) {
        if self.wires.is_empty() {
            return;
        }
        let nth = self.random.below(self.wires.len());
        let (id, wire) = self.wires.iter_mut().nth(nth).expect("there are so many");
        self.trace.add(self.now_ms, format_args!("wire {id} {what}"));
        act(wire, &mut self.random);
    }

    fn kill(&mut self, index: usize) -> Checked<()> {
        let node = &mut self.nodes[index];
        let Some(instance) = &node.instance else { return Ok(()) };
        self.trace.add(self.now_ms, format_args!("node {index} is killed"));
        self.figures.kills += 1;
        let kept = Kept::by(instance);
        node.kill(&mut self.wires, &mut self.random);
        if let Some(kept) = kept {
            kept.check_file(index, &backlog_file(&node.directory))?;
        }
        self.ledgers.check(&self.nodes[index])
    }

    /// Starts a node that is not there.
    fn start(&mut self, index: usize) -> Checked<()> {
        if self.nodes[index].instance.is_some() {
            return Ok(());
        }
        if self.random.chance(20) {
            self.nodes[index].dump = None;
        }
        if self.random.chance(30) {
            self.nodes[index].upstream = self.choose_upstream(index);
        }
        let with = self.nodes[index].dump.is_some();
        let upstream = self.nodes[index].upstream;
        self.trace.add(self.now_ms, format_args!("node {index} starts, dump: {with}, upstream: {upstream:?}"));
        self.figures.restarts += 1;
        self.nodes[index].start(self.seed, self.now_ms)?;
        self.after(index)
    }

    /// Another node that does not follow this one, not even through others; more often than not one of the same tree.
    fn choose_upstream(&mut self, index: usize) -> Option<usize> {
        let root = self.root_of(index);
        for _ in 0..1 + self.random.below(4) {
            let candidate = self.random.below(self.nodes.len());
            if self.root_of(candidate) == root && !self.follows(candidate, index) {
                return Some(candidate);
            }
        }
        let candidate = self.random.below(self.nodes.len());
        (!self.follows(candidate, index)).then_some(candidate)
    }

    fn root_of(&self, index: usize) -> usize {
        std::iter::successors(Some(index), |node| self.nodes[*node].upstream).last().expect("the first is there")
    }

    /// Whether `node` is `above` or below it.
    fn follows(&self, node: usize, above: usize) -> bool {
        std::iter::successors(Some(node), |node| self.nodes[*node].upstream).any(|node| node == above)
    }

    fn redirect(&mut self, index: usize) -> Checked<()> {
        let Some(upstream) = self.choose_upstream(index) else { return Ok(()) };
        self.follow(index, upstream)
    }

    fn follow(&mut self, index: usize, upstream: usize) -> Checked<()> {
        let node = &mut self.nodes[index];
        let Some(instance) = &mut node.instance else { return Ok(()) };
        instance.set_now(self.now_ms);
        node.upstream = Some(upstream);
        let address = address_of(upstream);
        if instance.replication.following().is_some_and(|following| following.upstream == address) {
            return Ok(());
        }
        self.trace.add(self.now_ms, format_args!("node {index} follows {upstream}"));
        self.figures.redirections += 1;
        instance.follow(address);
        self.after(index)
    }

    fn promote(&mut self, index: usize) -> Checked<()> {
        let node = &mut self.nodes[index];
        let Some(instance) = &mut node.instance else { return Ok(()) };
        instance.set_now(self.now_ms);
        node.upstream = None;
        if instance.replication.is_master() {
            return Ok(());
        }
        self.trace.add(self.now_ms, format_args!("node {index} is promoted"));
        self.figures.promotions += 1;
        let (old, offset) = (instance.replication.history.replid, instance.replication.offset);
        instance.unfollow();
        if instance.replication.history.previous != Some((old, offset)) {
            return Err(format!("node {index} was promoted at {offset} and says {:?}", instance.replication.history));
        }
        self.after(index)
    }

    /// Promotes a node and lets most of its tree follow it, at once or one below the other.
    fn fail_over_to(&mut self, index: usize) -> Checked<()> {
        let root = self.root_of(index);
        let tree: Vec<usize> = (0..self.nodes.len()).filter(|node| self.root_of(*node) == root).collect();
        if root == index || self.nodes[index].instance.is_none() {
            return Ok(());
        }
        self.promote(index)?;
        let mut placed = vec![index];
        for node in tree {
            if node != index && self.random.chance(80) {
                let above = self.random.pick(&placed);
                if !self.follows(above, node) {
                    self.follow(node, above)?;
                    placed.push(node);
                }
            }
        }
        Ok(())
    }

    // --- Quiet ---

    /// Starts everyone, and puts them into one tree; returns its root.
    fn settle_on_one(&mut self) -> Checked<usize> {
        for index in 0..self.nodes.len() {
            self.start(index)?;
        }
        let root = self.random.below(self.nodes.len());
        self.promote(root)?;
        let mut placed = vec![root];
        for index in (0..self.nodes.len()).filter(|index| *index != root) {
            let above = self.random.pick(&placed);
            self.follow(index, above)?;
            placed.push(index);
        }
        Ok(root)
    }

    /// Nothing goes wrong any more. In the end all have what the root has.
    fn become_quiet(&mut self, root: usize) -> Checked<()> {
        self.trace.add(self.now_ms, format_args!("quiet, the root is {root}"));
        // A transaction that was begun is ended.
        while !self.nodes[root].script.is_empty() {
            self.ask_next(root)?;
            self.quiet_turn()?;
        }
        for _ in 0..QUIET_TURNS_MAX {
            self.quiet_turn()?;
            if self.is_quiet(root) {
                return Ok(());
            }
        }
        let states: Vec<String> = self.nodes.iter().map(describe).collect();
        Err(format!("it never becomes quiet; the root is {root}; {}", states.join("; ")))
    }

    fn quiet_turn(&mut self) -> Checked<()> {
        let ids: Vec<(usize, usize, usize)> =
            self.wires.iter().map(|(id, wire)| (*id, wire.replica, wire.upstream)).collect();
        for (id, replica, upstream) in ids {
            if self.wires.get(&id).is_some_and(|wire| wire.has_upstream) {
                self.connection_turn(upstream, id, 4096)?;
            }
            if self.wires.get(&id).is_some_and(|wire| wire.has_replica) {
                self.link_turn(replica, 4096)?;
            }
        }
        for index in 0..self.nodes.len() {
            self.walk_turn(index)?;
        }
        // Where nobody has anything to hear, the next thing to happen is a matter of time.
        let now_ms = self.now_ms;
        let is_idle = self.wires.values().all(|wire| wire.up.is_idle(now_ms) && wire.down.is_idle(now_ms));
        self.now_ms += if is_idle { 50 } else { 5 };
        self.pass_time()
    }

    fn is_quiet(&self, root: usize) -> bool {
        let Some(wanted) = self.nodes[root].instance.as_ref().map(|instance| instance.replication.offset) else {
            return false;
        };
        let linked = |instance: &repld::instance::Instance| {
            instance.replication.following().is_none_or(|following| following.link == Link::Up)
        };
        let there = |node: &Node| {
            node.instance.as_ref().is_some_and(|instance| linked(instance) && instance.replication.offset == wanted)
        };
        // A link may be up whose upstream is about to be another's.
        let same = |node: &Node| {
            let id = |node: &Node| node.instance.as_ref().map(|instance| instance.replication.history.replid);
            id(node) == id(&self.nodes[root])
        };
        self.nodes.iter().all(|node| there(node) && same(node))
    }
}

fn words(words: &[&str]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

fn describe(node: &Node) -> String {
    let Some(instance) = &node.instance else { return format!("node {} is not there", node.index) };
    let replication = &instance.replication;
    let link = replication.following().map(|following| (following.upstream.port - 1, following.link));
    format!("node {}: {} at {}, follows {link:?}", node.index, replication.history.replid, replication.offset)
}
