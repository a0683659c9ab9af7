//! `/v1/nhis`, `/v1/dependencies`, `/v1/credentials`: non-human identities, and what hangs on them.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use workflows::directory::{
    DeclareReport, NODES_MAX, NhiChange, NhiCredentialRow, NhiFilter, NhiRow,
};
use workflows::nhi::check::{Answer, Intent, Question, Rules, check};
use workflows::nhi::declare;
use workflows::nhi::graph::{Edge, Node};

use super::Shares;
use super::auth::{Caller, Role};
use super::commands::reason;
use super::imports::FILE_BYTES_MAX;
use super::input::{self, Page, Parameters, Path};
use super::problem::{ApiError, Mistake, Problem};

/// How mistakes call the body.
const BODY: &str = "body";

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListParameters {
    /// Only those that this person owns or backs up.
    person: Option<String>,
    team: Option<String>,
    environment: Option<String>,
    /// Only those that have to be reviewed by this day.
    review_by: Option<NaiveDate>,
    /// `next` of the page before.
    cursor: Option<String>,
    /// 1 to 500.
    limit: Option<u32>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeclareParameters {
    /// Why; it stands beside the change.
    reason: String,
}

/// One with all that is known of it.
#[derive(Debug, Serialize)]
pub struct Shown {
    #[serde(flatten)]
    row: NhiRow,
    edges: Vec<Edge>,
    changes: Vec<NhiChange>,
}

/// Non-human identities by key
#[utoipa::path(
    get, path = "/v1/nhis", tag = "non-human identities", security(("token" = ["read"])), params(ListParameters),
    responses((status = 200, body = Object), (status = 422, body = Problem))
)]
pub(super) async fn list(
    State(api): Shares,
    caller: Caller,
    Parameters(parameters): Parameters<ListParameters>,
) -> Result<Json<Page<NhiRow>>, ApiError> {
    caller.require(Role::Read)?;
    let limit = input::limit(parameters.limit)?;
    let after = input::cursor(parameters.cursor.as_deref(), |key| Some(key.to_owned()))?;
    let filter = NhiFilter {
        person: parameters.person,
        team: parameters.team,
        environment: parameters.environment,
        review_by: parameters.review_by,
    };
    let directory = &api.database.directory;
    let mut items = directory.nhis(&filter, after.as_deref(), limit + 1).await?;
    let more = items.len() > limit as usize;
    items.truncate(limit as usize);
    let last = items.last().filter(|_| more);
    let next = last.map(|row| input::cursor_text(&row.nhi_key));
    Ok(Json(Page { items, next }))
}

/// One non-human identity: as declared, its edges, and who changed it
#[utoipa::path(
    get, path = "/v1/nhis/{key}", tag = "non-human identities", security(("token" = ["read"])),
    params(("key" = String, Path)),
    responses((status = 200, body = Object), (status = 404, body = Problem))
)]
pub(super) async fn get(
    State(api): Shares,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<Json<Shown>, ApiError> {
    caller.require(Role::Read)?;
    let directory = &api.database.directory;
    let row = directory.nhi(&key).await?;
    let row = row.ok_or_else(|| {
        ApiError::NotFound("there is no non-human identity of that key".to_owned())
    })?;
    let credentials = row.declared.credentials.iter();
    let nodes: Vec<Node> = std::iter::once(Node::nhi(&row.nhi_key))
        .chain(credentials.map(|credential| Node::credential(credential.name())))
        .collect();
    Ok(Json(Shown {
        edges: directory.edges_at(&nodes).await?,
        changes: directory.nhi_changes(&key).await?,
        row,
    }))
}

/// Take a file of non-human identities, as a whole
///
/// The body is what `tenure nhi declare` takes, in YAML or JSON. With a mistake in it, or with an owner nobody knows, nothing
/// of it is taken: `refused` says why then.
#[utoipa::path(
    post, path = "/v1/nhis", tag = "non-human identities", security(("token" = ["operate"])), params(DeclareParameters),
    request_body(description = "`{nhis: [..]}`; at most 64 MiB",
        content((String = "application/yaml"), (Object = "application/json"))),
    responses((status = 200, body = Object), (status = 409, body = Object, description = "Nothing was taken: `refused` says why"),
        (status = 413, body = Problem), (status = 422, body = Problem))
)]
pub(super) async fn declare_all(
    State(api): Shares,
    caller: Caller,
    Parameters(parameters): Parameters<DeclareParameters>,
    request: Request,
) -> Result<(StatusCode, Json<DeclareReport>), ApiError> {
    let by = caller.require(Role::Operate)?.clone();
    let reason = reason(parameters.reason)?;
    let media = input::media_type(request.headers());
    if !matches!(media.as_str(), "application/yaml" | "application/json") {
        return Err(ApiError::UnsupportedMedia {
            expected: "`application/yaml` or `application/json`",
        });
    }
    let (parts, raw) = request.into_parts();
    let bytes = input::body(&parts.headers, raw, FILE_BYTES_MAX).await?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        ApiError::Malformed(format!("the body is not UTF-8 from byte {place} on"))
    })?;
    let systems = api.systems.iter().map(|system| system.name().to_owned());
    let systems: BTreeSet<String> = systems.collect();
    // A large file takes a while and would hold up everything else on this thread.
    let read = tokio::task::spawn_blocking(move || {
        let systems = systems.iter().map(String::as_str).collect();
        declare::parse(BODY, &text, &systems)
    });
    let read = read
        .await
        .map_err(|error| ApiError::Internal(error.into()))?;
    let declared = read.map_err(|problems| {
        let mistakes = problems.list.into_iter().map(|problem| {
            let at = match (problem.line, problem.column) {
                (Some(line), Some(column)) => format!("line {line} column {column}"),
                (Some(line), None) => format!("line {line}"),
                _ => BODY.to_owned(),
            };
            Mistake::new(at, format!("{}; {}", problem.message, problem.fix))
        });
        ApiError::mistakes(mistakes.collect())
    })?;
    let now = api.clock.now();
    let report = (api.database.directory)
        .declare(&declared, &by, &reason, now)
        .await?;
    let status = match report.refused.is_empty() {
        true => StatusCode::OK,
        false => StatusCode::CONFLICT,
    };
    Ok((status, Json(report)))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CheckParameters {
    /// What ends: `person:KEY`, `nhi:KEY`, `credential:SYSTEM/ID`.
    node: String,
    /// What happens to it.
    to: To,
    /// Nothing may wait: a hostile leaver, a secret that strangers know.
    #[serde(default)]
    hostile: bool,
}

#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum To {
    Leave,
    Disable,
    Delete,
    Rotate,
}

/// What has to happen before something ends, in the order in which it has to be done
///
/// Nothing is changed. `digest` names the facts that the answer rests on.
#[utoipa::path(
    get, path = "/v1/dependencies", tag = "non-human identities", security(("token" = ["read"])), params(CheckParameters),
    responses((status = 200, body = Object), (status = 409, body = Problem), (status = 422, body = Problem))
)]
pub(super) async fn dependencies(
    State(api): Shares,
    caller: Caller,
    Parameters(parameters): Parameters<CheckParameters>,
) -> Result<Json<Answer>, ApiError> {
    caller.require(Role::Read)?;
    let subject: Node = parameters
        .node
        .parse()
        .map_err(|what: String| ApiError::wrong("node", what))?;
    let question = Question {
        subject,
        intent: match parameters.to {
            To::Leave => Intent::Leave,
            To::Disable => Intent::Disable,
            To::Delete => Intent::Delete,
            To::Rotate => Intent::Rotate,
        },
        hostile: parameters.hostile,
    };
    let now = api.clock.now();
    let found = (api.database.directory)
        .dependencies(question, &BTreeMap::new(), Rules::default(), now)
        .await?;
    let snapshot = found.map_err(|_| {
        ApiError::Conflict(format!(
            "more than {NODES_MAX} things hang on it; ask about a part of them"
        ))
    })?;
    Ok(Json(check(&snapshot)))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ExpiringParameters {
    /// Those that expire before this moment.
    expires_before: DateTime<Utc>,
    /// 1 to 500.
    limit: Option<u32>,
}

/// Credentials of non-human identities that expire, the soonest first
#[utoipa::path(
    get, path = "/v1/credentials", tag = "non-human identities", security(("token" = ["read"])), params(ExpiringParameters),
    responses((status = 200, body = Object), (status = 422, body = Problem))
)]
pub(super) async fn expiring(
    State(api): Shares,
    caller: Caller,
    Parameters(parameters): Parameters<ExpiringParameters>,
) -> Result<Json<Page<NhiCredentialRow>>, ApiError> {
    caller.require(Role::Read)?;
    let limit = input::limit(parameters.limit)?;
    let items = (api.database.directory)
        .nhi_credentials_expiring(parameters.expires_before, limit)
        .await?;
    Ok(Json(Page { items, next: None }))
}
