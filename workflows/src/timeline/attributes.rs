//! What is known about a person beside their employment.
//!
//! An event that lists its `changes` speaks of those attributes alone: for each the one counts that became effective
//! last. One that only gives all `attributes` speaks of all of them as they were when it was made. It takes the place of
//! changes that were known then, and says nothing about what had been announced for a later day, or was said since.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

use super::{Class, Precedence, class};
use crate::sources::{Attributes, BusinessEvent, EventType, Part, Said, said};

/// What holds so soon after it was said is said of the present: clocks differ.
const PRESENT: TimeDelta = TimeDelta::minutes(1);

#[derive(Default)]
pub(super) struct Told {
    pub values: Attributes,
    pub origins: BTreeMap<String, String>,
    pub version: i64,
}

/// All attributes, as of a moment.
struct Whole<'a> {
    from: DateTime<Utc>,
    place: usize,
    event: &'a BusinessEvent,
    attributes: Attributes,
}

impl Whole<'_> {
    fn counts_over(&self, other: &Self) -> bool {
        self.place > other.place || self.from > other.from
    }
}

/// What `statements`, in order, say about the moment `at`, each source believed as far as `precedence` says.
pub(super) fn told(
    statements: &[&BusinessEvent],
    at: DateTime<Utc>,
    precedence: Option<&Precedence>,
) -> Told {
    let precedence = precedence.filter(|precedence| !precedence.is_empty());
    let mut by_source: BTreeMap<&str, Vec<&BusinessEvent>> = BTreeMap::new();
    for event in statements {
        by_source.entry(&event.source).or_default().push(event);
    }
    let Some(precedence) = precedence.filter(|_| by_source.len() > 1) else {
        return told_by_one(statements, at);
    };
    // Whoever spoke last comes first, where nothing else is said.
    let mut voices: Vec<(&str, Told)> = Vec::new();
    let begun = statements
        .iter()
        .rev()
        .filter(|event| event.effective_at <= at);
    for event in begun.chain(statements.iter().rev()) {
        let source = event.source.as_str();
        if let Some(own) = by_source.remove(source) {
            voices.push((source, told_by_one(&own, at)));
        }
    }
    let newest = voices.iter().map(|(_, told)| told.version).max();
    let mut merged = Told {
        version: newest.unwrap_or(i64::MIN),
        ..Told::default()
    };
    let names: BTreeSet<&String> = voices
        .iter()
        .flat_map(|(_, told)| told.values.keys())
        .collect();
    for name in names {
        let order = precedence.order(name);
        let place = |source: &str| {
            let place = order.iter().position(|other| other == source);
            place.unwrap_or(order.len())
        };
        let speaking = voices
            .iter()
            .filter(|(_, told)| told.values.contains_key(name));
        // Of equals the first one stays.
        let Some((_, told)) = speaking.min_by_key(|(source, _)| place(source)) else {
            continue;
        };
        if let Some(value) = told.values.get(name) {
            merged.values.insert(name.clone(), value.clone());
        }
        if let Some(origin) = told.origins.get(name) {
            merged.origins.insert(name.clone(), origin.clone());
        }
    }
    merged
}

/// What `statements`, in order, say about the moment `at`, as if one source had made them all.
fn told_by_one(statements: &[&BusinessEvent], at: DateTime<Utc>) -> Told {
    let (mut seen, mut announced): (Option<Whole<'_>>, Option<Whole<'_>>) = (None, None);
    let mut parts: BTreeMap<Named, (usize, &BusinessEvent, Part)> = BTreeMap::new();
    let mut newest = i64::MIN;
    for (place, event) in statements.iter().enumerate() {
        let effective = event.effective_at;
        match speaks_of(event) {
            Said::All(attributes) => {
                let ahead = effective - event.occurred_at;
                let announces = is_about_attributes(event) && ahead > PRESENT;
                // What is said beside something else is how things were when it was said; what was past then, is so
                // still.
                let from = if announces || event.occurred_at > at {
                    effective
                } else {
                    event.occurred_at
                };
                let all = Whole {
                    from,
                    place,
                    event,
                    attributes,
                };
                // The statements come in order: of two the later counts.
                if from > at {
                    continue;
                } else if !announces {
                    seen = Some(all);
                } else if announced.as_ref().is_none_or(|other| other.from <= from) {
                    announced = Some(all);
                }
            }
            Said::Some(said) if effective > at || said.is_empty() => continue,
            Said::Some(said) => {
                for part in said {
                    // Of one thing that counts which became effective last, and of those the one that was said last.
                    let other = parts.get(&named(&part));
                    if other.is_none_or(|(_, other, _)| other.effective_at <= effective) {
                        parts.insert(named(&part), (place, event, part));
                    }
                }
            }
        }
        newest = newest.max(event.version);
    }
    let mut told = Told {
        version: newest,
        ..Told::default()
    };
    let whole = match (seen, announced) {
        (Some(seen), Some(announced)) if announced.counts_over(&seen) => Some(announced),
        (seen, announced) => seen.or(announced),
    };
    if let Some(all) = &whole {
        told.values.clone_from(&all.attributes);
        let origin = |name: &String| (name.clone(), all.event.id.clone());
        told.origins = all.attributes.keys().map(origin).collect();
    }
    for ((name, _), (place, event, part)) in parts {
        let over = |all: &Whole<'_>| place > all.place || event.effective_at > all.from;
        if !whole.as_ref().is_none_or(over) {
            continue;
        }
        part.apply(&mut told.values);
        if told.values.contains_key(&name) {
            told.origins.insert(name, event.id.clone());
        } else {
            told.origins.remove(&name);
        }
    }
    told
}

/// What a part is about: an attribute, or one item of a list.
type Named = (String, Option<String>);

fn named(part: &Part) -> Named {
    match part {
        Part::Is(name, _) | Part::Gone(name) => (name.clone(), None),
        Part::Has(name, item) | Part::HasNot(name, item) => (name.clone(), Some(item.clone())),
    }
}

/// What an event says. Where it lists what changed, all attributes that it gives besides are those known anyway.
fn speaks_of(event: &BusinessEvent) -> Said {
    let has = |name: &str| event.data.get(name).is_some_and(|value| !value.is_null());
    let changes = event.data.get("changes").and_then(Value::as_object);
    let lists = match event.event_type {
        EventType::ProjectStart | EventType::ProjectEnd => has("project"),
        EventType::ManagerChanged => has("to"),
        _ => changes.is_some_and(|changes| !changes.is_empty()),
    };
    match &event.data {
        Value::Object(data) if lists => {
            let mut data = data.clone();
            data.remove("attributes");
            said(event.event_type, &Value::Object(data))
        }
        _ => event.said(),
    }
}

/// Whether the event is there for the attributes it gives.
fn is_about_attributes(event: &BusinessEvent) -> bool {
    let leave = matches!(
        event.event_type,
        EventType::LeaveStart | EventType::LeaveEnd
    );
    !leave && matches!(class(event.event_type), Class::Begins | Class::Other)
}
