//! The replication backlog: the newest bytes of the replication stream, in a file mapping that outlives the process.
//!
//! Whoever follows this server is a cursor over the backlog, and continues from it after a broken link. Since its memory is
//! that of a mapped file, everything appended before a SIGKILL is still there afterwards, for whoever saves what the others
//! have not received.
//!
//! An offset counts bytes applied: at offset N, N bytes of the stream have been produced. Byte k of the stream (the first one
//! is byte 0) lies at ring position k modulo the capacity.
//!
//! ```text
//! file       0     8  magic "repldbkl"
//!            8     8  format version, 1                  all numbers little endian
//!           16     8  capacity of the ring, bytes
//!           24    40  run id of the server
//!           64    40  boot id of the machine, zero padded
//!          104     8  CRC64 of the bytes before
//!          128   128  history, one of two; that with the higher number and a right CRC64 counts:
//!                       number 8, replid 40, previous replid 40 (zeros: none), end of the previous 8, CRC64 8
//!          256   128  history, the other
//!          384    16  selected database, one of two; of those with `from` <= end, the higher `from` counts:
//!                       from 8, database 8 (all ones: none)
//!          400    16  selected database, the other
//!          448     8  start, the oldest offset to continue from; all ones: the ring is being rewritten
//!          456     8  end, the offset after the newest byte
//!         4096     …  the ring
//!
//! ring     [ c d e f | 6 7 8 9 a b ]      capacity 10, start 6, end 16 (bytes 6 to f)
//!                    ^ the next byte goes here
//! ```
//!
//! The order of stores is the whole protocol: `start` moves before the bytes it gives up are overwritten, and `end` moves after
//! the bytes it claims are written. The kernel ends a process between two instructions and keeps every store made before, so
//! at no instant does the header claim a byte that is not there. A crash of the machine may lose any page of the file,
//! therefore a file of an earlier boot is refused.
//!
//! Whoever writes a file holds an exclusive lock (flock) on it from before it gets its name, and the kernel gives the lock
//! back when it has ended the process. [`Remains`] is the other side: the file of a server that is certainly dead.
//!
//! The ring keeps what the slowest attached cursor has still to send, by growing (a larger file takes the place of the present
//! one) up to a limit; beyond it, the caller is told to cut that cursor off.
//!
//! Source: partial resynchronization in
//! <https://redis.io/docs/latest/operate/oss_and_stack/management/replication/>.

use std::{
    fmt,
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering, compiler_fence},
};

use memmap2::{MmapMut, MmapOptions};

mod growth;

use growth::Growth;

/// A replication id: the name of one line of history, 40 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReplicationId([u8; 40]);

impl ReplicationId {
    /// The id that `digits` spell, if they are 40 lower-case hexadecimal digits.
    pub fn parse(digits: &[u8]) -> Option<Self> {
        let id: [u8; 40] = digits.try_into().ok()?;
        id.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')).then_some(Self(id))
    }

    /// Its digits.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hexadecimal digits are ASCII")
    }
}

impl fmt::Display for ReplicationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ReplicationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The lines of history that the bytes of a backlog belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// The present id (`master_replid`).
    pub replid: ReplicationId,
    /// The id before that (`master_replid2`), and the offset up to which both name the same bytes, in bytes applied.
    pub previous: Option<(ReplicationId, u64)>,
}

impl History {
    /// Finds out whether the first `offset` bytes of the history `id` are a part of this one.
    ///
    /// # Errors
    /// They are not; the words are those of a server's log.
    pub fn includes(&self, id: &[u8], offset: u64) -> Result<(), String> {
        let replid = &self.replid;
        if id == replid.as_str().as_bytes() || planted!(ReplidIgnored) {
            return Ok(());
        }
        match &self.previous {
            Some((previous, valid_to)) if id == previous.as_str().as_bytes() => {
                if offset + u64::from(planted!(SecondOffsetOffByOne)) <= *valid_to {
                    return Ok(());
                }
                Err(format!(
                    "Requested offset for second ID was {}, but I can reply up to {}",
                    offset + 1,
                    valid_to + 1
                ))
            }
            previous => {
                let previous = previous.as_ref().map_or_else(|| "0".repeat(40), |(id, _)| id.to_string());
                Err(format!(
                    "Replication ID mismatch (Replica asked for '{}', my replication IDs are '{replid}' and '{previous}')",
                    String::from_utf8_lossy(id)
                ))
            }
        }
    }
}

/// How large a backlog is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Its size at rest, bytes (`repl-backlog-size`); zero counts as one.
    pub capacity: u64,
    /// The size it may grow to for the slowest cursor, bytes (the replica class of `client-output-buffer-limit`).
    pub capacity_max: u64,
}

/// A write that is kept for the slowest cursor although it is beyond the limit by itself.
#[derive(Debug, Clone, Copy)]
struct Oversized {
    /// Its length.
    bytes: u64,
    /// The offset behind it: a cursor that is here has it.
    end: u64,
}

/// What became of the slowest cursor by an [`Backlog::append`].
#[must_use]
#[derive(Debug)]
pub enum Appended {
    /// Everything from the slowest cursor on is still there.
    Kept,
    /// What the slowest cursor has still to send was overwritten, and no cursor is kept for until
    /// [`Backlog::set_slowest`] names the next one; the feed must be cut.
    Overrun {
        /// How many of its bytes are gone.
        lost_bytes: u64,
        /// Why the ring did not grow, if not because of the limit.
        growth_error: Option<BacklogError>,
    },
}

/// Why a backlog file cannot be made, grown or read.
#[derive(Debug, thiserror::Error)]
pub enum BacklogError {
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Its server has not ended.
    #[error("the backlog file of a server that is alive")]
    InUse,
    /// The file is none of ours.
    #[error("not a backlog file")]
    Magic,
    /// The file is of another release.
    #[error("backlog format version {0} is not supported")]
    Version(u64),
    /// The file is shorter or longer than its header says.
    #[error("a backlog file of {expected} bytes has {found}")]
    Length {
        /// Header and ring, bytes.
        expected: u64,
        /// The file, bytes.
        found: u64,
    },
    /// A part of the header is not what was written.
    #[error("wrong checksum in the {0} of a backlog file")]
    Checksum(&'static str),
    /// The machine was started anew since, and may have lost any part of the file.
    #[error("a backlog file from before the machine's last start")]
    Rebooted,
    /// The server died while it exchanged the content of the ring.
    #[error("a backlog file whose content was being replaced")]
    Unfinished,
    /// The offsets contradict each other.
    #[error("impossible backlog: offsets {start} to {end} in a ring of {capacity} bytes")]
    Offsets {
        /// The oldest offset.
        start: u64,
        /// The newest offset.
        end: u64,
        /// Size of the ring, bytes.
        capacity: u64,
    },
}

/// The backlog file of a server that has ended, open and only read. While it is held, the file cannot vanish.
#[derive(Debug)]
pub struct Remains {
    file: File,
    capacity: u64,
    selections: [Selection; 2],
    /// The lines of history.
    pub history: History,
    /// The server's run id.
    pub run_id: [u8; 40],
    /// The oldest offset to continue from.
    pub start: u64,
    /// The offset after the newest byte.
    pub end: u64,
}

impl Remains {
    /// Opens the file at `path`. Reads its header and nothing else.
    ///
    /// # Errors
    /// It cannot be read, or cannot be trusted, or is that of a server that lives.
    pub fn open(path: &Path) -> Result<Self, BacklogError> {
        loop {
            let file = File::open(path)?;
            match file.try_lock_shared() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(BacklogError::InUse),
                Err(TryLockError::Error(error)) => return Err(error.into()),
            }
            // A server that has moved to another file since we opened this one holds the lock on that one.
            if is_at(&file, path)? {
                return Self::read(file);
            }
        }
    }

    fn read(file: File) -> Result<Self, BacklogError> {
        let found = file.metadata()?.len();
        if found < RING as u64 {
            return Err(BacklogError::Length { expected: RING as u64, found });
        }
        let mut header = [0; RING];
        file.read_exact_at(&mut header, 0)?;
        let header = HeaderView(&header);
        let capacity = header.capacity(found)?;
        let (start, end) = header.offsets(capacity)?;
        Ok(Self {
            capacity,
            selections: header.selections(),
            history: header.history()?,
            run_id: header.array(RUN_ID),
            start,
            end,
            file,
        })
    }

    /// How much more there is for one that has `offset` bytes of the history `id`, bytes.
    ///
    /// # Errors
    /// It cannot be continued from there; the words say why.
    pub fn beyond(&self, id: &[u8], offset: u64) -> Result<u64, String> {
        self.history.includes(id, offset)?;
        match (self.start..=self.end).contains(&offset) {
            true => Ok(self.end - offset),
            false => Err(format!("the backlog has offsets {} to {}, and not {offset}", self.start, self.end)),
        }
    }

    /// The database that the stream has selected at its end; `None` if it has selected none.
    pub fn selected_db(&self) -> Option<u32> {
        selected_db(self.selections, self.end)
    }

    /// Everything retained.
    ///
    /// # Errors
    /// The disk says no.
    pub fn bytes(&self) -> io::Result<Vec<u8>> {
        read_ring(&self.file, self.capacity, self.start, self.end)
    }

    /// The same as a backlog that can be read from like any other. Nothing that is done to it reaches the file.
    ///
    /// # Errors
    /// The file cannot be mapped.
    pub fn view(self) -> io::Result<Backlog> {
        // SAFETY: a private mapping, which the file's contents back. Nobody writes to or shortens a file that has had its
        // name: its server is dead, and another one makes a file of its own.
        let map = unsafe { MmapOptions::new().map_copy(&self.file) }?;
        Ok(Backlog {
            // There is nothing to be made anew here: it neither grows nor shrinks.
            path: PathBuf::new(),
            sizes: Sizes { capacity: self.capacity, capacity_max: self.capacity },
            run_id: self.run_id,
            history: self.history,
            history_number: 0,
            selections: self.selections,
            start: self.start,
            end: self.end,
            next: RING + (self.end % self.capacity) as usize,
            slowest: None,
            oversized: None,
            attend_at: u64::MAX,
            ahead: Ahead::Idle,
            file: Mapping { map, capacity: self.capacity, locked: self.file },
        })
    }
}

/// From `from` on, the stream has `db` selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Selection {
    from: u64,
    db: Option<u32>,
}

/// The backlog of a living server. Its file stays when it is dropped.
///
/// ```
/// use repld::replication::backlog::{Appended, Backlog, History, Sizes, ReplicationId};
///
/// let directory = tempfile::tempdir()?;
/// let replid = ReplicationId::parse(&[b'a'; 40]).expect("40 digits");
/// let sizes = Sizes { capacity: 8, capacity_max: 8 };
/// let history = History { replid, previous: None };
/// let mut backlog = Backlog::create(&directory.path().join("backlog.bin"), [b'0'; 40], history, sizes, (100, b""), None)?;
/// assert!(matches!(backlog.append(b"0123456789"), Appended::Kept));
/// assert_eq!((backlog.start(), backlog.end()), (102, 110));
/// assert_eq!(backlog.slices(107), Some((&b"789"[..], &b""[..])));
/// assert_eq!(backlog.slices(101), None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Backlog {
    path: PathBuf,
    file: Mapping,
    sizes: Sizes,
    run_id: [u8; 40],
    history: History,
    /// How many there have been; says which of the two places in the file is its.
    history_number: u64,
    selections: [Selection; 2],
    /// As in the file.
    start: u64,
    end: u64,
    /// Where in the file the byte after the newest one goes: `end` modulo the capacity, without a division for each append.
    next: usize,
    slowest: Option<u64>,
    oversized: Option<Oversized>,
    /// Appending up to this offset overwrites nothing that `slowest` needs, and needs no larger file soon.
    attend_at: u64,
    ahead: Ahead,
}

/// What is done about the larger file that may be needed.
enum Ahead {
    /// Nothing.
    Idle,
    /// It is being made.
    Growing(Growth),
    /// It could not be made; when it is needed, that is tried again, and the reason told.
    Failed,
}

impl Backlog {
    /// Makes the file at `path` (mode 0600, in the place of one that is there). The ring holds `bytes` of the stream, those
    /// after offset `from`, or as many of the newest as there is room for; `selected_db` is selected at their end. The file
    /// gets its name with all of them in it: until then, the one that was there is untouched. Offsets are below 2^63, as on
    /// the wire.
    ///
    /// # Errors
    /// The file cannot be made, or the disk is too full to hold it whole.
    pub fn create(
        path: &Path,
        run_id: [u8; 40],
        history: History,
        sizes: Sizes,
        (from, bytes): (u64, &[u8]),
        selected_db: Option<u32>,
    ) -> Result<Self, BacklogError> {
        let mut file = Mapping::allocate(&temporary(path), sizes.capacity.max(1))?;
        let end = from + bytes.len() as u64;
        let start = from.max(end.saturating_sub(file.capacity));
        file.write(file.place(start), &bytes[(start - from) as usize..]);
        let mut backlog = Self {
            path: path.to_owned(),
            file,
            sizes,
            run_id,
            history,
            history_number: 1,
            selections: [Selection { from: end, db: selected_db }; 2],
            start,
            end,
            next: 0,
            slowest: None,
            oversized: None,
            attend_at: u64::MAX,
            ahead: Ahead::Idle,
        };
        backlog.write_header();
        install(&temporary(path), path)?;
        Ok(backlog)
    }

    /// Ends the backlog and its file: what is in it is nobody's history any more.
    pub fn remove(self) {
        // Another server in the same directory may have put its own file in the place of this one.
        if is_at(&self.file.locked, &self.path).unwrap_or(false) {
            // If it stays, it is the whole of a history that nobody goes on with.
            let _ = fs::remove_file(&self.path);
        }
    }

    /// Adds `bytes` to the end of the stream, at the price of a copy; the oldest bytes give way.
    #[inline]
    pub fn append(&mut self, bytes: &[u8]) -> Appended {
        let end = self.end + bytes.len() as u64;
        if end > self.attend_at || bytes.len() as u64 > self.file.capacity {
            return self.append_tight(bytes);
        }
        self.give_up_before(end.saturating_sub(self.file.capacity));
        self.next = self.file.write(self.next, bytes);
        self.publish(end);
        Appended::Kept
    }

    /// The offset after the newest byte: how much of the stream has been produced.
    #[inline]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The oldest offset from which one can continue.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Everything from offset `from` to the end, in one or two pieces; `None` if `from` is outside `start()..=end()`.
    #[inline]
    pub fn slices(&self, from: u64) -> Option<(&[u8], &[u8])> {
        (self.start..=self.end).contains(&from).then(|| self.file.read(from, (self.end - from) as usize))
    }

    /// The lines of history.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Changes the lines of history, and keeps the bytes: after a promotion, or when the master goes on under a new id.
    pub fn set_history(&mut self, history: History) {
        self.history = history;
        self.history_number += 1;
        self.write_history();
    }

    /// Empties the ring and goes on at offset `at` of another history, where the stream has `selected_db` selected: after a
    /// full resync. Cursors are forgotten.
    pub fn reset(&mut self, history: History, at: u64, selected_db: Option<u32>) {
        self.ahead = Ahead::Idle;
        self.begin_rewriting();
        self.set_history(history);
        self.selections = [Selection { from: at, db: selected_db }; 2];
        self.write_selections();
        (self.start, self.end) = (at, at);
        self.end_rewriting();
        self.set_slowest(None);
    }

    /// The database that the stream has selected at its end; `None` if it has selected none yet, or none that whoever
    /// writes next may count on.
    #[inline]
    pub fn selected_db(&self) -> Option<u32> {
        let [first, second] = self.selections;
        let newer = if first.from > second.from { first } else { second };
        if newer.from <= self.end {
            return newer.db;
        }
        let forgotten = |selection: &Selection| selection.from == self.end + 1 && selection.db.is_none();
        if self.selections.iter().any(forgotten) {
            return None;
        }
        selected_db(self.selections, self.end)
    }

    /// Says that the bytes appended next leave `db` selected; to be called before a SELECT is appended, so that at no
    /// instant the file names the wrong database for its end.
    pub fn select_with_next(&mut self, db: Option<u32>) {
        let [a, b] = self.selections;
        let place = if a.from > self.end || (b.from <= self.end && a.from <= b.from) { 0 } else { 1 };
        self.selections[place] = Selection { from: self.end + 1, db };
        // Until the database is written, the record is for an offset that is never reached.
        self.file.word(SELECTIONS[place]).store(u64::MAX, Ordering::Release);
        self.file.word(SELECTIONS[place] + 8).store(db_word(db), Ordering::Release);
        self.file.word(SELECTIONS[place]).store(self.end + 1, Ordering::Release);
    }

    /// Keeps everything from offset `slowest` on, the position of the slowest attached cursor; `None` if there is none.
    #[inline]
    pub fn set_slowest(&mut self, slowest: Option<u64>) {
        self.slowest = slowest.map(|slowest| slowest.clamp(self.start, self.end));
        let capacity = self.file.capacity;
        let grows = capacity < self.sizes.capacity_max && !matches!(self.ahead, Ahead::Failed);
        let room = if grows { capacity / 2 } else { capacity };
        self.attend_at = self.slowest.map_or(u64::MAX, |slowest| slowest.saturating_add(room));
    }

    /// Present size of the ring, bytes.
    pub fn capacity(&self) -> u64 {
        self.file.capacity
    }

    /// So much is kept for the slowest cursor, bytes.
    pub fn kept_for_slowest(&self) -> u64 {
        let oversized = self.oversized.filter(|oversized| self.slowest.is_some_and(|slowest| slowest < oversized.end));
        self.sizes.capacity_max.saturating_add(oversized.map_or(0, |oversized| oversized.bytes))
    }

    /// Changes the configured sizes. The newest bytes are kept, and what the slowest cursor needs even if it is more.
    ///
    /// # Errors
    /// The file of the new size cannot be made; the present one stays.
    pub fn resize(&mut self, sizes: Sizes) -> Result<(), BacklogError> {
        let capacity = sizes.capacity.max(self.slowest_needs(self.end)).max(1);
        if capacity != self.file.capacity {
            self.rebuild(capacity)?;
        }
        self.sizes = sizes;
        Ok(())
    }

    /// Gives back what growth took, once the slowest cursor needs no more than half of the configured size.
    ///
    /// # Errors
    /// The smaller file cannot be made; the present one stays.
    pub fn shrink_to_configured(&mut self) -> Result<(), BacklogError> {
        let capacity = self.sizes.capacity.max(1);
        if let Ahead::Growing(growth) = &self.ahead
            && growth.is_finished()
            && self.slowest_needs(self.end) <= self.file.capacity / 2
        {
            self.ahead = Ahead::Idle;
        }
        if self.file.capacity <= capacity || self.slowest_needs(self.end) > capacity / 2 {
            return Ok(());
        }
        self.rebuild(capacity)
    }

    /// Bytes from the slowest cursor to `end`.
    fn slowest_needs(&self, end: u64) -> u64 {
        self.slowest.map_or(0, |slowest| end - slowest)
    }

    /// Appends what does not fit beside the slowest cursor, or not into the ring at all.
    #[cold]
    fn append_tight(&mut self, bytes: &[u8]) -> Appended {
        let end = self.end + bytes.len() as u64;
        let needed = self.slowest_needs(end);
        self.grow_ahead(needed);
        let mut growth_error = None;
        if self.slowest_needs(self.end) <= self.sizes.capacity && needed > self.sizes.capacity_max {
            // Whoever lacks next to nothing is not to blame for a write that is beyond the limit by itself.
            self.oversized = Some(Oversized { bytes: bytes.len() as u64, end });
        }
        let limit = self.kept_for_slowest();
        if needed > self.file.capacity && needed <= limit {
            let capacity = needed.max(GROWTH * self.file.capacity).min(limit);
            growth_error = self.rebuild(capacity).err();
        }
        let start = end.saturating_sub(self.file.capacity);
        let lost_bytes = self.slowest.map_or(0, |slowest| start.saturating_sub(slowest));
        if lost_bytes > 0 {
            self.set_slowest(None);
        }
        if bytes.len() as u64 > self.file.capacity {
            self.replace_all(end, bytes);
        } else {
            self.give_up_before(start);
            self.next = self.file.write(self.next, bytes);
            self.publish(end);
        }
        if lost_bytes > 0 { Appended::Overrun { lost_bytes, growth_error } } else { Appended::Kept }
    }

    /// Begins to make the larger file when half of the present one is needed, and takes it when it is there, or when it
    /// can't be waited for any longer.
    fn grow_ahead(&mut self, needed: u64) {
        let capacity = self.file.capacity;
        let half_full = needed > capacity / 2 && needed <= capacity && capacity < self.sizes.capacity_max;
        self.ahead = match std::mem::replace(&mut self.ahead, Ahead::Idle) {
            Ahead::Idle if half_full => {
                let larger = (GROWTH * capacity).min(self.sizes.capacity_max);
                let growth = Growth::begin(&self.file, ahead(&self.path), larger, self.start, self.end);
                growth.map_or(Ahead::Failed, Ahead::Growing)
            }
            Ahead::Growing(growth) if growth.is_finished() || needed > capacity => {
                self.take_larger(growth).map_or(Ahead::Failed, |()| Ahead::Idle)
            }
            other => other,
        };
        self.set_slowest(self.slowest);
    }

    /// Goes on in the file that was made ahead, after what has come since is copied.
    fn take_larger(&mut self, growth: Growth) -> io::Result<()> {
        let (mut larger, copied_to) = growth.finish()?;
        let from = copied_to.max(self.start);
        let (left, right) = self.file.read(from, (self.end - from) as usize);
        let middle = larger.write(larger.place(from), left);
        larger.write(middle, right);
        let smaller = self.exchange(larger, self.start, &ahead(&self.path))?;
        // To give its pages back takes a while as well; without a thread it is done here.
        let shrink = move || {
            crate::priority::step_back();
            drop(smaller);
        };
        let _ = std::thread::Builder::new().name("shrink-backlog".into()).spawn(shrink);
        Ok(())
    }

    /// Fills the whole ring with the last of `bytes`, which end at offset `end`.
    fn replace_all(&mut self, end: u64, bytes: &[u8]) {
        let start = end - self.file.capacity;
        self.ahead = Ahead::Idle;
        self.begin_rewriting();
        self.file.write(self.file.place(start), &bytes[bytes.len() - self.file.capacity as usize..]);
        (self.start, self.end) = (start, end);
        self.end_rewriting();
    }

    /// Moves the start to `start` unless it is there, before what lies before `start` is overwritten.
    #[inline]
    fn give_up_before(&mut self, start: u64) {
        if start > self.start {
            self.start = start;
            self.file.word(START).store(start, Ordering::Relaxed);
            // What is written next must not move up before this store; the order of instructions is all that counts here.
            compiler_fence(Ordering::SeqCst);
        }
    }

    /// Moves the end to `end`, after the bytes up to there are written.
    #[inline]
    fn publish(&mut self, end: u64) {
        self.end = end;
        self.file.word(END).store(end, Ordering::Release);
    }

    fn begin_rewriting(&mut self) {
        self.file.word(START).store(REWRITING, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
    }

    fn end_rewriting(&mut self) {
        self.next = self.file.place(self.end);
        self.file.word(END).store(self.end, Ordering::Release);
        self.file.word(START).store(self.start, Ordering::Release);
    }

    /// Moves to a file of another capacity, with as many of the newest bytes as fit.
    fn rebuild(&mut self, capacity: u64) -> Result<(), BacklogError> {
        self.ahead = Ahead::Idle;
        let mut larger = Mapping::allocate(&temporary(&self.path), capacity)?;
        let start = self.start.max(self.end.saturating_sub(capacity));
        let (left, right) = self.file.read(start, (self.end - start) as usize);
        let middle = larger.write(larger.place(start), left);
        larger.write(middle, right);
        self.exchange(larger, start, &temporary(&self.path))?;
        Ok(())
    }

    /// Goes on in another file, which lies at `made_at` and has the bytes from `start` on, and returns the present one.
    fn exchange(&mut self, other: Mapping, start: u64, made_at: &Path) -> io::Result<Mapping> {
        let present = std::mem::replace(&mut self.file, other);
        let present_start = std::mem::replace(&mut self.start, start);
        self.write_header();
        if let Err(error) = install(made_at, &self.path) {
            (self.file, self.start) = (present, present_start);
            self.next = self.file.place(self.end);
            return Err(error);
        }
        self.set_slowest(self.slowest);
        Ok(present)
    }

    /// Writes everything but the ring into a file that nobody knows yet.
    fn write_header(&mut self) {
        let fixed = fixed_record(self.file.capacity, self.run_id);
        self.file.put(0, &fixed);
        self.write_history();
        self.write_selections();
        self.end_rewriting();
    }

    /// Takes the place of the previous but one, so that the previous one counts until this one is complete.
    fn write_history(&mut self) {
        let place = HISTORIES[(self.history_number % 2) as usize];
        self.file.put(place, &history_record(self.history_number, &self.history));
    }

    fn write_selections(&mut self) {
        for (place, selection) in SELECTIONS.into_iter().zip(self.selections) {
            self.file.put(place, &selection.from.to_le_bytes());
            self.file.put(place + 8, &db_word(selection.db).to_le_bytes());
        }
    }
}

// Places in the file.
const VERSION: usize = 8;
const CAPACITY: usize = 16;
const RUN_ID: usize = 24;
const BOOT_ID: usize = 64;
const FIXED_CHECKSUM: usize = 104;
const HISTORIES: [usize; 2] = [128, 256];
const SELECTIONS: [usize; 2] = [384, 400];
const START: usize = 448;
const END: usize = 456;
const RING: usize = 4096;

const MAGIC: &[u8; 8] = b"repldbkl";
const FORMAT_VERSION: u64 = 1;

/// The ring grows by this factor. The copying stalls the server, and large steps copy a smaller part of the final size.
const GROWTH: u64 = 4;

/// In the place of the start: what lies in the ring is neither the old nor the new content.
const REWRITING: u64 = u64::MAX;

/// A mapped file of a header and a ring.
struct Mapping {
    map: MmapMut,
    /// Size of the ring, bytes; at least 1.
    capacity: u64,
    /// Says as long as it is open that somebody lives who uses the file.
    locked: File,
}

impl Mapping {
    /// Makes the file at `path` anew, every block of it present on the disk: a full disk is an error now and not a SIGBUS at some
    /// later store.
    fn allocate(path: &Path, capacity: u64) -> io::Result<Self> {
        let length = i64::try_from(capacity).ok().and_then(|capacity| capacity.checked_add(RING as i64));
        let length = length.ok_or(io::ErrorKind::FileTooLarge)?;
        if let Err(error) = fs::remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        let map = file.try_lock().map_err(io::Error::from).and_then(|()| reserve(&file, length)).and_then(|()| {
            // SAFETY: the file is new and ours alone: nobody shortens it while it is mapped.
            unsafe { MmapMut::map_mut(&file) }
        });
        match map {
            Ok(map) => Ok(Self { map, capacity, locked: file }),
            Err(error) => {
                // What is reported is why it could not be made; whether its remains could be removed adds nothing.
                let _ = fs::remove_file(path);
                Err(error)
            }
        }
    }

    /// A number in the header; `at` is one of its places, all of which are multiples of 8.
    #[inline]
    fn word(&self, at: usize) -> &AtomicU64 {
        debug_assert!(at.is_multiple_of(8) && at < RING);
        // SAFETY: the mapping begins at a page, is longer than the header and lives as long as `self`; `&self` excludes the
        // plain writes of `put` and `write`.
        unsafe { AtomicU64::from_ptr(self.map.as_ptr().add(at).cast_mut().cast()) }
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.map[at..][..bytes.len()].copy_from_slice(bytes);
        // Stores keep their order with those before and after.
        compiler_fence(Ordering::SeqCst);
    }

    /// Where in the file byte `offset` of the stream lies.
    #[inline]
    fn place(&self, offset: u64) -> usize {
        RING + (offset % self.capacity) as usize
    }

    /// Writes at most a ring full of bytes from `place` on, and tells the place after them.
    #[inline]
    fn write(&mut self, place: usize, bytes: &[u8]) -> usize {
        let room = &mut self.map[place..];
        if bytes.len() < room.len() {
            room[..bytes.len()].copy_from_slice(bytes);
            return place + bytes.len();
        }
        let (left, right) = bytes.split_at(room.len());
        room.copy_from_slice(left);
        self.map[RING..][..right.len()].copy_from_slice(right);
        RING + right.len()
    }

    /// `length` bytes of the stream from byte `offset` on, at most a ring full.
    #[inline]
    fn read(&self, offset: u64, length: usize) -> (&[u8], &[u8]) {
        let tail = &self.map[self.place(offset)..];
        match tail.get(..length) {
            Some(all) => (all, &[]),
            None => (tail, &self.map[RING..][..length - tail.len()]),
        }
    }
}

/// Gives `file` its length and all its blocks.
fn reserve(file: &File, length: i64) -> io::Result<()> {
    loop {
        // SAFETY: the call touches no memory of ours, and the descriptor is open as long as `file` is borrowed.
        match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, length) } {
            0 => return Ok(()),
            libc::EINTR => {}
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

/// Where a file is made before it takes the place of `path`; the remains of a death in between are overwritten by the next.
fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// Whether `path` names this very file.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let (held, present) = (file.metadata()?, fs::metadata(path)?);
    Ok((held.dev(), held.ino()) == (present.dev(), present.ino()))
}

/// Where a larger file is made before it is needed.
fn ahead(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".ahead");
    name.into()
}

/// Puts the finished file at `made_at` in the place of `path`.
fn install(made_at: &Path, path: &Path) -> io::Result<()> {
    fs::rename(made_at, path).inspect_err(|_| {
        // The reason is reported; whether the file could be removed adds nothing.
        let _ = fs::remove_file(made_at);
    })
}

/// The id of this start of the machine, zero padded; zeros where the kernel does not tell.
fn boot_id() -> [u8; 40] {
    let mut id = [0; 40];
    if let Ok(text) = fs::read("/proc/sys/kernel/random/boot_id") {
        let text = text.trim_ascii();
        let length = text.len().min(id.len());
        id[..length].copy_from_slice(&text[..length]);
    }
    id
}

fn checksum(bytes: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Redis, bytes)
}

fn db_word(db: Option<u32>) -> u64 {
    db.map_or(u64::MAX, u64::from)
}

fn selected_db(selections: [Selection; 2], end: u64) -> Option<u32> {
    let reached = selections.into_iter().filter(|selection| selection.from <= end);
    reached.max_by_key(|selection| selection.from).and_then(|selection| selection.db)
}

/// The part of the header that never changes.
fn fixed_record(capacity: u64, run_id: [u8; 40]) -> Vec<u8> {
    let mut record = Vec::with_capacity(FIXED_CHECKSUM + 8);
    record.extend_from_slice(MAGIC);
    record.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    record.extend_from_slice(&capacity.to_le_bytes());
    record.extend_from_slice(&run_id);
    record.extend_from_slice(&boot_id());
    record.extend_from_slice(&checksum(&record).to_le_bytes());
    record
}

fn history_record(number: u64, history: &History) -> Vec<u8> {
    let (previous, previous_end) = history.previous.map_or(([0; 40], 0), |(id, end)| (id.0, end));
    let mut record = Vec::with_capacity(HISTORY_CHECKSUM + 8);
    record.extend_from_slice(&number.to_le_bytes());
    record.extend_from_slice(&history.replid.0);
    record.extend_from_slice(&previous);
    record.extend_from_slice(&previous_end.to_le_bytes());
    record.extend_from_slice(&checksum(&record).to_le_bytes());
    record
}

// Places in the record of a history.
const REPLID: usize = 8;
const PREVIOUS: usize = 48;
const PREVIOUS_END: usize = 88;
const HISTORY_CHECKSUM: usize = 96;

/// The header of a dead server's file.
struct HeaderView<'a>(&'a [u8; RING]);

impl HeaderView<'_> {
    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        self.0[at..][..N].try_into().expect("N bytes are N bytes")
    }

    fn number(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }

    /// The capacity, after everything that never changes was checked, the length of the file included.
    fn capacity(&self, length: u64) -> Result<u64, BacklogError> {
        if self.0[..MAGIC.len()] != *MAGIC {
            return Err(BacklogError::Magic);
        }
        if self.number(VERSION) != FORMAT_VERSION {
            return Err(BacklogError::Version(self.number(VERSION)));
        }
        if self.number(FIXED_CHECKSUM) != checksum(&self.0[..FIXED_CHECKSUM]) {
            return Err(BacklogError::Checksum("fixed part"));
        }
        let capacity = self.number(CAPACITY);
        let expected = capacity.saturating_add(RING as u64);
        if capacity == 0 || length != expected {
            return Err(BacklogError::Length { expected, found: length });
        }
        if self.array(BOOT_ID) != boot_id() {
            return Err(BacklogError::Rebooted);
        }
        Ok(capacity)
    }

    fn offsets(&self, capacity: u64) -> Result<(u64, u64), BacklogError> {
        let (start, end) = (self.number(START), self.number(END));
        if start == REWRITING {
            return Err(BacklogError::Unfinished);
        }
        match end.checked_sub(start) {
            Some(retained) if retained <= capacity => Ok((start, end)),
            _ => Err(BacklogError::Offsets { start, end, capacity }),
        }
    }

    fn history(&self) -> Result<History, BacklogError> {
        let newest = HISTORIES
            .into_iter()
            .filter(|at| self.number(at + HISTORY_CHECKSUM) == checksum(&self.0[*at..][..HISTORY_CHECKSUM]))
            .max_by_key(|at| self.number(*at));
        let history = newest.and_then(|at| {
            let replid = ReplicationId::parse(&self.array::<40>(at + REPLID))?;
            let previous = ReplicationId::parse(&self.array::<40>(at + PREVIOUS));
            Some(History { replid, previous: previous.map(|id| (id, self.number(at + PREVIOUS_END))) })
        });
        history.ok_or(BacklogError::Checksum("history"))
    }

    fn selections(&self) -> [Selection; 2] {
        SELECTIONS.map(|at| Selection { from: self.number(at), db: u32::try_from(self.number(at + 8)).ok() })
    }
}

/// The bytes from `start` to `end`, which the header has been found right about.
fn read_ring(file: &File, capacity: u64, start: u64, end: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; (end - start) as usize];
    let first = start % capacity;
    let middle = bytes.len().min((capacity - first) as usize);
    let (left, right) = bytes.split_at_mut(middle);
    file.read_exact_at(left, RING as u64 + first)?;
    file.read_exact_at(right, RING as u64)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::{MetadataExt, PermissionsExt},
        process::{Command, Stdio},
    };

    use proptest::{collection::vec, option, prelude::*};
    use tempfile::TempDir;

    use super::*;

    const RUN: [u8; 40] = [b'7'; 40];

    fn id(number: u64) -> ReplicationId {
        ReplicationId::parse(format!("{number:040x}").as_bytes()).expect("40 digits")
    }

    fn history(number: u64) -> History {
        History { replid: id(number), previous: None }
    }

    fn sizes(capacity: u64, capacity_max: u64) -> Sizes {
        Sizes { capacity, capacity_max }
    }

    /// An empty backlog at offset `at`, and the directory it lives in.
    fn backlog(sizes: Sizes, at: u64) -> (TempDir, Backlog) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("backlog.bin");
        let backlog = Backlog::create(&path, RUN, history(1), sizes, (at, b""), None).expect("a backlog");
        (directory, backlog)
    }

    fn content(backlog: &Backlog, from: u64) -> Option<Vec<u8>> {
        backlog.slices(from).map(|(left, right)| [left, right].concat())
    }

    /// What a file says, whether its server lives or not.
    #[derive(Debug, PartialEq, Eq)]
    struct Found {
        history: History,
        run_id: [u8; 40],
        start: u64,
        bytes: Vec<u8>,
        selected_db: Option<u32>,
    }

    fn found(path: &Path) -> Result<Found, BacklogError> {
        let remains = Remains::read(File::open(path)?)?;
        let (selected_db, bytes) = (remains.selected_db(), remains.bytes()?);
        Ok(Found { history: remains.history, run_id: remains.run_id, start: remains.start, bytes, selected_db })
    }

    fn kept(appended: Appended) -> bool {
        matches!(appended, Appended::Kept)
    }

    #[derive(Debug, Clone)]
    enum Step {
        Append(Vec<u8>),
        /// A cursor this many bytes behind the end.
        Slowest(Option<u64>),
        Resize(Sizes),
        Shrink,
        Reset(u64),
        Promote,
        Select(u32, Vec<u8>),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let append = || vec(any::<u8>(), 0..60).prop_map(Step::Append);
        vec(
            prop_oneof![
                append(),
                append(),
                append(),
                option::of(0..100u64).prop_map(Step::Slowest),
                (0..80u64, 0..300u64).prop_map(|(capacity, capacity_max)| Step::Resize(sizes(capacity, capacity_max))),
                Just(Step::Shrink),
                (0..1000u64).prop_map(Step::Reset),
                Just(Step::Promote),
                (any::<u32>(), vec(any::<u8>(), 1..20)).prop_map(|(db, bytes)| Step::Select(db, bytes)),
            ],
            0..60,
        )
    }

    /// What a backlog is about, without a ring.
    struct Model {
        stream: Vec<u8>,
        /// Offset of the first byte of `stream`.
        origin: u64,
        start: u64,
        slowest: Option<u64>,
        history: History,
        selected_db: Option<u32>,
        sizes: Sizes,
    }

    impl Model {
        fn end(&self) -> u64 {
            self.origin + self.stream.len() as u64
        }

        fn append(&mut self, bytes: &[u8], appended: Appended) {
            self.stream.extend_from_slice(bytes);
            let needed = self.slowest.map_or(0, |slowest| self.end() - slowest);
            let room = self.sizes.capacity.max(self.sizes.capacity_max).max(1);
            match appended {
                Appended::Kept => {}
                Appended::Overrun { lost_bytes, growth_error } => {
                    assert!(growth_error.is_none(), "{growth_error:?}");
                    assert!(needed > room, "{needed} bytes were to be kept in {room}");
                    assert!((1..=needed).contains(&lost_bytes));
                    self.slowest = None;
                }
            }
        }

        fn agrees(&mut self, backlog: &Backlog) {
            self.start = self.start.max(self.end().saturating_sub(backlog.capacity()));
            let (start, end) = (self.start, self.end());
            assert_eq!((backlog.start(), backlog.end()), (start, end));
            assert!(self.slowest.is_none_or(|slowest| slowest >= start));
            for offset in start..=end {
                let expected = &self.stream[(offset - self.origin) as usize..];
                assert_eq!(content(backlog, offset).as_deref(), Some(expected));
            }
            assert_eq!(backlog.slices(end + 1), None);
            assert!(start == 0 || backlog.slices(start - 1).is_none());
            let expected = Found {
                history: self.history,
                run_id: RUN,
                start,
                bytes: content(backlog, start).expect("the start"),
                selected_db: self.selected_db,
            };
            assert_eq!(backlog.selected_db(), self.selected_db);
            assert_eq!(found(&backlog.path).expect("a good file"), expected);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn it_holds_the_newest_bytes_of_the_stream_whatever_happens(steps in steps(), at in 0..1000u64) {
            let sizes = sizes(50, 200);
            let (_directory, mut backlog) = backlog(sizes, at);
            let (stream, slowest, selected_db) = (Vec::new(), None, None);
            let mut model = Model { stream, origin: at, start: at, slowest, history: history(1), selected_db, sizes };
            for (number, step) in (2..).zip(steps) {
                match step {
                    Step::Append(bytes) => model.append(&bytes, backlog.append(&bytes)),
                    Step::Slowest(behind) => {
                        model.slowest = behind.map(|behind| model.end().saturating_sub(behind).max(model.start));
                        backlog.set_slowest(model.slowest);
                    }
                    Step::Resize(sizes) => {
                        backlog.resize(sizes).expect("space");
                        model.sizes = sizes;
                        let needed = model.slowest.map_or(0, |slowest| model.end() - slowest);
                        prop_assert_eq!(backlog.capacity(), sizes.capacity.max(needed).max(1));
                    }
                    Step::Shrink => {
                        backlog.shrink_to_configured().expect("space");
                        let capacity = model.sizes.capacity.max(1);
                        let needed = model.slowest.map_or(0, |slowest| model.end() - slowest);
                        prop_assert!(backlog.capacity() <= capacity || needed > capacity / 2);
                    }
                    Step::Reset(at) => {
                        backlog.reset(history(number), at, Some(3));
                        (model.origin, model.start, model.slowest) = (at, at, None);
                        (model.history, model.selected_db) = (history(number), Some(3));
                        model.stream.clear();
                    }
                    Step::Promote => {
                        let previous = Some((model.history.replid, model.end()));
                        model.history = History { replid: id(number), previous };
                        backlog.set_history(model.history);
                    }
                    Step::Select(db, bytes) => {
                        backlog.select_with_next(Some(db ^ 1));
                        backlog.select_with_next(Some(db));
                        model.agrees(&backlog);
                        model.append(&bytes, backlog.append(&bytes));
                        model.selected_db = Some(db);
                    }
                }
                model.agrees(&backlog);
            }
        }
    }

    #[test]
    fn the_ring_grows_for_the_slowest_cursor_and_shrinks_behind_it() {
        let (_directory, mut backlog) = backlog(sizes(10, 45), 0);
        let stream: Vec<u8> = (0..45).collect();
        backlog.set_slowest(Some(0));
        for (piece, capacity) in [(0..10, 10), (10..11, 40), (11..40, 40), (40..45, 45)] {
            assert!(kept(backlog.append(&stream[piece])));
            assert_eq!(backlog.capacity(), capacity);
        }
        assert_eq!(content(&backlog, 0), Some(stream.clone()));
        backlog.set_slowest(Some(39));
        backlog.shrink_to_configured().expect("space");
        assert_eq!(backlog.capacity(), 45);
        backlog.set_slowest(Some(40));
        backlog.shrink_to_configured().expect("space");
        assert_eq!(backlog.capacity(), 10);
        assert_eq!((backlog.start(), content(&backlog, 35).as_deref()), (35, Some(&stream[35..])));
    }

    #[test]
    fn a_write_beyond_the_limit_is_kept_for_a_cursor_that_lacked_next_to_nothing() {
        let (_directory, mut backlog) = backlog(sizes(8, 16), 0);
        backlog.set_slowest(Some(0));
        assert!(kept(backlog.append(&[1; 100])));
        assert_eq!(backlog.kept_for_slowest(), 116);
        assert_eq!(backlog.slices(0).map(|(first, second)| first.len() + second.len()), Some(100));
        // Behind it the limit is what it was.
        assert!(kept(backlog.append(&[2; 10])));
        assert!(matches!(backlog.append(&[3; 10]), Appended::Overrun { .. }));
        backlog.set_slowest(Some(backlog.end()));
        assert_eq!(backlog.kept_for_slowest(), 16);
    }

    #[test]
    fn beyond_the_limit_the_slowest_cursor_is_told_its_loss_once() {
        let (_directory, mut backlog) = backlog(sizes(10, 20), 0);
        assert!(kept(backlog.append(b"abc")));
        backlog.set_slowest(Some(3));
        assert!(kept(backlog.append(&[b'x'; 20])));
        let overrun = backlog.append(b"ab");
        assert!(matches!(overrun, Appended::Overrun { lost_bytes: 2, growth_error: None }), "{overrun:?}");
        assert_eq!(content(&backlog, 22).as_deref(), Some(&b"xab"[..]));
        assert!(kept(backlog.append(b"cd")));
    }

    #[test]
    fn a_failed_growth_costs_the_slowest_cursor_and_nothing_else() {
        let (directory, mut backlog) = backlog(sizes(10, 20), 0);
        // A directory in the way: neither removed nor replaced by the new file.
        fs::create_dir(temporary(&backlog.path)).expect("a directory");
        backlog.set_slowest(Some(0));
        let overrun = backlog.append(b"0123456789ab");
        assert!(matches!(overrun, Appended::Overrun { lost_bytes: 2, growth_error: Some(_) }), "{overrun:?}");
        assert_eq!(content(&backlog, 2).as_deref(), Some(&b"23456789ab"[..]));
        assert!(backlog.resize(sizes(50, 50)).is_err());
        assert_eq!(backlog.capacity(), 10);
        drop(directory);
    }

    #[test]
    fn a_larger_file_is_there_before_it_is_needed_and_has_everything() {
        let (directory, mut backlog) = backlog(sizes(1000, 100_000), 0);
        let byte = |offset: u64| (offset % 251) as u8;
        backlog.set_slowest(Some(0));
        let append = |backlog: &mut Backlog, count: u64| {
            let bytes: Vec<u8> = (backlog.end()..backlog.end() + count).map(byte).collect();
            assert!(matches!(backlog.append(&bytes), Appended::Kept));
        };
        append(&mut backlog, 600);
        assert!(matches!(backlog.ahead, Ahead::Growing(_)));
        assert_eq!(backlog.capacity(), 1000);
        append(&mut backlog, 100);
        while matches!(&backlog.ahead, Ahead::Growing(growth) if !growth.is_finished()) {
            std::thread::yield_now();
        }
        append(&mut backlog, 1);
        assert_eq!(backlog.capacity(), 4000);
        assert_eq!(content(&backlog, 0), Some((0..701).map(byte).collect()));
        assert!(!ahead(&backlog.path).exists() && backlog.path.exists());

        // Who does not wait for it has it all the same, and what is not needed any more leaves nothing behind.
        append(&mut backlog, 2000);
        append(&mut backlog, 3000);
        assert_eq!(backlog.capacity(), 16_000);
        assert_eq!(content(&backlog, 0), Some((0..5701).map(byte).collect()));
        append(&mut backlog, 4000);
        assert!(matches!(backlog.ahead, Ahead::Growing(_)));
        let path = ahead(&backlog.path);
        backlog.remove();
        assert!(!path.exists());
        drop(directory);
    }

    #[test]
    fn the_file_is_private_and_has_all_its_blocks() {
        let (_directory, backlog) = backlog(sizes(1 << 20, 1 << 20), 0);
        let metadata = fs::metadata(&backlog.path).expect("a file");
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        assert!(metadata.blocks() * 512 >= (1 << 20) + RING as u64);
        assert!(!temporary(&backlog.path).exists());
    }

    #[test]
    fn a_size_beyond_the_disk_is_an_error_that_leaves_nothing_behind() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("backlog.bin");
        for capacity in [1 << 60, u64::MAX] {
            let error = Backlog::create(&path, RUN, history(1), sizes(capacity, 0), (0, b""), None).err();
            assert!(matches!(error, Some(BacklogError::Io(_))), "{error:?}");
        }
        assert_eq!(fs::read_dir(directory.path()).expect("a directory").count(), 0);
    }

    /// Why the file is refused after `damage`.
    fn refusal(damage: impl FnOnce(&mut Vec<u8>)) -> BacklogError {
        let (directory, mut backlog) = backlog(sizes(100, 100), 0);
        assert!(kept(backlog.append(b"hello")));
        let path = directory.path().join("damaged");
        let mut file = fs::read(&backlog.path).expect("its file");
        damage(&mut file);
        fs::write(&path, file).expect("a damaged file");
        found(&path).expect_err("damaged")
    }

    fn put(at: usize, number: u64) -> impl FnOnce(&mut Vec<u8>) {
        move |file| file[at..][..8].copy_from_slice(&number.to_le_bytes())
    }

    #[test]
    fn each_damage_has_its_name() {
        use BacklogError as E;
        assert!(matches!(refusal(|file| file[0] = b'x'), E::Magic));
        assert!(matches!(refusal(put(VERSION, 2)), E::Version(2)));
        assert!(matches!(refusal(put(CAPACITY, 99)), E::Checksum("fixed part")));
        assert!(matches!(refusal(|file| file[RUN_ID] = b'x'), E::Checksum("fixed part")));
        assert!(matches!(refusal(|file| file.truncate(100)), E::Length { expected: 4096, found: 100 }));
        assert!(matches!(refusal(|file| file.truncate(4195)), E::Length { expected: 4196, found: 4195 }));
        assert!(matches!(refusal(|file| file.push(0)), E::Length { expected: 4196, found: 4197 }));
        assert!(matches!(refusal(|file| file[HISTORIES[1] + REPLID] = b'x'), E::Checksum("history")));
        assert!(matches!(refusal(put(START, REWRITING)), E::Unfinished));
        assert!(matches!(refusal(put(START, 6)), E::Offsets { start: 6, end: 5, capacity: 100 }));
        assert!(matches!(refusal(put(END, 101)), E::Offsets { start: 0, end: 101, capacity: 100 }));
        let rebooted = refusal(|file| {
            file[BOOT_ID] ^= 1;
            let right = checksum(&file[..FIXED_CHECKSUM]);
            put(FIXED_CHECKSUM, right)(file);
        });
        assert!(matches!(rebooted, E::Rebooted));
        assert!(matches!(Remains::open(Path::new("/nonexistent")), Err(E::Io(_))));
    }

    #[test]
    fn a_living_servers_file_is_refused_whatever_it_was_moved_to() {
        let (_directory, mut backlog) = backlog(sizes(10, 100), 0);
        let path = backlog.path.clone();
        assert!(matches!(Remains::open(&path), Err(BacklogError::InUse)));
        backlog.set_slowest(Some(0));
        assert!(kept(backlog.append(&[b'x'; 50])));
        assert_eq!(backlog.capacity(), 50);
        assert!(matches!(Remains::open(&path), Err(BacklogError::InUse)));
        drop(backlog);
        let two_at_once = [Remains::open(&path), Remains::open(&path)];
        assert!(two_at_once.iter().all(|remains| remains.as_ref().is_ok_and(|remains| remains.end == 50)));
    }

    #[test]
    fn what_is_done_to_a_view_never_reaches_the_file() {
        let (_directory, mut backlog) = backlog(sizes(10, 10), 100);
        assert!(kept(backlog.append(b"0123456789abc")));
        let path = backlog.path.clone();
        drop(backlog);
        let before = fs::read(&path).expect("its file");
        let mut view = Remains::open(&path).and_then(|remains| Ok(remains.view()?)).expect("a good file");
        assert_eq!((view.start(), view.end(), content(&view, 105)), (103, 113, Some(b"56789abc".to_vec())));
        view.set_slowest(Some(103));
        view.shrink_to_configured().expect("nothing to do");
        assert!(matches!(view.append(b"another history"), Appended::Overrun { .. }));
        assert_eq!(fs::read(&path).expect("its file"), before);
    }

    #[test]
    fn a_ring_that_is_continued_holds_the_newest_of_what_was_there() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("backlog.bin");
        for (capacity, start, rest) in [(20, 100, &b"0123456789"[..]), (10, 100, b"0123456789"), (4, 106, b"6789")] {
            let sizes = sizes(capacity, capacity);
            let stream = (100, &b"0123456789"[..]);
            let mut backlog = Backlog::create(&path, RUN, history(1), sizes, stream, Some(3)).expect("a backlog");
            assert_eq!((backlog.start(), backlog.end(), backlog.selected_db()), (start, 110, Some(3)));
            assert_eq!(content(&backlog, start).as_deref(), Some(rest));
            assert!(kept(backlog.append(b"ab")));
            assert_eq!(content(&backlog, 108).as_deref(), Some(&b"89ab"[..]));
        }
    }

    #[test]
    fn a_half_written_history_leaves_the_one_before_in_force() {
        let (_directory, mut backlog) = backlog(sizes(100, 100), 0);
        backlog.set_history(history(2));
        backlog.set_history(history(3));
        let newest = HISTORIES[(backlog.history_number % 2) as usize];
        backlog.file.put(newest + REPLID, b"torn");
        assert_eq!(found(&backlog.path).expect("a good file").history, history(2));
    }

    /// Where the process to be killed finds its work.
    const VICTIM: &str = "REPLD_TEST_BACKLOG_VICTIM";

    /// The stream of the victims repeats after this many bytes, a prime, so that no ring of theirs hides a shift.
    const PERIOD: usize = 65_521;

    /// Two periods of the stream.
    fn pattern() -> Vec<u8> {
        let one = (0..PERIOD as u64).map(|k| (k.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8);
        one.clone().chain(one).collect()
    }

    /// A step of a linear congruential generator; the high bits are the good ones.
    fn random(state: &mut u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *state >> 33
    }

    /// Appends at full speed, with growth, shrinking, promotions and SELECTs, until it is killed.
    fn append_for_ever(path: &Path) -> ! {
        let pattern = pattern();
        let mut backlog =
            Backlog::create(path, RUN, history(0), sizes(10_000, 60_000), (0, b""), None).expect("a backlog");
        let mut state = 1;
        loop {
            let length = (random(&mut state) % 3000) as usize + 1;
            let end = backlog.end() + length as u64;
            let from = (backlog.end() % PERIOD as u64) as usize;
            backlog.select_with_next(Some((end % 16) as u32));
            let _ = backlog.append(&pattern[from..][..length]);
            match random(&mut state) % 4000 {
                0 => backlog.set_slowest(Some(backlog.end())),
                1 => backlog.set_slowest(None),
                2 => backlog.shrink_to_configured().expect("space"),
                3 => backlog.set_history(History {
                    replid: id(backlog.end()),
                    previous: Some((backlog.history().replid, backlog.end())),
                }),
                _ => {}
            }
        }
    }

    /// The end in the file, if there is a file.
    fn end_of(path: &Path) -> u64 {
        let mut end = [0; 8];
        let read = File::open(path).and_then(|file| file.read_exact_at(&mut end, END as u64));
        read.map_or(0, |()| u64::from_le_bytes(end))
    }

    fn check_remains(path: &Path, pattern: &[u8]) {
        let remains = Remains::open(path).expect("a good file");
        let bytes = remains.bytes().expect("its bytes");
        for (offset, byte) in (remains.start..).zip(&bytes) {
            assert_eq!(*byte, pattern[(offset % PERIOD as u64) as usize], "byte {offset} of {}", remains.end);
        }
        assert!(bytes.len() >= 10_000 - 3000, "only {} bytes retained", bytes.len());
        assert_eq!(remains.selected_db(), Some((remains.end % 16) as u32));
        let History { replid, previous } = remains.history;
        let promoted_at = previous.map_or(0, |(_, end)| end);
        assert!(promoted_at <= remains.end);
        assert_eq!(replid, id(promoted_at));
    }

    #[test]
    fn sigkill_at_any_instant_leaves_exactly_a_prefix_of_the_stream() {
        if let Some(path) = std::env::var_os(VICTIM) {
            append_for_ever(Path::new(&path));
        }
        let pattern = pattern();
        let mut state = std::process::id().into();
        for round in 0..50 {
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path().join("backlog.bin");
            let test = "replication::backlog::tests::sigkill_at_any_instant_leaves_exactly_a_prefix_of_the_stream";
            let mut victim = Command::new(std::env::current_exe().expect("this program"))
                .args([test, "--exact", "--nocapture"])
                .env(VICTIM, &path)
                .stdout(Stdio::null())
                .spawn()
                .expect("a victim");
            let target = 20_000 + random(&mut state) % 50_000_000;
            while end_of(&path) < target {
                assert_eq!(victim.try_wait().expect("its status"), None, "round {round}: the victim ended by itself");
            }
            victim.kill().expect("it is ours");
            victim.wait().expect("it is killed");
            check_remains(&path, &pattern);
        }
    }
}
