//! What an attempt can tell about its effect: the part of the evidence that comes from outside.

use serde_json::Value;

use super::Timestamp;
use super::id::Actor;

/// The clocks and observations of one attempt. No secrets; `object`, `before`, `after` and who decided and why may hold
/// personal data and reach the evidence only as salted digests.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Proof {
    /// The target system's configured name.
    pub system: Option<String>,
    /// The connector operation: `create_account`, `revoke`.
    pub operation: Option<String>,
    /// What was acted on, as the system names it.
    pub object: Option<String>,
    pub before: Option<Value>,
    pub after: Option<Value>,
    /// The system's own name for the request.
    pub request_id: Option<String>,
    /// The version of the policy that asked for it.
    pub policy: Option<String>,
    pub sent_at: Option<Timestamp>,
    pub acknowledged_at: Option<Timestamp>,
    pub verified_at: Option<Timestamp>,
    /// Whether the effect was there before this attempt.
    pub already_so: bool,
    /// On whose word it was done, who agreed, and why, where a person decided before this case could know of it.
    pub by: Option<Actor>,
    pub approver: Option<Actor>,
    pub reason: Option<String>,
}
