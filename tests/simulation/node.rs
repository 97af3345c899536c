//! A model of one server: what it holds, whom it follows, and what lies on the wire to it. One write is one byte of the
//! stream, so that an offset is the length of the data.

/// A node, by its place in the group.
pub type Place = usize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Process {
    Running,
    Stopped,
    Dead,
}

/// Whom a replica was told to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Upstream {
    Node(Place),
    /// What serves the backlog file of a dead node, as long as the tool lives.
    GhostOf(Place),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Link {
    Down,
    /// A full synchronization is under way.
    Syncing,
    /// What was sent and not read; after the upstream's end nothing follows it.
    Up {
        coming: Vec<u8>,
        has_ended: bool,
    },
}

/// `FAILOVER`, as the master that was told to sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HandingOver {
    Waiting(Place),
    /// It follows the other one; `asked`: its request to take over was sent on the present connection.
    InProgress {
        to: Place,
        asked: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    pub process: Process,
    /// Counts its processes.
    pub start: u8,
    pub is_loading: bool,
    /// Its data and backlog outlive its process.
    pub keeps_data: bool,
    pub priority: u8,
    /// None: it is a master.
    pub upstream: Option<Upstream>,
    pub link: Link,
    /// The link was up once in this process's life.
    pub was_up: bool,
    pub replid: u8,
    /// The history before, and how much of it this one shares.
    pub former: Option<(u8, usize)>,
    pub data: Vec<u8>,
    /// The data is a prefix of the history: a replica that begins a full synchronization has none until that is through.
    pub has_data: bool,
    pub backlog_start: usize,
    pub is_paused: bool,
    pub handing_over: Option<HandingOver>,
    /// The request of that master to take over lies in its socket.
    pub request: Option<Place>,
    /// The answer to its own request, granted or refused.
    pub reply: Option<bool>,
    /// Whom its configuration file lets it follow.
    pub config: Option<Place>,
    /// A stranger made it the master that it is.
    pub by_stranger: bool,
}

impl Node {
    pub fn new(keeps_data: bool, priority: u8, upstream: Option<Place>) -> Node {
        Node {
            process: Process::Running,
            start: 1,
            is_loading: false,
            keeps_data,
            priority,
            upstream: upstream.map(Upstream::Node),
            link: if upstream.is_some() { Link::Up { coming: Vec::new(), has_ended: false } } else { Link::Down },
            was_up: upstream.is_some(),
            replid: 0,
            former: None,
            data: Vec::new(),
            has_data: true,
            backlog_start: 0,
            is_paused: false,
            handing_over: None,
            request: None,
            reply: None,
            config: upstream,
            by_stranger: false,
        }
    }

    pub fn offset(&self) -> usize {
        self.data.len()
    }

    pub fn is_running(&self) -> bool {
        self.process == Process::Running
    }

    pub fn is_alive(&self) -> bool {
        self.process != Process::Dead
    }

    pub fn is_master(&self) -> bool {
        self.upstream.is_none()
    }

    /// Whether a client's write would be accepted now, or as soon as the process goes on.
    pub fn takes_writes(&self) -> bool {
        self.is_alive() && self.is_master() && !self.is_loading && !self.is_paused && self.handing_over.is_none()
    }

    pub fn is_linked(&self) -> bool {
        matches!(self.link, Link::Up { .. })
    }

    pub fn is_linked_to(&self, place: Place) -> bool {
        self.is_linked() && self.upstream == Some(Upstream::Node(place))
    }

    /// Whether it can go on from `upstream` where it is.
    pub fn can_resume(&self, upstream: &Node) -> bool {
        let is_of = self.replid == upstream.replid && self.offset() <= upstream.offset();
        let is_of_former =
            upstream.former.is_some_and(|(replid, shared)| replid == self.replid && self.offset() <= shared);
        self.has_data && self.offset() >= upstream.backlog_start && (is_of || is_of_former)
    }

    /// Its data from an offset on.
    pub fn beyond(&self, offset: usize) -> Vec<u8> {
        self.data[offset..].to_vec()
    }

    /// Forgets its connections: a new one begins at nothing.
    pub fn disconnect(&mut self) {
        self.link = Link::Down;
        self.reply = None;
        if let Some(HandingOver::InProgress { asked, .. }) = &mut self.handing_over {
            *asked = false;
        }
    }
}
