//! The cases in memory.

use std::collections::HashMap;

use crate::core::case::Case;
use crate::core::id::CaseId;

/// How many cases without an attempt in flight stay in memory.
const IDLE_MAX: usize = 20_000;

/// Cases that are being worked on. A case without an attempt in flight may leave at any time; the database has it.
#[derive(Default)]
pub(super) struct Hot {
    cases: HashMap<CaseId, Case>,
}

impl Hot {
    pub fn get(&self, id: CaseId) -> Option<&Case> {
        self.cases.get(&id)
    }

    pub fn get_mut(&mut self, id: CaseId) -> Option<&mut Case> {
        self.cases.get_mut(&id)
    }

    pub fn insert(&mut self, case: Case) {
        self.cases.insert(case.id, case);
    }

    pub fn len(&self) -> usize {
        self.cases.len()
    }

    /// Lets go of what a batch finished with: closed cases at once, idle ones when there are many.
    pub fn settle(&mut self, touched: &[CaseId]) {
        let crowded = self.cases.len() > IDLE_MAX;
        for id in touched {
            let leave = self
                .cases
                .get(id)
                .is_some_and(|case| case.state.is_closed() || (crowded && case.in_flight == 0));
            if leave {
                self.cases.remove(id);
            }
        }
        if self.cases.len() > IDLE_MAX * 2 {
            self.cases.retain(|_, case| case.in_flight > 0);
        }
    }
}
