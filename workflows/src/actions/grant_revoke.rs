//! `grant.revoke`: takes a right from the person's account on `system`.
//!
//! Takes `{system, entitlement}` and optionally `{account}`. Gives `{system, account, entitlement, changed}`.

use connectors::connector::{Claim, EntitlementName, Operation};
use engine::core::case::Failure;
use engine::core::input::AttemptResult;
use serde_json::Value;

use super::apply::{Task, apply_verified};
use super::context::{Context, not_needed, permanent};
use super::recent::Happened;

pub(super) async fn run(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    if let Some(result) = context.nothing_to_undo() {
        return Ok(result);
    }
    let call = context.call()?;
    let entitlement = EntitlementName::new(context.required("entitlement")?);
    let Some(account) = context.account(&call).await? else {
        if call.system.capabilities().finds_by_owner {
            // The system was asked: without an account there is no right.
            let mut output = context.output(&call, None);
            output.insert("absent".to_owned(), Value::Bool(true));
            return Ok(not_needed(Value::Object(output)));
        }
        return Err(permanent(
            "no_account",
            format!(
                "no account of `{}` is known on `{}`, and the system cannot be searched by owner; \
                 look there, then retry or skip the step saying what you found",
                context.subject(),
                call.system.name()
            ),
        ));
    };
    let output = context.output(&call, Some(&account));
    let claim = Claim::NotGranted {
        account: account.clone(),
        entitlement: entitlement.clone(),
    };
    let happened = Happened::Revoked(entitlement.as_str().to_owned());
    let task = Task {
        operation: Operation::Revoke {
            account: account.clone(),
            entitlement,
        },
        claim,
        output,
    };
    let result = apply_verified(&call, task).await;
    if matches!(result, AttemptResult::Succeeded { .. }) {
        context.actions.recent().note(
            call.attempt.case,
            call.system.name(),
            happened,
            account.as_str(),
        );
    }
    Ok(result)
}
