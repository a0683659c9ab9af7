//! From a notice to messages: who is meant now, and where they read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use engine::core::case::InstanceState;
use engine::core::duration::Span;
use engine::core::id::{CaseId, ShardId};
use engine::store::StoreError;
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use super::Notices;
use super::cause::{delivery_id, silent};
use super::outbox::{Outbox, Routed};
use super::recipient::{Address, Recipient};
use super::rows::{DeliveryRow, DeliveryState, NoticeRow, NoticeState, Way};
use super::settings::NotificationSettings;
use super::template::kind;
use crate::directory::{GrantStatus, IdentityRow, IdentityStatus};
use crate::policy::HeldBy;
use crate::sources::record::attribute;
use crate::timeline::{Precedence, runs_until};

/// The most notices of one look.
const NOTICES_MAX: u32 = 500;
/// The most addresses of one notice.
const TARGETS_MAX: usize = 50;

/// Makes messages of notices whose time has come.
pub struct Router {
    outbox: Outbox,
    notices: Arc<Notices>,
    /// How long each source may be silent.
    sources: Vec<(String, Span)>,
    /// Silences that were told already.
    told: Mutex<BTreeSet<(String, DateTime<Utc>)>>,
}

/// What a look did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Looked {
    /// Notices that became something.
    pub routed: usize,
    /// When to look again at the latest.
    pub next: Option<DateTime<Utc>>,
}

/// Somebody who reads.
#[derive(Debug, Clone, PartialEq)]
struct Target {
    address: Address,
    name: Option<String>,
    zone: Tz,
    instead_of: Option<String>,
}

/// People by key, read once a look.
type People = BTreeMap<String, Option<IdentityRow>>;

impl Router {
    #[must_use]
    pub fn new(outbox: Outbox, notices: Arc<Notices>, sources: Vec<(String, Span)>) -> Self {
        Self {
            outbox,
            notices,
            sources,
            told: Mutex::new(BTreeSet::new()),
        }
    }

    /// Looks at the notices of these shards.
    ///
    /// # Errors
    /// When the database does not answer; what was done until then stays done.
    pub async fn look(&self, shards: &[i32], now: DateTime<Utc>) -> Result<Looked, StoreError> {
        let Some(settings) = self.notices.settings() else {
            return Ok(Looked::default());
        };
        let silent_next = self.sources(shards, now).await?;
        let due = self.outbox.due_notices(shards, now, NOTICES_MAX).await?;
        let mut people = People::new();
        let mut routed = Vec::with_capacity(due.len());
        for notice in &due {
            routed.push(self.route(notice, settings, &mut people, now).await?);
        }
        if !routed.is_empty() {
            self.outbox.routed(&routed).await?;
        }
        let next = if due.len() < NOTICES_MAX as usize {
            self.outbox.next_notice(shards).await?
        } else {
            Some(now)
        };
        Ok(Looked {
            routed: routed.len(),
            next: next.into_iter().chain(silent_next).min(),
        })
    }

    /// Notes the sources that have become silent; gives when the next one would.
    async fn sources(
        &self,
        shards: &[i32],
        now: DateTime<Utc>,
    ) -> Result<Option<DateTime<Utc>>, StoreError> {
        if self.sources.is_empty() {
            return Ok(None);
        }
        let heard = self.outbox.directory().heard().await?;
        let mut next = None;
        for row in heard.iter().filter(|row| shards.contains(&row.shard_id)) {
            let Some((_, after)) = self.sources.iter().find(|(name, _)| *name == row.source) else {
                continue;
            };
            let (since, from) = (row.expected_since(), row.silent_from(*after));
            if from > now {
                next = next.into_iter().chain([from]).min();
                continue;
            }
            let silence = (row.source.clone(), since);
            let known = |told: &BTreeSet<_>| told.contains(&silence);
            if known(&self.told.lock().unwrap_or_else(PoisonError::into_inner)) {
                continue;
            }
            let after = after.to_string();
            let notices = silent(row.shard_id, &row.source, since, &after, &self.notices, now);
            self.outbox.put(&notices).await?;
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            told.retain(|(source, _)| *source != row.source);
            told.insert(silence);
        }
        Ok(next)
    }

    async fn route(
        &self,
        notice: &NoticeRow,
        settings: &NotificationSettings,
        people: &mut People,
        now: DateTime<Utc>,
    ) -> Result<Routed, StoreError> {
        let mut routed = Routed {
            shard_id: notice.shard_id,
            notice_id: notice.notice_id.clone(),
            state: NoticeState::Sending,
            reason: None,
            at: now,
            deliveries: Vec::new(),
        };
        if !self.holds(notice, now).await? {
            routed.state = NoticeState::Void;
            routed.reason = Some("what it is about is over, or is otherwise by now".to_owned());
            return Ok(routed);
        }
        let mut nobody = None;
        if settings.email.is_some() {
            let (targets, reason) = self.targets(notice, settings, people).await?;
            nobody = targets.is_empty().then(|| reason.clone()).flatten();
            routed.reason = reason;
            let mails = targets
                .into_iter()
                .map(|target| self.mail(notice, settings, target, now));
            routed.deliveries.extend(mails);
        }
        let hooked = settings.webhook.as_ref().is_some_and(|webhook| {
            let wanted = webhook.notices.as_ref();
            wanted.is_none_or(|wanted| wanted.contains(&notice.name))
        });
        if hooked {
            routed.deliveries.push(hook(notice, now));
        }
        if let Some(why) = nobody {
            // What a program is told does not make up for a person who is not; a person has to see it.
            routed.state = NoticeState::Undeliverable;
            routed.reason = Some(why);
        } else if routed.deliveries.is_empty() {
            routed.state = NoticeState::Void;
            routed.reason = Some("there is no mail, and the webhook does not take it".to_owned());
        }
        Ok(routed)
    }

    /// Whether what it is about is still so.
    async fn holds(&self, notice: &NoticeRow, now: DateTime<Utc>) -> Result<bool, StoreError> {
        #[derive(Deserialize)]
        struct Body {
            state: InstanceState,
        }
        if let (Some(end), Some(subject)) = (notice.ends_at, &notice.subject) {
            // Who is employed until when is no question of precedence.
            let any = Precedence::default();
            let believed = self.outbox.directory().believed(subject, now, now, &any);
            let believed = believed.await?;
            let spells = believed.map(|believed| believed.spells).unwrap_or_default();
            let spells: Vec<_> = spells
                .iter()
                .map(|spell| (spell.start, spell.end))
                .collect();
            return Ok(!is_late(notice, now) && runs_until(&spells, now) == Some(end));
        }
        if notice.name == kind::EXCEPTION_ENDING {
            return Ok(!is_late(notice, now) && self.is_excepted(notice).await?);
        }
        if notice.name == kind::CREDENTIAL_EXPIRING {
            return self.ends_so(notice).await;
        }
        let Some(until) = notice.open_until else {
            return Ok(true);
        };
        let case = notice.case_id.as_deref();
        let place = notice.place.as_deref().and_then(|p| p.split_once('/'));
        let (Some(case), Some((step, instance))) =
            (case.and_then(|case| Uuid::parse_str(case).ok()), place)
        else {
            return Ok(false);
        };
        let (step, instance) = (step.parse::<u16>().ok(), instance.parse::<u32>().ok());
        let store = self.outbox.directory().store();
        let stored = store.load(ShardId(notice.shard_id), CaseId(case)).await?;
        let row = stored.as_ref().and_then(|stored| {
            let mut rows = stored.steps.iter();
            rows.find(|row| {
                Some(row.step) == step && row.instance.is_some() && row.instance == instance
            })
        });
        let body = row.and_then(|row| serde_json::from_str::<Body>(&row.body).ok());
        Ok(body.is_some_and(
            |body| matches!(body.state, InstanceState::Asking { due, .. } if due == Some(until)),
        ))
    }

    /// Whether a right is still an exception that ends when its notice says, of somebody who is there.
    async fn is_excepted(&self, notice: &NoticeRow) -> Result<bool, StoreError> {
        let text = |name: &str| notice.vars.get(name).and_then(Value::as_str);
        let end = moment(notice, "end");
        let Some(subject) = notice.subject.as_deref().filter(|_| end.is_some()) else {
            return Ok(false);
        };
        let Some(held) = self.outbox.directory().holdings(subject).await? else {
            return Ok(false);
        };
        let here = held.identity.status == IdentityStatus::Active;
        Ok(here
            && held.grants.iter().any(|grant| {
                grant.status == GrantStatus::Active
                    && grant.held_by == HeldBy::Exception
                    && grant.exception_until == end
                    && Some(grant.system.as_str()) == text("system")
                    && Some(grant.entitlement.as_str()) == text("entitlement")
            }))
    }

    /// Whether a credential still ends when its notice says: it may have been replaced since, or be no more.
    async fn ends_so(&self, notice: &NoticeRow) -> Result<bool, StoreError> {
        let text = |name: &str| notice.vars.get(name).and_then(Value::as_str);
        let (Some(name), Some(nhi), Some(end)) =
            (text("credential"), text("nhi"), moment(notice, "end"))
        else {
            return Ok(false);
        };
        let directory = self.outbox.directory();
        let held = directory.nhi_credentials_of([nhi]).await?;
        Ok(held
            .iter()
            .any(|row| row.name == name && row.status == "active" && row.expires_at == Some(end)))
    }

    /// Who reads it; and, when that is not as it is written, why.
    async fn targets(
        &self,
        notice: &NoticeRow,
        settings: &NotificationSettings,
        people: &mut People,
    ) -> Result<(Vec<Target>, Option<String>), StoreError> {
        let choices = match Recipient::asked(&notice.recipient) {
            Recipient::FirstOf(several) => several,
            one => vec![one],
        };
        let mut missing: Option<String> = None;
        for choice in choices {
            let (mut targets, lacking) = self
                .resolve(&choice, notice.subject.as_deref(), settings, people)
                .await?;
            if !targets.is_empty() {
                for target in &mut targets {
                    // The one before could not be told.
                    target.instead_of = target.instead_of.take().or_else(|| missing.clone());
                }
                return Ok((targets, lacking.or(missing)));
            }
            missing = missing.or(lacking);
        }
        let why = missing.unwrap_or_else(|| format!("nobody stands behind `{}`", notice.recipient));
        let mut instead = Vec::new();
        for recipient in &settings.fallback {
            let (found, _) = self.resolve(recipient, None, settings, people).await?;
            instead.extend(found.into_iter().map(|target| Target {
                instead_of: Some(why.clone()),
                ..target
            }));
        }
        let reason = if instead.is_empty() {
            format!("{why}; there is no `notifications.fallback` either")
        } else {
            format!("{why}; the fallback is told instead")
        };
        Ok((instead, Some(reason)))
    }

    /// The addresses, and what is missing.
    async fn resolve(
        &self,
        recipient: &Recipient,
        subject: Option<&str>,
        settings: &NotificationSettings,
        people: &mut People,
    ) -> Result<(Vec<Target>, Option<String>), StoreError> {
        let missing = |why: String| Ok((Vec::new(), Some(why)));
        let members = match recipient {
            Recipient::Role(role) => match settings.roles.get(role) {
                Some(members) if !members.is_empty() => members.clone(),
                _ => return missing(format!("nobody stands behind role `{role}`")),
            },
            Recipient::Attribute(name) => {
                let Some(subject) = subject else {
                    return missing(format!("it is about nobody who has `{name}`"));
                };
                let person = self.person(subject, people).await?;
                let held = person.and_then(|person| person.attributes.get(name));
                match held.map(named).filter(|named| !named.is_empty()) {
                    Some(named) => named,
                    None => return missing(format!("no `{name}` is known of `{subject}`")),
                }
            }
            Recipient::Subject => match subject {
                Some(subject) => vec![Recipient::Person(subject.to_owned())],
                None => return missing("it is about nobody".to_owned()),
            },
            one @ (Recipient::Person(_) | Recipient::Address(_)) => vec![one.clone()],
            // Taken apart before.
            Recipient::FirstOf(_) => Vec::new(),
        };
        let related = matches!(recipient, Recipient::Attribute(_));
        let default = settings
            .quiet_hours
            .as_ref()
            .map_or(Tz::UTC, |hours| hours.zone);
        let (mut targets, mut lacking) = (Vec::new(), None);
        for member in members.iter().take(TARGETS_MAX) {
            let key = match member {
                Recipient::Address(address) => {
                    targets.push(Target {
                        address: address.clone(),
                        name: None,
                        zone: default,
                        instead_of: None,
                    });
                    continue;
                }
                Recipient::Person(key) => key,
                Recipient::Subject
                | Recipient::Attribute(_)
                | Recipient::Role(_)
                | Recipient::FirstOf(_) => continue,
            };
            // Whoever it is about is told where they were told before, even while they leave.
            let is_subject = Some(key.as_str()) == subject;
            let found = reached(self.person(key, people).await?, key, settings, is_subject);
            match found.map(|(address, person)| target(address, person, settings, default)) {
                Ok(target) => targets.push(target),
                // Whoever is gone is stood in for by their manager.
                Err(why) => match self
                    .stand_in(key, settings, people)
                    .await?
                    .filter(|_| related)
                {
                    Some(target) => targets.push(Target {
                        instead_of: Some(why),
                        ..target
                    }),
                    None => lacking = Some(why),
                },
            }
        }
        let mut seen = BTreeSet::new();
        targets.retain(|target| seen.insert(target.address.clone()));
        Ok((targets, lacking))
    }

    /// The manager of somebody, where they read.
    async fn stand_in(
        &self,
        key: &str,
        settings: &NotificationSettings,
        people: &mut People,
    ) -> Result<Option<Target>, StoreError> {
        let person = self.person(key, people).await?;
        let manager = person.and_then(|person| person.attributes.get(attribute::MANAGER)?.as_str());
        let Some(manager) = manager.map(str::to_owned) else {
            return Ok(None);
        };
        let found = reached(
            self.person(&manager, people).await?,
            &manager,
            settings,
            false,
        );
        let default = settings
            .quiet_hours
            .as_ref()
            .map_or(Tz::UTC, |hours| hours.zone);
        let found = found.ok();
        Ok(found.map(|(address, person)| target(address, person, settings, default)))
    }

    async fn person<'p>(
        &self,
        key: &str,
        people: &'p mut People,
    ) -> Result<Option<&'p IdentityRow>, StoreError> {
        if !people.contains_key(key) {
            let found = self.outbox.directory().holdings(key).await?;
            people.insert(key.to_owned(), found.map(|holdings| holdings.identity));
        }
        Ok(people.get(key).and_then(Option::as_ref))
    }

    fn mail(
        &self,
        notice: &NoticeRow,
        settings: &NotificationSettings,
        target: Target,
        now: DateTime<Utc>,
    ) -> DeliveryRow {
        let manner = self.notices.templates().manner(&notice.name);
        let mut ready = now;
        let mut digest = false;
        if !notice.urgent {
            if let Some(window) = manner.and_then(|manner| manner.digest) {
                ready = ready.max(notice.created_at + window.delta());
                digest = true;
            }
            if let Some(hours) = &settings.quiet_hours {
                let over = hours.over(ready, target.zone);
                // Whatever gathered in a night is one message in the morning.
                digest |= over > ready;
                ready = over;
            }
        }
        let address = target.address.as_str();
        DeliveryRow {
            shard_id: self.outbox.directory().shard(address),
            delivery_id: delivery_id(&notice.notice_id, Way::Email.as_str(), address),
            channel: Way::Email,
            address: address.to_owned(),
            person_name: target.name,
            zone: target.zone.name().to_owned(),
            instead_of: target.instead_of,
            digest,
            ready_at: ready,
            due_at: ready,
            ..hook(notice, now)
        }
    }
}

/// A moment that the notice tells of.
fn moment(notice: &NoticeRow, name: &str) -> Option<DateTime<Utc>> {
    let text = notice.vars.get(name).and_then(Value::as_str);
    text.and_then(|text| text.parse().ok())
}

/// Whether the next notice of the same end is due: after a time without a node only the last one is sent.
fn is_late(notice: &NoticeRow, now: DateTime<Utc>) -> bool {
    moment(notice, "next").is_some_and(|next| next <= now)
}

/// The message to the program that is told.
fn hook(notice: &NoticeRow, now: DateTime<Utc>) -> DeliveryRow {
    DeliveryRow {
        shard_id: notice.shard_id,
        delivery_id: delivery_id(&notice.notice_id, Way::Webhook.as_str(), ""),
        notice_shard: notice.shard_id,
        notice_id: notice.notice_id.clone(),
        channel: Way::Webhook,
        address: String::new(),
        person_name: None,
        zone: Tz::UTC.name().to_owned(),
        instead_of: None,
        digest: false,
        ready_at: now,
        due_at: now,
        state: DeliveryState::Waiting,
        message_id: None,
        attempts: 0,
        claimed_by: None,
        answer: None,
        sent_at: None,
        changed_at: now,
    }
}

/// Whom an attribute names: by key, or by address.
fn named(held: &Value) -> Vec<Recipient> {
    let one = |text: &str| match Address::parse(text) {
        Ok(address) => Recipient::Address(address),
        Err(_) => Recipient::Person(text.to_owned()),
    };
    match held {
        Value::String(text) if !text.is_empty() => vec![one(text)],
        Value::Array(several) => several
            .iter()
            .filter_map(Value::as_str)
            .filter(|text| !text.is_empty())
            .map(one)
            .collect(),
        _ => Vec::new(),
    }
}

/// Where somebody is reached; else why not.
fn reached<'p>(
    person: Option<&'p IdentityRow>,
    key: &str,
    settings: &NotificationSettings,
    is_subject: bool,
) -> Result<(Address, &'p IdentityRow), String> {
    let person = person.ok_or_else(|| format!("nobody is known as `{key}`"))?;
    let left = matches!(
        person.status,
        IdentityStatus::Leaving | IdentityStatus::Departed
    );
    if left && !is_subject {
        return Err(format!("`{key}` has left"));
    }
    let attribute = &settings.email_attribute;
    let held = person.attributes.get(attribute).and_then(Value::as_str);
    let text = held
        .filter(|text| !text.is_empty())
        .ok_or_else(|| format!("`{key}` has no `{attribute}`"))?;
    let address = Address::parse(text)
        .map_err(|_| format!("`{attribute}` of `{key}` is no address for mail"))?;
    Ok((address, person))
}

fn target(
    address: Address,
    person: &IdentityRow,
    settings: &NotificationSettings,
    default: Tz,
) -> Target {
    Target {
        address,
        name: Some(person.display_name.clone()).filter(|name| !name.is_empty()),
        zone: zone_of(person, settings).unwrap_or(default),
        instead_of: None,
    }
}

/// The zone in which somebody lives, if that is known.
pub(super) fn zone_of(person: &IdentityRow, settings: &NotificationSettings) -> Option<Tz> {
    let held = person.attributes.get(&settings.zone_attribute)?.as_str()?;
    held.parse().ok()
}
