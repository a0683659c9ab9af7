//! When a credential is replaced next, and why then.
//!
//! 1. It is **due** when it becomes as old as it may, or so long before it expires, whichever comes first. Without a horizon
//!    one that expires is due when who issued it wishes (RFC 9773), or else when two thirds of its life are over. One that a
//!    system issues and that was never issued is due at once.
//! 2. The **jitter** takes it earlier, by an amount that follows from its name and its beginning: whoever computes it again
//!    gets the same, and never past what is due. What is wished is a time from and until: the draw is made over all of it.
//! 3. A **window** takes it to the time that is open then, or to the last before it if that is still to come, or to the next.
//!    What the next window would make later than the last moment before it expires does not wait for it, and the plan says so.
//! 4. One that failed is not tried again before its pause is over, which doubles.
//!
//! A compromise asks none of it but the last.

use chrono::TimeDelta;
use connectors::connector::RenewalWindow;
use engine::core::Timestamp;
use engine::core::duration::Span;
use serde::{Deserialize, Serialize};

use super::overlap::overlap;
use super::part_ms;
use super::settings::Rotation;
use super::window::Open;

/// The pauses after a rotation that did not get to its end.
const AGAIN_FIRST: TimeDelta = TimeDelta::hours(1);
const AGAIN_DOUBLED_MAX: u32 = 5;

/// What is known of a credential that decides when it is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Since when it is used: when it was replaced, issued, or declared.
    pub since: Timestamp,
    pub expires_at: Option<Timestamp>,
    /// When who issued it wishes it to be replaced.
    #[serde(default)]
    pub renewal: Option<RenewalWindow>,
    /// There is none yet: the first one has to be issued.
    #[serde(default)]
    pub first: bool,
    /// How often in a row replacing it did not get to its end, and when last.
    pub failures: u32,
    pub failed_at: Option<Timestamp>,
}

/// Why it is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Because {
    /// It became as old as it may.
    Age,
    /// It is going to expire.
    Expiry,
    /// Who issued it wishes it.
    Wished,
    /// There is none yet.
    First,
    /// Somebody asked for it.
    Asked,
    /// Strangers know it.
    Compromised,
}

impl Because {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::Expiry => "expiry",
            Self::Wished => "wished",
            Self::First => "first",
            Self::Asked => "asked",
            Self::Compromised => "compromised",
        }
    }
}

/// When it is replaced next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// When it begins.
    pub at: Timestamp,
    /// When it has to have begun by what is declared, before any draw.
    pub due_at: Timestamp,
    pub because: Because,
    /// How much earlier the draw took it.
    pub jitter: Span,
    /// The window it begins in, if there is one.
    pub window: Option<Open>,
    /// It could not wait for a window.
    pub past_window: bool,
}

/// Between which moments one may begin that begins in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub earliest: Timestamp,
    /// Later than this it would expire before both had worked long enough.
    pub latest: Option<Timestamp>,
}

impl Bounds {
    #[must_use]
    pub fn hold(&self, at: Timestamp) -> bool {
        at >= self.earliest && self.latest.is_none_or(|latest| at <= latest)
    }
}

/// Between which moments a rotation may begin.
#[must_use]
pub fn bounds(rotation: &Rotation, facts: &Facts, now: Timestamp) -> Bounds {
    Bounds {
        earliest: again(facts).map_or(now, |again| again.max(now)),
        latest: facts
            .expires_at
            .map(|expires| expires - overlap(&rotation.overlap).length.delta()),
    }
}

/// When a credential is replaced next; `None` when nothing says that it ever is.
///
/// `named` is its name, out of which the draws follow.
#[must_use]
pub fn plan(rotation: &Rotation, facts: &Facts, named: &str, now: Timestamp) -> Option<Planned> {
    let Due {
        at: due_at,
        because,
        drawn_from_ms,
    } = due(rotation, facts)?;
    let since = facts.since.to_rfc3339();
    let drawn = part_ms(drawn_from_ms, &[named, &since, "jitter"]);
    let jitter = Span::from_ms(u32::try_from(drawn).unwrap_or(u32::MAX));
    let wished = due_at - jitter.delta();
    let bounds = bounds(rotation, facts, now);
    let earliest = bounds.earliest;
    let mut planned = Planned {
        at: wished.max(earliest),
        due_at,
        because,
        jitter,
        window: None,
        past_window: false,
    };
    let Some(window) = &rotation.window else {
        return Some(planned);
    };
    let open = window
        .before(wished)
        .filter(|open| open.until > earliest)
        .or_else(|| window.at_or_after(planned.at));
    let begins = open.map(|open| {
        let length = (open.until - open.from).num_milliseconds();
        let into = part_ms(length, &[named, &since, "window"]);
        (open.from + TimeDelta::milliseconds(into)).max(earliest)
    });
    match (begins, open) {
        (Some(at), Some(open)) if bounds.hold(at) => {
            planned.at = at;
            planned.window = Some(open);
        }
        // A window that never comes again is none.
        _ => planned.past_window = true,
    }
    Some(planned)
}

/// When one begins whose credential strangers know: now, or when the pause after one that failed is over.
#[must_use]
pub fn at_once(facts: &Facts, known_at: Timestamp, now: Timestamp) -> Planned {
    Planned {
        at: again(facts).map_or(now, |again| again.max(now)),
        due_at: known_at,
        because: Because::Compromised,
        jitter: Span::from_ms(0),
        window: None,
        past_window: false,
    }
}

/// When something has to begin, before any draw.
struct Due {
    at: Timestamp,
    because: Because,
    /// How much earlier the draw may take it.
    drawn_from_ms: i64,
}

fn due(rotation: &Rotation, facts: &Facts) -> Option<Due> {
    let jitter_ms = rotation.jitter.map_or(0, Span::ms);
    let at = |at: Timestamp, because: Because| Due {
        at,
        because,
        drawn_from_ms: jitter_ms,
    };
    let age = rotation
        .every
        .and_then(|every| facts.since.checked_add_signed(every.delta()))
        .map(|due| at(due, Because::Age));
    // What a person declared goes before what an authority wishes, and that before a rule of thumb.
    let expiry = match (facts.expires_at, rotation.before_expiry, facts.renewal) {
        (Some(expires), Some(horizon), _) => Some(at(expires - horizon.delta(), Because::Expiry)),
        (_, None, Some(wish)) => Some(Due {
            at: wish.end,
            because: Because::Wished,
            drawn_from_ms: (wish.end - wish.start).num_milliseconds(),
        }),
        (Some(expires), None, None) => {
            let life = expires - facts.since;
            Some(at(expires - life / 3, Because::Expiry))
        }
        (None, _, _) => None,
    };
    let known = age.into_iter().chain(expiry).min_by_key(|due| due.at);
    // There is nothing that could be too old: the draw takes it later.
    known.or_else(|| {
        let first = facts.since + TimeDelta::milliseconds(jitter_ms);
        facts.first.then(|| at(first, Because::First))
    })
}

/// Before when one that failed is not tried again.
fn again(facts: &Facts) -> Option<Timestamp> {
    let doubled = facts.failures.checked_sub(1)?.min(AGAIN_DOUBLED_MAX);
    Some(facts.failed_at? + AGAIN_FIRST * (1 << doubled))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    fn at(text: &str) -> Timestamp {
        format!("{text}:00Z").parse().unwrap()
    }

    fn rotation(text: &str) -> Rotation {
        let text = format!("place: {{ system: s, bundle: b }}\nusers: [u]\n{text}");
        crate::policy::yaml::parse("t.yaml", &text).unwrap()
    }

    const SATURDAYS: &str = "window: { cron: \"0 2 * * SAT\", length: 4h, zone: UTC }\n";

    /// What is declared, since when, when it expires, now: when it begins (in a window: the window's beginning), and why.
    #[test]
    fn when_it_begins_and_why() {
        let (every, late) = ("every: 30d\n", "every: 30d\nbefore_expiry: 14d\n");
        for (declared, since, expires, now, begins) in [
            ("", "2026-11-01T00:00", None, "2026-11-02T00:00", "never"),
            (
                every,
                "2026-11-01T00:00",
                None,
                "2026-11-02T00:00",
                "2026-12-01T00:00 age",
            ),
            // Overdue: now.
            (
                every,
                "2026-11-01T00:00",
                None,
                "2027-01-02T00:00",
                "2027-01-02T00:00 age",
            ),
            // What expires sooner than it is old.
            (
                late,
                "2026-11-01T00:00",
                Some("2026-12-01T00:00"),
                "2026-11-02T00:00",
                "2026-11-17T00:00 expiry",
            ),
            (
                late,
                "2026-11-01T00:00",
                Some("2027-11-01T00:00"),
                "2026-11-02T00:00",
                "2026-12-01T00:00 age",
            ),
            // Without a horizon: when two thirds are over.
            (
                "",
                "2026-11-01T00:00",
                Some("2026-12-01T00:00"),
                "2026-11-02T00:00",
                "2026-11-21T00:00 expiry",
            ),
            // Expired already: now.
            (
                "",
                "2026-11-01T00:00",
                Some("2026-12-01T00:00"),
                "2027-02-02T00:00",
                "2027-02-02T00:00 expiry",
            ),
            // A window: the last before it is due. The 1st of December 2026 is a Tuesday.
            (
                "every: 30d\nWINDOW",
                "2026-11-01T00:00",
                None,
                "2026-11-02T00:00",
                "2026-11-28T02:00 age in window",
            ),
            // That one is over: the next, later than due.
            (
                "every: 30d\nWINDOW",
                "2026-11-01T00:00",
                None,
                "2026-11-29T00:00",
                "2026-12-05T02:00 age in window",
            ),
            // Expiry goes before the window: the last window is over, and the next comes too late.
            (
                "before_expiry: 4d\nWINDOW",
                "2026-11-01T00:00",
                Some("2026-12-04T00:00"),
                "2026-11-29T00:00",
                "2026-11-30T00:00 expiry past window",
            ),
            // In the next window it would expire before both had worked long enough.
            (
                "before_expiry: 4d\noverlap: { cache: 2d }\nWINDOW",
                "2026-11-01T00:00",
                Some("2026-12-06T00:00"),
                "2026-11-29T00:00",
                "2026-12-02T00:00 expiry past window",
            ),
            (
                "before_expiry: 4d\nWINDOW",
                "2026-11-01T00:00",
                Some("2026-12-06T00:00"),
                "2026-11-29T00:00",
                "2026-12-05T02:00 expiry in window",
            ),
        ] {
            let rotation = rotation(&declared.replace("WINDOW", SATURDAYS));
            let facts = Facts {
                since: at(since),
                expires_at: expires.map(at),
                renewal: None,
                first: false,
                failures: 0,
                failed_at: None,
            };
            let told = plan(&rotation, &facts, "db/password", at(now)).map_or(
                "never".to_owned(),
                |planned| {
                    let place = match (planned.window, planned.past_window) {
                        (Some(_), _) => " in window",
                        (None, true) => " past window",
                        (None, false) => "",
                    };
                    if let Some(open) = planned.window {
                        assert!(
                            planned.at >= open.from && planned.at < open.until,
                            "{planned:?}"
                        );
                    }
                    let begins = planned.window.map_or(planned.at, |open| open.from);
                    format!(
                        "{} {}{place}",
                        begins.format("%Y-%m-%dT%H:%M"),
                        planned.because.as_str()
                    )
                },
            );
            assert_eq!(told, begins, "{declared} {since} {expires:?} {now}");
        }
    }

    #[test]
    fn a_draw_is_made_once_and_never_makes_it_late() {
        let rotation = rotation("every: 30d\njitter: 10d\n");
        let facts = Facts {
            since: at("2026-11-01T00:00"),
            expires_at: None,
            renewal: None,
            first: false,
            failures: 0,
            failed_at: None,
        };
        let begins = |named: &str, now: &str| plan(&rotation, &facts, named, at(now)).unwrap().at;
        let (from, until) = (at("2026-11-21T00:00"), at("2026-12-01T00:00"));
        let mut days = [0; 10];
        for number in 0..1_000 {
            let named = format!("db/password:{number}");
            let drawn = begins(&named, "2026-11-02T00:00");
            assert!(drawn > from && drawn <= until, "{drawn}");
            assert_eq!(drawn, begins(&named, "2026-11-05T00:00"));
            let day = usize::try_from((drawn - from).num_days().min(9)).unwrap();
            days[day] += 1;
        }
        assert!(
            days.iter().all(|count| (60..150).contains(count)),
            "{days:?}"
        );
    }

    /// What is declared, what the authority wishes, whether there is one: between when and when it begins, and why.
    #[test]
    fn what_the_authority_wishes_is_followed_unless_a_person_said_otherwise() {
        let wish = Some(("2026-11-12T00:00", "2026-11-14T00:00"));
        for (declared, wish, expires, first, from, until, because) in [
            (
                "",
                wish,
                Some("2026-12-01T00:00"),
                false,
                "2026-11-12T00:00",
                "2026-11-14T00:00",
                "wished",
            ),
            // It need not say when it expires.
            (
                "jitter: 1h\n",
                wish,
                None,
                false,
                "2026-11-12T00:00",
                "2026-11-14T00:00",
                "wished",
            ),
            (
                "before_expiry: 14d\n",
                wish,
                Some("2026-12-01T00:00"),
                false,
                "2026-11-17T00:00",
                "2026-11-17T00:00",
                "expiry",
            ),
            (
                "every: 7d\n",
                wish,
                Some("2026-12-01T00:00"),
                false,
                "2026-11-08T00:00",
                "2026-11-08T00:00",
                "age",
            ),
            // It wants it back at once.
            (
                "",
                Some(("2026-10-01T00:00", "2026-10-02T00:00")),
                Some("2026-12-01T00:00"),
                false,
                "2026-11-02T00:00",
                "2026-11-02T00:00",
                "wished",
            ),
            // There is none: now, or as late as the draw says.
            (
                "",
                None,
                None,
                true,
                "2026-11-02T00:00",
                "2026-11-02T00:00",
                "first",
            ),
            (
                "jitter: 5d\n",
                None,
                None,
                true,
                "2026-11-02T00:00",
                "2026-11-06T00:00",
                "first",
            ),
            (
                "every: 7d\n",
                None,
                None,
                true,
                "2026-11-08T00:00",
                "2026-11-08T00:00",
                "age",
            ),
        ] {
            let rotation = rotation(declared);
            let facts = Facts {
                since: at("2026-11-01T00:00"),
                expires_at: expires.map(at),
                renewal: wish.map(|(start, end): (&str, &str)| RenewalWindow {
                    start: at(start),
                    end: at(end),
                }),
                first,
                failures: 0,
                failed_at: None,
            };
            let mut begin: Vec<Timestamp> = Vec::new();
            for number in 0..200 {
                let named = format!("ca/{number}");
                let planned = plan(&rotation, &facts, &named, at("2026-11-02T00:00")).unwrap();
                assert_eq!(planned.because.as_str(), because, "{declared} {wish:?}");
                assert!(
                    (at(from)..=at(until)).contains(&planned.at),
                    "{declared} {wish:?}: {planned:?}"
                );
                begin.push(planned.at);
            }
            begin.sort_unstable();
            begin.dedup();
            // A time from and until is used from beginning to end.
            assert!(
                from == until || begin.len() > 100,
                "{declared} {wish:?}: {}",
                begin.len()
            );
        }
    }

    #[test]
    fn what_failed_is_tried_again_after_longer_and_longer() {
        let rotation = rotation("every: 1d\n");
        for (failures, hours) in [(0, 0), (1, 1), (2, 2), (3, 4), (6, 32), (60, 32)] {
            let facts = Facts {
                since: at("2026-11-01T00:00"),
                expires_at: None,
                renewal: None,
                first: false,
                failures,
                failed_at: Some(at("2026-11-26T00:00")),
            };
            let begins = plan(&rotation, &facts, "x", at("2026-11-26T00:00"))
                .unwrap()
                .at;
            assert_eq!(
                begins,
                at("2026-11-26T00:00") + TimeDelta::hours(hours),
                "{failures}"
            );
        }
    }
}
