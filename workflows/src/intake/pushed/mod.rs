//! What is pushed over SCIM: a resource is stored, and what follows for people becomes events, in one transaction.
//!
//! ```text
//! read (no lock) -> change the resource (pure) -> records before and after -> facts between them (pure)
//!   -> one transaction: lock what was read, find it unchanged, write resources, records, events and cases
//! ```
//!
//! What was read and has changed meanwhile is read again, a bounded number of times; so nobody waits for a lock while a
//! filter is parsed, and a version that a caller named is kept exactly.
//!
//! The guard looks at people one by one here: removals of a source within a window count together, one after the other
//! under a lock. What is too much is not refused, because the sender would only send it again: the resource is stored, and
//! what it would mean for the person is held back until somebody approves it. Meanwhile anything new about that person
//! is compared with what holds, so a mistake that the sender takes back leaves nothing behind.

mod held;
mod plan;
mod write;

use std::sync::{Mutex, PoisonError};

use engine::core::Timestamp;
use engine::core::id::Actor;
use engine::store::StoreError;
use serde_json::{Map, Value};

use self::plan::Planned;
use self::write::Write;
use super::Intake;
use super::groups::Groups;
use crate::directory::resources::{self, ResourceRow};
use crate::scim::{Kind, Refusal};
use crate::sources::Source;

pub(in crate::intake) use self::held::Showing;
pub use self::held::is_held;
pub use self::plan::{RESOURCE_BYTES_MAX, RESOURCE_NAME_BYTES_MAX};

/// How often a change is begun again because another came between.
const ATTEMPTS_MAX: usize = 16;
/// Rolls back when what was read is not so any more.
const STALE: &str = "what was read has changed";

/// A change of one resource.
#[derive(Debug)]
pub struct Push<'a> {
    pub source: &'a Source,
    /// [`Kind::Person`] or [`Kind::Group`].
    pub kind: Kind,
    pub id: &'a str,
    /// The versions of which it must have one, as an `If-Match` header says them.
    pub if_match: Option<&'a str>,
    pub action: Action,
    /// Who calls.
    pub by: &'a Actor,
}

/// What becomes of it.
#[derive(Debug, Clone)]
pub enum Action {
    /// A resource with canonical names.
    Create(Map<String, Value>),
    /// The same, instead of what is there.
    Replace(Map<String, Value>),
    /// A request as RFC 7644 has it.
    Patch(Value),
    Delete,
    /// Nothing new, but what it refers to may be known now.
    Refresh,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// `None` when it was deleted.
    pub resource: Option<ResourceRow>,
    /// Cases that were started, and events that are new.
    pub cases: u64,
    pub events: u64,
    /// What it means for people waits for a person.
    pub held: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum PushError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Intake {
    /// Changes one resource. Success means that it is durable, with everything that follows from it.
    ///
    /// # Errors
    /// [`PushError::Refused`] with what is wrong; nothing is changed.
    pub async fn push(&self, push: &Push<'_>, now: Timestamp) -> Result<Outcome, PushError> {
        // Both databases keep microseconds.
        let now = Timestamp::from_timestamp_micros(now.timestamp_micros()).unwrap_or(now);
        self.ready(now).await?;
        for _ in 0..ATTEMPTS_MAX {
            let plan = match self.plan(push, now).await? {
                Planned::Nothing(row) => {
                    self.heard_or_logged(push.source.name(), now, false).await;
                    return Ok(Outcome {
                        resource: Some(*row),
                        ..Outcome::default()
                    });
                }
                Planned::Write(plan) => plan,
            };
            let work = Write {
                intake: self,
                push,
                plan: &plan,
                now,
                groups: Groups::default(),
                done: Mutex::default(),
            };
            match self.write(&work).await {
                Ok(()) => {
                    let done = work.done.into_inner();
                    let (settled, held, _spans) = done
                        .unwrap_or_else(PoisonError::into_inner)
                        .unwrap_or_default();
                    let events: u64 = settled.events.values().sum();
                    self.heard_or_logged(push.source.name(), now, events > 0)
                        .await;
                    return Ok(Outcome {
                        resource: plan.resource(),
                        cases: settled.cases.values().map(|cases| cases.len() as u64).sum(),
                        events,
                        held,
                    });
                }
                Err(StoreError::Projection(reason)) if reason == STALE => {}
                Err(error) if resources::came_between(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Refusal::new(
            503,
            None,
            "others change the same at this moment; send it again",
        )
        .into())
    }
}
