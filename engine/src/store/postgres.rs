//! The store on PostgreSQL.

use super::StoreError;

/// How to connect.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// The most connections, one of which writes batches.
    pub connections_max: u32,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self { connections_max: 8 }
    }
}

/// Cases in PostgreSQL.
pub struct PostgresStore {
    pool: sqlx::PgPool,
}

impl PostgresStore {
    /// Connects to `url`; the schema is made by [`Store::migrate`](super::Store::migrate).
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when no connection could be made.
    pub async fn connect(url: &str, options: PostgresOptions) -> Result<Self, StoreError> {
        let pool = sqlx::postgres::PgPoolOptions::new()
            .max_connections(options.connections_max)
            .connect(url)
            .await
            .map_err(StoreError::Unavailable)?;
        Ok(Self { pool })
    }

    /// For the layer above's own reading.
    #[must_use]
    pub fn pool(&self) -> &sqlx::PgPool {
        &self.pool
    }
}
