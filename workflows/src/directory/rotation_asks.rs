//! Asking for the replacement of a credential: because somebody wishes it, or because strangers know it.
//!
//! What strangers know is kept in the row from when it is said until a case that is closed has put something into use that was made
//! after that. So it has to be said once: while another rotation is under way, while one is under way that ends the old one at once
//! and puts something into use that is known too, and when that is ended by somebody. What follows is in [`crate::rotation::exposed`].

use std::sync::{Mutex, PoisonError};

use engine::core::Timestamp;
use engine::core::id::{Actor, CaseId};
use engine::store::{InboxRow, StoreError, Transaction, Work};
use serde::Serialize;
use uuid::Uuid;

use super::Directory;
use super::database::{execute_all, rows_of, stored_time};
use super::rotation_statements::{BEGIN, EXPOSE, NAMED_FOR_UPDATE};
use super::rotations::{RotationRow, Start, subject};
use crate::rotation::{self, Because, Exposed};

/// What became of a rotation that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted {
    /// The case that replaces the credential.
    pub case: CaseId,
    /// Whether it begins now. Else it is under way already, and what was said is kept with it.
    pub begins: bool,
}

/// Why a rotation that was asked for does not begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotBegun {
    #[error("`{0}` is not declared with a `rotation`; see docs/rotation.md")]
    NotDeclared(String),
    #[error(
        "`{name}` is being replaced by case {case}, which is {phase}; wait for it, roll it back, or say that it is compromised"
    )]
    UnderWay {
        name: String,
        case: String,
        phase: &'static str,
    },
    #[error("nothing carries out the mode of `{0}` yet")]
    NoWorkflow(String),
}

/// That strangers know a credential.
pub(super) struct Report {
    pub which: Exposed,
    pub at: Timestamp,
    pub by: Actor,
    pub reason: String,
}

impl Report {
    /// What was said of a credential before, and is not settled. Which of two was meant then does not matter any more.
    pub(super) fn kept(row: &RotationRow, now: Timestamp) -> Self {
        Self {
            which: Exposed::Both,
            at: row.exposed_at.unwrap_or(now),
            by: row.exposed_by.clone().map_or_else(Actor::engine, Actor),
            reason: row.exposed_reason.clone().unwrap_or_default(),
        }
    }
}

/// What is said while one is under way that ends the old one at once.
#[derive(Serialize)]
struct ExposeRow<'a> {
    shard_id: i32,
    name: &'a str,
    open_case: &'a str,
    #[serde(with = "stored_time")]
    exposed_at: Timestamp,
    exposed_by: &'a Actor,
    exposed_reason: &'a str,
}

struct Asking<'a> {
    directory: &'a Directory,
    name: &'a str,
    exposed: Option<Exposed>,
    by: &'a Actor,
    reason: &'a str,
    now: Timestamp,
    answer: Mutex<Option<Result<Granted, NotBegun>>>,
}

/// What is done about a rotation that was asked for.
enum Answer<'a> {
    Begins(Start<'a>),
    /// One like it is under way; `again`: what it puts into use is known as well.
    UnderWay {
        row: &'a RotationRow,
        case: &'a str,
        again: bool,
    },
}

#[async_trait::async_trait]
impl Work for Asking<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let key = (
            self.directory.shard(&subject(self.name).0),
            self.name.to_owned(),
        );
        let rows: Vec<RotationRow> = rows_of(transaction, &NAMED_FOR_UPDATE, &[key]).await?;
        let mut messages = Vec::new();
        let answer = match self.judge(rows.first()) {
            Err(why) => Err(why),
            Ok(Answer::Begins(start)) => {
                let case = start.case();
                messages.push(start.message(case)?);
                execute_all(transaction, &BEGIN, &[start.begin(case)]).await?;
                Ok(Granted { case, begins: true })
            }
            Ok(Answer::UnderWay { row, case, again }) => {
                if again {
                    let said = self.said(row, case);
                    execute_all(transaction, &EXPOSE, &[said]).await?;
                }
                Ok(Granted {
                    case: parsed(row, case)?,
                    begins: false,
                })
            }
        };
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        Ok(messages)
    }
}

fn parsed(row: &RotationRow, case: &str) -> Result<CaseId, StoreError> {
    let case = case.parse::<Uuid>().map_err(|error| StoreError::Corrupt {
        table: "rotation",
        column: "open_case",
        key: row.name.clone(),
        source: error.into(),
    })?;
    Ok(CaseId(case))
}

impl Asking<'_> {
    fn judge<'a>(&'a self, row: Option<&'a RotationRow>) -> Result<Answer<'a>, NotBegun> {
        let name = || self.name.to_owned();
        let row = row
            .filter(|row| row.wanted)
            .ok_or_else(|| NotBegun::NotDeclared(name()))?;
        let workflows = rotation::mode(row.mode)
            .workflows
            .ok_or_else(|| NotBegun::NoWorkflow(name()))?;
        match (&row.open_case, self.exposed) {
            (Some(case), None) => {
                return Err(NotBegun::UnderWay {
                    name: name(),
                    case: case.clone(),
                    phase: row.phase.as_str(),
                });
            }
            // One because of a compromise takes the place of any other, and of none like itself.
            (Some(case), Some(which)) if row.compromised => {
                let again = which.asks_for_another();
                return Ok(Answer::UnderWay { row, case, again });
            }
            (Some(_) | None, _) => {}
        }
        let exposed = match self.exposed {
            Some(which) => Some(Report {
                // With nothing under way there is one, whatever it is called.
                which: row.open_case.as_ref().map_or(Exposed::Both, |_| which),
                at: self.now,
                by: self.by.clone(),
                reason: self.reason.to_owned(),
            }),
            // What was said before is not settled.
            None => row.exposed_at.map(|_| Report::kept(row, self.now)),
        };
        let because = if exposed.is_some() {
            Because::Compromised
        } else {
            Because::Asked
        };
        Ok(Answer::Begins(Start {
            row,
            workflow: workflows.for_because(because),
            because,
            by: self.by.clone(),
            reason: Some(self.reason),
            exposed,
            at: self.now,
            now: self.now,
        }))
    }

    fn said<'a>(&'a self, row: &'a RotationRow, open_case: &'a str) -> ExposeRow<'a> {
        ExposeRow {
            shard_id: row.shard_id,
            name: &row.name,
            open_case,
            exposed_at: self.now,
            exposed_by: self.by,
            exposed_reason: self.reason,
        }
    }
}

impl Directory {
    /// Begins a rotation that somebody asked for; with `exposed` because strangers know the credential. That is kept until another is
    /// in its place, whatever is under way and however that ends.
    ///
    /// # Errors
    /// When the database does not answer. The inner error says why it does not begin.
    pub async fn ask_rotation(
        &self,
        name: &str,
        exposed: Option<Exposed>,
        by: &Actor,
        reason: &str,
        now: Timestamp,
    ) -> Result<Result<Granted, NotBegun>, StoreError> {
        let work = Asking {
            directory: self,
            name,
            exposed,
            by,
            reason,
            now,
            answer: Mutex::default(),
        };
        self.write(&work).await?;
        let answer = work.answer.into_inner();
        Ok(answer
            .unwrap_or_else(PoisonError::into_inner)
            .unwrap_or_else(|| Err(NotBegun::NotDeclared(name.to_owned()))))
    }
}
