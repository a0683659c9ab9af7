//! Business events: facts with a time, in the words of the whole product.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::record::Key;
use crate::policy;

/// A fact from a source.
///
/// `data` by type; every event except terminations carries `attributes`, all that is known *after* it:
///
/// | type | data |
/// |---|---|
/// | `hire`, `contract.start`, `rehire` | `attributes` |
/// | `transfer`, `conversion`, `cost_center.changed`, `entity.transfer` | `changes: {name: {from, to}}`, `attributes` |
/// | `manager.changed` | `from: {key, name}`, `to: {key, name}`, `attributes` |
/// | `project.start`, `project.end` | `project`, `attributes` |
/// | `leave.start`, `leave.end` | `attributes` |
/// | `termination.scheduled`, `termination.corrected`, `contract.expired` | `last_day`, `previous_last_day`, `attributes` |
/// | `termination.cancelled`, `contract.extended` | `last_day` (or null), `previous_last_day`, `attributes` |
/// | `identity.merged`, `identity.split` | `from: {key}`: who is absorbed; `to: {key}`: who that is, the subject without it |
/// | `termination.effective`, `hire.rescinded` | `inferred`, `last_day`, `attributes` (as last known) |
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BusinessEvent {
    /// The same fact has the same identifier, however often it is read.
    pub id: String,
    pub source: String,
    #[serde(rename = "type")]
    pub event_type: EventType,
    pub subject: Key,
    /// When the source stated it.
    pub occurred_at: DateTime<Utc>,
    /// From when it holds. Often before it was stated, sometimes long after.
    pub effective_at: DateTime<Utc>,
    /// The IANA zone in which `effective_at` begins or ends a day.
    pub zone: String,
    /// Grows with every later statement of the source, so that the newest wins whatever the order of
    /// arrival. For snapshots: the second of `occurred_at`; for what is pushed: the same, or one more than what was said of
    /// the person before.
    pub version: i64,
    /// The event that this one replaces, when the source says.
    pub supersedes: Option<String>,
    pub data: Value,
}

/// What identifies an event: everything but the identifier.
pub(super) struct EventContent<'a> {
    pub source: &'a str,
    pub event_type: EventType,
    pub subject: &'a Key,
    pub occurred_at: DateTime<Utc>,
    pub effective_at: DateTime<Utc>,
    pub zone: &'a str,
    pub version: i64,
    pub data: Value,
}

impl BusinessEvent {
    pub(super) fn new(content: EventContent<'_>) -> Self {
        let digest = policy::digest(&json!({
            "source": content.source,
            "type": content.event_type,
            "subject": content.subject,
            "occurred_at": content.occurred_at,
            "effective_at": content.effective_at,
            "data": content.data,
        }));
        Self {
            // 128 bits are enough that two facts never meet.
            id: format!("evt_{}", digest.get(..32).unwrap_or(&digest)),
            source: content.source.to_owned(),
            event_type: content.event_type,
            subject: content.subject.clone(),
            occurred_at: content.occurred_at,
            effective_at: content.effective_at,
            zone: content.zone.to_owned(),
            version: content.version,
            supersedes: None,
            data: content.data,
        }
    }
}

macro_rules! vocabulary {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// The vocabulary of business events.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum EventType {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
        }

        impl EventType {
            /// Every type.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in configuration, API and storage.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            #[must_use]
            pub fn parse(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

vocabulary! {
    Hire = "hire",
    /// A hire that was announced and never began.
    HireRescinded = "hire.rescinded",
    /// Attributes of somebody changed.
    Transfer = "transfer",
    ManagerChanged = "manager.changed",
    CostCenterChanged = "cost_center.changed",
    /// From one legal entity to another.
    EntityTransfer = "entity.transfer",
    LeaveStart = "leave.start",
    LeaveEnd = "leave.end",
    TerminationScheduled = "termination.scheduled",
    TerminationEffective = "termination.effective",
    TerminationCancelled = "termination.cancelled",
    /// The last day moved.
    TerminationCorrected = "termination.corrected",
    /// Somebody demands that all access ends now.
    AccessRevokeNow = "access.revoke_now",
    Rehire = "rehire",
    /// From contractor to employee or the other way.
    Conversion = "conversion",
    ContractStart = "contract.start",
    ContractExtended = "contract.extended",
    ContractExpired = "contract.expired",
    ProjectStart = "project.start",
    ProjectEnd = "project.end",
    IdentityMerged = "identity.merged",
    /// They are not.
    IdentitySplit = "identity.split",
    ServiceRegistered = "service.registered",
    ServiceRetired = "service.retired",
    OwnerChanged = "owner.changed",
    CertificationDecided = "certification.decided",
}

impl std::fmt::Display for EventType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
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
    fn names_are_the_same_everywhere() {
        assert_eq!(EventType::ALL.len(), 26);
        for event_type in EventType::ALL {
            let name = event_type.as_str();
            assert_eq!(EventType::parse(name), Some(*event_type));
            assert_eq!(serde_json::to_value(event_type).unwrap(), json!(name));
        }
        assert_eq!(EventType::parse("promotion"), None);
    }
}
