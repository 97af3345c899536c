//! Images of the data: taken without a fork, written to files, and loaded.
//!
//! [`Image::begin`] fixes the moment; the key space is then walked in slices between requests
//! ([`crate::keyspace::Keyspace::walk_slice`]), and whoever has the chunks encodes them, on whatever thread. A dump file is
//! written beside its place, flushed, and only then renamed over the old one.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::instance::{Instance, REDIS_VERSION};
use crate::keyspace::{Chunk, DatabaseSize, Deadline, Keyspace, WalkInProgress};
use crate::log::log;
use crate::rdb::{self, Decoder, Encoder, Item, RdbError};
use crate::replication::ReplicationId;

/// Bytes of a chunk, and of what is read at a time.
pub const SLICE_BYTES: usize = rdb::SLICE_BYTES;

/// A point of a history: where an image was taken, or where a server may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// The history's name.
    pub id: ReplicationId,
    /// Bytes of it applied.
    pub offset: u64,
    /// The database that the stream has selected there.
    pub db: usize,
}

/// What an image says of itself before its first key. The keys follow as chunks of the walk.
#[derive(Debug, Clone)]
pub struct Image {
    /// Where in the history it was taken, if there is one.
    pub point: Option<Point>,
    sizes: Vec<DatabaseSize>,
    created_s: u64,
    used_memory_bytes: u64,
    options: rdb::Options,
}

impl Image {
    /// Fixes the present moment: the walk that begins here will see the data as they are now.
    ///
    /// # Errors
    /// Another walk is on its way.
    pub fn begin(instance: &mut Instance) -> Result<Image, WalkInProgress> {
        let sizes = instance.keyspace.begin_walk()?;
        let replication = &instance.replication;
        let point = replication.backlog.as_ref().map(|backlog| Point {
            id: replication.history.replid,
            offset: replication.offset,
            db: if replication.is_master() {
                backlog.selected_db().map_or(0, |db| db as usize)
            } else {
                replication.stream_db
            },
        });
        Ok(Image {
            point,
            sizes,
            created_s: (instance.now_ms / 1000).max(0) as u64,
            used_memory_bytes: instance.keyspace.memory_bytes() as u64,
            options: rdb::Options { compress: instance.config.rdbcompression, checksum: instance.config.rdbchecksum },
        })
    }

    /// An image of this point without any key.
    pub fn empty(instance: &Instance, point: Point) -> Image {
        Image {
            point: Some(point),
            sizes: Vec::new(),
            created_s: (instance.now_ms / 1000).max(0) as u64,
            used_memory_bytes: instance.keyspace.memory_bytes() as u64,
            options: rdb::Options { compress: instance.config.rdbcompression, checksum: instance.config.rdbchecksum },
        }
    }

    /// An encoder that has written everything before the first key.
    pub fn encoder(&self) -> Encoder {
        let header = rdb::Header {
            server_version: REDIS_VERSION,
            created_unix_s: self.created_s,
            used_memory_bytes: self.used_memory_bytes,
            replication: self.point.as_ref().map(|point| rdb::ReplicationPoint {
                stream_db: point.db as u32,
                replid: point.id.as_str(),
                offset: point.offset,
            }),
            ..rdb::Header::default()
        };
        let mut encoder = Encoder::new(&header, self.options);
        for size in self.sizes.iter().filter(|size| size.keys > 0) {
            encoder.resize_db(size.db as u32, size.keys as u64, size.with_deadline as u64);
        }
        encoder
    }
}

/// Adds the keys of a chunk, and hands on what is encoded as it gathers.
///
/// # Errors
/// Those of `emit`.
pub fn encode(encoder: &mut Encoder, chunk: &Chunk, mut emit: impl FnMut(Vec<u8>) -> io::Result<()>) -> io::Result<()> {
    chunk
        .iter()
        .try_for_each(|frame| encoder.entry(frame.db as u32, frame.key, frame.value, frame.deadline_ms, &mut emit))
}

/// A dump file in the making; dropped before [`DumpFile::commit`], it leaves nothing behind.
pub struct DumpFile {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
}

impl DumpFile {
    /// Makes a file that will take the place of `target`.
    ///
    /// # Errors
    /// The directory cannot be written to.
    pub fn create(target: &Path) -> io::Result<DumpFile> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let temporary = target.with_file_name(format!("temp-{}-{count}.rdb", std::process::id()));
        Ok(DumpFile { file: File::create(&temporary)?, temporary, target: target.to_owned() })
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// The disk says no.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    /// Where the bytes are until the file is committed.
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// Puts the file into its place, whole and on disk.
    ///
    /// # Errors
    /// The disk says no; the old file is still there.
    pub fn commit(self) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.temporary, &self.target)?;
        let directory = self.target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory)?.sync_all()
    }
}

impl Drop for DumpFile {
    fn drop(&mut self) {
        // After a commit there is nothing of this name any more.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// Saves while everything else waits.
///
/// # Errors
/// The disk says no, or a background save runs; the old file is still there.
pub fn save(instance: &mut Instance) -> io::Result<()> {
    let image = Image::begin(instance).map_err(io::Error::other)?;
    let result = write_all(instance, &image);
    instance.keyspace.abort_walk();
    instance.persistence.last_try_ms = instance.now_ms;
    instance.persistence.failed = result.is_err();
    result?;
    instance.persistence.dirty = 0;
    instance.persistence.last_save_s = instance.now_ms / 1000;
    instance.persistence.saves += 1;
    log!(Notice, "DB saved on disk");
    Ok(())
}

fn write_all(instance: &mut Instance, image: &Image) -> io::Result<()> {
    let mut encoder = image.encoder();
    let mut file = DumpFile::create(&dump_path(instance))?;
    while let Some(chunk) = instance.keyspace.walk_slice(SLICE_BYTES) {
        encode(&mut encoder, &chunk, |slice| file.write(&slice))?;
    }
    file.write(&encoder.finish())?;
    file.commit()
}

/// Where the dump file lies.
pub fn dump_path(instance: &Instance) -> PathBuf {
    instance.config.dir.join(&instance.config.dbfilename)
}

/// Why an image cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It is not what it should be.
    #[error("{0}")]
    Rdb(#[from] RdbError),
    /// It has a database that this server is not configured to have.
    #[error("the image has a database {0}, and this server only {1}; raise the directive databases")]
    Database(u32, usize),
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Counts the keys of an image that comes in pieces.
pub struct KeyCounter {
    decoder: Decoder,
    keys: u64,
}

impl KeyCounter {
    /// A counter at the image's start, for `instance`.
    pub fn new(instance: &Instance) -> KeyCounter {
        KeyCounter { decoder: Decoder::new(instance.config.small_forms()), keys: 0 }
    }

    /// Takes the next bytes; true when the image is complete.
    ///
    /// # Errors
    /// The image is not what it should be.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<bool, LoadError> {
        self.decoder.feed(bytes);
        while let Some(item) = self.decoder.next_item()? {
            match item {
                Item::Entry { .. } => self.keys += 1,
                Item::Eof => return Ok(true),
                _ => {}
            }
        }
        Ok(false)
    }

    /// How many there were so far.
    pub fn keys(&self) -> u64 {
        self.keys
    }
}

/// Loads an image that comes in pieces into a key space of its own.
pub struct Loader {
    decoder: Decoder,
    keyspace: Keyspace,
    db: usize,
    now_ms: i64,
    /// A master has no use for what has expired; a replica waits for its upstream to say so.
    drops_expired: bool,
    facts: Facts,
    loaded: u64,
    expired: u64,
    /// What was dropped of a history that others may continue: they have to be told.
    dropped: Vec<(usize, Box<[u8]>)>,
}

/// What an image says of itself.
#[derive(Default)]
struct Facts {
    id: Option<ReplicationId>,
    offset: Option<u64>,
    stream_db: usize,
}

impl Facts {
    fn learn(&mut self, name: &[u8], value: &[u8], now_ms: i64) {
        let text = String::from_utf8_lossy(value);
        match name {
            b"redis-ver" => log!(Notice, "Loading RDB produced by version {text}"),
            b"ctime" => {
                if let Ok(created_s) = text.parse::<i64>() {
                    log!(Notice, "RDB age {} seconds", (now_ms / 1000).saturating_sub(created_s).max(0));
                }
            }
            b"used-mem" => {
                if let Ok(bytes) = text.parse::<u64>() {
                    log!(Notice, "RDB memory usage when created {:.2} Mb", bytes as f64 / 1048576.0);
                }
            }
            b"repl-stream-db" => self.stream_db = text.parse().unwrap_or(0),
            b"repl-id" => self.id = ReplicationId::parse(value),
            b"repl-offset" => self.offset = text.parse().ok(),
            _ => {}
        }
    }
}

/// What was loaded.
pub struct Loaded {
    /// The data.
    pub keyspace: Keyspace,
    /// Where in its history the image was taken, if it says so.
    pub point: Option<Point>,
    /// The database that the stream has selected where the image was taken.
    pub stream_db: usize,
    /// Keys loaded.
    pub keys_loaded: u64,
    /// Keys left out since they had expired.
    pub keys_expired: u64,
    /// Those that a replica which continues the image's history still has: databases and names.
    pub dropped: Vec<(usize, Box<[u8]>)>,
}

impl Loader {
    /// A loader for data like those of `instance`.
    pub fn new(instance: &Instance) -> Loader {
        Loader {
            decoder: Decoder::new(instance.config.small_forms()),
            keyspace: Keyspace::new(instance.keyspace.databases(), instance.keyspace.seed()),
            db: 0,
            now_ms: instance.now_ms,
            drops_expired: instance.replication.is_master(),
            facts: Facts::default(),
            loaded: 0,
            expired: 0,
            dropped: Vec::new(),
        }
    }

    /// Takes the next bytes; true when the image is complete.
    ///
    /// # Errors
    /// The image is not what it should be.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<bool, LoadError> {
        self.decoder.feed(bytes);
        while let Some(item) = self.decoder.next_item()? {
            match item {
                Item::Aux(name, value) => self.facts.learn(name, value, self.now_ms),
                Item::SelectDb(db) => {
                    let databases = self.keyspace.databases();
                    self.db = db as usize;
                    if self.db >= databases {
                        return Err(LoadError::Database(db, databases));
                    }
                }
                Item::ResizeDb(keys, _) => {
                    // What is announced is believed only as far as it costs little to be wrong.
                    const RESERVED_KEYS_MAX: u64 = 1 << 20;
                    self.keyspace.reserve(self.db, keys.min(RESERVED_KEYS_MAX) as usize);
                }
                Item::Entry { key, deadline_ms: Some(deadline), .. }
                    if self.drops_expired && deadline <= self.now_ms =>
                {
                    self.expired += 1;
                    if self.facts.id.is_some() {
                        self.dropped.push((self.db, key.into()));
                    }
                }
                Item::Entry { key, value, deadline_ms } => {
                    let key = self.keyspace.key(key);
                    match value {
                        rdb::Value::Str(value) => {
                            let deadline = deadline_ms.map_or(Deadline::Clear, Deadline::At);
                            self.keyspace.set_str(self.db, key, value, deadline);
                        }
                        rdb::Value::Aggregate(value) => {
                            self.keyspace.insert(self.db, key, value, deadline_ms);
                        }
                    }
                    self.loaded += 1;
                }
                Item::Eof => return Ok(true),
            }
        }
        Ok(false)
    }

    /// Bytes behind the image that came with it.
    pub fn unread(&self) -> &[u8] {
        self.decoder.unread()
    }

    /// What was loaded.
    ///
    /// # Errors
    /// The image is not complete.
    pub fn finish(self) -> Result<Loaded, LoadError> {
        self.decoder.finish()?;
        log!(Notice, "Done loading RDB, keys loaded: {}, keys expired: {}.", self.loaded, self.expired);
        let stream_db = self.facts.stream_db.min(self.keyspace.databases() - 1);
        let point = match (self.facts.id, self.facts.offset) {
            (Some(id), Some(offset)) => Some(Point { id, offset, db: stream_db }),
            _ => None,
        };
        Ok(Loaded {
            keyspace: self.keyspace,
            point,
            stream_db,
            keys_loaded: self.loaded,
            keys_expired: self.expired,
            dropped: self.dropped,
        })
    }
}

/// Reads the next piece of a file into `buffer`, which it resizes; false at the end.
///
/// # Errors
/// The disk says no.
pub fn read_slice(file: &mut File, buffer: &mut Vec<u8>) -> io::Result<bool> {
    buffer.resize(SLICE_BYTES, 0);
    let count = file.read(buffer)?;
    buffer.truncate(count);
    Ok(count > 0)
}
