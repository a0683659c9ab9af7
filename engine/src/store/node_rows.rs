//! Nodes and shards, as the database knows them.
//!
//! Whether a node is alive and how much of a lease is left is measured by the database's clock alone, and told as a
//! length: no two machines need to agree about the time.

use serde::Serialize;

use crate::core::Timestamp;
use crate::core::id::{Epoch, ShardId};

/// Which shards a node wants.
#[derive(Debug, Clone, Copy)]
pub struct Acquire<'a> {
    pub node: &'a str,
    pub lease_ms: u32,
    /// Owners that are certainly dead: an earlier life of this node, processes of this machine that are gone. Their
    /// leases need not run out first.
    pub replaces: &'a [String],
    /// Shards the node works on already: never taken, whatever is recorded about them.
    pub holding: &'a [ShardId],
    /// The most shards to take.
    pub shards_max: u32,
}

/// What a node tells about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// Names one life of one process.
    pub owner: String,
    /// Names it to people.
    pub name: String,
    pub version: String,
    /// Where its API listens, if it has one.
    pub address: Option<String>,
    /// Silent for longer than this, it counts as dead.
    pub lease_ms: u32,
    /// It takes no shards any more.
    pub draining: bool,
}

/// A node as it told last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeRow {
    pub owner: String,
    pub name: String,
    pub version: String,
    pub address: Option<String>,
    pub lease_ms: i64,
    pub draining: bool,
    pub started_at: Timestamp,
    pub heartbeat_at: Timestamp,
    /// How long ago that was.
    pub silent_ms: i64,
}

impl NodeRow {
    /// Whether it has been silent for longer than it may be.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.silent_ms >= self.lease_ms
    }
}

/// Who owns what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShardRow {
    pub shard: ShardId,
    /// How often the shard was taken.
    pub epoch: Epoch,
    pub owner: Option<String>,
    pub lease_until: Option<Timestamp>,
    /// How much is left of the lease; negative once it has run out, null for a shard that nobody owns.
    pub lease_left_ms: Option<i64>,
}

impl ShardRow {
    /// Whether somebody works on it.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.owner.is_some() && self.lease_left_ms.is_some_and(|left| left > 0)
    }
}

/// What another process says there is to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// These shards have new messages.
    Inbox(Vec<ShardId>),
    /// Shards became free, or a node came or went.
    Ownership,
    /// Hints may have been missed.
    Everything,
}
