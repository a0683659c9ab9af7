//! Counts attempts around the actions that make them.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use engine::core::case::{Failure, Mode};
use engine::core::id::Subject;
use engine::core::input::AttemptResult;
use engine::runner::{Actions, Attempt, Availability, Resource};
use serde_json::Value;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::Metrics;

/// Actions that are counted.
pub struct ObservedActions {
    inner: Arc<dyn Actions>,
    metrics: Metrics,
}

impl ObservedActions {
    #[must_use]
    pub fn new(inner: Arc<dyn Actions>, metrics: Metrics) -> Self {
        Self { inner, metrics }
    }
}

/// The system an attempt is about, by its configured name.
pub(super) fn system_of<'a>(parts: impl IntoIterator<Item = &'a Value>) -> Option<&'a str> {
    parts
        .into_iter()
        .find_map(|part| part.get("system").and_then(Value::as_str))
}

/// One trace a case; what the attempt is about is in its identifiers.
fn span_of(attempt: &Attempt, action: &str, system: Option<&str>) -> tracing::Span {
    let span = tracing::debug_span!(
        target: engine::runner::TRACE,
        "attempt",
        case = %attempt.case,
        subject = attempt.subject.0,
        workflow = attempt.workflow,
        step = attempt.step,
        place = tracing::field::Empty,
        attempt = attempt.attempt,
        mode = mode_name(&attempt.mode),
        action,
        system,
        outcome = tracing::field::Empty,
        error = tracing::field::Empty,
    );
    if !span.is_disabled() {
        let place = attempt.place;
        span.record("place", format!("{}.{}", place.step.0, place.instance.0));
    }
    span
}

fn mode_name(mode: &Mode) -> &'static str {
    match mode {
        Mode::Do => "do",
        Mode::ReadBack => "read_back",
        Mode::Poll { .. } => "poll",
        Mode::Undo => "undo",
        Mode::UndoReadBack => "undo_read_back",
    }
}

#[async_trait]
impl Actions for ObservedActions {
    fn exists(&self, uses: &str) -> bool {
        self.inner.exists(uses)
    }

    fn fact_roots(&self) -> Vec<&'static str> {
        self.inner.fact_roots()
    }

    async fn facts(
        &self,
        subject: &Subject,
        input: &Value,
        roots: &BTreeSet<String>,
    ) -> Result<Value, Failure> {
        self.inner.facts(subject, input, roots).await
    }

    fn resource(&self, attempt: &Attempt) -> Option<Resource> {
        self.inner.resource(attempt)
    }

    fn availability(&self, resource: &str) -> Availability {
        self.inner.availability(resource)
    }

    fn at_once(&self, attempt: &Attempt) -> Option<AttemptResult> {
        self.inner.at_once(attempt)
    }

    async fn run(&self, attempt: &Attempt) -> AttemptResult {
        // A name that no queue has is not configured: it must not become a label.
        let known = self.inner.resource(attempt).is_some();
        let system = system_of([&attempt.with, &attempt.item, &attempt.output]).filter(|_| known);
        let action = if self.inner.exists(&attempt.uses) {
            attempt.uses.as_str()
        } else {
            "-"
        };
        let span = span_of(attempt, action, system);
        let start = Instant::now();
        let result = self.inner.run(attempt).instrument(span.clone()).await;
        if let AttemptResult::Failed { .. } | AttemptResult::AnswerLost { .. } = &result {
            span.record("error", result.name());
        }
        span.record("outcome", result.name());
        self.metrics.attempt(
            system.unwrap_or("-"),
            action,
            result.name(),
            start.elapsed(),
        );
        result
    }
}
