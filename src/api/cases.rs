//! `/v1/cases`: where every case stands, why it waits, and what happened to it.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use engine::core::case::CaseState;
use engine::core::duration::Span;
use engine::core::id::{CaseId, ShardId};
use engine::store::{CaseCursor, CaseSummary, HistoryRow, Waiting};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::auth::{Caller, Role};
use super::input::{self, Page, Parameters, Path};
use super::problem::{ApiError, Problem};
use super::{Api, Shares};
use crate::shell::case_view::{CaseView, InstanceView, view};
use crate::shell::search::Search;

/// How many instances of a step, and how many reasons to wait, one answer about a case shows.
const SHOWN_MAX: usize = 200;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListParameters {
    /// States, separated by commas: `queued`, `running`, `parked`, `undoing`, `ending`, `succeeded`, `unverified`,
    /// `incomplete`, `undone`, `cancelled`, `preempted`, `superseded`, `merged`.
    #[serde(default)]
    state: Option<String>,
    #[serde(default)]
    workflow: Option<String>,
    /// The key of a person.
    #[serde(default)]
    subject: Option<String>,
    /// Only cases that are not closed.
    #[serde(default)]
    open: bool,
    /// Only cases that wait for a person because something failed.
    #[serde(default)]
    parked: bool,
    /// 1 to 500.
    #[serde(default)]
    limit: Option<u32>,
    #[serde(default)]
    cursor: Option<String>,
    /// The content hash of a workflow version, or its beginning: only cases that run it.
    #[serde(default)]
    version: Option<String>,
    /// What open work waits for, separated by commas: `person`, `signal`, `timer`, `system_away`, `retry`, `accepted`,
    /// `answer_lost`, `queued`, `parked`.
    #[serde(default)]
    waits: Option<String>,
    /// Only cases with open work on this system.
    #[serde(default)]
    system: Option<String>,
    /// Only cases that are at the step of this id.
    #[serde(default)]
    step: Option<String>,
    /// Only cases with open work whose last failure is of this kind: `timeout`, `denied`.
    #[serde(default)]
    error: Option<String>,
    /// Only cases made longer ago than this: `30m`, `12h`, `90d`.
    #[serde(default)]
    older_than: Option<String>,
    /// Only cases made within this time.
    #[serde(default)]
    newer_than: Option<String>,
}

/// A list of names between commas.
fn names<T>(
    at: &'static str,
    given: Option<&str>,
    what: &str,
    known: &[&str],
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, ApiError> {
    let names = given.unwrap_or_default().split(',');
    names
        .filter(|name| !name.is_empty())
        .map(|name| {
            parse(name).ok_or_else(|| {
                let known = known.join("`, `");
                ApiError::wrong(at, format!("`{name}` is no {what}; there are `{known}`"))
            })
        })
        .collect()
}

fn span(at: &'static str, given: Option<&str>) -> Result<Option<Span>, ApiError> {
    let span = given.map(Span::parse).transpose();
    span.map_err(|error| ApiError::wrong(at, error.to_string()))
}

/// A case in a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct Summary {
    id: Uuid,
    workflow: String,
    /// The content hash of the workflow version it runs.
    definition: String,
    subject: String,
    generation: u32,
    lane: &'static str,
    state: &'static str,
    /// A person holds it; it starts nothing until it is resumed.
    paused: bool,
    initiator: String,
    in_flight: u32,
    parked: u32,
    unverified: u32,
    given_up: u32,
    steps_done: u32,
    deadline_at: Option<DateTime<Utc>>,
    deadline_passed: bool,
    effective_at: Option<DateTime<Utc>>,
    received_at: DateTime<Utc>,
    created_at: DateTime<Utc>,
    changed_at: DateTime<Utc>,
    closed_at: Option<DateTime<Utc>>,
}

impl From<CaseSummary> for Summary {
    fn from(CaseSummary { head, state }: CaseSummary) -> Self {
        Self {
            id: head.case.0,
            workflow: head.workflow,
            definition: head.definition.0,
            subject: head.subject.0,
            generation: head.generation,
            lane: head.lane.as_str(),
            state: state.state.as_str(),
            paused: state.paused.is_some(),
            initiator: head.initiator.0,
            in_flight: state.in_flight,
            parked: state.parked,
            unverified: state.unverified,
            given_up: state.given_up,
            steps_done: state.steps_done,
            deadline_at: state.deadline_at,
            deadline_passed: state.deadline_passed,
            effective_at: head.effective_at,
            received_at: head.received_at,
            created_at: head.created_at,
            changed_at: state.changed_at,
            closed_at: state.closed_at,
        }
    }
}

/// Cases, newest first
#[utoipa::path(
    get, path = "/v1/cases", tag = "cases", security(("token" = ["read"])), params(ListParameters),
    responses((status = 200, body = Page<Summary>), (status = 422, body = Problem))
)]
pub(super) async fn list(
    State(api): Shares,
    caller: Caller,
    Parameters(parameters): Parameters<ListParameters>,
) -> Result<Json<Page<Summary>>, ApiError> {
    caller.require(Role::Read)?;
    let limit = input::limit(parameters.limit)?;
    let search = Search {
        states: names(
            "state",
            parameters.state.as_deref(),
            "state of a case",
            &CaseState::ALL.map(CaseState::as_str),
            CaseState::parse,
        )?,
        workflow: parameters.workflow,
        version: parameters.version,
        subject: parameters.subject,
        open: parameters.open,
        parked: parameters.parked,
        waits: names(
            "waits",
            parameters.waits.as_deref(),
            "reason to wait",
            &Waiting::ALL.map(Waiting::as_str),
            Waiting::parse,
        )?,
        system: parameters.system,
        step: parameters.step,
        error: parameters.error,
        older_than: span("older_than", parameters.older_than.as_deref())?,
        newer_than: span("newer_than", parameters.newer_than.as_deref())?,
    };
    let filter = search.filter(&api.database, api.clock.now()).await;
    let filter = filter
        .map_err(ApiError::Internal)?
        .map_err(|mistake| ApiError::wrong(mistake.at, mistake.what))?;
    let after = input::cursor(parameters.cursor.as_deref(), |text| {
        let (micros, case) = text.split_once('/')?;
        let created_at = DateTime::from_timestamp_micros(micros.parse().ok()?)?;
        Some(CaseCursor {
            created_at,
            case: CaseId(case.parse().ok()?),
        })
    })?;
    let found = api.database.store.list(&filter, after, limit).await?;
    let next = found
        .last()
        .filter(|_| found.len() >= limit as usize)
        .map(|last| {
            input::cursor_text(&format!(
                "{}/{}",
                last.head.created_at.timestamp_micros(),
                last.head.case
            ))
        });
    Ok(Json(Page {
        items: found.into_iter().map(Summary::from).collect(),
        next,
    }))
}

/// The shard of a case.
///
/// # Errors
/// [`ApiError::NotFound`] when there is no such case.
pub(super) async fn shard_of(api: &Api, case: CaseId) -> Result<ShardId, ApiError> {
    let shard = api.database.store.locate(case).await?;
    shard.ok_or_else(|| ApiError::NotFound(format!("there is no case `{case}`")))
}

async fn whole(api: &Api, case: CaseId) -> Result<CaseView, ApiError> {
    shard_of(api, case).await?;
    let case = api.database.case(case).await.map_err(ApiError::Internal)?;
    let surroundings = api
        .database
        .surroundings(&case)
        .await
        .map_err(ApiError::Internal)?;
    Ok(view(&case, &surroundings))
}

/// One case with its steps, why it waits and when it acts next
///
/// Of a step with many instances the first 200 are shown; `/v1/cases/{id}/steps/{step}` has all.
#[utoipa::path(
    get, path = "/v1/cases/{id}", tag = "cases", security(("token" = ["read"])), params(("id" = Uuid, Path)),
    responses((status = 200, body = Object), (status = 404, body = Problem))
)]
pub(super) async fn get(
    State(api): Shares,
    caller: Caller,
    Path(id): Path<Uuid>,
) -> Result<Json<CaseView>, ApiError> {
    caller.require(Role::Read)?;
    let mut view = whole(&api, CaseId(id)).await?;
    view.waits.truncate(SHOWN_MAX);
    for step in &mut view.steps {
        step.instances.truncate(SHOWN_MAX);
    }
    Ok(Json(view))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageParameters {
    /// 1 to 500.
    #[serde(default)]
    limit: Option<u32>,
    #[serde(default)]
    cursor: Option<String>,
}

/// The instances of one step
#[utoipa::path(
    get, path = "/v1/cases/{id}/steps/{step}", tag = "cases", security(("token" = ["read"])),
    params(("id" = Uuid, Path), ("step" = String, Path), PageParameters),
    responses((status = 200, body = Object), (status = 404, body = Problem))
)]
pub(super) async fn instances(
    State(api): Shares,
    caller: Caller,
    Path((id, name)): Path<(Uuid, String)>,
    Parameters(parameters): Parameters<PageParameters>,
) -> Result<Json<Page<InstanceView>>, ApiError> {
    caller.require(Role::Read)?;
    let limit = input::limit(parameters.limit)?;
    let first = input::cursor(parameters.cursor.as_deref(), |text| {
        text.parse::<usize>().ok()
    })?
    .unwrap_or(0);
    let view = whole(&api, CaseId(id)).await?;
    let step = view.steps.into_iter().find(|step| step.id == name);
    let step =
        step.ok_or_else(|| ApiError::NotFound(format!("case `{id}` has no step `{name}`")))?;
    let count = step.instances.len();
    let items: Vec<InstanceView> = step
        .instances
        .into_iter()
        .skip(first)
        .take(limit as usize)
        .collect();
    let end = first.saturating_add(items.len());
    let next = (end < count).then(|| input::cursor_text(&end.to_string()));
    Ok(Json(Page { items, next }))
}

/// One transition of a case.
#[derive(Debug, Serialize, ToSchema)]
pub struct Moment {
    /// Counts the transitions.
    version: u64,
    at: DateTime<Utc>,
    /// What happened.
    input: String,
    /// Who or what caused it.
    by: String,
    /// What changed.
    #[schema(value_type = Vec<Object>)]
    events: Value,
}

/// Everything that happened to a case, oldest first
#[utoipa::path(
    get, path = "/v1/cases/{id}/timeline", tag = "cases", security(("token" = ["read"])),
    params(("id" = Uuid, Path), PageParameters),
    responses((status = 200, body = Page<Moment>), (status = 404, body = Problem))
)]
pub(super) async fn timeline(
    State(api): Shares,
    caller: Caller,
    Path(id): Path<Uuid>,
    Parameters(parameters): Parameters<PageParameters>,
) -> Result<Json<Page<Moment>>, ApiError> {
    caller.require(Role::Read)?;
    let limit = input::limit(parameters.limit)? as usize;
    let after = input::cursor(parameters.cursor.as_deref(), |text| {
        text.parse::<u64>().ok()
    })?;
    let shard = shard_of(&api, CaseId(id)).await?;
    let mut rows: Vec<HistoryRow> = api.database.store.history(shard, CaseId(id)).await?;
    rows.retain(|row| after.is_none_or(|after| row.version > after));
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows
        .last()
        .filter(|_| more)
        .map(|last| input::cursor_text(&last.version.to_string()));
    let items = rows.into_iter().map(|row| {
        let events =
            serde_json::from_str(&row.events).map_err(|error| ApiError::Internal(error.into()))?;
        Ok(Moment {
            version: row.version,
            at: row.at,
            input: row.input,
            by: row.by,
            events,
        })
    });
    Ok(Json(Page {
        items: items.collect::<Result<_, ApiError>>()?,
        next,
    }))
}
