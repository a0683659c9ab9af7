//! In which order facts count, whatever the order in which they arrive.
//!
//! Pure. An event is newer than another when its `version` is; the newest statement about a person's
//! employment stands, and what it contradicts is superseded, whether it came before or after.
//!
//! | event | superseded by a newer | supersedes what waits |
//! |---|---|---|
//! | begins: `hire`, `rehire`, `contract.start` | begins, rescinded, terminated | begins; planned ends from before |
//! | `hire.rescinded` | begins | begins, planned ends |
//! | planned ends: `termination.scheduled`, `.corrected`, `contract.expired` | planned ends, cancels, begins | planned ends |
//! | cancels: `termination.cancelled`, `contract.extended` | planned ends, cancels, begins | planned ends |
//! | `termination.effective` | begins, cancels | planned ends; begins from before |
//! | `access.revoke_now` | never | nothing |
//! | everything else | never: it is handled by looking at the person as they are | nothing |

use engine::core::Timestamp;

use crate::directory::EventStatus;
use crate::sources::EventType;

/// What an event says about employment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Begins,
    Rescinded,
    PlannedEnd,
    Cancels,
    Terminated,
    Other,
}

pub(super) fn class(event_type: EventType) -> Class {
    match event_type {
        EventType::Hire | EventType::Rehire | EventType::ContractStart => Class::Begins,
        EventType::HireRescinded => Class::Rescinded,
        EventType::TerminationScheduled
        | EventType::TerminationCorrected
        | EventType::ContractExpired => Class::PlannedEnd,
        EventType::TerminationCancelled | EventType::ContractExtended => Class::Cancels,
        EventType::TerminationEffective => Class::Terminated,
        EventType::AccessRevokeNow
        | EventType::Transfer
        | EventType::ManagerChanged
        | EventType::CostCenterChanged
        | EventType::EntityTransfer
        | EventType::LeaveStart
        | EventType::LeaveEnd
        | EventType::Conversion
        | EventType::ProjectStart
        | EventType::ProjectEnd
        | EventType::IdentityMerged
        | EventType::ServiceRegistered
        | EventType::ServiceRetired
        | EventType::OwnerChanged
        | EventType::CertificationDecided => Class::Other,
    }
}

/// What order depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub id: String,
    pub event_type: EventType,
    pub version: i64,
    pub status: EventStatus,
}

/// What becomes of a new event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ruling {
    pub status: EventStatus,
    /// Waiting events that it takes the place of, by identifier.
    pub supersedes: Vec<String>,
}

/// Decides about an event of `version` that is effective at `effective_at`, given the other events of the same
/// person, and `named`, the event its sender says it replaces.
pub(super) fn rule(
    event_type: EventType,
    version: i64,
    effective_at: Timestamp,
    named: Option<&str>,
    known: &[Known],
    now: Timestamp,
) -> Ruling {
    use Class::{Begins, Cancels, Other, PlannedEnd, Rescinded, Terminated};
    let own = class(event_type);
    let stands = |other: &&Known| other.status != EventStatus::Superseded;
    let newer = |classes: &[Class]| {
        known
            .iter()
            .filter(stands)
            .any(|other| other.version > version && classes.contains(&class(other.event_type)))
    };
    let too_late = match own {
        Begins => newer(&[Begins, Rescinded, Terminated]),
        Rescinded => newer(&[Begins]),
        PlannedEnd | Cancels => newer(&[PlannedEnd, Cancels, Begins]),
        Terminated => newer(&[Begins, Cancels]),
        Other => false,
    };
    if too_late {
        return Ruling {
            status: EventStatus::Superseded,
            supersedes: Vec::new(),
        };
    }
    let replaces = |other: &Known| {
        let older = other.version < version;
        match (own, class(other.event_type)) {
            (Begins, Begins)
            | (Rescinded, Begins | PlannedEnd)
            | (PlannedEnd | Cancels | Terminated, PlannedEnd) => other.version <= version,
            // A first and a last day stated together stand together.
            (Begins, PlannedEnd) | (Terminated, Begins) => older,
            _ => false,
        }
    };
    let supersedes = known
        .iter()
        .filter(|other| other.status == EventStatus::Waiting)
        .filter(|other| replaces(other) || named == Some(other.id.as_str()))
        .map(|other| other.id.clone())
        .collect();
    let status = if effective_at > now {
        EventStatus::Waiting
    } else {
        EventStatus::Started
    };
    Ruling { status, supersedes }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "tests"
    )]
    use chrono::TimeDelta;
    use proptest::prelude::*;

    use super::*;

    fn now() -> Timestamp {
        "2026-03-01T12:00:00Z".parse().unwrap()
    }

    /// Takes events (name, version, days until effective) in order; gives `name@version status` of each.
    fn settled(events: &[(EventType, i64, i64)]) -> Vec<String> {
        let mut known: Vec<Known> = Vec::new();
        for (place, (event_type, version, days)) in events.iter().enumerate() {
            let effective_at = now() + TimeDelta::days(*days);
            let ruling = rule(*event_type, *version, effective_at, None, &known, now());
            for other in &mut known {
                if ruling.supersedes.contains(&other.id) {
                    other.status = EventStatus::Superseded;
                }
            }
            known.push(Known {
                id: place.to_string(),
                event_type: *event_type,
                version: *version,
                status: ruling.status,
            });
        }
        known
            .iter()
            .map(|event| format!("{}@{} {:?}", event.event_type, event.version, event.status))
            .collect()
    }

    #[track_caller]
    fn check(events: &[(EventType, i64, i64)], expected: &[&str]) {
        assert_eq!(settled(events), expected);
    }

    #[test]
    fn the_newest_statement_about_an_end_stands() {
        use EventType::{TerminationCancelled, TerminationCorrected, TerminationScheduled};
        check(
            &[(TerminationScheduled, 1, 30), (TerminationCorrected, 2, 10)],
            &[
                "termination.scheduled@1 Superseded",
                "termination.corrected@2 Waiting",
            ],
        );
        check(
            &[(TerminationScheduled, 1, 30), (TerminationCancelled, 2, 0)],
            &[
                "termination.scheduled@1 Superseded",
                "termination.cancelled@2 Started",
            ],
        );
        // The cancellation came first.
        check(
            &[(TerminationCancelled, 2, 0), (TerminationScheduled, 1, 30)],
            &[
                "termination.cancelled@2 Started",
                "termination.scheduled@1 Superseded",
            ],
        );
    }

    #[test]
    fn a_first_and_a_last_day_stated_together_stand_together() {
        use EventType::{ContractExpired, ContractExtended, ContractStart};
        check(
            &[(ContractStart, 1, 5), (ContractExpired, 1, 90)],
            &["contract.start@1 Waiting", "contract.expired@1 Waiting"],
        );
        check(
            &[
                (ContractExpired, 1, 10),
                (ContractExtended, 2, 0),
                (ContractExpired, 2, 90),
            ],
            &[
                "contract.expired@1 Superseded",
                "contract.extended@2 Started",
                "contract.expired@2 Waiting",
            ],
        );
    }

    #[test]
    fn a_late_termination_does_not_hit_somebody_who_came_back() {
        use EventType::{AccessRevokeNow, Rehire, TerminationEffective};
        check(
            &[
                (Rehire, 2, 0),
                (TerminationEffective, 1, 0),
                (AccessRevokeNow, 1, 0),
            ],
            &[
                "rehire@2 Started",
                "termination.effective@1 Superseded",
                "access.revoke_now@1 Started",
            ],
        );
    }

    #[test]
    fn a_rescinded_hire_never_begins() {
        use EventType::{Hire, HireRescinded};
        check(
            &[(Hire, 1, 20), (HireRescinded, 2, 0)],
            &["hire@1 Superseded", "hire.rescinded@2 Started"],
        );
        check(
            &[(HireRescinded, 2, 0), (Hire, 1, 20)],
            &["hire.rescinded@2 Started", "hire@1 Superseded"],
        );
    }

    proptest! {
        /// Of statements with different versions, all in the future, the same ones stand in any order.
        #[test]
        fn any_order_ends_the_same(
            kinds in prop::collection::vec(0..4_usize, 1..6),
            seed in any::<u64>(),
        ) {
            use EventType::{ContractExpired, TerminationCancelled, TerminationCorrected, TerminationScheduled};
            let types = [TerminationScheduled, TerminationCorrected, TerminationCancelled, ContractExpired];
            let events: Vec<_> = (1_i64..)
                .zip(&kinds)
                .map(|(version, kind)| (types[*kind], version, 10 + version))
                .collect();
            let mut shuffled = events.clone();
            let mut draw = seed;
            for place in (1..shuffled.len()).rev() {
                draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                shuffled.swap(place, (draw >> 33) as usize % (place + 1));
            }
            let waiting = |events: &[(EventType, i64, i64)]| {
                let mut left: Vec<String> = settled(events)
                    .into_iter()
                    .filter(|line| line.ends_with("Waiting") && !line.starts_with("termination.cancelled"))
                    .collect();
                left.sort();
                left
            };
            prop_assert_eq!(waiting(&events), waiting(&shuffled));
        }
    }
}
