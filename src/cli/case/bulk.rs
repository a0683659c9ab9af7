//! `tenure case bulk`: the same operation on many cases, previewed first.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use chrono::{DateTime, Utc};
use engine::core::case::CaseState;
use engine::core::duration::Span;
use serde::Serialize;
use uuid::Uuid;

use crate::cli::format::{Bar, Listing, Tone, counted, paint, plain, shortened, time};
use crate::cli::{Context, Exit, actor};
use crate::shell::bulk::{self, Candidate, Choice, Operation, Preview, Verdict, Wish};
use crate::shell::case_view::short;
use crate::shell::now;

/// How many cases a preview shows.
const SAMPLE: usize = 10;
/// How many reasons and refusals are told.
const REASONS: usize = 10;
/// How long the answers of all cases are waited for.
const ANSWERS_WAIT: Duration = Duration::from_secs(120);

/// Do the same to many cases: shown first, done with --yes
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Without --yes nothing is done: it says how many cases fit, shows some, and says which would refuse and why. The
preview ends with the name of its set. Give that as --set, and what is done is exactly what was shown: if other
cases fit by then, nothing is done. Only open cases are taken, at most 10,000 at once.

Each case answers for itself, and what was done stands in its own history and evidence, with the reason.

Examples:
  tenure case bulk retry --parked --system crm --reason 'crm is back'
  tenure case bulk retry --parked --system crm --reason 'crm is back' --set 91c2f1d0a7b3e455 --yes
  tenure case bulk pause --workflow mover --reason 'the role model is being changed' --yes
  tenure case bulk resume --paused --reason 'done' --yes
  tenure case bulk skip --step remove --workflow leaver --system fax --reason 'switched off in March'
  tenure case bulk cancel --workflow joiner --state queued --older-than 30d --reason 'never began'")]
pub struct Bulk {
    /// What to do
    operation: Operation,
    /// Only of this workflow
    #[arg(long, value_name = "NAME")]
    workflow: Option<String>,
    /// Only in these states, separated by commas
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = state)]
    state: Vec<CaseState>,
    /// Only with something unfinished about this system
    #[arg(long, value_name = "NAME")]
    system: Option<String>,
    /// Only of this person
    #[arg(long, value_name = "KEY")]
    subject: Option<String>,
    /// Only made longer ago than this: `90m`, `36h`, `30d`
    #[arg(long, value_name = "TIME", value_parser = span)]
    older_than: Option<Span>,
    /// Only with parked work
    #[arg(long)]
    parked: bool,
    /// Only paused ones
    #[arg(long)]
    paused: bool,
    /// The step, by its id; needed for `skip` and `rerun`
    #[arg(long, value_name = "STEP")]
    step: Option<String>,
    /// Why; it stands in the evidence of each case
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Only show what would be done; that is so without --yes too
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Do it
    #[arg(long)]
    yes: bool,
    /// The set that was shown: nothing is done if it is another by now
    #[arg(long, value_name = "NAME", requires = "yes")]
    set: Option<String>,
}

fn state(text: &str) -> Result<CaseState, String> {
    match CaseState::parse(text) {
        Some(state) if !state.is_closed() => Ok(state),
        Some(_) => Err("a closed case takes nothing any more".to_owned()),
        None => Err("there is no such state; see `tenure case list --help`".to_owned()),
    }
}

fn span(text: &str) -> Result<Span, String> {
    Span::parse(text).map_err(|error| error.to_string())
}

#[derive(Serialize)]
struct Told<'a> {
    operation: Operation,
    dry_run: bool,
    set: &'a str,
    count: usize,
    /// More cases fit than are taken at once.
    more: bool,
    cases: &'a [Candidate],
    refused: &'a [Candidate],
    verdicts: Vec<Verdict>,
}

pub(super) async fn run(context: &Context, command: Bulk) -> anyhow::Result<Exit> {
    ensure!(
        !command.operation.needs_step() || command.step.is_some(),
        "say which step with `--step`"
    );
    ensure!(
        !command.reason.trim().is_empty(),
        "`--reason` is empty; say why, it stands in the history of every case"
    );
    let database = context.database().await?;
    let before = match command.older_than {
        None => None,
        Some(span) => Some(
            now()
                .checked_sub_signed(span.delta())
                .context("`--older-than` is longer than time itself")?,
        ),
    };
    let choice = Choice {
        workflow: command.workflow,
        subject: command.subject,
        states: command.state,
        system: command.system,
        before,
        parked: command.parked,
        paused: command.paused,
    };
    let wish = Wish {
        operation: command.operation,
        step: command.step,
        by: actor(),
        reason: command.reason,
    };
    let preview = bulk::preview(&database, &wish, &choice, bulk::CASES_MAX).await?;
    if !command.yes {
        let told = told(&wish, &preview, true, Vec::new());
        context
            .output
            .result(&told, |_| shown(&preview, wish.operation, now()))?;
        return Ok(Exit::Good);
    }
    if let Some(set) = &command.set
        && *set != preview.set
    {
        bail!(
            "other cases fit now ({} of them, set `{}`) than those of set `{set}`; nothing was done. Look again without `--yes`",
            preview.accepted.len(),
            preview.set
        );
    }
    let total = u64::try_from(preview.accepted.len()).unwrap_or(u64::MAX);
    let alive = database.node_alive().await?;
    let wait = if alive { ANSWERS_WAIT } else { Duration::ZERO };
    let bar = Bar::new(wish.operation.as_str(), total, context.output.json);
    let progress = |done: usize| bar.set(u64::try_from(done).unwrap_or(u64::MAX), total);
    let run = Uuid::new_v4();
    let verdicts = bulk::act(&database, &preview, &wish, run, wait, || {}, progress).await?;
    bar.end();
    let refused = verdicts.iter().any(|verdict| verdict.state == "refused");
    let told = told(&wish, &preview, false, verdicts);
    context
        .output
        .result(&told, |told| done(told, &preview, alive))?;
    Ok(if refused { Exit::Bad } else { Exit::Good })
}

fn told<'a>(wish: &Wish, preview: &'a Preview, dry_run: bool, verdicts: Vec<Verdict>) -> Told<'a> {
    Told {
        operation: wish.operation,
        dry_run,
        set: &preview.set,
        count: preview.accepted.len(),
        more: preview.more,
        cases: &preview.accepted,
        refused: &preview.refused,
        verdicts,
    }
}

/// The preview.
fn shown(preview: &Preview, operation: Operation, now: DateTime<Utc>) -> String {
    let count = u64::try_from(preview.accepted.len()).unwrap_or(u64::MAX);
    let mut text = format!(
        "{} of {}",
        paint(operation.as_str(), Tone::Strong),
        paint(counted(count, "case", "cases"), Tone::Strong)
    );
    if preview.more {
        text.push_str("; more fit than are taken at once, so do it again afterwards");
    }
    text.push('\n');
    if !preview.accepted.is_empty() {
        let mut listing =
            Listing::new(&["CASE", "WORKFLOW", "SUBJECT", "STATE", "STARTED"]).narrow(&[0, 3, 4]);
        for candidate in preview.accepted.iter().take(SAMPLE) {
            listing.row([
                (short(&candidate.case.to_string()).to_owned(), Tone::Code),
                (shortened(&candidate.workflow, 24), Tone::Plain),
                (shortened(&candidate.subject, 28), Tone::Strong),
                (candidate.state.to_owned(), Tone::of_state(candidate.state)),
                (time::relative(candidate.created_at, now), Tone::Dim),
            ]);
        }
        let _ = writeln!(text, "\n{listing}");
        if preview.accepted.len() > SAMPLE {
            let more = preview.accepted.len() - SAMPLE;
            let _ = writeln!(
                text,
                "{}",
                paint(format!("and {more} more; --json has them all"), Tone::Dim)
            );
        }
    }
    text.push_str(&refusals(preview));
    if preview.accepted.is_empty() {
        text.push_str("nothing to do");
    } else {
        let _ = write!(
            text,
            "\nnothing is done yet. To do exactly this, the same again with {}",
            paint(format!("--set {} --yes", preview.set), Tone::Code)
        );
    }
    text
}

fn refusals(preview: &Preview) -> String {
    let mut text = String::new();
    if !preview.refused.is_empty() {
        let count = u64::try_from(preview.refused.len()).unwrap_or(u64::MAX);
        let _ = writeln!(
            text,
            "\n{} would refuse and is left out:",
            counted(count, "case", "cases")
        );
        for (reason, count) in preview.reasons().into_iter().take(REASONS) {
            let _ = writeln!(text, "  {count:>6}  {}", plain(&reason));
        }
    }
    text
}

/// What was done.
fn done(told: &Told<'_>, preview: &Preview, alive: bool) -> String {
    let of = |state: &str| {
        let verdicts = told
            .verdicts
            .iter()
            .filter(|verdict| verdict.state == state);
        u64::try_from(verdicts.count()).unwrap_or(u64::MAX)
    };
    let mut text = format!(
        "{} {} of {} accepted",
        paint(Tone::Good.sign(), Tone::Good),
        of("accepted"),
        counted(
            u64::try_from(told.count).unwrap_or(u64::MAX),
            "case",
            "cases"
        )
    );
    if of("pending") > 0 {
        let why = if alive {
            "have not answered yet; `tenure case show` tells"
        } else {
            "are stored; no node is running on this database, they are carried out as soon as `tenure serve` runs"
        };
        let _ = write!(
            text,
            "\n{} {why}",
            counted(of("pending"), "command", "commands")
        );
    }
    if of("refused") > 0 {
        let _ = write!(
            text,
            "\n{} refused:",
            counted(of("refused"), "case", "cases")
        );
        let refused = told
            .verdicts
            .iter()
            .filter(|verdict| verdict.state == "refused");
        for verdict in refused.take(REASONS) {
            let _ = write!(
                text,
                "\n  {}  {}",
                paint(short(&verdict.case.to_string()), Tone::Code),
                plain(&verdict.message)
            );
        }
    }
    let left_out = refusals(preview);
    if !left_out.is_empty() {
        let _ = write!(text, "\n{}", left_out.trim_end());
    }
    text
}
