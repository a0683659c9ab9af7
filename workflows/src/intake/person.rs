//! What an event makes of a person. Pure.

use engine::core::Timestamp;
use serde_json::Value;

use super::order::{Class, class};
use crate::directory::{IdentityRow, IdentityStatus};
use crate::sources::record::attribute;
use crate::sources::{BusinessEvent, IdentityType};

/// The person after `event`, which is effective if `started`. `None` when nothing is known about the person
/// and the event does not introduce them.
pub(super) fn after(
    before: Option<&IdentityRow>,
    event: &BusinessEvent,
    started: bool,
    shard_id: i32,
    now: Timestamp,
) -> Option<IdentityRow> {
    let class = class(event.event_type);
    let mut person = match before {
        Some(before) => before.clone(),
        None if class == Class::Begins => introduced(event, shard_id, now),
        None => return None,
    };
    // What is announced changes nothing yet, except that somebody new is known.
    if started {
        statement(&mut person, event, now);
        let back = matches!(class, Class::Begins | Class::Cancels)
            && matches!(
                person.status,
                IdentityStatus::Leaving | IdentityStatus::Departed
            );
        if back {
            person.generation = person.generation.saturating_add(1);
            person.status = IdentityStatus::Expected;
            person.status_case = None;
            person.departed_at = None;
            person.changed_at = now;
        }
    }
    Some(person)
}

fn introduced(event: &BusinessEvent, shard_id: i32, now: Timestamp) -> IdentityRow {
    let mut person = IdentityRow {
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
    };
    statement(&mut person, event, now);
    person
}

/// Takes over what the event says about the person, unless something newer was said.
fn statement(person: &mut IdentityRow, event: &BusinessEvent, now: Timestamp) {
    let Some(Value::Object(attributes)) = event.data.get("attributes") else {
        return;
    };
    if event.version < person.attributes_version {
        return;
    }
    let attributes: std::collections::BTreeMap<String, Value> = attributes
        .iter()
        .filter(|(name, value)| !value.is_null() && name.as_str() != attribute::KEY)
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let text = |name: &str| attributes.get(name).and_then(Value::as_str);
    if let Some(kind) = text(attribute::TYPE) {
        person.identity_type = kind.to_owned();
    }
    person.display_name = ["name", "display_name", "full_name"]
        .into_iter()
        .find_map(text)
        .unwrap_or(event.subject.as_str())
        .to_owned();
    person.attributes = attributes;
    person.attributes_version = event.version;
    person.source = event.source.clone();
    person.changed_at = now;
}
