//! `/v1/policies`: the versions of the policy, and the ones that wait for a person.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use workflows::directory::PolicyRow;
use workflows::policies::PolicyError;

use super::Shares;
use super::auth::{Caller, Role};
use super::input::{self, Page, Path};
use super::problem::{ApiError, Problem};

/// Why.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Note {
    note: String,
}

/// A version of the policy.
#[derive(Debug, Serialize, ToSchema)]
pub struct PolicyVersion {
    /// What `approve` and `reject` take: names exactly what it would change.
    id: String,
    #[serde(flatten)]
    #[schema(value_type = Object)]
    row: PolicyRow,
}

impl From<PolicyRow> for PolicyVersion {
    fn from(row: PolicyRow) -> Self {
        Self {
            id: row.difference_id.clone(),
            row,
        }
    }
}

impl From<PolicyError> for ApiError {
    fn from(error: PolicyError) -> Self {
        match error {
            PolicyError::NoSuchDifference(id) => {
                Self::NotFound(format!("there is no policy `{id}` that waits"))
            }
            PolicyError::Changed { .. } | PolicyError::MovedOn | PolicyError::Unreadable { .. } => {
                Self::Conflict(error.to_string())
            }
            PolicyError::Store(error) => error.into(),
        }
    }
}

/// Versions of the policy, newest first
#[utoipa::path(
    get, path = "/v1/policies", tag = "policies", security(("token" = ["read"])),
    responses((status = 200, body = Page<PolicyVersion>))
)]
pub(super) async fn list(
    State(api): Shares,
    caller: Caller,
) -> Result<Json<Page<PolicyVersion>>, ApiError> {
    caller.require(Role::Read)?;
    let rows = api.database.directory.policies().await?;
    Ok(Json(Page {
        items: rows.into_iter().map(PolicyVersion::from).collect(),
        next: None,
    }))
}

/// Put a policy into force that the guard stopped, if it would do exactly what was shown
#[utoipa::path(
    post, path = "/v1/policies/{id}/approve", tag = "policies", security(("token" = ["approve"])),
    params(("id" = String, Path)), request_body = Note,
    responses((status = 200, body = PolicyVersion), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(super) async fn approve(
    State(api): Shares,
    caller: Caller,
    Path(id): Path<String>,
    input::Json(note): input::Json<Note>,
) -> Result<Json<PolicyVersion>, ApiError> {
    let actor = caller.require(Role::Approve)?;
    let note = input::text("/note", note.note)?;
    let now = api.clock.now();
    let row = api.policies.approve(&id, actor, Some(&note), now).await?;
    Ok(Json(row.into()))
}

/// Drop a policy that waits; the one in force goes on deciding
#[utoipa::path(
    post, path = "/v1/policies/{id}/reject", tag = "policies", security(("token" = ["approve"])),
    params(("id" = String, Path)), request_body = Note,
    responses((status = 200, body = PolicyVersion), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(super) async fn reject(
    State(api): Shares,
    caller: Caller,
    Path(id): Path<String>,
    input::Json(note): input::Json<Note>,
) -> Result<Json<PolicyVersion>, ApiError> {
    let actor = caller.require(Role::Approve)?;
    let note = input::text("/note", note.note)?;
    let row = api
        .policies
        .reject(&id, actor, &note, api.clock.now())
        .await?;
    Ok(Json(row.into()))
}
