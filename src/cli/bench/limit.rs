//! The bare writes that the engine is held against, and how wide its rows are.

use anyhow::Context as _;
use sqlx::{AssertSqlSafe, Connection as _};
use tokio::time::Instant;

use super::scratch::Beside;

/// The tables that get a row with every step.
const STEP_TABLES: [&str; 3] = ["case_step", "case_history", "evidence"];

/// How many bytes those tables hold.
pub(super) async fn bytes_of_steps(beside: &mut Beside) -> anyhow::Result<u64> {
    let bytes: Option<i64> = match beside {
        Beside::Sqlite(connection) => {
            let names = STEP_TABLES.map(|table| format!("'{table}'")).join(", ");
            let sql = format!("SELECT sum(payload) FROM dbstat WHERE name IN ({names})");
            sqlx::query_scalar(AssertSqlSafe(sql))
                .fetch_one(connection)
                .await?
        }
        Beside::Postgres(connection) => {
            let sums = STEP_TABLES.map(|table| {
                format!("coalesce((SELECT sum(pg_column_size(t.*)) FROM {table} t), 0)")
            });
            let sql = format!("SELECT ({})::bigint", sums.join(" + "));
            sqlx::query_scalar(AssertSqlSafe(sql))
                .fetch_one(connection)
                .await?
        }
    };
    u64::try_from(bytes.unwrap_or(0)).context("the database gave a negative size")
}

/// How far the database's log had come.
pub(super) struct Written(Option<i64>);

impl Written {
    pub(super) async fn read(beside: &mut Beside) -> anyhow::Result<Self> {
        Ok(Self(match beside {
            // The file of the log is used again from the start, so its size tells nothing.
            Beside::Sqlite(_) => None,
            Beside::Postgres(connection) => Some(
                sqlx::query_scalar(
                    "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint",
                )
                .fetch_one(connection)
                .await?,
            ),
        }))
    }

    /// How many bytes were written since.
    pub(super) fn since(&self, before: &Self) -> Option<u64> {
        u64::try_from(self.0? - before.0?).ok()
    }
}

/// How many bytes the whole database takes.
pub(super) async fn database_bytes(beside: &mut Beside) -> anyhow::Result<u64> {
    let bytes: i64 = match beside {
        Beside::Sqlite(connection) => {
            sqlx::query_scalar(
                "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()",
            )
            .fetch_one(connection)
            .await?
        }
        Beside::Postgres(connection) => {
            sqlx::query_scalar("SELECT pg_database_size(current_database())")
                .fetch_one(connection)
                .await?
        }
    };
    u64::try_from(bytes).context("the database gave a negative size")
}

/// The tables whose size follows what is open, not what was done.
const BOUNDED_TABLES: [&str; 4] = ["case_open", "case_timer", "inbox", "shard"];

/// A table with its indexes.
pub(super) struct TableSize {
    pub table: String,
    pub bytes: u64,
}

pub(super) async fn table_sizes(beside: &mut Beside) -> anyhow::Result<Vec<TableSize>> {
    let mut sizes = Vec::new();
    for table in BOUNDED_TABLES {
        let bytes: i64 = match beside {
            Beside::Sqlite(connection) => {
                let sql = "
SELECT coalesce(sum(pgsize), 0) FROM dbstat
 WHERE name IN (SELECT name FROM sqlite_schema WHERE tbl_name = ?1)";
                sqlx::query_scalar(sql)
                    .bind(table)
                    .fetch_one(&mut *connection)
                    .await?
            }
            Beside::Postgres(connection) => {
                sqlx::query_scalar("SELECT pg_total_relation_size($1::text::regclass)")
                    .bind(table)
                    .fetch_one(&mut *connection)
                    .await?
            }
        };
        sizes.push(TableSize {
            table: table.to_owned(),
            bytes: u64::try_from(bytes).context("the database gave a negative size")?,
        });
    }
    Ok(sizes)
}

/// How long each case took that was received after `from`, from received to closed, in milliseconds, sorted.
pub(super) async fn lengths_ms(
    beside: &mut Beside,
    from: chrono::DateTime<chrono::Utc>,
) -> anyhow::Result<Vec<f64>> {
    let mut lengths: Vec<f64> = match beside {
        Beside::Sqlite(connection) => {
            let sql = "
SELECT (state.closed_at - head.received_at) / 1000.0
  FROM case_head AS head
  JOIN case_state AS state ON state.case_number = head.case_number
 WHERE head.received_at >= ?1 AND state.closed_at IS NOT NULL";
            sqlx::query_scalar(sql)
                .bind(from.timestamp_micros())
                .fetch_all(connection)
                .await?
        }
        Beside::Postgres(connection) => {
            let sql = "
SELECT extract(epoch FROM state.closed_at - head.received_at)::float8 * 1000
  FROM case_head AS head
  JOIN case_state AS state ON state.shard_id = head.shard_id AND state.case_id = head.case_id
 WHERE head.received_at >= $1 AND state.closed_at IS NOT NULL";
            sqlx::query_scalar(sql)
                .bind(from)
                .fetch_all(connection)
                .await?
        }
    };
    lengths.sort_by(f64::total_cmp);
    Ok(lengths)
}

/// Inserts `rows` rows of `bytes` bytes, `batch` in a commit; gives the rows per second.
pub(super) async fn bare_writes(
    beside: &mut Beside,
    rows: u64,
    bytes: u64,
    batch: u64,
) -> anyhow::Result<f64> {
    let bytes = usize::try_from(bytes.max(1))?;
    // Hexadecimal digits that compress badly and cost nothing to make.
    let text: String = (0..bytes)
        .scan(0x9e37_79b9_u32, |state, _| {
            *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            char::from_digit(*state >> 28, 16)
        })
        .collect();
    match beside {
        Beside::Sqlite(connection) => {
            let create = "CREATE TABLE bench_limit (k INTEGER NOT NULL, v TEXT NOT NULL, PRIMARY KEY (k)) STRICT";
            sqlx::raw_sql(create).execute(&mut *connection).await?;
            let started = Instant::now();
            for first in (0..rows).step_by(usize::try_from(batch)?) {
                let document: Vec<(u64, &str)> = (first..(first + batch).min(rows))
                    .map(|key| (key, text.as_str()))
                    .collect();
                let document = serde_json::to_string(&document)?;
                let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
                sqlx::query("INSERT INTO bench_limit (k, v) SELECT value ->> 0, value ->> 1 FROM json_each(?)")
                    .bind(document)
                    .execute(&mut *transaction)
                    .await?;
                transaction.commit().await?;
            }
            Ok(per_second(rows, started))
        }
        Beside::Postgres(connection) => {
            let create = "CREATE TABLE bench_limit (k bigint PRIMARY KEY, v text NOT NULL)";
            sqlx::raw_sql(create).execute(&mut *connection).await?;
            let started = Instant::now();
            for first in (0..rows).step_by(usize::try_from(batch)?) {
                let keys: Vec<i64> = (first..(first + batch).min(rows))
                    .map(i64::try_from)
                    .collect::<Result<_, _>>()?;
                let values = vec![text.as_str(); keys.len()];
                sqlx::query(
                    "INSERT INTO bench_limit (k, v) SELECT * FROM unnest($1::bigint[], $2::text[])",
                )
                .bind(keys)
                .bind(values)
                .execute(&mut *connection)
                .await?;
            }
            Ok(per_second(rows, started))
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
pub(super) fn per_second(count: u64, started: Instant) -> f64 {
    count as f64 / started.elapsed().as_secs_f64().max(1e-9)
}
