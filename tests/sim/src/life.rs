//! One life of a node: from its start to its crash. It is the machine its tasks run on, so it can stop them
//! between any two awaits, for ever or for a time.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use engine::runner::{Host, Task};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::chance::Chance;
use crate::fault::Fault;
use crate::trace::note;
use crate::world::World;

pub struct Life {
    pub node: usize,
    pub number: u32,
    /// Whether a later life can see that this one is dead, and need not wait for its leases to run out.
    visible: bool,
    world: Arc<World>,
    /// Its own randomness, so that what a node draws moves no fault.
    chance: Chance,
    state: Mutex<State>,
    died: Notify,
}

#[derive(Default)]
struct State {
    dead: bool,
    stopped: bool,
    /// It dies when it has been given the processor so many times.
    polls_left: Option<u64>,
    waiting: Vec<Waker>,
}

impl Life {
    pub fn new(world: &Arc<World>, node: usize, number: u32, visible: bool) -> Arc<Self> {
        Arc::new(Self {
            node,
            number,
            visible,
            world: Arc::clone(world),
            chance: world.chance.fork(1_000 + u64::from(number)),
            state: Mutex::default(),
            died: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// Ends this life at once: no task of it is given the processor again.
    pub fn kill(&self, how: &str) {
        let waiting = {
            let mut state = self.state();
            if state.dead {
                return;
            }
            state.dead = true;
            std::mem::take(&mut state.waiting)
        };
        note!(self.world, "{self} dies {how}");
        self.died.notify_one();
        waiting.into_iter().for_each(Waker::wake);
    }

    pub fn dies_after(&self, polls: u64) {
        self.state().polls_left = Some(polls);
    }

    /// Whatever was to happen to it does not.
    pub fn lives_on(&self) {
        self.state().polls_left = None;
        self.go_on();
    }

    /// As SIGSTOP and SIGCONT do.
    pub fn stop(&self) {
        self.state().stopped = true;
        note!(self.world, "{self} is stopped");
    }

    pub fn go_on(&self) {
        let waiting = {
            let mut state = self.state();
            state.stopped = false;
            std::mem::take(&mut state.waiting)
        };
        note!(self.world, "{self} goes on");
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Waits until it is dead.
    pub async fn died(&self) {
        while !self.is_dead() {
            self.died.notified().await;
        }
    }

    /// For whoever has just died in the middle of a call.
    pub async fn never<T>(&self) -> T {
        std::future::pending().await
    }

    fn admits(&self, context: &Context<'_>) -> Admission {
        let mut state = self.state();
        if state.dead {
            return Admission::Dead;
        }
        if state.stopped {
            state.waiting.push(context.waker().clone());
            return Admission::Waits;
        }
        match &mut state.polls_left {
            None => Admission::Runs,
            Some(0) => {
                drop(state);
                self.kill("between two awaits");
                Admission::Dead
            }
            Some(left) => {
                *left -= 1;
                Admission::Runs
            }
        }
    }
}

enum Admission {
    Runs,
    Waits,
    Dead,
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}.{}", self.node, self.number)
    }
}

impl fmt::Debug for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The machine's side of a life, as the runner takes it.
#[derive(Debug)]
pub struct Machine(pub Arc<Life>);

impl Host for Machine {
    fn own_name(&self, _: &str) -> String {
        self.0.to_string()
    }

    fn is_dead(&self, owner: &str) -> bool {
        let earlier = |number: u32| number < self.0.number;
        self.0.visible
            && owner
                .strip_prefix(&format!("n{}.", self.0.node))
                .and_then(|number| number.parse().ok())
                .is_some_and(earlier)
    }

    fn random(&self) -> [u8; 16] {
        let (high, low) = (self.0.chance.number(), self.0.chance.number());
        ((u128::from(high) << 64) | u128::from(low)).to_be_bytes()
    }

    fn spawn(&self, task: Task) -> JoinHandle<()> {
        tokio::spawn(Gated {
            life: Arc::clone(&self.0),
            task: Some(task),
        })
    }
}

/// A task that runs only as far as its life does.
struct Gated {
    life: Arc<Life>,
    task: Option<Task>,
}

impl Future for Gated {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        match self.life.admits(context) {
            Admission::Runs => {}
            Admission::Waits => return Poll::Pending,
            Admission::Dead => {
                self.task = None;
                return Poll::Ready(());
            }
        }
        let Some(task) = &mut self.task else {
            return Poll::Ready(());
        };
        let polled = task.as_mut().poll(context);
        // It may have died in a call it made.
        if polled.is_ready() || self.life.is_dead() {
            self.task = None;
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

/// Lets the life die here, if that is what happens.
pub async fn may_die(life: &Life, fault: Fault, less: u32, where_: &str) {
    if life.world.faults.strikes_less(fault, less) {
        life.kill(where_);
        life.never::<()>().await;
    }
}
