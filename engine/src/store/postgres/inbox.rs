//! What comes from outside, and what it is answered.

use std::collections::BTreeSet;

use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::core::Timestamp;
use crate::core::id::ShardId;
use crate::store::batch::check_inbox;
use crate::store::decode::{Reader, all, lane_rank};
use crate::store::failure::from_driver;
use crate::store::rows::stored_time;
use crate::store::{InboxRow, ReplyRow, StoreError, Transaction, Work};

use super::PostgresStore;

/// `DO NOTHING` also covers the same message twice in one call; the order keeps two callers from waiting for
/// each other.
const PUT: &str = "
INSERT INTO inbox (shard_id, id, received_at, lane_rank, body)
SELECT *
  FROM unnest($1::integer[], $2::uuid[], $3::timestamptz[], $4::integer[], $5::text[])
    AS message (shard_id, id, received_at, lane_rank, body)
 ORDER BY message.shard_id, message.id
ON CONFLICT DO NOTHING";

/// The limit inside keeps a full inbox from being sorted as a whole: of one shard come at most twice its even part, and
/// a few more. So the order holds within a shard, and between shards about.
const INBOX: &str = "
SELECT message.*
  FROM unnest($1::integer[]) AS wanted (shard_id)
 CROSS JOIN LATERAL (
    SELECT inbox.shard_id, inbox.id, inbox.received_at, inbox.lane_rank, inbox.body
      FROM inbox
     WHERE inbox.shard_id = wanted.shard_id
     ORDER BY inbox.lane_rank, inbox.received_at, inbox.id
     LIMIT 8 + 2 * $2 / greatest(cardinality($1), 1)
 ) AS message
 ORDER BY message.lane_rank, message.received_at, message.id
 LIMIT $2";

const REPLY: &str =
    "SELECT shard_id, id, at, accepted, message FROM inbox_reply WHERE shard_id = $1 AND id = $2";

const FORGET_REPLIES: &str = "DELETE FROM inbox_reply WHERE at < $1";

/// Gives the shards that got messages.
pub(super) async fn write(
    store: &PostgresStore,
    work: &dyn Work,
) -> Result<BTreeSet<ShardId>, StoreError> {
    let mut transaction = store.begin().await?;
    let messages = work
        .run(&mut Transaction::Postgres(&mut transaction))
        .await?;
    check_inbox(&messages)?;
    insert(&mut transaction, &messages).await?;
    transaction.commit().await.map_err(from_driver)?;
    Ok(messages.iter().map(|row| row.shard).collect())
}

pub(super) async fn put(pool: &PgPool, rows: &[InboxRow]) -> Result<(), StoreError> {
    check_inbox(rows)?;
    let mut connection = pool.acquire().await.map_err(from_driver)?;
    insert(&mut connection, rows).await
}

pub(super) async fn insert(
    connection: &mut PgConnection,
    rows: &[InboxRow],
) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(PUT)
        .bind(rows.iter().map(|row| row.shard.0).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.id).collect::<Vec<_>>())
        .bind(
            rows.iter()
                .map(|row| stored_time(row.received_at))
                .collect::<Vec<_>>(),
        )
        .bind(
            rows.iter()
                .map(|row| lane_rank(row.lane))
                .collect::<Vec<_>>(),
        )
        .bind(rows.iter().map(|row| row.body.as_str()).collect::<Vec<_>>())
        .execute(connection)
        .await
        .map_err(from_driver)?;
    Ok(())
}

pub(super) async fn inbox(
    pool: &PgPool,
    shards: &[ShardId],
    limit: u32,
) -> Result<Vec<InboxRow>, StoreError> {
    let rows = sqlx::query(INBOX)
        .bind(shards.iter().map(|shard| shard.0).collect::<Vec<_>>())
        .bind(i64::from(limit))
        .fetch_all(pool)
        .await
        .map_err(from_driver)?;
    all("inbox", &rows, Reader::inbox)
}

pub(super) async fn reply(
    pool: &PgPool,
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

pub(super) async fn forget_replies(pool: &PgPool, before: Timestamp) -> Result<(), StoreError> {
    sqlx::query(FORGET_REPLIES)
        .bind(stored_time(before))
        .execute(pool)
        .await
        .map_err(from_driver)?;
    Ok(())
}
