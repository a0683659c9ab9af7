//! `/v1/cases/{id}/export`: a case with its whole history, to keep or to carry.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use engine::core::id::CaseId;
use uuid::Uuid;

use super::Shares;
use super::auth::{Caller, Role};
use super::cases::shard_of;
use super::input::Path;
use super::problem::{ApiError, Problem};
use crate::shell::transfer;

/// A case with its versions, history and evidence
///
/// Lines of JSON in the form that `tenure case import` reads. They hold personal data.
#[utoipa::path(
    get, path = "/v1/cases/{id}/export", tag = "cases", security(("token" = ["read"])), params(("id" = Uuid, Path)),
    responses((status = 200, body = String, content_type = "application/jsonl"), (status = 404, body = Problem))
)]
pub(super) async fn get(
    State(api): Shares,
    caller: Caller,
    Path(id): Path<Uuid>,
) -> Result<Response, ApiError> {
    caller.require(Role::Read)?;
    shard_of(&api, CaseId(id)).await?;
    let text = transfer::export(&api.database, &[CaseId(id)]).await;
    let text = text.map_err(ApiError::Internal)?;
    Ok(([(header::CONTENT_TYPE, "application/jsonl")], text).into_response())
}
