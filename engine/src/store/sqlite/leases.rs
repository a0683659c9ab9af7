//! Who owns which shard. The clock is the database's own: the machine's, read by SQLite.

use sqlx::sqlite::{SqliteConnection, SqlitePool};

use crate::core::id::ShardId;
use crate::store::decode::{Reader, all};
use crate::store::failure::from_driver;
use crate::store::{ShardLease, ShardRow, StoreError};

use super::json::Rows;
use super::writer::Writer;

/// The time in microseconds; SQLite counts in milliseconds.
macro_rules! now_micros {
    () => {
        "CAST(round(unixepoch('now', 'subsec') * 1000) AS INTEGER) * 1000"
    };
}
pub(super) use now_micros;

const ACQUIRE: &str = concat!(
    "
UPDATE shard
   SET epoch = epoch + 1, owner = ?1, lease_until = ",
    now_micros!(),
    " + ?2
 WHERE owner IS NULL
    OR lease_until <= ",
    now_micros!(),
    "
    OR owner IN (SELECT value FROM json_each(?3))
RETURNING shard_id, epoch"
);

const RENEW: &str = concat!(
    "
UPDATE shard
   SET lease_until = ",
    now_micros!(),
    " + ?3
 WHERE owner = ?2
   AND (shard_id, epoch) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?1))"
);

const RELEASE: &str = "
UPDATE shard
   SET owner = NULL, lease_until = NULL
 WHERE owner = ?2
   AND (shard_id, epoch) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?1))";

const SHARDS: &str = "SELECT shard_id, epoch, owner, lease_until FROM shard ORDER BY shard_id";

/// The first lease that is not held any more; any owner will do when none is given.
const LOST: &str = "
SELECT lease.value ->> 0 AS shard_id
  FROM json_each(?1) AS lease
  LEFT JOIN shard ON shard.shard_id = lease.value ->> 0 AND shard.epoch = lease.value ->> 1
                 AND (?2 IS NULL OR shard.owner = ?2)
 WHERE shard.shard_id IS NULL
 ORDER BY 1
 LIMIT 1";

pub(super) async fn acquire(
    writer: &Writer,
    node: &str,
    lease_ms: u32,
    replaces: &[String],
) -> Result<Vec<ShardLease>, StoreError> {
    let mut transaction = writer.begin().await?;
    let rows = sqlx::query(ACQUIRE)
        .bind(node)
        .bind(micros(lease_ms))
        .bind(serde_json::Value::from(replaces).to_string())
        .fetch_all(transaction.connection())
        .await
        .map_err(from_driver);
    let rows = transaction.end(rows).await?;
    let mut leases = all("shard", &rows, Reader::lease)?;
    leases.sort_unstable_by_key(|lease| lease.shard);
    Ok(leases)
}

pub(super) async fn renew(
    writer: &Writer,
    node: &str,
    leases: &[ShardLease],
    lease_ms: u32,
) -> Result<(), StoreError> {
    if leases.is_empty() {
        return Ok(());
    }
    let mut transaction = writer.begin().await?;
    let renewed = extend(transaction.connection(), node, leases, lease_ms).await;
    transaction.end(renewed).await
}

async fn extend(
    connection: &mut SqliteConnection,
    node: &str,
    leases: &[ShardLease],
    lease_ms: u32,
) -> Result<(), StoreError> {
    if let Some(shard) = lost(connection, leases, Some(node)).await? {
        return Err(StoreError::Fenced { shard });
    }
    sqlx::query(RENEW)
        .bind(json(leases))
        .bind(node)
        .bind(micros(lease_ms))
        .execute(connection)
        .await
        .map_err(from_driver)?;
    Ok(())
}

pub(super) async fn release(
    writer: &Writer,
    node: &str,
    leases: &[ShardLease],
) -> Result<(), StoreError> {
    let mut transaction = writer.begin().await?;
    let released = sqlx::query(RELEASE)
        .bind(json(leases))
        .bind(node)
        .execute(transaction.connection())
        .await
        .map_err(from_driver);
    transaction.end(released).await?;
    Ok(())
}

pub(super) async fn shards(pool: &SqlitePool) -> Result<Vec<ShardRow>, StoreError> {
    let rows = sqlx::query(SHARDS)
        .fetch_all(pool)
        .await
        .map_err(from_driver)?;
    all("shard", &rows, Reader::shard_row)
}

pub(super) async fn lost(
    connection: &mut SqliteConnection,
    leases: &[ShardLease],
    node: Option<&str>,
) -> Result<Option<ShardId>, StoreError> {
    let row = sqlx::query(LOST)
        .bind(json(leases))
        .bind(node.map(str::to_owned))
        .fetch_optional(connection)
        .await
        .map_err(from_driver)?;
    row.map(|row| Reader::new("shard", &row).shard())
        .transpose()
}

fn json(leases: &[ShardLease]) -> String {
    Rows::of(leases.iter(), 12, |lease, columns| {
        columns.number(lease.shard.0).number(lease.epoch.0);
    })
}

fn micros(lease_ms: u32) -> i64 {
    i64::from(lease_ms) * 1_000
}
