//! The scenarios, with a process that dies at every commit.

use std::sync::atomic::{AtomicU64, Ordering};

use engine::runner::Actions;

use super::mortal::{Deaths, Life, Mortal, Together};
use super::*;
use crate::testbed::Leaving;

/// How long a node that dies at its second commit may live.
const LIFE_MAX: Duration = Duration::from_secs(30);
/// The most lives within one day.
const LIVES_MAX: u32 = 1_000;
/// A few are enough, and quicker to take over.
const SHARDS: u32 = 8;
/// Everybody at once, so that they come back together.
const CONCURRENCY: usize = 500;
/// Fewer commits would mean that they are not what was died at.
const COMMITS_MIN: u64 = 100;

/// Nodes that die, one after the other, until nothing is left to do.
async fn settled_through_deaths(company: &Company, deaths: &Arc<Deaths>) {
    for _ in 0..LIVES_MAX {
        let life = Life::new(deaths);
        let (store, directory) = company.opened().await;
        let mortal = Mortal::new(store, Arc::clone(&life), Arc::clone(deaths));
        let together = |inner| Arc::new(Together::new(inner)) as Arc<dyn Actions>;
        let node = company
            .node_on(Arc::new(mortal), directory, life.clone(), together)
            .await;
        let done = async {
            loop {
                assert!(node.idle().await);
                if company.is_settled().await {
                    return;
                }
                // sleeps: a case waits for its time, which goes fast
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let is_done = tokio::select! {
            () = life.dies.notified() => false,
            () = done => true,
            // sleeps: no life of a node may last for ever
            () = tokio::time::sleep(LIFE_MAX) => panic!("{}", company.failures().await),
        };
        drop(node);
        life.end().await;
        if is_done {
            return;
        }
    }
    panic!("{}", company.failures().await);
}

/// A node died between any two commits, some of them in the middle of a transaction.
fn every_commit_was_a_death(deaths: &Deaths) {
    let of = |count: &AtomicU64| count.load(Ordering::SeqCst);
    let (lives, written) = (of(&deaths.lives), of(&deaths.written));
    let (lost, within) = (of(&deaths.lost), of(&deaths.within));
    let told = format!("{lives} lives, {written} commits, {lost} lost, {within} within");
    assert!(written > COMMITS_MIN && lives >= written, "{told}");
    assert!(lost > written / 2 && within > 0, "{told}");
}

async fn crashes_change_nothing(on_postgres: bool) {
    let clock = Arc::new(FastClock::new(moment(0), SPEED));
    let own = Leaving {
        shards: Some(SHARDS),
        concurrency: Some(CONCURRENCY),
        ..Leaving::default()
    };
    let company = Company::leaving(clock.clone(), on_postgres, own).await;
    let mut people = people(1);
    let deaths = Arc::new(Deaths::default());
    for today in (0..=LAST_DAY).step_by(usize::try_from(STEP).unwrap()) {
        clock.jump(moment(today));
        company.intake.start_due(moment(today)).await.unwrap();
        // Whoever takes something in dies before it says so, and is told again.
        for _ in 0..2 {
            tell(&company, &mut people, today, moment(today)).await;
        }
        settled_through_deaths(&company, &deaths).await;
        check(&company, &people, today).await;
    }
    every_commit_was_a_death(&deaths);
    everything_ended_well(&company).await;
    if on_postgres {
        company.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn crashes_change_nothing_on_sqlite() {
    crashes_change_nothing(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn crashes_change_nothing_on_postgres() {
    crashes_change_nothing(true).await;
}
