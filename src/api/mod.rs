//! The HTTP API: one file a resource.
//!
//! From the outside in, a request passes: connection limits and header time-out ([`server`]), a name for the
//! request, headers that every answer has, a net for panics, the time limit, the token ([`auth`]), the resource.
//!
//! An answer of success means that what was asked for is durable. There is no CORS: browsers of other origins
//! are not callers.

mod approvals;
mod asking;
pub mod auth;
mod bulk;
mod cases;
mod commands;
mod contracts;
pub mod events;
mod explain;
mod exports;
mod health;
mod hints;
mod holds;
mod identities;
mod imports;
mod input;
mod links;
mod merges;
mod metrics;
mod moves;
pub mod mutual;
mod nhis;
mod nodes;
mod notices;
mod observations;
mod parked;
mod policies;
pub mod problem;
mod reassign;
mod reviews;
mod rollouts;
mod rotations;
mod schedules;
mod schemas;
pub mod scim;
pub mod server;
mod sources;
mod systems;
mod takeover;
mod tasks;
mod token_list;
pub mod tokens;
mod workflow_list;

#[cfg(test)]
mod tests;

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use engine::runner::{Clock, Definitions, NodeStatus};
use tokio::sync::{Notify, watch};
use tower_http::catch_panic::CatchPanicLayer;
use tracing::Instrument as _;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;
use workflows::intake::Intake;
use workflows::notices::{LINK_PAGE, Links};
use workflows::policies::Policies;
use workflows::policy::PolicySet;
use workflows::sources::Source;
use workflows::systems::Systems;

use crate::shell::Database;
use crate::telemetry::{Look, Metrics};

use events::door::Doors;
use problem::ApiError;
use tokens::Tokens;

pub use tokens::MIGRATIONS;

/// The longest time an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest time an import, or a bulk of SCIM, may take.
const IMPORT_TIMEOUT: Duration = Duration::from_secs(300);
/// The largest page of a listing, and what a page holds when nobody says.
pub const PAGE_ITEMS_MAX: u32 = 500;
pub const PAGE_ITEMS_DEFAULT: u32 = 100;
/// The longest request identifier that is taken over from a caller, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 64;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What the API works on.
pub struct Parts {
    pub database: Database,
    pub intake: Intake,
    pub definitions: Arc<Definitions>,
    pub sources: BTreeMap<String, Arc<Source>>,
    /// Where sources come in by signature.
    pub doors: Doors,
    pub systems: Arc<Systems>,
    pub policy: Arc<PolicySet>,
    /// The versions of the policy.
    pub policies: Policies,
    pub clock: Arc<dyn Clock>,
    /// Tells the node that the inbox has something new.
    pub nudge: Arc<Notify>,
    /// Whoever waits for the next event that becomes effective looks again.
    pub event_nudge: Arc<Notify>,
    pub node: watch::Receiver<NodeStatus>,
    pub metrics: Metrics,
    /// What lets sponsors in by the links of their mails; `None`: nobody is.
    pub links: Option<Arc<Links>>,
    /// Where metrics find the states they show.
    pub look: Look,
}

pub(crate) struct Shared {
    parts: Parts,
    tokens: Tokens,
    /// Which source each token pushes over SCIM.
    scim: BTreeMap<String, Arc<Source>>,
}

impl std::ops::Deref for Shared {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

type Api = Arc<Shared>;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tenure",
        description = "Access that lasts as long as the reason for it. Answers of success mean that what was asked for \
                       is durable. Errors are problem details (RFC 9457).",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    components(schemas(problem::Problem)),
    modifiers(&Credentials)
)]
struct Document;

struct Credentials;

impl Modify for Credentials {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let mut scheme = Http::new(HttpAuthScheme::Bearer);
        scheme.description = Some("`tnr_...`, made by `tenure token create`".to_owned());
        let components = document.components.get_or_insert_with(Default::default);
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
        let signature = ApiKeyValue::with_description(
            "webhook-signature",
            "Of Standard Webhooks: `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`; several with blanks between",
        );
        components.add_security_scheme(
            "signature",
            SecurityScheme::ApiKey(ApiKey::Header(signature)),
        );
    }
}

fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(events::post))
        .routes(routes!(events::signed::post))
        .routes(routes!(schemas::list))
        .routes(routes!(schemas::get))
        .routes(routes!(sources::list))
        .routes(routes!(sources::get))
        .routes(routes!(sources::heartbeat))
        .routes(routes!(hints::post))
        .routes(routes!(imports::list, imports::post))
        .routes(routes!(imports::get))
        .routes(routes!(imports::approve))
        .routes(routes!(imports::reject))
        .routes(routes!(cases::list))
        .routes(routes!(cases::get))
        .routes(routes!(cases::instances))
        .routes(routes!(cases::timeline))
        .routes(routes!(commands::retry))
        .routes(routes!(reassign::post))
        .routes(routes!(commands::skip))
        .routes(routes!(commands::cancel))
        .routes(routes!(commands::pause))
        .routes(routes!(commands::resume))
        .routes(routes!(commands::rerun))
        .routes(routes!(commands::undo))
        .routes(routes!(bulk::post))
        .routes(routes!(parked::list))
        .routes(routes!(commands::signal))
        .routes(routes!(commands::get))
        .routes(routes!(moves::migrate))
        .routes(routes!(exports::get))
        .routes(routes!(approvals::list))
        .routes(routes!(approvals::answer))
        .routes(routes!(tasks::list))
        .routes(routes!(tasks::complete))
        .routes(routes!(identities::list))
        .routes(routes!(identities::get))
        .routes(routes!(identities::belief))
        .routes(routes!(contracts::extend))
        .routes(routes!(holds::list, holds::place))
        .routes(routes!(holds::release))
        .routes(routes!(merges::merge))
        .routes(routes!(merges::split))
        .routes(routes!(merges::list))
        .routes(routes!(reviews::list))
        .routes(routes!(reviews::get))
        .routes(routes!(reviews::link))
        .routes(routes!(reviews::separate))
        .routes(routes!(reviews::collisions))
        .routes(routes!(nhis::list, nhis::declare_all))
        .routes(routes!(nhis::get))
        .routes(routes!(nhis::dependencies))
        .routes(routes!(nhis::expiring))
        .routes(routes!(observations::post))
        .routes(routes!(rotations::list))
        .routes(routes!(rotations::plan))
        .routes(routes!(rotations::get))
        .routes(routes!(rotations::run))
        .routes(routes!(rotations::rollback))
        .routes(routes!(explain::get))
        .routes(routes!(workflow_list::list))
        .routes(routes!(workflow_list::get))
        .routes(routes!(schedules::list))
        .routes(routes!(schedules::get, schedules::put))
        .routes(routes!(schedules::remove))
        .routes(routes!(schedules::pause))
        .routes(routes!(schedules::resume))
        .routes(routes!(schedules::run))
        .routes(routes!(schedules::backfill))
        .routes(routes!(schedules::command))
        .routes(routes!(notices::list))
        .routes(routes!(notices::get))
        .routes(routes!(notices::retry))
        .routes(routes!(policies::list))
        .routes(routes!(policies::approve))
        .routes(routes!(policies::reject))
        .routes(routes!(rollouts::list))
        .routes(routes!(rollouts::get))
        .routes(routes!(rollouts::approve))
        .routes(routes!(rollouts::reject))
        .routes(routes!(rollouts::pause))
        .routes(routes!(rollouts::resume))
        .routes(routes!(systems::list))
        .routes(routes!(takeover::get, takeover::post))
        .routes(routes!(nodes::list))
        .routes(routes!(token_list::list, token_list::create))
        .routes(routes!(token_list::revoke))
        .routes(routes!(health::alive))
        .routes(routes!(health::ready))
        .routes(routes!(metrics::scrape))
}

/// The description of the API in OpenAPI 3.1.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    routes().into_openapi()
}

/// Everything the API answers.
pub fn router(parts: Parts) -> Router {
    let tokens = Tokens::new(parts.database.clone());
    let scim = scim::doors(&parts.sources);
    let api: Api = Arc::new(Shared {
        parts,
        tokens,
        scim,
    });
    let (router, document) = routes().split_for_parts();
    let document = document.to_json().unwrap_or_default();
    let describe = move || async move { ([(header::CONTENT_TYPE, "application/json")], document) };
    router
        .route("/openapi.json", axum::routing::get(describe))
        .route(LINK_PAGE, axum::routing::get(links::look).post(links::ask))
        .nest(scim::PATH, scim::routes())
        .route(&format!("{}/", scim::PATH), scim::root())
        .fallback(|| async {
            ApiError::NotFound("there is no such path; see `/openapi.json`".to_owned())
        })
        .method_not_allowed_fallback(|| async { ApiError::MethodNotAllowed })
        .layer(middleware::from_fn_with_state(
            Arc::clone(&api),
            auth::authenticate,
        ))
        .layer(middleware::from_fn(in_time))
        .layer(CatchPanicLayer::custom(caught))
        .layer(middleware::from_fn(named))
        .with_state(api)
}

fn caught(panic: Box<dyn Any + Send>) -> Response {
    let what = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    ApiError::Internal(anyhow::anyhow!("panicked: {what}")).into_response()
}

async fn in_time(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let scim = scim::is_path(path);
    let limit = if path == "/v1/imports" || (scim && path.ends_with("/Bulk")) {
        IMPORT_TIMEOUT
    } else {
        ANSWER_TIMEOUT
    };
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) if scim => scim::refused(ApiError::TimedOut),
        Err(_) => ApiError::TimedOut.into_response(),
    }
}

/// Gives every request a name, and every answer the headers that all have.
async fn named(request: Request, next: Next) -> Response {
    let given = request
        .headers()
        .get(&REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|id| {
            let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !id.is_empty() && id.len() <= REQUEST_ID_BYTES_MAX && id.chars().all(good)
        });
    let id = given.map_or_else(|| Uuid::new_v4().to_string(), str::to_owned);
    let span = tracing::info_span!(
        "request",
        id,
        method = %request.method(),
        path = request.uri().path(),
        actor = tracing::field::Empty
    );
    let start = tokio::time::Instant::now();
    let mut response = async {
        let response = next.run(request).await;
        let ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(status = response.status().as_u16(), ms, "answered");
        response
    }
    .instrument(span)
    .await;
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::try_from(id) {
        headers.insert(REQUEST_ID, id);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// What handlers with a state get.
type Shares = State<Api>;
