//! What this process did a moment ago.
//!
//! A right waits for its account, and a session for the end of its account, in another step of the same case.
//! The directory tells when that has happened, but only after the commit that records it; here it is known at
//! once, and whoever waits is woken. A hint for speed: whatever is forgotten is found in the directory.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use engine::core::id::CaseId;
use tokio::sync::Notify;

/// How many facts are kept: far more than cases have in flight on one node between an effect and its commit.
const FACTS_MAX: usize = 16_384;

/// Something that happened to access on a system.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Happened {
    AccountOpen,
    AccountDisabled,
    Granted(String),
    Revoked(String),
}

/// Within one case: what an earlier case did may have been changed by another since.
type Fact = (CaseId, String, Happened);

#[derive(Debug, Default)]
pub(super) struct Recent {
    facts: Mutex<Facts>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Facts {
    /// With the account concerned.
    known: HashMap<Fact, String>,
    order: VecDeque<Fact>,
}

impl Recent {
    /// Notes that it happened, and wakes who waits. What it contradicts is forgotten.
    pub fn note(&self, case: CaseId, system: &str, happened: Happened, account: &str) {
        {
            let mut facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
            let opposite = match &happened {
                Happened::AccountOpen => Some(Happened::AccountDisabled),
                Happened::AccountDisabled => Some(Happened::AccountOpen),
                Happened::Granted(right) => Some(Happened::Revoked(right.clone())),
                Happened::Revoked(right) => Some(Happened::Granted(right.clone())),
            };
            if let Some(opposite) = opposite {
                facts.known.remove(&(case, system.to_owned(), opposite));
            }
            let fact = (case, system.to_owned(), happened);
            if facts
                .known
                .insert(fact.clone(), account.to_owned())
                .is_none()
            {
                facts.order.push_back(fact);
            }
            while facts.order.len() > FACTS_MAX {
                if let Some(oldest) = facts.order.pop_front() {
                    facts.known.remove(&oldest);
                }
            }
        }
        self.changed.notify_waiters();
    }

    /// Forgets a fact: it is so no more.
    pub fn forget(&self, case: CaseId, system: &str, happened: Happened) {
        self.facts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .known
            .remove(&(case, system.to_owned(), happened));
    }

    /// The account concerned, if it happened.
    pub fn account(&self, case: CaseId, system: &str, happened: &Happened) -> Option<String> {
        self.facts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .known
            .get(&(case, system.to_owned(), happened.clone()))
            .cloned()
    }

    /// Resolves at the next note. Make it before looking, so that none is missed.
    pub fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: CaseId = CaseId(uuid::Uuid::nil());

    #[test]
    fn the_newest_of_two_opposites_holds() {
        let recent = Recent::default();
        recent.note(ANN, "ldap", Happened::AccountOpen, "uid=ann");
        assert_eq!(
            recent.account(ANN, "ldap", &Happened::AccountOpen),
            Some("uid=ann".to_owned())
        );
        recent.note(ANN, "ldap", Happened::AccountDisabled, "uid=ann");
        assert_eq!(recent.account(ANN, "ldap", &Happened::AccountOpen), None);
        assert_eq!(
            recent.account(ANN, "scim", &Happened::AccountDisabled),
            None
        );
    }

    #[test]
    fn it_stays_small() {
        let recent = Recent::default();
        for person in 0..=FACTS_MAX as u128 {
            recent.note(
                CaseId(uuid::Uuid::from_u128(person)),
                "ldap",
                Happened::AccountOpen,
                "x",
            );
        }
        assert_eq!(
            recent.account(
                CaseId(uuid::Uuid::from_u128(0)),
                "ldap",
                &Happened::AccountOpen
            ),
            None
        );
        assert!(
            recent
                .account(
                    CaseId(uuid::Uuid::from_u128(1)),
                    "ldap",
                    &Happened::AccountOpen
                )
                .is_some()
        );
    }
}
