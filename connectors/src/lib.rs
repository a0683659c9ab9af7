//! The systems that hold access, and how Tenure talks to them.
//!
//! Knows nothing of cases, workflows or identities: a connector sees accounts, entitlements and operations.

pub mod acme;
mod answer;
#[cfg(test)]
mod asked;
pub mod aws;
pub mod connector;
pub mod credential;
mod disk;
pub mod exec;
mod failure;
pub mod file;
pub mod handover;
mod journal;
pub mod kubernetes;
pub mod layer;
pub mod ldap;
pub mod manual;
#[cfg(test)]
mod memory;
pub mod postgres;
mod program;
pub mod registry;
pub mod scim;
mod scratch;
pub mod secret;
pub mod ssh;
pub mod tls;
pub mod x509;

pub mod conformance;
