//! `/v1/schedules`: what starts cases by the clock.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use engine::core::definition::Lane;
use engine::core::duration::Span;
use engine::core::id::{Actor, ShardId, Subject};
use engine::core::schedule::{
    self, BACKFILL_MAX, CATCH_UP_DEFAULT, Origin, Overlap, Schedule, Spec,
};
use engine::runner::{Message, ScheduleCommand};
use engine::store::{ReplyRow, ScheduleRow};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::auth::{Caller, Role};
use super::commands::{command_id, wait};
use super::input::{self, Page, Parameters, Path};
use super::problem::{ApiError, Mistake, Problem};
use super::{Api, Shares};
use crate::shell::schedules::{self as shell, BackfillView, ScheduleDetail, ScheduleView};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListParameters {
    /// 1 to 500.
    #[serde(default)]
    limit: Option<u32>,
    #[serde(default)]
    cursor: Option<String>,
}

/// A schedule, as in a file of the configuration; its name stands in the path.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScheduleBody {
    workflow: String,
    /// As in a crontab: `30 2 * * MON-FRI`; six fields begin with the second.
    cron: String,
    /// An IANA time zone.
    zone: String,
    subject: String,
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    input: Value,
    /// A length like `5m`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    jitter: Option<Span>,
    /// `skip`, `queue_one`, `queue_all`, `cancel_running`, `terminate_running` or `allow`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    overlap: Overlap,
    /// A length like `2h`; `24h` without it.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    catch_up: Option<Span>,
    #[serde(default)]
    description: String,
    /// Stands in the history.
    #[serde(default)]
    reason: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReasonBody {
    /// Why; stands in the history and, as a digest, in the evidence.
    reason: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackfillBody {
    /// The first fire time that is wanted, or any moment before it.
    from: DateTime<Utc>,
    /// The last fire time that is wanted, or any moment after it; not in the future.
    to: DateTime<Utc>,
    /// Why; stands in the history and, as a digest, in the evidence.
    reason: String,
    /// Only say what would run.
    #[serde(default)]
    preview: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ScheduleAnswer {
    pub id: Uuid,
    pub schedule: String,
    /// `pending` or `accepted`.
    pub state: &'static str,
    /// What follows: the case of a run, how many runs a backfill has.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

async fn found(api: &Api, name: &str) -> Result<ScheduleRow, ApiError> {
    let row = shell::find(&*api.database.store, name).await?;
    row.ok_or_else(|| ApiError::NotFound(format!("there is no schedule `{name}`")))
}

fn reason(given: String) -> Result<String, ApiError> {
    if given.trim().is_empty() {
        return Err(ApiError::wrong(
            "/reason",
            "is empty; say why, it stands in the history",
        ));
    }
    input::text("/reason", given)
}

/// Sends a command to the owner of the schedule: 200 when it was carried out, 202 while it is on its way.
async fn send(
    api: &Api,
    headers: &HeaderMap,
    name: &str,
    command: ScheduleCommand,
) -> Result<Response, ApiError> {
    let id = command_id(headers, &format!("schedule\n{name}"))?;
    let store = &api.database.store;
    let shard = schedule::shard(name, store.shard_count().await?);
    let mut reply = store.reply(shard, id).await?;
    if reply.is_none() {
        let message = Message::Schedule {
            name: name.to_owned(),
            command,
        };
        let row = message.into_row(shard, id, Lane::Revocation, api.clock.now());
        store
            .put_inbox(&[row.map_err(|error| ApiError::Internal(error.into()))?])
            .await?;
        api.nudge.notify_one();
        reply = wait(api, shard, id).await?;
    }
    answer(name, id, reply)
}

fn answer(name: &str, id: Uuid, reply: Option<ReplyRow>) -> Result<Response, ApiError> {
    let (status, state, message) = match reply {
        Some(reply) if reply.accepted => (StatusCode::OK, "accepted", reply.message),
        Some(reply) => return Err(ApiError::Conflict(reply.message)),
        None => (StatusCode::ACCEPTED, "pending", String::new()),
    };
    let answer = ScheduleAnswer {
        id,
        schedule: name.to_owned(),
        state,
        message,
    };
    Ok((status, Json(answer)).into_response())
}

/// Schedules, in the order of their names
#[utoipa::path(
    get, path = "/v1/schedules", tag = "schedules", security(("token" = ["read"])), params(ListParameters),
    responses((status = 200, body = Page<ScheduleView>), (status = 422, body = Problem))
)]
pub(super) async fn list(
    State(api): Shares,
    caller: Caller,
    Parameters(parameters): Parameters<ListParameters>,
) -> Result<Json<Page<ScheduleView>>, ApiError> {
    caller.require(Role::Read)?;
    let limit = usize::try_from(input::limit(parameters.limit)?).unwrap_or(usize::MAX);
    let after = input::cursor(parameters.cursor.as_deref(), |name| Some(name.to_owned()))?;
    let mut rows = shell::all(&*api.database.store).await?;
    if let Some(after) = after {
        rows.retain(|row| row.state.spec.name > after);
    }
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows
        .last()
        .filter(|_| more)
        .map(|row| input::cursor_text(&row.state.spec.name));
    let items = shell::views(&api.database, &rows)
        .await
        .map_err(ApiError::Internal)?;
    Ok(Json(Page { items, next }))
}

/// One schedule: its next fire times, its latest runs, what was done to it
#[utoipa::path(
    get, path = "/v1/schedules/{name}", tag = "schedules", security(("token" = ["read"])),
    params(("name" = String, Path)),
    responses((status = 200, body = ScheduleDetail), (status = 404, body = Problem))
)]
pub(super) async fn get(
    State(api): Shares,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<ScheduleDetail>, ApiError> {
    caller.require(Role::Read)?;
    let row = found(&api, &name).await?;
    let detail = shell::detail(&api.database, &row, shell::RUNS_SHOWN)
        .await
        .map_err(ApiError::Internal)?;
    Ok(Json(detail))
}

/// Make a schedule, or change one that was made this way
#[utoipa::path(
    put, path = "/v1/schedules/{name}", tag = "schedules", security(("token" = ["admin"])),
    params(("name" = String, Path)), request_body = ScheduleBody,
    responses((status = 200, body = ScheduleAnswer), (status = 202, body = ScheduleAnswer), (status = 409, body = Problem), (status = 422, body = Problem))
)]
pub(super) async fn put(
    State(api): Shares,
    caller: Caller,
    Path(name): Path<String>,
    headers: HeaderMap,
    input::Json(body): input::Json<ScheduleBody>,
) -> Result<Response, ApiError> {
    let by = caller.require(Role::Admin)?.clone();
    let reason = input::text("/reason", body.reason)?;
    let spec = Spec {
        name: name.clone(),
        workflow: body.workflow,
        cron: body.cron,
        zone: body.zone,
        subject: Subject(body.subject),
        input: body.input,
        jitter: body.jitter.unwrap_or(Span::from_ms(0)),
        overlap: body.overlap,
        catch_up: body.catch_up.unwrap_or(CATCH_UP_DEFAULT),
        paused: false,
        description: body.description,
    };
    let mut mistakes = Vec::new();
    if api.definitions.by_name(&spec.workflow).is_none() {
        let all = api.definitions.all();
        let known = all.iter().map(|definition| definition.name.as_str());
        let fix = workflows::policy::problem::suggest(&spec.workflow, "workflows", known);
        let what = format!("there is no workflow `{}`; {fix}", spec.workflow);
        mistakes.push(Mistake::new("/workflow", what));
    }
    if let Err(wrong) = Schedule::new(spec.clone()) {
        mistakes.extend(wrong.0.into_iter().map(|mistake| {
            let what = format!("{}; {}", mistake.what, mistake.fix);
            Mistake::new(format!("/{}", mistake.field), what)
        }));
    }
    if !mistakes.is_empty() {
        return Err(ApiError::mistakes(mistakes));
    }
    let command = ScheduleCommand::Put {
        spec,
        origin: Origin::Person,
        by,
        reason,
    };
    send(&api, &headers, &name, command).await
}

/// Remove a schedule that was made by command line or API; its history stays
#[utoipa::path(
    post, path = "/v1/schedules/{name}/remove", tag = "schedules", security(("token" = ["admin"])),
    params(("name" = String, Path)), request_body = ReasonBody,
    responses((status = 200, body = ScheduleAnswer), (status = 202, body = ScheduleAnswer), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(super) async fn remove(
    State(api): Shares,
    caller: Caller,
    Path(name): Path<String>,
    headers: HeaderMap,
    input::Json(body): input::Json<ReasonBody>,
) -> Result<Response, ApiError> {
    let by = caller.require(Role::Admin)?.clone();
    let reason = reason(body.reason)?;
    found(&api, &name).await?;
    let command = ScheduleCommand::Remove {
        origin: Origin::Person,
        by,
        reason,
    };
    send(&api, &headers, &name, command).await
}

/// Checks who asks, why, and that the schedule is there.
async fn asked(
    api: &Api,
    caller: &Caller,
    name: &str,
    given: String,
) -> Result<(Actor, String), ApiError> {
    let by = caller.require(Role::Operate)?.clone();
    let reason = reason(given)?;
    found(api, name).await?;
    Ok((by, reason))
}

/// Stop a schedule from firing until it is resumed
#[utoipa::path(
    post, path = "/v1/schedules/{name}/pause", tag = "schedules", security(("token" = ["operate"])),
    params(("name" = String, Path)), request_body = ReasonBody,
    responses((status = 200, body = ScheduleAnswer), (status = 202, body = ScheduleAnswer), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(super) async fn pause(
    State(api): Shares,
    caller: Caller,
    Path(name): Path<String>,
    headers: HeaderMap,
    input::Json(body): input::Json<ReasonBody>,
) -> Result<Response, ApiError> {
    let (by, reason) = asked(&api, &caller, &name, body.reason).await?;
    send(&api, &headers, &name, ScheduleCommand::Pause { by, reason }).await
}

/// Let a paused schedule fire again, from now on
#[utoipa::path(
    post, path = "/v1/schedules/{name}/resume", tag = "schedules", security(("token" = ["operate"])),
    params(("name" = String, Path)), request_body = ReasonBody,
    responses((status = 200, body = ScheduleAnswer), (status = 202, body = ScheduleAnswer), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(super) async fn resume(
    State(api): Shares,
    caller: Caller,
    Path(name): Path<String>,
    headers: HeaderMap,
    input::Json(body): input::Json<ReasonBody>,
) -> Result<Response, ApiError> {
    let (by, reason) = asked(&api, &caller, &name, body.reason).await?;
    send(
        &api,
        &headers,
        &name,
        ScheduleCommand::Resume { by, reason },
    )
    .await
}

/// Start a run now, whatever the clock says
#[utoipa::path(
    post, path = "/v1/schedules/{name}/run", tag = "schedules", security(("token" = ["operate"])),
    params(("name" = String, Path)), request_body = ReasonBody,
    responses((status = 200, body = ScheduleAnswer), (status = 202, body = ScheduleAnswer), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(super) async fn run(
    State(api): Shares,
    caller: Caller,
    Path(name): Path<String>,
    headers: HeaderMap,
    input::Json(body): input::Json<ReasonBody>,
) -> Result<Response, ApiError> {
    let (by, reason) = asked(&api, &caller, &name, body.reason).await?;
    send(&api, &headers, &name, ScheduleCommand::Run { by, reason }).await
}

/// Run the fire times of a period that have not run
///
/// With `preview` nothing is done, and the answer says what would run.
#[utoipa::path(
    post, path = "/v1/schedules/{name}/backfill", tag = "schedules", security(("token" = ["operate"])),
    params(("name" = String, Path)), request_body = BackfillBody,
    responses((status = 200, description = "What follows; with `preview` what would run", body = ScheduleAnswer), (status = 202, body = ScheduleAnswer), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem))
)]
pub(super) async fn backfill(
    State(api): Shares,
    caller: Caller,
    Path(name): Path<String>,
    headers: HeaderMap,
    input::Json(body): input::Json<BackfillBody>,
) -> Result<Response, ApiError> {
    let (by, reason) = asked(&api, &caller, &name, body.reason).await?;
    if body.from > body.to || body.to > api.clock.now() {
        let what = "the period runs backwards or into the future; give an earlier one";
        return Err(ApiError::wrong("/to", what));
    }
    let view = previewed(&api, &name, (body.from, body.to)).await?;
    if body.preview {
        return Ok(Json(view).into_response());
    }
    let command = ScheduleCommand::Backfill {
        from: body.from,
        to: body.to,
        by,
        reason,
    };
    send(&api, &headers, &name, command).await
}

async fn previewed(
    api: &Api,
    name: &str,
    period: (DateTime<Utc>, DateTime<Utc>),
) -> Result<BackfillView, ApiError> {
    let row = found(api, name).await?;
    let schedule = shell::compiled(&row).map_err(ApiError::Internal)?;
    let view = shell::preview(&*api.database.store, &row, &schedule, period).await?;
    view.ok_or_else(|| {
        let what = format!("the period has more than {BACKFILL_MAX} fire times; take it in parts");
        ApiError::wrong("/to", what)
    })
}

/// What became of a command to a schedule
#[utoipa::path(
    get, path = "/v1/schedules/{name}/commands/{command}", tag = "schedules", security(("token" = ["read"])),
    params(("name" = String, Path), ("command" = Uuid, Path)),
    responses((status = 200, body = ScheduleAnswer), (status = 409, body = Problem))
)]
pub(super) async fn command(
    State(api): Shares,
    caller: Caller,
    Path((name, command)): Path<(String, Uuid)>,
) -> Result<Response, ApiError> {
    caller.require(Role::Read)?;
    let store = &api.database.store;
    let shard: ShardId = schedule::shard(&name, store.shard_count().await?);
    answer(&name, command, store.reply(shard, command).await?)
}
