//! The schema, brought up to date by whoever comes first: the write lock makes the others wait.

use sqlx::sqlite::{SqliteConnection, SqlitePool, SqliteRow};
use sqlx::{Executor, Row};

use crate::store::failure::from_driver;
use crate::store::migrate::{Applied, check_shards, checksum, failed, next};
use crate::store::{Migration, StoreError};

use super::leases::now_micros;
use super::writer::Writer;

const MAKE_LEDGER: &str = "
CREATE TABLE IF NOT EXISTS schema_version (
    version INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    checksum TEXT NOT NULL,
    applied_at INTEGER NOT NULL
) STRICT";

const APPLIED: &str = "SELECT version, checksum FROM schema_version ORDER BY version";

const RECORD: &str = concat!(
    "INSERT INTO schema_version (version, name, checksum, applied_at) VALUES (?1, ?2, ?3, ",
    now_micros!(),
    ")"
);

const SHARD_COUNT: &str = "SELECT value FROM engine_meta WHERE name = 'shards'";

const SET_SHARD_COUNT: &str = "INSERT INTO engine_meta (name, value) VALUES ('shards', ?1)";

const MAKE_SHARDS: &str = "
WITH RECURSIVE number (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n + 1 < ?1)
INSERT INTO shard (shard_id, epoch) SELECT n, 0 FROM number";

pub(super) async fn migrate(
    writer: &Writer,
    migrations: &[Migration],
    shards: u32,
) -> Result<(), StoreError> {
    let shards = check_shards(shards)?;
    loop {
        let mut transaction = writer.begin().await?;
        let done = one_step(transaction.connection(), migrations, shards).await;
        if transaction.end(done).await? {
            return Ok(());
        }
    }
}

/// Carries out the oldest missing step; true when none was missing.
async fn one_step(
    connection: &mut SqliteConnection,
    migrations: &[Migration],
    shards: i32,
) -> Result<bool, StoreError> {
    sqlx::query(MAKE_LEDGER)
        .execute(&mut *connection)
        .await
        .map_err(from_driver)?;
    let applied = applied(connection).await?;
    let Some(migration) = next(&applied, migrations, |migration| migration.sqlite)? else {
        make_shards(connection, shards).await?;
        return Ok(true);
    };
    connection
        .execute(sqlx::raw_sql(migration.sqlite))
        .await
        .map_err(|error| failed(migration.name, error))?;
    sqlx::query(RECORD)
        .bind(migration.version)
        .bind(migration.name)
        .bind(checksum(migration.sqlite))
        .execute(connection)
        .await
        .map_err(from_driver)?;
    Ok(false)
}

async fn applied(connection: &mut SqliteConnection) -> Result<Vec<Applied>, StoreError> {
    let rows = sqlx::query(APPLIED)
        .fetch_all(connection)
        .await
        .map_err(from_driver)?;
    let read = |row: &SqliteRow| {
        Ok(Applied {
            version: row.try_get("version")?,
            checksum: row.try_get("checksum")?,
        })
    };
    rows.iter()
        .map(|row| read(row).map_err(from_driver))
        .collect()
}

async fn make_shards(connection: &mut SqliteConnection, shards: i32) -> Result<(), StoreError> {
    let known = sqlx::query(SHARD_COUNT)
        .fetch_optional(&mut *connection)
        .await
        .map_err(from_driver)?;
    if known.is_some() {
        return Ok(());
    }
    sqlx::query(SET_SHARD_COUNT)
        .bind(shards.to_string())
        .execute(&mut *connection)
        .await
        .map_err(from_driver)?;
    sqlx::query(MAKE_SHARDS)
        .bind(shards)
        .execute(connection)
        .await
        .map_err(from_driver)?;
    Ok(())
}

pub(super) async fn shard_count(pool: &SqlitePool) -> Result<u32, StoreError> {
    let value: String = sqlx::query_scalar(SHARD_COUNT)
        .fetch_one(pool)
        .await
        .map_err(from_driver)?;
    value
        .parse()
        .map_err(|error: std::num::ParseIntError| StoreError::Corrupt {
            table: "engine_meta",
            column: "value",
            key: "shards".to_owned(),
            source: error.into(),
        })
}
