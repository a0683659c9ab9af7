//! `grant.revoke`: takes a right from the person's account on `system`.
//!
//! Takes `{system, entitlement}` and optionally `{account}`; `after_added`, a list of rights on the same system that have to
//! be given first; and `{due}`: the moment until which the person keeps it, to hand their work over. What is due is looked
//! at when it is: a right that the person has for another reason by then stays.
//!
//! Gives `{system, account, entitlement, changed}`, or `{system, entitlement, kept}`.

use connectors::connector::{Claim, EntitlementName, Operation};
use engine::core::case::{Failure, Mode};
use engine::core::input::AttemptResult;
use serde_json::{Value, json};

use super::apply::{Task, apply_verified};
use super::context::{Context, not_needed, permanent};
use super::recent::Happened;
use crate::directory::{GrantStatus, IdentityStatus};

pub(super) async fn run(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    if let Some(result) = context.nothing_to_undo() {
        return Ok(result);
    }
    let call = context.call()?;
    let entitlement = EntitlementName::new(context.required("entitlement")?);
    if context.attempt.mode == Mode::Do {
        if let Some(due) = context.due()? {
            let holdings = context.holdings().await?;
            let stays = holdings.grants.iter().any(|grant| {
                grant.system == call.system.name()
                    && grant.entitlement == entitlement.as_str()
                    && grant.status == GrantStatus::Active
                    && grant.until.is_none()
            });
            // Whoever has left meanwhile keeps nothing.
            let active = holdings.identity.status == IdentityStatus::Active;
            if stays && active {
                return Ok(not_needed(json!({
                    "system": call.system.name(),
                    "entitlement": entitlement,
                    "skipped": true,
                    "kept": "the person has it for another reason by now",
                })));
            }
            let why = "kept until then, to hand the work over";
            if let Some(waits) = context.not_due(due, why).filter(|_| active) {
                return Ok(waits);
            }
        }
        for added in context.texts("after_added") {
            let given = Happened::Granted(added.clone());
            if !call.system.capabilities().by_hand
                && context.wait_for(&call, &given).await?.is_none()
            {
                return Ok(context.waited_in_vain(
                    &call,
                    format!(
                        "`{added}` is not given on `{}` yet, and `{entitlement}` goes after it",
                        call.system.name()
                    ),
                ));
            }
        }
    }
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
