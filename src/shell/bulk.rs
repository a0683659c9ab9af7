//! The same operation on many cases: chosen by a filter, previewed, and done to exactly what was previewed.
//!
//! # Theory of operation
//!
//! A preview reads every chosen case and lets the core decide over a copy of it, so it knows which cases would
//! refuse and why. The cases that would not make the *set*; its name is a digest over the operation and the
//! identifiers. Whoever acts later names the set: if the filter gives another one by then, nothing is done.
//! Each case gets a command of its own in the inbox, behind what single people ask for, and a verdict of its own.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use chrono::{DateTime, Utc};
use engine::core::case::{Case, CaseState};
use engine::core::decide::decide;
use engine::core::definition::Lane;
use engine::core::id::{Actor, CaseId, ShardId, Subject};
use engine::core::input::Input;
use engine::evidence::salted_digest;
use engine::runner::{Command, Message};
use engine::store::{CaseCursor, CaseFilter, CaseSummary, InboxRow, PAGE_ROWS_MAX, WorkFilter};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::ToSchema;
use uuid::Uuid;

use super::reading::CaseReader;
use super::{Database, now};

/// The most cases one operation is done to.
pub const CASES_MAX: usize = 10_000;
/// The most cases that are looked at for one preview.
const LOOKED_AT_MAX: usize = 100_000;
/// How many commands are put into the inbox at once.
const COMMANDS_PUT: usize = 500;
/// How often answers are looked for.
const LOOK: Duration = Duration::from_millis(100);
/// How many characters of a digest name a set.
const SET_CHARS: usize = 16;
/// Makes the commands' identifiers.
const NAMESPACE: Uuid = Uuid::from_u128(0x1f0e_77b2_6c1d_4c53_a2c4_5d3b_90a8_e611);

/// What can be done to many cases at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Try parked work again
    Retry,
    /// Give a step up
    Skip,
    /// Start nothing more, wait for what is in flight, close
    Cancel,
    /// Close at once; what is in flight is left unknown
    ForceCancel,
    /// Hold
    Pause,
    /// Let go on
    Resume,
    /// Plan a step and everything behind it anew
    Rerun,
    /// Take back what was done
    Undo,
}

impl Operation {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Skip => "skip",
            Self::Cancel => "cancel",
            Self::ForceCancel => "force_cancel",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Rerun => "rerun",
            Self::Undo => "undo",
        }
    }

    /// Whether it is about one step, which has to be named.
    #[must_use]
    pub fn needs_step(self) -> bool {
        matches!(self, Self::Skip | Self::Rerun)
    }
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Wish {
    pub operation: Operation,
    pub step: Option<String>,
    pub by: Actor,
    pub reason: String,
}

/// Which cases; only open ones, and all that is given must fit.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    pub workflow: Option<String>,
    pub subject: Option<String>,
    pub states: Vec<CaseState>,
    /// Something of the case that is not finished is about this system.
    pub system: Option<String>,
    /// Made before this time.
    pub before: Option<DateTime<Utc>>,
    pub parked: bool,
    pub paused: bool,
}

/// A case in a preview.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Candidate {
    pub case: Uuid,
    pub workflow: String,
    pub subject: String,
    pub state: &'static str,
    pub created_at: DateTime<Utc>,
    /// Why it would be refused; null when it would not.
    pub refused: Option<String>,
    #[serde(skip)]
    pub shard: i32,
}

/// What would be done.
#[derive(Debug, Clone)]
pub struct Preview {
    /// Names the cases that would be changed.
    pub set: String,
    pub accepted: Vec<Candidate>,
    pub refused: Vec<Candidate>,
    /// More cases fit than are taken at once.
    pub more: bool,
}

impl Preview {
    /// Why cases would be refused, and how many for that reason, the most frequent first.
    #[must_use]
    pub fn reasons(&self) -> Vec<(String, usize)> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for candidate in &self.refused {
            *counts
                .entry(candidate.refused.as_deref().unwrap_or_default())
                .or_default() += 1;
        }
        let mut reasons: Vec<_> = counts
            .into_iter()
            .map(|(reason, count)| (reason.to_owned(), count))
            .collect();
        reasons.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        reasons
    }
}

/// What became of one case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Verdict {
    pub case: Uuid,
    /// Where to ask when it is `pending`.
    pub command: Uuid,
    /// `accepted`, `refused` or `pending`.
    pub state: &'static str,
    /// Why it was refused.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// Looks what `wish` would do to the cases of `choice`, at most `cases_max` of them, oldest last.
///
/// # Errors
/// When the database does not answer.
pub async fn preview(
    database: &Database,
    wish: &Wish,
    choice: &Choice,
    cases_max: usize,
) -> anyhow::Result<Preview> {
    let filter = CaseFilter {
        states: choice.states.clone(),
        workflow: choice.workflow.clone(),
        subject: choice.subject.clone().map(Subject),
        open_only: true,
        parked_only: choice.parked,
        created_before: choice.before,
        work: WorkFilter {
            system: choice.system.clone(),
            ..WorkFilter::default()
        },
        ..CaseFilter::default()
    };
    let mut reader = CaseReader::new(database);
    let (mut accepted, mut refused) = (Vec::new(), Vec::new());
    let (mut after, mut looked_at, mut more) = (None, 0, false);
    'pages: loop {
        let page = database.store.list(&filter, after, PAGE_ROWS_MAX).await?;
        let Some(last) = page.last() else { break };
        after = Some(CaseCursor {
            created_at: last.head.created_at,
            case: last.head.case,
        });
        for summary in page {
            looked_at += 1;
            if accepted.len() + refused.len() >= cases_max || looked_at > LOOKED_AT_MAX {
                more = true;
                break 'pages;
            }
            if choice.paused && summary.state.paused.is_none() {
                continue;
            }
            let (shard, id) = (summary.head.shard, summary.head.case);
            let read = reader.read(shard, id).await;
            let refusal = match &read {
                Ok(Some(case)) => refusal(case, wish),
                Ok(None) => continue,
                Err(_) if wish.operation == Operation::ForceCancel => None,
                Err(error) => Some(format!("the case cannot be read: {error:#}")),
            };
            let candidate = candidate(summary, refusal);
            match candidate.refused {
                None => accepted.push(candidate),
                Some(_) => refused.push(candidate),
            }
        }
    }
    Ok(Preview {
        set: name(wish, &accepted),
        accepted,
        refused,
        more,
    })
}

fn candidate(summary: CaseSummary, refused: Option<String>) -> Candidate {
    Candidate {
        case: summary.head.case.0,
        workflow: summary.head.workflow,
        subject: summary.head.subject.0,
        state: summary.state.state.as_str(),
        created_at: summary.head.created_at,
        refused,
        shard: summary.head.shard.0,
    }
}

/// Why the case would refuse, as its owner would say it now.
fn refusal(case: &Case, wish: &Wish) -> Option<String> {
    let command = match command(case, wish) {
        Ok(command) => command,
        Err(why) => return Some(why),
    };
    match Input::try_from(command) {
        Ok(input) => decide(&mut case.clone(), input, now())
            .err()
            .map(|illegal| illegal.to_string()),
        Err(_) => Some("it cannot be done to many cases at once".to_owned()),
    }
}

fn command(case: &Case, wish: &Wish) -> Result<Command, String> {
    let step = match &wish.step {
        None => None,
        Some(name) => match case.definition.find(name) {
            Some(step) => Some(step),
            None => {
                return Err(format!(
                    "workflow `{}` has no step `{name}`",
                    case.definition.name
                ));
            }
        },
    };
    let (by, reason) = (wish.by.clone(), wish.reason.clone());
    let missing = || "a step is needed".to_owned();
    Ok(match wish.operation {
        Operation::Retry => Command::Retry {
            place: None,
            step,
            by,
            reason,
        },
        Operation::Skip => Command::Skip {
            step: step.ok_or_else(missing)?,
            place: None,
            by,
            reason,
        },
        Operation::Cancel => Command::Cancel { by, reason },
        Operation::ForceCancel => Command::Terminate { by, reason },
        Operation::Pause => Command::Pause { by, reason },
        Operation::Resume => Command::Resume { by, reason },
        Operation::Rerun => Command::Rerun {
            step: step.ok_or_else(missing)?,
            by,
            reason,
        },
        Operation::Undo => Command::Undo { by, reason },
    })
}

/// Names a set of cases and what is to be done to them.
fn name(wish: &Wish, accepted: &[Candidate]) -> String {
    let mut cases: Vec<String> = accepted.iter().map(|it| it.case.to_string()).collect();
    cases.sort_unstable();
    let step = wish.step.as_deref().unwrap_or_default();
    let text = format!("{}\n{step}\n{}", wish.operation.as_str(), cases.join("\n"));
    let mut digest = salted_digest(&[], text.as_bytes());
    digest.truncate(SET_CHARS);
    digest
}

/// Does what was previewed, and waits up to `wait` for what becomes of each case. `run` names this doing: the same
/// again is the same commands. `nudge` is called when commands are in the inbox, `told` with how many are answered.
///
/// # Errors
/// When the database does not answer; what is in the inbox by then is carried out.
pub async fn act(
    database: &Database,
    preview: &Preview,
    wish: &Wish,
    run: Uuid,
    wait: Duration,
    nudge: impl Fn(),
    told: impl Fn(usize),
) -> anyhow::Result<Vec<Verdict>> {
    let mut reader = CaseReader::new(database);
    let mut verdicts: Vec<Verdict> = Vec::with_capacity(preview.accepted.len());
    let mut open: HashMap<usize, ShardId> = HashMap::new();
    let mut rows: Vec<InboxRow> = Vec::new();
    for candidate in &preview.accepted {
        let (shard, id) = (ShardId(candidate.shard), CaseId(candidate.case));
        let mut definition = None;
        let command = match (wish.operation, reader.read(shard, id).await) {
            (Operation::ForceCancel, _) => Ok(Command::Terminate {
                by: wish.by.clone(),
                reason: wish.reason.clone(),
            }),
            (_, Ok(Some(case))) => {
                definition = Some(case.definition.hash.clone());
                command(&case, wish)
            }
            (_, Ok(None)) => Err("the case is gone".to_owned()),
            (_, Err(error)) => Err(format!("the case cannot be read: {error:#}")),
        };
        let key = Uuid::new_v5(&NAMESPACE, format!("{run}\n{}", candidate.case).as_bytes());
        let (state, message) = match command {
            Ok(command) => {
                let message = Message::Command {
                    case: id,
                    definition,
                    command,
                };
                rows.push(message.into_row(shard, key, Lane::Normal, now())?);
                open.insert(verdicts.len(), shard);
                ("pending", String::new())
            }
            Err(message) => ("refused", message),
        };
        verdicts.push(Verdict {
            case: candidate.case,
            command: key,
            state,
            message,
        });
    }
    for chunk in rows.chunks(COMMANDS_PUT) {
        database.store.put_inbox(chunk).await?;
        nudge();
    }
    let until = Instant::now() + wait;
    while !open.is_empty() && Instant::now() < until {
        let mut answered = Vec::new();
        for (position, shard) in &open {
            let Some(verdict) = verdicts.get_mut(*position) else {
                continue;
            };
            if let Some(reply) = database.store.reply(*shard, verdict.command).await? {
                verdict.state = if reply.accepted {
                    "accepted"
                } else {
                    "refused"
                };
                verdict.message = reply.message;
                answered.push(*position);
            }
        }
        for position in answered {
            open.remove(&position);
        }
        told(verdicts.len() - open.len());
        if !open.is_empty() {
            tokio::time::sleep(LOOK).await;
        }
    }
    Ok(verdicts)
}
