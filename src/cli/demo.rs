//! `tenure demo`: the whole thing in a minute, with nothing to install.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, ensure};
use chrono::TimeDelta;
use uuid::Uuid;
use workflows::directory::LagKind;

use super::format::{Bar, Listing, Tone, counted, number, paint, plain, shortened, time};
use super::{Context, Exit};
use crate::demo::company::{PEOPLE_MAX, PEOPLE_MIN};
use crate::demo::plugin;
use crate::demo::run::{self, Leaver, Options, Phase, Report, Told};
use crate::shell::case_view::short;

/// The most characters of a line of the timeline.
const LINE_CHARS: usize = 48;
/// The most characters of what a line of the timeline is about.
const ABOUT_CHARS: usize = 38;
/// How many lines of the timeline are shown.
const LINES_SHOWN: usize = 40;
/// How many differences are shown.
const DIFFERENCES_SHOWN: usize = 20;
/// How many people the guard's story names.
const EXAMPLES_SHOWN: usize = 6;

/// Run a made-up company through hire day, a month and a mass of leavers, against three live systems
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Needs nothing installed: the database is embedded, and the three systems come with the program: an application
that speaks SCIM over HTTP, a door register behind a plugin, and a key cabinet that only a person can open.
At the end every system is asked directly whether it is as it should be; if not, the exit code is 1.

Examples:
  tenure demo
  tenure demo --people 1000 --seed 7
  tenure demo --dir demo-files      keep the folder: configuration, exports, database
  tenure demo --once --json         for scripts: one JSON object")]
pub struct Demo {
    /// Run to the end and clean up
    #[arg(long)]
    once: bool,
    /// How many people the company has on hire day
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = people)]
    people: usize,
    /// Another seed makes another company
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Where to make the demo's folder; it is kept
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

fn people(text: &str) -> Result<usize, String> {
    let people = text.parse().map_err(|_| "not a number".to_owned())?;
    if (PEOPLE_MIN..=PEOPLE_MAX).contains(&people) {
        Ok(people)
    } else {
        Err(format!("give {PEOPLE_MIN} to {PEOPLE_MAX}"))
    }
}

pub(super) async fn run(context: &Context, demo: Demo) -> anyhow::Result<Exit> {
    let keep = demo.dir.is_some() || !demo.once;
    let root = match demo.dir {
        Some(dir) => {
            let empty = std::fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_none());
            ensure!(
                !dir.exists() || empty,
                "`{}` is not an empty folder; name one that is, or that does not exist",
                dir.display()
            );
            dir
        }
        None => std::env::temp_dir().join(format!("tenure-demo-{}", Uuid::new_v4().simple())),
    };
    let options = Options {
        people: demo.people,
        seed: demo.seed,
        root: root.clone(),
    };
    let screen = Screen::new(context);
    screen.opening(&options)?;
    let report = Box::pin(run::run(&options, &|told| screen.told(told))).await;
    screen.end();
    let report = report.with_context(|| {
        format!(
            "the demo could not go on; its folder is `{}`",
            root.display()
        )
    })?;
    let exit = if report.good() { Exit::Good } else { Exit::Bad };
    if !keep && exit == Exit::Good {
        std::fs::remove_dir_all(&root)
            .with_context(|| format!("cannot remove `{}`", root.display()))?;
    }
    context
        .output
        .result(&report, |report| render(report, keep))?;
    Ok(exit)
}

/// The plugin that the demo's door register is reached through.
pub(super) async fn plugin() -> anyhow::Result<Exit> {
    plugin::run().await?;
    Ok(Exit::Good)
}

/// Shows what happens while it happens.
struct Screen {
    output: super::Output,
    bar: Mutex<Option<Bar>>,
}

impl Screen {
    fn new(context: &Context) -> Self {
        Self {
            output: context.output,
            bar: Mutex::new(None),
        }
    }

    fn opening(&self, options: &Options) -> anyhow::Result<()> {
        self.output.line(format_args!(
            "{}  {} people, seed {}, three systems: {} (SCIM over HTTP), {} (exec plugin), {} (by hand)\n",
            paint("Meridian", Tone::Strong),
            number(options.people as u64),
            options.seed,
            paint("workspace", Tone::Code),
            paint("doors", Tone::Code),
            paint("keys", Tone::Code),
        ))
    }

    /// A standard output that is gone does not stop the demo.
    fn told(&self, told: Told) {
        let mut bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        match told {
            Told::Phase { title, cases } => *bar = Some(Bar::new(&title, cases, self.output.json)),
            Told::Progress {
                closed,
                cases,
                tasks,
            } => {
                if let Some(bar) = &*bar {
                    bar.set(closed, cases);
                    bar.say(format!("{} by hand", counted(tasks, "task", "tasks")));
                }
            }
            Told::Note(text) => {
                let _ = self.output.line(format_args!(
                    "  {} {text}",
                    paint(Tone::Warn.sign(), Tone::Warn)
                ));
            }
            Told::PhaseEnded(phase) => {
                if let Some(bar) = bar.take() {
                    bar.end();
                }
                let _ = self.output.line(phase_line(&phase));
            }
        }
    }

    fn end(&self) {
        if let Some(bar) = self
            .bar
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            bar.end();
        }
    }
}

fn phase_line(phase: &Phase) -> String {
    let what = [
        (phase.joined, "joined"),
        (phase.moved, "moved"),
        (phase.left, "left"),
    ];
    let what: Vec<String> = what
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{} {what}", number(*count as u64)))
        .collect();
    format!(
        "{} {:<20} {}  {:<34} {}",
        paint(Tone::Good.sign(), Tone::Good),
        phase.title,
        paint(phase.as_of, Tone::Dim),
        what.join(", "),
        paint(
            format!(
                "{} in {}",
                counted(phase.cases, "case", "cases"),
                length(phase.took_ms)
            ),
            Tone::Dim
        ),
    )
}

fn length(ms: u64) -> String {
    time::length(
        TimeDelta::try_milliseconds(i64::try_from(ms).unwrap_or(i64::MAX))
            .unwrap_or(TimeDelta::MAX),
    )
}

fn or_dash(ms: Option<u64>) -> String {
    ms.map_or_else(|| "–".to_owned(), length)
}

/// The end of the story.
fn render(report: &Report, keep: bool) -> String {
    let mut text = String::from("\n");
    let cases: u64 = report.cases.values().sum();
    let _ = writeln!(
        text,
        "{}  {} · {} · {} by hand · access lag p50 {}, p99 {}",
        paint(
            if report.good() {
                "Done"
            } else {
                "Not as it should be"
            },
            if report.good() { Tone::Good } else { Tone::Bad }
        ),
        counted(report.identities, "person", "people"),
        counted(cases, "case", "cases"),
        counted(report.tasks_by_hand, "task", "tasks"),
        or_dash(report.lag_p50_ms),
        or_dash(report.lag_p99_ms),
    );
    let _ = writeln!(
        text,
        "\n{}  from effective and known until read back; by hand, until attested",
        paint("Access lag", Tone::Strong)
    );
    let _ = writeln!(text, "{}", indented(&lag(report)));
    let _ = writeln!(
        text,
        "\n{}  asked directly, not through Tenure",
        paint("The systems now", Tone::Strong)
    );
    let _ = writeln!(text, "{}", indented(&systems(report)));
    text.push_str(&verdict(report));
    text.push_str(&guard(report));
    if let Some(leaver) = &report.leaver {
        text.push_str(&timeline(leaver));
    }
    text.push_str(&next(report, keep));
    text
}

fn indented(listing: &Listing) -> String {
    listing
        .to_string()
        .lines()
        .map(|line| format!("  {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn lag(report: &Report) -> Listing {
    let mut listing = Listing::new(&["SYSTEM", "CHANGE", "N", "P50", "P99", "MAX", "UNVERIFIED"])
        .right(&[2, 3, 4, 5, 6])
        .narrow(&[0, 1, 2, 3, 4, 5, 6]);
    for row in &report.lag {
        let kind = match row.kind {
            LagKind::Grant => "grant",
            LagKind::Removal => "removal",
        };
        let tone = if row.unverified == 0 {
            Tone::Dim
        } else {
            Tone::Warn
        };
        listing.row([
            (plain(&row.system), Tone::Code),
            (kind.to_owned(), Tone::Plain),
            (number(row.cases), Tone::Plain),
            (or_dash(row.p50_ms), Tone::Plain),
            (or_dash(row.p99_ms), Tone::Strong),
            (or_dash(row.max_ms), Tone::Plain),
            (number(row.unverified), tone),
        ]);
    }
    listing
}

fn systems(report: &Report) -> Listing {
    let mut listing = Listing::new(&[
        "SYSTEM",
        "KIND",
        "CREATED",
        "DISABLED",
        "OPEN",
        "RIGHTS HELD",
    ])
    .right(&[2, 3, 4, 5])
    .narrow(&[0, 1, 2, 3, 4, 5]);
    for (system, tally) in &report.systems {
        listing.row([
            ((*system).to_owned(), Tone::Code),
            (tally.kind.to_owned(), Tone::Plain),
            (number(tally.accounts_created), Tone::Plain),
            (number(tally.accounts_disabled), Tone::Plain),
            (number(tally.accounts_open), Tone::Plain),
            (number(tally.rights), Tone::Plain),
        ]);
    }
    listing
}

fn verdict(report: &Report) -> String {
    if report.good() {
        return format!(
            "  {} {} accounts and rights read from the systems: each is exactly what it should be\n",
            paint(Tone::Good.sign(), Tone::Good),
            number(report.checked)
        );
    }
    let mut text = String::new();
    for difference in report.differences.iter().take(DIFFERENCES_SHOWN) {
        let _ = writeln!(
            text,
            "  {} {}",
            paint(Tone::Bad.sign(), Tone::Bad),
            plain(difference)
        );
    }
    let more =
        report.differences.len().saturating_sub(DIFFERENCES_SHOWN) as u64 + report.differences_more;
    if more > 0 {
        let _ = writeln!(text, "  and {} more; `--json` has them", number(more));
    }
    text
}

fn guard(report: &Report) -> String {
    let guard = &report.guard;
    let mut text = format!("\n{}\n", paint("The guard", Tone::Strong));
    let _ = writeln!(
        text,
        "  The last export would have removed {}. Nothing was done;",
        counted(guard.removed, "person", "people")
    );
    for reason in &guard.reasons {
        let _ = writeln!(
            text,
            "  {} {}",
            paint(Tone::Warn.sign(), Tone::Warn),
            plain(reason)
        );
    }
    let _ = writeln!(
        text,
        "  the difference: {} new, {} changed, {} gone, among them {}{}",
        number(guard.created),
        number(guard.changed),
        number(guard.removed),
        guard
            .examples
            .iter()
            .take(EXAMPLES_SHOWN)
            .map(|key| plain(key))
            .collect::<Vec<_>>()
            .join(", "),
        if guard.removed > EXAMPLES_SHOWN as u64 {
            ", …"
        } else {
            ""
        },
    );
    let _ = writeln!(
        text,
        "  until a person approved exactly\n  {}",
        paint(shortened(&guard.difference_id, 68), Tone::Code)
    );
    text
}

/// Who, what, when, why, and whether somebody looked.
fn timeline(leaver: &Leaver) -> String {
    let took = leaver
        .closed_at
        .map_or(TimeDelta::zero(), |closed| closed - leaver.received_at);
    let mut text = format!(
        "\n{}  {}\n",
        paint("One leaver", Tone::Strong),
        paint(plain(&leaver.name), Tone::Strong)
    );
    let _ = writeln!(
        text,
        "  {}, {}, {}: {} in {}",
        leaver.key,
        plain(&leaver.title),
        plain(&leaver.department),
        leaver.state,
        time::length(took)
    );
    let effective = leaver
        .effective_at
        .map(|at| format!(", effective {}", at.format("%Y-%m-%d")))
        .unwrap_or_default();
    let _ = writeln!(
        text,
        "  {}",
        paint(
            format!(
                "case {}: {}{effective}, put in force by {}",
                short(&leaver.case),
                plain(&leaver.why),
                plain(&leaver.initiator)
            ),
            Tone::Dim
        )
    );
    for line in leaver.timeline.iter().take(LINES_SHOWN) {
        let since = format!("+{}", time::length(line.at - leaver.received_at));
        let what: Vec<&str> = [
            line.step.as_deref().unwrap_or_default(),
            line.label.as_str(),
        ]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect();
        let sign = if line.verified_at.is_some() {
            paint(Tone::Good.sign(), Tone::Good)
        } else {
            paint("·", Tone::Dim)
        };
        let _ = writeln!(
            text,
            "  {since:>8} {sign} {}  {}",
            paint(
                format!("{:<ABOUT_CHARS$}", shortened(&what.join(" "), ABOUT_CHARS)),
                Tone::Code
            ),
            paint(
                shortened(&line.text, LINE_CHARS),
                if line.verified_at.is_some() {
                    Tone::Plain
                } else {
                    Tone::Dim
                }
            ),
        );
    }
    if leaver.timeline.len() > LINES_SHOWN {
        let _ = writeln!(
            text,
            "  and {} more lines",
            leaver.timeline.len() - LINES_SHOWN
        );
    }
    text
}

fn next(report: &Report, keep: bool) -> String {
    let mut text = format!("\n{}\n", paint("Next", Tone::Strong));
    let mut line = |command: &str, what: &str| {
        let _ = writeln!(text, "  {}\n      {what}", paint(command, Tone::Code));
    };
    if keep {
        let folder = report.folder.display();
        let store = format!("--store sqlite:{folder}/tenure.sqlite");
        line(
            &format!("tenure case list {store}"),
            "every case of this company",
        );
        if let Some(leaver) = &report.leaver {
            line(
                &format!("tenure case show {} {store}", leaver.key),
                "one of them, whole",
            );
        }
        line(
            &format!("ls {folder}"),
            "the configuration it ran with; nothing else uses it, delete it when you like",
        );
    }
    line("tenure init", "a configuration of your own");
    text
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
    fn the_size_of_the_company_is_bounded() {
        assert_eq!(people("300"), Ok(300));
        assert_eq!(people("19"), Err("give 20 to 20000".to_owned()));
        assert_eq!(people("many"), Err("not a number".to_owned()));
    }
}
