//! Taking over a system whose accounts Tenure did not make: which names would meet, whose accounts these are, and what
//! answers to nobody.
//!
//! Reads the whole of a system, changes nothing there.

mod collisions;
mod inventory;
mod unmanaged;

#[cfg(test)]
mod inventory_tests;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use connectors::connector::{Account, Connector, Error, Kind, Object};
use engine::store::StoreError;

use crate::systems::System;

pub use self::collisions::{Collision, CollisionReport, Taken, What, collisions};

pub use self::inventory::{Looked, look, shortfalls};
pub use self::unmanaged::{
    ACCOUNT_NAME, Adoptable, Doubtful, WAVE_ACCOUNTS_DEFAULT, Wave, WaveFilter, wave,
};

/// The most accounts of one system that are read.
pub const ACCOUNTS_MAX: usize = 1_000_000;

#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    #[error("system `{system}` cannot list its accounts: {}", .error.whole())]
    Unlisted { system: String, error: Error },
    #[error(
        "system `{system}` gave {read} accounts and does not say that these are all; nothing can be told from a part"
    )]
    Incomplete { system: String, read: usize },
    #[error("system `{system}` has more than {ACCOUNTS_MAX} accounts")]
    TooMany { system: String },
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A rule or a template has no answer for somebody.
    #[error("{0}")]
    Policy(String),
}

/// Every account of a system, by its own identifier.
///
/// # Errors
/// When it cannot list them, or not all of them.
pub async fn accounts_of(system: &System) -> Result<BTreeMap<String, Account>, TakeoverError> {
    let name = || system.name().to_owned();
    let connector = system.connector();
    let mut accounts = BTreeMap::new();
    let mut cursor = None;
    loop {
        let page = connector
            .list(Kind::Account, cursor)
            .await
            .map_err(|error| TakeoverError::Unlisted {
                system: name(),
                error,
            })?;
        let found = page.items.into_iter().filter_map(Object::into_account);
        accounts.extend(found.map(|account| (account.id.to_string(), account)));
        if accounts.len() > ACCOUNTS_MAX {
            return Err(TakeoverError::TooMany { system: name() });
        }
        match page.next {
            Some(next) => cursor = Some(next),
            None if page.complete => return Ok(accounts),
            None => {
                return Err(TakeoverError::Incomplete {
                    system: name(),
                    read: accounts.len(),
                });
            }
        }
    }
}
