//! What people do to cases: retry, skip, cancel, pause, resume, rerun, undo, signal; and the sending of commands
//! for the other resources.
//!
//! A command is durable before it is answered. The answer waits a moment for the owner of the case to carry it
//! out: 200 when it was, 409 when the case did not allow it, 202 when it is still on its way; then the command has
//! an address of its own to ask. With an `Idempotency-Key` the same command sent twice is one.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use engine::core::definition::Lane;
use engine::core::id::{Actor, CaseId, DefinitionHash, Place, ShardId, StepIndex};
use engine::runner::{Command, Message};
use engine::store::ReplyRow;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::auth::{Caller, Role};
use super::cases::shard_of;
use super::input::{self, Path};
use super::problem::{ApiError, Problem};
use super::{Api, Shares};

/// How long an answer waits for the case's owner.
const REPLY_WAIT: Duration = Duration::from_secs(5);
/// How often it looks; the first time soon.
const REPLY_PAUSE_FIRST: Duration = Duration::from_millis(5);
const REPLY_PAUSE_MAX: Duration = Duration::from_millis(200);
/// The longest `Idempotency-Key` and the longest name of a signal, in bytes.
const KEY_BYTES_MAX: usize = 200;
/// Makes a command's identifier out of its case and key.
const NAMESPACE: Uuid = Uuid::from_u128(0x7a4d_31c2_9e0f_4a6b_8d55_1f8e_7c20_b943);

#[derive(Debug, Serialize, ToSchema)]
pub struct CommandState {
    pub id: Uuid,
    pub case: Uuid,
    /// `pending`, `accepted` or `refused`.
    pub state: &'static str,
    /// Why it was refused.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// Which work; without any of them all that is parked.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetryBody {
    /// The step, by its id.
    step: Option<String>,
    /// One instance of the step.
    instance: Option<u32>,
    /// Why; it stands in the evidence.
    reason: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SkipBody {
    /// The step, by its id.
    step: String,
    /// One instance of the step; without it all that can be skipped.
    #[serde(default)]
    instance: Option<u32>,
    /// Why it is given up.
    reason: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CancelBody {
    reason: String,
    /// End it at once, whatever is in flight or broken; what is in flight is recorded as unknown.
    #[serde(default)]
    force: bool,
}

/// Why; it stands in the history and the evidence.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReasonBody {
    pub(super) reason: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RerunBody {
    /// The step, by its id.
    step: String,
    reason: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignalBody {
    name: String,
    #[serde(default)]
    #[schema(value_type = Object)]
    payload: Value,
}

/// Sends `command` to a case.
pub(super) async fn send(
    api: &Api,
    headers: &HeaderMap,
    case: CaseId,
    shard: ShardId,
    definition: Option<DefinitionHash>,
    command: Command,
) -> Result<Response, ApiError> {
    let id = command_id(headers, &case.to_string())?;
    let store = &api.database.store;
    let mut reply = store.reply(shard, id).await?;
    if reply.is_none() {
        let message = Message::Command {
            case,
            definition,
            command,
        };
        // A person waits for the answer: it goes before whatever is done in bulk.
        let row = message.into_row(shard, id, Lane::Revocation, api.clock.now());
        store
            .put_inbox(&[row.map_err(|error| ApiError::Internal(error.into()))?])
            .await?;
        api.nudge.notify_one();
        reply = wait(api, shard, id).await?;
    }
    answer(case, id, reply)
}

/// Names what is asked for: by the caller's `Idempotency-Key` and what it is `about`, or anew.
pub(super) fn command_id(headers: &HeaderMap, about: &str) -> Result<Uuid, ApiError> {
    match headers.get("idempotency-key").map(HeaderValue::to_str) {
        None => Ok(Uuid::new_v4()),
        Some(Ok(key)) if !key.is_empty() && key.len() <= KEY_BYTES_MAX => Ok(Uuid::new_v5(
            &NAMESPACE,
            format!("{about}\n{key}").as_bytes(),
        )),
        Some(_) => Err(ApiError::wrong(
            "Idempotency-Key",
            format!("give 1 to {KEY_BYTES_MAX} visible characters"),
        )),
    }
}

pub(super) async fn wait(
    api: &Api,
    shard: ShardId,
    id: Uuid,
) -> Result<Option<ReplyRow>, ApiError> {
    let until = tokio::time::Instant::now() + REPLY_WAIT;
    let mut pause = REPLY_PAUSE_FIRST;
    loop {
        tokio::time::sleep(pause).await;
        let reply = api.database.store.reply(shard, id).await?;
        if reply.is_some() || tokio::time::Instant::now() >= until {
            return Ok(reply);
        }
        pause = (pause * 2).min(REPLY_PAUSE_MAX);
    }
}

fn answer(case: CaseId, id: Uuid, reply: Option<ReplyRow>) -> Result<Response, ApiError> {
    let state = |state, message| CommandState {
        id,
        case: case.0,
        state,
        message,
    };
    match reply {
        Some(reply) if reply.accepted => Ok(Json(state("accepted", String::new())).into_response()),
        Some(reply) => Err(ApiError::Conflict(reply.message)),
        None => {
            let mut response =
                (StatusCode::ACCEPTED, Json(state("pending", String::new()))).into_response();
            if let Ok(location) = HeaderValue::try_from(format!("/v1/cases/{case}/commands/{id}")) {
                response.headers_mut().insert(header::LOCATION, location);
            }
            Ok(response)
        }
    }
}

/// The position of a step in the case's own version of its workflow, and that version.
pub(super) async fn step_index(
    api: &Api,
    case: CaseId,
    name: &str,
) -> Result<(StepIndex, DefinitionHash), ApiError> {
    let case = api.database.case(case).await.map_err(ApiError::Internal)?;
    let step = case.definition.find(name).ok_or_else(|| {
        let known: Vec<&str> = case
            .definition
            .steps
            .iter()
            .map(|step| step.id.as_str())
            .collect();
        ApiError::wrong(
            "/step",
            workflows::policy::problem::suggest(name, "steps", known),
        )
    })?;
    Ok((step, case.definition.hash.clone()))
}

pub(super) fn reason(given: String) -> Result<String, ApiError> {
    if given.trim().is_empty() {
        return Err(ApiError::wrong(
            "/reason",
            "is empty; say why, it stands in the history",
        ));
    }
    input::text("/reason", given)
}

async fn sender(
    api: &Api,
    caller: &Caller,
    id: Uuid,
) -> Result<(Actor, CaseId, ShardId), ApiError> {
    let actor = caller.require(Role::Operate)?.clone();
    Ok((actor, CaseId(id), shard_of(api, CaseId(id)).await?))
}

/// Try parked work again
#[utoipa::path(
    post, path = "/v1/cases/{id}/retry", tag = "cases", security(("token" = ["operate"])), params(("id" = Uuid, Path)),
    request_body = RetryBody,
    responses((status = 200, body = CommandState), (status = 202, body = CommandState), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(super) async fn retry(
    State(api): Shares,
    caller: Caller,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
    input::Json(body): input::Json<RetryBody>,
) -> Result<Response, ApiError> {
    let (by, case, shard) = sender(&api, &caller, id).await?;
    let step = match &body.step {
        Some(name) => Some(step_index(&api, case, name).await?),
        None if body.instance.is_some() => {
            return Err(ApiError::wrong(
                "/step",
                "is missing; an instance belongs to a step",
            ));
        }
        None => None,
    };
    let (step, definition) = step.unzip();
    let place = step
        .zip(body.instance)
        .map(|(step, instance)| Place::new(step, instance));
    let step = step.filter(|_| place.is_none());
    let command = Command::Retry {
        place,
        step,
        by,
        reason: input::text("/reason", body.reason)?,
    };
    send(&api, &headers, case, shard, definition, command).await
}

/// Give work up
#[utoipa::path(
    post, path = "/v1/cases/{id}/skip", tag = "cases", security(("token" = ["operate"])), params(("id" = Uuid, Path)),
    request_body = SkipBody,
    responses((status = 200, body = CommandState), (status = 202, body = CommandState), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(super) async fn skip(
    State(api): Shares,
    caller: Caller,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
    input::Json(body): input::Json<SkipBody>,
) -> Result<Response, ApiError> {
    let (by, case, shard) = sender(&api, &caller, id).await?;
    let (step, definition) = step_index(&api, case, &body.step).await?;
    let place = body.instance.map(|instance| Place::new(step, instance));
    let command = Command::Skip {
        step,
        place,
        by,
        reason: reason(body.reason)?,
    };
    send(&api, &headers, case, shard, Some(definition), command).await
}

/// End a case: nothing more is started
#[utoipa::path(
    post, path = "/v1/cases/{id}/cancel", tag = "cases", security(("token" = ["operate"])), params(("id" = Uuid, Path)),
    request_body = CancelBody,
    responses((status = 200, body = CommandState), (status = 202, body = CommandState), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(super) async fn cancel(
    State(api): Shares,
    caller: Caller,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
    input::Json(body): input::Json<CancelBody>,
) -> Result<Response, ApiError> {
    let (by, case, shard) = sender(&api, &caller, id).await?;
    let reason = reason(body.reason)?;
    let command = if body.force {
        Command::Terminate { by, reason }
    } else {
        Command::Cancel { by, reason }
    };
    send(&api, &headers, case, shard, None, command).await
}

/// Hold a case: it starts nothing until it is resumed
///
/// What is in flight comes back and is recorded. Timers that come due meanwhile act at resume.
#[utoipa::path(
    post, path = "/v1/cases/{id}/pause", tag = "cases", security(("token" = ["operate"])), params(("id" = Uuid, Path)),
    request_body = ReasonBody,
    responses((status = 200, body = CommandState), (status = 202, body = CommandState), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(super) async fn pause(
    State(api): Shares,
    caller: Caller,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
    input::Json(body): input::Json<ReasonBody>,
) -> Result<Response, ApiError> {
    let (by, case, shard) = sender(&api, &caller, id).await?;
    let reason = reason(body.reason)?;
    let command = Command::Pause { by, reason };
    send(&api, &headers, case, shard, None, command).await
}

/// Let a paused case go on
#[utoipa::path(
    post, path = "/v1/cases/{id}/resume", tag = "cases", security(("token" = ["operate"])), params(("id" = Uuid, Path)),
    request_body = ReasonBody,
    responses((status = 200, body = CommandState), (status = 202, body = CommandState), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(super) async fn resume(
    State(api): Shares,
    caller: Caller,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
    input::Json(body): input::Json<ReasonBody>,
) -> Result<Response, ApiError> {
    let (by, case, shard) = sender(&api, &caller, id).await?;
    let reason = reason(body.reason)?;
    let command = Command::Resume { by, reason };
    send(&api, &headers, case, shard, None, command).await
}

/// Plan a step, and everything behind it, anew
///
/// Their effects are made again, under keys of their own. A closed case stays closed.
#[utoipa::path(
    post, path = "/v1/cases/{id}/rerun", tag = "cases", security(("token" = ["operate"])), params(("id" = Uuid, Path)),
    request_body = RerunBody,
    responses((status = 200, body = CommandState), (status = 202, body = CommandState), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(super) async fn rerun(
    State(api): Shares,
    caller: Caller,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
    input::Json(body): input::Json<RerunBody>,
) -> Result<Response, ApiError> {
    let (by, case, shard) = sender(&api, &caller, id).await?;
    let (step, definition) = step_index(&api, case, &body.step).await?;
    let command = Command::Rerun {
        step,
        by,
        reason: reason(body.reason)?,
    };
    send(&api, &headers, case, shard, Some(definition), command).await
}

/// Take back what a case did, last first
///
/// 409 for a workflow that only goes forward: a leaver is never undone.
#[utoipa::path(
    post, path = "/v1/cases/{id}/undo", tag = "cases", security(("token" = ["operate"])), params(("id" = Uuid, Path)),
    request_body = ReasonBody,
    responses((status = 200, body = CommandState), (status = 202, body = CommandState), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(super) async fn undo(
    State(api): Shares,
    caller: Caller,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
    input::Json(body): input::Json<ReasonBody>,
) -> Result<Response, ApiError> {
    let (by, case, shard) = sender(&api, &caller, id).await?;
    let reason = reason(body.reason)?;
    let command = Command::Undo { by, reason };
    send(&api, &headers, case, shard, None, command).await
}

/// Send a signal that a step waits for
#[utoipa::path(
    post, path = "/v1/cases/{id}/signal", tag = "cases", security(("token" = ["operate"])), params(("id" = Uuid, Path)),
    request_body = SignalBody,
    responses((status = 200, body = CommandState), (status = 202, body = CommandState), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(super) async fn signal(
    State(api): Shares,
    caller: Caller,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
    input::Json(body): input::Json<SignalBody>,
) -> Result<Response, ApiError> {
    let (by, case, shard) = sender(&api, &caller, id).await?;
    if body.name.is_empty() || body.name.len() > KEY_BYTES_MAX {
        return Err(ApiError::wrong(
            "/name",
            format!("give 1 to {KEY_BYTES_MAX} bytes"),
        ));
    }
    let command = Command::Signal {
        name: input::text("/name", body.name)?,
        by,
        payload: input::value("/payload", body.payload)?,
    };
    send(&api, &headers, case, shard, None, command).await
}

/// What became of a command
///
/// A command is `pending` until the case's owner has seen it; answers are kept for a while only.
#[utoipa::path(
    get, path = "/v1/cases/{id}/commands/{command}", tag = "cases", security(("token" = ["read"])),
    params(("id" = Uuid, Path), ("command" = Uuid, Path)),
    responses((status = 200, body = CommandState), (status = 404, body = Problem))
)]
pub(super) async fn get(
    State(api): Shares,
    caller: Caller,
    Path((id, command)): Path<(Uuid, Uuid)>,
) -> Result<Json<CommandState>, ApiError> {
    caller.require(Role::Read)?;
    let shard = shard_of(&api, CaseId(id)).await?;
    let (state, message) = match api.database.store.reply(shard, command).await? {
        Some(reply) if reply.accepted => ("accepted", String::new()),
        Some(reply) => ("refused", reply.message),
        None => ("pending", String::new()),
    };
    Ok(Json(CommandState {
        id: command,
        case: id,
        state,
        message,
    }))
}
