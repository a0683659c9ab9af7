//! Cases that are there and cannot be read: a row is damaged, or the workflow version no longer parses.

use crate::core::Timestamp;
use crate::core::case::{Case, CaseState, Ending};
use crate::core::event::Event;
use crate::core::id::{Actor, CaseId};
use crate::evidence::{About, Cause, leaf_about};
use crate::store::{Bones, EvidenceRow, HistoryRow, ShardLease, StoreError, Termination};

/// What became of loading a case.
pub(super) enum Fetched {
    Case(Box<Case>),
    Missing,
    /// It is there and cannot be read, and why.
    Broken(String),
}

/// Whether a case is in memory now.
pub(super) enum Loaded {
    There,
    Missing,
    /// It is there and cannot be read, and why.
    Broken(String),
}

impl Fetched {
    pub(super) fn broken(error: &StoreError) -> Self {
        let mut why = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(inner) = cause {
            why.push_str(": ");
            why.push_str(&inner.to_string());
            cause = inner.source();
        }
        Self::Broken(why)
    }
}

/// The end of a case that is not read, with the same record as any other.
pub(super) fn termination(
    lease: ShardLease,
    case: CaseId,
    bones: &Bones,
    cause: &Cause,
    by: Actor,
    reason: String,
    now: Timestamp,
) -> Result<Termination, StoreError> {
    let version = bones.version + 1;
    let actor = by.0.clone();
    let events = [
        Event::Ending {
            ending: Ending::Cancelled,
            by,
            reason,
            for_case: None,
            forced: true,
        },
        Event::Closed {
            state: CaseState::Cancelled,
        },
    ];
    let about = About {
        case,
        version,
        subject: &bones.subject.0,
        workflow: &bones.workflow,
        definition: &bones.definition.0,
        generation: bones.generation,
        salt: &bones.salt,
        effective_at: bones.effective_at,
        received_at: bones.received_at,
        created_at: bones.created_at,
    };
    let leaf = leaf_about(&about, None, cause, &events, now);
    let events = serde_json::to_string(&events)
        .map_err(|error| StoreError::Projection(format!("events do not serialise: {error}")))?;
    let shard = lease.shard;
    Ok(Termination {
        lease,
        case,
        version,
        at: now,
        history: HistoryRow {
            shard,
            case,
            version,
            at: now,
            input: cause.input.to_owned(),
            by: actor,
            events,
        },
        evidence: EvidenceRow {
            shard,
            case,
            version,
            at: now,
            leaf,
        },
    })
}
