//! Which version of a workflow somebody means.

use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use engine::core::definition::{DEFINITION_BYTES_MAX, Definition};
use engine::core::id::DefinitionHash;
use workflows::actions::{ACTIONS, FACT_ROOTS};
use workflows::definitions;

use super::super::Context;
use crate::shell::Database;

/// The shortest beginning of a hash that is taken for one.
const HASH_CHARS_MIN: usize = 4;

/// Those in force: of the configuration folder where there is one, else the built-in ones.
pub(in crate::cli) fn in_force(context: &Context) -> anyhow::Result<Vec<Definition>> {
    if context.config.is_dir() {
        Ok(context.configuration()?.definitions)
    } else {
        Ok(definitions::load(&[])?)
    }
}

/// The database, if there is one already: the definitions can be looked at without.
pub(in crate::cli) async fn database(context: &Context) -> anyhow::Result<Option<Database>> {
    if context.store.is_none() && !context.config.is_dir() {
        return Ok(None);
    }
    let address = context.address()?;
    if let workflows::config::StoreAddress::Sqlite(path) = &address
        && !path.exists()
    {
        return Ok(None);
    }
    Ok(Some(context.database().await?))
}

/// The version that is meant: a name (the one in force), a file, or the beginning of a stored version's hash.
///
/// # Errors
/// When there is none, or more than one.
pub(in crate::cli) async fn find(context: &Context, meant: &str) -> anyhow::Result<Definition> {
    let in_force = in_force(context)?;
    let names: Vec<String> = in_force.iter().map(|it| it.name.clone()).collect();
    if let Some(named) = in_force
        .iter()
        .position(|it| it.name == meant || begins(&it.hash, meant))
    {
        return in_force.into_iter().nth(named).context("the list has it");
    }
    let path = Path::new(meant);
    if path.is_file() {
        return of_file(path);
    }
    if is_hash(meant)
        && let Some(database) = database(context).await?
        && let Some(hash) = stored(&database, meant).await?
    {
        let version = database.version(&hash).await?;
        return version.with_context(|| format!("version `{hash}` is not stored any more"));
    }
    bail!(
        "`{meant}` is neither a workflow nor a file nor the hash of a stored version; workflows are {}",
        names.join(", ")
    )
}

/// The stored version whose hash begins so.
pub(in crate::cli) async fn stored(
    database: &Database,
    meant: &str,
) -> anyhow::Result<Option<DefinitionHash>> {
    let versions = database.store.versions().await?;
    let found: Vec<DefinitionHash> = versions
        .into_iter()
        .map(|row| row.hash)
        .filter(|hash| begins(hash, meant))
        .collect();
    match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        [first, second, ..] => {
            bail!("`{meant}` is the beginning of more than one version: `{first}` and `{second}`")
        }
    }
}

fn of_file(path: &Path) -> anyhow::Result<Definition> {
    let name = path.display().to_string();
    let bytes = std::fs::metadata(path).map_or(0, |it| it.len());
    ensure!(
        bytes <= DEFINITION_BYTES_MAX as u64,
        "`{name}` has {bytes} bytes; a workflow has at most {DEFINITION_BYTES_MAX}"
    );
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read `{name}`"))?;
    Ok(Definition::parse(&name, &text, FACT_ROOTS, &is_action)?)
}

/// Whether this program has the action.
pub(in crate::cli) fn is_action(uses: &str) -> bool {
    ACTIONS.iter().any(|(name, _)| *name == uses)
}

fn is_hash(meant: &str) -> bool {
    meant.len() >= HASH_CHARS_MIN && meant.chars().all(|c| c.is_ascii_hexdigit())
}

fn begins(hash: &DefinitionHash, meant: &str) -> bool {
    is_hash(meant) && hash.0.starts_with(&meant.to_ascii_lowercase())
}
