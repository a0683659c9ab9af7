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
  tenure migrate --store postgres://tenure@db.internal/tenure
  tenure migrate --print-citus | psql -v ON_ERROR_STOP=1 \"$DATABASE_URL\"   (docs/scale.md says when)")]
pub struct Migrate {
    /// Only print the statements that spread the tables over a Citus cluster; nothing is changed
    #[arg(long)]
    print_citus: bool,
    /// Count the closed cases anew, after the last node of a version that did not count them is gone
    #[arg(long)]
    recount: bool,
}

/// For a cluster that one PostgreSQL grew into.
const DISTRIBUTE: &str = include_str!("../../migrations/citus/distribute.sql");

/// Migrates.
///
/// # Errors
/// When the database cannot be reached, or a step fails.
pub async fn run(context: &Context, migrate: Migrate) -> anyhow::Result<Exit> {
    if migrate.print_citus {
        context
            .output
            .result(&json!({ "sql": DISTRIBUTE }), |_| DISTRIBUTE.to_owned())?;
        return Ok(Exit::Good);
    }
    let address = context.address()?;
    let opened = context.prepared_database().await?;
    if migrate.recount {
        opened.recount().await?;
    }
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
