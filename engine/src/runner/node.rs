//! A node: owns shards by lease, runs the lane, starts again after every refusal.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::definitions::Definitions;
use super::host::{Host, SystemHost};
use super::lane::{Lane, Parts};
use super::port::{Actions, Clock};
use crate::core::Timestamp;
use crate::store::{Projection, ShardLease, Store, StoreError};

/// How long the node waits before it looks for free shards again.
const ACQUIRE_PAUSE: Duration = Duration::from_millis(500);
/// Pauses between starts after a refusal.
const RESTART_PAUSE_FIRST: Duration = Duration::from_millis(200);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Names this node to people.
    pub name: String,
    /// How long a lease lasts; it is renewed at a third of that.
    pub lease_ms: u32,
    pub host: Arc<dyn Host>,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            name: "tenure".to_owned(),
            lease_ms: 10_000,
            host: Arc::new(SystemHost),
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

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueStatus {
    pub name: String,
    pub waiting: usize,
    pub out: usize,
    pub held_until: Option<Timestamp>,
}

pub struct Node;

/// A running node. Dropping it ends it the hard way, as a crash would.
pub struct NodeHandle {
    nudge: Arc<Notify>,
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
            draining: draining.clone(),
            status: status_sender,
            tracker: TaskTracker::new(),
        });
        let task = host.spawn(Box::pin(keep_running(
            parts,
            owner.clone(),
            config.lease_ms,
            shard_count,
        )));
        Ok(NodeHandle {
            nudge,
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

async fn keep_running(parts: Arc<Parts>, owner: String, lease_ms: u32, shard_count: u32) {
    let mut pause = RESTART_PAUSE_FIRST;
    while !parts.draining.is_cancelled() {
        match run_once(&parts, &owner, lease_ms, shard_count).await {
            Ok(()) => return,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "starting again from the database"
                );
                // Whatever is still out must be back before its attempt is read back.
                parts.tracker.close();
                parts.tracker.wait().await;
                parts.tracker.reopen();
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RESTART_PAUSE_MAX);
            }
        }
    }
}

/// From acquiring shards to draining, or to the first refusal.
async fn run_once(
    parts: &Arc<Parts>,
    owner: &str,
    lease_ms: u32,
    shard_count: u32,
) -> Result<(), StoreError> {
    let Some(leases) = acquire(parts, owner, lease_ms).await? else {
        return Ok(());
    };
    let mut lane = Lane::open(Arc::clone(parts), &leases, shard_count).await?;
    let result = tokio::select! {
        // A lost lease counts before whatever the lane has just finished, and the order is the same in every run.
        biased;
        lost = keep_leases(parts, owner, &leases, lease_ms) => Err(lost),
        result = lane.run() => result,
    };
    if result.is_ok() {
        parts.store.release(owner, &leases).await?;
    }
    result
}

/// Waits until there are shards to own. `None` when told to drain first.
async fn acquire(
    parts: &Arc<Parts>,
    owner: &str,
    lease_ms: u32,
) -> Result<Option<Vec<ShardLease>>, StoreError> {
    let mut told = false;
    loop {
        let rows = parts.store.shards().await?;
        let mut replaces: Vec<String> = rows
            .iter()
            .filter_map(|row| row.owner.clone())
            .filter(|other| other == owner || parts.host.is_dead(other))
            .collect();
        replaces.sort_unstable();
        replaces.dedup();
        let leases = parts.store.acquire(owner, lease_ms, &replaces).await?;
        if !leases.is_empty() {
            return Ok(Some(leases));
        }
        if !told {
            let other = rows
                .iter()
                .find_map(|row| row.owner.clone())
                .unwrap_or_default();
            tracing::info!(owner = %other, "all shards are owned by another node; waiting");
            told = true;
        }
        tokio::select! {
            biased; // the same order in every run
            () = parts.draining.cancelled() => return Ok(None),
            () = tokio::time::sleep(ACQUIRE_PAUSE) => {}
        }
    }
}

/// Renews at a third of the lease; gives up before the lease could have run out. Never returns otherwise.
async fn keep_leases(
    parts: &Arc<Parts>,
    owner: &str,
    leases: &[ShardLease],
    lease_ms: u32,
) -> StoreError {
    let third = Duration::from_millis(u64::from(lease_ms / 3).max(1));
    loop {
        tokio::time::sleep(third).await;
        match tokio::time::timeout(third, parts.store.renew(owner, leases, lease_ms)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error,
            Err(_) => {
                let shard = leases
                    .first()
                    .map_or(crate::core::id::ShardId(0), |lease| lease.shard);
                return StoreError::Fenced { shard };
            }
        }
    }
}
