//! `tenure source`: the feeds, and whether they are heard.

mod ask;
mod list;
mod show;
mod vocabulary;

use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use workflows::config::Configuration;
use workflows::sources::Source;

use super::format::Tone;
use super::{Context, Exit};
use crate::shell::source_view::Voice;

/// Look at the sources: which are heard, which are silent
#[derive(Debug, Args)]
#[command(after_long_help = "\
A source is heard when something good comes from it: a file, an event, or a heartbeat (`POST /v1/sources/NAME/heartbeat`)
that says it has no news. With `silent_after` in its file somebody is told when that was too long ago: it is `silent` here,
and `tenure_source_silent` is 1 in the metrics, for which docs/alerts.yaml has a rule.

Examples:
  tenure source list
  tenure source show hr
  tenure source events
  tenure source schema transfer")]
pub struct SourceCommand {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, Subcommand)]
enum Sub {
    List(list::List),
    Show(show::Show),
    Ask(ask::Ask),
    Events(vocabulary::Events),
    Schema(vocabulary::Schema),
}

/// Runs one of the commands on sources.
///
/// # Errors
/// When the configuration is wrong, there is no such source, or the database cannot be reached.
pub async fn run(context: &Context, command: SourceCommand) -> anyhow::Result<Exit> {
    match command.command {
        Sub::List(command) => list::run(context, command).await,
        Sub::Show(command) => show::run(context, command).await,
        Sub::Ask(command) => ask::run(context, command).await,
        Sub::Events(command) => vocabulary::events(context, command),
        Sub::Schema(command) => vocabulary::schema(context, &command),
    }
}

/// The source of that name.
pub(super) fn configured(configuration: &Configuration, name: &str) -> anyhow::Result<Arc<Source>> {
    configuration
        .sources
        .get(name)
        .map(Arc::clone)
        .with_context(|| {
            let known: Vec<&str> = configuration.sources.keys().map(String::as_str).collect();
            if known.is_empty() {
                "the configuration has no sources; write one in `sources/`".to_owned()
            } else {
                format!(
                    "there is no source `{name}`; the configuration has {}",
                    known.join(", ")
                )
            }
        })
}

/// How a source that is so looks.
fn voice(state: Voice) -> (String, Tone) {
    match state {
        Voice::Heard => ("heard".to_owned(), Tone::Good),
        Voice::NeverHeard => ("never heard".to_owned(), Tone::Warn),
        Voice::Silent => ("silent".to_owned(), Tone::Bad),
        Voice::Doubted => ("doubted".to_owned(), Tone::Bad),
    }
}
