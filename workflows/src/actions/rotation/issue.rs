//! `rotation.issue`: a system issues the new credential, and both halves go into the place before it answers.
//!
//! Takes `{plan}`. Gives `{user, version, credential, expires_at}`. One effect has one key, so a system issues once. What was issued
//! under it and is not kept in the place has a secret that nobody has: it is destroyed, also by a look that comes after a crash,
//! because nobody may come afterwards who tries again. Another is issued under the next key.
//! `rotation.withdraw` destroys what was issued and removes it from the place.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use connectors::connector::{
    Claim, Connector as _, Credential, CredentialId, CredentialKind, Error, ErrorKind, HandOver,
    Material, Minted, NativeId, NewCredential, Operation, OperationKey, Outcome, StoredCredential,
    Takes, Verdict,
};
use connectors::layer::Guarded;
use engine::core::case::{Failure, Mode, Verification};
use engine::core::input::AttemptResult;
use engine::core::proof::Proof;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};

use super::super::apply::{Call, failed, failure};
use super::super::context::{Context, not_needed, permanent};
use super::mint::{dropped, version};
use super::{Plan, destroyed, exposed, full, kept, output, plan, there_already};
use crate::rotation::settings::{PART_CERTIFICATE, PART_ID, PART_KEY, PART_PASSWORD, PASSWORD};

/// The most that are issued and found without their secret in one rotation: then a person has to look.
const LOST_MAX: u32 = 8;

pub(super) async fn run(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let plan = plan(context)?;
    let call = context.call_to(&plan.system)?;
    let place = context.call_to(&plan.place.system)?;
    let version = version(&plan)?;
    if plan.taken_up {
        return taken_up(&call, &plan).await;
    }
    let mut proof = Proof {
        system: Some(plan.system.clone()),
        operation: Some("issue_credential".to_owned()),
        object: Some(plan.new.account.clone()),
        ..Proof::default()
    };
    let is_kept = kept(&place, &plan.place, &version, PART_ID).await?;
    let mut unused = None;
    for number in 0..LOST_MAX {
        match (issued(&call, &plan, &key(&call, number)).await?, &is_kept) {
            (Some(credential), Some(id)) if is_of(id, &credential) => {
                return Ok(done(&call, &plan, &credential, proof));
            }
            // Its secret is nowhere.
            (Some(credential), _) => destroy(&call, &plan, &credential.id, number).await?,
            // Some systems forget what was destroyed: then the next key may have been used already.
            (None, _) if unused.is_none() => unused = Some(number),
            (None, _) => break,
        }
    }
    let Some(number) = unused else {
        return Err(permanent(
            "lost",
            format!(
                "`{}` issued {LOST_MAX} credentials whose secret did not arrive in `{}`; look at both",
                plan.system, plan.place.system
            ),
        ));
    };
    if context.attempt.mode != Mode::Do {
        return Ok(AttemptResult::NotApplied);
    }
    if is_kept.is_some() {
        // What the place keeps is of one that is gone.
        dropped(context, &plan).await?;
    }
    if let Some(result) = exposed::spare_ended(&call, &plan).await? {
        return Ok(result);
    }
    proof.sent_at = Some(call.clock.now());
    issue(&call, &place, &plan, key(&call, number), proof).await
}

async fn issue(
    call: &Call<'_>,
    place: &Call<'_>,
    plan: &Plan,
    key: OperationKey,
    mut proof: Proof,
) -> Result<AttemptResult, Failure> {
    let keeper = Keeper {
        place: place.connector.clone(),
        bundle: NativeId::new(&plan.place.bundle),
        version: version(plan)?,
        kind: plan.kind,
        parts: plan.parts.clone(),
        key: OperationKey {
            idempotency: format!("{}/kept", key.idempotency),
            ..key.clone()
        },
    };
    let operation = Operation::IssueCredential(NewCredential {
        account: plan.new.account(),
        kind: plan.kind,
        material: Material::BySystem,
        attributes: plan.attributes.clone(),
        lifetime_s: plan.lifetime_s,
        label: Some(plan.nhi.clone()),
        into: HandOver::to(Arc::new(keeper)),
    });
    match call.connector.apply(&operation, &key).await {
        Ok(Outcome::Done(receipt) | Outcome::AlreadySo(receipt)) => {
            proof.acknowledged_at = Some(call.clock.now());
            proof.request_id = receipt.request_id;
            let Some(credential) = receipt.credential else {
                return Ok(lost("it does not say what it issued", proof));
            };
            let at = kept(place, &plan.place, &version(plan)?, PART_ID).await?;
            if at.is_some_and(|at| is_of(&at, &credential)) {
                Ok(done(call, plan, &credential, proof))
            } else {
                Ok(lost("a read does not show what was kept", proof))
            }
        }
        Ok(Outcome::Ambiguous { reason }) => Ok(lost(&reason, proof)),
        Ok(Outcome::Accepted(_) | Outcome::NeedsHuman(_)) => Err(permanent(
            "issue",
            format!("`{}` does not issue at once", plan.system),
        )),
        // Every place is taken: somebody, or an earlier rotation, has to free one.
        Err(error) if error.kind == ErrorKind::Full => Ok(full(&error, proof)),
        Err(error) => Ok(failed(call, &error, proof)),
    }
}

fn lost(reason: &str, proof: Proof) -> AttemptResult {
    AttemptResult::AnswerLost {
        reason: reason.to_owned(),
        proof,
    }
}

/// The key of the effect; the next one is for when the secret under this one was lost.
fn key(call: &Call<'_>, number: u32) -> OperationKey {
    if number == 0 {
        call.key("")
    } else {
        call.key(&format!("#{number}"))
    }
}

/// What was issued under a key.
async fn issued(
    call: &Call<'_>,
    plan: &Plan,
    key: &OperationKey,
) -> Result<Option<Credential>, Failure> {
    let claim = Claim::CredentialIssued {
        account: plan.new.account(),
        key: key.idempotency.clone(),
    };
    match call.connector.verify(&claim).await {
        Ok(Verdict::Proven(seen)) => seen.credential().map(Some).ok_or_else(|| {
            permanent(
                "issue",
                format!("`{}` does not say what it issued", plan.system),
            )
        }),
        Ok(Verdict::Refuted(_)) => Ok(None),
        Ok(Verdict::CannotObserve { reason }) => Err(permanent("issue", reason)),
        Err(error) => Err(failure(call.system.name(), &error)),
    }
}

async fn destroy(
    call: &Call<'_>,
    plan: &Plan,
    credential: &CredentialId,
    number: u32,
) -> Result<(), Failure> {
    let operation = Operation::DestroyCredential {
        account: plan.new.account(),
        credential: credential.clone(),
    };
    let key = call.key(&format!("#{number}/lost"));
    match call.connector.apply(&operation, &key).await {
        Ok(_) => Ok(()),
        Err(error) => Err(failure(call.system.name(), &error)),
    }
}

/// Whether what the place keeps is this credential, and it is good: its name is a part of it.
fn is_of(kept: &connectors::secret::SecretRef, credential: &Credential) -> bool {
    let is_kept = kept
        .resolve()
        .is_ok_and(|id| id.expose_secret() == credential.id.as_str());
    is_kept && credential.active != Some(false)
}

fn done(call: &Call<'_>, plan: &Plan, credential: &Credential, mut proof: Proof) -> AttemptResult {
    proof.verified_at = Some(call.clock.now());
    proof.after = Some(json!({ "credential": credential.id, "expires_at": credential.expires_at }));
    let mut output = output(&plan.new.user);
    output.insert("version".to_owned(), json!(plan.new.version));
    output.insert("credential".to_owned(), json!(credential.id));
    output.insert("expires_at".to_owned(), json!(credential.expires_at));
    AttemptResult::Succeeded {
        output: Value::Object(output),
        verification: Verification::Verified,
        proof,
    }
}

/// What is in use already stays: an earlier rotation issued it.
async fn taken_up(call: &Call<'_>, plan: &Plan) -> Result<AttemptResult, Failure> {
    let gone = format!(
        "`{}` does not list `{}` any more, which is in use; replace it again",
        plan.system, plan.new.credential
    );
    let found = there_already(call, plan, "issue", gone).await?;
    let proof = Proof {
        system: Some(plan.system.clone()),
        operation: Some("issue_credential".to_owned()),
        object: Some(plan.new.account.clone()),
        already_so: true,
        ..Proof::default()
    };
    Ok(done(call, plan, &found, proof))
}

/// Takes back what was issued.
pub(super) async fn withdraw(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let plan = plan(context)?;
    let call = context.call_to(&plan.system)?;
    let Some(credential) = context
        .attempt
        .output
        .get("credential")
        .and_then(Value::as_str)
    else {
        return Ok(not_needed(Value::Null));
    };
    let (account, credential) = (plan.new.account(), CredentialId::new(credential));
    match destroyed(&call, account, credential, output(&plan.new.user)).await {
        AttemptResult::Succeeded { .. } => dropped(context, &plan).await,
        other => Ok(other),
    }
}

/// Keeps both halves in a place.
struct Keeper {
    place: Guarded,
    bundle: NativeId,
    version: CredentialId,
    kind: CredentialKind,
    parts: BTreeMap<String, String>,
    key: OperationKey,
}

#[async_trait]
impl Takes for Keeper {
    async fn take(&self, minted: Minted) -> Result<(), Error> {
        let Some(secret) = minted.secret else {
            return Err(Error::new(
                ErrorKind::Transient,
                "the system does not show the secret again, and the place does not keep it",
            ));
        };
        let mut parts: BTreeMap<String, SecretString> = BTreeMap::new();
        let id = minted.credential.id.as_str().to_owned();
        parts.insert(PART_ID.to_owned(), SecretString::from(id));
        if self.kind.is_certificate() {
            let public = minted.public.ok_or_else(|| {
                Error::new(
                    ErrorKind::Bug,
                    "the system issued no certificate that can be shown",
                )
            })?;
            parts.insert(PART_CERTIFICATE.to_owned(), SecretString::from(public));
            parts.insert(PART_KEY.to_owned(), secret);
        } else {
            for (name, text) in &self.parts {
                let text = text.replace(PASSWORD, secret.expose_secret());
                parts.insert(name.clone(), SecretString::from(text));
            }
            parts.insert(PART_PASSWORD.to_owned(), secret);
        }
        let operation = Operation::StoreCredential(StoredCredential {
            account: self.bundle.clone(),
            credential: self.version.clone(),
            parts,
        });
        match self.place.apply(&operation, &self.key).await? {
            Outcome::Done(_) | Outcome::AlreadySo(_) => Ok(()),
            Outcome::Ambiguous { reason } => Err(Error::new(ErrorKind::Transient, reason)),
            Outcome::Accepted(_) | Outcome::NeedsHuman(_) => Err(Error::new(
                ErrorKind::Unsupported,
                "the place does not keep secrets at once",
            )),
        }
    }
}
