//! What an event says about the attributes of a person. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::event::{BusinessEvent, EventType};
use super::record::{IdentityType, attribute};

/// The attributes of a person by name.
pub type Attributes = BTreeMap<String, Value>;

/// What an event says about attributes.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// All of them: what is not here is gone.
    All(Attributes),
    /// Some of them: all others stay. May be none.
    Some(Vec<Part>),
}

/// What is said about one attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    Is(String, Value),
    Gone(String),
    /// A list of names has this one.
    Has(String, String),
    HasNot(String, String),
}

impl BusinessEvent {
    /// What it says about the person's attributes.
    #[must_use]
    pub fn said(&self) -> Said {
        said(self.event_type, &self.data)
    }
}

/// What an event of this type with this `data` says.
#[must_use]
pub fn said(event_type: EventType, data: &Value) -> Said {
    if let Some(Value::Object(attributes)) = data.get("attributes") {
        let mut all: Attributes = attributes
            .iter()
            .filter(|(name, value)| !value.is_null() && name.as_str() != attribute::KEY)
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        // Else what has to be known of contractors would be asked of nobody whose source leaves it out.
        if event_type == EventType::ContractStart {
            let contractor = json!(IdentityType::Contractor.as_str());
            all.entry(attribute::TYPE.to_owned()).or_insert(contractor);
        }
        return Said::All(all);
    }
    let mut parts: Vec<Part> = Vec::new();
    for (name, change) in data
        .get("changes")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        if name != attribute::KEY
            && let Some(to) = change.get("to")
        {
            parts.push(is(name, to));
        }
    }
    match event_type {
        EventType::ManagerChanged => {
            if let Some(to) = data.get("to") {
                for (name, field) in [
                    (attribute::MANAGER, "key"),
                    (attribute::MANAGER_NAME, "name"),
                ] {
                    parts.push(is(name, to.get(field).unwrap_or(&Value::Null)));
                }
            }
        }
        EventType::ProjectStart | EventType::ProjectEnd => {
            if let Some(project) = data.get("project").and_then(Value::as_str) {
                let (list, project) = (attribute::PROJECTS.to_owned(), project.to_owned());
                parts.push(match event_type {
                    EventType::ProjectStart => Part::Has(list, project),
                    _ => Part::HasNot(list, project),
                });
            }
        }
        EventType::LeaveStart => parts.push(is(attribute::EMPLOYMENT_STATUS, &json!("leave"))),
        EventType::LeaveEnd => parts.push(is(attribute::EMPLOYMENT_STATUS, &json!("active"))),
        EventType::TerminationScheduled
        | EventType::TerminationCorrected
        | EventType::TerminationEffective
        | EventType::ContractExpired => {
            if let Some(day) = data.get("last_day") {
                parts.push(is(attribute::EMPLOYMENT_END, day));
            }
        }
        EventType::TerminationCancelled | EventType::ContractExtended => {
            let day = data.get("last_day").unwrap_or(&Value::Null);
            parts.push(is(attribute::EMPLOYMENT_END, day));
        }
        EventType::Hire
        | EventType::HireRescinded
        | EventType::Transfer
        | EventType::CostCenterChanged
        | EventType::EntityTransfer
        | EventType::AccessRevokeNow
        | EventType::Rehire
        | EventType::Conversion
        | EventType::ContractStart
        | EventType::IdentityMerged
        | EventType::IdentitySplit
        | EventType::ServiceRegistered
        | EventType::ServiceRetired
        | EventType::OwnerChanged
        | EventType::CertificationDecided => {}
    }
    Said::Some(parts)
}

fn is(name: &str, value: &Value) -> Part {
    if value.is_null() {
        Part::Gone(name.to_owned())
    } else {
        Part::Is(name.to_owned(), value.clone())
    }
}

impl Part {
    /// Makes it true of `attributes`.
    pub fn apply(&self, attributes: &mut Attributes) {
        match self {
            Self::Is(name, value) => {
                attributes.insert(name.clone(), value.clone());
            }
            Self::Gone(name) => {
                attributes.remove(name);
            }
            Self::Has(name, item) | Self::HasNot(name, item) => {
                let listed = attributes.get(name).and_then(Value::as_array);
                let mut items: BTreeSet<String> = listed
                    .into_iter()
                    .flatten()
                    .filter_map(|item| item.as_str().map(str::to_owned))
                    .collect();
                if matches!(self, Self::Has(..)) {
                    items.insert(item.clone());
                } else {
                    items.remove(item);
                }
                attributes.insert(name.clone(), json!(items));
            }
        }
    }
}
