//! What the program tells about itself: a log for people and machines, and metrics.

mod actions;
mod metrics;
mod store;

pub use actions::ObservedActions;
pub use metrics::{Metrics, Scrape};
pub use store::ObservedStore;

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

/// Which messages are told; the syntax of `tracing_subscriber::EnvFilter`.
pub const FILTER_VARIABLE: &str = "TENURE_LOG";
/// Without it: what concerns whoever runs the program, and of others only what is wrong.
const FILTER_DEFAULT: &str = "info,sqlx=warn,hyper=warn,reqwest=warn,ldap3=warn,rustls=warn";

/// Starts the log on standard error: text on a terminal, else a JSON object a line.
///
/// # Errors
/// When a log was started before.
pub fn start() -> Result<(), TryInitError> {
    let wish = std::env::var(FILTER_VARIABLE).unwrap_or_default();
    let (filter, misread) = match EnvFilter::try_new(if wish.is_empty() {
        FILTER_DEFAULT
    } else {
        &wish
    }) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new(FILTER_DEFAULT), Some(error)),
    };
    let registry = tracing_subscriber::registry().with(filter);
    if std::io::stderr().is_terminal() {
        registry
            .with(
                tracing_subscriber::fmt::layer()
                    .with_writer(std::io::stderr)
                    .with_target(false),
            )
            .try_init()?;
    } else {
        let layer = tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_writer(std::io::stderr);
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
