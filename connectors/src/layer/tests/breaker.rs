//! When calls are kept away from a system, and how it is found again.

use super::*;
use crate::layer::{Availability, BreakerLimits, Lane};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// `count` failing calls of different operations, numbered from `first`.
async fn fail(guarded: &Guarded, first: usize, count: usize) {
    for n in first..first + count {
        let _ = guarded.apply(&disable(), &key(n)).await;
    }
}

fn held_until(guarded: &Guarded) -> DateTime<Utc> {
    match guarded.availability() {
        Availability::HeldUntil { until, .. } => until,
        Availability::Ready => panic!("the system is ready"),
    }
}

fn held_for_ms(guarded: &Guarded, clock: &Clock) -> i64 {
    (held_until(guarded) - clock()).num_milliseconds()
}

#[tokio::test(start_paused = true)]
async fn failures_in_a_row_open_it_and_nothing_more_is_sent() {
    let system = Moody::new(Mood::Fails(ErrorKind::Transient));
    let guarded = guarded(&system, Limits::default());
    fail(&guarded, 0, 4).await;
    assert!(guarded.availability().is_ready(), "four are not enough");
    fail(&guarded, 4, 1).await;
    assert_eq!(system.calls(), 5);

    let error = guarded.apply(&disable(), &key(6)).await.unwrap_err();
    assert_eq!(
        error.kind,
        ErrorKind::BreakerOpen {
            until: start_of_time() + TimeDelta::seconds(1)
        }
    );
    assert!(guarded.get(&account("ann")).await.is_err());
    assert!(
        guarded
            .with_lane(Lane::Revocation)
            .get(&account("ann"))
            .await
            .is_err()
    );
    assert_eq!(system.calls(), 5, "the breaker lets nothing through");
    assert!(
        error.message.contains("`crm`") && error.message.contains("as told"),
        "{}",
        error.message
    );
}

#[tokio::test(start_paused = true)]
async fn one_operation_that_chokes_the_system_does_not_hold_everybody() {
    let system = Moody::new(Mood::Fails(ErrorKind::Transient));
    let guarded = guarded(&system, Limits::default());
    for attempt in 1..50 {
        let _ = guarded
            .apply(&disable(), &OperationKey { attempt, ..key(7) })
            .await;
    }
    assert!(guarded.availability().is_ready());
    fail(&guarded, 100, 4).await;
    assert!(
        !guarded.availability().is_ready(),
        "with four others it is five"
    );
}

#[tokio::test(start_paused = true)]
async fn without_a_connection_every_try_counts() {
    let system = Moody::new(Mood::Fails(ErrorKind::Unreachable));
    let guarded = guarded(&system, Limits::default());
    for attempt in 1..=5 {
        let _ = guarded
            .apply(&disable(), &OperationKey { attempt, ..key(7) })
            .await;
    }
    assert!(!guarded.availability().is_ready());
}

#[tokio::test(start_paused = true)]
async fn writes_without_an_answer_count_too() {
    let system = Moody::new(Mood::Silent);
    let guarded = guarded(&system, Limits::default());
    fail(&guarded, 0, 5).await;
    assert!(!guarded.availability().is_ready());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_says_no_ends_a_row_of_failures() {
    let system = Moody::new(Mood::Fails(ErrorKind::Transient));
    let guarded = guarded(&system, Limits::default());
    for round in 0..5 {
        system.becomes(Mood::Fails(ErrorKind::Transient));
        fail(&guarded, round * 10, 4).await;
        system.becomes(Mood::Fails(ErrorKind::Denied));
        fail(&guarded, round * 10 + 5, 1).await;
    }
    assert!(guarded.availability().is_ready());
}

#[tokio::test(start_paused = true)]
async fn an_opinion_that_is_not_given_keeps_nobody_away() {
    let until = start_of_time() + TimeDelta::hours(1);
    for kind in [
        ErrorKind::Unreachable,
        ErrorKind::RateLimited { until },
        ErrorKind::AuthExpired,
    ] {
        let system = Moody::new(Mood::Fails(kind));
        let guarded = guarded(&system, Limits::default());
        let ann = NativeId::new("ann");
        for number in 0..20 {
            let id = CredentialId::new(number.to_string());
            assert_eq!(guarded.renewal(&ann, &id).await.unwrap_err().kind, kind);
        }
        assert!(guarded.availability().is_ready(), "{kind:?}");
        // And one that is away is not asked for it.
        fail(&guarded, 0, 5).await;
        let calls = system.calls();
        let id = CredentialId::new("x");
        assert!(guarded.renewal(&ann, &id).await.is_err());
        assert_eq!(system.calls(), calls, "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_login_opens_at_once_and_for_long() {
    let system = Moody::new(Mood::Fails(ErrorKind::AuthExpired));
    let clock = virtual_clock();
    let guarded = guarded(&system, Limits::default());
    fail(&guarded, 0, 1).await;
    assert_eq!(held_for_ms(&guarded, &clock), 30_000);
    tokio::time::advance(ms(30_000)).await;
    guarded.probe().await;
    assert_eq!(
        (system.calls(), system.checks()),
        (1, 1),
        "one try of the login every half minute"
    );
    assert_eq!(held_for_ms(&guarded, &clock), 30_000);
}

#[tokio::test(start_paused = true)]
async fn it_opens_for_twice_as_long_each_time_up_to_the_longest() {
    let system = Moody::new(Mood::Fails(ErrorKind::Unreachable));
    let clock = virtual_clock();
    let guarded = guarded(&system, Limits::default());
    fail(&guarded, 0, 5).await;
    let since = start_of_time();
    let mut intervals = vec![held_for_ms(&guarded, &clock)];
    for _ in 0..6 {
        tokio::time::advance(ms(u64::try_from(*intervals.last().unwrap()).unwrap())).await;
        let error = guarded.get(&account("ann")).await.unwrap_err();
        assert!(
            matches!(error.kind, ErrorKind::BreakerOpen { .. }),
            "{error:?}"
        );
        intervals.push(held_for_ms(&guarded, &clock));
    }
    assert_eq!(
        intervals,
        [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]
    );
    assert_eq!(
        (system.calls(), system.checks()),
        (5, 6),
        "only checks looked for it"
    );
    assert!(
        matches!(guarded.availability(), Availability::HeldUntil { since: from, .. } if from == since)
    );
}

#[tokio::test(start_paused = true)]
async fn one_probe_looks_and_then_everybody_may_go_on() {
    let system = Moody::new(Mood::Fails(ErrorKind::Unreachable));
    let guarded = guarded(&system, Limits::default());
    let mut watch = guarded.watch();
    fail(&guarded, 0, 5).await;
    watch.changed().await.unwrap();
    assert!(!watch.borrow_and_update().is_ready());
    assert!(!guarded.probe().await.is_ready());
    assert_eq!(system.checks(), 0, "it is not time to look yet");

    // The system is back but slow: while one call looks, the others are turned away with a time to come back.
    system.becomes(Mood::Slow(ms(300)));
    tokio::time::advance(ms(1_000)).await;
    let first = tokio::spawn({
        let guarded = guarded.clone();
        async move { guarded.get(&account("ann")).await }
    });
    let_others_run().await;
    for _ in 0..20 {
        let error = guarded.get(&account("ann")).await.unwrap_err();
        assert!(
            matches!(error.kind, ErrorKind::BreakerOpen { until } if until > start_of_time() + TimeDelta::seconds(1))
        );
    }
    assert_eq!((system.calls(), system.checks()), (5, 1));

    watch.wait_for(Availability::is_ready).await.unwrap();
    assert!(
        first.await.unwrap().is_ok(),
        "the call that looked is then made"
    );
    assert_eq!((system.calls(), system.checks()), (6, 1));
    assert!(guarded.get(&account("ann")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_runner_that_only_asks_is_told_when_to_go_on() {
    let system = Moody::new(Mood::Fails(ErrorKind::Unreachable));
    let clock = virtual_clock();
    let guarded = guarded(&system, Limits::default());
    fail(&guarded, 0, 5).await;
    let mut looked = 0;
    while let Availability::HeldUntil { until, .. } = guarded.availability() {
        tokio::time::sleep((until - clock()).to_std().unwrap_or_default()).await;
        looked += 1;
        if looked == 4 {
            system.becomes(Mood::Well);
        }
        guarded.probe().await;
    }
    assert_eq!((looked, system.checks(), system.calls()), (4, 4, 5));
    assert_eq!(clock() - start_of_time(), TimeDelta::seconds(1 + 2 + 4 + 8));
}

#[tokio::test(start_paused = true)]
async fn after_it_closed_two_failures_open_it_and_a_success_forgives() {
    let system = Moody::new(Mood::Fails(ErrorKind::Transient));
    let clock = virtual_clock();
    let guarded = guarded(&system, Limits::default());
    fail(&guarded, 0, 5).await;
    tokio::time::advance(ms(1_000)).await;
    system.becomes(Mood::Well);
    assert!(guarded.probe().await.is_ready());

    system.becomes(Mood::Fails(ErrorKind::Transient));
    fail(&guarded, 10, 2).await;
    assert_eq!(
        held_for_ms(&guarded, &clock),
        2_000,
        "it had not worked in between"
    );

    tokio::time::advance(ms(2_000)).await;
    system.becomes(Mood::Well);
    assert!(guarded.get(&account("ann")).await.is_ok());
    system.becomes(Mood::Fails(ErrorKind::Transient));
    fail(&guarded, 20, 4).await;
    assert!(
        guarded.availability().is_ready(),
        "forgiven: five failures again"
    );
    fail(&guarded, 30, 1).await;
    assert_eq!(held_for_ms(&guarded, &clock), 1_000);
}

#[tokio::test(start_paused = true)]
async fn the_time_a_system_names_is_kept_and_needs_no_probe() {
    let until = start_of_time() + TimeDelta::seconds(7);
    let system = Moody::new(Mood::Fails(ErrorKind::RateLimited { until }));
    let guarded = guarded(&system, Limits::default());
    fail(&guarded, 0, 1).await;
    assert_eq!(held_until(&guarded), until);
    system.becomes(Mood::Well);
    let error = guarded.get(&account("ann")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::RateLimited { until });
    assert_eq!(system.calls(), 1);
    tokio::time::advance(ms(7_000)).await;
    assert!(guarded.get(&account("ann")).await.is_ok());
    assert_eq!(system.checks(), 0);
    assert!(guarded.availability().is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_system_with_a_wrong_clock_cannot_hold_us_for_a_year() {
    let until = start_of_time() + TimeDelta::days(365);
    let system = Moody::new(Mood::Fails(ErrorKind::RateLimited { until }));
    let clock = virtual_clock();
    let guarded = guarded(&system, Limits::default());
    fail(&guarded, 0, 1).await;
    assert_eq!(held_for_ms(&guarded, &clock), 15 * 60 * 1_000);
    tokio::time::advance(ms(15 * 60 * 1_000)).await;
    assert!(guarded.probe().await.is_ready());

    // A time in the past holds nobody.
    system.becomes(Mood::Fails(ErrorKind::RateLimited {
        until: start_of_time(),
    }));
    fail(&guarded, 1, 1).await;
    assert!(guarded.availability().is_ready());
}

#[tokio::test(start_paused = true)]
async fn somebody_who_goes_away_while_looking_leaves_it_to_the_next() {
    let system = Moody::new(Mood::Fails(ErrorKind::Unreachable));
    let guarded = guarded(&system, Limits::default());
    fail(&guarded, 0, 5).await;
    tokio::time::advance(ms(1_000)).await;
    system.becomes(Mood::Silent);
    let gone = tokio::time::timeout(ms(10), guarded.get(&account("ann"))).await;
    assert!(gone.is_err());
    system.becomes(Mood::Well);
    assert!(
        guarded.get(&account("ann")).await.is_ok(),
        "the next one looks at once"
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_from_before_the_outage_is_not_counted() {
    let system = Moody::new(Mood::Slow(ms(5_000)));
    let guarded = guarded(&system, Limits::default());
    let slow = tokio::spawn({
        let guarded = guarded.clone();
        async move { guarded.get(&account("ann")).await }
    });
    let_others_run().await;
    system.becomes(Mood::Fails(ErrorKind::AuthExpired));
    fail(&guarded, 0, 1).await;
    tokio::time::advance(ms(5_000)).await;
    assert!(slow.await.unwrap().is_ok());
    assert!(
        !guarded.availability().is_ready(),
        "a late success does not close it"
    );
}

#[tokio::test(start_paused = true)]
async fn a_failure_from_before_the_outage_does_not_open_it_again() {
    let system = Moody::new(Mood::FailsAfter(ms(5_000), ErrorKind::Transient));
    let guarded = guarded(&system, Limits::default());
    let late: Vec<_> = (0..6)
        .map(|n| {
            let guarded = guarded.clone();
            tokio::spawn(async move { guarded.apply(&disable(), &key(n)).await })
        })
        .collect();
    let_others_run().await;
    assert_eq!(system.running(), 6);
    let revocations = guarded.with_lane(Lane::Revocation);
    system.becomes(Mood::Fails(ErrorKind::AuthExpired));
    fail(&revocations, 100, 1).await;
    assert!(!guarded.availability().is_ready());
    system.becomes(Mood::Well);
    assert!(revocations.check().await.unwrap().is_good());
    for call in late {
        assert!(call.await.unwrap().is_err());
    }
    assert!(
        guarded.availability().is_ready(),
        "the outage they belong to is over"
    );
}

#[tokio::test(start_paused = true)]
async fn a_person_who_checks_gets_through_and_can_close_it() {
    let system = Moody::new(Mood::Fails(ErrorKind::AuthExpired));
    let guarded = guarded(&system, Limits::default());
    fail(&guarded, 0, 1).await;
    assert!(!guarded.check().await.unwrap().is_good());
    assert!(!guarded.availability().is_ready());
    system.becomes(Mood::Well);
    assert!(guarded.check().await.unwrap().is_good());
    assert!(
        guarded.availability().is_ready(),
        "no need to wait out the half minute"
    );
}

#[tokio::test(start_paused = true)]
async fn the_limits_are_the_configured_ones() {
    let limits = Limits {
        breaker: BreakerLimits {
            failures: 2,
            open_first_ms: 50,
            open_max_ms: 80,
        },
        ..Limits::default()
    };
    let system = Moody::new(Mood::Fails(ErrorKind::Timeout));
    let clock = virtual_clock();
    let guarded = guarded(&system, limits);
    fail(&guarded, 0, 2).await;
    assert_eq!(held_for_ms(&guarded, &clock), 50);
    tokio::time::advance(ms(50)).await;
    guarded.probe().await;
    assert_eq!(held_for_ms(&guarded, &clock), 80);
}
