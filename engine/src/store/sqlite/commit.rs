//! The group commit: one transaction, one statement a table, all or nothing.
//!
//! The transaction holds the write lock of the file from its beginning, so what the fence reads stays true
//! until it ends.

use sqlx::sqlite::{SqliteConnection, SqliteRow};

use crate::store::batch::{self, Writes, instance_column};
use crate::store::decode::Reader;
use crate::store::failure::from_driver;
use crate::store::{Batch, Projection, StoreError, Transaction};

use super::json::Rows;
use super::numbers::{Numbered, Numbers};
use super::statements::Statement;
use super::{SqliteStore, ending, leases, statements};

/// The first case that is not as the batch expects: a null version is a case that must not be there.
const STALE: &str = "
SELECT unhex(wanted.value ->> 1) AS case_id, coalesce(wanted.value ->> 2, 0) AS version
  FROM jsonb_each(?1) AS wanted
  LEFT JOIN case_head AS head
    ON head.shard_id = wanted.value ->> 0 AND head.case_id = unhex(wanted.value ->> 1)
  LEFT JOIN case_state AS state ON state.case_number = head.case_number
 WHERE state.version IS NOT wanted.value ->> 2
 LIMIT 1";

/// The first step that must have a row and has none.
const WITHOUT_ROW: &str = "
SELECT wanted.value ->> 0 AS shard_id, unhex(wanted.value ->> 1) AS case_id,
       wanted.value ->> 2 AS step, wanted.value ->> 3 AS instance
  FROM jsonb_each(?1) AS wanted
  LEFT JOIN case_head AS head
    ON head.shard_id = wanted.value ->> 0 AND head.case_id = unhex(wanted.value ->> 1)
  LEFT JOIN case_step
    ON case_step.case_number = head.case_number
   AND case_step.step = wanted.value ->> 2 AND case_step.instance = wanted.value ->> 3
 WHERE case_step.step IS NULL
 LIMIT 1";

pub(super) async fn commit(
    store: &SqliteStore,
    batch: &Batch,
    projection: &dyn Projection,
) -> Result<(), StoreError> {
    let writes = Writes::of(batch)?;
    // Described before it has the file: another batch may be written meanwhile.
    let described = store
        .numbers
        .foretell(&writes)
        .and_then(|numbered| Some((statements::of(&writes, &numbered).ok()?, numbered)));
    let mut transaction = store.writer.begin().await?;
    let connection = transaction.connection();
    let written = write(store, connection, &writes, described, batch, projection).await;
    let otherwise = match written {
        Ok(numbered) => {
            transaction.commit().await?;
            store.numbers.remember(numbered);
            return Ok(());
        }
        Err(Refusal::Known(error)) => return transaction.end(Err(error)).await,
        Err(Refusal::Unfit(error)) => error,
    };
    // What does not fit is seen only once the batch's own writing is out of the way.
    transaction.rollback().await?;
    let mut look = store.writer.begin().await?;
    let reason = why(look.connection(), &writes, otherwise).await;
    look.end(reason).await.and_then(Err)
}

/// Why a batch was not written.
enum Refusal {
    Known(StoreError),
    /// Something is not as the batch expects; the error if it cannot be found out what.
    Unfit(StoreError),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Known(error)
    }
}

async fn write(
    store: &SqliteStore,
    connection: &mut SqliteConnection,
    writes: &Writes<'_>,
    described: Option<(Vec<Statement>, Numbered)>,
    batch: &Batch,
    projection: &dyn Projection,
) -> Result<Numbered, Refusal> {
    if let Some(shard) = leases::lost(connection, writes.leases).await? {
        return Err(StoreError::Fenced { shard }.into());
    }
    let (statements, numbered) = match described {
        Some(described) if Numbers::are_free(connection, &described.1).await? => described,
        _ => {
            let numbered = store.numbers.of(connection, writes).await?;
            let statements = statements::of(writes, &numbered).map_err(Refusal::Unfit)?;
            (statements, numbered)
        }
    };
    for statement in statements {
        let done = sqlx::query(statement.sql)
            .bind(statement.rows)
            .execute(&mut *connection)
            .await;
        match done {
            Ok(done)
                if statement
                    .every
                    .is_none_or(|every| done.rows_affected() == every) => {}
            Ok(_) => return Err(Refusal::Unfit(from_driver(sqlx::Error::RowNotFound))),
            Err(error) if is_duplicate(&error) => return Err(Refusal::Unfit(from_driver(error))),
            Err(error) => return Err(from_driver(error).into()),
        }
    }
    if !batch.pauses.is_empty() {
        ending::pause(connection, &batch.pauses).await?;
    }
    if !batch.generations.is_empty() {
        ending::begin_lives(connection, &batch.generations).await?;
    }
    if !batch.outcomes.is_empty() {
        projection
            .project(&mut Transaction::Sqlite(connection), &batch.outcomes)
            .await?;
    }
    Ok(numbered)
}

fn is_duplicate(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .is_some_and(|error| error.is_unique_violation())
}

/// Finds out what does not fit: a case that moved on, a case that is there already, a step without its row.
async fn why(
    connection: &mut SqliteConnection,
    writes: &Writes<'_>,
    otherwise: StoreError,
) -> Result<StoreError, StoreError> {
    if let Some(row) = first(connection, STALE, expected_versions(writes)).await? {
        let reader = Reader::new("case_state", &row);
        let version = u64::try_from(reader.big("version")?).unwrap_or(0);
        return Ok(StoreError::Stale {
            case: reader.case()?,
            version,
        });
    }
    let known = Rows::of(writes.steps.known.iter(), 60, |row, columns| {
        columns
            .number(row.shard.0)
            .id(row.case.0)
            .number(row.step)
            .number(instance_column(row.instance));
    });
    if let Some(row) = first(connection, WITHOUT_ROW, known).await? {
        return Ok(Reader::new("case_step", &row).missing_step());
    }
    Ok(otherwise)
}

fn expected_versions(writes: &Writes<'_>) -> String {
    let moved = writes.moved.iter().map(|(from, row)| (*row, Some(*from)));
    let wanted: Vec<_> = moved
        .chain(writes.born.iter().map(|row| (*row, None)))
        .collect();
    Rows::of(wanted.iter(), 50, |(row, version), columns| {
        columns.number(row.shard.0).id(row.case.0);
        match version {
            Some(version) => columns.number(batch::version(*version)),
            None => columns.null(),
        };
    })
}

async fn first(
    connection: &mut SqliteConnection,
    sql: &'static str,
    rows: String,
) -> Result<Option<SqliteRow>, StoreError> {
    sqlx::query(sql)
        .bind(rows)
        .fetch_optional(connection)
        .await
        .map_err(from_driver)
}
