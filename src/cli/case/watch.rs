//! `tenure case watch`: the timeline as it grows.

use std::time::Duration;

use crate::cli::format::time;
use crate::cli::{Context, Exit};
use crate::shell::case_view::Wait;
use crate::shell::now;

use super::show::{self, timeline};

/// How often the database is asked.
const LOOK_MS: u64 = 300;

/// Follow one case until it is closed
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Prints each line of the timeline as it happens, with --json one JSON object a line. Ends with the case: exit 0 when
it succeeded, 1 when it ended otherwise. Interrupt it at any time; it only looks.

Examples:
  tenure case watch E10023
  tenure case watch 6f2c1a9e --json | jq -r .text")]
pub struct Watch {
    /// Identifier, its beginning, or a person's key
    #[arg(value_name = "CASE")]
    case: String,
}

pub(super) async fn run(context: &Context, watch: Watch) -> anyhow::Result<Exit> {
    let database = context.database().await?;
    let id = database.find_case(&watch.case).await?;
    let mut told = 0;
    let mut waited_for = String::new();
    loop {
        let shown = show::read(&database, id).await?;
        let new = shown.timeline.get(told..).unwrap_or_default();
        for line in new {
            if context.output.json {
                context.output.raw(&serde_json::to_string(line)?)?;
            } else {
                context.output.line(timeline(
                    std::slice::from_ref(line),
                    shown.case.received_at,
                    true,
                ))?;
            }
        }
        told = shown.timeline.len();
        if shown.case.closed_at.is_some() {
            return Ok(if shown.case.state == "succeeded" {
                Exit::Good
            } else {
                Exit::Bad
            });
        }
        let waits: String = shown
            .case
            .waits
            .iter()
            .filter(|it| it.next_at.is_some() || it.needs_person)
            .take(3)
            .map(said)
            .collect();
        if waits != waited_for {
            if !waits.is_empty() {
                context.output.note(waits.trim_end())?;
            }
            waited_for = waits;
        }
        tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
    }
}

fn said(wait: &Wait) -> String {
    let next = wait
        .next_at
        .map(|next| format!("; next {}", time::clock(next, now())))
        .unwrap_or_default();
    format!(
        "  waits: {}{next}\n",
        super::super::format::shortened(&wait.why, 160)
    )
}
