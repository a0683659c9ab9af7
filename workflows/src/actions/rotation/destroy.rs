//! The end of the old credential: `rotation.disable_old`, `.contain_old`, `.contain_new`, `.soak`, `.destroy_old`, `.clean`.
//!
//! All take `{plan}`. `disable_old` gives `{user, soak_until}`. Each but the last tries the new one first: nothing is taken from the
//! old one while the new one does not work. What a system refuses to destroy is asked of whoever answers for the identity, with
//! a deadline: the rotation is `irrevocable` until they say that it is done.

use connectors::connector::{Claim, CredentialId, NativeId, Operation, OperationName};
use engine::core::case::{Failure, FailureClass, Mode};
use engine::core::input::AttemptResult;
use secrecy::ExposeSecret as _;
use serde_json::Value;

use super::super::apply::{Call, Task, apply_verified};
use super::super::context::{Context, not_needed, unverified};
use super::promote::until;
use super::{Login, Plan, blocked, destroyed, kept, new_works, output, patient, plan, trust};
use crate::directory::IRREVOCABLE_DUE;
use crate::nhi::declare::ReplaceMode;
use crate::rotation::settings::PART_ID;

pub(super) async fn disable(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let plan = plan(context)?;
    if let Some(waits) = new_works(context, &plan).await? {
        return Ok(waits);
    }
    let call = context.call_to(&plan.system)?;
    let (account, credential) = (plan.old.account(), plan.old.credential());
    let mut output = output(&plan.old.user);
    until(context, &mut output, "soak_until", plan.soak_s);
    let task = if plan.is_issued() {
        Task {
            operation: Operation::DeactivateCredential {
                account: account.clone(),
                credential: credential.clone(),
            },
            claim: Claim::CredentialInactive {
                account,
                credential,
            },
            output,
        }
    } else {
        Task {
            operation: Operation::DisableAccount {
                account: account.clone(),
            },
            claim: Claim::AccountDisabled { account },
            output,
        }
    };
    Ok(or_waits(context, apply_verified(&call, task).await))
}

pub(super) async fn enable(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let plan = plan(context)?;
    if let Some(nothing) = context.nothing_to_undo() {
        return Ok(nothing);
    }
    let call = context.call_to(&plan.system)?;
    let account = plan.old.account();
    let output = output(&plan.old.user);
    let task = if plan.is_issued() {
        Task::activate(account, plan.old.credential(), output)
    } else {
        Task {
            operation: Operation::EnableAccount {
                account: account.clone(),
            },
            claim: Claim::AccountEnabled { account },
            output,
        }
    };
    Ok(apply_verified(&call, task).await)
}

/// Ends what is open with the old one, at once.
pub(super) async fn contain(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let plan = plan(context)?;
    ended_sessions(context, &plan, &plan.old).await
}

/// Ends what is open under the name that has got the new one: with what it had before, because nobody has read the new one yet.
pub(super) async fn contain_new(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let plan = plan(context)?;
    if plan.taken_up {
        // It is in use already, and was not named.
        return Ok(not_needed(Value::Object(output(&plan.new.user))));
    }
    ended_sessions(context, &plan, &plan.new).await
}

async fn ended_sessions(
    context: &Context<'_>,
    plan: &Plan,
    side: &Login,
) -> Result<AttemptResult, Failure> {
    let call = context.call_to(&plan.system)?;
    let output = output(&side.user);
    if !call.system.can(OperationName::EndSessions) {
        let why = format!("`{}` cannot end what is open", plan.system);
        return Ok(unverified(Value::Object(output), why));
    }
    let account = side.account();
    let task = Task {
        operation: Operation::EndSessions {
            account: account.clone(),
        },
        claim: Claim::NoSessions { account },
        output,
    };
    Ok(apply_verified(&call, task).await)
}

pub(super) async fn soak(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let plan = plan(context)?;
    if let Some(waits) = new_works(context, &plan).await? {
        return Ok(waits);
    }
    Ok(not_needed(Value::Object(output(&plan.old.user))))
}

pub(super) async fn run(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let plan = plan(context)?;
    let (account, credential) = (plan.old.account(), plan.old.credential());
    let call = context.call_to(&plan.system)?;
    if context.attempt.mode == Mode::Do
        && let Some(waits) = new_works(context, &plan).await?
    {
        return Ok(waits);
    }
    if plan.mode == ReplaceMode::Reissue
        && let Some(result) = leftovers(context, &plan, &call).await?
    {
        return Ok(result);
    }
    let output = output(&plan.old.user);
    let result = if plan.is_issued() {
        destroyed(&call, account, credential, output).await
    } else {
        // A password is gone or it is not; there is nothing between.
        let task = Task {
            operation: Operation::DestroyCredential {
                account: account.clone(),
                credential: credential.clone(),
            },
            claim: Claim::CredentialInactive {
                account,
                credential,
            },
            output,
        };
        apply_verified(&call, task).await
    };
    Ok(match result {
        AttemptResult::Failed { failure, .. } if failure.class == FailureClass::Permanent => {
            by_hand(&plan, &failure)
        }
        other => other,
    })
}

/// Ends what was issued into the place by rotations that did not get to their end, and that nobody reads. Gives what keeps it
/// from that.
async fn leftovers(
    context: &Context<'_>,
    plan: &Plan,
    call: &Call<'_>,
) -> Result<Option<AttemptResult>, Failure> {
    let place = context.call_to(&plan.place.system)?;
    for version in &plan.stale {
        let version = CredentialId::new(version);
        let at = match kept(&place, &plan.place, &version, PART_ID).await {
            Ok(at) => at,
            // It does not say what it is, so nothing says that it was issued.
            Err(failure) if failure.class == FailureClass::Permanent => None,
            Err(failure) => return Err(failure),
        };
        let id = at.and_then(|at| at.resolve().ok());
        let Some(id) = id.map(|id| CredentialId::new(id.expose_secret())) else {
            continue;
        };
        if [plan.old.credential(), plan.new.credential()].contains(&id) {
            continue;
        }
        let result = destroyed(call, plan.old.account(), id, output(&plan.old.user)).await;
        if !matches!(result, AttemptResult::Succeeded { .. }) {
            return Ok(Some(or_waits(context, result)));
        }
    }
    Ok(None)
}

/// What no program can end, somebody has to.
fn by_hand(plan: &Plan, failure: &Failure) -> AttemptResult {
    AttemptResult::NeedsHuman {
        title: format!("End the old credential of `{}`", plan.old.user),
        instructions: format!(
            "`{}` was replaced, and the old credential of `{}` on `{}` could not be ended: {}. It is out of use and can be put \
             back by whoever may. End it by hand, and say how it was seen that it is gone.",
            plan.credential, plan.old.user, plan.system, failure.message
        ),
        assignee: format!("person:{}", plan.owner),
        due_after_ms: u64::try_from(IRREVOCABLE_DUE.num_milliseconds()).unwrap_or(0),
        proof_required: true,
        output: Value::Object(output(&plan.old.user)),
    }
}

/// Removes what the place keeps of the old one, and what earlier rotations left there. From here on there is no way back.
pub(super) async fn clean(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let plan = plan(context)?;
    if plan.mode == ReplaceMode::FourPhase {
        return patient(context, trust::clean(context, &plan).await);
    }
    let call = context.call_to(&plan.place.system)?;
    let account = NativeId::new(&plan.place.bundle);
    let versions = plan.stale.iter().chain(&plan.old.version);
    let mut result = not_needed(Value::Object(output(&plan.old.user)));
    for version in versions {
        let credential = CredentialId::new(version);
        let output = output(&plan.old.user);
        result = destroyed(&call, account.clone(), credential, output).await;
        if !matches!(result, AttemptResult::Succeeded { .. }) {
            break;
        }
    }
    Ok(or_waits(context, result))
}

/// Those who use it read the new one already: what fails for good waits for a person instead of taking all back.
fn or_waits(context: &Context<'_>, result: AttemptResult) -> AttemptResult {
    match result {
        AttemptResult::Failed { failure, .. } if failure.class == FailureClass::Permanent => {
            blocked(context, failure.message)
        }
        other => other,
    }
}
