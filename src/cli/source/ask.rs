//! `tenure source ask`.

use anyhow::Context as _;

use crate::cli::import::{self, Then};
use crate::cli::{Context, Exit};
use crate::shell::now;
use crate::shell::queries::{self, Mistaken};
use crate::telemetry;

/// Ask a source that is a database now, and take in what it says
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
A source of the kind `query` is asked by `tenure serve`, every so often. This does the same at once, and shows what is
wrong with the rows when they are refused.

Examples:
  tenure source ask hr
  tenure source ask hr --run")]
pub struct Ask {
    /// The source's name
    name: String,
    #[command(flatten)]
    then: Then,
}

pub(super) async fn run(context: &Context, ask: Ask) -> anyhow::Result<Exit> {
    let configuration = context.configuration()?;
    let source = super::configured(&configuration, &ask.name)?;
    let query = source.query().with_context(|| {
        format!(
            "source `{}` is no query; its files come by `tenure import`",
            ask.name
        )
    })?;
    let database = context.prepared_database().await?;
    let (telemetry, sending) = telemetry::of_command(&configuration.settings, &database).await?;
    let intake = import::intake(&configuration, &database);
    let report = queries::ask(&source, query, &intake, now()).await;
    let report = report.map_err(|error| match error.downcast_ref::<Mistaken>() {
        Some(Mistaken(problems)) => {
            anyhow::anyhow!("the rows are refused; nothing was changed\n{problems}")
        }
        None => error,
    })?;
    let work = (configuration, database, telemetry);
    let done = import::then(context, work, report, ask.then).await;
    sending.end().await;
    done
}
