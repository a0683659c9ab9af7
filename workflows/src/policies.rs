//! Which policy decides. A changed policy goes through the guard as a feed does: what it would give and take is counted over
//! everybody, by the limits of the policy that is in force, and a person decides when it is too much. Until then the one in
//! force goes on deciding.
//!
//! The very first policy comes into force by itself: there is nothing to compare it with.

use std::collections::BTreeSet;
use std::sync::Arc;

use engine::core::Timestamp;
use engine::core::id::Actor;
use engine::store::StoreError;

use crate::config::Configuration;
use crate::directory::{
    Directory, IdentityFilter, IdentityStatus, PAGE_ROWS_MAX, PolicyRow, PolicyStatus, facts_of,
};
use crate::policy::guard::{
    Blast, GuardRules, POLICY, Pair, Populations, attribute_value, attributes_of, blast, judge,
    questions,
};
use crate::policy::{IdentityFacts, PolicySet, Problems, Schema, digest};

/// A policy with the text it was read from.
#[derive(Debug, Clone)]
pub struct Proposed {
    pub policy: Arc<PolicySet>,
    /// Name and text.
    pub files: Vec<(String, String)>,
}

impl Proposed {
    /// The policy of a folder.
    #[must_use]
    pub fn of(configuration: &Configuration) -> Self {
        Self {
            policy: Arc::clone(&configuration.policy),
            files: configuration.policy.files().to_vec(),
        }
    }
}

/// Versions of the policy in the directory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Policies {
    directory: Directory,
    schema: Arc<Schema>,
}

#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error("there is no policy `{0}` that waits; see `tenure policy list`")]
    NoSuchDifference(String),
    #[error(
        "what `{shown}` would do has changed since it was shown; look at `{now}` and approve that"
    )]
    Changed { shown: String, now: String },
    #[error("another policy came into force meanwhile; look again")]
    MovedOn,
    #[error(
        "the policy in force, {hash}, cannot be read with the systems and sources that are configured now, so nobody can tell \
         what would change; put back what it names:\n{problems}"
    )]
    Unreadable { hash: String, problems: Problems },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Policies {
    #[must_use]
    pub fn new(directory: Directory, schema: Schema) -> Self {
        Self {
            directory,
            schema: Arc::new(schema),
        }
    }

    /// The policy in force, read with the systems and sources of now; `None` before there was one.
    ///
    /// # Errors
    /// When it cannot be read, or the database does not answer.
    pub async fn in_force(&self) -> Result<Option<(PolicyRow, Arc<PolicySet>)>, PolicyError> {
        let Some(row) = self.directory.policy_in_force().await? else {
            return Ok(None);
        };
        let policy = self.read(&row)?;
        Ok(Some((row, policy)))
    }

    /// A policy that was in force once, read with the systems and sources of now; `None` when it is not kept any more.
    ///
    /// # Errors
    /// As [`Policies::in_force`].
    pub(crate) async fn version(&self, hash: &str) -> Result<Option<Arc<PolicySet>>, PolicyError> {
        let rows = self.directory.policies().await?;
        let found = rows.iter().find(|row| row.policy_hash == hash);
        found.map(|row| self.read(row)).transpose()
    }

    fn read(&self, row: &PolicyRow) -> Result<Arc<PolicySet>, PolicyError> {
        let policy = PolicySet::load(&row.files, &self.schema);
        policy
            .map(Arc::new)
            .map_err(|problems| PolicyError::Unreadable {
                hash: short(&row.policy_hash).to_owned(),
                problems,
            })
    }

    /// What it would mean to put a policy into force. Nothing is changed.
    ///
    /// # Errors
    /// As [`Policies::in_force`].
    pub async fn preview(
        &self,
        proposed: &Proposed,
        by: &Actor,
        now: Timestamp,
    ) -> Result<PolicyRow, PolicyError> {
        let hash = proposed.policy.hash();
        let row = |status, base_hash, blast: Blast, stopped_by: Option<Vec<String>>| PolicyRow {
            shard_id: self.directory.policy_shard(),
            policy_hash: hash.to_owned(),
            status,
            files: proposed.files.clone(),
            difference_id: difference_id(base_hash, hash, &blast),
            blast: blast.shown(),
            stopped_by,
            base_hash: base_hash.map(str::to_owned),
            seen_at: now,
            seen_by: by.0.clone(),
            decided_at: None,
            decided_by: None,
            decided_note: None,
        };
        let Some(current) = self.directory.policy_in_force().await? else {
            return Ok(row(PolicyStatus::InForce, None, Blast::default(), None));
        };
        if current.policy_hash == hash {
            return Ok(current);
        }
        let base = Some(current.policy_hash.as_str());
        let before = self.read(&current)?;
        let people = self.people().await?;
        let (blast, reasons) = weigh(&before, &proposed.policy, &people);
        let status = if reasons.is_empty() {
            PolicyStatus::InForce
        } else {
            PolicyStatus::Waiting
        };
        Ok(row(
            status,
            base,
            blast,
            (!reasons.is_empty()).then_some(reasons),
        ))
    }

    /// Puts a policy into force if the guard lets it pass, else lets it wait for a person. Gives the policy that decides.
    ///
    /// # Errors
    /// As [`Policies::in_force`].
    pub async fn propose(
        &self,
        proposed: &Proposed,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Arc<PolicySet>, PolicyError> {
        let current = self.directory.policy_in_force().await?;
        if current.is_some_and(|current| current.policy_hash == proposed.policy.hash()) {
            return Ok(Arc::clone(&proposed.policy));
        }
        let row = self.preview(proposed, by, now).await?;
        if row.status == PolicyStatus::InForce {
            if !self.directory.put_policy(&row).await? {
                return Err(PolicyError::MovedOn);
            }
            return Ok(Arc::clone(&proposed.policy));
        }
        let known = self.directory.policies().await?;
        let rejected = known.iter().any(|old| {
            old.difference_id == row.difference_id && old.status == PolicyStatus::Rejected
        });
        if !rejected && !self.directory.put_policy(&row).await? {
            return Err(PolicyError::MovedOn);
        }
        tracing::warn!(
            policy = short(&row.policy_hash),
            difference = row.difference_id,
            rejected,
            "the policy of the folder would change too much; the one in force goes on deciding"
        );
        match self.in_force().await? {
            Some((_, policy)) => Ok(policy),
            None => Err(PolicyError::MovedOn),
        }
    }

    /// Puts a policy into force that the guard stopped, or that was rejected, if it would do exactly what was shown.
    ///
    /// # Errors
    /// [`PolicyError::NoSuchDifference`], [`PolicyError::Changed`], [`PolicyError::MovedOn`].
    pub async fn approve(
        &self,
        difference: &str,
        by: &Actor,
        note: Option<&str>,
        now: Timestamp,
    ) -> Result<PolicyRow, PolicyError> {
        let shown = self.find(difference).await?;
        let proposed = Proposed {
            policy: self.read(&shown)?,
            files: shown.files.clone(),
        };
        let row = self
            .preview(&proposed, &Actor(shown.seen_by.clone()), now)
            .await?;
        if row.difference_id != shown.difference_id {
            self.directory.put_policy(&row).await?;
            return Err(PolicyError::Changed {
                shown: shown.difference_id,
                now: row.difference_id,
            });
        }
        let row = PolicyRow {
            status: PolicyStatus::InForce,
            seen_at: shown.seen_at,
            decided_at: Some(now),
            decided_by: Some(by.0.clone()),
            decided_note: note.map(str::to_owned),
            ..row
        };
        if self.directory.put_policy(&row).await? {
            Ok(row)
        } else {
            Err(PolicyError::MovedOn)
        }
    }

    /// Drops a policy that waits. The same policy is not asked about again.
    ///
    /// # Errors
    /// [`PolicyError::NoSuchDifference`]; [`PolicyError::MovedOn`] when another came into force.
    pub async fn reject(
        &self,
        difference: &str,
        by: &Actor,
        note: &str,
        now: Timestamp,
    ) -> Result<PolicyRow, PolicyError> {
        let row = PolicyRow {
            status: PolicyStatus::Rejected,
            decided_at: Some(now),
            decided_by: Some(by.0.clone()),
            decided_note: Some(note.to_owned()),
            ..self.find(difference).await?
        };
        if self.directory.put_policy(&row).await? {
            Ok(row)
        } else {
            Err(PolicyError::MovedOn)
        }
    }

    async fn find(&self, difference: &str) -> Result<PolicyRow, PolicyError> {
        let open = |row: &PolicyRow| {
            row.difference_id == difference
                && matches!(row.status, PolicyStatus::Waiting | PolicyStatus::Rejected)
        };
        let rows = self.directory.policies().await?;
        rows.into_iter()
            .find(open)
            .ok_or_else(|| PolicyError::NoSuchDifference(difference.to_owned()))
    }

    /// Everybody who has, or is about to have, a reason for access.
    async fn people(&self) -> Result<Vec<IdentityFacts>, StoreError> {
        let mut people = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self
                .directory
                .identities(&IdentityFilter::default(), after.as_deref(), PAGE_ROWS_MAX)
                .await?;
            let Some(last) = page.last() else {
                return Ok(people);
            };
            after = Some(last.identity_key.clone());
            let here = page.iter().filter(|identity| {
                matches!(
                    identity.status,
                    IdentityStatus::Active | IdentityStatus::Expected
                )
            });
            people.extend(here.map(|identity| IdentityFacts {
                active: true,
                ..facts_of(identity)
            }));
        }
    }
}

/// What a change of the policy would do to `people`, and why a person has to decide, by the limits of the one before.
#[must_use]
pub fn weigh(
    before: &PolicySet,
    after: &PolicySet,
    people: &[IdentityFacts],
) -> (Blast, Vec<String>) {
    let rules = before.guard();
    let attributes = attributes_of(&rules.limits);
    let pairs = people.iter().map(|facts| Pair {
        before: Some(facts.clone()),
        after: Some(facts.clone()),
    });
    // Measured by the policy in force: a new one does not loosen its own limits.
    let changed = blast(before, after, rules, &attributes, pairs);
    let asked = questions(&rules.limits, POLICY, &[], &changed);
    let populations = if asked.is_empty() {
        Populations::new()
    } else {
        populations(before, rules, &attributes, people, &asked)
    };
    let mut reasons: Vec<String> = judge(&rules.limits, POLICY, &[], &changed, &populations)
        .iter()
        .map(ToString::to_string)
        .collect();
    if !changed.protected.is_empty() {
        reasons.push(crate::intake::protected(&changed.protected));
    }
    if changed.unanswered > unanswered(before, people) {
        let why = changed.unanswered_why.clone().unwrap_or_default();
        reasons.push(format!(
            "for {} people a rule has no answer, so that nothing would be decided for them: {why}",
            changed.unanswered
        ));
    }
    (changed, reasons)
}

fn unanswered(policy: &PolicySet, people: &[IdentityFacts]) -> u64 {
    let without = people
        .iter()
        .filter(|facts| crate::policy::evaluate(policy, facts).is_err());
    without.count() as u64
}

/// How many people there are in each slice that is asked for, and how many hold what it names.
fn populations(
    before: &PolicySet,
    rules: &GuardRules,
    attributes: &BTreeSet<String>,
    people: &[IdentityFacts],
    asked: &[crate::policy::guard::Question],
) -> Populations {
    // As if everybody left: whoever loses something holds it.
    let all_gone = people.iter().map(|facts| Pair {
        before: Some(facts.clone()),
        after: None,
    });
    let held = blast(before, before, rules, attributes, all_gone);
    asked
        .iter()
        .map(|question| {
            let count = if question.is_about_access() {
                held.count(question.operation, &question.by, &question.value)
            } else if attributes.contains(&question.by) {
                let fits = |facts: &&IdentityFacts| {
                    attribute_value(Some(&facts.attributes), &question.by) == question.value
                };
                people.iter().filter(fits).count() as u64
            } else {
                people.len() as u64
            };
            let place = (
                question.operation,
                question.by.clone(),
                question.value.clone(),
            );
            (place, count)
        })
        .collect()
}

fn difference_id(base: Option<&str>, hash: &str, blast: &Blast) -> String {
    let of = serde_json::json!([POLICY, base, hash, blast.digest, blast.unanswered]);
    format!("dif_{}", digest(&of))
}

/// Enough of a hash to tell it.
#[must_use]
pub fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}
