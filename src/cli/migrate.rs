//! `tenure migrate`: the database's schema, brought up to date.

use serde_json::json;

use super::{Context, Exit};
use crate::shell::database;

/// Make the database, or bring its schema up to date
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
`serve` and `import` do the same when they start. Programs of the version before keep working meanwhile, and
running it twice changes nothing.

Examples:
  tenure migrate
  tenure migrate --store postgres://tenure@db.internal/tenure")]
pub struct Migrate {}

/// Migrates.
///
/// # Errors
/// When the database cannot be reached, or a step fails.
pub async fn run(context: &Context, _: Migrate) -> anyhow::Result<Exit> {
    let address = context.address()?;
    let opened = context.prepared_database().await?;
    opened.close().await;
    let known = database::migrations();
    let result = json!({
        "store": database::shown(&address),
        "schema": known.last().map(|migration| migration.version),
        "migrations": known.iter().map(|migration| migration.name).collect::<Vec<_>>(),
    });
    context.output.result(&result, |_| {
        format!(
            "{} is at schema version {}",
            database::shown(&address),
            known.last().map_or(0, |it| it.version)
        )
    })?;
    Ok(Exit::Good)
}
