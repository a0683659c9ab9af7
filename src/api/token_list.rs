//! `/v1/tokens`: who may call.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shares;
use super::auth::{Caller, Role};
use super::input::{self, Page, Path};
use super::problem::{ApiError, Problem};
use super::tokens::{NewToken, Token, TokenError};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Wish {
    /// Stands in the evidence as `token:NAME`; never given out twice.
    name: String,
    roles: BTreeSet<Role>,
    /// At most 366 days ahead.
    expires_at: DateTime<Utc>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Made {
    name: String,
    /// Shown this once.
    token: String,
}

impl From<TokenError> for ApiError {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Name(_) => Self::wrong("/name", error.to_string()),
            TokenError::NoRole => Self::wrong("/roles", error.to_string()),
            TokenError::Life => Self::wrong("/expires_at", error.to_string()),
            TokenError::NameTaken(_) => Self::Conflict(error.to_string()),
            TokenError::Store(error) => error.into(),
        }
    }
}

/// All tokens, without their secrets
#[utoipa::path(
    get, path = "/v1/tokens", tag = "tokens", security(("token" = ["admin"])),
    responses((status = 200, body = Page<Token>))
)]
pub(super) async fn list(
    State(api): Shares,
    caller: Caller,
) -> Result<Json<Page<Token>>, ApiError> {
    caller.require(Role::Admin)?;
    Ok(Json(Page {
        items: api.tokens.list().await?,
        next: None,
    }))
}

/// Make a token
#[utoipa::path(
    post, path = "/v1/tokens", tag = "tokens", security(("token" = ["admin"])), request_body = Wish,
    responses((status = 201, body = Made), (status = 409, body = Problem), (status = 422, body = Problem))
)]
pub(super) async fn create(
    State(api): Shares,
    caller: Caller,
    input::Json(wish): input::Json<Wish>,
) -> Result<(StatusCode, Json<Made>), ApiError> {
    let by = caller.require(Role::Admin)?;
    let new = NewToken {
        name: wish.name,
        roles: wish.roles,
        expires_at: wish.expires_at,
    };
    let token = api.tokens.create(&new, api.clock.now()).await?;
    tracing::info!(token = new.name, by = by.0, "a token was made");
    Ok((
        StatusCode::CREATED,
        Json(Made {
            name: new.name,
            token: token.expose_secret().to_owned(),
        }),
    ))
}

/// End a token at once
#[utoipa::path(
    delete, path = "/v1/tokens/{name}", tag = "tokens", security(("token" = ["admin"])), params(("name" = String, Path)),
    responses((status = 204), (status = 404, body = Problem))
)]
pub(super) async fn revoke(
    State(api): Shares,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    let by = caller.require(Role::Admin)?;
    if api.tokens.revoke(&name, api.clock.now()).await? {
        tracing::info!(token = name, by = by.0, "a token was revoked");
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(ApiError::NotFound(
            "there is no such token, or it was revoked before".to_owned(),
        ))
    }
}
