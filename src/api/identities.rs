//! `/v1/identities`: who is known and what they hold.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;
use workflows::directory::{
    Believed, IdentityDetail, IdentityFilter, IdentityRow, IdentityStatus, SEARCH_BYTES_MAX,
};

use super::Shares;
use super::auth::{Caller, Role};
use super::input::{self, Page, Parameters, Path};
use super::problem::{ApiError, Problem};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListParameters {
    /// `expected`, `active`, `leaving`, `departed` or `merged`.
    #[serde(default)]
    status: Option<String>,
    /// Part of the key or the name.
    #[serde(default)]
    search: Option<String>,
    /// 1 to 500.
    #[serde(default)]
    limit: Option<u32>,
    #[serde(default)]
    cursor: Option<String>,
}

/// People, in the order of their keys
#[utoipa::path(
    get, path = "/v1/identities", tag = "identities", security(("token" = ["read"])), params(ListParameters),
    responses((status = 200, body = Object), (status = 422, body = Problem))
)]
pub(super) async fn list(
    State(api): Shares,
    caller: Caller,
    Parameters(parameters): Parameters<ListParameters>,
) -> Result<Json<Page<IdentityRow>>, ApiError> {
    caller.require(Role::Read)?;
    let limit = input::limit(parameters.limit)?;
    let status = parameters.status.as_deref().map(|name| {
        IdentityStatus::parse(name).ok_or_else(|| {
            let known = IdentityStatus::ALL.map(IdentityStatus::as_str).join("`, `");
            ApiError::wrong(
                "status",
                format!("`{name}` is no status; they are `{known}`"),
            )
        })
    });
    if parameters
        .search
        .as_ref()
        .is_some_and(|text| text.len() > SEARCH_BYTES_MAX)
    {
        return Err(ApiError::wrong(
            "search",
            format!("is longer than {SEARCH_BYTES_MAX} bytes"),
        ));
    }
    let filter = IdentityFilter {
        status: status.transpose()?,
        search: parameters.search,
    };
    let after = input::cursor(parameters.cursor.as_deref(), |text| Some(text.to_owned()))?;
    let items = api
        .database
        .directory
        .identities(&filter, after.as_deref(), limit)
        .await?;
    let next = items.last().filter(|_| items.len() >= limit as usize);
    let next = next.map(|last| input::cursor_text(&last.identity_key));
    Ok(Json(Page { items, next }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct BeliefParameters {
    /// The moment to look at: a day (its end, in UTC) or a time with its zone. Now without it.
    #[serde(default)]
    as_of: Option<String>,
    /// From what had come in by this moment. Now without it.
    #[serde(default)]
    known_at: Option<String>,
}

/// What was believed about one person on a day, from what was known on another
#[utoipa::path(
    get, path = "/v1/identities/{key}/belief", tag = "identities", security(("token" = ["read"])),
    params(("key" = String, Path), BeliefParameters),
    responses((status = 200, body = Object), (status = 404, body = Problem), (status = 422, body = Problem))
)]
pub(super) async fn belief(
    State(api): Shares,
    caller: Caller,
    Path(key): Path<String>,
    Parameters(parameters): Parameters<BeliefParameters>,
) -> Result<Json<Believed>, ApiError> {
    caller.require(Role::Read)?;
    let now = crate::shell::now();
    let moment = |name: &str, text: Option<String>| match text {
        None => Ok(now),
        Some(text) => crate::shell::moment(&text).ok_or_else(|| {
            let what = "is not a day (2026-03-01) nor a time with its zone (2026-03-01T09:00:00Z)";
            ApiError::wrong(name, what.to_owned())
        }),
    };
    let as_of = moment("as_of", parameters.as_of)?;
    let known_at = moment("known_at", parameters.known_at)?;
    let found = api
        .database
        .directory
        .believed(&key, as_of, known_at, api.policy.precedence())
        .await?;
    found.map(Json).ok_or_else(|| {
        ApiError::NotFound("nothing was known of that key at that moment".to_owned())
    })
}

/// One person: accounts, grants with their reasons, and events
#[utoipa::path(
    get, path = "/v1/identities/{key}", tag = "identities", security(("token" = ["read"])), params(("key" = String, Path)),
    responses((status = 200, body = Object), (status = 404, body = Problem))
)]
pub(super) async fn get(
    State(api): Shares,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<Json<IdentityDetail>, ApiError> {
    caller.require(Role::Read)?;
    let found = api.database.directory.identity(&key).await?;
    found
        .map(Json)
        .ok_or_else(|| ApiError::NotFound("nobody of that key is known".to_owned()))
}
