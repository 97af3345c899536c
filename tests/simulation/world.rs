//! The group, its clients, the wire between its nodes and what befalls them. Everything that can happen is a [`Happening`], and
//! the same happenings from the same beginning lead to the same end.

use crate::node::{HandingOver, Link, Node, Place, Process, Upstream};
use crate::tool::{Command, Ending, Tool};

/// Why a run is not as it must be.
pub type Checked<T> = Result<T, String>;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Happening {
    /// A client writes, and is told that it did.
    Write(Place),
    Deliver(Place),
    Connect(Place),
    Synced(Place),
    Loaded(Place),
    /// A master that was told to hand over demotes itself.
    Demote(Place),
    TakeRequest(Place),
    TakeReply(Place),
    /// `CLIENT PAUSE` is over.
    PauseEnds(Place),
    Begin(Command),
    /// The tool goes one step on; late: what it waits for has not come in time.
    Tool {
        late: bool,
    },
    Fault(Fault),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    Kill(Place),
    /// `replctl kill-master`, which notes where the master was.
    KillMaster(Place),
    Stop(Place),
    Continue(Place),
    CutLink(Place),
    CrashTool,
    /// What a person does without the tool.
    RestartByHand(Place),
    EmptyMaster(Place),
    FollowByHand(Place, Option<Place>),
    LoseDisk(Place),
}

impl Fault {
    /// Whether it goes behind the tool's back.
    pub fn is_strange(self) -> bool {
        matches!(self, Self::RestartByHand(_) | Self::EmptyMaster(_) | Self::FollowByHand(..) | Self::LoseDisk(_))
    }
}

/// What the tool has written down: `run.json`, and the note of `kill-master` in the journal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    pub upstreams: Vec<Option<Place>>,
    /// The process that it started for each node.
    pub started: Vec<Option<u8>>,
    pub replid: Option<u8>,
    pub before_kill: Option<(Place, u8, usize)>,
    /// Who is about to be the master, whom the others follow then, and which history that node has until it is (none: it is
    /// one already).
    pub promoting: Option<(Place, Vec<Option<Place>>, Option<u8>)>,
}

impl Record {
    pub fn master(&self) -> Place {
        self.upstreams.iter().position(Option::is_none).expect("a group has a master")
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub nodes: Vec<Node>,
    pub record: Record,
    pub tool: Option<Tool>,
    /// How its last run ended.
    pub last: Option<Ending>,
    /// It sees all nodes at one moment.
    pub looks_at_once: bool,
    /// The writes that clients were told of.
    pub acknowledged: Vec<u8>,
    /// What befell a node since the tool looked at it.
    pub touched: Vec<bool>,
    /// The acknowledged writes of the node that the tool promoted last, as long as nothing else befell that.
    pub promised: Option<(Place, Vec<u8>)>,
    /// Something happened that may cost data however well the tool works.
    pub is_lossy: bool,
    next_replid: u8,
    next_write: u8,
}

impl World {
    /// A group that is whole. `upstreams` has one node without.
    pub fn new(upstreams: &[Option<Place>], keeps_data: &[bool], priorities: &[u8]) -> World {
        let node = |place: Place| Node::new(keeps_data[place], priorities[place], upstreams[place]);
        World {
            nodes: (0..upstreams.len()).map(node).collect(),
            record: Record {
                upstreams: upstreams.to_vec(),
                started: vec![Some(1); upstreams.len()],
                replid: Some(0),
                before_kill: None,
                promoting: None,
            },
            tool: None,
            last: None,
            looks_at_once: false,
            acknowledged: Vec::new(),
            touched: vec![false; upstreams.len()],
            promised: None,
            is_lossy: keeps_data.contains(&false),
            next_replid: 1,
            next_write: 0,
        }
    }

    pub fn places(&self) -> std::ops::Range<Place> {
        0..self.nodes.len()
    }

    /// What happens by itself: nobody writes, nothing breaks, the tool does nothing.
    pub fn natural(&self) -> Vec<Happening> {
        let mut all = Vec::new();
        for place in self.places() {
            let node = &self.nodes[place];
            if !node.is_running() {
                if self.can_connect(place) {
                    all.push(Happening::Connect(place));
                }
                continue;
            }
            if node.is_loading {
                all.push(Happening::Loaded(place));
                continue;
            }
            match &node.link {
                Link::Up { coming, has_ended } if !coming.is_empty() || *has_ended => {
                    all.push(Happening::Deliver(place))
                }
                Link::Syncing if self.feeder(place).is_some_and(|above| self.can_feed(above)) => {
                    all.push(Happening::Synced(place));
                }
                Link::Down if self.can_connect(place) => all.push(Happening::Connect(place)),
                _ => {}
            }
            if matches!(node.handing_over, Some(HandingOver::Waiting(_))) {
                all.push(Happening::Demote(place));
            }
            if node.request.is_some() {
                all.push(Happening::TakeRequest(place));
            }
            if node.reply.is_some() {
                all.push(Happening::TakeReply(place));
            }
            if node.is_paused && self.tool.is_none() {
                all.push(Happening::PauseEnds(place));
            }
        }
        all
    }

    /// The node that a replica follows, if that is one of the group.
    fn feeder(&self, place: Place) -> Option<Place> {
        match self.nodes[place].upstream {
            Some(Upstream::Node(above)) if above != place => Some(above),
            _ => None,
        }
    }

    /// Whether a replica has not read yet that its stream has ended, with its upstream.
    pub fn reads_the_dead(&self, place: Place) -> bool {
        matches!(self.nodes[place].link, Link::Up { has_ended: true, .. })
    }

    /// Whether more is on its way to a replica: its own stream has ended unread, or that of one that feeds it or is about to, or one of
    /// those has more.
    pub fn still_reads(&self, place: Place) -> bool {
        let above = |place: &Place| {
            let is_fed = matches!(self.nodes[*place].link, Link::Up { has_ended: false, .. });
            let is_about_to = || self.nodes[*place].link == Link::Down && self.can_connect(*place);
            self.feeder(*place).filter(|above| !self.nodes[*above].is_master() && (is_fed || is_about_to()))
        };
        let chain = std::iter::successors(Some(place), above).take(self.nodes.len());
        let own = self.nodes[place].offset();
        chain.into_iter().any(|above| self.reads_the_dead(above) || self.nodes[above].offset() > own)
    }

    /// Whether a server answers PSYNC: a replica without a link turns everybody away.
    fn can_feed(&self, above: Place) -> bool {
        let node = &self.nodes[above];
        node.is_running() && !node.is_loading && (node.is_master() || node.is_linked())
    }

    fn can_connect(&self, place: Place) -> bool {
        let node = &self.nodes[place];
        if !node.is_running() || node.is_loading {
            return false;
        }
        match (node.handing_over, self.feeder(place)) {
            // A stopped process has a socket, too.
            (Some(HandingOver::InProgress { to, asked }), _) => {
                !asked && self.nodes[to].is_alive() && self.nodes[to].request.is_none()
            }
            (_, None) => self.haunter(place).is_some_and(|old| node.can_resume(&self.nodes[old])),
            (_, Some(above)) => self.can_feed(above) && !self.is_turned_away(place, above),
        }
    }

    /// The dead node whose ghost a replica follows, as long as there is one.
    fn haunter(&self, place: Place) -> Option<Place> {
        match (self.nodes[place].upstream, self.tool.as_ref()?.ghost) {
            (Some(Upstream::GhostOf(old)), Some((ghost, _))) if old == ghost => Some(old),
            _ => None,
        }
    }

    /// Two that follow each other have no beginning.
    fn is_turned_away(&self, place: Place, above: Place) -> bool {
        self.nodes[above].upstream == Some(Upstream::Node(place))
    }

    pub fn apply(&mut self, happening: &Happening) -> Checked<()> {
        match happening {
            Happening::Write(place) => self.write(*place),
            Happening::Deliver(place) => self.deliver(*place),
            Happening::Connect(place) => self.connect(*place),
            Happening::Synced(place) => self.synced(*place),
            Happening::Loaded(place) => {
                self.nodes[*place].is_loading = false;
                // Nobody waits for one that loads, and who looked before cannot see that it is through.
                self.touched[*place] = true;
            }
            Happening::Demote(place) => self.demote(*place),
            Happening::TakeRequest(place) => self.take_request(*place),
            Happening::TakeReply(place) => self.take_reply(*place),
            Happening::PauseEnds(place) => self.nodes[*place].is_paused = false,
            Happening::Begin(command) => {
                // Force gives up what only a node has that is away.
                self.is_lossy |= matches!(command, Command::Promote { force: true, .. });
                self.tool = Some(Tool::new(*command, self));
            }
            Happening::Tool { late } => self.tool_step(*late)?,
            Happening::Fault(fault) => self.fault(*fault),
        }
        crate::check::always(self)
    }

    fn write(&mut self, place: Place) {
        let write = self.next_write;
        self.next_write += 1;
        self.nodes[place].data.push(write);
        self.acknowledged.push(write);
        self.send(place, write);
    }

    pub fn writes(&self) -> u8 {
        self.next_write
    }

    fn send(&mut self, from: Place, write: u8) {
        for node in self.nodes.iter_mut().filter(|node| node.upstream == Some(Upstream::Node(from))) {
            if let Link::Up { coming, has_ended: false } = &mut node.link {
                coming.push(write);
            }
        }
    }

    fn deliver(&mut self, place: Place) {
        let Link::Up { coming, .. } = &mut self.nodes[place].link else { return };
        if coming.is_empty() {
            self.nodes[place].disconnect();
            return;
        }
        let write = coming.remove(0);
        self.nodes[place].data.push(write);
        self.send(place, write);
    }

    fn connect(&mut self, place: Place) {
        if let Some(HandingOver::InProgress { to, .. }) = self.nodes[place].handing_over {
            self.nodes[place].handing_over = Some(HandingOver::InProgress { to, asked: true });
            self.nodes[to].request = Some(place);
            return;
        }
        if let Some(old) = self.haunter(place) {
            self.resume(place, old);
            return;
        }
        let above = self.feeder(place).expect("who connects follows a node");
        if self.nodes[place].can_resume(&self.nodes[above]) {
            self.resume(place, above);
        } else {
            self.nodes[place].link = Link::Syncing;
            self.nodes[place].has_data = false;
            self.end_links_to(place);
        }
    }

    /// Goes on where it is, from a node or from what that left.
    pub fn resume(&mut self, place: Place, above: Place) {
        let upstream = self.nodes[above].clone();
        let offset = self.nodes[place].offset();
        let before = self.nodes[place].replid;
        if before != upstream.replid {
            self.nodes[place].replid = upstream.replid;
            self.nodes[place].former = Some((before, offset));
            self.end_links_to(place);
        }
        let node = &mut self.nodes[place];
        node.link = Link::Up { coming: upstream.beyond(offset), has_ended: false };
        node.was_up = true;
    }

    fn synced(&mut self, place: Place) {
        let above = self.feeder(place).expect("who is synchronized follows a node");
        let upstream = self.nodes[above].clone();
        let node = &mut self.nodes[place];
        (node.data, node.replid, node.former) = (upstream.data, upstream.replid, upstream.former);
        node.backlog_start = node.data.len();
        (node.has_data, node.was_up) = (true, true);
        node.link = Link::Up { coming: Vec::new(), has_ended: false };
    }

    /// Its replicas read what was sent, and then the end.
    fn end_links_to(&mut self, place: Place) {
        for below in self.places() {
            let node = &mut self.nodes[below];
            if node.upstream != Some(Upstream::Node(place)) {
                continue;
            }
            match &mut node.link {
                Link::Up { has_ended, .. } => *has_ended = true,
                Link::Syncing => node.link = Link::Down,
                Link::Down => {}
            }
        }
    }

    /// `REPLICAOF NO ONE`, and what does the same.
    pub fn become_master(&mut self, place: Place) {
        let replid = self.next_replid;
        self.next_replid += 1;
        let node = &mut self.nodes[place];
        node.disconnect();
        node.former = Some((node.replid, node.offset()));
        node.replid = replid;
        node.upstream = None;
        node.has_data = true;
        node.handing_over = None;
        self.end_links_to(place);
    }

    /// `REPLICAOF`; refused while it hands over.
    pub fn follow(&mut self, place: Place, upstream: Upstream) -> bool {
        let node = &mut self.nodes[place];
        if node.handing_over.is_some() {
            return false;
        }
        if node.upstream != Some(upstream) {
            let was_master = node.is_master();
            node.disconnect();
            node.upstream = Some(upstream);
            node.by_stranger = false;
            if was_master {
                self.end_links_to(place);
            }
        }
        true
    }

    fn demote(&mut self, place: Place) {
        let Some(HandingOver::Waiting(to)) = self.nodes[place].handing_over else { return };
        self.end_links_to(place);
        let node = &mut self.nodes[place];
        node.disconnect();
        node.upstream = Some(Upstream::Node(to));
        node.handing_over = Some(HandingOver::InProgress { to, asked: false });
    }

    pub fn take_request(&mut self, place: Place) {
        let Some(from) = self.nodes[place].request.take() else { return };
        let is_granted = !self.nodes[place].is_master() && self.nodes[place].replid == self.nodes[from].replid;
        if is_granted {
            self.become_master(place);
            self.nodes[place].by_stranger = self.record.started[place] != Some(self.nodes[place].start);
        }
        let node = &mut self.nodes[from];
        if node.handing_over == Some(HandingOver::InProgress { to: place, asked: true }) {
            node.reply = Some(is_granted);
        }
    }

    fn take_reply(&mut self, place: Place) {
        let is_granted = self.nodes[place].reply.take();
        self.nodes[place].handing_over = None;
        if is_granted == Some(false) {
            self.become_master(place);
            // A grant that got lost: the servers' own doing, which nobody can undo but a tool that has paused its writes. What one of
            // the two has of its own is lost, and is to be told.
            self.nodes[place].by_stranger = true;
        }
    }

    fn fault(&mut self, fault: Fault) {
        self.is_lossy |= fault.is_strange();
        match fault {
            Fault::Kill(place) => self.kill(place),
            Fault::KillMaster(place) => {
                let node = &self.nodes[place];
                self.record.before_kill = Some((place, node.start, node.offset()));
                self.kill(place);
            }
            Fault::Stop(place) => self.nodes[place].process = Process::Stopped,
            Fault::Continue(place) => self.nodes[place].process = Process::Running,
            Fault::CutLink(place) => self.nodes[place].disconnect(),
            Fault::CrashTool => self.end_tool(),
            Fault::RestartByHand(place) => {
                self.kill(place);
                let config = self.nodes[place].config;
                self.start(place, config);
            }
            Fault::EmptyMaster(place) => {
                self.kill(place);
                self.forget(place);
                self.start(place, None);
            }
            Fault::FollowByHand(place, None) => self.become_master(place),
            Fault::FollowByHand(place, Some(above)) => drop(self.follow(place, Upstream::Node(above))),
            Fault::LoseDisk(place) => self.forget(place),
        }
        self.touch(fault);
    }

    fn touch(&mut self, fault: Fault) {
        let (Fault::Kill(place)
        | Fault::KillMaster(place)
        | Fault::Stop(place)
        | Fault::Continue(place)
        | Fault::CutLink(place)
        | Fault::RestartByHand(place)
        | Fault::EmptyMaster(place)
        | Fault::FollowByHand(place, _)
        | Fault::LoseDisk(place)) = fault
        else {
            return;
        };
        self.touched[place] = true;
        let node = &mut self.nodes[place];
        node.by_stranger = node.is_alive() && node.is_master() && (node.by_stranger || fault.is_strange());
        if fault.is_strange() {
            self.forgive(place);
        }
    }

    /// What this node had when it was promoted may be lost.
    fn forgive(&mut self, place: Place) {
        if self.promised.as_ref().is_some_and(|(promised, _)| *promised == place) {
            self.promised = None;
        }
    }

    /// Its process ends; what it has sent is still read.
    pub fn kill(&mut self, place: Place) {
        for node in &mut self.nodes {
            if matches!(node.handing_over, Some(HandingOver::InProgress { to, .. }) if to == place) {
                node.disconnect();
            }
        }
        // Also where the tool ends a master that hangs: nobody else need have read it all.
        if !self.nodes[place].keeps_data {
            self.forgive(place);
        }
        let node = &mut self.nodes[place];
        node.disconnect();
        node.process = Process::Dead;
        (node.is_paused, node.handing_over, node.request) = (false, None, None);
        node.is_loading = false;
        self.end_links_to(place);
    }

    /// Nothing of its data is left.
    fn forget(&mut self, place: Place) {
        let node = &mut self.nodes[place];
        node.data.clear();
        (node.former, node.backlog_start, node.has_data) = (None, 0, false);
    }

    /// A new process.
    pub fn start(&mut self, place: Place, upstream: Option<Place>) {
        if !self.nodes[place].keeps_data || !self.nodes[place].has_data {
            self.forget(place);
            self.nodes[place].replid = self.next_replid;
            self.next_replid += 1;
        }
        let node = &mut self.nodes[place];
        node.start += 1;
        node.process = Process::Running;
        node.is_loading = !node.data.is_empty();
        node.upstream = upstream.map(Upstream::Node);
        node.config = upstream;
        node.was_up = false;
        node.has_data |= upstream.is_none();
        node.by_stranger = false;
    }

    /// The tool's process ends, and with it its ghosts.
    pub fn end_tool(&mut self) {
        self.tool = None;
        for node in &mut self.nodes {
            if let (Some(Upstream::GhostOf(_)), Link::Up { has_ended, .. }) = (node.upstream, &mut node.link) {
                *has_ended = true;
            }
        }
    }
}
