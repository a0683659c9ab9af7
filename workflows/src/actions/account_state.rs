//! `account.enable`, `account.disable`, `account.delete`: whether an account can be used.
//!
//! Take `{system}` and optionally `{account}`, the system's own identifier; without it the account is looked
//! up in the directory and then, by its owner, on the system. An account that is not there is disabled and
//! deleted already; it cannot be enabled.
//!
//! `account.disable` also takes `{due}`: the moment until which the person needs the account; one that is needed for
//! something else by then stays.
//!
//! Give `{system, account, name, changed}`.

use connectors::connector::{Claim, NativeId, Operation, OperationName};
use engine::core::case::{Failure, Mode};
use engine::core::input::AttemptResult;
use serde_json::{Value, json};

use super::apply::{Task, apply_verified};
use super::context::{Context, not_needed, permanent};
use super::recent::Happened;
use crate::directory::{GrantRow, GrantStatus, IdentityStatus};
use crate::policy::HeldBy;

pub(super) async fn enable(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let wanted = |account: NativeId| {
        let claim = Claim::AccountEnabled {
            account: account.clone(),
        };
        (Operation::EnableAccount { account }, claim)
    };
    run(context, wanted, Some(Happened::AccountOpen)).await
}

pub(super) async fn disable(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    if context.attempt.mode == Mode::Do
        && let Some(due) = context.due()?
    {
        let system = context.required("system")?;
        let holdings = context.holdings().await?;
        let now = context.actions.clock().now();
        // A right of a role that has no end, or one that was asked for, is a reason for the account.
        let keeps = |grant: &GrantRow| match grant.held_by {
            HeldBy::Policy => grant.until.is_none(),
            HeldBy::Exception => !grant.is_over(now),
            HeldBy::Unmanaged => false,
        };
        let needed = holdings.grants.iter().any(|grant| {
            grant.system == system && grant.status == GrantStatus::Active && keeps(grant)
        });
        // Whoever has left meanwhile keeps nothing.
        let active = holdings.identity.status == IdentityStatus::Active;
        if needed && active {
            return Ok(not_needed(json!({
                "system": system,
                "skipped": true,
                "kept": "the person needs the account for something else by now",
            })));
        }
        let why = "needed until then, to hand the work over";
        if let Some(waits) = context.not_due(due, why).filter(|_| active) {
            return Ok(waits);
        }
    }
    let wanted = |account: NativeId| {
        let claim = Claim::AccountDisabled {
            account: account.clone(),
        };
        (Operation::DisableAccount { account }, claim)
    };
    run(context, wanted, Some(Happened::AccountDisabled)).await
}

pub(super) async fn delete(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let wanted = |account: NativeId| {
        let claim = Claim::AccountAbsent {
            account: account.clone(),
        };
        (Operation::DeleteAccount { account }, claim)
    };
    run(context, wanted, Some(Happened::AccountDisabled)).await
}

async fn run(
    context: &Context<'_>,
    wanted: impl Fn(NativeId) -> (Operation, Claim),
    happened: Option<Happened>,
) -> Result<AttemptResult, Failure> {
    if let Some(result) = context.nothing_to_undo() {
        return Ok(result);
    }
    let call = context.call()?;
    let Some(account) = context.account(&call).await? else {
        return absent(context, &call, &wanted);
    };
    let (operation, claim) = wanted(account.clone());
    let output = context.output(&call, Some(&account));
    let task = Task {
        operation,
        claim,
        output,
    };
    let result = apply_verified(&call, task).await;
    if let (AttemptResult::Succeeded { .. }, Some(happened)) = (&result, happened) {
        context.actions.recent().note(
            call.attempt.case,
            call.system.name(),
            happened,
            account.as_str(),
        );
    }
    Ok(result)
}

/// The directory knows no identifier and the system finds no account of this owner.
fn absent(
    context: &Context<'_>,
    call: &super::apply::Call<'_>,
    wanted: &impl Fn(NativeId) -> (Operation, Claim),
) -> Result<AttemptResult, Failure> {
    let (operation, _) = wanted(NativeId::new(""));
    let system = call.system.name();
    let ends = operation.name() != OperationName::EnableAccount;
    if ends && call.system.capabilities().finds_by_owner {
        // The system was asked and has no such account.
        let mut output = context.output(call, None);
        output.insert("absent".to_owned(), Value::Bool(true));
        return Ok(not_needed(Value::Object(output)));
    }
    Err(permanent(
        "no_account",
        format!(
            "no account of `{}` is known on `{system}`, and the system cannot be searched by owner; \
             look there, then retry or skip the step saying what you found",
            context.subject()
        ),
    ))
}
