//! `/v1/rollouts`: how everybody comes under a policy that came into force.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use workflows::directory::LeftOutRow;
use workflows::rollouts::{RolloutError, Rollouts};

use super::auth::{Caller, Role};
use super::input::{self, Page, Parameters, Path};
use super::problem::{ApiError, Problem};
use super::{Api, Shares};
use crate::shell::rollouts::{LeftOutPage, RolloutView, view, views};

/// Why it is decided so.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RolloutNote {
    note: String,
}

/// Why it is held, or goes on.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RolloutReason {
    reason: String,
}

/// How everybody comes under a policy: its progress, what the guard found, which nodes it waits for, and what people did.
#[derive(Debug, Serialize, ToSchema)]
pub struct Rollout {
    #[serde(flatten)]
    #[schema(value_type = Object)]
    view: RolloutView,
}

/// A rollout with whom it left out.
#[derive(Debug, Serialize, ToSchema)]
pub struct RolloutWithPeople {
    #[serde(flatten)]
    #[schema(value_type = Object)]
    view: RolloutView,
    /// Each with why, since when, and since which rollout.
    #[schema(value_type = Object)]
    people_left_out: Page<LeftOutRow>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PeopleParameters {
    /// How many people who are left out: 1 to 500.
    #[serde(default)]
    limit: Option<u32>,
    /// `next` of `people_left_out` of the page before.
    #[serde(default)]
    cursor: Option<String>,
}

impl From<RolloutError> for ApiError {
    fn from(error: RolloutError) -> Self {
        match error {
            RolloutError::NoSuchRollout(id) => {
                Self::NotFound(format!("there is no rollout `{id}`"))
            }
            RolloutError::NotSo { .. } | RolloutError::Changed { .. } | RolloutError::MovedOn => {
                Self::Conflict(error.to_string())
            }
            RolloutError::Reason => Self::wrong("/note", error.to_string()),
            RolloutError::Policy(error) => error.into(),
            RolloutError::Store(error) => error.into(),
        }
    }
}

/// The rollouts of policies, newest first
#[utoipa::path(
    get, path = "/v1/rollouts", tag = "policies", security(("token" = ["read"])),
    responses((status = 200, body = Page<Rollout>))
)]
pub(super) async fn list(
    State(api): Shares,
    caller: Caller,
) -> Result<Json<Page<Rollout>>, ApiError> {
    caller.require(Role::Read)?;
    let views = views(&api.database).await?;
    Ok(Json(Page {
        items: views.into_iter().map(|view| Rollout { view }).collect(),
        next: None,
    }))
}

/// One rollout, with the people whom it left out and has not brought in line yet
#[utoipa::path(
    get, path = "/v1/rollouts/{id}", tag = "policies", security(("token" = ["read"])),
    params(("id" = String, Path), PeopleParameters),
    responses((status = 200, body = RolloutWithPeople), (status = 404, body = Problem), (status = 422, body = Problem))
)]
pub(super) async fn get(
    State(api): Shares,
    caller: Caller,
    Path(id): Path<String>,
    Parameters(parameters): Parameters<PeopleParameters>,
) -> Result<Json<RolloutWithPeople>, ApiError> {
    caller.require(Role::Read)?;
    let limit = input::limit(parameters.limit)?;
    let after = input::cursor(parameters.cursor.as_deref(), |text| Some(text.to_owned()))?;
    let directory = &api.database.directory;
    let found = directory.rollout(&id).await?;
    let row = found.ok_or(RolloutError::NoSuchRollout(id))?;
    let page = LeftOutPage::read(directory, &row.rollout_id, after.as_deref(), limit).await?;
    Ok(Json(RolloutWithPeople {
        view: view(&*api.database.store, directory, row).await?,
        people_left_out: Page {
            items: page.people,
            next: page.next.as_deref().map(input::cursor_text),
        },
    }))
}

/// Let a rollout go on that the guard stopped, if it would do exactly what was shown
///
/// `{id}` is the rollout, or the difference that was shown.
#[utoipa::path(
    post, path = "/v1/rollouts/{id}/approve", tag = "policies", security(("token" = ["approve"])),
    params(("id" = String, Path)), request_body = RolloutNote,
    responses((status = 200, body = Rollout), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem))
)]
pub(super) async fn approve(
    State(api): Shares,
    caller: Caller,
    Path(id): Path<String>,
    input::Json(body): input::Json<RolloutNote>,
) -> Result<Json<Rollout>, ApiError> {
    What::Approve.to(&api, &caller, &id, body.note).await
}

/// Drop a rollout: whoever was not reached keeps what they have until their next event
///
/// Of one that waits because of people whom it had left out, only those are dropped.
#[utoipa::path(
    post, path = "/v1/rollouts/{id}/reject", tag = "policies", security(("token" = ["approve"])),
    params(("id" = String, Path)), request_body = RolloutNote,
    responses((status = 200, body = Rollout), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem))
)]
pub(super) async fn reject(
    State(api): Shares,
    caller: Caller,
    Path(id): Path<String>,
    input::Json(body): input::Json<RolloutNote>,
) -> Result<Json<Rollout>, ApiError> {
    What::Reject.to(&api, &caller, &id, body.note).await
}

/// Hold a rollout
#[utoipa::path(
    post, path = "/v1/rollouts/{id}/pause", tag = "policies", security(("token" = ["operate"])),
    params(("id" = String, Path)), request_body = RolloutReason,
    responses((status = 200, body = Rollout), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem))
)]
pub(super) async fn pause(
    State(api): Shares,
    caller: Caller,
    Path(id): Path<String>,
    input::Json(body): input::Json<RolloutReason>,
) -> Result<Json<Rollout>, ApiError> {
    What::Pause.to(&api, &caller, &id, body.reason).await
}

/// Let a paused rollout go on; what is left of it is measured again
#[utoipa::path(
    post, path = "/v1/rollouts/{id}/resume", tag = "policies", security(("token" = ["operate"])),
    params(("id" = String, Path)), request_body = RolloutReason,
    responses((status = 200, body = Rollout), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem))
)]
pub(super) async fn resume(
    State(api): Shares,
    caller: Caller,
    Path(id): Path<String>,
    input::Json(body): input::Json<RolloutReason>,
) -> Result<Json<Rollout>, ApiError> {
    What::Resume.to(&api, &caller, &id, body.reason).await
}

#[derive(Debug, Clone, Copy)]
enum What {
    Approve,
    Reject,
    Pause,
    Resume,
}

impl What {
    fn role(self) -> Role {
        match self {
            Self::Approve | Self::Reject => Role::Approve,
            Self::Pause | Self::Resume => Role::Operate,
        }
    }

    /// Where in the body it stands why.
    fn at(self) -> &'static str {
        match self {
            Self::Approve | Self::Reject => "/note",
            Self::Pause | Self::Resume => "/reason",
        }
    }

    async fn to(
        self,
        api: &Api,
        caller: &Caller,
        id: &str,
        why: String,
    ) -> Result<Json<Rollout>, ApiError> {
        let by = caller.require(self.role())?;
        let (at, now) = (self.at(), api.clock.now());
        let why = input::text(at, why)?;
        let rollouts = Rollouts::new(
            api.database.directory.clone(),
            api.policies.clone(),
            api.definitions.clone(),
            api.systems.clone(),
        );
        let done = match self {
            Self::Approve => rollouts.approve(id, by, &why, now).await,
            Self::Reject => rollouts.reject(id, by, &why, now).await,
            Self::Pause => rollouts.pause(id, by, &why, now).await,
            Self::Resume => rollouts.resume(id, by, &why, now).await,
        };
        let row = done.map_err(|error| match error {
            RolloutError::Reason => ApiError::wrong(at, error.to_string()),
            error => error.into(),
        })?;
        let view = view(&*api.database.store, &api.database.directory, row).await?;
        Ok(Json(Rollout { view }))
    }
}
