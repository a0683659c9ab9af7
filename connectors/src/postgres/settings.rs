//! What a PostgreSQL system's configuration says.

use std::net::IpAddr;
use std::path::PathBuf;

use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::Value;
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use super::names::NAME_BYTES_MAX;
use crate::connector::{Error, ErrorKind};
use crate::secret::SecretRef;

const PAGE_SIZE_MAX: u32 = 10_000;
const CONNECTIONS_MAX: u32 = 64;
/// The longest wait that may be configured.
const TIMEOUT_MS_MAX: u64 = 600_000;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    /// A name, an address, or the folder of a Unix socket (starts with `/`).
    pub host: String,
    #[serde(default = "port")]
    pub port: u16,
    /// The database to log in to. Roles belong to the whole cluster, so any will do.
    #[serde(default = "database")]
    pub database: String,
    pub user: String,
    #[serde(default)]
    pub password: Option<SecretRef>,
    /// As in libpq. Without it: `verify-full`, or `prefer` where nothing leaves this machine.
    #[serde(default)]
    pub sslmode: Option<SslMode>,
    /// Trust these certificates too (PEM).
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Lets the login travel to another machine without a verified certificate.
    #[serde(default)]
    pub allow_plaintext: bool,
    /// Only roles whose name starts with it are accounts; the others are never touched.
    #[serde(default)]
    pub role_prefix: String,
    /// What happens on delete to what the role owns.
    #[serde(default)]
    pub owned_objects: OwnedObjects,
    /// Who gets it, with `owned_objects: reassign`.
    #[serde(default)]
    pub reassign_to: Option<String>,
    #[serde(default = "page_size")]
    pub page_size: u32,
    #[serde(default = "connections_max")]
    pub connections_max: u32,
    #[serde(default = "connect_timeout_ms")]
    pub connect_timeout_ms: u64,
    /// The longest a statement may take.
    #[serde(default = "timeout_ms")]
    pub timeout_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum SslMode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum OwnedObjects {
    /// The delete is refused, with a list.
    #[default]
    Refuse,
    /// `REASSIGN OWNED`, then `DROP OWNED` for the privileges that remain.
    Reassign,
    /// `DROP OWNED`: the objects go with the role.
    Drop,
}

fn port() -> u16 {
    5432
}
fn database() -> String {
    "postgres".to_owned()
}
fn page_size() -> u32 {
    1_000
}
fn connections_max() -> u32 {
    4
}
fn connect_timeout_ms() -> u64 {
    5_000
}
fn timeout_ms() -> u64 {
    30_000
}

impl Settings {
    pub(super) fn parse(system: &str, settings: Value) -> Result<Self, Error> {
        let settings: Self = serde_json::from_value(settings).map_err(|error| {
            Error::new(
                ErrorKind::Invalid,
                format!("system `{system}`: postgres settings: {error}"),
            )
        })?;
        match settings.mistake() {
            None => Ok(settings),
            Some(mistake) => Err(Error::new(
                ErrorKind::Invalid,
                format!("system `{system}`: {mistake}"),
            )),
        }
    }

    fn mistake(&self) -> Option<String> {
        let outside = |name: &str, value: u64, max: u64| {
            (!(1..=max).contains(&value))
                .then(|| format!("`{name}` is {value}; it must be between 1 and {max}"))
        };
        for (name, value) in [
            ("host", &self.host),
            ("database", &self.database),
            ("user", &self.user),
        ] {
            if value.is_empty() || value.contains('\0') {
                return Some(format!("`{name}` is empty or holds a zero byte"));
            }
        }
        if self.role_prefix.len() >= NAME_BYTES_MAX {
            return Some(format!(
                "`role_prefix` is longer than a role name may be ({NAME_BYTES_MAX} bytes)"
            ));
        }
        if (self.owned_objects == OwnedObjects::Reassign) != self.reassign_to.is_some() {
            return Some(
                "`owned_objects: reassign` and `reassign_to: ROLE` belong together".to_owned(),
            );
        }
        if !self.is_local() && !self.allow_plaintext && !self.verifies() {
            return Some(
                "this `sslmode` lets somebody on the way read or take over the login; use `sslmode: verify-full` with `ca_file`, or set `allow_plaintext: true`"
                    .to_owned(),
            );
        }
        outside(
            "page_size",
            u64::from(self.page_size),
            u64::from(PAGE_SIZE_MAX),
        )
        .or_else(|| {
            outside(
                "connections_max",
                u64::from(self.connections_max),
                u64::from(CONNECTIONS_MAX),
            )
        })
        .or_else(|| {
            outside(
                "connect_timeout_ms",
                self.connect_timeout_ms,
                TIMEOUT_MS_MAX,
            )
        })
        .or_else(|| outside("timeout_ms", self.timeout_ms, TIMEOUT_MS_MAX))
    }

    fn mode(&self) -> SslMode {
        self.sslmode.unwrap_or(if self.is_local() {
            SslMode::Prefer
        } else {
            SslMode::VerifyFull
        })
    }

    fn verifies(&self) -> bool {
        matches!(self.mode(), SslMode::VerifyCa | SslMode::VerifyFull)
    }

    /// Whether what is sent there cannot leave this machine.
    fn is_local(&self) -> bool {
        self.host.starts_with('/')
            || self.host.eq_ignore_ascii_case("localhost")
            || self
                .host
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }

    pub(super) fn options(&self, system: &str) -> Result<PgConnectOptions, Error> {
        let invalid = |message: String| {
            Error::new(ErrorKind::Invalid, format!("system `{system}`: {message}"))
        };
        let password = match &self.password {
            Some(reference) => reference.resolve().map_err(|error| {
                invalid("cannot read the setting `password`".to_owned()).with_source(error)
            })?,
            // Never what PGPASSWORD happens to hold.
            None => String::new().into(),
        };
        let mode = match self.mode() {
            SslMode::Disable => PgSslMode::Disable,
            SslMode::Prefer => PgSslMode::Prefer,
            SslMode::Require => PgSslMode::Require,
            SslMode::VerifyCa => PgSslMode::VerifyCa,
            SslMode::VerifyFull => PgSslMode::VerifyFull,
        };
        let mut options = PgConnectOptions::new_without_pgpass()
            .host(&self.host)
            .port(self.port)
            .database(&self.database)
            .username(&self.user)
            .password(password.expose_secret())
            .ssl_mode(mode)
            .application_name("tenure")
            .options([
                // Literals are quoted by doubling the quote; that is right only with this.
                ("standard_conforming_strings", "on".to_owned()),
                ("statement_timeout", self.timeout_ms.to_string()),
                ("lock_timeout", self.timeout_ms.to_string()),
                ("search_path", "pg_catalog".to_owned()),
            ])
            // Statements hold password verifiers and personal names.
            .disable_statement_logging();
        if let Some(path) = &self.ca_file {
            if !path.is_file() {
                return Err(invalid(format!(
                    "cannot read `ca_file` `{}`",
                    path.display()
                )));
            }
            options = options.ssl_root_cert(path);
        }
        Ok(options)
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
    use serde_json::json;

    use super::*;

    fn parse(changes: &Value) -> Result<Settings, String> {
        let mut settings = json!({ "host": "db.example", "user": "tenure" });
        for (key, value) in changes.as_object().unwrap() {
            settings[key] = value.clone();
        }
        Settings::parse("db", settings).map_err(|error| error.message)
    }

    #[test]
    fn a_login_leaves_the_machine_only_to_a_verified_server_or_on_purpose() {
        assert_eq!(parse(&json!({})).unwrap().mode(), SslMode::VerifyFull);
        for mode in ["disable", "prefer", "require"] {
            assert!(
                parse(&json!({ "sslmode": mode }))
                    .unwrap_err()
                    .contains("allow_plaintext"),
                "{mode}"
            );
            assert!(
                parse(&json!({ "sslmode": mode, "allow_plaintext": true })).is_ok(),
                "{mode}"
            );
            for host in ["127.0.0.1", "::1", "localhost", "/run/postgresql"] {
                assert!(
                    parse(&json!({ "sslmode": mode, "host": host })).is_ok(),
                    "{mode} {host}"
                );
            }
        }
    }

    #[test]
    fn a_wrong_setting_is_named_with_its_fix() {
        for (changes, why) in [
            (json!({ "hots": "x" }), "unknown field `hots`"),
            (json!({ "password": "hunter2" }), "env:NAME"),
            (json!({ "owned_objects": "reassign" }), "belong together"),
            (json!({ "reassign_to": "dba" }), "belong together"),
            (json!({ "user": "" }), "`user` is empty"),
            (json!({ "page_size": 0 }), "between 1 and"),
            (json!({ "role_prefix": "x".repeat(63) }), "role_prefix"),
            (json!({ "sslmode": "on" }), "verify-full"),
        ] {
            let message = parse(&changes).unwrap_err();
            assert!(message.contains(why), "{changes}: {message}");
            assert!(!message.contains("hunter2"));
        }
    }
}
