//! Policy: facts and rules in, decisions with their reasons out. Pure: no clock, no I/O, no randomness.
//!
//! - [`schema`]: what rules may speak of;
//! - [`document`]: the YAML that people write, [`set`]: what it means once checked;
//! - [`expression`]: the rule language, CEL, bounded;
//! - [`evaluate`]: what a person should have, [`plan`]: the way there from what they hold,
//!   [`explain`]: why or why not;
//! - [`template`]: how accounts are named and filled;
//! - [`guard`]: how much may change at once without a person who looks.

mod canonical;
mod compile;
pub mod contracts;
pub mod credentials;
pub mod document;
pub mod evaluate;
pub mod exceptions;
pub mod explain;
pub mod expression;
pub mod guard;
pub mod leavers;
mod offsets;
pub mod plan;
pub mod problem;
pub mod schema;
pub mod set;
pub mod template;
pub mod yaml;

pub use canonical::{canonical, digest, hex};
pub(crate) use compile::{Origin, compile};
pub use contracts::{ContractRules, ExtensionRefused};
pub use credentials::{CredentialRule, CredentialState, Fault, Key, horizons};
pub use document::{AccountTemplate, AttributeDocument, MoveOrder, OnLeave, PolicyFile};
pub use evaluate::{
    EvaluationError, IdentityFacts, Reason, Wanted, WantedAccount, WantedGrant, evaluate,
};
pub use exceptions::ExceptionRules;
pub use explain::{Chance, Explanation, Outcome, Trace, explain};
pub use expression::missing_attribute;
pub use leavers::{LastDay, LeaverRules};
pub use plan::{Held, HeldBy, Plan, plan};
pub use problem::{Problem, Problems};
pub use schema::{AttributeDeclaration, AttributeDeclarations, AttributeKind, Schema};
pub use set::{Grant, Moves, PolicySet, Role};
pub use template::{CompiledTemplate, TemplateError};
