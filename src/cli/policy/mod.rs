//! `tenure policy`: the roles, and which version of them decides.

mod check;
mod decide;
mod diff;
mod list;
mod rollout;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use workflows::directory::PolicyRow;
use workflows::policies::Policies;

use super::{Context, Exit};
use crate::shell::Database;

/// Look at the policy: roles, their rules and what they give; and decide about a change that is too large
#[derive(Debug, Args)]
#[command(after_long_help = "\
A changed policy comes into force when `tenure serve` starts with it, unless it would give or take more than the guard of
the policy in force allows. Then it waits for a person, and the one in force goes on deciding.

Examples:
  tenure policy check
  tenure policy diff
  tenure policy list
  tenure policy approve dif_5e1f70c2 --note 'the new admins of the merger'
  tenure policy rollout")]
pub struct PolicyCommand {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, Subcommand)]
enum Sub {
    Check(check::Check),
    Diff(diff::Diff),
    List(list::List),
    Approve(decide::Approve),
    Reject(decide::Reject),
    Rollout(rollout::Rollout),
}

/// Runs a command of `policy`.
///
/// # Errors
/// When the database does not answer, or what is asked for cannot be done.
pub async fn run(context: &Context, command: PolicyCommand) -> anyhow::Result<Exit> {
    match command.command {
        Sub::Check(_) => check::run(context),
        Sub::Diff(_) => diff::run(context).await,
        Sub::List(_) => list::run(context).await,
        Sub::Approve(approve) => decide::approve(context, &approve).await,
        Sub::Reject(reject) => decide::reject(context, &reject).await,
        Sub::Rollout(command) => rollout::run(context, command).await,
    }
}

/// The versions, read with the systems and sources of the folder.
fn policies(configuration: &workflows::config::Configuration, database: &Database) -> Policies {
    Policies::new(database.directory.clone(), configuration.schema.clone())
}

/// The version that a person means by the beginning of its difference.
async fn find(database: &Database, meant: &str) -> anyhow::Result<PolicyRow> {
    let rows = database.directory.policies().await?;
    let mut fitting = rows
        .into_iter()
        .filter(|row| row.difference_id.starts_with(meant));
    let found = fitting
        .next()
        .with_context(|| format!("there is no difference `{meant}`; see `tenure policy list`"))?;
    if let Some(other) = fitting.find(|row| row.difference_id != found.difference_id) {
        bail!(
            "`{meant}` is the beginning of `{}` and of `{}`",
            found.difference_id,
            other.difference_id
        );
    }
    Ok(found)
}
