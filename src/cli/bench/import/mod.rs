//! Years of a large company taken in at once: speed, memory, and whether what holds at the end is what should.

mod population;
mod system;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use connectors::layer::Limits;
use engine::core::id::Actor;
use engine::runner::{Clock as _, Definitions, Node, NodeConfig, NodeHandle, SystemClock};
use engine::store::CaseFilter;
use serde::Serialize;
use tokio::time::Instant;
use workflows::actions::IdentityActions;
use workflows::definitions;
use workflows::directory::{DirectoryProjection, IdentityFilter, IdentityStatus};
use workflows::intake::Intake;
use workflows::policy::{LeaverRules, PolicySet, Schema};
use workflows::sources::Source;
use workflows::systems::{InitialPassword, System, Systems};

use self::population::{Population, roles};
use self::system::Accounts;
use super::fleet::rate;
use super::scratch::Scratch;
use super::{Database, Figures, Import, mib};
use crate::cli::format::{Bar, number, time};
use crate::cli::import_events::History;
use crate::cli::{Context, Exit};
use crate::shell::Database as Opened;

/// The name of the one system.
const SYSTEM: &str = "directory";
/// What the source says of people.
const SOURCE: &str = "
name: hr
kind: snapshot
format: csv
key: id
time_zone: UTC
columns: { name: name, department: department, title: title }
required: [name]
";
/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How many times as long as a look takes is waited until the next.
const LOOK_SHARE: u32 = 50;
const DRAIN_LIMIT: Duration = Duration::from_secs(60);
/// How many differences are told.
const DIFFERENCES_SHOWN: usize = 10;
/// Identities of one page of the comparison.
const PAGE: u32 = 500;

#[derive(Debug, Serialize)]
struct Report {
    store: &'static str,
    identities: u32,
    years: u32,
    seed: u64,
    /// Lines of the file, some of them twice.
    events: u64,
    file_bytes: u64,
    check_ms: f64,
    import_ms: f64,
    /// Durable events a second, the checking of the file not counted.
    events_per_s: f64,
    /// The most memory the process had while it checked and took in.
    import_peak_bytes: u64,
    cases: u64,
    cases_ms: f64,
    cases_per_s: f64,
    /// The most memory while the cases ran; the system in memory is in it.
    cases_peak_bytes: u64,
    accounts: usize,
    database_bytes: u64,
    /// The same file a second time.
    again_ms: f64,
    /// Identities and accounts that are not what they should be.
    differences: u64,
}

pub(super) async fn run(context: &Context, options: &Import) -> anyhow::Result<Exit> {
    let database = Database::meant(context.store.as_deref())?;
    let folder = std::env::temp_dir().join(format!("tenure-import-{}", std::process::id()));
    std::fs::create_dir(&folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
    let work =
        async |scratch: &Scratch| measure(context, database, options, scratch, &folder).await;
    let measured = Scratch::within(database, options.url.as_deref(), work).await;
    std::fs::remove_dir_all(&folder)
        .with_context(|| format!("cannot remove `{}`", folder.display()))?;
    let report = measured?;
    context.output.result(&report, describe)?;
    Ok(if report.differences == 0 {
        Exit::Good
    } else {
        Exit::Bad
    })
}

async fn measure(
    context: &Context,
    database: Database,
    options: &Import,
    scratch: &Scratch,
    folder: &Path,
) -> anyhow::Result<Report> {
    let quiet = context.output.json;
    let population = Population::new(options.years, options.seed, SystemClock.now());
    let file = folder.join("events.jsonl");
    let events = write(&population, options.identities, &file, quiet)?;
    let opened = scratch.prepared().await?;
    let definitions = Arc::new(Definitions::new());
    for definition in definitions::load(&[])? {
        definitions.add(definition);
    }
    let intake = Intake::new(opened.directory.clone(), Arc::clone(&definitions));
    let actor = Actor("bench".to_owned());

    forget_peak();
    let started = Instant::now();
    let history = History::check(&file, &LeaverRules::default(), quiet)?;
    let check_ms = ms(started.elapsed());
    let started = Instant::now();
    let taken = history.take_in(&intake, &actor, quiet).await?;
    let took = started.elapsed();
    let import_peak_bytes = peak_bytes()?;
    ensure!(
        taken.events == events,
        "{} of {events} events were read",
        taken.events
    );

    forget_peak();
    let accounts = Arc::new(Accounts::default());
    let started = Instant::now();
    let node = start(&opened, &accounts, definitions).await?;
    let cases = work_off(&opened, &node, taken.cases, quiet).await?;
    let cases_took = started.elapsed();
    node.drain(DRAIN_LIMIT).await?;
    let cases_peak_bytes = peak_bytes()?;

    let started = Instant::now();
    let again = history.take_in(&intake, &actor, quiet).await?;
    let again_ms = ms(started.elapsed());
    ensure!(
        again.new == 0 && again.cases == 0,
        "the same file again took {} events in and started {} cases",
        again.new,
        again.cases
    );
    let differences = compare(&opened, &population, options.identities, &accounts, quiet).await?;
    opened.close().await;
    Ok(Report {
        store: database.name(),
        identities: options.identities,
        years: options.years,
        seed: options.seed,
        events,
        file_bytes: std::fs::metadata(&file)?.len(),
        check_ms,
        import_ms: ms(took),
        events_per_s: rate(events, took),
        import_peak_bytes,
        cases,
        cases_ms: ms(cases_took),
        cases_per_s: rate(cases, cases_took),
        cases_peak_bytes,
        accounts: accounts.len(),
        database_bytes: super::limit::database_bytes(&mut scratch.beside().await?).await?,
        again_ms,
        differences,
    })
}

pub(super) fn ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1_000.0
}

/// Writes what was said about everybody, in the order in which it came; gives how many lines.
fn write(
    population: &Population,
    identities: u32,
    path: &Path,
    quiet: bool,
) -> anyhow::Result<u64> {
    let bar = Bar::new("making up people", u64::from(identities), quiet);
    let mut order = Vec::new();
    for person in 0..identities {
        let (said, _) = population.life(person);
        for (place, said) in said.iter().enumerate() {
            order.push((said.came.timestamp(), person, u16::try_from(place)?));
        }
        if person % 1_000 == 0 {
            bar.set(person.into(), identities.into());
        }
    }
    order.sort_unstable();
    bar.say("writing the file");
    let mut file = BufWriter::new(File::create(path)?);
    for (_, person, place) in &order {
        let (said, _) = population.life(*person);
        if let Some(said) = said.get(usize::from(*place)) {
            writeln!(file, "{}", said.line)?;
        }
    }
    file.into_inner()
        .map_err(std::io::IntoInnerError::into_error)?
        .sync_all()?;
    bar.end();
    Ok(order.len() as u64)
}

/// The scratch database with everything that the program keeps beside the engine's tables.
async fn start(
    opened: &Opened,
    accounts: &Arc<Accounts>,
    definitions: Arc<Definitions>,
) -> anyhow::Result<NodeHandle> {
    let source = Source::load("hr.yaml", SOURCE)?;
    let schema = Schema::new([SYSTEM]).with_source(&source.declarations());
    let policy = PolicySet::load(&[("roles.yaml".to_owned(), roles())], &schema)?;
    let limits = Limits {
        concurrency: Limits::CONCURRENCY_MAX,
        ..Limits::default()
    };
    let system = System::new(
        SYSTEM,
        "memory",
        Arc::clone(accounts) as Arc<_>,
        limits,
        None,
        InitialPassword::None,
    );
    let actions = IdentityActions::new(
        opened.directory.clone(),
        Arc::new(Systems::new([system])),
        Arc::new(policy),
        Arc::new(SystemClock),
    );
    let config = NodeConfig {
        name: "bench".to_owned(),
        ..NodeConfig::default()
    };
    Node::start(
        config,
        Arc::clone(&opened.store),
        Arc::new(actions),
        Arc::new(DirectoryProjection),
        definitions,
        Arc::new(SystemClock),
    )
    .await
    .context("cannot start a node on the scratch database")
}

/// Waits until every case is over; gives how many there were.
async fn work_off(
    opened: &Opened,
    node: &NodeHandle,
    expected: u64,
    quiet: bool,
) -> anyhow::Result<u64> {
    let bar = Bar::new("working off", expected, quiet);
    let open = CaseFilter {
        open_only: true,
        ..CaseFilter::default()
    };
    loop {
        let looked = Instant::now();
        let counts = opened.store.counts().await?;
        // Counting walks over all that is open: it may not be what is measured.
        let pause = LOOK.max(looked.elapsed() * LOOK_SHARE);
        let closed: u64 = counts
            .iter()
            .filter(|(_, state, _)| state.is_closed())
            .map(|(.., count)| count)
            .sum();
        bar.set(closed, expected);
        if closed >= expected {
            ensure!(node.idle().await, "the node ended in the middle of the run");
            if opened.store.list(&open, None, 1).await?.is_empty() {
                bar.end();
                let by_state: BTreeMap<_, u64> = counts
                    .iter()
                    .map(|(_, state, count)| (state.as_str(), *count))
                    .collect();
                tracing::debug!(?by_state, "all cases are over");
                return Ok(closed);
            }
        }
        tokio::time::sleep(pause).await;
    }
}

/// Compares what is known and held with how people lived; tells the first differences.
async fn compare(
    opened: &Opened,
    population: &Population,
    identities: u32,
    accounts: &Accounts,
    quiet: bool,
) -> anyhow::Result<u64> {
    let bar = Bar::new("comparing", identities.into(), quiet);
    let mut differences = Vec::new();
    let mut next = 0_u32;
    let mut after: Option<String> = None;
    loop {
        let filter = IdentityFilter::default();
        let page = opened
            .directory
            .identities(&filter, after.as_deref(), PAGE)
            .await?;
        let Some(last) = page.last() else { break };
        after = Some(last.identity_key.clone());
        for row in page {
            let key = Population::key(next);
            ensure!(
                row.identity_key == key,
                "`{key}` should be next, and `{}` is",
                row.identity_key
            );
            let (_, truth) = population.life(next);
            next += 1;
            let is_active = row.status == IdentityStatus::Active;
            let department = row
                .attributes
                .get("department")
                .and_then(|text| text.as_str());
            if is_active != truth.is_here || (truth.is_here && department != Some(truth.department))
            {
                differences.push(format!("{key}: {:?} {department:?}, {truth:?}", row.status));
            }
            let mut wanted = None;
            if truth.is_here && !truth.is_away {
                let mut groups = vec![truth.department.to_lowercase(), "staff".to_owned()];
                groups.sort_unstable();
                wanted = Some(groups);
            }
            let held = accounts.open(&key);
            if held != wanted {
                differences.push(format!("{key}: holds {held:?}, not {wanted:?}"));
            }
        }
        bar.set(next.into(), identities.into());
    }
    bar.end();
    ensure!(
        next == identities,
        "{next} of {identities} people are known"
    );
    for difference in differences.iter().take(DIFFERENCES_SHOWN) {
        tracing::error!(difference, "not as it should be");
    }
    Ok(differences.len() as u64)
}

/// From here on the most memory is counted anew.
pub(super) fn forget_peak() {
    // Where this is not allowed, the peak of before counts too.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

pub(super) fn peak_bytes() -> anyhow::Result<u64> {
    super::growth::status_bytes("VmHWM:")
}

fn describe(report: &Report) -> String {
    let mut figures = Figures::new();
    figures.row(
        "the file checked",
        time::length_ms(report.check_ms),
        format!(
            "{} lines, {}",
            number(report.events),
            mib(report.file_bytes)
        ),
    );
    figures.row(
        "events a second",
        format!("{:.0}", report.events_per_s),
        format!("taken in within {}", time::length_ms(report.import_ms)),
    );
    figures.row(
        "memory",
        mib(report.import_peak_bytes),
        "at most, while it was taken in".to_owned(),
    );
    figures.row(
        "cases a second",
        format!("{:.0}", report.cases_per_s),
        format!(
            "{} cases within {}",
            number(report.cases),
            time::length_ms(report.cases_ms)
        ),
    );
    figures.row(
        "memory",
        mib(report.cases_peak_bytes),
        format!(
            "at most meanwhile, with {} accounts of the system",
            number(report.accounts as u64)
        ),
    );
    figures.row(
        "the file again",
        time::length_ms(report.again_ms),
        "nothing new".to_owned(),
    );
    figures.row("database", mib(report.database_bytes), String::new());
    figures.row(
        "differences",
        number(report.differences),
        "between what holds and how people lived".to_owned(),
    );
    format!(
        "{}: {} people, {} years\n{figures}",
        report.store,
        number(report.identities.into()),
        report.years
    )
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "tests"
    )]
    use super::*;

    #[test]
    fn people_are_the_same_every_time_and_live_many_lives() {
        let population = Population::new(3, 1, "2026-01-01T12:00:00Z".parse().unwrap());
        let (mut events, mut here, mut away) = (0, 0, 0);
        for person in 0..2_000 {
            let (said, truth) = population.life(person);
            let (again, same) = population.life(person);
            assert_eq!(truth, same);
            let lines = |said: &[population::Said]| -> Vec<String> {
                said.iter().map(|said| said.line.clone()).collect()
            };
            assert_eq!(lines(&said), lines(&again));
            events += said.len();
            here += u32::from(truth.is_here);
            away += u32::from(truth.is_here && truth.is_away);
        }
        assert!((8_000..14_000).contains(&events), "{events}");
        assert!((1_000..1_900).contains(&here), "{here}");
        assert!(away > 5, "{away}");
    }
}
