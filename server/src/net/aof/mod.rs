//! The append-only file's way to the disk, and back into the data at the start. What goes into it is decided in
//! [`crate::aof`] and in the instance.
//!
//! What a turn has appended is written before anything of that turn leaves the server, be it a reply or a piece of the
//! stream: so whatever anybody was told outlives this process. To write once for all connections that are ready, the
//! replies to writes wait until the others have had their turn. With `appendfsync always` the disk is waited for, too;
//! otherwise a thread does it, once a second or when somebody asks.

mod base;
mod files;
mod load;

use std::fs::{self, File};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;
use tokio::time::timeout;

pub(super) use base::{BaseFile, Rewriting};
pub(super) use files::Files;
pub(super) use load::{create, load, reload};

use base::rewriting;
use files::directory;

use super::Server;
use crate::aof::{Rewrite, State};
use crate::config::Fsync;
use crate::instance::Instance;
use crate::log::{log, reason};
use crate::snapshot::Image;

/// How often the disk is asked for what was written.
const SYNC_PERIOD: Duration = Duration::from_secs(1);

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
