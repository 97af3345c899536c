//! Caches of clients: who has read which keys, and is told when they change.
//! <https://redis.io/docs/latest/develop/reference/client-side-caching/>
//!
//! In the default mode the server remembers which connections have read a key, tells each of them once, and forgets. In
//! broadcast mode it remembers prefixes, and tells of every change of a key that begins with one, once for each command
//! or transaction. Databases are not told apart.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use crate::client::{Client, ClientKind};
use crate::resp::{Protocol, Reply};

/// The channel that connections of RESP2 listen to for others.
const CHANNEL: &[u8] = b"__redis__:invalidate";

/// Which keys a connection in the default mode wants to hear of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Interest {
    /// All that it reads.
    #[default]
    All,
    /// Those of the commands that follow a `CLIENT CACHING YES`.
    OptIn,
    /// All but those of the commands that follow a `CLIENT CACHING NO`.
    OptOut,
}

/// What a connection has asked for with `CLIENT TRACKING ON`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// It is told of all keys with certain prefixes.
    pub broadcast: bool,
    /// Else, of which of those that it reads.
    pub interest: Interest,
    /// It is not told of its own changes.
    pub no_loop: bool,
    /// The connection that is told in its place.
    pub redirect: Option<u64>,
    /// That one has gone.
    pub broken: bool,
    /// The next command is an exception, as `CLIENT CACHING` has said.
    pub caching: bool,
    /// The prefixes of the broadcast mode.
    pub prefixes: BTreeSet<Box<[u8]>>,
}

impl Wish {
    /// Whether the keys that are read now are of interest.
    pub fn wants_reads(&self) -> bool {
        !self.broadcast
            && match self.interest {
                Interest::All => true,
                Interest::OptIn => self.caching,
                Interest::OptOut => !self.caching,
            }
    }
}

/// Who is to be told of what.
#[derive(Default)]
pub struct Tracking {
    /// All who have asked, by their ids.
    clients: BTreeMap<u64, Rc<Client>>,
    /// Who has read what. Who has gone since is forgotten with the key.
    readers: HashMap<Box<[u8]>, BTreeSet<u64>>,
    /// How many readers of keys there are in all.
    items: usize,
    /// Who wants to hear of which prefix.
    prefixes: BTreeMap<Box<[u8]>, BTreeSet<u64>>,
    /// Who is to be told at the next [`Tracking::settle`] of which key.
    pending: Vec<(Rc<Client>, Box<[u8]>)>,
    /// What has changed of each prefix, and by whom.
    changed: BTreeMap<Box<[u8]>, Changes>,
}

/// How much is tracked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the INFO field of that name")]
pub struct Totals {
    pub clients: usize,
    pub keys: usize,
    pub items: usize,
    pub prefixes: usize,
}

/// Keys, and who has changed each, if it was a connection.
type Changes = BTreeMap<Box<[u8]>, Option<u64>>;

/// All connections, by their ids.
type Clients = BTreeMap<u64, Rc<Client>>;

impl Tracking {
    /// Whether anybody has asked.
    #[inline]
    pub fn is_on(&self) -> bool {
        !self.clients.is_empty()
    }

    /// How much is tracked.
    pub fn totals(&self) -> Totals {
        let (clients, keys, items) = (self.clients.len(), self.readers.len(), self.items);
        Totals { clients, keys, items, prefixes: self.prefixes.len() }
    }

    /// Does as a connection wishes from now on.
    pub fn start(&mut self, client: &Rc<Client>, wish: Wish) {
        for prefix in &wish.prefixes {
            self.prefixes.entry(prefix.clone()).or_default().insert(client.id);
        }
        self.clients.insert(client.id, Rc::clone(client));
        *client.tracking.borrow_mut() = Some(wish);
    }

    /// Tells a connection of nothing more.
    pub fn stop(&mut self, client: &Client) {
        let Some(wish) = client.tracking.take() else { return };
        self.clients.remove(&client.id);
        for prefix in wish.prefixes {
            if let Some(ids) = self.prefixes.get_mut(&prefix) {
                ids.remove(&client.id);
                if ids.is_empty() {
                    self.prefixes.remove(&prefix);
                    self.changed.remove(&prefix);
                }
            }
        }
    }

    /// A connection has read these keys.
    pub fn remember<'a>(&mut self, client: u64, keys: impl Iterator<Item = &'a [u8]>) {
        for key in keys {
            if !self.readers.contains_key(key) {
                self.readers.insert(key.into(), BTreeSet::new());
            }
            let ids = self.readers.get_mut(key).expect("it is there by now");
            self.items += usize::from(ids.insert(client));
        }
    }

    /// A key was changed, by a connection or because its time had come. Whoever is to hear of it does when the command
    /// is over and answered.
    pub fn invalidate(&mut self, key: &[u8], by: Option<u64>) {
        for prefix in self.prefixes.keys().filter(|prefix| key.starts_with(prefix)) {
            self.changed.entry(prefix.clone()).or_default().insert(key.into(), by);
        }
        let Some(ids) = self.readers.remove(key) else { return };
        self.items -= ids.len();
        for client in ids.iter().filter_map(|id| self.clients.get(id)) {
            let wants = client.tracking.borrow().as_ref().is_some_and(|wish| {
                // Keys that were read before it has asked for broadcasts are no concern of it any more.
                !(wish.broadcast || wish.no_loop && by == Some(client.id))
            });
            if wants {
                self.pending.push((Rc::clone(client), key.into()));
            }
        }
    }

    /// Tells everybody of what has changed, and remembers no more than `keys_max` keys (0: any number): the readers of
    /// others are told that these have changed.
    pub fn settle(&mut self, keys_max: usize, all: &Clients) {
        while keys_max > 0 && self.readers.len() > keys_max {
            let Some(key) = self.readers.keys().next().cloned() else { break };
            self.invalidate(&key, None);
        }
        for (client, key) in self.pending.drain(..) {
            tell(&client, Some(&[&key]), all);
        }
        self.broadcast(all);
    }

    fn broadcast(&mut self, all: &Clients) {
        for (prefix, keys) in std::mem::take(&mut self.changed) {
            let ids = self.prefixes.get(&prefix).into_iter().flatten();
            for client in ids.filter_map(|id| self.clients.get(id)) {
                let no_loop = client.tracking.borrow().as_ref().is_some_and(|wish| wish.no_loop);
                let news = keys.iter().filter(|(_, by)| !(no_loop && **by == Some(client.id)));
                let news: Vec<&[u8]> = news.map(|(key, _)| &**key).collect();
                if !news.is_empty() {
                    tell(client, Some(&news), all);
                }
            }
        }
    }

    /// All keys have gone, of one database at least.
    pub fn forget_all(&mut self, all: &Clients) {
        self.readers.clear();
        self.items = 0;
        self.clients.values().for_each(|client| tell(client, None, all));
    }
}

/// Tells a connection, or the one in its place, that keys have changed; `None` are all of them.
fn tell(client: &Rc<Client>, keys: Option<&[&[u8]]>, all: &Clients) {
    let redirect = client.tracking.borrow().as_ref().and_then(|wish| wish.redirect);
    let Some(target) = redirect.map_or(Some(client), |id| all.get(&id)) else {
        if let Some(wish) = client.tracking.borrow_mut().as_mut() {
            wish.broken = true;
        }
        return tell_of_broken(client, redirect.unwrap_or_default());
    };
    let protocol = target.protocol.get();
    let listens = redirect.is_some() && target.kind.get() == ClientKind::Subscriber;
    if protocol == Protocol::Resp2 && !listens {
        return;
    }
    target.send(|mailbox| {
        let mut reply = Reply::new(mailbox, protocol);
        if protocol == Protocol::Resp3 {
            reply.push(2);
            reply.bulk(b"invalidate");
        } else {
            reply.push(3);
            reply.bulk(b"message");
            reply.bulk(CHANNEL);
        }
        match keys {
            None => reply.null_array(),
            Some(keys) => {
                reply.array(keys.len());
                keys.iter().for_each(|key| reply.bulk(key));
            }
        }
    });
}

fn tell_of_broken(client: &Client, redirect: u64) {
    if client.protocol.get() == Protocol::Resp3 {
        client.send(|mailbox| {
            let mut reply = Reply::new(mailbox, Protocol::Resp3);
            reply.push(2);
            reply.bulk(b"tracking-redir-broken");
            reply.integer(redirect as i64);
        });
    }
}
