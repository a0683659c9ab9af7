//! Traces and metrics to a collector, by OTLP over HTTP.
//!
//! # Theory of operation
//!
//! A case is a trace, and its identifier is the identifier of the trace: whichever node works on it, its spans join.
//! The span of the case itself and those of attempts have identifiers made from what they are, so a retry can name the
//! attempt before it although another process made that. A case that runs for a month is one trace of a month.
//!
//! Spans are ordinary `tracing` spans of the target [`TRACE`](engine::runner::TRACE) and of the connectors. A layer of
//! its own ([`spans`]) makes them into what is sent, because nothing else can be told the identifiers. It
//! keeps only fields it knows, and of a subject only a salted digest: nothing that names a person leaves.
//!
//! What is finished goes into a queue of bounded length, and a task of its own sends it ([`ship`]). Work never
//! waits for a collector: when it is away or slow, spans are dropped and counted. Without an endpoint no layer is
//! there, the spans are switched off where they stand in the code, and no task runs.

mod http;
mod ship;
mod spans;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use opentelemetry_otlp::{
    MetricExporter, Protocol, RetryPolicy, SpanExporter, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanExporter as _;
use secrecy::ExposeSecret as _;
use workflows::config::TelemetrySettings;

pub use ship::{Shipped, Shipping};
pub use spans::{SpanLayer, Spans};

/// The variables of the standard that say where to send.
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const DISABLED: &str = "OTEL_SDK_DISABLED";
/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where to send, and how much.
pub struct Target {
    endpoint: String,
    headers: HashMap<String, String>,
    /// The share of cases that is traced; a case is traced as a whole or not at all, on every node alike.
    sample: f64,
    node: String,
}

impl Target {
    /// What tenure.yaml says, or else the environment; `None` when neither names an endpoint.
    ///
    /// # Errors
    /// When the place that keeps a header cannot be read.
    pub fn of(settings: &TelemetrySettings, node: &str) -> anyhow::Result<Option<Self>> {
        let variable = |name| std::env::var(name).ok();
        Self::from(settings, node, variable)
    }

    fn from(
        settings: &TelemetrySettings,
        node: &str,
        variable: impl Fn(&'static str) -> Option<String>,
    ) -> anyhow::Result<Option<Self>> {
        if variable(DISABLED).is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let node = node.to_owned();
        let Some(otlp) = &settings.otlp else {
            let endpoint = variable(ENDPOINT).filter(|endpoint| !endpoint.is_empty());
            // Headers of the environment are read by the exporter itself.
            return Ok(endpoint.map(|endpoint| Self {
                endpoint,
                headers: HashMap::new(),
                sample: 1.0,
                node,
            }));
        };
        let mut headers = HashMap::new();
        for (name, reference) in &otlp.headers {
            let value = reference
                .resolve()
                .with_context(|| format!("`telemetry.otlp.headers.{name}` of tenure.yaml"))?;
            headers.insert(name.clone(), value.expose_secret().to_owned());
        }
        Ok(Some(Self {
            endpoint: otlp.endpoint.clone(),
            headers,
            sample: otlp.sample,
            node,
        }))
    }

    /// Makes the layer that collects spans, and what sends them. Nothing is sent before [`Shipping::start`].
    ///
    /// # Errors
    /// When the endpoint is no address, or no TLS can be set up.
    pub fn open(self) -> anyhow::Result<(SpanLayer, Spans, Shipping)> {
        let scheme_known =
            self.endpoint.starts_with("http://") || self.endpoint.starts_with("https://");
        if !scheme_known {
            bail!(
                "`{}` is no address of a collector; write `http://HOST:4318` or `https://HOST:4318`",
                self.endpoint
            );
        }
        let client: Arc<dyn opentelemetry_http::HttpClient> = Arc::new(http::Client::new(TIMEOUT)?);
        let base = self.endpoint.trim_end_matches('/');
        let resource = Resource::builder()
            .with_service_name(
                std::env::var("OTEL_SERVICE_NAME").unwrap_or_else(|_| "tenure".to_owned()),
            )
            .with_attributes([
                opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                opentelemetry::KeyValue::new("service.instance.id", self.node),
            ])
            .build();
        // What is lost by one failed request is counted; trying again is the queue's own matter.
        let mut spans = SpanExporter::builder()
            .with_http()
            .with_endpoint(format!("{base}/v1/traces"))
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(TIMEOUT)
            .with_headers(self.headers.clone())
            .with_retry_policy(RetryPolicy::disabled())
            .with_shared_http_client(Arc::clone(&client))
            .build()
            .context("cannot send traces")?;
        spans.set_resource(&resource);
        let metrics = MetricExporter::builder()
            .with_http()
            .with_endpoint(format!("{base}/v1/metrics"))
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(TIMEOUT)
            .with_headers(self.headers)
            .with_retry_policy(RetryPolicy::disabled())
            .with_shared_http_client(client)
            .build()
            .context("cannot send metrics")?;
        let (handle, queue) = Spans::new(self.sample);
        let shipping = Shipping::new(queue, handle.clone(), spans, metrics, resource);
        Ok((SpanLayer::new(handle.clone()), handle, shipping))
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
    use std::collections::BTreeMap;

    use workflows::config::OtlpSettings;

    use super::*;

    fn target(settings: &TelemetrySettings, variables: &[(&str, &str)]) -> Option<Target> {
        let variables: BTreeMap<&str, &str> = variables.iter().copied().collect();
        let variable = |name: &'static str| variables.get(name).map(|value| (*value).to_owned());
        Target::from(settings, "a", variable).unwrap()
    }

    #[test]
    fn the_file_comes_before_the_environment_and_neither_is_off() {
        let off = TelemetrySettings::default();
        assert!(target(&off, &[]).is_none());
        let found = target(&off, &[(ENDPOINT, "http://env:4318")]).unwrap();
        assert_eq!(found.endpoint, "http://env:4318");
        let on = TelemetrySettings {
            otlp: Some(OtlpSettings {
                endpoint: "http://file:4318/".to_owned(),
                headers: BTreeMap::new(),
                sample: 0.5,
            }),
        };
        let found = target(&on, &[(ENDPOINT, "http://env:4318")]).unwrap();
        assert_eq!(
            (found.endpoint.as_str(), found.sample),
            ("http://file:4318/", 0.5)
        );
        assert!(target(&on, &[(DISABLED, "true")]).is_none());
    }
}
