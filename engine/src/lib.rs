//! Durable execution of cases.
//!
//! A workflow is data, a case is a state machine. This crate advances cases, keeps them in a database and
//! asks the layer above to carry out effects; it knows nothing of identities, accounts or systems.
//!
//! Dependencies point one way: `core <- evidence <- store <- runner`. `core` and `evidence` are pure: no
//! async, no I/O, no clock, no randomness.

pub mod core;
pub mod evidence;
pub mod runner;
pub mod store;
