//! One world, from its seed to its verdict.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use engine::core::case::{InstanceState, Verification};
use engine::core::definition::{Definition, Work};
use engine::core::id::Place;
use engine::runner::{Definitions, Node, NodeConfig, NodeHandle};
use engine::store::{MIGRATIONS, Outcome, Projection, Store, StoreError, Transaction};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::chance::Chance;
use crate::database::{Database, Unchecked, Watcher};
use crate::definitions::Plan;
use crate::fault::{Fault, Faults};
use crate::life::{Life, Machine};
use crate::line::Line;
use crate::model::Model;
use crate::moment::{MachineClock, TrueTime, rest_ms, runtime};
use crate::people::Outside;
use crate::plant::Plant;
use crate::systems::System;
use crate::trace::{Trace, note};
use crate::worker::{Worker, system_of};

/// How long a world may take to come to rest once nothing goes wrong any more.
const REST_MS_MAX: u64 = 3_600_000;
/// How often people look after what waits for them by then.
const TIDY_MS: u64 = 1_500;
/// The longest pause of a node between two starts, and a little.
const SETTLE_MS: u64 = 15_000;
/// How long a node may take to drain.
const DRAIN_LIMIT: Duration = Duration::from_secs(120);

pub struct World {
    pub time: TrueTime,
    pub chance: Chance,
    pub trace: Trace,
    pub faults: Faults,
    pub model: Arc<Model>,
    pub plan: Plan,
    pub plant: Option<Plant>,
    systems: BTreeMap<String, Arc<System>>,
    database: OnceLock<Arc<Database>>,
    inner: Mutex<Inner>,
    /// Told to nodes that wait for their next life.
    calm: Signal,
}

/// Given once, and from then on always.
#[derive(Default)]
struct Signal {
    given: AtomicBool,
    waiting: Notify,
}

impl Signal {
    fn give(&self) {
        self.given.store(true, Ordering::SeqCst);
        self.waiting.notify_waiters();
    }

    async fn given(&self) {
        while !self.given.load(Ordering::SeqCst) {
            self.waiting.notified().await;
        }
    }
}

#[derive(Default)]
struct Inner {
    /// Until when each node is cut off from the database; the last is everybody.
    cut_off_until: Vec<Option<Instant>>,
    lives: Vec<Option<Arc<Life>>>,
    nudgers: Vec<Option<Arc<Notify>>>,
    drains: Vec<Arc<Notify>>,
}

/// How a run ended.
pub struct Verdict {
    pub seed: u64,
    pub hash: u64,
    pub wrong: Option<String>,
    pub tail: Vec<String>,
    pub struck: BTreeMap<Fault, u64>,
    pub cases: u64,
    /// Transitions, by what brought them about.
    pub inputs: BTreeMap<String, u64>,
    pub virtual_time: Duration,
}

impl Verdict {
    pub fn transitions(&self) -> u64 {
        self.inputs.values().sum()
    }
}

/// Runs the world of a seed.
pub fn run(seed: u64, plant: Option<Plant>, aloud: bool) -> Verdict {
    let runtime = runtime();
    let verdict = runtime.block_on(live(seed, plant, aloud));
    // What is left belongs to the dead.
    runtime.shutdown_background();
    verdict
}

async fn live(seed: u64, plant: Option<Plant>, aloud: bool) -> Verdict {
    let world = World::new(seed, plant, aloud);
    let outside = Outside::new(&world);
    let result = tokio::select! {
        biased;
        () = world.model.goes_wrong() => Err(world.model.wrong().unwrap_or_default()),
        result = from_chaos_to_rest(&world, &outside) => result,
    };
    let wrong = result.err().or_else(|| world.model.wrong());
    if let Some(wrong) = &wrong {
        note!(world, "wrong: {wrong}");
    }
    Verdict {
        seed,
        hash: world.trace.hash(),
        tail: if wrong.is_some() {
            world.trace.tail(120)
        } else {
            Vec::new()
        },
        wrong,
        struck: world.faults.struck(),
        cases: world.model.cases(BTreeMap::len) as u64,
        inputs: world.model.inputs(),
        virtual_time: world.time.elapsed(),
    }
}

async fn from_chaos_to_rest(world: &Arc<World>, outside: &Arc<Outside>) -> Result<(), String> {
    world
        .database()
        .migrate(MIGRATIONS, world.plan.shards)
        .await
        .map_err(|error| error.to_string())?;
    let ends = Arc::new(Signal::default());
    let nodes: Vec<_> = (0..world.plan.nodes)
        .map(|node| tokio::spawn(supervise(Arc::clone(world), node, Arc::clone(&ends))))
        .collect();
    let feed = tokio::spawn(Arc::clone(outside).feed());
    let people = tokio::spawn(Arc::clone(outside).people());
    let chaos = weather(world);
    let _ = tokio::time::timeout(Duration::from_millis(world.plan.chaos_ms), chaos).await;
    people.abort();
    world.calm_down();
    feed.await.map_err(|error| error.to_string())?;
    comes_to_rest(world, outside).await?;
    world.model.check_starts(&outside.good_starts())?;
    world
        .database()
        .look(|tables| world.model.check_rest(tables))?;
    world.check_truth()?;
    // Whoever is between two starts would end without shards to give back.
    rest_ms(SETTLE_MS).await;
    ends.give();
    for node in nodes {
        node.await.map_err(|error| error.to_string())??;
    }
    let owned = world.database().look(|tables| {
        let mut rows = tables.shards.values();
        rows.find_map(|row| row.owner.clone())
    });
    match owned {
        None => Ok(()),
        Some(owner) => Err(format!("`{owner}` drained and still owns a shard")),
    }
}

/// Waits, and lets people do what is theirs, until every case is closed.
async fn comes_to_rest(world: &Arc<World>, outside: &Arc<Outside>) -> Result<(), String> {
    let began = world.time.elapsed();
    let mut tried = BTreeSet::new();
    loop {
        rest_ms(TIDY_MS).await;
        let open = world.model.cases(|cases| {
            let mut open = cases.values().filter(|case| !case.state.is_closed());
            open.next().is_some()
        });
        let unread = world.database().look(|tables| !tables.inbox.is_empty());
        if !open && !unread {
            return Ok(());
        }
        if world.time.elapsed() - began > Duration::from_millis(REST_MS_MAX) {
            // The model says what it is that does not move.
            return Ok(());
        }
        outside.tidy_up(&mut tried).await;
    }
}

/// Starts a node, again and again, until the world ends.
async fn supervise(world: Arc<World>, node: usize, ends: Arc<Signal>) -> Result<(), String> {
    let clock = MachineClock::new(world.time);
    let chance = world.chance.fork(100 + node as u64);
    if world.faults.strikes(Fault::ClockOff) {
        clock.set_off_by_ms(i64::try_from(chance.below(120_000)).unwrap() - 60_000);
    }
    let visible = chance.percent(50);
    let drain = world.drain_of(node);
    let mut version = 0;
    for number in 1.. {
        let life = Life::new(&world, node, number, visible);
        world.inner().lives[node] = Some(Arc::clone(&life));
        if world.faults.strikes(Fault::ClockJumps) {
            clock.set_off_by_ms(i64::try_from(chance.below(240_000)).unwrap() - 120_000);
        }
        if world.faults.strikes(Fault::NewVersion) {
            version = 1;
        }
        let handle = tokio::select! {
            biased;
            () = life.died() => None,
            handle = start(&world, &life, &clock, version) => handle,
        };
        if let Some(handle) = handle {
            note!(world, "{life} is up");
            world.inner().nudgers[node] = Some(handle.nudger());
            let drains = tokio::select! {
                biased;
                () = life.died() => None,
                () = ends.given() => Some(true),
                () = drain.notified() => Some(false),
            };
            if let Some(for_good) = drains {
                note!(world, "{life} is told to drain");
                let drained = tokio::select! {
                    biased;
                    () = life.died() => Ok(()),
                    drained = handle.drain(DRAIN_LIMIT) => drained,
                };
                life.kill("by ending");
                match drained {
                    Err(error) if for_good => return Err(error.to_string()),
                    _ if for_good => return Ok(()),
                    _ => {}
                }
            }
        }
        life.kill("by not coming up");
        world.inner().nudgers[node] = None;
        let pause_ms = match chance.below(3) {
            0 => chance.below(50),
            1 => chance.below(2_000),
            _ => chance.below(12_000),
        };
        tokio::select! {
            biased;
            () = ends.given() => return Ok(()),
            () = world.calm.given() => rest_ms(10).await,
            () = rest_ms(pause_ms) => {}
        }
    }
    Ok(())
}

async fn start(
    world: &Arc<World>,
    life: &Arc<Life>,
    clock: &MachineClock,
    version: usize,
) -> Option<NodeHandle> {
    let definitions = Definitions::new();
    for definition in &world.plan.versions[version] {
        definitions.add(Definition::clone(definition));
    }
    let config = NodeConfig {
        name: String::new(),
        lease_ms: world.plan.lease_ms,
        host: Arc::new(Machine(Arc::clone(life))),
        address: None,
    };
    let started = Node::start(
        config,
        Arc::new(Line::of(world, life)),
        Arc::new(Worker::new(world, life, Arc::new(clock.clone()))),
        Arc::new(ToldEverything),
        Arc::new(definitions),
        Arc::new(clock.clone()),
    );
    match started.await {
        Ok(handle) => Some(handle),
        Err(error) => {
            note!(world, "{life} cannot start: {error}");
            None
        }
    }
}

/// What happens to nodes, lines and systems as time goes by.
async fn weather(world: &Arc<World>) {
    let chance = world.chance.fork(5);
    loop {
        rest_ms(chance.between(50, 3_000)).await;
        let faults = &world.faults;
        let node = usize::try_from(chance.below(world.plan.nodes as u64)).unwrap();
        let life = world.inner().lives[node].clone();
        if faults.strikes(Fault::CrashAtPoll)
            && let Some(life) = &life
        {
            life.dies_after(chance.below(60));
        }
        if faults.strikes(Fault::Stopped)
            && let Some(life) = &life
        {
            let lease = u64::from(world.plan.lease_ms);
            stop_for(life, chance.between(lease, 3 * lease));
        } else if faults.strikes(Fault::StoppedShortly)
            && let Some(life) = &life
        {
            stop_for(life, chance.between(1, u64::from(world.plan.lease_ms)));
        }
        if faults.strikes(Fault::LineCut) {
            world.cut_off(node, chance.between(200, 12_000));
        }
        if faults.strikes(Fault::StoreAway) {
            world.cut_off(world.plan.nodes, chance.between(200, 6_000));
        }
        if faults.strikes(Fault::Drained) {
            world.drain_of(node).notify_one();
        }
        if faults.strikes(Fault::SystemAway) {
            let name = chance.pick(&world.plan.systems);
            let for_ms = chance.between(100, 15_000);
            note!(world, "{name} is away for {for_ms} ms");
            if let Some(system) = world.system(name) {
                system.goes_away(for_ms);
            }
        }
    }
}

fn stop_for(life: &Arc<Life>, for_ms: u64) {
    life.stop();
    let life = Arc::clone(life);
    tokio::spawn(async move {
        rest_ms(for_ms).await;
        life.go_on();
    });
}

impl World {
    fn new(seed: u64, plant: Option<Plant>, aloud: bool) -> Arc<Self> {
        let time = TrueTime::begin();
        let chance = Chance::new(seed);
        let plan = Plan::draw(&chance.fork(1));
        let faults = Faults::draw(&chance.fork(2));
        let systems = plan
            .systems
            .iter()
            .map(|name| {
                let system = System::draw(name.clone(), &chance, time);
                (name.clone(), Arc::new(system))
            })
            .collect();
        let model = Arc::new(Model::new(plan.by_hash.clone()));
        let nodes = plan.nodes;
        let world = Arc::new(Self {
            time,
            chance,
            trace: Trace::new(time, aloud),
            faults,
            model: Arc::clone(&model),
            plan,
            plant,
            systems,
            database: OnceLock::new(),
            inner: Mutex::new(Inner {
                cut_off_until: vec![None; nodes + 1],
                lives: vec![None; nodes],
                nudgers: vec![None; nodes],
                drains: (0..nodes).map(|_| Arc::new(Notify::new())).collect(),
            }),
            calm: Signal::default(),
        });
        let database = Database::new(Arc::new(MachineClock::new(time)))
            .unchecked(Unchecked {
                epochs: plant == Some(Plant::NoEpochFence),
                versions: false,
            })
            .watched_by(model as Arc<dyn Watcher>);
        let _ = world.database.set(Arc::new(database));
        world
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn database(&self) -> &Arc<Database> {
        self.database.get().unwrap()
    }

    pub fn system(&self, name: &str) -> Option<Arc<System>> {
        self.systems.get(name).cloned()
    }

    fn drain_of(&self, node: usize) -> Arc<Notify> {
        Arc::clone(&self.inner().drains[node])
    }

    fn cut_off(&self, whom: usize, for_ms: u64) {
        note!(self, "no way to the database for {whom} during {for_ms} ms");
        self.inner().cut_off_until[whom] = Some(Instant::now() + Duration::from_millis(for_ms));
    }

    /// Whether calls of a life (or of somebody outside) do not reach the database now.
    pub fn is_cut_off(&self, life: Option<&Life>) -> bool {
        let inner = self.inner();
        let now = Instant::now();
        let cut = |whom: usize| {
            let until = inner.cut_off_until.get(whom).copied().flatten();
            until.is_some_and(|until| until > now)
        };
        self.faults.are_on() && (cut(self.plan.nodes) || life.is_some_and(|life| cut(life.node)))
    }

    pub fn nudge_one(&self) {
        let node = usize::try_from(self.chance.below(self.plan.nodes as u64)).unwrap();
        if let Some(nudger) = &self.inner().nudgers[node] {
            nudger.notify_one();
        }
    }

    /// From here on nothing goes wrong any more.
    fn calm_down(&self) {
        note!(self, "from here on nothing goes wrong any more");
        self.faults.end();
        for system in self.systems.values() {
            system.comes_back();
        }
        for life in self.inner().lives.iter().flatten() {
            life.lives_on();
        }
        self.calm.give();
    }

    /// What the cases say, and what is really there.
    fn check_truth(&self) -> Result<(), String> {
        for system in self.systems.values() {
            for (key, effect) in system.effects() {
                if effect.given > 1 || effect.taken > 1 {
                    return Err(format!(
                        "{} {key} was given {} times and taken back {} times",
                        system.name, effect.given, effect.taken
                    ));
                }
            }
        }
        self.model.cases(|cases| {
            for case in cases.values() {
                for (index, run) in (0..).map(engine::core::id::StepIndex).zip(&case.steps) {
                    let Some(Work::Action { uses, .. }) = case.step(index).map(|step| &step.work)
                    else {
                        continue;
                    };
                    for (number, instance) in (0..).zip(&run.instances) {
                        let place = Place::new(index, number);
                        let name = system_of(uses, &instance.item, &instance.with);
                        let Some(system) = name.and_then(|name| self.system(&name)) else {
                            continue;
                        };
                        let key = case.idempotency_key(place, false);
                        let effect = system.effect(&key);
                        let wrong = match (&instance.state, &instance.verification) {
                            (InstanceState::Done, Some(Verification::Verified)) => !effect.there,
                            (InstanceState::Undone, _) => effect.there && !effect.late,
                            (InstanceState::Cancelled | InstanceState::Failed, _) => {
                                effect.there && !effect.late
                            }
                            _ => false,
                        };
                        if wrong {
                            return Err(format!(
                                "{key} ({}) is {} in a case that is {}, but on {} it is {}",
                                case.definition.name,
                                instance.state.as_str(),
                                case.state.as_str(),
                                system.name,
                                if effect.there { "there" } else { "not there" }
                            ));
                        }
                    }
                }
            }
            Ok(())
        })
    }
}

/// The layer above: it wants to hear of everything, and the model reads in the batches what it was told.
struct ToldEverything;

#[async_trait::async_trait]
impl Projection for ToldEverything {
    async fn project(&self, _: &mut Transaction<'_>, _: &[Outcome]) -> Result<(), StoreError> {
        Ok(())
    }
}
