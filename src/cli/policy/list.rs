//! `tenure policy list`.

use clap::Args;
use workflows::directory::{PolicyRow, PolicyStatus};
use workflows::policies::short;

use crate::cli::format::{Listing, Tone, plain, time};
use crate::cli::import::short as difference;
use crate::cli::{Context, Exit};
use crate::shell::now;

/// List the versions of the policy: which is in force, which wait for a person
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  tenure policy list
  tenure policy list --json | jq -r '.[] | select(.status == \"waiting\") | .difference_id'")]
pub struct List {}

pub(super) async fn run(context: &Context) -> anyhow::Result<Exit> {
    let database = context.database().await?;
    let rows = database.directory.policies().await?;
    context.output.result(&rows, |rows| table(rows))?;
    database.close().await;
    Ok(Exit::Good)
}

fn table(rows: &[PolicyRow]) -> String {
    if rows.is_empty() {
        return "no policy was in force yet; the first one is when `tenure serve` starts"
            .to_owned();
    }
    let now = now();
    let headings = [
        "POLICY",
        "STATUS",
        "DIFFERENCE",
        "SEEN",
        "DECIDED BY",
        "WHY",
    ];
    let mut listing = Listing::new(&headings).narrow(&[0, 1, 2, 3]);
    for row in rows {
        let (status, tone) = status(row.status);
        let why = row.stopped_by.iter().flatten().next();
        listing.row([
            (short(&row.policy_hash).to_owned(), Tone::Strong),
            (status.to_owned(), tone),
            (difference(&row.difference_id).to_owned(), Tone::Code),
            (time::relative(row.seen_at, now), Tone::Dim),
            (
                plain(row.decided_by.as_deref().unwrap_or_default()),
                Tone::Plain,
            ),
            (plain(why.map_or("", String::as_str)), Tone::Dim),
        ]);
    }
    listing.to_string()
}

pub(super) fn status(status: PolicyStatus) -> (&'static str, Tone) {
    match status {
        PolicyStatus::InForce => ("in force", Tone::Good),
        PolicyStatus::Waiting => ("waiting", Tone::Warn),
        PolicyStatus::Rejected => ("rejected", Tone::Dim),
        PolicyStatus::Past => ("past", Tone::Dim),
    }
}
