//! The one connection that writes.
//!
//! A transaction takes the connection out of its place and puts it back only when it ended cleanly. Whoever
//! drops a transaction half-way (a cancelled task, a full disk, an error in a roll-back) drops the connection
//! with it, which rolls back; the next writer opens a new one. So no state of a broken transaction is ever met.

use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::{Mutex, MutexGuard};

use crate::store::StoreError;
use crate::store::failure::from_driver;

/// Turning WAL on in a new file is the one moment where SQLite does not wait for a lock by itself.
const OPEN_ATTEMPTS_MAX: u32 = 100;
const OPEN_PAUSE: Duration = Duration::from_millis(50);

pub(super) struct Writer {
    options: SqliteConnectOptions,
    place: Mutex<Option<SqliteConnection>>,
}

impl Writer {
    pub(super) async fn open(options: SqliteConnectOptions) -> Result<Self, StoreError> {
        let connection = connect(&options).await?;
        Ok(Self {
            options,
            place: Mutex::new(Some(connection)),
        })
    }

    /// Begins a transaction that holds the write lock of the file from the start.
    pub(super) async fn begin(&self) -> Result<WriteTransaction<'_>, StoreError> {
        let mut place = self.place.lock().await;
        let mut connection = match place.take() {
            Some(connection) => connection,
            None => connect(&self.options).await?,
        };
        let begun = sqlx::query("BEGIN IMMEDIATE")
            .execute(&mut connection)
            .await;
        if let Err(error) = begun {
            if is_busy(&error) {
                // It did not begin, so the connection is as it was.
                *place = Some(connection);
            }
            return Err(from_driver(error));
        }
        Ok(WriteTransaction { place, connection })
    }

    pub(super) async fn close(&self) {
        if let Some(connection) = self.place.lock().await.take() {
            // Only tidiness is lost when this fails: the log is folded in when the file is opened again.
            let _ = connection.close().await;
        }
    }
}

async fn connect(options: &SqliteConnectOptions) -> Result<SqliteConnection, StoreError> {
    let mut attempts = 1;
    loop {
        match options.connect().await {
            Err(error) if is_busy(&error) && attempts < OPEN_ATTEMPTS_MAX => {
                attempts += 1;
                tokio::time::sleep(OPEN_PAUSE).await;
            }
            connected => return connected.map_err(from_driver),
        }
    }
}

fn is_busy(error: &sqlx::Error) -> bool {
    const BUSY: i32 = 5;
    let code = error.as_database_error().and_then(DatabaseError::code);
    code.and_then(|code| code.parse::<i32>().ok())
        .is_some_and(|code| code & 0xff == BUSY)
}

/// An open transaction. Dropping it rolls back.
pub(super) struct WriteTransaction<'w> {
    place: MutexGuard<'w, Option<SqliteConnection>>,
    connection: SqliteConnection,
}

impl WriteTransaction<'_> {
    pub(super) fn connection(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }

    pub(super) async fn commit(mut self) -> Result<(), StoreError> {
        sqlx::query("COMMIT")
            .execute(&mut self.connection)
            .await
            .map_err(from_driver)?;
        *self.place = Some(self.connection);
        Ok(())
    }

    pub(super) async fn rollback(mut self) -> Result<(), StoreError> {
        sqlx::query("ROLLBACK")
            .execute(&mut self.connection)
            .await
            .map_err(from_driver)?;
        *self.place = Some(self.connection);
        Ok(())
    }

    /// Ends the transaction as `result` says.
    pub(super) async fn end<T>(self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        match result {
            Ok(value) => {
                self.commit().await?;
                Ok(value)
            }
            Err(error) => {
                // The first error is the one that tells; a connection that cannot roll back is given up.
                let _ = self.rollback().await;
                Err(error)
            }
        }
    }
}
