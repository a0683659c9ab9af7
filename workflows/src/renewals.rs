//! When authorities wish what they issued to be replaced (ACME Renewal Information, RFC 9773).
//!
//! An authority may want a certificate back before its time: it has to revoke many, or spreads its load. So it is asked, again and
//! again, after each that is in use; what it says takes the place of the rule of thumb by which a certificate is replaced
//! when two thirds of its life are over ([`crate::rotation::due`]). One that does not answer is asked later, and what it said before
//! holds: renewing does not wait for an opinion.

use chrono::TimeDelta;
use connectors::connector::{
    Claim, Connector as _, CredentialId, CredentialKind, Error, NativeId, RenewalWindow, Verdict,
};
use connectors::secret::SecretRef;
use engine::core::Timestamp;
use engine::store::StoreError;
use secrecy::ExposeSecret as _;

use crate::directory::{Directory, RotationRow, Wish};
use crate::rotation::settings::PART_ID;
use crate::systems::{System, Systems};

/// How long an answer holds.
pub const ASKED_AGAIN: TimeDelta = TimeDelta::hours(6);
/// The most that are asked after in one look; the rest is left to the next.
const ASKED_MAX: u32 = 500;

/// What one look found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// After how many it was asked.
    pub asked: usize,
    /// Of how many the authority has an opinion.
    pub wished: usize,
    /// What went wrong, for the first of those of which nothing was learned.
    pub failed: Option<String>,
}

/// Whether it can have an opinion.
#[must_use]
pub fn has_opinions(system: &System) -> bool {
    let can = system.capabilities();
    can.issues.contains_key(&CredentialKind::Certificate)
        && can.credentials.contains(&CredentialKind::Certificate)
}

/// Asks `system` after what it issued and was not asked after for [`ASKED_AGAIN`], and keeps its answers.
///
/// # Errors
/// When the database does not answer. A system that does not is told in what is given.
pub async fn ask(
    directory: &Directory,
    systems: &Systems,
    system: &System,
    now: Timestamp,
) -> Result<Asked, StoreError> {
    let before = now - ASKED_AGAIN;
    let rows = directory
        .rotations_renewable(system.name(), before, ASKED_MAX)
        .await?;
    let (mut found, mut wishes) = (Asked::default(), Vec::new());
    for row in &rows {
        found.asked += 1;
        match wish(systems, system, row).await {
            Ok(window) => {
                found.wished += usize::from(window.is_some());
                wishes.push(Wish::of(row, window, now));
            }
            Err(error) => {
                let told = format!("`{}`: {}", row.name, error.whole());
                found.failed.get_or_insert(told);
                // It is asked later; whoever is behind it in the row is not kept waiting.
                wishes.push(Wish::of(row, None, now));
            }
        }
    }
    if !wishes.is_empty() {
        directory.put_wishes(&wishes).await?;
    }
    Ok(found)
}

/// When the authority wishes what the place shows to be replaced.
async fn wish(
    systems: &Systems,
    system: &System,
    row: &RotationRow,
) -> Result<Option<RenewalWindow>, Error> {
    let (Some(id), Some(holder)) = (shown(systems, row).await?, row.declared.users.first()) else {
        return Ok(None);
    };
    let holder = NativeId::new(holder);
    let listed = system.connector().credentials(&holder).await?;
    let shown = listed.value.into_iter().find(|one| one.id == id);
    Ok(shown.and_then(|one| one.renewal))
}

/// How the system calls what the place shows.
async fn shown(systems: &Systems, row: &RotationRow) -> Result<Option<CredentialId>, Error> {
    let place = &row.declared.place;
    let Some(keeps) = systems.get(&place.system) else {
        return Ok(None);
    };
    let bundle = NativeId::new(&place.bundle);
    let versions = keeps.connector().credentials(&bundle).await?;
    let Some(version) = versions
        .value
        .into_iter()
        .find(|one| one.active == Some(true))
    else {
        return Ok(None);
    };
    let claim = Claim::CredentialStored {
        account: bundle,
        credential: version.id,
    };
    let Verdict::Proven(seen) = keeps.connector().verify(&claim).await? else {
        return Ok(None);
    };
    let at = seen.seen.get("parts").and_then(|parts| parts.get(PART_ID));
    let at: Option<SecretRef> = at.and_then(|at| serde_json::from_value(at.clone()).ok());
    let id = at.and_then(|at| at.resolve().ok());
    Ok(id.map(|id| CredentialId::new(id.expose_secret())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use std::collections::BTreeSet;

    use crate::nhi::declare;
    use crate::systems::SystemConfig;

    /// The example in docs/rotation.md: each file of it is read, and what it declares can be carried out.
    #[test]
    fn the_example_of_the_page_can_be_used_as_it_stands() {
        let page = include_str!("../../docs/rotation.md");
        let (mut systems, mut declares) = (BTreeSet::new(), None);
        for block in page.split("```yaml\n").skip(1) {
            let (text, _) = block.split_once("```").unwrap();
            let first = text.lines().next().unwrap();
            if let Some(file) = first.strip_prefix("# systems/") {
                let name = file.strip_suffix(".yaml").unwrap();
                let config = SystemConfig::load(file, text).unwrap();
                let kind = config.kind.value.clone();
                connectors::registry::build(name, &kind, config.settings)
                    .unwrap_or_else(|error| panic!("{file}: {}", error.whole()));
                systems.insert(name);
            } else if first == "# nhis.yaml" {
                declares = Some(text);
            }
        }
        assert_eq!(
            systems,
            BTreeSet::from(["edge", "letsencrypt", "web-files"])
        );
        let declared = declare::parse("nhis.yaml", declares.unwrap(), &systems).unwrap();
        assert_eq!(declared.len(), 1);
    }
}
