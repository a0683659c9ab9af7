//! `tenure case`: look at cases, and act on them.

mod act;
mod bulk;
mod list;
mod migrate;
mod parked;
mod reassign;
mod show;
mod steer;
mod transfer;
mod watch;

use clap::{Args, Subcommand};

use super::{Context, Exit};

pub(crate) use act::told;
pub(crate) use list::held_line;

/// Look at cases and act on them
#[derive(Debug, Args)]
#[command(after_long_help = "\
CASE is a case's identifier, the beginning of it, or the key of a person, which means their newest case.

Examples:
  tenure case list --open
  tenure case parked
  tenure case show E10023
  tenure case retry 6f2c1a9e --step disable
  tenure case complete-task 6f2c1a9e --proof 'ticket FAC-1182'")]
pub struct CaseCommand {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, Subcommand)]
enum Sub {
    List(list::List),
    Parked(parked::ParkedCommand),
    Show(show::Show),
    Watch(watch::Watch),
    Retry(act::Retry),
    Skip(act::Skip),
    Cancel(act::Cancel),
    Pause(steer::Pause),
    Resume(steer::Resume),
    Rerun(steer::Rerun),
    Undo(steer::Undo),
    Bulk(bulk::Bulk),
    Approve(act::Approve),
    Reject(act::Reject),
    CompleteTask(act::CompleteTask),
    Reassign(reassign::Reassign),
    Signal(act::Signal),
    Migrate(migrate::Migrate),
    Export(transfer::Export),
    Import(transfer::Import),
}

/// Runs one of the commands on cases.
///
/// # Errors
/// When the case does not exist, the database cannot be reached, or the case refuses.
pub async fn run(context: &Context, command: CaseCommand) -> anyhow::Result<Exit> {
    match command.command {
        Sub::List(command) => list::run(context, command).await,
        Sub::Parked(command) => parked::run(context, command).await,
        Sub::Show(command) => show::run(context, command).await,
        Sub::Watch(command) => watch::run(context, command).await,
        Sub::Retry(command) => act::retry(context, command).await,
        Sub::Skip(command) => act::skip(context, command).await,
        Sub::Cancel(command) => act::cancel(context, command).await,
        Sub::Pause(command) => steer::pause(context, command).await,
        Sub::Resume(command) => steer::resume(context, command).await,
        Sub::Rerun(command) => steer::rerun(context, command).await,
        Sub::Undo(command) => steer::undo(context, command).await,
        Sub::Bulk(command) => bulk::run(context, command).await,
        Sub::Approve(command) => act::approve(context, command).await,
        Sub::Reject(command) => act::reject(context, command).await,
        Sub::CompleteTask(command) => act::complete_task(context, command).await,
        Sub::Reassign(command) => reassign::run(context, command).await,
        Sub::Signal(command) => act::signal(context, command).await,
        Sub::Migrate(command) => migrate::run(context, command).await,
        Sub::Export(command) => transfer::export(context, command).await,
        Sub::Import(command) => transfer::import(context, command).await,
    }
}

pub(super) use steer::take_back;
