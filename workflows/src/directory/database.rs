//! One way to talk to two databases.
//!
//! Every statement takes one parameter, a JSON document, and a query gives one column, a JSON document a row.
//! So a batch of any size is one statement, and encoding and decoding are the same on both databases: only the
//! text of the statement differs. The directory is not the hot path of the engine; a document a row is cheap
//! enough there and leaves nothing to keep in step by hand.

use chrono::{DateTime, SecondsFormat, Utc};
use engine::store::{StoreError, Transaction};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sqlx::{PgPool, SqlitePool};

/// The most rows of one statement: what keeps a document below a few megabytes.
pub const ROWS_PER_STATEMENT_MAX: usize = 2_000;

/// A statement in both dialects. `$1` is the JSON document.
#[derive(Debug, Clone, Copy)]
pub struct Sql {
    /// The table it is mostly about, for messages.
    pub table: &'static str,
    pub postgres: &'static str,
    pub sqlite: &'static str,
}

/// Where the directory reads outside of transactions.
#[derive(Debug, Clone)]
pub enum Reader {
    Postgres(PgPool),
    Sqlite(SqlitePool),
}

impl Reader {
    /// The rows of a query.
    pub async fn rows<T: DeserializeOwned>(
        &self,
        sql: &Sql,
        parameter: &impl Serialize,
    ) -> Result<Vec<T>, StoreError> {
        let parameter = encode(sql, parameter)?;
        let rows: Vec<String> = match self {
            Self::Postgres(pool) => {
                sqlx::query_scalar(sql.postgres)
                    .bind(parameter)
                    .fetch_all(pool)
                    .await
            }
            Self::Sqlite(pool) => {
                sqlx::query_scalar(sql.sqlite)
                    .bind(parameter)
                    .fetch_all(pool)
                    .await
            }
        }
        .map_err(refused)?;
        rows.iter().map(|row| decode(sql, row)).collect()
    }

    /// The same as [`rows_of`], outside of transactions.
    pub async fn rows_of<T: DeserializeOwned>(
        &self,
        sql: &Sql,
        keys: &[(i32, String)],
    ) -> Result<Vec<T>, StoreError> {
        let mut found = Vec::with_capacity(keys.len());
        for part in keys.chunks(ROWS_PER_STATEMENT_MAX) {
            found.extend(self.rows::<T>(sql, &pairs(part)).await?);
        }
        Ok(found)
    }

    /// The first row, if there is one.
    pub async fn row<T: DeserializeOwned>(
        &self,
        sql: &Sql,
        parameter: &impl Serialize,
    ) -> Result<Option<T>, StoreError> {
        Ok(self.rows(sql, parameter).await?.into_iter().next())
    }
}

/// The rows of a query inside a transaction.
pub async fn rows_in<T: DeserializeOwned>(
    transaction: &mut Transaction<'_>,
    sql: &Sql,
    parameter: &impl Serialize,
) -> Result<Vec<T>, StoreError> {
    let parameter = encode(sql, parameter)?;
    let rows: Vec<String> = match transaction {
        Transaction::Postgres(connection) => {
            sqlx::query_scalar(sql.postgres)
                .bind(parameter)
                .fetch_all(&mut **connection)
                .await
        }
        Transaction::Sqlite(connection) => {
            sqlx::query_scalar(sql.sqlite)
                .bind(parameter)
                .fetch_all(&mut **connection)
                .await
        }
    }
    .map_err(refused)?;
    rows.iter().map(|row| decode(sql, row)).collect()
}

/// The rows of a query that is asked about `keys`, each with its shard: a list of `{shard_id, key}`,
/// [`ROWS_PER_STATEMENT_MAX`] at a time.
pub async fn rows_of<T: DeserializeOwned>(
    transaction: &mut Transaction<'_>,
    sql: &Sql,
    keys: &[(i32, String)],
) -> Result<Vec<T>, StoreError> {
    let mut found = Vec::with_capacity(keys.len());
    for part in keys.chunks(ROWS_PER_STATEMENT_MAX) {
        found.extend(rows_in::<T>(transaction, sql, &pairs(part)).await?);
    }
    Ok(found)
}

fn pairs(keys: &[(i32, String)]) -> Vec<Value> {
    keys.iter()
        .map(|(shard_id, key)| json!({ "shard_id": shard_id, "key": key }))
        .collect()
}

/// Runs a statement; gives the number of rows it touched.
pub async fn execute(
    transaction: &mut Transaction<'_>,
    sql: &Sql,
    parameter: &impl Serialize,
) -> Result<u64, StoreError> {
    let parameter = encode(sql, parameter)?;
    match transaction {
        Transaction::Postgres(connection) => sqlx::query(sql.postgres)
            .bind(parameter)
            .execute(&mut **connection)
            .await
            .map(|done| done.rows_affected()),
        Transaction::Sqlite(connection) => sqlx::query(sql.sqlite)
            .bind(parameter)
            .execute(&mut **connection)
            .await
            .map(|done| done.rows_affected()),
    }
    .map_err(refused)
}

/// Runs a statement for all of `rows`, [`ROWS_PER_STATEMENT_MAX`] at a time.
pub async fn execute_all<T: Serialize>(
    transaction: &mut Transaction<'_>,
    sql: &Sql,
    rows: &[T],
) -> Result<u64, StoreError> {
    let mut touched = 0;
    for part in rows.chunks(ROWS_PER_STATEMENT_MAX) {
        touched += execute(transaction, sql, &part).await?;
    }
    Ok(touched)
}

fn encode(sql: &Sql, parameter: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(parameter).map_err(|error| StoreError::Corrupt {
        table: sql.table,
        column: "(parameter)",
        key: String::new(),
        source: error.into(),
    })
}

fn decode<T: DeserializeOwned>(sql: &Sql, row: &str) -> Result<T, StoreError> {
    serde_json::from_str(row).map_err(|error| StoreError::Corrupt {
        table: sql.table,
        column: "(row)",
        key: error.to_string(),
        source: error.into(),
    })
}

/// Safe to repeat, or not: a statement the database refused will be refused again.
fn refused(error: sqlx::Error) -> StoreError {
    match error {
        sqlx::Error::Database(_)
        | sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::Decode(_)
        | sqlx::Error::Encode(_) => StoreError::Refused(error),
        other => StoreError::Unavailable(other),
    }
}

/// A time as SQLite keeps it: sorts as text.
#[must_use]
pub fn time_text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// The stored form of times in rows: `#[serde(with = "stored_time")]`.
pub mod stored_time {
    use chrono::{DateTime, Utc};
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(
        time: &DateTime<Utc>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::time_text(*time))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<DateTime<Utc>, D::Error> {
        DateTime::<Utc>::deserialize(deserializer)
    }
}

/// The same for times that may be absent.
pub mod stored_time_option {
    use chrono::{DateTime, Utc};
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::ref_option, reason = "the signature serde calls")]
    pub fn serialize<S: Serializer>(
        time: &Option<DateTime<Utc>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => serializer.serialize_str(&super::time_text(*time)),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<DateTime<Utc>>, D::Error> {
        Option::<DateTime<Utc>>::deserialize(deserializer)
    }
}
