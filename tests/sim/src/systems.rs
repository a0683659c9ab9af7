//! Target systems: what is really there, whatever anybody was told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use engine::core::id::Epoch;

use crate::chance::Chance;
use crate::moment::TrueTime;

/// What protects a system against being asked twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It remembers idempotency keys: a request it has seen changes nothing, however late it comes.
    Keyed,
    /// It has a state, not a count: what is so already is not changed. An older attempt than the last is refused.
    Stateful,
    /// Every request counts. Only the fencing pair protects it, and that it was read back.
    Counting,
}

/// One effect: what a step wants to be so, and its undo wants to be not so.
#[derive(Debug, Clone, Default)]
pub struct Effect {
    pub there: bool,
    /// How often it came to be, and how often it was taken back.
    pub given: u32,
    pub taken: u32,
    keys: BTreeSet<String>,
    fence: (i64, u32),
    /// Something the engine could not know of may still have come after it asked: then what is there proves nothing.
    pub late: bool,
    pub pending: Option<Pending>,
    /// Requests on their way to it.
    under_way: u32,
}

/// Accepted, not done yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    pub done_at: Duration,
    pub fails: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Done,
    AlreadySo,
    /// An older attempt than one it has seen.
    Outdated,
}

/// A request as it arrives.
#[derive(Debug, Clone)]
pub struct Request {
    /// The key without the mark of an undo.
    pub effect: String,
    pub undo: bool,
    pub attempt: u32,
    pub epoch: Epoch,
}

pub struct System {
    pub name: String,
    pub kind: Kind,
    pub concurrency: usize,
    pub reserved: usize,
    inner: Mutex<Inner>,
    time: TrueTime,
}

#[derive(Default)]
struct Inner {
    effects: BTreeMap<String, Effect>,
    away_until: Duration,
}

impl System {
    pub fn draw(name: String, chance: &Chance, time: TrueTime) -> Self {
        let kind = *chance.pick(&[Kind::Keyed, Kind::Stateful, Kind::Counting]);
        let concurrency = usize::try_from(chance.between(1, 4)).unwrap();
        let reserved = usize::try_from(chance.below(concurrency as u64)).unwrap();
        Self {
            name,
            kind,
            concurrency,
            reserved,
            inner: Mutex::default(),
            time,
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn goes_away(&self, for_ms: u64) {
        self.inner().away_until = self.time.elapsed() + Duration::from_millis(for_ms);
    }

    pub fn comes_back(&self) {
        self.inner().away_until = Duration::ZERO;
    }

    pub fn is_away(&self) -> bool {
        self.inner().away_until > self.time.elapsed()
    }

    /// Does what is asked, if nothing protects it.
    pub fn apply(&self, request: &Request) -> Answer {
        let mut inner = self.inner();
        let effect = inner.effects.entry(request.effect.clone()).or_default();
        if self.kind == Kind::Keyed {
            let key = format!(
                "{}{}",
                request.effect,
                if request.undo { "/undo" } else { "" }
            );
            if !effect.keys.insert(key) {
                return Answer::AlreadySo;
            }
        } else if !effect.passes(request) {
            return Answer::Outdated;
        }
        let changes = self.kind == Kind::Counting || effect.there == request.undo;
        if !changes {
            return Answer::AlreadySo;
        }
        effect.there = !request.undo;
        if request.undo {
            effect.taken += 1;
        } else {
            effect.given += 1;
        }
        Answer::Done
    }

    /// Takes a request for later. `false` when it has seen it before.
    pub fn accept(&self, request: &Request, pending: Pending) -> bool {
        let mut inner = self.inner();
        let effect = inner.effects.entry(request.effect.clone()).or_default();
        if effect.pending.is_some() || effect.there {
            return false;
        }
        effect.pending = Some(pending);
        true
    }

    /// Does what was accepted.
    pub fn fulfil(&self, request: &Request) {
        let fails = {
            let mut inner = self.inner();
            let effect = inner.effects.entry(request.effect.clone()).or_default();
            effect.pending.is_none_or(|pending| pending.fails)
        };
        if !fails {
            let _ = self.apply(request);
        }
    }

    /// Whether the effect is there: the truth. A look by a counting system's client fences older attempts off.
    pub fn look(&self, request: &Request) -> bool {
        let mut inner = self.inner();
        let now = self.time.elapsed();
        let effect = inner.effects.entry(request.effect.clone()).or_default();
        if self.kind == Kind::Counting {
            effect.passes(request);
        }
        let later = effect.pending;
        if effect.under_way > 0
            || later.is_some_and(|pending| !pending.fails && pending.done_at > now)
        {
            effect.late = true;
        }
        effect.there
    }

    /// A request is sent to it.
    pub fn sent(&self, effect: &str) {
        let mut inner = self.inner();
        inner
            .effects
            .entry(effect.to_owned())
            .or_default()
            .under_way += 1;
    }

    /// The request is there.
    pub fn arrived(&self, effect: &str) {
        let mut inner = self.inner();
        inner
            .effects
            .entry(effect.to_owned())
            .or_default()
            .under_way -= 1;
    }

    pub fn pending(&self, effect: &str) -> Option<Pending> {
        self.inner().effects.get(effect)?.pending
    }

    /// A request that nobody waits for any more is under way.
    pub fn mark_late(&self, effect: &str) {
        let mut inner = self.inner();
        inner.effects.entry(effect.to_owned()).or_default().late = true;
    }

    pub fn effect(&self, effect: &str) -> Effect {
        self.inner()
            .effects
            .get(effect)
            .cloned()
            .unwrap_or_default()
    }

    pub fn effects(&self) -> BTreeMap<String, Effect> {
        self.inner().effects.clone()
    }
}

impl Effect {
    /// The fence: nothing older than the newest attempt seen.
    fn passes(&mut self, request: &Request) -> bool {
        let pair = (request.epoch.0, request.attempt);
        if pair < self.fence {
            return false;
        }
        self.fence = pair;
        true
    }
}
