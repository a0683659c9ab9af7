//! The guard's part of taking things in: what would become of people, accounts and rights, held against the limits together
//! with what the same source did within the window.
//!
//! Files are measured by the moment they speak of, so that a year of monthly files can be read in an hour; what is pushed or
//! said is measured by when it comes. A change is measured and remembered under the lock of its source, so two halves of one
//! mistake cannot pass side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use chrono::{NaiveDate, TimeDelta};
use engine::core::Timestamp;
use engine::store::{StoreError, Transaction};

use super::{Intake, IntakeError};
use crate::directory::guard::{self as rows, AccessCount, Doubt, TallyRow};
use crate::directory::resources;
use crate::policy::guard::{
    Blast, GuardRules, LimitRule, Operation, Pair, Populations, Question, Slice, attribute_value,
    attributes_of, blast, judge, questions, remembered,
};
use crate::policy::{IdentityFacts, PolicySet};
use crate::sources::{ChangeKind, Difference, GuardConfig, Key, Record, Records, Source};
use crate::timeline::Precedence;

/// The policy in force, which may change while a node runs. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct PolicyCell {
    policy: Arc<RwLock<Option<Arc<PolicySet>>>>,
}

impl PolicyCell {
    #[must_use]
    pub fn new(policy: Arc<PolicySet>) -> Self {
        let cell = Self::default();
        cell.set(policy);
        cell
    }

    pub fn set(&self, policy: Arc<PolicySet>) {
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = Some(policy);
    }

    #[must_use]
    pub fn get(&self) -> Option<Arc<PolicySet>> {
        self.policy
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// What the guard holds against the limits, of one source.
pub(super) struct Measured {
    pub blast: Blast,
    pub policy: String,
    limits: Vec<LimitRule>,
    window: TimeDelta,
}

/// What was found, and what the next change of the source has to be measured with.
#[derive(Debug, Clone)]
pub(super) struct Judged {
    /// Why a person has to decide; empty when nobody has to.
    pub reasons: Vec<String>,
    /// What was there when it was judged, by identifier.
    pub seen: Vec<String>,
    pub remember: Vec<Slice>,
    pub at: Timestamp,
    pub window: TimeDelta,
}

/// What policy sees of a record.
fn facts(record: &Record) -> IdentityFacts {
    IdentityFacts {
        key: record.key.as_str().to_owned(),
        attributes: record.attributes.clone(),
        active: true,
        on_leave: record.on_leave(),
    }
}

/// The people a difference is about, before and after. Somebody whose end is announced counts as gone.
pub(super) fn pairs(difference: &Difference, previous: &Records, next: &Records) -> Vec<Pair> {
    let mut gone: BTreeMap<&Key, bool> = BTreeMap::new();
    for change in &difference.changes {
        *gone.entry(&change.event.subject).or_default() |= change.kind == ChangeKind::Remove;
    }
    gone.into_iter()
        .map(|(key, gone)| {
            pair(
                previous.get(key),
                next.get(key).filter(|_| !gone),
                difference.as_of,
            )
        })
        .collect()
}

/// One person, before and after.
pub(super) fn pair(before: Option<&Record>, after: Option<&Record>, day: NaiveDate) -> Pair {
    let there = |record: Option<&Record>| record.filter(|record| !record.has_ended(day)).map(facts);
    Pair {
        before: there(before),
        after: there(after),
    }
}

impl Intake {
    /// Measures what would become of these people. `None` before a policy is known.
    pub(super) fn measure(
        &self,
        own: Vec<LimitRule>,
        pairs: impl IntoIterator<Item = Pair>,
    ) -> Option<Measured> {
        let policy = self.policy.get()?;
        let rules = policy.guard();
        let mut limits = own;
        limits.extend(rules.limits.iter().cloned());
        let attributes = attributes_of(&limits);
        Some(Measured {
            blast: blast(&policy, &policy, rules, &attributes, pairs),
            policy: policy.hash().to_owned(),
            limits,
            window: rules.window,
        })
    }

    /// Which source is believed about what, by the policy in force.
    pub(super) fn precedence(&self) -> Precedence {
        let policy = self.policy.get();
        policy
            .map(|policy| policy.precedence().clone())
            .unwrap_or_default()
    }

    /// The limits of a source; of one that is not configured, what holds when nobody says.
    pub(super) fn limits_of(&self, source: &str) -> Vec<LimitRule> {
        let configured = self.limits.get(source).cloned();
        configured.unwrap_or_else(|| GuardConfig::default().limit_rules())
    }

    /// Whether what is given, or who comes, is limited at all for a source: else nobody needs to look at it.
    pub(super) fn watches_gifts(&self, source: &str) -> bool {
        let Some(policy) = self.policy.get() else {
            return false;
        };
        let rules = policy.guard();
        // The built-in limit of privileged rights means nothing to a policy that gives none.
        let privileged = policy.gives_privileged();
        let limited = |limit: &LimitRule| {
            limit.is_for(source)
                && (limit.by != "privileged" || privileged)
                && !limit.operation.takes()
        };
        let own = self.limits_of(source);
        rules.limits.iter().chain(&own).any(limited)
    }

    /// As [`Intake::measure`], with those among the protected who hold an account that is protected by its name.
    pub(super) async fn measure_all(
        &self,
        own: Vec<LimitRule>,
        pairs: impl IntoIterator<Item = Pair>,
    ) -> Result<Option<Measured>, StoreError> {
        let Some(mut measured) = self.measure(own, pairs) else {
            return Ok(None);
        };
        let policy = self.policy.get();
        let rules = policy.as_ref().map(|policy| policy.guard());
        let Some(rules) = rules.filter(|rules| rules.protects_accounts()) else {
            return Ok(Some(measured));
        };
        let blast = &mut measured.blast;
        if blast.losers.is_empty() {
            return Ok(Some(measured));
        }
        let accounts = self.directory.account_names().await?;
        let held = accounts.into_iter().filter(|account| {
            blast.losers.contains(&account.identity_key)
                && rules.protects_account(&account.system, &account.name)
        });
        let mut protected: BTreeSet<String> = held.map(|account| account.identity_key).collect();
        protected.extend(blast.protected.drain(..));
        blast.protected = protected.into_iter().collect();
        Ok(Some(measured))
    }

    /// Judges a file. `previous` are the people before it.
    pub(super) async fn judge_file(
        &self,
        source: &Source,
        measured: &Measured,
        previous: &Records,
        day: NaiveDate,
        at: Timestamp,
    ) -> Result<Judged, IntakeError> {
        let window = measured.window;
        let past = self
            .directory
            .tallies(source.name(), at - window, at + window)
            .await?;
        let mut judged = Judged {
            seen: past.iter().map(|row| row.tally_id.clone()).collect(),
            remember: remembered(&measured.limits, source.name(), &measured.blast),
            at,
            window,
            reasons: Vec::new(),
        };
        // The very first file of all: whoever is in it was there before we looked.
        if previous.is_empty() && past.is_empty() {
            judged.remember.clear();
            return Ok(judged);
        }
        let past: Vec<Slice> = past.into_iter().flat_map(|row| row.slices).collect();
        let asked = questions(&measured.limits, source.name(), &past, &measured.blast);
        let people = |question: &Question| Some(people_of(previous, day, question));
        let populations = self.populations(source.name(), &asked, people).await?;
        judged.reasons = reasons(source.name(), measured, &past, &populations, true);
        Ok(judged)
    }

    /// Judges what is pushed or said, under the lock of its source's guard; remembers it when nobody has to be asked. Gives
    /// why somebody has to.
    pub(super) async fn judge_now(
        &self,
        transaction: &mut Transaction<'_>,
        source: &str,
        measured: &Measured,
        id: &str,
        now: Timestamp,
    ) -> Result<Vec<String>, StoreError> {
        let remember = remembered(&measured.limits, source, &measured.blast);
        if remember.is_empty() && measured.blast.protected.is_empty() {
            return Ok(Vec::new());
        }
        let shard_id = self.directory.shard(source);
        resources::lock_guard(transaction, shard_id, source, now).await?;
        let (from, to) = (now - measured.window, now + measured.window);
        let past = rows::tallies_in(transaction, shard_id, source, from, to).await?;
        let past: Vec<Slice> = past.into_iter().flat_map(|row| row.slices).collect();
        let asked = questions(&measured.limits, source, &past, &measured.blast);
        let populations = self.populations(source, &asked, |_| None).await?;
        let reasons = reasons(source, measured, &past, &populations, false);
        if reasons.is_empty() {
            let row = TallyRow {
                shard_id,
                source: source.to_owned(),
                tally_id: id.to_owned(),
                at: now,
                slices: remember,
            };
            rows::put_tally(transaction, &row, from).await?;
        }
        Ok(reasons)
    }

    /// Answers questions: from `people` where that knows, else from the directory.
    async fn populations(
        &self,
        source: &str,
        asked: &[Question],
        people: impl Fn(&Question) -> Option<u64>,
    ) -> Result<Populations, StoreError> {
        let mut populations = Populations::new();
        let mut access: Option<Vec<AccessCount>> = None;
        let policy = self.policy.get();
        let rules = policy.as_ref().map(|policy| policy.guard());
        for question in asked {
            let count = if question.is_about_access() {
                let access = match &mut access {
                    Some(access) => access,
                    None => access.insert(self.directory.access_counts().await?),
                };
                holders(access, question, rules)
            } else if let Some(known) = people(question) {
                known
            } else {
                let of_all =
                    question.by == "all" || crate::policy::guard::is_of_access(&question.by);
                let slice = (!of_all).then_some((question.by.as_str(), question.value.as_str()));
                self.directory
                    .people_count(source, slice, question.enough)
                    .await?
            };
            let place = (
                question.operation,
                question.by.clone(),
                question.value.clone(),
            );
            populations.insert(place, count);
        }
        Ok(populations)
    }

    /// Notes that a source is not believed, or is again.
    pub(super) async fn doubt(
        &self,
        source: &str,
        at: Timestamp,
        reason: Option<&str>,
    ) -> Result<(), StoreError> {
        let work = Doubt {
            shard_id: self.directory.shard(source),
            source,
            at,
            reason,
        };
        self.directory.write(&work).await
    }

    /// Notes that what a source delivered was refused, beside telling whoever delivered it.
    pub async fn refused(&self, source: &str, at: Timestamp, reason: &str) {
        // Without the reason, which may name a person: `tenure source show` tells it.
        tracing::warn!(source, "a source is not believed");
        if let Err(error) = self.doubt(source, at, Some(reason)).await {
            tracing::warn!(source, %error, "that a source is not believed could not be noted");
        }
    }
}

/// How many people hold what a slice names, as the directory knows.
pub(crate) fn holders(
    access: &[AccessCount],
    question: &Question,
    rules: Option<&GuardRules>,
) -> u64 {
    let value = question.value.as_str();
    let of_accounts = question.operation == Operation::AccountClose;
    let fitting = |count: &&AccessCount| count.entitlement.is_none() == of_accounts;
    let counts = access.iter().filter(fitting);
    match question.by.as_str() {
        // People with several rights on a system are counted by their largest one.
        "system" => {
            let mut rights: BTreeMap<&str, u64> = BTreeMap::new();
            for count in counts.filter(|count| count.system == value) {
                let right = count.entitlement.as_deref().unwrap_or_default();
                *rights.entry(right).or_default() += count.count;
            }
            rights.into_values().max().unwrap_or(0)
        }
        "entitlement" => counts
            .filter(|count| {
                let right = count.entitlement.as_deref().unwrap_or_default();
                format!("{}/{right}", count.system) == value
            })
            .map(|count| count.count)
            .sum(),
        "privileged" => counts
            .filter(|count| {
                let right = count.entitlement.as_deref().unwrap_or_default();
                rules.is_some_and(|rules| rules.is_privileged(&count.system, right))
            })
            .map(|count| count.count)
            .sum(),
        _ => {
            let mut rights: BTreeMap<(&str, Option<&str>), u64> = BTreeMap::new();
            let rights_of_all = access
                .iter()
                .filter(|count| count.roles.iter().any(|reason| reason.role == value));
            for count in rights_of_all {
                let right = (count.system.as_str(), count.entitlement.as_deref());
                *rights.entry(right).or_default() += count.count;
            }
            rights.into_values().max().unwrap_or(0)
        }
    }
}

/// Why somebody has to decide. Of a file, what lies in it alone is told by its own limits already.
fn reasons(
    source: &str,
    measured: &Measured,
    past: &[Slice],
    populations: &Populations,
    is_file: bool,
) -> Vec<String> {
    let people = |operation| {
        matches!(
            operation,
            Operation::IdentityCreate | Operation::IdentityChange | Operation::IdentityRemove
        )
    };
    let crossed = judge(&measured.limits, source, past, &measured.blast, populations);
    let told = crossed
        .iter()
        .filter(|crossed| !(is_file && people(crossed.operation) && crossed.before == 0));
    let mut reasons: Vec<String> = Vec::new();
    for reason in told.map(ToString::to_string) {
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
    if !measured.blast.protected.is_empty() {
        reasons.push(protected(&measured.blast.protected));
    }
    reasons
}

/// That people are protected.
#[must_use]
pub fn protected(keys: &[String]) -> String {
    let named: Vec<String> = keys.iter().take(10).map(|key| format!("`{key}`")).collect();
    let more = keys.len().saturating_sub(named.len());
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    format!(
        "{}{more} would lose access and {} protected by the policy; only a person who approves exactly this may do it",
        named.join(", "),
        if keys.len() == 1 { "is" } else { "are" },
    )
}

/// How many of `previous` are in the slice of a question.
fn people_of(previous: &Records, day: NaiveDate, question: &Question) -> u64 {
    let all = question.by == "all" || crate::policy::guard::is_of_access(&question.by);
    let fits = |record: &&Record| {
        let value = || attribute_value(Some(&record.attributes), &question.by);
        !record.has_ended(day) && (all || value() == question.value)
    };
    previous.values().filter(fits).count() as u64
}

/// What a transaction remembers of a file that passed. False when the source did something else meanwhile.
pub(super) async fn remember(
    transaction: &mut Transaction<'_>,
    shard_id: i32,
    source: &str,
    id: &str,
    judged: &Judged,
    now: Timestamp,
) -> Result<bool, StoreError> {
    if judged.remember.is_empty() {
        return Ok(true);
    }
    resources::lock_guard(transaction, shard_id, source, now).await?;
    let (from, to) = (judged.at - judged.window, judged.at + judged.window);
    let seen = rows::tallies_in(transaction, shard_id, source, from, to).await?;
    let seen: BTreeSet<&str> = seen.iter().map(|row| row.tally_id.as_str()).collect();
    if seen != judged.seen.iter().map(String::as_str).collect() {
        return Ok(false);
    }
    let row = TallyRow {
        shard_id,
        source: source.to_owned(),
        tally_id: id.to_owned(),
        at: judged.at,
        slices: judged.remember.clone(),
    };
    rows::put_tally(transaction, &row, from).await?;
    Ok(true)
}
