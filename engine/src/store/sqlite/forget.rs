//! Forgetting what is over, in small pieces: the write lock of the file is held for a moment only.

use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use crate::core::Timestamp;
use crate::store::failure::from_driver;
use crate::store::rows::stored_time;
use crate::store::{Before, FORGET_CASES_MAX, FORGET_ROWS_MAX, Forgotten, StoreError};

use super::SqliteStore;

/// The most pages of rows one call walks over to find what may go.
const PAGES_MAX: u32 = 200;

/// The statements for one append-only table.
struct Table {
    /// Rows come in about the order of their times, so the oldest lie in front; behind the first page that is all
    /// young there is nothing to find.
    page: &'static str,
    delete: &'static str,
}

/// In both, `open` is asked again under the write lock.
macro_rules! table {
    ($name:literal) => {
        Table {
            page: concat!(
                "
SELECT record.rowid AS number, record.at < ?2 AS old, open.case_number IS NOT NULL AS open
  FROM ",
                $name,
                " AS record
  LEFT JOIN case_open AS open ON open.case_number = record.case_number
 WHERE record.rowid > ?1
 ORDER BY record.rowid
 LIMIT ?3"
            ),
            delete: concat!(
                "
DELETE FROM ",
                $name,
                "
 WHERE rowid IN (SELECT value FROM json_each(?1))
   AND case_number NOT IN (SELECT open.case_number FROM case_open AS open)"
            ),
        }
    };
}

const HISTORY: Table = table!("case_history");
const EVIDENCE: Table = table!("evidence");

/// Names of cases of which no evidence is left.
const FORGET_GONE: &str = "
DELETE FROM case_gone
 WHERE case_number IN (
    SELECT gone.case_number FROM case_gone AS gone
     WHERE NOT EXISTS (SELECT 1 FROM evidence WHERE evidence.case_number = gone.case_number)
     ORDER BY gone.case_number
     LIMIT ?1)";

/// Walks from the oldest case on and stops at the limit. The newest case stays: the next one gets the number after
/// it, and no number may be given twice while evidence carries it.
const CASES: &str = "
SELECT head.case_number
  FROM case_head AS head
  JOIN case_state AS state ON state.case_number = head.case_number
 WHERE head.created_at < ?1 AND state.closed_at < ?1
   AND head.case_number < (SELECT max(newest.case_number) FROM case_head AS newest)
 ORDER BY head.created_at, head.case_id
 LIMIT ?2";

/// In this order: whose the evidence is has to be known before the head is gone.
const FORGET_CASES: [&str; 6] = [
    "UPDATE case_closed_count
        SET cases = cases - fewer.gone
       FROM (
         SELECT head.shard_id AS shard, head.workflow AS of, state.state AS ended, count(*) AS gone
           FROM case_head AS head
           JOIN case_state AS state ON state.case_number = head.case_number
          WHERE head.case_number IN (SELECT value FROM json_each(?1))
          GROUP BY head.shard_id, head.workflow, state.state
       ) AS fewer
      WHERE shard_id = fewer.shard AND workflow = fewer.of AND state = fewer.ended",
    "INSERT INTO case_gone (case_number, shard_id, case_id)
     SELECT head.case_number, head.shard_id, head.case_id
       FROM case_head AS head
      WHERE head.case_number IN (SELECT value FROM json_each(?1))
        AND EXISTS (SELECT 1 FROM evidence WHERE evidence.case_number = head.case_number)
     ON CONFLICT DO NOTHING",
    "DELETE FROM case_history WHERE case_number IN (SELECT value FROM json_each(?1))",
    "DELETE FROM case_step WHERE case_number IN (SELECT value FROM json_each(?1))",
    "DELETE FROM case_state WHERE case_number IN (SELECT value FROM json_each(?1))",
    "DELETE FROM case_head WHERE case_number IN (SELECT value FROM json_each(?1))",
];

/// See [`Store::forget`](crate::store::Store::forget).
pub(super) async fn forget(store: &SqliteStore, before: &Before) -> Result<Forgotten, StoreError> {
    for (table, before) in [(HISTORY, before.history), (EVIDENCE, before.evidence)] {
        if let Some(before) = before {
            let rows = forget_rows(store, &table, before).await?;
            if rows > 0 {
                return Ok(Forgotten {
                    rows,
                    more: true,
                    ..Forgotten::default()
                });
            }
        }
    }
    if before.evidence.is_some() {
        let mut transaction = store.writer.begin().await?;
        let forgotten = sqlx::query(FORGET_GONE)
            .bind(FORGET_ROWS_MAX)
            .execute(transaction.connection())
            .await
            .map_err(from_driver);
        transaction.end(forgotten).await?;
    }
    match before.closed_cases {
        Some(before) => forget_cases(store, before).await,
        None => Ok(Forgotten::default()),
    }
}

async fn forget_rows(
    store: &SqliteStore,
    table: &Table,
    before: Timestamp,
) -> Result<u64, StoreError> {
    let numbers = old_rows(store, table, before).await?;
    if numbers.is_empty() {
        return Ok(0);
    }
    let mut transaction = store.writer.begin().await?;
    let deleted = sqlx::query(table.delete)
        .bind(serde_json::Value::from(numbers).to_string())
        .execute(transaction.connection())
        .await
        .map_err(from_driver);
    Ok(transaction.end(deleted).await?.rows_affected())
}

/// The numbers of the oldest rows that may go, at most as many as one call deletes.
async fn old_rows(
    store: &SqliteStore,
    table: &Table,
    before: Timestamp,
) -> Result<Vec<i64>, StoreError> {
    let mut numbers = Vec::new();
    let mut after = i64::MIN;
    let limit = usize::try_from(FORGET_ROWS_MAX).unwrap_or(usize::MAX);
    for _ in 0..PAGES_MAX {
        let page = sqlx::query(table.page)
            .bind(after)
            .bind(stored_time(before).timestamp_micros())
            .bind(FORGET_ROWS_MAX)
            .fetch_all(&store.readers)
            .await
            .map_err(from_driver)?;
        let mut any_old = false;
        for row in &page {
            let (number, old, open) = page_row(row).map_err(from_driver)?;
            after = number;
            any_old |= old;
            if old && !open && numbers.len() < limit {
                numbers.push(number);
            }
        }
        if !any_old || numbers.len() >= limit || page.len() < limit {
            break;
        }
    }
    Ok(numbers)
}

fn page_row(row: &SqliteRow) -> Result<(i64, bool, bool), sqlx::Error> {
    Ok((
        row.try_get("number")?,
        row.try_get("old")?,
        row.try_get("open")?,
    ))
}

async fn forget_cases(store: &SqliteStore, before: Timestamp) -> Result<Forgotten, StoreError> {
    let mut transaction = store.writer.begin().await?;
    let forgotten = forget_some(transaction.connection(), before).await;
    let cases = transaction.end(forgotten).await?;
    Ok(Forgotten {
        cases,
        more: cases > 0,
        ..Forgotten::default()
    })
}

async fn forget_some(
    connection: &mut SqliteConnection,
    before: Timestamp,
) -> Result<u64, StoreError> {
    let numbers: Vec<i64> = sqlx::query_scalar(CASES)
        .bind(stored_time(before).timestamp_micros())
        .bind(FORGET_CASES_MAX)
        .fetch_all(&mut *connection)
        .await
        .map_err(from_driver)?;
    if numbers.is_empty() {
        return Ok(0);
    }
    let count = numbers.len() as u64;
    let numbers = serde_json::Value::from(numbers).to_string();
    for sql in FORGET_CASES {
        sqlx::query(sql)
            .bind(numbers.clone())
            .execute(&mut *connection)
            .await
            .map_err(from_driver)?;
    }
    Ok(count)
}
