//! A batch in the form the statements want.
//!
//! One statement cannot see what another part of it writes, and no row may be written twice in it. So what
//! several transitions of one batch did to the same row is folded here, before the database sees it.

use std::borrow::Cow;
use std::collections::HashMap;

use uuid::Uuid;

use crate::core::Timestamp;
use crate::core::case::CaseState;
use crate::core::id::{CaseId, ShardId};
use crate::core::input::TimerTarget;

use super::{
    Batch, EvidenceRow, HeadRow, HistoryRow, InboxRow, ParkedRow, PauseRow, RebuiltRow, ReplyRow,
    ShardLease, StateRow, StepRow, StoreError, TimerRow,
};

/// A batch in which no two rows have the same key, in order of shard and case: neighbours in the batch are
/// neighbours in the tables, which makes writing them a tenth cheaper.
pub(super) struct Writes<'a> {
    pub leases: &'a [ShardLease],
    pub heads: &'a [HeadRow],
    pub rebuilt: &'a [RebuiltRow],
    /// Heads of the cases that are open after the batch.
    pub opened: Vec<&'a HeadRow>,
    /// States of the cases the batch makes.
    pub born: Vec<&'a StateRow>,
    /// States of the cases that were there, with the version each has now.
    pub moved: Vec<(u64, &'a StateRow)>,
    /// Those of `moved` that are closed now.
    pub closed: Vec<&'a StateRow>,
    /// Cases that are made and closed by the batch: they never were open.
    pub born_closed: Vec<(&'a HeadRow, CaseState)>,
    pub steps: Steps<'a>,
    pub history: Vec<&'a HistoryRow>,
    pub evidence: Vec<(&'a EvidenceRow, &'a str)>,
    pub timers_cleared: Cow<'a, [TimerRow]>,
    pub timers_set: Cow<'a, [TimerRow]>,
    pub inbox_done: &'a [(ShardId, Uuid)],
    pub replies: &'a [ReplyRow],
}

/// Rows of `case_step` by what is known of them: an insert or an update that need not ask is a good deal
/// cheaper than one that must.
#[derive(Default)]
pub(super) struct Steps<'a> {
    /// Planned in this batch: not there yet.
    pub fresh: Vec<&'a StepRow>,
    /// Planned before: there.
    pub known: Vec<&'a StepRow>,
    pub either: Vec<&'a StepRow>,
}

impl<'a> Writes<'a> {
    /// Folds a batch.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] for a row of a shard the batch has no lease for, [`StoreError::Stale`] when the
    /// transitions of one case do not follow one another, [`StoreError::Unstorable`] for text no database keeps.
    pub(super) fn of(batch: &'a Batch) -> Result<Self, StoreError> {
        covered(batch)?;
        storable(batch)?;
        let states = fold_states(&batch.states)?;
        let mut born = Vec::new();
        let mut moved = Vec::with_capacity(states.len());
        let mut closed = Vec::new();
        for (from, row) in &states {
            match from {
                None => born.push(*row),
                Some(version) => {
                    moved.push((*version, *row));
                    if row.state.is_closed() {
                        closed.push(*row);
                    }
                }
            }
        }
        let opened = opened(&batch.heads, &born);
        let born_closed = born_closed(&batch.heads, &born);
        let (timers_cleared, timers_set) = net_timers(&batch.timers_cleared, &batch.timers_set);
        let mut history: Vec<_> = batch.history.iter().collect();
        history.sort_unstable_by_key(|row| (row.shard, row.case, row.version));
        let evidence: Result<Vec<_>, _> = batch.evidence.iter().map(leaf_text).collect();
        let mut evidence = evidence?;
        evidence.sort_unstable_by_key(|(row, _)| (row.shard, row.case, row.version));
        Ok(Self {
            leases: &batch.leases,
            heads: &batch.heads,
            rebuilt: &batch.rebuilt,
            opened,
            born,
            moved,
            closed,
            born_closed,
            steps: Steps::of(&batch.steps, &states),
            history,
            evidence,
            timers_cleared,
            timers_set,
            inbox_done: &batch.inbox_done,
            replies: &batch.replies,
        })
    }
}

impl Writes<'_> {
    /// The cases that rows of the batch belong to, some more than once.
    pub(super) fn cases(&self) -> impl Iterator<Item = (ShardId, CaseId)> {
        let moved = self.moved.iter().map(|(_, row)| (row.shard, row.case));
        let born = self.born.iter().map(|row| (row.shard, row.case));
        let steps = [&self.steps.fresh, &self.steps.known, &self.steps.either];
        let steps = steps.into_iter().flatten().map(|row| (row.shard, row.case));
        let history = self.history.iter().map(|row| (row.shard, row.case));
        let evidence = self.evidence.iter().map(|(row, _)| (row.shard, row.case));
        let rebuilt = self.rebuilt.iter().map(|row| (row.shard, row.case));
        moved
            .chain(rebuilt)
            .chain(born)
            .chain(steps)
            .chain(history)
            .chain(evidence)
    }
}

impl<'a> Steps<'a> {
    /// Takes the last row for each instance and looks up the version its case has in the database.
    fn of(rows: &'a [StepRow], states: &[FoldedState<'a>]) -> Self {
        let mut ordered: Vec<&StepRow> = rows.iter().collect();
        // Stable: of several rows with one key the last written comes last.
        ordered.sort_by_key(|row| step_key(row));
        let mut steps = Self::default();
        let mut states = states.iter().peekable();
        let mut ordered = ordered.into_iter().peekable();
        while let Some(row) = ordered.next() {
            if ordered
                .peek()
                .is_some_and(|next| step_key(next) == step_key(row))
            {
                continue;
            }
            let case = (row.shard, row.case);
            while states
                .next_if(|(_, state)| (state.shard, state.case) < case)
                .is_some()
            {}
            let state = states
                .peek()
                .filter(|(_, state)| (state.shard, state.case) == case);
            match (row.planned_version, state) {
                (Some(_), Some((None, _))) => steps.fresh.push(row),
                (Some(planned), Some((Some(from), _))) if planned >= *from => steps.fresh.push(row),
                (Some(_), Some((Some(_), _))) => steps.known.push(row),
                (None, _) | (_, None) => steps.either.push(row),
            }
        }
        steps
    }
}

fn step_key(row: &StepRow) -> (ShardId, CaseId, u16, Option<u32>) {
    (row.shard, row.case, row.step, row.instance)
}

/// Every row must belong to a shard whose epoch the batch proves.
fn covered(batch: &Batch) -> Result<(), StoreError> {
    let mut leased: Vec<ShardId> = batch.leases.iter().map(|lease| lease.shard).collect();
    leased.sort_unstable();
    let shards = (batch.heads.iter().map(|row| row.shard))
        .chain(batch.rebuilt.iter().map(|row| row.shard))
        .chain(batch.states.iter().map(|row| row.shard))
        .chain(batch.steps.iter().map(|row| row.shard))
        .chain(batch.history.iter().map(|row| row.shard))
        .chain(batch.evidence.iter().map(|row| row.shard))
        .chain(batch.timers_cleared.iter().map(|row| row.shard))
        .chain(batch.timers_set.iter().map(|row| row.shard))
        .chain(batch.inbox_done.iter().map(|(shard, _)| *shard))
        .chain(batch.replies.iter().map(|row| row.shard))
        .chain(batch.pauses.iter().map(|row| row.shard))
        .chain(batch.generations.iter().map(|row| row.shard));
    for shard in shards {
        if leased.binary_search(&shard).is_err() {
            return Err(StoreError::Fenced { shard });
        }
    }
    Ok(())
}

/// The last content of a case's state, and the version the first one started from.
type FoldedState<'a> = (Option<u64>, &'a StateRow);

/// One row a case, in order.
fn fold_states(states: &[StateRow]) -> Result<Vec<FoldedState<'_>>, StoreError> {
    let mut ordered: Vec<&StateRow> = states.iter().collect();
    // Stable: the transitions of one case keep their order.
    ordered.sort_by_key(|row| (row.shard, row.case));
    let mut folded: Vec<FoldedState<'_>> = Vec::with_capacity(ordered.len());
    for row in ordered {
        match folded.last_mut() {
            Some((_, last)) if (last.shard, last.case) == (row.shard, row.case) => {
                if row.from_version != Some(last.version) {
                    let version = row.from_version.unwrap_or(0);
                    return Err(StoreError::Stale {
                        case: row.case,
                        version,
                    });
                }
                *last = row;
            }
            _ => folded.push((row.from_version, row)),
        }
    }
    Ok(folded)
}

/// A case that is made and closed in one batch never was open.
fn opened<'a>(heads: &'a [HeadRow], born: &[&StateRow]) -> Vec<&'a HeadRow> {
    let mut closed: Vec<CaseId> = born
        .iter()
        .filter(|row| row.state.is_closed())
        .map(|row| row.case)
        .collect();
    closed.sort_unstable();
    heads
        .iter()
        .filter(|head| closed.binary_search(&head.case).is_err())
        .collect()
}

/// The heads of cases that are made and closed in one batch, with how they ended.
fn born_closed<'a>(heads: &'a [HeadRow], born: &[&StateRow]) -> Vec<(&'a HeadRow, CaseState)> {
    let states: HashMap<CaseId, CaseState> = born
        .iter()
        .filter(|row| row.state.is_closed())
        .map(|row| (row.case, row.state))
        .collect();
    if states.is_empty() {
        return Vec::new();
    }
    let heads = heads.iter();
    heads
        .filter_map(|head| Some((head, *states.get(&head.case)?)))
        .collect()
}

type Timers<'a> = Cow<'a, [TimerRow]>;

/// What is left to delete and to insert. A timer is set and cleared in turn, so one that is set as often as
/// cleared ends as it began, in whichever order that was.
fn net_timers<'a>(cleared: &'a [TimerRow], set: &'a [TimerRow]) -> (Timers<'a>, Timers<'a>) {
    if cleared.is_empty() || set.is_empty() {
        return (Cow::Borrowed(cleared), Cow::Borrowed(set));
    }
    let mut net: HashMap<TimerRow, i32> = HashMap::with_capacity(cleared.len() + set.len());
    for timer in cleared {
        *net.entry(*timer).or_default() -= 1;
    }
    for timer in set {
        *net.entry(*timer).or_default() += 1;
    }
    let of = |sign: i32| {
        let chosen = net.iter().filter(|(_, count)| count.signum() == sign);
        Cow::Owned(chosen.map(|(timer, _)| *timer).collect())
    };
    (of(-1), of(1))
}

// --- text that no database keeps ------------------------------------------------------------------------

fn storable(batch: &Batch) -> Result<(), StoreError> {
    for row in &batch.heads {
        let key = || row.case.to_string();
        text("case_head.subject", &row.subject.0, key)?;
        text("case_head.workflow", &row.workflow, key)?;
        text("case_head.definition", &row.definition.0, key)?;
        text("case_head.initiator", &row.initiator.0, key)?;
    }
    for row in &batch.rebuilt {
        text("case_head.definition", &row.definition.0, || {
            row.case.to_string()
        })?;
    }
    for row in &batch.steps {
        text("case_step.state", &row.state, || row.case.to_string())?;
        text("case_step.body", &row.body, || row.case.to_string())?;
    }
    for row in &batch.history {
        text("case_history.input", &row.input, || row.case.to_string())?;
        text("case_history.actor", &row.by, || row.case.to_string())?;
        text("case_history.events", &row.events, || row.case.to_string())?;
    }
    for row in &batch.replies {
        text("inbox_reply.message", &row.message, || row.id.to_string())?;
    }
    Ok(())
}

/// PostgreSQL keeps no U+0000 in text. Both stores refuse it, so that a file can move to a server.
pub(super) fn text(
    column: &'static str,
    text: &str,
    key: impl FnOnce() -> String,
) -> Result<(), StoreError> {
    if text.as_bytes().contains(&0) {
        return Err(StoreError::Unstorable { column, key: key() });
    }
    Ok(())
}

fn leaf_text(row: &EvidenceRow) -> Result<(&EvidenceRow, &str), StoreError> {
    match std::str::from_utf8(&row.leaf) {
        Ok(leaf) if !row.leaf.contains(&0) => Ok((row, leaf)),
        _ => Err(StoreError::Unstorable {
            column: "evidence.leaf",
            key: row.case.to_string(),
        }),
    }
}

/// A pause as its columns hold it.
pub(super) fn pause_columns(row: &PauseRow) -> Option<(Timestamp, String)> {
    let pause = row.pause.as_ref()?;
    // Plain data always has a JSON form, in which U+0000 is written as an escape.
    Some((pause.at, serde_json::to_string(pause).unwrap_or_default()))
}

/// The columns of a place in the list of what waits for people; -1 for what is not there.
pub(super) fn parked_columns(row: &ParkedRow) -> (i32, i32) {
    (
        row.step.map_or(-1, |step| i32::from(step.0)),
        instance_column(row.instance),
    )
}

/// Checks messages at the door. An escaped U+0000 is refused too: it would come out as a subject or a name
/// later, and then stop a whole batch.
pub(super) fn check_inbox(rows: &[InboxRow]) -> Result<(), StoreError> {
    for row in rows {
        text("inbox.body", &row.body, || row.id.to_string())?;
        let escapes = row.body.match_indices("\\u0000").any(|(at, _)| {
            let before = row.body.as_bytes().iter().take(at).rev();
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

/// The columns of a timer's target.
pub(super) fn target_columns(target: TimerTarget) -> (i32, i32) {
    match target {
        TimerTarget::Case => (-1, -1),
        TimerTarget::Step(step) => (i32::from(step.0), -1),
        TimerTarget::Instance(place) => (i32::from(place.step.0), count(place.instance.0)),
    }
}

/// The column of an instance; -1 is the step itself.
pub(super) fn instance_column(instance: Option<u32>) -> i32 {
    instance.map_or(-1, count)
}

/// A counter as a column. Counters are bounded by the number of instances, far below the limit.
pub(super) fn count(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// A version as a column.
pub(super) fn version(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
