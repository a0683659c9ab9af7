//! `tenure source show`.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};

use crate::cli::format::{Tone, paint, plain, time};
use crate::cli::import;
use crate::cli::{Context, Exit};
use crate::shell::now;
use crate::shell::source_view::{self, SourceDetail};

/// Show a source: when it was heard, where it stands, its last files
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tenure source show hr
  tenure source show hr --json | jq '.files[0].status'")]
pub struct Show {
    /// The source's name
    name: String,
}

pub(super) async fn run(context: &Context, show: Show) -> anyhow::Result<Exit> {
    let configuration = context.configuration()?;
    let source = super::configured(&configuration, &show.name)?;
    let database = context.database().await?;
    let detail = source_view::detail(&database.directory, &source, now()).await?;
    context.output.result(&detail, page)?;
    database.close().await;
    Ok(Exit::Good)
}

fn page(detail: &SourceDetail) -> String {
    let view = &detail.source;
    let (state, tone) = super::voice(view.state);
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{}  {}",
        paint(&view.name, Tone::Strong),
        paint(state, tone)
    );
    let comes = match view.format {
        "scim" => "pushed over SCIM".to_owned(),
        "query" => "asked of a database".to_owned(),
        "pull" => "pulled from an API".to_owned(),
        format => format!("{format} files"),
    };
    let mut facts = vec![comes, plain(&detail.time_zone)];
    facts.extend(view.as_of.map(|day| format!("at {day}")));
    if view.signs {
        facts.push("may sign events".to_owned());
    }
    let _ = writeln!(text, "  {}", facts.join(" · "));
    let at = |time: Option<DateTime<Utc>>| {
        time.map_or_else(
            || "never".to_owned(),
            |time| time::with_distance(time, now()),
        )
    };
    let _ = writeln!(
        text,
        "  heard {}, news {}",
        at(view.heard_at),
        at(view.news_at)
    );
    let watched = match (&view.silent_after, view.silent_from) {
        (Some(after), Some(from)) => format!("silent after {after}: {}", at(Some(from))),
        (Some(after), None) => {
            format!("silent after {after}, counted once `tenure serve` has run with it")
        }
        (None, _) => "nobody watches it; `silent_after` in its file says how long it may be silent"
            .to_owned(),
    };
    let _ = writeln!(text, "  {watched}");
    if let Some(asked_at) = view.asked_at {
        let cursor = view.cursor.as_deref().unwrap_or("everybody each time");
        let _ = writeln!(
            text,
            "  asked {}, cursor {}",
            at(Some(asked_at)),
            plain(cursor)
        );
    }
    if let Some(doubt) = &view.doubt {
        let sign = paint(Tone::Bad.sign(), Tone::Bad);
        let _ = writeln!(
            text,
            "{sign} not believed since {}: {}",
            at(view.doubted_since),
            plain(doubt)
        );
    }
    if detail.files.is_empty() {
        let _ = write!(text, "\nno files");
    } else {
        let _ = write!(text, "\n{}", import::table(&detail.files));
    }
    text
}
