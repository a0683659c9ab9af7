//! `tenure schedule list`.

use crate::cli::format::{Listing, Tone, paint};
use crate::cli::{Context, Exit};
use crate::shell::schedules::{self, ScheduleView};

/// List the schedules: when each fires next, and how its last run went
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
NEXT is on the clock of the schedule's zone, NEXT UTC the same moment in UTC; a jitter comes on top of it.

Examples:
  tenure schedule list
  tenure schedule list --json | jq '.[] | select(.last.outcome == \"missed\") | .name'")]
pub struct List {}

pub(super) async fn run(context: &Context, _: List) -> anyhow::Result<Exit> {
    let database = context.database().await?;
    let rows = schedules::all(&*database.store).await?;
    let views = schedules::views(&database, &rows).await?;
    context.output.result(&views, |views| table(views))?;
    Ok(Exit::Good)
}

fn table(views: &[ScheduleView]) -> String {
    if views.is_empty() {
        return format!(
            "no schedules; write one into `schedules/` of the configuration, or see {}",
            paint("tenure schedule put --help", Tone::Code)
        );
    }
    let headings = [
        "NAME", "WORKFLOW", "CRON", "ZONE", "NEXT", "NEXT UTC", "LAST", "OVERLAP",
    ];
    let mut listing = Listing::new(&headings).narrow(&[0, 2, 4, 5]);
    for view in views {
        let (next, next_utc) = next(view);
        listing.row([
            (view.name.clone(), Tone::Strong),
            (view.workflow.clone(), Tone::Plain),
            (view.cron.clone(), Tone::Code),
            (view.zone.clone(), Tone::Plain),
            next,
            next_utc,
            last(view),
            (view.overlap.to_owned(), Tone::Plain),
        ]);
    }
    listing.to_string()
}

fn next(view: &ScheduleView) -> ((String, Tone), (String, Tone)) {
    let none = || (String::new(), Tone::Plain);
    match (view.state, &view.next) {
        ("paused", _) => (("paused".to_owned(), Tone::Warn), none()),
        ("paused_in_file", _) => (("paused in its file".to_owned(), Tone::Warn), none()),
        (_, None) => (("never".to_owned(), Tone::Bad), none()),
        (_, Some(fire)) => {
            let local = fire.local.replacen('T', " ", 1);
            let utc = fire.fire_at.format("%Y-%m-%d %H:%M:%S").to_string();
            ((local, Tone::Plain), (utc, Tone::Dim))
        }
    }
}

fn last(view: &ScheduleView) -> (String, Tone) {
    let Some(run) = &view.last else {
        return ("none yet".to_owned(), Tone::Dim);
    };
    match run.case_state {
        Some(state) => (state.to_owned(), Tone::of_state(state)),
        None => (
            run.outcome.replace('_', " "),
            super::show::tone(run.outcome),
        ),
    }
}
