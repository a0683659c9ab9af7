//! `/healthz` and `/readyz`: for whoever starts, stops and balances processes.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::{Api, Shares};
use crate::shell::database::{Readers, migrations};

/// How long the database may take to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(3);

#[derive(Debug, Serialize, ToSchema)]
pub struct Alive {
    /// Always `alive`.
    status: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Ready {
    ready: bool,
    /// The database answered.
    store: bool,
    /// Its schema is the one this program knows.
    schema: bool,
    /// Somebody works on every shard: this process or another.
    owned: bool,
    /// How many shards this process works on.
    shards_here: usize,
}

/// Whether the process runs at all
#[utoipa::path(get, path = "/healthz", tag = "health", responses((status = 200, body = Alive)))]
pub(super) async fn alive() -> Json<Alive> {
    Json(Alive { status: "alive" })
}

/// Whether work sent here is taken in and done
#[utoipa::path(get, path = "/readyz", tag = "health", responses((status = 200, body = Ready), (status = 503, body = Ready)))]
pub(super) async fn ready(State(api): Shares) -> (StatusCode, Json<Ready>) {
    let owned = match tokio::time::timeout(ANSWER_WAIT, api.database.store.shards()).await {
        Ok(Ok(shards)) => {
            Some(!shards.is_empty() && shards.iter().all(engine::store::ShardRow::is_held))
        }
        Ok(Err(error)) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "not ready: the database refused a question"
            );
            None
        }
        Err(_) => None,
    };
    let known = migrations().iter().map(|migration| migration.version).max();
    let schema = match tokio::time::timeout(ANSWER_WAIT, schema(&api)).await {
        Ok(Ok(found)) => found == known,
        Ok(Err(_)) | Err(_) => false,
    };
    let (store, owned) = (owned.is_some(), owned.unwrap_or(false));
    let ready = store && schema && owned;
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (
        status,
        Json(Ready {
            ready,
            store,
            schema,
            owned,
            shards_here: api.node.borrow().owns_shards,
        }),
    )
}

async fn schema(api: &Api) -> Result<Option<i64>, sqlx::Error> {
    match api.database.readers() {
        Readers::Sqlite(pool) => sqlx::query_scalar(NEWEST).fetch_one(pool).await,
        Readers::Postgres(pool) => sqlx::query_scalar(NEWEST).fetch_one(pool).await,
    }
}

const NEWEST: &str = "SELECT max(version) FROM schema_version";
