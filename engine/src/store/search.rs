//! What a search over cases can ask.
//!
//! A search has no index of its own. Closed cases are at rest and are found by what never changes of them and by
//! their state; whatever is asked about work that is open is asked of the open cases only, whose rows of steps say
//! it. So a search costs with what is open, writes cost nothing, and what is found is what is there.

use crate::core::Timestamp;
use crate::core::case::CaseState;
use crate::core::id::{DefinitionHash, StepIndex, Subject};

/// Which cases a listing wants: those that fit everything that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CaseFilter {
    /// One of these; any when empty.
    pub states: Vec<CaseState>,
    pub workflow: Option<String>,
    /// The version of the workflow that the case runs.
    pub definition: Option<DefinitionHash>,
    pub subject: Option<Subject>,
    pub open_only: bool,
    pub parked_only: bool,
    /// Made earlier than this.
    pub created_before: Option<Timestamp>,
    /// Made at this time or later.
    pub created_from: Option<Timestamp>,
    pub work: WorkFilter,
}

/// Open work: one instance, or one step that waits as a whole, has to fit everything that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkFilter {
    /// It waits for one of these; for anything or nothing when empty.
    pub waits: Vec<Waiting>,
    /// Its item, its input or what it gave so far names this system.
    pub system: Option<String>,
    /// It belongs to one of these steps. A name is another position in each version, so the caller looks it up.
    pub steps: Option<Vec<(DefinitionHash, StepIndex)>>,
    /// Its last failure is of this kind.
    pub error: Option<String>,
    /// Systems that take no calls now: what is in flight there waits for the system.
    pub held: Vec<String>,
}

/// What work can wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Waiting {
    /// An approval or a task.
    Person,
    Signal,
    /// A step's own time.
    Timer,
    SystemAway,
    /// The next attempt after a failure, or the time that the system named.
    Retry,
    /// The system works on it.
    Accepted,
    AnswerLost,
    /// Another case of the same subject: the case as a whole.
    Queued,
    /// Somebody to decide, because it failed for good.
    Parked,
}

impl Waiting {
    pub const ALL: [Self; 9] = [
        Self::Person,
        Self::Signal,
        Self::Timer,
        Self::SystemAway,
        Self::Retry,
        Self::Accepted,
        Self::AnswerLost,
        Self::Queued,
        Self::Parked,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::Signal => "signal",
            Self::Timer => "timer",
            Self::SystemAway => "system_away",
            Self::Retry => "retry",
            Self::Accepted => "accepted",
            Self::AnswerLost => "answer_lost",
            Self::Queued => "queued",
            Self::Parked => "parked",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|waiting| waiting.as_str() == text)
    }

    /// What the stored form of work that waits so is called: the kind of a question, the reason of a pause.
    fn signs(self) -> &'static [&'static str] {
        match self {
            Self::Person => &["approval", "task"],
            Self::Signal => &["signal"],
            Self::Timer => &["timer"],
            Self::SystemAway => &["system_away"],
            Self::Retry => &["retry", "not_before"],
            Self::Accepted => &["accepted"],
            Self::AnswerLost => &["answer_lost"],
            Self::Parked => &["parked"],
            // The case waits, and none of its steps does.
            Self::Queued => &[],
        }
    }
}

impl CaseFilter {
    /// Whether only open cases can match; then a listing need not look at any other.
    #[must_use]
    pub fn is_open_only(&self) -> bool {
        let states = !self.states.is_empty() && self.states.iter().all(|state| !state.is_closed());
        self.open_only || self.parked_only || states || !self.work.is_empty()
    }
}

impl WorkFilter {
    /// Whether anything is asked about open work.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waits.is_empty()
            && self.system.is_none()
            && self.steps.is_none()
            && self.error.is_none()
    }

    /// Whether a case that has not begun can match: it has no work that could fit anything else.
    pub(super) fn queued(&self) -> bool {
        self.waits.contains(&Waiting::Queued)
            && self.system.is_none()
            && self.steps.is_none()
            && self.error.is_none()
    }

    /// The signs of what is waited for; none when that does not matter.
    pub(super) fn signs(&self) -> Option<Vec<&'static str>> {
        if self.waits.is_empty() {
            return None;
        }
        let signs = self.waits.iter().flat_map(|waiting| waiting.signs());
        Some(signs.copied().collect())
    }

    /// Whether work that fits is an instance that is not finished, or stuck: a case without either need not be
    /// looked into.
    pub(super) fn needs_unfinished(&self) -> bool {
        let timer = self.waits.is_empty() || self.waits.contains(&Waiting::Timer);
        self.system.is_some() || self.error.is_some() || !timer
    }

    /// What stands in the stored form of work on `system`, at whatever depth. The form is written by this program
    /// without spaces, and a quotation mark inside a text is escaped, so no text can look like it.
    pub(super) fn system_needle(system: &str) -> String {
        format!("\"system\":{}", serde_json::Value::from(system))
    }

    /// What stands in the stored form of work whose last failure is of a kind.
    pub(super) fn error_needle(kind: &str) -> String {
        format!("\"failure\":{{\"kind\":{}", serde_json::Value::from(kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for waiting in Waiting::ALL {
            assert_eq!(Waiting::parse(waiting.as_str()), Some(waiting));
        }
        assert_eq!(Waiting::parse("coffee"), None);
    }
}
