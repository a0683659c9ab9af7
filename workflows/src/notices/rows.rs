//! The rows of notices: a stored form. Fields may be added, never renamed.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::directory::database::{stored_time, stored_time_option};

/// Where a notice stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeState {
    /// Its time has not come, or nobody has looked yet.
    Waiting,
    /// It became messages, which are on their way.
    Sending,
    /// All its messages were taken.
    Sent,
    /// A message of it was refused, or tried for too long: a person has to do something.
    Parked,
    /// There is nobody to send it to.
    Undeliverable,
    /// What it was about is over.
    Void,
}

impl NoticeState {
    pub const ALL: [Self; 6] = [
        Self::Waiting,
        Self::Sending,
        Self::Sent,
        Self::Parked,
        Self::Undeliverable,
        Self::Void,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Sending => "sending",
            Self::Sent => "sent",
            Self::Parked => "parked",
            Self::Undeliverable => "undeliverable",
            Self::Void => "void",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Whether it stays so until a person does something.
    #[must_use]
    pub fn waits_for_a_person(self) -> bool {
        matches!(self, Self::Parked | Self::Undeliverable)
    }
}

/// What somebody has to be told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NoticeRow {
    pub shard_id: i32,
    pub notice_id: String,
    /// The name of its template.
    pub name: String,
    /// The key of the person it is about.
    pub subject: Option<String>,
    pub case_id: Option<String>,
    pub workflow: Option<String>,
    pub step: Option<String>,
    /// `STEP/INSTANCE`, as numbers.
    pub place: Option<String>,
    /// As it is written; what cannot be read is somebody nobody knows.
    pub recipient: String,
    pub urgent: bool,
    /// Its cause belongs to a revocation.
    pub revocation: bool,
    pub vars: Value,
    /// It is void unless the question at `place` is open until then.
    #[serde(with = "stored_time_option")]
    pub open_until: Option<DateTime<Utc>>,
    /// It is void unless the person it is about is there until then, as it is believed when it is sent.
    #[serde(with = "stored_time_option", default)]
    pub ends_at: Option<DateTime<Utc>>,
    #[serde(with = "stored_time")]
    pub created_at: DateTime<Utc>,
    #[serde(with = "stored_time")]
    pub due_at: DateTime<Utc>,
    pub state: NoticeState,
    pub reason: Option<String>,
    #[serde(with = "stored_time")]
    pub changed_at: DateTime<Utc>,
}

/// By which way a message leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    Email,
    Webhook,
}

impl Way {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Webhook => "webhook",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    Waiting,
    /// A node has it in hand; after a crash another node, or the next life of this one, sends it again.
    Sending,
    Sent,
    Parked,
}

impl DeliveryState {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Sending => "sending",
            Self::Sent => "sent",
            Self::Parked => "parked",
        }
    }
}

/// A notice on its way to one address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeliveryRow {
    pub shard_id: i32,
    pub delivery_id: String,
    pub notice_shard: i32,
    pub notice_id: String,
    pub channel: Way,
    /// Empty for the webhook.
    pub address: String,
    pub person_name: Option<String>,
    /// The IANA zone of whoever reads it.
    pub zone: String,
    /// Why it comes to this address instead of another.
    pub instead_of: Option<String>,
    pub digest: bool,
    #[serde(with = "stored_time")]
    pub ready_at: DateTime<Utc>,
    #[serde(with = "stored_time")]
    pub due_at: DateTime<Utc>,
    pub state: DeliveryState,
    pub message_id: Option<String>,
    pub attempts: u32,
    pub claimed_by: Option<String>,
    pub answer: Option<String>,
    #[serde(with = "stored_time_option")]
    pub sent_at: Option<DateTime<Utc>>,
    #[serde(with = "stored_time")]
    pub changed_at: DateTime<Utc>,
}

/// What a person did about a notice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeRow {
    pub shard_id: i32,
    pub notice_id: String,
    #[serde(with = "stored_time")]
    pub at: DateTime<Utc>,
    pub actor: String,
    pub action: String,
    pub reason: String,
}
