//! `tenure schedule show`.

use std::fmt::Write as _;

use crate::cli::format::{Listing, Tone, counted, paint, plain, time};
use crate::cli::{Context, Exit};
use crate::shell::case_view::short;
use crate::shell::now;
use crate::shell::schedules::{self, RunView, ScheduleDetail};

/// Show a schedule: its next fire times, its last runs, and what was done to it
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tenure schedule show nightly-review
  tenure schedule show nightly-review --runs 100
  tenure schedule show nightly-review --json | jq '.upcoming[].fire_at'")]
pub struct Show {
    /// The schedule's name
    name: String,
    /// How many of its runs
    #[arg(long, value_name = "N", default_value_t = schedules::RUNS_SHOWN, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    runs: u32,
}

pub(super) async fn run(context: &Context, show: Show) -> anyhow::Result<Exit> {
    let (database, row) = super::open(context, &show.name).await?;
    let detail = schedules::detail(&database, &row, show.runs).await?;
    let alive = database.node_alive().await?;
    context
        .output
        .result(&detail, |detail| page(detail, alive))?;
    Ok(Exit::Good)
}

/// How an outcome looks.
pub(super) fn tone(outcome: &str) -> Tone {
    match outcome {
        "started" => Tone::Good,
        "queued" => Tone::Busy,
        "skipped_overlap" | "dropped" => Tone::Warn,
        "missed" | "refused" => Tone::Bad,
        _ => Tone::Plain,
    }
}

fn page(detail: &ScheduleDetail, alive: bool) -> String {
    let view = &detail.schedule;
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{}  starts {} for {}",
        paint(&view.name, Tone::Strong),
        paint(&view.workflow, Tone::Strong),
        plain(&view.subject)
    );
    if !view.description.is_empty() {
        let _ = writeln!(text, "  {}", plain(&view.description));
    }
    let mut facts = vec![
        format!("{} in {}", paint(&view.cron, Tone::Code), view.zone),
        format!("overlap {}", view.overlap),
        format!("catch-up {}", view.catch_up),
    ];
    if view.jitter != "0s" {
        facts.push(format!("jitter up to {}", view.jitter));
    }
    facts.push(match view.origin {
        "configuration" => "from its file".to_owned(),
        _ => "made by a person".to_owned(),
    });
    let _ = writeln!(text, "  {}", facts.join(" · "));
    match (&view.paused, view.state) {
        (_, "paused_in_file") => {
            let _ = writeln!(text, "  {}", paint("paused in its file", Tone::Warn));
        }
        (Some(pause), _) => {
            let said = format!(
                "paused by {} {}: {}",
                plain(&pause.by),
                time::relative(pause.at, now()),
                plain(&pause.reason)
            );
            let _ = writeln!(text, "  {}", paint(said, Tone::Warn));
        }
        (None, _) if !alive => {
            let said = "no node is running on this database: nothing fires";
            let _ = writeln!(text, "  {}", paint(said, Tone::Warn));
        }
        (None, _) => {}
    }
    if !view.open.is_empty() || view.waiting > 0 {
        let _ = writeln!(
            text,
            "  {}, {} waiting",
            counted(
                u64::try_from(view.open.len()).unwrap_or(0),
                "run open",
                "runs open"
            ),
            view.waiting
        );
    }
    if !detail.upcoming.is_empty() {
        let _ = write!(text, "\n{}", upcoming(detail));
    }
    let _ = write!(text, "\n{}", runs(&detail.runs));
    let _ = write!(text, "\n{}", changes(detail));
    text.trim_end().to_owned()
}

fn upcoming(detail: &ScheduleDetail) -> String {
    let mut listing = Listing::new(&["NEXT", "UTC", "STARTS"]).narrow(&[0, 1, 2]);
    for fire in &detail.upcoming {
        listing.row([
            (fire.local.replacen('T', " ", 1), Tone::Plain),
            (
                fire.fire_at.format("%Y-%m-%d %H:%M:%S").to_string(),
                Tone::Dim,
            ),
            (time::relative(fire.due_at, now()), Tone::Plain),
        ]);
    }
    format!("{listing}\n")
}

fn runs(runs: &[RunView]) -> String {
    if runs.is_empty() {
        return "no runs yet\n".to_owned();
    }
    let mut listing =
        Listing::new(&["FIRE TIME", "CAUSE", "OUTCOME", "CASE", "BY", "WHY"]).narrow(&[0, 1, 2, 3]);
    for run in runs {
        let case = match (run.case, run.case_state) {
            (Some(case), Some(state)) => format!("{} {state}", short(&case.to_string())),
            (Some(case), None) => short(&case.to_string()).to_owned(),
            (None, _) => String::new(),
        };
        listing.row([
            (run.local.replacen('T', " ", 1), Tone::Plain),
            (run.cause.replace('_', " "), Tone::Plain),
            (run.outcome.replace('_', " "), tone(run.outcome)),
            (case, run.case_state.map_or(Tone::Plain, Tone::of_state)),
            (plain(&run.initiator), Tone::Dim),
            (plain(&run.reason), Tone::Plain),
        ]);
    }
    format!("{listing}\n")
}

fn changes(detail: &ScheduleDetail) -> String {
    let mut listing = Listing::new(&["WHEN", "DONE", "BY", "WHY", "WHAT"]).narrow(&[0, 1]);
    for change in &detail.changes {
        listing.row([
            (time::relative(change.at, now()), Tone::Plain),
            (change.operation.to_owned(), Tone::Plain),
            (plain(&change.by), Tone::Dim),
            (plain(&change.reason), Tone::Plain),
            (plain(&change.detail), Tone::Dim),
        ]);
    }
    format!("{listing}\n")
}
