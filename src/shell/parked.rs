//! The inbox of what does not go on by itself: parked instances, stuck steps and paused cases, each with who has to
//! act, since when, the whole error, and what can be done.

use chrono::{DateTime, Utc};
use engine::core::case::{Case, Failure, Instance, InstanceState};
use engine::core::definition::{OnFailure, Step, Work};
use engine::core::id::{CaseId, Place, ShardId};
use engine::store::ParkedRow;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Database;
use super::case_view::{label, system_of};
use super::reading::CaseReader;

/// How many rows are read at once.
const ROWS: u32 = 200;

/// What is wanted.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    pub workflow: Option<String>,
    pub system: Option<String>,
}

/// Something that waits for a person.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Parked {
    pub case: Uuid,
    pub workflow: String,
    pub subject: String,
    pub lane: &'static str,
    pub kind: Kind,
    /// The step, by its id; null when the case as a whole is paused.
    pub step: Option<String>,
    /// The instance of the step.
    pub instance: Option<u32>,
    /// What it is about: `crm`, `crm · sales`.
    pub label: String,
    pub system: Option<String>,
    /// Who has to act: whoever was asked, else whom the workflow's deadline escalates to. Empty when nobody is named.
    pub owner: Vec<String>,
    pub since: DateTime<Utc>,
    pub attempts: u32,
    /// A short name of the error's kind.
    pub error_kind: Option<String>,
    /// The whole error, or why the case is paused.
    pub error: String,
    pub deadline_at: Option<DateTime<Utc>>,
    pub deadline_passed: bool,
    /// What can be done to it: `retry`, `skip`, `rerun`, `undo`, `resume`, `cancel`, `force_cancel`.
    pub can: Vec<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An instance failed for good.
    Parked,
    /// Taking an instance back failed for good.
    Undo,
    /// A step could not be planned.
    Stuck,
    /// A person holds the case.
    Paused,
    /// The case cannot be read.
    Unreadable,
}

impl Kind {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Parked => "parked",
            Self::Undo => "undo",
            Self::Stuck => "stuck",
            Self::Paused => "paused",
            Self::Unreadable => "unreadable",
        }
    }
}

/// A page, longest waiting first, and where the next one begins.
///
/// # Errors
/// When the database does not answer.
pub async fn page(
    database: &Database,
    wanted: &Wanted,
    mut after: Option<ParkedRow>,
    limit: usize,
) -> anyhow::Result<(Vec<Parked>, Option<ParkedRow>)> {
    let mut reader = CaseReader::new(database);
    let mut items = Vec::new();
    // Neighbours in the list are often of one case.
    let mut last: Option<(CaseId, Result<Case, String>)> = None;
    loop {
        let rows = database.store.parked(after, ROWS).await?;
        let full = rows.len() >= usize::try_from(ROWS).unwrap_or(usize::MAX);
        for row in rows {
            if items.len() == limit {
                return Ok((items, after));
            }
            after = Some(row);
            let mut first = false;
            if last.as_ref().is_none_or(|(id, _)| *id != row.case) {
                let read = match reader.read(row.shard, row.case).await {
                    Ok(Some(case)) => Ok(case),
                    Ok(None) => continue,
                    Err(error) => Err(format!("{error:#}")),
                };
                last = Some((row.case, read));
                first = true;
            }
            let item = match &last {
                Some((_, Ok(case))) => item(case, &row),
                // Told once: its rows say nothing that could be read.
                Some((_, Err(error))) if first => {
                    let bones = database.store.bones(row.shard, row.case).await?;
                    bones.map(|bones| Parked {
                        workflow: bones.workflow,
                        subject: bones.subject.0,
                        ..unreadable(&row, error.clone())
                    })
                }
                Some((_, Err(_))) | None => None,
            };
            items.extend(item.filter(|item| fits(item, wanted)));
        }
        if !full {
            return Ok((items, None));
        }
    }
}

fn fits(item: &Parked, wanted: &Wanted) -> bool {
    let is = |wanted: &Option<String>, found: Option<&str>| match wanted {
        None => true,
        Some(wanted) => found == Some(wanted.as_str()),
    };
    is(&wanted.workflow, Some(&item.workflow)) && is(&wanted.system, item.system.as_deref())
}

/// `None` when it has moved on since the row was read.
fn item(case: &Case, row: &ParkedRow) -> Option<Parked> {
    let base = Parked {
        case: case.id.0,
        workflow: case.definition.name.clone(),
        subject: case.subject.0.clone(),
        lane: case.definition.lane.as_str(),
        kind: Kind::Paused,
        step: None,
        instance: None,
        label: String::new(),
        system: None,
        owner: Vec::new(),
        since: row.at,
        attempts: 0,
        error_kind: None,
        error: String::new(),
        deadline_at: case.deadline_at,
        deadline_passed: case.deadline_passed,
        can: Vec::new(),
    };
    let Some(index) = row.step else {
        let pause = case.paused.as_ref()?;
        return Some(Parked {
            owner: vec![pause.by.0.clone()],
            error: format!("paused by {}: {}", pause.by.0, pause.reason),
            can: vec!["resume", "cancel", "force_cancel"],
            ..base
        });
    };
    let (step, run) = (case.step(index)?, case.step_run(index)?);
    let base = Parked {
        step: Some(step.id.clone()),
        owner: owner(case, step),
        ..base
    };
    let Some(number) = row.instance else {
        let failure = run.failure.as_ref();
        return Some(Parked {
            kind: Kind::Stuck,
            error_kind: failure.map(|failure| failure.kind.clone()),
            error: message(failure),
            can: can(case, false),
            ..base
        });
    };
    let instance = case.instance(Place::new(index, number))?;
    let InstanceState::Parked { mode } = &instance.state else {
        return None;
    };
    Some(of_instance(case, base, instance, number, mode.is_undo()))
}

fn of_instance(case: &Case, base: Parked, instance: &Instance, number: u32, undo: bool) -> Parked {
    let failure = instance.failure.as_ref();
    Parked {
        kind: if undo { Kind::Undo } else { Kind::Parked },
        instance: Some(number),
        label: label(&instance.item, &instance.with),
        system: system_of(instance).map(str::to_owned),
        attempts: instance.attempt,
        error_kind: failure.map(|failure| failure.kind.clone()),
        error: message(failure),
        can: can(case, undo),
        ..base
    }
}

fn message(failure: Option<&Failure>) -> String {
    failure.map_or_else(
        || "no reason given".to_owned(),
        |failure| failure.message.clone(),
    )
}

/// Whoever was asked; else who is told when the case is late.
fn owner(case: &Case, step: &Step) -> Vec<String> {
    match &step.work {
        Work::Approval(approval) => approval.ask.clone(),
        Work::Task(task) => vec![task.assignee.clone()],
        Work::Action { .. } | Work::WaitFor(_) => case
            .definition
            .deadline
            .iter()
            .filter_map(|deadline| deadline.escalate_to.clone())
            .collect(),
    }
}

fn can(case: &Case, undo: bool) -> Vec<&'static str> {
    if case.paused.is_some() {
        return vec!["resume", "skip", "cancel", "force_cancel"];
    }
    if undo {
        return vec!["retry", "skip", "force_cancel"];
    }
    let mut can = vec!["retry", "skip", "rerun"];
    if case.definition.on_failure != OnFailure::Forward {
        can.push("undo");
    }
    can.extend(["cancel", "force_cancel"]);
    can
}

fn unreadable(row: &ParkedRow, error: String) -> Parked {
    Parked {
        case: row.case.0,
        workflow: String::new(),
        subject: String::new(),
        lane: "normal",
        kind: Kind::Unreadable,
        step: None,
        instance: row.instance,
        label: String::new(),
        system: None,
        owner: Vec::new(),
        since: row.at,
        attempts: 0,
        error_kind: None,
        error,
        deadline_at: None,
        deadline_passed: false,
        can: vec!["force_cancel"],
    }
}

/// A place in the list, as text that can be carried.
#[must_use]
pub fn place_text(row: &ParkedRow) -> String {
    let number = |number: Option<u32>| number.map_or_else(String::new, |it| it.to_string());
    format!(
        "{}.{}.{}.{}.{}",
        row.at.timestamp_micros(),
        row.shard,
        row.case,
        number(row.step.map(|step| u32::from(step.0))),
        number(row.instance)
    )
}

/// What [`place_text`] was made from.
#[must_use]
pub fn parse_place(text: &str) -> Option<ParkedRow> {
    let mut parts = text.split('.');
    let at = DateTime::from_timestamp_micros(parts.next()?.parse().ok()?)?;
    let shard = ShardId(parts.next()?.parse().ok()?);
    let case = CaseId(Uuid::parse_str(parts.next()?).ok()?);
    let mut number = || match parts.next() {
        Some("") => Some(None),
        Some(text) => text.parse::<u32>().ok().map(Some),
        None => None,
    };
    let (step, instance) = (number()?, number()?);
    let step = match step {
        None => None,
        Some(step) => Some(engine::core::id::StepIndex(u16::try_from(step).ok()?)),
    };
    parts.next().is_none().then_some(ParkedRow {
        shard,
        case,
        at,
        step,
        instance,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;

    #[test]
    fn a_place_survives_being_carried() {
        for (step, instance) in [(None, None), (Some(3), None), (Some(0), Some(17))] {
            let row = ParkedRow {
                shard: ShardId(7),
                case: CaseId(Uuid::from_u128(9)),
                at: DateTime::from_timestamp_micros(1_772_445_600_000_001).unwrap(),
                step: step.map(engine::core::id::StepIndex),
                instance,
            };
            assert_eq!(parse_place(&place_text(&row)), Some(row));
        }
        for bad in [
            "",
            "1",
            "1.2.x..",
            "1.2.00000000-0000-0000-0000-000000000009.70000.",
            "a.b.c.d.e.f",
        ] {
            assert_eq!(parse_place(bad), None, "{bad}");
        }
    }
}
