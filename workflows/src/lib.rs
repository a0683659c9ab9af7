//! The life of identities on top of the engine and the connectors.
//!
//! ```text
//! sources -> intake -> directory + cases -> actions -> systems
//!                          ^                    |
//!                          +---- projection ----+
//! ```
//!
//! - [`sources`] (pure) turns files into business events; [`policy`] (pure) turns facts into wanted access;
//! - [`timeline`] (pure) is what is believed about a person, from all that was said about them;
//! - [`correlation`] (pure) says whether a record is about somebody who is known already;
//! - [`intake`] makes events durable, decides their order and starts cases, in one transaction;
//! - [`definitions`] are the workflows these cases run; [`actions`] are what their steps do;
//! - [`directory`] is what is known, written by the intake and by the projection of finished steps;
//! - [`scim`] (pure) is the protocol by which identity providers push people;
//! - [`nhi`] (pure) is what hangs on non-human identities, and what has to happen before one ends;
//! - [`rotation`] (pure) is when and through which phases credentials are replaced;
//! - [`renewals`] ask authorities when they wish what they issued to be replaced;
//! - [`notices`] tell people and programs what they have to know;
//! - [`rollouts`] bring everybody under a policy that came into force;
//! - [`takeover`] looks at systems whose accounts were made by others;
//! - [`systems`] are the configured targets; [`config`] reads the configuration folder.

pub mod actions;
pub mod config;
pub mod correlation;
pub mod definitions;
pub mod directory;
pub mod intake;
pub mod nhi;
pub mod notices;
pub mod policies;
pub mod policy;
pub mod renewals;
pub mod rollouts;
pub mod rotation;
pub mod schedules;
pub mod scim;
pub mod sources;
pub mod systems;
pub mod takeover;
pub mod timeline;

#[cfg(test)]
mod testbed;
