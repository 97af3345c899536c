//! Which threads may wait: an image may take longer, an answer may not.
//!
//! A thread that serves nobody asks the scheduler for less in two ways. Its nice value says how much of a core it gets
//! beside one that serves. Its slice says who may interrupt it: Linux lets a thread that has just been picked run on to the
//! end of its slice, which without a high-resolution tick is up to 4 ms, unless the one that wakes up has a shorter slice
//! (`PREEMPT_SHORT`, since 6.12; see sched(7) and `sched_setattr(2)`). A thread that has just been started is always one
//! that has just been picked: without this, the first request of every full sync waited for a tick.

/// Of a thread's nice value.
const NICE: i32 = 10;
/// The slice in nanoseconds; that of other threads is 0.7 to 3 ms, by the number of cores.
const SLICE_NS: u64 = 20_000_000;

/// Lets those who serve clients go before the calling thread, where there are fewer cores than threads with work. For
/// threads that do nothing else, since it cannot be undone. Where the kernel knows no slices, the nice value is all.
pub(crate) fn step_back() {
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: libc::SCHED_OTHER as u32,
        sched_flags: 0,
        sched_nice: NICE,
        sched_priority: 0,
        sched_runtime: SLICE_NS,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel reads `size` bytes from a structure that outlives the call; 0 stands for the calling thread. It
    // can only fail to have an effect.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
}
