//! The schema, brought up to date by whoever comes first.

use sqlx::{PgConnection, PgPool, Row};

use crate::store::failure::from_driver;
use crate::store::migrate::{Applied, check_shards, checksum, failed, next};
use crate::store::{Migration, StoreError};

use super::{PostgresStore, is_duplicate, sqlstate};

const MAKE_LEDGER: &str = "
CREATE TABLE IF NOT EXISTS schema_version (
    version bigint PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL
)";

/// Whoever else migrates waits here until our step is committed; readers of the table do not.
const LOCK_LEDGER: &str = "LOCK TABLE schema_version IN SHARE ROW EXCLUSIVE MODE";

const APPLIED: &str = "SELECT version, checksum FROM schema_version ORDER BY version";

const RECORD: &str =
    "INSERT INTO schema_version (version, name, checksum, applied_at) VALUES ($1, $2, $3, now())";

const SHARD_COUNT: &str = "SELECT value FROM engine_meta WHERE name = 'shards'";

const SET_SHARD_COUNT: &str = "INSERT INTO engine_meta (name, value) VALUES ('shards', $1)";

const MAKE_SHARDS: &str = "INSERT INTO shard (shard_id, epoch) SELECT number, 0 FROM generate_series(0, $1::integer - 1) AS number";

pub(super) async fn migrate(
    store: &PostgresStore,
    migrations: &[Migration],
    shards: u32,
) -> Result<(), StoreError> {
    let shards = check_shards(shards)?;
    let encoding: String = sqlx::query_scalar("SHOW server_encoding")
        .fetch_one(&store.writers)
        .await
        .map_err(from_driver)?;
    if encoding != "UTF8" {
        let source = format!("the database has encoding `{encoding}`; create it with `UTF8`");
        return Err(failed("encoding", source));
    }
    make_ledger(&store.writers).await?;
    loop {
        let mut transaction = store.begin().await?;
        sqlx::query(LOCK_LEDGER)
            .execute(&mut *transaction)
            .await
            .map_err(from_driver)?;
        let applied = applied(&mut transaction).await?;
        let Some(migration) = next(&applied, migrations, |migration| migration.postgres)? else {
            make_shards(&mut transaction, shards).await?;
            return transaction.commit().await.map_err(from_driver);
        };
        sqlx::raw_sql(migration.postgres)
            .execute(&mut *transaction)
            .await
            .map_err(|error| failed(migration.name, error))?;
        sqlx::query(RECORD)
            .bind(migration.version)
            .bind(migration.name)
            .bind(checksum(migration.postgres))
            .execute(&mut *transaction)
            .await
            .map_err(from_driver)?;
        transaction.commit().await.map_err(from_driver)?;
    }
}

/// `IF NOT EXISTS` looks before it locks: two at once may both find nothing, and then the later one fails.
async fn make_ledger(pool: &PgPool) -> Result<(), StoreError> {
    const DUPLICATE_TABLE: &str = "42P07";
    match sqlx::query(MAKE_LEDGER).execute(pool).await {
        Ok(_) => Ok(()),
        Err(error) if is_duplicate(&error) => Ok(()),
        Err(error) if sqlstate(&error).as_deref() == Some(DUPLICATE_TABLE) => Ok(()),
        Err(error) => Err(from_driver(error)),
    }
}

async fn applied(connection: &mut PgConnection) -> Result<Vec<Applied>, StoreError> {
    let rows = sqlx::query(APPLIED)
        .fetch_all(connection)
        .await
        .map_err(from_driver)?;
    let read = |row: &sqlx::postgres::PgRow| {
        Ok(Applied {
            version: row.try_get("version")?,
            checksum: row.try_get("checksum")?,
        })
    };
    rows.iter()
        .map(|row| read(row).map_err(from_driver))
        .collect()
}

async fn make_shards(connection: &mut PgConnection, shards: i32) -> Result<(), StoreError> {
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
        .execute(&mut *connection)
        .await
        .map_err(from_driver)?;
    Ok(())
}

pub(super) async fn shard_count(pool: &PgPool) -> Result<u32, StoreError> {
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
