//! `GET /metrics`: Prometheus text. What counts events counts as they happen; what shows a state is read here.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use connectors::layer::Availability;

use super::auth::{Caller, Role};
use super::problem::ApiError;
use super::{Api, Shares};
use crate::shell::database::Readers;
use crate::telemetry::Scrape;

/// Metrics in the text format of Prometheus
#[utoipa::path(
    get, path = "/metrics", tag = "health", security(("token" = ["read"])),
    responses((status = 200, body = String, content_type = "text/plain"))
)]
pub(super) async fn scrape(State(api): Shares, caller: Caller) -> Result<Response, ApiError> {
    caller.require(Role::Read)?;
    let now = api.clock.now();
    let oldest = oldest_message(&api).await?;
    let scrape = Scrape {
        node: api.node.borrow().clone(),
        held: api
            .systems
            .iter()
            .map(|system| {
                let held = matches!(
                    system.connector().availability(),
                    Availability::HeldUntil { .. }
                );
                (system.name().to_owned(), held)
            })
            .collect(),
        inbox_age_s: oldest.map_or(0.0, |at| (now - at).as_seconds_f64().max(0.0)),
    };
    let text = api
        .metrics
        .export(&scrape)
        .map_err(|error| ApiError::Internal(error.into()))?;
    Ok((
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        text,
    )
        .into_response())
}

async fn oldest_message(api: &Api) -> Result<Option<DateTime<Utc>>, ApiError> {
    Ok(match api.database.readers() {
        Readers::Sqlite(pool) => {
            let micros: Option<i64> = sqlx::query_scalar(OLDEST).fetch_one(pool).await?;
            micros.and_then(DateTime::from_timestamp_micros)
        }
        Readers::Postgres(pool) => sqlx::query_scalar(OLDEST).fetch_one(pool).await?,
    })
}

// The inbox is a queue that is nearly always empty.
const OLDEST: &str = "SELECT min(received_at) FROM inbox";
