//! `notify`: tells somebody.
//!
//! Takes `{to}`, one or several of `person`, `manager`, `owner`, `sponsor`, `attribute:NAME`, `role:NAME`, `person:KEY` and
//! addresses; `{template}`, the name of a notice (`message` when left out); `{vars}`, what that may name; `{subject, text}`,
//! short for `vars` of `message`; `{urgent}`.
//!
//! The step is done once the notice is durable, in the transaction that finishes it
//! ([`crate::notices::NoticeProjection`]): a case never waits for a mail server. What becomes of the notice is shown by
//! `tenure notice`. Taking it back does nothing: what somebody read stays read.

use engine::core::case::Failure;
use engine::core::input::AttemptResult;
use engine::runner::Attempt;
use serde_json::{Value, json};

use super::context::{not_needed, permanent};
use crate::notices::NotifyStep;

pub(super) fn run(attempt: &Attempt) -> Result<AttemptResult, Failure> {
    if attempt.mode.is_undo() {
        return Ok(not_needed(Value::Null));
    }
    match NotifyStep::read(&attempt.item, &attempt.with) {
        Ok(notify) => Ok(not_needed(json!({
            "notice": notify.template,
            "recipients": notify.to.len(),
        }))),
        Err(wrong) => Err(permanent("parameter", wrong)),
    }
}
