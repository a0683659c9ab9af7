//! `/v1/parked`: what waits for somebody to do something about it.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use super::Shares;
use super::auth::{Caller, Role};
use super::input::{self, Page, Parameters};
use super::problem::{ApiError, Problem};
use crate::shell::parked::{self, Parked, Wanted};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ParkedParameters {
    #[serde(default)]
    workflow: Option<String>,
    #[serde(default)]
    system: Option<String>,
    /// 1 to 500.
    #[serde(default)]
    limit: Option<u32>,
    #[serde(default)]
    cursor: Option<String>,
}

/// Parked work, stuck steps and paused cases, the oldest first
#[utoipa::path(
    get, path = "/v1/parked", tag = "cases", security(("token" = ["read"])), params(ParkedParameters),
    responses((status = 200, body = Page<Parked>), (status = 422, body = Problem))
)]
pub(super) async fn list(
    State(api): Shares,
    caller: Caller,
    Parameters(parameters): Parameters<ParkedParameters>,
) -> Result<Json<Page<Parked>>, ApiError> {
    caller.require(Role::Read)?;
    let limit = input::limit(parameters.limit)? as usize;
    let after = input::cursor(parameters.cursor.as_deref(), parked::parse_place)?;
    let wanted = Wanted {
        workflow: parameters.workflow,
        system: parameters.system,
    };
    let (items, next) = parked::page(&api.database, &wanted, after, limit)
        .await
        .map_err(ApiError::Internal)?;
    Ok(Json(Page {
        items,
        next: next.map(|row| input::cursor_text(&parked::place_text(&row))),
    }))
}
