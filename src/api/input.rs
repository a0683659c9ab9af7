//! Reading requests: bounded, typed, and with the mistake named.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::StreamExt as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use utoipa::ToSchema;

use super::problem::{ApiError, Mistake};
use super::{PAGE_ITEMS_DEFAULT, PAGE_ITEMS_MAX};

/// The largest JSON body, in bytes.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;
/// The longest pause inside a body.
pub const BODY_PAUSE_MAX: Duration = Duration::from_secs(10);
/// The longest text a caller may add: a reason, a note, a proof.
pub const TEXT_BYTES_MAX: usize = 4_096;
/// The longest cursor, in bytes.
const CURSOR_BYTES_MAX: usize = 512;

/// Reads a body of at most `bytes_max` bytes.
///
/// # Errors
/// [`ApiError::TooLarge`] as soon as it is known, [`ApiError::TooSlow`] after a pause of [`BODY_PAUSE_MAX`].
pub async fn body(headers: &HeaderMap, body: Body, bytes_max: usize) -> Result<Vec<u8>, ApiError> {
    let stated = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if stated.is_some_and(|bytes| bytes > bytes_max as u64) {
        return Err(ApiError::TooLarge { bytes_max });
    }
    let mut bytes = Vec::new();
    let mut stream = body.into_data_stream();
    loop {
        let Ok(next) = tokio::time::timeout(BODY_PAUSE_MAX, stream.next()).await else {
            return Err(ApiError::TooSlow);
        };
        match next {
            None => return Ok(bytes),
            Some(Err(error)) => {
                return Err(ApiError::Malformed(format!(
                    "the body ended early: {error}"
                )));
            }
            Some(Ok(chunk)) if bytes.len() + chunk.len() > bytes_max => {
                return Err(ApiError::TooLarge { bytes_max });
            }
            Some(Ok(chunk)) => bytes.extend_from_slice(&chunk),
        }
    }
}

/// The content type without its parameters, in lower case.
pub fn media_type(headers: &HeaderMap) -> String {
    let value = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    value
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

/// A mistake of the JSON reader: what is no JSON is malformed, what is JSON of another shape is wrong.
pub fn json_error(error: &serde_json::Error) -> ApiError {
    match error.classify() {
        serde_json::error::Category::Data => {
            let place = format!("line {} column {}", error.line(), error.column());
            let text = error.to_string();
            let what = text
                .split(" at line ")
                .next()
                .unwrap_or_default()
                .to_owned();
            ApiError::Invalid {
                detail: format!("{place}: {what}"),
                mistakes: vec![Mistake::new(place, what)],
            }
        }
        _ => ApiError::Malformed(format!("the body is not JSON: {error}")),
    }
}

/// A JSON body of at most [`BODY_BYTES_MAX`] bytes.
pub struct Json<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        if media_type(request.headers()) != "application/json" {
            return Err(ApiError::UnsupportedMedia {
                expected: "`application/json`",
            });
        }
        let (parts, raw) = request.into_parts();
        let bytes = body(&parts.headers, raw, BODY_BYTES_MAX).await?;
        serde_json::from_slice(&bytes)
            .map(Self)
            .map_err(|error| json_error(&error))
    }
}

/// The parameters after `?`.
pub struct Parameters<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Parameters<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(parameters)) => Ok(Self(parameters)),
            Err(error) => Err(ApiError::Malformed(error.body_text())),
        }
    }
}

/// The variables in the path. A path that cannot be one of ours does not exist.
pub struct Path<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(variables)) => Ok(Self(variables)),
            Err(error) => Err(ApiError::NotFound(error.body_text())),
        }
    }
}

/// A page of a listing.
#[derive(Debug, Serialize, ToSchema)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Give it as `cursor` to go on; null at the end.
    pub next: Option<String>,
}

/// How many items a page holds.
///
/// # Errors
/// [`ApiError::Invalid`] outside 1 to [`PAGE_ITEMS_MAX`].
pub fn limit(given: Option<u32>) -> Result<u32, ApiError> {
    match given {
        None => Ok(PAGE_ITEMS_DEFAULT),
        Some(limit) if (1..=PAGE_ITEMS_MAX).contains(&limit) => Ok(limit),
        Some(limit) => Err(ApiError::wrong(
            "limit",
            format!("is {limit}; give 1 to {PAGE_ITEMS_MAX}"),
        )),
    }
}

/// Cursors are opaque to callers: base64 of what stands behind the last item.
pub fn cursor_text(position: &str) -> String {
    URL_SAFE_NO_PAD.encode(position)
}

/// What [`cursor_text`] was made from.
///
/// # Errors
/// [`ApiError::Invalid`] when it is no cursor of this listing.
pub fn cursor<T>(
    given: Option<&str>,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, ApiError> {
    let Some(given) = given else { return Ok(None) };
    let decoded = (given.len() <= CURSOR_BYTES_MAX)
        .then(|| URL_SAFE_NO_PAD.decode(given).ok())
        .flatten()
        .and_then(|bytes| String::from_utf8(bytes).ok());
    let position = decoded.as_deref().and_then(read);
    position
        .map(Some)
        .ok_or_else(|| ApiError::wrong("cursor", "is none that this listing gave"))
}

/// Whether a value can be kept: no text in it, names included, has U+0000, which no database here stores as JSON.
pub fn storable(value: &Value) -> bool {
    match value {
        Value::String(text) => !text.contains('\0'),
        Value::Array(values) => values.iter().all(storable),
        Value::Object(fields) => fields
            .iter()
            .all(|(name, value)| !name.contains('\0') && storable(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => true,
    }
}

/// A value of a caller's own shape.
///
/// # Errors
/// [`ApiError::Invalid`] when it cannot be kept.
pub fn value(at: &str, given: Value) -> Result<Value, ApiError> {
    if storable(&given) {
        Ok(given)
    } else {
        Err(ApiError::wrong(at, "holds U+0000, which cannot be stored"))
    }
}

/// Text that ends up in a history.
///
/// # Errors
/// [`ApiError::Invalid`] when it is longer than [`TEXT_BYTES_MAX`] or has control characters.
pub fn text(at: &str, given: String) -> Result<String, ApiError> {
    if given.len() > TEXT_BYTES_MAX {
        return Err(ApiError::wrong(
            at,
            format!("is longer than {TEXT_BYTES_MAX} bytes"),
        ));
    }
    if given
        .chars()
        .any(|c| c.is_control() && c != '\n' && c != '\t')
    {
        return Err(ApiError::wrong(at, "has control characters"));
    }
    Ok(given)
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "tests"
    )]
    use futures_util::stream;

    use super::*;

    type Chunk = Result<&'static str, std::io::Error>;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_pauses_too_long_is_given_up() {
        let start: Chunk = Ok("{");
        let slow = stream::once(async { start }).chain(stream::pending());
        let started = tokio::time::Instant::now();
        let error = body(&HeaderMap::new(), Body::from_stream(slow), 10)
            .await
            .unwrap_err();
        assert!(matches!(error, ApiError::TooSlow), "{error:?}");
        assert_eq!(started.elapsed(), BODY_PAUSE_MAX);
    }

    #[tokio::test]
    async fn a_body_is_measured_even_when_its_length_is_not_stated() {
        for (chunks, good) in [
            (vec!["12345", "67890"], true),
            (vec!["12345", "67890", "1"], false),
        ] {
            let chunks = stream::iter(chunks.into_iter().map(|chunk| -> Chunk { Ok(chunk) }));
            let read = body(&HeaderMap::new(), Body::from_stream(chunks), 10).await;
            assert_eq!(read.is_ok(), good);
        }
    }

    #[test]
    fn cursors_come_back_and_others_are_refused() {
        let number = |text: &str| text.parse::<u32>().ok();
        assert_eq!(cursor(Some(&cursor_text("17")), number).unwrap(), Some(17));
        assert_eq!(cursor(None, number).unwrap(), None);
        for bad in [
            "",
            "!",
            "MTc=",
            &cursor_text("x"),
            &"A".repeat(CURSOR_BYTES_MAX + 1),
        ] {
            assert!(cursor(Some(bad), number).is_err(), "{bad}");
        }
    }
}
