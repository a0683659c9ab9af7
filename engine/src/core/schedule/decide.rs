//! The one function that moves a schedule.

use std::collections::{BTreeSet, VecDeque};

use chrono::TimeDelta;

use super::next::{Next, Room};
use super::state::{
    Cause, ChangeRecord, Operation, Origin, Outcome, Pause, Run, RunKey, State, Waiting,
};
use super::{Mistakes, Spec};
use crate::core::Timestamp;
use crate::core::id::{Actor, CaseId, Subject};

/// The most runs that wait; a further one is left out.
pub const QUEUE_MAX: usize = 1_000;
/// The most fire times one backfill takes.
pub const BACKFILL_MAX: usize = 500;
/// The most fire times one look at the clock deals with; the next look goes on.
const FIRES_MAX: usize = 200;
/// The most missed fire times that are written down one by one; the rest is told in the last of them.
const MISSED_MAX: usize = 100;
/// The smallest step of time that the stores keep.
const TICK: TimeDelta = TimeDelta::microseconds(1);

/// One thing that happened. Everything the schedule needs to know is in it.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Make it, or change what it says. `salt` is for one that is made.
    Put {
        spec: Spec,
        origin: Origin,
        salt: [u8; 16],
        by: Actor,
        reason: String,
    },
    /// Take it away. `origin` says in whose name.
    Remove {
        origin: Origin,
        by: Actor,
        reason: String,
    },
    Pause {
        by: Actor,
        reason: String,
    },
    Resume {
        by: Actor,
        reason: String,
    },
    /// A run now, whatever the clock says. `at` is when it was asked for, and names it.
    Run {
        at: Timestamp,
        by: Actor,
        reason: String,
    },
    /// The runs of the fire times from `from` to `to` that have not run; `done` are those that have.
    Backfill {
        from: Timestamp,
        to: Timestamp,
        done: BTreeSet<Timestamp>,
        by: Actor,
        reason: String,
    },
    /// Look at the clock.
    Clock,
    /// What was found out about open runs.
    Settled(Vec<(CaseId, Settled)>),
}

impl Input {
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Put { .. } => "put",
            Self::Remove { .. } => "remove",
            Self::Pause { .. } => "pause",
            Self::Resume { .. } => "resume",
            Self::Run { .. } => "run",
            Self::Backfill { .. } => "backfill",
            Self::Clock => "clock",
            Self::Settled(_) => "settled",
        }
    }
}

/// Where the case of an open run stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// It was made, and has not ended.
    Open,
    Ended,
    /// It was not made.
    Refused(String),
}

/// What follows. `runs`, `change` and `state` are written in the transaction that writes the messages of
/// `starts` and `ends`.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    pub state: State,
    pub starts: Vec<Start>,
    pub ends: Vec<End>,
    pub runs: Vec<Run>,
    pub change: Option<ChangeRecord>,
    /// A remark for whoever asked.
    pub remark: String,
}

/// A case to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    pub key: RunKey,
    pub case: CaseId,
    pub cause: Cause,
    pub initiator: Actor,
    pub reason: Option<String>,
}

/// A case to end, to make room for another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    pub case: CaseId,
    pub subject: Subject,
    /// Without waiting for what it has in flight.
    pub force: bool,
    pub for_case: CaseId,
}

/// Why an input does not fit. Nothing is changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Illegal {
    #[error("there is no schedule `{0}`")]
    Unknown(String),
    #[error("the schedule is wrong: {0}")]
    Wrong(#[from] Mistakes),
    #[error(
        "schedule `{0}` stands in the configuration; change or remove its file, and restart the node"
    )]
    Configured(String),
    #[error("schedule `{name}` is paused already, by {by}")]
    PausedAlready { name: String, by: String },
    #[error("schedule `{0}` is not paused")]
    NotPaused(String),
    #[error(
        "schedule `{0}` is paused in its file; take `paused: true` out of it, and restart the node"
    )]
    PausedByFile(String),
    #[error("schedule `{0}` is paused; resume it first, or run it by hand")]
    Held(String),
    #[error(
        "case `{case}` of schedule `{name}` is still open, and its overlap policy is `{overlap}`; wait for it or end it"
    )]
    Busy {
        name: String,
        case: CaseId,
        overlap: &'static str,
    },
    #[error("schedule `{name}` has {QUEUE_MAX} runs waiting; wait, or remove it")]
    Full { name: String },
    #[error(
        "the period runs backwards, or into the future; give an earlier `from` and a `to` that has passed"
    )]
    Period,
    #[error("the period has no fire time that has not run already")]
    NothingToDo,
    #[error("the period has more than {BACKFILL_MAX} fire times; take it in parts")]
    TooMany,
}

/// Where a schedule stands, as far as it decides what is allowed.
enum Phase<'s> {
    /// Never made, or removed.
    Gone(Option<&'s State>),
    Paused(&'s State),
    Ready(&'s State),
}

impl<'s> Phase<'s> {
    fn of(state: Option<&'s State>) -> Self {
        match state {
            Some(state) if !state.removed && state.is_paused() => Self::Paused(state),
            Some(state) if !state.removed => Self::Ready(state),
            other => Self::Gone(other),
        }
    }
}

/// Decides over one input. `Ok(None)`: nothing follows.
///
/// | phase | put | remove | pause | resume | run | backfill | clock | settled |
/// |---|---|---|---|---|---|---|---|---|
/// | gone | made; fires from now on | - | - | - | - | - | nothing | nothing |
/// | paused | changed | removed; what waits is dropped | - | fires from now on | by the overlap policy | - | nothing | written down; what waits goes on waiting |
/// | ready | changed; fires from now on when its times changed | removed; what waits is dropped | paused | - | by the overlap policy | each fire time that has not run is queued; with `allow` started | each fire time that is due, by the overlap policy; too late: missed | written down; the next that waits starts when none is open |
///
/// `-` is a typed error. A schedule of the configuration is changed and removed by the configuration only; one
/// that is paused in its file cannot be resumed.
///
/// | overlap policy | none open | one open |
/// |---|---|---|
/// | `skip` | starts | left out; by hand: refused |
/// | `queue_one` | starts | queued; left out when one waits already |
/// | `queue_all` | starts | queued |
/// | `cancel_running` | starts | the open ones are cancelled, it starts |
/// | `terminate_running` | starts | the open ones are ended by force, it starts |
/// | `allow` | starts | starts |
///
/// Where several fire times are due at once, after a time without a node, the two policies that end open runs
/// start only the latest: the others would be ended at once.
///
/// # Errors
/// [`Illegal`]; nothing is changed.
pub fn decide(
    name: &str,
    state: Option<&State>,
    input: Input,
    now: Timestamp,
) -> Result<Option<Decision>, Illegal> {
    match (Phase::of(state), input) {
        (
            Phase::Gone(before),
            Input::Put {
                spec,
                origin,
                salt,
                by,
                reason,
            },
        ) => {
            let state = State {
                version: before.map_or(0, |before| before.version),
                spec,
                origin,
                salt: before.map_or(salt, |before| before.salt),
                removed: false,
                paused: None,
                seen: now,
                last: None,
                last_by_hand: before.and_then(|before| before.last_by_hand),
                // The cases of an earlier schedule of this name may still be open.
                open: before.map(|before| before.open.clone()).unwrap_or_default(),
                queue: VecDeque::new(),
            };
            let mut next = Next::of(&state, now)?;
            let detail = next.schedule.spec().cron.clone();
            next.change(Operation::Create, by, reason, detail);
            Ok(Some(next.decision()))
        }
        (
            Phase::Paused(before) | Phase::Ready(before),
            Input::Put {
                spec,
                origin,
                salt: _,
                by,
                reason,
            },
        ) => changed(before, spec, origin, by, reason, now),

        (Phase::Gone(_), Input::Clock | Input::Settled(_)) => Ok(None),
        (
            Phase::Gone(_),
            Input::Remove { .. }
            | Input::Pause { .. }
            | Input::Resume { .. }
            | Input::Run { .. }
            | Input::Backfill { .. },
        ) => Err(Illegal::Unknown(name.to_owned())),

        (Phase::Paused(before) | Phase::Ready(before), Input::Remove { origin, by, reason }) => {
            removed(before, origin, by, reason, now).map(Some)
        }

        (Phase::Ready(before), Input::Pause { by, reason }) => {
            let mut next = Next::of(before, now)?;
            next.state.paused = Some(Pause {
                by: by.clone(),
                reason: reason.clone(),
                at: now,
            });
            next.change(Operation::Pause, by, reason, String::new());
            Ok(Some(next.decision()))
        }
        (Phase::Paused(before), Input::Pause { .. }) => Err(Illegal::PausedAlready {
            name: name.to_owned(),
            by: before
                .paused
                .as_ref()
                .map_or_else(|| "its file".to_owned(), |pause| pause.by.0.clone()),
        }),
        (Phase::Ready(_), Input::Resume { .. }) => Err(Illegal::NotPaused(name.to_owned())),
        (Phase::Paused(before), Input::Resume { .. }) if before.spec.paused => {
            Err(Illegal::PausedByFile(name.to_owned()))
        }
        (Phase::Paused(before), Input::Resume { by, reason }) => {
            let mut next = Next::of(before, now)?;
            next.state.paused = None;
            next.state.seen = now;
            next.start_waiting();
            next.change(Operation::Resume, by, reason, String::new());
            Ok(Some(next.decision()))
        }

        (Phase::Paused(before) | Phase::Ready(before), Input::Run { at, by, reason }) => {
            run_by_hand(before, at, by, reason, now).map(Some)
        }

        (Phase::Paused(_), Input::Backfill { .. }) => Err(Illegal::Held(name.to_owned())),
        (
            Phase::Ready(before),
            Input::Backfill {
                from,
                to,
                done,
                by,
                reason,
            },
        ) => backfill(before, (from, to), &done, by, reason, now).map(Some),

        (Phase::Paused(_), Input::Clock) => Ok(None),
        (Phase::Ready(before), Input::Clock) => clock(before, now),

        (Phase::Paused(before), Input::Settled(settled)) => {
            let mut next = Next::of(before, now)?;
            next.settle(settled);
            Ok(next.if_changed(before))
        }
        (Phase::Ready(before), Input::Settled(settled)) => {
            let mut next = Next::of(before, now)?;
            next.settle(settled);
            next.start_waiting();
            Ok(next.if_changed(before))
        }
    }
}

// --- what people and the configuration do --------------------------------------------------------------

fn changed(
    before: &State,
    spec: Spec,
    origin: Origin,
    by: Actor,
    reason: String,
    now: Timestamp,
) -> Result<Option<Decision>, Illegal> {
    // The configuration may take over what a person made; a person may not change what a file says.
    if before.origin == Origin::Configuration && origin == Origin::Person {
        return Err(Illegal::Configured(before.spec.name.clone()));
    }
    if before.spec == spec && before.origin == origin {
        return Ok(None);
    }
    let mut state = before.clone();
    let times = |spec: &Spec| {
        (
            spec.cron.clone(),
            spec.zone.clone(),
            spec.jitter,
            spec.paused,
        )
    };
    if times(&before.spec) != times(&spec) {
        state.seen = now;
    }
    state.spec = spec;
    state.origin = origin;
    let mut next = Next::of(&state, now)?;
    if !next.state.is_paused() {
        next.start_waiting();
    }
    let detail = next.schedule.spec().cron.clone();
    next.change(Operation::Change, by, reason, detail);
    Ok(Some(next.decision()))
}

fn removed(
    before: &State,
    origin: Origin,
    by: Actor,
    reason: String,
    now: Timestamp,
) -> Result<Decision, Illegal> {
    if before.origin == Origin::Configuration && origin == Origin::Person {
        return Err(Illegal::Configured(before.spec.name.clone()));
    }
    let mut next = Next::of(before, now)?;
    next.state.removed = true;
    next.state.paused = None;
    for waiting in std::mem::take(&mut next.state.queue) {
        let run = next.run(
            waiting.key,
            waiting.cause,
            Outcome::Dropped,
            waiting.initiator,
            "the schedule was removed".to_owned(),
        );
        next.runs.push(run);
    }
    next.change(Operation::Remove, by, reason, String::new());
    Ok(next.decision())
}

fn run_by_hand(
    before: &State,
    at: Timestamp,
    by: Actor,
    reason: String,
    now: Timestamp,
) -> Result<Decision, Illegal> {
    let mut next = Next::of(before, now)?;
    // Two that were asked for at the same moment are two.
    let at = before.last_by_hand.map_or(at, |last| at.max(last + TICK));
    next.state.last_by_hand = Some(at);
    let waiting = Waiting {
        key: RunKey {
            fire_at: at,
            by_hand: true,
        },
        cause: Cause::ByHand,
        initiator: by.clone(),
        reason: Some(reason.clone()).filter(|reason| !reason.is_empty()),
    };
    let overlap = before.spec.overlap;
    let busy = |next: &Next| Illegal::Busy {
        name: before.spec.name.clone(),
        case: next.oldest_open(),
        overlap: overlap.as_str(),
    };
    match next.room(overlap) {
        Room::Free => next.start(waiting),
        Room::AfterEnding { force } => next.replace(waiting, force),
        Room::Queue => next.enqueue(waiting),
        Room::Full => {
            return Err(Illegal::Full {
                name: before.spec.name.clone(),
            });
        }
        Room::None => return Err(busy(&next)),
    }
    let detail = match next.starts.first() {
        Some(start) => format!("case {}", start.case),
        None => "queued".to_owned(),
    };
    next.remark.clone_from(&detail);
    next.change(Operation::Run, by, reason, detail);
    Ok(next.decision())
}

fn backfill(
    before: &State,
    (from, to): (Timestamp, Timestamp),
    done: &BTreeSet<Timestamp>,
    by: Actor,
    reason: String,
    now: Timestamp,
) -> Result<Decision, Illegal> {
    let mut next = Next::of(before, now)?;
    if from > to || to > now {
        return Err(Illegal::Period);
    }
    let fires = next.schedule.between(from, to, BACKFILL_MAX);
    let fires = fires.ok_or(Illegal::TooMany)?;
    let known: BTreeSet<Timestamp> = (before.open.iter().map(|open| open.key))
        .chain(before.queue.iter().map(|waiting| waiting.key))
        .filter(|key| !key.by_hand)
        .map(|key| key.fire_at)
        .collect();
    let all = fires.len();
    let wanted: Vec<Timestamp> = fires
        .into_iter()
        .filter(|fire| !done.contains(fire) && !known.contains(fire))
        .collect();
    if wanted.is_empty() {
        return Err(Illegal::NothingToDo);
    }
    if before.queue.len() + wanted.len() > QUEUE_MAX {
        return Err(Illegal::Full {
            name: before.spec.name.clone(),
        });
    }
    let count = wanted.len();
    for fire_at in wanted {
        let waiting = Waiting {
            key: RunKey {
                fire_at,
                by_hand: false,
            },
            cause: Cause::Backfill,
            initiator: by.clone(),
            reason: Some(reason.clone()).filter(|reason| !reason.is_empty()),
        };
        next.enqueue(waiting);
    }
    next.start_waiting();
    let ran = all - count;
    next.remark = match ran {
        0 => format!("{count} runs"),
        ran => format!("{count} runs; {ran} had run already"),
    };
    let detail = format!("{} to {}: {count} runs", from.to_rfc3339(), to.to_rfc3339());
    next.change(Operation::Backfill, by, reason, detail);
    Ok(next.decision())
}

// --- the clock ------------------------------------------------------------------------------------------

fn clock(before: &State, now: Timestamp) -> Result<Option<Decision>, Illegal> {
    let mut next = Next::of(before, now)?;
    let oldest = now - before.spec.catch_up.delta();
    let (mut due, mut missed): (Vec<Timestamp>, Vec<Timestamp>) = (Vec::new(), Vec::new());
    let mut leapt = None;
    while due.len() + missed.len() < FIRES_MAX {
        let Some(fire) = next
            .schedule
            .next(next.state.seen)
            .filter(|fire| *fire <= now)
        else {
            break;
        };
        let due_at = next.schedule.due(fire);
        if due_at > now {
            break;
        }
        if due_at >= oldest {
            due.push(fire);
        } else if missed.len() < MISSED_MAX {
            missed.push(fire);
        } else if leapt.is_none() {
            // Nobody reads thousands of lines that all say the same.
            let until = oldest - before.spec.jitter.delta() - TICK;
            leapt = Some(until);
            next.state.seen = next.state.seen.max(until);
            continue;
        }
        next.state.seen = fire;
    }
    let last = missed.len().saturating_sub(1);
    for (position, fire) in missed.into_iter().enumerate() {
        let mut reason = format!("no node ran within {} of it", before.spec.catch_up);
        if let (true, Some(until)) = (position == last, leapt) {
            reason.push_str(&format!(
                "; those after it up to {} were missed too and are not listed",
                until.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
            ));
        }
        next.leave_out(fire, Outcome::Missed, reason);
    }
    let more = next.schedule.next(next.state.seen);
    let more = more.is_some_and(|fire| next.schedule.due(fire) <= now);
    let latest = due.last().copied().filter(|_| !more);
    for fire in due {
        next.fire(fire, Some(fire) == latest);
    }
    Ok(next.if_changed(before))
}
