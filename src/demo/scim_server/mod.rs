//! A small SCIM 2.0 application (RFC 7643, RFC 7644), real as far as it goes: its own storage, real HTTP on the
//! loopback, bearer token, filters, PATCH, paging, ETags, uniqueness.
//!
//! The demo needs an application that nobody has to install. What it does not offer (bulk, sorting, `/Me`) it
//! does not declare.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Path as UrlPath, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use subtle::ConstantTimeEq;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

mod storage;

#[cfg(test)]
mod tests;

use workflows::scim::{Comparison, Filter, Kind, Names, Refusal, Selection, apply, schema};

use crate::api::scim::answer::{Refused, list, plain, resource};
use storage::{Row, Storage, Wanted, etag, name_key};

/// The largest request.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// The most resources on one page.
const PAGE_MAX: u64 = 1_000;
const PAGE_DEFAULT: u64 = 100;

/// A running server; stops when told to, or when dropped.
pub struct ScimServer {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
    storage: Arc<Storage>,
}

impl ScimServer {
    /// Starts on the loopback with its users and groups in `file`. Port 0 takes any free one.
    ///
    /// # Errors
    /// When the port or the file cannot be had.
    pub async fn start(file: &Path, port: u16, token: &str) -> anyhow::Result<Self> {
        let storage = Arc::new(Storage::open(file).await?);
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let address = listener.local_addr()?;
        let server = Arc::new(Server {
            storage: Arc::clone(&storage),
            base: format!("http://{address}/v2"),
            token: token.to_owned(),
        });
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let serve = axum::serve(listener, router(server)).with_graceful_shutdown(stopped);
        let task = tokio::spawn(async move { serve.await });
        Ok(Self {
            address,
            stop,
            task,
            storage,
        })
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What a connector calls `base_url`.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}/v2", self.address)
    }

    /// How often each kind of change took effect: `created`, `disabled`, `member_added` and so on.
    ///
    /// # Errors
    /// When the storage cannot be read.
    pub async fn changes(&self) -> anyhow::Result<std::collections::BTreeMap<String, u64>> {
        Ok(storage::changes(&self.storage).await?)
    }

    /// Stops, letting requests under way finish.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let _ = (&mut self.task).await;
        self.storage.close().await;
    }
}

impl Drop for ScimServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Server {
    storage: Arc<Storage>,
    base: String,
    token: String,
}

type Shared = State<Arc<Server>>;

fn router(server: Arc<Server>) -> Router {
    let collection = |kind: Kind| {
        get(move |state: Shared, query: Query<ListQuery>| find(kind, state, query.0)).post(
            move |state: Shared, query: Query<ViewQuery>, body: Body| {
                create(kind, state, query.0, body)
            },
        )
    };
    let one = |kind: Kind| {
        get(
            move |state: Shared,
                  id: UrlPath<String>,
                  query: Query<ViewQuery>,
                  headers: HeaderMap| { show(kind, state, id.0, query.0, headers) },
        )
        .put(
            move |state: Shared,
                  id: UrlPath<String>,
                  query: Query<ViewQuery>,
                  headers: HeaderMap,
                  body: Body| { replace(kind, state, id.0, query.0, headers, body) },
        )
        .patch(
            move |state: Shared,
                  id: UrlPath<String>,
                  query: Query<ViewQuery>,
                  headers: HeaderMap,
                  body: Body| { change(kind, state, id.0, query.0, headers, body) },
        )
        .delete(
            move |state: Shared, id: UrlPath<String>, headers: HeaderMap| {
                delete(kind, state, id.0, headers)
            },
        )
    };
    let search = |kind: Kind| {
        axum::routing::post(move |state: Shared, body: Body| async move {
            let query = ListQuery::of_body(body.0?)?;
            find(kind, state, query).await
        })
    };
    let routes = Router::new()
        .route("/ServiceProviderConfig", get(service_provider_config))
        .route("/Schemas", get(schemas))
        .route("/Schemas/{id}", get(one_schema))
        .route("/ResourceTypes", get(resource_types))
        .route("/ResourceTypes/{id}", get(one_resource_type))
        .route("/Users", collection(Kind::User))
        .route("/Users/.search", search(Kind::User))
        .route("/Users/{id}", one(Kind::User))
        .route("/Groups", collection(Kind::Group))
        .route("/Groups/.search", search(Kind::Group))
        .route("/Groups/{id}", one(Kind::Group))
        .fallback(|| async { Refused(Refusal::not_found("the address")) })
        .route("/.search", axum::routing::post(find_all))
        .method_not_allowed_fallback(|| async { Refused(Refusal::method_not_allowed()) });
    Router::new()
        .nest("/v2", routes)
        .fallback(|| async { Refused(Refusal::not_found("the address")) })
        .layer(middleware::from_fn_with_state(
            Arc::clone(&server),
            authenticate,
        ))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(server)
}

async fn authenticate(State(server): Shared, request: Request, next: Next) -> Response {
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .map(axum::http::HeaderValue::as_bytes)
        .unwrap_or_default();
    let wanted = format!("Bearer {}", server.token);
    if bool::from(given.ct_eq(wanted.as_bytes())) {
        next.run(request).await
    } else {
        Refused(Refusal::unauthorised()).into_response()
    }
}

/// A JSON body of any content type; what is wrong with it becomes SCIM's own error.
struct Body(Result<Value, Refusal>);

impl<S: Send + Sync> axum::extract::FromRequest<S> for Body {
    type Rejection = std::convert::Infallible;
    async fn from_request(request: Request, state: &S) -> Result<Self, Self::Rejection> {
        let bytes = axum::body::Bytes::from_request(request, state).await;
        Ok(Self(match bytes {
            Ok(bytes) => Json::<Value>::from_bytes(&bytes)
                .map(|it| it.0)
                .map_err(|error| Refusal::invalid_syntax(&error.body_text())),
            Err(error) => Err(Refusal::invalid_syntax(&error.body_text())),
        }))
    }
}

/// What a client wants to see of a resource.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ViewQuery {
    attributes: Option<Names>,
    excluded_attributes: Option<Names>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListQuery {
    attributes: Option<Names>,
    excluded_attributes: Option<Names>,
    filter: Option<String>,
    start_index: Option<i64>,
    count: Option<i64>,
}

impl ListQuery {
    fn of_body(body: Value) -> Result<Self, Refusal> {
        serde_json::from_value(body)
            .map_err(|error| Refusal::invalid_syntax(&format!("not a search request: {error}")))
    }

    /// The first resource wanted, counted from 1, and how many.
    fn page(&self) -> (u64, u64) {
        let start = self.start_index.unwrap_or(1);
        let count = self
            .count
            .map_or(PAGE_DEFAULT, |count| u64::try_from(count).unwrap_or(0));
        (
            u64::try_from(start).unwrap_or(1).max(1),
            count.min(PAGE_MAX),
        )
    }
}

fn selection(
    kind: Kind,
    only: Option<&Names>,
    without: Option<&Names>,
) -> Result<Selection, Refusal> {
    Selection::parse(kind, only, without)
}

fn if_match(headers: &HeaderMap) -> Option<&str> {
    headers
        .get(header::IF_MATCH)
        .and_then(|value| value.to_str().ok())
}

async fn find(kind: Kind, State(server): Shared, query: ListQuery) -> Result<Response, Refused> {
    let (start, count) = query.page();
    let (shown, total) = page(&server, kind, &query, start, count).await?;
    Ok(list(shown, total, start))
}

/// A search over both kinds (RFC 7644, 3.4.3). A kind that has no such attribute has no such resource.
async fn find_all(State(server): Shared, body: Body) -> Result<Response, Refused> {
    let query = ListQuery::of_body(body.0?)?;
    let (start, count) = query.page();
    let (mut shown, mut total, mut refused) = (Vec::new(), 0, Vec::new());
    for kind in [Kind::User, Kind::Group] {
        let first = start.saturating_sub(total).max(1);
        let most = count.saturating_sub(u64::try_from(shown.len()).unwrap_or(u64::MAX));
        match page(&server, kind, &query, first, most).await {
            Ok((found, there)) => {
                shown.extend(found);
                total += there;
            }
            Err(refusal) => refused.push(refusal),
        }
    }
    match refused.pop() {
        Some(refusal) if !refused.is_empty() => Err(refusal.into()),
        _ => Ok(list(shown, total, start)),
    }
}

/// The resources of one kind on one page, and how many there are in all.
async fn page(
    server: &Server,
    kind: Kind,
    query: &ListQuery,
    start: u64,
    count: u64,
) -> Result<(Vec<Value>, u64), Refusal> {
    let selection = selection(
        kind,
        query.attributes.as_ref(),
        query.excluded_attributes.as_ref(),
    )?;
    let filter = query
        .filter
        .as_deref()
        .map(|text| Filter::parse(kind, text))
        .transpose()?;
    let (wanted, rest) = indexed(kind, filter);
    let mut shown = Vec::new();
    let total = if rest.is_empty() {
        let found = server
            .storage
            .find(kind, &wanted, Some((start - 1, count)))
            .await?;
        for row in found.rows {
            shown.push(
                server
                    .whole(
                        kind,
                        row,
                        selection.shows("members"),
                        selection.shows("groups"),
                    )
                    .await?,
            );
        }
        found.total
    } else {
        let reads = |name: &str| rest.iter().any(|part| part.reads(name));
        let (members, groups) = (reads("members"), reads("groups"));
        let mut total: u64 = 0;
        for row in server.storage.find(kind, &wanted, None).await?.rows {
            let show_members = members || selection.shows("members");
            let whole = server
                .whole(kind, row, show_members, groups || selection.shows("groups"))
                .await?;
            if !whole
                .as_object()
                .is_some_and(|fields| rest.iter().all(|part| part.matches(fields)))
            {
                continue;
            }
            total += 1;
            if total >= start && u64::try_from(shown.len()).unwrap_or(u64::MAX) < count {
                shown.push(whole);
            }
        }
        total
    };
    let shown = shown
        .into_iter()
        .map(|whole| selection.cut(whole))
        .collect();
    Ok((shown, total))
}

/// Splits a filter into what an index answers and what has to be looked at row by row.
fn indexed(kind: Kind, filter: Option<Filter>) -> (Wanted, Vec<Filter>) {
    let mut wanted = Wanted::default();
    let mut rest = Vec::new();
    for part in filter.into_iter().flat_map(Filter::conjuncts) {
        let slot = match &part {
            Filter::Compare(path, Comparison::Equal, Value::String(text))
                if path.schema.is_none() =>
            {
                let sub = path.sub.map(|sub| sub.name);
                match (kind, path.attribute.name, sub) {
                    (_, "id", None) => Some((&mut wanted.id, text.clone())),
                    (_, "externalId", None) => Some((&mut wanted.external_id, text.clone())),
                    (Kind::User, "userName", None) | (Kind::Group, "displayName", None) => {
                        Some((&mut wanted.name_key, name_key(text)))
                    }
                    (Kind::Group, "members", None | Some("value")) => {
                        Some((&mut wanted.member, text.clone()))
                    }
                    _ => None,
                }
            }
            _ => None,
        };
        match slot {
            Some((slot @ None, value)) => *slot = Some(value),
            _ => rest.push(part),
        }
    }
    (wanted, rest)
}

async fn create(
    kind: Kind,
    State(server): Shared,
    query: ViewQuery,
    body: Body,
) -> Result<Response, Refused> {
    let selection = selection(
        kind,
        query.attributes.as_ref(),
        query.excluded_attributes.as_ref(),
    )?;
    let mut accepted = kind.accept(&body.0?)?;
    kind.check_required(&accepted)?;
    if kind == Kind::User {
        accepted.entry("active").or_insert(Value::Bool(true));
    }
    let row = server.storage.insert(kind, accepted).await?;
    server
        .answer(StatusCode::CREATED, kind, row, &selection)
        .await
}

async fn show(
    kind: Kind,
    State(server): Shared,
    id: String,
    query: ViewQuery,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let selection = selection(
        kind,
        query.attributes.as_ref(),
        query.excluded_attributes.as_ref(),
    )?;
    let row = server
        .storage
        .get(kind, &id)
        .await?
        .ok_or_else(|| Refusal::not_found(&id))?;
    let known = headers
        .get(header::IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok());
    if known.is_some_and(|known| known == etag(row.version)) {
        return Ok((
            StatusCode::NOT_MODIFIED,
            [(header::ETAG, etag(row.version))],
        )
            .into_response());
    }
    server.answer(StatusCode::OK, kind, row, &selection).await
}

async fn replace(
    kind: Kind,
    State(server): Shared,
    id: String,
    query: ViewQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let selection = selection(
        kind,
        query.attributes.as_ref(),
        query.excluded_attributes.as_ref(),
    )?;
    let mut accepted = kind.accept(&body.0?)?;
    kind.check_required(&accepted)?;
    let change = move |before: &Map<String, Value>| {
        // What the body does not say is cleared, but nobody is let in or out by silence.
        if let (Kind::User, Some(active)) = (kind, before.get("active")) {
            accepted.entry("active").or_insert(active.clone());
        }
        Ok(accepted)
    };
    let row = server
        .storage
        .update(kind, &id, if_match(&headers), change)
        .await?;
    server.answer(StatusCode::OK, kind, row, &selection).await
}

async fn change(
    kind: Kind,
    State(server): Shared,
    id: String,
    query: ViewQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let selection = selection(
        kind,
        query.attributes.as_ref(),
        query.excluded_attributes.as_ref(),
    )?;
    let request = body.0?;
    let change = |before: &Map<String, Value>| apply(kind, before, &request);
    let row = server
        .storage
        .update(kind, &id, if_match(&headers), change)
        .await?;
    server.answer(StatusCode::OK, kind, row, &selection).await
}

async fn delete(
    kind: Kind,
    State(server): Shared,
    id: String,
    headers: HeaderMap,
) -> Result<StatusCode, Refused> {
    server.storage.delete(kind, &id, if_match(&headers)).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl Server {
    async fn answer(
        &self,
        status: StatusCode,
        kind: Kind,
        row: Row,
        selection: &Selection,
    ) -> Result<Response, Refused> {
        let version = etag(row.version);
        let whole = self
            .whole(
                kind,
                row,
                selection.shows("members"),
                selection.shows("groups"),
            )
            .await?;
        let location = whole
            .pointer("/meta/location")
            .and_then(Value::as_str)
            .map(str::to_owned);
        // The headers stay even when `meta` was cut from the body.
        Ok(resource(
            status,
            &selection.cut(whole),
            &version,
            location.as_deref(),
        ))
    }

    /// The resource with everything that is computed.
    async fn whole(
        &self,
        kind: Kind,
        row: Row,
        members: bool,
        groups: bool,
    ) -> Result<Value, Refusal> {
        let mut fields = row.body;
        let mut schemas = vec![kind.schema()];
        schemas.extend(
            kind.extensions()
                .iter()
                .filter(|urn| fields.contains_key(**urn)),
        );
        fields.insert("schemas".to_owned(), json!(schemas));
        fields.insert("id".to_owned(), json!(row.id));
        fields.insert(
            "meta".to_owned(),
            json!({
                "resourceType": kind.name(),
                "created": row.created,
                "lastModified": row.modified,
                "location": format!("{}/{}/{}", self.base, kind.endpoint(), row.id),
                "version": etag(row.version),
            }),
        );
        let (name, found, endpoint, of) = match kind {
            Kind::Group if members => (
                "members",
                self.storage.members(&row.id).await?,
                "Users",
                "User",
            ),
            Kind::User if groups => (
                "groups",
                self.storage.groups_of(&row.id).await?,
                "Groups",
                "direct",
            ),
            _ => return Ok(Value::Object(fields)),
        };
        if !found.is_empty() {
            let found = found.into_iter().map(|(id, display)| {
                let reference = format!("{}/{endpoint}/{id}", self.base);
                let mut entry = json!({ "value": id, "$ref": reference, "type": of });
                if let (Kind::User, Value::Object(fields)) = (kind, &mut entry) {
                    fields.insert("display".to_owned(), json!(display));
                }
                entry
            });
            fields.insert(name.to_owned(), Value::Array(found.collect()));
        }
        Ok(Value::Object(fields))
    }
}

/// Discovery answers whole lists, and takes no filter (RFC 7644, 4).
fn discovery(query: &ListQuery, documents: Vec<Value>) -> Response {
    if query.filter.is_some() {
        return plain(
            StatusCode::FORBIDDEN,
            &json!({
                "schemas": ["urn:ietf:params:scim:api:messages:2.0:Error"],
                "status": "403",
                "detail": "no filter is allowed here",
            }),
        );
    }
    let total = u64::try_from(documents.len()).unwrap_or(u64::MAX);
    list(documents, total, 1)
}

async fn service_provider_config(State(server): Shared) -> Response {
    plain(
        StatusCode::OK,
        &json!({
            "schemas": ["urn:ietf:params:scim:schemas:core:2.0:ServiceProviderConfig"],
            "documentationUri": "https://www.rfc-editor.org/rfc/rfc7644",
            "patch": { "supported": true },
            "bulk": { "supported": false, "maxOperations": 0, "maxPayloadSize": 0 },
            "filter": { "supported": true, "maxResults": PAGE_MAX },
            "changePassword": { "supported": true },
            "sort": { "supported": false },
            "etag": { "supported": true },
            "authenticationSchemes": [{
                "type": "oauthbearertoken",
                "name": "Bearer token",
                "description": "A token in the Authorization header",
                "primary": true,
            }],
            "meta": {
                "resourceType": "ServiceProviderConfig",
                "location": format!("{}/ServiceProviderConfig", server.base),
            },
        }),
    )
}

async fn schemas(State(server): Shared, Query(query): Query<ListQuery>) -> Response {
    discovery(
        &query,
        Kind::User
            .schemas()
            .chain(Kind::Group.schemas())
            .map(|it| schema::document(it, &server.base))
            .collect(),
    )
}

async fn one_schema(
    State(server): Shared,
    UrlPath(id): UrlPath<String>,
) -> Result<Response, Refused> {
    let found = Kind::User
        .schemas()
        .chain(Kind::Group.schemas())
        .find(|schema| schema.urn.eq_ignore_ascii_case(&id));
    let found = found.ok_or_else(|| Refusal::not_found(&id))?;
    Ok(plain(
        StatusCode::OK,
        &schema::document(found, &server.base),
    ))
}

async fn resource_types(State(server): Shared, Query(query): Query<ListQuery>) -> Response {
    discovery(
        &query,
        [Kind::User, Kind::Group]
            .map(|kind| schema::resource_type(kind, &server.base))
            .to_vec(),
    )
}

async fn one_resource_type(
    State(server): Shared,
    UrlPath(id): UrlPath<String>,
) -> Result<Response, Refused> {
    let found = [Kind::User, Kind::Group]
        .into_iter()
        .find(|kind| kind.name().eq_ignore_ascii_case(&id));
    let found = found.ok_or_else(|| Refusal::not_found(&id))?;
    Ok(plain(
        StatusCode::OK,
        &schema::resource_type(found, &server.base),
    ))
}
