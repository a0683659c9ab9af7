//! What is found on a system and answers to nobody. Pure.
//!
//! An account of a system is a person's, or one that a declared non-human identity names or is replaced with; any other is *found*, and so
//! is a credential of a declared account that no declaration names. What was found is a question with a deadline: somebody
//! declares it, ends it, or accepts it for a while, saying why. Absence is a fact only in a complete listing, so what was
//! found before and is not there any more is gone.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::declare::Declared;

/// What was found, in the words of its system. Written `account:ID` or `credential:ID`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Thing {
    Account(String),
    Credential(String),
}

impl std::fmt::Display for Thing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Account(id) => write!(f, "account:{id}"),
            Self::Credential(id) => write!(f, "credential:{id}"),
        }
    }
}

impl From<Thing> for String {
    fn from(thing: Thing) -> Self {
        thing.to_string()
    }
}

impl TryFrom<String> for Thing {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl std::str::FromStr for Thing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("account", id)) if !id.is_empty() => Ok(Self::Account(id.to_owned())),
            Some(("credential", id)) if !id.is_empty() => Ok(Self::Credential(id.to_owned())),
            _ => Err(format!(
                "`{}` names nothing that is found: write `account:ID` or `credential:ID`, as `tenure nhi found` shows it",
                text.escape_debug()
            )),
        }
    }
}

/// Where a question about what was found stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FoundStatus {
    /// Nobody answers for it.
    Open,
    /// A declaration names it, or a person holds it.
    Adopted,
    /// It is not there any more.
    Gone,
    /// Somebody said why it may stay so, until a day.
    Accepted,
}

impl FoundStatus {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Adopted => "adopted",
            Self::Gone => "gone",
            Self::Accepted => "accepted",
        }
    }
}

/// One thing that was found, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    pub system: String,
    pub thing: Thing,
    /// The login name of the account.
    pub name: String,
    /// The identity whose account it is, for a credential.
    #[serde(default)]
    pub nhi_key: Option<String>,
    /// Whether a login would succeed; `None` when the system does not say.
    #[serde(default)]
    pub enabled: Option<bool>,
    pub status: FoundStatus,
    pub first_seen_at: DateTime<Utc>,
    pub last_seen_at: DateTime<Utc>,
    /// By when somebody has to answer for it; for what was accepted, until when.
    pub due_at: DateTime<Utc>,
    #[serde(default)]
    pub decided_by: Option<String>,
    #[serde(default)]
    pub reason: Option<String>,
}

/// What is on a system now.
#[derive(Debug, Clone, Default)]
pub struct There {
    /// Accounts by the system's identifier: login name, and whether a login would succeed.
    pub accounts: BTreeMap<String, (String, Option<bool>)>,
    /// Identifiers of the accounts that people hold.
    pub peoples: BTreeSet<String>,
    /// Declared accounts, by login name or identifier: whose they are.
    pub declared: BTreeMap<String, String>,
    /// Usable credentials of declared accounts, by identifier of the account.
    pub credentials: BTreeMap<String, BTreeSet<String>>,
    /// Identifiers of the credentials that are declared.
    pub known: BTreeSet<String>,
    /// Login names, bundles and endpoints that [rotations](replaced_on) work with: whoever declared those answers for them.
    pub replaced: BTreeSet<String>,
}

/// What the rotations of an identity's credentials work with on a system: the logins that take turns, the bundles that keep what is
/// issued, the endpoints where it is seen.
pub fn replaced_on<'a>(declared: &'a Declared, system: &'a str) -> impl Iterator<Item = &'a str> {
    declared.credentials.iter().flat_map(move |credential| {
        let rotation = credential.rotation.as_ref();
        let users = rotation.filter(|_| credential.system == system);
        let users = users.into_iter().flat_map(|rotation| &rotation.users);
        let places = rotation
            .into_iter()
            .flat_map(|rotation| std::iter::once(&rotation.place).chain(&rotation.trusted_in));
        let bundles = places.filter(move |place| place.system == system);
        let serves = rotation.and_then(|rotation| rotation.serves.as_ref());
        let endpoint = serves.filter(|serves| serves.system == system);
        users
            .map(String::as_str)
            .chain(bundles.map(|place| place.bundle.as_str()))
            .chain(endpoint.map(|serves| serves.endpoint.as_str()))
    })
}

impl There {
    /// The declared identity whose account it is.
    #[must_use]
    pub fn identity(&self, id: &str, name: &str) -> Option<&str> {
        let declared = self.declared.get(id).or_else(|| self.declared.get(name));
        declared.map(String::as_str)
    }

    /// Everything that answers to nobody: login name, identity, and whether it is enabled.
    fn unanswered(&self) -> BTreeMap<Thing, (&str, Option<&str>, Option<bool>)> {
        let mut unanswered = BTreeMap::new();
        for (id, (name, enabled)) in &self.accounts {
            match self.identity(id, name) {
                None if self.peoples.contains(id) => {}
                None if self.replaced.contains(id) || self.replaced.contains(name) => {}
                None => {
                    let thing = Thing::Account(id.clone());
                    unanswered.insert(thing, (name.as_str(), None, *enabled));
                }
                Some(key) => {
                    let held = self.credentials.get(id).into_iter().flatten();
                    for credential in held.filter(|it| !self.known.contains(*it)) {
                        let thing = Thing::Credential(credential.clone());
                        unanswered.insert(thing, (name.as_str(), Some(key), None));
                    }
                }
            }
        }
        unanswered
    }
}

/// What changes in what was found before, when `there` is all that is on `system` at `now`.
///
/// `within` is how long somebody has to answer for what is new.
#[must_use]
pub fn compare(
    system: &str,
    before: &[Found],
    there: &There,
    within: TimeDelta,
    now: DateTime<Utc>,
) -> Vec<Found> {
    let unanswered = there.unanswered();
    let known: BTreeMap<&Thing, &Found> =
        before.iter().map(|found| (&found.thing, found)).collect();
    let due = now
        .checked_add_signed(within)
        .unwrap_or(DateTime::<Utc>::MAX_UTC);
    let mut changed = Vec::new();
    for (thing, (name, key, enabled)) in &unanswered {
        let new = Found {
            system: system.to_owned(),
            thing: thing.clone(),
            name: (*name).to_owned(),
            nhi_key: key.map(str::to_owned),
            enabled: *enabled,
            status: FoundStatus::Open,
            first_seen_at: now,
            last_seen_at: now,
            due_at: due,
            decided_by: None,
            reason: None,
        };
        changed.push(match known.get(thing) {
            // Seen before, and still nobody answers: its deadline stays.
            Some(found) if found.status == FoundStatus::Open => Found {
                first_seen_at: found.first_seen_at,
                due_at: found.due_at,
                ..new
            },
            // Accepted for a while; when that is over it is due at once.
            Some(found) if found.status == FoundStatus::Accepted => Found {
                status: match found.due_at > now {
                    true => FoundStatus::Accepted,
                    false => FoundStatus::Open,
                },
                first_seen_at: found.first_seen_at,
                due_at: found.due_at,
                decided_by: found.decided_by.clone(),
                reason: found.reason.clone(),
                ..new
            },
            _ => new,
        });
    }
    for found in before {
        let is_over = matches!(found.status, FoundStatus::Adopted | FoundStatus::Gone);
        if is_over || unanswered.contains_key(&found.thing) {
            continue;
        }
        let is_there = match &found.thing {
            Thing::Account(id) => there.accounts.contains_key(id),
            Thing::Credential(id) => there.known.contains(id),
        };
        changed.push(Found {
            status: match is_there {
                true => FoundStatus::Adopted,
                false => FoundStatus::Gone,
            },
            last_seen_at: if is_there { now } else { found.last_seen_at },
            ..found.clone()
        });
    }
    changed
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use super::*;

    fn day(number: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::days(number)
    }

    fn there(accounts: &[&str], peoples: &[&str], declared: &[(&str, &str)]) -> There {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        There {
            accounts: (accounts.iter())
                .map(|id| ((*id).to_owned(), (format!("{id}-login"), Some(true))))
                .collect(),
            peoples: texts(peoples),
            declared: (declared.iter())
                .map(|(id, key)| ((*id).to_owned(), (*key).to_owned()))
                .collect(),
            ..There::default()
        }
    }

    #[test]
    fn whoever_declared_a_rotation_answers_for_what_it_works_with() {
        let declared: Declared = serde_json::from_value(serde_json::json!({
            "key": "web", "kind": "workload", "environment": "production", "purpose": "serves", "team": "shop",
            "owner": "A1", "backup": "B2", "review": "2027-01-31",
            "credentials": [{
                "system": "ca", "id": "certificate:shop", "kind": "certificate", "replaced_by": "reissue",
                "rotation": {
                    "place": { "system": "files", "bundle": "shop" }, "users": ["shop"],
                    "serves": { "system": "edge", "endpoint": "www" },
                },
            }],
        }))
        .unwrap();
        let on = |system: &str| -> Vec<String> {
            replaced_on(&declared, system).map(str::to_owned).collect()
        };
        assert_eq!(on("ca"), ["shop"]);
        assert_eq!(on("files"), ["shop"]);
        assert_eq!(on("edge"), ["www"]);
        assert!(on("elsewhere").is_empty());
        let mut there = there(&["shop", "stray"], &[], &[]);
        there.replaced = BTreeSet::from(["shop".to_owned()]);
        let found = compare("files", &[], &there, TimeDelta::days(14), day(0));
        assert_eq!(told(&found), ["account:stray open due 14"]);
    }

    fn told(found: &[Found]) -> Vec<String> {
        let told = found.iter().map(|found| {
            format!(
                "{} {} due {}",
                found.thing,
                found.status.as_str(),
                (found.due_at - day(0)).num_days()
            )
        });
        told.collect()
    }

    #[test]
    fn what_answers_to_nobody_is_found_and_keeps_its_deadline() {
        let within = TimeDelta::days(14);
        let first = there(&["1", "2", "3"], &["1"], &[("2-login", "sync")]);
        let found = compare("ldap", &[], &first, within, day(1));
        assert_eq!(told(&found), ["account:3 open due 15"]);
        assert_eq!(found[0].name, "3-login");
        let again = compare("ldap", &found, &first, within, day(5));
        assert_eq!(told(&again), ["account:3 open due 15"]);
        assert_eq!(
            (again[0].first_seen_at, again[0].last_seen_at),
            (day(1), day(5))
        );

        // Somebody declares it by name, it is given to a person, or it goes.
        let adopted = there(
            &["1", "2", "3"],
            &["1"],
            &[("2-login", "sync"), ("3", "web")],
        );
        assert_eq!(
            told(&compare("ldap", &again, &adopted, within, day(6))),
            ["account:3 adopted due 15"]
        );
        let person = there(&["1", "2", "3"], &["1", "3"], &[("2-login", "sync")]);
        assert_eq!(
            told(&compare("ldap", &again, &person, within, day(6))),
            ["account:3 adopted due 15"]
        );
        let gone = compare("ldap", &again, &there(&["1"], &["1"], &[]), within, day(6));
        assert_eq!(told(&gone), ["account:3 gone due 15"]);
        assert_eq!(gone[0].last_seen_at, day(5));
        // What comes back is a new question.
        assert_eq!(
            told(&compare("ldap", &gone, &first, within, day(20))),
            ["account:3 open due 34"]
        );
    }

    #[test]
    fn what_was_accepted_stays_so_until_its_day() {
        let within = TimeDelta::days(14);
        let now = there(&["3"], &[], &[]);
        let mut found = compare("ldap", &[], &now, within, day(1));
        found[0].status = FoundStatus::Accepted;
        found[0].due_at = day(30);
        found[0].reason = Some("until the new gateway".into());
        let later = compare("ldap", &found, &now, within, day(29));
        assert_eq!(told(&later), ["account:3 accepted due 30"]);
        assert_eq!(
            told(&compare("ldap", &later, &now, within, day(31))),
            ["account:3 open due 30"]
        );
    }

    #[test]
    fn a_credential_nobody_declared_is_found_on_declared_accounts_only() {
        let within = TimeDelta::days(14);
        let mut now = there(&["1", "2", "3"], &["1"], &[("2", "sync")]);
        for id in ["1", "2", "3"] {
            let held = BTreeSet::from([format!("key-{id}a"), format!("key-{id}b")]);
            now.credentials.insert(id.into(), held);
        }
        now.known.insert("key-2a".into());
        let found = compare("ldap", &[], &now, within, day(1));
        assert_eq!(
            told(&found),
            ["account:3 open due 15", "credential:key-2b open due 15"]
        );
        assert_eq!(found[1].nhi_key.as_deref(), Some("sync"));
        now.known.insert("key-2b".into());
        let after = compare("ldap", &found[1..], &now, within, day(2));
        assert!(
            told(&after).contains(&"credential:key-2b adopted due 15".to_owned()),
            "{after:?}"
        );
        now.known.remove("key-2b");
        now.credentials.clear();
        let after = compare("ldap", &found[1..], &now, within, day(2));
        assert!(
            told(&after).contains(&"credential:key-2b gone due 15".to_owned()),
            "{after:?}"
        );
    }

    #[test]
    fn a_thing_is_read_as_it_is_written_and_nothing_else_is() {
        for text in ["account:17", "credential:ssh_key:SHA256:x"] {
            assert_eq!(text.parse::<Thing>().unwrap().to_string(), text);
        }
        for text in ["", "account", "account:", "role:x", "credential:"] {
            assert!(
                text.parse::<Thing>().unwrap_err().contains("nhi found"),
                "{text}"
            );
        }
    }
}
