//! `tenure import events`: a file of events, taken in person by person.
//!
//! A file of years is read twice: once to check every line and to note who is where, and once in the order of people, so
//! that all that is said about somebody is known at once and only what holds now sets a case off. In memory is a place a
//! line, and the lines of one batch.

use std::collections::BTreeSet;
use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use engine::core::id::Actor;
use serde::Serialize;
use workflows::intake::{Intake, IntakeError};
use workflows::policy::LeaverRules;
use workflows::sources::BusinessEvent;

use super::format::{Bar, Tone, counted, number, paint, plain, time};
use super::import::intake;
use super::work::{Remaining, Started, work_off};
use super::{Context, Exit, actor};
use crate::api::events::read_line;
use crate::shell::{Running, now};
use crate::telemetry;

/// The longest line, in bytes.
const LINE_BYTES_MAX: usize = 1 << 20;
/// From how many events on a batch is written. All events of one person are in one batch.
const BATCH_EVENTS: usize = 1_000;
/// How many wrong lines are told.
const MISTAKES_SHOWN: usize = 20;
/// How many lines are checked before the bar moves.
const BAR_LINES: u64 = 2_000;
/// How much of the file is read at a time where places are looked up one by one.
const PIECE_BYTES: usize = 4 << 10;
/// How long the node of one import may take to stop.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);

/// Take a file of events in, one CloudEvent a line: years of history at once
#[derive(Debug, Args)]
#[command(after_long_help = "\
Each line is one event in JSON, as POST /v1/events takes it (`tenure source schema` has the fields), in any order. The
whole file is checked before any of it is stored. Whatever was said about somebody is taken in together, so that only what
holds today becomes cases: who came, moved and left in past years gets no access on the way.

The same file again changes nothing, and one that was interrupted goes on where it was.

Examples:
  tenure import events history.jsonl
  tenure import events history.jsonl --run --json")]
pub struct Events {
    /// The file
    file: PathBuf,
    /// Run a node here until the work is done
    #[arg(long)]
    run: bool,
    /// How long --run takes at most, in seconds
    #[arg(long, value_name = "S", default_value_t = 3_600, requires = "run", value_parser = clap::value_parser!(u64).range(1..=604_800))]
    timeout: u64,
}

/// What came of a file of events.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Taken {
    pub events: u64,
    /// Those that nobody knew.
    pub new: u64,
    /// Those of the new ones that wait for their day.
    pub waiting: u64,
    pub people: u64,
    /// Cases that were started.
    pub cases: u64,
    pub took_ms: u64,
}

#[derive(Debug, Serialize)]
struct Imported {
    file: String,
    #[serde(flatten)]
    taken: Taken,
    #[serde(skip_serializing_if = "Option::is_none")]
    remaining: Option<Remaining>,
}

/// Runs `import events`.
///
/// # Errors
/// When a line is wrong, says something else under a known `id`, or the database cannot be reached.
pub(super) async fn run(context: &Context, options: &Events) -> anyhow::Result<Exit> {
    let configuration = context.configuration()?;
    let leavers = configuration.policy.leavers();
    let history = History::check(&options.file, leavers, context.output.json)?;
    let database = context.prepared_database().await?;
    let (telemetry, sending) = telemetry::of_command(&configuration.settings, &database).await?;
    let intake = intake(&configuration, &database);
    let taken = history
        .take_in(&intake, &actor(), context.output.json)
        .await?;
    for source in &history.sources {
        if configuration.sources.contains_key(source) {
            intake.heard_or_logged(source, now(), taken.new > 0).await;
        }
    }
    let mut imported = Imported {
        file: options.file.display().to_string(),
        taken,
        remaining: None,
    };
    let mut exit = Exit::Good;
    if options.run {
        ensure!(
            !database.node_alive().await?,
            "a node is running on this database already; it works the cases off"
        );
        let running = Running::start(Arc::new(configuration), database.clone(), &telemetry).await?;
        let limit = Duration::from_secs(options.timeout);
        let remaining = work_off(context, &database, Some(&running), limit).await?;
        running.drain(DRAIN_LIMIT).await?;
        exit = match (remaining.open(), remaining.timed_out) {
            (0, _) => Exit::Good,
            (_, false) => Exit::Waiting,
            (_, true) => Exit::Bad,
        };
        imported.remaining = Some(remaining);
    }
    context.output.result(&imported, describe)?;
    sending.end().await;
    database.close().await;
    Ok(exit)
}

fn describe(imported: &Imported) -> String {
    let taken = &imported.taken;
    let took = time::length_ms(Duration::from_millis(taken.took_ms).as_secs_f64() * 1_000.0);
    let mut text = format!(
        "{}: {} about {}, {} new, {} for a later day; {} started  (after {took})",
        paint(plain(&imported.file), Tone::Strong),
        counted(taken.events, "event", "events"),
        counted(taken.people, "person", "people"),
        number(taken.new),
        number(taken.waiting),
        counted(taken.cases, "case", "cases"),
    );
    match &imported.remaining {
        Some(remaining) => {
            text.push('\n');
            text.push_str(&remaining.describe(&took));
        }
        None if taken.cases > 0 => {
            text.push_str(&format!(
                "\nthey run on {}, or here with {}",
                paint("tenure serve", Tone::Code),
                paint("--run", Tone::Code)
            ));
        }
        None => {}
    }
    text
}

/// A file whose lines are all events.
pub(super) struct History {
    path: PathBuf,
    /// Where each line begins, in the order of whom it is about; of one person in the order of the file. People are told
    /// apart by a hash: two who share one come into the same batch, and nothing worse.
    places: Vec<(u64, u64)>,
    sources: Vec<String>,
    /// When access ends of whom only the last day is said.
    leavers: LeaverRules,
}

impl History {
    /// Reads the file and checks each line.
    ///
    /// # Errors
    /// When it cannot be read, or lines are wrong; the first of them are told.
    pub fn check(path: &Path, leavers: &LeaverRules, quiet: bool) -> anyhow::Result<Self> {
        let shown = path.display().to_string();
        let file = File::open(path).with_context(|| format!("cannot open `{shown}`"))?;
        let about = file
            .metadata()
            .with_context(|| format!("cannot read `{shown}`"))?;
        ensure!(
            about.is_file(),
            "`{shown}` is not a file; events are read twice, so save them to one first"
        );
        let bar = Bar::new("checking", about.len(), quiet);
        let mut reader = BufReader::with_capacity(1 << 18, file);
        let (mut places, mut sources) = (Vec::new(), BTreeSet::new());
        let (mut wrong, mut mistakes): (u64, Vec<String>) = (0, Vec::new());
        let (mut line, mut place, mut number) = (Vec::new(), 0, 0_u64);
        loop {
            let read = read_until_end_of_line(&mut reader, &mut line)
                .with_context(|| format!("cannot read `{shown}`"))?;
            if read == 0 {
                break;
            }
            number += 1;
            match understand(&line, leavers) {
                Ok(None) => {}
                Ok(Some(event)) => {
                    places.push((hash(event.subject.as_str()), place));
                    sources.insert(event.source);
                }
                Err(what) => {
                    wrong += 1;
                    if mistakes.len() < MISTAKES_SHOWN {
                        mistakes.push(format!("  {shown}:{number}: {}", plain(&what)));
                    }
                    // What follows on an endless line is not another line.
                    if line.len() > LINE_BYTES_MAX {
                        break;
                    }
                }
            }
            place += read;
            if number.is_multiple_of(BAR_LINES) {
                bar.set(place, about.len());
            }
        }
        bar.end();
        if wrong > 0 {
            let more = wrong - mistakes.len() as u64;
            if more > 0 {
                mistakes.push(format!("  and {more} more"));
            }
            bail!(
                "{} wrong; nothing was changed\n{}",
                counted(wrong, "line is", "lines are"),
                mistakes.join("\n")
            );
        }
        places.sort_unstable();
        Ok(Self {
            path: path.to_owned(),
            places,
            sources: sources.into_iter().collect(),
            leavers: leavers.clone(),
        })
    }

    /// Takes the events in, person by person.
    ///
    /// # Errors
    /// When another event has the `id` of one, or the database does not answer. What was taken in before stays, and the
    /// same file goes on there.
    pub async fn take_in(
        &self,
        intake: &Intake,
        initiator: &Actor,
        quiet: bool,
    ) -> anyhow::Result<Taken> {
        let started = Started::now();
        let file = File::open(&self.path)?;
        let mut reader = BufReader::with_capacity(PIECE_BYTES, file);
        let total = self.places.len() as u64;
        let bar = Bar::new("taking in", total, quiet);
        let mut taken = Taken::default();
        let mut batch = Vec::with_capacity(BATCH_EVENTS);
        let mut line = Vec::new();
        let mut people = self.places.chunk_by(|(a, _), (b, _)| a == b).peekable();
        while let Some(person) = people.next() {
            taken.people += 1;
            for (_, place) in person {
                reader.seek(SeekFrom::Start(*place))?;
                read_until_end_of_line(&mut reader, &mut line)?;
                match understand(&line, &self.leavers) {
                    Ok(Some(event)) => batch.push(event),
                    Ok(None) | Err(_) => bail!(
                        "`{}` changed while it was read; what was taken in so far stays, so import it again",
                        self.path.display()
                    ),
                }
            }
            if batch.len() < BATCH_EVENTS && people.peek().is_some() {
                continue;
            }
            taken.events += batch.len() as u64;
            let reports = intake.events(&batch, initiator, now()).await;
            let mut cases = BTreeSet::new();
            for report in reports.map_err(|error| told(&error, taken.new))? {
                taken.new += u64::from(report.new);
                let waits = report.status == Some(workflows::directory::EventStatus::Waiting);
                taken.waiting += u64::from(waits);
                cases.extend(report.cases);
            }
            taken.cases += cases.len() as u64;
            batch.clear();
            bar.set(taken.events, total);
        }
        bar.end();
        taken.took_ms = started.took_ms();
        Ok(taken)
    }
}

fn told(error: &IntakeError, before: u64) -> anyhow::Error {
    let before = counted(before, "event", "events");
    anyhow::anyhow!("{error}\n{before} of before stay; mend the file and import it again")
}

fn hash(subject: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    subject.hash(&mut hasher);
    hasher.finish()
}

/// Reads one line with its end, and of an endless one a byte more than is allowed; gives how many bytes.
fn read_until_end_of_line(
    reader: &mut BufReader<File>,
    line: &mut Vec<u8>,
) -> std::io::Result<u64> {
    line.clear();
    let most = LINE_BYTES_MAX as u64 + 2;
    let read = reader.take(most).read_until(b'\n', line)?;
    Ok(read as u64)
}

/// The event of a line; none on an empty one.
fn understand(line: &[u8], leavers: &LeaverRules) -> Result<Option<BusinessEvent>, String> {
    if line.len() > LINE_BYTES_MAX {
        return Err(format!(
            "longer than {} bytes",
            number(LINE_BYTES_MAX as u64)
        ));
    }
    if line.trim_ascii().is_empty() {
        return Ok(None);
    }
    read_line(line.trim_ascii(), leavers).map(Some)
}
