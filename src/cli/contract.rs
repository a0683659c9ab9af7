//! `tenure contract`: contractors, when they end, and what is missing.

use anyhow::{Context as _, bail};
use chrono::{DateTime, NaiveDate, Utc};
use clap::{Args, Subcommand};
use engine::core::duration::Span;
use serde::Serialize;
use workflows::directory::{IdentityFilter, IdentityRow, PAGE_ROWS_MAX};
use workflows::intake::{Extension, ExtensionAsked};
use workflows::policy::ContractRules;
use workflows::timeline::{Employment, Precedence, runs_until};

use super::format::{Listing, Tone, paint, plain, shortened, time};
use super::{Context, Exit, actor, import};
use crate::shell::{Database, now};

/// The longest text of a cell, in characters.
const CELL_CHARS_MAX: usize = 50;

/// Look at contractors: when their contracts end, and what is missing; ask for a later end
#[derive(Debug, Args)]
#[command(after_long_help = "\
What holds for contractors stands in `contractors` of a policy file; docs/contractors.md describes it.

Examples:
  tenure contract list --within 30d
  tenure contract extend C4711 --until 2026-12-31 --reason 'phase two was ordered'")]
pub struct ContractCommand {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, Subcommand)]
enum Sub {
    List(List),
    Extend(Extend),
}

/// List contractors, those first whose contracts end first
#[derive(Debug, Args)]
#[command(after_long_help = "\
ENDS is when all their access ends, through contracts that overlap or follow each other. Exit code 1 says that something is
missing of one that is listed: nothing is given to somebody new before it is known.

Examples:
  tenure contract list
  tenure contract list --within 30d
  tenure contract list --incomplete --json | jq -r '.[].key'")]
struct List {
    /// Only those that end within this time
    #[arg(long, value_name = "TIME", value_parser = Span::parse)]
    within: Option<Span>,
    /// Only those of whom something is missing
    #[arg(long)]
    incomplete: bool,
}

/// Ask for a contract to end on a later day
#[derive(Debug, Args)]
#[command(after_long_help = "\
As far as `contractors.extension` of the policy lets you, from the end that stands. Whom the policy names is asked, and somebody else
than you has to agree (`tenure case approve`); then the end moves, by events of the source `tenure` with both of you and your reason.
What the source of the contract says later takes its place. Who gets notices of the end gets them anew.

Examples:
  tenure contract extend C4711 --until 2026-12-31 --reason 'phase two was ordered'
  tenure contract extend C4711 --until 2026-12-31 --contract PO-1 --reason 'as agreed'")]
struct Extend {
    /// The person's key
    key: String,
    /// The last day, which ends in the zone of the contract
    #[arg(long, value_name = "DAY")]
    until: NaiveDate,
    /// Which contract, for somebody who has several
    #[arg(long, value_name = "NAME")]
    contract: Option<String>,
    /// Why; whoever decides reads it
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// One contractor.
#[derive(Debug, Serialize)]
struct Contractor {
    key: String,
    name: String,
    status: &'static str,
    sponsor: Option<String>,
    /// When all their access ends; null when that is not known.
    ends: Option<DateTime<Utc>>,
    /// What has to be known and is not.
    missing: Vec<String>,
}

/// Runs one of the commands on contractors.
///
/// # Errors
/// When the policy says nothing about contractors, or the database cannot be reached.
pub async fn run(context: &Context, command: ContractCommand) -> anyhow::Result<Exit> {
    match command.command {
        Sub::List(command) => list(context, &command).await,
        Sub::Extend(command) => extend(context, command).await,
    }
}

async fn list(context: &Context, list: &List) -> anyhow::Result<Exit> {
    let configuration = context.configuration()?;
    let rules = configuration.policy.contracts();
    let rules = rules.context("the policy has no `contractors`; see docs/contractors.md")?;
    let precedence = configuration.policy.precedence();
    let database = context.database().await?;
    let at = now();
    let mut found = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let filter = IdentityFilter::default();
        let page = database
            .directory
            .identities(&filter, after.as_deref(), PAGE_ROWS_MAX);
        let page = page.await?;
        for row in page.iter().filter(|row| rules.concern(&row.identity_type)) {
            found.extend(contractor(&database, (rules, precedence), row, at).await?);
        }
        match page.last() {
            Some(last) => after = Some(last.identity_key.clone()),
            None => break,
        }
    }
    if let Some(within) = list.within {
        found.retain(|one| one.ends.is_some_and(|end| end <= at + within.delta()));
    }
    if list.incomplete {
        found.retain(|one| !one.missing.is_empty());
    }
    found.sort_by(|a, b| (a.ends, &a.key).cmp(&(b.ends, &b.key)));
    let missing = found.iter().any(|one| !one.missing.is_empty());
    context.output.result(&found, |found| table(found))?;
    database.close().await;
    Ok(if missing { Exit::Bad } else { Exit::Good })
}

/// Somebody who is employed now; `None` for others.
async fn contractor(
    database: &Database,
    (rules, precedence): (&ContractRules, &Precedence),
    row: &IdentityRow,
    at: DateTime<Utc>,
) -> anyhow::Result<Option<Contractor>> {
    let believed = database
        .directory
        .believed(&row.identity_key, at, at, precedence)
        .await?;
    let Some(believed) = believed else {
        return Ok(None);
    };
    let Employment::Employed { until, .. } = believed.belief.employment else {
        return Ok(None);
    };
    let spells = believed.spells.iter().map(|spell| (spell.start, spell.end));
    let spells: Vec<_> = spells.collect();
    let sponsor = rules
        .sponsor()
        .and_then(|name| row.attributes.get(name)?.as_str());
    Ok(Some(Contractor {
        key: row.identity_key.clone(),
        name: row.display_name.clone(),
        status: row.status.as_str(),
        sponsor: sponsor.map(str::to_owned),
        ends: runs_until(&spells, at),
        missing: rules.missing(&believed.belief.attributes, until),
    }))
}

fn table(found: &[Contractor]) -> String {
    if found.is_empty() {
        return "no contractors".to_owned();
    }
    let headings = ["KEY", "NAME", "STATUS", "ENDS", "SPONSOR", "MISSING"];
    let mut listing = Listing::new(&headings).narrow(&[0, 2, 3]);
    for one in found {
        let ends = one
            .ends
            .map_or_else(String::new, |end| time::relative(end, now()));
        listing.row([
            (plain(&one.key), Tone::Strong),
            (shortened(&one.name, CELL_CHARS_MAX), Tone::Plain),
            (one.status.to_owned(), Tone::Dim),
            (ends, Tone::Plain),
            (
                shortened(one.sponsor.as_deref().unwrap_or_default(), CELL_CHARS_MAX),
                Tone::Plain,
            ),
            (plain(&one.missing.join("; ")), Tone::Bad),
        ]);
    }
    listing.to_string()
}

async fn extend(context: &Context, extend: Extend) -> anyhow::Result<Exit> {
    if extend.reason.trim().is_empty() {
        bail!("`--reason` is empty; say why, whoever decides reads it");
    }
    let configuration = context.configuration()?;
    let database = context.database().await?;
    let intake = import::intake(&configuration, &database);
    let extension = Extension {
        key: &extend.key,
        contract: extend.contract.as_deref(),
        ends: None,
        until: extend.until,
    };
    let asked = intake
        .ask_for_extension(&extension, &extend.reason, &actor(), now())
        .await?;
    context.output.result(&asked, told)?;
    database.close().await;
    Ok(Exit::Good)
}

fn told(asked: &ExtensionAsked) -> String {
    let extended = &asked.extended;
    let key = plain(&extended.identity_key);
    let to = time::with_distance(extended.to, now());
    let (Some(case), Some(ask)) = (asked.case, &asked.ask) else {
        return format!("the contract of {key} ends {to} already; nothing was asked");
    };
    format!(
        "{} asked {} whether the contract of {key} may end {to}, not {}\n{} lets somebody else than you agree",
        paint(Tone::Good.sign(), Tone::Good),
        plain(ask),
        time::relative(extended.from, now()),
        paint(format!("tenure case approve {case}"), Tone::Code)
    )
}
