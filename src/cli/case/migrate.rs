//! `tenure case migrate`: open cases go on under another version of their workflow.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use engine::core::case::Case;
use engine::core::definition::{Definition, Lane};
use engine::core::id::{DefinitionHash, ShardId};
use engine::core::input::Migrate as Input;
use engine::core::migration::{Mapping, Obstacle, positions};
use engine::runner::{Command, Message};
use engine::store::{CaseCursor, CaseFilter, PAGE_ROWS_MAX};
use serde::Serialize;
use tokio::time::Instant;
use uuid::Uuid;

use super::super::workflow::versions;
use crate::cli::format::{Listing, Tone, counted, paint, shortened};
use crate::cli::{Context, Exit, actor};
use crate::shell::case_view::short;
use crate::shell::moving::{Verdict, verdict};
use crate::shell::{Database, now};

/// How many cases move at once, and how long their answers are waited for.
const CHUNK: usize = 100;
const ANSWER_WAIT: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);
/// How many cases a table shows.
const SHOWN_MAX: usize = 40;

/// Move open cases to another version of their workflow
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
A case keeps the version it began with. This moves it, step by step: a step becomes the one of the same id, or the
one that --map names. Every open case of the version is checked first, and each reason why one cannot move is
shown; nothing is changed without --yes. What was done stays done. With --yes either all of them move or none,
unless --possible-only is given.

The mapping can stand in a file:

  steps: { hand_over: pass_on }     # old step: new step
  drop: [notify]                    # steps of the old version that are left out, where they have not begun
  skip: [check]                     # steps of the new version that a case which is past them leaves out

Examples:
  tenure workflow diff 3f0c9a1e leaver
  tenure case migrate --workflow leaver --from 3f0c9a1e
  tenure case migrate --workflow leaver --from 3f0c9a1e --map contain=end_sessions --skip impact
  tenure case migrate --workflow leaver --from 3f0c9a1e --map-file moves.yaml --yes --reason 'rooms are handed back'
  tenure case migrate 6f2c1a9e --workflow leaver --from 3f0c9a1e --to 77b2d04c --yes --reason 'try it with one'")]
pub struct Migrate {
    /// Only these cases: identifiers, their beginnings, or keys of persons
    #[arg(value_name = "CASE")]
    cases: Vec<String>,
    /// The workflow
    #[arg(long, value_name = "NAME")]
    workflow: String,
    /// The version the cases run now: its hash, or the beginning
    #[arg(long, value_name = "HASH")]
    from: String,
    /// The version they are to run: a hash, its beginning, or a YAML file. Without it, the one in force
    #[arg(long, value_name = "VERSION")]
    to: Option<String>,
    /// An old step and the new one it becomes; may be given more than once
    #[arg(long = "map", value_name = "OLD=NEW", value_parser = pair)]
    map: Vec<(String, String)>,
    /// A step of the old version that is left out
    #[arg(long, value_name = "STEP")]
    drop: Vec<String>,
    /// A step of the new version that cases which are past it leave out
    #[arg(long, value_name = "STEP")]
    skip: Vec<String>,
    /// A file with the mapping, YAML or JSON
    #[arg(long, value_name = "FILE")]
    map_file: Option<PathBuf>,
    /// Why; it stands in the history and the evidence of each case
    #[arg(long, value_name = "TEXT", required_if_eq("yes", "true"))]
    reason: Option<String>,
    /// Move those that can, though others cannot
    #[arg(long)]
    possible_only: bool,
    /// Do it, instead of only saying what would happen
    #[arg(long)]
    yes: bool,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((old, new)) if !old.is_empty() && !new.is_empty() => {
            Ok((old.to_owned(), new.to_owned()))
        }
        _ => Err("write `old_step=new_step`".to_owned()),
    }
}

#[derive(Serialize)]
struct Told {
    workflow: String,
    from: String,
    to: String,
    mapping: Mapping,
    possible: usize,
    impossible: usize,
    cases: Vec<Line>,
    /// Whether anything was done.
    performed: bool,
}

#[derive(Serialize)]
struct Line {
    #[serde(flatten)]
    verdict: Verdict,
    /// `moved`, `refused` or `stored` (no node has answered yet); null when nothing was asked for.
    answer: Option<&'static str>,
}

/// Checks, and moves with `--yes`.
///
/// # Errors
/// When the versions or the mapping are wrong, or the database does not answer.
pub(super) async fn run(context: &Context, migrate: Migrate) -> anyhow::Result<Exit> {
    let database = context.database().await?;
    let from = versions::stored(&database, &migrate.from).await?;
    let from = from.with_context(|| {
        format!(
            "no version that is stored begins with `{}`; see `tenure workflow list`",
            migrate.from
        )
    })?;
    let old = database.version(&from).await?;
    let old = old.with_context(|| format!("version `{from}` is not stored any more"))?;
    let new = versions::find(context, migrate.to.as_deref().unwrap_or(&migrate.workflow)).await?;
    let mapping = mapping(&migrate)?;
    check(&migrate.workflow, &old, &new, &mapping)?;
    let to = Arc::new(new);
    let input = Input {
        from: from.clone(),
        to: Arc::clone(&to),
        mapping,
        by: actor(),
        reason: migrate.reason.clone().unwrap_or_default(),
    };
    let cases = wanted(&database, &migrate, &from).await?;
    let now = now();
    let mut lines: Vec<Line> = cases
        .iter()
        .map(|case| Line {
            verdict: verdict(case, &input, now),
            answer: None,
        })
        .collect();
    let impossible = lines.iter().filter(|line| !line.verdict.possible).count();
    let performed = migrate.yes && (impossible == 0 || migrate.possible_only) && !cases.is_empty();
    if performed {
        // The nodes find the version where every version is.
        database
            .store
            .put_definition(&to.hash, &to.name, &to.source, now)
            .await?;
        perform(&database, &cases, &input, &mut lines).await?;
    }
    let told = Told {
        workflow: migrate.workflow,
        from: from.to_string(),
        to: to.hash.to_string(),
        mapping: input.mapping,
        possible: lines.len() - impossible,
        impossible,
        cases: lines,
        performed,
    };
    context
        .output
        .result(&told, |told| text(told, migrate.yes))?;
    let refused = told.cases.iter().any(|line| line.answer == Some("refused"));
    Ok(
        if refused || (impossible > 0 && !(performed && migrate.possible_only)) {
            Exit::Bad
        } else {
            Exit::Good
        },
    )
}

fn mapping(migrate: &Migrate) -> anyhow::Result<Mapping> {
    let mut mapping = match &migrate.map_file {
        None => Mapping::default(),
        Some(file) => {
            let name = file.display();
            let text =
                std::fs::read_to_string(file).with_context(|| format!("cannot read `{name}`"))?;
            serde_saphyr::from_str(&text).with_context(|| format!("`{name}` is no mapping"))?
        }
    };
    let given: BTreeMap<String, String> = migrate.map.iter().cloned().collect();
    ensure!(
        given.len() == migrate.map.len(),
        "`--map` names a step twice; a step becomes one other"
    );
    mapping.steps.extend(given);
    mapping.drop.extend(migrate.drop.iter().cloned());
    mapping.skip.extend(migrate.skip.iter().cloned());
    Ok(mapping)
}

/// What is wrong for every case alike.
fn check(
    workflow: &str,
    old: &Definition,
    new: &Definition,
    mapping: &Mapping,
) -> anyhow::Result<()> {
    for (which, version) in [("--from", old), ("--to", new)] {
        ensure!(
            version.name == workflow,
            "`{which}` is a version of `{}`, not of `{workflow}`",
            version.name
        );
    }
    ensure!(
        old.hash != new.hash,
        "both are version `{}`; give another with `--to`",
        new.hash.short()
    );
    if let Some((step, uses)) = new.actions().find(|(_, uses)| !versions::is_action(uses)) {
        bail!("step `{step}` of the new version uses `{uses}`, which this program does not have");
    }
    let mut obstacles: Vec<Obstacle> = Vec::new();
    positions(old, new, mapping, &mut obstacles);
    if let Some(first) = obstacles.first() {
        bail!("{first}");
    }
    Ok(())
}

/// The cases that are meant: those named, or every open one of the version.
async fn wanted(
    database: &Database,
    migrate: &Migrate,
    from: &DefinitionHash,
) -> anyhow::Result<Vec<Case>> {
    let mut cases = Vec::new();
    for meant in &migrate.cases {
        let id = database.find_case(meant).await?;
        cases.push(database.case(id).await?);
    }
    if !cases.is_empty() {
        return Ok(cases);
    }
    let filter = CaseFilter {
        workflow: Some(migrate.workflow.clone()),
        definition: Some(from.clone()),
        open_only: true,
        ..CaseFilter::default()
    };
    let mut after = None;
    loop {
        let page = database.store.list(&filter, after, PAGE_ROWS_MAX).await?;
        let Some(last) = page.last() else {
            return Ok(cases);
        };
        after = Some(CaseCursor {
            created_at: last.head.created_at,
            case: last.head.case,
        });
        for summary in &page {
            let case = database.case(summary.head.case).await?;
            // It may have closed since the page was read.
            if !case.state.is_closed() {
                cases.push(case);
            }
        }
    }
}

/// Sends the commands, some at a time, and collects the answers.
async fn perform(
    database: &Database,
    cases: &[Case],
    input: &Input,
    lines: &mut [Line],
) -> anyhow::Result<()> {
    let alive = database.node_alive().await?;
    for (cases, lines) in cases.chunks(CHUNK).zip(lines.chunks_mut(CHUNK)) {
        let mut rows = Vec::new();
        let mut sent: Vec<Option<(ShardId, Uuid)>> = Vec::new();
        for (case, line) in cases.iter().zip(&*lines) {
            if !line.verdict.possible {
                sent.push(None);
                continue;
            }
            let id = Uuid::new_v4();
            let message = Message::Command {
                case: case.id,
                definition: None,
                command: Command::Migrate {
                    from: input.from.clone(),
                    to: input.to.hash.clone(),
                    mapping: input.mapping.clone(),
                    by: input.by.clone(),
                    reason: input.reason.clone(),
                },
            };
            rows.push(message.into_row(case.shard, id, Lane::Revocation, now())?);
            sent.push(Some((case.shard, id)));
        }
        database.store.put_inbox(&rows).await?;
        let until = Instant::now() + if alive { ANSWER_WAIT } else { Duration::ZERO };
        for (line, sent) in lines.iter_mut().zip(sent) {
            let Some((shard, id)) = sent else { continue };
            line.answer = Some("stored");
            loop {
                if let Some(reply) = database.store.reply(shard, id).await? {
                    line.answer = Some(if reply.accepted { "moved" } else { "refused" });
                    if !reply.accepted {
                        line.verdict.obstacles = vec![reply.message];
                    }
                    break;
                }
                if Instant::now() >= until {
                    break;
                }
                tokio::time::sleep(LOOK).await;
            }
        }
    }
    Ok(())
}

fn text(told: &Told, yes: bool) -> String {
    let short_hash = |hash: &str| hash.get(..12).unwrap_or(hash).to_owned();
    if told.cases.is_empty() {
        return format!(
            "no open case of `{}` runs version {}",
            told.workflow,
            short_hash(&told.from)
        );
    }
    let mut listing = Listing::new(&["CASE", "SUBJECT", "STATE", "", "REMARK"]).narrow(&[0, 2, 3]);
    // What cannot move is what somebody has to look at.
    let (cannot, can): (Vec<&Line>, Vec<&Line>) =
        told.cases.iter().partition(|line| !line.verdict.possible);
    for line in cannot.into_iter().chain(can).take(SHOWN_MAX) {
        let verdict = &line.verdict;
        let (word, tone) = match line.answer {
            Some("moved") => ("moved", Tone::Good),
            Some("refused") => ("refused", Tone::Bad),
            Some(_) => ("stored", Tone::Busy),
            None if verdict.possible => ("can move", Tone::Good),
            None => ("cannot", Tone::Bad),
        };
        let remarks = if verdict.obstacles.is_empty() {
            &verdict.remarks
        } else {
            &verdict.obstacles
        };
        listing.row([
            (short(&verdict.case.to_string()).to_owned(), Tone::Code),
            (shortened(&verdict.subject, 28), Tone::Strong),
            (verdict.state.to_owned(), Tone::of_state(verdict.state)),
            (word.to_owned(), tone),
            (shortened(&remarks.join("; "), 300), Tone::Dim),
        ]);
    }
    let mut text = format!(
        "{}\n\n{listing}",
        paint(
            format!(
                "{} {} -> {}",
                told.workflow,
                short_hash(&told.from),
                short_hash(&told.to)
            ),
            Tone::Dim
        )
    );
    if told.cases.len() > SHOWN_MAX {
        let more = told.cases.len() - SHOWN_MAX;
        text.push_str(&format!("\nand {more} more; --json has them all"));
    }
    text.push_str(&format!(
        "\n\n{} can move, {} cannot",
        counted(told.possible as u64, "case", "cases"),
        told.impossible
    ));
    if !told.performed {
        text.push_str(match (yes, told.impossible) {
            (true, _) => "; nothing was done. `--possible-only` moves those that can",
            (false, 0) => "; nothing was done. `--yes --reason TEXT` moves them",
            (false, _) => "; nothing was done",
        });
    }
    text
}
