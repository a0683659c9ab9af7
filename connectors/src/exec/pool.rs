//! The processes of one plugin: started when they are needed, and again when they are gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::process::{Answered, Failure, Process, Spec};
use super::settings::Restart;
use super::wire::{Ask, Hello, WireCapabilities};

pub(super) struct Pool {
    spec: Spec,
    restart: Restart,
    /// What the configuration or the first greeting says the plugin can do; a later process must offer it too.
    promised: WireCapabilities,
    places: Vec<Place>,
}

struct Place {
    /// Calls under way here.
    load: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    process: Option<Arc<Process>>,
    /// How many processes in a row ended or failed to start without having answered anything.
    in_vain: u32,
    not_before: Option<Instant>,
}

/// Counts a call as long as it lasts, also when its caller goes away.
struct Load<'a>(&'a AtomicUsize);

impl<'a> Load<'a> {
    fn new(load: &'a AtomicUsize) -> Self {
        load.fetch_add(1, Ordering::AcqRel);
        Self(load)
    }
}

impl Drop for Load<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Pool {
    pub fn new(
        spec: Spec,
        restart: Restart,
        processes_max: usize,
        promised: WireCapabilities,
    ) -> Self {
        let place = || Place {
            load: AtomicUsize::new(0),
            state: Mutex::new(State::default()),
        };
        let places = std::iter::repeat_with(place)
            .take(processes_max.max(1))
            .collect();
        Self {
            spec,
            restart,
            promised,
            places,
        }
    }

    /// Asks the process with the least to do; an idle one comes first, and one more is started only when
    /// all before it are busy.
    pub async fn ask(&self, ask: &Ask<'_>) -> Answered {
        let Some(place) = self
            .places
            .iter()
            .min_by_key(|place| place.load.load(Ordering::Acquire))
        else {
            return Err(Failure::NotSent("no process may be started".to_owned()));
        };
        let _load = Load::new(&place.load);
        self.process(place).await?.ask(ask).await
    }

    /// The greeting of a running process.
    pub async fn hello(&self) -> Result<Hello, Failure> {
        match self.places.first() {
            Some(place) => Ok(self.process(place).await?.hello.clone()),
            None => Err(Failure::NotSent("no process may be started".to_owned())),
        }
    }

    async fn process(&self, place: &Place) -> Result<Arc<Process>, Failure> {
        let mut state = place.state.lock().await;
        if let Some(process) = &state.process {
            if process.is_alive() {
                return Ok(Arc::clone(process));
            }
            let (worked, started) = (process.has_answered(), process.started);
            state.process = None;
            if worked {
                state.in_vain = 0;
                state.not_before = None;
            } else {
                self.put_off(&mut state, started);
            }
        }
        let now = Instant::now();
        if let Some(not_before) = state.not_before.filter(|not_before| *not_before > now) {
            return Err(Failure::NotSent(format!(
                "the plugin failed {} times in a row and is not started again for {} ms",
                state.in_vain,
                not_before.saturating_duration_since(now).as_millis()
            )));
        }
        let started = match Process::start(&self.spec).await {
            Ok(process) => self.keeps_its_promise(process),
            Err(failure) => Err(failure),
        };
        match started {
            Ok(process) => {
                let process = Arc::new(process);
                state.process = Some(Arc::clone(&process));
                Ok(process)
            }
            Err(failure) => {
                self.put_off(&mut state, Instant::now());
                Err(failure)
            }
        }
    }

    fn keeps_its_promise(&self, process: Process) -> Result<Process, Failure> {
        let missing = self.promised.beyond(&process.hello.capabilities);
        if missing.is_empty() {
            Ok(process)
        } else {
            Err(Failure::NotSent(format!(
                "the plugin no longer offers {}; correct `capabilities`, or restart Tenure if the plugin was replaced",
                missing.join(", ")
            )))
        }
    }

    fn put_off(&self, state: &mut State, from: Instant) {
        let factor = 1_u64
            .checked_shl(state.in_vain.min(u64::BITS - 1))
            .unwrap_or(u64::MAX);
        let pause_ms = self
            .restart
            .first_ms
            .saturating_mul(factor)
            .min(self.restart.max_ms);
        state.in_vain = state.in_vain.saturating_add(1);
        state.not_before = Some(from + Duration::from_millis(pause_ms));
    }
}
