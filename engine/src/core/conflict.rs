//! What happens when a case is to start for a subject that has others open: declared rules, as data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::definition::{Definition, Lane};

/// What a new case does about an open one of the same subject.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum OnConflict {
    /// It waits until the open one is closed.
    #[default]
    Queue,
    /// The open one is asked to end; it starts when that has ended.
    Preempt,
    /// It is folded into an open one of the same workflow that has not begun; else it waits.
    Merge,
    /// It is refused.
    Reject,
}

impl OnConflict {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Preempt => "preempt",
            Self::Merge => "merge",
            Self::Reject => "reject",
        }
    }
}

/// The rules of one workflow.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Conflicts {
    /// By the name of the other workflow.
    pub rules: BTreeMap<String, OnConflict>,
    /// About every other workflow that has no rule of its own.
    pub any: OnConflict,
}

impl Conflicts {
    /// The names of the workflows it pre-empts by name.
    pub fn preempts(&self) -> impl Iterator<Item = &str> {
        self.rules
            .iter()
            .filter(|(_, rule)| **rule == OnConflict::Preempt)
            .map(|(name, _)| name.as_str())
    }

    /// The rules as people read them, with `any` among them.
    #[must_use]
    pub fn told(&self) -> BTreeMap<String, &'static str> {
        let rules = self.rules.iter();
        let any = ("any".to_owned(), self.any.as_str());
        rules
            .map(|(name, rule)| (name.clone(), rule.as_str()))
            .chain([any])
            .collect()
    }

    /// What a new case of workflow `own` does about an open one of workflow `other` in lane `lane`. What is said of
    /// any workflow is said of others than its own, and pre-empts no revocation: that takes its name.
    #[must_use]
    pub fn about(&self, own: &str, other: &str, lane: Lane) -> OnConflict {
        match self.rules.get(other) {
            Some(rule) => *rule,
            None if other == own => OnConflict::Queue,
            None if self.any == OnConflict::Preempt && lane == Lane::Revocation => {
                OnConflict::Queue
            }
            None => self.any,
        }
    }
}

/// One pair of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pair {
    /// The workflow of the new case.
    pub new: String,
    /// The workflow of the open case.
    pub open: String,
    pub then: OnConflict,
}

/// Every workflow against every workflow.
#[must_use]
pub fn table(definitions: &[&Definition]) -> Vec<Pair> {
    let mut pairs = Vec::with_capacity(definitions.len() * definitions.len());
    for new in definitions {
        for open in definitions {
            pairs.push(Pair {
                new: new.name.clone(),
                open: open.name.clone(),
                then: new.conflicts.about(&new.name, &open.name, open.lane),
            });
        }
    }
    pairs
}

/// The pairs of workflows of which each would end the other: whichever started last would win.
#[must_use]
pub fn contradictions(definitions: &[&Definition]) -> Vec<(String, String)> {
    let ends = |new: &Definition, open: &Definition| {
        new.conflicts.about(&new.name, &open.name, open.lane) == OnConflict::Preempt
    };
    let mut found = Vec::new();
    for (position, first) in definitions.iter().enumerate() {
        for second in definitions.iter().skip(position + 1) {
            if ends(first, second) && ends(second, first) {
                found.push((first.name.clone(), second.name.clone()));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    fn workflow(text: &str) -> Definition {
        let text = format!("{text}\nsteps: [{{id: a, uses: noop}}]\n");
        Definition::parse("w.yaml", &text, &[], &|_| true).unwrap()
    }

    #[test]
    fn a_rule_by_name_goes_before_any_and_any_ends_no_revocation() {
        let leave = workflow("name: leave\nlane: revocation");
        let move_on = workflow(
            "name: move\nconflicts:\n  - {with: move, then: merge}\n  - {with: any, then: preempt}",
        );
        let hire =
            workflow("name: hire\npreempts: [leave]\nconflicts: [{with: move, then: reject}]");
        let all = [&hire, &leave, &move_on];
        let then = |new: &str, open: &str| {
            let pairs = table(&all);
            let pair = pairs
                .iter()
                .find(|pair| pair.new == new && pair.open == open);
            pair.unwrap().then
        };
        assert_eq!(table(&all).len(), 9);
        assert_eq!(then("move", "move"), OnConflict::Merge);
        assert_eq!(then("move", "hire"), OnConflict::Preempt);
        assert_eq!(then("move", "leave"), OnConflict::Queue, "only by its name");
        assert_eq!(then("hire", "leave"), OnConflict::Preempt);
        assert_eq!(then("hire", "move"), OnConflict::Reject);
        assert_eq!(then("leave", "move"), OnConflict::Queue);
        assert_eq!(then("hire", "hire"), OnConflict::Queue);
        assert!(contradictions(&all).is_empty());
        let back = workflow("name: leave\npreempts: [hire]");
        assert_eq!(
            contradictions(&[&hire, &back]),
            [("hire".to_owned(), "leave".to_owned())]
        );
    }
}
