//! `/v1/identities/{key}/contract`: the end of a contract.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use workflows::intake::ExtendError;

use super::Shares;
use super::auth::{Caller, Role};
use super::input::{self, Path};
use super::problem::{ApiError, Problem};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExtendBody {
    /// The last day, which ends in the zone of the contract.
    until: NaiveDate,
    /// Which contract, for somebody who has several.
    #[serde(default)]
    contract: Option<String>,
    /// Why; stands in the event.
    reason: String,
}

/// An end that was moved.
#[derive(Debug, Serialize, ToSchema)]
pub struct ExtendedView {
    pub identity: String,
    pub contract: Option<String>,
    /// The end that stood.
    pub from: DateTime<Utc>,
    /// The end from now on.
    pub to: DateTime<Utc>,
    /// IANA zone in which that is the end of a day.
    pub zone: String,
    /// Whether it was so before.
    pub unchanged: bool,
}

/// Move the end of a contract to a later day
#[utoipa::path(
    post, path = "/v1/identities/{key}/contract", tag = "identities", security(("token" = ["approve"])),
    params(("key" = String, Path)), request_body = ExtendBody,
    responses((status = 200, body = ExtendedView), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem))
)]
pub(super) async fn extend(
    State(api): Shares,
    caller: Caller,
    Path(key): Path<String>,
    input::Json(body): input::Json<ExtendBody>,
) -> Result<Json<ExtendedView>, ApiError> {
    let by = caller.require(Role::Approve)?.clone();
    if body.reason.trim().is_empty() {
        return Err(ApiError::wrong(
            "/reason",
            "is empty; say why, it stands in the event",
        ));
    }
    let reason = input::text("/reason", body.reason)?;
    let contract = body
        .contract
        .map(|contract| input::text("/contract", contract));
    let contract = contract.transpose()?;
    let now = api.clock.now();
    let extended = api
        .intake
        .extend_contract(&key, contract.as_deref(), body.until, &reason, &by, now)
        .await
        .map_err(refused)?;
    api.nudge.notify_one();
    api.event_nudge.notify_one();
    Ok(Json(ExtendedView {
        identity: extended.identity_key,
        contract: extended.contract,
        from: extended.from,
        to: extended.to,
        zone: extended.zone,
        unchanged: extended.unchanged,
    }))
}

fn refused(error: ExtendError) -> ApiError {
    match error {
        ExtendError::Unknown(_) => ApiError::NotFound(error.to_string()),
        ExtendError::NoRules
        | ExtendError::Several { .. }
        | ExtendError::NoSuchContract { .. }
        | ExtendError::Refused(_) => ApiError::Conflict(error.to_string()),
        ExtendError::Intake(error) => error.into(),
    }
}
