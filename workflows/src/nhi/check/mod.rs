//! What has to happen before something ends: a pure function of one [`Snapshot`].
//!
//! A person leaves, a non-human identity is to end, a credential is to be replaced. Whatever hangs on it is found over three
//! edges that are kept apart, because each calls for something else:
//!
//! | the person | and then | verdict |
//! |---|---|---|
//! | *owns* it | it goes on under somebody else | [`Verdict::Reassign`] |
//! | *knows* its secret | it is replaced, under a deadline: another owner takes no knowledge away | [`Verdict::RotateFirst`] |
//! | *minted* it | it may end with them: it is bound to something that stays | [`Verdict::Rebind`] |
//!
//! **Not seen is not unused.** That nobody uses a thing is believed only when every source that could see a use covers it
//! without a gap for as long as it could lie idle ([`Rules::window`]). Otherwise it is taken out of use in a way that can
//! be taken back, and somebody listens ([`Verdict::SoftDisable`]); when there is no such way, the verdict is that there is
//! [not enough evidence](Verdict::InsufficientEvidence).
//!
//! The same snapshot gives the same answer, and [`Snapshot::digest`] names it. What is done later looks again.
//!
//! A hostile leaver or a compromise holds nothing back: what is known is replaced at once, and what breaks by it is listed.

mod coverage;
mod judge;
mod words;
mod work;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::coverage::{Coverage, Gap};
pub(crate) use self::words::MINUTE;
pub use self::work::{Deed, THINGS_MAX, Thing, Work};
use super::graph::{Edge, Node};
use crate::policy;

/// What is going to happen to the subject of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Intent {
    /// A person loses all access.
    Leave,
    /// It is put out of use, and can be put back.
    Disable,
    /// It is removed for good.
    Delete,
    /// Its secret is replaced.
    Rotate,
}

impl Intent {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Leave => "leave",
            Self::Disable => "disable",
            Self::Delete => "delete",
            Self::Rotate => "rotate",
        }
    }
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    pub subject: Node,
    pub intent: Intent,
    /// Whoever leaves may do harm, or a secret is known to strangers: nothing is held back.
    #[serde(default)]
    pub hostile: bool,
}

/// What is known of a non-human identity that matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NhiFacts {
    /// The people of it, as keys of identities; `None` when nobody answers for it.
    pub owner: Option<String>,
    pub backup: Option<String>,
    pub team: Option<String>,
    /// Production stops when it does.
    #[serde(default)]
    pub critical: bool,
    /// The way in when everything else fails.
    #[serde(default)]
    pub break_glass: bool,
    /// The longest it lies idle between two uses, in seconds, if it works on a schedule.
    pub idle_s_max: Option<u64>,
    /// It works at the end of a year.
    #[serde(default)]
    pub yearly: bool,
    /// Putting it out of use can be taken back, in this many seconds as measured; `None` when nobody has tried.
    pub restore_s: Option<u64>,
    /// It was put out of use on purpose and watched since then.
    pub quiet_since: Option<DateTime<Utc>>,
}

/// What is known of a credential that matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialFacts {
    /// Whose it is.
    pub of: Option<Node>,
    /// It can be replaced: there is a connector that does it, and a mode.
    #[serde(default)]
    pub replaceable: bool,
    /// It can be put out of use and back.
    #[serde(default)]
    pub reversible: bool,
    /// It was put out of use on purpose and watched since then.
    pub quiet_since: Option<DateTime<Utc>>,
}

/// The numbers the answer rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// How long a thing has to be watched before silence says anything, in days.
    pub window_days: u32,
    /// A use that was observed longer ago than this is no use any more, in days.
    pub stale_days: u32,
    /// How long a rotation of what a leaver knew may take, in seconds.
    pub rotate_within_s: u64,
    /// How long what is blocked may stay so before somebody has to decide, in seconds.
    pub decide_within_s: u64,
    /// How long a thing stays out of use before it may be removed, in seconds.
    pub soak_s: u64,
    /// The most critical things that one question may change.
    pub critical_max: usize,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            window_days: 90,
            stale_days: 90,
            rotate_within_s: 24 * 3600,
            decide_within_s: 24 * 3600,
            soak_s: 7 * 24 * 3600,
            critical_max: 5,
        }
    }
}

/// A year and a month: what is used once a year shows in it.
const YEARLY_DAYS: i64 = 396;

impl Rules {
    /// For how long something must have been watched without a use to be called unused: `window_days`, a fifth more than it
    /// lies idle by itself, and more than a year if it works at the end of one; whichever is longest.
    #[must_use]
    pub fn window(&self, nhi: Option<&NhiFacts>) -> TimeDelta {
        let mut window = TimeDelta::days(i64::from(self.window_days));
        if let Some(nhi) = nhi {
            let idle = i64::try_from(nhi.idle_s_max.unwrap_or(0)).unwrap_or(i64::MAX);
            let idle =
                TimeDelta::try_seconds(idle.saturating_add(idle / 5)).unwrap_or(TimeDelta::MAX);
            window = window.max(idle);
            if nhi.yearly {
                window = window.max(TimeDelta::days(YEARLY_DAYS));
            }
        }
        window
    }
}

/// All that an answer rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    pub question: Question,
    pub at: DateTime<Utc>,
    pub rules: Rules,
    /// The people who are there, of those that are named anywhere here.
    pub present: BTreeSet<String>,
    pub nhis: BTreeMap<Node, NhiFacts>,
    pub credentials: BTreeMap<Node, CredentialFacts>,
    pub edges: Vec<Edge>,
    pub coverage: Vec<Coverage>,
}

impl Snapshot {
    /// Who answers for a thing when the subject does not: a person who is there, or a team.
    #[must_use]
    pub fn answers_for(&self, node: &Node) -> Option<Node> {
        judge::answers_for(self, node)
    }

    /// Names what the answer rests on, but for the moment: looking again a minute later at the same things gives the same
    /// digest.
    ///
    /// When a thing was last seen does not count by itself, only on which day: a use that goes on changes nothing.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut edges: Vec<_> = self
            .edges
            .iter()
            .map(|edge| {
                serde_json::json!([
                    edge.from,
                    edge.relation,
                    edge.to,
                    edge.source,
                    edge.confidence,
                    edge.last_seen_at.date_naive()
                ])
            })
            .collect();
        edges.sort_by_key(policy::canonical);
        let mut coverage: Vec<_> = self.coverage.iter().map(Coverage::of_day).collect();
        coverage.sort_by_key(policy::canonical);
        policy::digest(&serde_json::json!({
            "question": self.question,
            "rules": self.rules,
            "present": self.present,
            "nhis": self.nhis,
            "credentials": self.credentials,
            "edges": edges,
            "coverage": coverage,
        }))
    }
}

/// What is to be done with one thing.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing hangs on it.
    Proceed,
    /// It goes on under somebody else.
    Reassign,
    /// It is bound to something that stays, before what it hangs on ends.
    Rebind,
    /// Its secret is replaced, before the deadline.
    RotateFirst,
    /// It is put out of use in a way that can be taken back, and watched.
    SoftDisable,
    /// Something needs it and nothing takes its place: somebody decides before the deadline.
    Block,
    /// Nobody can say whether something needs it, and it could not be put back.
    InsufficientEvidence,
}

impl Verdict {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Proceed => "proceed",
            Self::Reassign => "reassign",
            Self::Rebind => "rebind",
            Self::RotateFirst => "rotate_first",
            Self::SoftDisable => "soft_disable",
            Self::Block => "block",
            Self::InsufficientEvidence => "insufficient_evidence",
        }
    }

    /// Whether what was asked has to wait for a person.
    #[must_use]
    pub fn stops(self) -> bool {
        matches!(self, Self::Block | Self::InsufficientEvidence)
    }
}

/// Why a verdict is what it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Reason {
    /// The subject answers for it.
    Owned,
    /// The subject has seen the secret.
    Known,
    /// The subject, or what it made, made it.
    Minted { by: Node },
    /// It belongs to the subject and ends with it.
    Personal,
    /// It is what was asked about.
    Asked,
    /// Something proves with it who it is.
    InUse { by: Node, seen: DateTime<Utc> },
    /// Something used it once, too long ago to count.
    UsedOnce { by: Node, seen: DateTime<Utc> },
    /// It was watched for long enough, and nothing used it.
    Unused { days: i64 },
    /// It was out of use and watched, and nothing missed it.
    Soaked,
    /// It was put out of use, and the watch is not over.
    Soaking { until: DateTime<Utc> },
    /// Nobody can say that nothing uses it.
    NotCovered { gap: Gap },
    /// It is the way in when everything else fails.
    BreakGlass,
    /// Nobody is left who could answer for it.
    NobodyLeft,
    /// Nothing can replace its secret.
    NotReplaceable,
    /// It cannot be put back, or nobody has tried.
    NotReversible,
    /// These need each other: nothing can be first.
    Cycle { with: BTreeSet<Node> },
    /// More critical things than may change at once.
    TooMany { critical: usize, most: usize },
    /// It is named, and nothing else is known of it.
    Unknown,
}

/// What is to be done with one thing, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub node: Node,
    pub verdict: Verdict,
    pub reasons: BTreeSet<Reason>,
    /// To whom it goes, for [`Verdict::Reassign`] and as the one who is asked otherwise: a person or a team.
    #[serde(default)]
    pub to: Option<Node>,
    /// What has to be done before.
    #[serde(default)]
    pub needs: BTreeSet<Node>,
    /// By when.
    #[serde(default)]
    pub deadline: Option<DateTime<Utc>>,
    /// What stops working by it: accepted, because nothing may wait.
    #[serde(default)]
    pub breaks: BTreeSet<Node>,
}

/// What was found, in the order in which it has to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub digest: String,
    pub findings: Vec<Finding>,
}

impl Answer {
    /// What a person has to decide before the rest goes on.
    pub fn stopping(&self) -> impl Iterator<Item = &Finding> {
        self.findings
            .iter()
            .filter(|finding| finding.verdict.stops())
    }
}

/// Answers the question of a snapshot. See the [module](self).
#[must_use]
pub fn check(snapshot: &Snapshot) -> Answer {
    Answer {
        digest: snapshot.digest(),
        findings: judge::findings(snapshot),
    }
}
