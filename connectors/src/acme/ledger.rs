//! What was ordered and what came of it, in a [journal](crate::journal).
//!
//! An order is noted before its certificate is asked for. So a certificate whose answer was lost is not lost: the authority
//! knows the order, the journal knows under which operation key it was made, and the next call with that key takes the
//! certificate from it.

use std::collections::HashMap;
use std::path::Path;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::connector::{CredentialId, Error, ErrorKind};
use crate::journal::Journal;

/// One thing that was done. A stored form: fields are only ever added.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Line {
    Ordered {
        at: DateTime<Utc>,
        key: String,
        account: String,
        url: String,
    },
    Issued {
        at: DateTime<Utc>,
        key: String,
        account: String,
        id: CredentialId,
        not_after: DateTime<Utc>,
        #[serde(default)]
        label: Option<String>,
        chain: String,
    },
    Revoked {
        at: DateTime<Utc>,
        id: CredentialId,
    },
}

/// What is known of a certificate without reading it.
#[derive(Debug, Clone)]
pub(super) struct Leaf {
    pub account: String,
    pub key: String,
    pub not_after: DateTime<Utc>,
    pub label: Option<String>,
    pub revoked: bool,
    offset: u64,
}

impl Leaf {
    pub fn is_good(&self, now: DateTime<Utc>) -> bool {
        !self.revoked && self.not_after > now
    }
}

#[derive(Debug)]
pub(super) struct Ledger {
    journal: Journal<Line>,
    known: Known,
}

#[derive(Debug, Default)]
struct Known {
    leaves: HashMap<CredentialId, Leaf>,
    by_key: HashMap<String, CredentialId>,
    by_account: HashMap<String, Vec<CredentialId>>,
    /// The latest order of each key, and for whom.
    orders: HashMap<String, (String, String)>,
}

impl Known {
    fn take(&mut self, line: Line, offset: u64) {
        match line {
            Line::Ordered {
                key, account, url, ..
            } => {
                self.orders.insert(key, (account, url));
            }
            Line::Issued {
                key,
                account,
                id,
                not_after,
                label,
                ..
            } => {
                self.by_key.insert(key.clone(), id.clone());
                let of_account = self.by_account.entry(account.clone()).or_default();
                if !of_account.contains(&id) {
                    of_account.push(id.clone());
                }
                let leaf = Leaf {
                    account,
                    key,
                    not_after,
                    label,
                    revoked: false,
                    offset,
                };
                self.leaves.insert(id, leaf);
            }
            Line::Revoked { id, .. } => {
                if let Some(leaf) = self.leaves.get_mut(&id) {
                    leaf.revoked = true;
                }
            }
        }
    }
}

impl Ledger {
    pub fn new(folder: &Path) -> Self {
        Self {
            journal: Journal::new(folder.join("journal.jsonl")),
            known: Known::default(),
        }
    }

    /// Reads what was added since. The caller holds the lock of the folder.
    pub fn catch_up(&mut self) -> Result<(), Error> {
        let known = &mut self.known;
        self.journal
            .catch_up(|line, offset| known.take(line, offset))
    }

    pub fn append(&mut self, line: &Line) -> Result<(), Error> {
        let offset = self.journal.append(line)?;
        self.known.take(line.clone(), offset);
        Ok(())
    }

    pub fn issued(&self, account: &str, key: &str) -> Option<(&CredentialId, &Leaf)> {
        let (id, leaf) = self
            .known
            .leaves
            .get_key_value(self.known.by_key.get(key)?)?;
        (leaf.account == account).then_some((id, leaf))
    }

    /// The order that was made under this key for this account.
    pub fn order(&self, account: &str, key: &str) -> Option<&str> {
        let (of, url) = self.known.orders.get(key)?;
        (of == account).then_some(url)
    }

    /// Whether the key was used for somebody else.
    pub fn is_of_another(&self, account: &str, key: &str) -> bool {
        self.known
            .orders
            .get(key)
            .is_some_and(|(of, _)| of != account)
    }

    pub fn leaf(&self, account: &str, id: &CredentialId) -> Option<&Leaf> {
        let leaf = self.known.leaves.get(id)?;
        (leaf.account == account).then_some(leaf)
    }

    pub fn of_account(&self, account: &str) -> impl Iterator<Item = (&CredentialId, &Leaf)> {
        let ids = self.known.by_account.get(account).into_iter().flatten();
        ids.filter_map(|id| self.known.leaves.get_key_value(id))
    }

    pub fn accounts(&self) -> impl Iterator<Item = &str> {
        self.known.by_account.keys().map(String::as_str)
    }

    /// The chain in PEM, read from its line.
    pub fn chain(&self, leaf: &Leaf) -> Result<String, Error> {
        match self.journal.line(leaf.offset)? {
            Line::Issued { chain, .. } => Ok(chain),
            _ => Err(Error::new(
                ErrorKind::Bug,
                "a line of the journal is not what it was when it was first read",
            )),
        }
    }
}
