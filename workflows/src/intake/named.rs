//! One event whose identifier its sender gave.
//!
//! An identifier is one event of its source for ever. The same event again changes nothing; another one that has it is
//! refused, whoever it is about: to take it for the first one would lose a fact, and to take both would make the first one
//! count twice as soon as it is delivered again.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use engine::core::Timestamp;
use engine::core::id::Actor;
use engine::store::{InboxRow, StoreError, Transaction, Work};
use serde_json::Value;

use super::guard::Measured;
use super::pushed::Showing;
use super::{EventReport, Intake, IntakeError, Take};
use crate::directory::guard::{HeldEventRow, held_events_in, put_held_events};
use crate::directory::{EventRow, EventStatus, claim, event_in, events_in, resources};
use crate::policy::IdentityFacts;
use crate::policy::guard::Pair;
use crate::sources::{BusinessEvent, ChangeKind, EventType};
use crate::timeline::{Belief, Timeline, kind};

impl Intake {
    /// Takes one event in. The same event again changes nothing.
    ///
    /// # Errors
    /// [`IntakeError::UnknownSubject`] when it is about somebody whom no event has introduced;
    /// [`IntakeError::OtherEvent`] when another event has its identifier. Nothing is changed then.
    pub async fn event(
        &self,
        event: &BusinessEvent,
        initiator: &Actor,
        now: Timestamp,
    ) -> Result<EventReport, IntakeError> {
        if matches!(
            event.event_type,
            EventType::IdentityMerged | EventType::IdentitySplit
        ) {
            return self.event_about_keys(event, initiator, now).await;
        }
        self.ready(now).await?;
        let subject = event.subject.as_str();
        let shard_id = self.directory.shard(subject);
        let subjects = BTreeSet::from([(shard_id, subject.to_owned())]);
        let work = TakeNamed {
            intake: self,
            by: initiator,
            now,
            held: Mutex::new(false),
            shard_id,
            name_shard_id: self.directory.shard(&event.id),
            event,
            differs: Mutex::default(),
            take: self.take(&subjects, std::slice::from_ref(event), initiator, now),
        };
        let written = self.write(&work).await;
        let differs = work
            .differs
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        if !differs.is_empty() {
            return Err(IntakeError::OtherEvent {
                event: event.id.clone(),
                differs,
            });
        }
        let held = work
            .held
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let settled = work.take.ended(written)?;
        let status = if held {
            Some(EventStatus::Held)
        } else {
            settled.events.keys().next().copied()
        };
        Ok(EventReport {
            id: event.id.clone(),
            new: status.is_some(),
            status,
            cases: settled.cases.into_values().flatten().collect(),
        })
    }
}

struct TakeNamed<'a> {
    intake: &'a Intake,
    by: &'a Actor,
    now: Timestamp,
    /// Whether the guard holds it back.
    held: Mutex<bool>,
    /// Of the subject.
    shard_id: i32,
    /// Of the identifier.
    name_shard_id: i32,
    event: &'a BusinessEvent,
    /// Where the event of this identifier that is known says something else.
    differs: Mutex<Vec<&'static str>>,
    take: Take<'a>,
}

#[async_trait]
impl Work for TakeNamed<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let (id, subject) = (&self.event.id, self.event.subject.as_str());
        let known = claim(transaction, self.name_shard_id, id, subject).await?;
        let inbox = match &known {
            None if self.hold(transaction).await? => Vec::new(),
            None => self.take.take(transaction).await?,
            Some(known) if known != subject => return Err(self.refuse(vec!["subject"])),
            Some(_) => Vec::new(),
        };
        if known.is_some() || !self.take.took_something() && !self.is_held() {
            let differs = match event_in(transaction, self.shard_id, id).await? {
                Some(row) => differences(self.event, &row),
                None => self.differs_from_held(transaction).await?,
            };
            if !differs.is_empty() {
                return Err(self.refuse(differs));
            }
        }
        Ok(inbox)
    }
}

impl TakeNamed<'_> {
    fn is_held(&self) -> bool {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds the event back if it is too much, with what its source said before. A demand that the access of one person
    /// ends now never waits, unless the person is protected.
    async fn hold(&self, transaction: &mut Transaction<'_>) -> Result<bool, StoreError> {
        let source = self.event.source.as_str();
        let Some(measured) = self.measured(transaction).await? else {
            return Ok(false);
        };
        let mut reasons = if self.event.event_type == EventType::AccessRevokeNow {
            let protected = &measured.blast.protected;
            let reason = (!protected.is_empty()).then(|| super::guard::protected(protected));
            reason.into_iter().collect()
        } else {
            self.intake
                .judge_now(transaction, source, &measured, &self.event.id, self.now)
                .await?
        };
        if reasons.is_empty() {
            return Ok(false);
        }
        tracing::warn!(
            source,
            event = self.event.id,
            "an event is held back until a person approves it"
        );
        let shard_id = self.intake.directory.shard(source);
        let waiting = resources::lock_guard(transaction, shard_id, source, self.now).await?;
        let row = HeldEventRow {
            shard_id,
            source: source.to_owned(),
            event_id: self.event.id.clone(),
            subject: self.event.subject.as_str().to_owned(),
            event: self.event.clone(),
            held_at: self.now,
        };
        put_held_events(transaction, &[row]).await?;
        reasons.dedup();
        let zone = self
            .event
            .zone
            .parse::<chrono_tz::Tz>()
            .unwrap_or(chrono_tz::UTC);
        let showing = Showing {
            source,
            shard_id,
            day: self.now.with_timezone(&zone).date_naive(),
            id: &self.event.id,
            by: self.by,
            now: self.now,
            reasons,
            population: 0,
        };
        showing.show(transaction, waiting).await?;
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = true;
        Ok(true)
    }

    /// What the event would do to its person, once it is effective. `None` when no limit could tell.
    async fn measured(
        &self,
        transaction: &mut Transaction<'_>,
    ) -> Result<Option<Measured>, StoreError> {
        let event = self.event;
        let begins = kind(event.event_type) == ChangeKind::Create;
        if begins && !self.intake.watches_gifts(&event.source) {
            return Ok(None);
        }
        let subject = (self.shard_id, event.subject.as_str().to_owned());
        let known = events_in(transaction, &[subject]).await?;
        let events: Vec<(Timestamp, BusinessEvent)> = known
            .iter()
            .map(|row| (row.received_at, row.event()))
            .chain([(self.now, event.clone())])
            .collect();
        let said = || events.iter().map(|(came, event)| (*came, event));
        let at = event.effective_at.max(self.now);
        let facts = |belief: Belief| {
            belief.is_employed().then(|| IdentityFacts {
                key: event.subject.as_str().to_owned(),
                active: true,
                on_leave: belief.on_leave,
                attributes: belief.attributes,
            })
        };
        let pair = Pair {
            before: facts(Timeline::of(said().take(known.len())).at(at)),
            after: facts(Timeline::of(said()).at(at)),
        };
        let limits = self.intake.limits_of(&event.source);
        self.intake.measure_all(limits, [pair]).await
    }

    /// Where the event says something else than one of its identifier that is held back.
    async fn differs_from_held(
        &self,
        transaction: &mut Transaction<'_>,
    ) -> Result<Vec<&'static str>, StoreError> {
        let source = self.event.source.as_str();
        let shard_id = self.intake.directory.shard(source);
        let held = held_events_in(transaction, shard_id, source).await?;
        let held = held.into_iter().find(|held| held.event_id == self.event.id);
        let written = |event: &BusinessEvent| serde_json::to_value(event).unwrap_or_default();
        let differs = held.is_some_and(|held| !same(&written(&held.event), &written(self.event)));
        Ok(if differs { vec!["data"] } else { Vec::new() })
    }

    fn refuse(&self, differs: Vec<&'static str>) -> StoreError {
        *self.differs.lock().unwrap_or_else(PoisonError::into_inner) = differs;
        StoreError::Projection("another event has this identifier".to_owned())
    }
}

/// Where `event` says something else than the one that is known, in the words of CloudEvents.
pub(super) fn differences(event: &BusinessEvent, known: &EventRow) -> Vec<&'static str> {
    // Both databases keep microseconds.
    let same_time = |a: Timestamp, b: Timestamp| a.timestamp_micros() == b.timestamp_micros();
    let same_data = same_time(event.effective_at, known.effective_at)
        && event.zone == known.zone
        && event.version == known.version
        && event.supersedes == known.supersedes
        && same(&event.data, &known.data);
    [
        ("subject", event.subject.as_str() == known.subject),
        ("type", event.event_type == known.event_type),
        ("time", same_time(event.occurred_at, known.occurred_at)),
        ("data", same_data),
    ]
    .into_iter()
    .filter(|(_, same)| !same)
    .map(|(field, _)| field)
    .collect()
}

/// Whether two values are equal. A database may write `1e16` as `10000000000000000`, which is read as another kind of
/// number.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(name, value)| b.get(name).is_some_and(|other| same(value, other)))
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Number(a), Value::Number(b)) if a.is_f64() || b.is_f64() => {
            let order = a
                .as_f64()
                .zip(b.as_f64())
                .and_then(|(a, b)| a.partial_cmp(&b));
            order.is_some_and(std::cmp::Ordering::is_eq)
        }
        (a, b) => a == b,
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "tests"
    )]
    use chrono::TimeDelta;
    use serde_json::json;

    use super::*;
    use crate::intake::tests::{at_once, event};
    use crate::sources::Key;
    use crate::testbed::{Company, actor, now, on_both_databases};

    /// The fields in which an event with the identifier of another differs, if it was refused for that.
    fn differing(result: Result<EventReport, IntakeError>) -> Vec<&'static str> {
        match result {
            Ok(report) => {
                assert!(!report.new && report.cases.is_empty(), "{report:?}");
                Vec::new()
            }
            Err(IntakeError::OtherEvent { differs, .. }) => differs,
            Err(error) => panic!("{error}"),
        }
    }

    async fn an_identifier_is_one_event_for_ever(company: &Company) {
        let take = async |event: &BusinessEvent| {
            let result = company.intake.event(event, &actor("api"), now()).await;
            differing(result)
        };
        let mut hire = event("e1", EventType::Hire, "X1", 1, 0);
        let data = r#"{"attributes": {"name": "X", "n": [1e16, 0.1, -7, 18446744073709551615], "t": "1e16"}}"#;
        hire.data = serde_json::from_str(data).unwrap();
        let first = company.intake.event(&hire, &actor("api"), now()).await;
        assert!(first.unwrap().new);
        assert_eq!(take(&hire).await, Vec::<&str>::new());
        let changed = |change: &dyn Fn(&mut BusinessEvent)| {
            let mut other = hire.clone();
            change(&mut other);
            other
        };
        let data = |from: &'static str, to: &'static str| {
            let text = hire.data.to_string().replace(from, to);
            changed(&|event| event.data = serde_json::from_str(&text).unwrap())
        };
        for (other, expected) in [
            (
                changed(&|event| event.subject = Key::new("X2")),
                vec!["subject"],
            ),
            (
                changed(&|event| event.event_type = EventType::Rehire),
                vec!["type"],
            ),
            (
                changed(&|event| event.occurred_at += TimeDelta::seconds(1)),
                vec!["time"],
            ),
            (
                changed(&|event| event.effective_at += TimeDelta::days(1)),
                vec!["data"],
            ),
            (
                changed(&|event| event.zone = "Asia/Tokyo".to_owned()),
                vec!["data"],
            ),
            (changed(&|event| event.version = 2), vec!["data"]),
            (
                changed(&|event| event.supersedes = Some("e0".to_owned())),
                vec!["data"],
            ),
            (changed(&|event| event.data = json!({})), vec!["data"]),
            (
                data("18446744073709551615", "18446744073709551614"),
                vec!["data"],
            ),
            (data("0.1", "0.10000000001"), vec!["data"]),
            (data("\"X\"", "\"Y\""), vec!["data"]),
            (
                changed(&|event| {
                    event.event_type = EventType::Transfer;
                    event.version = 9;
                }),
                vec!["type", "data"],
            ),
        ] {
            assert_eq!(take(&other).await, expected, "{other:?}");
        }
        // Nobody learned anything, and nobody lost anything.
        assert!(company.directory.identity("X2").await.unwrap().is_none());
        let known = company.directory.identity("X1").await.unwrap().unwrap();
        assert_eq!(
            (known.events.len(), known.identity.attributes_version),
            (1, 1)
        );
        // What is refused because nobody knows the person keeps no identifier.
        let stranger = event("e2", EventType::AccessRevokeNow, "X3", 1, 0);
        let refused = company.intake.event(&stranger, &actor("api"), now()).await;
        assert!(matches!(refused, Err(IntakeError::UnknownSubject(_))));
        let other = event("e2", EventType::Transfer, "X1", 2, 0);
        assert!(
            company
                .intake
                .event(&other, &actor("api"), now())
                .await
                .unwrap()
                .new
        );
    }

    async fn of_two_events_at_once_with_one_identifier_one_is_refused(company: &Company) {
        for round in 0..10 {
            let id = format!("e{round}");
            let of =
                |subject: &str| event(&id, EventType::Hire, &format!("{subject}{round}"), 1, 0);
            let (x, y) = (of("X"), of("Y"));
            let results = at_once(company, vec![x.clone(), y.clone(), x, y]).await;
            let (taken, refused): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
            let new = taken
                .into_iter()
                .filter(|report| report.as_ref().unwrap().new);
            assert_eq!((new.count(), refused.len()), (1, 2));
            for error in refused {
                assert_eq!(differing(error), ["subject"]);
            }
        }
    }

    /// As a database of before event subjects were noted has it.
    async fn an_event_of_before_is_known_too(company: &Company) {
        let hire = event("e1", EventType::Hire, "X1", 1, 0);
        company
            .intake
            .event(&hire, &actor("api"), now())
            .await
            .unwrap();
        company.run_sql("DELETE FROM event_subject").await;
        assert_eq!(
            differing(company.intake.event(&hire, &actor("api"), now()).await),
            Vec::<&str>::new()
        );
        company.run_sql("DELETE FROM event_subject").await;
        let mut other = hire.clone();
        other.version = 2;
        assert_eq!(
            differing(company.intake.event(&other, &actor("api"), now()).await),
            ["data"]
        );
    }

    on_both_databases! {
        an_identifier_is_one_event_for_ever,
        of_two_events_at_once_with_one_identifier_one_is_refused,
        an_event_of_before_is_known_too,
    }
}
