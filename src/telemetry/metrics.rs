//! Metrics, each registered once. `docs/metrics.md` has the list; a test compares the two.
//!
//! Every label has few values, which configuration or code decides: systems, workflows, states, actions. Nothing
//! that a feed or a caller writes becomes a label.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use engine::core::Timestamp;
use engine::core::case::CaseState;
use engine::core::schedule::{self, Run};
use engine::runner::NodeStatus;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram, MeterProvider as _};
use opentelemetry_prometheus_text_exporter::PrometheusExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{
    InstrumentKind, ManualReader, MeterProviderBuilder, Pipeline, SdkMeterProvider, Temporality,
};
use workflows::directory::LagKind;
use workflows::policy::guard::POLICY;

use super::CredentialScrape;

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
/// From what nobody notices to a night.
const LATENESS_BOUNDS_S: [f64; 11] = [
    0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0, 3_600.0, 28_800.0,
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
    /// When they were read.
    pub at: Timestamp,
    pub node: NodeStatus,
    /// Each system, and whether its breaker holds calls back.
    pub held: Vec<(String, bool)>,
    /// The age of the oldest message in the inbox.
    pub inbox_age_s: f64,
    pub inbox_messages: u64,
    /// How many cases are in each state that is not the end.
    pub open_cases: Vec<(CaseState, u64)>,
    pub parked_steps: u64,
    pub parked_age_s: f64,
    pub sources: Vec<SourceScrape>,
    /// For each state that is not the end: how many notices are in it, and for how long the oldest is overdue.
    pub notices: Vec<(&'static str, u64, f64)>,
    /// How many differences of each source wait for a person; `policy` stands for the policy itself.
    pub guard_waiting: BTreeMap<String, u64>,
    /// By why rollouts of policies left people out: how many there are, and for how long the first of them.
    pub left_out: Vec<(&'static str, u64, f64)>,
    pub credentials: CredentialScrape,
}

/// How a configured source is heard.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceScrape {
    pub name: String,
    /// Since it was last heard, or since it is expected.
    pub heard_age_s: f64,
    /// Whether that is too long; `None` when nobody watches.
    pub silent: Option<bool>,
    /// Whether what it delivered last is not believed.
    pub doubted: bool,
}

/// A reader that two hold: the provider it belongs to, and whoever collects from it.
#[derive(Debug, Clone)]
struct SharedReader(Arc<ManualReader>);

impl MetricReader for SharedReader {
    fn register_pipeline(&self, pipeline: Weak<Pipeline>) {
        self.0.register_pipeline(pipeline);
    }

    fn collect(&self, metrics: &mut ResourceMetrics) -> OTelSdkResult {
        self.0.collect(metrics)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn temporality(&self, kind: InstrumentKind) -> Temporality {
        self.0.temporality(kind)
    }
}

/// The program's metrics. Cheap to clone; clones count together.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    exporter: PrometheusExporter,
    /// Beside it, for whoever sends the same numbers elsewhere; costs something only when it is there.
    reader: Option<SharedReader>,
    /// Keeps the instruments alive.
    _provider: SdkMeterProvider,
    cases_started: Counter<u64>,
    cases_closed: Counter<u64>,
    attempts: Counter<u64>,
    attempt_seconds: Histogram<f64>,
    steps: Counter<u64>,
    lag_seconds: Histogram<f64>,
    timer_lateness_seconds: Histogram<f64>,
    schedule_runs: Counter<u64>,
    schedule_lateness_seconds: Histogram<f64>,
    commit_seconds: Histogram<f64>,
    commit_transitions: Histogram<u64>,
    commit_failures: Counter<u64>,
    queue_waiting: Gauge<u64>,
    queue_age_seconds: Gauge<f64>,
    queue_out: Gauge<u64>,
    system_held: Gauge<u64>,
    shards_owned: Gauge<u64>,
    cases_hot: Gauge<u64>,
    cases_open: Gauge<u64>,
    parked_steps: Gauge<u64>,
    parked_age_seconds: Gauge<f64>,
    inbox_age_seconds: Gauge<f64>,
    inbox_messages: Gauge<u64>,
    source_heard_age_seconds: Gauge<f64>,
    source_silent: Gauge<u64>,
    notices_sent: Counter<u64>,
    notices: Gauge<u64>,
    notices_age_seconds: Gauge<f64>,
    notices_held: Gauge<u64>,
    source_doubted: Gauge<u64>,
    guard_waiting: Gauge<u64>,
    left_out: Gauge<u64>,
    left_out_age_seconds: Gauge<f64>,
    rotations_closed: Counter<u64>,
    rotations_open: Gauge<u64>,
    rotation_overdue_age_seconds: Gauge<f64>,
    credentials_expired: Gauge<u64>,
    credentials_expired_seen: Gauge<u64>,
    credentials_expiring: Gauge<u64>,
    leases_lost: Counter<u64>,
    retention_removed: Counter<u64>,
    telemetry_dropped: Counter<u64>,
    /// Queues that were told once: one that is gone has to go back to zero.
    queues: Mutex<BTreeSet<String>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// For scrapes only.
    #[must_use]
    pub fn new() -> Self {
        Self::with(SdkMeterProvider::builder(), None)
    }

    /// For scrapes, and to be sent as coming from `resource`.
    #[must_use]
    pub fn sent(resource: Resource) -> Self {
        let reader = SharedReader(Arc::new(ManualReader::builder().build()));
        let provider = SdkMeterProvider::builder()
            .with_resource(resource)
            .with_reader(reader.clone());
        Self::with(provider, Some(reader))
    }

    fn with(provider: MeterProviderBuilder, reader: Option<SharedReader>) -> Self {
        let exporter = PrometheusExporter::builder()
            .without_scope_info()
            .without_target_info()
            .build();
        let provider = provider.with_reader(exporter.clone()).build();
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
            steps: counter("tenure_steps", "Actions that ended, by how"),
            timer_lateness_seconds: seconds(
                "tenure_timer_lateness",
                "From the moment a timer was due to its durable transition",
                &LATENESS_BOUNDS_S,
            ),
            schedule_runs: counter(
                "tenure_schedule_runs",
                "Runs of schedules, by why there was one and what became of it",
            ),
            schedule_lateness_seconds: seconds(
                "tenure_schedule_lateness",
                "From the moment a schedule was due to the durable start of its run",
                &LATENESS_BOUNDS_S,
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
            queue_age_seconds: meter
                .f64_gauge("tenure_queue_oldest_age")
                .with_description("How long the oldest attempt of a queue has waited")
                .with_unit("s")
                .build(),
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
            cases_open: gauge("tenure_cases_open", "Cases that have not ended, by state"),
            parked_steps: gauge(
                "tenure_parked_steps",
                "Steps that wait for a person because they failed",
            ),
            parked_age_seconds: meter
                .f64_gauge("tenure_parked_oldest_age")
                .with_description("Age of the oldest parked step")
                .with_unit("s")
                .build(),
            inbox_messages: gauge("tenure_inbox_messages", "Messages not taken in"),
            source_heard_age_seconds: meter
                .f64_gauge("tenure_source_heard_age")
                .with_description("Since a source was last heard, or is expected to be")
                .with_unit("s")
                .build(),
            source_silent: gauge(
                "tenure_source_silent",
                "1 while nothing was heard of a source for longer than its `silent_after`",
            ),
            notices_sent: counter(
                "tenure_notice_messages",
                "Messages of notices that were tried, by what came of them",
            ),
            notices: gauge(
                "tenure_notices",
                "Notices that are not at their end, by state",
            ),
            notices_age_seconds: meter
                .f64_gauge("tenure_notice_oldest_age")
                .with_description("For how long the oldest notice of a state is overdue")
                .with_unit("s")
                .build(),
            notices_held: gauge(
                "tenure_notices_held",
                "1 while nothing can be sent by a way",
            ),
            source_doubted: gauge(
                "tenure_source_doubted",
                "1 while what a source delivered last is not believed",
            ),
            guard_waiting: gauge(
                "tenure_guard_waiting",
                "Differences that the guard stopped and that wait for a person",
            ),
            left_out: gauge(
                "tenure_policy_left_out",
                "People whom a rollout of a policy left out, by why",
            ),
            left_out_age_seconds: meter
                .f64_gauge("tenure_policy_left_out_oldest_age")
                .with_description("For how long the one is left out who is left out the longest")
                .with_unit("s")
                .build(),
            rotations_closed: counter("tenure_rotations_closed", "Rotations that ended, by how"),
            rotations_open: gauge(
                "tenure_rotations_open",
                "Rotations under way, by the phase that was reached last",
            ),
            rotation_overdue_age_seconds: meter
                .f64_gauge("tenure_rotation_overdue_age")
                .with_description(
                    "For how long the credential is overdue that should have been replaced first",
                )
                .with_unit("s")
                .build(),
            credentials_expired: gauge(
                "tenure_credentials_expired",
                "Declared credentials that have expired",
            ),
            credentials_expired_seen: gauge(
                "tenure_credentials_expired_seen",
                "Declared credentials that were seen in use after they had expired",
            ),
            credentials_expiring: gauge(
                "tenure_credentials_expiring",
                "Declared credentials that expire within a time",
            ),
            leases_lost: counter(
                "tenure_leases_lost",
                "Times this process was told that another owns its shard",
            ),
            retention_removed: counter(
                "tenure_retention_removed",
                "What was removed because it was over",
            ),
            telemetry_dropped: counter(
                "tenure_telemetry_dropped",
                "Spans and sets of metrics that were not sent",
            ),
            exporter,
            reader,
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

    /// The case of a rotation has ended.
    pub fn rotation_closed(&self, state: CaseState) {
        let ending = match state {
            CaseState::Succeeded => "done",
            CaseState::Unverified => "unverified",
            CaseState::Incomplete => "incomplete",
            CaseState::Undone => "rolled_back",
            _ => "abandoned",
        };
        self.inner.rotations_closed.add(1, &[label("end", ending)]);
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

    /// An action that ended for good.
    pub fn step(&self, action: &str, ending: &'static str) {
        self.inner
            .steps
            .add(1, &[label("action", action), label("ending", ending)]);
    }

    pub fn timer_fired(&self, late_s: f64) {
        self.inner.timer_lateness_seconds.record(late_s, &[]);
    }

    /// Something was decided about a run of a schedule.
    pub fn schedule_run(&self, run: &Run) {
        let labels = [
            label("cause", run.cause.as_str()),
            label("outcome", run.outcome.as_str()),
        ];
        self.inner.schedule_runs.add(1, &labels);
        if (run.cause, run.outcome) == (schedule::Cause::Clock, schedule::Outcome::Started) {
            let late = (run.decided_at - run.due_at).as_seconds_f64();
            self.inner
                .schedule_lateness_seconds
                .record(late.max(0.0), &[]);
        }
    }

    /// A message was tried by `way`; `notice` is the name of its template.
    pub fn notice(&self, way: &'static str, notice: &str, result: &'static str) {
        let labels = [
            label("way", way),
            label("notice", notice),
            label("result", result),
        ];
        self.inner.notices_sent.add(1, &labels);
    }

    pub fn notices_away(&self, way: &'static str, away: bool) {
        let labels = [label("way", way)];
        self.inner.notices_held.record(u64::from(away), &labels);
    }

    pub fn leases_lost(&self, count: u64) {
        if count > 0 {
            self.inner.leases_lost.add(count, &[]);
        }
    }

    pub fn removed(&self, what: &'static str, count: u64) {
        if count > 0 {
            self.inner
                .retention_removed
                .add(count, &[label("what", what)]);
        }
    }

    pub fn telemetry_dropped(&self, signal: &'static str, reason: &'static str, count: u64) {
        if count > 0 {
            self.inner
                .telemetry_dropped
                .add(count, &[label("signal", signal), label("reason", reason)]);
        }
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
        self.show(scrape);
        let mut text = Vec::new();
        self.inner.exporter.export(&mut text)?;
        String::from_utf8(text).map_err(std::io::Error::other)
    }

    /// Gathers everything to be sent.
    ///
    /// # Errors
    /// When there is nobody to send it to.
    pub fn collect(&self, into: &mut ResourceMetrics) -> OTelSdkResult {
        match &self.inner.reader {
            Some(reader) => reader.collect(into),
            None => Err(OTelSdkError::AlreadyShutdown),
        }
    }

    /// Takes over states that are read when somebody asks.
    pub fn show(&self, scrape: &Scrape) {
        let inner = &self.inner;
        inner
            .shards_owned
            .record(scrape.node.owns_shards as u64, &[]);
        inner.cases_hot.record(scrape.node.cases_hot as u64, &[]);
        inner.inbox_age_seconds.record(scrape.inbox_age_s, &[]);
        inner.inbox_messages.record(scrape.inbox_messages, &[]);
        inner.parked_steps.record(scrape.parked_steps, &[]);
        inner.parked_age_seconds.record(scrape.parked_age_s, &[]);
        for state in CaseState::ALL.iter().filter(|state| !state.is_closed()) {
            let found = scrape.open_cases.iter().find(|(other, _)| other == state);
            let count = found.map_or(0, |(_, count)| *count);
            inner
                .cases_open
                .record(count, &[label("state", state.as_str())]);
        }
        for (system, held) in &scrape.held {
            inner
                .system_held
                .record(u64::from(*held), &[label("system", system)]);
        }
        for source in &scrape.sources {
            let labels = [label("source", &source.name)];
            inner
                .source_heard_age_seconds
                .record(source.heard_age_s, &labels);
            if let Some(silent) = source.silent {
                inner.source_silent.record(u64::from(silent), &labels);
            }
            inner
                .source_doubted
                .record(u64::from(source.doubted), &labels);
            let waiting = scrape.guard_waiting.get(&source.name).copied();
            inner.guard_waiting.record(waiting.unwrap_or(0), &labels);
        }
        for (state, count, age_s) in &scrape.notices {
            let labels = [label("state", state)];
            inner.notices.record(*count, &labels);
            inner.notices_age_seconds.record(*age_s, &labels);
        }
        for (reason, count, age_s) in &scrape.left_out {
            let labels = [label("reason", reason)];
            inner.left_out.record(*count, &labels);
            inner.left_out_age_seconds.record(*age_s, &labels);
        }
        let credentials = &scrape.credentials;
        for (phase, count) in &credentials.under_way {
            inner
                .rotations_open
                .record(*count, &[label("phase", phase.as_str())]);
        }
        for (within, count) in &credentials.expiring {
            inner
                .credentials_expiring
                .record(*count, &[label("within", within)]);
        }
        inner
            .rotation_overdue_age_seconds
            .record(credentials.overdue_age_s, &[]);
        inner.credentials_expired.record(credentials.expired, &[]);
        inner
            .credentials_expired_seen
            .record(credentials.expired_in_use, &[]);
        let waiting = scrape.guard_waiting.get(POLICY).copied().unwrap_or(0);
        inner
            .guard_waiting
            .record(waiting, &[label("source", POLICY)]);
        let mut queues = inner.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.extend(scrape.node.queues.iter().map(|queue| queue.name.clone()));
        for name in queues.iter() {
            let queue = scrape.node.queues.iter().find(|queue| queue.name == *name);
            let queue = queue.cloned().unwrap_or_default();
            inner
                .queue_out
                .record(queue.out as u64, &[label("queue", name)]);
            for (lane, wait) in [("revocation", queue.revocation), ("normal", queue.normal)] {
                let labels = [label("queue", name), label("lane", lane)];
                let age_s = wait
                    .oldest
                    .map_or(0.0, |since| (scrape.at - since).as_seconds_f64().max(0.0));
                inner.queue_waiting.record(wait.waiting as u64, &labels);
                inner.queue_age_seconds.record(age_s, &labels);
            }
        }
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
    use super::super::tests::used;
    use super::*;

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
            r#"tenure_queue_waiting{queue="crm",lane="normal"} 3"#,
            r#"tenure_queue_waiting{queue="crm",lane="revocation"} 1"#,
            r#"tenure_queue_oldest_age_seconds{queue="crm",lane="normal"} 40"#,
            r#"tenure_cases_open{state="running"} 7"#,
            r#"tenure_cases_open{state="parked"} 0"#,
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
            text.lines().any(|line| {
                sorted(line) == sorted(r#"tenure_queue_waiting{queue="crm",lane="normal"} 0"#)
            }),
            "{text}"
        );
    }
}
