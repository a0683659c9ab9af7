//! `tenure policy rollout`: how everybody comes under a policy that came into force.

use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use engine::runner::Definitions;
use serde::Serialize;
use workflows::directory::{LEFT_OUT_SHOWN_MAX, LeftOutReason, RolloutRow, RolloutStatus};
use workflows::policies::short;
use workflows::rollouts::Rollouts;

use crate::cli::format::{Listing, Tone, counted, number, paint, plain, time};
use crate::cli::import::short as name;
use crate::cli::{Context, Exit, actor, blast};
use crate::shell::rollouts::{LeftOutPage, RolloutView, view, views};
use crate::shell::{Database, now};

/// Show how far everybody is under the policy in force; pause that, or decide about it
#[derive(Debug, Args)]
#[command(after_long_help = "\
When another policy comes into force, what people hold is compared with what it wants. That is measured first, by the guard of
the policy before; when it is too much, nothing is done until somebody approves it. Then everybody who differs gets a case that
brings them in line. It begins once every node that lives decides by the new policy.

Nothing can be started for people of whom it is open who they are, or for whom a rule has no answer. `show` lists them. They come
under the policy by themselves when that is settled.

Exit code 3 says that a person has to decide.

Examples:
  tenure policy rollout
  tenure policy rollout --json | jq '.[0] | {status, looked, people, started}'
  tenure policy rollout show rol_5e1f70c2
  tenure policy rollout show rol_5e1f70c2 --json | jq '.people_left_out.people[] | {identity_key, why, since}'
  tenure policy rollout pause rol_5e1f70c2 --note 'the help desk is busy until Monday'
  tenure policy rollout resume rol_5e1f70c2 --note 'it is Monday'
  tenure policy rollout approve dif_77aa01b2 --note 'all of them left the project'
  tenure policy rollout reject rol_5e1f70c2 --note 'the role was renamed by mistake'")]
pub struct Rollout {
    #[command(subcommand)]
    command: Option<Sub>,
}

#[derive(Debug, Subcommand)]
enum Sub {
    /// Show one with what it would give and take, whom it left out, and what people did to it
    Show(Show),
    /// Hold it: no more cases are started
    Pause(Change),
    /// Let it go on; what is left is measured again
    Resume(Change),
    /// Let it go on although it is too much for the guard, if it would do exactly what was shown
    Approve(Change),
    /// Drop it: whoever was not reached keeps what they have until their next event
    Reject(Change),
}

#[derive(Debug, Args)]
struct Show {
    /// The rollout, its difference, or the beginning of either
    rollout: String,
    /// Of those who are left out: go on after this key
    #[arg(long, value_name = "KEY")]
    after: Option<String>,
    /// How many of them at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=i64::from(LEFT_OUT_SHOWN_MAX)))]
    limit: u32,
}

/// One rollout, and whom it left out.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    view: RolloutView,
    people_left_out: LeftOutPage,
}

#[derive(Debug, Args)]
struct Change {
    /// The rollout, its difference, or the beginning of either
    rollout: String,
    /// Why
    #[arg(long, value_name = "TEXT")]
    note: String,
}

pub(super) async fn run(context: &Context, command: Rollout) -> anyhow::Result<Exit> {
    match command.command {
        None => list(context).await,
        Some(Sub::Show(what)) => show(context, &what).await,
        Some(Sub::Pause(change)) => decide(context, &change, "pause").await,
        Some(Sub::Resume(change)) => decide(context, &change, "resume").await,
        Some(Sub::Approve(change)) => decide(context, &change, "approve").await,
        Some(Sub::Reject(change)) => decide(context, &change, "reject").await,
    }
}

async fn list(context: &Context) -> anyhow::Result<Exit> {
    let database = context.database().await?;
    let views = views(&database).await?;
    context.output.result(&views, |views| table(views))?;
    database.close().await;
    let waits = views
        .first()
        .is_some_and(|view| view.row.status == RolloutStatus::Waiting);
    Ok(if waits { Exit::Waiting } else { Exit::Good })
}

async fn show(context: &Context, what: &Show) -> anyhow::Result<Exit> {
    let database = context.database().await?;
    let (directory, after) = (&database.directory, what.after.as_deref());
    let row = find(&database, &what.rollout).await?;
    let shown = Shown {
        people_left_out: LeftOutPage::read(directory, &row.rollout_id, after, what.limit).await?,
        view: view(&*database.store, directory, row).await?,
    };
    context.output.result(&shown, |shown| {
        let mut text = describe(&shown.view);
        text.push_str(&left_out(shown));
        text
    })?;
    database.close().await;
    Ok(if shown.view.row.status == RolloutStatus::Waiting {
        Exit::Waiting
    } else {
        Exit::Good
    })
}

async fn decide(context: &Context, change: &Change, what: &str) -> anyhow::Result<Exit> {
    let configuration = context.configuration()?;
    let database = context.database().await?;
    let found = find(&database, &change.rollout).await?;
    let definitions = Arc::new(Definitions::new());
    for definition in &configuration.definitions {
        definitions.add(definition.clone());
    }
    let rollouts = Rollouts::new(
        database.directory.clone(),
        super::policies(&configuration, &database),
        definitions,
        Arc::clone(&configuration.systems),
    );
    let (id, by, note) = (&found.rollout_id, actor(), &change.note);
    let row = match what {
        "pause" => rollouts.pause(id, &by, note, now()).await?,
        "resume" => rollouts.resume(id, &by, note, now()).await?,
        "approve" => rollouts.approve(id, &by, note, now()).await?,
        _ => rollouts.reject(id, &by, note, now()).await?,
    };
    let view = view(&*database.store, &database.directory, row).await?;
    context.output.result(&view, |view| {
        format!(
            "rollout {} is {}",
            paint(name(&view.row.rollout_id), Tone::Code),
            state(&view.row).0
        )
    })?;
    database.close().await;
    Ok(Exit::Good)
}

/// The one that a person means by the beginning of its name or of its difference.
async fn find(database: &Database, meant: &str) -> anyhow::Result<RolloutRow> {
    let rows = database.directory.rollouts().await?;
    let fits = |row: &RolloutRow| {
        let difference = row.difference_id.as_deref().unwrap_or_default();
        row.rollout_id.starts_with(meant) || difference.starts_with(meant)
    };
    let mut fitting = rows.into_iter().filter(fits);
    let found = fitting
        .next()
        .with_context(|| format!("there is no rollout `{meant}`; see `tenure policy rollout`"))?;
    if let Some(other) = fitting.next() {
        bail!(
            "`{meant}` is the beginning of `{}` and of `{}`",
            found.rollout_id,
            other.rollout_id
        );
    }
    Ok(found)
}

fn state(row: &RolloutRow) -> (String, Tone) {
    if let Some(by) = row.paused_by.as_ref().filter(|_| row.status.is_open()) {
        return (format!("paused by {}", plain(by)), Tone::Warn);
    }
    let tone = match row.status {
        RolloutStatus::Done => Tone::Good,
        RolloutStatus::Waiting => Tone::Warn,
        RolloutStatus::Pending | RolloutStatus::Running => Tone::Plain,
        RolloutStatus::Rejected | RolloutStatus::Superseded => Tone::Dim,
    };
    (row.status.as_str().to_owned(), tone)
}

/// `1,200 of 3,400`; of one that was not measured yet, nothing.
fn progress(row: &RolloutRow) -> String {
    if row.difference_id.is_none() {
        return String::new();
    }
    // Some came, and some left, since it was measured.
    let all = row.people.max(row.looked);
    format!("{} of {}", number(row.looked), number(all))
}

fn why(view: &RolloutView) -> String {
    if !view.waits_for.is_empty() {
        return format!(
            "waits until {} decides by it",
            plain(&view.waits_for.join(", "))
        );
    }
    let stopped = view.row.stopped_by.iter().flatten().next();
    stopped.map_or_else(String::new, |why| plain(why))
}

fn table(views: &[RolloutView]) -> String {
    if views.is_empty() {
        return "no policy took the place of another yet".to_owned();
    }
    let now = now();
    let headings = [
        "ROLLOUT",
        "POLICY",
        "STATUS",
        "LOOKED AT",
        "CASES",
        "LEFT OUT",
        "BEGUN",
        "WHY",
    ];
    let mut listing = Listing::new(&headings)
        .right(&[4, 5])
        .narrow(&[0, 1, 2, 3, 6]);
    for view in views {
        let row = &view.row;
        let (status, tone) = state(row);
        listing.row([
            (name(&row.rollout_id).to_owned(), Tone::Code),
            (short(&row.policy_hash).to_owned(), Tone::Strong),
            (status, tone),
            (progress(row), Tone::Plain),
            (number(row.started), Tone::Plain),
            (number(view.left_out.values().sum()), Tone::Plain),
            (time::relative(row.begun_at, now), Tone::Dim),
            (why(view), Tone::Dim),
        ]);
    }
    listing.to_string()
}

fn describe(view: &RolloutView) -> String {
    let row = &view.row;
    let (status, tone) = state(row);
    let mut text = format!(
        "policy {} instead of {}: {}\n",
        paint(short(&row.policy_hash), Tone::Code),
        paint(short(&row.base_hash), Tone::Code),
        paint(status, tone)
    );
    let _ = writeln!(
        text,
        "looked at {}, {}",
        progress(row),
        counted(row.started, "person got a case", "people got a case")
    );
    let of = |reason| view.left_out.get(&reason).copied().unwrap_or(0);
    let (open, unanswered) = (of(LeftOutReason::Question), of(LeftOutReason::Rule));
    if open + unanswered > 0 {
        let _ = writeln!(
            text,
            "left out until that is settled: {} in question, {} without an answer of a rule",
            number(open),
            number(unanswered)
        );
    }
    if let Some(by) = &row.approved_by {
        let _ = writeln!(text, "approved by {}", plain(by));
    }
    if let Some(found) = &row.blast {
        text.push_str(&blast::table(found));
    }
    for reason in row.stopped_by.iter().flatten() {
        let sign = paint(Tone::Warn.sign(), Tone::Warn);
        let _ = write!(text, "\n{sign} {}", plain(reason));
    }
    if row.status == RolloutStatus::Waiting
        && let Some(difference) = &row.difference_id
    {
        let _ = write!(
            text,
            "\na person has to decide: {}",
            paint(
                format!(
                    "tenure policy rollout approve {} --note TEXT",
                    name(difference)
                ),
                Tone::Code
            )
        );
    }
    if !view.waits_for.is_empty() {
        let _ = write!(text, "\n{}", why(view));
    }
    for change in &view.changes {
        let _ = write!(
            text,
            "\n{} {} by {}: {}",
            change.at.format("%Y-%m-%d %H:%M:%S"),
            change.change,
            plain(&change.actor),
            plain(&change.reason)
        );
    }
    text
}

/// Whom it left out, and why.
fn left_out(shown: &Shown) -> String {
    let page = &shown.people_left_out;
    if page.people.is_empty() {
        return String::new();
    }
    let now = now();
    let mut listing = Listing::new(&["LEFT OUT", "SINCE", "ABOUT", "WHY"]).narrow(&[0, 1]);
    for person in &page.people {
        listing.row([
            (plain(&person.identity_key), Tone::Code),
            (time::relative(person.since, now), Tone::Dim),
            (plain(&person.about), Tone::Plain),
            (plain(&person.why), Tone::Dim),
        ]);
    }
    let mut text = format!("\n{listing}");
    if let Some(next) = &page.next {
        let more = format!(
            "more: tenure policy rollout show {} --after {}",
            name(&shown.view.row.rollout_id),
            plain(next)
        );
        let _ = write!(text, "\n{}", paint(more, Tone::Dim));
    }
    text
}
