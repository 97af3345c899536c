//! How one server follows another.
//!
//! Source: <https://redis.io/docs/latest/operate/oss_and_stack/management/replication/>.

pub mod backlog;
