//! The append-only file's way to the disk, and back into the data at the start. What goes into it is decided in
//! [`crate::aof`] and in the instance.
//!
//! What a turn has appended is written before anything of that turn leaves the server, be it a reply or a piece of the
//! stream: so whatever anybody was told outlives this process. To write once for all connections that are ready, the
//! replies to writes wait until the others have had their turn. With `appendfsync always` the disk is waited for, too;
//! otherwise a thread does it, once a second or when somebody asks.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{spawn_blocking, yield_now};
use tokio::time::timeout;

use super::{Server, loading, now_ms, recover};
use crate::aof::{self, Kind, Manifest, Part, RequestBase, Restore, Restored, Rewrite, State};
use crate::config::Fsync;
use crate::instance::Instance;
use crate::keyspace::Chunk;
use crate::log::{log, reason};
use crate::replication::Remains;
use crate::snapshot::{self, DumpFile, Image, KeyDelay, Point};

/// How often the disk is asked for what was written.
const SYNC_PERIOD: Duration = Duration::from_secs(1);

/// The files as they are.
#[derive(Default)]
pub(super) struct Files {
    manifest: Manifest,
    sink: Option<Sink>,
    /// Increments that were left, and may not be on the disk as a whole.
    left: Vec<Arc<File>>,
    sync_failed: bool,
    /// How the rewrite that runs is slowed down.
    pause: Option<KeyDelay>,
}

/// The increment that is written to.
struct Sink {
    file: Arc<File>,
    bytes: u64,
    /// `None` while it waits under another name for its base.
    part: Option<Part>,
}

/// A base in the making.
pub(super) struct Rewriting {
    base: Part,
    target: PathBuf,
    /// How the append-only file stood when it was begun.
    state: State,
    compress: bool,
    stamp_s: Option<i64>,
    point: Option<Point>,
}

impl Rewriting {
    /// Whether the base is an image.
    pub(super) fn is_image(&self) -> bool {
        self.base.name.ends_with(".rdb")
    }
}

/// The base's way into its file, on a thread.
pub(super) struct BaseFile {
    file: DumpFile,
    requests: Option<RequestBase>,
    point: Option<Point>,
}

impl BaseFile {
    pub(super) fn create(rewriting: &Rewriting) -> io::Result<BaseFile> {
        let mut file = DumpFile::create(&rewriting.target)?;
        let mut requests = None;
        if !rewriting.is_image() {
            let (base, bytes) = RequestBase::begin(rewriting.compress, rewriting.stamp_s);
            file.write(&bytes)?;
            requests = Some(base);
        }
        Ok(BaseFile { file, requests, point: rewriting.point })
    }

    /// Whether it is an image, and no requests.
    pub(super) fn is_image(&self) -> bool {
        self.requests.is_none()
    }

    /// Takes a piece of the image.
    pub(super) fn write_image(&mut self, slice: &[u8]) -> io::Result<()> {
        if self.is_image() { self.file.write(slice) } else { Ok(()) }
    }

    /// Takes the same as a chunk of the walk.
    pub(super) fn write_chunk(&mut self, chunk: &Chunk) -> io::Result<()> {
        match &mut self.requests {
            None => Ok(()),
            Some(requests) => self.file.write(&requests.encode(chunk)),
        }
    }

    /// Puts it into its place, whole and on the disk.
    pub(super) fn commit(mut self) -> io::Result<()> {
        if let Some(requests) = self.requests.take() {
            self.file.write(&requests.finish(self.point))?;
        }
        self.file.commit().map(|_| ())
    }
}

fn directory(instance: &Instance) -> PathBuf {
    instance.config.dir.join(&instance.config.appenddirname)
}

/// Makes the directory, and sees to it that the disk knows its name.
fn make_directory(instance: &Instance) -> io::Result<()> {
    let directory = directory(instance);
    if directory.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(directory)?;
    sync_directory(&instance.config.dir)
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Where an increment lies until its base is there.
fn temporary_increment(instance: &Instance) -> PathBuf {
    directory(instance).join(format!("temp-{}.incr", instance.config.appendfilename))
}

/// Puts the manifest into its place, whole and on the disk.
fn store(instance: &Instance, manifest: &Manifest) -> io::Result<()> {
    let temporary = directory(instance).join(format!("temp-{}.manifest", instance.config.appendfilename));
    let mut file = File::create(&temporary)?;
    file.write_all(manifest.format().as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, aof::manifest_path(&instance.config))?;
    sync_directory(&directory(instance))
}

impl Files {
    /// Writes what was appended. Whether it is where `appendfsync` wants it.
    fn write(&mut self, instance: &mut Instance) -> bool {
        let Some(sink) = &mut self.sink else { return true };
        let always = instance.config.appendfsync == Fsync::Always;
        if !instance.aof.flush_delay.is_zero() {
            std::thread::sleep(instance.aof.flush_delay);
        }
        let (written, result) = write_all(sink, instance.aof.unwritten());
        let offset = instance.replication.offset;
        sink.bytes += written as u64;
        instance.aof.wrote(written, offset);
        let result = result.and_then(|()| if always { self.sync(instance, offset) } else { Ok(()) });
        match result {
            Ok(()) => {
                if !self.sync_failed && instance.aof.error.take().is_some() {
                    log!(Warning, "AOF write error looks solved, Redis can write again.");
                }
                true
            }
            Err(error) => {
                if instance.aof.error.is_none() {
                    log!(Warning, "Error writing to the AOF file: {}", reason(&error));
                }
                instance.aof.error = Some(reason(&error));
                !always
            }
        }
    }

    /// Waits for the disk.
    fn sync(&mut self, instance: &mut Instance, offset: u64) -> io::Result<()> {
        for file in self.left.iter().chain(self.sink.as_ref().map(|sink| &sink.file)) {
            file.sync_data()?;
        }
        self.left.clear();
        instance.aof_was_synced(offset);
        Ok(())
    }

    /// Makes the file of an increment.
    fn create_increment(path: &Path) -> io::Result<Arc<File>> {
        OpenOptions::new().write(true).create(true).truncate(true).open(path).map(Arc::new)
    }

    /// Leaves the present increment for another one. What was written to it reaches the disk sooner or later.
    fn change_sink(&mut self, sink: Sink) {
        self.left.extend(self.sink.replace(sink).map(|old| old.file));
    }

    /// Adds an increment to the manifest, and goes on with that.
    fn begin_increment(&mut self, instance: &Instance) -> io::Result<()> {
        let part = self.manifest.next_increment(&instance.config.appendfilename);
        let file = Files::create_increment(&directory(instance).join(&part.name))?;
        let mut manifest = self.manifest.clone();
        manifest.increments.push(part.clone());
        store(instance, &manifest)?;
        self.manifest = manifest;
        self.change_sink(Sink { file, bytes: 0, part: Some(part) });
        Ok(())
    }

    /// Prepares a rewrite whose walk begins in this very moment: what is appended from now on goes into another increment.
    fn prepare_rewrite(&mut self, instance: &mut Instance) -> Result<(), String> {
        make_directory(instance).map_err(|error| reason(&error))?;
        match instance.aof.state {
            State::Off => {}
            State::On => {
                self.write(instance);
                if !instance.aof.unwritten().is_empty() {
                    return Err("what was written before is not in the file yet".into());
                }
                self.begin_increment(instance).map_err(|error| reason(&error))?;
            }
            State::Scheduled | State::Starting => {
                instance.need_stream()?;
                let path = temporary_increment(instance);
                let file = Files::create_increment(&path).map_err(|error| reason(&error))?;
                self.left.clear();
                self.sink = Some(Sink { file, bytes: 0, part: None });
                instance.aof.state = State::Starting;
            }
        }
        Ok(())
    }

    /// The base is there: from now on it and the present increment are all that counts.
    fn adopt(&mut self, instance: &mut Instance, base: Part, point: Option<Point>) -> io::Result<()> {
        let directory = directory(instance);
        if let Some(sink) = &mut self.sink
            && sink.part.is_none()
        {
            sink.file.sync_data()?;
            let part = self.manifest.next_increment(&instance.config.appendfilename);
            fs::rename(temporary_increment(instance), directory.join(&part.name))?;
            sink.part = Some(part);
        }
        let base_bytes = fs::metadata(directory.join(&base.name))?.len();
        let increment = self.sink.as_ref().and_then(|sink| sink.part.as_ref());
        let manifest = self.manifest.clone().rewritten(base, increment);
        store(instance, &manifest)?;
        self.manifest = manifest;
        let bytes = base_bytes + self.sink.as_ref().map_or(0, |sink| sink.bytes);
        (instance.aof.current_bytes, instance.aof.base_bytes) = (bytes, bytes);
        if self.sink.is_some() {
            instance.aof.state = State::On;
            // The base is on the disk, and so is everything before it.
            self.left.clear();
            point.iter().for_each(|point| instance.aof_was_synced(point.offset));
        }
        self.tidy(instance);
        Ok(())
    }

    /// Deletes history.
    fn tidy(&mut self, instance: &Instance) {
        if self.manifest.history.is_empty() || instance.config.aof_disable_auto_gc {
            return;
        }
        let directory = directory(instance);
        for part in &self.manifest.history {
            match fs::remove_file(directory.join(&part.name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    log!(Warning, "Can't remove the AOF file {}: {}", part.name, reason(&error));
                }
                _ => {}
            }
        }
        let manifest = Manifest { history: Vec::new(), ..self.manifest.clone() };
        match store(instance, &manifest) {
            Ok(()) => self.manifest = manifest,
            // Next time.
            Err(error) => log!(Warning, "Can't write the AOF manifest: {}", reason(&error)),
        }
    }

    /// Ends an increment that has no base, with its file.
    fn drop_temporary(&mut self, instance: &mut Instance) {
        if self.sink.take_if(|sink| sink.part.is_none()).is_some() {
            log!(Notice, "Removing the temp incr aof file {}", temporary_increment(instance).display());
            let _ = fs::remove_file(temporary_increment(instance));
            instance.aof.close();
        }
    }

    /// Writes a base of the present data while everything else waits, and begins an increment behind it.
    fn create_now(&mut self, instance: &mut Instance) -> io::Result<()> {
        make_directory(instance)?;
        instance.need_stream().map_err(io::Error::other)?;
        let base = self.manifest.next_base(&instance.config.appendfilename, instance.config.aof_use_rdb_preamble);
        let point = write_base(instance, &base)?;
        let path = temporary_increment(instance);
        self.sink = Some(Sink { file: Files::create_increment(&path)?, bytes: 0, part: None });
        self.adopt(instance, base, point)?;
        instance.open_increment(point.map(|point| (point.id, point.offset)));
        instance.aof.written = instance.replication.offset;
        Ok(())
    }

    /// Continues the files that the data were loaded from.
    fn resume(&mut self, instance: &mut Instance, manifest: Manifest, restored: &mut Restored) -> io::Result<()> {
        self.manifest = manifest;
        let directory = directory(instance);
        if let (Some(bytes), Some(last)) = (restored.cut_to, self.manifest.parts().last()) {
            let file = OpenOptions::new().write(true).open(directory.join(&last.name))?;
            file.set_len(bytes)?;
            file.sync_all()?;
        }
        match self.manifest.increments.last().cloned() {
            Some(part) => {
                let file = OpenOptions::new().append(true).open(directory.join(&part.name))?;
                let bytes = file.metadata()?.len();
                self.sink = Some(Sink { file: Arc::new(file), bytes, part: Some(part) });
            }
            None => {
                self.begin_increment(instance)?;
                restored.file_db = 0;
            }
        }
        self.tidy(instance);
        instance.aof.state = State::On;
        (instance.aof.current_bytes, instance.aof.base_bytes) = (restored.bytes, restored.bytes);
        instance.aof.open(restored.point.map(|point| (point.id, point.offset)));
        instance.replication.reselects = instance.replication.is_master();
        Ok(())
    }
}

/// Appends all of `bytes`, or as much of it as cannot be taken back: how much is in the file now.
fn write_all(sink: &Sink, bytes: &[u8]) -> (usize, io::Result<()>) {
    let (mut written, mut file) = (0, &*sink.file);
    while written < bytes.len() {
        match file.write(&bytes[written..]) {
            Ok(0) => return (take_back(sink, written), Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (take_back(sink, written), Err(error)),
        }
    }
    (written, Ok(()))
}

/// Half a request is of no use to anybody: how much of it stays.
fn take_back(sink: &Sink, written: usize) -> usize {
    let taken_back = io::Seek::seek(&mut &*sink.file, io::SeekFrom::Start(sink.bytes));
    match taken_back.and_then(|_| sink.file.set_len(sink.bytes)) {
        Ok(()) => 0,
        Err(_) => written,
    }
}

/// Writes a base of the present data while everything else waits, and says which point it is of.
fn write_base(instance: &mut Instance, base: &Part) -> io::Result<Option<Point>> {
    let target = directory(instance).join(&base.name);
    let image = Image::begin(instance).map_err(io::Error::other)?;
    let rewriting = Rewriting { point: image.point, ..rewriting(instance, base.clone(), target) };
    let mut encoder = image.encoder();
    let mut file = BaseFile::create(&rewriting)?;
    snapshot::walk_now(instance, |chunk| {
        if !file.is_image() {
            return file.write_chunk(chunk);
        }
        snapshot::encode(&mut encoder, chunk, &KeyDelay::fixed(0), |slice| file.write_image(&slice))
    })?;
    file.write_image(&encoder.finish())?;
    file.commit()?;
    Ok(image.point)
}

fn rewriting(instance: &Instance, base: Part, target: PathBuf) -> Rewriting {
    Rewriting {
        base,
        target,
        state: instance.aof.state,
        compress: instance.config.rdbcompression,
        stamp_s: instance.aof_stamp_s(),
        point: None,
    }
}

// --- Writing ---

impl Server {
    /// Whether something was appended that is not in the file yet.
    pub(super) fn has_unwritten(&self) -> bool {
        let instance = self.instance.borrow();
        let waits = instance.aof.is_open() && !instance.aof.unwritten().is_empty();
        // Where the disk has said no, it is asked again from time to time; but nothing is said without it that needs it.
        waits && (instance.aof.error.is_none() || instance.config.appendfsync == Fsync::Always)
    }

    /// Writes what was appended, before anything leaves that depends on it. False if nothing may leave any more.
    #[inline]
    pub(super) fn write_aof(&self) -> bool {
        !self.has_unwritten() || self.write_now()
    }

    #[cold]
    fn write_now(&self) -> bool {
        let mut instance = self.instance.borrow_mut();
        let is_there = self.aof.borrow_mut().write(&mut instance);
        if !is_there {
            log!(Warning, "Can't recover from AOF write error when the AOF fsync policy is 'always'. Exiting...");
            *self.failure.borrow_mut() = Some("what was written could not be put on the disk".into());
            self.stop.notify_one();
        }
        is_there
    }

    /// The disk has said no: tries it again.
    pub(super) fn retry_aof(&self) {
        let waits = {
            let instance = self.instance.borrow();
            instance.aof.error.is_some() && !instance.aof.unwritten().is_empty()
        };
        if waits {
            self.write_now();
        }
    }

    /// Writes what was appended, waits for the disk, and closes the file.
    pub(super) fn stop_aof(&self) {
        let (mut instance, mut files) = (self.instance.borrow_mut(), self.aof.borrow_mut());
        let offset = instance.replication.offset;
        if instance.aof.state == State::On {
            files.write(&mut instance);
            if let Err(error) = files.sync(&mut instance, offset) {
                log!(Warning, "Fail to fsync the AOF file: {}", reason(&error));
            }
        }
        files.drop_temporary(&mut instance);
        instance.aof.rewrite_scheduled = false;
        self.rewrite_wanted.set(false);
        if instance.aof.rewrite.is_some_and(|rewrite| rewrite.is_alone) {
            log!(Notice, "Killing running AOF rewrite child: {}", std::process::id());
            instance.keyspace.abort_walk();
            files.pause.iter().for_each(|pause| pause.set(0));
        }
        files.sink = None;
        files.left.clear();
        instance.aof.close();
        instance.aof.state = State::Off;
    }

    /// Leaves everything on the disk, before the server ends.
    pub(super) fn close_aof(&self) -> io::Result<()> {
        let (mut instance, mut files) = (self.instance.borrow_mut(), self.aof.borrow_mut());
        match instance.aof.state {
            State::Off => Ok(()),
            State::On => {
                log!(Notice, "Calling fsync() on the AOF file.");
                let offset = instance.replication.offset;
                files.write(&mut instance);
                files.sync(&mut instance, offset)?;
                instance.aof.error.take().map_or(Ok(()), |error| Err(io::Error::other(error)))
            }
            // There is no base yet: this is the last moment for one.
            State::Scheduled | State::Starting => {
                instance.keyspace.abort_walk();
                files.drop_temporary(&mut instance);
                files.create_now(&mut instance)
            }
        }
    }

    pub(super) fn tidy_aof(&self) {
        self.aof.borrow_mut().tidy(&self.instance.borrow());
    }
}

/// Asks the disk for what was written: each second, or when somebody waits for it.
pub(super) async fn keep_synced(server: Rc<Server>) {
    loop {
        let is_asked = timeout(SYNC_PERIOD, server.aof_sync.notified()).await.is_ok();
        let Some((files, offset)) = unsynced(&server, is_asked) else { continue };
        let started = Instant::now();
        let syncing = spawn_blocking(move || files.iter().try_for_each(|file| file.sync_data()));
        let result = syncing.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        let mut instance = server.instance.borrow_mut();
        let mut files = server.aof.borrow_mut();
        instance.aof.is_syncing = false;
        instance.aof.delayed_fsyncs += u64::from(started.elapsed() > 2 * SYNC_PERIOD);
        files.sync_failed = result.is_err();
        match result {
            Ok(()) if instance.aof.is_open() => instance.aof_was_synced(offset),
            Ok(()) => {}
            Err(error) => {
                log!(Warning, "Fail to fsync the AOF file: {}", reason(&error));
                instance.aof.error = Some(reason(&error));
            }
        }
    }
}

/// The files that the disk is to be asked for, and the offset that will be there then.
fn unsynced(server: &Server, is_asked: bool) -> Option<(Vec<Arc<File>>, u64)> {
    server.write_aof();
    let mut instance = server.instance.borrow_mut();
    let mut files = server.aof.borrow_mut();
    let config = &instance.config;
    let is_due = is_asked
        || files.sync_failed
        || config.appendfsync == Fsync::EverySecond
            && !(config.no_appendfsync_on_rewrite && instance.aof.rewrite.is_some());
    if !is_due || instance.aof.state != State::On || instance.aof.synced == Some(instance.aof.written) {
        return None;
    }
    let mut unsynced = std::mem::take(&mut files.left);
    unsynced.extend(files.sink.as_ref().map(|sink| Arc::clone(&sink.file)));
    instance.aof.is_syncing = true;
    Some((unsynced, instance.aof.written))
}

// --- Rewriting ---

/// Prepares a rewrite, whose walk begins in this very moment; `None`, and the reason in the log, if it cannot be.
pub(super) fn prepare(server: &Server, instance: &mut Instance) -> Option<Rewriting> {
    let mut files = server.aof.borrow_mut();
    instance.aof.rewrite_scheduled = false;
    instance.aof.rewrite = Some(Rewrite { since_ms: instance.now_ms, is_alone: false });
    if let Err(error) = files.prepare_rewrite(instance) {
        instance.end_rewrite(Err(error));
        return None;
    }
    let base = files.manifest.next_base(&instance.config.appendfilename, instance.config.aof_use_rdb_preamble);
    let target = directory(instance).join(&base.name);
    Some(rewriting(instance, base, target))
}

/// The walk for `image` has begun.
pub(super) fn begin(
    server: &Server,
    instance: &mut Instance,
    rewriting: &mut Rewriting,
    image: &Image,
    is_alone: bool,
) {
    let point = image.point;
    rewriting.point = point;
    server.aof.borrow_mut().pause = Some(image.delay().clone());
    if rewriting.state != State::Off {
        instance.open_increment(point.map(|point| (point.id, point.offset)));
        instance.aof.written = instance.replication.offset;
    }
    instance.aof.rewrite = Some(Rewrite { since_ms: instance.now_ms, is_alone });
    log!(Notice, "Background append only file rewriting started by pid {}", std::process::id());
}

/// The base is there, or not.
pub(super) fn finish(server: &Server, instance: &mut Instance, rewriting: Rewriting, result: io::Result<()>) {
    let mut files = server.aof.borrow_mut();
    let result = match result {
        Ok(()) if instance.aof.state != rewriting.state => Err("the append only file was turned on or off".into()),
        Ok(()) => files.adopt(instance, rewriting.base, rewriting.point).map_err(|error| reason(&error)),
        Err(error) => Err(reason(&error)),
    };
    if result.is_err() {
        let _ = fs::remove_file(&rewriting.target);
        if instance.aof.state == State::Starting {
            files.drop_temporary(instance);
            instance.aof.state = State::Scheduled;
        }
    }
    instance.end_rewrite(result);
    drop(files);
    server.aof_sync.notify_one();
}

// --- Loading ---

/// The manifest of what is there, after a single file of old was made a part; `None` if there is nothing.
fn find(instance: &Instance) -> Result<Option<Manifest>, String> {
    let config = &instance.config;
    let manifest = aof::read_manifest(config).map_err(|error| error.to_string())?;
    let (old, new) = (config.dir.join(&config.appendfilename), directory(instance).join(&config.appendfilename));
    let is_upgrade = aof::is_there(&old)
        && match &manifest {
            None => true,
            Some(manifest) => {
                let is_base = manifest.base.as_ref().is_some_and(|base| base.name == config.appendfilename);
                is_base && manifest.increments.is_empty() && !aof::is_there(&new)
            }
        };
    if !is_upgrade {
        return Ok(manifest);
    }
    let failed = |error: io::Error| format!("can't make {} a part of {}: {error}", old.display(), new.display());
    let base = Part { name: config.appendfilename.clone(), seq: 1, kind: Kind::Base };
    let manifest = Manifest { base: Some(base), ..Manifest::default() };
    make_directory(instance).map_err(failed)?;
    store(instance, &manifest).map_err(failed)?;
    fs::rename(&old, &new).and_then(|()| sync_directory(&directory(instance))).map_err(failed)?;
    log!(Notice, "Successfully migrated an old-style AOF configuration ({}) into the AOF directory.", old.display());
    Ok(Some(manifest))
}

/// Loads the append-only file, if there is one, and goes on with it. `remains` is what the dead server's backlog holds: it
/// is given back if there is no append-only file.
///
/// # Errors
/// It can't be loaded; the words say which file and why. Nothing of it was changed then.
pub(super) async fn load(server: &Rc<Server>, remains: Option<Remains>) -> Result<Result<(), Option<Remains>>, String> {
    let found = find(&server.instance.borrow())?;
    let Some(manifest) = found else { return Ok(Err(remains)) };
    let started = Instant::now();
    let mut restore = Restore::begin(&server.instance.borrow(), &manifest).map_err(|error| error.to_string())?;
    loading::announce(server, restore.total_bytes(), false);
    let mut restored = loop {
        {
            let mut instance = server.instance.borrow_mut();
            instance.set_now(now_ms());
            if let Some(restored) = restore.step(&mut instance).map_err(|error| error.to_string())? {
                break restored;
            }
            if let Some(loading) = &mut instance.loading {
                loading.loaded_bytes = restore.read_bytes();
            }
        }
        yield_now().await;
    };
    {
        let mut instance = server.instance.borrow_mut();
        instance.loading = None;
        instance.persistence.dirty = 0;
        distrust_foreign_bytes(&mut restored, remains.as_ref());
        let resumed = server.aof.borrow_mut().resume(&mut instance, manifest, &mut restored);
        resumed.map_err(|error| format!("can't go on with the append only file: {}", reason(&error)))?;
        if let Some(point) = restored.point {
            instance.replication.stream_db = point.db;
            instance.select_in_aof(restored.file_db);
        }
    }
    let is_recovered = match remains {
        Some(remains) => recover::recover(server, remains, restored.point).await?,
        None => false,
    };
    let mut instance = server.instance.borrow_mut();
    if !is_recovered {
        instance.continue_log(&restored)?;
    }
    instance.aof.written = instance.replication.offset;
    log!(Notice, "DB loaded from append only file: {:.3} seconds", started.elapsed().as_secs_f64());
    Ok(Ok(()))
}

/// The file cannot be ahead of the backlog, unless another server has appended to it: its offset means nothing then.
fn distrust_foreign_bytes(restored: &mut Restored, remains: Option<&Remains>) {
    let (Some(point), Some(remains)) = (restored.point, remains) else { return };
    let previous = remains.history.previous.map(|(id, _)| id);
    if (point.id == remains.history.replid || Some(point.id) == previous) && point.offset > remains.end {
        log!(Warning, "The append only file was written by another server since: its replication offset is not used");
        restored.point = None;
    }
}

/// Makes the append-only file of the data that are there.
///
/// # Errors
/// The disk says no.
pub(super) fn create(server: &Server) -> Result<(), String> {
    let mut instance = server.instance.borrow_mut();
    let created = server.aof.borrow_mut().create_now(&mut instance);
    created.map_err(|error| {
        format!("can't make the append only file in {}: {}", directory(&instance).display(), reason(&error))
    })
}

/// `DEBUG LOADAOF`: loads what is on the disk in place of the data, while everything else waits.
pub(super) fn reload(server: &Server) -> Result<(), String> {
    server.write_aof();
    let mut instance = server.instance.borrow_mut();
    let manifest = aof::read_manifest(&instance.config).map_err(|error| error.to_string())?.unwrap_or_default();
    let empty = crate::keyspace::Keyspace::new(instance.keyspace.databases(), instance.keyspace.seed());
    let mut restore = Restore::begin(&instance, &manifest).map_err(|error| error.to_string())?;
    let old = instance.install(empty, 0, 0);
    let result = loop {
        match restore.step(&mut instance) {
            Ok(None) => {}
            Ok(Some(_)) => break Ok(()),
            Err(error) => break Err(error.to_string()),
        }
    };
    if result.is_err() {
        instance.install(old, 0, 0);
    }
    instance.persistence.dirty = 0;
    result
}
