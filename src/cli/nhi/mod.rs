//! `tenure nhi`: non-human identities, who answers for them, and what hangs on them.

mod calendar;
mod found;
mod observe;
mod picture;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use engine::core::duration::Span;
use serde::Serialize;
use workflows::directory::{DeclareReport, NODES_MAX, NhiChange, NhiFilter, NhiRow, PAGE_ROWS_MAX};
use workflows::nhi::check::{Answer, Finding, Intent, Question, Rules, Snapshot, Verdict, check};
use workflows::nhi::declare;
use workflows::nhi::graph::{Edge, Node};

use super::format::{Listing, Tone, counted, paint, plain, shortened, time};
use super::{Context, Exit, actor};
use crate::shell::now;

/// The longest text of a cell, in characters.
const CELL_CHARS_MAX: usize = 60;

/// Look after non-human identities: service accounts, workloads, API clients, bots, agents
#[derive(Debug, Args)]
#[command(after_long_help = "\
Each has an owner, another person as backup, a team, a purpose and a day of review; without them it is not taken.
docs/nhi.md describes the file, docs/dependency-checks.md what is found before something ends.

Examples:
  tenure nhi declare nhis.yaml --reason 'inventory of March'
  tenure nhi list --person E1003
  tenure nhi check person:E1003 --to leave
  tenure nhi graph nhi:billing-sync --svg > billing.svg")]
pub struct NhiCommand {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, Subcommand)]
enum Sub {
    Declare(Declare),
    List(List),
    Show(Show),
    Check(Check),
    Graph(Graph),
    Observe(observe::Observe),
    Look(found::Look),
    Found(found::FoundArgs),
    Adopt(Box<found::Adopt>),
    Accept(found::Accept),
    Retire(found::Retire),
    Restore(found::Restore),
    Calendar(calendar::Calendar),
}

/// Take a file of non-human identities, as a whole
#[derive(Debug, Args)]
#[command(after_long_help = "\
Of a file with a mistake, or with an owner nobody knows, nothing is taken. Said again it changes nothing.

Examples:
  tenure nhi declare nhis.yaml --reason 'inventory of March'
  tenure nhi declare nhis.yaml --reason 'new owner' --json | jq .changed")]
struct Declare {
    file: PathBuf,
    /// Why; stands beside the change
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// List non-human identities
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  tenure nhi list --team data
  tenure nhi list --person E1003 --json | jq -r '.[].nhi_key'
  tenure nhi list --review-within 30d")]
struct List {
    /// Only those that this person owns or backs up
    #[arg(long, value_name = "KEY")]
    person: Option<String>,
    #[arg(long)]
    team: Option<String>,
    #[arg(long)]
    environment: Option<String>,
    /// Only those that have to be reviewed within this time
    #[arg(long, value_name = "TIME", value_parser = Span::parse)]
    review_within: Option<Span>,
}

/// Show one with its credentials, its edges, and who declared what
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  tenure nhi show billing-sync
  tenure nhi show billing-sync --json | jq '.edges[] | select(.relation == \"uses\")'")]
struct Show {
    key: String,
}

/// Say what has to happen before something ends
#[derive(Debug, Args)]
#[command(after_long_help = "\
Nothing is changed. What is found is in the order in which it has to be done. Exit code 3 says that a person has to decide
something first.

Examples:
  tenure nhi check person:E1003 --to leave
  tenure nhi check person:E1003 --to leave --hostile
  tenure nhi check nhi:billing-sync --to delete
  tenure nhi check credential:warehouse/password:sync --to rotate --json")]
struct Check {
    /// What ends: `person:KEY`, `nhi:KEY`, `credential:SYSTEM/ID`
    node: Node,
    /// What happens to it
    #[arg(long, value_enum)]
    to: To,
    /// Nothing may wait: a hostile leaver, a secret that strangers know
    #[arg(long)]
    hostile: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum To {
    Leave,
    Disable,
    Delete,
    Rotate,
}

/// Draw what hangs on something
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  tenure nhi graph nhi:billing-sync
  tenure nhi graph person:E1003 --svg > E1003.svg
  tenure nhi graph person:E1003 --dot | dot -Tpdf > E1003.pdf")]
struct Graph {
    /// `person:KEY`, `nhi:KEY`, `credential:SYSTEM/ID`
    node: Node,
    /// Write a picture (SVG)
    #[arg(long, conflicts_with = "dot")]
    svg: bool,
    /// Write the language of Graphviz
    #[arg(long)]
    dot: bool,
}

/// Runs one of the commands on non-human identities.
///
/// # Errors
/// When a file is wrong, something is not known, or the database cannot be reached.
pub async fn run(context: &Context, command: NhiCommand) -> anyhow::Result<Exit> {
    match command.command {
        Sub::Declare(command) => take(context, &command).await,
        Sub::List(command) => list(context, command).await,
        Sub::Show(command) => show(context, &command).await,
        Sub::Check(command) => answer(context, command).await,
        Sub::Graph(command) => graph(context, &command).await,
        Sub::Observe(command) => observe::run(context, &command).await,
        Sub::Look(command) => found::look_at(context, &command).await,
        Sub::Found(command) => found::list(context, command).await,
        Sub::Adopt(command) => found::adopt(context, *command).await,
        Sub::Accept(command) => found::accept(context, &command).await,
        Sub::Retire(command) => found::retire(context, &command).await,
        Sub::Restore(command) => found::restore(context, command).await,
        Sub::Calendar(command) => calendar::run(context, &command).await,
    }
}

async fn take(context: &Context, command: &Declare) -> anyhow::Result<Exit> {
    if command.reason.trim().is_empty() {
        bail!("`--reason` is empty; say why, it stands beside the change");
    }
    let configuration = context.configuration()?;
    let file = command.file.display().to_string();
    let text =
        std::fs::read_to_string(&command.file).with_context(|| format!("cannot read `{file}`"))?;
    let systems: BTreeSet<&str> = configuration
        .systems
        .iter()
        .map(|system| system.name())
        .collect();
    let declared = declare::parse(&file, &text, &systems)?;
    let database = context.database().await?;
    let report = database
        .directory
        .declare(&declared, &actor(), &command.reason, now())
        .await?;
    database.close().await;
    let good = report.refused.is_empty();
    context.output.result(&report, told)?;
    Ok(if good { Exit::Good } else { Exit::Bad })
}

fn told(report: &DeclareReport) -> String {
    if !report.refused.is_empty() {
        let mut text = format!("{} nothing was taken", paint(Tone::Bad.sign(), Tone::Bad));
        for refused in &report.refused {
            text += &format!("\n  {}", plain(refused));
        }
        return text;
    }
    let count = |list: &[String]| u64::try_from(list.len()).unwrap_or(u64::MAX);
    format!(
        "{} {}, {} changed, {} as before",
        paint(Tone::Good.sign(), Tone::Good),
        counted(count(&report.new), "new identity", "new identities"),
        report.changed.len(),
        report.unchanged
    )
}

async fn list(context: &Context, list: List) -> anyhow::Result<Exit> {
    let database = context.database().await?;
    let filter = NhiFilter {
        person: list.person,
        team: list.team,
        environment: list.environment,
        review_by: list
            .review_within
            .map(|within| (now() + within.delta()).date_naive()),
    };
    let mut found: Vec<NhiRow> = Vec::new();
    loop {
        let after = found.last().map(|row| row.nhi_key.clone());
        let page = database
            .directory
            .nhis(&filter, after.as_deref(), PAGE_ROWS_MAX)
            .await?;
        if page.is_empty() {
            break;
        }
        found.extend(page);
    }
    context.output.result(&found, |found| table(found))?;
    database.close().await;
    Ok(Exit::Good)
}

fn table(found: &[NhiRow]) -> String {
    if found.is_empty() {
        return "no non-human identities".to_owned();
    }
    let headings = [
        "KEY",
        "KIND",
        "STATUS",
        "ENVIRONMENT",
        "OWNER",
        "BACKUP",
        "TEAM",
        "REVIEW",
    ];
    let mut listing = Listing::new(&headings).narrow(&[0, 1, 2, 7]);
    let today = now().date_naive();
    for row in found {
        let late = if row.review_on < today {
            Tone::Bad
        } else {
            Tone::Plain
        };
        listing.row([
            (plain(&row.nhi_key), Tone::Strong),
            (plain(&row.kind), Tone::Plain),
            (row.status.as_str().to_owned(), Tone::Dim),
            (shortened(&row.environment, CELL_CHARS_MAX), Tone::Plain),
            (shortened(&row.owner, CELL_CHARS_MAX), Tone::Plain),
            (shortened(&row.backup, CELL_CHARS_MAX), Tone::Plain),
            (shortened(&row.team, CELL_CHARS_MAX), Tone::Plain),
            (row.review_on.to_string(), late),
        ]);
    }
    listing.to_string()
}

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    row: NhiRow,
    edges: Vec<Edge>,
    changes: Vec<NhiChange>,
}

async fn show(context: &Context, show: &Show) -> anyhow::Result<Exit> {
    let database = context.database().await?;
    let directory = &database.directory;
    let Some(row) = directory.nhi(&show.key).await? else {
        bail!(
            "no non-human identity is called `{}`; `tenure nhi list` shows those there are",
            plain(&show.key)
        );
    };
    let nodes: Vec<Node> = std::iter::once(Node::nhi(&row.nhi_key))
        .chain(
            row.declared
                .credentials
                .iter()
                .map(|one| Node::credential(one.name())),
        )
        .collect();
    let edges = directory.edges_at(&nodes).await?;
    let changes = directory.nhi_changes(&show.key).await?;
    context.output.result(
        &Shown {
            row,
            edges,
            changes,
        },
        shown,
    )?;
    database.close().await;
    Ok(Exit::Good)
}

fn shown(shown: &Shown) -> String {
    let (row, at) = (&shown.row, now());
    let declared = &row.declared;
    let mut text = format!(
        "{} {} in {}: {}\n\nowner {}, backup {}, team {}, review {}\n",
        paint(plain(&row.nhi_key), Tone::Strong),
        row.kind,
        plain(&row.environment),
        plain(&declared.purpose),
        plain(&row.owner),
        plain(&row.backup),
        plain(&row.team),
        row.review_on
    );
    if !declared.credentials.is_empty() {
        let mut listing = Listing::new(&["CREDENTIAL", "KIND", "EXPIRES", "LIES IN"]);
        for credential in &declared.credentials {
            let expires = credential
                .expires
                .map_or_else(String::new, |end| time::relative(end, at));
            let lies = credential.stored_in.as_deref().unwrap_or_default();
            listing.row([
                (shortened(&credential.name(), CELL_CHARS_MAX), Tone::Plain),
                (credential.kind.as_str().to_owned(), Tone::Plain),
                (expires, Tone::Plain),
                (shortened(lies, CELL_CHARS_MAX), Tone::Plain),
            ]);
        }
        text += &format!("\n{listing}\n");
    }
    text += &format!("\n{}\n", edges(&shown.edges));
    for change in &shown.changes {
        text += &format!(
            "\n{} {} by {}: {}",
            time::relative(change.at, at),
            plain(&change.change),
            plain(&change.by_actor),
            plain(&change.reason)
        );
    }
    text
}

fn edges(edges: &[Edge]) -> String {
    let mut listing = Listing::new(&["FROM", "", "TO", "KNOWN FROM", "LAST SEEN"]).narrow(&[1]);
    for edge in edges {
        listing.row([
            (
                shortened(&edge.from.to_string(), CELL_CHARS_MAX),
                Tone::Plain,
            ),
            (edge.relation.as_str().to_owned(), Tone::Strong),
            (shortened(&edge.to.to_string(), CELL_CHARS_MAX), Tone::Plain),
            (
                format!(
                    "{}, {}",
                    shortened(&edge.source, CELL_CHARS_MAX),
                    edge.confidence.as_str()
                ),
                Tone::Dim,
            ),
            (time::relative(edge.last_seen_at, now()), Tone::Dim),
        ]);
    }
    listing.to_string()
}

async fn answer(context: &Context, command: Check) -> anyhow::Result<Exit> {
    let intent = match command.to {
        To::Leave => Intent::Leave,
        To::Disable => Intent::Disable,
        To::Delete => Intent::Delete,
        To::Rotate => Intent::Rotate,
    };
    let question = Question {
        subject: command.node,
        intent,
        hostile: command.hostile,
    };
    let snapshot = snapshot(context, question).await?;
    let answer = check(&snapshot);
    let stops = answer.stopping().next().is_some();
    context.output.result(&answer, answered)?;
    Ok(if stops { Exit::Waiting } else { Exit::Good })
}

/// All that the answer to a question rests on.
async fn snapshot(context: &Context, question: Question) -> anyhow::Result<Snapshot> {
    let database = context.database().await?;
    let found = database
        .directory
        .dependencies(question, &BTreeMap::new(), Rules::default(), now())
        .await?;
    database.close().await;
    found.map_err(|count| {
        anyhow::anyhow!(
            "more than {NODES_MAX} things hang on it (at least {count}): ask about a part of them"
        )
    })
}

fn answered(answer: &Answer) -> String {
    if answer.findings.is_empty() {
        return "nothing hangs on it that is known".to_owned();
    }
    let mut listing = Listing::new(&["", "WHAT", "VERDICT", "TO", "BY", "BECAUSE"])
        .right(&[0])
        .narrow(&[2, 4]);
    for (number, finding) in (1..).zip(&answer.findings) {
        let to = finding
            .to
            .as_ref()
            .map_or_else(String::new, ToString::to_string);
        let by = finding
            .deadline
            .map_or_else(String::new, |end| time::relative(end, now()));
        listing.row([
            (number.to_string(), Tone::Dim),
            (
                shortened(&finding.node.to_string(), CELL_CHARS_MAX),
                Tone::Strong,
            ),
            (finding.verdict.to_string(), tone(finding.verdict)),
            (shortened(&to, CELL_CHARS_MAX), Tone::Plain),
            (by, Tone::Plain),
            (plain(&because(finding)), Tone::Dim),
        ]);
    }
    format!("{listing}\n\nsnapshot {}", answer.digest)
}

fn because(finding: &Finding) -> String {
    let mut reasons: Vec<String> = finding.reasons.iter().map(ToString::to_string).collect();
    let named = |nodes: &BTreeSet<Node>| -> String {
        nodes
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    };
    if !finding.needs.is_empty() {
        reasons.push(format!("after {}", named(&finding.needs)));
    }
    if !finding.breaks.is_empty() {
        reasons.push(format!("breaks {}", named(&finding.breaks)));
    }
    reasons.join("; ")
}

fn tone(verdict: Verdict) -> Tone {
    match verdict {
        Verdict::Proceed => Tone::Good,
        Verdict::Block | Verdict::InsufficientEvidence => Tone::Bad,
        _ => Tone::Plain,
    }
}

async fn graph(context: &Context, graph: &Graph) -> anyhow::Result<Exit> {
    let question = Question {
        subject: graph.node.clone(),
        intent: Intent::Disable,
        hostile: false,
    };
    let snapshot = snapshot(context, question).await?;
    if snapshot.edges.is_empty() {
        bail!(
            "nothing is known of `{}`; `tenure nhi list` shows what is",
            plain(&graph.node.to_string())
        );
    }
    if graph.svg {
        context.output.raw(&picture::svg(&snapshot.edges))?;
    } else if graph.dot {
        context.output.raw(&picture::dot(&snapshot.edges))?;
    } else {
        context
            .output
            .result(&snapshot.edges, |found| edges(found))?;
    }
    Ok(Exit::Good)
}
