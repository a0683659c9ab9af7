//! The cases in memory.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::core::case::Case;
use crate::core::definition::Lane;
use crate::core::id::{CaseId, ShardId};

/// How many cases stay in memory, and how many instances of steps they may have in all. The database has them, so
/// any of them may leave between two batches; a case that is wanted again is read again.
const CASES_MAX: usize = 20_000;
const INSTANCES_MAX: usize = 200_000;

/// Cases that are being worked on.
#[derive(Default)]
pub(super) struct Hot {
    cases: HashMap<CaseId, Entry>,
    instances: usize,
}

struct Entry {
    case: Case,
    /// How many instances it had when it was last counted.
    instances: usize,
}

impl Hot {
    pub fn get(&self, id: CaseId) -> Option<&Case> {
        self.cases.get(&id).map(|entry| &entry.case)
    }

    pub fn get_mut(&mut self, id: CaseId) -> Option<&mut Case> {
        self.cases.get_mut(&id).map(|entry| &mut entry.case)
    }

    pub fn insert(&mut self, case: Case) {
        let (id, instances) = (case.id, count(&case));
        self.instances += instances;
        if let Some(old) = self.cases.insert(id, Entry { case, instances }) {
            self.instances -= old.instances;
        }
    }

    pub fn len(&self) -> usize {
        self.cases.len()
    }

    /// How many cases there are of each shard.
    pub fn load(&self) -> HashMap<ShardId, usize> {
        let mut load = HashMap::new();
        for entry in self.cases.values() {
            *load.entry(entry.case.shard).or_default() += 1;
        }
        load
    }

    /// Lets go of all cases of these shards, and tells which.
    pub fn drop_shards(&mut self, gone: &BTreeSet<ShardId>) -> HashSet<CaseId> {
        let cases: HashSet<CaseId> = self
            .cases
            .values()
            .filter(|entry| gone.contains(&entry.case.shard))
            .map(|entry| entry.case.id)
            .collect();
        for case in &cases {
            self.remove(*case);
        }
        cases
    }

    pub fn remove(&mut self, id: CaseId) {
        if let Some(entry) = self.cases.remove(&id) {
            self.instances -= entry.instances;
        }
    }

    /// Lets go of what a batch finished with: closed cases at once. What the next batch has changed already (`busy`) is
    /// newer than the database and stays.
    pub fn settle(&mut self, touched: &[CaseId], busy: impl Fn(CaseId) -> bool) {
        for id in touched.iter().filter(|id| !busy(**id)) {
            let Some(entry) = self.cases.get_mut(id) else {
                continue;
            };
            if entry.case.state.is_closed() {
                self.remove(*id);
            } else {
                let instances = count(&entry.case);
                self.instances = self.instances - entry.instances + instances;
                entry.instances = instances;
            }
        }
    }

    pub fn is_crowded(&self) -> bool {
        self.cases.len() > CASES_MAX || self.instances > INSTANCES_MAX
    }

    /// A quarter leaves, so that this is done seldom: any that are not newer than the database (`busy`). Those at work
    /// come back, and to read them again takes time that a revocation does not have, so these leave last.
    pub fn make_room(&mut self, busy: impl Fn(CaseId) -> bool) {
        let idle = self.cases.iter().filter(|(id, _)| !busy(**id));
        let mut leaving: Vec<(bool, CaseId)> = idle
            .map(|(id, entry)| (entry.case.definition.lane == Lane::Revocation, *id))
            .collect();
        // In an order that is the same in every run with the same cases.
        leaving.sort_unstable();
        for (_, id) in leaving {
            if self.cases.len() <= CASES_MAX / 4 * 3 && self.instances <= INSTANCES_MAX / 4 * 3 {
                break;
            }
            self.remove(id);
        }
    }
}

fn count(case: &Case) -> usize {
    case.steps
        .iter()
        .map(|step| step.instances.len().max(1))
        .sum()
}
