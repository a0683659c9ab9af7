//! `account.delete`: deletes the account on `system`, when nothing stands against it.
//!
//! Takes `{system}`, optionally `{account}`, and `{due}`: the moment until which the system's own rule keeps it. What
//! stands against it is looked at when it is to happen, not when it was planned:
//!
//! | what | the step |
//! |---|---|
//! | it is not `due` yet | waits until then, exactly |
//! | somebody holds the person's data (`tenure identity hold`) | waits for the release, or for the end of the hold |
//! | the person has come back | is over, and nothing was deleted |
//! | it was planned, and the system keeps accounts by now | is over, and nothing was deleted |
//!
//! Gives `{system, account, name, changed}`, or `{system, kept}`: why it was not deleted.

use chrono::TimeDelta;
use engine::core::case::{Failure, Mode};
use engine::core::input::AttemptResult;
use serde_json::json;

use super::account_state;
use super::context::{Context, database, not_needed, waits};
use crate::directory::IdentityStatus;

/// How often a hold is looked at that has no end. A release wakes the step at once.
const HOLD_LOOK_AGAIN_H: i64 = 24;

pub(super) async fn run(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    // Whether it was deleted already is a question of its own.
    if context.attempt.mode == Mode::Do
        && let Some(result) = stands_against(context).await?
    {
        return Ok(result);
    }
    account_state::delete(context).await
}

async fn stands_against(context: &Context<'_>) -> Result<Option<AttemptResult>, Failure> {
    let system = context.system()?;
    let now = context.actions.clock().now();
    let kept = |why: String| {
        let output = json!({"system": system.name(), "skipped": true, "kept": why});
        Ok(Some(not_needed(output)))
    };
    if let Some(due) = context.due()? {
        let Some(identity) = context
            .actions
            .directory()
            .holdings(context.subject())
            .await
            .map_err(|error| database(&error))?
            .map(|holdings| holdings.identity)
        else {
            return kept("nobody of that key is known any more".to_owned());
        };
        if identity.generation > context.attempt.generation
            || matches!(
                identity.status,
                IdentityStatus::Active | IdentityStatus::Expected
            )
        {
            return kept("the person has come back".to_owned());
        }
        if system.delete_after().is_none() {
            return kept(format!("`{}` keeps accounts by now", system.name()));
        }
        let why = format!("`{}` keeps the account until then", system.name());
        if let Some(waits) = context.not_due(due, &why) {
            return Ok(Some(waits));
        }
    }
    let holds = context
        .actions
        .directory()
        .active_holds(context.subject(), now)
        .await
        .map_err(|error| database(&error))?;
    let Some(first) = holds.first() else {
        return Ok(None);
    };
    let look = now + TimeDelta::hours(HOLD_LOOK_AGAIN_H);
    let until = holds
        .iter()
        .map(|hold| hold.until.unwrap_or(look))
        .max()
        .map_or(look, |end| end.min(look));
    let others = match holds.len() {
        1 => String::new(),
        more => format!(", and {} more", more - 1),
    };
    let message = format!(
        "held by {} ({}){others}; `tenure identity release` ends that",
        first.placed_by, first.reason
    );
    Ok(Some(waits("legal_hold", message, until)))
}
