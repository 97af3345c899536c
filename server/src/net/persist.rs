//! Snapshots on their way to a file or to replicas, and the dump file's loading at the start.
//!
//! One walk at a time: it is cut into slices between requests, a thread of its own encodes the chunks and writes them
//! where they go, and a full queue between the two makes the walk wait.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;

use super::{Payload, Server, now_ms};
use crate::instance::{Instance, Loading};
use crate::keyspace::Chunk;
use crate::log::log;
use crate::rdb::Encoder;
use crate::replication::{Feed, FeedState, History};
use crate::snapshot::{self, DumpFile, Image, Loader, Point, SLICE_BYTES};

/// Chunks that wait to be encoded before the walk waits.
const CHUNKS_QUEUED: usize = 4;

/// What a thread that encodes is sent: chunks, then the end. A queue that ends without it was given up.
type Chunks = mpsc::Receiver<Option<Chunk>>;

/// Where a snapshot goes.
enum Target {
    /// Into the dump file.
    Disk,
    /// To replicas, as it is made.
    Sockets,
}

/// Makes the snapshots that are asked for, one after the other.
pub(super) async fn run(server: Rc<Server>) {
    loop {
        server.snapshot.notified().await;
        while let Some(target) = next_target(&server).await {
            match target {
                Target::Disk => save(&server).await,
                Target::Sockets => stream_to_replicas(&server).await,
            }
        }
    }
}

fn waiting(instance: &Instance) -> Vec<Rc<Feed>> {
    let waits = |feed: &&Rc<Feed>| feed.state.get() == FeedState::WaitsForSnapshot && !feed.client.is_killed();
    instance.replication.feeds.iter().filter(waits).cloned().collect()
}

/// What to do next, once all replicas that are about to join have had their time.
async fn next_target(server: &Server) -> Option<Target> {
    if server.instance.borrow().loading.is_some() {
        return None;
    }
    if waiting(&server.instance.borrow()).is_empty() {
        return server.save_wanted.take().then_some(Target::Disk);
    }
    // Those that are in this very turn's queue join.
    yield_now().await;
    wait_for_company(server).await;
    let instance = server.instance.borrow();
    let any_streams = waiting(&instance).iter().any(|feed| feed.eof);
    let target = if instance.config.repl_diskless_sync && any_streams { Target::Sockets } else { Target::Disk };
    Some(target)
}

/// Waits for more replicas, for as long as it is configured or until there are enough.
async fn wait_for_company(server: &Server) {
    let started = Instant::now();
    loop {
        let left = {
            let instance = server.instance.borrow();
            let config = &instance.config;
            let enough = config.repl_diskless_sync_max_replicas as usize;
            let complete = enough > 0 && waiting(&instance).len() >= enough;
            if complete { Duration::ZERO } else { config.repl_diskless_sync_delay.saturating_sub(started.elapsed()) }
        };
        if left.is_zero() {
            return;
        }
        log!(Notice, "Delay next BGSAVE for diskless SYNC");
        // Whoever comes is announced.
        let _ = tokio::time::timeout(left, server.snapshot.notified()).await;
    }
}

/// A replica's snapshot begins: its cursor is where the snapshot ends.
fn promise(server: &Server, feeds: &[Rc<Feed>], point: Point) -> Vec<mpsc::Sender<Payload>> {
    server.instance.borrow_mut().promise_image(feeds, point);
    let mut payloads = server.payloads.borrow_mut();
    feeds.iter().filter_map(|feed| payloads.remove(&feed.client.id)).collect()
}

/// Lets the walk go on between requests until it is over or nobody takes its chunks or `wants` them any more.
async fn walk(server: &Server, chunks: mpsc::Sender<Option<Chunk>>, wants: impl Fn(&Instance) -> bool) {
    loop {
        let chunk = server.instance.borrow_mut().keyspace.walk_slice(SLICE_BYTES);
        let (last, keys) = (chunk.is_none(), chunk.as_ref().map_or(0, |chunk| chunk.iter().count()));
        if chunks.send(chunk).await.is_err() || last || !dawdle(server, keys, &wants).await {
            break;
        }
        yield_now().await;
    }
    server.instance.borrow_mut().keyspace.abort_walk();
}

/// Takes as long for so many keys as `rdb-key-save-delay` says, for tests that need a slow snapshot. Whether it is still
/// wanted then.
async fn dawdle(server: &Server, keys: usize, wants: impl Fn(&Instance) -> bool) -> bool {
    const STEP: Duration = Duration::from_millis(10);
    let delay = server.instance.borrow().config.rdb_key_save_delay;
    let until = Instant::now() + Duration::from_micros(delay.max(0).unsigned_abs()) * keys as u32;
    loop {
        if !wants(&server.instance.borrow()) {
            return false;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        tokio::time::sleep(left.min(STEP)).await;
    }
}

/// Runs `work` on a thread of its own, fed by the walk, and returns its result.
async fn walk_into<T: Send + 'static>(
    server: &Server,
    wants: impl Fn(&Instance) -> bool,
    work: impl FnOnce(Chunks) -> T + Send + 'static,
) -> Option<T> {
    let (sender, chunks) = mpsc::channel(CHUNKS_QUEUED);
    let (report, result) = oneshot::channel();
    let spawned = thread::Builder::new().name("snapshot".into()).spawn(move || {
        // Nobody asks any more if the server ends.
        let _ = report.send(work(chunks));
    });
    if let Err(error) = spawned {
        log!(Warning, "Can't save in background: a thread can't be started: {error}");
    }
    walk(server, sender, wants).await;
    result.await.ok()
}

/// Encodes what comes and hands it on in slices; false if the walk was given up.
fn encode_all(
    mut encoder: Encoder,
    mut chunks: Chunks,
    mut write: impl FnMut(Vec<u8>) -> io::Result<()>,
) -> io::Result<bool> {
    while let Some(message) = chunks.blocking_recv() {
        let Some(chunk) = message else {
            write(encoder.finish())?;
            return Ok(true);
        };
        snapshot::encode(&mut encoder, &chunk, &mut write)?;
    }
    Ok(false)
}

/// `BGSAVE`, and full resyncs through the dump file for those who can't take a stream.
async fn save(server: &Rc<Server>) {
    let (image, feeds, path) = {
        let mut instance = server.instance.borrow_mut();
        instance.set_now(now_ms());
        let feeds = waiting(&instance);
        if !feeds.is_empty() {
            log!(Notice, "Starting BGSAVE for SYNC with target: disk");
        }
        let Ok(image) = Image::begin(&mut instance) else { return };
        let now_ms = instance.now_ms;
        let persistence = &mut instance.persistence;
        persistence.saving_since_ms = Some(now_ms);
        persistence.last_try_ms = now_ms;
        persistence.dirty_at_start = persistence.dirty;
        log!(Notice, "Background saving started by pid {}", std::process::id());
        (image, feeds, snapshot::dump_path(&instance))
    };
    let senders = image.point.map_or_else(Vec::new, |point| promise(server, &feeds, point));
    let target = path.clone();
    let result = walk_into(
        server,
        |_| true,
        move |chunks| {
            let mut file = DumpFile::create(&target)?;
            if !encode_all(image.encoder(), chunks, |bytes| file.write(&bytes))? {
                return Err(io::Error::other("it was given up"));
            }
            file.commit()
        },
    )
    .await;
    let result = result.unwrap_or_else(|| Err(io::Error::other("its thread has ended")));
    finish_save(&mut server.instance.borrow_mut(), &result);
    match result {
        Ok(()) if !senders.is_empty() => send_file(path, senders),
        Ok(()) => {}
        Err(_) => feeds.iter().for_each(|feed| feed.client.kill()),
    }
}

fn finish_save(instance: &mut Instance, result: &io::Result<()>) {
    instance.set_now(now_ms());
    let preimage_bytes = instance.keyspace.walk_preimage_bytes();
    let now_ms = instance.now_ms;
    let persistence = &mut instance.persistence;
    let started_ms = persistence.saving_since_ms.take().unwrap_or(now_ms);
    persistence.last_duration_s = Some((now_ms - started_ms) / 1000);
    persistence.last_preimage_bytes = preimage_bytes;
    persistence.failed = result.is_err();
    match result {
        Ok(()) => {
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
fn send_file(path: PathBuf, mut senders: Vec<mpsc::Sender<Payload>>) {
    let spawned = thread::Builder::new().name("send-snapshot".into()).spawn(move || {
        let send = |senders: &mut Vec<mpsc::Sender<Payload>>| -> io::Result<()> {
            let mut file = File::open(&path)?;
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
    if let Err(error) = spawned {
        log!(Warning, "Can't send the dump file: a thread can't be started: {error}");
    }
}

/// Sends a piece to everyone who still takes it.
fn broadcast(senders: &mut Vec<mpsc::Sender<Payload>>, bytes: Vec<u8>) {
    let piece: Payload = Arc::from(bytes);
    senders.retain(|sender| sender.blocking_send(Arc::clone(&piece)).is_ok());
}

/// A full resync for all that wait, straight to their sockets.
async fn stream_to_replicas(server: &Rc<Server>) {
    let (image, feeds) = {
        let mut instance = server.instance.borrow_mut();
        instance.set_now(now_ms());
        let feeds: Vec<_> = waiting(&instance).into_iter().filter(|feed| feed.eof).collect();
        log!(Notice, "Starting BGSAVE for SYNC with target: replicas sockets");
        let Ok(image) = Image::begin(&mut instance) else { return };
        log!(Notice, "Background RDB transfer started by pid {}", std::process::id());
        (image, feeds)
    };
    let Some(point) = image.point else { return };
    let mut senders = promise(server, &feeds, point);
    // The mark is as long as a replication id, and as unlikely to be met in the data.
    let mark = server.instance.borrow_mut().random_id();
    let receivers = feeds.clone();
    let wants = move |instance: &Instance| receivers.iter().any(|feed| instance.clients.contains_key(&feed.client.id));
    let sent = walk_into(server, wants, move |chunks| {
        broadcast(&mut senders, format!("$EOF:{mark}\r\n").into_bytes());
        let complete = encode_all(image.encoder(), chunks, |bytes| {
            broadcast(&mut senders, bytes);
            if senders.is_empty() { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
        });
        if matches!(complete, Ok(true)) {
            broadcast(&mut senders, mark.as_str().as_bytes().to_vec());
            log!(Notice, "Diskless rdb transfer, done reading from pipe, {} replicas still up.", senders.len());
        }
        complete
    })
    .await;
    match sent {
        Some(Ok(true)) => log!(Notice, "Background RDB transfer terminated with success"),
        Some(Err(_)) => log!(Warning, "Background RDB transfer ended: all its replicas have gone"),
        Some(Ok(false)) | None => {
            log!(Warning, "Background transfer error");
            // Half an image is no image: they must begin again.
            feeds.iter().for_each(|feed| feed.client.kill());
        }
    }
}

/// Loads the dump file, if there is one, a piece at a time.
///
/// # Errors
/// It can't be read, or it is not what it should be; the words say which file and why.
pub(super) async fn load(server: &Rc<Server>) -> Result<(), String> {
    let path = snapshot::dump_path(&server.instance.borrow());
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    let total_bytes = file.metadata().map_or(0, |metadata| metadata.len());
    let started = std::time::Instant::now();
    let mut loader = begin_loading(server, total_bytes, false);
    load_file(server, &mut loader, &mut file).await.map_err(|error| format!("{}: {error}", path.display()))?;
    let loaded = loader.finish().map_err(|error| format!("{}: {error}", path.display()))?;
    {
        let mut instance = server.instance.borrow_mut();
        instance.install(loaded.keyspace, loaded.keys_loaded, loaded.keys_expired);
        if let Some(point) = loaded.point {
            resume_history(&mut instance, point)?;
        }
        for (db, name) in &loaded.dropped {
            instance.propagate_request(*db, &[b"DEL", name]);
        }
    }
    log!(Notice, "DB loaded from disk: {:.3} seconds", started.elapsed().as_secs_f64());
    Ok(())
}

/// What was loaded is a point of a known history, and those who know it may continue.
fn resume_history(instance: &mut Instance, point: Point) -> Result<(), String> {
    let replication = &mut instance.replication;
    replication.offset = point.offset;
    replication.stream_db = point.db;
    if !replication.is_master() {
        replication.history = History { replid: point.id, previous: None };
        replication.resumable = true;
        return Ok(());
    }
    let previous = Some((point.id, point.offset));
    replication.history = History { replid: replication.history.replid, previous };
    instance.create_backlog()
}

/// Says that a data set is being loaded, and makes what loads it.
pub(super) fn begin_loading(server: &Server, total_bytes: u64, serves_old_data: bool) -> Loader {
    let mut instance = server.instance.borrow_mut();
    instance.loading = Some(Loading { started_ms: instance.now_ms, total_bytes, loaded_bytes: 0, serves_old_data });
    Loader::new(&instance)
}

/// How many keys an image in a file has, without loading it; gives way to others now and then.
pub(super) async fn count_keys(server: &Server, file: &mut File) -> Result<u64, snapshot::LoadError> {
    let (mut counter, mut buffer) = (snapshot::KeyCounter::new(&server.instance.borrow()), Vec::new());
    while snapshot::read_slice(file, &mut buffer)? && !counter.feed(&buffer)? {
        yield_now().await;
    }
    Ok(counter.keys())
}

/// Loads a whole file, giving way to others now and then.
pub(super) async fn load_file(
    server: &Server,
    loader: &mut Loader,
    file: &mut File,
) -> Result<(), snapshot::LoadError> {
    let mut buffer = Vec::new();
    while snapshot::read_slice(file, &mut buffer)? {
        let complete = loader.feed(&buffer)?;
        if let Some(loading) = &mut server.instance.borrow_mut().loading {
            loading.loaded_bytes += buffer.len() as u64;
        }
        if complete {
            break;
        }
        yield_now().await;
    }
    Ok(())
}
