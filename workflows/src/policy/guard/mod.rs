//! How much would change: counted on what policy wants before and after, not only on the records of a feed.
//!
//! ```text
//! facts before, facts after -> wanted before, wanted after -> effects of one person -> counts by operation and slice
//!   -> with what the same source did within the window -> limits -> reasons to ask a person
//! ```
//!
//! What counts is people: somebody who loses three rights loses once in the slice of all rights, and once in that of each
//! system. A slice of attributes goes by the attributes before for whatever is taken, after for whatever is given.

mod document;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::canonical::digest;
use super::evaluate::{EvaluationError, IdentityFacts, Reason, Wanted, evaluate};
use super::set::PolicySet;

pub use document::{GuardDocument, GuardRules, LimitRule};

/// Stands for the source when the policy itself changes.
pub const POLICY: &str = "policy";
/// How many people a slice names.
pub const NAMED_MAX: usize = 5;
/// The most slices that are shown and kept.
const SLICES_SHOWN_MAX: usize = 200;
/// The longest value of an attribute that names a slice, in bytes; what is longer counts by its beginning.
const VALUE_BYTES_MAX: usize = 200;

/// What can happen to many people at once.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum Operation {
    #[serde(rename = "identity.create")]
    IdentityCreate,
    #[serde(rename = "identity.change")]
    IdentityChange,
    #[serde(rename = "identity.remove")]
    IdentityRemove,
    #[serde(rename = "account.create")]
    AccountCreate,
    #[serde(rename = "account.close")]
    AccountClose,
    #[serde(rename = "grant.give")]
    GrantGive,
    #[serde(rename = "grant.take")]
    GrantTake,
}

impl Operation {
    pub const ALL: [Self; 7] = [
        Self::IdentityCreate,
        Self::IdentityChange,
        Self::IdentityRemove,
        Self::AccountCreate,
        Self::AccountClose,
        Self::GrantGive,
        Self::GrantTake,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IdentityCreate => "identity.create",
            Self::IdentityChange => "identity.change",
            Self::IdentityRemove => "identity.remove",
            Self::AccountCreate => "account.create",
            Self::AccountClose => "account.close",
            Self::GrantGive => "grant.give",
            Self::GrantTake => "grant.take",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == text)
    }

    /// Whether it takes something away.
    #[must_use]
    pub fn takes(self) -> bool {
        matches!(
            self,
            Self::IdentityRemove | Self::AccountClose | Self::GrantTake
        )
    }

    /// What the people do, for a sentence.
    #[must_use]
    pub fn verb(self) -> &'static str {
        match self {
            Self::IdentityCreate => "would join",
            Self::IdentityChange => "would change",
            Self::IdentityRemove => "would leave",
            Self::AccountCreate => "would get an account",
            Self::AccountClose => "would lose an account",
            Self::GrantGive => "would get a right",
            Self::GrantTake => "would lose a right",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One person, before and after. Nobody is `None`.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    pub before: Option<IdentityFacts>,
    pub after: Option<IdentityFacts>,
}

/// What would become of one person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    pub operation: Operation,
    /// Of accounts and rights.
    pub system: Option<String>,
    /// Of rights.
    pub entitlement: Option<String>,
    /// That give it.
    pub roles: BTreeSet<String>,
}

/// How many people one slice of one operation concerns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    pub operation: Operation,
    /// `all`, `system`, `role`, `entitlement`, `privileged` or an attribute.
    pub by: String,
    /// Which system, role, ...; empty for `all` and `privileged`.
    pub value: String,
    pub count: u64,
    /// The people it is a part of, as far as that is known.
    #[serde(default)]
    pub population: u64,
    /// The first of them.
    #[serde(default)]
    pub people: Vec<String>,
}

/// Everything that would change, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blast {
    pub slices: Vec<Slice>,
    /// A hash over every single effect: what is approved is this and nothing else.
    pub digest: String,
    /// People who are protected and would lose something.
    pub protected: Vec<String>,
    /// Everybody who would lose something. Not kept.
    #[serde(skip)]
    pub losers: BTreeSet<String>,
    /// People for whom a rule has no answer: nothing is decided for them.
    #[serde(default)]
    pub unanswered: u64,
    /// The first of those rules.
    #[serde(default)]
    pub unanswered_why: Option<String>,
}

impl Blast {
    /// Nothing that anybody would notice.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slices.is_empty()
    }

    /// The largest slices, for people and for what is kept of a change.
    #[must_use]
    pub fn shown(&self) -> Self {
        let mut slices = self.slices.clone();
        slices.sort_by_key(|slice| std::cmp::Reverse(slice.count));
        slices.truncate(SLICES_SHOWN_MAX);
        slices.sort_by(|a, b| (a.operation, &a.by, &a.value).cmp(&(b.operation, &b.by, &b.value)));
        Self {
            slices,
            ..self.clone()
        }
    }

    /// The count of a slice.
    #[must_use]
    pub fn count(&self, operation: Operation, by: &str, value: &str) -> u64 {
        let mut slices = self.slices.iter();
        slices
            .find(|slice| slice.operation == operation && slice.by == by && slice.value == value)
            .map_or(0, |slice| slice.count)
    }
}

/// What would become of each of `pairs` when `before` and `after` are the policies that decide, counted in the slices that
/// `rules` and people look at.
#[must_use]
pub fn blast(
    before: &PolicySet,
    after: &PolicySet,
    rules: &GuardRules,
    attributes: &BTreeSet<String>,
    pairs: impl IntoIterator<Item = Pair>,
) -> Blast {
    let mut gathering = Gathering::default();
    for pair in pairs {
        gathering.add(before, after, rules, attributes, &pair);
    }
    gathering.finish()
}

/// Counts what would become of people, one after the other.
#[derive(Default)]
pub struct Gathering {
    slices: BTreeMap<(Operation, String, String), (u64, Vec<String>)>,
    effects: BTreeMap<String, Vec<Value>>,
    protected: BTreeSet<String>,
    losers: BTreeSet<String>,
    unanswered: u64,
    unanswered_why: Option<String>,
}

impl Gathering {
    fn add(
        &mut self,
        before: &PolicySet,
        after: &PolicySet,
        rules: &GuardRules,
        attributes: &BTreeSet<String>,
        pair: &Pair,
    ) {
        let effects = match effects(before, after, pair) {
            Ok(effects) => effects,
            Err(error) => {
                self.unanswered(|| error.to_string());
                return;
            }
        };
        let loses = effects.iter().any(|effect| effect.operation.takes());
        let protected = loses
            && pair
                .before
                .as_ref()
                .is_some_and(|facts| rules.protects(facts));
        self.count(rules, attributes, pair, &effects, protected);
    }

    /// Adds what would become of one person, who may be `protected`.
    pub fn count(
        &mut self,
        rules: &GuardRules,
        attributes: &BTreeSet<String>,
        pair: &Pair,
        effects: &[Effect],
        protected: bool,
    ) {
        let person = pair.before.as_ref().or(pair.after.as_ref());
        let Some(key) = person.filter(|_| !effects.is_empty()).map(|it| &it.key) else {
            return;
        };
        let loses = effects.iter().any(|effect| effect.operation.takes());
        if loses {
            self.losers.insert(key.clone());
        }
        if loses && protected {
            self.protected.insert(key.clone());
        }
        let mut seen: BTreeSet<(Operation, String, String)> = BTreeSet::new();
        for effect in effects {
            let facts = if effect.operation.takes() {
                pair.before.as_ref()
            } else {
                pair.after.as_ref().or(pair.before.as_ref())
            };
            let mut see = |by: &str, value: String| {
                seen.insert((effect.operation, by.to_owned(), value));
            };
            see("all", String::new());
            if let Some(system) = &effect.system {
                see("system", system.clone());
                if let Some(entitlement) = &effect.entitlement {
                    see("entitlement", format!("{system}/{entitlement}"));
                    if rules.is_privileged(system, entitlement) {
                        see("privileged", String::new());
                    }
                }
            }
            for role in &effect.roles {
                see("role", role.clone());
            }
            for attribute in attributes {
                see(
                    attribute,
                    attribute_value(facts.map(|facts| &facts.attributes), attribute),
                );
            }
        }
        for place in seen {
            let (count, people) = self.slices.entry(place).or_default();
            *count += 1;
            if people.len() < NAMED_MAX {
                people.push(key.clone());
            }
        }
        let told = effects
            .iter()
            .map(|effect| json!([effect.operation, effect.system, effect.entitlement]));
        self.effects.entry(key.clone()).or_default().extend(told);
    }

    /// Adds somebody for whom a rule has no answer.
    pub fn unanswered(&mut self, why: impl FnOnce() -> String) {
        self.unanswered += 1;
        self.unanswered_why.get_or_insert_with(why);
    }

    #[must_use]
    pub fn finish(self) -> Blast {
        Blast {
            slices: self
                .slices
                .into_iter()
                .map(|((operation, by, value), (count, people))| Slice {
                    operation,
                    by,
                    value,
                    count,
                    population: 0,
                    people,
                })
                .collect(),
            digest: digest(&json!(self.effects)),
            protected: self.protected.into_iter().collect(),
            losers: self.losers,
            unanswered: self.unanswered,
            unanswered_why: self.unanswered_why,
        }
    }
}

/// The value of an attribute, as a slice is named.
#[must_use]
pub fn attribute_value(attributes: Option<&BTreeMap<String, Value>>, name: &str) -> String {
    let value = attributes.and_then(|attributes| attributes.get(name));
    let text = match value {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let mut end = text.len().min(VALUE_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}

/// What would become of one person.
///
/// # Errors
/// When a rule has no answer, on either side.
pub fn effects(
    before: &PolicySet,
    after: &PolicySet,
    pair: &Pair,
) -> Result<Vec<Effect>, Box<EvaluationError>> {
    let wanted = |policy: &PolicySet, facts: &Option<IdentityFacts>| {
        facts
            .as_ref()
            .map(|facts| evaluate(policy, facts))
            .transpose()
    };
    let (was, is) = (wanted(before, &pair.before)?, wanted(after, &pair.after)?);
    let employed = |facts: &Option<IdentityFacts>| facts.as_ref().is_some_and(|it| it.active);
    let mut effects = Vec::new();
    let person = |operation| Effect {
        operation,
        system: None,
        entitlement: None,
        roles: BTreeSet::new(),
    };
    match (employed(&pair.before), employed(&pair.after)) {
        (false, true) => effects.push(person(Operation::IdentityCreate)),
        (true, false) => effects.push(person(Operation::IdentityRemove)),
        (true, true) if pair.before != pair.after => {
            effects.push(person(Operation::IdentityChange));
        }
        _ => {}
    }
    let (was_on, is_on) = (accounts(was.as_ref()), accounts(is.as_ref()));
    let account = |operation, (system, reasons): (&&str, &&[Reason])| Effect {
        operation,
        system: Some((*system).to_owned()),
        entitlement: None,
        roles: roles(reasons),
    };
    let new = is_on
        .iter()
        .filter(|(system, _)| !was_on.contains_key(*system));
    effects.extend(new.map(|entry| account(Operation::AccountCreate, entry)));
    let gone = was_on
        .iter()
        .filter(|(system, _)| !is_on.contains_key(*system));
    effects.extend(gone.map(|entry| account(Operation::AccountClose, entry)));
    let (had, has) = (grants(was.as_ref()), grants(is.as_ref()));
    let grant = |operation, ((system, entitlement), reasons): (&(&str, &str), &&[Reason])| Effect {
        operation,
        system: Some((*system).to_owned()),
        entitlement: Some((*entitlement).to_owned()),
        roles: roles(reasons),
    };
    let given = has.iter().filter(|(right, _)| !had.contains_key(*right));
    effects.extend(given.map(|entry| grant(Operation::GrantGive, entry)));
    let taken = had.iter().filter(|(right, _)| !has.contains_key(*right));
    effects.extend(taken.map(|entry| grant(Operation::GrantTake, entry)));
    Ok(effects)
}

fn roles(reasons: &[Reason]) -> BTreeSet<String> {
    reasons.iter().map(|reason| reason.role.clone()).collect()
}

fn accounts(wanted: Option<&Wanted>) -> BTreeMap<&str, &[Reason]> {
    let accounts = wanted.map_or(&[][..], |wanted| wanted.accounts.as_slice());
    let each = accounts.iter();
    each.map(|account| (account.system.as_str(), account.reasons.as_slice()))
        .collect()
}

/// What is suspended during a leave is still somebody's.
fn grants(wanted: Option<&Wanted>) -> BTreeMap<(&str, &str), &[Reason]> {
    let Some(wanted) = wanted else {
        return BTreeMap::new();
    };
    let suspended = wanted.suspended.iter().flatten();
    let each = wanted.grants.iter().chain(suspended);
    each.map(|grant| {
        let right = (grant.system.as_str(), grant.entitlement.as_str());
        (right, grant.reasons.as_slice())
    })
    .collect()
}

/// A slice whose people have to be counted before it can be judged.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Question {
    pub operation: Operation,
    pub by: String,
    pub value: String,
    /// More than so many need not be counted.
    pub enough: u64,
}

impl Question {
    /// Whether the people are those who hold something, not those who have an attribute.
    #[must_use]
    pub fn is_about_access(&self) -> bool {
        self.operation.takes() && is_of_access(&self.by)
    }
}

#[must_use]
pub fn is_of_access(by: &str) -> bool {
    matches!(by, "system" | "role" | "entitlement" | "privileged")
}

/// How many people there are in slices before anything happens.
pub type Populations = BTreeMap<(Operation, String, String), u64>;

/// Whose people have to be counted: slices that may cross a limit. Nearly always none.
#[must_use]
pub fn questions(limits: &[LimitRule], source: &str, past: &[Slice], now: &Blast) -> Vec<Question> {
    let mut questions = BTreeMap::new();
    for limit in limits.iter().filter(|limit| limit.is_for(source)) {
        let fits = |slice: &&Slice| slice.operation == limit.operation && slice.by == limit.by;
        for slice in now.slices.iter().filter(fits) {
            let (_, count) = counted(past, slice);
            let over_count = limit.count_max.is_some_and(|max| count > max);
            let share = limit
                .share_max
                .filter(|share| could_cross(*share, limit, count));
            if !over_count && share.is_none() {
                continue;
            }
            let enough = share
                .map_or(0, |share| needed(count, share))
                .max(limit.population_min);
            let enough = enough.saturating_add(came(past, &slice.by, &slice.value));
            let place = (slice.operation, slice.by.clone(), slice.value.clone());
            let asked: &mut u64 = questions.entry(place).or_default();
            *asked = (*asked).max(enough).max(POPULATION_SHOWN);
        }
    }
    let question = |((operation, by, value), enough)| Question {
        operation,
        by,
        value,
        enough,
    };
    questions.into_iter().map(question).collect()
}

/// A population is told exactly up to this many, whatever the limit.
const POPULATION_SHOWN: u64 = 1_000;

/// How many people are enough to know that `count` of them keep the limit, or that many more came within the window.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts of people; what is too large becomes the largest"
)]
fn needed(count: u64, share: f64) -> u64 {
    if share <= 0.0 {
        return count;
    }
    ((count as f64 / share).ceil() as u64)
        .saturating_mul(2)
        .saturating_add(1)
}

/// How many people the window had in this slice before, and with it.
fn counted(past: &[Slice], slice: &Slice) -> (u64, u64) {
    let same = |other: &&Slice| {
        other.operation == slice.operation && other.by == slice.by && other.value == slice.value
    };
    let before: u64 = past.iter().filter(same).map(|other| other.count).sum();
    (before, before + slice.count)
}

/// A limit that would be crossed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{}", self.describe())]
pub struct Crossed {
    pub operation: Operation,
    pub by: String,
    pub value: String,
    /// Within the window, this change included.
    pub count: u64,
    /// Of them, what came before.
    pub before: u64,
    pub population: u64,
    pub count_max: Option<u64>,
    pub share_max: Option<f64>,
}

impl Crossed {
    fn describe(&self) -> String {
        let within = match self.by.as_str() {
            "all" => String::new(),
            "privileged" => " that is privileged".to_owned(),
            "system" => format!(" on `{}`", self.value),
            "entitlement" => format!(", `{}`", self.value),
            "role" => format!(" by role `{}`", self.value),
            by => format!(" with {by} `{}`", self.value),
        };
        let of = if self.population == 0 {
            String::new()
        } else {
            format!(" of {}", self.population)
        };
        let before = if self.before == 0 {
            String::new()
        } else {
            format!(
                ", {} of them by what came within the window before",
                self.before
            )
        };
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        let over = match (self.count_max, self.share_max) {
            (Some(count), None) => format!("the limit is {count}"),
            (None, Some(share)) => format!("the limit is {}", percent(share)),
            (Some(count), Some(share)) => format!("the limits are {count} and {}", percent(share)),
            (None, None) => "there is no limit".to_owned(),
        };
        format!(
            "{}{of} people {}{within}{before}; {over}",
            self.count,
            self.operation.verb(),
        )
    }
}

/// Holds what would change, with what the same source changed within the window, against the limits.
///
/// `populations` answers [`questions`]: how many people are in a slice now; what the window has taken from it, or brought, is put back, so that
/// a bad file cut into pieces is measured as a whole.
#[must_use]
pub fn judge(
    limits: &[LimitRule],
    source: &str,
    past: &[Slice],
    now: &Blast,
    populations: &Populations,
) -> Vec<Crossed> {
    let mut crossed = Vec::new();
    for limit in limits.iter().filter(|limit| limit.is_for(source)) {
        let fits = |slice: &&Slice| slice.operation == limit.operation && slice.by == limit.by;
        for slice in now.slices.iter().filter(fits) {
            let (before, count) = counted(past, slice);
            let over_count = limit.count_max.filter(|max| count > *max);
            let share = limit
                .share_max
                .filter(|share| could_cross(*share, limit, count));
            let mut people = 0;
            if over_count.is_some() || share.is_some() {
                let place = (slice.operation, slice.by.clone(), slice.value.clone());
                let present = populations.get(&place).copied().unwrap_or(0);
                people = if limit.operation.takes() {
                    present.saturating_add(before)
                } else {
                    present.saturating_sub(came(past, &limit.by, &slice.value))
                };
            }
            let over_share = share.filter(|max| {
                people > 0 && people >= limit.population_min && exceeds(count, people, *max)
            });
            if over_count.is_some() || over_share.is_some() {
                crossed.push(Crossed {
                    operation: limit.operation,
                    by: limit.by.clone(),
                    value: slice.value.clone(),
                    count,
                    before,
                    population: people,
                    count_max: over_count,
                    share_max: over_share,
                });
            }
        }
    }
    crossed
}

/// How many people of a slice came within the window.
fn came(past: &[Slice], by: &str, value: &str) -> u64 {
    let (by, value) = if is_of_access(by) {
        ("all", "")
    } else {
        (by, value)
    };
    past.iter()
        .filter(|slice| {
            slice.operation == Operation::IdentityCreate && slice.by == by && slice.value == value
        })
        .map(|slice| slice.count)
        .sum()
}

/// Whether the share can be crossed at all by so many: a population below its least is not compared.
#[expect(clippy::cast_precision_loss, reason = "counts of people")]
fn could_cross(share: f64, limit: &LimitRule, count: u64) -> bool {
    count as f64 > share * limit.population_min as f64
}

#[expect(clippy::cast_precision_loss, reason = "counts of people")]
fn exceeds(count: u64, people: u64, share: f64) -> bool {
    count as f64 / people as f64 > share
}

/// What has to be remembered of a change, so that the next one is measured with it: the slices that a limit names, and how
/// many people came.
#[must_use]
pub fn remembered(limits: &[LimitRule], source: &str, now: &Blast) -> Vec<Slice> {
    let ours = || limits.iter().filter(|limit| limit.is_for(source));
    let counts_newcomers =
        ours().any(|limit| !limit.operation.takes() && limit.share_max.is_some());
    let named = |slice: &&Slice| {
        counts_newcomers && slice.operation == Operation::IdentityCreate
            || ours().any(|limit| limit.operation == slice.operation && limit.by == slice.by)
    };
    let kept = now.slices.iter().filter(named);
    kept.map(|slice| Slice {
        people: Vec::new(),
        ..slice.clone()
    })
    .collect()
}

/// The attributes that slices go by.
#[must_use]
pub fn attributes_of(limits: &[LimitRule]) -> BTreeSet<String> {
    let by = limits.iter().map(|limit| limit.by.as_str());
    by.filter(|by| *by != "all" && !is_of_access(by))
        .map(str::to_owned)
        .collect()
}
