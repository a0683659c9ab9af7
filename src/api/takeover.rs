//! `/v1/systems/{system}/wave`: accounts that were there before, and whose they are.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use workflows::intake::{WaveEffects, WaveReport};
use workflows::takeover::{
    TakeoverError, WAVE_ACCOUNTS_DEFAULT, Wave, WaveFilter, wave as find_wave,
};

use super::auth::{Caller, Role};
use super::commands::reason;
use super::input::{self, Parameters, Path};
use super::problem::{ApiError, Problem};
use super::{Api, Shares};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WaveParameters {
    /// Only people with this attribute, as `department=Sales`; several with commas between.
    #[serde(default, rename = "where")]
    with: Option<String>,
    /// Those of people who are not there, too: adopting them closes them.
    #[serde(default)]
    left: bool,
    /// How many accounts the wave holds at most; 100 without it.
    #[serde(default)]
    at_most: Option<usize>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AdoptBody {
    /// The wave as it was shown.
    exactly: String,
    /// Why: it stands in the record.
    reason: String,
}

impl From<TakeoverError> for ApiError {
    fn from(error: TakeoverError) -> Self {
        match error {
            TakeoverError::Store(error) => error.into(),
            error => Self::Conflict(error.to_string()),
        }
    }
}

async fn look(api: &Api, system: &str, parameters: WaveParameters) -> Result<Wave, ApiError> {
    let system = api.systems.get(system);
    let system =
        system.ok_or_else(|| ApiError::NotFound("there is no system of that name".to_owned()))?;
    let mut filter = WaveFilter {
        left: parameters.left,
        ..WaveFilter::default()
    };
    for pair in parameters.with.iter().flat_map(|with| with.split(',')) {
        let Some((name, value)) = pair.split_once('=') else {
            return Err(ApiError::wrong("where", "is not `attribute=value`"));
        };
        filter.with.insert(name.to_owned(), value.to_owned());
    }
    let rules = api.intake.correlation();
    let shown = find_wave(&api.database.directory, system, rules, &filter).await?;
    Ok(shown.first(parameters.at_most.unwrap_or(WAVE_ACCOUNTS_DEFAULT)))
}

/// A wave, what would become of its people, and why the guard would stop it.
#[derive(Debug, Serialize)]
pub struct ShownWave {
    #[serde(flatten)]
    wave: Wave,
    #[serde(flatten)]
    effects: WaveEffects,
}

/// What a wave would adopt on a system, and what would become of people
///
/// Reads every account of the system and changes nothing there. `stopped_by` says why a person would have to decide.
#[utoipa::path(
    get, path = "/v1/systems/{system}/wave", tag = "systems", security(("token" = ["operate"])),
    params(("system" = String, Path), WaveParameters),
    responses((status = 200, body = Object), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(super) async fn get(
    State(api): Shares,
    caller: Caller,
    Path(system): Path<String>,
    Parameters(parameters): Parameters<WaveParameters>,
) -> Result<Json<ShownWave>, ApiError> {
    caller.require(Role::Operate)?;
    let wave = look(&api, &system, parameters).await?;
    let effects = api.intake.wave_effects(&wave, api.clock.now()).await?;
    Ok(Json(ShownWave { wave, effects }))
}

/// Adopt exactly the accounts of a wave that was shown
///
/// With the parameters it was shown with. When anything is otherwise by now, nothing is done, and the answer is a conflict.
/// What the guard stops is accepted (202) and waits: `difference_id` is what `POST /v1/imports/{id}/approve` and `/reject` take.
#[utoipa::path(
    post, path = "/v1/systems/{system}/wave", tag = "systems", security(("token" = ["approve"])),
    params(("system" = String, Path), WaveParameters), request_body = AdoptBody,
    responses(
        (status = 200, body = Object), (status = 202, body = Object), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 422, body = Problem)
    )
)]
pub(super) async fn post(
    State(api): Shares,
    caller: Caller,
    Path(system): Path<String>,
    Parameters(parameters): Parameters<WaveParameters>,
    input::Json(body): input::Json<AdoptBody>,
) -> Result<(StatusCode, Json<WaveReport>), ApiError> {
    let by = caller.require(Role::Approve)?;
    let reason = reason(body.reason)?;
    let shown = look(&api, &system, parameters).await?;
    if shown.id != body.exactly {
        return Err(ApiError::Conflict(format!(
            "the wave is `{}` by now; look at it again",
            shown.id
        )));
    }
    let report = api
        .intake
        .adopt(&shown, by, &reason, api.clock.now())
        .await?;
    api.nudge.notify_one();
    let status = if report.difference_id.is_some() {
        StatusCode::ACCEPTED
    } else {
        StatusCode::OK
    };
    Ok((status, Json(report)))
}
