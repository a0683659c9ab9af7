//! `tenure rotation`: when credentials are replaced, how far that is, and taking it back.

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use engine::core::duration::Span;
use engine::runner::Command;
use serde::Serialize;
use workflows::directory::{Granted, RotationFilter, RotationRow};
use workflows::nhi::graph::Node;
use workflows::rotation::{Exposed, Phase, order};

use super::format::{Listing, Tone, paint, plain, shortened, time};
use super::{Context, Exit, actor};
use crate::shell::case_view::short;
use crate::shell::rotations::{self, RotationView};
use crate::shell::{Database, now};

/// The longest text of a cell, in characters.
const CELL_CHARS_MAX: usize = 70;
/// The widest bar of the picture, and its rows.
const BAR_CHARS: usize = 50;
const BARS: usize = 24;

/// Replace credentials: when, how far, and taking it back
#[derive(Debug, Args)]
#[command(after_long_help = "\
A credential that is declared with a `rotation` is replaced when it is due, by the clock of the node. docs/rotation.md
describes how, phase by phase. NAME is SYSTEM/ID, as it is declared.

Examples:
  tenure rotation plan --within 30d
  tenure rotation run warehouse/password:billing --reason 'Bob has seen it'
  tenure rotation status warehouse/password:billing
  tenure rotation rollback warehouse/password:billing --reason 'the nightly job fails'")]
pub struct RotationCommand {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, Subcommand)]
enum Sub {
    Plan(Plan),
    Run(Run),
    Rollback(Rollback),
    Status(Status),
}

/// Say what is replaced next, when, and why then
#[derive(Debug, Args)]
#[command(after_long_help = "\
What makes others is listed before what it makes. The draws (jitter, the place in a window) are made once and kept: looking
again shows the same times.

Examples:
  tenure rotation plan
  tenure rotation plan --within 7d --json | jq -r '.[] | [.starts_at, .name] | @tsv'
  tenure rotation plan --within 30d --histogram")]
struct Plan {
    /// Only what begins within this time
    #[arg(long, value_name = "TIME", value_parser = Span::parse, default_value = "30d")]
    within: Span,
    /// Draw how many begin when
    #[arg(long)]
    histogram: bool,
}

/// Replace a credential now
#[derive(Debug, Args)]
#[command(after_long_help = "\
It begins as soon as a node runs, whatever is planned. With --compromised nothing is waited for: no approval, no overlap, no
soak. Those who use it and have not read the new one are refused from then on, what is open with the old one ends, and a
rotation that is under way ends for it. There are two of it then: `--compromised=old` is the one that is being replaced, `=new` the
one that takes its place, and without it both are meant. It is said once, whatever is under way: docs/rotation.md has a table.

Examples:
  tenure rotation run warehouse/password:billing --reason 'the owner has changed'
  tenure rotation run warehouse/password:billing --compromised --reason 'it was in a log'
  tenure rotation run warehouse/password:billing --compromised=old --reason 'it was in a log until yesterday'")]
struct Run {
    #[arg(value_name = "NAME")]
    name: String,
    /// Why; stands in the evidence
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Strangers know it; while it is being replaced, which of the two: `old`, `new` or `both`
    #[arg(long, value_name = "WHICH", num_args = 0..=1, require_equals = true, default_missing_value = "both",
        value_parser = which)]
    compromised: Option<Exposed>,
}

fn which(text: &str) -> Result<Exposed, String> {
    Exposed::named(text).ok_or_else(|| "say `old`, `new` or `both`".to_owned())
}

/// Take a rotation back that is under way
#[derive(Debug, Args)]
#[command(after_long_help = "\
Until the old one is gone everything can be taken back, last first: the old one works again, those who use it read it again
once a login with it has succeeded, and the new one is removed.

Examples:
  tenure rotation rollback warehouse/password:billing --reason 'the nightly job fails'")]
struct Rollback {
    #[arg(value_name = "NAME")]
    name: String,
    /// Why; stands in the evidence
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// Say how far rotations are, and what keeps them
#[derive(Debug, Args)]
#[command(after_long_help = "\
Without NAME: those under way.

Examples:
  tenure rotation status
  tenure rotation status --all --nhi billing-sync
  tenure rotation status warehouse/password:billing --json | jq .phase")]
struct Status {
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Of one non-human identity
    #[arg(long, value_name = "KEY")]
    nhi: Option<String>,
    /// Those that are not under way, too
    #[arg(long)]
    all: bool,
}

/// Runs one of the commands on rotations.
///
/// # Errors
/// When something is not declared, cannot be begun or taken back, or the database cannot be reached.
pub async fn run(context: &Context, command: RotationCommand) -> anyhow::Result<Exit> {
    match command.command {
        Sub::Plan(command) => plan(context, &command).await,
        Sub::Run(command) => begin(context, &command).await,
        Sub::Rollback(command) => rollback(context, command).await,
        Sub::Status(command) => status(context, command).await,
    }
}

async fn named(database: &Database, name: &str) -> anyhow::Result<RotationRow> {
    let found = database.directory.rotation(name).await?;
    found.with_context(|| {
        format!(
            "`{}` is not declared with a `rotation`; `tenure rotation status --all` shows those that are, and \
             docs/rotation.md how to declare one",
            plain(name)
        )
    })
}

// --- plan --------------------------------------------------------------------------------------------------

async fn plan(context: &Context, plan: &Plan) -> anyhow::Result<Exit> {
    let database = context.database().await?;
    // What was declared a moment ago is planned here, as the node would.
    while database.directory.plan_rotations(now()).await? > 0 {}
    let mut found = rotations::upcoming(&database.directory, now() + plan.within.delta()).await?;
    let nodes = found.iter().map(|row| Node::credential(&row.name));
    let nodes: std::collections::BTreeSet<Node> = nodes.collect();
    let edges = database.directory.edges_at(&nodes).await?;
    let (first, circle) = order::order(&nodes, &edges);
    let makes_others = edges
        .iter()
        .any(|edge| nodes.contains(&edge.from) && nodes.contains(&edge.to) && edge.from != edge.to);
    if makes_others {
        let place = |row: &RotationRow| first.iter().position(|node| node.name == row.name);
        found.sort_by_key(|row| place(row).unwrap_or(usize::MAX));
    }
    context.output.result(&found, |found| {
        if plan.histogram {
            histogram(found)
        } else {
            planned(found)
        }
    })?;
    for node in circle {
        context.output.note(format!(
            "`{}` and what it makes made each other: a person has to say which is replaced first",
            plain(&node.name)
        ))?;
    }
    database.close().await;
    Ok(Exit::Good)
}

fn planned(found: &[RotationRow]) -> String {
    if found.is_empty() {
        return "nothing is replaced within that time".to_owned();
    }
    let at = now();
    let headings = ["BEGINS", "CREDENTIAL", "OF", "MODE", "BECAUSE", "DUE"];
    let mut listing = Listing::new(&headings).narrow(&[0, 3, 4, 5]);
    for row in found {
        let begins = row
            .starts_at
            .map_or_else(String::new, |start| time::with_distance(start, at));
        let why = row.because.map_or("", |because| because.as_str());
        let why = if row.past_window {
            format!("{why}, past the window")
        } else {
            why.to_owned()
        };
        let due = row
            .due_at
            .map_or_else(String::new, |due| time::relative(due, at));
        listing.row([
            (begins, Tone::Strong),
            (shortened(&row.name, CELL_CHARS_MAX), Tone::Plain),
            (shortened(&row.nhi_key, CELL_CHARS_MAX), Tone::Plain),
            (word(&row.mode), Tone::Dim),
            (
                why,
                if row.past_window {
                    Tone::Warn
                } else {
                    Tone::Plain
                },
            ),
            (due, Tone::Dim),
        ]);
    }
    listing.to_string()
}

/// How many begin when, in equal parts of the time between the first and the last.
fn histogram(found: &[RotationRow]) -> String {
    let times: Vec<_> = found.iter().filter_map(|row| row.starts_at).collect();
    let (Some(first), Some(last)) = (times.iter().min(), times.iter().max()) else {
        return "nothing is replaced within that time".to_owned();
    };
    let part_ms = (*last - *first).num_milliseconds() / i64::try_from(BARS).unwrap_or(1) + 1;
    let mut counts = [0_usize; BARS];
    for at in &times {
        let part = usize::try_from((*at - *first).num_milliseconds() / part_ms).unwrap_or(0);
        if let Some(count) = counts.get_mut(part) {
            *count += 1;
        }
    }
    let most = counts.iter().max().copied().unwrap_or(0).max(1);
    let mut listing = Listing::new(&["FROM", "BEGIN", ""]).right(&[1]);
    for (part, count) in (0..).zip(counts) {
        let from = *first + chrono::TimeDelta::milliseconds(part_ms * part);
        listing.row([
            (from.format("%Y-%m-%d %H:%M:%S").to_string(), Tone::Dim),
            (count.to_string(), Tone::Strong),
            ("#".repeat(count * BAR_CHARS / most), Tone::Busy),
        ]);
    }
    listing.to_string()
}

// --- run and rollback --------------------------------------------------------------------------------------

#[derive(Serialize)]
struct Begun {
    name: String,
    case: String,
    /// Whether it begins now, or is under way already.
    begins: bool,
    node_alive: bool,
}

async fn begin(context: &Context, run: &Run) -> anyhow::Result<Exit> {
    if run.reason.trim().is_empty() {
        bail!("`--reason` is empty; say why, it stands in the evidence");
    }
    let database = context.database().await?;
    let begun = database
        .directory
        .ask_rotation(&run.name, run.compromised, &actor(), &run.reason, now())
        .await?;
    let Granted { case, begins } = begun?;
    let begun = Begun {
        name: run.name.clone(),
        case: case.to_string(),
        begins,
        node_alive: database.node_alive().await?,
    };
    context.output.result(&begun, |begun| {
        let follow = if begun.node_alive {
            format!(
                "`tenure rotation status {}` shows how far it is",
                plain(&begun.name)
            )
        } else {
            "no node is running on this database; it begins as soon as `tenure serve` runs"
                .to_owned()
        };
        let what = if begun.begins {
            "is replaced by"
        } else {
            "is kept as compromised, and is being replaced at once already by"
        };
        format!(
            "{} {} {what} case {}; {follow}",
            paint(Tone::Good.sign(), Tone::Good),
            plain(&begun.name),
            short(&begun.case)
        )
    })?;
    database.close().await;
    Ok(Exit::Good)
}

async fn rollback(context: &Context, rollback: Rollback) -> anyhow::Result<Exit> {
    if rollback.reason.trim().is_empty() {
        bail!("`--reason` is empty; say why, it stands in the evidence");
    }
    let database = context.database().await?;
    let row = named(&database, &rollback.name).await?;
    let case = rotations::case_to_undo(&row)?;
    let case = database.case(database.find_case(case).await?).await?;
    let command = Command::Undo {
        by: actor(),
        reason: rollback.reason,
    };
    super::case::told(
        context,
        &database,
        &case,
        command,
        "takes the rotation back",
    )
    .await
}

// --- status ------------------------------------------------------------------------------------------------

fn phase(shown: &RotationView) -> (&'static str, Tone) {
    if shown.blocked {
        (Phase::Blocked.as_str(), Tone::Bad)
    } else {
        (shown.row.phase.as_str(), tone(shown.row.phase))
    }
}

async fn status(context: &Context, status: Status) -> anyhow::Result<Exit> {
    let database = context.database().await?;
    let rows = if let Some(name) = &status.name {
        vec![named(&database, name).await?]
    } else {
        let filter = RotationFilter {
            nhi: status.nhi,
            open_only: !status.all,
            ..RotationFilter::default()
        };
        database.directory.all_rotations(&filter).await?
    };
    let mut shown = Vec::with_capacity(rows.len());
    for row in rows {
        shown.push(if status.name.is_some() {
            rotations::whole(&database, row).await
        } else {
            rotations::view(&database, row).await
        });
    }
    let one = status.name.is_some();
    context
        .output
        .result(&shown, |shown| match shown.as_slice() {
            [only] if one => detail(only),
            many => table(many),
        })?;
    database.close().await;
    Ok(Exit::Good)
}

fn table(shown: &[RotationView]) -> String {
    if shown.is_empty() {
        return "nothing is being replaced; `--all` shows what is planned".to_owned();
    }
    let at = now();
    let headings = ["CREDENTIAL", "PHASE", "SINCE", "NEXT", "WAITS FOR"];
    let mut listing = Listing::new(&headings).narrow(&[1, 2]);
    for one in shown {
        let next = match (one.row.open_case.is_some(), one.row.starts_at) {
            (true, _) => one.next_phase.map_or("", Phase::as_str).to_owned(),
            (false, Some(start)) => time::relative(start, at),
            (false, None) => "never by itself".to_owned(),
        };
        listing.row([
            (shortened(&one.row.name, CELL_CHARS_MAX), Tone::Strong),
            (phase(one).0.to_owned(), phase(one).1),
            (time::relative(one.row.changed_at, at), Tone::Dim),
            (next, Tone::Plain),
            (
                shortened(one.waits.as_deref().unwrap_or_default(), CELL_CHARS_MAX),
                Tone::Warn,
            ),
        ]);
    }
    listing.to_string()
}

fn detail(one: &RotationView) -> String {
    let (row, at) = (&one.row, now());
    let mut listing = Listing::new(&["", ""]).narrow(&[0]);
    let mut line = |what: &str, text: String| {
        if !text.is_empty() {
            listing.row([(what.to_owned(), Tone::Dim), (text, Tone::Plain)]);
        }
    };
    let moment = |when: Option<chrono::DateTime<chrono::Utc>>| {
        when.map_or_else(String::new, |when| time::with_distance(when, at))
    };
    line("credential", plain(&row.name));
    line("of", plain(&row.nhi_key));
    line("mode", word(&row.mode));
    line("phase", phase(one).0.to_owned());
    if one.blocked {
        line("reached", row.phase.as_str().to_owned());
    }
    line("waits for", plain(one.waits.as_deref().unwrap_or_default()));
    line("known to strangers since", moment(row.exposed_at));
    line(
        "said by",
        plain(row.exposed_by.as_deref().unwrap_or_default()),
    );
    line(
        "said",
        plain(row.exposed_reason.as_deref().unwrap_or_default()),
    );
    line("then", plain(one.follows.as_deref().unwrap_or_default()));
    line(
        "answers for it",
        plain(row.answerable.as_deref().unwrap_or_default()),
    );
    line("until", moment(row.answer_by));
    line("turn", plain(row.turn.as_deref().unwrap_or_default()));
    line("in use since", moment(Some(row.since)));
    line("last replaced", moment(row.last_rotated_at));
    line("new one in use since", moment(row.promoted_at));
    line("expires", moment(row.expires_at));
    let overlap = row.overlap_s.map(|seconds| {
        let length = time::length(chrono::TimeDelta::seconds(seconds));
        match &row.dominated_by {
            Some(term) => format!("{length}, because of `{}`", plain(term)),
            None => length,
        }
    });
    line("overlap", overlap.unwrap_or_default());
    line("due", moment(row.due_at));
    line("begins", moment(row.starts_at));
    line(
        "because",
        row.because
            .map_or_else(String::new, |because| because.as_str().to_owned()),
    );
    line(
        "failed in a row",
        if row.failures > 0 {
            row.failures.to_string()
        } else {
            String::new()
        },
    );
    line(
        "case",
        row.open_case
            .as_deref()
            .or(row.last_case.as_deref())
            .map(short)
            .unwrap_or_default()
            .to_owned(),
    );
    line(
        "can be taken back",
        if one.can_roll_back { "yes" } else { "no" }.to_owned(),
    );
    for done in &one.timeline {
        let state = match &done.failure {
            Some(failure) => format!("{}: {failure}", done.state),
            None => done.state.to_owned(),
        };
        line(
            &done.step,
            plain(&format!("{state} {}", moment(Some(done.changed_at)))),
        );
    }
    listing.to_string()
}

fn tone(phase: Phase) -> Tone {
    match phase {
        Phase::Blocked | Phase::Irrevocable | Phase::Abandoned => Tone::Bad,
        Phase::RollingBack | Phase::RolledBack => Tone::Warn,
        Phase::Closed => Tone::Good,
        Phase::Scheduled => Tone::Dim,
        _ => Tone::Busy,
    }
}

/// A word of a stored form.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}
