//! The leaf of what somebody did to a schedule, in the same canonical form as that of a case's transition.

use serde::Serialize;

use super::{salted_digest, stamp};
use crate::core::schedule::{ChangeRecord, State};

/// The name of this form of leaf.
pub const SCHEDULE_FORMAT: &str = "tenure.evidence.schedule.v1";

/// Fields stand in the order of their names: that is what makes the bytes canonical.
#[derive(Serialize)]
struct Leaf<'a> {
    actor: String,
    cron: &'a str,
    decided: String,
    detail: &'a str,
    format: &'static str,
    operation: &'static str,
    reason: String,
    schedule: &'a str,
    sequence: u64,
    /// Of everything the schedule says after it.
    spec: String,
    subject: String,
    workflow: &'a str,
    zone: &'a str,
}

/// The leaf of `change`, after which the schedule is as `state` says. What could name a person is a digest, salted
/// with the schedule's own salt.
#[must_use]
pub fn schedule_leaf(state: &State, change: &ChangeRecord) -> Vec<u8> {
    let spec = &state.spec;
    let salted = |value: &str| salted_digest(&state.salt, value.as_bytes());
    let whole = serde_json::to_string(spec).unwrap_or_default();
    let leaf = Leaf {
        actor: salted(&change.by.0),
        cron: &spec.cron,
        decided: stamp(change.at),
        detail: &change.detail,
        format: SCHEDULE_FORMAT,
        operation: change.operation.as_str(),
        reason: salted(&change.reason),
        schedule: &spec.name,
        sequence: change.version,
        spec: salted(&whole),
        subject: salted(&spec.subject.0),
        workflow: &spec.workflow,
        zone: &spec.zone,
    };
    // A struct of strings and numbers always serialises.
    serde_json::to_vec(&leaf).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::core::id::Actor;
    use crate::core::schedule::Operation;

    #[test]
    fn a_leaf_is_canonical_and_names_no_person() {
        let state: State = serde_json::from_value(serde_json::json!({
            "version": 3,
            "spec": {
                "name": "nightly", "workflow": "review", "cron": "@daily", "zone": "UTC",
                "subject": "ada.lovelace", "input": {"for": "ada"},
            },
            "origin": "person",
            "salt": vec![1; 16],
            "seen": "2026-01-01T00:00:00Z",
        }))
        .unwrap();
        let change = ChangeRecord {
            version: 3,
            at: "2026-01-01T00:00:00Z".parse().unwrap(),
            by: Actor("cli:grace".into()),
            operation: Operation::Pause,
            reason: "ada asked".into(),
            detail: String::new(),
        };
        let text = String::from_utf8(schedule_leaf(&state, &change)).unwrap();
        for name in ["ada", "grace"] {
            assert!(!text.contains(name), "{text}");
        }
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(super::super::canonical(&value), text);
        let other = State {
            salt: [2; 16],
            ..state
        };
        assert_ne!(schedule_leaf(&other, &change), text.into_bytes());
    }
}
