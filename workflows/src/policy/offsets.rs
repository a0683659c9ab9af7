//! How long before an end people are told of it.

use chrono::{DateTime, Utc};
use engine::core::duration::Span;
use serde_saphyr::Spanned;

use super::problem::{Problem, Problems};

/// The most notices of one end.
const NOTICES_MAX: usize = 10;
const DAY_S: u32 = 86_400;

/// The offsets of `part`, the longest first, each once; what is wrong with them goes to `problems`.
pub(super) fn compile(
    file: &str,
    part: &str,
    notices: &[Spanned<Span>],
    problems: &mut Problems,
) -> Vec<Span> {
    if notices.len() > NOTICES_MAX {
        problems.push(Problem::new(
            file,
            None,
            format!("`{part}.notices` has more than {NOTICES_MAX}"),
            "leave some out",
        ));
    }
    for offset in notices {
        if offset.value.ms() <= 0 || offset.value > Span::from_s(365 * DAY_S) {
            problems.push(Problem::new(
                file,
                at(offset),
                format!("a notice {} before the end", offset.value),
                "give up to `365d`",
            ));
        }
    }
    let mut offsets: Vec<Span> = notices.iter().map(|span| span.value).collect();
    offsets.sort_unstable_by(|a, b| b.cmp(a));
    offsets.dedup();
    offsets
}

/// When somebody is told of an end, each with how long before it that is, as seen at `now`: those that are still to come,
/// and of those whose time has passed the last. So who hears late of a near end hears once.
pub(super) fn told_before(
    offsets: &[Span],
    end: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Vec<(Span, DateTime<Utc>)> {
    if end <= now {
        return Vec::new();
    }
    let times = offsets.iter().map(|span| (*span, end - span.delta()));
    let (passed, mut told): (Vec<_>, Vec<_>) = times.partition(|(_, at)| *at <= now);
    if let Some((span, _)) = passed.last() {
        told.insert(0, (*span, now));
    }
    told
}

/// Where it stands, when it stands in the file.
pub(super) fn at<T>(spanned: &Spanned<T>) -> Option<(u64, u64)> {
    let line = spanned.defined.line();
    (line > 0).then(|| (line, spanned.defined.column()))
}
