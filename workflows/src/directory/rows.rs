//! The rows of the directory: a stored form. Fields may be added, never renamed.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::database::{stored_time, stored_time_option};
use crate::sources::{BusinessEvent, Key};

/// Where a person stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdentityStatus {
    /// Known, and not begun yet.
    Expected,
    Active,
    /// The end is effective; access is being taken away. Nothing may be given any more.
    Leaving,
    /// The case that took the access away is closed.
    Departed,
    /// It is another person: everything about them stands under the key in `merged_into`.
    Merged,
}

impl IdentityStatus {
    pub const ALL: [Self; 5] = [
        Self::Expected,
        Self::Active,
        Self::Leaving,
        Self::Departed,
        Self::Merged,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expected => "expected",
            Self::Active => "active",
            Self::Leaving => "leaving",
            Self::Departed => "departed",
            Self::Merged => "merged",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }
}

/// What is known about an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountStatus {
    Planned,
    Active,
    Disabled,
    Deleted,
    /// A case ended while the outcome of a change was unknown.
    Uncertain,
}

/// What is known about a right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrantStatus {
    Planned,
    Active,
    Revoked,
    Uncertain,
}

/// A person.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IdentityRow {
    pub shard_id: i32,
    pub identity_key: String,
    /// `employee`, `contractor` or `guest`.
    pub identity_type: String,
    pub status: IdentityStatus,
    /// The case that made the status `leaving`.
    pub status_case: Option<String>,
    pub generation: u32,
    pub source: String,
    pub display_name: String,
    pub attributes: BTreeMap<String, Value>,
    pub attributes_version: i64,
    #[serde(with = "stored_time")]
    pub first_seen_at: DateTime<Utc>,
    #[serde(with = "stored_time")]
    pub changed_at: DateTime<Utc>,
    #[serde(with = "stored_time_option")]
    pub departed_at: Option<DateTime<Utc>>,
    /// The key of the person that this one is.
    #[serde(default)]
    pub merged_into: Option<String>,
    /// The keys that were merged into this one, sorted.
    #[serde(default, deserialize_with = "none_is_empty")]
    pub members: Vec<String>,
    /// Questions that are open about who this is, sorted: meanwhile nothing is given.
    #[serde(default, deserialize_with = "none_is_empty")]
    pub disputes: Vec<String>,
}

/// A login on a system.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AccountRow {
    pub shard_id: i32,
    pub identity_key: String,
    pub system: String,
    /// The system's own identifier.
    pub native_id: String,
    pub name: String,
    pub status: AccountStatus,
    pub attributes_digest: Option<String>,
    #[serde(with = "stored_time_option")]
    pub created_at: Option<DateTime<Utc>>,
    #[serde(with = "stored_time_option")]
    pub disabled_at: Option<DateTime<Utc>>,
    #[serde(with = "stored_time")]
    pub changed_at: DateTime<Utc>,
    /// When a read last showed the status.
    #[serde(with = "stored_time_option")]
    pub verified_at: Option<DateTime<Utc>>,
    /// Why no read showed it.
    pub unverified: Option<String>,
    pub case_id: String,
}

/// A right somebody has or had.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GrantRow {
    pub shard_id: i32,
    pub identity_key: String,
    pub system: String,
    pub entitlement: String,
    pub status: GrantStatus,
    pub held_by: crate::policy::HeldBy,
    pub reasons: Vec<GrantReason>,
    pub policy_hash: Option<String>,
    #[serde(with = "stored_time_option")]
    pub since: Option<DateTime<Utc>>,
    /// When it went; of one that is active, until when it is kept to be handed over, or while it is asked about.
    #[serde(with = "stored_time_option")]
    pub until: Option<DateTime<Utc>>,
    /// When it goes, if it is an exception with an end.
    #[serde(with = "stored_time_option", default)]
    pub exception_until: Option<DateTime<Utc>>,
    #[serde(with = "stored_time_option")]
    pub verified_at: Option<DateTime<Utc>>,
    pub unverified: Option<String>,
    pub case_id: String,
}

impl GrantRow {
    /// Whether nothing keeps it any more but that nobody has taken it: an exception whose end has come.
    #[must_use]
    pub fn is_over(&self, now: DateTime<Utc>) -> bool {
        self.held_by == crate::policy::HeldBy::Exception
            && self.exception_until.is_some_and(|end| end <= now)
    }
}

/// The role that gives a right, and the way from the role whose rule holds to it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GrantReason {
    pub role: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub via: Vec<String>,
}

/// A file that was read, without what it would apply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SnapshotRow {
    pub shard_id: i32,
    pub source: String,
    pub snapshot_id: String,
    pub file: String,
    pub as_of: NaiveDate,
    pub file_sha256: String,
    pub digest: String,
    pub row_count: u64,
    #[serde(with = "truth")]
    pub complete: bool,
    pub status: SnapshotStatus,
    pub difference_id: String,
    pub summary: Value,
    /// Why the guard stopped it.
    pub stopped_by: Option<Vec<String>>,
    pub base_id: Option<String>,
    #[serde(with = "stored_time")]
    pub imported_at: DateTime<Utc>,
    pub imported_by: String,
    #[serde(with = "stored_time_option")]
    pub decided_at: Option<DateTime<Utc>>,
    pub decided_by: Option<String>,
    pub decided_note: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotStatus {
    Applied,
    /// The guard stopped it; a person has to approve or reject it.
    Waiting,
    Rejected,
}

/// A fact from a source, as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventRow {
    pub shard_id: i32,
    pub event_id: String,
    pub subject: String,
    pub source: String,
    pub event_type: crate::sources::EventType,
    pub version: i64,
    #[serde(with = "stored_time")]
    pub occurred_at: DateTime<Utc>,
    #[serde(with = "stored_time")]
    pub effective_at: DateTime<Utc>,
    pub zone: String,
    #[serde(with = "stored_time")]
    pub received_at: DateTime<Utc>,
    pub supersedes: Option<String>,
    pub status: EventStatus,
    pub data: Value,
    /// The cases it started.
    pub cases: Vec<String>,
    pub initiator: String,
}

impl EventRow {
    /// The event itself.
    #[must_use]
    pub fn event(&self) -> BusinessEvent {
        BusinessEvent {
            id: self.event_id.clone(),
            source: self.source.clone(),
            event_type: self.event_type,
            subject: Key::new(&self.subject),
            occurred_at: self.occurred_at,
            effective_at: self.effective_at,
            zone: self.zone.clone(),
            version: self.version,
            supersedes: self.supersedes.clone(),
            data: self.data.clone(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventStatus {
    /// Its cases exist.
    Started,
    /// Not effective yet.
    Waiting,
    /// Another statement took its place.
    Superseded,
    /// No workflow reacts to it.
    Recorded,
    /// A person decides first: the guard holds it back, and it is none yet, or who it is about is asked.
    Held,
}

/// Whether a system takes calls, as one process sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemStateRow {
    pub shard_id: i32,
    pub system: String,
    pub node: String,
    pub state: SystemState,
    #[serde(with = "stored_time_option")]
    pub since: Option<DateTime<Utc>>,
    /// When it is looked at next.
    #[serde(with = "stored_time_option")]
    pub until: Option<DateTime<Utc>>,
    pub reason: Option<String>,
    #[serde(with = "stored_time")]
    pub changed_at: DateTime<Utc>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SystemState {
    Ready,
    /// Nothing is sent before `until`.
    Held,
}

/// Rows of before have no list.
fn none_is_empty<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<String>, D::Error> {
    Option::<Vec<String>>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// SQLite has no truth values.
mod truth {
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "the signature serde calls"
    )]
    pub fn serialize<S: Serializer>(value: &bool, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bool(*value)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Truth(bool),
            Number(u8),
        }
        Ok(match Either::deserialize(deserializer)? {
            Either::Truth(value) => value,
            Either::Number(number) => number != 0,
        })
    }
}
