//! One account of a non-human identity: rehearsed, put out of use, put back, deleted. Each is read back.

use connectors::connector::{Claim, NativeId, Operation, OperationName};
use engine::core::case::{Failure, FailureClass, Mode, Verification};
use engine::core::input::AttemptResult;
use engine::core::proof::Proof;
use serde_json::{Map, Value, json};

use crate::actions::apply::{Call, Part, Task, apply_part, apply_verified};
use crate::actions::context::{Context, permanent, unverified};

struct It<'a> {
    call: Call<'a>,
    account: NativeId,
    output: Map<String, Value>,
}

impl<'a> It<'a> {
    fn of(context: &Context<'a>) -> Result<Self, Failure> {
        let call = context.call()?;
        let account = NativeId::new(context.required("account")?);
        let output = context.output(&call, Some(&account));
        Ok(Self {
            call,
            account,
            output,
        })
    }

    fn disable(&self) -> (Operation, Claim) {
        let account = self.account.clone();
        let claim = Claim::AccountDisabled {
            account: account.clone(),
        };
        (Operation::DisableAccount { account }, claim)
    }

    fn enable(&self) -> (Operation, Claim) {
        let account = self.account.clone();
        let claim = Claim::AccountEnabled {
            account: account.clone(),
        };
        (Operation::EnableAccount { account }, claim)
    }

    async fn apply(self, (operation, claim): (Operation, Claim)) -> AttemptResult {
        let task = Task {
            operation,
            claim,
            output: self.output,
        };
        apply_verified(&self.call, task).await
    }
}

pub(super) async fn disable(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let it = It::of(context)?;
    let wanted = it.disable();
    Ok(it.apply(wanted).await)
}

pub(super) async fn enable(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    if let Some(result) = context.nothing_to_undo() {
        return Ok(result);
    }
    let it = It::of(context)?;
    let wanted = it.enable();
    Ok(it.apply(wanted).await)
}

pub(super) async fn delete(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let it = It::of(context)?;
    if !it.call.system.can(OperationName::DeleteAccount) {
        let gap = format!(
            "`{}` cannot delete accounts: `{}` stays there, out of use",
            it.call.system.name(),
            it.account
        );
        let mut output = it.output;
        output.insert("gap".to_owned(), json!(gap));
        return Ok(unverified(Value::Object(output), gap));
    }
    let account = it.account.clone();
    let claim = Claim::AccountAbsent {
        account: account.clone(),
    };
    let wanted = (Operation::DeleteAccount { account }, claim);
    Ok(it.apply(wanted).await)
}

/// Out of use and back, whatever happens in between: an attempt that is repeated begins by putting it back.
///
/// Gives `{system, account, restore_ms}`: from asking for it back until a read shows it.
pub(super) async fn rehearse(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let it = It::of(context)?;
    let clock = it.call.clock;
    let started_at = clock.now();
    let mut proof = Proof {
        system: Some(it.call.system.name().to_owned()),
        operation: Some("rehearse".to_owned()),
        object: Some(it.account.as_str().to_owned()),
        sent_at: Some(started_at),
        ..Proof::default()
    };
    // What was out of use when it was looked at stays so: there is nothing to break, and nothing to measure.
    if context.value("enabled") == Some(&Value::Bool(false)) {
        let mut output = it.output;
        output.insert("restore_ms".to_owned(), json!(0));
        output.insert("skipped".to_owned(), json!("it was out of use before"));
        return Ok(AttemptResult::Succeeded {
            output: Value::Object(output),
            verification: Verification::NotNeeded,
            proof,
        });
    }
    // An attempt before this one may have ended in the middle.
    let is_first = it.call.attempt.attempt <= 1 && it.call.attempt.mode == Mode::Do;
    if !is_first && let Err(result) = back(&it, &mut proof).await {
        return Ok(*result);
    }
    if let Err(result) = done(&it, it.disable(), " out", &mut proof).await {
        // Nobody may be left without it because a rehearsal ended in the middle.
        let _ = back(&it, &mut proof).await;
        return Ok(*result);
    }
    let asked_at = clock.now();
    if let Err(result) = back(&it, &mut proof).await {
        return Ok(*result);
    }
    let restored_at = clock.now();
    let restore_ms = u64::try_from((restored_at - asked_at).num_milliseconds()).unwrap_or(0);
    proof.acknowledged_at = Some(restored_at);
    proof.verified_at = Some(restored_at);
    proof.after = Some(json!({ "restore_ms": restore_ms }));
    let mut output = it.output;
    output.insert("restore_ms".to_owned(), json!(restore_ms));
    Ok(AttemptResult::Succeeded {
        output: Value::Object(output),
        verification: Verification::Verified,
        proof,
    })
}

/// How often putting it back is tried within one attempt.
const BACK_TRIES_MAX: u32 = 3;

/// Puts it back, by all means: whatever fails about that is tried again, for a program may be waiting for it.
async fn back(it: &It<'_>, proof: &mut Proof) -> Result<(), Box<AttemptResult>> {
    let mut tries = 0;
    loop {
        tries += 1;
        let Err(result) = done(it, it.enable(), " back", proof).await else {
            return Ok(());
        };
        if tries < BACK_TRIES_MAX {
            continue;
        }
        let AttemptResult::Failed { failure, proof } = *result else {
            return Err(result);
        };
        return Err(Box::new(AttemptResult::Failed {
            failure: Failure {
                kind: "not_put_back".to_owned(),
                message: format!(
                    "`{}` on `{}` was put out of use to rehearse, and could not be put back: {}; put it back there by hand",
                    it.account,
                    it.call.system.name(),
                    failure.message
                ),
                class: FailureClass::Retry,
            },
            proof,
        }));
    }
}

/// Applies something and sees it; else the result of the attempt.
async fn done(
    it: &It<'_>,
    (operation, claim): (Operation, Claim),
    part: &str,
    proof: &mut Proof,
) -> Result<(), Box<AttemptResult>> {
    let system = it.call.system.name();
    let failure = match apply_part(&it.call, &operation, &claim, part, proof).await? {
        Part::Seen => return Ok(()),
        Part::Later => permanent(
            "not_rehearsed",
            format!(
                "`{system}` does not {} at once, so putting it back cannot be measured",
                operation.name().as_str()
            ),
        ),
        Part::Unseen(_) | Part::Refuted(_) => Failure {
            kind: "refuted".to_owned(),
            message: format!(
                "`{system}` says that {} is done, and no read shows it",
                operation.name().as_str()
            ),
            class: FailureClass::Retry,
        },
    };
    Err(Box::new(AttemptResult::Failed {
        failure,
        proof: proof.clone(),
    }))
}
