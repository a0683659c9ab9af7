//! `tenure credential`: what non-human identities prove with, and when it runs out.

use anyhow::bail;
use clap::{Args, Subcommand};
use engine::core::duration::Span;
use workflows::directory::NhiCredentialRow;
use workflows::nhi::hygiene::Shortfall;
use workflows::takeover::shortfalls;

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
  tenure credential list --expiring 30d
  tenure credential check")]
pub struct CredentialCommand {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, Subcommand)]
enum Sub {
    List(List),
    Check(Check),
}

/// Say which credentials fall short of what policy wants
#[derive(Debug, Args)]
#[command(after_long_help = "\
The rules stand under `credentials` in the policy. Exit code 3 when there is something to do.

Examples:
  tenure credential check
  tenure credential check --environment production --json | jq -r '.[].credential'")]
struct Check {
    #[arg(long)]
    environment: Option<String>,
    /// Only by the rule of this name
    #[arg(long, value_name = "NAME")]
    rule: Option<String>,
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
    match command.command {
        Sub::List(list) => expiring(context, &list).await,
        Sub::Check(command) => check(context, &command).await,
    }
}

async fn check(context: &Context, command: &Check) -> anyhow::Result<Exit> {
    let policy = context.configuration()?.policy;
    if let Some(name) = &command.rule
        && !policy.credentials().iter().any(|rule| rule.name == *name)
    {
        bail!(
            "there is no rule `{}` under `credentials` in the policy",
            plain(name)
        );
    }
    let database = context.database().await?;
    let mut found = shortfalls(&database.directory, policy.credentials(), now()).await?;
    database.close().await;
    found.retain(|it| {
        command
            .environment
            .as_ref()
            .is_none_or(|wanted| it.environment == *wanted)
            && command
                .rule
                .as_ref()
                .is_none_or(|wanted| it.rule == *wanted)
    });
    let without = policy.credentials().is_empty();
    context
        .output
        .result(&found, |found| match (without, found.is_empty()) {
            (true, _) => {
                "the policy says nothing about credentials; docs/nhi.md shows what it can say"
                    .to_owned()
            }
            (false, true) => "every credential is as policy wants it".to_owned(),
            (false, false) => faults(found),
        })?;
    Ok(if found.is_empty() {
        Exit::Good
    } else {
        Exit::Waiting
    })
}

fn faults(found: &[Shortfall]) -> String {
    let mut listing =
        Listing::new(&["CREDENTIAL", "OF", "ENVIRONMENT", "RULE", "WHAT", "TOLD"]).narrow(&[2]);
    for it in found {
        listing.row([
            (shortened(&it.credential, CELL_CHARS_MAX), Tone::Strong),
            (plain(&it.nhi), Tone::Plain),
            (plain(&it.environment), Tone::Plain),
            (plain(&it.rule), Tone::Dim),
            (plain(&it.fault.to_string()), Tone::Bad),
            (plain(&it.tell.join(" ")), Tone::Plain),
        ]);
    }
    listing.to_string()
}

async fn expiring(context: &Context, list: &List) -> anyhow::Result<Exit> {
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
