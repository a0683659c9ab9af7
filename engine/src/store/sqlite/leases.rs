//! Who owns which shard, and which nodes live. The clock is the database's own: the machine's, read by SQLite.

use std::collections::HashSet;

use sqlx::Sqlite;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqlitePool, SqliteRow};

use crate::core::id::ShardId;
use crate::store::decode::{Reader, all};
use crate::store::failure::from_driver;
use crate::store::{Acquire, Heartbeat, NodeRow, ShardLease, ShardRow, StoreError};

use super::json::Rows;
use super::writer::Writer;

/// The time in microseconds; SQLite counts in milliseconds.
macro_rules! now_micros {
    () => {
        "CAST(round(unixepoch('now', 'subsec') * 1000) AS INTEGER) * 1000"
    };
}
pub(super) use now_micros;

/// A node whose time is over loses its lease for good before a shard of it is taken.
const LAPSE: &str = concat!(
    "DELETE FROM node_lease WHERE owner <> ?1 AND until <= ",
    now_micros!()
);

const OWN: &str = concat!(
    "
INSERT INTO node_lease (owner, until)
VALUES (?1, ",
    now_micros!(),
    " + ?2)
ON CONFLICT (owner) DO UPDATE SET until = excluded.until"
);

const ACQUIRE: &str = concat!(
    "
UPDATE shard
   SET epoch = epoch + 1, owner = ?1, lease_until = ",
    now_micros!(),
    " + ?2
 WHERE shard_id IN (
    SELECT shard_id
      FROM shard
     WHERE (owner IS NULL
            OR owner IN (SELECT value FROM json_each(?3))
            OR (owner NOT IN (SELECT owner FROM node_lease) AND lease_until <= ",
    now_micros!(),
    "))
       AND shard_id NOT IN (SELECT value FROM json_each(?4))
     ORDER BY shard_id
     LIMIT ?5
 )
RETURNING shard_id, epoch"
);

/// All leases of a node are one row. Without it the node's time was over, and others may have what it held. What it has
/// without knowing, after an answer that was lost, would be held by that row for ever: it is given up.
const RENEW: &str = concat!(
    "UPDATE node_lease SET until = ",
    now_micros!(),
    " + ?2 WHERE owner = ?1"
);

const STRAY: &str = "
UPDATE shard
   SET owner = NULL, lease_until = NULL
 WHERE owner = ?2
   AND owner IN (SELECT owner FROM node_lease)
   AND (shard_id, epoch) NOT IN (SELECT value ->> 0, value ->> 1 FROM json_each(?1))";

const HELD: &str = "
SELECT shard_id
  FROM shard
 WHERE owner = ?2
   AND (shard_id, epoch) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?1))
   AND owner IN (SELECT owner FROM node_lease)";

const RELEASE: &str = "
UPDATE shard
   SET owner = NULL, lease_until = NULL
 WHERE owner = ?2
   AND (shard_id, epoch) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?1))";

const SHARDS: &str = concat!(
    "
SELECT shard_id, epoch, owner, lease_until, (lease_until - ",
    now_micros!(),
    ") / 1000 AS lease_left_ms
  FROM (
    SELECT shard_id, epoch, shard.owner, coalesce(max(lease_until, until), lease_until) AS lease_until
      FROM shard
      LEFT JOIN node_lease ON node_lease.owner = shard.owner
  )
 ORDER BY shard_id"
);

/// The first lease that is not held any more.
const LOST: &str = "
SELECT lease.value ->> 0 AS shard_id
  FROM json_each(?1) AS lease
  LEFT JOIN shard ON shard.shard_id = lease.value ->> 0 AND shard.epoch = lease.value ->> 1
 WHERE shard.shard_id IS NULL
 ORDER BY 1
 LIMIT 1";

const BEAT: &str = concat!(
    "
INSERT INTO node (owner, name, version, address, lease_ms, draining, started_at, heartbeat_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ",
    now_micros!(),
    ", ",
    now_micros!(),
    ")
ON CONFLICT (owner) DO UPDATE
   SET name = excluded.name, version = excluded.version, address = excluded.address,
       lease_ms = excluded.lease_ms, draining = excluded.draining, heartbeat_at = excluded.heartbeat_at"
);

const NODES: &str = concat!(
    "
SELECT owner, name, version, address, lease_ms, draining, started_at, heartbeat_at, (",
    now_micros!(),
    " - heartbeat_at) / 1000 AS silent_ms
  FROM node
 ORDER BY started_at, owner"
);

const FORGET_NODE: &str = "DELETE FROM node WHERE owner = ?1";
const FORGET_LEASE: &str = "DELETE FROM node_lease WHERE owner = ?1";

const FORGET_SILENT_NODES: &str = concat!(
    "DELETE FROM node WHERE heartbeat_at < ",
    now_micros!(),
    " - ?1"
);

pub(super) async fn acquire(
    writer: &Writer,
    wanted: &Acquire<'_>,
) -> Result<Vec<ShardLease>, StoreError> {
    let mut transaction = writer.begin().await?;
    let rows = take(transaction.connection(), wanted).await;
    let rows = transaction.end(rows).await?;
    let mut leases = all("shard", &rows, Reader::lease)?;
    leases.sort_unstable_by_key(|lease| lease.shard);
    Ok(leases)
}

async fn take(
    connection: &mut SqliteConnection,
    wanted: &Acquire<'_>,
) -> Result<Vec<SqliteRow>, StoreError> {
    sqlx::query(LAPSE)
        .bind(wanted.node)
        .execute(&mut *connection)
        .await
        .map_err(from_driver)?;
    sqlx::query(OWN)
        .bind(wanted.node)
        .bind(micros(wanted.lease_ms))
        .execute(&mut *connection)
        .await
        .map_err(from_driver)?;
    sqlx::query(ACQUIRE)
        .bind(wanted.node)
        .bind(micros(wanted.lease_ms))
        .bind(serde_json::Value::from(wanted.replaces).to_string())
        .bind(super::read::numbers(wanted.holding))
        .bind(wanted.shards_max)
        .fetch_all(connection)
        .await
        .map_err(from_driver)
}

pub(super) async fn renew(
    writer: &Writer,
    node: &str,
    leases: &[ShardLease],
    lease_ms: u32,
) -> Result<Vec<ShardId>, StoreError> {
    if leases.is_empty() {
        return Ok(Vec::new());
    }
    let mut transaction = writer.begin().await?;
    let rows = extend(transaction.connection(), node, leases, lease_ms).await;
    let rows = transaction.end(rows).await?;
    let held: HashSet<ShardId> = all("shard", &rows, Reader::shard)?.into_iter().collect();
    let lost = leases.iter().map(|lease| lease.shard);
    Ok(lost.filter(|shard| !held.contains(shard)).collect())
}

async fn extend(
    connection: &mut SqliteConnection,
    node: &str,
    leases: &[ShardLease],
    lease_ms: u32,
) -> Result<Vec<SqliteRow>, StoreError> {
    sqlx::query(RENEW)
        .bind(node)
        .bind(micros(lease_ms))
        .execute(&mut *connection)
        .await
        .map_err(from_driver)?;
    sqlx::query(STRAY)
        .bind(json(leases))
        .bind(node)
        .execute(&mut *connection)
        .await
        .map_err(from_driver)?;
    sqlx::query(HELD)
        .bind(json(leases))
        .bind(node)
        .fetch_all(connection)
        .await
        .map_err(from_driver)
}

pub(super) async fn release(
    writer: &Writer,
    node: &str,
    leases: &[ShardLease],
) -> Result<(), StoreError> {
    execute(
        writer,
        sqlx::query(RELEASE)
            .bind(json(leases))
            .bind(node.to_owned()),
    )
    .await
}

pub(super) async fn shards(pool: &SqlitePool) -> Result<Vec<ShardRow>, StoreError> {
    let rows = sqlx::query(SHARDS)
        .fetch_all(pool)
        .await
        .map_err(from_driver)?;
    all("shard", &rows, Reader::shard_row)
}

pub(super) async fn beat(writer: &Writer, beat: &Heartbeat) -> Result<(), StoreError> {
    let query = sqlx::query(BEAT)
        .bind(beat.owner.clone())
        .bind(beat.name.clone())
        .bind(beat.version.clone())
        .bind(beat.address.clone())
        .bind(beat.lease_ms)
        .bind(beat.draining);
    execute(writer, query).await
}

pub(super) async fn nodes(pool: &SqlitePool) -> Result<Vec<NodeRow>, StoreError> {
    let rows = sqlx::query(NODES)
        .fetch_all(pool)
        .await
        .map_err(from_driver)?;
    all("node", &rows, Reader::node_row)
}

pub(super) async fn forget_node(writer: &Writer, owner: &str) -> Result<(), StoreError> {
    execute(writer, sqlx::query(FORGET_LEASE).bind(owner.to_owned())).await?;
    execute(writer, sqlx::query(FORGET_NODE).bind(owner.to_owned())).await
}

pub(super) async fn forget_silent_nodes(writer: &Writer, silent_ms: u32) -> Result<(), StoreError> {
    execute(
        writer,
        sqlx::query(FORGET_SILENT_NODES).bind(micros(silent_ms)),
    )
    .await
}

async fn execute(
    writer: &Writer,
    query: Query<'static, Sqlite, SqliteArguments>,
) -> Result<(), StoreError> {
    let mut transaction = writer.begin().await?;
    let done = query
        .execute(transaction.connection())
        .await
        .map_err(from_driver);
    transaction.end(done).await?;
    Ok(())
}

pub(super) async fn lost(
    connection: &mut SqliteConnection,
    leases: &[ShardLease],
) -> Result<Option<ShardId>, StoreError> {
    let row = sqlx::query(LOST)
        .bind(json(leases))
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
