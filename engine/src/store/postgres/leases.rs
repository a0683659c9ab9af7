//! Who owns which shard, and which nodes live. The clock is the database's own.
//!
//! Rows are locked in order of shard, here and in a commit, so that no two statements wait for each other.

use std::collections::HashSet;

use sqlx::PgPool;

use crate::core::id::ShardId;
use crate::store::decode::{Reader, all};
use crate::store::failure::from_driver;
use crate::store::{Acquire, Heartbeat, NodeRow, ShardLease, ShardRow, StoreError};

/// A node whose time is over loses its lease for good before a shard of it is taken: its renewal waits for this
/// statement and finds nothing to renew then, and a renewal on its way locks the row, which is skipped.
///
/// A shard whose row is locked is skipped: either another node takes it at this moment, or a batch of its
/// last owner is still being written. The next call gets it.
const ACQUIRE: &str = "
WITH ended AS MATERIALIZED (
    SELECT owner
      FROM node_lease
     WHERE until <= now() AND owner <> $1
     ORDER BY owner
       FOR UPDATE SKIP LOCKED
), lapsed AS (
    DELETE FROM node_lease
     USING ended
     WHERE node_lease.owner = ended.owner
    RETURNING node_lease.owner
), own AS (
    INSERT INTO node_lease (owner, until)
    VALUES ($1, now() + make_interval(secs => $2::float8 / 1000))
    ON CONFLICT (owner) DO UPDATE SET until = excluded.until
), free AS MATERIALIZED (
    SELECT shard_id
      FROM shard
     WHERE (owner IS NULL
            OR owner = ANY($3::text[])
            OR (lease_until <= now()
                AND owner NOT IN (SELECT owner FROM node_lease WHERE owner NOT IN (SELECT owner FROM lapsed))))
       AND NOT (shard_id = ANY($4::integer[]))
     ORDER BY shard_id
     LIMIT $5
       FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE shard
   SET epoch = shard.epoch + 1, owner = $1, lease_until = now() + make_interval(secs => $2::float8 / 1000)
  FROM free
 WHERE shard.shard_id = free.shard_id
RETURNING shard.shard_id, shard.epoch";

/// All leases of a node are one row. Without it the node's time was over, and others may have what it held. What it has
/// without knowing, after an answer that was lost, would be held by that row for ever: it is given up.
const RENEW: &str = "
WITH renewed AS (
    UPDATE node_lease
       SET until = now() + make_interval(secs => $4::float8 / 1000)
     WHERE owner = $3
    RETURNING 1
), stray AS (
    UPDATE shard
       SET owner = NULL, lease_until = NULL
     WHERE owner = $3
       AND EXISTS (SELECT FROM renewed)
       AND (shard_id, epoch) NOT IN (SELECT * FROM unnest($1::integer[], $2::bigint[]))
)
SELECT shard.shard_id
  FROM unnest($1::integer[], $2::bigint[]) AS lease (shard_id, epoch)
  JOIN shard ON shard.shard_id = lease.shard_id AND shard.epoch = lease.epoch
 WHERE shard.owner = $3 AND EXISTS (SELECT FROM renewed)";

const RELEASE: &str = "
WITH held AS MATERIALIZED (
    SELECT shard.shard_id
      FROM unnest($1::integer[], $2::bigint[]) AS lease (shard_id, epoch)
      JOIN shard ON shard.shard_id = lease.shard_id AND shard.epoch = lease.epoch
     WHERE shard.owner = $3
     ORDER BY shard.shard_id
       FOR NO KEY UPDATE OF shard
)
UPDATE shard
   SET owner = NULL, lease_until = NULL
  FROM held
 WHERE shard.shard_id = held.shard_id";

const SHARDS: &str = "
SELECT shard_id, epoch, owner, lease_until,
       (extract(epoch FROM lease_until - now()) * 1000)::bigint AS lease_left_ms
  FROM (
    SELECT shard.shard_id, shard.epoch, shard.owner, greatest(shard.lease_until, node_lease.until) AS lease_until
      FROM shard
      LEFT JOIN node_lease ON node_lease.owner = shard.owner
  ) AS held
 ORDER BY shard_id";

/// The first lease that is not held any more.
const LOST: &str = "
SELECT lease.shard_id
  FROM unnest($1::integer[], $2::bigint[]) AS lease (shard_id, epoch)
  LEFT JOIN shard ON shard.shard_id = lease.shard_id AND shard.epoch = lease.epoch
 WHERE shard.shard_id IS NULL
 ORDER BY lease.shard_id
 LIMIT 1";

const BEAT: &str = "
INSERT INTO node (owner, name, version, address, lease_ms, draining, started_at, heartbeat_at)
VALUES ($1, $2, $3, $4, $5, $6, now(), now())
ON CONFLICT (owner) DO UPDATE
   SET name = excluded.name, version = excluded.version, address = excluded.address,
       lease_ms = excluded.lease_ms, draining = excluded.draining, heartbeat_at = excluded.heartbeat_at";

const NODES: &str = "
SELECT owner, name, version, address, lease_ms, draining, started_at, heartbeat_at,
       (extract(epoch FROM now() - heartbeat_at) * 1000)::bigint AS silent_ms
  FROM node
 ORDER BY started_at, owner";

const FORGET_NODE: &str = "
WITH lease AS (
    DELETE FROM node_lease WHERE owner = $1
)
DELETE FROM node WHERE owner = $1";

const FORGET_SILENT_NODES: &str =
    "DELETE FROM node WHERE heartbeat_at < now() - make_interval(secs => $1::float8 / 1000)";

pub(super) async fn acquire(
    pool: &PgPool,
    wanted: &Acquire<'_>,
) -> Result<Vec<ShardLease>, StoreError> {
    let rows = sqlx::query(ACQUIRE)
        .bind(wanted.node)
        .bind(f64::from(wanted.lease_ms))
        .bind(wanted.replaces)
        .bind(numbers(wanted.holding))
        .bind(i64::from(wanted.shards_max))
        .fetch_all(pool)
        .await
        .map_err(from_driver)?;
    let mut leases = all("shard", &rows, Reader::lease)?;
    leases.sort_unstable_by_key(|lease| lease.shard);
    Ok(leases)
}

pub(super) async fn renew(
    pool: &PgPool,
    node: &str,
    leases: &[ShardLease],
    lease_ms: u32,
) -> Result<Vec<ShardId>, StoreError> {
    if leases.is_empty() {
        return Ok(Vec::new());
    }
    let (shards, epochs) = columns(leases);
    let rows = sqlx::query(RENEW)
        .bind(shards)
        .bind(epochs)
        .bind(node)
        .bind(f64::from(lease_ms))
        .fetch_all(pool)
        .await
        .map_err(from_driver)?;
    let held: HashSet<ShardId> = all("shard", &rows, Reader::shard)?.into_iter().collect();
    let lost = leases.iter().map(|lease| lease.shard);
    Ok(lost.filter(|shard| !held.contains(shard)).collect())
}

pub(super) async fn release(
    pool: &PgPool,
    node: &str,
    leases: &[ShardLease],
) -> Result<(), StoreError> {
    let (shards, epochs) = columns(leases);
    sqlx::query(RELEASE)
        .bind(shards)
        .bind(epochs)
        .bind(node)
        .execute(pool)
        .await
        .map_err(from_driver)?;
    Ok(())
}

pub(super) async fn shards(pool: &PgPool) -> Result<Vec<ShardRow>, StoreError> {
    let rows = sqlx::query(SHARDS)
        .fetch_all(pool)
        .await
        .map_err(from_driver)?;
    all("shard", &rows, Reader::shard_row)
}

pub(super) async fn beat(pool: &PgPool, beat: &Heartbeat) -> Result<(), StoreError> {
    sqlx::query(BEAT)
        .bind(&beat.owner)
        .bind(&beat.name)
        .bind(&beat.version)
        .bind(&beat.address)
        .bind(i64::from(beat.lease_ms))
        .bind(beat.draining)
        .execute(pool)
        .await
        .map_err(from_driver)?;
    Ok(())
}

pub(super) async fn nodes(pool: &PgPool) -> Result<Vec<NodeRow>, StoreError> {
    let rows = sqlx::query(NODES)
        .fetch_all(pool)
        .await
        .map_err(from_driver)?;
    all("node", &rows, Reader::node_row)
}

pub(super) async fn forget_node(pool: &PgPool, owner: &str) -> Result<(), StoreError> {
    sqlx::query(FORGET_NODE)
        .bind(owner)
        .execute(pool)
        .await
        .map_err(from_driver)?;
    Ok(())
}

pub(super) async fn forget_silent_nodes(pool: &PgPool, silent_ms: u32) -> Result<(), StoreError> {
    sqlx::query(FORGET_SILENT_NODES)
        .bind(f64::from(silent_ms))
        .execute(pool)
        .await
        .map_err(from_driver)?;
    Ok(())
}

pub(super) async fn lost(
    pool: &PgPool,
    leases: &[ShardLease],
) -> Result<Option<ShardId>, StoreError> {
    let (shards, epochs) = columns(leases);
    let row = sqlx::query(LOST)
        .bind(shards)
        .bind(epochs)
        .fetch_optional(pool)
        .await
        .map_err(from_driver)?;
    row.map(|row| Reader::new("shard", &row).shard())
        .transpose()
}

fn numbers(shards: &[ShardId]) -> Vec<i32> {
    shards.iter().map(|shard| shard.0).collect()
}

pub(super) fn columns(leases: &[ShardLease]) -> (Vec<i32>, Vec<i64>) {
    leases
        .iter()
        .map(|lease| (lease.shard.0, lease.epoch.0))
        .unzip()
}
