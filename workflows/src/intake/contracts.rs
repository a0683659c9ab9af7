//! Contractors: nothing begins before what the policy wants to know is known, people are told before an end, and an end is
//! moved by a person as far as the policy lets them.
//!
//! What is planned is written with the events it follows from. A notice of an end is named after the person's life, the end and
//! how long before it comes: said again it is the same, and it is void when the end has moved by then.

use std::sync::Arc;

use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;
use engine::core::Timestamp;
use engine::core::id::Actor;
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::{Intake, IntakeError, PolicyCell};
use crate::directory::{IdentityRow, IdentityStatus};
use crate::notices::{NoticeRow, Notices, Recipient, about_contract, kind};
use crate::policy::{ContractRules, ExtensionRefused};
use crate::sources::record::attribute;
use crate::sources::{BusinessEvent, EventType, IdentityType, Key};
use crate::timeline::{Belief, Employment, Timeline, runs_until};

/// The source of what is decided here.
const SOURCE: &str = "tenure";
/// The names of such events lie in a space of their own.
const NAMESPACE: Uuid = Uuid::from_u128(0x2d0c_51aa_0f6e_4b57_8a39_636f_6e74_7261);

/// What holds for contractors, and how people are told.
pub(super) struct Contracts {
    rules: ContractRules,
    notices: Arc<Notices>,
}

/// Where that stands: the policy in force, which may change while a node runs.
#[derive(Clone)]
pub(super) struct ContractPolicy {
    policy: PolicyCell,
    notices: Arc<Notices>,
}

impl ContractPolicy {
    pub fn new(policy: PolicyCell, notices: Arc<Notices>) -> Self {
        Self { policy, notices }
    }

    /// What holds at this moment; `None` when nothing more holds for contractors than for others.
    pub fn in_force(&self) -> Option<Contracts> {
        let policy = self.policy.get()?;
        Some(Contracts {
            rules: policy.contracts()?.clone(),
            notices: Arc::clone(&self.notices),
        })
    }
}

/// An end that was moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Extended {
    pub identity_key: String,
    pub contract: Option<String>,
    /// The end that stood.
    pub from: DateTime<Utc>,
    /// The end from now on: the last instant of the last day, in the zone of the contract.
    pub to: DateTime<Utc>,
    pub zone: String,
    /// Whether it was moved so before: then nothing was done.
    pub unchanged: bool,
}

/// Why an end was not moved.
#[derive(Debug, thiserror::Error)]
pub enum ExtendError {
    #[error(
        "the policy has no `contractors`, so nothing says how far a contract may be made longer"
    )]
    NoRules,
    #[error("there is no identity `{0}`")]
    Unknown(String),
    #[error("`{key}` has {count} contracts with an end, {}; name one", .names.join(", "))]
    Several {
        key: String,
        count: usize,
        names: Vec<String>,
    },
    #[error("`{key}` has no contract `{contract}` with an end")]
    NoSuchContract { key: String, contract: String },
    #[error(transparent)]
    Refused(#[from] ExtensionRefused),
    #[error(transparent)]
    Intake(#[from] IntakeError),
}

impl Contracts {
    /// What has to be known before anything is given to somebody who has not begun.
    pub fn missing(&self, belief: &Belief, status: IdentityStatus) -> Vec<String> {
        if status == IdentityStatus::Expected {
            self.unknown(belief)
        } else {
            Vec::new()
        }
    }

    /// Whether anything of that is missing of somebody whose first day is to come, as far as that day is known.
    pub fn will_be_missing(&self, timeline: &Timeline<'_>, belief: &Belief) -> bool {
        match belief.employment {
            Employment::Expected { from }
            | Employment::Ended {
                returns: Some(from),
                ..
            } => !self.unknown(&timeline.at(from)).is_empty(),
            _ => false,
        }
    }

    fn unknown(&self, belief: &Belief) -> Vec<String> {
        let Employment::Employed { until, .. } = belief.employment else {
            return Vec::new();
        };
        if self.rules.concern(type_of(belief)) {
            self.rules.missing(&belief.attributes, until)
        } else {
            Vec::new()
        }
    }

    /// What people have to be told: what is missing, and the ends that come.
    pub fn notices(
        &self,
        identity: &IdentityRow,
        timeline: &Timeline<'_>,
        belief: &Belief,
        withheld: &[String],
        now: Timestamp,
    ) -> Vec<NoticeRow> {
        if self.notices.settings().is_none()
            || !belief.is_employed()
            || !self.rules.concern(type_of(belief))
        {
            return Vec::new();
        }
        let life = format!("contract/{}/{}", identity.identity_key, identity.generation);
        let missing = self.unknown(belief);
        let mut rows = Vec::new();
        if !missing.is_empty() {
            let root = format!("{life}/missing/{}", missing.join("/"));
            let vars = json!({ "missing": missing, "withheld": !withheld.is_empty() });
            let owner = vec![Recipient::asked(self.rules.owner())];
            let name = kind::CONTRACT_INCOMPLETE;
            rows.extend(about_contract(
                identity,
                &root,
                name,
                owner,
                &vars,
                &self.notices,
                now,
            ));
        }
        let spells: Vec<_> = timeline
            .spells()
            .iter()
            .map(|spell| (spell.start, spell.end.map(|(end, _)| end)))
            .collect();
        let Some(end) = runs_until(&spells, now) else {
            return rows;
        };
        let planned = self.rules.told_before(end, now);
        for (index, (before, at)) in planned.iter().enumerate() {
            let root = format!("{life}/ends/{}/{before}", end.to_rfc3339());
            // When that one is due this one has nothing more to say.
            let next = planned.get(index + 1).map(|(_, at)| at);
            let vars = json!({ "end": end, "before": before.to_string(), "next": next });
            let to = vec![self.sponsor()];
            let told = about_contract(
                identity,
                &root,
                kind::CONTRACT_ENDING,
                to,
                &vars,
                &self.notices,
                now,
            );
            rows.extend(told.into_iter().map(|row| NoticeRow {
                due_at: *at,
                ends_at: Some(end),
                ..row
            }));
        }
        rows
    }

    /// Whoever answers for them; where nobody does any more, whom the policy names.
    fn sponsor(&self) -> Recipient {
        let owner = Recipient::asked(self.rules.owner());
        match self.rules.sponsor() {
            Some(sponsor) => {
                let sponsor = Recipient::Attribute(sponsor.to_owned());
                Recipient::FirstOf(vec![sponsor, owner])
            }
            None => owner,
        }
    }
}

fn type_of(belief: &Belief) -> &str {
    let said = belief.attributes.get(attribute::TYPE);
    said.and_then(serde_json::Value::as_str)
        .unwrap_or(IdentityType::default().as_str())
}

impl Intake {
    /// Moves the end of somebody's contract to when policy says that `last_day` is over, in the zone in which the end that
    /// stands was said. The same again changes nothing.
    ///
    /// # Errors
    /// When nothing says how far, nobody is meant, or the policy does not let it.
    pub async fn extend_contract(
        &self,
        key: &str,
        contract: Option<&str>,
        last_day: NaiveDate,
        reason: &str,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Extended, ExtendError> {
        let contracts = self.contracts_in_force().ok_or(ExtendError::NoRules)?;
        let rules = &contracts.rules;
        let store = |error| ExtendError::Intake(IntakeError::Store(error));
        let unknown = || ExtendError::Unknown(key.to_owned());
        let held = self.directory.holdings(key).await.map_err(store)?;
        let identity = held.ok_or_else(unknown)?.identity;
        let precedence = self.precedence();
        let believed = self.directory.believed(key, now, now, &precedence).await;
        let believed = believed.map_err(store)?.ok_or_else(unknown)?;
        let running = believed.spells.iter().filter(|spell| {
            spell.end.is_some_and(|end| end > now)
                && contract.is_none_or(|contract| spell.contract.as_deref() == Some(contract))
        });
        let running: Vec<_> = running.collect();
        let spell = match (running.as_slice(), contract) {
            ([one], _) => *one,
            ([], Some(contract)) => {
                return Err(ExtendError::NoSuchContract {
                    key: key.to_owned(),
                    contract: contract.to_owned(),
                });
            }
            ([], None) => {
                rules.may_extend(&identity.identity_type, None, now)?;
                return Err(ExtensionRefused::NoEnd.into());
            }
            (several, _) => {
                let name = |name: &Option<String>| name.clone().unwrap_or_else(|| "-".to_owned());
                return Err(ExtendError::Several {
                    key: key.to_owned(),
                    count: several.len(),
                    names: several.iter().map(|spell| name(&spell.contract)).collect(),
                });
            }
        };
        let zone = self
            .zone_of(key, spell.ended_by.as_deref())
            .await
            .map_err(store)?;
        let to = self
            .leavers()
            .end(last_day, zone, &identity.attributes, None);
        let from = spell.end.unwrap_or(now);
        let extended = Extended {
            identity_key: key.to_owned(),
            contract: spell.contract.clone(),
            from,
            to,
            zone: zone.name().to_owned(),
            unchanged: to == from,
        };
        if extended.unchanged {
            return Ok(extended);
        }
        rules.may_extend(&identity.identity_type, Some(from), to)?;
        let event = |event_type: EventType, effective_at: DateTime<Utc>, version: i64| {
            let cause = format!("{key}\n{:?}\n{from}\n{to}\n{event_type:?}", spell.contract);
            BusinessEvent {
                id: format!(
                    "ext_{}",
                    Uuid::new_v5(&NAMESPACE, cause.as_bytes()).simple()
                ),
                source: SOURCE.to_owned(),
                event_type,
                subject: Key::new(key),
                occurred_at: now,
                effective_at,
                zone: zone.name().to_owned(),
                version,
                supersedes: None,
                data: json!({
                    "contract": spell.contract,
                    "last_day": last_day,
                    "reason": reason,
                }),
            }
        };
        let version = now.timestamp_micros();
        let events = [
            event(EventType::ContractExtended, now, version),
            event(EventType::ContractExpired, to, version + 1),
        ];
        let subjects = [(self.directory.shard(key), key.to_owned())].into();
        self.settle(&subjects, &events, by, now).await?;
        Ok(extended)
    }

    /// The zone in which an end was said; UTC when that is not known.
    async fn zone_of(
        &self,
        key: &str,
        event: Option<&str>,
    ) -> Result<Tz, engine::store::StoreError> {
        let detail = self.directory.identity(key).await?;
        let events = detail.into_iter().flat_map(|detail| detail.events);
        let mut said = events.filter(|row| Some(row.event_id.as_str()) == event);
        let zone = said.next().and_then(|row| row.zone.parse().ok());
        Ok(zone.unwrap_or(Tz::UTC))
    }
}
