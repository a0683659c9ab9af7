//! A node as others hold it: started, nudged, asked how it is, drained.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::definitions::Definitions;
use super::hold::Hold;
use super::host::{Host, SystemHost};
use super::lane::Parts;
use super::ownership::Ownership;
use super::port::{Actions, Clock};
use crate::core::Timestamp;
use crate::store::{Heartbeat, Projection, Store, StoreError};

#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Names this node to people.
    pub name: String,
    /// How long a lease lasts; it is renewed at a third of that.
    pub lease_ms: u32,
    pub host: Arc<dyn Host>,
    /// Where its API listens, for people.
    pub address: Option<String>,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            name: "tenure".to_owned(),
            lease_ms: 10_000,
            host: Arc::new(SystemHost),
            address: None,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("cannot start on this database")]
    Store(#[from] StoreError),
    #[error(
        "the node did not stop within its time; what was in flight is read back at the next start"
    )]
    DrainTimedOut,
}

/// What a node is doing, for people and metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeStatus {
    pub owns_shards: usize,
    pub cases_hot: usize,
    /// Attempts and fact look-ups that have left and not come back.
    pub attempts_out: usize,
    pub timers_near: usize,
    pub queues: Vec<QueueStatus>,
    pub batches: u64,
    pub transitions: u64,
    /// Nothing is in flight, queued or unread. Cases may still wait for timers or people.
    pub idle: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueueStatus {
    pub name: String,
    pub waiting: usize,
    pub out: usize,
    pub held_until: Option<Timestamp>,
    pub revocation: WaitStatus,
    pub normal: WaitStatus,
}

/// What waits in one lane of a queue. Attempts that were aborted count until their turn comes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WaitStatus {
    pub waiting: usize,
    /// Since when the oldest waits.
    pub oldest: Option<Timestamp>,
}

pub struct Node;

/// A running node. Dropping it ends it the hard way, as a crash would.
pub struct NodeHandle {
    nudge: Arc<Notify>,
    asked: Arc<AtomicU64>,
    draining: CancellationToken,
    status: watch::Receiver<NodeStatus>,
    task: Option<JoinHandle<()>>,
    owner: String,
}

impl Node {
    /// Stores the definitions and starts to work.
    ///
    /// # Errors
    /// When the database cannot be used at all; later trouble is retried.
    pub async fn start(
        config: NodeConfig,
        store: Arc<dyn Store>,
        actions: Arc<dyn Actions>,
        projection: Arc<dyn Projection>,
        definitions: Arc<Definitions>,
        clock: Arc<dyn Clock>,
    ) -> Result<NodeHandle, NodeError> {
        for definition in definitions.all() {
            store
                .put_definition(
                    &definition.hash,
                    &definition.name,
                    &definition.source,
                    clock.now(),
                )
                .await?;
        }
        let shard_count = store.shard_count().await?;
        let (status_sender, status) = watch::channel(NodeStatus::default());
        let nudge = Arc::new(Notify::new());
        let asked = Arc::new(AtomicU64::new(0));
        let draining = CancellationToken::new();
        let host = config.host;
        let owner = host.own_name(&config.name);
        let parts = Arc::new(Parts {
            store,
            projection,
            actions,
            definitions,
            clock,
            host: Arc::clone(&host),
            nudge: Arc::clone(&nudge),
            asked: Arc::clone(&asked),
            draining: draining.clone(),
            status: status_sender,
            tracker: TaskTracker::new(),
            hold: Arc::new(Hold::new()),
        });
        let beat = Heartbeat {
            owner: owner.clone(),
            name: config.name,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            address: config.address,
            lease_ms: config.lease_ms,
            draining: false,
        };
        let ownership = Ownership::new(parts, beat, shard_count);
        let task = host.spawn(Box::pin(ownership.keep_running()));
        Ok(NodeHandle {
            nudge,
            asked,
            draining,
            status,
            task: Some(task),
            owner,
        })
    }
}

impl NodeHandle {
    /// Says that the inbox has something new.
    pub fn nudge(&self) {
        self.nudge.notify_one();
    }

    /// A cheap way for others to nudge.
    #[must_use]
    pub fn nudger(&self) -> Arc<Notify> {
        Arc::clone(&self.nudge)
    }

    #[must_use]
    pub fn status(&self) -> NodeStatus {
        self.status.borrow().clone()
    }

    /// The status, for whoever outlives a borrow of this handle.
    #[must_use]
    pub fn watcher(&self) -> watch::Receiver<NodeStatus> {
        self.status.clone()
    }

    /// The name under which it owns shards.
    #[must_use]
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// Waits until nothing is in flight, queued or unread: false only if the node ended meanwhile.
    pub async fn idle(&self) -> bool {
        let mut status = self.status.clone();
        // What is published now may be older than the caller's last message: only a later word counts.
        status.mark_unchanged();
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.nudge();
        loop {
            if status.changed().await.is_err() {
                return false;
            }
            if status.borrow_and_update().idle {
                return true;
            }
        }
    }

    /// Takes nothing new in, lets what has left come back, gives the shards back.
    ///
    /// # Errors
    /// [`NodeError::DrainTimedOut`] when that takes longer than `limit`; the node is ended all the same.
    pub async fn drain(mut self, limit: Duration) -> Result<(), NodeError> {
        self.draining.cancel();
        self.nudge.notify_one();
        let Some(mut task) = self.task.take() else {
            return Ok(());
        };
        match tokio::time::timeout(limit, &mut task).await {
            Ok(_) => Ok(()),
            Err(_) => {
                task.abort();
                Err(NodeError::DrainTimedOut)
            }
        }
    }
}

impl Drop for NodeHandle {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}
