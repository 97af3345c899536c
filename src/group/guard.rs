//! `replctl guard`: somebody who stays, sees a master die, and promotes at once.
//!
//! ```text
//! pidfd, heartbeats, looks at all nodes --GuardEvent--> Guard::step --GuardOrder--> look, promote, start, note
//! ```
//!
//! What is decided is a value ([`Guard`]); [`watch_over`] asks, waits and acts. It promotes as `promote` does, under the
//! group's lock, so that it never acts beside another command. It is one observer: what it cannot decide alone, it
//! refuses, and says so in the journal.

mod decision;
mod note;
mod process;
mod watch;

pub use decision::{Guard, GuardDone, GuardEvent, GuardOrder, GuardSettings};
pub use note::{Evidence, GuardNote, GuardVerdict};
pub use process::{GuardState, LastNote, guard_state, start_guard, stop_guard};
pub use watch::{GuardEnd, check_decider, watch_over};
