//! `tenure identity hold` and `release`: legal holds.

use chrono::{DateTime, Utc};
use clap::Args;
use workflows::directory::{HoldRow, NewHold};

use crate::cli::format::{Listing, Tone, paint, plain, shortened, time};
use crate::cli::{Context, Exit, actor};
use crate::shell::{holds, now};

/// Keep everything of a person: nothing is deleted while the hold stands
#[derive(Debug, Args)]
#[command(after_long_help = "\
A hold stops what destroys (the deletion of accounts) and nothing else: access ends as ever. When it is released, what
waited for it goes on by itself.

Examples:
  tenure identity hold E10023 --name matter-17 --reason 'litigation, see legal/17'
  tenure identity hold E10023 --name audit-2026 --reason 'yearly audit' --until 2026-12-31")]
pub struct Hold {
    /// The person's key
    key: String,
    /// Names the hold among those of the person: a matter, a file number
    #[arg(long, value_name = "NAME")]
    name: String,
    /// Why; it stands in the record for ever
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Ends by itself at this moment: a day (its end, in UTC) or a time with its zone
    #[arg(long, value_name = "TIME", value_parser = super::moment)]
    until: Option<DateTime<Utc>>,
}

/// Release a legal hold: what waited for it goes on
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  tenure identity release E10023 --name matter-17 --reason 'settled on 3 March'")]
pub struct Release {
    /// The person's key
    key: String,
    /// The name it was placed under
    #[arg(long, value_name = "NAME")]
    name: String,
    /// Why; it stands in the record for ever
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

pub(super) async fn hold(context: &Context, hold: Hold) -> anyhow::Result<Exit> {
    let database = context.database().await?;
    let new = NewHold {
        key: hold.key,
        hold: hold.name,
        reason: hold.reason,
        until: hold.until,
    };
    let row = holds::place(&database, &new, &actor(), now()).await?;
    context.output.result(&row, |row| {
        let until = row.until.map_or_else(String::new, |until| {
            format!(" until {}", time::clock(until, now()))
        });
        format!(
            "{} nothing of {} is destroyed{until}",
            paint("held:", Tone::Good),
            paint(plain(&row.identity_key), Tone::Code)
        )
    })?;
    Ok(Exit::Good)
}

pub(super) async fn release(context: &Context, release: Release) -> anyhow::Result<Exit> {
    let database = context.database().await?;
    let row = holds::release(
        &database,
        &release.key,
        &release.name,
        &release.reason,
        &actor(),
        now(),
    )
    .await?;
    context.output.result(&row, |row| {
        format!(
            "{} {} no longer holds {}; what waited for it goes on",
            paint("released:", Tone::Good),
            plain(&row.hold),
            paint(plain(&row.identity_key), Tone::Code)
        )
    })?;
    Ok(Exit::Good)
}

/// The holds of a person as a table.
pub(super) fn table(rows: &[HoldRow]) -> String {
    let now = now();
    let mut listing =
        Listing::new(&["HOLD", "STANDS", "BY", "REASON", "RELEASED"]).narrow(&[0, 1, 2]);
    for row in rows {
        let (stands, tone) = match (row.stands(now), row.until) {
            (true, Some(until)) => (format!("until {}", time::clock(until, now)), Tone::Warn),
            (true, None) => ("until released".to_owned(), Tone::Warn),
            (false, _) => ("no more".to_owned(), Tone::Dim),
        };
        let released = row.released_at.map_or_else(String::new, |at| {
            format!(
                "{} by {}: {}",
                time::clock(at, now),
                row.released_by.as_deref().unwrap_or_default(),
                row.released_because.as_deref().unwrap_or_default()
            )
        });
        listing.row([
            (shortened(&row.hold, 30), Tone::Strong),
            (stands, tone),
            (plain(&row.placed_by), Tone::Plain),
            (shortened(&row.reason, 40), Tone::Plain),
            (shortened(&released, 60), Tone::Dim),
        ]);
    }
    listing.to_string()
}
