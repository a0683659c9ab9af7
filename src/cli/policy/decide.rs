//! `tenure policy approve` and `tenure policy reject`.

use clap::Args;
use workflows::policies::short;

use crate::cli::format::{Tone, paint};
use crate::cli::{Context, Exit, actor};
use crate::shell::now;

/// Put a policy into force that the guard stopped, if it would do exactly what was shown
#[derive(Debug, Args)]
#[command(after_long_help = "\
Running nodes whose folder holds this policy take it into use within seconds. When people or the policy in force changed
since it was shown, nothing is done and what it would do now is asked about anew.

Examples:
  tenure policy approve dif_5e1f70c2 --note 'the new admins of the merger'")]
pub struct Approve {
    /// The difference, as `policy list` names it, or the beginning of it
    difference: String,
    /// Why
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
}

/// Drop a policy that waits; the one in force goes on deciding
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  tenure policy reject dif_5e1f70c2 --note 'the rule of admins lost its condition'")]
pub struct Reject {
    /// The difference, as `policy list` names it, or the beginning of it
    difference: String,
    /// Why
    #[arg(long, value_name = "TEXT", default_value = "")]
    note: String,
}

pub(super) async fn approve(context: &Context, approve: &Approve) -> anyhow::Result<Exit> {
    let configuration = context.configuration()?;
    let database = context.database().await?;
    let found = super::find(&database, &approve.difference).await?;
    let row = super::policies(&configuration, &database)
        .approve(
            &found.difference_id,
            &actor(),
            approve.note.as_deref(),
            now(),
        )
        .await?;
    context.output.result(&row, |row| {
        format!(
            "policy {} is in force",
            paint(short(&row.policy_hash), Tone::Code)
        )
    })?;
    database.close().await;
    Ok(Exit::Good)
}

pub(super) async fn reject(context: &Context, reject: &Reject) -> anyhow::Result<Exit> {
    let configuration = context.configuration()?;
    let database = context.database().await?;
    let found = super::find(&database, &reject.difference).await?;
    let row = super::policies(&configuration, &database)
        .reject(&found.difference_id, &actor(), &reject.note, now())
        .await?;
    context.output.result(&row, |row| {
        format!(
            "rejected: policy {} decides nothing",
            paint(short(&row.policy_hash), Tone::Code)
        )
    })?;
    database.close().await;
    Ok(Exit::Good)
}
