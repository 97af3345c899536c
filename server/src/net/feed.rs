//! A replica's connection: first the snapshot it was promised, if one was, then the stream from its cursor on.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::sync::mpsc;

use super::connection::Connection;
use super::{Payload, READ_BYTES, Server};
use crate::command::Flow;
use crate::replication::{Feed, FeedState};

/// Bytes of the stream that one replica is sent before others have their turn.
const TURN_BYTES: usize = 256 * 1024;

/// Pieces of a snapshot that wait for one replica before the snapshot waits for it.
const PAYLOAD_PIECES: usize = 4;

/// Feeds one replica until it goes.
pub(super) async fn serve(server: &Rc<Server>, connection: &mut Connection) {
    let Some(feed) = connection.session.feed.clone() else { return };
    let (sender, mut payload) = mpsc::channel(PAYLOAD_PIECES);
    if feed.state.get() == FeedState::WaitsForSnapshot {
        server.payloads.borrow_mut().insert(feed.client.id, sender);
    }
    poll_fn(|context| {
        // Whatever the reason: this connection is over, and the replica will come back.
        poll_feed(context, server, connection, &feed, &mut payload).map(|_: io::Result<()>| ())
    })
    .await;
    server.payloads.borrow_mut().remove(&feed.client.id);
}

fn poll_feed(
    context: &mut Context,
    server: &Rc<Server>,
    connection: &mut Connection,
    feed: &Rc<Feed>,
    payload: &mut mpsc::Receiver<Payload>,
) -> Poll<io::Result<()>> {
    connection.session.client.set_waker(context.waker());
    if connection.session.client.is_killed() {
        return Poll::Ready(Ok(()));
    }
    loop {
        if connection.is_due() && connection.run(server) == Flow::Close {
            return Poll::Ready(Ok(()));
        }
        match connection.poll_read(context, server) {
            Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Ok(())),
            Poll::Ready(Ok(READ_BYTES)) => {
                context.waker().wake_by_ref();
                break;
            }
            Poll::Ready(Ok(_)) => {}
            Poll::Pending => break,
        }
    }
    loop {
        connection.collect(&[]);
        ready!(connection.poll_flush(context))?;
        match feed.state.get() {
            FeedState::WaitsForSnapshot | FeedState::ReceivesSnapshot => match ready!(payload.poll_recv(context)) {
                Some(piece) => connection.collect(&piece),
                // The snapshot's end is told by its sender's.
                None => finish_snapshot(server, feed)?,
            },
            // Its word will come through the requests above.
            FeedState::AwaitsAcknowledgement => return Poll::Pending,
            FeedState::Online => return poll_stream(context, server, connection, feed),
        }
    }
}

fn finish_snapshot(server: &Server, feed: &Feed) -> io::Result<()> {
    if feed.state.get() == FeedState::WaitsForSnapshot {
        return Err(io::Error::other("the snapshot was given up before it began"));
    }
    if feed.eof {
        feed.state.set(FeedState::AwaitsAcknowledgement);
    } else {
        server.instance.borrow().bring_online(feed);
    }
    Ok(())
}

fn poll_stream(
    context: &mut Context,
    server: &Server,
    connection: &mut Connection,
    feed: &Feed,
) -> Poll<io::Result<()>> {
    let mut sent = 0;
    loop {
        let mut instance = server.instance.borrow_mut();
        let Some(backlog) = &instance.replication.backlog else { return Poll::Ready(Ok(())) };
        let cursor = feed.cursor.get();
        // What is not there any more can't be sent: it has to begin again.
        let Some((first, second)) = backlog.slices(cursor) else { return Poll::Ready(Ok(())) };
        if first.is_empty() && second.is_empty() {
            return Poll::Pending;
        }
        if sent >= TURN_BYTES {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let first = &first[..first.len().min(TURN_BYTES)];
        let pieces = [IoSlice::new(first), IoSlice::new(&second[..second.len().min(TURN_BYTES)])];
        let pieces = if first.len() < TURN_BYTES { &pieces[..] } else { &pieces[..1] };
        let count = ready!(connection.stream.poll_write_vectored(context, pieces))?;
        sent += count;
        feed.cursor.set(cursor + count as u64);
        instance.stats.total_net_output_bytes += count as u64;
        instance.hold_for_slowest();
    }
}
