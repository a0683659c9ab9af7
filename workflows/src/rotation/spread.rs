//! A fleet over a window, without a burst: as many in each part of it as in any other.
//!
//! Drawing for each alone leaves bursts: of a thousand draws over a hundred minutes some minute gets twenty. So each takes a place
//! of its own, in an order that looks random: the first place is the golden section of the window, and each is as much of it,
//! around its end, after the one before. Every so many of them that follow each other are spread as evenly as can be, so it says
//! nothing how many are planned together, and how many were planned before.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use engine::core::Timestamp;

use super::drawn;
use super::window::Open;

/// The larger part of the golden section, of 2^64.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// When each of `names` begins within a window in which `before` others begin already, in the order of the time. The same
/// names give the same times.
#[must_use]
pub fn spread<'a>(
    names: impl IntoIterator<Item = &'a str>,
    open: Open,
    before: u64,
) -> Vec<(Timestamp, &'a str)> {
    let begins = open.from.to_rfc3339();
    let ranked: BTreeSet<(u64, &str)> = names
        .into_iter()
        .map(|name| (drawn(&[name, &begins, "spread"]), name))
        .collect();
    let length = (open.until - open.from).num_microseconds().unwrap_or(0);
    let length = u128::try_from(length).unwrap_or(0);
    let at = |place: u64| {
        let part = u128::from(place.wrapping_mul(GOLDEN));
        let into = i64::try_from((length * part) >> 64).unwrap_or(0);
        open.from + TimeDelta::microseconds(into)
    };
    let mut times: Vec<(Timestamp, &str)> = (before.wrapping_add(1)..)
        .zip(ranked)
        .map(|(place, (_, name))| (at(place), name))
        .collect();
    times.sort_unstable();
    times
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    #[test]
    fn a_fleet_is_spread_evenly_whatever_its_size() {
        let open = Open {
            from: "2026-11-28T02:00:00Z".parse().unwrap(),
            until: "2026-11-28T06:00:00Z".parse().unwrap(),
        };
        for (count, together) in [
            (0, 1),
            (1, 1),
            (7, 7),
            (240, 240),
            (240, 1),
            (10_000, 10_000),
            (10_000, 500),
            (10_000, 1),
        ] {
            let names: Vec<String> = (0..count).map(|number| format!("db/{number}")).collect();
            let mut minutes = vec![0; 240];
            let (mut before, mut moments) = (0, BTreeSet::new());
            for part in names.chunks(together) {
                let times = spread(part.iter().map(String::as_str), open, before);
                assert_eq!(times.len(), part.len());
                before += u64::try_from(part.len()).unwrap();
                for (at, _) in &times {
                    assert!(*at >= open.from && *at < open.until);
                    assert!(moments.insert(*at), "two at the same moment");
                    minutes[usize::try_from((*at - open.from).num_minutes()).unwrap()] += 1;
                }
                let backwards = spread(
                    part.iter().rev().map(String::as_str),
                    open,
                    before - u64::try_from(part.len()).unwrap(),
                );
                assert_eq!(
                    backwards, times,
                    "the order in which they are named says nothing"
                );
            }
            let most = minutes.iter().max().copied().unwrap_or(0);
            assert!(
                most <= count / 240 + 3,
                "{count}, {together} together: {most} in one minute"
            );
        }
    }

    #[test]
    fn names_that_follow_each_other_do_not_begin_after_each_other() {
        let open = Open {
            from: "2026-11-28T02:00:00Z".parse().unwrap(),
            until: "2026-11-28T06:00:00Z".parse().unwrap(),
        };
        let names: Vec<String> = (100..200).map(|number| format!("db/{number}")).collect();
        let times = spread(names.iter().map(String::as_str), open, 0);
        let neighbours = times
            .windows(2)
            .filter(|pair| pair[0].1 < pair[1].1)
            .count();
        assert!((25..75).contains(&neighbours), "{neighbours}");
    }
}
