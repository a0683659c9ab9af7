//! Sending messages by one way, again and again until they are taken or a person has to look.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use engine::runner::Clock;
use engine::store::StoreError;
use serde_json::{Map, Value, json};

use super::Notices;
use super::links::Links;
use super::outbox::{Came, Outbox};
use super::rows::{DeliveryRow, DeliveryState, NoticeRow, Way};
use super::settings::NotificationSettings;
use super::template::{RenderError, Rendered, kind};
use crate::directory::IdentityRow;

/// The most messages of one round.
const ROUND_MAX: u32 = 100;
/// How many notices of a digest are written out, and the most that one digest tells of.
const ITEMS_SHOWN_MAX: usize = 50;
pub const TAKEN_MAX: u32 = 1_000;
/// How much longer than its own limit a message is in hand before somebody else may take it.
const HOLD_SLACK_S: i64 = 30;
/// The pauses while a way is away.
const AWAY_S_FIRST: i64 = 5;
const AWAY_S_MAX: i64 = 300;
const AWAY_DOUBLED_MAX: u32 = 6;
/// What came of a message that never left: it counts against nothing.
const NOT_SENT: &str = "not_sent";
/// The longest answer that is kept, in characters.
const ANSWER_CHARS_MAX: usize = 500;

/// A message ready to leave.
#[derive(Debug, Clone, PartialEq)]
pub struct Parcel {
    /// The same whenever it is sent again.
    pub message_id: String,
    /// Empty for the webhook.
    pub address: String,
    pub person_name: Option<String>,
    /// When it came into being; the same whenever it is sent again.
    pub date: DateTime<Utc>,
    pub says: Rendered,
    /// For programs.
    pub data: Value,
}

/// What the other side said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// It has it.
    Taken { answer: String },
    /// Not now. `until` when it says so itself.
    NotNow {
        answer: String,
        until: Option<DateTime<Utc>>,
    },
    /// Never.
    Refused { answer: String },
    /// The line broke: nobody knows whether it has it.
    Broken { reason: String },
    /// Nothing was handed over at all: the way is away.
    NotSent { reason: String },
}

/// A way is not there: nothing can be sent at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Away(pub String);

/// A way by which messages leave.
#[async_trait]
pub trait Carrier: Send + Sync {
    fn way(&self) -> Way;

    /// How long a message may take at most.
    fn limit(&self) -> TimeDelta;

    /// # Errors
    /// When nothing can be sent now, with why.
    async fn open(&self) -> Result<Box<dyn Line>, Away>;
}

/// An open way.
#[async_trait]
pub trait Line: Send {
    /// Whether another message can be sent by it.
    fn is_open(&self) -> bool;

    async fn send(&mut self, parcel: &Parcel) -> Said;

    async fn close(&mut self);
}

/// Sends what is due by one way.
pub struct Courier {
    outbox: Outbox,
    notices: Arc<Notices>,
    carrier: Box<dyn Carrier>,
    /// The name under which this node owns shards.
    owner: String,
    clock: Arc<dyn Clock>,
    /// How often in a row the way was away, and until when it is left alone.
    away: u32,
    held_until: Option<DateTime<Utc>>,
    links: Option<Arc<Links>>,
}

/// What a round did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Round {
    /// The messages that were tried, each with the name of its notice (`digest` for several) and what came of it.
    pub tried: Vec<(String, &'static str)>,
    /// Why nothing can be sent by this way, if so.
    pub away: Option<String>,
    /// When to look again at the latest.
    pub next: Option<DateTime<Utc>>,
}

impl Courier {
    #[must_use]
    pub fn new(
        outbox: Outbox,
        notices: Arc<Notices>,
        carrier: Box<dyn Carrier>,
        owner: impl Into<String>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            outbox,
            notices,
            carrier,
            owner: owner.into(),
            clock,
            away: 0,
            held_until: None,
            links: None,
        }
    }

    /// With links in mails, by which a sponsor asks without a login.
    #[must_use]
    pub fn with_links(self, links: Option<Arc<Links>>) -> Self {
        Self { links, ..self }
    }

    #[must_use]
    pub fn way(&self) -> Way {
        self.carrier.way()
    }

    /// Sends what is due in these shards, at most a hundred messages.
    ///
    /// # Errors
    /// When the database does not answer. What was in hand then is sent again, under the name it has.
    pub async fn round(&mut self, shards: &[i32]) -> Result<Round, StoreError> {
        let mut round = Round::default();
        let Some(settings) = self.notices.settings().cloned() else {
            return Ok(round);
        };
        let now = self.clock.now();
        if let Some(until) = self.held_until.filter(|until| *until > now) {
            round.next = Some(until);
            return Ok(round);
        }
        let way = self.way();
        let due = self
            .outbox
            .due_deliveries(shards, way, &self.owner, now, ROUND_MAX)
            .await?;
        let all = due.len() < ROUND_MAX as usize;
        let mut line: Option<Box<dyn Line>> = None;
        let mut done: Vec<String> = Vec::new();
        for first in &due {
            // It left with another of this round.
            if done.contains(&first.delivery_id) {
                continue;
            }
            if line.as_ref().is_none_or(|open| !open.is_open()) {
                match self.carrier.open().await {
                    Ok(open) => line = Some(open),
                    Err(Away(reason)) => {
                        self.is_away(&reason, &settings, shards, &mut round).await?;
                        return Ok(round);
                    }
                }
            }
            let Some(open) = line.as_mut() else { continue };
            let Some((parts, message_id)) = self.take(first, shards).await? else {
                continue;
            };
            done.extend(parts.iter().map(|part| part.delivery_id.clone()));
            let said = match self.parcel(&parts, &message_id, &settings).await? {
                Ok(parcel) => open.send(&parcel).await,
                Err(error) => Said::Refused {
                    answer: error.to_string(),
                },
            };
            let broken = matches!(said, Said::Broken { .. } | Said::NotSent { .. });
            if !broken {
                self.away = 0;
            }
            let (came, result) = self.came(&parts, said, &settings);
            self.outbox
                .came_of(&parts, &message_id, &self.owner, &came, self.clock.now())
                .await?;
            round.tried.push((self.named(&parts).await?, result));
            if broken {
                // The next one would hang as long: the way is left alone for a while.
                self.is_away(&came.answer, &settings, shards, &mut round)
                    .await?;
                return Ok(round);
            }
        }
        if let Some(mut open) = line {
            open.close().await;
        }
        round.next = if all {
            self.outbox.next_delivery(shards, way).await?
        } else {
            Some(now)
        };
        Ok(round)
    }

    /// The way is away: it is left alone, longer and longer, and what has waited for too long parks.
    async fn is_away(
        &mut self,
        reason: &str,
        settings: &NotificationSettings,
        shards: &[i32],
        round: &mut Round,
    ) -> Result<(), StoreError> {
        let now = self.clock.now();
        let pause_s = (AWAY_S_FIRST << self.away.min(AWAY_DOUBLED_MAX)).min(AWAY_S_MAX);
        self.away = self.away.saturating_add(1);
        let until = now + TimeDelta::seconds(pause_s);
        self.held_until = Some(until);
        let since = now - settings.give_up_after.delta();
        let answer = shortened(&format!("not sent in {}: {reason}", settings.give_up_after));
        self.outbox
            .give_up(shards, self.way(), since, &answer, now)
            .await?;
        round.away = Some(reason.to_owned());
        round.next = Some(until);
        Ok(())
    }

    /// Takes a message in hand, with all that leaves together with it; `None` when somebody else did.
    async fn take(
        &self,
        first: &DeliveryRow,
        shards: &[i32],
    ) -> Result<Option<(Vec<DeliveryRow>, String)>, StoreError> {
        let now = self.clock.now();
        let parts: Vec<DeliveryRow> = self
            .outbox
            .together(first, TAKEN_MAX)
            .await?
            .into_iter()
            .filter(|part| matches!(part.state, DeliveryState::Waiting | DeliveryState::Sending))
            .collect();
        let message_id = match (&first.message_id, parts.first()) {
            (Some(id), _) => id.clone(),
            (None, Some(part)) => part.delivery_id.clone(),
            (None, None) => return Ok(None),
        };
        let mine = shards.contains(&first.shard_id);
        let hold = self.carrier.limit() + TimeDelta::seconds(HOLD_SLACK_S);
        if !mine
            || !self
                .outbox
                .claim(&parts, &message_id, &self.owner, now, hold)
                .await?
        {
            return Ok(None);
        }
        Ok(Some((parts, message_id)))
    }

    fn came(
        &self,
        parts: &[DeliveryRow],
        said: Said,
        settings: &NotificationSettings,
    ) -> (Came, &'static str) {
        let now = self.clock.now();
        let later = |answer: String, until: Option<DateTime<Utc>>| {
            // This attempt is counted already, in the database.
            let attempts = parts.iter().map(|part| part.attempts).max().unwrap_or(0) + 1;
            let since = parts.iter().map(|part| part.ready_at).min().unwrap_or(now);
            let over = now - since >= settings.give_up_after.delta();
            match settings.retry.pause(attempts).filter(|_| !over) {
                Some(pause) => {
                    let due_at = (now + pause.delta()).max(until.unwrap_or(now));
                    (DeliveryState::Waiting, due_at, answer, "later")
                }
                None => {
                    let answer = format!("given up after {attempts} attempts: {answer}");
                    (DeliveryState::Parked, now, answer, "parked")
                }
            }
        };
        let (state, due_at, answer, result) = match said {
            Said::Taken { answer } => (DeliveryState::Sent, now, answer, "sent"),
            Said::NotNow { answer, until } => later(answer, until),
            Said::Refused { answer } => (DeliveryState::Parked, now, answer, "refused"),
            Said::Broken { reason } => later(reason, None),
            Said::NotSent { reason } => (DeliveryState::Waiting, now, reason, NOT_SENT),
        };
        let came = Came {
            state,
            due_at,
            answer: shortened(&answer),
            counts: result != NOT_SENT,
        };
        (came, result)
    }

    /// What the message is called in metrics.
    async fn named(&self, parts: &[DeliveryRow]) -> Result<String, StoreError> {
        if parts.len() > 1 {
            return Ok(kind::DIGEST.to_owned());
        }
        let notices = self.outbox.notices_of(parts).await?;
        let name = notices.first().map(|notice| notice.name.as_str());
        // Only names that the configuration knows become labels.
        let known = name.filter(|name| self.notices.templates().manner(name).is_some());
        Ok(known.unwrap_or("unknown").to_owned())
    }

    async fn parcel(
        &self,
        parts: &[DeliveryRow],
        message_id: &str,
        settings: &NotificationSettings,
    ) -> Result<Result<Parcel, RenderError>, StoreError> {
        let notices = self.outbox.notices_of(parts).await?;
        let of = |part: &DeliveryRow| {
            notices
                .iter()
                .find(|notice| notice.notice_id == part.notice_id)
        };
        let Some(first) = parts.first() else {
            return Ok(Err(RenderError::Unknown(String::new())));
        };
        let zone: Tz = first.zone.parse().unwrap_or(Tz::UTC);
        let mut items = Vec::new();
        let mut data = Value::Null;
        for part in parts.iter().take(ITEMS_SHOWN_MAX) {
            let Some(notice) = of(part) else { continue };
            let person = self.person(notice).await?;
            let alone = parts.len() == 1;
            let mut context = context(notice, part, person.as_ref(), settings, alone);
            if let Some(link) = self.link(notice, part).await?
                && let Value::Object(fields) = &mut context
            {
                fields.insert("confirm".to_owned(), link.into());
            }
            match self
                .notices
                .templates()
                .render(&notice.name, &context, zone)
            {
                Ok(says) => {
                    data = payload(notice, person.as_ref(), &says);
                    items.push(says);
                }
                // One that cannot be made does not take the others with it.
                Err(error) if alone => return Ok(Err(error)),
                Err(error) => items.push(Rendered {
                    subject: notice.name.clone(),
                    text: error.to_string(),
                    html: None,
                }),
            }
        }
        let says = match (parts.len(), items.pop()) {
            (_, None) => return Ok(Err(RenderError::Unknown(first.notice_id.clone()))),
            (1, Some(says)) => says,
            (_, Some(last)) => {
                items.push(last);
                let context = json!({
                    "items": items,
                    "left_out": parts.len().saturating_sub(items.len()),
                    "recipient": { "name": first.person_name, "address": first.address },
                    "link": settings.link,
                });
                let templates = self.notices.templates();
                match templates.render(kind::DIGEST, &context, zone) {
                    Ok(says) => says,
                    Err(error) => return Ok(Err(error)),
                }
            }
        };
        Ok(Ok(Parcel {
            message_id: message_id.to_owned(),
            address: first.address.clone(),
            person_name: first.person_name.clone(),
            date: parts
                .iter()
                .map(|part| part.ready_at)
                .max()
                .unwrap_or(first.ready_at),
            says,
            data,
        }))
    }

    /// The link of a mail about the end of a contract. What is kept of it is durable before it leaves.
    async fn link(
        &self,
        notice: &NoticeRow,
        part: &DeliveryRow,
    ) -> Result<Option<String>, StoreError> {
        let is_mail = self.way() == Way::Email && notice.name == kind::CONTRACT_ENDING;
        let Some(links) = self.links.as_ref().filter(|_| is_mail) else {
            return Ok(None);
        };
        match links.of(notice, part) {
            Some(row) => self.outbox.put_link(links, row).await.map(Some),
            None => Ok(None),
        }
    }

    /// Whom it is about, as they are now.
    async fn person(&self, notice: &NoticeRow) -> Result<Option<IdentityRow>, StoreError> {
        let Some(subject) = &notice.subject else {
            return Ok(None);
        };
        let found = self.outbox.directory().holdings(subject).await?;
        Ok(found.map(|holdings| holdings.identity))
    }
}

/// What templates see. In a digest the greeting and the end are the digest's own.
fn context(
    notice: &NoticeRow,
    part: &DeliveryRow,
    person: Option<&IdentityRow>,
    settings: &NotificationSettings,
    alone: bool,
) -> Value {
    json!({
        "notice": {
            "id": notice.notice_id,
            "name": notice.name,
            "urgent": notice.urgent,
            "created_at": notice.created_at,
        },
        "person": shown(notice, person),
        "recipient": {
            "name": part.person_name.as_ref().filter(|_| alone),
            "address": part.address,
            "asked_as": notice.recipient,
            "instead_of": part.instead_of,
        },
        "case": {
            "id": notice.case_id,
            "workflow": notice.workflow,
            "step": notice.step,
            "place": notice.place,
            "revocation": notice.revocation,
        },
        "vars": notice.vars,
        "link": settings.link.as_ref().filter(|_| alone),
    })
}

/// The attributes, and over them what everybody has.
fn shown(notice: &NoticeRow, person: Option<&IdentityRow>) -> Value {
    let mut fields = Map::new();
    if let Some(person) = person {
        let attributes = person.attributes.iter();
        fields.extend(attributes.map(|(name, value)| (name.clone(), value.clone())));
        fields.insert("name".to_owned(), person.display_name.clone().into());
        fields.insert("type".to_owned(), person.identity_type.clone().into());
    }
    if let Some(subject) = &notice.subject {
        fields.insert("key".to_owned(), subject.clone().into());
    }
    Value::Object(fields)
}

/// What programs are told.
fn payload(notice: &NoticeRow, person: Option<&IdentityRow>, says: &Rendered) -> Value {
    json!({
        "type": format!("tenure.{}", notice.name),
        "timestamp": notice.created_at,
        "data": {
            "notice": notice.notice_id,
            "to": notice.recipient,
            "urgent": notice.urgent,
            "person": notice.subject.as_ref().map(|key| json!({
                "key": key,
                "name": person.map(|person| &person.display_name),
            })),
            "case": notice.case_id.as_ref().map(|id| json!({
                "id": id,
                "workflow": notice.workflow,
                "step": notice.step,
                "place": notice.place,
            })),
            "vars": notice.vars,
            "subject": says.subject,
            "text": says.text,
        },
    })
}

fn shortened(answer: &str) -> String {
    answer
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(ANSWER_CHARS_MAX)
        .collect()
}
