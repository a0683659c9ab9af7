//! Where accounts were a moment ago.
//!
//! OpenLDAP takes an account into a group by its DN, and we know accounts by `entryUUID`. Asking for the DN
//! each time would double the round trips of the commonest operation, so it is remembered for as long as
//! the grants of one new account take. An account that is renamed within that time is found again when a
//! server's answer does not fit ([`Ldap::grant`](super::Ldap)), and every verification asks afresh.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

const KNOWN_FOR: Duration = Duration::from_secs(30);
const KNOWN_MAX: usize = 10_000;

#[derive(Default)]
pub(super) struct Known {
    names: Mutex<HashMap<String, (String, Instant)>>,
}

impl Known {
    pub(super) fn remember(&self, id: &str, dn: &str) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= KNOWN_MAX {
            names.retain(|_, (_, since)| since.elapsed() < KNOWN_FOR);
        }
        if names.len() < KNOWN_MAX {
            names.insert(id.to_owned(), (dn.to_owned(), Instant::now()));
        }
    }

    pub(super) fn forget(&self, id: &str) {
        self.names
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id);
    }

    pub(super) fn dn(&self, id: &str) -> Option<String> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let (dn, since) = names.get(id)?;
        (since.elapsed() < KNOWN_FOR).then(|| dn.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_known_is_soon_forgotten() {
        let known = Known::default();
        known.remember("id", "uid=a");
        tokio::time::advance(KNOWN_FOR / 2).await;
        assert_eq!(known.dn("id").as_deref(), Some("uid=a"));
        tokio::time::advance(KNOWN_FOR / 2).await;
        assert_eq!(known.dn("id"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_has_an_end() {
        let known = Known::default();
        for id in 0..=KNOWN_MAX {
            known.remember(&id.to_string(), "uid=a");
        }
        assert_eq!(known.dn(&KNOWN_MAX.to_string()), None, "full");
        tokio::time::advance(KNOWN_FOR).await;
        known.remember("late", "uid=b");
        assert_eq!(known.dn("late").as_deref(), Some("uid=b"));
        assert!(
            known
                .names
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .len()
                == 1
        );
    }
}
