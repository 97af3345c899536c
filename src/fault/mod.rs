//! Faults that are done to a group on purpose, beyond signals to its processes: what can happen to the network between them, to
//! their disks and to the processors that they run on.

mod cpu;
mod disk;
mod helper;
mod proxy;

pub use cpu::CpuHog;
pub use disk::{Disks, fill_disk, free_disk, separate_mounts};
pub use helper::{EdgeAim, EdgeState, LinkOrder, order, serve};
pub use proxy::{Condition, Direction, Proxy};
