//! What has to be done for an answer, by whom: findings that are alike are one piece of work. Pure.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Answer, Finding, Reason, Verdict};
use crate::nhi::graph::{Node, NodeKind};

/// The most things of one piece of work: what a person can look through, and what one transaction changes.
pub const THINGS_MAX: usize = 100;

/// What is to be done.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Deed {
    /// It goes on under a person who is known.
    HandOver,
    /// It goes on under somebody whom a team, or whoever is asked, has to name.
    NameOwner,
    /// Its secret is replaced.
    Rotate,
    /// It is bound to something that stays.
    Rebind,
    /// It is put out of use in a way that can be taken back, and watched.
    Quiet,
    /// Somebody decides what becomes of it.
    Decide,
}

impl Deed {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HandOver => "hand_over",
            Self::NameOwner => "name_owner",
            Self::Rotate => "rotate",
            Self::Rebind => "rebind",
            Self::Quiet => "quiet",
            Self::Decide => "decide",
        }
    }

    /// What a finding asks for, if anything.
    #[must_use]
    pub fn of(finding: &Finding) -> Option<Self> {
        let has = |reason: &Reason| finding.reasons.contains(reason);
        let to_person = finding
            .to
            .as_ref()
            .is_some_and(|to| to.kind == NodeKind::Person);
        match finding.verdict {
            Verdict::Proceed => None,
            Verdict::Reassign if to_person => Some(Self::HandOver),
            Verdict::Reassign => Some(Self::NameOwner),
            Verdict::Block if has(&Reason::Owned) && has(&Reason::NobodyLeft) => {
                Some(Self::NameOwner)
            }
            Verdict::RotateFirst => Some(Self::Rotate),
            Verdict::Rebind => Some(Self::Rebind),
            Verdict::SoftDisable => Some(Self::Quiet),
            Verdict::Block | Verdict::InsufficientEvidence => Some(Self::Decide),
        }
    }
}

/// One thing of a piece of work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Thing {
    #[schemars(with = "String")]
    pub node: Node,
    /// Why, as people read it.
    pub why: Vec<String>,
    /// What has to be done before.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub needs: BTreeSet<Node>,
}

/// What is to be done for things that are alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Work {
    #[serde(rename = "do")]
    pub deed: Deed,
    /// The person or team that answers for them.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub to: Option<Node>,
    #[serde(default)]
    pub deadline: Option<DateTime<Utc>>,
    pub things: Vec<Thing>,
}

impl Answer {
    /// The work, in the order of the findings. Each secret that is replaced is a piece of its own: each has its own end.
    #[must_use]
    pub fn work(&self) -> Vec<Work> {
        let mut pieces: Vec<Work> = Vec::new();
        for finding in &self.findings {
            let Some(deed) = Deed::of(finding) else {
                continue;
            };
            let thing = Thing {
                node: finding.node.clone(),
                why: finding.reasons.iter().map(ToString::to_string).collect(),
                needs: finding.needs.clone(),
            };
            let alike = pieces.iter_mut().find(|piece| {
                deed != Deed::Rotate
                    && piece.deed == deed
                    && piece.to == finding.to
                    && piece.deadline == finding.deadline
                    && piece.things.len() < THINGS_MAX
            });
            match alike {
                Some(piece) => piece.things.push(thing),
                None => pieces.push(Work {
                    deed,
                    to: finding.to.clone(),
                    deadline: finding.deadline,
                    things: vec![thing],
                }),
            }
        }
        pieces
    }
}
