//! What is on systems and answers to nobody: looking, and answering for it.

use anyhow::{Context as _, bail};
use chrono::{DateTime, NaiveDate, Utc};
use clap::Args;
use connectors::connector::CredentialKind;
use engine::core::duration::Span;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use workflows::directory::{Decide, Directory, FoundFilter, NhiStatus};
use workflows::nhi::check::{Finding, Intent, Question, Rules, Verdict, check};
use workflows::nhi::declare::{Declared, DeclaredAccount, DeclaredCredential, NhiKind, mistakes};
use workflows::nhi::found::{Found, FoundStatus, Thing};
use workflows::nhi::graph::Node;
use workflows::takeover::{Looked, look};

use super::super::format::{Listing, Tone, counted, paint, plain, shortened, time};
use super::super::{Context, Exit, actor};
use super::{CELL_CHARS_MAX, told};
use crate::shell::{Database, now};

/// The most that are listed.
const LISTED_MAX: u32 = 100_000;

/// Look at a system for accounts and credentials that answer to nobody
#[derive(Debug, Args)]
#[command(after_long_help = "\
Reads every account of the system and changes nothing there. `tenure serve` does this by itself, every six hours
(`inventory` in tenure.yaml).

Examples:
  tenure nhi look warehouse
  tenure nhi look warehouse --json | jq '.open[].thing'")]
pub struct Look {
    /// The name of a file in systems/
    system: String,
}

/// List what was found and nobody answers for, the soonest due first
#[derive(Debug, Args)]
#[command(after_long_help = "\
Exit code 3 says that something is overdue.

Examples:
  tenure nhi found
  tenure nhi found --system warehouse --all
  tenure nhi found --due-within 7d --json | jq -r '.[].name'")]
pub struct FoundArgs {
    #[arg(long)]
    system: Option<String>,
    /// Also what is adopted, accepted or gone
    #[arg(long)]
    all: bool,
    /// Only what has to be answered for within this time
    #[arg(long, value_name = "TIME", value_parser = Span::parse)]
    due_within: Option<Span>,
}

/// Answer for something that was found: declare it
#[derive(Debug, Args)]
#[command(after_long_help = "\
With the key of an identity that is declared, the account or credential becomes one of it. With a new key, everything that a
declaration says has to be said.

Examples:
  tenure nhi adopt warehouse account:batch --key batch --kind service_account --environment production \\
      --purpose 'nightly batch' --team data --owner E1003 --backup E0007 --review 2027-01-31 --reason 'inventory'
  tenure nhi adopt warehouse account:batch_b --key batch --reason 'its second login'
  tenure nhi adopt git credential:deploy_key:17 --key batch --credential-kind ssh_key --reason 'deploys'")]
pub struct Adopt {
    /// The system it was found on
    system: String,
    /// `account:ID` or `credential:ID`, as `tenure nhi found` shows it; an account also by its login name
    thing: Thing,
    /// The identity it is, or becomes
    #[arg(long)]
    key: String,
    #[arg(long, value_parser = word::<NhiKind>)]
    kind: Option<NhiKind>,
    #[arg(long)]
    environment: Option<String>,
    #[arg(long)]
    purpose: Option<String>,
    #[arg(long)]
    team: Option<String>,
    /// The person who answers for it, by key
    #[arg(long)]
    owner: Option<String>,
    /// Another person, for when the owner is gone
    #[arg(long)]
    backup: Option<String>,
    #[arg(long)]
    sponsor: Option<String>,
    /// When somebody has to look whether it is still needed
    #[arg(long, value_name = "DAY")]
    review: Option<NaiveDate>,
    /// Of a credential: password, ssh_key, certificate, api_key, token
    #[arg(long, value_parser = word::<CredentialKind>)]
    credential_kind: Option<CredentialKind>,
    /// Why; stands beside the change
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// Let something that was found stay as it is, until a day
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  tenure nhi accept warehouse account:postgres --until 2027-01-31 --reason 'of the database itself; see SEC-12'")]
pub struct Accept {
    system: String,
    /// `account:ID` or `credential:ID`, as `tenure nhi found` shows it; an account also by its login name
    thing: Thing,
    #[arg(long, value_name = "DAY")]
    until: NaiveDate,
    /// Why; stands beside it
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// End a non-human identity: out of use first, deleted only when nobody missed it
#[derive(Debug, Args)]
#[command(after_long_help = "\
Starts a case of the workflow `retirement`: each account that the declaration names is put out of use and back once, and the time
that takes is measured; then it is put out of use, and watched for the window. A use that is seen, or `tenure nhi restore`, puts
everything back. After the window its owner is asked before anything is deleted.

An identity without `accounts` is said to be ended, and nothing is changed on systems; refused while something is known to use
it (exit code 3).

Examples:
  tenure nhi retire billing-sync --window 14d --reason 'replaced by the new warehouse'
  tenure case show nhi:billing-sync")]
pub struct Retire {
    key: String,
    /// How long it is out of use before it may be deleted
    #[arg(long, value_name = "TIME", value_parser = Span::parse, default_value = "14d")]
    window: Span,
    /// Why; stands beside the change
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// Put a non-human identity back into use that is being retired
#[derive(Debug, Args)]
#[command(after_long_help = "\
Takes back what its case did: each account is put back into use, and a read shows it.

Examples:
  tenure nhi restore billing-sync --reason 'the year-end job needs it'")]
pub struct Restore {
    key: String,
    /// Why; stands in the history of the case
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// A word as files write it.
fn word<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(serde_json::Value::String(text.to_owned()))
        .map_err(|error| error.to_string())
}

fn stated(reason: &str) -> anyhow::Result<()> {
    if reason.trim().is_empty() {
        bail!("`--reason` is empty; say why, it stands beside the change");
    }
    Ok(())
}

pub async fn look_at(context: &Context, look_at: &Look) -> anyhow::Result<Exit> {
    let configuration = context.configuration()?;
    let system = configuration.systems.get(&look_at.system);
    let system = system.with_context(|| {
        format!(
            "there is no system `{}`; `tenure connector list` shows those there are",
            plain(&look_at.system)
        )
    })?;
    let database = context.database().await?;
    let within = configuration.settings.inventory.answer_within.delta();
    let looked = look(&database.directory, system, within, now()).await?;
    database.close().await;
    context.output.result(&looked, seen)?;
    Ok(exit(&looked.open))
}

fn exit(open: &[Found]) -> Exit {
    let at = now();
    let is_late = open
        .iter()
        .any(|found| found.status == FoundStatus::Open && found.due_at <= at);
    if is_late { Exit::Waiting } else { Exit::Good }
}

fn seen(looked: &Looked) -> String {
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let mut text = format!(
        "{} on `{}`: {} of people, {} declared, {} that nobody answers for, {} accepted\n",
        counted(count(looked.accounts), "account", "accounts"),
        plain(&looked.system),
        looked.peoples,
        looked.declared,
        looked.open.len(),
        looked.accepted,
    );
    for (what, found) in [
        ("answered for now", &looked.adopted),
        ("gone", &looked.gone),
    ] {
        if !found.is_empty() {
            let names: Vec<String> = found.iter().map(|it| it.thing.to_string()).collect();
            text += &format!("{what}: {}\n", plain(&names.join(", ")));
        }
    }
    for gap in &looked.gaps {
        text += &format!(
            "{} not seen: {}\n",
            paint(Tone::Bad.sign(), Tone::Bad),
            plain(gap)
        );
    }
    if !looked.open.is_empty() {
        text += &format!("\n{}", table(&looked.open));
    }
    text.trim_end().to_owned()
}

fn table(found: &[Found]) -> String {
    if found.is_empty() {
        return "nothing was found that nobody answers for".to_owned();
    }
    let at = now();
    let mut listing = Listing::new(&["DUE", "SYSTEM", "WHAT", "LOGIN", "OF", "STATUS", "SINCE"])
        .narrow(&[0, 5, 6]);
    for found in found {
        let late = match (found.status, found.due_at <= at) {
            (FoundStatus::Open, true) => Tone::Bad,
            _ => Tone::Plain,
        };
        listing.row([
            (time::relative(found.due_at, at), late),
            (plain(&found.system), Tone::Plain),
            (
                shortened(&found.thing.to_string(), CELL_CHARS_MAX),
                Tone::Strong,
            ),
            (shortened(&found.name, CELL_CHARS_MAX), Tone::Plain),
            (
                plain(found.nhi_key.as_deref().unwrap_or_default()),
                Tone::Plain,
            ),
            (found.status.as_str().to_owned(), Tone::Dim),
            (time::relative(found.first_seen_at, at), Tone::Dim),
        ]);
    }
    listing.to_string()
}

pub async fn list(context: &Context, args: FoundArgs) -> anyhow::Result<Exit> {
    let database = context.database().await?;
    let filter = FoundFilter {
        system: args.system,
        all: args.all,
        due_before: args.due_within.map(|within| now() + within.delta()),
    };
    let found = database.directory.found(&filter, LISTED_MAX).await?;
    database.close().await;
    context.output.result(&found, |found| table(found))?;
    Ok(exit(&found))
}

pub async fn adopt(context: &Context, adopt: Adopt) -> anyhow::Result<Exit> {
    stated(&adopt.reason)?;
    let configuration = context.configuration()?;
    let systems: BTreeSet<&str> = configuration.systems.iter().map(|it| it.name()).collect();
    let database = context.database().await?;
    let directory = &database.directory;
    let found = open(directory, &adopt.system, &adopt.thing).await?;
    let before = directory.nhi(&adopt.key).await?;
    let before = before.filter(|row| row.status != NhiStatus::Retired);
    let declared = adopted(&adopt, &found, before.map(|row| row.declared))?;
    if let Some((what, fix)) = mistakes(&declared, &systems).into_iter().next() {
        bail!("{what}; {fix}");
    }
    let report = directory
        .declare(&[declared], &actor(), &adopt.reason, now())
        .await?;
    let good = report.refused.is_empty();
    if good {
        let found = Found {
            status: FoundStatus::Adopted,
            decided_by: Some(actor().0),
            reason: Some(adopt.reason.clone()),
            ..found
        };
        directory.put_found(&[found]).await?;
    }
    database.close().await;
    context.output.result(&report, told)?;
    Ok(if good { Exit::Good } else { Exit::Bad })
}

/// Something that is open or accepted; an account goes by its login name, too.
async fn open(directory: &Directory, system: &str, thing: &Thing) -> anyhow::Result<Found> {
    let found = directory.found_on(system).await?;
    let named = |found: &Found| match (thing, &found.thing) {
        (Thing::Account(name), Thing::Account(_)) => found.name == *name,
        _ => false,
    };
    let is_it = |found: &&Found| found.thing == *thing || named(found);
    let found = found.iter().find(is_it).cloned();
    found.with_context(|| nothing(system, thing))
}

fn nothing(system: &str, thing: &Thing) -> String {
    format!(
        "`{}` is nothing on `{}` that nobody answers for; `tenure nhi found` shows what is",
        plain(&thing.to_string()),
        plain(system)
    )
}

/// The declaration with what was found in it.
fn adopted(adopt: &Adopt, found: &Found, before: Option<Declared>) -> anyhow::Result<Declared> {
    let mut declared = match before {
        Some(declared) => declared,
        None => Declared {
            key: adopt.key.clone(),
            kind: adopt.kind.context("say `--kind`: the identity is new")?,
            environment: said("environment", &adopt.environment)?,
            purpose: said("purpose", &adopt.purpose)?,
            team: said("team", &adopt.team)?,
            owner: said("owner", &adopt.owner)?,
            backup: said("backup", &adopt.backup)?,
            sponsor: adopt.sponsor.clone(),
            review: adopt
                .review
                .context("say `--review`: the identity is new")?,
            critical: false,
            break_glass: false,
            idle_max: None,
            yearly: false,
            used_by: BTreeSet::new(),
            minted_by: None,
            accounts: Vec::new(),
            credentials: Vec::new(),
        },
    };
    match &adopt.thing {
        Thing::Account(_) => declared.accounts.push(DeclaredAccount {
            system: adopt.system.clone(),
            name: found.name.clone(),
        }),
        Thing::Credential(id) => {
            let kind = adopt
                .credential_kind
                .context("say `--credential-kind`: what kind of credential it is")?;
            declared
                .credentials
                .push(DeclaredCredential::new(&adopt.system, id, kind));
        }
    }
    Ok(declared)
}

fn said(name: &str, given: &Option<String>) -> anyhow::Result<String> {
    given
        .clone()
        .with_context(|| format!("say `--{name}`: the identity is new"))
}

pub async fn accept(context: &Context, accept: &Accept) -> anyhow::Result<Exit> {
    stated(&accept.reason)?;
    let until: DateTime<Utc> = accept.until.and_time(chrono::NaiveTime::MIN).and_utc();
    if until <= now() {
        bail!(
            "`--until {}` is past; give a day that is to come",
            accept.until
        );
    }
    let database = context.database().await?;
    let by = actor();
    let found = open(&database.directory, &accept.system, &accept.thing).await?;
    let decide = Decide {
        system: &accept.system,
        thing: &found.thing,
        until,
        by: &by,
        reason: &accept.reason,
    };
    let accepted = database.directory.accept_found(decide).await?;
    let accepted = accepted.with_context(|| nothing(&accept.system, &accept.thing))?;
    database.close().await;
    context.output.result(&accepted, |accepted| {
        format!(
            "{} {} may stay as it is until {}",
            paint(Tone::Good.sign(), Tone::Good),
            plain(&accepted.thing.to_string()),
            accepted.due_at.date_naive()
        )
    })?;
    Ok(Exit::Good)
}

pub async fn retire(context: &Context, retire: &Retire) -> anyhow::Result<Exit> {
    stated(&retire.reason)?;
    let database = context.database().await?;
    let directory = &database.directory;
    let row = directory.nhi(&retire.key).await?;
    let Some(row) = row.filter(|row| row.status != NhiStatus::Retired) else {
        bail!(
            "no non-human identity is called `{}`, or it is retired already; `tenure nhi list` shows those there are",
            plain(&retire.key)
        );
    };
    let at = now();
    if row.declared.accounts.is_empty() {
        return say_retired(context, &database, retire, at).await;
    }
    let case = directory
        .start_retirement(&retire.key, retire.window, &actor(), &retire.reason, at)
        .await?;
    database.close().await;
    context.output.result(&Started { case: case.to_string() }, |started| {
        format!(
            "{} case {} puts `{}` out of use and watches it for {}; `tenure case show {}` shows how it goes",
            paint(Tone::Good.sign(), Tone::Good),
            started.case,
            plain(&retire.key),
            retire.window,
            plain(&Node::nhi(&retire.key).to_string()),
        )
    })?;
    Ok(Exit::Good)
}

#[derive(Serialize)]
struct Started {
    case: String,
}

/// Nothing of it is known on systems: it is said to be ended.
async fn say_retired(
    context: &Context,
    database: &Database,
    retire: &Retire,
    at: DateTime<Utc>,
) -> anyhow::Result<Exit> {
    let directory = &database.directory;
    let question = Question {
        subject: Node::nhi(&retire.key),
        intent: Intent::Delete,
        hostile: false,
    };
    let snapshot = directory
        .dependencies(question, &BTreeMap::new(), Rules::default(), at)
        .await?;
    let Ok(snapshot) = snapshot else {
        bail!(
            "too many things hang on `{}` to look through",
            plain(&retire.key)
        );
    };
    let answer = check(&snapshot);
    // That nobody can tell holds up what is taken away, not what is said.
    let needed = |finding: &Finding| matches!(finding.verdict, Verdict::Block | Verdict::Rebind);
    if answer.findings.iter().any(needed) {
        context.output.result(&answer, super::answered)?;
        return Ok(Exit::Waiting);
    }
    let reason = &retire.reason;
    directory
        .retire_nhi(&retire.key, &actor(), reason, at)
        .await?;
    context.output.result(&answer, |_| {
        format!(
            "{} `{}` is retired; what is left of it on systems is found by the next look",
            paint(Tone::Good.sign(), Tone::Good),
            plain(&retire.key)
        )
    })?;
    Ok(Exit::Good)
}

pub async fn restore(context: &Context, restore: Restore) -> anyhow::Result<Exit> {
    stated(&restore.reason)?;
    let case = Node::nhi(&restore.key).to_string();
    super::super::case::take_back(context, &case, restore.reason).await
}
