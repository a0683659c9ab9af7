//! Non-human identities: who answers for them, what they prove with, and what hangs on them.
//!
//! - [`graph`] is who owns, knows, made, uses and trusts what;
//! - [`declare`] reads what people say of them;
//! - [`found`] says what on a system answers to nobody;
//! - [`hygiene`] says which credentials fall short of what policy wants;
//! - [`uses`] reads what a log says of uses;
//! - [`check`] says what has to happen before something of it ends.

pub mod check;
pub mod declare;
mod edges;
pub mod found;
pub mod graph;
pub mod hygiene;
pub mod uses;

pub use edges::{credential_facts, edges, facts, source};
