//! `/v1/identities/{key}/merge` and `/split`: two keys are one person, or are not.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;
use workflows::directory::MergeRow;
use workflows::intake::MergeReport;

use super::Shares;
use super::auth::{Caller, Role};
use super::commands::reason;
use super::input::{self, Path};
use super::problem::{ApiError, Problem};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MergeBody {
    /// The key that is the same person, and stands under the one in the path from now on.
    absorbed: String,
    /// Why: it stands in the record of the merge.
    reason: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SplitBody {
    /// Why: it stands in the record of the merge.
    reason: String,
}

/// Say that another key is the same person
///
/// Keys, timeline and attributes are united at once. Accounts and rights follow when what both have at work has ended.
#[utoipa::path(
    post, path = "/v1/identities/{key}/merge", tag = "identities", security(("token" = ["approve"])),
    params(("key" = String, Path)), request_body = MergeBody,
    responses((status = 202, body = Object), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem))
)]
pub(super) async fn merge(
    State(api): Shares,
    caller: Caller,
    Path(key): Path<String>,
    input::Json(body): input::Json<MergeBody>,
) -> Result<(StatusCode, Json<MergeReport>), ApiError> {
    let by = caller.require(Role::Approve)?;
    let absorbed = input::text("/absorbed", body.absorbed)?;
    let reason = reason(body.reason)?;
    let now = api.clock.now();
    let report = api.intake.merge(&key, &absorbed, by, &reason, now).await?;
    api.nudge.notify_one();
    Ok((StatusCode::ACCEPTED, Json(report)))
}

/// Say that a key is somebody else than the person it was merged into
///
/// The accounts and rights that it brought along go back.
#[utoipa::path(
    post, path = "/v1/identities/{key}/split", tag = "identities", security(("token" = ["approve"])),
    params(("key" = String, Path)), request_body = SplitBody,
    responses((status = 202, body = Object), (status = 409, body = Problem), (status = 422, body = Problem))
)]
pub(super) async fn split(
    State(api): Shares,
    caller: Caller,
    Path(key): Path<String>,
    input::Json(body): input::Json<SplitBody>,
) -> Result<(StatusCode, Json<MergeReport>), ApiError> {
    let by = caller.require(Role::Approve)?;
    let reason = reason(body.reason)?;
    let report = api.intake.split(&key, by, &reason, api.clock.now()).await?;
    api.nudge.notify_one();
    Ok((StatusCode::ACCEPTED, Json(report)))
}

/// The merges of a key, as the one that was absorbed and as the survivor, newest first
#[utoipa::path(
    get, path = "/v1/identities/{key}/merges", tag = "identities", security(("token" = ["read"])),
    params(("key" = String, Path)), responses((status = 200, body = [Object]))
)]
pub(super) async fn list(
    State(api): Shares,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<Json<Vec<MergeRow>>, ApiError> {
    caller.require(Role::Read)?;
    Ok(Json(api.database.directory.merges(&key).await?))
}
