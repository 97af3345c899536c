//! A rehearsal of a failure with a verdict that can be trusted: a group of its own is started and written to ([`load`]) while the
//! drill's steps are done to it, the writers record what they were told ([`history`]), and what is there afterwards is held
//! against it ([`account`], [`linear`], [`contents`]).
//!
//! ```text
//! Drill (wished) --run--> History + Contents + times --account, timing--> Findings --Verdict::of--> Verdict
//! ```

pub mod account;
pub mod contents;
pub mod course;
pub mod history;
pub mod linear;
pub mod load;
pub mod overhead;
mod preset;
mod run;
mod stage;
pub mod timing;
pub mod verdict;

pub use account::Account;
pub use preset::{DRILL_PRESETS, DrillPreset};
pub use run::{Rehearsal, run, run_on};
pub use verdict::{DrillReport, Findings, NodeState, Verdict, tally};
