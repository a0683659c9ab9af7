//! Exceptions end: rights that no role gives, and that somebody confirmed for a time.
//!
//! The end is an event that waits for its time, as any other, and is named after the right and the moment. When it comes it
//! starts what a decision about the right would, which looks whether that end still stands.

use chrono::{DateTime, Utc};
use engine::core::Timestamp;
use engine::core::id::Actor;
use serde_json::json;
use uuid::Uuid;

use super::merge::OPERATOR_SOURCE;
use super::{Intake, IntakeError};
use crate::sources::data::DECISION_ENDED;
use crate::sources::{BusinessEvent, EventType, Key};

/// The names of such events lie in a space of their own.
const NAMESPACE: Uuid = Uuid::from_u128(0x51f0_7a3e_9b46_4c8d_8e21_6578_6365_7074);

/// When which right of whom goes.
#[derive(Debug, Clone, Copy)]
pub struct ExceptionEnd<'a> {
    pub key: &'a str,
    pub system: &'a str,
    pub entitlement: &'a str,
    pub at: DateTime<Utc>,
}

impl ExceptionEnd<'_> {
    fn event(&self, now: Timestamp) -> BusinessEvent {
        let Self {
            key,
            system,
            entitlement,
            at,
        } = *self;
        let cause = json!([key, system, entitlement, at]).to_string();
        let name = Uuid::new_v5(&NAMESPACE, cause.as_bytes()).simple();
        BusinessEvent {
            id: format!("exc_{name}"),
            source: OPERATOR_SOURCE.to_owned(),
            event_type: EventType::CertificationDecided,
            subject: Key::new(key),
            occurred_at: now,
            effective_at: at,
            zone: "UTC".to_owned(),
            version: now.timestamp_micros(),
            supersedes: None,
            data: json!({
                "system": system,
                "entitlement": entitlement,
                "decision": DECISION_ENDED,
            }),
        }
    }
}

impl Intake {
    /// Sees to it that a right is looked at when its exception ends. The same again changes nothing.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn plan_exception_end(
        &self,
        end: &ExceptionEnd<'_>,
        now: Timestamp,
    ) -> Result<(), IntakeError> {
        let subjects = [(self.directory.shard(end.key), end.key.to_owned())].into();
        let event = end.event(now);
        self.settle(&subjects, &[event], &Actor::engine(), now)
            .await?;
        // It may come before everything else that waits.
        self.due.notify_one();
        Ok(())
    }
}
