//! From what happened to what people have to be told. Pure.

use chrono::{DateTime, Utc};
use engine::core::Timestamp;
use engine::core::case::Ask;
use engine::core::definition::Lane;
use engine::core::id::{CaseId, Place};
use engine::store::{Outcome, OutcomeKind, StepEnding};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::Notices;
use super::recipient::Recipient;
use super::rows::{NoticeRow, NoticeState};
use super::template::kind;
use crate::actions::name;
use crate::directory::IdentityRow;

/// The names of notices lie in a space of their own.
const SPACE: Uuid = Uuid::from_u128(0x6e6f_7469_6365_4a51_9b1c_7465_6e75_7265);
/// The most recipients of one step.
pub const RECIPIENTS_MAX: usize = 50;
/// The most that a step gives its notice, in bytes of JSON.
pub const VARS_BYTES_MAX: usize = 16 * 1024;

/// Whether such an outcome can be the reason for a notice.
pub(super) fn may_be_told(outcome: &OutcomeKind, notices: &Notices) -> bool {
    match outcome {
        OutcomeKind::Step { uses, ending, .. } => {
            let tells =
                uses == name::NOTIFY || (uses == name::GRANT_KEEP && notices.settings().is_some());
            tells && *ending == StepEnding::Done
        }
        OutcomeKind::Closed { .. } => false,
        OutcomeKind::Asked { .. }
        | OutcomeKind::Overdue { .. }
        | OutcomeKind::Parked { .. }
        | OutcomeKind::DeadlinePassed { .. } => notices.settings().is_some(),
    }
}

/// What `uses: notify` says, from `with:` and the items of `for_each:`.
#[derive(Debug, Clone, PartialEq)]
pub struct NotifyStep {
    pub to: Vec<Recipient>,
    pub template: String,
    pub urgent: Option<bool>,
    pub vars: Value,
}

impl NotifyStep {
    /// # Errors
    /// What is wrong with it, for a person.
    pub fn read(item: &Value, with: &Value) -> Result<Self, String> {
        let mut fields = Map::new();
        for part in [item, with] {
            if let Value::Object(part) = part {
                fields.extend(
                    part.iter()
                        .map(|(name, value)| (name.clone(), value.clone())),
                );
            }
        }
        let to = match fields.get("to") {
            Some(Value::String(one)) => vec![recipient(one)?],
            Some(Value::Array(several)) => several
                .iter()
                .map(|one| recipient(one.as_str().unwrap_or_default()))
                .collect::<Result<_, _>>()?,
            _ => {
                return Err(
                    "`notify` names nobody; write `to: manager`, `to: role:NAME` or an address"
                        .to_owned(),
                );
            }
        };
        if to.is_empty() || to.len() > RECIPIENTS_MAX {
            return Err(format!(
                "`to` of `notify` names {}; give 1 to {RECIPIENTS_MAX}",
                to.len()
            ));
        }
        let mut vars = match fields.get("vars") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(vars)) => vars.clone(),
            Some(_) => return Err("`vars` of `notify` is no map".to_owned()),
        };
        for short in ["subject", "text"] {
            if let Some(text) = fields.get(short).filter(|text| text.is_string()) {
                vars.entry(short).or_insert_with(|| text.clone());
            }
        }
        let vars = Value::Object(vars);
        let bytes = vars.to_string().len();
        if bytes > VARS_BYTES_MAX {
            return Err(format!(
                "`vars` of `notify` has {bytes} bytes, more than {VARS_BYTES_MAX}"
            ));
        }
        let template = match fields.get("template") {
            None | Some(Value::Null) => kind::MESSAGE.to_owned(),
            Some(Value::String(name)) => name.clone(),
            Some(_) => return Err("`template` of `notify` is no name".to_owned()),
        };
        Ok(Self {
            to,
            template,
            urgent: fields.get("urgent").and_then(Value::as_bool),
            vars,
        })
    }
}

fn recipient(text: &str) -> Result<Recipient, String> {
    Recipient::parse(text).map_err(|error| format!("`to` of `notify`: {error}"))
}

/// What an outcome is the reason for. The same outcome gives the same notices, under the same names.
pub(super) fn caused(outcome: &Outcome, notices: &Notices) -> Vec<NoticeRow> {
    // Nearly all of them are reasons for nothing.
    if !may_be_told(&outcome.kind, notices) {
        return Vec::new();
    }
    let case = About::of(outcome);
    match &outcome.kind {
        OutcomeKind::Step {
            place,
            step,
            uses,
            ending: StepEnding::Done,
            item,
            with,
            ..
        } if uses == name::NOTIFY => {
            // The step that is not as it should be has failed; this one was read before.
            let Ok(notify) = NotifyStep::read(item, with) else {
                return Vec::new();
            };
            let manner = notices.templates().manner(&notify.template);
            let urgent = notify
                .urgent
                .unwrap_or_else(|| manner.is_some_and(|manner| manner.urgent));
            if manner.is_some_and(|manner| !manner.send) {
                return Vec::new();
            }
            let about = case.at(step, Some(*place));
            let also = manner.map_or(&[][..], |manner| &manner.also);
            about.notices(
                &notify.template,
                distinct(notify.to, also),
                urgent,
                &notify.vars,
            )
        }
        OutcomeKind::Step {
            uses,
            ending: StepEnding::Done,
            output,
            ..
        } if uses == name::GRANT_KEEP => excepted(&case, outcome.generation, output, notices),
        OutcomeKind::Step { .. } | OutcomeKind::Closed { .. } => Vec::new(),
        OutcomeKind::Asked {
            place,
            step,
            ask,
            due,
        } => asked(&case.at(step, Some(*place)), ask, *due, notices),
        OutcomeKind::Overdue { place, step, ask } => {
            let about = case.at(step, Some(*place));
            let (asked, vars) = asked_of(ask, None);
            about.told(kind::TASK_OVERDUE, asked, &vars, notices)
        }
        OutcomeKind::Parked {
            index,
            instance,
            step,
            uses,
            failure,
        } => {
            let place = instance.map(|instance| Place::new(*index, instance));
            let about = case.at(step, place);
            let vars = json!({
                "failure": failure.message,
                "kind": failure.kind,
                "uses": uses,
            });
            about.told(kind::CASE_PARKED, Vec::new(), &vars, notices)
        }
        OutcomeKind::DeadlinePassed { escalate_to } => {
            let to = escalate_to.iter().map(|to| Recipient::asked(to)).collect();
            case.told(kind::CASE_DEADLINE, to, &json!({}), notices)
        }
    }
}

/// What a step says that lets somebody keep a right for a time.
#[derive(Deserialize)]
struct Kept {
    system: String,
    entitlement: String,
    ends: DateTime<Utc>,
    tell: Vec<Tell>,
}

/// When the end of an exception is told.
#[derive(Deserialize)]
struct Tell {
    before: String,
    at: DateTime<Utc>,
}

/// The end of an exception, before it comes. Said again it is the same.
fn excepted(
    about: &About<'_>,
    generation: u32,
    output: &Value,
    notices: &Notices,
) -> Vec<NoticeRow> {
    // A right that is no exception has no end.
    let Ok(kept) = Kept::deserialize(output) else {
        return Vec::new();
    };
    let subject = about.subject.unwrap_or_default();
    let right = json!([
        subject,
        generation,
        kept.system,
        kept.entitlement,
        kept.ends
    ]);
    let mut rows = Vec::new();
    for (index, told) in kept.tell.iter().enumerate() {
        let about = About {
            root: format!("exception/{right}/{}", told.before),
            ..about.clone()
        };
        // When that one is due this one has nothing more to say.
        let next = kept.tell.get(index + 1).map(|next| next.at);
        let vars = json!({
            "system": kept.system,
            "entitlement": kept.entitlement,
            "end": kept.ends,
            "before": told.before,
            "next": next,
        });
        let told_at = about.told(kind::EXCEPTION_ENDING, Vec::new(), &vars, notices);
        rows.extend(told_at.into_iter().map(|row| NoticeRow {
            due_at: told.at,
            ..row
        }));
    }
    rows
}

fn asked(
    about: &About<'_>,
    ask: &Ask,
    due: Option<Timestamp>,
    notices: &Notices,
) -> Vec<NoticeRow> {
    let (first, reminder) = match ask {
        Ask::Approval { .. } => (kind::APPROVAL_ASKED, kind::APPROVAL_DUE),
        Ask::Task { .. } => (kind::TASK_ASKED, kind::TASK_DUE),
        Ask::Signal { .. } => return Vec::new(),
    };
    let (asked, vars) = asked_of(ask, due);
    let mut rows = about.told(first, asked.clone(), &vars, notices);
    if let (Some(due), Some(settings)) = (due, notices.settings()) {
        let left = due - about.at;
        let before = settings.remind_before.delta().min(left / 2);
        let mut reminders = about.told(reminder, asked, &vars, notices);
        for row in &mut reminders {
            row.open_until = Some(due);
            row.due_at = (due - before).max(about.at);
        }
        if !settings.remind_before.delta().is_zero() {
            rows.append(&mut reminders);
        }
    }
    rows
}

/// Whom it is put to, and what templates see of it.
fn asked_of(ask: &Ask, due: Option<Timestamp>) -> (Vec<Recipient>, Value) {
    match ask {
        Ask::Approval {
            ask,
            quorum,
            question,
            ..
        } => (
            ask.iter().map(|one| Recipient::asked(one)).collect(),
            json!({ "question": question, "quorum": quorum, "due": due }),
        ),
        Ask::Task {
            title,
            instructions,
            assignee,
            proof_required,
        } => (
            vec![Recipient::asked(assignee)],
            json!({
                "title": title,
                "instructions": instructions,
                "proof": proof_required,
                "due": due,
            }),
        ),
        Ask::Signal { .. } => (Vec::new(), json!({})),
    }
}

/// The source has been silent since `since`, longer than it may be. Once for each silence.
pub(super) fn silent(
    shard_id: i32,
    source: &str,
    since: DateTime<Utc>,
    silent_after: &str,
    notices: &Notices,
    now: DateTime<Utc>,
) -> Vec<NoticeRow> {
    let about = About {
        shard_id,
        root: format!("source/{source}/{}", since.to_rfc3339()),
        subject: None,
        case: None,
        workflow: None,
        step: None,
        place: None,
        revocation: false,
        at: now,
    };
    let vars = json!({ "source": source, "since": since, "silent_after": silent_after });
    about.told(kind::SOURCE_SILENT, Vec::new(), &vars, notices)
}

/// The notice `name` about somebody's contract. `root` tells its cause from every other.
pub(crate) fn about_contract(
    identity: &IdentityRow,
    root: &str,
    name: &str,
    to: Vec<Recipient>,
    vars: &Value,
    notices: &Notices,
    now: DateTime<Utc>,
) -> Vec<NoticeRow> {
    let about = About {
        shard_id: identity.shard_id,
        root: root.to_owned(),
        subject: Some(&identity.identity_key),
        case: None,
        workflow: None,
        step: None,
        place: None,
        revocation: false,
        at: now,
    };
    about.told(name, to, vars, notices)
}

/// A credential that ends. `root` tells its cause from every other.
pub(super) fn about_credential(
    shard_id: i32,
    root: &str,
    to: Vec<Recipient>,
    vars: &Value,
    notices: &Notices,
    now: DateTime<Utc>,
) -> Vec<NoticeRow> {
    let about = About {
        shard_id,
        root: root.to_owned(),
        subject: None,
        case: None,
        workflow: None,
        step: None,
        place: None,
        revocation: false,
        at: now,
    };
    about.told(kind::CREDENTIAL_EXPIRING, to, vars, notices)
}

/// What a notice is about, and when it happened.
#[derive(Debug, Clone)]
struct About<'a> {
    shard_id: i32,
    /// What tells this cause from every other.
    root: String,
    subject: Option<&'a str>,
    case: Option<CaseId>,
    workflow: Option<&'a str>,
    step: Option<&'a str>,
    place: Option<Place>,
    revocation: bool,
    at: DateTime<Utc>,
}

impl<'a> About<'a> {
    fn of(outcome: &'a Outcome) -> Self {
        Self {
            shard_id: outcome.shard.0,
            root: format!("{}/{}", outcome.case, outcome.version),
            subject: Some(&outcome.subject.0),
            case: Some(outcome.case),
            workflow: Some(&outcome.workflow),
            step: None,
            place: None,
            revocation: outcome.lane == Lane::Revocation,
            at: outcome.at,
        }
    }

    fn at(self, step: &'a str, place: Option<Place>) -> Self {
        Self {
            step: Some(step),
            place,
            ..self
        }
    }

    /// The notice `name` to whom its cause names, or else to whom its template names.
    fn told(
        &self,
        name: &str,
        named: Vec<Recipient>,
        vars: &Value,
        notices: &Notices,
    ) -> Vec<NoticeRow> {
        let Some(manner) = notices
            .templates()
            .manner(name)
            .filter(|manner| manner.send)
        else {
            return Vec::new();
        };
        let to = if named.is_empty() {
            manner.to.clone()
        } else {
            named
        };
        self.notices(name, distinct(to, &manner.also), manner.urgent, vars)
    }

    fn notices(
        &self,
        name: &str,
        to: Vec<Recipient>,
        urgent: bool,
        vars: &Value,
    ) -> Vec<NoticeRow> {
        let row = |recipient: Recipient| NoticeRow {
            shard_id: self.shard_id,
            notice_id: self.identifier(name, &recipient),
            name: name.to_owned(),
            subject: self.subject.map(str::to_owned),
            case_id: self.case.map(|case| case.to_string()),
            workflow: self.workflow.map(str::to_owned),
            step: self.step.map(str::to_owned),
            place: self.place.map(place_text),
            recipient: storable(&recipient.to_string()),
            urgent: urgent || self.revocation,
            revocation: self.revocation,
            vars: storable_value(vars),
            open_until: None,
            ends_at: None,
            created_at: self.at,
            due_at: self.at,
            state: NoticeState::Waiting,
            reason: None,
            changed_at: self.at,
        };
        to.into_iter().map(row).collect()
    }

    fn identifier(&self, name: &str, recipient: &Recipient) -> String {
        let place = self.place.map(place_text).unwrap_or_default();
        let step = self.step.unwrap_or_default();
        let cause = format!("{}/{step}/{place}/{name}/{recipient}", self.root);
        Uuid::new_v5(&SPACE, cause.as_bytes()).to_string()
    }
}

/// No database keeps U+0000 in a text.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn storable_value(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(storable(text)),
        Value::Array(several) => several.iter().map(storable_value).collect(),
        Value::Object(fields) => Value::Object(
            fields
                .iter()
                .map(|(name, value)| (storable(name), storable_value(value)))
                .collect(),
        ),
        other => other.clone(),
    }
}

/// The message of a notice to one address: the same notice to the same address is one message.
pub(super) fn delivery_id(notice: &str, way: &str, address: &str) -> String {
    Uuid::new_v5(&SPACE, format!("{notice}/{way}/{address}").as_bytes()).to_string()
}

fn place_text(place: Place) -> String {
    format!("{}/{}", place.step.0, place.instance.0)
}

fn distinct(mut to: Vec<Recipient>, also: &[Recipient]) -> Vec<Recipient> {
    to.extend(also.iter().cloned());
    let mut seen = std::collections::BTreeSet::new();
    to.retain(|recipient| seen.insert(recipient.clone()));
    to
}
