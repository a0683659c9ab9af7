//! What the picture of a person makes of their row. Pure.

use engine::core::Timestamp;
use serde_json::Value;

use crate::directory::{IdentityRow, IdentityStatus};
use crate::sources::record::attribute;
use crate::sources::{BusinessEvent, IdentityType};
use crate::timeline::Belief;

/// The person as `belief` says. Who had left and is employed again begins another life.
pub(super) fn after(before: &IdentityRow, belief: &Belief, now: Timestamp) -> IdentityRow {
    let mut person = before.clone();
    if belief.version > i64::MIN {
        let text = |name: &str| belief.attributes.get(name).and_then(Value::as_str);
        let default = IdentityType::default().as_str();
        text(attribute::TYPE)
            .unwrap_or(default)
            .clone_into(&mut person.identity_type);
        ["name", "display_name", "full_name"]
            .into_iter()
            .find_map(text)
            .unwrap_or(&before.identity_key)
            .clone_into(&mut person.display_name);
        person.attributes.clone_from(&belief.attributes);
        // A leave may be told by events alone; rules and actions see it in one place.
        let status = attribute::EMPLOYMENT_STATUS;
        let said = text(status) == Some("leave");
        if belief.is_employed() && belief.on_leave != said {
            let status_now = if belief.on_leave { "leave" } else { "active" };
            person
                .attributes
                .insert(status.to_owned(), Value::from(status_now));
        }
        person.attributes_version = belief.version;
    }
    let had_left = matches!(
        person.status,
        IdentityStatus::Leaving | IdentityStatus::Departed
    );
    if had_left && belief.is_employed() {
        person.generation = person.generation.saturating_add(1);
        person.status = IdentityStatus::Expected;
        person.status_case = None;
        person.departed_at = None;
    }
    if person != *before {
        person.changed_at = now;
    }
    person
}

/// Somebody of whom nothing was said yet.
pub(super) fn introduced(event: &BusinessEvent, shard_id: i32, now: Timestamp) -> IdentityRow {
    IdentityRow {
        shard_id,
        identity_key: event.subject.as_str().to_owned(),
        identity_type: IdentityType::default().as_str().to_owned(),
        status: IdentityStatus::Expected,
        status_case: None,
        generation: 1,
        source: event.source.clone(),
        display_name: event.subject.as_str().to_owned(),
        attributes: std::collections::BTreeMap::new(),
        attributes_version: i64::MIN,
        first_seen_at: now,
        changed_at: now,
        departed_at: None,
        merged_into: None,
        members: Vec::new(),
        disputes: Vec::new(),
    }
}
