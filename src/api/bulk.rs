//! `/v1/cases/bulk`: the same operation on many cases, previewed first.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use engine::core::case::CaseState;
use engine::core::duration::Span;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shares;
use super::auth::{Caller, Role};
use super::commands::{command_id, reason};
use super::input;
use super::problem::{ApiError, Problem};
use crate::shell::bulk::{self, Candidate, Choice, Operation, Verdict, Wish};

/// The most cases one request is about.
const CASES_MAX: usize = 1_000;
/// How many cases an answer shows.
const SAMPLE: usize = 20;
/// How long the answers of all cases are waited for.
const ANSWERS_WAIT: Duration = Duration::from_secs(15);

/// Which cases; only open ones, and all that is given must fit.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    workflow: Option<String>,
    /// The key of a person.
    subject: Option<String>,
    /// Open states.
    state: Vec<String>,
    /// Something that is not finished is about this system.
    system: Option<String>,
    /// Made longer ago than this: `90m`, `36h`, `30d`.
    older_than: Option<String>,
    /// Something of it is parked.
    parked: bool,
    paused: bool,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BulkBody {
    operation: Operation,
    /// The step, by its id: needed for `skip` and `rerun`.
    #[serde(default)]
    step: Option<String>,
    /// Stands in the history and the evidence of every case.
    reason: String,
    filter: Filter,
    /// Only say what would be done.
    #[serde(default = "yes")]
    dry_run: bool,
    /// The set that a dry run named; needed to act.
    #[serde(default)]
    set: Option<String>,
}

fn yes() -> bool {
    true
}

/// How many cases refuse for one reason.
#[derive(Debug, Serialize, ToSchema)]
pub struct Refusal {
    message: String,
    count: usize,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct BulkAnswer {
    operation: Operation,
    dry_run: bool,
    /// Names the cases: give it to do exactly this.
    set: String,
    /// How many cases are changed.
    count: usize,
    /// More cases fit than one request takes; do it again afterwards.
    more: bool,
    /// The first of them.
    sample: Vec<Candidate>,
    /// Cases that fit and would refuse; they are left out.
    refusals: Vec<Refusal>,
    /// What became of each case; a `pending` one is asked for at `/v1/cases/{case}/commands/{command}`.
    verdicts: Vec<Verdict>,
}

/// Do the same to many cases
///
/// First with `dry_run`, which is the default: the answer names the set of cases. Then with `"dry_run": false` and
/// that `set`. If other cases fit by then the answer is 409 and nothing is done.
#[utoipa::path(
    post, path = "/v1/cases/bulk", tag = "cases", security(("token" = ["operate"])), request_body = BulkBody,
    responses((status = 200, body = BulkAnswer), (status = 409, body = Problem), (status = 422, body = Problem))
)]
pub(super) async fn post(
    State(api): Shares,
    caller: Caller,
    headers: HeaderMap,
    input::Json(body): input::Json<BulkBody>,
) -> Result<Json<BulkAnswer>, ApiError> {
    let by = caller.require(Role::Operate)?.clone();
    if body.operation.needs_step() && body.step.is_none() {
        return Err(ApiError::wrong("/step", "is missing"));
    }
    if !body.dry_run && body.set.is_none() {
        return Err(ApiError::wrong(
            "/set",
            "is missing; ask with `dry_run` first, its answer names the set",
        ));
    }
    let choice = choice(body.filter, api.clock.now())?;
    let wish = Wish {
        operation: body.operation,
        step: body.step,
        by,
        reason: reason(body.reason)?,
    };
    let preview = bulk::preview(&api.database, &wish, &choice, CASES_MAX)
        .await
        .map_err(ApiError::Internal)?;
    let verdicts = match &body.set {
        Some(set) if !body.dry_run && *set != preview.set => {
            return Err(ApiError::Conflict(format!(
                "other cases fit now ({} of them) than those of set `{set}`; nothing was done, ask with `dry_run` again",
                preview.accepted.len()
            )));
        }
        Some(_) if !body.dry_run => {
            let run = command_id(&headers, &preview.set)?;
            let nudge = || api.nudge.notify_one();
            bulk::act(
                &api.database,
                &preview,
                &wish,
                run,
                ANSWERS_WAIT,
                nudge,
                |_| {},
            )
            .await
            .map_err(ApiError::Internal)?
        }
        _ => Vec::new(),
    };
    let refusals = preview.reasons().into_iter();
    Ok(Json(BulkAnswer {
        operation: wish.operation,
        dry_run: body.dry_run,
        count: preview.accepted.len(),
        more: preview.more,
        refusals: refusals
            .map(|(message, count)| Refusal { message, count })
            .collect(),
        sample: preview.accepted.iter().take(SAMPLE).cloned().collect(),
        set: preview.set,
        verdicts,
    }))
}

fn choice(filter: Filter, now: chrono::DateTime<chrono::Utc>) -> Result<Choice, ApiError> {
    let mut states = Vec::with_capacity(filter.state.len());
    for name in &filter.state {
        match CaseState::parse(name) {
            Some(state) if !state.is_closed() => states.push(state),
            _ => {
                return Err(ApiError::wrong(
                    "/filter/state",
                    format!("`{name}` is no state of an open case"),
                ));
            }
        }
    }
    let before = match &filter.older_than {
        None => None,
        Some(text) => {
            let span = Span::parse(text)
                .map_err(|error| ApiError::wrong("/filter/older_than", error.to_string()))?;
            now.checked_sub_signed(span.delta())
        }
    };
    Ok(Choice {
        workflow: filter.workflow,
        subject: filter.subject,
        states,
        system: filter.system,
        before,
        parked: filter.parked,
        paused: filter.paused,
    })
}
