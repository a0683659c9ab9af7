//! What comes from outside, and what it is answered.

use sqlx::sqlite::{SqliteConnection, SqlitePool};
use uuid::Uuid;

use crate::core::Timestamp;
use crate::core::id::ShardId;
use crate::store::batch::check_inbox;
use crate::store::decode::{Reader, all, lane_rank};
use crate::store::failure::from_driver;
use crate::store::rows::stored_time;
use crate::store::{InboxRow, ReplyRow, StoreError, Transaction, Work};

use super::json::Rows;
use super::writer::Writer;

/// `WHERE true` keeps the parser from taking ON for part of a join.
const PUT: &str = "
INSERT INTO inbox (shard_id, id, received_at, lane_rank, body)
SELECT value ->> 0, unhex(value ->> 1), value ->> 2, value ->> 3, value ->> 4
  FROM json_each(?1)
 WHERE true
ON CONFLICT DO NOTHING";

/// Walks the index in order and stops at the limit; `+` keeps the shards from choosing another way.
const INBOX: &str = "
SELECT shard_id, id, received_at, lane_rank, body
  FROM inbox
 WHERE +shard_id IN (SELECT value FROM json_each(?1))
   AND (?3 IS NULL OR received_at >= ?3)
 ORDER BY lane_rank, received_at, id
 LIMIT ?2";

const REPLY: &str =
    "SELECT shard_id, id, at, accepted, message FROM inbox_reply WHERE shard_id = ?1 AND id = ?2";

const FORGET_REPLIES: &str = "DELETE FROM inbox_reply WHERE at < ?1";

pub(super) async fn write(writer: &Writer, work: &dyn Work) -> Result<(), StoreError> {
    let mut transaction = writer.begin().await?;
    let written = run(transaction.connection(), work).await;
    transaction.end(written).await
}

async fn run(connection: &mut SqliteConnection, work: &dyn Work) -> Result<(), StoreError> {
    let messages = work.run(&mut Transaction::Sqlite(connection)).await?;
    check_inbox(&messages)?;
    insert(connection, &messages).await
}

pub(super) async fn put(writer: &Writer, rows: &[InboxRow]) -> Result<(), StoreError> {
    check_inbox(rows)?;
    if rows.is_empty() {
        return Ok(());
    }
    let mut transaction = writer.begin().await?;
    let written = insert(transaction.connection(), rows).await;
    transaction.end(written).await
}

pub(super) async fn insert(
    connection: &mut SqliteConnection,
    rows: &[InboxRow],
) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    let json = Rows::of(rows.iter(), 300, |row, columns| {
        columns
            .number(row.shard.0)
            .id(row.id)
            .time(row.received_at)
            .number(lane_rank(row.lane))
            .text(&row.body);
    });
    sqlx::query(PUT)
        .bind(json)
        .execute(connection)
        .await
        .map_err(from_driver)?;
    Ok(())
}

pub(super) async fn since(
    pool: &SqlitePool,
    shards: &[ShardId],
    since: Option<Timestamp>,
    limit: u32,
) -> Result<Vec<InboxRow>, StoreError> {
    let rows = sqlx::query(INBOX)
        .bind(super::read::numbers(shards))
        .bind(limit)
        .bind(since.map(|since| stored_time(since).timestamp_micros()))
        .fetch_all(pool)
        .await
        .map_err(from_driver)?;
    all("inbox", &rows, Reader::inbox)
}

pub(super) async fn reply(
    pool: &SqlitePool,
    shard: ShardId,
    id: Uuid,
) -> Result<Option<ReplyRow>, StoreError> {
    let row = sqlx::query(REPLY)
        .bind(shard.0)
        .bind(id)
        .fetch_optional(pool)
        .await
        .map_err(from_driver)?;
    row.map(|row| Reader::new("inbox_reply", &row).reply())
        .transpose()
}

pub(super) async fn forget_replies(writer: &Writer, before: Timestamp) -> Result<(), StoreError> {
    let mut transaction = writer.begin().await?;
    let forgotten = sqlx::query(FORGET_REPLIES)
        .bind(stored_time(before).timestamp_micros())
        .execute(transaction.connection())
        .await
        .map_err(from_driver);
    transaction.end(forgotten).await?;
    Ok(())
}
