//! The group commit: first everything is checked, then everything is written.

use std::collections::BTreeMap;

use engine::core::case::{CaseState, Ending};
use engine::core::id::{CaseId, ShardId};
use engine::store::{
    Batch, HeadRow, InboxRow, ReplyRow, StateRow, StepRow, StoreError, Termination, TimerRow,
    stored_time,
};

use super::{CaseKey, StepKey, Tables, Unchecked, lost};

/// Refuses what a real database refuses.
pub(super) fn check(
    tables: &Tables,
    batch: &Batch,
    unchecked: Unchecked,
) -> Result<(), StoreError> {
    covered(batch)?;
    storable(batch)?;
    let states = folded(batch, unchecked)?;
    if !unchecked.epochs
        && let Some(shard) = lost(tables, &batch.leases, None)
    {
        return Err(StoreError::Fenced { shard });
    }
    if !unchecked.versions {
        fits(tables, &states)?;
    }
    for row in &batch.steps {
        let key = step_key(row);
        let born = match (row.planned_version, states.get(&(row.shard, row.case))) {
            (Some(_), Some((None, _))) => true,
            (Some(planned), Some((Some(from), _))) => planned >= *from,
            _ => continue,
        };
        if !born && !tables.steps.contains_key(&key) {
            return Err(StoreError::Corrupt {
                table: "case_step",
                column: "step",
                key: format!("{}/{}/{}/{}", row.shard, row.case, row.step, key.3),
                source: "the row is missing".into(),
            });
        }
        if born && tables.steps.contains_key(&key) && !unchecked.versions {
            return Err(refused());
        }
    }
    let known = |shard: ShardId, case: CaseId| {
        tables.heads.contains_key(&(shard, case)) || batch.heads.iter().any(|row| row.case == case)
    };
    for row in &batch.history {
        let twice = tables
            .history
            .contains_key(&(row.shard, row.case, row.version));
        if !known(row.shard, row.case) || (twice && !unchecked.versions) {
            return Err(refused());
        }
    }
    for row in &batch.evidence {
        let twice = tables
            .evidence
            .contains_key(&(row.shard, row.case, row.version));
        if !known(row.shard, row.case) || (twice && !unchecked.versions) {
            return Err(refused());
        }
    }
    Ok(())
}

/// As a unique key or a missing row makes a database refuse.
fn refused() -> StoreError {
    StoreError::Refused(sqlx::Error::RowNotFound)
}

/// Writes what was checked.
pub(super) fn apply(tables: &mut Tables, batch: &Batch) {
    for row in &batch.heads {
        tables.heads.insert((row.shard, row.case), stored_head(row));
    }
    for row in &batch.rebuilt {
        // The steps of the version it left stand at other places.
        let key = (row.shard, row.case);
        tables
            .steps
            .retain(|(shard, case, _, _), _| (*shard, *case) != key);
        if let Some(head) = tables.heads.get_mut(&key) {
            head.definition = row.definition.clone();
            head.lane = row.lane;
        }
    }
    for row in &batch.states {
        let key = (row.shard, row.case);
        let mut stored = stored_state(row);
        // Who holds a case has a row of its own.
        stored.paused = tables
            .states
            .get(&key)
            .and_then(|before| before.paused.clone());
        tables.states.insert(key, stored);
    }
    for row in &batch.generations {
        let key = (row.shard, row.subject.clone());
        let known = tables.generations.entry(key).or_default();
        *known = (*known).max(row.generation);
    }
    for row in &batch.pauses {
        if let Some(state) = tables.states.get_mut(&(row.shard, row.case)) {
            state.paused.clone_from(&row.pause);
        }
    }
    for row in &batch.steps {
        tables.steps.insert(step_key(row), stored_step(row));
    }
    for row in &batch.history {
        let mut stored = row.clone();
        stored.at = stored_time(row.at);
        tables
            .history
            .insert((row.shard, row.case, row.version), stored);
    }
    for row in &batch.evidence {
        let mut stored = row.clone();
        stored.at = stored_time(row.at);
        tables
            .evidence
            .insert((row.shard, row.case, row.version), stored);
    }
    // A timer set as often as cleared ends as it began.
    let mut net: BTreeMap<TimerRow, i32> = BTreeMap::new();
    for timer in &batch.timers_cleared {
        *net.entry(stored_timer(timer)).or_default() -= 1;
    }
    for timer in &batch.timers_set {
        *net.entry(stored_timer(timer)).or_default() += 1;
    }
    for (timer, count) in net {
        match count {
            ..0 => tables.timers.remove(&timer),
            0 => false,
            1.. => tables.timers.insert(timer),
        };
    }
    for (shard, id) in &batch.inbox_done {
        tables.inbox.remove(&(*shard, *id));
    }
    for row in &batch.replies {
        let stored = ReplyRow {
            at: stored_time(row.at),
            ..row.clone()
        };
        let key = (row.shard, row.id);
        // The first answer to a message stays.
        tables.replies.entry(key).or_insert(stored);
    }
}

/// Ends a case without reading it.
pub(super) fn terminate(tables: &mut Tables, end: &Termination) -> Result<(), StoreError> {
    let (shard, case) = (end.lease.shard, end.case);
    if let Some(shard) = lost(tables, &[end.lease], None) {
        return Err(StoreError::Fenced { shard });
    }
    let at = stored_time(end.at);
    let open = tables.states.get_mut(&(shard, case));
    let Some(state) = open.filter(|state| state.closed_at.is_none()) else {
        return Err(StoreError::Stale {
            case,
            version: end.version,
        });
    };
    state.version = end.version;
    state.from_version = Some(end.version);
    state.state = CaseState::Cancelled;
    state.ending = Some(Ending::Cancelled);
    (state.in_flight, state.parked) = (0, 0);
    (state.closed_at, state.changed_at) = (Some(at), at);
    state.paused = None;
    tables.timers.retain(|timer| timer.case != case);
    for (_, row) in tables
        .steps
        .range_mut((shard, case, 0, i64::MIN)..=(shard, case, u16::MAX, i64::MAX))
    {
        match row.state.as_str() {
            "running" => "unknown".clone_into(&mut row.state),
            "waiting" | "asking" | "parked" | "delayed" | "planning" | "stuck" => {
                "cancelled".clone_into(&mut row.state);
            }
            _ => {}
        }
    }
    let key = (shard, case, end.version);
    tables.history.insert(key, end.history.clone());
    tables.evidence.insert(key, end.evidence.clone());
    Ok(())
}

pub(super) fn put(tables: &mut Tables, rows: &[InboxRow]) {
    for row in rows {
        let stored = InboxRow {
            received_at: stored_time(row.received_at),
            ..row.clone()
        };
        let key = (row.shard, row.id);
        tables.inbox.entry(key).or_insert(stored);
    }
}

/// Every row must belong to a shard whose epoch the batch proves.
fn covered(batch: &Batch) -> Result<(), StoreError> {
    let shards = (batch.heads.iter().map(|row| row.shard))
        .chain(batch.rebuilt.iter().map(|row| row.shard))
        .chain(batch.states.iter().map(|row| row.shard))
        .chain(batch.steps.iter().map(|row| row.shard))
        .chain(batch.history.iter().map(|row| row.shard))
        .chain(batch.evidence.iter().map(|row| row.shard))
        .chain(batch.timers_cleared.iter().map(|row| row.shard))
        .chain(batch.timers_set.iter().map(|row| row.shard))
        .chain(batch.inbox_done.iter().map(|(shard, _)| *shard))
        .chain(batch.replies.iter().map(|row| row.shard));
    for shard in shards {
        if !batch.leases.iter().any(|lease| lease.shard == shard) {
            return Err(StoreError::Fenced { shard });
        }
    }
    Ok(())
}

type Folded<'a> = BTreeMap<CaseKey, (Option<u64>, &'a StateRow)>;

/// The version each case must have now, and its last state in the batch.
fn folded(batch: &Batch, unchecked: Unchecked) -> Result<Folded<'_>, StoreError> {
    let mut folded: Folded<'_> = BTreeMap::new();
    for row in &batch.states {
        match folded.get_mut(&(row.shard, row.case)) {
            Some((_, last)) => {
                if row.from_version != Some(last.version) && !unchecked.versions {
                    return Err(stale(row.case, row.from_version));
                }
                *last = row;
            }
            None => {
                folded.insert((row.shard, row.case), (row.from_version, row));
            }
        }
    }
    Ok(folded)
}

fn fits(tables: &Tables, states: &Folded<'_>) -> Result<(), StoreError> {
    for (key, (from, row)) in states {
        if tables.states.get(key).map(|stored| stored.version) != *from {
            return Err(stale(row.case, *from));
        }
    }
    Ok(())
}

fn stale(case: CaseId, from: Option<u64>) -> StoreError {
    StoreError::Stale {
        case,
        version: from.unwrap_or(0),
    }
}

fn step_key(row: &StepRow) -> StepKey {
    (
        row.shard,
        row.case,
        row.step,
        row.instance.map_or(-1, i64::from),
    )
}

// --- what is stored: whole microseconds ------------------------------------------------------------------

fn stored_head(row: &HeadRow) -> HeadRow {
    HeadRow {
        effective_at: row.effective_at.map(stored_time),
        received_at: stored_time(row.received_at),
        created_at: stored_time(row.created_at),
        ..row.clone()
    }
}

fn stored_state(row: &StateRow) -> StateRow {
    StateRow {
        from_version: Some(row.version),
        deadline_at: row.deadline_at.map(stored_time),
        closed_at: row.closed_at.map(stored_time),
        changed_at: stored_time(row.changed_at),
        ..row.clone()
    }
}

fn stored_step(row: &StepRow) -> StepRow {
    StepRow {
        planned_version: None,
        changed_at: stored_time(row.changed_at),
        ..row.clone()
    }
}

fn stored_timer(row: &TimerRow) -> TimerRow {
    TimerRow {
        due: stored_time(row.due),
        ..*row
    }
}

/// Whether a case is still open.
pub(super) fn is_open(state: &StateRow) -> bool {
    !state.state.is_closed()
}

// --- text that no database keeps ------------------------------------------------------------------------

fn storable(batch: &Batch) -> Result<(), StoreError> {
    for row in &batch.heads {
        let key = row.case.to_string();
        text("case_head.subject", &row.subject.0, &key)?;
        text("case_head.workflow", &row.workflow, &key)?;
        text("case_head.definition", &row.definition.0, &key)?;
        text("case_head.initiator", &row.initiator.0, &key)?;
    }
    for row in &batch.rebuilt {
        let key = row.case.to_string();
        text("case_head.definition", &row.definition.0, &key)?;
    }
    for row in &batch.steps {
        text("case_step.state", &row.state, &row.case.to_string())?;
        text("case_step.body", &row.body, &row.case.to_string())?;
    }
    for row in &batch.history {
        text("case_history.input", &row.input, &row.case.to_string())?;
        text("case_history.actor", &row.by, &row.case.to_string())?;
        text("case_history.events", &row.events, &row.case.to_string())?;
    }
    for row in &batch.replies {
        text("inbox_reply.message", &row.message, &row.id.to_string())?;
    }
    for row in &batch.evidence {
        if row.leaf.contains(&0) || std::str::from_utf8(&row.leaf).is_err() {
            return Err(StoreError::Unstorable {
                column: "evidence.leaf",
                key: row.case.to_string(),
            });
        }
    }
    Ok(())
}

fn text(column: &'static str, text: &str, key: &str) -> Result<(), StoreError> {
    if text.as_bytes().contains(&0) {
        return Err(StoreError::Unstorable {
            column,
            key: key.to_owned(),
        });
    }
    Ok(())
}

pub(super) fn check_inbox(rows: &[InboxRow]) -> Result<(), StoreError> {
    for row in rows {
        text("inbox.body", &row.body, &row.id.to_string())?;
        let escapes = row.body.match_indices("\\u0000").any(|(at, _)| {
            let before = row.body.as_bytes()[..at].iter().rev();
            before.take_while(|byte| **byte == b'\\').count() % 2 == 0
        });
        if escapes {
            return Err(StoreError::Unstorable {
                column: "inbox.body",
                key: row.id.to_string(),
            });
        }
    }
    Ok(())
}
