//! People who are pushed one by one over SCIM, as the same records that files are made of.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::declare::Source;
use super::normalise::{Normalised, normalise};
use super::record::{Key, Record, attribute};
use super::row::{Limits, Row};
use crate::policy::problem::Problem;

/// A user of SCIM in our words; the manager is not looked up yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Pushed {
    pub key: Key,
    attributes: BTreeMap<String, Value>,
    pub manager: Option<Named>,
}

/// How a manager is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    Key(String),
    /// By the identifier that SCIM gave.
    Id(String),
    UserName(String),
    ExternalId(String),
}

impl Pushed {
    /// Reads a whole user, groups among its attributes.
    ///
    /// # Errors
    /// Everything that is wrong with the values, as a sentence each.
    pub fn read(source: &Source, user: &Map<String, Value>) -> Result<Self, Vec<String>> {
        let Normalised {
            key,
            attributes,
            manager,
        } = normalise(source, &Limits::default(), &Row::Scim(user)).map_err(|complaints| {
            let sentence = |(message, fix): (String, String)| format!("{message}; fix: {fix}");
            complaints.into_iter().map(sentence).collect::<Vec<_>>()
        })?;
        let by = source.manager.as_ref().map(|(_, by)| by.as_str());
        Ok(Self {
            key,
            attributes,
            manager: manager.map(|named| match by {
                Some("userName") => Named::UserName(named),
                Some("externalId") => Named::ExternalId(named),
                Some("id") => Named::Id(named),
                _ => Named::Key(named),
            }),
        })
    }

    /// The record, with the manager's key when it is known. A manager nobody knows stays as a name.
    #[must_use]
    pub fn record(mut self, manager: Option<&str>) -> Record {
        match (&self.manager, manager) {
            (Some(Named::Key(key)), _) => {
                self.attributes
                    .insert(attribute::MANAGER.to_owned(), json!(key));
            }
            (Some(Named::Id(name) | Named::UserName(name) | Named::ExternalId(name)), found) => {
                let (name, value) = match found {
                    Some(key) => (attribute::MANAGER, key),
                    None => (attribute::MANAGER_NAME, name.as_str()),
                };
                self.attributes.insert(name.to_owned(), json!(value));
            }
            (None, _) => {}
        }
        Record::new(self.key, self.attributes)
    }
}

/// Tokens that more than one source names: nobody could tell whose people they push.
pub fn shared_tokens<'a>(sources: impl Iterator<Item = &'a Arc<Source>>) -> Vec<Problem> {
    let mut pushes: BTreeMap<&str, &str> = BTreeMap::new();
    let mut problems = Vec::new();
    for source in sources {
        for token in source.tokens() {
            if let Some(other) = pushes.insert(token, source.name()) {
                problems.push(Problem::new(
                    "sources",
                    None,
                    format!(
                        "the token `{token}` is named by `{other}` and by `{}`",
                        source.name()
                    ),
                    "make a token for each source: a token pushes the people of one",
                ));
            }
        }
    }
    problems
}
