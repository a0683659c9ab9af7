//! `grant.keep`: a right that was asked about stays.
//!
//! Takes `{system, entitlement}` and optionally `{held_by, ends}`; `held_by` is `exception` where no role gives it, and `policy`
//! where one does by now. An exception ends at `ends`, or after the time that the policy says, counted from now: an event that
//! waits until then is written first. Its name follows from what it says, so keeping again until then makes no second.
//!
//! Gives the same, and of an exception `ends` and `tell`: when whoever answers for the person is told before. Nothing outside is
//! touched: the projection of the finished step takes away the end that the right had while the question was open, and notes
//! why it is held from now on, and until when.

use chrono::SubsecRound as _;
use engine::core::case::Failure;
use engine::core::input::AttemptResult;
use serde_json::{Value, json};

use super::context::{Context, database, not_needed, permanent};
use crate::directory::GrantStatus;
use crate::intake::{ExceptionEnd, IntakeError};
use crate::policy::HeldBy;

pub(super) async fn run(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let (system, entitlement) = (
        context.required("system")?,
        context.required("entitlement")?,
    );
    let mut output = serde_json::Map::new();
    output.insert("system".to_owned(), json!(system));
    output.insert("entitlement".to_owned(), json!(entitlement));
    let held_by = match context.text("held_by") {
        None => None,
        Some("exception") => Some(HeldBy::Exception),
        Some("policy") => Some(HeldBy::Policy),
        Some(other) => {
            let message =
                format!("`held_by` is `{other}`; write `exception` or `policy`, or leave it out");
            return Err(permanent("parameter", message));
        }
    };
    if let Some(held_by) = held_by {
        output.insert("held_by".to_owned(), json!(held_by));
    }
    let holdings = context.holdings().await?;
    let held = holdings.grants.iter().find(|held| {
        held.status == GrantStatus::Active
            && held.system == system
            && held.entitlement == entitlement
    });
    // What went meanwhile has no end to come.
    if held.is_some_and(|held| held_by.unwrap_or(held.held_by) == HeldBy::Exception) {
        let (now, policy) = (context.actions.clock().now(), context.policy());
        let rules = policy.exceptions();
        let at = match context.moment("ends")? {
            Some(ends) => ends,
            None => rules.end(now, None),
        };
        // As both databases keep it.
        let at = at.trunc_subsecs(6);
        let end = ExceptionEnd {
            key: context.subject(),
            system,
            entitlement,
            at,
        };
        let intake = context.actions.intake().ok_or_else(|| {
            permanent(
                "configuration",
                "this process takes in no facts, so it cannot plan the end of an exception",
            )
        })?;
        intake
            .plan_exception_end(&end, now)
            .await
            .map_err(|error| match error {
                IntakeError::Store(error) => database(&error),
                refused => permanent("refused", refused.to_string()),
            })?;
        let told = rules.told_before(at, now);
        let told = told
            .iter()
            .map(|(before, at)| json!({ "before": before, "at": at }));
        output.insert("ends".to_owned(), json!(at));
        output.insert("tell".to_owned(), told.collect());
    }
    Ok(not_needed(Value::Object(output)))
}
