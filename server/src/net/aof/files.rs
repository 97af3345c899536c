//! The files, and the manifest that says which of them count: at every moment, whatever ends the process or the machine,
//! the one on the disk names a whole set.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::base::write_base;
use crate::aof::{self, Manifest, Part, Restored, State};
use crate::config::Fsync;
use crate::instance::Instance;
use crate::log::{log, reason};
use crate::snapshot::{KeyDelay, Point};

/// The files as they are.
#[derive(Default)]
pub(in crate::net) struct Files {
    pub(super) manifest: Manifest,
    pub(super) sink: Option<Sink>,
    /// Increments that were left, and may not be on the disk as a whole.
    pub(super) left: Vec<Arc<File>>,
    pub(super) sync_failed: bool,
    /// How the rewrite that runs is slowed down.
    pub(super) pause: Option<KeyDelay>,
}

/// The increment that is written to.
pub(super) struct Sink {
    pub(super) file: Arc<File>,
    bytes: u64,
    /// `None` while it waits under another name for its base.
    part: Option<Part>,
}

pub(super) fn directory(instance: &Instance) -> PathBuf {
    instance.config.dir.join(&instance.config.appenddirname)
}

/// Makes the directory, and sees to it that the disk knows its name.
pub(super) fn make_directory(instance: &Instance) -> io::Result<()> {
    let directory = directory(instance);
    if directory.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(directory)?;
    sync_directory(&instance.config.dir)
}

pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Where an increment lies until its base is there.
fn temporary_increment(instance: &Instance) -> PathBuf {
    directory(instance).join(format!("temp-{}.incr", instance.config.appendfilename))
}

/// Puts the manifest into its place, whole and on the disk.
pub(super) fn store(instance: &Instance, manifest: &Manifest) -> io::Result<()> {
    let temporary = directory(instance).join(format!("temp-{}.manifest", instance.config.appendfilename));
    let mut file = File::create(&temporary)?;
    file.write_all(manifest.format().as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, aof::manifest_path(&instance.config))?;
    sync_directory(&directory(instance))
}

impl Files {
    /// Writes what was appended. Whether it is where `appendfsync` wants it.
    pub(super) fn write(&mut self, instance: &mut Instance) -> bool {
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
    pub(super) fn sync(&mut self, instance: &mut Instance, offset: u64) -> io::Result<()> {
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
    pub(super) fn prepare_rewrite(&mut self, instance: &mut Instance) -> Result<(), String> {
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
    pub(super) fn adopt(&mut self, instance: &mut Instance, base: Part, point: Option<Point>) -> io::Result<()> {
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
    pub(super) fn tidy(&mut self, instance: &Instance) {
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
    pub(super) fn drop_temporary(&mut self, instance: &mut Instance) {
        if self.sink.take_if(|sink| sink.part.is_none()).is_some() {
            log!(Notice, "Removing the temp incr aof file {}", temporary_increment(instance).display());
            let _ = fs::remove_file(temporary_increment(instance));
            instance.aof.close();
        }
    }

    /// Writes a base of the present data while everything else waits, and begins an increment behind it.
    pub(super) fn create_now(&mut self, instance: &mut Instance) -> io::Result<()> {
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
    pub(super) fn resume(
        &mut self,
        instance: &mut Instance,
        manifest: Manifest,
        restored: &mut Restored,
    ) -> io::Result<()> {
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
