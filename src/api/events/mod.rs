//! `POST /v1/events`: business events as CloudEvents 1.0 in JSON: one, a batch, or one with its attributes in headers.
//!
//! An event is acknowledged when it is durable. Its identity is `source` and `id` together: sent again, it
//! changes nothing and is acknowledged again; another event that has them is refused. A batch is taken in as a whole or not at all.

mod binary;
pub mod door;
mod hint_door;
pub(super) mod signed;

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use chrono::{DateTime, Datelike as _, NaiveDate, Utc};
use engine::core::id::Actor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;
use workflows::directory::EventStatus;
use workflows::intake::IntakeError;
use workflows::policy::LeaverRules;
use workflows::sources::data::{self, EventData, pointer};
use workflows::sources::record::Key;
use workflows::sources::{Attributes, BusinessEvent, EventType};

use super::auth::{Caller, Role};
use super::input::{self, BODY_BYTES_MAX};
use super::problem::{ApiError, Mistake, Problem};
use super::{Shared, Shares};

/// The most events of one batch.
pub const EVENTS_MAX: usize = 500;
/// The longest `id`, `source` and `subject`, in bytes.
const NAME_BYTES_MAX: usize = 200;
/// The most attributes an event may carry.
const ATTRIBUTES_MAX: usize = 200;
/// Events are about the years in between; anything else is a mistake in a date.
const YEARS: std::ops::RangeInclusive<i32> = 1970..=2199;

/// One event: CloudEvents 1.0, structured mode.
#[derive(Debug, Deserialize, ToSchema)]
pub struct CloudEvent {
    /// `1.0`
    specversion: String,
    /// Unique for its source.
    id: String,
    /// Which feed says so.
    source: String,
    /// A word of the vocabulary: `hire`, `transfer`, `termination.effective`, ...
    #[serde(rename = "type")]
    #[schema(example = "termination.effective")]
    event_type: String,
    /// The key of the person.
    subject: String,
    /// When the source stated it.
    time: String,
    #[serde(default)]
    datacontenttype: Option<String>,
    #[serde(default)]
    #[expect(
        dead_code,
        reason = "allowed by the format, and nothing here depends on it"
    )]
    dataschema: Option<String>,
    /// What it says; which fields each type has: `GET /v1/schemas/events`.
    #[serde(default)]
    #[schema(value_type = Object)]
    data: EventData,
    /// Extension attributes: allowed by the format, not understood here.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    extensions: Map<String, Value>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Acknowledged {
    /// As sent.
    id: String,
    source: String,
    /// The identifier in the directory and the evidence.
    event_id: String,
    /// False when the same event was acknowledged before.
    new: bool,
    /// What became of it: `started`, `waiting`, `superseded` or `recorded`. Null when it is not new.
    #[schema(value_type = Option<String>)]
    status: Option<EventStatus>,
    /// The cases it started.
    cases: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Acknowledgement {
    events: Vec<Acknowledged>,
}

/// How a request holds events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// One event, whole, in the body.
    Structured,
    Batched,
    /// The attributes in headers, the data in the body.
    Binary,
}

impl Mode {
    fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        match input::media_type(headers).as_str() {
            "application/cloudevents+json" => Ok(Self::Structured),
            "application/cloudevents-batch+json" => Ok(Self::Batched),
            other if other.starts_with("application/cloudevents") => Err(Self::unknown()),
            _ if binary::is_meant(headers) => Ok(Self::Binary),
            "application/json" => Ok(Self::Structured),
            _ => Err(Self::unknown()),
        }
    }

    fn unknown() -> ApiError {
        ApiError::UnsupportedMedia {
            expected: "`application/cloudevents+json` or `application/cloudevents-batch+json`, or data as \
                       `application/json` with the attributes in `ce-*` headers",
        }
    }

    fn read(self, headers: &HeaderMap, body: &[u8]) -> Result<Vec<CloudEvent>, ApiError> {
        match self {
            Self::Structured => serde_json::from_slice(body).map(|event| vec![event]),
            Self::Batched => serde_json::from_slice(body),
            Self::Binary => return Ok(vec![binary::read(headers, body)?]),
        }
        .map_err(|error| input::json_error(&error))
    }
}

/// Send business events
#[utoipa::path(
    post, path = "/v1/events", tag = "events", security(("token" = ["operate"])),
    request_body(description = "One event (`application/cloudevents+json`), an array of at most 500 \
        (`application/cloudevents-batch+json`), or the data of one (`application/json`) with its attributes in the \
        headers `ce-specversion`, `ce-id`, `ce-source`, `ce-type`, `ce-subject` and `ce-time`",
        content((CloudEvent = "application/cloudevents+json"),
        (Vec<CloudEvent> = "application/cloudevents-batch+json"), (Object = "application/json"))),
    responses(
        (status = 202, body = Acknowledgement, description = "All of them are durable"),
        (status = 400, body = Problem), (status = 409, body = Problem, description = "Another event has the `id`"),
        (status = 413, body = Problem), (status = 415, body = Problem), (status = 422, body = Problem)
    )
)]
pub(super) async fn post(
    State(api): Shares,
    caller: Caller,
    request: Request,
) -> Result<(StatusCode, Json<Acknowledgement>), ApiError> {
    let actor = caller.require(Role::Operate)?;
    let (parts, raw) = request.into_parts();
    let mode = Mode::of(&parts.headers)?;
    let bytes = input::body(&parts.headers, raw, BODY_BYTES_MAX).await?;
    let sent = mode.read(&parts.headers, &bytes)?;
    let events = understand(&sent, &api.intake.leavers())?;
    take_in(&api, mode, &sent, &events, actor, api.clock.now()).await
}

/// Makes events durable, all of them or none, and notes that their sources were heard at `heard_at`.
async fn take_in(
    api: &Shared,
    mode: Mode,
    sent: &[CloudEvent],
    events: &[BusinessEvent],
    actor: &Actor,
    heard_at: DateTime<Utc>,
) -> Result<(StatusCode, Json<Acknowledgement>), ApiError> {
    let reports = api
        .intake
        .events(events, actor, api.clock.now())
        .await
        .map_err(|error| placed(error, mode, sent, events))?;
    let acknowledged: Vec<Acknowledged> = sent
        .iter()
        .zip(reports)
        .map(|(sent, report)| Acknowledged {
            id: sent.id.clone(),
            source: sent.source.clone(),
            event_id: report.id,
            new: report.new,
            status: report.status,
            cases: report.cases.iter().map(ToString::to_string).collect(),
        })
        .collect();
    api.nudge.notify_one();
    api.event_nudge.notify_one();
    let mut heard: BTreeMap<&str, bool> = BTreeMap::new();
    for event in &acknowledged {
        // Others than the configured ones nobody waits for.
        if api.sources.contains_key(&event.source) {
            *heard.entry(&event.source).or_default() |= event.new;
        }
    }
    for (source, news) in heard {
        api.intake.heard_or_logged(source, heard_at, news).await;
    }
    let body = Acknowledgement {
        events: acknowledged,
    };
    Ok((StatusCode::ACCEPTED, Json(body)))
}

/// What is wrong with one of the events; nothing of any of them was stored.
fn placed(
    error: IntakeError,
    mode: Mode,
    sent: &[CloudEvent],
    events: &[BusinessEvent],
) -> ApiError {
    let is_it = |event: &BusinessEvent| match &error {
        IntakeError::OtherEvent { event: id, .. } => event.id == *id,
        IntakeError::UnknownSubject(subject) => {
            event.subject.as_str() == subject && event.event_type == EventType::AccessRevokeNow
        }
        _ => false,
    };
    let index = events.iter().position(is_it).unwrap_or_default();
    let Some(sent) = sent.get(index) else {
        return ApiError::from(error);
    };
    let at = match mode {
        Mode::Batched => format!("/{index}"),
        Mode::Structured | Mode::Binary => String::new(),
    };
    if let IntakeError::OtherEvent { differs, .. } = &error {
        let differs: Vec<String> = differs
            .iter()
            .map(|name| format!("`{at}/{name}`"))
            .collect();
        return ApiError::Conflict(format!(
            "event `{}` of `{}` is known already and differs in {}; give a new fact an `id` of its own, and repeat a known \
             one every word as it was",
            sent.id,
            sent.source,
            differs.join(", ")
        ));
    }
    match ApiError::from(error) {
        ApiError::Invalid { mistakes, .. } => ApiError::mistakes(
            mistakes
                .into_iter()
                .map(|mistake| Mistake::new(format!("{at}{}", mistake.at), mistake.what))
                .collect(),
        ),
        other => other,
    }
}

/// Checks all events before any is taken in.
fn understand(sent: &[CloudEvent], leavers: &LeaverRules) -> Result<Vec<BusinessEvent>, ApiError> {
    if sent.is_empty() || sent.len() > EVENTS_MAX {
        return Err(ApiError::wrong(
            "",
            format!("{} events; give 1 to {EVENTS_MAX}", sent.len()),
        ));
    }
    let mut mistakes = Vec::new();
    let mut events = Vec::with_capacity(sent.len());
    let mut seen = BTreeSet::new();
    for (index, event) in sent.iter().enumerate() {
        let mut checking = Checking {
            leavers,
            at: if sent.len() == 1 {
                String::new()
            } else {
                format!("/{index}")
            },
            mistakes: &mut mistakes,
        };
        if !seen.insert((&event.source, &event.id)) {
            checking.note(
                "/id",
                format!(
                    "`{}` of `{}` is in this batch twice",
                    event.id, event.source
                ),
            );
        }
        events.extend(checking.event(event));
    }
    if mistakes.is_empty() {
        Ok(events)
    } else {
        Err(ApiError::mistakes(mistakes))
    }
}

/// The event of a line of a file.
///
/// # Errors
/// What is wrong with it, and where in it.
pub(crate) fn read_line(line: &[u8], leavers: &LeaverRules) -> Result<BusinessEvent, String> {
    let sent: CloudEvent =
        serde_json::from_slice(line).map_err(|error| format!("is no event: {error}"))?;
    let mut mistakes = Vec::new();
    let mut checking = Checking {
        leavers,
        at: String::new(),
        mistakes: &mut mistakes,
    };
    let event = checking.event(&sent);
    let told = mistakes
        .iter()
        .map(|mistake| format!("`{}` {}", mistake.at, mistake.what));
    event.ok_or_else(|| told.collect::<Vec<_>>().join("; "))
}

struct Checking<'a> {
    leavers: &'a LeaverRules,
    at: String,
    mistakes: &'a mut Vec<Mistake>,
}

impl Checking<'_> {
    fn note(&mut self, field: &str, what: impl Into<String>) {
        self.mistakes
            .push(Mistake::new(format!("{}{field}", self.at), what));
    }

    fn event(&mut self, sent: &CloudEvent) -> Option<BusinessEvent> {
        let before = self.mistakes.len();
        if sent.specversion != "1.0" {
            self.note(
                "/specversion",
                format!("is `{}`; this server speaks `1.0`", sent.specversion),
            );
        }
        for (field, value) in [
            ("/id", &sent.id),
            ("/source", &sent.source),
            ("/subject", &sent.subject),
        ] {
            if value.is_empty()
                || value.len() > NAME_BYTES_MAX
                || value.trim() != value
                || value.chars().any(char::is_control)
            {
                self.note(field, format!("give 1 to {NAME_BYTES_MAX} bytes without control characters or blanks around"));
            }
        }
        let media = sent
            .datacontenttype
            .as_deref()
            .unwrap_or("application/json");
        if !media
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .eq_ignore_ascii_case("application/json")
        {
            self.note(
                "/datacontenttype",
                format!("is `{media}`; this server takes `application/json`"),
            );
        }
        let named_well = |name: &String| {
            name.bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        for name in sent
            .extensions
            .keys()
            .filter(|name| !named_well(name) || *name == "data_base64")
        {
            self.note(
                &format!("/{}", pointer(name)),
                "is no attribute of CloudEvents; what it says belongs into `data`",
            );
        }
        let event_type = EventType::parse(&sent.event_type);
        if event_type.is_none() {
            let known: Vec<&str> = EventType::ALL.iter().map(|known| known.as_str()).collect();
            self.note(
                "/type",
                workflows::policy::problem::suggest(&sent.event_type, "types of event", known),
            );
        }
        let occurred_at = self.time("/time", &sent.time);
        let zone = sent.data.zone.as_deref().unwrap_or("UTC");
        let tz = zone.parse::<chrono_tz::Tz>();
        if tz.is_err() {
            self.note(
                "/data/zone",
                format!(
                    "`{}` is no IANA time zone; write one like `Europe/Zurich`",
                    shown(zone)
                ),
            );
        }
        let last_day = event_type
            .filter(|event_type| event_type.announces_an_end())
            .and(sent.data.last_day.as_deref())
            .and_then(|day| day.parse::<NaiveDate>().ok());
        let effective_at = match (&sent.data.effective_at, last_day, &tz) {
            (Some(text), _, _) => self.time("/data/effective_at", text),
            (None, Some(day), Ok(tz)) => {
                let scheduled = event_type != Some(EventType::ContractExpired);
                let announced = occurred_at.filter(|_| scheduled);
                self.end_of(day, *tz, sent.data.attributes.as_ref(), announced)
            }
            (None, _, _) => occurred_at,
        };
        if let Some(attributes) = &sent.data.attributes {
            self.attributes(attributes);
        }
        if let Some(event_type) = event_type {
            for (at, what) in data::mistakes(event_type, &sent.data) {
                self.note(&format!("/data{at}"), what);
            }
        }
        if let (Some(text), Ok(tz), Some(effective_at)) = (&sent.data.until, &tz, effective_at) {
            self.until(text, *tz, effective_at);
        }
        let said = sent.data.said();
        if !input::storable(&said) {
            self.note("/data", "holds U+0000, which cannot be stored");
        }
        let (Some(event_type), Some(occurred_at), Some(effective_at)) =
            (event_type, occurred_at, effective_at)
        else {
            return None;
        };
        (self.mistakes.len() == before).then(|| BusinessEvent {
            id: event_id(&sent.source, &sent.id),
            source: sent.source.clone(),
            event_type,
            subject: Key::new(sent.subject.clone()),
            occurred_at,
            effective_at,
            zone: zone.to_owned(),
            version: sent.data.version.unwrap_or_else(|| occurred_at.timestamp()),
            supersedes: sent
                .data
                .supersedes
                .as_ref()
                .map(|id| event_id(&sent.source, id)),
            data: said,
        })
    }

    /// Whether something can be kept so long. What is no time at all was told before.
    fn until(&mut self, text: &str, zone: chrono_tz::Tz, effective_at: DateTime<Utc>) {
        let Some(until) = data::until(text, zone) else {
            return;
        };
        if !YEARS.contains(&until.year()) {
            let (first, last) = (YEARS.start(), YEARS.end());
            let what = format!(
                "is in the year {}; give one from {first} to {last}",
                until.year()
            );
            self.note("/data/until", what);
        } else if until <= effective_at {
            let what = format!(
                "is over at {until}, and the decision takes effect at {effective_at}; give a later one, or `revoke`"
            );
            self.note("/data/until", what);
        }
    }

    /// When access ends of somebody whose last day is said.
    fn end_of(
        &mut self,
        day: NaiveDate,
        zone: chrono_tz::Tz,
        attributes: Option<&Map<String, Value>>,
        announced: Option<DateTime<Utc>>,
    ) -> Option<DateTime<Utc>> {
        if YEARS.contains(&day.year()) {
            let attributes: Attributes = attributes
                .into_iter()
                .flatten()
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect();
            return Some(self.leavers.end(day, zone, &attributes, announced));
        }
        let years = format!("{} to {}", YEARS.start(), YEARS.end());
        self.note(
            "/data/last_day",
            format!("is in the year {}; give one from {years}", day.year()),
        );
        None
    }

    fn time(&mut self, field: &str, text: &str) -> Option<DateTime<Utc>> {
        match DateTime::parse_from_rfc3339(text) {
            Ok(time) if YEARS.contains(&time.year()) => {
                // Both databases keep microseconds.
                DateTime::from_timestamp_micros(time.timestamp_micros())
            }
            Ok(time) => {
                self.note(
                    field,
                    format!(
                        "is in the year {}; give one from {} to {}",
                        time.year(),
                        YEARS.start(),
                        YEARS.end()
                    ),
                );
                None
            }
            Err(error) => {
                self.note(
                    field,
                    format!(
                        "`{}` is no time: {error}; write one like `2026-03-01T08:00:00Z`",
                        shown(text)
                    ),
                );
                None
            }
        }
    }

    fn attributes(&mut self, attributes: &Map<String, Value>) {
        if attributes.len() > ATTRIBUTES_MAX {
            self.note(
                "/data/attributes",
                format!(
                    "has {} attributes; at most {ATTRIBUTES_MAX} are taken",
                    attributes.len()
                ),
            );
        }
        for (name, value) in attributes {
            if !data::is_plain(value) {
                self.note(
                    &format!("/data/attributes/{}", pointer(name)),
                    "is nested; give text, a number, true or false, or a list of these",
                );
            }
        }
    }
}

/// The directory's identifier for an event of a source: two sources may use the same `id`.
fn event_id(source: &str, id: &str) -> String {
    let mut hash = Sha256::new();
    hash.update((source.len() as u64).to_be_bytes());
    hash.update(source);
    hash.update(id);
    let hex: String = hash
        .finalize()
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("evt_{hex}")
}

/// The beginning of a text, for messages.
fn shown(text: &str) -> String {
    text.chars().take(60).collect()
}
