//! `rotation.generate`: the next authority, which signs nothing yet.
//!
//! Takes `{plan}`. Gives `{user, credential, expires_at}`. It keeps its own key: nothing secret comes out. One effect has one key,
//! so asked again it is the same; what an earlier rollover left behind is taken up and not made again, unless strangers know it: then
//! that one ends first. `rotation.discard` destroys it, which its system refuses while something that it signed is good.

use connectors::connector::{
    Attributes, Claim, Connector as _, Credential, CredentialId, CredentialKind, ErrorKind,
    HandOver, Material, NewCredential, Operation, Outcome, Verdict,
};
use engine::core::case::{Failure, Mode, Verification};
use engine::core::input::AttemptResult;
use engine::core::proof::Proof;
use serde_json::{Value, json};

use super::super::apply::{Call, failed, failure};
use super::super::context::{Context, not_needed, permanent};
use super::{Plan, destroyed, full, listed, output, plan, sign, there_already, trust};
use crate::rotation::bundle::Trusts;

pub(super) async fn run(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let plan = plan(context)?;
    let call = context.call_to(&plan.system)?;
    let mut proof = Proof {
        system: Some(plan.system.clone()),
        operation: Some("issue_credential".to_owned()),
        object: Some(plan.new.account.clone()),
        ..Proof::default()
    };
    if !plan.new.credential.is_empty() {
        let gone = format!(
            "`{}` was there to be taken up and is not any more; the next rotation makes another",
            plan.new.credential
        );
        let found = there_already(&call, &plan, "authority", gone).await?;
        proof.already_so = true;
        return Ok(done(&call, &plan, &found, proof));
    }
    if let Some(made) = made(&call, &plan).await? {
        return Ok(done(&call, &plan, &made, proof));
    }
    if context.attempt.mode != Mode::Do {
        return Ok(AttemptResult::NotApplied);
    }
    if let Some(result) = spare_ended(context, &plan, &call).await? {
        return Ok(result);
    }
    let operation = Operation::IssueCredential(NewCredential {
        account: plan.new.account(),
        kind: CredentialKind::Certificate,
        material: Material::BySystem,
        attributes: Attributes::new(),
        lifetime_s: None,
        label: Some(plan.nhi.clone()),
        // What it hands over is what everybody may see; it is read again when it is needed.
        into: HandOver::slot().0,
    });
    proof.sent_at = Some(call.clock.now());
    match call.connector.apply(&operation, &call.key("")).await {
        Ok(Outcome::Done(receipt) | Outcome::AlreadySo(receipt)) => {
            proof.acknowledged_at = Some(call.clock.now());
            proof.request_id = receipt.request_id;
            Ok(match made(&call, &plan).await? {
                Some(made) => done(&call, &plan, &made, proof),
                None => AttemptResult::AnswerLost {
                    reason: "a read does not show what was made".to_owned(),
                    proof,
                },
            })
        }
        Ok(Outcome::Ambiguous { reason }) => Ok(AttemptResult::AnswerLost { reason, proof }),
        Ok(Outcome::Accepted(_) | Outcome::NeedsHuman(_)) => Err(permanent(
            "issue",
            format!("`{}` does not make an authority at once", plan.system),
        )),
        // Somebody made another meanwhile: it has to be looked at first.
        Err(error) if error.kind == ErrorKind::Full => Ok(full(&error, proof)),
        Err(error) => Ok(failed(&call, &error, proof)),
    }
}

/// Ends the one that waits to sign and that strangers know, before another is made: never more than two are trusted. Nobody is refused
/// for it, because nothing good was signed by it. What keeps it from that, if something does.
async fn spare_ended(
    context: &Context<'_>,
    plan: &Plan,
    call: &Call<'_>,
) -> Result<Option<AttemptResult>, Failure> {
    for spare in &plan.spare {
        let mut before = plan.clone();
        spare.clone_into(&mut before.new.credential);
        let (account, credential) = (before.new.account(), before.new.credential());
        let there = listed(call, &account, &credential).await;
        if !there.map_err(|error| failure(call.system.name(), &error))? {
            // An attempt before this one has ended it.
            continue;
        }
        let result = sign::old_signs(context, &before).await?;
        if !matches!(result, AttemptResult::Succeeded { .. }) {
            return Ok(Some(result));
        }
        if let Some(result) = trust::everywhere(context, &before, Trusts::Old).await? {
            return Ok(Some(result));
        }
        let result = destroyed(call, account, credential, output(&plan.new.user)).await;
        if !matches!(result, AttemptResult::Succeeded { .. }) {
            return Ok(Some(result));
        }
    }
    Ok(None)
}

/// What was made under the key of this effect.
async fn made(call: &Call<'_>, plan: &Plan) -> Result<Option<Credential>, Failure> {
    let claim = Claim::CredentialIssued {
        account: plan.new.account(),
        key: call.key("").idempotency,
    };
    match call.connector.verify(&claim).await {
        Ok(Verdict::Proven(seen)) => {
            let made = seen.credential().ok_or_else(|| {
                permanent(
                    "issue",
                    format!("`{}` does not say what it made", plan.system),
                )
            })?;
            if made.active == Some(false) {
                return Err(permanent(
                    "authority",
                    format!(
                        "`{}` was made by this rotation and destroyed by somebody; the next rotation makes another",
                        made.id
                    ),
                ));
            }
            Ok(Some(made))
        }
        Ok(Verdict::Refuted(_)) => Ok(None),
        Ok(Verdict::CannotObserve { reason }) => Err(permanent("issue", reason)),
        Err(error) => Err(failure(call.system.name(), &error)),
    }
}

fn done(call: &Call<'_>, plan: &Plan, made: &Credential, mut proof: Proof) -> AttemptResult {
    proof.verified_at = Some(call.clock.now());
    proof.after = Some(json!({ "credential": made.id, "expires_at": made.expires_at }));
    let mut output = output(&plan.new.user);
    output.insert("credential".to_owned(), json!(made.id));
    output.insert("expires_at".to_owned(), json!(made.expires_at));
    AttemptResult::Succeeded {
        output: Value::Object(output),
        verification: Verification::Verified,
        proof,
    }
}

/// Destroys it again.
pub(super) async fn discard(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let mut plan = plan(context)?;
    let call = context.call_to(&plan.system)?;
    let made = context.attempt.output.get("credential");
    let Some(made) = made.and_then(Value::as_str) else {
        return Ok(not_needed(Value::Null));
    };
    made.clone_into(&mut plan.new.credential);
    // A step that was broken off may have put its root somewhere.
    if let Some(result) = trust::everywhere(context, &plan, Trusts::Old).await? {
        return Ok(result);
    }
    let credential = CredentialId::new(made);
    let output = output(&plan.new.user);
    Ok(destroyed(&call, plan.new.account(), credential, output).await)
}
