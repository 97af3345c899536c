//! How one server follows another.

pub mod backlog;
