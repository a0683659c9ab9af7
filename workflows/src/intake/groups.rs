//! Whose row stands for whom: one person may be known under several keys.
//!
//! The keys of a person form a tree: each row names the one it was merged into, and that one lists it. All of a tree is
//! decided about under the lock of its root alone. Whoever comes with another key learns the root from its row, which is
//! not to be waited for while that one is locked; so the transaction is begun anew, and locks the root in the order in
//! which all do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use engine::store::{StoreError, Transaction};

use crate::correlation::Scored;
use crate::directory::{Directory, IdentityRow, for_update, identities_in};

/// Rolls back when a key turned out to be another person than it was taken for; the next time it is known.
pub(super) const REGROUPED: &str = "somebody is known under another key";
/// How many merges deep a person may be: what goes further is a damaged row.
const DEPTH_MAX: usize = 64;

/// What was learned about keys while their transaction was tried.
#[derive(Debug, Default)]
pub(super) struct Groups(Mutex<BTreeMap<String, Place>>);

#[derive(Debug, Clone)]
enum Place {
    /// Its row says that it was merged into this one.
    In(String),
    /// Nobody knows it, and it is decided that it is this one.
    Becomes(String, Scored),
    /// Nobody knows it, and a person is to decide which of these it is, if any.
    Asked(Vec<Scored>),
}

/// One person under lock, with all keys.
#[derive(Debug, Clone, Default)]
pub(super) struct Locked {
    /// The root; `None` when nobody knows the key.
    pub row: Option<IdentityRow>,
    /// The rows of all other keys, sorted.
    pub members: Vec<IdentityRow>,
}

impl Locked {
    /// All keys, the root's first.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        let rows = self.row.iter().chain(&self.members);
        rows.map(|row| row.identity_key.as_str())
    }

    pub fn has(&self, key: &str) -> bool {
        self.keys().any(|other| other == key)
    }
}

impl Groups {
    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key that stands for `key`, as far as it is known.
    pub fn root(&self, key: &str) -> String {
        let known = self.known();
        let mut root = key;
        for _ in 0..DEPTH_MAX {
            match known.get(root) {
                Some(Place::In(next) | Place::Becomes(next, _)) => root = next,
                Some(Place::Asked(_)) | None => break,
            }
        }
        root.to_owned()
    }

    pub fn becomes(&self, key: &str, scored: Scored) {
        let place = Place::Becomes(scored.key.clone(), scored);
        self.known().insert(key.to_owned(), place);
    }

    pub fn ask(&self, key: &str, candidates: Vec<Scored>) {
        self.known()
            .insert(key.to_owned(), Place::Asked(candidates));
    }

    /// Whom a new key was decided to be.
    pub fn decided(&self, key: &str) -> Option<Scored> {
        match self.known().get(key) {
            Some(Place::Becomes(_, scored)) => Some(scored.clone()),
            _ => None,
        }
    }

    /// Whom somebody is asked about.
    pub fn asked(&self, key: &str) -> Option<Vec<Scored>> {
        match self.known().get(key) {
            Some(Place::Asked(candidates)) => Some(candidates.clone()),
            _ => None,
        }
    }

    /// Everybody about whom something has to be decided together with `key`.
    fn concerned(&self, key: &str) -> Vec<String> {
        let mut keys = vec![self.root(key)];
        let candidates = self.asked(key).unwrap_or_default();
        keys.extend(candidates.iter().map(|scored| self.root(&scored.key)));
        keys
    }

    fn stale(&self, changes: impl FnOnce(&mut BTreeMap<String, Place>)) -> StoreError {
        changes(&mut self.known());
        StoreError::Projection(REGROUPED.to_owned())
    }

    /// The people with these keys, each under the key of the root, locked until the transaction ends.
    ///
    /// # Errors
    /// [`REGROUPED`] when the transaction has to be begun anew.
    pub async fn lock(
        &self,
        transaction: &mut Transaction<'_>,
        directory: &Directory,
        keys: &BTreeSet<String>,
    ) -> Result<BTreeMap<String, Locked>, StoreError> {
        let roots: BTreeSet<String> = keys.iter().flat_map(|key| self.concerned(key)).collect();
        let wanted: BTreeSet<(i32, String)> = roots
            .iter()
            .map(|key| (directory.shard(key), key.clone()))
            .collect();
        let wanted: Vec<(i32, String)> = wanted.into_iter().collect();
        let mut locked: BTreeMap<String, Locked> = roots
            .into_iter()
            .map(|key| (key, Locked::default()))
            .collect();
        let mut moved = BTreeMap::new();
        for row in for_update(transaction, &wanted).await? {
            if let Some(into) = &row.merged_into {
                moved.insert(row.identity_key.clone(), Place::In(into.clone()));
            }
            if let Some(group) = locked.get_mut(&row.identity_key) {
                group.row = Some(row);
            }
        }
        if !moved.is_empty() {
            return Err(self.stale(|known| known.extend(moved)));
        }
        self.read_members(transaction, directory, &mut locked)
            .await?;
        self.check(transaction, directory, keys, &locked).await?;
        Ok(locked)
    }

    async fn read_members(
        &self,
        transaction: &mut Transaction<'_>,
        directory: &Directory,
        locked: &mut BTreeMap<String, Locked>,
    ) -> Result<(), StoreError> {
        // The root of each key that is still to be read.
        let mut open: BTreeMap<String, String> = BTreeMap::new();
        for (root, group) in locked.iter() {
            let members = group.row.iter().flat_map(|row| &row.members);
            open.extend(members.map(|member| (member.clone(), root.clone())));
        }
        for _ in 0..DEPTH_MAX {
            if open.is_empty() {
                break;
            }
            let keys: Vec<(i32, String)> = open
                .keys()
                .map(|key| (directory.shard(key), key.clone()))
                .collect();
            let mut next = BTreeMap::new();
            for row in identities_in(transaction, &keys).await? {
                let Some(root) = open.get(&row.identity_key) else {
                    continue;
                };
                let deeper = row.members.iter().map(|key| (key.clone(), root.clone()));
                next.extend(deeper);
                if let Some(group) = locked.get_mut(root) {
                    group.members.push(row);
                }
            }
            open = next;
        }
        for group in locked.values_mut() {
            group
                .members
                .sort_by(|a, b| a.identity_key.cmp(&b.identity_key));
        }
        Ok(())
    }

    /// Whether every key is where it was taken to be.
    async fn check(
        &self,
        transaction: &mut Transaction<'_>,
        directory: &Directory,
        keys: &BTreeSet<String>,
        locked: &BTreeMap<String, Locked>,
    ) -> Result<(), StoreError> {
        let mut gone = Vec::new();
        let mut new = Vec::new();
        for key in keys {
            let root = self.root(key);
            if root == *key {
                continue;
            }
            let group = locked.get(&root);
            if group.is_some_and(|group| group.has(key)) {
                continue;
            }
            match self.decided(key) {
                Some(_) if group.is_some_and(|group| group.row.is_some()) => {
                    new.push((directory.shard(key), key.clone()));
                }
                _ => gone.push(key.clone()),
            }
        }
        if !new.is_empty() {
            // Somebody else introduced them meanwhile.
            let known = identities_in(transaction, &new).await?;
            gone.extend(known.into_iter().map(|row| row.identity_key));
        }
        if gone.is_empty() {
            return Ok(());
        }
        Err(self.stale(|known| {
            for key in gone {
                let mut key = Some(key);
                // All of the way that was taken may have changed.
                while let Some(Place::In(next) | Place::Becomes(next, _)) =
                    key.take().and_then(|key| known.remove(&key))
                {
                    key = Some(next);
                }
            }
        }))
    }
}
