//! A replica's connection: first the snapshot it was promised, if one was, then the stream from its cursor on.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::sync::mpsc;

use super::connection::Connection;
use super::{Payload, READ_BYTES, Server};
use crate::command::Flow;
use crate::instance::Next;
use crate::replication::{Feed, FeedState};

/// Bytes of the stream that one replica is sent before others have their turn.
const TURN_BYTES: usize = 256 * 1024;

/// Pieces of a snapshot that wait for one replica before the snapshot waits for it.
const PAYLOAD_PIECES: usize = 4;

/// Feeds one replica until it goes.
pub(super) async fn serve(server: &Rc<Server>, connection: &mut Connection) {
    let Some(feed) = connection.session.feed.clone() else { return };
    if server.instance.borrow().config.repl_disable_tcp_nodelay {
        connection.stream.set_nodelay(false);
    }
    let (sender, mut payload) = mpsc::channel(PAYLOAD_PIECES);
    if matches!(feed.state.get(), FeedState::WaitsForSnapshot | FeedState::WaitsForFile) {
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
    if !server.write_aof() {
        return Poll::Pending;
    }
    let mut sent = 0;
    loop {
        connection.collect(&[]);
        let before = connection.waiting_bytes();
        let flushed = connection.poll_flush(context)?;
        let mut instance = server.instance.borrow_mut();
        instance.image_waits(feed, connection.waiting_bytes(), connection.waiting_bytes() < before);
        ready!(flushed);
        match instance.next_for(feed) {
            Next::Image => match ready!(payload.poll_recv(context)) {
                Some(piece) => connection.collect(&piece),
                // The image's end is told by its sender's.
                None if instance.image_sent(feed) => {}
                None => return Poll::Ready(Ok(())),
            },
            // Its word will come through the requests above.
            Next::AfterItsWord => return Poll::Pending,
            Next::Stream([], []) => return Poll::Pending,
            Next::Stream(..) if sent >= TURN_BYTES => {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            Next::Stream(first, second) => {
                let first = &first[..first.len().min(TURN_BYTES)];
                let pieces = [IoSlice::new(first), IoSlice::new(&second[..second.len().min(TURN_BYTES)])];
                let pieces = if first.len() < TURN_BYTES { &pieces[..] } else { &pieces[..1] };
                let count = ready!(connection.stream.poll_write_vectored(context, pieces))?;
                sent += count;
                instance.stream_sent(feed, count, connection.stream.unreceived_bytes());
            }
            Next::Nothing => return Poll::Ready(Ok(())),
        }
    }
}
