//! What goes wrong, how often, and how often it did.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::chance::Chance;

macro_rules! faults {
    ($($fault:ident $rate:literal $name:literal,)+) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault { $($fault,)+ }

        impl Fault {
            pub const ALL: &[Self] = &[$(Self::$fault,)+];

            pub fn name(self) -> &'static str {
                match self { $(Self::$fault => $name,)+ }
            }

            /// The highest rate a world gives it, of ten thousand times it could strike.
            fn rate_max(self) -> u32 {
                match self { $(Self::$fault => $rate,)+ }
            }
        }
    };
}

faults! {
    StoreSlow 1000 "database: slow answer",
    StoreRefuses 400 "database: error, nothing done",
    StoreAnswerLost 400 "database: done, answer lost",
    StoreHangs 100 "database: no answer for long",
    StoreAway 1500 "database: away for everybody",
    LineCut 1500 "node: cut off from the database",
    CrashAtPoll 3000 "node: crash between two awaits",
    CrashBeforeCall 100 "node: crash before a call",
    CrashAfterCall 150 "node: crash after a call left",
    Stopped 2000 "node: stopped past its lease, then goes on",
    StoppedShortly 1500 "node: stopped shortly",
    ClockJumps 1500 "node: clock jumps",
    ClockOff 3000 "node: clock off from the start",
    Drained 1500 "node: told to drain, then restarted",
    NewVersion 3000 "node: restarted with changed definitions",
    RequestLost 400 "system: request lost",
    AnswerLost 800 "system: done, answer lost",
    SystemSlow 1000 "system: slow",
    SystemHangs 300 "system: no answer in time",
    AppliesLate 400 "system: request arrives after its time-out",
    Refuses 400 "system: refuses for good",
    Fails 1200 "system: fails, worth another try",
    SystemAway 2000 "system: away for a time",
    NotBefore 400 "system: not before a time",
    Lies 500 "system: says done, is not",
    Accepts 800 "system: accepted for later",
    AcceptedLost 500 "system: accepted, then fails it",
    NeedsHuman 300 "system: wants a person",
    ReadFails 800 "system: read-back fails",
    FactsFail 800 "facts: cannot be read",
    MessageTwice 2000 "message: comes twice",
    MessageLate 3000 "message: overtaken by later ones",
    MessageLost 1500 "message: lost before it is acknowledged, sent again",
    BadMessage 300 "message: makes no sense",
}

/// The faults of one world.
pub struct Faults {
    on: AtomicBool,
    chance: Chance,
    rates: BTreeMap<Fault, u32>,
    struck: Mutex<BTreeMap<Fault, u64>>,
}

impl Faults {
    /// Every world has its own mixture: of each kind none, some or many. A world in which everything goes wrong all
    /// the time gets nowhere, and hides what only a rare fault in a long run shows.
    pub fn draw(chance: &Chance) -> Self {
        let mut rates = BTreeMap::new();
        for fault in Fault::ALL {
            let rate = match chance.below(10) {
                0..=3 => 0,
                4..=6 => fault.rate_max() / 8,
                7..=8 => fault.rate_max() / 2,
                _ => fault.rate_max(),
            };
            rates.insert(*fault, rate);
        }
        Self {
            on: AtomicBool::new(true),
            chance: chance.fork(7),
            rates,
            struck: Mutex::default(),
        }
    }

    pub fn chance(&self) -> &Chance {
        &self.chance
    }

    /// From here on nothing goes wrong any more.
    pub fn end(&self) {
        self.on.store(false, Ordering::SeqCst);
    }

    pub fn are_on(&self) -> bool {
        self.on.load(Ordering::SeqCst)
    }

    /// Whether the fault strikes now; counted when it does.
    pub fn strikes(&self, fault: Fault) -> bool {
        self.strikes_less(fault, 1)
    }

    /// The same, so many times less often: for what is done all the time.
    pub fn strikes_less(&self, fault: Fault, times: u32) -> bool {
        let rate = self.rates.get(&fault).copied().unwrap_or(0);
        if !self.are_on() || rate == 0 {
            return false;
        }
        let strikes = self.chance.below(10_000 * u64::from(times)) < u64::from(rate);
        if strikes {
            self.count(fault);
        }
        strikes
    }

    fn count(&self, fault: Fault) {
        let mut struck = self.struck.lock().unwrap_or_else(PoisonError::into_inner);
        *struck.entry(fault).or_default() += 1;
    }

    pub fn struck(&self) -> BTreeMap<Fault, u64> {
        self.struck
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
