//! `tenure source ask`.

use std::sync::Arc;

use anyhow::ensure;

use crate::cli::import::{self, Then};
use crate::cli::{Context, Exit};
use crate::shell::now;
use crate::shell::pulls::Pull;
use crate::shell::queries::{self, Mistaken};
use crate::telemetry;

/// Ask a source that is a database or an API now, and take in what it says
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
A source of the kind `query` or `pull` is asked by `tenure serve`, every so often. This does the same at once, and shows what is
wrong with the rows when they are refused.

Examples:
  tenure source ask hr
  tenure source ask hr --run")]
pub struct Ask {
    /// The source's name
    name: String,
    /// Ask for everybody, also where changes alone can be asked for
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    then: Then,
}

pub(super) async fn run(context: &Context, ask: Ask) -> anyhow::Result<Exit> {
    let configuration = context.configuration()?;
    let source = super::configured(&configuration, &ask.name)?;
    ensure!(
        source.query().is_some() || source.pull().is_some(),
        "source `{}` is neither a query nor pulled; its files come by `tenure import`",
        ask.name
    );
    let database = context.prepared_database().await?;
    let (telemetry, sending) = telemetry::of_command(&configuration.settings, &database).await?;
    let intake = import::intake(&configuration, &database);
    let report = match source.query() {
        Some(query) => queries::ask(&source, query, &intake, now()).await,
        None => {
            let pull = Pull::new(Arc::clone(&source), database.clone(), intake)?;
            match pull.ask(now(), ask.all).await {
                Ok(None) => {
                    context.output.line("nobody changed")?;
                    database.close().await;
                    sending.end().await;
                    return Ok(Exit::Good);
                }
                Ok(Some(report)) => Ok(report),
                Err(error) => Err(error),
            }
        }
    };
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
