//! `account.update`: writes the attributes that the account template gives for the person as they are now.
//!
//! Takes `{system}` and optionally `{account}`. Gives `{system, account, name, attributes_digest, changed}`.

use connectors::connector::{Claim, Operation, OperationName};
use engine::core::case::Failure;
use engine::core::input::AttemptResult;
use serde_json::{Value, json};

use super::apply::{Task, apply_verified};
use super::context::{Context, identity_facts, not_needed, permanent};
use crate::systems::attributes_digest;

pub(super) async fn run(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let call = context.call()?;
    let holdings = context.holdings().await?;
    let attributes = call
        .system
        .attributes(&context.policy(), &identity_facts(&holdings))
        .map_err(|error| {
            context.undecided(&holdings.identity, &error.message, &error.to_string())
        })?;
    let Some(account) = context.account(&call).await? else {
        return Err(permanent(
            "no_account",
            format!(
                "there is no account of `{}` on `{}` to write to",
                context.subject(),
                call.system.name()
            ),
        ));
    };
    let mut output = context.output(&call, Some(&account));
    output.insert(
        "attributes_digest".to_owned(),
        json!(attributes_digest(&attributes)),
    );
    if attributes.is_empty() || !call.system.can(OperationName::UpdateAccount) {
        output.insert("changed".to_owned(), Value::Bool(false));
        return Ok(not_needed(Value::Object(output)));
    }
    let task = Task {
        claim: Claim::AttributesAre {
            account: account.clone(),
            attributes: attributes.clone(),
        },
        operation: Operation::UpdateAccount {
            account,
            attributes,
        },
        output,
    };
    Ok(apply_verified(&call, task).await)
}
