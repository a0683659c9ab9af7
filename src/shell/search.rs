//! What somebody asks a list of cases for, checked and turned into what the store looks for.
//!
//! The command line and the API ask the same and are told the same when they ask for what cannot be.

use chrono::{DateTime, Utc};
use engine::core::case::CaseState;
use engine::core::duration::Span;
use engine::core::id::{DefinitionHash, StepIndex, Subject};
use engine::store::{CaseFilter, VersionRow, Waiting, WorkFilter};
use workflows::directory::SystemState;
use workflows::policy::problem::suggest;
use workflows::systems::SYSTEM_NAME_BYTES_MAX;

use super::Database;

/// The longest kind of an error, in bytes.
const ERROR_BYTES_MAX: usize = 64;
/// The shortest beginning of a version's hash that is taken for it.
const VERSION_CHARS_MIN: usize = 4;

/// A search as it was asked for.
#[derive(Debug, Clone, Default)]
pub struct Search {
    pub states: Vec<CaseState>,
    pub workflow: Option<String>,
    /// A version's hash, or its beginning.
    pub version: Option<String>,
    pub subject: Option<String>,
    pub open: bool,
    pub parked: bool,
    pub waits: Vec<Waiting>,
    pub system: Option<String>,
    /// The id of a step.
    pub step: Option<String>,
    /// The kind of the last failure.
    pub error: Option<String>,
    pub older_than: Option<Span>,
    pub newer_than: Option<Span>,
}

/// What is wrong with a search: the part of it, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    pub at: &'static str,
    pub what: String,
}

fn mistake<T>(at: &'static str, what: impl Into<String>) -> Result<T, Mistake> {
    Err(Mistake {
        at,
        what: what.into(),
    })
}

impl Search {
    /// The filter for the store.
    ///
    /// # Errors
    /// When the database does not answer; inside, what was asked for wrongly.
    pub async fn filter(
        self,
        database: &Database,
        now: DateTime<Utc>,
    ) -> anyhow::Result<Result<CaseFilter, Mistake>> {
        if let Err(mistake) = self.check() {
            return Ok(Err(mistake));
        }
        let mut versions = Vec::new();
        if self.workflow.is_some() || self.version.is_some() || self.step.is_some() {
            versions = database.store.versions().await?;
        }
        let meant = match self.versions(&versions) {
            Ok(meant) => meant,
            Err(mistake) => return Ok(Err(mistake)),
        };
        let steps = match &self.step {
            None => None,
            Some(step) => match positions(database, step, &meant).await? {
                Ok(steps) => Some(steps),
                Err(mistake) => return Ok(Err(mistake)),
            },
        };
        let mut held = Vec::new();
        if self.waits.contains(&Waiting::SystemAway) {
            let systems = database.directory.system_states().await?;
            let away = systems
                .into_iter()
                .filter(|row| row.state == SystemState::Held);
            held = away.map(|row| row.system).collect();
        }
        let definition = self.version.is_some().then(|| meant.first());
        Ok(Ok(CaseFilter {
            states: self.states,
            workflow: self.workflow,
            definition: definition.flatten().map(|version| version.hash.clone()),
            subject: self.subject.map(Subject),
            open_only: self.open,
            parked_only: self.parked,
            created_before: self.older_than.map(|age| now - age.delta()),
            created_from: self.newer_than.map(|age| now - age.delta()),
            work: WorkFilter {
                waits: self.waits,
                system: self.system,
                steps,
                error: self.error,
                held,
            },
        }))
    }

    /// What is wrong whatever the database holds.
    fn check(&self) -> Result<(), Mistake> {
        let asks_for_open = [
            ("open", self.open),
            ("parked", self.parked),
            ("waits", !self.waits.is_empty()),
            ("system", self.system.is_some()),
            ("step", self.step.is_some()),
            ("error", self.error.is_some()),
        ];
        let open = asks_for_open.iter().find(|(_, asked)| *asked);
        let closed = self.states.iter().find(|state| state.is_closed());
        if let (Some((other, _)), Some(state)) = (open, closed) {
            let state = state.as_str();
            return mistake(
                "state",
                format!(
                    "`{state}` is closed, and `{other}` looks at open cases only; leave one of them out"
                ),
            );
        }
        if self.subject.as_deref().is_some_and(|it| it.contains('\0')) {
            return mistake("subject", "holds U+0000, which no key does");
        }
        if let Some(system) = &self.system {
            let named = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
            if system.is_empty()
                || system.len() > SYSTEM_NAME_BYTES_MAX
                || !system.chars().all(named)
            {
                return mistake(
                    "system",
                    format!(
                        "`{system}` is no name for a system; use 1 to {SYSTEM_NAME_BYTES_MAX} of `a-z`, `0-9`, `-`, `_`, `.`"
                    ),
                );
            }
        }
        if let Some(error) = &self.error {
            let named = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if error.is_empty() || error.len() > ERROR_BYTES_MAX || !error.chars().all(named) {
                return mistake(
                    "error",
                    format!(
                        "`{error}` is no kind of error; give the short name that `waits` shows, such as `timeout` or `denied`"
                    ),
                );
            }
        }
        if let (Some(older), Some(newer)) = (self.older_than, self.newer_than)
            && older >= newer
        {
            return mistake(
                "older_than",
                format!("no case is older than {older} and newer than {newer}"),
            );
        }
        Ok(())
    }

    /// The stored versions that the workflow and the version leave.
    fn versions<'a>(&self, stored: &'a [VersionRow]) -> Result<Vec<&'a VersionRow>, Mistake> {
        let mut meant: Vec<&VersionRow> = stored.iter().collect();
        if let Some(workflow) = &self.workflow {
            meant.retain(|version| version.workflow == *workflow);
            if meant.is_empty() {
                let mut names: Vec<&str> = stored.iter().map(|it| it.workflow.as_str()).collect();
                names.dedup();
                return mistake(
                    "workflow",
                    format!(
                        "this database has seen no workflow `{workflow}`; {}",
                        suggest(workflow, "workflows", names)
                    ),
                );
            }
        }
        if let Some(version) = &self.version {
            if version.len() < VERSION_CHARS_MIN || !version.chars().all(|c| c.is_ascii_hexdigit())
            {
                return mistake(
                    "version",
                    format!(
                        "`{version}` is no version; give its hash or at least {VERSION_CHARS_MIN} digits of its beginning"
                    ),
                );
            }
            let version = version.to_ascii_lowercase();
            meant.retain(|row| row.hash.0.starts_with(&version));
            match meant.as_slice() {
                [_] => {}
                [] => {
                    return mistake(
                        "version",
                        format!(
                            "no version that is stored here begins with `{version}`; `tenure workflow list` has them"
                        ),
                    );
                }
                many => {
                    let hashes: Vec<String> =
                        many.iter().map(|row| format!("`{}`", row.hash)).collect();
                    return mistake(
                        "version",
                        format!("`{version}` is the beginning of {}", hashes.join(" and ")),
                    );
                }
            }
        }
        Ok(meant)
    }
}

/// Where a step stands in each version that has open cases.
async fn positions(
    database: &Database,
    step: &str,
    versions: &[&VersionRow],
) -> anyhow::Result<Result<Vec<(DefinitionHash, StepIndex)>, Mistake>> {
    let mut found = Vec::new();
    let mut known = Vec::new();
    for row in versions {
        let Some(definition) = database.version(&row.hash).await? else {
            continue;
        };
        if let Some(position) = definition.find(step) {
            found.push((row.hash.clone(), position));
        }
        known.extend(definition.steps.into_iter().map(|step| step.id));
    }
    if !found.is_empty() {
        return Ok(Ok(found));
    }
    known.sort_unstable();
    known.dedup();
    let known = known.iter().map(String::as_str);
    Ok(mistake(
        "step",
        format!(
            "no workflow here has a step `{step}`; {}",
            suggest(step, "steps", known)
        ),
    ))
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "tests"
    )]
    use super::*;

    #[track_caller]
    fn wrong(search: Search, at: &str, says: &str) {
        let mistake = search.check().unwrap_err();
        assert_eq!(mistake.at, at);
        assert!(mistake.what.contains(says), "{}", mistake.what);
    }

    #[test]
    fn what_cannot_be_is_said_before_anything_is_read() {
        let some = |text: &str| Some(text.to_owned());
        wrong(
            Search {
                states: vec![CaseState::Running, CaseState::Succeeded],
                system: some("crm"),
                ..Search::default()
            },
            "state",
            "`succeeded` is closed, and `system` looks at open cases only",
        );
        for system in ["", "CRM", "a b", "crm\"", &"x".repeat(65)] {
            let search = Search {
                system: some(system),
                ..Search::default()
            };
            wrong(search, "system", "is no name for a system");
        }
        let search = Search {
            error: some("no\"thing"),
            ..Search::default()
        };
        wrong(search, "error", "is no kind of error");
        let search = Search {
            older_than: Some(Span::from_s(3_600)),
            newer_than: Some(Span::from_s(60)),
            ..Search::default()
        };
        wrong(
            search,
            "older_than",
            "no case is older than 1h and newer than 1m",
        );
    }

    fn version(hash: &str, workflow: &str) -> VersionRow {
        VersionRow {
            hash: DefinitionHash(hash.to_owned()),
            workflow: workflow.to_owned(),
            created_at: DateTime::UNIX_EPOCH,
            open: 0,
        }
    }

    #[test]
    fn a_version_is_meant_by_its_beginning() {
        let stored = [
            version("abcd1", "joiner"),
            version("abcd2", "joiner"),
            version("ffff1", "leaver"),
        ];
        let asked = |workflow: Option<&str>, version: &str| Search {
            workflow: workflow.map(str::to_owned),
            version: Some(version.to_owned()),
            ..Search::default()
        };
        let search = asked(None, "FFFF");
        assert_eq!(search.versions(&stored).unwrap()[0].hash.0, "ffff1");
        for (workflow, version, says) in [
            (None, "abcd", "`abcd1` and `abcd2`"),
            (Some("leaver"), "abcd", "no version that is stored here"),
            (None, "abc", "is no version"),
            (Some("leavr"), "ffff", "did you mean `leaver`?"),
        ] {
            let mistake = asked(workflow, version).versions(&stored).unwrap_err();
            assert!(mistake.what.contains(says), "{}", mistake.what);
        }
    }
}
