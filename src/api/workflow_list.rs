//! `/v1/workflows`: the definitions in force.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use engine::core::definition::Definition;
use serde::Serialize;
use utoipa::ToSchema;

use super::Shares;
use super::auth::{Caller, Role};
use super::input::{Page, Path};
use super::problem::{ApiError, Problem};

#[derive(Debug, Serialize, ToSchema)]
pub struct Workflow {
    name: String,
    description: String,
    /// The content hash: the version.
    definition: String,
    /// The types of event that start it.
    on: Vec<String>,
    /// How long before such an event takes effect it starts, as `7d`.
    #[serde(skip_serializing_if = "Option::is_none")]
    ahead: Option<String>,
    /// How long after it took effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<String>,
    lane: &'static str,
    /// Workflows whose open cases it ends.
    preempts: Vec<String>,
    /// What a new case does about open ones of the same person, by the name of the other workflow; `any` is every
    /// other without a rule of its own.
    conflicts: BTreeMap<String, &'static str>,
    steps: Vec<Step>,
    /// The YAML it was read from; only for one workflow.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Step {
    id: String,
    uses: String,
    /// The ids of the steps it needs.
    needs: Vec<String>,
    for_each: bool,
}

impl Workflow {
    fn of(definition: &Definition, with_source: bool) -> Self {
        let steps = definition.steps.iter().map(|step| Step {
            id: step.id.clone(),
            uses: step.work.uses().to_owned(),
            needs: step
                .needs
                .iter()
                .filter_map(|need| Some(definition.step(*need)?.id.clone()))
                .collect(),
            for_each: step.for_each.is_some(),
        });
        Self {
            name: definition.name.clone(),
            description: definition.description.clone(),
            definition: definition.hash.0.clone(),
            on: definition.on.clone(),
            ahead: definition.ahead.map(|span| span.to_string()),
            after: definition.after.map(|span| span.to_string()),
            lane: definition.lane.as_str(),
            preempts: definition.conflicts.preempts().map(str::to_owned).collect(),
            conflicts: definition.conflicts.told(),
            steps: steps.collect(),
            source: with_source.then(|| definition.source.clone()),
        }
    }
}

/// The workflows in force
#[utoipa::path(
    get, path = "/v1/workflows", tag = "workflows", security(("token" = ["read"])),
    responses((status = 200, body = Page<Workflow>))
)]
pub(super) async fn list(
    State(api): Shares,
    caller: Caller,
) -> Result<Json<Page<Workflow>>, ApiError> {
    caller.require(Role::Read)?;
    let items = api
        .definitions
        .all()
        .iter()
        .map(|definition| Workflow::of(definition, false))
        .collect();
    Ok(Json(Page { items, next: None }))
}

/// One workflow with its source
#[utoipa::path(
    get, path = "/v1/workflows/{name}", tag = "workflows", security(("token" = ["read"])), params(("name" = String, Path)),
    responses((status = 200, body = Workflow), (status = 404, body = Problem))
)]
pub(super) async fn get(
    State(api): Shares,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Workflow>, ApiError> {
    caller.require(Role::Read)?;
    let found = api.definitions.by_name(&name);
    let found =
        found.ok_or_else(|| ApiError::NotFound("there is no workflow of that name".to_owned()))?;
    Ok(Json(Workflow::of(&found, true)))
}
