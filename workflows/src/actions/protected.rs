//! The last fence before a protected person or account loses something: whatever let the case begin, the step fails unless a
//! person approved exactly what began it.

use engine::core::case::Failure;

use super::context::{Context, identity_facts, permanent};
use super::name;

/// The field of a case's input that names who approved what began it.
pub const APPROVED_BY: &str = "approved_by";

/// # Errors
/// When the person or the account is protected and nobody approved it; the step then waits for a person.
pub(super) async fn check(context: &Context<'_>) -> Result<(), Failure> {
    let attempt = context.attempt;
    let takes = matches!(
        attempt.uses.as_str(),
        name::ACCOUNT_DISABLE
            | name::ACCOUNT_DELETE
            | name::GRANT_REVOKE
            | name::CREDENTIALS_REVOKE
    );
    let policy = context.policy();
    let rules = policy.guard();
    // An undo takes back what this very case gave.
    if !takes || attempt.mode.is_undo() || !rules.protects_somebody() {
        return Ok(());
    }
    if attempt
        .input
        .get(APPROVED_BY)
        .is_some_and(|by| by.is_string())
    {
        return Ok(());
    }
    let holdings = context.holdings().await?;
    let system = context.text("system").unwrap_or_default();
    let account = holdings
        .accounts
        .iter()
        .find(|account| account.system == system);
    let protected = if rules.protects(&identity_facts(&holdings)) {
        format!("`{}`", context.subject())
    } else if let Some(account) =
        account.filter(|account| rules.protects_account(system, &account.name))
    {
        format!("the account `{}` on `{system}`", account.name)
    } else {
        return Ok(());
    };
    Err(permanent(
        "protected",
        format!(
            "{protected} is protected by the policy and nobody approved this; skip the step saying why, or take the entry \
             out of `guard.protected` and retry it"
        ),
    ))
}
