//! What policy wants of the credentials of non-human identities, and which fall short of it. Pure.
//!
//! ```yaml
//! credentials:
//!   - name: passwords of production
//!     kinds: [password]              # all kinds without
//!     environments: [production]     # all environments without
//!     age_max: 90d                   # replaced by then
//!   - name: certificates that browsers see
//!     kinds: [certificate]
//!     lifetime_max: cab_forum        # or a time such as 90d
//!     keys: { rsa: 3072, ec: 256 }   # the fewest bits
//!     expiry: [30d, 7d, 1d]          # told at each, to more people each time
//!   - name: everything
//!     consumers_max: 1
//!     dormant_after: 90d
//!     one_environment: true          # what proves something here proves nothing elsewhere
//! ```
//!
//! What is not known is no fault by itself, but it is said: a rule about age finds a credential whose age nobody knows.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use connectors::connector::CredentialKind;
use engine::core::duration::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_saphyr::Spanned;

use super::problem::{Problem, Problems};

/// The most moments at which the end of a credential is told.
const EXPIRY_MAX: usize = 10;
const DAYS_MAX: i64 = 3_650;

/// The most days that a certificate browsers accept may live, by the day it is issued on or after: ballot SC-081 of the
/// CA/Browser Forum, section 6.3.2 of its baseline requirements.
pub const CAB_FORUM: [(NaiveDate, i64); 4] = [
    (day(2020, 9, 1), 398),
    (day(2026, 3, 15), 200),
    (day(2027, 3, 15), 100),
    (day(2029, 3, 15), 47),
];

const fn day(year: i32, month: u32, day: u32) -> NaiveDate {
    match NaiveDate::from_ymd_opt(year, month, day) {
        Some(day) => day,
        None => NaiveDate::MAX,
    }
}

/// How many days a certificate that is issued then may live.
#[must_use]
pub fn cab_forum_days(issued: NaiveDate) -> Option<i64> {
    let held = CAB_FORUM.iter().rev().find(|(from, _)| issued >= *from);
    held.map(|(_, days)| *days)
}

/// One rule, as a file says it.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CredentialDocument {
    #[schemars(with = "String")]
    pub name: Spanned<String>,
    /// `password`, `ssh_key`, `certificate`, `api_key`, `token`; all without.
    #[serde(default)]
    #[schemars(with = "BTreeSet<String>")]
    pub kinds: BTreeSet<CredentialKind>,
    /// All without.
    #[serde(default)]
    pub environments: BTreeSet<String>,
    /// It is replaced before it is older.
    #[serde(default)]
    pub age_max: Option<Span>,
    /// It is issued for no longer.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub lifetime_max: Option<Lifetime>,
    /// The fewest bits of its key.
    #[serde(default)]
    pub keys: Option<KeyBits>,
    /// The most that use it.
    #[serde(default)]
    pub consumers_max: Option<u32>,
    /// It is asked about when nothing has used it for so long.
    #[serde(default)]
    pub dormant_after: Option<Span>,
    /// The same secret stands in no other environment.
    #[serde(default)]
    pub one_environment: bool,
    /// How long before its end people are told.
    #[serde(default)]
    pub expiry: Vec<Span>,
}

/// How long something may be issued for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Lifetime {
    /// As [`CAB_FORUM`] says, by the day of issue.
    CabForum,
    Of(Span),
}

impl TryFrom<String> for Lifetime {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == "cab_forum" {
            return Ok(Self::CabForum);
        }
        Span::parse(&text)
            .map(Self::Of)
            .map_err(|error| format!("{error}; or write `cab_forum`"))
    }
}

impl From<Lifetime> for String {
    fn from(lifetime: Lifetime) -> Self {
        match lifetime {
            Lifetime::CabForum => "cab_forum".to_owned(),
            Lifetime::Of(span) => span.to_string(),
        }
    }
}

/// The fewest bits, by the kind of key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyBits {
    #[serde(default = "rsa_bits")]
    pub rsa: u32,
    #[serde(default = "ec_bits")]
    pub ec: u32,
}

fn rsa_bits() -> u32 {
    2_048
}

fn ec_bits() -> u32 {
    256
}

/// The key of a credential. Written `rsa:3072`, `ec:256`, `ed25519`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Key {
    Rsa(u32),
    Ec(u32),
    Ed25519,
}

impl FromStr for Key {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bits = |text: &str| {
            text.parse::<u32>()
                .ok()
                .filter(|bits| (64..=65_536).contains(bits))
        };
        let read = match text.split_once(':') {
            Some(("rsa", text)) => bits(text).map(Self::Rsa),
            Some(("ec", text)) => bits(text).map(Self::Ec),
            None if text == "ed25519" => Some(Self::Ed25519),
            _ => None,
        };
        read.ok_or_else(|| {
            format!(
                "`{}` is no key: write `rsa:BITS`, `ec:BITS` or `ed25519`",
                text.escape_debug()
            )
        })
    }
}

impl TryFrom<String> for Key {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa(bits) => write!(f, "rsa:{bits}"),
            Self::Ec(bits) => write!(f, "ec:{bits}"),
            Self::Ed25519 => f.write_str("ed25519"),
        }
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.to_string()
    }
}

/// A rule, checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CredentialRule {
    pub name: String,
    kinds: BTreeSet<CredentialKind>,
    environments: BTreeSet<String>,
    age_max: Option<Span>,
    lifetime_max: Option<Lifetime>,
    keys: Option<KeyBits>,
    consumers_max: Option<u32>,
    dormant_after: Option<Span>,
    one_environment: bool,
    /// The longest first.
    expiry: Vec<Span>,
}

/// What is known of one credential that rules ask for.
#[derive(Debug, Clone)]
pub struct CredentialState {
    /// `system/id`.
    pub name: String,
    pub kind: CredentialKind,
    pub environment: String,
    pub issued: Option<DateTime<Utc>>,
    pub expires: Option<DateTime<Utc>>,
    pub key: Option<Key>,
    pub consumers: BTreeSet<String>,
    /// When something was last seen to use it.
    pub last_used: Option<DateTime<Utc>>,
    /// Names of what holds the same secret in another environment.
    pub elsewhere: BTreeSet<String>,
}

/// How a credential falls short of a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum Fault {
    TooOld {
        since: DateTime<Utc>,
    },
    AgeUnknown,
    IssuedForTooLong {
        days: i64,
        most: i64,
    },
    WeakKey {
        key: Key,
        fewest: u32,
    },
    KeyUnknown,
    TooManyConsumers {
        consumers: BTreeSet<String>,
        most: u32,
    },
    Dormant {
        last_used: DateTime<Utc>,
    },
    NeverSeenUsed,
    ElsewhereToo {
        names: BTreeSet<String>,
    },
    /// The end is near: how many of the moments at which it is told have come.
    Expires {
        at: DateTime<Utc>,
        told: usize,
        of: usize,
    },
    Expired {
        at: DateTime<Utc>,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooOld { since } => {
                write!(f, "older than it may be since {}", since.date_naive())
            }
            Self::AgeUnknown => f.write_str("nobody knows when it was issued"),
            Self::IssuedForTooLong { days, most } => {
                write!(
                    f,
                    "issued for {days} days, more than the {most} it may live"
                )
            }
            Self::WeakKey { key, fewest } => {
                write!(f, "its key is {key}, of fewer than {fewest} bits")
            }
            Self::KeyUnknown => f.write_str("nobody knows what key it has"),
            Self::TooManyConsumers { consumers, most } => write!(
                f,
                "used by {} ({}), more than {most}",
                consumers.len(),
                consumers
                    .iter()
                    .take(5)
                    .cloned()
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
            Self::Dormant { last_used } => {
                write!(f, "not seen in use since {}", last_used.date_naive())
            }
            Self::NeverSeenUsed => f.write_str("never seen in use"),
            Self::ElsewhereToo { names } => write!(
                f,
                "the same secret stands in another environment: {}",
                names.iter().cloned().collect::<Vec<_>>().join(", ")
            ),
            Self::Expires { at, .. } => write!(f, "expires on {}", at.date_naive()),
            Self::Expired { at } => write!(f, "expired on {}", at.date_naive()),
        }
    }
}

impl CredentialRule {
    /// # Errors
    /// Everything that is wrong, with its place in `file`.
    pub fn compile(file: &str, document: &CredentialDocument) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let name = &document.name.value;
        let place = document.name.referenced;
        let place = Some((place.line(), place.column()));
        let mut wrong = |message: String, fix: &str| {
            problems.push(Problem::new(file, place, message, fix));
        };
        if name.trim().is_empty() {
            wrong(
                "a rule about credentials has no name".to_owned(),
                "say what it is about",
            );
        }
        let spans = [
            ("age_max", document.age_max),
            ("dormant_after", document.dormant_after),
        ];
        let lifetime = match document.lifetime_max {
            Some(Lifetime::Of(span)) => Some(span),
            Some(Lifetime::CabForum) | None => None,
        };
        for (field, span) in spans.into_iter().chain([("lifetime_max", lifetime)]) {
            if let Some(span) = span.filter(|span| !in_bounds(*span)) {
                wrong(
                    format!("`{field}` of `{name}` is {span}"),
                    "give more than `0s` and up to `3650d`",
                );
            }
        }
        for span in &document.expiry {
            if !in_bounds(*span) {
                wrong(
                    format!("`{name}` tells {span} before the end"),
                    "give more than `0s` and up to `3650d`",
                );
            }
        }
        if document.expiry.len() > EXPIRY_MAX {
            wrong(
                format!("`{name}` tells an end more than {EXPIRY_MAX} times"),
                "leave some out",
            );
        }
        if document.consumers_max == Some(0) {
            wrong(
                format!("`{name}` lets nobody use a credential"),
                "give 1 or more",
            );
        }
        let mut expiry = document.expiry.clone();
        expiry.sort_unstable_by(|a, b| b.cmp(a));
        expiry.dedup();
        problems.into_result(|| Self {
            name: name.clone(),
            kinds: document.kinds.clone(),
            environments: document.environments.clone(),
            age_max: document.age_max,
            lifetime_max: document.lifetime_max,
            keys: document.keys,
            consumers_max: document.consumers_max,
            dormant_after: document.dormant_after,
            one_environment: document.one_environment,
            expiry,
        })
    }

    fn is_about(&self, kind: CredentialKind, environment: &str) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&kind))
            && (self.environments.is_empty() || self.environments.contains(environment))
    }

    /// The longest time before an end at which somebody is told.
    #[must_use]
    pub fn horizon(&self) -> Option<Span> {
        self.expiry.first().copied()
    }

    /// How a credential falls short of this rule.
    #[must_use]
    pub fn faults(&self, state: &CredentialState, now: DateTime<Utc>) -> Vec<Fault> {
        if !self.is_about(state.kind, &state.environment) {
            return Vec::new();
        }
        let mut faults = Vec::new();
        faults.extend(self.too_old(state, now));
        faults.extend(self.too_long(state));
        faults.extend(self.weak(state));
        if let Some(most) = self.consumers_max
            && state.consumers.len() > usize::try_from(most).unwrap_or(usize::MAX)
        {
            faults.push(Fault::TooManyConsumers {
                consumers: state.consumers.clone(),
                most,
            });
        }
        if let Some(after) = self.dormant_after {
            match state.last_used {
                None => faults.push(Fault::NeverSeenUsed),
                Some(last_used) if now - last_used > after.delta() => {
                    faults.push(Fault::Dormant { last_used });
                }
                Some(_) => {}
            }
        }
        if self.one_environment && !state.elsewhere.is_empty() {
            faults.push(Fault::ElsewhereToo {
                names: state.elsewhere.clone(),
            });
        }
        faults.extend(self.ends(state, now));
        faults
    }

    fn too_old(&self, state: &CredentialState, now: DateTime<Utc>) -> Option<Fault> {
        let age_max = self.age_max?;
        match state.issued {
            None => Some(Fault::AgeUnknown),
            Some(issued) => {
                let since = issued.checked_add_signed(age_max.delta())?;
                (since <= now).then_some(Fault::TooOld { since })
            }
        }
    }

    fn too_long(&self, state: &CredentialState) -> Option<Fault> {
        let (issued, expires) = (state.issued?, state.expires?);
        let most = match self.lifetime_max? {
            Lifetime::Of(span) => span.delta(),
            Lifetime::CabForum => TimeDelta::days(cab_forum_days(issued.date_naive())?),
        };
        // The last second of a certificate is within its life: RFC 5280, section 4.1.2.5.
        let life = expires - issued;
        (life > most).then(|| Fault::IssuedForTooLong {
            days: days_begun(life),
            most: most.num_days(),
        })
    }

    fn weak(&self, state: &CredentialState) -> Option<Fault> {
        let fewest = self.keys?;
        let has_key = matches!(
            state.kind,
            CredentialKind::Certificate | CredentialKind::SshKey
        );
        match state.key {
            None => has_key.then_some(Fault::KeyUnknown),
            Some(key @ Key::Rsa(bits)) => {
                let fewest = fewest.rsa;
                (bits < fewest).then_some(Fault::WeakKey { key, fewest })
            }
            Some(key @ Key::Ec(bits)) => {
                let fewest = fewest.ec;
                (bits < fewest).then_some(Fault::WeakKey { key, fewest })
            }
            Some(Key::Ed25519) => None,
        }
    }

    fn ends(&self, state: &CredentialState, now: DateTime<Utc>) -> Option<Fault> {
        let at = state.expires?;
        if self.expiry.is_empty() {
            return None;
        }
        if at <= now {
            return Some(Fault::Expired { at });
        }
        let told = self
            .expiry
            .iter()
            .filter(|before| at - before.delta() <= now)
            .count();
        (told > 0).then_some(Fault::Expires {
            at,
            told,
            of: self.expiry.len(),
        })
    }
}

/// How long before the end of such a credential people are told, by any of `rules`: the longest first.
#[must_use]
pub fn horizons(rules: &[CredentialRule], kind: CredentialKind, environment: &str) -> Vec<Span> {
    let rules = rules.iter().filter(|rule| rule.is_about(kind, environment));
    let spans: BTreeSet<Span> = rules.flat_map(|rule| rule.expiry.iter().copied()).collect();
    spans.into_iter().rev().collect()
}

/// Days, one that has begun counted whole.
fn days_begun(life: TimeDelta) -> i64 {
    let days = life.num_days();
    if life > TimeDelta::days(days) {
        days + 1
    } else {
        days
    }
}

fn in_bounds(span: Span) -> bool {
    span.ms() > 0 && span.delta() <= TimeDelta::days(DAYS_MAX)
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "tests"
    )]

    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        format!("{text}T00:00:00Z").parse().unwrap()
    }

    fn rule(text: &str) -> Result<CredentialRule, Problems> {
        let document: CredentialDocument =
            crate::policy::yaml::parse("c.yaml", text).map_err(|problem| {
                let mut problems = Problems::default();
                problems.push(problem);
                problems
            })?;
        CredentialRule::compile("c.yaml", &document)
    }

    fn state(kind: CredentialKind) -> CredentialState {
        CredentialState {
            name: "ldap/x".into(),
            kind,
            environment: "production".into(),
            issued: Some(at("2026-01-01")),
            expires: Some(at("2026-12-31")),
            key: None,
            consumers: BTreeSet::new(),
            last_used: Some(at("2026-03-01")),
            elsewhere: BTreeSet::new(),
        }
    }

    #[test]
    fn the_schedule_of_the_forum_is_by_the_day_of_issue() {
        let rows = [
            ("2020-08-31", None),
            ("2026-03-14", Some(398)),
            ("2026-03-15", Some(200)),
            ("2027-03-14", Some(200)),
            ("2027-03-15", Some(100)),
            ("2029-03-14", Some(100)),
            ("2029-03-15", Some(47)),
            ("2040-01-01", Some(47)),
        ];
        for (issued, days) in rows {
            assert_eq!(cab_forum_days(issued.parse().unwrap()), days, "{issued}");
        }
        let rule = rule("name: web\nlifetime_max: cab_forum").unwrap();
        let mut web = state(CredentialKind::Certificate);
        web.issued = Some(at("2026-03-15"));
        web.expires = Some(at("2026-10-01"));
        assert_eq!(rule.faults(&web, at("2026-04-01")), []);
        web.expires = Some(at("2026-10-01") + TimeDelta::seconds(1));
        assert_eq!(
            rule.faults(&web, at("2026-04-01")),
            [Fault::IssuedForTooLong {
                days: 201,
                most: 200
            }]
        );
        web.issued = Some(at("2026-03-14"));
        assert_eq!(rule.faults(&web, at("2026-04-01")), []);
    }

    #[test]
    fn a_credential_is_held_to_the_rules_about_it_alone() {
        let now = at("2026-06-01");
        let check = |rule_text: &str, change: &dyn Fn(&mut CredentialState), expected: &[&str]| {
            let mut state = state(CredentialKind::Password);
            change(&mut state);
            let faults = rule(rule_text).unwrap().faults(&state, now);
            let told: Vec<String> = faults.iter().map(ToString::to_string).collect();
            assert_eq!(told, expected, "{rule_text}");
        };
        let same = |_: &mut CredentialState| {};
        check(
            "{name: r, age_max: 90d}",
            &same,
            &["older than it may be since 2026-04-01"],
        );
        check("{name: r, age_max: 365d}", &same, &[]);
        check("{name: r, age_max: 90d, kinds: [token]}", &same, &[]);
        check(
            "{name: r, age_max: 90d, environments: [staging]}",
            &same,
            &[],
        );
        check(
            "{name: r, age_max: 90d}",
            &|s| s.issued = None,
            &["nobody knows when it was issued"],
        );
        check(
            "{name: r, dormant_after: 30d}",
            &same,
            &["not seen in use since 2026-03-01"],
        );
        check(
            "{name: r, dormant_after: 30d}",
            &|s| s.last_used = None,
            &["never seen in use"],
        );
        check(
            "{name: r, consumers_max: 1}",
            &|s| s.consumers = BTreeSet::from(["a".into(), "b".into()]),
            &["used by 2 (a, b), more than 1"],
        );
        check(
            "{name: r, one_environment: true}",
            &|s| s.elsewhere = BTreeSet::from(["test/x".into()]),
            &["the same secret stands in another environment: test/x"],
        );
        check("{name: r, keys: {rsa: 3072}}", &same, &[]);
        check(
            "{name: r, keys: {rsa: 3072}}",
            &|s| s.key = Some(Key::Rsa(2048)),
            &["its key is rsa:2048, of fewer than 3072 bits"],
        );
        check(
            "{name: r, keys: {}}",
            &|s| s.kind = CredentialKind::SshKey,
            &["nobody knows what key it has"],
        );
        check(
            "{name: r, keys: {}}",
            &|s| (s.kind, s.key) = (CredentialKind::SshKey, Some(Key::Ed25519)),
            &[],
        );
    }

    #[test]
    fn an_end_is_told_to_more_people_as_it_comes_nearer() {
        let rule = rule("{name: r, expiry: [7d, 30d, 1d]}").unwrap();
        let state = state(CredentialKind::Certificate);
        let told = |now: &str| match rule.faults(&state, at(now)).as_slice() {
            [] => None,
            [Fault::Expires { told, of: 3, .. }] => Some(*told),
            [Fault::Expired { .. }] => Some(9),
            other => panic!("{other:?}"),
        };
        let rows = [
            ("2026-11-30", None),
            ("2026-12-01", Some(1)),
            ("2026-12-24", Some(2)),
            ("2026-12-30", Some(3)),
            ("2026-12-31", Some(9)),
        ];
        for (now, expected) in rows {
            assert_eq!(told(now), expected, "{now}");
        }
    }

    #[test]
    fn mistakes_are_told() {
        let check = |text: &str, expected: &str| {
            let problems = rule(text).unwrap_err().to_string();
            assert!(problems.contains(expected), "{problems}");
        };
        check("{age_max: 90d}", "`name` is missing");
        check("{name: r, age_max: 0s}", "`age_max` of `r` is 0s");
        check("{name: r, lifetime_max: forever}", "cab_forum");
        check("{name: r, kinds: [passwort]}", "passwort");
        check("{name: r, consumers_max: 0}", "lets nobody use");
        check("{name: r, expiry: [0s]}", "before the end");
        check("{name: r, colour: red}", "colour");
        for bad in ["", "rsa", "rsa:0", "ec:x", "dsa:1024", "rsa:99999999999"] {
            assert!(bad.parse::<Key>().is_err(), "{bad}");
        }
        for good in ["rsa:3072", "ec:256", "ed25519"] {
            assert_eq!(good.parse::<Key>().unwrap().to_string(), good);
        }
    }
}
