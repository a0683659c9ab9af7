//! `credentials.revoke`: ends every key, token, certificate and password that the person's account on `system` has.
//!
//! Takes `{system}`, optionally `{account}`, and `after_disable: true`: wait until another step of the case has
//! disabled the account, so that nobody makes another key behind it.
//!
//! With `spare_needed: true` it leaves alone, for a while, what others need: a token that production uses, a key with which
//! something was made that is in use. It says so as `spared: [{id, why}]` and `until`. With `once_free: true` it ends those,
//! as soon as nothing needs them, and at `until` whatever needs them.
//!
//! Gives `{system, account, credentials: [{id, kind, label}], changed}`: what was ended, by fingerprint or number. Each
//! is destroyed, or deactivated where that is all the system can do, and read back; then the account is listed again,
//! and what appeared meanwhile is ended too. A system that cannot list credentials gives `{skipped: true, gap}` and
//! counts as unverified, unless nobody is ever logged in there.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use connectors::connector::{
    Claim, Connector, Credential, CredentialId, NativeId, Operation, OperationName,
};
use engine::core::case::{Failure, FailureClass, Mode, Verification};
use engine::core::input::AttemptResult;
use engine::core::proof::Proof;
use serde_json::{Map, Value, json};

use super::apply::{Call, Part, REFUTED_ATTEMPTS_MAX, apply_part, failure, with_changed};
use super::context::{Context, not_needed, unverified, waits};
use super::dependencies::{Needed, needed, spared_until};
use super::recent::Happened;
use crate::systems::Sessions;

/// The most credentials of one account: more is no person's.
const CREDENTIALS_MAX: usize = 1_000;
/// How often an account is listed again within one attempt.
const ROUNDS_MAX: u32 = 3;
/// How long until it is looked at again whether others still need a key, in seconds.
const LOOK_AGAIN_S: i64 = 60;

pub(super) async fn run(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let call = context.call()?;
    let system = call.system.name();
    let can = call.system.capabilities();
    // Whoever locks an account by hand takes its keys: that is one task, not two.
    let nothing_there = can.by_hand || call.system.sessions() == Sessions::None;
    let ends = [
        OperationName::DestroyCredential,
        OperationName::DeactivateCredential,
    ];
    let Some(ends) = ends
        .into_iter()
        .find(|ends| call.system.can(*ends) && !can.credentials.is_empty() && !can.by_hand)
    else {
        if nothing_there {
            return Ok(not_needed(json!({"system": system, "skipped": true})));
        }
        let gap = format!(
            "`{system}` cannot end keys and tokens: one that it takes from a disabled account goes on working"
        );
        let output = json!({"system": system, "skipped": true, "gap": gap});
        return Ok(unverified(output, gap));
    };
    if context.truth("after_disable")
        && context
            .wait_for(&call, &Happened::AccountDisabled)
            .await?
            .is_none()
    {
        return Ok(context.waited_in_vain(
            &call,
            format!("the account on `{system}` is not disabled yet; its keys are ended after it"),
        ));
    }
    let Some(account) = context.account(&call).await? else {
        let mut output = context.output(&call, None);
        output.insert("absent".to_owned(), Value::Bool(true));
        return Ok(not_needed(Value::Object(output)));
    };
    let output = context.output(&call, Some(&account));
    let mut keys = Keys {
        call: &call,
        account,
        ends,
        output,
        spared: BTreeSet::new(),
    };
    if context.truth("spare_needed") {
        let needed = needed_of(context, &keys).await?;
        keys.spare(needed, spared_until(context));
    }
    if context.truth("once_free") {
        let now = call.clock.now();
        let until = spared_until(context);
        if now < until {
            let needed = needed_of(context, &keys).await?;
            if !needed.findings.is_empty() {
                let until = until.min(now + TimeDelta::seconds(LOOK_AGAIN_S));
                let named: Vec<&str> = needed.findings.keys().map(String::as_str).collect();
                let message = format!("others still need {} on `{system}`", named.join(", "));
                return Ok(match call.attempt.mode {
                    Mode::ReadBack => AttemptResult::NotApplied,
                    _ => waits("needed", message, until),
                });
            }
        }
    }
    keys.end().await
}

/// Which of the account's keys others need.
async fn needed_of(context: &Context<'_>, keys: &Keys<'_>) -> Result<Needed, Failure> {
    let reversible = keys.call.system.can(OperationName::DeactivateCredential);
    let usable = keys.usable().await?;
    let ids = usable
        .iter()
        .map(|credential| (credential.id.as_str().to_owned(), reversible));
    needed(context, keys.call.system.name(), ids).await
}

/// The credentials of one account, on their way out.
struct Keys<'a> {
    call: &'a Call<'a>,
    account: NativeId,
    ends: OperationName,
    output: Map<String, Value>,
    /// What is left alone because others need it.
    spared: BTreeSet<CredentialId>,
}

impl Keys<'_> {
    fn spare(&mut self, needed: Needed, until: DateTime<Utc>) {
        if needed.findings.is_empty() || self.call.clock.now() >= until {
            return;
        }
        let told = needed.findings.iter().map(|(id, finding)| {
            let why: Vec<String> = finding.reasons.iter().map(ToString::to_string).collect();
            json!({ "id": id, "why": why, "needs": finding.needs })
        });
        let told: Vec<Value> = told.collect();
        self.output.insert("spared".to_owned(), json!(told));
        self.output.insert("until".to_owned(), json!(until));
        self.spared = needed.findings.into_keys().map(CredentialId::new).collect();
    }

    async fn end(mut self) -> Result<AttemptResult, Failure> {
        let clock = self.call.clock;
        let mut proof = Proof {
            system: Some(self.call.system.name().to_owned()),
            operation: Some(self.ends.as_str().to_owned()),
            object: Some(self.account.as_str().to_owned()),
            ..Proof::default()
        };
        let mut left = self.usable().await?;
        if self.call.attempt.mode == Mode::ReadBack && !left.is_empty() {
            return Ok(AttemptResult::NotApplied);
        }
        proof.before = Some(json!({ "credentials": told(&left) }));
        let mut ended: Vec<Credential> = Vec::new();
        let mut unseen = None;
        for _ in 0..ROUNDS_MAX {
            if left.is_empty() {
                break;
            }
            for credential in left {
                proof.sent_at.get_or_insert(clock.now());
                match self.end_one(&credential, &mut proof).await {
                    Ok(seen) => unseen = seen.or(unseen),
                    Err(result) => return Ok(*result),
                }
                ended.push(credential);
            }
            proof.acknowledged_at = Some(clock.now());
            left = self.usable().await?;
            // What the system says no state of is listed as long as it is there, and was proven to be inactive.
            left.retain(|credential| {
                credential.active == Some(true) || ended.iter().all(|it| it.id != credential.id)
            });
        }
        if !left.is_empty() {
            let message = format!(
                "`{}` still lists {} of `{}` as usable after they were ended",
                self.call.system.name(),
                left.len(),
                self.account
            );
            return Ok(self.refuted(message, proof));
        }
        proof.already_so = ended.is_empty();
        proof.after = Some(match self.output.get("spared") {
            Some(spared) => json!({ "credentials": [], "spared": spared }),
            None => json!({ "credentials": [] }),
        });
        self.output.insert("credentials".to_owned(), told(&ended));
        let output = Value::Object(with_changed(self.output, !ended.is_empty()));
        let verification = match unseen {
            Some(reason) => Verification::Unverified { reason },
            None => {
                proof.verified_at = Some(clock.now());
                Verification::Verified
            }
        };
        Ok(AttemptResult::Succeeded {
            output,
            verification,
            proof,
        })
    }

    async fn usable(&self) -> Result<Vec<Credential>, Failure> {
        let system = self.call.system.name();
        let listed = self
            .call
            .connector
            .credentials(&self.account)
            .await
            .map_err(|error| failure(system, &error))?;
        let usable: Vec<Credential> = listed
            .value
            .into_iter()
            .filter(|credential| {
                credential.active != Some(false) && !self.spared.contains(&credential.id)
            })
            .collect();
        if usable.len() > CREDENTIALS_MAX {
            return Err(Failure {
                kind: "too_many".to_owned(),
                message: format!(
                    "`{}` on `{system}` has {} credentials, more than the {CREDENTIALS_MAX} of one step; end some \
                     there, then retry",
                    self.account,
                    usable.len()
                ),
                class: FailureClass::Permanent,
            });
        }
        Ok(usable)
    }

    /// Ends one and reads it back; says why nobody saw it, if nobody did.
    async fn end_one(
        &self,
        credential: &Credential,
        proof: &mut Proof,
    ) -> Result<Option<String>, Box<AttemptResult>> {
        let account = self.account.clone();
        let id = credential.id.clone();
        let operation = if self.ends == OperationName::DestroyCredential {
            Operation::DestroyCredential {
                account: account.clone(),
                credential: id.clone(),
            }
        } else {
            Operation::DeactivateCredential {
                account: account.clone(),
                credential: id.clone(),
            }
        };
        let claim = Claim::CredentialInactive {
            account,
            credential: id.clone(),
        };
        let key = format!(" {id}");
        let system = self.call.system.name();
        match apply_part(self.call, &operation, &claim, &key, proof).await? {
            Part::Seen => Ok(None),
            Part::Unseen(reason) => Ok(Some(reason)),
            Part::Refuted(by) => {
                let message = format!(
                    "system `{system}` says that `{id}` is ended, but a read ({by}) shows otherwise"
                );
                Err(Box::new(self.refuted(message, proof.clone())))
            }
            Part::Later => Err(Box::new(AttemptResult::AnswerLost {
                reason: format!("`{system}` ends `{id}` later"),
                proof: proof.clone(),
            })),
        }
    }

    fn refuted(&self, message: String, proof: Proof) -> AttemptResult {
        if self.call.attempt.attempt >= REFUTED_ATTEMPTS_MAX {
            return AttemptResult::Succeeded {
                output: Value::Object(self.output.clone()),
                verification: Verification::Unverified { reason: message },
                proof,
            };
        }
        AttemptResult::Failed {
            failure: Failure {
                kind: "refuted".to_owned(),
                message,
                class: FailureClass::Retry,
            },
            proof,
        }
    }
}

/// What evidence and people are told: no secret.
fn told(credentials: &[Credential]) -> Value {
    let told = credentials.iter().map(|credential| {
        json!({
            "id": credential.id,
            "kind": credential.kind,
            "label": credential.label,
            "expires_at": credential.expires_at,
        })
    });
    told.collect()
}
