//! What this library runs in: `replctl` itself, or somebody else's program.
//!
//! The first serves as a repld by itself and is the one whom Ctrl-C is meant for. In the second, signals are not ours to
//! receive, and a repld is another program.

use std::sync::atomic::{AtomicBool, Ordering};

static IS_REPLCTL: AtomicBool = AtomicBool::new(false);

/// Says that this process is `replctl`. For its `main`.
pub fn is_replctl_itself() {
    IS_REPLCTL.store(true, Ordering::Relaxed);
}

/// Whether it was said.
pub(crate) fn is_replctl() -> bool {
    IS_REPLCTL.load(Ordering::Relaxed)
}
