//! `/v1/imports`: files of a source, and the ones that wait for a person.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use chrono::NaiveDate;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use workflows::directory::{PAGE_ROWS_MAX, SnapshotRow};
use workflows::intake::ImportStatus;
use workflows::policy::Problem as FileProblem;
use workflows::sources::{Limits, Manifest, SnapshotInput, read_snapshot};

use super::Shares;
use super::auth::{Caller, Role};
use super::input::{self, Page, Parameters, Path};
use super::problem::{ApiError, Problem};

/// The largest file, in bytes.
pub const FILE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The longest file name, in bytes.
const FILE_NAME_BYTES_MAX: usize = 255;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PostParameters {
    /// The configured source that the file is from.
    source: String,
    /// The name of the file, for messages and for sources that read the day from it.
    #[serde(default)]
    file: Option<String>,
    /// The day the file is of.
    #[serde(default)]
    as_of: Option<NaiveDate>,
    /// The manifest beside the file, as JSON.
    #[serde(default)]
    manifest: Option<String>,
    /// Only say what would be done, to whom, and whether a person would have to decide.
    #[serde(default)]
    preview: bool,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListParameters {
    /// Only files of this source.
    #[serde(default)]
    source: Option<String>,
    /// Only files that wait for a person.
    #[serde(default)]
    waiting: bool,
    /// 1 to 500.
    #[serde(default)]
    limit: Option<u32>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rejection {
    /// Why.
    note: String,
}

/// A file that was read.
#[derive(Debug, Serialize, ToSchema)]
pub struct Import {
    /// What `approve` and `reject` take: names exactly what the file changes.
    id: String,
    #[serde(flatten)]
    #[schema(value_type = Object)]
    row: SnapshotRow,
}

impl From<SnapshotRow> for Import {
    fn from(row: SnapshotRow) -> Self {
        Self {
            id: row.difference_id.clone(),
            row,
        }
    }
}

/// Read a file of a source
///
/// A file that changes too much at once is kept and waits for a person: the answer is 202 then.
#[utoipa::path(
    post, path = "/v1/imports", tag = "imports", security(("token" = ["operate"])), params(PostParameters),
    request_body(description = "The file as the source's configuration declares it; at most 64 MiB",
        content((String = "text/csv"), (String = "application/json"))),
    responses(
        (status = 200, body = Object, description = "Applied, or unchanged"),
        (status = 202, body = Object, description = "The guard stopped it; a person has to decide"),
        (status = 404, body = Problem), (status = 409, body = Problem), (status = 413, body = Problem),
        (status = 422, body = Problem)
    )
)]
pub(super) async fn post(
    State(api): Shares,
    caller: Caller,
    Parameters(parameters): Parameters<PostParameters>,
    request: Request,
) -> Result<(StatusCode, Json<workflows::intake::ImportReport>), ApiError> {
    let actor = caller.require(Role::Operate)?.clone();
    let source = api.sources.get(&parameters.source).cloned();
    let source =
        source.ok_or_else(|| ApiError::NotFound("there is no source of that name".to_owned()))?;
    let media = input::media_type(request.headers());
    if !matches!(
        media.as_str(),
        "text/csv" | "application/json" | "application/octet-stream" | "application/x-ndjson"
    ) {
        return Err(ApiError::UnsupportedMedia {
            expected: "`text/csv` or `application/json`",
        });
    }
    let file = parameters.file.unwrap_or_else(|| "body".to_owned());
    if file.is_empty()
        || file.len() > FILE_NAME_BYTES_MAX
        || file.contains('/')
        || file.chars().any(char::is_control)
    {
        return Err(ApiError::wrong(
            "file",
            format!("give a name of 1 to {FILE_NAME_BYTES_MAX} bytes without `/`"),
        ));
    }
    let manifest = parameters
        .manifest
        .map(|text| Manifest::parse("manifest", text.as_bytes()));
    let manifest = manifest
        .transpose()
        .map_err(|problem: FileProblem| ApiError::wrong("manifest", problem.to_string()))?;
    let (parts, raw) = request.into_parts();
    let bytes = input::body(&parts.headers, raw, FILE_BYTES_MAX).await?;
    let as_of = parameters.as_of;
    let reading = std::sync::Arc::clone(&source);
    // Reading a large file takes a while and would hold up everything else on this thread.
    let read = tokio::task::spawn_blocking(move || {
        let input = SnapshotInput {
            file: &file,
            manifest: manifest.as_ref(),
            as_of,
            limits: Limits::default(),
        };
        read_snapshot(&reading, bytes.as_slice(), &input)
    });
    let snapshot = read
        .await
        .map_err(|error| ApiError::Internal(error.into()))?;
    let snapshot = match snapshot {
        Ok(snapshot) => snapshot,
        Err(problems) => {
            let reason = problems.list.first().map(ToString::to_string);
            if !parameters.preview {
                let now = api.clock.now();
                api.intake
                    .refused(source.name(), now, &reason.unwrap_or_default())
                    .await;
            }
            return Err(workflows::intake::IntakeError::Refused(problems).into());
        }
    };
    if parameters.preview {
        let report = api
            .intake
            .preview(&source, &snapshot, &actor, api.clock.now())
            .await?;
        return Ok((StatusCode::OK, Json(report)));
    }
    let report = api
        .intake
        .import_snapshot(&source, &snapshot, &actor, api.clock.now())
        .await?;
    api.nudge.notify_one();
    api.event_nudge.notify_one();
    let status = match report.status {
        ImportStatus::WaitingForApproval { .. } => StatusCode::ACCEPTED,
        ImportStatus::Applied | ImportStatus::Unchanged | ImportStatus::Previewed { .. } => {
            StatusCode::OK
        }
    };
    Ok((status, Json(report)))
}

/// Files, newest first
#[utoipa::path(
    get, path = "/v1/imports", tag = "imports", security(("token" = ["read"])), params(ListParameters),
    responses((status = 200, body = Page<Import>))
)]
pub(super) async fn list(
    State(api): Shares,
    caller: Caller,
    Parameters(parameters): Parameters<ListParameters>,
) -> Result<Json<Page<Import>>, ApiError> {
    caller.require(Role::Read)?;
    let limit = input::limit(parameters.limit)?;
    let rows = api
        .database
        .directory
        .snapshots(parameters.source.as_deref(), parameters.waiting, limit)
        .await?;
    Ok(Json(Page {
        items: rows.into_iter().map(Import::from).collect(),
        next: None,
    }))
}

/// One file
#[utoipa::path(
    get, path = "/v1/imports/{id}", tag = "imports", security(("token" = ["read"])), params(("id" = String, Path)),
    responses((status = 200, body = Import), (status = 404, body = Problem))
)]
pub(super) async fn get(
    State(api): Shares,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Import>, ApiError> {
    caller.require(Role::Read)?;
    let rows = api
        .database
        .directory
        .snapshots(None, false, PAGE_ROWS_MAX)
        .await?;
    let found = rows.into_iter().find(|row| row.difference_id == id);
    found
        .map(|row| Json(row.into()))
        .ok_or_else(|| ApiError::NotFound(format!("there is no import `{id}`")))
}

/// Apply what the guard stopped, exactly as it was shown
#[utoipa::path(
    post, path = "/v1/imports/{id}/approve", tag = "imports", security(("token" = ["approve"])),
    params(("id" = String, Path)),
    responses((status = 200, body = Object), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(super) async fn approve(
    State(api): Shares,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<workflows::intake::ImportReport>, ApiError> {
    let actor = caller.require(Role::Approve)?;
    let report = api.intake.approve(&id, actor, api.clock.now()).await?;
    api.nudge.notify_one();
    api.event_nudge.notify_one();
    Ok(Json(report))
}

/// Drop what the guard stopped
#[utoipa::path(
    post, path = "/v1/imports/{id}/reject", tag = "imports", security(("token" = ["approve"])),
    params(("id" = String, Path)), request_body = Rejection,
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(super) async fn reject(
    State(api): Shares,
    caller: Caller,
    Path(id): Path<String>,
    input::Json(rejection): input::Json<Rejection>,
) -> Result<StatusCode, ApiError> {
    let actor = caller.require(Role::Approve)?;
    let note = input::text("/note", rejection.note)?;
    api.intake
        .reject(&id, actor, &note, api.clock.now())
        .await?;
    Ok(StatusCode::NO_CONTENT)
}
