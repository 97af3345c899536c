//! What a replica is sent next: decided here, for whoever moves the bytes.

use std::rc::Rc;

use super::Instance;
use crate::log::log;
use crate::replication::{Feed, FeedState};
use crate::snapshot::Point;

/// What a feed is sent next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// The next piece of the image it was promised; after the last, [`Instance::image_sent`].
    Image,
    /// Nothing, until it has said a word.
    AfterItsWord,
    /// As much of these bytes of the stream as it takes, then [`Instance::stream_sent`]; there may be none yet.
    Stream(&'a [u8], &'a [u8]),
    /// Nothing ever again: what it lacks is gone, and it has to begin anew.
    Nothing,
}

impl Instance {
    /// What `feed` is sent next.
    #[inline]
    pub fn next_for(&self, feed: &Feed) -> Next<'_> {
        match feed.state.get() {
            FeedState::WaitsForSnapshot | FeedState::WaitsForFile | FeedState::ReceivesSnapshot { .. } => Next::Image,
            FeedState::AwaitsAcknowledgement => Next::AfterItsWord,
            FeedState::Online => {
                let backlog = self.replication.backlog.as_ref();
                let slices = backlog.and_then(|backlog| backlog.slices(feed.cursor.get()));
                slices.map_or(Next::Nothing, |(first, second)| Next::Stream(first, second))
            }
        }
    }

    /// So many bytes of the stream were sent; `unreceived` of all that was sent have not arrived at the other machine.
    #[inline]
    pub fn stream_sent(&mut self, feed: &Feed, bytes: usize, unreceived: u64) {
        feed.unreceived.set(unreceived);
        if !planted!(CursorNotAdvanced) {
            feed.cursor.set(feed.cursor.get() + bytes as u64);
        }
        self.stats.total_net_output_bytes += bytes as u64;
        self.hold_for_slowest();
    }

    /// An image of this `point` will be sent to `feeds`, or is already on its way as `state` says, and is their cursor's
    /// beginning.
    pub fn promise_image(&mut self, feeds: &[Rc<Feed>], point: Point, state: FeedState) {
        if feeds.is_empty() {
            return;
        }
        for feed in feeds {
            feed.state.set(state);
            feed.cursor.set(point.offset);
            feed.acknowledged.set(0);
            feed.synced.set(None);
            if !feed.old_sync {
                let line = format!("+FULLRESYNC {} {}\r\n", point.id, point.offset);
                feed.client.send(|mailbox| mailbox.extend_from_slice(line.as_bytes()));
            }
        }
        self.hold_for_slowest();
        // Whoever starts from this image may not read in it which database is selected.
        self.replication.reselects = true;
    }

    /// The image was sent, to its last byte; false if it never began, or if nothing comes behind it.
    pub fn image_sent(&self, feed: &Feed) -> bool {
        match feed.state.get() {
            FeedState::WaitsForSnapshot | FeedState::WaitsForFile => return false,
            _ if feed.rdb_only => {
                log!(Notice, "The image was sent to {}:{}, which wants nothing else.", feed.ip, feed.port);
                return false;
            }
            // The stream must not hide the mark.
            FeedState::ReceivesSnapshot { is_marked: true } => {
                feed.state.set(FeedState::AwaitsAcknowledgement);
                // While it loads, it says each second that it lives.
                feed.heard_ms.set(self.now_ms);
            }
            _ => self.bring_online(feed),
        }
        true
    }

    /// How much of the image that `feed` is sent waits for its connection, after an attempt to send it.
    pub fn image_waits(&self, feed: &Feed, waiting_bytes: usize, sent_any: bool) {
        match (waiting_bytes, feed.stalled_since_ms.get()) {
            (0, _) => feed.stalled_since_ms.set(None),
            (_, Some(_)) if !sent_any => {}
            _ => feed.stalled_since_ms.set(Some(self.now_ms)),
        }
    }

    /// The image has arrived: the stream may flow.
    pub(super) fn bring_online(&self, feed: &Feed) {
        feed.state.set(FeedState::Online);
        feed.heard_ms.set(self.now_ms);
        log!(Notice, "Synchronization with replica {}:{} succeeded", feed.ip, feed.port);
    }
}
