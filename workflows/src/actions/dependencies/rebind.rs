//! `dependencies.rebind`: asks to bind anew what needs the person's own keys on `system`, which were spared for that.
//!
//! Takes `{system, spared: [{id, why}]}`, as `credentials.revoke` gives it. It looks again first: when nothing needs them any
//! more, nobody is asked. The keys end at the latest at `until`, whether this is done or not.

use engine::core::case::{Failure, Mode, Verification};
use engine::core::input::AttemptResult;
use engine::core::proof::Proof;
use serde_json::{Value, json};

use super::settle::due_after_ms;
use super::{Needed, assignee, needed, spared_until};
use crate::actions::context::{Context, not_needed};
use crate::nhi::check::MINUTE;

pub(in crate::actions) async fn run(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    if context.attempt.mode.is_undo() {
        return Ok(not_needed(Value::Null));
    }
    let system = context.required("system")?.to_owned();
    let spared = context.value("spared").and_then(Value::as_array);
    let ids = spared.into_iter().flatten().filter_map(|key| {
        let id = key.get("id")?.as_str()?;
        Some((id.to_owned(), false))
    });
    let Needed { findings, first } = needed(context, &system, ids).await?;
    let output = json!({ "system": system, "keys": findings.keys().collect::<Vec<_>>() });
    if findings.is_empty() {
        return Ok(AttemptResult::Succeeded {
            output,
            verification: Verification::Verified,
            proof: Proof {
                system: Some(system),
                operation: Some("rebind".to_owned()),
                already_so: true,
                verified_at: Some(context.actions.clock().now()),
                ..Proof::default()
            },
        });
    }
    // A read-back knows that nobody has been asked.
    if context.attempt.mode == Mode::ReadBack {
        return Ok(AttemptResult::NotApplied);
    }
    let leaver = context.subject();
    let until = spared_until(context);
    let mut instructions = format!(
        "{leaver} leaves, and keys of theirs on `{system}` are needed by others. They work until {} at the latest; \
         then they end, and what needs them stops.\n\
         1. Give whoever uses one of them something of their own that stays.\n\
         2. Make anew what was made with one of them, and declare what made it: `minted_by` in `tenure nhi declare`.\n\
         It is done when nothing needs them; they end at once then. Write into the note what you did.\n",
        until.format(MINUTE)
    );
    for finding in findings.values().chain(&first) {
        let why: Vec<String> = finding.reasons.iter().map(ToString::to_string).collect();
        instructions.push_str(&format!("\n- {}: {}", finding.node, why.join("; ")));
    }
    let to = first.iter().find_map(|finding| finding.to.as_ref());
    Ok(AttemptResult::NeedsHuman {
        title: format!("Bind anew what needs the keys of {leaver} on {system}"),
        instructions,
        assignee: assignee(to),
        due_after_ms: due_after_ms(context.actions.clock().now(), Some(until)),
        proof_required: true,
        output,
    })
}
