//! The `replctl` program.

fn main() {}
