//! `/v1/approvals`: questions put to people.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use engine::core::case::Ask;
use engine::core::id::{CaseId, Place, StepIndex};
use engine::runner::Command;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::Shares;
use super::asking::{self, Open};
use super::auth::{Caller, Role};
use super::cases::shard_of;
use super::commands::{CommandState, send};
use super::input::{self, Page, Parameters, Path};
use super::problem::{ApiError, Problem};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct OpenParameters {
    /// 1 to 500.
    #[serde(default)]
    pub(super) limit: Option<u32>,
    #[serde(default)]
    pub(super) cursor: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    approve: bool,
    /// Stands in the history.
    #[serde(default)]
    note: String,
}

/// Open approvals
#[utoipa::path(
    get, path = "/v1/approvals", tag = "approvals", security(("token" = ["read"])), params(OpenParameters),
    responses((status = 200, body = Page<Open>))
)]
pub(super) async fn list(
    State(api): Shares,
    caller: Caller,
    Parameters(parameters): Parameters<OpenParameters>,
) -> Result<Json<Page<Open>>, ApiError> {
    caller.require(Role::Read)?;
    let wanted = |ask: &Ask| matches!(ask, Ask::Approval { .. });
    Ok(Json(
        asking::page(&api, parameters.limit, parameters.cursor.as_deref(), wanted).await?,
    ))
}

/// Answer an approval
#[utoipa::path(
    post, path = "/v1/approvals/{case}/{step}/{instance}", tag = "approvals", security(("token" = ["approve"])),
    params(("case" = Uuid, Path), ("step" = u16, Path), ("instance" = u32, Path)), request_body = Answer,
    responses((status = 200, body = CommandState), (status = 202, body = CommandState), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(super) async fn answer(
    State(api): Shares,
    caller: Caller,
    Path((case, step, instance)): Path<(Uuid, u16, u32)>,
    headers: HeaderMap,
    input::Json(answer): input::Json<Answer>,
) -> Result<Response, ApiError> {
    let by = caller.require(Role::Approve)?.clone();
    let shard = shard_of(&api, CaseId(case)).await?;
    let command = Command::Answer {
        place: Place::new(StepIndex(step), instance),
        by,
        approve: answer.approve,
        note: input::text("/note", answer.note)?,
    };
    send(&api, &headers, CaseId(case), shard, None, command).await
}
