//! `tenure workflow show`: one version, as text or as a table.

use std::collections::BTreeMap;

use engine::core::definition::Definition;
use serde::Serialize;

use super::super::Context;
use super::super::format::{Listing, Tone, paint, plain};
use super::{graph, versions};

/// Print a version of a workflow
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tenure workflow show leaver > tenure/workflows/leaver.yaml    to change it
  tenure workflow show leaver --steps
  tenure workflow show 3f0c9a1e                                 a stored version")]
pub(super) struct Show {
    /// A workflow's name, the beginning of a stored version's hash, or a YAML file
    #[arg(value_name = "VERSION")]
    meant: String,
    /// A table of the steps instead of the YAML
    #[arg(long)]
    steps: bool,
}

#[derive(Serialize)]
struct Shown {
    name: String,
    version: String,
    description: String,
    on: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ahead: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<String>,
    lane: &'static str,
    conflicts: BTreeMap<String, &'static str>,
    steps: Vec<StepLine>,
    source: String,
}

#[derive(Serialize)]
struct StepLine {
    step: String,
    uses: String,
    needs: Vec<String>,
    /// Fan-out, condition, delay, undo, in a few words.
    remarks: Vec<String>,
    attempts: u32,
    timeout: String,
}

/// Shows.
///
/// # Errors
/// When there is no such version.
pub(super) async fn run(context: &Context, show: Show) -> anyhow::Result<()> {
    let definition = versions::find(context, &show.meant).await?;
    if !show.steps && !context.output.json {
        // The text goes into files; what it is called does not belong into them.
        context
            .output
            .note(format!("version {}", definition.hash))?;
        return context.output.raw(definition.source.trim_end());
    }
    context.output.result(&shown(&definition), table)
}

fn shown(definition: &Definition) -> Shown {
    let steps = definition.steps.iter().map(|step| StepLine {
        step: step.id.clone(),
        uses: step.work.uses().to_owned(),
        needs: step
            .needs
            .iter()
            .filter_map(|need| Some(definition.step(*need)?.id.clone()))
            .collect(),
        remarks: graph::remarks(step),
        attempts: step.retry.attempts,
        timeout: step.timeout.to_string(),
    });
    Shown {
        name: definition.name.clone(),
        version: definition.hash.to_string(),
        description: definition.description.clone(),
        on: definition.on.clone(),
        ahead: definition.ahead.map(|span| span.to_string()),
        after: definition.after.map(|span| span.to_string()),
        lane: definition.lane.as_str(),
        conflicts: definition.conflicts.told(),
        steps: steps.collect(),
        source: definition.source.clone(),
    }
}

fn table(shown: &Shown) -> String {
    let mut listing = Listing::new(&["STEP", "USES", "NEEDS", "ATTEMPTS", "TIME LIMIT", "REMARK"])
        .right(&[3, 4])
        .narrow(&[0, 1]);
    for step in &shown.steps {
        listing.row([
            (step.step.clone(), Tone::Strong),
            (step.uses.clone(), Tone::Code),
            (step.needs.join(", "), Tone::Plain),
            (step.attempts.to_string(), Tone::Dim),
            (step.timeout.clone(), Tone::Dim),
            (step.remarks.join(" · "), Tone::Dim),
        ]);
    }
    format!(
        "{}  {}\n{}\n\n{listing}",
        paint(&shown.name, Tone::Strong),
        paint(
            format!("lane {} · version {}", shown.lane, shown.version),
            Tone::Dim
        ),
        plain(&shown.description),
    )
}
