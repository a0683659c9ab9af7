//! A source that is pulled: a worker feed behind an HTTP API, in JSON. Only what the file says and what its pages mean;
//! whoever asks is elsewhere.
//!
//! ```yaml
//! kind: pull
//! pull:
//!   api: successfactors
//!   url: https://api.example.com/odata/v2/EmpJob?$select=userId,startDate,seqNumber,department,emplStatus
//!   auth: { oauth2: { token_url: "https://api.example.com/oauth/token", client_id: tenure, client_secret: env:SF_SECRET } }
//!   every: 10m
//!   full_every: 1d
//! ```

use std::path::PathBuf;

use connectors::secret::SecretRef;
use engine::core::duration::Span;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::hint::HintsConfig;

/// How often it may be asked.
pub const EVERY_MS: std::ops::RangeInclusive<i64> = 10_000..=7 * 86_400_000;
/// How long one answer may take, when nobody says, and what may be said.
const TIMEOUT_DEFAULT_S: u32 = 60;
pub const TIMEOUT_MS: std::ops::RangeInclusive<i64> = 1_000..=600_000;
/// How often everybody is asked for, where changes alone can be.
const FULL_EVERY_DEFAULT_S: u32 = 86_400;
/// The largest page, in rows.
pub const PAGE_ROWS_MAX: u32 = 10_000;
const PAGE_ROWS_DEFAULT: u32 = 100;

/// How the API speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PullApi {
    /// A Workday report as a service, with `format=json`: one answer with everybody in `Report_Entry`.
    WorkdayReport,
    /// The REST API of Workday: pages by `offset` and `limit`, everybody in `data`, how many there are in `total`.
    WorkdayRest,
    /// OData v2 of SAP SuccessFactors: pages by `__next`, rows with dates from which they hold, changes by
    /// `lastModifiedDateTime`.
    Successfactors,
    /// Any other; where the rows are, and how pages follow, is said below.
    Rest,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PullConfig {
    pub api: PullApi,
    /// Where everybody is; with whatever the API wants to be told beside.
    #[schemars(with = "String")]
    pub url: Spanned<String>,
    #[serde(default)]
    pub auth: AuthConfig,
    /// Where the rows are in an answer, as a JSON pointer; nothing for the answer itself.
    #[serde(default)]
    pub rows: Option<String>,
    /// How pages follow each other; one answer is everything when left out.
    #[serde(default)]
    pub page: Option<PageConfig>,
    /// SuccessFactors: the members that say who, from when, and in which order on one day.
    #[serde(default)]
    pub effective: Option<EffectiveConfig>,
    /// From one answer to the next question, `10s` to `7d`.
    #[schemars(with = "Span")]
    pub every: Spanned<Span>,
    /// SuccessFactors: how often everybody is asked for, not only who changed; `1d` when left out.
    #[serde(default)]
    #[schemars(with = "Option<Span>")]
    pub full_every: Option<Spanned<Span>>,
    /// The longest one answer may take, `1s` to `10m`; `1m` when left out.
    #[serde(default)]
    #[schemars(with = "Option<Span>")]
    pub timeout: Option<Spanned<Span>>,
    /// Trust these certificates alone (PEM).
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Lets what is asked and answered travel to another machine without TLS.
    #[serde(default)]
    pub allow_plaintext: bool,
    /// Lets the product say that somebody changed; what is said is fetched, never believed.
    #[serde(default)]
    pub hints: Option<HintsConfig>,
}

/// Who asks.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum AuthConfig {
    #[default]
    None,
    Basic {
        user: String,
        #[schemars(with = "String")]
        password: SecretRef,
    },
    Bearer {
        #[schemars(with = "String")]
        token: SecretRef,
    },
    /// A header of its own.
    Header {
        name: String,
        #[schemars(with = "String")]
        value: SecretRef,
    },
    /// Client credentials (RFC 6749, section 4.4).
    Oauth2 {
        token_url: String,
        client_id: String,
        #[schemars(with = "String")]
        client_secret: SecretRef,
        #[serde(default)]
        scope: Option<String>,
    },
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PageConfig {
    /// Where an answer names the address of the next one, as a JSON pointer.
    #[serde(default)]
    pub next: Option<String>,
    /// The parameter that says how many rows to leave out; with `limit` rows a page.
    #[serde(default)]
    pub offset: Option<String>,
    #[serde(default = "page_rows")]
    pub limit: u32,
    /// The parameter that says how many rows to give.
    #[serde(default = "limit_name")]
    pub limit_parameter: String,
    /// Where an answer says how many rows there are in all, as a JSON pointer.
    #[serde(default)]
    pub total: Option<String>,
}

fn page_rows() -> u32 {
    PAGE_ROWS_DEFAULT
}

fn limit_name() -> String {
    "limit".to_owned()
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EffectiveConfig {
    pub person: String,
    pub from: String,
    pub sequence: String,
    /// When a row was last changed.
    pub modified: String,
}

impl Default for EffectiveConfig {
    fn default() -> Self {
        Self {
            person: "userId".to_owned(),
            from: "startDate".to_owned(),
            sequence: "seqNumber".to_owned(),
            modified: "lastModifiedDateTime".to_owned(),
        }
    }
}

impl PullConfig {
    #[must_use]
    pub fn timeout(&self) -> Span {
        let timeout = self.timeout.as_ref().map(|timeout| timeout.value);
        timeout.unwrap_or(Span::from_s(TIMEOUT_DEFAULT_S))
    }

    #[must_use]
    pub fn full_every(&self) -> Span {
        let every = self.full_every.as_ref().map(|every| every.value);
        every.unwrap_or(Span::from_s(FULL_EVERY_DEFAULT_S))
    }

    /// Where the rows are.
    #[must_use]
    pub fn rows_at(&self) -> &str {
        match (&self.rows, self.api) {
            (Some(rows), _) => rows,
            (None, PullApi::WorkdayReport) => "/Report_Entry",
            (None, PullApi::WorkdayRest) => "/data",
            (None, PullApi::Successfactors) => "/d/results",
            (None, PullApi::Rest) => "",
        }
    }

    /// How pages follow each other.
    #[must_use]
    pub fn pages(&self) -> Option<PageConfig> {
        let usual = |next: Option<&str>, offset: Option<&str>, total: Option<&str>| PageConfig {
            next: next.map(str::to_owned),
            offset: offset.map(str::to_owned),
            limit: PAGE_ROWS_DEFAULT,
            limit_parameter: limit_name(),
            total: total.map(str::to_owned),
        };
        match (&self.page, self.api) {
            (Some(page), _) => Some(page.clone()),
            (None, PullApi::WorkdayRest) => Some(usual(None, Some("offset"), Some("/total"))),
            (None, PullApi::Successfactors) => Some(usual(Some("/d/__next"), None, None)),
            (None, PullApi::WorkdayReport | PullApi::Rest) => None,
        }
    }

    /// Whether those who changed can be asked for alone.
    #[must_use]
    pub fn tells_changes(&self) -> bool {
        self.api == PullApi::Successfactors
    }
}
