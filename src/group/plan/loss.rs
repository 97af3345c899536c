//! What a change of masters costs, as far as it can be told before: offsets that only the old master has, how old what the candidate
//! has may be, and whether the old master's backlog can be salvaged.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{is_replica, offset_of, replication_with_data};
use crate::group::salvage::KeptStream;
use crate::group::unmanaged::{came_back_with_less, diverged_bytes};
use crate::group::view::{Answer, GroupView, NodeView};
use crate::wire::{Link, Replication, ReplicationId};

/// A replica that was cut off for longer when its master ended, and lacks something, is stale. Its link is tried anew every
/// second, so this is no hiccup.
const STALE_SECONDS: u64 = 5;

/// Why what the old master had not sent stays where it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum NoSalvage {
    /// It is gone.
    #[error("its engine keeps the backlog in memory")]
    InMemory,
    /// It is wherever it is.
    #[error("replctl did not start it, and looks for no files of it")]
    Unmanaged,
    /// The candidate is on another machine.
    #[error("its successor is on another machine")]
    OutOfReach,
    /// A node that takes writes has a history of its own, to which nothing can be added.
    #[error("another node took over already")]
    TakenOver,
    /// It is not gone.
    #[error("it is alive, and a replica")]
    Alive,
    /// The file is of another time.
    #[error("its backlog is of another history ({replid:.8})")]
    OtherHistory {
        /// The history.
        replid: String,
    },
    /// The file cannot be used.
    #[error("{why}")]
    Unusable {
        /// Why.
        why: String,
    },
}

/// What a promotion loses, in bytes of the replication stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LossEstimate {
    /// The history that all these offsets are of.
    pub replid: ReplicationId,
    /// The last offset at which the old master was seen; it may have written more after that. `None`: never seen.
    pub master_offset: Option<u64>,
    /// The highest offset that any reachable node of the history has.
    pub survivor_offset: u64,
    /// The candidate's, before anything is salvaged.
    pub candidate_offset: u64,
    /// Where the old master ended, read from its backlog. `None`: it has none, or is alive.
    pub master_end: Option<u64>,
    /// What the candidate gets from that backlog.
    pub salvaged_bytes: u64,
    /// How old the candidate's data was when the old master ended, before anything is salvaged.
    pub age: DataAge,
}

/// How old a replica's data was at the end of its master: the time from the last word that it had from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct DataAge {
    /// So old for certain, in seconds.
    pub at_least_seconds: u64,
    /// Not older than this, in seconds. `None`: nothing tells.
    pub at_most_seconds: Option<u64>,
}

/// A part of a history that no node of the group has any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LostRange {
    /// The history.
    pub replid: ReplicationId,
    /// The first byte that is lost, counted from 0; so many bytes are left.
    pub from: u64,
    /// The old master's end, as far as it is known.
    pub to: u64,
    /// Whether the old master ended there: otherwise it may have gone on.
    pub is_exact: bool,
}

impl LossEstimate {
    /// What is known to be lost, in bytes.
    pub fn bytes_min(&self) -> u64 {
        self.gone().map_or(0, |gone| gone.to - gone.from)
    }

    /// What is known to be lost.
    pub fn gone(&self) -> Option<LostRange> {
        let seen = self.master_offset.unwrap_or(0).max(self.survivor_offset);
        let to = self.master_end.map_or(seen, |end| end.max(seen));
        let from = self.candidate_offset + self.salvaged_bytes;
        let is_exact = self.master_end.is_some();
        (from < to).then(|| LostRange { replid: self.replid.clone(), from, to, is_exact })
    }

    /// Whether nobody knows how far the old master was.
    pub fn is_open(&self) -> bool {
        self.master_offset.or(self.master_end).is_none()
    }
}

impl fmt::Display for LossEstimate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.master_offset, self.bytes_min()) {
            (_, 0) if self.master_end.is_some() => write!(out, "nothing"),
            (_, bytes) if self.master_end.is_some() => write!(out, "{bytes} bytes of the replication stream"),
            (Some(_), 0) => write!(out, "none of what the old master was last seen to hold"),
            (Some(_), bytes) => write!(out, "at least {bytes} bytes of the replication stream"),
            (None, 0) => write!(out, "unknown: nobody saw how far the old master was"),
            (None, bytes) => write!(out, "at least {bytes} bytes; nobody saw how far the old master was"),
        }?;
        match self.gone() {
            Some(LostRange { replid, from, to, .. }) => write!(out, " (offsets {from} to {to} of {})", replid.short()),
            None => Ok(()),
        }
    }
}

impl DataAge {
    /// Of a replica that heard from its master last so many seconds ago.
    pub(super) fn exactly(seconds: u64) -> Self {
        Self { at_least_seconds: seconds, at_most_seconds: Some(seconds) }
    }
}

impl fmt::Display for DataAge {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.at_least_seconds, self.at_most_seconds) {
            (0, None) => write!(out, "of unknown age"),
            (least, None) => write!(out, "at least {least} s old"),
            (least, Some(most)) if least == most => write!(out, "{least} s old"),
            (0, Some(most)) => write!(out, "at most {most} s old"),
            (least, Some(most)) => write!(out, "{least} to {most} s old"),
        }
    }
}

pub(super) fn estimate_loss(
    view: &GroupView,
    old: &NodeView,
    lineage: &ReplicationId,
    candidate: &NodeView,
) -> LossEstimate {
    let candidate_offset = candidate.report().map_or(0, |report| report.replication.offset);
    let of_lineage = view.nodes.iter().filter(|node| node.name != old.name).filter_map(replication_with_data);
    let survivor_offset = of_lineage
        .filter(|replication| replication.replid == *lineage)
        .map(|replication| replication.offset)
        .max()
        .unwrap_or(candidate_offset);
    let reported = old.report().filter(|_| !came_back_with_less(view, old)).map(|report| &report.replication);
    let master_offset = reported
        .filter(|own| own.replid == *lineage)
        .map(|own| own.offset)
        .or(view.kill_note.and_then(|note| note.offset));
    let source = salvage(view, old, candidate, lineage).unwrap_or(old);
    let (master_end, salvaged_bytes) = match &source.kept_stream {
        kept @ KeptStream::Dead { start, end, .. } if kept.continues(lineage, candidate_offset) => {
            (Some(*end), if candidate_offset >= *start { end.saturating_sub(candidate_offset) } else { 0 })
        }
        _ => (None, 0),
    };
    LossEstimate {
        replid: lineage.clone(),
        master_offset,
        survivor_offset,
        candidate_offset,
        master_end,
        salvaged_bytes,
        age: age(view, old, candidate),
    }
}

/// Where another node has taken over already: what the old master has beyond the point where the two histories part.
pub(super) fn loss_of_the_other(old: &NodeView, new: &NodeView, taken: &Replication) -> LossEstimate {
    let open = LossEstimate {
        replid: taken.replid.clone(),
        master_offset: None,
        survivor_offset: taken.offset,
        candidate_offset: taken.offset,
        master_end: None,
        salvaged_bytes: 0,
        age: DataAge::default(),
    };
    // The file of a dead one tells where it ended; one that answers may go on.
    let (past, end) = match &old.answer {
        _ if old.name == new.name => return open,
        Answer::Report(report) => (Some(report.replication.past()), None),
        _ => (old.kept_stream.past(), old.kept_stream.past().map(|past| past.end)),
    };
    let Some((past, shared)) = past.and_then(|past| past.shared_with(&taken.past()).map(|shared| (past, shared)))
    else {
        return open;
    };
    LossEstimate {
        replid: past.replid,
        master_offset: end.is_none().then_some(past.end),
        survivor_offset: shared,
        candidate_offset: shared,
        master_end: end,
        ..open
    }
}

/// How old a candidate's data was at the old master's end. When that was is known if it was killed by us, or still answers;
/// otherwise the last word that any replica had from it is the earliest moment, and now is the latest.
fn age(view: &GroupView, old: &NodeView, candidate: &NodeView) -> DataAge {
    let heard_seconds_ago = |node: &NodeView| {
        let upstream = node.report()?.replication.upstream()?;
        match upstream.link {
            _ if view.followed_by(node).is_none_or(|followed| followed.name != old.name) => None,
            Link::Up => upstream.silent_seconds,
            Link::Down { seconds } => seconds,
            Link::Syncing { .. } => None,
        }
    };
    let Some(heard) = heard_seconds_ago(candidate) else { return DataAge::default() };
    if let Some(note) = view.kill_note {
        return DataAge::exactly(heard.saturating_sub(note.seconds_ago));
    }
    if old.is_answering_master() {
        return DataAge::exactly(heard);
    }
    let last_word = view.nodes.iter().filter_map(heard_seconds_ago).min().unwrap_or(heard);
    DataAge { at_least_seconds: heard - last_word, at_most_seconds: Some(heard) }
}

/// Whether a candidate that lacks something was cut off long before the old master's end: rather a node to be looked after
/// than one to be promoted without a word.
pub(super) fn is_stale(loss: &LossEstimate) -> bool {
    loss.age.at_least_seconds >= STALE_SECONDS && loss.gone().is_some()
}

/// What a master that came back has beyond what the group's master has of it.
pub(super) fn loss_of_returned(old: &NodeView, master: &NodeView) -> LossEstimate {
    let replication = |node: &NodeView| node.report().map(|report| report.replication.clone());
    let (old_offset, bytes) = match (replication(old), replication(master)) {
        (Some(own), Some(theirs)) => (own.offset, diverged_bytes(&own, &theirs, old.unfenced())),
        _ => (0, None),
    };
    let shared = old_offset - bytes.unwrap_or(0);
    let of = replication(old).or(replication(master)).expect("both have answered");
    LossEstimate {
        replid: of.replid,
        master_offset: bytes.map(|_| old_offset),
        survivor_offset: shared,
        candidate_offset: shared,
        master_end: None,
        salvaged_bytes: 0,
        age: DataAge::default(),
    }
}

/// Whose backlog can be handed to the candidate: the old master's, or, if that is none or lives as a replica, that of a node that
/// was about to take its place and was ended, if it goes further than the candidate.
pub(super) fn salvage<'a>(
    view: &'a GroupView,
    old: &'a NodeView,
    candidate: &NodeView,
    lineage: &ReplicationId,
) -> Result<&'a NodeView, NoSalvage> {
    let of_old = can_salvage(old, candidate, lineage).map(|()| old);
    of_old.or_else(|reason| {
        let others = view.nodes.iter().filter(|node| node.name != old.name && node.name != candidate.name);
        let ahead = others.filter(|node| kept_end(node).is_some_and(|end| end > offset_of(candidate)));
        let usable = ahead.filter(|node| can_salvage(node, candidate, lineage).is_ok());
        usable.max_by_key(|node| kept_end(node)).ok_or(reason)
    })
}

/// Where what a dead process kept ends.
fn kept_end(node: &NodeView) -> Option<u64> {
    if let KeptStream::Dead { end, .. } = node.kept_stream { Some(end) } else { None }
}

/// Whether the candidate can be handed what a node had not sent; the file of one that is still to be ended is looked at when it has
/// ended.
fn can_salvage(old: &NodeView, candidate: &NodeView, lineage: &ReplicationId) -> Result<(), NoSalvage> {
    if !is_replica(candidate) {
        return Err(NoSalvage::TakenOver);
    }
    if is_replica(old) {
        return Err(NoSalvage::Alive);
    }
    if !old.is_managed() {
        return Err(NoSalvage::Unmanaged);
    }
    if !candidate.address.is_loopback() {
        return Err(NoSalvage::OutOfReach);
    }
    match &old.kept_stream {
        KeptStream::Nothing => Err(NoSalvage::InMemory),
        KeptStream::Unusable { why } => Err(NoSalvage::Unusable { why: why.clone() }),
        kept @ KeptStream::Dead { replid, .. } if !kept.continues(lineage, offset_of(candidate)) => {
            Err(NoSalvage::OtherHistory { replid: replid.clone() })
        }
        KeptStream::Dead { .. } | KeptStream::StillWritten => Ok(()),
    }
}
