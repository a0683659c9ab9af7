//! `rotation.quiesce`: waits until nothing uses the old credential any more.
//!
//! Takes `{plan}`. Gives `{user, looks, new_in_use}`. What can be seen of use are open sessions, looked for several times in a row:
//! one that comes and goes between two looks is not seen. So the old one is put out of use in a way that can be taken back, and
//! soaks, before it is destroyed. A system that shows no sessions makes the step `unverified`.

use std::time::Duration;

use connectors::connector::{Claim, ClaimName, Connector as _, Verdict};
use engine::core::case::{Failure, Verification};
use engine::core::input::AttemptResult;
use engine::core::proof::Proof;
use serde_json::{Value, json};

use super::super::apply::failure;
use super::super::context::{Context, unverified};
use super::{blocked, output, plan};

/// How often it is looked, and the pause between two looks.
const LOOKS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 200 });

pub(super) async fn run(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let plan = plan(context)?;
    let call = context.call_to(&plan.system)?;
    let mut output = output(&plan.old.user);
    if !call
        .system
        .capabilities()
        .claims
        .contains(&ClaimName::NoSessions)
    {
        let why = format!(
            "`{}` does not show who is logged in, so nobody saw that nothing uses the old one",
            plan.system
        );
        return Ok(unverified(Value::Object(output), why));
    }
    let old = Claim::NoSessions {
        account: plan.old.account(),
    };
    let mut seen = Value::Null;
    for look in 0..LOOKS {
        if look > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        match call.connector.verify(&old).await {
            Ok(Verdict::Proven(found)) => seen = found.seen,
            Ok(Verdict::Refuted(found)) => {
                return Ok(blocked(
                    context,
                    format!(
                        "`{}` is still logged in on `{}` ({}); it goes on when that has ended",
                        plan.old.user, plan.system, found.seen
                    ),
                ));
            }
            Ok(Verdict::CannotObserve { reason }) => {
                return Ok(unverified(Value::Object(output), reason));
            }
            Err(error) => return Err(failure(call.system.name(), &error)),
        }
    }
    let new = Claim::NoSessions {
        account: plan.new.account(),
    };
    let in_use = match call.connector.verify(&new).await {
        Ok(Verdict::Refuted(_)) => Some(true),
        Ok(Verdict::Proven(_)) => Some(false),
        Ok(Verdict::CannotObserve { .. }) | Err(_) => None,
    };
    output.insert("looks".to_owned(), json!(LOOKS));
    output.insert("new_in_use".to_owned(), json!(in_use));
    let now = context.actions.clock().now();
    Ok(AttemptResult::Succeeded {
        output: Value::Object(output),
        verification: Verification::Verified,
        proof: Proof {
            system: Some(plan.system.clone()),
            operation: Some("watch_credential".to_owned()),
            object: Some(plan.old.account.clone()),
            after: Some(seen),
            verified_at: Some(now),
            ..Proof::default()
        },
    })
}
