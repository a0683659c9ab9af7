//! Whoever sends: the feed that starts cases, and the people who answer, decide and repair.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::TimeDelta;
use engine::core::case::{Ask, Case, CaseState, InstanceState, StepState};
use engine::core::definition::Lane;
use engine::core::id::{Actor, CaseId, Place, ShardId, StepIndex};
use engine::core::migration::Mapping;
use engine::runner::{Command, Message, StartCase};
use engine::store::{InboxRow, Store};
use serde_json::json;
use uuid::Uuid;

use crate::chance::Chance;
use crate::definitions::Plan;
use crate::fault::Fault;
use crate::line::Line;
use crate::moment::rest_ms;
use crate::trace::note;
use crate::world::World;

/// Where messages of people begin to be numbered; those of cases are below.
const COMMANDS_FROM: u64 = 1_000_000;

pub struct Outside {
    world: Arc<World>,
    line: Line,
    commands: AtomicU64,
    /// The start messages that must be obeyed.
    good: Mutex<BTreeMap<CaseId, (ShardId, Uuid)>>,
}

impl Outside {
    pub fn new(world: &Arc<World>) -> Arc<Self> {
        Arc::new(Self {
            world: Arc::clone(world),
            line: Line::outside(world),
            commands: AtomicU64::new(COMMANDS_FROM),
            good: Mutex::default(),
        })
    }

    pub fn good_starts(&self) -> BTreeMap<CaseId, (ShardId, Uuid)> {
        self.good
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Sends until it is acknowledged; sometimes once more.
    async fn send(&self, rows: Vec<InboxRow>) {
        let (faults, chance) = (&self.world.faults, self.world.faults.chance());
        if faults.strikes(Fault::MessageLate) {
            rest_ms(chance.between(100, 6_000)).await;
        }
        loop {
            if faults.strikes(Fault::MessageLost) {
                rest_ms(chance.between(50, 2_000)).await;
                continue;
            }
            match self.line.put_inbox(&rows).await {
                Ok(()) => break,
                Err(_) => rest_ms(chance.between(50, 2_000)).await,
            }
        }
        for row in &rows {
            self.world.model.acknowledged(row.shard, row.id);
        }
        // The node that took the message in is often not the one that owns the shard.
        self.world.nudge_one();
        while faults.strikes(Fault::MessageTwice) {
            rest_ms(chance.below(8_000)).await;
            let _ = self.line.put_inbox(&rows).await;
            self.world.nudge_one();
        }
    }

    /// The feed: everything that is started in this world.
    pub async fn feed(self: Arc<Self>) {
        let (plan, chance) = (&self.world.plan, self.world.chance.fork(3));
        let mut generations: BTreeMap<usize, u32> = BTreeMap::new();
        let mut sending = Vec::new();
        for number in 0..plan.starts {
            let subject_number = usize::try_from(chance.below(plan.subjects.len() as u64)).unwrap();
            let generation = generations.entry(subject_number).or_insert(1);
            *generation += u32::from(chance.percent(20));
            let workflow = chance.pick(&plan.names).clone();
            let subject = plan.subjects[subject_number].clone();
            let case = CaseId(Uuid::from_u128(0xc000 + number as u128));
            let now = self.world.time.now();
            let effective =
                TimeDelta::milliseconds(i64::try_from(chance.below(20_000)).unwrap() - 12_000);
            let start = StartCase {
                case,
                workflow: workflow.clone(),
                subject: subject.clone(),
                // Not everybody who starts cases counts lives.
                generation: if chance.percent(10) { 0 } else { *generation },
                input: plan.starts_input(&chance),
                initiator: Actor("source:hr".to_owned()),
                effective_at: chance.percent(80).then(|| now + effective),
            };
            let shard = subject.shard(plan.shards);
            let lane = plan.versions[0]
                .iter()
                .find(|definition| definition.name == workflow)
                .map_or(Lane::Normal, |definition| definition.lane);
            self.world.model.sends(&start);
            note!(
                self.world,
                "feed: {workflow} for {subject} is case {:x}",
                0xc000 + number
            );
            let row = Message::Start(start)
                .into_row(shard, case.0, lane, now)
                .unwrap();
            self.good
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(case, (row.shard, row.id));
            let sender = Arc::clone(&self);
            sending.push(tokio::spawn(async move { sender.send(vec![row]).await }));
            if self.world.faults.strikes(Fault::BadMessage) {
                let nonsense = InboxRow {
                    shard,
                    id: Uuid::from_u128(0xbad_0000 + number as u128),
                    lane: Lane::Normal,
                    received_at: now,
                    body: "{\"kind\": \"dance\"}".to_owned(),
                };
                let sender = Arc::clone(&self);
                sending.push(tokio::spawn(
                    async move { sender.send(vec![nonsense]).await },
                ));
            }
            // Bursts and pauses.
            if chance.percent(70) {
                rest_ms(chance.below(2 * plan.chaos_ms / plan.starts as u64)).await;
            }
        }
        for task in sending {
            task.await.unwrap();
        }
    }

    /// People who do now this, now that, while things go wrong.
    pub async fn people(self: Arc<Self>) {
        let chance = self.world.chance.fork(4);
        loop {
            rest_ms(chance.between(100, 2_500)).await;
            let mut wishes = self.world.model.cases(|cases| {
                let open = cases.values().filter(|case| !case.state.is_closed());
                open.flat_map(|case| wishes(case, &self.world.plan, &chance))
                    .collect::<Vec<_>>()
            });
            if wishes.is_empty() {
                continue;
            }
            let number = usize::try_from(chance.below(wishes.len() as u64)).unwrap();
            let (shard, case, command) = wishes.swap_remove(number);
            let sender = Arc::clone(&self);
            tokio::spawn(async move { sender.command(shard, case, command).await });
        }
    }

    async fn command(&self, shard: ShardId, case: CaseId, command: Command) {
        let number = self.commands.fetch_add(1, Ordering::SeqCst);
        note!(self.world, "people: {:x} {command:?}", case.0.as_u128());
        let row = Message::Command {
            case,
            definition: None,
            command,
        }
        .into_row(
            shard,
            Uuid::from_u128(u128::from(number)),
            Lane::Normal,
            self.world.time.now(),
        )
        .unwrap();
        self.send(vec![row]).await;
    }

    /// Answers everything that waits for a person, once.
    pub async fn tidy_up(&self, tried: &mut BTreeSet<String>) {
        let wanted = self.world.model.cases(|cases| {
            let open = cases.values().filter(|case| !case.state.is_closed());
            open.flat_map(|case| duties(case, tried))
                .collect::<Vec<_>>()
        });
        for (shard, case, command) in wanted {
            self.command(shard, case, command).await;
        }
    }
}

type Wish = (ShardId, CaseId, Command);

fn somebody(number: u64) -> Actor {
    Actor(format!("user:u{number}"))
}

/// What people might want of a case.
fn wishes(case: &Case, plan: &Plan, chance: &Chance) -> Vec<Wish> {
    let by = somebody(chance.below(4));
    let mut wishes = Vec::new();
    let mut want = |command| wishes.push((case.shard, case.id, command));
    if chance.percent(4) {
        want(Command::Cancel {
            by: by.clone(),
            reason: "not wanted any more".to_owned(),
        });
    }
    let reason = || "somebody wants it so".to_owned();
    let paused = case.paused.is_some();
    // Held cases are let go more often than held.
    if chance.percent(if paused { 30 } else { 5 }) {
        let by = by.clone();
        want(if paused {
            Command::Resume {
                by,
                reason: reason(),
            }
        } else {
            Command::Pause {
                by,
                reason: reason(),
            }
        });
    }
    if chance.percent(4) {
        want(Command::Undo {
            by: by.clone(),
            reason: reason(),
        });
    }
    if chance.percent(2) {
        want(Command::Terminate {
            by: by.clone(),
            reason: reason(),
        });
    }
    if chance.percent(8) {
        let step = chance.below(case.steps.len() as u64);
        want(Command::Rerun {
            step: StepIndex(u16::try_from(step).unwrap()),
            by: by.clone(),
            reason: reason(),
        });
    }
    if chance.percent(10) {
        let versions = &plan.versions;
        let other = versions
            .iter()
            .flatten()
            .find(|other| other.name == case.definition.name && other.hash != case.definition.hash);
        if let Some(other) = other {
            want(Command::Migrate {
                from: case.definition.hash.clone(),
                to: other.hash.clone(),
                mapping: Mapping::default(),
                by: by.clone(),
                reason: "the workflow has changed".to_owned(),
            });
        }
    }
    for (step, run) in (0..).map(StepIndex).zip(&case.steps) {
        let skip = |place| Command::Skip {
            step,
            place,
            by: by.clone(),
            reason: "not needed".to_owned(),
        };
        match run.state {
            StepState::Stuck if chance.percent(50) => want(skip(None)),
            StepState::Stuck => want(Command::Retry {
                place: None,
                step: Some(step),
                by: by.clone(),
                reason: String::new(),
            }),
            StepState::Delayed { .. } if chance.percent(10) => want(skip(None)),
            _ => {}
        }
        for (number, instance) in (0..).zip(&run.instances) {
            let place = Place::new(step, number);
            match &instance.state {
                InstanceState::Asking { ask, .. } => {
                    want(answer(place, ask, &by, chance.percent(80)));
                }
                InstanceState::Parked { .. } if chance.percent(70) => want(Command::Retry {
                    place: chance.percent(70).then_some(place),
                    step: None,
                    by: by.clone(),
                    reason: String::new(),
                }),
                InstanceState::Parked { .. } => want(skip(Some(place))),
                InstanceState::Waiting { .. } if chance.percent(5) => want(skip(Some(place))),
                // What makes no sense must be refused, and change nothing.
                InstanceState::Running { .. } if chance.percent(3) => want(skip(Some(place))),
                _ => {}
            }
        }
    }
    wishes
}

fn answer(place: Place, ask: &Ask, by: &Actor, approve: bool) -> Command {
    let by = by.clone();
    match ask {
        Ask::Approval { .. } => Command::Answer {
            place,
            by,
            approve,
            note: String::new(),
        },
        Ask::Task { .. } => Command::TaskDone {
            place,
            by,
            proof: if approve { "seen" } else { "" }.to_owned(),
            output: json!({}),
        },
        Ask::Signal { name } => Command::Signal {
            name: if approve { name.as_str() } else { "stop" }.to_owned(),
            by,
            payload: json!({"n": 1}),
        },
    }
}

/// What people must do so that a case can end: everything is tried again first, then given up.
fn duties(case: &Case, tried: &mut BTreeSet<String>) -> Vec<Wish> {
    let by = somebody(9);
    let mut duties = Vec::new();
    let mut must = |command| duties.push((case.shard, case.id, command));
    if case.paused.is_some() {
        must(Command::Resume {
            by,
            reason: "it has been held for long enough".to_owned(),
        });
        return duties;
    }
    if case.state == CaseState::Queued {
        return duties;
    }
    for (step, run) in (0..).map(StepIndex).zip(&case.steps) {
        if run.state == StepState::Stuck {
            let again = tried.insert(format!("{} {step:?}", case.id));
            must(if again {
                Command::Retry {
                    place: None,
                    step: Some(step),
                    by: by.clone(),
                    reason: String::new(),
                }
            } else {
                Command::Skip {
                    step,
                    place: None,
                    by: by.clone(),
                    reason: "it cannot be planned".to_owned(),
                }
            });
        }
        for (number, instance) in (0..).zip(&run.instances) {
            let place = Place::new(step, number);
            match &instance.state {
                InstanceState::Asking { ask, approvals, .. } => {
                    let other = somebody(10 + approvals.len() as u64);
                    must(answer(place, ask, &other, true));
                }
                InstanceState::Parked { .. } => {
                    let again = tried.insert(format!("{} {place:?}", case.id));
                    must(if again {
                        Command::Retry {
                            place: Some(place),
                            step: None,
                            by: by.clone(),
                            reason: String::new(),
                        }
                    } else {
                        Command::Skip {
                            step,
                            place: Some(place),
                            by: by.clone(),
                            reason: "it fails for good".to_owned(),
                        }
                    });
                }
                _ => {}
            }
        }
    }
    duties
}
