//! `grant.add`: gives a right to the person's account on `system`.
//!
//! Takes `{system, entitlement}`, optionally `{account, reasons, policy}`, and `after`, a list of rights on the
//! same system that have to be gone first. Waits for the account when another step of the case is making it.
//!
//! Gives `{system, account, entitlement, reasons, policy, changed}`.

use connectors::connector::{Claim, EntitlementName, NativeId, Operation};
use engine::core::case::{Failure, Mode};
use engine::core::input::AttemptResult;

use super::apply::{Call, Task, apply_verified};
use super::context::{Context, identity_facts, permanent};
use super::recent::Happened;

pub(super) async fn run(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    if let Some(result) = context.nothing_to_undo() {
        return Ok(result);
    }
    let call = context.call()?;
    let entitlement = EntitlementName::new(context.required("entitlement")?);
    let account = if let Some(account) = context
        .text("account")
        .filter(|account| !account.is_empty())
    {
        NativeId::new(account)
    } else if call.system.capabilities().by_hand {
        by_hand(context, &call).await?
    } else if let Mode::ReadBack = context.attempt.mode {
        // Who sent the attempt may have known of the account before the directory did: only the system can tell.
        match context.account_by_the_system(&call).await? {
            Some(account) => account,
            None => return Ok(AttemptResult::NotApplied),
        }
    } else {
        match context.wait_for(&call, &Happened::AccountOpen).await? {
            Some(account) => NativeId::new(account),
            None => {
                return Ok(context.waited_in_vain(
                    &call,
                    format!(
                        "there is no open account on `{}` yet to give `{entitlement}` to",
                        call.system.name()
                    ),
                ));
            }
        }
    };
    let waits = context.attempt.mode != Mode::ReadBack;
    for earlier in context.texts("after").into_iter().filter(|_| waits) {
        let gone = Happened::Revoked(earlier.clone());
        if !call.system.capabilities().by_hand && context.wait_for(&call, &gone).await?.is_none() {
            return Ok(context.waited_in_vain(
                &call,
                format!(
                    "`{earlier}` is not gone from `{}` yet, and `{entitlement}` comes after it",
                    call.system.name()
                ),
            ));
        }
    }
    let mut output = context.output(&call, Some(&account));
    for name in ["reasons", "policy"] {
        if let Some(value) = context.attempt.item.get(name) {
            output.insert(name.to_owned(), value.clone());
        }
    }
    let claim = Claim::Granted {
        account: account.clone(),
        entitlement: entitlement.clone(),
    };
    context.actions.recent().forget(
        call.attempt.case,
        call.system.name(),
        Happened::Revoked(entitlement.as_str().to_owned()),
    );
    let granted = entitlement.as_str().to_owned();
    let task = Task {
        operation: Operation::Grant {
            account: account.clone(),
            entitlement,
        },
        claim,
        output,
    };
    let result = apply_verified(&call, task).await;
    if let (AttemptResult::Succeeded { .. }, false) = (&result, context.attempt.mode.is_undo()) {
        let given = Happened::Granted(granted);
        let account = account.as_str();
        context
            .actions
            .recent()
            .note(call.attempt.case, call.system.name(), given, account);
    }
    Ok(result)
}

/// Where people do the work nobody waits for the account: both tasks are given at once, under the name the
/// account has or will have.
async fn by_hand(context: &Context<'_>, call: &Call<'_>) -> Result<NativeId, Failure> {
    let holdings = context.holdings().await?;
    let known = holdings
        .accounts
        .iter()
        .find(|account| account.system == call.system.name() && !account.native_id.is_empty());
    if let Some(known) = known {
        return Ok(NativeId::new(&known.native_id));
    }
    let names = call
        .system
        .candidates(&context.policy(), &identity_facts(&holdings))
        .map_err(|error| {
            context.undecided(&holdings.identity, &error.message, &error.to_string())
        })?;
    names.into_iter().next().map(NativeId::new).ok_or_else(|| {
        permanent(
            "no_account",
            format!("the template gives no name on `{}`", call.system.name()),
        )
    })
}
