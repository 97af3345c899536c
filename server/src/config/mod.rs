//! The server's configuration: what redis.conf, the command line and CONFIG SET say, as typed values.
//!
//! ```text
//! repld /etc/repld.conf --port 6380 --replicaof "127.0.0.1 6379"
//!       └ lines of words ┘ └ then these, as if they were lines at its end ┘
//! ```
//!
//! Every directive is one entry of a table: field, default, names, kind, and when it may be changed. [`Config::load`] reads them, [`Config::get`], [`Config::set`] and [`Config::rewrite`] serve `CONFIG GET`,
//! `CONFIG SET` and `CONFIG REWRITE`. The names, defaults and error texts are those of Redis 7.0
//! (<https://redis.io/docs/latest/operate/oss_and_stack/management/config/>), so that its files and tools work.
//!
//! Refused: directives nobody here knows (all of them, in one error), and values that ask for what the server
//! does not do (`daemonize yes`, `tls-port 6380`): a setting is never silently without effect where it was meant
//! to protect something. Directives that only tune what this server does not have (`hash-max-listpack-entries`,
//! `active-defrag-*`, …) are checked, kept and shown, so that a stock file loads.

mod directives;
mod kind;
mod load;
mod runtime;
mod values;
pub mod words;

pub use directives::Config;
pub use kind::parse_memory;
pub use load::ConfigError;
pub(crate) use runtime::replace as replace_file;
pub use values::*;

use crate::keyspace::Tracking;
use crate::value::stream::BlockSize;
use crate::value::{SmallForm, SmallForms};

impl Config {
    /// Whether images have what is noted about the use of keys: where eviction depends on it.
    pub fn saves_uses(&self) -> bool {
        use Order::{Lfu, Lru};
        matches!(self.maxmemory_policy, MemoryPolicy::AllKeys(Lru | Lfu) | MemoryPolicy::Volatile(Lru | Lfu))
    }

    /// What is noted about the use of keys: how often if the policy wants to know, else when.
    pub fn tracking(&self) -> Tracking {
        match self.maxmemory_policy {
            MemoryPolicy::AllKeys(Order::Lfu) | MemoryPolicy::Volatile(Order::Lfu) => {
                Tracking::Frequency { log_factor: self.lfu_log_factor, decay_minutes: self.lfu_decay_time }
            }
            _ => Tracking::Recency,
        }
    }

    /// When a block of a stream takes no more entries.
    pub fn stream_block_size(&self) -> BlockSize {
        let limit = |wanted: usize, max: usize| if wanted == 0 { max } else { wanted.min(max) };
        let bytes = usize::try_from(self.stream_node_max_bytes).unwrap_or(usize::MAX);
        BlockSize {
            entries_max: limit(self.stream_node_max_entries, BlockSize::MAX.entries_max),
            bytes_max: limit(bytes, BlockSize::MAX.bytes_max),
        }
    }

    /// Up to which sizes values keep the forms that take least memory.
    pub fn small_forms(&self) -> SmallForms {
        let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        SmallForms {
            hash: SmallForm {
                len_max: self.hash_max_listpack_entries,
                string_bytes_max: bytes(self.hash_max_listpack_value),
            },
            sorted_set: SmallForm {
                len_max: self.zset_max_listpack_entries,
                string_bytes_max: bytes(self.zset_max_listpack_value),
            },
            integers_max: self.set_max_intset_entries,
        }
    }
}

#[cfg(test)]
mod tests;
