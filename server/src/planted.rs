//! Bugs for the simulator and for drills to find. With the feature `planted-bugs`, which only their tests switch on, one of them can
//! be planted in the calling thread, or in all threads by its name in `REPLD_PLANTED_BUG`; without it there is none of this.

#[cfg(feature = "planted-bugs")]
use std::cell::Cell;

/// A bug that was made on purpose.
#[cfg(feature = "planted-bugs")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// Whoever asks to continue is let, whatever history it has.
    ReplidIgnored,
    /// The wire's next byte is held against the bytes shared with the previous history.
    SecondOffsetOffByOne,
    /// A replica says that it has what it has only received.
    AcknowledgedBeforeCommit,
    /// A master deletes what has expired and tells nobody.
    ExpiryNotTold,
    /// What a feed was sent, it is sent again.
    CursorNotAdvanced,
    /// A replica does not count its upstream's PINGs as bytes of the stream.
    PingNotCounted,
    /// After a partial resync the stream is taken to be in database 0.
    SelectForgotten,
    /// A replica that feeds others counts what it hands on once more.
    HandedOnCountedTwice,
}

#[cfg(feature = "planted-bugs")]
impl Bug {
    /// All of them.
    pub const ALL: [Bug; 8] = [
        Bug::ReplidIgnored,
        Bug::SecondOffsetOffByOne,
        Bug::AcknowledgedBeforeCommit,
        Bug::ExpiryNotTold,
        Bug::CursorNotAdvanced,
        Bug::PingNotCounted,
        Bug::SelectForgotten,
        Bug::HandedOnCountedTwice,
    ];
}

#[cfg(feature = "planted-bugs")]
thread_local! {
    static PLANTED: Cell<Option<Bug>> = Cell::new(named());
}

/// The bug that the environment names.
#[cfg(feature = "planted-bugs")]
fn named() -> Option<Bug> {
    let name = std::env::var("REPLD_PLANTED_BUG").ok()?;
    Some(Bug::ALL.into_iter().find(|bug| format!("{bug:?}") == name).expect("REPLD_PLANTED_BUG names a bug"))
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

/// Whether the bug of this name is planted here: never, outside the simulator's own tests.
macro_rules! planted {
    ($bug:ident) => {{
        #[cfg(feature = "planted-bugs")]
        let planted = $crate::planted::is($crate::planted::Bug::$bug);
        #[cfg(not(feature = "planted-bugs"))]
        let planted = false;
        planted
    }};
}
