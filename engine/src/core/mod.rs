//! The pure heart: definitions, cases and the one function that moves them.

pub mod admission;
pub mod case;
pub mod conflict;
pub mod decide;
pub mod definition;
pub mod duration;
pub mod event;
pub mod expression;
pub mod id;
pub mod input;
pub mod migration;
mod operators;
pub mod proof;
pub mod retry;
pub mod schedule;
mod scope;

#[cfg(test)]
mod operator_tests;
#[cfg(test)]
mod question_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod undo_tests;

/// A point in time, always UTC and always handed in.
pub type Timestamp = chrono::DateTime<chrono::Utc>;
