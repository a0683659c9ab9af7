//! `sessions.revoke`: ends what the person has open on `system` at this moment.
//!
//! Takes `{system}`, optionally `{account}`, and `after_disable: true`: wait until another step of the case has
//! disabled the account, so that nothing is opened again behind it.
//!
//! Gives `{system, account, changed}`. A system that cannot end sessions gives `{skipped: true, gap}`: nothing
//! was done, the sentence says what that leaves open, and the step counts as unverified, because nobody saw that
//! nothing is open. A system where nobody is ever logged in gives `{skipped: true}`, and nothing is left open.

use connectors::connector::{Claim, Operation, OperationName};
use engine::core::case::Failure;
use engine::core::input::AttemptResult;
use serde_json::{Value, json};

use super::apply::{Task, apply_verified};
use super::context::{Context, not_needed, unverified};
use super::recent::Happened;
use crate::systems::Sessions;

pub(super) async fn run(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let call = context.call()?;
    let system = call.system.name();
    if !call.system.can(OperationName::EndSessions) {
        return Ok(match call.system.sessions() {
            Sessions::None => not_needed(json!({"system": system, "skipped": true})),
            Sessions::Possible => {
                let gap = format!(
                    "`{system}` cannot end sessions: what is open there stays open until it ends by itself"
                );
                let output = json!({"system": system, "skipped": true, "gap": gap});
                unverified(output, gap)
            }
        });
    }
    // A person is told at once; they end sessions after they locked the account, or before, as they see fit.
    if context.truth("after_disable")
        && !call.system.capabilities().by_hand
        && context
            .wait_for(&call, &Happened::AccountDisabled)
            .await?
            .is_none()
    {
        return Ok(context.waited_in_vain(
            &call,
            format!("the account on `{system}` is not disabled yet; sessions are ended after it"),
        ));
    }
    let Some(account) = context.account(&call).await? else {
        let mut output = context.output(&call, None);
        output.insert("absent".to_owned(), Value::Bool(true));
        return Ok(not_needed(Value::Object(output)));
    };
    let output = context.output(&call, Some(&account));
    let task = Task {
        operation: Operation::EndSessions {
            account: account.clone(),
        },
        claim: Claim::NoSessions { account },
        output,
    };
    Ok(apply_verified(&call, task).await)
}
