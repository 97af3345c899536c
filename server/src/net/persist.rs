//! Snapshots on their way to a file or to replicas, and the dump file's loading at the start.
//!
//! One walk at a time serves everyone who wants a snapshot when it begins: the dump file, and all replicas. It is cut into
//! slices between requests; a thread of its own encodes the chunks and writes them where they go, and a full queue between
//! the two makes the walk wait. Who comes later joins a walk whose image goes into a file, and otherwise has the next one.

use std::collections::BTreeMap;
use std::fs::File;
use std::future::poll_fn;
use std::io::{self, Read};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{spawn_blocking, yield_now};

use super::aof::{self, Rewriting};
use super::image::{Files, Made, Target, broadcast, encode};
use super::loading::{self, Load, Source};
use super::{Payload, Server, now_ms, recover};
use crate::client::Client;
use crate::instance::Instance;
use crate::keyspace::Chunk;
use crate::log::log;
use crate::priority;
use crate::rdb::{Contents, Reader};
use crate::replication::{Feed, FeedState, Remains};
use crate::snapshot::{self, Image, LoadError, Loaded, Loader, Point, SLICE_BYTES};

/// Chunks that wait to be encoded before the walk waits.
const CHUNKS_QUEUED: usize = 4;

/// What one walk is made for.
struct Round {
    /// The dump file is to be written.
    saves: bool,
    /// That was asked for by somebody else than replicas.
    is_save_wanted: bool,
    /// A base of the append-only file is to be made.
    rewrites: bool,
    /// Replicas that are sent the image as it is made.
    streamed: Vec<Rc<Feed>>,
    /// Replicas that are sent the dump file when it is whole.
    filed: Vec<Rc<Feed>>,
}

/// A save that runs: replicas that come before it ends may have its file.
pub(super) struct Saving {
    point: Point,
    contents: Contents,
    filed: Vec<Rc<Feed>>,
}

/// Makes the snapshots that are asked for, one after the other.
pub(super) async fn run(server: Rc<Server>) {
    loop {
        server.snapshot.notified().await;
        while let Some(round) = next_round(&server).await {
            make(&server, round).await;
        }
    }
}

fn waiting(instance: &Instance) -> Vec<Rc<Feed>> {
    let waits = |feed: &&Rc<Feed>| feed.state.get() == FeedState::WaitsForSnapshot && !feed.client.is_killed();
    instance.replication.feeds.iter().filter(waits).cloned().collect()
}

/// What to do next, once all replicas that are about to join have had their time.
async fn next_round(server: &Server) -> Option<Round> {
    // Those that are in this very turn's queue join.
    yield_now().await;
    let mut is_told = false;
    while let Some(delay) = delay_for_company(server) {
        if !std::mem::replace(&mut is_told, true) {
            log!(Notice, "Delay next BGSAVE for diskless SYNC");
        }
        // Another one that comes, or a save that is wanted, may end the delay.
        let _ = tokio::time::timeout(delay, server.snapshot.notified()).await;
    }
    let instance = server.instance.borrow();
    if instance.loading.is_some() {
        return None;
    }
    let (diskless, contents) = (instance.config.repl_diskless_sync, snapshot::contents(&instance));
    let is_streamed = |feed: &Rc<Feed>| feed.eof && (diskless || !reads_file(feed, contents));
    let (streamed, filed): (Vec<_>, Vec<_>) = waiting(&instance).into_iter().partition(is_streamed);
    let is_save_wanted = server.save_wanted.take();
    let saves = is_save_wanted || !filed.is_empty();
    let rewrites = server.rewrite_wanted.take();
    let round = Round { saves, is_save_wanted, rewrites, streamed, filed };
    (saves || rewrites || !round.streamed.is_empty()).then_some(round)
}

/// Whether a replica reads the dump file of data that contain this.
fn reads_file(feed: &Feed, contents: Contents) -> bool {
    feed.reader.format(contents) == Reader::OWN.format(contents)
}

/// How long to wait for more replicas, if all that is wanted is a snapshot for some that can wait.
fn delay_for_company(server: &Server) -> Option<Duration> {
    let instance = server.instance.borrow();
    let (config, waiting) = (&instance.config, waiting(&instance));
    let enough = config.repl_diskless_sync_max_replicas as usize;
    let is_wanted = server.save_wanted.get() || server.rewrite_wanted.get();
    let can_wait = config.repl_diskless_sync && waiting.iter().all(|feed| feed.eof) && !is_wanted;
    if !can_wait || enough > 0 && waiting.len() >= enough {
        return None;
    }
    let oldest_ms = waiting.iter().map(|feed| feed.client.created_ms).min()?;
    let waited = Duration::from_millis((now_ms() - oldest_ms).max(0) as u64);
    config.repl_diskless_sync_delay.checked_sub(waited).filter(|left| !left.is_zero())
}

/// Makes one snapshot for everyone who wants it now.
async fn make(server: &Rc<Server>, round: Round) {
    let Some((image, rewriting)) = begin(server, &round) else { return };
    let targets = take_targets(server, &round.streamed);
    let (chunks, received) = mpsc::channel(CHUNKS_QUEUED);
    let target = round.saves.then(|| snapshot::dump_path(&server.instance.borrow()));
    // As long as a replication id, and as unlikely to be met in the data.
    let mark = server.instance.borrow_mut().random_id();
    let rewriting = rewriting.map(Arc::new);
    let base = rewriting.clone();
    let use_of_it = Arc::new(());
    let asked = Arc::downgrade(&use_of_it);
    let encoding = spawn_blocking(move || {
        let files = Files { dump: target, base: base.as_deref() };
        encode(&image, received, files, targets, mark, &asked)
    });
    let making = async {
        walk(server, chunks).await;
        encoding.await.unwrap_or_else(|error| Made::failed(&error.to_string()))
    };
    let (mut making, mut end_of_use) = (pin!(making), pin!(end_of_use(server, &round)));
    let made = poll_fn(|context| match making.as_mut().poll(context) {
        Poll::Ready(made) => Poll::Ready(Some(made)),
        Poll::Pending => end_of_use.as_mut().poll(context).map(|()| None),
    })
    .await;
    finish(server, &round, rewriting.and_then(Arc::into_inner), made);
}

/// Waits until nobody has a use for a file any more: the replicas that it was made for have gone, and nobody else wants it, or
/// there are no replicas, and all that is in it was removed.
async fn end_of_use(server: &Server, round: &Round) {
    loop {
        server.snapshot.notified().await;
        let (instance, saving) = (server.instance.borrow(), server.saving.borrow());
        let waits = |feed: &Rc<Feed>| !feed.client.is_killed() && instance.clients.contains_key(&feed.client.id);
        let is_for_replicas = !round.is_save_wanted && round.streamed.is_empty() && instance.config.save.is_empty();
        if round.rewrites {
            continue;
        }
        let has_replicas =
            !round.streamed.is_empty() || saving.as_ref().is_some_and(|saving| saving.filed.iter().any(waits));
        if !has_replicas && (is_for_replicas || instance.is_save_outdated()) {
            return;
        }
    }
}

/// Fixes the image's moment, and lets those who get it know.
fn begin(server: &Server, round: &Round) -> Option<(Image, Option<Rewriting>)> {
    let mut instance = server.instance.borrow_mut();
    instance.set_now(now_ms());
    if !round.streamed.is_empty() {
        log!(Notice, "Starting BGSAVE for SYNC with target: replicas sockets");
    }
    if !round.filed.is_empty() {
        log!(Notice, "Starting BGSAVE for SYNC with target: disk");
    }
    let mut rewriting = if round.rewrites { aof::prepare(server, &mut instance) } else { None };
    let is_alone = !round.saves && round.streamed.is_empty();
    if rewriting.is_none() && is_alone {
        return None;
    }
    let mut image = Image::begin(&mut instance).ok()?;
    if let Some(rewriting) = &mut rewriting {
        image.is_aof_base = is_alone;
        aof::begin(server, &mut instance, rewriting, &image, is_alone);
    }
    let now_ms = instance.now_ms;
    let (keys, flushes) = (image.keys(), instance.keyspace.flushes());
    let persistence = &mut instance.persistence;
    persistence.snapshot_since_ms = Some(now_ms);
    persistence.snapshot_keys = (keys, 0);
    persistence.flushes_at_start = flushes;
    persistence.last_preimage_bytes = 0;
    if round.saves {
        persistence.is_saving = true;
        persistence.last_try_ms = now_ms;
        persistence.dirty_at_start = persistence.dirty;
        log!(Notice, "Background saving started by pid {}", std::process::id());
    }
    if !round.streamed.is_empty() {
        log!(Notice, "Background RDB transfer started by pid {}", std::process::id());
    }
    round.streamed.iter().for_each(|feed| warn_of_loss(feed, image.contents()));
    if let Some(point) = image.point {
        instance.promise_image(&round.streamed, point, FeedState::ReceivesSnapshot { is_marked: true });
        instance.promise_image(&round.filed, point, FeedState::WaitsForFile);
        *server.saving.borrow_mut() =
            round.saves.then(|| Saving { point, contents: image.contents(), filed: round.filed.clone() });
    }
    Some((image, rewriting))
}

/// Says what a replica is not sent since it could not load it.
fn warn_of_loss(feed: &Feed, contents: Contents) {
    let format = feed.reader.format(contents);
    let lost = [
        (contents.functions && !format.has_functions(), "libraries of functions"),
        (contents.field_deadlines && !format.has_field_deadlines(), "deadlines of hash fields"),
    ];
    for (_, what) in lost.iter().filter(|(is_lost, _)| *is_lost) {
        log!(
            Warning,
            "Replica {}:{} is of a version that does not load {what}: it is sent none (rdb-version)",
            feed.ip,
            feed.port
        );
    }
}

/// Lets replicas that have just come have the file that is being written, if the stream since its moment is still there.
pub(super) fn join(server: &Server) {
    let mut saving = server.saving.borrow_mut();
    let Some(Saving { point, contents, filed }) = saving.as_mut() else { return };
    let mut instance = server.instance.borrow_mut();
    let replication = &instance.replication;
    let reaches = replication.backlog.as_ref().is_some_and(|backlog| backlog.slices(point.offset).is_some());
    if !reaches || replication.history.replid != point.id {
        return;
    }
    // A `SYNC` of old says nothing of the database that the stream has selected.
    let can_join = |feed: &Rc<Feed>| !feed.old_sync && (!feed.eof || reads_file(feed, *contents));
    let joining: Vec<_> = waiting(&instance).into_iter().filter(can_join).collect();
    if !joining.is_empty() {
        log!(Notice, "Waiting for end of BGSAVE for SYNC");
        instance.promise_image(&joining, *point, FeedState::WaitsForFile);
        filed.extend(joining);
    }
}

/// The queues of these replicas' connections, with what they read.
fn take_targets(server: &Server, feeds: &[Rc<Feed>]) -> Vec<Target> {
    let mut payloads = server.payloads.borrow_mut();
    feeds.iter().filter_map(|feed| Some((feed.reader, payloads.remove(&feed.client.id)?))).collect()
}

/// Lets the walk go on between requests until it is over, or nobody takes its chunks, or the data are others.
async fn walk(server: &Server, chunks: mpsc::Sender<Option<Chunk>>) {
    loop {
        let chunk = {
            let mut instance = server.instance.borrow_mut();
            if !instance.keyspace.walk_in_progress() {
                break;
            }
            instance.persistence.last_preimage_bytes = instance.keyspace.walk_preimage_bytes();
            let chunk = instance.keyspace.walk_slice(SLICE_BYTES);
            instance.persistence.snapshot_keys.1 += chunk.as_ref().map_or(0, Chunk::len) as u64;
            chunk
        };
        let last = chunk.is_none();
        if chunks.send(chunk).await.is_err() || last {
            break;
        }
        yield_now().await;
    }
    server.instance.borrow_mut().keyspace.abort_walk();
}

/// Lets everyone know what has become of a snapshot; nothing, if nobody had a use for it any more.
fn finish(server: &Server, round: &Round, rewriting: Option<Rewriting>, made: Option<Made>) {
    let saving = server.saving.take();
    let mut instance = server.instance.borrow_mut();
    instance.set_now(now_ms());
    let now_ms = instance.now_ms;
    let persistence = &mut instance.persistence;
    let started_ms = persistence.snapshot_since_ms.take().unwrap_or(now_ms);
    persistence.is_saving = false;
    persistence.snapshot_keys = (0, 0);
    if round.saves || !round.streamed.is_empty() {
        persistence.last_duration_s = Some((now_ms - started_ms) / 1000);
    }
    log!(Notice, "Writes have made the snapshot copy {} bytes before their turn", persistence.last_preimage_bytes);
    let Some(made) = made else {
        instance.keyspace.abort_walk();
        return log!(Notice, "Background saving given up: nobody has a use for it any more");
    };
    if let Some(rewriting) = rewriting {
        let base = made.base.unwrap_or_else(|| Err(io::Error::other("it was not made")));
        aof::finish(server, &mut instance, rewriting, base);
    }
    if !round.streamed.is_empty() {
        finish_streams(&instance.clients, &round.streamed, &made.image);
    }
    if !round.saves {
        return;
    }
    let filed = saving.map_or_else(Vec::new, |saving| saving.filed);
    let file = made.file.unwrap_or_else(|| Err(io::Error::other("it was not written")));
    finish_save(&mut instance, &file);
    match file {
        Ok(file) => send_file(file, &filed, take_targets(server, &filed)),
        Err(_) => filed.iter().for_each(|feed| feed.client.kill()),
    }
}

fn finish_streams(clients: &BTreeMap<u64, Rc<Client>>, feeds: &[Rc<Feed>], result: &io::Result<()>) {
    match result {
        Ok(()) => {
            let up =
                feeds.iter().filter(|feed| !feed.client.is_killed() && clients.contains_key(&feed.client.id)).count();
            log!(Notice, "Diskless rdb transfer, done reading from pipe, {up} replicas still up.");
            log!(Notice, "Background RDB transfer terminated with success");
        }
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            log!(Warning, "Background RDB transfer ended: all its replicas have gone");
        }
        Err(error) => {
            log!(Warning, "Background transfer error: {error}");
            // Half an image is no image: they must begin again.
            feeds.iter().for_each(|feed| feed.client.kill());
        }
    }
}

fn finish_save(instance: &mut Instance, result: &io::Result<File>) {
    let now_ms = instance.now_ms;
    let persistence = &mut instance.persistence;
    persistence.failed = result.is_err();
    match result {
        Ok(_) => {
            persistence.dirty -= persistence.dirty_at_start.min(persistence.dirty);
            persistence.last_save_s = now_ms / 1000;
            persistence.saves += 1;
            log!(Notice, "DB saved on disk");
            log!(Notice, "Background saving terminated with success");
        }
        Err(error) => log!(Warning, "Background saving error: {error}"),
    }
}

/// Sends the dump file, its length before it.
fn send_file(mut file: File, feeds: &[Rc<Feed>], targets: Vec<Target>) {
    if targets.is_empty() {
        return;
    }
    let mut senders: Vec<_> = targets.into_iter().map(|(_, sender)| sender).collect();
    feeds.iter().for_each(|feed| feed.state.set(FeedState::ReceivesSnapshot { is_marked: false }));
    spawn_blocking(move || {
        priority::step_back();
        let mut send = |senders: &mut Vec<mpsc::Sender<Payload>>| -> io::Result<()> {
            let mut left = file.metadata()?.len();
            broadcast(senders, format!("${left}\r\n").into_bytes());
            let mut buffer = vec![0; SLICE_BYTES];
            while left > 0 && !senders.is_empty() {
                let count = file.read(&mut buffer)?;
                if count == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                broadcast(senders, buffer[..count].to_vec());
                left -= count as u64;
            }
            Ok(())
        };
        if let Err(error) = send(&mut senders) {
            log!(Warning, "Can't read the dump file for SYNC: {error}");
        }
    });
}

/// Loads what the directory holds: the append-only file, if one is wanted and there is one; otherwise the dump file, and an
/// append-only file that is wanted is made of that.
///
/// # Errors
/// It can't be read, or it is not what it should be; the words say which file and why.
pub(super) async fn load(server: &Rc<Server>) -> Result<(), String> {
    let remains = recover::remains(server).await;
    if !server.instance.borrow().config.appendonly {
        return load_dump(server, remains).await;
    }
    if let Err(remains) = aof::load(server, remains).await? {
        load_dump(server, remains).await?;
        aof::create(server)?;
    }
    Ok(())
}

/// Loads the dump file, if there is one.
async fn load_dump(server: &Rc<Server>, remains: Option<Remains>) -> Result<(), String> {
    let path = snapshot::dump_path(&server.instance.borrow());
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(remains) = remains {
                recover::recover(server, remains, None).await?;
            }
            return Ok(());
        }
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    let total_bytes = file.metadata().map_or(0, |metadata| metadata.len());
    let started = std::time::Instant::now();
    let point = snapshot::point_of(&server.instance.borrow(), &mut file);
    let point = point.map_err(|error| format!("{}: {error}", path.display()))?;
    // A server that ended in order has saved all of its history: there is nothing to recover.
    let is_saved = |remains: &Remains| {
        point.is_some_and(|point| remains.beyond(point.id.as_str().as_bytes(), point.offset) == Ok(0))
    };
    let remains = remains.filter(|remains| !is_saved(remains));
    let mut loader = Loader::new(&server.instance.borrow());
    if remains.is_some() {
        loader.keep_expired();
    }
    let loaded = load_file(server, loader, file, total_bytes).await;
    let loaded = loaded.map_err(|error| format!("{}: {error}", path.display()))?;
    server.instance.borrow_mut().functions = loaded.functions;
    server.instance.borrow_mut().install(loaded.keyspace, loaded.keys_loaded, loaded.keys_expired);
    let is_recovered = match remains {
        Some(remains) => recover::recover(server, remains, loaded.point).await?,
        None => false,
    };
    if let Some(point) = loaded.point.filter(|_| !is_recovered) {
        let mut instance = server.instance.borrow_mut();
        instance.continue_from(point)?;
        for (db, name) in &loaded.dropped {
            instance.propagate_request(*db, &[b"DEL", name]);
        }
    }
    log!(Notice, "DB loaded from disk: {:.3} seconds", started.elapsed().as_secs_f64());
    Ok(())
}

/// Loads a whole file.
async fn load_file(server: &Server, loader: Loader, file: File, total_bytes: u64) -> Result<Loaded, LoadError> {
    loading::announce(server, total_bytes, false);
    Load::spawn(loader, Source::File(file)).finish(server, || {}).await
}
