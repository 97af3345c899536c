//! replctl stands up, breaks and repairs Redis-protocol replication groups of real processes.

#[macro_use]
pub mod planted;

pub mod drill;
pub mod event;
pub mod failpoint;
pub mod fault;
pub mod group;
pub mod process;
pub mod topology;
pub mod wire;
