//! One queue for each resource, with a bound on what is out, and capacity kept for revocations.
//!
//! What waits here is durable already, so a queue holds only where it stands: the attempt itself is made from its
//! case when it leaves, and a hundred thousand that wait cost a few megabytes.
//!
//! Who goes first: revocations before everything, on every resource and over all of them together; a part of each
//! bound is theirs alone. Among the rest the workflows of a resource take turns, each as often as its `weight`
//! says, and the resources take turns at what the node may have out in all. So neither a storm of one workflow nor
//! one slow system holds up another.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;

use super::node::{QueueStatus, WaitStatus};
use super::port::{Actions, Availability, Resource};
use crate::core::Timestamp;
use crate::core::case::Mode;
use crate::core::definition::{Definition, Lane};
use crate::core::id::{CaseId, Place, ShardId, StepIndex};

/// How much may be out at once over all resources, and how much of that only revocations may use.
const OUT_MAX: usize = 1_024;
const OUT_RESERVED: usize = 256;

/// What waits for its turn.
#[derive(Debug, Clone)]
pub(super) struct Queued {
    pub case: CaseId,
    pub shard: ShardId,
    /// The version the case runs: its name, lane and weight.
    pub definition: Arc<Definition>,
    /// Since when it waits.
    pub since: Timestamp,
    pub work: Work,
}

#[derive(Debug, Clone)]
pub(super) enum Work {
    Attempt {
        place: Place,
        attempt: u32,
        mode: Mode,
    },
    /// Reading the facts that a step's expressions name.
    Facts { step: StepIndex },
}

/// What names an attempt that may be aborted before it leaves.
type Key = (CaseId, Place, u32);

impl Queued {
    pub fn lane(&self) -> Lane {
        self.definition.lane
    }

    fn key(&self) -> Option<Key> {
        match &self.work {
            Work::Attempt { place, attempt, .. } => Some((self.case, *place, *attempt)),
            Work::Facts { .. } => None,
        }
    }
}

/// Work that is durable but not sent. Holds no connection and no task for what waits.
#[derive(Default)]
pub(super) struct Gate {
    queues: BTreeMap<String, Queue>,
    out: usize,
    out_normal: usize,
    /// Where the next round over the queues begins.
    turn: usize,
}

#[derive(Default)]
struct Queue {
    concurrency: usize,
    reserved: usize,
    out: usize,
    out_normal: usize,
    revocation: VecDeque<Queued>,
    normal: Fair,
    /// Attempts that wait. One that is gone from here was aborted, and is passed over when its turn comes.
    attempts: HashSet<Key>,
    facts: usize,
    held_until: Option<Timestamp>,
}

/// The workflows of a queue, taking turns.
#[derive(Default)]
struct Fair {
    flows: BTreeMap<String, Flow>,
    /// Flows with something in them, the one whose turn it is first.
    order: VecDeque<String>,
    len: usize,
}

#[derive(Default)]
struct Flow {
    waiting: VecDeque<Queued>,
    /// How many more it may send before the next one's turn.
    credit: u32,
}

impl Fair {
    fn push(&mut self, queued: Queued) {
        let name = &queued.definition.name;
        if !self.flows.contains_key(name) {
            self.flows.insert(name.clone(), Flow::default());
            self.order.push_back(name.clone());
        }
        if let Some(flow) = self.flows.get_mut(name) {
            flow.waiting.push_back(queued);
            self.len += 1;
        }
    }

    fn drop_shards(&mut self, gone: &BTreeSet<ShardId>, dropped: &mut Vec<Option<Key>>) {
        for flow in self.flows.values_mut() {
            drop_from(&mut flow.waiting, gone, dropped);
        }
        self.flows.retain(|_, flow| !flow.waiting.is_empty());
        self.order.retain(|name| self.flows.contains_key(name));
        self.len = self.flows.values().map(|flow| flow.waiting.len()).sum();
    }

    /// Each workflow's work waits in the order in which it came.
    fn oldest(&self) -> Option<Timestamp> {
        let first = |flow: &Flow| flow.waiting.front().map(|queued| queued.since);
        self.flows.values().filter_map(first).min()
    }

    fn pop(&mut self) -> Option<Queued> {
        let name = self.order.front()?;
        let flow = self.flows.get_mut(name)?;
        let queued = flow.waiting.pop_front()?;
        self.len -= 1;
        if flow.credit == 0 {
            flow.credit = queued.definition.weight;
        }
        flow.credit -= 1;
        if flow.waiting.is_empty() {
            self.flows.remove(name);
            self.order.pop_front();
        } else if flow.credit == 0 {
            self.order.rotate_left(1);
        }
        Some(queued)
    }
}

/// Takes what belongs to these shards out of a queue, and tells what it was.
fn drop_from(
    waiting: &mut VecDeque<Queued>,
    gone: &BTreeSet<ShardId>,
    dropped: &mut Vec<Option<Key>>,
) {
    waiting.retain(|queued| {
        let stays = !gone.contains(&queued.shard);
        if !stays {
            dropped.push(queued.key());
        }
        stays
    });
}

impl Gate {
    pub fn push(&mut self, resource: &Resource, queued: Queued) {
        let queue = self.queues.entry(resource.name.clone()).or_default();
        queue.concurrency = resource.concurrency.max(1);
        queue.reserved = resource.reserved.min(queue.concurrency - 1);
        match queued.key() {
            Some(key) => _ = queue.attempts.insert(key),
            None => queue.facts += 1,
        }
        match queued.lane() {
            Lane::Revocation => queue.revocation.push_back(queued),
            Lane::Normal => queue.normal.push(queued),
        }
    }

    /// Takes what may leave now, revocations first.
    pub fn take(&mut self, actions: &dyn Actions, now: Timestamp) -> Vec<(String, Queued)> {
        for queue in self.queues.values_mut() {
            queue.held_until = None;
        }
        let mut leaving = Vec::new();
        self.take_lane(Lane::Revocation, actions, now, &mut leaving);
        self.take_lane(Lane::Normal, actions, now, &mut leaving);
        leaving
    }

    /// Rounds over the queues, one from each, until nothing of this lane may leave any more.
    fn take_lane(
        &mut self,
        lane: Lane,
        actions: &dyn Actions,
        now: Timestamp,
        leaving: &mut Vec<(String, Queued)>,
    ) {
        let mut names: Vec<String> = self
            .queues
            .iter()
            .filter(|(_, queue)| queue.may_send(lane))
            .map(|(name, _)| name.clone())
            .collect();
        if names.is_empty() {
            return;
        }
        let first = self.turn % names.len();
        names.rotate_left(first);
        self.turn = self.turn.wrapping_add(1);
        while !names.is_empty() {
            names.retain(|name| {
                let room = match lane {
                    Lane::Revocation => self.out < OUT_MAX,
                    Lane::Normal => self.out < OUT_MAX && self.out_normal < OUT_MAX - OUT_RESERVED,
                };
                let Some(queue) = self.queues.get_mut(name).filter(|_| room) else {
                    return false;
                };
                let Some(queued) = queue.next(name, lane, actions, now) else {
                    return false;
                };
                self.out += 1;
                self.out_normal += usize::from(lane == Lane::Normal);
                leaving.push((name.clone(), queued));
                true
            });
        }
    }

    pub fn returned(&mut self, resource: &str, lane: Lane) {
        let Some(queue) = self.queues.get_mut(resource) else {
            return;
        };
        queue.out = queue.out.saturating_sub(1);
        self.out = self.out.saturating_sub(1);
        if lane == Lane::Normal {
            queue.out_normal = queue.out_normal.saturating_sub(1);
            self.out_normal = self.out_normal.saturating_sub(1);
        }
    }

    /// Removes an attempt that has not left. `false` when it has.
    pub fn abort(&mut self, case: CaseId, place: Place, attempt: u32) -> bool {
        let key = (case, place, attempt);
        self.queues
            .values_mut()
            .any(|queue| queue.attempts.remove(&key))
    }

    /// Removes what waits of these shards: their owner finds it in the database.
    pub fn drop_shards(&mut self, gone: &BTreeSet<ShardId>) {
        for queue in self.queues.values_mut() {
            let mut dropped = Vec::new();
            drop_from(&mut queue.revocation, gone, &mut dropped);
            queue.normal.drop_shards(gone, &mut dropped);
            for key in dropped {
                match key {
                    Some(key) => _ = queue.attempts.remove(&key),
                    None => queue.facts -= 1,
                }
            }
        }
    }

    /// The soonest moment a held queue wants to be looked at again.
    pub fn wake_at(&self) -> Option<Timestamp> {
        self.queues
            .values()
            .filter(|queue| queue.waiting() > 0)
            .filter_map(|queue| queue.held_until)
            .min()
    }

    /// Whether a revocation is out, or could leave as soon as there is room. What waits for a system that is away asks
    /// for nothing now.
    pub fn is_revoking(&self) -> bool {
        let could_leave =
            |queue: &Queue| queue.held_until.is_none() && !queue.revocation.is_empty();
        self.out > self.out_normal || self.queues.values().any(could_leave)
    }

    pub fn out(&self) -> usize {
        self.out
    }

    pub fn waiting(&self) -> usize {
        self.queues.values().map(Queue::waiting).sum()
    }

    /// How each queue stands.
    pub fn statuses(&self) -> Vec<QueueStatus> {
        let status = |(name, queue): (&String, &Queue)| QueueStatus {
            name: name.clone(),
            waiting: queue.waiting(),
            out: queue.out,
            held_until: queue.held_until,
            revocation: WaitStatus {
                waiting: queue.revocation.len(),
                oldest: queue.revocation.front().map(|queued| queued.since),
            },
            normal: WaitStatus {
                waiting: queue.normal.len,
                oldest: queue.normal.oldest(),
            },
        };
        self.queues.iter().map(status).collect()
    }
}

impl Queue {
    fn waiting(&self) -> usize {
        self.attempts.len() + self.facts
    }

    fn may_send(&self, lane: Lane) -> bool {
        self.out < self.concurrency
            && match lane {
                Lane::Revocation => !self.revocation.is_empty(),
                Lane::Normal => {
                    self.normal.len > 0 && self.out_normal < self.concurrency - self.reserved
                }
            }
    }

    /// The next of a lane, if one may leave.
    fn next(
        &mut self,
        name: &str,
        lane: Lane,
        actions: &dyn Actions,
        now: Timestamp,
    ) -> Option<Queued> {
        while self.may_send(lane) {
            if let Availability::HeldUntil(until) = actions.availability(name) {
                if until > now {
                    self.held_until = Some(until);
                    return None;
                }
                // The hold is over: one attempt finds out whether the system is back.
                if self.out > 0 {
                    return None;
                }
            }
            let queued = match lane {
                Lane::Revocation => self.revocation.pop_front(),
                Lane::Normal => self.normal.pop(),
            }?;
            match queued.key() {
                Some(key) if !self.attempts.remove(&key) => continue,
                Some(_) => {}
                None => self.facts -= 1,
            }
            self.out += 1;
            self.out_normal += usize::from(lane == Lane::Normal);
            return Some(queued);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use std::collections::{BTreeMap, BTreeSet};

    use async_trait::async_trait;
    use serde_json::Value;
    use uuid::Uuid;

    use super::*;
    use crate::core::case::Failure;
    use crate::core::id::{InstanceIndex, Subject};
    use crate::core::input::AttemptResult;
    use crate::runner::Attempt;

    /// Holds the systems it is told to.
    #[derive(Default)]
    struct Held(BTreeMap<String, Timestamp>);

    #[async_trait]
    impl Actions for Held {
        fn exists(&self, _: &str) -> bool {
            true
        }
        fn fact_roots(&self) -> Vec<&'static str> {
            Vec::new()
        }
        async fn facts(
            &self,
            _: &Subject,
            _: &Value,
            _: &BTreeSet<String>,
        ) -> Result<Value, Failure> {
            Ok(Value::Null)
        }
        fn resource(&self, _: &Attempt) -> Option<Resource> {
            None
        }
        fn availability(&self, resource: &str) -> Availability {
            match self.0.get(resource) {
                Some(until) => Availability::HeldUntil(*until),
                None => Availability::Ready,
            }
        }
        async fn run(&self, _: &Attempt) -> AttemptResult {
            AttemptResult::NotApplied
        }
    }

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn definition(name: &str, lane: &str, weight: u32) -> Arc<Definition> {
        let text = format!(
            "name: {name}\nlane: {lane}\nweight: {weight}\nsteps:\n  - {{id: a, uses: x}}\n"
        );
        Arc::new(Definition::parse("x.yaml", &text, &[], &|_| true).unwrap())
    }

    fn place() -> Place {
        Place {
            step: StepIndex(0),
            instance: InstanceIndex(0),
        }
    }

    fn queued(definition: &Arc<Definition>, case: u128) -> Queued {
        Queued {
            case: CaseId(Uuid::from_u128(case)),
            shard: ShardId(0),
            definition: Arc::clone(definition),
            since: now() + chrono::TimeDelta::milliseconds(i64::try_from(case).unwrap_or(0)),
            work: Work::Attempt {
                place: place(),
                attempt: 1,
                mode: Mode::Do,
            },
        }
    }

    fn system(name: &str, concurrency: usize, reserved: usize) -> Resource {
        Resource {
            name: name.to_owned(),
            concurrency,
            reserved,
        }
    }

    /// What leaves, as `workflow` names; everything that left is back before the next look.
    fn leave(gate: &mut Gate, actions: &Held) -> Vec<String> {
        let left = gate.take(actions, now());
        for (resource, queued) in &left {
            gate.returned(resource, queued.lane());
        }
        left.iter()
            .map(|(_, queued)| queued.definition.name.clone())
            .collect()
    }

    #[test]
    fn workflows_take_turns_by_weight() {
        let (storm, rare) = (
            definition("storm", "normal", 1),
            definition("rare", "normal", 3),
        );
        let mut gate = Gate::default();
        for case in 0..100 {
            gate.push(&system("a", 8, 0), queued(&storm, case));
        }
        for case in 100..106 {
            gate.push(&system("a", 8, 0), queued(&rare, case));
        }
        let left = leave(&mut gate, &Held::default());
        assert_eq!(
            left,
            [
                "storm", "rare", "rare", "rare", "storm", "rare", "rare", "rare"
            ]
        );
        assert_eq!(gate.waiting(), 98);
    }

    #[test]
    fn a_revocation_goes_first_and_keeps_its_slots() {
        let (joiner, leaver) = (
            definition("joiner", "normal", 10),
            definition("leaver", "revocation", 10),
        );
        let mut gate = Gate::default();
        for case in 0..10 {
            gate.push(&system("a", 4, 1), queued(&joiner, case));
        }
        let first = gate.take(&Held::default(), now());
        assert_eq!(first.len(), 3, "one slot is kept");
        gate.push(&system("a", 4, 1), queued(&leaver, 50));
        gate.push(&system("a", 4, 1), queued(&leaver, 51));
        let second = gate.take(&Held::default(), now());
        assert_eq!(second.len(), 1);
        assert_eq!(second[0].1.definition.name, "leaver");
        gate.returned("a", Lane::Normal);
        let third = gate.take(&Held::default(), now());
        assert_eq!(
            third[0].1.definition.name, "leaver",
            "before the joiners that came earlier"
        );
    }

    #[test]
    fn a_system_that_is_held_holds_up_no_other() {
        let joiner = definition("joiner", "normal", 10);
        let later = now() + chrono::TimeDelta::seconds(5);
        let held = Held(BTreeMap::from([("away".to_owned(), later)]));
        let mut gate = Gate::default();
        for case in 0..2_000 {
            gate.push(&system("away", 8, 0), queued(&joiner, case));
        }
        gate.push(&system("here", 8, 0), queued(&joiner, 9_999));
        let left = gate.take(&held, now());
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].0, "here");
        assert_eq!(gate.wake_at(), Some(later));
    }

    /// Else a system that is away for a day would slow all joiners down for a day.
    #[test]
    fn a_revocation_that_waits_for_a_system_that_is_away_holds_nobody_back() {
        let leaver = definition("leaver", "revocation", 10);
        let later = now() + chrono::TimeDelta::seconds(5);
        let held = Held(BTreeMap::from([("away".to_owned(), later)]));
        let mut gate = Gate::default();
        gate.push(&system("away", 8, 2), queued(&leaver, 1));
        gate.push(&system("here", 8, 2), queued(&leaver, 2));
        assert!(gate.is_revoking());
        assert_eq!(gate.take(&held, now()).len(), 1);
        assert!(gate.is_revoking(), "one is out");
        gate.returned("here", Lane::Revocation);
        assert!(!gate.is_revoking());
        gate.take(&Held::default(), now());
        assert!(gate.is_revoking(), "it is back");
    }

    #[test]
    fn all_systems_together_keep_room_for_revocations() {
        let (joiner, leaver) = (
            definition("joiner", "normal", 10),
            definition("leaver", "revocation", 10),
        );
        let mut gate = Gate::default();
        for number in 0..40 {
            for case in 0..40 {
                let resource = system(&format!("s{number}"), 40, 0);
                gate.push(&resource, queued(&joiner, number * 100 + case));
            }
        }
        assert_eq!(
            gate.take(&Held::default(), now()).len(),
            OUT_MAX - OUT_RESERVED
        );
        gate.push(&system("s39", 41, 0), queued(&leaver, 1_000_000));
        assert_eq!(gate.take(&Held::default(), now()).len(), 1);
    }

    #[test]
    fn what_waits_longest_is_told_by_lane() {
        let (joiner, mover, leaver) = (
            definition("joiner", "normal", 10),
            definition("mover", "normal", 10),
            definition("leaver", "revocation", 10),
        );
        let mut gate = Gate::default();
        gate.push(&system("a", 2, 1), queued(&joiner, 7));
        gate.push(&system("a", 2, 1), queued(&mover, 5));
        gate.push(&system("a", 2, 1), queued(&mover, 9));
        gate.push(&system("a", 2, 1), queued(&leaver, 8));
        let at = |ms| Some(now() + chrono::TimeDelta::milliseconds(ms));
        let status = gate.statuses().remove(0);
        assert_eq!((status.normal.waiting, status.normal.oldest), (3, at(5)));
        assert_eq!(status.revocation.oldest, at(8));
        gate.take(&Held::default(), now());
        let status = gate.statuses().remove(0);
        assert_eq!(status.revocation, WaitStatus::default());
        assert_eq!(status.normal.waiting, 2);
    }

    #[test]
    fn an_aborted_attempt_neither_leaves_nor_counts() {
        let joiner = definition("joiner", "normal", 10);
        let mut gate = Gate::default();
        for case in 0..3 {
            gate.push(&system("a", 8, 0), queued(&joiner, case));
        }
        assert!(gate.abort(CaseId(Uuid::from_u128(1)), place(), 1));
        assert!(!gate.abort(CaseId(Uuid::from_u128(1)), place(), 1), "gone");
        assert_eq!(gate.waiting(), 2);
        let left = gate.take(&Held::default(), now());
        let cases: Vec<_> = left
            .iter()
            .map(|(_, queued)| queued.case.0.as_u128())
            .collect();
        assert_eq!(cases, [0, 2]);
        assert!(
            !gate.abort(CaseId(Uuid::from_u128(0)), place(), 1),
            "it has left"
        );
    }
}
