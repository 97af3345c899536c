//! Whom this server follows, and what changes with it.

use super::{Action, Instance};
use crate::client::ClientKind;
use crate::config::Upstream;
use crate::functions::Functions;
use crate::keyspace::Keyspace;
use crate::log::{self, log};
use crate::replication::{Ancestry, Following, History, Remains, Role};

impl Instance {
    /// Follows `upstream` from now on, keeping the data until it has sent its own.
    pub fn follow(&mut self, upstream: Upstream) {
        let was_master = self.replication.is_master();
        let following = self.replication.following();
        let (synced, restored) = following.map_or((false, false), |following| (following.synced, following.restored));
        // What those below were told of those above holds until another upstream says otherwise; so they stay, and may go on
        // if the data do.
        let chain = following.map_or_else(Vec::new, |following| following.ancestry.chain.clone());
        self.replication.role = Role::Replica(Following {
            synced: synced && self.replication.resumable,
            restored: restored && self.replication.resumable,
            ancestry: Ancestry { chain, lineage: Vec::new() },
            ..Following::new(upstream.clone(), self.now_ms)
        });
        self.announce_role();
        if was_master {
            log!(
                Notice,
                "Before turning into a replica, using my own master parameters to synthesize a cached master: I may be \
                 able to synchronize with the new master with just a partial transfer."
            );
            self.replication.resumable = true;
            let selected = self.replication.backlog.as_ref().and_then(|backlog| backlog.selected_db());
            self.replication.stream_db = selected.unwrap_or(0) as usize;
            if self.aof.is_open() {
                // The stream goes on in a database that the file may have never heard of.
                self.aof.select(self.replication.stream_db);
            }
            self.dismiss_waiters();
        }
        self.config.replicaof = Some(upstream);
        self.act(Action::Relink);
    }

    /// Follows `upstream` from the start; whatever is loaded may turn out to be a part of its history.
    pub fn follow_from_start(&mut self, upstream: Upstream) {
        self.replication.role = Role::Replica(Following::new(upstream, self.now_ms));
    }

    /// Hands out a dead server's backlog from now on, and does nothing else.
    ///
    /// # Errors
    /// The file cannot be mapped.
    pub fn haunt(&mut self, remains: Remains) -> std::io::Result<()> {
        self.replication.history = remains.history;
        self.replication.offset = remains.end;
        self.replication.backlog = Some(remains.view()?);
        self.replication.role = Role::Ghost;
        Ok(())
    }

    /// Makes room for an upstream's image that has come whole. Should it turn out to be none, there is nothing left that
    /// could be continued by anybody, and no name of it must stay that says so.
    /// Returns the old data, which take long to be freed.
    pub fn discard_data(&mut self) -> Keyspace {
        let empty = Keyspace::new(self.keyspace.databases(), self.keyspace.seed());
        let old = std::mem::replace(&mut self.keyspace, empty);
        self.functions = Functions::default();
        self.touch_database(None);
        self.cut_feeds();
        self.remove_backlog();
        self.replication.set_history(History { replid: self.random.id(), previous: None });
        self.replication.offset = 0;
        self.replication.resumable = false;
        if let Some(following) = self.replication.following_mut() {
            (following.synced, following.restored) = (false, false);
        }
        old
    }

    /// The link's task was ended, wherever it was: nothing of it stays.
    pub fn forget_link(&mut self) {
        self.loading = None;
        self.clients.retain(|_, client| client.kind.get() != ClientKind::Master);
    }

    /// Follows nobody from now on: the data get a history of their own, which begins where the old one ends here.
    pub fn unfollow(&mut self) {
        if self.replication.following().is_none() {
            return;
        }
        let old = self.replication.history.replid;
        self.replication.shift_history(self.random.id());
        self.replication.role = Role::Master;
        self.announce_role();
        log!(
            Warning,
            "Setting secondary replication ID to {old}, valid up to offset: {}. New replication ID is {}",
            self.replication.offset + 1,
            self.replication.history.replid
        );
        self.config.replicaof = None;
        self.persistence.dirty += 1;
        self.cut_feeds();
        // Who continues may be in any database: the next write says in which it is made.
        self.replication.reselects = true;
        self.replication.unfed_since_ms = self.now_ms;
        self.last_ping_ms = self.now_ms;
        self.act(Action::Relink);
    }

    /// Ends the connections of all replicas: they come back and learn what has changed.
    pub fn cut_feeds(&mut self) {
        for feed in &self.replication.feeds {
            feed.client.kill();
        }
    }

    /// Sets the role letter of the log.
    pub fn announce_role(&mut self) {
        log::set_role(if self.replication.following().is_some() { log::Role::Replica } else { log::Role::Master });
        if let Err(error) = self.set_oom_score() {
            log!(Warning, "{error}");
        }
    }

    /// Tells the kernel how willingly it shall end this process, as the configuration says for its role.
    ///
    /// # Errors
    /// It does not let this process do so.
    pub(crate) fn set_oom_score(&mut self) -> Result<(), String> {
        let [master, replica, _] = self.config.oom_score_adj_values;
        let value = if self.replication.following().is_some() { replica } else { master };
        let result = self.oom_score.set(self.config.oom_score_adj, value);
        result.map_err(|error| format!("Failed to set oom_score_adj: {error}"))
    }
}
