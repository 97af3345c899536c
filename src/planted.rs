//! Bugs for the simulation and for drills to find. With the feature `planted-bugs`, which only their tests switch on, one of them can
//! be planted in the calling thread, or in all threads by its name in `REPLCTL_PLANTED_BUG`; without it there is none of this.

#[cfg(feature = "planted-bugs")]
use std::cell::Cell;

/// A bug that was made on purpose.
#[cfg(feature = "planted-bugs")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A replica whose first synchronization never finished can be promoted.
    NeverSyncedPromoted,
    /// Offsets are compared across histories.
    HistoryIgnored,
    /// Priority counts before the offset.
    PriorityFirst,
    /// The old master is not ended.
    FenceSkipped,
    /// Nobody waits for what the old master has sent.
    DrainSkipped,
    /// It is waited for, and the plan is kept though another node has more then.
    OvertakenIgnored,
    /// What the old master's backlog has is left there.
    SalvageSkipped,
    /// A plan lets its own candidate follow.
    CandidateRepointed,
    /// Nobody is told to follow the new master.
    RepointForgotten,
    /// The record is trusted though a change of masters broke off.
    RecordTrusted,
    /// A group whose nodes may be exchanging their roles is looked at only once.
    LooksOnce,
    /// The master hands over to a replica that has not caught up.
    CatchUpSkipped,
    /// What holds back the master's writes is not undone.
    UnpauseForgotten,
}

#[cfg(feature = "planted-bugs")]
impl Bug {
    /// All of them.
    pub const ALL: [Bug; 13] = [
        Bug::NeverSyncedPromoted,
        Bug::HistoryIgnored,
        Bug::PriorityFirst,
        Bug::FenceSkipped,
        Bug::DrainSkipped,
        Bug::OvertakenIgnored,
        Bug::SalvageSkipped,
        Bug::CandidateRepointed,
        Bug::RepointForgotten,
        Bug::RecordTrusted,
        Bug::LooksOnce,
        Bug::CatchUpSkipped,
        Bug::UnpauseForgotten,
    ];
}

#[cfg(feature = "planted-bugs")]
thread_local! {
    static PLANTED: Cell<Option<Bug>> = Cell::new(named());
}

/// The bug that the environment names.
#[cfg(feature = "planted-bugs")]
fn named() -> Option<Bug> {
    let name = std::env::var("REPLCTL_PLANTED_BUG").ok()?;
    Some(Bug::ALL.into_iter().find(|bug| format!("{bug:?}") == name).expect("REPLCTL_PLANTED_BUG names a bug"))
}

/// Plants a bug in this thread, or takes it out.
#[cfg(feature = "planted-bugs")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether this bug is planted here.
#[cfg(feature = "planted-bugs")]
pub(crate) fn is(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether the bug of this name is planted here: never, outside the simulation's own tests.
macro_rules! planted {
    ($bug:ident) => {{
        #[cfg(feature = "planted-bugs")]
        let planted = $crate::planted::is($crate::planted::Bug::$bug);
        #[cfg(not(feature = "planted-bugs"))]
        let planted = false;
        planted
    }};
}
