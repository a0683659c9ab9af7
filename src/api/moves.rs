//! `/v1/cases/{id}/migrate`: a case goes on under another version of its workflow.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use engine::core::definition::Definition;
use engine::core::id::{CaseId, DefinitionHash};
use engine::core::input::Migrate;
use engine::core::migration::Mapping;
use engine::runner::Command;
use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::auth::{Caller, Role};
use super::cases::shard_of;
use super::commands::{CommandState, reason, send};
use super::input::{self, Path};
use super::problem::{ApiError, Problem};
use super::{Api, Shares};
use crate::shell::moving::{Verdict, verdict};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MigrateBody {
    /// The content hash of the version the case is to run; without it the one in force.
    #[serde(default)]
    to: Option<String>,
    /// The version the case must run now; without it whichever it runs.
    #[serde(default)]
    from: Option<String>,
    /// Old step to new step, where the ids differ.
    #[serde(default)]
    steps: BTreeMap<String, String>,
    /// Steps of the old version that are left out; none may have begun.
    #[serde(default)]
    drop: BTreeSet<String>,
    /// Steps of the new version that the case leaves out if it is past them.
    #[serde(default)]
    skip: BTreeSet<String>,
    /// Why: it stands in the history and the evidence.
    reason: String,
    /// Only say whether it can, and change nothing.
    #[serde(default)]
    dry_run: bool,
}

/// Move a case to another version of its workflow
///
/// With `dry_run` the answer is a verdict. Otherwise a case that cannot move is a conflict that names every reason.
#[utoipa::path(
    post, path = "/v1/cases/{id}/migrate", tag = "cases", security(("token" = ["operate"])), params(("id" = Uuid, Path)),
    request_body = MigrateBody,
    responses((status = 200, body = Verdict), (status = 202, body = CommandState), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem))
)]
pub(super) async fn migrate(
    State(api): Shares,
    caller: Caller,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
    input::Json(body): input::Json<MigrateBody>,
) -> Result<Response, ApiError> {
    let by = caller.require(Role::Operate)?.clone();
    let id = CaseId(id);
    let shard = shard_of(&api, id).await?;
    let case = api.database.case(id).await.map_err(ApiError::Internal)?;
    let to = version(&api, &case.definition.name, body.to).await?;
    if let Some((step, uses)) = to.actions().find(|(_, uses)| {
        !workflows::actions::ACTIONS
            .iter()
            .any(|(known, _)| known == uses)
    }) {
        return Err(ApiError::wrong(
            "/to",
            format!("step `{step}` uses `{uses}`, which this program does not have"),
        ));
    }
    let migrate = Migrate {
        from: body
            .from
            .map_or_else(|| case.definition.hash.clone(), DefinitionHash),
        to,
        mapping: Mapping {
            steps: body.steps,
            drop: body.drop,
            skip: body.skip,
        },
        by,
        reason: reason(body.reason)?,
    };
    let verdict = verdict(&case, &migrate, api.clock.now());
    if body.dry_run {
        return Ok(Json(verdict).into_response());
    }
    if !verdict.possible {
        return Err(ApiError::Conflict(verdict.obstacles.join("; ")));
    }
    let (store, to) = (&api.database.store, &migrate.to);
    store
        .put_definition(&to.hash, &to.name, &to.source, api.clock.now())
        .await?;
    let command = Command::Migrate {
        from: migrate.from,
        to: to.hash.clone(),
        mapping: migrate.mapping,
        by: migrate.by,
        reason: migrate.reason,
    };
    send(&api, &headers, id, shard, None, command).await
}

async fn version(
    api: &Api,
    workflow: &str,
    hash: Option<String>,
) -> Result<Arc<Definition>, ApiError> {
    let Some(hash) = hash else {
        let in_force = api.definitions.by_name(workflow);
        return in_force.ok_or_else(|| {
            ApiError::wrong(
                "/to",
                format!("is missing, and no version of `{workflow}` is in force"),
            )
        });
    };
    if hash.contains('\0') {
        return Err(ApiError::wrong("/to", "is no version"));
    }
    let hash = DefinitionHash(hash);
    let stored = api.database.version(&hash).await;
    let stored = stored.map_err(ApiError::Internal)?;
    stored
        .map(Arc::new)
        .ok_or_else(|| ApiError::wrong("/to", "is the hash of no version that is stored"))
}
