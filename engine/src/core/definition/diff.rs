//! What differs between two versions of a workflow, field by field.
//!
//! The text of a definition says little about what a change means: a comment is another hash, and a step that moved
//! is half a page. Here a step is compared with the step of the same id, and only what it does counts.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::super::retry::RetryPolicy;
use super::{Definition, Start, Step, Work};

/// What differs. Empty when the two do the same, whatever their texts say.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Difference {
    /// Of the workflow as a whole.
    pub fields: Vec<Change>,
    /// In the order of the new version; those that are gone come last.
    pub steps: Vec<StepDifference>,
}

/// A field that differs; null where it is not there.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// `retry.attempts`, `with.system`.
    pub field: String,
    pub from: Value,
    pub to: Value,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum StepDifference {
    Added {
        step: String,
        uses: String,
    },
    Removed {
        step: String,
        uses: String,
        /// An added step that does exactly the same: perhaps this one under another name.
        #[serde(skip_serializing_if = "Option::is_none")]
        perhaps: Option<String>,
    },
    Changed {
        step: String,
        changes: Vec<Change>,
    },
}

impl Difference {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.steps.is_empty()
    }
}

/// Compares two versions.
#[must_use]
pub fn diff(from: &Definition, to: &Definition) -> Difference {
    let mut fields = Vec::new();
    compare("", &whole(from), &whole(to), &mut fields);
    let old: BTreeMap<&str, Value> = described(from);
    let new: BTreeMap<&str, Value> = described(to);
    let mut steps = Vec::new();
    for step in &to.steps {
        let id = step.id.as_str();
        let Some(after) = new.get(id) else { continue };
        match old.get(id) {
            None => steps.push(StepDifference::Added {
                step: step.id.clone(),
                uses: step.work.uses().to_owned(),
            }),
            Some(before) => {
                let mut changes = Vec::new();
                compare("", before, after, &mut changes);
                if !changes.is_empty() {
                    steps.push(StepDifference::Changed {
                        step: step.id.clone(),
                        changes,
                    });
                }
            }
        }
    }
    let added: BTreeSet<&str> = new
        .keys()
        .filter(|id| !old.contains_key(**id))
        .copied()
        .collect();
    for step in &from.steps {
        if new.contains_key(step.id.as_str()) {
            continue;
        }
        let alike = |id: &&&str| {
            let same = |field: &str| {
                old.get(step.id.as_str()).and_then(|old| old.get(field))
                    == new.get(**id).and_then(|new| new.get(field))
            };
            ["uses", "with", "for_each", "undo"].into_iter().all(same)
        };
        steps.push(StepDifference::Removed {
            step: step.id.clone(),
            uses: step.work.uses().to_owned(),
            perhaps: added.iter().find(alike).map(|id| (*id).to_owned()),
        });
    }
    Difference { fields, steps }
}

/// Collects what differs, down to single values; lists are compared as a whole.
fn compare(at: &str, from: &Value, to: &Value, changes: &mut Vec<Change>) {
    match (from, to) {
        (Value::Object(old), Value::Object(new)) => {
            let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for name in names {
                let field = if at.is_empty() {
                    name.clone()
                } else {
                    format!("{at}.{name}")
                };
                let of = |fields: &Map<String, Value>| fields.get(name).cloned();
                let (old, new) = (of(old).unwrap_or_default(), of(new).unwrap_or_default());
                compare(&field, &old, &new, changes);
            }
        }
        (from, to) if from == to => {}
        (from, to) => changes.push(Change {
            field: at.to_owned(),
            from: from.clone(),
            to: to.clone(),
        }),
    }
}

fn whole(definition: &Definition) -> Value {
    json!({
        "name": definition.name,
        "description": definition.description,
        "on": definition.on,
        "ahead": definition.ahead,
        "after": definition.after,
        "lane": definition.lane,
        "weight": definition.weight,
        "on_failure": definition.on_failure,
        "deadline": definition.deadline,
        "conflicts": definition.conflicts.told(),
    })
}

fn described(definition: &Definition) -> BTreeMap<&str, Value> {
    let steps = definition.steps.iter();
    steps
        .map(|step| (step.id.as_str(), described_step(definition, step)))
        .collect()
}

/// A step as fields; what it does not say is left out, except where a default stands in.
fn described_step(definition: &Definition, step: &Step) -> Value {
    let mut fields = Map::new();
    fields.insert("uses".to_owned(), step.work.uses().into());
    fields.insert("needs".to_owned(), needs(definition, step).into());
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value.filter(|value| !value.is_null()) {
            fields.insert(name.to_owned(), value);
        }
    };
    put("with", with(&step.work));
    put("if", step.condition.as_ref().map(|it| it.source().into()));
    put(
        "for_each",
        step.for_each.as_ref().map(|it| it.source().into()),
    );
    match &step.start {
        Start::AtOnce => {}
        Start::After(span) => put("after", Some(span.to_string().into())),
        Start::At(expression) => put("at", Some(expression.source().into())),
    }
    put("retry", Some(retry(&step.retry)));
    put("timeout", Some(step.timeout.to_string().into()));
    put(
        "undo",
        step.undo
            .as_ref()
            .map(|undo| json!({"uses": undo.uses, "with": undo.with.value})),
    );
    put("on_failure", step.parks.then(|| "park".into()));
    Value::Object(fields)
}

fn needs(definition: &Definition, step: &Step) -> Vec<String> {
    let needs = step.needs.iter();
    needs
        .filter_map(|need| Some(definition.step(*need)?.id.clone()))
        .collect()
}

fn with(work: &Work) -> Option<Value> {
    match work {
        Work::Action { with, .. } => Some(with.value.clone()),
        Work::Approval(approval) => serde_json::to_value(approval).ok(),
        Work::Task(task) => serde_json::to_value(task).ok(),
        Work::WaitFor(wait) => serde_json::to_value(wait).ok(),
    }
}

fn retry(policy: &RetryPolicy) -> Value {
    serde_json::to_value(policy).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn version(text: &str) -> Definition {
        Definition::parse("x.yaml", text, &[], &|_| true).unwrap()
    }

    const OLD: &str = "name: t\ndeadline: {after: 1h}\nsteps:\n  - {id: a, uses: x, with: {system: crm, deep: {n: 1}}}\n  - {id: b, uses: y, retry: {attempts: 3}}\n  - {id: c, uses: z, with: {k: 1}}\n";

    #[test]
    fn another_text_that_does_the_same_is_no_difference() {
        let same = OLD.replace("{id: a, uses: x,", "{uses: x, id: a,") + "# a remark\n";
        assert!(diff(&version(OLD), &version(&same)).is_empty());
    }

    #[test]
    fn every_field_that_differs_is_named() {
        let new = "name: t\nlane: revocation\ndeadline: {after: 2h}\nsteps:\n  - {id: a, uses: x, with: {system: erp, deep: {n: 2}}}\n  - {id: new, uses: n}\n  - {id: b, uses: y, needs: [a], after: 5m}\n  - {id: d, uses: z, with: {k: 1}}\n";
        let found = serde_json::to_value(diff(&version(OLD), &version(new))).unwrap();
        let change =
            |field: &str, from: Value, to: Value| json!({"field": field, "from": from, "to": to});
        assert_eq!(
            found,
            json!({
                "fields": [
                    change("deadline.after", json!("1h"), json!("2h")),
                    change("lane", json!("normal"), json!("revocation")),
                ],
                "steps": [
                    {"change": "changed", "step": "a", "changes": [
                        change("with.deep.n", json!(1), json!(2)),
                        change("with.system", json!("crm"), json!("erp")),
                    ]},
                    {"change": "added", "step": "new", "uses": "n"},
                    {"change": "changed", "step": "b", "changes": [
                        change("after", Value::Null, json!("5m")),
                        change("retry.attempts", json!(3), json!(8)),
                    ]},
                    {"change": "added", "step": "d", "uses": "z"},
                    {"change": "removed", "step": "c", "uses": "z", "perhaps": "d"},
                ],
            })
        );
    }
}
