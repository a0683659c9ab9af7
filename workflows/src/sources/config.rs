//! The form of a source's configuration. Its meaning is checked by [`super::Source::load`].
//!
//! ```yaml
//! name: hr
//! kind: snapshot
//! format: csv
//! key: user_id
//! time_zone: America/New_York
//! complete: true
//! columns:
//!   name: employee_name
//!   department: department
//!   skills: { column: skills, type: list, separator: ";" }
//!   site: { cel: 'slug(row["Site name"])' }
//! required: [name]
//! manager: { column: supervisor, by: name }
//! project: { column: projects, separator: ";" }
//! guard:
//!   removals: { share_max: 0.05, count_max: 100, population_min: 50 }
//! signature: { secrets: [env:HR_WEBHOOK_SECRET] }
//! silent_after: 26h
//! ```

use std::collections::BTreeMap;
use std::fmt;

use engine::core::duration::Span;
use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_saphyr::Spanned;

use super::doubt::TrustConfig;
use super::guard::GuardConfig;
use super::pull::PullConfig;
use super::query::QueryConfig;
use super::record::IdentityType;
use super::signature::SignatureConfig;
use crate::policy::schema::AttributeKind;

/// One feed.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    #[schemars(with = "String")]
    pub name: Spanned<String>,
    pub kind: SourceKind,
    /// Snapshots only: how the file is written.
    #[serde(default)]
    pub format: Option<Format>,
    /// SCIM only: names of the API tokens that may push people of this source, and nothing else.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub tokens: Vec<Spanned<String>>,
    /// Queries only: whom to ask, what and how often.
    #[serde(default)]
    pub query: Option<QueryConfig>,
    /// Pulled only: whom to ask, as whom and how often. Columns are members of the rows, those of objects within them as
    /// `outer.inner`.
    #[serde(default)]
    pub pull: Option<PullConfig>,
    /// CSV only: what stands between two fields. A comma when left out.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub delimiter: Option<Spanned<String>>,
    /// What identifies a person for ever.
    #[schemars(with = "ColumnSource")]
    pub key: Spanned<ColumnSource>,
    /// IANA name. Days of this feed begin and end in this zone.
    #[schemars(with = "String")]
    pub time_zone: Spanned<String>,
    /// How the file name tells the day, in the notation of strftime, as `%Y-%m-%d`. Used when neither the
    /// caller nor the manifest says; a missing day is the first of the month.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub as_of_file_name: Option<Spanned<String>>,
    /// Every file holds everybody, unless its manifest says otherwise. Only then is somebody who is missing
    /// taken to have left.
    #[serde(default)]
    pub complete: bool,
    #[serde(default)]
    pub manifest: ManifestRule,
    /// Whether a file without a manifest must end with a newline, by which a file that was cut is told.
    #[serde(default)]
    pub final_newline: Presence,
    /// Attributes and where they come from.
    #[schemars(with = "BTreeMap<String, ColumnSource>")]
    pub columns: BTreeMap<String, Spanned<ColumnSource>>,
    /// Attributes every row must have.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub required: Vec<Spanned<String>>,
    #[serde(default, rename = "type")]
    #[schemars(with = "TypeSource")]
    pub identity_type: Option<Spanned<TypeSource>>,
    #[serde(default)]
    pub manager: Option<ManagerConfig>,
    #[serde(default)]
    pub project: Option<ProjectConfig>,
    #[serde(default)]
    pub employment: Option<EmploymentConfig>,
    #[serde(default)]
    pub status: Option<StatusConfig>,
    /// Attributes whose change is more than a transfer, as `cost_center: cost_center.changed`.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub change_events: BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    pub guard: GuardConfig,
    /// Snapshots and queries: when a file is not believed although nothing in it is wrong.
    #[serde(default)]
    pub trust: TrustConfig,
    /// Lets the source send events without a token, signed. Without it nothing that is signed is let in.
    #[serde(default)]
    pub signature: Option<SignatureConfig>,
    /// How long nothing may be heard of the source before somebody is told, `1m` to `400d`. Without it nobody is.
    #[serde(default)]
    #[schemars(with = "Option<Span>")]
    pub silent_after: Option<Spanned<Span>>,
}

/// The JSON Schema of these files.
#[must_use]
pub fn schema() -> serde_json::Value {
    schemars::SchemaGenerator::default()
        .into_root_schema_for::<SourceConfig>()
        .to_value()
}

/// What `silent_after` may say.
pub const SILENT_AFTER_MS: std::ops::RangeInclusive<i64> = 60_000..=400 * 86_400_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// Each file holds the state of all people on one day.
    Snapshot,
    /// An HR system or identity provider pushes each change over SCIM 2.0. Columns are paths of SCIM, as
    /// `emails[type eq "work"].value`; the URN of an extension may be left out.
    Scim,
    /// A database is asked for the state of all people at that moment.
    Query,
    /// A worker feed behind an HTTP API is asked for everybody, or for who changed.
    Pull,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    Csv,
    /// One array of objects.
    Json,
    /// One object a line.
    Jsonl,
}

impl Format {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Json => "json",
            Self::Jsonl => "jsonl",
        }
    }
}

/// Whether `<file>.manifest.json` must stand beside the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ManifestRule {
    Required,
    #[default]
    Optional,
    /// It is not looked for.
    None,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    #[default]
    Required,
    Optional,
}

/// A column by name, or more words about it.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(untagged)]
pub enum ColumnSource {
    Column(String),
    Detailed(DetailedColumn),
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DetailedColumn {
    #[serde(default)]
    pub column: Option<String>,
    /// A CEL expression over `row`, instead of a column.
    #[serde(default)]
    pub cel: Option<String>,
    #[serde(default, rename = "type")]
    pub kind: AttributeKind,
    /// Lists: what stands between two items. A semicolon when left out.
    #[serde(default)]
    pub separator: Option<String>,
    /// Dates: their form, in the notation of strftime. `%Y-%m-%d` when left out.
    #[serde(default)]
    pub date_format: Option<String>,
}

/// `employee`, `contractor`, `guest`, or an expression that gives one of them for each row.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(untagged)]
pub enum TypeSource {
    Fixed(IdentityType),
    Cel(CelSource),
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CelSource {
    pub cel: String,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ManagerConfig {
    /// The column that names the manager.
    #[schemars(with = "String")]
    pub column: Spanned<String>,
    /// What it names the manager by: `key`, or an attribute such as `name` or `email`.
    #[schemars(with = "String")]
    pub by: Spanned<String>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProjectConfig {
    #[schemars(with = "String")]
    pub column: Spanned<String>,
    /// What stands between two projects. Without it a field holds one project.
    #[serde(default)]
    pub separator: Option<String>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmploymentConfig {
    /// The column with the first day.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub start: Option<Spanned<String>>,
    /// The column with the last day.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub end: Option<Spanned<String>>,
    /// In the notation of strftime. `%Y-%m-%d` when left out.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub date_format: Option<Spanned<String>>,
    /// The attribute that tells the IANA time zone in which a person's days begin and end. Those of whom it tells none
    /// have the zone of the source.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub zone: Option<Spanned<String>>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StatusConfig {
    #[schemars(with = "String")]
    pub column: Spanned<String>,
    /// Values that mean employment has ended. Case does not matter.
    #[serde(default)]
    pub ended: Vec<String>,
    /// Values that mean the person is on leave.
    #[serde(default)]
    pub leave: Vec<String>,
    /// Values that mean the person works. A value in none of the three lists is refused when this one is
    /// not empty.
    #[serde(default)]
    pub active: Vec<String>,
}

impl<'de> Deserialize<'de> for ColumnSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrMap::<Self, DetailedColumn> {
            expecting: "a column name or a map with `column` or `cel`",
            text: |text| Ok(Self::Column(text.to_owned())),
            map: Self::Detailed,
        })
    }
}

impl<'de> Deserialize<'de> for TypeSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrMap::<Self, CelSource> {
            expecting: "`employee`, `contractor`, `guest` or a map with `cel`",
            text: |text| IdentityType::parse(text).map(Self::Fixed).ok_or(()),
            map: Self::Cel,
        })
    }
}

/// Takes a text or a map. Unlike an untagged enum it keeps the place and the message of a mistake inside.
struct TextOrMap<T, M> {
    expecting: &'static str,
    text: fn(&str) -> Result<T, ()>,
    map: fn(M) -> T,
}

impl<'de, T, M: Deserialize<'de>> Visitor<'de> for TextOrMap<T, M> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expecting)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.text)(text).map_err(|()| E::invalid_value(de::Unexpected::Str(text), &self.expecting))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        M::deserialize(MapAccessDeserializer::new(map)).map(self.map)
    }
}
