//! One suite that every connector passes, its tests chosen by what the connector declares.
//!
//! The suite talks to a real system through the connector alone, under names that start with the fixture's
//! prefix, and removes what it made. It asks what the engine relies on: every operation twice, an answer that
//! was lost, a call that was dropped half-way, claims proven and refuted, absence that is really absence,
//! names and values that look like queries, and capabilities that are neither too modest nor too proud.
//!
//! [`run`] gives a [`Report`]; nothing in here panics, so that `tenure connector test` can run it against
//! somebody's new plugin and print what to mend.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::Value;

use crate::connector::Connector;

mod bench;
mod by_hand;
mod claims;
mod credentials;
mod effects;
mod fixture;
mod honesty;
mod hostile;
mod issues;
mod lookup;
mod lost;
mod operations;
mod ownership;
mod refusals;
mod report;
#[cfg(test)]
mod tests;

use bench::{Bench, Checked, Stop};
pub use fixture::{Door, Fixture, Session};
pub use report::{Report, TestResult, Verdict};

/// A test that has not ended by then has failed: a connector that hangs must not hang the suite.
const TEST_MS_MAX: u64 = 120_000;

type TestFn = for<'a> fn(&'a Bench) -> BoxFuture<'a, Checked>;

/// Every test in the order it runs. A name says what is expected, so that a failed line explains itself.
const TESTS: &[(&str, TestFn)] = &[
    ("a healthy system passes its own check", |b| {
        Box::pin(operations::check_is_good(b))
    }),
    ("an undeclared operation is unsupported", |b| {
        Box::pin(honesty::undeclared_operations(b))
    }),
    ("an undeclared claim is not answered", |b| {
        Box::pin(honesty::undeclared_claims(b))
    }),
    ("an undeclared read is unsupported", |b| {
        Box::pin(honesty::undeclared_reads(b))
    }),
    ("a declared operation is supported", |b| {
        Box::pin(honesty::declared_operations(b))
    }),
    ("a declared claim is answered", |b| {
        Box::pin(honesty::declared_claims(b))
    }),
    ("create twice: done, then already so", |b| {
        Box::pin(operations::create_twice(b))
    }),
    ("create keeps name, owner and attributes", |b| {
        Box::pin(operations::create_keeps_what_it_was_given(b))
    }),
    ("create disabled: no login from the start", |b| {
        Box::pin(operations::create_disabled(b))
    }),
    ("update twice: done, then already so", |b| {
        Box::pin(operations::update_twice(b))
    }),
    ("disable and enable twice each", |b| {
        Box::pin(operations::disable_and_enable_twice(b))
    }),
    ("grant twice: done, then already so", |b| {
        Box::pin(operations::grant_twice(b))
    }),
    ("revoke twice, and nothing else is revoked", |b| {
        Box::pin(operations::revoke_twice(b))
    }),
    ("delete twice: done, then already so", |b| {
        Box::pin(operations::delete_twice(b))
    }),
    ("set a password twice", |b| {
        Box::pin(operations::set_password_twice(b))
    }),
    ("end sessions twice", |b| {
        Box::pin(operations::end_sessions_twice(b))
    }),
    ("transfer ownership twice", |b| {
        Box::pin(operations::transfer_twice(b))
    }),
    ("the fixture's action twice", |b| {
        Box::pin(operations::action_twice(b))
    }),
    ("a secret never comes back in a receipt", |b| {
        Box::pin(operations::no_secret_in_receipts(b))
    }),
    ("a name held by another owner is a conflict", |b| {
        Box::pin(refusals::name_conflict(b))
    }),
    ("one owner never gets a second account", |b| {
        Box::pin(refusals::one_account_for_one_owner(b))
    }),
    ("operations on a missing account say so", |b| {
        Box::pin(refusals::missing_account(b))
    }),
    ("an unknown entitlement is not found", |b| {
        Box::pin(refusals::unknown_entitlement(b))
    }),
    ("a name too long is refused, never cut", |b| {
        Box::pin(refusals::name_length(b))
    }),
    ("claim account_exists both ways", |b| {
        Box::pin(claims::account_exists(b))
    }),
    (
        "claims account_enabled and account_disabled both ways",
        |b| Box::pin(claims::enabled_and_disabled(b)),
    ),
    ("claim account_absent both ways", |b| {
        Box::pin(claims::account_absent(b))
    }),
    ("claim attributes_are both ways", |b| {
        Box::pin(claims::attributes_are(b))
    }),
    ("claims granted and not_granted both ways", |b| {
        Box::pin(claims::granted_and_not_granted(b))
    }),
    ("claims about a missing account", |b| {
        Box::pin(claims::missing_account(b))
    }),
    ("claim no_sessions for an account nobody uses", |b| {
        Box::pin(claims::no_sessions(b))
    }),
    ("credentials of an account are listed", |b| {
        Box::pin(credentials::listed(b))
    }),
    (
        "asked when to renew: of what there is, and of nothing else",
        |b| Box::pin(credentials::renewal(b)),
    ),
    ("destroy a credential twice, and no other", |b| {
        Box::pin(credentials::destroy_twice(b))
    }),
    ("deactivate a credential twice, and no other", |b| {
        Box::pin(credentials::deactivate_twice(b))
    }),
    ("claim credential_inactive both ways", |b| {
        Box::pin(credentials::claimed_both_ways(b))
    }),
    ("hostile credential identifiers end nothing", |b| {
        Box::pin(credentials::hostile(b))
    }),
    (
        "issue a credential: halves handed over, one for one key",
        |b| Box::pin(issues::twice(b)),
    ),
    ("issue under another key: another credential", |b| {
        Box::pin(issues::beside(b))
    }),
    ("issue, answer lost: found by its key", |b| {
        Box::pin(issues::answer_lost(b))
    }),
    ("no room for another credential: full, and none ends", |b| {
        Box::pin(issues::no_room(b))
    }),
    ("deactivate and activate a credential twice each", |b| {
        Box::pin(issues::switched(b))
    }),
    ("a password is tried by a real login, both ways", |b| {
        Box::pin(issues::passwords_tried(b))
    }),
    ("an issued credential is tried, both ways", |b| {
        Box::pin(issues::issued_tried(b))
    }),
    (
        "what is owned goes to its heir, and the claim says so",
        |b| Box::pin(ownership::moves(b)),
    ),
    ("a missing object is none, not an error", |b| {
        Box::pin(lookup::missing_is_none(b))
    }),
    ("id, name and owner find the same account", |b| {
        Box::pin(lookup::three_ways_agree(b))
    }),
    ("an entitlement is found by name", |b| {
        Box::pin(lookup::entitlement_by_name(b))
    }),
    ("a listing has every account once and ends complete", |b| {
        Box::pin(lookup::list_accounts(b))
    }),
    ("a listing has the entitlements", |b| {
        Box::pin(lookup::list_entitlements(b))
    }),
    ("a deleted account leaves the listing", |b| {
        Box::pin(lookup::deleted_leaves_the_listing(b))
    }),
    ("the change feed shows a new account", |b| {
        Box::pin(lookup::changes_show_a_new_account(b))
    }),
    ("dependents of an object are listed", |b| {
        Box::pin(lookup::dependents_answer(b))
    }),
    ("create, answer lost: found by owner, one account", |b| {
        Box::pin(lost::create(b))
    }),
    ("grant and revoke, answer lost: seen by reading", |b| {
        Box::pin(lost::grant_and_revoke(b))
    }),
    ("disable and delete, answer lost: seen by reading", |b| {
        Box::pin(lost::disable_and_delete(b))
    }),
    ("create dropped half-way: one account in the end", |b| {
        Box::pin(lost::create_dropped(b))
    }),
    ("two equal creates at once: one account", |b| {
        Box::pin(lost::two_creates_at_once(b))
    }),
    ("names that look like queries find nothing", |b| {
        Box::pin(hostile::lookups(b))
    }),
    ("identifiers that look like paths find nothing", |b| {
        Box::pin(hostile::identifiers(b))
    }),
    ("hostile account names are kept exactly or refused", |b| {
        Box::pin(hostile::names(b))
    }),
    ("hostile values are kept exactly or refused", |b| {
        Box::pin(hostile::values(b))
    }),
    ("hostile entitlement names match nothing", |b| {
        Box::pin(hostile::entitlements(b))
    }),
    ("a disabled account cannot log in", |b| {
        Box::pin(effects::disabled_cannot_log_in(b))
    }),
    ("a new password works and the old one does not", |b| {
        Box::pin(effects::password_changes(b))
    }),
    ("a destroyed credential proves nothing", |b| {
        Box::pin(effects::credentials_end(b))
    }),
    ("ended sessions are really gone", |b| {
        Box::pin(effects::sessions_end(b))
    }),
    ("by hand: every operation becomes a clear task", |b| {
        Box::pin(by_hand::operations_become_tasks(b))
    }),
    ("by hand: nothing is claimed to be seen", |b| {
        Box::pin(by_hand::nothing_is_observed(b))
    }),
];

/// Runs the whole suite against `connector`.
pub async fn run(connector: Arc<dyn Connector>, fixture: Fixture) -> Report {
    run_each(connector, fixture, |_| {}).await
}

/// Like [`run`], and hands every result to `on_result` as soon as it is known.
pub async fn run_each(
    connector: Arc<dyn Connector>,
    fixture: Fixture,
    mut on_result: impl FnMut(&TestResult) + Send,
) -> Report {
    let bench = Bench::new(connector, fixture);
    let mut report = Report::default();
    for (name, test) in TESTS {
        let started = tokio::time::Instant::now();
        let checked = tokio::time::timeout(Duration::from_millis(TEST_MS_MAX), test(&bench))
            .await
            .unwrap_or_else(|_| Err(Stop::Failed(format!("did not end within {TEST_MS_MAX} ms"))));
        let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (verdict, detail) = match checked {
            Ok(()) => (Verdict::Passed, String::new()),
            Err(Stop::Failed(detail)) => (Verdict::Failed, detail),
            Err(Stop::NotApplicable(detail)) => (Verdict::NotApplicable, detail),
        };
        let result = TestResult {
            name: (*name).to_owned(),
            verdict,
            detail,
            took_ms,
        };
        on_result(&result);
        report.tests.push(result);
    }
    if let Some(left) = bench.clean_up().await {
        report.left_behind = left;
    }
    report
}

/// `attributes` with every `{name}` replaced, in every string.
fn named(attributes: &BTreeMap<String, Value>, name: &str) -> BTreeMap<String, Value> {
    attributes
        .iter()
        .map(|(key, value)| (key.clone(), filled(value, "{name}", name)))
        .collect()
}

/// `value` with every `placeholder` replaced, in every string.
fn filled(value: &Value, placeholder: &str, text: &str) -> Value {
    let fill = |value: &Value| filled(value, placeholder, text);
    match value {
        Value::String(template) => Value::String(template.replace(placeholder, text)),
        Value::Array(items) => Value::Array(items.iter().map(fill).collect()),
        Value::Object(fields) => Value::Object(
            fields
                .iter()
                .map(|(name, field)| (name.clone(), fill(field)))
                .collect(),
        ),
        other => other.clone(),
    }
}
