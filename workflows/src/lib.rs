//! workflows

pub mod policy;
pub mod sources;
