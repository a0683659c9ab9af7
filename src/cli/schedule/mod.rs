//! `tenure schedule`: what starts cases by the clock.

mod act;
mod backfill;
mod list;
mod show;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use engine::store::ScheduleRow;

use super::{Context, Exit};
use crate::shell::{Database, schedules};

/// Look at schedules, and act on them
#[derive(Debug, Args)]
#[command(after_long_help = "\
Schedules stand in the configuration folder, one file each in `schedules/`, or are made with `put`. A schedule of a file
is changed by its file; pausing, running and backfilling work for both.

Examples:
  tenure schedule list
  tenure schedule show nightly-review
  tenure schedule pause nightly-review --reason 'audit until Friday'
  tenure schedule run nightly-review --reason 'asked for by the auditor'
  tenure schedule backfill nightly-review --from 2026-03-01 --to 2026-03-03")]
pub struct ScheduleCommand {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, Subcommand)]
enum Sub {
    List(list::List),
    Show(show::Show),
    Put(act::Put),
    Pause(act::Pause),
    Resume(act::Resume),
    Run(act::Run),
    Backfill(backfill::Backfill),
    Delete(act::Delete),
    /// Print the JSON Schema of schedule files
    Schema,
}

/// Runs one of the commands on schedules.
///
/// # Errors
/// When the schedule does not exist, the database cannot be reached, or the schedule refuses.
pub async fn run(context: &Context, command: ScheduleCommand) -> anyhow::Result<Exit> {
    match command.command {
        Sub::List(command) => list::run(context, command).await,
        Sub::Show(command) => show::run(context, command).await,
        Sub::Put(command) => act::put(context, command).await,
        Sub::Pause(command) => act::pause(context, command).await,
        Sub::Resume(command) => act::resume(context, command).await,
        Sub::Run(command) => act::run(context, command).await,
        Sub::Backfill(command) => backfill::run(context, command).await,
        Sub::Delete(command) => act::delete(context, command).await,
        Sub::Schema => {
            let schema = serde_json::to_string_pretty(&workflows::schedules::schema())?;
            context.output.raw(&schema)?;
            Ok(Exit::Good)
        }
    }
}

/// The database and the schedule that a person means.
async fn open(context: &Context, name: &str) -> anyhow::Result<(Database, ScheduleRow)> {
    let database = context.database().await?;
    let row = schedules::find(&*database.store, name).await?;
    let row = row.with_context(|| {
        format!("there is no schedule `{name}`; see `tenure schedule list`. One of a file is there once `tenure serve` has run")
    })?;
    Ok((database, row))
}
