//! What the tool remembers between its runs: one directory per group.
//!
//! ```text
//! STATE/                       $XDG_STATE_HOME/replctl, or --state-dir
//!   GROUP/                     0700
//!     lock                     held (flock) by whoever changes the group; its text names the holder
//!     run.json                 RunState: what was launched, with a checksum
//!     run.json.old             what it was before
//!     journal.jsonl            what was done to the group, step by step
//!     aside/NAME/              a node's own files while another engine is tried on it
//!     nodes/NAME/              0700, the node's working directory
//!       node.conf  log         0600
//!       dump.rdb …             the node's own files
//! ```
//!
//! Files are replaced, never rewritten in place: a reader sees the old one or the new one, whole.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use super::identity::ProcessIdentity;
use super::run::{RunState, SCHEMA};
use crate::failpoint;

/// The name that stands for the process of a group's links where others have a node's: no node can have it.
pub const LINKS: &str = ".links";
/// The same for the process of `replctl guard`.
pub const GUARD: &str = ".guard";

/// `run.json` of a thousand nodes is well below this.
const RUN_FILE_BYTES_MAX: u64 = 16 << 20;

/// The directory that holds all groups.
#[derive(Debug, Clone)]
pub struct StateDir {
    root: PathBuf,
}

/// One group's directory. It need not exist yet.
#[derive(Debug, Clone)]
pub struct GroupDir {
    name: String,
    path: PathBuf,
    /// Whether what is started in it ends with the thread that starts it.
    is_tied: bool,
}

/// The right to change a group, held until dropped.
#[derive(Debug)]
pub struct GroupLock {
    file: File,
}

impl GroupLock {
    /// Lets others change the group until it is taken again.
    ///
    /// # Errors
    /// The system refuses.
    pub fn release(&self) -> io::Result<()> {
        self.file.unlock()
    }

    /// Takes it again; `false`: somebody else has it.
    ///
    /// # Errors
    /// The system refuses.
    pub fn retake(&self) -> io::Result<bool> {
        match self.file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// Why the state of a group cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another replctl is changing the group.
    #[error("group {group} is held by another replctl: {holder}")]
    Busy {
        /// The group.
        group: String,
        /// Its pid and command, as it wrote them.
        holder: String,
    },
    /// There is no such group.
    #[error("there is no group {0}")]
    NoSuchGroup(String),
    /// The name cannot be a group's.
    #[error("{0:?} cannot be the name of a group")]
    BadName(String),
    /// A file cannot be read or written.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another version of this program has written it.
    #[error("{}: schema {schema} is not the {SCHEMA} that this replctl knows", .path.display())]
    OtherVersion {
        /// The file.
        path: PathBuf,
        /// What it says of itself.
        schema: String,
    },
    /// A file is not what this program has written.
    #[error("{}: {reason}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl StateDir {
    /// The state directory at `root`, which need not exist. Servers run in directories of their own, so the path is made
    /// absolute.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        Self { root: std::path::absolute(&root).unwrap_or(root) }
    }

    /// The directory of one group, existing or not.
    ///
    /// # Errors
    /// [`StateError::BadName`]: the name would leave the state directory or hide in it.
    pub fn group(&self, name: &str) -> Result<GroupDir, StateError> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.bytes().all(is_plain) {
            return Err(StateError::BadName(name.to_owned()));
        }
        Ok(GroupDir { name: name.to_owned(), path: self.root.join(name), is_tied: false })
    }

    /// All groups that have been started and not wiped, by name.
    ///
    /// # Errors
    /// The directory exists and cannot be read.
    pub fn groups(&self) -> Result<Vec<GroupDir>, StateError> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(StateError::Io { path: self.root.clone(), source }),
        };
        let mut groups: Vec<GroupDir> = entries
            .flatten()
            .filter_map(|entry| self.group(entry.file_name().to_str()?).ok())
            .filter(|group| group.run_file().exists() || group.former_run_file().exists())
            .collect();
        groups.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(groups)
    }
}

/// How long a lock may outlive its holder: a fork of the holder has it until its exec.
const HEIR_OF_LOCK: Duration = Duration::from_secs(1);

/// Whether the process that a lock file names is gone.
fn has_ended(holder: &str) -> bool {
    let pid = holder.rsplit_once("(pid ").and_then(|(_, rest)| rest.trim_end().trim_end_matches(')').parse().ok());
    pid.is_some_and(|pid| matches!(ProcessIdentity::of(pid), Ok(None)))
}

impl GroupDir {
    /// The same for a group that must not outlive this program, however that ends: the system kills each server whose starting
    /// thread has ended. What another replctl starts there meanwhile goes on.
    #[must_use]
    pub fn tied_to_this_thread(self) -> Self {
        Self { is_tied: true, ..self }
    }

    /// Whether it is such a group's.
    pub(super) fn is_tied(&self) -> bool {
        self.is_tied
    }

    /// The group's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The state directory that it is in.
    pub fn state_dir(&self) -> &Path {
        self.path.parent().expect("a group's directory is in one of all groups")
    }

    /// `journal.jsonl`
    pub fn journal_file(&self) -> PathBuf {
        self.path.join("journal.jsonl")
    }

    /// A node's working directory.
    pub fn node_dir(&self, node: &str) -> PathBuf {
        self.path.join("nodes").join(node)
    }

    /// Makes a node's working directory.
    ///
    /// # Errors
    /// The group's directory cannot be written.
    pub fn create_node_dir(&self, node: &str) -> Result<(), StateError> {
        create_private_dir(&self.node_dir(node))
    }

    /// A node's log, to which the server's stdout and stderr go.
    pub fn log_file(&self, node: &str) -> PathBuf {
        self.node_dir(node).join("log")
    }

    /// A node's configuration file.
    pub fn config_file(&self, node: &str) -> PathBuf {
        self.node_dir(node).join("node.conf")
    }

    fn run_file(&self) -> PathBuf {
        self.path.join("run.json")
    }

    fn former_run_file(&self) -> PathBuf {
        self.path.join("run.json.old")
    }

    /// Makes the group's directory and takes the right to change the group. `command` names the holder to others.
    ///
    /// # Errors
    /// [`StateError::Busy`] at once, without waiting, if another process has it. Only where that process has ended is the
    /// lock waited for: a server that it was starting holds it for the moment before it is one.
    pub fn lock(&self, command: &str) -> Result<GroupLock, StateError> {
        create_private_dir(&self.path)?;
        let path = self.path.join("lock");
        let io_error = |source| StateError::Io { path: path.clone(), source };
        let give_up = Instant::now() + HEIR_OF_LOCK;
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .map_err(io_error)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let mut holder = String::new();
                    let _ = file.take(256).read_to_string(&mut holder);
                    if has_ended(&holder) && Instant::now() < give_up {
                        std::thread::sleep(Duration::from_millis(1));
                        continue;
                    }
                    let holder = if holder.trim().is_empty() { "just started" } else { holder.trim() };
                    return Err(StateError::Busy { group: self.name.clone(), holder: holder.to_owned() });
                }
                Err(TryLockError::Error(error)) => return Err(io_error(error)),
            }
            // `down --wipe` may have removed the file between our open and its unlock: then this lock guards nothing.
            let is_still_there = fs::metadata(&path)
                .is_ok_and(|now| file.metadata().is_ok_and(|held| (now.dev(), now.ino()) == (held.dev(), held.ino())));
            if !is_still_there {
                create_private_dir(&self.path)?;
                continue;
            }
            let text = format!("replctl {command} (pid {})\n", std::process::id());
            file.set_len(0)
                .and_then(|()| file.rewind())
                .and_then(|()| file.write_all(text.as_bytes()))
                .map_err(io_error)?;
            self.remove_unfinished();
            failpoint::pass(|| "locked".to_owned());
            return Ok(GroupLock { file });
        }
    }

    /// What was launched; `None` if the group was never started, or was wiped.
    ///
    /// # Errors
    /// `run.json` cannot be read, is damaged, or is of another version.
    pub fn run_state(&self) -> Result<Option<RunState>, StateError> {
        let path = self.run_file();
        match read_run_file(&path)? {
            None if self.former_run_file().exists() => {
                Err(StateError::Malformed { path, reason: "it is gone".to_owned() })
            }
            read => Ok(read),
        }
    }

    /// Another value whenever `run.json` has been replaced; `None`: there is none.
    pub fn run_stamp(&self) -> Option<(u64, i64, i64)> {
        let metadata = fs::metadata(self.run_file()).ok()?;
        Some((metadata.ino(), metadata.mtime(), metadata.mtime_nsec()))
    }

    /// What `run.json` was before it was replaced last; `None` if that cannot be read either.
    pub fn former_run_state(&self) -> Option<RunState> {
        read_run_file(&self.former_run_file()).ok().flatten()
    }

    /// Puts what is known in the place of a `run.json` that is damaged and is kept as `run.json.damaged`. Only for who holds
    /// the lock.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn replace_damaged(&self, state: &RunState, _lock: &GroupLock) -> Result<(), StateError> {
        let path = self.run_file();
        match fs::rename(&path, self.path.join("run.json.damaged")) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StateError::Io { path, source }),
            _ => self.save_run_state(state, Durability::Disk),
        }
    }

    /// Replaces `run.json`. It survives this process; with [`Durability::Disk`] the machine's end, too.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn save_run_state(&self, state: &RunState, durability: Durability) -> Result<(), StateError> {
        let sealed = Sealed { checksum: checksum(&as_value(state)), state: state.clone() };
        let text = serde_json::to_vec_pretty(&sealed).expect("a run state has only string keys");
        self.keep_former()?;
        replace_file(&self.run_file(), &text, durability)
    }

    /// Lets the present `run.json` have a second name, under which it stays when it is replaced.
    fn keep_former(&self) -> Result<(), StateError> {
        let (path, former) = (self.run_file(), self.former_run_file());
        let beside = self.path.join(format!("{UNFINISHED}former"));
        let _ = fs::remove_file(&beside);
        let kept = fs::hard_link(&path, &beside).and_then(|()| fs::rename(&beside, &former));
        // Where both names are one file already, a rename leaves the third: rename(2).
        let _ = fs::remove_file(&beside);
        match kept {
            // The first one has none before it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            kept => kept.map_err(|source| StateError::Io { path: former, source }),
        }
    }

    /// Replaces a node's configuration file, making its directory if needed.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn save_config(&self, node: &str, text: &str) -> Result<(), StateError> {
        create_private_dir(&self.node_dir(node))?;
        replace_file(&self.config_file(node), text.as_bytes(), Durability::PageCache)
    }

    /// Where a node's own files wait while another engine is tried on it.
    fn aside(&self, node: &str) -> PathBuf {
        self.path.join("aside").join(node)
    }

    /// Takes a node's own files out of its directory, all but its configuration, its log and `stay`, so that a server starts
    /// there with nothing. What waits already stays: it is older, and what the node has since got is a copy of others'.
    ///
    /// # Errors
    /// The directories cannot be written.
    pub fn set_aside(&self, node: &str, stay: &[&str]) -> Result<(), StateError> {
        create_private_dir(&self.node_dir(node))?;
        let aside = self.aside(node);
        create_private_dir(&aside)?;
        for path in self.own_files(node, stay)? {
            let target = aside.join(path.file_name().expect("entries have names"));
            let is_older = target.symlink_metadata().is_ok();
            let moved = if is_older { remove(&path) } else { fs::rename(&path, &target) };
            moved.map_err(|source| StateError::Io { path, source })?;
        }
        Ok(())
    }

    /// Gives a node back what was set aside, in place of what it has.
    ///
    /// # Errors
    /// The directories cannot be written.
    pub fn bring_back(&self, node: &str, stay: &[&str]) -> Result<(), StateError> {
        let aside = self.aside(node);
        if !aside.is_dir() {
            return Ok(());
        }
        for path in self.own_files(node, stay)? {
            remove(&path).map_err(|source| StateError::Io { path, source })?;
        }
        for path in entries(&aside)? {
            let target = self.node_dir(node).join(path.file_name().expect("entries have names"));
            fs::rename(&path, target).map_err(|source| StateError::Io { path, source })?;
        }
        self.drop_aside(node)
    }

    fn own_files(&self, node: &str, stay: &[&str]) -> Result<Vec<PathBuf>, StateError> {
        let mut files = entries(&self.node_dir(node))?;
        let stays = |path: &Path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| ["node.conf", "log"].contains(&name) || stay.contains(&name))
        };
        files.retain(|path| !stays(path));
        Ok(files)
    }

    /// Removes what was set aside, if anything was.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn drop_aside(&self, node: &str) -> Result<(), StateError> {
        let path = self.aside(node);
        remove(&path).map_err(|source| StateError::Io { path, source })
    }

    /// Keeps what nobody has any more of a replication stream in `tails/NAME`, on disk before anything throws it away; tells
    /// where.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn save_tail(&self, name: &str, commands: &[u8]) -> Result<PathBuf, StateError> {
        let dir = self.path.join("tails");
        create_private_dir(&dir)?;
        let path = dir.join(name);
        replace_file(&path, commands, Durability::Disk)?;
        Ok(path)
    }

    /// Forgets what was launched; data, logs and the journal stay. Only for who holds the lock.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn forget(&self, _lock: &GroupLock) -> Result<(), StateError> {
        for path in [self.former_run_file(), self.run_file()] {
            remove_file(&path)?;
        }
        Ok(())
    }

    /// Removes the group's directory with all data in it. Only for who holds the lock.
    ///
    /// # Errors
    /// Something in it cannot be removed.
    pub fn wipe(&self, _lock: &GroupLock) -> Result<(), StateError> {
        // What makes it a group goes last: a wipe that breaks off is done again.
        for part in ["nodes", "tails"] {
            remove_dir(&self.path.join(part))?;
            failpoint::pass(|| format!("removed {part}"));
        }
        remove_file(&self.former_run_file())?;
        remove_dir(&self.path)
    }

    /// Removes what was being written when a replctl was killed. Nobody else writes: the lock is ours.
    fn remove_unfinished(&self) {
        let nodes = fs::read_dir(self.path.join("nodes")).into_iter().flatten().flatten().map(|entry| entry.path());
        let dirs = nodes.chain([self.path.clone(), self.path.join("tails")]);
        let files = dirs.filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
        for file in files.filter(|file| file.file_name().to_string_lossy().starts_with(UNFINISHED)) {
            // It does no harm where it stays.
            let _ = fs::remove_file(file.path());
        }
    }
}

/// `run.json`, or what it was before; `None` if there is none.
fn read_run_file(path: &Path) -> Result<Option<RunState>, StateError> {
    let malformed = |reason: String| StateError::Malformed { path: path.to_owned(), reason };
    let io_error = |source| StateError::Io { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io_error(source)),
    };
    let mut text = Vec::new();
    file.take(RUN_FILE_BYTES_MAX).read_to_end(&mut text).map_err(io_error)?;
    let mut value: Value = serde_json::from_slice(&text).map_err(|error| malformed(error.to_string()))?;
    let sealed = value.as_object_mut().and_then(|object| object.remove("checksum"));
    if sealed.is_none_or(|sealed| sealed != checksum(&value)) {
        return Err(malformed("its checksum is not that of what it says".to_owned()));
    }
    if value["schema"] != SCHEMA {
        return Err(StateError::OtherVersion { path: path.to_owned(), schema: value["schema"].to_string() });
    }
    let state: RunState = serde_json::from_value(value).map_err(|error| malformed(error.to_string()))?;
    if !state.is_a_tree() {
        return Err(malformed("its nodes are not one master with replicas below it".to_owned()));
    }
    Ok(Some(state))
}

/// [`RunState`] as it stands in its file.
#[derive(Serialize)]
struct Sealed {
    #[serde(flatten)]
    state: RunState,
    checksum: String,
}

fn as_value(state: &RunState) -> Value {
    serde_json::to_value(state).expect("a run state has only string keys")
}

/// FNV-1a (<http://www.isthe.com/chongo/tech/comp/fnv/>) of an object's compact text, its names in order: one changed byte
/// always changes it.
fn checksum(value: &Value) -> String {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    format!("{:016x}", value.to_string().bytes().fold(0xcbf2_9ce4_8422_2325, step))
}

fn remove_file(path: &Path) -> Result<(), StateError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(StateError::Io { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

fn remove_dir(path: &Path) -> Result<(), StateError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StateError::Io { path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

/// How the name of a file begins that is written beside the one that it is to replace.
const UNFINISHED: &str = ".unfinished-";

/// What a replaced file outlives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// This process, also one that is killed.
    PageCache,
    /// A loss of power.
    Disk,
}

/// A directory that only its owner may enter, with its parents.
fn create_private_dir(path: &Path) -> Result<(), StateError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| StateError::Io { path: path.to_owned(), source })
}

/// The paths of what is in a directory.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, StateError> {
    let read = || fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>();
    read().map_err(|source| StateError::Io { path: dir.to_owned(), source })
}

/// Removes a file, or a directory with all that is in it, if it is there.
fn remove(path: &Path) -> io::Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Writes a file beside `path` (mode 0600) and renames it over it.
fn replace_file(path: &Path, contents: &[u8], durability: Durability) -> Result<(), StateError> {
    let dir = path.parent().expect("a file of the state directory has a parent");
    let point = |when: &str| format!("{when} {}", path.file_name().unwrap_or_default().to_string_lossy());
    let write = || -> io::Result<()> {
        failpoint::pass(|| point("saving"));
        let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(dir)?;
        file.write_all(contents)?;
        if durability == Durability::Disk {
            file.as_file().sync_all()?;
        }
        failpoint::pass(|| point("replacing"));
        file.persist(path)?;
        failpoint::pass(|| point("replaced"));
        if durability == Durability::Disk {
            File::open(dir)?.sync_all()?;
        }
        Ok(())
    };
    write().map_err(|source| StateError::Io { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::process::{ManagedServer, RunNode, RunProcess, Server, Unfenced, UnmanagedServer, WishedEngine};
    use crate::topology::{Address, Engine, EngineFamily, Login};

    fn scratch() -> (tempfile::TempDir, GroupDir) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let group = StateDir::new(dir.path().join("state")).group("trio").expect("a good name");
        (dir, group)
    }

    fn node(name: &str, upstream: Option<&str>) -> RunNode {
        let server = Server::Managed(ManagedServer {
            wished_port: None,
            port: 6379,
            engine: Engine { family: EngineFamily::Redis, path: Some("/opt/redis-server".into()) },
            wished_engine: None,
            priority: 100,
            config: BTreeMap::from([("save".to_owned(), "900 1".to_owned())]),
            link_ports: Vec::new(),
            entrance: None,
            process: None,
        });
        let upstream = upstream.map(str::to_owned);
        RunNode { name: name.to_owned(), wished_upstream: None, upstream, server }
    }

    fn unmanaged(name: &str, upstream: Option<&str>) -> RunNode {
        let server = Server::Unmanaged(UnmanagedServer {
            address: Address { host: "db1".to_owned(), port: 6379 },
            announced: Address { host: "10.0.0.7".to_owned(), port: 6379 },
            login: Login { user: None, password: Some("secret".to_owned()) },
            run_id: Some("a662".to_owned()),
            unfenced: Some(Unfenced { replid: "3f35".to_owned(), shared_up_to: 64 }),
        });
        RunNode { server, ..node(name, upstream) }
    }

    #[test]
    fn a_group_cannot_leave_the_state_directory() {
        let state = StateDir::new("/nowhere");
        for name in ["", ".", "..", "../x", "a/b", ".hidden", "a b", &"x".repeat(65)] {
            assert!(matches!(state.group(name), Err(StateError::BadName(_))), "{name:?}");
        }
    }

    #[test]
    fn a_held_lock_names_its_holder_and_is_free_after_it() {
        let (_dir, group) = scratch();
        let lock = group.lock("up").expect("nobody holds it");
        let busy = group.lock("promote").expect_err("it is held");
        let expected = format!("group trio is held by another replctl: replctl up (pid {})", std::process::id());
        assert_eq!(busy.to_string(), expected);
        drop(lock);
        group.lock("promote").expect("it is free again");
    }

    #[test]
    fn a_lock_taken_after_a_wipe_is_a_new_one() {
        let (_dir, group) = scratch();
        let lock = group.lock("down").expect("nobody holds it");
        group.wipe(&lock).expect("the directory is ours");
        let _second = group.lock("up").expect("the wiped file does not count");
        assert!(matches!(group.lock("up"), Err(StateError::Busy { .. })));
    }

    #[test]
    fn what_was_launched_is_read_back_and_only_the_owner_may_read_it() {
        let (_dir, group) = scratch();
        let _lock = group.lock("up").expect("nobody holds it");
        assert_eq!(group.run_state().expect("it is readable"), None);
        let identity = ProcessIdentity { pid: 7, start_ticks: 8, boot_id: "b".to_owned() };
        let process = RunProcess { identity, program: "/usr/bin/redis-server".into(), version: "7.0.15".to_owned() };
        let mut node = node("n1", None);
        node.managed_mut().expect("it is managed").process = Some(process);
        let state = RunState::new("trio", Some(5), vec![node, unmanaged("n2", Some("n1"))]);
        group.save_run_state(&state, Durability::Disk).expect("the directory is ours");
        assert_eq!(group.run_state().expect("it is readable"), Some(state));
        let mode = fs::metadata(group.run_file()).expect("it is there").mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_run_state_of_another_version_is_refused() {
        let (_dir, group) = scratch();
        let _lock = group.lock("up").expect("nobody holds it");
        let mut of_tomorrow = RunState::new("trio", None, vec![node("n1", None)]);
        of_tomorrow.schema += 1;
        group.save_run_state(&of_tomorrow, Durability::PageCache).expect("the directory is ours");
        assert!(matches!(group.run_state(), Err(StateError::OtherVersion { .. })));
    }

    #[test]
    fn a_damaged_run_state_is_refused_or_read_as_it_was() {
        let (_dir, group) = scratch();
        let _lock = group.lock("up").expect("nobody holds it");
        let identity = ProcessIdentity { pid: 7, start_ticks: 8, boot_id: "b".to_owned() };
        let mut master = node("n1", None);
        let process = RunProcess { identity, program: "/usr/bin/redis-server".into(), version: "7.0.15".to_owned() };
        master.managed_mut().expect("it is managed").process = Some(process);
        let state = RunState::new("trio", Some(5), vec![master, unmanaged("n2", Some("n1"))]);
        group.save_run_state(&state, Durability::PageCache).expect("the directory is ours");
        let whole = fs::read(group.run_file()).expect("it is there");
        let is_harmless = |bytes: &[u8]| {
            fs::write(group.run_file(), bytes).expect("the directory is ours");
            match group.run_state() {
                Ok(read) => read == Some(state.clone()),
                Err(error) => matches!(error, StateError::Malformed { .. }),
            }
        };
        assert!((0..whole.len()).all(|length| is_harmless(&whole[..length])), "cut off");
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            assert!(is_harmless(&flipped), "byte {at}: {}", String::from_utf8_lossy(&flipped));
        }
        for garbage in [&b""[..], b"{", b"[]", b"null", b"\0\0\0\0", b"\xff\xfe", &whole.repeat(2)] {
            assert!(is_harmless(garbage), "{garbage:?}");
        }
    }

    #[test]
    fn what_a_run_state_was_before_is_kept() {
        let (_dir, group) = scratch();
        let lock = group.lock("up").expect("nobody holds it");
        let states = ["n1", "n2", "n3"].map(|name| RunState::new("trio", None, vec![node(name, None)]));
        for (index, state) in states.iter().enumerate() {
            group.save_run_state(state, Durability::PageCache).expect("the directory is ours");
            assert_eq!(group.former_run_state().as_ref(), index.checked_sub(1).map(|before| &states[before]));
        }
        fs::remove_file(group.run_file()).expect("it is there");
        assert!(matches!(group.run_state(), Err(StateError::Malformed { .. })), "a group does not vanish with a file");
        group.replace_damaged(&states[1], &lock).expect("the directory is ours");
        assert_eq!(group.run_state().expect("it is readable").as_ref(), Some(&states[1]));
    }

    #[test]
    fn files_set_aside_come_back_in_place_of_newer_ones() {
        let (_dir, group) = scratch();
        let file = |name: &str| group.node_dir("n1").join(name);
        let read = |name: &str| fs::read_to_string(file(name)).unwrap_or_default();
        group.save_config("n1", "port 1\n").expect("the directory is ours");
        fs::create_dir(file("appendonlydir")).expect("the directory is ours");
        fs::write(file("dump.rdb"), "old").expect("the directory is ours");
        fs::write(file("users.acl"), "stays").expect("the directory is ours");
        group.set_aside("n1", &["users.acl"]).expect("the directory is ours");
        assert!(!file("dump.rdb").exists() && !file("appendonlydir").exists() && file("node.conf").exists());
        fs::write(file("dump.rdb"), "new").expect("the directory is ours");
        group.set_aside("n1", &["users.acl"]).expect("twice is as good as once");
        assert_eq!(read("dump.rdb"), "");
        fs::write(file("dump.rdb"), "newer").expect("the directory is ours");
        fs::write(file("backlog.bin"), "of the other engine").expect("the directory is ours");
        group.bring_back("n1", &["users.acl"]).expect("the directory is ours");
        assert!(read("dump.rdb") == "old" && file("appendonlydir").is_dir());
        assert!(!file("backlog.bin").exists() && read("users.acl") == "stays");
        group.bring_back("n1", &["users.acl"]).expect("nothing is there, and nothing happens");
        assert_eq!(read("dump.rdb"), "old");
    }

    #[test]
    fn a_changed_engine_remembers_what_the_topology_names_until_it_is_that_again() {
        let mut node = node("n1", None);
        let server = node.managed_mut().expect("it is managed");
        let (of_file, repld) = (server.engine.clone(), Engine::REPLD);
        let valkey = Engine { family: EngineFamily::Valkey, path: None };
        server.change_engine(repld.clone());
        server.change_engine(valkey.clone());
        assert_eq!(server.wished_engine, Some(WishedEngine(of_file.clone())));
        assert!(server.is_meant_by(&of_file) && server.is_meant_by(&valkey) && !server.is_meant_by(&repld));
        let text = serde_json::to_string(&node).expect("it is plain data");
        assert_eq!(serde_json::from_str::<RunNode>(&text).expect("it is readable"), node);
        let server = node.managed_mut().expect("it is managed");
        server.change_engine(of_file);
        assert_eq!(server.wished_engine, None);
    }

    #[test]
    fn a_run_state_that_is_no_tree_is_refused() {
        let broken = [
            vec![],
            vec![node("n1", None), node("n2", None)],
            vec![node("n1", None), node("n2", Some("n9"))],
            vec![node("n1", None), node("n2", Some("n3")), node("n3", Some("n2"))],
        ];
        for nodes in broken {
            assert!(!RunState::new("trio", None, nodes).is_a_tree());
        }
        let chain = vec![node("n3", Some("n2")), node("n2", Some("n1")), node("n1", None)];
        assert!(RunState::new("trio", None, chain).is_a_tree());
    }
}
