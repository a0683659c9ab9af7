//! One person under several keys: what each says, put together.
//!
//! What somebody does now counts: keys under which they are employed go before all others, and others then say nothing. Of
//! those, an employee goes before a contractor, who began later before who began earlier, and at last the order of the
//! keys. Each attribute is that of the first who has it, but for those that tell of the employment itself: they come from
//! the first alone. Which of the keys names the person does not matter.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::Timeline;
use super::attributes::{Told, told};
use crate::sources::record::attribute;
use crate::sources::{BusinessEvent, IdentityType};

/// What tells of one employment only.
const OF_THE_EMPLOYMENT: [&str; 4] = [
    attribute::TYPE,
    attribute::EMPLOYMENT_START,
    attribute::EMPLOYMENT_END,
    attribute::EMPLOYMENT_STATUS,
];

impl Timeline<'_> {
    /// The attributes at `seen_at`, and whether the person is away at `at`.
    pub(super) fn united(
        &self,
        keys: &BTreeSet<&str>,
        at: DateTime<Utc>,
        seen_at: DateTime<Utc>,
    ) -> (Told, bool) {
        let mut told_by: Vec<(&str, Option<DateTime<Utc>>, Told)> = keys
            .iter()
            .map(|key| {
                let own: Vec<&BusinessEvent> = self
                    .statements
                    .iter()
                    .filter(|event| event.subject.as_str() == *key)
                    .copied()
                    .collect();
                (
                    *key,
                    self.spells.begun(key, seen_at),
                    told(&own, seen_at, self.precedence),
                )
            })
            .collect();
        let anybody = told_by.iter().any(|(_, begun, _)| begun.is_some());
        let version = told_by.iter().map(|(_, _, told)| told.version).max();
        told_by.retain(|(_, begun, _)| begun.is_some() || !anybody);
        told_by.sort_by_key(|(key, begun, told)| (kind(told), Reverse(*begun), *key));
        let on_leave = told_by
            .first()
            .is_some_and(|(key, ..)| self.is_away(key, at));
        let mut united = Told {
            version: version.unwrap_or(i64::MIN),
            ..Told::default()
        };
        for (place, (_, _, told)) in told_by.into_iter().enumerate() {
            for (name, value) in told.values {
                let own = OF_THE_EMPLOYMENT.contains(&name.as_str());
                if united.values.contains_key(&name) || (own && place > 0) {
                    continue;
                }
                if let Some(origin) = told.origins.get(&name) {
                    united.origins.insert(name.clone(), origin.clone());
                }
                united.values.insert(name, value);
            }
        }
        (united, on_leave)
    }
}

/// Employees first.
fn kind(told: &Told) -> u8 {
    let said = told.values.get(attribute::TYPE).and_then(Value::as_str);
    let said = said.unwrap_or(IdentityType::default().as_str());
    match said {
        "employee" => 0,
        "contractor" => 1,
        _ => 2,
    }
}
