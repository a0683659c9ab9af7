//! One queue for each resource, with a bound on what is out, and capacity kept for revocations.

use std::collections::{BTreeMap, VecDeque};

use super::port::{Actions, Attempt, Availability, Resource};
use crate::core::Timestamp;
use crate::core::definition::Lane;
use crate::core::id::{CaseId, Place};

/// Attempts that are durable but not sent. Holds no connection and no task for those that wait.
#[derive(Default)]
pub(super) struct Gate {
    queues: BTreeMap<String, Queue>,
}

#[derive(Default)]
struct Queue {
    concurrency: usize,
    reserved: usize,
    out: usize,
    out_normal: usize,
    revocation: VecDeque<Attempt>,
    normal: VecDeque<Attempt>,
    held_until: Option<Timestamp>,
}

impl Gate {
    pub fn push(&mut self, resource: &Resource, attempt: Attempt) {
        let queue = self.queues.entry(resource.name.clone()).or_default();
        queue.concurrency = resource.concurrency.max(1);
        queue.reserved = resource.reserved.min(queue.concurrency - 1);
        match attempt.lane {
            Lane::Revocation => queue.revocation.push_back(attempt),
            Lane::Normal => queue.normal.push_back(attempt),
        }
    }

    /// Takes what may leave now, revocations first.
    pub fn take(&mut self, actions: &dyn Actions, now: Timestamp) -> Vec<(String, Attempt)> {
        let mut leaving = Vec::new();
        for (name, queue) in &mut self.queues {
            queue.held_until = None;
            while let Some(lane) = queue.next_lane() {
                if let Availability::HeldUntil(until) = actions.availability(name) {
                    if until > now {
                        queue.held_until = Some(until);
                        break;
                    }
                    // The hold is over: one attempt finds out whether the system is back.
                    if queue.out > 0 {
                        break;
                    }
                }
                let attempt = match lane {
                    Lane::Revocation => queue.revocation.pop_front(),
                    Lane::Normal => queue.normal.pop_front(),
                };
                let Some(attempt) = attempt else { break };
                queue.out += 1;
                queue.out_normal += usize::from(lane == Lane::Normal);
                leaving.push((name.clone(), attempt));
            }
        }
        leaving
    }

    pub fn returned(&mut self, resource: &str, lane: Lane) {
        if let Some(queue) = self.queues.get_mut(resource) {
            queue.out = queue.out.saturating_sub(1);
            if lane == Lane::Normal {
                queue.out_normal = queue.out_normal.saturating_sub(1);
            }
        }
    }

    /// Removes an attempt that has not left. `false` when it has.
    pub fn abort(&mut self, case: CaseId, place: Place, attempt: u32) -> bool {
        let same = |waiting: &Attempt| {
            waiting.case == case && waiting.place == place && waiting.attempt == attempt
        };
        for queue in self.queues.values_mut() {
            for waiting in [&mut queue.revocation, &mut queue.normal] {
                if let Some(position) = waiting.iter().position(same) {
                    waiting.remove(position);
                    return true;
                }
            }
        }
        false
    }

    /// The soonest moment a held queue wants to be looked at again.
    pub fn wake_at(&self) -> Option<Timestamp> {
        self.queues
            .values()
            .filter(|queue| queue.waiting() > 0)
            .filter_map(|queue| queue.held_until)
            .min()
    }

    pub fn waiting(&self) -> usize {
        self.queues.values().map(Queue::waiting).sum()
    }

    /// Name, waiting and out of each queue.
    pub fn sizes(&self) -> impl Iterator<Item = (&str, usize, usize, Option<Timestamp>)> {
        self.queues
            .iter()
            .map(|(name, queue)| (name.as_str(), queue.waiting(), queue.out, queue.held_until))
    }
}

impl Queue {
    fn waiting(&self) -> usize {
        self.revocation.len() + self.normal.len()
    }

    fn next_lane(&self) -> Option<Lane> {
        if self.out >= self.concurrency {
            return None;
        }
        if !self.revocation.is_empty() {
            return Some(Lane::Revocation);
        }
        let open_to_normal = self.concurrency - self.reserved;
        (!self.normal.is_empty() && self.out_normal < open_to_normal).then_some(Lane::Normal)
    }
}
