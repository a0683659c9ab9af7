//! Commands to a case: each is a message in the inbox, carried out by whichever node owns the case.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use engine::core::case::{Ask, Case, Instance, InstanceState};
use engine::core::definition::Lane;
use engine::core::id::{CaseId, DefinitionHash, Place, ShardId, StepIndex};
use engine::runner::{Command, Message};
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use crate::cli::format::{Tone, paint};
use crate::cli::{Context, Exit, actor};
use crate::shell::case_view::{label, short};
use crate::shell::{Database, now};

/// How long a command waits for its answer when a node is running.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(50);
/// How many choices a message names.
const CHOICES_SHOWN: usize = 10;

/// Which case, and which part of it
#[derive(Debug, clap::Args)]
pub(super) struct Target {
    /// Identifier, its beginning, or a person's key
    #[arg(value_name = "CASE")]
    pub(super) case: String,
    /// The step, by its id
    #[arg(long, value_name = "STEP")]
    pub(super) step: Option<String>,
    /// The instance of a step with `for_each`, by its number
    #[arg(long, value_name = "N", requires = "step")]
    instance: Option<u32>,
}

/// Try parked work again, with a fresh budget of attempts
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tenure case retry 6f2c1a9e                              everything that is parked in the case
  tenure case retry 6f2c1a9e --step disable
  tenure case retry 6f2c1a9e --step disable --instance 2 --reason 'rights are given now'

For many cases at once: tenure case bulk retry")]
pub struct Retry {
    #[command(flatten)]
    target: Target,
    /// Why; it stands in the evidence
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
}

/// Give work up, with a reason that stays in the evidence
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
The case can then finish, as `incomplete`: what was given up stays visible.

Examples:
  tenure case skip 6f2c1a9e --step remove --reason 'system was switched off in March'")]
pub struct Skip {
    #[command(flatten)]
    target: Target,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// End a case: start nothing more, let what is in flight come back
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
What was done already stays done; `tenure case undo` takes it back.

With --force the case ends at once, whatever it waits for: an attempt that never comes back, a step that is
broken, a workflow version that cannot be read any more. What was in flight is recorded as unknown: look at it
on the system, because nobody else will.

Examples:
  tenure case cancel 6f2c1a9e --reason 'hired by mistake'
  tenure case cancel 6f2c1a9e --force --reason 'the system was switched off with the attempt in flight'")]
pub struct Cancel {
    /// Identifier, its beginning, or a person's key
    #[arg(value_name = "CASE")]
    case: String,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Do not wait for what is in flight
    #[arg(long)]
    force: bool,
}

/// Answer an approval with yes
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tenure case approve 6f2c1a9e
  tenure case approve 6f2c1a9e --step hold --note 'spoke to the owner'")]
pub struct Approve {
    #[command(flatten)]
    target: Target,
    /// A remark that is kept
    #[arg(long, value_name = "TEXT", default_value = "")]
    note: String,
}

/// Answer an approval with no
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tenure case reject 6f2c1a9e --note 'not before the audit is over'")]
pub struct Reject {
    #[command(flatten)]
    target: Target,
    /// A remark that is kept
    #[arg(long, value_name = "TEXT", default_value = "")]
    note: String,
}

/// Say that a task done by hand is finished
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tenure case complete-task 6f2c1a9e --proof 'badge list of 10:40, line 12'
  tenure case complete-task 6f2c1a9e --step create --instance 2 --proof FAC-1182 --output '{\"account\": \"B-204\"}'")]
pub struct CompleteTask {
    #[command(flatten)]
    target: Target,
    /// What was seen that shows it is done; some tasks are not finished without
    #[arg(long, value_name = "TEXT", default_value = "")]
    proof: String,
    /// What the work gave, as JSON, for the steps after it
    #[arg(long, value_name = "JSON")]
    output: Option<String>,
}

/// Send a signal to a case that waits for one
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tenure case signal 6f2c1a9e laptop_returned
  tenure case signal 6f2c1a9e laptop_returned --payload '{\"serial\": \"X1\"}'")]
pub struct Signal {
    /// Identifier, its beginning, or a person's key
    #[arg(value_name = "CASE")]
    case: String,
    /// The signal's name
    name: String,
    /// What comes with it, as JSON
    #[arg(long, value_name = "JSON")]
    payload: Option<String>,
}

pub(super) async fn retry(context: &Context, retry: Retry) -> anyhow::Result<Exit> {
    let (database, case) = open(context, &retry.target.case).await?;
    let (step, place) = part(&case, &retry.target)?;
    let command = Command::Retry {
        place,
        step: if place.is_none() { step } else { None },
        by: actor(),
        reason: retry.reason,
    };
    told(context, &database, &case, command, "will be tried again").await
}

pub(super) async fn skip(context: &Context, skip: Skip) -> anyhow::Result<Exit> {
    let (database, case) = open(context, &skip.target.case).await?;
    let (step, place) = part(&case, &skip.target)?;
    let step = step.context("say which step with `--step`")?;
    let command = Command::Skip {
        step,
        place,
        by: actor(),
        reason: skip.reason,
    };
    told(context, &database, &case, command, "is given up").await
}

pub(super) async fn cancel(context: &Context, cancel: Cancel) -> anyhow::Result<Exit> {
    let database = context.database().await?;
    let aim = Aim::find(&database, &cancel.case).await?;
    let (by, reason) = (actor(), cancel.reason);
    let (command, what) = if cancel.force {
        (Command::Terminate { by, reason }, "is ended")
    } else {
        (Command::Cancel { by, reason }, "ends")
    };
    told(context, &database, aim, command, what).await
}

pub(super) async fn approve(context: &Context, approve: Approve) -> anyhow::Result<Exit> {
    answer(context, approve.target, approve.note, true).await
}

pub(super) async fn reject(context: &Context, reject: Reject) -> anyhow::Result<Exit> {
    answer(context, reject.target, reject.note, false).await
}

async fn answer(
    context: &Context,
    target: Target,
    note: String,
    approve: bool,
) -> anyhow::Result<Exit> {
    let (database, case) = open(context, &target.case).await?;
    let place = only(&case, &target, "approval", |instance| {
        matches!(
            &instance.state,
            InstanceState::Asking {
                ask: Ask::Approval { .. },
                ..
            }
        )
    })?;
    let command = Command::Answer {
        place,
        by: actor(),
        approve,
        note,
    };
    told(
        context,
        &database,
        &case,
        command,
        if approve {
            "is approved"
        } else {
            "is rejected"
        },
    )
    .await
}

pub(super) async fn complete_task(context: &Context, done: CompleteTask) -> anyhow::Result<Exit> {
    let (database, case) = open(context, &done.target.case).await?;
    let place = only(&case, &done.target, "task", |instance| {
        matches!(
            &instance.state,
            InstanceState::Asking {
                ask: Ask::Task { .. },
                ..
            }
        )
    })?;
    let asks_proof = case.instance(place).is_some_and(|instance| {
        matches!(
            &instance.state,
            InstanceState::Asking {
                ask: Ask::Task {
                    proof_required: true,
                    ..
                },
                ..
            }
        )
    });
    ensure!(
        !asks_proof || !done.proof.trim().is_empty(),
        "this task is finished only with a proof: give `--proof` what you saw that shows it, or where it is recorded"
    );
    let output = json_of("--output", done.output.as_deref())?;
    let command = Command::TaskDone {
        place,
        by: actor(),
        proof: done.proof,
        output,
    };
    told(
        context,
        &database,
        &case,
        command,
        "goes on: the task is finished",
    )
    .await
}

pub(super) async fn signal(context: &Context, signal: Signal) -> anyhow::Result<Exit> {
    let (database, case) = open(context, &signal.case).await?;
    let payload = json_of("--payload", signal.payload.as_deref())?;
    let command = Command::Signal {
        name: signal.name,
        by: actor(),
        payload,
    };
    told(context, &database, &case, command, "has the signal").await
}

fn json_of(option: &str, text: Option<&str>) -> anyhow::Result<Value> {
    match text {
        None => Ok(Value::Null),
        Some(text) => serde_json::from_str(text).with_context(|| format!("`{option}` is not JSON")),
    }
}

pub(super) async fn open(context: &Context, meant: &str) -> anyhow::Result<(Database, Case)> {
    let database = context.database().await?;
    let id = database.find_case(meant).await?;
    let case = database.case(id).await?;
    ensure!(
        !case.state.is_closed(),
        "case `{id}` is closed ({}); nothing can be done to it any more",
        case.state.as_str()
    );
    Ok((database, case))
}

/// Where a command goes. A case need not be read for that.
#[derive(Debug, Clone)]
pub struct Aim {
    pub case: CaseId,
    pub shard: ShardId,
    /// The version of the workflow that the command speaks of, where it names a step.
    pub definition: Option<DefinitionHash>,
}

impl Aim {
    /// # Errors
    /// When there is no such case.
    pub(super) async fn find(database: &Database, meant: &str) -> anyhow::Result<Self> {
        let case = database.find_case(meant).await?;
        let shard = database.store.locate(case).await?;
        let shard = shard.with_context(|| format!("there is no case `{case}`"))?;
        Ok(Self {
            case,
            shard,
            definition: None,
        })
    }
}

impl From<&Case> for Aim {
    fn from(case: &Case) -> Self {
        Self {
            case: case.id,
            shard: case.shard,
            definition: Some(case.definition.hash.clone()),
        }
    }
}

/// The step of that name.
pub(super) fn step(case: &Case, name: &str) -> anyhow::Result<StepIndex> {
    let Some(step) = case.definition.find(name) else {
        let known: Vec<&str> = case
            .definition
            .steps
            .iter()
            .map(|step| step.id.as_str())
            .collect();
        bail!(
            "workflow `{}` has no step `{name}`; its steps are {}",
            case.definition.name,
            known.join(", ")
        );
    };
    Ok(step)
}

/// The step and the instance that the options name.
pub(super) fn part(
    case: &Case,
    target: &Target,
) -> anyhow::Result<(Option<StepIndex>, Option<Place>)> {
    let Some(name) = &target.step else {
        return Ok((None, None));
    };
    let step = step(case, name)?;
    let place = target.instance.map(|instance| Place::new(step, instance));
    if let Some(place) = place
        && case.instance(place).is_none()
    {
        let count = case.step_run(step).map_or(0, |run| run.instances.len());
        bail!(
            "step `{name}` has {count} instances, numbered from 0; there is no number {}",
            place.instance.0
        );
    }
    Ok((Some(step), place))
}

/// The one instance that is meant: the only one that fits what the options name.
pub(super) fn only(
    case: &Case,
    target: &Target,
    what: &str,
    fits: impl Fn(&Instance) -> bool,
) -> anyhow::Result<Place> {
    let (step, place) = part(case, target)?;
    let places: Vec<Place> = (0..u16::try_from(case.steps.len()).unwrap_or(u16::MAX))
        .map(StepIndex)
        .filter(|index| step.is_none_or(|step| step == *index))
        .flat_map(|index| case.places(index))
        .filter(|candidate| place.is_none_or(|place| place == *candidate))
        .filter(|candidate| case.instance(*candidate).is_some_and(&fits))
        .collect();
    match places.as_slice() {
        [only] => Ok(*only),
        [] => bail!(
            "nothing there waits for {what} now; `tenure case show {}` says what it waits for",
            short(&case.id.to_string())
        ),
        many => {
            let mut message = format!("{} places wait for {what}; say which:", many.len());
            for place in many.iter().take(CHOICES_SHOWN) {
                let step = case.step(place.step).map_or("", |step| step.id.as_str());
                let about = case
                    .instance(*place)
                    .map(|it| label(&it.item, &it.with))
                    .unwrap_or_default();
                let _ = write!(
                    message,
                    "\n  --step {step} --instance {}    {about}",
                    place.instance.0
                );
            }
            if many.len() > CHOICES_SHOWN {
                let _ = write!(message, "\n  and {} more", many.len() - CHOICES_SHOWN);
            }
            bail!("{message}")
        }
    }
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answered {
    Accepted,
    Refused {
        message: String,
    },
    /// Kept; it is carried out when a node gets to it.
    Stored,
}

/// Puts a command into the inbox and waits for its answer as long as `wait` allows.
///
/// # Errors
/// When the database does not answer.
pub async fn send(
    database: &Database,
    aim: Aim,
    command: Command,
    wait: Duration,
) -> anyhow::Result<Answered> {
    let id = Uuid::new_v4();
    // A person waits for the answer: it goes before whatever is done in bulk.
    let row = Message::Command {
        case: aim.case,
        definition: aim.definition,
        command,
    }
    .into_row(aim.shard, id, Lane::Revocation, now())?;
    database.store.put_inbox(&[row]).await?;
    let until = Instant::now() + wait;
    loop {
        if let Some(reply) = database.store.reply(aim.shard, id).await? {
            return Ok(if reply.accepted {
                Answered::Accepted
            } else {
                Answered::Refused {
                    message: reply.message,
                }
            });
        }
        if Instant::now() >= until {
            return Ok(Answered::Stored);
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[derive(Serialize)]
struct Told {
    case: CaseId,
    #[serde(flatten)]
    answered: Answered,
}

pub(crate) async fn told(
    context: &Context,
    database: &Database,
    aim: impl Into<Aim>,
    command: Command,
    what: &str,
) -> anyhow::Result<Exit> {
    let aim = aim.into();
    let case = aim.case;
    let alive = database.node_alive().await?;
    let answered = send(
        database,
        aim,
        command,
        if alive { ANSWER_WAIT } else { Duration::ZERO },
    )
    .await?;
    let exit = if matches!(answered, Answered::Refused { .. }) {
        Exit::Bad
    } else {
        Exit::Good
    };
    let told = Told { case, answered };
    let id = case.to_string();
    context.output.result(&told, |told| match &told.answered {
        Answered::Accepted => format!("{} case {} {what}", paint(Tone::Good.sign(), Tone::Good), short(&id)),
        Answered::Refused { message } => format!("{} case {} refuses: {message}", paint(Tone::Bad.sign(), Tone::Bad), short(&id)),
        Answered::Stored if alive => format!("stored; no answer yet. See `tenure case show {}`", short(&id)),
        Answered::Stored => {
            "stored; no node is running on this database. It is carried out as soon as `tenure serve` runs".to_owned()
        }
    })?;
    Ok(exit)
}
