//! Asking an authority when it wishes what it issued to be replaced, on both databases.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use chrono::TimeDelta;
use connectors::connector::{
    Capabilities, Claim, Connector, Coverage, Credential, CredentialId, CredentialKind, Cursor,
    Error, ErrorKind, Finding, Health, Kind, NativeId, Object, ObjectRef, Observation, Operation,
    OperationKey, Outcome, Page, Renewal, RenewalWindow, Verdict,
};
use engine::core::Timestamp;
use engine::runner::SystemClock;
use engine::store::{InboxRow, StoreError, Transaction, Work};
use serde_json::json;
use tokio::sync::Notify;

use super::RotationRow;
use super::database::{Sql, execute};
use crate::nhi::declare;
use crate::renewals::{Asked, ask};
use crate::rotation::settings::PART_ID;
use crate::testbed::{Company, Leaving, More, actor, on_both};

/// More than are kept together.
const CERTIFICATES: usize = 40;

#[derive(Clone, Copy)]
enum Says {
    When(Renewal),
    Fails(ErrorKind),
    /// Nothing, for ever.
    Hangs,
}

/// An authority with opinions, and the place of what it issued: each bundle shows the certificate of its name.
struct Authority {
    folder: PathBuf,
    /// Of each, and of all others.
    says: Mutex<(BTreeMap<String, Says>, Says)>,
    asked: Mutex<Vec<String>>,
    running: AtomicUsize,
    most: AtomicUsize,
    stuck: Notify,
}

fn unsupported<T>() -> Result<T, Error> {
    Err(Error::new(ErrorKind::Unsupported, "not here"))
}

#[async_trait]
impl Connector for Authority {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            credentials: [CredentialKind::Certificate].into(),
            renewal: true,
            ..Capabilities::default()
        }
    }

    async fn check(&self) -> Result<Health, Error> {
        let findings = vec![Finding::good("reach", "in memory")];
        Ok(Health { findings })
    }

    async fn list(&self, _: Kind, _: Option<Cursor>) -> Result<Page, Error> {
        unsupported()
    }

    async fn get(&self, _: &ObjectRef) -> Result<Option<Object>, Error> {
        unsupported()
    }

    async fn apply(&self, _: &Operation, _: &OperationKey) -> Result<Outcome, Error> {
        unsupported()
    }

    async fn verify(&self, claim: &Claim) -> Result<Verdict, Error> {
        let Claim::CredentialStored { account, .. } = claim else {
            return unsupported();
        };
        let path = self.folder.join(account.as_str());
        std::fs::write(&path, account.as_str()).unwrap();
        Ok(Verdict::Proven(Observation {
            by: "memory".to_owned(),
            account: None,
            seen: json!({ "parts": { PART_ID: format!("file:{}", path.display()) } }),
        }))
    }

    async fn credentials(&self, _: &NativeId) -> Result<Coverage<Vec<Credential>>, Error> {
        let id = CredentialId::new("version");
        let shown = Credential {
            active: Some(true),
            ..Credential::new(id, CredentialKind::Certificate)
        };
        Ok(Coverage {
            value: vec![shown],
            blind_spots: Vec::new(),
        })
    }

    async fn renewal(&self, holder: &NativeId, id: &CredentialId) -> Result<Renewal, Error> {
        assert_eq!(holder.as_str(), id.as_str(), "each has one, of its name");
        self.asked.lock().unwrap().push(id.to_string());
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        self.running.fetch_sub(1, Ordering::SeqCst);
        let says = {
            let says = self.says.lock().unwrap();
            says.0.get(id.as_str()).copied().unwrap_or(says.1)
        };
        match says {
            Says::When(renewal) => Ok(renewal),
            Says::Fails(kind) => Err(Error::new(kind, "as told")),
            Says::Hangs => {
                self.stuck.notify_one();
                std::future::pending().await
            }
        }
    }
}

/// As if each had been issued.
struct Issued;

#[async_trait]
impl Work for Issued {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        const ISSUED: Sql = Sql {
            table: "rotation",
            postgres: "UPDATE rotation SET last_rotated_at = since WHERE $1::jsonb IS NOT NULL",
            sqlite: "UPDATE rotation SET last_rotated_at = since WHERE ?1 IS NOT NULL",
        };
        execute(transaction, &ISSUED, &json!({})).await?;
        Ok(Vec::new())
    }
}

struct Fleet {
    company: Company,
    authority: Arc<Authority>,
    _folder: tempfile::TempDir,
}

fn at(hours: i64) -> Timestamp {
    let start: Timestamp = "2026-11-02T00:00:00Z".parse().unwrap();
    start + TimeDelta::hours(hours)
}

fn label(number: usize) -> String {
    format!("c{number:03}")
}

impl Fleet {
    async fn open(on_postgres: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Arc::new(Authority {
            folder: folder.path().to_owned(),
            says: Mutex::new((BTreeMap::new(), Says::When(Renewal::default()))),
            asked: Mutex::default(),
            running: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            stuck: Notify::new(),
        });
        let one = || Arc::clone(&authority) as Arc<dyn Connector>;
        let leaving = Leaving {
            systems: More(vec![("ca", one()), ("place", one())]),
            ..Leaving::default()
        };
        let company = Company::leaving(Arc::new(SystemClock), on_postgres, leaving).await;
        let people = ["A1,Ann Lee,Engineering", "B2,Bob Ray,Sales"];
        company.import("2026-01-01", &people).await;
        let mut text = "nhis:\n".to_owned();
        for label in (0..CERTIFICATES).map(label) {
            let _ = writeln!(
                text,
                "  - {{key: {label}, kind: workload, environment: test, purpose: serves, team: t, owner: A1, backup: B2, \
                 review: 2099-01-31, credentials: [{{system: ca, id: 'certificate:{label}', kind: certificate, \
                 replaced_by: reissue, rotation: {{place: {{system: place, bundle: {label}}}, users: [{label}], \
                 attributes: {{names: [{label}.example.org]}}}}}}]}}"
            );
        }
        let declared = declare::parse("n.yaml", &text, &BTreeSet::from(["ca", "place"])).unwrap();
        let directory = &company.directory;
        let report = directory
            .declare(&declared, &actor("user:ann"), "so", at(0))
            .await
            .unwrap();
        assert_eq!(report.refused, Vec::<String>::new());
        directory.write(&Issued).await.unwrap();
        Self {
            company,
            authority,
            _folder: folder,
        }
    }

    /// From now on it says this of one, and that of all others.
    fn says(&self, one: Option<(usize, Says)>, others: Says) {
        let one = one.map(|(number, says)| (label(number), says));
        *self.authority.says.lock().unwrap() = (one.into_iter().collect(), others);
    }

    async fn ask(&self, now: Timestamp) -> Asked {
        let systems = self.company.actions.systems_shared();
        let ca = systems.get("ca").unwrap();
        let directory = &self.company.directory;
        ask(directory, &systems, ca, now).await.unwrap()
    }

    /// Which are to be asked after by then.
    async fn due(&self, by: Timestamp) -> Vec<usize> {
        let rows = self
            .company
            .directory
            .rotations_renewable("ca", by, 500)
            .await;
        let names = rows.unwrap().into_iter().map(|row| row.name);
        names
            .map(|name| {
                let number = name.strip_prefix("ca/certificate:c").unwrap();
                number.parse().unwrap()
            })
            .collect()
    }

    async fn row(&self, number: usize) -> RotationRow {
        let name = format!("ca/certificate:{}", label(number));
        let row = self.company.directory.rotation(&name).await;
        row.unwrap().unwrap()
    }
}

fn when(hours: Option<(i64, i64)>, ask_again_s: Option<u64>) -> Says {
    let window = hours.map(|(start, end)| RenewalWindow {
        start: at(start),
        end: at(end),
    });
    Says::When(Renewal {
        window,
        ask_again_s,
    })
}

/// All but these.
fn all_but(numbers: &[usize]) -> Vec<usize> {
    (0..CERTIFICATES)
        .filter(|number| !numbers.contains(number))
        .collect()
}

async fn several_are_asked_after_at_once_and_each_again_when_it_says(on_postgres: bool) {
    let fleet = Fleet::open(on_postgres).await;
    *fleet.authority.says.lock().unwrap() = (
        [
            (0, when(Some((100, 200)), Some(7_200))),
            (1, when(None, Some(1))),
            (2, when(None, Some(u64::MAX))),
            (3, Says::Fails(ErrorKind::Denied)),
            (4, when(Some((200, 100)), Some(60))),
        ]
        .map(|(number, says)| (label(number), says))
        .into(),
        when(None, None),
    );
    assert_eq!(fleet.due(at(0)).await, all_but(&[]));
    let asked = fleet.ask(at(0)).await;
    assert_eq!((asked.asked, asked.wished), (CERTIFICATES, 1));
    let failed = asked.failed.unwrap();
    assert_eq!(failed, "`ca/certificate:c003`: as told");
    let mut names = fleet.authority.asked.lock().unwrap().clone();
    names.sort();
    let all: Vec<String> = (0..CERTIFICATES).map(label).collect();
    assert_eq!(names, all, "each once");
    // Of its eight slots two are for revocations.
    let most = fleet.authority.most.load(Ordering::SeqCst);
    assert!((2..=6).contains(&most), "{most} at once");

    let row = fleet.row(0).await;
    assert_eq!(
        row.renewal_from.zip(row.renewal_until),
        Some((at(100), at(200)))
    );
    for number in 1..CERTIFICATES {
        assert_eq!(fleet.row(number).await.renewal_from, None, "{number}");
    }
    // As it says, but neither sooner than in a minute nor later than in a day.
    let second = TimeDelta::seconds(1);
    let minute = at(0) + TimeDelta::minutes(1);
    assert_eq!(fleet.due(minute - second).await, Vec::<usize>::new());
    assert_eq!(fleet.due(minute).await, [1]);
    assert_eq!(fleet.due(at(2) - second).await, [1]);
    assert_eq!(fleet.due(at(2)).await, [0, 1]);
    assert_eq!(fleet.due(at(6) - second).await, [0, 1]);
    assert_eq!(fleet.due(at(6)).await, all_but(&[2]));
    assert_eq!(fleet.due(at(24) - second).await, all_but(&[2]));
    assert_eq!(fleet.due(at(24)).await, all_but(&[]));
    fleet.company.remove().await;
}

async fn one_that_is_away_is_told_once_and_asked_later(on_postgres: bool) {
    let fleet = Fleet::open(on_postgres).await;
    fleet.says(Some((0, when(Some((100, 200)), None))), when(None, None));
    fleet.ask(at(0)).await;
    fleet.says(None, Says::Fails(ErrorKind::Unreachable));
    let asked = fleet.ask(at(6)).await;
    assert!((1..=8).contains(&asked.asked), "{asked:?}");
    assert_eq!(asked.failed.unwrap(), "`ca/certificate:c000`: as told");
    let row = fleet.row(0).await;
    assert_eq!(row.renewal_from, Some(at(100)), "what it said before holds");
    let again = at(6) + TimeDelta::minutes(15);
    let nothing = Vec::<usize>::new();
    assert_eq!(fleet.due(again - TimeDelta::seconds(1)).await, nothing);
    assert_eq!(fleet.due(again).await, all_but(&[]));

    // It names a time; that of the others is not known.
    let limited = Says::Fails(ErrorKind::RateLimited { until: at(12) });
    fleet.says(Some((0, limited)), when(None, None));
    fleet.ask(at(9)).await;
    let due = fleet.due(at(12) - TimeDelta::seconds(1)).await;
    assert!(!due.contains(&0) && due.contains(&39), "{due:?}");
    assert!(fleet.due(at(12)).await.contains(&0));
    fleet.company.remove().await;
}

async fn what_was_said_before_a_node_ends_is_kept(on_postgres: bool) {
    let fleet = Fleet::open(on_postgres).await;
    fleet.says(Some((35, Says::Hangs)), when(None, None));
    tokio::select! {
        asked = fleet.ask(at(0)) => panic!("{asked:?}"),
        () = fleet.authority.stuck.notified() => {}
    }
    let left: Vec<usize> = (32..CERTIFICATES).collect();
    assert_eq!(fleet.due(at(0)).await, left);
    fleet.says(None, when(None, None));
    assert_eq!(fleet.ask(at(0)).await.asked, left.len());
    fleet.company.remove().await;
}

on_both! {
    several_are_asked_after_at_once_and_each_again_when_it_says,
    one_that_is_away_is_told_once_and_asked_later,
    what_was_said_before_a_node_ends_is_kept,
}
