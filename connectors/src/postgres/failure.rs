//! What can go wrong between a statement and its answer, and what that means for a read and for a change.
//!
//! Every change is one message that PostgreSQL runs as one transaction, so an error answer proves that nothing
//! was changed: except when the session itself ended (`FATAL`, or the connection broke), where the commit may
//! just have happened.

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::connector::{Error, ErrorKind, Outcome};

#[derive(Debug)]
pub(super) enum Failure {
    /// No session was made, so nothing was sent.
    NotSent(Error),
    /// The server answered with an error and rolled back.
    Refused { code: String, error: Error },
    /// It was sent, and the session ended before the answer.
    Lost(Error),
}

impl Failure {
    pub(super) fn of_read(self) -> Error {
        match self {
            Self::NotSent(error) | Self::Refused { error, .. } | Self::Lost(error) => error,
        }
    }

    pub(super) fn of_change(self) -> Result<Outcome, Error> {
        match self {
            Self::NotSent(error) | Self::Refused { error, .. } => Err(error),
            Self::Lost(error) => Ok(Outcome::Ambiguous {
                reason: error.whole(),
            }),
        }
    }

    pub(super) fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { code, .. } => Some(code),
            Self::NotSent(_) | Self::Lost(_) => None,
        }
    }
}

/// The one table from SQLSTATE to error kind.
pub(super) fn kind_of(code: &str) -> ErrorKind {
    match code {
        // invalid_password, invalid_authorization_specification
        "28P01" | "28000" => ErrorKind::AuthExpired,
        // insufficient_privilege, dependent_objects_still_exist: a person has to do something first
        "42501" | "2BP01" => ErrorKind::Denied,
        // duplicate_object, unique_violation (the same, found a moment later)
        "42710" | "23505" => ErrorKind::Conflict,
        // undefined_object
        "42704" => ErrorKind::NotFound,
        // invalid_grant_operation, reserved_name, invalid_name, name_too_long, invalid_catalog_name,
        // invalid_role_specification
        "0LP01" | "42939" | "42602" | "42622" | "3D000" | "0P000" => ErrorKind::Invalid,
        // serialization_failure, deadlock_detected, lock_not_available, object_in_use, query_canceled,
        // read_only_sql_transaction (a standby), object_not_in_prerequisite_state
        "40001" | "40P01" | "55P03" | "55006" | "57014" | "25006" | "55000" => ErrorKind::Transient,
        // admin_shutdown, crash_shutdown, cannot_connect_now
        "57P01" | "57P02" | "57P03" => ErrorKind::Transient,
        // internal_error: "tuple concurrently updated", when two change one role at once
        "XX000" => ErrorKind::Transient,
        "0A000" => ErrorKind::Unsupported,
        // insufficient_resources, connection_exception; data_exception
        code if code.starts_with("53") || code.starts_with("08") => ErrorKind::Transient,
        code if code.starts_with("22") => ErrorKind::Invalid,
        _ => ErrorKind::Bug,
    }
}

/// What an error of the driver means after a session was made.
pub(super) fn of_statement(system: &str, what: &str, error: sqlx::Error) -> Failure {
    let told =
        |kind, detail: &str| Error::new(kind, format!("system `{system}`: {what}: {detail}"));
    let ended = ends_session(&error);
    match error {
        sqlx::Error::Database(error) => {
            let code = error.code().unwrap_or_default().into_owned();
            let error = told(kind_of(&code), &words(error.as_ref(), &code));
            if ended {
                Failure::Lost(error)
            } else {
                Failure::Refused { code, error }
            }
        }
        sqlx::Error::Io(source) => {
            Failure::Lost(told(ErrorKind::Transient, "the connection was lost").with_source(source))
        }
        sqlx::Error::Tls(source) => Failure::Lost(
            told(ErrorKind::Transient, "the encrypted connection broke").with_source(source),
        ),
        other => Failure::Lost(
            told(
                ErrorKind::Bug,
                "the driver and the server do not understand each other",
            )
            .with_source(other),
        ),
    }
}

/// What an error of the driver means while no session was made yet.
pub(super) fn of_login(system: &str, place: &str, error: sqlx::Error) -> Error {
    let told = |kind, detail: &str| Error::new(kind, format!("system `{system}`: {detail}"));
    match error {
        sqlx::Error::Database(error) => {
            let code = error.code().unwrap_or_default().into_owned();
            let kind = match kind_of(&code) {
                // Starting up or shutting down: the whole system is away.
                ErrorKind::Transient if code.starts_with("57P") => ErrorKind::Unreachable,
                kind => kind,
            };
            told(kind, &format!("login to {place} refused: {}", words(error.as_ref(), &code)))
        }
        sqlx::Error::Io(source) => {
            told(ErrorKind::Unreachable, &format!("no connection to {place}")).with_source(source)
        }
        sqlx::Error::Tls(source) => told(
            ErrorKind::Unreachable,
            &format!("no trusted connection to {place}; check `sslmode`, `ca_file` and the name in the certificate"),
        )
        .with_source(source),
        sqlx::Error::Configuration(source) => {
            told(ErrorKind::Invalid, "the connection settings are wrong").with_source(source)
        }
        other => told(ErrorKind::Bug, &format!("{place} does not speak PostgreSQL's protocol")).with_source(other),
    }
}

/// The server's words: message, detail and code. The statement is not repeated, it may hold a verifier.
fn words(error: &dyn sqlx::error::DatabaseError, code: &str) -> String {
    let mut text = error.message().to_owned();
    if let Some(detail) = error
        .try_downcast_ref::<PgDatabaseError>()
        .and_then(PgDatabaseError::detail)
    {
        text.push_str(": ");
        text.push_str(&detail.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    format!("{text} (SQLSTATE {code})")
}

/// Whether the session ended with it.
fn is_fatal_code(code: &str) -> bool {
    matches!(code, "57P01" | "57P02" | "57P03" | "57P04" | "57P05") || code.starts_with("08")
}

/// Whether the server closed the session with this error, whatever its code.
pub(super) fn ends_session(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            is_fatal_code(error.code().unwrap_or_default().as_ref())
                || error
                    .try_downcast_ref::<PgDatabaseError>()
                    .is_some_and(|error| {
                        matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic)
                    })
        }
        _ => true,
    }
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

    #[test]
    fn every_code_has_its_kind() {
        for (code, kind) in [
            ("28P01", "auth_expired"),
            ("28000", "auth_expired"),
            ("42501", "denied"),
            ("2BP01", "denied"),
            ("42710", "conflict"),
            ("23505", "conflict"),
            ("42704", "not_found"),
            ("42939", "invalid"),
            ("22008", "invalid"),
            ("0LP01", "invalid"),
            ("40001", "transient"),
            ("40P01", "transient"),
            ("25006", "transient"),
            ("53300", "transient"),
            ("57014", "transient"),
            ("57P01", "transient"),
            ("08006", "transient"),
            ("XX000", "transient"),
            ("0A000", "unsupported"),
            ("42601", "bug"),
            ("", "bug"),
        ] {
            assert_eq!(kind_of(code).as_str(), kind, "{code}");
        }
    }

    #[test]
    fn a_broken_connection_leaves_a_change_in_doubt() {
        let io = sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        assert!(ends_session(&io));
        assert!(matches!(
            of_statement("db", "x", io).of_change(),
            Ok(Outcome::Ambiguous { .. })
        ));
        let odd = of_statement("db", "x", sqlx::Error::Protocol("?".to_owned()));
        assert!(matches!(odd.of_change(), Ok(Outcome::Ambiguous { .. })));
    }

    #[test]
    fn without_a_connection_nothing_was_sent() {
        let io = sqlx::Error::Io(std::io::ErrorKind::ConnectionRefused.into());
        assert_eq!(of_login("db", "`h:5432`", io).kind, ErrorKind::Unreachable);
    }
}
