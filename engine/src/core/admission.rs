//! Which case of a subject may run: one at a time, in one serial order.
//!
//! | new case | open cases of the subject | what happens |
//! |---|---|---|
//! | any | none | starts |
//! | any | some it does not pre-empt | waits in the queue |
//! | any | only ones it pre-empts | they are asked to end; it starts when the last has ended |
//! | any | only queued ones that are paused | starts |
//! | any | both kinds | the pre-empted ones are asked to end; it waits for the others |

use std::collections::BTreeSet;

use super::Timestamp;
use super::case::CaseState;
use super::definition::Lane;
use super::id::CaseId;

/// What is known about an open case of the same subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenCase {
    pub id: CaseId,
    pub workflow: String,
    pub state: CaseState,
    pub lane: Lane,
    pub created_at: Timestamp,
    pub paused: bool,
}

impl OpenCase {
    /// Whether others of the subject may go before it: it has not begun, and a person holds it.
    fn steps_aside(&self) -> bool {
        self.paused && self.state == CaseState::Queued
    }
}

/// The answer for a new case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    pub start_now: bool,
    pub preempt: Vec<CaseId>,
}

/// Decides over a new case of a workflow that pre-empts `preempts`, given the subject's open cases.
#[must_use]
pub fn admit(preempts: &BTreeSet<String>, open: &[OpenCase]) -> Admission {
    let preempt = open
        .iter()
        .filter(|case| preempts.contains(&case.workflow) && case.state != CaseState::Ending)
        .map(|case| case.id)
        .collect();
    Admission {
        start_now: open.iter().all(OpenCase::steps_aside),
        preempt,
    }
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
