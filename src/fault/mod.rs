//! Faults that are done to a group on purpose, beyond signals to its processes: what can happen to the network between them.

mod helper;
mod proxy;

pub use helper::{EdgeAim, EdgeState, LinkOrder, order, serve};
pub use proxy::{Condition, Direction, Proxy};
