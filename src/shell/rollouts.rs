//! Bringing everybody under a policy that came into force: by the node that owns the policy's shard, once every node that lives
//! decides by it.

use std::sync::Arc;
use std::time::Duration;

use engine::runner::owner_is_dead;
use engine::store::{Store, StoreError};
use serde::Serialize;
use tokio::sync::Notify;
use workflows::directory::{
    Directory, LeftOutCounts, LeftOutRow, RolloutChange, RolloutRow, RolloutStatus,
};
use workflows::intake::PolicyCell;
use workflows::rollouts::{RolloutError, Rollouts};

use super::queries::is_mine;
use super::{Database, now};

/// Between two looks whether there is something to do.
const LOOK_PAUSE: Duration = Duration::from_secs(2);
/// Between two pages of people: what they start has to be taken in beside everything else.
const PAGE_PAUSE: Duration = Duration::from_millis(100);

/// A rollout, and what it waits for.
#[derive(Debug, Clone, Serialize)]
pub struct RolloutView {
    #[serde(flatten)]
    pub row: RolloutRow,
    /// Nodes that live and do not decide by the policy yet: nothing begins before they do.
    pub waits_for: Vec<String>,
    /// Whom it left out and has not brought in line yet, by reason.
    pub left_out: LeftOutCounts,
    /// What people did to it, and why.
    pub changes: Vec<RolloutChange>,
}

/// Some of the people whom a rollout left out, in the order of their keys.
#[derive(Debug, Serialize)]
pub struct LeftOutPage {
    pub people: Vec<LeftOutRow>,
    /// The key after which it goes on; `None` at the end.
    pub next: Option<String>,
}

impl LeftOutPage {
    /// Those after a key.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn read(
        directory: &Directory,
        rollout: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Self, StoreError> {
        let people = directory.left_out(rollout, after, limit).await?;
        let is_full = u32::try_from(people.len()).is_ok_and(|count| count >= limit);
        let last = people.last().filter(|_| is_full);
        let next = last.map(|last| last.identity_key.clone());
        Ok(Self { people, next })
    }
}

/// The rollouts there were, newest first.
///
/// # Errors
/// When the database does not answer.
pub async fn views(database: &Database) -> Result<Vec<RolloutView>, StoreError> {
    let directory = &database.directory;
    let mut left_out = directory.left_out_counts().await?;
    let mut views = Vec::new();
    for row in directory.rollouts().await? {
        let left_out = left_out.remove(&row.rollout_id).unwrap_or_default();
        views.push(view_with(&*database.store, directory, row, left_out).await?);
    }
    Ok(views)
}

/// One of them with what it waits for.
///
/// # Errors
/// When the database does not answer.
pub async fn view(
    store: &dyn Store,
    directory: &Directory,
    row: RolloutRow,
) -> Result<RolloutView, StoreError> {
    let left_out = directory.left_out_counts().await?.remove(&row.rollout_id);
    view_with(store, directory, row, left_out.unwrap_or_default()).await
}

async fn view_with(
    store: &dyn Store,
    directory: &Directory,
    row: RolloutRow,
    left_out: LeftOutCounts,
) -> Result<RolloutView, StoreError> {
    let waits_for = if row.status == RolloutStatus::Pending {
        behind(store, directory, &row.policy_hash).await?
    } else {
        Vec::new()
    };
    Ok(RolloutView {
        waits_for,
        left_out,
        changes: directory.rollout_changes(&row.rollout_id).await?,
        row,
    })
}

/// The nodes that live and decide by another policy, or did not say by which.
async fn behind(
    store: &dyn Store,
    directory: &Directory,
    policy: &str,
) -> Result<Vec<String>, StoreError> {
    let loaded = directory.policies_loaded().await?;
    let follows = |owner: &str| {
        let mut rows = loaded.iter();
        rows.any(|row| row.node == owner && row.policy_hash == policy)
    };
    let nodes = store.nodes().await?.into_iter();
    let alive = nodes.filter(|node| !node.is_silent() && !owner_is_dead(&node.owner));
    let behind = alive.filter(|node| !follows(&node.owner));
    Ok(behind.map(|node| node.owner).collect())
}

/// Says by which policy this node decides, and goes on with the rollout of it where that is this node's work. Runs for ever; drop
/// the future to stop.
pub(super) async fn keep_rolling_out(
    rollouts: Rollouts,
    database: Database,
    cell: PolicyCell,
    owner: String,
    node: Arc<Notify>,
) {
    let mut told: Option<String> = None;
    loop {
        let pause = match look(&rollouts, &database, &cell, &owner, &node, &mut told).await {
            Ok(true) => PAGE_PAUSE,
            Ok(false) => LOOK_PAUSE,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot bring people under the policy in force"
                );
                LOOK_PAUSE
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// One look; whether there is more to do at once.
async fn look(
    rollouts: &Rollouts,
    database: &Database,
    cell: &PolicyCell,
    owner: &str,
    node: &Notify,
    told: &mut Option<String>,
) -> Result<bool, RolloutError> {
    let Some(policy) = cell.get() else {
        return Ok(false);
    };
    let directory = &database.directory;
    if told.as_deref() != Some(policy.hash()) {
        directory
            .put_policy_loaded(owner, policy.hash(), now())
            .await?;
        *told = Some(policy.hash().to_owned());
    }
    if !is_mine(database, Directory::rollout_place(), owner).await?
        || !rollouts.has_work(&policy, now()).await?
        || !behind(&*database.store, directory, policy.hash())
            .await?
            .is_empty()
    {
        return Ok(false);
    }
    let advance = rollouts.advance(&policy, now()).await?;
    if advance.started > 0 {
        node.notify_one();
    }
    Ok(advance.more)
}
