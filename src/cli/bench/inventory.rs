//! A large inventory of non-human identities: how long it takes to declare it, to find what expires, to hold it against policy,
//! and to say what hangs on somebody.

use std::collections::BTreeMap;

use anyhow::ensure;
use chrono::{DateTime, TimeDelta, Utc};
use connectors::connector::CredentialKind;
use engine::core::id::Actor;
use engine::runner::{Clock as _, Definitions, SystemClock};
use serde::Serialize;
use serde_json::json;
use std::sync::Arc;
use tokio::time::Instant;
use workflows::definitions;
use workflows::directory::Directory;
use workflows::intake::Intake;
use workflows::nhi::check::{Intent, Question, Rules, check};
use workflows::nhi::declare::{Declared, DeclaredCredential, NhiKind, ReplaceMode};
use workflows::nhi::graph::Node;
use workflows::policy::{PolicySet, Schema};
use workflows::sources::{BusinessEvent, EventType, Key};
use workflows::takeover::shortfalls;

use super::import::{forget_peak, ms, peak_bytes};
use super::scratch::Scratch;
use super::{Database, Figures, Inventory, mib};
use crate::cli::format::{Bar, number, time};
use crate::cli::{Context, Exit};

/// Credentials of one identity.
const EACH: u32 = 10;
/// People who own them, each as many as the others.
const OWNERS: u32 = 200;
/// Identities of one declaration.
const TOGETHER: u32 = 1_000;
/// How often each question is asked.
const ASKED: usize = 20;
/// The most that a listing of what expires gives.
const LISTED_MAX: u32 = 100_000;
const POLICY: &str = "
credentials:
  - { name: age, kinds: [password], age_max: 90d }
  - { name: ends, expiry: [30d, 7d, 1d] }
roles: [{ name: all, when: 'true' }]
";

#[derive(Debug, Serialize)]
struct Report {
    store: &'static str,
    credentials: u32,
    identities: u32,
    declare_ms: f64,
    credentials_per_s: f64,
    /// Credentials that expire within 30 days, and how long finding them took, at the median.
    expiring: usize,
    expiring_ms: f64,
    /// What hangs on one owner who leaves, and how long saying so took, at the median.
    hangs: usize,
    leaver_ms: f64,
    /// Every credential held against a policy of two rules.
    shortfalls: usize,
    shortfalls_ms: f64,
    /// The most memory while that was done, and before it.
    shortfalls_peak_bytes: u64,
    peak_bytes: u64,
    database_bytes: u64,
}

pub(super) async fn run(context: &Context, options: &Inventory) -> anyhow::Result<Exit> {
    let database = Database::meant(context.store.as_deref())?;
    let work = async |scratch: &Scratch| measure(context, database, options, scratch).await;
    let report = Scratch::within(database, options.url.as_deref(), work).await?;
    context.output.result(&report, describe)?;
    Ok(Exit::Good)
}

async fn measure(
    context: &Context,
    database: Database,
    options: &Inventory,
    scratch: &Scratch,
) -> anyhow::Result<Report> {
    let opened = scratch.prepared().await?;
    let directory = &opened.directory;
    let now = SystemClock.now();
    introduce(directory, now).await?;

    let identities = options.credentials.div_ceil(EACH);
    let bar = Bar::new("declaring", identities.into(), context.output.json);
    let by = Actor("bench".to_owned());
    let started = Instant::now();
    let mut next = 0;
    while next < identities {
        let until = (next + TOGETHER).min(identities);
        let declared: Vec<Declared> = (next..until).map(|number| identity(number, now)).collect();
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
    let declared = started.elapsed();

    let mut expiring = 0;
    let before = now + TimeDelta::days(30);
    let expiring_ms = median(async || {
        let found = directory
            .nhi_credentials_expiring(before, LISTED_MAX)
            .await?;
        expiring = found.len();
        Ok(())
    })
    .await?;
    let mut hangs = 0;
    let leaver_ms = median(async || {
        let question = Question {
            subject: Node::person(owner(0)),
            intent: Intent::Leave,
            hostile: false,
        };
        let found = directory
            .dependencies(question, &BTreeMap::new(), Rules::default(), now)
            .await?;
        let snapshot =
            found.map_err(|known| anyhow::anyhow!("{known} things hang on one owner"))?;
        hangs = check(&snapshot).findings.len();
        Ok(())
    })
    .await?;
    let policy = PolicySet::load(
        &[("p.yaml".to_owned(), POLICY.to_owned())],
        &Schema::new([""; 0]),
    )?;
    let before_bytes = peak_bytes()?;
    forget_peak();
    let started = Instant::now();
    let found = shortfalls(directory, policy.credentials(), now)
        .await?
        .len();
    let shortfalls_ms = ms(started.elapsed());
    let report = Report {
        store: database.name(),
        credentials: identities * EACH,
        identities,
        declare_ms: ms(declared),
        credentials_per_s: f64::from(identities * EACH) / declared.as_secs_f64(),
        expiring,
        expiring_ms,
        hangs,
        leaver_ms,
        shortfalls: found,
        shortfalls_ms,
        shortfalls_peak_bytes: peak_bytes()?,
        peak_bytes: before_bytes.max(peak_bytes()?),
        database_bytes: super::limit::database_bytes(&mut scratch.beside().await?).await?,
    };
    opened.close().await;
    Ok(report)
}

pub(super) fn owner(number: u32) -> String {
    format!("P{:04}", number % OWNERS)
}

/// The people who own things.
pub(super) async fn introduce(directory: &Directory, now: DateTime<Utc>) -> anyhow::Result<()> {
    let definitions = Arc::new(Definitions::new());
    for definition in definitions::load(&[])? {
        definitions.add(definition);
    }
    let intake = Intake::new(directory.clone(), definitions);
    for number in 0..OWNERS {
        let key = owner(number);
        let event = BusinessEvent {
            id: format!("hire-{key}"),
            source: "bench".to_owned(),
            event_type: EventType::Hire,
            subject: Key::new(&key),
            occurred_at: now,
            effective_at: now,
            zone: "UTC".to_owned(),
            version: 1,
            supersedes: None,
            data: json!({ "attributes": { "name": key } }),
        };
        intake
            .event(&event, &Actor("bench".to_owned()), now)
            .await?;
    }
    Ok(())
}

/// One identity; its credentials end over the next two years, evenly.
fn identity(number: u32, now: DateTime<Utc>) -> Declared {
    let credentials = (0..EACH).map(|place| {
        let kinds = [
            CredentialKind::Password,
            CredentialKind::Certificate,
            CredentialKind::SshKey,
            CredentialKind::ApiKey,
        ];
        let kind = kinds
            .get((place % 4) as usize)
            .copied()
            .unwrap_or(CredentialKind::Token);
        let spread = i64::from((number * EACH + place).wrapping_mul(2_654_435_761) % 730);
        DeclaredCredential {
            issued: Some(now - TimeDelta::days(spread % 180)),
            expires: Some(now + TimeDelta::days(1 + spread)),
            replaced_by: Some(ReplaceMode::TwoSlot),
            used_by: [format!("job-{}", number % 5_000)].into(),
            known_by: [owner(number)].into(),
            ..DeclaredCredential::new("vault", format!("{}:{number}-{place}", kind.as_str()), kind)
        }
    });
    Declared {
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
    }
}

/// The median of several times, in milliseconds.
pub(super) async fn median(
    mut ask: impl AsyncFnMut() -> anyhow::Result<()>,
) -> anyhow::Result<f64> {
    let mut times = Vec::with_capacity(ASKED);
    for _ in 0..ASKED {
        let started = Instant::now();
        ask().await?;
        times.push(ms(started.elapsed()));
    }
    times.sort_by(f64::total_cmp);
    Ok(times.get(ASKED / 2).copied().unwrap_or_default())
}

fn describe(report: &Report) -> String {
    let mut figures = Figures::new();
    figures.row(
        "declared a second",
        format!("{:.0}", report.credentials_per_s),
        format!(
            "{} credentials of {} identities within {}",
            number(report.credentials.into()),
            number(report.identities.into()),
            time::length_ms(report.declare_ms)
        ),
    );
    figures.row(
        "what expires in 30 days",
        time::length_ms(report.expiring_ms),
        format!("{} of them", number(report.expiring as u64)),
    );
    figures.row(
        "what hangs on one leaver",
        time::length_ms(report.leaver_ms),
        format!("{} things", number(report.hangs as u64)),
    );
    figures.row(
        "all against policy",
        time::length_ms(report.shortfalls_ms),
        format!(
            "{} fall short; {} at most",
            number(report.shortfalls as u64),
            mib(report.shortfalls_peak_bytes)
        ),
    );
    figures.row("memory", mib(report.peak_bytes), "at most".to_owned());
    figures.row("database", mib(report.database_bytes), String::new());
    figures.to_string()
}
