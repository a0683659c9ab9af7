//! `tenure source list`.

use chrono::{DateTime, Utc};

use crate::cli::format::{Listing, Tone, time};
use crate::cli::{Context, Exit};
use crate::shell::now;
use crate::shell::source_view::{self, SourceView};

/// List the sources: when each was last heard, and from when on it counts as silent
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
HEARD is the last time something good came from a source, NEWS the last time it said something new. SILENT is when it
counts as silent if nothing more comes; empty when its file has no `silent_after`. FILE OF is the day of the last file. CURSOR is up to where a
source that is pulled was asked for changes, by its own clock.

A source that is `doubted` delivered something that is not believed; `source show` says why, and how to go on.

Exit code 1 says that a source is silent or doubted.

Examples:
  tenure source list
  tenure source list --json | jq -r '.[] | select(.state == \"silent\") | .name'")]
pub struct List {}

pub(super) async fn run(context: &Context, _: List) -> anyhow::Result<Exit> {
    let configuration = context.configuration()?;
    let database = context.database().await?;
    let views = source_view::sources(&database.directory, &configuration.sources, now()).await?;
    context.output.result(&views, |views| table(views))?;
    database.close().await;
    let silent = views.iter().any(|view| {
        use source_view::Voice::{Doubted, Silent};
        matches!(view.state, Silent | Doubted)
    });
    Ok(if silent { Exit::Bad } else { Exit::Good })
}

fn table(views: &[SourceView]) -> String {
    if views.is_empty() {
        return "no sources; write one into `sources/` of the configuration".to_owned();
    }
    let headings = [
        "NAME", "STATE", "HEARD", "NEWS", "SILENT", "FORMAT", "FILE OF", "SIGNS", "CURSOR",
    ];
    let mut listing = Listing::new(&headings).narrow(&[0, 1, 2, 3, 4]);
    for view in views {
        let at = |time: Option<DateTime<Utc>>| {
            let text = time.map_or_else(String::new, |time| time::relative(time, now()));
            (text, Tone::Plain)
        };
        listing.row([
            (view.name.clone(), Tone::Strong),
            super::voice(view.state),
            at(view.heard_at),
            at(view.news_at),
            at(view.silent_from),
            (view.format.to_owned(), Tone::Dim),
            (
                view.as_of.map_or_else(String::new, |day| day.to_string()),
                Tone::Plain,
            ),
            (if view.signs { "yes" } else { "" }.to_owned(), Tone::Dim),
            (view.cursor.clone().unwrap_or_default(), Tone::Dim),
        ]);
    }
    listing.to_string()
}
