//! replctl stands up, breaks and repairs Redis-protocol replication groups of real processes.

pub mod topology;
