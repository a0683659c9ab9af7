//! What comes from outside, and what it is answered.

use std::collections::{BTreeMap, BTreeSet};

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

/// Walks the index of each shard and lane from `since` on: a row that was deleted is passed over, one by one, as long as
/// some snapshot may still see it. The limit inside keeps a full inbox from being sorted as a whole.
const INBOX: &str = "
SELECT message.*
  FROM unnest($1::integer[]) AS wanted (shard_id)
 CROSS JOIN (VALUES (0), (1)) AS lane (rank)
 CROSS JOIN LATERAL (
    SELECT inbox.shard_id, inbox.id, inbox.received_at, inbox.lane_rank, inbox.body
      FROM inbox
     WHERE inbox.shard_id = wanted.shard_id
       AND inbox.lane_rank = lane.rank
       AND inbox.received_at >= coalesce($4, '-infinity'::timestamptz)
     ORDER BY inbox.received_at, inbox.id
     LIMIT $3
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

/// Of one shard and lane come at most twice its even part, and a few more: so the order holds within a shard, and
/// between shards about.
pub(super) async fn since(
    pool: &PgPool,
    shards: &[ShardId],
    since: Option<Timestamp>,
    limit: u32,
) -> Result<Vec<InboxRow>, StoreError> {
    let shard_count = u32::try_from(shards.len()).unwrap_or(u32::MAX).max(1);
    let of_one = (8 + limit / shard_count * 2).min(limit);
    let rows = some(pool, shards, since, limit, of_one).await?;
    let mut of: BTreeMap<_, u32> = BTreeMap::new();
    for row in &rows {
        *of.entry((row.shard, lane_rank(row.lane))).or_default() += 1;
    }
    let is_short = u32::try_from(rows.len()).is_ok_and(|count| count < limit);
    if of_one < limit && is_short && of.values().any(|count| *count >= of_one) {
        // Few messages, and most of them one shard's: fewer than `limit` must be all.
        return some(pool, shards, since, limit, limit).await;
    }
    Ok(rows)
}

async fn some(
    pool: &PgPool,
    shards: &[ShardId],
    since: Option<Timestamp>,
    limit: u32,
    of_one: u32,
) -> Result<Vec<InboxRow>, StoreError> {
    let rows = sqlx::query(INBOX)
        .bind(shards.iter().map(|shard| shard.0).collect::<Vec<_>>())
        .bind(i64::from(limit))
        .bind(i64::from(of_one))
        .bind(since.map(stored_time))
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
