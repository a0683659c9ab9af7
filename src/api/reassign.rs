//! `/v1/cases/{id}/reassign`: an open question or task goes to somebody else.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use engine::core::id::{CaseId, Place};
use engine::runner::Command;
use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Shares;
use super::auth::{Caller, Role};
use super::cases::shard_of;
use super::commands::{CommandState, reason, send, step_index};
use super::input::{self, Path};
use super::problem::{ApiError, Problem};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReassignBody {
    /// The step, by its id.
    step: String,
    #[serde(default)]
    instance: u32,
    /// Whom it is put to now: `manager`, `role:security`, `person:E10044`.
    from: String,
    /// Whom it is put to from now on.
    to: String,
    /// Why; it stands in the evidence.
    reason: String,
}

/// Put a question or a task to somebody else
///
/// Its time runs on, and whoever has approved already has approved.
#[utoipa::path(
    post, path = "/v1/cases/{id}/reassign", tag = "cases", security(("token" = ["operate"])), params(("id" = Uuid, Path)),
    request_body = ReassignBody,
    responses((status = 200, body = CommandState), (status = 202, body = CommandState), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(super) async fn post(
    State(api): Shares,
    caller: Caller,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
    input::Json(body): input::Json<ReassignBody>,
) -> Result<Response, ApiError> {
    let by = caller.require(Role::Operate)?.clone();
    let case = CaseId(id);
    let shard = shard_of(&api, case).await?;
    let (step, definition) = step_index(&api, case, &body.step).await?;
    let to = input::text("/to", body.to)?;
    if to.trim().is_empty() {
        return Err(ApiError::wrong("/to", "is empty; say who is asked"));
    }
    let command = Command::Reassign {
        place: Place::new(step, body.instance),
        from: input::text("/from", body.from)?,
        to,
        by,
        reason: reason(body.reason)?,
    };
    send(&api, &headers, case, shard, Some(definition), command).await
}
