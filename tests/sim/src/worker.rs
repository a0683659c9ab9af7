//! The actions of a node in the simulated world: requests over a network to the target systems, and reads of what
//! is really there. They behave as the real actions do: apply, then verify; what was said and is not so is refuted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chrono::TimeDelta;
use engine::core::Timestamp;
use engine::core::case::{Failure, FailureClass, Mode, Verification};
use engine::core::definition::Lane;
use engine::core::id::Subject;
use engine::core::input::AttemptResult;
use engine::core::proof::Proof;
use engine::runner::{Actions, Attempt, Availability, Clock, Resource};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::fault::Fault;
use crate::life::{Life, may_die};
use crate::moment::rest_ms;
use crate::plant::Plant;
use crate::systems::{Answer, Kind, Pending, Request, System};
use crate::trace::note;
use crate::world::World;

/// With this attempt a system that says "done" and shows otherwise is left unverified, as the real actions do.
const REFUTED_ATTEMPTS_MAX: u32 = 6;

pub struct Worker {
    world: Arc<World>,
    life: Arc<Life>,
    clock: Arc<dyn Clock>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// How many attempts are out, and how many of those in the normal lane.
    out: BTreeMap<String, (usize, usize)>,
    held_until: BTreeMap<String, Timestamp>,
}

impl Worker {
    pub fn new(world: &Arc<World>, life: &Arc<Life>, clock: Arc<dyn Clock>) -> Self {
        Self {
            world: Arc::clone(world),
            life: Arc::clone(life),
            clock,
            inner: Mutex::default(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn strikes(&self, fault: Fault) -> bool {
        self.world.faults.strikes(fault)
    }

    fn system(&self, attempt: &Attempt) -> Option<Arc<System>> {
        system_of(&attempt.uses, &attempt.item, &attempt.with)
            .and_then(|name| self.world.system(&name))
    }

    async fn change(&self, attempt: &Attempt, system: &Arc<System>) -> AttemptResult {
        let request = request(attempt);
        let chance = self.world.faults.chance();
        let limit_ms = u64::try_from(attempt.timeout.ms()).unwrap();
        if self.strikes(Fault::RequestLost) {
            return self.lost("the request was lost").await;
        }
        if self.strikes(Fault::AppliesLate) && system.kind == Kind::Keyed {
            let late_ms = limit_ms + chance.between(10, 20_000);
            system.mark_late(&request.effect);
            let (world, system) = (Arc::clone(&self.world), Arc::clone(system));
            tokio::spawn(async move {
                rest_ms(late_ms).await;
                let answer = system.apply(&request);
                note!(
                    world,
                    "{} {} arrives late: {answer:?}",
                    system.name,
                    request.effect
                );
            });
            return std::future::pending().await;
        }
        let mut latency_ms = (chance.below(20), chance.below(20));
        if self.strikes(Fault::SystemSlow) {
            latency_ms = (chance.below(limit_ms), chance.below(limit_ms));
        }
        if system.is_away() {
            rest_ms(latency_ms.0).await;
            if chance.percent(50) {
                let until = self.clock.now() + TimeDelta::milliseconds(between(chance, 200, 4_000));
                self.inner().held_until.insert(system.name.clone(), until);
            }
            return failed("away", FailureClass::SystemAway);
        }
        let undo = request.undo;
        if self.strikes(Fault::Refuses) {
            rest_ms(latency_ms.0).await;
            return failed("denied", FailureClass::Permanent);
        }
        if self.strikes(Fault::Fails) {
            rest_ms(latency_ms.0).await;
            return failed("broken", FailureClass::Retry);
        }
        if self.strikes(Fault::NotBefore) {
            let until = self.clock.now() + TimeDelta::milliseconds(between(chance, 100, 6_000));
            return failed("not before", FailureClass::NotBefore(until));
        }
        if !undo && self.strikes(Fault::NeedsHuman) {
            return needs_human();
        }
        let accepts = !undo && system.kind != Kind::Counting && self.strikes(Fault::Accepts);
        let lies = !accepts && self.strikes(Fault::Lies);
        let fails_later = accepts && self.strikes(Fault::AcceptedLost);
        let done_at_ms = latency_ms.0 + chance.between(50, 5_000);
        let hangs = self.strikes(Fault::SystemHangs);
        let (answer, answered) = oneshot::channel();
        let (there, asked, sent) = (Arc::clone(&self.world), Arc::clone(system), request.clone());
        let attempt_number = attempt.attempt;
        system.sent(&request.effect);
        tokio::spawn(async move {
            rest_ms(latency_ms.0).await;
            asked.arrived(&sent.effect);
            let result = if accepts {
                let pending = Pending {
                    done_at: there.time.elapsed() + Duration::from_millis(done_at_ms),
                    fails: fails_later,
                };
                if asked.accept(&sent, pending) {
                    let (later, fulfilled) = (Arc::clone(&asked), sent.clone());
                    tokio::spawn(async move {
                        rest_ms(done_at_ms).await;
                        later.fulfil(&fulfilled);
                    });
                }
                None
            } else if lies {
                Some(Answer::Done)
            } else {
                Some(asked.apply(&sent))
            };
            note!(
                there,
                "{} {}#{attempt_number}{}: {}{}",
                asked.name,
                sent.effect,
                if sent.undo { " undo" } else { "" },
                result.map_or_else(|| "accepted".to_owned(), |answer| format!("{answer:?}")),
                if lies { " (a lie)" } else { "" }
            );
            rest_ms(latency_ms.1).await;
            let _ = answer.send(result);
        });
        may_die(&self.life, Fault::CrashAfterCall, 1, "after a request left").await;
        if hangs {
            return std::future::pending().await;
        }
        let answer = answered.await.unwrap();
        if self.strikes(Fault::AnswerLost) {
            return self.lost("the answer was lost").await;
        }
        match answer {
            None => AttemptResult::Accepted {
                handle: request.effect,
                poll_after_ms: chance.between(100, 3_000),
                proof: Proof::default(),
            },
            Some(Answer::Outdated) => failed("outdated", FailureClass::Retry),
            Some(Answer::Done | Answer::AlreadySo) => {
                self.verified(attempt, system, &request).await
            }
        }
    }

    /// A time-out at once, or when the engine's own time is over.
    async fn lost(&self, reason: &str) -> AttemptResult {
        if self.world.faults.chance().percent(50) {
            return std::future::pending().await;
        }
        AttemptResult::AnswerLost {
            reason: reason.to_owned(),
            proof: Proof::default(),
        }
    }

    /// Reads whether what was said is so.
    async fn verified(
        &self,
        attempt: &Attempt,
        system: &Arc<System>,
        request: &Request,
    ) -> AttemptResult {
        rest_ms(self.world.faults.chance().below(10)).await;
        if self.strikes(Fault::ReadFails) {
            return AttemptResult::AnswerLost {
                reason: "done, but it could not be read back".to_owned(),
                proof: Proof::default(),
            };
        }
        if system.look(request) != request.undo {
            return succeeded(attempt, Verification::Verified);
        }
        if attempt.attempt >= REFUTED_ATTEMPTS_MAX {
            let reason = "said to be done, and is not".to_owned();
            return succeeded(attempt, Verification::Unverified { reason });
        }
        failed("refuted", FailureClass::Retry)
    }

    async fn read_back(&self, attempt: &Attempt, system: &Arc<System>) -> AttemptResult {
        if self.world.plant == Some(Plant::NoReadBack) {
            return AttemptResult::NotApplied;
        }
        rest_ms(self.world.faults.chance().below(20)).await;
        if system.is_away() {
            return failed("away", FailureClass::SystemAway);
        }
        if self.strikes(Fault::ReadFails) {
            return failed("unreadable", FailureClass::Retry);
        }
        let request = request(attempt);
        let there = system.look(&request);
        note!(
            self.world,
            "{} {} is read back: {}",
            system.name,
            request.effect,
            if there { "there" } else { "not there" }
        );
        if there == request.undo {
            AttemptResult::NotApplied
        } else {
            succeeded(attempt, Verification::Verified)
        }
    }

    async fn poll(&self, attempt: &Attempt, system: &Arc<System>) -> AttemptResult {
        rest_ms(self.world.faults.chance().below(20)).await;
        if system.is_away() {
            return failed("away", FailureClass::SystemAway);
        }
        if self.strikes(Fault::ReadFails) {
            return failed("unreadable", FailureClass::Retry);
        }
        let request = request(attempt);
        match system.pending(&request.effect) {
            Some(pending) if pending.done_at > self.world.time.elapsed() => {
                AttemptResult::Accepted {
                    handle: request.effect,
                    poll_after_ms: 500,
                    proof: Proof::default(),
                }
            }
            Some(pending) if pending.fails => failed("failed later", FailureClass::Permanent),
            _ => self.verified(attempt, system, &request).await,
        }
    }

    /// What touches nothing outside.
    async fn local(&self, attempt: &Attempt) -> AttemptResult {
        rest_ms(self.world.faults.chance().below(5)).await;
        if self.strikes(Fault::Fails) {
            return failed("broken", FailureClass::Retry);
        }
        if self.strikes(Fault::Refuses) {
            return failed("denied", FailureClass::Permanent);
        }
        succeeded(attempt, Verification::NotNeeded)
    }

    /// Counts an attempt as out until what this gives is dropped.
    fn goes_out(&self, system: &System, attempt: &Attempt) -> Out<'_> {
        let normal = attempt.lane == Lane::Normal;
        let mut inner = self.inner();
        let (out, out_normal) = inner.out.entry(system.name.clone()).or_default();
        *out += 1;
        *out_normal += usize::from(normal);
        if *out > system.concurrency || *out_normal > system.concurrency - system.reserved {
            let (out, out_normal) = (*out, *out_normal);
            self.world.model.fail(format!(
                "{} has {out} attempts out to {}, {out_normal} of them normal: {} are allowed, {} reserved",
                self.life, system.name, system.concurrency, system.reserved
            ));
        }
        Out {
            worker: self,
            system: system.name.clone(),
            normal,
        }
    }
}

struct Out<'a> {
    worker: &'a Worker,
    system: String,
    normal: bool,
}

impl Drop for Out<'_> {
    fn drop(&mut self) {
        if let Some((out, out_normal)) = self.worker.inner().out.get_mut(&self.system) {
            *out -= 1;
            *out_normal -= usize::from(self.normal);
        }
    }
}

#[async_trait]
impl Actions for Worker {
    fn exists(&self, _: &str) -> bool {
        true
    }

    fn fact_roots(&self) -> Vec<&'static str> {
        vec!["identity"]
    }

    async fn facts(
        &self,
        subject: &Subject,
        _: &Value,
        _: &BTreeSet<String>,
    ) -> Result<Value, Failure> {
        rest_ms(self.world.faults.chance().below(20)).await;
        if self.strikes(Fault::FactsFail) {
            let class = match self.world.faults.chance().percent(85) {
                true => FailureClass::Retry,
                false => FailureClass::Permanent,
            };
            return Err(failure("no facts", class));
        }
        Ok(self.world.plan.facts(subject))
    }

    fn resource(&self, attempt: &Attempt) -> Option<Resource> {
        self.system(attempt).map(|system| Resource {
            name: system.name.clone(),
            concurrency: system.concurrency,
            reserved: system.reserved,
        })
    }

    fn availability(&self, resource: &str) -> Availability {
        match self.inner().held_until.get(resource) {
            Some(until) if self.world.faults.are_on() => Availability::HeldUntil(*until),
            _ => Availability::Ready,
        }
    }

    fn at_once(&self, attempt: &Attempt) -> Option<AttemptResult> {
        // Nothing leaves, so its intent need not be durable.
        is_at_once(&attempt.uses).then(|| succeeded(attempt, Verification::NotNeeded))
    }

    async fn run(&self, attempt: &Attempt) -> AttemptResult {
        self.world.model.attempt_leaves(&self.life, attempt);
        may_die(&self.life, Fault::CrashBeforeCall, 1, "before a request").await;
        let Some(system) = self.system(attempt) else {
            return self.local(attempt).await;
        };
        let _out = self.goes_out(&system, attempt);
        let result = match &attempt.mode {
            Mode::Do | Mode::Undo => self.change(attempt, &system).await,
            Mode::ReadBack | Mode::UndoReadBack => self.read_back(attempt, &system).await,
            Mode::Poll { .. } => self.poll(attempt, &system).await,
        };
        if matches!(
            &result,
            AttemptResult::Failed { failure, .. } if failure.class != FailureClass::SystemAway
        ) || matches!(&result, AttemptResult::Succeeded { .. })
        {
            self.inner().held_until.remove(&system.name);
        }
        result
    }
}

fn is_at_once(uses: &str) -> bool {
    matches!(uses, "noop" | "identity.activate" | "identity.leave")
}

/// The system that an action works on: named by its item, its input, or the action itself.
pub fn system_of(uses: &str, item: &Value, with: &Value) -> Option<String> {
    if is_at_once(uses)
        || matches!(
            uses,
            "local"
                | "access.plan"
                | "deletion.plan"
                | "approvals.reroute"
                | "case.follow"
                | "grant.keep"
        )
    {
        return None;
    }
    let named = item["system"].as_str().or_else(|| with["system"].as_str());
    let own = uses.split_once('.').map(|(system, _)| system);
    named.or(own).map(str::to_owned)
}

fn request(attempt: &Attempt) -> Request {
    let key = &attempt.idempotency_key;
    Request {
        effect: key.strip_suffix("/undo").unwrap_or(key).to_owned(),
        undo: attempt.mode.is_undo(),
        attempt: attempt.attempt,
        epoch: attempt.epoch,
    }
}

fn between(chance: &crate::chance::Chance, least: u64, most: u64) -> i64 {
    i64::try_from(chance.between(least, most)).unwrap()
}

fn succeeded(attempt: &Attempt, verification: Verification) -> AttemptResult {
    let output = if attempt.uses == "access.plan" {
        crate::definitions::planned(&attempt.subject, attempt.attempt)
    } else {
        json!({"by": attempt.uses, "attempt": attempt.attempt})
    };
    AttemptResult::Succeeded {
        output,
        verification,
        proof: Proof::default(),
    }
}

fn failure(kind: &str, class: FailureClass) -> Failure {
    Failure {
        kind: kind.to_owned(),
        message: kind.to_owned(),
        class,
    }
}

fn failed(kind: &str, class: FailureClass) -> AttemptResult {
    AttemptResult::Failed {
        failure: failure(kind, class),
        proof: Proof::default(),
    }
}

fn needs_human() -> AttemptResult {
    AttemptResult::NeedsHuman {
        title: "do it by hand".to_owned(),
        instructions: String::new(),
        assignee: "role:helpdesk".to_owned(),
        due_after_ms: 5_000,
        proof_required: true,
        output: json!({"by_hand": true}),
    }
}
