//! The form of a policy file. What it means is [`super::set`].

use std::collections::BTreeMap;

use engine::core::duration::Span;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::contracts::ContractorDocument;
use super::credentials::CredentialDocument;
use super::exceptions::ExceptionDocument;
use super::guard::GuardDocument;
use super::leavers::LeaverDocument;
use crate::timeline::Precedence;

/// One file of the policy folder.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyFile {
    #[serde(default)]
    pub roles: Vec<RoleDocument>,
    /// How accounts are named and filled, one entry a system.
    #[serde(default)]
    pub accounts: Vec<AccountDocument>,
    /// How much may change at once without a person, and who is protected. One file of the folder may say it.
    #[serde(default)]
    pub guard: Option<GuardDocument>,
    /// Which source is believed about which attribute. One file of the folder may say it.
    #[serde(default)]
    pub precedence: Option<Precedence>,
    /// What holds for people whose work has an end. In one file only; without it nothing more holds for them than for others.
    #[serde(default)]
    pub contractors: Option<ContractorDocument>,
    /// Whom to ask for an attribute, by its name, and which ones everybody has to have.
    #[serde(default)]
    pub attributes: BTreeMap<String, AttributeDocument>,
    /// When access ends of whom only the last day is known. In one file only; without it, when that day is over.
    #[serde(default)]
    pub leavers: Option<LeaverDocument>,
    /// How long a right is kept that no role gives and that somebody confirmed. In one file only.
    #[serde(default)]
    pub exceptions: Option<ExceptionDocument>,
    /// In which order access goes and comes when somebody moves. In one file only.
    #[serde(default)]
    pub moves: Option<MovesDocument>,
    /// What is wanted of the credentials of non-human identities.
    #[serde(default)]
    pub credentials: Vec<CredentialDocument>,
}

/// What is known of an attribute of people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AttributeDocument {
    /// Who answers for it: a role or a mailbox. Without it the source that the person comes from.
    pub owner: Option<String>,
    /// Nobody is given a first account before it is known.
    pub required: bool,
}

/// What happens first when somebody moves.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MovesDocument {
    #[serde(default)]
    pub order: MoveOrder,
    /// Pairs of rights that nobody may hold together for a moment: of these the old one always goes first.
    #[serde(default)]
    pub exclusive: Vec<(GrantDocument, GrantDocument)>,
}

/// On each system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MoveOrder {
    /// What goes is gone before anything new is given.
    #[default]
    RemoveFirst,
    /// What is new is given before anything goes, so that nobody is without it in between.
    AddFirst,
}

/// A named bundle of entitlements with a rule that says who has it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleDocument {
    #[schemars(with = "String")]
    pub name: Spanned<String>,
    #[serde(default)]
    pub description: String,
    /// A CEL expression over `identity`. Without it nobody has the role by itself; it is given only by
    /// roles that include it.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub when: Option<Spanned<String>>,
    /// Roles whose grants come with this one.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub includes: Vec<Spanned<String>>,
    #[serde(default)]
    pub grants: Vec<GrantDocument>,
    /// Systems on which this role needs an account, beside those it has grants on.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub accounts: Vec<Spanned<String>>,
    /// How long somebody who moves on keeps what it gives, to hand their work over, such as `14d`. Whoever leaves keeps
    /// nothing.
    #[serde(default)]
    pub grace: Option<Span>,
    /// What becomes of it while somebody is on leave.
    #[serde(default)]
    pub on_leave: OnLeave,
}

/// What a role is worth to somebody on leave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnLeave {
    /// Its accounts are disabled, unless a role that stays needs them. Rights on a disabled account stay where they are.
    #[default]
    Suspend,
    Keep,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GrantDocument {
    #[schemars(with = "String")]
    pub system: Spanned<String>,
    #[schemars(with = "String")]
    pub entitlement: Spanned<String>,
}

/// How accounts on one system are named and filled.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccountDocument {
    #[schemars(with = "String")]
    pub system: Spanned<String>,
    #[schemars(with = "String")]
    pub name: Spanned<String>,
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub attributes: BTreeMap<String, Spanned<String>>,
    #[serde(default = "enabled")]
    pub enabled: bool,
}

/// Name and attributes of an account as CEL over `identity` and `n`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccountTemplate {
    /// A text. `n` counts 0, 1, 2, ... until the name is free; `suffix(n)` is the usual way to use it.
    #[schemars(with = "String")]
    pub name: Spanned<String>,
    /// Attributes as the system names them. `null` leaves the attribute out.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub attributes: BTreeMap<String, Spanned<String>>,
    /// Whether a new account can log in at once.
    #[serde(default = "enabled")]
    pub enabled: bool,
}

impl From<AccountDocument> for AccountTemplate {
    fn from(document: AccountDocument) -> Self {
        Self {
            name: document.name,
            attributes: document.attributes,
            enabled: document.enabled,
        }
    }
}

fn enabled() -> bool {
    true
}
