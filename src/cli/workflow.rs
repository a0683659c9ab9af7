//! `tenure workflow`: the definitions, their graph, and what they are made of.

use std::fmt::Write as _;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use engine::core::definition::{Definition, Start, Step, Work, schema};
use serde::Serialize;
use workflows::actions::ACTIONS;
use workflows::definitions;

use super::format::graph::{Node, draw};
use super::format::{Listing, Tone, paint, plain};
use super::{Context, Exit};

/// Look at workflows: the built-in ones and your own
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  tenure workflow list
  tenure workflow graph leaver
  tenure workflow show leaver > tenure/workflows/leaver.yaml    to change it
  tenure workflow schema > workflow.schema.json                 for an editor")]
pub struct WorkflowCommand {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, Subcommand)]
enum Sub {
    /// List the workflows and the events that start them
    List,
    /// Print a workflow's YAML, as it is in force
    Show(Named),
    /// Print the JSON Schema of workflow files
    Schema,
    /// List the actions that steps can use
    Actions,
    /// Draw a workflow's steps
    Graph(Named),
}

#[derive(Debug, Args)]
struct Named {
    /// The workflow's name
    name: String,
}

#[derive(Serialize)]
struct Line {
    name: String,
    version: String,
    lane: &'static str,
    on: Vec<String>,
    steps: usize,
    description: String,
}

/// Runs one of the commands on workflows.
///
/// # Errors
/// When the workflow does not exist, or a definition is wrong.
pub fn run(context: &Context, command: WorkflowCommand) -> anyhow::Result<Exit> {
    match command.command {
        Sub::List => list(context)?,
        Sub::Show(named) => context
            .output
            .raw(find(context, &named.name)?.source.trim_end())?,
        Sub::Schema => context
            .output
            .raw(&serde_json::to_string_pretty(&schema())?)?,
        Sub::Actions => actions(context)?,
        Sub::Graph(named) => graph(context, &find(context, &named.name)?)?,
    }
    Ok(Exit::Good)
}

/// Those in force: of the configuration folder where there is one, else the built-in ones.
fn all(context: &Context) -> anyhow::Result<Vec<Definition>> {
    if context.config.is_dir() {
        Ok(context.configuration()?.definitions)
    } else {
        Ok(definitions::load(&[])?)
    }
}

fn find(context: &Context, name: &str) -> anyhow::Result<Definition> {
    let all = all(context)?;
    let known: Vec<String> = all
        .iter()
        .map(|definition| definition.name.clone())
        .collect();
    all.into_iter()
        .find(|definition| definition.name == name)
        .with_context(|| {
            format!(
                "there is no workflow `{name}`; there are {}",
                known.join(", ")
            )
        })
}

fn list(context: &Context) -> anyhow::Result<()> {
    let lines: Vec<Line> = all(context)?
        .into_iter()
        .map(|definition| Line {
            name: definition.name.clone(),
            version: definition.hash.to_string(),
            lane: definition.lane.as_str(),
            on: definition.on.clone(),
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
                "{}  {}\n  {}\n  started by {}\n",
                paint(&line.name, Tone::Strong),
                paint(
                    format!(
                        "{} steps · lane {} · version {version}",
                        line.steps, line.lane
                    ),
                    Tone::Dim
                ),
                plain(&line.description),
                paint(line.on.join(", "), Tone::Code)
            );
        }
        text.trim_end().to_owned()
    })
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

#[derive(Serialize)]
struct GraphStep {
    id: String,
    uses: String,
    needs: Vec<String>,
    for_each: bool,
    undo: Option<String>,
}

fn graph(context: &Context, definition: &Definition) -> anyhow::Result<()> {
    let name = |step: &Step| step.id.clone();
    let steps: Vec<GraphStep> = definition
        .steps
        .iter()
        .map(|step| GraphStep {
            id: step.id.clone(),
            uses: step.work.uses().to_owned(),
            needs: step
                .needs
                .iter()
                .filter_map(|need| definition.step(*need).map(name))
                .collect(),
            for_each: step.for_each.is_some(),
            undo: step.undo.as_ref().map(|undo| undo.uses.clone()),
        })
        .collect();
    context.output.result(&steps, |_| {
        let width = definition
            .steps
            .iter()
            .map(|step| step.id.chars().count())
            .max()
            .unwrap_or(0);
        let nodes: Vec<Node> = definition
            .steps
            .iter()
            .map(|step| Node {
                tone: Tone::Dim,
                lines: vec![format!(
                    "{}  {}{}",
                    paint(format!("{:<width$}", step.id), Tone::Strong),
                    paint(step.work.uses(), Tone::Code),
                    paint(remarks(step), Tone::Dim)
                )],
                needs: step.needs.iter().map(|need| usize::from(need.0)).collect(),
            })
            .collect();
        let on = if definition.on.is_empty() {
            "by hand".to_owned()
        } else {
            definition.on.join(", ")
        };
        let head = format!(
            "{}  {}",
            paint(&definition.name, Tone::Strong),
            paint(format!("started by {on}"), Tone::Dim)
        );
        format!("{head}\n\n{}", draw(&nodes).join("\n"))
    })
}

fn remarks(step: &Step) -> String {
    let mut remarks = Vec::new();
    if step.for_each.is_some() {
        remarks.push("for each".to_owned());
    }
    if step.condition.is_some() {
        remarks.push("if".to_owned());
    }
    match &step.start {
        Start::AtOnce => {}
        Start::After(span) => remarks.push(format!("after {span}")),
        Start::At(_) => remarks.push("at its time".to_owned()),
    }
    if let Work::Approval(approval) = &step.work {
        remarks.push(format!("asks {}", approval.ask.join(", ")));
    }
    if let Some(undo) = &step.undo {
        remarks.push(format!("undo {}", undo.uses));
    }
    if remarks.is_empty() {
        String::new()
    } else {
        format!("  {}", remarks.join(" · "))
    }
}
