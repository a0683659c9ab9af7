//! `tenure case list`.

use std::fmt::Write as _;

use anyhow::bail;
use chrono::{DateTime, Utc};
use engine::core::case::CaseState;
use engine::core::duration::Span;
use engine::store::{CaseCursor, CaseSummary, Waiting};
use serde::Serialize;
use uuid::Uuid;
use workflows::directory::{SystemState, SystemStateRow};

use crate::cli::format::{Listing, Tone, paint, plain, shortened, time};
use crate::cli::{Context, Exit};
use crate::shell::search::Search;
use crate::shell::{case_view, now};

/// List cases, newest first
#[derive(Debug, clap::Args)]
#[command(disable_version_flag = true)]
#[command(after_long_help = "\
Systems whose breaker is open stand above the list: cases that wait for them go on by themselves.

Examples:
  tenure case list --open
  tenure case list --parked                     what waits for a person
  tenure case list --workflow leaver --state unverified
  tenure case list --subject E10023
  tenure case list --waits person --older-than 2d        what people left lying
  tenure case list --waits system-away --system crm
  tenure case list --step disable --error denied
  tenure case list --workflow leaver --version 3f0c9a1e  what still runs that version
  tenure case list --limit 1000 --json | jq '.cases[].id'")]
pub struct List {
    /// Only cases in this state; may be given more than once
    #[arg(long = "state", value_name = "STATE", value_parser = state)]
    states: Vec<CaseState>,
    /// Only cases of this workflow
    #[arg(long, value_name = "NAME")]
    workflow: Option<String>,
    /// Only cases of this person
    #[arg(long, value_name = "KEY")]
    subject: Option<String>,
    /// Only cases that are not closed
    #[arg(long)]
    open: bool,
    /// Only cases that wait for a person because something failed for good
    #[arg(long)]
    parked: bool,
    /// Only cases that run this version of their workflow: its hash, or the beginning
    #[arg(id = "running", long = "version", value_name = "HASH")]
    version: Option<String>,
    /// Only cases with work that waits for this; may be given more than once: person, signal, timer, system-away,
    /// retry, accepted, answer-lost, queued, parked
    #[arg(long = "waits", value_name = "REASON", value_parser = waiting)]
    waits: Vec<Waiting>,
    /// Only cases with open work on this system
    #[arg(long, value_name = "NAME")]
    system: Option<String>,
    /// Only cases that are at this step
    #[arg(long, value_name = "STEP")]
    step: Option<String>,
    /// Only cases with open work whose last failure is of this kind: timeout, denied, conflict ...
    #[arg(long, value_name = "KIND")]
    error: Option<String>,
    /// Only cases made longer ago than this: 30m, 12h, 90d
    #[arg(long, value_name = "AGE", value_parser = Span::parse)]
    older_than: Option<Span>,
    /// Only cases made within this time
    #[arg(long, value_name = "AGE", value_parser = Span::parse)]
    newer_than: Option<Span>,
    /// How many at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    limit: u32,
    /// Go on after this case: what `next` said before
    #[arg(long, value_name = "CURSOR")]
    after: Option<String>,
}

fn state(text: &str) -> Result<CaseState, String> {
    CaseState::parse(text).ok_or_else(|| {
        let known: Vec<&str> = CaseState::ALL.iter().map(|state| state.as_str()).collect();
        format!("known states are {}", known.join(", "))
    })
}

fn waiting(text: &str) -> Result<Waiting, String> {
    Waiting::parse(&text.replace('-', "_")).ok_or_else(|| {
        let known = Waiting::ALL.map(|waiting| waiting.as_str().replace('_', "-"));
        format!("known reasons are {}", known.join(", "))
    })
}

#[derive(Serialize)]
struct Found {
    systems_held: Vec<SystemStateRow>,
    cases: Vec<CaseLine>,
    /// What `--after` takes to go on.
    next: Option<String>,
}

#[derive(Serialize)]
struct CaseLine {
    id: String,
    workflow: String,
    subject: String,
    state: &'static str,
    steps_done: u32,
    paused: bool,
    in_flight: u32,
    parked: u32,
    unverified: u32,
    created_at: DateTime<Utc>,
    effective_at: Option<DateTime<Utc>>,
    closed_at: Option<DateTime<Utc>>,
    deadline_at: Option<DateTime<Utc>>,
    deadline_passed: bool,
}

pub(super) async fn run(context: &Context, list: List) -> anyhow::Result<Exit> {
    let database = context.database().await?;
    let search = Search {
        states: list.states,
        workflow: list.workflow,
        version: list.version,
        subject: list.subject,
        open: list.open,
        parked: list.parked,
        waits: list.waits,
        system: list.system,
        step: list.step,
        error: list.error,
        older_than: list.older_than,
        newer_than: list.newer_than,
    };
    let filter = match search.filter(&database, now()).await? {
        Ok(filter) => filter,
        Err(mistake) => bail!("`--{}`: {}", mistake.at.replace('_', "-"), mistake.what),
    };
    let after = list.after.as_deref().map(parse_cursor).transpose()?;
    let cases = database.store.list(&filter, after, list.limit).await?;
    let full = cases.len() >= usize::try_from(list.limit)?;
    let systems = database.directory.system_states().await?;
    let found = Found {
        systems_held: systems
            .into_iter()
            .filter(|row| row.state == SystemState::Held)
            .collect(),
        next: cases.last().filter(|_| full).map(write_cursor),
        cases: cases.iter().map(line).collect(),
    };
    context.output.result(&found, |found| table(found, now()))?;
    Ok(Exit::Good)
}

fn line(summary: &CaseSummary) -> CaseLine {
    let (head, state) = (&summary.head, &summary.state);
    CaseLine {
        id: head.case.to_string(),
        workflow: head.workflow.clone(),
        subject: head.subject.0.clone(),
        state: state.state.as_str(),
        steps_done: state.steps_done,
        paused: state.paused.is_some(),
        in_flight: state.in_flight,
        parked: state.parked,
        unverified: state.unverified,
        created_at: head.created_at,
        effective_at: head.effective_at,
        closed_at: state.closed_at,
        deadline_at: state.deadline_at,
        deadline_passed: state.deadline_passed,
    }
}

/// A place in the list as a person can carry it: microseconds and identifier.
fn write_cursor(summary: &CaseSummary) -> String {
    format!(
        "{}.{}",
        summary.head.created_at.timestamp_micros(),
        summary.head.case
    )
}

fn parse_cursor(text: &str) -> anyhow::Result<CaseCursor> {
    let parsed = text.split_once('.').and_then(|(micros, id)| {
        let created_at = DateTime::from_timestamp_micros(micros.parse().ok()?)?;
        let case = engine::core::id::CaseId(Uuid::parse_str(id).ok()?);
        Some(CaseCursor { created_at, case })
    });
    match parsed {
        Some(cursor) => Ok(cursor),
        None => {
            bail!("`--after {text}` is no place in a list; take it from `next` of the list before")
        }
    }
}

fn table(found: &Found, now: DateTime<Utc>) -> String {
    let mut text = String::new();
    for row in &found.systems_held {
        let _ = writeln!(text, "{}", held_line(row, now));
    }
    if found.cases.is_empty() {
        text.push_str("no cases");
        return text;
    }
    if !found.systems_held.is_empty() {
        text.push('\n');
    }
    let mut listing = Listing::new(&[
        "CASE", "WORKFLOW", "SUBJECT", "STATE", "DONE", "STARTED", "REMARK",
    ])
    .right(&[4])
    .narrow(&[0, 3, 5]);
    for case in &found.cases {
        listing.row([
            (case_view::short(&case.id).to_owned(), Tone::Code),
            (shortened(&case.workflow, 24), Tone::Plain),
            (shortened(&case.subject, 28), Tone::Strong),
            (case.state.to_owned(), Tone::of_state(case.state)),
            (case.steps_done.to_string(), Tone::Dim),
            (time::relative(case.created_at, now), Tone::Dim),
            remark(case, now),
        ]);
    }
    let _ = write!(text, "{listing}");
    if let Some(next) = &found.next {
        let _ = write!(
            text,
            "\n{}",
            paint(format!("more: tenure case list --after {next}"), Tone::Dim)
        );
    }
    text
}

/// A system that takes no calls, in one line.
pub(crate) fn held_line(row: &SystemStateRow, now: DateTime<Utc>) -> String {
    let since = row
        .since
        .map(|since| format!(" for {}", time::length(now - since)))
        .unwrap_or_default();
    let next = row
        .until
        .map(|until| format!("; next look {}", time::relative(until, now)))
        .unwrap_or_default();
    let reason = row
        .reason
        .as_deref()
        .map(|reason| format!(": {}", shortened(reason, 160)))
        .unwrap_or_default();
    format!(
        "{} {} is away{since}{next}{reason}",
        paint(Tone::Warn.sign(), Tone::Warn),
        paint(plain(&row.system), Tone::Strong)
    )
}

fn remark(case: &CaseLine, now: DateTime<Utc>) -> (String, Tone) {
    if case.paused {
        return ("paused".to_owned(), Tone::Bad);
    }
    if case.parked > 0 {
        return (format!("{} parked", case.parked), Tone::Bad);
    }
    if case.unverified > 0 {
        return (format!("{} unverified", case.unverified), Tone::Warn);
    }
    match (case.closed_at, case.deadline_at) {
        (Some(closed), _) => (
            format!("took {}", time::length(closed - case.created_at)),
            Tone::Dim,
        ),
        (None, _) if case.deadline_passed => ("past its deadline".to_owned(), Tone::Bad),
        (None, Some(deadline)) => (format!("due {}", time::relative(deadline, now)), Tone::Dim),
        (None, None) => (String::new(), Tone::Dim),
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "tests"
    )]
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn a_list_says_what_wants_attention() {
        let found = Found {
            systems_held: vec![SystemStateRow {
                shard_id: 0,
                system: "crm".to_owned(),
                node: "n".to_owned(),
                state: SystemState::Held,
                since: Some(at("2026-03-02T09:58:00Z")),
                until: Some(at("2026-03-02T10:00:20Z")),
                reason: Some("connection refused".to_owned()),
                changed_at: at("2026-03-02T09:58:00Z"),
            }],
            cases: vec![CaseLine {
                id: "0123456789ab".to_owned(),
                workflow: "leaver".to_owned(),
                subject: "E\u{1b}1".to_owned(),
                state: "parked",
                steps_done: 2,
                paused: false,
                in_flight: 0,
                parked: 1,
                unverified: 0,
                created_at: at("2026-03-02T09:55:00Z"),
                effective_at: None,
                closed_at: None,
                deadline_at: None,
                deadline_passed: false,
            }],
            next: None,
        };
        let text = table(&found, at("2026-03-02T10:00:00Z"));
        assert_eq!(
            anstream::adapter::strip_str(&text).to_string(),
            "◷ crm is away for 2 min; next look in 20 s: connection refused\n\n\
             CASE          WORKFLOW  SUBJECT  STATE   DONE  STARTED    REMARK\n\
             0123456789ab  leaver    E\u{fffd}1      parked     2  5 min ago  1 parked"
        );
    }

    #[test]
    fn a_cursor_survives_being_carried() {
        let id = Uuid::from_u128(7);
        let text = format!("1772445600000001.{id}");
        let cursor = parse_cursor(&text).unwrap();
        assert_eq!(cursor.case.0, id);
        assert_eq!(cursor.created_at.timestamp_micros(), 1_772_445_600_000_001);
        assert!(parse_cursor("yesterday").is_err());
    }
}
