//! Sending what was collected, beside all work.

use std::time::Duration;

use opentelemetry_otlp::{MetricExporter, SpanExporter};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter as _;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::spans::Spans;
use crate::telemetry::{Look, Metrics};

/// The most spans of one request.
const BATCH_MAX: usize = 512;
/// How long the first span of a request waits for others.
const GATHER: Duration = Duration::from_millis(500);
const METRICS_EVERY: Duration = Duration::from_secs(15);
/// Pauses after a request that failed; meanwhile the queue fills, and then spans are dropped.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long the end may take: what is in the queue then is dropped.
const END_LIMIT: Duration = Duration::from_secs(3);

/// What sends, before it is started.
pub struct Shipping {
    queue: mpsc::Receiver<SpanData>,
    spans: Spans,
    span_exporter: SpanExporter,
    metric_exporter: MetricExporter,
    resource: Resource,
}

/// What sends, while it runs.
pub struct Shipped {
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Shipping {
    pub(super) fn new(
        queue: mpsc::Receiver<SpanData>,
        spans: Spans,
        span_exporter: SpanExporter,
        metric_exporter: MetricExporter,
        resource: Resource,
    ) -> Self {
        Self {
            queue,
            spans,
            span_exporter,
            metric_exporter,
            resource,
        }
    }

    /// Who all that is sent comes from.
    #[must_use]
    pub fn resource(&self) -> Resource {
        self.resource.clone()
    }

    /// Begins to send; metrics only with somebody to read states from.
    #[must_use]
    pub fn start(self, metrics: Metrics, look: Option<Look>) -> Shipped {
        let stop = CancellationToken::new();
        let ship = ShipSpans {
            queue: self.queue,
            spans: self.spans,
            exporter: self.span_exporter,
            metrics: metrics.clone(),
            failing: false,
        };
        let mut tasks = vec![tokio::spawn(ship.run(stop.clone()))];
        if let Some(look) = look {
            let exporter = self.metric_exporter;
            tasks.push(tokio::spawn(ship_metrics(
                metrics,
                exporter,
                look,
                stop.clone(),
            )));
        }
        Shipped { stop, tasks }
    }
}

impl Shipped {
    /// Sends what is left, for a moment.
    pub async fn end(self) {
        self.stop.cancel();
        for mut task in self.tasks {
            if tokio::time::timeout(END_LIMIT, &mut task).await.is_err() {
                task.abort();
            }
        }
    }
}

struct ShipSpans {
    queue: mpsc::Receiver<SpanData>,
    spans: Spans,
    exporter: SpanExporter,
    metrics: Metrics,
    /// Whether the last request failed, so that it is told once and not every second.
    failing: bool,
}

impl ShipSpans {
    async fn run(mut self, stop: CancellationToken) {
        let mut pause = PAUSE_FIRST;
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            let first = tokio::select! {
                first = self.queue.recv() => first,
                () = stop.cancelled() => break,
            };
            let Some(first) = first else { break };
            batch.push(first);
            self.gather(&mut batch, &stop).await;
            if self.send(&mut batch).await {
                pause = PAUSE_FIRST;
            } else {
                let _ = stop.run_until_cancelled(tokio::time::sleep(pause)).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
        self.queue.close();
        while self.queue.recv_many(&mut batch, BATCH_MAX).await > 0 {
            self.send(&mut batch).await;
        }
    }

    async fn gather(&mut self, batch: &mut Vec<SpanData>, stop: &CancellationToken) {
        let until = Instant::now() + GATHER;
        while batch.len() < BATCH_MAX {
            let room = BATCH_MAX - batch.len();
            tokio::select! {
                count = self.queue.recv_many(batch, room) => if count == 0 { return },
                () = tokio::time::sleep_until(until) => return,
                () = stop.cancelled() => return,
            }
        }
    }

    async fn send(&mut self, batch: &mut Vec<SpanData>) -> bool {
        let spans = std::mem::take(batch);
        let count = spans.len() as u64;
        let sent = self.exporter.export(spans).await;
        self.metrics
            .telemetry_dropped("spans", "queue_full", self.spans.take_dropped());
        let failed = sent.is_err();
        if let Err(error) = sent {
            self.metrics.telemetry_dropped("spans", "not_sent", count);
            if !self.failing {
                tracing::warn!(%error, "spans cannot be sent just now; they are dropped and counted");
            }
        }
        self.failing = failed;
        !failed
    }
}

async fn ship_metrics(
    metrics: Metrics,
    exporter: MetricExporter,
    look: Look,
    stop: CancellationToken,
) {
    let mut every = tokio::time::interval(METRICS_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    let mut gathered = ResourceMetrics::default();
    loop {
        let last = stop.run_until_cancelled(every.tick()).await.is_none();
        match look.now().await {
            Ok(scrape) => metrics.show(&scrape),
            // Counters are sent all the same; states stay as they were.
            Err(error) => tracing::debug!(%error, "states cannot be read just now"),
        }
        let sent = match metrics.collect(&mut gathered) {
            Ok(()) => exporter.export(&gathered).await,
            Err(error) => Err(error),
        };
        let failed = sent.is_err();
        if let Err(error) = sent {
            metrics.telemetry_dropped("metrics", "not_sent", 1);
            if !failing {
                tracing::warn!(%error, "metrics cannot be sent just now");
            }
        }
        failing = failed;
        if last {
            return;
        }
    }
}
