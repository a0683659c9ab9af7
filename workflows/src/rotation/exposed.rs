//! What follows when somebody says that strangers know a credential while it is being replaced.
//!
//! There may be two of it then: the **old** one, and the **new** one that was made to take its place. Whichever was named ends as soon as
//! that is safe: what nobody uses at once, what is in use when another is in its place. Never more work than the mode allows, so what
//! was made and is not used ends before another is made. Where the new one has to stay until the old one is gone (an authority that
//! signs already), another takes its place right after that.
//!
//! What is found is looked at in the systems, and not in what was written down: a step that was broken off may have had its effect.

use serde::{Deserialize, Serialize};

use super::phase::{Mode, Phase};
use crate::nhi::declare::ReplaceMode;

/// Which of the two strangers know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exposed {
    /// The one that is being replaced.
    Old,
    /// The one that was made to take its place.
    New,
    /// Whatever there is.
    Both,
}

impl Exposed {
    pub const ALL: [Self; 3] = [Self::Old, Self::New, Self::Both];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Old => "old",
            Self::New => "new",
            Self::Both => "both",
        }
    }

    /// The one of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == name)
    }

    /// Whether one that is under way because of a compromise, and ends the old one anyhow, has to be followed by another.
    #[must_use]
    pub fn asks_for_another(self) -> bool {
        self != Self::Old
    }
}

/// How far the new one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// It is not made.
    OldOnly,
    /// It is made, and the old one is in use.
    Made,
    /// It is in use, and the old one may still work.
    InUse,
}

impl Found {
    pub const ALL: [Self; 3] = [Self::OldOnly, Self::Made, Self::InUse];

    /// What is found once a phase is reached; `None` for a phase beside the way.
    #[must_use]
    pub fn at(mode: &Mode, phase: Phase) -> Option<Self> {
        let place = |wanted: Phase| mode.phases.iter().position(|one| *one == wanted);
        let reached = place(phase)?;
        Some(if reached < place(Phase::Minted)? {
            Self::OldOnly
        } else if reached < place(Phase::Promoted)? {
            Self::Made
        } else {
            Self::InUse
        })
    }
}

/// What is done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follows {
    /// The new one stays, or goes into use, and the old one ends.
    TakenUp,
    /// What was made and nobody uses ends, another is made, and what was in use ends.
    Another,
    /// The old one ends, and then the new one too, because another is made.
    TakenUpThenAnother,
}

/// What follows in a mode, when this much is found and that was said.
#[must_use]
pub fn follows(mode: ReplaceMode, found: Found, said: Exposed) -> Follows {
    match (mode, found, said) {
        (_, Found::InUse, Exposed::Old) | (ReplaceMode::FourPhase, Found::Made, Exposed::Old) => {
            Follows::TakenUp
        }
        (ReplaceMode::FourPhase, Found::InUse, Exposed::New | Exposed::Both) => {
            Follows::TakenUpThenAnother
        }
        (_, Found::OldOnly | Found::Made | Found::InUse, _) => Follows::Another,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::rotation::phase::MODES;
    use crate::testbed::page_is;

    fn told(follows: Follows) -> &'static str {
        match follows {
            Follows::TakenUp => "the new one goes on",
            Follows::Another => "another",
            Follows::TakenUpThenAnother => "the new one goes on, then another",
        }
    }

    /// What a mode does about all that can be found and said.
    fn answers(mode: &Mode) -> Vec<Follows> {
        let all = Found::ALL
            .iter()
            .flat_map(|found| Exposed::ALL.map(|said| follows(mode.mode, *found, said)));
        all.collect()
    }

    fn name<T: Serialize>(value: &T) -> String {
        let name = serde_json::to_value(value).unwrap();
        format!("`{}`", name.as_str().unwrap())
    }

    fn names<'a, T: Serialize + 'a>(values: impl Iterator<Item = &'a T>) -> String {
        values.map(name).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn the_page_is_the_table() {
        let mut text = String::from(
            "| mode | reached | the old one is known | the new one is known | both are |\n|---|---|---|---|---|\n",
        );
        let mut rest: Vec<&Mode> = MODES.iter().collect();
        while let Some(first) = rest.first().copied() {
            let same = |mode: &Mode| (answers(mode), Found::at(mode, Phase::Verified));
            let (alike, others): (Vec<&Mode>, Vec<&Mode>) =
                rest.into_iter().partition(|mode| same(mode) == same(first));
            rest = others;
            let modes = names(alike.iter().map(|mode| &mode.mode));
            for found in Found::ALL {
                let mut phases: Vec<&Phase> = alike
                    .iter()
                    .flat_map(|mode| mode.phases.iter())
                    .filter(|phase| **phase != Phase::Closed)
                    .filter(|phase| {
                        let mut at = alike.iter().filter_map(|mode| Found::at(mode, **phase));
                        at.any(|at| at == found)
                    })
                    .collect();
                phases.sort_unstable();
                phases.dedup();
                let cells = Exposed::ALL.map(|said| told(follows(first.mode, found, said)));
                let cells = cells.join(" | ");
                text += &format!("| {modes} | {} | {cells} |\n", names(phases.into_iter()));
            }
        }
        let cells = Exposed::ALL.map(|said| {
            if said.asks_for_another() {
                "it goes on, then another"
            } else {
                "it goes on"
            }
        });
        text += &format!(
            "| each | any, of one because of a compromise | {} |\n",
            cells.join(" | ")
        );
        page_is("rotation.md", &text);
    }

    #[test]
    fn what_is_found_follows_from_what_was_reached() {
        for mode in &MODES {
            let found: Vec<Found> = mode
                .phases
                .iter()
                .filter_map(|phase| Found::at(mode, *phase))
                .collect();
            assert_eq!(found.len(), mode.phases.len());
            let made = found.iter().position(|one| *one == Found::Made);
            let used = found.iter().position(|one| *one == Found::InUse);
            assert_eq!(
                (made, used),
                (
                    mode.phases.iter().position(|one| *one == Phase::Minted),
                    mode.phases.iter().position(|one| *one == Phase::Promoted)
                ),
                "{:?}",
                mode.mode
            );
            for beside in [Phase::Blocked, Phase::RollingBack, Phase::Irrevocable] {
                assert_eq!(Found::at(mode, beside), None);
            }
        }
    }

    /// One that was named never stays: it is ended by what follows, or right after it.
    #[test]
    fn what_was_named_never_stays() {
        for mode in &MODES {
            for found in Found::ALL {
                for said in Exposed::ALL {
                    let follows = follows(mode.mode, found, said);
                    assert!(
                        follows != Follows::TakenUp || said == Exposed::Old,
                        "{:?} {found:?} {said:?}",
                        mode.mode
                    );
                }
            }
        }
    }
}
