//! What the program gives, what the documents say, and what the alerts ask for are one; `promtool` accepts it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use chrono::TimeDelta;
use engine::core::Timestamp;
use engine::core::case::CaseState;
use engine::core::id::Actor;
use engine::core::schedule::{Cause, Outcome, Run, RunKey};
use engine::runner::{NodeStatus, QueueStatus, WaitStatus};
use workflows::directory::{LagKind, LeftOutReason};

use super::credentials::{HORIZONS, OPEN};
use super::{CredentialScrape, Metrics, Scrape, SourceScrape};

const DOCUMENT: &str = include_str!("../../docs/metrics.md");
const ALERTS: &str = include_str!("../../docs/alerts.yaml");

/// Every metric once.
pub(super) fn used() -> (Metrics, Scrape) {
    let metrics = Metrics::new();
    metrics.case_started("joiner");
    metrics.case_closed("leaver", CaseState::Succeeded);
    metrics.attempt(
        "crm",
        "account.disable",
        "succeeded",
        Duration::from_millis(7),
    );
    metrics.step("account.disable", "done");
    metrics.rotation_closed(CaseState::Undone);
    metrics.timer_fired(0.2);
    let at = Timestamp::from_timestamp_micros(1_800_000_000_000_000).unwrap();
    metrics.schedule_run(&Run {
        key: RunKey {
            fire_at: at,
            by_hand: false,
        },
        cause: Cause::Clock,
        due_at: at,
        decided_at: at + TimeDelta::milliseconds(3),
        outcome: Outcome::Started,
        case: None,
        initiator: Actor::engine(),
        reason: String::new(),
    });
    metrics.lag("crm", LagKind::Removal, 12.0);
    metrics.committed(3, Duration::from_millis(2));
    metrics.commit_failed();
    metrics.leases_lost(1);
    metrics.removed("cases", 500);
    metrics.notice("email", "case.parked", "sent");
    metrics.notices_away("email", true);
    metrics.telemetry_dropped("spans", "queue_full", 2);
    let queue = QueueStatus {
        name: "crm".to_owned(),
        waiting: 4,
        out: 2,
        held_until: None,
        revocation: WaitStatus {
            waiting: 1,
            oldest: Some(at),
        },
        normal: WaitStatus {
            waiting: 3,
            oldest: Some(at - TimeDelta::seconds(40)),
        },
    };
    let node = NodeStatus {
        owns_shards: 256,
        cases_hot: 9,
        queues: vec![queue],
        ..NodeStatus::default()
    };
    let scrape = Scrape {
        at,
        node,
        held: vec![("crm".to_owned(), true)],
        inbox_age_s: 1.5,
        inbox_messages: 3,
        open_cases: vec![(CaseState::Running, 7)],
        parked_steps: 1,
        parked_age_s: 90.0,
        notices: vec![("parked", 2, 60.0)],
        sources: vec![
            SourceScrape {
                name: "hr".to_owned(),
                heard_age_s: 93_600.5,
                silent: Some(true),
                doubted: true,
            },
            SourceScrape {
                name: "vms".to_owned(),
                heard_age_s: 2.0,
                silent: None,
                doubted: false,
            },
        ],
        guard_waiting: BTreeMap::from([("hr".to_owned(), 1)]),
        left_out: LeftOutReason::ALL
            .map(|reason| (reason.as_str(), 2, 700_000.0))
            .into(),
        credentials: CredentialScrape {
            under_way: OPEN.map(|phase| (phase, 1)).into(),
            overdue_age_s: 60.0,
            expired: 2,
            expired_in_use: 1,
            expiring: HORIZONS.map(|(within, _)| (within, 3)).into(),
        },
    };
    (metrics, scrape)
}

fn text() -> String {
    let (metrics, scrape) = used();
    metrics.export(&scrape).unwrap()
}

/// Names and kinds, from the `# TYPE` lines.
fn kinds(text: &str) -> BTreeMap<String, String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types
        .map(|line| line.split_once(' ').unwrap())
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect()
}

/// The cells of the document's table, without their quotes.
fn rows() -> Vec<Vec<String>> {
    let cell = |cell: &str| cell.trim().to_owned();
    DOCUMENT
        .lines()
        .filter(|line| line.starts_with("| `tenure_"))
        .map(|line| line.trim_matches('|').split('|').map(cell).collect())
        .collect()
}

fn quoted(cell: &str) -> Vec<String> {
    let parts = cell.split('`').skip(1).step_by(2);
    parts.map(str::to_owned).collect()
}

/// Name and value of every label of every line.
fn labels(text: &str) -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((_, rest)) = line.split_once('{') else {
            continue;
        };
        let (inside, _) = rest.rsplit_once('}').unwrap();
        for label in inside.split("\",").filter(|label| !label.is_empty()) {
            let (name, value) = label.split_once("=\"").unwrap();
            found.insert((name.to_owned(), value.trim_end_matches('"').to_owned()));
        }
    }
    found
}

#[test]
fn the_document_lists_every_metric_with_its_kind_and_labels() {
    let text = text();
    let listed: BTreeMap<String, String> = rows()
        .iter()
        .map(|row| (quoted(&row[0])[0].clone(), row[1].clone()))
        .collect();
    assert_eq!(kinds(&text), listed);
    for row in rows() {
        assert_eq!(row.len(), 6, "{row:?}");
        assert!(!row[2].is_empty(), "no unit: {row:?}");
        let name = &quoted(&row[0])[0];
        let of_metric: String = text
            .lines()
            .filter(|line| {
                let bare = line.split(['{', ' ']).next().unwrap_or_default();
                let base = ["_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|end| bare.strip_suffix(end));
                bare == name || base == Some(name)
            })
            .flat_map(|line| [line, "\n"])
            .collect();
        let found: BTreeSet<String> = labels(&of_metric)
            .into_iter()
            .map(|(name, _)| name)
            .filter(|name| name != "le")
            .collect();
        let listed: BTreeSet<String> = quoted(&row[3]).into_iter().collect();
        assert_eq!(found, listed, "labels of {name}");
    }
}

/// What may be a label, and who decides over its values. Whatever a feed or a caller writes is not here.
#[test]
fn every_label_has_few_values() {
    let configured: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("system", ["crm"].as_slice()),
        ("queue", &["crm"]),
        ("source", &["hr", "vms", "policy"]),
        ("workflow", &["joiner", "leaver"]),
        ("action", &["account.disable"]),
        ("notice", &["case.parked"]),
    ]);
    let states = CaseState::ALL.map(CaseState::as_str);
    let phases = OPEN.map(|phase| phase.as_str());
    let fixed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("state", states.as_slice()),
        ("cause", &["clock", "by_hand", "backfill"]),
        (
            "outcome",
            &[
                "started",
                "succeeded",
                "accepted",
                "needs_human",
                "answer_lost",
                "not_applied",
                "not_sent",
                "failed",
            ],
        ),
        ("kind", &["grant", "removal"]),
        ("lane", &["revocation", "normal"]),
        ("ending", &["done", "undone", "unknown"]),
        ("what", &["partitions", "rows", "cases", "notices"]),
        ("way", &["email", "webhook"]),
        (
            "result",
            &["sent", "later", "refused", "parked", "not_sent"],
        ),
        ("signal", &["spans", "metrics"]),
        ("reason", &["queue_full", "not_sent", "question", "rule"]),
        ("phase", phases.as_slice()),
        ("within", &["1d", "7d", "30d", "90d"]),
        (
            "end",
            &[
                "done",
                "unverified",
                "incomplete",
                "rolled_back",
                "abandoned",
            ],
        ),
    ]);
    let text = text();
    let found = labels(&text);
    for (name, value) in &found {
        if name == "le" {
            continue;
        }
        let allowed = configured.get(name.as_str()).or(fixed.get(name.as_str()));
        let allowed = allowed.unwrap_or_else(|| panic!("nobody bounds the label `{name}`"));
        assert!(allowed.contains(&value.as_str()), "{name}={value}");
    }
    let names: BTreeSet<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    for name in configured.keys().chain(fixed.keys()) {
        assert!(names.contains(name), "`{name}` is no label any more");
    }
}

#[test]
fn names_follow_the_convention() {
    for (name, kind) in kinds(&text()) {
        assert!(name.starts_with("tenure_"), "{name}");
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
        assert!(
            !["_ms", "_us", "_minutes", "_hours"]
                .iter()
                .any(|unit| name.contains(unit)),
            "{name}: base units only"
        );
    }
}

#[test]
fn alerts_ask_for_metrics_that_are_there_and_the_document_names_each() {
    let known = kinds(&text());
    let mut alerts = BTreeSet::new();
    for line in ALERTS.lines() {
        if let Some(name) = line.trim().strip_prefix("- alert: ") {
            alerts.insert(name.to_owned());
        }
    }
    let expressions: String = ALERTS
        .lines()
        .filter(|line| {
            !["summary:", "description:", "#"]
                .iter()
                .any(|start| line.trim().starts_with(start))
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    let mut asked = BTreeSet::new();
    for (at, _) in expressions.match_indices("tenure_") {
        let word: String = expressions[at..]
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
            .collect();
        let base = word.strip_suffix("_bucket").unwrap_or(&word).to_owned();
        assert!(known.contains_key(&base), "{word} is no metric");
        asked.insert(base);
    }
    let mut named = BTreeSet::new();
    for row in rows() {
        for alert in quoted(&row[5]) {
            assert!(
                asked.contains(&quoted(&row[0])[0]),
                "{alert} does not ask for it"
            );
            named.insert(alert);
        }
    }
    assert_eq!(named, alerts);
}

fn promtool() -> Command {
    const VARIABLE: &str = "TENURE_LAB_PROMTOOL";
    Command::new(std::env::var(VARIABLE).unwrap_or_else(|_| {
        panic!("`{VARIABLE}` is not set: run `tests/lab/prometheus.sh start DIR`, then `. DIR/env`; it installs `promtool`")
    }))
}

#[test]
fn promtool_accepts_the_metrics() {
    let mut check = promtool()
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    check
        .stdin
        .take()
        .unwrap()
        .write_all(text().as_bytes())
        .unwrap();
    let output = check.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn promtool_accepts_the_alerts() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/alerts.yaml");
    let output = promtool().args(["check", "rules", path]).output().unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
