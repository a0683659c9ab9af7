//! `GET /v1/nodes`: the processes that work on the database, and on what.

use axum::Json;
use axum::extract::State;

use super::Shares;
use super::auth::{Caller, Role};
use super::problem::ApiError;
use crate::shell::node_view::{NodesView, nodes_view};

/// The nodes and the shards each works on
#[utoipa::path(
    get, path = "/v1/nodes", tag = "nodes", security(("token" = ["read"])),
    responses((status = 200, body = NodesView))
)]
pub(super) async fn list(State(api): Shares, caller: Caller) -> Result<Json<NodesView>, ApiError> {
    caller.require(Role::Read)?;
    Ok(Json(nodes_view(&*api.database.store).await?))
}
