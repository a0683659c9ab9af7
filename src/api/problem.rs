//! Errors as callers see them: RFC 9457 problem details, from one table.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use engine::store::StoreError;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use workflows::intake::IntakeError;

use super::auth::Role;

/// The most single mistakes one answer tells.
pub const MISTAKES_MAX: usize = 20;

/// Why a request was not done.
#[derive(Debug)]
pub enum ApiError {
    /// No token, or none that is good. Never says which of the two.
    Unauthenticated,
    /// No signature, or none that is good. Never says what is wrong with it.
    Unsigned,
    Forbidden {
        needs: Role,
    },
    NotFound(String),
    MethodNotAllowed,
    /// The request is malformed: it does not say anything.
    Malformed(String),
    /// The request is understood and wrong.
    Invalid {
        detail: String,
        mistakes: Vec<Mistake>,
    },
    UnsupportedMedia {
        expected: &'static str,
    },
    TooLarge {
        bytes_max: usize,
    },
    /// The caller was too slow.
    TooSlow,
    /// What is asked does not fit the state things are in.
    Conflict(String),
    /// We were too slow.
    TimedOut,
    Unavailable(StoreError),
    /// A defect here. The caller learns nothing but the request's identifier.
    Internal(anyhow::Error),
}

/// One thing that is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Mistake {
    /// Where: a field (`/data/effective_at`, RFC 6901), or a line of a file.
    pub at: String,
    pub what: String,
}

impl Mistake {
    pub fn new(at: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            at: at.into(),
            what: what.into(),
        }
    }
}

/// RFC 9457.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `urn:tenure:problem:NAME`; stable, made to be compared.
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    /// For a person; may change.
    pub detail: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mistakes: Vec<Mistake>,
}

impl ApiError {
    /// The table: status, name and title of each kind of error.
    fn row(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Malformed(_) => (
                StatusCode::BAD_REQUEST,
                "malformed",
                "The request cannot be read",
            ),
            Self::Unauthenticated => (
                StatusCode::UNAUTHORIZED,
                "unauthenticated",
                "A good token is needed",
            ),
            Self::Unsigned => (
                StatusCode::UNAUTHORIZED,
                "unauthenticated",
                "A good signature is needed",
            ),
            Self::Forbidden { .. } => (
                StatusCode::FORBIDDEN,
                "forbidden",
                "The token does not allow this",
            ),
            Self::NotFound(_) => (StatusCode::NOT_FOUND, "not-found", "There is no such thing"),
            Self::MethodNotAllowed => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "The method does not belong to this path",
            ),
            Self::TooSlow => (
                StatusCode::REQUEST_TIMEOUT,
                "too-slow",
                "The request took too long to arrive",
            ),
            Self::Conflict(_) => (
                StatusCode::CONFLICT,
                "conflict",
                "The state of things does not allow this",
            ),
            Self::TooLarge { .. } => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "too-large",
                "The body is too large",
            ),
            Self::UnsupportedMedia { .. } => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported-media-type",
                "The content type is not understood",
            ),
            Self::Invalid { .. } => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "invalid",
                "The request is wrong",
            ),
            Self::Internal(_) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "Something went wrong here",
            ),
            Self::Unavailable(_) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                "The database does not answer",
            ),
            Self::TimedOut => (
                StatusCode::GATEWAY_TIMEOUT,
                "timed-out",
                "The answer took too long",
            ),
        }
    }

    /// Status and detail, for protocols with errors of their own. What is no fault of the caller is in the log then.
    pub fn told(&self) -> (u16, String) {
        self.log();
        (self.row().0.as_u16(), self.detail())
    }

    fn log(&self) {
        match self {
            Self::Internal(error) => {
                tracing::error!(error = format!("{error:#}"), "request failed")
            }
            Self::Unavailable(error) => {
                tracing::warn!(
                    error = error as &dyn std::error::Error,
                    "database did not answer a request"
                );
            }
            _ => {}
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::Unauthenticated => "send `Authorization: Bearer tnr_...` with a token that is neither expired nor revoked".to_owned(),
            Self::Unsigned => "send `webhook-id`, `webhook-timestamp` of now, and `webhook-signature` over `id.timestamp.body`, made with a secret \
                               of a source that may sign; the log of the server says what was wrong".to_owned(),
            Self::Forbidden { needs } => format!("this takes a token with the role `{}`", needs.as_str()),
            Self::NotFound(detail) | Self::Malformed(detail) | Self::Conflict(detail) => detail.clone(),
            Self::Invalid { detail, .. } => detail.clone(),
            Self::MethodNotAllowed => "see the `Allow` header".to_owned(),
            Self::UnsupportedMedia { expected } => format!("send the body as {expected}"),
            Self::TooLarge { bytes_max } => format!("at most {bytes_max} bytes are taken"),
            Self::TooSlow => "send the whole body without long pauses".to_owned(),
            Self::TimedOut => "it is not known whether it was done; the same request again is harmless".to_owned(),
            Self::Unavailable(_) => "nothing was acknowledged; try again later".to_owned(),
            Self::Internal(_) => "give the value of the `x-request-id` header to whoever runs this server".to_owned(),
        }
    }

    /// One mistake in one field.
    pub fn wrong(at: impl Into<String>, what: impl Into<String>) -> Self {
        let mistake = Mistake::new(at, what);
        Self::Invalid {
            detail: format!("`{}`: {}", mistake.at, mistake.what),
            mistakes: vec![mistake],
        }
    }

    /// Several mistakes, of which the first [`MISTAKES_MAX`] are told.
    pub fn mistakes(mut mistakes: Vec<Mistake>) -> Self {
        let more = mistakes.len().saturating_sub(MISTAKES_MAX);
        let detail = match (mistakes.first(), mistakes.len()) {
            (Some(first), 1) => format!("`{}`: {}", first.at, first.what),
            (_, count) if more > 0 => {
                format!("{count} mistakes, the first {MISTAKES_MAX} are listed")
            }
            (_, count) => format!("{count} mistakes"),
        };
        mistakes.truncate(MISTAKES_MAX);
        Self::Invalid { detail, mistakes }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, name, title) = self.row();
        let detail = self.detail();
        self.log();
        let challenge = match &self {
            Self::Unsigned => "Webhook-Signature realm=\"tenure\"",
            _ => "Bearer realm=\"tenure\"",
        };
        let mistakes = if let Self::Invalid { mistakes, .. } = self {
            mistakes
        } else {
            Vec::new()
        };
        let problem = Problem {
            kind: format!("urn:tenure:problem:{name}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail,
            mistakes,
        };
        let mut response = (status, Json(problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static(challenge),
            );
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => Self::Unavailable(error),
            StoreError::Unstorable { column, .. } => {
                Self::wrong(column, "holds U+0000, which cannot be stored")
            }
            StoreError::Fenced { .. }
            | StoreError::Stale { .. }
            | StoreError::StaleSchedule { .. }
            | StoreError::Corrupt { .. }
            | StoreError::Refused(_)
            | StoreError::TooNew { .. }
            | StoreError::Migration { .. }
            | StoreError::Projection(_) => Self::Internal(error.into()),
        }
    }
}

impl From<sqlx::Error> for ApiError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Io(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::Tls(_) => Self::Unavailable(StoreError::Unavailable(error)),
            other => Self::Internal(other.into()),
        }
    }
}

impl From<IntakeError> for ApiError {
    fn from(error: IntakeError) -> Self {
        match error {
            IntakeError::Refused(problems) => {
                let mistakes = problems.list.iter().map(|problem| {
                    let line = problem
                        .line
                        .map(|line| format!(":{line}"))
                        .unwrap_or_default();
                    let what = if problem.fix.is_empty() {
                        problem.message.clone()
                    } else {
                        format!("{}; fix: {}", problem.message, problem.fix)
                    };
                    Mistake::new(format!("{}{line}", problem.file), what)
                });
                Self::mistakes(mistakes.collect())
            }
            IntakeError::UnknownSubject(_) => Self::wrong("/subject", error.to_string()),
            IntakeError::NoSuchDifference(difference) => {
                Self::NotFound(format!("there is no import `{difference}`"))
            }
            IntakeError::NobodyKnown(_) | IntakeError::NoSuchReview(_) => {
                Self::NotFound(error.to_string())
            }
            IntakeError::Decided { .. }
            | IntakeError::Merge(_)
            | IntakeError::Thing(_)
            | IntakeError::MovedOn { .. }
            | IntakeError::PlanChanged { .. }
            | IntakeError::OtherEvent { .. } => Self::Conflict(error.to_string()),
            IntakeError::Store(error) => error.into(),
            IntakeError::StoredForm(_) => Self::Internal(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_and_status_is_used_once() {
        let errors = [
            ApiError::Unauthenticated,
            ApiError::Forbidden { needs: Role::Read },
            ApiError::NotFound(String::new()),
            ApiError::MethodNotAllowed,
            ApiError::Malformed(String::new()),
            ApiError::mistakes(Vec::new()),
            ApiError::UnsupportedMedia { expected: "" },
            ApiError::TooLarge { bytes_max: 1 },
            ApiError::TooSlow,
            ApiError::Conflict(String::new()),
            ApiError::TimedOut,
            ApiError::Unavailable(StoreError::Unavailable(sqlx::Error::PoolTimedOut)),
            ApiError::Internal(anyhow::anyhow!("x")),
        ];
        let rows: std::collections::BTreeSet<_> =
            errors.iter().map(|error| error.row().1).collect();
        let statuses: std::collections::BTreeSet<_> =
            errors.iter().map(|error| error.row().0).collect();
        assert_eq!((rows.len(), statuses.len()), (errors.len(), errors.len()));
    }
}
