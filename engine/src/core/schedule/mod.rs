//! Schedules: when cases of a workflow start by the clock.
//!
//! # Theory of operation
//!
//! A schedule has **fire times**: what its cron expression says, read on the wall clock of its zone ([`Cron`],
//! [`Schedule::next`]). A fire time is a whole second and names its run for ever: the case and the message that
//! starts it get their identifiers from the schedule's name and the fire time, so whoever fires the same time
//! twice, on whatever node and after whatever crash, makes one case.
//!
//! A run is **due** at its fire time plus the jitter, which is computed from the name and the fire time: every
//! node, and every life of a node, computes the same. It ends before the next fire time, so runs never change
//! places.
//!
//! [`decide`] is the one function that moves a schedule. It is handed what happened and what is known of the
//! cases it started, and says what starts, what is ended and what is written down.

mod cron;
mod decide;
mod next;
mod state;

#[cfg(test)]
mod tests;

pub use self::cron::{Cron, CronError};
pub use decide::{BACKFILL_MAX, Decision, End, Illegal, Input, QUEUE_MAX, Settled, Start, decide};
pub use state::{
    Cause, ChangeRecord, OpenRun, Operation, Origin, Outcome, Pause, Run, RunKey, State, Waiting,
};

use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::Timestamp;
use super::duration::Span;
use super::id::{Actor, CaseId, ShardId, Subject};

/// The longest name of a schedule, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// The longest subject, in bytes.
pub const SUBJECT_BYTES_MAX: usize = 256;
/// The longest input, as JSON, in bytes.
pub const INPUT_BYTES_MAX: usize = 64 * 1024;
/// The longest description, in bytes.
pub const DESCRIPTION_BYTES_MAX: usize = 1_024;
/// The shortest catch-up window: a node that is only busy must not miss anything.
pub const CATCH_UP_MIN: Span = Span::from_s(10);
/// How long after its time a run is still made when nobody says.
pub const CATCH_UP_DEFAULT: Span = Span::from_s(24 * 3_600);
/// The longest jitter.
pub const JITTER_MAX: Span = Span::from_s(24 * 3_600);
/// The field that [`Schedule::input`] adds to what the schedule gives its cases.
pub const INPUT_FIELD: &str = "schedule";

/// Makes identifiers out of names and fire times. Stored data depends on it, so it must never change.
const NAMESPACE: Uuid = Uuid::from_u128(0x3f0b_9c55_6d0e_4a52_b1c7_0c3a_8e47_d921);

/// What happens at a fire time while an earlier run is still open.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// It is left out.
    #[default]
    Skip,
    /// One run waits until the open one has ended; further ones are left out.
    QueueOne,
    /// Every run waits its turn.
    QueueAll,
    /// The open run is cancelled; the new one starts.
    CancelRunning,
    /// The open run is ended without waiting for what it has in flight; the new one starts.
    TerminateRunning,
    /// It starts.
    Allow,
}

impl Overlap {
    pub const ALL: [Self; 6] = [
        Self::Skip,
        Self::QueueOne,
        Self::QueueAll,
        Self::CancelRunning,
        Self::TerminateRunning,
        Self::Allow,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::QueueOne => "queue_one",
            Self::QueueAll => "queue_all",
            Self::CancelRunning => "cancel_running",
            Self::TerminateRunning => "terminate_running",
            Self::Allow => "allow",
        }
    }
}

/// What somebody wants to run when. A stored form: fields are only ever added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    pub name: String,
    /// The newest known definition of that name is taken at each start.
    pub workflow: String,
    /// Five fields (minute first) or six (second first), or `@daily` and the like.
    pub cron: String,
    /// An IANA name.
    pub zone: String,
    pub subject: Subject,
    /// What each case is started with, a JSON object.
    #[serde(default)]
    pub input: Value,
    #[serde(default = "no_jitter")]
    pub jitter: Span,
    #[serde(default)]
    pub overlap: Overlap,
    #[serde(default = "default_catch_up")]
    pub catch_up: Span,
    /// Paused by whoever wrote it; nobody can resume it elsewhere.
    #[serde(default)]
    pub paused: bool,
    #[serde(default)]
    pub description: String,
}

fn no_jitter() -> Span {
    Span::from_ms(0)
}

fn default_catch_up() -> Span {
    CATCH_UP_DEFAULT
}

/// One thing wrong with a [`Spec`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The field it is about.
    pub field: &'static str,
    pub what: String,
    pub fix: String,
}

/// Everything wrong with a [`Spec`]; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", told(.0))]
pub struct Mistakes(pub Vec<Mistake>);

fn told(mistakes: &[Mistake]) -> String {
    let told: Vec<String> = mistakes
        .iter()
        .map(|mistake| format!("`{}`: {}; {}", mistake.field, mistake.what, mistake.fix))
        .collect();
    told.join("; ")
}

/// A [`Spec`] that was checked, ready to be asked for its fire times.
#[derive(Debug, Clone)]
pub struct Schedule {
    spec: Spec,
    cron: Cron,
    zone: Tz,
}

impl Schedule {
    /// Checks a spec.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn new(spec: Spec) -> Result<Self, Mistakes> {
        let mut mistakes = Vec::new();
        let mut wrong = |field, what: String, fix: &str| {
            mistakes.push(Mistake {
                field,
                what,
                fix: fix.to_owned(),
            });
        };
        check_name("name", &spec.name, &mut wrong);
        check_name("workflow", &spec.workflow, &mut wrong);
        check_rest(&spec, &mut wrong);
        let zone = spec.zone.parse::<Tz>();
        if zone.is_err() {
            wrong(
                "zone",
                format!("`{}` is no IANA time zone", spec.zone),
                "write one like `Europe/Berlin`, or `UTC`",
            );
        }
        let cron = Cron::parse(&spec.cron);
        if let Err(error) = &cron {
            wrong("cron", error.what.clone(), &error.fix);
        }
        match (zone, cron) {
            (Ok(zone), Ok(cron)) if mistakes.is_empty() => Ok(Self { spec, cron, zone }),
            _ => Err(Mistakes(mistakes)),
        }
    }

    #[must_use]
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    #[must_use]
    pub fn zone(&self) -> Tz {
        self.zone
    }

    /// The first fire time after `after`; `None` when there is none any more.
    #[must_use]
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        self.cron.next(after, self.zone)
    }

    /// When the run of `fire_at` is due: jitter added, before the next fire time.
    #[must_use]
    pub fn due(&self, fire_at: Timestamp) -> Timestamp {
        let mut room_ms = self.spec.jitter.ms();
        if room_ms == 0 {
            return fire_at;
        }
        if let Some(next) = self.next(fire_at) {
            room_ms = room_ms.min((next - fire_at).num_milliseconds() - 1);
        }
        let mut hash = Sha256::new();
        hash.update(b"tenure.schedule.jitter\0");
        hash.update(self.spec.name.as_bytes());
        hash.update([0]);
        hash.update(fire_at.timestamp_micros().to_be_bytes());
        let mut first = [0; 8];
        for (to, from) in first.iter_mut().zip(hash.finalize()) {
            *to = from;
        }
        let room = u64::try_from(room_ms).unwrap_or(0).saturating_add(1);
        let jitter_ms = i64::try_from(u64::from_be_bytes(first) % room).unwrap_or(0);
        fire_at + chrono::TimeDelta::milliseconds(jitter_ms)
    }

    /// The next `count` fire times after `after`.
    #[must_use]
    pub fn upcoming(&self, after: Timestamp, count: usize) -> Vec<Timestamp> {
        let next = |at: &Timestamp| self.next(*at);
        std::iter::successors(self.next(after), next)
            .take(count)
            .collect()
    }

    /// The fire times of a period, both ends included; `None` when there are more than `count_max`.
    #[must_use]
    pub fn between(
        &self,
        from: Timestamp,
        to: Timestamp,
        count_max: usize,
    ) -> Option<Vec<Timestamp>> {
        let mut fires = Vec::new();
        let mut after = from.checked_sub_signed(chrono::TimeDelta::microseconds(1))?;
        while let Some(fire) = self.next(after).filter(|fire| *fire <= to) {
            if fires.len() == count_max {
                return None;
            }
            fires.push(fire);
            after = fire;
        }
        Some(fires)
    }

    /// What a case is started with: the schedule's input, and under `schedule` which run it is.
    #[must_use]
    pub fn input(&self, key: RunKey, cause: Cause, reason: Option<&str>) -> Value {
        let mut input = match &self.spec.input {
            Value::Object(fields) => fields.clone(),
            _ => serde_json::Map::new(),
        };
        let mut about = serde_json::json!({
            "name": self.spec.name,
            "fire_at": key.fire_at.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true),
            "zone": self.spec.zone,
            "cause": cause.as_str(),
        });
        if let (Some(reason), Some(fields)) = (reason, about.as_object_mut()) {
            fields.insert("reason".to_owned(), Value::String(reason.to_owned()));
        }
        input.insert(INPUT_FIELD.to_owned(), about);
        Value::Object(input)
    }
}

/// The case of a run: the same for whoever asks.
#[must_use]
pub fn case_id(name: &str, key: RunKey) -> CaseId {
    let kind = if key.by_hand { "by hand" } else { "by clock" };
    let text = format!("case\n{name}\n{kind}\n{}", key.fire_at.timestamp_micros());
    CaseId(Uuid::new_v5(&NAMESPACE, text.as_bytes()))
}

/// The message that starts a case of a schedule.
#[must_use]
pub fn start_message_id(case: CaseId) -> Uuid {
    Uuid::new_v5(&NAMESPACE, format!("start\n{case}").as_bytes())
}

/// The message by which a schedule ends a case, to make room for another.
#[must_use]
pub fn end_message_id(case: CaseId, for_case: CaseId) -> Uuid {
    Uuid::new_v5(&NAMESPACE, format!("end\n{case}\n{for_case}").as_bytes())
}

/// The shard a schedule belongs to.
#[must_use]
pub fn shard(name: &str, count: u32) -> ShardId {
    Subject(format!("schedule:{name}")).shard(count)
}

/// Who starts the cases that a schedule starts by itself.
#[must_use]
pub fn actor(name: &str) -> Actor {
    Actor(format!("schedule:{name}"))
}

fn check_name(field: &'static str, name: &str, wrong: &mut impl FnMut(&'static str, String, &str)) {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(good) {
        let what = match field {
            "name" => format!("`{name}` is no name for a schedule"),
            _ => format!("`{name}` is no name of a workflow"),
        };
        wrong(
            field,
            what,
            "use 1 to 64 of `a-z`, `A-Z`, `0-9`, `-`, `_`, `.`",
        );
    }
}

fn check_rest(spec: &Spec, wrong: &mut impl FnMut(&'static str, String, &str)) {
    let subject = &spec.subject.0;
    if subject.trim().is_empty()
        || subject.len() > SUBJECT_BYTES_MAX
        || subject.trim() != subject
        || subject.chars().any(char::is_control)
    {
        wrong(
            "subject",
            format!("`{}` is no subject", subject.escape_debug()),
            "name who or what the cases are about in 1 to 256 bytes, without blanks around it",
        );
    }
    match &spec.input {
        Value::Null => {}
        Value::Object(fields) => {
            if fields.contains_key(INPUT_FIELD) {
                wrong(
                    "input",
                    format!("`{INPUT_FIELD}` is filled in by the schedule itself"),
                    "call it otherwise",
                );
            }
            if spec.input.to_string().len() > INPUT_BYTES_MAX {
                wrong(
                    "input",
                    format!("it has more than {INPUT_BYTES_MAX} bytes"),
                    "give a reference instead of the data",
                );
            }
            if has_nul(&spec.input) {
                wrong(
                    "input",
                    "it holds the character U+0000, which cannot be stored".to_owned(),
                    "take it out",
                );
            }
        }
        _ => wrong(
            "input",
            "it is not a mapping".to_owned(),
            "write `input: { key: value }`",
        ),
    }
    if spec.catch_up < CATCH_UP_MIN {
        wrong(
            "catch_up",
            format!(
                "`{}` is shorter than `{CATCH_UP_MIN}`: a node that is only busy would miss runs",
                spec.catch_up
            ),
            "give `10s` or more",
        );
    }
    if spec.jitter > JITTER_MAX {
        wrong(
            "jitter",
            format!("`{}` is longer than a day", spec.jitter),
            "give `24h` or less",
        );
    }
    if spec.description.len() > DESCRIPTION_BYTES_MAX || spec.description.contains('\0') {
        wrong(
            "description",
            format!("it has more than {DESCRIPTION_BYTES_MAX} bytes, or the character U+0000"),
            "shorten it",
        );
    }
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(fields) => fields
            .iter()
            .any(|(name, value)| name.contains('\0') || has_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}
