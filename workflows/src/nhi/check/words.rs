//! Verdicts and reasons as people read them.

use std::fmt;

use super::{Gap, Reason, Verdict};

/// A moment as people read it.
pub(crate) const MINUTE: &str = "%Y-%m-%d %H:%M UTC";

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Proceed => "proceed",
            Self::Reassign => "reassign",
            Self::Rebind => "rebind",
            Self::RotateFirst => "rotate first",
            Self::SoftDisable => "disable and listen",
            Self::Block => "blocked",
            Self::InsufficientEvidence => "not enough evidence",
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owned => f.write_str("whoever leaves answers for it"),
            Self::Known => f.write_str("whoever leaves knows the secret"),
            Self::Minted { by } => write!(f, "made by {by}"),
            Self::Personal => f.write_str("of the person, and ends with them"),
            Self::Asked => f.write_str("asked about"),
            Self::InUse { by, seen } => write!(f, "used by {by}, last on {}", seen.date_naive()),
            Self::UsedOnce { by, seen } => {
                write!(
                    f,
                    "used by {by} until {}, too long ago to count",
                    seen.date_naive()
                )
            }
            Self::Unused { days } => write!(f, "watched for {days} days, and nothing used it"),
            Self::Soaked => f.write_str("out of use, and nothing missed it"),
            Self::Soaking { until } => {
                write!(f, "out of use, and watched until {}", until.format(MINUTE))
            }
            Self::NotCovered { gap } => write!(f, "{gap}"),
            Self::BreakGlass => f.write_str("the way in when everything else fails"),
            Self::NobodyLeft => f.write_str("nobody is left who answers for it"),
            Self::NotReplaceable => f.write_str("nothing can replace the secret"),
            Self::NotReversible => f.write_str("it cannot be put back, or nobody has tried"),
            Self::Cycle { with } => {
                f.write_str("each of these needs the others:")?;
                with.iter().try_for_each(|node| write!(f, " {node}"))
            }
            Self::TooMany { critical, most } => {
                write!(
                    f,
                    "{critical} critical things would change at once, of at most {most}"
                )
            }
            Self::Unknown => f.write_str("nothing else is known of it"),
        }
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NobodyLooks => f.write_str("nothing watches it"),
            Self::BlindSpot { source, what } => write!(f, "`{source}` does not see {what}"),
            Self::TooShort {
                source,
                days,
                wanted,
            } => {
                write!(f, "`{source}` has watched for {days} of {wanted} days")
            }
            Self::Stale { source, since } => {
                write!(f, "`{source}` has not looked since {}", since.date_naive())
            }
        }
    }
}
