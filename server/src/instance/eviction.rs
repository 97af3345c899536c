//! `maxmemory` and `maxmemory-clients`: what has to go so that what comes has room.
//! <https://redis.io/docs/latest/develop/reference/eviction/>,
//! <https://redis.io/docs/latest/develop/reference/clients/#client-eviction>
//!
//! Which key is the one that the policy wants gone is only estimated: a few are drawn, and the worst that were ever seen
//! and are still there wait in a pool for their turn, as in Redis. Only a master decides, and says so in its stream; a
//! replica that has a limit of its own (`replica-ignore-maxmemory no`) decides for itself, and tells nobody.

use std::rc::Rc;

use super::Instance;
use crate::client::{Client, ClientKind};
use crate::config::{MemoryPolicy, Order};
use crate::keyspace::{AccessClock, EntryRef, Keyspace};
use crate::log::log;
use crate::notify::Classes;
use crate::replication::Backlog;

/// The keys that wait for their turn.
const POOL_MAX: usize = 16;
/// So many go before others have their turn; the rest follows with the next command, or with time.
const EVICTED_AT_ONCE_MAX: usize = 1000;

/// A key that may have to go.
#[derive(Debug)]
struct Candidate {
    /// The higher, the sooner.
    score: u64,
    db: usize,
    key: Box<[u8]>,
}

/// The worst of what was seen, the worst last.
#[derive(Debug, Default)]
pub(super) struct Pool(Vec<Candidate>);

impl Pool {
    fn offer(&mut self, score: u64, db: usize, key: &[u8]) {
        let at = self.0.partition_point(|other| other.score < score);
        let is_known = self.0.iter().any(|other| other.db == db && *other.key == *key);
        if is_known || at == 0 && self.0.len() == POOL_MAX {
            return;
        }
        self.0.insert(at, Candidate { score, db, key: key.into() });
        if self.0.len() > POOL_MAX {
            self.0.remove(0);
        }
    }

    /// The worst that is still there.
    fn take(&mut self, keyspace: &Keyspace, volatile: bool) -> Option<(usize, Box<[u8]>)> {
        while let Some(Candidate { db, key, .. }) = self.0.pop() {
            let entry = keyspace.peek(db, keyspace.key(&key));
            if entry.is_some_and(|entry| !volatile || entry.deadline_ms().is_some()) {
                return Some((db, key));
            }
        }
        None
    }
}

/// How much an order wants a key gone.
fn score(order: Order, entry: EntryRef, clock: &AccessClock) -> u64 {
    match order {
        Order::Lru | Order::Random => entry.idle_seconds(clock),
        Order::Lfu => u64::from(u8::MAX - entry.frequency(clock)),
        Order::Ttl => u64::MAX - entry.deadline_ms().unwrap_or(i64::MAX).max(0) as u64,
    }
}

impl Instance {
    /// What counts against `maxmemory`, in bytes: neither the backlog, which is what replicas wait for, too.
    fn evictable_bytes(&self) -> u64 {
        self.startup_bytes + self.keyspace.memory_bytes() as u64 + self.client_bytes
    }

    /// All that is used, in bytes: data, clients' buffers, and the backlog, which is a mapped file.
    pub fn used_memory(&self) -> u64 {
        self.evictable_bytes() + self.replication.backlog.as_ref().map_or(0, Backlog::capacity)
    }

    /// The most that ever was.
    pub fn peak_memory(&self) -> u64 {
        self.peak_bytes.max(self.used_memory())
    }

    fn has_memory_limit(&self) -> bool {
        let is_upstreams_affair = self.config.replica_ignore_maxmemory && !self.replication.is_master();
        self.config.maxmemory > 0 && !is_upstreams_affair
    }

    /// Whether nothing has to be evicted before a command.
    pub(crate) fn has_room(&self) -> bool {
        self.config.maxmemory == 0 || self.evictable_bytes() <= self.config.maxmemory
    }

    /// Evicts keys as far as memory is short; false if it still is and there is nothing more to evict.
    pub(crate) fn make_room(&mut self) -> bool {
        if !self.has_memory_limit() {
            return true;
        }
        let mut is_measured = false;
        for _ in 0..EVICTED_AT_ONCE_MAX {
            if self.evictable_bytes() <= self.config.maxmemory {
                return true;
            }
            // While writes are paused, nothing may go either.
            if self.is_paused(true) || self.loading.is_some() {
                return true;
            }
            match self.choose_victim() {
                Some((db, key)) => self.evict(db, &key),
                None if is_measured => return false,
                // Perhaps it was clients that took it, and they have gone on.
                None => {
                    self.measure_clients();
                    is_measured = true;
                }
            }
        }
        true
    }

    fn choose_victim(&mut self) -> Option<(usize, Box<[u8]>)> {
        let (order, volatile) = match self.config.maxmemory_policy {
            MemoryPolicy::NoEviction => return None,
            MemoryPolicy::AllKeys(order) => (order, false),
            MemoryPolicy::Volatile(order) => (order, true),
        };
        let databases: Vec<usize> = (0..self.keyspace.databases())
            .filter(|db| if volatile { self.keyspace.with_deadline(*db) } else { self.keyspace.len(*db) } > 0)
            .collect();
        if order == Order::Random {
            let db = *databases.get(self.dice.below(databases.len().max(1)))?;
            let mut chosen = None;
            let random = self.dice.roll();
            self.keyspace.sample(db, random, 1, volatile, |entry| chosen = Some((db, entry.key().into())));
            return chosen;
        }
        for db in databases {
            let (random, samples) = (self.dice.roll(), self.config.maxmemory_samples as usize);
            let (keyspace, pool) = (&self.keyspace, &mut self.eviction_pool);
            keyspace.sample(db, random, samples, volatile, |entry| {
                pool.offer(score(order, entry, keyspace.clock()), db, entry.key());
            });
        }
        self.eviction_pool.take(&self.keyspace, volatile)
    }

    fn evict(&mut self, db: usize, name: &[u8]) {
        let key = self.keyspace.key(name);
        self.keyspace.remove(db, key);
        self.stats.evicted_keys += 1;
        self.forget_key(db, name);
        self.notify(Classes::EVICTED, "evicted", db, name);
        let request: &[u8] = if self.config.lazyfree_lazy_eviction { b"UNLINK" } else { b"DEL" };
        self.propagate_request(db, &[request, name]);
    }

    /// After a change of what is noted about the use of keys.
    pub(crate) fn track_uses(&mut self) {
        self.keyspace.set_tracking(self.config.tracking());
        self.keyspace.set_access_time(self.now_ms);
        // What was the worst before need not be so now.
        self.eviction_pool = Pool::default();
    }

    /// Looks at what clients take.
    pub(crate) fn measure_clients(&mut self) {
        self.peak_bytes = self.peak_bytes.max(self.used_memory());
        for client in self.clients.values().filter(|client| !client.is_killed()) {
            let bytes = client.memory_bytes();
            self.client_bytes = self.client_bytes - client.measured_bytes.replace(bytes) + bytes;
        }
    }

    /// How much clients may take together; `None` for any amount.
    fn client_limit(&self) -> Option<u64> {
        self.config.maxmemory_clients.bytes(self.config.maxmemory)
    }

    /// Looks at what one client takes, and lets clients go if they all take too much.
    pub fn limit_clients(&mut self, client: &Client) {
        if self.client_limit().is_none() || client.is_killed() {
            return;
        }
        let bytes = client.memory_bytes();
        self.client_bytes = self.client_bytes - client.measured_bytes.replace(bytes) + bytes;
        self.evict_clients();
    }

    /// Cuts those clients off that take most, until the others take no more than they may.
    pub(crate) fn evict_clients(&mut self) {
        let Some(limit) = self.client_limit().filter(|limit| self.client_bytes > *limit) else { return };
        let counts = |client: &&Rc<Client>| {
            !client.is_killed() && matches!(client.kind.get(), ClientKind::Normal | ClientKind::Subscriber)
        };
        let mut clients: Vec<(u64, Rc<Client>)> =
            self.clients.values().filter(counts).map(|client| (client.memory_bytes(), Rc::clone(client))).collect();
        clients.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        let mut total: u64 = clients.iter().map(|(bytes, _)| bytes).sum();
        for (bytes, client) in clients.into_iter().filter(|(_, client)| !client.no_evict.get()) {
            if total <= limit {
                break;
            }
            log!(Notice, "Evicting client: {}", client.describe(self.now_ms));
            client.kill();
            self.has_killed = true;
            self.stats.evicted_clients += 1;
            self.client_bytes -= client.measured_bytes.take();
            total -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_keeps_the_worst_and_gives_the_worst_first() {
        let mut keyspace = Keyspace::new(1, [1, 2]);
        let mut pool = Pool::default();
        for number in 0..100_u64 {
            let name = number.to_string();
            let key = keyspace.key(name.as_bytes());
            keyspace.set_str(0, key, b"", crate::keyspace::Deadline::Clear);
            pool.offer(number * 37 % 100, 0, name.as_bytes());
        }
        assert_eq!(pool.0.len(), POOL_MAX);
        assert_eq!(pool.take(&keyspace, false), Some((0, b"27"[..].into())));
        // The next one has gone by itself.
        keyspace.remove(0, keyspace.key(b"54"));
        assert_eq!(pool.take(&keyspace, false), Some((0, b"81"[..].into())));
    }
}
