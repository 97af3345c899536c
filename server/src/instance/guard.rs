//! Guards against an upstream that is followed by mistake: one that would take the data away, one that follows this server
//! itself, one that is somebody else.
//!
//! What is refused is not asked for again at once: the link waits, INFO says why (`repld_link_refused`), and whoever
//! changes what stands against it lets it go on.

use std::net::IpAddr;

use super::{Action, Instance};
use crate::config::Upstream;
use crate::log::log;
use crate::replication::{Ancestry, Following, History, Refusal, ReplicationId};

/// A full resync that was refused is tried again after so long, in milliseconds: somebody may have mended the upstream, and
/// to find out costs it an image.
const RESYNC_RETRY_MS: i64 = 60_000;

/// The longest chain of upstreams that is told to those below.
const CHAIN_MAX: usize = 64;

impl Instance {
    /// Whether this is an address of this server, as far as that can be seen without asking. What cannot is noticed in
    /// the handshake.
    pub(crate) fn is_own_address(&self, upstream: &Upstream) -> bool {
        let here = match upstream.host.parse::<IpAddr>() {
            Ok(ip) => ip.is_loopback() || ip.is_unspecified(),
            Err(_) => upstream.host.eq_ignore_ascii_case("localhost"),
        };
        let bound = || self.config.bind.iter().any(|bind| bind.host() == upstream.host);
        upstream.port != 0 && upstream.port == self.config.port && (here || bound())
    }

    /// Says that the upstream is not followed, and why; it may be asked again in `wait_ms`.
    pub(super) fn refuse_upstream(&mut self, reason: String, wait_ms: i64) -> String {
        let until_ms = self.now_ms.saturating_add(wait_ms);
        if let Some(following) = self.replication.following_mut() {
            following.refusal = Some(Refusal { reason: reason.clone(), until_ms });
        }
        reason
    }

    /// How long the upstream must not be asked again, if it was refused, in milliseconds.
    pub fn refused_for_ms(&self) -> u64 {
        let refusal = self.replication.following().and_then(|following| following.refusal.as_ref());
        refusal.map_or(0, |refusal| refusal.until_ms.saturating_sub(self.now_ms).max(0).unsigned_abs())
    }

    /// Something has changed that may stand against the upstream no longer.
    pub fn lift_refusal(&mut self) {
        if let Some(following) = self.replication.following_mut()
            && following.refusal.take().is_some()
        {
            log!(Notice, "The refusal of the upstream is lifted: it is asked again.");
            self.act(Action::Relink);
        }
    }

    /// How many keys there are.
    pub fn keys(&self) -> u64 {
        (0..self.keyspace.databases()).map(|db| self.keyspace.len(db) as u64).sum()
    }

    /// Whether an image of history `id` has to be counted before it may replace the data.
    pub fn guards_against(&self, id: ReplicationId) -> bool {
        self.config.replica_full_sync_guard && self.keys() > 0 && !self.expects(id)
    }

    /// Whether a master with this history is the one whose data are here, or the one that the configuration names.
    fn expects(&self, id: ReplicationId) -> bool {
        let history = &self.replication.history;
        let own =
            |id: &ReplicationId| *id == history.replid || history.previous.is_some_and(|(previous, _)| previous == *id);
        let known = |following: &Following| following.identified || following.ancestry.lineage.iter().any(own);
        own(&id) || self.config.replica_expect_master_id == Some(id) || self.replication.following().is_some_and(known)
    }

    /// Whether an image of history `id` with so many keys may replace the data.
    ///
    /// # Errors
    /// It may not; why, and how it may.
    pub fn judge_image(&mut self, id: ReplicationId, keys: u64) -> Result<(), String> {
        let own = self.keys();
        // An empty one is always less than half.
        if !self.guards_against(id) || keys.saturating_mul(2) >= own {
            return Ok(());
        }
        let reason = format!(
            "Refused a full resync that would leave {keys} of {own} keys: the data of history {} here would be replaced by \
             those of {id}, which this server does not expect. It is asked again in {} seconds. If that is what you want: \
             CONFIG SET replica-full-sync-guard no",
            self.replication.history.replid,
            RESYNC_RETRY_MS / 1000
        );
        Err(self.refuse_upstream(reason, RESYNC_RETRY_MS))
    }

    /// What those below are told of this server.
    pub(crate) fn ancestry(&self) -> Ancestry {
        let above = self.replication.following().map_or(&[][..], |following| &following.ancestry.chain);
        let History { replid, previous } = self.replication.history;
        Ancestry {
            chain: std::iter::once(self.run_id).chain(above.iter().copied()).take(CHAIN_MAX).collect(),
            lineage: std::iter::once(replid).chain(previous.map(|(id, _)| id)).collect(),
        }
    }

    /// The upstream has named its histories.
    pub(super) fn learn_lineage(&mut self, lineage: Vec<ReplicationId>) {
        if let Some(following) = self.replication.following_mut() {
            following.ancestry.lineage = lineage;
        }
    }

    /// The upstream is followed from now on, and those above it with it.
    pub(super) fn adopt_chain(&mut self, chain: Vec<ReplicationId>) {
        let Some(following) = self.replication.following_mut() else { return };
        if following.ancestry.chain != chain {
            following.ancestry.chain = chain;
            // Those below learn it by coming back.
            self.cut_feeds();
        }
    }
}
