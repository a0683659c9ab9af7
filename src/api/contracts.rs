//! `/v1/identities/{key}/contract`: asking for a contract to end later.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;
use workflows::intake::{ExtendError, Extension, ExtensionAsked};

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
    /// Why; whoever decides reads it, and it stands in the event.
    reason: String,
}

/// An end that is to move.
#[derive(Debug, Serialize, ToSchema)]
pub struct ExtensionView {
    pub identity: String,
    pub contract: Option<String>,
    /// The end that stands.
    pub from: DateTime<Utc>,
    /// The end that is asked for.
    pub to: DateTime<Utc>,
    /// IANA zone in which that is the end of a day.
    pub zone: String,
    /// Whether it ends then already; nothing was asked.
    pub unchanged: bool,
    /// The case in which it is decided; its question is among the approvals.
    pub case: Option<Uuid>,
    /// Who is asked.
    pub ask: Option<String>,
}

/// Ask for a contract to end later
///
/// Somebody else than the caller has to approve.
#[utoipa::path(
    post, path = "/v1/identities/{key}/contract", tag = "identities", security(("token" = ["operate"])),
    params(("key" = String, Path)), request_body = ExtendBody,
    responses((status = 200, body = ExtensionView), (status = 202, body = ExtensionView), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem))
)]
pub(super) async fn extend(
    State(api): Shares,
    caller: Caller,
    Path(key): Path<String>,
    input::Json(body): input::Json<ExtendBody>,
) -> Result<Response, ApiError> {
    let by = caller.require(Role::Operate)?.clone();
    if body.reason.trim().is_empty() {
        return Err(ApiError::wrong(
            "/reason",
            "is empty; say why, whoever decides reads it",
        ));
    }
    let reason = input::text("/reason", body.reason)?;
    let contract = body
        .contract
        .map(|contract| input::text("/contract", contract));
    let contract = contract.transpose()?;
    let extension = Extension {
        key: &key,
        contract: contract.as_deref(),
        ends: None,
        until: body.until,
    };
    let now = api.clock.now();
    let asked = api
        .intake
        .ask_for_extension(&extension, &reason, &by, now)
        .await
        .map_err(refused)?;
    api.nudge.notify_one();
    let ExtensionAsked {
        extended,
        case,
        ask,
    } = asked;
    let status = if case.is_some() {
        StatusCode::ACCEPTED
    } else {
        StatusCode::OK
    };
    let view = ExtensionView {
        identity: extended.identity_key,
        contract: extended.contract,
        from: extended.from,
        to: extended.to,
        zone: extended.zone,
        unchanged: extended.unchanged,
        case: case.map(|case| case.0),
        ask,
    };
    Ok((status, Json(view)).into_response())
}

fn refused(error: ExtendError) -> ApiError {
    match error {
        ExtendError::Unknown(_) => ApiError::NotFound(error.to_string()),
        ExtendError::NoRules
        | ExtendError::Several { .. }
        | ExtendError::NoSuchContract { .. }
        | ExtendError::LinkUsed
        | ExtendError::Refused(_) => ApiError::Conflict(error.to_string()),
        ExtendError::Intake(error) => error.into(),
    }
}
