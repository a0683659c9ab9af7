//! The person at the key cabinet: does what the tasks say, keeps a book, and finishes each task with a proof.
//!
//! They answer as anybody would, with a command in the inbox of the case.

use std::collections::{BTreeMap, BTreeSet};

use engine::core::case::{Ask, Case, InstanceState};
use engine::core::id::{Actor, Place, StepIndex};
use engine::runner::{Command, Message};
use engine::store::{CaseFilter, InboxRow, PAGE_ROWS_MAX};
use serde_json::Value;
use uuid::Uuid;
use workflows::actions::name;

use crate::shell::{Database, now};

/// How many tasks are done in one go.
const TASKS_AT_ONCE_MAX: usize = 40;

/// What the book says about somebody's keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    pub enabled: bool,
    pub keys: BTreeSet<String>,
}

/// The person and their book.
#[derive(Debug, Default)]
pub struct Facilities {
    pub book: BTreeMap<String, Entry>,
    /// What was done, by action.
    pub done: BTreeMap<String, u64>,
    answered: BTreeSet<(String, u16, u32)>,
}

impl Facilities {
    /// Does the oldest tasks that wait. Gives how many.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn work(&mut self, database: &Database) -> anyhow::Result<usize> {
        let filter = CaseFilter {
            open_only: true,
            ..CaseFilter::default()
        };
        let mut waiting = Vec::new();
        let mut after = None;
        loop {
            let page = database.store.list(&filter, after, PAGE_ROWS_MAX).await?;
            let Some(last) = page.last() else { break };
            after = Some(engine::store::CaseCursor {
                created_at: last.head.created_at,
                case: last.head.case,
            });
            waiting.extend(
                page.iter()
                    .filter(|it| it.state.in_flight == 0 && it.state.unfinished > 0)
                    .map(|it| it.head.case),
            );
        }
        let mut rows = Vec::new();
        for id in waiting.into_iter().rev().take(TASKS_AT_ONCE_MAX) {
            let case = database.case(id).await?;
            self.answer(&case, &mut rows)?;
        }
        database.store.put_inbox(&rows).await?;
        Ok(rows.len())
    }

    fn answer(&mut self, case: &Case, rows: &mut Vec<InboxRow>) -> anyhow::Result<()> {
        for (number, step) in case.definition.steps.iter().enumerate() {
            for place in case.places(StepIndex(u16::try_from(number)?)) {
                let Some(instance) = case.instance(place) else {
                    continue;
                };
                let InstanceState::Asking {
                    ask: Ask::Task { .. },
                    ..
                } = &instance.state
                else {
                    continue;
                };
                if !self
                    .answered
                    .insert((case.id.to_string(), place.step.0, place.instance.0))
                {
                    continue;
                }
                let uses = step.work.uses();
                self.act(&case.subject.0, uses, &instance.item);
                rows.push(self.finished(case, place, uses)?);
            }
        }
        Ok(())
    }

    /// Goes to the cabinet.
    fn act(&mut self, person: &str, uses: &str, item: &Value) {
        *self.done.entry(uses.to_owned()).or_default() += 1;
        let entry = self.book.entry(person.to_owned()).or_default();
        let key = || {
            item.get("entitlement")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        match uses {
            name::ACCOUNT_CREATE | name::ACCOUNT_ENABLE => entry.enabled = true,
            name::ACCOUNT_DISABLE => entry.enabled = false,
            name::GRANT_ADD => {
                entry.keys.insert(key());
            }
            name::GRANT_REVOKE => {
                entry.keys.remove(&key());
            }
            _ => {}
        }
    }

    fn finished(&self, case: &Case, place: Place, uses: &str) -> anyhow::Result<InboxRow> {
        let line: u64 = self.done.values().sum();
        let command = Command::TaskDone {
            place,
            by: Actor("person:facilities".to_owned()),
            proof: format!("key book, line {line}: {uses} for {}", case.subject),
            output: Value::Null,
        };
        let message = Message::Command {
            definition: Some(case.definition.hash.clone()),
            case: case.id,
            command,
        };
        Ok(message.into_row(case.shard, Uuid::new_v4(), case.definition.lane, now())?)
    }
}
