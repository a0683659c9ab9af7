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
            intake: self,
            groups: Groups::default(),
            initiator,
            now,
            subjects,
            events,
            repeats: false,
            approved: false,
            settled: Mutex::new(None),
            traced: Mutex::default(),
        }
    }
}

/// Takes events in, in a transaction.
pub(super) struct Take<'a> {
    intake: &'a Intake,
    groups: Groups,
    initiator: &'a Actor,
    now: Timestamp,
    subjects: &'a BTreeSet<(i32, String)>,
    events: &'a [BusinessEvent],
    /// See [`Origin::repeats`].
    repeats: bool,
    /// See [`Origin::approved`].
    approved: bool,
    settled: Mutex<Option<Settled>>,
    /// Spans that end once it is durable.
    traced: Mutex<Vec<tracing::Span>>,
}

impl Take<'_> {
    /// For events that happen now, whatever happened before in the same words.
    pub fn repeating(self) -> Self {
        Self {
            repeats: true,
            ..self
        }
    }

    /// For what a person approved, who is the initiator.
    pub fn approved(self, approved: bool) -> Self {
        Self { approved, ..self }
    }

    pub async fn take(
        &self,
        transaction: &mut Transaction<'_>,
    ) -> Result<Vec<InboxRow>, StoreError> {
        let origin = Origin {
            repeats: self.repeats,
            approved: self.approved,
            ..self.intake.origin(self.initiator, &self.groups, self.now)
        };
        let (settled, inbox, traced) =
            settle(transaction, &origin, self.subjects, self.events).await?;
        let refused = !settled.unknown.is_empty();
        *self.settled.lock().unwrap_or_else(PoisonError::into_inner) = Some(settled);
        *self.traced.lock().unwrap_or_else(PoisonError::into_inner) = traced;
        if refused {
            return Err(StoreError::Projection("an event has no subject".to_owned()));
        }
        Ok(inbox)
    }

    /// Whether an event was taken in that nobody knew. False before [`Take::take`].
    pub fn took_something(&self) -> bool {
        self.settled
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .is_some_and(|settled| !settled.events.is_empty())
    }

    /// What came of it, given whether it was written.
    pub fn ended(self, written: Result<(), StoreError>) -> Result<Settled, IntakeError> {
        let settled = self
            .settled
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .unwrap_or_default();
        match (written, settled.unknown.first()) {
            (Ok(()) | Err(StoreError::Projection(_)), Some(subject)) => {
                Err(IntakeError::UnknownSubject(subject.clone()))
            }
            (Ok(()), None) => Ok(settled),
            (Err(error), _) => Err(error.into()),
        }
    }
}

#[async_trait]
impl Work for Take<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        self.take(transaction).await
    }
}
