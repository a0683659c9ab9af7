//! What goes out: resources cut to the attributes asked for, lists, and refusals in SCIM's own form.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::filter::AttributePath;
use super::schema::Kind;

const SCIM_JSON: &str = "application/scim+json";
const ERROR: &str = "urn:ietf:params:scim:api:messages:2.0:Error";
const LIST: &str = "urn:ietf:params:scim:api:messages:2.0:ListResponse";

/// Why a request was not carried out (RFC 7644, 3.12).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    status: StatusCode,
    scim_type: Option<&'static str>,
    detail: String,
}

impl Refusal {
    fn new(status: StatusCode, scim_type: Option<&'static str>, detail: &str) -> Self {
        Self {
            status,
            scim_type,
            detail: detail.to_owned(),
        }
    }
    pub(super) fn invalid_syntax(detail: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Some("invalidSyntax"), detail)
    }
    pub(super) fn invalid_value(detail: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Some("invalidValue"), detail)
    }
    pub(super) fn invalid_filter(detail: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Some("invalidFilter"), detail)
    }
    pub(super) fn invalid_path(detail: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Some("invalidPath"), detail)
    }
    pub(super) fn no_target(detail: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Some("noTarget"), detail)
    }
    pub(super) fn mutability(detail: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Some("mutability"), detail)
    }
    pub(super) fn uniqueness(detail: &str) -> Self {
        Self::new(StatusCode::CONFLICT, Some("uniqueness"), detail)
    }
    pub(super) fn too_many(detail: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Some("tooMany"), detail)
    }
    pub(super) fn not_found(what: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            None,
            &format!("`{what}` does not exist"),
        )
    }
    pub(super) fn changed() -> Self {
        Self::new(
            StatusCode::PRECONDITION_FAILED,
            None,
            "the resource has another version now",
        )
    }
    pub(super) fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            None,
            "this address does not take that method",
        )
    }
    pub(super) fn internal(error: &sqlx::Error) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            None,
            &format!("storage failed: {error}"),
        )
    }
    pub(super) fn unauthorised() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            None,
            "a valid bearer token is needed",
        )
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut body = json!({
            "schemas": [ERROR],
            "status": self.status.as_u16().to_string(),
            "detail": self.detail,
        });
        if let (Some(scim_type), Value::Object(fields)) = (self.scim_type, &mut body) {
            fields.insert("scimType".to_owned(), json!(scim_type));
        }
        let mut response = plain(self.status, &body);
        if self.status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// An answer with a JSON body.
pub(super) fn plain(status: StatusCode, body: &Value) -> Response {
    (
        status,
        [(header::CONTENT_TYPE, SCIM_JSON)],
        body.to_string(),
    )
        .into_response()
}

/// One resource, with its version and address in the headers.
pub(super) fn resource(status: StatusCode, body: &Value) -> Response {
    let mut response = plain(status, body);
    let meta = |name: &str| {
        body.get("meta")
            .and_then(|meta| meta.get(name))
            .and_then(Value::as_str)
    };
    let headers: [(HeaderName, Option<&str>); 2] = [
        (header::ETAG, meta("version")),
        (header::LOCATION, meta("location")),
    ];
    for (name, value) in headers {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// One page of a listing.
pub(super) fn list(resources: Vec<Value>, total: u64, start: u64) -> Response {
    let body = json!({
        "schemas": [LIST],
        "totalResults": total,
        "startIndex": start,
        "itemsPerPage": resources.len(),
        "Resources": resources,
    });
    plain(StatusCode::OK, &body)
}

/// Which attributes a client wants to see (RFC 7644, 3.9).
#[derive(Debug, Clone, Default)]
pub(super) struct Selection {
    only: Vec<AttributePath>,
    without: Vec<AttributePath>,
}

impl Selection {
    pub(super) fn parse(
        kind: Kind,
        only: Option<&str>,
        without: Option<&str>,
    ) -> Result<Self, Refusal> {
        let paths = |list: Option<&str>| -> Result<Vec<AttributePath>, Refusal> {
            list.unwrap_or_default()
                .split(',')
                .map(str::trim)
                .filter(|name| !name.is_empty())
                // A name that no schema knows selects nothing.
                .filter_map(|name| AttributePath::parse(kind, name).ok())
                .map(Ok)
                .collect()
        };
        let selection = Self {
            only: paths(only)?,
            without: paths(without)?,
        };
        if only.is_some_and(|it| !it.trim().is_empty())
            && without.is_some_and(|it| !it.trim().is_empty())
        {
            return Err(Refusal::invalid_syntax(
                "give `attributes` or `excludedAttributes`, not both",
            ));
        }
        Ok(selection)
    }

    /// Whether this attribute of the core schema will be shown.
    pub(super) fn shows(&self, name: &str) -> bool {
        let named = |path: &AttributePath| path.schema.is_none() && path.attribute.name == name;
        if self.only.is_empty() {
            !self
                .without
                .iter()
                .any(|path| named(path) && path.sub.is_none())
        } else {
            self.only.iter().any(named)
        }
    }

    /// Cuts a whole resource. `id` and `schemas` are always shown.
    pub(super) fn cut(&self, whole: Value) -> Value {
        let Value::Object(mut fields) = whole else {
            return whole;
        };
        if !self.only.is_empty() {
            let mut kept = Map::new();
            for always in ["schemas", "id"] {
                if let Some(value) = fields.get(always) {
                    kept.insert(always.to_owned(), value.clone());
                }
            }
            for path in &self.only {
                path.copy(&fields, &mut kept);
            }
            return Value::Object(kept);
        }
        for path in &self.without {
            if path.attribute.name != "id" {
                path.cut(&mut fields);
            }
        }
        Value::Object(fields)
    }
}
