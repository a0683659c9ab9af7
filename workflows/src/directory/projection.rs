//! From finished steps to the directory, in the transaction that records them.
//!
//! What a step did is read from its output, which the [actions](crate::actions) write in one common form
//! ([`Effect`]). A batch of outcomes is folded in memory first, so that it takes one statement a table however
//! many cases it holds.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use engine::core::case::{CaseState, Verification};
use engine::core::id::CaseId;
use engine::store::{Outcome, OutcomeKind, Projection, StepEnding, StoreError, Transaction};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::asked::{DROP_ASKED, PUT_ASKED};
use super::credentials::{CredentialRow, PUT_CREDENTIALS};
use super::database::{execute_all, stored_time, stored_time_option};
use super::rotation_moves::{Moved, SUBJECT as ROTATED};
use super::rows::{AccountStatus, GrantReason, GrantStatus};
use super::statements::{
    ACTIVATE, CLOSE_GRANTS, DEPART, ENDS, EXCEPT, LEAVE, PUT_ACCOUNTS, PUT_GRANTS, PUT_LAGS,
    REASONS,
};
use crate::actions::name;
use crate::policy::HeldBy;

/// What a step says it did, in its output (or, when it never gave one, in what it was asked).
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Effect {
    system: Option<String>,
    account: Option<String>,
    name: Option<String>,
    enabled: Option<bool>,
    entitlement: Option<String>,
    reasons: Vec<GrantReason>,
    policy: Option<String>,
    /// Why somebody keeps a right that was asked about, where that changes.
    held_by: Option<HeldBy>,
    /// When such a right goes.
    ends: Option<DateTime<Utc>>,
    attributes_digest: Option<String>,
    /// From when on it was to be so, where that is another moment than that of the case.
    due: Option<DateTime<Utc>>,
    /// Nothing was there to do, or the system cannot do it.
    skipped: bool,
    /// What `credentials.revoke` ended.
    credentials: Vec<Ended>,
}

/// A credential that was ended.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Ended {
    id: String,
    kind: String,
    #[serde(default)]
    expires_at: Option<DateTime<Utc>>,
}

impl Effect {
    /// `item` overlaid by `with`, overlaid by `output`.
    fn of(item: &Value, with: &Value, output: &Value) -> Self {
        let mut merged = serde_json::Map::new();
        for part in [item, with, output] {
            if let Value::Object(fields) = part {
                merged.extend(
                    fields
                        .iter()
                        .filter(|(_, value)| !value.is_null())
                        .map(|(name, value)| (name.clone(), value.clone())),
                );
            }
        }
        // Read field by field: a person may put anything into the output of a task.
        let text = |name: &str| merged.get(name).and_then(Value::as_str).map(str::to_owned);
        let truth = |name: &str| merged.get(name).and_then(Value::as_bool);
        Self {
            system: text("system"),
            account: text("account"),
            name: text("name"),
            enabled: truth("enabled"),
            entitlement: text("entitlement"),
            reasons: merged
                .get("reasons")
                .and_then(|reasons| serde_json::from_value(reasons.clone()).ok())
                .unwrap_or_default(),
            policy: text("policy"),
            held_by: merged
                .get("held_by")
                .and_then(|by| serde_json::from_value(by.clone()).ok()),
            // Only the step itself knows whether there was anything to end.
            ends: output
                .get("ends")
                .and_then(Value::as_str)
                .and_then(|ends| ends.parse().ok()),
            attributes_digest: text("attributes_digest"),
            due: text("due").and_then(|due| due.parse().ok()),
            skipped: truth("skipped").unwrap_or(false),
            credentials: merged
                .get("credentials")
                .and_then(|ended| serde_json::from_value(ended.clone()).ok())
                .unwrap_or_default(),
        }
    }
}

/// Whether access was given or taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LagKind {
    Grant,
    Removal,
}

#[derive(Debug, Serialize)]
struct AccountChange {
    shard_id: i32,
    identity_key: String,
    system: String,
    native_id: Option<String>,
    name: Option<String>,
    /// `planned` leaves the status of a row that exists as it is.
    status: AccountStatus,
    attributes_digest: Option<String>,
    #[serde(with = "stored_time_option")]
    created_at: Option<DateTime<Utc>>,
    #[serde(with = "stored_time_option")]
    disabled_at: Option<DateTime<Utc>>,
    #[serde(with = "stored_time")]
    changed_at: DateTime<Utc>,
    #[serde(with = "stored_time_option")]
    verified_at: Option<DateTime<Utc>>,
    unverified: Option<String>,
    case_id: String,
}

impl AccountChange {
    /// `later` on top of this one.
    fn then(&mut self, later: Self) {
        let status = match later.status {
            AccountStatus::Planned => self.status,
            other => other,
        };
        *self = Self {
            status,
            native_id: later.native_id.or_else(|| self.native_id.take()),
            name: later.name.or_else(|| self.name.take()),
            attributes_digest: later
                .attributes_digest
                .or_else(|| self.attributes_digest.take()),
            created_at: later.created_at.or(self.created_at),
            disabled_at: later.disabled_at.or(self.disabled_at),
            ..later
        };
    }
}

/// A right of somebody on a system.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Right {
    shard_id: i32,
    identity_key: String,
    system: String,
    entitlement: String,
}

impl Right {
    fn of(outcome: &Outcome, system: &str, entitlement: &str) -> Self {
        Self {
            shard_id: outcome.shard.0,
            identity_key: outcome.subject.0.clone(),
            system: system.to_owned(),
            entitlement: entitlement.to_owned(),
        }
    }
}

#[derive(Debug, Serialize)]
struct GrantChange {
    #[serde(flatten)]
    right: Right,
    status: GrantStatus,
    held_by: &'static str,
    reasons: Vec<GrantReason>,
    policy_hash: Option<String>,
    #[serde(with = "stored_time_option")]
    since: Option<DateTime<Utc>>,
    #[serde(with = "stored_time_option")]
    until: Option<DateTime<Utc>>,
    #[serde(with = "stored_time_option")]
    verified_at: Option<DateTime<Utc>>,
    unverified: Option<String>,
    case_id: String,
}

#[derive(Debug, Serialize)]
struct LagChange {
    shard_id: i32,
    case_id: String,
    system: String,
    kind: LagKind,
    identity_key: String,
    workflow: String,
    #[serde(with = "stored_time")]
    effective_at: DateTime<Utc>,
    #[serde(with = "stored_time")]
    received_at: DateTime<Utc>,
    #[serde(with = "stored_time")]
    finished_at: DateTime<Utc>,
    step_count: u32,
    unverified_count: u32,
}

/// A change of where a person stands.
#[derive(Debug, Serialize)]
struct StatusChange {
    shard_id: i32,
    identity_key: String,
    generation: u32,
    case_id: String,
    #[serde(with = "stored_time")]
    at: DateTime<Utc>,
}

#[derive(Debug, Serialize)]
struct ReasonsChange {
    #[serde(flatten)]
    right: Right,
    reasons: Value,
    policy_hash: Option<String>,
}

/// Until when a right is kept.
#[derive(Debug, Serialize)]
struct EndChange {
    #[serde(flatten)]
    right: Right,
    #[serde(with = "stored_time_option")]
    until: Option<DateTime<Utc>>,
}

/// A right that somebody confirmed: why it is held from now on, and until when. What is not said stays as it is.
#[derive(Debug, Serialize)]
struct Excepted {
    #[serde(flatten)]
    right: Right,
    held_by: Option<HeldBy>,
    #[serde(with = "stored_time_option")]
    exception_until: Option<DateTime<Utc>>,
}

#[derive(Debug, Serialize)]
struct AccountGone {
    shard_id: i32,
    identity_key: String,
    system: String,
    #[serde(with = "stored_time")]
    at: DateTime<Utc>,
}

/// A case by its shard.
#[derive(Debug, Serialize)]
struct CaseKey {
    shard_id: i32,
    case_id: String,
}

impl CaseKey {
    fn all(cases: &BTreeSet<(i32, CaseId)>) -> Vec<Self> {
        let key = |&(shard_id, case): &(i32, CaseId)| Self {
            shard_id,
            case_id: case.to_string(),
        };
        cases.iter().map(key).collect()
    }
}

/// Keeps the directory in step with the cases.
#[derive(Debug, Clone, Copy, Default)]
pub struct DirectoryProjection;

#[async_trait]
impl Projection for DirectoryProjection {
    fn wants(&self, kind: &OutcomeKind) -> bool {
        match kind {
            OutcomeKind::Step { uses, .. } => uses != name::NOOP && uses != name::NOTIFY,
            OutcomeKind::Closed { .. } => true,
            OutcomeKind::Parked { uses, .. } => uses.starts_with(name::ROTATION),
            OutcomeKind::Asked { .. } => true,
            OutcomeKind::Overdue { .. } | OutcomeKind::DeadlinePassed { .. } => false,
        }
    }

    async fn project(
        &self,
        transaction: &mut Transaction<'_>,
        outcomes: &[Outcome],
    ) -> Result<(), StoreError> {
        let mut changes = Changes::default();
        for outcome in outcomes {
            changes.add(outcome);
        }
        changes.write(transaction).await
    }
}

/// What a batch of outcomes changes, at most one entry a row.
#[derive(Debug, Default)]
struct Changes {
    accounts: BTreeMap<(i32, String, String), AccountChange>,
    grants: BTreeMap<Right, GrantChange>,
    gone: Vec<AccountGone>,
    credentials: BTreeMap<(i32, String, String, String), CredentialRow>,
    lags: BTreeMap<(i32, String, String, LagKind), LagChange>,
    reasons: BTreeMap<Right, ReasonsChange>,
    ends: BTreeMap<Right, EndChange>,
    excepted: BTreeMap<Right, Excepted>,
    activated: Vec<StatusChange>,
    leaving: Vec<StatusChange>,
    departed: Vec<StatusChange>,
    rotations: BTreeMap<(i32, String), Moved>,
    /// Cases by shard: that put a question, and that are over.
    asked: BTreeSet<(i32, CaseId)>,
    closed: BTreeSet<(i32, CaseId)>,
}

impl Changes {
    fn add(&mut self, outcome: &Outcome) {
        match &outcome.kind {
            OutcomeKind::Asked { .. } => {
                self.asked.insert((outcome.shard.0, outcome.case));
            }
            OutcomeKind::Closed { .. } => {
                self.closed.insert((outcome.shard.0, outcome.case));
            }
            _ => {}
        }
        if outcome.subject.0.starts_with(ROTATED) {
            let moved = Moved::of(outcome);
            return moved.into_iter().for_each(|moved| self.rotation(moved));
        }
        let status = || StatusChange {
            shard_id: outcome.shard.0,
            identity_key: outcome.subject.0.clone(),
            generation: outcome.generation,
            case_id: outcome.case.to_string(),
            at: outcome.at,
        };
        match &outcome.kind {
            // Whether the case of a leaver left something behind is shown by the accounts; the person has left.
            OutcomeKind::Closed { state } => match state {
                CaseState::Succeeded | CaseState::Unverified | CaseState::Incomplete => {
                    self.departed.push(status());
                }
                _ => {}
            },
            OutcomeKind::Step {
                uses,
                ending,
                item,
                with,
                output,
                verification,
                ..
            } => {
                let effect = Effect::of(item, with, output);
                match (uses.as_str(), ending) {
                    (name::IDENTITY_ACTIVATE, StepEnding::Done) => self.activated.push(status()),
                    (name::IDENTITY_LEAVE, StepEnding::Done) => self.leaving.push(status()),
                    (name::ACCESS_PLAN, StepEnding::Done) => self.plan(outcome, output),
                    (name::GRANT_KEEP, StepEnding::Done) => {
                        if let (Some(system), Some(right)) = (&effect.system, &effect.entitlement) {
                            self.end(outcome, system, right, None);
                            self.except(outcome, system, right, &effect);
                        }
                    }
                    _ if effect.skipped => {}
                    (uses, ending) => {
                        self.access(outcome, uses, *ending, &effect, verification.as_ref());
                    }
                }
            }
            OutcomeKind::Asked { .. }
            | OutcomeKind::Overdue { .. }
            | OutcomeKind::Parked { .. }
            | OutcomeKind::DeadlinePassed { .. } => {}
        }
    }

    fn rotation(&mut self, moved: Moved) {
        match self.rotations.get_mut(&moved.key()) {
            Some(earlier) => earlier.then(moved),
            None => {
                self.rotations.insert(moved.key(), moved);
            }
        }
    }

    fn access(
        &mut self,
        outcome: &Outcome,
        uses: &str,
        ending: StepEnding,
        effect: &Effect,
        verification: Option<&Verification>,
    ) {
        use AccountStatus::{Active, Deleted, Disabled, Planned, Uncertain};
        use StepEnding::{Done, Undone, Unknown};
        let created = if effect.enabled == Some(false) {
            Disabled
        } else {
            Active
        };
        let account = match (uses, ending) {
            (name::ACCOUNT_CREATE, Done) => Some(created),
            // Taking an account back ends its use and keeps it: nothing of it may be lost by a mistake.
            (name::ACCOUNT_CREATE | name::ACCOUNT_ENABLE, Undone) => Some(Disabled),
            (name::ACCOUNT_ENABLE, Done) => Some(Active),
            (name::ACCOUNT_UPDATE, Done) => Some(Planned),
            (name::ACCOUNT_DISABLE, Done) => Some(Disabled),
            (name::ACCOUNT_DISABLE, Undone) => Some(Active),
            (name::ACCOUNT_DELETE, Done) => Some(Deleted),
            (
                name::ACCOUNT_CREATE
                | name::ACCOUNT_ENABLE
                | name::ACCOUNT_DISABLE
                | name::ACCOUNT_DELETE,
                Unknown,
            ) => Some(Uncertain),
            _ => None,
        };
        let grant = match (uses, ending) {
            (name::GRANT_ADD, Done) | (name::GRANT_REVOKE, Undone) => Some(GrantStatus::Active),
            (name::GRANT_ADD, Undone) | (name::GRANT_REVOKE, Done) => Some(GrantStatus::Revoked),
            (name::GRANT_ADD | name::GRANT_REVOKE, Unknown) => Some(GrantStatus::Uncertain),
            _ => None,
        };
        if let Some(status) = account {
            self.account(outcome, status, effect, verification);
        }
        if let Some(status) = grant {
            self.grant(outcome, status, effect, verification);
        }
        if (uses, ending) == (name::CREDENTIALS_REVOKE, Done) {
            self.credentials(outcome, effect);
        }
        if ending == Done {
            self.lag(outcome, uses, effect, verification);
        }
    }

    fn account(
        &mut self,
        outcome: &Outcome,
        status: AccountStatus,
        effect: &Effect,
        verification: Option<&Verification>,
    ) {
        let Some(system) = &effect.system else { return };
        let (verified_at, unverified) = proven(outcome, verification);
        let change = AccountChange {
            shard_id: outcome.shard.0,
            identity_key: outcome.subject.0.clone(),
            system: system.clone(),
            native_id: effect.account.clone(),
            name: effect.name.clone(),
            status,
            attributes_digest: effect.attributes_digest.clone(),
            created_at: (status == AccountStatus::Active).then_some(outcome.at),
            disabled_at: (status == AccountStatus::Disabled).then_some(outcome.at),
            changed_at: outcome.at,
            verified_at,
            unverified,
            case_id: outcome.case.to_string(),
        };
        let key = (outcome.shard.0, outcome.subject.0.clone(), system.clone());
        if status == AccountStatus::Deleted {
            self.gone.push(AccountGone {
                shard_id: key.0,
                identity_key: key.1.clone(),
                system: key.2.clone(),
                at: outcome.at,
            });
        }
        match self.accounts.get_mut(&key) {
            Some(earlier) => earlier.then(change),
            None => {
                self.accounts.insert(key, change);
            }
        }
    }

    fn grant(
        &mut self,
        outcome: &Outcome,
        status: GrantStatus,
        effect: &Effect,
        verification: Option<&Verification>,
    ) {
        let (Some(system), Some(entitlement)) = (&effect.system, &effect.entitlement) else {
            return;
        };
        let (verified_at, unverified) = proven(outcome, verification);
        let right = Right::of(outcome, system, entitlement);
        let change = GrantChange {
            right: right.clone(),
            status,
            held_by: "policy",
            reasons: effect.reasons.clone(),
            policy_hash: effect.policy.clone(),
            since: (status == GrantStatus::Active).then_some(outcome.at),
            until: (status == GrantStatus::Revoked).then_some(outcome.at),
            verified_at,
            unverified,
            case_id: outcome.case.to_string(),
        };
        self.grants.insert(right, change);
    }

    fn credentials(&mut self, outcome: &Outcome, effect: &Effect) {
        let Some(system) = &effect.system else { return };
        for ended in &effect.credentials {
            let key = (
                outcome.shard.0,
                outcome.subject.0.clone(),
                system.clone(),
                ended.id.clone(),
            );
            let row = CredentialRow {
                shard_id: key.0,
                identity_key: key.1.clone(),
                system: key.2.clone(),
                credential_id: key.3.clone(),
                kind: ended.kind.clone(),
                status: "ended".to_owned(),
                issued_at: None,
                expires_at: ended.expires_at,
                case_id: outcome.case.to_string(),
            };
            self.credentials.insert(key, row);
        }
    }

    fn lag(
        &mut self,
        outcome: &Outcome,
        uses: &str,
        effect: &Effect,
        verification: Option<&Verification>,
    ) {
        let kind = match uses {
            name::ACCOUNT_CREATE | name::ACCOUNT_ENABLE | name::GRANT_ADD => LagKind::Grant,
            name::ACCOUNT_DISABLE
            | name::ACCOUNT_DELETE
            | name::GRANT_REVOKE
            | name::SESSIONS_REVOKE
            | name::CREDENTIALS_REVOKE => LagKind::Removal,
            _ => return,
        };
        let Some(system) = &effect.system else { return };
        let unverified = matches!(verification, Some(Verification::Unverified { .. }));
        let effective_at = outcome.effective_at.unwrap_or(outcome.received_at);
        let effective_at = effect.due.unwrap_or(effective_at);
        let key = (
            outcome.shard.0,
            outcome.case.to_string(),
            system.clone(),
            kind,
        );
        let row = self.lags.entry(key).or_insert_with(|| LagChange {
            shard_id: outcome.shard.0,
            case_id: outcome.case.to_string(),
            system: system.clone(),
            kind,
            identity_key: outcome.subject.0.clone(),
            workflow: outcome.workflow.clone(),
            effective_at,
            received_at: outcome.received_at,
            finished_at: outcome.at,
            step_count: 0,
            unverified_count: 0,
        });
        row.effective_at = row.effective_at.max(effective_at);
        row.finished_at = row.finished_at.max(outcome.at);
        row.step_count += 1;
        row.unverified_count += u32::from(unverified);
    }

    fn end(
        &mut self,
        outcome: &Outcome,
        system: &str,
        entitlement: &str,
        until: Option<DateTime<Utc>>,
    ) {
        let right = Right::of(outcome, system, entitlement);
        let change = EndChange {
            right: right.clone(),
            until,
        };
        self.ends.insert(right, change);
    }

    /// Somebody confirmed a right.
    fn except(&mut self, outcome: &Outcome, system: &str, entitlement: &str, effect: &Effect) {
        if effect.held_by.is_none() && effect.ends.is_none() {
            return;
        }
        let right = Right::of(outcome, system, entitlement);
        let change = Excepted {
            right: right.clone(),
            held_by: effect.held_by,
            exception_until: effect.ends,
        };
        self.excepted.insert(right, change);
    }

    /// A plan also says which rights stay, but for other reasons than before, and until when those stay that go.
    fn plan(&mut self, outcome: &Outcome, output: &Value) {
        for (list, end) in [("later", "due"), ("review", "until"), ("keep", "")] {
            let rights = output.get(list).and_then(Value::as_array);
            for right in rights.into_iter().flatten() {
                let text = |name: &str| right.get(name).and_then(Value::as_str);
                if let (Some(system), Some(entitlement)) = (text("system"), text("entitlement")) {
                    let until = text(end).and_then(|until| until.parse().ok());
                    self.end(outcome, system, entitlement, until);
                }
            }
        }
        let policy = output
            .get("policy")
            .and_then(Value::as_str)
            .map(str::to_owned);
        let changed = output.get("reasons_changed").and_then(Value::as_array);
        for grant in changed.into_iter().flatten() {
            let text = |name: &str| grant.get(name).and_then(Value::as_str);
            let (Some(system), Some(entitlement)) = (text("system"), text("entitlement")) else {
                continue;
            };
            let right = Right::of(outcome, system, entitlement);
            let change = ReasonsChange {
                right: right.clone(),
                reasons: grant
                    .get("reasons")
                    .cloned()
                    .unwrap_or(Value::Array(Vec::new())),
                policy_hash: policy.clone(),
            };
            self.reasons.insert(right, change);
        }
    }

    async fn write(self, transaction: &mut Transaction<'_>) -> Result<(), StoreError> {
        let accounts: Vec<_> = self.accounts.into_values().collect();
        let grants: Vec<_> = self.grants.into_values().collect();
        let credentials: Vec<_> = self.credentials.into_values().collect();
        let lags: Vec<_> = self.lags.into_values().collect();
        let reasons: Vec<_> = self.reasons.into_values().collect();
        let ends: Vec<_> = self.ends.into_values().collect();
        execute_all(transaction, &PUT_ACCOUNTS, &accounts).await?;
        execute_all(transaction, &PUT_GRANTS, &grants).await?;
        execute_all(transaction, &CLOSE_GRANTS, &self.gone).await?;
        execute_all(transaction, &PUT_CREDENTIALS, &credentials).await?;
        execute_all(transaction, &REASONS, &reasons).await?;
        execute_all(transaction, &ENDS, &ends).await?;
        let excepted: Vec<_> = self.excepted.into_values().collect();
        execute_all(transaction, &EXCEPT, &excepted).await?;
        execute_all(transaction, &PUT_LAGS, &lags).await?;
        let rotations: Vec<_> = self.rotations.into_values().collect();
        Moved::write(transaction, &rotations).await?;
        // What was asked in the batch that closed the case is forgotten with the rest.
        execute_all(transaction, &PUT_ASKED, &CaseKey::all(&self.asked)).await?;
        execute_all(transaction, &DROP_ASKED, &CaseKey::all(&self.closed)).await?;
        // In this order: one batch may hold a joiner that began and the leaver that took its place.
        execute_all(transaction, &ACTIVATE, &self.activated).await?;
        execute_all(transaction, &LEAVE, &self.leaving).await?;
        execute_all(transaction, &DEPART, &self.departed).await?;
        Ok(())
    }
}

fn proven(
    outcome: &Outcome,
    verification: Option<&Verification>,
) -> (Option<DateTime<Utc>>, Option<String>) {
    match verification {
        Some(Verification::Verified) => (Some(outcome.at), None),
        Some(Verification::Unverified { reason }) => (None, Some(reason.clone())),
        Some(Verification::Attested { .. } | Verification::NotNeeded) | None => (None, None),
    }
}
