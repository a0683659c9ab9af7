//! The guard between a feed and the company: how much may change at once without a person looking.
//!
//! A limit is two numbers, and crossing either stops the import: more than `count_max` people, or, once the
//! population is at least `population_min`, more than `share_max` of it. Exactly the limit still passes. The
//! import stops *before* anything is done, not after the first so many.
//!
//! What a person then approves is one difference and no other: [`Summary::difference_id`] is a hash over
//! every single change. Tomorrow's file needs tomorrow's approval.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::diff::{ChangeKind, Difference};
use super::record::{Key, Record, Records};
use crate::policy::guard::{Blast, LimitRule, Operation};

/// How many keys a summary names for each kind of change.
pub const EXAMPLES_MAX: usize = 20;

/// Limits by kind of change.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GuardConfig {
    /// People who leave.
    pub removals: Limit,
    /// People who join or come back.
    pub creations: Limit,
    /// People who stay and change.
    pub changes: Limit,
    /// Sources that push tell one person at a time: removals within this many minutes are taken together.
    pub window_minutes: u32,
}

impl Default for GuardConfig {
    fn default() -> Self {
        Self {
            removals: Limit {
                share_max: Some(Self::REMOVALS_SHARE_MAX),
                population_min: Self::POPULATION_MIN,
                ..Limit::default()
            },
            creations: Limit::default(),
            changes: Limit::default(),
            window_minutes: Self::WINDOW_MINUTES,
        }
    }
}

impl GuardConfig {
    /// Without a word in the configuration, a tenth of the company may leave between two snapshots.
    pub const REMOVALS_SHARE_MAX: f64 = 0.1;
    /// Below this many people a share says little, and only counts are compared.
    pub const POPULATION_MIN: u64 = 20;
    /// A population is told exactly up to this many, whatever the limit.
    const POPULATION_SHOWN: u64 = 1_000;
    /// How long removals that are pushed count together.
    pub const WINDOW_MINUTES: u32 = 60;
    /// The longest window: a week.
    pub const WINDOW_MINUTES_MAX: u32 = 7 * 24 * 60;

    /// The same limits for what comes within a window.
    #[must_use]
    pub fn limit_rules(&self) -> Vec<LimitRule> {
        let mut rules = Vec::new();
        for (operation, limit) in [
            (Operation::IdentityRemove, &self.removals),
            (Operation::IdentityCreate, &self.creations),
            (Operation::IdentityChange, &self.changes),
        ] {
            let rule = |by: &str, limit: &SliceLimit| LimitRule {
                operation,
                by: by.to_owned(),
                sources: None,
                share_max: limit.share_max,
                count_max: limit.count_max,
                population_min: limit.population_min,
            };
            let whole = SliceLimit {
                share_max: limit.share_max,
                count_max: limit.count_max,
                population_min: limit.population_min,
            };
            let all = std::iter::once(rule("all", &whole));
            let slices = limit.slices.iter().map(|(by, limit)| rule(by, limit));
            let said = all.chain(slices);
            rules.extend(said.filter(|rule| rule.share_max.is_some() || rule.count_max.is_some()));
        }
        rules
    }

    /// How many people are enough to know that `count` of them, or of more, keep the limit.
    #[must_use]
    pub fn population_to_count(&self, count: u64) -> u64 {
        let Some(share) = self.removals.share_max.filter(|share| *share > 0.0) else {
            return count.max(Self::POPULATION_SHOWN);
        };
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "counts of people; what is too large becomes the largest"
        )]
        let needed = (count as f64 / share).ceil() as u64;
        needed
            .saturating_add(1)
            .max(self.removals.population_min)
            .max(Self::POPULATION_SHOWN)
    }

    /// Holds removals that came one by one against the limit. `count` people of `population` left within the window.
    #[must_use]
    pub fn assess_removals(&self, count: u64, population: u64) -> Option<StopReason> {
        let whole = SliceLimit {
            share_max: self.removals.share_max,
            count_max: self.removals.count_max,
            population_min: self.removals.population_min,
        };
        let size = |of: u64| usize::try_from(of).unwrap_or(usize::MAX);
        crossed(
            ChangeKind::Remove,
            None,
            size(count),
            size(population),
            &whole,
        )
    }
}

/// How many may be concerned at once. What is left out is not limited.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limit {
    /// Of the population, 0 to 1.
    pub share_max: Option<f64>,
    pub count_max: Option<u64>,
    /// With fewer people than this only `count_max` is compared.
    pub population_min: u64,
    /// The same within each group of people that share a value of this attribute, as `department`.
    pub slices: BTreeMap<String, SliceLimit>,
}

/// A limit within one slice of the population.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SliceLimit {
    pub share_max: Option<f64>,
    pub count_max: Option<u64>,
    pub population_min: u64,
}

/// What the guard says.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    Pass {
        summary: Summary,
    },
    /// Nothing may happen until a person approved exactly this difference.
    Stop {
        reasons: Vec<StopReason>,
        summary: Summary,
    },
}

/// A limit that was crossed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{}", self.describe())]
pub struct StopReason {
    pub kind: ChangeKind,
    /// Attribute and value, when it is a slice.
    pub slice: Option<(String, String)>,
    pub count: u64,
    pub population: u64,
    pub share: f64,
    pub count_max: Option<u64>,
    pub share_max: Option<f64>,
}

impl StopReason {
    fn describe(&self) -> String {
        let within = match &self.slice {
            Some((attribute, value)) => format!(" with {attribute} `{value}`"),
            None => String::new(),
        };
        let over = match (self.count_max, self.share_max) {
            (Some(count), None) => format!("the limit is {count}"),
            (None, Some(share)) => format!("the limit is {}", percent(share)),
            (Some(count), Some(share)) => {
                format!("the limits are {count} and {}", percent(share))
            }
            (None, None) => "there is no limit".to_owned(),
        };
        format!(
            "{} of {} people{within} ({}) {}; {over}",
            self.count,
            self.population,
            percent(self.share),
            self.kind.verb(),
        )
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// A difference in numbers, for the person who approves or rejects it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// A hash over every change. An approval is for this and nothing else.
    pub difference_id: String,
    /// People in the state before, without those whose employment had ended.
    pub population: u64,
    /// People by kind of change.
    pub people: BTreeMap<ChangeKind, u64>,
    /// Events by type.
    pub events: BTreeMap<String, u64>,
    /// The first people by kind of change.
    pub examples: BTreeMap<ChangeKind, Vec<Key>>,
    /// People who are missing from a snapshot that does not claim to be complete.
    pub missing_not_removed: u64,
    /// What would become of accounts and rights, under the policy in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blast: Option<Blast>,
    /// The policy that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
}

/// Holds `difference` against the limits. `previous` and `next` are the states it lies between.
#[must_use]
pub fn assess(
    difference: &Difference,
    previous: &Records,
    next: &Records,
    guard: &GuardConfig,
) -> Verdict {
    let before: Vec<&Record> = previous
        .values()
        .filter(|record| !record.has_ended(difference.as_of))
        .collect();
    let mut people: BTreeMap<ChangeKind, BTreeSet<&Key>> = BTreeMap::new();
    let mut events: BTreeMap<String, u64> = BTreeMap::new();
    for change in &difference.changes {
        people
            .entry(change.kind)
            .or_default()
            .insert(&change.event.subject);
        *events
            .entry(change.event.event_type.as_str().to_owned())
            .or_default() += 1;
    }
    let mut reasons = Vec::new();
    for (kind, limit) in [
        (ChangeKind::Remove, &guard.removals),
        (ChangeKind::Create, &guard.creations),
        (ChangeKind::Update, &guard.changes),
    ] {
        let Some(keys) = people.get(&kind) else {
            continue;
        };
        let whole = SliceLimit {
            share_max: limit.share_max,
            count_max: limit.count_max,
            population_min: limit.population_min,
        };
        reasons.extend(crossed(kind, None, keys.len(), before.len(), &whole));
        for (attribute, limit) in &limit.slices {
            let population = group(before.iter().copied(), attribute);
            let concerned = group(
                keys.iter()
                    .filter_map(|key| previous.get(*key).or_else(|| next.get(*key))),
                attribute,
            );
            for (value, count) in concerned {
                let population = population.get(&value).copied().unwrap_or(0);
                let slice = Some((attribute.clone(), value));
                reasons.extend(crossed(kind, slice, count, population, limit));
            }
        }
    }
    let summary = Summary {
        difference_id: difference.id.clone(),
        population: before.len() as u64,
        examples: people
            .iter()
            .map(|(kind, keys)| {
                let first = keys.iter().take(EXAMPLES_MAX).map(|key| (*key).clone());
                (*kind, first.collect())
            })
            .collect(),
        people: people
            .iter()
            .map(|(kind, keys)| (*kind, keys.len() as u64))
            .collect(),
        events,
        missing_not_removed: difference.missing.len() as u64,
        blast: None,
        policy: None,
    };
    if reasons.is_empty() {
        Verdict::Pass { summary }
    } else {
        Verdict::Stop { reasons, summary }
    }
}

fn crossed(
    kind: ChangeKind,
    slice: Option<(String, String)>,
    count: usize,
    population: usize,
    limit: &SliceLimit,
) -> Option<StopReason> {
    let (count, population) = (count as u64, population as u64);
    // Counts of people are far below 2^52, where a double is exact.
    #[expect(clippy::cast_precision_loss, reason = "counts of people")]
    let share = if population == 0 {
        1.0
    } else {
        count as f64 / population as f64
    };
    let over_count = limit.count_max.filter(|max| count > *max);
    let over_share = limit
        .share_max
        .filter(|max| population > 0 && population >= limit.population_min && share > *max);
    (over_count.is_some() || over_share.is_some()).then_some(StopReason {
        kind,
        slice,
        count,
        population,
        share,
        count_max: over_count,
        share_max: over_share,
    })
}

/// How many records have each value of `attribute`. Those without it are a group of their own.
fn group<'a>(
    records: impl Iterator<Item = &'a Record>,
    attribute: &str,
) -> BTreeMap<String, usize> {
    let mut groups = BTreeMap::new();
    for record in records {
        let value = match record.attributes.get(attribute) {
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => String::new(),
        };
        *groups.entry(value).or_default() += 1;
    }
    groups
}
