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
