//! Who owns which shard. The clock is the database's own.
//!
//! Rows are locked in order of shard, here and in a commit, so that no two statements wait for each other.

use sqlx::PgPool;

use crate::core::id::ShardId;
use crate::store::decode::{Reader, all};
use crate::store::failure::from_driver;
use crate::store::{ShardLease, ShardRow, StoreError};

use super::is_guard;

/// A shard whose row is locked is skipped: either another node takes it at this moment, or a batch of its
/// last owner is still being written. The next call gets it.
const ACQUIRE: &str = "
WITH free AS MATERIALIZED (
    SELECT shard_id
      FROM shard
     WHERE owner IS NULL OR lease_until <= now() OR owner = ANY($3::text[])
     ORDER BY shard_id
       FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE shard
   SET epoch = shard.epoch + 1, owner = $1, lease_until = now() + make_interval(secs => $2::float8 / 1000)
  FROM free
 WHERE shard.shard_id = free.shard_id
RETURNING shard.shard_id, shard.epoch";

const RENEW: &str = "
WITH held AS MATERIALIZED (
    SELECT shard.shard_id
      FROM unnest($1::integer[], $2::bigint[]) AS lease (shard_id, epoch)
      JOIN shard ON shard.shard_id = lease.shard_id AND shard.epoch = lease.epoch
     WHERE shard.owner = $3
     ORDER BY shard.shard_id
       FOR NO KEY UPDATE OF shard
), extended AS (
    UPDATE shard
       SET lease_until = now() + make_interval(secs => $4::float8 / 1000)
      FROM held
     WHERE shard.shard_id = held.shard_id
    RETURNING shard.shard_id
)
-- Dividing by zero rolls everything back when one of them is lost.
SELECT 1 / ((SELECT count(*) FROM extended) = cardinality($1))::integer";

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

const SHARDS: &str = "SELECT shard_id, epoch, owner, lease_until FROM shard ORDER BY shard_id";

/// The first lease that is not held any more; any owner will do when none is given.
const LOST: &str = "
SELECT lease.shard_id
  FROM unnest($1::integer[], $2::bigint[]) AS lease (shard_id, epoch)
  LEFT JOIN shard ON shard.shard_id = lease.shard_id AND shard.epoch = lease.epoch
                 AND ($3::text IS NULL OR shard.owner = $3)
 WHERE shard.shard_id IS NULL
 ORDER BY lease.shard_id
 LIMIT 1";

pub(super) async fn acquire(
    pool: &PgPool,
    node: &str,
    lease_ms: u32,
    replaces: &[String],
) -> Result<Vec<ShardLease>, StoreError> {
    let rows = sqlx::query(ACQUIRE)
        .bind(node)
        .bind(f64::from(lease_ms))
        .bind(replaces)
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
) -> Result<(), StoreError> {
    if leases.is_empty() {
        return Ok(());
    }
    let (shards, epochs) = columns(leases);
    let renewed = sqlx::query(RENEW)
        .bind(shards)
        .bind(epochs)
        .bind(node)
        .bind(f64::from(lease_ms))
        .fetch_one(pool)
        .await;
    match renewed {
        Ok(_) => Ok(()),
        Err(error) if is_guard(&error) => match lost(pool, leases, Some(node)).await? {
            Some(shard) => Err(StoreError::Fenced { shard }),
            None => Err(StoreError::Refused(error)),
        },
        Err(error) => Err(from_driver(error)),
    }
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

pub(super) async fn lost(
    pool: &PgPool,
    leases: &[ShardLease],
    node: Option<&str>,
) -> Result<Option<ShardId>, StoreError> {
    let (shards, epochs) = columns(leases);
    let row = sqlx::query(LOST)
        .bind(shards)
        .bind(epochs)
        .bind(node)
        .fetch_optional(pool)
        .await
        .map_err(from_driver)?;
    row.map(|row| Reader::new("shard", &row).shard())
        .transpose()
}

pub(super) fn columns(leases: &[ShardLease]) -> (Vec<i32>, Vec<i64>) {
    leases
        .iter()
        .map(|lease| (lease.shard.0, lease.epoch.0))
        .unzip()
}
