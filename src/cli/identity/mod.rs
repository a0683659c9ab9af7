//! `tenure identity`: who is known and what they hold, and which keys are one person.

mod hold;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Value;
use workflows::directory::{
    AccountStatus, Believed, GrantStatus, IdentityDetail, IdentityFilter, IdentityRow,
    IdentityStatus,
};
use workflows::intake::MergeReport;
use workflows::policy::HeldBy;
use workflows::timeline::{Employment, Precedence};

use super::format::{Listing, Tone, counted, paint, plain, shortened, time};
use super::{Context, Exit, actor, correlation, import};
use crate::shell::{case_view, now};

/// Look at people and what they hold, and say which keys are one person
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  tenure identity list --status leaving
  tenure identity show E10023
  tenure identity hold E10023 --name matter-17 --reason 'litigation, see legal/17'
  tenure identity merge E10023 C7 --reason 'was a contractor before'")]
pub struct IdentityCommand {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, Subcommand)]
enum Sub {
    List(List),
    Show(Show),
    Hold(hold::Hold),
    Release(hold::Release),
    Merge(Merge),
    Split(Split),
}

/// Two keys are one person: what both hold and all that was said under either becomes one
#[derive(Debug, Args)]
#[command(after_long_help = "\
Open cases of both end as superseded; accounts and rights of the second key become the first's, and a new case brings access
in line with what the person does now. On a system where both have an account, the first key's stays, and the second's is
closed (or kept, with `second_accounts: keep` in correlation.yaml). All of it can be taken back with `split`.

Examples:
  tenure identity merge E10023 C7 --reason 'was a contractor before'")]
struct Merge {
    /// The key under which the person stands from now on
    survivor: String,
    /// The key that is the same person
    absorbed: String,
    /// Why; it stands in the record
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// A key is somebody else after all: what it had brought along goes back
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  tenure identity split C7 --reason 'another Ann'")]
struct Split {
    /// The key that was merged into a person
    absorbed: String,
    /// Why; it stands in the record
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// List people in the order of their keys
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  tenure identity list --search okafor
  tenure identity list --status departed --json")]
struct List {
    /// Only people who stand here
    #[arg(long, value_name = "STATUS", value_parser = status)]
    status: Option<IdentityStatus>,
    /// Part of the key or the name
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// Go on after this key
    #[arg(long, value_name = "KEY")]
    after: Option<String>,
    /// How many at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    limit: u32,
}

fn status(text: &str) -> Result<IdentityStatus, String> {
    IdentityStatus::parse(text).ok_or_else(|| {
        let known: Vec<&str> = IdentityStatus::ALL
            .iter()
            .map(|status| status.as_str())
            .collect();
        format!("known are {}", known.join(", "))
    })
}

/// Show one person: accounts, rights with the reason for each, and what the sources said
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  tenure identity show E10023
  tenure identity show E10023 --json | jq '.grants[] | {system, entitlement, status}'
  tenure identity show E10023 --as-of 2026-03-01
  tenure identity show E10023 --as-of 2026-03-01 --known-at 2026-02-15T12:00:00Z")]
struct Show {
    /// The person's key
    key: String,
    /// What held at this moment instead of what is known now: a day (its end, in UTC) or a time with its zone
    #[arg(long, value_name = "TIME", value_parser = moment)]
    as_of: Option<DateTime<Utc>>,
    /// From what had come in by this moment
    #[arg(long, value_name = "TIME", value_parser = moment)]
    known_at: Option<DateTime<Utc>>,
}

/// Runs one of the commands on people.
///
/// # Errors
/// When the person is not known, or the database cannot be reached.
pub async fn run(context: &Context, command: IdentityCommand) -> anyhow::Result<Exit> {
    match command.command {
        Sub::List(list) => list_people(context, list).await,
        Sub::Show(show) if show.as_of.is_some() || show.known_at.is_some() => {
            show_belief(context, &show).await
        }
        Sub::Show(show) => show_person(context, &show.key).await,
        Sub::Hold(hold) => hold::hold(context, hold).await,
        Sub::Release(release) => hold::release(context, release).await,
        Sub::Merge(merge) => {
            let (configuration, database) = (context.configuration()?, context.database().await?);
            let reason = correlation::reason(&merge.reason)?;
            let report = import::intake(&configuration, &database)
                .merge(&merge.survivor, &merge.absorbed, &actor(), &reason, now())
                .await?;
            regrouped(context, &report)
        }
        Sub::Split(split) => {
            let (configuration, database) = (context.configuration()?, context.database().await?);
            let reason = correlation::reason(&split.reason)?;
            let report = import::intake(&configuration, &database)
                .split(&split.absorbed, &actor(), &reason, now())
                .await?;
            regrouped(context, &report)
        }
    }
}

fn regrouped(context: &Context, report: &MergeReport) -> anyhow::Result<Exit> {
    context.output.result(report, |report| {
        let (absorbed, survivor) = (plain(&report.absorbed), plain(&report.survivor));
        let done = if report.state.holds() {
            format!("`{absorbed}` is `{survivor}` from now on; accounts and rights follow")
        } else {
            format!("`{absorbed}` is somebody else than `{survivor}` from now on; what it had brought along goes back")
        };
        format!(
            "{done} when open cases have ended.\nfollow it with {}",
            paint(format!("tenure identity show {survivor}"), Tone::Code)
        )
    })?;
    Ok(Exit::Good)
}

#[derive(Serialize)]
struct Found {
    counts: BTreeMap<&'static str, u64>,
    identities: Vec<IdentityRow>,
    /// What `--after` takes to go on.
    next: Option<String>,
}

async fn list_people(context: &Context, list: List) -> anyhow::Result<Exit> {
    let database = context.database().await?;
    let filter = IdentityFilter {
        status: list.status,
        search: list.search,
    };
    let identities = database
        .directory
        .identities(&filter, list.after.as_deref(), list.limit)
        .await?;
    let full = identities.len() >= usize::try_from(list.limit)?;
    let found = Found {
        counts: database
            .directory
            .identity_counts()
            .await?
            .into_iter()
            .map(|(status, count)| (status.as_str(), count))
            .collect(),
        next: identities
            .last()
            .filter(|_| full)
            .map(|row| row.identity_key.clone()),
        identities,
    };
    context.output.result(&found, |found| {
        if found.identities.is_empty() {
            return "nobody".to_owned();
        }
        let now = now();
        let mut listing =
            Listing::new(&["KEY", "NAME", "TYPE", "STATUS", "CHANGED"]).narrow(&[0, 2, 3, 4]);
        for row in &found.identities {
            listing.row([
                (plain(&row.identity_key), Tone::Code),
                (shortened(&row.display_name, 40), Tone::Strong),
                (plain(&row.identity_type), Tone::Dim),
                (row.status.as_str().to_owned(), status_tone(row.status)),
                (time::relative(row.changed_at, now), Tone::Dim),
            ]);
        }
        let mut text = listing.to_string();
        if let Some(next) = &found.next {
            let _ = write!(
                text,
                "\n{}",
                paint(
                    format!("more: tenure identity list --after {}", plain(next)),
                    Tone::Dim
                )
            );
        }
        text
    })?;
    Ok(Exit::Good)
}

fn status_tone(status: IdentityStatus) -> Tone {
    match status {
        IdentityStatus::Expected => Tone::Busy,
        IdentityStatus::Active => Tone::Good,
        IdentityStatus::Leaving => Tone::Warn,
        IdentityStatus::Departed | IdentityStatus::Merged => Tone::Dim,
    }
}

async fn show_person(context: &Context, key: &str) -> anyhow::Result<Exit> {
    let database = context.database().await?;
    let found = database.directory.identity(key).await?;
    let detail = found.with_context(|| {
        format!("nobody with the key `{key}` is known; see `tenure identity list --search`")
    })?;
    let (now, precedence) = (now(), precedence(context));
    let believed = database
        .directory
        .believed(key, now, now, &precedence)
        .await?;
    let shown = Shown {
        provenance: believed.as_ref().map(provenance).unwrap_or_default(),
        detail,
    };
    context.output.result(&shown, describe)?;
    Ok(Exit::Good)
}

/// One person, and who said what about them.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    detail: IdentityDetail,
    /// By attribute.
    provenance: BTreeMap<String, Provenance>,
}

#[derive(Serialize)]
struct Provenance {
    source: String,
    event: String,
    said_at: DateTime<Utc>,
}

fn provenance(believed: &Believed) -> BTreeMap<String, Provenance> {
    let origins = believed.belief.origins.iter();
    let told = origins.filter_map(|(name, event)| {
        let event = believed.events.iter().find(|known| known.id == *event)?;
        let provenance = Provenance {
            source: event.source.clone(),
            event: event.id.clone(),
            said_at: event.occurred_at,
        };
        Some((name.clone(), provenance))
    });
    told.collect()
}

/// Which source is believed about what: nothing special where no folder says so.
fn precedence(context: &Context) -> Precedence {
    let configuration = context.configuration().ok();
    let policy = configuration.map(|configuration| configuration.policy);
    policy
        .map(|policy| policy.precedence().clone())
        .unwrap_or_default()
}

async fn show_belief(context: &Context, show: &Show) -> anyhow::Result<Exit> {
    let database = context.database().await?;
    let (key, now) = (&show.key, now());
    let (as_of, known_at) = (show.as_of.unwrap_or(now), show.known_at.unwrap_or(now));
    let precedence = precedence(context);
    let found = database
        .directory
        .believed(key, as_of, known_at, &precedence)
        .await?;
    let believed = found.with_context(|| {
        format!(
            "nothing was known of `{key}` by {}; `tenure identity show {key}` shows when something was",
            time::clock(known_at, now)
        )
    })?;
    context.output.result(&believed, describe_belief)?;
    Ok(Exit::Good)
}

fn describe_belief(believed: &Believed) -> String {
    let now = now();
    let clock = |at| time::clock(at, now);
    let (standing, tone) = match believed.belief.employment {
        Employment::Unknown => ("nothing says that they ever begin".to_owned(), Tone::Dim),
        Employment::Expected { from } => (format!("begins {}", clock(from)), Tone::Busy),
        Employment::Employed { since, until } => {
            let until = until.map_or_else(String::new, |until| format!(" until {}", clock(until)));
            let away = if believed.belief.on_leave {
                ", on leave"
            } else {
                ""
            };
            (
                format!("there since {}{until}{away}", clock(since)),
                Tone::Good,
            )
        }
        Employment::Revoked { at } => (format!("everything revoked {}", clock(at)), Tone::Bad),
        Employment::Ended { at, returns } => {
            let returns = returns.map_or_else(String::new, |returns| {
                format!(", returns {}", clock(returns))
            });
            (format!("left {}{returns}", clock(at)), Tone::Dim)
        }
    };
    let mut text = format!(
        "{}  {}\n{}\n",
        paint(plain(&believed.identity_key), Tone::Code),
        paint(standing, tone),
        paint(
            format!(
                "as of {}, from what was known {}",
                clock(believed.as_of),
                clock(believed.known_at)
            ),
            Tone::Dim
        )
    );
    let mut attributes =
        Listing::new(&["ATTRIBUTE", "VALUE", "SOURCE", "KEY", "SAID BY"]).narrow(&[0]);
    for (name, value) in &believed.belief.attributes {
        let value = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        let origin = believed.belief.origins.get(name);
        let event = origin.and_then(|id| believed.events.iter().find(|event| event.id == *id));
        attributes.row([
            (plain(name), Tone::Dim),
            (shortened(&value, 60), Tone::Plain),
            (
                event.map_or_else(String::new, |event| plain(&event.source)),
                Tone::Dim,
            ),
            (
                event.map_or_else(String::new, |event| plain(&event.key)),
                Tone::Dim,
            ),
            (plain(origin.map_or("", String::as_str)), Tone::Code),
        ]);
    }
    if !attributes.is_empty() {
        let _ = write!(text, "\n{attributes}\n");
    }
    let mut events = Listing::new(&["CAME", "EFFECTIVE", "EVENT", "SOURCE", "ID", "REPLACED BY"])
        .narrow(&[0, 1, 2]);
    for event in &believed.events {
        let is_void = event.superseded_by.is_some();
        let tone = |tone| if is_void { Tone::Dim } else { tone };
        events.row([
            (clock(event.received_at), Tone::Dim),
            (clock(event.effective_at), Tone::Dim),
            (event.event_type.clone(), tone(Tone::Strong)),
            (plain(&event.source), tone(Tone::Plain)),
            (plain(&event.id), tone(Tone::Code)),
            (
                plain(event.superseded_by.as_deref().unwrap_or_default()),
                Tone::Code,
            ),
        ]);
    }
    let _ = write!(
        text,
        "\n{}\n{events}",
        paint("What was known", Tone::Strong)
    );
    text
}

/// A moment: a time with its zone, or a day, which is its last moment.
fn moment(text: &str) -> Result<DateTime<Utc>, String> {
    crate::shell::moment(text).ok_or_else(|| {
        "not a day (2026-03-01) nor a time with its zone (2026-03-01T09:00:00+01:00)".to_owned()
    })
}

fn describe(shown: &Shown) -> String {
    let detail = &shown.detail;
    let now = now();
    let identity = &detail.identity;
    let mut text = format!(
        "{}  {}  {}\n{}\n",
        paint(plain(&identity.identity_key), Tone::Code),
        paint(plain(&identity.display_name), Tone::Strong),
        paint(identity.status.as_str(), status_tone(identity.status)),
        paint(
            format!(
                "{} from source {} · known since {} · generation {}",
                plain(&identity.identity_type),
                plain(&identity.source),
                time::clock(identity.first_seen_at, now),
                identity.generation
            ),
            Tone::Dim
        )
    );
    text.push_str(&standing(identity));
    for (name, value) in &identity.attributes {
        let value = match value {
            Value::String(text) => plain(text),
            Value::Null => continue,
            other => plain(&other.to_string()),
        };
        if !value.is_empty() {
            let source = shown.provenance.get(name).map(|it| plain(&it.source));
            let source = source.map_or_else(String::new, |source| format!("  ({source})"));
            let _ = writeln!(
                text,
                "  {}  {value}{}",
                paint(format!("{:<16}", plain(name)), Tone::Dim),
                paint(source, Tone::Dim)
            );
        }
    }
    let _ = write!(
        text,
        "\n{}\n{}",
        paint("Accounts", Tone::Strong),
        accounts(detail)
    );
    let _ = write!(
        text,
        "\n\n{}\n{}",
        paint("Rights", Tone::Strong),
        grants(detail)
    );
    if !detail.credentials.is_empty() {
        let _ = write!(
            text,
            "\n\n{}\n{}",
            paint("Credentials that were ended", Tone::Strong),
            credentials(detail)
        );
    }
    if !detail.holds.is_empty() {
        let _ = write!(
            text,
            "\n\n{}\n{}",
            paint("Legal holds", Tone::Strong),
            hold::table(&detail.holds)
        );
    }
    let _ = write!(
        text,
        "\n\n{}\n{}",
        paint("What the sources said", Tone::Strong),
        events(detail)
    );
    if !detail.merges.is_empty() {
        let _ = write!(
            text,
            "\n\n{}\n{}",
            paint("Keys that are or were this person", Tone::Strong),
            merges(detail)
        );
    }
    text
}

/// Who else this is, and what stays open about it.
fn standing(identity: &IdentityRow) -> String {
    let mut text = String::new();
    if let Some(into) = &identity.merged_into {
        let _ = writeln!(
            text,
            "this is {}: everything stands there",
            paint(plain(into), Tone::Code)
        );
    }
    if !identity.members.is_empty() {
        let keys: Vec<String> = identity.members.iter().map(|key| plain(key)).collect();
        let _ = writeln!(text, "also known as {}", keys.join(", "));
    }
    for question in &identity.disputes {
        let what = if question.starts_with("cor_") {
            format!(
                "who this is is asked: tenure correlation show {}",
                plain(question)
            )
        } else {
            "keys are being merged or split".to_owned()
        };
        let _ = writeln!(
            text,
            "{} {what}; nothing is given meanwhile",
            paint(Tone::Warn.sign(), Tone::Warn)
        );
    }
    text
}

fn merges(detail: &IdentityDetail) -> String {
    let now = now();
    let mut listing = Listing::new(&["KEY", "IS", "STATE", "SINCE", "BY", "WHY", "ACCOUNTS"])
        .narrow(&[0, 1, 2, 3]);
    for row in &detail.merges {
        let (at, by, why) = if row.state.holds() {
            (row.merged_at, &row.merged_by, &row.merged_reason)
        } else {
            (row.split_at, &row.split_by, &row.split_reason)
        };
        let accounts = row.moved.iter().map(|moved| {
            format!(
                "{} {}",
                plain(&moved.account.system),
                plain(&moved.account.name)
            )
        });
        listing.row([
            (plain(&row.absorbed), Tone::Code),
            (plain(&row.survivor), Tone::Code),
            (row.state.as_str().to_owned(), Tone::Plain),
            (
                at.map_or_else(String::new, |at| time::clock(at, now)),
                Tone::Dim,
            ),
            (plain(by.as_deref().unwrap_or_default()), Tone::Plain),
            (
                shortened(why.as_deref().unwrap_or_default(), 40),
                Tone::Plain,
            ),
            (accounts.collect::<Vec<_>>().join(", "), Tone::Plain),
        ]);
    }
    let mut text = listing.to_string();
    for account in &detail.second_accounts {
        let _ = write!(
            text,
            "\n{} a second account on {}: {} under `{}`, {}",
            paint(Tone::Warn.sign(), Tone::Warn),
            plain(&account.system),
            plain(&account.name),
            plain(&account.identity_key),
            match account.status {
                AccountStatus::Disabled => "closed",
                _ => "not closed",
            }
        );
    }
    text
}

/// How well a row is known. `at_work` says that its change is still to come.
fn proof(
    at_work: bool,
    verified: Option<DateTime<Utc>>,
    unverified: Option<&str>,
) -> (String, Tone) {
    match (verified, unverified) {
        (_, Some(why)) => (format!("unverified: {}", shortened(why, 60)), Tone::Warn),
        (Some(at), None) => (
            format!("verified {}", time::relative(at, now())),
            Tone::Good,
        ),
        (None, None) if at_work => (String::new(), Tone::Dim),
        // Neither read nor refuted by a read: somebody said so.
        (None, None) => ("attested".to_owned(), Tone::Plain),
    }
}

fn accounts(detail: &IdentityDetail) -> String {
    if detail.accounts.is_empty() {
        return paint("none", Tone::Dim);
    }
    let mut listing =
        Listing::new(&["SYSTEM", "ACCOUNT", "STATUS", "PROOF", "CASE"]).narrow(&[0, 2, 4]);
    for row in &detail.accounts {
        let (status, tone) = match row.status {
            AccountStatus::Planned => ("planned", Tone::Busy),
            AccountStatus::Active => ("active", Tone::Good),
            AccountStatus::Disabled => ("disabled", Tone::Dim),
            AccountStatus::Deleted => ("deleted", Tone::Dim),
            AccountStatus::Uncertain => ("uncertain", Tone::Bad),
        };
        listing.row([
            (plain(&row.system), Tone::Strong),
            (shortened(&row.name, 40), Tone::Plain),
            (status.to_owned(), tone),
            proof(
                row.status == AccountStatus::Planned,
                row.verified_at,
                row.unverified.as_deref(),
            ),
            (case_view::short(&row.case_id).to_owned(), Tone::Code),
        ]);
    }
    listing.to_string()
}

fn grants(detail: &IdentityDetail) -> String {
    if detail.grants.is_empty() {
        return paint("none", Tone::Dim);
    }
    let mut listing = Listing::new(&["SYSTEM", "RIGHT", "STATUS", "BECAUSE OF", "PROOF", "CASE"])
        .narrow(&[0, 2, 5]);
    for row in &detail.grants {
        let (status, tone) = match (row.status, row.until) {
            (GrantStatus::Planned, _) => ("planned".to_owned(), Tone::Busy),
            (GrantStatus::Active, None) => ("active".to_owned(), Tone::Good),
            (GrantStatus::Active, Some(until)) => {
                (format!("until {}", time::clock(until, now())), Tone::Warn)
            }
            (GrantStatus::Revoked, _) => ("revoked".to_owned(), Tone::Dim),
            (GrantStatus::Uncertain, _) => ("uncertain".to_owned(), Tone::Bad),
        };
        let excepted = row.status == GrantStatus::Active && row.held_by == HeldBy::Exception;
        let exception = excepted.then(|| match row.exception_until {
            Some(end) => format!("exception until {}", time::clock(end, now())),
            None => "exception".to_owned(),
        });
        let reasons: Vec<String> = row
            .reasons
            .iter()
            .map(|reason| {
                let way: Vec<String> = reason.via.iter().map(|role| plain(role)).collect();
                if way.is_empty() {
                    plain(&reason.role)
                } else {
                    format!("{} via {}", plain(&reason.role), way.join(", "))
                }
            })
            .chain(exception)
            .collect();
        listing.row([
            (plain(&row.system), Tone::Strong),
            (shortened(&row.entitlement, 40), Tone::Plain),
            (status, tone),
            (reasons.join("; "), Tone::Plain),
            proof(
                row.status == GrantStatus::Planned,
                row.verified_at,
                row.unverified.as_deref(),
            ),
            (case_view::short(&row.case_id).to_owned(), Tone::Code),
        ]);
    }
    listing.to_string()
}

fn credentials(detail: &IdentityDetail) -> String {
    let mut listing = Listing::new(&["SYSTEM", "KIND", "CREDENTIAL", "CASE"]).narrow(&[0, 1, 3]);
    for row in &detail.credentials {
        listing.row([
            (plain(&row.system), Tone::Strong),
            (plain(&row.kind), Tone::Plain),
            (shortened(&row.credential_id, 60), Tone::Dim),
            (case_view::short(&row.case_id).to_owned(), Tone::Code),
        ]);
    }
    listing.to_string()
}

fn events(detail: &IdentityDetail) -> String {
    if detail.events.is_empty() {
        return paint("nothing", Tone::Dim);
    }
    let now = now();
    let mut listing =
        Listing::new(&["EFFECTIVE", "EVENT", "SOURCE", "STATUS", "CASES"]).narrow(&[0, 1, 3]);
    for row in &detail.events {
        let status = serde_json::to_value(row.status)
            .ok()
            .and_then(|it| it.as_str().map(str::to_owned))
            .unwrap_or_default();
        let cases: Vec<&str> = row
            .cases
            .iter()
            .map(|case| case_view::short(case))
            .collect();
        listing.row([
            (time::clock(row.effective_at, now), Tone::Dim),
            (row.event_type.to_string(), Tone::Strong),
            (plain(&row.source), Tone::Plain),
            (status, Tone::Plain),
            (cases.join(" "), Tone::Code),
        ]);
    }
    let total = u64::try_from(detail.events.len()).unwrap_or(u64::MAX);
    if detail.events.len() >= workflows::directory::EVENTS_SHOWN_MAX {
        return format!(
            "{listing}\n{}",
            paint(
                format!("the newest {}", counted(total, "event", "events")),
                Tone::Dim
            )
        );
    }
    listing.to_string()
}
