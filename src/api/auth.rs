//! Who calls, and what they may do.
//!
//! Every path but the open ones takes a token, or the signature of a source, also paths that do not exist: without one
//! nobody learns which do.
//! With one that may read, everything can be read. One that may only provision reads what it pushed, and nothing else.

use std::collections::BTreeSet;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::header;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use engine::core::id::Actor;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Api;
use super::events::signed;
use super::links;
use super::problem::ApiError;
use super::scim;

/// Paths that take no token.
const OPEN: [&str; 3] = ["/healthz", "/readyz", "/openapi.json"];

/// What a token allows. `operate` and `approve` include `read`; `admin` includes all.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Look at everything.
    Read,
    /// Send events and files; retry, skip, cancel and signal cases; finish tasks.
    Operate,
    /// Answer approvals; approve or reject imports that the guard stopped.
    Approve,
    /// Make and revoke tokens.
    Admin,
    /// Push people of one source over SCIM. Includes nothing else, not even looking.
    Provision,
}

impl Role {
    pub const ALL: [Self; 5] = [
        Self::Read,
        Self::Operate,
        Self::Approve,
        Self::Admin,
        Self::Provision,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Approve => "approve",
            Self::Admin => "admin",
            Self::Provision => "provision",
        }
    }

    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == name)
    }
}

/// Whoever presented a good token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The name in the evidence.
    pub actor: Actor,
    pub roles: BTreeSet<Role>,
}

impl Caller {
    /// # Errors
    /// [`ApiError::Forbidden`] when no role of the caller includes `needs`.
    pub fn require(&self, needs: Role) -> Result<&Actor, ApiError> {
        let looks = |role: &Role| *role != Role::Provision;
        let included = needs == Role::Read && self.roles.iter().any(looks);
        if included || self.roles.contains(&needs) || self.roles.contains(&Role::Admin) {
            Ok(&self.actor)
        } else {
            Err(ApiError::Forbidden { needs })
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or(ApiError::Unauthenticated)
    }
}

/// Lets nobody past without a good token.
pub(super) async fn authenticate(
    State(api): State<Api>,
    mut request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    if OPEN.contains(&path)
        || signed::decides(request.method(), path, request.headers())
        || links::decides(&api, request.method(), path)
    {
        return next.run(request).await;
    }
    let in_scim = scim::is_path(path);
    match caller(&api, presented(&request)).await {
        Ok(caller) => {
            tracing::Span::current().record("actor", caller.actor.0.as_str());
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(error) if in_scim => scim::refused(error),
        Err(error) => error.into_response(),
    }
}

/// The token, if there is one.
fn presented(request: &Request) -> Option<String> {
    request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim().to_owned())
}

async fn caller(api: &Api, presented: Option<String>) -> Result<Caller, ApiError> {
    let presented = presented.ok_or(ApiError::Unauthenticated)?;
    api.tokens
        .authenticate(&presented, api.clock.now())
        .await?
        .ok_or(ApiError::Unauthenticated)
}
