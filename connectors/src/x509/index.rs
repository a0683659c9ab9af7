//! What the authority did: a certificate was issued if its line is in the [journal](crate::journal), and not before.
//!
//! What is held in memory is made from the lines.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::connector::{CredentialId, Error, ErrorKind};
use crate::journal::Journal;

/// One thing that was done. A stored form: fields are only ever added.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Line {
    /// A new generation of the authority exists. It signs nothing yet.
    Authority {
        at: DateTime<Utc>,
        key: String,
        generation: u32,
        id: CredentialId,
        root: String,
        signer: String,
        /// Its root, signed by the root before it: who trusts only that one trusts this one through it.
        #[serde(default)]
        cross: Option<String>,
        not_after: DateTime<Utc>,
    },
    /// This generation signs from now on.
    Signs {
        at: DateTime<Utc>,
        generation: u32,
    },
    /// Nobody is told to trust this generation any more.
    Retired {
        at: DateTime<Utc>,
        generation: u32,
    },
    Issued {
        at: DateTime<Utc>,
        key: String,
        account: String,
        id: CredentialId,
        serial: String,
        generation: u32,
        not_after: DateTime<Utc>,
        #[serde(default)]
        label: Option<String>,
        leaf: String,
    },
    /// On the list of the revoked; `on_hold` can be taken back.
    Revoked {
        at: DateTime<Utc>,
        id: CredentialId,
        on_hold: bool,
    },
    Released {
        at: DateTime<Utc>,
        id: CredentialId,
    },
}

/// A generation of the authority: a root and what signs below it.
#[derive(Debug, Clone)]
pub(super) struct Generation {
    pub number: u32,
    pub key: String,
    pub id: CredentialId,
    pub root: String,
    pub signer: String,
    pub cross: Option<String>,
    pub not_after: DateTime<Utc>,
    pub retired: bool,
}

/// What is known of a certificate without reading it.
#[derive(Debug, Clone)]
pub(super) struct Leaf {
    pub account: String,
    pub key: String,
    pub serial: String,
    pub generation: u32,
    pub not_after: DateTime<Utc>,
    pub label: Option<String>,
    pub revoked: Option<Revocation>,
    /// Where its line begins.
    offset: u64,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Revocation {
    pub at: DateTime<Utc>,
    pub on_hold: bool,
}

#[derive(Debug)]
pub(super) struct Index {
    journal: Journal<Line>,
    known: Known,
}

/// What the lines amount to.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub generations: BTreeMap<u32, Generation>,
    /// The generation that signs.
    pub signs: Option<u32>,
    leaves: HashMap<CredentialId, Leaf>,
    by_key: HashMap<String, CredentialId>,
    by_account: HashMap<String, Vec<CredentialId>>,
}

impl std::ops::Deref for Index {
    type Target = Known;
    fn deref(&self) -> &Known {
        &self.known
    }
}

impl Index {
    pub fn new(folder: &Path) -> Self {
        Self {
            journal: Journal::new(folder.join("index.jsonl")),
            known: Known::default(),
        }
    }

    pub fn lines(&self) -> u64 {
        self.journal.lines()
    }

    /// Reads what was added since. The caller holds the lock of the folder.
    pub fn catch_up(&mut self) -> Result<(), Error> {
        let known = &mut self.known;
        self.journal
            .catch_up(|line, offset| known.take(line, offset))
    }

    /// Adds a line, and waits until it is on the disk.
    pub fn append(&mut self, line: &Line) -> Result<(), Error> {
        let offset = self.journal.append(line)?;
        self.known.take(line.clone(), offset);
        Ok(())
    }

    /// The certificate in PEM, read from its line.
    pub fn certificate(&self, leaf: &Leaf) -> Result<String, Error> {
        match self.journal.line(leaf.offset)? {
            Line::Issued { leaf: pem, .. } => Ok(pem),
            _ => Err(Error::new(
                ErrorKind::Bug,
                "a line of the index is not what it was when it was first read",
            )),
        }
    }
}

impl Known {
    fn take(&mut self, line: Line, offset: u64) {
        match line {
            Line::Authority {
                key,
                generation,
                id,
                root,
                signer,
                cross,
                not_after,
                ..
            } => {
                self.generations.insert(
                    generation,
                    Generation {
                        number: generation,
                        key,
                        id,
                        root,
                        signer,
                        cross,
                        not_after,
                        retired: false,
                    },
                );
            }
            Line::Signs { generation, .. } => self.signs = Some(generation),
            Line::Retired { generation, .. } => {
                if let Some(known) = self.generations.get_mut(&generation) {
                    known.retired = true;
                }
            }
            Line::Issued {
                key,
                account,
                id,
                serial,
                generation,
                not_after,
                label,
                ..
            } => {
                self.by_key.insert(key.clone(), id.clone());
                let of_account = self.by_account.entry(account.clone()).or_default();
                of_account.push(id.clone());
                self.leaves.insert(
                    id,
                    Leaf {
                        account,
                        key,
                        serial,
                        generation,
                        not_after,
                        label,
                        revoked: None,
                        offset,
                    },
                );
            }
            Line::Revoked { at, id, on_hold } => {
                if let Some(leaf) = self.leaves.get_mut(&id) {
                    leaf.revoked = Some(Revocation { at, on_hold });
                }
            }
            Line::Released { id, .. } => {
                if let Some(leaf) = self.leaves.get_mut(&id) {
                    leaf.revoked = None;
                }
            }
        }
    }

    pub fn leaf(&self, id: &CredentialId) -> Option<&Leaf> {
        self.leaves.get(id)
    }

    /// The certificate that was issued to the account under this operation key.
    pub fn issued(&self, account: &str, key: &str) -> Option<(&CredentialId, &Leaf)> {
        let id = self.by_key.get(key)?;
        let leaf = self.leaves.get(id)?;
        (leaf.account == account).then_some((id, leaf))
    }

    /// Whether the key was used, for whomever.
    pub fn knows_key(&self, key: &str) -> bool {
        self.by_key.contains_key(key) || self.generations.values().any(|known| known.key == key)
    }

    pub fn of_account(&self, account: &str) -> impl Iterator<Item = (&CredentialId, &Leaf)> {
        let ids = self.by_account.get(account).into_iter().flatten();
        ids.filter_map(|id| self.leaves.get_key_value(id))
    }

    pub fn accounts(&self) -> impl Iterator<Item = &str> {
        self.by_account.keys().map(String::as_str)
    }

    pub fn revoked_of(&self, generation: u32) -> Vec<&Leaf> {
        let mut revoked: Vec<&Leaf> = self
            .leaves
            .values()
            .filter(|leaf| leaf.generation == generation && leaf.revoked.is_some())
            .collect();
        revoked.sort_by(|a, b| a.serial.cmp(&b.serial));
        revoked
    }

    /// The certificates of a generation that are good at `now`. One on hold can become good again.
    pub fn good(
        &self,
        generation: u32,
        now: DateTime<Utc>,
    ) -> impl Iterator<Item = (&CredentialId, &Leaf)> {
        self.leaves.iter().filter(move |(_, leaf)| {
            leaf.generation == generation
                && leaf.revoked.is_none_or(|revocation| revocation.on_hold)
                && leaf.not_after > now
        })
    }

    /// How many they are, and until when the last of them is.
    pub fn good_of(&self, generation: u32, now: DateTime<Utc>) -> (usize, Option<DateTime<Utc>>) {
        let good = self.good(generation, now);
        good.fold((0, None), |(count, last), (_, leaf)| {
            (count + 1, last.max(Some(leaf.not_after)))
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn line(key: &str) -> Line {
        Line::Issued {
            at: DateTime::UNIX_EPOCH,
            key: key.to_owned(),
            account: "web".to_owned(),
            id: CredentialId::new(format!("certificate:sha256:{key}")),
            serial: key.to_owned(),
            generation: 1,
            not_after: DateTime::UNIX_EPOCH,
            label: None,
            leaf: format!("PEM {key}"),
        }
    }

    fn read(folder: &Path) -> Index {
        let mut index = Index::new(folder);
        index.catch_up().unwrap();
        index
    }

    #[test]
    fn what_another_process_added_is_read_and_found() {
        let folder = tempfile::tempdir().unwrap();
        let (mut one, mut other) = (read(folder.path()), read(folder.path()));
        one.append(&line("a")).unwrap();
        one.append(&line("b")).unwrap();
        assert!(other.issued("web", "b").is_none());
        other.catch_up().unwrap();
        let (_, leaf) = other.issued("web", "b").unwrap();
        assert_eq!(other.certificate(leaf).unwrap(), "PEM b");
        assert!(other.issued("mail", "b").is_none(), "it is not mail's");
        assert_eq!(other.of_account("web").count(), 2);
    }
}
