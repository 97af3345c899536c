//! Loading all parts, one after the other, in steps: files are read here, and nothing is written.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::manifest::{Manifest, ManifestError, Part};
use super::{Note, holds_a_request};
use crate::config::Config;
use crate::instance::{Found, Instance, Requests, RequestsError};
use crate::log::{log, reason};
use crate::snapshot::{self, LoadError, Loader, Point, SLICE_BYTES};

/// Why the append-only file cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum AofError {
    /// The manifest is none.
    #[error("{error} in {path}")]
    Manifest {
        /// Where it is.
        path: String,
        /// What is wrong with it.
        error: ManifestError,
    },
    /// A file cannot be read.
    #[error("can't read the append only file {name} : {}", reason(error))]
    Io {
        /// Which.
        name: String,
        /// Why.
        error: io::Error,
    },
    /// The image that it begins with cannot be loaded.
    #[error("the image in the append only file {name} can't be loaded: {error}")]
    Image {
        /// Which.
        name: String,
        /// Why.
        error: LoadError,
    },
    /// Its requests cannot be applied.
    #[error(
        "{}; nothing was changed (hint: make a backup, then see redis-check-aof --fix)",
        error.to_string().replace("{}", name)
    )]
    Requests {
        /// Which.
        name: String,
        /// Where, and what is wrong there.
        error: RequestsError,
    },
    /// It ends within a request or a transaction, and may not be cut.
    #[error(
        "Unexpected end of file reading the append only file {name}: whole up to byte {whole_to} of {bytes}. {why} \
         (hint: make a backup, then see redis-check-aof --fix)"
    )]
    Torn {
        /// The file.
        name: String,
        /// Where its last whole request ends.
        whole_to: u64,
        /// How long it is.
        bytes: u64,
        /// Why it is not cut.
        why: &'static str,
    },
}

/// Where the manifest lies.
pub fn manifest_path(config: &Config) -> PathBuf {
    config.dir.join(&config.appenddirname).join(format!("{}.manifest", config.appendfilename))
}

/// The manifest, if there is one.
///
/// # Errors
/// It can't be read, or is none.
pub fn read_manifest(config: &Config) -> Result<Option<Manifest>, AofError> {
    let path = manifest_path(config);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(AofError::Io { name: path.display().to_string(), error }),
    };
    let manifest = Manifest::parse(&text);
    manifest.map(Some).map_err(|error| AofError::Manifest { path: path.display().to_string(), error })
}

/// Whether there is a single append-only file, as servers before Redis 7 wrote it.
pub fn is_there(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file())
}

/// What was restored.
#[derive(Debug, Default)]
pub struct Restored {
    /// Where in a history the data are, if the parts say so.
    pub point: Option<Point>,
    /// The database that a reader of the last file has selected at its end.
    pub file_db: usize,
    /// The stream that ends at that point, as much of it as a backlog has room for.
    pub recent: Vec<u8>,
    /// The last file has to be cut to so many bytes.
    pub cut_to: Option<u64>,
    /// The length of all files.
    pub bytes: u64,
}

/// A load that goes on in steps.
pub struct Restore {
    directory: PathBuf,
    parts: VecDeque<Part>,
    stage: Stage,
    cuts: bool,
    recent_max: usize,
    /// Where the last whole request or transaction ends in the stream.
    whole_offset: Option<u64>,
    restored: Restored,
    read_bytes: u64,
}

enum Stage {
    Between,
    Image(Box<Loader>, File, String),
    Requests(Box<Requests>, File, String),
}

impl Restore {
    /// Begins to load the parts of `manifest` into the data, which are empty.
    ///
    /// # Errors
    /// A part is missing.
    pub fn begin(instance: &Instance, manifest: &Manifest) -> Result<Restore, AofError> {
        let directory = instance.config.dir.join(&instance.config.appenddirname);
        let mut restored = Restored::default();
        for part in manifest.parts() {
            let metadata = fs::metadata(directory.join(&part.name));
            restored.bytes += metadata.map_err(|error| AofError::Io { name: part.name.clone(), error })?.len();
        }
        Ok(Restore {
            directory,
            parts: manifest.parts().cloned().collect(),
            stage: Stage::Between,
            cuts: instance.config.aof_load_truncated,
            recent_max: usize::try_from(instance.config.repl_backlog_size).unwrap_or(usize::MAX),
            whole_offset: None,
            restored,
            read_bytes: 0,
        })
    }

    /// Bytes of all files.
    pub fn total_bytes(&self) -> u64 {
        self.restored.bytes
    }

    /// Bytes read so far.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    /// Loads some more; what was restored when there is no more.
    ///
    /// # Errors
    /// [`AofError`]
    pub fn step(&mut self, instance: &mut Instance) -> Result<Option<Restored>, AofError> {
        let mut buffer = Vec::new();
        match std::mem::replace(&mut self.stage, Stage::Between) {
            Stage::Between => {
                let Some(part) = self.parts.pop_front() else { return Ok(Some(std::mem::take(&mut self.restored))) };
                self.stage = self.open(instance, part)?;
            }
            Stage::Image(mut loader, mut file, name) => {
                self.read(&mut file, &name, &mut buffer)?;
                let image_error = |error| AofError::Image { name: name.clone(), error };
                // The end of the file is told by `finish`.
                let is_complete = buffer.is_empty() || loader.feed(&buffer).map_err(image_error)?;
                self.stage = if is_complete {
                    self.install(instance, *loader, file, name)?
                } else {
                    Stage::Image(loader, file, name)
                };
            }
            Stage::Requests(mut requests, mut file, name) => {
                self.read(&mut file, &name, &mut buffer)?;
                requests.feed(&buffer);
                let applied = self.apply(instance, &mut requests);
                if applied.is_err() || buffer.is_empty() {
                    self.end_file(instance, *requests, &name, applied)?;
                } else {
                    self.stage = Stage::Requests(requests, file, name);
                }
            }
        }
        Ok(None)
    }

    fn read(&mut self, file: &mut File, name: &str, buffer: &mut Vec<u8>) -> Result<(), AofError> {
        snapshot::read_slice(file, buffer).map_err(|error| AofError::Io { name: name.into(), error })?;
        self.read_bytes += buffer.len() as u64;
        Ok(())
    }

    fn open(&mut self, instance: &mut Instance, part: Part) -> Result<Stage, AofError> {
        let io_error = |error| AofError::Io { name: part.name.clone(), error };
        let mut file = File::open(self.directory.join(&part.name)).map_err(io_error)?;
        let mut magic = Vec::new();
        (&mut file).take(6).read_to_end(&mut magic).map_err(io_error)?;
        file.seek(SeekFrom::Start(0)).map_err(io_error)?;
        if magic.starts_with(b"REDIS") || magic == b"VALKEY" {
            let mut loader = Loader::new(instance);
            loader.keep_expired();
            return Ok(Stage::Image(Box::new(loader), file, part.name));
        }
        let requests = Requests::begin(instance, &part.name, 0);
        Ok(Stage::Requests(Box::new(requests), file, part.name))
    }

    /// Takes over the image's data. Requests may follow it in the same file.
    fn install(
        &mut self,
        instance: &mut Instance,
        loader: Loader,
        mut file: File,
        name: String,
    ) -> Result<Stage, AofError> {
        let image_bytes = loader.image_bytes();
        let loaded = loader.finish().map_err(|error| AofError::Image { name: name.clone(), error })?;
        loaded.tell();
        self.restored.point = loaded.point;
        let loading = instance.loading;
        instance.functions = loaded.functions;
        instance.install(loaded.keyspace, loaded.keys_loaded, loaded.keys_expired);
        instance.loading = loading;
        file.seek(SeekFrom::Start(image_bytes)).map_err(|error| AofError::Io { name: name.clone(), error })?;
        let requests = Requests::begin(instance, &name, image_bytes);
        Ok(Stage::Requests(Box::new(requests), file, name))
    }

    fn apply(&mut self, instance: &mut Instance, requests: &mut Requests) -> Result<(), RequestsError> {
        loop {
            if !requests.is_in_transaction() {
                self.whole_offset = self.restored.point.map(|point| point.offset);
            }
            let Some(met) = requests.step(instance)? else { return Ok(()) };
            self.count(&met);
        }
    }

    /// Follows the stream.
    fn count(&mut self, met: &Found) {
        match met {
            Found::Request(bytes) => {
                let Some(point) = &mut self.restored.point else { return };
                point.offset += bytes.len() as u64;
                keep_recent(&mut self.restored.recent, bytes, self.recent_max);
            }
            Found::Note(Note::Stream { id, offset }) => {
                if self.restored.point.is_none_or(|point| point.offset != *offset) {
                    self.restored.recent.clear();
                }
                let db = self.restored.point.map_or(0, |point| point.db);
                self.restored.point = Some(Point { id: *id, offset: *offset, db });
            }
            Found::Note(Note::Time(_) | Note::Other) => {}
        }
    }

    fn end_file(
        &mut self,
        instance: &mut Instance,
        requests: Requests,
        name: &str,
        applied: Result<(), RequestsError>,
    ) -> Result<(), AofError> {
        let (whole_to, bytes) = (requests.whole_to(), requests.end());
        let is_broken = holds_a_request(requests.rest());
        let db = requests.finish(instance);
        applied.map_err(|error| AofError::Requests { name: name.into(), error })?;
        self.restored.file_db = db.unwrap_or(0);
        if let (Some(db), Some(point)) = (db, &mut self.restored.point) {
            point.db = db;
        }
        if whole_to == bytes {
            return Ok(());
        }
        let why = match (is_broken, self.parts.is_empty(), self.cuts) {
            (true, ..) => Some("Requests follow that are whole, so it is broken and was not torn off"),
            (_, false, _) => Some("It is not the last of its files"),
            (.., false) => Some("The directive aof-load-truncated forbids to cut it"),
            _ => None,
        };
        if let Some(why) = why {
            return Err(AofError::Torn { name: name.into(), whole_to, bytes, why });
        }
        if let (Some(point), Some(offset)) = (&mut self.restored.point, self.whole_offset) {
            // A transaction without its end was counted, and has not been run.
            let kept = self.restored.recent.len().saturating_sub((point.offset - offset) as usize);
            self.restored.recent.truncate(kept);
            point.offset = offset;
        }
        log!(Warning, "!!! Warning: short read while loading the AOF file {name}!!!");
        log!(
            Warning,
            "AOF {name} loaded anyway because aof-load-truncated is enabled: {} bytes behind byte {whole_to} are cut off",
            bytes - whole_to
        );
        self.restored.cut_to = Some(whole_to);
        Ok(())
    }
}

/// Keeps the newest bytes, up to twice as many as there is room for.
fn keep_recent(recent: &mut Vec<u8>, bytes: &[u8], bytes_max: usize) {
    recent.extend_from_slice(bytes);
    if recent.len() > bytes_max.saturating_mul(2).max(SLICE_BYTES) {
        recent.drain(..recent.len() - bytes_max);
    }
}
