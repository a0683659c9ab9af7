//! Decisions about who somebody is.
//!
//! As long as a question is open, nothing is given to anybody whom it concerns, and what ends access goes on. A decision
//! lets what waited go on, in the same transaction; that two people are not the same is not asked again.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use engine::core::Timestamp;
use engine::core::id::{Actor, CaseId, Subject};
use engine::runner::StartCase;
use engine::store::{InboxRow, StoreError, Transaction, Work};
use serde::{Deserialize, Serialize};

use super::groups::Groups;
use super::merge::{Decided, Said, statement};
use super::settle::{NAMESPACE, Origin, Settled, finish, message, read};
use super::{Intake, IntakeError, MergeReport};
use crate::directory::{
    ReviewFilter, ReviewRow, ReviewStatus, put_identities, put_reviews, review_in,
};
use crate::sources::EventType;

/// What came of a decision.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReviewReport {
    pub review: ReviewRow,
    /// What goes on with the merge, when there is one.
    pub merge: Option<MergeReport>,
    pub cases: Vec<CaseId>,
}

impl Intake {
    /// The open question of this identifier, or the beginning of one.
    ///
    /// # Errors
    /// [`IntakeError::NoSuchReview`], [`IntakeError::Merge`] when several begin so.
    pub async fn review(&self, id: &str) -> Result<ReviewRow, IntakeError> {
        let filter = ReviewFilter {
            decided: true,
            id: Some(id.to_owned()),
        };
        let mut found = self.directory.reviews(&filter, 2).await?;
        match (found.pop(), found.pop()) {
            (Some(one), None) => Ok(one),
            (Some(_), Some(_)) => Err(IntakeError::Merge(format!(
                "several questions begin with `{id}`; give more of the identifier"
            ))),
            _ => Err(IntakeError::NoSuchReview(id.to_owned())),
        }
    }

    /// Decides that the new key is the person `key`, one of the candidates.
    ///
    /// # Errors
    /// As [`Intake::review`]; [`IntakeError::Decided`] when somebody was first.
    pub async fn link(
        &self,
        id: &str,
        key: &str,
        by: &Actor,
        reason: &str,
        now: Timestamp,
    ) -> Result<ReviewReport, IntakeError> {
        let review = self.open(id).await?;
        if !review.candidates.iter().any(|scored| scored.key == key) {
            let keys: Vec<String> = review
                .candidates
                .iter()
                .map(|scored| format!("`{}`", scored.key))
                .collect();
            return Err(IntakeError::Merge(format!(
                "`{key}` is not among those who were asked about, {}; whoever else it is, `tenure identity merge` says so",
                keys.join(", ")
            )));
        }
        let said = Said {
            survivor: key.to_owned(),
            absorbed: review.record_key.clone(),
        };
        let event = statement(
            EventType::IdentityMerged,
            key,
            &review.record_key,
            reason,
            now,
        );
        let decided = Decided { reason };
        let done = self
            .regroup(&event, &said, by, true, Some(&decided), now)
            .await?;
        Ok(ReviewReport {
            review: self.review(&review.review_id).await?,
            cases: done.report.cases.clone(),
            merge: Some(done.report),
        })
    }

    /// Decides that the new key is none of the candidates.
    ///
    /// # Errors
    /// As [`Intake::link`].
    pub async fn separate(
        &self,
        id: &str,
        by: &Actor,
        reason: &str,
        now: Timestamp,
    ) -> Result<ReviewReport, IntakeError> {
        let review = self.open(id).await?;
        let work = Separate {
            intake: self,
            review: &review,
            by,
            reason,
            now,
            groups: Groups::default(),
            done: Mutex::default(),
        };
        self.write(&work).await?;
        let done = work
            .done
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(cases) = done else {
            return Err(decided(&self.review(&review.review_id).await?));
        };
        Ok(ReviewReport {
            review: self.review(&review.review_id).await?,
            merge: None,
            cases,
        })
    }

    async fn open(&self, id: &str) -> Result<ReviewRow, IntakeError> {
        let review = self.review(id).await?;
        match review.status {
            ReviewStatus::Open => Ok(review),
            ReviewStatus::Linked | ReviewStatus::Separate => Err(decided(&review)),
        }
    }
}

fn decided(review: &ReviewRow) -> IntakeError {
    IntakeError::Decided {
        difference: review.review_id.clone(),
        by: review.decided_by.clone().unwrap_or_default(),
    }
}

/// The workflow that keeps such a decision in the evidence.
const SEPARATION: &str = "separation";

/// What was decided: a stored form, the input of its case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeparationInput {
    pub review: String,
    pub record_key: String,
    /// Whom it might have been.
    pub candidates: Vec<String>,
    pub decided_by: String,
    pub reason: String,
}

struct Separate<'a> {
    intake: &'a Intake,
    review: &'a ReviewRow,
    by: &'a Actor,
    reason: &'a str,
    now: Timestamp,
    groups: Groups,
    /// The cases that go on; `None` when somebody was first.
    done: Mutex<Option<Vec<CaseId>>>,
}

#[async_trait]
impl Work for Separate<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let origin = self.intake.origin(self.by, &self.groups, self.now);
        let asked = self.review.candidates.iter().map(|scored| &scored.key);
        let keys: BTreeSet<String> = asked.chain([&self.review.record_key]).cloned().collect();
        let mut locked = self
            .groups
            .lock(transaction, origin.directory, &keys)
            .await?;
        let id = &self.review.review_id;
        let found = review_in(transaction, self.review.shard_id, id).await?;
        let Some(mut review) = found.filter(|review| review.status == ReviewStatus::Open) else {
            return Ok(Vec::new());
        };
        review.status = ReviewStatus::Separate;
        review.decided_at = Some(self.now);
        review.decided_by = Some(self.by.0.clone());
        review.decided_reason = Some(self.reason.to_owned());
        put_reviews(transaction, &[review]).await?;
        let mut rows = Vec::new();
        for row in locked.values_mut().filter_map(|group| group.row.as_mut()) {
            let before = row.disputes.len();
            row.disputes.retain(|question| question != id);
            if row.disputes.len() != before {
                rows.push(row.clone());
            }
        }
        put_identities(transaction, &rows).await?;
        let people = read(transaction, &origin, locked).await?;
        let (settled, mut inbox, _spans) =
            finish(transaction, &origin, people, Settled::default()).await?;
        let cases = settled.cases.into_values().flatten().collect();
        inbox.push(self.evidence(&origin)?);
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) = Some(cases);
        Ok(inbox)
    }
}

impl Separate<'_> {
    /// The message that starts the case of it.
    fn evidence(&self, origin: &Origin<'_>) -> Result<InboxRow, StoreError> {
        let review = self.review;
        let candidates = review.candidates.iter();
        let input = SeparationInput {
            review: review.review_id.clone(),
            record_key: review.record_key.clone(),
            candidates: candidates.map(|scored| scored.key.clone()).collect(),
            decided_by: self.by.0.clone(),
            reason: self.reason.to_owned(),
        };
        let cause = format!("{SEPARATION}\n{}", review.review_id);
        let start = StartCase {
            case: CaseId::caused(&NAMESPACE, review.opened_at, &cause),
            workflow: SEPARATION.to_owned(),
            subject: Subject(review.record_key.clone()),
            generation: 0,
            input: serde_json::to_value(input).unwrap_or_default(),
            initiator: self.by.clone(),
            effective_at: Some(self.now),
        };
        message(start, review.shard_id, origin)
    }
}

#[cfg(test)]
mod tests;
