//! The stack as a whole, dry run, chaos, trace and the configuration.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use secrecy::SecretString;
use serde_json::json;
use tracing::field::{Field, Visit};
use tracing::instrument::WithSubscriber as _;
use tracing::span;

use super::*;
use crate::conformance;
use crate::connector::{Attributes, EntitlementName, NewAccount};
use crate::layer::{Chaos, ChaosSettings, Lane};

fn ann() -> Operation {
    Operation::CreateAccount(NewAccount {
        name: "ann.secretname".to_owned(),
        owner: "owner-1".to_owned(),
        attributes: Attributes::from([("mail".to_owned(), json!("ann@secret.example"))]),
        enabled: true,
        password: Some(SecretString::from("hunter2".to_owned())),
    })
}

/// Also proves that no layer forgets to pass on a method.
#[tokio::test(start_paused = true)]
async fn a_guarded_connector_passes_the_suite_like_a_bare_one() {
    for lane in [Lane::Normal, Lane::Revocation] {
        let system = Moody::new(Mood::Well);
        let guarded = guarded(
            &system,
            Limits {
                rate_per_s: Some(500),
                ..Limits::default()
            },
        )
        .with_lane(lane);
        let fixture = conformance::Fixture {
            entitlements: vec![
                EntitlementName::new("staff"),
                EntitlementName::new("admins"),
            ],
            attributes: Attributes::from([("title".to_owned(), json!("Clerk"))]),
            changed: Attributes::from([("title".to_owned(), json!("Manager"))]),
            text_attribute: Some("title".to_owned()),
            page_size: Some(crate::memory::PAGE_SIZE),
            ..conformance::Fixture::new("g")
        };
        let report = conformance::run(Arc::new(guarded), fixture).await;
        assert!(report.is_good(), "{report}");
        assert_eq!(system.inner.accounts(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_changes_nothing_and_says_what_it_would_do() {
    let system = Moody::new(Mood::Well);
    let guarded = guarded(
        &system,
        Limits {
            dry_run: true,
            ..Limits::default()
        },
    );
    let Outcome::Done(receipt) = guarded.apply(&ann(), &key(1)).await.unwrap() else {
        panic!()
    };
    assert_eq!(system.inner.accounts(), 0);
    assert_eq!(system.calls(), 0);
    let said = serde_json::to_string(&receipt).unwrap();
    assert!(
        said.contains(
            "would create account `ann.secretname` (enabled, with a password) with `mail`"
        ),
        "{said}"
    );
    assert!(
        !said.contains("hunter2") && !said.contains("ann@secret"),
        "{said}"
    );

    let made = receipt.account.unwrap();
    assert_eq!(
        guarded
            .get(&ObjectRef::Account(made.clone()))
            .await
            .unwrap(),
        None
    );
    for claim in [
        Claim::AccountExists {
            owner: "owner-1".to_owned(),
        },
        Claim::AccountEnabled {
            account: made.clone(),
        },
        Claim::AccountAbsent { account: made },
    ] {
        let verdict = guarded.verify(&claim).await.unwrap();
        assert!(
            matches!(verdict, Verdict::CannotObserve { .. }),
            "{claim:?}: {verdict:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn chaos_does_the_same_again_for_the_same_seed() {
    let settings = ChaosSettings {
        seed: 7,
        fail_before: 0.3,
        lose_answer: 0.3,
        ..ChaosSettings::default()
    };
    let run = async |settings: &ChaosSettings, order: Vec<usize>| {
        let system = Moody::new(Mood::Well);
        let chaos = Chaos::new(Arc::clone(&system) as Arc<dyn Connector>, settings.clone());
        let mut fates = vec![""; order.len()];
        for n in order {
            fates[n] = match chaos.apply(&disable(), &key(n)).await {
                Err(error) if error.kind == ErrorKind::Transient => "failed before",
                Ok(Outcome::Ambiguous { .. }) => "lost",
                _ => "answered",
            };
        }
        (fates, system.calls())
    };
    let (one, calls) = run(&settings, (0..200).collect()).await;
    let (same, _) = run(&settings, (0..200).rev().collect()).await;
    assert_eq!(one, same, "the order of the calls does not matter");
    let (other, _) = run(
        &ChaosSettings {
            seed: 8,
            ..settings.clone()
        },
        (0..200).collect(),
    )
    .await;
    assert_ne!(one, other);
    let before = one.iter().filter(|fate| **fate == "failed before").count();
    let lost = one.iter().filter(|fate| **fate == "lost").count();
    assert_eq!(
        calls,
        200 - before,
        "what failed before never reached the system, what was lost did"
    );
    assert!(
        (30..90).contains(&before) && (20..80).contains(&lost),
        "{before} {lost}"
    );
    assert_eq!(one.iter().collect::<BTreeSet<_>>().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn chaos_halves_answers_and_delays_them_honestly() {
    let system = Moody::new(Mood::Well);
    for n in 0..5 {
        let new = NewAccount {
            name: format!("a{n}"),
            owner: format!("o{n}"),
            attributes: Attributes::new(),
            enabled: true,
            password: None,
        };
        system
            .apply(&Operation::CreateAccount(new), &key(n))
            .await
            .unwrap();
    }
    let settings = ChaosSettings {
        half_answer: 1.0,
        delay: 1.0,
        delay_ms_max: 500,
        ..ChaosSettings::default()
    };
    let guarded = guarded(
        &system,
        Limits {
            chaos: Some(settings),
            ..Limits::default()
        },
    );
    let start = Instant::now();
    let page = guarded.list(Kind::Account, None).await.unwrap();
    assert!(page.items.len() == 2 && !page.complete, "{page:?}");
    for _ in 0..10 {
        let changes = guarded.changes(Some(Cursor("0".to_owned()))).await.unwrap();
        assert!(changes.gap && changes.items.len() == 2);
    }
    assert!(
        (1..=5_500).contains(&start.elapsed().as_millis()),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn limits_have_defaults_and_refuse_nonsense() {
    let limits: Limits = serde_json::from_value(json!({})).unwrap();
    assert_eq!(limits, Limits::default());
    assert_eq!(
        serde_json::to_value(&limits).unwrap(),
        json!({
            "timeout_ms": 10_000, "concurrency": 8, "revocation_reserved": 2, "rate_per_s": null,
            "breaker": {"failures": 5, "open_first_ms": 1_000, "open_max_ms": 30_000},
            "dry_run": false, "chaos": null,
        })
    );
    let limits: Limits =
        serde_json::from_value(json!({"rate_per_s": 5, "breaker": {"failures": 1}})).unwrap();
    assert_eq!(
        (
            limits.rate_per_s,
            limits.breaker.failures,
            limits.breaker.open_max_ms
        ),
        (Some(5), 1, 30_000)
    );
    assert!(
        serde_json::from_value::<Limits>(json!({"timeout": 5})).is_err(),
        "an unknown limit is a mistake"
    );

    for (limits, part) in [
        (json!({"timeout_ms": 0}), "`timeout_ms` is 0"),
        (json!({"timeout_ms": 86_400_000}), "`timeout_ms`"),
        (json!({"concurrency": 0}), "`concurrency` is 0"),
        (json!({"concurrency": 2}), "`revocation_reserved` is 2 of 2"),
        (json!({"rate_per_s": 0}), "`rate_per_s`"),
        (json!({"breaker": {"failures": 0}}), "`breaker.failures`"),
        (
            json!({"breaker": {"open_first_ms": 5, "open_max_ms": 4}}),
            "`breaker.open_first_ms`",
        ),
        (
            json!({"chaos": {"lose_answer": 1.5}}),
            "`chaos.lose_answer`",
        ),
    ] {
        let parsed: Limits = serde_json::from_value(limits.clone()).unwrap();
        let error = parsed.validate().unwrap_err();
        assert!(error.message.contains(part), "{limits}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn limits_out_of_range_still_work() {
    let system = Moody::new(Mood::Well);
    let limits = Limits {
        concurrency: 0,
        revocation_reserved: 9,
        rate_per_s: Some(0),
        ..Limits::default()
    };
    let guarded = Guarded::with_clock(
        "crm",
        Arc::clone(&system) as Arc<dyn Connector>,
        limits,
        virtual_clock(),
    );
    assert!(guarded.get(&account("ann")).await.is_ok());
}

/// Collects whatever a span or an event says.
#[derive(Clone, Default)]
struct Ears(Arc<Mutex<String>>);

impl Visit for Ears {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = writeln!(self.0.lock().unwrap(), "{}={value:?}", field.name());
    }
}

impl tracing::Subscriber for Ears {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
        attributes.record(&mut self.clone());
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, values: &span::Record<'_>) {
        values.record(&mut self.clone());
    }
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut self.clone());
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[tokio::test(start_paused = true)]
async fn a_trace_names_the_call_and_nothing_a_person_wrote() {
    let ears = Ears::default();
    let system = Moody::new(Mood::Well);
    let guarded = guarded(&system, Limits::default());
    // With a single subscriber, tracing asks only the thread that happens to come first whether it listens, and
    // other tests run beside this one. A second subscriber makes it ask them all.
    let _second = tracing::Dispatch::new(Ears::default());
    async {
        tracing::callsite::rebuild_interest_cache();
        guarded.apply(&ann(), &key(42)).await.unwrap();
        guarded.get(&account("ann.secretname")).await.unwrap();
        system.becomes(Mood::Fails(ErrorKind::Denied));
        guarded.apply(&ann(), &key(43)).await.unwrap_err();
    }
    .with_subscriber(ears.clone())
    .await;
    let heard = ears.0.lock().unwrap().clone();
    for part in [
        "system=\"crm\"",
        "call=\"apply\"",
        "operation=\"create_account\"",
        "case/step/42",
        "denied",
    ] {
        assert!(heard.contains(part), "`{part}` missing in {heard}");
    }
    for part in ["hunter2", "secretname", "ann@secret", "owner-1"] {
        assert!(!heard.contains(part), "`{part}` in {heard}");
    }
}
