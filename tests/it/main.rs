//! The integration tests: one binary, one module a subject.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

mod company;
mod notices;
mod otlp;
mod program;
mod rollout;
mod schema;
mod scim;
mod tidy;
mod two_nodes;
mod who;
