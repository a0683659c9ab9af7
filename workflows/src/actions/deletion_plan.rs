//! `deletion.plan`: starts the case that deletes the accounts of somebody who has left, after the time that each system
//! keeps them.
//!
//! A case of its own, so that the end of access is closed when access has ended, and whatever comes in between finds
//! nobody in its way: another end does its work at once, and whoever comes back supersedes it, for it belongs to the
//! life that has ended. It is named after the case that starts it, so starting it twice makes one.
//!
//! Takes optionally `{workflow}`. Gives `{case, accounts: [{system, account, name, due}]}`, or `{skipped: true}` where no
//! system deletes accounts.

use engine::core::case::Failure;
use engine::core::input::AttemptResult;
use serde_json::{Value, json};

use super::case_follow::follow;
use super::context::{Context, not_needed};
use crate::directory::AccountStatus;

/// The workflow that is started where the step names none.
const WORKFLOW: &str = "deletion";

pub(super) async fn run(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let now = context.actions.clock().now();
    let holdings = context.holdings().await?;
    let mut last = None;
    let mut accounts = Vec::new();
    for account in &holdings.accounts {
        let known = !matches!(
            account.status,
            AccountStatus::Deleted | AccountStatus::Planned
        );
        let system = context.actions.systems().get(&account.system);
        let Some(after) = system.and_then(|system| system.delete_after()) else {
            continue;
        };
        if !known {
            continue;
        }
        let due = now + after.delta();
        last = last.max(Some(due));
        accounts.push(json!({
            "system": account.system,
            "account": account.native_id,
            "name": account.name,
            "due": due.to_rfc3339(),
        }));
    }
    if accounts.is_empty() {
        return Ok(not_needed(json!({"skipped": true})));
    }
    let workflow = context.text("workflow").unwrap_or(WORKFLOW);
    let input = json!({ "accounts": accounts });
    let case = follow(context, workflow, input, last).await?;
    Ok(not_needed(json!({
        "case": case.to_string(),
        "accounts": Value::Array(accounts),
    })))
}
