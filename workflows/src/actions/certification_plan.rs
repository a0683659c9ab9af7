//! `certification.plan`: what reviews of access decided, against what the person holds and what policy wants.
//!
//! Takes `{events}`, the `certification.decided` of the case. Gives, each as a list for `for_each`:
//!
//! | field | items |
//! |---|---|
//! | `revoke` | `{system, entitlement, account, policy}`: rights to take |
//! | `keep` | `{system, entitlement, held_by}`: rights that were confirmed and that policy does not give: exceptions from now on |
//! | `wanted` | `{system, entitlement, roles}`: rights that were decided against and that policy gives |
//! | `confirmed` | `{system, entitlement}`: rights that were confirmed and that policy gives anyway |
//! | `absent` | `{system, entitlement}`: rights that the person does not hold |
//!
//! Of several decisions about one right the one that holds from the latest moment counts, and of one moment the one said last.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use engine::core::case::{Failure, Verification};
use engine::core::input::AttemptResult;
use engine::core::proof::Proof;
use serde_json::{Value, json};

use super::context::{Context, identity_facts, permanent};
use crate::directory::GrantStatus;
use crate::policy;
use crate::sources::data::DECISION_REVOKE;

pub(super) async fn run(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let holdings = context.holdings().await?;
    let policy = context.policy();
    let facts = identity_facts(&holdings);
    let wanted = policy::evaluate(&policy, &facts).map_err(|error| {
        context.undecided(&holdings.identity, &error.message, &error.to_string())
    })?;
    let lists = ["revoke", "keep", "wanted", "confirmed", "absent"];
    let mut output: BTreeMap<&str, Vec<Value>> =
        lists.into_iter().map(|list| (list, Vec::new())).collect();
    for ((system, entitlement), revokes) in decisions(context.value("events"))? {
        let held = holdings.grants.iter().find(|held| {
            held.system == system
                && held.entitlement == entitlement
                && matches!(held.status, GrantStatus::Active | GrantStatus::Uncertain)
        });
        let gives = wanted
            .grants
            .iter()
            .chain(wanted.suspended.iter().flatten())
            .find(|grant| grant.system == system && grant.entitlement == entitlement);
        let (list, mut item) = match (held, gives, revokes) {
            (_, Some(gives), true) => {
                let roles = gives.reasons.iter().map(|reason| reason.role.as_str());
                let roles: Vec<&str> = roles.collect();
                ("wanted", json!({ "roles": roles.join(", ") }))
            }
            (None, ..) => ("absent", json!({})),
            (Some(_), None, true) => {
                let mut accounts = holdings.accounts.iter();
                let account = accounts.find(|account| account.system == system);
                let account = account.map(|account| &account.native_id);
                let item = json!({ "account": account, "policy": policy.hash() });
                ("revoke", item)
            }
            (Some(_), Some(_), false) => ("confirmed", json!({})),
            (Some(_), None, false) => ("keep", json!({ "held_by": policy::HeldBy::Exception })),
        };
        if let Value::Object(fields) = &mut item {
            fields.insert("system".to_owned(), json!(system));
            fields.insert("entitlement".to_owned(), json!(entitlement));
        }
        output.entry(list).or_default().push(item);
    }
    Ok(AttemptResult::Succeeded {
        output: json!(output),
        verification: Verification::NotNeeded,
        proof: Proof {
            operation: Some("plan".to_owned()),
            policy: Some(policy.hash().to_owned()),
            ..Proof::default()
        },
    })
}

type Moment = Option<DateTime<Utc>>;

/// By system and right: whether it is to go.
fn decisions(events: Option<&Value>) -> Result<BTreeMap<(String, String), bool>, Failure> {
    let events = events.and_then(Value::as_array);
    let mut newest: BTreeMap<(String, String), (Moment, Moment, bool)> = BTreeMap::new();
    for event in events.into_iter().flatten() {
        let text = |at: &str| event.pointer(at).and_then(Value::as_str);
        let (Some(system), Some(entitlement), Some(decision)) = (
            text("/data/system"),
            text("/data/entitlement"),
            text("/data/decision"),
        ) else {
            return Err(permanent(
                "parameter",
                format!(
                    "event `{}` does not say `system`, `entitlement` and `decision`; skip the step saying what was decided",
                    text("/id").unwrap_or_default()
                ),
            ));
        };
        let moment = |at: &str| text(at).and_then(|at| at.parse().ok());
        let said = (
            moment("/effective_at"),
            moment("/occurred_at"),
            decision == DECISION_REVOKE,
        );
        let place = (system.to_owned(), entitlement.to_owned());
        let known = newest.entry(place).or_insert(said);
        if (known.0, known.1) <= (said.0, said.1) {
            *known = said;
        }
    }
    let decided = newest.into_iter();
    Ok(decided
        .map(|(place, (.., revokes))| (place, revokes))
        .collect())
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "tests"
    )]
    use std::time::Duration;

    use chrono::TimeDelta;

    use super::*;
    use crate::policy::HeldBy;
    use crate::sources::{BusinessEvent, EventType, Key};
    use crate::testbed::{Company, actor, now, on_both_databases};

    fn decided(number: i64, entitlement: &str, decision: &str) -> BusinessEvent {
        let at = now() + TimeDelta::milliseconds(number - 1_000);
        BusinessEvent {
            id: format!("review-{number}"),
            source: "reviews".to_owned(),
            event_type: EventType::CertificationDecided,
            subject: Key::new("A1"),
            occurred_at: at,
            effective_at: at,
            zone: "UTC".to_owned(),
            version: number,
            supersedes: None,
            data: json!({ "system": "ldap", "entitlement": entitlement, "decision": decision }),
        }
    }

    #[test]
    fn of_several_decisions_the_last_counts() {
        let event = |at: &str, decision: &str| {
            json!({
                "effective_at": at, "occurred_at": at,
                "data": { "system": "ldap", "entitlement": "a", "decision": decision },
            })
        };
        let (early, late) = (
            event("2026-01-01T00:00:00Z", "revoke"),
            event("2026-01-01T00:00:00.5Z", "keep"),
        );
        for events in [json!([early, late]), json!([late, early])] {
            let found: Vec<bool> = decisions(Some(&events)).unwrap().into_values().collect();
            assert_eq!(found, [false]);
        }
        assert!(decisions(Some(&json!([{ "id": "x", "data": {} }]))).is_err());
    }

    async fn a_review_takes_keeps_and_tells_what_policy_contradicts(company: &Company) {
        let node = company.node().await;
        company.import("2026-03-01", &["A1,Ann,Sales"]).await;
        company.settled(&node).await;
        for right in ["payments", "archive"] {
            company.ldap.give("a1", right);
        }
        company
            .run_sql(
                "INSERT INTO grant_held (shard_id, identity_key, system, entitlement, status, held_by, reasons, case_id)
                 SELECT i.shard_id, i.identity_key, 'ldap', r.name, 'active', 'unmanaged', '[]', 'found'
                 FROM identity AS i CROSS JOIN (SELECT 'payments' AS name UNION SELECT 'archive') AS r",
            )
            .await;
        let said = [
            decided(1, "payments", "keep"),
            decided(2, "payments", "revoke"),
            decided(3, "archive", "keep"),
            decided(4, "staff", "keep"),
            decided(5, "nothing", "revoke"),
        ];
        let by = actor("reviewer");
        company.intake.events(&said, &by, now()).await.unwrap();
        company.settled(&node).await;
        assert_eq!(company.ldap.shown(), ["a1: on archive sellers staff"]);
        let held = company.directory.holdings("A1").await.unwrap().unwrap();
        let by_whom = |name: &str| {
            let mut grants = held.grants.iter();
            grants
                .find(|grant| grant.entitlement == name)
                .unwrap()
                .held_by
        };
        assert_eq!(by_whom("archive"), HeldBy::Exception);
        assert_eq!(by_whom("staff"), HeldBy::Policy);
        let case = company.case("certification", "A1").await;
        assert_eq!(case.head.initiator, by);
        let lists = company.outputs(case.head.case, 0).await.remove(0);
        for (list, count) in [("revoke", 1), ("keep", 1), ("confirmed", 1), ("absent", 1)] {
            assert_eq!(
                lists[list].as_array().unwrap().len(),
                count,
                "{list}: {lists}"
            );
        }
        // A right that a role gives comes back with the next plan: somebody has to decide.
        let against = decided(6, "sellers", "revoke");
        company.intake.event(&against, &by, now()).await.unwrap();
        node.nudge();
        company
            .until(&[
                "certification A1 running",
                "certification A1 succeeded",
                "joiner A1 succeeded",
            ])
            .await;
        assert!(node.idle().await);
        assert_eq!(company.ldap.shown(), ["a1: on archive sellers staff"]);
        let cases = company.cases().await;
        let open = cases.iter().find(|case| !case.state.state.is_closed());
        let lists = company.outputs(open.unwrap().head.case, 0).await.remove(0);
        assert_eq!(lists["wanted"][0]["roles"], "sellers");
        node.drain(Duration::from_secs(5)).await.unwrap();
    }

    on_both_databases! {
        a_review_takes_keeps_and_tells_what_policy_contradicts,
    }
}
