//! `tenure workflow`: the definitions and their versions, their graph, and what they are made of.

mod conflicts;
mod diff;
mod graph;
mod picture;
mod show;
pub(super) mod versions;

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use engine::core::definition::schema;
use engine::store::VersionRow;
use serde::Serialize;
use workflows::actions::ACTIONS;

use super::format::{Listing, Tone, counted, paint, plain, time};
use super::{Context, Exit};
use crate::shell::now;

/// Look at workflows: the built-in ones and your own
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  tenure workflow list                                          and which versions open cases still run
  tenure workflow graph leaver
  tenure workflow graph leaver --svg > leaver.svg
  tenure workflow conflicts                                     who waits for whom, and who ends whom
  tenure workflow show leaver > tenure/workflows/leaver.yaml    to change it
  tenure workflow show leaver --steps
  tenure workflow diff 3f0c9a1e leaver                          a stored version and the one in force
  tenure workflow schema > workflow.schema.json                 for an editor

A version is a workflow's name (the one in force), the beginning of a stored version's hash, or a YAML file.
Open cases keep the version they began with; `tenure case migrate` moves them.")]
pub struct WorkflowCommand {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, Subcommand)]
enum Sub {
    /// List the workflows, the events that start them, and the versions that open cases run
    List,
    Show(show::Show),
    /// Print the JSON Schema of workflow files
    Schema,
    /// List the actions that steps can use
    Actions,
    /// Show what a new case does about open ones of the same person: every workflow against every workflow
    Conflicts,
    Graph(graph::Graph),
    Diff(diff::Diff),
}

#[derive(Serialize)]
struct Line {
    name: String,
    version: String,
    lane: &'static str,
    on: Vec<String>,
    /// In words, with how long before or after.
    started_by: String,
    steps: usize,
    description: String,
    /// Versions that the database has seen; null when there is no database to ask.
    versions: Option<Vec<Version>>,
}

#[derive(Serialize)]
struct Version {
    version: String,
    in_force: bool,
    first_seen: chrono::DateTime<chrono::Utc>,
    open_cases: u64,
}

/// Runs one of the commands on workflows.
///
/// # Errors
/// When the workflow does not exist, or a definition is wrong.
pub async fn run(context: &Context, command: WorkflowCommand) -> anyhow::Result<Exit> {
    match command.command {
        Sub::List => list(context).await?,
        Sub::Show(command) => show::run(context, command).await?,
        Sub::Schema => context
            .output
            .raw(&serde_json::to_string_pretty(&schema())?)?,
        Sub::Actions => actions(context)?,
        Sub::Conflicts => conflicts::run(context)?,
        Sub::Graph(command) => graph::run(context, command).await?,
        Sub::Diff(command) => return diff::run(context, command).await,
    }
    Ok(Exit::Good)
}

async fn list(context: &Context) -> anyhow::Result<()> {
    let stored = match versions::database(context).await? {
        None => None,
        Some(database) => Some(database.store.versions().await?),
    };
    let lines: Vec<Line> = versions::in_force(context)?
        .into_iter()
        .map(|definition| Line {
            versions: stored.as_ref().map(|stored| {
                let mine = stored.iter().filter(|row| row.workflow == definition.name);
                mine.map(|row| version(row, &definition.hash)).collect()
            }),
            name: definition.name.clone(),
            version: definition.hash.to_string(),
            lane: definition.lane.as_str(),
            on: definition.on.clone(),
            started_by: definition.started_by(),
            steps: definition.steps.len(),
            description: definition.description.clone(),
        })
        .collect();
    context.output.result(&lines, |lines| {
        let mut text = String::new();
        for line in lines {
            let version = line.version.get(..12).unwrap_or(&line.version);
            let _ = writeln!(
                text,
                "{}  {}\n  {}\n  started by {}",
                paint(&line.name, Tone::Strong),
                paint(
                    format!(
                        "{} steps · lane {} · version {version}",
                        line.steps, line.lane
                    ),
                    Tone::Dim
                ),
                plain(&line.description),
                paint(&line.started_by, Tone::Code)
            );
            for version in line.versions.iter().flatten() {
                // Versions that nothing runs any more are many after a while, and say nothing.
                if version.in_force || version.open_cases > 0 {
                    let _ = writeln!(text, "  {}", version_line(version));
                }
            }
            text.push('\n');
        }
        text.trim_end().to_owned()
    })
}

fn version(row: &VersionRow, in_force: &engine::core::id::DefinitionHash) -> Version {
    Version {
        version: row.hash.to_string(),
        in_force: row.hash == *in_force,
        first_seen: row.created_at,
        open_cases: row.open,
    }
}

fn version_line(version: &Version) -> String {
    let cases = counted(version.open_cases, "open case", "open cases");
    let hash = version.version.get(..12).unwrap_or(&version.version);
    let seen = time::relative(version.first_seen, now());
    let (what, tone) = if version.in_force {
        ("in force", Tone::Good)
    } else {
        ("of before", Tone::Warn)
    };
    format!(
        "{} {}  {}",
        paint(hash, Tone::Code),
        paint(what, tone),
        paint(format!("{cases} · first seen {seen}"), Tone::Dim)
    )
}

fn actions(context: &Context) -> anyhow::Result<()> {
    let built_in = [
        ("approval", "asks people, and waits for their answer"),
        ("task", "gives a person work to do by hand"),
        ("wait_for", "waits for a named signal"),
    ];
    let all: Vec<(&str, &str)> = ACTIONS.into_iter().chain(built_in).collect();
    context.output.result(&all, |all| {
        let mut listing = Listing::new(&["USES", "DOES"]).narrow(&[0]);
        for (name, does) in all {
            listing.row([
                ((*name).to_owned(), Tone::Code),
                ((*does).to_owned(), Tone::Plain),
            ]);
        }
        listing.to_string()
    })
}
