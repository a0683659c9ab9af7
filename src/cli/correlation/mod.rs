//! `tenure correlation`: who is whom, where rules leave it open.

mod adoption;

use std::fmt::Write as _;

use anyhow::{Context as _, ensure};
use clap::{Args, Subcommand};
use serde::Serialize;
use workflows::correlation::{Correlation, Score, blocks, score};
use workflows::directory::{ReviewFilter, ReviewRow, ReviewStatus};
use workflows::intake::{ReviewReport, ScanReport};
use workflows::takeover::{CollisionReport, Taken, What, collisions};

use self::adoption::Adopt;
use super::format::{Listing, Tone, counted, paint, plain, shortened, time};
use super::{Context, Exit, actor, import};
use crate::shell::now;

/// How many characters of an identifier people are shown: enough to tell it from others.
const SHORT_CHARS: usize = 12;

/// How many of what a scan found are shown.
const SHOWN_MAX: usize = 50;

/// Decide who somebody is, where rules leave it open
#[derive(Debug, Args)]
#[command(after_long_help = "\
Rules are in `correlation.yaml` of the configuration folder; without it nobody is compared with anybody. A new record that
may be about somebody who is known waits here, and nothing is given meanwhile to anybody it concerns; who leaves does not
wait.

Examples:
  tenure correlation list
  tenure correlation show cor_5e1f70c2
  tenure correlation link cor_5e1f70c2 C7 --reason 'called her'
  tenure correlation separate cor_5e1f70c2 --reason 'father and son'
  tenure correlation compare C7 E100
  tenure correlation scan --dry-run
  tenure correlation collisions --system crm
  tenure correlation adopt --system crm --where department=Sales")]
pub struct CorrelationCommand {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, Subcommand)]
enum Sub {
    List(List),
    Show(Show),
    Link(Link),
    Separate(Separate),
    Compare(Compare),
    Scan(Scan),
    Collisions(Collisions),
    Adopt(Adopt),
}

/// List the questions that are open, the oldest first
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  tenure correlation list
  tenure correlation list --decided --json")]
struct List {
    /// Those that are decided, too
    #[arg(long)]
    decided: bool,
    /// How many at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    limit: u32,
}

/// Show one question: the candidates, and what each rule says about them
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  tenure correlation show cor_5e1f70c2")]
struct Show {
    /// The question, or the beginning of its identifier
    id: String,
}

/// It is this person: the new key becomes another key of theirs
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  tenure correlation link cor_5e1f70c2 C7 --reason 'called her'

It can be taken back: `tenure identity split`.")]
struct Link {
    /// The question, or the beginning of its identifier
    id: String,
    /// Which of the candidates it is
    key: String,
    /// Why; it stands in the record
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// It is none of them: somebody new, and never asked again
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  tenure correlation separate cor_5e1f70c2 --reason 'father and son'")]
struct Separate {
    /// The question, or the beginning of its identifier
    id: String,
    /// Why; it stands in the record
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// What the rules say about two people who are known
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  tenure correlation compare C7 E100
  tenure correlation compare C7 E100 --json | jq .score.rules")]
struct Compare {
    one: String,
    other: String,
}

/// Compare everybody who is known with everybody, and ask about those who may be one
#[derive(Debug, Args)]
#[command(after_long_help = "\
New records are compared when they come; this looks at people who were there before the rules, or whose attributes came later. It
links nobody by itself: what it finds waits in `tenure correlation list`, and holds nobody up meanwhile. Two of whom somebody said
that they are two are not asked about again.

Examples:
  tenure correlation scan --dry-run
  tenure correlation scan
  tenure correlation scan --json | jq -r '.found[] | [.key, .candidates[0].key] | @tsv'

Exit code 3: there is something to decide.")]
struct Scan {
    /// Only tell whom it would ask about
    #[arg(long)]
    dry_run: bool,
}

/// Which names and addresses policy would give on a system that somebody has already
#[derive(Debug, Args)]
#[command(after_long_help = "\
Asked before a cut-over: reads every account of the system, changes nothing there, and tells for everybody who would get an
account whether the first name of the template, or an address among the attributes, is taken, by whom, and which name is
free.

Examples:
  tenure correlation collisions --system crm
  tenure correlation collisions --system crm --json | jq -r '.collisions[] | [.key, .value] | @tsv'

Exit code 1: there are some.")]
struct Collisions {
    /// The system, by its name in the configuration
    #[arg(long, value_name = "NAME")]
    system: String,
}

/// Runs one of the commands on questions.
///
/// # Errors
/// When there is no such question, it is decided already, or the database cannot be reached.
pub async fn run(context: &Context, command: CorrelationCommand) -> anyhow::Result<Exit> {
    match command.command {
        Sub::List(list) => list_reviews(context, list).await,
        Sub::Show(show) => show_review(context, &show).await,
        Sub::Link(link) => {
            let report = {
                let (configuration, database) =
                    (context.configuration()?, context.database().await?);
                let intake = import::intake(&configuration, &database);
                intake
                    .link(&link.id, &link.key, &actor(), &reason(&link.reason)?, now())
                    .await?
            };
            decided(context, &report)
        }
        Sub::Separate(separate) => {
            let report = {
                let (configuration, database) =
                    (context.configuration()?, context.database().await?);
                let intake = import::intake(&configuration, &database);
                intake
                    .separate(&separate.id, &actor(), &reason(&separate.reason)?, now())
                    .await?
            };
            decided(context, &report)
        }
        Sub::Compare(compare) => compare_two(context, &compare).await,
        Sub::Scan(wanted) => scan(context, &wanted).await,
        Sub::Collisions(wanted) => show_collisions(context, &wanted).await,
        Sub::Adopt(adopt) => adoption::run(context, adopt).await,
    }
}

/// A reason that says something.
pub(super) fn reason(text: &str) -> anyhow::Result<String> {
    ensure!(
        !text.trim().is_empty(),
        "`--reason` is empty; say why, it stands in the record"
    );
    Ok(text.to_owned())
}

async fn list_reviews(context: &Context, list: List) -> anyhow::Result<Exit> {
    let database = context.database().await?;
    let filter = ReviewFilter {
        decided: list.decided,
        id: None,
    };
    let reviews = database.directory.reviews(&filter, list.limit).await?;
    context.output.result(&reviews, |reviews| {
        if reviews.is_empty() {
            return "no question is open".to_owned();
        }
        let now = now();
        let mut listing = Listing::new(&[
            "QUESTION", "SINCE", "NEW KEY", "SOURCE", "MAY BE", "POINTS", "OWNER", "STATUS",
        ])
        .narrow(&[0, 1, 5, 7]);
        for review in reviews {
            let best = review.candidates.first();
            let others = review.candidates.len().saturating_sub(1);
            let more = if others == 0 {
                String::new()
            } else {
                format!(" +{others}")
            };
            listing.row([
                (short(&review.review_id).to_owned(), Tone::Code),
                (time::relative(review.opened_at, now), Tone::Dim),
                (shortened(&review.record_key, 24), Tone::Strong),
                (plain(&review.source), Tone::Dim),
                (
                    best.map_or_else(String::new, |best| {
                        format!("{}{more}", shortened(&best.key, 24))
                    }),
                    Tone::Strong,
                ),
                (
                    best.map_or_else(String::new, |best| best.score.points.to_string()),
                    Tone::Plain,
                ),
                (plain(&review.owner), Tone::Plain),
                (review.status.as_str().to_owned(), tone(review.status)),
            ]);
        }
        listing.to_string()
    })?;
    Ok(Exit::Good)
}

fn tone(status: ReviewStatus) -> Tone {
    match status {
        ReviewStatus::Open => Tone::Warn,
        ReviewStatus::Linked | ReviewStatus::Separate => Tone::Dim,
    }
}

fn short(id: &str) -> &str {
    id.get(..SHORT_CHARS).unwrap_or(id)
}

async fn show_review(context: &Context, show: &Show) -> anyhow::Result<Exit> {
    let (configuration, database) = (context.configuration()?, context.database().await?);
    let review = import::intake(&configuration, &database)
        .review(&show.id)
        .await?;
    context.output.result(&review, describe)?;
    Ok(Exit::Good)
}

fn describe(review: &ReviewRow) -> String {
    let now = now();
    let mut text = format!(
        "{}  {}\n{}\n",
        paint(plain(&review.review_id), Tone::Code),
        paint(review.status.as_str(), tone(review.status)),
        paint(
            format!(
                "who is `{}` of source {}? {} is asked, since {}",
                plain(&review.record_key),
                plain(&review.source),
                plain(&review.owner),
                time::clock(review.opened_at, now)
            ),
            Tone::Dim
        )
    );
    for candidate in &review.candidates {
        let _ = write!(
            text,
            "\n{}\n{}\n",
            paint(plain(&candidate.key), Tone::Strong),
            table(&candidate.score)
        );
    }
    if let (Some(by), Some(at)) = (&review.decided_by, review.decided_at) {
        let key = review
            .decided_key
            .as_deref()
            .map_or_else(String::new, |key| format!(" `{}`", plain(key)));
        let _ = write!(
            text,
            "\n{}{key} by {} {}: {}",
            review.status.as_str(),
            plain(by),
            time::clock(at, now),
            plain(review.decided_reason.as_deref().unwrap_or_default())
        );
    } else {
        let id = short(&review.review_id);
        let key = review
            .candidates
            .first()
            .map_or("KEY", |best| best.key.as_str());
        let _ = write!(
            text,
            "\nit is that person:   {}\nit is somebody new:  {}",
            paint(
                format!("tenure correlation link {id} {} --reason '...'", plain(key)),
                Tone::Code
            ),
            paint(
                format!("tenure correlation separate {id} --reason '...'"),
                Tone::Code
            )
        );
    }
    text
}

/// What each rule says.
fn table(score: &Score) -> String {
    let mut listing = Listing::new(&["RULE", "SAYS", "POINTS"])
        .right(&[2])
        .narrow(&[1, 2]);
    for told in &score.rules {
        let tone = match told.points.cmp(&0) {
            std::cmp::Ordering::Greater => Tone::Good,
            std::cmp::Ordering::Less => Tone::Bad,
            std::cmp::Ordering::Equal => Tone::Dim,
        };
        listing.row([
            (plain(&told.rule), Tone::Plain),
            (told.grade.as_str().to_owned(), tone),
            (told.points.to_string(), tone),
        ]);
    }
    listing.row([
        ("together".to_owned(), Tone::Strong),
        (String::new(), Tone::Dim),
        (score.points.to_string(), Tone::Strong),
    ]);
    listing.to_string()
}

fn decided(context: &Context, report: &ReviewReport) -> anyhow::Result<Exit> {
    context.output.result(report, |report| {
        let cases = counted(report.cases.len() as u64, "case goes", "cases go");
        let review = &report.review;
        match &review.decided_key {
            Some(key) => format!(
                "`{}` is `{}`: {cases} on. To take it back: {}",
                plain(&review.record_key),
                plain(key),
                paint(
                    format!(
                        "tenure identity split {} --reason '...'",
                        plain(&review.record_key)
                    ),
                    Tone::Code
                )
            ),
            None => format!(
                "`{}` is somebody new: {cases} on",
                plain(&review.record_key)
            ),
        }
    })?;
    Ok(Exit::Good)
}

#[derive(Serialize)]
struct Compared {
    one: String,
    other: String,
    score: Score,
    /// `link`, `ask` or `new`, for a record like the one that nobody knew yet.
    verdict: &'static str,
    /// Whether they would be compared at all: they have something in common that rules find people by.
    found: bool,
}

async fn compare_two(context: &Context, compare: &Compare) -> anyhow::Result<Exit> {
    let configuration = context.configuration()?;
    let rules = configuration.correlation.as_deref().context(
        "there is no `correlation.yaml` in the configuration folder, so nobody is compared; docs/correlation.md has one to begin with",
    )?;
    let database = context.database().await?;
    let mut people = Vec::new();
    for key in [&compare.one, &compare.other] {
        let found = database.directory.holdings(key).await?;
        let found = found.with_context(|| format!("nobody with the key `{key}` is known"))?;
        people.push(found.identity);
    }
    let [one, other] = people.as_slice() else {
        return Ok(Exit::Bad);
    };
    let score = score(rules, &one.attributes, &other.attributes);
    let common = blocks(rules, &one.attributes);
    let compared = Compared {
        one: compare.one.clone(),
        other: compare.other.clone(),
        verdict: verdict(rules, &score),
        found: !common.is_disjoint(&blocks(rules, &other.attributes)),
        score,
    };
    context.output.result(&compared, |compared| {
        let mut text = table(&compared.score);
        let _ = write!(
            text,
            "\n{} ({} points link, {} ask)",
            match compared.verdict {
                "link" => "they are one person",
                "ask" => "a person decides",
                _ => "they are two people",
            },
            rules.link_at,
            rules.ask_at
        );
        if !compared.found {
            let _ = write!(text, "\nthey have nothing in common that people are found by, so they would not be compared");
        }
        text
    })?;
    Ok(Exit::Good)
}

fn verdict(rules: &Correlation, score: &Score) -> &'static str {
    if score.unique || score.points >= rules.link_at {
        "link"
    } else if score.points >= rules.ask_at {
        "ask"
    } else {
        "new"
    }
}

async fn scan(context: &Context, wanted: &Scan) -> anyhow::Result<Exit> {
    let (configuration, database) = (context.configuration()?, context.database().await?);
    let intake = import::intake(&configuration, &database);
    let report = intake.scan(!wanted.dry_run, now()).await?;
    context.output.result(&report, describe_scan)?;
    Ok(if report.found.is_empty() {
        Exit::Good
    } else {
        Exit::Waiting
    })
}

fn describe_scan(report: &ScanReport) -> String {
    let compared = counted(report.compared, "key was compared", "keys were compared");
    if report.found.is_empty() {
        return format!("{compared}; nobody else may be one");
    }
    let mut listing = Listing::new(&["QUESTION", "KEY", "MAY BE", "POINTS"]).narrow(&[0, 3]);
    for one in report.found.iter().take(SHOWN_MAX) {
        let Some(best) = one.candidates.first() else {
            continue;
        };
        let others = one.candidates.len().saturating_sub(1);
        let more = if others == 0 {
            String::new()
        } else {
            format!(" +{others}")
        };
        listing.row([
            (short(&one.question).to_owned(), Tone::Code),
            (shortened(&one.key, 24), Tone::Strong),
            (format!("{}{more}", shortened(&best.key, 24)), Tone::Strong),
            (best.score.points.to_string(), Tone::Plain),
        ]);
    }
    let mut text = format!("{}\n{listing}", paint(compared, Tone::Dim));
    let shown = report.found.len().min(SHOWN_MAX);
    if report.found.len() > shown {
        let _ = write!(
            text,
            "\nand {} more; --json has all",
            report.found.len() - shown
        );
    }
    if report.more {
        let _ = write!(
            text,
            "\n{} there are more: scan again when these are decided",
            paint(Tone::Warn.sign(), Tone::Warn)
        );
    }
    let next = if report.asked {
        "tenure correlation show QUESTION"
    } else {
        "the same, without --dry-run"
    };
    let what = if report.asked {
        "to decide"
    } else {
        "to ask about them"
    };
    let _ = write!(text, "\n\n{what}:  {}", paint(next, Tone::Code));
    text
}

async fn show_collisions(context: &Context, wanted: &Collisions) -> anyhow::Result<Exit> {
    let configuration = context.configuration()?;
    let system = configuration.systems.get(&wanted.system).with_context(|| {
        let known: Vec<&str> = configuration
            .systems
            .iter()
            .map(|system| system.name())
            .collect();
        format!(
            "there is no system `{}`; the configuration has {}",
            wanted.system,
            known.join(", ")
        )
    })?;
    let database = context.database().await?;
    let report = collisions(&database.directory, system, &configuration.policy).await?;
    context.output.result(&report, describe_collisions)?;
    Ok(if report.collisions.is_empty() {
        Exit::Good
    } else {
        Exit::Bad
    })
}

fn describe_collisions(report: &CollisionReport) -> String {
    let mut text = paint(
        format!(
            "{} on {}; {} would get one",
            counted(report.accounts as u64, "account", "accounts"),
            plain(&report.system),
            counted(report.people as u64, "person", "people")
        ),
        Tone::Dim,
    );
    if report.collisions.is_empty() {
        text.push_str("\nnothing that policy would give is taken");
        return text;
    }
    let mut listing =
        Listing::new(&["KEY", "NAME", "WOULD GET", "", "TAKEN BY", "FREE"]).narrow(&[0, 3]);
    for collision in &report.collisions {
        let (what, tone) = match collision.what {
            What::Name => ("name", Tone::Warn),
            What::Mail => ("mail", Tone::Bad),
        };
        let by = match &collision.taken {
            Taken::Account {
                name,
                owner: Some(owner),
                ..
            } => format!("{} of {}", plain(name), plain(owner)),
            Taken::Account { name, .. } => format!("{}, of nobody known", plain(name)),
            Taken::Person { key } => format!("{}, who would get it too", plain(key)),
        };
        listing.row([
            (plain(&collision.key), Tone::Code),
            (shortened(&collision.display_name, 32), Tone::Strong),
            (shortened(&collision.value, 40), tone),
            (what.to_owned(), Tone::Dim),
            (by, Tone::Plain),
            (
                collision.free.as_deref().map_or_else(String::new, plain),
                Tone::Good,
            ),
        ]);
    }
    let _ = write!(text, "\n{listing}");
    if report.more > 0 {
        let _ = write!(text, "\nand {} more", report.more);
    }
    text
}
