//! What becomes of a new case of a subject: one runs at a time, in one serial order, by declared rules.
//!
//! Lives come first, then the rules that the new case's workflow has about the open cases of the same life; the first
//! line that applies decides:
//!
//! | new case | what happens |
//! |---|---|
//! | belongs to an earlier life than the subject is in | it ends as superseded; nothing else happens |
//! | begins a life, or finds open cases of an earlier one | those are asked to end as superseded, whatever the rules say |
//! | one rule says reject | it is refused; nothing else happens |
//! | some say preempt | those are asked to end |
//! | some say merge, and one of those has not begun | it is folded into that case |
//! | | it starts if nothing is open by now but queued cases that are paused; else it waits |

use super::Timestamp;
use super::case::CaseState;
use super::conflict::OnConflict;
use super::definition::{Definition, Lane};
use super::id::CaseId;

/// Lives are counted from here. Cases made before they were counted have 0.
pub const FIRST_LIFE: u32 = 1;

/// What is known about an open case of the same subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenCase {
    pub id: CaseId,
    pub workflow: String,
    pub state: CaseState,
    pub lane: Lane,
    pub generation: u32,
    pub created_at: Timestamp,
    pub paused: bool,
}

impl OpenCase {
    /// A paused case in the queue lets others go first.
    fn steps_aside(&self) -> bool {
        self.paused && self.state == CaseState::Queued
    }
}

/// The answer for a new case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    Enter {
        supersede: Vec<CaseId>,
        preempt: Vec<CaseId>,
        /// Cases it may be folded into, if they have not begun; the one that begins last first.
        merge: Vec<CaseId>,
    },
    /// The subject has begun a later life.
    Late,
    /// A case that is open forbids it.
    Reject { id: CaseId, workflow: String },
}

/// The life that a subject is in: the newest that is on record or that one of its open cases belongs to.
#[must_use]
pub fn newest_life(recorded: u32, open: &[OpenCase]) -> u32 {
    let lives = open.iter().map(|case| case.generation);
    lives.max().unwrap_or(0).max(recorded).max(FIRST_LIFE)
}

/// Decides over a new case of life `generation`, given the life the subject is in and its open cases.
#[must_use]
pub fn admit(
    definition: &Definition,
    generation: u32,
    newest: u32,
    open: &[OpenCase],
) -> Admission {
    if generation < newest {
        return Admission::Late;
    }
    // One that is ending may be about to undo, so it is asked to end too.
    let (earlier, same): (Vec<&OpenCase>, Vec<&OpenCase>) = open
        .iter()
        .partition(|case| case.generation.max(FIRST_LIFE) < generation);
    let about = |then: OnConflict| {
        let rules = &definition.conflicts;
        same.iter()
            .filter(move |case| rules.about(&definition.name, &case.workflow, case.lane) == then)
    };
    if let Some(case) = about(OnConflict::Reject).next() {
        return Admission::Reject {
            id: case.id,
            workflow: case.workflow.clone(),
        };
    }
    let mut merge: Vec<&&OpenCase> = about(OnConflict::Merge).collect();
    merge.sort_by_key(|case| {
        let waits = case.state == CaseState::Queued;
        std::cmp::Reverse((waits, case.created_at, case.id))
    });
    Admission::Enter {
        supersede: earlier.iter().map(|case| case.id).collect(),
        preempt: about(OnConflict::Preempt).map(|case| case.id).collect(),
        merge: merge.into_iter().map(|case| case.id).collect(),
    }
}

/// Whether a new case may start beside what is open.
#[must_use]
pub fn is_free(open: &[OpenCase]) -> bool {
    open.iter().all(OpenCase::steps_aside)
}

/// Which queued case starts when the subject becomes free: the revocation lane first, then the oldest.
#[must_use]
pub fn next(open: &[OpenCase]) -> Option<CaseId> {
    if open.iter().any(|case| case.state != CaseState::Queued) {
        return None;
    }
    open.iter()
        .filter(|case| !case.paused)
        .min_by_key(|case| (case.lane != Lane::Revocation, case.created_at, case.id))
        .map(|case| case.id)
}
