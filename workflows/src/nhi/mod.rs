//! Non-human identities: who answers for them, what they prove with, and what hangs on them.
//!
//! - [`graph`] is who owns, knows, made, uses and trusts what;
//! - [`declare`] reads what people say of them;
//! - [`check`] says what has to happen before something of it ends.

pub mod check;
pub mod declare;
mod edges;
pub mod graph;

pub use edges::{credential_facts, edges, facts, source};
