//! How much a rollout would change, by the limits of the policy before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use engine::core::Timestamp;
use engine::core::id::Actor;
use serde_json::json;

use super::left_out::is_open;
use super::{RolloutError, Rollouts};
use crate::actions::difference;
use crate::directory::{AccountStatus, Holdings, RolloutRow, RolloutStatus, facts_of};
use crate::intake::{holders, protected};
use crate::policies::{PolicyError, short};
use crate::policy::guard::{
    Blast, Crossed, Effect, Gathering, GuardRules, Operation, POLICY, Pair, Populations, Question,
    Slice, attribute_value, attributes_of, is_of_access, judge, questions, remembered,
};
use crate::policy::{PolicySet, digest};

/// A difference between what people hold and what a policy wants.
pub(super) struct Measured {
    pub blast: Blast,
    /// Why a person has to decide.
    pub reasons: Vec<String>,
    /// How many people there are, when everybody was looked at.
    pub people: u64,
    /// What is done at once: without people of whom it is open who they are.
    pub counted: Vec<Slice>,
    /// Of those who were left out, the ones who need not wait any more.
    pub ready: Vec<(i32, String)>,
}

/// The policy before, whose guard measures; `None` when it cannot be read any more.
pub(super) struct Before(Option<Arc<PolicySet>>);

impl Before {
    /// Its rules; those of the policy in force when nobody can tell.
    pub fn rules<'a>(&'a self, policy: &'a PolicySet) -> &'a GuardRules {
        self.0.as_deref().unwrap_or(policy).guard()
    }
}

impl Rollouts {
    pub(super) async fn before(&self, row: &RolloutRow) -> Result<Before, RolloutError> {
        match self.policies.version(&row.base_hash).await {
            Err(PolicyError::Unreadable { .. }) => Ok(Before(None)),
            found => Ok(Before(found?)),
        }
    }

    /// Counts what would become of everybody. Whoever is in question is counted, too: they come when that is settled.
    pub(super) async fn measure(
        &self,
        row: &RolloutRow,
        policy: &PolicySet,
        now: Timestamp,
    ) -> Result<Measured, RolloutError> {
        let before = self.before(row).await?;
        let rules = before.rules(policy);
        let attributes = attributes_of(&rules.limits);
        let (mut all, mut open) = (Gathering::default(), Gathering::default());
        let mut crowd = Crowd::default();
        let mut everybody = self.directory.everybody();
        loop {
            let page = everybody.page().await?;
            if page.is_empty() {
                break;
            }
            for holdings in page {
                crowd.add(&holdings, &attributes);
                match difference(policy, &self.systems, &holdings, now) {
                    Ok(None) => {}
                    Ok(Some(effects)) => {
                        count(&mut all, rules, &attributes, &holdings, &effects);
                        if is_open(&holdings) {
                            count(&mut open, rules, &attributes, &holdings, &effects);
                        }
                    }
                    Err(no) => all.unanswered(|| no.why),
                }
            }
        }
        let (blast, open) = (all.finish(), open.finish());
        let mut counted = remembered(&rules.limits, POLICY, &blast);
        for slice in &mut counted {
            let waits = open.count(slice.operation, &slice.by, &slice.value);
            slice.count = slice.count.saturating_sub(waits);
        }
        counted.retain(|slice| slice.count > 0);
        let people = crowd.all;
        let reasons = self
            .reasons(row, &before, policy, &blast, Some(crowd))
            .await?;
        Ok(Measured {
            blast,
            reasons,
            people,
            counted,
            ready: Vec::new(),
        })
    }

    /// Why a person has to decide about `blast`, together with what the rollout did so far.
    pub(super) async fn reasons(
        &self,
        row: &RolloutRow,
        before: &Before,
        policy: &PolicySet,
        blast: &Blast,
        crowd: Option<Crowd>,
    ) -> Result<Vec<String>, RolloutError> {
        let rules = before.rules(policy);
        let past = if row.is_finished() {
            row.counted.as_deref().unwrap_or_default()
        } else {
            &[]
        };
        let asked = questions(&rules.limits, POLICY, past, blast);
        let access = if asked.iter().any(Question::is_about_access) {
            self.directory.access_counts().await?
        } else {
            Vec::new()
        };
        let crowd = match crowd {
            Some(crowd) => crowd,
            None if asked.iter().all(Question::is_about_access) => Crowd::default(),
            None => self.crowd(&attributes_of(&rules.limits)).await?,
        };
        let populations: Populations = asked
            .iter()
            .map(|question| {
                let count = if question.is_about_access() {
                    holders(&access, question, Some(rules))
                } else {
                    crowd.count(&question.by, &question.value)
                };
                let place = (
                    question.operation,
                    question.by.clone(),
                    question.value.clone(),
                );
                (place, count)
            })
            .collect();
        let shown = row.approved.as_ref();
        let mut reasons: Vec<String> = judge(&rules.limits, POLICY, past, blast, &populations)
            .iter()
            .filter(|crossed| !was_shown(shown, crossed))
            .map(ToString::to_string)
            .collect();
        let named = |key: &&String| shown.is_none_or(|shown| !shown.protected.contains(key));
        let losing: Vec<String> = blast.protected.iter().filter(named).cloned().collect();
        if !losing.is_empty() {
            reasons.push(protected(&losing));
        }
        if before.0.is_none() && !blast.is_empty() && shown.is_none() {
            reasons.push(format!(
                "the policy before, {}, cannot be read with the systems and sources of now, so nobody can tell its limits",
                short(&row.base_hash)
            ));
        }
        Ok(reasons)
    }

    /// Everybody at work.
    async fn crowd(&self, attributes: &BTreeSet<String>) -> Result<Crowd, RolloutError> {
        let mut crowd = Crowd::default();
        let mut everybody = self.directory.everybody();
        loop {
            let page = everybody.page().await?;
            if page.is_empty() {
                return Ok(crowd);
            }
            for holdings in &page {
                crowd.add(holdings, attributes);
            }
        }
    }
}

impl RolloutRow {
    /// Whether everybody was looked at, so that only those are left who were left out.
    pub(super) fn is_finished(&self) -> bool {
        self.finished_at.is_some()
    }

    /// Goes on with what was measured, or waits for a person.
    pub(super) fn measured(mut self, measured: Measured) -> Self {
        let name = json!([self.rollout_id, measured.blast.digest]);
        self.difference_id = Some(format!("dif_{}", digest(&name)));
        let goes_on = if self.is_finished() {
            self.left_out_looked_at = None;
            RolloutStatus::Done
        } else {
            self.people = measured.people;
            let before = self.counted.take().unwrap_or_default();
            self.counted = Some(united(before, measured.counted, u64::max));
            RolloutStatus::Running
        };
        self.status = if measured.reasons.is_empty() {
            goes_on
        } else {
            RolloutStatus::Waiting
        };
        self.stopped_by = (!measured.reasons.is_empty()).then_some(measured.reasons);
        self.blast = Some(measured.blast.shown());
        self
    }

    /// Goes on because a person saw what was measured.
    pub(super) fn approved(mut self, measured: &Measured, by: &Actor) -> Self {
        // Whole, and not only what is shown of it: who is protected has to be named in it.
        let mut shown = Blast {
            protected: measured.blast.protected.clone(),
            ..measured.blast.shown()
        };
        self.approved_by = Some(by.0.clone());
        self.status = RolloutStatus::Running;
        if self.is_finished() {
            // They come beside what was done, and what was approved before stands.
            let counted = self.counted.clone().unwrap_or_default();
            let counted = counted.into_iter().filter(|slice| {
                let here = shown.count(slice.operation, &slice.by, &slice.value);
                here > 0
            });
            let counted: Vec<Slice> = counted.collect();
            shown.slices = united(shown.slices, counted, |a, b| a + b);
            let before = self.approved.take().unwrap_or_default();
            shown.slices = united(shown.slices, before.slices, u64::max);
            let mut named: BTreeSet<String> = before.protected.into_iter().collect();
            named.append(&mut shown.protected.into_iter().collect());
            shown.protected = named.into_iter().collect();
            self.stopped_by = None;
            self.left_out_looked_at = None;
            self.status = RolloutStatus::Done;
        }
        self.approved = Some(shown);
        self
    }
}

/// The slices of both, with what `join` makes of the counts of the same.
pub(super) fn united(
    mut slices: Vec<Slice>,
    others: Vec<Slice>,
    join: impl Fn(u64, u64) -> u64,
) -> Vec<Slice> {
    for other in others {
        let place = (other.operation, &other.by, &other.value);
        let same = slices
            .iter_mut()
            .find(|slice| (slice.operation, &slice.by, &slice.value) == place);
        match same {
            Some(slice) => slice.count = join(slice.count, other.count),
            None => slices.push(other),
        }
    }
    slices
}

/// Counts what would become of somebody.
pub(super) fn count(
    gathering: &mut Gathering,
    rules: &GuardRules,
    attributes: &BTreeSet<String>,
    holdings: &Holdings,
    effects: &[Effect],
) {
    let pair = Pair {
        before: Some(facts_of(&holdings.identity)),
        after: None,
    };
    let protected = is_protected(rules, holdings, effects);
    gathering.count(rules, attributes, &pair, effects, protected);
}

/// Whether a person who approves is shown at least as much.
fn was_shown(shown: Option<&Blast>, crossed: &Crossed) -> bool {
    shown.is_some_and(|shown| {
        shown.count(crossed.operation, &crossed.by, &crossed.value) >= crossed.count
    })
}

/// Whether somebody loses something who is protected, or on an account that is.
fn is_protected(rules: &GuardRules, holdings: &Holdings, effects: &[Effect]) -> bool {
    let taken: BTreeSet<&str> = effects
        .iter()
        .filter(|effect| {
            matches!(
                effect.operation,
                Operation::AccountClose | Operation::GrantTake
            )
        })
        .filter_map(|effect| effect.system.as_deref())
        .collect();
    if taken.is_empty() {
        return false;
    }
    let mut accounts = holdings.accounts.iter();
    rules.protects(&facts_of(&holdings.identity))
        || accounts.any(|account| {
            account.status != AccountStatus::Deleted
                && taken.contains(account.system.as_str())
                && rules.protects_account(&account.system, &account.name)
        })
}

/// How many people there are, with which attributes.
#[derive(Default)]
pub(super) struct Crowd {
    all: u64,
    with: BTreeMap<(String, String), u64>,
}

impl Crowd {
    fn add(&mut self, holdings: &Holdings, attributes: &BTreeSet<String>) {
        self.all += 1;
        for attribute in attributes {
            let value = attribute_value(Some(&holdings.identity.attributes), attribute);
            *self.with.entry((attribute.clone(), value)).or_default() += 1;
        }
    }

    fn count(&self, by: &str, value: &str) -> u64 {
        if by == "all" || is_of_access(by) {
            return self.all;
        }
        let place = (by.to_owned(), value.to_owned());
        self.with.get(&place).copied().unwrap_or(0)
    }
}
