//! `/v1/correlation/reviews`: questions about who somebody is.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use workflows::directory::{ReviewFilter, ReviewRow};
use workflows::intake::ReviewReport;
use workflows::takeover::{CollisionReport, collisions as find_collisions};

use super::Shares;
use super::auth::{Caller, Role};
use super::commands::reason;
use super::input::{self, Page, Parameters, Path};
use super::problem::{ApiError, Problem};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListParameters {
    /// Those that are decided, too.
    #[serde(default)]
    decided: bool,
    /// 1 to 500.
    #[serde(default)]
    limit: Option<u32>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LinkBody {
    /// Which of the candidates it is.
    key: String,
    /// Why: it stands in the record of the decision.
    reason: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SeparateBody {
    /// Why: it stands in the record of the decision.
    reason: String,
}

/// Questions that wait for a person, the oldest first
#[utoipa::path(
    get, path = "/v1/correlation/reviews", tag = "correlation", security(("token" = ["read"])), params(ListParameters),
    responses((status = 200, body = Object), (status = 422, body = Problem))
)]
pub(super) async fn list(
    State(api): Shares,
    caller: Caller,
    Parameters(parameters): Parameters<ListParameters>,
) -> Result<Json<Page<ReviewRow>>, ApiError> {
    caller.require(Role::Read)?;
    let limit = input::limit(parameters.limit)?;
    let filter = ReviewFilter {
        decided: parameters.decided,
        id: None,
    };
    let items = api.database.directory.reviews(&filter, limit).await?;
    Ok(Json(Page { items, next: None }))
}

/// One question, with the score of each candidate rule by rule
#[utoipa::path(
    get, path = "/v1/correlation/reviews/{id}", tag = "correlation", security(("token" = ["read"])),
    params(("id" = String, Path)),
    responses((status = 200, body = Object), (status = 404, body = Problem))
)]
pub(super) async fn get(
    State(api): Shares,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<ReviewRow>, ApiError> {
    caller.require(Role::Read)?;
    Ok(Json(api.intake.review(&id).await?))
}

/// Decide that the new key is one of the candidates
#[utoipa::path(
    post, path = "/v1/correlation/reviews/{id}/link", tag = "correlation", security(("token" = ["approve"])),
    params(("id" = String, Path)), request_body = LinkBody,
    responses((status = 202, body = Object), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem))
)]
pub(super) async fn link(
    State(api): Shares,
    caller: Caller,
    Path(id): Path<String>,
    input::Json(body): input::Json<LinkBody>,
) -> Result<(StatusCode, Json<ReviewReport>), ApiError> {
    let by = caller.require(Role::Approve)?;
    let key = input::text("/key", body.key)?;
    let reason = reason(body.reason)?;
    let now = api.clock.now();
    let report = api.intake.link(&id, &key, by, &reason, now).await?;
    api.nudge.notify_one();
    Ok((StatusCode::ACCEPTED, Json(report)))
}

/// Decide that the new key is none of them; it is never asked again
#[utoipa::path(
    post, path = "/v1/correlation/reviews/{id}/separate", tag = "correlation", security(("token" = ["approve"])),
    params(("id" = String, Path)), request_body = SeparateBody,
    responses((status = 200, body = Object), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem))
)]
pub(super) async fn separate(
    State(api): Shares,
    caller: Caller,
    Path(id): Path<String>,
    input::Json(body): input::Json<SeparateBody>,
) -> Result<Json<ReviewReport>, ApiError> {
    let by = caller.require(Role::Approve)?;
    let reason = reason(body.reason)?;
    let report = api
        .intake
        .separate(&id, by, &reason, api.clock.now())
        .await?;
    api.nudge.notify_one();
    Ok(Json(report))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CollisionParameters {
    /// The system, by its name in the configuration.
    system: String,
}

/// Names and addresses that policy would give on a system and that somebody has already
///
/// Reads every account of the system and changes nothing there.
#[utoipa::path(
    get, path = "/v1/correlation/collisions", tag = "correlation", security(("token" = ["operate"])),
    params(CollisionParameters),
    responses((status = 200, body = Object), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(super) async fn collisions(
    State(api): Shares,
    caller: Caller,
    Parameters(parameters): Parameters<CollisionParameters>,
) -> Result<Json<CollisionReport>, ApiError> {
    caller.require(Role::Operate)?;
    let system = api.systems.get(&parameters.system);
    let system =
        system.ok_or_else(|| ApiError::NotFound("there is no system of that name".to_owned()))?;
    let found = find_collisions(&api.database.directory, system, &api.policy).await?;
    Ok(Json(found))
}
