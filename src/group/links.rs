//! Waiting for replication links without asking every replica all the time.
//!
//! One poll of an upstream tells about all of its replicas. So every upstream is asked each millisecond, and a replica
//! only once its upstream says that it takes the stream:
//!
//! ```text
//! upstream  INFO replication --watch-->  slave3: port=6382, state=online
//! replica 6382                           INFO replication: link up, same history, offset >= the upstream's then
//! ```

use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::event::Event;
use crate::wire::{Link, NodeClient, Replication, WireError};

/// Between two polls of an upstream, and of a replica that is about to be there.
const POLL_EVERY: Duration = Duration::from_millis(1);
/// Between two looks at how far a replica is with a full synchronization.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// The latest word of an upstream on its replicas; `None` before the first. Closed when the upstream no longer answers.
pub type ReplicasOf = watch::Receiver<Option<Replication>>;

/// Polls an upstream as long as anybody looks at the result.
pub fn watch_replicas(upstream: NodeClient) -> ReplicasOf {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        while !sender.is_closed() {
            match upstream.replication().await {
                Ok(replication) => sender.send_replace(Some(replication)),
                Err(_) => return,
            };
            tokio::time::sleep(POLL_EVERY).await;
        }
    });
    receiver
}

/// Waits until a replica follows its upstream and has applied what the upstream had then; returns its offset.
///
/// # Errors
/// The replica or the upstream no longer answers.
pub async fn await_link(
    name: &str,
    replica: &NodeClient,
    mut upstream: ReplicasOf,
    display: &mpsc::UnboundedSender<Event>,
) -> Result<u64, WireError> {
    let port = replica.announced().port;
    // By its port alone: what an upstream calls the host of a replica may be another name for it. What counts is what the
    // replica then says itself.
    let is_online = |word: &Option<Replication>| {
        word.as_ref().is_some_and(|word| word.replicas.iter().any(|one| one.port == port && one.is_online))
    };
    loop {
        let word = tokio::time::timeout(PROGRESS_EVERY, upstream.wait_for(is_online)).await;
        match word.map(|word| word.ok().and_then(|word| word.clone())) {
            Ok(Some(word)) => {
                if let Some(offset) = await_caught_up(replica, &word).await? {
                    let _ = display.send(Event::Linked { node: name.to_owned(), offset });
                    return Ok(offset);
                }
            }
            Ok(None) => return Err(WireError::Closed),
            Err(_) => show_progress(name, replica, display).await?,
        }
    }
}

/// Waits until the replica has applied all that `upstream` had; `None` if its link is not (or no longer) to there.
async fn await_caught_up(replica: &NodeClient, upstream: &Replication) -> Result<Option<u64>, WireError> {
    loop {
        let own = replica.replication().await?;
        let link = own.upstream().map(|upstream| &upstream.link);
        if link == Some(&Link::Up) && own.replid == upstream.replid && own.offset >= upstream.offset {
            return Ok(Some(own.offset));
        }
        tokio::time::sleep(POLL_EVERY).await;
        if link != Some(&Link::Up) || own.replid != upstream.replid {
            return Ok(None);
        }
    }
}

async fn show_progress(
    name: &str,
    replica: &NodeClient,
    display: &mpsc::UnboundedSender<Event>,
) -> Result<(), WireError> {
    let own = match replica.replication().await {
        Ok(own) => own,
        // A replica that loads what it received answers nothing else meanwhile.
        Err(error) if error.is_loading() => return Ok(()),
        Err(error) => return Err(error),
    };
    if let Some(Link::Syncing { received_bytes, total_bytes }) = own.upstream().map(|upstream| upstream.link.clone()) {
        let _ = display.send(Event::Syncing { node: name.to_owned(), received_bytes, total_bytes });
    }
    Ok(())
}
