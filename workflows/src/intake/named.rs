//! One event whose identifier its sender gave.
//!
//! An identifier is one event of its source for ever. The same event again changes nothing; another one that has it is
//! refused, whoever it is about: to take it for the first one would lose a fact, and to take both would make the first one
//! count twice as soon as it is delivered again.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use engine::core::Timestamp;
use engine::core::id::Actor;
use engine::store::{InboxRow, StoreError, Transaction, Work};
use serde_json::Value;

use super::{EventReport, Intake, IntakeError, Take};
use crate::directory::{EventRow, claim, event_in};
use crate::sources::BusinessEvent;

impl Intake {
    /// Takes one event in. The same event again changes nothing.
    ///
    /// # Errors
    /// [`IntakeError::UnknownSubject`] when it is about somebody whom no event has introduced;
    /// [`IntakeError::OtherEvent`] when another event has its identifier. Nothing is changed then.
    pub async fn event(
        &self,
        event: &BusinessEvent,
        initiator: &Actor,
        now: Timestamp,
    ) -> Result<EventReport, IntakeError> {
        let subject = event.subject.as_str();
        let shard_id = self.directory.shard(subject);
        let subjects = BTreeSet::from([(shard_id, subject.to_owned())]);
        let work = TakeNamed {
            shard_id,
            name_shard_id: self.directory.shard(&event.id),
            event,
            differs: Mutex::default(),
            take: self.take(&subjects, std::slice::from_ref(event), initiator, now),
        };
        let written = self.write(&work).await;
        let differs = work
            .differs
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        if !differs.is_empty() {
            return Err(IntakeError::OtherEvent {
                event: event.id.clone(),
                differs,
            });
        }
        let settled = work.take.ended(written)?;
        let status = settled.events.keys().next().copied();
        Ok(EventReport {
            id: event.id.clone(),
            new: status.is_some(),
            status,
            cases: settled.cases.into_values().flatten().collect(),
        })
    }
}

struct TakeNamed<'a> {
    /// Of the subject.
    shard_id: i32,
    /// Of the identifier.
    name_shard_id: i32,
    event: &'a BusinessEvent,
    /// Where the event of this identifier that is known says something else.
    differs: Mutex<Vec<&'static str>>,
    take: Take<'a>,
}

#[async_trait]
impl Work for TakeNamed<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let (id, subject) = (&self.event.id, self.event.subject.as_str());
        let known = claim(transaction, self.name_shard_id, id, subject).await?;
        let inbox = match &known {
            None => self.take.take(transaction).await?,
            Some(known) if known != subject => return Err(self.refuse(vec!["subject"])),
            Some(_) => Vec::new(),
        };
        if !self.take.took_something()
            && let Some(row) = event_in(transaction, self.shard_id, id).await?
        {
            let differs = differences(self.event, &row);
            if !differs.is_empty() {
                return Err(self.refuse(differs));
            }
        }
        Ok(inbox)
    }
}

impl TakeNamed<'_> {
    fn refuse(&self, differs: Vec<&'static str>) -> StoreError {
        *self.differs.lock().unwrap_or_else(PoisonError::into_inner) = differs;
        StoreError::Projection("another event has this identifier".to_owned())
    }
}

/// Where `event` says something else than the one that is known, in the words of CloudEvents.
fn differences(event: &BusinessEvent, known: &EventRow) -> Vec<&'static str> {
    // Both databases keep microseconds.
    let same_time = |a: Timestamp, b: Timestamp| a.timestamp_micros() == b.timestamp_micros();
    let same_data = same_time(event.effective_at, known.effective_at)
        && event.zone == known.zone
        && event.version == known.version
        && event.supersedes == known.supersedes
        && same(&event.data, &known.data);
    [
        ("subject", event.subject.as_str() == known.subject),
        ("type", event.event_type == known.event_type),
        ("time", same_time(event.occurred_at, known.occurred_at)),
        ("data", same_data),
    ]
    .into_iter()
    .filter(|(_, same)| !same)
    .map(|(field, _)| field)
    .collect()
}

/// Whether two values are equal. A database may write `1e16` as `10000000000000000`, which is read as another kind of
/// number.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(name, value)| b.get(name).is_some_and(|other| same(value, other)))
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Number(a), Value::Number(b)) if a.is_f64() || b.is_f64() => {
            let order = a
                .as_f64()
                .zip(b.as_f64())
                .and_then(|(a, b)| a.partial_cmp(&b));
            order.is_some_and(std::cmp::Ordering::is_eq)
        }
        (a, b) => a == b,
    }
}
