//! `rotation.mint`: makes the new secret, and has the place keep it as a version that nobody reads yet.
//!
//! Takes `{plan}`. Gives `{user, version}`. What the place keeps already is not made again, so a crash after it was kept
//! goes on with the same secret; of two nodes that race, the one whose version is whole first wins. `rotation.drop` takes it
//! back.

use connectors::connector::{
    Connector as _, CredentialId, NativeId, Operation, Outcome, StoredCredential,
};
use engine::core::case::{Failure, Mode, Verification};
use engine::core::input::AttemptResult;
use engine::core::proof::Proof;
use secrecy::SecretString;
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::apply::{Call, failed};
use super::super::context::{Context, permanent};
use super::{Plan, destroyed, kept, output, plan};
use crate::rotation::settings::{PART_PASSWORD, PASSWORD};

pub(super) async fn run(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let plan = plan(context)?;
    let call = context.call_to(&plan.place.system)?;
    let version = version(&plan)?;
    let is_kept = kept(&call, &plan.place, &version, PART_PASSWORD)
        .await?
        .is_some();
    let mut proof = Proof {
        system: Some(plan.place.system.clone()),
        operation: Some("store_credential".to_owned()),
        object: Some(plan.place.bundle.clone()),
        ..Proof::default()
    };
    if is_kept {
        proof.already_so = context.attempt.mode == Mode::Do;
        return Ok(minted(&call, &plan, proof));
    }
    if context.attempt.mode != Mode::Do {
        return Ok(AttemptResult::NotApplied);
    }
    let password = fresh();
    let parts = plan.parts.iter().map(|(name, text)| {
        let text = text.replace(PASSWORD, &password);
        (name.clone(), SecretString::from(text))
    });
    let operation = Operation::StoreCredential(StoredCredential {
        account: NativeId::new(&plan.place.bundle),
        credential: version.clone(),
        parts: parts.collect(),
    });
    proof.sent_at = Some(call.clock.now());
    match call.connector.apply(&operation, &call.key("")).await {
        Ok(Outcome::Done(receipt) | Outcome::AlreadySo(receipt)) => {
            proof.request_id = receipt.request_id;
        }
        Ok(Outcome::Ambiguous { reason }) => {
            return Ok(AttemptResult::AnswerLost { reason, proof });
        }
        Ok(Outcome::Accepted(_) | Outcome::NeedsHuman(_)) => {
            return Err(permanent(
                "place",
                format!("`{}` does not keep secrets at once", plan.place.system),
            ));
        }
        // If somebody else was first, with a secret of their own, theirs is the one that is used from now on.
        Err(error) => {
            if kept(&call, &plan.place, &version, PART_PASSWORD)
                .await?
                .is_none()
            {
                return Ok(failed(&call, &error, proof));
            }
        }
    }
    proof.acknowledged_at = Some(call.clock.now());
    if kept(&call, &plan.place, &version, PART_PASSWORD)
        .await?
        .is_none()
    {
        return Ok(AttemptResult::AnswerLost {
            reason: format!(
                "`{}` says that it keeps `{version}`, and a read does not show it",
                plan.place.system
            ),
            proof,
        });
    }
    Ok(minted(&call, &plan, proof))
}

/// Removes what was kept, and nobody reads.
pub(super) async fn drop(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let plan = plan(context)?;
    dropped(context, &plan).await
}

/// Removes the new version from the place.
pub(super) async fn dropped(context: &Context<'_>, plan: &Plan) -> Result<AttemptResult, Failure> {
    let call = context.call_to(&plan.place.system)?;
    let account = NativeId::new(&plan.place.bundle);
    Ok(destroyed(&call, account, version(plan)?, output(&plan.new.user)).await)
}

fn minted(call: &Call<'_>, plan: &Plan, mut proof: Proof) -> AttemptResult {
    proof.verified_at = Some(call.clock.now());
    proof.after = Some(json!({ "version": plan.new.version }));
    let mut output = output(&plan.new.user);
    output.insert("version".to_owned(), json!(plan.new.version));
    AttemptResult::Succeeded {
        output: Value::Object(output),
        verification: Verification::Verified,
        proof,
    }
}

pub(super) fn version(plan: &Plan) -> Result<CredentialId, Failure> {
    let version = plan.new.version();
    version.ok_or_else(|| permanent("parameter", "the plan names no new version"))
}

/// 244 random bits, of characters that need no quoting anywhere.
fn fresh() -> String {
    let (first, second) = (Uuid::new_v4().simple(), Uuid::new_v4().simple());
    format!("{first}-{second}-Aa1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_needs_no_quoting_and_is_another_each_time() {
        let (first, second) = (fresh(), fresh());
        assert_ne!(first, second);
        assert!(first.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'));
        assert!(first.len() > 64);
    }
}
