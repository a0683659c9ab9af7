//! What digests of subjects are made with: drawn once for an installation, so that all its nodes say the same of
//! somebody, and nobody else can find out whom they mean by trying names.

use anyhow::Context as _;
use async_trait::async_trait;
use engine::store::{InboxRow, StoreError, Transaction, Work};

use crate::shell::Database;
use crate::shell::database::Readers;

const PUT_POSTGRES: &str =
    "INSERT INTO engine_meta (name, value) VALUES ('telemetry_salt', $1) ON CONFLICT DO NOTHING";
const PUT_SQLITE: &str =
    "INSERT INTO engine_meta (name, value) VALUES ('telemetry_salt', ?1) ON CONFLICT DO NOTHING";
const GET: &str = "SELECT value FROM engine_meta WHERE name = 'telemetry_salt'";

/// Whoever is first decides.
struct Put(String);

#[async_trait]
impl Work for Put {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let done = match transaction {
            Transaction::Postgres(connection) => sqlx::query(PUT_POSTGRES)
                .bind(&self.0)
                .execute(&mut **connection)
                .await
                .map(drop),
            Transaction::Sqlite(connection) => sqlx::query(PUT_SQLITE)
                .bind(self.0.clone())
                .execute(&mut **connection)
                .await
                .map(drop),
        };
        done.map_err(|error| StoreError::Projection(error.to_string()))?;
        Ok(Vec::new())
    }
}

pub(super) async fn of(database: &Database) -> anyhow::Result<[u8; 16]> {
    let drawn = uuid::Uuid::from_u128(rand::random());
    let put = Put(drawn.simple().to_string());
    database.store.write(&put).await?;
    let kept: String = match database.readers() {
        Readers::Postgres(pool) => sqlx::query_scalar(GET).fetch_one(pool).await?,
        Readers::Sqlite(pool) => sqlx::query_scalar(GET).fetch_one(pool).await?,
    };
    let kept = uuid::Uuid::parse_str(&kept)
        .context("`engine_meta.telemetry_salt` is not 32 hexadecimal digits")?;
    Ok(kept.into_bytes())
}
