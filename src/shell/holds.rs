//! Placing and releasing legal holds: the row that stands for ever, and the work that goes on after a release.

use anyhow::Context as _;
use engine::core::Timestamp;
use engine::core::definition::{Lane, Work};
use engine::core::id::Actor;
use engine::runner::{Command, Message};
use engine::store::{CaseFilter, WorkFilter};
use uuid::Uuid;
use workflows::actions::name;
use workflows::directory::{HOLD_NAME_BYTES_MAX, HOLD_REASON_BYTES_MAX, HoldRow, NewHold};

use super::Database;

/// The kind of failure with which a step waits for a hold.
const WAITS_FOR_HOLD: &str = "legal_hold";
/// The most open cases of one person that a release wakes: there is one for each end.
const CASES_MAX: u32 = 100;

/// Why a hold cannot be placed or released.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    #[error("nobody with the key `{0}` is known")]
    Unknown(String),
    #[error("`{key}` has a hold named `{hold}` already; give this one another name")]
    Taken { key: String, hold: String },
    #[error("no hold named `{hold}` stands on `{key}`")]
    NoSuch { key: String, hold: String },
    #[error("{0}")]
    Invalid(String),
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

/// Places a hold; gives its row.
///
/// # Errors
/// [`HoldError`]; nothing is placed then.
pub async fn place(
    database: &Database,
    new: &NewHold,
    by: &Actor,
    now: Timestamp,
) -> Result<HoldRow, HoldError> {
    checked("the name of the hold", &new.hold, HOLD_NAME_BYTES_MAX)?;
    checked("the reason", &new.reason, HOLD_REASON_BYTES_MAX)?;
    if new.until.is_some_and(|until| until <= now) {
        return Err(HoldError::Invalid(
            "the end of the hold is past; give a later moment, or none".to_owned(),
        ));
    }
    known(database, &new.key).await?;
    let directory = &database.directory;
    let placed = directory
        .hold(new, by, now)
        .await
        .context("the hold was not placed")?;
    if !placed {
        return Err(HoldError::Taken {
            key: new.key.clone(),
            hold: new.hold.clone(),
        });
    }
    row(database, &new.key, &new.hold).await
}

/// Releases a hold and wakes what waited for it; gives its row.
///
/// # Errors
/// [`HoldError`]; nothing is released then.
pub async fn release(
    database: &Database,
    key: &str,
    hold: &str,
    because: &str,
    by: &Actor,
    now: Timestamp,
) -> Result<HoldRow, HoldError> {
    checked("the reason", because, HOLD_REASON_BYTES_MAX)?;
    known(database, key).await?;
    let released = database
        .directory
        .release(key, hold, because, by, now)
        .await
        .context("the hold was not released")?;
    if !released {
        return Err(HoldError::NoSuch {
            key: key.to_owned(),
            hold: hold.to_owned(),
        });
    }
    wake(database, key, hold, by, now).await?;
    row(database, key, hold).await
}

/// Lets the steps that wait for a hold look again at once. What is missed here looks by itself within a day.
async fn wake(
    database: &Database,
    key: &str,
    hold: &str,
    by: &Actor,
    now: Timestamp,
) -> anyhow::Result<()> {
    let filter = CaseFilter {
        subject: Some(engine::core::id::Subject(key.to_owned())),
        open_only: true,
        work: WorkFilter {
            error: Some(WAITS_FOR_HOLD.to_owned()),
            ..WorkFilter::default()
        },
        ..CaseFilter::default()
    };
    let mut messages = Vec::new();
    for found in database.store.list(&filter, None, CASES_MAX).await? {
        let case = database.case(found.head.case).await?;
        for (index, step) in (0..).zip(&case.definition.steps) {
            if !matches!(&step.work, Work::Action { uses, .. } if uses == name::ACCOUNT_DELETE) {
                continue;
            }
            let message = Message::Command {
                case: case.id,
                definition: Some(case.definition.hash.clone()),
                command: Command::Retry {
                    place: None,
                    step: Some(engine::core::id::StepIndex(index)),
                    by: by.clone(),
                    reason: format!("legal hold `{hold}` is released"),
                },
            };
            messages.push(message.into_row(case.shard, Uuid::new_v4(), Lane::Normal, now)?);
        }
    }
    database.store.put_inbox(&messages).await?;
    Ok(())
}

async fn known(database: &Database, key: &str) -> Result<(), HoldError> {
    let found = database
        .directory
        .holdings(key)
        .await
        .context("the person could not be looked up")?;
    match found {
        Some(_) => Ok(()),
        None => Err(HoldError::Unknown(key.to_owned())),
    }
}

async fn row(database: &Database, key: &str, hold: &str) -> Result<HoldRow, HoldError> {
    let holds = database
        .directory
        .holds_of(key)
        .await
        .context("the hold could not be read")?;
    let mut holds = holds.into_iter();
    holds
        .find(|row| row.hold == hold)
        .ok_or_else(|| HoldError::NoSuch {
            key: key.to_owned(),
            hold: hold.to_owned(),
        })
}

fn checked(what: &str, text: &str, bytes_max: usize) -> Result<(), HoldError> {
    if text.trim().is_empty() {
        return Err(HoldError::Invalid(format!(
            "{what} is empty; it stands in the record for ever, so say it"
        )));
    }
    if text.len() > bytes_max {
        return Err(HoldError::Invalid(format!(
            "{what} is longer than {bytes_max} bytes"
        )));
    }
    if text.chars().any(|c| c.is_control() && c != '\n') {
        return Err(HoldError::Invalid(format!("{what} has control characters")));
    }
    Ok(())
}
