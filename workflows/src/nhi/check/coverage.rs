//! How far "nobody uses it" can be believed.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::nhi::graph::Node;

/// For how long one source could see every use of one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    pub node: Node,
    /// What looks: an audit log, a last-used date, a scan.
    pub source: String,
    /// From when on it sees, and when it last looked.
    pub from: DateTime<Utc>,
    pub until: DateTime<Utc>,
    /// How late it learns of a use, in seconds.
    #[serde(default)]
    pub delay_s: u64,
    /// What it cannot see, in words. With any, it sees uses, and proves no silence.
    #[serde(default)]
    pub blind_spots: Vec<String>,
    /// Without it nothing can be said: it has to look before silence is believed.
    #[serde(default)]
    pub required: bool,
}

/// Why silence is not believed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "gap", rename_all = "snake_case")]
pub enum Gap {
    /// Nothing looks at it.
    NobodyLooks,
    /// A source sees only a part.
    BlindSpot { source: String, what: String },
    /// A source has not looked for long enough.
    TooShort {
        source: String,
        days: i64,
        wanted: i64,
    },
    /// A source has not looked lately.
    Stale {
        source: String,
        since: DateTime<Utc>,
    },
}

/// How old the last look of a source may be, beside its delay: older, and it says nothing about now.
const LOOKED_WITHIN_DAYS: i64 = 2;

impl Coverage {
    pub(super) fn of_day(&self) -> Value {
        serde_json::json!([
            self.node,
            self.source,
            self.from.date_naive(),
            self.until.date_naive(),
            self.delay_s,
            self.blind_spots,
            self.required
        ])
    }

    fn gap(&self, now: DateTime<Utc>, window: TimeDelta) -> Option<Gap> {
        let source = || self.source.clone();
        if let Some(what) = self.blind_spots.first() {
            let what = what.clone();
            return Some(Gap::BlindSpot {
                source: source(),
                what,
            });
        }
        let delay = i64::try_from(self.delay_s).unwrap_or(i64::MAX);
        let delay = TimeDelta::try_seconds(delay).unwrap_or(TimeDelta::MAX);
        let seen_until = self.until.checked_sub_signed(delay).unwrap_or(self.from);
        if now - seen_until > TimeDelta::days(LOOKED_WITHIN_DAYS).max(delay) {
            let since = seen_until;
            return Some(Gap::Stale {
                source: source(),
                since,
            });
        }
        let watched = seen_until - self.from;
        (watched < window).then(|| Gap::TooShort {
            source: source(),
            days: watched.num_days().max(0),
            wanted: window.num_days(),
        })
    }
}

/// Whether the sources that look at `node` could not have missed a use within `window`.
///
/// One source that sees everything is enough, unless another is required and has a gap of its own. `Ok` says for how many
/// days at least there was somebody looking.
pub(super) fn silence(
    node: &Node,
    coverage: &[Coverage],
    now: DateTime<Utc>,
    window: TimeDelta,
) -> Result<i64, Vec<Gap>> {
    let mut sees = false;
    let (mut required, mut others) = (Vec::new(), Vec::new());
    for looks in coverage.iter().filter(|looks| looks.node == *node) {
        match looks.gap(now, window) {
            None => sees = true,
            Some(gap) if looks.required => required.push(gap),
            Some(gap) => others.push(gap),
        }
    }
    if sees && required.is_empty() {
        return Ok(window.num_days());
    }
    required.append(&mut others);
    if required.is_empty() {
        required.push(Gap::NobodyLooks);
    }
    Err(required)
}
