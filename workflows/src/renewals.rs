//! When authorities wish what they issued to be replaced (ACME Renewal Information, RFC 9773).
//!
//! An authority may want a certificate back before its time: it has to revoke many, or spreads its load. So it is asked, again and
//! again, after each that is in use; what it says takes the place of the rule of thumb by which a certificate is replaced
//! when two thirds of its life are over ([`crate::rotation::due`]). One that does not answer is asked later, and what it said before
//! holds: renewing does not wait for an opinion.
//!
//! It says itself when it wants to be asked again. One that is away is asked after nothing more in the same look.

use std::sync::atomic::{AtomicBool, Ordering};

use chrono::TimeDelta;
use connectors::connector::{
    Claim, Connector as _, CredentialId, CredentialKind, Error, ErrorKind, NativeId, Renewal,
    RetryClass, Verdict,
};
use connectors::secret::SecretRef;
use engine::core::Timestamp;
use engine::store::StoreError;
use futures_util::{StreamExt as _, stream};
use secrecy::ExposeSecret as _;

use crate::directory::{Directory, RotationRow, Wish};
use crate::rotation::settings::PART_ID;
use crate::systems::{System, Systems};

/// When one is asked again that does not say when, or that refused to answer.
pub const ASKED_AGAIN: TimeDelta = TimeDelta::hours(6);
/// When one is asked again that is away.
const AWAY_AGAIN: TimeDelta = TimeDelta::minutes(15);
/// Whatever it says, it is asked neither sooner nor later than this (RFC 9773, section 4.3).
const AGAIN_MIN: TimeDelta = TimeDelta::minutes(1);
const AGAIN_MAX: TimeDelta = TimeDelta::days(1);
/// The most that are asked after in one look; the rest is left to the next.
const ASKED_MAX: u32 = 500;
/// How many are asked after at once; fewer where a system takes fewer.
const AT_ONCE_MAX: usize = 8;
/// How many answers are kept at a time: what is lost when the node ends meanwhile.
const PAGE: usize = 32;

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

/// Whether it issues certificates, and so has to be looked at.
#[must_use]
pub fn is_authority(system: &System) -> bool {
    let can = system.capabilities();
    can.issues.contains_key(&CredentialKind::Certificate)
        && can.credentials.contains(&CredentialKind::Certificate)
}

/// Whether it can have an opinion.
#[must_use]
pub fn has_opinions(system: &System) -> bool {
    system.capabilities().renewal
}

/// Asks `system` after what it issued and is to be asked after now, and keeps its answers.
///
/// # Errors
/// When the database does not answer. A system that does not is told in what is given.
pub async fn ask(
    directory: &Directory,
    systems: &Systems,
    system: &System,
    now: Timestamp,
) -> Result<Asked, StoreError> {
    let rows = directory
        .rotations_renewable(system.name(), now, ASKED_MAX)
        .await?;
    let look = Look {
        systems,
        system,
        now,
        is_away: AtomicBool::new(false),
    };
    let mut found = Asked::default();
    for page in rows.chunks(PAGE) {
        let questions: Vec<_> = page.iter().map(|row| look.ask(row)).collect();
        let answers: Vec<Answer> = stream::iter(questions)
            .buffered(AT_ONCE_MAX)
            .collect()
            .await;
        let mut wishes = Vec::with_capacity(page.len());
        for (row, answer) in page.iter().zip(&answers) {
            let window = match answer {
                Answer::Said(renewal) => renewal.window,
                Answer::Failed(error) => {
                    let told = || format!("`{}`: {}", row.name, error.whole());
                    found.failed.get_or_insert_with(told);
                    None
                }
                Answer::NotAsked => None,
            };
            found.asked += usize::from(!matches!(answer, Answer::NotAsked));
            found.wished += usize::from(window.is_some());
            wishes.push(Wish::of(row, window, now, look.again(answer)));
        }
        directory.put_wishes(&wishes).await?;
    }
    Ok(found)
}

/// One look at one authority.
struct Look<'a> {
    systems: &'a Systems,
    system: &'a System,
    now: Timestamp,
    /// It is asked nothing more.
    is_away: AtomicBool,
}

/// What came of a question.
enum Answer {
    Said(Renewal),
    Failed(Error),
    NotAsked,
}

impl Look<'_> {
    async fn ask(&self, row: &RotationRow) -> Answer {
        if self.is_away.load(Ordering::Relaxed) {
            return Answer::NotAsked;
        }
        let id = match shown(self.systems, row).await {
            Ok(id) => id,
            Err(error) => return Answer::Failed(error),
        };
        let (Some(id), Some(holder)) = (id, row.declared.users.first()) else {
            return Answer::Said(Renewal::default());
        };
        let holder = NativeId::new(holder);
        match self.system.connector().renewal(&holder, &id).await {
            Ok(said) if said.window.is_some_and(|window| window.end < window.start) => {
                let what = "it wishes a time that ends before it begins";
                Answer::Failed(Error::new(ErrorKind::Bug, what))
            }
            Ok(said) => Answer::Said(said),
            Err(error) => {
                if error.retry_class() != RetryClass::Never {
                    self.is_away.store(true, Ordering::Relaxed);
                }
                Answer::Failed(error)
            }
        }
    }

    /// When to ask again.
    fn again(&self, answer: &Answer) -> Timestamp {
        let after = match answer {
            Answer::Said(said) => said.ask_again_s.map_or(ASKED_AGAIN, |seconds| {
                let after = i64::try_from(seconds).ok();
                after.and_then(TimeDelta::try_seconds).unwrap_or(AGAIN_MAX)
            }),
            Answer::NotAsked => AWAY_AGAIN,
            Answer::Failed(error) => match error.retry_class() {
                RetryClass::Never => ASKED_AGAIN,
                RetryClass::NotBefore(until) => until - self.now,
                RetryClass::Backoff | RetryClass::SystemDown => AWAY_AGAIN,
            },
        };
        self.now + after.clamp(AGAIN_MIN, AGAIN_MAX)
    }
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
