//! `GET /v1/schemas/events`: what events may say, as JSON Schema.

use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use workflows::policy::problem::suggest;
use workflows::sources::{EventType, data};

use super::auth::{Caller, Role};
use super::input::Path;
use super::problem::{ApiError, Problem};

/// The schema of every type of event
#[utoipa::path(
    get, path = "/v1/schemas/events", tag = "events", security(("token" = ["read"])),
    responses((status = 200, body = Object, content_type = "application/schema+json", description = "JSON Schema 2020-12"))
)]
pub(super) async fn list(caller: Caller) -> Result<Response, ApiError> {
    caller.require(Role::Read)?;
    Ok(schema(&data::schema()))
}

/// The schema of one type of event
#[utoipa::path(
    get, path = "/v1/schemas/events/{type}", tag = "events", security(("token" = ["read"])),
    params(("type" = String, Path, example = "termination.scheduled")),
    responses(
        (status = 200, body = Object, content_type = "application/schema+json", description = "JSON Schema 2020-12"),
        (status = 404, body = Problem)
    )
)]
pub(super) async fn get(caller: Caller, Path(name): Path<String>) -> Result<Response, ApiError> {
    caller.require(Role::Read)?;
    let event_type = EventType::parse(&name).ok_or_else(|| {
        let known = EventType::ALL.iter().map(|known| known.as_str());
        ApiError::NotFound(suggest(&name, "types of event", known))
    })?;
    Ok(schema(&event_type.schema()))
}

fn schema(schema: &Value) -> Response {
    let media = [(header::CONTENT_TYPE, "application/schema+json")];
    (media, schema.to_string()).into_response()
}
