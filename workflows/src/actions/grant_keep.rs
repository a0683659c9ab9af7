//! `grant.keep`: a right that was asked about stays.
//!
//! Takes `{system, entitlement}`, gives the same. Nothing outside is touched: the projection of the finished step takes away
//! the end that the right had while the question was open.

use engine::core::case::Failure;
use engine::core::input::AttemptResult;
use serde_json::json;

use super::context::{Context, not_needed};

pub(super) fn run(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    Ok(not_needed(json!({
        "system": context.required("system")?,
        "entitlement": context.required("entitlement")?,
    })))
}
