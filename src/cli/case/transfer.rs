//! `tenure case export` and `import`: cases with their whole history, out of one database and into another.

use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use engine::core::id::CaseId;
use engine::store::{CaseCursor, PAGE_ROWS_MAX};
use serde_json::json;

use crate::cli::format::{Tone, counted, paint};
use crate::cli::{Context, Exit};
use crate::shell::search::Search;
use crate::shell::{Database, now, transfer};

/// The most cases one file takes.
const CASES_MAX: usize = 10_000;

/// Write cases with their history and evidence into a file
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
The file has one line of JSON for each case, and one for each version of a workflow that they ran; see
docs/workflow-versions.md. It holds personal data and no secrets of systems. The same case gives the same file from
every database.

Examples:
  tenure case export 6f2c1a9e -o case.jsonl
  tenure case export --workflow leaver --closed -o leavers.jsonl
  tenure case export E10023 -o - | jq .")]
pub struct Export {
    /// Cases: identifiers, their beginnings, or keys of persons
    #[arg(value_name = "CASE", required_unless_present = "workflow")]
    cases: Vec<String>,
    /// Every case of this workflow
    #[arg(long, value_name = "NAME", conflicts_with = "cases")]
    workflow: Option<String>,
    /// Of the workflow's cases, only those that are closed
    #[arg(long, requires = "workflow")]
    closed: bool,
    /// The file; `-` for the standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// Take cases of a file into this database
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
A case that is here already, just so, is left alone; one that is here with other content stops the import before
anything is written. No node may run on the database meanwhile. An open case is taken only with --take-over: two
databases must never run the same case, so stop the nodes it came from for good, or pause it there before it is
exported. What was in flight is read back when a node starts here. The directory (people, accounts, grants) is not part
of the file.

Examples:
  tenure case import leavers.jsonl --store postgres://tenure@db.internal/tenure
  tenure case import case.jsonl --take-over")]
pub struct Import {
    /// The file that `tenure case export` wrote
    file: PathBuf,
    /// Open cases are run from here on; nobody runs them any more where they came from
    #[arg(long)]
    take_over: bool,
}

/// Exports.
///
/// # Errors
/// When a case does not exist, or the file cannot be written.
pub(super) async fn export(context: &Context, export: Export) -> anyhow::Result<Exit> {
    let database = context.database().await?;
    let mut cases: Vec<CaseId> = Vec::new();
    for meant in &export.cases {
        let case = database.find_case(meant).await?;
        if !cases.contains(&case) {
            cases.push(case);
        }
    }
    if let Some(workflow) = &export.workflow {
        cases = of_workflow(&database, workflow, export.closed).await?;
    }
    ensure!(
        cases.len() <= CASES_MAX,
        "{} cases are more than one file takes ({CASES_MAX}); name them, or export fewer",
        cases.len()
    );
    let text = transfer::export(&database, &cases).await?;
    if export.output == Path::new("-") {
        context.output.raw(&text)?;
        return Ok(Exit::Good);
    }
    write(&export.output, &text)?;
    let told = json!({"file": export.output, "cases": cases.len(), "bytes": text.len()});
    context.output.result(&told, |_| {
        format!(
            "{} {} in `{}`",
            paint(Tone::Good.sign(), Tone::Good),
            counted(cases.len() as u64, "case", "cases"),
            export.output.display()
        )
    })?;
    Ok(Exit::Good)
}

/// Oldest first, so that files of two days have the same order.
async fn of_workflow(
    database: &Database,
    workflow: &str,
    closed: bool,
) -> anyhow::Result<Vec<CaseId>> {
    let search = Search {
        workflow: Some(workflow.to_owned()),
        ..Search::default()
    };
    let filter = search.filter(database, now()).await?;
    let filter = filter.map_err(|mistake| anyhow::anyhow!("`--workflow`: {}", mistake.what))?;
    let mut cases = Vec::new();
    let mut after = None;
    loop {
        let page = database.store.list(&filter, after, PAGE_ROWS_MAX).await?;
        let Some(last) = page.last() else { break };
        after = Some(CaseCursor {
            created_at: last.head.created_at,
            case: last.head.case,
        });
        let wanted = page
            .iter()
            .filter(|summary| !closed || summary.state.state.is_closed());
        cases.extend(wanted.map(|summary| summary.head.case));
        if cases.len() > CASES_MAX {
            break;
        }
    }
    cases.reverse();
    Ok(cases)
}

/// Readable by its owner only: it holds what the database holds.
fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options
        .open(file)
        .and_then(|mut open| open.write_all(text.as_bytes()));
    written.with_context(|| format!("cannot write `{}`", file.display()))
}

/// Imports.
///
/// # Errors
/// When the file is wrong, a case is there with other content, or a node runs on the database.
pub(super) async fn import(context: &Context, import: Import) -> anyhow::Result<Exit> {
    let name = import.file.display().to_string();
    let file =
        std::fs::File::open(&import.file).with_context(|| format!("cannot read `{name}`"))?;
    let database = context.prepared_database().await?;
    let imported = transfer::import(&database, BufReader::new(file), import.take_over).await;
    let imported = imported.with_context(|| format!("`{name}` was not imported"))?;
    context.output.result(&imported, |imported| {
        format!(
            "{} {} written, {} there already",
            paint(Tone::Good.sign(), Tone::Good),
            counted(imported.written.len() as u64, "case", "cases"),
            imported.same.len()
        )
    })?;
    Ok(Exit::Good)
}
