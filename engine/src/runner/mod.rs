//! The shell around the core: what waits, writes, sends and recovers.
//!
//! # Theory of operation
//!
//! All shards a node owns go through one **lane**: a loop that drains what is ready (outcomes of attempts,
//! timers, messages), lets the core decide, writes everything in one batch, and only then lets effects
//! leave. While a batch is being written the next one gathers, so batches grow with the load and an idle lane
//! answers at once; nothing waits for a clock.
//!
//! The lane is crash-only: whenever a write is refused or its fate is unknown, everything in memory is
//! dropped, attempts still out are waited for, and the lane starts again from the database as after a crash.
//!
//! Which shards are a node's is decided beside the lane ([`ownership`]); they come and go while it runs. A shard
//! that is lost takes its cases, its queued attempts and its timers with it, and disturbs no other.

/// The target of spans that are made to be traced: one trace a case. They hold identifiers of people in the fields
/// `subject` and `events`, so no log may show them; whoever sends them makes digests of those.
pub const TRACE: &str = "tenure_trace";

mod attempt;
mod balance;
mod definitions;
mod gate;
mod hold;
mod host;
mod hot;
mod housekeeping;
mod identity;
mod lane;
mod lives;
mod look;
mod message;
mod node;
mod ownership;
mod pending;
mod port;
mod schedules;
mod shards;
mod streams;
mod unread;

#[cfg(test)]
mod operator_tests;
#[cfg(test)]
mod several_nodes;
#[cfg(test)]
mod tests;

pub use definitions::Definitions;
pub use host::{Host, SystemHost, Task};
pub use housekeeping::{Housekeeping, Retention};
pub use identity::is_dead as owner_is_dead;
pub use message::{Command, Message, ScheduleCommand, StartCase};
pub use node::{Node, NodeConfig, NodeError, NodeHandle, NodeStatus, QueueStatus, WaitStatus};
pub use port::{Actions, Attempt, Availability, Clock, Resource, SystemClock};
