//! `tenure source events` and `tenure source schema`: what sources may say.

use anyhow::anyhow;
use serde::Serialize;
use workflows::policy::problem::suggest;
use workflows::sources::{EventType, config, data};

use crate::cli::format::{Listing, Tone};
use crate::cli::{Context, Exit};

/// List the types of event: what each says, and which workflows it starts here
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
DATA is what the data of a type may have beside what all have: attributes, effective_at, zone, version, supersedes, reason.
A type that starts nothing is recorded, and no more.

Examples:
  tenure source events
  tenure source events --json | jq -r '.[] | select(.starts == []) | .type'")]
pub struct Events {}

/// Print the JSON Schema of events, or of one type
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
The schema is of the whole event, CloudEvents 1.0 in JSON.

Examples:
  tenure source schema > events.json
  tenure source schema termination.scheduled
  tenure source schema --files")]
pub struct Schema {
    /// Of this type
    #[arg(value_name = "TYPE", conflicts_with = "files")]
    event_type: Option<String>,
    /// Of the files in `sources/` instead
    #[arg(long)]
    files: bool,
}

#[derive(Debug, Serialize)]
struct TypeView {
    #[serde(rename = "type")]
    event_type: EventType,
    meaning: &'static str,
    data: Vec<&'static str>,
    starts: Vec<String>,
}

pub(super) fn events(context: &Context, _: Events) -> anyhow::Result<Exit> {
    let configuration = context.configuration()?;
    let views: Vec<TypeView> = EventType::ALL
        .iter()
        .map(|event_type| {
            let starts = configuration
                .definitions
                .iter()
                .filter(|definition| definition.on.iter().any(|on| on == event_type.as_str()));
            TypeView {
                event_type: *event_type,
                meaning: event_type.meaning(),
                data: event_type.own_fields(),
                starts: starts.map(|definition| definition.name.clone()).collect(),
            }
        })
        .collect();
    context.output.result(&views, |views| {
        let mut listing = Listing::new(&["TYPE", "STARTS", "DATA", "SAYS"]).narrow(&[0, 1]);
        for view in views {
            let starts = match view.starts.as_slice() {
                [] => ("nothing".to_owned(), Tone::Warn),
                starts => (starts.join(", "), Tone::Plain),
            };
            listing.row([
                (view.event_type.as_str().to_owned(), Tone::Strong),
                starts,
                (view.data.join(", "), Tone::Code),
                (view.meaning.to_owned(), Tone::Plain),
            ]);
        }
        listing.to_string()
    })?;
    Ok(Exit::Good)
}

pub(super) fn schema(context: &Context, schema: &Schema) -> anyhow::Result<Exit> {
    let schema = match &schema.event_type {
        _ if schema.files => config::schema(),
        None => data::schema(),
        Some(name) => EventType::parse(name)
            .ok_or_else(|| {
                let known = EventType::ALL.iter().map(|known| known.as_str());
                anyhow!(
                    "there is no type of event `{name}`; {}",
                    suggest(name, "types", known)
                )
            })?
            .schema(),
    };
    context
        .output
        .raw(&serde_json::to_string_pretty(&schema)?)?;
    Ok(Exit::Good)
}
