//! What events say beside who and when: the fields of `data`, which of them each type has, and the schemas made from that.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::event::EventType;
use super::record::{IdentityType, attribute};
use super::time::end_of_day;

/// The fields every type may have.
const ALWAYS: [&str; 6] = [
    "attributes",
    "effective_at",
    "reason",
    "supersedes",
    "version",
    "zone",
];
/// What a review of access decides about a right.
pub const DECISION_KEEP: &str = "keep";
pub const DECISION_REVOKE: &str = "revoke";
/// Nobody decided anything: the time of a right that was kept is over. No source may say so.
pub const DECISION_ENDED: &str = "ended";
/// How much of a name in a message is shown.
const NAME_CHARS_SHOWN: usize = 100;

/// `data` of an event. Unknown fields are refused: a slip in `effective_at` must not make it "now".
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EventData {
    /// From when it holds, RFC 3339. When left out: when policy says that `last_day` is over, for an end that is announced; otherwise `time`.
    #[schemars(extend("format" = "date-time"))]
    pub effective_at: Option<String>,
    /// The IANA zone of the person, as `Europe/Zurich`; UTC when left out.
    pub zone: Option<String>,
    /// Grows with every later statement of the source, so that the newest wins in whatever order they come; the second of
    /// `time` when left out.
    pub version: Option<i64>,
    /// The `id` of the event of the same source that this one replaces.
    pub supersedes: Option<String>,
    /// All that is known of the person after the event. What is not here is taken to be gone.
    #[schemars(with = "Option<BTreeMap<String, Plain>>")]
    pub attributes: Option<Map<String, Value>>,
    /// The attributes that changed; all others stay.
    #[schemars(with = "Option<BTreeMap<String, FromTo>>")]
    pub changes: Option<Map<String, Value>>,
    /// Who it was before.
    #[schemars(with = "Option<Party>")]
    pub from: Option<Value>,
    /// Who it is from now on.
    #[schemars(with = "Option<Party>")]
    pub to: Option<Value>,
    /// Which contract it is about, for somebody who has several: each begins and ends by itself, and somebody is there as
    /// long as one of them runs.
    pub contract: Option<String>,
    /// The project's name.
    pub project: Option<String>,
    /// The system of the right that was reviewed, by its name in the configuration.
    pub system: Option<String>,
    /// The right that was reviewed.
    pub entitlement: Option<String>,
    /// Whether the person keeps it: `keep` or `revoke`.
    #[schemars(extend("enum" = ["keep", "revoke"]))]
    pub decision: Option<String>,
    /// With `keep`: until when, as a day, which is then over in `zone`, or as a moment, RFC 3339. When left out, as policy says.
    #[schemars(extend("anyOf" = [{ "format": "date" }, { "format": "date-time" }]))]
    pub until: Option<String>,
    /// The last day of work, in `zone`.
    #[schemars(with = "Option<NaiveDate>")]
    pub last_day: Option<String>,
    /// The last day as it was said before.
    #[schemars(with = "Option<NaiveDate>")]
    pub previous_last_day: Option<String>,
    /// Why, for people.
    pub reason: Option<String>,
}

/// The value of an attribute: flat.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "it only describes")]
enum Plain {
    One(Scalar),
    Several(Vec<Scalar>),
}

#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "it only describes")]
enum Scalar {
    Text(String),
    Number(f64),
    Truth(bool),
    Nothing(()),
}

/// What an attribute was and is; null is none.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "it only describes")]
struct FromTo {
    from: Option<Plain>,
    to: Plain,
}

/// A person. Neither key nor name: nobody.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "it only describes")]
struct Party {
    /// Their key in the source.
    key: Option<String>,
    /// How the source calls them, when it has no key.
    name: Option<String>,
}

/// What the data of one type has beside what all have.
struct Fields {
    may: &'static [&'static str],
    must: &'static [&'static str],
    /// Without one of these it would say nothing.
    one_of: &'static [&'static str],
}

fn fields(event_type: EventType) -> Fields {
    let (may, must, one_of): (
        &'static [&'static str],
        &'static [&'static str],
        &'static [&'static str],
    ) = match event_type {
        EventType::Transfer
        | EventType::CostCenterChanged
        | EventType::EntityTransfer
        | EventType::Conversion => (&["changes"], &[], &["changes", "attributes"]),
        EventType::ManagerChanged => (&["from", "to"], &[], &["to", "attributes"]),
        EventType::ProjectStart | EventType::ProjectEnd => (&["project"], &["project"], &[]),
        EventType::TerminationScheduled
        | EventType::TerminationCorrected
        | EventType::ContractExpired => (
            &["contract", "last_day", "previous_last_day"],
            &[],
            &["effective_at", "last_day"],
        ),
        EventType::TerminationCancelled | EventType::ContractExtended => {
            (&["contract", "last_day", "previous_last_day"], &[], &[])
        }
        EventType::TerminationEffective | EventType::HireRescinded => {
            (&["contract", "last_day"], &[], &[])
        }
        EventType::Hire | EventType::Rehire | EventType::ContractStart => (&["contract"], &[], &[]),
        EventType::OwnerChanged => (&["from", "to"], &[], &[]),
        EventType::IdentityMerged | EventType::IdentitySplit => (&["from", "to"], &["from"], &[]),
        EventType::LeaveStart
        | EventType::LeaveEnd
        | EventType::AccessRevokeNow
        | EventType::ServiceRegistered
        | EventType::ServiceRetired => (&[], &[], &[]),
        EventType::CertificationDecided => (
            &["system", "entitlement", "decision", "until"],
            &["system", "entitlement", "decision"],
            &[],
        ),
    };
    Fields { may, must, one_of }
}

impl EventType {
    /// The fields that its `data` may have, sorted.
    #[must_use]
    pub fn data_fields(self) -> Vec<&'static str> {
        let mut names: Vec<_> = ALWAYS.iter().chain(fields(self).may).copied().collect();
        names.sort_unstable();
        names
    }

    /// Those of them that not all types have.
    #[must_use]
    pub fn own_fields(self) -> Vec<&'static str> {
        fields(self).may.to_vec()
    }

    /// What it says, in a sentence.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Hire => "somebody begins as an employee",
            Self::HireRescinded => "a hire that was announced does not happen",
            Self::Transfer => "attributes of somebody change: department, title, site",
            Self::ManagerChanged => "somebody has another manager",
            Self::CostCenterChanged => "the cost center of somebody changes",
            Self::EntityTransfer => "somebody goes from one legal entity to another",
            Self::LeaveStart => "a leave of absence begins",
            Self::LeaveEnd => "a leave of absence ends",
            Self::TerminationScheduled => "employment will end",
            Self::TerminationEffective => "employment has ended",
            Self::TerminationCancelled => "an announced end does not happen",
            Self::TerminationCorrected => "an announced end is on another day",
            Self::AccessRevokeNow => "somebody demands that all access ends now",
            Self::Rehire => "somebody comes back",
            Self::Conversion => "a contractor becomes an employee, or the other way",
            Self::ContractStart => "a contractor begins",
            Self::ContractExtended => "a contract goes on for longer",
            Self::ContractExpired => "a contract ends",
            Self::ProjectStart => "somebody joins a project",
            Self::ProjectEnd => "somebody leaves a project",
            Self::IdentityMerged => "two identities are one person",
            Self::IdentitySplit => "two identities that were taken for one person are two",
            Self::ServiceRegistered => "a service account or workload exists",
            Self::ServiceRetired => "a service account or workload ends",
            Self::OwnerChanged => "something has another owner",
            Self::CertificationDecided => "a review of access was decided",
        }
    }

    /// Whether it announces an end, which is at the end of the last day when nothing else is said.
    #[must_use]
    pub fn announces_an_end(self) -> bool {
        fields(self).one_of.contains(&"last_day")
    }

    /// JSON Schema (2020-12) of the whole event: CloudEvents 1.0 in JSON.
    #[must_use]
    pub fn schema(self) -> Value {
        let mut schema = self.envelope();
        if let Value::Object(members) = &mut schema {
            members.insert("$schema".to_owned(), json!(DIALECT));
            members.insert("$defs".to_owned(), shapes().1);
        }
        schema
    }

    fn envelope(self) -> Value {
        let Fields { must, one_of, .. } = fields(self);
        let (properties, _) = shapes();
        let names = self.data_fields();
        let own = properties
            .into_iter()
            .filter(|(name, _)| names.contains(&name.as_str()));
        let mut data = json!({
            "type": "object",
            "properties": own.collect::<Map<_, _>>(),
            "additionalProperties": false,
        });
        let text = json!({ "type": "string", "minLength": 1, "maxLength": 200 });
        let mut required = vec!["specversion", "id", "source", "type", "subject", "time"];
        if let Value::Object(members) = &mut data {
            if !must.is_empty() {
                members.insert("required".to_owned(), json!(must));
            }
            if !one_of.is_empty() {
                let ways: Vec<Value> = one_of
                    .iter()
                    .map(|name| json!({ "required": [name] }))
                    .collect();
                members.insert("anyOf".to_owned(), json!(ways));
            }
            if !(must.is_empty() && one_of.is_empty()) {
                required.push("data");
            }
        }
        json!({
            "title": self.as_str(),
            "description": self.meaning(),
            "type": "object",
            "properties": {
                "specversion": { "const": "1.0" },
                "id": text,
                "source": text,
                "type": { "const": self.as_str() },
                "subject": text,
                "time": { "type": "string", "format": "date-time" },
                "datacontenttype": { "type": "string" },
                "dataschema": { "type": "string" },
                "data": data,
            },
            "patternProperties": { "^[a-z0-9]+$": true },
            "additionalProperties": false,
            "required": required,
        })
    }
}

const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// JSON Schema of any event: one of all types.
#[must_use]
pub fn schema() -> Value {
    let (_, shapes) = shapes();
    let mut definitions = match shapes {
        Value::Object(shapes) => shapes,
        _ => Map::new(),
    };
    let mut ways = Vec::new();
    for event_type in EventType::ALL {
        let name = event_type.as_str();
        ways.push(json!({ "$ref": format!("#/$defs/{name}") }));
        definitions.insert(name.to_owned(), event_type.envelope());
    }
    json!({
        "$schema": DIALECT,
        "title": "business event",
        "oneOf": ways,
        "$defs": definitions,
    })
}

/// The fields of [`EventData`], and the shapes they refer to.
fn shapes() -> (Map<String, Value>, Value) {
    let schema = schemars::SchemaGenerator::default().into_root_schema_for::<EventData>();
    let mut schema = schema.to_value();
    let taken = |schema: &mut Value, name: &str| schema.get_mut(name).map(Value::take);
    let properties = match taken(&mut schema, "properties") {
        Some(Value::Object(properties)) => properties,
        _ => Map::new(),
    };
    (
        properties,
        taken(&mut schema, "$defs").unwrap_or_else(|| json!({})),
    )
}

/// What is wrong with the data of an event of this type: places (RFC 6901, within the data) and mistakes. Times, zones and
/// the values of `attributes` are for whoever reads them.
#[must_use]
pub fn mistakes(event_type: EventType, data: &EventData) -> Vec<(String, String)> {
    let Fields { must, one_of, .. } = fields(event_type);
    let allowed = event_type.data_fields();
    let present = data.present();
    let quoted = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        names.join(", ")
    };
    let mut mistakes = Vec::new();
    let mut note = |at: &str, what: String| mistakes.push((at.to_owned(), what));
    for name in present.iter().filter(|name| !allowed.contains(*name)) {
        let what = format!(
            "does not belong to `{event_type}`; its data has {}",
            quoted(&allowed)
        );
        note(&format!("/{name}"), what);
    }
    for name in must.iter().filter(|name| !present.contains(*name)) {
        note(
            &format!("/{name}"),
            format!("is missing; `{event_type}` needs it"),
        );
    }
    if !one_of.is_empty() && !one_of.iter().any(|name| present.contains(name)) {
        note(
            "",
            format!(
                "says too little; `{event_type}` needs one of {}",
                quoted(one_of)
            ),
        );
    }
    for (at, day) in [
        ("/last_day", &data.last_day),
        ("/previous_last_day", &data.previous_last_day),
    ] {
        if let Some(day) = day
            && day.parse::<NaiveDate>().is_err()
        {
            note(at, "is no day; write one like `2026-03-31`".to_owned());
        }
    }
    if data
        .project
        .as_deref()
        .is_some_and(|name| name.trim().is_empty())
    {
        note("/project", "is empty".to_owned());
    }
    for (at, text) in [
        ("/system", &data.system),
        ("/entitlement", &data.entitlement),
    ] {
        if text.as_deref().is_some_and(|text| text.trim().is_empty()) {
            note(at, "is empty".to_owned());
        }
    }
    if let Some(decision) = &data.decision
        && decision != DECISION_KEEP
        && decision != DECISION_REVOKE
    {
        note("/decision", "is neither `keep` nor `revoke`".to_owned());
    }
    if let Some(text) = &data.until {
        if until(text, Tz::UTC).is_none() {
            let what = "is neither a day nor a time; write one like `2026-12-31` or `2026-12-31T18:00:00Z`";
            note("/until", what.to_owned());
        }
        if data.decision.as_deref() == Some(DECISION_REVOKE) {
            note(
                "/until",
                "says how long a right is kept, and `decision` is `revoke`; leave it out"
                    .to_owned(),
            );
        }
    }
    for (at, party) in [("/from", &data.from), ("/to", &data.to)] {
        if party.as_ref().is_some_and(|party| !is_party(party)) {
            note(
                at,
                "give `{\"key\": \"...\"}`, and `name` if there is no key; both null for nobody"
                    .to_owned(),
            );
        }
    }
    for (name, change) in data.changes.iter().flatten() {
        let at = format!("/changes/{}", pointer(name));
        match change.as_object() {
            Some(change) if is_from_to(change) => {
                let to = change.get("to").unwrap_or(&Value::Null);
                if let Some(what) = wrong_attribute(name, to) {
                    note(&format!("{at}/to"), what);
                }
            }
            _ => note(&at, "give `{\"from\": ..., \"to\": ...}` with flat values; a `to` of null takes the attribute away".to_owned()),
        }
    }
    for (name, value) in data.attributes.iter().flatten() {
        // Beside the others it is the subject again.
        if name != attribute::KEY
            && let Some(what) = wrong_attribute(name, value)
        {
            note(&format!("/attributes/{}", pointer(name)), what);
        }
    }
    mistakes
}

/// When `until` is: a moment as it is, as far as both databases keep it, and a day when it is over in `zone`.
#[must_use]
pub fn until(text: &str, zone: Tz) -> Option<DateTime<Utc>> {
    match text.parse::<NaiveDate>() {
        Ok(day) => Some(end_of_day(day, zone)),
        Err(_) => {
            let moment = DateTime::parse_from_rfc3339(text).ok()?;
            DateTime::from_timestamp_micros(moment.timestamp_micros())
        }
    }
}

/// What an attribute that every source fills in the same way must be, when it is not.
fn wrong_attribute(name: &str, value: &Value) -> Option<String> {
    if value.is_null() && name != attribute::KEY {
        return None;
    }
    let text = value.as_str();
    let (good, expected) = match name {
        attribute::KEY => (false, "cannot change: it is what identifies the person"),
        attribute::TYPE => (
            text.and_then(IdentityType::parse).is_some(),
            "is none of `employee`, `contractor`, `guest`",
        ),
        attribute::PROJECTS => (
            value
                .as_array()
                .is_some_and(|all| all.iter().all(Value::is_string)),
            "is no list of names",
        ),
        attribute::EMPLOYMENT_START | attribute::EMPLOYMENT_END => (
            text.is_some_and(|text| text.parse::<NaiveDate>().is_ok()),
            "is no day; write one like `2026-03-31`",
        ),
        attribute::EMPLOYMENT_STATUS => (
            matches!(text, Some("active" | "leave" | "ended")),
            "is none of `active`, `leave`, `ended`",
        ),
        attribute::MANAGER | attribute::MANAGER_NAME => (text.is_some(), "is no text"),
        _ => (true, ""),
    };
    (!good).then(|| expected.to_owned())
}

fn is_party(value: &Value) -> bool {
    value.as_object().is_some_and(|members| {
        members.iter().all(|(name, value)| {
            matches!(name.as_str(), "key" | "name") && (value.is_string() || value.is_null())
        })
    })
}

fn is_from_to(members: &Map<String, Value>) -> bool {
    members.contains_key("to")
        && members
            .iter()
            .all(|(name, value)| matches!(name.as_str(), "from" | "to") && is_plain(value))
}

/// Text, a number, true or false, nothing, or a list of these.
#[must_use]
pub fn is_plain(value: &Value) -> bool {
    let scalar = |value: &Value| !value.is_array() && !value.is_object();
    match value {
        Value::Array(values) => values.iter().all(scalar),
        value => scalar(value),
    }
}

/// A name inside a JSON pointer, its beginning if it is long.
#[must_use]
pub fn pointer(name: &str) -> String {
    let shown: String = name.chars().take(NAME_CHARS_SHOWN).collect();
    shown.replace('~', "~0").replace('/', "~1")
}

impl EventData {
    /// What the directory keeps: the fields that are there, without those that every event has elsewhere.
    #[must_use]
    pub fn said(&self) -> Value {
        let all = json!({
            "attributes": self.attributes,
            "changes": self.changes,
            "contract": self.contract,
            "from": self.from,
            "to": self.to,
            "project": self.project,
            "system": self.system,
            "entitlement": self.entitlement,
            "decision": self.decision,
            "until": self.until,
            "last_day": self.last_day,
            "previous_last_day": self.previous_last_day,
            "reason": self.reason,
        });
        match all {
            Value::Object(mut fields) => {
                fields.retain(|_, value| !value.is_null());
                Value::Object(fields)
            }
            other => other,
        }
    }

    fn present(&self) -> Vec<&'static str> {
        let fields = [
            ("attributes", self.attributes.is_some()),
            ("changes", self.changes.is_some()),
            ("contract", self.contract.is_some()),
            ("decision", self.decision.is_some()),
            ("effective_at", self.effective_at.is_some()),
            ("entitlement", self.entitlement.is_some()),
            ("from", self.from.is_some()),
            ("last_day", self.last_day.is_some()),
            ("previous_last_day", self.previous_last_day.is_some()),
            ("project", self.project.is_some()),
            ("reason", self.reason.is_some()),
            ("supersedes", self.supersedes.is_some()),
            ("system", self.system.is_some()),
            ("to", self.to.is_some()),
            ("until", self.until.is_some()),
            ("version", self.version.is_some()),
            ("zone", self.zone.is_some()),
        ];
        let present = fields.into_iter().filter(|(_, there)| *there);
        present.map(|(name, _)| name).collect()
    }
}
