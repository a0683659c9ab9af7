//! What goes out: resources with their headers, lists, and refusals in SCIM's own form.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use workflows::scim::Refusal;

const SCIM_JSON: &str = "application/scim+json";
pub const LIST: &str = "urn:ietf:params:scim:api:messages:2.0:ListResponse";

/// A refusal on its way out.
#[derive(Debug)]
pub struct Refused(pub Refusal);

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = plain(status, &self.0.document());
        if status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// An answer with a JSON body.
pub fn plain(status: StatusCode, body: &Value) -> Response {
    (
        status,
        [(header::CONTENT_TYPE, SCIM_JSON)],
        body.to_string(),
    )
        .into_response()
}

/// One resource, cut or not, with its version and address in the headers.
pub fn resource(
    status: StatusCode,
    body: &Value,
    version: &str,
    location: Option<&str>,
) -> Response {
    let mut response = plain(status, body);
    let headers: [(HeaderName, Option<&str>); 2] =
        [(header::ETAG, Some(version)), (header::LOCATION, location)];
    for (name, value) in headers {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// One page of a listing, by index.
pub fn list(resources: Vec<Value>, total: u64, start: u64) -> Response {
    let body = json!({
        "schemas": [LIST],
        "totalResults": total,
        "startIndex": start,
        "itemsPerPage": resources.len(),
        "Resources": resources,
    });
    plain(StatusCode::OK, &body)
}
