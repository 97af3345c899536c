//! The larger file that a ring will need, made on a thread of its own while there is still room in the present one: to
//! give a file its blocks takes milliseconds, in which nothing else could be done.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::thread::{self, JoinHandle};

use super::{Mapping, RING};
use crate::priority;

/// Bytes copied at a time.
const COPIED_BYTES: usize = 256 * 1024;

/// A file in the making. Dropped, it is removed.
pub(super) struct Growth {
    path: PathBuf,
    thread: Option<JoinHandle<io::Result<Mapping>>>,
    copied_to: u64,
}

impl Growth {
    /// Begins a ring of `capacity` bytes at `path`, with bytes `from` to `to` of the stream out of the smaller ring. Of
    /// those that this one gives up meanwhile, anything may be in it.
    ///
    /// # Errors
    /// There can be no thread.
    pub(super) fn begin(smaller: &Mapping, path: PathBuf, capacity: u64, from: u64, to: u64) -> io::Result<Growth> {
        let (source, source_capacity) = (smaller.locked.try_clone()?, smaller.capacity);
        let grow = {
            let path = path.clone();
            move || {
                priority::step_back();
                let mut larger = Mapping::allocate(&path, capacity)?;
                let (mut buffer, mut at) = (vec![0; COPIED_BYTES], from);
                while at < to {
                    let place = at % source_capacity;
                    let count = (to - at).min(source_capacity - place).min(COPIED_BYTES as u64) as usize;
                    source.read_exact_at(&mut buffer[..count], RING as u64 + place)?;
                    larger.write(larger.place(at), &buffer[..count]);
                    at += count as u64;
                }
                Ok(larger)
            }
        };
        let thread = thread::Builder::new().name("grow-backlog".into()).spawn(grow)?;
        Ok(Growth { path, thread: Some(thread), copied_to: to })
    }

    pub(super) fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for the larger ring, which has no header yet, and says up to which byte of the stream it was filled.
    ///
    /// # Errors
    /// The file could not be made or read.
    pub(super) fn finish(mut self) -> io::Result<(Mapping, u64)> {
        let thread = self.thread.take().expect("it is waited for once");
        let larger = thread.join().map_err(|_| io::Error::other("the thread that makes it has failed"))??;
        Ok((larger, self.copied_to))
    }
}

impl Drop for Growth {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take()
            && let Ok(Ok(_)) = thread.join()
        {
            // It is overwritten by the next one if it stays.
            let _ = fs::remove_file(&self.path);
        }
    }
}
