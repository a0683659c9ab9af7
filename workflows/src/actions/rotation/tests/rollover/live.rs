//! A server that shows a certificate and clients that connect all the time, each with the bundle that its place shows, while the
//! authority behind both is replaced twice on its schedule and the certificate in between: no handshake fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use chrono::TimeDelta;
use engine::runner::Clock as _;

use super::world::{TRUSTS, World};
use super::{AUTHORITY, LEAF, Realm, SPEED};
use crate::rotation::{Because, Phase};
use crate::testbed::on_both;

/// What clients saw.
#[derive(Default)]
struct Seen {
    ends: AtomicBool,
    handshakes: AtomicU32,
    failures: std::sync::Mutex<Vec<String>>,
}

/// How a program comes by whom it trusts.
#[derive(Clone, Copy)]
enum Reads {
    /// The place, for each connection.
    Always(&'static str),
    /// The place, so often; between, what it has in memory.
    Every(&'static str, TimeDelta),
    /// When it is told to.
    Told,
}

async fn client(world: Arc<World>, reads: Reads, seen: Arc<Seen>) {
    let mut held = String::new();
    let mut read_at = None;
    while !seen.ends.load(Ordering::SeqCst) {
        let now = world.clock.now();
        match reads {
            Reads::Always(place) => held = world.bundle(place),
            Reads::Every(place, pause) => {
                if read_at.is_none_or(|at| now - at >= pause) {
                    held = world.bundle(place);
                    read_at = Some(now);
                }
            }
            Reads::Told => held.clone_from(&world.server.told.lock().unwrap()),
        }
        match world.server.connect(&held, now).await {
            Ok(()) => {
                seen.handshakes.fetch_add(1, Ordering::SeqCst);
            }
            Err(error) => seen.failures.lock().unwrap().push(error),
        }
        // sleeps: between two connections
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn no_handshake_fails_while_an_authority_is_replaced(on_postgres: bool) {
    let authority = "every: 1d\n          overlap: { reload: 1h, derived: 3h }\n          soak: 6h";
    let leaf = "every: 8h\n          overlap: { reload: 30m }";
    let realm = Realm::open(on_postgres, SPEED, authority, leaf).await;
    let world = &realm.world;
    let first = world.generations().await;
    let leaves = world.server.read.load(Ordering::SeqCst);
    let seen = Arc::new(Seen::default());
    let clients: Vec<_> = [
        Reads::Always(TRUSTS[0]),
        Reads::Always(TRUSTS[1]),
        Reads::Every(TRUSTS[0], TimeDelta::minutes(45)),
        Reads::Every(TRUSTS[1], TimeDelta::minutes(45)),
        Reads::Told,
    ]
    .into_iter()
    .map(|reads| tokio::spawn(client(Arc::clone(world), reads, Arc::clone(&seen))))
    .collect();

    // The clock begins what is due, as in a node.
    let node = realm.company.node().await;
    let directory = &realm.company.directory;
    let mut made = vec![first.clone()];
    let mut phases = Vec::new();
    for _ in 0..12_000 {
        directory.start_rotations(realm.clock.now()).await.unwrap();
        node.nudge();
        let row = realm.row(AUTHORITY).await;
        if phases.last() != Some(&row.phase) {
            phases.push(row.phase);
        }
        let now = world.generations().await;
        if now.len() == 1 && !made.contains(&now) {
            assert_eq!(row.because, Some(Because::Age));
            made.push(now);
        }
        if made.len() == 3 && row.open_case.is_none() {
            break;
        }
        // sleeps: as the loop of a node that begins rotations
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    seen.ends.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(*seen.failures.lock().unwrap(), Vec::<String>::new());
    assert_eq!(
        made.len(),
        3,
        "{phases:?}\n{}",
        realm.company.failures().await
    );
    let handshakes = seen.handshakes.load(Ordering::SeqCst);
    let reissued = world.server.read.load(Ordering::SeqCst) - leaves;
    println!("{handshakes} handshakes, {reissued} certificates, phases {phases:?}");
    assert!(handshakes > 2_000, "{handshakes}");
    assert!(reissued >= 4, "{reissued}");
    for phase in [Phase::Staged, Phase::Overlap, Phase::OldDisabled] {
        assert!(phases.contains(&phase), "{phase:?} in {phases:?}");
    }
    assert_eq!(realm.trusts(), (1, 1));
    assert_eq!(realm.row(LEAF).await.failures, 0);
    realm.holds();
    realm.close(node).await;
}

on_both! {
    no_handshake_fails_while_an_authority_is_replaced,
}
