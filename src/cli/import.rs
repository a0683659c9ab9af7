//! `tenure import`: take a feed's file in; and decide about those the guard stopped.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use chrono::NaiveDate;
use clap::{Args, Subcommand};
use engine::runner::Definitions;
use serde::Serialize;
use workflows::config::Configuration;
use workflows::directory::{LagSummary, SnapshotRow, SnapshotStatus};
use workflows::intake::{ImportReport, ImportStatus, Intake};
use workflows::sources::manifest::MANIFEST_BYTES_MAX;
use workflows::sources::{ChangeKind, Limits, Manifest, SnapshotInput, Summary, manifest_name};

use super::format::{Listing, Tone, counted, number, paint, plain, time};
use super::work::{Remaining, Started, work_off};
use super::{Context, Exit, actor};
use crate::shell::{Database, Running, now};
use crate::telemetry::{self, Telemetry};

/// How many files `import list` shows without being told.
const LIST_ROWS: u32 = 30;
/// How long a node that ran for one import may take to stop.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);

/// Take a file of a source in: people who join, change and leave become cases
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_long_help = "\
What the file says is stored and its cases are made in one step; importing the same file again changes nothing.
People who are missing from a complete file have left. When that, or any other change, concerns more people than the
source's guard allows, nothing is done: the difference is shown and waits for `import approve` or `import reject`.

A manifest, `FILE.manifest.json`, is read when it lies beside the file.

Examples:
  tenure import people.csv --source hr --run
  tenure import people.csv --source hr --as-of 2026-03-01 --wait
  tenure import list --waiting
  tenure import approve 5e1f70c2

Exit code 3: a person has to go on: the guard stopped it, or with --run and --wait, tasks and approvals are open."
)]
pub struct Import {
    #[command(subcommand)]
    command: Option<Sub>,
    /// The file
    #[arg(required = true)]
    file: Option<PathBuf>,
    /// Which source it comes from
    #[arg(long, value_name = "NAME", required = true)]
    source: Option<String>,
    /// The manifest, when it does not lie beside the file
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// The day the file describes
    #[arg(long, value_name = "YYYY-MM-DD")]
    as_of: Option<NaiveDate>,
    #[command(flatten)]
    then: Then,
}

/// A file to take in, and what to do then.
struct ImportFile {
    file: PathBuf,
    source: String,
    manifest: Option<PathBuf>,
    as_of: Option<NaiveDate>,
    then: Then,
}

#[derive(Debug, Clone, Copy, Args)]
pub struct Then {
    /// Run a node here until the work is done
    #[arg(long)]
    run: bool,
    /// Wait until a node that runs elsewhere has done the work
    #[arg(long, conflicts_with = "run")]
    wait: bool,
    /// How long --run and --wait take at most, in seconds
    #[arg(long, value_name = "S", default_value_t = 3_600, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    timeout: u64,
}

#[derive(Debug, Subcommand)]
enum Sub {
    List(List),
    Show(Show),
    Approve(Approve),
    Reject(Reject),
}

/// List the files that were taken in, newest first
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  tenure import list
  tenure import list --waiting --json")]
struct List {
    /// Only those that wait for a person
    #[arg(long)]
    waiting: bool,
    /// Only this source
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// How many at most
    #[arg(long, default_value_t = LIST_ROWS, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    limit: u32,
}

/// Show a file's difference: who would join, change and leave
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  tenure import show 5e1f70c2")]
struct Show {
    /// The difference, as `import list` names it, or the beginning of it
    difference: String,
}

/// Apply exactly the difference that was shown
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  tenure import approve 5e1f70c2 --run")]
struct Approve {
    /// The difference, as `import list` names it, or the beginning of it
    difference: String,
    #[command(flatten)]
    then: Then,
}

/// Drop a difference; nothing is changed
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  tenure import reject 5e1f70c2 --note 'HR exported the wrong site'")]
struct Reject {
    /// The difference, as `import list` names it, or the beginning of it
    difference: String,
    /// Why
    #[arg(long, value_name = "TEXT", default_value = "")]
    note: String,
}

/// Runs `import` or one of its commands.
///
/// # Errors
/// When the file is refused, or the database cannot be reached.
pub async fn run(context: &Context, import: Import) -> anyhow::Result<Exit> {
    match (import.command, import.file, import.source) {
        (None, Some(file), Some(source)) => {
            let Import {
                manifest,
                as_of,
                then,
                ..
            } = import;
            take_in(
                context,
                &ImportFile {
                    file,
                    source,
                    manifest,
                    as_of,
                    then,
                },
            )
            .await
        }
        (Some(Sub::List(list)), ..) => list_files(context, list).await,
        (Some(Sub::Show(show)), ..) => show_file(context, &show.difference).await,
        (Some(Sub::Approve(approve)), ..) => approve_file(context, &approve).await,
        (Some(Sub::Reject(reject)), ..) => reject_file(context, &reject).await,
        (None, ..) => bail!("name a file and its `--source`; see `tenure import --help`"),
    }
}

/// What came of an import, with what became of its cases when that was waited for.
#[derive(Debug, Serialize)]
pub struct Imported {
    #[serde(flatten)]
    pub report: ImportReport,
    /// Whether a node works on the database.
    pub node_running: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worked: Option<Worked>,
}

/// What became of the cases.
#[derive(Debug, Serialize)]
pub struct Worked {
    pub took_ms: u64,
    #[serde(flatten)]
    pub remaining: Remaining,
    pub lag: Vec<LagSummary>,
}

async fn take_in(context: &Context, file: &ImportFile) -> anyhow::Result<Exit> {
    let configuration = context.configuration()?;
    let source = super::source::configured(&configuration, &file.source)?;
    let name = file.file.display().to_string();
    let reader = File::open(&file.file).with_context(|| format!("cannot open `{name}`"))?;
    let manifest = manifest(file)?;
    let input = SnapshotInput {
        file: &name,
        manifest: manifest.as_ref(),
        as_of: file.as_of,
        limits: Limits::default(),
    };
    // Read before the database is touched: a wrong file should not even make one.
    let snapshot = workflows::sources::read_snapshot(&source, reader, &input).map_err(refused)?;
    let database = context.prepared_database().await?;
    let (telemetry, sending) = telemetry::of_command(&configuration.settings, &database).await?;
    let report = intake(&configuration, &database)
        .import_snapshot(&source, &snapshot, &actor(), now())
        .await?;
    let work = (configuration, database, telemetry);
    let done = then(context, work, report, file.then).await;
    sending.end().await;
    done
}

/// The problems of a data file already say file and line.
fn refused(problems: workflows::policy::Problems) -> anyhow::Error {
    anyhow::anyhow!("the file is refused; nothing was changed\n{problems}")
}

fn manifest(file: &ImportFile) -> anyhow::Result<Option<Manifest>> {
    let (path, must_exist) = match &file.manifest {
        Some(path) => (path.clone(), true),
        None => (
            PathBuf::from(manifest_name(&file.file.display().to_string())),
            false,
        ),
    };
    let shown = path.display().to_string();
    match read_bounded(&path) {
        Ok(bytes) => Manifest::parse(&shown, &bytes)
            .map(Some)
            .map_err(|problem| anyhow::anyhow!("{problem}")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read the manifest `{shown}`")),
    }
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let most = u64::try_from(MANIFEST_BYTES_MAX)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Where facts are taken in.
pub(super) fn intake(configuration: &Configuration, database: &Database) -> Intake {
    let definitions = Definitions::new();
    for definition in &configuration.definitions {
        definitions.add(definition.clone());
    }
    Intake::new(database.directory.clone(), Arc::new(definitions))
}

/// After the import: works it off here, waits for it, or says how to go on.
pub(super) async fn then(
    context: &Context,
    (configuration, database, telemetry): (Configuration, Database, Telemetry),
    report: ImportReport,
    then: Then,
) -> anyhow::Result<Exit> {
    let waiting = matches!(report.status, ImportStatus::WaitingForApproval { .. });
    let alive = database.node_alive().await?;
    if waiting || !(then.run || then.wait) {
        let imported = Imported {
            report,
            node_running: alive,
            worked: None,
        };
        context.output.result(&imported, describe)?;
        database.close().await;
        return Ok(if waiting { Exit::Waiting } else { Exit::Good });
    }
    ensure!(
        then.run || alive,
        "no node is running on this database, so there is nothing to wait for; use `--run`, or start `tenure serve`"
    );
    ensure!(
        !then.run
            || !alive
            || !matches!(
                context.address()?,
                workflows::config::StoreAddress::Sqlite(_)
            ),
        "a node is running on this database already; use `--wait`"
    );
    context.output.line(describe_report(&report))?;
    let started = Started::now();
    let limit = Duration::from_secs(then.timeout);
    let remaining = if then.run {
        let running = Running::start(Arc::new(configuration), database.clone(), &telemetry).await?;
        let remaining = work_off(context, &database, Some(&running), limit).await;
        let worked = worked(&database, &started, remaining?).await?;
        running.drain(DRAIN_LIMIT).await?;
        worked
    } else {
        let remaining = work_off(context, &database, None, limit).await?;
        worked(&database, &started, remaining).await?
    };
    let exit = match (remaining.remaining.open(), remaining.remaining.timed_out) {
        (0, _) => Exit::Good,
        // Only people can go on.
        (_, false) => Exit::Waiting,
        (_, true) => Exit::Bad,
    };
    let imported = Imported {
        report,
        node_running: alive,
        worked: Some(remaining),
    };
    context.output.result(&imported, |imported| {
        imported
            .worked
            .as_ref()
            .map(describe_worked)
            .unwrap_or_default()
    })?;
    Ok(exit)
}

async fn worked(
    database: &Database,
    started: &Started,
    remaining: Remaining,
) -> anyhow::Result<Worked> {
    let lag = database.directory.lag(Some(started.at)).await?;
    Ok(Worked {
        took_ms: started.took_ms(),
        remaining,
        lag,
    })
}

async fn list_files(context: &Context, list: List) -> anyhow::Result<Exit> {
    let database = context.database().await?;
    let rows = database
        .directory
        .snapshots(list.source.as_deref(), list.waiting, list.limit)
        .await?;
    context.output.result(&rows, |rows| {
        if rows.is_empty() {
            return if list.waiting {
                "nothing waits".to_owned()
            } else {
                "no files".to_owned()
            };
        }
        table(rows)
    })?;
    Ok(Exit::Good)
}

/// Files of sources.
pub(super) fn table(rows: &[SnapshotRow]) -> String {
    let now = now();
    let headings = [
        "DIFFERENCE",
        "SOURCE",
        "AS OF",
        "ROWS",
        "STATUS",
        "TAKEN IN",
        "FILE",
    ];
    let mut listing = Listing::new(&headings).right(&[3]).narrow(&[0, 2, 4, 5]);
    for row in rows {
        let (status, tone) = status(row);
        listing.row([
            (short(&row.difference_id).to_owned(), Tone::Code),
            (plain(&row.source), Tone::Strong),
            (row.as_of.to_string(), Tone::Plain),
            (number(row.row_count), Tone::Plain),
            (status.to_owned(), tone),
            (time::relative(row.imported_at, now), Tone::Dim),
            (plain(&row.file), Tone::Dim),
        ]);
    }
    listing.to_string()
}

fn status(row: &SnapshotRow) -> (&'static str, Tone) {
    match row.status {
        SnapshotStatus::Applied => ("applied", Tone::Good),
        SnapshotStatus::Waiting => ("waiting", Tone::Warn),
        SnapshotStatus::Rejected => ("rejected", Tone::Dim),
    }
}

/// Enough of a difference's identifier to find it again.
pub(crate) fn short(difference: &str) -> &str {
    difference.get(..16).unwrap_or(difference)
}

/// The file that a person means by the beginning of its difference.
async fn find(database: &Database, meant: &str) -> anyhow::Result<SnapshotRow> {
    let rows = database
        .directory
        .snapshots(None, false, workflows::directory::PAGE_ROWS_MAX)
        .await?;
    let mut fitting = rows
        .into_iter()
        .filter(|row| row.difference_id.starts_with(meant));
    let found = fitting
        .next()
        .with_context(|| format!("there is no difference `{meant}`; see `tenure import list`"))?;
    if let Some(other) = fitting.find(|row| row.difference_id != found.difference_id) {
        bail!(
            "`{meant}` is the beginning of `{}` and of `{}`",
            found.difference_id,
            other.difference_id
        );
    }
    Ok(found)
}

#[derive(Serialize)]
struct ShownFile {
    #[serde(flatten)]
    row: SnapshotRow,
    /// Every change, while it waits.
    changes: Vec<ShownChange>,
}

#[derive(Serialize)]
struct ShownChange {
    kind: ChangeKind,
    event: String,
    subject: String,
}

async fn show_file(context: &Context, difference: &str) -> anyhow::Result<Exit> {
    let database = context.database().await?;
    let row = find(&database, difference).await?;
    let pending = database.directory.pending(&row).await?;
    let changes = pending
        .into_iter()
        .flat_map(|pending| pending.difference.changes)
        .map(|change| ShownChange {
            kind: change.kind,
            event: change.event.event_type.to_string(),
            subject: change.event.subject.as_str().to_owned(),
        })
        .collect();
    let shown = ShownFile { row, changes };
    context.output.result(&shown, describe_file)?;
    Ok(Exit::Good)
}

fn describe_file(shown: &ShownFile) -> String {
    let row = &shown.row;
    let (status, tone) = status(row);
    let mut text = format!(
        "{}  {} of {}  {}\ndifference {}\n",
        paint(plain(&row.source), Tone::Strong),
        plain(&row.file),
        row.as_of,
        paint(status, tone),
        paint(&row.difference_id, Tone::Code)
    );
    for reason in row.stopped_by.iter().flatten() {
        let _ = writeln!(
            text,
            "{} {}",
            paint(Tone::Warn.sign(), Tone::Warn),
            plain(reason)
        );
    }
    if let (Some(by), Some(note)) = (&row.decided_by, row.decided_note.as_deref().or(Some(""))) {
        let _ = writeln!(
            text,
            "decided by {}{}{}",
            plain(by),
            if note.is_empty() { "" } else { ": " },
            plain(note)
        );
    }
    if let Ok(summary) = serde_json::from_value::<Summary>(row.summary.clone()) {
        let _ = writeln!(
            text,
            "{}",
            people_table(&summary.people, summary.population)
        );
    }
    let mut by_event: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for change in &shown.changes {
        by_event
            .entry(&change.event)
            .or_default()
            .push(&change.subject);
    }
    for (event, subjects) in by_event {
        let _ = writeln!(
            text,
            "\n{} ({})",
            paint(event, Tone::Strong),
            subjects.len()
        );
        for line in subjects.chunks(8) {
            let names: Vec<String> = line.iter().map(|name| plain(name)).collect();
            let _ = writeln!(text, "  {}", names.join("  "));
        }
    }
    if row.status == SnapshotStatus::Waiting {
        let _ = write!(text, "\n{}", decide_hint(&row.difference_id));
    }
    text
}

fn decide_hint(difference: &str) -> String {
    let short = short(difference);
    format!(
        "to apply exactly this:  {}\nto drop it:             {}",
        paint(format!("tenure import approve {short}"), Tone::Code),
        paint(
            format!("tenure import reject {short} --note '...'"),
            Tone::Code
        )
    )
}

fn people_table(people: &BTreeMap<ChangeKind, u64>, population: u64) -> String {
    let count = |kind| people.get(&kind).copied().unwrap_or(0);
    let share = |count: u64| {
        if population == 0 {
            return String::new();
        }
        #[expect(clippy::cast_precision_loss, reason = "a share for people")]
        let share = count as f64 * 100.0 / population as f64;
        format!("{share:.1} %")
    };
    let mut listing = Listing::new(&["PEOPLE", "", "OF THOSE BEFORE"]).right(&[1, 2]);
    for (kind, word, tone) in [
        (ChangeKind::Create, "join or come back", Tone::Good),
        (ChangeKind::Update, "change", Tone::Busy),
        (ChangeKind::Remove, "leave", Tone::Bad),
    ] {
        let count = count(kind);
        listing.row([
            (word.to_owned(), Tone::Plain),
            (number(count), if count == 0 { Tone::Dim } else { tone }),
            (share(count), Tone::Dim),
        ]);
    }
    listing.to_string()
}

async fn approve_file(context: &Context, approve: &Approve) -> anyhow::Result<Exit> {
    let configuration = context.configuration()?;
    let database = context.database().await?;
    let row = find(&database, &approve.difference).await?;
    let (telemetry, sending) = telemetry::of_command(&configuration.settings, &database).await?;
    let report = intake(&configuration, &database)
        .approve(&row.difference_id, &actor(), now())
        .await?;
    let work = (configuration, database, telemetry);
    let done = then(context, work, report, approve.then).await;
    sending.end().await;
    done
}

async fn reject_file(context: &Context, reject: &Reject) -> anyhow::Result<Exit> {
    let configuration = context.configuration()?;
    let database = context.database().await?;
    let row = find(&database, &reject.difference).await?;
    let intake = intake(&configuration, &database);
    intake
        .reject(&row.difference_id, &actor(), &reject.note, now())
        .await?;
    let row = find(&database, &row.difference_id).await?;
    context.output.result(&row, |row| {
        format!(
            "rejected: nothing of {} was applied. The same file asks again",
            plain(&row.file)
        )
    })?;
    Ok(Exit::Good)
}

/// The result of an import for a person.
#[must_use]
pub fn describe(imported: &Imported) -> String {
    let mut text = describe_report(&imported.report);
    let started: u64 = imported.report.cases.values().sum();
    if started > 0 && imported.worked.is_none() {
        let _ = write!(text, "\n\n{}", next_step(imported.node_running));
    }
    text
}

fn next_step(node_running: bool) -> String {
    if node_running {
        return format!(
            "a node is working on it; follow it with {}",
            paint("tenure case list --open", Tone::Code)
        );
    }
    format!(
        "no node is running on this database; the cases wait. Start {}, or import with {}",
        paint("tenure serve", Tone::Code),
        paint("--run", Tone::Code)
    )
}

/// What a file said and what it started.
#[must_use]
pub fn describe_report(report: &ImportReport) -> String {
    let mut text = format!(
        "{}  {} of {}: {}{}\n",
        paint(plain(&report.source), Tone::Strong),
        plain(&report.file),
        report.as_of,
        counted(report.rows, "row", "rows"),
        if report.complete { ", complete" } else { "" }
    );
    for warning in &report.warnings {
        let _ = writeln!(text, "{} {warning}", paint("warning:", Tone::Warn));
    }
    match &report.status {
        ImportStatus::Unchanged => {
            text.push_str("nothing changed: this is what the source said before");
            return text;
        }
        ImportStatus::WaitingForApproval {
            reasons,
            population,
            examples,
        } => {
            let _ = writeln!(
                text,
                "{}",
                paint("stopped by the guard: nothing was done", Tone::Warn)
            );
            for reason in reasons {
                let _ = writeln!(
                    text,
                    "{} {}",
                    paint(Tone::Warn.sign(), Tone::Warn),
                    plain(reason)
                );
            }
            text.push('\n');
            let people = BTreeMap::from([
                (ChangeKind::Create, report.created),
                (ChangeKind::Update, report.changed),
                (ChangeKind::Remove, report.removed),
            ]);
            let _ = writeln!(text, "{}", people_table(&people, *population));
            for (kind, keys) in examples {
                let names: Vec<String> = keys.iter().map(|key| plain(key.as_str())).collect();
                let _ = writeln!(
                    text,
                    "{} for example: {}",
                    paint(kind.verb(), Tone::Dim),
                    names.join(" ")
                );
            }
            if let Some(difference) = &report.difference_id {
                let _ = write!(
                    text,
                    "\nto see all of it:       {}\n{}",
                    paint(
                        format!("tenure import show {}", short(difference)),
                        Tone::Code
                    ),
                    decide_hint(difference)
                );
            }
            return text;
        }
        ImportStatus::Applied => {}
    }
    let mut listing = Listing::new(&["EVENT", "PEOPLE"]).right(&[1]);
    for (event, count) in &report.events {
        listing.row([(event.clone(), Tone::Plain), (number(*count), Tone::Plain)]);
    }
    let _ = writeln!(text, "{listing}");
    if report.events_waiting > 0 {
        let _ = writeln!(
            text,
            "{} for its time",
            counted(report.events_waiting, "event waits", "events wait")
        );
    }
    if report.missing_not_removed > 0 {
        let _ = writeln!(
            text,
            "{} {} missing, but the file does not claim to be complete: nobody is taken to have left",
            paint(Tone::Warn.sign(), Tone::Warn),
            counted(report.missing_not_removed, "person is", "people are")
        );
    }
    let cases: Vec<String> = report
        .cases
        .iter()
        .map(|(workflow, count)| format!("{} {workflow}", number(*count)))
        .collect();
    let _ = write!(
        text,
        "cases started: {}",
        if cases.is_empty() {
            "none".to_owned()
        } else {
            cases.join(", ")
        }
    );
    text
}

/// What became of the cases, for a person.
#[must_use]
pub fn describe_worked(worked: &Worked) -> String {
    let took = time::length_ms(f64::from(u32::try_from(worked.took_ms).unwrap_or(u32::MAX)));
    let mut text = format!("{}\n", worked.remaining.describe(&took));
    if !worked.lag.is_empty() {
        let _ = write!(text, "\n{}", lag_table(&worked.lag));
    }
    text
}

/// How long corrections took, by system and direction.
#[must_use]
pub fn lag_table(lag: &[LagSummary]) -> String {
    let ms = |value: Option<u64>| {
        value.map_or_else(
            || "-".to_owned(),
            |ms| time::length_ms(f64::from(u32::try_from(ms).unwrap_or(u32::MAX))),
        )
    };
    let mut listing = Listing::new(&[
        "ACCESS LAG ON",
        "",
        "CASES",
        "P50",
        "P99",
        "MAX",
        "UNVERIFIED",
    ])
    .right(&[2, 3, 4, 5, 6])
    .narrow(&[0, 1, 3, 4, 5]);
    for row in lag {
        let kind = serde_json::to_value(row.kind)
            .ok()
            .and_then(|kind| kind.as_str().map(str::to_owned))
            .unwrap_or_default();
        listing.row([
            (plain(&row.system), Tone::Strong),
            (kind, Tone::Plain),
            (number(row.cases), Tone::Plain),
            (ms(row.p50_ms), Tone::Plain),
            (ms(row.p99_ms), Tone::Plain),
            (ms(row.max_ms), Tone::Plain),
            (
                number(row.unverified),
                if row.unverified > 0 {
                    Tone::Warn
                } else {
                    Tone::Dim
                },
            ),
        ]);
    }
    listing.to_string()
}
