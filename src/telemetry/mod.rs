//! What the program tells about itself: a log for people and machines, and metrics.

mod actions;
mod credentials;
mod look;
mod metrics;
mod otlp;
mod salt;
mod store;

#[cfg(test)]
mod tests;

pub use actions::ObservedActions;
pub use credentials::CredentialScrape;
pub use look::Look;
pub use metrics::{Metrics, Scrape, SourceScrape};
pub use otlp::Spans;
pub use store::ObservedStore;

use std::io::IsTerminal as _;

use otlp::{Shipped, Shipping, SpanLayer, Target};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use workflows::config::Settings;

use crate::shell::Database;

/// Which messages are told; the syntax of `tracing_subscriber::EnvFilter`.
pub const FILTER_VARIABLE: &str = "TENURE_LOG";
/// Without it: what concerns whoever runs the program, and of others only what is wrong.
const FILTER_DEFAULT: &str = "info,sqlx=warn,hyper=warn,reqwest=warn,ldap3=warn,rustls=warn";

/// What counts and traces. Cheap to clone. By default it counts, and sends nothing.
#[derive(Clone, Default)]
pub struct Telemetry {
    pub metrics: Metrics,
    pub spans: Option<Spans>,
}

/// Telemetry of a command, before anything is sent.
pub struct Opened {
    pub telemetry: Telemetry,
    shipping: Option<Shipping>,
}

/// What sends, while a command runs; nothing when there is nowhere to send.
pub struct Sending {
    shipped: Option<Shipped>,
}

/// Starts the log, if `log` says so, and gets ready to send what `settings` or the environment name an endpoint for.
///
/// # Errors
/// When the endpoint is no address, or what a header is kept in cannot be read.
pub fn open(settings: &Settings, log: bool) -> anyhow::Result<Opened> {
    let target = Target::of(&settings.telemetry, &settings.node.name)?;
    let (layer, telemetry, shipping) = match target {
        None => (None, Telemetry::default(), None),
        Some(target) => {
            let (layer, spans, shipping) = target.open()?;
            let telemetry = Telemetry {
                metrics: Metrics::sent(shipping.resource()),
                spans: Some(spans),
            };
            (Some(layer), telemetry, Some(shipping))
        }
    };
    // Whoever started a log before keeps it.
    let _ = if log {
        start(layer)
    } else {
        let traced = layer.map(|layer| layer.with_filter(filter_fn(SpanLayer::wants)));
        tracing_subscriber::registry().with(traced).try_init()
    };
    Ok(Opened {
        telemetry,
        shipping,
    })
}

/// As [`open`], for a command that works on `database` for a while and keeps no log: it begins to send at once.
///
/// # Errors
/// As [`open`], and when the database does not answer.
pub async fn of_command(
    settings: &Settings,
    database: &Database,
) -> anyhow::Result<(Telemetry, Sending)> {
    let opened = open(settings, false)?;
    opened.prepare(database).await?;
    Ok((opened.telemetry.clone(), opened.send(None)))
}

impl Opened {
    /// Learns what this installation makes digests of subjects with. To be called before work begins.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn prepare(&self, database: &Database) -> anyhow::Result<()> {
        if let Some(spans) = &self.telemetry.spans {
            spans.set_salt(salt::of(database).await?);
        }
        Ok(())
    }

    /// Begins to send; metrics only with somebody to read states from.
    #[must_use]
    pub fn send(self, look: Option<Look>) -> Sending {
        let metrics = self.telemetry.metrics;
        let shipped = self.shipping.map(|shipping| shipping.start(metrics, look));
        Sending { shipped }
    }
}

impl Sending {
    /// Sends what is left, for a few seconds at most.
    pub async fn end(self) {
        if let Some(shipped) = self.shipped {
            shipped.end().await;
        }
    }
}

/// Starts the log on standard error: text on a terminal, else a JSON object a line.
///
/// Spans of `traced` are collected beside it; they are never in the log.
///
/// # Errors
/// When a log was started before.
fn start(traced: Option<SpanLayer>) -> Result<(), TryInitError> {
    let wish = std::env::var(FILTER_VARIABLE).unwrap_or_default();
    let (filter, misread) = match EnvFilter::try_new(if wish.is_empty() {
        FILTER_DEFAULT
    } else {
        &wish
    }) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new(FILTER_DEFAULT), Some(error)),
    };
    // What is made to be traced may name people, and only its digests may leave.
    let filter = filter.and(filter_fn(|metadata| {
        metadata.target() != engine::runner::TRACE
    }));
    let traced = traced.map(|layer| layer.with_filter(filter_fn(SpanLayer::wants)));
    let registry = tracing_subscriber::registry().with(traced);
    if std::io::stderr().is_terminal() {
        registry
            .with(
                tracing_subscriber::fmt::layer()
                    .with_writer(std::io::stderr)
                    .with_target(false)
                    .with_filter(filter),
            )
            .try_init()?;
    } else {
        let layer = tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_writer(std::io::stderr)
            .with_filter(filter);
        registry.with(layer).try_init()?;
    }
    if let Some(error) = misread {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "`{FILTER_VARIABLE}` is not understood and not used"
        );
    }
    Ok(())
}
