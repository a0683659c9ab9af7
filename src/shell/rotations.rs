//! How far rotations are, and what comes next, for whoever asks: the command line and the API.

use chrono::{DateTime, Utc};
use engine::core::case::{Case, CaseState, InstanceState, StepRun};
use engine::core::definition::Step;
use engine::core::id::CaseId;
use engine::store::StoreError;
use serde::Serialize;
use uuid::Uuid;
use workflows::directory::{Directory, PAGE_ROWS_MAX, RotationRow};
use workflows::rotation::{Phase, mode};

use super::Database;
use super::case_view::short;

/// A rotation with what follows from its row and its case.
#[derive(Debug, Clone, Serialize)]
pub struct RotationView {
    #[serde(flatten)]
    pub row: RotationRow,
    /// What comes next.
    pub next_phase: Option<Phase>,
    pub can_roll_back: bool,
    /// Whether something is in its way.
    pub blocked: bool,
    /// What keeps it, in words.
    pub waits: Option<String>,
    /// What follows by itself when this is over, because strangers know it.
    pub follows: Option<String>,
    /// What its case did, or the one before when none is under way.
    pub timeline: Vec<Done>,
}

/// A step of the case that replaces a credential.
#[derive(Debug, Clone, Serialize)]
pub struct Done {
    pub step: String,
    pub uses: String,
    pub state: &'static str,
    pub changed_at: DateTime<Utc>,
    pub failure: Option<String>,
}

/// Why a rotation is not taken back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotBack {
    #[error(
        "`{name}` is not being replaced (it is {phase}); what is closed is not taken back: replace it again"
    )]
    NotUnderWay { name: String, phase: &'static str },
    #[error("`{0}` is replaced because strangers know it; nobody goes back to the old one")]
    Compromised(String),
    #[error(
        "`{name}` has reached `{phase}`: the old one is gone, and there is no way back; replace it again"
    )]
    Gone { name: String, phase: &'static str },
}

/// All that is planned to begin by `until`, in the order of the time.
///
/// # Errors
/// When the database does not answer.
pub async fn upcoming(
    directory: &Directory,
    until: DateTime<Utc>,
) -> Result<Vec<RotationRow>, StoreError> {
    let mut found: Vec<RotationRow> = Vec::new();
    loop {
        let last = found.last();
        let after = last.and_then(|row| Some((row.starts_at?, row.name.as_str())));
        let page = directory
            .rotations_upcoming(until, after, PAGE_ROWS_MAX)
            .await?;
        if page.is_empty() {
            return Ok(found);
        }
        found.extend(page);
    }
}

/// A rotation with the case that is under way, if one is.
pub async fn view(database: &Database, row: RotationRow) -> RotationView {
    let case = named_case(database, row.open_case.as_deref()).await;
    with_case(row, case)
}

/// A rotation with the case that is under way, or the one before it.
pub async fn whole(database: &Database, row: RotationRow) -> RotationView {
    let case = row.open_case.as_deref().or(row.last_case.as_deref());
    let case = named_case(database, case).await;
    with_case(row, case)
}

fn with_case(row: RotationRow, case: Option<Case>) -> RotationView {
    let open = case.as_ref().filter(|_| row.open_case.is_some());
    let (blocked, waits) = match open.and_then(|case| queued(&row, case).or_else(|| waits(case))) {
        Some((blocked, why)) => (blocked, Some(why)),
        None => (row.phase == Phase::Blocked, row.reason.clone()),
    };
    let mode = mode(row.mode);
    RotationView {
        next_phase: mode.after(row.phase, row.compromised),
        can_roll_back: row.open_case.is_some() && !row.compromised && mode.can_roll_back(row.phase),
        blocked,
        waits,
        follows: follows(&row),
        timeline: case.as_ref().map(timeline).unwrap_or_default(),
        row,
    }
}

/// The case that an undo takes a rotation back by.
///
/// # Errors
/// Why it is not taken back.
pub fn case_to_undo(row: &RotationRow) -> Result<&str, NotBack> {
    let (name, phase) = (row.name.clone(), row.phase.as_str());
    let Some(case) = &row.open_case else {
        return Err(NotBack::NotUnderWay { name, phase });
    };
    if row.compromised {
        return Err(NotBack::Compromised(name));
    }
    if matches!(row.phase, Phase::OldDestroyed | Phase::Irrevocable) {
        return Err(NotBack::Gone { name, phase });
    }
    Ok(case)
}

/// One that is not there yet, or cannot be read, says nothing.
async fn named_case(database: &Database, case: Option<&str>) -> Option<Case> {
    let id = CaseId(case?.parse::<Uuid>().ok()?);
    database.case(id).await.ok()
}

/// A case that takes the place of another begins when nothing of that is in flight.
fn queued(row: &RotationRow, case: &Case) -> Option<(bool, String)> {
    if case.state != CaseState::Queued {
        return None;
    }
    let before = row.last_case.as_deref().map(short).unwrap_or_default();
    Some((
        false,
        format!(
            "the rotation that was under way has to end first (case {before}): an attempt of it is out"
        ),
    ))
}

/// What comes after a rotation whose credential strangers know.
fn follows(row: &RotationRow) -> Option<String> {
    row.exposed_at?;
    match (&row.open_case, row.exposed_again) {
        (Some(_), true) => Some(
            "what comes into use now may be known too, so it is replaced again as soon as this one is closed".to_owned(),
        ),
        (Some(_), false) => None,
        (None, _) => Some("it is replaced at once when it begins".to_owned()),
    }
}

/// What keeps a case, where something does, and whether that is in its way: what its unfinished work says.
fn waits(case: &Case) -> Option<(bool, String)> {
    let instances = case.steps.iter().flat_map(|run| &run.instances);
    let mut unfinished = instances.filter(|instance| !instance.state.is_finished());
    unfinished.find_map(|instance| match &instance.state {
        InstanceState::Asking { .. } => Some((false, "somebody is asked".to_owned())),
        _ => {
            let failure = instance.failure.as_ref()?;
            Some((failure.kind == "blocked", failure.message.clone()))
        }
    })
}

/// The steps that have begun, in their order.
fn timeline(case: &Case) -> Vec<Done> {
    let steps = case.definition.steps.iter().zip(&case.steps);
    let done = |(step, run): (&Step, &StepRun)| {
        let instances = run.present();
        let changed_at = instances.iter().map(|one| one.changed_at).max()?;
        let failed = instances.iter().find_map(|one| one.failure.as_ref());
        Some(Done {
            step: step.id.clone(),
            uses: step.work.uses().to_owned(),
            state: run.state.as_str(),
            changed_at,
            failure: run
                .failure
                .as_ref()
                .or(failed)
                .map(|failure| failure.message.clone()),
        })
    };
    steps.filter_map(done).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use serde_json::json;

    use super::*;

    fn row(phase: &str, open_case: Option<&str>, compromised: bool) -> RotationRow {
        serde_json::from_value(json!({
            "shard_id": 1, "name": "s/i", "nhi_key": "k", "mode": "alternating",
            "declared": { "place": { "system": "s", "bundle": "b" }, "users": ["a", "b"] },
            "wanted": true, "phase": phase, "open_case": open_case, "compromised": compromised,
            "since": "2026-01-01T00:00:00Z", "failures": 0, "planned": true,
            "changed_at": "2026-01-01T00:00:00Z",
        }))
        .unwrap()
    }

    #[test]
    fn what_follows_a_compromise_is_told() {
        for (open_case, exposed, again, told) in [
            (None, false, false, None),
            (Some("c"), false, false, None),
            (Some("c"), true, false, None),
            (Some("c"), true, true, Some("replaced again")),
            (None, true, false, Some("at once")),
        ] {
            let mut row = row("promoted", open_case, open_case.is_some());
            row.exposed_at = exposed.then_some(row.since);
            row.exposed_again = again;
            let view = with_case(row, None);
            match (view.follows, told) {
                (None, None) => {}
                (Some(follows), Some(told)) => assert!(follows.contains(told), "{follows}"),
                other => panic!("{open_case:?} {exposed} {again}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_is_not_taken_back_says_why() {
        for (phase, open_case, compromised, told) in [
            ("scheduled", None, false, "not being replaced"),
            ("closed", None, false, "not being replaced"),
            ("overlap", Some("c"), true, "strangers know it"),
            ("old_destroyed", Some("c"), false, "no way back"),
            ("irrevocable", Some("c"), false, "no way back"),
            ("blocked", Some("c"), false, ""),
            ("overlap", Some("c"), false, ""),
        ] {
            let row = row(phase, open_case, compromised);
            match case_to_undo(&row) {
                Ok(case) => assert_eq!((case, told), ("c", ""), "{phase}"),
                Err(why) => assert!(
                    !told.is_empty() && why.to_string().contains(told),
                    "{phase}: {why}"
                ),
            }
        }
    }
}
