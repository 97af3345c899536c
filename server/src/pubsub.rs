//! Publish and subscribe: <https://redis.io/docs/latest/develop/interact/pubsub/>.
//!
//! A message is encoded once per protocol version and put into every listener's mailbox.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use crate::client::{Client, Subscriptions};
use crate::glob;
use crate::resp::{Protocol, Reply};

type Listeners = HashMap<Box<[u8]>, BTreeMap<u64, Rc<Client>>>;

/// Who listens to what.
#[derive(Default)]
pub struct PubSub {
    channels: Listeners,
    patterns: Listeners,
    shard_channels: Listeners,
}

/// What a subscription names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// One channel, by its name.
    Channel,
    /// All channels that match.
    Pattern,
    /// One shard channel, which in a cluster is a matter of one master and its replicas.
    Shard,
}

impl PubSub {
    fn listeners(&mut self, topic: Topic) -> &mut Listeners {
        match topic {
            Topic::Channel => &mut self.channels,
            Topic::Pattern => &mut self.patterns,
            Topic::Shard => &mut self.shard_channels,
        }
    }

    fn all(&self, topic: Topic) -> &Listeners {
        match topic {
            Topic::Channel => &self.channels,
            Topic::Pattern => &self.patterns,
            Topic::Shard => &self.shard_channels,
        }
    }

    /// Lets `client` listen; false if it does already.
    pub fn subscribe(&mut self, topic: Topic, name: &[u8], client: &Rc<Client>) -> bool {
        let listeners = self.listeners(topic).entry(name.into()).or_default();
        listeners.insert(client.id, Rc::clone(client)).is_none()
    }

    /// Ends it; false if it did not listen.
    pub fn unsubscribe(&mut self, topic: Topic, name: &[u8], client: u64) -> bool {
        let all = self.listeners(topic);
        let Some(listeners) = all.get_mut(name) else { return false };
        let listened = listeners.remove(&client).is_some();
        if listeners.is_empty() {
            all.remove(name);
        }
        listened
    }

    /// What `client` listens to.
    pub fn subscriptions(&self, topic: Topic, client: u64) -> Vec<Box<[u8]>> {
        self.all(topic)
            .iter()
            .filter(|(_, listeners)| listeners.contains_key(&client))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Ends everything that `client` listens to.
    pub fn forget(&mut self, client: u64) {
        for listeners in [&mut self.channels, &mut self.patterns, &mut self.shard_channels] {
            listeners.retain(|_, clients| {
                clients.remove(&client);
                !clients.is_empty()
            });
        }
    }

    /// Sends a message to everyone who listens. More than `pending_bytes_max` should wait for nobody (0: no limit).
    pub fn publish(&self, channel: &[u8], message: &[u8], pending_bytes_max: u64) -> Published {
        let mut published = Published::default();
        if let Some(listeners) = self.channels.get(channel) {
            published.deliver(listeners, &[b"message", channel, message], pending_bytes_max);
        }
        for (pattern, listeners) in &self.patterns {
            if glob::matches(pattern, channel, glob::Case::Sensitive) {
                published.deliver(listeners, &[b"pmessage", pattern, channel, message], pending_bytes_max);
            }
        }
        published
    }

    /// The same to those who listen to a shard channel.
    pub fn publish_to_shard(&self, channel: &[u8], message: &[u8], pending_bytes_max: u64) -> Published {
        let mut published = Published::default();
        if let Some(listeners) = self.shard_channels.get(channel) {
            published.deliver(listeners, &[b"smessage", channel, message], pending_bytes_max);
        }
        published
    }

    /// The channels (or shard channels) with listeners that match `pattern`.
    pub fn channels(&self, topic: Topic, pattern: Option<&[u8]>) -> Vec<&[u8]> {
        self.all(topic)
            .keys()
            .map(|name| &name[..])
            .filter(|name| pattern.is_none_or(|pattern| glob::matches(pattern, name, glob::Case::Sensitive)))
            .collect()
    }

    /// How many listen to a channel by its name.
    pub fn listener_count(&self, topic: Topic, channel: &[u8]) -> usize {
        self.all(topic).get(channel).map_or(0, BTreeMap::len)
    }

    /// How many channels, patterns and shard channels anyone listens to.
    pub fn counts(&self) -> Subscriptions {
        let (channels, patterns, shards) = (self.channels.len(), self.patterns.len(), self.shard_channels.len());
        Subscriptions { channels, patterns, shards, bytes: 0 }
    }
}

/// What became of a message.
#[derive(Debug, Default)]
pub struct Published {
    /// How many times it was sent.
    pub receivers: usize,
    /// For whom too much waits now.
    pub too_slow: Vec<Rc<Client>>,
}

impl Published {
    fn deliver(&mut self, listeners: &BTreeMap<u64, Rc<Client>>, parts: &[&[u8]], pending_bytes_max: u64) {
        self.receivers += listeners.len();
        for client in listeners.values().filter(|client| !client.is_killed()) {
            client.send(|mailbox| push(mailbox, client.protocol.get(), parts));
            if pending_bytes_max > 0 && client.pending_bytes() >= pending_bytes_max {
                self.too_slow.push(Rc::clone(client));
            }
        }
    }
}

fn push(out: &mut Vec<u8>, protocol: Protocol, parts: &[&[u8]]) {
    let mut reply = Reply::new(out, protocol);
    reply.push(parts.len());
    parts.iter().for_each(|part| reply.bulk(part));
}
