//! Real processes: who they are, where their programs and ports are, how they start, what is remembered of them.
//!
//! Servers outlive the tool: they run in their own session and write to their own log. A later run finds them again by
//! [`ProcessIdentity`], never by pid alone.

pub mod engine;
pub mod identity;
pub mod launch;
pub mod port;
pub mod rdb;
pub mod run;
pub mod state;

pub use engine::{EngineError, EngineNameError, Program, engine_named};
pub use identity::{Condition, LiveProcess, ProcessIdentity};
pub use launch::{
    Started, launched, log_tail, render_config, render_sentinel_config, servers, spawn, spawn_guard, spawn_links,
    spawn_sentinel,
};
pub use port::{Listeners, Stranger, free_ports};
pub use rdb::{Build, Reading};
pub use run::{
    LinkPort, ManagedServer, Promoting, RunGuard, RunLinks, RunNode, RunProcess, RunSentinel, RunSentinels, RunState,
    Server, Unfenced, UnmanagedServer, WishedEngine,
};
pub use state::{Durability, GUARD, GroupDir, GroupLock, LINKS, StateDir, StateError};
