//! A person as one feed tells it, in our own words.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use chrono::NaiveDate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::policy;

/// Attributes that every source fills in the same way. `columns` must not define them.
pub mod attribute {
    /// `employee`, `contractor` or `guest`. Always there.
    pub const TYPE: &str = "type";
    /// The projects somebody is on, sorted. Always there when the source has a project column.
    pub const PROJECTS: &str = "projects";
    /// The key of the manager.
    pub const MANAGER: &str = "manager";
    /// How the feed names the manager, when that is not the key.
    pub const MANAGER_NAME: &str = "manager_name";
    /// The first day of work.
    pub const EMPLOYMENT_START: &str = "employment_start";
    /// The last day of work.
    pub const EMPLOYMENT_END: &str = "employment_end";
    /// `active`, `leave` or `ended`. There when the source has a status column.
    pub const EMPLOYMENT_STATUS: &str = "employment_status";
    /// The key itself; rules see it beside the others.
    pub const KEY: &str = "key";

    /// All of them.
    pub const RESERVED: [&str; 8] = [
        TYPE,
        PROJECTS,
        MANAGER,
        MANAGER_NAME,
        EMPLOYMENT_START,
        EMPLOYMENT_END,
        EMPLOYMENT_STATUS,
        KEY,
    ];
}

/// What identifies a person within a source, for ever.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(String);

impl Key {
    #[must_use]
    pub fn new(key: impl Into<String>) -> Self {
        Self(key.into())
    }
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum IdentityType {
    #[default]
    Employee,
    Contractor,
    Guest,
}

impl IdentityType {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Employee => "employee",
            Self::Contractor => "contractor",
            Self::Guest => "guest",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Employee, Self::Contractor, Self::Guest]
            .into_iter()
            .find(|kind| kind.as_str() == text)
    }
}

/// The people of one snapshot.
pub type Records = BTreeMap<Key, Record>;

/// One person in one snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub key: Key,
    /// By name. A value is a text, a whole number, a truth value or a list of texts; what is empty in the
    /// feed is absent here. A `BTreeMap`, so that equal records have equal bytes.
    pub attributes: BTreeMap<String, Value>,
    /// SHA-256, in hex, over key and attributes.
    pub digest: String,
}

impl Record {
    #[must_use]
    pub fn new(key: Key, attributes: BTreeMap<String, Value>) -> Self {
        Self {
            digest: policy::digest(&json!({ "key": key, "attributes": attributes })),
            key,
            attributes,
        }
    }

    /// A text attribute.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).and_then(Value::as_str)
    }

    #[must_use]
    pub fn identity_type(&self) -> IdentityType {
        self.text(attribute::TYPE)
            .and_then(IdentityType::parse)
            .unwrap_or_default()
    }

    #[must_use]
    pub fn projects(&self) -> BTreeSet<&str> {
        self.attributes
            .get(attribute::PROJECTS)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect()
    }

    #[must_use]
    pub fn first_day(&self) -> Option<NaiveDate> {
        self.date(attribute::EMPLOYMENT_START)
    }

    #[must_use]
    pub fn last_day(&self) -> Option<NaiveDate> {
        self.date(attribute::EMPLOYMENT_END)
    }

    #[must_use]
    pub fn on_leave(&self) -> bool {
        self.text(attribute::EMPLOYMENT_STATUS) == Some("leave")
    }

    /// Whether employment is over on `day`: the feed says so, or the last day is before it.
    #[must_use]
    pub fn has_ended(&self, day: NaiveDate) -> bool {
        self.text(attribute::EMPLOYMENT_STATUS) == Some("ended")
            || self.last_day().is_some_and(|last| last < day)
    }

    fn date(&self, name: &str) -> Option<NaiveDate> {
        self.text(name).and_then(|text| text.parse().ok())
    }
}
