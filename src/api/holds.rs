//! `/v1/identities/{key}/holds`: what must not be destroyed, and who says so.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use utoipa::ToSchema;
use workflows::directory::{HoldRow, NewHold};

use super::Shares;
use super::auth::{Caller, Role};
use super::input::{self, Path};
use super::problem::{ApiError, Problem};
use crate::shell::holds::{self, HoldError};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HoldBody {
    /// Names the hold among those of the person: a matter, a file number.
    hold: String,
    /// Why; it stands in the record for ever.
    reason: String,
    /// Ends by itself at this moment; without it somebody has to release it.
    #[serde(default)]
    until: Option<DateTime<Utc>>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleaseBody {
    /// Why; it stands in the record for ever.
    reason: String,
}

impl From<HoldError> for ApiError {
    fn from(error: HoldError) -> Self {
        match error {
            HoldError::Unknown(_) => Self::NotFound("nobody of that key is known".to_owned()),
            HoldError::NoSuch { .. } => Self::NotFound(error.to_string()),
            HoldError::Taken { .. } => Self::Conflict(error.to_string()),
            HoldError::Invalid(what) => Self::wrong("", what),
            HoldError::Other(error) => Self::Internal(error),
        }
    }
}

/// The legal holds on a person, those too that are released
#[utoipa::path(
    get, path = "/v1/identities/{key}/holds", tag = "identities", security(("token" = ["read"])),
    params(("key" = String, Path)),
    responses((status = 200, body = Vec<Object>), (status = 404, body = Problem))
)]
pub(super) async fn list(
    State(api): Shares,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<Json<Vec<HoldRow>>, ApiError> {
    caller.require(Role::Read)?;
    if api.database.directory.holdings(&key).await?.is_none() {
        return Err(HoldError::Unknown(key).into());
    }
    Ok(Json(api.database.directory.holds_of(&key).await?))
}

/// Place a legal hold: nothing of the person is destroyed while it stands
#[utoipa::path(
    post, path = "/v1/identities/{key}/holds", tag = "identities", security(("token" = ["operate"])),
    params(("key" = String, Path)), request_body = HoldBody,
    responses((status = 201, body = Object), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem))
)]
pub(super) async fn place(
    State(api): Shares,
    caller: Caller,
    Path(key): Path<String>,
    input::Json(body): input::Json<HoldBody>,
) -> Result<(StatusCode, Json<HoldRow>), ApiError> {
    let by = caller.require(Role::Operate)?.clone();
    let new = NewHold {
        key,
        hold: input::text("/hold", body.hold)?,
        reason: input::text("/reason", body.reason)?,
        until: body.until,
    };
    let row = holds::place(&api.database, &new, &by, api.clock.now()).await?;
    Ok((StatusCode::CREATED, Json(row)))
}

/// Release a legal hold: what waited for it goes on
#[utoipa::path(
    post, path = "/v1/identities/{key}/holds/{hold}/release", tag = "identities", security(("token" = ["approve"])),
    params(("key" = String, Path), ("hold" = String, Path)), request_body = ReleaseBody,
    responses((status = 200, body = Object), (status = 404, body = Problem), (status = 422, body = Problem))
)]
pub(super) async fn release(
    State(api): Shares,
    caller: Caller,
    Path((key, hold)): Path<(String, String)>,
    input::Json(body): input::Json<ReleaseBody>,
) -> Result<Json<HoldRow>, ApiError> {
    let by = caller.require(Role::Approve)?.clone();
    let reason = input::text("/reason", body.reason)?;
    let row = holds::release(&api.database, &key, &hold, &reason, &by, api.clock.now()).await?;
    api.nudge.notify_one();
    Ok(Json(row))
}
