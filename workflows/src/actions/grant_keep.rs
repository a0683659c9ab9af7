//! `grant.keep`: a right that was asked about stays.
//!
//! Takes `{system, entitlement}` and optionally `{held_by: exception}`, gives the same. Nothing outside is touched: the
//! projection of the finished step takes away the end that the right had while the question was open, and notes that somebody
//! confirmed a right which no role gives.

use engine::core::case::Failure;
use engine::core::input::AttemptResult;
use serde_json::{Value, json};

use super::context::{Context, not_needed, permanent};

/// Who confirmed it is the reason for it from now on.
const EXCEPTION: &str = "exception";

pub(super) fn run(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let mut output = json!({
        "system": context.required("system")?,
        "entitlement": context.required("entitlement")?,
    });
    match (context.text("held_by"), &mut output) {
        (None, _) => {}
        (Some(EXCEPTION), Value::Object(fields)) => {
            fields.insert("held_by".to_owned(), json!(EXCEPTION));
        }
        (Some(other), _) => {
            let message = format!("`held_by` is `{other}`; write `{EXCEPTION}`, or leave it out");
            return Err(permanent("parameter", message));
        }
    }
    Ok(not_needed(output))
}
