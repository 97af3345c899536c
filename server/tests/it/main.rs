//! The server as its clients see it, over the wire, beside a real `redis-server` where there is one.
//!
//! Every test starts its own servers in directories of their own, on ports chosen by the system, and ends them.

mod acl;
mod aof;
mod blocking;
mod client;
mod client_eviction;
mod differential;
mod eviction;
mod failover;
mod field_ttl;
mod full_sync;
mod functions;
mod guards;
mod huge_pages;
mod hyperloglog;
mod introspection;
mod links;
mod listening;
mod long_double;
mod malformed;
mod migrate;
mod notifications;
mod oom_score;
mod random;
mod replication;
mod salvage;
mod sentinel;
mod server;
mod shell;
mod streams;
mod tracking;
mod values;
