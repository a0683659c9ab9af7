//! What came of an import or an event, for people and programs.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use engine::core::Timestamp;
use engine::core::id::CaseId;
use engine::store::StoreError;
use serde::Serialize;

use super::settle::Settled;
use crate::directory::{EventStatus, SnapshotRow};
use crate::policy::guard::Blast;
use crate::policy::{Problem, Problems};
use crate::sources::{BusinessEvent, ChangeKind, Key, Snapshot, Summary};

/// What came of a file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ImportReport {
    pub source: String,
    pub file: String,
    pub snapshot_id: String,
    pub as_of: NaiveDate,
    pub rows: u64,
    pub complete: bool,
    pub status: ImportStatus,
    /// Names exactly this difference, for an approval.
    pub difference_id: Option<String>,
    /// People who are new, changed, or gone.
    pub created: u64,
    pub changed: u64,
    pub removed: u64,
    /// People missing from a file that does not claim to be complete: nothing is inferred.
    pub missing_not_removed: u64,
    /// Events by type.
    pub events: BTreeMap<String, u64>,
    /// Events that wait for their time.
    pub events_waiting: u64,
    /// Cases started, by workflow.
    pub cases: BTreeMap<String, u64>,
    /// What becomes of people, accounts and rights, counted under the policy in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blast: Option<Blast>,
    /// Managers that could not be told, and the like.
    pub warnings: Vec<Problem>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum ImportStatus {
    Applied,
    /// The source says what it said before.
    Unchanged,
    /// Nothing was done. A person has to approve or reject `difference_id`.
    WaitingForApproval {
        /// The limits that were crossed, as sentences.
        reasons: Vec<String>,
        /// The people in the state before.
        population: u64,
        /// The first people by kind of change.
        examples: BTreeMap<ChangeKind, Vec<Key>>,
    },
    /// Nothing was done, because nothing was asked for: what would be.
    Previewed {
        /// Why a person would have to decide, as sentences; empty when it would be applied at once.
        reasons: Vec<String>,
        /// The people in the state before.
        population: u64,
        /// The first people by kind of change.
        examples: BTreeMap<ChangeKind, Vec<Key>>,
    },
}

/// What came of one event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EventReport {
    pub id: String,
    /// False when the same event was taken in before.
    pub new: bool,
    /// What became of it, when it is new.
    pub status: Option<EventStatus>,
    pub cases: Vec<CaseId>,
}

impl EventReport {
    /// Of an event that changed nothing, because it was known.
    pub(super) fn known(event: &BusinessEvent) -> Self {
        Self {
            id: event.id.clone(),
            new: false,
            status: None,
            cases: Vec::new(),
        }
    }
}

/// What a look at the clock started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Due {
    /// Cases by workflow.
    pub cases: BTreeMap<String, u64>,
    /// When the next waiting event becomes effective.
    pub next: Option<Timestamp>,
}

#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// The file is wrong; nothing was changed.
    #[error("the file is refused:\n{0}")]
    Refused(#[from] Problems),
    #[error(
        "`{0}` is not known; the first event about somebody is `hire`, `contract.start` or `rehire`"
    )]
    UnknownSubject(String),
    /// `event` is known, and says something else in the fields `differs`, as CloudEvents name them.
    #[error(
        "event `{event}` is known already, and differs in {}; a new fact needs an `id` of its own, a repeated one every word \
         as it was",
        quoted(.differs)
    )]
    OtherEvent {
        event: String,
        differs: Vec<&'static str>,
    },
    #[error("nobody with the key `{0}` is known; `tenure identity list --search` finds people")]
    NobodyKnown(String),
    /// What was said about who is whom cannot be.
    #[error("{0}")]
    Merge(String),
    /// What was said about a non-human identity cannot be.
    #[error("{0}")]
    Thing(String),
    #[error("there is no question `{0}`; `tenure correlation list` shows those that are open")]
    NoSuchReview(String),
    #[error("there is no difference `{0}`; `tenure import list` shows what waits")]
    NoSuchDifference(String),
    #[error("difference `{difference}` was decided already{}", by_whom(.by))]
    Decided { difference: String, by: String },
    #[error(
        "what `{shown}` would do has changed with the policy since it was shown; look at `{now}` and approve that"
    )]
    PlanChanged { shown: String, now: String },
    #[error("another snapshot of `{source_name}` was applied meanwhile; import the file again")]
    MovedOn { source_name: String },
    #[error("{}", whole(.0))]
    Store(StoreError),
    #[error("a stored difference cannot be read or written: {0}")]
    StoredForm(serde_json::Error),
}

impl From<StoreError> for IntakeError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl IntakeError {
    pub(super) fn stored_form(error: serde_json::Error) -> Self {
        Self::StoredForm(error)
    }

    pub(super) fn decided(row: &SnapshotRow) -> Self {
        Self::Decided {
            difference: row.difference_id.clone(),
            by: row.decided_by.clone().unwrap_or_default(),
        }
    }
}

fn by_whom(by: &str) -> String {
    if by.is_empty() {
        String::new()
    } else {
        format!(" by `{by}`")
    }
}

fn quoted(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

fn whole(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

impl ImportReport {
    fn new(snapshot: &Snapshot, snapshot_id: &str, status: ImportStatus) -> Self {
        Self {
            source: snapshot.source.clone(),
            file: snapshot.file.clone(),
            snapshot_id: snapshot_id.to_owned(),
            as_of: snapshot.as_of.day,
            rows: snapshot.rows,
            complete: snapshot.complete,
            status,
            difference_id: None,
            created: 0,
            changed: 0,
            removed: 0,
            missing_not_removed: 0,
            events: BTreeMap::new(),
            events_waiting: 0,
            cases: BTreeMap::new(),
            blast: None,
            warnings: snapshot.warnings.clone(),
        }
    }

    pub(super) fn unchanged(snapshot: &Snapshot, snapshot_id: &str) -> Self {
        Self::new(snapshot, snapshot_id, ImportStatus::Unchanged)
    }

    pub(super) fn applied(
        snapshot: &Snapshot,
        row: &SnapshotRow,
        summary: Summary,
        settled: &Settled,
    ) -> Self {
        Self {
            warnings: snapshot.warnings.clone(),
            ..Self::of_row(row, summary, settled)
        }
    }

    pub(super) fn waiting(snapshot: &Snapshot, row: &SnapshotRow, summary: Summary) -> Self {
        let status = ImportStatus::WaitingForApproval {
            reasons: row.stopped_by.clone().unwrap_or_default(),
            population: summary.population,
            examples: summary.examples.clone(),
        };
        let report = Self::new(snapshot, &row.snapshot_id, status);
        report.with_summary(row, summary)
    }

    pub(super) fn previewed(snapshot: &Snapshot, row: &SnapshotRow, summary: Summary) -> Self {
        let status = ImportStatus::Previewed {
            reasons: row.stopped_by.clone().unwrap_or_default(),
            population: summary.population,
            examples: summary.examples.clone(),
        };
        let report = Self::new(snapshot, &row.snapshot_id, status);
        report.with_summary(row, summary)
    }

    pub(super) fn of_row(row: &SnapshotRow, summary: Summary, settled: &Settled) -> Self {
        let nothing = summary.events.is_empty();
        let report = Self {
            source: row.source.clone(),
            file: row.file.clone(),
            snapshot_id: row.snapshot_id.clone(),
            as_of: row.as_of,
            rows: row.row_count,
            complete: row.complete,
            status: if nothing {
                ImportStatus::Unchanged
            } else {
                ImportStatus::Applied
            },
            difference_id: None,
            created: 0,
            changed: 0,
            removed: 0,
            missing_not_removed: 0,
            events: BTreeMap::new(),
            events_waiting: settled
                .events
                .get(&EventStatus::Waiting)
                .copied()
                .unwrap_or(0),
            cases: settled
                .cases
                .iter()
                .map(|(workflow, cases)| (workflow.clone(), cases.len() as u64))
                .collect(),
            blast: None,
            warnings: Vec::new(),
        };
        report.with_summary(row, summary)
    }

    fn with_summary(self, row: &SnapshotRow, summary: Summary) -> Self {
        let people = |kind| summary.people.get(&kind).copied().unwrap_or(0);
        Self {
            difference_id: Some(row.difference_id.clone()),
            created: people(ChangeKind::Create),
            changed: people(ChangeKind::Update),
            removed: people(ChangeKind::Remove),
            missing_not_removed: summary.missing_not_removed,
            events: summary.events,
            blast: summary.blast,
            ..self
        }
    }
}
