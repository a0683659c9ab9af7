//! What a transition leaves behind for an auditor: one leaf, in canonical bytes.
//!
//! A leaf is JSON as RFC 8785 (JCS) writes it: fields in order of their names, no spaces, whole numbers and
//! strings only. Whatever could name a person stands in it only as a digest, `sha256(salt || 0x00 || value)` in
//! hex, salted with the case's own salt; the values themselves lie in rows that can be erased, and the leaf
//! still proves what it proved. A field with nothing to say is left out. The leaves are the ones a Merkle tree will
//! be built over: the form never changes, a new one gets a new `format` (in `tenure.evidence.v1` such a field was
//! `null`).

mod schedule;

use chrono::SecondsFormat;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::core::Timestamp;
use crate::core::case::Case;
use crate::core::event::Event;
use crate::core::id::{Actor, CaseId, Place};
use crate::core::proof::Proof;

pub use schedule::{SCHEDULE_FORMAT, schedule_leaf};

/// The name of this form of leaf.
pub const FORMAT: &str = "tenure.evidence.v2";

/// What caused a transition.
#[derive(Debug, Clone, PartialEq)]
pub struct Cause {
    /// The name of the input.
    pub input: &'static str,
    pub by: Actor,
    /// How the attempt ended, where one did.
    pub outcome: Option<&'static str>,
    pub place: Option<Place>,
    pub attempt: Option<u32>,
    pub reason: Option<String>,
    /// Set when the input was somebody's answer to an approval.
    pub approver: Option<Actor>,
    pub proof: Option<Proof>,
}

/// Fields stand in the order of their names: that is what makes the bytes canonical.
#[derive(Serialize)]
struct Leaf<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    already_so: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    approver: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<String>,
    case: String,
    clocks: Clocks,
    definition: &'a str,
    events: Vec<&'static str>,
    format: &'static str,
    generation: u32,
    initiator: String,
    input: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    sequence: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<&'a str>,
    subject: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    system: Option<&'a str>,
    workflow: &'a str,
}

#[derive(Serialize)]
struct Clocks {
    #[serde(skip_serializing_if = "Option::is_none")]
    acknowledged: Option<String>,
    decided: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    effective: Option<String>,
    planned: String,
    received: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verified: Option<String>,
}

/// What a leaf says of a case as a whole.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    pub case: CaseId,
    /// The version the transition brought it to.
    pub version: u64,
    pub subject: &'a str,
    pub workflow: &'a str,
    pub definition: &'a str,
    pub generation: u32,
    pub salt: &'a [u8],
    pub effective_at: Option<Timestamp>,
    pub received_at: Timestamp,
    pub created_at: Timestamp,
}

/// The leaf of the transition that brought `case` to its present version.
#[must_use]
pub fn leaf(case: &Case, cause: &Cause, events: &[Event], now: Timestamp) -> Vec<u8> {
    let about = About {
        case: case.id,
        version: case.version,
        subject: &case.subject.0,
        workflow: &case.definition.name,
        definition: &case.definition.hash.0,
        generation: case.generation,
        salt: &case.salt,
        effective_at: case.effective_at,
        received_at: case.received_at,
        created_at: case.created_at,
    };
    let step = cause
        .place
        .and_then(|place| case.step(place.step))
        .map(|step| step.id.as_str());
    leaf_about(&about, step, cause, events, now)
}

/// As [`leaf`], for a case that is not in memory.
#[must_use]
pub fn leaf_about(
    case: &About<'_>,
    step: Option<&str>,
    cause: &Cause,
    events: &[Event],
    now: Timestamp,
) -> Vec<u8> {
    let proof = cause.proof.as_ref();
    let salted = |value: &str| salted_digest(case.salt, value.as_bytes());
    let value_digest =
        |value: &Option<Value>| value.as_ref().map(|value| salted(&canonical(value)));
    let who = |actor: &Actor| {
        if actor.0 == "engine" {
            actor.0.clone()
        } else {
            salted(&actor.0)
        }
    };
    let leaf = Leaf {
        after: proof.and_then(|proof| value_digest(&proof.after)),
        already_so: proof.map(|proof| proof.already_so),
        approver: cause
            .approver
            .as_ref()
            .or_else(|| proof?.approver.as_ref())
            .map(who),
        attempt: cause.attempt,
        before: proof.and_then(|proof| value_digest(&proof.before)),
        case: case.case.to_string(),
        clocks: Clocks {
            acknowledged: proof.and_then(|proof| proof.acknowledged_at).map(stamp),
            decided: stamp(now),
            effective: case.effective_at.map(stamp),
            planned: stamp(case.created_at),
            received: stamp(case.received_at),
            sent: proof.and_then(|proof| proof.sent_at).map(stamp),
            verified: proof.and_then(|proof| proof.verified_at).map(stamp),
        },
        definition: case.definition,
        events: events.iter().map(Event::name).collect(),
        format: FORMAT,
        generation: case.generation,
        initiator: who(proof
            .and_then(|proof| proof.by.as_ref())
            .unwrap_or(&cause.by)),
        input: cause.input,
        instance: cause.place.map(|place| place.instance.0),
        object: proof.and_then(|proof| proof.object.as_deref()).map(salted),
        operation: proof.and_then(|proof| proof.operation.as_deref()),
        outcome: cause.outcome,
        policy: proof.and_then(|proof| proof.policy.as_deref()),
        reason: cause
            .reason
            .as_deref()
            .or_else(|| proof?.reason.as_deref())
            .map(salted),
        request_id: proof.and_then(|proof| proof.request_id.as_deref()),
        sequence: case.version,
        step,
        subject: salted(case.subject),
        system: proof.and_then(|proof| proof.system.as_deref()),
        workflow: case.workflow,
    };
    // A struct of strings and numbers always serialises.
    serde_json::to_vec(&leaf).unwrap_or_default()
}

/// `sha256(salt || 0x00 || value)` in hex.
#[must_use]
pub fn salted_digest(salt: &[u8], value: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(salt);
    hash.update([0]);
    hash.update(value);
    let mut text = String::with_capacity(64);
    for byte in hash.finalize() {
        for nibble in [byte >> 4, byte & 0xf] {
            text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
    }
    text
}

fn stamp(at: Timestamp) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// A value with the fields of every object in order of their names.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let mut names: Vec<_> = fields.iter().collect();
            names.sort_by(|a, b| a.0.cmp(b.0));
            let inside: Vec<String> = names
                .iter()
                .map(|(name, field)| {
                    format!("{}:{}", Value::String((*name).clone()), canonical(field))
                })
                .collect();
            format!("{{{}}}", inside.join(","))
        }
        Value::Array(items) => format!(
            "[{}]",
            items.iter().map(canonical).collect::<Vec<_>>().join(",")
        ),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::core::case::NewCase;
    use crate::core::definition::Definition;
    use crate::core::id::{CaseId, ShardId, Subject};
    use std::sync::Arc;

    fn case(salt: u8) -> Case {
        let text = "name: x\nsteps:\n  - {id: a, uses: noop}\n";
        let definition = Arc::new(Definition::parse("x.yaml", text, &[], &|_| true).unwrap());
        let at = "2026-01-01T00:00:00Z".parse().unwrap();
        Case::new(NewCase {
            id: CaseId(uuid::Uuid::nil()),
            shard: ShardId(0),
            subject: Subject("ada.lovelace".into()),
            definition,
            generation: 0,
            input: Arc::new(Value::Null),
            salt: [salt; 16],
            initiator: Actor::engine(),
            effective_at: None,
            received_at: at,
            created_at: at,
        })
    }

    fn cause() -> Cause {
        Cause {
            input: "start",
            by: Actor("user:grace".into()),
            outcome: None,
            place: None,
            attempt: None,
            reason: Some("because of ada.lovelace".into()),
            approver: None,
            proof: Some(Proof {
                object: Some("uid=ada.lovelace".into()),
                after: Some(serde_json::json!({"b": 1, "a": "ada"})),
                ..Proof::default()
            }),
        }
    }

    #[test]
    fn a_leaf_is_canonical_and_names_no_person() {
        let bytes = leaf(
            &case(1),
            &cause(),
            &[],
            "2026-01-01T00:00:01Z".parse().unwrap(),
        );
        let text = String::from_utf8(bytes).unwrap();
        for name in ["ada", "grace", "lovelace"] {
            assert!(!text.contains(name), "{text}");
        }
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(canonical(&value), text, "the bytes are those of RFC 8785");
    }

    #[test]
    fn another_salt_gives_other_digests() {
        let at = "2026-01-01T00:00:01Z".parse().unwrap();
        assert_ne!(
            leaf(&case(1), &cause(), &[], at),
            leaf(&case(2), &cause(), &[], at)
        );
        assert_eq!(
            leaf(&case(1), &cause(), &[], at),
            leaf(&case(1), &cause(), &[], at)
        );
    }
}
