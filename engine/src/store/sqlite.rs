//! The store on SQLite.

use std::path::Path;

use super::StoreError;

/// Cases in one SQLite file.
pub struct SqliteStore {
    readers: sqlx::SqlitePool,
}

impl SqliteStore {
    /// Opens the file, and makes it when it is not there, readable by its owner only.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when it cannot be opened.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let options = sqlx::sqlite::SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true);
        let readers = sqlx::SqlitePool::connect_with(options)
            .await
            .map_err(StoreError::Unavailable)?;
        Ok(Self { readers })
    }

    /// Read-only connections, for the layer above's own reading.
    #[must_use]
    pub fn readers(&self) -> &sqlx::SqlitePool {
        &self.readers
    }
}
