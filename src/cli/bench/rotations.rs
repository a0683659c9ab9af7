//! Rotations of a large inventory: how long planning all of them takes and in how much memory, how fast what comes next is
//! found, and whether many that are due at once begin without a burst.

use anyhow::{Context as _, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use connectors::connector::CredentialKind;
use engine::core::id::Actor;
use engine::runner::{Clock as _, SystemClock};
use serde::Serialize;
use serde_json::json;
use sqlx::{Connection as _, Row as _};
use tokio::time::Instant;
use workflows::directory::{Directory, RotationRow};
use workflows::nhi::declare::{Declared, DeclaredCredential, NhiKind, ReplaceMode};
use workflows::rotation::Rotation;
use workflows::rotation::window::Open;

use super::import::{forget_peak, ms, peak_bytes};
use super::inventory::{introduce, median, owner};
use super::limit::per_second;
use super::scratch::{Beside, Scratch};
use super::{Database, Figures, Rotations, mib};
use crate::cli::format::{Bar, Listing, Tone, number, time};
use crate::cli::{Context, Exit};
use crate::shell::rotations::upcoming;

/// Credentials of one identity.
const EACH: u32 = 10;
/// Identities of one declaration.
const TOGETHER: u32 = 1_000;
/// The most that a listing of what expires gives.
const LISTED_MAX: u32 = 100_000;
/// Rows of one bare read and write; as many as the planner takes at once.
const BATCH: i64 = 500;
/// How far ahead is asked.
const AHEAD: TimeDelta = TimeDelta::days(30);
const MINUTES: usize = 240;
/// Minutes of one bar of the picture, and the widest.
const BAR_MINUTES: usize = 10;
const BAR_CHARS: usize = 50;

/// Beginnings in each minute of the window.
#[derive(Debug, Serialize)]
struct Spread {
    minutes: Vec<u32>,
    most: u32,
    mean: f64,
    most_to_mean: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    store: &'static str,
    credentials: u32,
    declare_ms: f64,
    plan_ms: f64,
    planned_per_s: f64,
    /// The most memory while they were planned, and just before.
    plan_peak_bytes: u64,
    before_bytes: u64,
    /// Bare reads and writes of the same rows, as many in a transaction.
    limit_per_s: f64,
    ratio: f64,
    /// Credentials that expire within 30 days, and how long finding them took, at the median.
    expiring: usize,
    expiring_ms: f64,
    /// Rotations that begin within 30 days, all read.
    upcoming: usize,
    upcoming_ms: f64,
    together: u32,
    window: Open,
    planned: Spread,
    begun: Spread,
    begin_ms: f64,
    database_bytes: u64,
}

pub(super) async fn run(context: &Context, options: &Rotations) -> anyhow::Result<Exit> {
    ensure!(
        options.together < options.credentials,
        "`--together` is no less than `--credentials`; it says how many of them are due in one window"
    );
    let database = Database::meant(context.store.as_deref())?;
    let work = async |scratch: &Scratch| measure(context, database, options, scratch).await;
    let report = Scratch::within(database, options.url.as_deref(), work).await?;
    context.output.result(&report, describe)?;
    Ok(Exit::Good)
}

async fn measure(
    context: &Context,
    database: Database,
    options: &Rotations,
    scratch: &Scratch,
) -> anyhow::Result<Report> {
    let opened = scratch.prepared().await?;
    let directory = &opened.directory;
    let now = SystemClock.now();
    introduce(directory, now).await?;
    let started = Instant::now();
    let credentials = declare(context, directory, options, now).await?;
    let declare_ms = ms(started.elapsed());

    let before_bytes = super::growth::status_bytes("VmRSS:")?;
    forget_peak();
    let started = Instant::now();
    let mut planned = 0;
    loop {
        match directory.plan_rotations(now).await? {
            0 => break,
            some => planned += some,
        }
    }
    let plan = started.elapsed();
    let plan_peak_bytes = peak_bytes()?;
    ensure!(
        planned == usize::try_from(credentials)?,
        "{planned} of {credentials} were planned"
    );

    let mut expiring = 0;
    let expiring_ms = median(async || {
        let found = directory
            .nhi_credentials_expiring(now + AHEAD, LISTED_MAX)
            .await?;
        expiring = found.len();
        Ok(())
    })
    .await?;
    let started = Instant::now();
    let upcoming = upcoming(directory, now + AHEAD).await?;
    let upcoming_ms = ms(started.elapsed());
    let fleet: Vec<&RotationRow> = upcoming
        .iter()
        .filter(|row| row.declared.window.is_some())
        .collect();
    ensure!(
        fleet.len() == usize::try_from(options.together)?,
        "{} of {} begin in the window",
        fleet.len(),
        options.together
    );
    let window = window_of(&fleet)?;
    let times = fleet.iter().filter_map(|row| row.starts_at);
    let planned = spread(times, window);

    let started = Instant::now();
    let begun = begin(directory, window).await?;
    let begin_ms = ms(started.elapsed());

    let limit_per_s = bare(scratch).await?;
    let planned_per_s = per_second_in(credentials, plan);
    let report = Report {
        store: database.name(),
        credentials,
        declare_ms,
        plan_ms: ms(plan),
        planned_per_s,
        plan_peak_bytes,
        before_bytes,
        limit_per_s,
        ratio: planned_per_s / limit_per_s,
        expiring,
        expiring_ms,
        upcoming: upcoming.len(),
        upcoming_ms,
        together: options.together,
        window,
        planned,
        begun,
        begin_ms,
        database_bytes: super::limit::database_bytes(&mut scratch.beside().await?).await?,
    };
    opened.close().await;
    Ok(report)
}

fn per_second_in(count: u32, took: std::time::Duration) -> f64 {
    f64::from(count) / took.as_secs_f64().max(1e-9)
}

// --- what is declared --------------------------------------------------------------------------------------

/// Declares all; gives how many.
async fn declare(
    context: &Context,
    directory: &Directory,
    options: &Rotations,
    now: DateTime<Utc>,
) -> anyhow::Result<u32> {
    let identities = options.credentials.div_ceil(EACH);
    let bar = Bar::new("declaring", identities.into(), context.output.json);
    let by = Actor("bench".to_owned());
    let (mut next, mut left) = (0, options.credentials);
    while next < identities {
        let until = (next + TOGETHER).min(identities);
        let mut declared = Vec::new();
        for number in next..until {
            let each = left.min(EACH);
            left -= each;
            declared.push(identity(number, each, options.together, now)?);
        }
        let report = directory.declare(&declared, &by, "bench", now).await?;
        ensure!(
            report.refused.is_empty(),
            "refused: {:?}",
            report.refused.first()
        );
        next = until;
        bar.set(next.into(), identities.into());
    }
    bar.end();
    Ok(options.credentials)
}

/// One identity with `each` credentials. The first `together` of all are due at one moment and have a window; the others are
/// due later than that window, whenever it is, at times of their own.
fn identity(number: u32, each: u32, together: u32, now: DateTime<Utc>) -> anyhow::Result<Declared> {
    let place = json!({ "system": "secrets", "bundle": format!("svc-{number:06}") });
    let windowed: Rotation = serde_json::from_value(json!({
        "place": place, "users": ["svc"], "every": "30d",
        "window": { "cron": "0 2 * * SAT", "length": "4h", "zone": "UTC" },
        "overlap": { "reload": "5m" },
    }))?;
    let other: Rotation = serde_json::from_value(json!({
        "place": place, "users": ["svc"], "every": "60d", "before_expiry": "1d", "jitter": "12h",
        "overlap": { "reload": "5m", "derived": "1h" }, "soak": "7d",
    }))?;
    let credentials = (0..each).map(|one| {
        let count = number * EACH + one;
        let drawn = i64::from(count.wrapping_mul(2_654_435_761) % 720);
        let common = DeclaredCredential {
            replaced_by: Some(ReplaceMode::TwoSlot),
            used_by: [format!("job-{}", number % 5_000)].into(),
            known_by: [owner(number)].into(),
            ..DeclaredCredential::new(
                "vault",
                format!("api_key:{number}-{one}"),
                CredentialKind::ApiKey,
            )
        };
        if count < together {
            DeclaredCredential {
                issued: Some(now - TimeDelta::days(29)),
                rotation: Some(windowed.clone()),
                ..common
            }
        } else {
            DeclaredCredential {
                issued: Some(now - TimeDelta::days(drawn % 40)),
                expires: Some(now + TimeDelta::days(11 + drawn)),
                rotation: Some(other.clone()),
                ..common
            }
        }
    });
    Ok(Declared {
        key: format!("svc-{number:06}"),
        kind: NhiKind::ServiceAccount,
        environment: "production".to_owned(),
        purpose: "measured".to_owned(),
        team: format!("team-{}", number % 100),
        owner: owner(number),
        backup: owner(number + 1),
        sponsor: None,
        review: (now + TimeDelta::days(180)).date_naive(),
        critical: false,
        break_glass: false,
        idle_max: None,
        yearly: false,
        used_by: [format!("job-{}", number % 5_000)].into(),
        minted_by: None,
        accounts: Vec::new(),
        credentials: credentials.collect(),
    })
}

// --- what is measured --------------------------------------------------------------------------------------

fn window_of(fleet: &[&RotationRow]) -> anyhow::Result<Open> {
    let first = fleet.iter().filter_map(|row| row.starts_at).min();
    let window = fleet.first().and_then(|row| row.declared.window.as_ref());
    let open = first
        .zip(window)
        .and_then(|(at, window)| window.at_or_after(at));
    open.context("nothing begins in a window")
}

/// How many begin in each minute.
fn spread(times: impl Iterator<Item = DateTime<Utc>>, window: Open) -> Spread {
    let mut minutes = vec![0_u32; MINUTES];
    for at in times {
        let minute = usize::try_from((at - window.from).num_minutes()).unwrap_or(MINUTES);
        if let Some(count) = minutes.get_mut(minute) {
            *count += 1;
        }
    }
    Spread::of(minutes)
}

impl Spread {
    fn of(minutes: Vec<u32>) -> Self {
        let most = minutes.iter().max().copied().unwrap_or(0);
        let length = u32::try_from(minutes.len()).unwrap_or(1).max(1);
        let mean = f64::from(minutes.iter().sum::<u32>()) / f64::from(length);
        Self {
            most,
            mean,
            most_to_mean: f64::from(most) / mean.max(1e-9),
            minutes,
        }
    }
}

/// Goes through the minutes of the window, and begins what a node would begin at the end of each.
async fn begin(directory: &Directory, window: Open) -> anyhow::Result<Spread> {
    let mut minutes = Vec::with_capacity(MINUTES);
    for minute in (1..).take(MINUTES) {
        let at = window.from + TimeDelta::minutes(minute);
        let begun = directory.start_rotations(at).await?;
        minutes.push(u32::try_from(begun.cases.len())?);
    }
    Ok(Spread::of(minutes))
}

const READ_POSTGRES: &str = "
SELECT r.* FROM rotation AS r WHERE (shard_id, name) > ($1, $2) ORDER BY shard_id, name LIMIT $3";
const WRITE_POSTGRES: &str = "
UPDATE rotation AS r SET planned = NOT planned FROM unnest($1::int[], $2::text[]) AS w(shard_id, name)
 WHERE r.shard_id = w.shard_id AND r.name = w.name";
const READ_SQLITE: &str = "
SELECT r.* FROM rotation AS r WHERE (shard_id, name) > (?1, ?2) ORDER BY shard_id, name LIMIT ?3";
const WRITE_SQLITE: &str = "
UPDATE rotation AS r SET planned = NOT planned FROM json_each(?1) AS w
 WHERE r.shard_id = w.value ->> 0 AND r.name = w.value ->> 1";

/// Reads every row and changes it, as many in a transaction as the planner, and nothing else; gives rows a second.
async fn bare(scratch: &Scratch) -> anyhow::Result<f64> {
    let mut beside = scratch.beside().await?;
    let started = Instant::now();
    let (mut rows, mut after) = (0, (-1_i32, String::new()));
    loop {
        let keys: Vec<(i32, String)> = match &mut beside {
            Beside::Postgres(connection) => {
                let mut transaction = connection.begin().await?;
                let read = sqlx::query(READ_POSTGRES)
                    .bind(after.0)
                    .bind(&after.1)
                    .bind(BATCH)
                    .fetch_all(&mut *transaction)
                    .await?;
                let keys = read.iter().map(|row| {
                    Ok::<(i32, String), sqlx::Error>((
                        row.try_get("shard_id")?,
                        row.try_get("name")?,
                    ))
                });
                let keys: Vec<(i32, String)> = keys.collect::<Result<_, _>>()?;
                let (shards, names): (Vec<i32>, Vec<String>) = keys.iter().cloned().unzip();
                sqlx::query(WRITE_POSTGRES)
                    .bind(shards)
                    .bind(names)
                    .execute(&mut *transaction)
                    .await?;
                transaction.commit().await?;
                keys
            }
            Beside::Sqlite(connection) => {
                let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
                let read = sqlx::query(READ_SQLITE)
                    .bind(after.0)
                    .bind(&after.1)
                    .bind(BATCH)
                    .fetch_all(&mut *transaction)
                    .await?;
                let keys = read.iter().map(|row| {
                    Ok::<(i32, String), sqlx::Error>((
                        row.try_get("shard_id")?,
                        row.try_get("name")?,
                    ))
                });
                let keys: Vec<(i32, String)> = keys.collect::<Result<_, _>>()?;
                sqlx::query(WRITE_SQLITE)
                    .bind(serde_json::to_string(&keys)?)
                    .execute(&mut *transaction)
                    .await?;
                transaction.commit().await?;
                keys
            }
        };
        rows += keys.len() as u64;
        match keys.into_iter().next_back() {
            Some(last) => after = last,
            None => return Ok(per_second(rows, started)),
        }
    }
}

// --- told --------------------------------------------------------------------------------------------------

fn describe(report: &Report) -> String {
    let mut figures = Figures::new();
    figures.row(
        "planned a second",
        format!("{:.0}", report.planned_per_s),
        format!(
            "{} within {}",
            number(report.credentials.into()),
            time::length_ms(report.plan_ms)
        ),
    );
    figures.row(
        "bare reads and writes",
        format!("{:.0}", report.limit_per_s),
        format!("a second; the planner has {:.2} of it", report.ratio),
    );
    figures.row(
        "memory",
        mib(report.plan_peak_bytes),
        format!(
            "at most while planning; {} before",
            mib(report.before_bytes)
        ),
    );
    figures.row(
        "what expires in 30 days",
        time::length_ms(report.expiring_ms),
        format!("{} of them", number(report.expiring as u64)),
    );
    figures.row(
        "what begins in 30 days",
        time::length_ms(report.upcoming_ms),
        format!("{} of them, all read", number(report.upcoming as u64)),
    );
    for (what, spread) in [
        ("planned in a minute", &report.planned),
        ("begun in a minute", &report.begun),
    ] {
        figures.row(
            what,
            spread.most.to_string(),
            format!(
                "at most, {:.2} times the mean of {:.1}",
                spread.most_to_mean, spread.mean
            ),
        );
    }
    figures.row("database", mib(report.database_bytes), String::new());
    format!("{figures}\n{}", histogram(report))
}

fn histogram(report: &Report) -> String {
    let bars: Vec<u32> = report
        .planned
        .minutes
        .chunks(BAR_MINUTES)
        .map(|part| part.iter().sum())
        .collect();
    let most = bars.iter().max().copied().unwrap_or(0).max(1);
    let mut listing = Listing::new(&["FROM", "BEGIN", ""]).right(&[1]);
    for (part, count) in (0_usize..).zip(&bars) {
        let minutes = i64::try_from(part * BAR_MINUTES).unwrap_or(0);
        let from = report.window.from + TimeDelta::minutes(minutes);
        let width = u64::from(*count) * (BAR_CHARS as u64) / u64::from(most);
        listing.row([
            (from.format("%Y-%m-%d %H:%M").to_string(), Tone::Dim),
            (count.to_string(), Tone::Strong),
            ("#".repeat(usize::try_from(width).unwrap_or(0)), Tone::Busy),
        ]);
    }
    listing.to_string()
}
