//! `POST /v1/sources/{source}/hints`: a product says that somebody changed, and signs it its own way.
//!
//! Nothing of what it says is believed: who it is about is noted, and the person is fetched. So a hint that somebody recorded
//! and sends again costs one question and changes nothing.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::Shares;
use super::input::{self, Path};
use super::problem::{ApiError, Problem};

/// The largest hint, in bytes. What a product sends beside who it is about is not read, but it is sent.
pub const HINT_BYTES_MAX: usize = 1024 * 1024;

/// That it is noted.
#[derive(Debug, Serialize, ToSchema)]
pub struct Noted {
    /// How many people will be fetched.
    people: usize,
}

/// Say that somebody changed, as the product signs it
#[utoipa::path(
    post, path = "/v1/sources/{source}/hints", tag = "sources", security(("signature" = [])),
    params(("source" = String, Path)), request_body(description = "As the product sends it; at most 1 MiB", content_type = "application/json"),
    responses(
        (status = 202, body = Noted, description = "It is durable; whoever it is about is fetched soon"),
        (status = 401, body = Problem), (status = 413, body = Problem)
    )
)]
pub(super) async fn post(
    State(api): Shares,
    Path(source): Path<String>,
    request: Request,
) -> Result<(StatusCode, Json<Noted>), ApiError> {
    let (parts, raw) = request.into_parts();
    let now = api.clock.now();
    let door = api.doors.hints_of(&source);
    let _place = api.doors.unproven.acquire().await;
    let bytes = input::body(&parts.headers, raw, HINT_BYTES_MAX).await?;
    door.admit(&parts.headers, &bytes, now).map_err(|reason| {
        tracing::warn!(reason, "a hint was refused");
        ApiError::Unsigned
    })?;
    tracing::Span::current().record("actor", format!("source:{source}"));
    // A test of the connection may be no JSON at all.
    let body = serde_json::from_slice(&bytes).unwrap_or_default();
    let configured = api.sources.get(&source).and_then(|source| source.pull());
    let hints = configured.and_then(|pull| pull.hints.as_ref());
    let people = hints.map(|hints| hints.about(&body)).unwrap_or_default();
    let directory = &api.database.directory;
    directory.put_hints(&source, &people, now).await?;
    Ok((
        StatusCode::ACCEPTED,
        Json(Noted {
            people: people.len(),
        }),
    ))
}
