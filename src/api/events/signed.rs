//! `POST /v1/sources/{source}/events`: events that a source signs, instead of a token.
//!
//! The door is shut for every source whose file has no `signature:`. A request may only say what its own source says,
//! and only what the signature covers: whole events in the body. That a request recorded on its way and sent again
//! changes nothing needs no list of requests: it holds the same events, and events are known by `source` and `id`, for
//! ever and on every node.

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};
use chrono::{DateTime, Utc};
use engine::core::id::Actor;

use super::{Acknowledgement, CloudEvent, Mode, take_in, understand};
use crate::api::input::{self, BODY_BYTES_MAX, Path};
use crate::api::mutual::Peer;
use crate::api::problem::{ApiError, Mistake, Problem};
use crate::api::{Shared, Shares};

/// Whether the signature decides about a request, so that it needs no token. A heartbeat may have either.
pub(in crate::api) fn decides(method: &Method, path: &str, headers: &HeaderMap) -> bool {
    let Some((source, what)) = path
        .strip_prefix("/v1/sources/")
        .and_then(|rest| rest.split_once('/'))
    else {
        return false;
    };
    let signed = match what {
        "events" | "hints" => true,
        "heartbeat" => !headers.contains_key(header::AUTHORIZATION),
        _ => false,
    };
    signed && method == Method::POST && !source.is_empty()
}

/// The body of a request that a source signed, and when it did: by our clock if its own is ahead.
///
/// # Errors
/// [`ApiError::Unsigned`], with the reason in the log alone.
pub(in crate::api) async fn proven(
    api: &Shared,
    source: &str,
    (headers, peer): (&HeaderMap, Option<&Peer>),
    raw: Body,
    bytes_max: usize,
) -> Result<(Vec<u8>, DateTime<Utc>), ApiError> {
    let now = api.clock.now();
    if let Some(Peer(own)) = peer {
        // Its certificate says who it is; see `mutual`.
        if own != source {
            return Err(ApiError::Unsigned);
        }
        return Ok((input::body(headers, raw, bytes_max).await?, now));
    }
    let door = api.doors.of(source);
    let claim = door.claim(headers, now);
    let _place = api.doors.unproven.acquire().await;
    let bytes = input::body(headers, raw, bytes_max).await?;
    let signed_at = door.admit(&claim, &bytes).map_err(|reason| {
        tracing::warn!(reason, "a signed request was refused");
        ApiError::Unsigned
    })?;
    Ok((bytes, signed_at.min(now)))
}

/// Where a request says who it is.
pub(in crate::api) fn signature(parts: &Parts) -> (&HeaderMap, Option<&Peer>) {
    (&parts.headers, parts.extensions.get::<Peer>())
}

/// Send business events, signed by their source
#[utoipa::path(
    post, path = "/v1/sources/{source}/events", tag = "events", security(("signature" = [])),
    params(
        ("source" = String, Path, description = "The source that signs; `source` of every event is the same"),
        ("webhook-id" = String, Header, description = "Of the request"),
        ("webhook-timestamp" = i64, Header, description = "Seconds since 1970")
    ),
    request_body(description = "One event (`application/cloudevents+json`) or an array of at most 500 \
        (`application/cloudevents-batch+json`)", content((CloudEvent = "application/cloudevents+json"),
        (Vec<CloudEvent> = "application/cloudevents-batch+json"))),
    responses(
        (status = 202, body = Acknowledgement, description = "All of them are durable"),
        (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 409, body = Problem, description = "Another event has the `id`"), (status = 413, body = Problem),
        (status = 415, body = Problem), (status = 422, body = Problem)
    )
)]
pub(in crate::api) async fn post(
    State(api): Shares,
    Path(source): Path<String>,
    request: Request,
) -> Result<(StatusCode, Json<Acknowledgement>), ApiError> {
    let (parts, raw) = request.into_parts();
    let (bytes, signed_at) = proven(&api, &source, signature(&parts), raw, BODY_BYTES_MAX).await?;
    let actor = Actor(format!("source:{source}"));
    tracing::Span::current().record("actor", actor.0.as_str());
    let mode = Mode::of(&parts.headers)?;
    if mode == Mode::Binary {
        return Err(ApiError::UnsupportedMedia {
            expected: "`application/cloudevents+json` or `application/cloudevents-batch+json`: the signature does not \
                       cover `ce-*` headers",
        });
    }
    let sent = mode.read(&parts.headers, &bytes)?;
    let events = understand(&sent, &api.intake.leavers())?;
    let foreign: Vec<Mistake> = sent
        .iter()
        .enumerate()
        .filter(|(_, event)| event.source != source)
        .map(|(index, event)| {
            let at = match mode {
                Mode::Batched => format!("/{index}/source"),
                Mode::Structured | Mode::Binary => "/source".to_owned(),
            };
            let what = format!(
                "is `{}`; this door takes events of `{source}` only",
                event.source
            );
            Mistake::new(at, what)
        })
        .collect();
    if !foreign.is_empty() {
        return Err(ApiError::mistakes(foreign));
    }
    take_in(&api, mode, &sent, &events, &actor, signed_at).await
}
