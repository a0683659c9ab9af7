//! The lives that subjects are in, of the shards this node owns.

use std::collections::{BTreeSet, HashMap};

use crate::core::id::{ShardId, Subject};
use crate::store::GenerationRow;

/// Nothing is kept about subjects that are in their first.
#[derive(Default)]
pub(super) struct Lives(HashMap<Subject, GenerationRow>);

impl Lives {
    pub fn take(&mut self, row: GenerationRow) {
        self.0.insert(row.subject.clone(), row);
    }

    /// The life that the subject is in; 0 when it is in its first, or nothing is known of it.
    pub fn of(&self, subject: &Subject) -> u32 {
        self.0.get(subject).map_or(0, |row| row.generation)
    }

    pub fn drop_shards(&mut self, gone: &BTreeSet<ShardId>) {
        self.0.retain(|_, row| !gone.contains(&row.shard));
    }
}
