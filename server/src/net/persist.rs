//! Snapshots on their way to a file or to replicas, and the dump file's loading at the start.
//!
//! One walk at a time serves everyone who wants a snapshot when it begins: the dump file, and all replicas. It is cut into
//! slices between requests; a thread of its own encodes the chunks and writes them where they go, and a full queue between
//! the two makes the walk wait. Who comes later joins a walk whose image goes into a file, and otherwise has the next one.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{spawn_blocking, yield_now};

use super::aof::{self, BaseFile, Rewriting};
use super::loading::{self, Load, Source};
use super::{Payload, Server, now_ms, recover, step_back};
use crate::instance::Instance;
use crate::keyspace::Chunk;
use crate::log::log;
use crate::replication::{Feed, FeedState, Remains, ReplicationId};
use crate::snapshot::{self, DumpFile, Image, LoadError, Loaded, Loader, Point, SLICE_BYTES};

/// Chunks that wait to be encoded before the walk waits.
const CHUNKS_QUEUED: usize = 4;

/// What the thread that encodes is sent: chunks, then the end. A queue that ends without it was given up.
type Chunks = mpsc::Receiver<Option<Chunk>>;

/// What one walk is made for.
struct Round {
    /// The dump file is to be written.
    saves: bool,
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
    let diskless = instance.config.repl_diskless_sync;
    let (streamed, filed): (Vec<_>, Vec<_>) = waiting(&instance).into_iter().partition(|feed| diskless && feed.eof);
    let saves = server.save_wanted.take() || !filed.is_empty();
    let rewrites = server.rewrite_wanted.take();
    (saves || rewrites || !streamed.is_empty()).then_some(Round { saves, rewrites, streamed, filed })
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
    let senders = take_senders(server, &round.streamed);
    let (chunks, received) = mpsc::channel(CHUNKS_QUEUED);
    let target = round.saves.then(|| snapshot::dump_path(&server.instance.borrow()));
    // As long as a replication id, and as unlikely to be met in the data.
    let mark = server.instance.borrow_mut().random_id();
    let rewriting = rewriting.map(Arc::new);
    let base = rewriting.clone();
    let encoding = spawn_blocking(move || encode(&image, received, target, base.as_deref(), senders, mark));
    walk(server, chunks).await;
    let made = encoding.await.unwrap_or_else(|error| Made::failed(&error.to_string()));
    finish(server, &round, rewriting.and_then(Arc::into_inner), made);
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
    let persistence = &mut instance.persistence;
    persistence.snapshot_since_ms = Some(now_ms);
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
    if let Some(point) = image.point {
        instance.promise_image(&round.streamed, point, FeedState::ReceivesSnapshot { is_marked: true });
        instance.promise_image(&round.filed, point, FeedState::WaitsForFile);
        *server.saving.borrow_mut() = round.saves.then(|| Saving { point, filed: round.filed.clone() });
    }
    Some((image, rewriting))
}

/// Lets replicas that have just come have the file that is being written, if the stream since its moment is still there.
pub(super) fn join(server: &Server) {
    let mut saving = server.saving.borrow_mut();
    let Some(Saving { point, filed }) = saving.as_mut() else { return };
    let mut instance = server.instance.borrow_mut();
    let replication = &instance.replication;
    let reaches = replication.backlog.as_ref().is_some_and(|backlog| backlog.slices(point.offset).is_some());
    if !reaches || replication.history.replid != point.id {
        return;
    }
    // A `SYNC` of old says nothing of the database that the stream has selected.
    let joining: Vec<_> = waiting(&instance).into_iter().filter(|feed| !feed.old_sync).collect();
    if !joining.is_empty() {
        log!(Notice, "Waiting for end of BGSAVE for SYNC");
        instance.promise_image(&joining, *point, FeedState::WaitsForFile);
        filed.extend(joining);
    }
}

/// The queues of these replicas' connections.
fn take_senders(server: &Server, feeds: &[Rc<Feed>]) -> Vec<mpsc::Sender<Payload>> {
    let mut payloads = server.payloads.borrow_mut();
    feeds.iter().filter_map(|feed| payloads.remove(&feed.client.id)).collect()
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
            instance.keyspace.walk_slice(SLICE_BYTES)
        };
        let last = chunk.is_none();
        if chunks.send(chunk).await.is_err() || last {
            break;
        }
        yield_now().await;
    }
    server.instance.borrow_mut().keyspace.abort_walk();
}

/// What has become of a snapshot.
struct Made {
    /// The image was encoded to its end.
    image: io::Result<()>,
    /// The dump file, if one was to be written.
    file: Option<io::Result<File>>,
    /// The append-only file's base, if one was to be made.
    base: Option<io::Result<()>>,
}

impl Made {
    fn failed(reason: &str) -> Made {
        let error = || io::Error::other(reason.to_owned());
        Made { image: Err(error()), file: Some(Err(error())), base: Some(Err(error())) }
    }
}

/// Where an image goes as it is encoded.
struct Outputs {
    file: Option<io::Result<DumpFile>>,
    base: Option<io::Result<BaseFile>>,
    replicas: Vec<mpsc::Sender<Payload>>,
}

impl Outputs {
    /// Hands a slice to all. An empty one only asks whether anybody is there.
    fn write(&mut self, slice: Vec<u8>) -> io::Result<()> {
        if let Some(Ok(file)) = &mut self.file
            && let Err(error) = file.write(&slice)
        {
            self.file = Some(Err(error));
        }
        self.write_base(|base| base.write_image(&slice));
        if slice.is_empty() {
            self.replicas.retain(|replica| !replica.is_closed());
        } else {
            broadcast(&mut self.replicas, slice);
        }
        if self.replicas.is_empty() && !matches!(self.file, Some(Ok(_))) && !matches!(self.base, Some(Ok(_))) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }

    /// Whether anybody has a use for the image itself.
    fn want_image(&self) -> bool {
        self.file.is_some() || !self.replicas.is_empty() || self.base.iter().flatten().any(BaseFile::is_image)
    }

    fn write_base(&mut self, write: impl FnOnce(&mut BaseFile) -> io::Result<()>) {
        if let Some(Ok(base)) = &mut self.base
            && let Err(error) = write(base)
        {
            self.base = Some(Err(error));
        }
    }
}

/// Encodes what comes, into a file at `target` if there is one, and to the replicas, for whom `mark` follows the end.
fn encode(
    image: &Image,
    chunks: Chunks,
    target: Option<PathBuf>,
    rewriting: Option<&Rewriting>,
    replicas: Vec<mpsc::Sender<Payload>>,
    mark: ReplicationId,
) -> Made {
    step_back();
    let file = target.map(|target| DumpFile::create(&target));
    let base = rewriting.map(BaseFile::create);
    let mut outputs = Outputs { file, base, replicas };
    broadcast(&mut outputs.replicas, format!("$EOF:{mark}\r\n").into_bytes());
    let encoded = encode_chunks(image, chunks, &mut outputs);
    if encoded.is_ok() {
        broadcast(&mut outputs.replicas, mark.as_str().as_bytes().to_vec());
    }
    // That nothing follows tells them that it is over; they need not wait for the disk.
    outputs.replicas.clear();
    let file = outputs.file.map(|file| match &encoded {
        Ok(()) => file.and_then(DumpFile::commit),
        // What the disk said comes before what followed from it.
        Err(error) => file.and_then(|_| Err(io::Error::new(error.kind(), error.to_string()))),
    });
    let base = outputs.base.map(|base| match &encoded {
        Ok(()) => base.and_then(BaseFile::commit),
        Err(error) => base.and_then(|_| Err(io::Error::new(error.kind(), error.to_string()))),
    });
    Made { image: encoded, file, base }
}

fn encode_chunks(image: &Image, mut chunks: Chunks, outputs: &mut Outputs) -> io::Result<()> {
    let mut encoder = image.encoder();
    while let Some(message) = chunks.blocking_recv() {
        let Some(chunk) = message else { return outputs.write(encoder.finish()) };
        outputs.write_base(|base| base.write_chunk(&chunk));
        if !outputs.want_image() {
            (1..).zip(chunk.iter()).for_each(|(number, _)| image.delay().pause(number));
            outputs.write(Vec::new())?;
            continue;
        }
        snapshot::encode(&mut encoder, &chunk, image.delay(), |slice| outputs.write(slice))?;
    }
    Err(io::Error::other("it was given up"))
}

fn finish(server: &Server, round: &Round, rewriting: Option<Rewriting>, made: Made) {
    let saving = server.saving.take();
    let mut instance = server.instance.borrow_mut();
    instance.set_now(now_ms());
    let now_ms = instance.now_ms;
    let persistence = &mut instance.persistence;
    let started_ms = persistence.snapshot_since_ms.take().unwrap_or(now_ms);
    persistence.is_saving = false;
    if round.saves || !round.streamed.is_empty() {
        persistence.last_duration_s = Some((now_ms - started_ms) / 1000);
    }
    log!(Notice, "Writes have made the snapshot copy {} bytes before their turn", persistence.last_preimage_bytes);
    if let Some(rewriting) = rewriting {
        let base = made.base.unwrap_or_else(|| Err(io::Error::other("it was not made")));
        aof::finish(server, &mut instance, rewriting, base);
    }
    if !round.streamed.is_empty() {
        finish_streams(&round.streamed, &made.image);
    }
    if !round.saves {
        return;
    }
    let filed = saving.map_or_else(Vec::new, |saving| saving.filed);
    let file = made.file.unwrap_or_else(|| Err(io::Error::other("it was not written")));
    finish_save(&mut instance, &file);
    match file {
        Ok(file) => send_file(file, &filed, take_senders(server, &filed)),
        Err(_) => filed.iter().for_each(|feed| feed.client.kill()),
    }
}

fn finish_streams(feeds: &[Rc<Feed>], result: &io::Result<()>) {
    match result {
        Ok(()) => log!(Notice, "Background RDB transfer terminated with success"),
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
fn send_file(mut file: File, feeds: &[Rc<Feed>], mut senders: Vec<mpsc::Sender<Payload>>) {
    if senders.is_empty() {
        return;
    }
    feeds.iter().for_each(|feed| feed.state.set(FeedState::ReceivesSnapshot { is_marked: false }));
    spawn_blocking(move || {
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

/// Sends a piece to everyone who still takes it. Who takes nothing makes the others wait until it is cut.
fn broadcast(replicas: &mut Vec<mpsc::Sender<Payload>>, bytes: Vec<u8>) {
    let piece: Payload = Arc::from(bytes);
    replicas.retain(|replica| replica.blocking_send(Arc::clone(&piece)).is_ok());
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
