//! `tenure workflow graph`: the steps of a workflow, as characters, as a picture, or for Graphviz.

use engine::core::definition::{Definition, Start, Step, Work};
use serde::Serialize;

use super::super::Context;
use super::super::format::graph::{Node, draw};
use super::super::format::{Tone, paint};
use super::{picture, versions};

/// Draw a workflow's steps
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tenure workflow graph leaver
  tenure workflow graph 3f0c9a1e                        a stored version
  tenure workflow graph leaver --svg > leaver.svg
  tenure workflow graph leaver --dot | dot -Tpdf > leaver.pdf")]
pub(super) struct Graph {
    /// A workflow's name, the beginning of a stored version's hash, or a YAML file
    #[arg(value_name = "VERSION")]
    meant: String,
    /// Write a picture (SVG)
    #[arg(long, conflicts_with = "dot")]
    svg: bool,
    /// Write the language of Graphviz
    #[arg(long)]
    dot: bool,
}

/// Draws.
///
/// # Errors
/// When there is no such version.
pub(super) async fn run(context: &Context, graph: Graph) -> anyhow::Result<()> {
    let definition = versions::find(context, &graph.meant).await?;
    if graph.svg {
        return context.output.raw(&picture::svg(&definition));
    }
    if graph.dot {
        return context.output.raw(&picture::dot(&definition));
    }
    draw_text(context, &definition)
}

#[derive(Serialize)]
struct GraphStep {
    id: String,
    uses: String,
    needs: Vec<String>,
    for_each: bool,
    undo: Option<String>,
}

fn draw_text(context: &Context, definition: &Definition) -> anyhow::Result<()> {
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
                    paint(said(step), Tone::Dim)
                )],
                needs: step.needs.iter().map(|need| usize::from(need.0)).collect(),
            })
            .collect();
        let on = if definition.on.is_empty() {
            "by hand".to_owned()
        } else {
            definition.started_by()
        };
        let head = format!(
            "{}  {}",
            paint(&definition.name, Tone::Strong),
            paint(format!("started by {on}"), Tone::Dim)
        );
        format!("{head}\n\n{}", draw(&nodes).join("\n"))
    })
}

/// What is to be said of a step beside its name.
pub(super) fn remarks(step: &Step) -> Vec<String> {
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
    remarks
}

fn said(step: &Step) -> String {
    let remarks = remarks(step);
    if remarks.is_empty() {
        String::new()
    } else {
        format!("  {}", remarks.join(" · "))
    }
}
