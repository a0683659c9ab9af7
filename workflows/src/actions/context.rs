//! What every action needs: its parameters, its system, the person, the account.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use connectors::connector::{Connector, NativeId, ObjectRef};
use connectors::layer;
use engine::core::Timestamp;
use engine::core::case::{Failure, FailureClass, Mode, Verification};
use engine::core::definition::Lane;
use engine::core::input::AttemptResult;
use engine::core::proof::Proof;
use engine::runner::Attempt;
use engine::store::StoreError;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::IdentityActions;
use super::apply::{Call, failure};
use super::recent::Happened;
use crate::directory::{AccountRow, AccountStatus, Holdings, IdentityRow};
use crate::policy::{self, IdentityFacts, PolicySet};
use crate::systems::System;

/// How long an attempt waits for another step of its case before it gives its slot to others. Short, because an
/// undo, and a leaver that takes the place of a joiner, wait until attempts that are out have come back.
const WAIT_MS_MAX: u64 = 2_000;
/// How often the directory is asked meanwhile, in case the other step ran in another process.
const LOOK_EVERY_MS: u64 = 500;
/// The pauses between the looks of a step that waits for another one, in seconds.
const LOOK_AGAIN_S_FIRST: i64 = 1;
const LOOK_AGAIN_S_MAX: i64 = 60;
const LOOK_AGAIN_DOUBLED_MAX: u32 = 6;
/// The longest pause between the looks of a step that waits for an attribute, in seconds: people bring those.
const ATTRIBUTE_AGAIN_S_MAX: i64 = 600;
const ATTRIBUTE_DOUBLED_MAX: u32 = 10;

/// The kind of failure with which a step waits for an attribute.
pub(super) const MISSING_ATTRIBUTE: &str = "missing_attribute";

/// One attempt with its parameters.
pub(super) struct Context<'a> {
    pub actions: &'a IdentityActions,
    pub attempt: &'a Attempt,
    fields: Map<String, Value>,
}

impl<'a> Context<'a> {
    /// Parameters are the `item`, overlaid by what the step gave when it is being undone, overlaid by `with`.
    pub fn new(actions: &'a IdentityActions, attempt: &'a Attempt) -> Self {
        let mut fields = Map::new();
        let gave = if attempt.mode.is_undo() {
            &attempt.output
        } else {
            &Value::Null
        };
        for part in [&attempt.item, gave, &attempt.with] {
            if let Value::Object(part) = part {
                fields.extend(
                    part.iter()
                        .filter(|(_, value)| !value.is_null())
                        .map(|(name, value)| (name.clone(), value.clone())),
                );
            }
        }
        Self {
            actions,
            attempt,
            fields,
        }
    }

    /// An undo of something that was so before the step: there is nothing to take back.
    pub fn nothing_to_undo(&self) -> Option<AttemptResult> {
        let unchanged = |name: &str, value: bool| self.field(name) == Some(&Value::Bool(value));
        let nothing = self.attempt.mode.is_undo()
            && (unchanged("changed", false) || unchanged("skipped", true));
        nothing.then(|| not_needed(Value::Null))
    }

    fn field(&self, name: &str) -> Option<&Value> {
        self.fields.get(name)
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.field(name).and_then(Value::as_str)
    }

    pub fn value(&self, name: &str) -> Option<&Value> {
        self.field(name)
    }

    pub fn truth(&self, name: &str) -> bool {
        self.field(name).and_then(Value::as_bool).unwrap_or(false)
    }

    pub fn texts(&self, name: &str) -> Vec<String> {
        self.field(name)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    }

    pub fn required(&self, name: &str) -> Result<&str, Failure> {
        self.text(name).ok_or_else(|| {
            permanent(
                "parameter",
                format!(
                    "step `{}` gives `{}` no `{name}`; say it in `with:` or in the items of `for_each:`",
                    self.attempt.step, self.attempt.uses
                ),
            )
        })
    }

    /// The system that the parameters name.
    pub fn system(&self) -> Result<&'a Arc<System>, Failure> {
        let name = self.required("system")?;
        let system = self.actions.systems().get(name);
        system.ok_or_else(|| no_system(name))
    }

    /// The system, ready to be called in the lane of the case.
    pub fn call(&self) -> Result<Call<'a>, Failure> {
        self.call_on(self.system()?)
    }

    /// A system by its name, ready to be called in the lane of the case.
    pub fn call_to(&self, name: &str) -> Result<Call<'a>, Failure> {
        let system = self.actions.systems().get(name);
        self.call_on(system.ok_or_else(|| no_system(name))?)
    }

    fn call_on(&self, system: &'a Arc<System>) -> Result<Call<'a>, Failure> {
        let lane = match self.attempt.lane {
            Lane::Normal => layer::Lane::Normal,
            Lane::Revocation => layer::Lane::Revocation,
        };
        Ok(Call {
            attempt: self.attempt,
            system,
            connector: system.connector().with_lane(lane),
            clock: self.actions.clock(),
            policy: self.text("policy").map(str::to_owned),
        })
    }

    /// The fields every step on a system gives, from which the directory is kept.
    pub fn output(&self, call: &Call<'_>, account: Option<&NativeId>) -> Map<String, Value> {
        let mut output = Map::new();
        output.insert("system".to_owned(), call.system.name().into());
        if let Some(account) = account {
            output.insert("account".to_owned(), account.as_str().into());
        }
        for name in ["name", "entitlement"] {
            if let Some(value) = self.field(name) {
                output.insert(name.to_owned(), value.clone());
            }
        }
        output
    }

    pub fn subject(&self) -> &'a str {
        &self.attempt.subject.0
    }

    /// The person and what they hold.
    pub async fn holdings(&self) -> Result<Holdings, Failure> {
        let subject = self.subject();
        self.actions
            .directory()
            .holdings(subject)
            .await
            .map_err(|error| database(&error))?
            .ok_or_else(|| {
                permanent(
                    "unknown_identity",
                    format!("there is no identity `{subject}`"),
                )
            })
    }

    /// The account to act on: as given, else as the directory knows it, else as the system finds it by its
    /// owner. `None` when there is none.
    pub async fn account(&self, call: &Call<'_>) -> Result<Option<NativeId>, Failure> {
        if let Some(account) = self.text("account").filter(|account| !account.is_empty()) {
            return Ok(Some(NativeId::new(account)));
        }
        if let Some(row) = self.account_row(call).await?
            && !row.native_id.is_empty()
        {
            return Ok(Some(NativeId::new(row.native_id)));
        }
        self.find_by_owner(call).await
    }

    /// The account as the system finds it by its owner: made by a step of this case, perhaps, whose end the directory
    /// has not heard of. Else as [`Context::account`] knows it.
    pub async fn account_by_the_system(
        &self,
        call: &Call<'_>,
    ) -> Result<Option<NativeId>, Failure> {
        match self.find_by_owner(call).await? {
            Some(account) => Ok(Some(account)),
            None => self.account(call).await,
        }
    }

    pub async fn account_row(&self, call: &Call<'_>) -> Result<Option<AccountRow>, Failure> {
        let holdings = self.holdings().await?;
        Ok(holdings
            .accounts
            .into_iter()
            .find(|account| account.system == call.system.name()))
    }

    async fn find_by_owner(&self, call: &Call<'_>) -> Result<Option<NativeId>, Failure> {
        if !call.system.capabilities().finds_by_owner {
            return Ok(None);
        }
        let owner = ObjectRef::AccountOwnedBy(self.subject().to_owned());
        match call.connector.get(&owner).await {
            Ok(found) => Ok(found
                .and_then(connectors::connector::Object::into_account)
                .map(|account| account.id)),
            Err(error) => Err(failure(call.system.name(), &error)),
        }
    }

    /// Waits until `happened` is so on the system of this attempt; gives the account concerned.
    pub async fn wait_for(
        &self,
        call: &Call<'_>,
        happened: &Happened,
    ) -> Result<Option<String>, Failure> {
        let until = Instant::now() + Duration::from_millis(WAIT_MS_MAX);
        loop {
            let changed = self.actions.recent().changed();
            let recent =
                self.actions
                    .recent()
                    .account(self.attempt.case, call.system.name(), happened);
            if let Some(account) = recent {
                return Ok(Some(account));
            }
            if let Some(account) = self.is_so(call, happened).await? {
                return Ok(Some(account));
            }
            if Instant::now() >= until || self.attempt.mode == Mode::ReadBack {
                return Ok(None);
            }
            let look = (Instant::now() + Duration::from_millis(LOOK_EVERY_MS)).min(until);
            let _ = tokio::time::timeout_at(look, changed).await;
        }
    }

    /// Whether the directory says so.
    async fn is_so(&self, call: &Call<'_>, happened: &Happened) -> Result<Option<String>, Failure> {
        let holdings = self.holdings().await?;
        let system = call.system.name();
        let account = holdings
            .accounts
            .iter()
            .find(|account| account.system == system);
        Ok(match happened {
            Happened::AccountOpen => account
                .filter(|account| account.status == AccountStatus::Active)
                .map(|account| account.native_id.clone()),
            Happened::AccountDisabled => account
                .filter(|account| {
                    matches!(
                        account.status,
                        AccountStatus::Disabled | AccountStatus::Deleted
                    )
                })
                .map(|account| account.native_id.clone()),
            Happened::Granted(entitlement) => {
                let held = holdings.grants.iter().any(|grant| {
                    grant.system == system
                        && grant.entitlement == *entitlement
                        && grant.status == crate::directory::GrantStatus::Active
                });
                held.then(String::new)
            }
            Happened::Revoked(entitlement) => {
                let held = holdings.grants.iter().any(|grant| {
                    grant.system == system
                        && grant.entitlement == *entitlement
                        && grant.status != crate::directory::GrantStatus::Revoked
                });
                (!held).then(String::new)
            }
        })
    }

    /// The moment before which nothing is to happen, if the parameters name one.
    pub fn due(&self) -> Result<Option<Timestamp>, Failure> {
        self.moment("due")
    }

    pub fn moment(&self, name: &str) -> Result<Option<Timestamp>, Failure> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|_| {
            permanent(
                "parameter",
                format!("`{name}` is `{text}`, which is no time such as 2026-03-01T00:00:00Z"),
            )
        })
    }

    /// A wait until `due`, exactly, that counts against nothing; `None` when that is past.
    pub fn not_due(&self, due: Timestamp, why: &str) -> Option<AttemptResult> {
        (self.actions.clock().now() < due).then(|| waits("grace", why.to_owned(), due))
    }

    /// The other step did not get there in time. That is no failure of this one, however long its system is away:
    /// it counts against nothing, and is looked at again, more and more seldom.
    pub fn waited_in_vain(&self, call: &Call<'_>, what: String) -> AttemptResult {
        // A read-back that finds no ground for the effect knows that it was never sent.
        if matches!(self.attempt.mode, Mode::ReadBack) {
            return AttemptResult::NotApplied;
        }
        AttemptResult::Failed {
            failure: Failure {
                kind: "waiting".to_owned(),
                message: what,
                class: FailureClass::NotBefore(
                    call.clock.now() + looked_again(self.attempt.attempt),
                ),
            },
            proof: Proof::default(),
        }
    }

    /// Policy has no answer for the person. When that is for want of an attribute nothing is guessed: the step waits
    /// until it is known, says who has to bring it, and goes on by itself then.
    pub fn undecided(&self, identity: &IdentityRow, message: &str, whole: &str) -> Failure {
        match policy::missing_attribute(message) {
            Some(name) => self.wants(identity, name, whole),
            None => permanent("policy", whole),
        }
    }

    /// Waits for an attribute of the person. `why` says what needs it.
    pub fn wants(&self, identity: &IdentityRow, name: &str, why: &str) -> Failure {
        let policy = self.policy();
        let owner = policy
            .attributes()
            .get(name)
            .and_then(|attribute| attribute.owner.clone())
            .unwrap_or_else(|| format!("source `{}`", identity.source));
        let now = self.actions.clock().now();
        Failure {
            kind: MISSING_ATTRIBUTE.to_owned(),
            message: format!(
                "attribute `{name}` of `{}` is not known, and {owner} has to bring it; {why}; the case goes on by itself \
                 when it comes",
                identity.identity_key
            ),
            class: FailureClass::NotBefore(now + asked_again(self.attempt.attempt)),
        }
    }

    pub fn policy(&self) -> Arc<PolicySet> {
        self.actions.policy()
    }
}

fn no_system(name: &str) -> Failure {
    permanent(
        "configuration",
        format!(
            "there is no system `{name}` in the configuration; add it, or skip the step saying why"
        ),
    )
}

/// How long a step that waits for an attribute waits before it looks again, after so many looks.
fn asked_again(attempts: u32) -> TimeDelta {
    let doubled = LOOK_AGAIN_S_FIRST << attempts.saturating_sub(1).min(ATTRIBUTE_DOUBLED_MAX);
    TimeDelta::seconds(doubled.min(ATTRIBUTE_AGAIN_S_MAX))
}

/// How long a step waits for another one before it looks again, after so many looks.
fn looked_again(attempts: u32) -> TimeDelta {
    let doubled = LOOK_AGAIN_S_FIRST << attempts.saturating_sub(1).min(LOOK_AGAIN_DOUBLED_MAX);
    TimeDelta::seconds(doubled.min(LOOK_AGAIN_S_MAX))
}

/// What policy sees of a person.
#[must_use]
pub fn identity_facts(holdings: &Holdings) -> IdentityFacts {
    crate::directory::facts_of(&holdings.identity)
}

/// Nothing happens before a moment; that counts against nothing.
pub(super) fn waits(kind: &str, message: String, until: Timestamp) -> AttemptResult {
    AttemptResult::Failed {
        failure: Failure {
            kind: kind.to_owned(),
            message,
            class: FailureClass::NotBefore(until),
        },
        proof: Proof::default(),
    }
}

/// Succeeded, and nothing outside was touched.
pub(super) fn not_needed(output: Value) -> AttemptResult {
    AttemptResult::Succeeded {
        output,
        verification: Verification::NotNeeded,
        proof: Proof::default(),
    }
}

/// Nothing more can be done, and nobody saw that it is so.
pub(super) fn unverified(output: Value, reason: String) -> AttemptResult {
    AttemptResult::Succeeded {
        output,
        verification: Verification::Unverified { reason },
        proof: Proof::default(),
    }
}

pub(super) fn permanent(kind: &str, message: impl Into<String>) -> Failure {
    Failure {
        kind: kind.to_owned(),
        message: message.into(),
        class: FailureClass::Permanent,
    }
}

/// The directory did not answer; that is nobody's failure but ours, and worth another try.
pub(super) fn database(error: &StoreError) -> Failure {
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        message.push_str(": ");
        message.push_str(&error.to_string());
        cause = error.source();
    }
    Failure {
        kind: "directory".to_owned(),
        message,
        class: FailureClass::Retry,
    }
}
