//! `GET /v1/explain`: why somebody holds something, or why not.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use workflows::directory::{GrantRow, facts_of};
use workflows::policy::{Explanation, explain};

use super::Shares;
use super::auth::{Caller, Role};
use super::input::Parameters;
use super::problem::{ApiError, Problem};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ExplainParameters {
    /// The key of a person.
    identity: String,
    system: String,
    /// The right, by the name the policy gives it.
    entitlement: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Explained {
    identity: String,
    system: String,
    entitlement: String,
    /// The version of the policy that answers.
    policy: String,
    /// What policy wants, and why.
    #[schema(value_type = Object)]
    wanted: Explanation,
    /// What the directory says the person holds; null for nothing.
    #[schema(value_type = Option<Object>)]
    held: Option<GrantRow>,
}

/// Why somebody holds a right, or why not
#[utoipa::path(
    get, path = "/v1/explain", tag = "identities", security(("token" = ["read"])), params(ExplainParameters),
    responses((status = 200, body = Explained), (status = 404, body = Problem))
)]
pub(super) async fn get(
    State(api): Shares,
    caller: Caller,
    Parameters(parameters): Parameters<ExplainParameters>,
) -> Result<Json<Explained>, ApiError> {
    caller.require(Role::Read)?;
    let ExplainParameters {
        identity,
        system,
        entitlement,
    } = parameters;
    let holdings = api.database.directory.holdings(&identity).await?;
    let holdings =
        holdings.ok_or_else(|| ApiError::NotFound("nobody of that key is known".to_owned()))?;
    if api.systems.get(&system).is_none() {
        return Err(ApiError::NotFound(
            "there is no system of that name".to_owned(),
        ));
    }
    let wanted = explain(
        &api.policy,
        &facts_of(&holdings.identity),
        &system,
        &entitlement,
    );
    let held = holdings
        .grants
        .into_iter()
        .find(|grant| grant.system == system && grant.entitlement == entitlement);
    Ok(Json(Explained {
        identity,
        system,
        entitlement,
        policy: api.policy.hash().to_owned(),
        wanted,
        held,
    }))
}
