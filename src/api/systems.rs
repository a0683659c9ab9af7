//! `GET /v1/systems`: the configured targets and whether they take calls.

use axum::Json;
use axum::extract::State;
use connectors::connector::Capabilities;
use connectors::layer::Availability;
use serde::Serialize;
use utoipa::ToSchema;
use workflows::directory::AccountCount;

use super::Shares;
use super::auth::{Caller, Role};
use super::input::Page;
use super::problem::ApiError;

#[derive(Debug, Serialize, ToSchema)]
pub struct SystemState {
    name: String,
    kind: String,
    /// Whether calls go through now, as this process sees it; when not, why and until when.
    #[schema(value_type = Object)]
    availability: Availability,
    #[schema(value_type = Object)]
    capabilities: Capabilities,
    /// What a leaver's access needs and this system cannot do.
    gaps: Vec<String>,
    /// Accounts by status, as the directory knows.
    #[schema(value_type = Vec<Object>)]
    accounts: Vec<AccountCount>,
}

/// The configured systems
#[utoipa::path(
    get, path = "/v1/systems", tag = "systems", security(("token" = ["read"])),
    responses((status = 200, body = Page<SystemState>))
)]
pub(super) async fn list(
    State(api): Shares,
    caller: Caller,
) -> Result<Json<Page<SystemState>>, ApiError> {
    caller.require(Role::Read)?;
    let counts = api.database.directory.account_counts().await?;
    let items = api.systems.iter().map(|system| SystemState {
        name: system.name().to_owned(),
        kind: system.kind().to_owned(),
        availability: system.connector().availability(),
        capabilities: system.capabilities().clone(),
        gaps: system.gaps(),
        accounts: counts
            .iter()
            .filter(|count| count.system == system.name())
            .cloned()
            .collect(),
    });
    Ok(Json(Page {
        items: items.collect(),
        next: None,
    }))
}
