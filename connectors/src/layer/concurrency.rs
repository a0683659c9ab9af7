//! How many calls may be under way in one system, and who goes first.
//!
//! A share of the slots is reserved for revocations, and every slot that becomes free goes to a waiting
//! revocation before it goes to anybody else. Within a lane it is first come, first served.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::Lane;
use super::call::{Answer, Call, Layer};
use crate::connector::{Error, ErrorKind};

/// How many calls may wait for a slot in one lane.
const WAITING_MAX: usize = 16_384;

/// The slots of one system, shared by its lanes.
#[derive(Debug)]
pub struct Slots {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: usize,
    /// Slots that calls of the normal lane may still take; the reserved ones are never among them.
    free_normal: usize,
    waiting_revocation: VecDeque<oneshot::Sender<Slot>>,
    waiting_normal: VecDeque<oneshot::Sender<Slot>>,
}

/// The right to make one call; given back when dropped.
#[derive(Debug)]
struct Slot {
    /// `None` once the slot has been given back.
    slots: Option<Arc<Slots>>,
    lane: Lane,
}

impl Slot {
    fn give_back(&mut self) -> Option<Arc<Slots>> {
        let slots = self.slots.take()?;
        {
            let mut state = slots.lock();
            state.free += 1;
            if self.lane == Lane::Normal {
                state.free_normal += 1;
            }
        }
        Some(slots)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(slots) = self.give_back() {
            slots.hand_out();
        }
    }
}

impl Slots {
    /// `total` slots, `reserved` of them for revocations alone.
    #[must_use]
    pub fn new(total: usize, reserved: usize) -> Self {
        Self {
            state: Mutex::new(State {
                free: total,
                free_normal: total.saturating_sub(reserved),
                waiting_revocation: VecDeque::new(),
                waiting_normal: VecDeque::new(),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn take(self: &Arc<Self>, lane: Lane) -> Result<Slot, Error> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut state = self.lock();
            let waiting = match lane {
                Lane::Normal => &mut state.waiting_normal,
                Lane::Revocation => &mut state.waiting_revocation,
            };
            if waiting.len() >= WAITING_MAX {
                // Those who gave up waiting still stand in the queue; only the living count.
                waiting.retain(|waiter| !waiter.is_closed());
                if waiting.len() >= WAITING_MAX {
                    return Err(Error::new(
                        ErrorKind::Transient,
                        format!("{WAITING_MAX} calls already wait for this system"),
                    ));
                }
            }
            waiting.push_back(sender);
        }
        self.hand_out();
        receiver
            .await
            .map_err(|_| Error::new(ErrorKind::Bug, "the slots of this system are gone"))
    }

    /// Gives free slots to those who wait. A slot is handed over outside the lock: if its taker has gone, it
    /// comes back through its own drop, which locks.
    fn hand_out(self: &Arc<Self>) {
        loop {
            let (waiter, lane) = {
                let mut state = self.lock();
                if state.free == 0 {
                    return;
                }
                if let Some(waiter) = state.waiting_revocation.pop_front() {
                    state.free -= 1;
                    (waiter, Lane::Revocation)
                } else if state.free_normal > 0
                    && let Some(waiter) = state.waiting_normal.pop_front()
                {
                    state.free -= 1;
                    state.free_normal -= 1;
                    (waiter, Lane::Normal)
                } else {
                    return;
                }
            };
            let slot = Slot {
                slots: Some(Arc::clone(self)),
                lane,
            };
            if let Err(mut unwanted) = waiter.send(slot) {
                // Not left to its drop: that would call this function again, as deep as the queue of those
                // who gave up is long.
                unwanted.give_back();
            }
        }
    }
}

pub struct Concurrency {
    slots: Arc<Slots>,
    lane: Lane,
}

impl Concurrency {
    #[must_use]
    pub fn new(slots: Arc<Slots>, lane: Lane) -> Self {
        Self { slots, lane }
    }
}

impl Layer for Concurrency {
    async fn around<T: Answer>(
        &self,
        _call: &Call,
        next: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        let slot = self.slots.take(self.lane).await?;
        let answer = next.await;
        drop(slot);
        answer
    }
}
