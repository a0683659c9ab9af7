//! `/v1/sources`: the configured feeds, whether they are heard, and the word of one that has no news.

use axum::Json;
use axum::extract::{Request, State};
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use workflows::sources::Source;

use super::auth::{Caller, Role};
use super::events::signed;
use super::input::{self, Page, Path};
use super::problem::{ApiError, Problem};
use super::{Shared, Shares};
use crate::shell::source_view::{self, SourceDetail, SourceView};

/// The largest body of a heartbeat, in bytes: there is nothing to say.
const HEARTBEAT_BYTES_MAX: usize = 64;

/// That a source lives.
#[derive(Debug, Serialize, ToSchema)]
pub struct Heartbeat {
    source: String,
    heard_at: DateTime<Utc>,
    /// From when on the source counts as silent, if nothing more comes; null when nobody watches.
    silent_from: Option<DateTime<Utc>>,
}

/// The configured sources
#[utoipa::path(
    get, path = "/v1/sources", tag = "sources", security(("token" = ["read"])),
    responses((status = 200, body = Page<SourceView>))
)]
pub(super) async fn list(
    State(api): Shares,
    caller: Caller,
) -> Result<Json<Page<SourceView>>, ApiError> {
    caller.require(Role::Read)?;
    let directory = &api.database.directory;
    let items = source_view::sources(directory, &api.sources, api.clock.now()).await?;
    Ok(Json(Page { items, next: None }))
}

/// One source with its last files
#[utoipa::path(
    get, path = "/v1/sources/{source}", tag = "sources", security(("token" = ["read"])),
    params(("source" = String, Path)),
    responses((status = 200, body = SourceDetail), (status = 404, body = Problem))
)]
pub(super) async fn get(
    State(api): Shares,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<SourceDetail>, ApiError> {
    caller.require(Role::Read)?;
    let source = configured(&api, &name)?;
    let detail = source_view::detail(&api.database.directory, source, api.clock.now()).await?;
    Ok(Json(detail))
}

/// Say that a source has no news
///
/// With a token, or signed by the source as events are.
#[utoipa::path(
    post, path = "/v1/sources/{source}/heartbeat", tag = "sources",
    security(("token" = ["operate"]), ("signature" = [])),
    params(("source" = String, Path, description = "The source that lives")),
    responses(
        (status = 200, body = Heartbeat), (status = 401, body = Problem), (status = 404, body = Problem),
        (status = 413, body = Problem), (status = 422, body = Problem)
    )
)]
pub(super) async fn heartbeat(
    State(api): Shares,
    Path(name): Path<String>,
    request: Request,
) -> Result<Json<Heartbeat>, ApiError> {
    let (mut parts, raw) = request.into_parts();
    let (body, heard_at) = match parts.extensions.remove::<Caller>() {
        Some(caller) => {
            caller.require(Role::Operate)?;
            let body = input::body(&parts.headers, raw, HEARTBEAT_BYTES_MAX).await?;
            (body, api.clock.now())
        }
        None => {
            signed::proven(
                &api,
                &name,
                signed::signature(&parts),
                raw,
                HEARTBEAT_BYTES_MAX,
            )
            .await?
        }
    };
    let source = configured(&api, &name)?;
    if !matches!(body.trim_ascii(), b"" | b"{}") {
        return Err(ApiError::wrong(
            "",
            format!(
                "a heartbeat says nothing; send no body, and news to `/v1/sources/{name}/events`"
            ),
        ));
    }
    api.intake.heard(source.name(), heard_at, false).await?;
    Ok(Json(Heartbeat {
        source: source.name().to_owned(),
        heard_at,
        silent_from: source.silent_after().map(|after| heard_at + after.delta()),
    }))
}

fn configured<'a>(api: &'a Shared, name: &str) -> Result<&'a Source, ApiError> {
    let source = api.sources.get(name).map(|source| &**source);
    source.ok_or_else(|| ApiError::NotFound("there is no source of that name".to_owned()))
}
