//! What can go wrong between a request and its answer, and what that means for a read and for a change.
//!
//! | what happened                         | a read                  | a change                |
//! |---------------------------------------|-------------------------|-------------------------|
//! | no connection                         | unreachable             | unreachable             |
//! | sent, no answer in time               | timeout                 | **ambiguous**           |
//! | sent, connection lost                 | transient               | **ambiguous**           |
//! | success status, unusable body         | bug, with an excerpt    | **ambiguous**           |
//! | 500, 502, 504 and other 5xx           | transient               | **ambiguous**           |
//! | 501                                   | unsupported             | unsupported             |
//! | 503                                   | transient               | transient               |
//! | 429, and 503 with `Retry-After`       | rate limited until then | rate limited until then |
//! | 3xx                                   | invalid, says where to  | invalid, says where to  |
//! | 400, 413, 414, 422 and other 4xx      | invalid, SCIM's detail  | invalid, SCIM's detail  |
//! | 401 / 403 / 404, 410 / 409, 412       | login refused / denied / not found / conflict, both ways |
//! | 405, 406, 415 / 408, 425              | unsupported / transient, both ways |
//!
//! A status below 500 says that the request was looked at and not carried out. A 5xx other than 501 and 503
//! says that it broke somewhere on the way, which may have been after the effect.

use chrono::{DateTime, Duration, Utc};

use crate::connector::{Error, ErrorKind, Outcome};

/// How long to stay away when a server says "too many requests" and not for how long.
const RETRY_AFTER_DEFAULT_S: i64 = 30;
/// The longest absence a server may ask for: a wrong header must not switch a system off.
const RETRY_AFTER_S_MAX: i64 = 3_600;

#[derive(Debug)]
pub(super) enum Failure {
    /// Nothing was sent.
    NotSent(Error),
    /// The server answered, and the answer is no.
    Refused(Refusal),
    /// It was sent, and no answer came that could be used.
    Lost(Error),
}

/// An error status with what SCIM's error message (RFC 7644, 3.12) adds to it.
#[derive(Debug)]
pub(super) struct Refusal {
    pub status: u16,
    pub scim_type: Option<String>,
    /// Whether the body is a SCIM error message. A status without one may come from a proxy.
    pub is_scim: bool,
    pub retry_at: Option<DateTime<Utc>>,
    /// The whole message: request, status, scimType, detail.
    pub message: String,
}

impl Refusal {
    pub(super) fn kind(&self) -> ErrorKind {
        kind_of(self.status, self.retry_at)
    }

    /// Whether the change may have happened in spite of the error.
    fn is_ambiguous(&self) -> bool {
        self.status >= 500 && !matches!(self.status, 501 | 503)
    }

    fn into_error(self) -> Error {
        Error::new(self.kind(), self.message)
    }
}

impl Failure {
    /// What it means when the request could not have changed anything.
    pub(super) fn of_read(self) -> Error {
        match self {
            Self::NotSent(error) | Self::Lost(error) => error,
            Self::Refused(refusal) => refusal.into_error(),
        }
    }

    /// What it means when the request may have changed something.
    pub(super) fn of_change(self) -> Result<Outcome, Error> {
        match self {
            Self::NotSent(error) => Err(error),
            Self::Lost(error) => Ok(Outcome::Ambiguous {
                reason: error.whole(),
            }),
            Self::Refused(refusal) if refusal.is_ambiguous() => Ok(Outcome::Ambiguous {
                reason: refusal.message,
            }),
            Self::Refused(refusal) => Err(refusal.into_error()),
        }
    }

    pub(super) fn status(&self) -> Option<u16> {
        match self {
            Self::Refused(refusal) => Some(refusal.status),
            Self::NotSent(_) | Self::Lost(_) => None,
        }
    }

    /// Whether the server says that a unique value is taken: 409, or 400 with `uniqueness`.
    pub(super) fn is_taken(&self) -> bool {
        match self {
            Self::Refused(refusal) => {
                refusal.status == 409
                    || (refusal.status == 400 && refusal.scim_type.as_deref() == Some("uniqueness"))
            }
            Self::NotSent(_) | Self::Lost(_) => false,
        }
    }

    /// Whether the server says that it cannot answer this kind of question.
    pub(super) fn is_unsupported_question(&self) -> bool {
        matches!(self.status(), Some(400 | 403 | 501))
    }
}

/// The one table from HTTP status to error kind.
pub(super) fn kind_of(status: u16, retry_at: Option<DateTime<Utc>>) -> ErrorKind {
    match (status, retry_at) {
        (429 | 503, Some(until)) => ErrorKind::RateLimited { until },
        (401, _) => ErrorKind::AuthExpired,
        (403, _) => ErrorKind::Denied,
        (404 | 410, _) => ErrorKind::NotFound,
        (409 | 412, _) => ErrorKind::Conflict,
        (405 | 406 | 415 | 501, _) => ErrorKind::Unsupported,
        (408 | 425 | 429, _) => ErrorKind::Transient,
        (300..=499, _) => ErrorKind::Invalid,
        (500..=599, _) => ErrorKind::Transient,
        (_, _) => ErrorKind::Bug,
    }
}

/// Until when a refusal asks us to stay away: what its `Retry-After` says, or a while for a bare 429.
pub(super) fn retry_at(
    status: u16,
    header: Option<&str>,
    now: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    let default = (status == 429).then(|| now + Duration::seconds(RETRY_AFTER_DEFAULT_S));
    header
        .and_then(|header| parse_retry_after(header, now))
        .or(default)
}

/// Reads `Retry-After`: seconds, or a date (RFC 9110, 10.2.3).
fn parse_retry_after(header: &str, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let latest = now + Duration::seconds(RETRY_AFTER_S_MAX);
    let text = header.trim();
    let at = match text.parse::<u32>() {
        Ok(seconds) => now + Duration::seconds(i64::from(seconds)),
        Err(_) => DateTime::parse_from_rfc2822(text).ok()?.with_timezone(&Utc),
    };
    Some(at.clamp(now, latest))
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
    use super::*;

    fn refused(status: u16) -> Failure {
        Failure::Refused(Refusal {
            status,
            scim_type: None,
            is_scim: true,
            retry_at: None,
            message: format!("answered {status}"),
        })
    }

    #[test]
    fn every_status_has_its_kind() {
        for (status, kind) in [
            (302, "invalid"),
            (400, "invalid"),
            (401, "auth_expired"),
            (403, "denied"),
            (404, "not_found"),
            (405, "unsupported"),
            (408, "transient"),
            (409, "conflict"),
            (410, "not_found"),
            (412, "conflict"),
            (413, "invalid"),
            (415, "unsupported"),
            (422, "invalid"),
            (500, "transient"),
            (501, "unsupported"),
            (502, "transient"),
            (503, "transient"),
            (504, "transient"),
            (102, "bug"),
            (600, "bug"),
        ] {
            assert_eq!(kind_of(status, None).as_str(), kind, "{status}");
        }
        for status in [429, 503] {
            assert_eq!(
                kind_of(status, Some(DateTime::UNIX_EPOCH)).as_str(),
                "rate_limited"
            );
        }
    }

    #[test]
    fn only_what_broke_on_the_way_leaves_a_change_in_doubt() {
        for status in [500, 502, 504, 507, 599] {
            assert!(
                matches!(refused(status).of_change(), Ok(Outcome::Ambiguous { .. })),
                "{status}"
            );
        }
        for status in [302, 400, 401, 403, 404, 409, 412, 429, 501, 503] {
            assert!(refused(status).of_change().is_err(), "{status}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_bounded() {
        let now = DateTime::parse_from_rfc3339("2015-10-21T07:00:00Z")
            .unwrap()
            .with_timezone(&Utc);
        let after = |header| retry_at(503, Some(header), now).map(|at| (at - now).num_seconds());
        assert_eq!(after("120"), Some(120));
        assert_eq!(after(" 0 "), Some(0));
        assert_eq!(after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(28 * 60));
        assert_eq!(
            after("Wed, 21 Oct 2014 07:28:00 GMT"),
            None,
            "not a Wednesday"
        );
        assert_eq!(
            after("Tue, 21 Oct 2014 07:28:00 GMT"),
            Some(0),
            "in the past"
        );
        assert_eq!(after("4000000000"), Some(RETRY_AFTER_S_MAX));
        assert_eq!(after("soon"), None);
        let bare = retry_at(429, None, now).map(|at| (at - now).num_seconds());
        assert_eq!(bare, Some(RETRY_AFTER_DEFAULT_S));
    }
}
