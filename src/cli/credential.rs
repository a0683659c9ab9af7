//! `tenure credential`: what non-human identities prove with, and when it runs out.

use clap::{Args, Subcommand};
use engine::core::duration::Span;
use workflows::directory::NhiCredentialRow;

use super::format::{Listing, Tone, plain, shortened, time};
use super::{Context, Exit};
use crate::shell::now;

/// The most that are listed.
const LISTED_MAX: u32 = 100_000;
/// The longest text of a cell, in characters.
const CELL_CHARS_MAX: usize = 70;

/// Look at the credentials of non-human identities
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  tenure credential list --expiring 30d")]
pub struct CredentialCommand {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, Subcommand)]
enum Sub {
    List(List),
}

/// List credentials that expire, the soonest first
#[derive(Debug, Args)]
#[command(after_long_help = "\
Those that have expired are listed too. What never expires is not.

Examples:
  tenure credential list --expiring 30d
  tenure credential list --expiring 7d --json | jq -r '.[].name'")]
struct List {
    /// Within this time
    #[arg(long, value_name = "TIME", value_parser = Span::parse)]
    expiring: Span,
}

/// Runs one of the commands on credentials.
///
/// # Errors
/// When the database cannot be reached.
pub async fn run(context: &Context, command: CredentialCommand) -> anyhow::Result<Exit> {
    let Sub::List(list) = command.command;
    let database = context.database().await?;
    let before = now() + list.expiring.delta();
    let found = database
        .directory
        .nhi_credentials_expiring(before, LISTED_MAX)
        .await?;
    context.output.result(&found, |found| table(found))?;
    database.close().await;
    Ok(Exit::Good)
}

fn table(found: &[NhiCredentialRow]) -> String {
    if found.is_empty() {
        return "nothing expires within that time".to_owned();
    }
    let at = now();
    let mut listing =
        Listing::new(&["EXPIRES", "CREDENTIAL", "KIND", "OF", "STATUS"]).narrow(&[0, 2]);
    for row in found {
        let expires = row
            .expires_at
            .map_or_else(String::new, |end| time::relative(end, at));
        let late = if row.expires_at.is_some_and(|end| end <= at) {
            Tone::Bad
        } else {
            Tone::Plain
        };
        listing.row([
            (expires, late),
            (shortened(&row.name, CELL_CHARS_MAX), Tone::Strong),
            (plain(&row.kind), Tone::Plain),
            (plain(&row.nhi_key), Tone::Plain),
            (plain(&row.status), Tone::Dim),
        ]);
    }
    listing.to_string()
}
