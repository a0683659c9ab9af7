//! A fleet of certificates of a foreign authority, issued and renewed on their schedule, behind one TLS server.
//!
//! The time of the company runs ahead: it jumps from one renewal to the next. The authority's own clock does not, so all it issues
//! ends 90 days after the test began, and each certificate is younger when it is replaced than the one before. Clients live in
//! the time of the company. `TENURE_ACME_FLEET` says how many certificates there are; with `TENURE_LONG` there are 500.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use chrono::{SubsecRound as _, TimeDelta};
use connectors::connector::CredentialId;
use engine::core::Timestamp;
use engine::runner::{Clock as _, NodeHandle};
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::actor;
use super::pebble::{Pebble, Wishes};
use super::real::system;
use super::served::{Clients, Server, Trust};
use crate::directory::{RotationFilter, RotationRow};
use crate::nhi::declare;
use crate::renewals;
use crate::rotation::Because;
use crate::testbed::{Company, FastClock, Leaving, More, now};

/// How many there are, in the small form and in the full one.
const FLEET: usize = 100;
const FLEET_LONG: usize = 500;
/// How many calls are made at once: Pebble 2.4 locks itself up for good when many order while many revoke.
const CALLS_MAX: usize = 4;
/// The step of the time while something is under way; a few of them begin in it.
const STEP: TimeDelta = TimeDelta::seconds(5);
/// How many looks one wave takes at most.
const LOOKS_MAX: u32 = 2_000;
/// How many of the clients' names are looked at one by one.
const SAMPLE: usize = 10;
const BARS: usize = 20;

struct Fleet {
    company: Company,
    clock: Arc<FastClock>,
    server: Server,
    trust: Arc<Trust>,
    pebble: Pebble,
    wishes: Wishes,
    names: Arc<Vec<String>>,
    /// For how long the first ones, and those of one schedule, are spread.
    jitter: TimeDelta,
    folder: tempfile::TempDir,
}

impl Fleet {
    async fn open(count: usize, on_postgres: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("place");
        std::fs::create_dir(&place).unwrap();
        let pebble = Pebble::of_the_lab();
        let wishes = Wishes::beside(&pebble).await;
        let server = Server::start(&place).await;
        let clock = Arc::new(FastClock::new(now(), 1));
        let labels: Vec<String> = (0..count).map(|number| format!("n{number:04}")).collect();
        let bundles = labels.iter().map(|label| (label.clone(), server.bundle()));
        let bundles: serde_json::Map<String, Value> = bundles.collect();
        let settings = pebble.settings(&folder.path().join("ca"), &wishes.directory);
        let systems = vec![
            ("ca", system("acme", settings)),
            (
                "secrets",
                system("file", json!({ "root": place, "bundles": bundles })),
            ),
            (
                "edge",
                system("tls", json!({ "anywhere": true, "timeout_ms": 5_000 })),
            ),
        ];
        let leaving = Leaving {
            systems: More(systems),
            concurrency: Some(CALLS_MAX),
            // As docs/rotation.md says: an answer that is lost costs another certificate.
            call_max: Some(Duration::from_secs(150)),
            ..Leaving::default()
        };
        let company = Company::leaving(clock.clone(), on_postgres, leaving).await;
        let people = ["A1,Ann Lee,Sales", "B2,Bob Ray,Sales"];
        company.import("2026-01-01", &people).await;
        let root = folder.path().join("root.pem");
        std::fs::write(&root, pebble.root().await).unwrap();
        let trust = Arc::new(Trust::new(root, None, Arc::clone(&clock)));
        let names = labels.iter().map(|label| pebble.name(label)).collect();
        let fleet = Self {
            company,
            clock,
            server,
            trust,
            pebble,
            wishes,
            names: Arc::new(names),
            jitter: TimeDelta::seconds(2 * i64::try_from(count).unwrap()),
            folder,
        };
        fleet.declare(&labels).await;
        fleet
    }

    async fn declare(&self, labels: &[String]) {
        let mut text = "nhis:\n".to_owned();
        for (label, name) in labels.iter().zip(self.names.iter()) {
            let _ = write!(
                text,
                "
  - key: {label}
    kind: workload
    environment: production
    purpose: serves one customer
    team: shop
    owner: A1
    backup: B2
    review: 2037-01-31
    credentials:
      - system: ca
        id: certificate:{label}
        kind: certificate
        replaced_by: reissue
        used_by: [edge/{label}]
        rotation:
          place: {{ system: secrets, bundle: {label} }}
          users: [{label}]
          attributes: {{ names: [{name}] }}
          serves: {{ system: edge, endpoint: '{}' }}
          jitter: {}s
          overlap: {{ reload: 2m }}
",
                self.server.endpoint(name),
                self.jitter.num_seconds()
            );
        }
        let systems = BTreeSet::from(["ca", "secrets", "edge"]);
        let declared = declare::parse("nhis.yaml", &text, &systems).unwrap();
        let directory = &self.company.directory;
        let report = directory
            .declare(&declared, &actor("user:ann"), "so", self.clock.now())
            .await
            .unwrap();
        assert_eq!(report.refused, Vec::<String>::new());
    }

    async fn rows(&self, filter: &RotationFilter) -> Vec<RotationRow> {
        let directory = &self.company.directory;
        directory.rotations(filter, None, 10_000).await.unwrap()
    }

    async fn open_ones(&self) -> usize {
        let filter = RotationFilter {
            open_only: true,
            ..RotationFilter::default()
        };
        self.rows(&filter).await.len()
    }

    /// Lets the time run until nothing is planned before `until` and nothing is under way.
    ///
    /// It stands still while anything is being done: what may take a minute would have a second otherwise.
    async fn run(&self, node: &NodeHandle, until: Timestamp) {
        for _ in 0..LOOKS_MAX {
            let now = self.clock.now();
            let begun = self.company.directory.start_rotations(now).await.unwrap();
            assert!(node.idle().await);
            let is_idle = begun.cases.is_empty() && self.open_ones().await == 0;
            let to = match begun.next.filter(|next| *next < until) {
                None if is_idle => return,
                // Nobody waits for anything: to the next one at once.
                Some(next) if is_idle => next,
                _ => now + STEP,
            };
            self.clock.jump(to);
        }
        let failures = self.company.failures().await;
        let told: String = failures.chars().take(4_000).collect();
        panic!("{} are under way\n{told}", self.open_ones().await);
    }

    /// Asks the authority when it wishes what it issued to be replaced, as a node does by itself.
    async fn ask(&self) -> renewals::Asked {
        let systems = self.company.actions.systems_shared();
        let ca = systems.get("ca").unwrap();
        assert!(renewals::has_opinions(ca));
        let (directory, now) = (&self.company.directory, self.clock.now());
        renewals::ask(directory, &systems, ca, now).await.unwrap()
    }

    /// All are shown, each another than before, to whoever looks at everything.
    async fn all_are_new(&self, before: &BTreeMap<String, CredentialId>) {
        let rows = self.rows(&RotationFilter::default()).await;
        for row in &rows {
            assert_eq!((row.open_case.as_ref(), row.failures), (None, 0), "{row:?}");
            assert!(row.last_rotated_at.is_some(), "{row:?}");
        }
        let shown = self.server.shown();
        assert_eq!(shown.len(), self.names.len());
        for (label, id) in &shown {
            assert_ne!(before.get(label), Some(id), "{label}");
        }
    }

    async fn sample(&self) -> Vec<Vec<CertificateDer<'static>>> {
        let mut chains = Vec::new();
        for name in self.names.iter().take(SAMPLE) {
            chains.push(self.trust.connect(self.server.port, name).await.unwrap());
        }
        chains
    }

    /// What stands in the journal of the authority's connector: orders, certificates, revocations.
    fn journal(&self) -> [usize; 3] {
        let journal = self.folder.path().join("ca/journal.jsonl");
        let text = std::fs::read_to_string(journal).unwrap();
        ["ordered", "issued", "revoked"].map(|event| {
            let mark = format!("\"event\":\"{event}\"");
            text.lines().filter(|line| line.contains(&mark)).count()
        })
    }
}

/// How many begin in each part of a time; none of them has much more than its share.
fn histogram(what: &str, times: &[Timestamp]) {
    let (first, last) = (*times.iter().min().unwrap(), *times.iter().max().unwrap());
    let part_ms = (last - first).num_milliseconds() / i64::try_from(BARS).unwrap() + 1;
    let mut counts = [0_usize; BARS];
    for at in times {
        counts[usize::try_from((*at - first).num_milliseconds() / part_ms).unwrap()] += 1;
    }
    println!("{what}: {} between {first} and {last}", times.len());
    for (part, count) in (0..).zip(counts) {
        let from = first + TimeDelta::milliseconds(part_ms * part);
        println!(
            "  {} {count:4} {}",
            from.format("%H:%M:%S"),
            "#".repeat(count)
        );
    }
    let share = times.len() / BARS;
    let most = counts.iter().max().copied().unwrap();
    assert!(
        most <= 2 * share + 10,
        "{what}: {most} in one of {BARS} parts"
    );
}

fn fleet() -> usize {
    match std::env::var("TENURE_ACME_FLEET") {
        Ok(said) => said.parse().unwrap(),
        Err(_) if std::env::var_os("TENURE_LONG").is_some() => FLEET_LONG,
        Err(_) => FLEET,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_is_renewed_on_its_schedule_and_no_handshake_fails() {
    renewed(fleet(), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_few_are_renewed_on_postgres() {
    renewed(8, true).await;
}

async fn renewed(count: usize, on_postgres: bool) {
    let began = Instant::now();
    let fleet = Fleet::open(count, on_postgres).await;
    let directory = &fleet.company.directory;
    let node = fleet.company.node().await;
    let took = |what: &str| println!("{what}: {:.1} s", began.elapsed().as_secs_f64());

    // The first ones, spread over the jitter.
    let start = fleet.clock.now();
    directory.plan_rotations(start).await.unwrap();
    let planned = fleet.rows(&RotationFilter::default()).await;
    assert!(
        planned
            .iter()
            .all(|row| row.because == Some(Because::First))
    );
    let times: Vec<_> = planned.iter().filter_map(|row| row.starts_at).collect();
    histogram("issued", &times);
    fleet.run(&node, start + fleet.jitter * 2).await;
    fleet.all_are_new(&BTreeMap::new()).await;
    took("issued");
    let first = fleet.server.shown();
    let ended = fleet.sample().await;
    let rows = fleet.rows(&RotationFilter::default()).await;
    let first_end = rows.iter().filter_map(|row| row.expires_at).max().unwrap();

    let pause = Duration::from_millis(20);
    let clients = Clients::start(2, pause, &fleet.trust, fleet.server.port, &fleet.names);
    let revoked = |shown: &BTreeMap<String, CredentialId>| {
        shown
            .values()
            .for_each(|id| clients.seen.revoked(id.clone()));
    };

    // The authority has no opinion, but for one of them, which it wants back.
    let soon = fleet.clock.now() + TimeDelta::hours(1);
    fleet.clock.jump(fleet.clock.now() + renewals::ASKED_AGAIN);
    fleet.wishes.want_one_back((soon, soon));
    let asked = fleet.ask().await;
    assert_eq!((asked.asked, asked.wished), (count, 1), "{asked:?}");
    fleet
        .run(&node, fleet.clock.now() + TimeDelta::minutes(1))
        .await;
    let shown = fleet.server.shown();
    let replaced = shown.iter().filter(|(label, id)| first[*label] != **id);
    let replaced: Vec<String> = replaced.map(|(label, _)| label.clone()).collect();
    assert_eq!(
        replaced.len(),
        1,
        "the one that was wanted back, and it alone"
    );
    assert_eq!(fleet.journal(), [count + 1, count + 1, 1]);

    // On their schedule: two thirds of what each has to live, and the jitter.
    directory.plan_rotations(fleet.clock.now()).await.unwrap();
    let planned = fleet.rows(&RotationFilter::default()).await;
    assert!(
        planned
            .iter()
            .all(|row| row.because == Some(Because::Expiry))
    );
    for row in &planned {
        let (expires, due) = (row.expires_at.unwrap(), row.due_at.unwrap());
        let late = (due - (expires - (expires - row.since) / 3)).abs();
        assert!(late < TimeDelta::milliseconds(1), "{row:?}");
        let early = due - row.starts_at.unwrap();
        assert!(
            (TimeDelta::zero()..=fleet.jitter).contains(&early),
            "{row:?}"
        );
    }
    let before = fleet.server.shown();
    let chains = fleet.sample().await;
    let last = planned
        .iter()
        .filter_map(|row| row.starts_at)
        .max()
        .unwrap();
    fleet.run(&node, last + TimeDelta::minutes(1)).await;
    fleet.all_are_new(&before).await;
    revoked(&first);
    revoked(&before);
    for chain in &chains {
        assert_eq!(fleet.pebble.status(&chain[0]).await, "Revoked");
    }
    let rows = fleet.rows(&RotationFilter::default()).await;
    // Without the one that was out of turn.
    let in_turn = rows.iter().filter(|row| !row.name.ends_with(&replaced[0]));
    let times: Vec<_> = in_turn.filter_map(|row| row.last_rotated_at).collect();
    histogram("renewed on their schedule", &times);
    took("renewed");

    // And once more, when the authority wishes it.
    let now = fleet.clock.now();
    // In whole seconds, as an authority says it.
    let from = now.trunc_subsecs(0) + TimeDelta::minutes(30);
    let window = (from, from + fleet.jitter);
    fleet.wishes.wish(window);
    let asked = fleet.ask().await;
    assert_eq!((asked.asked, asked.wished), (count, count), "{asked:?}");
    directory.plan_rotations(now).await.unwrap();
    let planned = fleet.rows(&RotationFilter::default()).await;
    for row in &planned {
        assert_eq!(row.because, Some(Because::Wished));
        let at = row.starts_at.unwrap();
        assert!((window.0..=window.1).contains(&at), "{row:?}");
    }
    let before = fleet.server.shown();
    fleet.run(&node, window.1 + TimeDelta::minutes(1)).await;
    fleet.all_are_new(&before).await;
    revoked(&before);
    let rows = fleet.rows(&RotationFilter::default()).await;
    let times: Vec<_> = rows.iter().filter_map(|row| row.last_rotated_at).collect();
    histogram("renewed when the authority wished it", &times);
    took("renewed again");

    // Nothing was ordered twice, and what was replaced is revoked.
    let [orders, issued, ended_by_us] = fleet.journal();
    println!("{orders} orders, {issued} certificates, {ended_by_us} revoked");
    assert_eq!(
        [orders, issued, ended_by_us],
        [3 * count + 1, 3 * count + 1, 2 * count + 1]
    );
    let handshakes = clients.stop().await;
    println!(
        "{handshakes} handshakes, none failed; the authority was asked {} times for its opinion",
        fleet.wishes.asked()
    );
    assert!(handshakes > 20, "{handshakes}");

    // A moment after the first ones ended: all that is shown is good still.
    fleet.clock.jump(first_end + TimeDelta::seconds(1));
    for (name, chain) in fleet.names.iter().zip(&ended) {
        let refused = fleet.trust.refused(chain, name).unwrap();
        assert!(refused.to_lowercase().contains("expired"), "{refused}");
    }
    for name in fleet.names.iter() {
        let connected = fleet.trust.connect(fleet.server.port, name).await;
        assert!(connected.is_ok(), "{name}: {connected:?}");
    }
    assert!(fleet.server.reads() >= u32::try_from(3 * count).unwrap());
    node.drain(Duration::from_secs(10)).await.unwrap();
    fleet.company.remove().await;
}
