//! `GET /metrics`: Prometheus text. What counts events counts as they happen; what shows a state is read here.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::Shares;
use super::auth::{Caller, Role};
use super::problem::ApiError;

/// Metrics in the text format of Prometheus
#[utoipa::path(
    get, path = "/metrics", tag = "health", security(("token" = ["read"])),
    responses((status = 200, body = String, content_type = "text/plain"))
)]
pub(super) async fn scrape(State(api): Shares, caller: Caller) -> Result<Response, ApiError> {
    caller.require(Role::Read)?;
    let scrape = api.look.now().await?;
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
