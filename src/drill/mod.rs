//! A rehearsal of a failure with a verdict that can be trusted: writers ([`load`]) record what they were told ([`history`]), and what is
//! there afterwards is held against it ([`account`], [`linear`]).

pub mod account;
pub mod history;
pub mod linear;
pub mod load;
