//! Images on their way into a key space of their own, on a thread: the owner of the data goes on answering meanwhile, and
//! takes the result when it is whole. An image comes from a file, from the wire in pieces, or from a file that is still
//! being written.

use std::fs::File;
use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak, mpsc as sync};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use super::{Server, now_ms};
use crate::instance::Loading;
use crate::priority;
use crate::snapshot::{self, LoadError, Loaded, Loader, SLICE_BYTES};

/// How often those who ask are told how far a load is.
const PROGRESS: Duration = Duration::from_millis(20);

/// Where an image comes from.
pub(super) enum Source {
    /// A file that is whole. What follows the image in it does not matter.
    File(File),
    /// The wire. It ends where the image does.
    Pieces(mpsc::Receiver<Vec<u8>>),
    /// A file in the making, and how many bytes it has by now.
    GrowingFile(File, sync::Receiver<u64>),
}

/// A load that runs. Dropped, it is given up.
pub(super) struct Load {
    loaded_bytes: Arc<AtomicU64>,
    thread: JoinHandle<Result<Loaded, LoadError>>,
}

impl Load {
    pub(super) fn spawn(loader: Loader, source: Source) -> Load {
        let loaded_bytes = Arc::new(AtomicU64::new(0));
        let progress = Arc::downgrade(&loaded_bytes);
        Load { loaded_bytes, thread: spawn_blocking(move || load(loader, source, &progress)) }
    }

    /// Waits until everything is loaded; `meanwhile` is called now and then.
    pub(super) async fn finish(mut self, server: &Server, mut meanwhile: impl FnMut()) -> Result<Loaded, LoadError> {
        loop {
            let waited = timeout(PROGRESS, &mut self.thread).await;
            {
                let mut instance = server.instance.borrow_mut();
                instance.set_now(now_ms());
                if let Some(loading) = &mut instance.loading {
                    loading.loaded_bytes = self.loaded_bytes.load(Ordering::Relaxed);
                }
            }
            match waited {
                Ok(result) => {
                    let loaded = result.unwrap_or_else(|error| Err(io::Error::other(error).into()));
                    return loaded.inspect(Loaded::tell);
                }
                Err(_) => meanwhile(),
            }
        }
    }
}

/// Says that a data set is being loaded.
pub(super) fn announce(server: &Server, total_bytes: u64, serves_old_data: bool) {
    let mut instance = server.instance.borrow_mut();
    instance.set_now(now_ms());
    instance.loading = Some(Loading { started_ms: instance.now_ms, total_bytes, loaded_bytes: 0, serves_old_data });
}

fn load(mut loader: Loader, mut source: Source, progress: &Weak<AtomicU64>) -> Result<Loaded, LoadError> {
    priority::step_back();
    let (mut buffer, mut read, mut written) = (Vec::new(), 0, 0);
    loop {
        let more = match &mut source {
            Source::File(file) => snapshot::read_slice(file, &mut buffer)?,
            Source::Pieces(pieces) => pieces.blocking_recv().is_some_and(|piece| {
                buffer = piece;
                true
            }),
            Source::GrowingFile(file, grown) => {
                while read == written
                    && let Ok(bytes) = grown.recv()
                {
                    written = bytes;
                }
                buffer.resize(SLICE_BYTES.min((written - read) as usize), 0);
                file.read_exact(&mut buffer)?;
                read < written
            }
        };
        // Nobody waits for the rest of a load that was given up.
        let Some(progress) = progress.upgrade().filter(|_| more) else { break };
        read += buffer.len() as u64;
        let complete = loader.feed(&buffer)?;
        progress.store(read, Ordering::Relaxed);
        if complete && matches!(source, Source::File(_)) {
            return loader.finish();
        }
    }
    match loader.unread().len() {
        0 => loader.finish(),
        // What is missing is told by `finish`.
        _ if !loader.is_complete() => loader.finish(),
        bytes => Err(LoadError::Trailing(bytes)),
    }
}
