//! The way of one rotation.
//!
//! ```text
//! scheduled > preflight > approved > minted > staged > verified > promoted > overlap > quiesced > old_disabled > soaked
//!           > old_destroyed > closed
//! ```
//!
//! A phase is *reached*: `minted` says that the new credential is there. Beside the way lie `blocked` (something keeps it from
//! going on, which is told, and somebody is waited for until a day), `rolling_back`, `rolled_back`, and `irrevocable`: the old one
//! cannot be ended by a program, and a person answers for it until a day. One that was ended on the way is `abandoned`. A rotation
//! because strangers know the credential leaves out whatever waits.
//!
//! | mode | may work at once | phases it has not |
//! |---|---|---|
//! | `alternating` | 2 | |
//! | `two_slot` | 2 | |
//! | `single_slot` | 1 | staged, overlap, quiesced, old_disabled, soaked: the new one takes the place of the old one |
//! | `reissue` | 2 | old_disabled, soaked: what was issued is revoked or runs out |
//! | `four_phase` | 2 | none: an authority is *staged* when everybody trusts both, *promoted* when the new one signs, *quiesced* when nothing that the old one signed is good any more, and *disabled* when nobody trusts the old one |
//!
//! The modes are data ([`mode`]); what a phase does in a mode is a step of its definition.

use serde::{Deserialize, Serialize};

use super::due::Because;
use crate::nhi::declare::ReplaceMode;

/// How far a rotation is. A stored form: phases may be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It has a time at which it begins.
    Scheduled,
    /// It was looked whether it can be done.
    Preflight,
    /// Whoever has to agree has agreed, or nobody has to.
    Approved,
    /// The new secret is made, and kept where it can be read again after a crash.
    Minted,
    /// The system knows the new one beside the old one.
    Staged,
    /// A login with the new one succeeded.
    Verified,
    /// Those who use it read the new one from now on.
    Promoted,
    /// Both work, until everybody has had time to take up the new one.
    Overlap,
    /// Nothing uses the old one any more.
    Quiesced,
    /// The old one works no more, and can be put back.
    OldDisabled,
    /// It was out of use for as long as somebody may take to miss it.
    Soaked,
    /// It is gone for good.
    OldDestroyed,
    Closed,
    /// Something keeps it from going on.
    Blocked,
    RollingBack,
    /// The old one is used again, and the new one is gone.
    RolledBack,
    /// It was ended on the way: the next one takes up what it left.
    Abandoned,
    /// The old one cannot be ended by a program: a person has to.
    Irrevocable,
}

impl Phase {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Preflight => "preflight",
            Self::Approved => "approved",
            Self::Minted => "minted",
            Self::Staged => "staged",
            Self::Verified => "verified",
            Self::Promoted => "promoted",
            Self::Overlap => "overlap",
            Self::Quiesced => "quiesced",
            Self::OldDisabled => "old_disabled",
            Self::Soaked => "soaked",
            Self::OldDestroyed => "old_destroyed",
            Self::Closed => "closed",
            Self::Blocked => "blocked",
            Self::RollingBack => "rolling_back",
            Self::RolledBack => "rolled_back",
            Self::Abandoned => "abandoned",
            Self::Irrevocable => "irrevocable",
        }
    }

    /// Whether a rotation is under way.
    #[must_use]
    pub fn is_open(self) -> bool {
        !matches!(
            self,
            Self::Scheduled | Self::Closed | Self::RolledBack | Self::Abandoned
        )
    }

    /// Whether it waits for nothing but time or people: what a compromise does not wait for.
    fn waits(self) -> bool {
        matches!(
            self,
            Self::Approved | Self::Overlap | Self::Quiesced | Self::Soaked
        )
    }
}

/// How a credential is replaced, as data.
#[derive(Debug, PartialEq, Eq)]
pub struct Mode {
    pub mode: ReplaceMode,
    /// What it goes through, in order.
    pub phases: &'static [Phase],
    /// How many may work at once.
    pub live_max: u32,
    /// The workflows that do it; none when nothing does yet.
    pub workflows: Option<Workflows>,
}

/// What replaces the credentials of a mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workflows {
    pub in_time: &'static str,
    /// When strangers know the credential.
    pub at_once: &'static str,
}

impl Workflows {
    /// The one that replaces a credential for this reason.
    #[must_use]
    pub fn for_because(&self, because: Because) -> &'static str {
        match because {
            Because::Compromised => self.at_once,
            Because::Age | Because::Expiry | Because::Wished | Because::First | Because::Asked => {
                self.in_time
            }
        }
    }
}

use Phase::{
    Approved, Closed, Minted, OldDestroyed, OldDisabled, Overlap, Preflight, Promoted, Quiesced,
    Scheduled, Soaked, Staged, Verified,
};

const WHOLE: [Phase; 13] = [
    Scheduled,
    Preflight,
    Approved,
    Minted,
    Staged,
    Verified,
    Promoted,
    Overlap,
    Quiesced,
    OldDisabled,
    Soaked,
    OldDestroyed,
    Closed,
];

/// One for each way to replace a credential.
pub const MODES: [Mode; 5] = [
    Mode {
        mode: ReplaceMode::Alternating,
        phases: &WHOLE,
        live_max: 2,
        workflows: Some(Workflows {
            in_time: "rotation_alternating",
            at_once: "rotation_alternating_at_once",
        }),
    },
    Mode {
        mode: ReplaceMode::TwoSlot,
        phases: &WHOLE,
        live_max: 2,
        workflows: Some(Workflows {
            in_time: "rotation_two_slot",
            at_once: "rotation_two_slot_at_once",
        }),
    },
    Mode {
        mode: ReplaceMode::SingleSlot,
        phases: &[
            Scheduled,
            Preflight,
            Approved,
            Minted,
            Promoted,
            Verified,
            OldDestroyed,
            Closed,
        ],
        live_max: 1,
        workflows: Some(Workflows {
            in_time: "rotation_single_slot",
            at_once: "rotation_single_slot_at_once",
        }),
    },
    Mode {
        mode: ReplaceMode::Reissue,
        phases: &[
            Scheduled,
            Preflight,
            Approved,
            Minted,
            Staged,
            Verified,
            Promoted,
            Overlap,
            Quiesced,
            OldDestroyed,
            Closed,
        ],
        live_max: 2,
        workflows: Some(Workflows {
            in_time: "rotation_reissue",
            at_once: "rotation_reissue_at_once",
        }),
    },
    Mode {
        mode: ReplaceMode::FourPhase,
        phases: &WHOLE,
        live_max: 2,
        workflows: Some(Workflows {
            in_time: "rotation_four_phase",
            at_once: "rotation_four_phase_at_once",
        }),
    },
];

/// How a credential of a mode is replaced.
#[must_use]
pub fn mode(of: ReplaceMode) -> &'static Mode {
    let [alternating, two_slot, single_slot, reissue, four_phase] = &MODES;
    match of {
        ReplaceMode::Alternating => alternating,
        ReplaceMode::TwoSlot => two_slot,
        ReplaceMode::SingleSlot => single_slot,
        ReplaceMode::Reissue => reissue,
        ReplaceMode::FourPhase => four_phase,
    }
}

impl Mode {
    /// What a rotation goes through; when strangers know the credential nothing is waited for.
    pub fn way(&self, compromised: bool) -> impl Iterator<Item = Phase> {
        let phases = self.phases.iter().copied();
        phases.filter(move |phase| !compromised || !phase.waits())
    }

    /// What follows a phase.
    #[must_use]
    pub fn after(&self, phase: Phase, compromised: bool) -> Option<Phase> {
        let mut way = self.way(compromised);
        way.find(|one| *one == phase)?;
        way.next()
    }

    /// Whether a rotation that has reached `phase` can be taken back: until the old one is gone.
    #[must_use]
    pub fn can_roll_back(&self, phase: Phase) -> bool {
        let place = |wanted: Phase| self.phases.iter().position(|one| *one == wanted);
        match (place(phase), place(OldDestroyed)) {
            (Some(reached), Some(gone)) => phase != Scheduled && reached < gone,
            _ => false,
        }
    }

    /// Whether both may work in a phase, and whether the old one has to.
    #[must_use]
    pub fn live(&self, phase: Phase) -> Live {
        let place = |wanted: Phase| self.phases.iter().position(|one| *one == wanted);
        let old_is_needed = place(phase).is_some_and(|reached| Some(reached) < place(Promoted));
        match phase {
            Staged | Verified | Promoted | Overlap | Quiesced if self.live_max > 1 => Live {
                most: self.live_max,
                old_is_needed,
            },
            _ => Live {
                most: 1,
                old_is_needed,
            },
        }
    }
}

/// What may work once a phase is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Live {
    pub most: u32,
    /// Those who use it still read the old one.
    pub old_is_needed: bool,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn every_mode_has_its_way() {
        let told: Vec<String> = MODES
            .iter()
            .flat_map(|mode| {
                [false, true].map(|compromised| {
                    let way: Vec<&str> = mode.way(compromised).map(Phase::as_str).collect();
                    format!(
                        "{:?}{}: {}",
                        mode.mode,
                        if compromised { "!" } else { "" },
                        way.join(" ")
                    )
                })
            })
            .collect();
        let whole = "scheduled preflight approved minted staged verified promoted overlap quiesced old_disabled soaked \
                     old_destroyed closed";
        let at_once =
            "scheduled preflight minted staged verified promoted old_disabled old_destroyed closed";
        assert_eq!(
            told,
            [
                format!("Alternating: {whole}"),
                format!("Alternating!: {at_once}"),
                format!("TwoSlot: {whole}"),
                format!("TwoSlot!: {at_once}"),
                "SingleSlot: scheduled preflight approved minted promoted verified old_destroyed closed".to_owned(),
                "SingleSlot!: scheduled preflight minted promoted verified old_destroyed closed".to_owned(),
                "Reissue: scheduled preflight approved minted staged verified promoted overlap quiesced old_destroyed \
                 closed"
                    .to_owned(),
                "Reissue!: scheduled preflight minted staged verified promoted old_destroyed closed".to_owned(),
                format!("FourPhase: {whole}"),
                format!("FourPhase!: {at_once}"),
            ]
        );
        for one in &MODES {
            assert_eq!(mode(one.mode), one);
        }
    }

    #[test]
    fn one_phase_follows_another_and_nothing_follows_what_lies_beside() {
        let alternating = mode(ReplaceMode::Alternating);
        assert_eq!(
            alternating.after(Phase::Promoted, false),
            Some(Phase::Overlap)
        );
        assert_eq!(
            alternating.after(Phase::Promoted, true),
            Some(Phase::OldDisabled)
        );
        assert_eq!(alternating.after(Phase::Closed, false), None);
        assert_eq!(alternating.after(Phase::Blocked, false), None);
        let single = mode(ReplaceMode::SingleSlot);
        assert_eq!(single.after(Phase::Minted, false), Some(Phase::Promoted));
        assert_eq!(single.after(Phase::Staged, false), None);
    }

    #[test]
    fn it_can_be_taken_back_until_the_old_one_is_gone() {
        for mode in &MODES {
            for phase in mode.phases {
                let can = !matches!(
                    phase,
                    Phase::Scheduled | Phase::OldDestroyed | Phase::Closed
                );
                assert_eq!(mode.can_roll_back(*phase), can, "{:?} {phase:?}", mode.mode);
            }
            for beside in [
                Phase::RolledBack,
                Phase::Irrevocable,
                Phase::Blocked,
                Phase::Abandoned,
            ] {
                assert!(!mode.can_roll_back(beside));
            }
        }
    }

    #[test]
    fn never_more_work_than_the_mode_allows() {
        for mode in &MODES {
            for phase in mode.phases {
                assert!(mode.live(*phase).most <= mode.live_max);
            }
        }
        let alternating = mode(ReplaceMode::Alternating);
        assert_eq!(
            alternating.live(Phase::Minted),
            Live {
                most: 1,
                old_is_needed: true
            }
        );
        assert_eq!(
            alternating.live(Phase::Overlap),
            Live {
                most: 2,
                old_is_needed: false
            }
        );
        assert_eq!(
            alternating.live(Phase::OldDisabled),
            Live {
                most: 1,
                old_is_needed: false
            }
        );
    }
}
