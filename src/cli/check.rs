//! `tenure check`: is the configuration good, and are the systems there.

use std::fmt::Write as _;
use std::time::Duration;

use connectors::connector::{Connector as _, Finding};
use engine::core::schedule::{Schedule, Spec};
use serde::Serialize;
use tokio::task::JoinSet;
use workflows::config::Configuration;
use workflows::directory::{SystemState, SystemStateRow};
use workflows::policy::{Problem, Problems};
use workflows::systems::System;

use super::case::held_line;
use super::format::{Bar, Listing, Tone, counted, paint, plain};
use super::{Context, Exit};
use crate::api::events::door::Doors;
use crate::shell::schedules::FireView;
use crate::shell::{database, notices, now, pulls, queries};

/// How long one system may take for its check.
const CHECK_LIMIT: Duration = Duration::from_secs(30);

/// Check the configuration, then each system: reach, login, rights
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
The configuration first: everything that is wrong with it, each with file, line and what to do. Then the store, and
every system: whether it can be reached, whether the login works, what the account of Tenure may do there. Nothing is
changed anywhere. Exit code 1 when anything is not good.

Examples:
  tenure check
  tenure check --offline        only the files, as in a pipeline; says when schedules fire next
  tenure check --system crm
  tenure check --json | jq '.systems[] | select(.good | not)'")]
pub struct Check {
    /// Only the configuration; contact nobody
    #[arg(long)]
    offline: bool,
    /// Only this system; may be given more than once
    #[arg(long = "system", value_name = "NAME")]
    systems: Vec<String>,
}

#[derive(Serialize)]
struct Report {
    good: bool,
    configuration: ConfigurationReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<StoreReport>,
    systems: Vec<SystemReport>,
}

#[derive(Serialize)]
struct ConfigurationReport {
    folder: String,
    problems: Vec<Problem>,
    /// There were more than are told.
    more: bool,
    warnings: Vec<Problem>,
    sources: Vec<String>,
    systems: Vec<String>,
    workflows: Vec<String>,
    schedules: Vec<ScheduleReport>,
    roles: usize,
    policy: Option<String>,
}

#[derive(Serialize)]
struct ScheduleReport {
    name: String,
    workflow: String,
    cron: String,
    zone: String,
    paused: bool,
    /// When it would fire next, were it there now.
    next: Option<FireView>,
}

#[derive(Serialize)]
struct StoreReport {
    address: String,
    good: bool,
    detail: String,
    node_running: bool,
}

#[derive(Serialize)]
struct SystemReport {
    system: String,
    kind: String,
    good: bool,
    findings: Vec<Finding>,
    /// What a leaver's access needs and this system cannot do.
    gaps: Vec<String>,
    /// The breaker, as a running node sees it.
    held: Option<SystemStateRow>,
}

/// Checks.
///
/// # Errors
/// When the answer cannot be written.
pub async fn run(context: &Context, check: Check) -> anyhow::Result<Exit> {
    let folder = context.config.display().to_string();
    let loaded = if context.config.is_dir() {
        Configuration::load(&context.config)
    } else {
        let fix = "`tenure init` writes one, or name another with `--config`";
        Err(Problem::new(&folder, None, "there is no such folder", fix).into())
    };
    let report = match loaded {
        Err(problems) => Report {
            good: false,
            configuration: broken(folder, problems),
            store: None,
            systems: Vec::new(),
        },
        Ok(configuration) => {
            let described = described(folder, &configuration, &check);
            if check.offline || !described.problems.is_empty() {
                Report {
                    good: described.problems.is_empty(),
                    configuration: described,
                    store: None,
                    systems: Vec::new(),
                }
            } else {
                contact(context, &check, &configuration, described).await
            }
        }
    };
    let good = report.good;
    context.output.result(&report, describe)?;
    Ok(if good { Exit::Good } else { Exit::Bad })
}

fn broken(folder: String, problems: Problems) -> ConfigurationReport {
    ConfigurationReport {
        folder,
        problems: problems.list,
        more: problems.more,
        warnings: Vec::new(),
        sources: Vec::new(),
        systems: Vec::new(),
        workflows: Vec::new(),
        schedules: Vec::new(),
        roles: 0,
        policy: None,
    }
}

fn described(folder: String, configuration: &Configuration, check: &Check) -> ConfigurationReport {
    let mut problems = Problems::default();
    for name in &check.systems {
        if configuration.systems.get(name).is_none() {
            let known = configuration.systems.iter().map(|system| system.name());
            let fix = workflows::policy::problem::suggest(name, "systems", known);
            problems.push(Problem::new(
                &folder,
                None,
                format!("there is no system `{name}`"),
                fix,
            ));
        }
    }
    let doors = Doors::open(&configuration.sources).map(|_| ());
    let sent = notices::check(configuration);
    let asked = queries::check(&configuration.sources);
    let pulled = pulls::check(&configuration.sources);
    for error in [doors, asked, pulled, sent] {
        if let Err(error) = error {
            let fix = "put it there, or take the place out of the file that names it";
            problems.push(Problem::new(&folder, None, format!("{error:#}"), fix));
        }
    }
    ConfigurationReport {
        folder,
        problems: problems.list,
        more: false,
        warnings: configuration.warnings.clone(),
        sources: configuration.sources.keys().cloned().collect(),
        systems: configuration
            .systems
            .iter()
            .map(|system| system.name().to_owned())
            .collect(),
        workflows: configuration
            .definitions
            .iter()
            .map(|definition| definition.name.clone())
            .collect(),
        schedules: configuration
            .schedules
            .values()
            .filter_map(schedule)
            .collect(),
        roles: configuration.policy.roles().count(),
        policy: Some(configuration.policy.hash().to_owned()),
    }
}

/// The configuration holds checked ones only, so there is one for each.
fn schedule(spec: &Spec) -> Option<ScheduleReport> {
    let schedule = Schedule::new(spec.clone()).ok()?;
    let next = schedule.next(now()).filter(|_| !spec.paused);
    Some(ScheduleReport {
        name: spec.name.clone(),
        workflow: spec.workflow.clone(),
        cron: spec.cron.clone(),
        zone: spec.zone.clone(),
        paused: spec.paused,
        next: next.map(|fire| FireView::of(&schedule, fire)),
    })
}

async fn contact(
    context: &Context,
    check: &Check,
    configuration: &Configuration,
    described: ConfigurationReport,
) -> Report {
    let (store, states) = store(context).await;
    let chosen: Vec<_> = configuration
        .systems
        .iter()
        .filter(|system| {
            check.systems.is_empty() || check.systems.iter().any(|name| name == system.name())
        })
        .map(std::sync::Arc::clone)
        .collect();
    let bar = Bar::new(
        "systems",
        u64::try_from(chosen.len()).unwrap_or(0),
        context.output.json,
    );
    let mut asked = JoinSet::new();
    for system in chosen.iter().map(std::sync::Arc::clone) {
        let held = states
            .iter()
            .find(|row| row.system == system.name() && row.state == SystemState::Held)
            .cloned();
        asked.spawn(async move { ask(&system, held).await });
    }
    let mut systems: Vec<SystemReport> = Vec::new();
    while let Some(answered) = asked.join_next().await {
        systems.extend(answered.ok());
        bar.set(
            u64::try_from(systems.len()).unwrap_or(0),
            u64::try_from(chosen.len()).unwrap_or(0),
        );
    }
    bar.end();
    systems.sort_by(|left, right| left.system.cmp(&right.system));
    let good =
        store.good && systems.len() == chosen.len() && systems.iter().all(|system| system.good);
    Report {
        good,
        configuration: described,
        store: Some(store),
        systems,
    }
}

async fn store(context: &Context) -> (StoreReport, Vec<SystemStateRow>) {
    let address = match context.address() {
        Ok(address) => address,
        Err(error) => {
            let report = StoreReport {
                address: String::new(),
                good: false,
                detail: error.to_string(),
                node_running: false,
            };
            return (report, Vec::new());
        }
    };
    let shown = database::shown(&address);
    if let workflows::config::StoreAddress::Sqlite(path) = &address
        && !path.exists()
    {
        let detail = "no database yet; `tenure import` or `tenure serve` makes it".to_owned();
        return (
            StoreReport {
                address: shown,
                good: true,
                detail,
                node_running: false,
            },
            Vec::new(),
        );
    }
    let looked = async {
        let database = context.database().await?;
        let (states, alive) = (
            database.directory.system_states().await?,
            database.node_alive().await?,
        );
        database.close().await;
        anyhow::Ok((states, alive))
    };
    match looked.await {
        Ok((states, node_running)) => {
            let detail = if node_running {
                "a node is running"
            } else {
                "no node is running"
            };
            (
                StoreReport {
                    address: shown,
                    good: true,
                    detail: detail.to_owned(),
                    node_running,
                },
                states,
            )
        }
        Err(error) => (
            StoreReport {
                address: shown,
                good: false,
                detail: format!("{error:#}"),
                node_running: false,
            },
            Vec::new(),
        ),
    }
}

async fn ask(system: &System, held: Option<SystemStateRow>) -> SystemReport {
    let findings = match tokio::time::timeout(CHECK_LIMIT, system.connector().check()).await {
        Ok(Ok(health)) => health.findings,
        Ok(Err(error)) => vec![Finding::bad("check", error.whole(), "")],
        Err(_) => vec![Finding::bad(
            "reach",
            format!("no answer within {} s", CHECK_LIMIT.as_secs()),
            "look whether the system is up, and at the network between",
        )],
    };
    SystemReport {
        system: system.name().to_owned(),
        kind: system.kind().to_owned(),
        good: findings.iter().all(|finding| finding.good),
        findings,
        gaps: system.gaps(),
        held,
    }
}

fn describe(report: &Report) -> String {
    let mut text = configuration(&report.configuration);
    if let Some(store) = &report.store {
        let tone = if store.good { Tone::Good } else { Tone::Bad };
        let _ = writeln!(
            text,
            "{} store {}: {}",
            paint(tone.sign(), tone),
            paint(&store.address, Tone::Strong),
            plain(&store.detail)
        );
    }
    if !report.systems.is_empty() {
        text.push('\n');
        text.push_str(&systems(&report.systems));
    }
    text.trim_end().to_owned()
}

fn configuration(report: &ConfigurationReport) -> String {
    let mut text = String::new();
    for problem in &report.problems {
        let _ = writeln!(text, "{} {}", paint("error:", Tone::Bad), placed(problem));
    }
    if report.more {
        let _ = writeln!(
            text,
            "{}",
            paint("there is more; mend these first", Tone::Dim)
        );
    }
    for warning in &report.warnings {
        let _ = writeln!(
            text,
            "{} {}",
            paint("warning:", Tone::Warn),
            placed(warning)
        );
    }
    if report.problems.is_empty() {
        let many = |count: usize, one: &str, many: &str| {
            counted(u64::try_from(count).unwrap_or(u64::MAX), one, many)
        };
        let _ = writeln!(
            text,
            "{} configuration {}: {}, {}, {}, {}, {}",
            paint(Tone::Good.sign(), Tone::Good),
            paint(&report.folder, Tone::Strong),
            many(report.sources.len(), "source", "sources"),
            many(report.systems.len(), "system", "systems"),
            many(report.roles, "role", "roles"),
            many(report.workflows.len(), "workflow", "workflows"),
            many(report.schedules.len(), "schedule", "schedules"),
        );
    }
    for schedule in &report.schedules {
        let when = match &schedule.next {
            _ if schedule.paused => "paused in its file".to_owned(),
            None => "never fires again".to_owned(),
            Some(fire) => format!(
                "fires next at {} ({} UTC)",
                fire.local.replacen('T', " ", 1),
                fire.fire_at.format("%Y-%m-%d %H:%M:%S")
            ),
        };
        let _ = writeln!(
            text,
            "  schedule {} starts {}: {when}",
            paint(&schedule.name, Tone::Strong),
            schedule.workflow
        );
    }
    text
}

/// A problem on two lines: where and what, then what to do.
pub(crate) fn placed(problem: &Problem) -> String {
    let mut place = plain(&problem.file);
    for number in [problem.line, problem.column].into_iter().flatten() {
        let _ = write!(place, ":{number}");
    }
    let mut text = format!("{}: {}", paint(place, Tone::Strong), problem.message);
    if !problem.fix.is_empty() {
        let _ = write!(
            text,
            "\n       {} {}",
            paint("fix:", Tone::Good),
            problem.fix
        );
    }
    text
}

fn systems(systems: &[SystemReport]) -> String {
    let mut listing = Listing::new(&["SYSTEM", "KIND", "", "FOUND"]).narrow(&[0, 1, 2]);
    for system in systems {
        let tone = if system.good { Tone::Good } else { Tone::Bad };
        for (position, finding) in system.findings.iter().enumerate() {
            let first = position == 0;
            let sign = if finding.good { Tone::Good } else { Tone::Bad };
            listing.row([
                (
                    if first {
                        plain(&system.system)
                    } else {
                        String::new()
                    },
                    if system.good { Tone::Strong } else { tone },
                ),
                (
                    if first {
                        system.kind.clone()
                    } else {
                        String::new()
                    },
                    Tone::Dim,
                ),
                (format!("{} {}", sign.sign(), finding.what), sign),
                (plain(&finding.detail), Tone::Plain),
            ]);
            if let Some(fix) = finding
                .fix
                .as_ref()
                .filter(|fix| !finding.good && !fix.is_empty())
            {
                listing.row([
                    (String::new(), Tone::Plain),
                    (String::new(), Tone::Plain),
                    ("  fix".to_owned(), Tone::Good),
                    (plain(fix), Tone::Plain),
                ]);
            }
        }
        for gap in &system.gaps {
            listing.row([
                (String::new(), Tone::Plain),
                (String::new(), Tone::Plain),
                (format!("{} gap", Tone::Warn.sign()), Tone::Warn),
                (plain(gap), Tone::Dim),
            ]);
        }
    }
    let mut text = format!("{listing}\n");
    for row in systems.iter().filter_map(|system| system.held.as_ref()) {
        let _ = writeln!(
            text,
            "\n{} {}",
            held_line(row, now()),
            paint("(seen by the running node)", Tone::Dim)
        );
    }
    text
}
