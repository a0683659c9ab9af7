//! A policy: all roles of the folder, checked, compiled and hashed.
//!
//! Background: a role has a rule (`when`), grants, and other roles it includes. Who satisfies the rule gets
//! the role's grants and those of everything it includes, whatever the included roles' own rules say. A role
//! without a rule is a building block for others.
//!
//! Loading is a pure function over texts. Everything that can be known before a person is looked at is
//! refused here, with file, line and fix; an empty policy is refused too, because it would take everything
//! from everybody.

mod load;

use std::collections::{BTreeMap, BTreeSet};

use engine::core::duration::Span;
use serde::Serialize;

use self::load::Loading;
use super::contracts::ContractRules;
use super::credentials::CredentialRule;
use super::document::{AttributeDocument, MoveOrder, OnLeave, PolicyFile};
use super::evaluate::WantedGrant;
use super::exceptions::ExceptionRules;
use super::expression::Expression;
use super::guard::GuardRules;
use super::leavers::LeaverRules;
use super::problem::{Problem, Problems};
use super::schema::Schema;
use super::template::CompiledTemplate;
use super::yaml;
use crate::timeline::Precedence;

/// The most roles of a policy.
pub const ROLES_MAX: usize = 2_000;
/// The most grants of one role.
pub const GRANTS_PER_ROLE_MAX: usize = 1_000;
/// The longest name of a role, in bytes.
pub const ROLE_NAME_BYTES_MAX: usize = 100;
/// The longest name of an entitlement, in bytes.
pub const ENTITLEMENT_BYTES_MAX: usize = 512;

/// A right on a system.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Grant {
    pub system: String,
    pub entitlement: String,
}

/// A checked role.
#[derive(Debug)]
pub struct Role {
    pub name: String,
    pub description: String,
    pub rule: Option<Expression>,
    pub includes: Vec<String>,
    pub grants: Vec<Grant>,
    pub accounts: Vec<String>,
    pub on_leave: OnLeave,
    /// How long somebody who moves on keeps what it gives.
    pub grace: Option<Span>,
    pub file: String,
    pub line: u64,
}

/// A role that comes with another, and the way there: both ends and every role between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundled {
    pub role: String,
    pub via: Vec<String>,
}

/// In which order access goes and comes when somebody moves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moves {
    pub order: MoveOrder,
    /// Rights that nobody may hold together for a moment.
    pub exclusive: BTreeSet<(Grant, Grant)>,
}

impl Moves {
    /// Whether nobody may hold the two together, not for a moment.
    #[must_use]
    pub fn exclude(&self, one: &Grant, other: &Grant) -> bool {
        let pair = |one: &Grant, other: &Grant| (one.clone(), other.clone());
        self.exclusive.contains(&pair(one, other)) || self.exclusive.contains(&pair(other, one))
    }

    /// Whether nobody may hold one of them together with it.
    #[must_use]
    pub fn excludes_any(&self, one: &Grant, others: &[WantedGrant]) -> bool {
        !self.exclusive.is_empty()
            && others.iter().any(|other| {
                let other = Grant {
                    system: other.system.clone(),
                    entitlement: other.entitlement.clone(),
                };
                self.exclude(one, &other)
            })
    }

    /// Whether `old` has to be gone before `new` is given.
    #[must_use]
    pub fn goes_first(&self, old: &Grant, new: &Grant) -> bool {
        self.order == MoveOrder::RemoveFirst || self.exclude(old, new)
    }
}

/// A whole policy.
#[derive(Debug)]
pub struct PolicySet {
    roles: BTreeMap<String, Role>,
    /// For each role with a rule: itself and all it includes, nearest first.
    bundles: BTreeMap<String, Vec<Bundled>>,
    templates: BTreeMap<String, CompiledTemplate>,
    guard: GuardRules,
    gives_privileged: bool,
    precedence: Precedence,
    files: Vec<(String, String)>,
    contracts: Option<ContractRules>,
    attributes: BTreeMap<String, AttributeDocument>,
    moves: Moves,
    leavers: LeaverRules,
    exceptions: ExceptionRules,
    credentials: Vec<CredentialRule>,
    hash: String,
    warnings: Vec<Problem>,
}

impl PolicySet {
    /// Loads a policy from (file name, text) pairs, in whatever order they come.
    ///
    /// # Errors
    /// Everything that is wrong, up to the limit of [`Problems`].
    pub fn load(files: &[(String, String)], schema: &Schema) -> Result<Self, Problems> {
        let mut loading = Loading::new(schema);
        let mut sorted: Vec<&(String, String)> = files.iter().collect();
        sorted.sort();
        for (file, text) in &sorted {
            match yaml::parse::<PolicyFile>(file, text) {
                Ok(document) => loading.add(file, document),
                Err(problem) => loading.problems.push(problem),
            }
        }
        let policy = loading.finish()?;
        Ok(Self {
            files: sorted.into_iter().cloned().collect(),
            ..policy
        })
    }

    /// The files it was read from, each with its text.
    #[must_use]
    pub fn files(&self) -> &[(String, String)] {
        &self.files
    }

    /// The roles in the order of their names.
    pub fn roles(&self) -> impl Iterator<Item = &Role> {
        self.roles.values()
    }

    #[must_use]
    pub fn role(&self, name: &str) -> Option<&Role> {
        self.roles.get(name)
    }

    /// What comes with a role that has a rule, itself first.
    pub(super) fn bundle(&self, name: &str) -> &[Bundled] {
        self.bundles.get(name).map_or(&[], Vec::as_slice)
    }

    /// How accounts on `system` are named, if the policy says so.
    #[must_use]
    pub fn template(&self, system: &str) -> Option<&CompiledTemplate> {
        self.templates.get(system)
    }

    /// How much may change at once, what is privileged and who is protected.
    #[must_use]
    pub fn guard(&self) -> &GuardRules {
        &self.guard
    }

    /// Which source is believed about which attribute.
    #[must_use]
    pub fn precedence(&self) -> &Precedence {
        &self.precedence
    }

    /// Whether some role gives a right that is privileged.
    #[must_use]
    pub fn gives_privileged(&self) -> bool {
        self.gives_privileged
    }

    /// What holds for people whose work has an end.
    #[must_use]
    pub fn contracts(&self) -> Option<&ContractRules> {
        self.contracts.as_ref()
    }

    /// What is known of attributes: whom to ask, and which everybody has to have.
    #[must_use]
    pub fn attributes(&self) -> &BTreeMap<String, AttributeDocument> {
        &self.attributes
    }

    /// When access ends of whom only the last day is known.
    #[must_use]
    pub fn leavers(&self) -> &LeaverRules {
        &self.leavers
    }

    /// How long a right is kept that no role gives and that somebody confirmed.
    #[must_use]
    pub fn exceptions(&self) -> &ExceptionRules {
        &self.exceptions
    }

    /// What is wanted of the credentials of non-human identities, by the names of the rules.
    #[must_use]
    pub fn credentials(&self) -> &[CredentialRule] {
        &self.credentials
    }

    #[must_use]
    pub fn moves(&self) -> &Moves {
        &self.moves
    }

    /// The version of this policy: the SHA-256, in hex, of everything in it that can change a decision.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// What is allowed but likely a slip.
    #[must_use]
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// Every right that some role gives: what this policy decides about. A grant outside of it was not made
    /// by this policy.
    #[must_use]
    pub fn governed(&self) -> BTreeSet<Grant> {
        self.roles
            .values()
            .flat_map(|role| role.grants.iter().cloned())
            .collect()
    }
}

#[cfg(test)]
pub(crate) mod tests;
