//! Time limits, slots and rate: who waits how long, and who goes first.

use super::*;
use crate::layer::Lane;

async fn started(guarded: &Guarded, count: usize) -> Vec<tokio::task::JoinHandle<()>> {
    let tasks = (0..count)
        .map(|n| {
            let guarded = guarded.clone();
            tokio::spawn(async move {
                let _ = guarded.apply(&disable(), &key(n)).await;
            })
        })
        .collect();
    let_others_run().await;
    tasks
}

#[tokio::test(start_paused = true)]
async fn a_write_without_answer_is_ambiguous_and_a_read_times_out() {
    let system = Moody::new(Mood::Silent);
    let guarded = guarded(
        &system,
        Limits {
            timeout_ms: 250,
            ..Limits::default()
        },
    );
    let start = Instant::now();
    let outcome = guarded.apply(&disable(), &key(1)).await.unwrap();
    assert!(
        matches!(&outcome, Outcome::Ambiguous { reason } if reason.contains("250 ms")),
        "{outcome:?}"
    );
    assert_eq!(start.elapsed().as_millis(), 250);

    assert_eq!(
        guarded.get(&account("ann")).await.unwrap_err().kind,
        ErrorKind::Timeout
    );
    let claim = Claim::AccountAbsent {
        account: NativeId::new("ann"),
    };
    assert_eq!(
        guarded.verify(&claim).await.unwrap_err().kind,
        ErrorKind::Timeout
    );
    let handle = Handle {
        token: "t".to_owned(),
        poll_after_ms: 1,
    };
    assert_eq!(
        guarded.poll(&handle).await.unwrap_err().kind,
        ErrorKind::Timeout
    );
    let health = guarded.check().await.unwrap();
    assert!(
        !health.is_good() && health.findings[0].what == "reach",
        "{health:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn reserved_slots_are_for_revocations_and_free_ones_go_to_them_first() {
    let system = Moody::new(Mood::Slow(Duration::from_secs(1)));
    let guarded = guarded(&system, Limits::default());
    let _joiners = started(&guarded, 50).await;
    assert_eq!(system.running(), 6, "two of eight are reserved");
    let revocations = guarded.with_lane(Lane::Revocation);
    let leavers = started(&revocations, 10).await;
    assert_eq!(system.running(), 8, "two revocations start at once");

    // When the six joiners end, all eight slots go to waiting revocations, none to the 44 waiting joiners.
    tokio::time::sleep(Duration::from_millis(1_001)).await;
    let_others_run().await;
    assert_eq!(system.running(), 8);
    let finished = tokio::time::timeout(Duration::from_millis(1_000), async {
        for leaver in leavers {
            leaver.await.unwrap();
        }
    });
    finished
        .await
        .expect("ten revocations on eight slots take two rounds");
}

#[tokio::test(start_paused = true)]
async fn those_who_give_up_waiting_leave_no_hole() {
    let system = Moody::new(Mood::Slow(Duration::from_secs(1)));
    let guarded = guarded(
        &system,
        Limits {
            concurrency: 3,
            revocation_reserved: 1,
            ..Limits::default()
        },
    );
    let running = started(&guarded, 2).await;
    let waiting = started(&guarded, 5_000).await;
    let urgent = started(&guarded.with_lane(Lane::Revocation), 200).await;
    for task in waiting.iter().chain(&urgent).chain(&running) {
        task.abort();
    }
    let_others_run().await;
    assert_eq!(system.running(), 0);
    let _all = started(&guarded.with_lane(Lane::Revocation), 10).await;
    assert_eq!(system.running(), 3, "every slot came back");
    tokio::time::sleep(Duration::from_secs(60)).await;
    let _normal = started(&guarded, 10).await;
    assert_eq!(system.running(), 2, "and the reserve is still a reserve");
}

#[tokio::test(start_paused = true)]
async fn the_rate_spaces_calls_evenly() {
    let system = Moody::new(Mood::Well);
    let guarded = guarded(
        &system,
        Limits {
            rate_per_s: Some(10),
            ..Limits::default()
        },
    );
    let start = Instant::now();
    for task in started(&guarded, 11).await {
        task.await.unwrap();
    }
    assert_eq!(system.calls(), 11);
    assert_eq!(start.elapsed().as_millis(), 1_000);
    // An idle second is not saved up for a burst.
    tokio::time::advance(Duration::from_secs(5)).await;
    let start = Instant::now();
    for task in started(&guarded, 3).await {
        task.await.unwrap();
    }
    assert_eq!(start.elapsed().as_millis(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_revocation_takes_the_next_moment_of_the_rate() {
    let system = Moody::new(Mood::Well);
    let guarded = guarded(
        &system,
        Limits {
            rate_per_s: Some(1),
            timeout_ms: 60_000,
            ..Limits::default()
        },
    );
    let _joiners = started(&guarded, 50).await;
    let start = Instant::now();
    for leaver in started(&guarded.with_lane(Lane::Revocation), 2).await {
        leaver.await.unwrap();
    }
    assert_eq!(
        start.elapsed().as_secs(),
        2,
        "one call is gone; the next two moments are theirs"
    );
    assert_eq!(system.calls(), 3);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(system.calls(), 52, "the joiners are not starved");
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_slot_is_not_a_slow_system() {
    let system = Moody::new(Mood::Slow(Duration::from_millis(900)));
    let limits = Limits {
        timeout_ms: 1_000,
        concurrency: 1,
        revocation_reserved: 0,
        ..Limits::default()
    };
    let guarded = guarded(&system, limits);
    let tasks: Vec<_> = (0..5)
        .map(|n| {
            let guarded = guarded.clone();
            tokio::spawn(async move { guarded.apply(&disable(), &key(n)).await })
        })
        .collect();
    for task in tasks {
        let answer = task.await.unwrap();
        assert!(
            matches!(&answer, Err(error) if error.kind == ErrorKind::NotFound),
            "{answer:?}"
        );
    }
}
