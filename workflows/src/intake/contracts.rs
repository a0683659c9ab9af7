//! Contractors: nothing begins before what the policy wants to know is known, people are told before an end, and an end is
//! moved, as far as the policy lets it, when one person asks and another agrees.
//!
//! What is planned is written with the events it follows from. A notice of an end is named after the person's life, the end and
//! how long before it comes: said again it is the same, and it is void when the end has moved by then.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use chrono_tz::Tz;
use engine::core::Timestamp;
use engine::core::definition::Lane;
use engine::core::id::{Actor, CaseId, ShardId, Subject};
use engine::runner::{Message, StartCase};
use engine::store::{InboxRow, StoreError, Transaction, Work};
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::{Intake, IntakeError, PolicyCell};
use crate::directory::{IdentityFilter, IdentityRow, IdentityStatus};
use crate::notices::{LinkRow, NoticeRow, Notices, Recipient, about_contract, kind, use_link};
use crate::policy::{ContractRules, ExtensionRefused};
use crate::sources::record::attribute;
use crate::sources::{BusinessEvent, EventType, IdentityType, Key};
use crate::timeline::{Belief, Employment, Timeline, runs_until};

/// The workflow by which the end of a contract moves.
pub const EXTENSION: &str = "extension";
/// How many people are looked at in one transaction of [`Intake::reconsider`].
const RECONSIDERED_MAX: u32 = 200;
/// Rolls back when somebody was first.
const LINK_USED: &str = "the link was used";
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
    #[error("the link was used, or is over")]
    LinkUsed,
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

/// What an extension is asked with: a stored form, the input of its case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExtensionInput {
    /// Whose contract.
    pub identity: String,
    /// How people call them.
    pub name: String,
    pub contract: Option<String>,
    /// The last day asked for, which ends in the zone of the contract.
    pub until: NaiveDate,
    /// The end that stood when it was asked.
    pub ends: DateTime<Utc>,
    pub reason: String,
    pub asked_by: String,
    /// Whom the policy lets decide, as it is written.
    pub ask: String,
}

/// Whose contract is to end when.
#[derive(Debug, Clone, Copy)]
pub struct Extension<'a> {
    pub key: &'a str,
    /// Which, for somebody who has several.
    pub contract: Option<&'a str>,
    /// The one that ends then, and no other.
    pub ends: Option<DateTime<Utc>>,
    /// The last day, which ends in the zone in which the end that stands was said.
    pub until: NaiveDate,
}

/// What came of asking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExtensionAsked {
    #[serde(flatten)]
    pub extended: Extended,
    /// Where it is decided; `None` when it ends then already.
    pub case: Option<CaseId>,
    /// Who is asked, as it is written.
    pub ask: Option<String>,
}

impl Intake {
    /// With what the policy in force says about contractors, and the notices they are the reason for.
    #[must_use]
    pub fn with_contracts(self, policy: PolicyCell, notices: Arc<Notices>) -> Self {
        let contracts = Some(ContractPolicy::new(policy, notices));
        Self { contracts, ..self }
    }

    pub(super) fn contracts_in_force(&self) -> Option<Contracts> {
        self.contracts.as_ref()?.in_force()
    }

    /// Lets those go on who have not begun because something was missing that the policy in force does not ask for any more.
    /// Call it when another policy is in force; calling it more often is harmless.
    ///
    /// # Errors
    /// When the database does not answer; what was done until then stays done.
    pub async fn reconsider(&self, now: Timestamp) -> Result<BTreeMap<String, u64>, IntakeError> {
        let nobody = Actor::engine();
        let filter = IdentityFilter {
            status: Some(IdentityStatus::Expected),
            ..IdentityFilter::default()
        };
        let mut cases: BTreeMap<String, u64> = BTreeMap::new();
        let mut after: Option<String> = None;
        loop {
            let page = self
                .directory
                .identities(&filter, after.as_deref(), RECONSIDERED_MAX);
            let page = page.await?;
            let Some(last) = page.last() else {
                return Ok(cases);
            };
            after = Some(last.identity_key.clone());
            let subjects = page
                .into_iter()
                .map(|row| (row.shard_id, row.identity_key))
                .collect();
            let settled = self.settle(&subjects, &[], &nobody, now).await?;
            for (workflow, started) in settled.cases {
                *cases.entry(workflow).or_default() += started.len() as u64;
            }
        }
    }

    /// Asks for somebody's contract to end later: the case of [`EXTENSION`] puts it to whom the policy names, and moves the end
    /// when they agree. The same words of the same person on one day ask once.
    ///
    /// # Errors
    /// When nothing says how far, nobody is meant, or the policy does not let it.
    pub async fn ask_for_extension(
        &self,
        extension: &Extension<'_>,
        reason: &str,
        by: &Actor,
        now: Timestamp,
    ) -> Result<ExtensionAsked, ExtendError> {
        self.ask_with(extension, None, reason, by, now).await
    }

    /// As [`Intake::ask_for_extension`], by whoever has the link of a mail. It is used up by that.
    ///
    /// # Errors
    /// As there; [`ExtendError::LinkUsed`] when somebody was first.
    pub async fn ask_by_link(
        &self,
        link: &LinkRow,
        until: NaiveDate,
        reason: &str,
        now: Timestamp,
    ) -> Result<ExtensionAsked, ExtendError> {
        let extension = Extension {
            key: &link.identity_key,
            contract: None,
            ends: Some(link.ends_at),
            until,
        };
        let by = Actor(format!("mail:{}", link.address));
        self.ask_with(&extension, Some(link), reason, &by, now)
            .await
    }

    async fn ask_with(
        &self,
        extension: &Extension<'_>,
        link: Option<&LinkRow>,
        reason: &str,
        by: &Actor,
        now: Timestamp,
    ) -> Result<ExtensionAsked, ExtendError> {
        let (extended, identity, rules) = self.weigh_extension(extension, now).await?;
        if extended.unchanged {
            return Ok(ExtensionAsked {
                extended,
                case: None,
                ask: None,
            });
        }
        let input = ExtensionInput {
            identity: extension.key.to_owned(),
            name: identity.display_name,
            contract: extended.contract.clone(),
            until: extension.until,
            ends: extended.from,
            reason: reason.to_owned(),
            asked_by: by.0.clone(),
            ask: rules.approver().to_owned(),
        };
        let subject = format!("contract:{}", extension.key);
        let today = now.date_naive();
        let cause = json!([EXTENSION, input, today]).to_string();
        let morning = today.and_time(NaiveTime::MIN).and_utc();
        let start = StartCase {
            case: CaseId::caused(&NAMESPACE, morning, &cause),
            workflow: EXTENSION.to_owned(),
            subject: Subject(subject.clone()),
            generation: 0,
            input: serde_json::to_value(&input)
                .map_err(|error| ExtendError::Intake(IntakeError::stored_form(error)))?,
            initiator: by.clone(),
            effective_at: Some(now),
        };
        let case = start.case;
        let message = Message::Start(start).into_row(
            ShardId(self.directory.shard(&subject)),
            Uuid::new_v5(&NAMESPACE, case.to_string().as_bytes()),
            Lane::Normal,
            now,
        );
        let message =
            message.map_err(|error| ExtendError::Intake(IntakeError::stored_form(error)))?;
        let ask = Ask {
            message,
            link,
            case: case.to_string(),
            now,
        };
        self.directory
            .write(&ask)
            .await
            .map_err(|error| match error {
                StoreError::Projection(reason) if reason == LINK_USED => ExtendError::LinkUsed,
                error => ExtendError::Intake(IntakeError::Store(error)),
            })?;
        Ok(ExtensionAsked {
            extended,
            case: Some(case),
            ask: Some(input.ask),
        })
    }

    /// The last day up to which the policy lets an end at `ends` be moved at once, in UTC.
    #[must_use]
    pub fn extension_until(&self, ends: Timestamp) -> Option<NaiveDate> {
        let rules = self.contracts_in_force()?.rules;
        Some((ends + rules.extension_max().delta()).date_naive())
    }

    /// Moves the end of a contract as it was asked and approved. The same again changes nothing.
    ///
    /// # Errors
    /// As [`Intake::ask_for_extension`].
    pub async fn extend_contract(
        &self,
        asked: &ExtensionInput,
        approved_by: &[String],
        now: Timestamp,
    ) -> Result<Extended, ExtendError> {
        let key = asked.identity.as_str();
        let extension = Extension {
            key,
            contract: asked.contract.as_deref(),
            ends: None,
            until: asked.until,
        };
        let (extended, ..) = self.weigh_extension(&extension, now).await?;
        if extended.unchanged {
            return Ok(extended);
        }
        let (from, to, contract) = (extended.from, extended.to, &extended.contract);
        let event = |event_type: EventType, effective_at: DateTime<Utc>, version: i64| {
            let cause = format!("{key}\n{contract:?}\n{from}\n{to}\n{event_type:?}");
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
                zone: extended.zone.clone(),
                version,
                supersedes: None,
                data: json!({
                    "contract": contract,
                    "last_day": asked.until,
                    "reason": asked.reason,
                    "asked_by": asked.asked_by,
                    "approved_by": approved_by,
                }),
            }
        };
        let version = now.timestamp_micros();
        let events = [
            event(EventType::ContractExtended, now, version),
            event(EventType::ContractExpired, to, version + 1),
        ];
        let subjects = [(self.directory.shard(key), key.to_owned())].into();
        let by = Actor(asked.asked_by.clone());
        self.settle(&subjects, &events, &by, now).await?;
        Ok(extended)
    }

    /// Which end would move where, if the policy lets it.
    async fn weigh_extension(
        &self,
        extension: &Extension<'_>,
        now: Timestamp,
    ) -> Result<(Extended, IdentityRow, ContractRules), ExtendError> {
        let Extension {
            key,
            contract,
            ends,
            until: last_day,
        } = *extension;
        let rules = self.contracts_in_force().ok_or(ExtendError::NoRules)?.rules;
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
                && ends.is_none_or(|ends| spell.end == Some(ends))
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
        if !extended.unchanged {
            rules.may_extend(&identity.identity_type, Some(from), to)?;
        }
        Ok((extended, identity, rules))
    }

    /// The zone in which an end was said; UTC when that is not known.
    async fn zone_of(&self, key: &str, event: Option<&str>) -> Result<Tz, StoreError> {
        let detail = self.directory.identity(key).await?;
        let events = detail.into_iter().flat_map(|detail| detail.events);
        let mut said = events.filter(|row| Some(row.event_id.as_str()) == event);
        let zone = said.next().and_then(|row| row.zone.parse().ok());
        Ok(zone.unwrap_or(Tz::UTC))
    }
}

/// Puts the message that starts a case into the inbox.
struct Ask<'a> {
    message: InboxRow,
    /// What is used up by it.
    link: Option<&'a LinkRow>,
    case: String,
    now: Timestamp,
}

#[async_trait]
impl Work for Ask<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        if let Some(link) = self.link
            && !use_link(transaction, link, &self.case, self.now).await?
        {
            return Err(StoreError::Projection(LINK_USED.to_owned()));
        }
        Ok(vec![self.message.clone()])
    }
}
