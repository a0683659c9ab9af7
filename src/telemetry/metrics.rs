//! Metrics, each registered once. `docs/metrics.md` has the list; a test compares the two.
//!
//! Every label has few values, which configuration or code decides: systems, workflows, states, actions. Nothing
//! that a feed or a caller writes becomes a label.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use engine::core::case::CaseState;
use engine::runner::NodeStatus;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram, MeterProvider as _};
use opentelemetry_prometheus_text_exporter::PrometheusExporter;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use workflows::directory::LagKind;

/// Upper bounds of access lag, in seconds: from one second to a month.
const LAG_BOUNDS_S: [f64; 14] = [
    1.0,
    5.0,
    15.0,
    60.0,
    300.0,
    900.0,
    3_600.0,
    14_400.0,
    28_800.0,
    86_400.0,
    259_200.0,
    604_800.0,
    1_209_600.0,
    2_592_000.0,
];
const COMMIT_BOUNDS_S: [f64; 12] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];
const BATCH_BOUNDS: [f64; 11] = [
    1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 5_000.0,
];
const ATTEMPT_BOUNDS_S: [f64; 12] = [
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0,
];

/// States that are read when somebody asks, not counted as they happen.
#[derive(Debug, Clone, Default)]
pub struct Scrape {
    pub node: NodeStatus,
    /// Each system, and whether its breaker holds calls back.
    pub held: Vec<(String, bool)>,
    /// The age of the oldest message in the inbox.
    pub inbox_age_s: f64,
}

/// The program's metrics. Cheap to clone; clones count together.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    exporter: PrometheusExporter,
    /// Keeps the instruments alive.
    _provider: SdkMeterProvider,
    cases_started: Counter<u64>,
    cases_closed: Counter<u64>,
    attempts: Counter<u64>,
    attempt_seconds: Histogram<f64>,
    lag_seconds: Histogram<f64>,
    commit_seconds: Histogram<f64>,
    commit_transitions: Histogram<u64>,
    commit_failures: Counter<u64>,
    queue_waiting: Gauge<u64>,
    queue_out: Gauge<u64>,
    system_held: Gauge<u64>,
    shards_owned: Gauge<u64>,
    cases_hot: Gauge<u64>,
    inbox_age_seconds: Gauge<f64>,
    /// Queues that were told once: one that is gone has to go back to zero.
    queues: Mutex<BTreeSet<String>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    #[must_use]
    pub fn new() -> Self {
        let exporter = PrometheusExporter::builder()
            .without_scope_info()
            .without_target_info()
            .build();
        let provider = SdkMeterProvider::builder()
            .with_reader(exporter.clone())
            .build();
        let meter = provider.meter("tenure");
        let seconds = |name: &'static str, help: &'static str, bounds: &[f64]| {
            meter
                .f64_histogram(name)
                .with_description(help)
                .with_unit("s")
                .with_boundaries(bounds.to_vec())
                .build()
        };
        let counter = |name: &'static str, help: &'static str| {
            meter.u64_counter(name).with_description(help).build()
        };
        let gauge = |name: &'static str, help: &'static str| {
            meter.u64_gauge(name).with_description(help).build()
        };
        let inner = Inner {
            cases_started: counter("tenure_cases_started", "Cases made"),
            cases_closed: counter(
                "tenure_cases_closed",
                "Cases that ended, by the state they ended in",
            ),
            attempts: counter(
                "tenure_attempts",
                "Attempts that came back, by what came of them",
            ),
            attempt_seconds: seconds(
                "tenure_attempt",
                "How long attempts took",
                &ATTEMPT_BOUNDS_S,
            ),
            lag_seconds: seconds(
                "tenure_access_lag",
                "From effective and known to verified",
                &LAG_BOUNDS_S,
            ),
            commit_seconds: seconds(
                "tenure_commit",
                "How long group commits took",
                &COMMIT_BOUNDS_S,
            ),
            commit_transitions: meter
                .u64_histogram("tenure_commit_transitions")
                .with_description("Transitions in one group commit")
                .with_boundaries(BATCH_BOUNDS.to_vec())
                .build(),
            commit_failures: counter(
                "tenure_commit_failures",
                "Group commits that were refused or not answered",
            ),
            queue_waiting: gauge("tenure_queue_waiting", "Attempts waiting in a queue"),
            queue_out: gauge("tenure_queue_out", "Attempts of a queue that have left"),
            system_held: gauge(
                "tenure_system_held",
                "1 while the breaker of a system holds calls back",
            ),
            shards_owned: gauge("tenure_shards_owned", "Shards this process works on"),
            cases_hot: gauge("tenure_cases_hot", "Cases in memory"),
            inbox_age_seconds: meter
                .f64_gauge("tenure_inbox_age")
                .with_description("Age of the oldest message not taken in")
                .with_unit("s")
                .build(),
            exporter,
            _provider: provider,
            queues: Mutex::new(BTreeSet::new()),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    pub fn case_started(&self, workflow: &str) {
        self.inner
            .cases_started
            .add(1, &[label("workflow", workflow)]);
    }

    pub fn case_closed(&self, workflow: &str, state: CaseState) {
        self.inner.cases_closed.add(
            1,
            &[label("workflow", workflow), label("state", state.as_str())],
        );
    }

    /// `system` is `-` for what touches no system.
    pub fn attempt(&self, system: &str, action: &str, outcome: &'static str, took: Duration) {
        let labels = [
            label("system", system),
            label("action", action),
            label("outcome", outcome),
        ];
        self.inner.attempts.add(1, &labels);
        self.inner.attempt_seconds.record(
            took.as_secs_f64(),
            &[label("system", system), label("action", action)],
        );
    }

    pub fn lag(&self, system: &str, kind: LagKind, seconds: f64) {
        let kind = match kind {
            LagKind::Grant => "grant",
            LagKind::Removal => "removal",
        };
        self.inner
            .lag_seconds
            .record(seconds, &[label("system", system), label("kind", kind)]);
    }

    pub fn committed(&self, transitions: usize, took: Duration) {
        self.inner.commit_seconds.record(took.as_secs_f64(), &[]);
        self.inner
            .commit_transitions
            .record(transitions as u64, &[]);
    }

    pub fn commit_failed(&self) {
        self.inner.commit_failures.add(1, &[]);
    }

    /// Everything as Prometheus text, with the states of `scrape`.
    ///
    /// # Errors
    /// Never in practice: it is written to memory.
    pub fn export(&self, scrape: &Scrape) -> std::io::Result<String> {
        let inner = &self.inner;
        inner
            .shards_owned
            .record(scrape.node.owns_shards as u64, &[]);
        inner.cases_hot.record(scrape.node.cases_hot as u64, &[]);
        inner.inbox_age_seconds.record(scrape.inbox_age_s, &[]);
        for (system, held) in &scrape.held {
            inner
                .system_held
                .record(u64::from(*held), &[label("system", system)]);
        }
        let mut queues = inner.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.extend(scrape.node.queues.iter().map(|queue| queue.name.clone()));
        for name in queues.iter() {
            let queue = scrape.node.queues.iter().find(|queue| queue.name == *name);
            let (waiting, out) =
                queue.map_or((0, 0), |queue| (queue.waiting as u64, queue.out as u64));
            inner.queue_waiting.record(waiting, &[label("queue", name)]);
            inner.queue_out.record(out, &[label("queue", name)]);
        }
        drop(queues);
        let mut text = Vec::new();
        inner.exporter.export(&mut text)?;
        String::from_utf8(text).map_err(std::io::Error::other)
    }
}

fn label(name: &'static str, value: &str) -> KeyValue {
    KeyValue::new(name, value.to_owned())
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
    use std::collections::BTreeMap;

    use engine::runner::QueueStatus;

    use super::*;

    /// Every metric once.
    fn used() -> (Metrics, Scrape) {
        let metrics = Metrics::new();
        metrics.case_started("joiner");
        metrics.case_closed("leaver", CaseState::Succeeded);
        metrics.attempt(
            "crm",
            "account.disable",
            "succeeded",
            Duration::from_millis(7),
        );
        metrics.lag("crm", LagKind::Removal, 12.0);
        metrics.committed(3, Duration::from_millis(2));
        metrics.commit_failed();
        let queue = QueueStatus {
            name: "crm".to_owned(),
            waiting: 4,
            out: 2,
            held_until: None,
        };
        let node = NodeStatus {
            owns_shards: 256,
            cases_hot: 9,
            queues: vec![queue],
            ..NodeStatus::default()
        };
        (
            metrics,
            Scrape {
                node,
                held: vec![("crm".to_owned(), true)],
                inbox_age_s: 1.5,
            },
        )
    }

    /// Names and kinds, from the `# TYPE` lines.
    fn kinds(text: &str) -> BTreeMap<String, String> {
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        types
            .map(|line| line.split_once(' ').unwrap())
            .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
            .collect()
    }

    /// The parts of a line: labels come in no particular order.
    fn sorted(line: &str) -> Vec<&str> {
        let mut parts: Vec<&str> = line.split(['{', ',', '}']).collect();
        parts.sort_unstable();
        parts
    }

    #[test]
    fn values_come_out_as_they_went_in() {
        let (metrics, scrape) = used();
        let text = metrics.export(&scrape).unwrap();
        for line in [
            r#"tenure_cases_started_total{workflow="joiner"} 1"#,
            r#"tenure_cases_closed_total{state="succeeded",workflow="leaver"} 1"#,
            r#"tenure_attempts_total{action="account.disable",outcome="succeeded",system="crm"} 1"#,
            r#"tenure_access_lag_seconds_bucket{kind="removal",system="crm",le="15"} 1"#,
            r#"tenure_access_lag_seconds_bucket{kind="removal",system="crm",le="5"} 0"#,
            r#"tenure_commit_transitions_sum 3"#,
            r#"tenure_queue_waiting{queue="crm"} 4"#,
            r#"tenure_system_held{system="crm"} 1"#,
            "tenure_inbox_age_seconds 1.5",
            "tenure_shards_owned 256",
        ] {
            assert!(
                text.lines().any(|found| sorted(found) == sorted(line)),
                "`{line}` is not in\n{text}"
            );
        }
    }

    #[test]
    fn a_queue_that_is_gone_goes_back_to_zero() {
        let (metrics, scrape) = used();
        metrics.export(&scrape).unwrap();
        let text = metrics.export(&Scrape::default()).unwrap();
        assert!(
            text.contains(r#"tenure_queue_waiting{queue="crm"} 0"#),
            "{text}"
        );
    }

    #[test]
    fn the_documentation_lists_every_metric_with_its_kind() {
        let (metrics, scrape) = used();
        let found = kinds(&metrics.export(&scrape).unwrap());
        let document = include_str!("../../docs/metrics.md");
        let listed: BTreeMap<String, String> = document
            .lines()
            .filter_map(|line| line.strip_prefix("| `"))
            .map(|line| {
                let mut cells = line
                    .split('|')
                    .map(|cell| cell.trim().trim_matches('`').to_owned());
                (cells.next().unwrap(), cells.next().unwrap())
            })
            .collect();
        assert_eq!(found, listed);
    }
}
