//! Images of the data: taken without a fork, written to files, and loaded.
//!
//! [`Image::begin`] fixes the moment; the key space is then walked in slices between requests
//! ([`crate::keyspace::Keyspace::walk_slice`]), and whoever has the chunks encodes them, on whatever thread. A dump file is
//! written beside its place, flushed, and only then renamed over the old one.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use crate::functions::{FunctionError, Functions, Library};
use crate::instance::{Instance, REDIS_VERSION};
use crate::keyspace::{AccessClock, Chunk, DatabaseSize, Deadline, Key, Keyspace, Use, WalkInProgress};
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
    /// It is made for an append-only file.
    pub is_aof_base: bool,
    sizes: Vec<DatabaseSize>,
    /// There may be hashes whose fields have deadlines.
    field_deadlines: bool,
    /// The sources of the libraries of functions.
    functions: Vec<Arc<[u8]>>,
    created_s: u64,
    used_memory_bytes: u64,
    compress: bool,
    checksum: bool,
    delay: KeyDelay,
    /// What makes something of the notes about the use of keys, if these are saved.
    uses: Option<AccessClock>,
}

impl Image {
    /// Fixes the present moment: the walk that begins here will see the data as they are now.
    ///
    /// # Errors
    /// Another walk is on its way.
    pub fn begin(instance: &mut Instance) -> Result<Image, WalkInProgress> {
        let sizes = instance.keyspace.begin_walk()?;
        let field_deadlines = contents(instance).field_deadlines;
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
            is_aof_base: false,
            sizes,
            field_deadlines,
            functions: instance.functions.iter().map(|library| Arc::clone(&library.code)).collect(),
            created_s: (instance.now_ms / 1000).max(0) as u64,
            used_memory_bytes: instance.keyspace.memory_bytes() as u64,
            compress: instance.config.rdbcompression,
            checksum: instance.config.rdbchecksum,
            delay: KeyDelay::fixed(instance.config.rdb_key_save_delay),
            uses: instance.config.saves_uses().then(|| instance.keyspace.clock().clone()),
        })
    }

    /// How encoding is slowed down.
    pub fn delay(&self) -> &KeyDelay {
        &self.delay
    }

    /// An image of this point without any key, and without functions if these are not wanted.
    pub fn without_keys(instance: &Instance, point: Point, with_functions: bool) -> Image {
        let functions = instance.functions.iter().filter(|_| with_functions);
        Image {
            point: Some(point),
            is_aof_base: false,
            sizes: Vec::new(),
            field_deadlines: false,
            functions: functions.map(|library| Arc::clone(&library.code)).collect(),
            created_s: (instance.now_ms / 1000).max(0) as u64,
            used_memory_bytes: instance.keyspace.memory_bytes() as u64,
            compress: instance.config.rdbcompression,
            checksum: instance.config.rdbchecksum,
            delay: KeyDelay::fixed(0),
            uses: None,
        }
    }

    /// How many keys it will have.
    pub fn keys(&self) -> u64 {
        self.sizes.iter().map(|size| size.keys as u64).sum()
    }

    /// What not every version of the format has a place for.
    pub fn contents(&self) -> rdb::Contents {
        rdb::Contents { functions: !self.functions.is_empty(), field_deadlines: self.field_deadlines }
    }

    /// An encoder that has written everything before the first key, for readers like this server.
    pub fn encoder(&self) -> Encoder {
        self.encoder_for(rdb::Reader::OWN)
    }

    /// The same for another reader.
    pub fn encoder_for(&self, reader: rdb::Reader) -> Encoder {
        let header = rdb::Header {
            server_version: REDIS_VERSION,
            created_unix_s: self.created_s,
            used_memory_bytes: self.used_memory_bytes,
            replication: self.point.as_ref().map(|point| rdb::ReplicationPoint {
                stream_db: point.db as u32,
                replid: point.id.as_str(),
                offset: point.offset,
            }),
            aof_base: self.is_aof_base,
            ..rdb::Header::default()
        };
        let options =
            rdb::Options { compress: self.compress, checksum: self.checksum, format: reader.format(self.contents()) };
        let mut encoder = Encoder::new(&header, options);
        self.functions.iter().for_each(|code| encoder.function(code));
        encoder.keep_uses(self.uses.clone());
        for size in self.sizes.iter().filter(|size| size.keys > 0) {
            encoder.resize_db(size.db as u32, size.keys as u64, size.with_deadline as u64);
        }
        encoder
    }
}

/// What there is just now that not every version of the format has a place for.
pub fn contents(instance: &Instance) -> rdb::Contents {
    rdb::Contents {
        functions: !instance.functions.is_empty(),
        field_deadlines: instance.keyspace.has_field_deadlines(),
    }
}

/// Adds the keys of a chunk, and hands on what is encoded as it gathers. Where encoding is slowed down, an empty slice after
/// each key lets `emit` say whether anybody still wants the rest.
///
/// # Errors
/// Those of `emit`.
pub fn encode(
    encoder: &mut Encoder,
    chunk: &Chunk,
    delay: &KeyDelay,
    mut emit: impl FnMut(Vec<u8>) -> io::Result<()>,
) -> io::Result<()> {
    for (number, frame) in (1..).zip(chunk.iter()) {
        encoder.last_use(frame.access);
        encoder.entry(frame.db as u32, frame.key, frame.value, frame.deadline_ms, &mut emit)?;
        if delay.is_set() {
            delay.pause(number);
            emit(Vec::new())?;
        }
    }
    Ok(())
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

    /// The same bytes for a reader, from their beginning on.
    ///
    /// # Errors
    /// The disk says no.
    pub fn reader(&self) -> io::Result<File> {
        File::open(&self.temporary)
    }

    /// Waits until what was written is on the disk.
    ///
    /// # Errors
    /// The disk says no.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Puts the file into its place, whole and on disk, and returns it, to be read from its beginning on: what is in that
    /// place later may be another one.
    ///
    /// # Errors
    /// The disk says no; the old file is still there.
    pub fn commit(self) -> io::Result<File> {
        self.file.sync_all()?;
        let reader = self.reader()?;
        fs::rename(&self.temporary, &self.target)?;
        let directory = self.target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory)?.sync_all()?;
        Ok(reader)
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
    walk_now(instance, |chunk| encode(&mut encoder, chunk, image.delay(), |slice| file.write(&slice)))?;
    file.write(&encoder.finish())?;
    file.commit()?;
    Ok(())
}

/// Takes the walk that was begun to its end while everything else waits, and hands on each chunk.
///
/// # Errors
/// Those of `take`.
pub fn walk_now(instance: &mut Instance, mut take: impl FnMut(&Chunk) -> io::Result<()>) -> io::Result<()> {
    let result = loop {
        match instance.keyspace.walk_slice(SLICE_BYTES) {
            None => break Ok(()),
            Some(chunk) => {
                if let Err(error) = take(&chunk) {
                    break Err(error);
                }
            }
        }
    };
    instance.keyspace.abort_walk();
    result
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
    /// It has a library of functions that does not say what it is.
    #[error("a library of functions in the image: {0}")]
    Library(#[from] FunctionError),
    /// It has a database that this server is not configured to have.
    #[error("the image has a database {0}, and this server only {1}; raise the directive databases")]
    Database(u32, usize),
    /// It ends before it should.
    #[error("the image is followed by {0} bytes that are no part of it")]
    Trailing(usize),
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// A pause after each key, to make a load slow on purpose; a change takes effect at once.
#[derive(Debug, Clone, Default)]
pub struct KeyDelay(Arc<AtomicI32>);

impl KeyDelay {
    /// Pauses for so many microseconds from now on; a negative number n stands for one microsecond every -n keys.
    pub fn set(&self, delay: i32) {
        self.0.store(delay, Ordering::Relaxed);
    }

    /// A pause of its own, which does not follow the directive's later changes.
    pub fn fixed(delay: i32) -> KeyDelay {
        KeyDelay(Arc::new(AtomicI32::new(delay)))
    }

    /// Whether there is one.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    /// Makes the pause that is due after key number `key`.
    pub fn pause(&self, key: u64) {
        let delay = self.0.load(Ordering::Relaxed);
        let due = delay > 0 || delay < 0 && key.is_multiple_of(u64::from(delay.unsigned_abs()));
        if !due {
            return;
        }
        // Whoever changes it does not want to wait for the end of a long one.
        const STEP: Duration = Duration::from_millis(5);
        let mut left = Duration::from_micros(delay.max(1) as u64);
        while !left.is_zero() && self.0.load(Ordering::Relaxed) == delay {
            let step = left.min(STEP);
            std::thread::sleep(step);
            left -= step;
        }
    }
}

/// Loads an image that comes in pieces into a key space of its own, on whatever thread.
pub struct Loader {
    decoder: Decoder,
    keyspace: Keyspace,
    functions: Functions,
    db: usize,
    now_ms: i64,
    /// A master has no use for what has expired; a replica waits for its upstream to say so.
    drops_expired: bool,
    facts: Facts,
    batch: Batch,
    fed: u64,
    loaded: u64,
    expired: u64,
    /// What was dropped of a history that others may continue: they have to be told.
    dropped: Vec<(usize, Box<[u8]>)>,
    delay: KeyDelay,
}

/// Strings that were decoded and are inserted together, when the cache has fetched the places where they go: a load is
/// bound by cache misses, and so many of them are waited for at once.
#[derive(Default)]
struct Batch {
    /// Keys and values, one after the other.
    bytes: Vec<u8>,
    entries: Vec<Decoded>,
}

struct Decoded {
    hash: u64,
    /// Where its key ends in the batch's bytes; it begins where the entry before it ends.
    key_end: usize,
    end: usize,
    deadline_ms: Option<i64>,
    last_use: Option<Use>,
}

/// Entries of a batch.
const BATCH_ENTRIES: usize = 32;

/// A string that is longer is inserted at once, and not copied before.
const BATCHED_BYTES_MAX: usize = 1024;

impl Batch {
    fn push(&mut self, hash: u64, key: &[u8], value: &[u8], (deadline_ms, last_use): (Option<i64>, Option<Use>)) {
        self.bytes.extend_from_slice(key);
        let key_end = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.entries.push(Decoded { hash, key_end, end: self.bytes.len(), deadline_ms, last_use });
    }

    fn insert_into(&mut self, keyspace: &mut Keyspace, db: usize) {
        let mut start = 0;
        for entry in &self.entries {
            let key = Key { bytes: &self.bytes[start..entry.key_end], hash: entry.hash };
            let deadline = entry.deadline_ms.map_or(Deadline::Clear, Deadline::At);
            keyspace.set_str(db, key, &self.bytes[entry.key_end..entry.end], deadline);
            if let Some(last_use) = entry.last_use {
                keyspace.set_last_use(db, key, last_use);
            }
            start = entry.end;
        }
        self.bytes.clear();
        self.entries.clear();
    }
}

/// What an image says of itself.
#[derive(Default)]
struct Facts {
    id: Option<ReplicationId>,
    offset: Option<u64>,
    stream_db: usize,
    /// For the log.
    words: Vec<String>,
}

impl Facts {
    fn point(&self, databases: usize) -> Option<Point> {
        let db = self.stream_db.min(databases - 1);
        self.id.zip(self.offset).map(|(id, offset)| Point { id, offset, db })
    }

    fn learn(&mut self, name: &[u8], value: &[u8], now_ms: i64) {
        let text = String::from_utf8_lossy(value);
        match name {
            b"redis-ver" => self.words.push(format!("Loading RDB produced by version {text}")),
            b"ctime" => {
                if let Ok(created_s) = text.parse::<i64>() {
                    let age_s = (now_ms / 1000).saturating_sub(created_s).max(0);
                    self.words.push(format!("RDB age {age_s} seconds"));
                }
            }
            b"used-mem" => {
                if let Ok(bytes) = text.parse::<u64>() {
                    let mebibytes = bytes as f64 / 1048576.0;
                    self.words.push(format!("RDB memory usage when created {mebibytes:.2} Mb"));
                }
            }
            b"repl-stream-db" => self.stream_db = text.parse().unwrap_or(0),
            b"repl-id" => self.id = ReplicationId::parse(value),
            b"repl-offset" => self.offset = text.parse().ok(),
            _ => {}
        }
    }
}

/// The moment of a history that the image in `file` says it is. It is looked for at the start of the file, which is read from
/// its start again afterwards; what is wrong with the image is told by who loads it.
///
/// # Errors
/// The disk says no.
pub fn point_of(instance: &Instance, file: &mut File) -> io::Result<Option<Point>> {
    let (mut facts, mut buffer) = (Facts::default(), Vec::new());
    let mut decoder = Decoder::new(instance.config.small_forms());
    read_slice(file, &mut buffer)?;
    io::Seek::rewind(file)?;
    decoder.feed(&buffer);
    while let Ok(Some(Item::Aux(name, value))) = decoder.next_item() {
        facts.learn(name, value, instance.now_ms);
    }
    Ok(facts.point(instance.keyspace.databases()))
}

/// What was loaded.
pub struct Loaded {
    /// The data.
    pub keyspace: Keyspace,
    /// The libraries of functions.
    pub functions: Functions,
    /// Where in its history the image was taken, if it says so.
    pub point: Option<Point>,
    /// The database that the stream has selected where the image was taken.
    pub stream_db: usize,
    /// Keys loaded.
    pub keys_loaded: u64,
    /// Keys left out since they had expired.
    pub keys_expired: u64,
    /// Those of them that a replica which continues the image's history still has: databases and names.
    pub dropped: Vec<(usize, Box<[u8]>)>,
    /// What the log says of it.
    words: Vec<String>,
}

impl Loaded {
    /// Tells the log. The image may have been loaded on a thread, ahead of what the log says comes before.
    pub fn tell(&self) {
        self.words.iter().for_each(|words| log!(Notice, "{words}"));
    }
}

/// Counts the keys of an image, without loading it.
pub struct KeyCounter {
    decoder: Decoder,
}

impl KeyCounter {
    /// A counter for `instance`.
    pub fn new(instance: &Instance) -> KeyCounter {
        KeyCounter { decoder: Decoder::new(instance.config.small_forms()) }
    }

    /// How many keys the image in `file` has.
    ///
    /// # Errors
    /// The disk says no, or the image is not what it should be.
    pub fn count(mut self, mut file: File) -> Result<u64, LoadError> {
        io::Seek::rewind(&mut file)?;
        let (mut keys, mut buffer) = (0, Vec::new());
        while read_slice(&mut file, &mut buffer)? {
            self.decoder.feed(&buffer);
            while let Some(item) = self.decoder.next_item()? {
                match item {
                    Item::Entry { .. } => keys += 1,
                    Item::Eof => return Ok(keys),
                    _ => {}
                }
            }
        }
        self.decoder.finish()?;
        Ok(keys)
    }
}

impl Loader {
    /// A loader for data like those of `instance`.
    pub fn new(instance: &Instance) -> Loader {
        let mut keyspace = Keyspace::new(instance.keyspace.databases(), instance.keyspace.seed());
        keyspace.set_tracking(instance.config.tracking());
        keyspace.set_access_time(instance.now_ms);
        Loader {
            decoder: Decoder::new(instance.config.small_forms()),
            keyspace,
            functions: Functions::default(),
            db: 0,
            now_ms: instance.now_ms,
            drops_expired: instance.replication.is_master(),
            facts: Facts::default(),
            batch: Batch::default(),
            fed: 0,
            loaded: 0,
            expired: 0,
            dropped: Vec::new(),
            delay: instance.key_load_delay.clone(),
        }
    }

    /// Loads what has expired as well: the rest of the stream, which is to follow, may change that.
    pub fn keep_expired(&mut self) {
        self.drops_expired = false;
    }

    /// Takes the next bytes; true when the image is complete.
    ///
    /// # Errors
    /// The image is not what it should be.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<bool, LoadError> {
        self.decoder.feed(bytes);
        self.fed += bytes.len() as u64;
        while let Some(item) = self.decoder.next_item()? {
            match item {
                Item::Aux(name, value) => self.facts.learn(name, value, self.now_ms),
                Item::Library(code) => self.functions.keep(Library::parse(code)?),
                Item::SelectDb(db) => {
                    self.batch.insert_into(&mut self.keyspace, self.db);
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
                Item::Entry { key, value, deadline_ms, last_use } => {
                    let key = self.keyspace.key(key);
                    match value {
                        rdb::Value::Str(value) if value.len() <= BATCHED_BYTES_MAX => {
                            self.keyspace.prefetch_slot(self.db, key.hash);
                            self.batch.push(key.hash, key.bytes, value, (deadline_ms, last_use));
                        }
                        rdb::Value::Str(value) => {
                            let deadline = deadline_ms.map_or(Deadline::Clear, Deadline::At);
                            self.keyspace.set_str(self.db, key, value, deadline);
                        }
                        rdb::Value::Aggregate(value) => {
                            self.keyspace.insert(self.db, key, value, deadline_ms);
                        }
                    }
                    if let Some(last_use) = last_use {
                        self.keyspace.set_last_use(self.db, key, last_use);
                    }
                    self.loaded += 1;
                    if self.batch.entries.len() == BATCH_ENTRIES {
                        self.batch.insert_into(&mut self.keyspace, self.db);
                    }
                    self.delay.pause(self.loaded);
                }
                Item::Eof => {
                    self.batch.insert_into(&mut self.keyspace, self.db);
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Whether its end has come.
    pub fn is_complete(&self) -> bool {
        self.decoder.finish().is_ok()
    }

    /// Bytes behind the image that came with it.
    pub fn unread(&self) -> &[u8] {
        self.decoder.unread()
    }

    /// How many of the bytes that it was given are the image's.
    pub fn image_bytes(&self) -> u64 {
        self.fed - self.unread().len() as u64
    }

    /// What was loaded.
    ///
    /// # Errors
    /// The image is not complete.
    pub fn finish(self) -> Result<Loaded, LoadError> {
        self.decoder.finish()?;
        let databases = self.keyspace.databases();
        let (point, stream_db) = (self.facts.point(databases), self.facts.stream_db.min(databases - 1));
        let (loaded, expired, mut words) = (self.loaded, self.expired, self.facts.words);
        words.push(format!("Done loading RDB, keys loaded: {loaded}, keys expired: {expired}."));
        Ok(Loaded {
            keyspace: self.keyspace,
            functions: self.functions,
            point,
            stream_db,
            keys_loaded: self.loaded,
            keys_expired: self.expired,
            dropped: self.dropped,
            words,
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
