//! replctl stands up, breaks and repairs Redis-protocol replication groups of real processes.
//!
//! This is its library, for tests: a [`Group`] is a real master with real replicas on free ports of the loopback, and ends when
//! it is dropped.
//!
//! ```no_run
//! # async fn test() -> Result<(), replctl::Error> {
//! let mut group = replctl::Group::trio().up().await?;
//! let url = group.master().url; // what the application under test connects to
//!
//! let dead = group.kill_master().await?;
//! let promotion = group.promote().await?;
//! assert_eq!(promotion.from, dead.name);
//! assert_eq!(promotion.lost_bytes, 0);
//! # let _ = url; Ok(())
//! # }
//! ```
//!
//! Groups do not meet: each has a directory and ports of its own, so tests that run side by side need no care. A topology comes
//! from the same TOML file that the program `replctl` takes ([`Group::from_file`]) or from text ([`Group::from_toml`]).
//!
//! The nodes are `repld` unless the topology names `redis-server` or `valkey-server`. As the server is a program, it must be
//! there: `replctl` on `PATH`, beside the running executable (as `target/debug/replctl` is beside a test's), or at the path in the
//! variable `REPLCTL_PROGRAM`.
//!
//! Linux only. Everything asynchronous needs a [tokio](https://docs.rs/tokio) runtime with I/O and time.

#[doc(hidden)]
#[macro_use]
pub mod planted;

#[doc(hidden)]
pub mod drill;
#[doc(hidden)]
pub mod event;
#[doc(hidden)]
pub mod failpoint;
#[doc(hidden)]
pub mod fault;
#[doc(hidden)]
pub mod group;
#[doc(hidden)]
pub mod host;
mod live;
#[doc(hidden)]
pub mod process;
pub mod topology;
#[doc(hidden)]
pub mod wire;

#[doc(inline)]
pub use drill::{DrillReport, Verdict};
pub use live::{Broken, Error, Group, GroupBuilder, Link, Node, Promotion};
