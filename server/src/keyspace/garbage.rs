//! What takes long to drop is dropped on a thread of its own.
//!
//! A big value is many small allocations, and a table is mappings that the kernel takes back page by page: milliseconds for
//! what a command removes at once. The thread is started when it is first needed, and drops one thing after the other.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread;

type Garbage = Box<dyn Send>;

static SENT: AtomicU64 = AtomicU64::new(0);
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// How many things wait to be dropped aside, and how many were, by this process.
pub fn lazily_freed() -> (u64, u64) {
    let dropped = DROPPED.load(Ordering::Relaxed);
    (SENT.load(Ordering::Relaxed).saturating_sub(dropped), dropped)
}

/// Drops `garbage` when the thread comes to it.
pub(super) fn drop_aside(garbage: impl Send + 'static) {
    static COLLECTOR: LazyLock<Option<Sender<Garbage>>> = LazyLock::new(|| {
        let (sender, receiver) = mpsc::channel::<Garbage>();
        let collect = || {
            for garbage in receiver {
                drop(garbage);
                DROPPED.fetch_add(1, Ordering::Relaxed);
            }
        };
        thread::Builder::new().name("garbage".into()).spawn(collect).ok().map(|_| sender)
    });
    SENT.fetch_add(1, Ordering::Relaxed);
    if let Some(collector) = &*COLLECTOR {
        // It ends with the process; should it have ended, this drops what it gives back.
        let _ = collector.send(Box::new(garbage));
    }
}
