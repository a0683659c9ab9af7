//! Events whose identifiers their senders gave.
//!
//! An identifier is one event of its source for ever. The same event again changes nothing; another one that has it is
//! refused, whoever it is about: to take it for the first one would lose a fact, and to take both would make the first one
//! count twice as soon as it is delivered again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use engine::core::Timestamp;
use engine::core::id::Actor;
use engine::store::{InboxRow, StoreError, Transaction, Work};
use serde_json::Value;

use super::guard::Measured;
use super::pushed::Showing;
use super::take::Settling;
use super::{EventReport, Intake, IntakeError};
use crate::directory::guard::{HeldEventRow, held_events_in, put_held_events};
use crate::directory::{Claim, EventRow, EventStatus, claim, events_in, events_named, resources};
use crate::policy::IdentityFacts;
use crate::policy::guard::Pair;
use crate::sources::{BusinessEvent, ChangeKind, EventType};
use crate::timeline::{Belief, Timeline, kind};

impl Intake {
    /// Takes one event in. The same event again changes nothing.
    ///
    /// # Errors
    /// As [`Intake::events`].
    pub async fn event(
        &self,
        event: &BusinessEvent,
        initiator: &Actor,
        now: Timestamp,
    ) -> Result<EventReport, IntakeError> {
        let reports = self
            .events(std::slice::from_ref(event), initiator, now)
            .await?;
        Ok(reports
            .into_iter()
            .next()
            .unwrap_or_else(|| EventReport::known(event)))
    }

    /// Takes events in, all of them in one transaction, and says of each what came of it. Whoever is spoken of by
    /// several of them is looked at once, with all of them known: what they change together becomes one case of each
    /// workflow that reacts.
    ///
    /// # Errors
    /// [`IntakeError::UnknownSubject`] when one is about somebody whom no event has introduced;
    /// [`IntakeError::OtherEvent`] when another event has the identifier of one. Nothing is changed then, by none of them,
    /// except that those before one that says who is whom stand by themselves: it cannot be taken in together with others.
    pub async fn events(
        &self,
        events: &[BusinessEvent],
        initiator: &Actor,
        now: Timestamp,
    ) -> Result<Vec<EventReport>, IntakeError> {
        let mut reports = Vec::with_capacity(events.len());
        let mut rest = events;
        while let Some((first, later)) = rest.split_first() {
            if is_about_keys(first) {
                reports.push(self.event_about_keys(first, initiator, now).await?);
                rest = later;
                continue;
            }
            let end = rest.iter().position(is_about_keys);
            let (together, later) = rest.split_at(end.unwrap_or(rest.len()));
            reports.extend(self.events_together(together, initiator, now).await?);
            rest = later;
        }
        Ok(reports)
    }

    async fn events_together(
        &self,
        events: &[BusinessEvent],
        initiator: &Actor,
        now: Timestamp,
    ) -> Result<Vec<EventReport>, IntakeError> {
        self.ready(now).await?;
        let mut first: BTreeMap<&str, &BusinessEvent> = BTreeMap::new();
        let mut each: Vec<&BusinessEvent> = Vec::with_capacity(events.len());
        for event in events {
            let Some(known) = first.get(event.id.as_str()) else {
                first.insert(&event.id, event);
                each.push(event);
                continue;
            };
            let differs = differences_of(event, known);
            if !differs.is_empty() {
                return Err(other(&event.id, differs));
            }
        }
        let work = TakeNamed {
            intake: self,
            by: initiator,
            now,
            events: each,
            held: Mutex::default(),
            differs: Mutex::default(),
            settling: Settling::new(self, initiator, now),
        };
        let written = self.write(&work).await;
        let differs = work
            .differs
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some((event, differs)) = differs {
            return Err(other(&event, differs));
        }
        let held = work
            .held
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let mut settled = work.settling.ended(written)?;
        let waits = held
            .into_iter()
            .map(|id| (id, (EventStatus::Held, Vec::new())));
        settled.by_event.extend(waits);
        let mut report = |event: &BusinessEvent| match settled.by_event.remove(&event.id) {
            None => EventReport::known(event),
            Some((status, cases)) => EventReport {
                id: event.id.clone(),
                new: true,
                status: Some(status),
                cases,
            },
        };
        Ok(events.iter().map(&mut report).collect())
    }
}

fn is_about_keys(event: &BusinessEvent) -> bool {
    matches!(
        event.event_type,
        EventType::IdentityMerged | EventType::IdentitySplit
    )
}

fn other(event: &str, differs: Vec<&'static str>) -> IntakeError {
    IntakeError::OtherEvent {
        event: event.to_owned(),
        differs,
    }
}

struct TakeNamed<'a> {
    intake: &'a Intake,
    by: &'a Actor,
    now: Timestamp,
    /// Those that the guard holds back.
    held: Mutex<BTreeSet<String>>,
    /// In the order in which they came, each once.
    events: Vec<&'a BusinessEvent>,
    /// The event that is known otherwise, and where it says something else.
    differs: Mutex<Option<(String, Vec<&'static str>)>>,
    settling: Settling<'a>,
}

#[async_trait]
impl Work for TakeNamed<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let shard = |text: &str| self.intake.directory.shard(text);
        let claims: Vec<Claim> = self
            .events
            .iter()
            .map(|event| Claim {
                shard_id: shard(&event.id),
                event_id: event.id.clone(),
                subject: event.subject.as_str().to_owned(),
            })
            .collect();
        let known = claim(transaction, claims).await?;
        self.held().clear();
        let mut new: BTreeMap<&str, Vec<&BusinessEvent>> = BTreeMap::new();
        for event in &self.events {
            let subject = event.subject.as_str();
            match known.get(&event.id) {
                None => new.entry(subject).or_default().push(event),
                Some(known) if known != subject => {
                    return Err(self.refuse(&event.id, vec!["subject"]));
                }
                Some(_) => {}
            }
        }
        let mut subjects = BTreeSet::new();
        for (subject, events) in new {
            if !self.hold(transaction, subject, &events).await? {
                subjects.insert((shard(subject), subject.to_owned()));
            }
        }
        let new: Vec<BusinessEvent> = self
            .events
            .iter()
            .filter(|event| !known.contains_key(&event.id) && !self.held().contains(&event.id))
            .map(|event| (*event).clone())
            .collect();
        let inbox = self.settling.settle(transaction, &subjects, &new).await?;
        let taken = self.settling.taken();
        let again: BTreeMap<&str, &BusinessEvent> = self
            .events
            .iter()
            .filter(|event| !taken.contains(&event.id) && !self.held().contains(&event.id))
            .map(|event| (event.id.as_str(), *event))
            .collect();
        let names: Vec<(i32, String)> = again
            .values()
            .map(|event| (shard(event.subject.as_str()), event.id.clone()))
            .collect();
        let mut told: BTreeSet<String> = BTreeSet::new();
        for row in events_named(transaction, &names).await? {
            if let Some(event) = again.get(row.event_id.as_str()) {
                let differs = differences(event, &row);
                if !differs.is_empty() {
                    return Err(self.refuse(&row.event_id, differs));
                }
            }
            told.insert(row.event_id);
        }
        let left = again.values().filter(|event| !told.contains(&event.id));
        self.compare_with_held(transaction, left.copied()).await?;
        Ok(inbox)
    }
}

impl TakeNamed<'_> {
    fn held(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds what is said about one person back if it is too much, with what its source said before. A demand that the
    /// access of one person ends now never waits, unless the person is protected.
    async fn hold(
        &self,
        transaction: &mut Transaction<'_>,
        subject: &str,
        events: &[&BusinessEvent],
    ) -> Result<bool, StoreError> {
        let Some(first) = events.first() else {
            return Ok(false);
        };
        let source = first.source.as_str();
        let Some(measured) = self.measured(transaction, subject, events).await? else {
            return Ok(false);
        };
        let demands = |event: &&BusinessEvent| event.event_type == EventType::AccessRevokeNow;
        let mut reasons = if events.iter().any(demands) {
            let protected = &measured.blast.protected;
            let reason = (!protected.is_empty()).then(|| super::guard::protected(protected));
            reason.into_iter().collect()
        } else {
            self.intake
                .judge_now(transaction, source, &measured, &first.id, self.now)
                .await?
        };
        if reasons.is_empty() {
            return Ok(false);
        }
        tracing::warn!(
            source,
            event = first.id,
            events = events.len(),
            "what was said about somebody is held back until a person approves it"
        );
        let shard_id = self.intake.directory.shard(source);
        let waiting = resources::lock_guard(transaction, shard_id, source, self.now).await?;
        let rows: Vec<HeldEventRow> = events
            .iter()
            .map(|event| HeldEventRow {
                shard_id,
                source: source.to_owned(),
                event_id: event.id.clone(),
                subject: subject.to_owned(),
                event: (*event).clone(),
                held_at: self.now,
            })
            .collect();
        put_held_events(transaction, &rows).await?;
        reasons.dedup();
        let zone = first.zone.parse::<chrono_tz::Tz>();
        let zone = zone.unwrap_or(chrono_tz::UTC);
        let showing = Showing {
            source,
            shard_id,
            day: self.now.with_timezone(&zone).date_naive(),
            id: &first.id,
            by: self.by,
            now: self.now,
            reasons,
            population: 0,
        };
        showing.show(transaction, waiting).await?;
        self.held().extend(rows.into_iter().map(|row| row.event_id));
        Ok(true)
    }

    /// What the events would do to their person, once all of them are effective. `None` when no limit could tell.
    async fn measured(
        &self,
        transaction: &mut Transaction<'_>,
        subject: &str,
        events: &[&BusinessEvent],
    ) -> Result<Option<Measured>, StoreError> {
        let Some(first) = events.first() else {
            return Ok(None);
        };
        let begins = |event: &&BusinessEvent| kind(event.event_type) == ChangeKind::Create;
        if events.iter().all(begins) && !self.intake.watches_gifts(&first.source) {
            return Ok(None);
        }
        let place = (self.intake.directory.shard(subject), subject.to_owned());
        let known = events_in(transaction, &[place]).await?;
        let all: Vec<(Timestamp, BusinessEvent)> = known
            .iter()
            .map(|row| (row.received_at, row.event()))
            .chain(events.iter().map(|event| (self.now, (*event).clone())))
            .collect();
        let said = || all.iter().map(|(came, event)| (*came, event));
        let effective = events.iter().map(|event| event.effective_at).max();
        let at = effective.map_or(self.now, |effective| effective.max(self.now));
        let facts = |belief: Belief| {
            belief.is_employed().then(|| IdentityFacts {
                key: subject.to_owned(),
                active: true,
                on_leave: belief.on_leave,
                attributes: belief.attributes,
            })
        };
        let precedence = self.intake.precedence();
        let before = Timeline::of(said().take(known.len()));
        let pair = Pair {
            before: facts(before.preferring(&precedence).at(at)),
            after: facts(Timeline::of(said()).preferring(&precedence).at(at)),
        };
        let limits = self.intake.limits_of(&first.source);
        self.intake.measure_all(limits, [pair]).await
    }

    /// Refuses an event that says something else than one of its identifier that is held back.
    async fn compare_with_held(
        &self,
        transaction: &mut Transaction<'_>,
        events: impl Iterator<Item = &BusinessEvent>,
    ) -> Result<(), StoreError> {
        let mut by_source: BTreeMap<&str, Vec<&BusinessEvent>> = BTreeMap::new();
        for event in events {
            by_source.entry(&event.source).or_default().push(event);
        }
        for (source, events) in by_source {
            let shard_id = self.intake.directory.shard(source);
            for held in held_events_in(transaction, shard_id, source).await? {
                let named = events.iter().find(|event| event.id == held.event_id);
                let written =
                    |event: &BusinessEvent| serde_json::to_value(event).unwrap_or_default();
                let is_same =
                    |event: &&&BusinessEvent| same(&written(&held.event), &written(event));
                if let Some(event) = named.filter(|event| !is_same(event)) {
                    return Err(self.refuse(&event.id, vec!["data"]));
                }
            }
        }
        Ok(())
    }

    fn refuse(&self, event: &str, differs: Vec<&'static str>) -> StoreError {
        *self.differs.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((event.to_owned(), differs));
        StoreError::Projection("another event has this identifier".to_owned())
    }
}

/// Where `event` says something else than the one that is known, in the words of CloudEvents.
pub(super) fn differences(event: &BusinessEvent, known: &EventRow) -> Vec<&'static str> {
    differences_of(event, &known.event())
}

fn differences_of(event: &BusinessEvent, known: &BusinessEvent) -> Vec<&'static str> {
    // Both databases keep microseconds.
    let same_time = |a: Timestamp, b: Timestamp| a.timestamp_micros() == b.timestamp_micros();
    let same_data = same_time(event.effective_at, known.effective_at)
        && event.zone == known.zone
        && event.version == known.version
        && event.supersedes == known.supersedes
        && same(&event.data, &known.data);
    [
        ("subject", event.subject == known.subject),
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
    use crate::sources::{EventType, Key};
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

    async fn several_events_are_taken_in_together_or_not_at_all(company: &Company) {
        let hire = |id: &str, who: &str| event(id, EventType::Hire, who, 1, 0);
        let take = async |events: &[BusinessEvent]| {
            company.intake.events(events, &actor("api"), now()).await
        };
        let first = hire("e1", "X1");
        take(std::slice::from_ref(&first)).await.unwrap();
        // One that is refused takes the others with it, in whatever place it is.
        let stranger = event("e8", EventType::AccessRevokeNow, "X9", 1, 0);
        for bad in [hire("e1", "X2"), stranger] {
            for place in 0..3 {
                let mut events = vec![hire("e2", "X2"), hire("e3", "X3")];
                events.insert(place, bad.clone());
                let error = take(&events).await.unwrap_err();
                match error {
                    IntakeError::OtherEvent { event, differs } => {
                        assert_eq!((event.as_str(), differs), ("e1", vec!["subject"]));
                    }
                    IntakeError::UnknownSubject(subject) => assert_eq!(subject, "X9"),
                    error => panic!("{error}"),
                }
                assert!(company.directory.identity("X2").await.unwrap().is_none());
                assert!(company.directory.identity("X3").await.unwrap().is_none());
            }
        }
        let once = hire("e2", "X2");
        let mut otherwise = once.clone();
        otherwise.version = 7;
        let differ = take(&[once, otherwise])
            .await
            .map(|_| EventReport::known(&hire("e2", "X2")));
        assert_eq!(differing(differ), ["data"]);
        // Their order counts: whoever is hired in the same breath is known. One that comes twice is one; each is
        // reported.
        let gone = event("a0", EventType::AccessRevokeNow, "X2", 2, 0);
        let mut moved = event("e5", EventType::Transfer, "X4", 2, 0);
        moved.data = json!({ "changes": { "department": { "to": "Sales" } } });
        let known = hire("e2", "X2");
        let events = [
            first.clone(),
            known.clone(),
            gone,
            known,
            hire("e4", "X4"),
            moved,
        ];
        let reports = take(&events).await.unwrap();
        let told: Vec<(&str, bool)> = reports
            .iter()
            .map(|report| (report.id.as_str(), report.new))
            .collect();
        assert_eq!(
            told,
            [
                ("e1", false),
                ("e2", true),
                ("a0", true),
                ("e2", false),
                ("e4", true),
                ("e5", true)
            ]
        );
        let [.., hired, moved] = reports.as_slice() else {
            panic!("{reports:?}")
        };
        assert!(!hired.cases.is_empty(), "{reports:?}");
        assert_eq!(moved.status, hired.status, "{reports:?}");
        // Again, all of it is known.
        let again = take(&events).await.unwrap();
        assert!(
            again
                .iter()
                .all(|report| !report.new && report.cases.is_empty())
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
        several_events_are_taken_in_together_or_not_at_all,
        of_two_events_at_once_with_one_identifier_one_is_refused,
        an_event_of_before_is_known_too,
    }
}
