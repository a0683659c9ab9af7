//! `/v1/tasks`: work that people do by hand.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use engine::core::case::Ask;
use engine::core::id::{CaseId, Place, StepIndex};
use engine::runner::Command;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Shares;
use super::approvals::OpenParameters;
use super::asking::{self, Open};
use super::auth::{Caller, Role};
use super::cases::shard_of;
use super::commands::{CommandState, send};
use super::input::{self, Page, Parameters, Path};
use super::problem::{ApiError, Problem};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Completion {
    /// What was seen, or where it is recorded. Some tasks cannot be finished without.
    #[serde(default)]
    proof: String,
    /// What later steps may read of it.
    #[serde(default)]
    #[schema(value_type = Object)]
    output: Value,
}

/// Open tasks
#[utoipa::path(
    get, path = "/v1/tasks", tag = "tasks", security(("token" = ["read"])), params(OpenParameters),
    responses((status = 200, body = Page<Open>))
)]
pub(super) async fn list(
    State(api): Shares,
    caller: Caller,
    Parameters(parameters): Parameters<OpenParameters>,
) -> Result<Json<Page<Open>>, ApiError> {
    caller.require(Role::Read)?;
    let wanted = |ask: &Ask| matches!(ask, Ask::Task { .. });
    Ok(Json(
        asking::page(&api, parameters.limit, parameters.cursor.as_deref(), wanted).await?,
    ))
}

/// Finish a task
#[utoipa::path(
    post, path = "/v1/tasks/{case}/{step}/{instance}/complete", tag = "tasks", security(("token" = ["operate"])),
    params(("case" = Uuid, Path), ("step" = u16, Path), ("instance" = u32, Path)), request_body = Completion,
    responses((status = 200, body = CommandState), (status = 202, body = CommandState), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(super) async fn complete(
    State(api): Shares,
    caller: Caller,
    Path((case, step, instance)): Path<(Uuid, u16, u32)>,
    headers: HeaderMap,
    input::Json(completion): input::Json<Completion>,
) -> Result<Response, ApiError> {
    let by = caller.require(Role::Operate)?.clone();
    let shard = shard_of(&api, CaseId(case)).await?;
    let command = Command::TaskDone {
        place: Place::new(StepIndex(step), instance),
        by,
        proof: input::text("/proof", completion.proof)?,
        output: input::value("/output", completion.output)?,
    };
    send(&api, &headers, CaseId(case), shard, None, command).await
}
