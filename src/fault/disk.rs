//! Disks that can be full: every node of a drill gets its directory on a small file system in memory (tmpfs) of its own, in a mount
//! namespace that nobody outside of this program and its servers sees. It goes away with them, however they end.
//!
//! Where a user may not mount anything, a user namespace may permit it: it maps them to themselves.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use rustix::process::{getgid, getuid};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::process::GroupDir;

/// What fits onto a disk: a repld's backlog and what a load writes in some seconds.
const DISK_BYTES: u64 = 192 << 20;
/// The file that fills a disk.
const FILLER: &str = "filler";

/// The disks of a group's nodes, until this is dropped; then their logs lie where they were.
#[derive(Debug)]
pub struct Disks(Vec<PathBuf>);

/// Gives this program a mount namespace of its own. To be called before it has a second thread.
///
/// # Errors
/// It is not permitted here.
pub fn separate_mounts() -> io::Result<()> {
    let (uid, gid) = (getuid(), getgid());
    // SAFETY: no file descriptors are unshared.
    if unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.is_err() {
        // SAFETY: as above.
        unsafe { unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS) }?;
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("{0} {0} 1", uid.as_raw()))?;
        fs::write("/proc/self/gid_map", format!("{0} {0} 1", gid.as_raw()))?;
    }
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    Ok(())
}

impl Disks {
    /// Mounts one for each of these nodes, which have not been started yet. [`separate_mounts`] must have been called.
    ///
    /// # Errors
    /// It is not permitted.
    pub fn mount<'a>(dir: &GroupDir, nodes: impl Iterator<Item = &'a str>) -> io::Result<Self> {
        let mut disks = Self(Vec::new());
        for node in nodes {
            dir.create_node_dir(node).map_err(io::Error::other)?;
            let place = dir.node_dir(node);
            let options = std::ffi::CString::new(format!("size={DISK_BYTES},mode=0700")).expect("it has no zero byte");
            mount("tmpfs", &place, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str())?;
            disks.0.push(place);
        }
        Ok(disks)
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        for place in &self.0 {
            let log = fs::read(place.join("log"));
            // Nobody could be told of an error, and all of it goes with this program.
            let _ = unmount(place, UnmountFlags::DETACH);
            let _ = log.and_then(|log| fs::write(place.join("log"), log));
        }
    }
}

/// Fills the disk of a node's directory.
///
/// # Errors
/// It is none of [`Disks`], or cannot be written for another reason than that it is full.
pub fn fill_disk(node_dir: &Path) -> io::Result<()> {
    if !is_disk(node_dir)? {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "its disk is not one of a drill's own, and is not filled",
        ));
    }
    let mut filler = File::create(node_dir.join(FILLER))?;
    for piece in [vec![0; 1 << 20], vec![0; 1 << 12]] {
        loop {
            match filler.write_all(&piece) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Takes away what [`fill_disk`] has written.
///
/// # Errors
/// There is nothing of it.
pub fn free_disk(node_dir: &Path) -> io::Result<()> {
    fs::remove_file(node_dir.join(FILLER))
}

fn is_disk(node_dir: &Path) -> io::Result<bool> {
    let is_mounted = fs::metadata(node_dir)?.dev() != fs::metadata(node_dir.join(".."))?.dev();
    let size = statvfs(node_dir)?;
    Ok(is_mounted && size.f_blocks * size.f_frsize <= DISK_BYTES)
}
