//! What takes long to drop is dropped on a thread of its own.
//!
//! A big value is many small allocations, and a table is mappings that the kernel takes back page by page: milliseconds for
//! what a command removes at once. The thread is started when it is first needed, and drops one thing after the other.

use std::sync::LazyLock;
use std::sync::mpsc::{self, Sender};
use std::thread;

type Garbage = Box<dyn Send>;

/// Drops `garbage` when the thread comes to it.
pub(super) fn drop_aside(garbage: impl Send + 'static) {
    static COLLECTOR: LazyLock<Option<Sender<Garbage>>> = LazyLock::new(|| {
        let (sender, receiver) = mpsc::channel::<Garbage>();
        let collect = || receiver.into_iter().for_each(drop);
        thread::Builder::new().name("garbage".into()).spawn(collect).ok().map(|_| sender)
    });
    if let Some(collector) = &*COLLECTOR {
        // It ends with the process; should it have ended, this drops what it gives back.
        let _ = collector.send(Box::new(garbage));
    }
}
