//! `/v1/rotations`: how far the replacement of each credential is, what begins next, beginning one and taking it back.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Datelike as _, Utc};
use engine::core::Timestamp;
use engine::core::id::CaseId;
use engine::runner::Command;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;
use workflows::directory::{Granted, NotBegun, RotationFilter, RotationRow};
use workflows::rotation::{Exposed, Phase};

use super::auth::{Caller, Role};
use super::commands::{CommandState, ReasonBody, reason, send};
use super::input::{self, Page, Parameters, Path};
use super::problem::{ApiError, Problem};
use super::{Api, Shares};
use crate::shell::rotations::{NotBack, RotationView, case_to_undo, whole};

/// What stands between the parts of a cursor of the plan; no time has it.
const CURSOR_MARK: char = '/';

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListParameters {
    /// Only those of credentials of this system.
    system: Option<String>,
    /// Only those of this non-human identity.
    nhi: Option<String>,
    /// Only those that are under way.
    #[serde(default)]
    open: bool,
    /// Only those that have reached this phase last: `overlap`, `irrevocable`, ...
    #[param(value_type = Option<String>)]
    phase: Option<Phase>,
    /// `next` of the page before.
    cursor: Option<String>,
    /// 1 to 500.
    limit: Option<u32>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PlanParameters {
    /// What begins by this moment.
    until: DateTime<Utc>,
    /// `next` of the page before.
    cursor: Option<String>,
    /// 1 to 500.
    limit: Option<u32>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RunBody {
    /// Why; it stands in the evidence.
    reason: String,
    /// Strangers know it: no approval, no overlap, no soak, and a rotation that is under way ends for it.
    #[serde(default)]
    compromised: bool,
    /// With `compromised`, while it is being replaced: the `old` one, the `new` one, or `both`, which is meant without it.
    #[schema(value_type = Option<String>)]
    which: Option<Exposed>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Begun {
    /// `system/id`.
    name: String,
    /// The case that replaces it.
    case: Uuid,
    /// Whether it begins now. Else it was under way already, and the compromise is kept with it.
    begins: bool,
}

impl From<NotBegun> for ApiError {
    fn from(error: NotBegun) -> Self {
        match error {
            NotBegun::NotDeclared(_) => Self::NotFound(error.to_string()),
            NotBegun::UnderWay { .. } | NotBegun::NoWorkflow(_) => {
                Self::Conflict(error.to_string())
            }
        }
    }
}

impl From<NotBack> for ApiError {
    fn from(error: NotBack) -> Self {
        Self::Conflict(error.to_string())
    }
}

/// How far the replacement of each credential is, by its name
#[utoipa::path(
    get, path = "/v1/rotations", tag = "rotations", security(("token" = ["read"])), params(ListParameters),
    responses((status = 200, body = Object), (status = 422, body = Problem))
)]
pub(super) async fn list(
    State(api): Shares,
    caller: Caller,
    Parameters(parameters): Parameters<ListParameters>,
) -> Result<Json<Page<RotationRow>>, ApiError> {
    caller.require(Role::Read)?;
    let limit = input::limit(parameters.limit)?;
    let after = input::cursor(parameters.cursor.as_deref(), |name| {
        is_storable(name).then(|| name.to_owned())
    })?;
    for (field, said) in [("system", &parameters.system), ("nhi", &parameters.nhi)] {
        if !said.as_deref().is_none_or(is_storable) {
            return Err(ApiError::wrong(field, "holds U+0000, which no name does"));
        }
    }
    let filter = RotationFilter {
        system: parameters.system,
        nhi: parameters.nhi,
        open_only: parameters.open,
        phase: parameters.phase,
    };
    let directory = &api.database.directory;
    let found = directory
        .rotations(&filter, after.as_deref(), limit + 1)
        .await?;
    Ok(Json(page(found, limit, |last| last.name.clone())))
}

/// What begins next, in the order of the time
///
/// Jitter and places in windows are drawn once and kept, so the times stay. What was declared a moment ago is planned by the
/// next look of a node.
#[utoipa::path(
    get, path = "/v1/rotations/plan", tag = "rotations", security(("token" = ["read"])), params(PlanParameters),
    responses((status = 200, body = Object), (status = 422, body = Problem))
)]
pub(super) async fn plan(
    State(api): Shares,
    caller: Caller,
    Parameters(parameters): Parameters<PlanParameters>,
) -> Result<Json<Page<RotationRow>>, ApiError> {
    caller.require(Role::Read)?;
    let limit = input::limit(parameters.limit)?;
    if !is_time(parameters.until) {
        return Err(ApiError::wrong(
            "until",
            "is no time of the years 1 to 9999",
        ));
    }
    let after = input::cursor(parameters.cursor.as_deref(), |text| {
        let (at, name) = text.split_once(CURSOR_MARK)?;
        let at = Timestamp::from_timestamp_micros(at.parse().ok()?)?;
        (is_time(at) && is_storable(name)).then(|| (at, name.to_owned()))
    })?;
    let after = after.as_ref().map(|(at, name)| (*at, name.as_str()));
    let directory = &api.database.directory;
    let found = directory
        .rotations_upcoming(parameters.until, after, limit + 1)
        .await?;
    Ok(Json(page(found, limit, |last| {
        let at = last.starts_at.map_or(0, |at| at.timestamp_micros());
        format!("{at}{CURSOR_MARK}{}", last.name)
    })))
}

/// No database here keeps U+0000 in a text.
fn is_storable(text: &str) -> bool {
    !text.contains('\0')
}

fn is_time(at: DateTime<Utc>) -> bool {
    (1..=9_999).contains(&at.year())
}

fn page(
    mut items: Vec<RotationRow>,
    limit: u32,
    cursor: impl Fn(&RotationRow) -> String,
) -> Page<RotationRow> {
    let more = items.len() > limit as usize;
    items.truncate(limit as usize);
    let next = items.last().filter(|_| more).map(cursor);
    let next = next.map(|text| input::cursor_text(&text));
    Page { items, next }
}

/// The name of a credential, as a path says it.
fn name(system: &str, id: &str) -> Result<String, ApiError> {
    let name = format!("{system}/{id}");
    if is_storable(&name) {
        Ok(name)
    } else {
        Err(NotBegun::NotDeclared(name).into())
    }
}

async fn named(api: &Api, system: &str, id: &str) -> Result<RotationRow, ApiError> {
    let name = name(system, id)?;
    let found = api.database.directory.rotation(&name).await?;
    found.ok_or_else(|| NotBegun::NotDeclared(name).into())
}

/// One rotation: its phase, what keeps it, how long both work and what decided that, and what its case did
///
/// `{system}/{id}` is the name of the credential; a `/` in `{id}` is written `%2F`.
#[utoipa::path(
    get, path = "/v1/rotations/{system}/{id}", tag = "rotations", security(("token" = ["read"])),
    params(("system" = String, Path), ("id" = String, Path)),
    responses((status = 200, body = Object), (status = 404, body = Problem))
)]
pub(super) async fn get(
    State(api): Shares,
    caller: Caller,
    Path((system, id)): Path<(String, String)>,
) -> Result<Json<RotationView>, ApiError> {
    caller.require(Role::Read)?;
    let row = named(&api, &system, &id).await?;
    Ok(Json(whole(&api.database, row).await))
}

/// Replace a credential now, whatever is planned
#[utoipa::path(
    post, path = "/v1/rotations/{system}/{id}/run", tag = "rotations", security(("token" = ["operate"])),
    params(("system" = String, Path), ("id" = String, Path)), request_body = RunBody,
    responses((status = 202, body = Begun, description = "It begins; `Location` is its case"),
        (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem))
)]
pub(super) async fn run(
    State(api): Shares,
    caller: Caller,
    Path((system, id)): Path<(String, String)>,
    input::Json(body): input::Json<RunBody>,
) -> Result<Response, ApiError> {
    let by = caller.require(Role::Operate)?;
    let reason = reason(body.reason)?;
    let name = name(&system, &id)?;
    if body.which.is_some() && !body.compromised {
        return Err(ApiError::wrong(
            "which",
            "says which of two strangers know; say `compromised` too, or leave it out",
        ));
    }
    let exposed = (body.compromised).then(|| body.which.unwrap_or(Exposed::Both));
    let asked = (api.database.directory)
        .ask_rotation(&name, exposed, by, &reason, api.clock.now())
        .await?;
    let Granted { case, begins } = asked?;
    api.nudge.notify_one();
    let begun = Begun {
        name,
        case: case.0,
        begins,
    };
    let mut response = (StatusCode::ACCEPTED, Json(begun)).into_response();
    if let Ok(location) = HeaderValue::try_from(format!("/v1/cases/{case}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Take a rotation back that is under way, last first
#[utoipa::path(
    post, path = "/v1/rotations/{system}/{id}/rollback", tag = "rotations", security(("token" = ["operate"])),
    params(("system" = String, Path), ("id" = String, Path)), request_body = ReasonBody,
    responses((status = 200, body = CommandState), (status = 202, body = CommandState), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 422, body = Problem))
)]
pub(super) async fn rollback(
    State(api): Shares,
    caller: Caller,
    Path((system, id)): Path<(String, String)>,
    headers: HeaderMap,
    input::Json(body): input::Json<ReasonBody>,
) -> Result<Response, ApiError> {
    let by = caller.require(Role::Operate)?.clone();
    let reason = reason(body.reason)?;
    let row = named(&api, &system, &id).await?;
    let case = case_to_undo(&row)?;
    let not_begun = || {
        ApiError::Conflict(format!(
            "`{}` is about to begin, and no node has taken its case in yet; try again in a moment",
            row.name
        ))
    };
    let case = CaseId(case.parse::<Uuid>().map_err(|_| not_begun())?);
    let shard = api.database.store.locate(case).await?;
    let shard = shard.ok_or_else(not_begun)?;
    let command = Command::Undo { by, reason };
    send(&api, &headers, case, shard, None, command).await
}
