//! A source that is asked: a SELECT on somebody's database, whose rows are a snapshot of now. Only what the file says; whoever
//! asks is elsewhere.

use core::net::IpAddr;
use std::path::PathBuf;

use connectors::secret::SecretRef;
use engine::core::duration::Span;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_saphyr::Spanned;

/// How often it may be asked.
pub const EVERY_MS: std::ops::RangeInclusive<i64> = 10_000..=7 * 86_400_000;
/// How long an answer may take, when nobody says.
const TIMEOUT_DEFAULT_S: u32 = 60;
/// What may be said.
pub const TIMEOUT_MS: std::ops::RangeInclusive<i64> = 1_000..=600_000;

/// ```yaml
/// query:
///   postgres: { host: hr-db.internal, database: hr, user: tenure_reader, password: env:HR_DB_PASSWORD }
///   sql: SELECT id, name, department FROM people WHERE employed
///   every: 1h
/// ```
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QueryConfig {
    /// Where a PostgreSQL server is, and who asks.
    #[serde(default)]
    #[schemars(with = "Option<PostgresLogin>")]
    pub postgres: Option<Spanned<PostgresLogin>>,
    /// Or the file of an SQLite database.
    #[serde(default)]
    #[schemars(with = "Option<PathBuf>")]
    pub sqlite: Option<Spanned<PathBuf>>,
    /// One SELECT. Its columns are the columns of the source; it is run in a transaction that can only read.
    #[schemars(with = "String")]
    pub sql: Spanned<String>,
    /// From one answer to the next question, `10s` to `7d`.
    #[schemars(with = "Span")]
    pub every: Spanned<Span>,
    /// The longest an answer may take, `1s` to `10m`; `1m` when left out.
    #[serde(default)]
    #[schemars(with = "Option<Span>")]
    pub timeout: Option<Spanned<Span>>,
}

impl QueryConfig {
    #[must_use]
    pub fn timeout(&self) -> Span {
        let timeout = self.timeout.as_ref().map(|timeout| timeout.value);
        timeout.unwrap_or(Span::from_s(TIMEOUT_DEFAULT_S))
    }

    /// The statement without what would end it: it becomes part of another.
    #[must_use]
    pub fn statement(&self) -> &str {
        let end = |c: char| c == ';' || c.is_whitespace();
        self.sql.value.trim().trim_end_matches(end)
    }
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PostgresLogin {
    /// A name, an address, or the folder of a Unix socket.
    pub host: String,
    #[serde(default = "port")]
    pub port: u16,
    pub database: String,
    pub user: String,
    /// Where the password is kept, `env:NAME` or `file:/path`.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub password: Option<SecretRef>,
    /// As in libpq. Without it: `verify-full`, or `prefer` where nothing leaves this machine.
    #[serde(default)]
    pub sslmode: Option<SslMode>,
    /// Trust these certificates too (PEM).
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Lets the login and the rows travel to another machine without a verified certificate.
    #[serde(default)]
    pub allow_plaintext: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SslMode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

fn port() -> u16 {
    5432
}

impl PostgresLogin {
    #[must_use]
    pub fn mode(&self) -> SslMode {
        self.sslmode.unwrap_or(if self.is_local() {
            SslMode::Prefer
        } else {
            SslMode::VerifyFull
        })
    }

    /// Whether somebody on the way could read what comes.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let verifies = matches!(self.mode(), SslMode::VerifyCa | SslMode::VerifyFull);
        !(self.allow_plaintext || verifies || self.is_local())
    }

    fn is_local(&self) -> bool {
        let address = self.host.parse::<IpAddr>();
        self.host.starts_with('/')
            || self.host.eq_ignore_ascii_case("localhost")
            || address.is_ok_and(|address| address.is_loopback())
    }
}
