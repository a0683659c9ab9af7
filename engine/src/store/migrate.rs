//! Which schema steps a database still needs. How they are run is each store's own matter.

use sha2::{Digest, Sha256};

use super::{Migration, StoreError};

/// The most shards a database may have: each is a row that a commit may lock.
pub const SHARDS_MAX: u32 = 16_384;

/// A schema step that was carried out once.
pub(super) struct Applied {
    pub version: i64,
    pub checksum: String,
}

/// The oldest step that is missing, or `None`.
///
/// # Errors
/// [`StoreError::TooNew`] for a step this program does not know; [`StoreError::Migration`] for one whose text
/// is not what was carried out.
pub(super) fn next<'m>(
    applied: &[Applied],
    migrations: &'m [Migration],
    text: fn(&Migration) -> &'static str,
) -> Result<Option<&'m Migration>, StoreError> {
    let known = migrations
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or(0);
    for row in applied {
        match migrations
            .iter()
            .find(|migration| migration.version == row.version)
        {
            None => {
                return Err(StoreError::TooNew {
                    found: row.version,
                    known,
                });
            }
            Some(migration) if checksum(text(migration)) != row.checksum => {
                let source =
                    "its text changed after it was carried out; add a new migration instead";
                return Err(failed(migration.name, source));
            }
            Some(_) => {}
        }
    }
    let missing = migrations
        .iter()
        .filter(|migration| applied.iter().all(|row| row.version != migration.version));
    Ok(missing.min_by_key(|migration| migration.version))
}

pub(super) fn checksum(text: &str) -> String {
    use std::fmt::Write;
    Sha256::digest(text.as_bytes())
        .iter()
        .fold(String::new(), |mut hex, byte| {
            // Writing to a string cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
}

pub(super) fn failed(name: &str, source: impl Into<super::BoxError>) -> StoreError {
    StoreError::Migration {
        name: name.to_owned(),
        source: source.into(),
    }
}

/// # Errors
/// When a new database cannot have so many shards.
pub(super) fn check_shards(shards: u32) -> Result<i32, StoreError> {
    match i32::try_from(shards) {
        Ok(count) if (1..=SHARDS_MAX).contains(&shards) => Ok(count),
        _ => Err(failed(
            "shards",
            format!("`{shards}` shards: a database has between 1 and {SHARDS_MAX}"),
        )),
    }
}
