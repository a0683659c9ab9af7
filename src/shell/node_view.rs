//! The nodes of a database and what each works on, for people and machines.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use engine::core::id::ShardId;
use engine::store::{NodeRow, ShardRow, Store, StoreError};
use serde::Serialize;
use utoipa::ToSchema;

/// How a node is, as its last word and the database's clock tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    Alive,
    /// It takes nothing new in and gives its shards back.
    Draining,
    /// It has said nothing for longer than its lease, or its process is known to be gone.
    Dead,
    /// It holds shards and has never told about itself: a program of before.
    Unknown,
}

impl NodeState {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Draining => "draining",
            Self::Dead => "dead",
            Self::Unknown => "unknown",
        }
    }
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct NodeView {
    /// What `node.name` calls it.
    pub name: String,
    /// One life of one process: unique.
    pub owner: String,
    pub state: NodeState,
    pub version: Option<String>,
    /// Where its API listens.
    pub address: Option<String>,
    pub started_at: Option<DateTime<Utc>>,
    pub heartbeat_at: Option<DateTime<Utc>>,
    /// How long ago it was heard.
    pub silent_ms: Option<i64>,
    /// How many shards it owns.
    pub shards: usize,
    /// Which, as `0-63 128`.
    pub ranges: String,
    /// What is left of the lease that ends first; negative once that has run out.
    pub lease_left_ms: Option<i64>,
    /// The most often that one of its shards was taken by anybody.
    pub epoch_max: Option<i64>,
}

/// Who works on what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct NodesView {
    /// How many shards the database has; fixed when it was made.
    pub shards: usize,
    /// Shards that nobody works on: never taken, given back, or the lease has run out.
    pub unowned: usize,
    /// How often shards were taken, over all of them and since the database was made.
    pub takings: i64,
    pub items: Vec<NodeView>,
}

/// Reads who lives and who owns what.
///
/// # Errors
/// When the database does not answer.
pub async fn nodes_view(store: &dyn Store) -> Result<NodesView, StoreError> {
    let nodes = store.nodes().await?;
    let shards = store.shards().await?;
    Ok(view(nodes, &shards, &engine::runner::owner_is_dead))
}

fn view(nodes: Vec<NodeRow>, shards: &[ShardRow], is_dead: &dyn Fn(&str) -> bool) -> NodesView {
    let mut owned: BTreeMap<&str, Vec<&ShardRow>> = BTreeMap::new();
    for row in shards {
        if let Some(owner) = &row.owner {
            owned.entry(owner).or_default().push(row);
        }
    }
    let mut items: Vec<NodeView> = nodes
        .into_iter()
        .map(|node| {
            let state = if node.is_silent() || is_dead(&node.owner) {
                NodeState::Dead
            } else if node.draining {
                NodeState::Draining
            } else {
                NodeState::Alive
            };
            let rows = owned.remove(node.owner.as_str()).unwrap_or_default();
            NodeView {
                name: node.name,
                version: Some(node.version),
                address: node.address,
                started_at: Some(node.started_at),
                heartbeat_at: Some(node.heartbeat_at),
                silent_ms: Some(node.silent_ms),
                ..of_shards(node.owner, state, &rows)
            }
        })
        .collect();
    for (owner, rows) in owned {
        let state = if is_dead(owner) {
            NodeState::Dead
        } else {
            NodeState::Unknown
        };
        items.push(of_shards(owner.to_owned(), state, &rows));
    }
    NodesView {
        shards: shards.len(),
        unowned: shards.iter().filter(|row| !row.is_held()).count(),
        takings: shards.iter().map(|row| row.epoch.0).sum(),
        items,
    }
}

fn of_shards(owner: String, state: NodeState, rows: &[&ShardRow]) -> NodeView {
    NodeView {
        name: owner
            .rsplit_once('@')
            .map_or(owner.as_str(), |(name, _)| name)
            .to_owned(),
        state,
        version: None,
        address: None,
        started_at: None,
        heartbeat_at: None,
        silent_ms: None,
        shards: rows.len(),
        ranges: ranges(rows.iter().map(|row| row.shard)),
        lease_left_ms: rows.iter().filter_map(|row| row.lease_left_ms).min(),
        epoch_max: rows.iter().map(|row| row.epoch.0).max(),
        owner,
    }
}

/// Numbers that follow one another as `first-last`.
fn ranges(shards: impl Iterator<Item = ShardId>) -> String {
    let mut runs: Vec<(i32, i32)> = Vec::new();
    for ShardId(shard) in shards {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == shard => *last = shard,
            _ => runs.push((shard, shard)),
        }
    }
    let told: Vec<String> = runs
        .iter()
        .map(|(first, last)| {
            if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            }
        })
        .collect();
    told.join(" ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use engine::core::id::Epoch;

    fn shard(number: i32, epoch: i64, owner: Option<&str>, left: i64) -> ShardRow {
        ShardRow {
            shard: ShardId(number),
            epoch: Epoch(epoch),
            owner: owner.map(str::to_owned),
            lease_until: owner.map(|_| DateTime::UNIX_EPOCH),
            lease_left_ms: owner.map(|_| left),
        }
    }

    fn node(owner: &str, silent_ms: i64, draining: bool) -> NodeRow {
        NodeRow {
            owner: owner.to_owned(),
            name: "tenure".to_owned(),
            version: "1".to_owned(),
            address: None,
            lease_ms: 10_000,
            draining,
            started_at: DateTime::UNIX_EPOCH,
            heartbeat_at: DateTime::UNIX_EPOCH,
            silent_ms,
        }
    }

    #[test]
    fn shards_are_told_by_owner() {
        let nodes = vec![
            node("a", 5, false),
            node("b", 10_000, false),
            node("c", 1, true),
            node("d", 1, false),
        ];
        let shards = [
            shard(0, 1, Some("a"), 7_000),
            shard(1, 4, Some("a"), 6_000),
            shard(2, 1, Some("b"), -1),
            shard(3, 2, Some("a"), 7_000),
            shard(4, 1, Some("old@x/y/1/2"), 100),
            shard(5, 3, None, 0),
        ];
        let view = view(nodes, &shards, &|owner| owner == "d");
        assert_eq!((view.shards, view.unowned, view.takings), (6, 2, 12));
        let told: Vec<_> = view
            .items
            .iter()
            .map(|item| (item.owner.as_str(), item.state, item.ranges.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                ("a", NodeState::Alive, "0-1 3"),
                ("b", NodeState::Dead, "2"),
                ("c", NodeState::Draining, ""),
                ("d", NodeState::Dead, ""),
                ("old@x/y/1/2", NodeState::Unknown, "4"),
            ]
        );
        assert_eq!(
            (view.items[0].lease_left_ms, view.items[0].epoch_max),
            (Some(6_000), Some(4))
        );
        assert_eq!(view.items[4].name, "old");
    }
}
