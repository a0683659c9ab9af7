//! The transaction that takes events in.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use engine::core::Timestamp;
use engine::core::id::Actor;
use engine::store::{InboxRow, StoreError, Transaction, Work};

use super::groups::Groups;
use super::settle::{Origin, Settled, settle};
use super::{Intake, IntakeError};
use crate::sources::BusinessEvent;

impl Intake {
    /// Takes `events` in, and starts what has become effective for `subjects`.
    pub(super) fn take<'a>(
        &'a self,
        subjects: &'a BTreeSet<(i32, String)>,
        events: &'a [BusinessEvent],
        initiator: &'a Actor,
        now: Timestamp,
    ) -> Take<'a> {
        Take {
            subjects,
            events,
            settling: Settling::new(self, initiator, now),
        }
    }
}

/// Takes events in, in a transaction.
pub(super) struct Take<'a> {
    subjects: &'a BTreeSet<(i32, String)>,
    events: &'a [BusinessEvent],
    settling: Settling<'a>,
}

impl Take<'_> {
    /// For events that happen now, whatever happened before in the same words.
    pub fn repeating(mut self) -> Self {
        self.settling.repeats = true;
        self
    }

    /// For what a person approved, who is the initiator.
    pub fn approved(mut self, approved: bool) -> Self {
        self.settling.approved = approved;
        self
    }

    /// What came of it, given whether it was written.
    pub fn ended(self, written: Result<(), StoreError>) -> Result<Settled, IntakeError> {
        self.settling.ended(written)
    }
}

#[async_trait]
impl Work for Take<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        self.settling
            .settle(transaction, self.subjects, self.events)
            .await
    }
}

/// Settles in a transaction, which may be begun again, and remembers what came of it the last time.
pub(super) struct Settling<'a> {
    intake: &'a Intake,
    groups: Groups,
    initiator: &'a Actor,
    now: Timestamp,
    /// See [`Origin::repeats`].
    repeats: bool,
    /// See [`Origin::approved`].
    approved: bool,
    settled: Mutex<Settled>,
    /// Spans that end once it is durable.
    traced: Mutex<Vec<tracing::Span>>,
}

impl<'a> Settling<'a> {
    pub fn new(intake: &'a Intake, initiator: &'a Actor, now: Timestamp) -> Self {
        Self {
            intake,
            groups: Groups::default(),
            initiator,
            now,
            repeats: false,
            approved: false,
            settled: Mutex::default(),
            traced: Mutex::default(),
        }
    }

    /// Takes `events` in, and starts what has become effective for `subjects`.
    pub async fn settle(
        &self,
        transaction: &mut Transaction<'_>,
        subjects: &BTreeSet<(i32, String)>,
        events: &[BusinessEvent],
    ) -> Result<Vec<InboxRow>, StoreError> {
        let origin = Origin {
            repeats: self.repeats,
            approved: self.approved,
            ..self.intake.origin(self.initiator, &self.groups, self.now)
        };
        let (settled, inbox, traced) = settle(transaction, &origin, subjects, events).await?;
        let refused = !settled.unknown.is_empty() || !settled.refused.is_empty();
        *self.settled.lock().unwrap_or_else(PoisonError::into_inner) = settled;
        *self.traced.lock().unwrap_or_else(PoisonError::into_inner) = traced;
        if refused {
            return Err(StoreError::Projection(
                "an event cannot be taken in".to_owned(),
            ));
        }
        Ok(inbox)
    }

    /// The identifiers of the events that nobody knew.
    pub fn taken(&self) -> BTreeSet<String> {
        let settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        settled.by_event.keys().cloned().collect()
    }

    /// What came of it, given whether it was written.
    pub fn ended(self, written: Result<(), StoreError>) -> Result<Settled, IntakeError> {
        let settled = self
            .settled
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        if let (Ok(()) | Err(StoreError::Projection(_)), Some(why)) =
            (&written, settled.refused.first())
        {
            return Err(IntakeError::Thing(why.clone()));
        }
        match (written, settled.unknown.first()) {
            (Ok(()) | Err(StoreError::Projection(_)), Some(subject)) => {
                Err(IntakeError::UnknownSubject(subject.clone()))
            }
            (Ok(()), None) => Ok(settled),
            (Err(error), _) => Err(error.into()),
        }
    }
}
