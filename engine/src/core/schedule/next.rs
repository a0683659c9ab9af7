//! A decision about a schedule while it is made.

use uuid::Uuid;

use super::decide::{Decision, End, Illegal, QUEUE_MAX, Settled, Start};
use super::state::{Cause, ChangeRecord, OpenRun, Operation, Outcome, Run, RunKey, State, Waiting};
use super::{Overlap, Schedule, actor, case_id};
use crate::core::Timestamp;
use crate::core::id::{Actor, CaseId};

/// The most started runs whose end is waited for. With `allow` there is no other bound.
const OPEN_MAX: usize = 1_000;

/// Whether there is room for a run.
pub(super) enum Room {
    Free,
    /// The open ones are ended first.
    AfterEnding {
        force: bool,
    },
    Queue,
    /// The queue has no more.
    Full,
    None,
}

/// A decision while it is made.
pub(super) struct Next {
    pub(super) schedule: Schedule,
    pub(super) state: State,
    pub(super) now: Timestamp,
    pub(super) starts: Vec<Start>,
    pub(super) ends: Vec<End>,
    pub(super) runs: Vec<Run>,
    pub(super) change: Option<ChangeRecord>,
    pub(super) remark: String,
}

impl Next {
    pub(super) fn of(before: &State, now: Timestamp) -> Result<Self, Illegal> {
        Ok(Self {
            schedule: before.schedule()?,
            state: before.clone(),
            now,
            starts: Vec::new(),
            ends: Vec::new(),
            runs: Vec::new(),
            change: None,
            remark: String::new(),
        })
    }

    pub(super) fn change(
        &mut self,
        operation: Operation,
        by: Actor,
        reason: String,
        detail: String,
    ) {
        self.change = Some(ChangeRecord {
            version: self.state.version + 1,
            at: self.now,
            by,
            operation,
            reason,
            detail,
        });
    }

    pub(super) fn decision(mut self) -> Decision {
        self.state.version += 1;
        Decision {
            state: self.state,
            starts: self.starts,
            ends: self.ends,
            runs: self.runs,
            change: self.change,
            remark: self.remark,
        }
    }

    pub(super) fn if_changed(self, before: &State) -> Option<Decision> {
        (self.state != *before || !self.runs.is_empty()).then(|| self.decision())
    }

    pub(super) fn run(
        &self,
        key: RunKey,
        cause: Cause,
        outcome: Outcome,
        initiator: Actor,
        reason: String,
    ) -> Run {
        Run {
            key,
            cause,
            due_at: if key.by_hand {
                key.fire_at
            } else {
                self.schedule.due(key.fire_at)
            },
            decided_at: self.now,
            outcome,
            case: None,
            initiator,
            reason,
        }
    }

    /// A fire time for which nothing starts.
    pub(super) fn leave_out(&mut self, fire_at: Timestamp, outcome: Outcome, reason: String) {
        let key = RunKey {
            fire_at,
            by_hand: false,
        };
        let initiator = actor(&self.state.spec.name);
        let run = self.run(key, Cause::Clock, outcome, initiator, reason);
        self.runs.push(run);
        self.state.last = Some((fire_at, outcome));
    }

    /// What a fire time brings, by the overlap policy. Of several at once only the `latest` replaces open runs.
    pub(super) fn fire(&mut self, fire_at: Timestamp, latest: bool) {
        let key = RunKey {
            fire_at,
            by_hand: false,
        };
        let waiting = Waiting {
            key,
            cause: Cause::Clock,
            initiator: actor(&self.state.spec.name),
            reason: None,
        };
        let replaces = matches!(
            self.state.spec.overlap,
            Overlap::CancelRunning | Overlap::TerminateRunning
        );
        if replaces && !latest {
            let reason = "the next run was due as well and would have ended it".to_owned();
            return self.leave_out(fire_at, Outcome::SkippedOverlap, reason);
        }
        match self.room(self.state.spec.overlap) {
            Room::Free => self.start(waiting),
            Room::AfterEnding { force } => self.replace(waiting, force),
            Room::Queue => self.enqueue(waiting),
            Room::Full => {
                let reason = format!("{QUEUE_MAX} runs wait already");
                self.leave_out(fire_at, Outcome::SkippedOverlap, reason);
            }
            Room::None => {
                let reason = format!("case {} was still open", self.oldest_open());
                self.leave_out(fire_at, Outcome::SkippedOverlap, reason);
            }
        }
    }

    pub(super) fn room(&self, overlap: Overlap) -> Room {
        let waiting = self.state.queue.len();
        match overlap {
            Overlap::Allow => Room::Free,
            // What a pause holds is not in the way of a run by hand.
            _ if self.state.open.is_empty() && (waiting == 0 || self.state.is_paused()) => {
                Room::Free
            }
            Overlap::Skip => Room::None,
            Overlap::QueueOne if waiting == 0 => Room::Queue,
            Overlap::QueueOne => Room::None,
            Overlap::QueueAll if waiting < QUEUE_MAX => Room::Queue,
            Overlap::QueueAll => Room::Full,
            Overlap::CancelRunning => Room::AfterEnding { force: false },
            Overlap::TerminateRunning => Room::AfterEnding { force: true },
        }
    }

    /// The case that is in the way; nil when only a queue is.
    pub(super) fn oldest_open(&self) -> CaseId {
        self.state
            .open
            .first()
            .map_or(CaseId(Uuid::nil()), |open| open.case)
    }

    pub(super) fn start(&mut self, waiting: Waiting) {
        let case = case_id(&self.state.spec.name, waiting.key);
        let mut run = self.run(
            waiting.key,
            waiting.cause,
            Outcome::Started,
            waiting.initiator.clone(),
            waiting.reason.clone().unwrap_or_default(),
        );
        run.case = Some(case);
        self.runs.push(run);
        self.state.last = Some((waiting.key.fire_at, Outcome::Started));
        if self.state.open.len() >= OPEN_MAX {
            self.state.open.remove(0);
        }
        self.state.open.push(OpenRun {
            key: waiting.key,
            case,
            cause: waiting.cause,
            initiator: waiting.initiator.clone(),
            subject: self.state.spec.subject.clone(),
            seen: false,
            ending: false,
        });
        self.starts.push(Start {
            key: waiting.key,
            case,
            cause: waiting.cause,
            initiator: waiting.initiator,
            reason: waiting.reason,
        });
    }

    /// Ends what is open, and starts.
    pub(super) fn replace(&mut self, waiting: Waiting, force: bool) {
        let for_case = case_id(&self.state.spec.name, waiting.key);
        for open in self.state.open.iter_mut().filter(|open| !open.ending) {
            open.ending = true;
            self.ends.push(End {
                case: open.case,
                subject: open.subject.clone(),
                force,
                for_case,
            });
        }
        self.start(waiting);
    }

    pub(super) fn enqueue(&mut self, waiting: Waiting) {
        let run = self.run(
            waiting.key,
            waiting.cause,
            Outcome::Queued,
            waiting.initiator.clone(),
            waiting.reason.clone().unwrap_or_default(),
        );
        self.runs.push(run);
        self.state.last = Some((waiting.key.fire_at, Outcome::Queued));
        self.state.queue.push_back(waiting);
    }

    pub(super) fn settle(&mut self, settled: Vec<(CaseId, Settled)>) {
        for (case, what) in settled {
            let Some(position) = self.state.open.iter().position(|open| open.case == case) else {
                continue;
            };
            match what {
                Settled::Open => {
                    if let Some(open) = self.state.open.get_mut(position) {
                        open.seen = true;
                    }
                }
                Settled::Ended => {
                    self.state.open.remove(position);
                }
                Settled::Refused(why) => {
                    let open = self.state.open.remove(position);
                    let outcome = Outcome::Refused;
                    let mut run = self.run(open.key, open.cause, outcome, open.initiator, why);
                    run.case = Some(case);
                    self.runs.push(run);
                    self.state.last = Some((open.key.fire_at, Outcome::Refused));
                }
            }
        }
    }

    /// Starts what waits, as far as nothing is open.
    pub(super) fn start_waiting(&mut self) {
        let all = self.state.spec.overlap == Overlap::Allow;
        while all || self.state.open.is_empty() {
            let Some(waiting) = self.state.queue.pop_front() else {
                break;
            };
            // What it was written down as a moment ago, if it was, is overtaken.
            self.runs.retain(|run| run.key != waiting.key);
            self.start(waiting);
        }
    }
}
