//! The `guard` section of a policy file, and what it means once checked.
//!
//! ```yaml
//! guard:
//!   window: 24h
//!   limits:
//!     - { operation: grant.give, by: privileged, count_max: 5 }
//!     - { operation: account.close, by: system, share_max: 0.1, population_min: 20 }
//!     - { operation: identity.remove, by: department, share_max: 0.5, population_min: 10, sources: [hr] }
//!   privileged:
//!     - { system: ldap, entitlement: "*admin*" }
//!   protected:
//!     - { key: E1 }
//!     - { when: 'has(identity.title) && identity.title == "CEO"' }
//!     - { system: ldap, account: "breakglass-*" }
//! ```

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;
use engine::core::duration::Span;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use serde_saphyr::Spanned;

use super::Operation;
use crate::policy::compile::{Origin, compile};
use crate::policy::evaluate::IdentityFacts;
use crate::policy::expression::Expression;
use crate::policy::expression::check::{Kind, Variable};
use crate::policy::problem::{Problem, Problems, suggest};
use crate::policy::schema::Schema;

/// The most limits, privileged names and protected entries of a policy, each.
pub const ENTRIES_MAX: usize = 500;
/// What `window` may say.
pub const WINDOW_MS: std::ops::RangeInclusive<i64> = 60_000..=31 * 86_400_000;
/// How long effects of one source count together when nobody says.
const WINDOW_DEFAULT_HOURS: i64 = 24;

/// How much may change at once, what is privileged, and who is never touched without a person.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GuardDocument {
    /// What one source changes within this time counts together, `1m` to `31d`; `24h` when left out.
    #[serde(default)]
    #[schemars(with = "Option<Span>")]
    pub window: Option<Spanned<Span>>,
    /// One that names the operation and slice of a built-in limit takes its place.
    #[serde(default)]
    pub limits: Vec<LimitDocument>,
    /// Rights that few people should have. What is left out stands for the built-in names; an empty list for none.
    #[serde(default)]
    pub privileged: Option<Vec<PrivilegedDocument>>,
    /// Who is never disabled or stripped without a person who approves exactly that.
    #[serde(default)]
    pub protected: Vec<ProtectedDocument>,
}

/// A limit. Crossing either number stops, exactly the number still passes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitDocument {
    #[schemars(with = "Operation")]
    pub operation: Spanned<String>,
    /// `all`, `system`, `role`, `entitlement`, `privileged`, or an attribute such as `department`: each of its values by
    /// itself.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub by: Option<Spanned<String>>,
    /// Only for these sources; `policy` is a change of the policy itself, `adoption` a wave of accounts that are adopted. All of
    /// them when left out.
    #[serde(default)]
    pub sources: Option<Vec<String>>,
    /// Of the people in the slice, 0 to 1.
    #[serde(default)]
    pub share_max: Option<f64>,
    #[serde(default)]
    pub count_max: Option<u64>,
    /// With fewer people than this only `count_max` is compared.
    #[serde(default)]
    pub population_min: u64,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PrivilegedDocument {
    /// Every system when left out.
    #[serde(default)]
    pub system: Option<String>,
    /// `*` stands for any text; case does not matter.
    pub entitlement: String,
}

/// One of `key`, `when`, or `account` with `system`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProtectedDocument {
    /// The key of a person.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub key: Option<Spanned<String>>,
    /// A CEL expression over `identity`.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub when: Option<Spanned<String>>,
    /// The name of an account; `*` stands for any text.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub account: Option<Spanned<String>>,
    /// Every system when left out.
    #[serde(default)]
    pub system: Option<String>,
}

/// A checked limit.
#[derive(Debug, Clone, PartialEq)]
pub struct LimitRule {
    pub operation: Operation,
    pub by: String,
    pub sources: Option<Vec<String>>,
    pub share_max: Option<f64>,
    pub count_max: Option<u64>,
    pub population_min: u64,
}

impl LimitRule {
    /// Whether it limits what this source does.
    #[must_use]
    pub fn is_for(&self, source: &str) -> bool {
        self.sources
            .as_ref()
            .is_none_or(|sources| sources.iter().any(|name| name == source))
    }
}

/// A name with `*` for any text, compared without regard to case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    system: Option<String>,
    name: String,
}

impl Pattern {
    fn new(system: Option<String>, name: &str) -> Self {
        Self {
            system,
            name: name.to_lowercase(),
        }
    }

    #[must_use]
    pub fn fits(&self, system: &str, name: &str) -> bool {
        self.system.as_deref().is_none_or(|own| own == system)
            && matches(&self.name, &name.to_lowercase())
    }
}

/// Whether `text` is what `pattern` describes. Linear: the parts between stars are looked for from left to right.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some((_, after)) = rest
            .split_once(part)
            .or_else(|| part.is_empty().then_some(("", rest)))
        else {
            return false;
        };
        rest = after;
    }
    true
}

/// What the guard of a policy says.
#[derive(Debug)]
pub struct GuardRules {
    pub window: TimeDelta,
    pub limits: Vec<LimitRule>,
    privileged: Vec<Pattern>,
    keys: BTreeSet<String>,
    protected_when: Vec<Expression>,
    protected_accounts: Vec<Pattern>,
    /// Whether a policy file has a `guard` section.
    is_said: bool,
}

/// What is privileged when nobody says.
const PRIVILEGED_DEFAULT: [&str; 5] =
    ["*admin*", "*root*", "*sudo*", "*superuser*", "*privileged*"];

impl Default for GuardRules {
    fn default() -> Self {
        Self {
            window: TimeDelta::hours(WINDOW_DEFAULT_HOURS),
            limits: default_limits(),
            privileged: PRIVILEGED_DEFAULT
                .iter()
                .map(|name| Pattern::new(None, name))
                .collect(),
            keys: BTreeSet::new(),
            protected_when: Vec::new(),
            protected_accounts: Vec::new(),
            is_said: false,
        }
    }
}

/// What holds when nobody says: safe for a company of any size, and still large enough for a mass hire or a reorganisation.
fn default_limits() -> Vec<LimitRule> {
    let limit = |operation, by: &str, share_max, count_max, population_min| LimitRule {
        operation,
        by: by.to_owned(),
        sources: None,
        share_max,
        count_max,
        population_min,
    };
    vec![
        limit(Operation::GrantGive, "privileged", None, Some(10), 0),
        limit(Operation::GrantTake, "privileged", Some(0.5), None, 6),
        limit(Operation::AccountClose, "system", Some(0.2), None, 50),
        limit(Operation::GrantTake, "all", Some(0.3), None, 50),
        LimitRule {
            sources: Some(vec![super::POLICY.to_owned()]),
            ..limit(Operation::GrantGive, "entitlement", Some(0.25), None, 20)
        },
        LimitRule {
            sources: Some(vec![super::POLICY.to_owned()]),
            ..limit(Operation::GrantTake, "entitlement", Some(0.5), None, 20)
        },
    ]
}

impl GuardRules {
    /// Reads the section of `file`. Mistakes go to `problems`, risks to `warnings`.
    pub(in crate::policy) fn read(
        file: &str,
        document: GuardDocument,
        schema: &Schema,
        problems: &mut Problems,
        warnings: &mut Vec<Problem>,
    ) -> Self {
        let mut rules = Self {
            is_said: true,
            ..Self::default()
        };
        let mut note = |line: Option<(u64, u64)>, message: String, fix: String| {
            problems.push(Problem::new(file, line, message, fix));
        };
        let sizes = [
            document.limits.len(),
            document.privileged.as_ref().map_or(0, Vec::len),
            document.protected.len(),
        ];
        if sizes.iter().any(|size| *size > ENTRIES_MAX) {
            note(
                None,
                format!("a list of the guard has more than {ENTRIES_MAX} entries"),
                "merge entries with `*` or `when`".to_owned(),
            );
            return rules;
        }
        if let Some(window) = &document.window {
            if WINDOW_MS.contains(&window.value.ms()) {
                rules.window = window.value.delta();
            } else {
                note(
                    Some(place(window)),
                    format!("`window` is {}", window.value),
                    "give `1m` to `31d`".to_owned(),
                );
            }
        }
        let mut own = Vec::new();
        for limit in &document.limits {
            match limit.check(schema) {
                Ok(rule) => own.push(rule),
                Err((at, message, fix)) => note(Some(at), message, fix),
            }
        }
        rules.limits.retain(|built_in| {
            !own.iter()
                .any(|rule| rule.operation == built_in.operation && rule.by == built_in.by)
        });
        rules.limits.extend(own);
        if let Some(privileged) = document.privileged {
            rules.privileged = privileged
                .into_iter()
                .map(|entry| Pattern::new(entry.system, &entry.entitlement))
                .collect();
        }
        for entry in document.protected {
            match (entry.key, entry.when, entry.account) {
                (Some(key), None, None) if entry.system.is_none() => {
                    rules.keys.insert(key.value);
                }
                (None, Some(when), None) if entry.system.is_none() => {
                    let variables =
                        BTreeMap::from([("identity", Variable::Record(&schema.attributes))]);
                    let origin = Origin {
                        file,
                        what: "a rule of `guard.protected`",
                    };
                    let compiled =
                        compile(origin, &when, &variables, Kind::Boolean, problems, warnings);
                    rules
                        .protected_when
                        .extend(compiled.map(|(expression, _)| expression));
                }
                (None, None, Some(account)) => {
                    rules
                        .protected_accounts
                        .push(Pattern::new(entry.system, &account.value));
                }
                (key, when, account) => {
                    let at = [&key, &when, &account]
                        .into_iter()
                        .flatten()
                        .next()
                        .map(place);
                    problems.push(Problem::new(
                        file,
                        at,
                        "an entry of `guard.protected` says not exactly one thing",
                        "give one of `key`, `when`, or `account` with `system`",
                    ));
                }
            }
        }
        rules
    }

    #[must_use]
    pub fn is_privileged(&self, system: &str, entitlement: &str) -> bool {
        self.privileged
            .iter()
            .any(|pattern| pattern.fits(system, entitlement))
    }

    /// Whether a person is never stripped without a named approval. A rule without an answer protects: nobody loses
    /// protection by a slip.
    #[must_use]
    pub fn protects(&self, facts: &IdentityFacts) -> bool {
        if self.keys.contains(&facts.key) {
            return true;
        }
        if self.protected_when.is_empty() {
            return false;
        }
        let scope = facts.scope();
        self.protected_when
            .iter()
            .any(|rule| rule.holds(&scope).unwrap_or(true))
    }

    /// Whether anybody, or any account, is protected.
    #[must_use]
    pub fn protects_somebody(&self) -> bool {
        !(self.keys.is_empty()
            && self.protected_when.is_empty()
            && self.protected_accounts.is_empty())
    }

    /// Whether any account is protected by its name.
    #[must_use]
    pub fn protects_accounts(&self) -> bool {
        !self.protected_accounts.is_empty()
    }

    /// Whether an account is never disabled without a named approval.
    #[must_use]
    pub fn protects_account(&self, system: &str, name: &str) -> bool {
        self.protected_accounts
            .iter()
            .any(|pattern| pattern.fits(system, name))
    }

    /// What a hash of the policy covers; nothing when no file has a `guard` section.
    pub(in crate::policy) fn canonical(&self) -> Option<Value> {
        let patterns = |patterns: &[Pattern]| -> Vec<Value> {
            let each = patterns.iter();
            each.map(|pattern| json!([pattern.system, pattern.name]))
                .collect()
        };
        self.is_said.then(|| {
            json!({
                "window_ms": self.window.num_milliseconds(),
                "limits": self.limits.iter().map(|limit| json!({
                    "operation": limit.operation,
                    "by": limit.by,
                    "sources": limit.sources,
                    "share_max": limit.share_max.map(|share| share.to_string()),
                    "count_max": limit.count_max,
                    "population_min": limit.population_min,
                })).collect::<Vec<_>>(),
                "privileged": patterns(&self.privileged),
                "keys": self.keys,
                "when": self.protected_when.iter().map(Expression::text).collect::<Vec<_>>(),
                "accounts": patterns(&self.protected_accounts),
            })
        })
    }
}

fn place<T>(spanned: &Spanned<T>) -> (u64, u64) {
    (spanned.defined.line(), spanned.defined.column())
}

type Mistake = ((u64, u64), String, String);

impl LimitDocument {
    fn check(&self, schema: &Schema) -> Result<LimitRule, Mistake> {
        let at = place(&self.operation);
        let operation = Operation::parse(&self.operation.value).ok_or_else(|| {
            let known = Operation::ALL.iter().map(|operation| operation.as_str());
            let fix = suggest(&self.operation.value, "operations", known);
            (
                at,
                format!("there is no operation `{}`", self.operation.value),
                fix,
            )
        })?;
        let by = self.by.as_ref().map_or("all", |by| by.value.as_str());
        if let Some(said) = &self.by {
            let of_access = matches!(by, "system" | "role" | "entitlement" | "privileged");
            let known = by == "all" || of_access || schema.attributes.contains_key(by);
            if !known {
                let names = schema.attributes.keys().map(String::as_str);
                let names = names.chain(["all", "system", "role", "entitlement", "privileged"]);
                let fix = suggest(by, "slices", names);
                return Err((place(said), format!("there is no slice `{by}`"), fix));
            }
            let fits = match operation {
                Operation::IdentityCreate
                | Operation::IdentityChange
                | Operation::IdentityRemove => !of_access,
                Operation::AccountCreate | Operation::AccountClose => {
                    !matches!(by, "entitlement" | "privileged")
                }
                Operation::GrantGive | Operation::GrantTake => true,
            };
            if !fits {
                return Err((
                    place(said),
                    format!("`{operation}` has no slices by `{by}`"),
                    "people have attributes, accounts a system and roles, grants all of them"
                        .to_owned(),
                ));
            }
        }
        if self.share_max.is_none() && self.count_max.is_none() {
            return Err((
                at,
                "a limit says neither `share_max` nor `count_max`".to_owned(),
                "give one of them; to take a built-in limit away, give `share_max: 1`".to_owned(),
            ));
        }
        if let Some(share) = self.share_max
            && !(0.0..=1.0).contains(&share)
        {
            return Err((
                at,
                format!("`share_max` is {share}"),
                "give a share between `0` and `1`".to_owned(),
            ));
        }
        Ok(LimitRule {
            operation,
            by: by.to_owned(),
            sources: self.sources.clone(),
            share_max: self.share_max,
            count_max: self.count_max,
            population_min: self.population_min,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn stars_stand_for_any_text() {
        for (pattern, text, fits) in [
            ("admins", "admins", true),
            ("admins", "admins2", false),
            ("*admin*", "domain admins", true),
            ("*admin*", "admin", true),
            ("*admin*", "amdin", false),
            ("break-*", "break-glass", true),
            ("break-*", "a break-glass", false),
            ("*-root", "db-root", true),
            ("*-root", "db-root-2", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c", false),
            ("*", "", true),
            ("**", "x", true),
            ("", "", true),
            ("", "x", false),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }
}
