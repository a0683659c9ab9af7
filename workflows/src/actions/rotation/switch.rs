//! `rotation.switch`: where a system has room for one secret, the new one takes the place of the old one.
//!
//! Takes `{plan}`. Gives `{user}`. The system is given the secret that the place keeps, a login shows it, and the place shows it:
//! in one attempt, because between the first and the last those who use it are refused. After a crash it is looked what is so,
//! and the rest is done again. `rotation.switch_back` does the same with the old one, as long as the place keeps it.

use connectors::connector::{Claim, Connector as _, Verdict};
use engine::core::case::{Failure, FailureClass, Mode};
use engine::core::input::AttemptResult;

use super::super::apply::{apply_verified, failure};
use super::super::context::Context;
use super::promote::{old_version, shown};
use super::stage::given;
use super::{Login, Plan, blocked, output, plan};

/// How often in a row the place is told to show it before that is told and waited for.
const TRIES_MAX: u32 = 10;

pub(super) async fn run(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let plan = plan(context)?;
    let new = plan.new.clone();
    to(context, &plan, &new).await
}

pub(super) async fn back(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let plan = plan(context)?;
    old_version(&plan)?;
    let old = plan.old.clone();
    to(context, &plan, &old).await
}

async fn to(context: &Context<'_>, plan: &Plan, login: &Login) -> Result<AttemptResult, Failure> {
    let set = given(context, plan, login).await?;
    let Some(version) = login.version() else {
        return Ok(AttemptResult::NotApplied);
    };
    let call = context.call_to(&plan.system)?;
    let place = context.call_to(&plan.place.system)?;
    let show = shown(plan, version, output(&login.user));
    if matches!(context.attempt.mode, Mode::ReadBack | Mode::UndoReadBack) {
        // The second of the two is what ends it: with the first alone the rest is still to be done.
        let claims: [(&_, &Claim); 2] = [(&call, &set.claim), (&place, &show.claim)];
        for (call, claim) in claims {
            match call.connector.verify(claim).await {
                Ok(Verdict::Proven(_)) => {}
                Ok(Verdict::Refuted(_) | Verdict::CannotObserve { .. }) => {
                    return Ok(AttemptResult::NotApplied);
                }
                Err(error) => return Err(failure(call.system.name(), &error)),
            }
        }
        return Ok(apply_verified(&place, show).await);
    }
    match apply_verified(&call, set).await {
        AttemptResult::Succeeded { .. } => {
            Ok(on_or_waits(context, apply_verified(&place, show).await))
        }
        other => Ok(other),
    }
}

/// The system has the secret already, so nobody may throw it away: what goes on failing waits.
fn on_or_waits(context: &Context<'_>, result: AttemptResult) -> AttemptResult {
    match result {
        AttemptResult::Failed { failure, .. }
            if !context.attempt.mode.is_undo()
                && (failure.class == FailureClass::Permanent
                    || failure.class == FailureClass::Retry
                        && context.attempt.attempt >= TRIES_MAX) =>
        {
            blocked(context, failure.message)
        }
        other => other,
    }
}
