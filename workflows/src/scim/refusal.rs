//! Why a request was not carried out, in SCIM's own form (RFC 7644, 3.12).

use serde_json::{Value, json};

const ERROR: &str = "urn:ietf:params:scim:api:messages:2.0:Error";

/// An answer that is not success.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Refusal {
    /// Of HTTP.
    pub status: u16,
    pub scim_type: Option<&'static str>,
    /// For a person.
    pub detail: String,
}

impl Refusal {
    #[must_use]
    pub fn new(status: u16, scim_type: Option<&'static str>, detail: &str) -> Self {
        Self {
            status,
            scim_type,
            detail: detail.to_owned(),
        }
    }
    #[must_use]
    pub fn invalid_syntax(detail: &str) -> Self {
        Self::new(400, Some("invalidSyntax"), detail)
    }
    #[must_use]
    pub fn invalid_value(detail: &str) -> Self {
        Self::new(400, Some("invalidValue"), detail)
    }
    #[must_use]
    pub fn invalid_filter(detail: &str) -> Self {
        Self::new(400, Some("invalidFilter"), detail)
    }
    #[must_use]
    pub fn invalid_path(detail: &str) -> Self {
        Self::new(400, Some("invalidPath"), detail)
    }
    #[must_use]
    pub fn no_target(detail: &str) -> Self {
        Self::new(400, Some("noTarget"), detail)
    }
    #[must_use]
    pub fn mutability(detail: &str) -> Self {
        Self::new(400, Some("mutability"), detail)
    }
    #[must_use]
    pub fn uniqueness(detail: &str) -> Self {
        Self::new(409, Some("uniqueness"), detail)
    }
    #[must_use]
    pub fn too_many(detail: &str) -> Self {
        Self::new(400, Some("tooMany"), detail)
    }
    /// RFC 9865, 2.1.
    #[must_use]
    pub fn invalid_cursor(detail: &str) -> Self {
        Self::new(400, Some("invalidCursor"), detail)
    }
    /// RFC 9865, 2.1.
    #[must_use]
    pub fn invalid_count(detail: &str) -> Self {
        Self::new(400, Some("invalidCount"), detail)
    }
    #[must_use]
    pub fn not_found(what: &str) -> Self {
        Self::new(404, None, &format!("`{what}` does not exist"))
    }
    #[must_use]
    pub fn changed() -> Self {
        Self::new(412, None, "the resource has another version now")
    }
    #[must_use]
    pub fn method_not_allowed() -> Self {
        Self::new(405, None, "this address does not take that method")
    }
    #[must_use]
    pub fn unauthorised() -> Self {
        Self::new(401, None, "a valid bearer token is needed")
    }

    /// The body of the answer.
    #[must_use]
    pub fn document(&self) -> Value {
        let mut body = json!({
            "schemas": [ERROR],
            "status": self.status.to_string(),
            "detail": self.detail,
        });
        if let (Some(scim_type), Value::Object(fields)) = (self.scim_type, &mut body) {
            fields.insert("scimType".to_owned(), json!(scim_type));
        }
        body
    }
}
