//! `tenure policy diff`.

use std::fmt::Write as _;

use clap::Args;
use workflows::directory::{PolicyRow, PolicyStatus};
use workflows::policies::{Proposed, short};

use crate::cli::blast;
use crate::cli::format::{Tone, paint, plain};
use crate::cli::{Context, Exit, actor};
use crate::shell::now;

/// Show what the policy of the folder would give and take, against the one in force
#[derive(Debug, Args)]
#[command(after_long_help = "\
Counts over everybody who is active or expected, by operation and slice. Nothing is changed.

Exit code 3 says that a person would have to decide.

Examples:
  tenure policy diff
  tenure policy diff --json | jq '.blast.slices[] | select(.by == \"privileged\")'")]
pub struct Diff {}

pub(super) async fn run(context: &Context) -> anyhow::Result<Exit> {
    let configuration = context.configuration()?;
    let database = context.database().await?;
    let policies = super::policies(&configuration, &database);
    let row = policies
        .preview(&Proposed::of(&configuration), &actor(), now())
        .await?;
    context.output.result(&row, describe)?;
    database.close().await;
    Ok(if row.status == PolicyStatus::Waiting {
        Exit::Waiting
    } else {
        Exit::Good
    })
}

fn describe(row: &PolicyRow) -> String {
    let Some(base) = &row.base_hash else {
        return format!(
            "policy {} is in force, or will be as the first one",
            paint(short(&row.policy_hash), Tone::Code)
        );
    };
    let mut text = format!(
        "policy {} instead of {}\n",
        paint(short(&row.policy_hash), Tone::Code),
        paint(short(base), Tone::Code)
    );
    text.push_str(&blast::table(&row.blast));
    for reason in row.stopped_by.iter().flatten() {
        let sign = paint(Tone::Warn.sign(), Tone::Warn);
        let _ = write!(text, "\n{sign} {}", plain(reason));
    }
    if row.status == PolicyStatus::Waiting {
        text.push_str(
            "\na person would have to decide; until then the one in force goes on deciding",
        );
    }
    text
}
