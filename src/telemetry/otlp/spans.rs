//! From `tracing` spans to what is sent.

use std::borrow::Cow;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use engine::core::Timestamp;
use engine::core::id::CaseId;
use engine::runner::{Clock as _, SystemClock};
use engine::store::{Outcome, OutcomeKind};
use opentelemetry::trace::{
    Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

/// The most finished spans that wait to be sent.
pub(super) const QUEUE_MAX: usize = 8_192;
/// The longest text of an attribute, in bytes.
const TEXT_BYTES_MAX: usize = 256;

/// What a span may say, and the name under which it is sent. Whatever is not here stays here: paths, actors,
/// messages, and the keys that actions make of accounts, may name a person.
const FIELDS: [(&str, &str); 15] = [
    ("case", "tenure.case.id"),
    ("workflow", "tenure.workflow"),
    ("lane", "tenure.lane"),
    ("step", "tenure.step"),
    ("place", "tenure.place"),
    ("action", "tenure.action"),
    ("system", "tenure.system"),
    ("attempt", "tenure.attempt"),
    ("mode", "tenure.mode"),
    ("outcome", "tenure.outcome"),
    ("call", "tenure.connector.call"),
    ("operation", "tenure.connector.operation"),
    ("revocation", "tenure.revocation"),
    ("error", "error.type"),
    ("method", "http.request.method"),
];
/// Sent as salted digests: a subject names a person, and so may the identifier that a feed gives an event.
const SUBJECT: &str = "subject";
const SUBJECT_KEY: &str = "tenure.subject.key";
const EVENTS: &str = "events";
const EVENTS_KEY: &str = "tenure.event.keys";

/// Ways of trying that begin an effect; the others look after one that was begun.
const FIRST_MODES: [&str; 2] = ["do", "undo"];

/// Where finished spans go. Cheap to clone.
#[derive(Clone)]
pub struct Spans {
    inner: Arc<Inner>,
}

struct Inner {
    queue: mpsc::Sender<SpanData>,
    /// Spans that found the queue full.
    dropped: AtomicU64,
    /// The share of traces that is kept.
    sample: f64,
    /// Of this installation; the same on all its nodes.
    salt: OnceLock<[u8; 16]>,
    scope: InstrumentationScope,
}

impl Spans {
    /// `sample` is the share of traces to keep.
    pub(super) fn new(sample: f64) -> (Self, mpsc::Receiver<SpanData>) {
        let (queue, receiver) = mpsc::channel(QUEUE_MAX);
        let inner = Inner {
            queue,
            dropped: AtomicU64::new(0),
            sample,
            salt: OnceLock::new(),
            scope: InstrumentationScope::builder("tenure")
                .with_version(env!("CARGO_PKG_VERSION"))
                .build(),
        };
        let spans = Self {
            inner: Arc::new(inner),
        };
        (spans, receiver)
    }

    /// Before it is set, spans say nothing about subjects.
    pub fn set_salt(&self, salt: [u8; 16]) {
        // Set once at the start; a second call would say the same.
        let _ = self.inner.salt.set(salt);
    }

    /// Spans dropped since this was asked last.
    pub(super) fn take_dropped(&self) -> u64 {
        self.inner.dropped.swap(0, Ordering::Relaxed)
    }

    /// Sends the span of a case that has closed: from the moment it was known.
    pub fn closed(&self, outcome: &Outcome) {
        let OutcomeKind::Closed { state } = outcome.kind else {
            return;
        };
        let trace = trace_of(outcome.case);
        if !self.keeps(trace) {
            return;
        }
        let mut attributes = vec![
            KeyValue::new("tenure.case.id", outcome.case.to_string()),
            KeyValue::new("tenure.workflow", outcome.workflow.clone()),
            KeyValue::new("tenure.outcome", state.as_str()),
        ];
        attributes.extend(self.subject(&outcome.subject.0));
        self.send(SpanData {
            span_context: context(trace, root_of(outcome.case)),
            parent_span_id: SpanId::INVALID,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: Cow::Owned(format!("case {}", outcome.workflow)),
            start_time: time(outcome.received_at),
            end_time: time(outcome.at),
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: self.inner.scope.clone(),
        });
    }

    fn subject(&self, subject: &str) -> Option<KeyValue> {
        Some(KeyValue::new(SUBJECT_KEY, self.key(subject)?))
    }

    /// `None` before the salt is known.
    fn key(&self, named: &str) -> Option<String> {
        let salt = self.inner.salt.get()?;
        let mut digest = Sha256::new();
        digest.update(salt);
        digest.update(named.as_bytes());
        let key: String = digest
            .finalize()
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Some(key)
    }

    /// Whether a trace is sampled: every node says the same.
    fn keeps(&self, trace: TraceId) -> bool {
        self.inner.sample >= 1.0 || share_of(trace) < self.inner.sample
    }

    fn send(&self, span: SpanData) {
        if self.inner.queue.try_send(span).is_err() {
            self.inner.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The trace of a case.
fn trace_of(case: CaseId) -> TraceId {
    TraceId::from_bytes(*case.0.as_bytes())
}

/// The span of a case.
fn root_of(case: CaseId) -> SpanId {
    span_of(case, "case")
}

/// A span whose identifier every node can work out.
fn span_of(case: CaseId, what: &str) -> SpanId {
    let mut digest = Sha256::new();
    digest.update(case.0.as_bytes());
    digest.update(what.as_bytes());
    // Zero means none.
    SpanId::from_bytes(first_half(&digest.finalize()).max(1).to_be_bytes())
}

fn attempt_key(place: &str, attempt: u64, mode: &str) -> String {
    format!("{place}/{attempt}/{mode}")
}

/// Where a trace stands between 0 and 1. Not its own bytes: those of a case are not evenly spread.
fn share_of(trace: TraceId) -> f64 {
    let digest = Sha256::digest(trace.to_bytes());
    let number = (digest.iter().take(4)).fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
    f64::from(number) / (f64::from(u32::MAX) + 1.0)
}

fn first_half(digest: &[u8]) -> u64 {
    let bytes = digest.iter().take(8);
    bytes.fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn context(trace: TraceId, span: SpanId) -> SpanContext {
    SpanContext::new(
        trace,
        span,
        TraceFlags::SAMPLED,
        false,
        TraceState::default(),
    )
}

fn time(at: Timestamp) -> SystemTime {
    SystemTime::from(at)
}

// --- the layer ------------------------------------------------------------------------------------------

/// Collects spans while they run.
pub struct SpanLayer {
    spans: Spans,
}

/// A span that runs.
struct Open {
    trace: TraceId,
    id: SpanId,
    parent: SpanId,
    links: Vec<SpanContext>,
    start: Timestamp,
    fields: Fields,
    kept: bool,
}

impl SpanLayer {
    pub(super) fn new(spans: Spans) -> Self {
        Self { spans }
    }

    /// Which spans are collected: those made for it, and those of connectors and requests, which the log has too.
    #[must_use]
    pub fn wants(metadata: &Metadata<'_>) -> bool {
        metadata.is_span()
            && (metadata.target() == engine::runner::TRACE
                || metadata.target() == "connectors::layer::trace"
                || metadata.target() == "tenure::api")
    }

    fn open(&self, fields: Fields, around: Option<(TraceId, SpanId, bool)>) -> Open {
        let start = SystemClock.now();
        let mut links = Vec::new();
        let (trace, id, parent) = match (fields.case, around) {
            (Some(case), around) => {
                let trace = trace_of(case);
                let parent = match around {
                    Some((other, span, _)) if other == trace => span,
                    Some((other, span, _)) => {
                        links.push(context(other, span));
                        root_of(case)
                    }
                    None => root_of(case),
                };
                let id = fields.own_id(case).unwrap_or_else(random_span);
                links.extend(fields.attempt_before(case).map(|span| context(trace, span)));
                (trace, id, parent)
            }
            (None, Some((trace, span, _))) => (trace, random_span(), span),
            (None, None) => (
                TraceId::from_bytes(rand::random::<u128>().max(1).to_be_bytes()),
                random_span(),
                SpanId::INVALID,
            ),
        };
        let kept = match around {
            Some((other, _, kept)) if other == trace => kept,
            _ => self.spans.keeps(trace),
        };
        Open {
            trace,
            id,
            parent,
            links,
            start,
            fields,
            kept,
        }
    }

    fn finished(&self, name: &'static str, open: Open) -> SpanData {
        let mut links = SpanLinks::default();
        links.links = open
            .links
            .into_iter()
            .map(|context| Link::new(context, Vec::new(), 0))
            .collect();
        let kind = match name {
            "connector" => SpanKind::Client,
            "request" => SpanKind::Server,
            _ => SpanKind::Internal,
        };
        let mut attributes = open.fields.attributes;
        if let Some(subject) = &open.fields.subject {
            attributes.extend(self.spans.subject(subject));
        }
        if let Some(events) = &open.fields.events {
            let keys: Option<Vec<String>> = events
                .split(',')
                .map(|event| self.spans.key(event))
                .collect();
            attributes.extend(keys.map(|keys| KeyValue::new(EVENTS_KEY, keys.join(","))));
        }
        let detail = open.fields.call.or(open.fields.action);
        SpanData {
            span_context: context(open.trace, open.id),
            parent_span_id: open.parent,
            parent_span_is_remote: false,
            span_kind: kind,
            name: match detail {
                Some(detail) => Cow::Owned(format!("{name} {detail}")),
                None => Cow::Borrowed(name),
            },
            start_time: time(open.start),
            end_time: time(SystemClock.now()),
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links,
            status: match open.fields.failed {
                Some(reason) => Status::error(reason),
                None => Status::Unset,
            },
            instrumentation_scope: self.spans.inner.scope.clone(),
        }
    }
}

fn random_span() -> SpanId {
    SpanId::from_bytes(rand::random::<u64>().max(1).to_be_bytes())
}

impl<S> Layer<S> for SpanLayer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let around = span.scope().skip(1).find_map(|parent| {
            let extensions = parent.extensions();
            let open = extensions.get::<Open>()?;
            Some((open.trace, open.id, open.kept))
        });
        let open = self.open(fields, around);
        span.extensions_mut().insert(open);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(open) = span.extensions_mut().get_mut::<Open>() {
            values.record(&mut open.fields);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else {
            return;
        };
        let Some(open) = span.extensions_mut().remove::<Open>() else {
            return;
        };
        if open.kept {
            self.spans.send(self.finished(span.metadata().name(), open));
        }
    }
}

/// The fields of a span that are sent.
#[derive(Default)]
struct Fields {
    attributes: Vec<KeyValue>,
    case: Option<CaseId>,
    subject: Option<String>,
    events: Option<String>,
    place: Option<String>,
    attempt: u64,
    mode: Option<String>,
    action: Option<String>,
    call: Option<String>,
    failed: Option<String>,
}

impl Fields {
    fn own_id(&self, case: CaseId) -> Option<SpanId> {
        let (place, mode) = (self.place.as_deref()?, self.mode.as_deref()?);
        // The same attempt may be polled more than once.
        (mode != "poll").then(|| span_of(case, &attempt_key(place, self.attempt, mode)))
    }

    /// The attempt that this one follows: the one whose fate it finds out, or the one that failed before it.
    fn attempt_before(&self, case: CaseId) -> Option<SpanId> {
        let (place, mode) = (self.place.as_deref()?, self.mode.as_deref()?);
        let key = if FIRST_MODES.contains(&mode) {
            attempt_key(place, self.attempt.checked_sub(1).filter(|n| *n > 0)?, mode)
        } else {
            let first = if mode.starts_with("undo") {
                "undo"
            } else {
                "do"
            };
            attempt_key(place, self.attempt, first)
        };
        Some(span_of(case, &key))
    }

    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        if let Some((_, sent)) = FIELDS.iter().find(|(name, _)| *name == field.name()) {
            self.attributes.push(KeyValue::new(*sent, value));
        }
    }

    fn text(&mut self, field: &Field, text: &str) {
        let kept = || Some(text.to_owned());
        match field.name() {
            "case" => self.case = uuid::Uuid::parse_str(text).ok().map(CaseId),
            SUBJECT => self.subject = kept(),
            EVENTS => self.events = kept(),
            "place" => self.place = kept(),
            "mode" => self.mode = kept(),
            "action" => self.action = kept(),
            "call" => self.call = kept(),
            "error" => self.failed = kept(),
            _ => {}
        }
        let end = text.floor_char_boundary(TEXT_BYTES_MAX.min(text.len()));
        self.put(field, text.get(..end).unwrap_or_default().to_owned());
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        if !value.is_empty() {
            self.text(field, value);
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "attempt" {
            self.attempt = value;
        }
        self.put(field, i64::try_from(value).unwrap_or(i64::MAX));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, &format!("{value:?}"));
    }
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
    use tracing::debug_span;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    const CASE: &str = "0192f3a0-0000-4000-8000-00000000beef";

    /// Runs `work` with the layer in place, and gives what was to be sent.
    fn collected(sample: f64, work: impl FnOnce(&Spans)) -> Vec<SpanData> {
        let (spans, mut queue) = Spans::new(sample);
        let layer = SpanLayer::new(spans.clone());
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || work(&spans));
        drop(spans);
        std::iter::from_fn(|| queue.try_recv().ok()).collect()
    }

    fn attempt(number: u64, mode: &str) {
        let span = debug_span!(
            target: engine::runner::TRACE,
            "attempt",
            case = CASE,
            place = "2.0",
            attempt = number,
            mode,
            subject = "zx81q"
        );
        drop(span);
    }

    #[test]
    fn a_case_is_a_trace_and_a_retry_links_to_the_try_before() {
        let sent = collected(1.0, |spans| {
            spans.set_salt([7; 16]);
            attempt(1, "do");
            attempt(2, "do");
            attempt(2, "read_back");
        });
        let case = CaseId(uuid::Uuid::parse_str(CASE).unwrap());
        let linked = |span: &SpanData| -> Vec<SpanId> {
            let links = span.links.iter();
            links.map(|link| link.span_context.span_id()).collect()
        };
        assert_eq!(sent.len(), 3);
        for span in &sent {
            assert_eq!(span.span_context.trace_id(), trace_of(case));
            assert_eq!(span.parent_span_id, root_of(case));
        }
        let [first, second, back] = &sent[..] else {
            panic!("three spans");
        };
        assert_eq!(linked(first), []);
        assert_eq!(linked(second), [first.span_context.span_id()]);
        assert_eq!(linked(back), [second.span_context.span_id()]);
        let ids: Vec<String> = sent.iter().map(|span| format!("{span:?}")).collect();
        assert!(ids.iter().all(|text| text.contains(SUBJECT_KEY)));
        assert!(ids.iter().all(|text| !text.contains("zx81q")), "{ids:?}");
    }

    #[test]
    fn what_is_not_known_is_not_sent() {
        let sent = collected(1.0, |_| {
            let span = debug_span!(
                target: engine::runner::TRACE,
                "request",
                path = "/v1/identities/zx81q",
                actor = "person:zx81q",
                method = "GET",
                note = "zx81q"
            );
            let inner = span.in_scope(|| debug_span!("intake", case = CASE));
            drop(inner);
        });
        let text = format!("{sent:?}");
        assert!(!text.contains("zx81q"), "{text}");
        assert!(text.contains("GET"));
        let (intake, request) = (&sent[0], &sent[1]);
        assert_ne!(
            intake.span_context.trace_id(),
            request.span_context.trace_id()
        );
        assert_eq!(
            intake.links[0].span_context.span_id(),
            request.span_context.span_id()
        );
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let mut dropped = 0;
        let sent = collected(1.0, |spans| {
            for number in 0..QUEUE_MAX as u64 + 5 {
                attempt(number + 1, "do");
            }
            dropped = spans.take_dropped();
        });
        assert_eq!((sent.len(), dropped), (QUEUE_MAX, 5));
    }

    #[test]
    fn a_share_of_the_cases_is_kept_and_each_as_a_whole() {
        let traces: Vec<TraceId> = (0..2_000_u128)
            .map(|number| trace_of(CaseId(uuid::Uuid::from_u128(number << 64 | 0x8000))))
            .collect();
        let (spans, _queue) = Spans::new(0.25);
        let kept = traces.iter().filter(|trace| spans.keeps(**trace)).count();
        assert!((400..600).contains(&kept), "{kept}");
        assert!(collected(0.0, |_| attempt(1, "do")).is_empty());
    }
}
