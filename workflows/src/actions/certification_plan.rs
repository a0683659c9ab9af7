//! `certification.plan`: what reviews of access decided, and which exceptions are over, against what the person holds and what
//! policy wants.
//!
//! Takes `{events}`, the `certification.decided` of the case. Gives, each as a list for `for_each`:
//!
//! | field | items |
//! |---|---|
//! | `revoke` | `{system, entitlement, account, policy}`: rights to take; `over` says since when nobody keeps it any more |
//! | `keep` | `{system, entitlement, held_by, ends}`: rights that were confirmed and that policy does not give: exceptions from now on, until then; `asked` is the later end that was decided and that policy does not let it have. With `held_by: policy`, exceptions that are over and that a role gives by now |
//! | `wanted` | `{system, entitlement, roles}`: rights that were decided against and that policy gives |
//! | `confirmed` | `{system, entitlement}`: rights that were confirmed and that policy gives anyway |
//! | `absent` | `{system, entitlement}`: rights that the person does not hold |
//! | `unchanged` | `{system, entitlement, ends}`: exceptions that were to end and have another end by now, and rights about which something newer is known than what was decided |
//! | `due` | `{system, entitlement, account, policy, due}`: rights that were kept until then, to be handed over or asked about |
//!
//! and `handed_over`, how many rights are kept for a while, those that are due among them.
//!
//! Of several decisions about one right the one that holds from the latest moment counts, and of one moment the one said last,
//! in whatever order they come.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use engine::core::Timestamp;
use engine::core::case::{Failure, Verification};
use engine::core::input::AttemptResult;
use engine::core::proof::Proof;
use serde_json::{Value, json};

use super::context::{Context, database, identity_facts, permanent};
use crate::directory::{Decided, GrantRow, GrantStatus};
use crate::policy::{self, ExceptionRules, HeldBy};
use crate::sources::data::{DECISION_ENDED, DECISION_REVOKE, until};

/// The lists of the output.
const LISTS: [&str; 7] = [
    "revoke",
    "keep",
    "wanted",
    "confirmed",
    "absent",
    "unchanged",
    "due",
];

pub(super) async fn run(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let holdings = context.holdings().await?;
    let policy = context.policy();
    let facts = identity_facts(&holdings);
    let wanted = policy::evaluate(&policy, &facts).map_err(|error| {
        context.undecided(&holdings.identity, &error.message, &error.to_string())
    })?;
    let now = context.actions.clock().now();
    let mut output: BTreeMap<&str, Vec<Value>> =
        LISTS.into_iter().map(|list| (list, Vec::new())).collect();
    let known = context
        .actions
        .directory()
        .decisions(context.subject(), now);
    let known = known.await.map_err(|error| database(&error))?;
    let account = |system: &str| {
        let mut accounts = holdings.accounts.iter();
        let account = accounts.find(|account| account.system == system);
        account.map(|account| &account.native_id)
    };
    let given_by = |system: &str, entitlement: &str| {
        let rests = wanted.suspended.iter().flatten();
        let mut gives = wanted.grants.iter().chain(rests);
        gives.find(|grant| grant.system == system && grant.entitlement == entitlement)
    };
    let mut decided = BTreeSet::new();
    for ((system, entitlement), said) in decisions(context.value("events"), &known)? {
        let held = holdings.grants.iter().find(|held| {
            held.system == system
                && held.entitlement == entitlement
                && matches!(held.status, GrantStatus::Active | GrantStatus::Uncertain)
        });
        let gives = given_by(&system, &entitlement);
        let verdict = verdict(said, held, gives.is_some(), policy.exceptions(), now);
        let mut item = match verdict {
            Verdict::Wanted => {
                let reasons = gives.iter().flat_map(|gives| &gives.reasons);
                let roles: Vec<&str> = reasons.map(|reason| reason.role.as_str()).collect();
                json!({ "roles": roles.join(", ") })
            }
            Verdict::Revoke { over } => {
                let mut item = json!({ "account": account(&system), "policy": policy.hash() });
                put(&mut item, "over", over);
                item
            }
            Verdict::Keep { ends, asked } => {
                let mut item = json!({ "held_by": HeldBy::Exception, "ends": ends });
                put(&mut item, "asked", asked);
                item
            }
            Verdict::Given => json!({ "held_by": HeldBy::Policy }),
            Verdict::Confirmed | Verdict::Absent => json!({}),
            Verdict::Unchanged { ends } => {
                let mut item = json!({});
                put(&mut item, "ends", ends);
                item
            }
        };
        if let Value::Object(fields) = &mut item {
            fields.insert("system".to_owned(), json!(system));
            fields.insert("entitlement".to_owned(), json!(entitlement));
        }
        output.entry(verdict.list()).or_default().push(item);
        if !matches!(verdict, Verdict::Unchanged { .. }) {
            decided.insert((system, entitlement));
        }
    }
    let mut handed_over = 0;
    for held in &holdings.grants {
        let Some(due) = held.until.filter(|_| held.status == GrantStatus::Active) else {
            continue;
        };
        handed_over += 1;
        let (system, entitlement) = (&held.system, &held.entitlement);
        let is_decided = decided.contains(&(system.clone(), entitlement.clone()));
        if due <= now && !is_decided && given_by(system, entitlement).is_none() {
            output.entry("due").or_default().push(json!({
                "system": system,
                "entitlement": entitlement,
                "account": account(system),
                "policy": policy.hash(),
                "due": due,
            }));
        }
    }
    let mut output = json!(output);
    if let Value::Object(fields) = &mut output {
        fields.insert("handed_over".to_owned(), json!(handed_over));
    }
    Ok(AttemptResult::Succeeded {
        output,
        verification: Verification::NotNeeded,
        proof: Proof {
            operation: Some("plan".to_owned()),
            policy: Some(policy.hash().to_owned()),
            ..Proof::default()
        },
    })
}

fn put(item: &mut Value, name: &str, moment: Option<Timestamp>) {
    if let (Value::Object(fields), Some(moment)) = (item, moment) {
        fields.insert(name.to_owned(), json!(moment));
    }
}

/// What becomes of a right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Revoke {
        over: Option<Timestamp>,
    },
    Keep {
        ends: Timestamp,
        asked: Option<Timestamp>,
    },
    /// It is over as an exception, and a role gives it by now.
    Given,
    Wanted,
    Confirmed,
    Absent,
    Unchanged {
        ends: Option<Timestamp>,
    },
}

impl Verdict {
    fn list(self) -> &'static str {
        match self {
            Self::Revoke { .. } => "revoke",
            Self::Keep { .. } | Self::Given => "keep",
            Self::Wanted => "wanted",
            Self::Confirmed => "confirmed",
            Self::Absent => "absent",
            Self::Unchanged { .. } => "unchanged",
        }
    }
}

fn verdict(
    said: Said,
    held: Option<&GrantRow>,
    given: bool,
    rules: &ExceptionRules,
    now: Timestamp,
) -> Verdict {
    let over = |ends: Timestamp| {
        if given {
            Verdict::Given
        } else {
            Verdict::Revoke { over: Some(ends) }
        }
    };
    match (said, held) {
        (Said::Revoke, _) if given => Verdict::Wanted,
        (_, None) => Verdict::Absent,
        (Said::Revoke, Some(_)) => Verdict::Revoke { over: None },
        (Said::Keep { .. }, Some(held)) if given && held.held_by != HeldBy::Exception => {
            Verdict::Confirmed
        }
        (Said::Keep { from, until }, Some(_)) => {
            let ends = rules.end(from.unwrap_or(now), until);
            if ends <= now {
                over(ends)
            } else {
                let asked = until.filter(|until| *until > ends);
                Verdict::Keep { ends, asked }
            }
        }
        (Said::Nothing, Some(held)) => match held.exception_until {
            Some(ends) if held.is_over(now) => over(ends),
            ends => Verdict::Unchanged { ends },
        },
    }
}

/// What was said about a right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Keep {
        from: Option<Timestamp>,
        until: Option<Timestamp>,
    },
    Revoke,
    /// Nothing that counts: whether its end has come is to be looked at.
    Nothing,
}

/// From when it holds, and when it was said: the later decision counts.
type Moment = (Option<DateTime<Utc>>, Option<DateTime<Utc>>);

/// By system and right: what was decided in `events`, unless `known` has something that counts more.
fn decisions(
    events: Option<&Value>,
    known: &[Decided],
) -> Result<BTreeMap<(String, String), Said>, Failure> {
    let events = events.and_then(Value::as_array);
    let mut newest: BTreeMap<(String, String), (Moment, Said)> = BTreeMap::new();
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
        let (from, at) = (moment("/effective_at"), moment("/occurred_at"));
        let zone = text("/zone").and_then(|zone| zone.parse().ok());
        let asked = text("/data/until");
        let until = asked.and_then(|asked| until(asked, zone.unwrap_or(Tz::UTC)));
        let (place, said) = match decision {
            DECISION_ENDED => ((None, None), Said::Nothing),
            DECISION_REVOKE => ((from, at), Said::Revoke),
            _ => ((from, at), Said::Keep { from, until }),
        };
        let right = (system.to_owned(), entitlement.to_owned());
        let before = newest.entry(right).or_insert((place, said));
        if before.0 <= place {
            *before = (place, said);
        }
    }
    for decided in known {
        let right = (decided.system.clone(), decided.entitlement.clone());
        let place = (Some(decided.effective_at), Some(decided.occurred_at));
        if let Some(before) = newest.get_mut(&right)
            && before.0 < place
        {
            *before = (place, Said::Nothing);
        }
    }
    Ok(newest
        .into_iter()
        .map(|(right, (_, said))| (right, said))
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
            let found = decisions(Some(&events), &[]).unwrap();
            let found: Vec<Said> = found.into_values().collect();
            let from = "2026-01-01T00:00:00.5Z".parse().ok();
            assert_eq!(found, [Said::Keep { from, until: None }]);
        }
        assert!(decisions(Some(&json!([{ "id": "x", "data": {} }])), &[]).is_err());
    }

    #[test]
    fn an_end_counts_for_nothing_beside_a_decision_and_a_newer_decision_for_more() {
        let at = |day: u32| format!("2026-01-{day:02}T00:00:00Z");
        let event = |day: u32, decision: &str| {
            json!({
                "effective_at": at(day), "occurred_at": at(day), "zone": "Europe/Zurich",
                "data": {
                    "system": "ldap", "entitlement": "a", "decision": decision, "until": "2026-03-31",
                },
            })
        };
        let moment = |day: u32| -> Timestamp { at(day).parse().unwrap() };
        let known = |day: u32| Decided {
            system: "ldap".to_owned(),
            entitlement: "a".to_owned(),
            effective_at: moment(day),
            occurred_at: moment(day),
        };
        let check = |events: &[Value], known: &[Decided], expected: Said| {
            let found = decisions(Some(&json!(events)), known).unwrap();
            assert_eq!(found.into_values().collect::<Vec<_>>(), [expected]);
        };
        let kept = Said::Keep {
            from: Some(moment(2)),
            until: "2026-03-31T22:00:00Z".parse().ok(),
        };
        check(&[event(9, "ended")], &[], Said::Nothing);
        check(&[event(9, "ended")], &[known(2)], Said::Nothing);
        check(&[event(9, "ended"), event(2, "keep")], &[known(2)], kept);
        check(&[event(2, "keep"), event(9, "ended")], &[known(1)], kept);
        check(&[event(2, "keep")], &[known(3)], Said::Nothing);
        check(&[event(2, "revoke")], &[known(3), known(1)], Said::Nothing);
        check(&[event(2, "revoke")], &[known(2)], Said::Revoke);
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
