//! `/scim/v2`: where HR systems and identity providers push people and groups (SCIM 2.0; RFC 7643, 7644, 9865).
//!
//! SCIM describes itself (`/Schemas`, `/ResourceTypes`, `/ServiceProviderConfig`) and has errors of its own, so none of
//! this is in the OpenAPI document and none of it answers with problem details.
//!
//! A token reaches one source: the one of `kind: scim` that names it in `tokens`. Without such a source, or without
//! the role `provision`, there is no way in.

pub mod answer;
mod bulk;
mod discovery;
mod listing;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, Path as UrlPath, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use engine::core::id::Actor;
use serde_json::Value;
use uuid::Uuid;
use workflows::directory::resources::{ResourceRow, Wanted};
use workflows::intake::{Action, Outcome, Push, PushError};
use workflows::scim::{BULK_BYTES_MAX, Kind, ListQuery, Refusal, Selection, etag, etag_matches};
use workflows::sources::Source;

use super::auth::{Caller, Role};
use super::input;
use super::problem::ApiError;
use super::{Api, Shared};
use answer::{Refused, resource};

/// Where it lies.
pub const PATH: &str = "/scim/v2";
/// The largest body of one resource or one search, in bytes. A group of the most members fits.
const BODY_BYTES_MAX: usize = 2 * 1024 * 1024;
/// The longest identifier that can be one of ours, in bytes.
const ID_BYTES_MAX: usize = 64;

/// The two kinds of resource, in the order in which a search over both lists them.
const KINDS: [Kind; 2] = [Kind::Person, Kind::Group];

/// Whether a request is spoken to in SCIM.
pub(super) fn is_path(path: &str) -> bool {
    path.strip_prefix(PATH)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// An error of the API in SCIM's form.
pub(super) fn refused(error: ApiError) -> Response {
    Refused(error.into()).into_response()
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        let (status, detail) = error.told();
        let scim_type = match status {
            400 => Some("invalidSyntax"),
            422 => Some("invalidValue"),
            _ => None,
        };
        // SCIM knows 400 only.
        let status = if status == 422 { 400 } else { status };
        Self::new(status, scim_type, &detail)
    }
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self(error.into())
    }
}

impl From<PushError> for Refused {
    fn from(error: PushError) -> Self {
        match error {
            PushError::Refused(refusal) => Self(refusal),
            PushError::Store(error) => ApiError::from(error).into(),
        }
    }
}

impl From<engine::store::StoreError> for Refused {
    fn from(error: engine::store::StoreError) -> Self {
        ApiError::from(error).into()
    }
}

/// Which source each token pushes.
pub(super) fn doors(sources: &BTreeMap<String, Arc<Source>>) -> BTreeMap<String, Arc<Source>> {
    sources
        .values()
        .filter(|source| source.is_scim())
        .flat_map(|source| {
            let tokens = source.tokens().iter();
            tokens.map(|token| (token.clone(), Arc::clone(source)))
        })
        .collect()
}

pub(super) fn routes() -> Router<Api> {
    let mut router = Router::new()
        .route("/", root())
        .route("/.search", post(listing::search_everything))
        .route("/Bulk", post(bulk::post))
        .route("/Me", axum::routing::any(me))
        .route("/ServiceProviderConfig", get(discovery::service_provider))
        .route("/Schemas", get(discovery::schemas))
        .route("/Schemas/{id}", get(discovery::schema))
        .route("/ResourceTypes", get(discovery::resource_types))
        .route("/ResourceTypes/{id}", get(discovery::resource_type));
    for kind in KINDS {
        let endpoint = kind.endpoint();
        let list = move |door: Door, query: Query<Pairs>| listing::get(kind, door, query.0);
        let search = move |door: Door, body: Json| listing::search(kind, door, body);
        let make =
            move |door: Door, query: Query<Pairs>, body: Json| create(kind, door, query.0, body);
        let read =
            move |door: Door, id: UrlPath<String>, query: Query<Pairs>, headers: HeaderMap| {
                show(kind, door, id.0, query.0, headers)
            };
        let put =
            move |door: Door,
                  id: UrlPath<String>,
                  query: Query<Pairs>,
                  headers: HeaderMap,
                  body: Json| { replace(kind, door, id.0, query.0, headers, body) };
        let patch =
            move |door: Door,
                  id: UrlPath<String>,
                  query: Query<Pairs>,
                  headers: HeaderMap,
                  body: Json| { change(kind, door, id.0, query.0, headers, body) };
        let remove = move |door: Door, id: UrlPath<String>, headers: HeaderMap| {
            delete(kind, door, id.0, headers)
        };
        router = router
            .route(&format!("/{endpoint}"), get(list).post(make))
            .route(&format!("/{endpoint}/.search"), post(search))
            .route(
                &format!("/{endpoint}/{{id}}"),
                get(read).put(put).patch(patch).delete(remove),
            );
    }
    router
        .fallback(|| async { Refused(Refusal::not_found("the address")) })
        .method_not_allowed_fallback(|| async { Refused(Refusal::method_not_allowed()) })
}

/// Everything there is. Also with a slash at the end, which is another path.
pub(super) fn root() -> MethodRouter<Api> {
    get(listing::everything).fallback(|| async { Refused(Refusal::method_not_allowed()) })
}

type Pairs = Vec<(String, String)>;

/// A caller who may push people of a source.
pub(super) struct Door {
    api: Api,
    source: Arc<Source>,
    actor: Actor,
    /// The address under which the caller reaches this server.
    base: String,
}

impl FromRequestParts<Api> for Door {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Refused> {
        let caller = parts.extensions.get::<Caller>().cloned();
        let caller = caller.ok_or(ApiError::Unauthenticated)?;
        let source = Self::source(api, &caller).ok_or_else(|| {
            Refusal::new(
                403,
                None,
                "this takes a token with the role `provision` that a source of `kind: scim` names in `tokens`",
            )
        })?;
        Ok(Self {
            api: Arc::clone(api),
            source,
            actor: caller.actor,
            base: base(&parts.headers),
        })
    }
}

impl Door {
    fn source(api: &Shared, caller: &Caller) -> Option<Arc<Source>> {
        // Not by being included: whoever administers is no source.
        if !caller.roles.contains(&Role::Provision) {
            return None;
        }
        let token = caller.actor.0.strip_prefix("token:")?;
        api.scim.get(token).map(Arc::clone)
    }

    async fn push(
        &self,
        kind: Kind,
        id: &str,
        if_match: Option<&str>,
        action: Action,
    ) -> Result<Outcome, Refused> {
        let push = Push {
            source: &self.source,
            kind,
            id,
            if_match,
            action,
            by: &self.actor,
        };
        let outcome = self.api.intake.push(&push, self.api.clock.now()).await?;
        if outcome.cases > 0 {
            self.api.nudge.notify_one();
        }
        if outcome.events > 0 {
            self.api.event_nudge.notify_one();
        }
        Ok(outcome)
    }

    /// Whoever looks is there, even without news.
    async fn heard(&self) {
        let intake = &self.api.intake;
        intake
            .heard_or_logged(self.source.name(), self.api.clock.now(), false)
            .await;
    }

    async fn read(&self, kind: Kind, id: &str) -> Result<ResourceRow, Refused> {
        let wanted = Wanted::Id(id.to_owned());
        let directory = &self.api.database.directory;
        let found = directory
            .resource(self.source.name(), kind, &wanted)
            .await?;
        Ok(found.ok_or_else(|| Refusal::not_found(id))?)
    }

    /// The resource as the caller wants to see it.
    async fn shown(
        &self,
        kind: Kind,
        row: &ResourceRow,
        selection: &Selection,
    ) -> Result<Value, Refused> {
        let others = listing::others(self, kind, std::slice::from_ref(row), selection).await?;
        let none = Vec::new();
        let others = others.get(&row.resource_id).unwrap_or(&none);
        let whole = row.whole(kind, others, Some(&self.base));
        Ok(selection.cut(Value::Object(whole)))
    }

    async fn answer(
        &self,
        status: StatusCode,
        kind: Kind,
        row: &ResourceRow,
        selection: &Selection,
    ) -> Result<Response, Refused> {
        let shown = self.shown(kind, row, selection).await?;
        let location = self.location(kind, &row.resource_id);
        Ok(resource(
            status,
            &shown,
            &etag(row.version),
            Some(&location),
        ))
    }

    fn location(&self, kind: Kind, id: &str) -> String {
        format!("{}/{}/{id}", self.base, kind.endpoint())
    }
}

/// How the caller addressed this server. A proxy that speaks TLS in front of it says so in a header; both only show in
/// the addresses of resources, to whoever sent them.
fn base(headers: &HeaderMap) -> String {
    let plain = |name: HeaderName, good: fn(char) -> bool| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .filter(|value| !value.is_empty() && value.len() <= 255 && value.chars().all(good))
            .map(str::to_owned)
    };
    let host = plain(header::HOST, |c| {
        c.is_ascii_alphanumeric() || ".-:[]".contains(c)
    });
    let scheme = plain(HeaderName::from_static("x-forwarded-proto"), |c| {
        c.is_ascii_alphabetic()
    });
    let scheme = scheme.filter(|scheme| scheme == "https");
    format!(
        "{}://{}{PATH}",
        scheme.as_deref().unwrap_or("http"),
        host.as_deref().unwrap_or("localhost")
    )
}

/// A JSON body.
pub(super) struct Json(Result<Value, Refused>);

impl<S: Send + Sync> axum::extract::FromRequest<S> for Json {
    type Rejection = std::convert::Infallible;

    async fn from_request(request: Request, _: &S) -> Result<Self, Self::Rejection> {
        let (parts, body) = request.into_parts();
        let bytes_max = if parts.uri.path().ends_with("/Bulk") {
            BULK_BYTES_MAX
        } else {
            BODY_BYTES_MAX
        };
        Ok(Self(json(&parts.headers, body, bytes_max).await))
    }
}

async fn json(headers: &HeaderMap, body: Body, bytes_max: usize) -> Result<Value, Refused> {
    let media = input::media_type(headers);
    if !matches!(media.as_str(), "application/scim+json" | "application/json") {
        return Err(ApiError::UnsupportedMedia {
            expected: "`application/scim+json` or `application/json`",
        }
        .into());
    }
    let bytes = input::body(headers, body, bytes_max).await?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Refusal::invalid_syntax(&format!("the body is not JSON: {error}")).into())
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// An identifier that can be one of ours.
fn known(id: &str) -> Result<(), Refusal> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if id.is_empty() || id.len() > ID_BYTES_MAX || !id.chars().all(good) {
        let shown: String = id.chars().take(ID_BYTES_MAX).collect();
        return Err(Refusal::not_found(&shown));
    }
    Ok(())
}

fn selected(kind: Kind, pairs: &Pairs) -> Result<Selection, Refusal> {
    let query = ListQuery::of_parameters(
        pairs
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str())),
    )?;
    selection(kind, &query)
}

fn selection(kind: Kind, query: &ListQuery) -> Result<Selection, Refusal> {
    Selection::parse(
        kind,
        query.attributes.as_ref(),
        query.excluded_attributes.as_ref(),
    )
}

fn new_id() -> String {
    Uuid::new_v4().to_string()
}

async fn me(_: Door) -> Refused {
    Refused(Refusal::new(
        501,
        None,
        "`/Me` is not offered: a token is no person",
    ))
}

/// Checks a whole resource.
fn accepted(kind: Kind, body: &Value) -> Result<serde_json::Map<String, Value>, Refusal> {
    let accepted = kind.accept(body)?;
    kind.check_required(&accepted)?;
    Ok(accepted)
}

async fn create(kind: Kind, door: Door, query: Pairs, body: Json) -> Result<Response, Refused> {
    let selection = selected(kind, &query)?;
    let accepted = accepted(kind, &body.0?)?;
    let outcome = door
        .push(kind, &new_id(), None, Action::Create(accepted))
        .await?;
    done(&door, StatusCode::CREATED, kind, outcome, &selection).await
}

async fn done(
    door: &Door,
    status: StatusCode,
    kind: Kind,
    outcome: Outcome,
    selection: &Selection,
) -> Result<Response, Refused> {
    match outcome.resource {
        Some(row) => door.answer(status, kind, &row, selection).await,
        None => Ok(StatusCode::NO_CONTENT.into_response()),
    }
}

async fn show(
    kind: Kind,
    door: Door,
    id: String,
    query: Pairs,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    known(&id)?;
    let selection = selected(kind, &query)?;
    let row = door.read(kind, &id).await?;
    let known = text(&headers, header::IF_NONE_MATCH);
    if known.is_some_and(|known| etag_matches(known, row.version)) {
        let headers = [(header::ETAG, etag(row.version))];
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    door.answer(StatusCode::OK, kind, &row, &selection).await
}

async fn replace(
    kind: Kind,
    door: Door,
    id: String,
    query: Pairs,
    headers: HeaderMap,
    body: Json,
) -> Result<Response, Refused> {
    known(&id)?;
    let selection = selected(kind, &query)?;
    let accepted = accepted(kind, &body.0?)?;
    let if_match = text(&headers, header::IF_MATCH);
    let outcome = door
        .push(kind, &id, if_match, Action::Replace(accepted))
        .await?;
    done(&door, StatusCode::OK, kind, outcome, &selection).await
}

async fn change(
    kind: Kind,
    door: Door,
    id: String,
    query: Pairs,
    headers: HeaderMap,
    body: Json,
) -> Result<Response, Refused> {
    known(&id)?;
    let selection = selected(kind, &query)?;
    let request = body.0?;
    let if_match = text(&headers, header::IF_MATCH);
    let outcome = door
        .push(kind, &id, if_match, Action::Patch(request))
        .await?;
    done(&door, StatusCode::OK, kind, outcome, &selection).await
}

async fn delete(
    kind: Kind,
    door: Door,
    id: String,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    known(&id)?;
    let if_match = text(&headers, header::IF_MATCH);
    door.push(kind, &id, if_match, Action::Delete).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
