//! Publishing what happens to keys.

use super::Instance;
use crate::client::ClientKind;
use crate::notify::{Classes, Event};

impl Instance {
    /// Something has happened to a key outside of a command's handler.
    pub(crate) fn notify(&mut self, class: Classes, name: &'static str, db: usize, key: &[u8]) {
        if self.config.notify_keyspace_events.has(class) {
            self.events.push(Event { name, db, key: key.into() });
            self.publish_events();
        }
    }

    /// Publishes what has happened so far. Each server does so for itself: nothing of it is in the stream.
    pub(crate) fn publish_events(&mut self) {
        let classes = self.config.notify_keyspace_events;
        for event in std::mem::take(&mut self.events) {
            for (channel, message) in event.messages(classes) {
                self.publish(&channel, message);
            }
        }
    }

    /// Sends a message to everyone who listens on this server; how many were sent.
    pub(crate) fn publish(&mut self, channel: &[u8], message: &[u8]) -> usize {
        let limit = self.output_limit(ClientKind::Subscriber);
        let published = self.pubsub.publish(channel, message, limit.hard_bytes);
        for client in published.too_slow {
            self.enforce_output_limit(&client, client.pending_bytes());
        }
        published.receivers
    }
}
