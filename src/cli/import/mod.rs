//! `tenure import`: take a feed's file in; and decide about those the guard stopped.

mod describe;

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
use workflows::intake::{ImportReport, ImportStatus, Intake, PolicyCell};
use workflows::sources::manifest::MANIFEST_BYTES_MAX;
use workflows::sources::{
    ChangeKind, Limits, Manifest, Snapshot, SnapshotInput, Source, Summary, manifest_name,
};

pub(crate) use self::describe::decide_hint;
use self::describe::{describe, describe_report, describe_worked, people_table};
use crate::cli::blast;
use crate::cli::format::{Listing, Tone, number, paint, plain, time};
use crate::cli::import_events::{self, Events};
use crate::cli::work::{Remaining, Started, work_off};
use crate::cli::{Context, Exit, actor};
use crate::shell::{Database, Running, now};
use crate::telemetry::{self, Telemetry};

/// How many files `import list` shows without being told.
const LIST_ROWS: u32 = 30;
/// The least of a difference that somebody approves by name.
const DIFFERENCE_CHARS_MIN: usize = 12;
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
  tenure import preview people.csv --source hr
  tenure import list --waiting
  tenure import approve dif_5e1f70c2

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
    /// Apply it, although the guard stops it, if it does exactly what `import preview` showed
    #[arg(long, value_name = "DIFFERENCE")]
    approve: Option<String>,
    #[command(flatten)]
    then: Then,
}

/// A file to take in, and what to do then.
struct ImportFile {
    file: PathBuf,
    source: String,
    manifest: Option<PathBuf>,
    as_of: Option<NaiveDate>,
    approve: Option<String>,
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
    Events(Events),
    Preview(Preview),
    List(List),
    Show(Show),
    Approve(Approve),
    Reject(Reject),
}

/// Show what a file would do, and to whom; nothing is changed
#[derive(Debug, Args)]
#[command(after_long_help = "\
Counts people, accounts and rights before and after, under the policy of the folder, and says whether a person would have to
decide. What was shown is applied by `tenure import FILE --source NAME --approve DIFFERENCE`, and nothing else is.

Exit code 3 says that the guard would stop it.

Examples:
  tenure import preview people.csv --source hr
  tenure import preview people.csv --source hr --json | jq .blast")]
struct Preview {
    /// The file
    file: PathBuf,
    /// Which source it comes from
    #[arg(long, value_name = "NAME")]
    source: String,
    /// The manifest, when it does not lie beside the file
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// The day the file describes
    #[arg(long, value_name = "YYYY-MM-DD")]
    as_of: Option<NaiveDate>,
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
                approve,
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
                    approve,
                    then,
                },
            )
            .await
        }
        (Some(Sub::Events(events)), ..) => import_events::run(context, &events).await,
        (Some(Sub::Preview(preview)), ..) => show_preview(context, preview).await,
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

/// Reads a file as its source declares it.
fn read(source: &Source, file: &ImportFile) -> anyhow::Result<Snapshot> {
    let name = file.file.display().to_string();
    let reader = File::open(&file.file).with_context(|| format!("cannot open `{name}`"))?;
    let manifest = manifest(file)?;
    let input = SnapshotInput {
        file: &name,
        manifest: manifest.as_ref(),
        as_of: file.as_of,
        limits: Limits::default(),
    };
    workflows::sources::read_snapshot(source, reader, &input).map_err(refused)
}

async fn show_preview(context: &Context, preview: Preview) -> anyhow::Result<Exit> {
    let configuration = context.configuration()?;
    let source = crate::cli::source::configured(&configuration, &preview.source)?;
    let file = ImportFile {
        file: preview.file,
        source: preview.source,
        manifest: preview.manifest,
        as_of: preview.as_of,
        approve: None,
        then: Then {
            run: false,
            wait: false,
            timeout: 0,
        },
    };
    let snapshot = read(&source, &file)?;
    let database = context.prepared_database().await?;
    let report = intake(&configuration, &database)
        .preview(&source, &snapshot, &actor(), now())
        .await?;
    context.output.result(&report, describe_report)?;
    database.close().await;
    let stops =
        matches!(&report.status, ImportStatus::Previewed { reasons, .. } if !reasons.is_empty());
    Ok(if stops { Exit::Waiting } else { Exit::Good })
}

async fn take_in(context: &Context, file: &ImportFile) -> anyhow::Result<Exit> {
    let configuration = context.configuration()?;
    let source = crate::cli::source::configured(&configuration, &file.source)?;
    // Read before the database is touched: a wrong file should not even make one.
    let snapshot = read(&source, file)?;
    let database = context.prepared_database().await?;
    let (telemetry, sending) = telemetry::of_command(&configuration.settings, &database).await?;
    let intake = intake(&configuration, &database);
    let mut report = intake
        .import_snapshot(&source, &snapshot, &actor(), now())
        .await?;
    if let (Some(meant), ImportStatus::WaitingForApproval { .. }, Some(difference)) =
        (&file.approve, &report.status, &report.difference_id)
    {
        ensure!(
            meant.len() >= DIFFERENCE_CHARS_MIN && difference.starts_with(meant.as_str()),
            "the file does something else than `{meant}`, which was to be approved; it waits as `{difference}`"
        );
        report = intake.approve(difference, &actor(), now()).await?;
    }
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
pub(in crate::cli) fn intake(configuration: &Configuration, database: &Database) -> Intake {
    let definitions = Definitions::new();
    for definition in &configuration.definitions {
        definitions.add(definition.clone());
    }
    let policy = PolicyCell::new(Arc::clone(&configuration.policy));
    Intake::new(database.directory.clone(), Arc::new(definitions))
        .guarded(policy.clone(), configuration.sources.values())
        .with_correlation(configuration.correlation.clone())
        .with_contracts(policy, Arc::clone(&configuration.notices))
}

/// After the import: works it off here, waits for it, or says how to go on.
pub(in crate::cli) async fn then(
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
pub(in crate::cli) fn table(rows: &[SnapshotRow]) -> String {
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
        if let Some(blast) = &summary.blast {
            let _ = writeln!(text, "\n{}", blast::table(blast));
        }
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
